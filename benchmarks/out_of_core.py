"""What analyses of a Run take when the Run is larger than memory: peak memory and time, by items and by sites.

Usage::

    python benchmarks/out_of_core.py                              # 100,000 items x 3 sites x 1,280 features, 1.5 GB
    python benchmarks/out_of_core.py --items 20000 --sites 12     # another size
    python benchmarks/out_of_core.py --folder /data/run --keep    # a Run that is kept, and found the next time

A Run is written directly (predictions and a zarr store, no model), then every analysis runs in a process of its own,
whose high-water mark of resident memory is read when it is done. ``import`` is a process that only imports; everything
above it is the analysis. Sites are independent of one another, so a few of them at full length show what sixty take:
the same memory, twenty times the time.

One writes a table; ``--json`` keeps the numbers.
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
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

TASK, OPTIONS, STREAMS = "emotion_recognition", ("neutral", "sadness", "anger", "happiness"), ("semantic", "prosody")


def write_run(folder: Path, items: int, sites: int, features: int, *, block_size: int = 256, seed: int = 0) -> Path:
    """Write a finished Run in which the truth is ever better to be heard from site to site, and return its folder.

    Twins of a design cell are conflict and congruent; a speaker has fifty cells, a script a hundred.
    """
    from vpanalysis._blocks import write_marker
    from vpanalysis._manifest import FORMAT, write_json
    from vpanalysis._predictions import Answer, write_predictions
    from vpanalysis._run import STORE_NAME
    from vpanalysis.benchmark.audio import ArrayAudio
    from vpanalysis.benchmark.items import Item
    from vpanalysis.capture.layouts import layout
    from vpanalysis.capture.reducers import Reducer
    from vpanalysis.capture.store import ActivationStore

    rng = np.random.default_rng(seed)
    names = [f"encoder[{number}]" for number in range(sites)]
    plan = {**dict.fromkeys(names, (Reducer.parse("mean"),)), "gate": (Reducer.parse("mean"),)}
    widths = {**dict.fromkeys(names, features), "gate": len(STREAMS)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "predictions").mkdir(exist_ok=True)
    silence = ArrayAudio(np.zeros(160, dtype=np.float32))

    def item(number: int) -> Item:
        cell = number // 2
        truth, other = OPTIONS[cell % 4], OPTIONS[(cell + 1 + cell // 4 % 3) % 4]
        conflict = number % 2 == 0
        return Item(
            id=f"item-{number:06d}", task_name=TASK, question="What does the speaker feel?", choices=OPTIONS,
            letters=("A", "B", "C", "D"), truth=truth, said=(other,) if conflict else (truth,),
            condition="conflict" if conflict else "congruent", foils=(other,), audio=silence, cell=f"cell-{cell:06d}",
            speaker=f"speaker-{cell // 50:04d}", script=f"script-{cell % 101:03d}", transcript="words",
        )  # fmt: skip

    store = ActivationStore.create(
        folder / STORE_NAME, layout(plan, widths), {"task": [TASK] * items}, items=items, block_size=block_size,
        streams=STREAMS,
    )  # fmt: skip
    code = rng.normal(size=(4, features)).astype(np.float32) / np.sqrt(features)
    for block, start in enumerate(range(0, items, block_size)):
        some = [item(number) for number in range(start, min(items, start + block_size))]
        truth = np.array([OPTIONS.index(one.truth) for one in some])
        states: dict[tuple[str, str], Any] = {}
        for number, name in enumerate(names):
            heard = rng.standard_normal((len(some), features), dtype=np.float32)
            states[name, "mean"] = heard + (1.0 + 2.0 * number / max(1, sites - 1)) * code[truth]
        weight = rng.uniform(0.2, 0.8, size=len(some)).astype(np.float32)
        states["gate", "mean"] = np.stack([weight, 1 - weight], axis=1)
        store.write(block, states)
        logits = np.log(rng.dirichlet(np.ones(4), size=len(some)))
        write_predictions(folder, block, some, [Answer(option_logprobs=row.tolist(), seconds=0.01) for row in logits])
        write_marker(folder, block, {"items": len(some)})
    write_json(
        folder / "manifest.json",
        {
            "format": FORMAT,
            "model": {"name": "synthetic", "weights": {}, "answers": True, "streams": list(STREAMS)},
            "benchmark": {"name": "synthetic", "sha": f"{items} {features} {seed}", "items": items},
            "plan": {site: [str(one) for one in kept] for site, kept in plan.items()},
            "block_size": block_size,
            "code": {"version": "0"},
        },
    )
    return folder


def peak_mb() -> float:
    """Return the largest resident memory of this process, in 1e6 bytes.

    Of this program, that is: what ``getrusage`` tells of a fresh process may be its parent's.
    """
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("no VmHWM in /proc/self/status")


def child(verb: str, folder: str, options: dict[str, Any]) -> None:
    """Run one analysis and print what it took."""
    import vpanalysis as vp
    from vpanalysis.probes import probe_layers

    start = time.perf_counter()
    rows: Any = None
    if verb == "score":
        rows = vp.score(folder).table
    elif verb == "gate_mixtures":
        rows = vp.gate_mixtures(folder).table
    elif verb == "probe_layers":
        rows = probe_layers(folder, progress=False, **options).table
    best = float(rows["accuracy"].max()) if verb == "probe_layers" else None
    facts = {"peak_mb": peak_mb(), "seconds": time.perf_counter() - start, "accuracy": best}
    print(json.dumps(facts))


def measure(verb: str, folder: Path, **options: Any) -> dict[str, Any]:
    """Run one analysis in a process of its own."""
    command = [sys.executable, __file__, "--child", verb, "--folder", str(folder), "--options", json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a Run, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--features", type=int, default=1280)
    parser.add_argument("--memory-gb", type=float, default=2.0)
    parser.add_argument("--shuffles", type=int, default=20)
    parser.add_argument("--ridge", action="store_true", help="also ridge with 199 shuffles")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--keep", action="store_true", help="keep the Run in --folder")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--options", default="{}", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.child:
        child(asked.child, str(asked.folder), json.loads(asked.options))
        return 0
    with tempfile.TemporaryDirectory(prefix="out-of-core-") as place:
        folder = asked.folder if asked.keep and asked.folder else Path(place) / "run"
        if not (folder / "manifest.json").is_file():
            write_run(folder, asked.items, asked.sites, asked.features)
        site = 4 * asked.items * asked.features / 1e6
        print(f"{date.today()}, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
        print(f"{asked.items} items x {asked.sites} sites x {asked.features} features: {site:.0f} MB a site\n")
        print(f"{'analysis':46} {'peak MB':>9} {'seconds':>9}")
        probe = {"memory_gb": asked.memory_gb, "group_by": "speaker"}
        plans: list[tuple[str, str, dict[str, Any]]] = [
            ("import", "import", {}), ("score", "score", {}), ("gate_mixtures", "gate_mixtures", {}),
        ]  # fmt: skip
        for count in sorted({1, asked.sites}):
            names = [f"encoder[{n}]" for n in range(count)]
            some = {**probe, "sites": names, "shuffles": asked.shuffles}
            plans.append((f"probe_layers, {count} sites, {asked.shuffles} shuffles", "probe_layers", some))
        if asked.ridge:
            some = {**probe, "sites": ["encoder[0]"], "estimator": "ridge", "shuffles": 199}
            plans.append(("probe_layers, 1 site, ridge, 199 shuffles", "probe_layers", some))
        found = {}
        for title, verb, options in plans:
            found[title] = measure(verb, folder, **options)
            print(f"{title:46} {found[title]['peak_mb']:9.0f} {found[title]['seconds']:9.1f}", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
