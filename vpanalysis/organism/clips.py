"""Training clips: speakers and wordings of the train split, in combinations that the recipe asks for.

Two kinds. *Pairs* say one text at one rate with two voices, so they are aligned frame by frame; the encoder learns from
them which part of the sound is the words. *Mixed items* ask a question about a clip whose words claim something
independent of the voice, so that neither words nor their opposite help; the language model learns from them. Nothing
here touches a speaker, a wording or a cell of the test split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from vpanalysis.benchmark.items import TASKS, Item
from vpanalysis.benchmark.mini.cells import Cell, cells, level_of
from vpanalysis.benchmark.mini.items import MiniAudio, render
from vpanalysis.benchmark.mini.rendering import Utterance, utterance
from vpanalysis.benchmark.mini.synthesis import Synthesizer
from vpanalysis.benchmark.mini.voices import rng_for
from vpanalysis.organism.sizes import extractor_config

__all__ = ["Features", "Pair", "features_of", "mixed_cells", "mixed_items", "pairs", "speak_all"]

Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class Pair:
    """One text, two voices.

    Attributes
    ----------
    words : tuple of str
        What is said, word by word.
    first, second : Utterance
    """

    words: tuple[str, ...]
    first: Utterance
    second: Utterance


def _claim(cell: Cell, rng: np.random.Generator, silent: float) -> str | None:
    """Draw what the words claim: nothing with probability `silent`, else any label with equal probability."""
    if rng.random() < silent:
        return None
    labels = sorted({level_of(cell.task, option) for option in cell.options if _sayable(cell, option)})
    return labels[int(rng.integers(len(labels)))]


def _sayable(cell: Cell, option: str) -> bool:
    # Rise-fall and fall-rise are offered but never claimed nor true, as in the release.
    return not (cell.task == "intonation_perception" and "-" in option)


def _voices(cell: Cell) -> list[str]:
    return [option for option in cell.options if _sayable(cell, option)]


def pairs(n: int, *, seed: int = 0, tasks: Sequence[str] = TASKS) -> Iterator[Pair]:
    """Yield `n` frame-aligned pairs, tasks in turn."""
    pools = {task: cells(task, "train", 600) for task in tasks}
    for number in range(n):
        task = tasks[number % len(tasks)]
        rng = rng_for("pair", seed, number)
        one, two = (pools[task][int(rng.integers(len(pools[task])))] for _ in range(2))
        claim = _claim(one, rng, 0.35)
        first = utterance(one, claim, str(rng.choice(_voices(one))))
        # The other voice says the first one's words at its rate.
        other = replace(
            two, frame=one.frame, rate=one.rate, synonym=one.synonym, target=one.target, options=one.options,
            truth=two.truth if two.truth in one.options else one.truth,
        )  # fmt: skip
        voice = other.truth if task in ("age_prediction", "gender_prediction") else str(rng.choice(_voices(one)))
        second = utterance(other, claim, voice)
        timed = tuple(replace(s, rate=f.rate) for s, f in zip(second.segments, first.segments, strict=True))
        yield Pair(tuple(first.transcript.split()), first, replace(second, segments=timed))


def mixed_items(n: int, *, seed: int = 0, silent: float = 0.4, tasks: Sequence[str] = TASKS) -> Iterator[Item]:
    """Yield `n` questions, tasks in turn, with words independent of the voice.

    Parameters
    ----------
    n : int
    seed : int
    silent : float
        Share of clips whose words claim nothing.
    tasks : sequence of str

    Returns
    -------
    iterator of Item
        Not yet spoken.
    """
    for cell, claim, voice in mixed_cells(n, seed=seed, silent=silent, tasks=tasks):
        yield render(cell, words=claim, voice=voice)


def mixed_cells(
    n: int, *, seed: int = 0, silent: float = 0.4, tasks: Sequence[str] = TASKS
) -> Iterator[tuple[Cell, str | None, str]]:
    """Yield the (cell, claim, voice) behind `mixed_items`."""
    pools = {task: cells(task, "train", 1200) for task in tasks}
    for number in range(n):
        task = tasks[number % len(tasks)]
        rng = rng_for("mixed", seed, number)
        cell = pools[task][int(rng.integers(len(pools[task])))]
        # The voice is any label that can be true, so that the cell's own truth is one of many.
        voice = cell.truth if task in ("age_prediction", "gender_prediction") else str(rng.choice(_voices(cell)))
        yield cell, _claim(cell, rng, silent), voice


def speak_all(recipes: Sequence[Utterance], *, progress: str | None = None) -> Iterator[Waveform]:
    """Yield the waveform of each recipe."""
    with Synthesizer() as synthesizer:
        for recipe in tqdm(recipes, desc=progress, unit="clip", disable=progress is None):
            yield MiniAudio(recipe).speak(synthesizer)


@dataclass
class Features:
    """Log-mel features of many clips.

    Attributes
    ----------
    mel : array, shape (clip, mel bin, mel frame), float16
    frames : array, shape (clip,), int64
        Valid mel frames.
    """

    mel: NDArray[np.float16]
    frames: NDArray[np.int64]


def features_of(recipes: Sequence[Utterance], *, progress: str | None = None) -> Features:
    """Synthesize clips and return their features, as the processor of the organism computes them."""
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(**extractor_config())
    mel = np.zeros((len(recipes), extractor.feature_size, extractor.nb_max_frames), dtype=np.float16)
    frames = np.zeros(len(recipes), dtype=np.int64)
    batch: list[Waveform] = []
    done = 0
    for number, wave in enumerate(speak_all(recipes, progress=progress)):
        batch.append(wave[: extractor.n_samples])
        if len(batch) == 32 or number + 1 == len(recipes):
            made = extractor(
                batch, sampling_rate=16_000, padding="max_length", return_attention_mask=True, return_tensors="np"
            )
            mel[done : done + len(batch)] = made["input_features"]
            frames[done : done + len(batch)] = made["attention_mask"].sum(-1)
            done += len(batch)
            batch.clear()
    return Features(mel, frames)
