"""Intervals in words, as strong as what was measured: nothing of one task that many tasks would bring about by chance.

A verdict is read where a number is not, so it must not say more. It follows from intervals, for single tasks only where
the q value over the tasks agrees (Benjamini and Hochberg 1995), and what manipulated sounds cannot tell is not said of
them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

__all__ = ["ALL", "verdict_of", "word_verdict"]

ALL = "all"
"""What stands for the task in rows over all tasks."""


def verdict_of(row: Mapping[Any, Any], clean: bool, conditions: Collection[str], alpha: float) -> str:
    """Return in words what the intervals say.

    Parameters
    ----------
    row : mapping
        Of the table.
    clean : bool
        Whether nothing but words and voice differs between the conditions.
    conditions : collection of str
        Of the items: what words do to a truth that they tell is another thing than what they do to one that they deny.
    alpha : float
        Of a single task something is said only where it holds among the tasks, by the q values.
    """
    if len(conditions) > 1:
        return "mixed conditions"
    heard, said = ((float(row[f"{name}_low"]), float(row[f"{name}_high"])) for name in ("listen", "read"))
    if not (np.isfinite(heard).all() and np.isfinite(said).all()):
        return "too few groups"
    if row["task"] != ALL:
        heard, said = (
            ends if float(row[f"q_{name}"]) < alpha else (-0.0, 0.0)
            for name, ends in (("listen", heard), ("read", said))
        )
    if "congruent" in conditions:
        # There the words push towards the truth of whoever reads them.
        said = (-said[1], -said[0])
    if said[0] > 0:
        # Where a signal was manipulated, what it lost beside its words looks as if the words had helped.
        return "inverts the words" if clean else "removing the words hurts"
    if heard[0] <= 0 <= heard[1] and said[0] <= 0 <= said[1]:
        return "no effect"
    if heard[1] < 0:
        return "the voice pulls away" if clean else "removing the voice helps"
    if heard[0] > 0 and said[1] < 0:
        return "listens and reads"
    return "listens" if heard[0] > 0 else "reads"


def word_verdict(row: Mapping[Any, Any], alpha: float) -> str:
    """Return in words what the interval of a word effect says.

    Parameters
    ----------
    row : mapping
        With task, control, low, high and q.
    alpha : float
        Of a single task something is said only where it holds among the tasks, by the q value.
    """
    if not np.isfinite(row["low"]):
        return "too few groups"
    told = row["low"] > 0 or row["high"] < 0
    if not told or (row["task"] != ALL and not row["q"] < alpha):
        return "no word effect found"
    negated = row["control"] in ("negated question", "transcript negation")
    if row["low"] > 0:
        return "follows the words all the same" if negated else "follows the words"
    return "turns with the negation, or inverts" if negated else "inverts the words"
