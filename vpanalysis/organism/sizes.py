"""How large the organism is: Audio Flamingo 3 with a layer mixer, in miniature.

Everything has the form of the real thing and a width of 128. Time is coarser than in the real model, because a small
encoder that steps through 20 ms frames spends most of its work on repeating itself: one mel frame is 20 ms, one encoder
position 40 ms, one audio token 80 ms, and the window is 6 s instead of 30.

    mel          128 bins, 50 ms Hann window (20 Hz bins, so that the harmonics of a low voice are resolved)
    encoder      6 layers, d 128, 4 heads, feed-forward 512, 150 positions
    exposed      layers 1 to 4, as the real one exposes 5, 15, 25 and 30 of 32
    language     Qwen2 form: 4 layers, d 128, 4 heads with 2 key-value heads, feed-forward 384, one token a word
    gate         BERT form: 2 layers, d 64; an MLP with one hidden layer of 64
"""

from __future__ import annotations

from typing import Any

__all__ = ["EXPOSED", "WINDOW_SECONDS", "audio_config", "extractor_config", "gate_fields", "text_config"]

WINDOW_SECONDS = 6
EXPOSED = (1, 2, 3, 4)
WIDTH = 128


def extractor_config() -> dict[str, Any]:
    """Return the arguments of `WhisperFeatureExtractor`."""
    return {
        "feature_size": 128,
        "sampling_rate": 16_000,
        "hop_length": 320,
        "n_fft": 800,
        "chunk_length": WINDOW_SECONDS,
        "padding_value": 0.0,
        "return_attention_mask": True,
    }


def audio_config() -> dict[str, Any]:
    """Return the arguments of `AudioFlamingo3EncoderConfig`."""
    return {
        "num_mel_bins": 128,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "intermediate_size": 4 * WIDTH,
        "hidden_size": WIDTH,
        "max_source_positions": WINDOW_SECONDS * 25,
    }


def text_config(vocabulary: int, *, pad: int, bos: int | None, eos: int) -> dict[str, Any]:
    """Return the arguments of `Qwen2Config` for a vocabulary of so many words."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "intermediate_size": 3 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "pad_token_id": pad,
        "bos_token_id": bos,
        "eos_token_id": eos,
    }


def gate_fields(vocabulary: int) -> dict[str, Any]:
    """Return the mixer's part of the config."""
    return {
        "expose_layers": list(EXPOSED),
        "gate_mlp_dims": [64],
        "prompt_encoder_config": {
            "vocab_size": vocabulary,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 128,
            "max_position_embeddings": 64,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
    }
