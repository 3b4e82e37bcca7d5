"""Work done side by side in a few processes, with one progress bar for all of them.

Why it exists. Models of a few million parameters do not use a second core well: two processes of one thread each finish
almost twice as early as one process of two threads. So `reproduce` cuts its work into units (a slice of the clips, a
checkpoint, a few sites) that know nothing of each other, and this module hands them out.

The idea. The processes are started fresh (``spawn``), because eSpeak's worker and torch's threads do not survive a
fork, and they live as long as the pool, so that torch is imported once in each. Every process keeps to one thread. One
worker means no process at all: the units run here, in order, which is also how the tests look inside.

Worked example::

    with Pool(workers=2) as pool:
        squares = pool.map(square, [(n,) for n in range(10)], desc="square", unit="number")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, TypeVar

from tqdm.auto import tqdm

from vpanalysis.errors import RunError

__all__ = ["Pool"]

T = TypeVar("T")

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# Seconds between looks at a watched count; a bar that moves twice a second is alive.
_LOOK = 0.5


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    """Set environment variables for the processes started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Pool:
    """A few processes of one thread each; a context manager.

    Parameters
    ----------
    workers : int
        Processes. With 1 everything runs in this process.
    progress : bool
        Show a progress bar per call of :meth:`map`.
    """

    def __init__(self, workers: int = 2, *, progress: bool = True) -> None:
        self._workers, self._progress = workers, progress
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._executor is not None:
            # After an error or Ctrl-C nothing new is started; what runs ends with its unit.
            self._executor.shutdown(wait=True, cancel_futures=kind is not None)
            self._executor = None

    def map(
        self,
        function: Callable[..., T],
        units: Sequence[tuple[Any, ...]],
        *,
        desc: str,
        unit: str,
        sizes: Sequence[int] | None = None,
        watch: Callable[[], int] | None = None,
    ) -> list[T]:
        """Call ``function(*unit)`` for every unit and return the results in the order of the units.

        Parameters
        ----------
        function : callable
            Importable by name; so are its arguments picklable.
        units : sequence of tuple
            Arguments. Hand in the largest first.
        desc, unit : str
            For the progress bar.
        sizes : sequence of int, optional
            How much each unit counts in the bar; default 1.
        watch : callable, optional
            Returns how much is done so far, for units that take long and leave traces on disk. It takes the place of
            counting finished units; `sizes` still give the total.

        Returns
        -------
        list

        Raises
        ------
        RunError
            When a process ended early, as it does when memory runs out.
        """
        counts = list(sizes) if sizes is not None else [1] * len(units)
        with tqdm(total=sum(counts), desc=desc, unit=unit, disable=not (self._progress and units)) as bar:
            bar.refresh()
            if self._workers < 2:
                made = []
                for arguments, count in zip(units, counts, strict=True):
                    made.append(function(*arguments))
                    bar.update(count)
                return made
            return self._spread(function, units, counts, bar, desc, watch)

    def _spread(
        self,
        function: Callable[..., T],
        units: Sequence[tuple[Any, ...]],
        counts: list[int],
        bar: tqdm[Any],
        desc: str,
        watch: Callable[[], int] | None,
    ) -> list[T]:
        if not units:
            return []
        with _environment(**dict.fromkeys(_ONE_THREAD, "1"), TOKENIZERS_PARALLELISM="false"):
            if self._executor is None:
                self._executor = ProcessPoolExecutor(self._workers, mp_context=get_context("spawn"))
            futures: dict[Future[T], int] = {
                self._executor.submit(function, *arguments): number for number, arguments in enumerate(units)
            }
            open_: set[Future[T]] = set(futures)
            try:
                while open_:
                    done, open_ = wait(open_, timeout=_LOOK, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
                        if watch is None:
                            bar.update(counts[futures[future]])
                    seen = min(watch(), sum(counts)) if watch is not None else bar.n
                    if seen > bar.n:
                        bar.update(seen - bar.n)
            except BrokenProcessPool as error:
                raise RunError(
                    f"cannot finish the stage {desc!r}",
                    found="a worker process that ended early",
                    fix="free some memory, or use one worker, and call it again: finished work is kept",
                ) from error
            except BaseException:
                for future in open_:
                    future.cancel()
                raise
        bar.update(sum(counts) - bar.n)
        results: list[Any] = [None] * len(units)
        for future, number in futures.items():
            results[number] = future.result()
        return results
