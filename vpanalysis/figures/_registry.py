"""Which figures and tables there are: one module each, read when one is asked for.

>>> "leaderboard" in list_figures()["id"].tolist()
True
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from vpanalysis.errors import RunError
from vpanalysis.figures._entry import Entry, as_read
from vpanalysis.figures._sources import Sources

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vpanalysis._run import Run

__all__ = ["build_figure", "entries", "entry", "figure_data", "list_figures"]

MODULES = (
    "leaderboard", "leaderboard_table", "ladder", "ladder_table", "per_task", "reversed_speech", "probing",
    "probe_depth", "encoders", "natural_speech", "static_fusion", "humans", "mmsu", "architecture", "gate_heatmap",
    "depth_profile", "factorial", "patching_map", "hearing", "static_mixer", "ours_and_theirs",
)  # fmt: skip
"""Modules of ``vpanalysis.figures`` that have an ``ENTRY``, in the order of the gallery."""


@lru_cache(maxsize=1)
def entries() -> dict[str, Entry]:
    """Return all figures and tables by id, in the order of the gallery."""
    found = [importlib.import_module(f"vpanalysis.figures.{name}").ENTRY for name in MODULES]
    return {one.id: one for one in found}


def entry(name: str) -> Entry:
    """Return one; :class:`RunError` with the ids for an unknown one."""
    known = entries()
    if name not in known:
        raise RunError("cannot draw", found=f"the figure {name!r}", allowed=list(known), word=name)
    return known[name]


def list_figures() -> pd.DataFrame:
    """Return what can be drawn.

    Returns
    -------
    DataFrame
        One row each: id, kind, title, paper (what it stands beside there), caption, record (the command that records
        what it needs).
    """
    rows = [[e.id, e.kind, e.title, e.paper, e.caption, e.record] for e in entries().values()]
    return pd.DataFrame(rows, columns=["id", "kind", "title", "paper", "caption", "record"])


def figure_data(name: str, runs: Sources | Iterable[Run | str | Path] | Run | str | Path = ()) -> pd.DataFrame:
    """Return the numbers behind a figure, as its CSV holds them.

    Parameters
    ----------
    name : str
        An id of :func:`list_figures`.
    runs : Run or path, or several
        Runs with what analyses kept in them.

    Returns
    -------
    DataFrame

    Raises
    ------
    RunError
        For an unknown id.
    LackingError
        When the Runs lack what it needs; it names the command.
    """
    return as_read(entry(name).data(Sources.of(runs)))[0]


def build_figure(
    name: str,
    runs: Sources | Iterable[Run | str | Path] | Run | str | Path = (),
    figure: Figure | None = None,
    *,
    style: str = "paper",
) -> Figure:
    """Draw a figure or table of the gallery.

    Parameters
    ----------
    name : str
        An id of :func:`list_figures`.
    runs : Run or path, or several
        Runs with what analyses kept in them; some tables need none.
    figure : Figure, optional
        Where to draw; it is cleared and keeps its size. By default a new one of the width of a column or page.
    style : {"paper", "slides", "web"}

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    RunError
        For an unknown id or style.
    LackingError
        When the Runs lack what it needs; it names the command.
    """
    from vpanalysis.figures._drawing import drawn

    return drawn(entry(name), figure_data(name, runs), figure, style)
