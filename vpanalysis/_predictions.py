"""The predictions of a Run: one parquet file a block, one row an item.

Why it exists. Three questions are put to a model about one item, and they are different measurements: which letter has
the largest logit (``pred_logits``), which option's text is most likely (``pred_text_score``), and which option it names
when it writes freely (``pred_generated``). Mixing them makes numbers that nobody can reproduce, so they are three
columns, with the raw reply and the parser's verdict beside the third.

The idea. A row repeats the whole item, so that a Run can be scored without its benchmark. Lists are list columns. A
failed item has its reason and no prediction. Pages carry checksums, which are verified on reading.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vpanalysis import _blocks
from vpanalysis._calibrated import COLUMN
from vpanalysis._places import is_local, write_whole
from vpanalysis.benchmark.items import ITEM_COLUMNS, Item
from vpanalysis.benchmark.parsing import parse_answer
from vpanalysis.capture.store import MEND
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = [
    "PREDICTION_COLUMNS",
    "PREDICTION_KINDS",
    "Answer",
    "agreement_table",
    "bias_table",
    "export_jsonl",
    "read_predictions",
    "write_predictions",
]

PREDICTION_KINDS = ("pred_logits", "pred_text_score", "pred_generated")
"""The three predictions, kept apart."""

_LISTS = ("choices", "letters", "said", "claims", "foils")
_FLOAT_LISTS = ("option_logprobs", "text_scores")
_OWN = (
    "status", "reason", "windows", "seconds", "pred_logits", "option_logprobs", "pred_text_score", "text_scores",
    "pred_generated_raw", "pred_generated", "parse_status",
)  # fmt: skip

_STORED = (*ITEM_COLUMNS, *_OWN)
PREDICTION_COLUMNS: tuple[str, ...] = (*_STORED, COLUMN)
"""Columns of `Run.predictions`, in order; the last comes from the manifest, the others from the blocks."""


@dataclass
class Answer:
    """What became of one item.

    Parameters
    ----------
    reason : str or None
        Why the item failed; None when it did not.
    windows : int or None
        Windows that the clip filled.
    seconds : float or None
        Duration of the clip.
    option_logprobs : sequence of float or None
        One per offered option, in the order of the choices.
    text_scores : sequence of float or None
        Likewise, of the option texts.
    raw : str or None
        The generated reply.
    """

    reason: str | None = None
    windows: int | None = None
    seconds: float | None = None
    option_logprobs: Sequence[float] | None = None
    text_scores: Sequence[float] | None = None
    raw: str | None = None


def _schema() -> pa.Schema:
    import pyarrow as pa

    kinds: dict[str, pa.DataType] = {name: pa.list_(pa.string()) for name in _LISTS}
    kinds |= {name: pa.list_(pa.float32()) for name in _FLOAT_LISTS}
    kinds |= {"windows": pa.int32(), "seconds": pa.float64()}
    return pa.schema([(name, kinds.get(name, pa.string())) for name in _STORED])


def _row(item: Item, answer: Answer) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(item, name) for name in ITEM_COLUMNS}
    row |= {name: list(row[name]) for name in _LISTS}
    row |= dict.fromkeys(_OWN)
    row |= {
        "status": "ok" if answer.reason is None else "failed",
        "reason": answer.reason,
        "windows": answer.windows,
        "seconds": answer.seconds,
    }
    if answer.option_logprobs is not None:
        row["option_logprobs"] = [float(v) for v in answer.option_logprobs]
        row["pred_logits"] = _best(item, answer.option_logprobs)
    if answer.text_scores is not None:
        row["text_scores"] = [float(v) for v in answer.text_scores]
        row["pred_text_score"] = _best(item, answer.text_scores)
    if answer.raw is not None:
        parsed = parse_answer(answer.raw, item.choices, item.letters)
        row |= {"pred_generated_raw": answer.raw, "pred_generated": parsed.choice, "parse_status": parsed.status}
    return row


def _best(item: Item, scores: Sequence[float]) -> str | None:
    """Return the option with the largest score; the first of equals; None where a score is NaN."""
    values = np.asarray(scores, dtype=np.float64)
    return None if np.isnan(values).any() else item.choices[int(values.argmax())]


def block_path(folder: Path, block: int) -> Path:
    """Return the parquet file of a block."""
    return folder / "predictions" / f"{block:05d}.parquet"


def write_predictions(folder: Path, block: int, items: Sequence[Item], answers: Sequence[Answer]) -> str:
    """Write the rows of one block, whole or not at all.

    Parameters
    ----------
    folder : Path
        Of the Run.
    block : int
    items : sequence of Item
    answers : sequence of Answer
        One an item.

    Returns
    -------
    str
        CRC-32 of the file (hex), for the block's marker.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [_row(item, answer) for item, answer in zip(items, answers, strict=True)]
    table = pa.Table.from_pylist(rows, schema=_schema())
    path = block_path(folder, block)
    if is_local(path):
        path.parent.mkdir(exist_ok=True)
    # A block is a few kilobytes an item: made in memory, so that a file system and an object store get the same bytes.
    made = io.BytesIO()
    pq.write_table(table, made, compression="zstd", write_page_checksum=True)
    data = made.getvalue()
    write_whole(path, data)
    return f"{zlib.crc32(data):08x}"


def read_predictions(folder: Path, blocks: Sequence[int]) -> pd.DataFrame:
    """Return the rows of finished blocks, in order; list columns hold Python lists, missing values are None or NaN.

    Raises
    ------
    RunError
        If a block is missing or damaged.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for block in blocks:
        path = block_path(folder, block)
        try:
            data = path.read_bytes()
            # Pages have checksums of their own, but the footer of a parquet file has none.
            promised = (_blocks.read_marker(folder, block) or {}).get("predictions_crc32")
            if promised is not None and f"{zlib.crc32(data):08x}" != promised:
                raise OSError("the file's checksum does not agree with the block's marker")
            tables.append(pq.read_table(pa.BufferReader(data), page_checksum_verification=True, partitioning=None))
        except (OSError, pa.ArrowException) as error:
            raise RunError(
                f"cannot read {str(path)!r}",
                found=f"damaged data in block {block} "
                f"({str(error).splitlines()[0] if str(error) else type(error).__name__})",
                fix=MEND,
            ) from error
    # Blocks of an older version may lack a column, which is empty there.
    table = pa.concat_tables(tables, promote_options="default") if tables else _schema().empty_table()
    columns: dict[str, Any] = {}
    for name in table.column_names:
        if name == "windows":
            columns[name] = pd.array(table.column(name).to_pylist(), dtype="Int32")
        elif name == "seconds":
            columns[name] = table.column(name).to_numpy()
        else:
            # Python lists and None: what item columns hold everywhere else.
            columns[name] = pd.Series(table.column(name).to_pylist(), dtype=object)
    return pd.DataFrame(columns)


def recorded_kinds(predictions: pd.DataFrame) -> list[str]:
    """Return which of the three predictions the Run holds."""
    raw = {"pred_generated": "pred_generated_raw", "pred_text_score": "text_scores", "pred_logits": "option_logprobs"}
    return [kind for kind in PREDICTION_KINDS if bool(predictions[raw[kind]].notna().any())]


def _not_recorded(asked: str, prediction: str, kinds: Sequence[str]) -> RunError:
    if kinds:
        return RunError(asked, found=repr(prediction), allowed=kinds, word=prediction)
    return RunError(asked, found="a Run without predictions")


def agreement_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Return how often two predictions name the same option: a, b, n (items with both), agree (share), per pair."""
    import pandas as pd

    kinds = recorded_kinds(predictions)
    rows = []
    for number, a in enumerate(kinds):
        for b in kinds[number + 1 :]:
            both = predictions[a].notna() & predictions[b].notna()
            same = (predictions.loc[both, a] == predictions.loc[both, b]).mean() if both.any() else np.nan
            rows.append({"a": a, "b": b, "n": int(both.sum()), "agree": float(same)})
    return pd.DataFrame(rows, columns=["a", "b", "n", "agree"])


def bias_table(predictions: pd.DataFrame, prediction: str = "pred_logits") -> pd.DataFrame:
    """Return how often each letter is picked against how often it is right.

    Parameters
    ----------
    predictions : DataFrame
    prediction : str
        One of `PREDICTION_KINDS`.

    Returns
    -------
    DataFrame
        One row a letter: offered (items), picked and truth (shares of the items that offer it and have a prediction),
        excess = picked - truth.

    Raises
    ------
    RunError
        If the Run does not hold this prediction.
    """
    import pandas as pd

    kinds = recorded_kinds(predictions)
    if prediction not in kinds:
        raise _not_recorded("cannot measure the letter bias", prediction, kinds)
    tally: dict[str, list[int]] = {}
    chosen = predictions[predictions[prediction].notna()]
    for choices, letters, truth, picked in zip(
        chosen["choices"], chosen["letters"], chosen["truth"], chosen[prediction], strict=True
    ):
        for choice, letter in zip(choices, letters, strict=True):
            counts = tally.setdefault(letter, [0, 0, 0])
            counts[0] += 1
            counts[1] += choice == picked
            counts[2] += choice == truth
    rows = [
        {"letter": letter, "offered": n, "picked": p / n, "truth": t / n, "excess": (p - t) / n}
        for letter, (n, p, t) in sorted(tally.items())
    ]
    return pd.DataFrame(rows, columns=["letter", "offered", "picked", "truth", "excess"])


def export_jsonl(predictions: pd.DataFrame, path: Path, prediction: str) -> Path:
    """Write one JSON object a line with the released dataset's field names and the chosen prediction.

    Returns
    -------
    Path
        The file, with ``id, task_name, question, choice_a..d, answer_gt, adversarial_labels, prediction`` and
        ``prediction_kind``; ``prediction`` is the raw reply for ``pred_generated``, else ``"(B) option"``; empty for
        a failed item, so that no id is missing. Items that the model was calibrated on say ``"calibration": true``.

    Raises
    ------
    RunError
        If the Run does not hold this prediction.
    """
    kinds = recorded_kinds(predictions)
    if prediction not in kinds:
        raise _not_recorded("cannot export the predictions", prediction, kinds)
    lines = []
    for row in predictions.to_dict("records"):
        slots: dict[str, str | None] = {f"choice_{letter}": None for letter in "abcd"}
        slots |= {f"choice_{k.lower()}": c for k, c in zip(row["letters"], row["choices"], strict=True)}
        picked = row["pred_generated_raw"] if prediction == "pred_generated" else _with_letter(row, row[prediction])
        record = {
            "id": row["id"],
            "task_name": row["task_name"],
            "question": row["question"],
            **slots,
            "answer_gt": row["truth"],
            "adversarial_labels": row["claims"],
            "prediction": picked or "",
            "prediction_kind": prediction,
        }
        if row.get(COLUMN):
            # For whoever scores the file: this item chose how the model is read.
            record[COLUMN] = True
        lines.append(json.dumps(record, ensure_ascii=False))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    part.replace(path)
    return path


def _with_letter(row: dict[Any, Any], choice: str | None) -> str | None:
    if choice is None:
        return None
    return f"({row['letters'][row['choices'].index(choice)]}) {choice}"
