"""Proof that two machines speak the same clips: digests of the samples, and a coarse look where those cannot agree.

Why it exists. No audio is shipped; every machine synthesizes its own. A number from one machine means something on
another only if both heard the same clips. So the test split's samples were hashed once, and the hashes are committed:
``fingerprints.json`` (a short digest a clip, a full SHA-256 a task) beside this module.

The idea. Equal samples are promised where the synthesizer is the same binary: one version of the eSpeak NG wheel on
Linux x86-64 (found equal with and without the processor's FMA and AVX2 units, and with two releases of the resampler).
Elsewhere, another compiler and another libm move pitch periods by a sample or draw other noise; what a listener hears
stays. There each clip is compared with a coarse log spectrum (``fingerprints.npz``): the mean level, in dB, of seven
octave bands (60 Hz to 7.7 kHz, so that the F0 of men, women and children falls into different ones) in six equal parts
of the clip. The distance of two clips is the mean difference over bands in the worst part. Measured on 400 clips: 1
bit of noise 0.01 dB, other noise from the same voice 0.5 dB at most; the same words in a voice that makes another
option true 0.8 dB at least and 5 dB typically. The tolerance lies between.

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
import itertools
import json
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from vpanalysis._html import html_table, text_table
from vpanalysis.benchmark.items import TASKS, Benchmark, Item
from vpanalysis.benchmark.mini.cells import CELLS_PER_TASK
from vpanalysis.benchmark.mini.items import CONDITIONS, MiniAudio, load, prefetch
from vpanalysis.errors import SchemaError

if TYPE_CHECKING:
    import pandas as pd

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

COMMAND = "python -m vpanalysis.benchmark.mini.fingerprints"
"""What writes the committed files anew."""

TOLERANCE_DB = 1.0
"""Largest distance of two coarse spectra, in dB, at which two clips count as the same."""

TOLERANCE_S = 0.08
"""Largest difference of two durations, in seconds, at which two clips count as the same: one audio token."""

EXACT, NEAR, DIFFERENT = "exact", "within tolerance", "different"

_SPLIT, _KINDS = "test", CONDITIONS[:3]
_CELLS = CELLS_PER_TASK[_SPLIT]
_HERE = Path(__file__).parent
_DIGITS = 8  # hex digits of a clip's short digest
_RATE, _WINDOW, _HOP = 16_000, 1024, 512
_EDGES_HZ = 60.0 * 2.0 ** np.arange(8)
_PARTS, _BANDS = 6, len(_EDGES_HZ) - 1
_FLOOR_DB, _STEPS_PER_DB = -70.0, 3.0  # a byte holds -70 to 15 dB in steps of a third

Samples = NDArray[np.int16]


def digest(samples: Samples) -> str:
    """Return the SHA-256 (hex) of 16-bit samples, little endian."""
    return hashlib.sha256(np.ascontiguousarray(samples, dtype="<i2").tobytes()).hexdigest()


def sixteen_bit(item: Item) -> Samples:
    """Return the clip of an item as 16-bit samples, shape (samples,), 16 kHz, synthesized or from a file."""
    if isinstance(item.audio, MiniAudio):
        return item.audio.samples()
    scaled = np.round(item.audio.load().astype(np.float64) * 32768)
    out: Samples = np.clip(scaled, -32768, 32767).astype(np.int16)
    return out


@functools.cache
def _bands() -> NDArray[np.float64]:
    frequencies = np.fft.rfftfreq(_WINDOW, 1 / _RATE)
    return np.array(
        [(frequencies >= a) & (frequencies < b) for a, b in itertools.pairwise(_EDGES_HZ)],
        dtype=np.float64,
    )


def coarse_spectrum(samples: Samples) -> NDArray[np.uint8]:
    """Return the coarse log spectrum of a clip.

    Parameters
    ----------
    samples : array, shape (samples,), int16
        At 16 kHz.

    Returns
    -------
    array, shape (6, 7), uint8
        Part of the clip by octave band; thirds of a dB above -70 dB re full scale, averaged over 64 ms frames.
    """
    wave = samples.astype(np.float64) / 32768
    wave = np.pad(wave, (0, max(0, _WINDOW + _HOP * (_PARTS - 1) - len(wave))))
    window = np.hanning(_WINDOW)
    frames = np.lib.stride_tricks.sliding_window_view(wave, _WINDOW)[::_HOP] * window
    power = np.abs(np.fft.rfft(frames)) ** 2 * (2 / (_WINDOW * np.sum(window**2)))
    level = 10 * np.log10(power @ _bands().T + 10 ** (_FLOOR_DB / 10))
    parts = np.array([part.mean(axis=0) for part in np.array_split(level, _PARTS)])
    out: NDArray[np.uint8] = np.clip(np.round((parts - _FLOOR_DB) * _STEPS_PER_DB), 0, 255).astype(np.uint8)
    return out


def distance(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return the distance of two coarse spectra in dB: mean over bands, in the part where they differ most."""
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).mean(axis=1).max() / _STEPS_PER_DB)


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


@dataclass(frozen=True)
class Verification:
    """What a comparison with the committed fingerprints found; prints as a table with a verdict.

    Attributes
    ----------
    clips : DataFrame
        A row a clip: id, task_name, verdict ("exact", "within tolerance" or "different"), distance_db (of the coarse
        spectra), shift_s (duration here minus there).
    promised : bool
        Whether exact samples are promised here: the same version of the same synthesizer, on the same kind of system.
    made_with, here : str
        Synthesizer and system of the fingerprints, and of this machine.
    changed : tuple of str
        Tasks whose questions or recipes are no longer those that were fingerprinted.
    broken : tuple of str
        Tasks whose clips were all compared and whose full SHA-256 differs although every short digest agrees.
    """

    clips: pd.DataFrame
    promised: bool
    made_with: str
    here: str
    changed: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """The worst verdict of any clip: "exact", "within tolerance" or "different"."""
        met = set(self.clips["verdict"])
        if DIFFERENT in met or self.broken:
            return DIFFERENT
        return NEAR if NEAR in met else EXACT

    @property
    def ok(self) -> bool:
        """Whether the clips are what they should be here: exact where promised, else within tolerance."""
        return not self.changed and self.verdict in ((EXACT,) if self.promised else (EXACT, NEAR))

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row a task: clips compared, how many had each verdict, the largest distance (dB) and shift (s)."""
        import pandas as pd

        rows = []
        for task in [t for t in TASKS if t in set(self.clips["task_name"])]:
            here = self.clips[self.clips["task_name"] == task]
            counts = {name: int((here["verdict"] == name).sum()) for name in (EXACT, NEAR, DIFFERENT)}
            worst = {"distance_db": here["distance_db"].max(), "shift_s": here["shift_s"].abs().max()}
            rows.append({"task": task, "clips": len(here), **counts, **worst})
        return pd.DataFrame(rows, columns=["task", "clips", EXACT, NEAR, DIFFERENT, "distance_db", "shift_s"])

    def _title(self) -> str:
        return f"VoxParadox-mini spoken here: {self.verdict} ({len(self.clips)} clips compared)"

    def _note(self) -> str:
        lines = [f"fingerprints made with {self.made_with}; here {self.here}"]
        if self.promised:
            lines.append("equal samples are promised here")
        else:
            same = f"at most {TOLERANCE_DB:g} dB and {TOLERANCE_S:g} s apart count as the same"
            lines.append(f"equal samples are not promised here; clips {same}")
        if self.changed:
            lines.append(f"questions or recipes changed since: {', '.join(self.changed)}")
        if self.broken:
            lines.append(f"the digest of the whole task differs: {', '.join(self.broken)}")
        if not self.ok:
            lines.append(f"after a change on purpose, write the fingerprints anew: {COMMAND}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return text_table(self.to_dataframe(), self._title()) + "\n" + self._note()

    def _repr_html_(self) -> str:
        return html_table(self.to_dataframe(), self._title(), self._note())


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
            allowed=f"items of VoxParadox-mini, split {_SPLIT!r}, {_CELLS} cells a task, conditions {', '.join(_KINDS)}",
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
def _standing() -> Benchmark:
    return _split(TASKS)


def _is_standing(item: Item) -> bool:
    """Whether this is the item that was fingerprinted, not its namesake in a split of another number of cells."""
    if item.id not in _standing() or _standing()[item.id] != item:
        return False
    return not isinstance(item.audio, MiniAudio) or item.audio == _standing()[item.id].audio


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
    shift = (len(samples) - known.samples) / _RATE
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
