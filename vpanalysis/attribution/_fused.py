"""Prompts with more audio tokens than the model would make, and an attention weight on them.

The embeddings of a usual prompt are read in front of the first text layer, the projected tokens of encoder layers are
put in behind the last audio token, and the model's own forward gets the longer embeddings with a four-dimensional mask:
0 where a token may be attended to, ``log(w)`` more on the appended ones, the most negative number elsewhere.

The control puts in another clip's tokens. They must differ from the own ones in whose they are and in nothing else, so
a donor is a clip of other content and of the nearest length, and its frames are cut, or begin again where they end.
Stretching them would average neighbours, and the control would be of smoother tokens than the fusion.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from vpanalysis.attribution._asking import NoClip
from vpanalysis.attribution._settings import held_bytes
from vpanalysis.benchmark.audio import SAMPLE_RATE
from vpanalysis.errors import AudioError, RunError
from vpanalysis.models._replay import last_positions
from vpanalysis.models._sites import state_of
from vpanalysis.stats import FloatArray

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Item
    from vpanalysis.benchmark.prompts import PromptTemplate
    from vpanalysis.models.batch import Batch, EncodedClip
    from vpanalysis.models.facade import AudioLLM
    from vpanalysis.models.frontends import Wave

__all__ = ["Chunk", "check_fusable"]

_AGREES, _HALF = {torch.float32: 1e-3}, 0.25
"""How far logits with hidden tokens may be from those without them: rounding, in full and in half precision."""


def check_fusable(llm: AudioLLM) -> None:
    """Raise :class:`RunError` for a model whose layers cannot be appended, with the reason."""
    asked = f"cannot fuse layers into the prompts of {llm.name!r}"
    if not llm.answers:
        raise RunError(asked, found="an encoder that answers nothing")
    tower = llm.frontend.tower
    pooled = llm.family.pool is not None and hasattr(tower, "avg_pooler") and hasattr(tower, "layer_norm")
    if llm.frontend.flat or not pooled:
        raise RunError(
            asked,
            found=f"a tower ({llm.family.title}) whose layers are not pooled to the rate of its tokens",
            allowed="towers in the manner of Whisper: Audio Flamingo 3, Qwen2-Audio, with or without PCLM",
        )
    if llm.family.counts_positions:
        raise RunError(asked, found=f"a family ({llm.family.title}) that counts positions by rules of its own")
    used = str(getattr(llm.model.config.get_text_config(), "_attn_implementation", None))
    if used not in ("sdpa", "eager"):
        raise RunError(asked, found=f"the attention implementation {used!r}", allowed=("sdpa", "eager"),
                       fix="load the model with attn_implementation='sdpa'")  # fmt: skip


@dataclass
class _Usual:
    """A batch as the model would be asked: what it holds in front of the first text layer, and what it answers."""

    batch: Batch
    embeds: Tensor
    logits: Tensor


class Chunk:
    """Items whose clips are encoded with the layers that will be appended.

    Parameters
    ----------
    llm : AudioLLM
    items : sequence of Item
    spare : sequence of Item
        Where a donor is taken from when all of these items have one clip.
    template : PromptTemplate
    layers : sequence of str
        ``encoder[i]`` or ``tower``.
    batch_size : int
    projector : {"own", "final"}
    seed : int
        Of the choice among donors of equal length.
    control : bool
        Whether donors are needed at all.

    Attributes
    ----------
    items : list of Item
        Those whose clips can be loaded and fit the model.
    encoded : list of EncodedClip
    donors : list of EncodedClip
        For every item a clip of other content, nearest in length; empty where there is no other at all.

    Raises
    ------
    RunError
        Where no clip can be used.
    """

    def __init__(
        self, llm: AudioLLM, items: Sequence[Item], spare: Sequence[Item], template: PromptTemplate,
        layers: Sequence[str], batch_size: int, projector: str, seed: int, control: bool = True,
    ) -> None:  # fmt: skip
        self.llm, self.template, self.batch_size, self.projector = llm, template, batch_size, projector
        loaded = list(_usable(llm, items))
        if not loaded:
            raise NoClip(f"cannot ask {llm.name!r}", found=f"no usable clip among {len(items)} items")
        # By length, so that a batch has little padding.
        loaded.sort(key=lambda pair: len(pair[1]))
        self.items = [item for item, _ in loaded]
        streams = tuple(dict.fromkeys([*llm.stream_inputs, *layers]))
        self.encoded: list[EncodedClip] = []
        for start in range(0, len(loaded), batch_size):
            self.encoded += llm.encode([wave for _, wave in loaded[start : start + batch_size]], streams)
        self.donors: list[EncodedClip] = []
        contents = [_content(wave) for _, wave in loaded]
        if control and len(set(contents)) > 1:
            lengths = [sum(clip.windows) for clip in self.encoded]
            chosen = _nearest(contents, lengths, np.random.default_rng(seed))
            self.donors = [self.encoded[other] for other in chosen]
        elif control:
            wave = _spare_wave(llm, spare, loaded[0][1])
            self.donors = [] if wave is None else llm.encode([wave], streams) * len(loaded)
        self._usual: dict[int, _Usual] = {}

    def unfused(self) -> list[FloatArray]:
        """Return the options' log-probabilities of every item, as the model is."""
        out: list[FloatArray] = []
        for start in range(0, len(self.items), self.batch_size):
            usual = self._at(start)
            out += _options(self.llm, usual.batch, usual.logits)
        return out

    def held_bytes(self) -> int:
        """Return how many bytes of states are held once all batches have been asked."""
        embeds = max((u.embeds.numel() * u.embeds.element_size() for u in self._usual.values()), default=0)
        return held_bytes(self.encoded) + embeds * -(-len(self.items) // self.batch_size)

    def trial(self) -> Tensor:
        """Do one forward of the first batch with a layer appended, to be timed."""
        self._at(0)
        return self._fused(0, ("tower",), {"tower": 1.0}, "follow", "own")

    def _at(self, start: int) -> _Usual:
        if start not in self._usual:
            part = slice(start, start + self.batch_size)
            batch = self.llm.prepare(self.items[part], None, self.template, encoded=self.encoded[part])
            with self.llm.capturing(["text.embed"]) as seen:
                logits = self.llm.forward(batch)
            self._usual[start] = _Usual(batch, seen["text.embed"][0], logits)
            if len(self._usual) == 1:
                self._check(start)
        return self._usual[start]

    def _check(self, start: int) -> None:
        """Compare with the model: tokens made by hand of the tower's output, and a forward in which all are hidden."""
        asked = f"cannot fuse layers into the prompts of {self.llm.name!r}"
        most = _AGREES.get(self.llm.dtype, _HALF)
        usual = self._usual[start]
        if self.llm.streams is None:
            ids, mask = usual.batch.inputs["input_ids"][0], usual.batch.inputs["attention_mask"][0].bool()
            given = usual.embeds[0][mask & (ids == self.llm._audio_token_id)]
            with torch.inference_mode():
                mine = self._tokens(self.encoded[start], "tower")
            if mine.shape != given.shape or not float((mine - given).abs().max()) <= most:
                raise RunError(asked, found="audio tokens that are not the tower's frames behind the projector alone")
        hidden = self._fused(start, ("tower",), {"tower": 0.0}, "shared", "own")
        apart = float((hidden - usual.logits).abs().max())
        if not apart <= most:
            raise RunError(asked, found=f"logits that change by {apart:.2g} when hidden tokens are appended")

    def fused(
        self, layers: Sequence[str], weights: Mapping[str, float], positions: str, source: str
    ) -> list[FloatArray]:
        """Return the options' log-probabilities with layers appended, of every item; of none where there is no donor.

        Parameters
        ----------
        layers : sequence of str
        weights : mapping of str to float
            Of the attention to each layer's tokens.
        positions : {"follow", "shared"}
        source : {"own", "other clip"}
        """
        out: list[FloatArray] = []
        if source != "own" and not self.donors:
            return out
        for start in range(0, len(self.items), self.batch_size):
            logits = self._fused(start, layers, weights, positions, source)
            out += _options(self.llm, self._at(start).batch, logits)
        return out

    @torch.inference_mode()
    def _fused(
        self, start: int, layers: Sequence[str], weights: Mapping[str, float], positions: str, source: str
    ) -> Tensor:
        """Return the logits of the answer position, shape (item, token), float32."""
        llm, usual = self.llm, self._at(start)
        clips = self.encoded if source == "own" else self.donors
        clips = clips[start : start + self.batch_size]
        ids, mask = usual.batch.inputs["input_ids"], usual.batch.inputs["attention_mask"].bool()
        rows, biases, places = [], [], []
        for k in range(len(usual.batch.items)):
            embeds, audio = usual.embeds[k][mask[k]], (ids[k][mask[k]] == llm._audio_token_id).nonzero().flatten()
            at = torch.arange(len(embeds), device=embeds.device)
            last = int(audio[-1]) + 1
            extra = [_laid(self._tokens(clips[k], layer), len(audio)).to(embeds) for layer in layers]
            more = len(audio) * len(layers)
            rows.append(torch.cat([embeds[:last], *extra, embeds[last:]]))
            bias = torch.zeros(len(embeds) + more, device=embeds.device)
            for number, layer in enumerate(layers):
                begin, weight = last + number * len(audio), weights[layer]
                bias[begin : begin + len(audio)] = math.log(weight) if weight > 0 else -math.inf
            biases.append(bias)
            shared = torch.cat([at[:last], *[audio] * len(layers), at[last:]])
            places.append(shared if positions == "shared" else torch.arange(len(embeds) + more, device=at.device))
        return _asked(llm, rows, biases, places)

    def _tokens(self, clip: EncodedClip, layer: str) -> Tensor:
        """Return the tokens of a layer of a clip, projected by the model's own projector, shape (token, width)."""
        llm = self.llm
        if llm.streams is None:
            site = "projector"
        else:
            known = list(llm.streams)
            own = self.projector == "own" and layer in known
            site = f"streams[{known.index(layer) if own else len(known) - 1}]"
        state = clip.streams[layer].to(llm.device, llm.dtype)
        return state_of(llm.module_of(site)(state[None]))[0]


def _usable(llm: AudioLLM, items: Iterable[Item]) -> Iterator[tuple[Item, Wave]]:
    """Yield items with their samples, but for those whose clip cannot be loaded or does not fit the model."""
    for item in items:
        try:
            wave = item.audio.load()
            llm.layout([wave])  # refuses what is too short or too long for this encoder
        except AudioError:
            continue
        yield item, wave


def _content(wave: Wave) -> str:
    """Return a digest of the samples: files of unlike bytes may hold the same sound."""
    return hashlib.sha256(np.ascontiguousarray(wave, dtype=np.float32).tobytes()).hexdigest()


def _nearest(contents: Sequence[str], lengths: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Return for every clip the position of one of other content that is nearest in length, at random among equals."""
    chosen = []
    for mine, length in zip(contents, lengths, strict=True):
        far = {k: abs(lengths[k] - length) for k, other in enumerate(contents) if other != mine}
        least = min(far.values())
        chosen.append(int(rng.choice([k for k, gap in far.items() if gap == least])))
    return chosen


def _spare_wave(llm: AudioLLM, spare: Sequence[Item], wave: Wave) -> Wave | None:
    """Return a clip of other content from among the spare ones, by how near it is in length; None without any."""
    seconds = len(wave) / SAMPLE_RATE
    near: list[tuple[float, int]] = []
    for number, item in enumerate(spare):
        try:
            near.append((abs(item.duration_s - seconds), number))
        except AudioError:
            continue
    mine = _content(wave)
    others = (other for _, other in _usable(llm, (spare[number] for _, number in sorted(near))))
    return next((other for other in others if _content(other) != mine), None)


def _laid(tokens: Tensor, count: int) -> Tensor:
    """Return so many tokens: cut, or from the first one again where they end."""
    return tokens[torch.arange(count, device=tokens.device) % len(tokens)]


def _options(llm: AudioLLM, batch: Batch, logits: Tensor) -> list[FloatArray]:
    return [row.numpy().astype(np.float64) for row in llm.option_logprobs(batch, logits)]


def _asked(llm: AudioLLM, rows: Sequence[Tensor], biases: Sequence[Tensor], places: Sequence[Tensor]) -> Tensor:
    """Run the model's forward on embeddings of unequal length, padded on the left.

    Parameters
    ----------
    llm : AudioLLM
    rows : sequence of Tensor, each of shape (token, width)
    biases : sequence of Tensor, each of shape (token,), float32
        Added to the attention logits of every query to this token; minus infinity hides it.
    places : sequence of Tensor, each of shape (token,), int64
    """
    longest = max(len(row) for row in rows)
    count, width, device = len(rows), rows[0].shape[-1], rows[0].device
    embeds = torch.zeros(count, longest, width, dtype=rows[0].dtype, device=device)
    bias = torch.full((count, longest), -math.inf, device=device)
    position = torch.zeros(count, longest, dtype=torch.long, device=device)
    for k, (row, extra, place) in enumerate(zip(rows, biases, places, strict=True)):
        embeds[k, longest - len(row) :], bias[k, longest - len(row) :] = row, extra
        position[k, longest - len(row) :] = place
    lowest = torch.finfo(embeds.dtype).min
    causal = torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
    allowed = causal[None] & (bias > -math.inf)[:, None, :]
    # Not infinity: a row of padding attends to nothing, and would give NaN.
    whole = torch.where(allowed, bias[:, None, :], lowest).to(embeds.dtype)[:, None]
    options: dict[str, Any] = {
        "inputs_embeds": embeds, "attention_mask": whole, "position_ids": position, "use_cache": False,
    }  # fmt: skip
    if llm.family.keeps_logits:
        return cast(Tensor, llm.model(**options, logits_to_keep=1).logits)[:, -1].float()
    with last_positions(llm.family.find(llm.model, str(llm.family.head)), 1):
        return cast(Tensor, llm.model(**options).logits)[:, -1].float()
