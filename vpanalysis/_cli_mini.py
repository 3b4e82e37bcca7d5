"""The verbs about VoxParadox-mini: ``vpanalysis mini export``, ``render`` and ``info``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vpanalysis import _console
from vpanalysis._cli_options import AsJson, Limit, Quiet, Split, Tasks, examples
from vpanalysis.errors import did_you_mean

if TYPE_CHECKING:
    from vpanalysis.benchmark.mini import Cell

__all__ = ["register"]

mini_app = typer.Typer(rich_markup_mode=None)


@mini_app.callback(invoke_without_command=True)
def _mini(context: typer.Context) -> None:
    """VoxParadox-mini: speech synthesized from seeds."""
    if context.invoked_subcommand is None:
        print(context.get_help())


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.add_typer(mini_app, name="mini")


@mini_app.command(
    "export",
    epilog=examples(
        "vpanalysis mini export vox-mini --limit 300",
        "vpanalysis mini export vox-age --task age_prediction --split validation",
    ),
)
def mini_export(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder, or one exported to before.")],
    tasks: Tasks = None,
    limit: Limit = None,
    split: Split = "test",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write WAV files and voxparadox.json, the form of the released data set."""
    import vpanalysis as vp
    from vpanalysis.benchmark.export import export_benchmark

    bench = vp.load_benchmark("mini", split=split, tasks=tasks, limit=limit)
    written = export_benchmark(bench, folder, progress=not quiet)
    _console.emit(bench.summary(), as_json=as_json, title=f"{len(bench)} clips in {written}", more={"path": written})


@mini_app.command(
    "render",
    epilog=examples(
        "vpanalysis mini render gender_prediction/test-0000 conflict.wav",
        "vpanalysis mini render gender_prediction/test-0000 swapped.wav --condition voice-swap",
        "vpanalysis mini render gender_prediction/test-0000 plain.wav --words none --voice Female",
    ),
)
def mini_render(
    cell: Annotated[str, typer.Argument(help="A design cell, as in the column 'cell'.")],
    file: Annotated[Path, typer.Argument(help="WAV file to write.")],
    condition: Annotated[
        str, typer.Option("--condition", "-c", help="conflict, congruent, neutral, voice-swap or plain-voice.")
    ] = "conflict",
    words: Annotated[
        str | None, typer.Option("--words", help="Label that the words claim, or 'none'; instead of a condition.")
    ] = None,
    voice: Annotated[
        str | None, typer.Option("--voice", help="Option that the voice makes true, or 'plain'; likewise.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Synthesize one rendition of a design cell."""
    import pandas as pd
    import soundfile

    from vpanalysis.benchmark import mini
    from vpanalysis.benchmark.audio import SAMPLE_RATE
    from vpanalysis.errors import SchemaError

    found = _cell(cell)
    if not file.absolute().parent.is_dir():
        raise SchemaError("cannot write the clip", found=f"no folder {str(file.parent)!r}", fix="create it first")
    if words is None and voice is None:
        item = mini.render_condition(found, condition)
    else:
        claimed = found.contradiction if words is None else None if words == "none" else words
        item = mini.render(found, words=claimed, voice=voice or found.truth)
    wave = item.audio.load()
    soundfile.write(file, wave, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    row = {
        "file": str(file), "seconds": len(wave) / SAMPLE_RATE, "condition": item.condition, "truth": item.truth,
        "said": item.said, "transcript": item.transcript,
    }  # fmt: skip
    _console.emit(pd.DataFrame([row]), as_json=as_json, title=item.id)


def _cell(name: str) -> Cell:
    """Return the design cell of this name."""
    from vpanalysis.benchmark import mini
    from vpanalysis.errors import SchemaError

    task, _, rest = name.partition("/")
    known = {cell.name: cell for cell in mini.cells(task, rest.rpartition("-")[0] or "test")}
    if name not in known:
        close = did_you_mean(name, known)
        raise SchemaError("cannot render", found=f"the cell {name!r}", allowed=f"one of {len(known)} cells{close}")
    return known[name]


@mini_app.command(
    "info",
    epilog=examples(
        "vpanalysis mini info",
        "vpanalysis mini info --split train --json",
    ),
)
def mini_info(split: Split = "test", as_json: AsJson = False) -> None:
    """Say what VoxParadox-mini holds: clips per task and condition, options, speakers, wordings."""
    import vpanalysis as vp

    bench = vp.load_benchmark("mini", split=split)
    frame = bench.to_dataframe()
    table = bench.summary()
    for column, heading in (("cell", "cells"), ("speaker", "speakers"), ("script", "wordings")):
        table[heading] = frame.groupby("task_name")[column].nunique().reindex(table.index)
    _console.emit(table, as_json=as_json, title=f"VoxParadox-mini, split {split!r}: {len(bench)} clips")
