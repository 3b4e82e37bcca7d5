"""Which items of a benchmark to keep: by name with a did-you-mean, and so many, spread evenly over the tasks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from vpanalysis.errors import SchemaError, did_you_mean

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Item

__all__ = ["limited", "wanted"]


def wanted(what: str, asked: str | Iterable[str] | None, known: Iterable[str], name: str) -> set[str] | None:
    """Return the asked names as a set, or complain about the first one that does not occur."""
    if asked is None:
        return None
    names = [asked] if isinstance(asked, str) else list(asked)
    have = list(known)
    known_set = set(have)
    for word in names:
        if word not in known_set:
            # Ten tasks can be listed; two thousand ids cannot.
            allowed = have if len(have) <= 20 else f"one of {len(have)}{did_you_mean(word, have)}"
            raise SchemaError(
                f"cannot select from the benchmark {name!r}", found=f"{what} {word!r}", allowed=allowed, word=word
            )
    return set(names)


def limited(items: Sequence[Item], limit: int) -> list[Item]:
    """Keep `limit` items, one task after the other in turn; see `Benchmark.select`."""
    if limit < 0:
        raise SchemaError("cannot limit a benchmark", found=f"limit {limit}", allowed="0 or more")
    first_of_cell: dict[tuple[str, str], int] = {}
    queues: dict[str, list[tuple[int, int]]] = {}
    for i, item in enumerate(items):
        anchor = i if item.cell is None else first_of_cell.setdefault((item.task_name, item.cell), i)
        queues.setdefault(item.task_name, []).append((anchor, i))
    order = sorted(
        (rank, turn, i) for turn, queue in enumerate(queues.values()) for rank, (_, i) in enumerate(sorted(queue))
    )
    keep = {i for _, _, i in order[:limit]}
    return [item for i, item in enumerate(items) if i in keep]
