"""The command line: verbs that call the API, one table, one sentence when something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import soundfile
from fakes import FakeLLM

import vpanalysis
from vpanalysis import _console, cli
from vpanalysis.errors import RunError, SchemaError

VERBS = ("reproduce", "run", "score", "compare", "probe", "mini", "info")


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run the command line in this process."""

    def run(*words: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Result(ended.value.code, captured.out, captured.err)

    return run


def load_fake(name: str, **_: object) -> FakeLLM:
    return FakeLLM(name, head_seed=len(name))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two Runs of a stand-in model, made by the command itself."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("VPANALYSIS_CACHE", str(folder / "cache"))
        monkeypatch.setattr(vpanalysis, "load_model", load_fake, raising=False)
        for name in ("one", "other"):
            with pytest.raises(SystemExit) as ended:
                cli.main(
                    ["run", name, "mini", "--out", str(folder / name), "-t", "gender_prediction", "-n", "36", "-q"]
                )
            assert ended.value.code == 0
    return folder


def one_sentence(result: Result) -> str:
    """Check that a failed call printed one line on standard error and nothing else."""
    assert result.code == 2
    assert result.out == ""
    lines = result.err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("vpanalysis: ")
    return lines[0]


# --- help and errors ---------------------------------------------------------------------------------------------


def test_help_lists_every_verb_with_examples(call: Callable[..., Result]) -> None:
    for words in ((), ("--help",)):
        result = call(*words)
        assert result.code == 0
        assert all(f"  {verb} " in result.out for verb in VERBS)
        assert "Examples:" in result.out


@pytest.mark.parametrize(
    "verb", [*((verb,) for verb in VERBS if verb != "mini"), *(("mini", v) for v in ("export", "render", "info"))]
)
def test_every_verb_has_examples_that_parse_and_a_json_flag(call: Callable[..., Result], verb: tuple[str, ...]) -> None:
    result = call(*verb, "--help")
    assert result.code == 0
    assert "--json" in result.out
    examples = [line.strip() for line in result.out.split("Examples:")[1].splitlines() if line.strip()]
    assert examples
    assert all(line.startswith(f"vpanalysis {' '.join(verb)}") for line in examples)
    for line in examples:
        for word in line.split(">")[0].split("|")[0].split():
            if word.startswith("--"):
                assert word in result.out, f"{word} of {line!r} is no option"


def test_version(call: Callable[..., Result]) -> None:
    assert call("--version").out.strip() == vpanalysis.__version__


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("scor",), "Did you mean 'score'"),
        (("run",), "Missing argument"),
        (("run", "mini", "mini", "--out", "x", "--limit", "none"), "--limit"),
        (("run", "mini", "mini", "--out", "x", "--limit", "0"), "--limit"),
        (("score",), "nothing to score"),
        (("score", "--predictions", "a.jsonl"), "--benchmark"),
        (("score", "a", "--predictions", "a.jsonl", "--benchmark", "mini"), "Run folders and --predictions"),
        (("score", "nowhere"), "no such folder"),
        (("probe", "nowhere"), "no such folder"),
        (("compare", "nowhere", "nowhere"), "no such folder"),
        (("reproduce", "--models", "mini-bas"), "did you mean 'mini-base'"),
        (("mini", "info", "--split", "dev"), "'dev'"),
        (("mini", "render", "gender_prediction/test-9", "a.wav"), "did you mean"),
        (("mini", "render", "gender_prediction/test-0000", "no/where.wav"), "no folder"),
        (("mini", "export", "x", "--task", "gender_predicton"), "did you mean 'gender_prediction'"),
        (("run", "mini", "nothing.json", "--out", "x"), "no such file"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    call: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in one_sentence(call(*words))


def test_an_accident_is_one_sentence_and_exit_code_1(
    call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(vpanalysis, "load_benchmark", broken, raising=False)
    result = call("mini", "info")
    assert result.code == 1
    assert result.err == "vpanalysis: unexpected ZeroDivisionError: division by zero; --debug shows where\n"


@pytest.mark.parametrize("words", [("--debug", "score", "nowhere"), ("score", "nowhere", "--debug")])
def test_debug_raises_wherever_it_stands(words: tuple[str, ...]) -> None:
    with pytest.raises(RunError):
        cli.main(words)


def test_interruption_is_said_and_exits_130(call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(vpanalysis, "load_benchmark", interrupted, raising=False)
    result = call("mini", "info")
    assert result.code == 130
    assert "call it again" in result.err


def test_the_installed_command_answers_without_a_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vpanalysis.cli", "score", "nowhere"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
        timeout=120,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("vpanalysis: cannot open the Run 'nowhere'")


def test_a_sentence_has_no_control_characters() -> None:
    assert _console.as_sentence(SchemaError("a\x1b[31m b\n c")) == "a\ufffd[31m b c"
    assert _console.as_sentence(FileNotFoundError(2, "No such file or directory", "x.wav")) == (
        "No such file or directory: x.wav"
    )
    assert _console.as_sentence(ValueError()) == "ValueError: ValueError"


# --- verbs -------------------------------------------------------------------------------------------------------


def test_run_prints_what_it_did_and_resumes(
    call: Callable[..., Result], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vpanalysis, "load_model", load_fake, raising=False)
    words = ("run", "one", "mini", "--out", runs / "one", "-t", "gender_prediction", "-n", 36, "-q", "--json")
    found = call(*words).json
    assert found["run"] == str(runs / "one")
    assert found["rows"] == [
        {"task_name": "gender_prediction", "condition": condition, "ok": 12}
        for condition in ("conflict", "congruent", "neutral")
    ]
    other = call(*words[:-2], "--json", "--block-size", 8)
    assert "block size" in one_sentence(other)


def test_run_passes_sites_on(call: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vpanalysis, "load_model", load_fake, raising=False)
    words = ("run", "one", "mini", "-o", tmp_path / "r", "-t", "age_prediction", "-n", 3, "-q", "--no-cache")
    assert call(*words, "-s", "encoder[*]", "-s", "tower").code == 0
    assert vpanalysis.open_run(tmp_path / "r").sites == ["encoder[0]", "encoder[1]", "encoder[2]", "tower"]


def test_score_prints_one_run_by_task_and_several_side_by_side(call: Callable[..., Result], runs: Path) -> None:
    alone = call("score", runs / "one")
    assert alone.code == 0
    assert "gender_prediction" in alone.out
    both = call("score", runs / "one", runs / "other")
    assert "one" in both.out
    assert "other" in both.out
    assert "gender_prediction" not in both.out
    assert call("score", runs / "one", runs / "other", "--per-task").out.count("gender_prediction") == 2


def test_score_as_json_is_the_score(call: Callable[..., Result], runs: Path) -> None:
    rows = call("score", runs / "one", "--json").json["rows"]
    score = vpanalysis.score(vpanalysis.open_run(runs / "one"))
    assert len(rows) == len(score.table)
    found = {(row["task"], row["metric"]): row["estimate"] for row in rows}
    assert found["overall", "acc_gt"] == score.value("acc_gt")
    assert all(row["prediction"] == "pred_logits" for row in rows)
    assert "pred_generated" in one_sentence(call("score", runs / "one", "--prediction", "pred_generated"))


def test_score_of_replies_made_elsewhere(call: Callable[..., Result], runs: Path, tmp_path: Path) -> None:
    run = vpanalysis.open_run(runs / "one")
    bench = tmp_path / "vox"
    assert call("mini", "export", bench, "-t", "gender_prediction", "-n", 36, "-q").code == 0
    truths = run.predictions.set_index("id")["truth"]
    lines = [json.dumps({"id": key, "prediction": truth}) for key, truth in truths.items()]
    replies = tmp_path / "replies.jsonl"
    replies.write_text("\n".join(lines[:-1]))
    found = call("score", "--predictions", replies, "--benchmark", bench, "--json").json
    estimates = {(row["task"], row["metric"]): row["estimate"] for row in found["rows"]}
    assert estimates["overall", "acc_gt"] == 1
    assert len(found["replies"]["missing"]) == 1
    assert "1 items without a reply" in call("score", "--predictions", replies, "--benchmark", bench).out


def test_compare(call: Callable[..., Result], runs: Path) -> None:
    text = call("compare", runs / "one", runs / "other")
    assert text.code == 0
    assert "Comparison" in text.out
    rows = call("compare", runs / "one", runs / "other", "--json").json["rows"]
    assert {"task", "metric", "difference", "low", "high", "p"} <= set(rows[0])


def test_probe_prints_and_draws(call: Callable[..., Result], runs: Path, tmp_path: Path) -> None:
    picture = tmp_path / "probe.png"
    words = ("probe", runs / "one", "-s", "encoder[*]", "-s", "tower", "-q")
    text = call(*words, "--plot", picture)
    assert "encoder[2]" in text.out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert str(picture) in text.err
    rows = call(*words, "--target", "claim", "--json").json["rows"]
    assert [row["site"] for row in rows] == ["encoder[0]", "encoder[1]", "encoder[2]", "tower"]
    assert all(row["target"] == "claim" for row in rows)
    assert "claim" in one_sentence(call(*words, "--target", "clam"))


def test_mini_export_can_be_loaded_back(call: Callable[..., Result], tmp_path: Path) -> None:
    found = call("mini", "export", tmp_path / "vox", "-n", 6, "-t", "age_prediction", "-q", "--json").json
    assert found["path"] == str(tmp_path / "vox")
    back = vpanalysis.load_benchmark(tmp_path / "vox")
    assert back == vpanalysis.load_benchmark("mini", limit=6, tasks="age_prediction")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    assert "something else" in one_sentence(call("mini", "export", tmp_path / "full", "-n", 3))


def test_mini_render_writes_the_condition_that_was_asked_for(call: Callable[..., Result], tmp_path: Path) -> None:
    cell, waves = "gender_prediction/test-0000", {}
    for condition in ("conflict", "voice-swap"):
        file = tmp_path / f"{condition}.wav"
        row = call("mini", "render", cell, file, "--condition", condition, "--json").json["rows"][0]
        assert row["condition"] == condition
        waves[condition], rate = soundfile.read(file)
        assert rate == 16_000
        assert row["seconds"] == pytest.approx(len(waves[condition]) / 16_000)
    # The same words by another voice are aligned frame by frame; cutting silence may move an end by a few samples.
    assert abs(len(waves["conflict"]) - len(waves["voice-swap"])) < 1_600
    row = call("mini", "render", cell, tmp_path / "n.wav", "--words", "none", "--voice", "Male", "--json").json["rows"][
        0
    ]
    assert row["truth"] == "Male"
    assert row["said"] == []


def test_mini_info_counts(call: Callable[..., Result]) -> None:
    rows = call("mini", "info", "--json").json["rows"]
    assert len(rows) == 10
    assert {row["conflict"] for row in rows} == {100}
    assert all(row["wordings"] >= 20 for row in rows)
    assert "VoxParadox-mini" in call("mini", "info").out


def test_info_of_the_installation_and_of_a_run(
    call: Callable[..., Result], runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VPANALYSIS_CACHE", str(runs / "cache"))
    about = {row["what"]: row["value"] for row in call("info", "--json").json["rows"]}
    assert about["vpanalysis"] == vpanalysis.__version__
    assert "mini-pclm-dpo" in about["bundled checkpoints"]
    assert about["cache of encoded clips"] == str(runs / "cache")
    found = {row["what"]: row["value"] for row in call("info", runs / "one", "--json").json["rows"]}
    assert found["items"] == "36"
    assert found["model.name"] == "one"
    assert "encoder[0]" in found["sites"]


def test_info_of_a_model(call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpanalysis.models.loading.load_model", load_fake)
    found = {row["what"]: row["value"] for row in call("info", "fake", "--json").json["rows"]}
    assert found["family"] == "fake"
    assert found["sites"].startswith("encoder.stem, encoder[0]")


def test_reproduce_hands_its_options_on(call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Made:
        out, files, seconds, title, note = Path("runs"), (Path("runs/a.csv"),), {"run": 1.0}, "made", "planted"

        def to_dataframe(self) -> pd.DataFrame:
            return pd.DataFrame({"name": ["mini-base"], "estimate": [float("nan")]})

        def __repr__(self) -> str:
            return "the closing table"

    def fake(out: Path, **options: Any) -> Made:
        asked.update(options, out=out)
        return Made()

    monkeypatch.setattr("vpanalysis.reproduce.reproduce", fake)
    found = call("reproduce", "-m", "mini-base,mini-sft", "-m", "mini-pclm", "-n", 9, "--json", "-q").json
    assert asked == {
        "out": Path("runs"), "models": ["mini-base", "mini-sft", "mini-pclm"], "limit": 9, "workers": 2,
        "force": False, "full": False, "progress": False,
    }  # fmt: skip
    assert found["rows"] == [{"name": "mini-base", "estimate": None}]
    assert found["files"] == ["runs/a.csv"]
    assert call("reproduce").out == "the closing table\n"
    assert asked["models"] is None


# --- the printed table -------------------------------------------------------------------------------------------


def test_json_knows_no_nan_and_no_numpy(capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    frame = pd.DataFrame(
        {"a": [np.float32(0.5), float("nan")], "b": [("x", None), np.arange(2)], "c": [pd.NA, True]},
        index=pd.Index(["r", "s"], name="row"),
    )
    _console.emit(frame, as_json=True, title="t", more={"inf": float("inf"), "nothing": None, "set": {1: Path("p")}})
    found = json.loads(capsys.readouterr().out)
    assert found == {
        "title": "t",
        "inf": None,
        "set": {"1": "p"},
        "rows": [{"row": "r", "a": 0.5, "b": ["x", None], "c": None}, {"row": "s", "a": None, "b": [0, 1], "c": True}],
    }
