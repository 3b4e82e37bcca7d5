"""The map of a patching experiment as a table whose every cell tells its numbers.

Why it exists. A shade says where to look; whether a share of 0.4 is of half a nat or of five, and of how many pairs, is
in the cell. Cells tell it where the pointer is and where the keyboard's focus is, without any script, so that the saved
notebook tells it too.

What it cannot show: see :func:`vpanalysis.patch`. Shares of different places do not add up to one.

>>> explore.listen(vp.patch("mini-pclm-dpo", "mini", swap="voice"))      # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any

import ipywidgets as widgets

from vpanalysis.attribution import PatchResult
from vpanalysis.explore._bars import shade, signed
from vpanalysis.explore._choosing import row
from vpanalysis.explore._explorer import Explorer, labelled

__all__ = ["PatchExplorer"]

ALL = "all"
_SHOWN = {"recovered": "share that follows", "moved": "nats moved", "linear": "share by the first-order estimate"}


class PatchExplorer(Explorer):
    """The map of a patching experiment.

    Attributes
    ----------
    state : dict
        task, value ("recovered", "moved" or "linear").
    """

    def __init__(self, result: PatchResult) -> None:
        super().__init__(f"Patching: {result._title()}")
        self.result = result
        tasks = list(dict.fromkeys(str(t) for t in result.table["task"]))
        self.task = labelled(
            widgets.Dropdown(options=tasks, value=ALL if ALL in tasks else tasks[0]), "Task", "Whose pairs"
        )
        shown = [(text, name) for name, text in _SHOWN.items()
                 if name != "linear" or result.table["linear"].notna().any()]  # fmt: skip
        self.value = labelled(widgets.Dropdown(options=shown), "Cells show", "Which number is written in the cells")
        self._pages: dict[tuple[str, str], str] = {}
        self.map = widgets.HTML()
        for control in (self.task, self.value):
            control.observe(lambda _: self._draw(), "value")
        self.show(row(self.task, self.value), self.map)
        self._draw()

    def _draw(self) -> None:
        self.state |= {"task": self.task.value, "value": self.value.value}
        self.map.value = self._map_html()
        self.changed()

    def _map_html(self) -> str:
        key = (self.state["task"], self.state["value"])
        if key not in self._pages:
            self._pages[key] = _page(self.result, *key)
        return self._pages[key]

    def static(self) -> str:
        """Return the map of the task that is shown."""
        return self._map_html()


def _page(result: PatchResult, task: str, value: str) -> str:
    rows = result.table[result.table["task"] == task]
    cells = {(str(one["site"]), str(one["span"])): one for one in rows.to_dict("records")}
    spans = result.spans
    finite = [abs(float(one[value])) for one in cells.values() if math.isfinite(float(one[value]))]
    most = max(finite, default=1.0) if value == "moved" else 1.0
    heads = "".join(f"<th scope='col'>{escape(span)}</th>" for span in spans)
    body = []
    for site in result.sites:
        line = "".join(_cell(cells.get((site, span)), value, most) for span in spans)
        body.append(f"<tr><th scope='row'>{escape(site)}</th>{line}</tr>")
    first = next(iter(cells.values()))
    about = "all tasks" if task == ALL else task.replace("_", " ")
    total = f"{signed(first['total'])} [{signed(first['total_low'])}, {signed(first['total_high'])}] nats"
    note = f"{about}: {total} between the runs, {first['n']} pairs. Cells in italics: the interval holds 0."
    reasons = "; ".join(sorted({str(one["reason"]) for one in cells.values() if one["reason"]}))
    return (
        f"<p class='vp-note'>{escape(note)}</p><table class='vp-map' aria-label='{escape(_SHOWN[value], quote=True)}'>"
        f"<thead><tr><th scope='col'>place</th>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>"
        f"<p class='vp-note'>{escape(reasons)}</p><p class='vp-note'>Point at a cell, or reach it with the tab key, "
        f"for its numbers.</p>"
    )


def _cell(one: Mapping[Any, Any] | None, value: str, most: float) -> str:
    if one is None:
        return "<td></td>"
    number = float(one[value])
    digits = signed(number) if value == "moved" or not math.isfinite(number) else _share(number)
    low, high = float(one["low"]), float(one["high"])
    unsure = " class='vp-unsure'" if low <= 0 <= high else ""
    share = (
        f"{_share(float(one['recovered']))} [{_share(low)}, {_share(high)}]"
        if math.isfinite(low)
        else str(one["reason"])
    )
    told = (
        f"{one['site']}, {one['span']}: share {share}; moved {signed(float(one['moved']))} "
        f"[{signed(float(one['moved_low']))}, {signed(float(one['moved_high']))}] nats; first-order "
        f"{signed(float(one['linear']))}; {one['n']} pairs, {one['n_groups']} groups"
    )
    safe = escape(told, quote=True)
    return (
        f"<td tabindex='0'{unsure} style='{shade(number, most)}' aria-label='{safe}'>{digits}"
        f"<span class='vp-tip' role='tooltip'>{safe}</span></td>"
    )


def _share(value: float) -> str:
    """Return a share without a minus before nothing."""
    return f"{round(value, 2) + 0.0:.2f}"
