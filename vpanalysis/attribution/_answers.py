"""Answers under every condition of a factorial experiment: ordinary Runs, found again, and what has no clip beside.

Why it exists. The conditions of :func:`vpanalysis.listen_vs_read` are benchmarks. Run one by one they would encode the
same clip again for every order of its options; as Runs they share the cache of encoded clips, are resumable, and can be
probed and scored like any other. A question without a clip is no Run, since a Run is of clips; its answers are kept
beside.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from vpanalysis import stats
from vpanalysis.attribution._asking import Asker
from vpanalysis.attribution._work import Work, identity, say_cost
from vpanalysis.attribution.margins import LOGPROBS, clusters_by_name
from vpanalysis.benchmark.audio import NoAudio
from vpanalysis.benchmark.items import Benchmark, Item
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    from vpanalysis.benchmark.prompts import PromptTemplate
    from vpanalysis.models.facade import AudioLLM

__all__ = ["answers_under", "positions", "turned_by"]


def answers_under(
    llm: AudioLLM, made: Mapping[str, Benchmark], orders: int, root: Path, template: PromptTemplate, batch_size: int,
    cache: bool | str | Path | None, progress: bool,
) -> dict[str, list[pd.DataFrame]]:  # fmt: skip
    """Return the predictions under every condition, one table an order of the options.

    Parameters
    ----------
    llm : AudioLLM
    made : mapping of str to Benchmark
        The conditions; ``both`` among them.
    orders : int
        How many cyclic orders of the options.
    root : Path
        Where the Runs are kept.
    template : PromptTemplate
    batch_size : int
    cache : bool, str, Path or None
        Of encoded clips.
    progress : bool

    Returns
    -------
    dict of str to list of DataFrame
        With the columns id, choices, truth, foils, letters and ``option_logprobs`` at least.
    """
    from vpanalysis.runs import run

    steps = [(name, turn, root / (name.replace("+", "-").replace(" ", "-") + (f"-order{turn}" if turn else "")))
             for name in made for turn in range(orders)]  # fmt: skip
    left = [(name, turn, place) for name, turn, place in steps if not _is_there(made[name], place)]
    if left and progress:
        # What a batch costs is told by the first one.
        seconds = _seconds_of_one(llm, made["both"], template, batch_size)
        batches = sum(-(-len(made[name]) // batch_size) for name, _, _ in left)
        say_cost(
            progress, f"listen_vs_read of {llm.name}, {len(made['both'])} items under {len(made)} conditions",
            forwards=batches, seconds=None if seconds is None else batches * seconds,
            done=f"{len(steps) - len(left)} of {len(steps)} runs are there",
        )  # fmt: skip
    tables: dict[str, list[pd.DataFrame]] = {}
    for name, turn, place in tqdm(steps, desc="conditions", unit="run", disable=not progress or not left):
        turned = turned_by(made[name], turn)
        if isinstance(turned[0].audio, NoAudio):
            tables.setdefault(name, []).append(_without_clips(llm, turned, place, template, batch_size))
            continue
        done = run(llm, turned, place, reducers="none", template=template, batch_size=batch_size, cache=cache,
                   progress=False)  # fmt: skip
        tables.setdefault(name, []).append(done.predictions)
    return tables


def _seconds_of_one(llm: AudioLLM, bench: Benchmark, template: PromptTemplate, batch_size: int) -> float | None:
    """Return what encoding and asking a batch takes; None where no clip of the first batches can be used."""
    for start in range(0, min(len(bench), 4 * batch_size), batch_size):
        started = time.perf_counter()
        try:
            count = len(Asker(llm, list(bench)[start : start + batch_size], template, batch_size).ask())
        except RunError:
            continue
        return (time.perf_counter() - started) * batch_size / count
    return None


def _is_there(bench: Benchmark, place: Path) -> bool:
    """Return whether a condition was finished; whether it is the right one is looked at when it is opened."""
    from vpanalysis.runs import open_run

    if isinstance(bench[0].audio, NoAudio):
        return True
    try:
        return open_run(place).is_complete
    except RunError:
        return False


def _without_clips(
    llm: AudioLLM, bench: Benchmark, place: Path, template: PromptTemplate, batch_size: int
) -> pd.DataFrame:
    """Return what a Run's predictions would be of questions without a clip; kept beside the Runs."""
    keep = ("id", "choices", "truth", "foils", "letters")
    work = Work("unheard", identity(llm, list(bench), template), place.parent)

    def ask() -> pd.DataFrame:
        asker = Asker(llm, list(bench), template, batch_size)
        rows = [[getattr(item, name) for name in keep] for item in asker.items]
        return pd.DataFrame(rows, columns=list(keep)).assign(option_logprobs=pd.Series(asker.ask()))

    return work.part(place.name, ask)


def turned_by(bench: Benchmark, turn: int) -> Benchmark:
    """Return the benchmark with the options of every item moved on by `turn` places."""
    if not turn:
        return bench

    def moved(item: Item) -> Item:
        at = turn % len(item.choices)
        return replace(item, choices=item.choices[at:] + item.choices[:at])

    return Benchmark((moved(i) for i in bench), name=f"{bench.name}:order{turn}", source=bench.source)


def positions(tables: Mapping[str, Sequence[pd.DataFrame]], base: Benchmark, level: float) -> pd.DataFrame:
    """Return how often each letter was picked against how often it was right, by condition.

    Parameters
    ----------
    tables : mapping of str to sequence of DataFrame
        From `answers_under`.
    base : Benchmark
        Items by whose speakers and wordings the intervals are clustered.
    level : float

    Returns
    -------
    DataFrame
        Columns condition, letter, picked, truth, excess, low, high, n.
    """
    known = {item.id: item for item in base}
    out = []
    for name, orders in tables.items():
        asked = pd.concat(orders, ignore_index=True)
        asked = asked[asked[LOGPROBS].notna()]
        rows: list[dict[str, Any]] = []
        for one in asked.to_dict("records"):
            best, choices = int(np.argmax(one[LOGPROBS])), list(one["choices"])
            item = known[str(one["id"])]
            rows += [
                {"letter": letter, "picked": float(at == best), "truth": float(choices[at] == one["truth"]),
                 "speaker": item.speaker, "script": item.script}
                for at, letter in enumerate(one["letters"])
            ]  # fmt: skip
        for letter, part in pd.DataFrame(rows).groupby("letter"):
            excess = stats.mean((part["picked"] - part["truth"]).to_numpy(), clusters_by_name(part), level=level)
            out.append((name, letter, part["picked"].mean(), part["truth"].mean(), excess.value, excess.low,
                        excess.high, len(part)))  # fmt: skip
    return pd.DataFrame(out, columns=["condition", "letter", "picked", "truth", "excess", "low", "high", "n"])
