"""``attentive_probe``: which frames tell, and how much a mean over time hides.

Why it exists. A probe of mean-pooled states that fails says nothing about a property of two hundred milliseconds: it
may be there and drowned. Attentive pooling learns, with the probe, which frames to look at; its accuracy beside that of
the mean on the same folds says what pooling hid, and its attention says where it looked.

The idea. For every site a learnt query weighs the frames of a clip by a softmax over its valid frames, and a softmax
classifier reads the weighted mean (:mod:`vpanalysis.probes.solvers.attention` has model, sources and training; this
module adds tasks, folds, intervals and shuffles). The same model with its queries held at zero pools evenly: it is the
mean, with the same optimiser, the same steps of choice, the same folds. The difference is paired, item by item.

Two limits. A query looks for *what* a frame is like, not for *when* it is, unless the states themselves know the time:
an order of three levels is no frame's property, and segments or several heads suit it better. And where a mean tells
nothing at all, the query's first steps have nothing to go by; an accuracy at chance is then weak evidence of absence.
Attention shows what the probe uses of the states, not what the model behind them attends to.

>>> import numpy as np
>>> rng = np.random.default_rng(0); y = np.arange(60) % 2
>>> clips = [rng.normal(size=(20, 8)) for _ in y]
>>> for clip, label in zip(clips, y): clip[13, :2] += [6, 6 * label]          # one frame says it
>>> found = attentive_probe((clips, None), y=y, frame_seconds=0.02, progress=False)
>>> bool(found.table["accuracy"][0] > 0.9), round(float(found.attention["peak"].median()), 2)
(True, 0.27)
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
from vpanalysis.capture.sites import select_sites
from vpanalysis.errors import RunError
from vpanalysis.probes._attentive_result import ATTENTION, PREDICTIONS, PROFILE, TABLE, AttentiveResult
from vpanalysis.probes._frames import FrameReader, Frames, from_frames
from vpanalysis.probes._intervals import accuracy_interval, difference_interval
from vpanalysis.probes.inputs import GROUP, recorded
from vpanalysis.probes.plans import Plan, choose_columns, make_plan
from vpanalysis.probes.shuffles import evidence
from vpanalysis.probes.solvers.attention import AttentionFits, AttentionRecipe, AttentivePooling, attend_many
from vpanalysis.probes.splits import FloatArray
from vpanalysis.probes.targets import RunLike, select_task, tasks_of

__all__ = ["AttentivePooling", "AttentiveResult", "attentive_probe"]

LEVEL = 0.95
BINS = 20
"""Parts of a clip in which its attention is averaged over items."""


def attentive_probe(
    run: Any,
    target: str = "truth",
    *,
    tasks: str | Sequence[str] | None = None,
    sites: str | Sequence[str] | Callable[[str], bool] | None = None,
    conditions: Sequence[str] | None = None,
    group_by: str = "auto",
    n_splits: int = 5,
    heads: int = 1,
    shuffles: int = 0,
    y: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    frame_seconds: float | Mapping[str, float] | None = None,
    recipe: AttentionRecipe | None = None,
    out: str | Path | None = None,
    device: str = "cpu",
    random_state: int | None = 0,
    progress: bool = True,
) -> AttentiveResult:
    """Cross-validate attentive pooling per task and site, beside mean pooling on the same folds.

    Parameters
    ----------
    run : Run, str or Path, (model, benchmark), or (frames, lengths)
        A Run recorded with ``reducers="frames"`` (of one that kept ``segments`` the parts are attended to), or its
        folder; a model and a benchmark, whose frames are recorded; or, with `y`, frames from anywhere: a list of arrays
        of shape (frame, feature), or an array of shape (item, frame, feature) with the valid frames of each item, or a
        mapping from site names to these.
    target : str
        ``"truth"``, ``"claim"`` or a column of the Run's predictions. Classes only.
    tasks, conditions, group_by, n_splits
        As in :func:`~vpanalysis.probes.probe_layers`.
    sites : str, sequence of str or callable, optional
        Default: all with frames.
    heads : int
        Queries. The probe reads their pooled vectors side by side.
    shuffles : int
        Label shuffles, each trained like the labels; they cost as much as the labels each.
    y, groups : array, shape (item,), optional
        With frames only: labels, and what no fold may have on both sides.
    frame_seconds : float or mapping, optional
        Seconds of a frame, by clock or site, where the Run does not tell.
    recipe : AttentionRecipe, optional
        How it is trained; its `heads` and `frozen` are not looked at.
    out : str or Path, optional
        With a model: where its Run is kept. Default: nowhere.
    device : str
        ``"cpu"`` or ``"cuda"``.
    random_state : int or None
        Seed of folds, shuffles, and of the first weights of several heads.
    progress : bool

    Returns
    -------
    AttentiveResult

    Raises
    ------
    RunError
        For unknown tasks, sites, targets or groupings, numbers as target, frames that are missing or not finite.

    Notes
    -----
    Sources: Okabe et al. 2018 and Safari et al. 2020, see :mod:`vpanalysis.probes.solvers.attention`. Shuffles are
    shared by all sites; ``p_adjusted`` counts those whose best site is as good (199 shuffles or more).
    """
    if shuffles < 0 or n_splits < 2:
        raise RunError(
            "cannot probe", found=f"shuffles={shuffles}, n_splits={n_splits}", allowed="0 or more, 2 or more"
        )
    base = recipe or AttentionRecipe()
    how = AttentionRecipe(**{**base.__dict__, "heads": heads, "frozen": False})
    made: dict[str, Any] = {
        "target": target, "group_by": group_by, "n_splits": n_splits, "heads": heads, "shuffles": shuffles,
        "conditions": None if conditions is None else list(conditions), "random_state": random_state, "level": LEVEL,
        "recipe": dict(how.__dict__), "device": device,
    }  # fmt: skip
    asked = (tasks, sites, made, how, frame_seconds, progress)
    if y is not None:
        frames, lengths = run if isinstance(run, tuple) else (run, None)
        columns = (GROUP,)
        made |= {"target": "y", "group_by": GROUP if groups is not None else "none"}
        return _probed(from_frames(frames, lengths, y, groups), columns, *asked)
    if groups is not None:
        raise RunError("cannot probe the run", found="groups beside a Run", fix="use group_by")
    if isinstance(run, tuple):
        model, benchmark = run
        with recorded(model, benchmark, out, "audio" if sites is None else sites, "frames", progress) as kept:
            return _probed(kept, None, tasks, list(kept.sites), *asked[2:])
    if isinstance(run, (str, Path)):
        from vpanalysis.runs import open_run

        run = open_run(run)
    return _probed(cast("RunLike", run), None, *asked)


def _probed(
    run: RunLike,
    columns: tuple[str, ...] | None,
    tasks: str | Sequence[str] | None,
    sites: Any,
    made: dict[str, Any],
    recipe: AttentionRecipe,
    frame_seconds: float | Mapping[str, float] | None,
    progress: bool,
) -> AttentiveResult:
    reader, target = FrameReader(run, frame_seconds), str(made["target"])
    split = {"n_splits": made["n_splits"], "random_state": made["random_state"]}
    chosen = reader.choose(sites, text=True)
    chosen = [site for site in chosen if site not in ("gate", "options")] or select_sites(run.sites, sites)
    if columns is None:
        choose_columns([], target, made["group_by"], **split)
    selected = [select_task(run, task, target, made["conditions"]) for task in tasks_of(run, tasks)]
    for items in selected:
        if items.numbers is not None:
            raise RunError(
                f"cannot probe {target!r} of {items.task!r} attentively", found="numbers", allowed="classes",
                fix="give class names, or read them with probe_layers",
            )  # fmt: skip
    columns = columns or choose_columns(selected, target, made["group_by"], **split)
    names = {"table": TABLE, "profile": PROFILE, "attention": ATTENTION, "predictions": PREDICTIONS}
    tables: dict[str, list[Any]] = {name: [] for name in names}
    bar = tqdm(total=len(selected) * len(chosen), desc="attend", unit="site", disable=not progress)
    with bar:
        for items in selected:
            plan = make_plan(items, columns, **split)
            _task(run, reader, chosen, plan, made, recipe, tables, bar)
    frames = {
        name: pd.DataFrame([row for rows in tables[name] for row in rows], columns=list(names[name])) for name in names
    }
    return AttentiveResult(**frames, settings={**run_identity(run), "grouped_by": " and ".join(columns), **made})


def _task(
    run: RunLike,
    reader: FrameReader,
    sites: list[str],
    plan: Plan,
    made: Mapping[str, Any],
    recipe: AttentionRecipe,
    tables: dict[str, list[Any]],
    bar: Any,
) -> None:
    """Probe a task at all sites and append the rows of the tables."""
    items, order = plan.items, {site: number for number, site in enumerate(run.sites)}
    rows = [
        {
            "task": items.task, "site": site, "site_order": order[site], "target": items.target, "heads": recipe.heads,
            "reducer": f"segments({reader.parts(site)})" if reader.parts(site) else "frames",
            **{key: np.nan for key in TABLE if "mean" in key or "difference" in key or key in ("p", "steps")},
            **plan.facts,
        }
        for site in sites
    ]  # fmt: skip
    tables["table"].append(rows)
    if not plan.folds:
        bar.update(len(sites))
        return
    sets = plan.label_sets(made["shuffles"], made["random_state"])
    common: dict[str, Any] = {
        "groups": sets.groups, "n_classes": len(items.classes), "seed": made["random_state"], "device": made["device"],
    }  # fmt: skip
    shuffled = np.full((len(sites), made["shuffles"]), np.nan)
    flat = AttentionRecipe(**{**recipe.__dict__, "heads": 1, "frozen": True})
    for number, (site, row) in enumerate(zip(sites, rows, strict=True)):
        frames = reader.read(site, items.rows)
        one = {**common, "names": [site]}
        heavy = np.asarray(sets.train_weights)
        fit = attend_many([frames.items], sets.values, plan.folds, recipe, weights=heavy, **one)
        even = attend_many([frames.items], sets.values[:1], plan.folds, flat, weights=heavy[:, :1], **one)
        right = (fit.predicted[0] == sets.values).astype(np.float64)
        shuffled[number] = ((right * sets.weights).sum(1) / sets.weights.sum(1))[1:]
        if frames.parts:
            note = f"attention over {frames.parts} equal parts of a clip: no frames were recorded"
            row["note"] = "; ".join(p for p in (row["note"], note) if p)
        _score(row, plan, fit, right[0], (even.predicted[0, 0] == items.labels).astype(np.float64))
        tables["predictions"].append(_prediction_rows(row, plan, fit.predicted[0, 0], even.predicted[0, 0]))
        tables["attention"].append(_attention_rows(row, plan, fit.attention[0], frames, right[0]))
        tables["profile"].append(_profile_rows(row, plan, fit.attention[0]))
        bar.update(1)
    found = evidence(np.array([row["accuracy"] for row in rows], dtype=np.float64), shuffled, level=LEVEL)
    for number, row in enumerate(rows):
        row |= {
            "shuffle_mean": found.mean[number], "shuffle_low": found.low[number], "shuffle_high": found.high[number],
            "p": found.p[number], "p_adjusted": found.p_adjusted[number],
        }  # fmt: skip


def _score(row: dict[str, Any], plan: Plan, fit: AttentionFits, right: FloatArray, even: FloatArray) -> None:
    weights = plan.items.weights
    for prefix, interval in (
        ("", accuracy_interval(right, plan.clusters, weights, level=LEVEL, chance=plan.facts["chance"])),
        ("mean_", accuracy_interval(even, plan.clusters, weights, level=LEVEL, chance=plan.facts["chance"])),
        ("difference_", difference_interval(right - even, plan.clusters, weights, level=LEVEL)),
    ):
        value = "difference" if prefix == "difference_" else f"{prefix}accuracy"
        row |= dict(zip((value, f"{prefix}low", f"{prefix}high"), interval, strict=True))
    row["steps"] = float(np.median(fit.steps[0, :, 0]))


def _prediction_rows(
    row: Mapping[str, Any], plan: Plan, predicted: NDArray[np.int64], even: NDArray[np.int64]
) -> list[dict[str, Any]]:
    items, classes = plan.items, plan.items.classes
    second = plan.clusters[1] if len(plan.clusters) > 1 else np.full(len(predicted), -1)
    return [
        {
            "task": items.task, "site": row["site"], "id": str(items.frame["id"].iloc[i]),
            "condition": str(items.frame["condition"].iloc[i]), "group": plan.clusters[0][i], "second_group": second[i],
            "fold": plan.fold_of[i], "label": classes[items.labels[i]], "predicted": classes[predicted[i]],
            "mean_predicted": classes[even[i]], "correct": bool(predicted[i] == items.labels[i]),
            "mean_correct": bool(even[i] == items.labels[i]), "weight": items.weights[i],
        }
        for i in range(len(predicted))
    ]  # fmt: skip


def _attention_rows(
    row: Mapping[str, Any], plan: Plan, attention: list[NDArray[np.float32]], frames: Frames, right: FloatArray
) -> list[dict[str, Any]]:
    items, out = plan.items, []
    for i, looked in enumerate(attention):
        time = (np.arange(len(looked)) + 0.5) * frames.step[i]
        for head in range(looked.shape[1]):
            weights = looked[:, head].astype(np.float64)
            entropy = float(-(weights * np.log(np.maximum(weights, 1e-300))).sum())
            out.append(
                {
                    "task": items.task, "site": row["site"], "head": head, "id": str(items.frame["id"].iloc[i]),
                    "fold": plan.fold_of[i], "label": items.classes[items.labels[i]], "correct": bool(right[i]),
                    "unit": frames.unit, "step": frames.step[i], "frames": len(weights),
                    "centre": float(weights @ time), "peak": float(time[int(weights.argmax())]),
                    "effective": float(np.exp(entropy)), "weights": weights.tolist(),
                }
            )  # fmt: skip
    return out


def _profile_rows(row: Mapping[str, Any], plan: Plan, attention: list[NDArray[np.float32]]) -> list[dict[str, Any]]:
    """Return mean attention over items in equal parts of the clip, frames shared between parts by overlap."""
    edges = np.linspace(0.0, 1.0, BINS + 1)
    density = []
    for looked in attention:
        sums = np.concatenate([np.zeros((1, looked.shape[1])), np.cumsum(looked.astype(np.float64), axis=0)])
        at = np.linspace(0.0, 1.0, len(sums))
        cumulative = np.stack([np.interp(edges, at, column) for column in sums.T])
        density.append(np.diff(cumulative, axis=1) * BINS)
    values = np.stack(density)  # item head bin
    out = []
    for head in range(values.shape[1]):
        for part in range(BINS):
            found = difference_interval(values[:, head, part], plan.clusters, plan.items.weights, level=LEVEL)
            out.append(
                {"task": plan.items.task, "site": row["site"], "head": head, "start": edges[part],
                 "stop": edges[part + 1], **dict(zip(("density", "low", "high"), found, strict=True)), "n": len(values)}
            )  # fmt: skip
    return out
