"""``gates`` and ``gate_mixtures``: what the mixer's weights are, and what happens when somebody else sets them.

Why it exists. A gate that varies with the prompt looks as if it did something. Whether it does is another question: the
weights may differ from prompt to prompt and any fixed mixture may serve as well. Description and intervention are both
needed, and the second is cheap, because everything before the gate is encoded once.

The description (:func:`gate_mixtures`) works from a Run: mixtures by prompt and task, entropy, and the total variation
between tasks, half the summed absolute difference of two mean mixtures: 0 where they agree, 1 without a common stream.

The intervention (:func:`gates`) replaces the gate's output, by a plain forward hook, with

* ``own``          nothing: its own weights;
* ``mean``         the mean mixture of all items, one for all prompts: is conditioning worth anything?
* ``other task``   the mean mixture of another task, drawn for each task once: does it matter which prompt it is?
* ``other prompt`` for each item the mixture of one item of another task;
* ``uniform``      equal weights;
* a stream's name  all weight on that stream.

Items are scored under each; differences to ``own`` are paired, clustered by speaker and wording, with sign-flip p
values adjusted over the settings (largest statistic of shared flips). ``against=`` adds another model on the same
items, such as one that was trained with a static mixture: clamping asks whether *this* model needs its prompts,
training without them whether *any* would. :meth:`GateResult.conditioning` shows both.

What it cannot show: clamping to one stream is far from anything the language model was trained on, so a loss there does
not mean that the other streams carry what was lost. And "no difference found" is not "equal": read the interval.

>>> found = gates("mini-pclm-dpo", "mini", against="mini-static")        # doctest: +SKIP
>>> found.weights                                  # mean mixture per task, entropy, distance to the mean mixture
>>> found.table                                    # accuracy, margin and ALA under every setting
>>> found.conditioning()                           # own against the mean mixture, and against the other model
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis._results import TableResult
from vpanalysis.attribution._asking import Asker
from vpanalysis.attribution._mixtures import (
    MEAN,
    OTHER,
    PROMPT,
    UNIFORM,
    between_tasks,
    mixture_table,
    mixtures_of,
    set_to,
    streams_of,
)
from vpanalysis.attribution._settings import (
    MEASURES,
    asked_in_parts,
    chosen_items,
    compared,
    compared_by_task,
    measured,
    p_text,
)
from vpanalysis.attribution._work import Work, identity
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT, PromptTemplate
from vpanalysis.errors import RunError
from vpanalysis.stats import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vpanalysis.models.facade import AudioLLM

__all__ = ["OWN", "GateMixtures", "GateResult", "clamped", "gate_mixtures", "gates"]

OWN = "own"


@dataclass(frozen=True, repr=False)
class GateMixtures(TableResult):
    """The gate's mixtures, as a Run recorded them.

    Attributes
    ----------
    table : DataFrame
        One row a task: n, the mean weight of every stream, ``entropy`` of the mean mixture (nats), ``spread`` (mean
        total variation of an item's mixture from the task's mean) and ``distance`` (total variation of the task's mean
        from that of all items).
    between : DataFrame
        One row a pair of tasks: first, second, ``variation`` (total variation of their mean mixtures) with a bootstrap
        interval over speakers and wordings. It cannot fall below 0 and is biased upwards: two samples of one task
        differ too, by ``noise``, the mean over halves of either task. Where a task always asks the same question its
        mixture is no sample, and the interval has no width.
    prompts : DataFrame
        One row an item: id, task, question, the weight of every stream, entropy (nats).
    settings : mapping
    """

    VERB, TABLES = "gate-mixtures", ("table", "between", "prompts")

    table: pd.DataFrame
    between: pd.DataFrame
    prompts: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)

    def matrix(self) -> pd.DataFrame:
        """Return the total variation between tasks as a symmetric matrix, task by task, 0 on the diagonal."""
        tasks = list(self.table["task"])
        values = np.zeros((len(tasks), len(tasks)))
        pairs = self.between
        for one, two, far in zip(pairs["first"], pairs["second"], pairs["variation"], strict=True):
            i, j = tasks.index(one), tasks.index(two)
            values[i, j] = values[j, i] = far
        return pd.DataFrame(values, index=tasks, columns=tasks)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the total variation between tasks as a map with numbers."""
        from vpanalysis.plots.gates import gate_distances

        return gate_distances(self.matrix(), ax=ax, name=str(self.settings.get("run", "")))

    def _parts(self) -> tuple[pd.DataFrame, str, str]:
        streams = len(self.settings.get("streams", ()))
        note = "spread: within the task; distance: from the mean of all items. .between: total variation between tasks"
        return self.table, f"GateMixtures: {self.settings.get('run')}, {streams} streams", note


def gate_mixtures(
    run: Any, *, conditions: Sequence[str] | None = None, level: float = 0.95, draws: int = 1000, random_state: int = 0
) -> GateMixtures:
    """Describe the mixtures that a Run recorded; no model is needed.

    Parameters
    ----------
    run : Run, str or Path
        Of a model with a gate, with the site ``gate``.
    conditions : sequence of str, optional
        Of the items; default all.
    level : float
    draws : int
        Bootstrap samples of speakers (or wordings).
    random_state : int

    Returns
    -------
    GateMixtures

    Raises
    ------
    RunError
        For a Run without gate weights, or without an item of these conditions.
    """
    from vpanalysis.runs import open_run

    opened = open_run(run) if isinstance(run, (str, Path)) else run
    weights = opened.gates
    asked = f"cannot describe the gate of run {opened.name!r}"
    if weights is None or weights.empty:
        raise RunError(asked, found="no gate weights", fix="record the site 'gate' of a PCLM checkpoint")
    frame = opened.predictions.set_index("id").reindex(weights.index)
    if conditions is not None:
        keep = frame["condition"].isin(list(conditions)).to_numpy()
        if not keep.any():
            present = sorted(set(frame["condition"].astype(str)))
            raise RunError(asked, found=f"no item of {list(conditions)}", allowed=present)
        frame, weights = frame[keep], weights[keep]
    streams = [str(name) for name in weights.columns]
    mixtures = weights.to_numpy(dtype=np.float64)
    tasks = frame["task_name"].astype(str).to_numpy()
    prompts = pd.DataFrame({"id": list(weights.index), "task": tasks, "question": frame["question"].to_numpy()})
    prompts = pd.concat([prompts, pd.DataFrame(mixtures, columns=streams)], axis=1)
    prompts["entropy"] = -(mixtures * np.log(np.maximum(mixtures, 1e-300))).sum(axis=1)
    known = opened.manifest["model"]
    made = {
        "run": opened.name, "model": known.get("name"), "weights": known.get("weights"), "streams": streams,
        "conditions": None if conditions is None else list(conditions), "level": level, "draws": draws,
        "random_state": random_state,
    }  # fmt: skip
    between = between_tasks(mixtures, tasks, frame, level=level, draws=draws, random_state=random_state)
    return GateMixtures(mixture_table(mixtures, tasks, streams), between, prompts, made)


@dataclass(frozen=True, repr=False)
class GateResult(TableResult):
    """The gate's mixtures, and the model under others.

    Attributes
    ----------
    table : DataFrame
        One row a setting and measure: setting, measure (accuracy; margin in nats; ala, the share of conflict items
        answered with a claim), value, low, high, difference to ``own`` with its interval, p, p_adjusted, n, n_groups.
    weights : DataFrame
        As :attr:`GateMixtures.table`.
    items : DataFrame
        One row an item and setting.
    settings : mapping
    """

    VERB, TABLES = "gates", ("table", "weights", "items")

    table: pd.DataFrame
    weights: pd.DataFrame
    items: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)

    def by_task(self) -> pd.DataFrame:
        """Return :attr:`table` task by task, with ``q`` over tasks."""
        level, seed = float(self.settings["level"]), self.settings["random_state"]
        return compared_by_task(self.items, OWN, level=level, random_state=seed)

    def conditioning(self) -> pd.DataFrame:
        """Return what reading the prompt is worth.

        Returns
        -------
        DataFrame
            One row a measure and alternative (``mean``, and the model of `against`): gain (own minus alternative) with
            its interval, p, p_adjusted (over all settings of the result), n. Empty where neither was asked for.
        """
        names = [MEAN, self.settings.get("against")]
        rows = self.table[self.table["setting"].isin([name for name in names if name is not None])]
        out = pd.DataFrame({"alternative": rows["setting"], "measure": rows["measure"], "gain": -rows["difference"]})
        out["low"], out["high"] = -rows["difference_high"], -rows["difference_low"]
        return pd.concat([out, rows[["p", "p_adjusted", "n", "n_groups"]]], axis=1).reset_index(drop=True)

    def plot(self, ax: Axes | None = None, *, measure: str = "accuracy") -> Axes:
        """Draw one measure under every setting with its interval, the gate's own as a line."""
        from vpanalysis.plots.gates import gate_settings

        if measure not in MEASURES:
            raise RunError("cannot draw the gates", found=repr(measure), allowed=MEASURES, word=measure)
        rows = self.table[self.table["measure"] == measure].reset_index(drop=True)
        return gate_settings(rows, ax=ax, name=str(self.settings.get("model", "")))

    def _parts(self) -> tuple[pd.DataFrame, str, str]:
        shown = self.table.assign(p=p_text(self.table["p"]), p_adjusted=p_text(self.table["p_adjusted"]))
        title = f"GateResult: {self.settings.get('model')} on {self.settings.get('benchmark')}"
        note = (
            "difference: to the gate's own weights, paired by item; p_adjusted: over the settings. .weights: mixtures"
        )
        return shown, title, note


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


def gates(
    model: AudioLLM | str,
    benchmark: Benchmark | str,
    *,
    settings: Sequence[str] | None = None,
    against: AudioLLM | str | None = None,
    conditions: Sequence[str] = ("conflict",),
    template: PromptTemplate = DEFAULT_PROMPT,
    batch_size: int = 16,
    level: float = 0.95,
    random_state: int = 0,
    cache: bool | str | Path | None = True,
    progress: bool = True,
) -> GateResult:
    """Describe the gate's mixtures, and measure the model under others.

    Parameters
    ----------
    model : AudioLLM or str
        With a mixer.
    benchmark : Benchmark or str
    settings : sequence of str, optional
        Of ``"mean"``, ``"other task"``, ``"other prompt"``, ``"uniform"`` and the streams' names; default all.
        ``"own"`` is always made.
    against : AudioLLM or str, optional
        Another model, asked the same items as it is.
    conditions : sequence of str
        Of the items that are asked.
    template : PromptTemplate
    batch_size : int
    level : float
    random_state : int
        Which task and item gets which other's mixture, and the sign flips.
    cache : bool, str, Path or None
        Where parts are kept: the default folder, another one, or nowhere.
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
    streams = streams_of(llm)
    known = (MEAN, OTHER, PROMPT, UNIFORM, *streams)
    chosen = list(known) if settings is None else [name for name in settings if name != OWN]
    for name in chosen:
        if name not in known:
            raise RunError("cannot set the gate", found=repr(name), allowed=known, word=name)
    items = chosen_items(bench, conditions, "cannot look at the gate")
    # The gate reads the prompt alone, so that its mixtures are known before any clip is heard.
    mixtures = mixtures_of(llm, items, template, batch_size)
    rows = set_to(chosen, mixtures, items, streams, random_state)
    at = {item.id: number for number, item in enumerate(items)}

    def ask(asker: Asker, name: str) -> pd.DataFrame:
        if name == OWN:
            return measured(asker.items, asker.ask(), name)
        with clamped(asker.llm, rows[name][[at[item.id] for item in asker.items]]):
            return measured(asker.items, asker.ask(), name)

    def asked(which: AudioLLM, names: Sequence[str]) -> pd.DataFrame:
        key = identity(which, items, template) | {"batch_size": batch_size, "random_state": random_state}
        return asked_in_parts(
            Work("gates", key, cache), items, names, lambda part: Asker(which, part, template, batch_size), ask,
            what=f"gates of {which.name}", batch_size=batch_size, progress=progress,
            trial=lambda asker: asker.ask(range(min(batch_size, len(asker.items)))),
        )  # fmt: skip

    table = asked(llm, [OWN, *chosen])
    rival: AudioLLM | None = None if against is None else _loaded(against)
    label: str | None = None
    if rival is not None:
        taken = rival.name in (llm.name, OWN, *chosen)
        label = f"other {rival.name}" if taken else rival.name
        table = pd.concat([table, asked(rival, [OWN]).assign(setting=label)], ignore_index=True)
    heard = np.array([item.id in set(table["id"]) for item in items])
    made = {
        "model": llm.name, "benchmark": bench.name, "benchmark_sha": bench.sha, "conditions": list(conditions),
        "streams": list(streams), "against": label, "against_weights": None if rival is None else rival.weights_sha,
        "skipped": int((~heard).sum()), "level": level, "random_state": random_state, "batch_size": batch_size,
        "weights": llm.weights_sha, "template": template.sha,
    }  # fmt: skip
    tasks = np.array([item.task_name for item in items])
    return GateResult(
        compared(table, OWN, level=level, random_state=random_state),
        mixture_table(mixtures[heard], tasks[heard], streams), table, made,
    )  # fmt: skip
