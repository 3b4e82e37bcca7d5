"""``attention_mass``: where the answer position looks, layer by layer and head by head.

Why it exists. "Does it attend to the audio at all?" is the first thing that is asked of a model that reads. It can be
answered, by the attention weights from the answer position (the last token, from which the letter is predicted) to the
tokens of the clip, of the question, of the options, and of what follows them.

The idea. The weights of one query sum to one, and so do their sums over the spans of a prompt: the *mass* of a span. A
long span gets mass by being long, so ``relative`` stands beside it: mass over the share of the tokens that the span
makes up. 1 is what attention spread evenly over the prompt would give, 2 is twice that. A head's mass is averaged over
items, with an interval clustered by speaker and wording.

Fused kernels do not hand out weights. Only for this call the language model is switched to the plain ("eager")
implementation of its own class, and back afterwards, also after an error; the answers of both are compared first.

Example: a prompt of 40 audio and 10 other tokens with mass 0.4 on the audio has a relative attention of 0.5 to it.

What it cannot show: **attention is not attribution.** Weights say what is mixed into a position, not what its answer
depends on: other weights may give the same answer (Jain and Wallace 2019, "Attention is not Explanation"; Wiegreffe and
Pinter 2019, "Attention is not not Explanation"), first tokens collect mass that means nothing (Xiao et al. 2024,
"attention sinks"), and what a position holds has been mixed from others in the layers before. What an answer depends on
is for :func:`patch` and :func:`listen_vs_read`.

>>> found = attention_mass("mini-base", "mini")                          # doctest: +SKIP
>>> found.plot(span="audio")                                             # doctest: +SKIP
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
from vpanalysis.attribution._settings import asked_in_parts, check_numbers, chosen_items, interval_text, named
from vpanalysis.attribution._work import Work, identity
from vpanalysis.attribution.margins import clusters_by_name
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT, PromptTemplate
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vpanalysis.models.facade import AudioLLM

__all__ = ["MEAN_HEAD", "QUANTITIES", "AttentionResult", "attention_mass"]

ATTENDED = ("audio", "question", "options", "answer")
"""Spans that divide a prompt; see :func:`vpanalysis.attribution._spans.token_spans`."""

QUANTITIES = ("mass", "per_token", "relative")
"""Sum of the weights on a span; that over its tokens; mass over the span's share of the prompt's tokens."""

MEAN_HEAD = "mean"
"""What stands for the head in rows over all heads of a layer."""

ALL = "all"
_PART = "attention"


@dataclass(frozen=True, repr=False)
class AttentionResult(TableResult):
    """Attention from the answer position. It is not attribution: see the module.

    Attributes
    ----------
    table : DataFrame
        Over all tasks one row a layer, head (and ``"mean"`` of the heads), span and quantity of :data:`QUANTITIES`; for
        each task the mean of the heads alone. Columns task, layer (int), head (str), span, quantity, value (mean over
        items), low, high, tokens (mean length of the span), n, n_groups. Without unit.
    items : DataFrame
        One row an item, layer and span: id, task, condition, speaker, script, layer, span, mass (mean over the heads),
        tokens, length (of the whole prompt).
    settings : mapping
        ``agreement``: by how much the options' probabilities differ at most between the implementations, over the
        first batch of every chunk.
    """

    VERB, TABLES = "attention-mass", ("table", "items")

    table: pd.DataFrame
    items: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)

    def plot(self, ax: Axes | None = None, *, span: str | None = None, quantity: str = "mass") -> Axes:
        """Draw one span as a map of layers and heads, or without a span all of them by layer, with their intervals."""
        from vpanalysis.plots.attention import attention_by_layer, attention_map

        if quantity not in QUANTITIES:
            raise RunError("cannot draw attention", found=repr(quantity), allowed=QUANTITIES, word=quantity)
        rows = self.table[(self.table["quantity"] == quantity) & (self.table["task"] == ALL)]
        name = str(self.settings.get("model", ""))
        if span is None:
            mean = rows[rows["head"] == MEAN_HEAD].reset_index(drop=True)
            return attention_by_layer(mean, ax=ax, name=name, level=float(self.settings["level"]))
        if span not in ATTENDED:
            raise RunError("cannot draw attention", found=repr(span), allowed=ATTENDED, word=span)
        return attention_map(rows[rows["span"] == span].reset_index(drop=True), ax=ax, name=name)

    def _parts(self) -> tuple[pd.DataFrame, str, str]:
        rows = self.table[(self.table["head"] == MEAN_HEAD) & (self.table["task"] == ALL)]
        cells = [interval_text(*row) for row in zip(rows["value"], rows["low"], rows["high"], strict=True)]
        rows = rows.assign(cell=cells, layer=[f"text[{layer}]" for layer in rows["layer"]])
        rows = rows[rows["quantity"].isin(["mass", "relative"])]
        shown = rows.pivot(index=["quantity", "layer"], columns="span", values="cell")
        order = pd.MultiIndex.from_product([("mass", "relative"), list(dict.fromkeys(rows["layer"]))])
        shown = shown.reindex(index=order, columns=list(ATTENDED)).rename_axis(
            index=["quantity", "layer"], columns=None
        )
        title = f"AttentionResult: {self.settings.get('model')} on {self.settings.get('benchmark')}, mean of the heads"
        return (
            shown.reset_index(),
            title,
            "from the answer position; relative: 1 is even attention. Attention is not attribution.",
        )


def attention_mass(
    model: AudioLLM | str,
    benchmark: Benchmark | str,
    *,
    conditions: str | Sequence[str] = ("conflict",),
    template: PromptTemplate = DEFAULT_PROMPT,
    batch_size: int = 16,
    level: float = 0.95,
    cache: bool | str | Path | None = True,
    progress: bool = True,
) -> AttentionResult:
    """Sum the attention weights from the answer position over the spans of the prompt.

    Parameters
    ----------
    model : AudioLLM or str
        One that answers, whose text layers keep their attention under a known name.
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
    AttentionResult

    Raises
    ------
    RunError
        For a model whose attention cannot be switched or does not hand out weights, and where its answers change by
        being switched (by more than 1e-4 in float32, 0.05 in half precision); for unknown conditions and numbers out of
        range.

    Notes
    -----
    Plain forward hooks on the attention modules; of the weights only the last row is kept.
    """
    from vpanalysis.runs import listed, loaded_model

    llm, bench = loaded_model(model), listed(benchmark)
    if not llm.answers:
        raise RunError(f"cannot look at the attention of {llm.name!r}", found="an encoder that answers nothing")
    check_numbers("cannot look at the attention", level=level, batch_size=batch_size)
    items = chosen_items(bench, conditions, "cannot look at the attention")

    def looked(asker: Asker, name: str) -> pd.DataFrame:
        from vpanalysis.attribution._attended import masses

        return masses(asker, ATTENDED).assign(setting=name)

    work = Work("attention-mass", identity(llm, items, template) | {"batch_size": batch_size}, cache)
    wide = asked_in_parts(
        work, items, [_PART], lambda part: Asker(llm, part, template, batch_size), looked,
        what=f"attention in {llm.name}", batch_size=batch_size, progress=progress,
        trial=lambda asker: asker.ask(range(min(batch_size, len(asker.items)))),
    ).drop(columns="setting")  # fmt: skip
    made = {
        "model": llm.name, "benchmark": bench.name, "benchmark_sha": bench.sha, "conditions": named(conditions),
        "skipped": len(items) - wide["id"].nunique(), "agreement": float(wide["apart"].max()),
        "level": level, "batch_size": batch_size, "weights": llm.weights_sha, "template": template.sha,
    }  # fmt: skip
    return AttentionResult(_table(wide, bench.tasks, level), _long(wide), made)


def _places(wide: pd.DataFrame) -> list[tuple[int, str, str]]:
    """Return layers, heads and spans of the columns ``layer/head/span``, in order."""
    out = []
    for column in wide.columns:
        if "/" in column:
            layer, head, span = column.split("/")
            out.append((int(layer), head, span))
    return out


def _table(wide: pd.DataFrame, tasks: Sequence[str], level: float) -> pd.DataFrame:
    places = _places(wide)
    heads = list(dict.fromkeys(head for _, head, _ in places))
    layers = list(dict.fromkeys(layer for layer, _, _ in places))
    rows: list[dict[str, Any]] = []
    for task in (ALL, *tasks):
        part = wide if task == ALL else wide[wide["task"] == task]
        if part.empty:
            continue
        clusters = clusters_by_name(part)
        length = part["length"].to_numpy(dtype=np.float64)
        for layer in layers:
            for span in ATTENDED:
                tokens = part[f"tokens {span}"].to_numpy(dtype=np.float64)
                each = part[[f"{layer}/{head}/{span}" for head in heads]].to_numpy(dtype=np.float64)
                named = {MEAN_HEAD: each.mean(axis=1)}
                if task == ALL:
                    named |= {head: each[:, k] for k, head in enumerate(heads)}
                for head, mass in named.items():
                    per_token = np.divide(mass, tokens, out=np.full_like(mass, np.nan), where=tokens > 0)
                    for quantity, values in (
                        ("mass", mass), ("per_token", per_token), ("relative", per_token * length),
                    ):  # fmt: skip
                        # A template may put nothing into a span.
                        if np.isnan(values).any():
                            continue
                        found = stats.mean(values, clusters, level=level)
                        rows.append(
                            {
                                "task": task, "layer": layer, "head": head, "span": span, "quantity": quantity,
                                "value": found.value, "low": found.low, "high": found.high,
                                "tokens": float(tokens.mean()), "n": found.n, "n_groups": found.n_groups,
                            }
                        )  # fmt: skip
    return pd.DataFrame(rows)


def _long(wide: pd.DataFrame) -> pd.DataFrame:
    """Return one row an item, layer and span, with the mean over heads."""
    places = _places(wide)
    known = ["id", "task", "condition", "speaker", "script"]
    parts = []
    for layer in dict.fromkeys(layer for layer, _, _ in places):
        for span in ATTENDED:
            heads = [f"{a}/{head}/{b}" for a, head, b in places if (a, b) == (layer, span)]
            parts.append(
                wide[known].assign(layer=layer, span=span, mass=wide[heads].mean(axis=1),
                                   tokens=wide[f"tokens {span}"], length=wide["length"])
            )  # fmt: skip
    return pd.concat(parts, ignore_index=True)
