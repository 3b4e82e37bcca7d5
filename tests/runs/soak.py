"""Runs that are killed at random moments and resumed, each compared with one that never was.

Why it exists. That a Run survives being killed is a promise about every moment of it, and a test that picks its moments
knows only those it thought of. Here a seed picks them: half by the clock, half as the n-th change to the file system.

The idea. One reference. Then every run is killed (SIGKILL) one to three times, each time after it went on; after every
kill the finished blocks are read against their checksums and compared with the reference; at last the run is left alone
and must equal the reference value for value, predictions and states, with nothing half-written left behind.

::

    python tests/runs/soak.py --runs 100 --log benchmarks/results/2026-11-29-soak.txt
    python tests/runs/soak.py --runs 20 --engine ray --log benchmarks/results/2026-11-29-soak-ray.txt
    python tests/runs/soak.py --runs 10 --model mini

With Ray the driver is what is killed; its actors, in processes of their own on a cluster that stays, die by Ray's hand
in the middle of whatever they were writing. Most of a driver's time and of its changes to the file system go to its
joining the cluster; so there the clock starts when it holds the Run's lock, and picks nearly all of the moments.

What it cannot show: that the disk has what the system says it has. That is a loss of power, not of a process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from vpanalysis import open_run
from vpanalysis._cluster import loopback
from vpanalysis._manifest import code_version
from vpanalysis._predictions import PREDICTION_COLUMNS
from vpanalysis.runs import Run

ITEMS = 26


class Forker:
    """Starts runs in processes of their own, forked from one that has everything imported."""

    def __init__(self, **asked) -> None:
        self.asked = {"delay_s": 0.004, "items": ITEMS, **asked}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("killable.py"))], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def start(self, out: Path, **asked) -> int:
        asked = {**self.asked, "out": str(out), "cache": str(out) + "-cache", **asked}
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def status(self) -> int:
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


def table_of(run: Run) -> list[list[object]]:
    """Return the predictions as values that can be compared, missing ones as None."""
    return [
        [None if pd.api.types.is_scalar(v) and pd.isna(v) else v for v in run.predictions[column]]
        for column in PREDICTION_COLUMNS
    ]


def states_of(run: Run) -> dict[tuple[str, str], np.ndarray]:
    return {(s, r): run.states(s, r) for s in run.sites for r in run.reducers(s)}


def different(made: Run, whole: tuple) -> list[str]:
    """Return in what the finished blocks of a Run differ from the reference: nothing, value for value."""
    table, states, size = whole
    rows = [r for b in made.finished_blocks for r in range(b * size, min(made.n_items, (b + 1) * size))]
    found = [
        column for column, mine, theirs in zip(PREDICTION_COLUMNS, table_of(made), table, strict=True)
        if mine != [theirs[row] for row in rows]
    ]  # fmt: skip
    if rows:
        for key, mine in states_of(made).items():
            theirs = states[key][rows]
            # An unfinished Run offers at most as many options as its items do.
            theirs = theirs[:, : mine.shape[1]] if key[0] == "options" else theirs
            if not np.array_equal(mine, theirs, equal_nan=True):
                found.append(str(key))
    return found


def wait_for_lock(out: Path, pid: int) -> float:
    """Return when a process holds the lock of its Run, or when it has ended, on the monotonic clock."""
    while True:
        now = time.monotonic()
        with contextlib.suppress(OSError):
            if f"process {pid} " in (out / "run.lock").read_text():
                return now
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return now
        time.sleep(0.005)


def one(forker: Forker, out: Path, whole: tuple, seed: str, seconds: float, changes: int, ray: bool) -> dict:
    """Kill and resume one run; return what happened."""
    rng = random.Random(seed)
    kills, problems = [], []
    for _ in range(rng.choice([1, 1, 2, 3])):
        by_clock = rng.random() < (0.9 if ray else 0.5)
        moment = rng.random()
        if by_clock:
            pid = forker.start(out)
            if ray:
                wait_for_lock(out, pid)
            time.sleep(moment * seconds)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            when = f"{moment * seconds:.3f} s"
        else:
            at = 1 + int(moment * changes)
            forker.start(out, die_at=at)
            when = f"change {at}"
        status = forker.status()
        died = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if not died and status != 0:
            problems.append(f"ended with status {status}")
        blocks = 0
        if (out / "manifest.json").exists():
            part = open_run(out)
            blocks = len(part.finished_blocks)
            if blocks and not part.verify().ok:
                problems.append(f"damaged after a kill at {when}: {part.verify().sentence}")
            problems += [f"{what} differs after a kill at {when}" for what in different(part, whole)]
        kills.append(f"{when if died else 'finished before ' + when} ({blocks} blocks)")
        if ray and not died:
            break  # a Run that is finished is only opened by the next call, and a driver takes seconds to start
    forker.start(out)
    status = forker.status()
    if status != 0:
        problems.append(f"could not be resumed: status {status}")
    else:
        made = open_run(out)
        if not made.is_complete:
            problems.append("not complete")
        problems += [f"{what} differs" for what in different(made, whole)]
        left = [p.name for p in out.rglob("*") if p.name.endswith((".part", ".partial"))]
        problems += [f"{name} left behind" for name in left]
    return {"kills": kills, "problems": problems}


def soak(
    folder: Path, runs: int, *, seed: int = 0, engine: str = "default", model: str = "fake", bench: str = "mini",
    items: int = ITEMS, tell: Callable[[str], object] = print,
) -> list[dict]:  # fmt: skip
    """Kill and resume `runs` runs; return one dict a run with ``kills`` and ``problems``."""
    with contextlib.ExitStack() as stack:
        settings = {} if engine == "default" else {"settings": stack.enter_context(settings_of(engine))}
        # Half a second of work, so that a driver is not done before it can be killed.
        slow = {"delay_s": 0.1} if engine == "ray" else {}
        forker = Forker(model=model, bench=bench, items=items, **settings, **slow)
        stack.callback(forker.close)
        plain = {"settings": {}} if settings else {}
        # The first warms the disk's cache and is the reference; the second says how long one takes.
        for name in ("reference", "timed"):
            start = time.monotonic()
            asked = plain if name == "reference" else {"changes": str(folder / "changes")}
            pid = forker.start(folder / name, **asked)
            if name == "timed" and engine == "ray":
                start = wait_for_lock(folder / name, pid)
            assert forker.status() == 0, "the reference failed"
            seconds = time.monotonic() - start
        if engine == "ray":
            seconds *= 0.6  # the next one may be quicker, and is to be killed all the same
        changes = int((folder / "changes").read_text())
        reference = open_run(folder / "reference")
        whole = (table_of(reference), states_of(reference), reference.block_size)
        tell(f"reference: {reference.n_blocks} blocks, {seconds:.2f} s, {changes} changes to the file system")
        made = []
        for number in range(runs):
            out = folder / f"run-{number:03d}"
            found = one(forker, out, whole, f"{seed}/{number}", seconds, changes, engine == "ray")
            made.append(found)
            tell(f"{number:3d}  killed at {'; '.join(found['kills'])}; {'; '.join(found['problems']) or 'equal'}")
            shutil.rmtree(out, ignore_errors=True)
            shutil.rmtree(str(out) + "-cache", ignore_errors=True)
        return made


@contextlib.contextmanager
def settings_of(engine: str) -> Iterator[dict[str, object]]:
    """Give what `vpanalysis.run` is asked for besides, and keep a cluster for it."""
    if engine != "ray":
        yield {"engine": engine}
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    # The processes of the cluster find the stand-in model as they would find an installed package.
    here = Path(__file__).resolve().parent
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(here.parent), str(here), *sys.path])
    try:
        with loopback():  # all the while: who joins such a cluster by its address must take that at its word
            ray.init(
                address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 << 20,
                log_to_driver=False, logging_level="error", _node_ip_address="127.0.0.1",
            )  # fmt: skip
            yield {"engine": "ray", "workers": 2, "address": ray.get_runtime_context().gcs_address}
    finally:
        ray.shutdown()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", default="default", help="handed to vpanalysis.run; 'default' leaves it out")
    parser.add_argument("--model", default="fake", help="'fake' is the tests' stand-in; else what load_model takes")
    parser.add_argument("--bench", default="mini", help="with another model: what load_benchmark takes")
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--log", type=Path, help="also write what is printed to this file")
    asked = parser.parse_args()
    lines: list[str] = []

    def tell(text: str) -> None:
        print(text, flush=True)
        lines.append(text)

    start = time.monotonic()
    tell(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}, {platform.machine()}, "
         f"{os.cpu_count()} cores; code {code_version()['sha']}")  # fmt: skip
    tell(f"soak.py --runs {asked.runs} --seed {asked.seed} --engine {asked.engine} --model {asked.model} "
         f"--items {asked.items}")  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="vpanalysis-soak-") as folder:
        made = soak(
            Path(folder), asked.runs, seed=asked.seed, engine=asked.engine, model=asked.model, bench=asked.bench,
            items=asked.items, tell=tell,
        )  # fmt: skip
    bad = sum(bool(found["problems"]) for found in made)
    kills = sum(not kill.startswith("finished") for found in made for kill in found["kills"])
    tell(f"{len(made)} runs, {kills} kills, {len(made) - bad} equal to the reference, {bad} not; "
         f"{time.monotonic() - start:.0f} s")  # fmt: skip
    if asked.log is not None:
        asked.log.parent.mkdir(parents=True, exist_ok=True)
        asked.log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
