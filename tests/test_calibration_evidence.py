"""What a table of answers decides: on cheap tables, where the truth is known and thousands can be drawn."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpanalysis._calibration_evidence import MARGIN, SHARE, choosing, judge

VALUES = {
    "layers": ("one", "zero"), "pool": ("norm", "plain"), "order": ("last", "first"),
    "text": ("question", "options", "chat"), "bert": ("cls", "mean", "pooler"),
}  # fmt: skip
READINGS = [dict(zip(VALUES, one, strict=True)) for one in itertools.product(*VALUES.values())]


def drawn(
    seed: int, effects: dict[tuple[str, str], float] | None = None, *, items: int = 120, speakers: int = 24,
    noise: str = "normal", right: float = 0.7, spread: float = 0.5,
) -> dict[str, Any]:  # fmt: skip
    """Arguments of `judge`: log-probabilities that depend on readings by `effects` alone, beside item and speaker."""
    rng = np.random.default_rng(seed)
    who = rng.integers(speakers, size=items)
    shape = (items, len(READINGS))
    raw = {
        "normal": lambda: rng.standard_normal(shape),
        "skew": lambda: 1 - rng.exponential(1, shape) ** 2 / 2,
        "heavy": lambda: rng.standard_t(2.5, shape),
    }[noise]()
    by_speaker = rng.standard_normal((speakers, len(READINGS)))[who]
    mean = np.array([sum(v for (k, x), v in (effects or {}).items() if r[k] == x) for r in READINGS])
    speaker = np.array([f"s{n}" for n in who], dtype=object)
    tasks = [f"t{n % 4}" for n in range(items)]
    return {
        "loglik": -1.5 + rng.standard_normal((items, 1)) + spread * (raw + 0.6 * by_speaker) + mean,
        "right": rng.random(shape) < right,
        "readings": READINGS,
        "values": VALUES,
        "chooses": choosing(speaker.tolist(), tasks, random_state=seed),
        "clusters": {"speaker": speaker},
        "chance": np.full(items, 0.25),
    }


@pytest.mark.parametrize("noise", ["normal", "skew", "heavy"])
@pytest.mark.parametrize("speakers", [6, 40])
def test_where_nothing_matters_nothing_is_decided(noise: str, speakers: int) -> None:
    """The family-wise error over all conventions; without the margin, which would hide an inflated one."""
    wrong = [bool(judge(**drawn(seed, noise=noise, speakers=speakers), margin=0.0).decided) for seed in range(150)]
    # 14 of 150 is what an error of 5 % exceeds once in a hundred times.
    assert sum(wrong) <= 14


@pytest.mark.parametrize("noise", ["normal", "skew"])
def test_one_convention_without_effect_errs_at_most_at_the_level(noise: str) -> None:
    """The hardest case: one comparison a convention, nothing to correct for, and the best of two was picked."""
    wrong = 0
    for seed in range(400):
        given_ = drawn(seed, noise=noise)
        values = {"pool": VALUES["pool"]}
        columns = [0, READINGS.index({**READINGS[0], "pool": "plain"})]
        given_ |= {"values": values, "readings": [READINGS[c] for c in columns]}
        given_ |= {name: given_[name][:, columns] for name in ("loglik", "right")}
        wrong += bool(judge(**given_, margin=0.0).decided)
    assert wrong <= 0.05 * 400


def test_what_matters_is_decided_and_what_does_not_stays_open() -> None:
    effects = {("layers", "zero"): 0.8, ("order", "last"): 1.0, ("text", "chat"): 0.9}
    for seed in range(20):
        verdict = judge(**drawn(seed, effects, items=300, speakers=60))
        assert verdict.decided == {"layers": "zero", "order": "last", "text": "chat"}
        assert verdict.reasons["text"] == "better than every reading with question or options"
        assert "not told apart" in verdict.reasons["bert"]


def test_an_effect_below_the_margin_does_not_count() -> None:
    """A mixture that is better by a hair, on every item alike: significant, and still no reason."""
    for effect, found in ((MARGIN / 2, {}), (3 * MARGIN, {"pool": "plain"})):
        verdict = judge(**drawn(0, {("pool", "plain"): effect}, spread=1e-3))
        assert verdict.decided == found


def test_readings_that_answer_the_same_are_called_so() -> None:
    given_ = drawn(1, {("layers", "zero"): 1.0}, items=300)
    for column, reading in enumerate(READINGS):
        # BERT's pooling changes nothing at all.
        given_["loglik"][:, column] = given_["loglik"][:, READINGS.index({**reading, "bert": "cls"})]
    verdict = judge(**given_)
    same = [row for row in verdict.comparisons if row["convention"] == "bert"]
    assert {row["verdict"] for row in same} == {"same answers"} and len(same) == 2
    assert "gives the same answers" in verdict.reasons["bert"] and "bert" not in verdict.decided
    # Of equals the first is chosen: that is the one nearest to the reference.
    assert READINGS[verdict.chosen]["bert"] == "cls"


def test_two_wrongs_that_make_a_right_decide_nothing() -> None:
    """Layers and pooling that can be exchanged together: one step away all is worse, two steps away it is as good."""
    given_ = drawn(2, items=400, speakers=80)
    for column, reading in enumerate(READINGS):
        given_["loglik"][:, column] -= 2.0 * ((reading["layers"] == "zero") != (reading["pool"] == "plain"))
    verdict = judge(**given_)
    near = [r for r in verdict.comparisons if r["kind"] == "one step" and r["convention"] in ("layers", "pool")]
    assert [r["verdict"] for r in near] == ["worse", "worse"]
    assert not {"layers", "pool"} & set(verdict.decided)


def test_a_model_no_better_than_chance_decides_nothing() -> None:
    """A reader on contradicting words: broken ears make the truth more likely, and that is no evidence."""
    given_ = drawn(3, {("layers", "zero"): 2.0}, items=300, right=0.27)
    verdict = judge(**given_)
    assert verdict.decided == {} and "better than chance" in verdict.reasons["layers"]
    assert verdict.chance == 0.25 and verdict.accuracy.low < 0.25


def test_items_that_judge_may_contradict_those_that_chose() -> None:
    given_ = drawn(7, items=300)
    swapped = np.array([READINGS.index({**r, "pool": "plain" if r["pool"] == "norm" else "norm"}) for r in READINGS])
    given_["loglik"][:, [r["pool"] == "plain" for r in READINGS]] -= 2.0
    given_["loglik"][~given_["chooses"]] = given_["loglik"][~given_["chooses"]][:, swapped]
    verdict = judge(**given_)
    assert READINGS[verdict.chosen]["pool"] == "norm" and "pool" not in verdict.decided
    assert {r["verdict"] for r in verdict.comparisons if r["convention"] == "pool"} == {"better"}
    assert "better on the judging items" in verdict.reasons["pool"]


def test_one_group_gives_no_interval_and_no_decision() -> None:
    given_ = drawn(4, {("layers", "zero"): 2.0})
    given_["clusters"] = {"speaker": np.array(["s"] * 120, dtype=object)}
    verdict = judge(**given_)
    assert verdict.decided == {} and "one speaker only" in verdict.reasons["layers"]


def test_intervals_allow_for_conventions_and_widen_with_groups() -> None:
    given_ = drawn(5)
    verdict = judge(**given_)
    assert verdict.level == pytest.approx(0.99)
    alone = judge(**{**given_, "clusters": {"item": np.arange(120).astype(str).astype(object)}})
    widths = [[row["high"] - row["low"] for row in v.comparisons] for v in (verdict, alone)]
    assert np.mean(widths[0]) > np.mean(widths[1])


def test_only_the_judging_items_judge() -> None:
    given_ = drawn(6, {("layers", "zero"): 1.0}, items=300)
    before = judge(**given_)
    given_["loglik"][given_["chooses"]] += 5.0
    after = judge(**given_)
    assert after.comparisons == before.comparisons
    given_["loglik"][~given_["chooses"]] = 0.0
    assert judge(**given_).chosen == before.chosen


@given(
    groups=st.lists(st.integers(0, 30), min_size=2, max_size=200),
    tasks=st.integers(1, 5),
    seed=st.integers(0, 3),
)
def test_groups_stay_together_and_tasks_are_shared(groups: Sequence[int], tasks: int, seed: int) -> None:
    names = [str(g) for g in groups]
    kinds = [str(i % tasks) for i in range(len(groups))]
    chooses = choosing(names, kinds, random_state=seed)
    assert len({(n, bool(c)) for n, c in zip(names, chooses, strict=True)}) == len(set(names))
    # In no task more than the share by more than a whole group, and it is the same every time.
    largest = max(names.count(n) for n in set(names))
    assert chooses.sum() <= SHARE * len(names) + tasks * largest
    assert (choosing(names, kinds, random_state=seed) == chooses).all()


def test_about_a_third_of_each_task_chooses() -> None:
    rng = np.random.default_rng(0)
    names = [str(n) for n in rng.integers(60, size=300)]
    kinds = [str(i % 5) for i in range(300)]
    chooses = choosing(names, kinds)
    for kind in set(kinds):
        assert abs(chooses[np.array(kinds) == kind].mean() - SHARE) < 0.08
