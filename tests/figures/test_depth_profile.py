"""Averages over tasks, their intervals, and where the truth is above the claim."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from behaviour import drawn
from layered import TASKS, base, labelled, measured, mixed, sources, weighted

import vpanalysis as vp
from vpanalysis.figures import LackingError, figure_data
from vpanalysis.figures._layers import averaged, is_labelled
from vpanalysis.probes.result import PREDICTIONS, ProbeResult


@pytest.fixture(scope="module")
def data():
    return figure_data("depth_profile", base())


def test_averages_weigh_tasks_alike(data) -> None:
    measured(data)
    result = next(sources(base()).results("ProbeResult", "mini-base", target="both"))[1]
    for target in ("truth", "claim"):
        means = data[(data["task"] == "average") & (data["target"] == target)].set_index("site")
        for site in means.index:
            assert means.loc[site, "value"] == pytest.approx(weighted(result, site, target).mean(), abs=1e-9)
    assert (data.loc[data["task"] == "average", "tasks"] == 2).all()


def test_marks_say_where_the_truth_is_above(data) -> None:
    wide = {t: part.set_index(["task", "site"]) for t, part in data.groupby("target")}
    truth, claim = wide["truth"], wide["claim"]
    seen = set()
    for key, row in truth.iterrows():
        other = claim.loc[key]

        def rescaled(row, name):
            return (row[name] - row["chance"]) / (1 - row["chance"])

        if key[0] == "average":
            continue
        above = rescaled(row, "value") > rescaled(other, "value") and row["low"] > row["chance"]
        apart = above and rescaled(row, "low") > rescaled(other, "high")
        assert row["truth_above"] == ("apart" if apart else "value" if above else "")
        seen.add(row["truth_above"])
    assert len(seen) > 1 and (claim["truth_above"] == "").all()


def pretended(run, names, right, speakers) -> ProbeResult:
    """Probes of two tasks with known accuracy, intervals of +-0.1, and predictions grouped by speaker."""
    rows, table = [], []
    items = run.predictions.set_index("id")
    for task in names:
        ids = items.index[items["task_name"] == task]
        hits = right[task]
        for at, name in enumerate(ids):
            said = "a" if hits[at] else "b"
            row = [task, "tower", "truth", name, "conflict", at, -1, 0, "a", said, bool(hits[at]), 0.5, "", 1.0]
            rows.append(row)
        mean = np.mean(hits)
        cell = {"task": task, "site": "tower", "site_order": 0, "target": "truth", "accuracy": mean, "low": mean - 0.1}
        table.append({**cell, "high": mean + 0.1, "chance": 0.25, "n": len(ids)})
    return ProbeResult(pd.DataFrame(table), pd.DataFrame(), pd.DataFrame(rows, columns=list(PREDICTIONS)), "truth",
                       {"grouped_by": speakers})  # fmt: skip


class Pretend:
    """Two tasks whose items share speakers one to one."""

    def __init__(self) -> None:
        ids = [f"{task}-{i}" for task in TASKS for i in range(20)]
        speakers = [f"s{i}" for _ in TASKS for i in range(20)]
        self.predictions = pd.DataFrame({"id": ids, "task_name": [i.rsplit("-")[0] for i in ids], "speaker": speakers})


@pytest.mark.parametrize(("second", "factor"), [("same", 1.0), ("unrelated", 2**-0.5), ("opposed", 2**-0.5)])
def test_interval_of_an_average_knows_shared_speakers(second: str, factor: float) -> None:
    # Two tasks with limits 0.1 away: as one task where the same speakers fail in both, as two independent ones else.
    first = np.array([1, 1, 0, 0] * 5)
    other = {"same": first, "unrelated": np.array([1, 0, 1, 0] * 5), "opposed": 1 - first}[second]
    run = Pretend()
    found = averaged(run, pretended(run, TASKS, dict(zip(TASKS, (first, other), strict=True)), "speaker")).iloc[0]
    assert found["value"] == pytest.approx(0.5)
    assert found["value"] - found["low"] == pytest.approx(0.1 * factor)
    assert found["high"] - found["value"] == pytest.approx(0.1 * factor)
    assert found["share"] == pytest.approx((0.5 - 0.25) / 0.75)
    assert found["share_high"] - found["share"] == pytest.approx(0.1 * factor / 0.75)


def test_pictures_keep_their_labels_apart() -> None:
    drawn("depth_profile", base())


def test_refuses_without_probes_of_the_claim() -> None:
    with pytest.raises(LackingError, match=r"--target both --save"):
        figure_data("depth_profile", mixed())


def test_labelled_clips_are_told_by_their_items() -> None:
    assert is_labelled(vp.open_run(labelled())) and not is_labelled(vp.open_run(base()))
