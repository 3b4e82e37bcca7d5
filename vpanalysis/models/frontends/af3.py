"""Audio Flamingo's way: windows one after the other, a mask over each, and no work on silence.

Why it exists. Stock Audio Flamingo 3 pads every clip to a window of 30 s, while a clip of the benchmark lasts 4 s or
14 s: most of what the encoder does, and of the log-mel features before it, is silence that is masked again.

The idea. Convolutions look at a few frames only, and attention is masked to valid frames; so the valid frames of a
shorter input are those of the padded one, provided that the padding still reaches as far as the convolutions look. The
stock forward runs on any number of frames but for one line, which adds the whole table of positions. `trim` hands it
the first rows of that table. Lengths are rounded up to a bucket, so that few shapes occur.

Clips are cut into windows, each window is featurized by the model's own feature extractor (the processor does the
same), and padded to the longest of the batch instead of 30 s.

Worked example::

    WindowFrontend(family, model, processor, trim=True).features([wave_of_4_s])[0]["input_features"].shape
    # (1, 128, 416) instead of (1, 128, 3000)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from vpanalysis.models.batch import Layout
from vpanalysis.models.frontends.base import Frontend, Wave
from vpanalysis.models.processing import count_windows

__all__ = ["BUCKET", "WindowFrontend", "short_positions"]

BUCKET = 16
"""Trimmed inputs have a multiple of so many mel frames (0.16 s at a hop of 10 ms)."""


class WindowFrontend(Frontend):
    """Windows of a fixed length with a mask over valid frames (Audio Flamingo 3, with or without a mixer)."""

    mask_name: str = "input_features_mask"

    def layout(self, samples: Sequence[int]) -> Layout:
        """Return windows and valid frames of clips of these lengths; see `Frontend.layout`."""
        extractor = self.feature_extractor
        window = int(extractor.sampling_rate * extractor.chunk_length)
        mels = [
            [-(-min(window, count - i * window) // extractor.hop_length) for i in range(windows)]
            for count, windows in zip(samples, self._windows(samples), strict=True)
        ]
        return self._layout(mels)

    def _windows(self, samples: Sequence[int]) -> list[int]:
        most = int(self.processor.max_audio_len // self.feature_extractor.chunk_length)
        return [min(count_windows(count, self.feature_extractor), most) for count in samples]

    def _layout(self, mels: Sequence[Sequence[int]]) -> Layout:
        """Return the layout of clips with these valid mel frames per window."""
        frames = tuple(tuple(self.family.tower_frames(n) for n in clip) for clip in mels)
        for i, clip in enumerate(frames):
            if sum(clip) == 0:
                raise self.too_short(i)
        return Layout(frames, tuple(tuple(self.family.encoder_frames(n) for n in clip) for clip in mels))

    def features(self, waves: Sequence[Wave], *, short: bool = False) -> tuple[dict[str, Tensor], Layout]:
        """Return log-mel features and their mask; see `Frontend.features`."""
        audio = [np.asarray(wave, dtype=np.float32) for wave in waves]
        counts = self._windows([len(wave) for wave in audio])
        made = self._short(audio, counts) if short and self.trim else self._stock(audio)
        mask = made[self.mask_name]
        layout = self._layout([clip.tolist() for clip in mask.sum(-1).split(counts)])
        return {"input_features": made["input_features"], self.mask_name: mask}, layout

    def _stock(self, audio: list[Wave]) -> dict[str, Tensor]:
        return cast("dict[str, Tensor]", self.processor(text=[self.audio_token] * len(audio), audio=audio))

    def _short(self, audio: list[Wave], counts: Sequence[int]) -> dict[str, Tensor]:
        extractor = self.feature_extractor
        size = int(extractor.sampling_rate * extractor.chunk_length)
        windows = [wave[i * size : (i + 1) * size] for wave, n in zip(audio, counts, strict=True) for i in range(n)]
        longest = max(-(-len(window) // extractor.hop_length) for window in windows)
        made = extractor(
            windows,
            sampling_rate=extractor.sampling_rate,
            padding="max_length",
            max_length=self._mels(longest) * extractor.hop_length,
            truncation=False,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return {"input_features": made["input_features"], self.mask_name: made["attention_mask"]}

    def _mels(self, valid: int) -> int:
        """Return how many mel frames are encoded for `valid` ones: what the filters look at, rounded up to a bucket."""
        extractor = self.feature_extractor
        # The stem looks past its last valid frame by what its kernels overlap, and those frames must be what they are
        # in the padded input: their own short-time window must not reach the end, where it would be reflected.
        reach, step = 0, 1
        for _, (kernel, stride, padding) in self.family.stem:
            reach += (kernel - 1 - padding) * step
            step *= stride
        reach += -(-int(extractor.n_fft) // (2 * int(extractor.hop_length))) + 1
        return min(-(-(valid + reach) // BUCKET) * BUCKET, self.window_mels)

    def run_tower(self, inputs: dict[str, Tensor], layout: Layout) -> Tensor:
        """Run the stock tower, with as many positions as there are frames; see `Frontend.run_tower`."""
        with self.forward_context(inputs):
            return cast(Tensor, self.tower(**inputs).last_hidden_state)

    def shortened(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return inputs without mel frames that no valid one depends on; see `Frontend.shortened`."""
        if not self.trim or "input_features" not in inputs:
            return inputs
        mels = self._mels(int(inputs[self.mask_name].sum(-1).max()))
        return {**inputs, **{name: inputs[name][..., :mels] for name in ("input_features", self.mask_name)}}

    def forward_context(self, inputs: dict[str, Tensor]) -> AbstractContextManager[None]:
        """Return the context in which the table of positions is as long as the input; see `Frontend`."""
        features = inputs.get("input_features")
        if features is None or features.shape[-1] == self.window_mels:
            return nullcontext()
        return short_positions(self.tower, cast(str, self.family.positions), self._rows_of(features.shape[-1]))

    def _rows_of(self, mels: int) -> int:
        return self.family.encoder_frames(mels)

    def stand_in(self, layout: Layout) -> dict[str, Tensor]:
        """Return an empty input with a true mask; see `Frontend.stand_in`."""
        mels = self.window_mels
        stride = 1
        for _, (_, step, _) in self.family.stem:
            stride *= step
        # Any number of mel frames that gives the right number of positions will do: the mask is only counted.
        valid = torch.tensor([stride * n for n in layout.row_positions])
        mask = torch.arange(mels)[None, :] < valid[:, None]
        empty = torch.zeros(()).expand(len(valid), int(self.feature_extractor.feature_size), mels)
        return {"input_features": empty, self.mask_name: mask.long()}


@contextmanager
def short_positions(tower: Any, name: str, rows: int) -> Iterator[None]:
    """Let a tower see only the first rows of its table of positions.

    The rows are a view of the table, so nothing is copied, and the table is back after the block, also when the forward
    raised.

    Parameters
    ----------
    tower : Module
        Whose forward adds ``<name>.weight``.
    name : str
        Attribute of the table, an embedding.
    rows : int
        How many.
    """
    table = tower._modules[name]
    view = nn.Embedding(rows, table.embedding_dim, _weight=table.weight.detach()[:rows])
    view.requires_grad_(False)
    tower._modules[name] = view
    try:
        yield
    finally:
        tower._modules[name] = table
