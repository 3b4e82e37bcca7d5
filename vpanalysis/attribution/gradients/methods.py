"""Four ways to divide a difference in margin over the cells of a state, all by Captum.

All explain the same thing: how the margin comes from what it is at the baseline, ``f(b)``, to what it is at the state,
``f(x)``. They differ in what they do in between::

    integrated_gradients    the gradient along the straight line from b to x, times x - b (Sundararajan, Taly, Yan 2017)
    gradient_x_activation   the gradient at x alone, times x - b (Shrikumar et al. 2016; with b = 0 the classic)
    occlusion               b in one window at a time; what f loses by it (Zeiler and Fergus 2014)
    shapley                 what a segment adds to whichever others are there, on average over all orders
                            (Shapley 1953; sampled orders: Castro, Gomez and Tejada 2009)

Integrated gradients and Shapley values add up to ``f(x) - f(b)``; what is missing, ``f(x) - f(b) - sum``, is the error
of the integral, called delta. The two others need not add up, and their gap says how far from linear f is.

Values are returned for cells: the sum of a window or segment is divided evenly over its cells, so that every map adds
up to what the method handed out, and maps of different methods can be laid side by side.

What they cannot show: a cell with a large value is one without which the margin would be another, given this baseline
and everything else as it was. Two cells that say the same share what either could do alone.

>>> import torch
>>> w = torch.tensor([[2.0], [-1.0]])
>>> grid = Grid((2,), 1.0, np.ones(2, dtype=bool))
>>> line = Explained(lambda s: (s * w).sum((1, 2)), torch.ones(2, 1), torch.zeros(2, 1), grid)
>>> [METHODS[name](line).values.round(6).tolist() for name in METHODS]
[[2.0, -1.0], [2.0, -1.0], [2.0, -1.0], [2.0, -1.0]]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from vpanalysis.attribution.gradients._explained import Explained
from vpanalysis.attribution.gradients._grid import Grid, scattered
from vpanalysis.stats import FloatArray, IntArray

__all__ = [
    "COMPLETE",
    "METHODS",
    "Grid",
    "Made",
    "gradient_x_activation",
    "integrated_gradients",
    "occlusion",
    "shapley",
]

COMPLETE = ("integrated_gradients", "shapley")
"""Methods whose values add up to the difference from the baseline."""

EXACT_UP_TO = 6
"""Players up to which all orders are counted."""


@dataclass(frozen=True)
class Made:
    """What a method found.

    Attributes
    ----------
    values : array, shape of the cells, float64
        In nats; their sum is what the method handed out.
    error : float
        Largest standard error of a segment's value, where orders were sampled; else 0.
    """

    values: FloatArray
    error: float = 0.0


def integrated_gradients(e: Explained, *, n_steps: int = 50, **_others: Any) -> Made:
    """Integrate the gradient along the line from the baseline (Captum's, by Gauss and Legendre's rule).

    Parameters
    ----------
    e : Explained
        At most ``e.batch`` steps are held at once, however many there are.
    n_steps : int
    """
    from captum.attr import IntegratedGradients

    made = IntegratedGradients(e.function).attribute(
        e.x[None], baselines=e.baseline[None], n_steps=n_steps, internal_batch_size=e.batch
    )
    return Made(_summed(made))


def gradient_x_activation(e: Explained, **_others: Any) -> Made:
    """Multiply the gradient at the state with its difference from the baseline."""
    from captum.attr import InputXGradient

    # As a function of the difference, of which a baseline of zero makes the state itself.
    made = InputXGradient(lambda gap: e.function(e.baseline + gap)).attribute((e.x - e.baseline)[None].requires_grad_())
    return Made(_summed(made))


def _summed(made: Any) -> FloatArray:
    return np.asarray(made.detach()[0].cpu().double().sum(dim=-1).numpy(), dtype=np.float64)


def occlusion(e: Explained, *, window_s: float = 0.2, mel_bands: int = 8, **_others: Any) -> Made:
    """Put the baseline into one window at a time: what the function loses, divided over the window's cells.

    Parameters
    ----------
    e : Explained
    window_s : float
        Seconds. Text tokens are taken one by one.
    mel_bands : int
        At the log-mel input, how many bands of bins are taken apart.
    """
    import torch
    from captum.attr import FeatureAblation, Occlusion

    grid, blocks = e.grid, e.grid.blocks(window_s, mel_bands)
    ones = torch.ones(1, *grid.shape)
    if grid.kind == "token":
        mask = torch.from_numpy(blocks)[None]
        made = FeatureAblation(e.present).attribute(ones, feature_mask=mask, perturbations_per_eval=e.batch)
    else:
        frames = min(grid.frames_of(window_s), grid.shape[-1])
        window = (grid.bins_of(mel_bands), frames) if grid.kind == "mel_time" else (frames,)
        made = Occlusion(e.present).attribute(
            ones, sliding_window_shapes=window, strides=window, perturbations_per_eval=e.batch
        )
    # Every cell of a window has what the whole window does.
    sizes = np.bincount(blocks.ravel())
    return Made(np.asarray(made[0].double().numpy() / sizes[blocks], dtype=np.float64))


def shapley(e: Explained, *, segments: int = 6, n_samples: int = 25, random_state: int = 0, **_others: Any) -> Made:
    """Divide the difference over segments by what each adds, on average over the orders in which they come.

    Parameters
    ----------
    e : Explained
    segments : int
        Equal parts of the clip; at text sites question, options and answer are one more each. Up to
        :data:`EXACT_UP_TO` players all orders are counted, beyond them `n_samples` are drawn.
    n_samples : int
    random_state : int
    """
    groups = e.grid.segments(segments)
    players = int(groups.max()) + 1
    if players <= EXACT_UP_TO:
        e.coalitions((np.arange(2**players)[:, None] >> np.arange(players)) & 1, groups)
        return Made(scattered(_shapley(e, groups, players, None), groups))
    rng = np.random.default_rng(random_state)
    orders = [rng.permutation(players) for _ in range(max(2, n_samples))]
    # All coalitions that occur are asked for beforehand, in full batches.
    e.coalitions(
        np.concatenate([np.tril(np.ones((players + 1, players)), -1)[:, np.argsort(o)] for o in orders]), groups
    )
    each = np.stack([_shapley(e, groups, players, order) for order in orders])
    error = each.std(axis=0, ddof=1).max() / math.sqrt(len(orders))
    return Made(scattered(each.mean(axis=0), groups), float(error))


def _shapley(e: Explained, groups: IntArray, players: int, order: IntArray | None) -> FloatArray:
    """Return the values of the players over all orders, or for one."""
    import torch
    from captum.attr import ShapleyValues, ShapleyValueSampling

    def game(kept: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(e.coalitions(kept.numpy() > 0.5, groups))

    # A number a player: 1 while it takes part, 0 while the baseline stands in for it.
    there = torch.ones(1, players, dtype=torch.float64)
    if order is None:
        made = ShapleyValues(game).attribute(there, perturbations_per_eval=players)
    else:
        method = ShapleyValueSampling(game)
        chosen = [int(player) for player in order]

        def one_order(_players: int, _samples: int) -> Iterator[list[int]]:
            # Captum would draw from torch's global generator.
            yield chosen

        method.permutation_generator = one_order
        made = method.attribute(there, n_samples=1, perturbations_per_eval=players)
    return np.asarray(made[0].numpy(), dtype=np.float64)


METHODS: Mapping[str, Callable[..., Made]] = MappingProxyType(
    {
        "integrated_gradients": integrated_gradients,
        "gradient_x_activation": gradient_x_activation,
        "occlusion": occlusion,
        "shapley": shapley,
    }
)
"""Methods by name."""
