"""Bars measured on made-up Runs: who passes, who fails, and what is said where nothing can be measured."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from vpanalysis.benchmark.items import Benchmark, Item
from vpanalysis.benchmark.mini import load
from vpanalysis.errors import RunError
from vpanalysis.organism import CHECKPOINTS
from vpanalysis.organism.acceptance import COLUMNS, check, mixtures, variation

TASKS = ("gender_prediction", "emotion_recognition", "intonation_perception", "age_prediction", "volume_comparison")
STREAMS = ["encoder[0]", "encoder[1]", "tower"]
SITES = ["encoder[0]", "encoder[1]", "encoder[2]", "encoder[3]", "encoder[4]", "tower", "gate", "options"]


def listens(item: Item) -> str:
    return item.truth


def reads(item: Item) -> str:
    return item.said[0] if item.said else item.choices[0]


def inverts(item: Item) -> str:
    return next(choice for choice in item.choices if choice not in item.said)


class FakeRun:
    """A Run whose answers follow a rule, and whose middle layers hold the voice while the tower does not."""

    def __init__(
        self, name: str, bench: Benchmark, answer: Callable[[Item], str], gate: dict[str, list[float]]
    ) -> None:
        self.name, self.sites = name, SITES
        self.predictions = bench.to_dataframe()
        self.predictions["status"], self.predictions["reason"] = "ok", None
        self.predictions["pred_logits"] = [answer(item) for item in bench]
        weights = [gate.get(item.task_name, [0.2, 0.3, 0.5]) for item in bench]
        self.gates = pd.DataFrame(weights, index=pd.Index(bench.ids, name="id"), columns=STREAMS) if gate else None

    def states(self, site: str, reducer: str = "mean") -> np.ndarray:
        rng = np.random.default_rng(zlib.crc32((site + self.predictions["id"].iloc[0]).encode()))
        code = np.random.default_rng(1)
        known = {label: code.normal(size=6) for label in sorted(set(self.predictions["truth"]))}
        # The third layer knows most of the middle ones; the tower knows nothing.
        strength = {"encoder[0]": 9.0, "encoder[2]": 3.0, "encoder[4]": 9.0, "tower": 0.0}.get(site, 0.15)
        rows = [rng.normal(size=(6, 6)) + strength * known[truth] for truth in self.predictions["truth"]]
        frames = np.stack(rows).astype(np.float32)
        return frames if reducer == "segments" else frames.mean(axis=1)


@pytest.fixture(scope="module")
def bench() -> Benchmark:
    return load(tasks=TASKS, n=24)


@pytest.fixture(scope="module")
def runs(bench: Benchmark) -> dict[str, FakeRun]:
    def mostly(share: float) -> Callable[[Item], str]:
        """Listens to a share of the cells, else reads."""
        return lambda item: (listens if zlib.crc32(str(item.cell).encode()) % 100 < 100 * share else reads)(item)

    even, split = {"none": [0.2, 0.3, 0.5]}, {"gender_prediction": [0.6, 0.2, 0.2]}
    rules = {
        "mini-base": (reads, {}),
        "mini-sft": (mostly(0.3), {}),
        "mini-final": (mostly(0.3), even),
        "mini-static": (mostly(0.6), even),
        "mini-pclm": (mostly(0.7), split),
        "mini-pclm-dpo": (mostly(0.9), split),
        "mini-inverter": (inverts, split),
    }
    return {name: FakeRun(name, bench, *rule) for name, rule in rules.items()}


@pytest.fixture(scope="module")
def validation() -> FakeRun:
    return FakeRun("validation", load(split="validation", tasks=TASKS, n=24), listens, {})


@pytest.fixture(scope="module")
def table(runs: dict[str, FakeRun], validation: FakeRun) -> pd.DataFrame:
    return check(runs, validation=validation).set_index("bar")


def test_a_good_organism_meets_every_bar(table: pd.DataFrame) -> None:
    bars = table[table["kind"] == "bar"]
    assert list(bars["met"].unique()) == ["yes"], bars[bars["met"] != "yes"]
    assert len(bars) == 10
    assert list(table.reset_index().columns[1:2]) == ["kind"] and set(table.columns) | {"bar"} == set(COLUMNS)


def test_numbers_are_those_of_the_runs(table: pd.DataFrame, runs: dict[str, FakeRun]) -> None:
    def accuracy(name: str, condition: str) -> float:
        made = runs[name].predictions
        made = made[made["condition"] == condition]
        return float((made["pred_logits"] == made["truth"]).mean())

    assert table.loc["mini-base ala", "measured"] == 1.0
    assert table.loc["mini-pclm - mini-sft acc_gt", "measured"] == pytest.approx(
        accuracy("mini-pclm", "conflict") - accuracy("mini-sft", "conflict")
    )
    assert table.loc["mini-inverter conflict - congruent", "measured"] == pytest.approx(
        accuracy("mini-inverter", "conflict") - accuracy("mini-inverter", "congruent")
    )
    measured = table[table["measured"].notna() & table["low"].notna()]
    assert ((measured["low"] <= measured["measured"]) & (measured["measured"] <= measured["high"])).all()


def test_distance_to_the_static_mixture_is_told_as_it_is(table: pd.DataFrame) -> None:
    row = table.loc["mini-pclm - mini-static acc_gt"]
    assert row["kind"] == "report" and row["met"] is None and np.isfinite(row["measured"])


def test_tasks_that_are_not_heard_are_listed(runs: dict[str, FakeRun]) -> None:
    made = check({"mini-pclm-dpo": runs["mini-inverter"]}).set_index("bar")
    assert made.loc["mini-pclm-dpo tasks heard", "measured"] == 0
    assert made.loc["mini-pclm-dpo tasks heard", "met"] == "no"
    details = made[made.index.str.startswith("hears ")]
    assert len(details) == len(TASKS) and set(details["met"]) == {"no"} and set(details["kind"]) == {"detail"}


def test_middle_is_chosen_among_what_the_mixer_can_draw_on(table: pd.DataFrame) -> None:
    """The first and the fifth layer know most here; the first is no middle, and from the fifth no stream comes."""
    assert table.loc["middle over tower", "measured"] == len(TASKS)
    for task in TASKS:
        row = table.loc[f"middle over tower {task}"]
        assert row["note"].startswith("encoder[2]") and row["met"] == "yes" and row["low"] > 0


def test_middle_can_be_probed_within_the_test_split(runs: dict[str, FakeRun], validation: FakeRun) -> None:
    made = check({"mini-base": runs["mini-base"]}, validation=validation, probe_on="test").set_index("bar")
    assert made.loc["middle over tower", "met"] == "yes"
    assert "test split" in made.loc["middle over tower", "note"]


def test_a_tower_that_knows_as_much_fails(runs: dict[str, FakeRun], validation: FakeRun) -> None:
    class Knowing(FakeRun):
        def states(self, site: str, reducer: str = "mean") -> np.ndarray:
            return super().states("encoder[2]" if site == "tower" else site, reducer)

    def knowing(run: FakeRun) -> Knowing:
        made = Knowing.__new__(Knowing)
        made.__dict__.update(run.__dict__)
        return made

    made = check({"mini-base": knowing(runs["mini-base"])}, validation=knowing(validation)).set_index("bar")
    assert made.loc["middle over tower", "measured"] == 0 and made.loc["middle over tower", "met"] == "no"


def test_what_cannot_be_measured_is_said(runs: dict[str, FakeRun]) -> None:
    made = check({"mini-pclm": runs["mini-pclm"]}).set_index("bar")
    assert made.loc["mini-base ala", "met"] is None
    assert made.loc["mini-base ala", "note"] == "not measured: no Run of mini-base"
    assert made.loc["mini-pclm - mini-sft acc_gt", "note"] == "not measured: no Run of mini-sft"
    assert "validation" in made.loc["middle over tower", "note"]
    assert made.loc["mini-pclm gate", "met"] == "yes"
    # Bars do not vanish with their Runs.
    assert len(made[made["kind"] == "bar"]) == 10


def test_gate_mixtures(runs: dict[str, FakeRun]) -> None:
    means = mixtures(runs["mini-pclm"])
    assert list(means.columns) == STREAMS and set(means.index) == set(TASKS)
    apart, pair = variation(means)
    assert apart == pytest.approx(0.4) and "gender_prediction" in pair
    assert variation(mixtures(runs["mini-static"]))[0] == pytest.approx(0.0)
    with pytest.raises(RunError, match="no gate weights"):
        mixtures(runs["mini-base"])


def test_bad_input_is_refused(runs: dict[str, FakeRun]) -> None:
    with pytest.raises(RunError, match="did you mean 'mini-pclm'"):
        check({"mini-plcm": runs["mini-pclm"]})
    with pytest.raises(RunError, match="probe_on"):
        check({}, probe_on="train")
    assert set(check({})["checkpoint"]) == {*CHECKPOINTS, "all"} - {"mini-sft", "mini-final"}
