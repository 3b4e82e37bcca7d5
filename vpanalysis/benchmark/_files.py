"""From a file to records.

JSON, JSON lines, CSV, TSV and parquet become numbered records, so that a message can name the row. Only the container
is read here, what stands in a record is `_schema`'s business. A broken container is one error that names the file and,
where the format has them, the line. `_roots` finds the clips.

Memory is bounded before it is taken: a JSON file is read whole and must be under `MAX_JSON` bytes; JSON lines, CSV and
TSV are read line by line, `MAX_LINE` bytes at most; parquet says how many rows it has. A line of a gigabyte is refused
after sixteen megabytes of it.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from vpanalysis._untrusted import open_regular, strict_json
from vpanalysis.errors import SchemaError

__all__ = ["AUDIO_KEYS", "SPLITS", "SUFFIXES", "Row", "read_json", "read_rows"]

Row = tuple[int, Any]
"""Where a record stands in its file (from 1), and the record."""

AUDIO_KEYS = ("audio", "audio_path", "path", "file_name")
"""Fields that may say where a record's clip is, in order of preference."""

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
SPLITS = ("train", "validation", "valid", "dev", "test")

MAX_JSON = 512 << 20
"""Largest JSON file (bytes), which is held in memory whole, as text and as records."""

MAX_LINE = 16 << 20
"""Longest line of JSON lines, CSV and TSV (bytes)."""

MAX_ROWS = 10_000_000
"""Most rows of a parquet file."""

_ENDS = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


def read_rows(file: Path, split: str) -> tuple[list[Row], bool]:
    """Return the records of `file` that belong to `split`, and whether the file knows about splits.

    Raises
    ------
    SchemaError
        If the file cannot be read, or has splits but not this one.
    """
    suffix = file.suffix.lower()
    if suffix == ".json":
        rows, split_known = _from_json(file, read_json(file), split)
    elif suffix in (".jsonl", ".ndjson"):
        rows, split_known = _from_jsonl(file), False
    elif suffix in (".csv", ".tsv"):
        rows, split_known = _from_csv(file), False
    elif suffix == ".parquet":
        rows, split_known = _from_parquet(file), False
    else:
        raise SchemaError(f"cannot read the benchmark {str(file)!r}", found=f"a {suffix} file", allowed=SUFFIXES)
    named = [row.get("split") if isinstance(row, Mapping) else None for _, row in rows]
    if not any(named):
        return rows, split_known
    if split not in named:
        have = sorted({str(name) for name in named if name})
        raise SchemaError(
            f"cannot read the benchmark {str(file)!r}", found=f"split {split!r} asked", allowed=have, word=split
        )
    return [pair for pair, name in zip(rows, named, strict=True) if name == split], True


def _broken(file: Path, found: str, allowed: str | None = None, fix: str | None = None) -> SchemaError:
    return SchemaError(f"cannot read the benchmark {str(file)!r}", found=found, allowed=allowed, fix=fix)


def _opened(file: Path) -> BinaryIO:
    try:
        return open_regular(file)
    except OSError as error:
        raise _broken(file, error.strerror or str(error)) from error


def _text(file: Path) -> str:
    """Return a whole file as text, unless it is larger than `MAX_JSON`."""
    with _opened(file) as handle:
        size = os.fstat(handle.fileno()).st_size
        if size > MAX_JSON:
            raise _broken(
                file, f"{size / 1e9:.3g} GB in one JSON value", f"at most {MAX_JSON / 1e9:.2g} GB",
                "write it as JSON lines (one record a line, .jsonl) or as parquet, which are read piece by piece",
            )  # fmt: skip
        data = handle.read()
    # Tables saved on Windows begin with a byte order mark.
    return _decoded(data, file, "").removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _decoded(data: bytes, file: Path, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        wide = " (it looks like UTF-16)" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise _broken(
            file, f"bytes that are not UTF-8 at {error.start}{where}{wide}", fix="save the file as UTF-8"
        ) from error


def _lines(file: Path) -> Iterator[str]:
    """Yield the lines of a text file with their ends, without ever holding more than `MAX_LINE` bytes of one."""
    with _opened(file) as handle:
        number = 0
        while line := handle.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise _broken(file, f"line {number} of more than {MAX_LINE >> 20} MiB", "one record a line")
            text = _decoded(line, file, f" of line {number}")
            # Lines may also end in a carriage return alone.
            yield from _ENDS.findall(text.removeprefix("\ufeff") if number == 1 else text)


def read_json(file: Path) -> Any:
    """Return the content of a JSON file.

    Raises
    ------
    SchemaError
        If it is unreadable or not JSON; names the line.
    """
    text = _text(file)
    if text.startswith("version https://git-lfs"):
        raise SchemaError(
            f"cannot read the benchmark {str(file)!r}",
            found="a Git LFS pointer instead of the file",
            fix="install Git LFS and run 'git lfs pull' in the dataset folder",
        )
    try:
        return strict_json(text)
    except ValueError as error:
        raise _broken(file, f"text that is not JSON ({error})", "a JSON list") from error


def _from_json(file: Path, content: Any, split: str) -> tuple[list[Row], bool]:
    """Accept a list of records, ``{"data": [...]}``, ``{"test": [...]}``, or ``{id: record}``."""
    split_known = False
    if isinstance(content, Mapping):
        lists = {key: value for key, value in content.items() if isinstance(value, list)}
        if split in lists:
            content, split_known = lists[split], True
        elif any(key in SPLITS for key in lists):
            raise SchemaError(
                f"cannot read the benchmark {str(file)!r}",
                found=f"split {split!r} asked",
                allowed=sorted(lists),
                word=split,
            )
        elif len(lists) == 1:
            content = next(iter(lists.values()))
        elif content and all(isinstance(value, Mapping) for value in content.values()):
            content = [{"id": key, **value} for key, value in content.items()]
    if not isinstance(content, list):
        raise SchemaError(
            f"cannot read the benchmark {str(file)!r}",
            found=f"a JSON {type(content).__name__}",
            allowed="a list of records, {split: list} or {id: record}",
        )
    return list(enumerate(content, start=1)), split_known


def _from_jsonl(file: Path) -> list[Row]:
    rows: list[Row] = []
    broken: list[str] = []
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        try:
            rows.append((number, strict_json(line)))
        except ValueError as error:
            broken.append(f"line {number}: {error}")
    if broken:
        listed = "; ".join(broken[:20]) + (f"; and {len(broken) - 20} more" if len(broken) > 20 else "")
        raise SchemaError(
            f"cannot read the benchmark {str(file)!r}",
            found=f"{len(broken)} lines that are not JSON ({listed})",
            allowed="one JSON object a line",
        )
    return rows


def _from_csv(file: Path) -> list[Row]:
    header = next(_lines(file), "")
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ";" if header.count(";") > header.count(",") else ","
    csv.field_size_limit(MAX_LINE)
    try:
        table = csv.DictReader(_lines(file), delimiter=delimiter, strict=True)
        names = [name.strip() for name in table.fieldnames or ()]
        twice = [name for name, times in Counter(names).items() if times > 1 and name]
        if twice:
            raise _broken(file, f"the column {twice[0]!r} twice", "each name once")
        cells = list(table)
    except csv.Error as error:
        raise _broken(file, f"a broken table ({error})") from error
    # DictReader puts surplus cells under None and missing ones as None: the first is always a quoting mistake.
    for number, row in enumerate(cells, start=1):
        if None in row:
            raise _broken(
                file, f"row {number} with more cells than the header has columns",
                fix="quote cells that hold the delimiter",
            )  # fmt: skip
    return [(number, {key.strip(): cell for key, cell in row.items()}) for number, row in enumerate(cells, start=1)]


def _from_parquet(file: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with _opened(file) as handle, pyarrow.parquet.ParquetFile(handle) as parquet:
            count = parquet.metadata.num_rows
            # A few hundred bytes can stand for billions of equal rows.
            if count > MAX_ROWS:
                raise _broken(file, f"{count} rows", f"at most {MAX_ROWS}", "split it")
            return list(enumerate(parquet.read().to_pylist(), start=1))
    # Texts that are no UTF-8 and numbers that are no dates show when they become values, as ValueError.
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise _broken(file, f"a broken table ({error})") from error
