"""Pictures: the numbers that are drawn, the manners of a plotting function, and nothing cut off or covered."""

from __future__ import annotations

import doctest
import io
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.text import Text

from vpanalysis import plots
from vpanalysis.errors import RunError
from vpanalysis.plots import style
from vpanalysis.plots.style import SERIES, spread
from vpanalysis.probes import ProbeResult

NOTE = "Model organism: its layer profile was planted by the training losses."


def by_gid(ax: Axes, gid: str) -> Any:
    found = [artist for artist in ax.findobj() if artist.get_gid() == gid]
    assert len(found) == 1, (gid, len(found))
    return found[0]


def texts(ax: Axes) -> list[str]:
    return [t.get_text() for t in ax.findobj(Text) if t.get_text()]


def test_curves_draw_the_accuracies_of_the_result(truth: ProbeResult, claim: ProbeResult) -> None:
    ax = plots.layer_curves(truth, "age_prediction", claim, (0.3, 0.2, 0.4))
    curve = truth.curve("age_prediction").set_index("site")["accuracy"]
    serial = ["encoder.stem", "encoder[0]", "encoder[1]", "tower", "mixed"]
    np.testing.assert_allclose(by_gid(ax, "truth:audio").get_ydata(), curve[serial])
    np.testing.assert_allclose(by_gid(ax, "truth:text").get_ydata(), curve[["text.embed", "text[0]"]])
    np.testing.assert_allclose(
        by_gid(ax, "truth:streams").get_ydata().astype(float), curve[["streams[0]", "streams[1]"]]
    )
    other = claim.curve("age_prediction").set_index("site")["accuracy"]
    np.testing.assert_allclose(by_gid(ax, "claim:audio").get_ydata(), other[serial])
    assert by_gid(ax, "model").get_ydata()[0] == 0.3
    assert by_gid(ax, "chance:truth").get_ydata()[0] == 0.25
    assert by_gid(ax, "majority:truth").get_ydata()[0] == pytest.approx(0.35)


def test_the_gap_is_probe_at_the_tokens_minus_the_model(truth: ProbeResult) -> None:
    ax = plots.layer_curves(truth, "age_prediction", model_accuracy=(0.3, 0.2, 0.4))
    arrow = by_gid(ax, "gap")
    assert (arrow.xy[1], arrow.xyann[1]) == (pytest.approx(0.3), pytest.approx(0.6))
    assert "↕ utilization gap 0.30" in texts(ax)
    high = plots.layer_curves(truth, "age_prediction", model_accuracy=(0.7, 0.6, 0.8))
    assert not any("gap" in text for text in texts(high))


def test_the_band_is_the_interval(truth: ProbeResult) -> None:
    ax = plots.layer_curves(truth, "age_prediction")
    band = next(c for c in ax.collections if isinstance(c, PolyCollection))
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(0.9 - 0.05 * 6 - 0.05)
    assert heights.max() == pytest.approx(0.94)


def test_a_task_that_was_not_probed_says_why(truth: ProbeResult) -> None:
    table = truth.table.assign(accuracy=np.nan, low=np.nan, high=np.nan, note="one class only: 'Female'")
    empty = ProbeResult(table, truth.by_condition, truth.predictions, "truth")
    ax = plots.layer_curves(empty, "age_prediction", model_accuracy=(0.3, 0.2, 0.4))
    assert any("one class only" in text for text in texts(ax))
    with pytest.raises(RunError, match="allowed"):
        plots.layer_curves(truth, "gender_prediction")


def test_grid_has_a_panel_a_task_and_one_legend(truth: ProbeResult, claim: ProbeResult) -> None:
    axes = plots.layer_grid(truth, claim, {"age_prediction": (0.3, 0.2, 0.4)}, note=NOTE, title="mini")
    assert [ax.get_title(loc="left") for ax in axes] == ["Age", "Pitch"]
    assert by_gid(axes[0], "model").get_ydata()[0] == 0.3
    assert not [a for a in axes[1].findobj() if a.get_gid() == "model"]
    figure = axes[0].figure
    assert len(figure.legends) == 1
    assert NOTE in figure.get_supxlabel().replace("\n", " ")
    own = plt.subplots(1, 2)[1]
    assert list(plots.layer_grid(truth, axes=own)) == list(own)


def test_overview_writes_accuracies_and_shades_from_chance(truth: ProbeResult) -> None:
    ax = plots.layer_overview(truth)
    assert "0.90" in texts(ax)
    shade = ax.images[0].get_array()
    assert shade.shape == (2, 9)
    assert shade[0, 0] == pytest.approx((0.9 - 0.25) / 0.75)


def test_acc_against_ala(scores: dict[str, SimpleNamespace]) -> None:
    ax = plots.acc_vs_ala(scores)
    mark = by_gid(ax, "mini-sft")
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (pytest.approx(0.6), pytest.approx(0.35))
    assert {by_gid(ax, f"label:{name}").get_text() for name in scores} == set(scores)
    # Told apart without colour.
    assert len({by_gid(ax, name).get_marker() for name in scores}) == len(scores)


def test_labels_of_close_models_do_not_cover_each_other() -> None:
    numbers = [(0.50, 0.40), (0.51, 0.41), (0.49, 0.42), (0.52, 0.39), (0.02, 0.96), (0.03, 0.95), (0.50, 0.405)]
    scores = {
        f"checkpoint-{n}": SimpleNamespace(
            overall=pd.DataFrame({"metric": ["acc_gt", "ala"], "estimate": [a, b], "low": [a, b], "high": [a, b]})
        )
        for n, (a, b) in enumerate(numbers)
    }
    ax = plots.acc_vs_ala(scores)
    ax.figure.draw_without_rendering()
    renderer = ax.figure.canvas.get_renderer()
    boxes = [Text.get_window_extent(by_gid(ax, f"label:{name}"), renderer) for name in scores]
    frame = ax.get_window_extent()
    for number, box in enumerate(boxes):
        assert frame.x0 - 2 <= box.x0
        assert box.x1 <= frame.x1 + 2
        for other in boxes[number + 1 :]:
            assert not (box.shrunk(0.9, 0.8).overlaps(other.shrunk(0.9, 0.8)))


def test_bars_are_as_long_as_the_estimates(scores: dict[str, SimpleNamespace]) -> None:
    ax = plots.hearing_bars(scores, note=NOTE)
    assert by_gid(ax, "mini-pclm:acc_gt").get_width() == pytest.approx(0.6)
    assert by_gid(ax, "mini-pclm:acc_congruent").get_width() == pytest.approx(0.5)
    # The hearing lane runs from -0.5 to 1, so a unit is two thirds of a lane; the others from 0 to 1.
    assert by_gid(ax, "mini-base:hearing").get_width() == pytest.approx(-0.4 / 1.5)
    assert "-0.40" in texts(ax)
    table = plots.overall_table(scores)
    assert len(table) == 4 * 5
    assert table.query("name == 'mini-sft' and metric == 'ala'")["estimate"].item() == pytest.approx(0.6)


def test_metrics_that_a_score_lacks_are_left_out() -> None:
    frame = pd.DataFrame({"metric": ["acc_gt", "acc_neutral"], "estimate": [0.4, np.nan], "low": 0.3, "high": 0.5})
    scores = {"released": SimpleNamespace(overall=frame)}
    assert list(plots.overall_table(scores)["metric"]) == ["acc_gt"]
    plots.hearing_bars(scores)
    assert not [t for t in texts(plots.acc_vs_ala(scores)) if t == "released"]


def test_gate_numbers(gated: SimpleNamespace) -> None:
    table = plots.gate_table(gated).set_index(["task", "stream"])
    assert table.loc[("age_prediction", "encoder[1]"), "mean"] == pytest.approx(0.6)
    assert table.loc[("age_prediction", "encoder[1]"), "sd"] == pytest.approx(0.1)
    assert table.loc[("pitch_comparison", "final"), "sd"] == pytest.approx(0)
    assert plots.gate_variation(table.reset_index()) == (pytest.approx(0.6), "age_prediction", "pitch_comparison")
    ax = plots.gate_weights(gated, note=NOTE)
    assert "0.60 ±0.10" in texts(ax)
    np.testing.assert_allclose(ax.images[0].get_array(), [[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["encoder[1]", "encoder[3]", "final"]
    gated.gates = gated.gates.iloc[::-1]  # tasks are joined by id, not by position
    np.testing.assert_allclose(plots.gate_weights(gated).images[0].get_array()[0], [0.1, 0.2, 0.7])
    gated.gates = None
    with pytest.raises(RunError, match="no gate weights"):
        plots.gate_weights(gated)


def _draw_all(truth: ProbeResult, scores: Any, gated: Any, ax: Axes | None) -> list[Axes]:
    drawn = []
    for draw in (
        lambda a: plots.layer_curves(truth, "age_prediction", note=NOTE, ax=a),
        lambda a: plots.layer_overview(truth, note=NOTE, ax=a),
        lambda a: plots.acc_vs_ala(scores, note=NOTE, ax=a),
        lambda a: plots.hearing_bars(scores, note=NOTE, ax=a),
        lambda a: plots.gate_weights(gated, note=NOTE, ax=a),
        lambda a: truth.plot(a, note=NOTE),
        lambda a: truth.plot(a, task="pitch_comparison", note=NOTE),
    ):
        if ax is not None:
            ax.clear()
        drawn.append(draw(ax))
        if ax is not None:
            assert drawn[-1] is ax
        assert NOTE.split()[0] in by_gid(drawn[-1], "note").get_text()
    return drawn


def test_axes_in_axes_out_and_rcparams_untouched(
    truth: ProbeResult, scores: Any, gated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plt, "show", lambda *_: pytest.fail("a plotting function called plt.show"))
    before = dict(mpl.rcParams)
    figure, ax = plt.subplots()
    count = len(plt.get_fignums())
    _draw_all(truth, scores, gated, ax)
    assert len(plt.get_fignums()) == count  # nothing new where an Axes was given
    _draw_all(truth, scores, gated, None)
    assert dict(mpl.rcParams) == before
    assert figure.axes == [ax]


def test_nothing_is_cut_off(truth: ProbeResult, scores: Any, gated: Any) -> None:
    for ax in _draw_all(truth, scores, gated, None):
        figure = ax.figure
        figure.savefig(io.BytesIO(), format="png")
        page, inside = figure.bbox, figure.get_tightbbox(figure.canvas.get_renderer())
        dpi = figure.dpi
        assert inside.x0 * dpi >= page.x0 - 2
        assert inside.x1 * dpi <= page.x1 + 2
        assert inside.y0 * dpi >= page.y0 - 2
        assert inside.y1 * dpi <= page.y1 + 2
        small = [t.get_fontsize() for t in ax.findobj(Text) if t.get_text() and t.get_visible()]
        assert min(small) >= 7


def test_series_differ_in_grey_and_in_shape() -> None:
    assert len({(s.marker, s.line) for s in SERIES}) == len(SERIES)
    assert style.TRUTH.marker != style.CLAIM.marker
    assert style.TRUTH.line != style.CLAIM.line


@pytest.mark.parametrize("values", [[0.5, 0.5, 0.5], [0.0, 0.01, 0.99, 1.0], [0.9, 0.1, 0.5], [1.0, 1.0]])
def test_labels_move_apart_and_keep_their_order(values: list[float]) -> None:
    placed = np.array(spread(values, gap=0.1, low=0.0, high=1.0))
    order = np.argsort(values, kind="stable")
    assert (np.diff(placed[order]) >= 0.1 - 1e-9).all()
    assert placed.min() >= -1e-9
    assert placed.max() <= 1 + 1e-9


def test_examples_in_the_style_module() -> None:
    assert doctest.testmod(style).failed == 0


def test_names_from_data_are_never_read_as_formulas(truth: ProbeResult, tmp_path: Any) -> None:
    evil = "$\\nonsense{ <b>$"
    renamed = ProbeResult(
        truth.to_dataframe().replace("age_prediction", evil), pd.DataFrame(), pd.DataFrame(), "truth", {"run": evil}
    )
    for number, ax in enumerate((plots.layer_curves(renamed, evil), plots.layer_overview(renamed))):
        figure = ax.get_figure(root=True)
        assert any(evil in text for text in texts(ax))
        figure.savefig(tmp_path / f"{number}.svg")
        plt.close(figure)
