"""CLAP's way: a folded spectrogram whose tokens are not in the order of time, and stages of growing width.

Why it exists. CLAP's audio branch (HTSAT, a Swin transformer) cuts the spectrogram of a window of 10 s into four
quarters, stacks them into a square, and attends to patches of that square. Neighbouring tokens may be 2.5 s apart; each
stage merges two by two tokens and doubles the width. A mean over "the first half of the tokens" would be a mean over
half of the frequencies, or over two of four quarters.

The idea. Every state is unfolded: (clip, tokens, width) becomes (clip, steps in the order of time, width), averaged
over frequency. All sites keep one clock, the steps of the first stage (256 a window, 39 ms each): the coarser steps of
a later stage are repeated as often as they are longer. So ``mean`` and ``segments(k)`` weigh a coarse step that lies
half outside a clip by half, and sites of different resolution are pooled over the same stretch of time.

The folded square has row ``quarter * rows + frequency`` and column ``time within the quarter``; the spectrogram is
stretched in time to fill it (1,001 mel frames to 1,024 columns), which the step's length takes into account.

``encoder.stem`` is what the first stage receives, ``encoder[i]`` the output of the blocks of stage i before it is
merged to the next stage's width (Hugging Face's ``layers[i]`` puts out the merged state first), ``tower`` the last
hidden state, normed. Widths differ: C, C, 2C, 4C, 8C and 8C. For a clip that fills its window the mean of ``tower`` is
the model's own pooled output.

A short clip is repeated until the window is full; only steps of its first copy count, though they have seen the others.
A longer one takes windows of 10 s one after the other, where Hugging Face's extractor would crop at random. In fused
checkpoints the fusion of crops is therefore never used; there the extractor even marks a clip at random as long.
Clips arrive at 16 kHz and are resampled to 48 kHz: their upper band is empty.

Worked example::

    llm = load_model("laion/clap-htsat-unfused")
    llm.layout([np.zeros(16_000)]).row_positions     # [26] steps of 39.1 ms, of 256
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from vpanalysis.errors import ModelError
from vpanalysis.models.batch import Layout
from vpanalysis.models.frontends.base import Frontend, Wave

__all__ = ["ClapFrontend", "Unfolded", "unfold"]

_RATE = 16_000


class ClapFrontend(Frontend):
    """Windows of a folded spectrogram (the audio branch of CLAP)."""

    @property
    def max_seconds(self) -> float:
        """Length of one window; longer clips take several."""
        return float(self.feature_extractor.max_length_s)

    @property
    def silence(self) -> str:
        """What becomes of silence behind a clip, in words."""
        return {"repeatpad": "filled with copies of the clip", "repeat": "filled with copies of the clip"}.get(
            self.feature_extractor.padding, "encoded"
        )

    @property
    def seconds_per_frame(self) -> tuple[float, float]:
        """Step in seconds between encoder positions and between tower frames: one clock for all sites."""
        return self._column * self._stride, self._column * self._stride

    @property
    def window_frames(self) -> int:
        """Steps of a full window."""
        return self._steps

    @property
    def _encoder(self) -> Any:
        return self.tower.audio_encoder

    @property
    def _stride(self) -> int:
        return int(self._encoder.patch_stride[1])

    @property
    def _grids(self) -> list[tuple[int, int]]:
        """Rows and columns of tokens in each stage."""
        return [(int(rows), int(columns)) for rows, columns in self._encoder.input_resolutions]

    @property
    def _folds(self) -> int:
        """Into how many parts time is folded."""
        return int(self._encoder.freq_ratio)

    @property
    def _steps(self) -> int:
        return self._folds * self._grids[0][1]

    @property
    def _mels(self) -> int:
        extractor = self.feature_extractor
        return int(extractor.nb_max_samples) // int(extractor.hop_length) + 1

    @property
    def _column(self) -> float:
        """Seconds of one column of the stretched spectrogram; its first and last frame stay where they were."""
        extractor = self.feature_extractor
        columns = int(self.tower.config.spec_size) * self._folds
        return (self._mels - 1) / (columns - 1) * int(extractor.hop_length) / int(extractor.sampling_rate)

    def _valid(self, samples: int) -> int:
        """Return how many steps have their centre inside the first `samples` of a window, at 16 kHz."""
        patches = self._encoder.patch_embed.proj
        first = (int(patches.kernel_size[1]) - 1) / 2 - int(patches.padding[1])
        return max(0, min(self._steps, math.ceil((samples / _RATE / self._column - first) / self._stride)))

    def layout(self, samples: Sequence[int]) -> Layout:
        """Return windows and valid steps of clips of these lengths at 16 kHz; see `Frontend.layout`."""
        size = round(self.max_seconds * _RATE)
        steps = []
        for i, count in enumerate(samples):
            windows = range(max(1, -(-count // size)))
            clip = tuple(self._valid(min(size, count - w * size)) for w in windows)
            if sum(clip) < 1:
                raise self.too_short(i)
            # A last window of a few samples has no step of its own; it is left out with what it would cost.
            steps.append(clip if clip[-1] else clip[:-1])
        return Layout(tuple(steps), tuple(steps))

    def features(self, waves: Sequence[Wave], *, short: bool = False) -> tuple[dict[str, Tensor], Layout]:
        """Return log-mel features of windows, by the model's own extractor; see `Frontend.features`."""
        import soxr

        extractor, layout = self.feature_extractor, self.layout([len(wave) for wave in waves])
        rate, size = int(extractor.sampling_rate), int(extractor.nb_max_samples)
        windows: list[Wave] = []
        for wave, count in zip(waves, layout.windows, strict=True):
            sound = soxr.resample(np.asarray(wave, dtype=np.float32), _RATE, rate, quality="HQ")
            windows += [sound[i * size : (i + 1) * size] for i in range(count)]
        with _numpy_randomness_kept():
            made = extractor(windows, sampling_rate=rate, return_tensors="pt")
        inputs = {"input_features": made["input_features"].float()}
        if self.tower.config.enable_fusion:
            # The extractor marks one clip of a batch at random as long when none is.
            inputs["is_longer"] = torch.zeros(len(windows), 1, dtype=torch.bool)
        return inputs, layout

    def run_tower(self, inputs: dict[str, Tensor], layout: Layout) -> Tensor:
        """Run the audio branch; see `Frontend.run_tower`."""
        return self._tower_state(self.tower(**inputs))

    def view(self, site: str, module: nn.Module) -> nn.Module:
        """Return what hooks go on: `module`, seen in the order of time; see `Frontend.view`."""
        if site == "tower":
            return Unfolded(module, self._tower_state)
        stage = 0 if site == "encoder.stem" else int(site[len("encoder[") : -1])

        def state(output: Any) -> Tensor:
            # A stage puts out (merged state, state before merging, sizes).
            return self._unfolded(output if isinstance(output, Tensor) else output[1], stage)

        return Unfolded(module, state)

    def _unfolded(self, state: Tensor, stage: int) -> Tensor:
        return self._stretched(unfold(state, self._grids[stage], self._folds))

    def _tower_state(self, output: Any) -> Tensor:
        # (clip, width, frequency, time): Hugging Face unfolds this one itself.
        state = cast(Tensor, output.last_hidden_state).mean(dim=2, dtype=torch.float32)
        return self._stretched(state.transpose(1, 2))

    def _stretched(self, state: Tensor) -> Tensor:
        return state.repeat_interleave(self._steps // state.shape[1], dim=1)

    def check(self, name: str) -> None:
        """Refuse a feature extractor whose spectrogram does not fit the square; see `Frontend.check`."""
        extractor, config = self.feature_extractor, self.tower.config
        if not hasattr(extractor, "nb_max_samples"):
            raise ModelError(
                f"cannot use the feature extractor with {name!r}",
                found=type(extractor).__name__,
                allowed="ClapFeatureExtractor",
            )
        columns = int(config.spec_size) * self._folds
        fused = extractor.truncation == "fusion"
        if int(extractor.feature_size) != int(config.num_mel_bins) or self._mels > columns:
            raise ModelError(
                f"cannot use the feature extractor with {name!r}",
                found=f"{extractor.feature_size} mel bins and a window of {self._mels} frames",
                allowed=f"{config.num_mel_bins} and at most {columns}",
            )
        if fused != bool(config.enable_fusion):
            raise ModelError(
                f"cannot use the feature extractor with {name!r}",
                found=f"truncation {extractor.truncation!r}",
                allowed="'fusion', for a fused model" if config.enable_fusion else "'rand_trunc', for an unfused model",
            )


def unfold(state: Tensor, grid: tuple[int, int], folds: int) -> Tensor:
    """Bring tokens of a folded spectrogram into the order of time, averaged over frequency.

    Parameters
    ----------
    state : Tensor, shape (rows, tokens, width)
        Tokens of a square, row by row.
    grid : (int, int)
        Rows and columns of the square.
    folds : int
        Into how many parts time was folded; they lie one below the other.

    Returns
    -------
    Tensor, shape (rows, folds * columns, width), float32

    Examples
    --------
    Two folds of two frequencies and three columns; each token holds its time:

    >>> times = torch.tensor([0.0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5])
    >>> unfold(times[None, :, None], (4, 3), 2).flatten().tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """
    rows, columns = grid
    clips, _, width = state.shape
    square = state.reshape(clips, folds, rows // folds, columns, width)
    return square.mean(dim=2, dtype=torch.float32).reshape(clips, folds * columns, width)


class Unfolded(nn.Module):
    """Stands for a module whose output is looked at in another form.

    Parameters
    ----------
    module : Module
        What the hook really goes on.
    state : callable
        From the module's output to the state that the hook is given.
    """

    def __init__(self, module: nn.Module, state: Callable[[Any], Tensor]) -> None:
        super().__init__()
        # Not a submodule: the module belongs to the model alone.
        self._module, self._state = (module,), state

    def register_forward_hook(self, hook: Callable[..., Any], **_kwargs: Any) -> Any:
        """Call `hook(module, args, state)` after each forward of the module."""

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if hook(module, args, self._state(output)) is not None:
                raise ModelError(
                    "cannot replace a state of CLAP",
                    found="a hook that returns one",
                    allowed="hooks that look: what they see is averaged over frequency",
                )

        return self._module[0].register_forward_hook(after)

    def forward(self, *_args: Any, **_kwargs: Any) -> Any:
        """Refuse: there is nothing to run."""
        raise ModelError("cannot run a site", found="a view of a module's output", fix="hook it instead")


@contextmanager
def _numpy_randomness_kept() -> Iterator[None]:
    """Undo what the extractor of fused models draws from NumPy's global generator."""
    state = np.random.get_state()
    try:
        yield
    finally:
        np.random.set_state(state)
