"""What `vpanalysis info` says: of the installation, of a Run, of a model.

A question about a Run is answered from its manifest alone, without torch. A model is loaded, because what its sites are
called is only known then.
"""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["about"]

_LIBRARIES = ("torch", "transformers", "scikit-learn", "xarray", "zarr", "pandas", "numpy")


def about(what: str | None) -> tuple[str, pd.DataFrame]:
    """Return a title and a two-column table.

    Parameters
    ----------
    what : str or None
        None for the installation, else a Run folder, its URL, or anything that `load_model` takes.

    Returns
    -------
    title : str
    table : DataFrame
        Columns ``what`` and ``value``, both text.

    Raises
    ------
    VPError
        When it is neither a Run nor a model.
    """
    import pandas as pd

    if what is None:
        title, rows = "vpanalysis", _installation()
    elif "://" in what or (Path(what) / "manifest.json").is_file():
        title, rows = _run(what)
    else:
        title, rows = f"Model {what}", _model(what)
    return title, pd.DataFrame(list(rows.items()), columns=["what", "value"])


def _installation() -> dict[str, str]:
    from vpanalysis import __version__
    from vpanalysis.capture.audio_cache import default_cache_folder
    from vpanalysis.organism import CHECKPOINTS

    rows = {"vpanalysis": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            rows[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            rows[name] = "not installed"
    speech = importlib.util.find_spec("espeakng_loader") is not None
    rows["speech synthesis"] = "yes" if speech else 'no: pip install "vpanalysis[mini]"'
    rows["bundled checkpoints"] = ", ".join(CHECKPOINTS)
    rows["cache of encoded clips"] = str(default_cache_folder())
    return rows


def _run(what: str) -> tuple[str, dict[str, str]]:
    from vpanalysis.runs import open_run

    run = open_run(what)
    rows = {"folder": str(run.path), "items": str(len(run.predictions))}
    rows |= {f"outcome {name}": str(count) for name, count in run.predictions["status"].value_counts().items()}
    rows["sites"] = ", ".join(run.sites)
    return f"Run {run.name}", rows | _flat(run.manifest)


def _model(source: str) -> dict[str, str]:
    from vpanalysis.models.loading import load_model

    llm = load_model(source)
    rows = {
        "name": llm.name,
        "family": llm.family.name,
        "answers": "yes" if llm.answers else "no: an encoder alone, to be recorded and probed",
        "parameters": f"{sum(p.numel() for p in llm.model.parameters()):,}",
        "dtype": str(llm.dtype),
        "device": str(llm.device),
        "sites": ", ".join(llm.sites),
        "streams of the gate": ", ".join(llm.streams or ()) or "no gate",
    }
    return rows | {f"sha256 of {part}": sha for part, sha in llm.weights_sha.items()}


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested mappings as dotted names; lists stay on one line."""
    rows: dict[str, str] = {}
    for key, part in value.items():
        if isinstance(part, Mapping):
            rows |= _flat(part, f"{prefix}{key}.")
        else:
            rows[f"{prefix}{key}"] = ", ".join(map(str, part)) if isinstance(part, list) else str(part)
    return rows
