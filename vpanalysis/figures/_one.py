"""How one entry of the gallery is built: its numbers first, its files only where they would be others than before.

Why it exists. Drawing and saving cost more than numbers. A gallery that is called again after one module changed should
draw that one; and no entry, whether it is drawn here or in another process, should keep another from being drawn.

The idea. What a figure was made of (code, libraries, Runs, published numbers, style) and its CSV decide its pictures.
Where both are as the manifest says, and the files are as they were written, nothing is drawn. A refusal travels as two
sentences, because exceptions with arguments of their own do not survive the way between processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpanalysis import _manifest
from vpanalysis.errors import VPError
from vpanalysis.figures._entry import Entry, LackingError, as_read
from vpanalysis.figures._files import names_of, write
from vpanalysis.figures._sources import Sources
from vpanalysis.figures._used import Watched, file_sha, published_shas, source_shas, text_sha

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Made", "build_one"]

_LIBRARIES = ("matplotlib", "seaborn", "numpy", "pandas", "scipy", "pillow", "fonttools")


@dataclass(frozen=True)
class Made:
    """What became of an entry: a record with its files in the stage, one without (all as before), or a refusal."""

    entry: str
    title: str
    seconds: float
    record: dict[str, Any] | None = None
    staged: bool = False
    refused: tuple[str, str] | None = None


@lru_cache(maxsize=1)
def _opened(paths: tuple[str, ...]) -> Sources:
    """Return the sources of a process that works for another, read once."""
    return Sources(paths)


def build_one(
    entries: Callable[[], Mapping[str, Entry]],
    name: str,
    given: Sources | tuple[str, ...],
    out: Path,
    stage: Path,
    style: str,
    formats: tuple[str, ...],
    before: dict[str, Any] | None,
    command: str,
) -> Made:
    """Build one entry into the stage, unless its files are there already."""
    start = time.monotonic()
    one = entries()[name]
    sources = Watched(given if isinstance(given, Sources) else _opened(given))
    try:
        data, text = as_read(one.data(sources))
        record = _record(one, data, sources, style, formats, f"{command} --only {name}")
        names = names_of(one, formats)
        if before is not None and _same(record, before) and _intact(out, before, names, text):
            return Made(name, one.title, time.monotonic() - start, before)
        paths = write(one, data, text, stage, style=style, formats=formats)
    except VPError as error:
        # Also what an analysis refuses in its own words; the rest of the gallery does not depend on it.
        if isinstance(error, LackingError):
            refused = (error.found or str(error), error.record)
        else:
            refused = (str(error), one.record)
        return Made(name, one.title, time.monotonic() - start, refused=refused)
    record["files"] = {path.name: file_sha(path) for path in paths}
    return Made(name, one.title, time.monotonic() - start, record, staged=True)


def _record(
    one: Entry, data: pd.DataFrame, sources: Watched, style: str, formats: tuple[str, ...], command: str
) -> dict[str, Any]:
    """Return what a figure is and what it was made of."""
    runs = sources.identities()
    planted = any(map(sources.is_planted, runs)) or ("planted" in data and bool(data["planted"].astype(bool).any()))
    return {
        "kind": one.kind,
        "title": one.title,
        "paper": one.paper,
        "caption": one.caption,
        "alt": one.alt(data),
        "state": "drawn",
        "reason": None,
        "planted": planted,
        "runs": runs,
        "published": published_shas(one.published),
        "source": source_shas(one.module),
        "code": _manifest.code_version(),
        "libraries": _libraries(),
        "style": style,
        "formats": list(formats),
        "command": command,
        "files": {},
    }


def _libraries() -> dict[str, str]:
    found = {"python": _manifest.versions()["python"]}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _same(record: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether a figure would be drawn as before: same code, libraries, Runs and published numbers."""

    def held(one: Mapping[str, Any]) -> dict[str, Any]:
        return {**one, "files": None, "code": {**one["code"], "commit": None}}

    return held(record) == held(before)


def _intact(out: Path, before: Mapping[str, Any], names: list[str], text: str) -> bool:
    """Whether the files of a record are there as they were written, and the numbers are those of now."""
    files: Mapping[str, str] = before["files"]
    if list(files) != names or files[names[0]] != text_sha(text):
        return False
    return all(file_sha(out / name) == sha for name, sha in files.items())
