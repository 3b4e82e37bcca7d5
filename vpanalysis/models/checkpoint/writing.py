"""Files of a checkpoint: shards of bounded size with their index, and what the configuration files say.

Why it exists. A model of seventeen gigabytes is written without ever being in memory: one shard at a time is, and how
large a shard may be is the caller's to say.

The idea. `plan_shards` decides by sizes alone which tensors share a file. `write_shards` then asks for the tensors of
one file, writes it, lets go of them, and goes on; with more than one file it adds the index that Hugging Face reads.

Worked example::

    write_shards(folder, {"lm_head.weight": read, ...}, {"lm_head.weight": 1_087_000_000, ...}, 5_000_000_000)
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from safetensors.torch import save_file
from torch import Tensor

from vpanalysis.errors import ModelError
from vpanalysis.models.checkpoint.bases import base_of

__all__ = ["bytes_of", "part_config", "plan_shards", "top_config", "write_json", "write_shards"]

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def bytes_of(size: int | str) -> int:
    """Return a size in bytes.

    Parameters
    ----------
    size : int or str
        Bytes, or a number with a unit: ``"5GB"``, ``"500MB"``, ``"2GiB"``.

    Raises
    ------
    ModelError
        If it is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(size))
    unit = match[2].upper() if match else None
    value = int(float(match[1]) * _UNITS[unit]) if match and unit in _UNITS else 0
    if value < 1:
        raise ModelError("cannot write shards of this size", found=repr(size), allowed="'5GB', '500MB', bytes")
    return value


def plan_shards(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    """Return which tensors share a file, in the order given; a tensor larger than `most` has one of its own."""
    shards: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if not shards or size > room:
            shards.append([])
            room = most
        shards[-1].append(name)
        room -= size
    return shards


def write_shards(
    folder: Path, tensors: Mapping[str, Callable[[], Tensor]], sizes: Mapping[str, int], most: int
) -> list[Path]:
    """Write tensors as ``model.safetensors``, or as shards with an index.

    Parameters
    ----------
    folder : Path
        Exists.
    tensors : mapping of str to callable
        What makes each tensor when it is its turn.
    sizes : mapping of str to int
        In bytes, as they will be written.
    most : int
        Bytes a file.

    Returns
    -------
    list of Path
        The files.
    """
    shards = plan_shards(sizes, most)
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    files = [folder / name for name in (names if len(shards) > 1 else ["model.safetensors"])]
    for file, members in zip(files, shards, strict=True):
        held = {name: tensors[name]() for name in members}
        save_file(held, file, metadata={"format": "pt"})
        del held
    if len(files) > 1:
        where = {name: file.name for file, members in zip(files, shards, strict=True) for name in members}
        write_json(
            folder / "model.safetensors.index.json",
            {"metadata": {"total_size": sum(sizes.values())}, "weight_map": where},
        )
    return files


def top_config(config: Any) -> dict[str, Any]:
    """Return what the ``config.json`` of a split checkpoint says."""
    base = base_of(config.model_type)
    return {**config.to_dict(), "use_sound_pclm": base is not None and base.is_mixed(config)}


def part_config(part: str, config: Any) -> dict[str, Any]:
    """Return what the ``config.json`` of a part says."""
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
    return {name: getattr(config, name) for name in ("projector_hidden_act", "projector_bias") if hasattr(config, name)}


def write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write JSON with sorted keys."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True, default=str) + "\n", encoding="utf-8")
