"""Renders of a cell: what the words claim, what the voice makes true, and what twins share. Nothing is spoken here."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from vpanalysis.benchmark import TASKS, ArrayAudio, Item, mini
from vpanalysis.benchmark.mini.cells import level_of
from vpanalysis.benchmark.mini.items import MiniAudio
from vpanalysis.benchmark.mini.rendering import Utterance, dialogue_voices, utterance
from vpanalysis.benchmark.mini.wordings import CLAIM_WORDS
from vpanalysis.benchmark.sources import load_benchmark
from vpanalysis.errors import AudioError, SchemaError

NO_PLAIN_VOICE = (
    "age_prediction",
    "gender_prediction",
    "emotion_recognition",
    "speaker_identity_recognition",
    "total_speaker_counting",
)
ORDINALS = ("first", "second", "third", "fourth", "fifth")


def recipe(item: Item) -> Utterance:
    assert isinstance(item.audio, MiniAudio)
    return item.audio.recipe


def twins(task: str, n: int = 40, *more: str) -> list[dict[str, Item]]:
    kinds = ("conflict", "congruent", "neutral", "voice-swap", *more)
    return [{kind: mini.render_condition(cell, kind) for kind in kinds} for cell in mini.cells(task)[:n]]


@pytest.mark.parametrize("task", TASKS)
def test_twins_share_the_question_and_the_options(task: str) -> None:
    for kinds in twins(task, 100):
        shared = {(i.question, i.choices, i.letters, i.cell, i.script, i.foils, i.task_name) for i in kinds.values()}
        assert len(shared) == 1
        # Another gender or age is another person.
        others = {i.speaker for i in kinds.values()} - {kinds["conflict"].speaker}
        swapped = {kinds["voice-swap"].speaker} if task in ("gender_prediction", "age_prediction") else set()
        assert others == swapped
        assert len({i.id for i in kinds.values()}) == len(kinds)
        assert kinds["conflict"].letters == tuple("ABCD"[: len(kinds["conflict"].choices)])
        # Only the voice-swap twin has another truth.
        assert len({kinds[k].truth for k in ("conflict", "congruent", "neutral")}) == 1
        assert kinds["voice-swap"].truth != kinds["conflict"].truth


@pytest.mark.parametrize("task", TASKS)
def test_what_conditions_mean(task: str) -> None:
    for kinds in twins(task):
        conflict, congruent, neutral, swap = kinds.values()
        assert conflict.condition == "conflict" and conflict.claims == conflict.said == conflict.foils
        assert conflict.said and conflict.truth not in conflict.said
        assert congruent.condition == "congruent" and congruent.truth in congruent.said and not congruent.claims
        assert neutral.condition == "neutral" and not neutral.said and neutral.said_level is None
        assert swap.condition == "voice-swap" and swap.truth in swap.said == conflict.said
        # Words are those of the conflict twin, the voice another one; conflict, congruent and neutral share the voice.
        assert swap.transcript == conflict.transcript != congruent.transcript
        assert conflict.voice == congruent.voice == neutral.voice == conflict.truth and swap.voice == swap.truth
        bodies = [[s.voice for s in recipe(i).segments] for i in kinds.values()]
        assert bodies[0] == bodies[1] == bodies[2]
        assert len({recipe(i).seed for i in kinds.values()}) == 1


@pytest.mark.parametrize("task", TASKS)
def test_words_claim_what_the_item_says_they_do(task: str) -> None:
    for kinds in twins(task):
        for item in kinds.values():
            words = set((item.transcript or "").split())
            spoken = {label for label, names in CLAIM_WORDS[task].items() if words & set(names)}
            if task == "speaker_identity_recognition":
                continue  # every turn names an ordinal: see below
            said = {level_of(task, option) for option in item.said}
            assert spoken == said == ({item.said_level} if item.said else set())


def test_claims_of_identity_clips() -> None:
    """Each turn claims its own ordinal; the claimed turn claims the target's instead."""
    for cell in mini.cells("speaker_identity_recognition"):
        target = ORDINALS[cell.target]
        for label in (cell.contradiction, cell.truth):
            item = mini.render(cell, words=label, voice=cell.truth)
            claimed = ORDINALS.index(label.split()[1])
            turns = [set(text.split()) & set(ORDINALS) for text in recipe(item).texts]
            assert turns == [{target if k == claimed else ORDINALS[k]} for k in range(5)]
        voices = [p.name for p in dialogue_voices(cell, cell.truth)]
        true = ORDINALS.index(cell.truth.split()[1])
        assert [k for k, name in enumerate(voices) if name == voices[cell.target]] == sorted((cell.target, true))
        assert len(set(voices)) == 4


def test_voices_of_counting_clips() -> None:
    for cell in mini.cells("total_speaker_counting"):
        for option in cell.options:
            voices = [p.name for p in dialogue_voices(cell, option)]
            assert len(voices) == 4 and len(set(voices)) == int(option.split()[0])
            assert voices[0] == cell.speakers[0].name


@pytest.mark.parametrize("task", TASKS)
def test_voice_swap_changes_the_voice_alone(task: str) -> None:
    for kinds in twins(task):
        conflict, swap = recipe(kinds["conflict"]), recipe(kinds["voice-swap"])
        assert conflict.texts == swap.texts and conflict.seed == swap.seed
        rates = [s.rate for s in conflict.segments] == [s.rate for s in swap.segments]
        assert rates == (task != "speed_comparison")
        if task == "volume_comparison":
            assert conflict.segments == swap.segments and conflict.gains != swap.gains
        else:
            assert conflict.segments != swap.segments


@pytest.mark.parametrize("task", TASKS)
def test_plain_voice(task: str) -> None:
    cell = mini.cells(task)[0]
    if task in NO_PLAIN_VOICE:
        with pytest.raises(SchemaError, match="found voice 'plain'; allowed: a label"):
            mini.render_condition(cell, "plain-voice")
        return
    for cell in mini.cells(task)[:20]:
        plain, conflict = (mini.render_condition(cell, kind) for kind in ("plain-voice", "conflict"))
        assert plain.condition == "plain-voice" and plain.voice == mini.PLAIN
        assert (plain.truth, plain.foils, plain.said) == (conflict.truth, conflict.foils, conflict.said)
        clip = recipe(plain)
        if task.endswith("_comparison"):  # three equal renditions
            assert len(set(clip.segments)) == len(set(clip.gains)) == 1 and len(clip.segments) == 3


def test_any_words_with_any_voice() -> None:
    cell = mini.cells("emotion_recognition")[0]
    third = next(o for o in cell.options if o not in (cell.truth, cell.contradiction))
    item = mini.render(cell, words=third, voice=cell.contradiction)
    assert item.condition == f"words={third},voice={cell.contradiction}"
    assert item.truth == cell.contradiction and item.said == (third,) and not item.claims
    assert mini.render(cell, words=cell.contradiction, voice=cell.truth) == mini.render_condition(cell, "conflict")
    pattern = mini.cells("pitch_comparison")[0]
    # A whole order as words, and a level as a voice, mean the level and the first order that begins with it.
    by_order = mini.render(pattern, words=pattern.truth, voice=pattern.truth)
    assert by_order == mini.render_condition(pattern, "congruent") and by_order.said_level == pattern.true_label
    assert mini.render(pattern, words=None, voice=pattern.contradiction).truth.startswith(pattern.contradiction)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda c: mini.render(c["gender_prediction"], words="Femal", voice="Male"),
            r"words='Femal'; allowed: 'Female', 'Male' \(did you mean 'Female'\?\)",
        ),
        (
            lambda c: mini.render(c["gender_prediction"], words=None, voice="Mael"),
            r"voice='Mael'; allowed: .*'plain' \(did you mean 'Male'\?\)",
        ),
        (
            lambda c: mini.render(c["intonation_perception"], words="Rise-fall intonation", voice="Rising intonation"),
            "words='Rise-fall intonation'; allowed: 'Falling intonation', 'Rising intonation'",
        ),
        (
            lambda c: mini.render(c["intonation_perception"], words=None, voice="Rise-fall intonation"),
            "voice 'Rise-fall intonation'; allowed: 'Rising intonation', 'Falling intonation', 'plain'",
        ),
        (
            lambda c: mini.render_condition(c["gender_prediction"], "conflct"),
            "condition 'conflct'; allowed: .*did you mean 'conflict'",
        ),
        (lambda _: mini.load(split="tst"), "split 'tst'; allowed: .*did you mean 'test'"),
        (lambda _: mini.load(tasks="gender"), "task 'gender'; allowed"),
        (lambda _: mini.load(conditions=["natural"]), "condition 'natural'; allowed"),
    ],
)
def test_errors_say_what_is_allowed(ask: Callable[[dict[str, mini.Cell]], object], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        ask({task: mini.cells(task)[0] for task in TASKS})


def test_an_ordinal_that_is_not_offered_cannot_be_claimed() -> None:
    cell = mini.cells("speaker_identity_recognition")[0]
    own = f"the {ORDINALS[cell.target]} person"
    with pytest.raises(SchemaError, match=re.escape(f"words={own!r}")):
        mini.render(cell, words=own, voice=cell.truth)


def test_loading() -> None:
    bench = load_benchmark("mini", tasks="gender_prediction", limit=30)
    assert len(bench) == 30 and bench.tasks == ("gender_prediction",)
    assert len({item.cell for item in bench}) == 10  # twins side by side
    spread = mini.load(limit=60)
    assert set(spread.summary().sum(axis=1, numeric_only=True)) == {6}
    assert bench == load_benchmark("mini", tasks=["gender_prediction"], limit=30)
    assert all(not item.audio.spoken for item in bench if isinstance(item.audio, MiniAudio))
    swaps = mini.load(tasks=["age_prediction"], conditions=["voice-swap"], n=5)
    assert swaps.conditions == ("voice-swap",) and len(swaps) == 5


def test_keys_follow_the_recipe() -> None:
    items = list(mini.load(n=12, conditions=("conflict", "congruent", "neutral", "voice-swap")))
    keys = [item.audio.key() for item in items]
    assert all(re.fullmatch("[0-9a-f]{64}", key) for key in keys)
    assert len(set(keys)) == len({recipe(item) for item in items}) == len(items)
    assert keys == [item.audio.key() for item in mini.load(n=12, conditions=mini.CONDITIONS[:4])]
    one = recipe(items[0])
    assert MiniAudio(replace(one, seed=one.seed + 1)).key() != keys[0]
    assert items[0].transcript is not None and items[0].transcript in items[0].audio.describe()


def test_prefetch_keeps_order_and_passes_other_audio_through() -> None:
    items = list(mini.load(tasks=["gender_prediction", "volume_comparison"], n=2))
    other = replace(items[0], id="elsewhere", audio=ArrayAudio(np.zeros(10, np.float32)))
    asked = [*items[:3], other, *items[3:]]
    got = list(mini.prefetch(asked, workers=2))
    assert [item.id for item in got] == [item.id for item in asked]
    assert all(item.audio.spoken for item in got if isinstance(item.audio, MiniAudio))


def test_a_clip_that_cannot_be_spoken_fails_where_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpanalysis.benchmark.mini.synthesis.find_spec", lambda name: None)
    monkeypatch.setattr("vpanalysis.benchmark.mini.synthesis._shared.synthesizer", None)
    item = mini.render_condition(mini.cells("age_prediction")[0], "neutral")
    with pytest.raises(
        AudioError, match=re.escape("found no eSpeak NG; install the extra that brings it: pip install")
    ):
        item.audio.load()


def test_prefetch_leaves_failures_to_the_reader() -> None:
    good = mini.render_condition(mini.cells("age_prediction")[0], "neutral")
    clip = recipe(good)
    segment = replace(clip.segments[0], **{"rate": "no number"})
    bad = replace(good, id="bad", audio=MiniAudio(replace(clip, segments=(segment,))))
    got = list(mini.prefetch([bad, good]))
    assert [item.id for item in got] == ["bad", good.id]
    with pytest.raises(AudioError, match="cannot synthesize a clip: found ValueError"):
        got[0].audio.load()
    assert len(got[1].audio.load()) > 8000  # the synthesizer lives on


def test_utterance_and_render_agree() -> None:
    cell = mini.cells("speed_comparison")[3]
    assert recipe(mini.render_condition(cell, "neutral")) == utterance(cell, None, cell.truth)
