"""``gate_contributions``: how much of the audio tokens that the language model receives comes from which stream.

Why it exists. A weight of 0.3 on a stream says little by itself: the stream may be long or short, and may point where
the others point or against them. What counts is how much of the mixed tokens it makes.

The idea. The mixture is a sum, ``mixed = sum_l alpha_l Z_l``, so that it can be divided exactly. The share of a stream
is the projection of its term on the whole::

    share_l = sum_t <alpha_l Z_l(t), mixed(t)> / sum_t ||mixed(t)||^2

over the valid frames of a clip. Shares sum to one exactly; one below zero belongs to a stream that the others
overrule. Tokens also have a part that is the same in every frame, such as a projector's bias. ``moving`` is the same
share after subtracting each term's mean over the clip: the share of what changes while the clip plays; it sums to one
as well. ``size`` is the length of the term over that of the mixture, which does not sum to one.

The hooks see streams, weights and mixture of one forward, and the sum is checked against what the mixer put out.

Example: weights (0.5, 0.5) on streams (3, 0) and (0, 1) mix to (1.5, 0.5); the shares are 0.9 and 0.1.

What it cannot show: a share is of the tokens' length, not of what the language model makes of them. A small term may
carry the voice and a large one what is ignored; for that, clamp the gate (:func:`gates`) or patch the stream
(:func:`patch`).

>>> found = gate_contributions("mini-pclm-dpo", "mini")                  # doctest: +SKIP
>>> found.plot()                                                         # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis import stats
from vpanalysis._results import TableResult
from vpanalysis.attribution._asking import Asker
from vpanalysis.attribution._mixtures import streams_of
from vpanalysis.attribution._settings import asked_in_parts, check_numbers, chosen_items, interval_text, named
from vpanalysis.attribution._work import Work, identity
from vpanalysis.attribution.margins import clusters_by_name
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT, PromptTemplate
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vpanalysis.models.facade import AudioLLM

__all__ = ["QUANTITIES", "ContributionResult", "gate_contributions"]

QUANTITIES = ("weight", "share", "moving", "size")
"""The gate's weight; the projection on the mixture; that of what changes over the clip; length over the mixture's."""

ALL = "all"
_PART = "streams"


@dataclass(frozen=True, repr=False)
class ContributionResult(TableResult):
    """What each stream adds to the mixed tokens.

    Attributes
    ----------
    table : DataFrame
        One row a task (and one for all, ``"all"``), stream and quantity of :data:`QUANTITIES`: value (mean over items),
        low, high, n, n_groups. All without unit.
    items : DataFrame
        One row an item and stream: id, task, speaker, script, stream, the quantities, ``error`` (largest deviation of
        the sum of terms from the mixer's output, over the largest entry of that).
    settings : mapping
        ``error``: the largest over all items.
    """

    VERB, TABLES = "gate-contributions", ("table", "items")

    table: pd.DataFrame
    items: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)

    def plot(self, ax: Axes | None = None, *, quantity: str = "share") -> Axes:
        """Draw one quantity as a map, a row a task and a column a stream."""
        from vpanalysis.plots.settings import gate_shares

        if quantity not in QUANTITIES:
            raise RunError("cannot draw the contributions", found=repr(quantity), allowed=QUANTITIES, word=quantity)
        rows = self.table[self.table["quantity"] == quantity].reset_index(drop=True)
        return gate_shares(rows, ax=ax, name=str(self.settings.get("model", "")), level=float(self.settings["level"]))

    def _parts(self) -> tuple[pd.DataFrame, str, str]:
        rows = self.table[self.table["quantity"].isin(["weight", "share", "moving"])]
        cells = [interval_text(*row) for row in zip(rows["value"], rows["low"], rows["high"], strict=True)]
        shown = rows.assign(cell=cells).pivot(index=["task", "quantity"], columns="stream", values="cell")
        order = pd.MultiIndex.from_frame(rows[["task", "quantity"]].drop_duplicates())
        shown = shown.reindex(index=order, columns=list(dict.fromkeys(rows["stream"])))
        title = f"ContributionResult: {self.settings.get('model')} on {self.settings.get('benchmark')}"
        return shown.reset_index().rename_axis(columns=None), title, "shares of the mixed tokens; each row sums to 1"


def gate_contributions(
    model: AudioLLM | str,
    benchmark: Benchmark | str,
    *,
    conditions: str | Sequence[str] = ("conflict",),
    template: PromptTemplate = DEFAULT_PROMPT,
    batch_size: int = 16,
    level: float = 0.95,
    cache: bool | str | Path | None = True,
    progress: bool = True,
) -> ContributionResult:
    """Divide the mixed audio tokens among the streams, exactly.

    Parameters
    ----------
    model : AudioLLM or str
        With a mixer.
    benchmark : Benchmark or str
    conditions : str or sequence of str
        Of the items.
    template : PromptTemplate
    batch_size : int
    level : float
    cache : bool, str, Path or None
    progress : bool

    Returns
    -------
    ContributionResult

    Raises
    ------
    RunError
        Without a mixer, for unknown conditions, and for numbers out of range.
    """
    from vpanalysis.runs import listed, loaded_model

    llm, bench = loaded_model(model), listed(benchmark)
    streams = streams_of(llm)
    check_numbers("cannot divide the mixture", level=level, batch_size=batch_size)
    items = chosen_items(bench, conditions, "cannot divide the mixture")
    work = Work("gate-contributions", identity(llm, items, template) | {"batch_size": batch_size}, cache)
    table = asked_in_parts(
        work, items, [_PART], lambda part: Asker(llm, part, template, batch_size),
        lambda asker, name: _divided(asker, streams).assign(setting=name),
        what=f"contributions in {llm.name}", batch_size=batch_size, progress=progress,
        trial=lambda asker: asker.ask(range(min(batch_size, len(asker.items)))),
    ).drop(columns="setting")  # fmt: skip
    rows = []
    for task in (ALL, *bench.tasks):
        part = table if task == ALL else table[table["task"] == task]
        for stream in streams if len(part) else ():
            here = part[part["stream"] == stream]
            clusters = clusters_by_name(here)
            for quantity in QUANTITIES:
                found = stats.mean(here[quantity].to_numpy(dtype=np.float64), clusters, level=level)
                rows.append(
                    {
                        "task": task, "stream": stream, "quantity": quantity, "value": found.value, "low": found.low,
                        "high": found.high, "n": found.n, "n_groups": found.n_groups,
                    }
                )  # fmt: skip
    made = {
        "model": llm.name, "benchmark": bench.name, "benchmark_sha": bench.sha, "conditions": named(conditions),
        "streams": list(streams), "skipped": len(items) - table["id"].nunique(), "error": float(table["error"].max()),
        "level": level, "batch_size": batch_size, "weights": llm.weights_sha, "template": template.sha,
    }  # fmt: skip
    return ContributionResult(pd.DataFrame(rows), table, made)


def _divided(asker: Asker, streams: Sequence[str]) -> pd.DataFrame:
    """Return one row an item and stream."""
    import torch

    from vpanalysis.attribution._hooks import watched

    llm = asker.llm
    names = [f"streams[{k}]" for k in range(len(streams))]
    rows: list[dict[str, Any]] = []
    for start in range(0, len(asker.items), asker.batch_size):
        part = slice(start, start + asker.batch_size)
        items, encoded = asker.items[part], asker.encoded[part]
        batch = llm.prepare(items, None, asker.template, encoded=encoded)
        with watched(llm, [*names, "gate", "mixed"]) as seen:
            llm.forward(batch)
        owners = batch.row_items
        gate = seen["gate"][0].cpu().double()
        for number, item in enumerate(items):
            mine = {row: batch.row_frames[row] for row, owner in enumerate(owners) if owner == number}
            weights, whole = gate[number], _heard(seen["mixed"][0], mine)
            each = torch.stack([weights[k] * _heard(seen[name][0], mine) for k, name in enumerate(names)])
            total = each.sum(dim=0)
            moving, centred = total - total.mean(dim=0), each - each.mean(dim=1, keepdim=True)
            error = float((total - whole).abs().max() / whole.abs().max())
            quantities = {
                "weight": weights,
                "share": (each * total).sum(dim=(1, 2)) / total.square().sum(),
                # A clip of one frame does not change.
                "moving": (centred * moving).sum(dim=(1, 2)) / moving.square().sum(),
                "size": each.square().sum(dim=(1, 2)).sqrt() / total.square().sum().sqrt(),
            }
            for k, stream in enumerate(streams):
                rows.append(
                    {
                        "id": item.id, "task": item.task_name, "speaker": item.speaker, "script": item.script,
                        "stream": stream, **{name: float(values[k]) for name, values in quantities.items()},
                        "error": error,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def _heard(state: Any, frames: Mapping[int, int]) -> Any:
    """Return the valid frames of a clip's windows (row: frames), float64: what stands behind it, nobody is given."""
    import torch

    return torch.cat([state[row, :count] for row, count in frames.items()]).cpu().double()
