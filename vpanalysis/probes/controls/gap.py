"""The utilization gap: what can be decoded at the audio tokens, less what the model answers.

Why it exists. A probe shows that the information reaches the language model; the model's own answer shows what it does
with it. Only their difference on the same items is a finding, and only if both are asked the same question: the model
chooses among the options that an item offers, so the probe must, too.

The idea. The probe's out-of-fold class probabilities are restricted to the item's offered options and the most probable
is its answer. Its correctness less the model's is taken item by item, with the items' weights and clustered interval,
and tested by flipping the signs of whole clusters. Pooled twins make words uninformative; the same predictions are also
reported within each condition. (The paper behind VoxParadox contrasts probe and answer accuracy; the restriction and
the pairing are added here. For the difference between what is encoded and what is used see Elazar et al. 2021, "Amnesic
Probing".)

At which site? At the audio tokens (`projector` or `mixed`), and at the best site of all. The best of twenty sites is
the best partly by luck, so it is chosen *nested* (Cawley and Talbot 2010, "On over-fitting in model selection"): in
every fold on the training items alone, by inner folds of whole groups. The site may then differ between folds; the note
says which were chosen.

Worked example: the probe is right on 0.90 of the clips and the model on 0.50, on the same clips: gap 0.40 [0.29, 0.51].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from vpanalysis import stats
from vpanalysis.errors import RunError
from vpanalysis.probes.controls._common import (
    ProbeSetup,
    TaskPlan,
    adjusted,
    empty_row,
    fit,
    matrices,
    paired,
    plans,
    row,
)
from vpanalysis.probes.layers import choose_sites
from vpanalysis.probes.nested import choose_nested, restricted
from vpanalysis.probes.splits import FloatArray
from vpanalysis.probes.targets import ProbeTask, RunLike

__all__ = ["BEST", "audio_token_site", "own_correctness", "utilization_gap"]

SOURCE = "VoxParadox; Elazar et al. 2021; nested choice: Cawley and Talbot 2010"

BEST = "best site, chosen nested"
"""What ``variant`` says where the site was chosen within the training folds."""

ANSWERS = ("pred_logits", "pred_text_score", "pred_generated")


def audio_token_site(sites: Sequence[str]) -> str:
    """Return the site of the audio tokens as the language model gets them: ``mixed``, else ``projector``.

    Raises
    ------
    RunError
        When neither was recorded.
    """
    for name in ("mixed", "projector"):
        if name in sites:
            return name
    raise RunError("cannot find the audio tokens", found="neither 'mixed' nor 'projector'", allowed=list(sites))


def own_correctness(run: RunLike, items: ProbeTask, prediction: str | None = None) -> tuple[FloatArray, str]:
    """Return 1 where the model itself picks the truth, shape (item,), and the column that was read.

    Parameters
    ----------
    run : Run
    items : ProbeTask
    prediction : str, optional
        Column of the Run's predictions; default the first of ``pred_logits``, ``pred_text_score`` and
        ``pred_generated`` that was recorded. A missing reply is wrong.

    Raises
    ------
    RunError
        When there is no such column, or it holds nothing.
    """
    columns = items.frame.columns
    made = [name for name in ANSWERS if name in columns and bool(run.predictions[name].notna().any())]
    name = prediction or (made[0] if made else "pred_logits")
    if name not in columns or not run.predictions[name].notna().any():
        raise RunError(
            f"cannot read the answers of run {run.name!r}", found=f"{name!r}, not recorded", allowed=made, word=name
        )
    right = (items.frame[name].astype(object) == items.frame["truth"].astype(object)).to_numpy()
    return np.asarray(right, dtype=np.float64), name


def utilization_gap(
    run: RunLike,
    tasks: str | Sequence[str] | None = None,
    sites: str | Sequence[str] | Callable[[str], bool] | None = None,
    *,
    site: str | None = None,
    best: bool = True,
    prediction: str | None = None,
    setup: ProbeSetup | None = None,
) -> pd.DataFrame:
    """Return probe accuracy less the model's own on the same items (VoxParadox; nested choice: Cawley and Talbot 2010).

    Parameters
    ----------
    run : Run
        Of a model that answers.
    tasks : str or sequence of str, optional
    sites
        Candidates for the best site, as in :func:`vpanalysis.probes.probe_layers`.
    site : str, optional
        The audio tokens; default ``mixed``, else ``projector``.
    best : bool
        Also at the best site, chosen within the training items of every fold.
    prediction : str, optional
        The model's answer, as in :func:`own_correctness`.
    setup : ProbeSetup, optional
        The target has to be the truth.

    Returns
    -------
    DataFrame
        Rows with measure ``probe``, ``model`` and ``gap`` per task, variant (``audio tokens`` and :data:`BEST`) and
        condition: ``pooled`` with the weights of the probe, then each by itself, unweighted. `p` flips signs of whole
        clusters; `q` is adjusted over all rows of the call.

    Raises
    ------
    RunError
        When no site of the audio tokens or no answer was recorded, or the target is another.
    """
    made = setup or ProbeSetup()
    if made.target != "truth":
        raise RunError("cannot compare a probe with the model's answers", found=f"target={made.target!r}",
                       allowed=["truth"])  # fmt: skip
    token = choose_sites(run.sites, [site or audio_token_site(run.sites)])[0]
    candidates = choose_sites(run.sites, sites)
    rows: list[dict[str, Any]] = []
    for task, plan in plans(run, tasks, made):
        if not plan.folds:
            more = {"site": token, "variant": "audio tokens", "target": made.target}
            rows.append(empty_row("gap", task, "gap", SOURCE, plan.reason, **more))
            continue
        items = plan.items
        own, column = own_correctness(run, items, prediction)
        offered = _offered(items)
        states = matrices(run, [token], items, made)
        chances = fit(states, items.labels, plan.folds, items, made, groups=plan.first).probabilities[0, 0]
        right = (restricted(chances, items.classes, offered) == items.labels).astype(np.float64)
        note = f"answers: {column}"
        rows += _compared(task, plan, right, own, token, "audio tokens", note, made)
        if best:
            rows += _at_best(run, task, plan, candidates, offered, own, note, made)
    return adjusted(rows)


def _offered(items: ProbeTask) -> list[Sequence[str]]:
    if "choices" not in items.frame.columns:
        return [items.classes] * len(items.rows)
    return [items.classes if c is None else list(map(str, c)) for c in items.frame["choices"]]


def _at_best(
    run: RunLike, task: str, plan: TaskPlan, candidates: list[str], offered: list[Sequence[str]], own: FloatArray,
    note: str, setup: ProbeSetup,
) -> list[dict[str, Any]]:  # fmt: skip
    items = plan.items
    states = matrices(run, candidates, items, setup)
    number = choose_nested(
        states, items, list(plan.clusters.values()), plan.folds, C=setup.C, inner_splits=setup.inner_splits,
        random_state=setup.random_state, offered=offered,
    )  # fmt: skip
    if (number < 0).any():
        why = "too few groups in the training items to choose a site within them"
        return [empty_row("gap", task, "gap", SOURCE, why, variant=BEST, target=setup.target)]
    chances = fit(states, items.labels, plan.folds, items, setup, groups=plan.first).probabilities[:, 0]
    right = np.zeros(len(items.rows))
    for fold, site in zip(plan.folds, number, strict=True):
        answer = restricted(chances[site][fold.test], items.classes, [offered[i] for i in fold.test])
        right[fold.test] = answer == items.labels[fold.test]
    count = Counter(candidates[site] for site in number)
    site = count.most_common(1)[0][0]
    said = ", ".join(f"{name} in {times} of {len(number)} folds" for name, times in count.most_common())
    return _compared(task, plan, right, own, site, BEST, f"{note}; chosen: {said}", setup)


def _compared(
    task: str, plan: TaskPlan, probe: FloatArray, own: FloatArray, site: str, variant: str, note: str,
    setup: ProbeSetup,
) -> list[dict[str, Any]]:  # fmt: skip
    condition = plan.items.frame["condition"].astype(str).to_numpy()
    n = len(probe)
    parts = [("pooled", np.ones(n, dtype=bool), plan.items.weights)]
    if len(set(condition)) > 1:
        parts += [(name, condition == name, np.ones(n)) for name in dict.fromkeys(condition)]
    rows = []
    for name, here, weights in parts:
        clusters = {key: ids[here] for key, ids in plan.clusters.items()}
        more = {"site": site, "variant": variant, "condition": name, "target": setup.target, "note": note}
        a, b, w = probe[here], own[here], weights[here]
        rows += [
            row(
                "gap",
                task,
                measure,
                stats.proportion(v, clusters, weights=w, level=setup.level, chance=guess),
                SOURCE,
                **more,
            )
            for measure, v, guess in (("probe", a, plan.chance), ("model", b, None))
        ]
        found, p = paired(a, b, clusters, w, level=setup.level, seed=setup.random_state)
        rows.append(row("gap", task, "gap", found, SOURCE, p=p, **more))
    return rows
