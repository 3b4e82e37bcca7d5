"""Where a label points: difference-of-means and probe directions of every site, kept for steering.

Why it exists. A direction along which "sad" differs from the rest can be added to a running model, and then decodable
becomes testable: does the answer move? Two candidates, both in the site's own features:

``means``  mean of the class minus mean of the others (Marks and Tegmark 2024 call it mass-mean). What moves the states
           from here to there.
``probe``  weights of the logistic regression of the class against the others on standardised states, brought back to
           raw features. What a reader uses, which also cancels what it should ignore (Haufe et al. 2014): good for
           reading, often poor for steering.

Both have length one, so a step needs a unit: ``spread`` is the root mean square distance of the items from the site's
mean, ``along`` their standard deviation along the direction, ``gap`` the distance of the two means along it. With two
classes there is one direction, towards the second by name. Items are weighted as in the probes, so that a direction of
the truth does not lean on the words.

Worked example::

    found = directions(run, "truth", task="emotion_recognition")
    found.save("directions"); found = Directions.load("directions")
    step = 0.5 * found.row("text[3]", "sadness")["spread"] * found.vector("text[3]", "sadness")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from vpanalysis.errors import RunError
from vpanalysis.probes.estimator import DEFAULT_C, single_thread
from vpanalysis.probes.logistic import LogisticProbe
from vpanalysis.probes.splits import FloatArray, IntArray
from vpanalysis.probes.views._input import Activations, Sites, is_run, of_arrays, of_rows
from vpanalysis.probes.views._labels import codes_of, task_items
from vpanalysis.probes.views._result import ViewResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["METHODS", "Directions", "directions"]

METHODS = ("means", "probe")
"""Kinds of direction."""

_FILE = "vectors.npz"


class Directions(ViewResult):
    """Unit vectors per site, class and method.

    Parameters
    ----------
    table : DataFrame
        A row a vector: site, site_order, label, method, features, gap, along, spread, cosine (with the other method's
        direction), n.
    settings : mapping
    vectors : dict of str to array, shape (row of the site, feature), float64
        By site, in the order of its rows in `table`; NaN where there is no direction, because the means are equal.
    centres : dict of str to array, shape (feature,), float64
        Weighted mean of the states of each site.
    """

    vectors: dict[str, FloatArray]
    centres: dict[str, FloatArray]

    def __init__(
        self, table: pd.DataFrame, settings: Any, vectors: dict[str, FloatArray], centres: dict[str, FloatArray]
    ) -> None:
        super().__init__(table, settings)
        # The dataclass above is frozen: attributes are set once, here.
        object.__setattr__(self, "vectors", vectors)
        object.__setattr__(self, "centres", centres)

    def _place(self, site: str, label: str | None, method: str) -> int:
        here = self.table[self.table["site"] == site].reset_index(drop=True)
        if here.empty:
            raise RunError("cannot find a direction", found=repr(site), allowed=self.sites, word=site)
        labels = list(dict.fromkeys(here["label"]))
        if label is None and len(labels) == 1:
            label = str(labels[0])
        at = here.index[(here["label"] == label) & (here["method"] == method)]
        if not len(at):
            raise RunError(
                "cannot find a direction", found=f"label {label!r}, method {method!r}", allowed=[*labels, *METHODS]
            )
        return int(at[0])

    def vector(self, site: str, label: str | None = None, method: str = "means") -> FloatArray:
        """Return a unit vector, shape (feature,), float64.

        Parameters
        ----------
        site : str
        label : str, optional
            Class towards which it points; may be left out with two classes.
        method : {"means", "probe"}

        Raises
        ------
        RunError
            For what is not there.
        """
        return np.array(self.vectors[site][self._place(site, label, method)], dtype=np.float64)

    def row(self, site: str, label: str | None = None, method: str = "means") -> dict[str, Any]:
        """Return the row of :attr:`table` that belongs to :meth:`vector`, as a dict."""
        place = self._place(site, label, method)
        found = self.table[self.table["site"] == site].iloc[place].to_dict()
        return {str(key): value for key, value in found.items()}

    def project(self, states: ArrayLike, site: str, label: str | None = None, method: str = "means") -> FloatArray:
        """Return how far states, shape (item, feature), lie along a direction from the site's mean, in ``spread``."""
        vector = self.vector(site, label, method)
        centred = np.asarray(states, dtype=np.float64) - self.centres[site]
        spread = float(self.row(site, label, method)["spread"])
        return np.asarray(centred @ vector / spread, dtype=np.float64)

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw cosines of the directions of all sites; see :func:`vpanalysis.plots.direction_map`."""
        from vpanalysis.plots.views import direction_map

        return direction_map(self, ax=ax, **kwargs)

    def _save_more(self, folder: Path) -> None:
        arrays: dict[str, NDArray[Any]] = {}
        for number, site in enumerate(self.sites):
            arrays[f"vectors_{number}"], arrays[f"centre_{number}"] = self.vectors[site], self.centres[site]
        np.savez(folder / _FILE, **arrays)  # type: ignore[arg-type]

    @classmethod
    def _load_more(cls, folder: Path) -> dict[str, Any]:
        if not (folder / _FILE).is_file():
            raise RunError(f"cannot load directions from {str(folder)!r}", found=f"no {_FILE}")
        sites = list(dict.fromkeys(pd.read_parquet(folder / "table.parquet")["site"]))
        with np.load(folder / _FILE, allow_pickle=False) as stored:
            held = {key: stored[key] for key in stored.files}
        return {
            "vectors": {site: held[f"vectors_{number}"] for number, site in enumerate(sites)},
            "centres": {site: held[f"centre_{number}"] for number, site in enumerate(sites)},
        }


def directions(
    data: Any,
    label: str | ArrayLike,
    *,
    task: str | None = None,
    sites: Sites = None,
    C: float = DEFAULT_C,
    reducer: str = "auto",
) -> Directions:
    """Find the directions of a label at every site, from all items.

    Parameters
    ----------
    data : Run, array of shape (item, layer, feature), DataArray or mapping of str to array
    label : str, or array_like of shape (item,)
        Of a Run: ``"truth"``, ``"claim"`` or a column. Of arrays: labels.
    task : str, optional
        Of a Run; needed where it has several.
    sites, reducer
        As in :func:`~vpanalysis.probes.views.similarity`. A site read in segments has directions of all segments side
        by side, which cannot be added to a state.
    C : float
        Inverse penalty of the probe on standardised features.

    Returns
    -------
    Directions

    Raises
    ------
    RunError
        For fewer than two classes, and states that are not finite.

    Notes
    -----
    All items are used, none is held out: accuracies come from :func:`~vpanalysis.probe_layers`, not from here.
    """
    if is_run(data):
        if not isinstance(label, str):
            raise RunError("cannot find the labels", found="an array with a Run", allowed="a target or a column")
        items = task_items(data, task, label, ())
        found = of_rows(data, items.rows, sites, (), reducer, {"task": items.task, "label": label, "note": items.note})
        codes, names, weights = items.labels, items.classes, items.weights
    else:
        found = of_arrays(data, None, sites)
        codes, names = codes_of(label, found.items)
        weights = np.ones(found.items)
    with single_thread():
        table, vectors, centres = _all(found, codes, names, weights, C)
    return Directions(pd.DataFrame(table), found.made | {"items": found.items, "C": C}, vectors, centres)


def _all(
    data: Activations, codes: IntArray, names: tuple[str, ...], weights: FloatArray, C: float
) -> tuple[list[dict[str, Any]], dict[str, FloatArray], dict[str, FloatArray]]:
    towards = [1] if len(names) == 2 else list(range(len(names)))
    w = weights / weights.sum()
    table, vectors, centres = [], {}, {}
    for order, (site, states) in enumerate(data.states.items()):
        # Directions do not move with the origin; from an item on, constant features are exactly zero under any weights.
        x = states - states[0]
        centre = w @ x
        spread = float(np.sqrt(w @ np.sum((x - centre) ** 2, axis=1)))
        unit = []
        for number in towards:
            mine = codes == number
            means = np.average(x[mine], axis=0, weights=w[mine]) - np.average(x[~mine], axis=0, weights=w[~mine])
            probe = LogisticProbe(C=C).fit(x, mine.astype(np.int64), weights).coef_[0]
            pair = [_unit(means, spread), _unit(probe, 0.0)]
            for method, vector in zip(METHODS, pair, strict=True):
                along = (x - centre) @ vector
                table.append(
                    {
                        "site": site, "site_order": order, "label": names[number], "method": method,
                        "features": x.shape[1], "gap": float(means @ vector), "along": float(np.sqrt(w @ along**2)),
                        "spread": spread, "cosine": float(pair[0] @ pair[1]), "n": data.items,
                    }
                )  # fmt: skip
            unit += pair
        vectors[site], centres[site] = np.stack(unit), centre + states[0]
    return table, vectors, centres


def _unit(vector: FloatArray, spread: float) -> FloatArray:
    length = float(np.linalg.norm(vector))
    # Equal means differ by rounding, whose direction means nothing.
    return vector / length if length > 1e-12 * spread and length > 0 else np.full_like(vector, np.nan)
