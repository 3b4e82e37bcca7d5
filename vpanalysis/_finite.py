"""Which states of a Run are no numbers, counted while they are recorded.

Why it exists. A float16 layer that overflows writes infinities, the next one makes NaN of them, and everything after
that looks like a result. Nobody finds this by reading means. So it is counted where the states are still in memory, and
every Run says how many of its states are not finite, and where it begins.

The idea. One pass over the reduced states of a block: an item counts at a site when any of its values there is NaN, is
infinite, or lies beyond what a float16 store can hold. A mean over frames is not finite when one of its frames is not,
so means and segments see every valid frame; where only ``last`` was kept, that position was seen, and of float16 models
every other one as well (`vpanalysis.capture.recorder.WHOLE`). The counts go
into the block's marker, from where a Run prints them without reading a state. Failed items have no states, and do not
count.

Nothing is left out by this: `Run.states` returns what was recorded. Whoever wants such items gone says so, by
`Run.finite` or ``probe_layers(..., nonfinite="drop")``.

Worked example::

    counted = count({("encoder[2]", "mean"): array}, ok, clipping=False)
    counted                                  # {"encoder[2]": {"items": 3, "infinite": 3}}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["COLUMNS", "FLOAT16_MAX", "Counts", "count", "finite_rows", "sentence", "tabled"]

FLOAT16_MAX = 65_504.0
"""Largest float16."""

KINDS = ("nan", "infinite", "clipped")
COLUMNS = ("site", "items", *KINDS)

Counts = dict[str, dict[str, int]]
"""By site: items that count at all, and for which reason; what is 0 is left out."""


def count(
    states: Mapping[tuple[str, str], Any],
    ok: NDArray[np.bool_],
    *,
    clipping: bool = False,
    options: Sequence[Sequence[float] | None] | None = None,
) -> Counts:
    """Count the items of a block whose states are not finite, by site.

    Parameters
    ----------
    states : mapping from (site, reducer key)
        To arrays (item, ...) or, for ``frames``, lists of (frame, feature).
    ok : array of bool, shape (item,)
        False for failed items, which are not looked at.
    clipping : bool
        Whether the store is float16, so that what lies beyond +-65504 is clipped.
    options : sequence of (sequence of float, or None), optional
        Log-probabilities of the options, one an item.

    Returns
    -------
    dict from str to dict from str to int
        Sites at which at least one item counts.
    """
    flags: dict[str, NDArray[np.bool_]] = {}
    sources: list[tuple[str, Any]] = [(site, value) for (site, _), value in states.items()]
    if options is not None:
        sources.append(("options", [np.asarray([] if v is None else v, dtype=np.float32) for v in options]))
    for site, value in sources:
        found = _flags(value, clipping and site != "options") & ok
        if found.any():
            flags[site] = flags[site] | found if site in flags else found
    return {
        site: {"items": int(found.any(axis=0).sum())}
        | {kind: int(row.sum()) for kind, row in zip(KINDS, found, strict=True) if row.any()}
        for site, found in flags.items()
    }


def _flags(value: Any, clipping: bool) -> NDArray[np.bool_]:
    """Return for each item whether it holds NaN, an infinity, or what is clipped: bool, shape (3, item)."""
    if isinstance(value, np.ndarray):
        flat = value.reshape(len(value), -1)
        low, high = (flat.min(axis=1), flat.max(axis=1)) if flat.size else (np.zeros(len(flat)), np.zeros(len(flat)))
        rows: Iterable[NDArray[Any]] = flat
    else:
        rows = [np.asarray(row) for row in value]
        low = np.array([row.min() if row.size else 0.0 for row in rows])
        high = np.array([row.max() if row.size else 0.0 for row in rows])
    # The extremes of a row are NaN when anything in it is, and infinite when the worst of it is.
    nan = np.isnan(low)
    infinite = np.isinf(low) | np.isinf(high)
    for number, row in enumerate(rows) if nan.any() else ():
        if nan[number]:
            infinite[number] = bool(np.isinf(row).any())
    beyond = ~nan & ~infinite & (np.maximum(-low, high) > FLOAT16_MAX) if clipping else np.zeros_like(nan)
    return np.stack([nan, infinite, beyond])


def tabled(markers: Iterable[Mapping[str, Any]], sites: Sequence[str]) -> pd.DataFrame:
    """Add up what the markers of blocks say.

    Parameters
    ----------
    markers : iterable of mapping
        Of the finished blocks.
    sites : sequence of str
        In the order of the rows.

    Returns
    -------
    DataFrame
        Columns ``site, items, nan, infinite, clipped``; only sites at which an item counts.
    """
    total: Counts = {}
    for facts in markers:
        counted = facts.get("nonfinite")
        for site, kinds in counted.items() if isinstance(counted, Mapping) else ():
            row = total.setdefault(str(site), dict.fromkeys(("items", *KINDS), 0))
            for kind in row:
                row[kind] += int(kinds.get(kind, 0))
    return pd.DataFrame([{"site": s, **total[s]} for s in sites if s in total], columns=list(COLUMNS))


def sentence(table: pd.DataFrame, dtype: str, shown: int = 4) -> str:
    """Say which sites hold states that are not finite; empty when none does.

    Parameters
    ----------
    table : DataFrame
        From `tabled`.
    dtype : str
        In which the model computed.
    shown : int
        Sites that are named.
    """
    bad, clipped = table[(table["nan"] > 0) | (table["infinite"] > 0)], table[table["clipped"] > 0]
    parts = []
    if len(bad):
        named = [
            f"{row['site']} ({row['items'] - row['clipped']} items, {_reasons(row)})"
            for row in bad.head(shown).to_dict("records")
        ]
        more = f" and {len(bad) - shown} more" if len(bad) > shown else ""
        text = f"states are not finite at {len(bad)} of the recorded sites, first {', '.join(named)}{more}"
        parts.append(text + (f"; float16 overflows above {FLOAT16_MAX:.0f}" if dtype == "float16" else ""))
    if len(clipped):
        named = [f"{row['site']} ({row['clipped']} items)" for row in clipped.head(shown).to_dict("records")]
        more = f" and {len(clipped) - shown} more" if len(clipped) > shown else ""
        parts.append(f"the float16 store clipped states beyond {FLOAT16_MAX:.0f} at {', '.join(named)}{more}")
    return "; ".join(parts)


def _reasons(row: Mapping[Any, Any]) -> str:
    return " and ".join(
        word for kind, word in (("infinite", "infinite"), ("nan", "NaN")) if row[kind]
    )  # fmt: skip


def finite_rows(states: NDArray[Any], frames: bool = False) -> NDArray[np.bool_]:
    """Return which items have finite states: bool, shape (item,).

    Parameters
    ----------
    states : array, shape (item, ...)
    frames : bool
        Whether these are ``frames``, whose padding after the end of a clip is NaN and does not count.
    """
    flat = states.reshape(len(states), -1)
    if not frames:
        return np.asarray(np.isfinite(flat).all(axis=1))
    nan = np.isnan(states)
    padding = nan.all(axis=2)
    partly = nan.any(axis=2) & ~padding
    # Padding comes last: a frame of NaN with a real one behind it, or at the very beginning, is none.
    between = padding[:, :-1] & ~padding[:, 1:]
    return np.asarray(
        ~(np.isinf(flat).any(axis=1) | partly.any(axis=1) | between.any(axis=1) | padding[:, 0]), dtype=np.bool_
    )
