"""Qwen-Omni's way: clips laid end to end, cut into short pieces, and projected inside the tower.

Why it exists. The audio towers of Qwen2.5-Omni and Qwen3-Omni take all clips of a batch as one long sequence of valid
frames and cut each clip into chunks that share no convolution: attention stays inside 2 s (Qwen2.5-Omni: each chunk)
or 8 s (Qwen3-Omni: eight chunks of 1 s). So no silence is encoded, no clip is too long for a window, and states come
as (all frames, width). The tower also holds what other families call the projector.

The idea. ``encoder[i]`` and ``encoder.stem`` are as everywhere. ``tower`` is the output of the tower's last norm,
``ln_post``, which is pooled and normed and has the encoder's width; ``projector`` is the output of the linear layer
behind it (the last of two in Qwen3-Omni), which is what the language model is given. An encoded clip holds ``tower``;
when it is replayed, the tower's own layers behind the norm are run on it.

The processor of Qwen2.5-Omni fills every clip with silence up to 300 s before the mel features are made, and the model
drops it again. With `trim` the features that `encode` makes end soon behind the longest clip.

Qwen3-Omni counts 13 frames for each full second and one for each 80 ms begun of the rest. There a clip shorter than a
second depends on whether another clip of its batch is longer, because the end of a short chunk is not masked between
convolutions: measured on a tiny random model, logits of a clip of 0.5 s change by 1e-3. It is left as it is.

Worked example::

    frontend = OmniFrontend(family, model, processor, trim=True)
    inputs, layout = frontend.features([wave_of_1_s, wave_of_3_s])
    frontend.run_tower(inputs, layout).shape       # (25 + 75, 1280)
    frontend.handed_on(state).shape                # (100, 3584)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vpanalysis.errors import ModelError
from vpanalysis.models.batch import Layout
from vpanalysis.models.frontends.base import Frontend, Wave
from vpanalysis.models.mixer import outputs_of

__all__ = ["Omni3Frontend", "OmniFrontend"]


class OmniFrontend(Frontend):
    """Valid frames of all clips end to end (the thinker of Qwen2.5-Omni)."""

    flat = True
    mask_name = "feature_attention_mask"
    behind_norm: tuple[str, ...] = ("proj",)
    """Parts of the tower behind its last norm, in order."""

    def layout(self, samples: Sequence[int]) -> Layout:
        """Return valid frames of clips of these lengths; see `Frontend.layout`."""
        mels = [-(-count // int(self.feature_extractor.hop_length)) for count in samples]
        frames, positions = [], []
        for i, (count, valid) in enumerate(zip(samples, mels, strict=True)):
            self._check_length(i, count)
            frames.append((self._tower_frames(valid),))
            positions.append((self._positions(valid),))
            if frames[-1][0] < 1:
                raise self.too_short(i)
        return Layout(tuple(frames), tuple(positions))

    def _check_length(self, index: int, samples: int) -> None:
        # The processor would cut it there and say nothing.
        if samples > int(self.feature_extractor.n_samples):
            raise self.too_long(index, samples)

    def _positions(self, mels: int) -> int:
        return self.family.encoder_frames(mels)

    def _tower_frames(self, mels: int) -> int:
        return self.family.tower_frames(mels)

    def _mels(self, positions: int) -> int:
        """Return a number of mel frames that gives `positions`."""
        return 2 * positions

    def features(self, waves: Sequence[Wave], *, short: bool = False) -> tuple[dict[str, Tensor], Layout]:
        """Return log-mel features and their mask; see `Frontend.features`."""
        extractor = self.feature_extractor
        audio = [np.asarray(wave, dtype=np.float32) for wave in waves]
        layout = self.layout([len(wave) for wave in audio])
        made = extractor(
            audio,
            sampling_rate=extractor.sampling_rate,
            return_attention_mask=True,
            return_tensors="pt",
            **(self._short(audio) if short and self.trim else self._stock()),
        )
        return {"input_features": made["input_features"], self.mask_name: made["attention_mask"]}, layout

    def _stock(self) -> dict[str, object]:
        return {"padding": "max_length"}

    def _short(self, audio: Sequence[Wave]) -> dict[str, object]:
        # The short-time window of a valid frame must not reach the end of the input, where it would be reflected.
        extractor = self.feature_extractor
        hop = int(extractor.hop_length)
        mels = -(-max(len(wave) for wave in audio) // hop) + -(-int(extractor.n_fft) // (2 * hop)) + 1
        longest = min(mels * hop, int(extractor.n_samples))
        return {"padding": "max_length", "max_length": longest, "truncation": False}

    def run_tower(self, inputs: dict[str, Tensor], layout: Layout) -> Tensor:
        """Run the stock tower up to its last norm; see `Frontend.run_tower`."""
        with outputs_of([self.family.find(self.model, self.family.tower_output)]) as states:
            self.model.get_audio_features(**inputs)
        return states[0]

    def shortened(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return inputs that end with the longest clip; see `Frontend.shortened`."""
        if not self.trim or self.mask_name not in inputs:
            return inputs
        mels = int(inputs[self.mask_name].sum(-1).max())
        return {**inputs, **{name: inputs[name][..., :mels] for name in ("input_features", self.mask_name)}}

    def handed_on(self, state: Tensor) -> Tensor:
        """Return what the tower makes of the output of its last norm; see `Frontend.handed_on`."""
        for name in self.behind_norm:
            state = self.tower.get_submodule(name)(state)
        return state

    def stand_in(self, layout: Layout) -> dict[str, Tensor]:
        """Return an empty input with a true mask; see `Frontend.stand_in`."""
        valid = torch.tensor([self._mels(n) for n in layout.row_positions])
        longest = int(valid.max())
        mask = torch.arange(longest)[None, :] < valid[:, None]
        empty = torch.zeros(()).expand(len(valid), int(self.feature_extractor.feature_size), longest)
        return {"input_features": empty, self.mask_name: mask.long()}

    def check(self, name: str) -> None:
        """Refuse a feature extractor with other mel bins; see `Frontend.check`."""
        found, wanted = int(self.feature_extractor.feature_size), int(self.tower.config.num_mel_bins)
        if found != wanted:
            raise ModelError(
                f"cannot use the feature extractor with {name!r}", found=f"{found} mel bins", allowed=str(wanted)
            )


class Omni3Frontend(OmniFrontend):
    """Valid frames of all clips end to end, 13 for each full second (the thinker of Qwen3-Omni)."""

    behind_norm = ("proj1", "act", "proj2")

    # Hugging Face's rule has this number in it, whatever the chunk; it is what a chunk of 100 mel frames gives.
    _OF_CHUNK = 13

    @property
    def _chunk(self) -> int:
        return 2 * int(self.tower.config.n_window)

    @property
    def seconds_per_frame(self) -> tuple[float, float]:
        """Mean step in seconds between encoder positions, and between tower frames, which are as many."""
        extractor = self.feature_extractor
        step = self._chunk * extractor.hop_length / extractor.sampling_rate / self._OF_CHUNK
        return step, step

    def _check_length(self, index: int, samples: int) -> None:
        """Take clips of any length, as the processor does."""

    def _positions(self, mels: int) -> int:
        chunks, rest = divmod(mels, self._chunk)
        return self._OF_CHUNK * chunks + self.family.encoder_frames(rest)

    def _tower_frames(self, mels: int) -> int:
        return self._positions(mels)

    def _mels(self, positions: int) -> int:
        chunks, rest = divmod(positions, self._OF_CHUNK)
        stride = 1
        for _, (_, step, _) in self.family.stem:
            stride *= step
        return self._chunk * chunks + stride * rest

    def _stock(self) -> dict[str, object]:
        return {"padding": True, "truncation": False}

    def _short(self, audio: Sequence[Wave]) -> dict[str, object]:
        # The processor adds no silence behind the longest clip.
        return self._stock()
