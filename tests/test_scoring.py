"""Scores of models whose behaviour is known: readers, inverters, guessers, listeners."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

import vpanalysis as vp
from vpanalysis.errors import RunError, SchemaError
from vpanalysis.scoring import OUTCOMES, Comparison, Score, Scores, compare, hearing_index, score, voice_blind

ORDERS = ["-".join(order) for order in itertools.permutations(("high", "medium", "low"))]
INTONATION = [f"{kind} intonation" for kind in ("Rising", "Falling", "Rise-fall", "Fall-rise")]
EMOTIONS = ["neutral", "sadness", "anger", "happiness"]

Rule = Callable[[dict[str, Any], np.random.Generator], str | None]


@dataclass
class Table:
    """All that scoring needs of a Run."""

    name: str
    predictions: pd.DataFrame


def _cell(task: str, number: int, rng: np.random.Generator) -> tuple[list[str], str, dict[str, list[str]]]:
    """Return options, truth and what is said per condition, of one design cell."""
    if task == "gender_prediction":
        options, truth = ["Female", "Male"], ["Female", "Male"][number % 2]
        claims = [o for o in options if o != truth]
        return options, truth, {"conflict": claims, "congruent": [truth], "neutral": []}
    if task == "emotion_recognition":
        truth = EMOTIONS[number % 4]
        claim = str(rng.choice([e for e in EMOTIONS if e != truth]))
        return EMOTIONS, truth, {"conflict": [claim], "congruent": [truth], "neutral": []}
    if task == "intonation_perception":
        truth, claim = (INTONATION[0], INTONATION[1])[:: 1 if number % 2 else -1]
        return INTONATION, truth, {"conflict": [claim], "congruent": [truth], "neutral": []}
    # Pattern: two orders that start with the truth's level and two that start with the claimed level.
    truth = ORDERS[number % 6]
    level = truth.split("-")[0]
    claimed = str(rng.choice([n for n in ("high", "medium", "low") if n != level]))
    own, other = ([o for o in ORDERS if o.startswith(n)] for n in (level, claimed))
    return [*own, *other], truth, {"conflict": other, "congruent": own, "neutral": []}


def build(
    rule: Rule, *, tasks: tuple[str, ...] = ("gender_prediction", "emotion_recognition", "pitch_comparison"),
    cells: int = 60, seed: int = 0, name: str = "made", column: str = "pred_logits", failed: tuple[str, ...] = (),
) -> Table:  # fmt: skip
    """Make a Run of a model that answers by `rule`; the items depend on `cells` alone, not on `seed`."""
    design, rng = np.random.default_rng(99), np.random.default_rng(seed)
    rows = []
    for task in tasks:
        for number in range(cells):
            options, truth, said = _cell(task, number, design)
            speaker, script = f"s{design.integers(30)}", f"w{design.integers(20)}"
            for condition, words in said.items():
                row: dict[str, Any] = {
                    "id": f"{task}/{number}/{condition}", "task_name": task, "condition": condition,
                    "cell": f"{task}/{number}", "speaker": speaker, "script": script, "choices": options,
                    "letters": list("ABCD")[: len(options)], "truth": truth, "said": words,
                    "claims": words if condition == "conflict" else [], "status": "ok", "reason": None,
                }  # fmt: skip
                row[column] = rule(row, rng)
                if row["id"] in failed:
                    row |= {column: None, "status": "failed", "reason": "AudioError: empty"}
                rows.append(row)
    return Table(name, pd.DataFrame(rows))


def listener(row: dict[str, Any], rng: np.random.Generator) -> str:
    return str(row["truth"])


def reader(row: dict[str, Any], rng: np.random.Generator) -> str:
    return str(rng.choice(row["said"] or row["choices"]))


def inverter(row: dict[str, Any], rng: np.random.Generator) -> str:
    return str(rng.choice([o for o in row["choices"] if o not in row["said"]]))


def guesser(row: dict[str, Any], rng: np.random.Generator) -> str:
    return str(rng.choice(row["choices"]))


def half(row: dict[str, Any], rng: np.random.Generator) -> str:
    return str(row["truth"] if rng.random() < 0.5 else rng.choice(row["said"] or row["choices"]))


# --- the hearing index ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "m", "r", "blind"),
    [
        ("gender_prediction", 1.0, 1.0, 1 / 2),
        ("emotion_recognition", 1 / 3, 1.0, 1 / 4),
        ("intonation_perception", 1.0, 1.0, 1 / 2),
        ("pitch_comparison", 1 / 2, 1 / 2, 1 / 4),
    ],
)
def test_the_best_voice_blind_rule_follows_from_the_items(task: str, m: float, r: float, blind: float) -> None:
    row = score(build(listener, tasks=(task,))).per_task.iloc[0]
    assert (row["m"], row["r"], row["blind"]) == pytest.approx((m, r, blind))


def test_one_option_that_is_never_true_is_no_use_to_a_guess() -> None:
    items = build(listener, tasks=("emotion_recognition",)).predictions
    # Only anger and sadness are ever true, and each is contradicted by an option that never is.
    items = items[items["truth"].isin(["anger", "sadness"])].copy()
    items["said"] = [
        ["neutral"] if c == "conflict" else s for c, s in zip(items["condition"], items["said"], strict=True)
    ]
    assert voice_blind(items)["emotion_recognition"].m == 1 / 2


@pytest.mark.parametrize(
    ("conflict", "congruent", "m", "r", "index"),
    [
        (1, 1, 1, 1, 1.0), (0, 1, 1, 1, 0.0), (1, 0, 1, 1, 0.0), (0.5, 0.5, 1, 1, 0.0), (0.9, 0.7, 1, 1, 0.6),
        (1, 1, 1 / 3, 1, 1.0), (0, 1, 1 / 3, 1, 0.0), (1 / 3, 0, 1 / 3, 1, 0.0), (0.25, 0.25, 1 / 3, 1, 0.0),
        (1, 1, 1 / 2, 1 / 2, 1.0), (0, 1 / 2, 1 / 2, 1 / 2, 0.0), (1 / 2, 0, 1 / 2, 1 / 2, 0.0),
        (0, 0, 1, 1, -1.0), (0.8, 0.8, 1 / 2, 1 / 2, 2.2 / 3),
    ],
)  # fmt: skip
def test_hearing_index_by_hand(conflict: float, congruent: float, m: float, r: float, index: float) -> None:
    assert hearing_index(conflict, congruent, m, r) == pytest.approx(index)


TASKS = ("gender_prediction", "emotion_recognition", "intonation_perception", "pitch_comparison")


@pytest.mark.parametrize("task", TASKS)
def test_a_perfect_listener_has_one(task: str) -> None:
    found = score(build(listener, tasks=(task,)))
    assert found.value("hearing", task) == pytest.approx(1.0)
    assert found.value("both_right") == 1.0
    assert found.per_task["hearing_low"][0] > 0.6
    assert found.heard == [task]


@pytest.mark.parametrize("rule", [reader, inverter, guesser])
@pytest.mark.parametrize("task", TASKS)
def test_whoever_cannot_hear_has_none(rule: Rule, task: str) -> None:
    row = score(build(rule, tasks=(task,), cells=240)).per_task.iloc[0]
    # A guess of four among two that are ever true is below zero, a chance result around it.
    assert row["hearing"] < 0.12
    assert row["hearing_low"] <= 0
    assert row["heard"] == "no"


def test_readers_and_inverters_of_two_options_are_exactly_at_zero() -> None:
    for rule, kind in ((reader, "reads"), (inverter, "inverts")):
        found = score(build(rule, tasks=("gender_prediction",)))
        assert found.value("hearing") == 0
        assert found.value(kind) == 1
    found = score(build(reader, tasks=("gender_prediction",)))
    assert (found.value("acc_gt"), found.value("ala"), found.value("acc_congruent")) == (0, 1, 1)


def test_half_a_listener_has_one_half() -> None:
    found = score(build(half, cells=400))
    assert found.value("hearing") == pytest.approx(0.5, abs=0.05)
    low, high = found.overall.set_index("metric").loc["hearing", ["low", "high"]]
    assert low < 0.5 < high
    assert high - low < 0.15


def test_overall_hearing_is_the_mean_over_tasks_and_accuracy_that_over_items() -> None:
    found = score(build(half))
    assert found.value("hearing") == pytest.approx(found.per_task["hearing"].mean())
    conflict = found.outcomes[found.outcomes["condition"] == "conflict"]
    assert found.value("acc_gt") == (conflict["outcome"] == "listened").mean()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_no_mixture_of_reading_and_inverting_hears(seed: int, share: float) -> None:
    def rule(row: dict[str, Any], rng: np.random.Generator) -> str:
        return (reader if rng.random() < share else inverter)(row, rng)

    found = score(build(rule, cells=40, seed=seed))
    hearing = found.overall.set_index("metric").loc["hearing"]
    # Five standard errors: none of 25 examples may fail by chance.
    assert hearing["estimate"] < 5 * (hearing["high"] - hearing["low"]) / 4


def test_heard_needs_both_accuracies() -> None:
    """Hearing 0.4 by conflict items alone: always right there, and a coin flip short on congruent ones."""

    def rule(row: dict[str, Any], rng: np.random.Generator) -> str:
        number = int(row["id"].split("/")[1])
        right = row["condition"] == "conflict" or number % 10 < 6
        return str(row["truth"]) if right else next(o for o in row["choices"] if o != row["truth"])

    row = score(build(rule, tasks=("gender_prediction",), cells=200)).per_task.iloc[0]
    assert row["hearing"] == pytest.approx(0.6)
    assert row["hearing_low"] > 0
    assert row["acc_congruent"] - row["blind"] == pytest.approx(0.1)
    assert row["heard"] == "no"


def test_heard_needs_an_interval_above_zero() -> None:
    """Six cells with 5 and 4 right: far enough beyond the blind rule, but it may be luck."""

    def rule(row: dict[str, Any], rng: np.random.Generator) -> str:
        right = int(row["id"].split("/")[1]) < (5 if row["condition"] == "conflict" else 4)
        return str(row["truth"]) if right else next(o for o in row["choices"] if o != row["truth"])

    row = score(build(rule, tasks=("gender_prediction",), cells=6)).per_task.iloc[0]
    assert row["hearing"] == pytest.approx(0.5)
    assert row["acc_congruent"] - row["blind"] > 0.15
    assert row["hearing_low"] < 0
    assert row["heard"] == "no"


# --- outcomes -------------------------------------------------------------------------------------------------------


def test_every_item_has_one_outcome() -> None:
    def rule(row: dict[str, Any], rng: np.random.Generator) -> str | None:
        return None if rng.random() < 0.2 else guesser(row, rng)

    made = build(rule, failed=("pitch_comparison/3/conflict", "gender_prediction/0/neutral"))
    found = score(made)
    by_id = found.outcomes.set_index("id")
    for row in made.predictions.to_dict("records"):
        outcome, picked = by_id.loc[row["id"], "outcome"], row["pred_logits"]
        if row["status"] == "failed":
            assert outcome == "failed"
            assert by_id.loc[row["id"], "reason"] == "AudioError: empty"
        elif pd.isna(picked):
            assert outcome == "unparsed"
        elif picked == row["truth"]:
            assert outcome == "listened"
        elif row["condition"] == "conflict" and picked in row["said"]:
            assert outcome == "read"
        else:
            assert outcome == "other"
    counts = found.outcome_counts()
    assert list(counts.columns) == list(OUTCOMES)
    assert int(counts.to_numpy().sum()) == len(made.predictions)
    assert found.per_task["failed"].sum() == 2
    assert found.per_task["unparsed"].sum() == (found.outcomes["outcome"] == "unparsed").sum() > 50


def test_failed_and_unparsed_items_stay_in_the_denominator() -> None:
    task = "gender_prediction"
    found = score(build(listener, tasks=(task,), cells=10, failed=(f"{task}/0/conflict", f"{task}/1/congruent")))
    assert found.value("acc_gt") == 0.9
    assert found.value("acc_congruent") == 0.9
    assert found.value("failed") == pytest.approx(2 / 30)
    assert found.value("both_right") == 0.8
    assert (found.value("reads"), found.value("inverts")) == pytest.approx((0.1, 0.1))


def test_a_second_claim_counts_for_the_list_only() -> None:
    def second(row: dict[str, Any], rng: np.random.Generator) -> str:
        return str(row["said"][-1] if row["said"] else row["truth"])

    found = score(build(second, tasks=("pitch_comparison",)))
    assert (found.value("ala"), found.value("ala_single"), found.value("acc_gt")) == (1, 0, 0)
    assert score(build(second, tasks=("gender_prediction",))).value("ala_single") == 1


def test_option_lists_may_be_arrays_tuples_or_json() -> None:
    made = build(half)
    expected = score(made).table
    for convert in (np.array, tuple, json.dumps):
        table = made.predictions.copy()
        for column in ("choices", "said", "claims"):
            table[column] = [convert(v) for v in table[column]]
        pd.testing.assert_frame_equal(score(table).table, expected)


def test_other_conditions_have_their_own_accuracy() -> None:
    made = build(listener)
    made.predictions.loc[made.predictions["condition"] == "neutral", "condition"] = "voice-swap"
    found = score(made)
    assert found.value("acc_voice_swap") == 1
    assert "acc_neutral" not in set(found.table["metric"])


# --- intervals and groups -------------------------------------------------------------------------------------------


def test_without_groups_intervals_are_plain_and_the_table_says_so() -> None:
    made = build(half)
    bare = made.predictions[made.predictions["condition"] == "conflict"].drop(columns=["speaker", "script", "cell"])
    found = score(bare)
    row = found.overall.set_index("metric").loc["acc_gt"]
    right = int((bare["pred_logits"] == bare["truth"]).sum())
    assert (row["low"], row["high"]) == pytest.approx(proportion_confint(right, len(bare), method="wilson"))
    assert set(found.table["group"]) == {"none"}
    assert "plain Wilson" in repr(found)
    assert "No hearing index" in repr(found)
    assert not {"hearing", "heard", "blind", "congruent"} & set(repr(found).splitlines()[1].split())
    assert "plain Wilson" not in repr(score(made))


def test_the_cell_is_the_group_where_no_speaker_is_known() -> None:
    made = build(half)
    found = score(made.predictions.drop(columns=["speaker", "script"]))
    assert set(found.table["group"]) == {"cell"}
    assert found.table[found.table["metric"] == "hearing"]["n_groups"].tolist() == [60, 60, 60, 180]


def test_speakers_that_stand_and_fall_together_widen_the_interval() -> None:
    def by_speaker(row: dict[str, Any], rng: np.random.Generator) -> str:
        return str(
            row["truth"] if int(row["speaker"][1:]) % 2 else next(o for o in row["choices"] if o != row["truth"])
        )

    row = score(build(by_speaker)).overall.set_index("metric").loc["acc_gt"]
    alone = score(build(by_speaker).predictions.drop(columns=["speaker", "script"])).overall.set_index("metric")
    assert row["group"] == "speaker"
    assert row["n_effective"] < 40
    assert row["high"] - row["low"] > 2 * (alone.loc["acc_gt", "high"] - alone.loc["acc_gt", "low"])


# --- several runs ---------------------------------------------------------------------------------------------------


def test_lists_and_mappings_of_runs() -> None:
    made = [build(listener, name="a"), build(reader, name="b")]
    several = score(made)
    assert list(several) == ["a", "b"]
    assert list(score({"x": made[0], "y": made[1]})) == ["x", "y"]
    assert several["a"].value("acc_gt") == 1
    tidy = several.to_dataframe()
    assert set(tidy["name"]) == {"a", "b"}
    assert set(tidy["prediction"]) == {"pred_logits"}
    assert several.overall()["hearing"].round(3).tolist() == [
        1.0,
        pytest.approx(several["b"].value("hearing"), abs=1e-3),
    ]
    assert list(several.hearing().index) == ["gender_prediction", "emotion_recognition", "pitch_comparison", "overall"]
    with pytest.raises(RunError, match="more than once"):
        score([made[0], made[0]])
    with pytest.raises(RunError, match="did you mean"):
        several["aa"]


def test_a_run_minus_itself_is_nothing() -> None:
    made = build(half)
    found = compare(made, made).table
    assert (found["difference"].abs() < 1e-12).all()
    assert (found["p"] == 1).all()
    assert ((found["low"] <= 0) & (found["high"] >= 0)).all()


def test_differences_are_those_of_the_scores() -> None:
    a, b = build(half, seed=1, name="a"), build(reader, seed=2, name="b")
    found = compare(a, b)
    left, right = score(a), score(b)
    for row in found.table.to_dict("records"):
        expected = left.value(row["metric"], row["task"]) - right.value(row["metric"], row["task"])
        assert row["difference"] == pytest.approx(expected, abs=1e-9)
        assert row["low"] <= row["difference"] <= row["high"]
    swapped = compare(b, a).table
    assert swapped["difference"].to_numpy() == pytest.approx(-found.table["difference"].to_numpy())
    assert swapped["low"].to_numpy() == pytest.approx(-found.table["high"].to_numpy())
    overall = found.overall.set_index("metric")
    assert overall.loc["acc_gt", "p"] < 0.001
    assert overall.loc["acc_gt", "p_mcnemar"] < 1e-6
    assert math.isnan(overall.loc["hearing", "p_mcnemar"])
    assert "assumes independent items" in repr(found)


def test_tasks_are_corrected_together() -> None:
    from statsmodels.stats.multitest import multipletests

    found = compare(build(half, seed=1), build(half, seed=5)).per_task
    for _, family in found.groupby("metric"):
        assert family["q"].to_numpy() == pytest.approx(multipletests(family["p"], method="fdr_bh")[1])


def test_one_lucky_speaker_is_no_difference() -> None:
    def lucky(row: dict[str, Any], rng: np.random.Generator) -> str:
        return str(row["truth"]) if row["speaker"] == "s1" else reader(row, rng)

    made = [build(rule, tasks=("gender_prediction",), cells=300) for rule in (lucky, reader)]
    row = compare(*made).overall.set_index("metric").loc["acc_gt"]
    assert row["p"] == 1.0
    assert row["p_mcnemar"] < 0.01


def test_comparisons_repeat_and_pair_by_id() -> None:
    a, b = build(half, seed=1), build(half, seed=2)
    shuffled = Table("b", b.predictions.sample(frac=1, random_state=0).reset_index(drop=True))
    pd.testing.assert_frame_equal(compare(a, b).table, compare(a, shuffled).table)
    part = Table("part", b.predictions.iloc[5:])
    found = compare(a, part)
    assert found.unpaired == {"a": tuple(b.predictions["id"][:5]), "b": ()}
    assert "5 items only in a" in repr(found)
    pd.testing.assert_frame_equal(compare(score(a), score(b)).table, compare(a, b).table)


def test_unlike_items_are_not_compared() -> None:
    a, b = build(half), build(half)
    b.predictions["id"] = "other/" + b.predictions["id"]
    with pytest.raises(RunError, match="no item in both"):
        compare(a, b)
    b = build(half)
    b.predictions.at[0, "truth"] = next(c for c in b.predictions["choices"][0] if c != b.predictions["truth"][0])
    with pytest.raises(RunError, match="gender_prediction/0/conflict"):
        compare(a, b)


def test_two_columns_of_one_run_can_be_compared() -> None:
    made = build(listener)
    made.predictions["pred_generated"] = build(reader).predictions["pred_logits"]
    found = compare(made, made, prediction=("pred_logits", "pred_generated"))
    assert found.overall["difference"][0] == 1
    assert (found.a, found.b) == ("made (pred_logits)", "made (pred_generated)")


# --- which prediction, what goes wrong ------------------------------------------------------------------------------


def test_the_table_says_which_prediction_it_shows() -> None:
    made = build(listener)
    made.predictions["pred_generated"] = build(reader).predictions["pred_logits"]
    generated = score(made, prediction="pred_generated")
    assert generated.value("ala") == 1
    for text in (
        repr(generated),
        generated._repr_html_(),
        repr(score([generated_run(made)], prediction="pred_generated")),
    ):
        assert "pred_generated" in text
        assert "published numbers" not in text
    assert "Only pred_generated is comparable" in repr(score(made))
    assert set(generated.to_dataframe()["prediction"]) == {"pred_generated"}


def generated_run(made: Table) -> Table:
    return replace(made, name="g")


def test_predictions_that_were_not_recorded_are_asked_for() -> None:
    made = build(listener)
    made.predictions["pred_text_score"] = None
    made.predictions["pred_generated"] = None
    with pytest.raises(RunError, match="text_scores=True"):
        score(made, prediction="pred_text_score")
    with pytest.raises(RunError, match=r"allowed: 'pred_logits'.*generate=True"):
        score(made, prediction="pred_generated")
    with pytest.raises(RunError, match="did you mean 'pred_logits'"):
        score(made, prediction="pred_logit")
    # Generated, and not one reply could be read: that is a result.
    made.predictions["pred_generated_raw"] = "hm"
    assert score(made, prediction="pred_generated").value("unparsed") == 1


def test_broken_predictions_are_named() -> None:
    made = build(listener)
    made.predictions.loc[4, "pred_logits"] = "Femal"
    with pytest.raises(SchemaError, match=r"'Femal' for the item 'gender_prediction/1/congruent'"):
        score(made)
    with pytest.raises(SchemaError, match="more than once"):
        score(pd.concat([build(listener).predictions] * 2))
    with pytest.raises(RunError, match="no column truth"):
        score(build(listener).predictions.drop(columns="truth"))
    with pytest.raises(RunError, match="no items"):
        score(build(listener).predictions.iloc[:0])
    with pytest.raises(RunError, match="a int"):
        score(3)
    found = score(build(listener))
    with pytest.raises(RunError, match="did you mean 'hearing'"):
        found.value("hering")
    with pytest.raises(RunError, match="did you mean 'gender_prediction'"):
        found.value("hearing", "gender_predictions")


# --- keeping and showing --------------------------------------------------------------------------------------------


def test_results_come_back_as_they_were(tmp_path: Path) -> None:
    made = build(half, failed=("pitch_comparison/3/conflict",))
    one, several = score(made), score({"x": made, "y": build(reader)})
    both = compare(made, build(reader))
    again = Score.load(one.save(tmp_path / "folder"))
    assert (tmp_path / "folder" / "score.json").is_file()
    for key in ("table", "per_task", "outcomes", "overall"):
        pd.testing.assert_frame_equal(getattr(again, key), getattr(one, key))
    assert (again.settings, repr(again)) == (one.settings, repr(one))
    assert repr(Scores.load(several.save(tmp_path / "several.json"))) == repr(several)
    compared = Comparison.load(both.save(tmp_path / "both.json"))
    pd.testing.assert_frame_equal(compared.table, both.table)
    assert (repr(compared), compared.unpaired) == (repr(both), both.unpaired)
    pd.testing.assert_frame_equal(compare(again, score(build(reader))).table, both.table)
    # Files of another kind, and files that are none.
    with pytest.raises(RunError, match="kind 'Scores'"):
        Score.load(tmp_path / "several.json")
    with pytest.raises(RunError, match="No such file"):
        Score.load(tmp_path / "missing.json")
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match="not JSON"):
        Comparison.load(tmp_path / "broken.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["both.json", "broken.json", "folder", "several.json"]


def test_names_from_data_never_become_markup() -> None:
    made = build(half, name="<script>alert(1)</script>\x1b[2J")
    made.predictions["task_name"] = "<b>task</b>"
    for result in (score(made), score([made]), compare(made, made)):
        assert "<script>" not in result._repr_html_()
        assert "<b>" not in result._repr_html_()
        assert "\x1b" not in repr(result)


def test_a_score_reads_well() -> None:
    text = repr(score(build(listener)))
    lines = text.splitlines()
    assert lines[0] == "Score of made, prediction pred_logits: 540 items, 3 tasks"
    assert lines[1].split() == [
        "task", "Acc_GT", "ALA", "congruent", "neutral", "hearing", "blind", "heard", "unparsed", "failed",
    ]  # fmt: skip
    assert lines[3].startswith("gender_prediction")
    assert "1.00 [" in lines[3]
    assert "3 of 3" in lines[6]
    assert max(len(line) for line in lines) < 160


def test_pictures_take_scores() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    several = score([build(listener, name="a"), build(reader, name="b")])
    axes = several.plot()
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b"]
    assert several["a"].plot() is not None
    plt.close("all")


def test_scoring_needs_no_torch() -> None:
    code = "import sys, vpanalysis as vp; vp.score, vp.compare; sys.exit(int('torch' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert vp.score is score
