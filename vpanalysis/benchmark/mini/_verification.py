"""The verdict on a comparison with the fingerprints: exact, within tolerance, or different, clip by clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vpanalysis._html import html_table, text_table
from vpanalysis.benchmark.items import TASKS

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COMMAND", "DIFFERENT", "EXACT", "NEAR", "TOLERANCE_DB", "TOLERANCE_S", "Verification"]

COMMAND = "python -m vpanalysis.benchmark.mini.fingerprints"
"""What writes the committed files anew."""

TOLERANCE_DB = 1.5
"""Largest distance of two coarse spectra, in dB, at which two clips count as the same."""

TOLERANCE_S = 0.08
"""Largest difference of two durations, in seconds, at which two clips count as the same: one audio token."""

EXACT, NEAR, DIFFERENT = "exact", "within tolerance", "different"


@dataclass(frozen=True)
class Verification:
    """What a comparison with the committed fingerprints found; prints as a table with a verdict.

    Attributes
    ----------
    clips : DataFrame
        A row a clip: id, task_name, verdict ("exact", "within tolerance" or "different"), distance_db (of the coarse
        spectra), shift_s (duration here minus there).
    promised : bool
        Whether exact samples are promised here: the same version of the same synthesizer, on the same kind of system.
    made_with, here : str
        Synthesizer and system of the fingerprints, and of this machine.
    changed : tuple of str
        Tasks whose questions or recipes are no longer those that were fingerprinted.
    broken : tuple of str
        Tasks whose clips were all compared and whose full SHA-256 differs although every short digest agrees.
    """

    clips: pd.DataFrame
    promised: bool
    made_with: str
    here: str
    changed: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """The worst verdict of any clip: "exact", "within tolerance" or "different"."""
        met = set(self.clips["verdict"])
        if DIFFERENT in met or self.broken:
            return DIFFERENT
        return NEAR if NEAR in met else EXACT

    @property
    def ok(self) -> bool:
        """Whether the clips are what they should be here: exact where promised, else within tolerance."""
        return not self.changed and self.verdict in ((EXACT,) if self.promised else (EXACT, NEAR))

    def to_dataframe(self) -> pd.DataFrame:
        """Return a row a task: clips compared, how many had each verdict, the largest distance (dB) and shift (s)."""
        import pandas as pd

        rows = []
        for task in [t for t in TASKS if t in set(self.clips["task_name"])]:
            here = self.clips[self.clips["task_name"] == task]
            counts = {name: int((here["verdict"] == name).sum()) for name in (EXACT, NEAR, DIFFERENT)}
            worst = {"distance_db": here["distance_db"].max(), "shift_s": here["shift_s"].abs().max()}
            rows.append({"task": task, "clips": len(here), **counts, **worst})
        return pd.DataFrame(rows, columns=["task", "clips", EXACT, NEAR, DIFFERENT, "distance_db", "shift_s"])

    def _title(self) -> str:
        return f"VoxParadox-mini spoken here: {self.verdict} ({len(self.clips)} clips compared)"

    def _note(self) -> str:
        lines = [f"fingerprints made with {self.made_with}; here {self.here}"]
        if self.promised:
            lines.append("equal samples are promised here")
        else:
            same = f"at most {TOLERANCE_DB:g} dB and {TOLERANCE_S:g} s apart count as the same"
            lines.append(f"equal samples are not promised here; clips {same}")
        if self.changed:
            lines.append(f"questions or recipes changed since: {', '.join(self.changed)}")
        if self.broken:
            lines.append(f"the digest of the whole task differs: {', '.join(self.broken)}")
        if not self.ok:
            lines.append(f"after a change on purpose, write the fingerprints anew: {COMMAND}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return text_table(self.to_dataframe(), self._title()) + "\n" + self._note()

    def _repr_html_(self) -> str:
        return html_table(self.to_dataframe(), self._title(), self._note())
