"""Which token stands for an option letter.

After the prefix ``(`` a model writes the letter. In most vocabularies that is one token; where it is not, several
spellings (with a leading space, say) may each be one, and their probabilities are added and reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vpanalysis.errors import ModelError

__all__ = ["LetterEntry", "LetterTable", "letter_table"]


@dataclass(frozen=True)
class LetterEntry:
    """The tokens of one letter, and how they were found."""

    tokens: tuple[int, ...]
    report: str


LetterTable = dict[str, LetterEntry]


def letter_table(tokenizer: Any, letters: Sequence[str]) -> LetterTable:
    """Return the tokens of each letter.

    Raises
    ------
    ModelError
        If a letter has no token, or two letters share one.
    """
    table: LetterTable = {}
    spellings: dict[str, list[int]] | None = None
    for letter in letters:
        ids = tokenizer(letter, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            table[letter] = LetterEntry((int(ids[0]),), "one token")
            continue
        if spellings is None:
            spellings = _spellings(tokenizer)
        found = spellings.get(letter, [])
        if not found:
            raise ModelError(
                "cannot score the options by their letters",
                found=f"no token of the tokenizer stands for {letter!r}",
                fix="use the generated answer or the option texts instead",
            )
        table[letter] = LetterEntry(tuple(found), f"{len(found)} spellings summed")
    owners: dict[int, str] = {}
    for letter, entry in table.items():
        for token in entry.tokens:
            if token in owners:
                raise ModelError(
                    "cannot score the options by their letters",
                    found=f"{owners[token]!r} and {letter!r} share the token {token}",
                )
            owners[token] = letter
    return table


def _spellings(tokenizer: Any) -> dict[str, list[int]]:
    special = set(tokenizer.all_special_ids)
    spellings: dict[str, list[int]] = {}
    for token in range(len(tokenizer)):
        if token not in special:
            spellings.setdefault(tokenizer.decode([token]).strip(), []).append(token)
    return spellings
