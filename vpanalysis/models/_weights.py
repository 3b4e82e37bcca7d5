"""Which tensors are which part of a model, and hashes of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from vpanalysis.models.family import Family

__all__ = ["digest", "digest_of", "parts_by_path"]


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 (hex) of named tensors: names, dtypes, shapes and bytes, in the order of names."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def digest_of(value: Any) -> str:
    """Return the SHA-256 (hex) of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def parts_by_path(family: Family, model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Return a model's tensors by part, where the family's paths say which is which.

    Parameters
    ----------
    family : Family
        The row.
    model : Module
        The model.

    Returns
    -------
    dict of str to dict of str to Tensor
        Under the names of the split layout: ``sound_tower``, ``sound_mm_projector``, ``llm``, and ``rest`` for what
        belongs to none of them.
    """
    paths: dict[str, list[str | None]] = {
        "sound_tower": [family.tower],
        "sound_mm_projector": [family.projector],
        "llm": [family.language_model, family.head],
    }
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in model.state_dict().items():
        owners = [
            (len(path), part)
            for part, members in paths.items()
            for path in members
            if path is not None and name.startswith(f"{path}." if path else "")
        ]
        # The most particular path: a projector may live inside the tower, and a tower may be the whole model.
        part = max(owners)[1] if owners else "rest"
        parts.setdefault(part, {})[name] = tensor
    return parts
