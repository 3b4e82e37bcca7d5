"""Held-out items asked in batches under every dose of an intervention, each part of which is kept.

What is the same for a vector that is added and for units that are scaled: clips are loaded and sorted by length, the
cost is said before the work, training items are read and held-out ones are asked batch by batch, and whatever is
finished is found by the next call. A part is one batch at one site under one dose, with all its random draws, so that a
further dose costs what it costs and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from vpanalysis.attribution._doses import CHOSEN
from vpanalysis.attribution._plans import Plan, reachable, taken
from vpanalysis.attribution._settings import check_numbers, seed_of
from vpanalysis.attribution._work import Work, identity, say_cost
from vpanalysis.attribution.margins import margin
from vpanalysis.errors import AudioError, RunError
from vpanalysis.stats import FloatArray

if TYPE_CHECKING:
    from vpanalysis.attribution._steered import HeldBatch
    from vpanalysis.benchmark.items import Item
    from vpanalysis.benchmark.prompts import PromptTemplate
    from vpanalysis.models.facade import AudioLLM

__all__ = ["Answers", "Study", "checked_call"]

Answers = Callable[["HeldBatch", list[int], float], Iterator[tuple[str, int, "list[FloatArray]"]]]
"""From a batch, the numbers of its items in the plan and a dose to arms, draws and log-probabilities of options."""


def checked_call(
    verb: str, *, level: float, random_state: int | None, batch_size: int, draws: int, others: int, splits: int
) -> int:
    """Return the seed of a call, drawn where none is given; RunError for numbers that mean nothing."""
    check_numbers(f"cannot {verb}", level=level, batch_size=batch_size)
    seed = seed_of(random_state)
    for name, value, least in (
        ("batch_size", batch_size, 1), ("draws", draws, 1), ("others", others, 0), ("splits", splits, 2),
        ("random_state", seed, 0),
    ):  # fmt: skip
        if not isinstance(value, (int, np.integer)) or value < least:
            raise RunError(f"cannot {verb}", found=f"{name}={value!r}", allowed=f"a whole number from {least} on")
    return seed


class Study:
    """Items with their clips, asked in batches, each part of which is kept.

    Parameters
    ----------
    llm : AudioLLM
    plans : sequence of Plan
    verb : str
    settings : mapping
        All that the numbers depend on besides model, items and wording.
    dose, still : str, float
        Name of the dose, and the one that changes nothing.
    template : PromptTemplate
    batch_size : int
    span : str
    parts_of : callable
        From a task to the number of equal parts of a clip.
    about : str
        Of :data:`vpanalysis.attribution._directions.ABOUT`.
    towards : str, optional
    enough : callable, optional
        Whether something can be made of a training set.
    cache : bool, str, Path or None
    progress : bool

    Attributes
    ----------
    plans : list of Plan
        Those of tasks in which something is left to ask, with items only whose clips the model can take.
    skipped : int
        Items that would be asked and whose clips cannot be used: unreadable, or of a length that the model does not
        take.
    left_out : int
        Items whose training sets lack their options without the clips that cannot be used.

    Raises
    ------
    RunError
        Where no task is left.
    """

    def __init__(
        self, llm: AudioLLM, plans: Sequence[Plan], verb: str, settings: Mapping[str, Any], *, dose: str, still: float,
        template: PromptTemplate, batch_size: int, span: str, parts_of: Callable[[str], int], about: str,
        towards: str | None = None, enough: Callable[[Sequence[Item]], bool] | None = None,
        cache: bool | str | Path | None, progress: bool,
    ) -> None:  # fmt: skip
        self.llm, self.verb, self.dose, self.still = llm, verb, dose, still
        self.template, self.batch_size, self.span, self.parts_of = template, batch_size, span, parts_of
        self.towards, self.progress = towards, progress
        every = {id(item): item for plan in plans for item in (*plan.items, *plan.pool)}
        known = identity(llm, list(every.values()), template)
        self.work = Work(verb, {**known, **settings, "batch_size": batch_size}, cache)
        self._waves: dict[int, Any] = {}
        self.plans: list[Plan] = []
        self.skipped = self.left_out = 0
        self._numbers: list[list[int]] = []
        self._pools: list[list[Item]] = []
        for plan in plans:
            usable = [n for n, item in enumerate(plan.items) if self._load(item)]
            self.skipped += len(plan.items) - len(usable)
            train = [[item for item in items if self._load(item)] for items in plan.train]
            heard = taken(replace(plan, train=train), usable)
            kept = None if heard is None else reachable(heard, about, enough)
            self.left_out += len(usable) - (0 if kept is None else len(kept.items))
            if kept is None:
                continue
            self.plans.append(kept)
            # By length, so that a batch has little padding.
            lengths = [len(self._waves[id(item)]) for item in kept.items]
            self._numbers.append(sorted(range(len(lengths)), key=lengths.__getitem__))
            self._pools.append(sorted(kept.pool, key=lambda item: len(self._waves[id(item)])))
        if not self.plans:
            raise RunError(
                f"cannot ask {llm.name!r}",
                found=f"no usable clip of any task, or no training items for it: {self.skipped} clips cannot be used, "
                f"{self.left_out} items have no usable training items for their options",
            )  # fmt: skip
        self._bar: Any = None
        self._held: tuple[tuple[int, int], HeldBatch] | None = None

    def _load(self, item: Item) -> bool:
        if id(item) not in self._waves:
            try:
                wave = item.audio.load()
                # A clip may be fine and still too short for a single frame, or too long for a model with one window.
                self.llm.layout([wave])
            except AudioError:
                wave = None
            self._waves[id(item)] = wave
        return self._waves[id(item)] is not None

    def _batches(self, items: Sequence[Any]) -> Iterator[tuple[int, list[Any]]]:
        for start in range(0, len(items), self.batch_size):
            yield start, list(items[start : start + self.batch_size])

    def _batch(self, items: Sequence[Item], task: str) -> HeldBatch:
        # Here, so that results are read and drawn without loading torch.
        from vpanalysis.attribution._steered import HeldBatch

        waves = [self._waves[id(item)] for item in items]
        return HeldBatch(self.llm, items, waves, self.template, self.span, self.parts_of(task))

    def _asked(self, at: int, start: int, numbers: Sequence[int]) -> HeldBatch:
        """Return a batch of items that are asked; the last one is held for the next intervention."""
        if self._held is None or self._held[0] != (at, start):
            plan = self.plans[at]
            self._held = (at, start), self._batch([plan.items[n] for n in numbers], plan.task)
        return self._held[1]

    # Work -------------------------------------------------------------------------------------------------------------

    @contextmanager
    def begin(self, sites: Sequence[str], doses: Sequence[float], arms: int) -> Iterator[None]:
        """Say what is to be done before it is (one forward is timed for that), and show a bar during the block.

        Parameters
        ----------
        sites : sequence of str
        doses : sequence of float
            Those that change something.
        arms : int
            Interventions of each dose: the chosen and the random ones.
        """
        self.sites, self.doses, self.arms = list(sites), list(doses), arms
        fits = asks = there = 0
        first: tuple[int, int, list[int]] | None = None
        for at, plan in enumerate(self.plans):
            for start, _ in self._batches(self._pools[at]):
                fits += self.work.done([self._fit_name(plan, site, start) for site in sites]) < len(sites)
            for start, numbers in self._batches(self._numbers[at]):
                names = [self._name(plan, site, start, dose) for site in sites for dose in doses]
                done, base = self.work.done(names), self.work.done([self._base_name(plan, start)])
                there += done
                todo = (len(names) - done) * arms + 1 - base
                asks += todo
                first = (at, start, numbers) if todo and first is None else first
        seconds, held = None, None
        if first is not None:
            batch = self._asked(*first)
            batch.logprobs()
            began = time.perf_counter()
            batch.logprobs()
            seconds = (time.perf_counter() - began) * (fits + asks)
            inside = sum(site.startswith("encoder") for site in sites)
            if inside:
                began = time.perf_counter()
                self.llm.encode(batch.waves)
                seconds += (time.perf_counter() - began) * (fits + asks * inside / max(len(sites), 1))
            held = sum(s.numel() * s.element_size() for clip in batch.clips for s in clip.streams.values())
        what = f"{self.verb}: {self.llm.name}, {sum(map(len, self._numbers))} items"
        done_already = f"{there} parts are there" if there else ""
        say_cost(self.progress, what, forwards=fits + asks, seconds=seconds, held=held, done=done_already)
        with tqdm(total=fits + asks, desc=self.verb, unit="forward", disable=not self.progress) as self._bar:
            yield
        self._held = None

    def _fit_name(self, plan: Plan, site: str, start: int) -> str:
        return f"fit|{plan.task}|{site}|{start}"

    def _base_name(self, plan: Plan, start: int) -> str:
        return f"base|{plan.task}|{start}"

    def _name(self, plan: Plan, site: str, start: int, dose: float) -> str:
        return f"ask|{plan.task}|{site}|{start}|{dose!r}|{self.arms}"

    def fit(
        self, at: int, read: Callable[[HeldBatch, list[str]], Mapping[str, tuple[FloatArray, FloatArray]]]
    ) -> tuple[list[Item], dict[str, tuple[FloatArray, FloatArray]]]:
        """Return the training items of a plan and two arrays of each site, their rows in the same order.

        Parameters
        ----------
        at : int
            Number of the plan.
        read : callable
            From a batch and the sites to be read to two arrays each, shape (item, any), float64.
        """
        plan, pool = self.plans[at], self._pools[at]
        parts: dict[str, list[tuple[FloatArray, FloatArray]]] = {site: [] for site in self.sites}
        for start, items in self._batches(pool):
            names = {site: self._fit_name(plan, site, start) for site in self.sites}
            have = {site: self.work.read(name) for site, name in names.items()}
            lacking = [site for site, table in have.items() if table is None]
            if lacking:
                for site, (one, two) in read(self._batch(items, plan.task), lacking).items():
                    made = pd.DataFrame({"one": list(one), "two": list(two)})
                    have[site] = made
                    self.work.write(names[site], made)
                self._bar.update()
            for site, table in have.items():
                assert table is not None
                parts[site].append((np.stack(table["one"].to_list()), np.stack(table["two"].to_list())))
        return pool, {
            site: (np.concatenate([a for a, _ in each]), np.concatenate([b for _, b in each]))
            for site, each in parts.items()
        }

    def ask(self, at: int, answers: Callable[[str], Answers]) -> Iterator[pd.DataFrame]:
        """Yield tables of items under every dose of every site.

        Parameters
        ----------
        at : int
            Number of the plan.
        answers : callable
            From a site to what yields arm, draw and log-probabilities, given a batch, the numbers of its items in the
            plan, and a dose.
        """
        plan = self.plans[at]
        for start, numbers in self._batches(self._numbers[at]):
            base = self.work.part(self._base_name(plan, start), lambda s=start, n=numbers: self._base(at, s, n))  # type: ignore[misc]
            for site in self.sites:
                yield base.assign(site=site)
                for dose in self.doses:
                    yield self.work.part(
                        self._name(plan, site, start, dose),
                        lambda s=start, n=numbers, p=site, d=dose: self._under(at, s, n, p, d, answers(p)),  # type: ignore[misc]
                    )

    def _base(self, at: int, start: int, numbers: list[int]) -> pd.DataFrame:
        rows = self._asked(at, start, numbers).logprobs()
        self._bar.update()
        return self._measured(at, numbers, rows, "", CHOSEN, 0, self.still)

    def _under(self, at: int, start: int, numbers: list[int], site: str, dose: float, answers: Answers) -> pd.DataFrame:
        out = []
        for arm, draw, rows in answers(self._asked(at, start, numbers), numbers, dose):
            out.append(self._measured(at, numbers, rows, site, arm, draw, dose))
            self._bar.update()
        return pd.concat(out, ignore_index=True)

    def _measured(
        self, at: int, numbers: Sequence[int], logprobs: Sequence[FloatArray], site: str, arm: str, draw: int,
        dose: float,
    ) -> pd.DataFrame:  # fmt: skip
        plan, rows = self.plans[at], []
        for number, scores in zip(numbers, logprobs, strict=True):
            item, which = plan.items[number], plan.sets[number]
            said = item.choices[int(scores.argmax())]
            about = self.towards is not None and self.towards in item.choices
            rows.append(
                {
                    "id": item.id, "task": plan.task, "set": which, "speaker": item.speaker, "script": item.script,
                    "site": site, "arm": arm, "draw": draw, self.dose: dose,
                    "margin": margin(scores, item.choices, item.truth, item.foils),
                    "accuracy": float(said == item.truth),
                    "ala": float(said in item.claims) if item.claims else np.nan,
                    "towards": float(said == self.towards) if about else np.nan,
                }
            )  # fmt: skip
        return pd.DataFrame(rows)
