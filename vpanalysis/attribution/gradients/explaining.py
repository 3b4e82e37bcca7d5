"""``attribute``: which seconds, frequencies and words the preference for the truth came from.

Why it exists. A model answers right; was it the voice in the second half of the clip, the pitch band, or the words of
an option? Probes say what could be read somewhere and patching which place hands it on; an attribution divides one
item's margin over the cells of one place.

The idea. What is explained is the *margin* of the item, in nats, as a function of the state at one place, everything
before it held fixed: the log-mel input (``"features"``), the encoder's layers, the tower, PCLM's streams, the audio
tokens (``"mixed"``, ``"projector"``) and the language model's tokens. It is divided by one of four methods
(:mod:`~vpanalysis.attribution.gradients.methods`) over what it is above the margin at a named baseline
(:mod:`~vpanalysis.attribution.gradients.baselines`), and beside the map stands whether it is true of the model
(:mod:`~vpanalysis.attribution.gradients.faithfulness`). For places behind the encoder a clip is encoded once, and no
step of any method runs the encoder; modules between the encoder and the place are not run again either.

Worked example. Where does the listening organism take the intonation from? ::

    found = attribute("mini-pclm-dpo", "mini", site="features", limit=20)
    found.plot()                       # 8 kHz by 2 s of nats
    found.summary                      # delta, deletion against random orders, agreement, randomised weights

What it cannot show: what the model would do with clips of its own kind in which that part were different; for this see
listen-versus-read and patching. Attributions at one place say nothing of what other places hold. A correlated state is
not a used one, and a used one need not be one that a person would name.

Captum (Kokhlikyan et al. 2020) computes all of it; integrated gradients by Sundararajan, Taly and Yan 2017.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from vpanalysis.attribution._settings import check_numbers, chosen_items, named, seed_of
from vpanalysis.attribution._work import Work, identity, items_sha, say_cost
from vpanalysis.attribution.gradients._grid import mel_hz
from vpanalysis.attribution.gradients.baselines import baseline_clips, check_baseline
from vpanalysis.attribution.gradients.faithfulness import CURVES, GRID
from vpanalysis.attribution.gradients.methods import COMPLETE, METHODS
from vpanalysis.attribution.gradients.result import MAPS, TABLE, AttributionResult, summary_table
from vpanalysis.benchmark.items import Benchmark, Item
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT, PromptTemplate
from vpanalysis.errors import RunError
from vpanalysis.stats import FloatArray

if TYPE_CHECKING:
    from vpanalysis.attribution.gradients._parts import Plan
    from vpanalysis.models.facade import AudioLLM

__all__ = ["ConvergenceWarning", "attribute"]


class ConvergenceWarning(UserWarning):
    """Maps of a complete method do not add up to what they explain."""


def attribute(
    model: AudioLLM | str,
    benchmark: Benchmark | str,
    *,
    site: str = "mixed",
    method: str = "integrated_gradients",
    baseline: str = "silence",
    limit: int | None = 20,
    conditions: str | Sequence[str] = ("conflict",),
    n_steps: int = 50,
    internal_batch_size: int = 32,
    window_s: float = 0.2,
    mel_bands: int = 8,
    segments: int = 6,
    n_samples: int = 25,
    faithfulness: bool = True,
    tolerance: float = 0.05,
    template: PromptTemplate = DEFAULT_PROMPT,
    batch_size: int = 16,
    level: float = 0.95,
    random_state: int | None = 0,
    cache: bool | str | Path | None = True,
    progress: bool = True,
) -> AttributionResult:
    """Divide the margin of items over the time, frequency or tokens of one place in the model.

    Parameters
    ----------
    model : AudioLLM or str
        What :func:`vpanalysis.load_model` returns or takes; one that answers.
    benchmark : Benchmark or str
        What :func:`vpanalysis.load_benchmark` returns or takes.
    site : str
        ``"features"`` (the log-mel input), or a site of the model other than the gate and the options' scores. In a
        model without a mixer the audio tokens, ``"mixed"``, are those of its ``"projector"``.
    method : str
        Of :data:`~vpanalysis.attribution.gradients.METHODS`.
    baseline : str
        Of :data:`~vpanalysis.attribution.gradients.BASELINES`.
    limit : int or None
        How many items are explained, spread evenly over the tasks; None for all.
    conditions : str or sequence of str
        Of the items that are explained; only those with foils count.
    n_steps : int
        Of the integral, for integrated gradients.
    internal_batch_size : int
        States that go through the model at once. Memory grows with it, and not with steps or samples.
    window_s : float
        Seconds of a window, for occlusion and for all checks.
    mel_bands : int
        Bands of mel bins, for the same, at ``"features"``.
    segments : int
        Equal parts of the clip, for Shapley values.
    n_samples : int
        Orders that are drawn, for Shapley values of more than six players.
    faithfulness : bool
        Also check every map: deletion, insertion, infidelity, agreement with occlusion, randomised weights. The last
        shuffles the model's weights in place while it lasts; they are what they were afterwards.
    tolerance : float
        Share of an item's effect (of one nat at least) up to which the maps of a complete method may miss their sum.
    template : PromptTemplate
    batch_size : int
        Items whose clips are encoded together and whose results are kept together.
    level : float
        Of the intervals.
    random_state : int or None
        Of sampled orders and random controls (of each item its own), shuffled weights and sign flips. With None a seed
        is drawn and kept in the settings.
    cache : bool, str, Path or None
        Where finished parts are kept: the default folder (True), another one, or nowhere (False, None).
    progress : bool
        Print the cost and show a bar.

    Returns
    -------
    AttributionResult

    Raises
    ------
    RunError
        For unknown names and conditions, numbers out of range, models that answer nothing, or without items.

    Warns
    -----
    ConvergenceWarning
        Where the maps of integrated gradients or Shapley values miss their sum by more than `tolerance`.

    Notes
    -----
    Every item is run by itself, as many states of it at once as `internal_batch_size` says, so that no row is padded.
    """
    from vpanalysis.runs import listed, loaded_model

    check_numbers("cannot attribute", level=level, batch_size=batch_size)
    seed = seed_of(random_state)
    llm, bench = loaded_model(model), listed(benchmark)
    plan = _plan(
        llm, site=site, method=method, baseline=baseline, n_steps=n_steps, internal_batch_size=internal_batch_size,
        window_s=window_s, mel_bands=mel_bands, segments=segments, n_samples=n_samples, faithfulness=faithfulness,
        random_state=seed,
    )  # fmt: skip
    if (limit is not None and limit < 1) or not tolerance > 0:
        raise RunError("cannot attribute", found=f"limit={limit}, tolerance={tolerance}", allowed="numbers above 0")
    items = _asked(bench, conditions, limit)
    twins = baseline_clips(bench, items, baseline, f"cannot attribute to {site!r} against the neutral twin")
    chosen = [item for item in items if item.id in twins] if twins else items
    table = _explained(llm, chosen, template, plan, twins, batch_size, cache, progress, bench.name)
    if not len(table):
        raise RunError(f"cannot attribute answers of {llm.name!r}", found=f"no usable clip among {len(chosen)} items")
    settings = {
        "model": llm.name, "benchmark": bench.name, "benchmark_sha": bench.sha, **asdict(plan), "limit": limit,
        "conditions": named(conditions), "batch_size": batch_size, "tolerance": tolerance,
        "complete": method in COMPLETE, "level": level, "skipped": len(items) - len(table),
        "weights": llm.weights_sha, "template": template.sha,
        "mel_hz": mel_hz(llm.feature_extractor).tolist() if plan.site == "features" else None,
    }  # fmt: skip
    rows = table[list(TABLE)]
    _warn(rows, method, tolerance)
    return AttributionResult(
        rows, table[list(MAPS)], _curves(table), summary_table(rows, level=level, random_state=seed), settings
    )


def _plan(llm: AudioLLM, **asked: Any) -> Plan:
    """Return the plan, or refuse what is unknown or out of range."""
    if not llm.answers:
        raise RunError(f"cannot attribute answers of {llm.name!r}", found="an encoder that answers nothing")
    method = asked["method"]
    if method not in METHODS:
        raise RunError("cannot attribute", found=f"method={method!r}", allowed=list(METHODS), word=method)
    for name in ("n_steps", "internal_batch_size", "window_s", "mel_bands", "segments"):
        whole = name == "window_s" or float(asked[name]).is_integer()
        if not (0 < asked[name] < math.inf and whole):
            raise RunError("cannot attribute", found=f"{name}={asked[name]}",
                           allowed=f"a {'number' if name == 'window_s' else 'whole number'} above 0")  # fmt: skip
    if asked["n_samples"] < 2:
        raise RunError("cannot attribute", found=f"n_samples={asked['n_samples']}", allowed="2 or more")
    if asked["random_state"] < 0:
        raise RunError("cannot attribute", found=f"random_state={asked['random_state']}", allowed="0 or more, or None")
    # Here, so that results are read and drawn without loading torch.
    from vpanalysis.attribution.gradients._function import known_site
    from vpanalysis.attribution.gradients._parts import Plan

    place = known_site(llm, asked["site"])
    check_baseline(asked["baseline"], place)
    return Plan(**{**asked, "site": place})


def _asked(bench: Benchmark, conditions: str | Sequence[str], limit: int | None) -> list[Item]:
    """Return the items that are explained."""
    asked = chosen_items(bench, conditions, "cannot attribute")
    kept = [item for item in asked if item.foils and item.truth not in item.foils]
    if not kept:
        raise RunError("cannot attribute", found=f"no item of {named(conditions)} with foils in {bench.name!r}",
                       allowed=bench.conditions)  # fmt: skip
    return list(Benchmark(kept, name=bench.name, source=bench.source).select(limit=limit))


def _explained(
    llm: AudioLLM, items: Sequence[Item], template: PromptTemplate, plan: Plan, twins: dict[str, Item], batch_size: int,
    cache: bool | str | Path | None, progress: bool, name: str,
) -> pd.DataFrame:  # fmt: skip
    """Return one row an item, those of parts that are there already read from the disk."""
    from vpanalysis.attribution.gradients._parts import Explainer

    key = {**identity(llm, items, template), **asdict(plan), "batch": batch_size}
    work = Work("attribute", {**key, "twins": items_sha(twins.values())}, cache)
    parts = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    names = [f"items {number}" for number in range(len(parts))]
    explainer = Explainer(llm, template, plan, twins)
    there = [work.read(name) for name in names]
    left = [part for part, known in zip(parts, there, strict=True) if known is None]
    missing = [item for part in left for item in part]
    if progress and (cost := explainer.cost(missing, len(missing))) is not None:
        forwards, seconds, held = cost
        say_cost(progress, f"{llm.name} on {name}, {plan.site}", forwards=forwards, seconds=seconds, held=held,
                 done=f"{len(parts) - len(left)} of {len(parts)} parts are there")  # fmt: skip
    mean: tuple[FloatArray, FloatArray] | None = None
    if left and plan.baseline == "mean":
        made = work.part("mean", lambda: explainer.mean(items))
        # Copies: what comes from a file cannot be written to.
        mean = (np.array(made["audio"].iloc[0], dtype=np.float64), np.array(made["text"].iloc[0], dtype=np.float64))
    tables = []
    with tqdm(total=len(items), desc="attribute", unit="item", disable=not progress) as bar:
        for part, title, known in zip(parts, names, there, strict=True):
            if known is None:
                work.write(title, known := explainer.part(part, mean))
            tables.append(known)
            bar.update(len(part))
    return pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)


def _curves(table: pd.DataFrame) -> pd.DataFrame:
    """Return the curves in long form: id, curve, share, margin."""
    rows = [
        {"id": row["id"], "curve": name, "share": share, "margin": float(value)}
        for row in table.to_dict("records")
        for name in CURVES
        for share, value in zip(GRID, row[f"curve_{name}"], strict=False)
    ]
    made = pd.DataFrame(rows, columns=["id", "curve", "share", "margin"])
    return made.astype({"id": object, "curve": object, "share": np.float64, "margin": np.float64})


def _warn(rows: pd.DataFrame, method: str, tolerance: float) -> None:
    """Say which maps do not add up."""
    if method not in COMPLETE:
        return
    effect = (rows["margin"] - rows["baseline_margin"]).abs().clip(lower=1.0)
    missed = (rows["delta"].abs() / effect).to_numpy(dtype=np.float64)
    wrong = missed > tolerance
    if wrong.any():
        worst = rows.iloc[int(np.nanargmax(missed))]
        warnings.warn(
            f"{int(wrong.sum())} of {len(rows)} maps miss what they explain by more than {100 * tolerance:g} %: "
            f"{worst['delta']:+.3f} of {worst['margin'] - worst['baseline_margin']:+.3f} nats for {worst['id']!r}; "
            f"take more steps (n_steps) or a nearer baseline", ConvergenceWarning, stacklevel=3,
        )  # fmt: skip
