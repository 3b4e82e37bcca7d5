"""One thing to be explained: a function, where it is, what it is compared with, and what may be taken away.

A method needs no model. It needs a function of a state, the state, a baseline of the same shape, and the cells of the
map. To take a part of the state away is to put the baseline there; which parts are left is a *presence*, a number from
0 to 1 a cell, or a *coalition* of groups of cells. Coalitions that were asked once are not asked again.

>>> import torch
>>> grid = Grid((2,), 1.0, np.ones(2, dtype=bool))
>>> both = Explained(lambda s: s.sum((1, 2)) ** 2, torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1), grid)
>>> both.value, both.without, both.coalitions(np.array([[1, 0], [0, 1]]), np.arange(2)).tolist()
(9.0, 0.0, [1.0, 4.0])
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from vpanalysis.attribution.gradients._grid import Grid
from vpanalysis.stats import FloatArray, IntArray

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Explained"]


class Explained:
    """A function of a state, to be explained.

    Parameters
    ----------
    function : callable
        States of shape (row, *cells, width) to values (row,).
    x, baseline : Tensor, shape (*cells, width)
    grid : Grid
        What the cells are.
    batch : int
        Rows that are handed to the function at once, at most.

    Attributes
    ----------
    rows : int
        How many the function has been asked for coalitions and presences.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], x: Tensor, baseline: Tensor, grid: Grid, batch: int = 32
    ) -> None:
        self.function, self.x, self.baseline, self.grid, self.batch = function, x, baseline, grid, batch
        self.rows = 0
        self._known: dict[bytes, float] = {}

    @property
    def value(self) -> float:
        """The function at `x`."""
        return self._ends[0]

    @property
    def without(self) -> float:
        """The function at the baseline."""
        return self._ends[1]

    @cached_property
    def _ends(self) -> tuple[float, float]:
        import torch

        both = torch.stack([self.x, self.baseline])
        self.rows += len(both)
        with torch.no_grad():
            # Both in one forward, where two rows are allowed.
            value, without = torch.cat([self.function(part) for part in torch.split(both, self.batch)]).tolist()
        return float(value), float(without)

    def moving(self, blocks: IntArray) -> IntArray:
        """Return blocks renumbered, so that none is left in which the state is the baseline.

        To take such a block away changes nothing. Where many are like this (the words of a question, counted from
        silence), they would be ranked among the others by rounding errors, would agree with themselves in every
        model, and would make random orders an easy control. They are joined to the first block that changes
        something, to which they add nothing. Where no block changes anything, all stay.

        Parameters
        ----------
        blocks : array, shape of the cells, int64

        Returns
        -------
        array, shape of the cells, int64
        """
        gap = (self.x - self.baseline).abs().amax(dim=-1).double().cpu().numpy()
        differs = gap > 1e-6 * float(self.x.abs().max())
        moves = np.bincount(blocks.ravel(), weights=differs.ravel()) > 0
        if not moves.any():
            return blocks
        return np.where(moves, np.cumsum(moves) - 1, 0).astype(np.int64)[blocks]

    def present(self, presence: Tensor) -> Tensor:
        """Return the function where only a part of the state is there.

        Parameters
        ----------
        presence : Tensor, shape (row, *cells)
            1 where the state is left, 0 where the baseline takes its place.

        Returns
        -------
        Tensor, shape (row,)
        """
        import torch

        out = []
        with torch.no_grad():
            for part in torch.split(presence.to(self.x.device, self.x.dtype), self.batch):
                self.rows += len(part)
                # Not the baseline plus a share of the difference: what is left whole shall be whole to the last bit.
                weight = part[..., None]
                state = weight * self.x + (1 - weight) * self.baseline
                out.append(self.function(state).to(presence.device).double())
        return torch.cat(out)

    def coalitions(self, kept: ArrayLike, groups: IntArray) -> FloatArray:
        """Return the function where only some groups of cells are left.

        Parameters
        ----------
        kept : array_like, shape (row, group), bool
        groups : array, shape of the cells, int64
            The group of every cell.

        Returns
        -------
        array, shape (row,), float64
        """
        import torch

        rows = np.asarray(kept).astype(np.bool_)
        cells = rows[:, groups.ravel()]
        keys = [row.tobytes() for row in np.packbits(cells, axis=1)]
        new = {key: number for number, key in enumerate(keys) if key not in self._known}
        if new:
            presence = torch.from_numpy(cells[list(new.values())].reshape(len(new), *groups.shape))
            found = self.present(presence.to(self.x.dtype))
            self._known |= zip(new, found.tolist(), strict=True)
        return np.array([self._known[key] for key in keys])
