"""What VoxParadox-mini asks: official texts, balanced designs, splits that share nothing but the language."""

from __future__ import annotations

import doctest
import importlib
import itertools
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpanalysis.benchmark import TASKS, mini
from vpanalysis.benchmark.mini.cells import ORDERS, claimed_options, level_of
from vpanalysis.benchmark.mini.voices import AGES, GENDERS, speakers
from vpanalysis.benchmark.mini.wordings import CLAIM_WORDS, LEVELS, frames, vocabulary
from vpanalysis.errors import SchemaError

SPLITS = ("train", "validation", "test")
PATTERNS = ("pitch_comparison", "volume_comparison", "speed_comparison", "vocal_range_comparison")

# Written out by hand: the module under test must not be its own witness.
QUESTIONS = {
    "age_prediction": "What is the most likely age group of the speaker in the audio?",
    "gender_prediction": "What is the speaker's gender?",
    "emotion_recognition": "How does the speaker feel in the recording?",
    "pitch_comparison": "Which pitch pattern best matches the audio?",
    "volume_comparison": "Which volume pattern best matches the audio?",
    "speed_comparison": "Which speed pattern best matches the audio?",
    "vocal_range_comparison": "Which vocal range pattern best matches the audio?",
    "intonation_perception": "What is the intonation of the entire sentence in the audio?",
    "total_speaker_counting": "How many different speakers are in the audio?",
}
OPTIONS = {
    "age_prediction": {"Child", "Young adult", "Middle-aged adult", "Elderly adult"},
    "gender_prediction": {"Female", "Male"},
    "emotion_recognition": {"neutral", "sadness", "anger", "happiness"},
    "intonation_perception": {
        "Rising intonation",
        "Falling intonation",
        "Rise-fall intonation",
        "Fall-rise intonation",
    },
    "total_speaker_counting": {"1 person", "2 people", "3 people", "4 people"},
}
ORDINALS = ("first", "second", "third", "fourth", "fifth")


def test_the_ten_official_tasks() -> None:
    assert set(mini.QUESTIONS) == set(TASKS) == {*QUESTIONS, "speaker_identity_recognition"}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("task", TASKS)
def test_questions_and_options_are_the_official_ones(task: str, split: str) -> None:
    for cell in mini.cells(task, split):
        if task in QUESTIONS:
            assert cell.question == QUESTIONS[task]
        if task in OPTIONS:
            assert set(cell.options) == OPTIONS[task]
        elif task in PATTERNS:
            assert set(cell.options) <= {"-".join(p) for p in itertools.permutations(("high", "medium", "low"))}
        else:
            target = cell.target + 1
            assert cell.question == f"Which speaker clip belongs to the same person as speaker clip {target}?"
            assert set(cell.options) == {f"the {o} person" for o in ORDINALS} - {f"the {ORDINALS[cell.target]} person"}
        assert len(cell.options) == (2 if task == "gender_prediction" else 4) == len(set(cell.options))


@pytest.mark.parametrize("task", PATTERNS)
def test_pattern_options_favour_neither_twin(task: str) -> None:
    for cell in mini.cells(task):
        assert not cell.truth.startswith(cell.contradiction)
        starts = Counter(option.split("-")[0] for option in cell.options)
        assert starts == {cell.true_label: 2, cell.contradiction: 2}
        assert len(claimed_options(cell, cell.contradiction)) == len(claimed_options(cell, cell.true_label)) == 2


def test_default_sizes() -> None:
    assert {split: len(mini.cells("age_prediction", split)) for split in SPLITS} == mini.CELLS_PER_TASK
    assert all(len(mini.cells(task)) == 100 for task in TASKS)
    bench = mini.load()
    assert len(bench) == 3000 and bench.tasks == TASKS and bench.conditions == ("conflict", "congruent", "neutral")
    assert len(mini.load(n=7, tasks="age_prediction")) == 21
    assert mini.cells("age_prediction", "test", 0) == ()


@pytest.mark.parametrize("task", TASKS)
def test_truth_and_contradiction_are_balanced(task: str) -> None:
    cells = mini.cells(task)
    pairs = Counter((cell.truth, cell.contradiction) for cell in cells)
    assert all(level_of(task, truth) != claim for truth, claim in pairs)
    if task == "speaker_identity_recognition":  # 60 designs with the target: each once or twice
        designs = Counter((cell.target, cell.truth, cell.contradiction) for cell in cells)
        assert len(designs) == 60 and max(designs.values()) - min(designs.values()) <= 1
    else:
        assert max(pairs.values()) - min(pairs.values()) <= 1
    # Where the truth stands among the letters says nothing: four standard errors.
    slots = Counter(cell.options.index(cell.truth) for cell in cells)
    share = 1 / len(cells[0].options)
    assert all(abs(slots[k] / 100 - share) < 4 * (share * (1 - share) / 100) ** 0.5 for k in range(round(1 / share)))


def test_splits_share_no_speaker() -> None:
    names = {s: {p.name for p in speakers(s)} for s in SPLITS}
    bodies = {s: {p.variant() for p in speakers(s)} for s in SPLITS}
    for a, b in itertools.combinations(SPLITS, 2):
        assert not names[a] & names[b] and not bodies[a] & bodies[b]
    for split in SPLITS:
        heard = {p.name for task in TASKS for cell in mini.cells(task, split) for p in cell.speakers}
        assert heard <= names[split]
        assert len(bodies[split]) == len(names[split])


def test_enough_test_speakers_are_really_heard() -> None:
    heard = {p.name for task in TASKS for cell in mini.cells(task) for p in cell.speakers}
    assert len(heard) >= 48
    for task in TASKS:
        assert len({cell.speakers[0].name for cell in mini.cells(task)}) >= 32, task


def test_speakers_are_balanced() -> None:
    for split in SPLITS:
        kinds = Counter((p.gender, p.age) for p in speakers(split))
        assert set(kinds) == set(itertools.product(GENDERS, AGES)) and len(set(kinds.values())) == 1


@pytest.mark.parametrize("task", TASKS)
def test_wordings_are_disjoint_but_their_words_are_known(task: str) -> None:
    said = {s: {f.template for f in frames(task, s)} | {f.neutral for f in frames(task, s)} for s in SPLITS}
    for a, b in itertools.combinations(SPLITS, 2):
        assert not said[a] & said[b]
    known = {word for text in said["train"] for word in text.split()}
    for split in ("validation", "test"):
        assert {word for text in said[split] for word in text.split()} <= known
    assert len({cell.frame.name for cell in mini.cells(task)}) >= 20
    assert len({cell.frame.template for cell in mini.cells(task)}) >= 20
    # And every word for a label is claimed in training.
    claimed = set()
    for cell in mini.cells(task, "train"):
        claimed |= set(cell.frame.claiming(cell.contradiction, cell.synonym).split())
    assert {word for words in CLAIM_WORDS[task].values() for word in words} <= claimed


def test_claims_do_not_name_another_label() -> None:
    for task in TASKS:
        spoken = [word for words in CLAIM_WORDS[task].values() for word in words]
        assert len(spoken) == len(set(spoken)), task
        for split in SPLITS:
            for frame in frames(task, split):
                neutral = set(frame.neutral.split())
                assert not neutral & set(spoken), (frame, neutral & set(spoken))
                assert frame.template.count("{}") == 1
                assert not set(frame.template.split()) & set(spoken), frame


def test_vocabulary_covers_every_transcript() -> None:
    words = set(vocabulary())
    for split in SPLITS:
        for item in mini.load(split=split, n=24, conditions=("conflict", "congruent", "neutral", "voice-swap")):
            assert set((item.transcript or "").split()) <= words


@given(st.sampled_from(TASKS), st.sampled_from(SPLITS), st.integers(0, 40))
@settings(max_examples=30, deadline=None)
def test_cells_are_well_formed_at_any_number(task: str, split: str, n: int) -> None:
    cells = mini.cells(task, split, n)
    assert len(cells) == n == len({cell.name for cell in cells})
    for cell in cells:
        assert cell.truth in cell.options and cell.split == split
        assert cell.contradiction in {level_of(task, option) for option in cell.options}
        assert cell.frame in frames(task, split)
        assert cell.rng.integers(1 << 30) == cell.rng.integers(1 << 30)  # drawn alike by every render


def test_speakers_fit_the_truth() -> None:
    for cell in mini.cells("gender_prediction"):
        assert cell.speakers[0].gender == cell.truth and cell.speakers[0].age != "Child"
    for cell in mini.cells("age_prediction"):
        assert cell.speakers[0].age == cell.truth
    for task in ("speaker_identity_recognition", "total_speaker_counting"):
        for cell in mini.cells(task):
            assert len({p.name for p in cell.speakers}) == 4
            kinds = [(p.gender, "adult" if p.age == "Middle-aged adult" else p.age) for p in cell.speakers]
            assert len(set(kinds)) == 4


def test_orders_and_levels() -> None:
    assert len(ORDERS) == 6 and set(LEVELS) == {"high", "medium", "low"}


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: mini.cells("gender_predicton"), "'gender_predicton'; allowed: .*did you mean 'gender_prediction'"),
        (lambda: mini.cells("gender_prediction", "tset"), "found split 'tset'; allowed: .*did you mean 'test'"),
        (lambda: mini.cells("gender_prediction", n=-3), "found n=-3; allowed: 0 or more"),
    ],
)
def test_errors_say_what_is_allowed(ask: Callable[[], object], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        ask()


def test_cells_load_without_torch() -> None:
    code = "import sys; from vpanalysis.benchmark import mini; mini.load(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("module", ["cells", "voices", "wordings", "_spectra", ""])
def test_the_examples_in_docstrings_hold(module: str) -> None:
    found = doctest.testmod(importlib.import_module(f"vpanalysis.benchmark.mini.{module}".rstrip(".")))
    assert found.failed == 0 and found.attempted > 0


def test_what_any_task_says_in_training_no_task_says_in_another_split() -> None:
    trained = {text for task in TASKS for frame in frames(task, "train") for text in (frame.template, frame.neutral)}
    for task in TASKS:
        for split in ("validation", "test"):
            assert not trained & {text for frame in frames(task, split) for text in (frame.template, frame.neutral)}
