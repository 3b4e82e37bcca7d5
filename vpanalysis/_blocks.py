"""Who may write a Run, and which of its blocks are finished.

Why it exists. Two processes that write one store lose data without an error, and a process can be killed between any
two system calls. So a Run has one writer at a time, and a block counts only when its marker says so.

The idea. The writer holds a lock of the operating system on ``run.lock``. Such a lock belongs to the process and
vanishes with it, however it dies, so no stale lock file ever has to be removed; the file's text (process id, host) is
only for the message. Where there are no such locks (a URL), a lease takes its place (`vpanalysis._lease`). A block's
marker is a small JSON file, written after everything else of the block and renamed into place: it exists whole, and
then all the rest does, or it does not exist.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from vpanalysis._lease import leased
from vpanalysis._manifest import write_json
from vpanalysis._places import is_local, names_in
from vpanalysis._trouble import storing
from vpanalysis.errors import RunError

__all__ = [
    "FOLDER",
    "LOCK_NAME",
    "finished",
    "finished_blocks",
    "forget",
    "marker",
    "read_marker",
    "sweep",
    "write_marker",
    "writing",
]

LOCK_NAME = "run.lock"
FOLDER = "blocks"

# The system's lock is one per process; threads of this one are told apart here. It also keeps this process from
# opening the lock file a second time, which would release the lock when that copy is closed.
_mine: set[str] = set()
_guard = threading.Lock()


@contextmanager
def writing(folder: Path) -> Iterator[Callable[[], None]]:
    """Be the one writer of the Run in `folder` during the block.

    Yields
    ------
    callable
        To be called before every block: it raises :class:`RunError` once another writer has taken over, which can
        happen with a lease and never with a lock.

    Raises
    ------
    RunError
        If another process, or another thread of this one, writes it, or it may not be written at all.
    """
    if not is_local(folder):
        with leased(folder) as lease:
            yield lease.check
        return
    name = str(folder.resolve())
    with _guard:
        if name in _mine:
            raise _busy(folder, f"this process ({os.getpid()})")
        _mine.add(name)
    try:
        with storing(folder, "the lock"):
            opened = (folder / LOCK_NAME).open("a+", encoding="utf-8")
        with opened as handle:
            if not _lock(handle):
                handle.seek(0)
                raise _busy(folder, handle.read(200).strip() or "another process")
            handle.seek(0)
            handle.truncate()
            handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            handle.flush()
            try:
                yield _held
            finally:
                handle.seek(0)
                handle.truncate()
                handle.flush()
                _unlock(handle)
    finally:
        with _guard:
            _mine.discard(name)


def _held() -> None:
    """Raise nothing: a lock of the system is not lost."""


def _busy(folder: Path, who: str) -> RunError:
    return RunError(
        f"cannot write the Run {str(folder)!r}",
        found=f"{who} writing it",
        allowed="one writer at a time",
        fix="wait until it has finished, or choose another folder",
    )


if sys.platform != "win32":
    import fcntl

    def _lock(handle: IO[str]) -> bool:
        # POSIX record locks: unlike flock's they are not inherited by forked workers that outlive the writer.
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _unlock(handle: IO[str]) -> None:
        fcntl.lockf(handle, fcntl.LOCK_UN)

else:
    import msvcrt

    # A byte far behind the text, because on this system a locked byte cannot be read by others.
    _BYTE = 1 << 20

    def _lock(handle: IO[str]) -> bool:
        handle.seek(_BYTE)
        try:
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(handle: IO[str]) -> None:
        handle.seek(_BYTE)
        msvcrt.locking(handle.fileno(), msvcrt.LK_UNLCK, 1)


def marker(folder: Path, block: int) -> Path:
    """Return the path of a block's marker."""
    return folder / FOLDER / f"{block:05d}.json"


def write_marker(folder: Path, block: int, facts: dict[str, Any]) -> None:
    """Declare a block finished; everything else of it must be on disk."""
    path = marker(folder, block)
    if is_local(path):
        path.parent.mkdir(exist_ok=True)
    write_json(path, {"block": block, **facts})


def read_marker(folder: Path, block: int) -> dict[str, Any] | None:
    """Return what is known of a finished block, or None when it is not finished."""
    try:
        facts = json.loads(marker(folder, block).read_bytes())
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) and facts.get("block") == block else None


def finished(folder: Path, count: int) -> dict[int, dict[str, Any]]:
    """Return what is known of those of the blocks 0..count-1 that have a marker."""
    found = ((block, read_marker(folder, block)) for block in _named(folder, count))
    return {block: facts for block, facts in found if facts is not None}


def _named(folder: Path, count: int) -> list[int]:
    """Return the blocks that have a file of this name; most of a Run that has just begun are missing."""
    there = names_in(folder / FOLDER)
    return [block for block in range(count) if marker(folder, block).name in there]


def finished_blocks(folder: Path, count: int) -> list[int]:
    """Return which of the blocks 0..count-1 have a marker."""
    # An object is whole when it is there, and reading each costs a request; a file is looked into.
    return list(finished(folder, count)) if is_local(folder) else _named(folder, count)


def forget(folder: Path, block: int) -> None:
    """Declare a block unfinished, so that it is done again; only the writer may call this."""
    marker(folder, block).unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what a killed writer left half-written; only the writer may call this."""
    if not is_local(folder):
        return  # there are no half-written objects
    for pattern in ("*.part", "blocks/*.part", "predictions/*.part", "activations.zarr/*/*.partial"):
        for path in folder.glob(pattern):
            with suppress(OSError):
                path.unlink()
