"""A tokenizer of whole words, for models small enough to be trained on a laptop.

Why it exists. The bundled miniature speaks a few hundred words. A byte-pair vocabulary of 150,000 entries would be a
hundred times its size, and would hide what is asked of it: with one token per word, the letter after ``(`` is one
token by construction, and a table of logits can be read.

The idea. Text is cut at white space, and the marks ``( ) : . - ? ,`` and so on are tokens of their own. Nothing is
lower-cased: ``A`` is an option and ``a`` is an article. Decoding puts the marks back where a writer would.

The chat form is as short as it can be: a turn is ``<|im_start|>...<|im_end|>``, the user's first, so that the model
answers after the second ``<|im_start|>``.

Worked example::

    tokenizer = build_word_tokenizer(["What is the pitch pattern?", "high medium low"])
    tokenizer.tokenize("(B): high-medium-low.")     # ['(', 'B', ')', ':', 'high', '-', 'medium', '-', 'low', '.']
    ids = tokenizer("(B): high-medium-low.").input_ids
    tokenizer.decode(ids)                           # '(B): high-medium-low.'
    processor = build_word_processor(tokenizer, WhisperFeatureExtractor(feature_size=80, chunk_length=6))
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AudioFlamingo3Processor, PreTrainedTokenizerFast

from vpanalysis.errors import ModelError

__all__ = ["AUDIO_TOKEN", "CHAT_TEMPLATE", "SPECIAL_TOKENS", "build_word_processor", "build_word_tokenizer"]

AUDIO_TOKEN = "<sound>"
"""The audio placeholder, as in Audio Flamingo 3."""

SPECIAL_TOKENS: tuple[str, ...] = ("<pad>", "<unk>", "<|im_start|>", "<|im_end|>", AUDIO_TOKEN)
"""Ids 0 to 4, in this order. ``<|im_end|>`` is the end of a turn and of generation."""

_MARKS = "():.-?,!;"

CHAT_TEMPLATE = (
    "{%- for message in messages -%}<|im_start|>"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'audio' -%}<sound>"
    "{%- elif part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}<|im_end|>{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>{%- endif -%}"
)
"""``<|im_start|><sound>question<|im_end|><|im_start|>``, as a Jinja template."""


def build_word_tokenizer(words: Iterable[str], *, max_length: int = 512) -> PreTrainedTokenizerFast:
    """Return a word-level tokenizer whose vocabulary is that of the given texts.

    Parameters
    ----------
    words : iterable of str
        Words or whole texts; each is cut as the tokenizer will cut. First seen, first numbered. Marks and the letters
        A to D are always included.
    max_length : int, optional
        What the tokenizer reports as the longest input, in tokens.

    Returns
    -------
    PreTrainedTokenizerFast
        With `SPECIAL_TOKENS`, left padding and `CHAT_TEMPLATE`. Unknown words become ``<unk>``.

    Raises
    ------
    ModelError
        If no words are given.
    """
    cutter = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(f"[{_escaped(_MARKS)}]"), "isolated")]
    )
    vocab = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *_MARKS, *"ABCD"))}
    fixed = len(vocab)
    for text in words:
        for word, _ in cutter.pre_tokenize_str(text):
            vocab.setdefault(word, len(vocab))
    if len(vocab) == fixed:
        raise ModelError("cannot build a word tokenizer", found="no words", allowed="at least one word")
    core = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = cutter
    # Words come apart with a space each (the WordPiece decoder does just that), then the marks close up again.
    core.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),
            decoders.Fuse(),
            *(decoders.Replace(f" {mark}", mark) for mark in "):.?,!;"),
            decoders.Replace("( ", "("),
            decoders.Replace(" - ", "-"),
        ]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", AUDIO_TOKEN],
        padding_side="left",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_word_processor(tokenizer: Any, feature_extractor: Any, **kwargs: Any) -> AudioFlamingo3Processor:
    """Return AF3's own processor around a word tokenizer.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        From `build_word_tokenizer`.
    feature_extractor : WhisperFeatureExtractor
        Its `chunk_length` is the model's window in seconds.
    **kwargs
        For the processor, such as `max_audio_len` in seconds.
    """
    return AudioFlamingo3Processor(feature_extractor, tokenizer, chat_template=CHAT_TEMPLATE, **kwargs)


def _escaped(marks: str) -> str:
    return "".join("\\" + mark for mark in marks)
