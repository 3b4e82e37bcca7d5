"""Mixtures of a gate as numbers: what it says to a prompt, per task, how far tasks are apart, and setting it.

No torch is needed but to ask a gate, or to set it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis.attribution.margins import clusters_by_name
from vpanalysis.errors import RunError
from vpanalysis.stats import FloatArray

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Item
    from vpanalysis.benchmark.prompts import PromptTemplate
    from vpanalysis.models.facade import AudioLLM

__all__ = [
    "MEAN",
    "OTHER",
    "PROMPT",
    "UNIFORM",
    "between_tasks",
    "clamped",
    "mixture_table",
    "mixtures_of",
    "set_to",
    "streams_of",
    "variation",
]

MEAN, OTHER, PROMPT, UNIFORM = "mean", "other task", "other prompt", "uniform"
"""Mixtures that a gate is set to, besides single streams."""

_DRAWN_BYTES = 6.4e7
"""Of the counts of bootstrap samples that are there at once."""


def streams_of(llm: AudioLLM) -> tuple[str, ...]:
    """Return the names of a model's streams; :class:`RunError` without a mixer."""
    if llm.streams is None:
        raise RunError(f"cannot look at the gate of {llm.name!r}", found="a model without a mixer",
                       fix="load a PCLM checkpoint")  # fmt: skip
    return tuple(llm.streams)


def variation(a: FloatArray, b: FloatArray) -> FloatArray:
    """Return the total variation of mixtures along the last axis: half the summed absolute difference."""
    return np.asarray(np.abs(a - b).sum(axis=-1) / 2, dtype=np.float64)


def mixtures_of(llm: AudioLLM, items: Sequence[Item], template: PromptTemplate, batch_size: int = 16) -> FloatArray:
    """Return what the gate says to every item, shape (item, stream), float64; no clip is needed.

    Raises
    ------
    RunError
        Without a mixer.
    """
    import torch

    from vpanalysis.models.processing import gate_inputs

    streams_of(llm)
    gate = llm.module_of("gate")
    texts = [llm.gate_text(item, template) for item in items]
    # Many items share a question.
    unique = list(dict.fromkeys(texts))
    found = []
    with torch.inference_mode():
        for start in range(0, len(unique), batch_size):
            part = unique[start : start + batch_size]
            inputs = {name: tensor.to(llm.device) for name, tensor in gate_inputs(llm.gate_tokenizer, part).items()}
            weights = gate(inputs["prompt_input_ids"], inputs["prompt_attention_mask"], len(part))
            found.append(weights.float().cpu().numpy().astype(np.float64))
    rows = dict(zip(unique, np.concatenate(found), strict=True))
    return np.stack([rows[text] for text in texts])


def mixture_table(mixtures: FloatArray, tasks: Any, streams: Sequence[str]) -> pd.DataFrame:
    """Return one row a task: n, mean weights, entropy (nats), spread and distance (total variations).

    Parameters
    ----------
    mixtures : array, shape (item, stream), float64
    tasks : array of str, shape (item,)
    streams : sequence of str
    """
    whole = mixtures.mean(axis=0)
    rows = []
    for task in dict.fromkeys(np.asarray(tasks).tolist()):
        here = mixtures[np.asarray(tasks) == task]
        mean = here.mean(axis=0)
        rows.append(
            {
                "task": task, "n": len(here), **dict(zip(streams, mean, strict=True)),
                "entropy": float(-np.sum(mean * np.log(np.maximum(mean, 1e-300)))),
                "spread": float(variation(here, mean).mean()),
                "distance": float(variation(mean, whole)),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def between_tasks(
    mixtures: FloatArray, tasks: Any, frame: pd.DataFrame, *, level: float, draws: int, random_state: int
) -> pd.DataFrame:
    """Return the total variation between the mean mixtures of every two tasks, with bootstrap intervals.

    Parameters
    ----------
    mixtures : array, shape (item, stream), float64
    tasks : array of str, shape (item,)
    frame : DataFrame
        Columns speaker and script, a row an item; whole clusters are drawn, and the wider interval is kept.
    level : float
    draws : int
    random_state : int

    Returns
    -------
    DataFrame
        Columns first, second, variation, low, high, noise (what halves of the two tasks differ by), n_groups.
    """
    names = list(dict.fromkeys(np.asarray(tasks).tolist()))
    member = np.stack([np.asarray(tasks) == name for name in names]).astype(np.float64)
    rng = np.random.default_rng(random_state)
    halves = {name: _noise(mixtures[member[k] > 0], rng) for k, name in enumerate(names)}
    drawn: list[tuple[FloatArray, int]] = []
    for codes in clusters_by_name(frame).values():
        count = int(codes.max()) + 1
        # Sums by cluster: a bootstrap sample is a weighted sum of them.
        sums = np.zeros((count, len(names), mixtures.shape[1]))
        sizes = np.zeros((count, len(names)))
        for k in range(len(names)):
            np.add.at(sums[:, k], codes, mixtures * member[k][:, None])
            np.add.at(sizes[:, k], codes, member[k])
        samples = []
        # As many draws at a time as fit: with an item a cluster, all of 100,000 items would be gigabytes.
        step = max(1, int(_DRAWN_BYTES / (8 * count)))
        for start in range(0, draws, step):
            size = min(step, draws - start)
            times = rng.multinomial(count, np.full(count, 1.0 / count), size=size).astype(np.float64)
            total = times @ sizes
            # A sample without a task says nothing about it.
            total[total == 0] = np.nan
            samples.append(np.einsum("dc,cks->dks", times, sums) / total[..., None])
        drawn.append((np.concatenate(samples), count))
    means = (member @ mixtures) / member.sum(axis=1, keepdims=True)
    edges = [100 * (1 - level) / 2, 100 * (1 + level) / 2]
    rows = []
    for i, j in itertools.combinations(range(len(names)), 2):
        value = float(variation(means[i], means[j]))
        ends = [np.nanpercentile(variation(sample[:, i], sample[:, j]), edges) for sample, _ in drawn]
        rows.append(
            {
                "first": names[i], "second": names[j], "variation": value,
                "low": min(value, *(float(e[0]) for e in ends)), "high": max(value, *(float(e[1]) for e in ends)),
                "noise": (halves[names[i]] + halves[names[j]]) / 2, "n_groups": min(count for _, count in drawn),
            }
        )  # fmt: skip
    columns = ["first", "second", "variation", "low", "high", "noise", "n_groups"]
    return pd.DataFrame(rows, columns=columns)


def _noise(rows: FloatArray, rng: np.random.Generator, times: int = 50) -> float:
    """Return the mean total variation between random halves of one task's mixtures."""
    if len(rows) < 2:
        return float("nan")
    found = []
    for _ in range(times):
        order = rng.permutation(len(rows))
        half = len(rows) // 2
        found.append(float(variation(rows[order[:half]].mean(axis=0), rows[order[half : 2 * half]].mean(axis=0))))
    return float(np.mean(found))


def set_to(
    names: Sequence[str], mixtures: FloatArray, items: Sequence[Item], streams: Sequence[str], seed: int
) -> dict[str, FloatArray]:
    """Return the mixture of every item under every setting.

    Parameters
    ----------
    names : sequence of str
        :data:`MEAN`, :data:`OTHER`, :data:`PROMPT`, :data:`UNIFORM`, or a stream.
    mixtures : array, shape (item, stream), float64
        The gate's own.
    items : sequence of Item
    streams : sequence of str
    seed : int
        Of which task and item gets which other's.

    Returns
    -------
    dict of str to array, shape (item, stream), float64
        Rows sum to one.
    """
    tasks = np.array([item.task_name for item in items])
    order = list(dict.fromkeys(tasks.tolist()))
    means = {task: mixtures[tasks == task].mean(axis=0) for task in order}
    # A rotation of a random order gives every task another one's mixture.
    turned = np.random.default_rng(seed).permutation(order)
    other = dict(zip(turned.tolist(), np.roll(turned, 1).tolist(), strict=True))
    out: dict[str, FloatArray] = {}
    for name in names:
        if name == OTHER:
            rows = np.stack([means[other[task]] for task in tasks])
        elif name == PROMPT:
            rng = np.random.default_rng(seed)
            rows = np.empty_like(mixtures)
            for task in order:
                # With one task only there is no other, and its own prompts are shuffled.
                pool = np.flatnonzero(tasks != task) if len(order) > 1 else np.arange(len(items))
                here = np.flatnonzero(tasks == task)
                rows[here] = mixtures[rng.choice(pool, size=len(here))]
        else:
            one = {MEAN: mixtures.mean(axis=0), UNIFORM: np.full(len(streams), 1.0 / len(streams))}
            row = one[name] if name in one else np.eye(len(streams))[list(streams).index(name)]
            rows = np.tile(row, (len(items), 1))
        out[name] = rows / rows.sum(axis=1, keepdims=True)
    return out


@contextmanager
def clamped(llm: AudioLLM, weights: FloatArray) -> Iterator[None]:
    """Replace the gate's output during a block.

    Parameters
    ----------
    llm : AudioLLM
        With a gate.
    weights : array, shape (stream,) or (row, stream), float64
        Not negative, of sum one. One mixture for every prompt; or one for each that is asked, in order, counted on over
        the forwards of the block.

    Raises
    ------
    RunError
        Without a gate, for weights that are no mixture of its streams, and where more rows are asked than given.

    Notes
    -----
    A forward hook that is gone after the block, also when the block raised. Under the gate's own weights the outputs
    are those of the model, bit for bit. Verbs that keep their parts know a model by its weights and not by its hooks:
    inside the block call them with ``cache=False``.
    """
    import torch

    streams = streams_of(llm)
    values = np.asarray(weights, dtype=np.float64)
    asked = f"cannot clamp the gate of {llm.name!r}"
    fits = values.ndim in (1, 2) and values.shape[-1] == len(streams)
    if not fits or (values < 0).any() or (np.abs(values.sum(axis=-1) - 1) > 1e-6).any():
        raise RunError(asked, found=f"weights {values.tolist()}",
                       allowed=f"{len(streams)} numbers of sum 1, for {', '.join(streams)}")  # fmt: skip
    passed = 0

    def replace(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        nonlocal passed
        new = torch.as_tensor(values, dtype=output.dtype, device=output.device)
        if values.ndim == 1:
            return new.expand_as(output)
        first, passed = passed, passed + len(output)
        if passed > len(values):
            raise RunError(asked, found=f"{passed} rows", allowed=f"the {len(values)} that mixtures were given for")
        return new[first:passed]

    handle = llm.module_of("gate").register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
