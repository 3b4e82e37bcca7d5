"""One layout into the other: split folders to a Hugging Face folder and back, a shard at a time.

Why it exists. A checkpoint in the split layout cannot be read by `from_pretrained`, and one in the Hugging Face layout
shares no parts. Both hold the same tensors.

The idea. The place of every tensor is found as for loading, then the tensors are read and written in the other order,
one output file at a time. Everything goes to a folder beside the destination that takes its name when it is complete
and its own headers have been checked, so that a conversion that fails leaves nothing behind. What had to be assumed
about the checkpoint stays marked as assumed (``"unsettled"`` in ``config.json``).

Worked example::

    convert("AF3_PCLM_DPO", "af3-pclm-dpo-hf", dtype="bfloat16")
    convert("af3-pclm-dpo-hf", "af3-split", max_shard_size="2GB")
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from vpanalysis.errors import ModelError
from vpanalysis.models.checkpoint.assignment import Resolution, resolve
from vpanalysis.models.checkpoint.bases import BASES, places_of
from vpanalysis.models.checkpoint.headers import DTYPES, TensorRecord, read_json
from vpanalysis.models.checkpoint.lazy import TORCH_DTYPES, read_tensor
from vpanalysis.models.checkpoint.settings import UNSETTLED, is_built_from_parts
from vpanalysis.models.checkpoint.sources import fields_of_source, folder_of_source
from vpanalysis.models.checkpoint.writing import bytes_of, part_config, top_config, write_json, write_shards
from vpanalysis.models.conventions import CALIBRATION_NAME, carry_calibration
from vpanalysis.models.families import family_of

__all__ = ["convert"]

_LAYOUTS = ("hf", "split")
_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_BESIDE = (".json", ".txt", ".jinja", ".model")


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    to: str | None = None,
    dtype: str | torch.dtype | None = None,
    max_shard_size: int | str = "5GB",
    revision: str | None = None,
    pclm: Mapping[str, Any] | None = None,
    rename: Mapping[str, str] | None = None,
) -> Path:
    """Write a checkpoint in the other layout.

    Parameters
    ----------
    source : str or Path
        A bundled name, a folder or a Hub id: Audio Flamingo 3 or Qwen2-Audio, with or without the mixer.
    destination : str or Path
        A folder that does not exist yet, or is empty.
    to : {"hf", "split"}, optional
        The layout to write; by default the one that `source` does not have.
    dtype : str or torch.dtype, optional
        Of the weights that are written; as in `source` by default.
    max_shard_size : int or str, optional
        Bytes a file. As much is in memory at a time.
    revision : str, optional
        Of a Hub repository.
    pclm, rename : mapping, optional
        As in `load_model`.

    Returns
    -------
    Path
        The destination.

    Raises
    ------
    ModelError
        If `source` cannot be loaded, or there is something in `destination`.
    """
    target = Path(destination)
    most, code = bytes_of(max_shard_size), _code(dtype)
    if to is not None and to not in _LAYOUTS:
        raise ModelError("cannot convert to this layout", found=repr(to), allowed=_LAYOUTS, word=to)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelError(
            f"cannot write to {str(target)!r}",
            found="a file" if not target.is_dir() else "a folder that is not empty",
            allowed="a folder that does not exist yet, or an empty one",
        )
    folder = folder_of_source(source, revision)
    kind = read_json(folder / "config.json")
    if not is_built_from_parts(kind):
        raise ModelError(
            f"cannot convert {str(source)!r}",
            found=f"model_type {kind.get('model_type')!r}, which exists in one layout only",
            allowed=[name for base in BASES for name in (base.stock, base.mixed)],
        )
    found = resolve(folder, rename=rename, overrides=fields_of_source(folder, pclm)[0])
    found.require(f"cannot convert {str(source)!r}")
    layout = to or ("hf" if found.settings.split else "split")
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}"
    try:
        beside.mkdir()
        (_write_hf if layout == "hf" else _write_split)(found, beside, most, code)
        _copy_the_rest(found, beside)
        # The weights are the same under another fingerprint, and so are the items that chose how they are read.
        carry_calibration(folder, beside)
        resolve(beside).require(f"cannot convert {str(source)!r}")
        if target.exists():
            target.rmdir()
        os.replace(beside, target)
    finally:
        # Gone already when all went well.
        shutil.rmtree(beside, ignore_errors=True)
    return target


def _code(dtype: str | torch.dtype | None) -> str | None:
    """Return the name of a dtype in a header."""
    if dtype is None:
        return None
    name = str(dtype).removeprefix("torch.")
    if name not in _NAMES:
        raise ModelError("cannot convert to this dtype", found=repr(dtype), allowed=list(_NAMES), word=name)
    return _NAMES[name]


def _read(record: TensorRecord, code: str | None) -> Tensor:
    tensor = read_tensor(record)
    return tensor if code is None else tensor.to(TORCH_DTYPES[code])


def _write(folder: Path, records: Mapping[str, TensorRecord], most: int, code: str | None) -> None:
    readers: dict[str, Callable[[], Tensor]] = {name: partial(_read, r, code) for name, r in records.items()}
    sizes = {name: record.numel * DTYPES[code or record.dtype] for name, record in records.items()}
    write_shards(folder, readers, sizes, most)


def _write_hf(found: Resolution, folder: Path, most: int, code: str | None) -> None:
    base, config = found.settings.base, found.config
    stored = () if base.is_mixed(config) else base.stored

    def published(name: str) -> str:
        inside = next(((ours, theirs) for ours, theirs in stored if name.startswith(ours)), None)
        return name if inside is None else inside[1] + name.removeprefix(inside[0])

    _write(folder, {published(name): record for name, record in found.targets.items()}, most, code)
    content = {**config.to_dict(), "architectures": [family_of(config.model_type).load_class().__name__]}
    types = {code or record.dtype for record in found.targets.values()}
    if len(types) == 1:
        # What Hugging Face loads to where it is not told.
        content["dtype"] = str(TORCH_DTYPES[types.pop()]).removeprefix("torch.")
    write_json(folder / "config.json", {**content, **_marks(found)})


def _write_split(found: Resolution, folder: Path, most: int, code: str | None) -> None:
    for part, prefixes in places_of(found.config).items():
        place = folder / part
        place.mkdir()
        records = {
            inside + name.removeprefix(outside): record
            for inside, outside in prefixes.items()
            for name, record in found.targets.items()
            if name.startswith(outside)
        }
        _write(place, records, most, code)
        write_json(place / "config.json", part_config(part, found.config))
    write_json(folder / "config.json", {**top_config(found.config), **_marks(found)})


def _marks(found: Resolution) -> dict[str, Any]:
    """Return what keeps assumptions apart from what was stated."""
    # Of a field with an inner part, the whole field; what the checkpoint lacks will be missed again.
    subjects = {assumption.subject.partition(".")[0] for assumption in found.assumptions} - {"gate_tokenizer"}
    return {UNSETTLED: sorted(subjects)} if subjects else {}


def _copy_the_rest(found: Resolution, folder: Path) -> None:
    """Copy tokenizer, processor and licence files, and complete the processor where the source has a tokenizer only."""
    source = found.settings.folder
    _copy_files(source, folder)
    gate = found.settings.parts.get("sound_pclm", source / "sound_pclm")
    for place in (source / "gate_tokenizer", gate):
        if any((place / file).is_file() for file in ("tokenizer.json", "vocab.txt")):
            (folder / "gate_tokenizer").mkdir(exist_ok=True)
            _copy_files(place, folder / "gate_tokenizer")
            break
    if not (folder / "generation_config.json").exists() and (source / "llm" / "generation_config.json").is_file():
        shutil.copyfile(source / "llm" / "generation_config.json", folder / "generation_config.json")
    if any((folder / file).is_file() for file in ("processor_config.json", "preprocessor_config.json")):
        return
    from vpanalysis.models import loading

    # It asks the model for nothing but its configuration.
    loading._load_processor(source, SimpleNamespace(config=found.config), None).save_pretrained(str(folder))


def _copy_files(source: Path, folder: Path) -> None:
    for file in sorted(source.iterdir()):
        kept = file.suffix in _BESIDE or file.name.startswith(("LICENSE", "NOTICE"))
        # A calibration belongs to the files that it was made with; what it decided is in the configuration now.
        other = file.name in ("config.json", CALIBRATION_NAME) or file.name.endswith(".index.json")
        if kept and not other and file.is_file():
            shutil.copyfile(file, folder / file.name)
