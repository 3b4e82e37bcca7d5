"""Activations from anywhere, in one form: named sites, a matrix each, ids, and clusterings of the items.

A view takes a finished Run, an array of shape (item, layer, feature), an xarray DataArray with these dimensions, or a
mapping from site names to matrices (for sites of unlike width). This module turns each into :class:`Activations`,
checks that the states are finite, and pairs two of them item by item.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from vpanalysis._saved import run_identity
from vpanalysis.errors import RunError
from vpanalysis.probes.layers import choose_sites, reducer_for
from vpanalysis.probes.splits import FloatArray, IntArray, group_ids
from vpanalysis.probes.targets import read_states, tasks_of

__all__ = ["Activations", "Sites", "is_run", "of_arrays", "of_rows", "paired", "read"]

Sites = str | Sequence[str] | Callable[[str], bool] | None


@dataclass(frozen=True, eq=False)
class Activations:
    """Sites by name, in order.

    Attributes
    ----------
    name : str
    states : dict of str to array, shape (item, feature), float64
    ids : array, shape (item,), object
        Item ids, by which two Runs are paired; row numbers for arrays.
    clusters : dict of str to array, shape (item,), int64
    made : dict
        How they were read: goes into the settings of a result.
    """

    name: str
    states: dict[str, FloatArray]
    ids: NDArray[np.object_]
    clusters: dict[str, IntArray]
    made: dict[str, Any]

    @property
    def sites(self) -> list[str]:
        """Names of the sites, in order."""
        return list(self.states)

    @property
    def items(self) -> int:
        """Number of items."""
        return len(self.ids)

    def take(self, rows: IntArray) -> Activations:
        """Return the items at `rows`, in that order."""
        return replace(
            self,
            states={site: states[rows] for site, states in self.states.items()},
            ids=self.ids[rows],
            clusters={name: codes[rows] for name, codes in self.clusters.items()},
        )


def is_run(data: Any) -> bool:
    """Whether `data` has what a probe needs of a Run."""
    return all(hasattr(data, name) for name in ("predictions", "sites", "states"))


def read(
    data: Any,
    *,
    sites: Sites = None,
    tasks: str | Sequence[str] | None = None,
    conditions: Sequence[str] | None = None,
    groups: ArrayLike | Mapping[str, ArrayLike] | None = None,
    group_by: Sequence[str] = ("speaker", "script"),
    reducer: str = "auto",
) -> Activations:
    """Return the activations that `data` holds.

    Parameters
    ----------
    data : Run, array, DataArray or mapping of str to array
    sites : str, sequence of str or callable, optional
    tasks, conditions, group_by, reducer
        Of a Run: which items, their clusterings, and the stored reducer (``"auto"``: ``last`` at text sites, else
        ``mean``).
    groups : array_like, shape (item,), or mapping of str to such, optional
        Of arrays; default: items are independent.

    Returns
    -------
    Activations

    Raises
    ------
    RunError
        For states that are not finite or not of that shape, and unknown names.
    """
    if not is_run(data):
        return of_arrays(data, groups, sites)
    table = data.predictions
    keep = table["task_name"].astype(str).isin(tasks_of(data, tasks)).to_numpy(copy=True)
    if "status" in table.columns:
        keep &= (table["status"] != "failed").to_numpy()
    if conditions is not None:
        condition = table["condition"].astype(str)
        for name in conditions:
            if name not in set(condition):
                raise RunError(
                    "cannot select the condition", found=repr(name), allowed=sorted(set(condition)), word=name
                )
        keep &= condition.isin(list(conditions)).to_numpy()
    rows = np.flatnonzero(keep).astype(np.int64)
    made = {"tasks": tasks_of(data, tasks), "conditions": None if conditions is None else list(conditions)}
    return of_rows(data, rows, sites, group_by, reducer, made)


def of_rows(
    run: Any, rows: IntArray, sites: Sites, group_by: Sequence[str], reducer: str, made: Mapping[str, Any]
) -> Activations:
    """Return the states of the items at `rows` of a Run."""
    frame = run.predictions.iloc[rows].reset_index(drop=True)
    found = [group_ids(frame, column) for column in group_by]
    states = {
        site: read_states(run, site, reducer_for(site, "", reducer), rows)[0].astype(np.float64)
        for site in choose_sites(run.sites, sites)
    }
    return Activations(
        run.name, states, frame["id"].astype(str).to_numpy(dtype=object), {used: codes for codes, used in found},
        {**made, **run_identity(run), "reducer": reducer},
    )  # fmt: skip


def of_arrays(data: Any, groups: ArrayLike | Mapping[str, ArrayLike] | None, sites: Sites) -> Activations:
    """Return the activations in an array (item, layer, feature), a DataArray, or a mapping of matrices."""
    states = _named(data)
    wanted = choose_sites(list(states), sites)
    states = {site: np.ascontiguousarray(states[site], dtype=np.float64) for site in wanted}
    count = len(next(iter(states.values()))) if states else 0
    for site, matrix in states.items():
        if matrix.ndim != 2 or len(matrix) != count or not matrix.size:
            raise RunError(
                f"cannot read site {site!r}", found=f"shape {matrix.shape}", allowed=f"({count} items, features)"
            )
        finite = np.isfinite(matrix).all(axis=1)
        if not finite.all():
            raise RunError(
                f"cannot read site {site!r}",
                found=f"{int((~finite).sum())} items with infinite or missing states, first item "
                f"{int(np.argmin(finite))}",
                fix="leave these items out",
            )
    clusters = {}
    for name, labels in (
        {} if groups is None else groups if isinstance(groups, Mapping) else {"group": groups}
    ).items():
        codes = np.asarray(labels)
        if codes.shape != (count,):
            raise RunError(f"cannot group by {name!r}", found=f"shape {codes.shape}", allowed=f"({count},)")
        clusters[str(name)] = np.unique(codes.astype(str), return_inverse=True)[1].astype(np.int64)
    ids = np.array([str(row) for row in range(count)], dtype=object)
    return Activations("array", states, ids, clusters, {"run": None, "manifest_sha": None, "reducer": None})


def _named(data: Any) -> dict[str, Any]:
    if isinstance(data, Mapping):
        if not data:
            raise RunError("cannot read activations", found="an empty mapping")
        return {str(site): np.asarray(values) for site, values in data.items()}
    names = None
    if hasattr(data, "dims") and hasattr(data, "coords"):
        if set(data.dims) != {"item", "layer", "feature"}:
            raise RunError("cannot read the DataArray", found=f"dimensions {tuple(data.dims)}",
                           allowed=("item", "layer", "feature"))  # fmt: skip
        data = data.transpose("item", "layer", "feature")
        names = [str(name) for name in data.coords["layer"].values] if "layer" in data.coords else None
    values = np.asarray(data)
    if values.ndim != 3 or not values.size or not np.issubdtype(values.dtype, np.number):
        raise RunError(
            "cannot read activations", found=f"an array of shape {values.shape} and type {values.dtype}",
            allowed="a Run, numbers of shape (item, layer, feature), or a mapping of site names to matrices",
        )  # fmt: skip
    names = [f"layer[{number}]" for number in range(values.shape[1])] if names is None else names
    if len(set(names)) != len(names):
        raise RunError("cannot read the DataArray", found="two layers of one name", fix="name the layers apart")
    return {name: values[:, number] for number, name in enumerate(names)}


def paired(first: Activations, second: Activations) -> tuple[Activations, Activations]:
    """Return both with the items they share, in the order of the first; RunError where there are none."""
    for one in (first, second):
        if pd.Index(one.ids).has_duplicates:
            raise RunError(f"cannot pair the items of {one.name!r}", found="an id that occurs twice")
    place = {str(key): row for row, key in enumerate(second.ids)}
    mine = np.array([row for row, key in enumerate(first.ids) if str(key) in place], dtype=np.int64)
    if not len(mine):
        raise RunError(
            f"cannot compare {first.name!r} with {second.name!r}", found="no item in both",
            fix="run both on one benchmark",
        )  # fmt: skip
    theirs = np.array([place[str(key)] for key in first.ids[mine]], dtype=np.int64)
    return first.take(mine), second.take(theirs)
