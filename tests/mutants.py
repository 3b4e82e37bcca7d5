"""Planted faults: does a test turn red when the package is wrong?

Why it exists. A green suite says nothing about the mistakes that it would not see. In this field they are quiet ones: a
layer off by one, padding in a mean, twins on both sides of a fold, all of which give plausible numbers. So every such
mistake is written down once (`faults.py`), planted in a copy of the package, and has to turn a test of the default
suite red.

The idea. The working tree is copied, never touched. A fault is an exact replacement of text that occurs once, with the
few tests that must notice. Those tests run once on the untouched copy, where all must pass, and once under each fault,
where one must fail; a fault that does not even let the package be imported proves nothing and counts as broken. The
libraries are imported once, and each run is a fork of that process, which saves most of the time.

Usage::

    python tests/mutants.py                                # all faults, two to three minutes on one core
    python tests/mutants.py --only padding-pooled          # one or, repeated, several; * stands for anything
    python tests/mutants.py --json                         # the table as JSON

The exit code is 0 when every fault was caught, 1 when one survived, is broken, or no longer fits the source, and 2 for
a name that does not exist. `test_mutants.py` checks in the default suite that all faults still fit.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import importlib
import importlib.util
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from faults import FAULTS, Fault

ROOT = Path(__file__).resolve().parent.parent
_COPIED = ("vpanalysis", "tests", "pyproject.toml", "README.md")
# Seconds after which a test, and a whole run, count as hanging.
_TEST_LIMIT, _RUN_LIMIT = 300, 900
# Imported before the first fork; nothing that imports the package may be among them.
_LIBRARIES = (
    "hypothesis", "matplotlib.pyplot", "numpy", "pandas", "pyarrow.parquet", "pytest", "safetensors.torch",
    "scipy.stats", "sklearn.linear_model", "sklearn.model_selection", "soundfile", "soxr",
    "statsmodels.stats.multitest", "torch", "transformers",
    "transformers.models.audioflamingo3.modeling_audioflamingo3",
    "transformers.models.audioflamingo3.processing_audioflamingo3", "transformers.models.bert.modeling_bert",
    "transformers.models.qwen2.modeling_qwen2", "xarray", "zarr",
)  # fmt: skip


@dataclass(eq=False)
class Watch:
    """A pytest plugin that notes how tests ended. Hashable, as plugins must be."""

    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            # A test that ran out of time on a busy machine has noticed nothing.
            late = "from pytest-timeout" in report.longreprtext
            (self.broken if late else self.failed).append(report.nodeid)
        elif report.passed and report.when == "call":
            self.passed.append(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.broken.append(report.nodeid)


@dataclass(frozen=True)
class Verdict:
    """What became of one fault: a row of the table."""

    fault: str
    where: str
    what: str
    verdict: str
    test: str
    seconds: float

    @property
    def caught(self) -> bool:
        return self.verdict == "caught"


def misfits(faults: Iterable[Fault], root: Path = ROOT) -> dict[str, str]:
    """Return, for each fault that does not fit the source, what is wrong with it."""
    found = {}
    for fault in faults:
        path = root / fault.file
        if not path.is_file():
            found[fault.name] = f"no file {fault.file}"
            continue
        count = path.read_text(encoding="utf-8").count(fault.old)
        if count != 1:
            found[fault.name] = f"its text occurs {count} times in {fault.file}, not once"
        elif fault.new == fault.old:
            found[fault.name] = "it changes nothing"
        else:
            lost = [test for test in fault.tests if not _defines(root, test)]
            if lost or not fault.tests:
                found[fault.name] = f"no test {lost[0]}" if lost else "no test is named"
    return found


def _defines(root: Path, test: str) -> bool:
    """Whether the file of a node id exists and holds a function of its name."""
    file, _, name = test.partition("::")
    path = root / file
    return path.is_file() and (not name or f"def {name.split('[')[0]}(" in path.read_text(encoding="utf-8"))


def copy_of(root: Path, target: Path) -> Path:
    """Copy what the tests need."""
    ignore = shutil.ignore_patterns("__pycache__", ".*")
    for name in _COPIED:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=ignore)
        elif source.is_file():
            shutil.copy2(source, target / name)
    return target


def _settings() -> None:
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", MPLBACKEND="Agg")
    # A changed file of the same size and second would otherwise be taken for the one that was compiled before.
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True


def _import_libraries() -> None:
    for name in _LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    assert "vpanalysis" not in sys.modules


def _tested(copy: Path, tests: Sequence[str], first: bool, log: Path, answer: Connection) -> None:
    """Run tests against the copy; the whole life of a forked process."""
    with log.open("w") as handle:
        os.dup2(handle.fileno(), 1)
        os.dup2(handle.fileno(), 2)
    os.chdir(copy)
    # Ahead of the installed package, also for processes that a test starts.
    sys.path[:] = [str(copy), *(p for p in sys.path if Path(p or ".").resolve() not in (ROOT, ROOT / "tests"))]
    os.environ["PYTHONPATH"] = str(copy)
    # What one fault left in a cache must not reach another.
    os.environ["VPANALYSIS_CACHE"] = tempfile.mkdtemp(dir=copy.parent)
    for name in ("faults", "mutants"):
        sys.modules.pop(name, None)
    spec = importlib.util.find_spec("vpanalysis")
    assert spec is not None and str(spec.origin).startswith(str(copy)), spec
    import hypothesis
    import pytest

    # That a test fails is enough; the smallest example of it is not needed, nor remembered for the next fault. And it
    # must fail for its reason, not because the machine was busy.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutants", phases=phases, database=None, deadline=None)
    hypothesis.settings.load_profile("mutants")
    watch = Watch()
    options = [
        "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "--timeout", str(_TEST_LIMIT), "--basetemp",
        tempfile.mkdtemp(dir=copy.parent), "--rootdir", str(copy), "-c", str(copy / "pyproject.toml"),
    ]  # fmt: skip
    pytest.main([*options, *(["-x"] if first else []), *tests], plugins=[watch])
    answer.send(asdict(watch))
    answer.close()
    # Nothing of the parent's is to be torn down here.
    sys.stdout.flush()
    os._exit(0)


def run_tests(copy: Path, tests: Sequence[str], *, first: bool = False) -> tuple[Watch, str]:
    """Run tests against the copy in a process of its own.

    Parameters
    ----------
    copy : Path
        From `copy_of`.
    tests : sequence of str
        Node ids.
    first : bool
        Stop at the first failure.

    Returns
    -------
    watch : Watch
    log : str
        What pytest printed.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    log = copy.parent / "pytest.log"
    process = context.Process(target=_tested, args=(copy, list(tests), first, log, theirs))
    process.start()
    theirs.close()
    watch = Watch(broken=["the tests did not end"])
    with contextlib.suppress(EOFError):
        if ours.poll(_RUN_LIMIT):
            watch = Watch(**ours.recv())
    if process.is_alive():
        process.join(5)
        process.kill()
    process.join()
    return watch, log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""


def _belongs(nodeid: str, test: str) -> bool:
    return nodeid == test or nodeid.startswith((f"{test}[", f"{test}::"))


def try_fault(copy: Path, fault: Fault) -> Verdict:
    """Plant a fault, run its tests, and take it out again."""
    path = copy / fault.file
    source = path.read_text(encoding="utf-8")
    start = time.monotonic()
    try:
        path.write_text(source.replace(fault.old, fault.new), encoding="utf-8")
        watch, log = run_tests(copy, fault.tests, first=True)
    finally:
        path.write_text(source, encoding="utf-8")
    if watch.failed:
        verdict, test = "caught", watch.failed[0]
    elif watch.broken or not watch.passed:
        verdict, test = "BROKEN", (watch.broken or ["no test ran"])[0] + "\n" + log[-2000:]
    else:
        verdict, test = "SURVIVED", ""
    return Verdict(fault.name, fault.file, fault.what, verdict, test, round(time.monotonic() - start, 1))


def _before(copy: Path, faults: Sequence[Fault]) -> dict[str, str]:
    """Return, for each fault, which of its tests does not pass without it."""
    # In the order of the suite: what a test leaves in a shared model must not be met sooner than there.
    tests = sorted({test for fault in faults for test in fault.tests}, key=lambda test: test.partition("::")[0])
    watch, log = run_tests(copy, tests)
    if watch.broken or not watch.passed:
        # Then the tests are at fault, or what surrounds them.
        print(log[-3000:], file=sys.stderr)
    found = {}
    for fault in faults:
        for test in fault.tests:
            red = [n for n in (*watch.failed, *watch.broken) if _belongs(n, test)]
            if red or not any(_belongs(n, test) for n in watch.passed):
                found[fault.name] = red[0] if red else f"{test} (did not run)"
    return found


_LINE = "{:<30} {:<38} {:<9} {:>6}  {}"


def _show(row: Verdict, *, quiet: bool) -> None:
    line = _LINE.format(
        row.fault, row.where.removeprefix("vpanalysis/"), row.verdict, row.seconds, row.test.removeprefix("tests/")
    )
    print(line, file=sys.stderr if quiet else sys.stdout, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(description="Plant faults in a copy of the package; each must turn a test red.")
    parser.add_argument("--only", action="append", metavar="NAME", help="only this fault; repeatable; * is wild")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    asked = parser.parse_args(arguments)
    chosen = [f for f in FAULTS if asked.only is None or any(fnmatch.fnmatch(f.name, p) for p in asked.only)]
    if not chosen:
        print(f"no fault {asked.only}; allowed: {', '.join(f.name for f in FAULTS)}", file=sys.stderr)
        return 2
    wrong = misfits(chosen)
    rows = [Verdict(f.name, f.file, f.what, "MISFIT", wrong[f.name], 0.0) for f in chosen if f.name in wrong]
    chosen = [f for f in chosen if f.name not in wrong]
    _settings()
    _import_libraries()
    print(_LINE.format("fault", "where", "verdict", "s", "caught by"), file=sys.stderr if asked.json else sys.stdout)
    with tempfile.TemporaryDirectory(prefix="vpanalysis-mutants-") as place:
        copy = copy_of(ROOT, Path(place).resolve() / "copy")
        red = _before(copy, chosen) if chosen else {}
        for fault in chosen:
            if fault.name in red:
                row = Verdict(fault.name, fault.file, fault.what, "RED BEFORE", red[fault.name], 0.0)
            else:
                row = try_fault(copy, fault)
            rows.append(row)
            _show(row, quiet=asked.json)
    for row in rows:
        if row.verdict == "MISFIT":
            _show(row, quiet=asked.json)
    if asked.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    caught = sum(row.caught for row in rows)
    total = sum(row.seconds for row in rows)
    print(f"{caught} of {len(rows)} faults caught in {total:.0f} s", file=sys.stderr if asked.json else sys.stdout)
    return 0 if caught == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
