"""The hearing half of a model: its encoder, the frames that it counts, and names for the places inside it.

Why it exists. Whether a model answers questions or only encodes speech, recorders and probes ask the same of it: which
module holds the state of ``encoder[3]``, which frames of it are real, and what the encoder makes of a clip.

The idea. No numerics of its own: features come from the model's own processor, states from the tower's own forward, and
a *site* is a name for a module that is already there. What a kind of model does in its own way is said by its row in
the family table and by its frontend.

Worked example::

    with model.capturing(["encoder[1]", "tower"]) as states:
        clips = model.encode(waves)
    states["encoder[1]"][0].shape                       # (windows, positions, width)
    clips[0].streams["tower"].shape                     # (valid frames, width)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from html import escape
from typing import Any, cast

import torch
from torch import Tensor, nn

from vpanalysis.errors import ModelError
from vpanalysis.models._sites import module_of_site, sites_of, state_of
from vpanalysis.models._weights import digest, digest_of, parts_by_path
from vpanalysis.models.batch import EncodedClip, Layout
from vpanalysis.models.families import Family, family_of
from vpanalysis.models.frontends import Frontend, Wave, frontend_of
from vpanalysis.models.mixer import outputs_of, pool_state
from vpanalysis.models.split import parts_of

__all__ = ["AudioModel"]

_ALIKE, _ALIKE_ON_CPU = 1.5, 1.1
"""How much longer than the shortest the longest clip of a batch of the encoder may be.

A processor gains nothing from large batches; an accelerator needs some work to be busy, and pays in padding for it.
"""


_REHASHED = 200_000_000
"""Bytes of weights up to which they are hashed anew whenever their hash is asked for: a tenth of a second or two."""


class AudioModel:
    """A loaded model as far as it hears.

    Parameters and attributes are those of `AudioLLM`, which is what `load_model` returns.
    """

    trim_report: str

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str | None = None,
        family: Family | None = None,
        source: str | None = None,
        revision: str | None = None,
        trim: bool = True,
    ) -> None:
        self.source, self.revision = source, revision
        self.calibration: Mapping[str, Any] | None = None
        self._weights_sha: dict[str, str] | None = None
        self.processor = processor
        self.name = name or getattr(model.config, "name_or_path", "") or type(model).__name__
        self.family = family or family_of(model.config.model_type)
        model = self.family.inner(model)
        self.family = self.family.fitted(model)
        self.model: Any = model.eval()
        self.family.check(model)
        self.answers = self.family.answers
        self.frontend: Frontend = frontend_of(self.family, model, processor, trim=trim)
        self.frontend.check(self.name)
        self.feature_extractor: Any = self.frontend.feature_extractor
        self.tokenizer: Any = getattr(processor, "tokenizer", None)
        self.streams: tuple[str, ...] | None = None
        self._stream_of: tuple[str, ...] = ("tower",)
        if self.family.mixer is not None:
            config = model.config
            self.streams = config.stream_names
            self._stream_of = self.streams if config.stream_sources == "layers" else ("tower",) * config.num_streams
        self.stream_inputs: tuple[str, ...] = tuple(dict.fromkeys(self._stream_of)) if self.answers else ()
        self.sites: tuple[str, ...] = sites_of(self.family, model)
        self.max_seconds = self.frontend.max_seconds
        self.seconds_per_frame = self.frontend.seconds_per_frame
        self.seconds_per_token = self.frontend.seconds_per_token

    @property
    def device(self) -> torch.device:
        """Where the model's inputs go."""
        return cast(torch.device, self.model.device)

    @property
    def dtype(self) -> torch.dtype:
        """The model's floating-point type."""
        return cast(torch.dtype, self.model.dtype)

    def __repr__(self) -> str:
        layers = sum(site.startswith("encoder[") for site in self.sites)
        text = sum(site.startswith("text[") for site in self.sites)
        mixer = f"\n  mixer    {len(self.streams)} streams: {', '.join(self.streams)}" if self.streams else ""
        encoder, tower = self.seconds_per_frame
        known = self.calibration
        calibrated = (
            f"  read as  calibrated on {known['created'][:10]}: {known['decided'] or 'nothing was decided'}; "
            f"{len(known['items'])} items left out of scores\n"
            if known
            else ""
        )
        return (
            f"AudioLLM {self.name!r} ({self.family.title})\n"
            f"  encoder  {layers} layers, {1000 * encoder:g} ms a position, {self.frontend.reach}\n"
            f"  tower    {1000 * tower:g} ms a frame{mixer}\n"
            f"  text     {f'{text} layers' if self.answers else 'none: an encoder alone'}\n"
            f"  silence  {self.frontend.silence}\n{calibrated}"
            f"  on       {self.device}, {str(self.dtype).removeprefix('torch.')}"
        )

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"

    # Places -----------------------------------------------------------------------------------------------------------

    def module_of(self, site: str) -> nn.Module:
        """Return the module whose forward output is the state of `site`.

        The output is a tensor, a tuple that begins with it, or a ModelOutput. ``encoder.stem`` and ``text.embed`` are
        the *inputs* of a first layer; for them a stand-in is returned, on which only `register_forward_hook` may be
        called: the hook is then called with the input as if it were an output.

        Parameters
        ----------
        site : str
            One of `sites` other than ``"options"``.

        Raises
        ------
        ModelError
            If there is no such site, or it is no module's output.
        """
        return self.frontend.view(site, module_of_site(self.family, self.model, self.sites, site))

    @contextmanager
    def capturing(self, sites: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
        """Keep the states of some sites during a block, whole and unreduced.

        Parameters
        ----------
        sites : sequence of str
            Which ones.

        Yields
        ------
        dict of str to list of Tensor
            One tensor per call of the module, as it came, on the model's device.
        """
        states: dict[str, list[Tensor]] = {site: [] for site in sites}
        handles = []

        def keeper(site: str) -> Any:
            def keep(_module: Any, _args: Any, output: Any) -> None:
                states[site].append(state_of(output))

            return keep

        try:
            for site in states:
                handles.append(self.module_of(site).register_forward_hook(keeper(site)))  # noqa: PERF401
            yield states
        finally:
            for handle in handles:
                handle.remove()

    # Hearing ----------------------------------------------------------------------------------------------------------

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype) if tensor.is_floating_point() else tensor.to(self.device)

    def features(self, waves: Sequence[Wave]) -> tuple[dict[str, Tensor], Layout]:
        """Return the tower's inputs, made by the model's own processor, and how the clips lie in their rows.

        Parameters
        ----------
        waves : sequence of array, each of shape (samples,), float32, 16 kHz
            The clips.

        Returns
        -------
        inputs : dict of str to Tensor
            Named as the model's forward takes them: for log-mel features ``input_features``, shape (windows, mel bins,
            mel frames), and their mask. On the model's device.
        layout : Layout
            Windows and valid frames.

        Raises
        ------
        AudioError
            If a clip is too short for a single audio token.
        """
        return self._features(waves, short=False)

    def _features(self, waves: Sequence[Wave], *, short: bool) -> tuple[dict[str, Tensor], Layout]:
        inputs, layout = self.frontend.features(waves, short=short)
        return {name: self._moved(tensor) for name, tensor in inputs.items()}, layout

    def layout(self, waves: Sequence[Wave]) -> Layout:
        """Return the windows and valid frames that these clips will have, without making features.

        Parameters
        ----------
        waves : sequence of array, each of shape (samples,)
            The clips.

        Raises
        ------
        AudioError
            If a clip is too short for a single audio token.
        """
        return self.frontend.layout([len(wave) for wave in waves])

    # Not inference mode: what the encoder kept may be trained on.
    @torch.no_grad()
    def encode(self, waves: Sequence[Wave], streams: Sequence[str] | None = None) -> list[EncodedClip]:
        """Run the encoder once and keep what the rest of the model needs.

        Parameters
        ----------
        waves : sequence of array, each of shape (samples,), float32, 16 kHz
            The clips.
        streams : sequence of str, optional
            What to keep, ``"tower"`` and any ``"encoder[i]"``; `stream_inputs` by default. Asking for more than this
            model needs lets one encoding serve several models with the same encoder.

        Returns
        -------
        list of EncodedClip
            Valid frames only, in the model's dtype, on its device.

        Raises
        ------
        ModelError
            If a stream is not one of the encoder's.
        """
        names = tuple(dict.fromkeys(streams if streams is not None else self.stream_inputs))
        # A layer is kept for a mixer, pooled as one does it; an encoder alone has none.
        layers = {site: int(site[8:-1]) for site in self.sites if site.startswith("encoder[") and self.answers}
        for name in names:
            if name != "tower" and name not in layers:
                raise ModelError(
                    "cannot keep a stream of the encoder", found=repr(name), allowed=["tower", *layers], word=name
                )
        clips: list[EncodedClip] = []
        for start, stop in self._alike(waves):
            clips += self._encode(waves[start:stop], names, layers)
        return clips

    def _alike(self, waves: Sequence[Wave]) -> list[tuple[int, int]]:
        """Return ranges of consecutive clips of about one length, which are run together.

        Where silence is left out, a batch is as long as its longest clip; what the shorter ones are padded with is
        work on silence again. Clips stay in order, so that whoever records them sees consecutive rows.
        """
        if not self.frontend.trim or self.frontend.flat or not waves:
            return [(0, len(waves))]
        lengths = [max(clip) for clip in self.layout(waves).positions]
        most = _ALIKE_ON_CPU if self.device.type == "cpu" else _ALIKE
        ranges, start = [], 0
        for stop in range(1, len(lengths) + 1):
            part = lengths[start : stop + 1]
            if stop == len(lengths) or max(part) > most * min(part):
                ranges.append((start, stop))
                start = stop
        return ranges

    def _encode(self, waves: Sequence[Wave], names: Sequence[str], layers: Mapping[str, int]) -> list[EncodedClip]:
        inputs, layout = self._features(waves, short=True)
        encoder = cast(nn.ModuleList, self.family.find(self.model, self.family.encoder_layers))
        exposed = sorted((name for name in names if name != "tower"), key=layers.__getitem__)
        with outputs_of([encoder[layers[name]] for name in exposed]) as raw:
            states = {"tower": self.frontend.padded(self.frontend.run_tower(inputs, layout), layout, "tower")}
        states |= {
            name: pool_state(self.frontend.tower, state, self._mid_pool)
            for name, state in zip(exposed, raw, strict=True)
        }
        clips: list[EncodedClip] = []
        row = 0
        for wave, frames in zip(waves, layout.kept_frames, strict=True):
            rows = range(row, row + len(frames))
            row += len(frames)
            kept = {name: torch.cat([states[name][r, :n] for r, n in zip(rows, frames, strict=True)]) for name in names}
            clips.append(EncodedClip(kept, frames, len(wave)))
        return clips

    # Identity ---------------------------------------------------------------------------------------------------------

    @property
    def weights_sha(self) -> dict[str, str]:
        """SHA-256 (hex) of each part's tensors, by the names of the split layout.

        Of a small model as it is now, so that one which was changed in place is another one; of a large one as it was
        when this was first asked for.
        """
        parts = self._parts()
        size = sum(tensor.numel() * tensor.element_size() for part in parts.values() for tensor in part.values())
        if self._weights_sha is None or size <= _REHASHED:
            self._weights_sha = {part: digest(tensors) for part, tensors in parts.items()}
        return self._weights_sha

    def _parts(self) -> dict[str, dict[str, Tensor]]:
        return parts_of(self.model) if self.family.split else parts_by_path(self.family, self.model)

    @cached_property
    def encoder_sha(self) -> str:
        """SHA-256 (hex) of all that decides what `encode` returns, except which streams are kept.

        That is the encoder's weights and dtype, the feature extractor, and what is done to a layer before it is kept.
        """
        tower = digest(self._parts()["sound_tower"])
        # Leaving out silence changes the last bits, and so do the kernels of another form of attention.
        ways = [self._mid_pool, self.frontend.trim, getattr(self.model.config, "_attn_implementation", None)]
        return digest_of([tower, self.feature_extractor.to_dict(), *ways])

    @property
    def _mid_pool(self) -> str:
        return str(getattr(self.model.config, "mid_pool", "avg_norm"))
