"""The way of HuBERT and WavLM: the waveform itself, each clip whole.

Why it exists. These models have no window and no log-mel features: seven convolutions turn 16,000 samples a second into
50 frames, and attention looks at all of them. What padding does depends on the checkpoint. Where the first convolution
is followed by a group norm (``feat_extract_norm="group"``: the base models) the norm runs over time, so silence behind
a clip changes every frame of it, and those models were trained without a mask. On tiny random models the largest change
is 0.4 to 1.6 at a standard deviation of 1, with a mask as well as without.

The idea. Such models get one clip a forward, unpadded: what is recorded is bit for bit what the model makes of the clip
alone. The others (``"layer"``: the large models) get padded batches with the mask that they were trained with; there
padded and alone agree within rounding. Two rarer parts reach into padding too and are treated like a group norm: a
batch norm before the convolution of positions, and WavLM's adapter of strided convolutions.

There is no window, so a clip is never cut; the attention of a clip of n seconds takes memory in proportion to n squared
(WavLM: 16 heads x 3,000 x 3,000 weights a layer at 60 s, 0.6 GB). Clips beyond `LONGEST` are refused. The models were
trained on crops of about 15 s.

``encoder.stem`` is what the first layer receives, behind projection and positions. ``tower`` is the last hidden state:
in the base models equal to the last layer's output, in the large ones (stable layer norm) normed once more.

Worked example::

    llm = load_model("microsoft/wavlm-large")
    llm.layout([np.zeros(64_000)]).row_positions     # [199]: 4 s less what the kernels reach over
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from vpanalysis.errors import AudioError, ModelError
from vpanalysis.models.batch import Layout
from vpanalysis.models.frontends.base import Frontend, Wave

__all__ = ["LONGEST", "WaveformFrontend"]

LONGEST = 60.0
"""Longest clip in seconds."""


class WaveformFrontend(Frontend):
    """Whole clips as samples (HuBERT, WavLM)."""

    @property
    def max_seconds(self) -> float:
        """Length of the longest clip; there is no window."""
        return LONGEST

    @property
    def reach(self) -> str:
        """What is encoded at once, in words."""
        return f"whole clips up to {LONGEST:g} s"

    @property
    def silence(self) -> str:
        """What becomes of silence behind a clip, in words."""
        return "none: one clip a forward" if self.alone else "masked, up to the longest clip of a batch"

    @property
    def alone(self) -> bool:
        """Whether each clip takes a forward of its own, because padding would change it."""
        config = self.tower.config
        norm, adapter = getattr(config, "conv_pos_batch_norm", False), getattr(config, "add_adapter", False)
        return bool(config.feat_extract_norm == "group" or norm or adapter)

    @property
    def seconds_per_frame(self) -> tuple[float, float]:
        """Step in seconds between encoder positions and between tower frames."""
        step = prod(stride for _, stride in self._convolutions) / int(self.feature_extractor.sampling_rate)
        return step, step * prod(stride for _, stride in self._adapter)

    @property
    def window_frames(self) -> int:
        """Tower frames of the longest clip."""
        return self.layout([int(LONGEST * self.feature_extractor.sampling_rate)]).row_frames[0]

    @property
    def _convolutions(self) -> list[tuple[int, int]]:
        config = self.tower.config
        return list(zip(config.conv_kernel, config.conv_stride, strict=True))

    @property
    def _adapter(self) -> list[tuple[int, int]]:
        config = self.tower.config
        if not getattr(config, "add_adapter", False):
            return []
        # Padded by one frame on either side.
        return [(config.adapter_kernel_size - 2, config.adapter_stride)] * config.num_adapter_layers

    def layout(self, samples: Sequence[int]) -> Layout:
        """Return frames of clips of these lengths; see `Frontend.layout`."""
        most = int(LONGEST * self.feature_extractor.sampling_rate)
        rows = []
        for i, count in enumerate(samples):
            if count > most:
                raise AudioError(
                    f"cannot use clip {i} of the batch",
                    found=f"{count / self.feature_extractor.sampling_rate:.1f} s",
                    allowed=f"at most {LONGEST:g} s: this encoder has no window and takes a clip whole",
                    fix="cut the clip",
                )
            positions = _filtered(count, self._convolutions)
            rows.append((positions, _filtered(positions, self._adapter)))
            if min(rows[-1]) < 1:
                raise self.too_short(i)
        return Layout(tuple((frames,) for _, frames in rows), tuple((positions,) for positions, _ in rows))

    def features(self, waves: Sequence[Wave], *, short: bool = False) -> tuple[dict[str, Tensor], Layout]:
        """Return normalized samples, padded, and their mask; see `Frontend.features`.

        The mask is there also where the model takes none: it says where `run_tower` has to cut.
        """
        audio = [np.asarray(wave, dtype=np.float32) for wave in waves]
        layout = self.layout([len(wave) for wave in audio])
        made = self.feature_extractor(
            audio,
            sampling_rate=self.feature_extractor.sampling_rate,
            padding=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return {"input_values": made["input_values"], "attention_mask": made["attention_mask"]}, layout

    def run_tower(self, inputs: dict[str, Tensor], layout: Layout) -> Tensor:
        """Run the model, clip by clip where padding would change it; see `Frontend.run_tower`."""
        if not self.alone:
            return cast(Tensor, self.tower(**inputs).last_hidden_state)
        lengths = inputs["attention_mask"].sum(-1).tolist()
        states = [
            self.tower(values[None, :length]).last_hidden_state[0]
            for values, length in zip(inputs["input_values"], lengths, strict=True)
        ]
        return torch.nn.utils.rnn.pad_sequence(states, batch_first=True)

    def too_short(self, index: int) -> AudioError:
        """Return the error for a clip without a single frame; see `Frontend.too_short`."""
        least = 1
        for kernel, stride in reversed([*self._convolutions, *self._adapter]):
            least = (least - 1) * stride + kernel
        return AudioError(
            f"cannot use clip {index} of the batch",
            found="a clip too short for a single frame",
            allowed=f"at least {least} samples at 16 kHz",
        )

    def check(self, name: str) -> None:
        """Refuse a feature extractor that makes no waveforms; see `Frontend.check`."""
        extractor: Any = self.feature_extractor
        names = list(getattr(extractor, "model_input_names", []))
        if "input_values" not in names or int(extractor.feature_size) != 1 or int(extractor.sampling_rate) != 16_000:
            raise ModelError(
                f"cannot use the feature extractor with {name!r}",
                found=f"{type(extractor).__name__}: {names}, {extractor.feature_size} features at "
                f"{extractor.sampling_rate} Hz",
                allowed="Wav2Vec2FeatureExtractor: input_values, 1 feature at 16000 Hz",
            )


def _filtered(count: int, filters: Iterable[tuple[int, int]]) -> int:
    """Return how many frames unpadded convolutions (kernel, stride) make of `count`."""
    for kernel, stride in filters:
        count = (count - kernel) // stride + 1
    return max(0, count)
