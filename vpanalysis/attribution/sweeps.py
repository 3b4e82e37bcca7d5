"""``gate_sweep``: turn two weights of the mixer like two knobs, and see the answers follow.

Why it exists. Clamping to one stream is a jump to a corner. A sweep walks there: if the voice comes by one stream and
the words by another, accuracy should rise and the share of claims fall on the way from one to the other, without a
cliff. Where it stays flat, the two streams say the same to the language model.

The idea. Two streams are chosen. All others keep a base mixture (the mean of all items, or each item's own), and

* ``trade``: the two share what the others leave, from all of it on the second to all of it on the first; or a `total`
  that is given, in which case the others are scaled to fit;
* ``grid``: both weights vary over a grid, as long as they add up to at most one, and the others share the rest in the
  proportions of the base mixture.

Every point is scored with its interval, and paired with the gate's own weights.

Example: with weights (0.5, 0.2, 0.3) and the first and last stream traded in three steps, the mixtures are
(0, 0.2, 0.8), (0.4, 0.2, 0.4) and (0.8, 0.2, 0).

What it cannot show: mixtures far from those that were trained on are foreign to the language model, and a fall there
may be of that. Points are many and share their items: p values are adjusted over them, intervals are not.

>>> found = gate_sweep("mini-pclm-dpo", "mini", streams=("encoder[0]", "tower"))    # doctest: +SKIP
>>> found.plot(measure="margin")                                                    # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis._results import TableResult
from vpanalysis.attribution._asking import Asker
from vpanalysis.attribution._mixtures import clamped, mixtures_of, streams_of
from vpanalysis.attribution._settings import (
    MEASURES,
    asked_in_parts,
    check_numbers,
    chosen_items,
    compared,
    measured,
    named,
    p_text,
    seed_of,
)
from vpanalysis.attribution._work import Work, identity
from vpanalysis.attribution.mixtures import OWN
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT, PromptTemplate
from vpanalysis.errors import RunError
from vpanalysis.stats import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vpanalysis.models.facade import AudioLLM

__all__ = ["KINDS", "RESTS", "SweepResult", "gate_sweep"]

KINDS = ("trade", "grid")
RESTS = ("mean", "own")
"""What the other streams keep: the mean mixture of all items, or each item's own."""


@dataclass(frozen=True, repr=False)
class SweepResult(TableResult):
    """Answers along two weights.

    Attributes
    ----------
    table : DataFrame
        One row a point and measure: setting, ``first`` and ``second`` (mean weights of the two streams, NaN for
        ``own``), measure (accuracy; margin in nats; ala), value, low, high, difference to ``own`` with its interval, p,
        p_adjusted (over points), n, n_groups.
    items : DataFrame
        One row an item and point.
    settings : mapping
    """

    VERB, TABLES = "gate-sweep", ("table", "items")

    table: pd.DataFrame
    items: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)

    def plot(self, ax: Axes | None = None, *, measure: str = "accuracy") -> Axes:
        """Draw one measure: a line along the trade with its interval, or a map over the grid."""
        from vpanalysis.plots.settings import gate_grid, gate_trade

        if measure not in MEASURES:
            raise RunError("cannot draw the sweep", found=repr(measure), allowed=MEASURES, word=measure)
        rows = self.table[self.table["measure"] == measure].reset_index(drop=True)
        swept, name = self.settings["swept"], str(self.settings.get("model", ""))
        if self.settings["kind"] == "trade":
            return gate_trade(rows, swept, ax=ax, name=name, level=float(self.settings["level"]))
        return gate_grid(rows, swept, ax=ax, name=name)

    def _parts(self) -> tuple[pd.DataFrame, str, str]:
        first, second = self.settings["swept"]
        shown = self.table.assign(p=p_text(self.table["p"]), p_adjusted=p_text(self.table["p_adjusted"]))
        title = f"SweepResult: {self.settings.get('model')} on {self.settings.get('benchmark')}, {first} and {second}"
        return shown, title, "difference: to the gate's own weights, paired by item; p_adjusted: over the points"


def gate_sweep(
    model: AudioLLM | str,
    benchmark: Benchmark | str,
    *,
    streams: Sequence[str] | None = None,
    steps: int = 6,
    kind: str = "trade",
    total: float | None = None,
    rest: str = "mean",
    conditions: str | Sequence[str] = ("conflict",),
    template: PromptTemplate = DEFAULT_PROMPT,
    batch_size: int = 16,
    level: float = 0.95,
    random_state: int | None = 0,
    cache: bool | str | Path | None = True,
    progress: bool = True,
) -> SweepResult:
    """Vary two weights of the mixer, and score the model at every point.

    Parameters
    ----------
    model : AudioLLM or str
        With a mixer.
    benchmark : Benchmark or str
    streams : sequence of str, optional
        The two streams; by default the one that the gate weighs most but for the last, and the last.
    steps : int
        Points of the trade, or along each side of the grid, ends included.
    kind : str
        ``"trade"`` or ``"grid"``.
    total : float, optional
        What the two have together in a trade; by default what the others leave. Not for a grid, which sets both.
    rest : str
        Where the others' weights come from: ``"mean"`` or ``"own"``.
    conditions : str or sequence of str
    template : PromptTemplate
    batch_size : int
    level : float
    random_state : int or None
        Of the sign flips; None for one that is drawn (``settings`` says which).
    cache : bool, str, Path or None
    progress : bool

    Returns
    -------
    SweepResult

    Raises
    ------
    RunError
        Without a mixer, for streams that are not two of its, fewer than two steps, a total that cannot be kept (in a
        grid, or where no other stream has any weight that could make up the rest), unknown words, and numbers out of
        range.
    """
    from vpanalysis.runs import listed, loaded_model

    llm, bench = loaded_model(model), listed(benchmark)
    have = streams_of(llm)
    for name, value, allowed in (("kind", kind, KINDS), ("rest", rest, RESTS)):
        if value not in allowed:
            raise RunError("cannot sweep the gate", found=f"{name}={value!r}", allowed=allowed, word=value)
    check_numbers("cannot sweep the gate", level=level, batch_size=batch_size)
    seed = seed_of(random_state)
    if steps < 2 or (total is not None and not 0 < total <= 1):
        raise RunError("cannot sweep the gate", found=f"steps={steps}, total={total}",
                       allowed="two steps or more, and a total above 0 and up to 1")  # fmt: skip
    if kind == "grid" and total is not None:
        raise RunError("cannot sweep the gate", found=f"total={total} for a grid, which sets both weights",
                       fix="leave the total out, or use kind='trade'")  # fmt: skip
    items = chosen_items(bench, conditions, "cannot sweep the gate")
    own = mixtures_of(llm, items, template, batch_size)
    pair = [have[int(own.mean(axis=0)[:-1].argmax())], have[-1]] if streams is None else named(streams)
    for name in pair:
        if name not in have:
            raise RunError("cannot sweep the gate", found=repr(name), allowed=have, word=name)
    if len(pair) != 2 or pair[0] == pair[1]:
        raise RunError("cannot sweep the gate", found=f"{pair}", allowed="two streams")
    base = np.tile(own.mean(axis=0), (len(items), 1)) if rest == "mean" else own
    base = base / base.sum(axis=1, keepdims=True)
    points = _points(base, (have.index(pair[0]), have.index(pair[1])), kind, steps, total)
    at = {item.id: number for number, item in enumerate(items)}

    def ask(asker: Asker, name: str) -> pd.DataFrame:
        if name == OWN:
            return measured(asker.items, asker.ask(), name)
        with clamped(asker.llm, points[name][[at[item.id] for item in asker.items]]):
            return measured(asker.items, asker.ask(), name)

    asked = {"streams": pair, "kind": kind, "total": total, "rest": rest, "batch_size": batch_size}
    work = Work("gate-sweep", identity(llm, items, template) | asked, cache)
    table = asked_in_parts(
        work, items, [OWN, *points], lambda part: Asker(llm, part, template, batch_size), ask,
        what=f"gate sweep of {llm.name}", batch_size=batch_size, progress=progress,
        trial=lambda asker: asker.ask(range(min(batch_size, len(asker.items)))),
    )  # fmt: skip
    found = compared(table, OWN, level=level, random_state=seed)
    for place, key in enumerate(("first", "second")):
        column = have.index(pair[place])
        weights = {name: float(rows[:, column].mean()) for name, rows in points.items()}
        found.insert(1 + place, key, found["setting"].map(weights))
    made = {
        "model": llm.name, "benchmark": bench.name, "benchmark_sha": bench.sha, "conditions": named(conditions),
        "all_streams": list(have), "swept": pair, "own_weights": [float(own[:, have.index(n)].mean()) for n in pair],
        "steps": steps, "kind": kind, "total": total, "rest": rest,
        "skipped": len(items) - table["id"].nunique(), "level": level, "random_state": seed,
        "batch_size": batch_size, "weights": llm.weights_sha, "template": template.sha,
    }  # fmt: skip
    return SweepResult(found, table, made)


def _points(
    base: FloatArray, pair: tuple[int, int], kind: str, steps: int, total: float | None
) -> dict[str, FloatArray]:
    """Return mixtures by the name of their point, shape (item, stream)."""
    a, b = pair
    others = base.copy()
    others[:, [a, b]] = 0.0
    left = others.sum(axis=1)
    out: dict[str, FloatArray] = {}
    if kind == "trade":
        if total is not None and total < 1 and (left <= 1e-12).any():
            raise RunError("cannot sweep the gate",
                           found=f"total={total}, but no other stream has weight that could make up the rest",
                           fix="leave the total out")  # fmt: skip
        shared = 1 - left if total is None else np.full(len(base), total)
        scaled = others * np.divide(1 - shared, left, out=np.zeros_like(left), where=left > 1e-12)[:, None]
        for share in np.linspace(0, 1, steps):
            rows = scaled.copy()
            rows[:, a], rows[:, b] = share * shared, (1 - share) * shared
            out[f"{share:.3f}"] = rows / rows.sum(axis=1, keepdims=True)
        return out
    for first in np.linspace(0, 1, steps):
        for second in np.linspace(0, 1, steps):
            free = 1 - first - second
            if free < -1e-9 or (free > 1e-9 and (left <= 1e-12).any()):
                continue
            rows = others * np.divide(max(free, 0.0), left, out=np.zeros_like(left), where=left > 1e-12)[:, None]
            rows[:, a], rows[:, b] = first, second
            out[f"{first:.3f}, {second:.3f}"] = rows / rows.sum(axis=1, keepdims=True)
    return out
