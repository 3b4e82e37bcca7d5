"""The same items asked under several settings: what is kept, how it is asked in parts, and how settings compare.

Why it exists. Another gate, another wording, more audio tokens: each asks the same questions again with one thing
changed, and each wants the same three numbers (accuracy, margin, share answered with a claim), paired by item.

The idea. Items are handled in chunks. A chunk's clips are encoded once and asked under every setting that is not kept
yet, so that no more than one chunk is held, an interrupted call goes on where it was, and a second one asks nothing.
:func:`compared` pairs every setting with a reference: intervals are clustered by speaker and wording, p values come
from flipping clusters and are adjusted over the settings by the largest statistic of shared flips (``_flips.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from vpanalysis import stats
from vpanalysis._flips import flip_family
from vpanalysis.attribution._asking import NoClip
from vpanalysis.attribution._work import Work, say_cost
from vpanalysis.attribution.margins import clusters_by_name, margin
from vpanalysis.errors import RunError
from vpanalysis.probes.paired import paired_interval
from vpanalysis.stats import FloatArray, benjamini_hochberg

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Benchmark, Item
    from vpanalysis.models.batch import EncodedClip

__all__ = [
    "ITEMS",
    "MEASURES",
    "Opened",
    "asked_in_parts",
    "check_numbers",
    "chosen_conditions",
    "chosen_items",
    "compared",
    "compared_by_task",
    "held_bytes",
    "interval_text",
    "measured",
    "named",
    "p_text",
    "seed_of",
]

MEASURES = ("accuracy", "margin", "ala")
"""Right or not; margin of the truth in nats; on conflict items, whether the answer is a claim of the words."""

ITEMS = ("id", "task", "speaker", "script", "setting", *MEASURES)
"""Columns of what is kept of every item under every setting."""

_BATCHES = 8
"""Batches in a chunk: enough that sorting by length saves padding, few enough to be held and to be lost."""


class Opened(Protocol):
    """A chunk of items whose clips are encoded."""

    items: list[Item]
    encoded: list[EncodedClip]


def named(names: str | Iterable[str]) -> list[str]:
    """Return names in order, each once; a string is one name."""
    return [names] if isinstance(names, str) else list(dict.fromkeys(names))


def chosen_conditions(have: Iterable[str], conditions: str | Sequence[str], asked: str) -> list[str]:
    """Return the conditions that are asked for, each once.

    Parameters
    ----------
    have : iterable of str
        Those that occur.
    conditions : str or sequence of str
        One, or several.
    asked : str
        What is asked, for the error.

    Raises
    ------
    RunError
        Without any, and for one that does not occur, also beside others that do.
    """
    chosen, present = named(conditions), list(dict.fromkeys(have))
    if not chosen:
        raise RunError(asked, found="no conditions", allowed=present)
    for name in chosen:
        if name not in present:
            raise RunError(asked, found=f"no item of {name!r}", allowed=present, word=str(name))
    return chosen


def chosen_items(benchmark: Benchmark, conditions: str | Sequence[str], asked: str) -> list[Item]:
    """Return the items of some conditions.

    Parameters
    ----------
    benchmark : Benchmark
    conditions : str or sequence of str
        One, or several.
    asked : str
        What is asked, for the error.

    Raises
    ------
    RunError
        Without any, and for one that no item has, also beside others that some have.
    """
    chosen = chosen_conditions(benchmark.conditions, conditions, asked)
    return [item for item in benchmark if item.condition in chosen]


def check_numbers(asked: str, *, level: float | None = None, batch_size: int | None = None) -> None:
    """Raise :class:`RunError` for a confidence level that is not inside 0 and 1, and a batch of no item."""
    if level is not None and not 0 < level < 1:
        raise RunError(asked, found=f"level={level}", allowed="a confidence level above 0 and below 1, such as 0.95")
    if batch_size is not None and batch_size < 1:
        raise RunError(asked, found=f"batch_size={batch_size}", allowed="1 or more")


def seed_of(random_state: int | None) -> int:
    """Return the seed; one that is drawn, to be recorded, where none is given."""
    if random_state is not None:
        return int(random_state)
    return int(np.random.SeedSequence().generate_state(1)[0] % 2**31)


def measured(items: Sequence[Item], logprobs: Sequence[FloatArray], setting: str) -> pd.DataFrame:
    """Return one row an item with the columns :data:`ITEMS`.

    Parameters
    ----------
    items : sequence of Item
    logprobs : sequence of array, each of shape (option,), float64
        In the order of the items and of their choices.
    setting : str
    """
    picked = [item.choices[int(row.argmax())] for item, row in zip(items, logprobs, strict=True)]
    return pd.DataFrame(
        {
            "id": [item.id for item in items],
            "task": [item.task_name for item in items],
            "speaker": [item.speaker for item in items],
            "script": [item.script for item in items],
            "setting": setting,
            "accuracy": [float(pick == item.truth) for pick, item in zip(picked, items, strict=True)],
            "margin": [
                margin(row, item.choices, item.truth, item.foils) for row, item in zip(logprobs, items, strict=True)
            ],
            "ala": [
                float(pick in item.claims) if item.claims else np.nan for pick, item in zip(picked, items, strict=True)
            ],
        },
        columns=list(ITEMS),
    )


def asked_in_parts(
    work: Work,
    items: Sequence[Item],
    names: Sequence[str],
    opened: Callable[[Sequence[Item]], Any],
    ask: Callable[[Any, str], pd.DataFrame],
    *,
    what: str,
    batch_size: int,
    progress: bool,
    trial: Callable[[Any], object] | None = None,
) -> pd.DataFrame:
    """Return what was kept of all items under all settings, asking only what is missing.

    Parameters
    ----------
    work : Work
    items : sequence of Item
    names : sequence of str
        Of the settings.
    opened : callable
        Takes items, returns an :class:`Opened`; raises :class:`NoClip` where no clip can
        be used, which leaves these items out.
    ask : callable
        Takes an :class:`Opened` and a setting, returns a table with the column ``setting``.
    what : str
        Which call, for the line that says the cost.
    batch_size : int
    progress : bool
    trial : callable, optional
        Does one forward of a first batch, to be timed.

    Returns
    -------
    DataFrame
        Setting by setting, in the order of `names`.

    Raises
    ------
    RunError
        Where no clip can be used at all, and whatever else `opened` and `ask` raise.
    """
    size = _BATCHES * batch_size
    chunks = {start: list(items[start : start + size]) for start in range(0, len(items), size)}
    there = {(start, name): work.read(f"{name}/{start}") for start in chunks for name in names}
    todo = {start: [name for name in names if there[start, name] is None] for start in chunks}
    batches = {start: -(-len(chunk) // batch_size) for start, chunk in chunks.items()}
    forwards = sum(batches[start] * len(missing) for start, missing in todo.items())
    kept = len(chunks) * len(names) - sum(len(missing) for missing in todo.values())
    done = f"{kept} of {len(chunks) * len(names)} parts are there" if kept else ""
    ready: dict[int, Any] = {}
    first: Any = None
    for start in [start for start, missing in todo.items() if missing]:
        first = _opened(opened, chunks[start])
        if first is not None:
            ready[start] = first
            break
    seconds, held = None, None
    if first is not None:
        seconds = _seconds(trial, first)
        held = first.held_bytes() if hasattr(first, "held_bytes") else held_bytes(first.encoded)
    say_cost(progress, what, forwards=forwards, held=held, done=done,
             seconds=None if seconds is None else seconds * forwards)  # fmt: skip
    parts: list[pd.DataFrame] = []
    with tqdm(total=forwards, desc=what, unit="forward", disable=not (progress and forwards)) as bar:
        for start, chunk in chunks.items():
            mine = ready.pop(start, None)
            for name in names:
                known = there[start, name]
                if known is None:
                    mine = _opened(opened, chunk) if mine is None else mine
                    if mine is None:
                        break
                    known = ask(mine, name)
                    work.write(f"{name}/{start}", known)
                    bar.update(batches[start])
                if len(known):
                    parts.append(known)
    if not parts:
        raise RunError(f"cannot ask ({what})", found=f"no usable clip among {len(items)} items")
    table = pd.concat(parts, ignore_index=True)
    order = table["setting"].map({name: number for number, name in enumerate(names)}).to_numpy()
    return table.iloc[np.argsort(order, kind="stable")].reset_index(drop=True)


def _opened(opened: Callable[[Sequence[Item]], Any], items: Sequence[Item]) -> Any:
    """Return a chunk; None where no clip of it can be used: those of others may be."""
    try:
        return opened(items)
    except NoClip:
        return None


def held_bytes(clips: Sequence[EncodedClip]) -> int:
    """Return how many bytes of states clips hold."""
    return sum(state.numel() * state.element_size() for clip in clips for state in clip.streams.values())


def _seconds(trial: Callable[[Any], object] | None, opened: Any) -> float | None:
    if trial is None:
        return None
    started = time.perf_counter()
    trial(opened)
    return time.perf_counter() - started


def compared(items: pd.DataFrame, reference: str, *, level: float, random_state: int | None) -> pd.DataFrame:
    """Return every measure under every setting, and its paired difference to a reference.

    Parameters
    ----------
    items : DataFrame
        Columns :data:`ITEMS`; every item under every setting.
    reference : str
        A setting.
    level : float
    random_state : int or None

    Returns
    -------
    DataFrame
        Columns setting, measure, value, low, high, difference, difference_low, difference_high, p, p_adjusted (over
        settings), n, n_groups.
    """
    names = list(dict.fromkeys(items["setting"]))
    others = [name for name in names if name != reference]
    first = items[items["setting"] == reference].set_index("id")
    rows: list[dict[str, Any]] = []
    for measure in MEASURES:
        wide = items.pivot(index="id", columns="setting", values=measure).reindex(first.index)
        here = wide.notna().all(axis=1).to_numpy()
        if not here.any():
            continue
        values: Mapping[str, FloatArray] = {n: wide[n].to_numpy(dtype=np.float64)[here] for n in names}
        own = values[reference]
        clusters = clusters_by_name(first[here])
        ones = np.ones(len(own))
        p, adjusted = np.zeros(0), np.zeros(0)
        if others:
            p, adjusted = flip_family(
                np.stack([values[n] - own for n in others]), clusters, random_state=random_state
            )  # fmt: skip
        for name in names:
            mine = values[name]
            found = (stats.mean if measure == "margin" else stats.proportion)(mine, clusters, level=level)
            row: dict[str, Any] = {"setting": name, "measure": measure}
            row |= {"value": found.value, "low": found.low, "high": found.high}
            row |= dict.fromkeys(("difference", "difference_low", "difference_high", "p", "p_adjusted"), np.nan)
            row |= {"n": found.n, "n_groups": found.n_groups}
            if name != reference:
                gap = (
                    stats.mean(mine - own, clusters, level=level)
                    if measure == "margin"
                    else paired_interval(mine, own, clusters, ones, level=level)
                )
                at = others.index(name)
                row |= {"difference": gap.value, "difference_low": gap.low, "difference_high": gap.high}
                row |= {"p": p[at], "p_adjusted": adjusted[at]}
            rows.append(row)
    return pd.DataFrame(rows)


def compared_by_task(items: pd.DataFrame, reference: str, *, level: float, random_state: int | None) -> pd.DataFrame:
    """Return :func:`compared` task by task, with ``q`` over tasks (Benjamini and Hochberg 1995) of each setting."""
    parts = []
    for task, part in items.groupby("task", sort=False):
        found = compared(part, reference, level=level, random_state=random_state)
        found.insert(0, "task", str(task))
        parts.append(found)
    table = pd.concat(parts, ignore_index=True)
    table["q"] = np.nan
    for (setting, _), part in table.groupby(["setting", "measure"], sort=False):
        if setting != reference:
            table.loc[part.index, "q"] = benjamini_hochberg(part["p_adjusted"].to_numpy(dtype=np.float64))
    return table


def p_text(values: pd.Series[float]) -> list[str]:
    """Return p values as they are shown in tables."""
    return ["–" if p != p else "<.001" if p < 0.001 else f"{p:.3f}" for p in values]


def interval_text(value: float, low: float, high: float) -> str:
    """Return a value with its interval as shown in tables, alone where there is none (of one item, say).

    >>> interval_text(0.5, 0.25, 0.75), interval_text(0.5, float("nan"), float("nan"))
    ('0.50 [0.25, 0.75]', '0.50')
    """
    if value != value:
        return "–"
    return f"{value:.2f}" if low != low or high != high else f"{value:.2f} [{low:.2f}, {high:.2f}]"
