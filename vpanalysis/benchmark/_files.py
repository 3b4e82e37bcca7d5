"""From a file to records, and from a record to its clip.

JSON, JSON lines, CSV, TSV and parquet become numbered records, so that a message can name the row. Only the container
is read here, what stands in a record is `_schema`'s business. A broken container is one error that names the file and,
where the format has them, the line. `AudioRoot` finds clips whose paths were written on another machine.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vpanalysis.benchmark.audio import ArrayAudio, AudioSource, BytesAudio, FileAudio
from vpanalysis.errors import SchemaError

__all__ = ["AUDIO_KEYS", "SPLITS", "SUFFIXES", "AudioRoot", "Row", "read_json", "read_rows"]

Row = tuple[int, Any]
"""Where a record stands in its file (from 1), and the record."""

AUDIO_KEYS = ("audio", "audio_path", "path", "file_name")
"""Fields that may say where a record's clip is, in order of preference."""

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
SPLITS = ("train", "validation", "valid", "dev", "test")


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


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")  # Tables saved on Windows begin with a byte order mark.
    except UnicodeDecodeError as error:
        raise SchemaError(
            f"cannot read the benchmark {str(file)!r}", found=f"bytes that are not UTF-8 at {error.start}"
        ) from error
    except OSError as error:
        raise SchemaError(f"cannot read the benchmark {str(file)!r}", found=error.strerror or str(error)) from error


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
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise SchemaError(
            f"cannot read the benchmark {str(file)!r}", found=f"text that is not JSON ({error})", allowed="a JSON list"
        ) from error


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
    for number, line in enumerate(_text(file).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append((number, json.loads(line)))
        except (json.JSONDecodeError, RecursionError) as error:
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
    text = _text(file)
    header = text.split("\n", 1)[0]
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ";" if header.count(";") > header.count(",") else ","
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        table = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise SchemaError(f"cannot read the benchmark {str(file)!r}", found=f"a broken table ({error})") from error
    # DictReader puts surplus cells under None and missing ones as None: the first is always a quoting mistake.
    for number, row in enumerate(table, start=1):
        if None in row:
            raise SchemaError(
                f"cannot read the benchmark {str(file)!r}",
                found=f"row {number} with more cells than the header has columns",
                fix="quote cells that hold the delimiter",
            )
    rows: list[Row] = [
        (number, {key.strip(): cell for key, cell in row.items()}) for number, row in enumerate(table, start=1)
    ]
    return rows


def _from_parquet(file: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise SchemaError(f"cannot read the benchmark {str(file)!r}", found=f"a broken table ({error})") from error
    return list(enumerate(table.to_pylist(), start=1))


class AudioRoot:
    """Turns what a record says about its clip into an audio source.

    Parameters
    ----------
    folders : sequence of Path
        Folders against which relative paths are tried, in order. A path that exists in none of them, such as an
        absolute one from another machine, is also tried with its leading parts removed.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = list(folders)

    def source(self, value: Any, name: str) -> AudioSource | None:
        """Return the clip of `value` (a path, or a Hub audio cell), or None when it is neither."""
        if isinstance(value, Mapping):
            if value.get("bytes") is not None:
                return BytesAudio(bytes(value["bytes"]), name=str(value.get("path") or name))
            if value.get("array") is not None and value.get("sampling_rate"):
                return ArrayAudio(np.asarray(value["array"]), int(value["sampling_rate"]), name=name)
            value = value.get("path")
        if isinstance(value, Path):
            value = str(value)
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            return None
        return FileAudio(self.find(value.strip()))

    def find(self, path: str) -> Path:
        """Return where `path` exists, else where it should have been."""
        parts = PurePosixPath(path.replace("\\", "/")).parts
        relative = parts[1:] if parts and parts[0] == "/" else parts
        for folder in self.folders:
            # Path("/a") / "/b" is "/b": an absolute path is tried as it is first.
            for candidate in (folder / path, *(folder.joinpath(*relative[i:]) for i in range(len(relative)))):
                if candidate.is_file():
                    return candidate
        return self.folders[0] / path
