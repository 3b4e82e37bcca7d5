"""What the configuration files of a checkpoint say, in whichever of its layouts, and what they do not.

Why it exists. A released split checkpoint keeps the sizes of the language model and of the encoder in the folders of
these parts, its top file has keys of the original code, and of the mixer it states two fields. A Hugging Face folder
has everything in one file. What the rest of the loader needs is the same.

The idea. `read_settings` returns a `Settings`: the base, the configurations of encoder and language model, and the
mixer's fields as far as a file states them. Nothing is guessed from keys that look similar: a key that is not read is
listed, and a field that is not stated stays open.

Worked example::

    settings = read_settings(Path("AF3_PCLM_DPO"))
    settings.stated      # {"expose_layers": [5, 15, 25, 30]}
    settings.unread      # ("resume_path", "sound_hidden_size", ...)
    settings.config({})  # AudioFlamingo3PCLMConfig
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from vpanalysis.errors import ModelError
from vpanalysis.models.checkpoint.bases import BASES, Base, base_of
from vpanalysis.models.checkpoint.headers import read_inventory, read_json
from vpanalysis.models.checkpoint.names import subtrees_of
from vpanalysis.models.conventions import CONVENTIONS
from vpanalysis.models.families import family_of
from vpanalysis.models.pclm_config import PCLM_FIELDS

__all__ = [
    "UNSETTLED",
    "Settings",
    "is_built_from_parts",
    "is_split",
    "parts_elsewhere",
    "read_settings",
    "speaks_of_mixer",
]

UNSETTLED = "unsettled"
"""Key of ``config.json`` under which `convert` lists what it had to assume: fields of the mixer, and others."""

_SHARED = ("audio_token_id", "audio_token_index", "projector_hidden_act", "projector_bias")
_READ = {
    "text_config", "llm_cfg", "audio_config", "sound_tower_cfg", "use_sound_pclm", "parts", UNSETTLED, "model_type",
    "architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path", *_SHARED, *PCLM_FIELDS,
}  # fmt: skip


def parts_elsewhere(content: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Return the folders of the parts that lie elsewhere.

    Raises
    ------
    ModelError
        If one is not within the folder that holds the checkpoint.
    """
    if not isinstance(content.get("parts") or {}, dict):
        raise ModelError(f"cannot use the parts of {str(folder)!r}", found=repr(content["parts"]), allowed="an object")
    places: dict[str, Path] = {}
    for part, place in (content.get("parts") or {}).items():
        # Only as far as the folder that holds the checkpoint: a downloaded config must not reach anything else.
        root = Path(os.path.abspath(folder.parent))
        target = Path(os.path.abspath(folder / str(place)))
        if not isinstance(place, str) or os.path.isabs(place) or root not in target.parents:
            raise ModelError(
                f"cannot use the part {part!r} of {str(folder)!r}",
                found=repr(place),
                allowed=f"a relative path within {str(root)!r}",
            )
        places[part] = target
    return places


def is_split(folder: str | Path) -> bool:
    """Return whether a folder is a checkpoint in the split layout."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        return False
    return (folder / "llm").is_dir() or "llm" in parts_elsewhere(read_json(folder / "config.json"), folder)


def is_built_from_parts(content: Mapping[str, Any]) -> bool:
    """Return whether a ``config.json`` is that of a base, or speaks of a mixer."""
    return base_of(content.get("model_type")) is not None or speaks_of_mixer(content)


def speaks_of_mixer(content: Mapping[str, Any]) -> bool:
    """Return whether a ``config.json`` says that there is a layer mixer."""
    base = base_of(content.get("model_type"))
    mixed = base is not None and content.get("model_type") == base.mixed
    return mixed or bool(content.get("use_sound_pclm") or content.get("expose_layers"))


@dataclass(frozen=True)
class Settings:
    """What the files state.

    Parameters
    ----------
    folder : Path
        The checkpoint.
    split : bool
        Whether it is in the split layout.
    base : Base
        What it stands on.
    mixed : bool
        Whether it has the mixer.
    fields : dict
        Of the base's configuration.
    stated : dict
        Fields of the mixer that a file or the caller states.
    assumed : dict
        Fields of the mixer that were written down as assumed.
    unread : tuple of str
        Keys that nothing here reads.
    findings : tuple of (str, str, str)
        What was inferred about the above, from what.
    parts : dict of str to Path
        Parts that lie elsewhere.
    noted : tuple of str
        What else was noted as assumed when the checkpoint was converted.
    """

    folder: Path
    split: bool
    base: Base
    mixed: bool
    fields: dict[str, Any]
    stated: dict[str, Any]
    assumed: dict[str, Any] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    findings: tuple[tuple[str, str, str], ...] = ()
    parts: dict[str, Path] = field(default_factory=dict)
    noted: tuple[str, ...] = ()

    @property
    def exposed(self) -> list[int] | None:
        """The exposed layers: empty without a mixer, None where nothing states them."""
        if not self.mixed:
            return []
        layers = self.stated.get("expose_layers")
        return None if layers is None else [int(k) for k in layers]

    def field(self, name: str) -> Any:
        """Return a field of the mixer as it is stated or was written down, else None."""
        return self.stated.get(name, self.assumed.get(name))

    def config(self, inferred: Mapping[str, Any]) -> Any:
        """Return the configuration, with fields of the mixer that were inferred.

        Raises
        ------
        ModelError
            If a field is not allowed.
        """
        kind = self.base.mixed if self.mixed else self.base.stock
        config_class = family_of(kind).load_class().config_class
        mixer = {**inferred, **self.assumed, **self.stated} if self.mixed else {}
        # The shapes complete a part of BERT's configuration that a file states, and show whether it has a pooler.
        mixer |= {
            name: inferred[name] for name in ("prompt_encoder_config", "prompt_encoder_pooler") if name in inferred
        }
        return self._built(config_class, {**self.fields, **mixer})

    def stock_config(self) -> Any:
        """Return the configuration of the base alone."""
        return self._built(family_of(self.base.stock).load_class().config_class, dict(self.fields))

    def _built(self, config_class: Any, fields: dict[str, Any]) -> Any:
        from huggingface_hub.errors import StrictDataclassError

        try:
            return config_class.from_dict(fields)
        except (TypeError, ValueError, AttributeError, KeyError, StrictDataclassError) as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelError(f"cannot use the config of {str(self.folder)!r}", found=said[-1].strip()) from error


def read_settings(folder: Path, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the configuration files of a checkpoint.

    Parameters
    ----------
    folder : Path
        The checkpoint.
    overrides : mapping, optional
        Fields of the mixer to set otherwise than in file.

    Raises
    ------
    ModelError
        If a file is missing or unreadable, or a field is unknown.
    """
    overrides = overrides or {}
    raw = read_json(folder / "config.json")
    parts = parts_elsewhere(raw, folder)
    split = is_split(folder)
    base = base_of(raw.get("model_type"))
    findings: list[tuple[str, str, str]] = []
    if base is None:
        exposed = overrides.get("expose_layers") or raw.get("expose_layers")
        base, evidence = _guess(raw, folder, parts, 1 + (len(exposed) if isinstance(exposed, (list, tuple)) else 0))
        findings.append(("model_type", base.stock, evidence))
    mixed = _is_mixed(raw, base, overrides, findings)
    if overrides and not mixed:
        raise ModelError(
            f"cannot set {sorted(overrides)} of {str(folder)!r}", found="a checkpoint without a layer mixer"
        )
    unknown = sorted(set(overrides) - set(PCLM_FIELDS))
    if unknown:
        raise ModelError("cannot set a PCLM config field", found=repr(unknown[0]), allowed=PCLM_FIELDS, word=unknown[0])
    inner_file = parts.get("sound_pclm", folder / "sound_pclm") / "config.json"
    inner = read_json(inner_file) if split and mixed and inner_file.is_file() else {}
    fields = _fields(raw, folder, parts, base, split)
    subjects = raw.get(UNSETTLED)
    noted = [str(s) for s in subjects if s not in overrides] if isinstance(subjects, list) else []
    stated: dict[str, Any] = {}
    assumed: dict[str, Any] = {}
    for source in (inner, raw, overrides):
        for name in PCLM_FIELDS:
            if source.get(name) is not None:
                (assumed if name in noted else stated)[name] = _of_kind(name, source[name], folder)
    unread = [key for key in raw if key not in _READ and key not in _known_keys(base)]
    unread += [f"sound_pclm/{key}" for key in inner if key not in _READ and key not in _known_keys(base)]
    noted = [subject for subject in noted if subject not in PCLM_FIELDS]
    return Settings(
        folder, split, base, mixed, fields, stated, assumed, tuple(unread), tuple(findings), parts, tuple(noted)
    )  # fmt: skip


_NUMBERS = ("expose_layers", "gate_mlp_dims")
_WORDS = ("gate_mode", "gate_mlp_act", "stream_sources", *CONVENTIONS)
_BERT_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")


def _of_kind(name: str, value: Any, folder: Path) -> Any:
    """Return the value of a field that decides which tensors there are, of the kind that it must have."""
    if name == "prompt_encoder_config":
        value = value.to_dict() if hasattr(value, "to_dict") else value
        fits, allowed = isinstance(value, Mapping), "an object"
        if fits and not all(type(value[size]) is int and value[size] > 0 for size in _BERT_SIZES if size in value):
            fits, allowed = False, f"an object with positive {', '.join(_BERT_SIZES)}"
    elif name in _NUMBERS:
        fits = isinstance(value, (list, tuple)) and all(type(number) is int for number in value)
        allowed = "a list of whole numbers"
    elif name in _WORDS:
        fits, allowed = isinstance(value, str), "a word"
    else:
        return value
    if not fits:
        raise ModelError(f"cannot use {name!r} of {str(folder)!r}", found=repr(value), allowed=allowed)
    return value


def _guess(raw: Mapping[str, Any], folder: Path, parts: Mapping[str, Path], streams: int) -> tuple[Base, str]:
    """Return the base of a checkpoint whose `model_type` is the original code's, and what shows it."""
    named = f"the model_type {raw.get('model_type')!r} is none of Hugging Face's, and"
    known = [base for base in BASES if base.audio_token in _token_ids(folder)]
    if len(known) == 1:
        return known[0], f"{named} the tokenizer has {known[0].audio_token!r}"
    text, audio = _sizes(raw, folder, parts)
    wide, narrow = (int(config.get("hidden_size") or config.get("d_model") or 0) for config in (text, audio))
    # In these folders of the split layout are no projectors, but may be layers of the same shape.
    apart = ("llm", "sound_tower")
    records = [r for r in read_inventory(folder, parts).tensors if r.folder.partition("/")[0] not in apart]
    forms: list[tuple[bool, int, Base]] = []
    for base in BASES:
        weights = [(wide, narrow), *[(wide, wide)] * (len(base.linears) - 1)]
        count = len(subtrees_of(records, [*weights, *[(wide,)] * len(weights)]))
        forms += [(count == streams, len(weights), base)] if count else []
    if forms:
        # As many projectors as streams; then the longer form, whose first layer alone looks like the shorter one.
        _, length, base = max(forms, key=lambda form: form[:2])
        return base, f"{named} a projector has {length} linear layer{'s' if length > 1 else ''}"
    raise ModelError(
        f"cannot tell the base of {str(folder)!r}",
        found=f"model_type {raw.get('model_type')!r}, and no projector from {narrow} to {wide}",
        allowed=[kind for base in BASES for kind in (base.stock, base.mixed)],
    )


def _is_mixed(
    raw: Mapping[str, Any], base: Base, overrides: Mapping[str, Any], findings: list[tuple[str, str, str]]
) -> bool:
    if "use_sound_pclm" in raw:
        return bool(raw["use_sound_pclm"])
    if raw.get("model_type") == base.mixed:
        return True
    stating = "config.json" if raw.get("expose_layers") else "the call" if overrides.get("expose_layers") else None
    if stating is not None:
        findings.append(("use_sound_pclm", "True", f"{stating} states expose_layers"))
    return stating is not None


@cache
def _known_keys(base: Base) -> frozenset[str]:
    return frozenset(family_of(base.stock).load_class().config_class().to_dict())


def _fields(raw: Mapping[str, Any], folder: Path, parts: Mapping[str, Path], base: Base, split: bool) -> dict[str, Any]:
    """Return the fields of the base's configuration."""
    if not split and base_of(raw.get("model_type")) is not None:
        # A Hugging Face file leaves out what its class has by default; its own class reads it.
        left = {"model_type", "use_sound_pclm", "parts", UNSETTLED, *PCLM_FIELDS}
        return {key: value for key, value in raw.items() if key not in left}
    text, audio = _sizes(raw, folder, parts)
    stock = family_of(base.stock).load_class().config_class().to_dict()
    fields: dict[str, Any] = {
        "text_config": {**_plain(text), "model_type": stock["text_config"]["model_type"]},
        "audio_config": {**_plain(audio), "model_type": stock["audio_config"]["model_type"]},
    }
    fields |= {name: raw[name] for name in _SHARED if name in raw}
    if not {"audio_token_id", "audio_token_index"} & set(raw):
        fields["audio_token_id"] = _audio_token_id(folder, base)
    return fields


def _sizes(raw: Mapping[str, Any], folder: Path, parts: Mapping[str, Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configurations of the language model and of the encoder, from wherever they are."""
    text: Any = raw.get("text_config") or raw.get("llm_cfg")
    audio: Any = raw.get("audio_config") or raw.get("sound_tower_cfg")
    # In released files these may be paths instead of dictionaries.
    if not _has_sizes(text):
        text = read_json(parts.get("llm", folder / "llm") / "config.json")
    if not _has_sizes(audio):
        audio = read_json(parts.get("sound_tower", folder / "sound_tower") / "config.json")
    return text, audio


def _audio_token_id(folder: Path, base: Base) -> int:
    known = _token_ids(folder)
    if base.audio_token not in known:
        raise ModelError(
            f"cannot find the audio placeholder of {str(folder)!r}",
            found=f"no 'audio_token_id' in config.json and no {base.audio_token!r} in the tokenizer",
        )
    return known[base.audio_token]


def _token_ids(folder: Path) -> dict[str, int]:
    """Return the ids of the bases' placeholders in the checkpoint's tokenizer, read from its files as plain JSON."""
    for place in (folder, folder / "llm"):
        known: dict[str, int] = {}
        for file in ("vocab.json", "added_tokens.json", "tokenizer_config.json", "tokenizer.json"):
            if (place / file).is_file():
                try:
                    known |= _tokens_in(read_json(place / file))
                except (AttributeError, KeyError, TypeError, ValueError) as error:
                    raise ModelError(f"cannot read {str(place / file)!r}", found="no tokenizer") from error
        found = {base.audio_token: known[base.audio_token] for base in BASES if base.audio_token in known}
        if found:
            return found
    return {}


def _tokens_in(content: Mapping[str, Any]) -> dict[str, int]:
    """Return the tokens that one of a tokenizer's files defines."""
    known = {token: i for token, i in content.items() if isinstance(i, int)}
    vocabulary = (content.get("model") or {}).get("vocab")
    if isinstance(vocabulary, dict):
        known |= vocabulary
    known |= {token["content"]: int(i) for i, token in (content.get("added_tokens_decoder") or {}).items()}
    return known | {token["content"]: int(token["id"]) for token in content.get("added_tokens") or ()}


def _has_sizes(config: Any) -> bool:
    return isinstance(config, dict) and ("hidden_size" in config or "d_model" in config)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in ("model_type", "architectures", "_name_or_path")}
