"""A player in which one sees what one hears: the clip, its spectrogram and whatever runs in step with it.

Why it exists. An attribution at 1.2 s means nothing until one has heard what is said there. ipywidgets plays sound but
cannot tell where it is.

The idea. One anywidget with a hand-written module (``static/player.js``): the browser's own audio controls above one
canvas with waveform, spectrogram and tracks, all on one time axis, and a cursor that moves with the sound, by click and
by arrow keys. Everything that belongs to an item is sent as one value, so that a new item is one message and one
drawing. The colours are the theme's.

>>> player = Player(title="the clip")
>>> player.load(Clip("silence", np.zeros(1600, dtype=np.float32)))
>>> player.clip["seconds"], player.note
(0.1, '')
>>> player.close()
"""

from __future__ import annotations

from typing import Any

import anywidget
import numpy as np
import traitlets

from vpanalysis.explore._clips import MOST_HZ, Clip, Track, palette, ticks
from vpanalysis.explore._explorer import CSS, STATIC

__all__ = ["Player"]


class Player(anywidget.AnyWidget):
    """Plays a clip and shows waveform, spectrogram and tracks under a moving cursor.

    Attributes
    ----------
    title : str
        Name for screen readers.
    clip : dict
        Name, seconds, WAV bytes, spectrogram bytes with their shape, named frequencies; empty without a clip.
    tracks : list of dict
        What is drawn under the clip.
    note : str
        Said instead of a clip.
    """

    # As text: of a path, anywidget watches the file, and the watch would keep every player that ever was.
    _esm = (STATIC / "player.js").read_text(encoding="utf-8")
    _css = CSS + (STATIC / "player.css").read_text(encoding="utf-8")

    title = traitlets.Unicode("").tag(sync=True)
    clip = traitlets.Dict().tag(sync=True)
    tracks = traitlets.List().tag(sync=True)
    note = traitlets.Unicode("").tag(sync=True)

    def load(self, clip: Clip | None, tracks: tuple[Track, ...] = (), *, note: str = "") -> None:
        """Show another clip, or none and say why.

        Parameters
        ----------
        clip : Clip or None
        tracks : tuple of Track
        note : str
        """
        shown: dict[str, Any] = {}
        if clip is not None:
            shown = {
                "name": clip.name, "seconds": clip.seconds, "wav": clip.wav, "mel": clip.mel.tobytes(),
                "bins": clip.mel.shape[0], "columns": clip.mel.shape[1], "ticks": ticks(0.0, MOST_HZ),
                "palette": palette().tobytes(),
            }  # fmt: skip
        with self.hold_sync():
            self.note = note
            self.tracks = [_sent(track) for track in tracks]
            self.clip = shown


def _sent(track: Track) -> dict[str, Any]:
    out: dict[str, Any] = {
        "name": track.name, "unit": track.unit, "step_s": track.step_s,
        "values": np.asarray(track.values, dtype="<f4").tobytes(),
    }  # fmt: skip
    if track.image is not None:
        bins, columns, _ = track.image.shape
        out |= {"image": track.image.tobytes(), "bins": bins, "columns": columns,
                "ticks": ticks(track.low_hz, track.high_hz)}  # fmt: skip
    return out
