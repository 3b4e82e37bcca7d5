"""Items whose states are not finite, taken out of what is probed: by request, and never in silence.

A probe of NaN fails, or worse, does not. So `probe_layers` refuses such states by name, and with ``nonfinite="drop"``
takes the items out as if they had failed: out of all sites, so that all curves stand on the same items, and out of
their cells, so that twins stay balanced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vpanalysis._finite import finite_rows
from vpanalysis.errors import RunError
from vpanalysis.probes.targets import RunLike

__all__ = ["NONFINITE", "LeftOut"]

NONFINITE = ("raise", "drop")


class LeftOut:
    """A Run whose items with states that are not finite count as failed.

    Parameters
    ----------
    run : Run
    sites : sequence of str
        The sites that will be probed.
    reducer_for : callable
        From a site and a task to what is read of it, for things that are no `vpanalysis.Run`.

    Attributes
    ----------
    dropped : DataFrame
        Columns ``id`` and ``task_name``, one row an item that was left out.
    """

    def __init__(self, run: RunLike, sites: Sequence[str], reducer_for: Callable[[str, str], str]) -> None:
        self.name, self.sites = run.name, list(run.sites)
        self.path = getattr(run, "path", None)
        self._run = run
        table = run.predictions
        ok = np.ones(len(table), dtype=bool)
        if "status" in table.columns:
            ok = (table["status"] != "failed").to_numpy(dtype=bool)
        bad = ok & ~self._finite(run, table, sites, reducer_for)
        self.dropped = table.loc[bad, ["id", "task_name"]].reset_index(drop=True)
        status = table["status"].to_numpy(dtype=object, copy=True) if "status" in table.columns else np.array(
            ["ok"] * len(table), dtype=object
        )  # fmt: skip
        status[bad] = "failed"
        self.predictions: pd.DataFrame = table.assign(status=status)
        if len(self.dropped) and not (self.predictions["status"] != "failed").any():
            raise RunError(
                f"cannot probe run {run.name!r} without its items of infinite or missing states",
                found="no item with finite states at all probed sites",
                fix="leave out the sites that Run.nonfinite names, or record the run again",
            )

    @staticmethod
    def _finite(
        run: Any, table: pd.DataFrame, sites: Sequence[str], reducer_for: Callable[[str, str], str]
    ) -> NDArray[np.bool_]:
        if callable(getattr(run, "finite", None)):
            return np.asarray(run.finite(sites), dtype=bool)
        keep = np.ones(len(table), dtype=bool)
        tasks = table["task_name"].astype(str)
        for site in sites:
            for task in tasks.unique():
                rows = (tasks == task).to_numpy()
                keep[rows] &= finite_rows(np.asarray(run.states(site, reducer_for(site, task)))[rows])
        return keep

    def states(self, site: str, reducer: str = "mean") -> NDArray[Any]:
        """Return the states of `site` over all items, also of those that were left out."""
        return self._run.states(site, reducer)

    def note(self, task: str) -> str:
        """Return what a reader of a task's accuracy has to know; empty when nothing was left out."""
        count = int((self.dropped["task_name"].astype(str) == task).sum())
        return f"{count} items of infinite or missing states left out" if count else ""
