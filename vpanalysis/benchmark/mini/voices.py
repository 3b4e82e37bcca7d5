"""Parametric speakers: who can speak in VoxParadox-mini.

A speaker is a row of numbers (F0, formant scale, roughness, breath ...) drawn from a seed that is its name, so any
number of them exist and none has to be stored. Gender and age belong to the speaker, as they do in life; emotion,
level and intonation are things a speaker *does* (see ``rendering.py``).

Splits never share a speaker. In each split genders and the four age groups of the benchmark are balanced::

    >>> speakers("test")[0].name
    'test-000'

What separates the groups is chosen, hence *planted*: children have a short vocal tract and a high F0; middle-aged
voices are a little lower and creaky; elderly voices tremble (flutter), are rough and breathy.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

import numpy as np

__all__ = ["AGES", "GENDERS", "SPEAKERS_PER_SPLIT", "Speaker", "rng_for", "speakers"]

AGES = ("Child", "Young adult", "Middle-aged adult", "Elderly adult")
GENDERS = ("Female", "Male")
SPEAKERS_PER_SPLIT = {"train": 128, "validation": 48, "test": 64}


def rng_for(*key: object) -> np.random.Generator:
    """Return a generator seeded by the words of `key`: the same on every machine and in every process."""
    digest = hashlib.sha256("/".join(str(k) for k in key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


@dataclass(frozen=True)
class Speaker:
    """One parametric voice.

    Attributes
    ----------
    name : str
        Split and number; also the seed of everything else.
    gender, age : str
        Option texts of the gender and age tasks.
    f0 : float
        Base fundamental frequency, Hz.
    f0_span : float
        Width of the pitch movement, Hz (eSpeak's second pitch value minus the first).
    formant : float
        Scale of all formant frequencies, in percent of an adult male.
    tilt : tuple of float
        Further per-formant deviations, percent.
    flutter, roughness, breath : float
        eSpeak's tremor, creak and aspiration settings.
    voicing : float
        Strength of voiced sound, percent.
    """

    name: str
    gender: str
    age: str
    f0: float
    f0_span: float
    formant: float
    tilt: tuple[float, ...]
    flutter: float
    roughness: float
    breath: float
    voicing: float

    def variant(
        self, *, f0: float = 1.0, span: float | None = None, rougher: float = 0.0, breathier: float = 0.0
    ) -> str:
        """Return the eSpeak voice-variant file of this speaker in some manner.

        Parameters
        ----------
        f0 : float
            Factor on the fundamental frequency and on its movement.
        span : float, optional
            Width of the pitch movement as a share of F0, centred where the speaker's own is.
        rougher, breathier : float
            Added creak and aspiration.

        Returns
        -------
        str
            Body of the file.
        """
        low, high = self.f0 * f0, (self.f0 + self.f0_span) * f0
        if span is not None:
            middle = (low + high) / 2
            low, high = middle * (1 - span / 2), middle * (1 + span / 2)
        lines = [
            f"pitch {low:.0f} {high:.0f}",
            f"flutter {self.flutter:.0f}",
            f"roughness {min(8.0, self.roughness + rougher):.0f}",
            f"voicing {self.voicing:.0f}",
        ]
        for number in range(9):
            scale = self.formant + (self.tilt[number] if 0 < number < 5 else 0.0)
            lines.append(f"formant {number} {scale:.0f} 100 100")
        breath = self.breath + breathier
        if breath > 0:
            lines.append("breath " + " ".join(f"{breath:.0f}" for _ in range(8)))
        return "\n".join(lines) + "\n"


def _speaker(split: str, index: int) -> Speaker:
    rng = rng_for("speaker", split, index)
    gender, age = GENDERS[index % 2], AGES[(index // 2) % 4]
    tilt = tuple(float(x) for x in rng.normal(0, 2.5, size=5))
    if age == "Child":
        f0, formant = rng.uniform(275, 330), rng.uniform(126, 136)
    elif gender == "Female":
        f0, formant = rng.uniform(170, 225), rng.uniform(110, 119)
    else:
        f0, formant = rng.uniform(80, 112), rng.uniform(93, 102)
    flutter, roughness, breath, voicing = rng.uniform(0, 3), rng.uniform(0, 1.4), 0.0, 100.0
    if age == "Middle-aged adult":
        f0, roughness, voicing = f0 * 0.9, rng.uniform(3.6, 5.2), rng.uniform(84, 94)
    elif age == "Elderly adult":
        flutter, roughness = rng.uniform(30, 46), rng.uniform(6, 8)
        breath, voicing = rng.uniform(8, 20), rng.uniform(45, 60)
    return Speaker(
        name=f"{split}-{index:03d}",
        gender=gender,
        age=age,
        f0=float(f0),
        f0_span=float(f0 * rng.uniform(0.3, 0.5)),
        formant=float(formant),
        tilt=tilt,
        flutter=float(flutter),
        roughness=float(roughness),
        breath=float(breath),
        voicing=float(voicing),
    )


@functools.cache
def speakers(split: str) -> tuple[Speaker, ...]:
    """Return the speakers of `split` ("train", "validation" or "test"), balanced over gender and age."""
    return tuple(_speaker(split, i) for i in range(SPEAKERS_PER_SPLIT[split]))
