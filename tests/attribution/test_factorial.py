"""Listening and reading on the organism, where it is known who does which; and the conditions that it is made of."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

import vpanalysis as vp
from vpanalysis.attribution import FAMILIES, ListenRead, condition, listen_vs_read, text_controls, two_player
from vpanalysis.attribution._answers import turned_by
from vpanalysis.attribution._asking import Asker
from vpanalysis.attribution._verdicts import verdict_of
from vpanalysis.benchmark.audio import ArrayAudio
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import RunError

TASK = "intonation_perception"


@pytest.fixture(scope="module")
def bench() -> Benchmark:
    whole = vp.load_benchmark("mini", tasks=[TASK])
    return whole.filter(lambda item: item.condition == "conflict" and int(str(item.cell)[-4:]) < 12)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conditions")


@pytest.fixture(scope="module")
def found(bench: Benchmark, runs: Path) -> dict[str, ListenRead]:
    return {
        name: listen_vs_read(name, bench, families="twins", out=runs / name, progress=False)
        for name in ("mini-base", "mini-pclm-dpo", "mini-inverter")
    }


def test_the_reader_reads_and_the_listener_listens(found: dict[str, ListenRead]) -> None:
    reads, listens = (found[name].table.set_index("task").loc["all"] for name in ("mini-base", "mini-pclm-dpo"))
    assert reads["share"] < 0.1
    assert reads["read_high"] < 0
    assert reads["verdict"] == "reads"
    assert listens["share"] > 0.6
    assert listens["listen_low"] > 0
    assert listens["verdict"].startswith("listens")
    assert (reads["n"], reads["n_asked"]) == (12, 12)


def test_a_second_call_without_a_folder_is_free_and_orders_show_what_a_letter_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = vp.load_benchmark("mini", tasks="gender_prediction")
    bench = whole.filter(lambda item: item.condition == "conflict" and int(str(item.cell)[-4:]) < 12)
    model = vp.load_model("mini-base")
    asked: dict[str, Any] = {"families": "unheard", "orders": 2, "cache": tmp_path}
    first = listen_vs_read(model, bench, **asked)
    said = capsys.readouterr().err
    assert "12 items under 4 conditions: 4 forwards to do" in said and "4 of 8 runs are there" in said
    assert first.settings["orders"] == 2
    letters = first.positions[first.positions["condition"] == "both"].set_index("letter")
    # Two options and both their orders: the truth is as often at A as at B, and one of them is always picked.
    assert letters["truth"].tolist() == [0.5, 0.5] and letters["n"].tolist() == [24, 24]
    assert letters["picked"].sum() == pytest.approx(1)
    np.testing.assert_allclose(letters["excess"], letters["picked"] - letters["truth"])

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the second call must not run the model")

    monkeypatch.setattr(model, "forward", never)
    again = listen_vs_read(model, bench, **asked, progress=False)
    pd.testing.assert_frame_equal(again.items, first.items)
    pd.testing.assert_frame_equal(again.positions, first.positions)


def test_a_question_without_a_clip_has_no_audio_token(bench: Benchmark) -> None:
    model = vp.load_model("mini-pclm-dpo")
    asker = Asker(model, list(condition(bench, "no-audio"))[:3], DEFAULT_PROMPT)
    batch = model.prepare(asker.items, None, DEFAULT_PROMPT, encoded=asker.encoded)
    assert batch.layout.audio_tokens == (0, 0, 0)
    assert not (batch.inputs["input_ids"] == model._audio_token_id).any()
    # What nothing is heard of cannot depend on the clip: it is the model's own answer to the text.
    text = model.model(**{k: v for k, v in batch.inputs.items() if k in ("input_ids", "attention_mask")}).logits[:, -1]
    torch.testing.assert_close(model.forward(batch), text.float(), atol=1e-5, rtol=0)


def test_the_inverter_is_caught(found: dict[str, ListenRead]) -> None:
    row = found["mini-inverter"].table.set_index("task").loc["all"]
    assert row["verdict"] == "inverts the words"
    assert row["read_low"] > 0
    assert row["listen_low"] < 0.5


def test_the_values_are_those_of_the_runs(found: dict[str, ListenRead], runs: Path) -> None:
    items = found["mini-pclm-dpo"].items.set_index("id")
    run = vp.open_run(runs / "mini-pclm-dpo" / "both")
    assert list(run.sites) == []
    row = run.predictions.set_index("id").loc[items.index[3]]
    scores = dict(zip(row["choices"], row["option_logprobs"], strict=True))
    own = scores[row["truth"]] - np.log(sum(np.exp(scores[foil]) for foil in row["foils"]))
    empty = vp.open_run(runs / "mini-pclm-dpo" / "neutral-plain-twin").predictions.set_index("id").loc[items.index[3]]
    scores = dict(zip(empty["choices"], empty["option_logprobs"], strict=True))
    zero = scores[row["truth"]] - np.log(sum(np.exp(scores[foil]) for foil in row["foils"]))
    assert items["both"].iloc[3] == pytest.approx(own - zero, abs=1e-5)
    parts = two_player(items["both"], items["words"], items["voice"], items["neither"])
    np.testing.assert_allclose(items["listen"], parts["listen"])


def test_results_print_plot_and_keep(found: dict[str, ListenRead], tmp_path: Path) -> None:
    result = found["mini-base"]
    assert "ListenRead: mini-base" in repr(result)
    assert "<table" in result._repr_html_()
    ax = result.plot()
    assert [t.get_text() for t in ax.get_yticklabels()] == ["Intonation", "all tasks"]
    plt.close("all")
    with pytest.raises(RunError, match="twinz"):
        result.plot(family="twinz")
    kept = ListenRead.load(result.save(tmp_path))
    pd.testing.assert_frame_equal(kept.table, result.table)
    pd.testing.assert_frame_equal(kept.common().items, result.items)


def test_a_second_call_finds_its_runs(bench: Benchmark, runs: Path, found: dict[str, ListenRead]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (runs / "mini-base").glob("*/manifest.json")}
    again = listen_vs_read("mini-base", bench, families="twins", out=runs / "mini-base", progress=False)
    pd.testing.assert_frame_equal(again.items, found["mini-base"].items)
    assert before == {path: path.stat().st_mtime_ns for path in (runs / "mini-base").glob("*/manifest.json")}


def test_conditions_keep_ids_and_say_nothing_that_is_not_said(bench: Benchmark) -> None:
    for name in sorted({part for f in FAMILIES.values() for part in (f.voice, f.words, f.neither)}):
        try:
            made = condition(bench, name)
        except RunError as error:
            assert "no item" in str(error)
            continue
        assert set(made.ids) <= set(bench.ids), name
        assert all(item.foils == bench[item.id].foils for item in made), name
    silent = condition(bench, "silence")
    assert not np.any(silent[0].audio.load())
    text = condition(bench, "transcript")
    assert text[0].transcript in text[0].question
    twin = condition(bench, "neutral-twin")[0]
    assert twin.said == ()
    assert twin.truth == bench[twin.id].truth
    with pytest.raises(RunError, match="backwards"):
        condition(bench, "backwards")


def test_orders_move_options_and_not_items(bench: Benchmark) -> None:
    turned = turned_by(bench, 1)
    assert turned.ids == bench.ids
    assert turned[0].choices == bench[0].choices[1:] + bench[0].choices[:1]
    assert turned[0].letters == bench[0].letters
    assert turned_by(bench, 0) is bench


def test_an_absent_voice_is_gone_and_a_family_nobody_allows_is_told(bench: Benchmark, runs: Path) -> None:
    gender = vp.load_benchmark("mini", tasks=["gender_prediction"], limit=6).select(conditions=["conflict"])
    with pytest.raises(RunError, match="no item"):
        condition(gender, "flattened")  # formants still tell
    found = listen_vs_read("mini-base", bench, families=["twins", "reversed"], out=runs / "mini-base", progress=False)
    table = found.table.set_index(["family", "task"])
    assert table.loc[("reversed", "all"), "verdict"] == "not measured"
    assert table.loc[("reversed", "all"), "n"] == 0
    assert table.loc[("twins", "all"), "verdict"] == "reads"


def test_bad_questions_are_refused(bench: Benchmark) -> None:
    with pytest.raises(RunError, match="twns"):
        listen_vs_read("mini-base", bench, families="twns", progress=False)
    with pytest.raises(RunError, match="no item"):
        listen_vs_read("mini-base", bench, families="reversed", progress=False)  # a rise backwards is its foil
    with pytest.raises(RunError, match="orders=0"):
        listen_vs_read("mini-base", bench, orders=0, progress=False)
    with pytest.raises(RunError, match=r"no item of 'conflikt'; allowed: 'conflict' \(did you mean 'conflict'\?\)"):
        listen_vs_read("mini-base", bench, conditions=["conflict", "conflikt"], progress=False)
    with pytest.raises(RunError, match="no family"):
        listen_vs_read("mini-base", bench, families=[], progress=False)
    with pytest.raises(RunError, match="level=95"):
        listen_vs_read("mini-base", bench, level=95, progress=False)


def test_a_plain_twin_says_what_its_item_says() -> None:
    whole = vp.load_benchmark("mini", tasks="pitch_comparison")
    bench = whole.filter(lambda item: int(str(item.cell)[-4:]) < 6)
    twins = condition(bench, "plain-voice-twin")
    assert {item.condition for item in twins} == {f"{name}/plain-voice" for name in bench.conditions}
    for item in twins:
        assert item.said == bench[item.id].said and item.transcript == bench[item.id].transcript
    found = listen_vs_read("mini-base", bench, families="twins", conditions="congruent", cache=None, progress=False)
    row = found.table.set_index("task").loc["all"]
    # Where the words tell the truth, a reader is pushed towards it by them.
    assert row["verdict"] == "reads" and row["read_low"] > 0 and abs(row["listen"]) < 0.5


def test_a_mapped_question_is_counted_from_its_own_zero() -> None:
    whole = vp.load_benchmark("mini", tasks="speaker_identity_recognition")
    bench = whole.filter(lambda item: item.condition == "conflict" and int(str(item.cell)[-4:]) < 16)
    found = listen_vs_read("mini-pclm-dpo", bench, families="reversed", cache=None, progress=False)
    model, voice = vp.load_model("mini-pclm-dpo"), condition(bench, "reversed")
    empty = condition(voice, "silence")
    assert any(item.foils != bench[item.id].foils for item in voice)
    for item_id, value in found.items.set_index("id")["voice"].items():
        pair = [Asker(model, [part[str(item_id)]], DEFAULT_PROMPT) for part in (voice, empty)]
        heard, silent = (float(one.margins(one.ask())[0]) for one in pair)
        assert value == pytest.approx(heard - silent, abs=2e-3)
    assert len(found.items) >= 4


def test_families_that_need_a_clip_are_told_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = vp.load_benchmark("mini", tasks="gender_prediction").select(conditions="conflict", limit=3)
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "models")
    built = importlib.import_module("builders").qwen2_audio()
    llm = vp.AudioLLM(built.model, built.processor, name="tiny")
    items = [replace(item, audio=ArrayAudio(item.audio.load()[:20_000])) for item in list(bench)[:3]]
    few = Benchmark(items, name="short", source="test")
    with pytest.raises(RunError, match="cannot ask 'tiny' without a clip"):
        listen_vs_read(llm, few, families="unheard", cache=None, progress=False)
    controls = text_controls(llm, few, controls=["question only", "wrong clip"], cache=None, progress=False)
    assert controls.settings["not_asked"] == ["question only"]
    assert "Could not be asked: question only" in repr(controls)
    # A clip that this family cannot take is left out, not the end.
    long = Benchmark([*items, replace(items[0], id="long", audio=ArrayAudio(np.zeros(16_000 * 40, np.float32)))],
                     name="long", source="test")  # fmt: skip
    assert len(Asker(llm, list(long), DEFAULT_PROMPT).items) == 3


@pytest.mark.parametrize(
    ("listen", "read", "verdict"),
    [
        ((1, 2), (-0.1, 0.1), "listens"),
        ((1, 2), (-2, -1), "listens and reads"),
        ((-0.1, 0.1), (-2, -1), "reads"),
        ((-0.1, 0.1), (-0.1, 0.1), "no effect"),
        ((1, 2), (0.5, 1), "inverts the words"),
        ((-2, -1), (-2, -1), "the voice pulls away"),
        ((np.nan, np.nan), (-2, -1), "too few groups"),
    ],
)
def test_the_verdict_is_what_the_intervals_say(listen: tuple[float, float], read: tuple[float, float], verdict: str):
    row = {"listen_low": listen[0], "listen_high": listen[1], "read_low": read[0], "read_high": read[1], "task": "all"}
    assert verdict_of(row, True, {"conflict"}, 0.05) == verdict
    # A manipulated clip may have lost more than its words.
    other = {"inverts the words": "removing the words hurts", "the voice pulls away": "removing the voice helps"}
    assert verdict_of(row, False, {"conflict"}, 0.05) == other.get(verdict, verdict)
    # Words that tell the truth push the other way.
    turned = {**row, "read_low": -read[1], "read_high": -read[0]}
    assert verdict_of(turned, True, {"congruent"}, 0.05) == verdict
    assert verdict_of(row, True, {"conflict", "congruent"}, 0.05) == "mixed conditions"
    # Of one task nothing is said that ten tasks bring about by chance.
    one = {**row, "task": "a", "q_listen": 0.2, "q_read": 0.2}
    assert verdict_of(one, True, {"conflict"}, 0.05) == (verdict if verdict == "too few groups" else "no effect")
    assert verdict_of({**one, "q_listen": 0.01, "q_read": 0.01}, True, {"conflict"}, 0.05) == verdict
