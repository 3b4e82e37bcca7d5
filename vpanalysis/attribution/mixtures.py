"""``gates``: what the mixer's weights are, and what happens when somebody else sets them.

Why it exists. A gate that varies with the prompt looks as if it did something. Whether it does is another question: the
weights may differ from prompt to prompt and any fixed mixture may serve as well. Description and intervention are both
needed, and the second is cheap, because everything before the gate is encoded once.

The idea. The gate's output is replaced, by a plain forward hook, by

* ``own``         nothing: its own weights;
* ``mean``        the mean mixture of all items, one for all prompts: is conditioning worth anything?
* ``other task``  the mean mixture of another task, drawn for each task once: does it matter which prompt it is?
* ``uniform``     equal weights;
* a stream's name all weight on that stream.

Items are scored under each; differences to ``own`` are paired, clustered by speaker and wording, with sign-flip p
values adjusted over the settings (largest statistic of shared flips).

What it cannot show: clamping to one stream is far from anything the language model was trained on, so a loss there does
not mean that the other streams carry what was lost.

>>> found = gates("mini-pclm-dpo", "mini")                               # doctest: +SKIP
>>> found.weights                                  # mean mixture per task, entropy, distance to the mean mixture
>>> found.table                                    # accuracy, margin and ALA under every setting
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from vpanalysis import stats
from vpanalysis._flips import flip_family
from vpanalysis._html import html_table, text_table
from vpanalysis._saved import load_tables, save_tables
from vpanalysis.attribution._asking import Asker
from vpanalysis.attribution.margins import clusters_by_name
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT, PromptTemplate
from vpanalysis.errors import RunError
from vpanalysis.probes.paired import paired_interval
from vpanalysis.stats import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vpanalysis.models.facade import AudioLLM

__all__ = ["OWN", "GateResult", "clamped", "gates"]

OWN, MEAN, OTHER, UNIFORM = "own", "mean", "other task", "uniform"

_MEASURES = ("accuracy", "margin", "ala")


@dataclass(frozen=True, repr=False)
class GateResult:
    """The gate's mixtures, and the model under others.

    Attributes
    ----------
    weights : DataFrame
        One row a task: n, the mean weight of every stream, ``entropy`` of the mean mixture (nats), ``spread`` (mean
        total variation of an item's mixture from the task's mean) and ``distance`` (total variation of the task's mean
        from that of all items).
    table : DataFrame
        One row a setting and measure: setting, measure (accuracy; margin in nats; ala, the share of conflict items
        answered with a claim), value, low, high, difference to ``own`` with its interval, p, p_adjusted, n, n_groups.
    settings : mapping
    """

    weights: pd.DataFrame
    table: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_dataframe(self) -> pd.DataFrame:
        """Return a copy of :attr:`table`."""
        return self.table.copy()

    def plot(self, ax: Axes | None = None, *, measure: str = "accuracy") -> Axes:
        """Draw one measure under every setting with its interval, the gate's own as a line."""
        from vpanalysis import plots

        if measure not in _MEASURES:
            raise RunError("cannot draw the gates", found=repr(measure), allowed=_MEASURES, word=measure)
        rows = self.table[self.table["measure"] == measure].reset_index(drop=True)
        return plots.gate_settings(rows, ax=ax, name=str(self.settings.get("model", "")))

    def save(self, path: str | Path) -> Path:
        """Write two parquet files and a JSON file into the folder `path`, and return it."""
        return save_tables(path, "GateResult", {"weights": self.weights, "table": self.table}, self.settings)

    @classmethod
    def load(cls, path: str | Path) -> GateResult:
        """Read what :meth:`save` wrote; :class:`RunError` when the folder does not hold it."""
        tables, settings = load_tables(path, "GateResult", ("weights", "table"))
        return cls(tables["weights"], tables["table"], settings)

    def _parts(self) -> tuple[pd.DataFrame, str, str]:
        shown = self.table.copy()
        for name in ("p", "p_adjusted"):
            shown[name] = ["–" if p != p else "<.001" if p < 0.001 else f"{p:.3f}" for p in shown[name]]
        title = f"GateResult: {self.settings.get('model')} on {self.settings.get('benchmark')}"
        note = (
            "difference: to the gate's own weights, paired by item; p_adjusted: over the settings. .weights: mixtures"
        )
        return shown, title, note

    def __repr__(self) -> str:
        return text_table(*self._parts(), max_rows=60)

    def _repr_html_(self) -> str:
        return html_table(*self._parts(), max_rows=60)


@contextmanager
def clamped(llm: AudioLLM, weights: FloatArray) -> Iterator[None]:
    """Replace the gate's output during a block.

    Parameters
    ----------
    llm : AudioLLM
        With a gate.
    weights : array, shape (stream,), float64
        Not negative, of sum one; the same for every prompt.

    Raises
    ------
    RunError
        Without a gate, or for weights that are no mixture of its streams.

    Notes
    -----
    A forward hook that is gone after the block, also when the block raised. Under the gate's own weights the outputs
    are those of the model, bit for bit.
    """
    import torch

    streams = _streams(llm)
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (len(streams),) or (values < 0).any() or abs(values.sum() - 1) > 1e-6:
        raise RunError(
            f"cannot clamp the gate of {llm.name!r}", found=f"weights {values.tolist()}",
            allowed=f"{len(streams)} numbers of sum 1, for {', '.join(streams)}",
        )  # fmt: skip

    def replace(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(values, dtype=output.dtype, device=output.device).expand_as(output)

    handle = llm.module_of("gate").register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


def _streams(llm: AudioLLM) -> tuple[str, ...]:
    if llm.streams is None:
        raise RunError(f"cannot look at the gate of {llm.name!r}", found="a model without a mixer",
                       fix="load a PCLM checkpoint")  # fmt: skip
    return tuple(llm.streams)


def gates(
    model: AudioLLM | str,
    benchmark: Benchmark | str,
    *,
    settings: Sequence[str] | None = None,
    conditions: Sequence[str] = ("conflict",),
    template: PromptTemplate = DEFAULT_PROMPT,
    batch_size: int = 16,
    level: float = 0.95,
    random_state: int = 0,
    progress: bool = True,
) -> GateResult:
    """Describe the gate's mixtures, and measure the model under others.

    Parameters
    ----------
    model : AudioLLM or str
        With a mixer.
    benchmark : Benchmark or str
    settings : sequence of str, optional
        Of ``"mean"``, ``"other task"``, ``"uniform"`` and the streams' names; default all. ``"own"`` is always made.
    conditions : sequence of str
        Of the items that are asked.
    template : PromptTemplate
    batch_size : int
    level : float
    random_state : int
        Which task gets which other's mixture, and the sign flips.
    progress : bool

    Returns
    -------
    GateResult

    Raises
    ------
    RunError
        For a model without a mixer, unknown settings, or no items.
    """
    from vpanalysis.runs import _listed, _loaded

    llm, bench = _loaded(model), _listed(benchmark)
    streams = _streams(llm)
    known = (MEAN, OTHER, UNIFORM, *streams)
    chosen = list(known) if settings is None else [name for name in settings if name != OWN]
    for name in chosen:
        if name not in known:
            raise RunError("cannot set the gate", found=repr(name), allowed=known, word=name)
    items = [item for item in bench if item.condition in conditions]
    if not items:
        raise RunError("cannot look at the gate", found=f"no item of {list(conditions)}", allowed=bench.conditions)
    asker = Asker(llm, items, template, batch_size)
    with llm.capturing(["gate"]) as kept:
        own = asker.ask()
    mixtures = np.concatenate([part.float().cpu().numpy() for part in kept["gate"]]).astype(np.float64)
    tasks = np.array([item.task_name for item in asker.items])
    names = list(dict.fromkeys(item.task_name for item in items))
    means = {task: mixtures[tasks == task].mean(axis=0) for task in names if (tasks == task).any()}
    scored = {OWN: _measured(asker, own)}
    for name in tqdm(chosen, desc="gate", unit="setting", disable=not progress):
        scored[name] = _measured(asker, _under(asker, name, streams, mixtures.mean(axis=0), means, tasks, random_state))
    made = {
        "model": llm.name, "benchmark": bench.name, "benchmark_sha": bench.sha, "conditions": list(conditions),
        "streams": list(streams), "skipped": asker.skipped, "level": level, "random_state": random_state,
        "weights": llm.weights_sha, "template": template.sha,
    }  # fmt: skip
    return GateResult(_mixtures(mixtures, tasks, means, streams), _compared(asker, scored, level, random_state), made)


def _under(
    asker: Asker, name: str, streams: tuple[str, ...], mean: FloatArray, means: Mapping[str, FloatArray], tasks: Any,
    seed: int,
) -> list[FloatArray]:  # fmt: skip
    """Return option log-probabilities under a setting."""
    if name != OTHER:
        one = {MEAN: mean, UNIFORM: np.full(len(streams), 1.0 / len(streams))}
        weights = one[name] if name in one else np.eye(len(streams))[streams.index(name)]
        with clamped(asker.llm, weights / weights.sum()):
            return asker.ask()
    # A rotation of a random order gives every task another one's mixture.
    order = np.random.default_rng(seed).permutation(list(means))
    other = dict(zip(order, np.roll(order, 1), strict=True))
    out: list[FloatArray | None] = [None] * len(asker.items)
    for task in means:
        weights = means[other[task]]
        with clamped(asker.llm, weights / weights.sum()):
            rows = asker.ask([int(at) for at in np.flatnonzero(tasks == task)])
        for at, row in zip(np.flatnonzero(tasks == task), rows, strict=True):
            out[at] = row
    return [row for row in out if row is not None]


def _measured(asker: Asker, logprobs: Sequence[FloatArray]) -> dict[str, FloatArray]:
    return {
        "accuracy": asker.correct(logprobs), "margin": asker.margins(logprobs), "ala": asker.claimed(logprobs),
    }  # fmt: skip


def _mixtures(
    mixtures: FloatArray, tasks: Any, means: Mapping[str, FloatArray], streams: Sequence[str]
) -> pd.DataFrame:
    whole = mixtures.mean(axis=0)
    rows = []
    for task, mean in means.items():
        here = mixtures[tasks == task]
        rows.append(
            {
                "task": task, "n": len(here), **dict(zip(streams, mean, strict=True)),
                "entropy": float(-np.sum(mean * np.log(np.maximum(mean, 1e-300)))),
                "spread": float(np.abs(here - mean).sum(axis=1).mean() / 2),
                "distance": float(np.abs(mean - whole).sum() / 2),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def _compared(asker: Asker, scored: Mapping[str, Mapping[str, FloatArray]], level: float, seed: int) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for measure in _MEASURES:
        own = scored[OWN][measure]
        here = ~np.isnan(own)
        if not here.any():
            continue
        named = pd.DataFrame([{"speaker": item.speaker, "script": item.script} for item in asker.items])
        codes = clusters_by_name(named[here])
        ones = np.ones(int(here.sum()))
        others = [name for name in scored if name != OWN]
        p, adjusted = (
            flip_family(
                np.stack([scored[name][measure][here] - own[here] for name in others]), codes, random_state=seed
            )
            if others
            else (np.zeros(0), np.zeros(0))
        )
        for name, values in scored.items():
            mine = values[measure][here]
            found = (stats.mean if measure == "margin" else stats.proportion)(mine, codes, level=level)
            row = {"setting": name, "measure": measure, "value": found.value, "low": found.low, "high": found.high}
            row |= {"difference": np.nan, "difference_low": np.nan, "difference_high": np.nan, "p": np.nan}
            row |= {"p_adjusted": np.nan, "n": found.n, "n_groups": found.n_groups}
            if name != OWN:
                gap = (
                    stats.mean(mine - own[here], codes, level=level)
                    if measure == "margin"
                    else paired_interval(mine, own[here], codes, ones, level=level)
                )
                at = others.index(name)
                row |= {"difference": gap.value, "difference_low": gap.low, "difference_high": gap.high}
                row |= {"p": p[at], "p_adjusted": adjusted[at]}
            rows.append(row)
    return pd.DataFrame(rows)
