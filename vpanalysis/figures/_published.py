"""The published numbers, as data: each with its unit, who says it, where, and what is wrong with it.

Why it exists. A number of the paper that stands in code is out of sight: nobody can say later where it was printed, or
which of two sources was believed. Here every one is a row of a CSV file, and figures ask for it by table, row and
column.

The idea. A row says the value, its unit, its source (``paper``; ``authors' page``; ``digest``, which is someone else's
account of the paper; ``earlier code``; ``dataset``; ``recomputed`` for arithmetic on the others), its place there, and
a note. Where sources disagree all values are kept, and the column `use` marks the one to use; values that are printed
and cannot be right are kept with the note ``flagged``. A value that is not known to us has no row: a missing row cannot
be drawn as a zero, averaged over or joined to a measurement, as an empty cell can.

What it cannot show. The paper's curves and most of its per-task numbers are not among these rows: they were never given
as numbers, or not seen by us.

>>> published_value("leaderboard", "Audio Flamingo 3", "Acc_GT")
17.4
>>> published("leaderboard", use=False).query("row == 'Audio Flamingo 3' and column == 'ALA'")["value"].tolist()
[68.5, 70.5, 68.5]
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

from vpanalysis.errors import RunError

__all__ = ["COLUMNS", "published", "published_tables", "published_value"]

COLUMNS = ("table", "row", "column", "value", "unit", "source", "place", "use", "note")
"""Columns of :func:`published`."""

_FOLDER = Path(__file__).resolve().parent / "published"
_ORDER = ("leaderboard", "ladder", "mmsu", "mmsu_items", "per_task", "precursor", "static_fusion", "humans", "chance",
          "pclm", "gates", "dpo", "dpo_hours")  # fmt: skip


def published_tables() -> list[str]:
    """Return the names of the tables, each the stem of a CSV file beside this module.

    Returns
    -------
    list of str
    """
    found = {path.stem for path in _FOLDER.glob("*.csv")}
    return [*(name for name in _ORDER if name in found), *sorted(found - set(_ORDER))]


def published(table: str | None = None, *, use: bool = True) -> pd.DataFrame:
    """Return published numbers.

    Parameters
    ----------
    table : str, optional
        One of :func:`published_tables`; by default all of them.
    use : bool
        Only the values to use. False for all: also those that another source contradicts, and sums and means that we
        recomputed.

    Returns
    -------
    DataFrame
        One row a number: table, row, column, value (float), unit, source, place, use (bool), note. Texts that are not
        known are empty.

    Raises
    ------
    RunError
        For an unknown table.
    """
    known = published_tables()
    if table is not None and table not in known:
        raise RunError("cannot read published numbers", found=f"the table {table!r}", allowed=known, word=table)
    found = pd.concat([_read(name) for name in ([table] if table is not None else known)], ignore_index=True)
    return found[found["use"]].reset_index(drop=True) if use else found


def published_value(table: str, row: str, column: str) -> float:
    """Return one published number: the one to use.

    Parameters
    ----------
    table, row, column : str

    Returns
    -------
    float
        In the unit that :func:`published` says.

    Raises
    ------
    RunError
        For an unknown table, row or column, and for a number that is not known to us.
    """
    have = published(table)
    asked = f"cannot read a published number of {table!r}"
    for key, word in (("row", row), ("column", column)):
        allowed = list(dict.fromkeys(have[key]))
        if word not in allowed:
            raise RunError(asked, found=f"the {key} {word!r}", allowed=allowed, word=word)
    found = have[(have["row"] == row) & (have["column"] == column)]
    if found.empty:
        allowed = list(have.loc[have["row"] == row, "column"])
        raise RunError(asked, found=f"no {column!r} of {row!r}, which is not known to us", allowed=allowed)
    return float(found["value"].iloc[0])


@cache
def _read(table: str) -> pd.DataFrame:
    kinds = dict.fromkeys(COLUMNS, str) | {"value": float, "use": bool}
    # Texts stay texts: an empty cell is an empty string, and a row may be called "NA".
    return pd.read_csv(_FOLDER / f"{table}.csv", dtype=kinds, keep_default_na=False)[list(COLUMNS)]
