"""Text controls: each takes away what it says, and inverting is told from following and from listening."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import vpanalysis as vp
from vpanalysis.attribution import CONTROLS, TextControls, text_controls
from vpanalysis.attribution._asking import Asker
from vpanalysis.attribution._verdicts import word_verdict
from vpanalysis.attribution.textual import NEGATION, _controlled, _inversion
from vpanalysis.benchmark.audio import NoAudio
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import RunError

TASKS = ["intonation_perception", "gender_prediction"]


@pytest.fixture(scope="module")
def bench() -> Benchmark:
    whole = vp.load_benchmark("mini", tasks=TASKS)
    return whole.filter(lambda i: i.condition in ("conflict", "congruent") and int(str(i.cell)[-4:]) < 14)


@pytest.fixture(scope="module")
def found(bench: Benchmark, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextControls]:
    cache = tmp_path_factory.mktemp("cache")
    return {
        name: text_controls(name, bench, cache=cache, progress=False)
        for name in ("mini-base", "mini-pclm-dpo", "mini-inverter")
    }


def _of(result: TextControls, measure: str) -> pd.DataFrame:
    rows = result.table[(result.table["task"] == "all") & (result.table["measure"] == measure)]
    return rows.set_index("setting")


def test_readers_listeners_and_inverters_are_told_apart(found: dict[str, TextControls]) -> None:
    effects = {}
    for name, result in found.items():
        row = result.inversion.set_index(["task", "control"]).loc[("all", "as asked")]
        effects[name] = (row["verdict"], row["n"])
    assert effects["mini-base"] == ("follows the words", 28)
    assert effects["mini-inverter"] == ("inverts the words", 28)
    assert effects["mini-pclm-dpo"][0] == "no word effect found"
    assert [name for name, result in found.items() if result.inverts] == ["mini-inverter"]
    by_task = found["mini-inverter"].inversion
    by_task = by_task[(by_task["task"] != "all") & (by_task["control"] == "as asked")]
    assert (by_task["q"] < 0.05).all() and (by_task["q"] >= by_task["p"] - 1e-12).all()


def test_a_wrong_clip_takes_the_voice_and_the_transcript_brings_the_words(found: dict[str, TextControls]) -> None:
    listens, reads = found["mini-pclm-dpo"], found["mini-base"]
    assert _of(listens, "accuracy").loc["as asked", "value"] > 0.7
    assert _of(listens, "accuracy").loc["wrong clip", "difference_high"] < 0
    assert _of(listens, "margin").loc["question only", "p_adjusted"] < 0.05
    assert _of(reads, "ala").loc["as asked", "value"] > 0.7
    assert _of(reads, "ala").loc["question only", "difference_high"] < 0
    written = reads.inversion.set_index(["task", "control"]).loc[("all", "transcript only")]
    assert written["low"] > 0


def test_the_values_are_the_models_own(found: dict[str, TextControls], bench: Benchmark) -> None:
    asker = Asker(vp.load_model("mini-base"), [i for i in bench if i.condition == "conflict"], DEFAULT_PROMPT)
    own = asker.margins(asker.ask())
    items = found["mini-base"].items
    mine = items[(items["control"] == "as asked") & (items["twin"] == "conflict")].set_index("id")["margin"]
    np.testing.assert_allclose(mine.loc[[i.id for i in asker.items]], own, atol=1e-4)
    row = found["mini-base"].inversion.set_index(["task", "control"]).loc[(TASKS[0], "as asked")]
    both = items[(items["control"] == "as asked") & (items["task"] == TASKS[0])]
    both = both.pivot(index="id", columns="twin", values="margin")
    assert row["effect"] == pytest.approx(((both["congruent"] - both["conflict"]) / 2).mean())


def test_each_control_takes_away_what_it_says(bench: Benchmark) -> None:
    items = [item for item in bench if item.condition == "conflict"]
    made = {name: _controlled(name, items, 0) for name in CONTROLS}
    assert all([i.id for i in rows] == [i.id for i in items] for rows in made.values())
    for old, new in zip(items, made["shuffled options"], strict=True):
        assert sorted(new.choices) == sorted(old.choices) and new.choices != old.choices
    by_key = {item.audio.key(): item for item in items}
    for old, new in zip(items, made["wrong clip"], strict=True):
        other = by_key[new.audio.key()]
        assert (other.task_name, new.truth) == (old.task_name, old.truth)
        assert other.speaker != old.speaker and other.script != old.script
    assert all(isinstance(i.audio, NoAudio) and i.question == o.question
               for i, o in zip(made["question only"], items, strict=True))  # fmt: skip
    for name in ("transcript only", "transcript negation"):
        assert all(isinstance(i.audio, NoAudio) and str(i.transcript) in i.question for i in made[name])
    assert all((NEGATION in i.question) == (name in ("transcript negation", "negated question"))
               for name, rows in made.items() for i in rows)  # fmt: skip
    # A clip that is the item's own is no wrong one, whatever its name.
    twice = [items[0], replace(items[0], id="again"), replace(items[0], id="third")]
    assert not _controlled("wrong clip", twice, 0)
    mute = [replace(item, transcript=None) for item in items]
    assert not _controlled("transcript only", mute, 0) and len(_controlled("negated question", mute, 0)) == len(items)


def test_planted_word_effects_are_recovered() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(40):
        voice = rng.normal(3, 2)
        for twin, sign in (("congruent", 1), ("conflict", -1)):
            rows.append(
                {"id": str(number), "task": "t", "speaker": f"s{number % 20}", "script": f"w{number % 16}",
                 "control": "as asked", "twin": twin, "margin": voice - 1.5 * sign + rng.normal(0, 0.1)}
            )  # fmt: skip
    table = _inversion(pd.DataFrame(rows), ["as asked"], 0.95, 0)
    assert table["verdict"].tolist() == ["inverts the words"] * 2
    assert table["effect"].iloc[0] == pytest.approx(-1.5, abs=0.1)


def test_transcripts_on_one_side_only_are_no_inversion_test(bench: Benchmark) -> None:
    cells = bench.filter(lambda item: str(item.cell)[-4:] < "0004")
    bare = Benchmark(
        [replace(item, transcript=None) if item.condition == "conflict" else item for item in cells],
        name="bare", source="test",
    )  # fmt: skip
    found = text_controls("mini-base", bare, controls=["transcript only"], cache=None, progress=False)
    assert set(found.inversion["control"]) == {"as asked"}
    assert set(found.table["setting"]) == {"as asked"}


def test_a_negated_question_is_not_called_inverting() -> None:
    row = {"task": "all", "low": -2.0, "high": -1.0, "q": float("nan")}
    assert word_verdict({**row, "control": "as asked"}, 0.05) == "inverts the words"
    assert word_verdict({**row, "control": "negated question"}, 0.05) == "turns with the negation, or inverts"
    assert word_verdict({**row, "control": "as asked", "task": "a", "q": 0.2}, 0.05) == "no word effect found"


def test_results_print_plot_and_keep_and_a_second_call_is_free(
    found: dict[str, TextControls], bench: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    result = found["mini-inverter"]
    assert "TextControls: mini-inverter" in repr(result) and "inverts the words" in repr(result)
    assert "<table" in result._repr_html_()
    assert [t.get_text() for t in result.plot(measure="ala").get_yticklabels()] == list(CONTROLS)
    assert len(result.plot_inversion().get_yticklabels()) == 3
    plt.close("all")
    with pytest.raises(RunError, match="allowed: 'accuracy'"):
        result.plot(measure="acuracy")
    kept = TextControls.load(result.save(tmp_path / "kept"))
    pd.testing.assert_frame_equal(kept.inversion, result.inversion)
    model = vp.load_model("mini-base")
    few = bench.filter(lambda item: str(item.cell)[-4:] < "0003")
    asked: dict[str, Any] = {"controls": ["question only"], "cache": tmp_path}
    first = text_controls(model, few, **asked)
    assert "6 items: 3 forwards to do" in capsys.readouterr().err

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the second call must not run the model")

    monkeypatch.setattr(model, "forward", never)
    pd.testing.assert_frame_equal(text_controls(model, few, **asked, progress=False).table, first.table)


def test_what_cannot_be_controlled_is_refused(bench: Benchmark) -> None:
    with pytest.raises(RunError, match="qestion only"):
        text_controls("mini-base", bench, controls=["qestion only"], progress=False)
    with pytest.raises(RunError, match="no conflict item"):
        text_controls("mini-base", bench.filter(lambda item: item.condition == "congruent"), progress=False)
