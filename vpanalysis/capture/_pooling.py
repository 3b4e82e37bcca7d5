"""Reduction on the device: made once a forward for all sites of a clock, and blind to padding.

Why it exists. Sixty layers of one forward have the same valid frames. What says which they are should go to the device
once, not sixty times; and a copy of a state, in float32 and with zeros on its padding, costs more memory traffic than
all the sums.

The idea. A `Pooling` holds what reducing needs of a `Spans` at one width on one device. Sums run over valid frames
only, so padding may hold anything, even NaN. How they are taken depends on where: where all rows are equally long, in
one go; on the CPU, row by row, which copies nothing; on a device, where every launch costs, the frames that all rows
share in one go and the ragged rest with zeros on its padding. All sum the state's own values in float32.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from vpanalysis.capture.reducers import Spans

__all__ = ["Pooling"]


class Pooling:
    """Reduces states of one width on one device.

    Parameters
    ----------
    spans : Spans
        Which frames are valid.
    width : int
        Frames of a row, with padding.
    device : torch.device
        Where the states are.
    """

    def __init__(self, spans: Spans, width: int, device: torch.device) -> None:
        self.spans, self.width, self.device = spans, width, device
        right = spans.padding == "right"
        self._bounds = [(0, n) if right else (width - n, width) for n in spans.lengths]
        """First valid frame of each row, and the one after the last."""
        longest, common = max(spans.lengths, default=0), min(spans.lengths, default=0)
        self._even = longest == common
        self._shared = slice(0, common) if right else slice(width - common, width)
        """Frames that are valid in every row."""
        self._ragged = slice(common, longest) if right else slice(width - longest, width - common)
        """Frames that are valid in some rows."""
        self._one_row_an_item = spans.owner == tuple(range(spans.items))
        self._none_empty = all(spans.totals)
        self._weights: dict[int, Tensor] = {}

    # Sums -------------------------------------------------------------------------------------------------------------

    def mean(self, state: Float[Tensor, "rows frames width"]) -> Float[Tensor, "items width"]:
        """Return the mean over the valid frames of each item; NaN where there are none."""
        return self._by_item(self._sums(state, None)[:, 0]) / self._totals[:, None]

    def segments(self, state: Float[Tensor, "rows frames width"], parts: int) -> Float[Tensor, "items parts width"]:
        """Return the means of equal parts of the valid frames of each item; NaN where there are none."""
        if parts not in self._weights:
            self._weights[parts] = torch.from_numpy(self.spans.segment_weights(parts, self.width)).to(self.device)
        pooled = self._by_item(self._sums(state, self._weights[parts]))
        return pooled if self._none_empty else torch.where(self._totals[:, None, None] > 0, pooled, torch.nan)

    def _sums(
        self, state: Float[Tensor, "rows frames width"], weights: Float[Tensor, "rows parts frames"] | None
    ) -> Float[Tensor, "rows parts width"]:
        if self._even:
            return _weighted(state, weights, self._shared)
        if self.device.type == "cpu":
            return self._sums_by_row(state, weights)
        return self._sums_masked(state, weights)

    def _sums_by_row(self, state: Tensor, weights: Tensor | None) -> Tensor:
        rows = [
            _weighted(state[r : r + 1], None if weights is None else weights[r : r + 1], slice(start, stop))
            for r, (start, stop) in enumerate(self._bounds)
        ]
        return torch.cat(rows)

    def _sums_masked(self, state: Tensor, weights: Tensor | None) -> Tensor:
        ragged = torch.where(self._valid_ragged, state[:, self._ragged], 0.0)
        rest = None if weights is None else weights[:, :, self._ragged]
        return _weighted(state, weights, self._shared) + _weighted(ragged, rest, slice(None))

    @cached_property
    def _valid_ragged(self) -> Tensor:
        valid = self.spans.valid(self.width)[:, self._ragged, None]
        return torch.from_numpy(valid).to(self.device)

    @cached_property
    def _totals(self) -> Tensor:
        return torch.tensor(self.spans.totals, device=self.device, dtype=torch.float32)

    def _by_item(self, rows: Tensor) -> Tensor:
        """Sum the rows of one item."""
        if self._one_row_an_item:
            return rows
        out = torch.zeros((self.spans.items, *rows.shape[1:]), dtype=rows.dtype, device=self.device)
        return out.index_add_(0, self._owner, rows)

    @cached_property
    def _owner(self) -> Tensor:
        return torch.tensor(self.spans.owner, device=self.device)

    # Frames -----------------------------------------------------------------------------------------------------------

    def frames(self, state: Float[Tensor, "rows frames width"]) -> list[Any]:
        """Return the valid frames of each item, its windows one after the other."""
        parts: list[list[Tensor]] = [[] for _ in range(self.spans.items)]
        for row, (item, (start, stop)) in enumerate(zip(self.spans.owner, self._bounds, strict=True)):
            # A copy, so that the padded batch is not kept alive by a view of it.
            parts[item].append(state[row, start:stop].to(torch.float32, copy=True))
        return [torch.cat(p) if len(p) != 1 else p[0] for p in parts]

    def last(self, state: Float[Tensor, "rows frames width"]) -> Float[Tensor, "items width"]:
        """Return the last valid frame of each item; NaN where there is none."""
        rows, frames = self._last_places
        picked = state[rows, frames].float()
        return picked if self._none_empty else torch.where(self._totals[:, None] > 0, picked, torch.nan)

    @cached_property
    def _last_places(self) -> tuple[Tensor, Tensor]:
        # Of several windows the last one that has frames.
        places = [(0, 0)] * self.spans.items
        for row, (item, (start, stop)) in enumerate(zip(self.spans.owner, self._bounds, strict=True)):
            if stop > start:
                places[item] = (row, stop - 1)
        rows, frames = torch.tensor(places, device=self.device).reshape(-1, 2).unbind(dim=1)
        return rows, frames


def _weighted(
    state: Float[Tensor, "rows frames width"], weights: Float[Tensor, "rows parts frames"] | None, which: slice
) -> Float[Tensor, "rows parts width"]:
    """Return weighted sums over some frames, in float32; without weights every frame counts once."""
    chosen = state[:, which]
    if weights is None:
        return chosen.sum(dim=1, keepdim=True, dtype=torch.float32)
    return torch.bmm(weights[:, :, which], chosen.float())
