"""The verbs of attribution print what the functions return, draw it, and keep it in the Run that it explains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import vpanalysis as vp
from vpanalysis import cli
from vpanalysis.attribution import GateResult, ListenRead

ONE = ("--task", "pitch_comparison")


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run the command line in this process, with a cache of its own; return what it printed."""
    monkeypatch.setenv("VPANALYSIS_CACHE", str(tmp_path / "cache"))

    def run(*words: object, code: int = 0) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        assert ended.value.code == code, captured.err
        return captured.out if not code else captured.err

    return run


def _rows(text: str) -> pd.DataFrame:
    found: dict[str, Any] = json.loads(text)
    return pd.DataFrame(found["rows"])


def test_listen_prints_what_the_function_returns_and_keeps_it_in_the_run(
    call: Callable[..., str], tmp_path: Path
) -> None:
    asked = ("listen", "mini-base", "mini", *ONE, "-n", 6, "--family", "twins", "-q")
    picture, kept = tmp_path / "listen.png", tmp_path / "kept"
    rows = _rows(call(*asked, "--json", "--plot", picture, "--save", kept))
    assert picture.stat().st_size > 5_000
    loaded = vp.load_result(kept)
    assert isinstance(loaded, ListenRead)
    assert loaded.table["n"].tolist() == rows["n"].tolist() == [6, 6]
    assert rows["share"].iloc[0] == pytest.approx(loaded.table["share"].iloc[0])
    assert "nats of margin" in call(*asked)


def test_a_result_goes_into_a_run_of_the_same_model_only(call: Callable[..., str], tmp_path: Path) -> None:
    bench = vp.load_benchmark("mini", tasks=[ONE[1]], limit=4)
    run = vp.run("mini-pclm", bench, tmp_path / "run", sites="gate", cache=None, progress=False)
    asked = (*ONE, "-n", 4, "-q", "--set", "mean")
    call("gates", "mini-pclm", "mini", *asked, "--save", run.path)
    (row,) = run.kept().to_dict("records")
    assert row["kind"] == "GateResult" and isinstance(vp.load_result(row["path"]), GateResult)
    said = call("gates", "mini-static", "mini", *asked, "--save", run.path, code=2)
    assert said.startswith("vpanalysis: cannot save the result in the run 'run'")


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("text-controls", "mini-base", "mini", *ONE, "-n", 4, "-c", "question only"), "follows the words"),
        (("patch", "mini-base", "mini", *ONE, "--swap", "words", "-n", 4, "-s", "tower"), "words patched, denoise"),
        (("attend", "mini-base", "mini", *ONE, "-n", 4), "Attention is not attribution"),
        (("fuse", "mini-base", "mini", *ONE, "-n", 4, "-l", "encoder[1]", "-w", 1), "unfused"),
        (("attribute", "mini", "mini", *ONE, "-n", 2, "-m", "occlusion", "--no-faithfulness"), "AttributionResult"),
        (("steer", "mini", "mini", *ONE, "-n", 9, "-s", "mixed"), "not a cure"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_every_verb_prints_a_table(call: Callable[..., str], words: tuple[object, ...], shown: str) -> None:
    assert shown in call(*words, "-q")


def test_lens_reads_a_run_and_is_kept_there(call: Callable[..., str], tmp_path: Path) -> None:
    bench = vp.load_benchmark("mini", tasks=[ONE[1]], limit=6)
    run = vp.run("mini-base", bench, tmp_path / "run", sites="text*", cache=None, progress=False)
    assert "LensResult" in call("lens", run.path, "mini-base", "--save")
    assert run.kept()["kind"].tolist() == ["LensResult"]


def test_a_misspelt_family_is_one_sentence(call: Callable[..., str]) -> None:
    said = call("listen", "mini-base", "mini", *ONE, "-n", 2, "--family", "twinz", code=2)
    assert "did you mean 'twins'?" in said and said.count("\n") == 1
