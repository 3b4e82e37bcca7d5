"""The result of probing: a tidy table, the predictions behind it, and how it was made.

A row of :attr:`ProbeResult.table` is one task at one site::

    task             site        site_order  reducer  target  accuracy  low   high  chance  majority    n  n_groups
    age_prediction   encoder[2]           3  mean     truth       0.99  0.96  1.00    0.25      0.27  200        61

``predictions`` keeps every out-of-fold prediction with its fold and group, so that any other summary (confusions, a
paired test between sites, accuracy on the items that the model got wrong) needs no refit.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from vpanalysis.errors import RunError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLUMNS", "ProbeResult"]

COLUMNS = (
    "task", "site", "site_order", "reducer", "target", "accuracy", "low", "high", "chance", "majority", "n",
    "n_groups", "n_classes", "group", "note",
)  # fmt: skip
"""Columns of :attr:`ProbeResult.table`."""

_FILES = ("table", "by_condition", "predictions")


@dataclass(frozen=True, repr=False)
class ProbeResult:
    """Probe accuracy per task and site, with intervals that respect the groups.

    Attributes
    ----------
    table : DataFrame
        One row a task and site, columns :data:`COLUMNS`. ``accuracy`` is over out-of-fold predictions under the item
        weights, ``low`` and ``high`` its interval, ``chance`` one over the number of classes, ``majority`` the
        accuracy of always naming the commonest class, ``group`` what the folds kept together, ``note`` what to know.
        A probe that cannot be made has an empty (NaN) accuracy and its reason in ``note``.
    by_condition : DataFrame
        The same predictions per condition, unweighted: task, site, condition, accuracy, low, high, n, n_groups.
    predictions : DataFrame
        One row an item and site: task, site, id, condition, group, fold, label, predicted, correct, weight.
    target : str
    settings : mapping
        Run, grouping, number of folds, C, seed, level and conditions: what is needed to repeat it.
    """

    table: pd.DataFrame
    by_condition: pd.DataFrame
    predictions: pd.DataFrame
    target: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """Tasks in the order in which they were probed."""
        return list(dict.fromkeys(self.table["task"]))

    @property
    def sites(self) -> list[str]:
        """Sites from the waveform to the answer."""
        return list(dict.fromkeys(self.table.sort_values("site_order", kind="stable")["site"]))

    def to_dataframe(self) -> pd.DataFrame:
        """Return a copy of :attr:`table`, tidy: one row a task and site."""
        return self.table.copy()

    def curve(self, task: str) -> pd.DataFrame:
        """Return the rows of one task, ordered by site; :class:`RunError` for a task that was not probed."""
        if task not in self.tasks:
            raise RunError("cannot show the probe curve", found=repr(task), allowed=self.tasks, word=task)
        return self.table[self.table["task"] == task].sort_values("site_order", kind="stable").reset_index(drop=True)

    def pivot(self) -> pd.DataFrame:
        """Return accuracies with a row a site and a column a task."""
        wide = self.table.pivot(index="site", columns="task", values="accuracy")
        return wide.reindex(index=self.sites, columns=self.tasks)

    def plot(self, ax: Axes | None = None, *, task: str | None = None, **kwargs: Any) -> Axes:
        """Draw the layer curve of `task`, or of all tasks in one Axes when `task` is not given.

        Parameters
        ----------
        ax : Axes, optional
        task : str, optional
            Needed only to choose one of several tasks.
        **kwargs
            Passed on to :func:`vpanalysis.plots.layer_curves`, for example ``claim_result`` or ``model_accuracy``.
        """
        from vpanalysis import plots

        if task is None and len(self.tasks) == 1:
            task = self.tasks[0]
        if task is None:
            return plots.layer_overview(self, ax=ax, **kwargs)
        return plots.layer_curves(self, task, ax=ax, **kwargs)

    def save(self, path: str | Path) -> Path:
        """Write three parquet files and ``probe.json`` into the folder `path` and return it."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            getattr(self, name).to_parquet(folder / f"{name}.parquet", index=False)
        record = {"kind": "ProbeResult", "version": 1, "target": self.target, "settings": dict(self.settings)}
        # Last, so that a folder with this file is complete.
        (folder / "probe.json").write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")
        return folder

    @classmethod
    def load(cls, path: str | Path) -> ProbeResult:
        """Read what :meth:`save` wrote; :class:`RunError` when the folder does not hold it."""
        folder = Path(path)
        missing = [n for n in ("probe.json", *(f"{f}.parquet" for f in _FILES)) if not (folder / n).is_file()]
        if missing:
            raise RunError(
                f"cannot load a probe result from {str(folder)!r}",
                found=f"no {', '.join(missing)}",
                fix="give a folder written by ProbeResult.save",
            )
        record = json.loads((folder / "probe.json").read_text(encoding="utf-8"))
        if record.get("kind") != "ProbeResult":
            raise RunError(f"cannot load a probe result from {str(folder)!r}", found=f"kind {record.get('kind')!r}")
        tables = {name: pd.read_parquet(folder / f"{name}.parquet") for name in _FILES}
        return cls(**tables, target=record["target"], settings=record["settings"])

    def _title(self) -> str:
        made = self.settings
        return (
            f"ProbeResult: {self.target} of {made.get('run', 'a run')}, {len(self.tasks)} tasks x {len(self.sites)} "
            f"sites, {made.get('n_splits', '?')} folds by {made.get('group_by', '?')}, C={made.get('C', '?')}"
        )

    def _summary(self) -> pd.DataFrame:
        """Return one row a task: best site, last site, chance."""
        rows = []
        for task in self.tasks:
            curve = self.curve(task)
            made = curve.dropna(subset=["accuracy"])
            if made.empty:
                rows.append({"task": task, "best site": "", "accuracy": "not probed", "note": curve["note"].iloc[0]})
                continue
            best = made.iloc[int(made["accuracy"].to_numpy(dtype=float).argmax())]
            rows.append(
                {
                    "task": task,
                    "best site": best["site"],
                    "accuracy": f"{best['accuracy']:.2f} [{best['low']:.2f}, {best['high']:.2f}]",
                    "chance": f"{best['chance']:.2f}",
                    "majority": f"{best['majority']:.2f}",
                    "n": int(best["n"]),
                    "groups": f"{int(best['n_groups'])} x {best['group']}",
                    "note": best["note"],
                }
            )
        return pd.DataFrame(rows).fillna("")

    #: Said under every summary: the best of many looks better than it is.
    _CAVEAT = "The best site is picked on the items it is scored on, so its accuracy is optimistic: see compare_sites."

    def __repr__(self) -> str:
        return f"{self._title()}\n{self._summary().to_string(index=False)}\n{self._CAVEAT}"

    def _repr_html_(self) -> str:
        # pandas escapes the cells; the title holds names from the data and is escaped here.
        body = self._summary().to_html(index=False, border=0, escape=True)
        return (
            f"<div><strong>{html.escape(self._title())}</strong>{body}<small>{html.escape(self._CAVEAT)}</small></div>"
        )
