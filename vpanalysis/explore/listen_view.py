"""``explore.listen``: what an answer was made of, beside the sound that it was made of.

Why it exists. A map over two seconds of speech is read with the ears: is the blue patch the vowel that rises, or the
word that names the answer? And a table of effects is read item by item as soon as its mean surprises.

The idea. One verb for three results. Of :func:`vpanalysis.attribute` it shows an item in the player with its
attribution underneath, in step with the sound (``AttributionExplorer`` below); of :func:`vpanalysis.listen_vs_read` the
four conditions and three effects as bars, per task and per item; of :func:`vpanalysis.patch` the map of places with the
numbers of every cell.

What it cannot show: more than the result holds. Blue is what moved the margin towards the truth *in this method against
this baseline*; the checks beside it say how far the model agrees.

>>> explore.listen(vp.attribute("mini-pclm-dpo", "mini", site="features"))       # doctest: +SKIP
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import numpy as np

from vpanalysis.attribution import AttributionResult, ListenRead, PatchResult
from vpanalysis.errors import RunError
from vpanalysis.explore._bars import Bar, bars_html, shade, signed
from vpanalysis.explore._choosing import Chooser, head_html
from vpanalysis.explore._clips import Clip, Track, map_track, static_html
from vpanalysis.explore._explorer import Explorer, labelled
from vpanalysis.explore._factors import FactorExplorer
from vpanalysis.explore._patches import PatchExplorer
from vpanalysis.explore._player import Player
from vpanalysis.explore._sounds import Sounds

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Benchmark

__all__ = ["AttributionExplorer", "listen"]

ALL = "all"


def listen(
    result: AttributionResult | ListenRead | PatchResult, benchmark: Benchmark | str | None = None
) -> AttributionExplorer | FactorExplorer | PatchExplorer:
    """Show what an attribution, a listen-versus-read experiment or a patching experiment found.

    Parameters
    ----------
    result : AttributionResult, ListenRead or PatchResult
    benchmark : Benchmark or str, optional
        Where the clips come from; by default VoxParadox-mini for results made on it, and no clips else.

    Returns
    -------
    Explorer

    Raises
    ------
    RunError
        For another kind of result, or an empty one.
    """
    name = getattr(result, "settings", {}).get("benchmark")
    sounds = Sounds(benchmark, {"name": name, "source": "mini"} if name == "mini" else None)
    if isinstance(result, (AttributionResult, ListenRead, PatchResult)) and not len(result.table):
        raise RunError("cannot show the result", found="a result without rows")
    if isinstance(result, AttributionResult):
        return AttributionExplorer(result, sounds)
    if isinstance(result, ListenRead):
        return FactorExplorer(result, sounds)
    if isinstance(result, PatchResult):
        return PatchExplorer(result)
    raise RunError(
        "cannot show the result", found=f"a {type(result).__name__}",
        allowed="what attribute, listen_vs_read or patch returned",
    )  # fmt: skip


class AttributionExplorer(Explorer):
    """An item's attribution in step with its sound.

    Attributes
    ----------
    state : dict
        task, item.
    """

    def __init__(self, result: AttributionResult, sounds: Sounds) -> None:
        super().__init__(f"Attribution: {result._title()}".replace("\n", " "))
        self.result = result
        self._sounds = sounds
        self._rows = {str(row["id"]): row for row in result.table.to_dict("records")}
        self._clip: Clip | None = None
        self._tracks: tuple[Track, ...] = ()
        self._note = ""
        tasks = list(dict.fromkeys(str(t) for t in result.table["task"]))
        self.task = labelled(widgets.Dropdown(options=[ALL, *tasks]), "Task", "Only items of this task")
        self.task.observe(self._on_task, "value")
        self.chooser = Chooser(self._show)
        self.player = Player(title="Clip of the item, with its attribution")
        self.head, self.below = widgets.HTML(), widgets.HTML()
        self.show(self.chooser.row(self.task), self.head, self.player, self.below)
        self.chooser.offer(self._labels())

    def _labels(self) -> list[tuple[str, str]]:
        return [
            (f"{name} · margin {signed(float(row['margin']))}", name)
            for name, row in self._rows.items()
            if self.task.value in (ALL, row["task"])
        ]

    def _on_task(self, _: Any) -> None:
        self.chooser.offer(self._labels())

    def open(self, item: str) -> None:
        """Show an item, by its id; :class:`RunError` for one that the result does not have."""
        if item not in self._rows:
            raise RunError("cannot show an item", found=repr(item), allowed=f"one of {len(self._rows)} ids", word=item)
        if self._rows[item]["task"] != self.task.value:
            self.task.value = ALL
        self.chooser.pick(item)

    def _show(self, item: str) -> None:
        self._clip, self._note = self._sounds.clip(item)
        self._tracks = _tracks(self.result, item, self._clip)
        self.player.load(self._clip, self._tracks, note=self._note)
        self.head.value, self.below.value = head_html(self._sounds.item(item), item), self._below_html(item)
        self.changed(task=self.task.value, item=item)

    def _below_html(self, item: str) -> str:
        row = self._rows[item]
        bars = [
            Bar("margin of the truth", float(row["margin"])),
            Bar("at the baseline", float(row["baseline_margin"])),
            Bar("the map adds up to", float(row["sum"]), kind="truth" if row["sum"] > 0 else "claim"),
            Bar("what it lacks", float(row["delta"])),
        ]
        checks = [
            f"{text} {signed(float(row[name]))}"
            for name, text in (("agreement", "rank correlation with occlusion"),
                               ("randomised", "with the map of a model of shuffled weights"))
            if name in row and np.isfinite(float(row[name]))
        ]  # fmt: skip
        note = "Blue (up): towards the truth. Orange (down): towards what the words claim. " + "; ".join(checks)
        return _tokens_html(self.result, item) + f"<p class='vp-note'>{escape(note)}</p>" + bars_html(bars)

    def static(self) -> str:
        """Return the item that is shown: clip, attribution and its numbers."""
        item = self.state["item"]
        if self._clip is not None:
            clip = static_html(self._clip, self._tracks)
        else:
            from vpanalysis.explore._explorer import figure_html

            clip = f"<p class='vp-note'>{escape(self._note)}</p>"
            clip += figure_html(self.result.plot(item), f"attribution of {item}")
        return head_html(self._sounds.item(item), item) + clip + self._below_html(item)


def _tracks(result: AttributionResult, item: str, clip: Clip | None) -> tuple[Track, ...]:
    """Return the attribution as what is drawn under the clip."""
    values, site = result.map(item), result.settings.get("site")
    step = float(values.attrs["step_s"])
    numbers = np.asarray(values.values, dtype=np.float64)
    if values.dims == ("mel_hz", "time_s"):
        if clip is None:
            return ()
        edges = [float(hz) for hz in result.settings["mel_hz"]]
        name = "attribution over the spectrogram (blue: truth, orange: claims; grey: sound)"
        return (map_track(name, numbers, step, clip, low_hz=edges[0], high_hz=edges[-1]),)
    if values.dims == ("token",):
        numbers = numbers[np.asarray(values["span"].values) == "audio"]
    return (Track(f"attribution at {site}, nats a second", step, numbers / step, "nats/s"),)


def _tokens_html(result: AttributionResult, item: str) -> str:
    """Return the tokens of the text with their share, span by span; nothing for maps of sound alone."""
    values = result.map(item)
    if values.dims != ("token",):
        return ""
    numbers = np.asarray(values.values, dtype=np.float64)
    spans, texts = [str(s) for s in values["span"].values], [str(t) for t in values["text"].values]
    most = max((abs(v) for v, s in zip(numbers, spans, strict=True) if s not in ("audio", "silence")), default=0.0)
    rows = []
    for span in dict.fromkeys(spans):
        here = [k for k, name in enumerate(spans) if name == span]
        total = signed(float(numbers[here].sum()))
        cells = "in the player" if span == "audio" else f"{len(here)} tokens behind the clip"
        if span not in ("audio", "silence"):
            cells = " ".join(_token_html(texts[k], float(numbers[k]), most) for k in here)
        rows.append(f"<tr><th scope='row'>{escape(span)}</th><td>{total}</td><td class='vp-tokens'>{cells}</td></tr>")
    return f"<table class='vp-options'><tbody>{''.join(rows)}</tbody></table>"


def _token_html(text: str, value: float, most: float) -> str:
    shown = text.replace("\n", "⏎").strip() or "␣"
    small = f"<small>{signed(value)}</small>" if abs(value) >= max(0.02 * most, 0.005) else ""
    return (
        f"<span class='vp-token' style='{shade(value, most)}' title='{value:+.3g} nats'>{escape(shown)}{small}</span>"
    )
