r"""Whether the files of a gallery still say what their Runs, code and published numbers say.

Why it exists. A picture outlives the numbers behind it: a Run is made again, a published table corrected, a module
changed, a digit in a CSV "fixed" by hand. A gallery is worth citing only as long as something can tell.

The idea. Every file is compared with the manifest, the manifest with what is there now (source, published numbers,
identity of the Runs), and the CSV with numbers made afresh, to 1e-4 relative (and 1e-9 absolute, below which a
difference is rounding).

What it cannot show: that a picture looks as it did, on other versions of the libraries that draw.

>>> differing("x\n1.00001\n", "x\n1\n") is None, differing("x\n1.001\n", "x\n1\n")
(True, 'column x, row 1: 1.001 against 1')
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpanalysis.errors import VPError
from vpanalysis.figures import _registry
from vpanalysis.figures._entry import LackingError, as_read
from vpanalysis.figures._files import FORMATS
from vpanalysis.figures._gallery import MANIFEST, PAGE, read_gallery
from vpanalysis.figures._readme import readme
from vpanalysis.figures._sources import Sources
from vpanalysis.figures._used import Watched, file_sha, published_shas, source_shas, text_sha

if TYPE_CHECKING:
    import pandas as pd

    from vpanalysis._run import Run
    from vpanalysis.figures._entry import Entry

__all__ = ["check_gallery", "differing"]

STATES = ("current", "stale", "missing", "not drawn")
_CALLED = {"weights": "weights", "benchmark": "benchmark", "prompt": "prompt", "plan": "sites and reducers"}


def check_gallery(
    runs: Sources | Iterable[Run | str | Path] | Run | str | Path, out: str | Path = "figures"
) -> pd.DataFrame:
    """Compare a gallery with what it was made of.

    Parameters
    ----------
    runs : Run or path, or several
        The Runs it should be of.
    out : str or Path
        Its folder.

    Returns
    -------
    DataFrame
        One row a file: id, file, state (``"current"``, ``"stale"``, ``"missing"``, ``"not drawn"``) and reason. What
        the Runs lack has one row with an empty file and the command that records it. The page is the row
        ``"gallery"``.

    Raises
    ------
    RunError
        For paths that are no Runs, or a manifest that is none.
    """
    import pandas as pd

    sources, folder = Sources.of(runs), Path(out)
    manifest = read_gallery(folder) or {"entries": {}, "not_drawn": {}}
    known = _registry.entries()
    rows: list[tuple[str, str, str, str]] = []
    for name in [*known, *(n for n in manifest["entries"] if n not in known)]:
        rows += _checked(name, known.get(name), manifest["entries"].get(name), sources, folder)
    rows += _page(manifest, folder)
    return pd.DataFrame(rows, columns=["id", "file", "state", "reason"])


def _checked(
    name: str, entry: Entry | None, record: Mapping[str, Any] | None, sources: Sources, folder: Path
) -> list[tuple[str, str, str, str]]:
    """Return the rows of one figure or table."""
    watched, fresh, lacks = Watched(sources), "", ""
    if entry is not None:
        try:
            fresh = as_read(entry.data(watched))[1]
        except VPError as error:
            record_it = error.record if isinstance(error, LackingError) else entry.record
            lacks = f"{error.found or error}; record it: {record_it}"
    if record is None:
        strays = _strays(name, (), folder)
        if lacks:
            return [(name, "", "not drawn", lacks), *strays]
        return [(name, f"{name}.csv", "missing", "never drawn from these Runs"), *strays]
    if entry is None:
        why = ["no longer in the gallery"]
    elif lacks:
        why = [lacks]
    else:
        why = _changes(entry, record, watched, sources, fresh, folder / f"{name}.csv")
    rows = []
    for file, sha in record["files"].items():
        found = file_sha(folder / file)
        if found is None:
            rows.append((name, file, "missing", "no such file"))
            continue
        reasons = [*(["changed since it was written"] if found != sha else []), *why]
        rows.append((name, file, "stale" if reasons else "current", "; ".join(reasons)))
    return rows + _strays(name, tuple(record["files"]), folder)


def _changes(
    entry: Entry, record: Mapping[str, Any], watched: Watched, sources: Sources, fresh: str, table: Path
) -> list[str]:
    """Return what differs between a record and now."""
    why = [f"the build that made it was refused later: {record['reason']}"] if record["state"] != "drawn" else []
    code = source_shas(entry.module)
    changed = [name for name in {**record["source"], **code} if record["source"].get(name) != code.get(name)]
    why += [f"source changed: {', '.join(changed)}"] if changed else []
    numbers = published_shas(entry.published)
    changed = [n for n in {**record["published"], **numbers} if record["published"].get(n) != numbers.get(n)]
    why += [f"published numbers changed: {', '.join(changed)}"] if changed else []
    now = watched.identities(record["runs"])
    for name, made in record["runs"].items():
        if name not in sources.all:
            why.append(f"the Run {name!r} is not among these")
            continue
        parts = [_CALLED.get(part, part) for part, sha in made.items() if now[name].get(part) != sha]
        why += [f"{' and '.join(parts)} of the Run {name!r} changed"] if parts else []
    if table.is_file():
        difference = differing(table.read_text(encoding="utf-8"), fresh)
        why += [f"numbers changed: {difference}"] if difference else []
    return why


def _strays(name: str, files: Iterable[str], folder: Path) -> list[tuple[str, str, str, str]]:
    """Return rows of files that look like a figure's and that the manifest does not know."""
    looks = [f"{name}.{ending}" for ending in ("csv", *FORMATS, "tex")]
    left = [file for file in looks if file not in set(files) and (folder / file).is_file()]
    return [(name, file, "stale", f"not in {MANIFEST}") for file in left]


def _page(manifest: Mapping[str, Any], folder: Path) -> list[tuple[str, str, str, str]]:
    """Return the row of the page, where there is a gallery."""
    if "format" not in manifest:
        return [("gallery", MANIFEST, "missing", "no gallery was built here")]
    found = file_sha(folder / PAGE)
    if found is None:
        return [("gallery", PAGE, "missing", "no such file")]
    if found != text_sha(readme(manifest)):
        return [("gallery", PAGE, "stale", f"not what {MANIFEST} says")]
    return [("gallery", PAGE, "current", "")]


def differing(old: str, new: str, *, relative: float = 1e-4) -> str | None:
    """Return where two CSV texts differ by more than rounding, or None.

    Parameters
    ----------
    old, new : str
    relative : float
        Of numbers; other cells have to be equal.
    """
    before, after = (list(csv.reader(io.StringIO(text))) for text in (old, new))
    if before[:1] != after[:1]:
        return f"columns {', '.join(before[0] if before else [])} against {', '.join(after[0] if after else [])}"
    if len(before) != len(after):
        return f"{len(before) - 1} rows against {len(after) - 1}"
    for number, (row, other) in enumerate(zip(before[1:], after[1:], strict=True), start=1):
        if len(row) != len(other):
            return f"row {number}: {len(row)} cells against {len(other)}"
        for column, a, b in zip(before[0], row, other, strict=True):
            if a != b and not _close(a, b, relative):
                return f"column {column}, row {number}: {a or 'nothing'} against {b or 'nothing'}"
    return None


def _close(a: str, b: str, relative: float) -> bool:
    try:
        return math.isclose(float(a), float(b), rel_tol=relative, abs_tol=1e-9)
    except ValueError:
        return False
