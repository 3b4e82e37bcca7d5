"""Audio Flamingo 3 with a prompt-conditioned layer mixer (PCLM), on stock transformers.

Why it exists. Stock Audio Flamingo 3 hears only what the last layer of its encoder kept. The mixer of the VoxParadox
paper (section 5) also projects a few middle layers and lets the question decide how much of each the language model
gets: ``alpha = softmax(MLP(BERT(p)))`` and ``Z~ = sum_l alpha_l P_l(H_l)``, one scalar per layer and prompt, shared
over time. The released checkpoint needs the authors' code; here the same thing is a subclass of the Hugging Face model.

The idea. Everything that Hugging Face has is left to it: `AudioFlamingo3PCLMModel` only replaces what happens between
the audio tower and the language model. The exposed layers are read by forward hooks that live as long as one call of
the tower. Three modules exist so that others can look at them: `pclm.gate` returns the weights, each stream's projector
returns that stream, and `pclm` itself returns the mixture. The last stream is AF3's own `multi_modal_projector`.

What the release does not say (see `AudioFlamingo3PCLMConfig`) is a config field with the natural default.

Worked example::

    config = AudioFlamingo3PCLMConfig(expose_layers=[5, 15, 25, 30])   # AF3-7B sizes by default
    model = AudioFlamingo3PCLMForConditionalGeneration(config)
    model(input_ids=..., attention_mask=..., input_features=..., input_features_mask=...,
          prompt_input_ids=..., prompt_attention_mask=...)             # the question, in the gate's own tokens

    states, frames = model.model.encode_streams(input_features, input_features_mask)   # can be cached
    mixed = model.mix_streams(states, prompt_input_ids, prompt_attention_mask)         # (batch, frames, d_text)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import (
    AudioFlamingo3ForConditionalGeneration,
    AutoConfig,
    AutoModel,
    AutoModelForMultimodalLM,
    AutoProcessor,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.audioflamingo3.modeling_audioflamingo3 import AudioFlamingo3Model

from vpanalysis.errors import ModelError
from vpanalysis.models.mixer import PromptConditionedLayerMixer, PromptGate, outputs_of, pool_state
from vpanalysis.models.pclm_config import AudioFlamingo3PCLMConfig
from vpanalysis.models.processing import AudioFlamingo3PCLMProcessor

__all__ = [
    "AudioFlamingo3PCLMConfig",
    "AudioFlamingo3PCLMForConditionalGeneration",
    "AudioFlamingo3PCLMModel",
    "PromptConditionedLayerMixer",
    "PromptGate",
]

StreamStates: TypeAlias = "list[Float[Tensor, 'windows frames width']]"


class AudioFlamingo3PCLMModel(AudioFlamingo3Model):
    """AF3 without a head, whose audio tokens are a prompt-conditioned mixture of encoder layers."""

    config: AudioFlamingo3PCLMConfig
    config_class = AudioFlamingo3PCLMConfig

    def __init__(self, config: AudioFlamingo3PCLMConfig) -> None:
        super().__init__(config)
        self.pclm = PromptConditionedLayerMixer(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        _init_gate(module, self.config)

    @property
    def stream_projectors(self) -> tuple[nn.Module, ...]:
        """The projector of every stream, in the order of the gate's weights; the last is AF3's own."""
        return (*self.pclm.projectors, self.multi_modal_projector)

    @torch.no_grad()
    def clone_final_projector(self) -> None:
        """Start the exposed layers' projectors as copies of the final one, as the paper does before training."""
        for projector in self.pclm.projectors:
            projector.load_state_dict(self.multi_modal_projector.state_dict())

    def encode_streams(
        self,
        input_features: Float[Tensor, "windows mels time"],
        input_features_mask: Int[Tensor, "windows time"],
        **kwargs: Any,
    ) -> tuple[StreamStates, Int[Tensor, " windows"], Any]:
        """Run the tower once and return what the streams' projectors take.

        Parameters
        ----------
        input_features : Tensor, shape (windows, mel bins, mel frames)
            Log-mel features of the processor.
        input_features_mask : Tensor, shape (windows, mel frames)
            1 on valid frames.
        **kwargs
            For the tower.

        Returns
        -------
        states : list of Tensor, each of shape (windows, frames, d_encoder)
            One per stream: exposed layers after pooling (`mid_pool`), then the tower's output.
        frames : Tensor, shape (windows,)
            Valid frames of each window.
        tower_output : ModelOutput
            What the tower returned.
        """
        tower = self.audio_tower
        exposed = self.config.encoder_indices if self.config.stream_sources == "layers" else ()
        with outputs_of([tower.layers[i] for i in exposed]) as raw:
            output = tower(input_features, input_features_mask=input_features_mask, return_dict=True, **kwargs)
        final = output.last_hidden_state
        if self.config.stream_sources == "final":
            states = [final] * self.config.num_streams
        else:
            states = [*(pool_state(tower, state, self.config.mid_pool) for state in raw), final]
        # The stem's second convolution halves the mel frames, the pooling halves them again.
        positions = (input_features_mask.sum(-1).to(torch.long) - 1) // 2 + 1
        return states, (positions - 2) // 2 + 1, output

    def mix_streams(
        self,
        states: Sequence[Float[Tensor, "windows frames d_encoder"]],
        prompt_input_ids: Int[Tensor, "batch tokens"] | None = None,
        prompt_attention_mask: Int[Tensor, "batch tokens"] | None = None,
        audio_windows: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "windows frames d_text"]:
        """Project every stream, weigh them by the prompt and return the mixture.

        Parameters
        ----------
        states : sequence of Tensor, each of shape (windows, frames, d_encoder)
            As `encode_streams` returns them, fresh or from a cache.
        prompt_input_ids, prompt_attention_mask : Tensor, shape (batch, tokens), optional
            The gate's text. Not needed when the gate does not read the prompt.
        audio_windows : Tensor, shape (batch,), optional
            How many consecutive windows belong to each row; one each by default.

        Returns
        -------
        Tensor, shape (windows, frames, d_text)
            The audio tokens for the language model, padding frames included.

        Raises
        ------
        ModelError
            If the numbers of streams, prompts and windows do not fit together.
        """
        projectors = self.stream_projectors
        windows = states[0].shape[0]
        if len(states) != len(projectors):
            raise ModelError("cannot mix streams", found=f"{len(states)} states", allowed=f"{len(projectors)}")
        batch = windows if audio_windows is None else int(audio_windows.shape[0])
        streams = [projector(state) for projector, state in zip(projectors, states, strict=True)]
        weights = self.pclm.gate(prompt_input_ids, prompt_attention_mask, batch)
        if audio_windows is not None:
            weights = weights.repeat_interleave(audio_windows.to(weights.device), dim=0)
        if weights.shape[0] != windows:
            raise ModelError(
                "cannot mix streams",
                found=f"{weights.shape[0]} prompt rows for {windows} audio windows",
                allowed="one prompt row per clip",
                fix="say with audio_windows how many windows each clip has",
            )
        return cast(Tensor, self.pclm(streams, weights))

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
        states, frames, output = self.encode_streams(input_features, input_features_mask, **kwargs)
        mixed = self.mix_streams(states, prompt_input_ids, prompt_attention_mask, audio_windows)
        valid = torch.arange(mixed.shape[1], device=frames.device)[None, :] < frames[:, None]
        output.pooler_output = mixed[valid.to(mixed.device)]
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
        if input_features_mask is None:
            # Going on without the clip would be a silent wrong answer.
            raise ModelError(
                "cannot run the audio tower",
                found="input_features without input_features_mask",
                allowed="both, as the processor makes them",
            )
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        audio = self.get_audio_features(
            input_features, input_features_mask, prompt_input_ids, prompt_attention_mask, audio_windows
        ).pooler_output
        places = self.get_placeholder_mask(input_ids, inputs_embeds=inputs_embeds, audio_features=audio)
        inputs_embeds = inputs_embeds.masked_scatter(places, audio.to(inputs_embeds.device, inputs_embeds.dtype))
        output = super().forward(inputs_embeds=inputs_embeds, **kwargs)
        if not isinstance(output, tuple):
            output.audio_hidden_states = audio
        return output


class AudioFlamingo3PCLMForConditionalGeneration(AudioFlamingo3ForConditionalGeneration):
    """AF3 with a prompt-conditioned layer mixer and a language modeling head.

    ``forward`` and ``generate`` take what AF3 takes, and `prompt_input_ids`, `prompt_attention_mask` (the gate's text,
    one row per item, padded on the right) and `audio_windows` (windows per item, where clips exceed one window).
    """

    config: AudioFlamingo3PCLMConfig
    config_class = AudioFlamingo3PCLMConfig

    def __init__(self, config: AudioFlamingo3PCLMConfig) -> None:
        # Past AF3's own constructor, which would build a second, stock model of billions of parameters first.
        super(AudioFlamingo3ForConditionalGeneration, self).__init__(config)
        self.model = AudioFlamingo3PCLMModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        _init_gate(module, self.config)

    def mix_streams(
        self,
        states: Sequence[Float[Tensor, "windows frames d_encoder"]],
        prompt_input_ids: Int[Tensor, "batch tokens"] | None = None,
        prompt_attention_mask: Int[Tensor, "batch tokens"] | None = None,
        audio_windows: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "windows frames d_text"]:
        """Project, weigh and sum cached stream states; see `AudioFlamingo3PCLMModel.mix_streams`."""
        return self.model.mix_streams(states, prompt_input_ids, prompt_attention_mask, audio_windows)

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"] | None = None,
        input_features: Float[Tensor, "windows mels time"] | None = None,
        input_features_mask: Int[Tensor, "windows time"] | None = None,
        attention_mask: Int[Tensor, "batch length"] | None = None,
        prompt_input_ids: Int[Tensor, "batch tokens"] | None = None,
        prompt_attention_mask: Int[Tensor, "batch tokens"] | None = None,
        audio_windows: Int[Tensor, " batch"] | None = None,
        inputs_embeds: Float[Tensor, "batch length width"] | None = None,
        labels: Int[Tensor, "batch length"] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return AF3's output; the gate's text rides along to `AudioFlamingo3PCLMModel.forward`."""
        return super().forward(
            input_ids=input_ids,
            input_features=input_features,
            input_features_mask=input_features_mask,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            labels=labels,
            prompt_input_ids=prompt_input_ids,
            prompt_attention_mask=prompt_attention_mask,
            audio_windows=audio_windows,
            **kwargs,
        )


def _init_gate(module: nn.Module, config: AudioFlamingo3PCLMConfig) -> None:
    # Loading builds the model without storage; whatever a checkpoint lacks must be given its start here.
    if isinstance(module, PromptGate):
        if module.mode == "static":
            nn.init.zeros_(module.static_logits)
        elif module.mode == "clamped":
            with torch.no_grad():
                module.clamped_weights.copy_(torch.tensor(config.gate_weights))


AutoConfig.register("audioflamingo3_pclm", AudioFlamingo3PCLMConfig, exist_ok=True)
AutoModel.register(AudioFlamingo3PCLMConfig, AudioFlamingo3PCLMModel, exist_ok=True)
AutoModelForMultimodalLM.register(AudioFlamingo3PCLMConfig, AudioFlamingo3PCLMForConditionalGeneration, exist_ok=True)
AutoProcessor.register(AudioFlamingo3PCLMConfig, AudioFlamingo3PCLMProcessor, exist_ok=True)
