"""Paired tests between probes: sites against a site, Run against Run, on the same items.

Why it exists. Two curves with overlapping bands may differ beyond doubt, because both were made on the same clips, and
two curves that look apart may not. What decides is the difference item by item, with speakers (and scripts) as the
unit, and a correction for having looked at twenty layers.

The idea. A :class:`~vpanalysis.probes.ProbeResult` keeps every out-of-fold prediction, so nothing is fitted again:
predictions are matched by item, and their differences get a clustered interval, a sign-flip p value, one that is
adjusted for all sites by the largest statistic of the same flips (``_flips.py``), and ``q`` over tasks (Benjamini and
Hochberg 1995). "No difference found" is not "equal": read the interval.

>>> compare_probes(result, reference="tower")                            # doctest: +SKIP
>>> compare_probes(probe_layers(pclm), probe_layers(base))               # doctest: +SKIP
>>> compare_probes(probe_layers(whisper), probe_layers(hubert), sites={"encoder[3]": "encoder[5]"})  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from vpanalysis import stats
from vpanalysis._flips import flip_family
from vpanalysis._html import html_table, text_table
from vpanalysis._saved import home_of, load_tables, save_tables
from vpanalysis.errors import RunError
from vpanalysis.probes.result import clusters_of
from vpanalysis.stats import FloatArray, IntArray, benjamini_hochberg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["DIFFERENCES", "ProbeComparison", "compare_probes", "paired_interval"]

DIFFERENCES = (
    "task", "target", "site", "against", "site_order", "metric", "score", "reference", "difference", "low", "high", "p",
    "p_adjusted", "q", "n", "n_groups", "group", "note",
)  # fmt: skip
"""Columns of :attr:`ProbeComparison.table`."""

# Differing clusters below which a t interval of differences is not trusted alone.
_FEW = 5


class _Probed(Protocol):
    """What is compared: out-of-fold predictions of something."""

    @property
    def table(self) -> pd.DataFrame: ...

    @property
    def predictions(self) -> pd.DataFrame: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, repr=False)
class ProbeComparison:
    """Differences between probes on the same items.

    Attributes
    ----------
    table : DataFrame
        One row a task, target and site, columns :data:`DIFFERENCES`: ``score`` and ``reference`` are the two accuracies
        (or R^2), ``difference`` the first less the second with its interval, ``p`` of flipping the signs of whole
        groups, ``p_adjusted`` over the sites of a task, ``q`` that value over tasks.
    settings : mapping
        What was compared.
    """

    table: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """Tasks in the order in which they were probed."""
        return list(dict.fromkeys(self.table["task"]))

    def to_dataframe(self) -> pd.DataFrame:
        """Return a copy of :attr:`table`."""
        return self.table.copy()

    def plot(self, ax: Axes | None = None, *, task: str | None = None) -> Axes:
        """Draw differences with their intervals, one row a site of `task`, or a task where one site was compared.

        Parameters
        ----------
        ax : Axes, optional
        task : str, optional
            Needed to choose one of several tasks where several sites were compared; default the first.

        Returns
        -------
        Axes
        """
        from vpanalysis import plots

        rows = self.table
        if task is not None and task not in self.tasks:
            raise RunError("cannot draw the comparison", found=repr(task), allowed=self.tasks, word=task)
        if task is not None or rows["site"].nunique() > 1:
            rows = rows[rows["task"] == (task or self.tasks[0])]
        made = self.settings
        return plots.probe_differences(rows.reset_index(drop=True), ax=ax, names=(made["a"], made["b"]))

    def save(self, path: str | Path | None = None) -> Path:
        """Write ``differences.parquet`` and a JSON file; default in ``results/`` of the first Run."""
        folder = home_of(self.settings, "compare-probes", tasks=self.tasks) if path is None else path
        return save_tables(folder, "ProbeComparison", {"differences": self.table}, self.settings)

    @classmethod
    def load(cls, path: str | Path) -> ProbeComparison:
        """Read what :meth:`save` wrote; :class:`RunError` when the folder does not hold it."""
        tables, settings = load_tables(path, "ProbeComparison", ("differences",))
        return cls(tables["differences"], settings)

    def _parts(self) -> tuple[pd.DataFrame, str, str]:
        drop = ["site_order", "metric"] + (["target"] if self.table["target"].nunique() < 2 else [])
        shown = self.table.drop(columns=drop)
        for name in ("p", "p_adjusted", "q"):
            # No p value is zero, and three digits would say so.
            shown[name] = ["<.001" if p < 0.001 else f"{p:.3f}" if p == p else "–" for p in shown[name]]
        if not (shown["note"].astype(str) != "").any():
            shown = shown.drop(columns="note")
        title = f"ProbeComparison: {self.settings['a']} less {self.settings['b']}, item by item"
        note = (
            "p_adjusted: over the sites of a task (largest statistic of shared sign flips); q: over tasks. "
            "No difference found is not equality: read the interval."
        )
        return shown, title, note

    def __repr__(self) -> str:
        return text_table(*self._parts(), max_rows=60)

    def _repr_html_(self) -> str:
        return html_table(*self._parts(), max_rows=60)


def compare_probes(
    a: _Probed,
    b: _Probed | None = None,
    *,
    reference: str | None = None,
    tasks: str | Sequence[str] | None = None,
    sites: str | Sequence[str] | Mapping[str, str] | None = None,
    level: float = 0.95,
    random_state: int | None = 0,
) -> ProbeComparison:
    """Test differences between probes, paired by item, with groups as the unit.

    Parameters
    ----------
    a : ProbeResult or BestSites
    b : ProbeResult or BestSites, optional
        Of another Run over the same items, or of another estimator, grouping or reducer on the same Run.
    reference : str, optional
        Without `b`: the site of `a` that every other site is compared with.
    tasks : str or sequence of str, optional
        Default: all that both have.
    sites : str, sequence of str, or mapping of str to str, optional
        Default: all sites that both have. A mapping pairs sites of `a` with sites of `b`, for models of unequal depth.
    level : float
        Of the intervals.
    random_state : int or None
        Seed of the sign flips.

    Returns
    -------
    ProbeComparison

    Raises
    ------
    RunError
        Without `b` and `reference`, for unknown tasks and sites, and for results without an item in common or with
        other labels for the same items.

    Notes
    -----
    Interval: clustered t interval of the weighted mean difference, the wider of two groupings; where fewer than five
    groups differ, widened to what the limits of the two accuracies allow (Zou and Donner 2008, "Construction of
    confidence limits about effect measures"). For p values see ``_flips.py``. For R^2 the differences are those of
    squared errors over the variance of the target.
    """
    other = a if b is None else b
    for one in (a, other):
        if one.predictions.empty:
            notes = "; ".join(dict.fromkeys(one.table["note"].astype(str)))
            raise RunError("cannot compare the probes", found=f"a result without predictions ({notes})")
    pairs = _site_pairs(a, other, reference, sites, b is None)
    have = [t for t in dict.fromkeys(a.predictions["task"]) if t in set(other.predictions["task"])]
    wanted = have if tasks is None else [tasks] if isinstance(tasks, str) else list(tasks)
    for task in wanted:
        if task not in have:
            raise RunError("cannot compare the probes", found=repr(task), allowed=have, word=task)
    if not wanted:
        raise RunError("cannot compare the probes", found="no task that both probed")
    order = a.table.drop_duplicates("site").set_index("site")["site_order"].to_dict()
    rows: list[dict[str, Any]] = []
    for task in wanted:
        kinds = dict.fromkeys(a.predictions.loc[a.predictions["task"] == task, "target"])
        for target in kinds:
            rows += _of_task(a, other, task, str(target), pairs, level, random_state)
    for row in rows:
        row["site_order"] = order.get(row["site"], -1)
    table = pd.DataFrame(rows, columns=list(DIFFERENCES))
    for _, part in table.groupby(["target", "site"], sort=False):
        table.loc[part.index, "q"] = benjamini_hochberg(part["p_adjusted"].to_numpy(dtype=np.float64))
    mine, theirs = str(a.settings.get("run", "a")), str(other.settings.get("run", "b"))
    if b is None:
        mine, theirs = f"sites of {mine}", f"its {reference}"
    elif mine == theirs:
        mine, theirs = _told_apart(a.settings, other.settings, mine)
    made = {key: a.settings.get(key) for key in ("run", "path", "manifest_sha")}
    made |= {
        "a": mine, "b": theirs, "other_manifest_sha": other.settings.get("manifest_sha"), "reference": reference,
        "level": level, "random_state": random_state, "settings_a": dict(a.settings),
        "settings_b": None if b is None else dict(other.settings),
    }  # fmt: skip
    return ProbeComparison(table, made)


def _told_apart(a: Mapping[str, Any], b: Mapping[str, Any], run: str) -> tuple[str, str]:
    """Return names by what differs in the settings of two results of one Run."""
    keys = [k for k in a if k in b and a[k] != b[k] and k not in ("path", "manifest_sha")]
    if not keys:
        return f"{run} (a)", f"{run} (b)"
    first, second = (", ".join(f"{key}={one[key]}" for key in keys) for one in (a, b))
    return f"{run} ({first})", f"{run} ({second})"


def _site_pairs(
    a: _Probed, b: _Probed, reference: str | None, sites: str | Sequence[str] | Mapping[str, str] | None, within: bool
) -> list[tuple[str, str]]:
    of_a, of_b = (list(dict.fromkeys(one.predictions["site"])) for one in (a, b))
    if within:
        if reference is None:
            raise RunError("cannot compare the probes", found="one result and no reference",
                           fix="name a reference site, or give a second result")  # fmt: skip
        if reference not in of_a:
            raise RunError("cannot compare the probes", found=repr(reference), allowed=of_a, word=reference)
    if isinstance(sites, Mapping):
        pairs = [(str(one), str(two)) for one, two in sites.items()]
    else:
        listed = [sites] if isinstance(sites, str) else sites
        if listed is None:
            listed = [site for site in of_a if (site != reference if within else site in of_b)]
        pairs = [(site, reference if within and reference is not None else site) for site in listed]
    for one, two in pairs:
        for site, known in ((one, of_a), (two, of_b)):
            if site not in known:
                raise RunError("cannot compare the probes", found=repr(site), allowed=known, word=site)
    if not pairs:
        raise RunError("cannot compare the probes", found="no site in common", allowed=of_b,
                       fix="pair them: sites={site of a: site of b}")  # fmt: skip
    return pairs


def _of_task(
    a: _Probed, b: _Probed, task: str, target: str, pairs: Sequence[tuple[str, str]], level: float, seed: int | None
) -> list[dict[str, Any]]:
    """Return the rows of one task and target; the sites are one family."""
    rows: list[dict[str, Any]] = []
    moved: list[pd.Series[float]] = []
    mine, theirs = (_rows_of(one, task, target) for one in (a, b))
    metric = str(a.table.loc[a.table["task"] == task, "metric"].iloc[0])
    for one, two in pairs:
        left, right = mine.get(one), theirs.get(two)
        base: dict[str, Any] = {
            "task": task,
            "target": target,
            "site": one,
            "against": two,
            "metric": metric,
            "note": "",
        }
        if left is None or right is None:
            rows.append({**base, "note": "not probed"})
            continue
        common = left.index.intersection(right.index, sort=False)
        left, right = left.loc[common], right.loc[common]
        if left.empty:
            raise RunError(f"cannot compare the probes of {task!r}", found="no item in common")
        if not (left["label"].astype(str) == right["label"].astype(str)).all():
            raise RunError(f"cannot compare the probes of {task!r}", found="other labels for the same items",
                           fix="compare probes of one target over one benchmark")  # fmt: skip
        here = clusters_of(left)
        weights = left["weight"].to_numpy(dtype=np.float64)
        (x, y), widen = _scores(left, right, weights, metric)
        found = (paired_interval if widen else _plain_interval)(x, y, here, weights, level=level)
        alone = len(mine[one]) + len(theirs[two]) - 2 * len(common)
        notes = [f"{alone} items are in one result only"] if alone else []
        if not np.array_equal(left["fold"], right["fold"]):
            notes.append("not on the same folds")
        score, against = (float(np.average(side, weights=weights)) for side in (x, y))
        base |= {"score": score, "reference": against, "difference": found.value, "low": found.low, "high": found.high}
        base |= {"n": len(common), "n_groups": min(len(np.unique(ids)) for ids in here.values())}
        base |= {"group": a.settings.get("grouped_by", ""), "note": "; ".join(notes), "at": len(moved)}
        rows.append(base)
        moved.append(pd.Series((x - y) * weights, index=common))
    if moved:
        family = pd.concat(moved, axis=1).fillna(0.0)
        frame = next(iter(mine.values())).reindex(family.index)
        p, adjusted = flip_family(family.to_numpy().T, clusters_of(frame), random_state=seed)
        for row in rows:
            if "at" in row:
                row |= {"p": p[row["at"]], "p_adjusted": adjusted[row["at"]]}
    return rows


def _rows_of(one: _Probed, task: str, target: str) -> dict[str, pd.DataFrame]:
    part = one.predictions
    part = part[(part["task"] == task) & (part["target"] == target)]
    return {str(site): rows.set_index("id") for site, rows in part.groupby("site", sort=False)}


def _scores(
    left: pd.DataFrame, right: pd.DataFrame, weights: FloatArray, metric: str
) -> tuple[tuple[FloatArray, FloatArray], bool]:
    """Return what each item adds to the two scores, and whether these lie between 0 and 1."""
    if metric != "R2":
        return (left["correct"].to_numpy(dtype=np.float64), right["correct"].to_numpy(dtype=np.float64)), True
    truth = left["label"].to_numpy(dtype=np.float64)
    scale = float(np.average((truth - np.average(truth, weights=weights)) ** 2, weights=weights))
    x, y = (1.0 - (truth - part["predicted"].to_numpy(dtype=np.float64)) ** 2 / scale for part in (left, right))
    return (x, y), False


def paired_interval(
    a: FloatArray, b: FloatArray, clusters: Mapping[str, IntArray], weights: FloatArray, *, level: float
) -> stats.Estimate:
    """Return the weighted mean of ``a - b`` with its interval.

    Parameters
    ----------
    a, b : array, shape (item,), float64
        Between 0 and 1: whether each of the two is right.
    clusters : mapping of str to array, shape (item,), int64
    weights : array, shape (item,), float64
    level : float

    Returns
    -------
    Estimate
        The clustered t interval of the differences. Where fewer than five clusters differ it shows little of how much
        they could, and is widened to what the limits of the two accuracies give (`vpanalysis.stats.combination`).
    """
    difference = a - b
    found = stats.mean(difference, clusters, weights=weights, level=level)
    sums = [np.bincount(np.unique(c, return_inverse=True)[1], weights=difference * weights) for c in clusters.values()]
    if min((int(np.sum(np.abs(one) > 1e-12)) for one in sums), default=0) < _FEW:
        twice = {name: np.concatenate([ids, ids]) for name, ids in clusters.items()}
        parts = np.repeat([0, 1], len(a))
        other = stats.combination(np.concatenate([a, b]), parts, (1.0, -1.0), twice, level=level)
        low = min(found.low, found.value - (other.value - other.low))
        high = max(found.high, found.value + (other.high - other.value))
        found = replace(found, low=low, high=high)
    return found


def _plain_interval(
    a: FloatArray, b: FloatArray, clusters: Mapping[str, IntArray], weights: FloatArray, *, level: float
) -> stats.Estimate:
    return stats.mean(a - b, clusters, weights=weights, level=level)
