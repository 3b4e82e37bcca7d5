"""Explorers keep a static twin of what they show, escape what they are told, and leave nothing behind."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pytest

from vpanalysis import explore
from vpanalysis.explore import _explorer
from vpanalysis.explore._bars import Bar, bars_html, shade, signed
from vpanalysis.explore._choosing import Chooser
from vpanalysis.explore._clips import MOST_HZ, Clip, Track, hz_to_mel, map_track, static_html, ticks
from vpanalysis.explore._explorer import Explorer, figure_html, labelled, text_html
from vpanalysis.explore._player import Player

RATE = 16_000
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)> & \"'"


def alive() -> int:
    return len(widgets.widgets.widget._instances)


class Counter(Explorer):
    """Shows a number."""

    def __init__(self, title: str = "Counter") -> None:
        super().__init__(title)
        self.number = labelled(widgets.IntSlider(value=1, min=0, max=9), "Number", "what is shown")
        self.number.observe(lambda change: self.changed(number=change["new"]), "value")
        self.show(self.number)
        self.changed(number=1)

    def static(self) -> str:
        return f"<p>number {self.state['number']}</p>"


class Shown:
    """Stands for the display that a notebook gives."""

    def __init__(self) -> None:
        self.html: list[str] = []

    def update(self, content: Any) -> None:
        self.html.append(content._repr_html_())


def tone(hz: float, seconds: float = 0.5) -> Clip:
    return Clip(f"{hz} Hz", (0.5 * np.sin(np.arange(int(seconds * RATE)) / RATE * 2 * np.pi * hz)).astype(np.float32))


def test_a_change_reaches_the_static_twin_and_the_state() -> None:
    one = Counter()
    one._handle = Shown()
    one.number.value = 7
    assert one.state == {"number": 7} and "number 7" in one._handle.html[-1]
    assert "number 7" in one._repr_html_() and "<script" not in one._repr_html_()
    one.close()


def test_a_closed_explorer_leaves_no_widget_and_still_has_its_static_twin() -> None:
    before, closed = alive(), []
    one = Counter()
    one.on_close(lambda: closed.append(1))
    one.close()
    one.close()
    assert alive() == before and closed == [1]
    assert "number 1" in one._repr_html_()


def test_a_cell_that_is_run_again_closes_what_it_left(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []

    def display(content: Any, **_: Any) -> Shown:
        shown.append(content)
        return Shown()

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr(_explorer, "_cell_id", lambda: "cell-1")
    before = alive()
    last: Counter | None = None
    for _ in range(100):
        last = Counter()
        last._ipython_display_()
    assert last is not None and alive() - before == len(_explorer._all_of(last.root))
    # The static one comes first: it is what is left where the second cannot be shown.
    assert "vp-static" in shown[-2]._repr_html_()
    view = shown[-1]["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] == last.root.model_id and shown[-1]["text/plain"] == ""
    last.close()
    _explorer._LIVE.pop("cell-1")
    assert alive() == before


def test_titles_texts_and_pictures_are_escaped() -> None:
    one = Counter(MARKUP)
    figure = plt.subplots(figsize=(2, 1))[0]
    for html in (one._repr_html_(), one.root.children[0].value, text_html([MARKUP]), figure_html(figure, MARKUP)):
        assert "<script>" not in html and "<img" not in html
    assert not plt.get_fignums()
    one.close()


def test_the_lazy_exports_exist_and_others_do_not() -> None:
    for name in explore._EXPORTS:
        assert callable(getattr(explore, name)), name
    with pytest.raises(AttributeError, match="no attribute 'itmes'"):
        _ = explore.itmes


def test_a_clip_as_wav_holds_its_samples() -> None:
    import io

    import soundfile

    clip = tone(440)
    samples, rate = soundfile.read(io.BytesIO(clip.wav), dtype="float32")
    assert rate == RATE and np.abs(samples - clip.wave).max() <= 1 / 32767
    loud = soundfile.read(io.BytesIO(Clip("loud", np.array([2.0, -2.0], dtype=np.float32)).wav))[0]
    assert np.abs(loud).max() <= 1.0 and loud[0] > 0.99 and loud[1] < -0.99


@pytest.mark.parametrize("hz", [300.0, 1000.0, 3000.0])
def test_a_tone_is_brightest_at_its_own_height(hz: float) -> None:
    mel = tone(hz).mel
    assert mel.dtype == np.uint8 and mel.shape[0] == 80
    bright = int(mel.mean(axis=1).argmax())
    assert abs(bright - float(hz_to_mel(hz)) / float(hz_to_mel(MOST_HZ)) * 80) < 1.5


def test_silence_is_black_and_long_clips_stay_small() -> None:
    assert Clip("silence", np.zeros(RATE, dtype=np.float32)).mel.max() == 0
    assert Clip("one sample", np.zeros(1, dtype=np.float32)).envelope.shape == (2, 1)
    long = Clip("long", np.random.default_rng(0).normal(0.0, 0.1, size=60 * RATE).astype(np.float32))
    assert long.mel.shape[1] <= 800 and "<audio" not in static_html(long)
    assert "<audio" in static_html(tone(440))


def test_named_frequencies_lie_where_the_mel_scale_puts_them() -> None:
    named = dict(ticks())
    assert named["0 Hz"] == 0.0 and named["8 kHz"] == 1.0 and 0.3 < named["1 kHz"] < 0.4
    assert [name for name, _ in ticks(900.0, 4100.0)] == ["1 kHz", "2 kHz", "4 kHz"]


def test_a_map_is_blue_where_positive_and_orange_where_negative() -> None:
    values = np.zeros((8, 50))
    values[2, 10], values[6, 30] = 1.0, -1.0
    track = map_track("map", values, 0.01, Clip("silence", np.zeros(RATE // 2, dtype=np.float32)))
    assert track.image is not None
    assert track.image[2, 10].tolist() == [0x00, 0x72, 0xB2] and track.image[6, 30].tolist() == [0xD5, 0x5E, 0x00]
    assert (track.image[0] == 255).all()
    np.testing.assert_allclose(track.values, values.sum(axis=0))


def test_a_player_gets_a_clip_and_its_tracks_as_bytes() -> None:
    player = Player(title="a clip")
    clip = tone(440)
    track = Track("series", 0.1, np.array([1.0, -2.0, 0.5, 0.0, 0.25]), "nats/s")
    player.load(clip, (track, map_track("map", np.ones((4, 5)), 0.1, clip)))
    assert player.clip["wav"][:4] == b"RIFF" and len(player.clip["mel"]) == player.clip["bins"] * player.clip["columns"]
    assert np.frombuffer(player.tracks[0]["values"], "<f4").tolist() == [1.0, -2.0, 0.5, 0.0, 0.25]
    assert len(player.tracks[1]["image"]) == 4 * 5 * 3 and "image" not in player.tracks[0]
    player.load(None, note="No clip: lost")
    assert player.clip == {} and player.tracks == [] and player.note == "No clip: lost"
    player.close()


def test_a_closed_player_and_the_keys_of_a_closed_explorer_are_forgotten() -> None:
    player, one = Player(title="a clip"), Counter()
    player.load(tone(440))
    keys = one.root.children[-1]
    assert type(keys).__name__ == "_Keys" and "data-lm-suppress-shortcuts" in keys._esm
    refs = [weakref.ref(player), weakref.ref(keys)]
    player.close()
    one.close()
    del player, one, keys
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


def test_the_static_picture_of_a_clip_shows_its_tracks_and_escapes_names() -> None:
    clip = Clip(MARKUP, tone(440).wave)
    html = static_html(clip, (Track(MARKUP, 0.1, np.array([3.0, -1.0, 0, 0, 0])),))
    assert "<script>" not in html and "<img" not in html and "data:image/png;base64," in html
    assert html.count("<rect") == 2 and "fill='#0072b2'" in html and "fill='#c65300'" in html


def test_bars_say_their_numbers_and_whether_there_are_any() -> None:
    html = bars_html([Bar(MARKUP, -1.0, -2.0, 0.0, "claim"), Bar("none", float("nan"))], heading=MARKUP)
    assert "-1.00 [-2.00, +0.00]" in html and "not measured" in html and "<script>" not in html
    assert signed(-0.001) == "+0.00" and signed(float("nan")) == "–"
    assert "--vp-truth" in shade(1.0, 2.0) and "--vp-claim" in shade(-1.0, 2.0) and shade(float("nan"), 1.0) == ""


def test_a_chooser_goes_round_and_keeps_what_is_still_offered() -> None:
    seen: list[str] = []
    chooser = Chooser(seen.append)
    chooser.offer([("A", "a"), ("B", "b"), ("C", "c")])
    chooser.previous.click()
    chooser.offer([("B", "b"), ("C", "c")])
    chooser.offer([("A", "a"), ("B", "b")])
    assert seen == ["a", "c", "c", "a"]
