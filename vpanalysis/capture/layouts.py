"""How the states of a Run are stacked into the variables of its store.

Why it exists. Which sites share an array, what it is called and which dims it has is decided once, before anything is
written, and read back from attributes that another program may have touched.

The idea. Sites of a group with equal width and reducer are stacked along a ``layer`` dimension; a name says its width
or clock only where a group has several. What is read back has to fit together, or is one clear error: a variable's name
is a folder of the store.

Worked example::

    layout({"encoder[0]": (Reducer.parse("mean"),)}, {"encoder[0]": 128})[0].name    # "encoder_mean"
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vpanalysis.capture.reducers import Plan, Reducer
from vpanalysis.capture.sites import clock_of, group_of
from vpanalysis.errors import RunError

__all__ = ["Variable", "layout", "layout_of"]

_NAME = re.compile(r"[\w-]+")


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


def layout_of(facts: Mapping[str, Any], path: Path) -> tuple[int, int, list[Variable]]:
    """Return items, block size and variables as a store's attributes have them."""
    try:
        items, block_size = facts["items"], facts["block_size"]
        variables = [
            Variable(str(v["name"]), str(v["reducer"]), tuple(map(str, v["sites"])), tuple(map(str, v["dims"])),
                     tuple(int(n) for n in v["shape"]))
            for v in json.loads(facts["variables"])
        ]  # fmt: skip
        # The name is a folder of the store.
        fits = all(_NAME.fullmatch(v.name) and len(v.dims) == 1 + len(v.shape) for v in variables)
        if type(items) is not int or type(block_size) is not int or items < 0 or block_size < 1 or not fits:
            raise ValueError("sizes or names that do not fit each other")
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        reason = str(error) if type(error) is ValueError else type(error).__name__
        raise RunError(
            f"cannot read {str(path)!r}", found=f"a layout that cannot be read ({reason})", fix="record the run again"
        ) from error
    return items, block_size, variables
