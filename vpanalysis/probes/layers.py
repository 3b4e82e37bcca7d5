"""``probe_layers``: linear probes per task and site, with the evidence that they found something.

For every task the items, labels and weights are chosen once (``targets.py``), folds are made once and shared by all
sites (``splits.py``, ``plans.py``), labels are shuffled once for all sites (``shuffles.py``), and all sites, folds,
labels and shuffles are fitted in one call (``estimator.py``). Every item is predicted once, by a probe that has seen
neither its group nor its twins; accuracy and interval are taken over those predictions with the group as the unit.

What the defaults mean, in one example: a task with 100 design cells gives 100 conflict and 100 congruent clips, 200
predictions in groups of one speaker, weighted so that knowing the words is worth nothing. An accuracy above the band of
the shuffles is then evidence about the voice.

>>> result = probe_layers(run, target="truth", tasks="age_prediction")   # doctest: +SKIP
>>> result.to_dataframe()[["site", "accuracy", "low", "high", "p"]]      # doctest: +SKIP
>>> probe_layers(X, y, groups=speaker).plot()                            # doctest: +SKIP
>>> probe_layers(("openai/whisper-small", "mini"))                       # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from vpanalysis._saved import run_identity
from vpanalysis.capture.sites import select_sites
from vpanalysis.errors import RunError
from vpanalysis.probes._intervals import accuracy_interval, difference_interval
from vpanalysis.probes._left_out import NONFINITE, LeftOut
from vpanalysis.probes.estimator import (
    DEFAULT_C,
    ESTIMATORS,
    MEMORY_GB,
    NETWORKS,
    LabelSets,
    SiteFit,
    each_fit,
    single_thread,
)
from vpanalysis.probes.inputs import GROUP, TASK, Held, from_arrays, is_arrays, recorded
from vpanalysis.probes.parts import Part, Parts, compact
from vpanalysis.probes.plans import Plan, choose_columns, make_plan, regression_interval
from vpanalysis.probes.result import BY_CONDITION, COLUMNS, ProbeResult
from vpanalysis.probes.shuffles import FEWEST_ADJUSTED, Evidence, evidence
from vpanalysis.probes.splits import FloatArray, IntArray
from vpanalysis.probes.spreading import Where, spread
from vpanalysis.probes.targets import REDUCER_OF_TASK, RunLike, read_states, select_task, tasks_of
from vpanalysis.stats import benjamini_hochberg

__all__ = ["choose_sites", "probe_layers", "reducer_for"]

LEVEL = 0.95

# What the prompt or the options determine is no place where a voice could be found.
_NOT_PROBED = ("gate", "options")

_SHUFFLES = 20


def probe_layers(
    run: Any,
    target: str | ArrayLike = "truth",
    *,
    tasks: str | Sequence[str] | None = None,
    sites: str | Sequence[str] | Callable[[str], bool] | None = None,
    conditions: Sequence[str] | None = None,
    reducer: str = "auto",
    group_by: str = "auto",
    groups: ArrayLike | None = None,
    n_splits: int = 5,
    estimator: str = "logistic",
    C: float | Sequence[float] = DEFAULT_C,
    shuffles: int | None = None,
    adjusted: bool = False,
    nonfinite: str = "raise",
    benchmark: Any = None,
    out: str | Path | None = None,
    memory_gb: float = MEMORY_GB,
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
    random_state: int | None = 0,
    progress: bool = True,
) -> ProbeResult:
    """Cross-validate a linear probe per task and site, and shuffle its labels.

    Parameters
    ----------
    run : Run, str or Path, (model, benchmark), or array, shape (item, layer, feature)
        A finished Run (or anything with its ``name``, ``predictions``, ``sites`` and ``states``) or its folder; a model
        and a benchmark, as :func:`vpanalysis.run` takes them; or states from anywhere, also as an xarray DataArray or
        of shape (item, feature).
    target : str, or array, shape (item,)
        ``"truth"`` (the voice), ``"claim"`` (the words, over items that assert something), ``"both"`` (the two, on one
        split) or a column of the Run's predictions such as ``"speaker"``. With arrays, the labels. Numbers (numeric
        columns, floating point labels) are read by ridge regression.
    tasks : str or sequence of str, optional
        Default: all tasks of the Run.
    sites : str, sequence of str or callable, optional
        Site names or patterns in which ``*`` stands for anything (``"encoder[*]"``), or a predicate on the name.
        Default: all but ``gate`` and ``options``.
    conditions : sequence of str, optional
        Default: conflict and congruent twins, weighted so that words and truth are independent.
    reducer : str
        ``"auto"`` takes :data:`~vpanalysis.probes.targets.REDUCER_OF_TASK` at audio sites and ``last`` at text sites.
    group_by : {"auto", "speaker", "script", "both"}
        What no fold may have on both sides. Cells are never split. ``"both"`` tests every crossing of a speaker fold
        with a script fold on a probe trained on the items in neither, at `n_splits` squared fits. ``"auto"`` is the
        strictest that the data of all tasks allow: both, else speaker, else script. The result says which.
    groups : array, shape (item,), optional
        With arrays only: what no fold may have on both sides. Default: every item is independent.
    n_splits : int
        Folds per grouping; fewer where there are fewer groups.
    estimator : {"logistic", "ridge", "mlp1", "mlp3", "mlp5"}
        Ridge chooses its penalty in every fold and shuffle by generalised cross-validation, and is the faster. The
        others are the paper's probes: a linear layer and ReLU networks of three and five layers, trained by Adam, with
        steps chosen on held-out training groups (``n_splits=10`` is the paper's). "Decodable by a network" is a weaker
        claim than "by a line": compare both, and the network's shuffles.
    C : float or sequence of float
        Inverse L2 penalty of the logistic regression on standardised features, fixed for all sites; of several, one is
        chosen inside every training fold.
    shuffles : int, optional
        Label shuffles. Default 20, or 199 with ridge or `adjusted`, or none for networks, of which each would have to
        be trained anew; 0 for none.
    adjusted : bool
        Print p values that are adjusted for the number of sites; takes 199 shuffles or more.
    nonfinite : {"raise", "drop"}
        What to do about items whose states are NaN or infinite at any probed site: an error that names the site, or
        leave them out of all sites; the result's notes say how many.
    benchmark : Benchmark or str, optional
        With it, `run` is a model.
    out : str or Path, optional
        With a model: where its Run is kept. Default: nowhere.
    memory_gb : float
        About what this may take at once, in 1e9 bytes, beside the interpreter and one site of the Run (items x features
        x 4 bytes): sites are read and fitted a group at a time, and a site whose standardised copies would not fit is
        worked in slices. It does not depend on the number of sites, and the numbers are the same up to rounding.
    engine : {"local", "ray"}
        Where groups of sites are fitted: in this process, or as tasks of Ray (``pip install "vpanalysis[ray]"``), each
        of which may take `memory_gb`. Every task reads the Run from its folder, which all nodes have to see.
    workers : int, optional
        With Ray: tasks at once. Default: one a CPU of the cluster.
    address : str, optional
        With Ray: the cluster. Default: the one that is connected, else this machine.
    random_state : int or None
        Seed of the assignment of groups to folds, and of the shuffles.
    progress : bool
        Show a progress bar.

    Returns
    -------
    ProbeResult
        With ``accuracy``, interval, ``chance`` (one over the number of classes), ``majority`` and the shuffles per task
        and site. A task that cannot be probed (one class, fewer than two groups, nothing said) has empty accuracies
        and a reason.

    Raises
    ------
    RunError
        For unknown tasks, sites, conditions, targets or groupings, a target that is its own group, and states that are
        not finite.

    Notes
    -----
    Shuffles move whole cells, and whole groups where the label belongs to the group; all sites share them. See
    :mod:`vpanalysis.probes.shuffles` for p values and their sources. ``q`` is Benjamini and Hochberg's, over tasks.
    """
    made = _checked(estimator, C, n_splits, shuffles, adjusted)
    if nonfinite not in NONFINITE:
        raise RunError("cannot probe", found=f"nonfinite={nonfinite!r}", allowed=NONFINITE, word=nonfinite)
    where = Where(memory_gb, engine, workers, address)
    made |= {
        "group_by": group_by, "random_state": random_state, "reducer": reducer,
        "conditions": None if conditions is None else list(conditions),
    }  # fmt: skip
    if nonfinite != "raise":
        made["nonfinite"] = nonfinite
    if isinstance(run, tuple) and len(run) == 2 and benchmark is None:
        run, benchmark = run
    if is_arrays(run):
        held = from_arrays(run, () if isinstance(target, str) else target, groups)
        made |= {"reducer": "given", "group_by": GROUP if groups is not None else "none", "conditions": None}
        return _probed(held, TASK, (GROUP,), None, sites, made, where, progress)
    if groups is not None or not isinstance(target, str):
        raise RunError(
            "cannot probe the run", found="labels or groups beside a Run",
            fix="name a column of its predictions, or give the states as an array",
        )  # fmt: skip
    if benchmark is not None:
        with recorded(run, benchmark, out, sites, reducer, progress) as kept:
            return _probed(
                kept, target, None, tasks, None if sites is None else list(kept.sites), made, where, progress
            )
    if isinstance(run, (str, Path)):
        from vpanalysis.runs import open_run

        run = open_run(run)
    return _probed(cast("RunLike", run), target, None, tasks, sites, made, where, progress)


def _checked(
    estimator: str, C: float | Sequence[float], n_splits: int, shuffles: int | None, adjusted: bool
) -> dict[str, Any]:
    """Return the settings of the fit, or raise."""
    if estimator not in ESTIMATORS:
        raise RunError("cannot fit the probe", found=f"estimator={estimator!r}", allowed=ESTIMATORS, word=estimator)
    if n_splits < 2:
        raise RunError("cannot cross-validate", found=f"n_splits={n_splits}", allowed="2 or more")
    if not np.size(C) or not (np.asarray(C, dtype=np.float64) > 0).all():
        raise RunError("cannot fit the probe", found=f"C={C}", allowed="a positive number")
    if shuffles is None:
        cheap = FEWEST_ADJUSTED if estimator == "ridge" else 0 if estimator in NETWORKS else _SHUFFLES
        shuffles = FEWEST_ADJUSTED if adjusted else cheap
    if shuffles < 0 or (adjusted and shuffles < FEWEST_ADJUSTED):
        least = FEWEST_ADJUSTED if adjusted else 0
        raise RunError("cannot shuffle the labels", found=f"shuffles={shuffles}", allowed=f"{least} or more")
    strength = np.asarray(C, dtype=np.float64).tolist()
    return {"estimator": estimator, "C": strength, "n_splits": n_splits, "shuffles": shuffles, "level": LEVEL}


def _probed(
    run: RunLike,
    target: str,
    columns: tuple[str, ...] | None,
    tasks: str | Sequence[str] | None,
    sites: str | Sequence[str] | Callable[[str], bool] | None,
    made: dict[str, Any],
    where: Where,
    progress: bool,
) -> ProbeResult:
    """Probe anything that is a Run by now."""
    chosen_sites = choose_sites(run.sites, sites)
    left_out = None
    if made.get("nonfinite") == "drop":
        run = left_out = LeftOut(run, chosen_sites, lambda site, task: reducer_for(site, task, made["reducer"]))
        made = {**made, "left_out": left_out.dropped["id"].tolist()}
    split = {"n_splits": made["n_splits"], "random_state": made["random_state"]}
    if columns is None:
        choose_columns([], target, made["group_by"], **split)  # bad arguments before any work
    kinds = ("truth", "claim") if target == "both" else (target,)
    tasks_by_kind = [
        [select_task(run, task, kind, made["conditions"]) for kind in kinds] for task in tasks_of(run, tasks)
    ]
    if columns is None:
        flat = [items for group in tasks_by_kind for items in group]
        columns = choose_columns(flat, target, made["group_by"], **split)
    out = _Tables(Held(run, where.shared_bytes), chosen_sites, made, where, left_out)
    total = len(tasks_by_kind) * len(kinds) * len(chosen_sites)
    bar = tqdm(total=total, desc=f"probe {target}", unit="site", disable=not progress)
    with single_thread(), bar:
        for group in tasks_by_kind:
            first: Plan | None = None
            for items in group:
                plan = make_plan(items, columns, **split, like=first)
                first = first or plan
                out.add(plan, bar)
    return out.result(target, " and ".join(columns))


class _Tables:
    """Rows of the result, as they come."""

    def __init__(
        self, run: RunLike, sites: list[str], made: dict[str, Any], where: Where, left_out: LeftOut | None = None
    ) -> None:
        self.run, self.sites, self.made, self.where, self.left_out = run, sites, made, where, left_out
        self.order = {site: number for number, site in enumerate(run.sites)}
        self.table: list[dict[str, Any]] = []
        self.by_condition: list[dict[str, Any]] = []
        self.predictions: list[Part] = []

    def add(self, plan: Plan, bar: Any) -> None:
        """Fit a plan at all sites."""
        items, before = plan.items, bar.n
        reducers = {site: reducer_for(site, items.task, self.made["reducer"]) for site in self.sites}
        rows = [
            {"task": items.task, "site": site, "site_order": self.order[site], "reducer": reducers[site],
             "target": items.target, **plan.facts}
            for site in self.sites
        ]  # fmt: skip
        told = self.left_out.note(items.task) if self.left_out is not None else ""
        for row in rows if told else ():
            row["note"] = "; ".join(filter(None, (row["note"], told)))
        if plan.folds:

            def tell(done: float) -> None:
                bar.n = before + done
                bar.refresh()

            shuffled: dict[int, FloatArray] = {}
            scored: dict[int, tuple[list[dict[str, Any]], Part]] = {}
            sets = plan.label_sets(self.made["shuffles"], self.made["random_state"], lazily=True)
            for number, fit in self._fits(plan, reducers, sets, None if bar.disable else tell):
                # Of a fit only this is kept, whatever the number of sites.
                shuffled[number], scored[number] = fit.shuffled, self._score(rows[number], plan, fit)
            for number in range(len(rows)):
                self.by_condition += scored[number][0]
                self.predictions.append(scored[number][1])
            scores = np.array([row["accuracy"] for row in rows], dtype=np.float64)
            _tell(rows, evidence(scores, np.stack([shuffled[n] for n in range(len(rows))]), level=LEVEL))
        bar.update(len(rows) - (bar.n - before))
        self.table += rows

    def _fits(
        self, plan: Plan, reducers: dict[str, str], sets: LabelSets, tell: Callable[[float], None] | None
    ) -> Iterator[tuple[int, SiteFit]]:
        """Yield the place and the fit of every site, as they come."""
        how = {key: self.made[key] for key in ("estimator", "C", "random_state")}
        how["memory_gb"] = self.where.memory_gb
        if self.where.engine == "ray":
            yield from spread(self.run, self.sites, reducers, plan.items.rows, sets, how, self.where, tell)
            return

        def read(site: str) -> NDArray[np.floating[Any]]:
            return read_states(self.run, site, reducers[site], plan.items.rows)[0]

        yield from each_fit(read, self.sites, sets, progress=tell, **how)

    def _score(self, row: dict[str, Any], plan: Plan, fit: SiteFit) -> tuple[list[dict[str, Any]], Part]:
        """Fill the row of a site; return its rows by condition and its predictions."""
        items, predicted = plan.items, fit.predicted
        by_condition: list[dict[str, Any]] = []
        if items.numbers is not None:
            parts = regression_interval(items.numbers, predicted, items.weights)
            found = difference_interval(parts, plan.clusters, items.weights, level=LEVEL)
            row |= dict(zip(("accuracy", "low", "high"), found, strict=True))
            correct = np.full(len(predicted), np.nan)
        else:
            correct = (predicted == items.labels).astype(np.float64)
            row |= _accuracy(correct, plan.clusters, items.weights, row["chance"])
            by_condition = _per_condition(row, plan, correct)
        return by_condition, Part(row["task"], row["site"], row["target"], plan, *compact(predicted, fit.probabilities))

    def result(self, target: str, group: str) -> ProbeResult:
        """Return what was collected."""
        table = pd.DataFrame(self.table, columns=list(COLUMNS))
        for _, part in table.dropna(subset=["p_adjusted"]).groupby(["target", "site"], sort=False):
            table.loc[part.index, "q"] = benjamini_hochberg(part["p_adjusted"].to_numpy(dtype=np.float64))
        return ProbeResult(
            table,
            pd.DataFrame(self.by_condition, columns=list(BY_CONDITION)),
            cast("pd.DataFrame", Parts(tuple(self.predictions))),
            target,
            {**run_identity(self.run), "target": target, "grouped_by": group, **self.made},
        )


def _tell(rows: list[dict[str, Any]], found: Evidence) -> None:
    for number, row in enumerate(rows):
        row |= {
            "shuffle_mean": found.mean[number], "shuffle_low": found.low[number], "shuffle_high": found.high[number],
            "p": found.p[number], "p_adjusted": found.p_adjusted[number],
        }  # fmt: skip


def _accuracy(correct: FloatArray, clusters: list[IntArray], weights: FloatArray, chance: float) -> dict[str, float]:
    accuracy, low, high = accuracy_interval(correct, clusters, weights, level=LEVEL, chance=chance)
    return {"accuracy": accuracy, "low": low, "high": high}


def _per_condition(base: dict[str, Any], plan: Plan, correct: FloatArray) -> list[dict[str, Any]]:
    """Return the unweighted accuracy within each condition, from the same predictions."""
    condition = plan.items.frame["condition"].astype(str).to_numpy()
    rows = []
    for name in dict.fromkeys(condition):
        here = condition == name
        clusters = [c[here] for c in plan.clusters]
        rows.append(
            {
                **{key: base[key] for key in ("task", "site", "site_order", "target")},
                "condition": name,
                **_accuracy(correct[here], clusters, np.ones(int(here.sum())), base["chance"]),
                "n": int(here.sum()),
                "n_groups": min(len(np.unique(c)) for c in clusters),
            }
        )
    return rows


def choose_sites(available: Sequence[str], selector: str | Sequence[str] | Callable[[str], bool] | None) -> list[str]:
    """Return the sites that `selector` names, in the order of the Run.

    Parameters
    ----------
    available : sequence of str
    selector : str, sequence of str, callable or None
        As `sites` of :func:`probe_layers`.

    Returns
    -------
    list of str

    Raises
    ------
    RunError
        When a name or pattern matches nothing.
    """
    if selector is None:
        return [name for name in available if name not in _NOT_PROBED]
    return select_sites(available, selector)


def reducer_for(site: str, task: str, reducer: str = "auto") -> str:
    """Return the reducer at which `site` is read for `task`.

    Parameters
    ----------
    site, task : str
    reducer : str
        ``"auto"``, or the name of a stored reducer, which is returned as it is.

    Returns
    -------
    str
        ``"last"`` at text sites, else the task's entry of :data:`~vpanalysis.probes.targets.REDUCER_OF_TASK`.
    """
    if reducer != "auto":
        return reducer
    return "last" if site.startswith("text") else REDUCER_OF_TASK.get(task, "mean")
