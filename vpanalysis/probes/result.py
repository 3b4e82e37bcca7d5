"""The result of probing: a tidy table, the predictions behind it, and how it was made.

A row of :attr:`ProbeResult.table` is one task at one site::

    task             site        reducer  target  accuracy  low   high  chance  shuffle_low  shuffle_high     p    n
    age_prediction   encoder[2]  mean     truth       0.99  0.96  1.00    0.25         0.18          0.33  0.05  200

``predictions`` keeps every out-of-fold prediction with its fold and group, so that any other summary (confusions, a
paired test between sites, accuracy on the items that the model got wrong) needs no refit.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vpanalysis import stats
from vpanalysis._saved import home_of, load_tables, save_tables
from vpanalysis.errors import RunError
from vpanalysis.probes.parts import PREDICTIONS, Parts, WhenRead

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["BY_CONDITION", "COLUMNS", "PREDICTIONS", "ProbeResult", "clusters_of"]

COLUMNS = (
    "task", "site", "site_order", "reducer", "target", "metric", "accuracy", "low", "high", "chance", "majority",
    "shuffle_mean", "shuffle_low", "shuffle_high", "p", "p_adjusted", "q", "n", "n_train", "n_groups", "n_classes",
    "group", "note",
)  # fmt: skip
"""Columns of :attr:`ProbeResult.table`."""

BY_CONDITION = ("task", "site", "site_order", "target", "condition", "accuracy", "low", "high", "n", "n_groups")

_FILES, _RECORD = ("table", "by_condition", "predictions"), "probe.json"
_WITHIN = ("task", "site", "target", "claim", "accuracy", "low", "high", "chance", "n", "n_groups")


def clusters_of(rows: pd.DataFrame) -> dict[str, NDArray[np.int64]]:
    """Return the clusterings of predictions by name, each of shape (item,), int64: one, or two for a crossed split."""
    out = {"group": rows["group"].to_numpy(dtype=np.int64)}
    if "second_group" in rows.columns and (rows["second_group"] >= 0).all() and len(rows):
        out["second_group"] = rows["second_group"].to_numpy(dtype=np.int64)
    return out


@dataclass(frozen=True, repr=False)
class ProbeResult:
    """Probe accuracy per task and site, with intervals that respect the groups.

    Attributes
    ----------
    table : DataFrame
        One row a task and site (and target), columns :data:`COLUMNS`. ``accuracy`` is over out-of-fold predictions
        under the item weights (R^2 where ``metric`` says ``"R2"``), ``low`` and ``high`` its interval, ``chance`` one
        over the number of classes, ``majority`` the accuracy of always naming the commonest class. ``shuffle_mean``,
        ``shuffle_low`` and ``shuffle_high`` describe the same probes on shuffled labels, ``p`` compares with them,
        ``p_adjusted`` with their best site (199 shuffles at least), ``q`` is the latter adjusted over tasks. ``n`` and
        ``n_train`` count items and those of the smallest training set, ``group`` says what the folds kept together,
        ``note`` what to know. A probe that cannot be made has an empty (NaN) accuracy and its reason in ``note``.
    by_condition : DataFrame
        The same predictions per condition, unweighted: task, site, condition, accuracy, low, high, n, n_groups.
    predictions : DataFrame
        One row an item and site: task, site, target, id, condition, group, second_group (-1 where folds are made by one
        grouping only), fold, label, predicted, correct, confidence (probability of the predicted class), words (what is
        claimed), weight.
    target : str
    settings : mapping
        What is needed to repeat it: the Run and the hash of its manifest, grouping, number of folds, estimator, C,
        shuffles, seed, level and conditions.
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

    def of(self, target: str) -> ProbeResult:
        """Return the part of one target, ``"truth"`` or ``"claim"`` of a result for both.

        Parameters
        ----------
        target : str

        Returns
        -------
        ProbeResult

        Raises
        ------
        RunError
            For a target that was not probed.
        """
        have = list(dict.fromkeys(self.table["target"]))
        if target not in have:
            raise RunError("cannot show the probes", found=f"target {target!r}", allowed=have, word=target)
        parts = {name: getattr(self, name) for name in _FILES}
        kept = {
            name: part[part["target"] == target].reset_index(drop=True) if len(part) else part
            for name, part in parts.items()
        }
        return ProbeResult(**kept, target=target, settings={**self.settings, "target": target})

    def pivot(self) -> pd.DataFrame:
        """Return accuracies with a row a site and a column a task; (target, task) in a result for both targets."""
        both = self.table["target"].nunique() > 1
        columns = ["target", "task"] if both else "task"
        wide = self.table.pivot(index="site", columns=columns, values="accuracy").reindex(index=self.sites)
        return wide if both else wide.reindex(columns=self.tasks)

    def within_claims(self, task: str | None = None) -> pd.DataFrame:
        """Return accuracy within each claim: of the items whose words assert the same thing.

        Where the words are tied to the truth (a benchmark of conflict items only), a probe of the words beats chance
        over all items, but not among items that say the same.

        Parameters
        ----------
        task : str, optional
            Default: all tasks.

        Returns
        -------
        DataFrame
            Columns task, site, target, claim, accuracy, low, high, chance (one over the labels that occur with this
            claim), n, n_groups; unweighted, groups as the unit. Claims with one label are left out: nothing is to be
            told apart there.

        Raises
        ------
        RunError
            For a task that was not probed.
        """
        rows = self.predictions
        if task is not None:
            self.curve(task)
            rows = rows[rows["task"] == task]
        level = float(self.settings.get("level", 0.95))
        out: list[dict[str, Any]] = []
        said = rows[(rows["words"] != "") & (rows["target"] == "truth")]
        for (name, site, target, claim), part in said.groupby(["task", "site", "target", "words"], sort=False):
            labels = part["label"].nunique()
            if labels < 2:
                continue
            clusters = clusters_of(part)
            found = stats.proportion(part["correct"].to_numpy(dtype=float), clusters, level=level, chance=1.0 / labels)
            out.append(
                {
                    "task": name, "site": site, "target": target, "claim": claim, "accuracy": found.value,
                    "low": found.low, "high": found.high, "chance": 1.0 / labels, "n": len(part),
                    "n_groups": min(len(np.unique(ids)) for ids in clusters.values()),
                }
            )  # fmt: skip
        return pd.DataFrame(out, columns=list(_WITHIN))

    def to_dataset(self) -> xr.Dataset:
        """Return the table as an xarray Dataset.

        Returns
        -------
        Dataset
            Dimensions target, task and site; a variable for every column that is not one of them; ``site_order`` is a
            coordinate, settings are attributes (as JSON where they are no plain values). A site that was not probed for
            a task is NaN, or empty.
        """
        import xarray as xr

        index = pd.MultiIndex.from_product(
            [list(dict.fromkeys(self.table["target"])), self.tasks, self.sites], names=["target", "task", "site"]
        )
        table = self.table.set_index(["target", "task", "site"]).drop(columns="site_order").reindex(index)
        variables = {}
        for column in table.columns:
            # By shape rather than Dataset.from_dataframe, which would sort tasks and sites by the alphabet.
            values = table[column].to_numpy()
            if values.dtype == object:
                values = np.array(["" if pd.isna(value) else str(value) for value in values], dtype=np.str_)
            variables[column] = (index.names, values.reshape([len(level) for level in self._axes()]))
        targets, tasks, sites = self._axes()
        order = self.table.drop_duplicates("site").set_index("site")["site_order"].reindex(sites).to_numpy()
        plain = (str, int, float)
        about = {
            key: value if isinstance(value, plain) and not isinstance(value, bool) else json.dumps(value, default=str)
            for key, value in self.settings.items()
        }
        return xr.Dataset(
            variables,
            {"target": targets, "task": tasks, "site": sites, "site_order": ("site", order)},
            {"kind": "ProbeResult", **about},
        )

    def _axes(self) -> tuple[list[str], list[str], list[str]]:
        return list(dict.fromkeys(self.table["target"])), self.tasks, self.sites

    def plot(self, ax: Axes | None = None, *, task: str | None = None, **kwargs: Any) -> Axes:
        """Draw the layer curve of `task`, or of all tasks in one Axes when `task` is not given.

        Parameters
        ----------
        ax : Axes, optional
        task : str, optional
            Needed only to choose one of several tasks.
        **kwargs
            Passed on to :func:`vpanalysis.plots.layer_curves`, for example ``claim_result`` or ``model_accuracy``.
            A result for both targets draws both.
        """
        from vpanalysis import plots

        if task is None and len(self.tasks) == 1:
            task = self.tasks[0]
        if task is None:
            return plots.layer_overview(self, ax=ax, **kwargs)
        if self.target != "both":
            return plots.layer_curves(self, task, ax=ax, **kwargs)
        return plots.layer_curves(self.of("truth"), task, ax=ax, **{"claim_result": self.of("claim"), **kwargs})

    def save(self, path: str | Path | None = None) -> Path:
        """Write three parquet files and ``probe.json`` into a folder and return it.

        Parameters
        ----------
        path : str or Path, optional
            Default: ``results/probe-<target>-<hash>`` of the Run that was probed; the same settings give the same
            folder.

        Returns
        -------
        Path

        Raises
        ------
        RunError
            Without `path`, for arrays and other things that are no Run on the disk, and for a Run that has changed.
        """
        verb = f"probe-{self.target}"
        folder = home_of(self.settings, verb, tasks=self.tasks, sites=self.sites) if path is None else path
        held = self.__dict__["predictions"]
        # Six million rows are written site by site, unless somebody has looked at them anyway.
        rows = held.tables() if isinstance(held, Parts) and held.alike else self.predictions
        tables: dict[str, pd.DataFrame | Iterator[pd.DataFrame]] = {
            "table": self.table, "by_condition": self.by_condition, "predictions": rows
        }  # fmt: skip
        return save_tables(folder, "ProbeResult", tables, self.settings, record=_RECORD, version=3, target=self.target)

    @classmethod
    def load(cls, path: str | Path) -> ProbeResult:
        """Read what :meth:`save` wrote.

        Raises
        ------
        RunError
            When the folder does not hold it.

        Warns
        -----
        StaleResultWarning
            When the Run has changed since.
        """
        tables, settings = load_tables(path, "ProbeResult", _FILES, record=_RECORD)
        return cls(**tables, target=str(settings["target"]), settings=settings)

    def _title(self) -> str:
        made = self.settings
        trained = self.table["n_train"][self.table["accuracy"].notna()]
        kind = "ridge" if (self.table["metric"] == "R2").all() else str(made.get("estimator", "logistic"))
        how = f"C={made.get('C', '?')}" if kind == "logistic" else kind
        least = f", {int(trained.min())} or more training items a fold" if trained.notna().any() else ""
        by = made.get("grouped_by", made.get("group_by", "?"))
        split = f"{made.get('n_splits', '?')}{' x ' + str(made.get('n_splits')) if ' and ' in str(by) else ''} folds"
        return (
            f"ProbeResult: {self.target} of {made.get('run', 'a run')}, {len(self.tasks)} tasks x {len(self.sites)} "
            f"sites, {split} by {by}{least}, {how}, {made.get('shuffles', 0)} label shuffles"
        )

    def _summary(self) -> pd.DataFrame:
        """Return one row a task and target: best site, its interval, its shuffles, chance."""
        rows = []
        several = self.table["target"].nunique() > 1
        for (task, target), part in self.table.groupby(["task", "target"], sort=False):
            name = {"task": task} | ({"target": target} if several else {})
            made = part.dropna(subset=["accuracy"]).sort_values("site_order", kind="stable")
            if made.empty:
                rows.append({**name, "best site": "", "accuracy": "not probed", "note": part["note"].iloc[0]})
                continue
            best = made.iloc[int(made["accuracy"].to_numpy(dtype=float).argmax())]
            row = {
                **name,
                "best site": best["site"],
                "R2" if best["metric"] == "R2" else "accuracy": f"{best['accuracy']:.2f} [{best['low']:.2f}, "
                f"{best['high']:.2f}]",
                "chance": f"{best['chance']:.2f}",
                "majority": f"{best['majority']:.2f}",
            }
            if pd.notna(best["p"]):
                row["shuffled"] = f"{best['shuffle_mean']:.2f} [{best['shuffle_low']:.2f}, {best['shuffle_high']:.2f}]"
                row["p"] = f"{best['p']:.3f}"
            if pd.notna(best["p_adjusted"]):
                row["p adjusted"] = f"{best['p_adjusted']:.3f}"
            row |= {
                "n": int(best["n"]), "groups": f"{int(best['n_groups'])} x {best['group']}", "note": best["note"],
            }  # fmt: skip
            rows.append(row)
        return pd.DataFrame(rows).fillna("")

    #: Said under every summary: the best of many looks better than it is.
    _CAVEAT = "The best site is picked on the items it is scored on, so its accuracy is optimistic: see best_site."

    def __repr__(self) -> str:
        return f"{self._title()}\n{self._summary().to_string(index=False)}\n{self._CAVEAT}"

    def _repr_html_(self) -> str:
        # pandas escapes the cells; the title holds names from the data and is escaped here.
        body = self._summary().to_html(index=False, border=0, escape=True)
        return (
            f"<div><strong>{html.escape(self._title())}</strong>{body}<small>{html.escape(self._CAVEAT)}</small></div>"
        )


# A table of six million rows is not made before it is asked for; a dataclass field cannot say so itself.
_predictions = WhenRead()
_predictions.__set_name__(ProbeResult, "predictions")
ProbeResult.predictions = _predictions  # type: ignore[assignment]
