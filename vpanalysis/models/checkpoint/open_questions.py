"""The conventions of a mixer that neither a file nor a tensor shows, and what they could be.

Why it exists. Two checkpoints with the same tensors can have been trained with different conventions: how layers are
numbered, what is done to a layer before its projector, in which order the gate's outputs come, what the gate reads. A
loader that says nothing of this makes a choice in silence.

The idea. A table of the fields of `PCLMConfig` that weights cannot decide, each with its candidates and the reason why
it is open. A field that a file or the caller states is closed.

Worked example::

    for question in open_questions(settings, config):
        print(question.subject, question.value, question.candidates)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vpanalysis.models.checkpoint.board import Assumption
from vpanalysis.models.checkpoint.settings import Settings
from vpanalysis.models.conventions import CONVENTIONS, fitting_layer_index

__all__ = ["CANDIDATES", "open_questions"]

_WHY = {
    "layer_index_convention": "'layer 5' may be the fifth block or the one with index 5",
    "mid_pool": "an exposed layer is pooled before its projector, perhaps also normed",
    "gate_order": "the gate's outputs are numbers without names",
    "gate_text": "the prompt encoder may read more than the question",
    "bert_pooling": "BERT's token states become one vector in some way",
}
CANDIDATES: dict[str, tuple[tuple[str, ...], str, str | None]] = {
    **{name: (ways, _WHY[name], None) for name, ways in CONVENTIONS.items()},
    "gate_mlp_act": (
        ("gelu", "relu", "tanh", "silu"), "activations have no weights", "set it with pclm={'gate_mlp_act': ...}"
    ),
}  # fmt: skip
"""Field, what it could be, why weights do not show it, and how to find out other than by calibration."""

# Of use only when the gate reads the prompt.
_PROMPT_ONLY = ("gate_text", "bert_pooling", "gate_mlp_act")
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
# Published BERTs of the size that the model card names.
_UNCASED = 30_522
_TOKENIZERS = ("google/bert_uncased_L-4_H-512_A-8", "prajjwal1/bert-small")


def open_questions(settings: Settings, config: Any) -> list[Assumption]:
    """Return the conventions that are still open.

    Parameters
    ----------
    settings : Settings
        What the files state.
    config : PCLMConfig
        The completed configuration, whose values are used.
    """
    prompted = config.gate_mode == "prompt"
    questions = []
    for subject, (candidates, why, settle) in CANDIDATES.items():
        if subject in settings.stated or (subject in _PROMPT_ONLY and not prompted):
            continue
        if (subject == "gate_order" and config.gate_mode == "clamped") or (
            subject == "gate_mlp_act" and not config.gate_mlp_dims
        ):
            continue
        if subject == "layer_index_convention":
            candidates = fitting_layer_index(settings.folder)
        options = tuple(c for c in candidates if c != "pooler" or config.prompt_encoder_pooler)
        if len(options) > 1:
            question = Assumption(subject, str(getattr(config, subject)), options, f"no file states it; {why}")
            questions.append(question if settle is None else replace(question, settle=settle))
    if prompted and "prompt_encoder_config" in settings.assumed:
        heads = str(config.prompt_encoder_config.num_attention_heads)
        settle = "set it with pclm={'prompt_encoder_config': {'num_attention_heads': ...}}"
        subject = "prompt_encoder_config.num_attention_heads"
        questions.append(Assumption(subject, heads, (), "no shape shows it, and no file stated it", settle))
    questions += [
        Assumption(subject, "as converted", (), "it was assumed when the checkpoint was converted", "see its source")
        for subject in settings.noted
    ]
    if prompted and not _has_tokenizer(settings, config):
        words = config.prompt_encoder_config.vocab_size
        why = f"the checkpoint holds no tokenizer of the prompt encoder, whose vocabulary has {words} entries"
        # The vocabulary of the uncased BERTs is one and public; load_model takes it from the Hub.
        taken = _TOKENIZERS[0] if words == _UNCASED else "none"
        questions.append(Assumption("gate_tokenizer", taken, _TOKENIZERS, why, "pass gate_tokenizer= to load_model"))
    return questions


def _has_tokenizer(settings: Settings, config: Any) -> bool:
    """Return whether the gate's text can be tokenized: by a tokenizer of its own, or by the language model's."""
    places = [settings.folder / "gate_tokenizer", settings.parts.get("sound_pclm", settings.folder / "sound_pclm")]
    if any((place / file).is_file() for place in places for file in _TOKENIZER_FILES):
        return True
    return bool(config.prompt_encoder_config.vocab_size == config.text_config.vocab_size)
