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

This is what `write_split` writes. What `read_split` reads may have other names inside, and other things in front of
them: each tensor's place is inferred from its shape and from where it stands (`vpanalysis.models.checkpoint`).

``"parts": {"sound_tower": "../shared/sound_tower"}`` in ``config.json`` points to a folder elsewhere: relative, and
within the folder that holds the checkpoint.

Worked example::

    write_split(model, processor, "weights/mini-pclm", dtype=torch.float16,
                parts={"sound_tower": "../shared/sound_tower"})
    config, state = read_split("weights/mini-pclm")
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vpanalysis.errors import ModelError
from vpanalysis.models.checkpoint.assignment import resolve
from vpanalysis.models.checkpoint.bases import places_of
from vpanalysis.models.checkpoint.headers import read_inventory, read_json
from vpanalysis.models.checkpoint.lazy import LazyTensor, read_tensor
from vpanalysis.models.checkpoint.settings import is_split, parts_elsewhere
from vpanalysis.models.checkpoint.writing import part_config, top_config, write_json

__all__ = ["is_split", "part_folder", "parts_of", "read_config", "read_split", "write_split"]

_WEIGHTS = "model.safetensors"


def parts_of(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Return the model's tensors by part, under the names that they have inside it.

    Parameters
    ----------
    model : PreTrainedModel
        Audio Flamingo 3 or Qwen2-Audio, with or without the mixer.
    """
    state = model.state_dict()
    parts: dict[str, dict[str, Tensor]] = {}
    for part, prefixes in places_of(model.config).items():
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
    model : PreTrainedModel
        What to write: Audio Flamingo 3 or Qwen2-Audio, with or without the mixer.
    processor : ProcessorMixin
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
    content = top_config(config)
    if parts:
        content["parts"] = dict(parts)
    places = parts_elsewhere(content, folder)
    for part, tensors in parts_of(model).items():
        tensors = {name: _as(tensor, dtype) for name, tensor in tensors.items()}
        place = places.get(part, folder / part)
        if part in places and (place / _WEIGHTS).is_file():
            _check_same(part, place, tensors)
            continue
        place.mkdir(parents=True, exist_ok=True)
        save_file(tensors, place / _WEIGHTS, metadata={"format": "pt"})
        write_json(place / "config.json", part_config(part, config))
    processor.save_pretrained(str(folder))
    # Last, because a folder without it is no checkpoint.
    write_json(folder / "config.json", content)
    return folder


def _as(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().cpu()
    if dtype is not None and tensor.is_floating_point():
        tensor = tensor.to(dtype)
    return tensor.clone().contiguous()


def _check_same(part: str, place: Path, tensors: dict[str, Tensor]) -> None:
    inventory = read_inventory(place, recursive=False)
    if inventory.problems:
        raise ModelError(f"cannot share the part {part!r}", found="; ".join(inventory.problems))
    there = {record.name: read_tensor(record) for record in inventory.tensors}
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
    ``sound_tower/``, and its PCLM fields are taken over by name. Sizes of the gate that no file states are read from
    the shapes of its tensors.

    Parameters
    ----------
    folder : str or Path
        The checkpoint.
    **overrides
        Fields of `PCLMConfig` to set otherwise than in file.

    Returns
    -------
    PreTrainedConfig
        With the mixer where ``use_sound_pclm`` is true.

    Raises
    ------
    ModelError
        If a file is missing, a field is not allowed, or the tensors do not fit.
    """
    return read_split(folder, **overrides)[0]


def read_split(
    folder: str | Path, *, rename: Mapping[str, str] | None = None, **overrides: Any
) -> tuple[Any, dict[str, LazyTensor]]:
    """Read a checkpoint in the split layout.

    Parameters
    ----------
    folder : str or Path
        The checkpoint.
    rename : mapping of str to str, optional
        For files whose tensors cannot be told apart by their structure: from the beginning of a tensor's key,
        ``"folder/name"``, to what replaces it, such as ``{"sound_pclm/bert.": "prompt_encoder."}``.
    **overrides
        Fields of `PCLMConfig` to set otherwise than in file.

    Returns
    -------
    config : PreTrainedConfig
        For the model class of `vpanalysis.models.families`.
    state : dict of str to LazyTensor
        Its state dictionary; ``state[name][...]`` reads a tensor, in its dtype on disk.

    Raises
    ------
    ModelError
        If a file is missing or damaged, or tensors are missing, surplus or of the wrong shape.
    """
    found = resolve(folder, rename=rename, overrides=overrides)
    found.require(f"cannot load the model {str(folder)!r}")
    return found.config, found.state()


def part_folder(folder: str | Path, part: str) -> Path:
    """Return where a part of a split checkpoint lies."""
    folder = Path(folder)
    return parts_elsewhere(read_json(folder / "config.json"), folder).get(part, folder / part)
