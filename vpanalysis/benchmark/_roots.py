"""From what a record says about its clip to an audio source, within the folders that were named.

Why it exists. Paths in a table were written on another machine, and by somebody. Clips must be found although the
folders have other names here; and a table from a stranger must not make a model listen to whatever audio lies on this
machine, nor tell by its errors which files there are.

The idea. A path is tried as it is and with its leading parts removed, in the audio root and in the table's folder. What
is found counts only if it lies in one of these after all links were followed. A clip that exists outside alone is a
problem of the table; one that exists nowhere is looked for inside, and fails its item when it is loaded. The cache of
the Hub keeps its files as links into a folder beside, which belongs to the data set too.

Worked example::

    AudioRoot([Path("vox")]).source("/home/else/vox/audio/a.wav", "a")     # FileAudio("vox/audio/a.wav")
    AudioRoot([Path("vox")]).source("../../private.wav", "a")              # OutsideError, unless allow_outside
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vpanalysis._untrusted import is_text
from vpanalysis.benchmark.audio import ArrayAudio, AudioSource, BytesAudio, FileAudio

__all__ = ["OUTSIDE", "AudioRoot"]

OUTSIDE = "the audio root and the folder of the benchmark; other places with allow_outside=True (--allow-outside)"
"""What is allowed, for the message about a clip that lies elsewhere."""

_LONGEST = 4096
"""Most characters of a path; no system allows more."""


class AudioRoot:
    """Turns what a record says about its clip into an audio source.

    Parameters
    ----------
    folders : sequence of Path
        Folders against which relative paths are tried, in order. A path that exists in none of them, such as an
        absolute one from another machine, is also tried with its leading parts removed.
    within : sequence of Path
        Further folders that a clip may lie in, such as the one around the folder of a split.
    allow_outside : bool
        Whether a clip may lie in none of them.
    """

    def __init__(self, folders: Sequence[Path], *, within: Sequence[Path] = (), allow_outside: bool = False) -> None:
        self.folders = list(folders)
        self.allow_outside = allow_outside
        self._real: dict[Path, Path] = {}
        self._within = [place for folder in (*self.folders, *within) for place in _places(folder)]

    def source(self, value: Any, name: str) -> AudioSource | None:
        """Return the clip of `value` (a path, or a Hub audio cell), or None when it is neither.

        Raises
        ------
        PermissionError
            If the clip lies outside the folders.
        """
        if isinstance(value, Mapping):
            data = value.get("bytes")
            if data is not None:
                # A number would become as many zeros.
                known = isinstance(data, (bytes, bytearray, memoryview))
                return BytesAudio(bytes(data), name=str(value.get("path") or name)) if known else None
            if value.get("array") is not None and value.get("sampling_rate"):
                return _array(value["array"], value["sampling_rate"], name)
            value = value.get("path")
        if isinstance(value, Path):
            value = str(value)
        if not isinstance(value, str) or not value.strip() or "\0" in value or len(value) > _LONGEST:
            return None
        return FileAudio(self.find(value.strip())) if is_text(value) else None

    def find(self, path: str) -> Path:
        """Return where `path` exists, else where it should have been.

        Raises
        ------
        PermissionError
            If it exists outside the folders alone.
        """
        parts = PurePosixPath(path.replace("\\", "/")).parts
        relative = parts[1:] if parts and parts[0] == "/" else parts
        outside = False
        for folder in self.folders:
            # Path("/a") / "/b" is "/b": an absolute path is tried as it is first.
            for candidate in (folder / path, *(folder.joinpath(*relative[i:]) for i in range(len(relative)))):
                if not _is_file(candidate):
                    continue
                if self.allow_outside or self._is_within(candidate):
                    return candidate
                outside = True
        if outside:
            raise PermissionError(f"{path!r}, which lies outside")
        # Where it should be: never outside, so that a file that appears there later is not read either.
        inside = [part for part in relative if part != ".."]
        return self.folders[0] / path if self.allow_outside else self.folders[0].joinpath(*inside)

    def _is_within(self, candidate: Path) -> bool:
        # Folders are followed once: a million clips lie in few of them.
        parent = candidate.parent
        try:
            if parent not in self._real:
                self._real[parent] = parent.resolve()
            real = candidate.resolve() if candidate.is_symlink() else self._real[parent] / candidate.name
        except (OSError, RuntimeError):  # a loop of links
            return False
        return any(real.is_relative_to(place) for place in self._within)


def _places(folder: Path) -> list[Path]:
    """Return the folder as it really is, and where the Hub's cache keeps the files of a snapshot."""
    real = folder.resolve()
    blobs = [
        place.parent.parent / "blobs"
        for place in (real, *real.parents)
        if place.parent.name == "snapshots" and (place.parent.parent / "blobs").is_dir()
    ]
    return [real, *blobs]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _array(value: Any, rate: Any, name: str) -> ArrayAudio | None:
    try:
        return ArrayAudio(np.asarray(value), int(rate), name=name)
    except (TypeError, ValueError, OverflowError):
        return None
