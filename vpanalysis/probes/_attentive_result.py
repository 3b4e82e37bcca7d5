"""The result of :func:`~vpanalysis.probes.attentive.attentive_probe`: accuracies, their difference, and the attention.

A row of the table is one task at one site; ``attention`` keeps the weights of every frame of every item, from the model
that has not seen its fold::

    task                    site        accuracy  mean_accuracy  difference  difference_low  difference_high    n
    intonation_perception   encoder[2]      0.85           0.62        0.23            0.11             0.35  200
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis._html import html_table, text_table
from vpanalysis._saved import home_of, load_tables, save_tables
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ATTENTION", "PREDICTIONS", "PROFILE", "TABLE", "AttentiveResult"]

_FILES, _RECORD = ("table", "profile", "attention", "predictions"), "attentive.json"
TABLE = (
    "task", "site", "site_order", "reducer", "target", "heads", "accuracy", "low", "high", "mean_accuracy", "mean_low",
    "mean_high", "difference", "difference_low", "difference_high", "chance", "majority", "shuffle_mean", "shuffle_low",
    "shuffle_high", "p", "p_adjusted", "steps", "n", "n_train", "n_groups", "n_classes", "group", "note",
)  # fmt: skip
PROFILE = ("task", "site", "head", "start", "stop", "density", "low", "high", "n")
ATTENTION = (
    "task", "site", "head", "id", "fold", "label", "correct", "unit", "step", "frames", "centre", "peak", "effective",
    "weights",
)  # fmt: skip
PREDICTIONS = (
    "task", "site", "id", "condition", "group", "second_group", "fold", "label", "predicted", "mean_predicted",
    "correct", "mean_correct", "weight",
)  # fmt: skip


@dataclass(frozen=True, repr=False, eq=False)
class AttentiveResult:
    """Accuracy of attentive and of mean pooling per task and site, and where the attention was.

    Attributes
    ----------
    table : DataFrame
        One row a task and site: ``accuracy`` of attentive pooling, ``mean_accuracy`` of the same probe with even
        attention, their paired ``difference``, each with its interval; ``chance``, ``majority``, shuffles (NaN without)
        and ``p`` as in :class:`~vpanalysis.probes.ProbeResult`; ``steps`` (median over folds); counts, group, note.
    profile : DataFrame
        Mean attention over items on the time of the clip from 0 to 1: task, site, head, start, stop, density (1 is
        even), low, high, n. Out of fold.
    attention : DataFrame
        One row an item, site and head, out of fold: the attention of each frame (``weights``, a list that sums to 1),
        the length of a frame (``step``) in ``unit``, and centre, peak (both in that unit, from the start of the clip)
        and ``effective`` frames (the exponential of the entropy). ``step`` is NaN where a clip's length is not known.
    predictions : DataFrame
        One row an item and site.
    settings : mapping
    """

    table: pd.DataFrame
    profile: pd.DataFrame
    attention: pd.DataFrame
    predictions: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """Tasks in order."""
        return list(dict.fromkeys(self.table["task"]))

    @property
    def sites(self) -> list[str]:
        """Sites from the waveform to the answer."""
        return list(dict.fromkeys(self.table.sort_values("site_order", kind="stable")["site"]))

    def to_dataframe(self) -> pd.DataFrame:
        """Return a copy of :attr:`table`."""
        return self.table.copy()

    def of_item(self, item: str, *, task: str | None = None, site: str | None = None) -> pd.DataFrame:
        """Return where the probe looked in one clip.

        Parameters
        ----------
        item : str
            Its id.
        task, site : str, optional
            Default: all.

        Returns
        -------
        DataFrame
            Columns task, site, head, frame, time (middle of the frame, from the start of the clip), unit, weight,
            density (weight over even weight).

        Raises
        ------
        RunError
            For an item that was not probed.
        """
        rows = self.attention[self.attention["id"] == str(item)]
        rows = rows if task is None else rows[rows["task"] == task]
        rows = rows if site is None else rows[rows["site"] == site]
        if rows.empty:
            known = list(dict.fromkeys(self.attention["id"]))
            raise RunError("cannot show the attention", found=repr(item), allowed=known[:5], word=str(item))
        parts = []
        for row in rows.to_dict("records"):
            weights = np.asarray(row["weights"], dtype=np.float64)
            parts.append(
                pd.DataFrame(
                    {
                        "task": row["task"], "site": row["site"], "head": row["head"], "frame": np.arange(len(weights)),
                        "time": (np.arange(len(weights)) + 0.5) * row["step"], "unit": row["unit"], "weight": weights,
                        "density": weights * len(weights),
                    }
                )
            )  # fmt: skip
        return pd.concat(parts, ignore_index=True)

    def plot(self, ax: Axes | None = None, *, task: str | None = None, **kwargs: Any) -> Axes:
        """Draw where the attention was; see :func:`vpanalysis.plots.over_time.attention_profile`."""
        from vpanalysis.plots.over_time import attention_profile

        return attention_profile(self, task, ax=ax, **kwargs)

    def save(self, path: str | Path | None = None) -> Path:
        """Write four parquet files and ``attentive.json`` into a folder and return it.

        Parameters
        ----------
        path : str or Path, optional
            Default: ``results/attentive-<target>-<hash>`` of the Run.

        Raises
        ------
        RunError
            Without `path`, for arrays and other things that are no Run on the disk, and for a Run that has changed.
        """
        verb = f"attentive-{self.settings.get('target')}"
        folder = home_of(self.settings, verb, tasks=self.tasks, sites=self.sites) if path is None else path
        tables = {name: getattr(self, name) for name in _FILES}
        return save_tables(folder, "AttentiveResult", tables, self.settings, record=_RECORD)

    @classmethod
    def load(cls, path: str | Path) -> AttentiveResult:
        """Read what :meth:`save` wrote; :class:`RunError` when the folder does not hold it."""
        tables, settings = load_tables(path, "AttentiveResult", _FILES, record=_RECORD)
        tables["attention"]["weights"] = [list(map(float, w)) for w in tables["attention"]["weights"]]
        return cls(**tables, settings=settings)

    def _summary(self) -> tuple[pd.DataFrame, str, str]:
        rows: list[dict[str, Any]] = []
        for row in self.table.to_dict("records"):
            made = pd.notna(row["accuracy"])
            rows.append(
                {"task": row["task"], "site": row["site"]}
                | {
                    name: f"{row[key]:.2f} [{row[low]:.2f}, {row[high]:.2f}]" if made else "not probed"
                    for name, key, low, high in (
                        ("attentive", "accuracy", "low", "high"), ("mean", "mean_accuracy", "mean_low", "mean_high"),
                    )
                }
                | {
                    "difference": f"{row['difference']:+.2f} [{row['difference_low']:+.2f}, "
                    f"{row['difference_high']:+.2f}]" if made else "",
                    "chance": row["chance"], "majority": row["majority"], "p": row["p"],
                    "n": row["n"], "groups": f"{row['n_groups']} x {row['group']}", "note": row["note"],
                }
            )  # fmt: skip
        how = self.settings
        title = (
            f"AttentiveResult: {how.get('target')} of {how.get('run')}, {len(self.tasks)} tasks x {len(self.sites)} "
            f"sites, {how.get('heads')} head(s), folds by {how.get('grouped_by')}, {how.get('shuffles')} shuffles"
        )
        frame = pd.DataFrame(rows)
        if len(frame) and not frame["p"].notna().any():
            frame = frame.drop(columns="p")
        return frame, title, "Difference: attentive minus mean pooling, the same folds and optimiser, paired by item."

    def __repr__(self) -> str:
        return text_table(*self._summary(), digits=2, max_rows=60)

    def _repr_html_(self) -> str:
        return html_table(*self._summary(), digits=2, max_rows=60)
