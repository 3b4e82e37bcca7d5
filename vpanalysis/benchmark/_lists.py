"""Several options in one text: how a list that somebody wrote into a cell is taken apart.

The released file, its precursor and spreadsheets write the labels of an item as a JSON list, as a Python list, or
joined by semicolons, bars or commas, while an option may hold commas itself. Options are known, so whole options are
looked for first. The text may be anything, so no way of reading takes longer than the text's length demands.

>>> as_list("['a', 'b']"), cut("a, b; c", {"a, b": "A, B", "c": "C"})
(['a', 'b'], ['A, B', 'C'])
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["as_list", "cut", "fold"]

_BETWEEN = re.compile(r"\s*(?:[;|,]+\s*|$)")
_LONGEST_LITERAL = 100_000
"""Most characters of a list written as text; the parser of Python's own notation is not made for strangers' files."""


def fold(text: str) -> str:
    """Return a text as it is compared: without case, blanks counted once."""
    return " ".join(text.split()).casefold()


def as_list(value: str) -> list[object] | None:
    """Read ``["a", "b"]``, ``['a', 'b']`` or ``"a"`` from text; None where it is something else."""
    if len(value) > _LONGEST_LITERAL:
        return None
    readers: tuple[Callable[[str], Any], ...] = (json.loads, ast.literal_eval)
    for read in readers:
        try:
            parsed = read(value.strip())
        # An unhashable key in a set is a TypeError.
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
        if isinstance(parsed, (list, tuple)):
            return list(parsed)
        if isinstance(parsed, str):
            return [parsed]
    return None


def cut(text: str, options: Mapping[str, str]) -> list[str] | None:
    """Cut folded `text` into whole options with delimiters between them, longest options first; None if impossible.

    A place from which the rest cannot be cut is remembered, so that no text takes longer than its length demands.
    """
    text = text.strip(" ;|,")
    ordered = sorted(options, key=len, reverse=True)
    found: list[str] = []
    dead: set[int] = set()
    open_places = [(0, iter(ordered))]
    while open_places:
        place, left = open_places[-1]
        if place >= len(text):
            return found
        for folded in left:
            between = _BETWEEN.match(text, place + len(folded)) if text.startswith(folded, place) else None
            if between is not None and between.end() not in dead:
                found.append(options[folded])
                open_places.append((between.end(), iter(ordered)))
                break
        else:
            dead.add(place)
            open_places.pop()
            if found:
                found.pop()
    return None
