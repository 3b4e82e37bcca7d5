"""Checks of maps: a map that is right passes them, a map that is wrong does not, and weights come back as they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import vpanalysis as vp
from vpanalysis.attribution.gradients import AttributionResult, attribute
from vpanalysis.attribution.gradients._clips import Clips
from vpanalysis.attribution.gradients._explained import Explained
from vpanalysis.attribution.gradients._grid import Grid, gathered
from vpanalysis.attribution.gradients.faithfulness import (
    GRID,
    agreement,
    area,
    beside,
    correlation,
    curves,
    infidelity,
    shuffled,
    weights_behind,
)
from vpanalysis.attribution.gradients.methods import integrated_gradients
from vpanalysis.attribution.gradients.result import MEASURES, TABLE, summary_table
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT

TASKS = ["intonation_perception", "pitch_comparison"]
GAINS = np.array([4.0, -1.0, 0.5, 2.0, -3.0, 0.0, 1.0, 1.5, -0.5, 2.5])


@pytest.fixture(scope="module")
def bench() -> Benchmark:
    whole = vp.load_benchmark("mini", tasks=TASKS)
    return whole.filter(lambda item: item.condition == "conflict" and int(str(item.cell)[-4:]) < 4)


@pytest.fixture(scope="module")
def listener() -> vp.AudioLLM:
    return vp.load_model("mini-pclm-dpo")


@pytest.fixture(scope="module")
def found(listener: vp.AudioLLM, bench: Benchmark) -> AttributionResult:
    return attribute(listener, bench, n_steps=30, cache=False, progress=False)


@pytest.fixture
def line() -> Explained:
    """A sum of gains over ten frames, counted from zero."""
    gains = torch.from_numpy(GAINS)
    ones = torch.ones(10, 1, dtype=torch.float64)
    return Explained(lambda s: s[..., 0] @ gains, ones, 0 * ones, Grid((10,), 0.1, np.ones(10, dtype=bool)))


def test_a_right_map_passes_and_a_wrong_one_does_not(line: Explained) -> None:
    blocks = line.grid.blocks(0.1)
    numbers, drawn = beside(line, GAINS, blocks)
    assert numbers["infidelity"] == pytest.approx(0, abs=1e-10)
    assert numbers["agreement"] == pytest.approx(1)
    ranked = np.sort(GAINS)[::-1]
    np.testing.assert_allclose(drawn["deletion"], GAINS.sum() - np.concatenate([[0], np.cumsum(ranked)]))
    np.testing.assert_allclose(drawn["insertion"], np.concatenate([[0], np.cumsum(ranked)]))
    assert numbers["deletion"] < numbers["deletion_random"] - 2
    assert numbers["insertion"] > numbers["insertion_random"] + 2
    wrong, _ = beside(line, -GAINS, blocks)
    assert wrong["deletion"] > wrong["deletion_random"] + 2
    assert wrong["agreement"] == pytest.approx(-1)
    assert wrong["infidelity"] == pytest.approx(4 * wrong["infidelity_of_zeros"])
    zeros = infidelity(line, np.zeros(10), blocks)
    assert zeros[0] == pytest.approx(zeros[1])
    assert np.isnan(beside(line, GAINS, blocks, itself=True)[0]["agreement"])


def test_infidelity_is_the_mean_square_of_what_a_map_misses() -> None:
    gains = torch.from_numpy(GAINS)
    ones = torch.ones(10, 1, dtype=torch.float64)
    grid = Grid((10,), 0.1, np.ones(10, dtype=bool))
    pair = Explained(lambda s: s[..., 0] @ gains + 5 * s[:, 0, 0] * s[:, 1, 0], ones, 0 * ones, grid)
    rng = np.random.default_rng(3)
    taken = rng.random((500, 10)) < rng.random((500, 1))
    taken[np.arange(500), rng.integers(0, 10, 500)] = True
    # The map lacks the pair, which is lost with either of the two.
    missed = 25.0 * (taken[:, 0] | taken[:, 1]).mean()
    assert infidelity(pair, GAINS, grid.blocks(0.1), samples=500, random_state=3)[0] == pytest.approx(missed)


def test_curves_of_many_blocks_are_read_off_fewer_points() -> None:
    gains = torch.linspace(1, 2, 60, dtype=torch.float64)
    ones = torch.ones(60, 1, dtype=torch.float64)
    e = Explained(lambda s: s[..., 0] @ gains, ones, 0 * ones, Grid((60,), 0.1, np.ones(60, dtype=bool)), 16)
    drawn = curves(e, gains.numpy(), e.grid.blocks(0.1), orders=3)
    assert e.rows <= 2 * 4 * 21
    for curve in drawn.values():
        assert curve.shape == (len(GRID),)
    assert drawn["deletion"][0] == drawn["insertion"][-1] == pytest.approx(90)
    assert drawn["deletion"][-1] == drawn["insertion"][0] == 0
    assert area(drawn["deletion"]) < area(drawn["deletion_random"])
    assert area(np.linspace(0, 4, 11)) == pytest.approx(2)
    again = curves(e, gains.numpy(), e.grid.blocks(0.1), orders=3)
    np.testing.assert_array_equal(drawn["deletion_random"], again["deletion_random"])


def test_random_orders_come_with_their_reverse_and_serve_both_curves(line: Explained) -> None:
    one, other = (curves(line, GAINS, line.grid.blocks(0.1), random_state=seed) for seed in (0, 1))
    for drawn in (one, other):
        np.testing.assert_array_equal(drawn["deletion_random"], drawn["insertion_random"][::-1])
        # What is lost early in one order is lost late in its reverse: for a sum, no luck is left in the area.
        assert area(drawn["deletion_random"]) == pytest.approx(GAINS.sum() / 2)
        assert drawn["deletion_random"][0] == pytest.approx(GAINS.sum()) and drawn["deletion_random"][-1] == 0
    three = curves(line, GAINS, line.grid.blocks(0.1), orders=3)
    assert not np.isclose(area(three["deletion_random"]), GAINS.sum() / 2)


def test_blocks_in_which_nothing_can_be_taken_away_are_not_ranked() -> None:
    grid = Grid((8,), 0.1, np.ones(8, dtype=bool))
    x = torch.tensor([0.0, 0.0, 3.0, 1.0, 0.0, 2.0, 0.0, 0.0], dtype=torch.float64)[:, None]
    e = Explained(lambda s: s.sum((1, 2)), x, torch.zeros(8, 1, dtype=torch.float64), grid)
    assert e.moving(grid.blocks(0.1)).tolist() == [0, 0, 0, 1, 0, 2, 0, 0]
    values = x[:, 0].numpy()
    assert gathered(values, e.moving(grid.blocks(0.1))).tolist() == [3, 1, 2]
    # Another map of the three is unlike this one; the five others would make them alike.
    swapped = values[[0, 1, 3, 2, 4, 5, 6, 7]]
    alike = [correlation(gathered(values, b), gathered(swapped, b)) for b in (np.arange(8), e.moving(np.arange(8)))]
    assert alike[0] > 0.5 and alike[1] < 0
    nothing = Explained(e.function, x, x, grid)
    assert nothing.moving(grid.blocks(0.1)).tolist() == list(range(8))


def test_every_item_has_orders_of_its_own(found: AttributionResult, listener: vp.AudioLLM, bench: Benchmark) -> None:
    from vpanalysis.attribution.gradients.explaining import _plan

    names = ("site", "method", "baseline", "n_steps", "internal_batch_size", "window_s", "mel_bands", "segments",
             "n_samples", "faithfulness", "random_state")  # fmt: skip
    plan = _plan(listener, **{name: found.settings[name] for name in names})
    assert len({plan.seed(item.id) for item in bench}) == len(bench)
    other = _plan(listener, **{**{name: found.settings[name] for name in names}, "random_state": 1})
    assert plan.seed(bench[0].id) != other.seed(bench[0].id)


def test_rank_correlation_needs_something_to_rank() -> None:
    assert correlation(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 8.0, 27.0, 64.0])) == pytest.approx(1)
    assert np.isnan(correlation(np.ones(5), np.arange(5.0)))
    assert np.isnan(correlation(np.arange(2.0), np.arange(2.0)))


def test_what_was_asked_is_not_asked_again(line: Explained) -> None:
    blocks = line.grid.blocks(0.1)
    first = agreement(line, GAINS, blocks)
    asked = line.rows
    assert agreement(line, GAINS, blocks) == first and line.rows == asked
    kept = np.ones((3, 10), dtype=bool)
    kept[1, 0] = False
    np.testing.assert_allclose(line.coalitions(kept, blocks), [GAINS.sum(), GAINS.sum() - 4, GAINS.sum()])


def test_weights_come_back_bit_for_bit(listener: vp.AudioLLM, bench: Benchmark) -> None:
    items = list(bench)[:2]
    batch = listener.prepare(items, [item.audio.load() for item in items], DEFAULT_PROMPT)
    logits = listener.forward(batch)
    before = {name: tensor.clone() for name, tensor in listener.model.state_dict().items()}
    for site, kept in (("mixed", "audio_tower"), ("features", "pclm.gate"), ("text[1]", "layers.0")):
        weights = weights_behind(listener, site)
        with shuffled(weights, 1):
            now = listener.model.state_dict()
            assert not torch.allclose(listener.forward(batch), logits, atol=0.5)
            changed = {name for name, tensor in now.items() if not torch.equal(tensor, before[name])}
            for name in changed:
                torch.testing.assert_close(now[name].flatten().sort()[0], before[name].flatten().sort()[0])
            texts = kept == "layers.0"
            assert not any(kept in name and (not texts or "language_model" in name) for name in changed)
            assert any("language_model.layers.3" in name for name in changed)
            assert any("multi_modal_projector" in name for name in changed) == (site == "features")
            assert any("conv" in name for name in changed) == (site == "features")
        assert all(torch.equal(tensor, before[name]) for name, tensor in listener.model.state_dict().items())
    with pytest.raises(ZeroDivisionError), shuffled(weights_behind(listener, "mixed")):
        raise ZeroDivisionError
    assert torch.equal(listener.forward(batch), logits)


def test_maps_of_the_listener_are_true_of_it(found: AttributionResult) -> None:
    rows = found.summary[found.summary["task"] == "all"].set_index("measure")
    assert list(rows.index) == list(MEASURES)
    # Taking away what the maps mark hurts more than taking away anything.
    assert rows.loc["deletion_gain", "low"] > 0
    assert rows.loc["deletion_gain", "p_adjusted"] < 0.05
    assert rows.loc["insertion_gain", "value"] > 0
    # With shuffled weights the maps are other maps.
    assert rows.loc["randomised", "high"] < 0.7
    assert rows.loc["agreement", "low"] > 0
    assert found.table[list(TABLE)].drop(columns=["error"]).notna().all(axis=None)


def test_a_map_with_its_signs_turned_fails(listener: vp.AudioLLM, bench: Benchmark) -> None:
    from vpanalysis.attribution.gradients._function import SiteFunction, frozen

    item = bench[0]
    wave = item.audio.load()
    clips = Clips(listener).encoded({"clip": wave, "silence": np.zeros_like(wave)})
    f = SiteFunction(listener, item, DEFAULT_PROMPT, "mixed", wave, clips["clip"])
    e = Explained(f, f.x, f.state(np.zeros_like(wave), clips["silence"]), f.grid)
    with frozen(listener):
        values = integrated_gradients(e, n_steps=30).values
    blocks = f.grid.blocks(0.2)
    right, wrong = (beside(e, sign * values, blocks)[0] for sign in (1, -1))
    assert right["deletion"] < wrong["deletion"] and right["insertion"] > wrong["insertion"]
    assert right["agreement"] == pytest.approx(-wrong["agreement"])
    assert e.value == pytest.approx(f.margin, abs=1e-4)
    assert gathered(values, blocks).sum() == pytest.approx(e.value - e.without, abs=0.05)


def test_curves_are_drawn_from_whole_to_nothing(found: AttributionResult) -> None:
    import matplotlib.pyplot as plt

    assert len(found.curves) == len(found.table) * 4 * len(GRID)
    wide = found.curves.pivot(index="id", columns=["curve", "share"], values="margin").loc[found.items]
    for curve, first, last in (("deletion", "margin", "baseline_margin"), ("insertion", "baseline_margin", "margin")):
        np.testing.assert_allclose(wide[(curve, 0.0)], found.table[first], atol=1e-3)
        np.testing.assert_allclose(wide[(curve, 1.0)], found.table[last], atol=1e-3)
        areas = [area(row) for row in wide[curve].to_numpy()]
        np.testing.assert_allclose(areas, found.table[curve])
    ax = found.plot_faithfulness()
    assert len(ax.lines) == 5
    drawn = {line.get_label(): np.asarray(line.get_ydata(), dtype=float) for line in ax.lines}
    np.testing.assert_allclose(drawn["taken away, largest first"], wide["deletion"].mean().to_numpy())
    plt.close("all")


def test_summaries_are_means_with_intervals_and_adjusted() -> None:
    rng = np.random.default_rng(0)
    count = 24
    made: dict[str, Any] = {name: rng.normal(size=count) for name in TABLE}
    made |= {"id": [f"i{k}" for k in range(count)], "task": ["a", "b", "c"] * 8, "condition": "conflict"}
    made |= {"speaker": [f"s{k // 2}" for k in range(count)], "script": [f"w{k % 8}" for k in range(count)]}
    made["deletion"] = made["deletion_random"] - 3 + 0.1 * rng.normal(size=count)
    made["infidelity_of_zeros"] = 4 + 0.1 * rng.normal(size=count)
    made["infidelity"] = made["infidelity_of_zeros"] / 2
    made["agreement"] = np.where(np.arange(count) < 2, np.nan, 0.5)
    table = pd.DataFrame(made)
    rows = summary_table(table).set_index(["task", "measure"])
    whole = rows.loc["all"]
    assert whole.loc["deletion_gain", "value"] == pytest.approx((table["deletion_random"] - table["deletion"]).mean())
    assert whole.loc["deletion_gain", "low"] > 2.5 and whole.loc["deletion_gain", "p_adjusted"] < 0.01
    assert whole.loc["insertion_gain", "p"] <= whole.loc["insertion_gain", "p_adjusted"]
    assert whole.loc["infidelity_relative", "value"] == pytest.approx(0.5)
    assert whole.loc["infidelity_relative", "low"] == pytest.approx(0.5, abs=1e-6)
    assert whole.loc["agreement", "n"] == count - 2 and whole.loc["effect", "n"] == count
    assert rows["q"].notna().sum() == 6 and rows.loc["all"]["q"].isna().all()
    tested = rows.drop(index="all", level=0)["q"].dropna()
    assert (tested >= rows.loc[tested.index, "p_adjusted"] - 1e-12).all()
    bare = table.assign(**dict.fromkeys(("deletion", "deletion_random", "insertion", "insertion_random"), np.nan))
    without = summary_table(bare).set_index(["task", "measure"])
    assert without.loc[("all", "deletion_gain"), "n"] == 0 and without["p"].isna().all()
