"""A short round of every fuzz target in the default suite, and the fuzzer itself: it finds and keeps what crashes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from targets import SEEDS, TARGETS

HERE = Path(__file__).resolve().parent


def program():
    spec = importlib.util.spec_from_file_location("fuzz_run", HERE / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(TARGETS))
def test_no_input_raises_anything_but_an_error_of_ours(name: str, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    assert program().with_hypothesis(TARGETS[name], SEEDS[name](), 300, 1, tmp_path / "crashes") == 0, (
        capfd.readouterr()
    )


@pytest.mark.parametrize("name", list(TARGETS))
def test_seeds_reach_what_they_are_seeds_of(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A harness whose seeds were all refused would fuzz the first line of the reader alone."""
    import targets

    reached = []
    for reader in ("parse_answer", "load_benchmark", "items_from_rows", "read_header", "decode_audio"):
        real = getattr(targets, reader)

        def noted(*args, _real=real, **kwargs):
            made = _real(*args, **kwargs)
            reached.append(made)
            return made

        monkeypatch.setattr(targets, reader, noted)
    for data in SEEDS[name]():
        TARGETS[name](data)
    assert len(reached) >= len(SEEDS[name]()) / 2


def test_a_crash_is_named_kept_and_can_be_seen_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def bad(data: bytes) -> None:
        if b"Z" in data:
            raise KeyError("Z")

    crashes = tmp_path / "crashes"
    assert program().with_hypothesis(bad, [b"abc", b"aZ"], 50, 0, crashes) == 1
    (kept,) = crashes.iterdir()
    assert b"Z" in kept.read_bytes() and 'CRASH "KeyError at test_fuzz.py:' in capsys.readouterr().out


def test_the_command_runs_and_counts(tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / "run.py"), "record", "--runs", "40", "--seed", "3", "--engine", "hypothesis"]
    done = subprocess.run([*command, "--crashes", str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "record: 40 runs by hypothesis, 0 crashes" in done.stdout, done.stderr
    (tmp_path / "one").write_bytes(b"{}")
    again = subprocess.run([*command, "--replay", str(tmp_path / "one")], capture_output=True, text=True, timeout=120)
    assert again.returncode == 0 and "it is fine" in again.stdout
