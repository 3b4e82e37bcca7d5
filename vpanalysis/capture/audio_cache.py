"""What an encoder made of a clip, on disk, for the next checkpoint with the same encoder.

Why it exists. Checkpoints of one family often share a frozen encoder and differ in what comes after it. Seven of them
over three thousand clips should run the encoder three thousand times, and synthesize or decode each clip once, not
seven times.

The idea. One file a clip, named by the hash of the encoder (weights, feature extractor, dtype) and the content key of
the audio. It holds what the rest of the model needs (the *streams*: the tower's output, and for PCLM each exposed
layer), the reduced states of the encoder's sites, and the number of samples, so that on a hit the clip is neither
decoded nor encoded. Files are safetensors, written beside and renamed, with a checksum over all tensors; whatever is
damaged, incomplete or lacks something asked for is a miss, never an error.

Deleting the folder is always safe. It is ``$VPANALYSIS_CACHE``, or ``~/.cache/vpanalysis``.

Worked example::

    cache = AudioCache(default_cache_folder(), llm.encoder_sha, "float32")
    cache.put(item.audio.key(), CachedClip(51200, (80,), streams={"tower": tensor}))
    cache.get(item.audio.key())        # equal to what was put, or None
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["AudioCache", "CachedClip", "default_cache_folder"]

_FORMAT = "1"
_STATE, _STREAM = "state|", "stream|"


def default_cache_folder() -> Path:
    """Return ``$VPANALYSIS_CACHE``, or ``~/.cache/vpanalysis``."""
    named = os.environ.get("VPANALYSIS_CACHE")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "vpanalysis"


@dataclass(frozen=True)
class CachedClip:
    """One encoded clip.

    Parameters
    ----------
    samples : int
        Length of the clip at 16 kHz.
    windows : tuple of int
        Valid frames of each window of the encoder.
    streams : mapping from str to Tensor
        (frame, feature), valid frames only, on the CPU, in the model's dtype.
    states : mapping from (site, reducer key) to Tensor
        Reduced encoder states, float32, without an item dimension.
    """

    samples: int
    windows: tuple[int, ...]
    streams: Mapping[str, torch.Tensor] = field(default_factory=dict)
    states: Mapping[tuple[str, str], torch.Tensor] = field(default_factory=dict)


class AudioCache:
    """Encoded clips of one encoder.

    Parameters
    ----------
    folder : Path
        Shared by all encoders; created when first written to.
    encoder_sha : str
        Hash of everything that the encoding depends on besides the audio.
    dtype : str
        In which the encoder computes.
    """

    def __init__(self, folder: Path, encoder_sha: str, dtype: str) -> None:
        self.root = Path(folder)
        name = hashlib.sha256(f"{_FORMAT}|{encoder_sha}|{dtype}".encode()).hexdigest()[:24]
        self.folder = self.root / "encoded" / name

    def path(self, key: str) -> Path:
        """Return the file of a clip. Keys come from data, so they are hashed before they become a name."""
        name = hashlib.sha256(key.encode()).hexdigest()[:40]
        return self.folder / name[:2] / f"{name}.safetensors"

    def peek(self, key: str, needed: Iterable[str] = ()) -> int | None:
        """Return the clip's number of samples if its file has everything `needed`, without reading the tensors.

        Parameters
        ----------
        key : str
            Content key of the audio.
        needed : iterable of str
            Names from `names`.
        """
        try:
            with self.path(key).open("rb") as handle:
                length = int.from_bytes(handle.read(8), "little")
                header = json.loads(handle.read(length)) if length < 1 << 24 else {}
            return int(header["__metadata__"]["samples"]) if _has(header, needed) else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    @staticmethod
    def names(streams: Iterable[str], states: Iterable[tuple[str, str]]) -> frozenset[str]:
        """Return what `peek` and `get` call the given streams and reduced states."""
        return frozenset([_STREAM + s for s in streams] + [f"{_STATE}{site}|{key}" for site, key in states])

    def get(self, key: str, needed: Iterable[str] = ()) -> CachedClip | None:
        """Return a clip, or None when it is not there, damaged, or lacks something `needed`.

        Parameters
        ----------
        key : str
            Content key of the audio.
        needed : iterable of str
            Names from `names`.

        Returns
        -------
        CachedClip or None
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            data = self.path(key).read_bytes()
            length = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + length])
            facts = header["__metadata__"]
            if not _has(header, needed) or facts["crc32"] != _checksum(memoryview(data)[8 + length :], header):
                return None
            tensors = load(data)
            tensors |= {name: tensors[kept] for name, kept in json.loads(facts["alias"]).items()}
            samples, windows = int(facts["samples"]), tuple(int(n) for n in json.loads(facts["windows"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
            return None
        streams = {name.removeprefix(_STREAM): t for name, t in tensors.items() if name.startswith(_STREAM)}
        states = {}
        for name, tensor in tensors.items():
            if name.startswith(_STATE):
                _, site, reducer = name.split("|")
                states[site, reducer] = tensor
        return CachedClip(samples, windows, streams, states)

    def put(self, key: str, clip: CachedClip) -> None:
        """Write a clip, whole or not at all; an older file of the same clip is replaced.

        A full or read-only disk costs speed, not the run: the clip is then simply not cached.
        """
        tensors = {_STREAM + name: t.detach().cpu().contiguous() for name, t in clip.streams.items()}
        tensors |= {f"{_STATE}{s}|{r}": t.detach().cpu().contiguous() for (s, r), t in clip.states.items()}
        target = self.path(key)
        part = target.with_name(f"{target.name}.{os.getpid()}-{threading.get_ident()}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(_pack(tensors, {"samples": str(clip.samples), "windows": json.dumps(clip.windows)}))
            part.replace(target)
        except OSError:
            with suppress(OSError):
                part.unlink()

    def __repr__(self) -> str:
        return f"AudioCache({str(self.folder)!r})"


def _checksum(body: bytes | memoryview, header: Mapping[str, Any]) -> str:
    """Return a checksum over tensors, names, places and facts; its own field counts as empty."""
    facts = {**header["__metadata__"], "crc32": ""}
    text = json.dumps({**header, "__metadata__": facts}, sort_keys=True).encode()
    return f"{zlib.crc32(text, zlib.crc32(body)):08x}"


def _pack(tensors: dict[str, torch.Tensor], facts: Mapping[str, str]) -> bytes:
    """Return a safetensors file whose metadata holds a checksum of all the rest."""
    from safetensors.torch import save

    # One tensor under several names (a control whose every stream is the tower's output) is stored once.
    first: dict[tuple[int, tuple[int, ...]], str] = {}
    alias = {}
    for name, tensor in tensors.items():
        kept = first.setdefault((tensor.data_ptr(), tuple(tensor.shape)), name)
        if kept != name and tensor.numel():
            alias[name] = kept
    stored = {name: tensor for name, tensor in tensors.items() if name not in alias}
    plain = save(stored, metadata={**facts, "format": _FORMAT, "alias": json.dumps(alias), "crc32": ""})
    length = int.from_bytes(plain[:8], "little")
    header = json.loads(plain[8 : 8 + length])
    body = memoryview(plain)[8 + length :]
    header["__metadata__"]["crc32"] = _checksum(body, header)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight, as the format asks
    return len(text).to_bytes(8, "little") + text + bytes(body)


def _has(header: Mapping[str, Any], needed: Iterable[str]) -> bool:
    """Return whether a file of this format holds every name, under its own or another."""
    facts = header["__metadata__"]
    return bool(facts["format"] == _FORMAT) and set(needed) <= {*header, *json.loads(facts["alias"])}
