"""How fast is VoxParadox-mini spoken? Clips a second on one core; the promise is at least 40.

``python benchmarks/mini.py [CLIPS]`` speaks clips of all ten tasks with one synthesizer, pinned to one core, and counts
the processor time of both processes (the one that asks, resamples and scales, and the one that speaks and forks) as
well as the wall clock. Other work on the machine slows the second and leaves the first alone, so the promise is judged
on processor time. The exit code is 1 below it.
"""

from __future__ import annotations

import os
import resource
import sys
import time

from vpanalysis.benchmark import TASKS, Item, mini
from vpanalysis.benchmark.mini.synthesis import SAMPLE_RATE, Synthesizer

PROMISED = 40.0


def children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(items: list[Item]) -> tuple[float, float, float]:
    """Return processor seconds, wall seconds, and seconds of speech."""
    before, own, wall = children_s(), time.process_time(), time.perf_counter()
    with Synthesizer() as synthesizer:
        spoken = sum(len(item.audio.speak(synthesizer)) for item in items)
    # The synthesizer's processor time is known once it has ended.
    return time.process_time() - own + children_s() - before, time.perf_counter() - wall, spoken / SAMPLE_RATE


def main(clips: int) -> int:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    each = max(1, clips // len(TASKS))
    print(f"{'task':30} {'clips':>6} {'clips/s (processor)':>20} {'clips/s (wall)':>15} {'speech s/clip':>14}")
    totals = [0.0, 0.0, 0.0]
    count = 0
    for task in TASKS:
        items = list(mini.load(tasks=task))[:each]
        found = measured(items)
        totals = [a + b for a, b in zip(totals, found, strict=True)]
        count += len(items)
        row(task, len(items), *found)
    row("all", count, *totals)
    rate = count / totals[0]
    print(f"{rate:.0f} clips/s on one core; promised: {PROMISED:.0f}; {'kept' if rate >= PROMISED else 'NOT KEPT'}")
    return 0 if rate >= PROMISED else 1


def row(name: str, clips: int, processor: float, wall: float, speech: float) -> None:
    print(f"{name:30} {clips:6} {clips / processor:20.0f} {clips / wall:15.0f} {speech / clips:14.2f}")


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 300))
