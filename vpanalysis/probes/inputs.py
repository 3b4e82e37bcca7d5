"""Everything that can be probed, as a Run: a folder, arrays from anywhere, a model with a benchmark.

Why it exists. A probe needs items, labels, groups and states. A Run of this package has them; so has the cache of any
other tool once somebody says which axis is which; and a model with a benchmark can make them.

The idea. All of them become the same four attributes (name, predictions, sites, states), so that folds, shuffles and
intervals are the same for Whisper's states as for an array out of a notebook.

>>> X = np.zeros((4, 2, 3)); X[2:, 1] = 1
>>> held = from_arrays(X, [0, 0, 1, 1], groups=["a", "b", "a", "b"])
>>> held.sites, held.states("layer[1]").shape
(['layer[0]', 'layer[1]'], (4, 3))
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from vpanalysis.errors import RunError
from vpanalysis.probes.targets import RunLike, reads_rows, states_of

__all__ = ["GROUP", "TASK", "Arrays", "Held", "from_arrays", "is_arrays", "recorded"]

TASK, GROUP = "y", "group"
"""Name of the task and of the target, and of the column with the groups, when arrays are probed."""

_ITEM, _LAYER, _FEATURE = ("item", "items", "sample"), ("layer", "layers", "site"), ("feature", "features", "hidden")


class Arrays:
    """A Run that is nothing but arrays.

    Attributes
    ----------
    name : str
    predictions : DataFrame
        One row an item, with the label in the column ``y``.
    sites : list of str
    """

    def __init__(self, states: NDArray[Any], sites: Sequence[str], predictions: pd.DataFrame) -> None:
        self.name, self.predictions, self.sites = "arrays", predictions, list(sites)
        self._states = states

    def states(self, site: str, reducer: str = "mean", rows: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """Return the states of `site`, shape (item, feature); arrays are pooled already, so `reducer` is ignored."""
        states = self._states[:, self.sites.index(site)]
        return states if rows is None else states[rows]


class Held:
    """A Run whose states are read once for all tasks and targets, as far as they fit.

    Parameters
    ----------
    run : Run
    most : float
        Bytes that may be held; states beyond that are read whenever they are asked for.
    """

    def __init__(self, run: RunLike, most: float = 5e8) -> None:
        self.name, self.predictions, self.sites = run.name, run.predictions, list(run.sites)
        self.path: Path | None = getattr(run, "path", None)
        self._run, self._left = run, most
        self._states: dict[tuple[str, str], NDArray[Any]] = {}

    def states(self, site: str, reducer: str = "mean", rows: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """Return the states of `site`, or some rows of them, from memory after the first time if they fit."""
        found = self._states.get((site, reducer))
        if found is None:
            if rows is not None and len(rows) and reads_rows(self._run):
                # One row tells what all would take, and whether it is worth to read more than is asked for.
                one = states_of(self._run, site, reducer, rows[:1])
                if one.nbytes * len(self.predictions) > self._left:
                    return states_of(self._run, site, reducer, rows)
            found = np.asarray(self._run.states(site, reducer))
            if found.nbytes <= self._left:
                self._left -= found.nbytes
                self._states[site, reducer] = found
        return found if rows is None else found[rows]


def is_arrays(value: object) -> bool:
    """Whether `value` is an array, a tensor or an xarray DataArray, and no Run."""
    return hasattr(value, "shape") and hasattr(value, "__array__")


def from_arrays(X: Any, y: ArrayLike, groups: ArrayLike | None = None) -> Arrays:
    """Take states, labels and groups from anywhere.

    Parameters
    ----------
    X : array, shape (item, layer, feature) or (item, feature), or xarray DataArray
        A DataArray's dimensions may stand in any order if they are called item, layer and feature; coordinates of
        ``layer`` that are words name the sites.
    y : array, shape (item,)
        Floating point numbers are regressed on; everything else is classes. Missing labels (NaN, None) are left out.
    groups : array, shape (item,), optional
        What no fold may split; every item by itself by default.

    Returns
    -------
    Arrays

    Raises
    ------
    RunError
        For shapes that do not fit together.
    """
    names: list[str] | None = None
    if hasattr(X, "dims") and hasattr(X, "coords"):
        X, names = _ordered(X)
    states = np.asarray(X)
    if states.ndim == 2:
        states = states[:, None]
    if states.ndim != 3 or not states.size or states.dtype.kind not in "fiu":
        raise RunError(
            "cannot probe the array", found=f"shape {np.shape(X)}, type {states.dtype}",
            allowed="numbers, shape (item, layer, feature) or (item, feature)",
            fix="pool time first: one vector an item and layer",
        )  # fmt: skip
    labels = pd.Series(np.asarray(y) if not isinstance(y, pd.Series) else y.to_numpy())
    if labels.shape != (len(states),):
        raise RunError("cannot probe the array", found=f"{len(states)} items and labels of shape {np.shape(y)}")
    table = pd.DataFrame({"id": [str(i) for i in range(len(states))], "task_name": TASK, "condition": "all"})
    table[TASK] = labels if labels.dtype.kind == "f" else labels.where(labels.notna()).map(str, na_action="ignore")
    if groups is not None:
        given = np.asarray(groups)
        if given.shape != (len(states),):
            raise RunError("cannot probe the array", found=f"{len(states)} items and groups of shape {given.shape}")
        table[GROUP] = given.astype(str)
    return Arrays(states, names or [f"layer[{i}]" for i in range(states.shape[1])], table)


def _ordered(X: Any) -> tuple[NDArray[Any], list[str] | None]:
    """Return a DataArray's values with item first and feature last, and its names of layers."""
    dims = [str(dim) for dim in X.dims]
    roles = [next((d for d in dims if d.lower() in known), None) for known in (_ITEM, _LAYER, _FEATURE)]
    if len(dims) == 3 and None not in roles:
        X = X.transpose(*roles)
    elif len(dims) == 2 and roles[0] is not None:
        X = X.transpose(roles[0], *(d for d in dims if d != roles[0]))
    names = None
    layer = str(X.dims[1]) if len(dims) == 3 else None
    if layer is not None and layer in X.coords:
        values = [str(value) for value in np.asarray(X.coords[layer])]
        # Numbers and repeated names would be no sites to speak of.
        words = len(set(values)) == len(values) and not all(v.lstrip("-").isdigit() for v in values)
        names = values if words else [f"layer[{v}]" for v in values] if len(set(values)) == len(values) else None
    return np.asarray(X), names


@contextmanager
def recorded(
    model: Any,
    benchmark: Any,
    out: str | Path | None,
    sites: str | Sequence[str] | Callable[[str], bool] | None,
    reducer: str,
    progress: bool,
) -> Iterator[RunLike]:
    """Run a model over a benchmark and give the Run.

    Parameters
    ----------
    model, benchmark
        As :func:`vpanalysis.run` takes them; an encoder alone will do.
    out : str or Path, optional
        Where the Run is kept and, next time, found; a temporary folder by default.
    sites, reducer, progress
        As in :func:`~vpanalysis.probes.probe_layers`.

    Yields
    ------
    Run
        Its folder is gone afterwards, unless `out` was given.
    """
    # Late, because probes of a Run need no model.
    from vpanalysis.runs import run

    asked: dict[str, Any] = {"sites": sites, "reducers": None if reducer == "auto" else reducer, "progress": progress}
    if out is not None:
        yield run(model, benchmark, out, **asked)
        return
    with tempfile.TemporaryDirectory(prefix="vpanalysis-probe-") as folder:
        yield run(model, benchmark, Path(folder) / "run", **asked)
