"""The split layout: one folder per part, as Audio Flamingo 3 and its PCLM checkpoints are released.

Why it exists. The released checkpoint keeps the language model, the encoder, the projectors and the mixer in folders of
their own. Bundled checkpoints use the same layout, so the code that loads them is the code that loads the real one, and
a part that several checkpoints share lies on disk once.

The idea. A *part* is a folder with safetensors files and a ``config.json``::

    config.json                    the whole configuration, and optionally "parts"
    llm/                           Qwen2ForCausalLM in its stock names: model.layers.0..., lm_head.weight
    sound_tower/                   the audio encoder: conv1.weight, layers.0...
    sound_mm_projector/            layers.0.weight, layers.0.bias, layers.2.weight, layers.2.bias
    sound_mid_mm_projector_{k}/    the same, one folder per exposed layer k
    sound_pclm/                    prompt_encoder.* and mlp.*; or static_logits; or clamped_weights
    gate_tokenizer/                the prompt encoder's tokenizer, where it is not the language model's
    tokenizer.json, ...            tokenizer and processor files

Names inside ``sound_pclm`` are ours, because those of the release are not public: a checkpoint with other names is
refused with both lists, and read once `rename` says which is which. Prefixes that the original code leaves in file
(``sound_tower.sound_tower.``, ``sound_mm_projector.`` ...) are dropped on reading.

``"parts": {"sound_tower": "../shared/sound_tower"}`` in ``config.json`` points to a folder elsewhere: relative, and
within the folder that holds the checkpoint.

Worked example::

    write_split(model, processor, "weights/mini-pclm", dtype=torch.float16,
                parts={"sound_tower": "../shared/sound_tower"})
    config, state = read_split("weights/mini-pclm")
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AudioFlamingo3Config, AudioFlamingo3EncoderConfig, Qwen2Config

from vpanalysis.errors import ModelError
from vpanalysis.models.pclm_config import PCLM_FIELDS, AudioFlamingo3PCLMConfig

__all__ = ["is_split", "part_folder", "parts_of", "read_config", "read_split", "write_split"]

# Prefixes that checkpoints of the original code carry inside a part's files.
_PREFIXES: dict[str, tuple[str, ...]] = {
    "llm": ("llm.",),
    "sound_tower": ("sound_tower.sound_tower.", "sound_tower.", "model."),
    "sound_mm_projector": ("sound_mm_projector.", "model."),
    "sound_mid_mm_projector": ("model.",),
    "sound_pclm": ("sound_pclm.", "model."),
}
_PROJECTOR = {"linear_1": "layers.0", "linear_2": "layers.2"}
_WEIGHTS = "model.safetensors"


def is_split(folder: str | Path) -> bool:
    """Return whether a folder is a checkpoint in the split layout."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        return False
    return (folder / "llm").is_dir() or "llm" in _parts(_read_json(folder / "config.json"), folder)


def _places(config: Any) -> dict[str, dict[str, str]]:
    """Return, per part, from name prefixes inside the part to name prefixes in the model."""
    places = {
        "llm": {"model.": "model.language_model.", "lm_head.": "lm_head."},
        "sound_tower": {"": "model.audio_tower."},
        "sound_mm_projector": {
            f"{theirs}.": f"model.multi_modal_projector.{ours}." for ours, theirs in _PROJECTOR.items()
        },
    }
    if isinstance(config, AudioFlamingo3PCLMConfig):
        for i, k in enumerate(cast("list[int]", config.expose_layers)):
            places[f"sound_mid_mm_projector_{k}"] = {
                f"{theirs}.": f"model.pclm.projectors.{i}.{ours}." for ours, theirs in _PROJECTOR.items()
            }
        places["sound_pclm"] = {"": "model.pclm.gate."}
    return places


def parts_of(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Return the model's tensors by part, under the names that they have inside it.

    Parameters
    ----------
    model : AudioFlamingo3ForConditionalGeneration or AudioFlamingo3PCLMForConditionalGeneration
        Any AF3, with or without the mixer.
    """
    state = model.state_dict()
    parts: dict[str, dict[str, Tensor]] = {}
    for part, prefixes in _places(model.config).items():
        parts[part] = {
            inside + name.removeprefix(outside): tensor
            for inside, outside in prefixes.items()
            for name, tensor in state.items()
            if name.startswith(outside)
        }
    return parts


def write_split(
    model: Any,
    processor: Any,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    parts: Mapping[str, str] | None = None,
) -> Path:
    """Write a checkpoint in the split layout.

    Parameters
    ----------
    model : AudioFlamingo3ForConditionalGeneration or AudioFlamingo3PCLMForConditionalGeneration
        What to write.
    processor : AudioFlamingo3Processor
        Its tokenizer, feature extractor and chat template are written beside ``config.json``.
    folder : str or Path
        Created if it does not exist.
    dtype : torch.dtype, optional
        Of floating-point weights on disk; as in the model by default.
    parts : mapping of str to str, optional
        Parts that lie elsewhere, relative to `folder`. One that does not exist yet is written there; one that exists
        must hold the same values.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ModelError
        If a shared part differs from the model's.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    content = config.to_dict()
    content["use_sound_pclm"] = isinstance(config, AudioFlamingo3PCLMConfig)
    if parts:
        content["parts"] = dict(parts)
    places = _parts(content, folder)
    for part, tensors in parts_of(model).items():
        tensors = {name: _as(tensor, dtype) for name, tensor in tensors.items()}
        place = places.get(part, folder / part)
        if part in places and (place / _WEIGHTS).is_file():
            _check_same(part, place, tensors)
            continue
        place.mkdir(parents=True, exist_ok=True)
        save_file(tensors, place / _WEIGHTS, metadata={"format": "pt"})
        _write_json(place / "config.json", _part_config(part, config))
    processor.save_pretrained(str(folder))
    # Last, because a folder without it is no checkpoint.
    _write_json(folder / "config.json", content)
    return folder


def _as(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().cpu()
    if dtype is not None and tensor.is_floating_point():
        tensor = tensor.to(dtype)
    return tensor.clone().contiguous()


def _part_config(part: str, config: Any) -> dict[str, Any]:
    if part == "llm":
        return {**config.text_config.to_dict(), "architectures": ["Qwen2ForCausalLM"]}
    if part == "sound_tower":
        return cast("dict[str, Any]", config.audio_config.to_dict())
    if part == "sound_pclm":
        encoder = config.prompt_encoder_config
        return {
            "gate_mode": config.gate_mode,
            "prompt_encoder_config": None if encoder is None else encoder.to_dict(),
            "gate_mlp_dims": config.gate_mlp_dims,
        }
    return {"projector_hidden_act": config.projector_hidden_act, "projector_bias": config.projector_bias}


def _check_same(part: str, place: Path, tensors: dict[str, Tensor]) -> None:
    there = _read_tensors(place, part)
    differing = sorted(
        name
        for name in there.keys() | tensors.keys()
        if name not in there or name not in tensors or not torch.equal(there[name], tensors[name])
    )
    if differing:
        raise ModelError(
            f"cannot share the part {part!r}",
            found=f"other values in {str(place)!r}, in {differing[0]!r} and {len(differing) - 1} more",
            fix="write this part into the checkpoint itself, or into another shared folder",
        )


def read_config(folder: str | Path, **overrides: Any) -> Any:
    """Read the configuration of a split checkpoint, ours or a released one.

    A released ``config.json`` has no `text_config` and `audio_config`; they are read from ``llm/`` and
    ``sound_tower/``, and its PCLM fields are taken over by name.

    Parameters
    ----------
    folder : str or Path
        The checkpoint.
    **overrides
        Fields of `AudioFlamingo3PCLMConfig` to set otherwise than in file.

    Returns
    -------
    AudioFlamingo3Config or AudioFlamingo3PCLMConfig
        With the mixer where ``use_sound_pclm`` is true.

    Raises
    ------
    ModelError
        If a file is missing or a field is not allowed.
    """
    folder = Path(folder)
    raw = _read_json(folder / "config.json")
    places = _parts(raw, folder)
    text: Any = raw.get("text_config") or raw.get("llm_cfg")
    audio: Any = raw.get("audio_config") or raw.get("sound_tower_cfg")
    # In released files these may be paths instead of dictionaries.
    if not _has_sizes(text):
        text = _read_json(places.get("llm", folder / "llm") / "config.json")
    if not _has_sizes(audio):
        audio = _read_json(places.get("sound_tower", folder / "sound_tower") / "config.json")
    fields: dict[str, Any] = {
        "text_config": Qwen2Config(**_plain(text)),
        "audio_config": AudioFlamingo3EncoderConfig(**_plain(audio)),
    }
    for name in ("audio_token_id", "projector_hidden_act", "projector_bias"):
        if name in raw:
            fields[name] = raw[name]
    if "audio_token_id" not in raw:
        fields["audio_token_id"] = _audio_token_id(folder)
    if not raw.get("use_sound_pclm", raw.get("model_type") == AudioFlamingo3PCLMConfig.model_type):
        if overrides:
            raise ModelError(
                f"cannot set {sorted(overrides)} of {str(folder)!r}", found="a checkpoint without a layer mixer"
            )
        return AudioFlamingo3Config(**fields)
    part = places.get("sound_pclm", folder / "sound_pclm") / "config.json"
    inner = _read_json(part) if part.is_file() else {}
    known = {name: source[name] for source in (inner, raw, overrides) for name in PCLM_FIELDS if name in source}
    unknown = sorted(set(overrides) - set(PCLM_FIELDS))
    if unknown:
        raise ModelError("cannot set a PCLM config field", found=repr(unknown[0]), allowed=PCLM_FIELDS, word=unknown[0])
    return AudioFlamingo3PCLMConfig(**fields, **known)


def read_split(
    folder: str | Path, *, rename: Mapping[str, str] | None = None, **overrides: Any
) -> tuple[Any, dict[str, Tensor]]:
    """Read a checkpoint in the split layout.

    Parameters
    ----------
    folder : str or Path
        The checkpoint.
    rename : mapping of str to str, optional
        For files whose tensors have other names: from the beginning of a name, ``"part/name"``, to what replaces it,
        such as ``{"sound_pclm/bert.": "prompt_encoder."}``.
    **overrides
        Fields of `AudioFlamingo3PCLMConfig` to set otherwise than in file.

    Returns
    -------
    config : AudioFlamingo3Config or AudioFlamingo3PCLMConfig
        For the model class of `vpanalysis.models.families`.
    state : dict of str to Tensor
        Its state dictionary, in the dtype on disk.

    Raises
    ------
    ModelError
        If a part or a file is missing or unreadable.
    """
    folder = Path(folder)
    config = read_config(folder, **overrides)
    places = _parts(_read_json(folder / "config.json"), folder)
    state: dict[str, Tensor] = {}
    for part, prefixes in _places(config).items():
        tensors = _read_tensors(places.get(part, folder / part), part, rename)
        if part == "llm" and "lm_head.weight" not in tensors and config.text_config.tie_word_embeddings:
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        for name, tensor in tensors.items():
            for inside, outside in prefixes.items():
                if name.startswith(inside):
                    state[outside + name.removeprefix(inside)] = tensor
                    break
            else:
                state[f"{part}/{name}"] = tensor
    return config, state


def part_folder(folder: str | Path, part: str) -> Path:
    """Return where a part of a split checkpoint lies."""
    folder = Path(folder)
    return _parts(_read_json(folder / "config.json"), folder).get(part, folder / part)


def _parts(content: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Return the folders of the parts that lie elsewhere, checked."""
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


def _read_tensors(place: Path, part: str, rename: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    if not place.is_dir():
        raise ModelError(
            f"cannot read the part {part!r}", found=f"no folder {str(place)!r}", allowed="a folder with safetensors"
        )
    files = sorted(place.glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"cannot read the part {part!r}",
            found=f"no safetensors file in {str(place)!r}",
            fix="other weight formats may run code when loaded and are not read",
        )
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            loaded = load_file(file)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"cannot read {str(file)!r}", found=f"a damaged file ({error})") from error
        for name, tensor in loaded.items():
            tensors[_inside(name, part, rename)] = tensor
    return tensors


def _inside(name: str, part: str, rename: Mapping[str, str] | None) -> str:
    """Return the name of a tensor inside its part, without what the original code leaves before it."""
    kind = "sound_mid_mm_projector" if part.startswith("sound_mid_mm_projector") else part
    # The longest first: one is the beginning of another.
    prefixes = sorted({f"{part}.", *_PREFIXES.get(kind, ())}, key=len, reverse=True)
    for prefix in prefixes:
        # `model.` begins every name of the language model, and is part of it there.
        if name.startswith(prefix) and not (part == "llm" and prefix == "model."):
            name = name.removeprefix(prefix)
            break
    if kind in ("sound_mm_projector", "sound_mid_mm_projector"):
        for ours, theirs in _PROJECTOR.items():
            name = name.replace(f"{ours}.", f"{theirs}.") if name.startswith(f"{ours}.") else name
    for begin, replacement in (rename or {}).items():
        if f"{part}/{name}".startswith(begin):
            return replacement + f"{part}/{name}".removeprefix(begin)
    return name


def _audio_token_id(folder: Path) -> int:
    from transformers import AutoTokenizer

    for place in (folder, folder / "llm"):
        if any((place / file).is_file() for file in ("tokenizer.json", "vocab.json", "tokenizer_config.json")):
            tokenizer = AutoTokenizer.from_pretrained(str(place), trust_remote_code=False)
            token = tokenizer.convert_tokens_to_ids("<sound>")
            if token is not None and token != tokenizer.unk_token_id:
                return int(token)
    raise ModelError(
        f"cannot find the audio placeholder of {str(folder)!r}",
        found="no 'audio_token_id' in config.json and no '<sound>' in the tokenizer",
    )


def _has_sizes(config: Any) -> bool:
    return isinstance(config, dict) and ("hidden_size" in config or "d_model" in config)


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in ("model_type", "architectures", "_name_or_path")}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError("cannot read a checkpoint", found=f"no file {str(path)!r}") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {str(path)!r}", found=f"no JSON ({error})") from error
    if not isinstance(content, dict):
        raise ModelError(f"cannot read {str(path)!r}", found=type(content).__name__, allowed="an object")
    return content


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True, default=str) + "\n", encoding="utf-8")
