"""How the pictures look: colours, markers and type that survive colour blindness and a grey printer.

No picture tells things apart by colour alone. Every series is a triple of colour (Okabe and Ito's palette, 2008),
marker and line style, lines are named where they end, and heat maps carry their numbers. The theme lives inside a
context manager: drawing leaves the user's rcParams as they were, and an Axes that is handed in keeps its own style
except for what is drawn on it.

>>> with theme():
...     fig, ax = new_axes(4, 3)
>>> type(ax).__name__
'Axes'
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["CLAIM", "MODEL", "SERIES", "TRUTH", "Series", "add_note", "new_axes", "short_task", "spread", "theme"]


@dataclass(frozen=True)
class Series:
    """How one series is drawn: three channels, each enough alone."""

    colour: str
    marker: str
    line: str


TRUTH = Series("#0072B2", "o", "-")
CLAIM = Series("#D55E00", "s", "--")
MODEL = Series("#000000", "", "-")
SERIES = (
    Series("#0072B2", "o", "-"),
    Series("#D55E00", "s", "--"),
    Series("#009E73", "^", "-."),
    Series("#CC79A7", "D", ":"),
    Series("#56B4E9", "v", "-"),
    Series("#8A6D00", "<", "--"),
    Series("#000000", "X", "-."),
    Series("#7F7F7F", "*", ":"),
)
"""Cycle for named things; the eighth and last before it repeats."""

GREY = "#6B6B6B"
NOTE_SIZE = 7.5
LABEL_SIZE = 8.5

_SHORT = {
    "age_prediction": "Age",
    "gender_prediction": "Gender",
    "emotion_recognition": "Emotion",
    "pitch_comparison": "Pitch",
    "volume_comparison": "Volume",
    "speed_comparison": "Speed",
    "vocal_range_comparison": "Range",
    "intonation_perception": "Intonation",
    "speaker_identity_recognition": "Speaker ID",
    "total_speaker_counting": "Speaker count",
}


def short_task(task: str) -> str:
    """Return the leaderboard's name of a task, or the task name with spaces when it is not one of the ten."""
    return _SHORT.get(task, task.replace("_", " "))


@contextmanager
def theme() -> Iterator[None]:
    """Draw in the house style; the rcParams are as before afterwards."""
    import matplotlib as mpl

    # Before the context: imported inside it for the first time, pyplot's way of showing would be undone with it.
    import matplotlib.pyplot
    import seaborn as sns

    own: dict[str, Any] = {
        "font.size": 9,
        "axes.labelsize": 9.5,
        "axes.titlesize": 10.5,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "legend.fontsize": 8.5,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "lines.linewidth": 1.6,
        "lines.markersize": 4.5,
        "figure.dpi": 120,
        "pdf.fonttype": 42,  # text stays text in the PDF
        "text.parse_math": False,  # a task called "$x$" is a name from somebody's data, and may be no formula at all
    }
    with mpl.rc_context():
        # seaborn sets global parameters; the context puts the old ones back.
        sns.set_theme(context="paper", style="ticks", rc=own)
        yield


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a new figure of `width` by `height` inches with one Axes, laid out so that no label is cut."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(width, height), layout="constrained")
    return fig, ax


def add_note(ax: Axes, note: str | None, *, width: float | None = None) -> None:
    """Write a caption under the x label of `ax`, wrapped to its width.

    Parameters
    ----------
    ax : Axes
    note : str or None
        For example what was planted in the model behind the picture. None writes nothing.
    width : float, optional
        Width to wrap to, in inches; default the width of the Axes.
    """
    if not note:
        return
    if width is None:
        width = ax.bbox.width / ax.figure.dpi
    # A character of this type is about half as wide as it is high.
    columns = max(30, int(width * 72 / (NOTE_SIZE * 0.5)))
    text = ax.annotate(
        textwrap.fill(note, columns),
        xy=(0, 0),
        # Horizontally the left edge of the Axes, vertically the lower edge of the x label, wherever that ends up.
        xycoords=("axes fraction", ax.xaxis.label),
        xytext=(0, -5),
        textcoords="offset points",
        ha="left",
        va="top",
        fontsize=NOTE_SIZE,
        color=GREY,
        annotation_clip=False,
    )
    text.set_gid("note")


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move label positions apart by at least `gap`, as little as possible, within [`low`, `high`].

    >>> [round(v, 2) for v in spread([0.5, 0.52, 0.9], gap=0.1, low=0, high=1)]
    [0.46, 0.56, 0.9]
    """
    order = np.argsort(np.asarray(values, dtype=float), kind="stable")
    # Pool adjacent violators: with v_i - i * gap the constraint is monotonicity, whose least-squares answer is exact.
    blocks: list[tuple[float, int]] = []
    for rank, index in enumerate(order):
        blocks.append((float(values[index]) - rank * gap, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (mean_b, size_b), (mean_a, size_a) = blocks.pop(), blocks.pop()
            blocks.append(((mean_a * size_a + mean_b * size_b) / (size_a + size_b), size_a + size_b))
    flat = [mean for mean, size in blocks for _ in range(size)]
    placed = np.clip(flat, low, max(low, high - gap * (len(flat) - 1))) + gap * np.arange(len(flat))
    result = [0.0] * len(flat)
    for rank, index in enumerate(order):
        result[int(index)] = float(placed[rank])
    return result
