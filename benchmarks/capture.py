"""What does it cost to look inside? Every site of one model, by every tool at hand, on the same inputs.

``python benchmarks/capture.py`` builds a random Audio Flamingo 3 and asks each contender for the states of one forward:
the stem, every encoder layer, the tower, the projector (with ``--mixer`` the streams, the gate and the mixture), every
text layer, and the logits of the options. Parity comes first: what a contender hands over must equal what raw hooks
see, bit for bit. Then all take turns in one process, and each runs once more alone in a fresh process, where its memory
is measured. A second table goes on to the disk: what ``run`` writes, against arrays of whole states.

nnsight and TransformerLens are optional (``pip install nnsight transformer-lens``). Both rewrite the modules of the
model that they are given, so each gets modules of its own around the same tensors. A contender that cannot run is
listed with its reason. The exit code is 1 if our own states differ from raw hooks.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _contenders import CONTENDERS, Bare, Contender, Hooks, Lens, Ours, Scene, States, Unavailable, size_of
from _shared import (
    Times,
    benchmark_of,
    bytes_in,
    forget_peak,
    headline,
    in_rounds,
    lengths,
    megabytes,
    peak_bytes,
    quartiles,
    report,
    resident_bytes,
    speak,
    synchronize,
    table,
)

import vpanalysis as vp
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.capture.recorder import Recorder
from vpanalysis.capture.reducers import Plan, make_plan
from vpanalysis.capture.sites import clock_of

# Parity ---------------------------------------------------------------------------------------------------------------


def compare(contender: Contender, found: States, wanted: States) -> dict[str, Any]:
    """Compare what a contender handed over with what raw hooks saw."""
    equal, worst = 0, 0.0
    for site, rows in found.items():
        truth = wanted[site]
        if not contender.whole and clock_of(site) is not None:
            truth = [row.mean(axis=0, dtype=np.float64) for row in truth]
        same = all(np.array_equal(a, b) for a, b in zip(rows, truth, strict=True))
        equal += same
        if not same:
            off = max(float(np.abs(a - b).max()) for a, b in zip(rows, truth, strict=True))
            worst = max(worst, off / max(float(np.abs(b).max()) for b in truth))
    return {"reached": len(found), "bit_equal": equal, "worst_relative": worst}


def verdict(contender: Contender, parity: Mapping[str, Any], sites: int) -> str:
    reach = f"{parity['reached']}/{sites}"
    if not parity["reached"]:
        return "-"
    if parity["bit_equal"] == parity["reached"]:
        return f"{reach} bit-equal"
    return f"{reach} within {parity['worst_relative']:.0e}"


def kept_faithfully(contender: Contender, parity: Mapping[str, Any], sites: int) -> bool:
    """Whether ours passes the gate: all sites; bit-equal where states are whole, means to the last bits of a float."""
    if not isinstance(contender, (Ours, Hooks)):
        return True
    exact = parity["bit_equal"] == sites if contender.whole else parity["worst_relative"] < 1e-5
    return bool(parity["reached"] == sites and exact)


# Measuring ------------------------------------------------------------------------------------------------------------


def one_forward(options: argparse.Namespace) -> tuple[list[str], dict[str, Any], bool]:
    scene = Scene(options)
    contenders: list[Contender] = []
    absent: dict[str, str] = {}
    for kind in CONTENDERS:
        try:
            contenders.append(kind(scene))
        except Unavailable as reason:
            absent[kind.name] = str(reason)
    with torch.inference_mode():
        reference = Hooks(scene)
        kept = reference.run()
        wanted, logits = reference.states(kept), reference.logits(kept)
        facts: dict[str, Any] = {}
        good = True
        for contender in contenders:
            kept = contender.run()
            parity = compare(contender, contender.states(kept), wanted)
            parity["logits_equal"] = bool(torch.equal(contender.logits(kept), logits))
            good &= kept_faithfully(contender, parity, len(scene.sites))
            facts[contender.name] = {**parity, "held_bytes": contender.held(kept), "note": contender.note}
            del kept
        times = in_rounds(
            {c.name: c.run for c in contenders}, options.rounds, warm_up=options.warm_up, device=options.device
        )
        hooks = hooks_alone(scene, reference.run()[1], options)
    rows = []
    for contender in contenders:
        fact = facts[contender.name] | timed(times, contender.name, Bare.name)
        fact["peak_bytes"] = None if options.no_memory else memory_of(contender.name, options)
        facts[contender.name] = fact
        ratio = fact["ratio"] if options.device.startswith("cuda") else fact["cpu_ratio"]
        over = f"{100 * (ratio[1] - 1):+.1f} %"
        spread = f"{100 * (ratio[0] - 1):+.1f} .. {100 * (ratio[2] - 1):+.1f}"
        rows.append([
            contender.name, verdict(contender, fact, len(scene.sites)), "yes" if fact["logits_equal"] else "no",
            f"{1e3 * fact['min_s']:.1f}", f"{1e3 * fact['median_s']:.1f}", f"{1e3 * fact['cpu_s']:.1f}", over, spread,
            megabytes(fact["held_bytes"]),
            "-" if fact["peak_bytes"] is None else megabytes(fact["peak_bytes"]),
        ])  # fmt: skip
    size = size_of(options)
    base = facts[Bare.name]["median_s" if options.device.startswith("cuda") else "cpu_s"]
    lines = [
        f"random AF3{' + PCLM' if options.mixer else ''}: encoder {size.encoder_layers} x {size.encoder_width},"
        f" text {size.text_layers} x {size.text_width}, {options.dtype}; batch {options.batch},"
        f" window {size.window} s, {scene.batch.inputs['input_ids'].shape[1]} text positions;"
        f" {len(scene.sites)} sites and the logits; {options.rounds} rounds after {options.warm_up}",
        "",
        table(
            ["one forward", "sites as in raw hooks", "logits", "min ms", "median", "cpu", "over bare", "quartiles",
             "kept", "peak memory"], rows,
        ),
        "",
        *(f"{c.name}: {c.note}" for c in contenders),
        *(f"{name}: cannot run here: {reason}" for name, reason in absent.items()),
        "over bare: median over rounds of the ratio of processor times (on a GPU of wall times) within a round."
        " peak memory: above that before the forward, in a fresh process.",
        "",
        f"the hooks alone, on states of that forward (shares of the bare forward's {1e3 * base:.1f} ms):",
        *(
            f"  {name}: {1e3 * seconds:.2f} ms, {1e6 * seconds / len(scene.sites):.0f} us a site,"
            f" {100 * seconds / base:.2f} %"
            for name, seconds in hooks.items()
        ),
    ]  # fmt: skip
    lens = next((c for c in contenders if isinstance(c, Lens)), None)
    if lens is not None:
        out = [site for site in scene.sites if site not in lens.points]
        lines.append(f"TransformerLens cannot reach: {', '.join(shortened(out))}")
    return lines, {"forward": facts, "hooks_s": hooks, "absent": absent, "sites": len(scene.sites)}, good


def shortened(sites: Sequence[str]) -> list[str]:
    """Return names with runs of numbers as one."""
    groups = [(kind, list(names)) for kind, names in itertools.groupby(sites, key=lambda site: site.split("[")[0])]
    return [names[0] if len(names) == 1 else f"{kind}[0..{len(names) - 1}]" for kind, names in groups]


def timed(times: Mapping[str, Times], name: str, base: str) -> dict[str, Any]:
    mine, bare = times[name], times[base]
    return {
        "min_s": min(mine.wall),
        "median_s": quartiles(mine.wall)[1],
        "cpu_s": quartiles(mine.cpu)[1],
        "ratio": mine.ratio(bare),
        "cpu_ratio": mine.cpu_ratio(bare),
    }


def hooks_alone(scene: Scene, kept: Mapping[str, torch.Tensor], options: argparse.Namespace) -> dict[str, float]:
    """Return the seconds (CPU: of the processor) that hooks take when the states are there already."""
    stand_ins = {site: torch.nn.Identity() for site in scene.sites}

    def record(plan: Plan) -> None:
        with Recorder(stand_ins.__getitem__, plan) as recorder:
            recorder.expect(scene.spans)
            for site, state in kept.items():
                stand_ins[site](state)
            recorder.take()

    def clone() -> None:
        found = {}
        for site, state in kept.items():
            found[site] = stand_ins[site](state).clone()

    plans = {
        "our recorder, mean": make_plan(scene.llm.sites, reducers="mean"),
        "our recorder, as by default (mean, six segments, last)": make_plan(scene.llm.sites),
        "our recorder, frames": make_plan(scene.llm.sites, reducers="frames"),
    }
    contenders: dict[str, Callable[[], None]] = {name: partial(record, plan) for name, plan in plans.items()}
    times = in_rounds({**contenders, "clone": clone}, options.rounds, warm_up=options.warm_up, device=options.device)
    gpu = options.device.startswith("cuda")
    return {name: quartiles(found.wall if gpu else found.cpu)[1] for name, found in times.items()}


def memory_of(name: str, options: argparse.Namespace) -> int | None:
    """Return the peak memory of one run of a contender in a fresh process."""
    command = [sys.executable, __file__, *options.arguments, "--alone", name]
    # Freed tensors go back to the system at once, so that what is resident is what is in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    try:
        return int(json.loads(done.stdout.strip().splitlines()[-1])["peak"])
    except (IndexError, ValueError, KeyError):
        print(done.stderr[-2000:], file=sys.stderr)
        return None


def alone(options: argparse.Namespace) -> None:
    """Run one contender once, after a bare forward, and print its peak memory above that before it."""
    scene = Scene(options)
    kind = next(kind for kind in CONTENDERS if kind.name == options.alone)
    with torch.inference_mode():
        contender = kind(scene)
        Bare(scene).run()
        contender.run()
        synchronize(options.device)
        if options.device.startswith("cuda"):
            torch.cuda.empty_cache()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        else:
            forget_peak()
            before = resident_bytes()
        kept = contender.run()
        synchronize(options.device)
        peak = torch.cuda.max_memory_allocated() if options.device.startswith("cuda") else peak_bytes()
        del kept
    print(json.dumps({"peak": max(0, peak - before)}))


def to_disk(options: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    """Measure what a Run costs beyond its answers, and what arrays of whole states would take."""
    scene = Scene(options)
    size = size_of(options)
    seconds = lengths(options.items, 0.5 * size.window, longest_s=float(size.window))
    waves = speak(list(seconds))
    bench = benchmark_of(waves, name="clips")
    with tempfile.TemporaryDirectory() as folder:
        numbers = itertools.count()
        last: dict[str, Path] = {}

        def runner(name: str, **more: Any) -> Callable[[], None]:
            def go() -> None:
                last[name] = Path(folder) / f"{next(numbers)}"
                vp.run(
                    scene.llm, bench, last[name], batch_size=options.batch, cache=None, progress=False, **more
                )  # fmt: skip

            return go

        hooks = Hooks(scene)

        def arrays() -> None:
            last["hooks + clone + numpy.save"] = place = Path(folder) / f"{next(numbers)}"
            place.mkdir()
            for start in range(0, len(bench), options.batch):
                items = [bench[i] for i in range(start, min(len(bench), start + options.batch))]
                batch = scene.llm.prepare(items, [item.audio.load() for item in items], DEFAULT_PROMPT)
                mask = batch.inputs["attention_mask"]
                scene.inputs |= {**batch.inputs, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
                with torch.inference_mode():
                    logits, kept = hooks.run()
                for site, state in kept.items():
                    np.save(place / f"{start}-{site}.npy", state.float().cpu().numpy())
                np.save(place / f"{start}-logits.npy", logits[:, -1].float().cpu().numpy())

        contenders: dict[str, Callable[[], None]] = {
            "run, answers only": runner("run, answers only", sites="options"),
            "run, mean at all sites": runner("run, mean at all sites", reducers="mean"),
            "run, as by default": runner("run, as by default"),
            "run, all frames": runner("run, all frames", reducers="frames"),
            "hooks + clone + numpy.save": arrays,
        }
        times = in_rounds(contenders, options.disk_rounds, warm_up=1, device=options.device)
        facts: dict[str, Any] = {}
        rows = []
        gpu = options.device.startswith("cuda")
        for name in contenders:
            written = bytes_in(last[name])
            answers = times["run, answers only"]
            ratio = times[name].ratio(answers) if gpu else times[name].cpu_ratio(answers)
            facts[name] = {"median_s": quartiles(times[name].wall)[1], "bytes": written, "ratio": ratio}
            rows.append([
                name, f"{facts[name]['median_s']:.2f}", f"{len(bench) / facts[name]['median_s']:.1f}",
                f"{100 * (ratio[1] - 1):+.1f} %", megabytes(written), megabytes(written / len(bench)),
            ])  # fmt: skip
    lines = [
        f"from waveform to disk (trim=False), {len(bench)} items, mean {np.mean(seconds):.1f} s,"
        f" batches of {options.batch}, {options.disk_rounds} rounds;"
        " default: mean and six segments at audio sites, last position at text sites",
        "",
        table(["whole run", "median s", "items/s", "over answers", "written", "an item"], rows),
    ]
    return lines, facts


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What it costs to look inside an audio language model.")
    parser.add_argument("--encoder-layers", type=int, default=12)
    parser.add_argument("--encoder-width", type=int, default=256)
    parser.add_argument("--text-layers", type=int, default=8)
    parser.add_argument("--text-width", type=int, default=256)
    parser.add_argument("--window", type=int, default=10, help="seconds of the encoder's window")
    parser.add_argument("--mixer", action="store_true", help="with a prompt-conditioned layer mixer")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--items", type=int, default=32, help="of the runs to disk")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--disk-rounds", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--no-memory", action="store_true", help="skip the fresh processes that measure memory")
    parser.add_argument("--no-disk", action="store_true", help="skip the runs to disk")
    parser.add_argument("--quick", action="store_true", help="a tiny model and two rounds: does it all work?")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    if options.quick:
        options.rounds, options.warm_up, options.disk_rounds, options.batch, options.items = 2, 1, 1, 2, 4
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    if options.alone:
        alone(options)
        return 0
    lines, facts, good = one_forward(options)
    lines = [headline(__file__, options.arguments, options.device), *lines]
    if options.quick:
        lines.insert(1, "a tiny model: it shows that everything works, its numbers mean nothing")
    if not options.no_disk:
        more, facts["disk"] = to_disk(options)
        lines += ["", *more]
    lines.append("our states equal those of raw hooks" if good else "OUR STATES DIFFER FROM THOSE OF RAW HOOKS")
    report(lines, facts, options.json)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
