"""Qwen2-Audio's way: one window of 30 s, whose silence is masked but not left out.

Why it exists. Qwen2-Audio's encoder refuses every length but that of its window, so no silence can be spared. Its
docstring says that the mask is not used; measured, noise put into the padding leaves valid frames bit-equal, and
without the mask it moves them. The mask of positions is made in the middle of the whole model's forward.

The idea. Whole windows go through the tower, with the mask that the model's forward makes. The processor cuts what is
longer than a window and says nothing; here such a clip is refused, because an answer about the first 30 s is no answer
to a question about the clip.

Worked example::

    frontend = Qwen2AudioFrontend(family, model, processor)
    inputs, layout = frontend.features([wave_of_4_s])
    inputs["input_features"].shape                # (1, 128, 3000)
    layout.frames                                 # ((100,),)
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import cast

from torch import Tensor

from vpanalysis.models.frontends.af3 import WindowFrontend
from vpanalysis.models.frontends.base import Wave
from vpanalysis.models.pclm_qwen2_audio import tower_mask

__all__ = ["Qwen2AudioFrontend"]


class Qwen2AudioFrontend(WindowFrontend):
    """One window with a mask over valid frames (Qwen2-Audio, with or without a mixer)."""

    mask_name = "feature_attention_mask"
    # Released templates do not look at the type of a part; they ask whether it has one of two fields.
    clip_fields = MappingProxyType({"audio_url": "clip"})

    def _windows(self, samples: Sequence[int]) -> list[int]:
        extractor = self.feature_extractor
        for i, count in enumerate(samples):
            if count > int(extractor.sampling_rate * extractor.chunk_length):
                raise self.too_long(i, count)
        return [1] * len(samples)

    def _stock(self, audio: list[Wave]) -> dict[str, Tensor]:
        # As the processor does it; asked itself, it would tokenize placeholders for nothing.
        extractor = self.feature_extractor
        made = extractor(
            audio,
            sampling_rate=extractor.sampling_rate,
            padding="max_length",
            return_attention_mask=True,
            return_tensors="pt",
        )
        return {"input_features": made["input_features"], self.mask_name: made["attention_mask"]}

    def run_tower(self, inputs: dict[str, Tensor], layout: object) -> Tensor:
        """Run the stock tower with the mask that the model's forward makes; see `Frontend.run_tower`."""
        mask = tower_mask(self.tower, inputs[self.mask_name])
        return cast(Tensor, self.tower(inputs["input_features"], attention_mask=mask).last_hidden_state)
