"""The blocks of a Run done by actors of a Ray cluster.

Why it exists. A million clips are more than one GPU answers in a night. Blocks know nothing of each other and carry
their own marker, so a Run can be made by as many processes as there are GPUs, on as many machines.

The idea. The driver makes the manifest and the empty store exactly as one process does, and then sends block after
block to Ray actors, each of which holds one model and writes its own blocks. Everything that a cluster needs is Ray's:
which node an actor lives on, starting it again when its process or its node dies, sending its block again, and handing
the next block to whoever is free (`ray.util.ActorPool`). This module says only what a block is and what its end means.

* Items travel with their block, so no actor and no message ever holds the benchmark; the answer of a block is its
  number. The driver's memory does not grow with what is recorded.
* A block that failed three times is written by the driver as failed items with the reason, and its actor is started
  afresh, in case it was the model's process that was broken. Redo such a block by deleting its marker.
* Trouble with *writing* (a full disk, a bucket that is gone) is no block's fault: the call ends with that error,
  and the next call goes on from the finished blocks.

Worked example::

    with Rays("mini", None, workers=4, address=None) as crew:
        crew.facts().name
        crew.begin(setup)
        for number in crew.do(bench, todo, check=lambda: None):
            ...

What it cannot do: make nodes agree. They need the same version of this package, the same path of a shared folder (or a
URL), and for clips in files the same paths; a node on which the folder is another one says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vpanalysis._cluster import imported, join, sentence
from vpanalysis._predictions import Answer
from vpanalysis._ray_actor import TRIES, Hand, Tally
from vpanalysis._run import STORE_NAME
from vpanalysis._saved import manifest_sha
from vpanalysis._space import say
from vpanalysis._worker import BlockFailed, ModelFacts, Setup, Wording, write_block
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    from types import TracebackType

    from vpanalysis._passes import Sizes
    from vpanalysis.benchmark.items import Benchmark, Item
    from vpanalysis.benchmark.prompts import PromptTemplate
    from vpanalysis.models.facade import AudioLLM

__all__ = ["TRIES", "Rays"]

_LANES = 2  # blocks that an actor has at a time: one with the model, one being read or written
_LOOK = 1.0  # seconds between looks at the lease and at actors that have become ready


class _Lane:
    """One of the places for a block that an actor has; a pool wants each of its members to be another object."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor


class Rays:
    """The crew of a Ray cluster; a context manager.

    Parameters
    ----------
    model : AudioLLM or str
        A name is loaded by each actor; a loaded model is put into Ray's object store.
    options : mapping, optional
        Of `load_model`.
    workers : int, optional
        Actors.
    address : str, optional
        Of the cluster.

    Raises
    ------
    RunError
        If Ray is not installed, the cluster cannot be reached, or a loaded model cannot be sent.
    """

    def __init__(
        self,
        model: AudioLLM | str,
        options: Mapping[str, Any] | None = None,
        workers: int | None = None,
        address: str | None = None,
    ) -> None:
        ray = imported("cannot use engine='ray'")
        if options and not isinstance(model, str):
            raise RunError(
                "cannot make a Run with model_options", found="a loaded model", allowed="the name of a model"
            )
        self._ray = ray
        self._model, self._options, self._workers, self._address = model, dict(options or {}), workers, address
        self._started = False
        self._actors: list[Any] = []
        self._sent_model: Any = None
        self._setup: Any = None
        self._tally: Any = None
        self._folder: Path | None = None

    def __enter__(self) -> Rays:
        self._started = join(self._ray, self._workers, self._address)
        try:
            self._sent_model = self._model if isinstance(self._model, str) else self._put(self._model)
            self._tally = self._ray.remote(Tally).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
            self._actors = [self._new()]
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    # The cluster ------------------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        try:
            for actor in (*self._actors, *([self._tally] if self._tally is not None else [])):
                self._ray.kill(actor)
        finally:
            # Also where the cluster is gone and nobody can be told to stop.
            self._actors = []
            self._sent_model = self._setup = self._tally = None
            if self._started:
                self._ray.shutdown()
                self._started = False

    def _put(self, model: Any) -> Any:
        try:
            # In a list, so that it is a reference that arrives, and a model only where it is asked for.
            return [self._ray.put(model)]
        except Exception as error:  # whatever pickling raises
            raise RunError(
                f"cannot send the model {getattr(model, 'name', model)!r} to the workers",
                found=sentence(error),
                allowed="a loaded model that can be pickled, or the name of one",
                fix="give its name, with model_options for the options of load_model",
            ) from error

    def _on_gpus(self) -> bool:
        if isinstance(self._model, str):
            asked = self._options.get("device_map")
            wanted = asked is not None and str(asked) != "cpu"
        else:
            wanted = str(self._model.device).startswith("cuda")
        return wanted and self._ray.cluster_resources().get("GPU", 0) >= 1

    def _new(self) -> Any:
        # A process that dies is started again, and its call is made again; both are counted by Ray.
        made = self._ray.remote(Hand).options(
            num_cpus=1, num_gpus=1 if self._on_gpus() else 0, max_restarts=-1, max_task_retries=TRIES - 1,
            max_concurrency=_LANES, scheduling_strategy="SPREAD",
        )  # fmt: skip
        return made.remote(self._options)

    def _get(self, reference: Any) -> Any:
        """Return an answer; what an actor raised on purpose is raised here, in the words it had there."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            raise _said(error) from error

    # The crew ---------------------------------------------------------------------------------------------------------

    def facts(self) -> ModelFacts:
        return cast("ModelFacts", self._get(self._actors[0].facts.remote(self._sent_model)))

    def wording(self, item: Item, letters: Sequence[str], template: PromptTemplate) -> Wording:
        return cast(
            "Wording", self._get(self._actors[0].wording.remote(self._sent_model, item, list(letters), template))
        )

    def begin(self, setup: Setup) -> None:
        self._setup, self._folder = self._ray.put(setup), setup.folder
        self._plan = setup.plan

    def sizes(self, item: Item) -> Sizes:
        return cast("Sizes", self._get(self._actors[0].sizes.remote(self._sent_model, self._setup, item)))

    def longest(self, items: Iterable[Item]) -> dict[str, int]:
        found: dict[str, int] = {}
        if not any(r.kind == "frames" for kept in self._plan.values() for r in kept):
            return found  # no item is looked at
        left = iter(items)
        while part := list(islice(left, 256)):
            for clock, frames in self._get(self._actors[0].longest.remote(self._sent_model, self._setup, part)).items():
                found[clock] = max(found.get(clock, 1), frames)
        return found

    def _wanted(self, blocks: int) -> int:
        kind = "GPU" if self._on_gpus() else "CPU"
        there = int(self._ray.cluster_resources().get(kind, 1))
        return max(1, min(self._workers or there, blocks))

    def do(
        self, bench: Benchmark, todo: Mapping[int, tuple[int, int]], check: Callable[[], None], progress: bool = False
    ) -> Iterator[int]:
        from ray.util import ActorPool

        assert self._folder is not None
        ray, folder = self._ray, self._folder
        sha, setup = manifest_sha(folder), self._setup
        sent: dict[Any, tuple[int, Any]] = {}

        def send(lane: _Lane, number: int) -> Any:
            start, stop = todo[number]
            items = [bench[i] for i in range(start, stop)]
            # Again for as long as the actor or its node dies: the actor itself counts what it began.
            call = lane.actor.block.options(max_task_retries=-1)
            reference = call.remote(self._sent_model, setup, sha, number, items, self._tally)
            sent[reference] = number, lane.actor
            return reference

        self._actors += [self._new() for _ in range(self._wanted(len(todo)) - 1)]
        # An actor joins when its model is loaded; until then its blocks would wait for it while others are free.
        joining = {self._ask(actor): (actor, 1) for actor in self._actors[1:]}
        pool = ActorPool([_Lane(self._actors[0]) for _ in range(_LANES)])
        for number in todo:
            pool.submit(send, number)
        idle: list[Any] = []
        left = set(todo)
        while pool.has_next():
            for reference in ray.wait(list(joining), num_returns=len(joining), timeout=0)[0] if joining else ():
                actor, tries = joining.pop(reference)
                try:
                    ray.get(reference)
                except ray.exceptions.RayError as error:
                    if tries == TRIES or not isinstance(error, ray.exceptions.RayActorError):
                        raise _said(error) from error
                    joining[self._ask(actor)] = actor, tries + 1
                    continue
                for _ in range(_LANES):
                    pool.push(_Lane(actor))
            # Towards the end, whoever has nothing to do makes room for actors that lost their node.
            while pool.has_free() and (lane := pool.pop_idle()) is not None:
                idle.append(lane.actor)
                if sum(a is lane.actor for a in idle) == _LANES:
                    ray.kill(lane.actor)
                    self._actors = [a for a in self._actors if a is not lane.actor]
            try:
                number = pool.get_next_unordered(timeout=_LOOK)
            except ray.exceptions.RayError:
                check()
                for number, actor, reason in self._failed(sent):
                    self._give_up(bench, todo[number], number, reason, progress)
                    if any(a is actor for a in self._actors):
                        ray.kill(actor, no_restart=False)
                    left.discard(number)
                    yield number
                continue
            except TimeoutError:
                check()
                continue
            check()
            sent = {ref: (n, actor) for ref, (n, actor) in sent.items() if n != number}
            left.discard(number)
            yield number
        if left:
            # A pool lets go of an actor that is dead for good, and of what waits when that was the last one.
            raise RunError(
                "cannot go on with the Run on the cluster",
                found=f"no worker left for {len(left)} blocks",
                fix="call it again to go on; finished blocks are kept",
            )

    def _ask(self, actor: Any) -> Any:
        """Have an actor load its model; tried again here and not by Ray, which would say so when the work is over."""
        return actor.facts.options(max_task_retries=0).remote(self._sent_model)

    def _failed(self, sent: dict[Any, tuple[int, Any]]) -> Iterator[tuple[int, Any, str]]:
        """Take the calls that failed for good out of `sent`; raise what is not the fault of their block."""
        for reference in self._ray.wait(list(sent), num_returns=len(sent), timeout=0)[0] if sent else ():
            try:
                self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:
                if not isinstance(error.cause, BlockFailed):
                    raise _said(error) from error
                reason = str(error.cause)
            except self._ray.exceptions.RayError as error:
                reason = f"its worker died ({type(error).__name__})"
            else:
                continue
            number, actor = sent.pop(reference)
            yield number, actor, reason

    def _give_up(self, bench: Benchmark, part: tuple[int, int], number: int, reason: str, progress: bool) -> None:
        from vpanalysis.capture.store import ActivationStore

        assert self._folder is not None
        items = [bench[i] for i in range(*part)]
        text = f"the block failed {TRIES} times: {reason}"
        say(progress, f"block {number}: {len(items)} items are marked failed; {text}")
        store = ActivationStore(self._folder / STORE_NAME)
        answers = [Answer(reason=text) for _ in items]
        write_block(self._folder, store, number, items, answers, {}, {"gave_up": reason})


def _said(error: Any) -> Exception:
    """Return what is raised in the driver for an error of an actor."""
    from vpanalysis.errors import VPError

    cause = getattr(error, "cause", None)
    if isinstance(cause, VPError):
        return type(cause)(str(cause))
    if cause is None:
        # An actor that could not be started: the reason is the last line of Ray's text.
        lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
        cause = lines[-1] if lines else type(error).__name__
    return RunError(
        "cannot go on with the Run on the cluster",
        found=sentence(cause) if isinstance(cause, BaseException) else str(cause),
        fix="call it again to go on; finished blocks are kept",
    )
