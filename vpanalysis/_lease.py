"""One driver at a time where there is no lock: a lease that has to be renewed.

Why it exists. An object store knows no locks that vanish with their owner. Two drivers of one Run would hand the same
blocks to two sets of workers, and ``force=True`` of one would delete what the other is writing.

The idea. The writer keeps an object ``run.lease`` with its own random token and a count that it raises every few
seconds. Whoever finds a lease watches it *by its own clock* for as long as a lease lasts: when the count moves, someone
is alive, and the newcomer is refused; when it stands still all the time, its owner is dead, and the newcomer takes it
over. No clock of another machine is ever compared, so a wrong one harms nothing. Before each renewal the owner looks
whether the token is still its own; one that was taken over, because it was cut off for longer than a lease, stops.

A driver that ends properly deletes its lease, so that the next call waits for nothing. After a driver that was killed
the next call waits once, for `LEASE_SECONDS`.

Worked example::

    with leased(place) as lease:
        ...
        lease.check()                        # RunError when another driver has taken over

What it cannot promise: two drivers that find no lease in the same instant both write one. Where the store can create an
object only if it is missing (S3 can), that decides; elsewhere the one that reads back another's token gives way. Blocks
that both happened to write hold the same values, because each is written whole.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vpanalysis.errors import RunError

__all__ = ["BEAT_SECONDS", "LEASE_NAME", "LEASE_SECONDS", "Lease", "leased"]

LEASE_NAME = "run.lease"
BEAT_SECONDS = 5.0
"""Seconds between two renewals."""
LEASE_SECONDS = 30.0
"""How long a lease that is not renewed is respected."""
_LOOKS = 10  # failed looks at another's lease, after which the store is taken for unreachable


class Lease:
    """A lease that this process holds; made by `leased`.

    Parameters
    ----------
    folder : Path
        Of the Run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / LEASE_NAME
        self.token = uuid.uuid4().hex
        self.lost: str | None = None
        self._count = 0
        self._renewed = time.monotonic()
        self._one = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="vpanalysis-lease", daemon=True)

    def check(self) -> None:
        """Raise :class:`RunError` when another driver has taken over."""
        if self.lost is None and time.monotonic() - self._renewed > LEASE_SECONDS:
            # Nobody had to respect it any more: this process was stopped, or a renewal hangs. So look before going on.
            try:
                self._renew_once()
            except Exception as error:
                self.lost = _no_way(error)
        if self.lost is not None:
            raise _busy(self.folder, self.lost)

    def _content(self) -> bytes:
        self._count += 1
        facts = {"token": self.token, "count": self._count, "process": os.getpid(), "host": socket.gethostname()}
        # For people who look; nothing compares it.
        facts["renewed"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return json.dumps(facts).encode()

    def take(self) -> None:
        """Take the lease, or raise :class:`RunError` because someone renews it."""
        found = _read(self.path)
        if found is not None:
            self._watch(found)
            self.path.write_bytes(self._content())
        elif not self._create():
            self._refuse()
        time.sleep(0.05)
        if (_read(self.path) or {}).get("token") != self.token:
            self._refuse()
        self._renewed = time.monotonic()
        self._thread.start()

    def _watch(self, found: dict[str, Any]) -> None:
        end, failed = time.monotonic() + LEASE_SECONDS, 0
        while time.monotonic() < end:
            time.sleep(min(0.5, LEASE_SECONDS / 10))
            try:
                now = _read(self.path)
            except Exception:  # not seeing it for a moment is not seeing that it is gone
                end = time.monotonic() + LEASE_SECONDS
                if (failed := failed + 1) > _LOOKS:
                    raise
                continue
            if now is None:
                return  # given back meanwhile
            if (now.get("token"), now.get("count")) != (found.get("token"), found.get("count")):
                raise _busy(self.folder, f"{_who(now)} writing it")

    def _create(self) -> bool:
        """Write the first lease only if there is none; without that promise where the store cannot give it."""
        place: Any = self.path
        try:
            place.fs.pipe_file(place.path, self._content(), mode="create")
        except FileExistsError:
            return False
        except (TypeError, NotImplementedError, ValueError):
            self.path.write_bytes(self._content())
        return True

    def _refuse(self) -> None:
        raise _busy(self.folder, f"{_who(_read(self.path) or {})} writing it")

    def _renew(self) -> None:
        failed = 0.0
        while not self._end.wait(BEAT_SECONDS):
            try:
                self._renew_once()
                if self.lost is not None:
                    return
                failed = 0.0
            except Exception as error:  # a store that is away for a moment
                failed += BEAT_SECONDS
                if failed >= LEASE_SECONDS / 2:
                    self.lost = _no_way(error)
                    return

    def _renew_once(self) -> None:
        with self._one:
            begun = time.monotonic()
            found = _read(self.path)
            if found is not None and found.get("token") != self.token:
                self.lost = f"{_who(found)} writing it"
                return
            self.path.write_bytes(self._content())
            self._renewed = begun

    def give_back(self) -> None:
        """Stop renewing, and delete the lease if it is still this one."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()
        # What went wrong with the Run is not to be replaced by what goes wrong here.
        with suppress(Exception):
            if (_read(self.path) or {}).get("token") == self.token:
                self.path.unlink()


@contextmanager
def leased(folder: Path) -> Iterator[Lease]:
    """Be the one driver of the Run in `folder` during the block.

    Raises
    ------
    RunError
        If someone else renews its lease.
    """
    lease = Lease(folder)
    lease.take()
    try:
        yield lease
    finally:
        lease.give_back()


def _read(path: Path) -> dict[str, Any] | None:
    """Return what stands in a lease, nothing for one half-written, and None only where there is none."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _no_way(error: Exception) -> str:
    return f"no way to renew the lease ({type(error).__name__})"


def _who(found: dict[str, Any]) -> str:
    return f"process {found['process']} on {found['host']}" if "process" in found else "another driver"


def _busy(folder: Path, found: str) -> RunError:
    return RunError(
        f"cannot write the Run {str(folder)!r}",
        found=found,
        allowed="one writer at a time",
        fix="wait until it has finished, or choose another folder",
    )
