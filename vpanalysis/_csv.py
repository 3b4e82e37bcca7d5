"""CSV that a spreadsheet shows and does not run.

Why it exists. A spreadsheet takes a cell that begins with ``=``, ``+``, ``-`` or ``@`` for a formula, and a formula can
call programs or send cells elsewhere. Names of tasks and options come from other people's data, and end up in tables
that people open by a double click.

The idea. Such a text cell is written with an apostrophe before it, the sign by which spreadsheets mark text. Numbers
stay numbers: columns of numbers are not touched, and neither is a text that is nothing but one, such as ``-0.5``.

>>> import pandas as pd
>>> print(csv_text(pd.DataFrame({"task": ["=1+1", "age"], "gain": [-0.5, 2.0]})), end="")
task,gain
'=1+1,-0.5
age,2.0

What it cannot do: undo itself. A reader sees the apostrophe, so nothing that is read back is written by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["csv_text", "plain_cell"]

# The last four are the wide forms of Chinese and Japanese keyboards, which spreadsheets take for the same.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def plain_cell(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula; anything but text is returned as it is."""
    if isinstance(value, (tuple, list)):
        value = str(value)
    if not isinstance(value, str) or not value.lstrip(" \xa0\0").startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return "'" + value
    # Python reads a number past blanks and line ends; a spreadsheet may not.
    return value if value.isprintable() else "'" + value


def csv_text(frame: pd.DataFrame, *, float_format: str | None = None) -> str:
    """Return a table as CSV with a header, without its index.

    Parameters
    ----------
    frame : DataFrame
        Any values; text that could be a formula gets an apostrophe, in the header too. Ends of lines within a cell
        become one kind, the line feed.
    float_format : str, optional
        Such as ``"%.10g"``.
    """
    import pandas as pd

    safe = frame.copy(deep=False)
    for place in range(frame.shape[1]):
        column = frame.iloc[:, place]
        if not pd.api.types.is_numeric_dtype(column.dtype):
            safe.isetitem(place, pd.Series([_one_end(plain_cell(v)) for v in column], dtype=object).to_numpy())
    safe.columns = pd.Index([_one_end(plain_cell(str(name))) for name in frame.columns])
    text: str = safe.to_csv(index=False, lineterminator="\n", float_format=float_format)
    return text


def _one_end(value: Any) -> Any:
    # A cell with a carriage return is not quoted by the writer, and would begin a new row for a reader.
    return value.replace("\r\n", "\n").replace("\r", "\n") if isinstance(value, str) else value
