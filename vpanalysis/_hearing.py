"""The hearing index: how much of the voice is in the answers, beyond what words and options can give.

Why it exists. Accuracy on conflict items rewards a model that inverts the words, accuracy on congruent items one that
believes them. Neither has to hear anything. What no voice-blind rule can do is be right on both, because it sees the
same words and options either way and must decide whether to believe them.

The idea. Let m be the best probability with which a voice-blind rule names the truth among the offered options that the
words do *not* claim, and r the same among those that they *do* claim. A rule that believes the words with probability q
reaches ``a_conf = (1 - q) m`` on conflict items and ``a_cong = q r`` on congruent ones, so for all of them
``a_conf / m + a_cong / r <= 1``. The index measures how far a model is beyond that line::

    H = (a_conf / m + a_cong / r - 1) / (1 / m + 1 / r - 1)

0 or less: nothing that a reader, an inverter or a guesser could not do. 1: always right. The accuracy that a
voice-blind rule can reach on both kinds at once is ``blind = 1 / (1 / m + 1 / r)``: one half for two options, one
quarter for four with one claim.

m and r come from the design of the items, not from a fitted rule, which would overfit small samples. S are the options
that are ever true in a task. A blind rule that knows S and the design cannot do better than choose evenly among the
options in S that remain: m is the mean over conflict items of ``1 / |S n offered n unclaimed|``, and r the mean over
congruent items of ``1 / |S n offered n claimed|``. With two options m = r = 1; with four, one claim and all true
somewhere, m = 1/3 and r = 1; where only two of four options are ever true (rising and falling intonation), m = 1. A
design that gives the truth away beyond that (one option true far more often than others, options that only congruent
items offer) is not seen by this: score a rule that answers from words and options alone, and its index should be 0.

>>> hearing_index(1.0, 1.0, 1 / 3, 1.0), hearing_index(0.0, 1.0, 1 / 3, 1.0), hearing_index(1 / 3, 0.0, 1 / 3, 1.0)
(1.0, 0.0, 0.0)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

__all__ = ["Blind", "hearing_index", "voice_blind"]

HEARD_INDEX = 0.3
HEARD_MARGIN = 0.15
"""A task counts as heard from this index and from this distance to the best voice-blind rule on."""


@dataclass(frozen=True)
class Blind:
    """What the best voice-blind rule can do on one task.

    Attributes
    ----------
    m, r : float
        Its probability of the truth among unclaimed and among claimed offered options; NaN without conflict or
        congruent items.
    """

    m: float
    r: float

    @property
    def accuracy(self) -> float:
        """The accuracy that a voice-blind rule can reach on conflict and congruent items at once."""
        return 1 / (1 / self.m + 1 / self.r)

    @property
    def coefficients(self) -> tuple[float, float, float]:
        """The index as ``c[0] * a_conf + c[1] * a_cong + c[2]``."""
        scale = 1 / self.m + 1 / self.r - 1
        return 1 / self.m / scale, 1 / self.r / scale, -1 / scale

    @property
    def known(self) -> bool:
        """Whether the index can be computed."""
        return not (math.isnan(self.m) or math.isnan(self.r))


def hearing_index(a_conf: float, a_cong: float, m: float, r: float) -> float:
    """Return the hearing index of two accuracies; see the module's docstring for m and r."""
    a, b, constant = Blind(m, r).coefficients
    return a * a_conf + b * a_cong + constant


def voice_blind(items: pd.DataFrame) -> Mapping[str, Blind]:
    """Return m and r of every task, from the design of its items.

    Parameters
    ----------
    items : DataFrame
        With task_name, condition, choices, truth and said, such as ``Benchmark.to_dataframe()``. Items of all
        conditions say which options are ever true.
    """
    found: dict[str, Blind] = {}
    for task, here in items.groupby("task_name", sort=False):
        ever = set(here["truth"])
        chances: dict[str, list[float]] = {"conflict": [], "congruent": []}
        for condition, choices, said in zip(here["condition"], here["choices"], here["said"], strict=True):
            if condition in chances:
                claimed = set(said)
                left = [c for c in choices if c in ever and (c in claimed) == (condition == "congruent")]
                # The truth is always among them, unless an item contradicts its own condition.
                chances[condition].append(1 / max(1, len(left)))
        m, r = (float(np.mean(values)) if values else math.nan for values in chances.values())
        found[str(task)] = Blind(m, r)
    return found
