"""Names as trees: what two names share, which numbers they hold, and which tensors belong together.

Why it exists. Authors name modules as they like: ``sound_mid_mm_projector_5/layers.0.weight``, ``mids.5.fc1.weight``,
``mid5_fc1.weight``. What these have in common is not a word but a place: tensors of one module share the beginning of
their names, and the same module of several layers differs in a number.

The idea. A name is read as a list of tokens, runs of letters and runs of digits, the folder's first. Tensors that share
a beginning are a subtree; `subtrees_of` finds those whose tensors have exactly given shapes. `numberings` finds the
numbers in which otherwise equal places differ.

Worked example::

    tokens_of("sound_mid_mm_projector_5/layers.0")   # ("sound", "mid", "mm", "projector", 5, "layers", 0)
    numberings([("mids", 5), ("mids", 15), ("last",)])   # [{0: 5, 1: 15}]
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from vpanalysis.models.checkpoint.headers import TensorRecord

__all__ = [
    "Group",
    "Tokens",
    "components_of",
    "module_of",
    "numberings",
    "place_of",
    "shared",
    "subtrees_of",
    "tokens_of",
]

Tokens: TypeAlias = tuple[str | int, ...]
Group: TypeAlias = tuple[TensorRecord, ...]

_TOKEN = re.compile(r"\d+|[^\W\d_]+")


def tokens_of(name: str) -> Tokens:
    """Return a name's runs of letters and, as numbers, of digits.

    >>> tokens_of("mid15_fc1.weight")
    ('mid', 15, 'fc', 1, 'weight')
    """
    return tuple(int(token) if token.isdigit() else token for token in _TOKEN.findall(name))


def components_of(name: str) -> tuple[str, ...]:
    """Return what folders, dots and slashes divide a key into."""
    return tuple(name.replace("/", ".").split("."))


def module_of(record: TensorRecord) -> str:
    """Return the key of the module that a tensor is a parameter of: its own without the last component."""
    return record.key.rpartition(".")[0] or record.folder


def shared(names: Sequence[Sequence[object]]) -> int:
    """Return how many items all sequences have in common from the beginning.

    >>> shared([("a", "b", 1), ("a", "b", 2)])
    2
    """
    count = 0
    for column in zip(*names, strict=False):
        if any(item != column[0] for item in column):
            break
        count += 1
    return count


def subtrees_of(records: Sequence[TensorRecord], shapes: Iterable[tuple[int, ...]]) -> list[Group]:
    """Return the sets of tensors that share a beginning with each other alone and have exactly these shapes.

    Parameters
    ----------
    records : sequence of TensorRecord
        Where to look.
    shapes : iterable of tuple of int
        Of one set, in any order, with repetitions.

    Returns
    -------
    list of tuple of TensorRecord
        Disjoint. Those that share whole components of their names come first, then those that share tokens.
    """
    wanted = Counter(shapes)
    groups: list[Group] = []
    grouped: set[str] = set()
    for split in (components_of, tokens_of):
        below: dict[tuple[object, ...], list[TensorRecord]] = defaultdict(list)
        for record in records:
            parts = split(record.key)
            for length in range(len(parts)):
                below[parts[:length]].append(record)
        for members in below.values():
            if len(members) != wanted.total() or Counter(record.shape for record in members) != wanted:
                continue
            keys = {record.key for record in members}
            if not keys & grouped:
                grouped |= keys
                groups.append(tuple(members))
    return groups


def place_of(group: Group, others: Iterable[TensorRecord]) -> Tokens:
    """Return the tokens of the place that a group's tensors share.

    Whole components where these set the group apart from `others` already; a child's name that begins like its
    brother's then adds nothing.
    """
    parts = [components_of(record.key) for record in group]
    depth = shared(parts)
    keys = {record.key for record in group}
    beside = [r for r in others if r.key not in keys and components_of(r.key)[:depth] == parts[0][:depth]]
    if depth and not beside:
        return tokens_of(" ".join(parts[0][:depth]))
    tokens = [tokens_of(record.key) for record in group]
    return tokens[0][: shared(tokens)]


def numberings(places: Sequence[Tokens]) -> list[dict[int, int]]:
    """Return the ways in which numbers tell places apart that are otherwise equal.

    Parameters
    ----------
    places : sequence of tuple
        Tokens of each place.

    Returns
    -------
    list of dict of int to int
        Each from positions in `places` to their numbers, all different: one for every set of places that differ in
        nothing but numbers and for every number in which they do. A place alone counts with each of its numbers.
    """
    alike: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for i, place in enumerate(places):
        alike[tuple("#" if isinstance(token, int) else token for token in place)].append(i)
    found: list[dict[int, int]] = []
    for members in alike.values():
        for position, token in enumerate(places[members[0]]):
            if not isinstance(token, int):
                continue
            numbers = {i: int(places[i][position]) for i in members}
            if len(set(numbers.values())) == len(numbers) and numbers not in found:
                found.append(numbers)
    return found
