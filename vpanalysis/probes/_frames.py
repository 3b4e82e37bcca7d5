"""Frames of clips that are not equally long, from a Run, a list or a padded array, on a clock in seconds.

Why it exists. Questions about time (where in a clip, from when on) need the frames themselves and how long one lasts.
Clips end at different times, so frames come as a list with an entry an item, and padding goes no further than here.

The idea. A Run keeps frames where it was asked to (``reducers="frames"``), padded with NaN after the end of a clip; a
site's clock (encoder frames, tower frames, audio tokens) says how many seconds one lasts. A Run that kept only
``segments(6)`` has six equal parts of every clip: a coarse clock that is relative to the clip, and better than none.
Sites of one clock have equally many frames of every item, which is how a frame that is missing is told from an end.

>>> held = from_frames([np.zeros((3, 2)), np.zeros((1, 2))], None, ["a", "b"])
>>> FrameReader(held).read("frames", np.array([0, 1])).lengths
array([3, 1])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from vpanalysis.capture.reducers import Reducer
from vpanalysis.capture.sites import clock_of, select_sites
from vpanalysis.errors import RunError
from vpanalysis.probes.inputs import from_arrays
from vpanalysis.probes.splits import FloatArray, IntArray
from vpanalysis.probes.targets import RunLike

__all__ = ["Binned", "FrameArrays", "FrameReader", "Frames", "from_frames"]

RELATIVE_BINS = 20
"""Parts of a clip on the relative clock, where nothing else is asked for."""

RECORD = 'vpanalysis.run(model, benchmark, out, reducers="frames", sites=...)'
"""The call that records what is read here."""


@dataclass(frozen=True, eq=False)
class Frames:
    """The frames of some items at one site.

    Attributes
    ----------
    items : list of arrays, shape (frame, feature), float32 or float64
        One an item, at least one frame each, finite.
    step : array, shape (item,), float64
        Length of a frame in `unit`; of a part of the clip in a Run that kept parts only, where NaN says that the clip's
        length is not known.
    unit : {"s", "position", "frame"}
        Seconds, places in the text, or mere counts.
    parts : int
        Number of equal parts, 0 for frames.
    """

    items: list[NDArray[np.floating[Any]]]
    step: FloatArray
    unit: str
    parts: int = 0

    @property
    def lengths(self) -> IntArray:
        """Frames of each item, shape (item,), int64."""
        return np.array([len(item) for item in self.items], dtype=np.int64)


class FrameArrays:
    """A Run that is nothing but frames: what :func:`from_frames` makes of lists and padded arrays.

    Attributes
    ----------
    name : str
    predictions : DataFrame
        One row an item, with the label in the column ``y``.
    sites : list of str
    """

    def __init__(self, frames: Mapping[str, list[NDArray[Any]]], predictions: pd.DataFrame) -> None:
        self.name, self.predictions, self.sites = "arrays", predictions, list(frames)
        self._frames = frames

    def reducers(self, site: str) -> list[str]:
        """Return what is kept of `site`: frames."""
        return ["frames"]

    def states(self, site: str, reducer: str = "frames") -> Any:
        """Return the frames of `site`, a list of arrays of shape (frame, feature)."""
        return self._frames[site]


def from_frames(frames: Any, lengths: ArrayLike | None, y: ArrayLike, groups: ArrayLike | None = None) -> FrameArrays:
    """Take frames, labels and groups from anywhere.

    Parameters
    ----------
    frames : sequence of arrays, shape (frame, feature), or array, shape (item, frame, feature), or mapping of these
        A mapping is from names of sites. Padding in an array may hold anything.
    lengths : array, shape (item,), optional
        Valid frames of each item; default all of them.
    y, groups : array, shape (item,)
        As in :func:`~vpanalysis.probes.inputs.from_arrays`.

    Returns
    -------
    FrameArrays

    Raises
    ------
    RunError
        For shapes and lengths that do not fit together.
    """
    named = dict(frames) if isinstance(frames, Mapping) else {"frames": frames}
    cut = {str(site): _cut(values, lengths) for site, values in named.items()}
    counts = {len(items) for items in cut.values()}
    if len(counts) != 1 or not min(counts):
        raise RunError("cannot probe the frames", found=f"{sorted(counts)} items at {len(cut)} sites")
    table = from_arrays(np.zeros((counts.pop(), 1)), y, groups).predictions
    return FrameArrays(cut, table)


def _cut(values: Any, lengths: ArrayLike | None) -> list[NDArray[Any]]:
    rows = [np.asarray(row) for row in values]
    ends = [len(row) for row in rows] if lengths is None else np.asarray(lengths).tolist()
    if len(ends) != len(rows) or any(row.ndim != 2 or not 0 < n <= len(row) for row, n in zip(rows, ends, strict=True)):
        raise RunError(
            "cannot probe the frames", found=f"{len(rows)} items of shapes {sorted({r.shape for r in rows})[:4]}"
            + ("" if lengths is None else f" and {len(ends)} lengths from {min(ends)} to {max(ends)}"),
            allowed="a (frame, feature) array an item with at least one frame, lengths within it",
        )  # fmt: skip
    return [row[: int(n)] for row, n in zip(rows, ends, strict=True)]


class FrameReader:
    """Reads the frames of a Run, site by site, and remembers how long its clips are.

    Parameters
    ----------
    run : Run
    seconds : float or mapping of str to float, optional
        Length of a frame, for all sites or by clock or site, where the Run does not tell.
    """

    def __init__(self, run: RunLike, seconds: float | Mapping[str, float] | None = None) -> None:
        self.run, self._given = run, seconds
        self._ends: dict[str, tuple[str, IntArray]] = {}
        self._told: dict[str, float] | None = None

    def choose(self, sites: Any, *, text: bool) -> list[str]:
        """Return the sites to read: those that `sites` selects, by default all that kept frames, else parts.

        Raises
        ------
        RunError
            Where none did.
        """
        kept = {site: self.parts(site) for site in self.run.sites if site not in ("gate", "options")}
        if not text:
            kept = {site: parts for site, parts in kept.items() if not site.startswith("text")}
        if sites is not None:
            return select_sites(list(self.run.sites), sites)
        framed = [site for site, parts in kept.items() if parts == 0]
        found = framed or [site for site, parts in kept.items() if parts is not None]
        if not found:
            raise RunError(
                f"cannot look into the clips of the Run {self.run.name!r}",
                found="neither frames nor segments at any site", fix=f"record them: {RECORD}",
            )  # fmt: skip
        return found

    def parts(self, site: str) -> int | None:
        """Return 0 where `site` kept frames, the largest number of parts where it kept these only, else None."""
        told = getattr(self.run, "reducers", None)
        kept = [Reducer.parse(r) for r in (told(site) if callable(told) else ["frames"])]
        if any(reducer.kind == "frames" for reducer in kept):
            return 0
        return max(
            (reducer.parts for reducer in kept if reducer.kind == "segments" and reducer.parts > 1), default=None
        )

    def read(self, site: str, rows: IntArray) -> Frames:
        """Return the frames of the items `rows` at `site`.

        Raises
        ------
        RunError
            Where they were not recorded, an item has none, or one is not finite.
        """
        parts = self.parts(site)
        asked = f"cannot probe the frames of {site!r} of run {self.run.name!r}"
        if parts is None:
            raise RunError(asked, found="neither frames nor segments of it", fix=f"record them: {RECORD}")
        states: Any = self.run.states(site, f"segments({parts})" if parts else "frames")
        items = [np.asarray(states[row]) for row in rows]
        # Float only; what comes as a padded array ends where nothing but NaN follows.
        items = [item if item.dtype in (np.float32, np.float64) else item.astype(np.float32) for item in items]
        if hasattr(states, "shape") and not parts:
            items = [item[: _end(item)] for item in items]
        ids = self.run.predictions["id"].astype(str).to_numpy()[rows]
        for name, item in zip(ids, items, strict=True):
            if item.ndim != 2 or not len(item) or not np.isfinite(item).all():
                found = "no frame" if item.ndim != 2 or not len(item) else "infinite or missing states"
                raise RunError(asked, found=f"{found} in item {name!r}", fix="record the run again, or leave it out")
        frames = Frames(items, np.full(len(rows), 1.0), "frame", parts)
        if parts:
            if "seconds" in self.run.predictions.columns:
                length = self.run.predictions["seconds"].to_numpy(dtype=np.float64)[rows]
                return Frames(items, length / parts, "s", parts)
            return Frames(items, np.full(len(rows), np.nan), "s", parts)
        self._check_ends(site, rows, frames.lengths, ids)
        step, unit = self._step(site)
        return Frames(items, np.full(len(rows), step), unit)

    def _check_ends(self, site: str, rows: IntArray, lengths: IntArray, ids: NDArray[Any]) -> None:
        clock = _clock(site)
        whole = np.full(len(self.run.predictions), -1, dtype=np.int64)
        whole[rows] = lengths
        if clock is None:
            return
        first, known = self._ends.setdefault(clock, (site, whole))
        both = (known >= 0) & (whole >= 0)
        if (known[both] != whole[both]).any():
            row = int(np.flatnonzero(both & (known != whole))[0])
            raise RunError(
                f"cannot probe the frames of {site!r} of run {self.run.name!r}",
                found=f"{whole[row]} frames of item {str(self.run.predictions['id'].iloc[row])!r}, "
                f"{known[row]} of it at {first!r}",
                allowed="equally many at sites of one clock", fix="record the run again",
            )  # fmt: skip
        self._ends[clock] = (first, np.maximum(known, whole))

    def _step(self, site: str) -> tuple[float, str]:
        clock = _clock(site)
        given = self._given
        if isinstance(given, Mapping):
            given = given.get(site, given.get(clock or ""))
        if given is not None:
            if not (np.isfinite(given) and given > 0):
                raise RunError("cannot read the clock", found=f"frames of {given} s", allowed="a positive number")
            return float(given), "s"
        if clock == "text":
            return 1.0, "position"
        if self._told is None:
            self._told = _told(self.run)
        return (self._told[clock], "s") if clock in self._told else (1.0, "frame")


def _end(item: NDArray[Any]) -> int:
    """Return the number of frames before nothing but NaN follows."""
    there = np.flatnonzero(~np.isnan(item).all(axis=1))
    return int(there[-1]) + 1 if len(there) else 0


def _clock(site: str) -> str | None:
    try:
        return clock_of(site)
    except RunError:
        return None


def _told(run: Any) -> dict[str, float]:
    """Return the seconds of a frame by clock, from the frame coordinates of the Run's activations."""
    if not hasattr(run, "activations"):
        return {}
    coordinates: Mapping[Any, Any] = run.activations.coords
    out = {}
    for name, values in coordinates.items():
        if str(name).endswith("_frame") and len(values):
            # A coordinate is the middle of a frame, so the first is half of one.
            out[str(name).removesuffix("_frame")] = 2.0 * float(np.asarray(values)[0])
    return out


class Binned:
    """The frames of some items in time bins.

    Attributes
    ----------
    values : array, shape (item, bin, feature), float64
        Means of the frames in a bin, NaN where an item has none.
    start, stop : array, shape (bin,), float64
        Seconds, or shares of the clip where `unit` is ``"clip"``.
    unit : {"s", "clip"}
    note : str
    """

    def __init__(self, frames: Frames, site: str, align: str, width: float, bins: int | None) -> None:
        self.note = ""
        if frames.parts:
            align, bins = "relative", frames.parts
            self.note = f"{frames.parts} equal parts of a clip: no frames were recorded"
        elif align != "relative" and frames.unit != "s":
            raise RunError(
                f"cannot follow {site!r} over time", found=f"no clock in seconds, its frames are {frames.unit}s",
                allowed="audio sites, or frames with frame_seconds", fix="give frame_seconds, or align='relative'",
            )  # fmt: skip
        lengths = frames.lengths
        each: FloatArray = frames.step
        first: FloatArray = np.zeros(len(lengths))
        if align == "relative":
            self.unit, count = "clip", bins or RELATIVE_BINS
            edges = np.linspace(0.0, 1.0, count + 1)
            each = np.reciprocal(lengths.astype(np.float64))
        else:
            self.unit = "s"
            longest = int(np.ceil(float((lengths * frames.step).max()) / width - 1e-9))
            count = longest if bins is None else min(bins, longest)
            edges = np.asarray(np.arange(count + 1) * width, dtype=np.float64)
            if align == "end":
                edges, first = edges - count * width, np.asarray(-lengths * frames.step, dtype=np.float64)
            if float(frames.step.max()) > width * (1 + 1e-9):
                self.note = f"a frame lasts {frames.step.max():g} s, longer than a bin: neighbours share frames"
        self.start, self.stop = edges[:-1], edges[1:]
        self.values = np.full((len(lengths), count, frames.items[0].shape[1]), np.nan)
        for i, item in enumerate(frames.items):
            at = first[i] + np.arange(len(item) + 1) * each[i]
            share = np.minimum(at[1:], self.stop[:, None]) - np.maximum(at[:-1], self.start[:, None])
            # What is left of rounding at a border is no overlap.
            share = np.where(share > 1e-9 * each[i], share, 0.0)
            total = share.sum(axis=1)
            there = total > 0
            self.values[i, there] = share[there] @ item.astype(np.float64) / total[there, None]
