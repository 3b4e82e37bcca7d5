"""Intervals hold the truth as often as they say, and shuffles raise no more false alarms (`benchmarks/coverage.py`).

The small version draws a few hundred recordings from fixed seeds. Its bounds are binomial: an interval that covers
between 93 and 97.5 %, or a test whose size is between 3 and 6.5 %, breaks one of them in less than one run of a
thousand. The whole study (2,000 draws of every setting, three seeds) is marked ``soak``.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from vpanalysis.probes import probe_layers
from vpanalysis.probes.logistic import LogisticProbe

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "coverage.py"
ONCE_IN_THOUSAND = 0.001


@pytest.fixture(scope="module")
def study() -> Any:
    # By path: a package of the name `coverage` may be there, too.
    spec = importlib.util.spec_from_file_location("coverage_study", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[spec.name]


@pytest.fixture(scope="module")
def voice(study: Any) -> Any:
    """Recordings with labels that belong to the speaker, where folds share most."""
    return {groups: list(study.draw(study.DESIGNS["voice"], groups, 150, (1, groups))) for groups in (10, 24)}


def counted(study: Any, chunks: Any, chance: float | None) -> np.ndarray:
    """Return how often the interval held the truth, by site."""
    return np.concatenate([study.covered(chunk, chance) for chunk in chunks], axis=1)[..., 1].sum(1)


def likely(n: int, lowest: float, highest: float, cells: int) -> tuple[float, float]:
    """Return what counts of `n` all of `cells` keep to in 99.9 % of runs, at rates from `lowest` to `highest`."""
    tail = ONCE_IN_THOUSAND / (2 * cells)
    return binom.ppf(tail, n, lowest), binom.isf(tail, n, highest)


# --- the study does what probe_layers does, and knows the truth --------------------------------------------------


@pytest.mark.parametrize("name", ["voice", "manner", "manner4"])
def test_verdicts_and_intervals_are_those_of_probe_layers(study: Any, name: str) -> None:
    design, rng = study.DESIGNS[name], np.random.default_rng(5)
    group, label = design.labels(10, 10)
    states, _ = study.states_of(rng, label, group, np.array(design.strengths[10]))
    correct, _, _ = study.fitted(states, study.plan_of(label, group, 7))
    found = probe_layers(
        states.transpose(1, 0, 2), label, groups=group, shuffles=0, random_state=7, progress=False
    )  # fmt: skip
    verdicts = found.predictions.pivot(index="id", columns="site", values="correct")
    verdicts = verdicts.loc[[str(i) for i in range(len(label))]].to_numpy(dtype=bool).T
    np.testing.assert_array_equal(verdicts, correct)
    if design.classes == 2:
        for row, verdict in zip(found.table.itertuples(), correct, strict=True):
            expected = study.accuracy_interval(verdict.astype(float), [group], np.ones(len(group)), level=0.95)
            assert (row.accuracy, row.low, row.high) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("name", "site"), [("voice", 2), ("manner4", 1)])
def test_the_truth_is_the_accuracy_on_new_speakers(study: Any, name: str, site: int) -> None:
    """By brute force: the same fold probes, fitted one by one, on ten thousand items of people nobody has met."""
    design, rng = study.DESIGNS[name], np.random.default_rng(6)
    group, label = design.labels(10, 10)
    strength = np.array(design.strengths[10][site : site + 1])
    states, codes = study.states_of(rng, label, group, strength)
    plan = study.plan_of(label, group, 8)
    _, weights, bias = study.fitted(states, plan)
    truth = study.on_new_speakers(weights, bias, codes)[0]
    fresh = np.arange(20_000) % design.classes
    new = codes[0][fresh] + np.sqrt(1 + study.SPEAKER**2) * rng.normal(size=(len(fresh), study.WIDTH))
    for number, fold in enumerate(plan.folds):
        probe = LogisticProbe().fit(states[0][fold.train], label[fold.train], sample_weight=fold.weights)
        score = probe.score(new, fresh)
        # Four standard errors, and as much again for the 1,024 points of three dimensions.
        assert truth[number] == pytest.approx(score, abs=0.016)


# --- coverage ----------------------------------------------------------------------------------------------------


def test_intervals_hold_the_accuracy_of_the_fitted_probes(study: Any, voice: Any) -> None:
    low, high = likely(150, 0.93, 0.975, cells=8)
    for groups, chunks in voice.items():
        held = counted(study, chunks, 0.5)
        assert ((low <= held) & (held <= high)).all(), (groups, held)
        truth = np.concatenate([chunk.truth for chunk in chunks], axis=1)
        assert truth.mean(1) == pytest.approx(study.ACCURACIES, abs=0.02)


def test_without_the_covariance_between_folds_guesses_look_too_sure(study: Any, voice: Any) -> None:
    """At chance the plain cluster interval covers about 87 %, whatever the number of groups."""
    held = sum(counted(study, chunks, 0.5)[0] for chunks in voice.values())
    plain = sum(counted(study, chunks, None)[0] for chunks in voice.values())
    assert held >= binom.ppf(ONCE_IN_THOUSAND, 300, 0.93)
    assert plain < binom.ppf(0.05, 300, 0.93)
    assert plain <= held - 10


def test_equal_keys_are_equal_draws(study: Any) -> None:
    a, b, c = (next(study.draw(study.DESIGNS["manner"], 10, 2, key)) for key in ((3, 1), (3, 1), (3, 2)))
    assert np.array_equal(a.correct, b.correct) and np.array_equal(a.truth, b.truth)
    assert not np.array_equal(a.truth, c.truth)


# --- false alarms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["voice", "manner"])
def test_nothing_planted_is_rarely_found(study: Any, name: str) -> None:
    p = study.alarms(study.DESIGNS[name], 10, 80, (2, 10))
    assert p.shape == (80, 2)
    _, most = likely(80, 0.03, 0.065, cells=4)
    assert ((p <= 0.05).sum(0) <= most).all()
    # p is not merely large: its mean is a half, to four standard errors of 80 uniform numbers and ties.
    assert 0.36 < p[:, 0].mean() < 0.68
    assert p.min() >= 1 / 200


def test_shuffles_of_speakers_do_not_score_below_chance(study: Any) -> None:
    """A plan hands its folds to the shuffles; free shuffles of ten speakers score 0.47 on average, not 0.50."""
    group, label = study.DESIGNS["voice"].labels(10, 10)
    plan = study.plan_of(label, group, 3)
    moved = plan.label_sets(199, 4).values[1:]
    uneven = [sum(abs(row[fold.test].mean() - 0.5) for fold in plan.folds) for row in moved]
    # Free shuffles leave two or four of the five folds with one label only, all five mixed one time in eight.
    assert np.mean(np.array(uneven) == 0) > 0.22
    assert max(uneven) <= 1.0


# --- the whole ---------------------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.timeout(4 * 3600)
def test_the_whole_study(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--workers", "2", "--progress", str(tmp_path / "cells.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
