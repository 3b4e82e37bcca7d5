"""The organism's models, untrained: stock AF3 and its three mixers, all with the one frozen encoder."""

from __future__ import annotations

from typing import Any

import torch

from vpanalysis.models.pclm import AudioFlamingo3PCLMConfig, AudioFlamingo3PCLMForConditionalGeneration
from vpanalysis.organism.questions import organism_tokenizer
from vpanalysis.organism.sizes import audio_config, gate_fields, text_config

__all__ = ["FORMS", "new_model", "with_mixer"]

FORMS: dict[str, dict[str, Any]] = {
    "pclm": {},
    "final": {"stream_sources": "final"},
    "static": {"gate_mode": "static"},
}
"""Config fields that set the mixers apart: the paper's, its parameter-matched control, and fixed weights."""


def _parts() -> dict[str, Any]:
    tokenizer = organism_tokenizer()
    sound, end = tokenizer.convert_tokens_to_ids(["<sound>", "<|im_end|>"])
    text = text_config(len(tokenizer), pad=tokenizer.pad_token_id, bos=None, eos=end)
    return {
        "audio_config": {"model_type": "audioflamingo3_encoder", **audio_config()},
        "text_config": {"model_type": "qwen2", **text},
        "audio_token_id": sound,
    }


def new_model(encoder: Any, seed: int = 0) -> Any:
    """Return an untrained stock AF3 with the trained encoder in it."""
    from transformers import AudioFlamingo3Config, AudioFlamingo3ForConditionalGeneration

    torch.manual_seed(seed)
    model = AudioFlamingo3ForConditionalGeneration(AudioFlamingo3Config(**_parts()))
    model.model.audio_tower.load_state_dict(encoder.state_dict())
    return model.eval()


def with_mixer(base: Any, form: str, seed: int = 0) -> Any:
    """Return `base` with a mixer: middle projectors start as clones of its own, as in the paper.

    Parameters
    ----------
    base : AudioFlamingo3ForConditionalGeneration
    form : {"pclm", "final", "static"}
    seed : int
        Of the gate's start.
    """
    torch.manual_seed(seed)
    fields = {**gate_fields(len(organism_tokenizer())), "bert_pooling": "mean", **FORMS[form]}
    model = AudioFlamingo3PCLMForConditionalGeneration(AudioFlamingo3PCLMConfig(**_parts(), **fields))
    missing, surplus = model.load_state_dict(base.state_dict(), strict=False)
    assert not surplus and all("pclm" in name for name in missing)
    model.model.clone_final_projector()
    return model.eval()
