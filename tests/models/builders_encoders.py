"""Tiny random encoders and their real feature extractors: Whisper, HuBERT, WavLM, CLAP, built in memory.

Everything but the size is as in the published models: the seven convolutions of HuBERT with their strides, CLAP's
folded spectrogram and its four stages of growing width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import (
    ClapAudioConfig,
    ClapAudioModel,
    ClapAudioModelWithProjection,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    HubertConfig,
    HubertForCTC,
    HubertModel,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WavLMForXVector,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
    WhisperForConditionalGeneration,
    WhisperModel,
)

RATE = 16_000
WAVEFORM_MODELS = {
    ("hubert", "base"): (HubertConfig, HubertModel),
    ("hubert", "ctc"): (HubertConfig, HubertForCTC),
    ("wavlm", "base"): (WavLMConfig, WavLMModel),
    ("wavlm", "xvector"): (WavLMConfig, WavLMForXVector),
}
WHISPER_MODELS = {
    "base": WhisperModel,
    "generation": WhisperForConditionalGeneration,
    "classification": WhisperForAudioClassification,
}
CLAP_MODELS = {"whole": ClapModel, "audio": ClapAudioModel, "projection": ClapAudioModelWithProjection}


def noise(*seconds: float, seed: int = 0) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    """Return one clip of noise per length, louder towards its end, so that time matters."""
    generator = np.random.default_rng(seed)
    clips = []
    for length in seconds:
        samples = round(RATE * length)
        clips.append((np.linspace(0.02, 0.2, samples) * generator.standard_normal(samples)).astype(np.float32))
    return clips


def livened(model: Any, factor: float = 4.0) -> Any:
    """At the standard deviation of a fresh model nothing matters to anything; several times that, everything does."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed_positions" not in name and "parametrizations" not in name:
                parameter.mul_(factor)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.1)
        for module in model.modules():
            # Statistics that a trained model has, so that normalising is not the identity.
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(-20.0, 5.0)
                module.running_var.uniform_(50.0, 200.0)
    return model.eval()


def whisper_extractor(chunk_length: int = 2) -> Any:
    return WhisperFeatureExtractor(feature_size=16, hop_length=320, n_fft=800, chunk_length=chunk_length)


def whisper(kind: str = "base", seed: int = 0, **fields: Any) -> Any:
    """A window of 2 s: 100 mel frames, 50 positions of 40 ms."""
    defaults: dict[str, Any] = {
        "num_mel_bins": 16,
        "d_model": 32,
        "encoder_layers": 3,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_layers": 1,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 64,
        "max_source_positions": 50,
        "max_target_positions": 16,
        "vocab_size": 40,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 1,
        "classifier_proj_size": 8,
    }
    torch.manual_seed(seed)
    return livened(WHISPER_MODELS[kind](WhisperConfig(**{**defaults, **fields})))


def waveform_extractor(do_normalize: bool = True, return_attention_mask: bool = True) -> Any:
    return Wav2Vec2FeatureExtractor(do_normalize=do_normalize, return_attention_mask=return_attention_mask)


def waveform(name: str, norm: str = "group", kind: str = "base", seed: int = 0, **fields: Any) -> Any:
    """HuBERT or WavLM with 20 ms a frame; with "layer" as the large models are: mask, stable layer norm."""
    defaults: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "conv_dim": (8,) * 7,
        "feat_extract_norm": norm,
        "do_stable_layer_norm": norm == "layer",
        "conv_bias": norm == "layer",
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "vocab_size": 40,
    }
    if name == "wavlm":
        defaults |= {"num_buckets": 32, "max_bucket_distance": 80, "tdnn_dim": (8,) * 5, "xvector_output_dim": 8}
    config_class, model_class = WAVEFORM_MODELS[name, kind]
    torch.manual_seed(seed)
    return livened(model_class(config_class(**{**defaults, **fields})))


def clap_extractor(window: int = 2, fusion: bool = False, padding: str = "repeatpad") -> Any:
    return ClapFeatureExtractor(
        feature_size=32, max_length_s=window, truncation="fusion" if fusion else "rand_trunc", padding=padding
    )


def clap_audio_config(fusion: bool = False, **fields: Any) -> Any:
    """A square of 32 x 32 patches, folded from 4 rows of 8 x 32; stages of width 8, 16, 32 and 64."""
    defaults: dict[str, Any] = {
        "num_mel_bins": 32,
        "spec_size": 128,
        "window_size": 4,
        "patch_embeds_hidden_size": 8,
        "hidden_size": 64,
        "depths": (2, 2, 2, 1),
        "num_attention_heads": (2, 2, 4, 4),
        "enable_fusion": fusion,
        "fusion_type": "aff_2d" if fusion else None,
        "projection_dim": 12,
    }
    return ClapAudioConfig(**{**defaults, **fields})


def clap(kind: str = "audio", fusion: bool = False, seed: int = 0, **fields: Any) -> Any:
    audio = clap_audio_config(fusion, **fields)
    config: Any = audio
    if kind == "whole":
        text = ClapTextConfig(
            vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        )
        config = ClapConfig(text_config=text, audio_config=audio, projection_dim=12)
    torch.manual_seed(seed)
    return livened(CLAP_MODELS[kind](config))


def raw_states(modules: Sequence[Any], forward: Any) -> list[Any]:
    """Run `forward` with a plain hook on each module; return what each put out."""
    found: list[Any] = [None] * len(modules)
    handles = []
    for place, module in enumerate(modules):

        def keep(_module: Any, _args: Any, output: Any, place: int = place) -> None:
            found[place] = output

        handles.append(module.register_forward_hook(keep))
    try:
        with torch.inference_mode():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return found
