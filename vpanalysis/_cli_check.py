"""The verb about what lies on the disk: ``vpanalysis check``."""

from __future__ import annotations

from typing import Annotated

import typer

from vpanalysis import _console
from vpanalysis._cli_options import AsJson, Quiet, examples

__all__ = ["register"]

_CHECK = examples(
    "vpanalysis check runs/mini  # do all files agree with their checksums?",
    "vpanalysis check runs/mini --redo && vpanalysis run mini mini --out runs/mini",
)


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(epilog=_CHECK)(check)


def check(
    run: Annotated[str, typer.Argument(help="A Run folder, or its URL.")],
    redo: Annotated[
        bool, typer.Option("--redo", help="Let the next 'run' with the same settings make damaged blocks again.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Read a Run against its checksums, and say what is damaged.

    Exits with code 2 when a file does not agree, unless --redo has taken care of it.
    """
    import vpanalysis as vp
    from vpanalysis.errors import RunError

    found = vp.open_run(run).verify(redo=redo, progress=not quiet)
    if as_json:
        more = {"ok": found.ok, "blocks": list(found.blocks), "sentence": found.sentence}
        _console.emit(found.to_dataframe(), as_json=True, title=f"Checksums of Run {found.run}", more=more)
    else:
        print(found)
    if not found.ok and not (redo and all(d.block is not None for d in found.damage)):
        raise RunError(f"the Run {run!r} is damaged", found=found.sentence)
