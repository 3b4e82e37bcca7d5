"""The rest of the model as a function of one site's state.

Why it exists. Captum differentiates and perturbs a function of a tensor. What is wanted is the margin of an item as a
function of the state at some place, everything else held fixed. Wrapping the whole model would run the encoder again at
every step, though nothing behind it changes what it does.

The idea. One item, its own clip, one forward, in which the state of the site is kept, and with it what the modules
before the site put out. From then on these modules are stood in for by what they put out: the encoder by the encoded
clip, the projectors, the mixer and the text layers up to the site by their kept outputs, and the gate, which reads the
prompt and never the clip, by its weights. Any number of states of the site are then asked about in one forward, all of
one item, so that no row is padded::

    f = SiteFunction(llm, item, DEFAULT_PROMPT, "mixed", wave, clip)
    f.x.shape                                   # (frame, width): the state as it was
    f(states)                                   # (row, frame, width) -> margins (row,)

Nothing of the model is computed here by other code than its own; stand-ins and hooks are gone after every call.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from vpanalysis.attribution._hooks import Positions, changed, watched, with_state
from vpanalysis.attribution._margin import margin_of_logits
from vpanalysis.attribution._spans import aligned, heard_only, token_spans
from vpanalysis.attribution.gradients._grid import Grid
from vpanalysis.errors import RunError
from vpanalysis.models._replay import Replayed
from vpanalysis.models._sites import state_of
from vpanalysis.models.batch import Layout
from vpanalysis.stats import BoolArray

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Item
    from vpanalysis.benchmark.prompts import PromptTemplate
    from vpanalysis.models.batch import Batch, EncodedClip
    from vpanalysis.models.facade import AudioLLM
    from vpanalysis.models.frontends import Wave

__all__ = ["FEATURES", "SiteFunction", "frozen", "in_encoder", "known_site", "sites_for"]

FEATURES = "features"
"""The name of the log-mel input, which is no module's output and so no site."""

_NUMBER = re.compile(r"\[(\d+)\]$")


def sites_for(llm: AudioLLM) -> list[str]:
    """Return the places whose state a margin can be explained by, from waveform to answer."""
    sites = [site for site in llm.sites if site not in ("gate", "options")]
    if llm.frontend.flat:
        # One sequence for all clips: only what is handed on clip by clip can be told apart.
        return [site for site in sites if site == "tower" or site.startswith("text")]
    return [FEATURES, *sites] if hasattr(llm.feature_extractor, "mel_filters") else sites


def known_site(llm: AudioLLM, site: str) -> str:
    """Return the place that is asked for; where there is no mixer, ``"mixed"`` is what the projector hands on.

    Raises
    ------
    RunError
        For a place that the model does not have.
    """
    known = sites_for(llm)
    if site == "mixed" and site not in known and "projector" in known:
        return "projector"
    if site not in known:
        raise RunError(
            f"cannot attribute to {site!r}", found=f"no such place in {llm.name!r}", allowed=known, word=site
        )
    return site


def in_encoder(site: str) -> bool:
    """Whether the encoder (or a part of it) has to run for every state of the site."""
    return site == FEATURES or site.startswith("encoder")


@contextmanager
def frozen(llm: AudioLLM) -> Iterator[None]:
    """Let no parameter ask for a gradient during the block: states are explained, and graphs stay small."""
    asking = [parameter for parameter in llm.model.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


def _tiled(state: Tensor, rows: int) -> Tensor:
    """Return a state as often as there are rows, without copying where it is of one window."""
    return state[None].expand(rows, *state.shape).flatten(0, 1)


def _repeated(batch: Batch, rows: int) -> Batch:
    """Return a batch of one item as one of `rows` times that item."""
    one = batch.layout
    layout = Layout(
        one.frames * rows, one.positions * rows, None if one.tokens is None else one.tokens * rows,
        None if one.heard is None else one.heard * rows, None if one.kept is None else one.kept * rows,
    )  # fmt: skip
    inputs = {name: _tiled(tensor, rows) for name, tensor in batch.inputs.items()}
    return replace(
        batch, items=batch.items * rows, prompts=batch.prompts * rows, inputs=inputs, layout=layout,
        encoded=None if batch.encoded is None else batch.encoded * rows, answer_tokens=batch.answer_tokens * rows,
    )  # fmt: skip


def _unmoved(llm: AudioLLM, site: str) -> list[str]:
    """Return the paths of modules whose output does not depend on the site's state."""
    family = llm.family
    match = _NUMBER.search(site)
    index = int(match.group(1)) if match else -1
    out: list[str | None] = [family.gate]
    if site.startswith("encoder["):
        out += [f"{family.encoder_layers}.{layer}" for layer in range(index + 1)]
    projectors = [f"{family.stream_projectors}.{k}" for k in range(len(llm.streams or ()) - 1)] + [family.projector]
    if family.mixer is not None and not in_encoder(site):
        heard = dict(zip(projectors, llm._stream_of, strict=True))
        out += [path for path in projectors if site != "tower" or heard[path] != "tower"]
    elif site.startswith(("projector", "text")):
        module = family.find(llm.model, family.projector)
        # Where a family shows its projector in another form than the module's own, the module runs as it is.
        out += [family.projector] if llm.frontend.view("projector", module) is module else []
    if site == "mixed" or site.startswith("text"):
        out.append(family.mixer)
    if site.startswith("text["):
        out += [f"{family.text_layers}.{layer}" for layer in range(index + 1)]
    return [path for path in out if path is not None]


@contextmanager
def _kept(llm: AudioLLM, paths: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Keep what modules put out during the block."""
    outputs: dict[str, Any] = {}
    with ExitStack() as stack:
        for path in paths:

            def keep(_module: nn.Module, _args: Any, output: Any, path: str = path) -> None:
                outputs[path] = output

            handle = llm.family.find(llm.model, path).register_forward_hook(keep)
            stack.callback(handle.remove)
        yield outputs


@contextmanager
def _stood_in(llm: AudioLLM, outputs: Mapping[str, Any], rows: int) -> Iterator[None]:
    """Let modules hand back what they put out before, as often as there are rows; they are back after the block."""
    places = []
    for path in outputs:
        parent, _, name = path.rpartition(".")
        places.append((llm.model.get_submodule(parent)._modules, name, llm.model.get_submodule(path)))
    try:
        for (modules, name, module), output in zip(places, outputs.values(), strict=True):
            modules[name] = Replayed(module, with_state(output, _tiled(state_of(output), rows)))
        yield
    finally:
        for modules, name, module in places:
            modules[name] = module


class _Enough(Exception):
    """The state that a forward was run for is there."""


class SiteFunction:
    """The margin of one item as a function of the state of one site.

    Parameters
    ----------
    llm : AudioLLM
    item : Item
        With foils.
    template : PromptTemplate
    site : str
        Of :func:`sites_for`.
    wave : array, shape (samples,), float32, 16 kHz
        The item's clip.
    clip : EncodedClip, optional
        The same, encoded; for sites behind the encoder.

    Attributes
    ----------
    x : Tensor, shape (position, width)
        The state as the model has it: of valid frames, of all windows one after the other, or of all tokens. At the
        log-mel input of shape (mel bin, frame, 1): the last axis is always summed over in a map.
    grid : Grid
        What the positions are.
    margin : float
        Of the item, in nats.
    """

    def __init__(
        self, llm: AudioLLM, item: Item, template: PromptTemplate, site: str, wave: Wave,
        clip: EncodedClip | None = None,
    ) -> None:  # fmt: skip
        self.llm, self.item, self.template, self.site = llm, item, template, site
        self.batch = self._prepared(wave, clip)
        self.frames = self._mel_frames(self.batch, wave)
        known = self._at_hand(self.batch, self.frames)
        with (
            torch.no_grad(),
            _kept(llm, _unmoved(llm, site)) as kept,
            watched(llm, [site] if known is None else []) as seen,
        ):
            logits = self._logits(self.batch)
        self._before: dict[str, Any] = dict(kept)
        self.x = self._valid(torch.cat(seen[site]), self.batch) if known is None else known
        self.margin = float(margin_of_logits(llm, item, logits)[0])
        self.grid = self._grid()

    def _prepared(self, wave: Wave, clip: EncodedClip | None) -> Batch:
        if clip is None or in_encoder(self.site):
            return self.llm.prepare([self.item], [wave], self.template)
        return self.llm.prepare([self.item], None, self.template, encoded=[clip])

    def _mel_frames(self, batch: Batch, wave: Wave) -> list[int]:
        """Return how many mel frames of every window are explained."""
        if self.site != FEATURES:
            return []
        extractor = self.llm.feature_extractor
        size = int(extractor.sampling_rate * extractor.chunk_length)
        # The stem's filters look a little past the last frame of the clip: what stands there is heard as well.
        reach, step = 0, 1
        for _, (kernel, stride, padding) in self.llm.family.stem:
            reach += (kernel - 1 - padding) * step
            step *= stride
        most = batch.inputs["input_features"].shape[-1]
        lengths = [min(size, len(wave) - k * size) for k in range(batch.windows[0])]
        return [min(most, -(-length // int(extractor.hop_length)) + reach) for length in lengths]

    def _logits(self, batch: Batch) -> Tensor:
        return self.llm._run(batch, None, 1)[:, -1].float()

    def _at_hand(self, batch: Batch, frames: Sequence[int]) -> Tensor | None:
        """Return the state of the site where no forward is needed for it, in single precision."""
        if self.site == FEATURES:
            features = batch.inputs["input_features"]
            state = torch.cat([row[:, :count] for row, count in zip(features, frames, strict=True)], dim=1)
            return state.float()[..., None]
        if self.site == "tower" and batch.encoded is not None:
            state = batch.encoded[0].streams["tower"]
            return state[batch.layout.is_clip(0).to(state.device)].float()
        return None

    def _valid(self, state: Tensor, batch: Batch) -> Tensor:
        """Return the valid positions of the site's state of one item, in single precision."""
        if state.ndim == 2:
            # Some projectors hand on the windows end to end.
            state = state.reshape(batch.windows[0], -1, state.shape[-1])
        rows, columns = self._places(batch)
        return state[rows.to(state.device), columns.to(state.device)].float()

    def _places(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return rows and columns of the valid positions of the site's state, in order."""
        mask = batch.inputs["attention_mask"].cpu().bool()
        none = torch.zeros_like(mask)
        found = Positions.of_site(self.site, batch.layout, mask, none)
        return found.text[0] if self.site.startswith("text") else found.audio[0]

    def _grid(self) -> Grid:
        llm, shape = self.llm, tuple(self.x.shape[:-1])
        every = np.ones(shape[-1], dtype=bool)
        if self.site == FEATURES:
            extractor = llm.feature_extractor
            return Grid(shape, extractor.hop_length / extractor.sampling_rate, every)
        if not self.site.startswith("text"):
            encoder, tower = llm.seconds_per_frame
            steps = {"encoder": encoder, "tower": tower}
            return Grid(shape, steps.get(re.split(r"[.\[]", self.site)[0], llm.seconds_per_token), every)
        spans = token_spans(llm, self.batch, self.template)
        heard = heard_only(self.batch.layout, spans["audio"])[0].numpy()
        named = np.full(shape, "answer", dtype=object)
        for name in ("question", "options"):
            named[spans[name][0].numpy()] = name
        named[spans["audio"][0].numpy()] = "silence"
        named[heard] = "audio"
        ids = self.batch.inputs["input_ids"][0].tolist()
        return Grid(
            shape, llm.seconds_per_token, heard, tuple(llm.tokenizer.decode([i]) for i in ids), tuple(named)
        )  # fmt: skip

    @property
    def said(self) -> BoolArray:
        """Which positions are text, shape (position,): neither the clip nor the silence behind it."""
        silent = [span == "silence" for span in self.grid.spans] or [False] * len(self.grid.audio)
        return np.asarray(~self.grid.audio & ~np.array(silent, dtype=bool), dtype=np.bool_)

    def state(self, wave: Wave, clip: EncodedClip | None = None) -> Tensor:
        """Return the state of another clip at the site, asked the same, laid over the item's own.

        Where its length differs it is stretched or squeezed linearly in time; text is taken token by token.

        Returns
        -------
        Tensor, shape of `x`
        """
        batch = self._prepared(wave, clip)
        known = self._at_hand(batch, self._mel_frames(batch, wave))
        other = self._reached(batch) if known is None else known
        if self.site == FEATURES:
            return aligned(other[..., 0].T, self.x.shape[1], "resample").T[..., None]
        if not self.site.startswith("text"):
            return aligned(other, len(self.x), "resample")
        tokens = batch.inputs["input_ids"].cpu() == self.llm._audio_token_id
        theirs, heard = tokens[0], heard_only(batch.layout, tokens)[0]
        mine, said = torch.as_tensor(self.grid.audio), torch.as_tensor(self.said)
        out = self.x.clone()
        out[mine] = aligned(other[heard], int(mine.sum()), "resample")
        out[said] = other[~theirs]
        silent, their_silence = ~mine & ~said, theirs & ~heard
        if silent.any() and their_silence.any():
            out[silent] = aligned(other[their_silence], int(silent.sum()), "resample")
        return out

    def _reached(self, batch: Batch) -> Tensor:
        """Return the state of the site from a forward that goes no further."""
        found: list[Tensor] = []

        def stop(state: Tensor) -> None:
            found.append(self._valid(state, batch))
            raise _Enough

        with torch.no_grad(), suppress(_Enough), changed(self.llm, self.site, stop):
            self._logits(batch)
        return found[0]

    def __call__(self, states: Tensor) -> Tensor:
        """Return the margin under each state.

        Parameters
        ----------
        states : Tensor, shape (row, position, width)
            Of the form of `x`.

        Returns
        -------
        Tensor, shape (row,), float32, nats
        """
        rows = len(states)
        batch = _repeated(self.batch, rows)
        with ExitStack() as stack:
            stack.enter_context(_stood_in(self.llm, self._before, rows))
            if self.site == FEATURES:
                batch.inputs["input_features"] = self._with_features(batch.inputs["input_features"], states)
            elif self.site == "tower" and batch.encoded is not None:
                batch.encoded = tuple(
                    replace(clip, streams={**clip.streams, "tower": self._heard_as(clip.streams["tower"], state)})
                    for clip, state in zip(batch.encoded, states, strict=True)
                )
            else:
                stack.enter_context(changed(self.llm, self.site, lambda state: self._written(state, states)))
            logits = self._logits(batch)
        return margin_of_logits(self.llm, self.item, logits)

    def _heard_as(self, whole: Tensor, state: Tensor) -> Tensor:
        """Return the tower's frames with those of the clip replaced."""
        here = self.batch.layout.is_clip(0).to(whole.device)
        if bool(here.all()):
            return state.to(whole.device, whole.dtype).view(whole.shape)
        new = whole.clone()
        new[here] = state.to(whole.device, whole.dtype)
        return new

    def _with_features(self, features: Tensor, states: Tensor) -> Tensor:
        # Silence behind the clip stays what the model's own processor made it.
        new = features.clone()
        windows, start = len(self.frames), 0
        for window, count in enumerate(self.frames):
            new[window::windows, :, :count] = states[:, :, start : start + count, 0].to(new.dtype)
            start += count
        return new

    def _written(self, state: Tensor, states: Tensor) -> Tensor:
        """Return the state of the site with its valid positions replaced."""
        rows, columns = (index.to(state.device) for index in self._places(self.batch))
        count = len(states)
        values = states.to(state.device, state.dtype)
        if values.shape == state.shape:
            return values
        shape = state.shape
        if len(shape) == 2:
            state = state.reshape(count * self.batch.windows[0], -1, shape[-1])
        windows = state.shape[0] // count
        at = (torch.arange(count, device=state.device)[:, None] * windows + rows[None]).flatten()
        new = state.clone()
        new[at, columns.repeat(count)] = values.flatten(0, 1)
        return new.view(shape)
