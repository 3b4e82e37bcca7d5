"""Listening and reading on the organism, where it is known who does which; and the conditions that it is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

import vpanalysis as vp
from vpanalysis.attribution import FAMILIES, ListenRead, condition, listen_vs_read, two_player
from vpanalysis.attribution._answers import turned_by
from vpanalysis.attribution._asking import Asker
from vpanalysis.attribution.factorial import _verdict
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
    with pytest.raises(RunError, match="no item of"):
        listen_vs_read("mini-base", bench, conditions=["neutral"], progress=False)


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
    row = {"listen_low": listen[0], "listen_high": listen[1], "read_low": read[0], "read_high": read[1]}
    assert _verdict(row, True) == verdict
    # A manipulated clip may have lost more than its words.
    other = {"inverts the words": "removing the words hurts", "the voice pulls away": "removing the voice helps"}
    assert _verdict(row, False) == other.get(verdict, verdict)
