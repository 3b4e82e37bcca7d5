"""Whether a finished Run is still what was written: `Run.verify`, and ``vpanalysis check``.

Why it exists. Disks and copies damage files without a word. Reading a damaged chunk is an error, but only what an
analysis happens to read is noticed, months later, when the GPU node is gone. So a Run can be asked for all of it at
once, and what is damaged can be made again without the rest.

The idea. Every chunk of states carries a CRC-32C, every index of chunks another, the labels of the store a third, and
the CRC-32 of each file of predictions stands in its block's marker. Verifying reads all of them, block by block, and
names the files that do not agree. A block is the unit of damage as it is of work: with ``redo=True`` the markers of
damaged blocks are deleted, and the next `run` finds these blocks unfinished.

What it cannot show: that the numbers were right when they were written, and damage to the markers themselves, beyond
that one which cannot be read counts as an unfinished block.

Worked example::

    found = vp.open_run("runs/mini").verify(redo=True)
    found.ok, found.blocks                   # False, (3,)
    vp.run("mini", "mini", "runs/mini")      # makes block 3 again
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

from vpanalysis import _blocks
from vpanalysis._html import html_table, text_table
from vpanalysis._predictions import read_predictions
from vpanalysis._trouble import storing
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    import pandas as pd

    from vpanalysis._run import Run

__all__ = ["Damage", "Integrity", "check"]


@dataclass(frozen=True)
class Damage:
    """One file that does not agree with its checksum.

    Parameters
    ----------
    block : int or None
        None for labels of the whole store.
    file : str
        Relative to the Run's folder.
    reason : str
        What its reader said.
    """

    block: int | None
    file: str
    reason: str


@dataclass(frozen=True)
class Integrity:
    """What a Run's checksums say.

    Parameters
    ----------
    run : str
        Name of the Run.
    checked : int
        Blocks that were read.
    unfinished : int
        Blocks that are not there yet.
    damage : tuple of Damage
        Files that do not agree with their checksums.
    redone : bool
        Whether the damaged blocks were declared unfinished.
    """

    run: str
    checked: int
    unfinished: int
    damage: tuple[Damage, ...] = ()
    redone: bool = False

    @property
    def ok(self) -> bool:
        """Whether every file agrees."""
        return not self.damage

    @property
    def blocks(self) -> tuple[int, ...]:
        """The damaged blocks."""
        return tuple(sorted({d.block for d in self.damage if d.block is not None}))

    @property
    def sentence(self) -> str:
        """What was found, in one sentence."""
        text = f"{self.checked} blocks checked"
        if self.unfinished:
            text += f", {self.unfinished} not made yet"
        if self.ok:
            return f"{text}, all agree with their checksums"
        parts = []
        if self.blocks:
            parts.append(f"damaged data in block {', '.join(map(str, self.blocks))}")
        if any(d.block is None for d in self.damage):
            parts.append("damaged labels, beside states and predictions that are read without them")
        after = "run again: only these blocks are redone" if self.redone else "redo=True lets the next run redo them"
        return f"{text}: {' and '.join(parts)}" + (f"; {after}" if self.blocks else "")

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row a damaged file: block (missing for labels), file, reason."""
        import pandas as pd

        table = pd.DataFrame([(d.block, d.file, d.reason) for d in self.damage], columns=["block", "file", "reason"])
        return table.astype({"block": "Int64"})

    def __repr__(self) -> str:
        return text_table(self.to_dataframe(), f"Checksums of Run {self.run!r}", self.sentence)

    def _repr_html_(self) -> str:
        return html_table(self.to_dataframe(), f"Checksums of Run {self.run!r}", self.sentence)


def check(run: Run, *, redo: bool = False, progress: bool = False) -> Integrity:
    """Read all blocks of a Run against their checksums; see `Run.verify`."""
    found: list[Damage] = []
    try:
        store = run._store
    except RunError as error:
        store = None
        found.append(Damage(None, "activations.zarr", error.found or str(error)))
    if store is not None:
        found += [Damage(None, f"activations.zarr/{file}", reason) for file, reason in store.damaged_labels()]
    for block in tqdm(run.finished_blocks, desc="check", unit="block", disable=not progress):
        try:
            read_predictions(run.path, [block])
        except RunError as error:
            found.append(Damage(block, f"predictions/{block:05d}.parquet", error.found or str(error)))
        if store is not None:
            found += [Damage(block, f"activations.zarr/{file}", reason) for file, reason in store.damage(block)]
    made = Integrity(run.name, len(run.finished_blocks), run.n_blocks - len(run.finished_blocks), tuple(found), redo)
    if redo and made.blocks:
        with storing(run.path, "markers"), _blocks.writing(run.path):
            for block in made.blocks:
                _blocks.forget(run.path, block)
    return made
