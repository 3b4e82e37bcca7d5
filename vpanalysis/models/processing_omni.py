"""Qwen-Omni's processors with ears alone.

Why it exists. The processors of Qwen2.5-Omni and Qwen3-Omni also read images and video, and cannot even be built
without torchvision. A benchmark of spoken questions needs neither.

The idea. A subclass that has two parts, the feature extractor and the tokenizer, and leaves everything that is done to
text and audio to Hugging Face's class. It saves to and loads from the same folders.

Worked example::

    processor = Qwen2_5OmniListeningProcessor.from_pretrained("Qwen/Qwen2.5-Omni-7B")
    processor(text=["<|audio_bos|><|AUDIO|><|audio_eos|>What is said?"], audio=[wave])
"""

from __future__ import annotations

from typing import Any

from transformers import ProcessorMixin, Qwen2_5OmniProcessor, Qwen3OmniMoeProcessor

__all__ = ["Qwen2_5OmniListeningProcessor", "Qwen3OmniMoeListeningProcessor"]

_TOKENS = ("image", "audio", "video")
_MARKS = ("vision_bos", "vision_eos", "audio_bos", "audio_eos")


def _listen(processor: Any, feature_extractor: Any, tokenizer: Any, chat_template: str | None) -> None:
    # Past the stock constructor, which insists on an image and a video processor.
    ProcessorMixin.__init__(processor, feature_extractor, tokenizer, chat_template=chat_template)
    for name in _TOKENS:
        setattr(processor, f"{name}_token", getattr(tokenizer, f"{name}_token"))
        setattr(processor, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
    for name in _MARKS:
        setattr(processor, f"{name}_token", getattr(tokenizer, f"{name}_token"))


class Qwen2_5OmniListeningProcessor(Qwen2_5OmniProcessor):
    """Qwen2.5-Omni's processor for text and audio.

    Parameters
    ----------
    feature_extractor : WhisperFeatureExtractor
        Log-mel features; its `chunk_length` (seconds) is the longest clip.
    tokenizer : PreTrainedTokenizerBase
        Qwen's, with the attributes `audio_token`, `audio_bos_token` and so on.
    chat_template : str, optional
        Jinja template of a conversation.
    """

    def __init__(self, feature_extractor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        _listen(self, feature_extractor, tokenizer, chat_template)


class Qwen3OmniMoeListeningProcessor(Qwen3OmniMoeProcessor):
    """Qwen3-Omni's processor for text and audio.

    Parameters
    ----------
    feature_extractor : WhisperFeatureExtractor
        Log-mel features.
    tokenizer : PreTrainedTokenizerBase
        Qwen's, with the attributes `audio_token`, `audio_bos_token` and so on.
    chat_template : str, optional
        Jinja template of a conversation.
    """

    def __init__(self, feature_extractor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        _listen(self, feature_extractor, tokenizer, chat_template)
