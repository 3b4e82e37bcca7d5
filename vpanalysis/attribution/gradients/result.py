"""What ``attribute`` found: a map an item, how well it adds up, how true it is of the model, and means per task.

Why it exists. A map without its baseline, its missing remainder and its checks is a picture of something. They are kept
together: one table a row an item with all numbers, one with the maps themselves, one with the curves of deletion and
insertion, and one of means per task with their intervals.

>>> found = attribute("mini-pclm-dpo", "mini", site="features")          # doctest: +SKIP
>>> found.map(found.items[0])         # xarray, mel_hz by time_s, nats   # doctest: +SKIP
>>> found.plot()                      # seconds and hertz                # doctest: +SKIP
>>> found.plot_faithfulness()         # curves against random orders     # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis import stats
from vpanalysis._flips import flip_family
from vpanalysis._results import TableResult
from vpanalysis.attribution._recovery import recovered
from vpanalysis.attribution.gradients.baselines import BASELINES
from vpanalysis.attribution.gradients.faithfulness import CURVES, GRID
from vpanalysis.attribution.margins import clusters_by_name
from vpanalysis.errors import RunError
from vpanalysis.stats import FloatArray

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["ALL", "MAPS", "MEASURES", "SUMMARY", "TABLE", "AttributionResult", "summary_table"]

ALL = "all"
"""What stands for the task in rows over all tasks."""

TABLE = (
    "id", "task", "condition", "speaker", "script", "margin", "baseline_margin", "sum", "delta", "error", "deletion",
    "deletion_random", "insertion", "insertion_random", "infidelity", "infidelity_of_zeros", "agreement", "randomised",
)  # fmt: skip
"""Columns of :attr:`AttributionResult.table`."""

MAPS = ("id", "kind", "shape", "values", "step_s", "tokens", "spans")
"""Columns of :attr:`AttributionResult.maps`."""

MEASURES = ("effect", "delta", "deletion_gain", "insertion_gain", "infidelity_relative", "agreement", "randomised")
"""What is averaged over items. The gains are areas in nats, of random orders less the map's and the reverse;
infidelity_relative is the ratio of the mean infidelities of the maps and of maps of zeros (with Fieller's interval)."""

SUMMARY = ("task", "measure", "value", "low", "high", "p", "p_adjusted", "q", "n", "n_groups", "group")
"""Columns of :attr:`AttributionResult.summary`."""

_TESTED = ("deletion_gain", "insertion_gain")


@dataclass(frozen=True, repr=False)
class AttributionResult(TableResult):
    """Maps of what a margin came from.

    Attributes
    ----------
    table : DataFrame
        One row an item, columns :data:`TABLE`; margins, areas and deltas in nats, ``delta = margin - baseline_margin -
        sum``. Columns of checks are NaN where they were not made.
    maps : DataFrame
        One row an item, columns :data:`MAPS`: values flattened, nats, adding up to ``sum``.
    curves : DataFrame
        One row an item, curve and share of blocks: id, curve, share, margin (nats).
    summary : DataFrame
        One row a task (and one for all) and measure, columns :data:`SUMMARY`: means over items with their intervals;
        for the gains sign-flip p values, adjusted for both, and q over tasks.
    settings : mapping
    """

    VERB, TABLES, MAX_ROWS = "attribute", ("table", "maps", "curves", "summary"), 40

    table: pd.DataFrame
    maps: pd.DataFrame
    curves: pd.DataFrame
    summary: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def items(self) -> list[str]:
        """Ids of the items that were explained."""
        return list(self.table["id"])

    def _row(self, item_id: str | None) -> pd.Series[Any]:
        have = self.items
        name = have[0] if item_id is None else item_id
        if name not in have:
            shown = have if len(have) <= 20 else f"one of {len(have)} ids"
            raise RunError("cannot show an attribution", found=repr(item_id), allowed=shown, word=str(item_id))
        return self.maps.iloc[have.index(name)]

    def map(self, item_id: str | None = None) -> xr.DataArray:
        """Return the map of an item.

        Parameters
        ----------
        item_id : str, optional
            Default: the first.

        Returns
        -------
        DataArray, nats
            With the dims ``mel_hz, time_s`` at the log-mel input, ``time_s`` at audio sites, ``token`` at text sites,
            whose coordinates are the tokens' number, text, span (question, audio, options, answer, and silence for
            audio tokens behind the clip) and, for audio, time. Times are middles of frames in
            seconds, frequencies middles of bins in hertz. Its sum is the row's ``sum``.

        Raises
        ------
        RunError
            For an unknown item.
        """
        import xarray as xr

        row = self._row(item_id)
        values = np.asarray(row["values"], dtype=np.float64).reshape([int(n) for n in row["shape"]])
        step = float(row["step_s"])
        attrs = {"units": "nats", "item": row["id"], "baseline": self.settings.get("baseline"), "step_s": step}
        time = (np.arange(values.shape[-1]) + 0.5) * step
        if row["kind"] == "token":
            spans = list(row["spans"])
            heard = np.array([span == "audio" for span in spans])
            at = np.where(heard, (np.cumsum(heard) - 0.5) * step, np.nan)
            coords: dict[str, Any] = {
                "token": np.arange(len(values)), "text": ("token", list(row["tokens"])), "span": ("token", spans),
                "time_s": ("token", at),
            }  # fmt: skip
            return xr.DataArray(values, dims=["token"], coords=coords, attrs=attrs, name="attribution")
        if row["kind"] == "time":
            return xr.DataArray(values, dims=["time_s"], coords={"time_s": time}, attrs=attrs, name="attribution")
        edges = np.asarray(self.settings["mel_hz"], dtype=np.float64)
        coords = {"mel_hz": edges[1:-1], "time_s": time}
        return xr.DataArray(values, dims=["mel_hz", "time_s"], coords=coords, attrs=attrs, name="attribution")

    def over_time(self, segments: int = 6) -> pd.DataFrame:
        """Return how the attribution to the clip is spread over its time, on average per task.

        Parameters
        ----------
        segments : int
            Equal parts of the clip, whatever its length.

        Returns
        -------
        DataFrame
            One row a task (and one for all) and segment: task, segment, start, stop (shares of the clip), value (mean
            over items of the segment's sum, nats) with low and high, n, n_groups, group.

        Raises
        ------
        RunError
            For fewer than one segment.
        """
        if segments < 1:
            raise RunError("cannot divide the clips", found=f"segments={segments}", allowed="1 or more")
        each = np.stack([_segment_sums(row, segments) for _, row in self.maps.iterrows()])
        level, out = float(self.settings.get("level", 0.95)), []
        for task, here in _subsets(self.table):
            clusters = clusters_by_name(self.table[here])
            for number in range(segments):
                found = stats.mean(each[here, number], clusters, level=level)
                out.append(
                    {
                        "task": task, "segment": number, "start": number / segments, "stop": (number + 1) / segments,
                        "value": found.value, "low": found.low, "high": found.high, "n": found.n,
                        "n_groups": found.n_groups, "group": found.group,
                    }
                )  # fmt: skip
        return pd.DataFrame(out)

    def plot(self, item: str | None = None, ax: Axes | None = None) -> Axes:
        """Draw the map of an item (default the first): seconds and hertz, seconds, or its tokens.

        Parameters
        ----------
        item : str, optional
            Its id.
        ax : Axes, optional
        """
        from vpanalysis.plots import attributions

        row = self._row(item)
        known = self.table.iloc[self.items.index(row["id"])]
        gap = "delta" if self.settings.get("complete") else "gap"
        note = (
            f"{row['id']}: margin {known['margin']:+.2f} nats, {known['baseline_margin']:+.2f} at the baseline; the "
            f"map adds up to {known['sum']:+.2f} ({gap} {known['delta']:+.2g})."
        )
        edges = self.settings.get("mel_hz")
        return attributions.attribution_map(
            self.map(row["id"]), ax=ax, title=self._title(), note=note,
            mel_edges=None if edges is None else np.asarray(edges, dtype=np.float64),
        )  # fmt: skip

    def plot_over_time(self, ax: Axes | None = None, *, task: str = ALL, segments: int = 6) -> Axes:
        """Draw the mean attribution to equal parts of the clips with its interval, of one task or of all."""
        from vpanalysis.plots import attributions

        rows = self.over_time(segments)
        return attributions.attribution_profile(self._of_task(rows, task), ax=ax, title=self._title())

    def plot_faithfulness(self, ax: Axes | None = None, *, task: str = ALL) -> Axes:
        """Draw the mean curves of deletion and insertion, and those of random orders, of one task or of all.

        Raises
        ------
        RunError
            Where no checks were made, or for an unknown task.
        """
        from vpanalysis.plots import attributions

        if not len(self.curves):
            raise RunError("cannot draw the checks", found="a result made without them", fix="faithfulness=True")
        named = self.table[["id", "task", "speaker", "script"]]
        level, out = float(self.settings.get("level", 0.95)), []
        wide = self.curves.pivot(index="id", columns=["curve", "share"], values="margin").reindex(self.items)
        for name, here in _subsets(named):
            clusters = clusters_by_name(named[here])
            for curve in CURVES:
                for share in GRID:
                    found = stats.mean(wide[(curve, share)].to_numpy()[here], clusters, level=level)
                    row = {"task": name, "curve": curve, "share": share, "value": found.value, "low": found.low}
                    out.append({**row, "high": found.high, "n": found.n})
        rows = self._of_task(pd.DataFrame(out), task)
        return attributions.faithfulness_curves(rows, ax=ax, title=self._title())

    @staticmethod
    def _of_task(rows: pd.DataFrame, task: str) -> pd.DataFrame:
        have = list(dict.fromkeys(rows["task"]))
        if task not in have:
            raise RunError("cannot draw the attributions", found=repr(task), allowed=have, word=task)
        return rows[rows["task"] == task].reset_index(drop=True)

    def _title(self) -> str:
        s = self.settings
        against = BASELINES.get(str(s.get("baseline")), str(s.get("baseline")))
        method = str(s.get("method")).replace("_", " ")
        return f"{s.get('model')}, {s.get('site')}: {method}\nagainst {against}"

    def _parts(self) -> tuple[pd.DataFrame, str, str]:
        cells = [
            "–" if pd.isna(v) else f"{v:+.2f}" if pd.isna(lo) else f"{v:+.2f} [{lo:+.2f}, {hi:+.2f}]"
            for v, lo, hi in zip(self.summary["value"], self.summary["low"], self.summary["high"], strict=True)
        ]
        shown = self.summary.assign(cell=cells).pivot(index="task", columns="measure", values="cell")
        order = [name for name in MEASURES if name in shown.columns]
        shown = shown.reindex(index=list(dict.fromkeys(self.summary["task"])), columns=order).rename_axis(columns=None)
        note = (
            f"means over {len(self.table)} items. effect: margin less that at the baseline, nats; delta: what the maps "
            "lack of it; gains: areas between a map's order and random orders, nats, above 0 where the map is right; "
            "infidelity_relative: 1 for a map of zeros, – where it has no bounded interval; agreement with occlusion, "
            "randomised with the map of a model of shuffled weights: rank correlations"
        )
        return shown, f"AttributionResult: {self._title()}".replace("\n", " "), note


def _subsets(table: pd.DataFrame) -> list[tuple[str, Any]]:
    """Return all items and those of each task, as masks."""
    tasks = table["task"].to_numpy()
    return [(ALL, np.ones(len(table), dtype=bool)), *((str(t), tasks == t) for t in dict.fromkeys(tasks))]


def _segment_sums(row: pd.Series[Any], segments: int) -> FloatArray:
    """Return the sums of a map over equal parts of the clip; a frame on an edge is shared."""
    values = np.asarray(row["values"], dtype=np.float64).reshape([int(n) for n in row["shape"]])
    if row["kind"] == "token":
        values = values[np.array([span == "audio" for span in row["spans"]])]
    elif row["kind"] == "mel_time":
        values = values.sum(axis=0)
    whole = np.concatenate([[0.0], np.cumsum(values)])
    return np.diff(np.interp(np.linspace(0, len(values), segments + 1), np.arange(len(whole)), whole))


def measured(table: pd.DataFrame) -> dict[str, FloatArray]:
    """Return the measures of every item, by the names of :data:`MEASURES`; of relative ones the numerator."""

    def of(name: str) -> FloatArray:
        return table[name].to_numpy(dtype=np.float64)

    return {
        "effect": of("margin") - of("baseline_margin"), "delta": of("delta"),
        "deletion_gain": of("deletion_random") - of("deletion"),
        "insertion_gain": of("insertion") - of("insertion_random"), "infidelity_relative": of("infidelity"),
        "agreement": of("agreement"), "randomised": of("randomised"),
    }  # fmt: skip


def summary_table(table: pd.DataFrame, *, level: float = 0.95, random_state: int = 0) -> pd.DataFrame:
    """Return means over items per task, columns :data:`SUMMARY`.

    Parameters
    ----------
    table : DataFrame
        Columns :data:`TABLE`.
    level : float
    random_state : int
        Of the sign flips.
    """
    values, out = measured(table), []
    for task, here in _subsets(table):
        mine = table[here]
        tested: dict[str, tuple[float, float]] = {}
        if np.isfinite(values["deletion_gain"][here]).all() and len(mine):
            p, adjusted = flip_family(
                np.stack([values[name][here] for name in _TESTED]), clusters_by_name(mine), random_state=random_state
            )
            tested = {name: (float(p[k]), float(adjusted[k])) for k, name in enumerate(_TESTED)}
        for name in MEASURES:
            known = here & np.isfinite(values[name])
            clusters = clusters_by_name(table[known])
            found: Any = stats.mean(values[name][known], clusters, level=level)
            if name == "infidelity_relative" and known.any():
                zeros = table["infidelity_of_zeros"].to_numpy(dtype=np.float64)[known]
                found = recovered(values[name][known], zeros, clusters, level=level)
            p_value, p_adjusted = tested.get(name, (np.nan, np.nan))
            row = (task, name, found.value, found.low, found.high, p_value, p_adjusted, np.nan, int(known.sum()))
            out.append(dict(zip(SUMMARY, (*row, found.n_groups, found.group), strict=True)))
    made = pd.DataFrame(out, columns=list(SUMMARY))
    for name in _TESTED:
        rows = made.index[(made["measure"] == name) & (made["task"] != ALL)]
        made.loc[rows, "q"] = stats.benjamini_hochberg(made.loc[rows, "p_adjusted"].to_numpy(dtype=np.float64))
    return made
