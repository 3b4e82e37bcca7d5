"""Tiny random audio language models of other families than Audio Flamingo 3, built in memory.

Each builder returns a model and its own Hugging Face processor, around a tokenizer of whole words that has the
family's special tokens. Everything but sizes and words is as in the released checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from builders_qwen2_audio import build_qwen2_audio, livened
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AudioFlamingo3EncoderConfig,
    LlamaConfig,
    MusicFlamingoConfig,
    MusicFlamingoForConditionalGeneration,
    MusicFlamingoProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2Config,
    Qwen3OmniMoeThinkerConfig,
    Qwen3OmniMoeThinkerForConditionalGeneration,
    VoxtralConfig,
    VoxtralForConditionalGeneration,
    VoxtralProcessor,
    WhisperFeatureExtractor,
)
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniTextConfig
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeTextConfig

from vpanalysis.models.processing_omni import Qwen2_5OmniListeningProcessor, Qwen3OmniMoeListeningProcessor

__all__ = ["BUILDERS", "MISTRAL_TOKENS", "Built", "word_tokenizer"]

WORDS = """What is the speaker's gender Female Male Which pitch pattern best matches audio high medium low How does
speaker feel in recording neutral sadness anger happiness Choose one of these options The answer question Audio 1
system user assistant You are a helpful A B C D E F"""
_MARKS = "():.-?,!;"
CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
OMNI_TOKENS = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
# As in the vocabulary of Voxtral: the placeholder is number 24 there, and in the processor.
MISTRAL_TOKENS = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
    *("<SPECIAL_20>", "<SPECIAL_21>", "<SPECIAL_22>", "<SPECIAL_23>", "[AUDIO]", "[BEGIN_AUDIO]"),
)


@dataclass(frozen=True)
class Built:
    """A tiny model in evaluation mode, and its processor."""

    model: Any
    processor: Any


def word_tokenizer(
    specials: Sequence[str], *, pad: str, eos: str, bos: str | None = None, named: dict[str, str] | None = None
) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words and marks, whose first ids are `specials`, in this order."""
    cutter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(Regex("[" + "".join("\\" + mark for mark in _MARKS) + "]"), "isolated"),
        ]
    )
    texts = [*specials, "<unk>", *_MARKS, *(word for word, _ in cutter.pre_tokenize_str(WORDS))]
    vocab = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    core.pre_tokenizer = cutter
    core.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        pad_token=pad,
        eos_token=eos,
        bos_token=bos,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        # Named ones become attributes (tokenizer.audio_token), as in the files of Qwen-Omni.
        extra_special_tokens=named or [token for token in specials if token not in (pad, eos, bos, "<unk>")],
    )
    if named:
        rest = [token for token in specials if token not in (pad, eos, bos, *named.values())]
        tokenizer.add_special_tokens({"additional_special_tokens": rest})
    return tokenizer


def _made(model_class: Any, config: Any, seed: int) -> Any:
    torch.manual_seed(seed)
    model = livened(model_class(config))
    model.generation_config.pad_token_id = config.text_config.pad_token_id
    return model


def _text(kind: Any, tokenizer: Any, **fields: Any) -> Any:
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 2048,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
    }
    return kind(**{**shape, **fields})


_WHISPER = {
    "num_mel_bins": 16,
    "num_hidden_layers": 4,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


def music_flamingo(seed: int = 0) -> Built:
    """Return a Music Flamingo with a window of 2 s, 40 ms an encoder position, 80 ms an audio token."""
    tokenizer = word_tokenizer(
        (*CHATML_TOKENS, "<sound>", "<|sound_bos|>", "<|sound_eos|>"), pad="<|endoftext|>", eos="<|im_end|>"
    )
    extractor = WhisperFeatureExtractor(feature_size=16, hop_length=320, n_fft=800, chunk_length=2)
    template = (
        "{%- for message in messages -%}<|im_start|>{{ message['role'] }}\n"
        "{%- for part in message['content'] if part['type'] == 'audio' -%}<sound>{%- endfor -%}"
        "{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}"
        "<|im_end|>\n{%- endfor -%}{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}"
    )
    ids = tokenizer.convert_tokens_to_ids
    config = MusicFlamingoConfig(
        audio_config=AudioFlamingo3EncoderConfig(**_WHISPER, max_source_positions=50),
        text_config=_text(Qwen2Config, tokenizer),
        audio_token_id=ids("<sound>"),
        audio_bos_token_id=ids("<|sound_bos|>"),
        audio_eos_token_id=ids("<|sound_eos|>"),
        audio_frame_step=0.02,
    )
    model = _made(MusicFlamingoForConditionalGeneration, config, seed)
    return Built(model, MusicFlamingoProcessor(extractor, tokenizer, chat_template=template, max_audio_len=8))


def qwen2_audio(seed: int = 0) -> Built:
    """Return a Qwen2-Audio with a window of 2 s, 40 ms an encoder position, 80 ms an audio token."""
    tiny = build_qwen2_audio()
    return Built(tiny.stock(seed), tiny.processor)


def voxtral(seed: int = 0, **text: Any) -> Built:
    """Return a Voxtral with its real window of 30 s, which its processor has built in.

    Where mistral-common is not installed, Hugging Face reads Voxtral's vocabulary into a fast tokenizer, without a chat
    template. This one stands for that.
    """
    tokenizer = word_tokenizer(MISTRAL_TOKENS, pad="<pad>", eos="</s>", bos="<s>")
    extractor = WhisperFeatureExtractor(feature_size=16)
    audio = {**_WHISPER, "num_hidden_layers": 2, "intermediate_size": 128}
    config = VoxtralConfig(
        audio_config={"model_type": "voxtral_encoder", **audio},
        text_config=_text(LlamaConfig, tokenizer, head_dim=8, **text).to_dict(),
        audio_token_id=24,
    )
    return Built(_made(VoxtralForConditionalGeneration, config, seed), VoxtralProcessor(extractor, tokenizer))


def qwen2_5_omni(seed: int = 0) -> Built:
    """Return the thinker of a Qwen2.5-Omni: clips up to 4 s, attention within 400 ms, 80 ms an audio token."""
    tokenizer = word_tokenizer(
        (*CHATML_TOKENS, *OMNI_TOKENS.values()), pad="<|endoftext|>", eos="<|im_end|>", named=OMNI_TOKENS
    )
    extractor = WhisperFeatureExtractor(feature_size=16, hop_length=320, n_fft=800, chunk_length=4)
    ids = tokenizer.convert_tokens_to_ids
    text = _text(Qwen2_5OmniTextConfig, tokenizer, rope_parameters=_mrope()).to_dict()
    config = Qwen2_5OmniThinkerConfig(
        audio_config={**_OMNI_EAR, "n_window": 10, "max_source_positions": 50},
        vision_config=_OMNI_EYE,
        text_config=text,
        **_omni_ids(ids),
    )
    model = _made(Qwen2_5OmniThinkerForConditionalGeneration, config, seed)
    return Built(model, Qwen2_5OmniListeningProcessor(extractor, tokenizer, chat_template=_OMNI_TEMPLATE))


def qwen3_omni(seed: int = 0) -> Built:
    """Return the thinker of a Qwen3-Omni: attention within 4 s, 13 audio tokens for each second."""
    tokenizer = word_tokenizer(
        (*CHATML_TOKENS, *OMNI_TOKENS.values()), pad="<|endoftext|>", eos="<|im_end|>", named=OMNI_TOKENS
    )
    extractor = WhisperFeatureExtractor(feature_size=16, chunk_length=4)
    ids = tokenizer.convert_tokens_to_ids
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1}
    text = _text(Qwen3OmniMoeTextConfig, tokenizer, rope_parameters=_mrope(), head_dim=8, **experts).to_dict()
    config = Qwen3OmniMoeThinkerConfig(
        # 50 mel frames are half a chunk there, and in the rule that gives a chunk 13 tokens.
        audio_config={**_OMNI_EAR, "n_window": 50, "n_window_infer": 400, "downsample_hidden_size": 8},
        vision_config={**_OMNI_EYE, "deepstack_visual_indexes": [0]},
        text_config=text,
        **_omni_ids(ids),
    )
    model = _made(Qwen3OmniMoeThinkerForConditionalGeneration, config, seed)
    return Built(model, Qwen3OmniMoeListeningProcessor(extractor, tokenizer, chat_template=_OMNI_TEMPLATE))


_OMNI_EAR = {
    "num_mel_bins": 16,
    "encoder_layers": 4,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "d_model": 32,
    "output_dim": 32,
}
_OMNI_EYE = {
    "depth": 1,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_heads": 2,
    "out_hidden_size": 32,
    "fullatt_block_indexes": [0],
}
_OMNI_TEMPLATE = (
    "{%- for message in messages -%}<|im_start|>{{ message['role'] }}\n"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'audio' -%}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{%- elif part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}{%- endfor -%}"
    "<|im_end|>\n{%- endfor -%}{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}"
)


def _mrope() -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 1, 1]}


def _omni_ids(ids: Any) -> dict[str, int]:
    return {
        "audio_token_id": ids("<|AUDIO|>"),
        "image_token_id": ids("<|IMAGE|>"),
        "video_token_id": ids("<|VIDEO|>"),
        "audio_start_token_id": ids("<|audio_bos|>"),
        "audio_end_token_id": ids("<|audio_eos|>"),
        "vision_start_token_id": ids("<|vision_bos|>"),
        "vision_end_token_id": ids("<|vision_eos|>"),
    }


BUILDERS: dict[str, Callable[..., Built]] = {
    "musicflamingo": music_flamingo,
    "qwen2_audio": qwen2_audio,
    "voxtral": voxtral,
    "qwen2_5_omni": qwen2_5_omni,
    "qwen3_omni_moe": qwen3_omni,
}
