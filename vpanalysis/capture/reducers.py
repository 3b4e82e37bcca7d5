"""What is kept of a site: a few vectors instead of all frames, taken over valid frames only.

Why it exists. All frames of all layers of a 7-billion-parameter model over 2,000 clips are half a terabyte; their means
are one gigabyte. And batches are padded: padding frames are not zero and not neutral, a mean over them probes the
padding. So states are reduced where they arise, on the device, by something that knows which frames are real.

The idea. `Spans` says which frames of a padded tensor are valid and to which item each row belongs; a clip longer than
the model's window fills several rows, and its frames count as one sequence. A `Reducer` is one of

* ``mean``: over valid frames, accumulated in float32;
* ``segments(k)``: the means of k equal parts of the valid frames. A frame on the border of two parts is shared by
  overlap, so parts are equal whatever the length, the mean of the parts is the mean, and clips with fewer than k
  frames need no special rule. Pattern tasks need it, because "high-low-medium" and "low-medium-high" have one mean;
* ``last``: the last valid frame (at text sites the position whose output is the answer);
* ``frames``: every valid frame;
* ``none``: nothing.

Worked example, two parts of three frames [0, 3, 6]: the middle frame belongs half to each part::

    spans = Spans.per_item([3])
    reduce(torch.tensor([[[0.0], [3.0], [6.0], [99.0]]]), spans, Reducer.parse("segments(2)"))   # [[[1.], [5.]]]
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from vpanalysis.capture.sites import SiteSelector, clock_of, group_of, select_sites
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float

    from vpanalysis.capture._pooling import Pooling

__all__ = ["DEFAULT_SEGMENTS", "Plan", "Reducer", "ReducerLike", "Spans", "make_plan", "pooling_of", "reduce"]

DEFAULT_SEGMENTS = 6
"""Parts of ``segments`` by default: two for each rendition of the pattern tasks."""

_KINDS = ("mean", "segments", "last", "frames", "none")


@dataclass(frozen=True)
class Reducer:
    """What is kept of a site.

    Parameters
    ----------
    kind : {"mean", "segments", "last", "frames", "none"}
    parts : int
        Number of segments; 0 for other kinds.
    """

    kind: str
    parts: int = 0

    def __post_init__(self) -> None:
        if self.kind not in _KINDS or (self.kind == "segments") != (self.parts > 0) or self.parts < 0:
            raise RunError(
                "cannot use the reducer",
                found=f"{self.kind}({self.parts})" if self.parts else repr(self.kind),
                allowed="mean, segments(k) with k of at least 1, last, frames, none",
            )

    @classmethod
    def parse(cls, text: str | Reducer) -> Reducer:
        """Read ``"mean"``, ``"segments(6)"`` (``"segments"`` means six), ``"last"``, ``"frames"`` or ``"none"``.

        Raises
        ------
        RunError
            For anything else.
        """
        if isinstance(text, Reducer):
            return text
        found = re.fullmatch(r"segments\(?(\d+)?\)?", text.strip())
        if found:
            return cls("segments", DEFAULT_SEGMENTS if found[1] is None else int(found[1]))
        return cls(text.strip())

    @property
    def key(self) -> str:
        """The name in file and variable names: ``mean``, ``segments6``, ``last``, ``frames``."""
        return f"{self.kind}{self.parts or ''}"

    @property
    def vectors(self) -> int:
        """Vectors kept per item; 0 where that depends on the clip."""
        return {"mean": 1, "last": 1, "segments": self.parts}.get(self.kind, 0)

    def __str__(self) -> str:
        return f"segments({self.parts})" if self.parts else self.kind


ReducerLike = str | Reducer | Sequence[str | Reducer]
Plan = dict[str, tuple[Reducer, ...]]
"""What is kept, per site, in the order of the model."""


def make_plan(
    available: Sequence[str],
    sites: SiteSelector = None,
    reducers: ReducerLike | Mapping[str, ReducerLike] | None = None,
) -> Plan:
    """Decide what is kept of which site.

    Parameters
    ----------
    available : sequence of str
        Sites of the model, in order.
    sites : selector
        Which of them; see `select_sites`. Default: all.
    reducers : str, Reducer, sequence, or mapping from a site selector to these, optional
        Default: ``mean`` and ``segments(6)`` at audio sites, ``last`` at text sites. One value holds for all sites;
        in a mapping, later entries win and sites without an entry keep the default. ``gate`` and ``options`` are
        recorded as they are, unless ``none``.

    Returns
    -------
    dict of str to tuple of Reducer

    Raises
    ------
    RunError
        For an unknown site or reducer.
    """
    chosen = select_sites(available, sites)
    plan = {site: _default(site) for site in chosen}
    if isinstance(reducers, Mapping):
        for selector, wanted in reducers.items():
            # A reducer for a site that exists but was not selected is harmless; one for no site is a mistake.
            for site in select_sites(available, selector):
                if site in plan:
                    plan[site] = _parse_all(wanted)
    elif reducers is not None:
        plan = {site: _parse_all(reducers) for site in chosen}
    # Gate and options have no frames: there is one thing to keep of them.
    plan = {site: kept if clock_of(site) or not kept else (Reducer("last"),) for site, kept in plan.items()}
    return {site: kept for site, kept in plan.items() if kept}


def _default(site: str) -> tuple[Reducer, ...]:
    if group_of(site) in ("encoder", "audio"):
        return (Reducer("mean"), Reducer("segments", DEFAULT_SEGMENTS))
    return (Reducer("last"),)


def _parse_all(wanted: ReducerLike) -> tuple[Reducer, ...]:
    parsed = [Reducer.parse(r) for r in ([wanted] if isinstance(wanted, (str, Reducer)) else wanted)]
    return tuple(dict.fromkeys(r for r in parsed if r.kind != "none"))


@dataclass(frozen=True)
class Spans:
    """Which frames of a padded tensor are valid, and whose they are.

    Parameters
    ----------
    owner : tuple of int
        Item of each row, ascending; an item may own several rows, whose frames follow one another.
    lengths : tuple of int
        Valid frames of each row.
    items : int
        Number of items.
    padding : {"right", "left"}
        Where the padding stands.
    """

    owner: tuple[int, ...]
    lengths: tuple[int, ...]
    items: int
    padding: Literal["right", "left"] = "right"

    @classmethod
    def per_item(cls, lengths: Sequence[int], padding: Literal["right", "left"] = "right") -> Spans:
        """Return spans with one row an item."""
        return cls(tuple(range(len(lengths))), tuple(int(n) for n in lengths), len(lengths), padding)

    @classmethod
    def per_window(cls, windows: Sequence[Sequence[int]]) -> Spans:
        """Return spans from the valid frames of each window of each item."""
        owner = tuple(i for i, rows in enumerate(windows) for _ in rows)
        return cls(owner, tuple(int(n) for rows in windows for n in rows), len(windows))

    def take(self, start: int, stop: int) -> Spans:
        """Return the spans of rows [start, stop), with items counted from 0.

        Raises
        ------
        RunError
            If the rows of an item would be torn apart.
        """
        inside = set(self.owner[start:stop])
        if inside & (set(self.owner[:start]) | set(self.owner[stop:])):
            raise RunError("cannot reduce a clip", found="its windows in different batches", allowed="one batch a clip")
        number = {item: i for i, item in enumerate(sorted(inside))}
        owner = tuple(number[item] for item in self.owner[start:stop])
        return Spans(owner, self.lengths[start:stop], len(inside), self.padding)

    @property
    def totals(self) -> tuple[int, ...]:
        """Valid frames of each item over all its rows."""
        return tuple(int(n) for n in self._totals())

    def _totals(self) -> NDArray[np.int64]:
        return np.bincount(self.owner, weights=self.lengths, minlength=self.items).astype(np.int64)

    def _offsets(self) -> NDArray[np.int64]:
        """Return how many frames of its item precede each row."""
        before = np.cumsum(self.lengths, dtype=np.int64) - self.lengths
        first = np.searchsorted(self.owner, np.arange(self.items))
        return np.asarray(before - before[first[list(self.owner)]], dtype=np.int64)

    def valid(self, width: int) -> NDArray[np.bool_]:
        """Return which frames are real: bool, shape (rows, width)."""
        position = np.arange(width)[None, :]
        lengths = np.asarray(self.lengths, dtype=np.int64)[:, None]
        return position < lengths if self.padding == "right" else position >= width - lengths

    def segment_weights(self, parts: int, width: int) -> NDArray[np.float32]:
        """Return what each frame adds to each part: float32, shape (rows, parts, width).

        Part s of an item with n frames covers [s n / parts, (s + 1) n / parts); frame f covers [f, f + 1). The weight
        is their overlap over the length of the part, so the weights of a part sum to 1 over the rows of its item.
        """
        lengths = np.asarray(self.lengths, dtype=np.int64)
        start = 0 if self.padding == "right" else width - lengths[:, None]
        frame = self._offsets()[:, None] + np.arange(width)[None, :] - start
        total = self._totals()[list(self.owner)].astype(np.float64)[:, None, None]
        low = np.arange(parts)[None, :, None] * total / parts
        high = np.arange(1, parts + 1)[None, :, None] * total / parts
        overlap = np.minimum(frame[:, None, :] + 1, high) - np.maximum(frame[:, None, :], low)
        share = np.clip(overlap, 0, None) * parts / np.maximum(total, 1)
        return np.asarray(share * self.valid(width)[:, None, :], dtype=np.float32)


def reduce(
    state: Float[torch.Tensor, "rows frames width"],
    spans: Spans,
    reducer: str | Reducer,
    pooling: Pooling | None = None,
) -> Any:
    """Reduce one padded tensor.

    Parameters
    ----------
    state : Tensor, shape (rows, frames, width)
        Any float type, on any device.
    spans : Spans
        Of the same number of rows.
    reducer : str or Reducer
    pooling : Pooling, optional
        What `pooling_of` made for these spans and states of this shape on this device, where the caller has it already.

    Returns
    -------
    Tensor or list of Tensor
        float32, on the same device: (items, width) for ``mean`` and ``last``, (items, parts, width) for ``segments``;
        for ``frames`` a list of (valid frames, width), one an item. An item without any valid frame gives NaN.

    Raises
    ------
    RunError
        If `spans` does not fit `state`.
    """
    how = Reducer.parse(reducer)
    if pooling is None:
        pooling = pooling_of(state, spans)
    if how.kind == "segments":
        return pooling.segments(state, how.parts)
    return {"mean": pooling.mean, "last": pooling.last, "frames": pooling.frames}[how.kind](state)


def pooling_of(state: Float[torch.Tensor, "rows frames width"], spans: Spans) -> Pooling:
    """Return what reduces states of this shape on this device; worth keeping for all sites of a forward.

    Raises
    ------
    RunError
        If `spans` does not fit `state`.
    """
    from vpanalysis.capture._pooling import Pooling

    rows, width = int(state.shape[0]), int(state.shape[1])
    if rows != len(spans.lengths) or max(spans.lengths, default=0) > width:
        raise RunError(
            "cannot reduce a state",
            found=f"{rows} rows of {width} frames",
            allowed=f"{len(spans.lengths)} rows of at least {max(spans.lengths, default=0)} frames",
        )
    return Pooling(spans, width, state.device)
