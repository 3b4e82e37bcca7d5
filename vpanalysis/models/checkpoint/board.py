"""The table on which a checkpoint is laid out: which tensors are still free, which have found their place, and why.

Why it exists. Finding the parts of a checkpoint is a sequence of claims, each on what the earlier ones left. Every
claim has to leave three traces: what it took, on what evidence, and what it had to assume.

The idea. A `Board` holds them. `claim` moves a tensor from the free ones to its place in the model's state dictionary;
`problems` collects sentences, so that all that is wrong is said at once; what is still free at the end is surplus.

Worked example::

    board = Board(inventory.tensors)
    board.claim(record, "lm_head.weight", "head", "named so")
    board.assume("gate_order", "ascending_final_last", ("ascending_final_last", "final_first"), "no file says it")
    board.free        # the rest
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vpanalysis.models.checkpoint.headers import TensorRecord

__all__ = ["Assumption", "Board", "Claim", "Finding"]

CALIBRATE = "vpanalysis calibrate"


@dataclass(frozen=True)
class Claim:
    """A tensor and its place.

    Parameters
    ----------
    record : TensorRecord
        The tensor.
    target : str or None
        Its name in the model's state dictionary; None where the model has no use for it.
    role : str
        The part it belongs to, in words.
    evidence : str
        What the place was inferred from.
    """

    record: TensorRecord
    target: str | None
    role: str
    evidence: str


@dataclass(frozen=True)
class Finding:
    """Something that no file states and the tensors show.

    Parameters
    ----------
    subject : str
        A config field, or a part.
    value : str
        What was found.
    evidence : str
        What it was inferred from.
    """

    subject: str
    value: str
    evidence: str


@dataclass(frozen=True)
class Assumption:
    """Something that neither a file nor a tensor shows.

    Parameters
    ----------
    subject : str
        A config field, or a part.
    value : str
        What is used.
    candidates : tuple of str
        What else it could be.
    why : str
        Why it is not known, or why this value was taken.
    settle : str
        How to find out.
    """

    subject: str
    value: str
    candidates: tuple[str, ...]
    why: str
    settle: str = f"settle with '{CALIBRATE}'"


class Board:
    """Free tensors, claimed ones, and what was found, assumed and wrong.

    Parameters
    ----------
    records : iterable of TensorRecord
        All tensors of the checkpoint.
    """

    def __init__(self, records: Iterable[TensorRecord]) -> None:
        self._free = {record.key: record for record in records}
        self.claims: list[Claim] = []
        self.findings: list[Finding] = []
        self.assumptions: list[Assumption] = []
        self.problems: list[str] = []

    @property
    def free(self) -> list[TensorRecord]:
        """The tensors that have no place yet, in their order on disk."""
        return list(self._free.values())

    def claim(self, record: TensorRecord, target: str | None, role: str, evidence: str) -> None:
        """Give a tensor its place. A tensor may have several, when the model's own parameters are tied."""
        self._free.pop(record.key, None)
        self.claims.append(Claim(record, target, role, evidence))

    def find(self, subject: str, value: Any, evidence: str) -> None:
        """Note what the tensors showed."""
        self.findings.append(Finding(subject, str(value), evidence))

    def assume(self, subject: str, value: Any, candidates: Sequence[Any], why: str, settle: str | None = None) -> None:
        """Note what nothing showed."""
        options = tuple(str(candidate) for candidate in candidates)
        if settle is None:
            self.assumptions.append(Assumption(subject, str(value), options, why))
        else:
            self.assumptions.append(Assumption(subject, str(value), options, why, settle))
