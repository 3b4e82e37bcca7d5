"""``decodability_over_time``: from when on can a property be read, in seconds?

Why it exists. A probe of a whole clip says that something is there, not when. An intonation is in the last syllable, a
level in the second rendition; a curve over time shows it, and shows too where a probe finds what cannot be there yet.

The idea. Frames are put on a common clock (seconds from the start, or before the end, or the clip from 0 to 1) and
averaged in bins; a frame on the border of two is shared by overlap. In every bin a probe across the items that still
have frames there is cross-validated. Folds are the same in all bins: a shorter clip is only missing later. So are the
label shuffles, whose best bin gives the threshold that a curve passes by chance once in twenty times (Nichols and
Holmes 2002, "Nonparametric permutation tests for functional neuroimaging"; Westfall and Young 1993). Weights that make
the words uninformative are made anew in every bin, over the items that are there.

``generalise=True`` tests each bin's probe in every other bin (King and Dehaene 2014, "Characterizing the dynamics of
mental representations: the temporal generalization method"): a square for a code that stays, a diagonal for one that
moves on. Test items are never those that the probe has seen, at whatever time.

A Run that kept only ``segments(6)`` is read on the relative clock with its six parts as bins; the note says so.

>>> import numpy as np
>>> rng = np.random.default_rng(0); y = np.arange(80) % 2
>>> clips = [rng.normal(size=(10, 6)) for _ in y]
>>> for clip, label in zip(clips, y): clip[6:, 0] += 4 * label                 # told from 0.3 s on
>>> found = decodability_over_time(clips, y=y, frame_seconds=0.05, progress=False)
>>> found.onset()[["first", "best"]].round(2).values.tolist(), bool((found.table["accuracy"][:3] < 0.75).all())
([[0.3, 0.35]], True)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from vpanalysis._saved import run_identity
from vpanalysis.errors import RunError
from vpanalysis.probes._frames import Binned, FrameReader, from_frames
from vpanalysis.probes._intervals import accuracy_interval, difference_interval
from vpanalysis.probes._time_result import GENERALISED, PREDICTIONS, TABLE, TimeResult
from vpanalysis.probes.estimator import DEFAULT_C, ESTIMATORS, LabelSets, SiteFit, fit_sites, single_thread
from vpanalysis.probes.inputs import GROUP, recorded
from vpanalysis.probes.plans import Plan, choose_columns, make_plan, regression_interval
from vpanalysis.probes.shuffles import FEWEST_ADJUSTED, evidence
from vpanalysis.probes.solvers import fit_many, regress_many
from vpanalysis.probes.splits import FloatArray, Fold, IntArray, independent_sets
from vpanalysis.probes.targets import ProbeTask, RunLike, select_task, tasks_of

__all__ = ["ALIGNED", "TimeResult", "decodability_over_time"]

LEVEL = 0.95
ALIGNED = ("start", "end", "relative")


def decodability_over_time(
    run: Any,
    target: str = "truth",
    *,
    tasks: str | Sequence[str] | None = None,
    sites: str | Sequence[str] | Callable[[str], bool] | None = None,
    conditions: Sequence[str] | None = None,
    bin_seconds: float = 0.1,
    bins: int | None = None,
    align: str = "start",
    coverage: float = 0.5,
    group_by: str = "auto",
    n_splits: int = 5,
    estimator: str = "ridge",
    C: float = DEFAULT_C,
    shuffles: int = FEWEST_ADJUSTED,
    generalise: bool = False,
    y: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    frame_seconds: float | Mapping[str, float] | None = None,
    out: str | Path | None = None,
    random_state: int | None = 0,
    progress: bool = True,
) -> TimeResult:
    """Cross-validate a probe per task, site and time bin.

    Parameters
    ----------
    run : Run, str or Path, (model, benchmark), or (frames, lengths)
        As in :func:`~vpanalysis.probes.attentive.attentive_probe`. Frames alone need `y`, and `frame_seconds` unless
        they are aligned relatively.
    target : str
        ``"truth"``, ``"claim"`` or a column of the Run's predictions; numbers are read by ridge regression (R^2).
    tasks, conditions, group_by, n_splits
        As in :func:`~vpanalysis.probes.probe_layers`. One split for all bins.
    sites : str, sequence of str or callable, optional
        Default: all audio sites with frames.
    bin_seconds : float
        Width of a bin. Bins shorter than a frame repeat it.
    bins : int, optional
        With ``align="relative"`` their number (20), else the most that are made.
    align : {"start", "end", "relative"}
        Where the clips are laid on each other. Times before the end are negative.
    coverage : float
        Bins with less than this share of a task's items are not probed.
    estimator : {"ridge", "logistic"}
    C : float
        Inverse penalty of the logistic regression.
    shuffles : int
        Label shuffles, shared by all bins and sites of a task; adjusted p values take 199.
    generalise : bool
        Also test every bin's probe in every other bin.
    y, groups : array, shape (item,), optional
        With frames only: labels, and what no fold may have on both sides.
    frame_seconds : float or mapping, optional
        Seconds of a frame, by clock or site, where the Run does not tell.
    out : str or Path, optional
        With a model: where its Run is kept. Default: nowhere.
    random_state : int or None
    progress : bool

    Returns
    -------
    TimeResult

    Raises
    ------
    RunError
        For unknown tasks, sites, targets or groupings, sites without a clock in seconds, frames that are missing or not
        finite.
    """
    if align not in ALIGNED:
        raise RunError("cannot align the clips", found=f"align={align!r}", allowed=ALIGNED, word=align)
    if estimator not in ESTIMATORS:
        raise RunError("cannot fit the probe", found=f"estimator={estimator!r}", allowed=ESTIMATORS, word=estimator)
    wrong = {
        "bin_seconds": not (np.isfinite(bin_seconds) and bin_seconds > 0), "bins": bins is not None and bins < 1,
        "coverage": not 0 <= coverage <= 1, "n_splits": n_splits < 2, "shuffles": shuffles < 0,
    }  # fmt: skip
    for name, bad in wrong.items():
        if bad:
            raise RunError("cannot probe over time", found=f"{name}={locals()[name]}")
    made: dict[str, Any] = {
        "target": target, "group_by": group_by, "n_splits": n_splits, "align": align, "bin_seconds": bin_seconds,
        "bins": bins, "coverage": coverage, "estimator": estimator, "C": C, "shuffles": shuffles, "level": LEVEL,
        "conditions": None if conditions is None else list(conditions), "random_state": random_state,
        "generalise": generalise,
    }  # fmt: skip
    if y is not None:
        frames, lengths = run if isinstance(run, tuple) else (run, None)
        made |= {"target": "y", "group_by": GROUP if groups is not None else "none"}
        held = from_frames(frames, lengths, y, groups)
        return _probed(held, (GROUP,), tasks, sites, made, frame_seconds, progress)
    if groups is not None:
        raise RunError("cannot probe the run", found="groups beside a Run", fix="use group_by")
    if isinstance(run, tuple):
        model, benchmark = run
        with recorded(model, benchmark, out, "audio" if sites is None else sites, "frames", progress) as kept:
            return _probed(kept, None, tasks, None, made, frame_seconds, progress)
    if isinstance(run, (str, Path)):
        from vpanalysis.runs import open_run

        run = open_run(run)
    return _probed(cast("RunLike", run), None, tasks, sites, made, frame_seconds, progress)


def _probed(
    run: RunLike,
    columns: tuple[str, ...] | None,
    tasks: str | Sequence[str] | None,
    sites: Any,
    made: dict[str, Any],
    frame_seconds: float | Mapping[str, float] | None,
    progress: bool,
) -> TimeResult:
    reader, target = FrameReader(run, frame_seconds), str(made["target"])
    split = {"n_splits": made["n_splits"], "random_state": made["random_state"]}
    chosen = reader.choose(sites, text=False)
    if columns is None:
        choose_columns([], target, made["group_by"], **split)
    selected = [select_task(run, task, target, made["conditions"]) for task in tasks_of(run, tasks)]
    columns = columns or choose_columns(selected, target, made["group_by"], **split)
    tables: dict[str, list[Any]] = {"table": [], "predictions": [], "generalisation": []}
    bar = tqdm(total=len(selected) * len(chosen), desc="over time", unit="site", disable=not progress)
    with single_thread(), bar:
        for items in selected:
            _task(run, reader, chosen, make_plan(items, columns, **split), made, tables, bar)
    return TimeResult(
        pd.DataFrame(tables["table"], columns=list(TABLE)),
        pd.DataFrame([row for rows in tables["predictions"] for row in rows], columns=list(PREDICTIONS)),
        pd.DataFrame(tables["generalisation"], columns=list(GENERALISED)),
        {**run_identity(run), "grouped_by": " and ".join(columns), **made},
    )


class _Part:
    """A plan's items that are there in a bin: the same folds and shuffles, with weights made anew."""

    def __init__(self, plan: Plan, whole: LabelSets, keep: NDArray[np.bool_], coverage: float) -> None:
        self.keep, self.rows = keep, np.flatnonzero(keep)
        self.items: ProbeTask = plan.items if keep.all() else plan.items.take(keep)
        self.clusters = [groups[keep] for groups in plan.clusters]
        place = np.full(len(keep), -1, dtype=np.int64)
        place[self.rows] = np.arange(len(self.rows))
        self.folds: list[Fold] = []
        self.numbers: list[int] = []
        self.reason = ""
        if len(self.rows) < coverage * len(keep):
            self.reason = f"{len(self.rows)} of {len(keep)} items are that long"
        classes = len(np.unique(plan.items.labels))
        for number, fold in enumerate(plan.folds if not self.reason else ()):
            train, test = place[fold.train][keep[fold.train]], place[fold.test][keep[fold.test]]
            if not len(test):
                continue
            if not len(train) or len(np.unique(self.items.labels[train])) < min(classes, 2):
                self.reason = f"{len(self.rows)} items, with fewer than two labels in a training set"
                break
            self.folds.append(Fold(train, test, self.items.train_weights(train)))
            self.numbers.append(number)
        if not self.folds and not self.reason:
            self.reason = "no items"
        self.sets = whole if keep.all() else None if self.reason else self._sets(whole)

    def _sets(self, whole: LabelSets) -> LabelSets:
        values, items = whole.values[:, self.keep], self.items
        fixed = np.unique(items.truth if items.target == "claim" else items.words, return_inverse=True)[1]
        moved: IntArray = values if values.dtype.kind == "i" else np.zeros(values.shape, dtype=np.int64)
        still = np.broadcast_to(fixed.astype(np.int64), moved.shape)
        truth, words = (still, moved) if items.target == "claim" else (moved, still)
        train = np.ones((len(self.folds), *values.shape))
        for number, fold in enumerate(self.folds):
            train[number][:, fold.train] = independent_sets(truth, words, fold.train)
        return LabelSets(values, self.folds, train, independent_sets(truth, words), self.clusters[0])

    def scored(self, predicted: NDArray[Any], some: IntArray | None = None) -> dict[str, float]:
        """Return value, low and high of predictions of the items, or of `some` of them."""
        at = np.arange(len(self.rows)) if some is None else some
        weights, clusters = self.items.weights[at], [groups[at] for groups in self.clusters]
        if self.items.numbers is not None:
            found = difference_interval(
                regression_interval(self.items.numbers[at], predicted, weights), clusters, weights, level=LEVEL
            )
        else:
            right = (predicted == self.items.labels[at]).astype(np.float64)
            found = accuracy_interval(right, clusters, weights, level=LEVEL, chance=1.0 / len(self.items.classes))
        return dict(zip(("accuracy", "low", "high"), found, strict=True))


def _task(
    run: RunLike,
    reader: FrameReader,
    sites: list[str],
    plan: Plan,
    made: Mapping[str, Any],
    tables: dict[str, list[Any]],
    bar: Any,
) -> None:
    """Probe a task at all sites and bins and append the rows of the tables."""
    items, order = plan.items, {site: number for number, site in enumerate(run.sites)}
    head = {"task": items.task, "target": items.target, **plan.facts}
    if not plan.folds:
        tables["table"] += [{**head, "site": site, "site_order": order[site]} for site in sites]
        bar.update(len(sites))
        return
    whole = plan.label_sets(made["shuffles"], made["random_state"])
    rows: list[dict[str, Any]] = []
    shuffled: list[FloatArray] = []
    parts: dict[bytes, _Part] = {}
    for site in sites:
        binned = Binned(reader.read(site, items.rows), site, made["align"], made["bin_seconds"], made["bins"])
        there = ~np.isnan(binned.values[:, :, 0])
        mine = []
        for column in there.T:
            key = column.tobytes()
            if key not in parts:
                parts[key] = _Part(plan, whole, column.copy(), made["coverage"])
            mine.append(parts[key])
        fits = _fit(binned, mine, made)
        for number, (part, fit) in enumerate(zip(mine, fits, strict=True)):
            note = "; ".join(p for p in (part.reason or part.items.note, binned.note) if p)
            row = {
                **head, "site": site, "site_order": order[site], "bin": number, "unit": binned.unit,
                "start": binned.start[number], "stop": binned.stop[number],
                "time": (binned.start[number] + binned.stop[number]) / 2, "n": len(part.rows), "note": note,
                "n_train": min((len(fold.train) for fold in part.folds), default=0),
                "n_groups": min(len(np.unique(groups)) for groups in part.clusters),
            }  # fmt: skip
            if fit is not None:
                share = np.bincount(part.items.labels, weights=part.items.weights)
                row |= part.scored(fit.predicted)
                row["majority"] = 0.0 if items.numbers is not None else float(share.max() / share.sum())
                tables["predictions"].append(_prediction_rows(row, plan, part, fit.predicted))
            shuffled.append(np.full(made["shuffles"], np.nan) if fit is None else fit.shuffled)
            rows.append(row)
        if made["generalise"]:
            tables["generalisation"] += _generalise(plan, site, binned, mine, made)
        bar.update(1)
    _tell(rows, np.stack(shuffled))
    tables["table"] += rows


def _fit(binned: Binned, parts: list[_Part], made: Mapping[str, Any]) -> list[SiteFit | None]:
    """Return the fit of every bin; None where it cannot be probed. Bins with the same items are fitted in one call."""
    out: list[SiteFit | None] = [None] * len(parts)
    for part in dict.fromkeys(parts):
        if part.sets is None or part.reason:
            continue
        here = [number for number, other in enumerate(parts) if other is part]
        names = {f"{binned.start[number]:.3f} {binned.unit}": number for number in here}

        def read(name: str, of: Mapping[str, int] = names, rows: IntArray = part.rows) -> NDArray[np.floating[Any]]:
            return np.asarray(binned.values[rows, of[name]])

        fits = fit_sites(read, list(names), part.sets, estimator=made["estimator"], C=made["C"])
        for number, fit in zip(here, fits, strict=True):
            out[number] = fit
    return out


def _tell(rows: list[dict[str, Any]], shuffled: FloatArray) -> None:
    """Add what the shuffles say: of each bin, of the best bin of its site, and of the best of all sites."""
    made = np.array([np.isfinite(float(row["accuracy"])) for row in rows])
    sites = np.array([row["site"] for row in rows])
    names = ("shuffle_mean", "shuffle_low", "shuffle_high", "p", "p_adjusted")
    for row in rows:
        row |= dict.fromkeys((*names, "p_family", "threshold"), np.nan)
    at = np.flatnonzero(made)
    if not len(at) or not shuffled.shape[1]:
        return
    scores = np.array([rows[i]["accuracy"] for i in at], dtype=np.float64)
    family = evidence(scores, shuffled[at], level=LEVEL).p_adjusted
    for place, i in enumerate(at):
        rows[i]["p_family"] = family[place]
    for site in dict.fromkeys(sites[at]):
        mine = at[sites[at] == site]
        found = evidence(np.array([rows[i]["accuracy"] for i in mine], dtype=np.float64), shuffled[mine], level=LEVEL)
        # A curve over all bins passes this by chance once in twenty times.
        threshold = float(np.quantile(shuffled[mine].max(axis=0), LEVEL, method="higher"))
        values = (found.mean, found.low, found.high, found.p, found.p_adjusted)
        for place, i in enumerate(mine):
            rows[i] |= {name: value[place] for name, value in zip(names, values, strict=True)}
            rows[i]["threshold"] = threshold


def _prediction_rows(row: Mapping[str, Any], plan: Plan, part: _Part, predicted: NDArray[Any]) -> list[dict[str, Any]]:
    items, numeric = part.items, part.items.numbers is not None
    ids = items.frame["id"].astype(str).to_numpy()
    labels = items.numbers if items.numbers is not None else np.array(items.classes, dtype=object)[items.labels]
    said = predicted if numeric else np.array(items.classes, dtype=object)[predicted]
    second = part.clusters[1] if len(part.clusters) > 1 else np.full(len(ids), -1)
    return [
        {
            "task": row["task"], "site": row["site"], "bin": row["bin"], "time": row["time"], "id": ids[i],
            "group": part.clusters[0][i], "second_group": second[i], "fold": plan.fold_of[part.rows[i]],
            "label": str(labels[i]), "predicted": str(said[i]), "correct": bool(labels[i] == said[i]),
            "weight": items.weights[i],
        }
        for i in range(len(ids))
    ]  # fmt: skip


def _generalise(
    plan: Plan, site: str, binned: Binned, parts: list[_Part], made: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Train in every bin and test in every bin: the items of the other bins stand below those of the training bin."""
    able = [number for number, part in enumerate(parts) if part.sets is not None and not part.reason]
    centre = (binned.start + binned.stop) / 2
    plan_values = plan.items.labels if plan.items.numbers is None else plan.items.numbers
    out = []
    for a in able:
        part, tests = parts[a], [a, *(b for b in able if b != a)]
        assert part.sets is not None
        size = [len(parts[b].rows) for b in tests]
        first = np.cumsum(size) - size
        stack = np.concatenate([binned.values[parts[b].rows, b] for b in tests])
        folds: list[Fold] = []
        # An item has its fold of the whole plan, also where it is missing in bin a: that fold's probe has not seen its
        # group. A fold without test items in bin a was not fitted there.
        number_of = np.full(len(plan.folds) + 1, -1, dtype=np.int64)
        number_of[part.numbers] = np.arange(len(part.numbers))
        kept = []
        for at, b in zip(first, tests, strict=True):
            fold_of = number_of[plan.fold_of[parts[b].rows]]
            kept.append((b, np.flatnonzero(fold_of >= 0), at + np.arange(len(fold_of)), fold_of))
        for number, fold in enumerate(part.folds):
            test = np.concatenate([rows[fold_of == number] for _, _, rows, fold_of in kept])
            folds.append(Fold(fold.train, test, np.asarray(part.sets.train_weights)[number, 0, fold.train]))
        values = np.concatenate([plan_values[parts[b].rows] for b in tests])
        told = _predicted(stack, values, folds, made, len(plan.items.classes))
        for b, some, rows, _ in kept:
            if len(some):
                found = parts[b].scored(told[rows[some]], some)
                out.append(
                    {
                        "task": plan.items.task, "site": site, "train_time": centre[a], "test_time": centre[b],
                        "unit": binned.unit, **found, "chance": plan.facts["chance"], "n": len(some),
                        "n_train": min(len(fold.train) for fold in part.folds),
                    }
                )  # fmt: skip
    return out


def _predicted(
    states: FloatArray, values: NDArray[Any], folds: list[Fold], made: Mapping[str, Any], classes: int
) -> NDArray[Any]:
    """Return out-of-fold predictions, by the settings of :func:`~vpanalysis.probes.estimator.fit_sites`."""
    weights = np.ones((len(folds), 1, len(values)))
    for number, fold in enumerate(folds):
        weights[number, 0, fold.train] = fold.weights
    common: dict[str, Any] = {"weights": weights, "choose_weighted": False}
    if values.dtype.kind == "f":
        return np.asarray(regress_many([states], values[None], folds, **common)[0][0, 0])
    fits = fit_many(
        [states], values[None], folds, kind=made["estimator"], C=made["C"], n_classes=classes, **common
    )  # fmt: skip
    return np.asarray(fits.predicted[0, 0])
