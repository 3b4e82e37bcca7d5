"""Fuzz a reader: ``python tests/fuzz/run.py TARGET --runs N --seed S``; TARGET may be ``all``.

Two engines drive the same harness (`targets.TARGETS`):

* ``atheris`` (coverage-guided, libFuzzer) where it is installed (``pip install atheris``): bytecode of ``vpanalysis``
  is instrumented, inputs that reach new code are kept and mutated further.
* ``hypothesis`` everywhere: seeds with bytes and slices changed at random, joined, cut and repeated.

What an input raises beyond an error of ours is a crash: its bytes are written to ``--crashes`` (default
``fuzz-crashes/``), the program prints them and ends with code 1. ``--replay FILE`` runs one input again. The last line
says how many inputs ran, what of the code they reached, and how many crashed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import logging
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
ENGINES = ("auto", "atheris", "hypothesis")


def mutated(seeds: list[bytes], rng: random.Random) -> bytes:
    """Return a seed with a few changes."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(data) + 1)
        to = min(len(data), at + rng.choice((1, 1, 2, 4, 8, 64)))
        kind = rng.randrange(7)
        if kind == 0:
            data[at:to] = rng.randbytes(to - at)
        elif kind == 1:
            del data[at:to]
        elif kind == 2:
            data[at:at] = data[at:to] * rng.choice((1, 2, 50))
        elif kind == 3:
            data[at:at] = rng.choice(TOKENS)
        elif kind == 4:
            data[at:to] = rng.choice(TOKENS)
        elif kind == 5:
            other = rng.choice(seeds)
            cut = rng.randrange(len(other) + 1)
            data[at:] = other[cut:]
        elif at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        del data[4096:]
    return bytes(data)


TOKENS = (
    b"[", b"]", b"{", b"}", b'"', b",", b":", b"null", b"NaN", b"Infinity", b"1e999", b"-1", b"\\ud800", b"\\u0000",
    b"\0", b"\xff\xff\xff\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n", b"\x1e", b"../", b"/etc/passwd", b"(A)",
    b"not ", b"answer:", b"[" * 2000, b'{"a":' * 1500, b"9" * 4400, b"\xe2\x80\xae", b"\xef\xbc\xad", b"data", b"fmt ",
    b"\0\0\0\x80",
)  # fmt: skip


def examples(seeds: list[bytes], runs: int, seed: int) -> Iterator[bytes]:
    """Yield the seeds, then inputs that hypothesis draws and changes to them."""
    yield from seeds
    rng = random.Random(seed)
    for number in range(max(0, runs - len(seeds))):
        yield rng.randbytes(rng.randrange(200)) if number % 20 == 0 else mutated(seeds, rng)


def with_hypothesis(harness: Callable[[bytes], None], seeds: list[bytes], runs: int, seed: int, crashes: Path) -> int:
    """Run property-based: half of the inputs are hypothesis' own, half are changed seeds. Return how many crashed."""
    import hypothesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    found: dict[str, tuple[str, bytes]] = {}

    def tried(data: bytes) -> None:
        try:
            harness(data)
        except Exception as error:
            # Told apart by where they come from: one mistake has many messages.
            found.setdefault(_told(error).partition(": ")[0], (_told(error), data))

    half = runs // 2
    for data in examples(seeds, runs - half, seed):
        tried(data)
    pieces = st.lists(st.sampled_from(TOKENS) | st.binary(max_size=8) | st.sampled_from(seeds), max_size=12)

    @settings(max_examples=max(1, half), deadline=None, database=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @hypothesis.seed(seed)
    @given(
        pieces.map(b"".join)
        | st.binary(max_size=300)
        | st.text(max_size=200).map(lambda t: t.encode("utf-8", "ignore"))
    )
    def drawn(data: bytes) -> None:
        tried(data)

    drawn()
    for said, data in found.values():
        report(said, data, crashes)
    return len(found)


def _told(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}: {error}"[:300]


def report(said: str, data: bytes, crashes: Path) -> None:
    crashes.mkdir(parents=True, exist_ok=True)
    file = crashes / hashlib.sha256(data).hexdigest()[:16]
    file.write_bytes(data)
    print(f"CRASH {said!r}\n  {data[:120]!r}\n  {file}", flush=True)


def with_atheris(name: str, runs: int, seed: int, crashes: Path) -> int:
    """Run coverage-guided in a process of its own, again after each crash, until `runs` inputs have run."""
    from targets import MEMORY, SEEDS

    done, crashed, reached = 0, 0, ("?", "?")
    with (
        tempfile.TemporaryDirectory(prefix="vpfuzz-corpus-") as corpus,
        tempfile.TemporaryDirectory(prefix="vpfuzz-", dir=MEMORY) as folder,
    ):
        for number, data in enumerate(SEEDS[name]()):
            (Path(corpus) / f"seed{number}").write_bytes(data)
        start: int | None = None
        while done < runs and crashed < 20:
            command = [sys.executable, __file__, name, "--child", corpus, "--runs", str(runs - done), "--seed",
                       str(seed + crashed), "--crashes", str(crashes)]  # fmt: skip
            run = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False,
                                 env={**os.environ, "VPFUZZ_FOLDER": folder})  # fmt: skip
            marks = re.findall(r"^#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+)", run.stderr, flags=re.M)
            if not marks:
                print(run.stderr[-2000:])
                return 1
            start = int(marks[0][1]) if start is None else start
            reached = (marks[-1][1], marks[-1][2])
            ran = int(re.findall(r"^#(\d+)", run.stderr, flags=re.M)[-1])
            done += max(1, ran)
            if run.returncode:
                crashed += 1
                print("\n".join(line for line in run.stdout.splitlines() if line)[-3000:] or run.stderr[-1500:])
        print(f"{name}: coverage {start} -> {reached[0]} places, {reached[1]} features, {len(os.listdir(corpus))} kept")
    print(f"{name}: {done} runs by atheris, {crashed} crashes", flush=True)
    return crashed


def child(name: str, corpus: str, runs: int, seed: int, crashes: Path) -> None:
    """What runs inside the process of libFuzzer."""
    import atheris

    with atheris.instrument_imports(include=["vpanalysis"]):
        from targets import TARGETS

        TARGETS[name](b"")  # what is imported on first use is instrumented too

    def one(data: bytes) -> None:
        try:
            TARGETS[name](data)
        except Exception as error:
            report(_told(error), data, crashes)
            raise

    crashes.mkdir(parents=True, exist_ok=True)
    options = [f"-runs={runs}", f"-seed={seed + 1}", "-max_len=4096", "-timeout=20", "-rss_limit_mb=3000",
               "-print_final_stats=1", f"-artifact_prefix={crashes}/"]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, corpus], one)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("target")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=ENGINES, default="auto")
    parser.add_argument("--crashes", type=Path, default=Path("fuzz-crashes"))
    parser.add_argument("--replay", type=Path, help="run this input once and show what it raises")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    if asked.child is not None:
        child(asked.target, asked.child, asked.runs, asked.seed, asked.crashes)
        return 0
    from targets import SEEDS, TARGETS

    names = list(TARGETS) if asked.target == "all" else [asked.target]
    if names[0] not in TARGETS:
        parser.error(f"no target {asked.target!r}; there are {', '.join(TARGETS)} and all")
    if asked.replay is not None:
        TARGETS[names[0]](asked.replay.read_bytes())
        print("it is fine")
        return 0
    guided = importlib.util.find_spec("atheris") is not None
    engine = asked.engine if asked.engine != "auto" else "atheris" if guided else "hypothesis"
    if engine == "hypothesis":
        # libmpg123 writes remarks of its own about every broken file.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    crashed = 0
    for name in names:
        start = time.monotonic()
        if engine == "atheris":
            crashed += with_atheris(name, asked.runs, asked.seed, asked.crashes)
        else:
            found = with_hypothesis(TARGETS[name], SEEDS[name](), asked.runs, asked.seed, asked.crashes)
            print(f"{name}: {asked.runs} runs by hypothesis, {found} crashes", flush=True)
            crashed += found
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
    return 1 if crashed else 0


if __name__ == "__main__":
    sys.exit(main())
