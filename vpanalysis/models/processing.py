"""AF3's processor, which also tokenizes the text that the gate reads.

Why it exists. The mixer's prompt encoder is a BERT with a vocabulary of its own, so the question reaches the model
twice: inside the chat prompt, in the language model's tokens, and alone, in the gate's.

The idea. `AudioFlamingo3PCLMProcessor` is AF3's processor with a second tokenizer, which Hugging Face stores in the
subfolder ``gate_tokenizer``. Window splitting, log-mel features and placeholder expansion stay AF3's.

Worked example::

    inputs = processor(text=["<sound>What is the speaker's gender? ..."], audio=[wave], prompts=["What is ...?"])
    model.generate(**inputs)      # prompt_input_ids, prompt_attention_mask and audio_windows are among them
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AudioFlamingo3Processor, BatchFeature

__all__ = ["AudioFlamingo3PCLMProcessor", "count_windows", "gate_inputs"]


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


class AudioFlamingo3PCLMProcessor(AudioFlamingo3Processor):
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

    gate_tokenizer: Any

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
        self.audio_token = audio_token
        self.audio_token_id = tokenizer.convert_tokens_to_ids(audio_token)
        self.default_transcription_prompt = default_transcription_prompt
        self.max_audio_len = max_audio_len
        # Past AF3's constructor, which knows of two parts only.
        super(AudioFlamingo3Processor, self).__init__(
            feature_extractor, tokenizer, gate_tokenizer, chat_template=chat_template
        )

    def __call__(
        self, text: Any, audio: Any = None, prompts: Sequence[str] | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Return AF3's inputs, and with `prompts` also those of the gate.

        Parameters
        ----------
        text : str or list of str
            Chat prompts, each with one audio placeholder.
        audio : list of array, each of shape (samples,)
            Clips, float32, at the feature extractor's rate.
        prompts : sequence of str, optional
            What the gate reads, one per item.
        **kwargs
            For AF3's processor.
        """
        inputs = super().__call__(text=text, audio=audio, **kwargs)
        if prompts is not None:
            inputs.update(gate_inputs(self.gate_tokenizer, prompts))
            if audio is not None:
                most = int(self.max_audio_len // self.feature_extractor.chunk_length)
                counts = [min(count_windows(len(clip), self.feature_extractor), most) for clip in audio]
                inputs["audio_windows"] = torch.tensor(counts)
        return inputs
