"""Replies made elsewhere: read a file of ids and answers, and match it with the items that were asked.

Why it exists. A leaderboard entry, a script of one's own, or a model behind an interface leaves a file of replies and
no Run. Such a file is scored like a Run, by the same parser, once it is known which reply belongs to which item. Files
are rarely perfect, so whatever does not fit is counted and shown: items without a reply are ``failed`` and stay in
the denominator; replies to unknown ids are left out; a second reply to an item is left out where it says the same, and
makes the item ``unparsed`` where it says something else, because choosing between them would be a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from vpanalysis._calibrated import COLUMN
from vpanalysis._tables import is_missing
from vpanalysis.benchmark._files import SUFFIXES, Row, read_json, read_rows
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.benchmark.parsing import PARSER_VERSION, parse_answer
from vpanalysis.errors import SchemaError

__all__ = ["ReplyReport", "read_replies"]

ID_COLUMNS = ("id", "item_id", "question_id", "uid")
REPLY_COLUMNS = (
    "pred_generated_raw", "raw", "raw_text", "response", "reply", "model_output", "output", "generated",
    "generated_text", "completion", "prediction", "model_prediction", "pred", "pred_generated", "option", "letter",
    "choice", "text", "answer",
)  # fmt: skip
"""Columns that may hold the reply; the first that a file has is read, raw text before what was made of it."""


@dataclass(frozen=True)
class ReplyReport:
    """How a file of replies fits the benchmark.

    Attributes
    ----------
    file, column : str
        What was read.
    parser : str
        Version of the answer parser.
    n_replies : int
        Records in the file.
    missing, surplus, duplicates, contradicted : tuple of str
        Ids without a reply; ids that are no items; ids with several replies; those of them whose replies differ.
    statuses : mapping of str to int
        How often the parser said ok, unparsed, ambiguous, contradiction.
    """

    file: str
    column: str
    parser: str
    n_replies: int
    missing: tuple[str, ...]
    surplus: tuple[str, ...]
    duplicates: tuple[str, ...]
    contradicted: tuple[str, ...]
    statuses: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON file."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def __str__(self) -> str:
        return describe(self.to_dict())


def describe(report: Mapping[str, Any]) -> str:
    """Return one sentence about a report, as saved in the settings of a Score."""
    said = [
        f"{report['n_replies']} replies from {report['file']}, column {report['column']!r}, parser {report['parser']}"
    ]
    for key, what in (
        ("missing", "items without a reply (failed)"),
        ("surplus", "replies to unknown ids (left out)"),
        ("duplicates", "items with several replies"),
        ("contradicted", "of them with replies that differ (unparsed)"),
    ):
        ids = report[key]
        if ids:
            more = ", ..." if len(ids) > 3 else ""
            said.append(f"{len(ids)} {what}: {', '.join(ids[:3])}{more}")
    doubts = [f"{n} {name}" for name, n in report["statuses"].items() if name != "ok" and n]
    return "; ".join([*said, *doubts])


def read_replies(
    file: str | Path, benchmark: Benchmark, *, column: str | None = None, id_column: str | None = None
) -> tuple[pd.DataFrame, ReplyReport]:
    """Return a predictions table as a Run has it, with ``pred_generated``, and how the file fits the benchmark.

    Raises
    ------
    SchemaError
        If the file cannot be read, has no ids or replies, or none of its ids is an item.
    """
    path = Path(file)
    rows = _rows(path)
    ids = _column(path, rows, id_column, ID_COLUMNS, "id")
    held = _column(path, rows, column, REPLY_COLUMNS, "reply")
    replies: dict[str, list[str | None]] = {}
    broken: list[str] = []
    for number, row in rows:
        value = row.get(held)
        if is_missing(row.get(ids)) or not str(row[ids]).strip():
            broken.append(f"row {number} without {ids!r}")
        elif isinstance(value, (list, dict)):
            broken.append(f"row {number}: {held!r} is a {type(value).__name__}")
        else:
            replies.setdefault(str(row[ids]).strip(), []).append(None if is_missing(value) else str(value))
    if broken:
        listed = "; ".join(broken[:20]) + (f"; and {len(broken) - 20} more" if len(broken) > 20 else "")
        raise SchemaError(f"cannot read the replies {str(path)!r}", found=listed, allowed="an id and a text a record")
    if not set(replies) & set(benchmark.ids):
        raise SchemaError(
            f"cannot score the replies {str(path)!r}",
            found=f"no id of {benchmark.name!r} among {len(replies)}, such as {next(iter(replies))!r}",
            allowed=f"ids such as {benchmark.ids[0]!r}",
        )
    table, statuses, contradicted = _parsed(benchmark, replies)
    marked = {str(row[ids]).strip() for _, row in rows if row.get(COLUMN) is True}
    table[COLUMN] = table["id"].isin(marked)
    known = set(benchmark.ids)
    return table, ReplyReport(
        file=path.name,
        column=held,
        parser=PARSER_VERSION,
        n_replies=len(rows),
        missing=tuple(i for i in benchmark.ids if i not in replies),
        surplus=tuple(i for i in replies if i not in known),
        duplicates=tuple(i for i, said in replies.items() if len(said) > 1 and i in known),
        contradicted=tuple(contradicted),
        statuses=statuses,
    )


def _parsed(
    benchmark: Benchmark, replies: Mapping[str, list[str | None]]
) -> tuple[pd.DataFrame, dict[str, int], list[str]]:
    table = benchmark.to_dataframe()
    columns: dict[str, list[str | None]] = {
        name: [] for name in ("status", "reason", "pred_generated_raw", "pred_generated", "parse_status")
    }
    statuses: dict[str, int] = {}
    contradicted: list[str] = []
    for item in benchmark:
        said = replies.get(item.id)
        parsed = [parse_answer(text, item.choices, item.letters) for text in said or ()]
        status, choice = (parsed[0].status, parsed[0].choice) if parsed else (None, None)
        if any((p.status, p.choice) != (status, choice) for p in parsed):
            contradicted.append(item.id)
            status, choice = "ambiguous", None
        if status is not None:
            statuses[status] = statuses.get(status, 0) + 1
        columns["status"].append("ok" if said else "failed")
        columns["reason"].append(None if said else "no reply")
        columns["pred_generated_raw"].append(said[0] if said else None)
        columns["pred_generated"].append(choice)
        columns["parse_status"].append(status)
    for name, values in columns.items():
        table[name] = pd.Series(values, dtype=object)
    return table, statuses, contradicted


def _rows(path: Path) -> list[Row]:
    """Return the records of a table; ``{id: reply}`` is one as well."""
    try:
        if path.suffix.lower() == ".json":
            content = read_json(path)
            if (
                isinstance(content, Mapping)
                and content
                and not any(isinstance(v, (list, dict)) for v in content.values())
            ):
                return [(n, {"id": i, "reply": text}) for n, (i, text) in enumerate(content.items(), start=1)]
        rows, _ = read_rows(path, "test")
    except SchemaError as error:
        # The reader of tables speaks of benchmarks.
        raise SchemaError(str(error).replace("read the benchmark", "read the replies", 1)) from error
    strange = [number for number, row in rows if not isinstance(row, Mapping)]
    if strange or not rows:
        found = f"row {strange[0]} that is no record" if strange else "no records"
        raise SchemaError(
            f"cannot read the replies {str(path)!r}", found=found, allowed=f"records in {', '.join(SUFFIXES)}"
        )
    return rows


def _column(path: Path, rows: list[Row], asked: str | None, candidates: tuple[str, ...], what: str) -> str:
    have = list(dict.fromkeys(key for _, row in rows for key in row))
    if asked is not None:
        if asked not in have:
            raise SchemaError(
                f"cannot read the {what} column of {str(path)!r}", found=repr(asked), allowed=have, word=asked
            )
        return asked
    for name in candidates:
        if name in have:
            return name
    raise SchemaError(
        f"cannot find the {what} column of {str(path)!r}",
        found=f"columns {', '.join(map(repr, have))}",
        allowed=candidates,
        fix="rename it, or name it in the call",
    )
