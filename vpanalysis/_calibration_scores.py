"""What a model answers under every reading of its mixer: the table that a calibration decides on.

The encoder runs once per clip, and the states of all layers that any reading exposes are pooled both ways from that one
run. Prompts and gate texts are tokenized once per text. Then each reading takes one forward of the rest of the model
per batch, by the very code that answers when the checkpoint is loaded that way. All readings of a batch are done before
the next batch is encoded, so that no more than one batch of states is held.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from vpanalysis.benchmark.audio import duration_of
from vpanalysis.errors import AudioError
from vpanalysis.models._live import reading_as
from vpanalysis.models.conventions import CONVENTIONS
from vpanalysis.models.mixer import pool_state

if TYPE_CHECKING:
    from torch import Tensor

    from vpanalysis.benchmark.items import Item
    from vpanalysis.benchmark.prompts import PromptTemplate
    from vpanalysis.models.batch import EncodedClip
    from vpanalysis.models.facade import AudioLLM

__all__ = ["Readings", "ScoreTable", "readings_of", "score_readings"]


@dataclass(frozen=True)
class Readings:
    """The readings to be compared.

    Attributes
    ----------
    values : mapping of str to tuple of str
        The conventions that vary, with their possible values; one value where only one fits.
    every : tuple of dict
        All combinations, each a value for all conventions.
    unfit : mapping of str to str
        Values that were left out, as ``"gate_text=chat"``, with the reason.
    """

    values: Mapping[str, tuple[str, ...]]
    every: tuple[dict[str, str], ...]
    unfit: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoreTable:
    """Answers of one model under every reading.

    Attributes
    ----------
    items : tuple of Item
        Those that could be heard, in the order of the benchmark.
    loglik : array, shape (item, reading), float64
        Natural log-probability of the truth among the offered options.
    right : array, shape (item, reading), bool
        Whether the truth was the most probable of them.
    entropy : array, shape (reading,), float64
        Mean entropy of the gate's weights, in nats.
    failed : mapping of str to str
        Ids of the others, and why.
    """

    items: tuple[Item, ...]
    loglik: NDArray[np.float64]
    right: NDArray[np.bool_]
    entropy: NDArray[np.float64]
    failed: Mapping[str, str]


def readings_of(
    llm: AudioLLM,
    reference: Mapping[str, str],
    asked: Mapping[str, Sequence[str]],
    items: Sequence[Item],
    template: PromptTemplate,
) -> Readings:
    """Return all combinations of the asked values that fit the model; what was not asked for keeps its reference.

    Parameters
    ----------
    llm : AudioLLM
    reference : mapping of str to str
        A value for every convention.
    asked : mapping of str to sequence of str
        Conventions to vary, with the values to try.
    items : sequence of Item
        Whose gate texts must fit the prompt encoder.
    template : PromptTemplate
    """
    unfit: dict[str, str] = {}
    values: dict[str, tuple[str, ...]] = {}
    for name, wanted in asked.items():
        kept = []
        for value in wanted:
            why = _unfit(llm, name, value, items, template)
            if why is None:
                kept.append(value)
            else:
                unfit[f"{name}={value}"] = why
        if kept:
            values[name] = tuple(kept)
    every = [{**reference, **dict(zip(values, some, strict=True))} for some in itertools.product(*values.values())]
    # Of equals the one that changes least is wanted, so the reference comes first.
    every.sort(key=lambda one: sum(one[name] != reference[name] for name in values))
    return Readings(values, tuple(every), unfit)


def _unfit(llm: AudioLLM, name: str, value: str, items: Sequence[Item], template: PromptTemplate) -> str | None:
    """Return why a value cannot be true of this model, or None."""
    config = llm.model.config
    if name == "layer_index_convention":
        first = 1 if value == CONVENTIONS[name][0] else 0
        depth = int(config.audio_config.num_hidden_layers)
        if not all(first <= k < first + depth for k in config.expose_layers):
            return f"expose_layers {list(config.expose_layers)} of {depth} layers are no numbers from {first}"
    if name == "bert_pooling" and value == "pooler" and not getattr(config, "prompt_encoder_pooler", False):
        return "the checkpoint has no weights of BERT's pooler"
    if name == "gate_text" and config.prompt_encoder_config is not None:
        room = int(config.prompt_encoder_config.max_position_embeddings)
        with reading_as(llm, {name: value}):
            texts = [llm.gate_text(item, template) for item in items]
        longest = max(len(row) for row in llm.gate_tokenizer(texts)["input_ids"])
        if longest > room:
            return f"{longest} tokens, and the prompt encoder takes {room}"
    return None


def score_readings(
    llm: AudioLLM,
    items: Sequence[Item],
    readings: Sequence[Mapping[str, str]],
    template: PromptTemplate,
    *,
    batch_size: int,
    progress: bool,
) -> ScoreTable:
    """Ask every question under every reading.

    Parameters
    ----------
    llm : AudioLLM
        With a mixer; its own conventions are as before afterwards.
    items : sequence of Item
    readings : sequence of mapping
        From `readings_of`.
    template : PromptTemplate
    batch_size : int
        Items a forward.
    progress : bool
        Show a bar on standard error.
    """
    loglik = np.full((len(items), len(readings)), np.nan)
    right = np.zeros(loglik.shape, dtype=np.bool_)
    entropy, failed = np.zeros(len(readings)), {}
    # Clips of similar length share a batch, so that there is little padding.
    lengths, order = {}, []
    for row, item in enumerate(items):
        try:
            lengths[row] = duration_of(item.audio)
            order.append(row)
        except AudioError as error:
            failed[item.id] = str(error)
    order.sort(key=lambda row: (lengths[row], row))
    label = f"{llm.name}: {len(readings)} readings"
    with tqdm(total=len(items), desc=label, unit="item", disable=not progress) as bar:
        bar.update(len(failed))
        for start in range(0, len(order), batch_size):
            rows, waves = [], []
            for row in order[start : start + batch_size]:
                wave = _heard(llm, items[row], failed)
                if wave is not None:
                    rows.append(row)
                    waves.append(wave)
            if rows:
                block = _Block(llm, [items[row] for row in rows], waves, readings, template)
                for column, reading in enumerate(readings):
                    loglik[rows, column], right[rows, column], spread = block.ask(reading)
                    entropy[column] += spread
            bar.update(len(order[start : start + batch_size]))
    kept = [row for row, item in enumerate(items) if item.id not in failed]
    return ScoreTable(tuple(items[row] for row in kept), loglik[kept], right[kept], entropy / max(1, len(kept)), failed)


def _heard(llm: AudioLLM, item: Item, failed: dict[str, str]) -> Any:
    try:
        wave = item.audio.load()
        llm.layout([wave])
    except AudioError as error:
        failed[item.id] = str(error)
        return None
    return wave


def _rows(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the states of consecutive clips, which were run in parts of unequal length, as rows of one tensor."""
    longest = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part in parts])


class _Block:
    """A batch of items, encoded once, to be asked under one reading after the other."""

    def __init__(
        self,
        llm: AudioLLM,
        items: Sequence[Item],
        waves: Sequence[Any],
        readings: Sequence[Mapping[str, str]],
        template: PromptTemplate,
    ) -> None:
        self.llm, self.items = llm, items
        self.truths = [item.choices.index(item.truth) for item in items]
        exposed = set()
        for reading in readings:
            with reading_as(llm, reading):
                exposed |= {name for name in llm.stream_inputs if name != "tower"}
        pools = {reading["mid_pool"] for reading in readings}
        tower = llm.family.find(llm.model, llm.family.tower)
        with torch.no_grad(), llm.capturing(sorted(exposed)) as raw:
            self.clips = llm.encode(waves, ["tower"])
            self.pooled = {
                (name, how): _rows([pool_state(tower, part, how) for part in raw[name]])
                for name in exposed
                for how in pools
            }
        self.batches = {}
        for text in dict.fromkeys(reading["gate_text"] for reading in readings):
            with reading_as(llm, {"gate_text": text}):
                self.batches[text] = llm.prepare(items, None, template, encoded=self.clips)

    def ask(self, reading: Mapping[str, str]) -> tuple[list[float], list[bool], float]:
        """Return log-probability of the truth and whether it came first, by item, and the gate's summed entropy."""
        llm, batch = self.llm, self.batches[reading["gate_text"]]
        with reading_as(llm, reading), llm.capturing(["gate"]) as seen:
            logits = llm.forward(batch, self._clips(reading["mid_pool"]))
        scores = [row.double() for row in llm.option_logprobs(batch, logits)]
        weights = seen["gate"][0].double()
        entropy = float(torch.special.entr(weights).sum())
        loglik = [float(row[truth]) for row, truth in zip(scores, self.truths, strict=True)]
        right = [int(row.argmax()) == truth for row, truth in zip(scores, self.truths, strict=True)]
        return loglik, right, entropy

    def _clips(self, how: str) -> list[EncodedClip]:
        made, row = [], 0
        for clip in self.clips:
            streams: dict[str, Tensor] = {"tower": clip.streams["tower"]}
            for name, pool in self.pooled:
                if pool == how:
                    state = self.pooled[name, pool]
                    pieces = [state[row + i, :frames] for i, frames in enumerate(clip.windows)]
                    streams[name] = torch.cat(pieces)
            made.append(dataclasses.replace(clip, streams=streams))
            row += len(clip.windows)
        return made
