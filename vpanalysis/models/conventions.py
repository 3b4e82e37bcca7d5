"""How a checkpoint is to be read where its config does not say: what calibration found, and what only fits one way.

Why it exists. A released checkpoint with a layer mixer leaves open how its layers are numbered, whether they are
normed, in which order the gate's outputs come, which text the gate reads and how BERT's states become one vector.
`vpanalysis.calibrate` settles these from answers and leaves a small JSON file; loading has to find that file, to make
sure that it belongs to these weights, and to take from it what was decided, and nothing else.

The idea. A calibration carries the *fingerprint* of the checkpoint that it was made with. It lies beside
``config.json`` as ``vpanalysis-calibration.json``, or, where that folder is not ours to write, in the user's cache
under the fingerprint's own name. One that belongs to other weights is refused, never used. What ``config.json`` states
is never overridden: a calibration that contradicts it gives a warning.

What the fingerprint guarantees. It covers the names and sizes of all safetensors files, their headers (tensor names,
types, shapes, places), every byte of files up to 4 MiB, 512 bytes from the middle of every tensor of larger ones, and
``expose_layers``. Checkpoints that differ in training differ in every tensor, so they are told apart, and so are copies
whose gate alone was edited; single weights of a large tensor can be changed without notice. A checkpoint that was moved
or renamed keeps its fingerprint, one that was converted to another layout does not.

Worked example::

    found = calibration_for("checkpoints/AF3_PCLM_DPO")      # the file's content, or None
    conventions_for("checkpoints/AF3_PCLM_DPO", found)       # {"bert_pooling": "mean"}, which config.json leaves open
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from vpanalysis._untrusted import open_regular, strict_json
from vpanalysis.errors import ModelError

__all__ = [
    "CALIBRATION_NAME",
    "CALIBRATION_VERSION",
    "CONVENTIONS",
    "calibration_for",
    "cached_calibration",
    "carry_calibration",
    "conventions_for",
    "fingerprint",
    "fitting_layer_index",
    "has_mixer",
    "stated_conventions",
]

CALIBRATION_NAME = "vpanalysis-calibration.json"
"""Name of the file beside ``config.json``."""

CALIBRATION_VERSION = 1
"""Version of the file's schema."""

CONVENTIONS: dict[str, tuple[str, ...]] = {
    "layer_index_convention": ("block_output_1based", "block_output_0based"),
    "mid_pool": ("avg_norm", "avg"),
    "gate_order": ("ascending_final_last", "final_first"),
    "gate_text": ("question", "question_options", "chat"),
    "bert_pooling": ("cls", "mean", "pooler"),
}
"""What the releases leave open, each with its readings; the first is the natural one (see `PCLMConfig`)."""

# The key of `vpanalysis.models.checkpoint.settings.UNSETTLED`, whose module loads transformers.
_UNSETTLED = "unsettled"
_WHOLE, _SAMPLE = 4 << 20, 512
# safetensors itself allows no longer header.
_LONGEST_HEADER = 100_000_000


def has_mixer(folder: str | Path) -> bool:
    """Return whether the config of a checkpoint folder speaks of a layer mixer."""
    content = _config(Path(folder))
    if "use_sound_pclm" in content:
        return bool(content["use_sound_pclm"])
    return str(content.get("model_type", "")).endswith("_pclm") or bool(content.get("expose_layers"))


def stated_conventions(folder: str | Path) -> dict[str, str]:
    """Return the conventions that a checkpoint states, in ``config.json`` or in that of its part ``sound_pclm``.

    A field that was written down as assumed (``"unsettled"``, by `vpanalysis convert`) is not stated.
    """
    folder = Path(folder)
    content = _config(folder)
    sources = [content]
    part = _places(folder, content).get("sound_pclm", folder / "sound_pclm") / "config.json"
    if part.is_file():
        sources.insert(0, _json(part))
    stated = {name: str(source[name]) for source in sources for name in CONVENTIONS if source.get(name) is not None}
    return {name: value for name, value in stated.items() if name not in (content.get(_UNSETTLED) or ())}


def fitting_layer_index(folder: str | Path) -> tuple[str, ...]:
    """Return the ways of counting layers that fit the exposed numbers and the depth of the encoder."""
    folder = Path(folder)
    content = _config(folder)
    exposed, ways = content.get("expose_layers"), CONVENTIONS["layer_index_convention"]
    if not isinstance(exposed, list) or not exposed:
        return ways
    numbers, depth = [int(k) for k in exposed], _depth(folder, content)
    return tuple(
        way
        for way, first in zip(ways, (1, 0), strict=True)
        if min(numbers) >= first and (depth is None or max(numbers) < first + depth)
    )


def _depth(folder: Path, content: Mapping[str, Any]) -> int | None:
    """Return how many layers the encoder has, from whichever config says it; None where none does."""
    part = _places(folder, content).get("sound_tower", folder / "sound_tower") / "config.json"
    sources = [content.get("audio_config"), content.get("sound_tower_cfg"), _json(part) if part.is_file() else None]
    for source in sources:
        for name in ("num_hidden_layers", "encoder_layers"):
            if isinstance(source, Mapping) and source.get(name) is not None:
                return int(source[name])
    return None


def conventions_for(folder: str | Path | None, calibration: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return the config fields that a checkpoint has to be loaded with and does not state.

    Parameters
    ----------
    folder : str or Path, optional
        The checkpoint; nothing is returned for None, or without a layer mixer.
    calibration : mapping, optional
        From `calibration_for`.

    Returns
    -------
    dict of str to str
        What the calibration decided; and the way of counting layers where only one other than the natural one fits.

    Warns
    -----
    UserWarning
        If the calibration decided otherwise than ``config.json`` states; the config's value stays.
    """
    if folder is None or not has_mixer(folder):
        return {}
    stated = stated_conventions(folder)
    fields: dict[str, str] = {}
    ways = fitting_layer_index(folder)
    if len(ways) == 1 and ways[0] != CONVENTIONS["layer_index_convention"][0]:
        fields["layer_index_convention"] = ways[0]
    fields |= dict(calibration["decided"]) if calibration is not None else {}
    for name in sorted(set(fields) & set(stated)):
        found = fields.pop(name)
        if found != stated[name]:
            warnings.warn(
                f"{name} stays {stated[name]!r}, as config.json of {str(folder)!r} states it, although "
                f"{'the calibration' if calibration is not None else 'expose_layers'} says {found!r}; "
                f"pass pclm={{{name!r}: {found!r}}} to use that",
                stacklevel=3,
            )
    return fields


def calibration_for(folder: str | Path | None, calibration: bool | str | Path = True) -> dict[str, Any] | None:
    """Return the calibration of a checkpoint.

    Parameters
    ----------
    folder : str or Path, optional
        The checkpoint; None gives None.
    calibration : bool, str or Path
        Whether to look for one, beside the checkpoint and in the user's cache (the newer of two is taken); or the file
        itself.

    Returns
    -------
    dict or None
        The content of the file and its ``"path"``; None where there is none.

    Raises
    ------
    ModelError
        If the file is damaged, of another version, or belongs to another checkpoint.
    """
    if folder is None or calibration is False or not has_mixer(folder):
        return None
    folder = Path(folder)
    if calibration is not True:
        return _checked(Path(calibration), fingerprint(folder))
    beside = folder / CALIBRATION_NAME
    elsewhere = cached_calibration("").parent
    if not beside.is_file() and not (elsewhere.is_dir() and any(elsewhere.glob("*.json"))):
        return None  # most checkpoints: nothing to compare, so nothing is hashed
    own = fingerprint(folder)
    found = [_checked(place, own) for place in (beside, cached_calibration(own)) if place.is_file()]
    return max(found, key=lambda one: str(one["created"]), default=None)


def carry_calibration(source: str | Path, target: str | Path) -> Path | None:
    """Give a converted copy of a checkpoint the calibration of its source, so that its items stay out of scores.

    Parameters
    ----------
    source : str or Path
        The checkpoint that was calibrated, or was not.
    target : str or Path
        The copy, complete.

    Returns
    -------
    Path or None
        The file beside the copy; None where there is no calibration.
    """
    record = calibration_for(source)
    if record is None:
        return None
    content = {key: value for key, value in record.items() if key != "path"}
    content["settings"] = {**(record.get("settings") or {}), "carried_from": record["fingerprint"]}
    content["fingerprint"] = fingerprint(target)
    place = Path(target) / CALIBRATION_NAME
    part = place.with_name(f".{place.name}.part")
    part.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(place)
    return place


def cached_calibration(own: str) -> Path:
    """Return where the calibration of a checkpoint with this fingerprint lies in the user's cache."""
    from vpanalysis.capture.audio_cache import default_cache_folder

    return default_cache_folder() / "calibrations" / f"{own}.json"


def _checked(place: Path, own: str) -> dict[str, Any]:
    """Read a calibration and refuse it unless it is whole and belongs to the checkpoint."""
    asked = f"cannot use the calibration {str(place)!r}"
    fix = "calibrate again, delete the file, or load with calibration=False"
    try:
        record = strict_json(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(asked, found=f"no readable JSON ({error})", fix=fix) from error
    kind = (record.get("kind"), record.get("version")) if isinstance(record, dict) else (None, None)
    if kind != ("Calibration", CALIBRATION_VERSION):
        raise ModelError(
            asked, found=f"kind {kind[0]!r}, version {kind[1]!r}",
            allowed=f"kind 'Calibration', version {CALIBRATION_VERSION}", fix=fix,
        )  # fmt: skip
    wrong = _problem(record)
    if wrong is not None:
        raise ModelError(asked, found=wrong, fix=fix)
    if record["fingerprint"] != own:
        raise ModelError(
            asked, found=f"one of another checkpoint (fingerprint {str(record['fingerprint'])[:12]})",
            allowed=f"that of these weights, {own[:12]}", fix=fix,
        )  # fmt: skip
    return {**record, "path": str(place)}


def _problem(record: Mapping[str, Any]) -> str | None:
    """Return what a calibration lacks of what loading and scoring need, or None."""
    decided, items = record.get("decided"), record.get("items")
    if not isinstance(decided, dict) or not isinstance(record.get("created"), str):
        return "no decisions or no date"
    for name, value in decided.items():
        if name not in CONVENTIONS or value not in CONVENTIONS[name]:
            return f"the decision {name!r}: {value!r}, which is none"
    if not isinstance(items, list) or not all(isinstance(i, dict) and isinstance(i.get("key"), str) for i in items):
        return "no list of calibration items"
    return None


def fingerprint(folder: str | Path) -> str:
    """Return a hash (hex) that tells checkpoints apart without reading them whole.

    Parameters
    ----------
    folder : str or Path
        The checkpoint, in any layout with safetensors files.

    Raises
    ------
    ModelError
        If there is no safetensors file, or one is damaged.

    Notes
    -----
    See the top of this module for what it covers.
    """
    folder = Path(folder)
    content = _config(folder)
    digest = hashlib.sha256(json.dumps(["fingerprint/1", content.get("expose_layers")]).encode())
    count = 0
    for label, file in _files(folder, content):
        count += 1
        with _opened(file) as handle:
            size = os.fstat(handle.fileno()).st_size
            digest.update(json.dumps([label, size]).encode())
            if size <= _WHOLE:
                digest.update(handle.read())
            else:
                for piece in _samples(handle, file, size):
                    digest.update(piece)
    if not count:
        raise ModelError(f"cannot tell which checkpoint {str(folder)!r} is", found="no safetensors file")
    return digest.hexdigest()


def _files(folder: Path, content: Mapping[str, Any]) -> list[tuple[str, Path]]:
    """Return the safetensors files of a checkpoint, parts that lie elsewhere included, by what they are called."""
    found = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*.safetensors")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    for part, place in _places(folder, content).items():
        found |= {f"{part}/{path.name}": path for path in place.glob("*.safetensors")}
    return sorted(found.items())


def _opened(file: Path) -> BinaryIO:
    try:
        return open_regular(file)
    except OSError as error:
        raise ModelError(f"cannot read {str(file)!r}", found=error.strerror or str(error)) from error


def _samples(handle: BinaryIO, file: Path, size: int) -> Iterator[bytes]:
    """Yield the header of a safetensors file, and bytes from the middle of each of its tensors."""
    length = int.from_bytes(handle.read(8), "little")
    try:
        if not 2 <= length <= min(_LONGEST_HEADER, size - 8):
            raise ValueError(f"a header of {length} bytes")
        text = handle.read(length)
        spans = sorted(entry["data_offsets"] for name, entry in strict_json(text).items() if name != "__metadata__")
        places = [(8 + length + int(begin), int(end) - int(begin)) for begin, end in spans]
        if any(span < 0 or place + span > size for place, span in places):
            raise ValueError("a tensor that reaches past the end")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"cannot read {str(file)!r}", found=f"a damaged file ({error})") from error
    yield text
    for place, span in places:
        handle.seek(place + max(0, span - _SAMPLE) // 2)
        yield handle.read(min(span, _SAMPLE))


def _places(folder: Path, content: Mapping[str, Any]) -> dict[str, Path]:
    """Return the folders of parts that lie elsewhere; loading checks that they may."""
    parts = content.get("parts")
    if not isinstance(parts, Mapping):
        return {}
    return {str(part): Path(os.path.normpath(folder / str(place))) for part, place in parts.items()}


def _config(folder: Path) -> dict[str, Any]:
    return _json(folder / "config.json") if (folder / "config.json").is_file() else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = strict_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {str(path)!r}", found=f"no JSON ({error})") from error
    if not isinstance(content, dict):
        raise ModelError(f"cannot read {str(path)!r}", found=type(content).__name__, allowed="an object")
    return content
