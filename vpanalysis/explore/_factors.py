"""Listening and reading as bars: four conditions and three effects, per task and per item.

Why it exists. A mean of +0.3 nats of listening may be thirty items at +0.3, or three at +3. The bars of the task and of
each of its items stand one click apart, and the clip plays beside them.

What it cannot show: an interval for one item. Its four margins were measured once; how sure an effect is shows in the
rows over items, with speakers and wordings as the unit.

>>> explore.listen(vp.listen_vs_read("mini-pclm-dpo", "mini"))           # doctest: +SKIP
"""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets as widgets
import pandas as pd

from vpanalysis import stats
from vpanalysis.attribution import ListenRead
from vpanalysis.attribution.conditions import FAMILIES
from vpanalysis.attribution.margins import clusters_by_name
from vpanalysis.explore._bars import Bar, bars_html, signed
from vpanalysis.explore._choosing import Chooser, head_html
from vpanalysis.explore._clips import Clip, static_html
from vpanalysis.explore._explorer import Explorer, labelled
from vpanalysis.explore._player import Player
from vpanalysis.explore._sounds import Sounds

__all__ = ["FactorExplorer"]

ALL, MEAN = "all", "mean of items"
_CONDITIONS = (
    ("both", "the clip: voice and words"),
    ("voice", "voice alone"),
    ("words", "words alone"),
    ("neither", "neither: what the others are counted from"),
)
_EFFECTS = (
    ("listen", "listen: what the voice adds", "truth"),
    ("read", "read: what the words add", "claim"),
    ("interaction", "interaction", "other"),
)


class FactorExplorer(Explorer):
    """Bars of a listen-versus-read experiment.

    Attributes
    ----------
    state : dict
        family, task, item ("mean of items" for the task's mean).
    """

    def __init__(self, result: ListenRead, sounds: Sounds) -> None:
        super().__init__(f"Voice and words: {result.settings.get('model')} on {result.settings.get('benchmark')}")
        self.result = result
        self._sounds = sounds
        self._clip: Clip | None = None
        self._note = ""
        self._means: dict[tuple[str, str], list[Bar]] = {}
        families = [(f"{name}{_about(name)}", name) for name in dict.fromkeys(str(f) for f in result.table["family"])]
        tasks = list(dict.fromkeys(str(t) for t in result.table["task"]))
        self.family = labelled(
            widgets.Dropdown(options=families, layout=widgets.Layout(width="480px")),
            "Family",
            "How voice and words were taken apart",
        )
        self.task = labelled(widgets.Dropdown(options=tasks), "Task", "Whose bars are shown")
        for control in (self.family, self.task):
            control.observe(self._on_change, "value")
        self.chooser = Chooser(self._show)
        self.head, self.bars, self.tasks = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.player = Player(title="Clip of the item")
        self.show(self.chooser.row(self.family, self.task), self.head, self.player, self.bars, self.tasks)
        self.chooser.offer(self._labels())

    def _items(self) -> pd.DataFrame:
        items = self.result.items
        here = items["family"] == self.family.value
        found: pd.DataFrame = items[here if self.task.value == ALL else here & (items["task"] == self.task.value)]
        return found

    def _labels(self) -> list[tuple[str, str]]:
        found = self._items()
        rows = zip(found["id"], found["listen"], found["read"], strict=True)
        each = [(f"{i} · listen {signed(a)}, read {signed(b)}", str(i)) for i, a, b in rows]
        return [(f"{MEAN} ({len(found)})", MEAN), *each]

    def _on_change(self, _: Any) -> None:
        self.chooser.offer(self._labels())

    def _show(self, item: str) -> None:
        self._clip, self._note = (None, "") if item == MEAN else self._sounds.clip(item)
        self.player.load(self._clip, note=self._note)
        self.state |= {"family": self.family.value, "task": self.task.value, "item": item}
        self.head.value, self.bars.value, self.tasks.value = self._head_html(), self._bars_html(), self._tasks_html()
        self.changed()

    def _head_html(self) -> str:
        item = self.state["item"]
        if item != MEAN:
            return head_html(self._sounds.item(item), item)
        task = "all tasks" if self.state["task"] == ALL else self.state["task"].replace("_", " ")
        return f"<p class='vp-question'>{escape(task)}, by {escape(self.state['family'])}</p>"

    def _mean_bars(self) -> list[Bar]:
        key = (self.state["family"], self.state["task"])
        if key not in self._means:
            table, items = self.result.table, self._items()
            row = table[(table["family"] == key[0]) & (table["task"] == key[1])].iloc[0]
            level = float(self.result.settings.get("level", 0.95))
            bars = []
            for name, label in _CONDITIONS:
                found = stats.mean(items[name].to_numpy(dtype=float), clusters_by_name(items), level=level)
                bars.append(Bar(label, found.value, found.low, found.high))
            bars += [Bar(label, row[n], row[f"{n}_low"], row[f"{n}_high"], kind) for n, label, kind in _EFFECTS]
            self._means[key] = bars
        return self._means[key]

    def _bars_html(self) -> str:
        item = self.state["item"]
        if item == MEAN:
            bars = self._mean_bars() if len(self._items()) else [Bar(self.state["family"], float("nan"))]
            note = "Margins of the truth counted from neither, means over items with their intervals."
        else:
            items = self._items()
            row = items[items["id"] == item].iloc[0]
            bars = [Bar(label, float(row[name])) for name, label in _CONDITIONS]
            bars += [Bar(label, float(row[name]), kind=kind) for name, label, kind in _EFFECTS]
            note = "Margins of the truth counted from neither, of one item; one item has no interval."
        return bars_html(bars, unit="nats", heading="condition or effect") + f"<p class='vp-note'>{note}</p>"

    def _tasks_html(self) -> str:
        table = self.result.table
        bars = []
        for row in table[table["family"] == self.state["family"]].to_dict("records"):
            shown = " ◀" if row["task"] == self.state["task"] else ""
            name = "all tasks" if row["task"] == ALL else str(row["task"]).replace("_", " ")
            for effect, kind in (("listen", "truth"), ("read", "claim")):
                remark = f"{row['verdict']}{shown}" if effect == "listen" else f"{row['n']} of {row['n_asked']} items"
                label = f"{name}: {'voice' if effect == 'listen' else 'words'}"
                bars.append(Bar(label, row[effect], row[f"{effect}_low"], row[f"{effect}_high"], kind, remark))
        return bars_html(bars, unit="nats", heading=f"by {self.state['family']}")

    def static(self) -> str:
        """Return what is shown: bars of the task or item, bars of all tasks."""
        clip = ""
        if self._clip is not None:
            clip = static_html(self._clip)
        elif self._note:
            clip = f"<p class='vp-note'>{escape(self._note)}</p>"
        return self._head_html() + clip + self._bars_html() + self._tasks_html()


def _about(family: str) -> str:
    known = FAMILIES.get(family)
    return "" if known is None else f" (voice alone: {known.voice}, words alone: {known.words})"
