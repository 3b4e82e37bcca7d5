"""The mixture divided among its streams: exactly, over valid frames, and by projection."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

import vpanalysis as vp
from vpanalysis.attribution._asking import Asker
from vpanalysis.attribution.contributions import QUANTITIES, ContributionResult, gate_contributions
from vpanalysis.attribution.mixtures import clamped
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import RunError


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def bench() -> Benchmark:
    whole = vp.load_benchmark("mini", tasks=["age_prediction", "speaker_identity_recognition"])
    return whole.filter(lambda item: item.condition == "conflict" and int(str(item.cell)[-4:]) < 8)


@pytest.fixture(scope="module")
def model() -> vp.AudioLLM:
    return vp.load_model("mini-pclm-dpo")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def found(model: vp.AudioLLM, bench: Benchmark, folder: Path) -> ContributionResult:
    return gate_contributions(model, bench, cache=folder, progress=False)


def test_shares_sum_to_one_for_every_clip(found: ContributionResult) -> None:
    for quantity in ("weight", "share", "moving"):
        np.testing.assert_allclose(found.items.groupby("id")[quantity].sum(), 1, atol=1e-5)
        rows = found.table[found.table["quantity"] == quantity]
        np.testing.assert_allclose(rows.groupby("task")["value"].sum(), 1, atol=1e-5)


def test_the_terms_add_up_to_what_the_mixer_put_out(found: ContributionResult) -> None:
    assert 0 < found.settings["error"] < 1e-5


def test_numbers_are_those_of_the_definition(found: ContributionResult, model: vp.AudioLLM, bench: Benchmark) -> None:
    item = max(bench, key=lambda one: one.duration_s)
    asker = Asker(model, [item], DEFAULT_PROMPT)
    batch = model.prepare([item], None, DEFAULT_PROMPT, encoded=asker.encoded)
    with model.capturing([*(f"streams[{k}]" for k in range(5)), "gate", "mixed"]) as seen:
        model.forward(batch)
    valid = torch.zeros(seen["mixed"][0].shape[:2], dtype=torch.bool)
    for row, count in enumerate(batch.row_frames):
        valid[row, :count] = True
    mixed = seen["mixed"][0][valid].double()
    mine = found.items[found.items["id"] == item.id].set_index("stream")
    for k, stream in enumerate(found.settings["streams"]):
        term = (seen["gate"][0][0, k] * seen[f"streams[{k}]"][0])[valid].double()
        assert mine.loc[stream, "share"] == pytest.approx(float((term * mixed).sum() / (mixed**2).sum()), abs=1e-5)
        assert mine.loc[stream, "size"] == pytest.approx(float(term.norm() / mixed.norm()), abs=1e-5)
        moving, whole = term - term.mean(0), mixed - mixed.mean(0)
        assert mine.loc[stream, "moving"] == pytest.approx(float((moving * whole).sum() / (whole**2).sum()), abs=1e-4)


def test_a_clamped_gate_gives_one_stream_everything(model: vp.AudioLLM, bench: Benchmark) -> None:
    with clamped(model, np.eye(5)[2]):
        one = gate_contributions(model, bench[:3], cache=False, progress=False)
    shares = one.table[(one.table["quantity"] == "share") & (one.table["task"] == "all")].set_index("stream")["value"]
    assert shares["encoder[2]"] == pytest.approx(1)
    assert shares["tower"] == pytest.approx(0)


def test_one_item_has_no_interval(model: vp.AudioLLM, bench: Benchmark) -> None:
    one = gate_contributions(model, bench[:1], conditions="conflict", cache=False, progress=False)
    assert one.settings["conditions"] == ["conflict"]
    assert "nan" not in repr(one)
    assert not any("nan" in text.get_text() for text in one.plot().texts)
    two = gate_contributions(model, bench[:2], level=0.8, cache=False, progress=False)
    assert " ±" in two.plot().texts[0].get_text()
    assert "80 %" in two.plot().get_xlabel()
    for numbers in ({"level": 0.0}, {"batch_size": 0}):
        with pytest.raises(RunError, match=r"found (level|batch_size)="):
            gate_contributions(model, bench, progress=False, **numbers)  # type: ignore[arg-type]


def test_contributions_are_kept_and_drawn(
    found: ContributionResult, model: vp.AudioLLM, bench: Benchmark, folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for quantity in QUANTITIES:
        assert len(found.plot(quantity=quantity).get_xticks()) == 5
    with pytest.raises(RunError, match="shar"):
        found.plot(quantity="shar")
    assert "each row sums to 1" in repr(found)
    assert "<table" in found._repr_html_()
    pd.testing.assert_frame_equal(ContributionResult.load(found.save(tmp_path)).items, found.items)
    with pytest.raises(RunError, match="without a mixer"):
        gate_contributions("mini-base", bench, progress=False)

    def never(*_args: Any, **_kwargs: Any) -> Any:
        raise AssertionError("a forward was done")

    monkeypatch.setattr(vp.AudioLLM, "forward", never)
    again = gate_contributions(model, bench, cache=folder, progress=False)
    pd.testing.assert_frame_equal(again.table, found.table)
