"""Added noise, against the accuracy that the normal distribution predicts."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from vpanalysis.errors import RunError
from vpanalysis.probes.controls import ProbeSetup, added_noise


class Line:
    """1,200 items whose only feature is -1 or +1: its spread is 1, and the accuracy under noise s is Phi(1 / s)."""

    name = "line"
    sites = ("tower",)

    def __init__(self, scale: float = 1.0) -> None:
        n = 1200
        truth = np.where(np.arange(n) % 2, "b", "a")
        self.predictions = pd.DataFrame(
            {
                "id": [f"i{k}" for k in range(n)],
                "task_name": "task",
                "condition": "neutral",
                "speaker": [f"s{k // 6}" for k in range(n)],
                "truth": truth,
            }
        )
        self._states = scale * np.where(truth == "b", 1.0, -1.0)[:, None]

    def states(self, site: str, reducer: str = "mean") -> np.ndarray:
        return self._states


def curve(table):
    rows = table[table["measure"] == "accuracy"]
    return dict(zip(rows["at"], rows["value"], strict=True))


@pytest.mark.parametrize("where", ["both", "test"])
def test_the_accuracy_under_noise_is_the_predicted_one(where):
    table = added_noise(Line(), levels=(0.5, 1.0, 1.5, 2.0, 4.0), where=where)
    found = curve(table)
    assert found.pop(0.0) == 1.0
    for level, accuracy in found.items():
        assert accuracy == pytest.approx(norm.cdf(1 / level), abs=0.025)
    half = table.loc[table["measure"] == "half", "value"].item()
    assert half == pytest.approx(1 / norm.ppf(0.75), abs=0.2)


def test_the_unit_is_the_sites_own_spread():
    one, thousand = (curve(added_noise(Line(scale), draws=1)) for scale in (1.0, 1000.0))
    assert one == thousand


def test_noise_gives_way_slowly_and_in_order(make_run):
    table = added_noise(make_run(31, tasks=["gender_prediction"]), sites=["encoder[1]", "encoder.stem"])
    strong = table[table["site"] == "encoder[1]"]
    accuracy = list(curve(strong).values())
    assert accuracy[0] == 1.0
    assert accuracy[-1] < 0.8
    assert all(b <= a + 0.06 for a, b in pairwise(accuracy))
    assert (strong["low"] <= strong["value"]).sum() == len(accuracy)
    stem = table[(table["site"] == "encoder.stem") & (table["measure"] == "half")]
    assert np.isnan(stem["value"].item())
    assert "not above chance" in stem["note"].item()


def test_too_little_noise_leaves_the_half_open(make_run):
    table = added_noise(make_run(31, tasks=["gender_prediction"]), sites="encoder[1]", levels=(0.1,))
    half = table[table["measure"] == "half"]
    assert np.isnan(half["value"].item())
    assert half["note"].item() == "more than half is left at 0.1"


def test_it_repeats_and_refuses(make_run):
    run = make_run(31, tasks=["gender_prediction"])
    one, two = (added_noise(run, sites="tower", levels=(1.0,)) for _ in range(2))
    assert one.equals(two)
    assert not one["value"].equals(
        added_noise(run, sites="tower", levels=(1.0,), setup=ProbeSetup(random_state=3))["value"]
    )
    with pytest.raises(RunError, match="levels"):
        added_noise(run, levels=(-1.0,))
    with pytest.raises(RunError, match="where='train'"):
        added_noise(run, where="train")
