"""Two players, words and voice: what each contributed to the margin, and what only both together did.

Why it exists. "Without the voice the margin falls by two nats" depends on whether the words were there. With two
players there are two orders in which they can enter; the Shapley value (Shapley 1953, "A value for n-person games") is
the mean of a player's contribution over both, the only division that is efficient (contributions add up to the whole),
symmetric and linear. What the mean hides is the interaction, so it is told beside it (Grabisch and Roubens 1999).

The formulas, with v of the four conditions, in nats::

    listen      = ((v(voice) - v(neither)) + (v(both) - v(words))) / 2
    read        = ((v(words) - v(neither)) + (v(both) - v(voice))) / 2
    interaction = v(both) - v(words) - v(voice) + v(neither)
    listen + read = v(both) - v(neither)

An item counts only where all four conditions were measured: nothing is imputed.

The *listening share* on conflict items, where words push away from the truth, is
``max(0, listen) / (max(0, listen) + max(0, -read))`` of the *means* over items. A mean of ratios would be ruled by
items whose total is near zero. Its interval is a percentile bootstrap over whole clusters (Davison and Hinkley 1997,
section 2.4 and 3.8). A percentile interval is too short where clusters are few, so both arms are
stretched by ``t / z * sqrt(G / (G - 1))``, with the t quantile of G - 1 for G clusters, and end at 0 and 1.

>>> parts = two_player(both=3.0, words=-2.0, voice=4.0, neither=0.0)
>>> {name: float(value) for name, value in parts.items()}
{'listen': 4.5, 'read': -1.5, 'interaction': 1.0}
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vpanalysis.stats import FloatArray, quantile

__all__ = ["listening_share", "share_interval", "two_player"]


def two_player(
    both: ArrayLike, words: ArrayLike, voice: ArrayLike, neither: ArrayLike
) -> dict[str, NDArray[np.float64]]:
    """Return the Shapley values of voice (`listen`) and words (`read`), and their interaction.

    Parameters
    ----------
    both, words, voice, neither : array_like, one shape, float
        The value with both players, with words only, with voice only, with neither, in nats.

    Returns
    -------
    dict of str to array
        Keys listen, read, interaction; NaN where a condition is.
    """
    b, w, v, n = (np.asarray(value, dtype=np.float64) for value in (both, words, voice, neither))
    return {
        "listen": ((v - n) + (b - w)) / 2.0,
        "read": ((w - n) + (b - v)) / 2.0,
        "interaction": b - w - v + n,
    }


def listening_share(listen: ArrayLike, read: ArrayLike) -> NDArray[np.float64]:
    """Return the listening share from means over conflict items.

    Parameters
    ----------
    listen, read : array_like, one shape, float
        Mean Shapley values, in nats.

    Returns
    -------
    array, float64
        From 0 to 1; NaN where the voice pushes away from the truth and the words towards it.
    """
    towards = np.maximum(0.0, np.asarray(listen, dtype=np.float64))
    away = np.maximum(0.0, -np.asarray(read, dtype=np.float64))
    total = np.asarray(towards + away, dtype=np.float64)
    out = np.full(total.shape, np.nan)
    np.divide(towards, total, out=out, where=total > 0)
    return out


def share_interval(
    listen: FloatArray,
    read: FloatArray,
    clusters: Mapping[str, ArrayLike],
    *,
    level: float = 0.95,
    draws: int = 2000,
    random_state: int | None = 0,
) -> tuple[float, float, float]:
    """Return the listening share of items and its interval.

    Parameters
    ----------
    listen, read : array, shape (item,), float64
        Shapley values of conflict items, without NaN.
    clusters : mapping of str to array_like, shape (item,)
        Whole clusters are drawn, with replacement; of several clusterings the wider interval is kept.
    level : float
    draws : int
    random_state : int or None

    Returns
    -------
    share, low, high : float
        NaN bounds with fewer than two clusters, or where a twentieth of the draws has no share.
    """
    if not len(listen):
        return float("nan"), float("nan"), float("nan")
    share = float(listening_share(listen.mean(), read.mean()))
    best = (share, float("nan"), float("nan"))
    tail = (1.0 - level) / 2.0
    for labels in clusters.values():
        names, codes = np.unique(np.asarray(labels), return_inverse=True)
        if len(names) < 2:
            continue
        rng = np.random.default_rng(random_state)
        sums = np.stack([np.bincount(codes.reshape(-1), weights=values) for values in (listen, read)])
        taken = rng.multinomial(len(names), np.full(len(names), 1.0 / len(names)), size=draws)
        # Both means have one denominator, the items drawn, which cancels in the share.
        drawn = listening_share(*(sums @ taken.T))
        if np.isnan(drawn).mean() > 0.05 or np.isnan(share):
            continue
        low, high = (float(x) for x in np.nanquantile(drawn, [tail, 1.0 - tail]))
        few = quantile(1.0 - tail, len(names) - 1) / quantile(1.0 - tail, math.inf)
        few *= math.sqrt(len(names) / (len(names) - 1))
        low, high = max(0.0, share - few * (share - low)), min(1.0, share + few * (high - share))
        if np.isnan(best[1]) or high - low > best[2] - best[1]:
            best = (share, min(low, share), max(high, share))
    return best
