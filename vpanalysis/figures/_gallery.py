"""All figures and tables in one call, and a manifest that ties every file to what it was made of.

Why it exists. A claim in a paper leans on a dozen pictures. They should come from one command, say themselves what they
were made of, and be refused one by one, with the command that helps, where Runs lack something.

The idea. Every entry is built on its own: its numbers, then its files, into a folder beside the gallery's own. Only
when all are done are the files moved, the ones that changed, and the manifest and the page written; a build that is
killed before leaves the gallery as it was. Nothing of the day or of the machine's folders is written, so two builds
from the same Runs are equal, and a file changes where a number, the code or a library did.

What cannot be drawn is listed, in the result, in the manifest and on the page. Files that an earlier build made of it
stay where they are, for they may be the only picture of Runs that lie elsewhere by now; but the manifest calls them
stale, the page shows them apart, and :func:`check_gallery` does too. Files of formats that are no longer asked for are
removed, since nothing would say that they are old.

Worked example::

    made = build_gallery("runs", "figures", jobs=2)
    made                     # what was written, what is lacking and the command that records it
    made.lacking[0].record
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpanalysis import _manifest
from vpanalysis.errors import RunError
from vpanalysis.figures import _registry
from vpanalysis.figures._entry import LackingError
from vpanalysis.figures._files import FORMATS, checked_formats, write_text
from vpanalysis.figures._one import Made, build_one
from vpanalysis.figures._readme import readme
from vpanalysis.figures._sources import Sources
from vpanalysis.figures._used import file_sha, text_sha

if TYPE_CHECKING:
    import pandas as pd

    from vpanalysis._run import Run

__all__ = ["FORMAT", "MANIFEST", "PAGE", "Gallery", "build_gallery", "read_gallery"]

FORMAT = "vpanalysis-gallery/1"
MANIFEST = "manifest.json"
PAGE = "README.md"

_STAGE = ".building-"


@dataclass(frozen=True, repr=False)
class Gallery:
    """What :func:`build_gallery` did.

    Attributes
    ----------
    out : Path
    written : tuple of Path
        Files that are new or changed, with the manifest and the page where they changed.
    unchanged : tuple of str
        Figures and tables whose files were already what they are.
    lacking : list of LackingError
        What could not be drawn: `what` is the id, `found` the reason, `record` the command that helps.
    stale : tuple of str
        Ids whose files are of an earlier build and could not be made again.
    seconds : mapping of str to float
        Per figure or table.
    """

    out: Path
    written: tuple[Path, ...]
    unchanged: tuple[str, ...]
    lacking: list[LackingError]
    stale: tuple[str, ...]
    seconds: Mapping[str, float]

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row a figure or table: id, state, files (that changed), seconds, reason, record."""
        import pandas as pd

        refused = {error.what: error for error in self.lacking}
        rows: list[list[Any]] = []
        for name, seconds in self.seconds.items():
            files = [path.name for path in self.written if path.stem == name]
            error = refused.get(name)
            state = "not drawn" if error else "unchanged" if name in self.unchanged else "written"
            reason, record = ("", "") if error is None else (error.found or "", error.record)
            rows.append([name, state, ", ".join(files), seconds, reason, record])
        return pd.DataFrame(rows, columns=["id", "state", "files", "seconds", "reason", "record"])

    @property
    def title(self) -> str:
        """What was done."""
        drawn = len(self.seconds) - len(self.lacking)
        return f"{drawn} of {len(self.seconds)} figures and tables in {self.out}"

    @property
    def note(self) -> str:
        """How many files changed, and what is old."""
        old = f"; stale files of {', '.join(self.stale)} are kept" if self.stale else ""
        return f"{len(self.written)} files written in {sum(self.seconds.values()):.1f} s{old}"

    def __repr__(self) -> str:
        from vpanalysis._html import text_table

        frame = self.to_dataframe().drop(columns=["files", "record"])
        helps = [f"{error.what}: {error.record}" for error in self.lacking]
        return "\n".join([text_table(frame, self.title, self.note, digits=1), *helps])

    def _repr_html_(self) -> str:
        from vpanalysis._html import html_table

        return html_table(self.to_dataframe(), self.title, self.note, digits=1)


def build_gallery(
    runs: Sources | Iterable[Run | str | Path] | Run | str | Path,
    out: str | Path = "figures",
    *,
    only: str | Sequence[str] | None = None,
    jobs: int = 1,
    style: str = "paper",
    formats: Iterable[str] = tuple(FORMATS),
    progress: bool = True,
) -> Gallery:
    """Build all figures and tables, a manifest and a page that shows them.

    Parameters
    ----------
    runs : Run or path, or several
        Runs with what analyses kept in them; a folder stands for the Runs in it.
    out : str or Path
        Folder, made where it is missing.
    only : str or sequence of str, optional
        Ids of :func:`list_figures`; what the manifest says of others stays.
    jobs : int
        Processes that work side by side; 1 works in this process.
    style : {"paper", "slides", "web"}
    formats : iterable of str
        Of ``"png"``, ``"pdf"`` and ``"svg"``; numbers are always written.
    progress : bool

    Returns
    -------
    Gallery
        What was written, and what the Runs lack.

    Raises
    ------
    RunError
        For an unknown id, style or format, for paths that are no Runs, and for a manifest that is none. What Runs lack
        is no error: it is listed in ``lacking``, and so is any other refusal of an analysis.
    """
    from vpanalysis._pool import Pool
    from vpanalysis.figures._drawing import STYLES

    known = _registry.entries()
    asked = list(known) if only is None else list(dict.fromkeys([only] if isinstance(only, str) else only))
    for name in asked:
        _registry.entry(name)
    if style not in STYLES:
        raise RunError("cannot draw", found=f"the style {style!r}", allowed=list(STYLES), word=style)
    chosen = checked_formats(formats)
    runs = runs if isinstance(runs, (Sources, str, Path)) or not isinstance(runs, Iterable) else list(runs)
    sources, folder = Sources.of(runs), Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    before: dict[str, Any] = read_gallery(folder) or {"entries": {}, "not_drawn": {}}
    command = _command(runs, folder, style, chosen)

    stage = _stage_in(folder)
    try:
        # Processes of their own open the Runs again; here what is read once serves all entries.
        given: Any = sources if jobs < 2 else tuple(str(run.path.resolve()) for run in sources.all.values())
        units = [
            (_registry.entries, name, given, folder, stage, style, chosen, before["entries"].get(name), command)
            for name in asked
        ]
        with Pool(jobs, progress=progress) as pool:
            made = dict(zip(asked, pool.map(build_one, units, desc="draw", unit="figure"), strict=True))
        shown = {str(p): _shown(p, folder) for run in sources.all.values() for p in (run.path.resolve(), run.path)}
        return _settled(folder, stage, before, made, list(known) if only is None else None, command, shown)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def read_gallery(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a gallery, or None where there is none; :class:`RunError` for what is no manifest."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(f"cannot read {str(path)!r}", found=str(error), fix="delete it and build again") from error
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if found != FORMAT:
        raise RunError(
            f"cannot read {str(path)!r}", found=f"format {found!r}", allowed=FORMAT, fix="name another folder"
        )
    return dict(content)


# --- the folder --------------------------------------------------------------------------------------------------


def _stage_in(folder: Path) -> Path:
    """Return a folder to build in, on the same disk; what killed builds left is removed."""
    for left in folder.glob(f"{_STAGE}*"):
        number = left.name.removeprefix(_STAGE)
        if not (number.isdigit() and _is_alive(int(number))):
            shutil.rmtree(left, ignore_errors=True)
    stage = folder / f"{_STAGE}{os.getpid()}"
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir()
    return stage


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return process != os.getpid()


def _settled(
    folder: Path,
    stage: Path,
    before: Mapping[str, Any],
    made: Mapping[str, Made],
    whole: list[str] | None,
    command: str,
    shown: Mapping[str, str],
) -> Gallery:
    """Move what was built into place, write manifest and page, and say what happened."""
    entries: dict[str, Any] = {name: dict(record) for name, record in before["entries"].items()}
    not_drawn: dict[str, Any] = dict(before["not_drawn"])
    written: list[Path] = []
    unchanged: list[str] = []
    for name, one in made.items():
        if one.refused is not None:
            reason, record = (_elsewhere(text, shown) for text in one.refused)
            not_drawn[name] = {"title": one.title, "reason": reason, "record": record}
            if name in entries:
                entries[name] |= {"state": "stale", "reason": reason}
            continue
        not_drawn.pop(name, None)
        assert one.record is not None
        moved = _moved(stage, folder, one.record["files"]) if one.staged else []
        for old in set(entries.get(name, {}).get("files", {})) - set(one.record["files"]):
            (folder / old).unlink(missing_ok=True)
        entries[name] = one.record
        written += moved
        if not moved:
            unchanged.append(name)
    if whole is not None:
        for name in set(entries) - set(whole):
            entries[name] |= {"state": "stale", "reason": "no longer in the gallery"}
        not_drawn = {name: one for name, one in not_drawn.items() if name in whole}
    order = {name: number for number, name in enumerate(_registry.entries())}
    content: dict[str, Any] = {
        "format": FORMAT,
        "command": command,
        "entries": {n: entries[n] for n in sorted(entries, key=lambda n: (order.get(n, len(order)), n))},
        "not_drawn": {n: not_drawn[n] for n in sorted(not_drawn, key=lambda n: (order.get(n, len(order)), n))},
    }
    if content != before:
        _manifest.write_json(folder / MANIFEST, content)
        written.append(folder / MANIFEST)
    page = readme(content)
    if file_sha(folder / PAGE) != text_sha(page):
        write_text(folder / PAGE, page)
        written.append(folder / PAGE)
    return Gallery(
        out=folder,
        written=tuple(written),
        unchanged=tuple(unchanged),
        lacking=[LackingError(n, found=r.refused[0], record=r.refused[1]) for n, r in made.items() if r.refused],
        stale=tuple(name for name, record in content["entries"].items() if record["state"] == "stale"),
        seconds={name: one.seconds for name, one in made.items()},
    )


def _moved(stage: Path, folder: Path, files: Mapping[str, str]) -> list[Path]:
    """Move files that differ from those in the gallery, and return them."""
    moved = []
    for name, sha in files.items():
        if file_sha(folder / name) != sha:
            (stage / name).replace(folder / name)
            moved.append(folder / name)
    return moved


def _shown(path: Path, out: Path) -> str:
    """Return how a Run is called from the folder around the gallery: its place there, or only its name."""
    around, whole = out.resolve().parent, path.resolve()
    return whole.relative_to(around).as_posix() if whole.is_relative_to(around) else whole.name


def _elsewhere(text: str, shown: Mapping[str, str]) -> str:
    """Return a text with the folders of Runs on this machine as they are called from around the gallery."""
    for path in sorted(shown, key=len, reverse=True):
        text = text.replace(path, shown[path])
    return text


def _command(runs: Any, out: Path, style: str, formats: tuple[str, ...]) -> str:
    """Return the command that builds the gallery, called in the folder around it; no path of the machine is in it."""
    if isinstance(runs, Sources):
        runs = list(runs.all.values())
    given: list[Any] = runs if isinstance(runs, list) else [runs]
    names = [_shown(Path(getattr(one, "path", one)), out) for one in given]
    words = ["vpanalysis", "figures", *names, "--out", out.resolve().name]
    words += ["--style", style] if style != "paper" else []
    words += [word for name in formats for word in ("--format", name)] if formats != tuple(FORMATS) else []
    return shlex.join(words)
