"""What the command line prints: one table, as text for a person or as JSON for a program.

Why it exists. Every verb ends in a table. A person wants it aligned, a script wants it parsable, and both want nothing
else on standard output: progress bars and remarks go to standard error. JSON knows no NaN, so a missing number is
``null``; pandas and numpy values become plain ones.

Worked example::

    emit(frame, as_json=True, title="Score of mini")   # {"title": "Score of mini", "rows": [{"metric": "acc_gt", ...}]}
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["as_sentence", "emit", "plain", "remark"]


def plain(value: Any) -> Any:
    """Return `value` as something JSON can hold: missing and infinite numbers become None, unknown types text."""
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    text = str(value)
    return None if text in ("nan", "NaT", "<NA>") else text


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one mapping a row; a named index becomes fields."""
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    columns: list[Any] = list(frame.columns)
    names = [" ".join(str(p) for p in c if p != "") if isinstance(c, tuple) else str(c) for c in columns]
    return [dict(zip(names, map(plain, row), strict=True)) for row in frame.itertuples(index=False, name=None)]


def emit(
    frame: pd.DataFrame,
    *,
    as_json: bool,
    title: str | None = None,
    note: str | None = None,
    more: Mapping[str, Any] | None = None,
    digits: int = 3,
) -> None:
    """Print a table on standard output.

    Parameters
    ----------
    frame : pandas.DataFrame
        Any values; a named index becomes columns.
    as_json : bool
        Print one JSON object with ``title``, ``note``, ``rows`` and the entries of `more`, else an aligned table.
    title, note : str, optional
        Printed above and below.
    more : mapping, optional
        Further JSON fields; not printed as text.
    digits : int
        Decimal places of floats in text.
    """
    if as_json:
        record = {"title": title, "note": note, **(more or {}), "rows": _rows(frame)}
        print(json.dumps({key: plain(part) for key, part in record.items() if part is not None}, indent=2))
        return
    from vpanalysis._html import text_table

    print(text_table(frame, title, note, digits=digits))


def remark(text: str) -> None:
    """Print one line on standard error, where it disturbs neither a table nor JSON; no name in it moves the cursor."""
    print(_printable(text), file=sys.stderr)


def as_sentence(error: BaseException) -> str:
    """Return the message of `error` on one line, with its type where it has no message of ours.

    Control characters in names from data are replaced, so that they cannot move the cursor.
    """
    from vpanalysis.errors import VPError

    text = " ".join(str(error).split()) or type(error).__name__
    text = _printable(text)
    if isinstance(error, VPError):
        return text
    if isinstance(error, OSError) and error.strerror:
        named = f": {_printable(str(Path(error.filename)))}" if isinstance(error.filename, str) else ""
        return f"{error.strerror}{named}"
    return f"{type(error).__name__}: {text}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
