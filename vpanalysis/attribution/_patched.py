"""One batch of pairs under every patch: the base run, the source run, and the base with states of the source in it.

The clips of both are encoded once. A patch behind the encoder costs one run of the language model; a patch inside the
encoder costs the encoder as well, since everything behind the patch follows from it. The audio tower's output is not
hooked but edited where it is handed on, so that the streams of earlier layers stay what they were.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vpanalysis.attribution._hooks import Positions, overwritten, watched
from vpanalysis.attribution._margin import margins_of_logits
from vpanalysis.attribution._spans import aligned, heard_only, token_spans
from vpanalysis.attribution.margins import margin
from vpanalysis.stats import FloatArray

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Item
    from vpanalysis.benchmark.prompts import PromptTemplate
    from vpanalysis.models.batch import Batch, EncodedClip
    from vpanalysis.models.facade import AudioLLM

__all__ = ["Cell", "PairBatch"]


@dataclass(frozen=True)
class Cell:
    """A place and a set of tokens that are patched together."""

    site: str
    span: str

    @property
    def in_encoder(self) -> bool:
        """Whether everything behind it has to be encoded again."""
        return self.site.startswith("encoder")


class PairBatch:
    """Pairs of clips that are asked the same question, run once each and kept.

    Parameters
    ----------
    llm : AudioLLM
    items : sequence of Item
        The questions; margins are of their truth against their foils.
    base, source : sequence of array, each of shape (samples,), float32, 16 kHz
        The clips of the run that is patched, and of the run that lends its states.
    template : PromptTemplate
    cells : sequence of Cell
    align : str
        Of ``ALIGNMENTS``.

    Attributes
    ----------
    base_margins, source_margins : array, shape (pair,), float64, nats
    seconds : float
        Estimate for all cells, from the two runs that were made.
    held_bytes : int
        Of the states that are kept of both.
    """

    def __init__(
        self, llm: AudioLLM, items: Sequence[Item], base: Sequence[Any], source: Sequence[Any],
        template: PromptTemplate, cells: Sequence[Cell], align: str,
    ) -> None:  # fmt: skip
        self.llm, self.items, self.waves, self.template, self.align = llm, list(items), list(base), template, align
        self.cells = list(cells)
        sites = list(dict.fromkeys(cell.site for cell in cells))
        inside = [site for site in sites if site.startswith("encoder")]
        behind = [site for site in sites if site not in inside and site != "tower"]
        keep = ("tower", *llm.stream_inputs)
        started = time.perf_counter()
        with watched(llm, inside) as seen:
            self.source_clips = llm.encode(source, keep)
        self.source_states: dict[str, list[Tensor]] = dict(seen)
        self.source_batch = self._prepared(self.source_clips)
        with watched(llm, behind) as seen:
            self.source_logits = llm.forward(self.source_batch)
        self.source_states |= seen
        halfway = time.perf_counter()
        self.base_clips = llm.encode(self.waves, keep)
        encoded = time.perf_counter()
        self.base_batch = self._prepared(self.base_clips)
        with watched(llm, behind) as seen:
            self.base_logits = llm.forward(self.base_batch)
        self.base_states: dict[str, list[Tensor]] = dict(seen)
        ended = time.perf_counter()
        self.seconds = ended - started + (ended - encoded) * len(cells)
        self.seconds += (encoded - halfway) * sum(cell.in_encoder for cell in cells)
        states = [*self.source_states.values(), *self.base_states.values()]
        self.held_bytes = sum(state.numel() * state.element_size() for kept in states for state in kept)
        self.source_margins = self.margins(self.source_batch, self.source_logits)
        self.base_margins = self.margins(self.base_batch, self.base_logits)
        self._spans = token_spans(llm, self.base_batch, template)
        self._source_spans = token_spans(llm, self.source_batch, template)

    def _prepared(self, clips: Sequence[EncodedClip]) -> Batch:
        return self.llm.prepare(self.items, None, self.template, encoded=clips)

    def margins(self, batch: Batch, logits: Tensor) -> FloatArray:
        """Return the margin of every question's truth, in nats."""
        rows = self.llm.option_logprobs(batch, logits)
        pairs = zip(rows, self.items, strict=True)
        return np.array([margin(row.numpy(), item.choices, item.truth, item.foils) for row, item in pairs])

    def patched(self, cell: Cell) -> Tensor:
        """Return the logits of the base under a patch, shape (pair, vocabulary)."""
        if cell.site == "tower":
            return self.llm.forward(self._prepared(self._with_tower()))
        rows, columns, values, _ = self._written(cell, self.base_batch)
        if cell.in_encoder:
            with overwritten(self.llm, cell.site, rows, columns, values):
                clips = self.llm.encode(self.waves)
            return self.llm.forward(self._prepared(clips))
        # Before any layer has mixed tokens, the texts of twins have the same states: writing them would change nothing.
        if torch.equal(self.base_states[cell.site][0][rows, columns], values):
            return self.base_logits
        with overwritten(self.llm, cell.site, rows, columns, values):
            return self.llm.forward(self.base_batch)

    def _with_tower(self) -> list[EncodedClip]:
        out = []
        for number, (mine, other) in enumerate(zip(self.base_clips, self.source_clips, strict=True)):
            state = mine.streams["tower"].clone()
            where = torch.nonzero(self.base_batch.layout.is_clip(number)).flatten().to(state.device)
            there = self.source_batch.layout.is_clip(number).to(state.device)
            heard = aligned(other.streams["tower"][there], len(where), self.align)
            state[where[: len(heard)]] = heard
            out.append(replace(mine, streams={**mine.streams, "tower": state}))
        return out

    def _written(self, cell: Cell, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        def places(which: Batch, spans: Mapping[str, Tensor]) -> Positions:
            audio = spans["audio"]
            chosen = spans[cell.span] & (heard_only(which.layout, audio) | ~audio)
            return Positions.of_site(cell.site, which.layout, chosen, audio)

        mine, theirs = places(batch, self._spans), places(self.source_batch, self._source_spans)
        states = self.source_states.get(cell.site)
        if states is None:
            # The tower as the encoder hands it on: one row a clip.
            layout = self.source_batch.layout
            states = [
                clip.streams["tower"][layout.is_clip(number).to(clip.streams["tower"].device)][None]
                for number, clip in enumerate(self.source_clips)
            ]
            theirs = Positions.of_windows([(state.shape[1],) for state in states])
        return mine.written_from(theirs, states, self.align)

    def first_order(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, FloatArray]]:
        """Yield what each patch would move if the margin were linear in the state, in nats, shape (pair,).

        One forward from the waveform and one backward for all cells.
        """
        sites = list(dict.fromkeys(cell.site for cell in cells))
        if not sites:
            return
        batch = self.llm.prepare(self.items, self.waves, self.template)
        with torch.enable_grad():
            with watched(self.llm, sites, grad=True) as seen:
                logits = self.llm._run(batch, None, 1)[:, -1].float()
            total = margins_of_logits(self.llm, self.items, logits).sum()
            states = [seen[site][0] for site in sites]
            slopes = torch.autograd.grad(total, states, allow_unused=True)
        known = {site: (state.detach(), slope) for site, state, slope in zip(sites, states, slopes, strict=True)}
        for cell in cells:
            state, slope = known[cell.site]
            moved = np.zeros(len(self.items))
            if slope is not None:
                rows, columns, values, owners = self._written(cell, batch)
                at = rows.to(state.device), columns.to(state.device)
                gap = values.to(state.device).float() - state[at].float()
                each = (gap * slope[at].float()).sum(dim=-1).double().cpu().numpy()
                np.add.at(moved, owners.numpy(), each)
            yield cell, moved
