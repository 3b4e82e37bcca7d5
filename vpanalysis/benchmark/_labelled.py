"""Clips with labels and nothing else: a folder of folders, or a table ``path, label``, as multiple-choice questions.

The options of a question are the sorted labels of its task, the words are taken to claim nothing (``neutral``), and
the rest goes the way of every other record.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpanalysis.benchmark._files import AUDIO_KEYS, SPLITS, Row
from vpanalysis.benchmark._schema import Problem, is_missing, raise_problems
from vpanalysis.errors import SchemaError

__all__ = ["TABLES", "NoTableError", "labelled_folder", "labelled_rows"]

TABLES = ("voxparadox.json", "metadata.jsonl", "metadata.csv", "metadata.parquet", "labels.csv")
"""Names under which a folder's table is looked for, in this order."""

_AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au"})
_LETTERS = 26
_LABEL_QUESTION = "Which label describes the audio best?"


class NoTableError(SchemaError):
    """A folder holds neither a table nor labelled clips."""


def labelled_folder(folder: Path, split_known: bool) -> list[Row]:
    """Return one record a clip of ``folder/<label>/**``."""
    clips = [
        (path, path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in _AUDIO_SUFFIXES and len(path.relative_to(folder).parts) > 1
    ]
    labels = {relative.parts[0] for _, relative in clips}
    if not split_known and labels & set(SPLITS) and labels <= set(SPLITS):
        raise SchemaError(
            f"cannot load the benchmark {str(folder)!r}", found="subfolders of splits", allowed=sorted(labels)
        )
    if not clips:
        raise NoTableError(
            f"cannot load the benchmark {str(folder)!r}",
            found="no table and no subfolders with clips",
            allowed=f"{', '.join(TABLES)}, another table, or one subfolder of clips per label",
        )
    return [
        (number, {"path": relative.as_posix(), "label": relative.parts[0]})
        for number, (_, relative) in enumerate(clips, start=1)
    ]


def labelled_rows(rows: list[Row], file: str) -> list[Row]:
    """Turn ``path, label`` records into questions whose options are the sorted labels of their task."""
    problems = [
        Problem(number, "label", "nothing", "a label")
        for number, row in rows
        if isinstance(row, Mapping) and is_missing(row.get("label"))
    ]
    labels: dict[str, set[str]] = {}
    for _, row in rows:
        if isinstance(row, Mapping) and not is_missing(row.get("label")):
            labels.setdefault(_task(row), set()).add(str(row["label"]).strip())
    first = rows[0][0]
    for task, found in labels.items():
        if not 2 <= len(found) <= _LETTERS:
            problems.append(
                Problem(first, "label", f"{len(found)} different labels in the task {task!r}", f"2 to {_LETTERS}")
            )
    raise_problems(file, problems, len(rows))
    questions: list[Row] = []
    for number, row in rows:
        if not isinstance(row, Mapping):
            questions.append((number, row))
            continue
        options = sorted(labels[_task(row)])
        slots = {f"choice_{chr(ord('a') + i)}": option for i, option in enumerate(options)}
        key = next((k for k in AUDIO_KEYS if isinstance(row.get(k), str)), None)
        defaults = {"question": _LABEL_QUESTION, "condition": "neutral", "id": row[key] if key is not None else None}
        given = {k: v for k, v in row.items() if not is_missing(v)}
        label = str(row["label"]).strip()
        questions.append((number, {**defaults, **given, **slots, "task_name": _task(row), "answer_gt": label}))
    return questions


def _task(row: Mapping[str, Any]) -> str:
    value = row.get("task_name")
    return "labelled" if is_missing(value) else str(value).strip()
