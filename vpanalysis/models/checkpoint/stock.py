"""Checkpoints of Hugging Face's own classes: which files hold the weights, and what reading them would find.

Why it exists. Models that are not put together from parts are loaded under their own names by Hugging Face's loader.
Two things are still ours to do: to leave the tensors on disk until the loader asks for each, and to say what a
checkpoint holds without loading it.

The idea. The weights of a folder are ``model.safetensors``, or the files that ``model.safetensors.index.json`` names;
other files beside them are other formats of the same. A repository on the Hub is fetched with these files and no
others. To verify a checkpoint, Hugging Face's loader itself runs on the meta device, where tensors have shapes and no
values, and its report is the answer.

Worked example::

    folder = hub_folder("openai/whisper-large-v3", None)     # None when there are no safetensors
    inventory = stock_inventory(folder)
    meta_report(model_class, config, inventory)["missing_keys"]
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vpanalysis.errors import ModelError
from vpanalysis.models.checkpoint.headers import Inventory, read_inventory, read_json
from vpanalysis.models.checkpoint.lazy import LazyTensor
from vpanalysis.models.checkpoint.settings import speaks_of_mixer

__all__ = ["hub_folder", "meta_report", "stock_inventory", "weight_files"]

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PLAIN = re.compile(r"[\w][\w.+ -]*\.safetensors")
_BESIDE = ["*.json", "*.txt", "*.jinja", "*.model"]


def weight_files(folder: Path) -> list[str]:
    """Return the names of the files that hold a folder's weights, as Hugging Face chooses them; empty without any.

    Raises
    ------
    ModelError
        If an index names anything but files of its own folder: a place elsewhere, a pattern, another format.
    """
    if (folder / _SINGLE).exists():
        return [_SINGLE]
    if (folder / _INDEX).is_file():
        index = read_json(folder / _INDEX).get("weight_map")
        names = sorted({str(file) for file in index.values()}) if isinstance(index, dict) else []
        # They are looked for on disk, and are patterns of what the Hub sends.
        strange = [name for name in names if not _PLAIN.fullmatch(name)]
        if strange:
            raise ModelError(
                f"cannot use the index of shards {str(folder / _INDEX)!r}",
                found=f"a shard called {strange[0][:200]!r}",
                allowed="names of safetensors files in the same folder",
            )
        return names
    return []


def stock_inventory(folder: Path) -> Inventory:
    """Read the headers of a folder's weights.

    Raises
    ------
    ModelError
        If a file is damaged or missing.
    """
    inventory = read_inventory(folder, recursive=False, files=weight_files(folder))
    if inventory.problems:
        raise ModelError(f"cannot load the model {str(folder)!r}", found="; ".join(inventory.problems))
    return inventory


def hub_folder(repo: str, revision: str | None) -> Path | None:
    """Fetch a repository in the Hugging Face layout, with its safetensors; return None where it has none.

    Parameters
    ----------
    repo : str
        ``"owner/name"``.
    revision : str, optional
        Branch, tag or commit.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        config = read_json(Path(hf_hub_download(repo, "config.json", revision=revision)))
    except EntryNotFoundError:
        return None
    if speaks_of_mixer(config):
        # Its tensors may be in files of their own, which no index names.
        return Path(snapshot_download(repo, revision=revision, allow_patterns=[*_BESIDE, "*.safetensors"]))
    for name in (_SINGLE, _INDEX):
        try:
            place = Path(hf_hub_download(repo, name, revision=revision)).parent
        except EntryNotFoundError:
            continue
        return Path(snapshot_download(repo, revision=revision, allow_patterns=[*_BESIDE, *weight_files(place)]))
    return None


class _Hollow(LazyTensor):
    """A tensor with a shape and no values."""

    def __getitem__(self, index: Any) -> torch.Tensor:
        return torch.empty(self.shape, dtype=self.dtype, device="meta")[index]


def meta_report(model_class: Any, config: Any, inventory: Inventory, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what Hugging Face's loader would report of a checkpoint, without values.

    Parameters
    ----------
    model_class : type
        With `from_pretrained`.
    config : PreTrainedConfig
        The configuration.
    inventory : Inventory
        The tensors.
    options : mapping
        Further options of `from_pretrained`.

    Returns
    -------
    mapping of str to collection
        ``missing_keys``, ``unexpected_keys`` and ``mismatched_keys``.
    """
    state = {record.name: _Hollow(record) for record in inventory.tensors}
    _, report = model_class.from_pretrained(
        None, config=config, state_dict=state, output_loading_info=True, ignore_mismatched_sizes=True,
        device_map={"": "meta"}, dtype=torch.float32, **options,
    )  # fmt: skip
    return dict(report)
