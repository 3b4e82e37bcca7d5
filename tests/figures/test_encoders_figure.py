"""Encoders are compared on the same items by relative depth, and random weights are called untrained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from behaviour import drawn, texts
from layered import base, measured, sources, untrained, weighted

from vpanalysis.figures import LackingError, figure_data
from vpanalysis.figures._layers import encoder_depth


@pytest.fixture(scope="module")
def data():
    return figure_data("encoders", [untrained(), base()])


def test_depth_and_averages(data) -> None:
    measured(data)
    own = data[data["run"] == "whisper-untrained"].set_index("site")
    assert own["depth"].dropna().to_dict() == {"encoder.stem": 0.0, "encoder[0]": 0.5, "encoder[1]": 1.0}
    assert np.isnan(own.loc["tower", "depth"])
    result = next(sources(untrained()).results("ProbeResult"))[1]
    for site in own.index:
        assert own.loc[site, "value"] == pytest.approx(weighted(result, site).mean(), abs=1e-9)
    base_rows = data[data["run"] == "mini-base"]
    assert base_rows["depth"].max() == 1.0 and not base_rows["site"].str.startswith(("text", "projector")).any()
    assert base_rows["planted"].all() and not data.loc[data["run"] == "whisper-untrained", "planted"].any()


def test_untrained_is_said(data) -> None:
    assert set(data.loc[data["run"] == "whisper-untrained", "encoder"]) == {"whisper, untrained (random weights)"}
    assert set(data.loc[data["run"] == "mini-base", "encoder"]) == {"encoder of mini-base"}
    said = texts(drawn("encoders", [untrained(), base()]))
    assert "whisper, untrained (random weights)" in said and "encoder of mini-base, organism (planted)" in said


def test_other_items_are_not_compared(tmp_path: Path) -> None:
    other = tmp_path / "mini-base"
    shutil.copytree(base(), other)
    made = json.loads((other / "manifest.json").read_text(encoding="utf-8"))
    made["benchmark"]["sha"] = "0" * 64
    (other / "manifest.json").write_text(json.dumps(made), encoding="utf-8")
    assert set(figure_data("encoders", [untrained(), other])["run"]) == {"whisper-untrained"}


def test_refuses_without_an_encoder_alone() -> None:
    with pytest.raises(LackingError, match="vpanalysis run openai/whisper-large-v3 mini"):
        figure_data("encoders", base())


def test_depth_of_sites() -> None:
    assert [encoder_depth(f"encoder[{i}]", 4) for i in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert np.isnan(encoder_depth("text[0]", 4))
