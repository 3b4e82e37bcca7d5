"""From answers under every reading to what they decide, without being fooled by having looked for the best.

The best of fifty readings on some items is the best on those items by luck as well. So a third of the items chooses and
the rest judges (:func:`choosing`; speakers are not torn apart). Finding the best takes few items, being sure of it
takes many. The chosen reading is compared with others on the judging items, paired by item, with cluster-robust t
intervals. Against which others, convention by convention and for each other value of it:

* the reading that differs in this convention alone, and
* the reading that did best on the choosing items among *all* that have this value. Two wrong values can make up for
  each other; then every reading one step away is worse while one two steps away is as good, and nothing is known.

A convention is *decided* when all these are worse by more than :data:`MARGIN`, and when the chosen reading answers
better than chance at all. The last is no formality: on items whose words contradict the voice, a model that reads is
less sure of the wrong answer when its ears are broken, so the likelihood of the truth prefers a broken reading.

How often it errs. A wrong decision needs a value that is as good as the chosen one, and that value's own comparison to
fail. All of a convention's comparisons have to agree, so only the conventions are counted (Bonferroni): the probability
that any of them is decided although the answers do not favour it is at most ``1 - level``.

Everything here is arithmetic on tables; no model is needed.

>>> choosing(["a", "a", "b", "c", "c", "d"], ["t"] * 6, random_state=0).sum()
np.int64(2)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vpanalysis import stats
from vpanalysis.stats import BoolArray, Estimate, FloatArray, Labels

__all__ = ["MARGIN", "SAME", "SHARE", "Verdict", "choosing", "judge"]

MARGIN = 0.02
"""An advantage that counts, in nats an item: below two per cent of likelihood, noise of any mixture is as good."""

SAME = 1e-3
"""Readings whose log-probabilities differ nowhere by more than this, in nats, give the same answers."""

SHARE = 1 / 3
"""Of the items that choose."""


@dataclass(frozen=True)
class Verdict:
    """What the answers decide.

    Attributes
    ----------
    chosen : int
        The reading that did best on the choosing items.
    comparisons : list of dict
        One a comparison: convention, value (the other one), kind (``"one step"``, ``"best with it"``), other (number of
        the reading), difference, low, high (nats an item, chosen minus other), accuracy, accuracy_low, accuracy_high
        (likewise), n, n_groups, group, verdict (``"worse"``, ``"not told apart"``, ``"same answers"``, ``"better"``).
    decided : dict of str to str
        Conventions with the value that was found.
    reasons : dict of str to str
        For every convention that varied, why it is decided or not.
    accuracy : Estimate
        Accuracy of the chosen reading on the judging items.
    chance : float
        Of guessing there.
    level : float
        Of each interval.
    """

    chosen: int
    comparisons: list[dict[str, Any]]
    decided: dict[str, str]
    reasons: dict[str, str]
    accuracy: Estimate
    chance: float
    level: float


def choosing(
    groups: Sequence[str],
    tasks: Sequence[str],
    *,
    share: float = SHARE,
    random_state: int | np.random.Generator | None = 0,
) -> BoolArray:
    """Return which items choose; the others judge.

    Parameters
    ----------
    groups : sequence of str, shape (item,)
        Items of one group stay together.
    tasks : sequence of str, shape (item,)
        The share is kept in every task, as nearly as the groups allow.
    share : float
        Of the items that choose.
    random_state : int, Generator or None

    Returns
    -------
    array of bool, shape (item,)
    """
    names, codes = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    kinds, task = np.unique(np.asarray(tasks, dtype=object).astype(str), return_inverse=True)
    counts = np.zeros((len(names), len(kinds)))
    np.add.at(counts, (codes, task), 1)
    missing = share * counts.sum(axis=0)
    chooses = np.zeros(len(names), dtype=np.bool_)
    for group in np.random.default_rng(random_state).permutation(len(names)):
        after = missing - counts[group]
        if np.sum(after**2) < np.sum(missing**2):
            chooses[group], missing = True, after
    return chooses[codes]


def judge(
    loglik: FloatArray,
    right: BoolArray,
    readings: Sequence[Mapping[str, str]],
    values: Mapping[str, Sequence[str]],
    chooses: BoolArray,
    clusters: Mapping[str, Labels],
    chance: FloatArray,
    *,
    level: float = 0.95,
    margin: float = MARGIN,
) -> Verdict:
    """Choose a reading on some items and judge its conventions on the others.

    Parameters
    ----------
    loglik : array, shape (item, reading), float64
        Log-probability of the truth.
    right : array, shape (item, reading), bool
        Whether the truth came first.
    readings : sequence of mapping
        Values by convention; of equally good ones the first is chosen.
    values : mapping of str to sequence of str
        The conventions that vary.
    chooses : array, shape (item,), bool
        From `choosing`.
    clusters : mapping of str to array, shape (item,)
        Groups of items that stand or fall together; the widest interval is kept.
    chance : array, shape (item,)
        Probability of guessing right.
    level : float
        Of all conventions together.
    margin : float
        See :data:`MARGIN`.
    """
    means = loglik[chooses].mean(axis=0)
    # Equal up to rounding counts as equal.
    chosen = int(np.flatnonzero(means >= means.max() - 1e-9)[0])
    pairs = _pairs(readings, values, means, chosen)
    each = 1 - (1 - level) / max(1, sum(len(offered) > 1 for offered in values.values()))
    judging = ~chooses
    groups = {name: labels[judging] for name, labels in clusters.items()}
    comparisons = []
    for convention, value, kind, other in pairs:
        difference = loglik[:, chosen] - loglik[:, other]
        found = stats.mean(difference[judging], groups, level=each)
        accuracy = _accuracy(right[judging][:, [chosen, other]], groups, each)
        if np.abs(difference).max() <= SAME:
            verdict = "same answers"
        else:
            verdict = "worse" if found.low > margin else "better" if found.high < -margin else "not told apart"
        comparisons.append(
            {
                "convention": convention, "value": value, "kind": kind, "other": other, "difference": found.value,
                "low": found.low, "high": found.high, "accuracy": accuracy.value, "accuracy_low": accuracy.low,
                "accuracy_high": accuracy.high, "n": found.n, "n_groups": found.n_groups, "group": found.group,
                "verdict": verdict,
            }
        )  # fmt: skip
    guessed = float(chance[judging].mean())
    heard = stats.proportion(right[judging, chosen], groups, level=level)
    decided, reasons = {}, {}
    for convention in values:
        rows = [row for row in comparisons if row["convention"] == convention]
        open_rows = [row for row in rows if row["verdict"] != "worse"]
        if open_rows:
            reasons[convention] = _why_open(min(open_rows, key=lambda row: row["difference"]), margin)
        elif not heard.low > guessed:
            reasons[convention] = f"no reading answers better than chance ({heard} right, {guessed:.3f} by guessing)"
        elif rows:
            decided[convention] = readings[chosen][convention]
            reasons[convention] = f"better than every reading with {' or '.join(row_values(rows))}"
    return Verdict(chosen, comparisons, decided, reasons, heard, guessed, each)


def row_values(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(str(row["value"]) for row in rows))


def _pairs(
    readings: Sequence[Mapping[str, str]], values: Mapping[str, Sequence[str]], means: FloatArray, chosen: int
) -> list[tuple[str, str, str, int]]:
    """Return (convention, other value, kind, reading) of everything that the chosen reading is compared with."""
    own = readings[chosen]
    pairs = []
    for convention, offered in values.items():
        for value in offered:
            if value == own[convention]:
                continue
            have = [i for i, one in enumerate(readings) if one[convention] == value]
            near = next(i for i in have if all(readings[i][n] == own[n] for n in values if n != convention))
            best = max(have, key=lambda i: means[i])
            pairs.append((convention, value, "one step", near))
            if best != near:
                pairs.append((convention, value, "best with it", best))
    return pairs


def _accuracy(right: BoolArray, groups: Mapping[str, Labels], level: float) -> Estimate:
    """Return the difference of two accuracies over the same items."""
    n = len(right)
    both = {name: np.concatenate([labels, labels]) for name, labels in groups.items()}
    parts = np.repeat([0, 1], n)
    return stats.combination(right.T.ravel().astype(np.float64), parts, (1.0, -1.0), both, level=level)


def _why_open(row: Mapping[str, Any], margin: float) -> str:
    if row["verdict"] == "same answers":
        return f"{row['value']} gives the same answers"
    if math.isnan(row["low"]):
        return f"no interval: one {row['group']} only"
    if row["verdict"] == "better":
        return f"{row['value']} is better on the judging items, unlike on those that chose"
    return (
        f"{row['value']} is not told apart: worse by {row['difference']:.3f} [{row['low']:.3f}, {row['high']:.3f}] nat "
        f"an item, of which more than {margin:g} would count"
    )
