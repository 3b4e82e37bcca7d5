"""Mixtures under a hand: one weight is set and the others give way, and sliders show what fits on their steps.

A mixture has a sum of one, so no weight can be set alone. The others keep their proportions, which is what is meant by
"more of this stream": nothing is said about how the rest is mixed. Weights are kept exactly; a slider moves in
hundredths, and would round what it is told and send that back as if somebody had moved it, so it is told hundredths.
"""

from __future__ import annotations

import numpy as np

from vpanalysis.stats import FloatArray

__all__ = ["hundredths", "rescaled"]


def rescaled(weights: FloatArray, moved: int, value: float) -> FloatArray:
    """Return a mixture in which one weight was set, and the others share the rest as they did.

    Parameters
    ----------
    weights : array, shape (stream,), float64
        Of sum one.
    moved : int
        Which was set.
    value : float
        To what, between 0 and 1.

    Returns
    -------
    array, shape (stream,), float64
        Of sum one. Where the others were all 0 they share alike.

    Examples
    --------
    >>> rescaled(np.array([0.5, 0.3, 0.2]), 0, 0.75).round(3).tolist()
    [0.75, 0.15, 0.1]
    """
    value = float(min(1.0, max(0.0, value)))
    others = np.delete(np.asarray(weights, dtype=np.float64), moved)
    if not len(others):
        return np.ones(1)
    total = float(others.sum())
    share = others / total if total > 1e-9 else np.full(len(others), 1.0 / len(others))
    out = np.insert((1.0 - value) * share, moved, value)
    return np.asarray(out / out.sum(), dtype=np.float64)


def hundredths(weights: FloatArray) -> FloatArray:
    """Return a mixture in hundredths, of sum one: the steps of a slider, which rounds what is between them by itself.

    The largest remainders are rounded up.
    """
    scaled = 100 * weights
    whole = np.floor(scaled + 1e-9)
    missing = round(100 - whole.sum())
    whole[np.argsort(whole - scaled, kind="stable")[:missing]] += 1
    return np.asarray(whole / 100, dtype=np.float64)
