"""What a figure leaves on disk: its numbers as CSV, and the same picture as PNG, PDF and SVG, equal byte for byte.

Why it exists. A gallery that is kept under version control should change where a number changed and nowhere else. Most
programs that save pictures write the day and their own version into them; two builds of one figure then differ, and
nobody looks at the difference any more. And a build that is stopped must not leave half a picture that looks like one.

The idea. The picture is drawn once and laid out once, so that all formats show the same thing, and saved inside the
style that it was drawn in. Dates and names of programs are left out, type is embedded as TrueType (some publishers
refuse Type 3), ids in SVG come from a fixed salt. Every file is written under another name and then moved to its own.

What it cannot do: be equal between versions of matplotlib or of its fonts. The manifest of the gallery names them.

>>> sorted(FORMATS)
['pdf', 'png', 'svg']
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpanalysis.errors import RunError
from vpanalysis.figures._entry import as_read
from vpanalysis.organism import PLANTED

if TYPE_CHECKING:
    import pandas as pd

    from vpanalysis.figures._entry import Entry
    from vpanalysis.figures._sources import Sources

__all__ = ["FORMATS", "checked_formats", "names_of", "render", "write", "write_text", "write_whole"]

FORMATS: Mapping[str, Mapping[str, Any]] = {
    "png": {"metadata": {"Software": None}, "dpi": 300},
    "pdf": {"metadata": {"CreationDate": None, "ModDate": None, "Producer": None, "Creator": None}},
    "svg": {"metadata": {"Date": None, "Creator": None}},
}
"""Formats of pictures and how they are saved: nothing of the day, the machine or the program."""


def checked_formats(formats: Iterable[str]) -> tuple[str, ...]:
    """Return formats in their usual order; :class:`RunError` for an unknown one or none."""
    asked = [formats] if isinstance(formats, str) else list(formats)
    for name in asked or [""]:
        if name not in FORMATS:
            raise RunError("cannot save pictures", found=f"the format {name!r}", allowed=list(FORMATS), word=name)
    return tuple(name for name in FORMATS if name in asked)


def names_of(entry: Entry, formats: Iterable[str]) -> list[str]:
    """Return the names of the files of an entry: its numbers, its pictures, and LaTeX where it is a table."""
    endings = ["csv", *checked_formats(formats), *(["tex"] if entry.kind == "table" else [])]
    return [f"{entry.id}.{ending}" for ending in endings]


def render(
    entry: Entry,
    sources: Sources,
    out: str | Path,
    *,
    style: str = "paper",
    formats: Iterable[str] = tuple(FORMATS),
) -> list[Path]:
    """Write a figure or table: CSV, pictures, and LaTeX for a table.

    Parameters
    ----------
    entry : Entry
    sources : Sources
    out : str or Path
        Folder, made where it is missing.
    style : {"paper", "slides", "web"}
    formats : iterable of str
        Of ``"png"`` (300 dpi), ``"pdf"`` and ``"svg"``.

    Returns
    -------
    list of Path
        ``<id>.csv``, the pictures, and ``<id>.tex`` for a table.

    Raises
    ------
    LackingError
        When the Runs lack what it needs; nothing is written.
    RunError
        For an unknown style or format.
    """
    chosen = checked_formats(formats)
    data, text = as_read(entry.data(sources))
    return write(entry, data, text, Path(out), style=style, formats=chosen)


def write(
    entry: Entry, data: pd.DataFrame, text: str, out: Path, *, style: str, formats: tuple[str, ...]
) -> list[Path]:
    """Write the files of an entry whose numbers are known.

    Parameters
    ----------
    entry : Entry
    data : DataFrame
        As read from its CSV.
    text : str
        The CSV.
    out : Path
    style : str
    formats : tuple of str
    """
    from vpanalysis.figures._drawing import drawn, styled

    with styled(style):
        figure = drawn(entry, data, style=style)
        engine = figure.get_layout_engine()
        if engine is not None and figure.axes:
            # Once for all formats: saving would lay it out again, each time a little differently and at the same cost.
            engine.execute(figure)
            figure.set_layout_engine("none")
        out.mkdir(parents=True, exist_ok=True)
        written = [out / name for name in names_of(entry, formats)]
        for path in written:
            ending = path.suffix.removeprefix(".")
            if ending in FORMATS:
                settings = {**FORMATS[ending], "metadata": {**FORMATS[ending]["metadata"]}}
                if ending != "png":
                    settings["metadata"]["Title"] = entry.title
                write_whole(path, partial(figure.savefig, format=ending, **settings))
            else:
                write_text(path, text if ending == "csv" else _latex(entry, data))
    return written


def _latex(entry: Entry, data: pd.DataFrame) -> str:
    from vpanalysis.figures._latex import to_latex

    layout = entry.layout(data) if entry.layout is not None else data.astype(str)
    caption = f"{entry.title}. {entry.caption}"
    if "planted" in data and bool(data["planted"].any()):
        caption += f" {PLANTED[0].upper()}{PLANTED[1:]}."
    return to_latex(layout, caption=caption, label=f"tab:{entry.id}", wide=entry.width == "double")


def write_whole(path: Path, writer: Callable[[Path], Any]) -> None:
    """Call `writer` with another name beside `path`, and move what it wrote to `path`; nothing is left if it raises."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        writer(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all, with the same line ends everywhere."""
    write_whole(path, lambda part: part.write_bytes(text.encode()))
