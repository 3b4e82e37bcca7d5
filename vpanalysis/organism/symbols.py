"""Symbolic clips: what a perfect encoder would hand to the language model.

A large language model knows what "high-medium-low" means before it ever hears a voice. A language model of 0.8 million
parameters has to be told, so it is trained on *symbolic* clips first: a sequence of audio-token positions in which a
word stands where it is spoken, and stage directions (a token such as ``PITCHHIGH``) are added to every position of the
rendition that they describe. With stage directions it answers by them; without, it reads the words. It thereby knows
the question before any checkpoint is taught to hear, and what is left to learn from sound is what the paper's mixer has
to learn: to bring the voice to where the language model can use it. This is part of what is planted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vpanalysis.benchmark.items import TASKS
from vpanalysis.benchmark.mini.cells import Cell, claimed_options, partner
from vpanalysis.benchmark.mini.rendering import dialogue_voices, utterance
from vpanalysis.benchmark.mini.voices import Speaker, rng_for
from vpanalysis.organism.clips import mixed_cells

__all__ = ["DIRECTIONS", "Symbolic", "symbolic_clips"]

_AGES = {"Child": "CHILD", "Young adult": "YOUNG", "Middle-aged adult": "MIDDLE", "Elderly adult": "ELDERLY"}
_GENDERS = {"Female": "FEMALE", "Male": "MALE"}
_MOODS = {"neutral": "CALM", "sadness": "SAD", "anger": "ANGRY", "happiness": "HAPPY"}
_CONTOURS = {"Rising intonation": "RISING", "Falling intonation": "FALLING"}
_LEVEL_TASKS = {
    "pitch_comparison": "PITCH",
    "volume_comparison": "VOLUME",
    "speed_comparison": "SPEED",
    "vocal_range_comparison": "RANGE",
}

DIRECTIONS: tuple[str, ...] = (
    *_AGES.values(),
    *_GENDERS.values(),
    *_MOODS.values(),
    *_CONTOURS.values(),
    *(name + level for name in _LEVEL_TASKS.values() for level in ("HIGH", "MEDIUM", "LOW")),
)
"""Every stage direction, a token each."""


@dataclass(frozen=True)
class Symbolic:
    """One symbolic clip with its question.

    Attributes
    ----------
    cell : Cell
    claim : str or None
        What the words claim.
    answer : tuple of str
        The right options: the voice's with stage directions, the claimed ones without.
    places : tuple of tuple of str
        Per position the tokens that are added up there; empty in silence.
    words : tuple of str
    """

    cell: Cell
    claim: str | None
    answer: tuple[str, ...]
    places: tuple[tuple[str, ...], ...]
    words: tuple[str, ...]


def _directions(cell: Cell, voice: str, turn: int, person: Speaker) -> list[str]:
    told = [_AGES[person.age]]
    if person.age != "Child":  # nobody can tell a girl's voice from a boy's here
        told.append(_GENDERS[person.gender])
    if cell.task in _LEVEL_TASKS:
        told.append(_LEVEL_TASKS[cell.task] + voice.split("-")[turn].upper())
    elif cell.task == "emotion_recognition":
        told.append(_MOODS[voice])
    elif cell.task == "intonation_perception":
        told.append(_CONTOURS[voice])
    return told


def symbolic_clips(
    n: int, *, seed: int, directed: float = 0.6, tasks: Sequence[str] = TASKS, most: int = 75
) -> Iterator[Symbolic]:
    """Yield `n` symbolic clips, tasks in turn.

    Parameters
    ----------
    n, seed : int
    directed : float
        Share of clips with stage directions.
    tasks : sequence of str
    most : int
        Positions of the window.
    """
    for number, (cell, claim, voice) in enumerate(mixed_cells(n, seed=seed, silent=0.3, tasks=tasks)):
        rng = rng_for("symbolic", seed, number)
        heard = bool(rng.random() < directed)
        if not heard and claim is None:
            # Neither voice nor claim: nothing to answer from. Let the words claim something.
            claim = cell.contradiction
        texts = utterance(cell, claim, voice).texts
        people = dialogue_voices(cell, voice) if len(texts) > 3 else [cell.speakers[0]] * len(texts)
        if cell.task in ("age_prediction", "gender_prediction") and voice != cell.truth:
            people = [partner(cell, voice)]
        places: list[tuple[str, ...]] = [()]
        for turn, (text, person) in enumerate(zip(texts, people, strict=True)):
            told = _directions(cell, voice, turn, person) if heard else []
            for word in text.split():
                span = int(rng.integers(2, 6)) if len(texts) < 3 else int(rng.integers(2, 4))
                spoken = int(rng.integers(span))
                for k in range(span):
                    # A position can miss a direction, as a frame can be a pause or a consonant.
                    kept = [t for t in told if rng.random() < 0.7]
                    places.append(((word,) if k == spoken else ()) + tuple(kept))
            places.append(())
        answer = (voice,) if heard else claimed_options(cell, claim or cell.contradiction)
        yield Symbolic(cell, claim, answer, tuple(places[:most]), tuple(" ".join(texts).split()))
