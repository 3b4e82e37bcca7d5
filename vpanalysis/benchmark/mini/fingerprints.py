"""Proof that two machines speak the same clips: digests of the samples, and a coarse look where those cannot agree.

Why it exists. No audio is shipped; every machine synthesizes its own. A number from one machine means something on
another only if both heard the same clips. So the test split's samples were hashed once, and the hashes are committed:
``fingerprints.json`` (a short digest a clip, a full SHA-256 a task) beside this module.

The idea. Equal samples are promised where the synthesizer is the same binary: one version of the eSpeak NG wheel on
Linux x86-64 (all 3,000 clips were found equal with and without the processor's FMA and AVX2 units, 240 of them with
two older releases of the resampler). Elsewhere another compiler and another libm may move a pitch period by a sample
or draw other noise; what a listener hears stays. There each clip is compared with a coarse log spectrum
(``fingerprints.npz``): the mean level, in dB, of seven octave bands (60 Hz to 7.7 kHz, so that the F0 of men, women and
children falls into different ones) in six equal parts of the clip. The distance of two clips is the mean difference
over bands, in the part where they differ most. Measured on 500 conflict clips: the last bit drawn at random 0.05 dB,
other noise in the same voice 0.9 dB at most, the same words in the voice of the voice-swap twin 6 dB in the median (99
in 100 are further than the tolerance).

So every clip has one of three verdicts: **exact**, **within tolerance**, **different**.

Worked example::

    from vpanalysis.benchmark.mini.fingerprints import verify

    verify()                        # 60 clips, a second: prints a row a task and the verdict
    verify(sample=None)             # all 3,000
    verify(load_benchmark("DIR"))   # a folder written by `vpanalysis mini export`
    verify().ok                     # exact where promised, within tolerance elsewhere

After the audio was changed on purpose, one command writes both files anew, in about half a minute::

    python -m vpanalysis.benchmark.mini.fingerprints            # write
    python -m vpanalysis.benchmark.mini.fingerprints --check    # compare all clips, write nothing
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from vpanalysis.benchmark.items import TASKS, Benchmark, Item
from vpanalysis.benchmark.mini._spectra import RATE, Samples, coarse_spectrum, digest, distance, sixteen_bit
from vpanalysis.benchmark.mini._verification import (
    COMMAND,
    DIFFERENT,
    EXACT,
    NEAR,
    TOLERANCE_DB,
    TOLERANCE_S,
    Verification,
)
from vpanalysis.benchmark.mini.cells import CELLS_PER_TASK
from vpanalysis.benchmark.mini.items import CONDITIONS, MiniAudio, load, prefetch
from vpanalysis.errors import SchemaError

__all__ = [
    "COMMAND",
    "TOLERANCE_DB",
    "TOLERANCE_S",
    "Verification",
    "coarse_spectrum",
    "digest",
    "distance",
    "sixteen_bit",
    "verify",
    "write",
]

_SPLIT, _KINDS = "test", CONDITIONS[:3]
_CELLS = CELLS_PER_TASK[_SPLIT]
_HERE = Path(__file__).parent
_DIGITS = 8  # hex digits of a clip's short digest


# --------------------------------------------------------------------------------------------- the committed files


@dataclass(frozen=True)
class _Clip:
    digest: str
    samples: int
    spectrum: NDArray[np.uint8]


@dataclass(frozen=True)
class _Known:
    """The committed files: clips by id, and per task the digest over all of them and over their recipes."""

    engine: str
    system: str
    clips: dict[str, _Clip]
    tasks: dict[str, str]
    recipes: dict[str, str]


def _table_path(folder: Path) -> Path:
    return folder / "fingerprints.json"


def _array_path(folder: Path) -> Path:
    return folder / "fingerprints.npz"


def _engine() -> str:
    try:
        return f"espeakng-loader {version('espeakng-loader')}"
    except PackageNotFoundError:
        return "none"


def _system() -> str:
    machine = platform.machine().lower()
    return f"{platform.system()} {'x86_64' if machine in ('amd64', 'x86_64') else machine}"


def _split(tasks: Sequence[str]) -> Benchmark:
    return load(split=_SPLIT, tasks=tasks, conditions=_KINDS)


def _recipes(items: Iterable[Item]) -> str:
    """Return a digest over what items ask and how their clips are made, whatever synthesizer is installed."""
    text = hashlib.sha256()
    for item in items:
        recipe = asdict(item.audio.recipe) if isinstance(item.audio, MiniAudio) else None
        text.update(json.dumps([item.content(), item.transcript, recipe], sort_keys=True).encode() + b"\n")
    return text.hexdigest()


def _of_task(digests: Iterable[str]) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


def write(folder: str | Path | None = None, *, tasks: Sequence[str] = TASKS, progress: bool = True) -> Path:
    """Speak the test split and write ``fingerprints.json`` and ``fingerprints.npz``.

    Parameters
    ----------
    folder : str or Path, optional
        Default: beside this module, where they are committed.
    tasks : sequence of str
        All ten for the committed files.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path
        The JSON file.

    Raises
    ------
    AudioError
        If a clip cannot be spoken.
    """
    target = _HERE if folder is None else Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    bench = _split(tasks)
    rows: dict[str, list[str]] = {task: [] for task in tasks}
    spectra, lengths = [], []
    for item, samples in _spoken(bench, progress=progress, label="speak"):
        rows[item.task_name].append(digest(samples))
        spectra.append(coarse_spectrum(samples))
        lengths.append(len(samples))
    arrays = io.BytesIO()
    np.savez_compressed(arrays, spectrum=np.array(spectra, np.uint8), samples=np.array(lengths, np.uint32))
    table = {
        "about": f"VoxParadox-mini, split {_SPLIT!r}: digests of 16-bit samples. Written by: {COMMAND}",
        "engine": _engine(),
        "system": _system(),
        "conditions": list(_KINDS),
        "arrays": hashlib.sha256(arrays.getvalue()).hexdigest(),
        "tasks": {
            task: {
                "clips": len(rows[task]),
                "sha256": _of_task(rows[task]),
                "recipes": _recipes(_split([task])),
                "short": "".join(full[:_DIGITS] for full in rows[task]),
            }
            for task in tasks
        },
    }
    _replace(_array_path(target), arrays.getvalue())
    _replace(_table_path(target), (json.dumps(table, indent=1) + "\n").encode())
    _known.cache_clear()
    return _table_path(target)


@functools.lru_cache(maxsize=4)
def _known(folder: Path) -> _Known:
    asked = f"cannot read the fingerprints of VoxParadox-mini in {str(folder)!r}"
    try:
        table: dict[str, Any] = json.loads(_table_path(folder).read_bytes())
        packed = _array_path(folder).read_bytes()
        if hashlib.sha256(packed).hexdigest() != table["arrays"]:
            raise ValueError("two files that were not written together")
        with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
            spectra, lengths = arrays["spectrum"], arrays["samples"]
        clips: dict[str, _Clip] = {}
        start = 0
        for task, row in table["tasks"].items():
            ids = _split([task]).ids
            # More or fewer clips than there are items is a change of the design; what can be matched still is.
            for number, name in enumerate(ids[: row["clips"]]):
                short = row["short"][_DIGITS * number : _DIGITS * (number + 1)]
                clips[name] = _Clip(short, int(lengths[start + number]), spectra[start + number])
            start += row["clips"]
        return _Known(
            engine=str(table["engine"]),
            system=str(table["system"]),
            clips=clips,
            tasks={task: str(row["sha256"]) for task, row in table["tasks"].items()},
            recipes={task: str(row["recipes"]) for task, row in table["tasks"].items()},
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise SchemaError(asked, found=str(error) or type(error).__name__, fix=f"write them: {COMMAND}") from error


def _spoken(items: Iterable[Item], *, progress: bool, label: str) -> Iterator[tuple[Item, Samples]]:
    """Yield items with their samples; what was not in memory before is not afterwards."""
    queue = list(items)
    held = {item.id for item in queue if isinstance(item.audio, MiniAudio) and item.audio.spoken}
    # One synthesizer is up at once; more of them pay from some hundred clips on.
    workers = min(4, os.cpu_count() or 1) if len(queue) > 150 else 1
    for item in tqdm(prefetch(queue, workers=workers), total=len(queue), desc=label, unit="clip", disable=not progress):
        yield item, sixteen_bit(item)
        if isinstance(item.audio, MiniAudio) and item.id not in held:
            item.audio.release()


# ------------------------------------------------------------------------------------------------- the comparison


def verify(
    benchmark: Benchmark | None = None,
    sample: int | None = 60,
    *,
    random_state: int | np.random.Generator | None = 0,
    folder: str | Path | None = None,
    progress: bool = False,
) -> Verification:
    """Compare clips with the committed fingerprints.

    Parameters
    ----------
    benchmark : Benchmark, optional
        Items of the test split of VoxParadox-mini, synthesized or exported; default: all of it. Items that were not
        fingerprinted are passed over.
    sample : int or None
        How many clips to compare, drawn evenly over tasks; None: all of them.
    random_state : int, Generator or None
        Which clips are drawn.
    folder : str or Path, optional
        Where the two files lie; default: beside this module.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Verification

    Raises
    ------
    SchemaError
        If the files are missing or broken, or `benchmark` holds no item that was fingerprinted.
    AudioError
        If a clip cannot be spoken or read.
    """
    import pandas as pd

    known = _known(_HERE if folder is None else Path(folder))
    bench = _split(list(known.tasks)) if benchmark is None else benchmark
    items = [item for item in bench if item.id in known.clips and _is_standing(item)]
    if not items:
        raise SchemaError(
            f"cannot verify the benchmark {bench.name!r}",
            found=f"none of its {len(bench)} items among those that were fingerprinted",
            allowed=f"VoxParadox-mini, split {_SPLIT!r}, {_CELLS} cells a task, conditions {', '.join(_KINDS)}",
        )
    chosen = items if sample is None else _drawn(items, sample, np.random.default_rng(random_state))
    rows = []
    whole: dict[str, list[str]] = {}
    for item, samples in _spoken(chosen, progress=progress, label="verify"):
        rows.append(_compare(item, samples, known.clips[item.id]))
        whole.setdefault(item.task_name, []).append(digest(samples))
    clips = pd.DataFrame(rows, columns=["id", "task_name", "verdict", "distance_db", "shift_s"])
    exact = set(clips["task_name"]) - set(clips.loc[clips["verdict"] != EXACT, "task_name"])
    broken = [t for t in exact if len(whole[t]) == _count(known, t) and _of_task(whole[t]) != known.tasks[t]]
    return Verification(
        clips=clips,
        promised=_engine() == known.engine and _system() == known.system,
        made_with=f"{known.engine} on {known.system}",
        here=f"{_engine()} on {_system()}",
        changed=tuple(t for t in known.recipes if t in whole and _recipes(_split([t])) != known.recipes[t]),
        broken=tuple(sorted(broken)),
    )


@functools.cache
def _standing() -> dict[str, Item]:
    return {item.id: item for item in _split(TASKS)}


def _is_standing(item: Item) -> bool:
    """Whether this is the item that was fingerprinted, not its namesake in a split of another number of cells."""
    known = _standing().get(item.id)
    return known == item and (not isinstance(item.audio, MiniAudio) or item.audio == known.audio)


def _count(known: _Known, task: str) -> int:
    return sum(name.startswith(f"{task}__") for name in known.clips)


def _drawn(items: Sequence[Item], sample: int, rng: np.random.Generator) -> list[Item]:
    """Return `sample` of the items, as many of each task as of any other (up to one), in their order."""
    if sample < 1:
        raise SchemaError("cannot verify a sample", found=f"sample={sample}", allowed="1 or more, or None for all")
    by_task: dict[str, list[int]] = {}
    for number, item in enumerate(items):
        by_task.setdefault(item.task_name, []).append(number)
    shuffled = [rng.permutation(numbers) for numbers in by_task.values()]
    deepest = max(map(len, shuffled))
    # Tasks in turn, so that any number is spread evenly.
    order = [int(numbers[k]) for k in range(deepest) for numbers in shuffled if k < len(numbers)]
    return [items[k] for k in sorted(order[:sample])]


def _compare(item: Item, samples: Samples, known: _Clip) -> dict[str, object]:
    apart = distance(coarse_spectrum(samples), known.spectrum)
    shift = (len(samples) - known.samples) / RATE
    if digest(samples)[:_DIGITS] == known.digest:
        verdict = EXACT
    else:
        verdict = NEAR if apart <= TOLERANCE_DB and abs(shift) <= TOLERANCE_S else DIFFERENT
    return {
        "id": item.id,
        "task_name": item.task_name,
        "verdict": verdict,
        "distance_db": apart,
        "shift_s": shift,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or with ``--check`` compare all clips with them; return the exit code."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Write or check the fingerprints of VoxParadox-mini.")
    parser.add_argument("--check", action="store_true", help="compare all clips and write nothing")
    parser.add_argument("--folder", type=Path, help="where the two files lie (default: beside the module)")
    options = parser.parse_args(arguments)
    if not options.check:
        print(f"wrote {write(options.folder)}")
    result = verify(sample=None if options.check else 100, folder=options.folder, progress=options.check)
    print(result)
    return 0 if result.ok else 1


if __name__ == "__main__":
    sys.exit(main())
