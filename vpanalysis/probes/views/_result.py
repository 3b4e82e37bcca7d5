"""What all views share: a tidy table with its settings that prints, saves and loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import pandas as pd

from vpanalysis._html import html_table, text_table
from vpanalysis._saved import home_of, load_tables, save_tables

__all__ = ["ViewResult"]


@dataclass(frozen=True, repr=False, eq=False)
class ViewResult:
    """A tidy table and how it was made.

    Attributes
    ----------
    table : DataFrame
    settings : mapping
        Runs with their manifest hashes, reducer, items, seed and level.
    """

    table: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)

    _NOTE: ClassVar[str] = ""

    @property
    def sites(self) -> list[str]:
        """Sites in order."""
        return list(dict.fromkeys(self.table["site"]))

    def to_dataframe(self) -> pd.DataFrame:
        """Return a copy of :attr:`table`."""
        return self.table.copy()

    def save(self, path: str | Path | None = None) -> Path:
        """Write ``table.parquet`` and ``view.json`` into a folder and return it.

        Parameters
        ----------
        path : str or Path, optional
            Default: ``results/<view>-<hash>`` of the Run, the first of two.

        Raises
        ------
        RunError
            Without `path`, for arrays and other things that are no Run on the disk, and for a Run that has changed.
        """
        kind = type(self).__name__
        folder = Path(home_of(self.settings, kind.lower()) if path is None else path)
        folder.mkdir(parents=True, exist_ok=True)
        self._save_more(folder)
        return save_tables(folder, kind, {"table": self.table}, self.settings, record="view.json")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote; :class:`~vpanalysis.errors.RunError` where `path` holds something else."""
        tables, settings = load_tables(path, cls.__name__, ("table",), record="view.json")
        return cls(tables["table"], settings, **cls._load_more(Path(path)))

    def _save_more(self, folder: Path) -> None:
        """Write what is not in the table."""

    @classmethod
    def _load_more(cls, folder: Path) -> dict[str, Any]:
        return {}

    def _title(self) -> str:
        made = self.settings
        of = " and ".join(str(made[key]) for key in ("run", "other") if made.get(key)) or "arrays"
        return f"{type(self).__name__} of {of}: {made.get('items', '?')} items, {len(self.sites)} sites"

    def _summary(self) -> pd.DataFrame:
        return self.table

    def __repr__(self) -> str:
        return text_table(self._summary(), self._title(), self._NOTE or None, max_rows=60)

    def _repr_html_(self) -> str:
        return html_table(self._summary(), self._title(), self._NOTE or None, max_rows=60)
