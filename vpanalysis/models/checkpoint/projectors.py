"""The projectors: as many sets of the same linear layers as there are streams, told apart by the layer's number.

Why it exists. Every exposed layer has a projector of the same form as the final one. The model card names their folders
after the layers; a release in one folder may number them 0 to 3, or hang them under a word of its own.

The idea. A projector is a set of tensors that share a place and have exactly a projector's shapes, which the base's
configuration gives: two layers in Audio Flamingo 3, one in Qwen2-Audio. Places that are equal but for a number belong
to the exposed layers, by that number; the one without is the final stream's. Numbers that only count (0 to 3, or 1 to
4) are taken in ascending order, which is an assumption and is noted as one.

Worked example::

    found = find_projectors(board, [(3584, 1280), (3584, 3584)], bias=True)
    claim_streams(board, found, [5, 15, 25, 30], base)      # the exposed layers, in the order of the streams
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vpanalysis.models.checkpoint.bases import Base
from vpanalysis.models.checkpoint.board import Board
from vpanalysis.models.checkpoint.headers import TensorRecord, listed
from vpanalysis.models.checkpoint.names import (
    Group,
    Tokens,
    module_of,
    numberings,
    place_of,
    shared,
    subtrees_of,
    tokens_of,
)

__all__ = ["Projector", "claim_streams", "find_projectors"]

Shape = tuple[int, ...]

COUNTED = "layers of the projectors"
"""What is assumed where the projectors of the exposed layers are only counted."""


@dataclass(frozen=True)
class Projector:
    """One set of tensors with a projector's shapes.

    Parameters
    ----------
    group : tuple of TensorRecord
        All of its tensors.
    place : tuple
        Tokens of the place that they share.
    layers : tuple of dict of str to TensorRecord
        ``weight`` and ``bias`` of each linear layer, in the order in which they are applied; empty where that cannot
        be told.
    by_number : bool
        Whether the order rests on numbers in names, because the shapes are equal.
    """

    group: Group
    place: Tokens
    layers: tuple[dict[str, TensorRecord], ...]
    by_number: bool

    @property
    def where(self) -> str:
        """What its keys begin with, up to a whole component."""
        keys = [record.key.replace("/", "/\n").replace(".", ".\n").split("\n") for record in self.group]
        depth = next((i for i, column in enumerate(zip(*keys, strict=False)) if len(set(column)) > 1), 0)
        return "".join(keys[0][:depth]) or listed(record.key for record in self.group)


def find_projectors(board: Board, base: Base, weights: Sequence[Shape], bias: bool) -> list[Projector]:
    """Return the sets of free tensors that have exactly a projector's shapes.

    Parameters
    ----------
    board : Board
        Its free tensors.
    base : Base
        Whose names of a projector's layers are known.
    weights : sequence of (int, int)
        Shapes of a projector's weights, in the order in which they are applied.
    bias : bool
        Whether each has a bias.
    """
    shapes = [*weights, *([(weight[0],) for weight in weights] if bias else [])]
    groups = subtrees_of(board.free, shapes)
    return [_projector(group, board.free, base, weights) for group in groups]


def _projector(group: Group, others: Sequence[TensorRecord], base: Base, weights: Sequence[Shape]) -> Projector:
    modules: dict[str, dict[str, TensorRecord]] = {}
    for record in group:
        modules.setdefault(module_of(record), {})["weight" if len(record.shape) == 2 else "bias"] = record
    layers = [module for module in modules.values() if "weight" in module]
    whole = len(layers) == len(weights) and sum(map(len, layers)) == len(group)
    place = place_of(group, others)
    if not whole:
        return Projector(group, place, (), False)
    by_number = False
    if len(set(weights)) == len(weights):
        layers.sort(key=lambda layer: list(weights).index(layer["weight"].shape))
    elif (known := _known(layers, base)) is not None:
        layers = known
    else:
        by_number = True
        keys = [tokens_of(module_of(layer["weight"])) for layer in layers]
        ways = [way for way in numberings(keys) if len(way) == len(layers)]
        if len(ways) != 1:
            return Projector(group, place, (), True)
        layers = [layers[i] for i in sorted(ways[0], key=lambda i: ways[0][i])]
    return Projector(group, place, tuple(layers), by_number)


def _known(layers: Sequence[dict[str, TensorRecord]], base: Base) -> list[dict[str, TensorRecord]] | None:
    """Return layers in order where they have the names that the base's own or the released code gives them."""
    for names in (base.linears, base.split):
        by_name = {
            name: layer for layer in layers for name in names
            if f"/{module_of(layer['weight'])}".replace("/", ".").endswith(f".{name}")
        }  # fmt: skip
        if len(by_name) == len(layers):
            return [by_name[name] for name in names]
    return None


def claim_streams(
    board: Board, found: Sequence[Projector], exposed: Sequence[int] | None, base: Base, weights: Sequence[Shape]
) -> list[int] | None:
    """Give every projector its stream and claim its tensors.

    Parameters
    ----------
    board : Board
        Where evidence, assumptions and problems are noted.
    found : sequence of Projector
        All that have a projector's form.
    exposed : sequence of int or None
        The exposed layers, ascending; empty without a mixer, None where no file states them.
    base : Base
        Where projectors go.
    weights : sequence of (int, int)
        Shapes of a projector's weights, for what is said of a broken one.

    Returns
    -------
    list of int or None
        The exposed layers; None when the projectors could not be told apart.
    """
    layers = _layers(board, found, exposed)
    if layers is None:
        return None
    stated = sorted(layers) if exposed is None else list(exposed)
    final = [i for i in range(len(found)) if i not in layers.values()]
    lacking = [
        f"layer {layer} (sound_mid_mm_projector_{layer} in the release)" for layer in stated if layer not in layers
    ]
    lacking += [] if final else ["the final stream (sound_mm_projector)"]
    if lacking:
        board.problems.append(f"no projector of {listed(lacking)} was found" + _broken(board, found, weights))
    if len(final) > 1:
        where = listed(found[i].where for i in final)
        hint = "" if stated else ", and config.json states no mixer (use_sound_pclm, expose_layers)"
        board.problems.append(f"{len(final)} projectors could be the final stream's: {where}{hint}")
    counted = any(assumption.subject == COUNTED for assumption in board.assumptions)
    for stream, layer in enumerate(stated):
        if layer in layers:
            why = "their order" if counted else f"the number {layer}"
            _claim(board, found[layers[layer]], base, base.mid_projector(stream), f"projector of layer {layer}", why)
    for i in final[:1]:
        _claim(board, found[i], base, base.projector, "projector", "no number of a layer" if stated else None)
    return stated


def _claim(board: Board, projector: Projector, base: Base, target: str, role: str, why: str | None) -> None:
    if not projector.layers:
        board.problems.append(
            f"the order of the layers in the {role} cannot be told by shape, nor by a number in their names:"
            f" {listed(record.key for record in projector.group)}; name them with 'rename',"
            f" as {listed(base.split)}"
        )
        for record in projector.group:
            board.claim(record, None, role, "its shape")
        return
    evidence = "a projector's shapes" + (f", {why}" if why else "")
    if projector.by_number:
        _assume_order(board, role)
    for name, layer in zip(base.linears, projector.layers, strict=True):
        for leaf, record in layer.items():
            board.claim(record, f"{target}{name}.{leaf}", role, evidence)


def _assume_order(board: Board, role: str) -> None:
    subject = "order of the layers in a projector"
    if all(assumption.subject != subject for assumption in board.assumptions):
        board.assume(
            subject, "ascending numbers", (), f"both layers of the {role} have the same shape", "say it with 'rename'"
        )


def _layers(board: Board, found: Sequence[Projector], exposed: Sequence[int] | None) -> dict[int, int] | None:
    """Return, by exposed layer, which of the projectors is its own; None with a problem when that cannot be told."""
    if exposed is not None and not exposed:
        return {}
    places = [projector.place for projector in found]
    # What stands before all of them tells none apart, whatever numbers are in it.
    common = shared(places) if len(places) > 1 else 0
    places = [place[common:] for place in places]
    ways = numberings(places)
    if exposed is None:
        return _unstated(board, found, ways)
    wanted = set(exposed)
    stated = [
        {number: i for i, number in way.items() if number in wanted} for way in ways
        if wanted <= set(way.values()) and len(way) <= len(wanted) + 1
    ]  # fmt: skip
    counted = [way for way in ways if len(found) == len(wanted) + 1 and _counts(way, len(wanted))]
    ascending = [_in_order(way, wanted) for way in counted]
    # Numbers of layers, unless all of them are numbered, as if counted: of 0, 1, 2, 3 for the layers 1, 2, 3 the final
    # stream's could be the first, by number, or the last, by order.
    whole = [_in_order(way, wanted) for way in counted if len(way) == len(found)]
    if stated and all(way == stated[0] for way in [*stated, *whole]):
        return stated[0]
    if not stated and ascending and all(way == ascending[0] for way in ascending):
        numbers = sorted(counted[0].values())
        board.assume(
            COUNTED, f"{numbers} are {sorted(wanted)}", (),
            "they are counted, not named after their layers; ascending order is the natural reading",
            "say it with 'rename', such as {'...projectors.0.': 'sound_mid_mm_projector_5/'}",
        )  # fmt: skip
        return ascending[0]
    if not stated and (forced := _forced(places, wanted)):
        return forced
    if len(found) <= len(wanted) and not stated:
        # Some are broken or missing: those that can be told are, so that the others can be named.
        partial = [{n: i for i, n in way.items() if n in wanted} for way in ways]
        return max(partial, key=len, default={})
    where = listed((projector.where for projector in found), 8)
    board.problems.append(
        f"{len(found)} projectors were found and {len(wanted) + 1} streams are stated (layers {sorted(wanted)} and the"
        f" final one), and which is which cannot be told: {where}; say it with 'rename'"
    )
    return None


def _counts(way: dict[int, int], exposed: int) -> bool:
    """Return whether numbers only count: as many as there are exposed layers, or one more, for the final stream."""
    numbers = sorted(way.values())
    return len(numbers) in (exposed, exposed + 1) and numbers in (
        list(range(len(numbers))),
        list(range(1, len(numbers) + 1)),
    )


def _in_order(way: dict[int, int], wanted: set[int]) -> dict[int, int]:
    """Return places by layer, both ascending; one more place than layers is the final stream's."""
    return dict(zip(sorted(wanted), sorted(way, key=way.__getitem__), strict=False))


def _forced(places: Sequence[Tokens], wanted: set[int]) -> dict[int, int] | None:
    """Return which place each number stands in, where only one way is possible."""
    able = {n: {i for i, place in enumerate(places) if n in place} for n in wanted}
    told: dict[int, int] = {}
    while len(told) < len(wanted):
        free = {n: able[n] - set(told.values()) for n in wanted if n not in told}
        sure = next((n for n, rest in free.items() if len(rest) == 1), None)
        if sure is None:
            return None
        told[sure] = free[sure].pop()
    return told


def _unstated(board: Board, found: Sequence[Projector], ways: Sequence[dict[int, int]]) -> dict[int, int] | None:
    """Return the layers that the names themselves number, where no file states `expose_layers`."""
    named = [
        {number: i for i, number in way.items()} for way in ways
        if len(way) == len(found) - 1 and not _counts(way, len(way))
    ]  # fmt: skip
    if named and all(way == named[0] for way in named):
        layers = sorted(named[0])
        board.assume(
            "expose_layers", layers, (), "no file states it; these are the numbers in the names of the projectors",
            "set it with pclm={'expose_layers': [...]}",
        )  # fmt: skip
        return named[0]
    board.problems.append(
        f"no file states 'expose_layers', and the names of the {len(found)} projectors do not show it:"
        f" {listed((projector.where for projector in found), 8)}; set it with pclm={{'expose_layers': [...]}}"
    )
    return None


def _broken(board: Board, found: Sequence[Projector], weights: Sequence[Shape]) -> str:
    """Return what to say of free tensors that look like the rest of a projector."""
    used = {record.key for projector in found for record in projector.group}
    inner = {tuple(sorted(_inner(record, projector) for record in projector.group)) for projector in found}
    left = [record for record in board.free if record.key not in used and "projector" in record.key.lower()]
    left = left or [r for r in board.free if r.key not in used and r.shape in weights]
    if not left:
        return ""
    said = f"; left over: {listed(f'{record.key} {list(record.shape)}' for record in left)}"
    if len(inner) == 1:
        (names,) = inner
        folder = left[0].key[: len(left[0].key) - len(_tail(left[0].key, names))]
        missing = [folder + name for name in names if all(record.key != folder + name for record in left)]
        if missing and len(missing) < len(names):
            said += f"; missing: {listed(missing)}"
    return said + f"; a projector has weights of the shapes {listed(str(list(weight)) for weight in weights)}"


def _inner(record: TensorRecord, projector: Projector) -> str:
    return record.key.removeprefix(projector.where)


def _tail(key: str, names: Sequence[str]) -> str:
    return next((name for name in names if key.endswith(name)), key)
