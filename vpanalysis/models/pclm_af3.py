"""Audio Flamingo 3 with a prompt-conditioned layer mixer, on stock transformers.

Why it exists. The released AF3 + PCLM checkpoint needs its authors' code; here the same model is a subclass of the
Hugging Face one.

The idea. Only what is AF3's own is here: the names of its inputs, and `get_audio_features`, through which Hugging Face
hands out audio tokens. What the mixer does is in `vpanalysis.models.pclm_mixin`.

Worked example::

    model = AudioFlamingo3PCLMForConditionalGeneration(AudioFlamingo3PCLMConfig(expose_layers=[5, 15, 25, 30]))
    inputs = processor(text=["<sound>What is the pitch?"], audio=[wave], prompts=["What is the pitch?"])
    model(**inputs).logits                    # (batch, length, vocabulary)
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformers import AudioFlamingo3ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.audioflamingo3.modeling_audioflamingo3 import AudioFlamingo3Model

from vpanalysis.models.pclm_config import AudioFlamingo3PCLMConfig
from vpanalysis.models.pclm_mixin import PCLMHeadMixin, PCLMModelMixin

__all__ = ["AudioFlamingo3PCLMForConditionalGeneration", "AudioFlamingo3PCLMModel"]


class AudioFlamingo3PCLMModel(PCLMModelMixin, AudioFlamingo3Model):
    """AF3 without a head, whose audio tokens are a prompt-conditioned mixture of encoder layers."""

    config: AudioFlamingo3PCLMConfig
    config_class = AudioFlamingo3PCLMConfig

    def get_audio_features(
        self,
        input_features: Float[Tensor, "windows mels time"],
        input_features_mask: Int[Tensor, "windows time"],
        prompt_input_ids: Int[Tensor, "batch tokens"] | None = None,
        prompt_attention_mask: Int[Tensor, "batch tokens"] | None = None,
        audio_windows: Int[Tensor, " batch"] | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Return the tower's output with the valid mixed audio tokens, flattened over clips, as `pooler_output`."""
        kwargs.pop("return_dict", None)
        output: BaseModelOutputWithPooling
        audio, output = self.mixed_tokens(
            input_features, input_features_mask, prompt_input_ids, prompt_attention_mask, audio_windows, **kwargs
        )
        output.pooler_output = audio
        return output

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"] | None = None,
        input_features: Float[Tensor, "windows mels time"] | None = None,
        input_features_mask: Int[Tensor, "windows time"] | None = None,
        inputs_embeds: Float[Tensor, "batch length width"] | None = None,
        prompt_input_ids: Int[Tensor, "batch tokens"] | None = None,
        prompt_attention_mask: Int[Tensor, "batch tokens"] | None = None,
        audio_windows: Int[Tensor, " batch"] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Put the mixture where the audio placeholders stand, then run AF3 on the embeddings."""
        if input_features is None or input_ids is None:
            return super().forward(input_ids=input_ids, inputs_embeds=inputs_embeds, **kwargs)
        embeds, audio = self.embed_mixture(
            input_ids,
            input_features,
            input_features_mask,
            inputs_embeds,
            prompt_input_ids=prompt_input_ids,
            prompt_attention_mask=prompt_attention_mask,
            audio_windows=audio_windows,
        )
        output = super().forward(inputs_embeds=embeds, **kwargs)
        if not isinstance(output, tuple):
            output.audio_hidden_states = audio
        return output


class AudioFlamingo3PCLMForConditionalGeneration(PCLMHeadMixin, AudioFlamingo3ForConditionalGeneration):
    """AF3 with a prompt-conditioned layer mixer and a language modeling head.

    ``forward`` and ``generate`` take what AF3 takes, and `prompt_input_ids`, `prompt_attention_mask` (the gate's text,
    one row per item, padded on the right) and `audio_windows` (windows per item, where clips exceed one window).
    """

    config: AudioFlamingo3PCLMConfig
    config_class = AudioFlamingo3PCLMConfig
    body = AudioFlamingo3PCLMModel

    # `generate` reads this signature: what AF3 names there has to be named here.
    def forward(
        self,
        input_ids: Int[Tensor, "batch length"] | None = None,
        input_features: Float[Tensor, "windows mels time"] | None = None,
        input_features_mask: Int[Tensor, "windows time"] | None = None,
        attention_mask: Int[Tensor, "batch length"] | None = None,
        position_ids: Int[Tensor, "batch length"] | None = None,
        inputs_embeds: Float[Tensor, "batch length width"] | None = None,
        labels: Int[Tensor, "batch length"] | None = None,
        logits_to_keep: int | Int[Tensor, " positions"] = 0,
        prompt_input_ids: Int[Tensor, "batch tokens"] | None = None,
        prompt_attention_mask: Int[Tensor, "batch tokens"] | None = None,
        audio_windows: Int[Tensor, " batch"] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return AF3's output; the gate's text rides along to `AudioFlamingo3PCLMModel.forward`."""
        return super().forward(
            input_ids=input_ids,
            input_features=input_features,
            input_features_mask=input_features_mask,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            logits_to_keep=logits_to_keep,
            prompt_input_ids=prompt_input_ids,
            prompt_attention_mask=prompt_attention_mask,
            audio_windows=audio_windows,
            **kwargs,
        )
