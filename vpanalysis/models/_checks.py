"""What must hold between a model, its processor and its family before anything is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vpanalysis.errors import ModelError

if TYPE_CHECKING:
    from vpanalysis.models.facade import AudioLLM

__all__ = ["check_forward", "check_parts"]


def check_parts(llm: AudioLLM) -> None:
    """Refuse a processor or tokenizer that belongs to another model."""
    config = llm.model.config
    token = getattr(config, llm.family.audio_token_attr)
    found = llm.tokenizer.convert_tokens_to_ids(llm.processor.audio_token)
    if found != token:
        raise ModelError(
            f"cannot use the processor with {llm.name!r}",
            found=f"{llm.processor.audio_token!r} is token {found} of the tokenizer",
            allowed=f"the model's audio placeholder, {token}",
        )
    tower: Any = llm.family.find(llm.model, llm.family.tower)
    extractor = llm.feature_extractor
    mels = int(extractor.sampling_rate * extractor.chunk_length) // extractor.hop_length
    positions = llm.family.encoder_frames(mels)
    if extractor.feature_size != tower.config.num_mel_bins or positions != tower.config.max_source_positions:
        raise ModelError(
            f"cannot use the feature extractor with {llm.name!r}",
            found=f"{extractor.feature_size} mel bins and a window of {positions} positions",
            allowed=f"{tower.config.num_mel_bins} and {tower.config.max_source_positions}",
        )
    encoder = getattr(config, "prompt_encoder_config", None)
    if encoder is not None and len(llm.gate_tokenizer) > encoder.vocab_size:
        raise ModelError(
            f"cannot tokenize the gate's text for {llm.name!r}",
            found=f"a tokenizer of {len(llm.gate_tokenizer)} tokens",
            allowed=f"at most {encoder.vocab_size}, the prompt encoder's vocabulary",
            fix="pass the prompt encoder's own tokenizer as gate_tokenizer",
        )


def check_forward(llm: AudioLLM) -> None:
    """Run half a second of silence through the encoder: the family must count frames as the model does."""
    wave = np.zeros(llm.feature_extractor.sampling_rate // 2, dtype=np.float32)
    layout = llm.layout([wave])
    extractor = llm.feature_extractor
    window = int(extractor.sampling_rate * extractor.chunk_length) // extractor.hop_length
    last = next(site for site in reversed(llm.sites) if site.startswith("encoder["))
    with llm.capturing([last]) as states:
        clip = llm.encode([wave], ["tower"])[0]
    tower = clip.streams["tower"]
    found = (int(states[last][0].shape[1]), tower.shape[0])
    wanted = (llm.family.encoder_frames(window), layout.frames[0][0])
    if found != wanted or not torch.isfinite(tower).all():
        raise ModelError(
            f"cannot use {llm.name!r} as the family {llm.family.name!r}",
            found=f"{found[0]} encoder positions and {found[1]} frames for half a second of silence",
            allowed=f"{wanted[0]} and {wanted[1]}, finite",
        )
