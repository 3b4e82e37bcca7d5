"""The forest of a calibration: the numbers that are drawn, by which verdicts are told apart, and nothing cut off."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text

from vpanalysis import plots
from vpanalysis._calibration import COMPARISON_KINDS, READING_KINDS, Calibration
from vpanalysis._tables import typed


def row(convention: str, chosen: str, other: str, difference: float, half: float, **more: Any) -> dict[str, Any]:
    return {
        "convention": convention, "chosen": chosen, "other": other, "kind": "one step", "reading": 0,
        "difference": difference, "low": difference - half, "high": difference + half, "n": 100, "n_groups": 20,
        "group": "speaker", "verdict": "worse" if difference - half > 0.02 else "not told apart", **more,
    }  # fmt: skip


@pytest.fixture
def found() -> Calibration:
    rows = [
        row("mid_pool", "avg_norm", "avg", 1.5, 0.5),
        row("mid_pool", "avg_norm", "avg", 1.2, 0.6, kind="best with it"),
        row("gate_text", "question", "chat", 0.1, 0.3),
        row("gate_text", "question", "question_options", 0.0, float("nan"), verdict="same answers"),
    ]
    return Calibration(
        model="AF3_PCLM_DPO", source=None, revision=None, fingerprint="f", benchmark={"name": "VoxParadox"},
        created="2030-01-01", decided={"mid_pool": "avg_norm"}, undecided={"gate_text": "question"},
        reasons={"mid_pool": "better", "gate_text": "open"}, stated={},
        chosen={"mid_pool": "avg_norm", "gate_text": "question"}, readings=typed([], READING_KINDS),
        comparisons=typed(rows, COMPARISON_KINDS), items=(),
        settings={"level": 0.95, "margin": 0.02, "groups": ["speaker"]},
    )  # fmt: skip


def texts(ax: Axes) -> list[str]:
    return [t.get_text() for t in ax.findobj(Text) if t.get_text()]


def marks(ax: Axes) -> dict[str, Any]:
    return {str(line.get_gid()): line for line in ax.lines if line.get_gid()}


def test_every_comparison_is_drawn_where_it_is(found: Calibration) -> None:
    ax = found.plot()
    drawn = marks(ax)
    table = found.comparisons
    assert set(drawn) == {f"{r['convention']}:{r['other']}:{r['kind']}" for r in table.to_dict("records")}
    for one in table.to_dict("records"):
        mark = drawn[f"{one['convention']}:{one['other']}:{one['kind']}"]
        assert mark.get_xdata()[0] == one["difference"]
        bars = [
            line for line in ax.lines
            if not line.get_gid() and len(line.get_ydata()) == 2 and set(line.get_ydata()) == {mark.get_ydata()[0]}
        ]  # fmt: skip
        if np.isnan(one["low"]):
            assert not bars
        else:
            np.testing.assert_allclose(bars[0].get_xdata(), [one["low"], one["high"]])
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[0] == "middle layers: avg_norm, decided" and labels[3] == "text of the gate: question, not decided"
    assert labels[2] == "against avg (best of all with it)"
    plt.close("all")


def test_verdicts_are_told_by_marker_and_word(found: Calibration) -> None:
    ax = found.plot(note="A note.")
    drawn = marks(ax)
    worse, open_ = drawn["mid_pool:avg:one step"], drawn["gate_text:chat:one step"]
    assert worse.get_marker() != open_.get_marker() and open_.get_markerfacecolor() == "white"
    said = texts(ax)
    assert said.count("worse") == 2 and said.count("not told apart") == 1 == said.count("same answers")
    assert any("A note." in text and "0.02" in text for text in said)
    assert "Calibration of AF3_PCLM_DPO on VoxParadox" in said
    plt.close("all")


def test_it_draws_where_it_is_told_and_leaves_the_style(found: Calibration) -> None:
    before = dict(mpl.rcParams)
    _, ax = plt.subplots(figsize=(9, 4))
    assert plots.calibration_forest(found, ax=ax) is ax
    assert dict(mpl.rcParams) == before and len(plt.get_fignums()) == 1
    plt.close("all")


def test_nothing_is_cut_off(found: Calibration) -> None:
    many = pd.concat([found.comparisons] * 2, ignore_index=True)
    for comparisons in (found.comparisons, many):
        ax = plots.calibration_forest(
            Calibration(**{**vars(found), "comparisons": comparisons}), note="A long note, " * 20
        )
        figure = ax.get_figure(root=True)
        assert figure is not None
        figure.canvas.draw()
        whole = figure.bbox
        for text in ax.findobj(Text):
            if text.get_text() and text.get_visible():
                box = text.get_window_extent()
                assert box.x0 >= whole.x0 - 1 and box.x1 <= whole.x1 + 1, text.get_text()
                assert box.y0 >= whole.y0 - 1 and box.y1 <= whole.y1 + 1, text.get_text()
    plt.close("all")
