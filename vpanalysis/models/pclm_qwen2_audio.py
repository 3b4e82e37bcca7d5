"""Qwen2-Audio with a prompt-conditioned layer mixer, on stock transformers.

Why it exists. The VoxParadox paper puts its mixer on Qwen2-Audio too. Encoder and stem are those of Audio Flamingo 3,
but the projector is one linear layer, and the Hugging Face class does in one forward what there are methods for in AF3.

The idea. Only what is Qwen2-Audio's own is here. The stock forward makes the attention mask of its tower in passing, so
`tower_mask` makes the same one for a tower that is run by itself. Stock computes logits of every position; here
`logits_to_keep` leaves the last hidden states of the asked positions, and the stock head goes on with these.

Worked example::

    model = Qwen2AudioPCLMForConditionalGeneration(Qwen2AudioPCLMConfig(expose_layers=[5, 15, 25, 30]))
    inputs = processor(text=["<|audio_bos|><|AUDIO|><|audio_eos|>What is the pitch?"], audio=[wave],
                       prompts=["What is the pitch?"])
    model(**inputs, logits_to_keep=1).logits                     # (batch, 1, vocabulary)

    states, frames, _ = model.encode_streams(inputs["input_features"], inputs["feature_attention_mask"])
    model.mix_streams(states, inputs["prompt_input_ids"], inputs["prompt_attention_mask"])
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Qwen2AudioForConditionalGeneration
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioModel

from vpanalysis.errors import ModelError
from vpanalysis.models.pclm_config import Qwen2AudioPCLMConfig
from vpanalysis.models.pclm_mixin import PCLMHeadMixin, PCLMModelMixin

__all__ = ["Qwen2AudioPCLMForConditionalGeneration", "Qwen2AudioPCLMModel", "tower_mask"]


def tower_mask(tower: Any, feature_attention_mask: Int[Tensor, "windows time"]) -> Any:
    """Return the attention mask that Qwen2-Audio's forward gives to its tower.

    Parameters
    ----------
    tower : Qwen2AudioEncoder
        Its dtype, and the kind of attention that it was loaded with.
    feature_attention_mask : Tensor, shape (windows, mel frames)
        1 on valid mel frames.

    Returns
    -------
    Tensor, BlockMask or None
        As the kind of attention wants it; None where every position is valid and it wants none.
    """
    # Of the stem's second convolution, which halves the mel frames.
    lengths = (feature_attention_mask.sum(-1) - 1) // 2 + 1
    windows, mels = feature_attention_mask.shape
    valid = torch.arange((mels - 2) // 2 + 1, device=lengths.device)[None, :] < lengths[:, None]
    # Only its shape, dtype and device are read.
    states = torch.zeros((windows, valid.shape[1], 1), dtype=tower.dtype, device=lengths.device)
    return create_bidirectional_mask(config=tower.config, inputs_embeds=states, attention_mask=valid.to(torch.long))


class Qwen2AudioPCLMModel(PCLMModelMixin, Qwen2AudioModel):
    """Qwen2-Audio without a head, whose audio tokens are a prompt-conditioned mixture of encoder layers."""

    config: Qwen2AudioPCLMConfig
    config_class = Qwen2AudioPCLMConfig
    mask_name = "feature_attention_mask"

    def run_tower(
        self,
        input_features: Float[Tensor, "windows mels time"],
        input_features_mask: Int[Tensor, "windows time"],
        **kwargs: Any,
    ) -> Any:
        """Return the output of the tower, which takes whole windows only."""
        device = self.audio_tower.device
        mask = tower_mask(self.audio_tower, input_features_mask.to(device))
        return self.audio_tower(input_features.to(device), attention_mask=mask, return_dict=True, **kwargs)

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"] | None = None,
        input_features: Float[Tensor, "windows mels time"] | None = None,
        feature_attention_mask: Int[Tensor, "windows time"] | None = None,
        inputs_embeds: Float[Tensor, "batch length width"] | None = None,
        prompt_input_ids: Int[Tensor, "batch tokens"] | None = None,
        prompt_attention_mask: Int[Tensor, "batch tokens"] | None = None,
        audio_windows: Int[Tensor, " batch"] | None = None,
        logits_to_keep: int | Int[Tensor, " positions"] = 0,
        **kwargs: Any,
    ) -> Any:
        """Put the mixture where the audio placeholders stand, then run Qwen2-Audio on the embeddings.

        With `logits_to_keep` the last hidden state has the asked positions only.
        """
        # A row of one token is a step of generation, and its clip has been heard; stock tells by the same.
        if input_features is not None and input_ids is not None and input_ids.shape[1] != 1:
            inputs_embeds, _ = self.embed_mixture(
                input_ids,
                input_features,
                feature_attention_mask,
                inputs_embeds,
                prompt_input_ids=prompt_input_ids,
                prompt_attention_mask=prompt_attention_mask,
                audio_windows=audio_windows,
            )
            input_ids = None
        output = super().forward(input_ids=input_ids, inputs_embeds=inputs_embeds, **kwargs)
        if isinstance(logits_to_keep, Tensor) or logits_to_keep > 0:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            output.last_hidden_state = output.last_hidden_state[:, kept]
        return output


class Qwen2AudioPCLMForConditionalGeneration(PCLMHeadMixin, Qwen2AudioForConditionalGeneration):
    """Qwen2-Audio with a prompt-conditioned layer mixer and a language modeling head.

    ``forward`` and ``generate`` take what Qwen2-Audio takes, and `prompt_input_ids`, `prompt_attention_mask` (the
    gate's text, one row per item, padded on the right), `audio_windows` (clips per item, where there are several), and
    `logits_to_keep`: how many last positions, or which ones, get logits; all by default.
    """

    config: Qwen2AudioPCLMConfig
    config_class = Qwen2AudioPCLMConfig
    body = Qwen2AudioPCLMModel

    # `generate` reads this signature: what Qwen2-Audio names there has to be named here.
    def forward(
        self,
        input_ids: Int[Tensor, "batch length"] | None = None,
        input_features: Float[Tensor, "windows mels time"] | None = None,
        attention_mask: Int[Tensor, "batch length"] | None = None,
        feature_attention_mask: Int[Tensor, "windows time"] | None = None,
        position_ids: Int[Tensor, "batch length"] | None = None,
        inputs_embeds: Float[Tensor, "batch length width"] | None = None,
        labels: Int[Tensor, "batch length"] | None = None,
        logits_to_keep: int | Int[Tensor, " positions"] = 0,
        prompt_input_ids: Int[Tensor, "batch tokens"] | None = None,
        prompt_attention_mask: Int[Tensor, "batch tokens"] | None = None,
        audio_windows: Int[Tensor, " batch"] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return Qwen2-Audio's output; the gate's text rides along to `Qwen2AudioPCLMModel.forward`.

        Raises
        ------
        ModelError
            If a loss is asked for and only some positions are kept.
        """
        if labels is not None and (isinstance(logits_to_keep, Tensor) or logits_to_keep > 0):
            raise ModelError("cannot compute a loss", found="labels with logits_to_keep", allowed="either of them")
        return super().forward(
            input_ids=input_ids,
            input_features=input_features,
            attention_mask=attention_mask,
            feature_attention_mask=feature_attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            logits_to_keep=logits_to_keep,
            prompt_input_ids=prompt_input_ids,
            prompt_attention_mask=prompt_attention_mask,
            audio_windows=audio_windows,
            **kwargs,
        )
