"""The gate described and set: its own weights change nothing, the planted streams carry what was planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import vpanalysis as vp
from vpanalysis.attribution import GateResult, clamped, gates
from vpanalysis.attribution._asking import Asker
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import RunError

TASK = "intonation_perception"


@pytest.fixture(scope="module")
def bench() -> Benchmark:
    whole = vp.load_benchmark("mini", tasks=[TASK, "age_prediction"])
    return whole.filter(lambda item: item.condition == "conflict" and int(str(item.cell)[-4:]) < 10)


@pytest.fixture(scope="module")
def model() -> vp.AudioLLM:
    return vp.load_model("mini-pclm-dpo")


@pytest.fixture(scope="module")
def found(model: vp.AudioLLM, bench: Benchmark) -> GateResult:
    return gates(model, bench, progress=False)


def test_the_tower_carries_the_words_and_not_the_voice(found: GateResult) -> None:
    table = found.table.set_index(["setting", "measure"])
    assert table.loc[("own", "accuracy"), "value"] > 0.6
    assert table.loc[("tower", "margin"), "difference_high"] < 0
    assert table.loc[("tower", "margin"), "p_adjusted"] < 0.01
    assert table.loc[("tower", "ala"), "value"] > table.loc[("own", "ala"), "value"] + 0.3
    assert set(found.table["setting"]) == {"own", "mean", "other task", "uniform", *found.settings["streams"]}


def test_mixtures_are_the_runs(found: GateResult, model: vp.AudioLLM, bench: Benchmark, tmp_path: Path) -> None:
    run = vp.run(model, bench, tmp_path / "run", sites="gate", progress=False)
    own = run.gates.groupby(run.predictions.set_index("id")["task_name"]).mean()
    streams = found.settings["streams"]
    for row in found.weights.to_dict("records"):
        mine = np.array([row[name] for name in streams])
        assert mine.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(mine, own.loc[row["task"]].to_numpy(), atol=1e-5)
        assert row["entropy"] == pytest.approx(-(mine * np.log(mine)).sum(), abs=1e-4)
        whole = own.mean().to_numpy()
        assert row["distance"] == pytest.approx(np.abs(mine - whole).sum() / 2, abs=1e-4)


def test_own_weights_change_nothing_and_the_hook_goes(bench: Benchmark) -> None:
    static = vp.load_model("mini-static")
    asker = Asker(static, list(bench)[:4], DEFAULT_PROMPT)
    with static.capturing(["gate"]) as kept:
        own = asker.ask()
    weights = kept["gate"][0][0].double().numpy()
    with clamped(static, weights / weights.sum()):
        again = asker.ask()
    for one, two in zip(own, again, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    gate = static.module_of("gate")
    before = len(gate._forward_hooks)
    with pytest.raises(ZeroDivisionError), clamped(static, np.eye(len(weights))[0]):
        raise ZeroDivisionError
    assert len(gate._forward_hooks) == before
    for one, two in zip(own, asker.ask(), strict=True):
        np.testing.assert_array_equal(one, two)
    some = asker.ask([2, 0])
    np.testing.assert_allclose(some[1], own[0], atol=1e-5)


def test_what_is_no_mixture_is_refused(model: vp.AudioLLM, bench: Benchmark) -> None:
    for weights in ([0.5, 0.5], [1.5, -0.5, 0, 0, 0], [0.1] * 5):
        with pytest.raises(RunError, match="sum 1"), clamped(model, np.array(weights)):
            pass
    with pytest.raises(RunError, match="without a mixer"):
        gates("mini-base", bench, progress=False)
    with pytest.raises(RunError, match="towr"):
        gates(model, bench, settings=["towr"], progress=False)
    with pytest.raises(RunError, match="no item of"):
        gates(model, bench, conditions=["neutral"], progress=False)


def test_results_print_plot_and_keep(found: GateResult, tmp_path: Path) -> None:
    assert "GateResult: mini-pclm-dpo" in repr(found)
    assert "<table" in found._repr_html_()
    assert len(found.plot(measure="margin").get_yticks()) == 9
    with pytest.raises(RunError, match="accurracy"):
        found.plot(measure="accurracy")
    kept = GateResult.load(found.save(tmp_path))
    pd.testing.assert_frame_equal(kept.table, found.table)
    pd.testing.assert_frame_equal(kept.weights, found.weights)
