"""What results of interventions have in common: they print, are saved in a Run or a folder, and are found again there.

Why it exists. A result is a few tables and the settings that they were made with. How these are printed, written, read
back and filed with the Run that they explain is one thing, and the same for all of them.

The idea. A result class is a frozen dataclass of DataFrames and ``settings`` that derives from :class:`TableResult` and
says under which verb it is filed, which of its fields are tables, and how it looks as one table. In a Run it goes to
``results/<verb>-<hash of the settings>/``, provided that the Run is of the very model that was intervened on;
:func:`load_result` reads any result back by what its folder says it is.

>>> from dataclasses import dataclass, field
>>> import pandas as pd, tempfile
>>> @dataclass(frozen=True, repr=False)
... class Demo(TableResult):
...     VERB, TABLES = "demo", ("table",)
...     table: pd.DataFrame
...     settings: Mapping[str, Any] = field(default_factory=dict)
...     def _parts(self): return self.table, "Demo", "a note"
>>> place = Demo(pd.DataFrame({"a": [1]}), {"model": "mini"}).save(tempfile.mkdtemp())
>>> Demo.load(place).settings["model"]
'mini'
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import pandas as pd

from vpanalysis._html import html_table, text_table
from vpanalysis._places import place_of
from vpanalysis._saved import RECORD, home_of, load_tables, manifest_sha, save_tables
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    from vpanalysis._run import Run

__all__ = ["TableResult", "home_in", "load_result", "results_of"]

_KINDS: Mapping[str, str] = {
    "ListenRead": "vpanalysis.attribution",
    "GateResult": "vpanalysis.attribution",
    "GateMixtures": "vpanalysis.attribution",
    "SweepResult": "vpanalysis.attribution",
    "ContributionResult": "vpanalysis.attribution",
    "ParaphraseResult": "vpanalysis.attribution",
    "AttentionResult": "vpanalysis.attribution",
    "FusionResult": "vpanalysis.attribution",
    "AttributionResult": "vpanalysis.attribution",
    "SteerResult": "vpanalysis.attribution",
    "NeuronResult": "vpanalysis.attribution",
    "LensResult": "vpanalysis.attribution",
    "PatchResult": "vpanalysis.attribution",
    "TextControls": "vpanalysis.attribution",
    "ProbeResult": "vpanalysis.probes",
    "ControlResult": "vpanalysis.probes",
    "ProbeComparison": "vpanalysis.probes",
    "BestSites": "vpanalysis.probes",
    "LearningCurves": "vpanalysis.probes",
    "AttentiveResult": "vpanalysis.probes",
    "TimeResult": "vpanalysis.probes",
}
"""Where the class of a kind of result lives."""

_FILES = (RECORD, "probe.json", "controls.json", "attentive.json", "over_time.json", "view.json")
"""Names under which kinds of results keep what they are."""


class TableResult:
    """A result that is tables and settings; for frozen dataclasses to derive from.

    Attributes
    ----------
    VERB : str
        First part of its folder's name in a Run.
    TABLES : tuple of str
        Fields that are DataFrames; the first is what `to_dataframe` returns.
    settings : mapping
        How it was made; JSON can hold it. With ``weights`` (:attr:`AudioLLM.weights_sha`), if it may go into a Run.
    """

    VERB: ClassVar[str]
    TABLES: ClassVar[tuple[str, ...]]
    MAX_ROWS: ClassVar[int] = 60
    settings: Mapping[str, Any]

    def to_dataframe(self) -> pd.DataFrame:
        """Return a copy of the main table."""
        table: pd.DataFrame = getattr(self, self.TABLES[0])
        return table.copy()

    def save(self, path: str | Path | Run | None = None) -> Path:
        """Write the tables as parquet files and a JSON file, and return their folder.

        Parameters
        ----------
        path : str, Path or Run, optional
            The folder; or a Run of the same model, in whose ``results/`` a folder is made. By default that of the Run
            that the result was made of, where it was made of one.

        Raises
        ------
        RunError
            For a Run of another model, and where nothing says which folder.
        """
        if path is None:
            folder = home_of(self.settings, self.VERB)
        else:
            folder = self._home_in(cast("Run", path)) if hasattr(path, "manifest") else place_of(cast("Path", path))
        return save_tables(folder, type(self).__name__, {t: getattr(self, t) for t in self.TABLES}, self.settings)

    def _home_in(self, run: Run) -> Path:
        # What was made of this very Run belongs there; what was made with a model, in a Run of that model.
        if "manifest_sha" in self.settings and self.settings["manifest_sha"] == manifest_sha(run.path):
            return home_of({**self.settings, "path": str(run.path)}, self.VERB)
        return home_in(run, self.VERB, self.settings)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote; :class:`RunError` when the folder does not hold it."""
        tables, settings = load_tables(path, cls.__name__, cls.TABLES)
        return cls(**tables, settings=settings)  # type: ignore[call-arg]  # fields of the dataclass

    def _parts(self) -> tuple[pd.DataFrame, str, str]:
        """Return what is shown: a table, a title and a note."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return text_table(*self._parts(), max_rows=self.MAX_ROWS)

    def _repr_html_(self) -> str:
        return html_table(*self._parts(), max_rows=self.MAX_ROWS)


def home_in(run: Run, verb: str, settings: Mapping[str, Any]) -> Path:
    """Return the folder in a Run where the result of an intervention belongs.

    Parameters
    ----------
    run : Run
    verb : str
        First part of the folder's name.
    settings : mapping
        Equal ones have an equal folder.

    Raises
    ------
    RunError
        Where the Run is of another model than the result.
    """
    mine, its = settings.get("weights"), run.manifest["model"].get("weights")
    if mine is None or dict(mine) != dict(its or {}):
        raise RunError(
            f"cannot save the result in the run {run.name!r}",
            found=f"weights of {run.manifest['model'].get('name')!r}, the result is of {settings.get('model')!r}",
            fix="give a Run of the model that was intervened on, or a folder",
        )
    content = json.dumps(dict(settings), sort_keys=True, default=str)
    return run.results / f"{verb}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def _kind_of(folder: Path) -> str | None:
    for name in _FILES:
        if (folder / name).is_file():
            try:
                content = json.loads((folder / name).read_text(encoding="utf-8"))
            except ValueError:
                continue
            return str(content.get("kind")) if isinstance(content, dict) else None
    return None


def load_result(path: str | Path) -> Any:
    """Read a saved result, whichever it is.

    Parameters
    ----------
    path : str or Path
        A folder written by a result's ``save``.

    Returns
    -------
    object
        Of the class that wrote it.

    Raises
    ------
    RunError
        When the folder does not hold one.
    """
    folder = place_of(path)
    kind = _kind_of(folder)
    if kind is None or kind not in _KINDS:
        raise RunError(
            f"cannot load a result from {str(folder)!r}",
            found="no result" if kind is None else f"kind {kind!r}",
            allowed=list(_KINDS),
        )
    return getattr(importlib.import_module(_KINDS[kind]), kind).load(folder)


def results_of(run: Run) -> pd.DataFrame:
    """Return what analyses have kept in a Run.

    Parameters
    ----------
    run : Run

    Returns
    -------
    DataFrame
        One row a folder of ``results/``: name, kind, path. Read one with :func:`load_result`.
    """
    kept = sorted(p for p in (run.path / "results").glob("*") if p.is_dir()) if (run.path / "results").is_dir() else []
    rows = [{"name": p.name, "kind": _kind_of(p), "path": str(p)} for p in kept]
    return pd.DataFrame(rows, columns=["name", "kind", "path"])
