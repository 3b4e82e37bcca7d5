"""The verb ``vpanalysis figures``: the gallery of the paper's claims, from Runs, in one command.

Why it exists. Whoever doubts a picture should be able to make it again with one line, and to learn with another whether
the one at hand is still what its numbers say.

The idea. The exit code says how it went: 0 when everything was drawn, or is current under ``--check``; 2 for bad
input; 3 when something was refused, with a line per figure on standard error that ends in the command that records what
it needs; 4 when ``--check`` finds files that are stale or missing. What Runs lack is no reason for 4: nothing was
claimed.

Worked example::

    vpanalysis figures runs --out figures --jobs 2
    vpanalysis figures runs --out figures --check || echo "build it again"
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vpanalysis import _console
from vpanalysis._cli_options import AsJson, Quiet, examples

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["REFUSED", "STALE", "register"]

REFUSED, STALE = 3, 4
"""Exit codes: something could not be drawn; files are not what they should be."""


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(
        epilog=examples(
            "vpanalysis figures  # from ./runs into ./figures",
            "vpanalysis figures runs --only leaderboard --format pdf --out paper",
            "vpanalysis figures runs --check",
            "vpanalysis figures --list",
        )
    )(figures)


def figures(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Run folders, or folders of Runs. Default: ./runs where it is.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the gallery.")] = Path("figures"),
    only: Annotated[list[str] | None, typer.Option("--only", help="Draw this one only; may be repeated.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Processes that work side by side.")] = 1,
    check: Annotated[bool, typer.Option("--check", help="Draw nothing; tell what is stale.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Tell what can be drawn.")] = False,
    style: Annotated[str, typer.Option("--style", help="paper, slides or web.")] = "paper",
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="png, pdf or svg; may be repeated. Default: all three.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Draw the paper's figures and tables again, from Runs, beside the published numbers.

    Writes each as CSV, PNG, PDF and SVG (tables as LaTeX too) with a manifest and a page. Exits with 3 when Runs lack
    something, and names the command that records it; with 4 when --check finds stale or missing files.
    """
    if list_:
        _list(as_json)
    elif check:
        _check(_runs(runs), out, only, as_json)
    else:
        _build(_runs(runs), out, only, jobs, style, formats, as_json, quiet)


def _runs(given: list[Path] | None) -> list[Path]:
    """Return what was named, or the folder that `reproduce` writes, or nothing: published tables need no Run."""
    usual = Path("runs")
    return list(given) if given else [usual] if usual.is_dir() else []


def _list(as_json: bool) -> None:
    from vpanalysis.figures import list_figures

    frame = list_figures()
    shown = frame if as_json else frame[["id", "kind", "title", "paper"]]
    _console.emit(shown, as_json=as_json, title=f"{len(frame)} figures and tables")


def _build(
    runs: list[Path],
    out: Path,
    only: list[str] | None,
    jobs: int,
    style: str,
    formats: list[str] | None,
    as_json: bool,
    quiet: bool,
) -> None:
    from vpanalysis.figures import build_gallery

    asked: dict[str, Any] = {} if not formats else {"formats": _split(formats)}
    made = build_gallery(
        runs, out, only=_split(only) if only else None, jobs=jobs, style=style, progress=not quiet, **asked
    )
    frame = made.to_dataframe()
    more = {"out": str(out), "written": [path.name for path in made.written], "stale": list(made.stale)}
    shown = frame if as_json else frame.loc[frame["state"] != "not drawn", ["id", "state", "seconds"]]
    _console.emit(shown, as_json=as_json, title=made.title, note=made.note, more=more, digits=1)
    for error in made.lacking:
        _console.remark(f"not drawn: {error.what}: {_line(error.found)}; record it: {error.record}")
    if made.lacking:
        raise typer.Exit(REFUSED)


def _check(runs: list[Path], out: Path, only: list[str] | None, as_json: bool) -> None:
    from vpanalysis.figures import check_gallery
    from vpanalysis.figures._registry import entry

    frame: pd.DataFrame = check_gallery(runs, out)
    if only:
        wanted = [entry(name).id for name in _split(only)]
        frame = frame[frame["id"].isin(wanted)]
    counts = frame["state"].value_counts()
    said = ", ".join(f"{counts[state]} {state}" for state in ("current", "stale", "missing", "not drawn")
                     if state in counts)  # fmt: skip
    shown = frame if as_json else frame[frame["state"] != "current"]
    _console.emit(shown, as_json=as_json, title=f"Gallery in {out}: {said}", more={"counts": counts.to_dict()})
    if frame["state"].isin(["stale", "missing"]).any():
        _console.remark("some files are not what Runs, code and published numbers say; build them again")
        raise typer.Exit(STALE)


def _split(words: list[str]) -> list[str]:
    return [name for group in words for name in group.split(",") if name]


def _line(text: str | None) -> str:
    """Return a text on one line, without what could move the cursor."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join((text or "").split()))
