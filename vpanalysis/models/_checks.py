"""What must hold between a model, its processor and its family before anything is measured."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch

from vpanalysis.errors import ModelError

if TYPE_CHECKING:
    from vpanalysis.models.facade import AudioLLM

__all__ = ["check_forward", "check_parts", "check_trim"]


def check_parts(llm: AudioLLM) -> None:
    """Refuse a processor or tokenizer that belongs to another model."""
    config = llm.model.config
    if not llm.answers:
        return
    if llm.tokenizer is None:
        raise ModelError(
            f"cannot use the processor with {llm.name!r}",
            found=f"{type(llm.processor).__name__}, without a tokenizer",
            allowed="the model's processor",
        )
    token = getattr(config, llm.family.audio_token_attr)
    found = llm.tokenizer.convert_tokens_to_ids(llm.frontend.audio_token)
    if found != token:
        raise ModelError(
            f"cannot use the processor with {llm.name!r}",
            found=f"{llm.frontend.audio_token!r} is token {found} of the tokenizer",
            allowed=f"the model's audio placeholder, {token}",
        )
    encoder = getattr(config, "prompt_encoder_config", None)
    if encoder is not None and len(llm.gate_tokenizer) > encoder.vocab_size:
        raise ModelError(
            f"cannot tokenize the gate's text for {llm.name!r}",
            found=f"a tokenizer of {len(llm.gate_tokenizer)} tokens",
            allowed=f"at most {encoder.vocab_size}, the prompt encoder's vocabulary",
            fix="pass the prompt encoder's own as gate_tokenizer, such as 'google/bert_uncased_L-4_H-512_A-8'",
        )


def check_forward(llm: AudioLLM) -> None:
    """Run half a second of silence through the encoder: the family must count frames as the model does."""
    wave = np.zeros(llm.feature_extractor.sampling_rate // 2, dtype=np.float32)
    layout = llm.layout([wave])
    last = next(site for site in reversed(llm.sites) if site.startswith("encoder["))
    with llm.capturing([last]) as states, torch.no_grad():
        inputs, made = llm.features([wave])
        tower = llm.frontend.run_tower(inputs, made)
    # States may be padded, never shorter than what the family counts.
    found = (_frames(states[last][0]), _frames(tower))
    wanted = (layout.row_positions[0], layout.row_kept[0])
    if made != layout or found[0] < wanted[0] or found[1] < wanted[1] or not torch.isfinite(tower).all():
        raise ModelError(
            f"cannot use {llm.name!r} as the family {llm.family.name!r}",
            found=f"{found[0]} encoder positions and {found[1]} frames for half a second of silence",
            allowed=f"at least {wanted[0]} and {wanted[1]}, finite",
        )


def _frames(state: torch.Tensor) -> int:
    return int(state.shape[-2])


# Of the largest absolute value of a state. In float32 both ways differ by the order of sums; in half precision by the
# rounding of every layer.
_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def check_trim(llm: AudioLLM) -> None:
    """Encode noise with and without the silence behind it; where the results differ, go back to encoding silence."""
    if not llm.frontend.trim:
        return
    rate = llm.feature_extractor.sampling_rate
    noise = np.random.default_rng(0).standard_normal(int(0.73 * rate)).astype(np.float32) * 0.1
    layout = llm.layout([noise])
    with torch.no_grad():
        inputs, _ = llm.features([noise])
        short, whole = (
            llm.frontend.padded(llm.frontend.run_tower(made, layout), layout, "tower")
            for made in (llm.frontend.shortened(inputs), inputs)
        )
    frames = layout.row_kept[0]
    error = float((short[0, :frames].float() - whole[0, :frames].float()).abs().max())
    scale = max(1.0, float(whole[0, :frames].abs().max()))
    allowed = _TOLERANCE.get(llm.dtype, 0.05) * scale
    measured = f"largest difference {error:.1e} on valid frames of the tower, allowed {allowed:.1e}"
    if error <= allowed:
        llm.trim_report = f"on: {measured}"
    else:
        llm.frontend.trim = False
        llm.trim_report = f"off: {measured}"
        warnings.warn(f"{llm.name}: silence behind clips is encoded as in the stock model ({measured})", stacklevel=2)
