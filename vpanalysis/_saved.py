"""How results are kept: parquet for tables, one JSON file for how they were made, in the folder of the Run they are of.

Why it exists. A number in a folder is worth something only with the Run it came from. Every analysis remembers the hash
of its Run's manifest; saved results carry it, are refused by a Run that has changed since, and say so when they are
read back beside one.

The idea. A folder ``results/<verb>-<hash>/``, in which the hash is of the settings: the same question has the same
folder. The JSON file is written last, so that a folder that has it is complete.

>>> import pandas as pd, tempfile
>>> folder = save_tables(tempfile.mkdtemp(), "Thing", {"table": pd.DataFrame({"a": [1.0]})}, {"run": "mini"})
>>> tables, settings = load_tables(folder, "Thing", ("table",))
>>> tables["table"]["a"].tolist(), settings["run"]
([1.0], 'mini')
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pandas as pd

from vpanalysis._places import is_local, place_of
from vpanalysis._untrusted import strict_json
from vpanalysis.errors import RunError

__all__ = ["StaleResultWarning", "home_of", "load_tables", "manifest_sha", "run_identity", "save_tables"]

RECORD = "result.json"


class StaleResultWarning(UserWarning):
    """A saved result is of a Run that has changed since."""


def manifest_sha(path: str | Path | None) -> str | None:
    """Return the SHA-256 of the manifest in the Run folder `path`; None where there is none."""
    manifest = None if path is None else place_of(path) / "manifest.json"
    return hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest is not None and manifest.is_file() else None


def run_identity(run: Any) -> dict[str, Any]:
    """Return what a result remembers of its Run: name, folder, and the hash of its manifest (None where there is none).

    Parameters
    ----------
    run : Run
        Anything with a ``name``.

    Returns
    -------
    dict
        Keys run, path, manifest_sha.
    """
    path = getattr(run, "path", None)
    sha = manifest_sha(path)
    return {"run": run.name, "path": None if sha is None else str(path), "manifest_sha": sha}


def home_of(settings: Mapping[str, Any], verb: str, **asked: Any) -> Path:
    """Return the folder in the Run where a result belongs.

    Parameters
    ----------
    settings : mapping
        With the keys of :func:`run_identity`.
    verb : str
        First part of the folder's name.
    **asked
        What tells this result from others, besides its settings.

    Returns
    -------
    Path
        ``<run>/results/<verb>-<hash>``; equal settings give an equal folder.

    Raises
    ------
    RunError
        For things that are no Run on the disk, and for a Run that has changed.
    """
    path = settings.get("path")
    now = manifest_sha(path)
    if now is None:
        raise RunError("cannot save the result", found="no Run on the disk", fix="name a folder")
    if now != settings.get("manifest_sha"):
        raise RunError(
            "cannot save the result", found=f"a Run in {str(path)!r} that has changed since", fix="make it again"
        )
    content = json.dumps({**settings, "path": None, **asked}, sort_keys=True, default=str)
    digest = hashlib.sha256(content.encode()).hexdigest()
    return place_of(str(path)) / "results" / f"{re.sub(r'[^A-Za-z0-9_-]', '-', verb)}-{digest[:12]}"


def save_tables(
    folder: str | Path,
    kind: str,
    tables: Mapping[str, pd.DataFrame | Iterable[pd.DataFrame]],
    settings: Mapping[str, Any],
    *,
    record: str = RECORD,
    version: int = 1,
    **more: Any,
) -> Path:
    """Write tables as parquet files and their settings as JSON into a folder, and return it.

    Parameters
    ----------
    folder : str or Path
        Made where it is missing.
    kind : str
        Name of the result class.
    tables : mapping of str to DataFrame, or to an iterable of them
        Parts, of the same columns and types and one at least, become one table that is never in memory whole.
    settings : mapping
    record : str
        Name of the JSON file.
    version : int
        Of the layout.
    **more
        Further entries of the JSON file.
    """
    place = place_of(folder)
    if is_local(place):
        place.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        with (place / f"{name}.parquet").open("wb") as file:
            if isinstance(table, pd.DataFrame):
                file.write(table.to_parquet(None, index=False))
            else:
                _write_parts(file, table)
    content = {"kind": kind, "version": version, **more, "settings": dict(settings)}
    # Last, so that a folder with this file is complete.
    (place / record).write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    return place


def _write_parts(file: IO[bytes], parts: Iterable[pd.DataFrame]) -> None:
    """Write one table, a group of rows a part."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: Any = None
    try:
        for part in parts:
            table = pa.Table.from_pandas(part, schema=None if writer is None else writer.schema, preserve_index=False)
            if writer is None:
                writer = pq.ParquetWriter(file, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def load_tables(
    folder: str | Path, kind: str, names: Sequence[str], *, record: str = RECORD
) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Read what :func:`save_tables` wrote.

    Parameters
    ----------
    folder : str or Path
    kind : str
        What has to be in it.
    names : sequence of str
        The tables.
    record : str

    Returns
    -------
    tables : dict of str to DataFrame
    settings : dict

    Raises
    ------
    RunError
        When the folder does not hold it.

    Warns
    -----
    StaleResultWarning
        When the Run around the folder, or else where it was, has another manifest by now.
    """
    place = place_of(folder)
    missing = [n for n in (record, *(f"{name}.parquet" for name in names)) if not (place / n).is_file()]
    asked = f"cannot load a {kind} from {str(place)!r}"
    if missing:
        raise RunError(asked, found=f"no {', '.join(missing)}", fix=f"give a folder written by {kind}.save")
    try:
        content = strict_json((place / record).read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(asked, found=f"{record} that is no JSON: {error}") from error
    if not isinstance(content, dict) or content.get("kind") != kind:
        found = content.get("kind") if isinstance(content, dict) else type(content).__name__
        raise RunError(asked, found=f"kind {found!r}", allowed=kind)
    tables = {name: pd.read_parquet(io.BytesIO((place / f"{name}.parquet").read_bytes())) for name in names}
    settings: dict[str, Any] = content.get("settings", {})
    known = settings.get("manifest_sha")
    around = place.parent.parent if place.parent.name == "results" else settings.get("path")
    now = manifest_sha(around)
    if known is not None and now is not None and now != known:
        warnings.warn(
            f"the {kind} in {str(place)!r} was made of another state of the Run in {str(around)!r}; make it again",
            StaleResultWarning, stacklevel=3,
        )  # fmt: skip
    return tables, {**settings, **{k: v for k, v in content.items() if k not in ("kind", "version", "settings")}}
