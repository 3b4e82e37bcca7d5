"""Where a checkpoint's files are: in the package, in a folder, or on the Hub.

Why it exists. Verifying and converting take the same sources as loading, and must look at the same files.

The idea. `folder_of_source` asks the loader's own functions, and fetches from the Hub what they would fetch.

Worked example::

    folder_of_source("mini")                        # the bundled mini-pclm-dpo
    folder_of_source("IHP-Lab/AF3_PCLM_DPO", "37b7e1f")
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpanalysis.errors import ModelError
from vpanalysis.models.conventions import calibration_for, conventions_for

__all__ = ["fields_of_source", "folder_of_source"]


def folder_of_source(source: str | Path, revision: str | None = None) -> Path:
    """Return the local folder of a bundled name, a folder or a Hub id.

    Parameters
    ----------
    source : str or Path
        As in `load_model`.
    revision : str, optional
        Of a Hub repository.

    Raises
    ------
    ModelError
        If there is no such checkpoint, or it holds no safetensors.
    """
    from vpanalysis.models import loading

    folder = loading._folder_of(str(source), revision)
    if folder is None:
        raise ModelError(
            f"cannot read the headers of {str(source)!r}",
            found="no model.safetensors and no index of shards in the repository",
            allowed="safetensors; other weight formats may run code when they are loaded",
        )
    return folder


def fields_of_source(folder: Path, pclm: Mapping[str, Any] | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the fields of the mixer that `load_model` would set, and which of them a calibration decided.

    Parameters
    ----------
    folder : Path
        The checkpoint.
    pclm : mapping, optional
        What the caller sets.
    """
    record = calibration_for(folder)
    decided = conventions_for(folder, record)
    by_answers = () if record is None else tuple(name for name in record["decided"] if name in decided)
    return {**decided, **(pclm or {})}, tuple(name for name in by_answers if name not in (pclm or {}))
