"""What lies in a checkpoint: every tensor of every safetensors file, known from the files' headers alone.

Why it exists. Whether a checkpoint can be loaded is decided by names, shapes and types, and all of them stand in the
first kilobytes of each file. Seventeen gigabytes need not be read to learn that a shard is missing, and a file that was
cut off while it was downloaded should be found before anything is built, not as an error deep inside a copy.

The idea. A safetensors file is eight bytes with the length of its header, the header (JSON: name, type, shape, first
and last byte of each tensor), and the data without gaps. `read_header` checks all of this against the size of the file.
`read_inventory` does so for a folder, and compares an ``index.json``, or the numbers in ``model-00001-of-00004``, with
what is there. What is wrong is collected as sentences, so that all of it can be shown at once. Files of other formats
are never opened: loading a pickle may run code.

Worked example::

    inventory = read_inventory(Path("AF3_PCLM_DPO"))
    inventory.tensors[0]      # TensorRecord(folder='llm', name='lm_head.weight', shape=(151672, 3584), ...)
    inventory.problems        # ("'llm/model-00002-of-00004.safetensors' is truncated: ...",)
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vpanalysis._untrusted import open_regular, strict_json
from vpanalysis.errors import ModelError

__all__ = ["DTYPES", "Inventory", "TensorRecord", "listed", "read_header", "read_inventory", "read_json"]

DTYPES: dict[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of one element, by the name of its type in a header."""

# More than any header of a model needs; the limit that the format's own reader has.
_MOST_HEADER = 100_000_000
_MOST_DIMS = 64
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_NUMBERED = re.compile(r"^(?P<stem>.+)-(?P<part>\d{5})-of-(?P<parts>\d{5})\.safetensors$")


@dataclass(frozen=True)
class TensorRecord:
    """One tensor on disk.

    Parameters
    ----------
    file : Path
        The safetensors file.
    folder : str
        Its folder, relative to the checkpoint, ``"/"`` between levels; empty for the checkpoint itself. A part that
        lies elsewhere goes by the part's name, and files of one folder that hold the same names go by their own.
    name : str
        In the file.
    shape : tuple of int
    dtype : str
        As the header has it: ``"F16"``, ``"BF16"`` ...
    start : int
        Byte in the file where its values begin.
    """

    file: Path
    folder: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    start: int

    @property
    def key(self) -> str:
        """Folder and name, which no other tensor of the checkpoint has."""
        return f"{self.folder}/{self.name}" if self.folder else self.name

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of its values in bytes."""
        return self.numel * DTYPES[self.dtype]


@dataclass(frozen=True)
class Inventory:
    """What a folder holds.

    Parameters
    ----------
    folder : Path
        The checkpoint.
    tensors : tuple of TensorRecord
        In the order of folders, files and positions.
    pickles : tuple of str
        Files in formats that may run code, relative to the folder; not opened.
    problems : tuple of str
        What is wrong with the files, a clause each.
    notes : tuple of str
        What was left aside, and why.
    """

    folder: Path
    tensors: tuple[TensorRecord, ...]
    pickles: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def listed(names: Iterable[str], most: int = 6) -> str:
    """Return names joined by commas, and how many more there are beyond `most`."""
    every = [name if name.isprintable() else repr(name) for name in names]
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    ModelError
        If there is no such file, or something else in it.
    """
    try:
        with open_regular(path) as stream:
            if os.fstat(stream.fileno()).st_size > _MOST_HEADER:
                raise ValueError(f"more than {_MOST_HEADER} bytes")
            content = strict_json(stream.read())
    except FileNotFoundError as error:
        raise ModelError("cannot read a checkpoint", found=f"no file {str(path)!r}") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {str(path)!r}", found=f"no JSON ({error})") from error
    if not isinstance(content, dict):
        raise ModelError(f"cannot read {str(path)!r}", found=type(content).__name__, allowed="an object")
    return content


def read_header(file: Path, folder: str = "") -> list[TensorRecord]:
    """Return the tensors of a safetensors file, without reading their values.

    Parameters
    ----------
    file : Path
        The file.
    folder : str, optional
        What to note as its folder.

    Returns
    -------
    list of TensorRecord
        In the order in which they lie in the file.

    Raises
    ------
    ValueError
        With a clause that says what is wrong, if the file is no whole safetensors file.
    OSError
        If it cannot be read.
    """
    with open_regular(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        first = stream.read(8)
        if len(first) < 8:
            raise ValueError(f"is damaged: {size} bytes are no safetensors file")
        (length,) = struct.unpack("<Q", first)
        if length > min(size - 8, _MOST_HEADER):
            # A file that was cut off inside its header, or a file of another kind.
            raise ValueError(f"is damaged: its header would be {length} bytes long, the file has {size}")
        text = stream.read(length)
    try:
        header = strict_json(text)
        entries = {str(name): entry for name, entry in header.items() if name != "__metadata__"}
        spans = sorted(_span(name, entry) for name, entry in entries.items())
        shapes = {name: _numbers(entry["shape"]) for name, entry in entries.items()}
        dtypes = {name: str(entry["dtype"]) for name, entry in entries.items()}
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        # A sentence of our own says more than the name of an error.
        reason = str(error) if type(error) is ValueError else type(error).__name__
        raise ValueError(f"is damaged: its header cannot be read ({reason})") from error
    unknown = sorted({dtype for dtype in dtypes.values() if dtype not in DTYPES})
    if unknown:
        raise ValueError(f"holds tensors of the type {listed(unknown)}, which is not read")
    end, records = 0, []
    for begin, stop, name in spans:
        shape, dtype = shapes[name], dtypes[name]
        if begin != end or stop - begin != math.prod(shape) * DTYPES[dtype] or min(shape, default=0) < 0:
            raise ValueError(f"is damaged: the place of {name!r} does not fit its shape {list(shape)} and type {dtype}")
        end = stop
        records.append(TensorRecord(file, folder, name, shape, dtype, 8 + length + begin))
    if 8 + length + end != size:
        what = "is truncated" if size < 8 + length + end else "is damaged"
        raise ValueError(f"{what}: its header describes {8 + length + end} bytes, the file has {size}")
    return records


def _span(name: str, entry: Mapping[str, Any]) -> tuple[int, int, str]:
    begin, stop = _numbers(entry["data_offsets"])
    return begin, stop, name


def _numbers(values: Any) -> tuple[int, ...]:
    """Return a list of whole numbers as it stands in a header; its size is checked before anything is made of it."""
    if not isinstance(values, list) or len(values) > _MOST_DIMS or not all(type(n) is int for n in values):
        raise TypeError
    if any(abs(n) >= 1 << 63 for n in values):
        raise ValueError("a number of more than 63 bits")
    return tuple(values)


@dataclass
class _Found:
    """What is gathered while folders are walked through."""

    tensors: list[TensorRecord] = field(default_factory=list)
    pickles: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_inventory(
    folder: Path, parts: Mapping[str, Path] | None = None, *, recursive: bool = True, files: Iterable[str] | None = None
) -> Inventory:
    """Read the headers of a checkpoint's files.

    Parameters
    ----------
    folder : Path
        The checkpoint.
    parts : mapping of str to Path, optional
        Parts that lie elsewhere, by name.
    recursive : bool, optional
        Whether subfolders belong to the checkpoint. Hidden ones never do, nor do those that hold a PEFT adapter.
    files : iterable of str, optional
        Read only these safetensors files of the folder itself.

    Returns
    -------
    Inventory
        Its `problems` are empty when every file is whole and none is missing.
    """
    found = _Found()
    only = None if files is None else set(files)
    for place, label in _folders(folder, parts or {}, recursive, found):
        try:
            names = sorted(entry.name for entry in place.iterdir() if entry.is_file() or entry.is_symlink())
        except OSError as error:
            found.problems.append(f"the folder {label or str(place)!r} cannot be read ({error.strerror})")
            continue
        found.pickles += [f"{label}/{name}" if label else name for name in names if name.lower().endswith(_PICKLES)]
        shards = [n for n in names if n.endswith(".safetensors") and (only is None or n in only)]
        _read_folder(place, label, shards, [n for n in names if n.endswith(".safetensors.index.json")], found)
    return Inventory(folder, tuple(found.tensors), tuple(found.pickles), tuple(found.problems), tuple(found.notes))


def _folders(folder: Path, parts: Mapping[str, Path], recursive: bool, found: _Found) -> Iterator[tuple[Path, str]]:
    yield folder, ""
    below = sorted(path for path, _, _ in os.walk(folder)) if recursive else []
    for path in map(Path, below):
        inner = path.relative_to(folder).parts
        if not inner or any(name.startswith(".") for name in inner) or inner[0] in parts:
            continue
        if (path / "adapter_config.json").is_file():
            found.notes.append(f"the folder {'/'.join(inner)!r} holds an adapter and was not read")
            continue
        yield path, "/".join(inner)
    for part, place in sorted(parts.items()):
        if place.is_dir():
            yield place, part
        else:
            found.problems.append(f"the part {part!r} lies in {str(place)!r}, where there is no folder")


def _read_folder(place: Path, label: str, shards: list[str], indices: list[str], found: _Found) -> None:
    def called(name: str) -> str:
        return repr(f"{label}/{name}" if label else name)

    whole: dict[str, list[TensorRecord]] = {}
    for shard in shards:
        try:
            whole[shard] = read_header(place / shard, label)
        except ValueError as error:
            found.problems.append(f"{called(shard)} {error}")
        except OSError as error:
            found.problems.append(f"{called(shard)} cannot be read ({error.strerror})")
    for shard in _missing_numbers(shards):
        found.problems.append(f"the shard {called(shard)} is missing")
    for index in indices:
        found.problems += [
            f"{called(index)} {problem}" for problem in _check_index(place / index, whole, shards, found.problems)
        ]
    owners: dict[str, list[str]] = defaultdict(list)
    for shard, records in whole.items():
        for record in records:
            owners[record.name].append(shard)
    twice = sorted(name for name, files in owners.items() if len(files) > 1)
    sharing = {file for name in twice for file in owners[name]}
    if any(_NUMBERED.match(file) for file in sharing):
        found.problems.append(f"{listed(map(called, sorted(sharing)))} hold the same tensors: {listed(twice)}")
    for shard, records in whole.items():
        # A file per part in one folder: what sets its tensors apart is the name of the file.
        stem = shard.removesuffix(".safetensors")
        apart = f"{label}/{stem}" if label else stem
        found.tensors += [replace(r, folder=apart) for r in records] if shard in sharing else records


def _missing_numbers(shards: list[str]) -> list[str]:
    """Return the names that are missing from series such as ``model-00001-of-00004``."""
    series: dict[tuple[str, int], set[int]] = defaultdict(set)
    for shard in shards:
        if match := _NUMBERED.match(shard):
            series[match["stem"], int(match["parts"])].add(int(match["part"]))
    return [
        f"{stem}-{part:05d}-of-{parts:05d}.safetensors"
        for (stem, parts), there in sorted(series.items())
        for part in range(1, parts + 1)
        if part not in there
    ]


def _check_index(
    path: Path, whole: Mapping[str, list[TensorRecord]], shards: list[str], known: list[str]
) -> Iterator[str]:
    """Yield what an index names that is not there."""
    try:
        index = read_json(path).get("weight_map")
    except ModelError:
        index = None
    if not isinstance(index, dict) or not all(isinstance(file, str) for file in index.values()):
        yield "is no index of tensors"
        return
    by_file: dict[str, list[str]] = defaultdict(list)
    for name, file in index.items():
        by_file[file].append(name)
    for file, names in sorted(by_file.items()):
        if file not in shards:
            if not any(file in problem for problem in known):
                yield f"names the shard {file!r}, which is missing ({len(names)} tensors)"
        elif file in whole:
            lacking = sorted(set(names) - {record.name for record in whole[file]})
            if lacking:
                yield f"names tensors that {file!r} does not hold: {listed(lacking)}"
