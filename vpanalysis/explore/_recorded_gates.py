"""What a Run recorded of a gate, task against task: the part of ``explore.gates`` for which no model is needed.

A Run holds what the gate said to every item, and not the gate. So nothing can be typed or set here; what can be looked
at are the mean mixtures of two tasks beside each other, how far they are apart (with an interval, and with what halves
of one task differ by), the questions behind them, and the map of all pairs. All numbers are those of
:func:`vpanalysis.gate_mixtures`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from vpanalysis._html import html_table
from vpanalysis.attribution.mixtures import gate_mixtures
from vpanalysis.explore._explorer import Explorer, figure_html, labelled, text_html
from vpanalysis.explore._points import CLAIM, TRUTH, Bar, bars, places_html
from vpanalysis.plots.style import new_axes, short_task

__all__ = ["RunGateExplorer"]


class RunGateExplorer(Explorer):
    """What a Run recorded of a gate: mixtures by task, and how far two tasks are apart.

    Parameters
    ----------
    run : Run
        With the site ``gate``.

    Attributes
    ----------
    state : dict
        task, against.
    """

    def __init__(self, run: Any) -> None:
        self.found = gate_mixtures(run)
        super().__init__(f"The gate of {self.found.settings.get('model') or run.name}, as recorded in {run.name}")
        tasks = list(self.found.table["task"])
        offered = [(short_task(task), task) for task in tasks]
        self.task = labelled(widgets.Dropdown(options=offered), "Task")
        self.against = labelled(widgets.Dropdown(options=offered, value=tasks[-1]), "Compare with")
        self.picture, self.prompts = widgets.HTML(), widgets.HTML()
        # Wide enough for its title, however few tasks there are.
        ax = new_axes(max(4.8, 2.0 + 0.5 * len(tasks)), 1.8 + 0.34 * len(tasks))[1]
        self._whole = figure_html(self.found.plot(ax), "Total variation between the mean mixtures of every two tasks")
        for control in (self.task, self.against):
            control.observe(lambda _: self._refresh(), "value")
        self.show(
            widgets.HTML(text_html([self.CANNOT])),
            widgets.HBox([self.task, self.against], layout=widgets.Layout(flex_flow="row wrap")),
            widgets.HBox([self.picture, widgets.HTML(self._whole)], layout=widgets.Layout(flex_flow="row wrap")),
            self.prompts,
        )
        self._refresh()

    #: Why there is nothing to move.
    CANNOT = (
        "A Run holds what the gate said, not the gate: no prompt can be typed and no weight set. For sliders give the "
        "model: explore.gates(model, benchmark)."
    )

    def _refresh(self) -> None:
        one, two = self.task.value, self.against.value
        streams: Sequence[str] = self.found.settings["streams"]
        table = self.found.table.set_index("task").to_dict("index")
        rows = []
        for stream in streams:
            rows.append(Bar(stream, table[one][stream], TRUTH))
            if two != one:
                rows.append(Bar(f"in {short_task(two)}", table[two][stream], CLAIM, dash=True))
        self._svg = bars(rows, f"Mean weights of the streams, {short_task(one)} against {short_task(two)}", named=150)
        self.picture.value = self._svg + text_html([self._between(one, two)])
        part = self.found.prompts[self.found.prompts["task"] == one]
        kept = part.groupby("question", sort=False).agg(
            **{name: (name, "mean") for name in streams}, entropy=("entropy", "mean"), items=("id", "size")
        )
        self._prompts = html_table(
            kept.reset_index(), f"Questions of {short_task(one)}", "entropy in nats", max_rows=12
        )
        self.prompts.value = self._prompts
        self.changed(task=one, against=two)

    def _between(self, one: str, two: str) -> str:
        pairs = self.found.between
        row = pairs[
            ((pairs["first"] == one) & (pairs["second"] == two)) | ((pairs["first"] == two) & (pairs["second"] == one))
        ]
        if row.empty:
            alone = self.found.table[self.found.table["task"] == one].iloc[0]
            return f"{short_task(one)}: entropy {alone['entropy']:.2f} nats."
        found = row.iloc[0]
        level = 100 * float(self.found.settings["level"])
        return (
            f"Total variation between the two {found['variation']:.3f} [{found['low']:.3f}, {found['high']:.3f}] "
            f"({level:g} % interval); halves of one task differ by {found['noise']:.3f}."
        )

    def static(self) -> str:
        """Return all tables, and the picture of the two tasks that are chosen."""
        table, title, note = self.found._parts()
        return (
            text_html([self.CANNOT]) + html_table(table, title, note) + places_html(self._svg)
            + text_html([self._between(self.state["task"], self.state["against"])]) + self._prompts + self._whole
        )  # fmt: skip
