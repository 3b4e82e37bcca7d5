"""The mixer itself: prompt in, one weight per stream out, and the weighted sum (paper, section 5).

Why it exists. ``alpha = softmax(MLP(BERT(p)))`` and ``Z~ = sum_l alpha_l Z_l`` are two modules, each of which returns
exactly what one wants to look at: a forward hook on `PromptGate` sees the weights, one on
`PromptConditionedLayerMixer` sees the audio tokens that the language model receives.

The idea. Weights and sums are float32 whatever the model's type is, so that a weight of 1 on one stream gives back that
stream bit for bit. Nothing here depends on the base model but the form of its projector, which is handed in: two linear
layers in Audio Flamingo 3, one in Qwen2-Audio.

Worked example::

    mixer = PromptConditionedLayerMixer(config, AudioFlamingo3MultiModalProjector)
    weights = mixer.gate(prompt_input_ids, prompt_attention_mask, batch)     # (batch, streams), rows sum to 1
    mixer(streams, weights)                                                  # (batch, frames, d_text)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import BertModel
from transformers.activations import ACT2FN
from transformers.models.audioflamingo3.modeling_audioflamingo3 import AudioFlamingo3MultiModalProjector

from vpanalysis.errors import ModelError
from vpanalysis.models.pclm_config import PCLMConfig

__all__ = ["PromptConditionedLayerMixer", "PromptGate", "outputs_of", "pool_state"]


class PromptGate(nn.Module):
    """Prompt in, one weight per stream out: ``softmax(MLP(BERT(p)))``.

    Parameters
    ----------
    config : PCLMConfig
        Its `gate_mode` decides which parts exist: ``prompt_encoder`` and ``mlp``, or ``static_logits``, or the buffer
        ``clamped_weights``.
    """

    prompt_encoder: nn.Module
    mlp: nn.Module
    static_logits: Tensor
    clamped_weights: Tensor

    def __init__(self, config: PCLMConfig) -> None:
        super().__init__()
        self.mode = config.gate_mode
        self.bert_pooling = config.bert_pooling
        self.gate_order = config.gate_order
        streams = config.num_streams
        if self.mode == "prompt":
            self.prompt_encoder = BertModel(
                config.prompt_encoder_config, add_pooling_layer=config.prompt_encoder_pooler
            )
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
        output = self.prompt_encoder(input_ids=prompt_input_ids, attention_mask=prompt_attention_mask)
        if self.bert_pooling == "pooler":
            return cast(Tensor, output.pooler_output)
        states: Tensor = output.last_hidden_state
        if self.bert_pooling == "cls":
            return states[:, 0]
        valid = prompt_attention_mask.unsqueeze(-1).to(states.dtype)
        return (states * valid).sum(1) / valid.sum(1).clamp(min=1)


class PromptConditionedLayerMixer(nn.Module):
    """The trained parts that the base lacks, and the mixture: ``sum_l alpha_l Z_l`` (paper, section 5).

    Its own forward returns the mixture that the language model receives; ``gate`` returns the weights. The projector
    of the final stream is the base's own and lives outside.

    Parameters
    ----------
    config : PCLMConfig
        Number of streams, and gate.
    projector : callable
        The base's kind of projector, made from the config; AF3's by default.
    """

    # Its streams are summed, so where a model is spread over devices all of it stays on one.
    _no_split_modules = ("PromptConditionedLayerMixer",)

    def __init__(
        self, config: PCLMConfig, projector: Callable[[Any], nn.Module] = AudioFlamingo3MultiModalProjector
    ) -> None:
        super().__init__()
        self.gate = PromptGate(config)
        self.projectors = nn.ModuleList(projector(config) for _ in range(config.num_streams - 1))

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
    tower : AudioFlamingo3Encoder or Qwen2AudioEncoder
        The audio tower.
    state : Tensor, shape (windows, positions, d_encoder)
        Output of one of its layers.
    mid_pool : {"avg_norm", "avg"}
        Whether the tower's final LayerNorm follows.
    """
    pooled: Tensor = tower.avg_pooler(state.transpose(1, 2)).transpose(1, 2)
    return cast(Tensor, tower.layer_norm(pooled)) if mid_pool == "avg_norm" else pooled
