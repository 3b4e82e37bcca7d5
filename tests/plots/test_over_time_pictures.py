"""Pictures over time are drawn from the numbers: lines, bands, thresholds and maps hold what the results say."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from vpanalysis.errors import RunError
from vpanalysis.plots import attention_profile, generalisation_map, time_curve
from vpanalysis.probes.attentive import AttentiveResult, attentive_probe
from vpanalysis.probes.over_time import TimeResult, decodability_over_time
from vpanalysis.probes.solvers.attention import AttentionRecipe


def clips_of() -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    y, clips = np.arange(48) % 2, []
    for label in y:
        clip = rng.normal(size=(int(rng.integers(6, 12)), 5))
        clip[4, :2] += [4, 5 * label]
        clips.append(clip)
    return clips, y


@pytest.fixture(scope="module")
def over_time() -> TimeResult:
    clips, y = clips_of()
    noise = [np.random.default_rng(1).normal(size=clip.shape) for clip in clips]
    return decodability_over_time(
        {"told": clips, "noise": noise}, y=y, frame_seconds=0.1, generalise=True, progress=False
    )  # fmt: skip


@pytest.fixture(scope="module")
def attentive() -> AttentiveResult:
    clips, y = clips_of()
    how = AttentionRecipe(max_steps=60, choose_steps=False)
    return attentive_probe(clips, y=y, frame_seconds=0.1, recipe=how, progress=False)


@pytest.fixture(autouse=True)
def closed() -> object:
    before = dict(plt.rcParams)
    yield
    assert dict(plt.rcParams) == before
    plt.close("all")


def gid(ax: plt.Axes, name: str) -> list[object]:
    return ax.findobj(lambda artist: artist.get_gid() == name)


def test_a_curve_is_the_table(over_time: TimeResult) -> None:
    ax = time_curve(over_time, "y")
    for site in ("told", "noise"):
        rows = over_time.curve("y", site).dropna(subset=["accuracy"])
        (line,) = gid(ax, site)
        np.testing.assert_allclose(line.get_xdata(), rows["time"])
        np.testing.assert_allclose(line.get_ydata(), rows["accuracy"])
    (chance,) = gid(ax, "chance")
    assert chance.get_ydata()[0] == 0.5
    (threshold,) = gid(ax, "threshold")
    assert threshold.get_ydata()[0] == over_time.table["threshold"].max()
    assert ax.get_xlabel() == "seconds from the start"
    assert gid(ax, "remaining")
    assert not gid(ax, "shuffle")
    assert {"told", "noise", "chance"} <= {text.get_text() for text in ax.texts}


def test_one_site_shows_its_shuffles_and_draws_where_it_is_told(over_time: TimeResult) -> None:
    ax = plt.subplots()[1]
    assert over_time.plot(ax, sites="told", note="<planted>") is ax
    (band,) = gid(ax, "shuffle")
    rows = over_time.curve("y", "told")
    points = band.get_paths()[0].vertices[:, 1]
    assert points.min() == pytest.approx(rows["shuffle_low"].min())
    assert any("<planted>" in text.get_text() for text in ax.texts)
    with pytest.raises(RunError, match="did you mean 'told'"):
        over_time.plot(sites="tald")


def test_a_map_is_the_pivot(over_time: TimeResult) -> None:
    ax = generalisation_map(over_time)
    (image,) = gid(ax, "map")
    wide = over_time.pivot("y", "told").to_numpy()
    np.testing.assert_allclose(np.asarray(image.get_array()), wide)
    assert ax.get_title(loc="left") == "y, told"
    low, high = image.get_clim()
    assert (low + high) / 2 == pytest.approx(0.5)
    left, right, bottom, top = image.get_extent()
    assert (left, right) == (bottom, top) == pytest.approx((0.0, wide.shape[0] * 0.1))


def test_a_profile_is_where_attention_was(attentive: AttentiveResult) -> None:
    ax = attention_profile(attentive)
    (line,) = gid(ax, "frames:0")
    np.testing.assert_allclose(line.get_ydata(), attentive.profile["density"])
    assert gid(ax, "even")[0].get_ydata()[0] == 1
    one = attentive.plot(item="3")
    (line,) = gid(one, "frames:0")
    assert line.get_xdata()[int(np.argmax(line.get_ydata()))] == pytest.approx(0.45)
    assert one.get_xlabel() == "seconds from the start"
    with pytest.raises(RunError, match="cannot show the attention"):
        attention_profile(attentive, item="nobody")
    with pytest.raises(RunError, match="site"):
        attention_profile(attentive, sites="nowhere")


def test_what_was_not_probed_says_so() -> None:
    flat = decodability_over_time([np.ones((3, 2))] * 6, y=["a"] * 6, frame_seconds=0.1, shuffles=0, progress=False)
    ax = flat.plot()
    assert any("one class only" in text.get_text() for text in ax.texts)
    assert any(
        t.get_text() == "not probed"
        for t in attentive_probe([np.ones((3, 2))] * 6, y=["a"] * 6, progress=False).plot().texts
    )
