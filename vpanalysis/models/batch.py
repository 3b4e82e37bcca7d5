"""What goes into one forward: tensors, and the bookkeeping of windows and frames.

Why it exists. A clip may need several windows of the encoder, windows end in padding, and prompts are padded on the
left. Whoever pools a state over time must know which rows and frames are real: a mean over padding probes the padding.

The idea. Audio sites have one row per *window*, text and gate sites one row per *item*. A `Layout` says how many
windows each clip has and how many frames of each are valid, once for encoder positions and once for tower frames. A
`Batch` is a layout, the tensors, and the prompts as text. An `EncodedClip` is what the rest of the model needs of the
encoder: with it the encoder need not run again.

Worked example::

    batch = llm.prepare(items, waves, DEFAULT_PROMPT)
    batch.windows          # (1, 2): the second clip is longer than one window
    batch.frames           # ((37,), (75, 35)): valid audio tokens
    batch.row_items        # [0, 1, 1]: whose window each row of an audio site is
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vpanalysis.errors import ModelError

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Item

__all__ = ["Batch", "EncodedClip", "Layout"]


@dataclass(frozen=True)
class Layout:
    """How clips lie in the rows of audio sites.

    Parameters
    ----------
    frames : tuple of tuple of int
        Per clip and window: valid frames of the tower, equal to audio tokens.
    positions : tuple of tuple of int
        Per clip and window: valid encoder positions (sites ``encoder.stem`` and ``encoder[i]``).
    tokens : tuple of tuple of int, optional
        Per clip and window: audio tokens that the language model is given; as many as `frames` by default.
    heard : tuple of tuple of int, optional
        Per clip and window: how many of these stand for the clip and not for silence behind it; all by default.
    kept : tuple of tuple of int, optional
        Per clip and window: tower frames that the rest of the model needs; the valid ones by default.
    """

    frames: tuple[tuple[int, ...], ...]
    positions: tuple[tuple[int, ...], ...]
    tokens: tuple[tuple[int, ...], ...] | None = None
    heard: tuple[tuple[int, ...], ...] | None = None
    kept: tuple[tuple[int, ...], ...] | None = None

    @property
    def windows(self) -> tuple[int, ...]:
        """Windows of each clip; their rows follow each other."""
        return tuple(len(clip) for clip in self.frames)

    @property
    def row_items(self) -> list[int]:
        """For each row of an audio site, the index of its clip."""
        return [i for i, count in enumerate(self.windows) for _ in range(count)]

    @property
    def row_frames(self) -> list[int]:
        """For each row of an audio site, its valid tower frames."""
        return [count for clip in self.frames for count in clip]

    @property
    def row_positions(self) -> list[int]:
        """For each row of an audio site, its valid encoder positions."""
        return [count for clip in self.positions for count in clip]

    @property
    def kept_frames(self) -> tuple[tuple[int, ...], ...]:
        """Per clip and window, the tower frames that an `EncodedClip` holds."""
        return self.frames if self.kept is None else self.kept

    def is_clip(self, number: int) -> Tensor:
        """Return which of the frames that an `EncodedClip` holds are the clip's, and not silence behind it.

        Parameters
        ----------
        number : int
            Which clip.

        Returns
        -------
        Tensor, shape (frame,), bool
        """
        pairs = zip(self.frames[number], self.kept_frames[number], strict=True)
        return torch.cat([torch.arange(kept) < valid for valid, kept in pairs])

    @property
    def row_kept(self) -> list[int]:
        """For each row of an audio site, the tower frames that an `EncodedClip` holds."""
        return [count for clip in self.kept_frames for count in clip]

    @property
    def heard_tokens(self) -> tuple[tuple[int, ...], ...]:
        """Per clip and window, the valid frames of sites behind the projector."""
        whole = self.frames if self.tokens is None else self.tokens
        return whole if self.heard is None else self.heard

    @property
    def audio_tokens(self) -> tuple[int, ...]:
        """Audio tokens of each clip."""
        return tuple(sum(clip) for clip in (self.frames if self.tokens is None else self.tokens))


@dataclass(frozen=True)
class EncodedClip:
    """What the encoder made of one clip, as far as the rest of the model needs it.

    Parameters
    ----------
    streams : dict of str to Tensor, each of shape (frames, d_encoder)
        By source: ``"tower"``, and ``"encoder[i]"`` after pooling to the tower's frame rate (and norm). Valid frames
        only, the windows of the clip one after the other. There may be more than a model uses.
    windows : tuple of int
        Frames of each window (`Layout.kept_frames`).
    samples : int, optional
        Length of the clip at 16 kHz, from which its layout follows. Without it, all frames count as valid and the
        encoder's positions as twice as many.
    """

    streams: dict[str, Tensor]
    windows: tuple[int, ...]
    samples: int | None = None

    def __post_init__(self) -> None:
        for name, state in self.streams.items():
            if state.ndim != 2 or state.shape[0] != sum(self.windows):
                raise ModelError(
                    "cannot use an encoded clip",
                    found=f"{name!r} of shape {tuple(state.shape)}",
                    allowed=f"({sum(self.windows)}, width): the frames of {len(self.windows)} windows",
                )


@dataclass
class Batch:
    """Inputs of one forward.

    Parameters
    ----------
    items : tuple of Item
        The questions, in order.
    inputs : dict of str to Tensor
        ``input_ids`` and ``attention_mask`` (padded on the left), ``input_features`` and ``input_features_mask`` unless
        encoded clips are used, and for a mixer ``prompt_input_ids``, ``prompt_attention_mask``, ``audio_windows``.
    prompts : tuple of str
        The text of each row, with one audio placeholder, up to and including the answer prefix.
    prefix : str
        The answer prefix.
    layout : Layout
        Windows and frames.
    encoded : tuple of EncodedClip, optional
        What to use instead of running the encoder.
    answer_tokens : tuple of int
        How many tokens at the end of each row are a given answer; 0 where none is.
    """

    items: tuple[Item, ...]
    inputs: dict[str, Tensor]
    prompts: tuple[str, ...]
    prefix: str
    layout: Layout
    encoded: tuple[EncodedClip, ...] | None = None
    answer_tokens: tuple[int, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.items)

    @property
    def windows(self) -> tuple[int, ...]:
        """Windows of each item."""
        return self.layout.windows

    @property
    def frames(self) -> tuple[tuple[int, ...], ...]:
        """Valid tower frames per item and window."""
        return self.layout.frames

    @property
    def positions(self) -> tuple[tuple[int, ...], ...]:
        """Valid encoder positions per item and window."""
        return self.layout.positions

    @property
    def row_items(self) -> list[int]:
        """For each row of an audio site, the index of its item."""
        return self.layout.row_items

    @property
    def row_frames(self) -> list[int]:
        """For each row of an audio site, its valid tower frames."""
        return self.layout.row_frames

    @property
    def row_positions(self) -> list[int]:
        """For each row of an audio site, its valid encoder positions."""
        return self.layout.row_positions


def stack_clips(clips: Sequence[EncodedClip], name: str, frames: int | None = None) -> Tensor:
    """Return one stream of all clips as rows of windows, padded with zeros.

    Parameters
    ----------
    clips : sequence of EncodedClip
        Encoded clips.
    name : str
        Which stream.
    frames : int, optional
        Length of a row; that of the longest by default.

    Returns
    -------
    Tensor, shape (windows, frames, d_encoder)

    Raises
    ------
    ModelError
        If a clip does not hold the stream.
    """
    rows: list[Tensor] = []
    for clip in clips:
        if name not in clip.streams:
            raise ModelError(
                "cannot use an encoded clip",
                found=f"the streams {sorted(clip.streams)}",
                allowed=f"{name!r} among them",
                fix="encode the clips with the streams that this model needs (AudioLLM.stream_inputs)",
            )
        rows.extend(clip.streams[name].split(list(clip.windows)))
    stacked = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return stacked if frames is None else torch.nn.functional.pad(stacked, (0, 0, 0, frames - stacked.shape[1]))
