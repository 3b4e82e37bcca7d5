"""What all views share: a tidy table with its settings that prints, saves and loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import pandas as pd

from vpanalysis._html import html_table, text_table
from vpanalysis.errors import RunError

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

    def save(self, path: str | Path) -> Path:
        """Write ``table.parquet`` and ``view.json`` into the folder `path` and return it."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        self.table.to_parquet(folder / "table.parquet", index=False)
        self._save_more(folder)
        record = {"kind": type(self).__name__, "version": 1, "settings": dict(self.settings)}
        # Last, so that a folder with this file is complete.
        (folder / "view.json").write_text(json.dumps(record, indent=2, default=str) + "\n", encoding="utf-8")
        return folder

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote; :class:`~vpanalysis.errors.RunError` where `path` holds something else."""
        folder = Path(path)
        missing = [name for name in ("view.json", "table.parquet") if not (folder / name).is_file()]
        asked = f"cannot load a {cls.__name__} from {str(folder)!r}"
        if missing:
            raise RunError(asked, found=f"no {', '.join(missing)}", fix=f"give a folder written by {cls.__name__}.save")
        record = json.loads((folder / "view.json").read_text(encoding="utf-8"))
        if record.get("kind") != cls.__name__:
            raise RunError(asked, found=f"a {record.get('kind')!r}")
        return cls(pd.read_parquet(folder / "table.parquet"), record["settings"], **cls._load_more(folder))

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
