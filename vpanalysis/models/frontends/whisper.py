"""Whisper's way: windows of 30 s, filled with silence that its encoder attends to.

Why it exists. Whisper was trained on windows that are full, so its encoder has no mask: what it makes of a short clip
depends on the silence behind it, and its forward refuses any other length. Audio Flamingo, whose encoder has the same
layers, masks that silence; here it cannot be left out.

The idea. Whole windows go through the encoder, and only the frames of the clip are kept. Cutting the window instead
would be another model: with the same random weights at the size of whisper-base, a clip of 4 s and a window of 4 s
in place of 30 s, valid frames of the output change by 40 % of their root mean square. Longer clips take several
windows, cut every 30 s.

The decoder is never used, and a checkpoint's is not loaded. Behind the last layer comes a norm but no pooling, so that
``tower`` has the frames of ``encoder[i]``, of 20 ms.

Worked example::

    llm = load_model("openai/whisper-large-v3")
    llm.layout([np.zeros(64_000)]).row_positions     # [200]: 4 s, of the 1,500 that the encoder computes
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from torch import Tensor

from vpanalysis.models.batch import Layout
from vpanalysis.models.frontends.base import Frontend, Wave
from vpanalysis.models.processing import count_windows

__all__ = ["WhisperFrontend"]


class WhisperFrontend(Frontend):
    """Full windows without a mask (the encoder of Whisper)."""

    def layout(self, samples: Sequence[int]) -> Layout:
        """Return windows and valid frames of clips of these lengths; see `Frontend.layout`."""
        extractor = self.feature_extractor
        size = int(extractor.sampling_rate * extractor.chunk_length)
        positions = tuple(
            tuple(
                self.family.encoder_frames(-(-min(size, count - i * size) // int(extractor.hop_length)))
                for i in range(count_windows(count, extractor))
            )
            for count in samples
        )
        for i, clip in enumerate(positions):
            if sum(clip) < 1:
                raise self.too_short(i)
        return Layout(positions, positions)

    def features(self, waves: Sequence[Wave], *, short: bool = False) -> tuple[dict[str, Tensor], Layout]:
        """Return log-mel features of full windows; see `Frontend.features`."""
        extractor = self.feature_extractor
        size = int(extractor.sampling_rate * extractor.chunk_length)
        audio = [np.asarray(wave, dtype=np.float32) for wave in waves]
        windows = [
            wave[i * size : (i + 1) * size] for wave in audio for i in range(count_windows(len(wave), extractor))
        ]
        made = extractor(windows, sampling_rate=extractor.sampling_rate, padding="max_length", return_tensors="pt")
        return {"input_features": made["input_features"]}, self.layout([len(wave) for wave in audio])

    def run_tower(self, inputs: dict[str, Tensor], layout: Layout) -> Tensor:
        """Run the encoder; see `Frontend.run_tower`."""
        return cast(Tensor, self.tower(**inputs).last_hidden_state)
