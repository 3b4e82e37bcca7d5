"""``scale_neurons``: turn feed-forward units of the encoder up and down, beside random units of the same number.

Why it exists. Some units of an encoder's feed-forward layers tell one voice from another far better than the rest. If
the model's answers rest on them, turning them down must cost the answers more than turning down as many others. It is
the same question as steering, asked of single units instead of a direction.

The idea. The units of an encoder layer are what its second feed-forward layer reads, after the activation. On training
items, with other speakers and wordings than the items that are asked, each unit has a *score*, the share of its
variance over clips that lies between classes (eta squared)::

                 sum over parts and classes  w_c (mean_c - mean)^2
    score  =    ---------------------------------------------------
                 sum over parts and clips    w_i (x_i - mean)^2

with x a clip's mean activation over the frames of a part, classes by the *truth* of a clip or by what its *words* say,
and weights w (w_c: of a class) under which words tell nothing about the truth. For two classes that is a monotone
function of d', the difference of their means in standard deviations. Clips of tasks whose answer is an order in time
are cut into six parts, of others not at all. Units that never vary score 0.

The ``top`` units by score are multiplied by a *factor* at all frames: 0 silences them, 1 is the model as it is.
Beside them stand several random sets of the same number from the same layer, none of them chosen units, each drawn from
the ten units whose mean absolute activation is nearest to that of a chosen one: loud units do more whatever they tell.

Worked example::

    found = vp.scale_neurons("mini-pclm-dpo", "mini", layers="encoder[0]", top=0.1)
    found.table        # a row a task, set of items, layer, measure and factor
    found.neurons      # scores, activations, and which were chosen

What it cannot show. A unit with a high score need not be used, and units may be used together that score low one by
one. A factor of 0 takes away what a unit says on average as well, which is no state that the model has met. Like
steering, this is an analysis: turning down units that follow the words does not make a model listen.

The idea of scoring single units and of silencing the best: Bau et al. 2019, "Identifying and controlling important
neurons in neural machine translation"; Dalvi et al. 2019, "What is one grain of sand in the desert?".

>>> score = unit_scores(np.array([[0.0, 1.0], [0.0, 2.0], [1.0, 1.0], [1.0, 2.0]]), np.array(["a", "a", "b", "b"]))
>>> score.tolist()
[1.0, 0.0]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis._results import TableResult
from vpanalysis.attribution._directions import ABOUT, segments_of, train_weights, words_of
from vpanalysis.attribution._doses import CHOSEN, RANDOM, dose_table, left_text, shown_table
from vpanalysis.attribution._plans import Plan, apart_text, conditions_of, kept_apart, plans_of
from vpanalysis.attribution._study import Answers, Study, checked_call
from vpanalysis.attribution.steering import chosen_rows, grid_of
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT, PromptTemplate
from vpanalysis.capture.sites import SiteSelector, select_sites
from vpanalysis.errors import RunError
from vpanalysis.stats import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from vpanalysis.attribution._steered import HeldBatch
    from vpanalysis.benchmark.items import Benchmark, Item
    from vpanalysis.models.facade import AudioLLM

__all__ = ["NeuronResult", "matched_units", "scale_neurons", "unit_scores"]

_NEAREST = 10
"""Units of nearly the same mean activation among which a random one is drawn."""

NEURONS = ("task", "site", "fold", "unit", "score", "activation", "chosen")
"""Columns of :attr:`NeuronResult.neurons`."""


@dataclass(frozen=True, repr=False)
class NeuronResult(TableResult):
    """Answers with units of the encoder scaled, beside random units.

    Attributes
    ----------
    table : DataFrame
        One row a task (and one for all), set of items, layer (``site``), measure and ``factor``; columns otherwise as
        those of :attr:`vpanalysis.attribution.SteerResult.table`.
    items : DataFrame
        One row an item, layer, factor, arm (``chosen`` or ``random``) and draw.
    neurons : DataFrame
        One row a task, layer, training set (``fold``) and unit: score, mean absolute activation, whether chosen.
    settings : mapping
    """

    VERB, TABLES = "scale-neurons", ("table", "items", "neurons")

    table: pd.DataFrame
    items: pd.DataFrame
    neurons: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)

    def plot(
        self, ax: Axes | None = None, *, site: str | None = None, measure: str = "margin", task: str | None = None
    ) -> Axes:
        """Draw a measure over the factor in one layer: a line for each set of items, random units as a band.

        Parameters
        ----------
        ax : Axes, optional
        site : str, optional
            Default the first layer.
        measure : str
            Of margin, accuracy and ala.
        task : str, optional
            Default all, or the only one.

        Raises
        ------
        RunError
            For what is not in the table.
        """
        from vpanalysis.plots.steering import dose_response

        rows = chosen_rows(self.table, "the neurons", site=site, measure=measure, task=task)
        made, layer = self.settings, rows["site"].iloc[0]
        count = made.get("units", {}).get(layer, "?")
        note = (
            f"Band: {made.get('draws')} random sets of {count} units of the same layer and of similar activation, from "
            f"the smallest to the largest mean. Units are scored on {apart_text(made.get('kept_apart', ()))}. An "
            "analysis, not a cure."
        )
        title = f"{made.get('model')}, {layer}: {count} units that tell the {made.get('about')}"
        return dose_response(rows, ax=ax, dose="factor", still=1.0, title=title, x="factor (1: as it is)", note=note)

    def _parts(self) -> tuple[pd.DataFrame, str, str]:
        made = self.settings
        first = str(self.table["task"].iloc[0]) if len(self.table) else ""
        keep = self.table["measure"].isin(("margin", "accuracy")) & (self.table["task"] == first)
        title = f"NeuronResult: {made.get('model')} on {made.get('benchmark')}, units by {made.get('about')}"
        note = (
            f"Task: {first}. Held-out items; an analysis of what is used, not a cure. over random: paired, less the "
            f"mean of {made.get('draws')} sets of as many units of the same layer and of similar activation."
            + left_text(made)
        )
        return shown_table(self.table[keep].reset_index(drop=True), "factor"), title, note


def unit_scores(
    activations: FloatArray, labels: NDArray[Any], weights: FloatArray | None = None, parts: int = 1
) -> FloatArray:
    """Return what share of a unit's variance over clips lies between classes.

    Parameters
    ----------
    activations : array, shape (item, part x unit), float64
        Means over the frames of each part.
    labels : array, shape (item,)
    weights : array, shape (item,), float64, optional
    parts : int

    Returns
    -------
    array, shape (unit,), float64
        From 0 to 1.
    """
    w = np.ones(len(labels)) if weights is None else weights
    x = activations - np.average(activations, axis=0, weights=w)
    whole = (w[:, None] * x**2).sum(axis=0)
    between = np.zeros_like(whole)
    for name in np.unique(labels):
        here = labels == name
        if w[here].sum() > 0:
            between += w[here].sum() * np.average(x[here], axis=0, weights=w[here]) ** 2
    whole, between = whole.reshape(parts, -1).sum(axis=0), between.reshape(parts, -1).sum(axis=0)
    # Rounding makes a trace of variance in units that are constant.
    varies = whole > 1e-12 * max(1.0, float(np.square(activations).max(initial=0.0)))
    out: FloatArray = np.divide(between, whole, out=np.zeros_like(whole), where=varies)
    return out


def matched_units(
    chosen: NDArray[np.int64], sizes: FloatArray, seed: Sequence[int], nearest: int = _NEAREST
) -> NDArray[np.int64]:
    """Return as many other units, of nearly the same mean activation.

    Parameters
    ----------
    chosen : array, shape (k,), int64
        At most half of the units.
    sizes : array, shape (unit,), float64
        Mean absolute activation.
    seed : sequence of int
    nearest : int
        Units among which one is drawn for each chosen one.

    Returns
    -------
    array, shape (k,), int64
        None of them chosen, none twice.
    """
    rng = np.random.default_rng(list(seed))
    free = np.setdiff1d(np.arange(len(sizes)), chosen)
    out = []
    for unit in rng.permutation(chosen):
        order = np.argsort(np.abs(sizes[free] - sizes[unit]), kind="stable")[:nearest]
        taken = int(rng.choice(order))
        out.append(int(free[taken]))
        free = np.delete(free, taken)
    return np.sort(np.array(out, dtype=np.int64))


def scale_neurons(
    model: AudioLLM | str,
    benchmark: Benchmark | str,
    *,
    layers: SiteSelector = "encoder[*]",
    about: str = "truth",
    top: int | float = 0.05,
    factors: Sequence[float] = (0.0, 0.5, 1.0, 2.0, 4.0),
    fit: Benchmark | str | None = None,
    draws: int = 5,
    conditions: Sequence[str] | str = ("conflict", "congruent"),
    others: int = 24,
    splits: int = 3,
    template: PromptTemplate = DEFAULT_PROMPT,
    batch_size: int = 16,
    level: float = 0.95,
    random_state: int | None = 0,
    cache: bool | str | Path | None = True,
    progress: bool = True,
) -> NeuronResult:
    """Scale feed-forward units of the encoder on held-out items, beside random units of the same number.

    Parameters
    ----------
    model : AudioLLM or str
        What :func:`vpanalysis.load_model` returns or takes.
    benchmark : Benchmark or str
        What :func:`vpanalysis.load_benchmark` returns or takes. Its tasks are looked at one by one.
    layers : selector
        Encoder layers; one at a time is changed.
    about : {"truth", "words"}
        Whether a unit's score is by the truth of a clip, or by what its words say (items whose words say something).
    top : int or float
        How many units, or what share of a layer's; at most half.
    factors : sequence of float
        1 is always among them.
    fit : Benchmark or str, optional
        Training items; as in :func:`vpanalysis.attribution.steer`.
    draws : int
        Random sets.
    conditions : sequence of str, or str
        Of the items that are asked.
    others : int
        At most so many conflict items of the benchmark's other tasks are asked with each task's units scaled.
    splits : int
        Without `fit`: speakers and wordings are cut into so many parts each.
    template : PromptTemplate
    batch_size : int
    level : float
        Of the intervals.
    random_state : int or None
        Of splits, random sets and sign flips; None draws one, which the settings keep.
    cache : bool, str, Path or None
        Where finished parts are kept: the default folder (True), another one, or nowhere (False, None).
    progress : bool
        Print cost and bar on standard error.

    Returns
    -------
    NeuronResult

    Raises
    ------
    RunError
        For unknown names, models that answer nothing, encoder layers without a known feed-forward part, and where
        nothing can be scored.
    """
    from vpanalysis.attribution._steered import output_of_units
    from vpanalysis.runs import listed, loaded_model

    llm, bench = loaded_model(model), listed(benchmark)
    if not llm.answers:
        raise RunError(f"cannot scale units of {llm.name!r}", found="an encoder that answers nothing")
    if about not in ABOUT:
        raise RunError("cannot scale units", found=f"about={about!r}", allowed=ABOUT, word=about)
    seed = checked_call("scale units", level=level, random_state=random_state, batch_size=batch_size, draws=draws,
                        others=others, splits=splits)  # fmt: skip
    grid = grid_of("scale units", "factors", factors, 1.0)
    asked = conditions_of(bench, conditions, "scale units")
    if llm.frontend.flat:
        raise RunError(f"cannot scale units of {llm.name!r}", found="an encoder that runs all clips as one sequence")
    chosen = select_sites([site for site in llm.sites if site.startswith("encoder[")], layers)
    units = {layer: _count(top, output_of_units(llm, layer).in_features) for layer in chosen}
    train = None if fit is None else listed(fit)
    plans, left_out = plans_of(bench, train, about, conditions=asked, towards=None, others=others, splits=splits,
                               random_state=seed, verb="scale units")  # fmt: skip
    made: dict[str, Any] = {
        "about": about, "top": int(top) if isinstance(top, (int, np.integer)) else float(top), "draws": int(draws),
        "conditions": asked, "others": int(others), "splits": int(splits), "random_state": seed,
        "batch_size": int(batch_size), "fit": None if train is None else train.name,
        "fit_sha": None if train is None else train.sha,
    }  # fmt: skip
    study = Study(llm, plans, "scale-neurons", made, dose="factor", still=1.0, template=template, batch_size=batch_size,
                  span="audio", parts_of=segments_of, about=about, cache=cache, progress=progress,
                  enough=lambda items: len(np.unique(_scored(items, about)[1])) > 1)  # fmt: skip
    tables, neurons = [], []
    with study.begin(chosen, [f for f in grid if f != 1.0], 1 + draws):
        for at, one in enumerate(study.plans):
            pool, states = study.fit(at, lambda batch, sites: batch.activations(sites))
            sets = {
                layer: _Sets(one, pool, states[layer], about, units[layer], (seed, llm.sites.index(layer)))
                for layer in chosen
            }
            answers = {layer: mine.answers(layer, draws) for layer, mine in sets.items()}
            tables += list(study.ask(at, answers.__getitem__))
            neurons += [mine.described(one.task, layer) for layer, mine in sets.items()]
    items = pd.concat(tables, ignore_index=True)
    made |= {
        "model": llm.name, "benchmark": bench.name, "benchmark_sha": bench.sha, "layers": chosen, "units": units,
        "factors": grid, "level": float(level), "weights": llm.weights_sha, "template": template.sha,
        "skipped": study.skipped, "left_out": left_out + study.left_out, "kept_apart": kept_apart(study.plans),
        "tasks_left_out": [task for task in bench.tasks if task not in {one.task for one in study.plans}],
    }  # fmt: skip
    table = dose_table(items, dose="factor", still=1.0, level=level, random_state=seed)
    return NeuronResult(table, items, pd.concat(neurons, ignore_index=True), made)


def _count(top: int | float, width: int) -> int:
    count = int(top) if isinstance(top, (int, np.integer)) else round(float(top) * width)
    if not 1 <= count <= width // 2:
        raise RunError(
            "cannot scale units", found=f"top={top!r}: {count} of {width} units",
            allowed="at least one and at most half, so that as many others can be compared",
        )  # fmt: skip
    return count


def _scored(items: Sequence[Item], about: str) -> tuple[list[Item], NDArray[np.str_]]:
    """Return the items that units can be scored on, and the class of each."""
    kept = [item for item in items if about == "truth" or words_of(item)]
    return kept, np.array([item.truth if about == "truth" else words_of(item) for item in kept], dtype=np.str_)


class _Sets:
    """The units of a layer that are chosen for a task, and random sets beside them, one a training set."""

    def __init__(
        self, one: Plan, pool: Sequence[Item], read: tuple[FloatArray, FloatArray], about: str, count: int,
        seed: tuple[int, int],
    ) -> None:  # fmt: skip
        self.plan, self.seed = one, seed
        row = {item.id: number for number, item in enumerate(pool)}
        self.scores, self.sizes, self.chosen = [], [], []
        for train in one.train:
            items, label = _scored(train, about)
            places = [row[item.id] for item in items]
            score = unit_scores(read[0][places], label, train_weights(items)[0], segments_of(one.task))
            self.scores.append(score)
            self.sizes.append(read[1][places].mean(axis=0))
            self.chosen.append(np.sort(np.argsort(-score, kind="stable")[:count]))

    def answers(self, layer: str, draws: int) -> Answers:
        """Return what asks a batch under a factor; see :meth:`Study.ask`."""
        width = len(self.scores[0])

        def factors(numbers: list[int], dose: float, sets: Sequence[NDArray[np.int64]]) -> FloatArray:
            out = np.ones((len(numbers), width))
            for row, number in enumerate(numbers):
                out[row, sets[int(self.plan.fold[number])]] = dose
            return out

        def under(batch: HeldBatch, numbers: list[int], dose: float) -> Iterator[tuple[str, int, list[FloatArray]]]:
            yield CHOSEN, 0, batch.with_units(layer, factors(numbers, dose, self.chosen))
            for draw in range(draws):
                sets = [
                    matched_units(chosen, sizes, (*self.seed, draw, fold))
                    for fold, (chosen, sizes) in enumerate(zip(self.chosen, self.sizes, strict=True))
                ]
                yield RANDOM, draw, batch.with_units(layer, factors(numbers, dose, sets))

        return under

    def described(self, task: str, layer: str) -> pd.DataFrame:
        """Return scores and choices, columns :data:`NEURONS`."""
        parts = []
        for fold, (score, size, chosen) in enumerate(zip(self.scores, self.sizes, self.chosen, strict=True)):
            units = np.arange(len(score))
            part = {"task": task, "site": layer, "fold": fold, "unit": units, "score": score, "activation": size}
            parts.append(pd.DataFrame({**part, "chosen": np.isin(units, chosen)}, columns=list(NEURONS)))
        return pd.concat(parts, ignore_index=True)
