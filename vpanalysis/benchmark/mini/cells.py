"""Design cells: one speaker, one sentence frame, one truth, one contradicting label, one list of options.

A cell is everything that its twins share. They differ in what the words claim and in how the voice sounds::

    render              words     voice
    conflict            c         t        the paradox
    congruent           t         t        the words happen to be right
    neutral             none      t        nothing to read
    voice-swap          c         c        same words as conflict, another voice (frame aligned except for speed)
    plain-voice         c         none     words alone, where a voice can favour no option

Because the twins share question and options, neither can betray the condition; and truth and contradiction are
balanced against each other, so that no rule over options and words alone does better on one condition without losing as
much on another (tested). The pattern tasks offer both orders that begin with the true level and both that begin with
the claimed one, for the same reason: an uneven list would tell the twins apart.

>>> cell = cells("pitch_comparison", "test")[0]
>>> sorted({option.split("-")[0] for option in cell.options}) == sorted({cell.truth.split("-")[0], cell.contradiction})
True
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np

from vpanalysis.benchmark.items import TASKS
from vpanalysis.benchmark.mini.voices import AGES, GENDERS, Speaker, rng_for, speakers
from vpanalysis.benchmark.mini.wordings import CLAIM_WORDS, LEVELS, Frame, frames
from vpanalysis.errors import SchemaError

__all__ = ["CELLS_PER_TASK", "ORDERS", "QUESTIONS", "Cell", "cells", "claimed_options", "level_of"]

CELLS_PER_TASK = {"train": 400, "validation": 60, "test": 100}
"""Cells of each task when no number is asked for."""

ORDERS = tuple("-".join(order) for order in itertools.permutations(LEVELS))
_EMOTIONS = ("neutral", "sadness", "anger", "happiness")
_CONTOURS = ("Rising intonation", "Falling intonation", "Rise-fall intonation", "Fall-rise intonation")
_ORDINALS = ("first", "second", "third", "fourth", "fifth")
_COUNTS = ("1 person", "2 people", "3 people", "4 people")

QUESTIONS: dict[str, str] = {
    "age_prediction": "What is the most likely age group of the speaker in the audio?",
    "gender_prediction": "What is the speaker's gender?",
    "emotion_recognition": "How does the speaker feel in the recording?",
    "pitch_comparison": "Which pitch pattern best matches the audio?",
    "volume_comparison": "Which volume pattern best matches the audio?",
    "speed_comparison": "Which speed pattern best matches the audio?",
    "vocal_range_comparison": "Which vocal range pattern best matches the audio?",
    "intonation_perception": "What is the intonation of the entire sentence in the audio?",
    "speaker_identity_recognition": "Which speaker clip belongs to the same person as speaker clip {}?",
    "total_speaker_counting": "How many different speakers are in the audio?",
}
"""The official question templates."""


@dataclass(frozen=True)
class Cell:
    """What twins share.

    Attributes
    ----------
    name : str
        ``<task>/<split>-<number>``; the seed of everything drawn for the cell.
    task, split : str
    frame : Frame
        The wording.
    speakers : tuple of Speaker
        Who can be heard: one, or the voices of a dialogue (the first is the target's, or the first turn's).
    truth : str
        The option that the voice makes true.
    contradiction : str
        The label that the words of the conflict twin claim: an option, or a level in pattern tasks.
    options : tuple of str
        As offered, in the order of the letters.
    rate : int
        Words per minute.
    synonym : int
        Which word for a label the cell uses.
    target : int
        Turn asked about in the identity task, from 0; else 0.
    """

    name: str
    task: str
    split: str
    frame: Frame
    speakers: tuple[Speaker, ...]
    truth: str
    contradiction: str
    options: tuple[str, ...]
    rate: int
    synonym: int
    target: int = 0

    @property
    def question(self) -> str:
        """The question as asked of this cell."""
        return QUESTIONS[self.task].format(self.target + 1)

    @property
    def true_label(self) -> str:
        """What congruent words claim: the truth, or its first level in pattern tasks."""
        return level_of(self.task, self.truth)

    @property
    def rng(self) -> np.random.Generator:
        """A fresh generator of this cell, for whatever its renders draw alike."""
        return rng_for("render", self.name)


def level_of(task: str, label: str) -> str:
    """Return the label that words can claim for the option `label`: its first level in pattern tasks, else itself."""
    return label.split("-")[0] if task.endswith("_comparison") else label


def claimed_options(cell: Cell, label: str) -> tuple[str, ...]:
    """Return the offered options that words claiming `label` assert."""
    if cell.task.endswith("_comparison"):
        return tuple(option for option in cell.options if option.startswith(label))
    return (label,)


def cells(task: str, split: str = "test", n: int | None = None) -> tuple[Cell, ...]:
    """Return the design cells of a task.

    Parameters
    ----------
    task : str
        One of the ten official names.
    split : {"train", "validation", "test"}
        Splits share no speaker and no wording.
    n : int, optional
        How many; default `CELLS_PER_TASK`. The design is balanced for this number, so cells of another number carry
        the same names and are other cells: ask for one number and keep it.

    Returns
    -------
    tuple of Cell

    Raises
    ------
    SchemaError
        For an unknown task or split, or a negative number.
    """
    if task not in TASKS:
        raise SchemaError("cannot make cells", found=f"task {task!r}", allowed=TASKS, word=task)
    if split not in CELLS_PER_TASK:
        raise SchemaError("cannot make cells", found=f"split {split!r}", allowed=list(CELLS_PER_TASK), word=split)
    if n is not None and n < 0:
        raise SchemaError("cannot make cells", found=f"n={n}", allowed="0 or more")
    return _cells(task, split, CELLS_PER_TASK[split] if n is None else n)


@functools.lru_cache(maxsize=64)
def _cells(task: str, split: str, n: int) -> tuple[Cell, ...]:
    rng = rng_for("cells", task, split, n)
    designs = _designs(task)
    picks = _balanced(rng, n, len(designs))
    scripts = _balanced(rng, n, len(frames(task, split)))
    turns = _balanced(rng, n, len(speakers(split)))
    made = []
    for i in range(n):
        truth, contradiction, target = designs[picks[i]]
        own = rng_for("cell", task, split, n, i)
        options = _options(task, truth, contradiction, target)
        made.append(
            Cell(
                name=f"{task}/{split}-{i:04d}",
                task=task,
                split=split,
                frame=frames(task, split)[scripts[i]],
                speakers=_who(task, truth, own, split, turns[i]),
                truth=truth,
                contradiction=contradiction,
                options=tuple(options[k] for k in own.permutation(len(options))),
                rate=_rate(task, own),
                synonym=int(own.integers(2)),
                target=target,
            )
        )
    return tuple(made)


def _balanced(rng: np.random.Generator, n: int, kinds: int) -> list[int]:
    """Return n numbers below `kinds`, each as often as any other (up to one), in random order."""
    rounds = [rng.permutation(kinds) for _ in range(-(-n // kinds))]
    return [int(k) for k in np.concatenate(rounds)[:n][rng.permutation(n)]] if n else []


def _designs(task: str) -> list[tuple[str, str, int]]:
    """Return every (truth, contradiction, target) that a task can have, each equally likely."""
    if task.endswith("_comparison"):
        return [(t, c, 0) for t in ORDERS for c in LEVELS if not t.startswith(c)]
    if task == "speaker_identity_recognition":
        people = [f"the {o} person" for o in _ORDINALS]
        return [(people[t], people[c], x) for x in range(5) for t in range(5) for c in range(5) if len({x, t, c}) == 3]
    labels = {
        "age_prediction": AGES,
        "gender_prediction": GENDERS,
        "emotion_recognition": _EMOTIONS,
        "intonation_perception": _CONTOURS[:2],  # like the release: only these two are ever true
        "total_speaker_counting": _COUNTS,
    }[task]
    return [(t, c, 0) for t in labels for c in labels if t != c]


def _options(task: str, truth: str, contradiction: str, target: int) -> list[str]:
    if task.endswith("_comparison"):
        return [o for o in ORDERS if o.split("-")[0] in (truth.split("-")[0], contradiction)]
    if task == "speaker_identity_recognition":
        return [f"the {o} person" for k, o in enumerate(_ORDINALS) if k != target]
    return {
        "age_prediction": list(AGES),
        "gender_prediction": list(GENDERS),
        "emotion_recognition": list(_EMOTIONS),
        "intonation_perception": list(_CONTOURS),
        "total_speaker_counting": list(_COUNTS),
    }[task]


def _rate(task: str, rng: np.random.Generator) -> int:
    if task in ("speaker_identity_recognition", "total_speaker_counting"):
        return int(rng.integers(255, 281))  # four or five turns share one window
    return int(rng.integers(190, 216) if task.endswith("_comparison") else rng.integers(175, 206))


def _who(task: str, truth: str, rng: np.random.Generator, split: str, turn: int) -> tuple[Speaker, ...]:
    """Choose who can be heard. `turn` spreads cells evenly over the split's speakers where any will do."""
    people = speakers(split)
    if task == "age_prediction":
        fitting = [p for p in people if p.age == truth]
        return (fitting[turn % len(fitting)],)
    adults = [p for p in people if p.age != "Child"]
    if task == "gender_prediction":
        fitting = [p for p in adults if p.gender == truth]
        return (fitting[turn % len(fitting)],)
    if task in ("speaker_identity_recognition", "total_speaker_counting"):
        # Voices of one dialogue must be told apart by ear: no two of the same gender and age.
        first = people[turn]
        kinds = [(g, a) for g in GENDERS for a in ("Child", "Young adult", "Elderly adult") if (g, a) != _kind(first)]
        kinds = [k for k in kinds if not (k[1] == "Child" and first.age == "Child")]
        chosen, children = [first], first.age == "Child"
        for k in rng.permutation(len(kinds)):
            kind = kinds[int(k)]
            if kind[1] == "Child" and children:  # a girl and a boy differ by little
                continue
            children |= kind[1] == "Child"
            fitting = [p for p in people if _kind(p) == kind]
            chosen.append(fitting[int(rng.integers(len(fitting)))])
        return tuple(chosen[:4])
    if task == "emotion_recognition" or task == "intonation_perception":
        clear = [p for p in people if p.age in ("Young adult", "Child")]  # age marks would mask roughness and breath
        return (clear[turn % len(clear)],)
    clear = [p for p in people if p.age == "Young adult"]
    more = [p for p in people if p.age == "Middle-aged adult"]
    both = clear + more
    return (both[turn % len(both)],)


def _kind(person: Speaker) -> tuple[str, str]:
    return person.gender, ("Young adult" if person.age == "Middle-aged adult" else person.age)


def partner(cell: Cell, label: str) -> Speaker:
    """Return the speaker who lends the voice to `label` in a gender or age cell: alike in the other attribute."""
    person = cell.speakers[0]
    attribute, other = ("gender", "age") if cell.task == "gender_prediction" else ("age", "gender")
    fitting = [p for p in speakers(cell.split) if getattr(p, attribute) == label]
    alike = [p for p in fitting if getattr(p, other) == getattr(person, other)] or fitting
    return alike[int(rng_for("partner", cell.name, label).integers(len(alike)))]


assert set(CLAIM_WORDS) == set(TASKS)
