"""Work units on several threads, each of them with one thread of BLAS: the same digits whatever their number.

Why it exists. The matrices of a probe are so small that a BLAS with two threads waits more than it works. Whole sites
and folds side by side do better: NumPy and torch let go of the interpreter while they multiply. And a unit that is
always computed by one thread has digits that depend neither on the number of workers nor on the machine's cores.

>>> sorted(in_threads(lambda a, b: (a, a * b), ((k, 2) for k in range(4)), 2))
[(0, 0), (1, 2), (2, 4), (3, 6)]
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

import torch

__all__ = ["cores", "in_threads", "single_thread"]

T = TypeVar("T")

_MOST = 4
"""Workers at most: units take memory, and beyond some of them the interpreter is what they wait for."""


def single_thread() -> AbstractContextManager[Any]:
    """Return a context that holds BLAS to one thread.

    These matrices are so small that a second thread costs more in waiting than it brings in work, and one thread makes
    the digits independent of the machine's core count.
    """
    # threadpoolctl comes with scikit-learn and carries no types.
    return cast("AbstractContextManager[Any]", importlib.import_module("threadpoolctl").threadpool_limits(limits=1))


def cores() -> int:
    """Return how many workers this process has cores for, four at most."""
    allowed = getattr(os, "sched_getaffinity", None)
    return max(1, min(_MOST, len(allowed(0)) if allowed is not None else os.cpu_count() or 1))


def in_threads(work: Callable[..., T], units: Iterable[tuple[Any, ...]], workers: int) -> Iterator[T]:
    """Call ``work(*unit)`` for every unit, and yield what it returns: as units come to an end, in no certain order.

    Parameters
    ----------
    work : callable
        Must not share what it writes with other units.
    units : iterable of tuples
        Taken as workers are free for them, two for each at most, so that what they hold is never there all at once.
    workers : int
        With 1, everything happens in the calling thread.

    Yields
    ------
    What `work` returns. Its first exception ends the work.
    """
    if workers == 1:
        for unit in units:
            yield work(*unit)
        return
    running: set[Future[T]] = set()
    with single_thread(), ThreadPoolExecutor(workers, initializer=_alone) as pool:
        try:
            for unit in units:
                running.add(pool.submit(work, *unit))
                if len(running) >= 2 * workers:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (one.result() for one in done)
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (one.result() for one in done)
        finally:
            pool.shutdown(cancel_futures=True)


def _alone() -> None:
    """Hold this thread's share of OpenMP to itself; torch asks for its default once, on a thread's first call."""
    torch.get_num_threads()
    importlib.import_module("threadpoolctl").threadpool_limits(limits=1, user_api="openmp")
