"""Activations on disk: one zarr store a Run, opened as an xarray Dataset.

Why it exists. A probe wants one site over all items; a recorder produces all sites of a few items. A killed writer must
not cost what was finished, and a flipped bit must not become a result.

The idea. Sites of equal width are stacked along a ``layer`` dimension into one variable per reducer, such as
``encoder_segments6`` with dims ``item, encoder_layer, segment, encoder_feature``; the layer coordinate holds the names
of the sites. A *block* of items is the unit of writing: one file per block and variable (a zarr shard, written beside
and renamed), inside it one chunk per site, so that reading a site touches nothing else. Chunks are not compressed
(states hardly compress) and carry a CRC-32C that is verified on every read.

Zarr reads a missing chunk as the fill value without complaint. So a block exists only when the Run's own marker says
so, and this module says whether the files of a block are all there (`has_block`).

Worked example::

    store = ActivationStore.create(path, sizes, items, block_size=64)
    store.write(0, {("encoder[0]", "mean"): array, ...})
    store.read("encoder[0]", "mean")         # array (item, feature)
    store.dataset()["encoder_mean"].sel(encoder_layer="encoder[0]")
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vpanalysis._places import is_local, names_in, zarr_store
from vpanalysis.capture.layouts import Variable, layout_of
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["MEND", "ActivationStore"]

_FORMAT = 1
_DTYPES = ("float32", "float16")
MEND = "call verify(redo=True) of the Run, or 'vpanalysis check RUN --redo', and run again; only that block is redone"
"""What to do about damaged data."""
_UNITS = "activation (model units)"

_READ_BYTES = 3.2e7
"""Of neighbouring blocks that are read in one go, where only some items are wanted."""


def _shard_name(variable: Variable, block: int) -> str:
    return ".".join(["c", str(block), *("0" for _ in variable.shape)])


class ActivationStore:
    """The activations of one Run.

    Parameters
    ----------
    path : Path
        The ``activations.zarr`` folder, made by `create`.

    Raises
    ------
    RunError
        If there is none, or it was written in another format.
    """

    def __init__(self, path: Path) -> None:
        import zarr

        self.path = path if not is_local(path) else Path(path)
        try:
            # Format 3 alone: a store of format 2 may name a codec that runs code.
            self._group = zarr.open_group(zarr_store(self.path), mode="r+", zarr_format=3)
            facts = dict(self._group.attrs)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RunError(f"cannot open {str(path)!r}", found=str(error) or "no zarr store") from error
        if facts.get("vpanalysis_format") != _FORMAT:
            raise RunError(
                f"cannot read {str(path)!r}",
                found=f"store format {facts.get('vpanalysis_format')!r}",
                allowed=str(_FORMAT),
                fix="open it with the version that wrote it, or record the run again",
            )
        self.items, self.block_size, self.variables = layout_of(facts, self.path)
        self._arrays: dict[str, Any] = {}
        for v in self.variables:
            self._check(v)
        self._where = {
            (site, v.reducer): (v, number) for v in self.variables for number, site in enumerate(v.sites or ("gate",))
        }

    @classmethod
    def create(
        cls,
        path: Path,
        variables: Sequence[Variable],
        coordinates: Mapping[str, Sequence[str]],
        *,
        items: int,
        block_size: int,
        dtype: str = "float32",
        streams: Sequence[str] | None = None,
        frame_seconds: Mapping[str, float] | None = None,
    ) -> ActivationStore:
        """Create an empty store; nothing may be there yet.

        Parameters
        ----------
        path : Path
        variables : sequence of Variable
            From `layout`.
        coordinates : mapping from name to sequence of str
            Along ``item``, such as task and condition; lists as JSON text.
        items, block_size : int
            The last block may be shorter.
        dtype : {"float32", "float16"}
            float32 keeps what the hooks computed; float16 halves the bytes and clips finite values to
            +-65504.
        streams : sequence of str, optional
            Names of the gate's streams.
        frame_seconds : mapping, optional
            Seconds of a frame by clock, for the frame coordinate of ``frames``.

        Returns
        -------
        ActivationStore
        """
        import zarr
        from zarr.codecs import Crc32cCodec, ZstdCodec

        group = zarr.open_group(zarr_store(path), mode="w-", zarr_format=3)
        group.attrs.update(
            {
                "vpanalysis_format": _FORMAT,
                "items": items,
                "block_size": block_size,
                "variables": json.dumps([asdict(v) for v in variables]),
            }
        )
        labels: dict[str, tuple[tuple[str, ...], NDArray[Any]]] = {}
        for v in variables:
            ragged = v.reducer == "frames"
            # Frames are padded with NaN to the longest clip, which compresses to nothing.
            codecs = [ZstdCodec(level=1), Crc32cCodec()] if ragged else [Crc32cCodec()]
            group.create_array(
                v.name,
                shape=(items, *v.shape),
                chunks=(1 if ragged else block_size, *v.chunk),
                shards=(block_size, *v.shape),
                dtype=dtype,
                compressors=codecs,
                fill_value=float("nan"),
                chunk_key_encoding={"name": "default", "separator": "."},
                dimension_names=v.dims,
                config={"write_empty_chunks": True},
                attributes={"units": "1" if v.name == "gate" else _UNITS, "reducer": v.reducer},
            )
            if v.sites:
                labels[v.dims[1]] = ((v.dims[1],), np.array(v.sites, dtype=np.dtypes.StringDType()))
            elif streams is not None:
                labels["stream"] = (("stream",), np.array(list(streams), dtype=np.dtypes.StringDType()))
            clock = v.dims[2].removesuffix("_frame") if ragged else ""
            if ragged and frame_seconds and clock in frame_seconds:
                seconds = (np.arange(v.shape[1]) + 0.5) * frame_seconds[clock]
                labels[v.dims[2]] = ((v.dims[2],), seconds)
        for name, values in coordinates.items():
            labels[name] = (("item",), np.array(list(values), dtype=np.dtypes.StringDType()))
        for name, (dims, data) in labels.items():
            group.create_array(
                name, data=data, chunks=data.shape, dimension_names=dims,
                compressors=[ZstdCodec(level=1), Crc32cCodec()],
            )  # fmt: skip
        return cls(path)

    @property
    def bytes_per_item(self) -> int:
        """float32 bytes of one item over all variables."""
        return sum(v.bytes_per_item for v in self.variables)

    @property
    def dtype(self) -> str:
        """Type of the states on disk, ``"float32"`` or ``"float16"``."""
        return str(self._array(self.variables[0].name).dtype) if self.variables else "float32"

    def _check(self, variable: Variable) -> None:
        """Refuse an array that is not what this store writes: it would fail later, or be read as other numbers."""
        import zarr

        try:
            array = self._array(variable.name)
            whole = isinstance(array, zarr.Array)
            found = f"dtype {array.dtype}, shape {array.shape}" if whole else "a group"
        # Whatever a codec or a type of another program makes of its own words.
        except Exception as error:
            whole, found = False, f"{type(error).__name__}: {error}".splitlines()[0]
        shape = (self.items, *variable.shape)
        if not whole or str(array.dtype) not in _DTYPES or array.shape != shape:
            raise RunError(
                f"cannot read {variable.name!r} of {str(self.path)!r}",
                found=found,
                allowed=f"dtype {' or '.join(_DTYPES)}, shape {shape}",
                fix="record the run again",
            )

    def _array(self, name: str) -> Any:
        if name not in self._arrays:
            self._arrays[name] = self._group[name]
        return self._arrays[name]

    def _bounds(self, block: int) -> tuple[int, int]:
        return block * self.block_size, min(self.items, (block + 1) * self.block_size)

    def _shard(self, variable: Variable, block: int) -> Path:
        return self.path / variable.name / _shard_name(variable, block)

    def _is_empty(self, variable: Variable, block: int) -> bool:
        """Whether a file is there without content, as a loss of power leaves it; zarr may read that as missing."""
        if not is_local(self.path):
            return False  # an object is there whole or not at all, and asking for each costs a request
        shard = self._shard(variable, block)
        return shard.is_file() and not shard.stat().st_size

    def blocks(self) -> set[int]:
        """Return the blocks for which every variable has its file with something in it; one listing a variable."""
        found = set(range(-(-self.items // self.block_size)))
        for v in self.variables:
            names = names_in(self.path / v.name)
            found = {n for n in found if _shard_name(v, n) in names and not self._is_empty(v, n)}
        return found

    def write(self, block: int, states: Mapping[tuple[str, str], Any]) -> None:
        """Write all states of one block, whole; one writer a block.

        Parameters
        ----------
        block : int
        states : mapping from (site, reducer key)
            To an array (item, [segment,] feature), or for ``frames`` a list of (frame, feature), one row for each item
            of the block; NaN (or an empty list entry) for failed items. Nothing at all where every item failed.

        Raises
        ------
        RunError
            If a state is missing or has the wrong shape.
        """
        start, stop = self._bounds(block)
        for v in self.variables:
            rows = np.full((stop - start, *v.shape), np.nan, dtype=np.float32)
            for number, site in enumerate(v.sites or ("gate",)):
                found = states.get((site, v.reducer))
                place = rows[:, number] if v.sites else rows
                if not states:
                    continue
                if v.reducer == "frames" and found is not None and len(found) == stop - start:
                    for row, state in enumerate(found):
                        place[row, : len(state)] = state
                elif isinstance(found, np.ndarray) and found.shape == place.shape:
                    place[...] = found
                else:
                    raise RunError(
                        f"cannot write block {block} of {str(self.path)!r}",
                        found=f"{site} {v.reducer}: {'nothing' if found is None else np.shape(found)}",
                        allowed=f"shape {place.shape}",
                    )
            array = self._array(v.name)
            if array.dtype == np.float16:
                # What is infinite stays so: a clipped infinity would pass for a number.
                rows = np.where(np.isinf(rows), rows, np.clip(rows, -65504, 65504))
            array[start:stop] = rows.astype(array.dtype, copy=False)

    def keys(self) -> list[tuple[str, str]]:
        """Return every stored (site, reducer key)."""
        return list(self._where)

    def read(self, site: str, reducer: str, rows: NDArray[np.int64] | None = None) -> NDArray[Any]:
        """Return one site over all items: (item, [segment or frame,] feature); NaN where nothing was written.

        Parameters
        ----------
        site, reducer : str
        rows : array, shape (row,), int64, optional
            Only these items, in this order. Blocks that hold none of them are not touched, and never is more in memory
            than the answer and some blocks.

        Raises
        ------
        RunError
            If it is not stored, or a chunk is damaged.
        """
        if (site, reducer) not in self._where:
            allowed = sorted({s for s, _ in self._where}) if site not in {s for s, _ in self._where} else None
            raise RunError(
                f"cannot read {site!r} as {reducer!r}",
                found="no such states",
                allowed=allowed or [r for s, r in self._where if s == site],
                word=site if allowed else reducer,
            )
        variable, number = self._where[site, reducer]
        array = self._array(variable.name)
        try:
            if rows is not None:
                return self._some(variable, number, rows)
            if any(self._is_empty(variable, block) for block in range(-(-self.items // self.block_size))):
                raise OSError("an empty file")
            states: NDArray[Any] = array[:, number] if variable.sites else array[:]
        except (ValueError, OSError, RuntimeError) as error:
            raise self._damage(variable, number, error) from error
        return states

    def _some(self, variable: Variable, number: int, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Read some items, neighbouring blocks together as far as they are small."""
        array = self._array(variable.name)
        shape = variable.chunk[1:] if variable.sites else variable.shape
        out = np.empty((len(rows), *shape), dtype=array.dtype)
        together = max(1, int(_READ_BYTES / max(1, self.block_size * int(np.prod(shape)) * array.dtype.itemsize)))
        block_of = rows // self.block_size
        blocks = np.unique(block_of)
        if any(self._is_empty(variable, int(block)) for block in blocks):
            raise OSError("an empty file")
        start = 0
        while start < len(blocks):
            stop = start + 1
            while stop < len(blocks) and stop - start < together and blocks[stop] == blocks[stop - 1] + 1:
                stop += 1
            first, last = self._bounds(int(blocks[start]))[0], self._bounds(int(blocks[stop - 1]))[1]
            read = array[first:last, number] if variable.sites else array[first:last]
            here = np.flatnonzero((block_of >= blocks[start]) & (block_of <= blocks[stop - 1]))
            out[here] = read[rows[here] - first]
            start = stop
        return out

    def _damage(self, variable: Variable, number: int, error: Exception) -> RunError:
        """Find the damaged blocks and name them."""
        array, bad = self._array(variable.name), []
        for block in range(-(-self.items // self.block_size)):
            start, stop = self._bounds(block)
            try:
                if self._is_empty(variable, block):
                    raise OSError("an empty file")
                _ = array[start:stop, number] if variable.sites else array[start:stop]
            except (ValueError, OSError, RuntimeError):
                bad.append(block)
        named = ", ".join(str(b) for b in bad) or "?"
        reason = _first_line(error)
        return RunError(
            f"cannot read {variable.name!r} of {str(self.path)!r}",
            found=f"damaged data in block {named} ({reason})",
            fix=MEND,
        )

    def damage(self, block: int) -> list[tuple[str, str]]:
        """Read everything of one block against its checksums.

        Parameters
        ----------
        block : int

        Returns
        -------
        list of (str, str)
            Name of a damaged file, relative to the store, and what is wrong with it; empty where all is well.
        """
        start, stop = self._bounds(block)
        found = []
        for v in self.variables:
            array, shard = self._array(v.name), self._shard(v, block)
            try:
                if not shard.is_file():
                    raise OSError("no such file")
                if self._is_empty(v, block):
                    raise OSError("an empty file")
                # Site by site, and frames item by item: a block of them may be larger than the memory.
                step = 1 if v.reducer == "frames" else stop - start
                for first in range(start, stop, step):
                    for number in range(len(v.sites) or 1):
                        _ = array[first : first + step, number] if v.sites else array[first : first + step]
            except Exception as error:  # whatever a codec makes of broken bytes
                found.append((shard.relative_to(self.path).as_posix(), _first_line(error)))
        return found

    def damaged_labels(self) -> list[tuple[str, str]]:
        """Read the labels of items, sites and frames against their checksums; return as `damage` does."""
        found = []
        ours = {v.name for v in self.variables}
        try:
            names = sorted(str(name) for name in self._group.array_keys())
        except Exception as error:
            return [("zarr.json", _first_line(error))]
        for name in names:
            if name not in ours:
                try:
                    _ = self._group[name][:]
                except Exception as error:
                    found.append((name, _first_line(error)))
        return found

    def dataset(self) -> xr.Dataset:
        """Return everything as a lazily loaded xarray Dataset."""
        import xarray as xr

        data = xr.open_zarr(zarr_store(self.path), consolidated=False, chunks=None, zarr_format=3)
        ours = [v.name for v in self.variables]
        # Labels are short and read at once, as plain strings that every tool knows; states stay on disk.
        labels = {}
        for name in sorted(map(str, data.variables)):
            if name not in ours:
                values = data[name].values
                if values.dtype.kind not in "fOTU":
                    raise RunError(
                        f"cannot read {name!r} of {str(self.path)!r}", found=f"dtype {values.dtype}",
                        allowed="text or floats", fix="record the run again",
                    )  # fmt: skip
                plain = values if values.dtype.kind == "f" else np.array(values.tolist(), dtype=str)
                labels[name] = (data[name].dims, plain)
        labelled: xr.Dataset = data[ours].drop_vars(list(data.coords)).assign_coords(labels)
        labelled.attrs = {"block_size": self.block_size}
        return labelled


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
