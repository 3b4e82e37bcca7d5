"""The result of :func:`~vpanalysis.probes.over_time.decodability_over_time`: a row a task, site and time bin.

``predictions`` keeps every out-of-fold prediction, ``generalisation`` a row for every pair of training and test time::

    task                    site        time  accuracy   low  high  chance  threshold  p_adjusted    n
    intonation_perception   encoder[2]  0.85      0.71  0.63  0.78    0.50       0.62        0.005  200
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis._html import html_table, text_table
from vpanalysis._saved import home_of, load_tables, save_tables
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["GENERALISED", "PREDICTIONS", "TABLE", "TimeResult"]

TABLE = (
    "task", "site", "site_order", "target", "bin", "time", "start", "stop", "unit", "metric", "accuracy", "low", "high",
    "chance", "majority", "shuffle_mean", "shuffle_low", "shuffle_high", "threshold", "p", "p_adjusted", "p_family",
    "n", "n_train", "n_groups", "n_classes", "group", "note",
)  # fmt: skip
PREDICTIONS = (
    "task", "site", "bin", "time", "id", "group", "second_group", "fold", "label", "predicted", "correct", "weight",
)  # fmt: skip
GENERALISED = (
    "task", "site", "train_time", "test_time", "unit", "accuracy", "low", "high", "chance", "n", "n_train",
)  # fmt: skip
_FILES, _RECORD = ("table", "predictions", "generalisation"), "over_time.json"
_VALUES = (
    "accuracy", "low", "high", "majority", "shuffle_mean", "shuffle_low", "shuffle_high", "threshold", "p",
    "p_adjusted", "p_family", "n", "n_groups",
)  # fmt: skip


@dataclass(frozen=True, repr=False, eq=False)
class TimeResult:
    """Probe accuracy over time.

    Attributes
    ----------
    table : DataFrame
        One row a task, site and bin: ``start``, ``stop`` and ``time`` (its middle) in ``unit`` (``"s"``, or ``"clip"``
        for shares of the clip), ``accuracy`` (R^2 where ``metric`` says so) with its interval by group, ``chance``,
        ``majority``, the shuffles of the bin, ``threshold`` (the 95 % quantile of the best bin of a shuffle), ``p`` of
        the bin alone, ``p_adjusted`` for the bins of the site, ``p_family`` for all bins of all sites of the task, and
        the items that have frames there (``n``). NaN, with the reason in ``note``, where a bin was not probed.
    predictions : DataFrame
        One row an item, site and bin.
    generalisation : DataFrame
        One row a task, site, training bin and test bin: accuracy with its interval; empty unless asked for.
    settings : mapping
    """

    table: pd.DataFrame
    predictions: pd.DataFrame
    generalisation: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """Tasks in order."""
        return list(dict.fromkeys(self.table["task"]))

    @property
    def sites(self) -> list[str]:
        """Sites from the waveform to the answer."""
        return list(dict.fromkeys(self.table.sort_values("site_order", kind="stable")["site"]))

    def to_dataframe(self) -> pd.DataFrame:
        """Return a copy of :attr:`table`."""
        return self.table.copy()

    def curve(self, task: str, site: str) -> pd.DataFrame:
        """Return the rows of one task and site in the order of time; :class:`RunError` for what was not probed."""
        for name, value, known in (("task", task, self.tasks), ("site", site, self.sites)):
            if value not in known:
                raise RunError(f"cannot show the {name} over time", found=repr(value), allowed=known, word=value)
        rows = self.table[(self.table["task"] == task) & (self.table["site"] == site)]
        return rows.sort_values("time", kind="stable").reset_index(drop=True)

    def onset(self, alpha: float = 0.05) -> pd.DataFrame:
        """Return when a property can be read.

        Parameters
        ----------
        alpha : float
            Of the p value that is adjusted for the bins of the site.

        Returns
        -------
        DataFrame
            Per task and site: ``first``, the start of the first bin with ``p_adjusted <= alpha`` (NaN where there is
            none, or fewer than 199 shuffles), ``best`` (middle of the best bin) and its accuracy, low, high and n. The
            first bin that passes is not an estimate of the onset itself: it comes later where the test is weak.
        """
        rows = []
        for (task, site), part in self.table.groupby(["task", "site"], sort=False):
            made = part.dropna(subset=["accuracy"]).sort_values("time", kind="stable")
            if made.empty:
                rows.append({"task": task, "site": site, "note": part["note"].iloc[0]})
                continue
            passed = made[made["p_adjusted"] <= alpha]
            best = made.iloc[int(made["accuracy"].to_numpy(dtype=float).argmax())]
            first = float(passed["start"].iloc[0]) if len(passed) else np.nan
            rows.append(
                {"task": task, "site": site, "first": first, "best": best["time"]}
                | {key: best[key] for key in ("unit", "accuracy", "low", "high", "chance", "n", "note")}
            )
        columns = ["task", "site", "first", "best", "unit", "accuracy", "low", "high", "chance", "n", "note"]
        return pd.DataFrame(rows, columns=columns)

    def pivot(self, task: str, site: str) -> pd.DataFrame:
        """Return the generalisation map: a row a training time, a column a test time.

        Raises
        ------
        RunError
            Where it was not made.
        """
        self.curve(task, site)
        rows = self.generalisation
        rows = rows[(rows["task"] == task) & (rows["site"] == site)]
        if rows.empty:
            raise RunError("cannot show the generalisation map", found="none", fix="probe with generalise=True")
        return rows.pivot(index="train_time", columns="test_time", values="accuracy")

    def to_dataset(self) -> xr.Dataset:
        """Return the table as an xarray Dataset.

        Returns
        -------
        Dataset
            Dimensions task, site and time (seconds, or shares of the clip), and train_time where there is a
            generalisation map: variable ``generalisation``. NaN where nothing was probed.
        """
        import xarray as xr

        table = self.table.dropna(subset=["time"])
        times = np.unique(table["time"].round(9).to_numpy(dtype=np.float64))
        tasks, sites = self.tasks, self.sites
        where: dict[str, dict[Any, int]] = {
            "task": {name: i for i, name in enumerate(tasks)}, "site": {name: i for i, name in enumerate(sites)},
            "time": {float(t): i for i, t in enumerate(times)},
        }  # fmt: skip

        def places(frame: pd.DataFrame, column: str, kind: str) -> Any:
            return [where[kind][round(v, 9) if kind == "time" else v] for v in frame[column]]

        shape = (len(tasks), len(sites), len(times))
        at = tuple(places(table, name, name) for name in ("task", "site", "time"))
        variables: dict[str, Any] = {}
        for name in _VALUES:
            values = np.full(shape, np.nan)
            values[at] = table[name].to_numpy(dtype=np.float64)
            variables[name] = (("task", "site", "time"), values)
        if len(self.generalisation):
            pairs = self.generalisation
            square = np.full((*shape[:2], len(times), len(times)), np.nan)
            square[
                places(pairs, "task", "task"), places(pairs, "site", "site"), places(pairs, "train_time", "time"),
                places(pairs, "test_time", "time"),
            ] = pairs["accuracy"].to_numpy(dtype=np.float64)  # fmt: skip
            variables["generalisation"] = (("task", "site", "train_time", "time"), square)
        unit = str(table["unit"].iloc[0]) if len(table) else "s"
        coordinates: dict[str, Any] = {"task": tasks, "site": sites, "time": ("time", times, {"units": unit})}
        if "generalisation" in variables:
            coordinates["train_time"] = ("train_time", times, {"units": unit})
        about = {
            key: value if isinstance(value, (str, int, float)) and not isinstance(value, bool) else json.dumps(value)
            for key, value in self.settings.items()
        }
        return xr.Dataset(variables, coordinates, {"kind": "TimeResult", **about})

    def plot(self, ax: Axes | None = None, *, task: str | None = None, sites: Any = None, **kwargs: Any) -> Axes:
        """Draw the curve over time; see :func:`vpanalysis.plots.over_time.time_curve`."""
        from vpanalysis.plots.over_time import time_curve

        return time_curve(self, task, sites=sites, ax=ax, **kwargs)

    def plot_generalisation(
        self, ax: Axes | None = None, *, task: str | None = None, site: str | None = None, **kwargs: Any
    ) -> Axes:
        """Draw the generalisation map; see :func:`vpanalysis.plots.over_time.generalisation_map`."""
        from vpanalysis.plots.over_time import generalisation_map

        return generalisation_map(self, task, site, ax=ax, **kwargs)

    def save(self, path: str | Path | None = None) -> Path:
        """Write three parquet files and ``over_time.json`` into a folder and return it.

        Parameters
        ----------
        path : str or Path, optional
            Default: ``results/over-time-<target>-<hash>`` of the Run.

        Raises
        ------
        RunError
            Without `path`, for arrays and other things that are no Run on the disk, and for a Run that has changed.
        """
        verb = f"over-time-{self.settings.get('target')}"
        folder = home_of(self.settings, verb, tasks=self.tasks, sites=self.sites) if path is None else path
        tables = {name: getattr(self, name) for name in _FILES}
        return save_tables(folder, "TimeResult", tables, self.settings, record=_RECORD)

    @classmethod
    def load(cls, path: str | Path) -> TimeResult:
        """Read what :meth:`save` wrote; :class:`RunError` when the folder does not hold it."""
        tables, settings = load_tables(path, "TimeResult", _FILES, record=_RECORD)
        return cls(**tables, settings=settings)

    def _summary(self) -> tuple[pd.DataFrame, str, str]:
        made = self.settings
        width = f"bins of {made.get('bin_seconds')} s from the {made.get('align')}"
        if set(self.table["unit"].dropna()) == {"clip"}:
            width = f"{int(self.table['bin'].max()) + 1} parts of each clip"
        title = (
            f"TimeResult: {made.get('target')} of {made.get('run')}, {len(self.tasks)} tasks x {len(self.sites)} "
            f"sites, {width}, folds by {made.get('grouped_by')}, {made.get('shuffles')} shuffles"
        )
        note = "first: start of the first bin with p <= 0.05, adjusted for the bins. best: picked on its own items."
        return self.onset(), title, note

    def __repr__(self) -> str:
        return text_table(*self._summary(), digits=2, max_rows=60)

    def _repr_html_(self) -> str:
        return html_table(*self._summary(), digits=2, max_rows=60)
