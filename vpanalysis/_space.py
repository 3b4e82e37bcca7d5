"""What a Run will write, said before it writes, and refused when it does not fit.

A full disk in the middle of the night costs more than a sentence at the start. The cache of encoded clips is only a
convenience: where it might not fit, the Run goes on without it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from vpanalysis import _blocks
from vpanalysis._places import is_local
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    from vpanalysis._worker import ModelFacts, Setup
    from vpanalysis.benchmark.items import Benchmark
    from vpanalysis.capture.layouts import Variable

__all__ = ["check_space", "human_bytes", "say"]

_ROW_BYTES = 2_000  # of a prediction, generously
_SPARE = 64 << 20  # bytes left free on the disk, for markers, logs and whatever else writes there


def check_space(
    setup: Setup,
    told: ModelFacts,
    bench: Benchmark,
    variables: Sequence[Variable],
    manifest: Mapping[str, Any],
    cache_bytes: int,
    progress: bool,
) -> bool:
    """Print what will be written; refuse when it does not fit; return whether there is room for a cache of clips."""
    folder, size, items = setup.folder, int(manifest["block_size"]), len(bench)
    blocks = -(-items // size)
    done = set(_blocks.finished_blocks(folder, blocks))
    to_do = sum(min(items, (b + 1) * size) - b * size for b in range(blocks) if b not in done)
    per_item = sum(v.bytes_per_item for v in variables) // (2 if manifest["store_dtype"] == "float16" else 1)
    wanted = to_do * (per_item + _ROW_BYTES)
    text = f"{told.name} on {bench.name}: {to_do} of {items} items to do, {len(setup.plan)} sites; "
    text += f"{human_bytes(wanted)} to write to {str(folder)!r}"
    if is_local(folder):
        free = _free(folder)
        text += f" ({human_bytes(free)} free)"
        if wanted + _SPARE > free:
            raise RunError(
                f"cannot write the Run {str(folder)!r}",
                found=f"{human_bytes(free)} free on the disk",
                allowed=f"{human_bytes(wanted)} to write, and {human_bytes(_SPARE)} to spare",
                fix="free some space, record fewer sites or reducers, or choose another folder",
            )
    room = True
    if setup.cache is not None and to_do:
        beside = wanted if is_local(folder) and _same_disk(folder, setup.cache) else 0
        left = _free(setup.cache) - _SPARE - beside
        most = to_do * cache_bytes
        room = most <= left
        if room:
            text += f"; at most {human_bytes(most)} of encoded clips in {str(setup.cache)!r}"
        else:
            text += f"; encoded clips are not kept, they may need {human_bytes(most)} of {human_bytes(max(left, 0))}"
    say(progress, text)
    return room


def _existing(folder: Path) -> Path:
    folder = folder.expanduser().absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _free(folder: Path) -> int:
    return shutil.disk_usage(_existing(folder)).free


def _same_disk(a: Path, b: Path) -> bool:
    return _existing(a).stat().st_dev == _existing(b).stat().st_dev


def human_bytes(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def say(progress: bool, text: str) -> None:
    if progress:
        tqdm.write(text, file=sys.stderr)
