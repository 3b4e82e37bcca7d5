"""What every frontend answers, with the answers that most of them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any, ClassVar, cast

import numpy as np
from torch import Tensor, nn

from vpanalysis.errors import AudioError, ModelError
from vpanalysis.models.batch import Layout
from vpanalysis.models.family import Family

__all__ = ["Frontend", "Wave"]

Wave = np.ndarray[Any, np.dtype[np.float32]]


class Frontend:
    """Clips in, what the tower takes out; and the bookkeeping of frames.

    Parameters
    ----------
    family : Family
        The row of the model's family.
    model : PreTrainedModel
        The model.
    processor : ProcessorMixin or feature extractor
        Its processor.
    trim : bool
        Whether silence behind a clip is left out.

    Attributes
    ----------
    flat : bool
        Whether the tower's states come without padding, as (all frames, width), clips one after the other.
    clip_fields : mapping of str to str
        What a chat template wants to find in the part of a turn that is a clip, besides its type.
    """

    flat: bool = False
    clip_fields: ClassVar[Mapping[str, str]] = MappingProxyType({})

    def __init__(self, family: Family, model: Any, processor: Any, trim: bool = False) -> None:
        self.family = family
        self.model = model
        self.processor = processor
        self.trim = trim
        self.feature_extractor: Any = getattr(processor, "feature_extractor", processor)
        self.tower: Any = family.find(model, family.tower)

    # What differs -----------------------------------------------------------------------------------------------------

    @property
    def max_seconds(self) -> float:
        """Length of one window; longer clips take several."""
        return float(self.feature_extractor.chunk_length)

    @property
    def reach(self) -> str:
        """What is encoded at once, in words."""
        return f"window {self.max_seconds:g} s"

    @property
    def silence(self) -> str:
        """What becomes of silence behind a clip, in words."""
        return "left out" if self.trim else "encoded"

    @property
    def seconds_per_frame(self) -> tuple[float, float]:
        """Step in seconds between encoder positions and between tower frames."""
        return self.family.seconds_per_frame(self.feature_extractor)

    @property
    def seconds_per_token(self) -> float:
        """Step in seconds between audio tokens."""
        return self.seconds_per_frame[1]

    @property
    def window_frames(self) -> int:
        """Tower frames of a full window."""
        return self.family.tower_frames(self.window_mels)

    @property
    def window_mels(self) -> int:
        """Mel frames of a full window."""
        extractor = self.feature_extractor
        return int(extractor.sampling_rate * extractor.chunk_length) // int(extractor.hop_length)

    def layout(self, samples: Sequence[int]) -> Layout:
        """Return windows and valid frames of clips of these lengths, without making features.

        Parameters
        ----------
        samples : sequence of int
            Length of each clip at the feature extractor's rate.

        Raises
        ------
        AudioError
            If a clip is too short for a single frame.
        """
        raise NotImplementedError

    def features(self, waves: Sequence[Wave], *, short: bool = False) -> tuple[dict[str, Tensor], Layout]:
        """Return what the model's forward takes of the clips, on the CPU, and their layout.

        Parameters
        ----------
        waves : sequence of array, each of shape (samples,), float32
            The clips, at the feature extractor's rate.
        short : bool
            Whether silence up to the end of the window may be left out, for `run_tower`. Otherwise these are the inputs
            that the model's own processor makes.
        """
        raise NotImplementedError

    def run_tower(self, inputs: dict[str, Tensor], layout: Layout) -> Tensor:
        """Run the tower's own forward.

        Parameters
        ----------
        inputs : dict of str to Tensor
            From `features`, on the model's device.
        layout : Layout
            Of the same clips.

        Returns
        -------
        Tensor, shape (rows, frames, width)
            What the tower hands on; (all frames, width) where `flat`.
        """
        raise NotImplementedError

    def stand_in(self, layout: Layout) -> dict[str, Tensor]:
        """Return what the model's forward takes of the clips when the tower's output is there already.

        Masks are true; features are empty, of the right shape, and hold no memory.
        """
        raise NotImplementedError

    def handed_on(self, state: Tensor) -> Tensor:
        """Return what the tower's forward hands on, given what `run_tower` returned."""
        return state

    def shortened(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return inputs of the model's forward without silence at the end, where `trim` is on."""
        return inputs

    def forward_context(self, inputs: dict[str, Tensor]) -> AbstractContextManager[None]:
        """Return a context manager within which the model's own forward takes `inputs`, shortened or not."""
        return nullcontext()

    def view(self, site: str, module: nn.Module) -> nn.Module:
        """Return what hooks on a site go on, where a module's output is not yet (rows, frames in time, width).

        Parameters
        ----------
        site : str
            Its name.
        module : Module
            Whose output it is.
        """
        return module

    def check(self, name: str) -> None:
        """Refuse a feature extractor that belongs to another model.

        Parameters
        ----------
        name : str
            What the model is called in the error.
        """
        config = self.tower.config
        if not hasattr(self.feature_extractor, "chunk_length"):
            raise ModelError(
                f"cannot use the feature extractor with {name!r}",
                found=type(self.feature_extractor).__name__,
                allowed="WhisperFeatureExtractor",
            )
        found = (int(self.feature_extractor.feature_size), self.family.encoder_frames(self.window_mels))
        wanted = (int(config.num_mel_bins), int(config.max_source_positions))
        if found != wanted:
            raise ModelError(
                f"cannot use the feature extractor with {name!r}",
                found=f"{found[0]} mel bins and a window of {found[1]} positions",
                allowed=f"{wanted[0]} and {wanted[1]}",
            )

    # What is shared ---------------------------------------------------------------------------------------------------

    @property
    def audio_token(self) -> str:
        """The placeholder of a clip in a prompt."""
        return str(self.processor.audio_token)

    def chat(self, text: str) -> str:
        """Return a user's turn with one clip and a text in the model's chat form, up to where the answer begins.

        Raises
        ------
        ModelError
            If there is no chat template.
        """
        content = [{"type": "audio", **self.clip_fields}, {"type": "text", "text": text}]
        turn: dict[str, Any] = {"role": "user", "content": content}
        if getattr(self.processor, "chat_template", None):
            return cast(str, self.processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True))
        tokenizer = self.processor.tokenizer
        if getattr(tokenizer, "chat_template", None):
            turn = {"role": "user", "content": self.audio_token + text}
            return cast(str, tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True))
        raise ModelError(
            "cannot make prompts",
            found="no chat template in the processor or the tokenizer",
            fix="set processor.chat_template",
        )

    def expand(self, prompt: str, tokens: int) -> str:
        """Return a prompt whose one placeholder stands as often as the clip has audio tokens.

        Parameters
        ----------
        prompt : str
            With one placeholder.
        tokens : int
            Audio tokens of its clip.

        Raises
        ------
        ModelError
            If there is not exactly one placeholder.
        """
        audio = self.audio_token
        if prompt.count(audio) != 1:
            raise ModelError(
                "cannot place the audio in a prompt",
                found=f"{prompt.count(audio)} placeholders {audio!r} in {prompt[:200]!r}",
                allowed="exactly one, from the chat template",
            )
        return prompt.replace(audio, audio * tokens, 1)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of whole prompts, with all their placeholders.

        Parameters
        ----------
        texts : sequence of str
            From `chat`, with the answer prefix, through `expand`.
        """
        return cast("list[list[int]]", self.processor.tokenizer(list(texts))["input_ids"])

    def padded(self, state: Tensor, layout: Layout, clock: str) -> Tensor:
        """Return a state as rows of padded windows, where the tower gives it flat.

        Parameters
        ----------
        state : Tensor, shape (rows, frames, width) or (all frames, width)
            Of an encoder layer (`clock` ``"encoder"``) or of the tower (``"tower"``).
        layout : Layout
            Of the clips.
        clock : str
            Which of the layout's counts the frames follow.
        """
        if state.ndim == 3:
            return state
        from torch.nn.utils.rnn import pad_sequence

        lengths = layout.row_positions if clock == "encoder" else layout.row_kept
        return pad_sequence(list(state.split(lengths)), batch_first=True)

    def too_long(self, index: int, samples: int) -> AudioError:
        """Return the error for a clip of which the model would hear the beginning only."""
        return AudioError(
            f"cannot use clip {index} of the batch",
            found=f"{samples / self.feature_extractor.sampling_rate:.1f} s",
            allowed=f"at most {self.max_seconds:g} s: {self.family.title} has one window, and the rest would be lost",
            fix="cut the clip",
        )

    def too_short(self, index: int) -> AudioError:
        """Return the error for a clip without a single frame."""
        return AudioError(
            f"cannot use clip {index} of the batch",
            found="a clip too short for a single audio token",
            allowed=f"more than {self.seconds_per_frame[1]:g} s",
        )
