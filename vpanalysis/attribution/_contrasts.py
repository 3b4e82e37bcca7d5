"""The same items under several settings: what each setting measures, and by how much it differs from a reference.

Every intervention that asks the same items again (another gate, another question, an appended layer) is read in the
same way: accuracy, margin and the share of claims under each setting with an interval, and the difference to the
reference paired by item, with sign-flip p values adjusted over the settings (largest statistic of shared flips).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from vpanalysis import stats
from vpanalysis._flips import flip_family
from vpanalysis.attribution.margins import clusters_by_name
from vpanalysis.probes.paired import paired_interval
from vpanalysis.stats import FloatArray

__all__ = ["CONTRASTS", "MEASURES", "contrasts"]

MEASURES = ("accuracy", "margin", "ala")
"""Share right; nats; share of items with claims that are answered with one."""

CONTRASTS = (
    "setting", "measure", "value", "low", "high", "difference", "difference_low", "difference_high", "p", "p_adjusted",
    "n", "n_groups",
)  # fmt: skip
"""Columns of what `contrasts` returns."""


def contrasts(
    rows: pd.DataFrame, scored: Mapping[str, Mapping[str, FloatArray]], reference: str, *, level: float = 0.95,
    random_state: int | None = 0, measures: Sequence[str] = MEASURES,
) -> pd.DataFrame:  # fmt: skip
    """Return what each setting measures and how it differs from the reference.

    Parameters
    ----------
    rows : DataFrame
        One row an item, with the columns speaker and script.
    scored : mapping of str to mapping of str to array, shape (item,)
        By setting and measure; NaN where an item has no value, such as no claim.
    reference : str
        The setting that differences are to; without it there are none.
    level : float
        Of the intervals.
    random_state : int or None
        Of the sign flips.
    measures : sequence of str

    Returns
    -------
    DataFrame
        Columns :data:`CONTRASTS`; differences and p values are NaN for the reference, and for settings without a value
        on any item. p_adjusted is over the settings of a measure.
    """
    out: list[dict[str, Any]] = []
    for measure in measures:
        values = {name: parts[measure] for name, parts in scored.items()}
        known = {name: ~np.isnan(value) for name, value in values.items()}
        own = values.get(reference)
        tests: dict[str, tuple[float, float]] = {}
        others = [name for name in values if name != reference and own is not None]
        if own is not None:
            # One family of flips needs one set of items.
            shared = known[reference] & np.logical_and.reduce([known[name] for name in values if known[name].any()])
            others = [name for name in others if known[name].any()]
            if others and shared.any():
                gaps = np.stack([values[name][shared] - own[shared] for name in others])
                p, adjusted = flip_family(gaps, clusters_by_name(rows[shared]), random_state=random_state)
                tests = {name: (float(p[at]), float(adjusted[at])) for at, name in enumerate(others)}
        for name, value in values.items():
            here = known[name]
            if not here.any():
                continue
            estimate = stats.mean if measure == "margin" else stats.proportion
            found = estimate(value[here], clusters_by_name(rows[here]), level=level)
            row = dict.fromkeys(CONTRASTS, np.nan) | {"setting": name, "measure": measure, "value": found.value}
            row |= {"low": found.low, "high": found.high, "n": found.n, "n_groups": found.n_groups}
            if own is not None and name in tests:
                both = here & known[reference]
                clusters = clusters_by_name(rows[both])
                gap = (
                    stats.mean(value[both] - own[both], clusters, level=level)
                    if measure == "margin"
                    else paired_interval(value[both], own[both], clusters, np.ones(int(both.sum())), level=level)
                )
                row |= {"difference": gap.value, "difference_low": gap.low, "difference_high": gap.high}
                row["p"], row["p_adjusted"] = tests[name]
            out.append(row)
    return pd.DataFrame(out, columns=list(CONTRASTS))
