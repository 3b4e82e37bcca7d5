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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis._results import TableResult
from vpanalysis._saved import run_identity
from vpanalysis.attribution._asking import Asker
from vpanalysis.attribution._mixtures import (
    MEAN,
    OTHER,
    PROMPT,
    UNIFORM,
    between_tasks,
    clamped,
    mixture_table,
    mixtures_of,
    set_to,
    streams_of,
)
from vpanalysis.attribution._settings import (
    MEASURES,
    asked_in_parts,
    check_numbers,
    chosen_conditions,
    chosen_items,
    compared,
    compared_by_task,
    measured,
    named,
    p_text,
    seed_of,
)
from vpanalysis.attribution._work import Work, identity
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT, PromptTemplate
from vpanalysis.errors import RunError

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
    run: Any, *, conditions: str | Sequence[str] | None = None, level: float = 0.95, draws: int = 1000,
    random_state: int | None = 0,
) -> GateMixtures:  # fmt: skip
    """Describe the mixtures that a Run recorded; no model is needed.

    Parameters
    ----------
    run : Run, str or Path
        Of a model with a gate, with the site ``gate``.
    conditions : str or sequence of str, optional
        Of the items; default all.
    level : float
    draws : int
        Bootstrap samples of speakers (or wordings).
    random_state : int or None
        None for one that is drawn; ``settings`` says which.

    Returns
    -------
    GateMixtures

    Raises
    ------
    RunError
        For a Run without gate weights, a condition that none of its items has, and numbers out of range.
    """
    from vpanalysis.runs import open_run

    opened = open_run(run) if isinstance(run, (str, Path)) else run
    weights = opened.gates
    asked = f"cannot describe the gate of run {opened.name!r}"
    check_numbers(asked, level=level)
    if draws < 1:
        raise RunError(asked, found=f"draws={draws}", allowed="1 or more")
    seed = seed_of(random_state)
    if weights is None or weights.empty:
        raise RunError(asked, found="no gate weights", fix="record the site 'gate' of a PCLM checkpoint")
    frame = opened.predictions.set_index("id").reindex(weights.index)
    chosen = None if conditions is None else chosen_conditions(frame["condition"].astype(str), conditions, asked)
    if chosen is not None:
        keep = frame["condition"].isin(chosen).to_numpy()
        frame, weights = frame[keep], weights[keep]
    streams = [str(name) for name in weights.columns]
    mixtures = weights.to_numpy(dtype=np.float64)
    tasks = frame["task_name"].astype(str).to_numpy()
    prompts = pd.DataFrame({"id": list(weights.index), "task": tasks, "question": frame["question"].to_numpy()})
    prompts = pd.concat([prompts, pd.DataFrame(mixtures, columns=streams)], axis=1)
    prompts["entropy"] = -(mixtures * np.log(np.maximum(mixtures, 1e-300))).sum(axis=1)
    known = opened.manifest["model"]
    made = {
        **run_identity(opened), "model": known.get("name"), "weights": known.get("weights"), "streams": streams,
        "conditions": chosen, "level": level, "draws": draws, "random_state": seed,
    }  # fmt: skip
    between = between_tasks(mixtures, tasks, frame, level=level, draws=draws, random_state=seed)
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
        from vpanalysis.plots.settings import gate_settings

        if measure not in MEASURES:
            raise RunError("cannot draw the gates", found=repr(measure), allowed=MEASURES, word=measure)
        rows = self.table[self.table["measure"] == measure].reset_index(drop=True)
        return gate_settings(rows, ax=ax, name=str(self.settings.get("model", "")), level=float(self.settings["level"]))

    def _parts(self) -> tuple[pd.DataFrame, str, str]:
        shown = self.table.assign(p=p_text(self.table["p"]), p_adjusted=p_text(self.table["p_adjusted"]))
        title = f"GateResult: {self.settings.get('model')} on {self.settings.get('benchmark')}"
        note = (
            "difference: to the gate's own weights, paired by item; p_adjusted: over the settings. .weights: mixtures"
        )
        return shown, title, note


def gates(
    model: AudioLLM | str,
    benchmark: Benchmark | str,
    *,
    settings: str | Sequence[str] | None = None,
    against: AudioLLM | str | None = None,
    conditions: str | Sequence[str] = ("conflict",),
    template: PromptTemplate = DEFAULT_PROMPT,
    batch_size: int = 16,
    level: float = 0.95,
    random_state: int | None = 0,
    cache: bool | str | Path | None = True,
    progress: bool = True,
) -> GateResult:
    """Describe the gate's mixtures, and measure the model under others.

    Parameters
    ----------
    model : AudioLLM or str
        With a mixer.
    benchmark : Benchmark or str
    settings : str or sequence of str, optional
        Of ``"mean"``, ``"other task"``, ``"other prompt"``, ``"uniform"`` and the streams' names; default all.
        ``"own"`` is always made, and with an empty list it alone is.
    against : AudioLLM or str, optional
        Another model, asked the same items as it is.
    conditions : str or sequence of str
        Of the items that are asked.
    template : PromptTemplate
    batch_size : int
    level : float
    random_state : int or None
        Which task and item gets which other's mixture, and the sign flips. None for one that is drawn; ``settings``
        says which.
    cache : bool, str, Path or None
        Where parts are kept: the default folder, another one, or nowhere.
    progress : bool

    Returns
    -------
    GateResult

    Raises
    ------
    RunError
        For a model without a mixer, one to compare with that answers nothing, unknown settings or conditions, and
        numbers out of range.
    """
    from vpanalysis.runs import listed, loaded_model

    llm, bench = loaded_model(model), listed(benchmark)
    streams = streams_of(llm)
    known = (MEAN, OTHER, PROMPT, UNIFORM, *streams)
    check_numbers("cannot look at the gate", level=level, batch_size=batch_size)
    seed = seed_of(random_state)
    chosen = list(known) if settings is None else [name for name in named(settings) if name != OWN]
    for name in chosen:
        if name not in known:
            raise RunError("cannot set the gate", found=repr(name), allowed=known, word=name)
    items = chosen_items(bench, conditions, "cannot look at the gate")
    if len({item.task_name for item in items}) < 2 and OTHER in chosen:
        # The mixture of another task does not exist; its own would look like one that changes nothing.
        if settings is not None:
            raise RunError(f"cannot set the gate to {OTHER!r}", found="items of one task", allowed="two tasks or more")
        chosen.remove(OTHER)
    rival: AudioLLM | None = None if against is None else loaded_model(against)
    if rival is not None and not rival.answers:
        raise RunError(f"cannot compare {llm.name!r} with {rival.name!r}", found="an encoder that answers nothing",
                       fix="compare with a model that answers")  # fmt: skip
    # The gate reads the prompt alone, so that its mixtures are known before any clip is heard.
    mixtures = mixtures_of(llm, items, template, batch_size)
    rows = set_to(chosen, mixtures, items, streams, seed)
    at = {item.id: number for number, item in enumerate(items)}

    def ask(asker: Asker, name: str) -> pd.DataFrame:
        if name == OWN:
            return measured(asker.items, asker.ask(), name)
        with clamped(asker.llm, rows[name][[at[item.id] for item in asker.items]]):
            return measured(asker.items, asker.ask(), name)

    def asked(which: AudioLLM, names: Sequence[str]) -> pd.DataFrame:
        key = identity(which, items, template) | {"batch_size": batch_size, "random_state": seed}
        return asked_in_parts(
            Work("gates", key, cache), items, names, lambda part: Asker(which, part, template, batch_size), ask,
            what=f"gates of {which.name}", batch_size=batch_size, progress=progress,
            trial=lambda asker: asker.ask(range(min(batch_size, len(asker.items)))),
        )  # fmt: skip

    table = asked(llm, [OWN, *chosen])
    # Before the other model's items are added: it may hear what this one does not.
    asked_of = set(table["id"])
    heard = np.array([item.id in asked_of for item in items])
    label: str | None = None
    if rival is not None:
        taken = rival.name in (llm.name, OWN, *chosen)
        label = f"other {rival.name}" if taken else rival.name
        table = pd.concat([table, asked(rival, [OWN]).assign(setting=label)], ignore_index=True)
    made = {
        "model": llm.name, "benchmark": bench.name, "benchmark_sha": bench.sha, "conditions": named(conditions),
        "streams": list(streams), "settings": chosen, "against": label,
        "against_weights": None if rival is None else rival.weights_sha,
        "skipped": int((~heard).sum()), "level": level, "random_state": seed, "batch_size": batch_size,
        "weights": llm.weights_sha, "template": template.sha,
    }  # fmt: skip
    tasks = np.array([item.task_name for item in items])
    return GateResult(
        compared(table, OWN, level=level, random_state=seed),
        mixture_table(mixtures[heard], tasks[heard], streams), table, made,
    )  # fmt: skip
