"""Neither question, options nor words reveal condition or truth.

A rule that cannot hear is trained on the text of the train split: question, options, their order, what is said and
every word of the transcript, with interactions. It may learn to believe the words, to invert them, or to guess; on the
test split its hearing index must not be told from 0. That the rule would find a leak is shown on planted ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction import FeatureHasher
from sklearn.linear_model import LogisticRegression

from vpanalysis.benchmark import TASKS, Item, mini
from vpanalysis.scoring import Score, score


def facts(item: Item, slot: int) -> list[str]:
    """Everything that text says about one offered option, as features of a linear rule."""
    option, said = item.choices[slot], ",".join(sorted(item.said)) or "-"
    believed, offered, order = option in item.said, "|".join(sorted(item.choices)), "|".join(item.choices)
    words = (item.transcript or "").split()
    own = [f"o {option}", f"b {believed}", f"s {slot}"]
    pairs = [f"{a} & {b}" for i, a in enumerate(own) for b in own[i + 1 :]]
    context = [f"q {item.question}", f"said {said}", f"set {offered}", f"set {offered} said {said}", f"order {order}"]
    context += [f"w {word}" for word in sorted(set(words))] + [
        f"n {len(words)}",
        f"k {len(item.said)}",
        f"q {item.question} said {said}",
    ]
    return own + pairs + [f"{c} & {mine}" for c in context for mine in (own[0], own[1], pairs[0], own[2])]


def table(items: Iterable[Item]) -> pd.DataFrame:
    columns = ("id", "task_name", "condition", "cell", "speaker", "script", "choices", "truth", "said", "claims")
    return pd.DataFrame([{c: getattr(item, c) for c in columns} for item in items])


def blind(train: Iterable[Item], test: Iterable[Item]) -> list[str]:
    """Answers of the trained text-only rule on `test`."""
    hasher = FeatureHasher(2**17, input_type="string", alternate_sign=False)
    slots = [(item, k) for item in train for k in range(len(item.choices))]
    rule = LogisticRegression(C=0.1, solver="liblinear", random_state=0)
    rule.fit(hasher.transform(facts(i, k) for i, k in slots), [i.choices[k] == i.truth for i, k in slots])
    asked = [(item, k) for item in test for k in range(len(item.choices))]
    belief = rule.decision_function(hasher.transform(facts(i, k) for i, k in asked))
    answers, at = [], 0
    for item in test:
        answers.append(item.choices[int(np.argmax(belief[at : at + len(item.choices)]))])
        at += len(item.choices)
    return answers


def scored(items: list[Item], answers: list[str], level: float = 0.95) -> Score:
    return score(table(items).assign(pred_logits=answers, status="ok"), level=level)


@pytest.fixture(scope="module")
def replies() -> tuple[list[Item], list[str]]:
    items: list[Item] = []
    answers: list[str] = []
    for task in TASKS:
        train, test = (list(mini.load(split=split, tasks=task)) for split in ("train", "test"))
        items += test
        answers += blind(train, test)
    return items, answers


def hearing(result: Score) -> pd.Series:
    overall = result.overall
    return overall[overall["metric"] == "hearing"].iloc[0]


def test_text_alone_has_a_hearing_index_of_zero(replies: tuple[list[Item], list[str]]) -> None:
    found = hearing(scored(*replies))
    assert found["low"] <= 0 <= found["high"], found
    assert found["high"] - found["low"] < 0.15  # narrow enough to mean something


@pytest.mark.parametrize("task", TASKS)
def test_text_alone_hears_no_task(replies: tuple[list[Item], list[str]], task: str) -> None:
    kept = [(item, answer) for item, answer in zip(*replies, strict=True) if item.task_name == task]
    # Ten intervals are looked at, so each is at 99.5 %.
    found = hearing(scored([item for item, _ in kept], [answer for _, answer in kept], level=0.995))
    assert found["low"] <= 0 <= found["high"], found


def test_text_alone_does_not_tell_the_truth_of_neutral_clips(replies: tuple[list[Item], list[str]]) -> None:
    neutral = [(item, answer) for item, answer in zip(*replies, strict=True) if item.condition == "neutral"]
    for task in TASKS:
        right = np.array([item.truth == answer for item, answer in neutral if item.task_name == task])
        # Rise-fall and fall-rise are offered and never true, as in the release, which leaves a guess among two.
        possible = 2 if task in ("gender_prediction", "intonation_perception") else 4
        assert abs(right.mean() - 1 / possible) < 3.3 * np.sqrt((1 - 1 / possible) / possible / len(right)), task


def leak_in_words(item: Item) -> Item:
    """Congruent twins end with a word of their own."""
    return replace(item, transcript=f"{item.transcript} truly") if item.condition == "congruent" else item


def leak_in_order(item: Item) -> Item:
    """The truth is always (A)."""
    return replace(item, choices=(item.truth, *(c for c in item.choices if c != item.truth)))


def leak_in_options(item: Item) -> Item:
    """Both orders of the claimed level, the truth and one more: only conflict words then assert two options."""
    claimed, true = item.foils[0].split("-")[0], item.truth.split("-")[0]
    (third,) = {"high", "medium", "low"} - {claimed, true}
    other = next(c for c in item.choices if c.startswith(true) and c != item.truth)
    changed = tuple(f"{third}-{true}-{claimed}" if c == other else c for c in item.choices)
    return replace(item, choices=changed, said=tuple(c for c in item.said if c != other))


@pytest.mark.parametrize(
    ("leak", "task"),
    [
        (leak_in_words, "gender_prediction"),
        (leak_in_order, "age_prediction"),
        (leak_in_options, "pitch_comparison"),
    ],
)
def test_the_rule_finds_a_planted_leak(leak: Callable[[Item], Item], task: str) -> None:
    train, test = ([leak(item) for item in mini.load(split=split, tasks=task)] for split in ("train", "test"))
    found = hearing(scored(test, blind(train, test)))
    assert found["low"] > 0.2, found
