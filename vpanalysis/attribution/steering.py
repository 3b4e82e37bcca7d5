"""``steer``: add a direction to a state, and see whether answers move with it and further than with a random one.

Why it exists. A probe shows that something can be read off a state. Whether the model reads it off as well is asked by
writing: if the answers of a model follow a direction that was added to a state, what lies along that direction is used
behind this place. And if a random vector of the same length does as much, nothing was learnt about the direction.

The idea. From training items a direction is made at a site: the mean state of items with one truth less that of others,
or the weights of a probe (``_directions.py`` says how, and from which papers). It is added, times a *coefficient*, to
the states of held-out items: other speakers and other wordings than the training items'. A coefficient of 1 moves the
mean state of what the words claim to the mean state of the truth. Coefficient 0 is the model as it is, negative ones
push away. Beside every dose stand several random vectors of exactly the same length.

Worked example, a listener and a reader, both told the truth in their states::

    found = vp.steer("mini-pclm-dpo", "mini", sites=["encoder[0]", "tower", "text.embed"])
    found.table      # a row a task, set of items, site, measure and coefficient
    found.plot(site="encoder[0]")

Pushed away from the truth at ``encoder[0]``, the listener gives the claimed answer; at the tower nothing happens. The
reader's answers stay those of the words at both; what moves them is the direction of the words, ``about="words"``.

What it cannot show. This is an analysis and not a cure. Without ``towards`` every item is pushed to its *own truth*,
which nobody who wanted an answer would know; that margins rise says that a place can carry the answer, not that the
model now listens. A large coefficient leaves the states that the model was trained on, where anything can happen: the
random vectors of the same length show that part, and the congruent items and those of other tasks, which are asked as
well, show what else it costs. A direction without an effect may be the wrong direction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis._results import TableResult
from vpanalysis.attribution._directions import ABOUT, CONTROLS, KINDS, Compass, segments_of
from vpanalysis.attribution._doses import CHOSEN, MEASURES, RANDOM, dose_table, left_text, shown_table
from vpanalysis.attribution._plans import apart_text, conditions_of, kept_apart, plans_of
from vpanalysis.attribution._spans import SPANS
from vpanalysis.attribution._study import Answers, Study, checked_call
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT, PromptTemplate
from vpanalysis.capture.sites import SiteSelector, select_sites
from vpanalysis.errors import RunError
from vpanalysis.stats import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vpanalysis.attribution._steered import HeldBatch
    from vpanalysis.benchmark.items import Benchmark
    from vpanalysis.models.facade import AudioLLM

__all__ = ["SteerResult", "steer"]

DIRECTIONS = ("task", "site", "length", "state_length", "parts", "n_train", "options", "folds", "information")
"""Columns of :attr:`SteerResult.directions`."""


@dataclass(frozen=True, repr=False)
class SteerResult(TableResult):
    """Answers under a direction that was added, beside random ones.

    Attributes
    ----------
    table : DataFrame
        One row a task (and one for all), set of items (their condition, or ``"other tasks"``), site, measure and
        coefficient: ``value`` with its interval, ``difference`` to the model as it is, ``random`` (mean over random
        vectors, with the smallest and the largest draw), ``over_random`` (paired difference to that mean), ``rank``
        among the random vectors' effects, ``beyond`` (further than every one of them, and significantly), p values of
        both differences, each also adjusted over sites and coefficients. Measures: margin in nats; accuracy; ala, the
        share of conflict items answered with a claim; towards, the share answered with the option that all are pushed
        to. In the rows for all, an item of other tasks counts once, by its mean over the tasks it was asked with.
    items : DataFrame
        One row an item, site, coefficient, arm (``chosen`` or ``random``) and draw.
    directions : DataFrame
        One row a task and site: mean ``length`` of what a coefficient of 1 adds to a frame, root mean square length of
        a training state, parts of a clip with a direction each, training items (fewest of the training sets), options,
        training sets, and what the words still told about the truth in them (nats, after weighting).
    settings : mapping
    """

    VERB, TABLES = "steer", ("table", "items", "directions")

    table: pd.DataFrame
    items: pd.DataFrame
    directions: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)

    def plot(
        self, ax: Axes | None = None, *, site: str | None = None, measure: str = "margin", task: str | None = None
    ) -> Axes:
        """Draw a measure over the coefficient at one site: a line for each set of items, random vectors as a band.

        Parameters
        ----------
        ax : Axes, optional
        site : str, optional
            Default the first.
        measure : str
            Of margin, accuracy, ala and towards.
        task : str, optional
            Default all, or the only one.

        Raises
        ------
        RunError
            For what is not in the table.
        """
        from vpanalysis.plots.steering import dose_response

        rows = chosen_rows(self.table, "steering", site=site, measure=measure, task=task)
        made = self.settings
        goal = f"to {made['towards']!r}" if made.get("towards") else "to each item's truth"
        title = f"{made.get('model')}, {rows['site'].iloc[0]}: pushed {goal}"
        note = (
            f"Band: {made.get('draws')} {made.get('control')} vectors of the same length, from the smallest to the "
            f"largest mean. Directions are made on {apart_text(made.get('kept_apart', ()))}. An analysis, not a cure."
        )
        x = f"coefficient (1: {made.get('direction')} by {made.get('about')})"
        return dose_response(rows, ax=ax, dose="coefficient", still=0.0, title=title, x=x, note=note)

    def _parts(self) -> tuple[pd.DataFrame, str, str]:
        made = self.settings
        first = str(self.table["task"].iloc[0]) if len(self.table) else ""
        keep = self.table["measure"].isin(("margin", "accuracy")) & (self.table["task"] == first)
        title = f"SteerResult: {made.get('model')} on {made.get('benchmark')}, {made.get('direction')}"
        goal = f"to {made['towards']!r}" if made.get("towards") else "to its own truth, which only the benchmark knows"
        note = (
            f"Task: {first}. Held-out items, each pushed {goal}: an analysis of what is used, not a cure. over random: "
            f"paired, less the mean of {made.get('draws')} {made.get('control')} vectors of the same length."
            + left_text(made)
        )
        return shown_table(self.table[keep].reset_index(drop=True), "coefficient"), title, note


def chosen_rows(table: pd.DataFrame, what: str, *, site: str | None, measure: str, task: str | None) -> pd.DataFrame:
    """Return the rows of one task, site and measure; :class:`RunError` for what is not there."""
    have = [name for name in MEASURES if name in set(table["measure"])]
    for name, value, allowed in (
        ("site", site, list(dict.fromkeys(table["site"]))),
        ("measure", measure, have),
        ("task", task, list(dict.fromkeys(table["task"]))),
    ):
        value = allowed[0] if value is None and allowed else value
        if value not in allowed:
            raise RunError(f"cannot draw {what}", found=f"{name}={value!r}", allowed=allowed, word=str(value))
        table = table[table[name] == value]
    return table.reset_index(drop=True)


def steer(
    model: AudioLLM | str,
    benchmark: Benchmark | str,
    *,
    sites: SiteSelector = None,
    direction: str = "difference of means",
    about: str = "truth",
    towards: str | None = None,
    fit: Benchmark | str | None = None,
    coefficients: Sequence[float] = (-2.0, -1.0, 0.0, 1.0, 2.0),
    span: str = "audio",
    control: str = "random",
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
) -> SteerResult:
    """Add a direction to the states of held-out items, beside random ones of the same length.

    Parameters
    ----------
    model : AudioLLM or str
        What :func:`vpanalysis.load_model` returns or takes.
    benchmark : Benchmark or str
        What :func:`vpanalysis.load_benchmark` returns or takes. Its tasks are steered one by one.
    sites : selector, optional
        Where; see :func:`vpanalysis.capture.sites.select_sites`. Default: the tower, the audio tokens that the language
        model receives, and its middle layer. A site inside the encoder costs the encoder every time.
    direction : {"difference of means", "probe"}
    about : {"truth", "words"}
        Whether the mean state of an option is of the items whose truth it is, or of those whose words say it.
    towards : str, optional
        Push all items to this option, away from the others offered. Default: each to its truth, away from its foils.
    fit : Benchmark or str, optional
        Training items, such as ``vp.load_benchmark("mini", split="train", limit=400)``. Those that share a speaker, a
        wording, a cell, a clip or their number with an item that is asked are left out. Default: the benchmark's own
        are split, so that the direction of each item comes from others' speakers and wordings.
    coefficients : sequence of float
        0 is always among them.
    span : str
        Which tokens of text sites, of ``audio`` (those that stand for the clip), ``question``, ``options``, ``answer``,
        ``last``, ``all``.
    control : {"random", "shuffled"}
        Gaussian vectors, or differences of means of permuted labels; brought to the same length, part by part.
    draws : int
        Random vectors.
    conditions : sequence of str, or str
        Of the items that are asked.
    others : int
        At most so many conflict items of the benchmark's other tasks are asked under each task's directions.
    splits : int
        Without `fit`: speakers and wordings are cut into so many parts each.
    template : PromptTemplate
    batch_size : int
    level : float
        Of the intervals.
    random_state : int or None
        Of splits, random vectors and sign flips; None draws one, which the settings keep.
    cache : bool, str, Path or None
        Where finished parts are kept: the default folder (True), another one, or nowhere (False, None).
    progress : bool
        Print cost and bar on standard error.

    Returns
    -------
    SteerResult

    Raises
    ------
    RunError
        For unknown names, models that answer nothing, sites at which clips cannot be told apart, and where no direction
        can be made.
    """
    from vpanalysis.runs import listed, loaded_model

    llm, bench = loaded_model(model), listed(benchmark)
    if not llm.answers:
        raise RunError(f"cannot steer {llm.name!r}", found="an encoder that answers nothing")
    for name, value, allowed in (
        ("direction", direction, KINDS), ("about", about, ABOUT), ("span", span, SPANS), ("control", control, CONTROLS),
    ):  # fmt: skip
        if value not in allowed:
            raise RunError("cannot steer", found=f"{name}={value!r}", allowed=allowed, word=value)
    seed = checked_call("steer", level=level, random_state=random_state, batch_size=batch_size, draws=draws,
                        others=others, splits=splits)  # fmt: skip
    grid = grid_of("steer", "coefficients", coefficients, 0.0)
    asked = conditions_of(bench, conditions, "steer")
    chosen = _sites(llm, sites)
    train = None if fit is None else listed(fit)
    plans, left_out = plans_of(bench, train, about, conditions=asked, towards=towards, others=others,
                               splits=splits, random_state=seed, verb="steer")  # fmt: skip
    made: dict[str, Any] = {
        "direction": direction, "about": about, "towards": towards, "span": span, "control": control,
        "draws": int(draws), "conditions": asked, "others": int(others), "splits": int(splits), "random_state": seed,
        "batch_size": int(batch_size), "fit": None if train is None else train.name,
        "fit_sha": None if train is None else train.sha,
    }  # fmt: skip
    study = Study(llm, plans, "steer", made, dose="coefficient", still=0.0, template=template, batch_size=batch_size,
                  span=span, parts_of=segments_of, about=about, towards=towards, cache=cache,
                  progress=progress)  # fmt: skip
    tables, rows = [], []
    with study.begin(chosen, [c for c in grid if c != 0.0], 1 + draws):
        for at, one in enumerate(study.plans):
            pool, states = study.fit(at, _read)
            where = {
                site: Compass(
                    one, pool, states[site][0], direction, about, control, (seed, llm.sites.index(site)),
                    1 if site.startswith("text") and span != "audio" else segments_of(one.task),
                )
                for site in chosen
            }  # fmt: skip
            answers = {site: _answers(compass, site, draws) for site, compass in where.items()}
            tables += list(study.ask(at, answers.__getitem__))
            rows += [{"task": one.task, "site": site, **compass.described()} for site, compass in where.items()]
    items = pd.concat(tables, ignore_index=True)
    made |= {
        "model": llm.name, "benchmark": bench.name, "benchmark_sha": bench.sha, "sites": chosen, "coefficients": grid,
        "level": float(level), "weights": llm.weights_sha, "template": template.sha, "skipped": study.skipped,
        "left_out": left_out + study.left_out, "kept_apart": kept_apart(study.plans),
        "tasks_left_out": [task for task in bench.tasks if task not in {one.task for one in study.plans}],
    }  # fmt: skip
    table = dose_table(items, dose="coefficient", still=0.0, level=level, random_state=seed)
    return SteerResult(table, items, pd.DataFrame(rows, columns=list(DIRECTIONS)), made)


def _read(batch: HeldBatch, sites: list[str]) -> dict[str, tuple[FloatArray, FloatArray]]:
    return {site: (state, np.zeros((len(state), 0))) for site, state in batch.states(sites).items()}


def grid_of(verb: str, name: str, values: Sequence[float], still: float) -> list[float]:
    """Return doses in order, with the one that changes nothing; :class:`RunError` where there is no other."""
    grid = sorted({float(value) for value in values} | {still})
    if len(grid) < 2 or not all(math.isfinite(value) for value in grid):
        allowed = f"finite numbers, at least one of them not {still:g}"
        raise RunError(f"cannot {verb}", found=f"{name}={list(values)}", allowed=allowed)
    return grid


def _sites(llm: AudioLLM, sites: SiteSelector) -> list[str]:
    available = [site for site in llm.sites if site not in ("gate", "options")]
    if llm.frontend.flat:
        # One sequence for all clips: only what is handed on clip by clip can be told apart.
        available = [site for site in available if site == "tower" or site.startswith("text")]
    if sites is None:
        layers = [site for site in available if site.startswith("text[")]
        sites = ["tower", "text.embed", layers[len(layers) // 2]]
    return select_sites(available, sites)


def _answers(compass: Compass, site: str, draws: int) -> Answers:
    """Return what asks a batch under a coefficient; see :meth:`Study.ask`."""

    def under(batch: HeldBatch, numbers: list[int], dose: float) -> Iterator[tuple[str, int, list[FloatArray]]]:
        yield CHOSEN, 0, batch.steered(site, dose * np.stack([compass.push(number) for number in numbers]))
        for draw in range(draws):
            pushes = np.stack([compass.drawn(number, draw) for number in numbers])
            yield RANDOM, draw, batch.steered(site, dose * pushes)

    return under
