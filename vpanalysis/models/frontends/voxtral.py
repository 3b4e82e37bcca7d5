"""Voxtral's way: windows of 30 s that are never masked, four frames to an audio token, all of them handed on.

Why it exists. Voxtral fills the last window of a clip with silence and lets both its encoder and its language model
hear it: a clip of 4 s becomes 375 audio tokens like one of 30 s, and what the encoder makes of the clip depends on the
silence behind it (measured on a tiny random model: noise in the padding moves valid frames by 40 % of their largest
value). Nothing can be left out.

The idea. Whole windows go through the tower, without a pooling: ``tower`` has the 20 ms frames of ``encoder[i]``. The
model's forward folds four of them into one row of the projector, 80 ms. Frames count as valid where the clip is, so
that a mean over a site is a mean over the clip; all 1,500 frames of a window are kept for the language model, which is
given all of them.

Prompts. Mistral's tokenizer has no chat template; in its form a user's turn with a clip and a text is
``<s>[INST][BEGIN_AUDIO][AUDIO]...[AUDIO]text[/INST]``, and its marks are never read from a text. Checked against
mistral-common 1.13: token for token what it makes of such a turn.

Worked example::

    frontend = VoxtralFrontend(family, model, processor)
    layout = frontend.layout([64_000])            # 4 s
    layout.frames, layout.kept, layout.tokens, layout.heard
    # ((200,),), ((1500,),), ((375,),), ((50,),)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from vpanalysis.errors import ModelError
from vpanalysis.models.batch import Layout
from vpanalysis.models.frontends.base import Frontend, Wave
from vpanalysis.models.processing import count_windows

__all__ = ["VoxtralFrontend"]

_START, _AUDIO_STARTS, _END = ("<s>", "[INST]"), "[BEGIN_AUDIO]", "[/INST]"


class VoxtralFrontend(Frontend):
    """Full windows without a mask, all of which the language model is given (Voxtral)."""

    @property
    def folded(self) -> int:
        """Tower frames that make one audio token."""
        config = self.tower.config
        return int(config.intermediate_size) // int(config.hidden_size)

    @property
    def seconds_per_token(self) -> float:
        """Step in seconds between audio tokens."""
        return self.seconds_per_frame[1] * self.folded

    def layout(self, samples: Sequence[int]) -> Layout:
        """Return windows and valid frames of clips of these lengths; see `Frontend.layout`."""
        extractor = self.feature_extractor
        size = int(extractor.sampling_rate * extractor.chunk_length)
        mels = [
            [-(-min(size, count - i * size) // int(extractor.hop_length)) for i in range(windows)]
            for count, windows in zip(samples, [count_windows(count, extractor) for count in samples], strict=True)
        ]
        frames = tuple(tuple(self.family.encoder_frames(n) for n in clip) for clip in mels)
        for i, clip in enumerate(frames):
            if sum(clip) < 1:
                raise self.too_short(i)
        whole = self.window_frames
        return Layout(
            frames=frames,
            positions=frames,
            tokens=tuple((whole // self.folded,) * len(clip) for clip in frames),
            heard=tuple(tuple(-(-n // self.folded) for n in clip) for clip in frames),
            kept=tuple((whole,) * len(clip) for clip in frames),
        )

    def features(self, waves: Sequence[Wave], *, short: bool = False) -> tuple[dict[str, Tensor], Layout]:
        """Return log-mel features of full windows; see `Frontend.features`."""
        extractor = self.feature_extractor
        audio = [np.asarray(wave, dtype=np.float32) for wave in waves]
        layout = self.layout([len(wave) for wave in audio])
        # The floor of a log-mel spectrogram hangs on the loudest frame of the whole clip: cut after it is made.
        whole = [
            extractor(
                wave,
                sampling_rate=extractor.sampling_rate,
                padding=True,
                truncation=False,
                pad_to_multiple_of=int(extractor.sampling_rate * extractor.chunk_length),
                return_tensors="pt",
            )["input_features"][0]
            for wave in audio
        ]
        windows = torch.cat([torch.stack(mels.split(self.window_mels, dim=-1)) for mels in whole])
        return {"input_features": windows}, layout

    def run_tower(self, inputs: dict[str, Tensor], layout: Layout) -> Tensor:
        """Run the stock tower; see `Frontend.run_tower`."""
        return cast(Tensor, self.tower(**inputs).last_hidden_state)

    def stand_in(self, layout: Layout) -> dict[str, Tensor]:
        """Return an empty input; see `Frontend.stand_in`."""
        shape = (len(layout.row_frames), int(self.feature_extractor.feature_size), self.window_mels)
        return {"input_features": torch.zeros(()).expand(shape)}

    def chat(self, text: str) -> str:
        """Return a user's turn with one clip and a text in Mistral's form; see `Frontend.chat`."""
        return "".join((*_START, _AUDIO_STARTS, self.audio_token, text, _END))

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of whole prompts; see `Frontend.ids`.

        Marks are looked up and the rest is tokenized: mistral-common's tokenizer reads ``[INST]`` in a text as text.
        """
        tokenizer: Any = self.processor.tokenizer
        start = re.escape("".join((*_START, _AUDIO_STARTS)))
        form = re.compile(f"{start}((?:{re.escape(self.audio_token)})*)(.*){re.escape(_END)}(.*)", re.DOTALL)
        rows: list[list[int]] = []
        for text in texts:
            match = form.fullmatch(text)
            if match is None:
                form_of_it = self.chat("...")
                raise ModelError("cannot tokenize a prompt of Voxtral", found=repr(text[:200]), allowed=form_of_it)
            audio, asked, answer = match.groups()
            marks = [*_START, _AUDIO_STARTS, *[self.audio_token] * (len(audio) // len(self.audio_token))]
            plain = [tokenizer(part, add_special_tokens=False)["input_ids"] if part else [] for part in (asked, answer)]
            rows.append(
                [*tokenizer.convert_tokens_to_ids(marks), *plain[0], tokenizer.convert_tokens_to_ids(_END), *plain[1]]
            )
        return rows
