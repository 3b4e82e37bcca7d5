"""How is this checkpoint to be read? Ask it, under every reading, and let its answers decide, or say that they do not.

Why it exists. The releases with a layer mixer do not say how layers are numbered, whether they are normed before their
projectors, in which order the gate's outputs come, which text the gate reads, or how BERT's states become one vector. A
checkpoint that is read wrongly loads without a sign of it and answers worse. A model that was trained under one reading
answers best under that one, so its own answers can tell.

The idea. Every combination of values (48, or 72 with BERT's pooler) answers the same few hundred questions. The encoder
runs once per clip. A third of the items chooses the best combination; the rest judges it against others, paired, with
intervals that allow for speakers and for how many questions the data are asked (`vpanalysis._calibration_evidence`).
What is decided is written to a small file that `load_model` finds; what is not keeps its stated or natural value. The
items are spent: they are left out of every later score of this model, and Runs say so.

What it cannot say. Two readings that give the same answers are the same to this method. A model that does not hear
decides nothing, and neither do items that it answers no better than chance. And a decision says that answers are better
under one reading, which is a reason to believe that the model was trained with it, and no proof.

Worked example::

    found = vp.calibrate("checkpoints/AF3_PCLM_DPO", "IHP-Lab/VoxParadox", limit=400)
    found                       # a table: decided, in use, differences with intervals
    found.decided               # {"layer_index_convention": "block_output_1based", ...}
    vp.load_model("checkpoints/AF3_PCLM_DPO")      # read that way from now on
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vpanalysis import _manifest
from vpanalysis._calibration import Calibration
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import ModelError, SchemaError
from vpanalysis.models.conventions import (
    CALIBRATION_NAME,
    CONVENTIONS,
    cached_calibration,
    fingerprint,
    stated_conventions,
)

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Benchmark, Item
    from vpanalysis.benchmark.prompts import PromptTemplate
    from vpanalysis.models.facade import AudioLLM

__all__ = ["Calibration", "calibrate", "fingerprint_of"]

_FEWEST = 12
# What varies only with a mixer that weighs layers, and only with one that reads the prompt.
_OF_LAYERS, _OF_PROMPT = ("layer_index_convention", "mid_pool"), ("gate_text", "bert_pooling")


def calibrate(
    model: AudioLLM | str | Path,
    benchmark: Benchmark | str,
    *,
    limit: int | None = 200,
    conventions: Iterable[str] | Mapping[str, Sequence[str]] | None = None,
    template: PromptTemplate = DEFAULT_PROMPT,
    level: float = 0.95,
    random_state: int | None = 0,
    batch_size: int = 16,
    save: bool | str | Path = True,
    progress: bool = True,
) -> Calibration:
    """Find out how a checkpoint with a layer mixer is to be read, by its answers.

    Parameters
    ----------
    model : AudioLLM, str or Path
        What `load_model` returns or takes. A loaded one keeps the conventions that it has now; see
        :meth:`Calibration.apply`. It counts as the checkpoint that it was loaded from: where its weights were changed
        in memory, save it as a checkpoint first, or do not `save` the result.
    benchmark : Benchmark or str
        What `load_benchmark` returns or takes. Its items are spent: an item is left out of later scores of this model,
        known by its question, its options and the content key of its audio. (A clip that was encoded anew, or that was
        synthesized here and exported there, has another key.)
    limit : int, optional
        At most so many items, drawn at random, spread evenly over tasks, and one rendition of a design cell before a
        second. All of them for None.
    conventions : iterable of str, or mapping of str to sequence of str, optional
        Which conventions to vary, and with which values; by default all that the model has. The others stay as they
        are.
    template : PromptTemplate
        Wording of the question.
    level : float
        Of all intervals together.
    random_state : int or None
        Draws the items, and which of them choose.
    batch_size : int
        Items a forward.
    save : bool, str or Path
        Whether to keep the result where `load_model` finds it: beside the checkpoint's ``config.json``, or, for bundled
        checkpoints, the Hub's cache and folders that cannot be written, in the user's cache. A path writes it there
        instead.
    progress : bool
        Show a bar on standard error.

    Returns
    -------
    Calibration

    Raises
    ------
    ModelError
        If the model has no mixer, or nothing that could be read in two ways.
    SchemaError
        If the benchmark has too few usable items.

    Warns
    -----
    UserWarning
        If the result cannot be written.

    Notes
    -----
    The probability that any convention is decided that the answers do not favour is at most ``1 - level``: the items
    that judge have not chosen, and intervals are Bonferroni-corrected for the number of conventions.
    """
    from vpanalysis._calibration_build import built
    from vpanalysis._calibration_scores import readings_of, score_readings

    llm = _loaded(model)
    if llm.streams is None:
        raise ModelError(
            f"cannot calibrate {llm.name!r}", found="a model without a layer mixer",
            allowed="a checkpoint with a mixer, whose conventions may be unknown",
        )  # fmt: skip
    bench = _listed(benchmark)
    folder = _folder(llm)
    stated = stated_conventions(folder) if folder is not None else {}
    asked = _asked(llm, conventions)
    reference = _reference(llm, folder, stated, asked)
    items = spread(bench, limit, random_state)
    readings = readings_of(llm, reference, asked, items, template)
    if len(readings.every) < 2 and not readings.unfit:
        raise ModelError(f"cannot calibrate {llm.name!r}", found="only one way to read it", allowed=list(CONVENTIONS))
    # Before the hours of asking: a checkpoint without files has no fingerprint.
    facts = {
        "model": llm.name, "source": llm.source, "revision": llm.revision, "fingerprint": fingerprint_of(llm),
        "benchmark": {
            "name": bench.name, "source": bench.source, "revision": bench.revision, "sha": bench.sha,
            "items": len(bench),
        },
        "settings": {
            "limit": limit, "template": template.sha, "batch_size": batch_size, "random_state": random_state,
            "dtype": str(llm.dtype).removeprefix("torch."), "device": str(llm.device),
        },
    }  # fmt: skip
    table = score_readings(llm, items, readings.every, template, batch_size=batch_size, progress=progress)
    if len(table.items) < _FEWEST:
        raise SchemaError(
            f"cannot calibrate {llm.name!r} on {bench.name!r}",
            found=f"{len(table.items)} usable items" + (f", {len(table.failed)} failed" if table.failed else ""),
            allowed=f"at least {_FEWEST}, better 200",
        )
    found = built(table, readings, reference, stated, facts, level=level, random_state=random_state)
    return found if save is False else _saved(found, folder, None if save is True else Path(save))


def fingerprint_of(llm: AudioLLM) -> str:
    """Return what a calibration calls the checkpoint of a loaded model: of its files, else of its weights."""
    folder = _folder(llm)
    if folder is not None:
        return fingerprint(folder)
    return "memory-" + _manifest.text_sha("|".join(f"{part}={sha}" for part, sha in sorted(llm.weights_sha.items())))


def spread(bench: Benchmark, limit: int | None, random_state: int | None) -> list[Item]:
    """Return items at random, task by task in turn, and one rendition of a design cell before a second.

    Twins say much the same about a model; items of other cells say something new.

    Parameters
    ----------
    bench : Benchmark
    limit : int, optional
        How many; all for None.
    random_state : int or None
    """
    if limit is not None and limit < 1:
        raise SchemaError("cannot calibrate", found=f"limit {limit}", allowed="1 or more")
    rng = np.random.default_rng(random_state)
    met: dict[tuple[str, str], int] = {}
    turns: dict[str, list[tuple[int, int]]] = {}
    for place in rng.permutation(len(bench)):
        item = bench[int(place)]
        cell = (item.task_name, item.cell or item.id)
        met[cell] = met.get(cell, 0) + 1
        turns.setdefault(item.task_name, []).append((met[cell], int(place)))
    # Sorting is stable: among first renditions the random order stays.
    ordered = {task: [place for _, place in sorted(row, key=lambda one: one[0])] for task, row in turns.items()}
    queue = [
        (turn, number, place) for number, task in enumerate(bench.tasks) for turn, place in enumerate(ordered[task])
    ]
    return [bench[place] for _, _, place in sorted(queue)][:limit]


def _loaded(model: AudioLLM | str | Path) -> AudioLLM:
    if not isinstance(model, (str, Path)):
        return model
    from vpanalysis.models.loading import load_model

    return load_model(model, calibration=False)


def _listed(benchmark: Benchmark | str) -> Benchmark:
    from vpanalysis.benchmark.items import Benchmark

    if isinstance(benchmark, Benchmark):
        return benchmark
    from vpanalysis.benchmark.sources import load_benchmark

    return load_benchmark(benchmark)


def _folder(llm: AudioLLM) -> Path | None:
    """Return where the checkpoint of a loaded model lies; None for a model from memory."""
    if llm.source is None:
        return None
    from vpanalysis.models.loading import checkpoint_folder

    return checkpoint_folder(llm.source, llm.revision)


def _reference(
    llm: AudioLLM, folder: Path | None, stated: Mapping[str, str], asked: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """Return a value for every convention: of those that vary what the files state, else the natural one.

    The others stay as the model has them now; so do all of a model from memory, about which nothing else is known.
    """
    from vpanalysis.models._live import live_conventions

    natural = {name: stated.get(name, CONVENTIONS[name][0]) for name in asked}
    return live_conventions(llm) if folder is None else {**live_conventions(llm), **natural}


def _asked(
    llm: AudioLLM, conventions: Iterable[str] | Mapping[str, Sequence[str]] | None
) -> dict[str, tuple[str, ...]]:
    """Return the conventions to vary with the values to try, checked, without those that this mixer does not have."""
    config = llm.model.config
    idle = set(_OF_LAYERS if config.stream_sources != "layers" else ())
    idle |= set(_OF_PROMPT if config.gate_mode != "prompt" else ())
    if conventions is None:
        return {name: values for name, values in CONVENTIONS.items() if name not in idle}
    wanted = dict(conventions) if isinstance(conventions, Mapping) else {n: CONVENTIONS.get(n, ()) for n in conventions}
    for name, values in wanted.items():
        if name not in CONVENTIONS:
            raise ModelError("cannot calibrate a convention", found=repr(name), allowed=list(CONVENTIONS), word=name)
        if name in idle:
            raise ModelError(
                f"cannot calibrate {name!r} of {llm.name!r}",
                found=f"a mixer with gate_mode {config.gate_mode!r} and stream_sources {config.stream_sources!r}",
                allowed=[n for n in CONVENTIONS if n not in idle],
            )
        for value in values:
            if value not in CONVENTIONS[name]:
                raise ModelError(f"cannot try {name}", found=repr(value), allowed=CONVENTIONS[name], word=str(value))
    return {name: tuple(wanted[name]) for name in CONVENTIONS if name in wanted}


def _saved(found: Calibration, folder: Path | None, place: Path | None) -> Calibration:
    """Write a calibration where it was asked for, or where loading looks for it; a full disk must not lose it."""
    targets = [place] if place is not None else _targets(found, folder)
    problem = "a model from memory has no checkpoint to keep it with; give save a path"
    for target in targets:
        made = found.at(target)
        try:
            made.save(target)
        except OSError as error:
            problem = f"{error.strerror or error}: {target}"
        else:
            return made
    warnings.warn(f"the calibration of {found.model!r} is not saved: {problem}", stacklevel=3)
    return found


def _targets(found: Calibration, folder: Path | None) -> list[Path]:
    """Return where loading looks for the calibration of a checkpoint, the best place first."""
    if folder is None:
        return []
    elsewhere = cached_calibration(found.fingerprint)
    ours = not _is_bundled(folder) and "snapshots" not in folder.parts and os.access(folder, os.W_OK)
    return [folder / CALIBRATION_NAME, elsewhere] if ours else [elsewhere]


def _is_bundled(folder: Path) -> bool:
    from vpanalysis.models.bundled import weights_folder

    return weights_folder().resolve() in folder.resolve().parents
