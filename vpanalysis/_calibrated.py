"""Items that a model was calibrated on: recognised by their content, and left out of its scores.

Why it exists. A model whose reading was chosen because it answers some items well must not be scored on them: the score
would contain the choice. The items travel with the calibration, the calibration with the model, and a Run notes in its
manifest which of its items they are, so that a scorer needs neither the model nor the calibration's file.

The idea. An item is known by what was asked about which sound: question, options in any order, and the audio's content
key. Ids are names, and two benchmarks may use the same ones; copies of a benchmark may use others.

Worked example::

    item_key(item)                          # 64 hex digits
    calibration_facts(llm.calibration, benchmark)["excluded"]     # ids within this benchmark
    kept, left_out = without_calibration(run.predictions, include=False)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from vpanalysis import _manifest
from vpanalysis.errors import AudioError, RunError

if TYPE_CHECKING:
    import pandas as pd

    from vpanalysis._calibration import Calibration
    from vpanalysis.benchmark.items import Item

__all__ = [
    "COLUMN",
    "CalibrationLike",
    "calibration_facts",
    "calibration_note",
    "item_key",
    "keys_of",
    "known_items",
    "without_calibration",
]

COLUMN = "calibration"
"""Column of a predictions table: whether the model was calibrated on the item."""


class Noted(Protocol):
    """What is needed of a Run here."""

    manifest: dict[str, Any]


CalibrationLike: TypeAlias = "Calibration | Noted | str | Path"
"""A `Calibration`, a `Run`, or the path of one."""


def keys_of(calibration: CalibrationLike) -> set[str]:
    """Return the content keys of the items that a calibration used.

    Parameters
    ----------
    calibration : Calibration, Run, str or Path
        A path is that of a calibration's file, of a checkpoint with one beside it, or of a Run.

    Raises
    ------
    RunError
        If it is none of these.
    """
    from vpanalysis._calibration import Calibration

    if isinstance(calibration, (str, Path)):
        if (Path(calibration) / _manifest.MANIFEST_NAME).is_file():
            return _keys(_manifest.read_manifest(Path(calibration)))
        calibration = Calibration.load(calibration)
    if isinstance(calibration, Calibration):
        return {item["key"] for item in calibration.items}
    manifest = getattr(calibration, "manifest", None)
    if not isinstance(manifest, Mapping):
        raise RunError(
            "cannot tell the items of a calibration", found=f"a {type(calibration).__name__}",
            allowed="a Calibration, a Run, or the path of one",
        )  # fmt: skip
    return _keys(manifest)


def _keys(manifest: Mapping[str, Any]) -> set[str]:
    return set((manifest.get("calibration") or {}).get("keys", ()))


def item_key(item: Item) -> str:
    """Return the SHA-256 (hex) of what is asked about which sound.

    Raises
    ------
    AudioError
        If the clip cannot be read.
    """
    content = [item.question, sorted(item.choices), item.audio.key()]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


def known_items(items: Iterable[Item], keys: Collection[str]) -> list[str]:
    """Return the ids of the items whose content is among `keys`; one whose clip cannot be read is none of them."""
    known = set(keys)
    found = []
    for item in items:
        try:
            if item_key(item) in known:
                found.append(item.id)
        except AudioError:
            continue
    return found


def calibration_facts(record: Mapping[str, Any] | None, items: Iterable[Item]) -> dict[str, Any] | None:
    """Return what the manifest of a Run says about the calibration of its model; None without one.

    Parameters
    ----------
    record : mapping, optional
        Content of a calibration's file (`AudioLLM.calibration`).
    items : iterable of Item
        Of the Run.
    """
    if record is None:
        return None
    keys = sorted({str(item["key"]) for item in record["items"]})
    return {
        "created": record["created"],
        "fingerprint": record["fingerprint"],
        "benchmark": record.get("benchmark"),
        "decided": dict(record["decided"]),
        "sha": hashlib.sha256(json.dumps(keys).encode()).hexdigest(),
        "keys": keys,
        "excluded": known_items(items, keys),
    }


def without_calibration(table: pd.DataFrame, *, include: bool, name: str) -> tuple[pd.DataFrame, dict[str, Any] | None]:
    """Return a predictions table without the items of its model's calibration, and what to note about that.

    Parameters
    ----------
    table : DataFrame
        Of a Run; one without the column :data:`COLUMN` is returned as it is.
    include : bool
        Keep them all the same; the note says so.
    name : str
        Of the Run, for messages.

    Raises
    ------
    RunError
        If nothing is left.
    """
    if COLUMN not in table.columns:
        return table, None
    used = table[COLUMN].fillna(False).astype(bool)
    if not used.any():
        return table, None
    note = {"items": int(used.sum()), "included": include, "ids": [str(i) for i in table["id"][used]]}
    if include:
        return table, note
    if used.all():
        raise RunError(
            f"cannot score {name!r}",
            found=f"{len(table)} items, on all of which the model was calibrated",
            allowed="items that did not choose how the model is read",
            fix="run it on others, or score them knowingly with include_calibration_items=True",
        )
    return table[~used].reset_index(drop=True), note


def calibration_note(note: Mapping[str, Any]) -> str:
    """Return one sentence for the foot of a table."""
    items = f"{note['items']} items on which the model was calibrated"
    if note["included"]:
        return f"{items} are INCLUDED, as was asked for: these numbers depend on the choice of its reading."
    return f"{items} are left out."
