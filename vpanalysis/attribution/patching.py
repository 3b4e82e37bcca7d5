"""``patch``: put what one clip left inside the model into the run of its twin, and see how much of the answer follows.

Why it exists. A probe finds the voice in a layer; that the answer was made from it there is another claim. Twins make
it testable. Two clips differ in the voice alone (or in the words alone) and the model answers differently. Run both;
run the second again with the states of the first written over a single layer and span of tokens. What part of the
difference in margin comes back is what passes through that place.

The idea (Vig et al. 2020, "Investigating gender bias in language models using causal mediation analysis"; Meng et al.
2022, "Locating and editing factual associations in GPT"; directions as in Heimersheim and Nanda 2024, "How to use and
interpret activation patching"). Both clips are asked the conflict item's question, so their prompts agree token by
token::

    swap      clean run                        corrupted run
    words     congruent twin: words right      conflict item: the words claim something else
    voice     conflict item: voice as it is    voice-swap twin: the voice is what the words claim

``denoise`` writes states of the clean run into the corrupted one and asks what suffices; ``noise`` writes corrupted
states into the clean run and asks what is needed. In both, with margins of the truth over the foils::

    recovered = mean(patched - base) / mean(source - base)

is a ratio of means over pairs, 0 where the patch did nothing and 1 where it did all; its interval is Fieller's,
clustered by speaker and wording. Where the twins' difference cannot be told from zero, the cell is empty and says so: a
model that ignores the voice has no voice to recover.

Beside the exact map stands the first-order one (Nanda 2023, "Attribution patching"; Syed et al. 2023, "Attribution
patching outperforms automated circuit discovery"): the gradient of the base's margin times the difference of states,
one backward pass for the whole map. :meth:`PatchResult.first_order` says how far it is from what the patches did.

What it cannot show: a place that recovers the effect carries it; that nothing else could is not shown by denoising, and
backup paths hide from noising. Clips of unlike length are cut or stretched to fit, which no clip that the model was
trained on was. Shares of different places do not add up to one.

>>> found = patch("mini-pclm-dpo", "mini", swap="voice", pairs=100)       # doctest: +SKIP
>>> found.plot()                                                          # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from vpanalysis._results import TableResult
from vpanalysis.attribution._recovery import ALL, first_order_table, recovery_table
from vpanalysis.attribution._settings import check_numbers, named
from vpanalysis.attribution._spans import ALIGNMENTS, SPANS
from vpanalysis.attribution._work import Work, identity, items_sha, say_cost
from vpanalysis.attribution.conditions import twin_of
from vpanalysis.benchmark.items import Benchmark, Item
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT, PromptTemplate
from vpanalysis.capture.sites import SiteSelector, select_sites
from vpanalysis.errors import AudioError, RunError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vpanalysis.attribution._patched import Cell, PairBatch
    from vpanalysis.models.facade import AudioLLM

__all__ = ["DIRECTIONS", "PAIRS", "SWAPS", "PatchResult", "patch", "twins"]

SWAPS = {"words": "congruent", "voice": "voice-swap"}
"""What is swapped, and the condition of the conflict item's twin."""

DIRECTIONS = ("denoise", "noise")

PAIRS = (
    "id", "task", "speaker", "script", "site", "span", "base", "source", "patched", "linear",
)  # fmt: skip
"""Columns of :attr:`PatchResult.pairs`; margins in nats, ``linear`` the first-order estimate of ``patched - base``."""


@dataclass(frozen=True, repr=False)
class PatchResult(TableResult):
    """What came back, by place.

    Attributes
    ----------
    table : DataFrame
        One row a task (and one for all of them, ``"all"``), site and span: recovered (a share) with its interval; moved
        and total (mean ``patched - base`` and ``source - base``, nats) with theirs; linear (the share by the
        first-order estimate, NaN where there is none); reason (why a cell is empty, else ""); n, n_groups, group.
    pairs : DataFrame
        One row a pair, site and span, columns :data:`PAIRS`.
    settings : mapping
    """

    VERB, TABLES, MAX_ROWS = "patch", ("table", "pairs"), 80

    table: pd.DataFrame
    pairs: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sites(self) -> list[str]:
        """Places that were patched, from waveform to answer."""
        return list(dict.fromkeys(self.table["site"]))

    @property
    def spans(self) -> list[str]:
        """Spans that were patched."""
        return [span for span in SPANS if (self.table["span"] == span).any()]

    def first_order(self) -> pd.DataFrame:
        """Return the first-order estimate against the exact map.

        Returns
        -------
        DataFrame
            One row a task, site and span: exact and linear (means, nats), mean_absolute_error (nats, over pairs),
            relative_error (over the mean absolute effect), correlation (over pairs), n. Empty without estimates.
        """
        return first_order_table(self.pairs)

    def plot(self, ax: Axes | None = None, *, task: str = ALL) -> Axes:
        """Draw the recovered share by site and span, of one task or of all."""
        from vpanalysis.plots.patching import patch_map

        return patch_map(self._of_task(task), ax=ax, title=self._title())

    def _of_task(self, task: str) -> pd.DataFrame:
        have = list(dict.fromkeys(self.table["task"]))
        if task not in have:
            raise RunError("cannot draw the patches", found=repr(task), allowed=have, word=task)
        return self.table[self.table["task"] == task].reset_index(drop=True)

    def _title(self) -> str:
        s = self.settings
        return f"{s.get('model')}: {s.get('swap')} patched, {s.get('direction')}"

    def _parts(self) -> tuple[pd.DataFrame, str, str]:
        rows = self.table[self.table["task"] == ALL]
        shares = [
            "–" if pd.isna(v) else f"{v:.2f} [{lo:.2f}, {hi:.2f}]"
            for v, lo, hi in zip(rows["recovered"], rows["low"], rows["high"], strict=True)
        ]
        shown = rows.assign(cell=shares).pivot(index="site", columns="span", values="cell")
        shown = shown.reindex(index=self.sites, columns=self.spans).rename_axis(columns=None)
        first = rows.iloc[0]
        note = (
            f"recovered share of {first['total']:+.2f} [{first['total_low']:+.2f}, {first['total_high']:+.2f}] nats "
            f"between the runs, {first['n']} pairs, ratio of means"
        )
        reasons = sorted({reason for reason in rows["reason"] if reason})
        return shown, f"PatchResult: {self._title()}", "; ".join([note, *reasons])


def twins(benchmark: Benchmark, swap: str) -> list[tuple[Item, Item]]:
    """Return the pairs of a swap: the clean item and the corrupted one, both as the conflict item asks.

    Parameters
    ----------
    benchmark : Benchmark
        With conflict items that have foils. Twins are looked for in it; those of VoxParadox-mini are made.
    swap : str
        Of :data:`SWAPS`.

    Raises
    ------
    RunError
        For an unknown swap, and where no item has a twin.
    """
    if swap not in SWAPS:
        raise RunError("cannot patch", found=f"swap={swap!r}", allowed=list(SWAPS), word=swap)
    wanted = SWAPS[swap]
    have = {item.cell: item for item in benchmark if item.condition == wanted and item.cell is not None}
    out = []
    for item in benchmark:
        if item.condition != "conflict" or not item.foils or item.truth in item.foils:
            continue
        twin = twin_of(item, wanted, have)
        if twin is not None:
            # One question for both: the options keep their order and the margin its truth and foils.
            other = replace(item, audio=twin.audio, transcript=twin.transcript, voice=twin.voice)
            out.append((other, item) if swap == "words" else (item, other))
    if not out:
        raise RunError("cannot patch", found=f"no conflict item of {benchmark.name!r} with a {wanted} twin",
                       fix="hand over pairs of items")  # fmt: skip
    return out


def patch(
    model: AudioLLM | str,
    benchmark: Benchmark | str | None = None,
    *,
    swap: str = "voice",
    sites: SiteSelector = None,
    spans: str | Sequence[str] = ("audio", "question", "options", "answer"),
    direction: str = "denoise",
    pairs: int | Sequence[tuple[Item, Item]] = 100,
    align: str = "frames",
    heads: bool = False,
    first_order: bool = True,
    template: PromptTemplate = DEFAULT_PROMPT,
    batch_size: int = 16,
    level: float = 0.95,
    cache: bool | str | Path | None = True,
    progress: bool = True,
) -> PatchResult:
    """Write states of one clip's run into another's, place by place, and measure what part of the answer follows.

    Parameters
    ----------
    model : AudioLLM or str
        What :func:`vpanalysis.load_model` returns or takes; one that answers.
    benchmark : Benchmark or str, optional
        What :func:`vpanalysis.load_benchmark` returns or takes; not needed where `pairs` are handed over.
    swap : str
        ``"voice"`` or ``"words"``: what differs between the twins. A name only where `pairs` are handed over.
    sites : str, sequence of str, callable or None
        Which places (see :func:`vpanalysis.capture.select_sites`); default all but the gate and the options' scores.
        Patching ``encoder[i]`` changes all that follows from it; ``tower`` only what the tower hands on, not the
        streams of earlier layers.
    spans : str or sequence of str
        ``"audio"``, ``"question"`` (all before the options but the audio), ``"options"``, ``"answer"`` (all behind
        them), ``"last"`` (the answer position alone), ``"all"``. For the sites of the text; those before have audio
        only.
    direction : str
        ``"denoise"`` or ``"noise"``.
    pairs : int or sequence of (Item, Item)
        How many pairs, spread evenly over the tasks; or any pairs of a clean and a corrupted item. The second's clip is
        then asked the first's question, and the margin is that of the first's truth and foils.
    align : str
        How a clip is laid over one of another length: ``"frames"`` (frame by frame, as far as both go),
        ``"resample"`` (stretched linearly) or ``"mean"`` (its mean over time in every frame).
    heads : bool
        Also patch every attention head of the chosen text layers by itself.
    first_order : bool
        Also estimate every cell from one backward pass.
    template : PromptTemplate
    batch_size : int
        Pairs that are run together.
    level : float
        Of the intervals.
    cache : bool, str, Path or None
        Where finished batches are kept, so that a second call is free and an interrupted one goes on: the default
        folder (True), another one, or nowhere (False, None).
    progress : bool
        Print what it will cost, and show a bar.

    Returns
    -------
    PatchResult

    Raises
    ------
    RunError
        For unknown names, models that answer nothing, or without pairs.

    Notes
    -----
    Nothing here is random: the same call gives the same numbers, bit for bit.
    """
    from vpanalysis.runs import listed, loaded_model

    llm = loaded_model(model)
    if not llm.answers:
        raise RunError(f"cannot patch {llm.name!r}", found="an encoder that answers nothing")
    check_numbers("cannot patch", level=level, batch_size=batch_size)
    for name, value, allowed in (("direction", direction, DIRECTIONS), ("align", align, ALIGNMENTS)):
        if value not in allowed:
            raise RunError("cannot patch", found=f"{name}={value!r}", allowed=allowed, word=value)
    cells = _cells(llm, sites, named(spans), heads)
    name, sha = "pairs", None
    if isinstance(pairs, (int, Integral)):
        if pairs < 1 or benchmark is None:
            raise RunError("cannot patch", found="no pairs", allowed="a benchmark and a number of pairs, or pairs")
        bench = listed(benchmark)
        asked = [item for item in bench if item.condition == "conflict"]
        few = {i.id for i in Benchmark(asked, name=bench.name, source=bench.source).select(limit=int(pairs))}
        # Twins stay, so that those of the benchmark's own are found.
        kept = [item for item in bench if item.condition != "conflict" or item.id in few]
        chosen = twins(Benchmark(kept, name=bench.name, source=bench.source), swap)
        name, sha = bench.name, bench.sha
    else:
        chosen = [_asked_alike(clean, other) for clean, other in pairs]
        if not chosen:
            raise RunError("cannot patch", found="no pairs", allowed="pairs of a clean and a corrupted item")
    how: dict[str, Any] = {"direction": direction, "align": align, "first_order": first_order, "rows": batch_size}
    how["cells"] = [[cell.site, cell.span] for cell in cells]
    both = [item for pair in chosen for item in pair]
    work = Work("patch", {**identity(llm, both, template), **how}, cache)
    table, skipped = _run(llm, chosen, cells, direction, align, first_order, template, batch_size, work, progress)
    settings = {
        "model": llm.name, "benchmark": name, "benchmark_sha": sha, "swap": swap, "direction": direction,
        "align": align, "heads": heads, "level": level, "skipped": skipped, "weights": llm.weights_sha,
        "places": how["cells"], "first_order": first_order, "batch_size": batch_size, "items_sha": items_sha(both),
        "template": template.sha,
    }  # fmt: skip
    return PatchResult(recovery_table(table, level=level), table, settings)


def _cells(llm: AudioLLM, sites: SiteSelector, spans: Sequence[str], heads: bool) -> list[Cell]:
    from vpanalysis.attribution._hooks import heads_of
    from vpanalysis.attribution._patched import Cell

    for span in spans:
        if span not in SPANS:
            raise RunError("cannot patch", found=f"span {span!r}", allowed=SPANS, word=span)
    available = [site for site in llm.sites if site not in ("gate", "options")]
    if llm.frontend.flat:
        # One sequence for all clips: only what is handed on clip by clip can be told apart.
        available = [site for site in available if site == "tower" or site.startswith("text")]
    chosen = select_sites(available, sites)
    out = []
    for site in chosen:
        if not site.startswith("text"):
            out += [Cell(site, "audio")] if {"audio", "all"} & set(spans) else []
            continue
        out += [Cell(site, span) for span in spans]
        if heads and site != "text.embed":
            out += [Cell(head, span) for head in heads_of(llm, site) for span in spans]
    if not out:
        raise RunError("cannot patch", found=f"no site of {chosen} with {list(spans)}")
    return out


def _asked_alike(clean: Item, other: Item) -> tuple[Item, Item]:
    """Return a pair in which the second clip is asked the first's question."""
    if not clean.foils or clean.truth in clean.foils:
        raise RunError("cannot patch", found=f"item {clean.id!r} without foils", allowed="clean items with foils")
    return clean, replace(clean, audio=other.audio, transcript=other.transcript, voice=other.voice)


def _run(
    llm: AudioLLM, chosen: Sequence[tuple[Item, Item]], cells: Sequence[Cell], direction: str, align: str,
    first_order: bool, template: PromptTemplate, batch_size: int, work: Work, progress: bool,
) -> tuple[pd.DataFrame, int]:  # fmt: skip
    """Return the table of pairs, and how many pairs had an unusable clip."""
    # Here, so that results are read and drawn without loading torch.
    from vpanalysis.attribution._patched import PairBatch

    order = work.part("order", lambda: _order(llm, chosen, direction))["pair"].tolist()
    if not order:
        raise RunError(f"cannot patch {llm.name!r}", found=f"no usable clips among {len(chosen)} pairs")
    # Sites whose state is flat have no gradient that could be told apart by clip.
    smooth = [cell for cell in cells if first_order and not (llm.frontend.flat and cell.site == "tower")]
    starts = list(range(0, len(order), batch_size))
    parts = [work.read(f"pairs {start}") for start in starts]
    left = [number for number, part in enumerate(parts) if part is None]
    with tqdm(total=len(left) * len(cells), desc="patches", unit="run", disable=not progress or not left) as bar:
        for number in left:
            pairs = [chosen[at] for at in order[starts[number] : starts[number] + batch_size]]
            items = [clean for clean, _ in pairs]
            waves = [(one.audio.load(), other.audio.load()) for one, other in (_roles(p, direction) for p in pairs)]
            batch = PairBatch(llm, items, [w for w, _ in waves], [w for _, w in waves], template, cells, align)
            if number == left[0]:
                say_cost(
                    progress, f"patch {llm.name}, {len(order)} pairs at {len(cells)} places",
                    forwards=len(left) * (len(cells) + 2), seconds=len(left) * batch.seconds, held=batch.held_bytes,
                    done=f"{len(starts) - len(left)} of {len(starts)} batches are there",
                )  # fmt: skip
            work.write(f"pairs {starts[number]}", made := _patched_batch(batch, cells, smooth, bar))
            parts[number] = made
    table = pd.concat([part for part in parts if part is not None], ignore_index=True)
    # Site by site over all pairs, in the order of the model.
    place = {(cell.site, cell.span): number for number, cell in enumerate(cells)}
    places = [place[key] for key in zip(table["site"], table["span"], strict=True)]
    return table.iloc[np.argsort(places, kind="stable")].reset_index(drop=True), len(chosen) - len(order)


def _roles(pair: tuple[Item, Item], direction: str) -> tuple[Item, Item]:
    """Return the item of the run that is patched, and of the run that lends its states."""
    clean, corrupted = pair
    return (corrupted, clean) if direction == "denoise" else (clean, corrupted)


def _order(llm: AudioLLM, chosen: Sequence[tuple[Item, Item]], direction: str) -> pd.DataFrame:
    """Return the usable pairs by the length of the clip that is patched, so that a batch has little padding."""
    lengths = []
    for number, pair in enumerate(chosen):
        base, source = _roles(pair, direction)
        try:
            waves = [base.audio.load(), source.audio.load()]
            llm.layout(waves)  # refuses what is too short or too long for this encoder
            lengths.append((len(waves[0]), number))
        except AudioError:
            continue
    return pd.DataFrame({"pair": [number for _, number in sorted(lengths)]}, dtype=np.int64)


def _patched_batch(batch: PairBatch, cells: Sequence[Cell], smooth: Sequence[Cell], bar: tqdm[Any]) -> pd.DataFrame:
    """Return the rows of a batch of pairs, cell by cell."""
    items = batch.items
    linear = dict(batch.first_order(smooth))
    parts = []
    for cell in cells:
        after = batch.margins(batch.base_batch, batch.patched(cell))
        bar.update()
        known = {
            "id": [item.id for item in items], "task": [item.task_name for item in items],
            "speaker": [item.speaker for item in items], "script": [item.script for item in items],
            "site": cell.site, "span": cell.span, "base": batch.base_margins, "source": batch.source_margins,
            "patched": after, "linear": linear.get(cell, np.full(len(items), np.nan)),
        }  # fmt: skip
        parts.append(pd.DataFrame(known, columns=list(PAIRS)))
    return pd.concat(parts, ignore_index=True)
