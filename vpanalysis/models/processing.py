"""The processors of the two bases, which also tokenize the text that the gate reads.

Why it exists. The mixer's prompt encoder is a BERT with a vocabulary of its own, so the question reaches the model
twice: inside the chat prompt, in the language model's tokens, and alone, in the gate's.

The idea. A base's processor with a second tokenizer, which Hugging Face stores in the subfolder ``gate_tokenizer``.
Windows, log-mel features and the repetition of the audio placeholder stay the base's.

Worked example::

    inputs = processor(text=["<sound>What is the speaker's gender? ..."], audio=[wave], prompts=["What is ...?"])
    model.generate(**inputs)      # prompt_input_ids, prompt_attention_mask and audio_windows are among them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from transformers import AudioFlamingo3Processor, BatchFeature, ProcessorMixin, Qwen2AudioProcessor

__all__ = ["AudioFlamingo3PCLMProcessor", "Qwen2AudioPCLMProcessor", "count_windows", "gate_inputs"]


def count_windows(samples: int, feature_extractor: Any) -> int:
    """Return into how many windows AF3's processor cuts a clip of `samples` samples."""
    window = int(feature_extractor.sampling_rate * feature_extractor.chunk_length)
    return max(1, -(-samples // window))


def gate_inputs(tokenizer: Any, prompts: Sequence[str]) -> dict[str, torch.Tensor]:
    """Tokenize the gate's text.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        The gate's tokenizer. It adds its special tokens, such as BERT's [CLS], where it has them.
    prompts : sequence of str
        One text per item.

    Returns
    -------
    dict of str to Tensor
        ``prompt_input_ids`` and ``prompt_attention_mask``, int64, shape (batch, tokens), padded on the right, because
        BERT's positions are absolute.
    """
    tokens = tokenizer(list(prompts), padding=True, padding_side="right", return_tensors="pt")
    return {"prompt_input_ids": tokens["input_ids"], "prompt_attention_mask": tokens["attention_mask"]}


class _GateTokenizer(ProcessorMixin):
    """Stands between a base's processor and `ProcessorMixin`: the base names two parts, the mixin is given three."""

    gate_tokenizer: Any

    def __init__(self, *parts: Any, **kwargs: Any) -> None:
        super().__init__(*parts, self.gate_tokenizer, **kwargs)


class _GatePrompts:
    """Stands before a base's processor: adds the gate's inputs to the base's."""

    gate_tokenizer: Any

    def __call__(
        self, text: Any, audio: Any = None, prompts: Sequence[str] | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Return the base's inputs, and with `prompts` also those of the gate.

        Parameters
        ----------
        text : str or list of str
            Chat prompts with audio placeholders, one per clip.
        audio : list of array, each of shape (samples,)
            Clips, float32, at the feature extractor's rate.
        prompts : sequence of str, optional
            What the gate reads, one per item.
        **kwargs
            For the base's processor.

        Returns
        -------
        BatchFeature
            With `prompts` also ``prompt_input_ids``, ``prompt_attention_mask`` and, where there are clips,
            ``audio_windows``, shape (batch,).
        """
        # Counted in the texts as given: the base repeats the placeholders.
        texts = [text] if isinstance(text, str) else list(text)
        inputs = cast(Any, super()).__call__(text=text, audio=audio, **kwargs)
        if prompts is not None:
            inputs.update(gate_inputs(self.gate_tokenizer, prompts))
            if audio is not None:
                inputs["audio_windows"] = torch.tensor(self._windows(texts, audio))
        return cast(BatchFeature, inputs)

    def _windows(self, texts: Sequence[str], audio: Any) -> list[int]:
        """Return how many encoder windows belong to each item: one a clip, and one placeholder a clip."""
        token: str = cast(Any, self).audio_token
        return [text.count(token) for text in texts]


class AudioFlamingo3PCLMProcessor(_GatePrompts, AudioFlamingo3Processor, _GateTokenizer):
    """AF3's processor with a tokenizer for the gate.

    Parameters
    ----------
    feature_extractor : WhisperFeatureExtractor
        Log-mel features; its `chunk_length` (whole seconds) is the window.
    tokenizer : PreTrainedTokenizerBase
        The language model's tokenizer.
    gate_tokenizer : PreTrainedTokenizerBase
        The prompt encoder's tokenizer; may be the same one.
    chat_template, audio_token, default_transcription_prompt, max_audio_len
        As in AF3's processor.
    """

    def __init__(
        self,
        feature_extractor: Any,
        tokenizer: Any,
        gate_tokenizer: Any,
        chat_template: str | None = None,
        audio_token: str = "<sound>",
        default_transcription_prompt: str = "Transcribe the input speech.",
        max_audio_len: int = 600,
    ) -> None:
        self.gate_tokenizer = gate_tokenizer
        super().__init__(
            feature_extractor,
            tokenizer,
            chat_template=chat_template,
            audio_token=audio_token,
            default_transcription_prompt=default_transcription_prompt,
            max_audio_len=max_audio_len,
        )

    def _windows(self, texts: Sequence[str], audio: Any) -> list[int]:
        most = int(self.max_audio_len // self.feature_extractor.chunk_length)
        return [min(count_windows(len(clip), self.feature_extractor), most) for clip in audio]


class Qwen2AudioPCLMProcessor(_GatePrompts, Qwen2AudioProcessor, _GateTokenizer):
    """Qwen2-Audio's processor with a tokenizer for the gate.

    Tensors and padding are the default, as in AF3's processor: the model takes nothing else.

    Parameters
    ----------
    feature_extractor : WhisperFeatureExtractor
        Log-mel features; its `chunk_length` (whole seconds) is the window, and what is longer is cut off.
    tokenizer : PreTrainedTokenizerBase
        The language model's tokenizer.
    gate_tokenizer : PreTrainedTokenizerBase
        The prompt encoder's tokenizer; may be the same one.
    chat_template, audio_token, audio_bos_token, audio_eos_token
        As in Qwen2-Audio's processor.
    """

    def __init__(
        self,
        feature_extractor: Any,
        tokenizer: Any,
        gate_tokenizer: Any,
        chat_template: str | None = None,
        audio_token: str = "<|AUDIO|>",
        audio_bos_token: str = "<|audio_bos|>",
        audio_eos_token: str = "<|audio_eos|>",
    ) -> None:
        self.gate_tokenizer = gate_tokenizer
        super().__init__(
            feature_extractor,
            tokenizer,
            chat_template=chat_template,
            audio_token=audio_token,
            audio_bos_token=audio_bos_token,
            audio_eos_token=audio_eos_token,
        )

    def __call__(
        self, text: Any, audio: Any = None, prompts: Sequence[str] | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Return Qwen2-Audio's inputs, and with `prompts` also those of the gate; see its base's."""
        # Named by the caller in one of two ways, by itself or within its group; twice is refused.
        named = {*kwargs, *(name for group in kwargs.values() if isinstance(group, Mapping) for name in group)}
        rate = self.feature_extractor.sampling_rate
        defaults = {"return_tensors": "pt", "padding": True, "sampling_rate": rate if audio is not None else None}
        kwargs |= {name: value for name, value in defaults.items() if name not in named and value is not None}
        return super().__call__(text, audio, prompts, **kwargs)
