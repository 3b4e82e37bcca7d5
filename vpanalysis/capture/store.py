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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vpanalysis._places import is_local, names_in, zarr_store
from vpanalysis.capture.reducers import Plan, Reducer
from vpanalysis.capture.sites import clock_of, group_of
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["ActivationStore", "Variable", "layout"]

_FORMAT = 1
_UNITS = "activation (model units)"


@dataclass(frozen=True)
class Variable:
    """One array of the store.

    Parameters
    ----------
    name : str
        Such as ``encoder_segments6``.
    reducer : str
        Key of the reducer, such as ``segments6``.
    sites : tuple of str
        The sites along its layer dimension; empty for the gate, which has none.
    dims : tuple of str
        ``item`` first.
    shape : tuple of int
        Sizes of the other dims.
    """

    name: str
    reducer: str
    sites: tuple[str, ...]
    dims: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def bytes_per_item(self) -> int:
        """float32 bytes of one item."""
        return 4 * int(np.prod(self.shape))

    @property
    def chunk(self) -> tuple[int, ...]:
        """Sizes of a chunk without the item dimension: one site."""
        return (1, *self.shape[1:]) if self.sites else self.shape


def layout(plan: Plan, widths: Mapping[str, int], max_frames: Mapping[str, int] | None = None) -> list[Variable]:
    """Decide how the planned states are stacked into variables.

    Parameters
    ----------
    plan : dict of str to tuple of Reducer
    widths : mapping
        Features of each site.
    max_frames : mapping, optional
        Frames of the longest clip by clock; needed where the plan keeps ``frames``.

    Returns
    -------
    list of Variable
    """
    stacks: dict[tuple[str, int, str, str], list[str]] = {}
    reducers: dict[str, Reducer] = {}
    for site, kept in plan.items():
        if site == "options":
            continue
        for reducer in kept:
            clock = str(clock_of(site)) if reducer.kind == "frames" else ""
            stacks.setdefault((group_of(site), widths[site], reducer.key, clock), []).append(site)
            reducers[reducer.key] = reducer
    # Names stay short where nothing is ambiguous: a width or clock is named only when a group has several.
    groups = list(stacks)
    parts = {reducers[key].parts for _, _, key, _ in groups if reducers[key].parts}
    variables = []
    for group, width, key, clock in groups:
        same = [g for g in groups if g[0] == group]
        label = group + (f"_{width}" if len({g[1] for g in same}) > 1 else "")
        if group == "gate":
            variables.append(Variable("gate", key, (), ("item", "stream"), (width,)))
            continue
        sites = tuple(stacks[group, width, key, clock])
        others = {tuple(stacks[g]) for g in same if g[1] == width}
        several = len({g[3] for g in same if g[1] == width and g[2] == key}) > 1
        name = f"{label}_{key}" + (f"_{clock}" if several else "")
        layer = f"{label if len(others) == 1 else name}_layer"
        reducer = reducers[key]
        middle: tuple[tuple[str, int], ...] = ()
        if reducer.kind == "segments":
            middle = (("segment" if len(parts) == 1 else key, reducer.parts),)
        elif reducer.kind == "frames":
            middle = ((f"{clock}_frame", int((max_frames or {})[clock])),)
        dims = ("item", layer, *(d for d, _ in middle), f"{label}_feature")
        variables.append(Variable(name, key, sites, dims, (len(sites), *(n for _, n in middle), width)))
    return variables


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
            self._group = zarr.open_group(zarr_store(self.path), mode="r+")
            facts = dict(self._group.attrs)
        except (OSError, ValueError, KeyError) as error:
            raise RunError(f"cannot open {str(path)!r}", found=str(error) or "no zarr store") from error
        if facts.get("vpanalysis_format") != _FORMAT:
            raise RunError(
                f"cannot read {str(path)!r}",
                found=f"store format {facts.get('vpanalysis_format')!r}",
                allowed=str(_FORMAT),
                fix="open it with the version that wrote it, or record the run again",
            )
        self.items, self.block_size = int(facts["items"]), int(facts["block_size"])
        self.variables = [
            Variable(v["name"], v["reducer"], tuple(v["sites"]), tuple(v["dims"]), tuple(v["shape"]))
            for v in json.loads(facts["variables"])
        ]
        self._where = {
            (site, v.reducer): (v, number) for v in self.variables for number, site in enumerate(v.sites or ("gate",))
        }
        self._arrays: dict[str, Any] = {}

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
            float32 keeps what the hooks computed; float16 halves the bytes and clips to +-65504.
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
            group.create_array(name, data=data, chunks=data.shape, dimension_names=dims)
        return cls(path)

    @property
    def bytes_per_item(self) -> int:
        """float32 bytes of one item over all variables."""
        return sum(v.bytes_per_item for v in self.variables)

    def _array(self, name: str) -> Any:
        if name not in self._arrays:
            self._arrays[name] = self._group[name]
        return self._arrays[name]

    def _bounds(self, block: int) -> tuple[int, int]:
        return block * self.block_size, min(self.items, (block + 1) * self.block_size)

    def _shard(self, variable: Variable, block: int) -> Path:
        return self.path / variable.name / _shard_name(variable, block)

    def has_block(self, block: int) -> bool:
        """Return whether every variable has the file of this block."""
        return all(self._shard(v, block).is_file() for v in self.variables)

    def blocks(self) -> set[int]:
        """Return the blocks for which every variable has its file, from one listing a variable."""
        found: set[int] | None = None
        for v in self.variables:
            names = names_in(self.path / v.name)
            there = {n for n in range(-(-self.items // self.block_size)) if _shard_name(v, n) in names}
            found = there if found is None else found & there
        return found or set()

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
                rows = np.clip(rows, -65504, 65504)
            array[start:stop] = rows.astype(array.dtype, copy=False)

    def keys(self) -> list[tuple[str, str]]:
        """Return every stored (site, reducer key)."""
        return list(self._where)

    def read(self, site: str, reducer: str) -> NDArray[Any]:
        """Return one site over all items: (item, [segment or frame,] feature); NaN where nothing was written.

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
            states: NDArray[Any] = array[:, number] if variable.sites else array[:]
        except (ValueError, OSError, RuntimeError) as error:
            raise self._damage(variable, number, error) from error
        return states

    def _damage(self, variable: Variable, number: int, error: Exception) -> RunError:
        """Find the damaged blocks and name them."""
        array, bad = self._array(variable.name), []
        for block in range(-(-self.items // self.block_size)):
            start, stop = self._bounds(block)
            try:
                _ = array[start:stop, number] if variable.sites else array[start:stop]
            except (ValueError, OSError, RuntimeError):
                bad.append(block)
        named = ", ".join(str(b) for b in bad) or "?"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return RunError(
            f"cannot read {variable.name!r} of {str(self.path)!r}",
            found=f"damaged data in block {named} ({reason})",
            fix="delete the marker of this block in the folder 'blocks' and run again; only that block is redone",
        )

    def dataset(self) -> xr.Dataset:
        """Return everything as a lazily loaded xarray Dataset."""
        import xarray as xr

        data = xr.open_zarr(zarr_store(self.path), consolidated=False, chunks=None)
        ours = [v.name for v in self.variables]
        # Labels are short and read at once, as plain strings that every tool knows; states stay on disk.
        labels = {}
        for name in sorted(map(str, data.variables)):
            if name not in ours:
                values = data[name].values
                plain = values if values.dtype.kind == "f" else np.array(values.tolist(), dtype=str)
                labels[name] = (data[name].dims, plain)
        labelled: xr.Dataset = data[ours].drop_vars(list(data.coords)).assign_coords(labels)
        labelled.attrs = {"block_size": self.block_size}
        return labelled
