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

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, TypeAlias, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3ForConditionalGeneration,
    AutoConfig,
    AutoModel,
    AutoModelForMultimodalLM,
    AutoProcessor,
    BertConfig,
    BertModel,
)
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.audioflamingo3.modeling_audioflamingo3 import (
    AudioFlamingo3Model,
    AudioFlamingo3MultiModalProjector,
)

from vpanalysis.errors import ModelError
from vpanalysis.models.processing import AudioFlamingo3PCLMProcessor

__all__ = [
    "AudioFlamingo3PCLMConfig",
    "AudioFlamingo3PCLMForConditionalGeneration",
    "AudioFlamingo3PCLMModel",
    "PromptConditionedLayerMixer",
    "PromptGate",
    "outputs_of",
    "pool_state",
]

StreamStates: TypeAlias = "list[Float[Tensor, 'windows frames width']]"

# BERT-small (google/bert_uncased_L-4_H-512_A-8), the size that the model card names.
_BERT_SMALL = {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 2048}

_CHOICES: dict[str, tuple[str, ...]] = {
    "layer_index_convention": ("block_output_1based", "block_output_0based"),
    "mid_pool": ("avg_norm", "avg"),
    "gate_order": ("ascending_final_last", "final_first"),
    "gate_text": ("question", "question_options", "chat"),
    "bert_pooling": ("cls", "mean"),
    "gate_mode": ("prompt", "static", "clamped"),
    "stream_sources": ("layers", "final"),
}


class AudioFlamingo3PCLMConfig(AudioFlamingo3Config):
    """Configuration of AF3 with a prompt-conditioned layer mixer.

    The fields of `AudioFlamingo3Config`, and those below. Each marked *(unknown)* is something that neither the paper
    nor the model card says; its default is the natural reading, and a checkpoint that was trained otherwise is loaded
    by setting the field, not by changing code.

    Parameters
    ----------
    expose_layers : list of int
        Exposed encoder layers in ascending order, numbered as in the paper: ``[5, 15, 25, 30]`` of 32.
    layer_index_convention : {"block_output_1based", "block_output_0based"}
        *(unknown)* What "layer k" is: the output of the k-th block counted from 1, ``encoder[k - 1]``, which is also
        ``hidden_states[k]`` of Hugging Face; or counted from 0, ``encoder[k]``.
    mid_pool : {"avg_norm", "avg"}
        *(unknown)* What is done to an exposed layer before its projector: the tower's average pooling over two frames
        followed by the tower's final LayerNorm, as the final layer gets it and as a projector cloned from the final
        one expects it; or pooling alone.
    gate_order : {"ascending_final_last", "final_first"}
        *(unknown)* Order of the gate MLP's outputs. The weights that `PromptGate` returns are always in the order of
        the streams: exposed layers ascending, then final.
    gate_text : {"question", "question_options", "chat"}
        *(unknown)* Which text the gate reads: the question, the question with its options, or the whole chat prompt.
    bert_pooling : {"cls", "mean"}
        *(unknown)* How token states become one vector: the first token, or the mean over valid tokens.
    gate_mode : {"prompt", "static", "clamped"}
        ``"prompt"``: the paper's gate. ``"static"``: learned weights that no prompt changes, the control that the paper
        lacks. ``"clamped"``: fixed weights, from `gate_weights`.
    gate_weights : list of float, optional
        The fixed weights of ``"clamped"``, one per stream; all on the final stream by default.
    stream_sources : {"layers", "final"}
        ``"final"`` feeds the tower's output to every stream: the same parameters without access to middle layers.
    gate_mlp_dims : list of int
        *(unknown)* Widths of the hidden layers of the gate's MLP.
    gate_mlp_act : str
        *(unknown)* Activation of the gate's MLP, as Hugging Face names it.
    prompt_encoder_config : dict or BertConfig, optional
        The prompt encoder; BERT-small by default. Unused, and None, unless `gate_mode` is ``"prompt"``.

    Raises
    ------
    ModelError
        If a field has a value that is not allowed.
    """

    model_type = "audioflamingo3_pclm"

    expose_layers: list[int] | None = None
    layer_index_convention: str = "block_output_1based"
    mid_pool: str = "avg_norm"
    gate_order: str = "ascending_final_last"
    gate_text: str = "question"
    bert_pooling: str = "cls"
    gate_mode: str = "prompt"
    gate_weights: list[float] | None = None
    stream_sources: str = "layers"
    gate_mlp_dims: list[int] | None = None
    gate_mlp_act: str = "gelu"
    prompt_encoder_config: Any = None
    use_sound_pclm: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        layers = self.audio_config.num_hidden_layers
        if self.expose_layers is None:
            # Configs are also built without arguments, for whatever encoder is the default.
            self.expose_layers = [k for k in (5, 15, 25, 30) if k <= layers]
        self.expose_layers = [int(k) for k in self.expose_layers]
        self.gate_mlp_dims = [512] if self.gate_mlp_dims is None else [int(d) for d in self.gate_mlp_dims]
        if self.gate_mode != "prompt":
            self.prompt_encoder_config = None
        elif not isinstance(self.prompt_encoder_config, BertConfig):
            self.prompt_encoder_config = BertConfig(**{**_BERT_SMALL, **(self.prompt_encoder_config or {})})
        if self.gate_mode == "clamped" and self.gate_weights is None:
            self.gate_weights = [0.0] * len(self.expose_layers) + [1.0]
        self._check(layers)

    def _check(self, layers: int) -> None:
        for field, allowed in _CHOICES.items():
            value = getattr(self, field)
            if value not in allowed:
                raise ModelError(
                    f"cannot use the PCLM config field {field!r}", found=repr(value), allowed=allowed, word=str(value)
                )
        first = 1 if self.layer_index_convention == "block_output_1based" else 0
        exposed = cast("list[int]", self.expose_layers)
        if sorted(set(exposed)) != exposed or not all(first <= k < first + layers for k in exposed):
            raise ModelError(
                "cannot use the PCLM config field 'expose_layers'",
                found=repr(exposed),
                allowed=f"ascending, distinct numbers from {first} to {first + layers - 1}"
                f" ({self.layer_index_convention})",
            )
        if self.gate_weights is not None and len(self.gate_weights) != self.num_streams:
            raise ModelError(
                "cannot use the PCLM config field 'gate_weights'",
                found=f"{len(self.gate_weights)} weights",
                allowed=f"one per stream, {self.num_streams}",
            )

    @property
    def num_streams(self) -> int:
        """Number of streams: the exposed layers and the final one."""
        return len(cast("list[int]", self.expose_layers)) + 1

    @property
    def encoder_indices(self) -> tuple[int, ...]:
        """Position in ``encoder[0..L-1]`` of each exposed layer."""
        shift = 1 if self.layer_index_convention == "block_output_1based" else 0
        return tuple(k - shift for k in cast("list[int]", self.expose_layers))

    @property
    def stream_names(self) -> tuple[str, ...]:
        """What each stream is made of, in the order of the gate's weights: ``("encoder[4]", ..., "tower")``."""
        if self.stream_sources == "final":
            # Column names must differ, so the copies are numbered.
            return (*(f"tower#{i}" for i in range(self.num_streams - 1)), "tower")
        return (*(f"encoder[{i}]" for i in self.encoder_indices), "tower")


class PromptGate(nn.Module):
    """Prompt in, one weight per stream out: ``softmax(MLP(BERT(p)))``.

    Parameters
    ----------
    config : AudioFlamingo3PCLMConfig
        Its `gate_mode` decides which parts exist: ``prompt_encoder`` and ``mlp``, or ``static_logits``, or the buffer
        ``clamped_weights``.
    """

    prompt_encoder: nn.Module
    mlp: nn.Module
    static_logits: Tensor
    clamped_weights: Tensor

    def __init__(self, config: AudioFlamingo3PCLMConfig) -> None:
        super().__init__()
        self.mode = config.gate_mode
        self.bert_pooling = config.bert_pooling
        self.gate_order = config.gate_order
        streams = config.num_streams
        if self.mode == "prompt":
            self.prompt_encoder = BertModel(config.prompt_encoder_config, add_pooling_layer=False)
            widths = [config.prompt_encoder_config.hidden_size, *cast("list[int]", config.gate_mlp_dims)]
            layers: list[nn.Module] = []
            for width_in, width_out in pairwise(widths):
                layers += [nn.Linear(width_in, width_out), ACT2FN[config.gate_mlp_act]]
            self.mlp = nn.Sequential(*layers, nn.Linear(widths[-1], streams))
        elif self.mode == "static":
            self.static_logits = nn.Parameter(torch.zeros(streams))
        else:
            self.register_buffer("clamped_weights", torch.tensor(config.gate_weights, dtype=torch.float32))

    def forward(
        self,
        prompt_input_ids: Int[Tensor, "batch tokens"] | None,
        prompt_attention_mask: Int[Tensor, "batch tokens"] | None,
        batch: int,
    ) -> Float[Tensor, "batch streams"]:
        """Return the weights of each row, float32, in the order of the streams (exposed ascending, then final)."""
        if self.mode == "clamped":
            return self.clamped_weights.float().expand(batch, -1)
        if self.mode == "static":
            logits = self.static_logits.float().expand(batch, -1)
        else:
            if prompt_input_ids is None:
                raise ModelError(
                    "cannot weigh the encoder layers",
                    found="no prompt_input_ids",
                    allowed="token ids of the gate's text, one row per item",
                    fix="make the inputs with AudioLLM.prepare, or pass prompt_input_ids and prompt_attention_mask",
                )
            logits = self.mlp(self.embed(prompt_input_ids, prompt_attention_mask)).float()
        if self.gate_order == "final_first":
            logits = logits.roll(-1, dims=-1)
        return torch.softmax(logits, dim=-1)

    def embed(
        self, prompt_input_ids: Int[Tensor, "batch tokens"], prompt_attention_mask: Int[Tensor, "batch tokens"] | None
    ) -> Float[Tensor, "batch width"]:
        """Return one vector per prompt (`bert_pooling`)."""
        if prompt_attention_mask is None:
            prompt_attention_mask = torch.ones_like(prompt_input_ids)
        states: Tensor = self.prompt_encoder(
            input_ids=prompt_input_ids, attention_mask=prompt_attention_mask
        ).last_hidden_state
        if self.bert_pooling == "cls":
            return states[:, 0]
        valid = prompt_attention_mask.unsqueeze(-1).to(states.dtype)
        return (states * valid).sum(1) / valid.sum(1).clamp(min=1)


class PromptConditionedLayerMixer(nn.Module):
    """The trained parts that AF3 lacks, and the mixture: ``sum_l alpha_l Z_l`` (paper, section 5).

    Its own forward returns the mixture that the language model receives; ``gate`` returns the weights. The projector
    of the final stream is AF3's own and lives outside.

    Parameters
    ----------
    config : AudioFlamingo3PCLMConfig
        Number of streams, projector form and gate.
    """

    def __init__(self, config: AudioFlamingo3PCLMConfig) -> None:
        super().__init__()
        self.gate = PromptGate(config)
        self.projectors = nn.ModuleList(
            AudioFlamingo3MultiModalProjector(config) for _ in range(config.num_streams - 1)
        )

    def forward(
        self,
        streams: Sequence[Float[Tensor, "windows frames width"]],
        weights: Float[Tensor, "windows streams"],
    ) -> Float[Tensor, "windows frames width"]:
        """Return the weighted sum of projected streams, in their dtype; it is accumulated in float32."""
        mixed = torch.zeros((), dtype=torch.float32, device=streams[0].device)
        for stream, weight in zip(streams, weights.unbind(dim=1), strict=True):
            mixed = mixed + stream.float() * weight[:, None, None]
        return mixed.to(streams[0].dtype)


@contextmanager
def outputs_of(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect the output of each module during the block, in the order of execution; the hooks are gone after it."""
    kept: list[Tensor] = []
    handles: list[RemovableHandle] = []

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    try:
        handles.extend(module.register_forward_hook(keep) for module in modules)
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def pool_state(
    tower: Any, state: Float[Tensor, "windows positions width"], mid_pool: str
) -> Float[Tensor, "windows frames width"]:
    """Bring an encoder layer's output to the tower's frame rate, by the tower's own pooling (and norm).

    Parameters
    ----------
    tower : AudioFlamingo3Encoder
        The audio tower.
    state : Tensor, shape (windows, positions, d_encoder)
        Output of one of its layers.
    mid_pool : {"avg_norm", "avg"}
        Whether the tower's final LayerNorm follows.
    """
    pooled: Tensor = tower.avg_pooler(state.transpose(1, 2)).transpose(1, 2)
    return cast(Tensor, tower.layer_norm(pooled)) if mid_pool == "avg_norm" else pooled


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
        if input_features is None or input_features_mask is None or input_ids is None:
            return super().forward(input_ids=input_ids, inputs_embeds=inputs_embeds, **kwargs)
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
