"""The verb `figures`: what it prints, what it leaves, and how it exits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gallery_demo
import pytest

from vpanalysis import cli
from vpanalysis.figures import _registry


@pytest.fixture(autouse=True)
def _demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_registry, "entries", gallery_demo.entries)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    gallery_demo.write_run(tmp_path / "runs" / "mini-base")
    return tmp_path / "runs"


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; return its exit code and what it printed."""

    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in words])
        captured = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, captured.out, captured.err

    return run


def test_it_builds_from_the_usual_folder_and_says_nothing_else(
    call: Callable[..., tuple[int, str, str]], runs: Path, tmp_path: Path
) -> None:
    code, out, err = call("figures", "-q", "--format", "svg")
    assert (code, err) == (0, "")
    assert "2 of 2 figures and tables in figures" in out
    assert (tmp_path / "figures" / "demo_curve.svg").is_file()
    assert not (tmp_path / "figures" / "demo_curve.png").exists()
    code, out, _ = call("figures", "-q", "--format", "svg", "--json")
    said: dict[str, Any] = json.loads(out)
    assert code == 0 and said["written"] == [] and said["stale"] == []
    assert [(row["id"], row["state"]) for row in said["rows"]] == [
        ("demo_curve", "unchanged"), ("demo_table", "unchanged"),
    ]  # fmt: skip


def test_progress_is_shown_on_standard_error(call: Callable[..., tuple[int, str, str]], runs: Path) -> None:
    code, out, err = call("figures", runs, "--only", "demo_table", "--format", "svg,png")
    assert code == 0 and "draw" in err and "draw" not in out


def test_refusals_are_listed_with_their_command_and_end_in_three(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, out, err = call("figures", "-q", "--format", "svg")
    assert code == 3
    assert err == ("not drawn: demo_curve: no Run with values; record it: vpanalysis run mini mini --out runs/mini\n")
    assert "1 of 2" in out and (tmp_path / "figures" / "demo_table.svg").is_file()
    code, out, err = call("figures", "-q", "--json", "--format", "svg")
    row = next(row for row in json.loads(out)["rows"] if row["id"] == "demo_curve")
    assert code == 3 and row["record"] == "vpanalysis run mini mini --out runs/mini"


def test_check_exits_with_four_when_something_is_stale_and_draws_nothing(
    call: Callable[..., tuple[int, str, str]], runs: Path, tmp_path: Path
) -> None:
    assert call("figures", "--check")[0] == 4
    assert not (tmp_path / "figures").exists()
    assert call("figures", "-q", "--format", "svg")[0] == 0
    code, out, err = call("figures", "--check")
    assert (code, err) == (0, "") and "6 current" in out
    gallery_demo.write_run(runs / "mini-base", prompt__sha="other")
    before = (tmp_path / "figures" / "manifest.json").read_bytes()
    code, out, err = call("figures", "--check", "--json")
    assert code == 4 and "build them again" in err
    assert {row["file"] for row in json.loads(out)["rows"] if row["state"] == "stale"} == {
        "demo_curve.csv", "demo_curve.svg",
    }  # fmt: skip
    assert (tmp_path / "figures" / "manifest.json").read_bytes() == before
    assert call("figures", "--check", "--only", "demo_table")[0] == 0
    assert call("figures", "--check", "--only", "demo_curve")[0] == 4


def test_what_was_never_claimed_is_no_reason_to_fail_a_check(call: Callable[..., tuple[int, str, str]]) -> None:
    assert call("figures", "-q", "--format", "svg")[0] == 3
    code, out, _ = call("figures", "--check")
    assert code == 0 and "not drawn" in out


def test_list_needs_no_run(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, out, _ = call("figures", "--list")
    assert code == 0 and "demo_curve" in out and "Figure 3" in out
    rows = json.loads(call("figures", "--list", "--json")[1])["rows"]
    assert [row["id"] for row in rows] == ["demo_curve", "demo_table"] and "caption" in rows[0]
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--only", "demo_curv"), "did you mean 'demo_curve'"),
        (("--check", "--only", "demo_curv"), "did you mean 'demo_curve'"),
        (("--style", "papr"), "did you mean 'paper'"),
        (("--format", "pgn"), "did you mean 'png'"),
        (("nowhere",), "no such folder"),
        (("--jobs", "0"), "--jobs"),
    ],
)
def test_bad_input_is_one_sentence_and_two(
    call: Callable[..., tuple[int, str, str]], runs: Path, words: tuple[str, ...], said: str
) -> None:
    code, out, err = call("figures", "-q", *words)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1 and said in err


def test_help_has_examples_that_parse(call: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = call("figures", "--help")
    assert code == 0
    for line in out.split("Examples:")[1].splitlines():
        for word in line.split("#")[0].split():
            if word.startswith("--"):
                assert word in out.split("Examples:")[0]
