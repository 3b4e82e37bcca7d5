"""What a cluster costs: items a second, memory of the driver, and overhead of a block, for 1, 2 and 4 actors.

The model is a stand-in, so cheap that everything around it shows: the tests' tiny model (13 sites, a few thousand
parameters), which for the overhead sleeps in every forward, as a process does that waits for its GPU. Clips are made
from a number, so that a hundred thousand of them lie nowhere. Every case runs in a process of its own, whose peak
memory is the driver's.

The bars: the driver under 1 GB and flat; overhead at most 10 % of a block's compute at the default block size of 64
items; time linear in the items.

    python benchmarks/scale.py --quick                    # a minute: 1 and 2 actors, 1,000 items
    python benchmarks/scale.py --items 1000 10000 100000  # the whole table
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BLOCK, BATCH = 64, 16


@dataclass(frozen=True)
class Tone:
    """A quarter of a second, made of a number."""

    number: int

    def load(self) -> Any:
        import numpy as np

        return np.random.default_rng(self.number).standard_normal(4_000).astype(np.float32) * 0.1

    def key(self) -> str:
        return f"tone-{self.number}"

    def describe(self) -> str:
        return self.key()

    @property
    def duration_s(self) -> float:
        return 0.25


def made_benchmark(items: int) -> Any:
    from vpanalysis.benchmark.items import Benchmark, Item

    return Benchmark(
        (
            Item(
                id=f"item-{n:07d}", task_name="gender_prediction", question="What is the speaker's gender?",
                choices=("Female", "Male"), letters=("A", "B"), truth=("Female", "Male")[n % 2],
                said=(("Male", "Female")[n % 2],), condition="conflict", foils=(("Male", "Female")[n % 2],),
                audio=Tone(n),
            )
            for n in range(items)
        ),
        name="tones", source="benchmarks/scale.py",
    )  # fmt: skip


def peak_mb() -> float:
    """Peak resident memory of this process."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in text.splitlines() if line.startswith("VmHWM")).split()[1]) / 1000


def case(asked: dict[str, Any]) -> dict[str, Any]:
    """Make one Run in this process; return its times and memory."""
    sys.path[:0] = [str(HERE.parent / "tests"), str(HERE)]
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # for the actors
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import scale
    from fakes import FakeLLM

    from vpanalysis import run

    bench = scale.made_benchmark(asked["items"])
    before = peak_mb()
    out = Path(asked["out"])
    engine = {"engine": "ray", "workers": asked["workers"]} if asked["workers"] else {}
    if engine:
        import ray

        from vpanalysis._cluster import loopback

        with loopback():
            ray.init(
                address="local", num_cpus=max(asked["workers"], os.cpu_count() or 1), include_dashboard=False,
                object_store_memory=200 << 20, log_to_driver=False, logging_level="error",
                _node_ip_address="127.0.0.1",
            )  # fmt: skip
    begun = time.time()
    llm = FakeLLM(delay_s=asked["delay_s"])
    made = run(llm, bench, out, block_size=BLOCK, batch_size=BATCH, cache=None, progress=False, **engine)
    wall = time.time() - begun
    ends = sorted(p.stat().st_mtime for p in out.glob("blocks/*.json"))
    # Without the start of the processes: actors end their blocks in waves, and this is from the end of the fourth wave
    # (or the half, of few) to the end of the last.
    waves = min(4, len(ends) // (2 * max(1, asked["workers"]))) or 1
    skip = waves * max(1, asked["workers"]) - 1
    steady = (ends[-1] - ends[skip]) / (len(ends) - 1 - skip)
    assert made.is_complete
    return {**asked, "wall_s": wall, "block_s": steady, "before_mb": before, "peak_mb": peak_mb()}


def measured(**asked: Any) -> dict[str, Any]:
    """Run a case in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "facts.json"
        text = json.dumps({**asked, "out": str(Path(folder) / "run")})
        subprocess.run([sys.executable, str(Path(__file__)), "--case", text, "--json", str(target)], check=True)
        found: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
        return found


def verdict(name: str, value: float, bar: float, unit: str) -> str:
    return f"{'met' if value <= bar else 'MISSED':7s}{name}: {value:.3g} {unit}, at most {bar:g} {unit}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--delay", type=float, default=1.0, help="seconds of a forward, for the overhead")
    parser.add_argument("--blocks", type=int, default=12, help="blocks an actor, for the overhead")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.case:
        asked.json.write_text(json.dumps(case(json.loads(asked.case))), encoding="utf-8")
        return 0
    if asked.quick:
        asked.items, asked.workers, asked.delay, asked.blocks = [1_000], [1, 2], 0.25, 4
    load = os.getloadavg()[0]
    print(f"{platform.platform()}, {os.cpu_count()} cores, load {load:.1f} at the start, {time.strftime('%Y-%m-%d')}")
    print(f"blocks of {BLOCK} items, batches of {BATCH}; workers 0: the one process of engine='local'\n")
    print("No compute but the tiny model's own: what the machinery costs")
    print(f"{'items':>8} {'workers':>8} {'wall s':>8} {'items/s':>9} {'steady items/s':>15} {'driver peak MB':>15}")
    table = []
    for items in asked.items:
        for workers in (0, *asked.workers):
            row = measured(items=items, workers=workers, delay_s=0.0)
            table.append(row)
            print(
                f"{items:8,d} {workers:8d} {row['wall_s']:8.1f} {items / row['wall_s']:9.0f} "
                f"{BLOCK / row['block_s']:15.0f} {row['peak_mb']:15.0f}", flush=True,
            )  # fmt: skip
    compute = BLOCK / BATCH * asked.delay
    print(f"\nA forward of {asked.delay:g} s, {compute:g} s a block: overhead is what a block takes beyond that")
    print(f"{'workers':>8} {'s a block and actor':>20} {'overhead':>9}")
    overheads = []
    for workers in (0, *asked.workers):
        actors = max(1, workers)
        row = measured(items=BLOCK * asked.blocks * actors, workers=workers, delay_s=asked.delay)
        per_block = row["block_s"] * actors
        overheads.append({**row, "overhead": per_block / compute - 1})
        print(f"{workers:8d} {per_block:20.2f} {per_block / compute - 1:9.1%}", flush=True)
    print("\nBars")
    spread = [r for r in table if r["workers"]]
    print(verdict("peak memory of the driver", max(r["peak_mb"] for r in spread), 1_000, "MB"))
    print(verdict("overhead of a block", 100 * max(r["overhead"] for r in overheads if r["workers"]), 10, "%"))
    if len(asked.items) > 1:
        for workers in asked.workers:
            rows = sorted((r for r in spread if r["workers"] == workers), key=lambda r: r["items"])
            growth = (rows[-1]["wall_s"] / rows[0]["wall_s"]) / (rows[-1]["items"] / rows[0]["items"])
            print(verdict(f"time an item, {workers} actors, most against fewest items", growth, 1.2, "times"))
            slope = (rows[-1]["peak_mb"] - rows[0]["peak_mb"]) / (rows[-1]["items"] - rows[0]["items"]) * 1_000
            print(f"       driver memory with {workers} actors: {slope:.2f} MB for every 1,000 items more")
    if asked.json:
        asked.json.write_text(json.dumps({"table": table, "overheads": overheads}), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
