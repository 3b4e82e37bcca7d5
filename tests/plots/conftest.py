"""Small made-up results, so that the pictures are tested by the numbers behind them."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest

from vpanalysis.plots.scores import METRICS
from vpanalysis.probes import ProbeResult
from vpanalysis.probes.result import COLUMNS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SITES = [
    "encoder.stem", "encoder[0]", "encoder[1]", "tower", "streams[0]", "streams[1]", "mixed", "text.embed", "text[0]",
]  # fmt: skip
TASKS = {"age_prediction": 4, "pitch_comparison": 6}


def make_result(target: str) -> ProbeResult:
    rows = []
    for task, classes in TASKS.items():
        for order, site in enumerate(SITES):
            accuracy = 0.9 - 0.05 * order if target == "truth" else 0.3 + 0.07 * order
            rows.append(
                {
                    "task": task, "site": site, "site_order": order, "reducer": "mean", "target": target,
                    "accuracy": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.04, "chance": 1 / classes,
                    "majority": 1 / classes + 0.1, "n": 200, "n_groups": 60, "n_classes": classes, "group": "speaker",
                    "note": "",
                }
            )  # fmt: skip
    return ProbeResult(pd.DataFrame(rows, columns=list(COLUMNS)), pd.DataFrame(), pd.DataFrame(), target, {"run": "r"})


@pytest.fixture
def truth() -> ProbeResult:
    return make_result("truth")


@pytest.fixture
def claim() -> ProbeResult:
    return make_result("claim")


@pytest.fixture
def scores() -> dict[str, SimpleNamespace]:
    made = {}
    for number, name in enumerate(("mini-base", "mini-sft", "mini-pclm", "mini-inverter")):
        values = [0.1 + 0.25 * number, 0.85 - 0.25 * number, 0.5, 0.4, 0.3 * number - 0.4]
        made[name] = SimpleNamespace(
            overall=pd.DataFrame(
                {
                    "metric": list(METRICS),
                    "estimate": values,
                    "low": np.array(values) - 0.05,
                    "high": np.array(values) + 0.04,
                }
            )
        )
    return made


@pytest.fixture
def gated() -> SimpleNamespace:
    ids = [f"i{n}" for n in range(8)]
    weights = np.array([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1]] * 2 + [[0.1, 0.2, 0.7]] * 4)
    return SimpleNamespace(
        name="run",
        predictions=pd.DataFrame({"id": ids, "task_name": ["age_prediction"] * 4 + ["pitch_comparison"] * 4}),
        gates=pd.DataFrame(weights, index=ids, columns=["encoder[1]", "encoder[3]", "final"]),
    )


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")
