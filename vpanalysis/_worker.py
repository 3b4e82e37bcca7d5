"""What has to be done with a model to make a Run, and who does it.

Why it exists. A Run of a million clips is made by many processes, and the one that hands out the work should neither
load the model nor hold the clips. So everything that touches a model is said here as a few calls whose arguments and
answers are small plain data: they can be made in this process or in another.

The idea. A :class:`Worker` has one model. It tells what the manifest needs to know (`facts`, `wording`), what recording
costs (`sizes`, `longest`), and does blocks (`block`): items in, files of the block out, marker last. A *crew* is who
has workers: `Alone` has one, in this process, and decodes the clips of the next block in a thread while the model works
on this one; `vpanalysis._ray` has many, in the processes of a Ray cluster. What the caller does is the same.

Worked example::

    crew = Alone(load_model("mini"))
    crew.begin(Setup(...))
    for number in crew.do(bench, {0: (0, 64), 1: (64, 128)}, check=lambda: None):
        print("block", number, "is written")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vpanalysis import _blocks, _manifest
from vpanalysis._finite import count
from vpanalysis._predictions import Answer, write_predictions
from vpanalysis._run import STORE_NAME
from vpanalysis._trouble import storing

if TYPE_CHECKING:
    from vpanalysis._finite import Counts
    from vpanalysis._passes import Heard, Passes, Sizes
    from vpanalysis.benchmark.items import Benchmark, Item
    from vpanalysis.benchmark.prompts import PromptTemplate
    from vpanalysis.capture.audio_cache import AudioCache
    from vpanalysis.capture.reducers import Plan
    from vpanalysis.capture.store import ActivationStore
    from vpanalysis.models.facade import AudioLLM

__all__ = [
    "Alone",
    "BlockFailed",
    "Crew",
    "ModelFacts",
    "Setup",
    "Wording",
    "Worker",
    "ahead",
    "cache_of",
    "facts_of",
    "facts_of_block",
    "release",
    "write_block",
]


class BlockFailed(Exception):
    """A model raised while it worked on a block; says what."""


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model without having it.

    Parameters
    ----------
    name, title : str
        What it is called, and what its family is.
    answers : bool
        Whether it can be asked.
    sites : tuple of str
    streams : tuple of str or None
    encoder_sha, dtype, device : str
    frame_seconds : mapping
        Seconds of a frame by clock.
    manifest : mapping
        The manifest's part about the model, but for its wording.
    calibration : mapping or None
    """

    name: str
    title: str
    answers: bool
    sites: tuple[str, ...]
    streams: tuple[str, ...] | None
    encoder_sha: str
    dtype: str
    device: str
    frame_seconds: Mapping[str, float]
    manifest: Mapping[str, Any]
    calibration: Mapping[str, Any] | None


@dataclass(frozen=True)
class Wording:
    """How a model is asked.

    Parameters
    ----------
    chat : str or None
        Hash of the first item's whole text.
    letters : dict of str to str
        How each letter is scored.
    """

    chat: str | None
    letters: dict[str, str]


@dataclass(frozen=True)
class Setup:
    """One call of `run`, as far as workers have to know it.

    Parameters
    ----------
    folder : Path
        Of the Run.
    template : PromptTemplate
    plan : Plan
        What is recorded.
    cache : Path or None
        Where encoded clips are kept.
    batch_size : int
    generate, text_scores : bool
    max_new_tokens : int
    """

    folder: Path
    template: PromptTemplate
    plan: Plan
    cache: Path | None
    batch_size: int
    generate: bool
    text_scores: bool
    max_new_tokens: int


def dtype_name(llm: AudioLLM) -> str:
    """Return the name of the type in which a model computes."""
    return str(llm.dtype).removeprefix("torch.")


def cache_of(folder: Path | None, told: ModelFacts) -> AudioCache | None:
    """Return the cache of a model's encoder in a folder."""
    from vpanalysis.capture.audio_cache import AudioCache

    return None if folder is None else AudioCache(folder, told.encoder_sha, told.dtype)


class Worker:
    """One model, and what a Run asks of it.

    Parameters
    ----------
    llm : AudioLLM
    """

    def __init__(self, llm: AudioLLM) -> None:
        self.llm = llm
        self.told = facts_of(llm)

    def wording(self, item: Item, letters: Sequence[str], template: PromptTemplate) -> Wording:
        """Return how the first item is asked, and how letters are scored."""
        if not self.llm.answers:
            return Wording(None, {})
        self.llm.letter_tokens(list(letters))
        return Wording(_manifest.text_sha(self.llm.prompt(item, template)), dict(self.llm.letter_report))

    def passes(self, setup: Setup) -> Passes:
        """Return how items of this Run go through the model."""
        from vpanalysis._passes import Passes

        return Passes(
            self.llm, setup.template, setup.plan, cache_of(setup.cache, self.told), batch_size=setup.batch_size,
            generate=setup.generate, text_scores=setup.text_scores, max_new_tokens=setup.max_new_tokens,
        )  # fmt: skip


def facts_of(llm: AudioLLM) -> ModelFacts:
    """Return what has to be known of a model."""
    config = getattr(llm.model, "config", None)
    encoder, tower = llm.seconds_per_frame
    streams = tuple(llm.streams) if llm.streams is not None else None
    return ModelFacts(
        name=llm.name,
        title=getattr(llm.family, "title", llm.family.name),
        answers=llm.answers,
        sites=tuple(llm.sites),
        streams=streams,
        encoder_sha=llm.encoder_sha,
        dtype=dtype_name(llm),
        device=str(llm.device),
        frame_seconds={"encoder": encoder, "tower": tower, "audio": llm.seconds_per_token},
        manifest={
            "name": llm.name,
            "family": llm.family.name,
            "source": getattr(llm, "source", None) or getattr(config, "name_or_path", None) or llm.name,
            "revision": getattr(llm, "revision", None) or getattr(config, "_commit_hash", None),
            "weights": dict(llm.weights_sha),
            "encoder_sha": llm.encoder_sha,
            "config": _manifest.config_sha(config),
            "answers": llm.answers,
            "chat": None,
            "streams": list(streams) if streams is not None else None,
            "dtype": dtype_name(llm),
            "device": str(llm.device),
            "attn_implementation": getattr(config, "_attn_implementation", None),
        },
        calibration=getattr(llm, "calibration", None),
    )


class Crew(Protocol):
    """Who has workers."""

    def facts(self) -> ModelFacts:
        """Return what has to be known of the model."""
        ...

    def wording(self, item: Item, letters: Sequence[str], template: PromptTemplate) -> Wording:
        """Return how the first item is asked, and how letters are scored."""
        ...

    def begin(self, setup: Setup) -> None:
        """Take in what is asked for."""
        ...

    def sizes(self, item: Item) -> Sizes:
        """Return what recording costs."""
        ...

    def longest(self, items: Iterable[Item]) -> dict[str, int]:
        """Return the frames of the longest clip by clock."""
        ...

    def do(
        self, bench: Benchmark, todo: Mapping[int, tuple[int, int]], check: Callable[[], None], progress: bool = False
    ) -> Iterator[int]:
        """Do blocks, given as number to first and last item, and yield the number of each that is written."""
        ...


class Alone:
    """The crew of one process: one model, one block after another.

    Parameters
    ----------
    llm : AudioLLM
    """

    def __init__(self, llm: AudioLLM) -> None:
        self._worker = Worker(llm)
        self._passes: Passes | None = None
        self._folder: Path | None = None

    def facts(self) -> ModelFacts:
        return self._worker.told

    def wording(self, item: Item, letters: Sequence[str], template: PromptTemplate) -> Wording:
        return self._worker.wording(item, letters, template)

    def begin(self, setup: Setup) -> None:
        self._passes, self._folder = self._worker.passes(setup), setup.folder

    def sizes(self, item: Item) -> Sizes:
        assert self._passes is not None
        return self._passes.sizes(item)

    def longest(self, items: Iterable[Item]) -> dict[str, int]:
        assert self._passes is not None
        return self._passes.longest(items)

    def do(
        self, bench: Benchmark, todo: Mapping[int, tuple[int, int]], check: Callable[[], None], progress: bool = False
    ) -> Iterator[int]:
        from vpanalysis.capture.store import ActivationStore

        passes, folder = self._passes, self._folder
        assert passes is not None and folder is not None
        store = ActivationStore(folder / STORE_NAME)
        for number, (items, heard) in zip(todo, ahead(passes, bench, list(todo.values())), strict=True):
            answers, states = passes.block(items, heard)
            check()
            write_block(folder, store, number, items, answers, states, facts_of_block(passes), check)
            release(items)
            yield number


def facts_of_block(passes: Passes) -> dict[str, Any]:
    """Return under what circumstances a block is made, for its marker."""
    return {
        "batch_size": passes.batch_size,
        "device": str(passes.llm.device),
        "code": _manifest.code_version()["sha"],
    }


def write_block(
    folder: Path,
    store: ActivationStore,
    number: int,
    items: Sequence[Item],
    answers: Sequence[Answer],
    states: Mapping[tuple[str, str], Any],
    more: Mapping[str, Any],
    check: Callable[[], None] | None = None,
) -> None:
    """Write all of a block, and last the marker that declares it finished.

    States take a while to write. So `check` is called once more before the marker, and raises where the Run has become
    another's: that one would take the block for its own.
    """
    failed = sum(answer.reason is not None for answer in answers)
    facts = {"items": len(items), "failed": failed, **more, "nonfinite": _nonfinite(store, answers, states)}
    with storing(folder, f"block {number}"):
        store.write(number, states)
        checksum = write_predictions(folder, number, items, answers)
        if check is not None:
            check()
        _blocks.write_marker(folder, number, {**facts, "predictions_crc32": checksum})


def _nonfinite(store: ActivationStore, answers: Sequence[Answer], states: Mapping[tuple[str, str], Any]) -> Counts:
    """Count the items of a block whose states are not finite, by site."""
    ok = np.array([answer.reason is None for answer in answers])
    options = [answer.option_logprobs for answer in answers]
    return count(states, ok, clipping=store.dtype == "float16", options=options)


def ahead(
    passes: Passes, bench: Benchmark, bounds: Sequence[tuple[int, int]]
) -> Iterator[tuple[list[Item], list[Heard]]]:
    """Yield blocks with their clips heard, one block ahead of the model in another thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="vpanalysis-listen") as thread:

        def begin(start: int, stop: int) -> Any:
            block = [bench[i] for i in range(start, stop)]
            return block, thread.submit(passes.listen, block)

        waiting = begin(*bounds[0]) if bounds else None
        for number in range(len(bounds)):
            assert waiting is not None
            block, future = waiting
            heard = future.result()
            waiting = begin(*bounds[number + 1]) if number + 1 < len(bounds) else None
            yield block, heard


def release(items: Sequence[Item]) -> None:
    """Let go of clips that were synthesized and are kept in memory; they are needed once."""
    for item in items:
        release = getattr(item.audio, "release", None)
        if release is not None:
            release()
