"""Rendered cells as items, and the mini benchmark as a Benchmark.

Clips are synthesized when they are first needed and kept in memory as 16-bit samples while the item lives. Their
content key is a hash of the *recipe* (words, voices, rates, gains, noise seed, and the version of the synthesizer), so
a cached encoding is found without speaking at all.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray

from vpanalysis.benchmark.items import TASKS, Benchmark, Item
from vpanalysis.benchmark.mini.cells import CELLS_PER_TASK, Cell, cells, claimed_options, level_of, partner
from vpanalysis.benchmark.mini.rendering import PLAIN, Utterance, utterance, waveform
from vpanalysis.benchmark.mini.synthesis import Synthesizer, shared_synthesizer
from vpanalysis.benchmark.mini.wordings import CLAIM_WORDS
from vpanalysis.errors import AudioError, SchemaError

__all__ = ["CONDITIONS", "MiniAudio", "load", "prefetch", "render", "render_condition"]

CONDITIONS = ("conflict", "congruent", "neutral", "voice-swap", "plain-voice")
"""Conditions that a cell can be rendered in; the first three are the benchmark's own."""

_LETTERS = "ABCDEFGH"
_RECIPE_VERSION = 1  # raise when the same recipe would sound different


@functools.cache
def _engine() -> str:
    try:
        return version("espeakng-loader")
    except PackageNotFoundError:
        return "none"


@dataclass(frozen=True)
class MiniAudio:
    """A clip that is spoken when it is needed.

    Attributes
    ----------
    recipe : Utterance
    """

    recipe: Utterance

    @functools.cached_property
    def _key(self) -> str:
        content = {"recipe": asdict(self.recipe), "engine": _engine(), "version": _RECIPE_VERSION}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def key(self) -> str:
        """Return the SHA-256 (hex) of the recipe: equal keys promise equal samples."""
        return self._key

    def describe(self) -> str:
        """Return the words, for messages."""
        return f"synthesized {self.recipe.transcript!r}"

    def load(self) -> NDArray[np.float32]:
        """Return the clip: shape (samples,), float32 on the 16-bit grid, 16 kHz.

        Raises
        ------
        AudioError
            When the synthesizer is not installed or fails.
        """
        return self.speak(shared_synthesizer())

    def speak(self, synthesizer: Synthesizer) -> NDArray[np.float32]:
        """Return the clip as spoken by `synthesizer`; the same as :meth:`load`, kept for the next call."""
        return (self.samples(synthesizer) / np.float32(32768)).astype(np.float32)

    def samples(self, synthesizer: Synthesizer | None = None) -> NDArray[np.int16]:
        """Return the clip as 16-bit samples, the form whose hash is compared between machines (see `fingerprints`).

        Parameters
        ----------
        synthesizer : Synthesizer, optional
            Who speaks; default: the one of this process.

        Returns
        -------
        array, shape (samples,), int16, 16 kHz
            Kept for the next call; do not write into it.
        """
        kept: NDArray[np.int16] | None = self.__dict__.get("_samples")
        if kept is None:
            wave = waveform(self.recipe, synthesizer or shared_synthesizer())
            kept = np.round(wave * 32767).astype(np.int16)
            self.__dict__["_samples"] = kept
        return kept

    @property
    def spoken(self) -> bool:
        """Whether the samples are in memory already."""
        return "_samples" in self.__dict__

    def release(self) -> None:
        """Forget the samples."""
        self.__dict__.pop("_samples", None)


def render(cell: Cell, *, words: str | None, voice: str) -> Item:
    """Render a cell with any words and any voice.

    Parameters
    ----------
    cell : Cell
    words : str or None
        The label that the words claim: an offered option, or a level ("high") in pattern tasks; None claims nothing.
    voice : str
        The option that the voice makes true (a level in pattern tasks means the offered order that begins with it), or
        ``"plain"`` for a voice that favours no option, where the task has one.

    Returns
    -------
    Item
        Its condition is named after how words and voice relate to the cell: ``conflict``, ``congruent``, ``neutral``,
        ``voice-swap``, ``plain-voice``, or ``words=...,voice=...`` for anything else. The truth of a plain-voice item
        is the cell's, for margins to be measured on the same options.

    Raises
    ------
    SchemaError
        For a label that is not offered, or a plain voice where the task has none.
    """
    labels = {level_of(cell.task, option) for option in cell.options}
    if words is not None:
        words = level_of(cell.task, words)
        labels &= set(CLAIM_WORDS[cell.task])  # two intonations are offered that nobody has a word for
        if words not in labels:
            raise SchemaError(
                f"cannot render the cell {cell.name!r}", found=f"words={words!r}", allowed=sorted(labels), word=words
            )
    if voice != PLAIN and voice not in cell.options:
        fitting = [o for o in cell.options if level_of(cell.task, o) == voice]
        if not fitting:
            raise SchemaError(
                f"cannot render the cell {cell.name!r}",
                found=f"voice={voice!r}",
                allowed=[*cell.options, PLAIN],
                word=voice,
            )
        voice = sorted(fitting)[0]
    condition = _name(cell, words, voice)
    said = () if words is None else claimed_options(cell, words)
    clip = utterance(cell, words, voice)
    return Item(
        id=f"{cell.name.replace('/', '__')}__{condition}",
        task_name=cell.task,
        question=cell.question,
        choices=cell.options,
        letters=tuple(_LETTERS[: len(cell.options)]),
        truth=cell.truth if voice == PLAIN else voice,
        said=said,
        condition=condition,
        foils=claimed_options(cell, cell.contradiction),
        audio=MiniAudio(clip),
        cell=cell.name,
        speaker=_speaker(cell, voice),
        voice=voice,
        script=cell.frame.name,
        transcript=clip.transcript,
        said_level=words,
    )


def _speaker(cell: Cell, voice: str) -> str:
    """Return who speaks (first): another person where the voice is another gender or age."""
    if cell.task in ("gender_prediction", "age_prediction") and voice != cell.truth:
        return partner(cell, voice).name
    return cell.speakers[0].name


def _name(cell: Cell, words: str | None, voice: str) -> str:
    conflict = words == cell.contradiction
    if voice == cell.truth:
        if words is None:
            return "neutral"
        if conflict:
            return "conflict"
        if words == cell.true_label:
            return "congruent"
    elif conflict and voice == PLAIN:
        return "plain-voice"
    elif conflict and level_of(cell.task, voice) == cell.contradiction:
        return "voice-swap"
    return f"words={words},voice={voice}"


def render_condition(cell: Cell, condition: str) -> Item:
    """Render a cell in one of the named `CONDITIONS`.

    Raises
    ------
    SchemaError
        For another name, or ``"plain-voice"`` where the task has no plain voice.
    """
    words_and_voice: dict[str, tuple[str | None, str]] = {
        "conflict": (cell.contradiction, cell.truth),
        "congruent": (cell.true_label, cell.truth),
        "neutral": (None, cell.truth),
        "voice-swap": (cell.contradiction, cell.contradiction),
        "plain-voice": (cell.contradiction, PLAIN),
    }
    if condition not in words_and_voice:
        raise SchemaError(
            f"cannot render the cell {cell.name!r}",
            found=f"condition {condition!r}",
            allowed=CONDITIONS,
            word=condition,
        )
    words, voice = words_and_voice[condition]
    return render(cell, words=words, voice=voice)


def load(
    *,
    split: str = "test",
    tasks: str | Sequence[str] | None = None,
    limit: int | None = None,
    conditions: Sequence[str] = CONDITIONS[:3],
    n: int | None = None,
) -> Benchmark:
    """Return VoxParadox-mini.

    Parameters
    ----------
    split : {"train", "validation", "test"}
    tasks : str or sequence of str, optional
        Default: all ten.
    limit : int, optional
        At most so many items, spread evenly over the tasks, twins together.
    conditions : sequence of str
        Of `CONDITIONS`.
    n : int, optional
        Cells a task; default `CELLS_PER_TASK`.

    Returns
    -------
    Benchmark
        Cell by cell, twins side by side. Nothing is synthesized yet.

    Raises
    ------
    SchemaError
        For unknown names.
    """
    if split not in CELLS_PER_TASK:
        raise SchemaError(
            "cannot load VoxParadox-mini", found=f"split {split!r}", allowed=list(CELLS_PER_TASK), word=split
        )
    chosen = TASKS if tasks is None else (tasks,) if isinstance(tasks, str) else tuple(tasks)
    items = [render_condition(cell, name) for task in chosen for cell in cells(task, split, n) for name in conditions]
    bench = Benchmark(items, name="mini", source="mini", revision=f"{split}-{_RECIPE_VERSION}")
    return bench if limit is None else bench.select(limit=limit)


def prefetch(items: Iterable[Item], *, workers: int = 2) -> Iterator[Item]:
    """Yield `items` in order with their clips already spoken, `workers` synthesizers ahead of the reader.

    Items whose audio is not synthesized pass through. A failure is left for the item's own `load` to raise.
    """
    queue = list(items)
    if workers < 2:
        yield from queue
        return
    pool = [Synthesizer() for _ in range(workers)]

    def speak(numbered: tuple[int, Item]) -> Item:
        number, item = numbered
        if isinstance(item.audio, MiniAudio):
            with contextlib.suppress(AudioError):
                item.audio.samples(pool[number % workers])
        return item

    try:
        with ThreadPoolExecutor(workers) as threads:
            for start in range(0, len(queue), 64):
                block = list(enumerate(queue[start : start + 64], start=start))
                yield from threads.map(speak, block)
    finally:
        for synthesizer in pool:
            synthesizer.close()
