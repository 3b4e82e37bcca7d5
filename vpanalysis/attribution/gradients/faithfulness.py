"""Is the map true of the model? Four checks that stand beside every map.

Why it exists. A map looks convincing whether or not the model uses what it marks: gradients saturate, and some methods
draw much the same picture of a network whose weights were shuffled. So a map is tested against what the function does
when the marked parts are in fact taken away. Parts are *blocks* (windows in seconds, times bands of mel bins; single
text tokens), the same for the map and for its controls, and taken away means: the baseline put there.

* *Deletion and insertion* (Petsiuk, Das and Saenko 2018): blocks are taken away (or put back), those with the largest
  values first. The area under the margin over the share of blocks, in nats, stands beside the mean area of random
  orders of the same blocks, drawn anew for every item: with the same orders for all, the luck of one draw would be an
  effect of all items. Half of the orders are the others reversed, so that what is early in one is late in another. To
  put blocks back in an order is to take them away in its reverse, so that one set of orders serves both curves.
  A good map deletes below random and inserts above it.
* *Infidelity* (Yeh et al. 2019, by Captum): the mean square of what the map says random sets of blocks are worth, less
  what they are worth. Beside it stands the infidelity of a map of zeros, and over items their ratio: 0 for maps that
  are right, 1 for maps that say nothing.
* *Agreement with occlusion*: rank correlation over blocks with what taking one block away by itself costs.
* *Randomised weights* (Adebayo et al. 2018): the same map of a model in which the weights behind the site were
  shuffled, matrix by matrix. The rank correlation with the map of the real model should be near 0; a map that stays
  the same shows the clip (where it is loud, say) and not the model. :data:`SHUFFLES` shuffled models take turns over
  the items, so that no single one decides.

What they cannot show: taking parts away makes states that no clip has. Deletion by the baseline that the map was made
with favours that map; a map that passes explains the margin given this baseline.

>>> correlation(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 5.0]))
-0.5
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats as distributions

from vpanalysis.attribution.gradients._explained import Explained
from vpanalysis.attribution.gradients._grid import gathered
from vpanalysis.stats import FloatArray, IntArray

if TYPE_CHECKING:
    from torch import Tensor

    from vpanalysis.models.facade import AudioLLM

__all__ = [
    "CURVES", "GRID", "MOST", "ORDERS", "SETS", "SHUFFLES", "agreement", "area", "beside", "correlation", "curves",
    "infidelity", "shuffled", "weights_behind",
]  # fmt: skip

GRID = tuple(float(share) for share in np.linspace(0, 1, 11))
"""Shares of blocks at which curves are kept."""

CURVES = ("deletion", "deletion_random", "insertion", "insertion_random")
"""Curves of an item."""

SHUFFLES = 4
"""Models of shuffled weights that take turns."""

MOST = 20
"""Points at which a curve is measured beside its beginning, at most."""

ORDERS = 6
"""Random orders of the control."""

SETS = 32
"""Random sets of blocks, for the infidelity."""


def correlation(one: FloatArray, other: FloatArray) -> float:
    """Return Spearman's rank correlation; NaN for fewer than three values, or where one does not vary."""
    if len(one) < 3 or np.ptp(one) < 1e-12 or np.ptp(other) < 1e-12:
        return math.nan
    return float(distributions.spearmanr(one, other).statistic)


def curves(
    e: Explained, sums: FloatArray, blocks: IntArray, *, orders: int = ORDERS, random_state: int = 0
) -> dict[str, FloatArray]:
    """Return the margin while blocks are taken away and put back, in the order of a map and in random orders.

    Parameters
    ----------
    e : Explained
    sums : array, shape (block,), float64
        The map's value of every block.
    blocks : array, shape of the cells, int64
    orders : int
        Random orders over which the control is averaged, every second the reverse of the one before it.
    random_state : int

    Returns
    -------
    dict of str to array, shape (11,), float64, nats
        By the names of :data:`CURVES`, at the shares :data:`GRID`. The mean of a curve's trapezoids is its area.
    """
    count = len(sums)
    rng = np.random.default_rng(random_state)
    points = np.unique(np.round(np.linspace(0, count, min(count, MOST) + 1)).astype(int))
    # Blocks of equal value come in any order, not in that of time.
    ranked = np.lexsort((rng.permutation(count), -sums))
    drawn = [rng.permutation(count) for _ in range(-(-orders // 2))]
    ways = [ranked, *[way for one in drawn for way in (one, one[::-1])][:orders]]
    taken = np.zeros((len(ways), len(points), count), dtype=bool)
    for number, way in enumerate(ways):
        for row, point in enumerate(points):
            taken[number, row, way[:point]] = True
    found = e.coalitions(np.concatenate([taken[0], *~taken]), blocks).reshape(len(ways) + 1, len(points))
    on = np.array([np.interp(GRID, points / count, curve) for curve in found])
    control = on[2:].mean(axis=0)
    back = control[::-1].copy()
    return {"deletion": on[1], "deletion_random": control, "insertion": on[0], "insertion_random": back}


def area(curve: FloatArray) -> float:
    """Return the mean height of a curve over :data:`GRID`, in its own units."""
    return float(np.trapezoid(curve, GRID))


def agreement(e: Explained, sums: FloatArray, blocks: IntArray) -> float:
    """Return the rank correlation of a map's blocks with what taking each away by itself costs."""
    alone = e.coalitions(~np.eye(len(sums), dtype=bool), blocks)
    return correlation(sums, e.value - alone)


def infidelity(
    e: Explained, sums: FloatArray, blocks: IntArray, *, samples: int = SETS, random_state: int = 0
) -> tuple[float, float]:
    """Return Captum's infidelity over random sets of blocks, and that of a map of zeros, both in nats squared.

    Parameters
    ----------
    e : Explained
    sums : array, shape (block,), float64
    blocks : array, shape of the cells, int64
    samples : int
        Sets; each block is in a set with a probability that is drawn for the set.
    random_state : int
    """
    import torch
    from captum.metrics import infidelity as of_captum

    rng = np.random.default_rng(random_state)
    count = len(sums)
    taken = rng.random((samples, count)) < rng.random((samples, 1))
    taken[np.arange(samples), rng.integers(0, count, samples)] = True
    worth = e.value - e.coalitions(~taken, blocks)
    drawn = iter(torch.split(torch.from_numpy(taken).double(), 1))

    def perturbed(there: Tensor) -> tuple[Tensor, Tensor]:
        away = torch.cat([next(drawn) for _ in range(len(there))])
        return away, there - away

    def game(there: Tensor) -> Tensor:
        return torch.from_numpy(e.coalitions(there.numpy() > 0.5, blocks))

    found = of_captum(
        game, perturbed, torch.ones(1, count, dtype=torch.float64), torch.from_numpy(sums)[None],
        n_perturb_samples=samples,
    )  # fmt: skip
    return float(found[0]), float(np.mean(worth**2))


def beside(
    e: Explained, values: FloatArray, blocks: IntArray, *, itself: bool = False, random_state: int = 0
) -> tuple[dict[str, float], dict[str, FloatArray]]:
    """Return the checks of one map that need no other model, and its curves.

    Parameters
    ----------
    e : Explained
    values : array, shape of the cells, float64
    blocks : array, shape of the cells, int64
    itself : bool
        Whether the map is made by occlusion, with which it agrees by definition.
    random_state : int

    Returns
    -------
    numbers : dict of str to float
        deletion, deletion_random, insertion and insertion_random (areas, nats), infidelity and infidelity_of_zeros
        (nats squared), agreement.
    curves : dict of str to array, shape (11,)
    """
    sums = gathered(values, blocks)
    drawn = curves(e, sums, blocks, random_state=random_state)
    square, zeros = infidelity(e, sums, blocks, random_state=random_state)
    return {
        **{name: area(curve) for name, curve in drawn.items()}, "infidelity": square, "infidelity_of_zeros": zeros,
        "agreement": math.nan if itself else agreement(e, sums, blocks),
    }, drawn  # fmt: skip


def weights_behind(llm: AudioLLM, site: str) -> list[Any]:
    """Return the parameters between a site and the answer, except those of the gate, which hears nothing.

    Returns
    -------
    list of Parameter
        Of the stem, encoder layers, projectors and text layers behind the site, final norm and head.
    """
    family, model = llm.family, llm.model
    index = int(site.partition("[")[2].rstrip("]") or -1)
    paths: list[str | None] = [family.text_norm, family.head]
    layers = len(family.find(model, family.text_layers))  # type: ignore[arg-type]
    first = index + 1 if site.startswith("text[") else 0
    paths += [f"{family.text_layers}.{layer}" for layer in range(first, layers)]
    heard = site == "features" or site.startswith("encoder")
    if heard or site == "tower":
        paths += [family.projector, family.stream_projectors]
    if heard:
        inside = len(family.find(model, family.encoder_layers))  # type: ignore[arg-type]
        paths += [f"{family.encoder_layers}.{layer}" for layer in range(index + 1, inside)]
    if site == "features":
        paths += [f"{family.tower}.{name}" if family.tower else name for name, _ in family.stem]
    found = [family.find(model, path) for path in paths if path is not None]
    known = {id(parameter): parameter for module in found for parameter in module.parameters()}
    return list(known.values())


@contextmanager
def shuffled(parameters: Sequence[Any], random_state: int = 0) -> Iterator[None]:
    """Shuffle the entries of every parameter during the block; afterwards they are what they were, bit for bit.

    Parameters
    ----------
    parameters : sequence of Parameter
        Changed in place. Shuffling keeps the spread of each, and nothing else of what was learned.
    random_state : int
    """
    import torch

    def order(number: int, flat: Tensor) -> Tensor:
        # Made anew for the way back, so that no second copy of a large model is held; and where the weights are, since
        # a processor needs most of an hour to draw orders of billions.
        generator = torch.Generator(flat.device).manual_seed(1_000_003 * random_state + number)
        return torch.randperm(len(flat), generator=generator, device=flat.device)

    done = 0
    try:
        with torch.no_grad():
            for number, parameter in enumerate(parameters):
                flat = parameter.detach().flatten()
                parameter.copy_(flat[order(number, flat)].view_as(parameter))
                done += 1
        yield
    finally:
        with torch.no_grad():
            for number, parameter in enumerate(parameters[:done]):
                flat = parameter.detach().flatten()
                back = torch.empty_like(flat)
                back[order(number, flat)] = flat
                parameter.copy_(back.view_as(parameter))
