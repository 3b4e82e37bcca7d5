"""Options that look the same and are not.

Why it exists. Two options whose letters are drawn alike, such as "Male" with a Latin and with a Cyrillic "M", or with
an invisible character between two letters, cannot both be meant: nobody who reads the table sees the difference, and a
reply could be counted for one or the other at will. Such a question is refused.

The idea. Each option is reduced to what is seen: compatible forms are made one (NFKC), characters without a picture are
dropped, letters of other scripts that are drawn like Latin ones become these, and blanks count once. Case is seen, so
"male" and "Male" may both be offered; they only warn, because a reply tells them apart by its letter alone.

>>> seen_as("Ｍale"), seen_as("\u041cale"), seen_as("Ma\u200ble"), seen_as("male")
('Male', 'Male', 'Male', 'male')

What it cannot do: know every pair of the Unicode tables. The letters below are the Cyrillic and Greek ones that fonts
draw exactly like Latin ones.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterable, Sequence

from vpanalysis.benchmark.items import Item
from vpanalysis.benchmark.parsing import text_key

__all__ = ["look_alikes", "seen_as", "warn_of_letters"]

_LATIN = str.maketrans(
    # Cyrillic, then Greek, each above what it is drawn like.
    "АВЕЅІЈКМНОРСТУХԚԜаеорсухѕіјһԁԛԝ" "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧο",
    "ABESIJKMHOPCTYXQWaeopcyxsijhdqw" "ABEZHIKMNOPTYXo",
)  # fmt: skip


def seen_as(text: str) -> str:
    """Return what a reader sees of a text."""
    shown = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) not in ("Cf", "Cc", "Mn"))
    return " ".join(unicodedata.normalize("NFKC", shown).translate(_LATIN).split())


def look_alikes(choices: Sequence[str]) -> tuple[str, str] | None:
    """Return the first two options that look the same, or None."""
    seen: dict[str, str] = {}
    for choice in choices:
        other = seen.setdefault(seen_as(choice), choice)
        if other is not choice:
            return other, choice
    return None


def warn_of_letters(items: Iterable[Item]) -> None:
    """Warn the caller's caller of questions whose options differ in case or punctuation alone."""
    doubtful = [item for item in items if len({text_key(choice) for choice in item.choices}) < len(item.choices)]
    if doubtful:
        warnings.warn(
            f"{len(doubtful)} questions, such as {doubtful[0].id!r}, offer options that differ in case or punctuation "
            f"alone ({', '.join(map(ascii, doubtful[0].choices))}): a reply tells them apart by its letter only",
            stacklevel=3,
        )
