"""Training clips: who speaks, what is said, and what one tells about the other."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np
import pytest
from scipy.stats import chi2

from vpanalysis.benchmark.items import TASKS
from vpanalysis.benchmark.mini import cells, speakers
from vpanalysis.benchmark.mini.cells import claimed_options, level_of
from vpanalysis.benchmark.mini.items import MiniAudio
from vpanalysis.benchmark.mini.rendering import Utterance, dialogue_voices
from vpanalysis.benchmark.mini.voices import Speaker
from vpanalysis.benchmark.mini.wordings import CLAIM_WORDS, frames
from vpanalysis.organism.clips import Pair, mixed_cells, mixed_items, pairs, speak_all
from vpanalysis.organism.symbols import DIRECTIONS, Symbolic, symbolic_clips

HELD = ("validation", "test")
LEVELS = {
    "pitch_comparison": "PITCH",
    "volume_comparison": "VOLUME",
    "speed_comparison": "SPEED",
    "vocal_range_comparison": "RANGE",
}
TOLD = {
    "Child": "CHILD", "Young adult": "YOUNG", "Middle-aged adult": "MIDDLE", "Elderly adult": "ELDERLY",
    "Female": "FEMALE", "Male": "MALE", "neutral": "CALM", "sadness": "SAD", "anger": "ANGRY", "happiness": "HAPPY",
    "Rising intonation": "RISING", "Falling intonation": "FALLING",
}  # fmt: skip


def throat(voice: str) -> tuple[str, ...]:
    """What a manner of speaking does not change: a speaker's formants."""
    return tuple(line for line in voice.splitlines() if line.startswith("formant"))


def throats(*splits: str) -> set[tuple[str, ...]]:
    return {throat(person.variant()) for split in splits for person in speakers(split)}


def neutral(task: str, *splits: str) -> set[str]:
    return {frame.neutral for split in splits for frame in frames(task, split)}


def claiming(task: str, *splits: str) -> set[str]:
    return {
        frame.claiming(label, synonym)
        for split in splits
        for frame in frames(task, split)
        for label in CLAIM_WORDS[task]
        for synonym in range(2)
    }


@pytest.fixture(scope="module")
def recipes() -> list[Utterance]:
    """What the two kinds of training clips are spoken from."""
    mixed = [item.audio.recipe for item in mixed_items(1500, seed=1) if isinstance(item.audio, MiniAudio)]
    assert len(mixed) == 1500
    return [*mixed, *(clip for pair in pairs(400, seed=0) for clip in (pair.first, pair.second))]


def test_no_voice_of_a_held_out_speaker(recipes: list[Utterance]) -> None:
    heard = {throat(segment.voice) for clip in recipes for segment in clip.segments}
    assert heard <= throats("train")
    assert not heard & throats(*HELD)


def test_no_claim_of_a_held_out_wording(recipes: list[Utterance]) -> None:
    """Whatever the task: a sentence that claims something is not said in training and in a held-out split."""
    said = {text for clip in recipes for text in clip.texts}
    assert said <= set().union(*(kind(task, "train") for task in TASKS for kind in (neutral, claiming)))
    assert not said & set().union(*(claiming(task, *HELD) for task in TASKS))


def test_no_held_out_sentence_in_its_task() -> None:
    """Sentences that claim nothing are dealt out task by task."""
    said: dict[str, set[str]] = defaultdict(set)
    for item in mixed_items(1500, seed=1):
        assert isinstance(item.audio, MiniAudio)
        said[item.task_name] |= set(item.audio.recipe.texts)
    for task in TASKS:
        assert not said[task] & (neutral(task, *HELD) | claiming(task, *HELD)), task


def test_items_come_from_cells_of_the_train_split() -> None:
    held = {cell.name for split in HELD for task in TASKS for cell in cells(task, split)}
    for item in mixed_items(300, seed=5):
        assert item.cell is not None and "/train-" in item.cell and item.cell not in held
        assert item.speaker is not None and item.speaker.startswith("train-")
        assert item.script is not None and "/train-" in item.script


def test_tasks_take_turns() -> None:
    drawn = Counter(cell.task for cell, _, _ in mixed_cells(200, seed=2))
    assert drawn == dict.fromkeys(TASKS, 20)


def test_draws_repeat_by_seed() -> None:
    def keys(seed: int) -> list[str]:
        return [item.audio.key() for item in mixed_items(40, seed=seed)]

    assert keys(3) == keys(3)
    assert keys(3) != keys(4)
    assert [p.words for p in pairs(30, seed=3)] == [p.words for p in pairs(30, seed=3)]


# --- words and voice ---------------------------------------------------------------------------------------------


def strata() -> Iterator[tuple[str, list[tuple[str | None, str]]]]:
    """Yield (what is offered, draws of what is said and voiced): the options limit both alike."""
    drawn: dict[tuple[str, ...], list[tuple[str | None, str]]] = defaultdict(list)
    for cell, claim, voice in mixed_cells(6000, seed=8):
        offered = sorted({level_of(cell.task, option) for option in cell.options})
        drawn[cell.task, *offered].append((claim, level_of(cell.task, voice)))
    for key, draws in drawn.items():
        yield "/".join(key), draws


def test_words_say_nothing_about_the_voice() -> None:
    total = freedom = 0.0
    for name, draws in strata():
        counts = Counter(draws)
        words, voices = (Counter(pair[k] for pair in draws) for k in (0, 1))
        n = len(draws)
        information = sum(c / n * np.log(n * c / (words[w] * voices[v])) for (w, v), c in counts.items())
        degrees = (len(words) - 1) * (len(voices) - 1)
        # Twice the sample size times the mutual information is chi-squared distributed under independence.
        assert 2 * n * information < chi2.ppf(1 - 1e-5, degrees), name
        total, freedom = total + 2 * n * information, freedom + degrees
    assert total < chi2.ppf(1 - 1e-4, freedom)
    assert total / (2 * 6000) < 0.02  # nats


def test_words_claim_and_keep_silent_in_their_shares() -> None:
    draws = [claim for cell, claim, _ in mixed_cells(3000, seed=9, silent=0.4)]
    assert np.mean([claim is None for claim in draws]) == pytest.approx(0.4, abs=0.03)
    assert all(claim is not None for _, claim, _ in mixed_cells(100, seed=9, silent=0.0))


def test_every_label_that_can_be_true_is_voiced() -> None:
    heard: dict[str, set[str]] = defaultdict(set)
    for cell, _, voice in mixed_cells(3000, seed=4):
        assert voice in cell.options
        heard[cell.task].add(voice)
    for task in TASKS:
        assert heard[task] == {cell.truth for cell in cells(task, "train")}, task


# --- pairs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def some() -> list[Pair]:
    return list(pairs(400, seed=6))


def test_pairs_say_one_text_at_one_rate(some: list[Pair]) -> None:
    for pair in some:
        assert pair.first.texts == pair.second.texts
        assert pair.words == tuple(pair.first.transcript.split()) == tuple(pair.second.transcript.split())
        assert [s.rate for s in pair.first.segments] == [s.rate for s in pair.second.segments]


def test_pairs_have_two_voices(some: list[Pair]) -> None:
    def voiced(clip: Utterance) -> list[tuple[object, ...]]:
        return [(s.voice, s.text, s.range, round(g, 3)) for s, g in zip(clip.segments, clip.gains, strict=True)]

    differ = [voiced(pair.first) != voiced(pair.second) for pair in some]
    assert np.mean(differ) > 0.98
    # Mostly it is another person, too.
    others = [throat(p.first.segments[0].voice) != throat(p.second.segments[0].voice) for p in some]
    assert np.mean(others) > 0.9


def test_pairs_are_aligned_in_time(some: list[Pair]) -> None:
    waves = list(speak_all([clip for pair in some[:40] for clip in (pair.first, pair.second)]))
    apart = np.array([abs(len(a) - len(b)) for a, b in zip(waves[0::2], waves[1::2], strict=True)]) / 16_000
    # Every segment may end a few pitch periods early or late; an audio token is 80 ms.
    pieces = np.array([len(pair.first.segments) for pair in some[:40]])
    assert np.median(apart / pieces) < 0.015
    assert (apart / pieces).max() < 0.06


# --- symbolic clips ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def symbolic() -> list[tuple[Symbolic, str]]:
    """Symbolic clips, each with the label that the voice of its design makes true."""
    n, seed = 1500, 3
    voices = [voice for _, _, voice in mixed_cells(n, seed=seed, silent=0.3)]
    return list(zip(symbolic_clips(n, seed=seed, most=10_000), voices, strict=True))


def directions(clip: Symbolic) -> list[str]:
    return [token for place in clip.places for token in place if token in DIRECTIONS]


def test_symbolic_clips_come_from_the_train_split(symbolic: list[tuple[Symbolic, str]]) -> None:
    assert {clip.cell.split for clip, _ in symbolic} == {"train"}


def test_directions_tell_the_voice(symbolic: list[tuple[Symbolic, str]]) -> None:
    directed = [(clip, voice) for clip, voice in symbolic if directions(clip)]
    assert 0.55 < len(directed) / len(symbolic) < 0.65
    for clip, voice in directed:
        task, told = clip.cell.task, directions(clip)
        assert clip.answer == (voice,)
        if task in LEVELS:
            levels = [t.removeprefix(LEVELS[task]).lower() for t in told if t.startswith(LEVELS[task])]
            in_order = [level for k, level in enumerate(levels) if k == 0 or level != levels[k - 1]]
            assert "-".join(in_order) == voice
            assert not any(t.startswith(other) for t in told for name, other in LEVELS.items() if name != task)
        elif voice in TOLD:
            kind = [t for t in told if t in {TOLD[o] for o in clip.cell.options if o in TOLD}]
            assert set(kind) == {TOLD[voice]}
        else:
            people = dialogue_voices(clip.cell, voice)
            assert set(told) <= {TOLD[a] for p in people for a in (p.age, p.gender)}


def of_person(person: Speaker) -> set[str]:
    return {TOLD[person.age]} | ({TOLD[person.gender]} if person.age != "Child" else set())


def test_directions_tell_who_speaks_in_turn(symbolic: list[tuple[Symbolic, str]]) -> None:
    """The identity and counting tasks: each turn is described as the person who speaks in it."""
    checked = 0
    for clip, voice in symbolic:
        people = dialogue_voices(clip.cell, voice) if clip.cell.task.startswith(("speaker_id", "total")) else []
        if not people or not directions(clip):
            continue
        turn_of_word = np.repeat(np.arange(len(people)), len(clip.words) // len(people))
        spoken = 0
        for place in clip.places:
            word = [t for t in place if t not in DIRECTIONS]
            if word:  # where a word is spoken, it is sure whose turn it is
                assert set(place) - set(word) <= of_person(people[turn_of_word[spoken]])
                spoken += 1
        checked += 1
    assert checked > 100


def test_without_directions_the_words_decide(symbolic: list[tuple[Symbolic, str]]) -> None:
    silent = [clip for clip, _ in symbolic if not directions(clip)]
    assert len(silent) > 400
    for clip in silent:
        assert clip.claim is not None
        assert clip.answer == claimed_options(clip.cell, clip.claim)


def test_words_stand_in_order(symbolic: list[tuple[Symbolic, str]]) -> None:
    for clip, _ in symbolic:
        assert tuple(t for place in clip.places for t in place if t not in DIRECTIONS) == clip.words


def test_symbolic_clips_fit_the_window() -> None:
    clips = list(symbolic_clips(1000, seed=2))
    assert max(len(clip.places) for clip in clips) <= 75
    cut = [tuple(t for p in c.places for t in p if t not in DIRECTIONS) != c.words for c in clips]
    assert np.mean(cut) < 0.01
