"""A tiny random Qwen2-Audio, with and without the mixer, and its processor, built in memory.

Everything but the size is as in the real one: the placeholder tokens, the stock chat template, a tower that takes whole
windows only (of 2 s here), one linear layer for a projector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import (
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Config,
    WhisperFeatureExtractor,
)

from vpanalysis.models.pclm import Qwen2AudioPCLMConfig, Qwen2AudioPCLMForConditionalGeneration
from vpanalysis.models.processing import Qwen2AudioPCLMProcessor
from vpanalysis.models.word_tokenizer import build_word_tokenizer

RATE = 16_000
PLACEHOLDERS = ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
QUESTIONS = (
    "What is the speaker's gender?",
    "Which pitch pattern best matches the audio?",
    "How does the speaker feel in the recording?",
    "What is the speaker's age?",
)
BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}


def build_tokenizer(texts: Sequence[str] = QUESTIONS) -> Any:
    """A word tokenizer that knows the placeholders and every word of the stock chat template."""
    frame = ("system user assistant You are a helpful assistant. Audio 1: 2:", "(A) Female (B) Male")
    tokenizer = build_word_tokenizer([*texts, *frame])
    tokenizer.add_tokens(list(PLACEHOLDERS), special_tokens=True)
    # The stock processor has its own.
    tokenizer.chat_template = None
    return tokenizer


def livened(model: Any) -> Any:
    """At the standard deviation of a fresh model nothing matters to anything; at five times that, everything does."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed_positions" not in name:
                parameter.mul_(5.0)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.1)
    return model.eval()


def waves_of(*seconds: float, seed: int = 0) -> list[Any]:
    """Noise, one clip per length in seconds, float32 at 16 kHz."""
    generator = np.random.default_rng(seed)
    return [(0.1 * generator.standard_normal(int(RATE * s))).astype(np.float32) for s in seconds]


@dataclass
class TinyQwen2Audio:
    """Processors, and what configs are made of."""

    tokenizer: Any
    extractor: Any
    audio: Any
    text: Any

    @property
    def processor(self) -> Qwen2AudioProcessor:
        """The stock processor, with its own chat template."""
        return Qwen2AudioProcessor(self.extractor, self.tokenizer)

    def pclm_processor(self, gate_tokenizer: Any = None) -> Qwen2AudioPCLMProcessor:
        """The processor with the gate's tokenizer, by default the language model's."""
        return Qwen2AudioPCLMProcessor(self.extractor, self.tokenizer, gate_tokenizer or self.tokenizer)

    @property
    def parts(self) -> dict[str, Any]:
        """What the configurations of both models share."""
        token = self.tokenizer.convert_tokens_to_ids(PLACEHOLDERS[0])
        # Copies: transformers writes the kind of attention into the configuration that it is given.
        return {
            "audio_config": Qwen2AudioEncoderConfig(**self.audio),
            "text_config": Qwen2Config(**self.text),
            "audio_token_index": token,
        }

    def stock(self, seed: int = 0, **options: Any) -> Any:
        """A stock model."""
        torch.manual_seed(seed)
        return livened(Qwen2AudioForConditionalGeneration._from_config(Qwen2AudioConfig(**self.parts), **options))

    def config(self, **fields: Any) -> Any:
        """A configuration with the mixer."""
        defaults = {
            "expose_layers": [1, 3],
            "gate_mlp_dims": [8],
            "prompt_encoder_config": {**BERT, "vocab_size": len(self.tokenizer)},
        }
        return Qwen2AudioPCLMConfig(**self.parts, **{**defaults, **fields})

    def pclm(self, seed: int = 0, attn_implementation: str | None = None, **fields: Any) -> Any:
        """A model with the mixer."""
        torch.manual_seed(seed)
        options = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
        return livened(Qwen2AudioPCLMForConditionalGeneration._from_config(self.config(**fields), **options))

    def chat(self, question: str, clips: int = 1) -> str:
        """The text of a row, in the stock chat form."""
        content = [{"type": "audio", "audio_url": "x"}] * clips + [{"type": "text", "text": question}]
        turn = {"role": "user", "content": content}
        return str(self.processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True))

    def inputs(self, waves: Sequence[Any], questions: Sequence[str] | None = None) -> Any:
        """What a model with the mixer takes, one clip a question."""
        questions = [QUESTIONS[i % len(QUESTIONS)] for i in range(len(waves))] if questions is None else questions
        return self.pclm_processor()(
            text=[self.chat(question) for question in questions], audio=list(waves), prompts=list(questions)
        )


def stock_inputs(inputs: Any) -> dict[str, Any]:
    """The same inputs without those of the gate."""
    return {name: tensor for name, tensor in inputs.items() if "prompt" not in name and name != "audio_windows"}


def build_qwen2_audio(**text: Any) -> TinyQwen2Audio:
    """A tiny Qwen2-Audio: 4 encoder layers of 32, 3 text layers of 32, windows of 2 s."""
    tokenizer = build_tokenizer()
    extractor = WhisperFeatureExtractor(
        feature_size=16, hop_length=320, n_fft=800, chunk_length=2, return_attention_mask=True
    )
    audio = {
        "num_mel_bins": 16,
        "encoder_layers": 4,
        "d_model": 32,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "max_source_positions": 50,
    }
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 256,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
    }
    return TinyQwen2Audio(tokenizer, extractor, audio, {**sizes, **text})
