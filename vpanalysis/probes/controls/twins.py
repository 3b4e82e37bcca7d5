"""The same architecture with random weights: what a network gives before it has learnt anything.

Why it exists. A random network keeps much of its input, and a linear reader of a wide random projection does well on
anything that the spectrogram shows. What training added is the difference to such a twin, and only that (Zhang and
Bowman 2018, "Language Modeling Teaches You More than Translation Does", who probe untrained networks of the same
architecture; Belinkov 2022 on why).

The idea. :func:`random_twin` builds the model anew from its configuration, with the initialisation of its own class and
a seed. A Run of the twin over the same benchmark stands beside the Run of the model; both are probed on the same items,
weights and folds, and compared item by item.

Worked example::

    twin = vp.run(random_twin(model), bench, "runs/mini-random")
    random_weights(run, twin)              # accuracy, random weights, difference per task and site
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis import stats
from vpanalysis.errors import ModelError, RunError
from vpanalysis.probes.controls._common import (
    ProbeSetup,
    TaskPlan,
    adjusted,
    correctness,
    empty_row,
    fit,
    paired,
    plans,
    row,
)
from vpanalysis.probes.layers import choose_sites, reducer_for
from vpanalysis.probes.targets import RunLike, read_states

if TYPE_CHECKING:
    from vpanalysis.models.facade import AudioLLM

__all__ = ["random_twin", "random_weights"]

SOURCE = "Zhang and Bowman 2018"


def random_twin(model: AudioLLM, random_state: int = 0) -> AudioLLM:
    """Return the same architecture with random weights (Zhang and Bowman 2018).

    Parameters
    ----------
    model : AudioLLM
        What `vpanalysis.load_model` returns; left as it is.
    random_state : int
        Seed of the weights. torch's own generators are left as they were.

    Returns
    -------
    AudioLLM
        Built from the configuration with the initialisation of its class, on the same device and in the same precision,
        with the same processor. Its name says what it is, and its weights' hashes are its own.

    Raises
    ------
    ModelError
        If the model cannot be built from a configuration.
    """
    import torch

    old = model.model
    if getattr(old, "config", None) is None:
        raise ModelError("cannot make a twin with random weights", found=f"a {type(old).__name__} without a config")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_state)
        new = type(old)(copy.deepcopy(old.config))
    new = new.to(device=model.device, dtype=model.dtype)
    return type(model)(
        new, model.processor, name=f"{model.name}-random-{random_state}", family=model.family,
        gate_tokenizer=model.gate_tokenizer, trim=model.frontend.trim,
    )  # fmt: skip


def random_weights(
    run: RunLike,
    twin: RunLike | None,
    tasks: str | Sequence[str] | None = None,
    sites: str | Sequence[str] | Callable[[str], bool] | None = None,
    *,
    setup: ProbeSetup | None = None,
) -> pd.DataFrame:
    """Return what training added: the model's Run against that of its twin (Zhang and Bowman 2018).

    Parameters
    ----------
    run : Run
    twin : Run or None
        Of :func:`random_twin` over the same benchmark. Without it every cell is empty and says so.
    tasks, sites
        As in :func:`vpanalysis.probes.probe_layers`; sites that the twin lacks get an empty cell.
    setup : ProbeSetup, optional

    Returns
    -------
    DataFrame
        Rows per task and site with measure ``accuracy``, ``random weights`` and ``difference`` (paired, with `p` of
        flipping clusters and `q` over all rows of the call).

    Raises
    ------
    RunError
        When the twin lacks an item of the Run.
    """
    made = setup or ProbeSetup()
    chosen = choose_sites(run.sites, sites)
    both = [] if twin is None else [site for site in chosen if site in set(twin.sites)]
    rows: list[dict[str, Any]] = []
    for task, plan in plans(run, tasks, made):
        more = {"target": made.target, "variant": "twin"}
        reason = plan.reason if not plan.folds else "no Run of a twin with random weights was given"
        if plan.folds and twin is not None and both:
            a = correctness(run, both, plan, made)
            b = _of_twin(twin, both, plan, made)
            rows += _compared(task, plan, both, a, b, made, more)
            reason = "the twin's Run has no such site"
        left = chosen if not plan.folds or twin is None else [site for site in chosen if site not in both]
        rows += [empty_row("random", task, "difference", SOURCE, reason, site=site, **more) for site in left]
    return adjusted(rows)


def _of_twin(twin: RunLike, sites: list[str], plan: TaskPlan, setup: ProbeSetup) -> Any:
    """Return the correctness of the twin's probes on the items of `plan`, found by id."""
    place = pd.Series(np.arange(len(twin.predictions)), index=twin.predictions["id"].astype(str))
    ids = plan.items.frame["id"].astype(str)
    missing = [name for name in ids if name not in place.index]
    if missing:
        raise RunError(
            f"cannot compare with run {twin.name!r}", found=f"{len(missing)} items that it lacks, first {missing[0]!r}",
            fix="run the twin over the same benchmark",
        )  # fmt: skip
    rows = place.loc[ids].to_numpy(dtype=np.int64)
    states = [read_states(twin, s, reducer_for(s, plan.items.task, setup.reducer), rows)[0] for s in sites]
    fits = fit(states, plan.items.labels, plan.folds, plan.items, setup, groups=plan.first)
    return np.asarray(fits.predicted[:, 0] == plan.items.labels, dtype=np.float64)


def _compared(
    task: str, plan: TaskPlan, sites: list[str], a: Any, b: Any, setup: ProbeSetup, common: dict[str, Any]
) -> list[dict[str, Any]]:
    rows = []
    weights = plan.items.weights
    for number, site in enumerate(sites):
        more = {**common, "site": site}
        for measure, values in (("accuracy", a), ("random weights", b)):
            found = stats.proportion(
                values[number], plan.clusters, weights=weights, level=setup.level, chance=plan.chance
            )
            rows.append(row("random", task, measure, found, SOURCE, **more))
        found, p = paired(a[number], b[number], plan.clusters, weights, level=setup.level, seed=setup.random_state)
        rows.append(row("random", task, "difference", found, SOURCE, p=p, **more))
    return rows
