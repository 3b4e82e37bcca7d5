"""Where probes are fitted, and how much of a machine they may take: one process, or tasks of a Ray cluster.

Why it exists. Probes of 60 sites with 200 shuffles of 100,000 items are hours on one core, and no site needs another
one. So groups of sites are the natural tasks, and what is to be done with them is nothing but
:func:`~vpanalysis.probes.estimator.each_fit`, which the serial way calls as well.

The idea. Ray schedules, retries and spills; nothing of that is written again here. The labels, folds and shuffles go to
the object store once. A Run on the disk is opened by every task, which then reads no more than its own sites; anything
else that can be probed goes to the object store as it is. What comes back of a site is one prediction an item and a
score for every shuffle.

The numbers are those of the serial way up to rounding, of which no prediction depends: sites that are solved side by
side share some decisions of the solver, such as when it has the right preconditioner.

>>> Where(memory_gb=2.0).shared_bytes
500000000.0
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from vpanalysis._cluster import imported, join, sentence
from vpanalysis._places import is_local
from vpanalysis.errors import RunError, VPError
from vpanalysis.probes.estimator import MEMORY_GB, LabelSets, SiteFit, each_fit, single_thread
from vpanalysis.probes.splits import IntArray
from vpanalysis.probes.targets import RunLike, read_states

__all__ = ["ENGINES", "Where", "spread"]

ENGINES = ("local", "ray")

_GROUPS_A_WORKER = 4
"""Tasks for every worker: some take longer than others, and a site alone shares nothing with its neighbours."""


@dataclass(frozen=True)
class Where:
    """Where probes are fitted; see the parameters of :func:`~vpanalysis.probes.probe_layers`.

    Raises
    ------
    RunError
        For an unknown engine, no memory, and fewer than one worker.
    """

    memory_gb: float = MEMORY_GB
    engine: str = "local"
    workers: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise RunError("cannot fit the probes", found=f"engine={self.engine!r}", allowed=ENGINES, word=self.engine)
        if not self.memory_gb > 0:
            raise RunError("cannot fit the probes", found=f"memory_gb={self.memory_gb}", allowed="a positive number")
        if self.engine == "local" and (self.workers is not None or self.address is not None):
            given = f"workers={self.workers}" if self.workers is not None else f"address={self.address!r}"
            raise RunError("cannot fit the probes", found=f"{given} with engine='local'", fix="add engine='ray'")
        if self.workers is not None and self.workers < 1:
            raise RunError("cannot fit the probes", found=f"workers={self.workers}", allowed="1 or more")

    @property
    def shared_bytes(self) -> float:
        """What states that several tasks and targets share may take: a quarter."""
        return 0.25 * self.memory_gb * 1e9


def spread(
    run: RunLike,
    sites: Sequence[str],
    reducers: dict[str, str],
    rows: IntArray,
    sets: LabelSets,
    how: dict[str, Any],
    where: Where,
    progress: Callable[[float], None] | None = None,
) -> Iterator[tuple[int, SiteFit]]:
    """Fit sites as tasks of Ray, and yield the place of each in `sites` and its fit, as they come.

    Parameters
    ----------
    run : Run
        One with a `path` is opened anew in every task.
    sites : sequence of str
    reducers : dict
        At which each is read.
    rows : array, shape (item,), int64
    sets : LabelSets
    how : dict
        Further arguments of :func:`~vpanalysis.probes.estimator.each_fit`.
    where : Where
    progress : callable, optional

    Raises
    ------
    RunError
        Without Ray, and what a fit raises.
    """
    ray = imported("cannot fit the probes with engine='ray'")
    place = getattr(run, "path", None)
    if place is not None and is_local(place):
        place = Path(place).resolve()  # the same on every node
    # Rows are places among the finished blocks, of which there may be more when a task opens the Run.
    blocks = getattr(run, "finished_blocks", None)
    running: dict[Any, NDArray[np.int64]] = {}
    done = 0
    started = join(ray, where.workers, where.address)
    try:
        at_once = where.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        shared = ray.put((run if place is None else None, place, blocks, reducers, rows, sets, how))
        task = ray.remote(_task)
        groups = np.array_split(np.arange(len(sites)), min(len(sites), _GROUPS_A_WORKER * at_once))
        waiting = [([sites[n] for n in group], group) for group in groups]
        while waiting or running:
            while waiting and len(running) < at_once:
                names, group = waiting.pop(0)
                running[task.remote(shared, names)] = group
            ready, _ = ray.wait(list(running), num_returns=1)
            group = running.pop(ready[0])
            try:
                found = ray.get(ready[0])
            except ray.exceptions.RayError as error:
                # The reason as the serial way gives it, not wrapped in the story of a worker.
                cause = getattr(error, "cause", None)
                if isinstance(cause, VPError):
                    raise cause from None
                raise RunError("cannot fit the probes with engine='ray'", found=sentence(cause or error)) from error
            for number, fit in found:
                yield int(group[number]), fit
            done += len(group)
            if progress is not None:
                progress(done)
    finally:
        for left in running:
            ray.cancel(left)
        if started:
            ray.shutdown()


def _task(shared: Any, sites: list[str]) -> list[tuple[int, SiteFit]]:
    """Fit some sites: what a task of Ray does."""
    given, place, blocks, reducers, rows, sets, how = shared
    if place is not None:
        from vpanalysis.runs import open_run

        given = open_run(place)
        if blocks is not None:
            given._finished = list(blocks)
    run = cast("RunLike", given)
    with single_thread():
        return list(each_fit(lambda site: read_states(run, site, reducers[site], rows)[0], sites, sets, **how))
