"""Tiny random models of the two families, built in memory: everything but the size is as in the real ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3EncoderConfig,
    AudioFlamingo3ForConditionalGeneration,
    Qwen2Config,
    WhisperFeatureExtractor,
)

from vpanalysis.benchmark.audio import ArrayAudio
from vpanalysis.benchmark.items import Item
from vpanalysis.models.facade import AudioLLM
from vpanalysis.models.pclm import AudioFlamingo3PCLMConfig, AudioFlamingo3PCLMForConditionalGeneration
from vpanalysis.models.word_tokenizer import build_word_processor, build_word_tokenizer

RATE = 16_000
QUESTIONS = {
    "What is the speaker's gender?": ("Female", "Male"),
    "Which pitch pattern best matches the audio?": ("high-medium-low", "low-medium-high", "medium-low-high"),
    "How does the speaker feel in the recording?": ("neutral", "sadness", "anger", "happiness"),
}


@dataclass
class Tiny:
    """A processor and what configs are made of."""

    processor: Any
    audio: Any
    text: Any

    def stock(self, seed: int = 0) -> Any:
        torch.manual_seed(seed)
        config = AudioFlamingo3Config(audio_config=self.audio, text_config=self.text, audio_token_id=4)
        return _livened(AudioFlamingo3ForConditionalGeneration(config))

    def config(self, **fields: Any) -> Any:
        words = self.text.vocab_size
        bert = {
            "vocab_size": words,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 64,
        }
        defaults = {
            "expose_layers": [1, 3],
            "bert_pooling": "mean",
            "gate_mlp_dims": [8],
            "prompt_encoder_config": bert,
        }
        return AudioFlamingo3PCLMConfig(
            audio_config=self.audio, text_config=self.text, audio_token_id=4, **{**defaults, **fields}
        )

    def pclm(self, seed: int = 0, **fields: Any) -> Any:
        torch.manual_seed(seed)
        return _livened(AudioFlamingo3PCLMForConditionalGeneration(self.config(**fields)))

    def llm(self, model: Any, **options: Any) -> AudioLLM:
        return AudioLLM(model, self.processor, **{"name": "tiny", **options})


def _livened(model: Any) -> Any:
    # At the standard deviation of a fresh model nothing matters to anything; three times that, everything does.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed_positions" not in name:
                parameter.mul_(5.0)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.1)
    return model.eval()


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    tokenizer = build_word_tokenizer([text for q, options in QUESTIONS.items() for text in (q, *options)])
    extractor = WhisperFeatureExtractor(feature_size=16, hop_length=320, n_fft=800, chunk_length=2)
    audio = AudioFlamingo3EncoderConfig(
        num_mel_bins=16,
        num_hidden_layers=4,
        hidden_size=32,
        num_attention_heads=4,
        intermediate_size=64,
        max_source_positions=50,
    )
    text = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=3,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    return Tiny(build_word_processor(tokenizer, extractor), audio, text)


@pytest.fixture(scope="session")
def waves() -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    """Five clips: unequal, one longer than the window of 2 s, one of exactly the window."""
    generator = np.random.default_rng(0)
    return [
        (0.1 * generator.standard_normal(int(RATE * seconds))).astype(np.float32)
        for seconds in (1.0, 1.37, 3.1, 2.0, 0.5)
    ]


@pytest.fixture(scope="session")
def items(waves: list[np.ndarray[Any, np.dtype[np.float32]]]) -> list[Item]:
    questions = list(QUESTIONS.items())
    made = []
    for i, wave in enumerate(waves):
        question, choices = questions[i % len(questions)]
        made.append(
            Item(
                id=f"item-{i}",
                task_name=f"task-{i % len(questions)}",
                question=question,
                choices=choices,
                letters=tuple("ABCD"[: len(choices)]),
                truth=choices[0],
                said=(choices[1],),
                condition="conflict",
                foils=(choices[1],),
                audio=ArrayAudio(wave),
            )
        )
    return made


@pytest.fixture(scope="session")
def pclm(tiny: Tiny) -> AudioLLM:
    return tiny.llm(tiny.pclm())


@pytest.fixture(scope="session")
def stock(tiny: Tiny) -> AudioLLM:
    return tiny.llm(tiny.stock())
