"""A list of items with buttons for the one before and after, and an item's question in words.

>>> picked = []
>>> chooser = Chooser(picked.append)
>>> chooser.offer([("the first", "a"), ("the second", "b")])
>>> chooser.next.click()
>>> picked
['a', 'b']
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from vpanalysis.explore._explorer import labelled

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Item

__all__ = ["Chooser", "head_html", "row"]


def row(*children: Any) -> Any:
    """Return widgets side by side, on more lines where the page is narrow."""
    return widgets.HBox(list(children), layout=widgets.Layout(flex_flow="row wrap", grid_gap="4px 10px"))


class Chooser:
    """A labelled list and two buttons.

    Parameters
    ----------
    show : callable
        Called with the value of what is chosen, once a choice.
    label : str
    """

    def __init__(self, show: Callable[[str], object], label: str = "Item") -> None:
        self._show, self._busy = show, False
        self.list = labelled(
            widgets.Dropdown(options=[("", "")], layout=widgets.Layout(width="560px")), label, "What is shown"
        )
        self.list.observe(self._on_list, "value")
        self.previous, self.next = (
            widgets.Button(description=text, tooltip=hint, layout=widgets.Layout(width="110px"))
            for text, hint in (("◀ previous", f"The {label.lower()} before"), ("next ▶", f"The {label.lower()} after"))
        )
        self.previous.on_click(lambda _: self._step(-1))
        self.next.on_click(lambda _: self._step(1))

    @property
    def value(self) -> str:
        """What is chosen."""
        return str(self.list.value)

    def row(self, *before: Any) -> Any:
        """Return the controls side by side, behind others."""
        return row(*before, self.list, self.previous, self.next)

    def offer(self, choices: Sequence[tuple[str, str]], keep: str | None = None) -> None:
        """Offer labels with their values; show what was shown if it is still there, else the first.

        Parameters
        ----------
        choices : sequence of (label, value)
        keep : str, optional
            What to show; default what is shown.
        """
        values = [value for _, value in choices]
        wanted = self.list.value if keep is None else keep
        chosen = wanted if wanted in values else values[0]
        self._busy = True
        try:
            if tuple(choices) != tuple(self.list.options):
                self.list.options = list(choices)
            self.list.value = chosen
        finally:
            self._busy = False
        self._show(chosen)

    def pick(self, value: str) -> None:
        """Choose one of what is offered."""
        if value == self.list.value:
            self._show(value)
        self.list.value = value

    def _on_list(self, change: Any) -> None:
        if not self._busy and change["new"] is not None:
            self._show(change["new"])

    def _step(self, by: int) -> None:
        values = [value for _, value in self.list.options]
        self.pick(values[(values.index(self.list.value) + by) % len(values)])


def head_html(item: Item | None, name: str) -> str:
    """Return an item's question, truth and claims as HTML; its id alone where it is not known."""
    if item is None:
        return f"<p class='vp-question'>{escape(name)}</p>"
    about = [name, item.task_name.replace("_", " "), item.condition]
    if item.transcript:
        about.append(f"words: “{item.transcript}”")
    options = ", ".join(
        f"({escape(letter)}) {escape(choice)}{_mark(item, choice)}"
        for letter, choice in zip(item.letters, item.choices, strict=True)
    )
    return (
        f"<p class='vp-question'>{escape(item.question)}</p><p class='vp-note'>{escape(' · '.join(about))}</p>"
        f"<p>{options}</p>"
    )


def _mark(item: Item, choice: str) -> str:
    if choice == item.truth:
        return " <span class='vp-truth'>● truth (voice)</span>"
    return " <span class='vp-claim'>■ claim (words)</span>" if choice in item.foils else ""
