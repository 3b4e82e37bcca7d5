"""A changed clip as an audio source: computed when it is needed, with a key of its own.

Why it exists. Encodings are cached under the key of a clip, and a Run knows its benchmark by the keys of its clips. So
a transformed clip needs a key that follows from what it is made of, without making it: the key of the original, the
name of the transform, every parameter (those left at their defaults too) and the version of the transforms.

Whatever a transform draws at random it draws from a generator seeded by that key: the same clip is shuffled the same
way in every process, and another clip another way.

>>> from vpanalysis.benchmark.audio import ArrayAudio
>>> clip = ArrayAudio(np.linspace(0, 0.5, 8000, dtype=np.float32))
>>> backwards = transformed(clip, "reversed")
>>> float(backwards.load()[0]), backwards.duration_s
(0.5, 0.5)
>>> transformed(clip, "reversed+lowpass", cutoff_hz=300).describe()
'array, reversed, lowpass(cutoff_hz=300)'
>>> backwards.key() == transformed(clip, "reversed").key() != clip.key()
True
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vpanalysis.benchmark.audio import AudioSource, duration_of
from vpanalysis.benchmark.transforms.sounds import TRANSFORMS, VERSION
from vpanalysis.errors import SchemaError

__all__ = ["Transformed", "label_of", "parts_of", "removed_by", "transformed"]

_LIMITS = {
    "segment_s": (1e-3, math.inf),
    "fade_s": (0.0, math.inf),
    "random_state": (0, math.inf),
    "order": (1, 64),
    "band_hz": (50.0, 1000.0),
    "cutoff_hz": (20.0, 7900.0),
    "f0_hz": (40.0, 1000.0),
    "level": (1e-6, 1.0),
}
_WHOLE = ("random_state", "order")


def parts_of(name: str) -> tuple[str, ...]:
    """Return the transforms of a name joined by "+", in the order in which they are applied.

    Raises
    ------
    SchemaError
        For an unknown name.
    """
    parts = tuple(part.strip() for part in name.split("+"))
    for part in parts:
        if part not in TRANSFORMS:
            raise SchemaError(
                f"cannot transform audio by {name!r}", found=f"the name {part!r}", allowed=list(TRANSFORMS), word=part
            )
    return parts


def removed_by(name: str) -> frozenset[str]:
    """Return what is absent after a transform: a set of "words" and "voice".

    >>> sorted(removed_by("reversed+flattened"))
    ['voice', 'words']

    Raises
    ------
    SchemaError
        For an unknown name.
    """
    gone = {TRANSFORMS[part].removes for part in parts_of(name)}
    return frozenset({"words", "voice"} if "both" in gone else gone)


def label_of(name: str, params: dict[str, float]) -> str:
    """Return the name of a transform with the parameters that are set, such as ``"lowpass(cutoff_hz=300)"``."""
    parts = "+".join(parts_of(name))
    return parts + ("(" + ", ".join(f"{k}={v:g}" for k, v in sorted(params.items())) + ")" if params else "")


@dataclass(frozen=True)
class Transformed:
    """A clip changed by one transform; see `transformed` for several.

    Parameters
    ----------
    base : AudioSource
        The clip before.
    name : str
        One of `TRANSFORMS`.
    params : tuple of (str, float)
        Those parameters that are not left at their defaults.

    Raises
    ------
    SchemaError
        For an unknown name or parameter, or a value out of range.
    """

    base: AudioSource
    name: str
    params: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if len(parts_of(self.name)) > 1:
            raise SchemaError(
                "cannot make one transform", found=repr(self.name), allowed="one name", fix="use transformed()"
            )
        known = TRANSFORMS[self.name].parameters
        for key, value in self.params:
            _check(self.name, key, value, list(known))

    @property
    def parameters(self) -> dict[str, float]:
        """All parameters, those at their defaults too."""
        return TRANSFORMS[self.name].parameters | {k: int(v) if k in _WHOLE else float(v) for k, v in self.params}

    def key(self) -> str:
        """Return the SHA-256 (hex) of the base's key, name, parameters and version: equal keys promise equal samples.

        Raises
        ------
        AudioError
            If the base cannot be read.
        """
        content = {"base": self.base.key(), "transform": self.name, "params": self.parameters, "version": VERSION}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def load(self) -> NDArray[np.float32]:
        """Return the changed clip: shape (samples,) as the base, float32, 16 kHz; computed anew on every call.

        Raises
        ------
        AudioError
            If the base cannot be read.
        """
        wave = self.base.load()
        return TRANSFORMS[self.name].apply(wave, seed=int(self.key()[:16], 16), **self.parameters)

    def describe(self) -> str:
        """Return the name of the base and of the transform, for messages."""
        return f"{self.base.describe()}, {label_of(self.name, dict(self.params))}"

    @property
    def duration_s(self) -> float:
        """Duration in seconds: that of the base.

        Raises
        ------
        AudioError
            If the base cannot be read.
        """
        return duration_of(self.base)


def transformed(base: AudioSource, name: str, **params: float) -> Transformed:
    """Return a clip changed by one or several transforms.

    Parameters
    ----------
    base : AudioSource
    name : str
        One of `TRANSFORMS`, or several joined by "+" and applied from left to right.
    **params : float
        Given to every part that takes them.

    Returns
    -------
    Transformed

    Raises
    ------
    SchemaError
        For an unknown name, a parameter that no part takes, or a value out of range.
    """
    parts = parts_of(name)
    known = list(dict.fromkeys(key for part in parts for key in TRANSFORMS[part].parameters))
    for key, value in params.items():
        _check(name, key, value, known)
    source = base
    for part in parts:
        source = Transformed(
            source, part, tuple(sorted((k, v) for k, v in params.items() if k in TRANSFORMS[part].parameters))
        )
    assert isinstance(source, Transformed)
    return source


def _check(name: str, key: str, value: float, known: list[str]) -> None:
    asked = f"cannot transform audio by {name!r}"
    if key not in known:
        raise SchemaError(asked, found=f"the parameter {key!r}", allowed=known or "no parameters", word=key)
    low, high = _LIMITS[key]
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or not low <= value <= high or (key in _WHOLE and value != int(value)):
        kind = "a whole number" if key in _WHOLE else "a number"
        bounds = f"{low:g} or more" if high == math.inf else f"from {low:g} to {high:g}"
        raise SchemaError(asked, found=f"{key}={value!r}", allowed=f"{kind}, {bounds}")
