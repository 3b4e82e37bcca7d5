"""What every explorer is: live controls over a picture, and the same picture where nothing is alive.

Why it exists. A widget in a saved notebook is an empty box: its model lived in a kernel that is gone. And a cell that
is run again leaves the widgets of its last run behind, with their comms, callbacks and data.

The idea. An explorer has a *state* (plain values that say what is shown), *controls* that change it, and a way to draw
it. It is displayed as two outputs: first a static one, the table and picture of the current state as plain HTML, which
is brought up to date as the state changes; then the live controls. While the live part is there, style sheets alone
hide the static one; in a saved notebook, in nbconvert's HTML and on GitHub only the static one is left. Nothing is
loaded from a network. Keys that go to a control stay with it, whatever shortcuts the notebook has. When its cell is run
again, an explorer closes what the last run left, and of that nothing stays but a line of text.

Strings that come from data are escaped before they become HTML.

>>> class Demo(Explorer):
...     def static(self): return "<p>nothing yet</p>"
>>> Demo(title="Demo").state
{}
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import ipywidgets as widgets

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CSS", "Explorer", "STATIC", "figure_html", "labelled", "text_html"]

STATIC = Path(__file__).parent / "static"
"""Where the hand-written ES modules and style sheets are."""

CSS = (STATIC / "explore.css").read_text(encoding="utf-8")


class _Keys(anywidget.AnyWidget):
    """Keeps the notebook's shortcuts from taking the keys of the controls; shows nothing."""

    # As text: of a path, anywidget watches the file, and the watch would keep every widget that ever was.
    _esm = (STATIC / "keys.js").read_text(encoding="utf-8")


_KEPT = frozenset({"title", "state", "root", "_closers", "_handle", "_closed", "_last", "_thread"})
"""What is left of a closed explorer."""

_LIVE: dict[str, Explorer] = {}
"""The explorer that each notebook cell shows, by the cell's id."""


class Explorer:
    """Controls, a picture and a static twin.

    Subclasses build their controls in ``__init__``, hand them to :meth:`show`, and say with :meth:`static` what is
    left of them without a kernel.

    Parameters
    ----------
    title : str
        Heading, and name for screen readers.

    Attributes
    ----------
    state : dict
        What is shown; JSON can hold it.
    root : ipywidgets.VBox
        The live part.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.state: dict[str, Any] = {}
        self.root = widgets.VBox([], layout=widgets.Layout(width="100%"))
        self.root.add_class("vp-live")
        self._closers: list[Callable[[], object]] = []
        self._handle: Any = None
        self._closed = False
        self._last: str | None = None

    # For subclasses ---------------------------------------------------------------------------------------------------

    def show(self, *children: widgets.Widget) -> None:
        """Put widgets under the title."""
        heading = widgets.HTML(f"<style>{CSS}</style><h3 class='vp-title'>{escape(self.title)}</h3>")
        self.root.children = (heading, *children, _Keys())

    def static(self) -> str:
        """Return the current state as HTML that needs no kernel and no script."""
        raise NotImplementedError

    def changed(self, **values: Any) -> None:
        """Note new values of the state and bring the static twin up to date."""
        self.state |= values
        if self._handle is not None and not self._closed:
            self._handle.update(_Html(self._static_html()))

    def on_close(self, closer: Callable[[], object]) -> None:
        """Call something when the explorer is closed, such as the removal of a hook."""
        self._closers.append(closer)

    # For notebooks ----------------------------------------------------------------------------------------------------

    def _static_html(self) -> str:
        if self._last is not None:
            return self._last
        return (
            f"<style>{CSS}</style><div class='vp-static' role='group' aria-label='{escape(self.title, quote=True)}'>"
            f"<h3 class='vp-title'>{escape(self.title)}</h3>{self.static()}</div>"
        )

    def _repr_html_(self) -> str:
        return self._static_html()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.title!r})"

    def _ipython_display_(self) -> None:
        from IPython.display import display

        cell = _cell_id()
        if cell is not None:
            last = _LIVE.pop(cell, None)
            if last is not None and last is not self:
                last.close()
                # Its output is gone from the notebook, but IPython's list of results keeps it, one a run.
                last._last = f"<p class='vp-note'>{escape(last.title)}: its cell was run again.</p>"
            _LIVE[cell] = self
        self._handle = display(_Html(self._static_html()), display_id=True)
        # Without the plain text that a widget would leave in exported pages.
        live = self.root._repr_mimebundle_()
        display({**{kind: part for kind, part in live.items() if kind != "text/plain"}, "text/plain": ""}, raw=True)

    def close(self) -> None:
        """Close comms and hooks; the static twin stays."""
        if self._closed:
            return
        self._last = self._static_html()
        self._closed = True
        for closer in self._closers:
            with contextlib.suppress(Exception):
                closer()
        for widget in _all_of(self.root):
            widget.unobserve_all()
            widget.close()
        # Closed already, so that nothing is sent: the view in the notebook goes by its comm, not by this.
        self.root.children = ()
        # IPython keeps what a cell returned; of a closed explorer that should be a page of HTML, not a model.
        busy = getattr(self, "_thread", None)
        # Work that is just being stopped still looks at what it was given.
        for name in [name for name in vars(self) if name not in _KEPT and (busy is None or not busy.is_alive())]:
            delattr(self, name)
        self._closers, self._handle = [], None


class _Html:
    """HTML for `display`, with a plain text for frontends without it."""

    def __init__(self, html: str) -> None:
        self.html = html

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return "an explorer; open the notebook in JupyterLab"


def _cell_id() -> str | None:
    """Return the id of the notebook cell that is running, where the frontend tells it."""
    try:
        from IPython.core.getipython import get_ipython

        shell: Any = get_ipython()
        header = shell.parent_header if hasattr(shell, "parent_header") else shell.get_parent()
        found = header.get("metadata", {}).get("cellId")
        return None if found is None else str(found)
    except (AttributeError, ImportError):
        return None


def _all_of(widget: widgets.Widget) -> list[widgets.Widget]:
    """Return a widget and everything inside it."""
    out = [widget]
    for child in getattr(widget, "children", ()):
        out += _all_of(child)
    for name in ("layout", "style"):
        part = getattr(widget, name, None)
        if isinstance(part, widgets.Widget):
            out.append(part)
    return out


def labelled(widget: widgets.Widget, label: str, hint: str = "") -> widgets.Widget:
    """Give a control its visible label and the text that screen readers and hovering show."""
    widget.description = label
    widget.style.description_width = "initial"
    widget.tooltip = hint or label
    return widget


def text_html(lines: Sequence[str]) -> str:
    """Return lines of text as HTML, escaped."""
    return "".join(f"<p class='vp-note'>{escape(line)}</p>" for line in lines)


def figure_html(figure: Figure | Axes, alt: str) -> str:
    """Return a picture as inline SVG with a text for who cannot see it; the figure is closed.

    Parameters
    ----------
    figure : Figure or Axes
    alt : str
    """
    import io

    import matplotlib as mpl
    import matplotlib.pyplot as plt

    whole: Any = figure if hasattr(figure, "savefig") else figure.get_figure(root=True)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vpanalysis"}):
        whole.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(whole)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    return f"<div class='vp-figure' role='img' aria-label='{escape(alt, quote=True)}'>{svg}</div>"
