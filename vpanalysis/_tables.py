"""Tables of results with fixed column types, and their way into a JSON file and back.

A result that is saved and loaded must be the same table: same columns, same types, missing values still missing. The
types are stated once by whoever makes the table, so neither the version of pandas nor a column without any value
changes them. Text and options (tuples of str) are object columns with None where something is missing; a missing
number is NaN, which JSON writes as null.

>>> table = typed([{"task": "age", "estimate": float("nan"), "said": ("Child",)}], {"task": "text",
...               "estimate": "float", "said": "text"})
>>> from_json(to_json(table)).equals(table)
True
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from vpanalysis._untrusted import strict_json
from vpanalysis.errors import RunError

__all__ = ["Kind", "from_json", "is_missing", "read_record", "to_json", "typed", "write_record"]

Kind = Literal["float", "int", "bool", "text"]
_DTYPES: Mapping[str, Any] = {"float": np.float64, "int": np.int64, "bool": np.bool_, "text": object}


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: None, NaN, NA or NaT, in whichever form pandas gives it."""
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)


def typed(rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, Kind]) -> pd.DataFrame:
    """Return `rows` as a table with the columns and types of `kinds`; other keys of the rows are left out."""
    columns: dict[str, Any] = {}
    for name, kind in kinds.items():
        values = [row.get(name) for row in rows]
        if kind == "text":
            # Filled one by one: numpy would make a second axis of tuples of equal length.
            filled = np.empty(len(values), dtype=object)
            for number, value in enumerate(values):
                filled[number] = None if is_missing(value) else value
            columns[name] = pd.Series(filled, dtype=object)
        else:
            missing = np.nan if kind == "float" else 0
            columns[name] = np.array([missing if is_missing(v) else v for v in values], dtype=_DTYPES[kind])
    return pd.DataFrame(columns, columns=list(kinds))


def to_json(table: pd.DataFrame) -> dict[str, Any]:
    """Return a table made by :func:`typed` as plain lists for a JSON file."""
    kinds = {"f": "float", "i": "int", "b": "bool", "O": "text"}
    return {
        "kinds": {str(name): kinds[table[name].dtype.kind] for name in table.columns},
        "columns": {str(name): [_plain(value) for value in table[name]] for name in table.columns},
    }


def from_json(record: Mapping[str, Any]) -> pd.DataFrame:
    """Return the table that :func:`to_json` wrote."""
    names = list(record["kinds"])
    columns = [record["columns"][name] for name in names]
    rows = [
        {name: tuple(v) if isinstance(v, list) else v for name, v in zip(names, values, strict=True)}
        for values in zip(*columns, strict=True)
    ]
    return typed(rows, record["kinds"])


def write_record(path: str | Path, record: Mapping[str, Any], default_name: str) -> Path:
    """Write a JSON file, all or nothing; a folder, or a path without a suffix, gets `default_name`."""
    file = _file(path, default_name)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    part.write_text(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    part.replace(file)
    return file


def read_record(path: str | Path, kind: str, default_name: str) -> dict[str, Any]:
    """Read what :func:`write_record` wrote.

    Raises
    ------
    RunError
        If there is no such file, or it holds something else than a `kind`.
    """
    file = _file(path, default_name)
    asked = f"cannot load a {kind} from {str(file)!r}"
    try:
        record = strict_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(asked, found=error.strerror or str(error)) from error
    except ValueError as error:
        raise RunError(asked, found=f"text that is not JSON ({error})") from error
    if not isinstance(record, dict) or record.get("kind") != kind:
        found = record.get("kind") if isinstance(record, dict) else type(record).__name__
        raise RunError(asked, found=f"kind {found!r}", allowed=[kind])
    return record


def _file(path: str | Path, default_name: str) -> Path:
    path = Path(path)
    return path / default_name if path.is_dir() or not path.suffix else path


def _plain(value: Any) -> Any:
    if is_missing(value):
        return None
    if isinstance(value, np.generic):
        return _plain(value.item())
    return list(value) if isinstance(value, tuple) else value
