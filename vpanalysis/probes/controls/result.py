"""The result of the controls: one tidy table, in which a number that cannot be had says why.

A row is one measure of one control for one task at one site. What a control is called, and what its rows hold, is in
its function; the columns are the same for all, so that results of several Runs can be put under one another. ``at`` is
the level of noise, or the number of training items of a code's block; ``p`` belongs to differences, and ``q`` is that
p value adjusted over all rows of its control.

Worked example::

    found = controls(run, which=["selectivity", "gap"])
    found.table.query("measure == 'gap'")[["task", "variant", "value", "low", "high", "q"]]
    found.plot(control="gap")
    found.save(run.results / "controls")
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from vpanalysis._html import html_table, text_table
from vpanalysis._saved import home_of, load_tables, save_tables
from vpanalysis.errors import RunError
from vpanalysis.probes.controls._common import KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["HEADLINE", "ControlResult"]

HEADLINE: Mapping[str, str] = {
    "majority": "majority", "selectivity": "selectivity", "mel": "accuracy", "text": "accuracy", "random": "difference",
    "mdl": "compression", "noise": "half", "gap": "gap", "boundary": "difference",
}  # fmt: skip
"""The measure of each control that a summary shows."""

_FILE = "controls.json"


@dataclass(frozen=True, repr=False)
class ControlResult:
    """Controls of a Run's probes.

    Attributes
    ----------
    table : DataFrame
        Tidy: control, task, site, variant, measure, condition, target, at, value, low, high, p, q, n, n_groups, group,
        note, source.
    settings : mapping
        Run, manifest hash, target, grouping, folds, C, seed, level.
    """

    table: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def controls(self) -> list[str]:
        """Names of the controls, in the order in which they were made."""
        return list(dict.fromkeys(self.table["control"]))

    @property
    def tasks(self) -> list[str]:
        """Tasks, in the order of the Run."""
        return list(dict.fromkeys(self.table["task"]))

    def to_dataframe(self) -> pd.DataFrame:
        """Return a copy of :attr:`table`."""
        return self.table.copy()

    def of(self, control: str, measure: str | None = None) -> pd.DataFrame:
        """Return the rows of one control, or of one measure of it; :class:`RunError` for a name that is not there."""
        if control not in self.controls:
            raise RunError("cannot show a control", found=repr(control), allowed=self.controls, word=control)
        rows = self.table[self.table["control"] == control]
        if measure is not None:
            if measure not in set(rows["measure"]):
                raise RunError(
                    f"cannot show the control {control!r}", found=repr(measure), allowed=sorted(set(rows["measure"])),
                    word=measure,
                )  # fmt: skip
            rows = rows[rows["measure"] == measure]
        return rows.reset_index(drop=True)

    def plot(
        self, ax: Axes | None = None, *, control: str | None = None, task: str | None = None, measure: str | None = None
    ) -> Axes:
        """Draw one control: noise and code lengths as curves over sites' levels, everything else as intervals.

        Parameters
        ----------
        ax : Axes, optional
        control, task : str, optional
            Needed to choose where there are several controls; default the first, and all tasks.
        measure : str, optional
            Default: ``accuracy`` over levels for noise, else the control's :data:`HEADLINE`.

        Returns
        -------
        Axes
        """
        from vpanalysis.probes.controls._picture import draw

        name = control or (self.controls[0] if self.controls else "")
        rows = self.of(name)
        wanted = measure or ("accuracy" if name == "noise" else HEADLINE.get(name, ""))
        rows = rows[rows["measure"] == wanted] if wanted in set(rows["measure"]) else rows
        if task is not None:
            if task not in self.tasks:
                raise RunError("cannot show a control", found=repr(task), allowed=self.tasks, word=task)
            rows = rows[rows["task"] == task]
        return draw(rows.reset_index(drop=True), name, ax)

    def save(self, path: str | Path | None = None) -> Path:
        """Write ``controls.parquet`` and ``controls.json`` into a folder and return it.

        Parameters
        ----------
        path : str or Path, optional
            Default: ``results/controls-<hash>`` of the Run.

        Raises
        ------
        RunError
            Without `path`, for things that are no Run on the disk, and for a Run that has changed.
        """
        folder = home_of(self.settings, "controls", tasks=self.tasks) if path is None else path
        return save_tables(folder, "ControlResult", {"controls": self.table}, self.settings, record=_FILE)

    @classmethod
    def load(cls, path: str | Path) -> ControlResult:
        """Read what :meth:`save` wrote; :class:`RunError` when the folder does not hold it."""
        tables, settings = load_tables(path, "ControlResult", ("controls",), record=_FILE)
        table = tables["controls"]
        for name, kind in KINDS.items():
            if kind == "text":
                table[name] = table[name].astype(object)
        return cls(table, settings)

    def _summary(self) -> tuple[pd.DataFrame, str, str]:
        rows = []
        for name in self.controls:
            part = self.of(name)
            part = part[(part["measure"] == HEADLINE.get(name, "")) & (part["condition"] == "pooled")]
            rows += [
                {
                    "control": name,
                    "task": one["task"],
                    "where": " · ".join(x for x in (one["site"], one["variant"]) if x),
                    **{key: one[key] for key in ("measure", "value", "low", "high", "q", "note")},
                }
                for one in part.to_dict("records")
            ]
        made = self.settings
        columns = ["control", "task", "where", "measure", "value", "low", "high", "q", "note"]
        title = f"ControlResult: {made.get('target', '?')} of {made.get('run', 'a run')}, {len(self.tasks)} tasks, "
        title += f"{made.get('n_splits', '?')} folds by {made.get('group_by', '?')}, C={made.get('C', '?')}"
        note = "Main measure of each control; all, with sources, in to_dataframe(). An en dash has its reason in note."
        return pd.DataFrame(rows, columns=columns), title, note

    def __repr__(self) -> str:
        table, title, note = self._summary()
        return text_table(table, title, note, max_rows=40)

    def _repr_html_(self) -> str:
        table, title, note = self._summary()
        return html_table(table, title, note, max_rows=40)
