"""The configuration of a layer mixer on a base model, with a field for everything that the releases leave open.

Why it exists. The paper and the model cards do not say how layers are numbered, whether an exposed layer is normed
before its projector, in which order the gate's outputs come, which text the gate reads, or how BERT's states become one
vector. A loader that guessed would be wrong without a sign of it.

The idea. Each open question is a field, marked *(unknown)*, with the natural reading as its default. What a checkpoint
was trained with is found by `vpanalysis.calibrate`, from its answers under each reading. The fields are the same
whatever the base is, so they and their checks are one class, `PCLMConfig`, and a base's configuration is that class
with the base's own: Audio Flamingo 3 or Qwen2-Audio.

Worked example::

    config = AudioFlamingo3PCLMConfig(expose_layers=[5, 15, 25, 30])
    config.stream_names          # ("encoder[4]", "encoder[14]", "encoder[24]", "encoder[29]", "tower")
    Qwen2AudioPCLMConfig(layer_index_convention="block_output_0based").stream_names[0]         # "encoder[5]"
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from transformers import AudioFlamingo3Config, BertConfig, Qwen2AudioConfig

from vpanalysis.errors import ModelError

__all__ = ["PCLM_FIELDS", "AudioFlamingo3PCLMConfig", "PCLMConfig", "Qwen2AudioPCLMConfig"]

PCLM_FIELDS: tuple[str, ...] = (
    "expose_layers",
    "layer_index_convention",
    "mid_pool",
    "gate_order",
    "gate_text",
    "bert_pooling",
    "prompt_encoder_pooler",
    "gate_mode",
    "gate_weights",
    "stream_sources",
    "gate_mlp_dims",
    "gate_mlp_act",
    "prompt_encoder_config",
)
"""The fields that `PCLMConfig` adds to a base's."""

# BERT-small (google/bert_uncased_L-4_H-512_A-8), the size that the model card names.
_BERT_SMALL = {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 2048}

_CHOICES: dict[str, tuple[str, ...]] = {
    "layer_index_convention": ("block_output_1based", "block_output_0based"),
    "mid_pool": ("avg_norm", "avg"),
    "gate_order": ("ascending_final_last", "final_first"),
    "gate_text": ("question", "question_options", "chat"),
    "bert_pooling": ("cls", "mean", "pooler"),
    "gate_mode": ("prompt", "static", "clamped"),
    "stream_sources": ("layers", "final"),
}


# Hugging Face's configurations are dataclasses: only a dataclass hands its fields down to them.
@dataclass(kw_only=True, repr=False, eq=False)
class PCLMConfig:
    """What a prompt-conditioned layer mixer adds to the configuration of its base.

    Each field marked *(unknown)* is something that neither the paper nor the model cards say; its default is the
    natural reading, and a checkpoint that was trained otherwise is loaded by setting the field, not by changing code.

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
    bert_pooling : {"cls", "mean", "pooler"}
        *(unknown)* How token states become one vector: the first token, the mean over valid tokens, or BERT's own
        pooler, ``tanh(dense(first token))``.
    prompt_encoder_pooler : bool
        Whether the checkpoint holds the weights of BERT's pooler, ``prompt_encoder.pooler.*``, used or not;
        ``bert_pooling="pooler"`` implies it.
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

    expose_layers: list[int] | None = None
    layer_index_convention: str = "block_output_1based"
    mid_pool: str = "avg_norm"
    gate_order: str = "ascending_final_last"
    gate_text: str = "question"
    bert_pooling: str = "cls"
    prompt_encoder_pooler: bool = False
    gate_mode: str = "prompt"
    gate_weights: list[float] | None = None
    stream_sources: str = "layers"
    gate_mlp_dims: list[int] | None = None
    gate_mlp_act: str = "gelu"
    prompt_encoder_config: Any = None
    use_sound_pclm: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        # The base's, which turns dictionaries into configurations.
        super().__post_init__(**kwargs)  # type: ignore[misc]
        layers = cast(Any, self).audio_config.num_hidden_layers
        if self.expose_layers is None:
            # Configs are also built without arguments, for whatever encoder is the default.
            self.expose_layers = [k for k in (5, 15, 25, 30) if k <= layers]
        self.expose_layers = [int(k) for k in self.expose_layers]
        self.gate_mlp_dims = [512] if self.gate_mlp_dims is None else [int(d) for d in self.gate_mlp_dims]
        self.prompt_encoder_pooler = self.prompt_encoder_pooler or self.bert_pooling == "pooler"
        if self.gate_mode != "prompt":
            self.prompt_encoder_config, self.prompt_encoder_pooler = None, False
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


class AudioFlamingo3PCLMConfig(PCLMConfig, AudioFlamingo3Config):
    """Configuration of Audio Flamingo 3 with a layer mixer: the fields of `AudioFlamingo3Config` and `PCLMConfig`."""

    model_type = "audioflamingo3_pclm"


class Qwen2AudioPCLMConfig(PCLMConfig, Qwen2AudioConfig):
    """Configuration of Qwen2-Audio with a layer mixer: the fields of `Qwen2AudioConfig` and `PCLMConfig`."""

    model_type = "qwen2_audio_pclm"
