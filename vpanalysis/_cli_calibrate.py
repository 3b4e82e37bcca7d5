"""The verb ``vpanalysis calibrate``: how is this checkpoint to be read?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vpanalysis import _console
from vpanalysis._cli_options import AllowOutside

__all__ = ["register"]

_EXAMPLES = (
    "\b\nExamples:\n"
    "  vpanalysis calibrate ./AF3_PCLM_DPO IHP-Lab/VoxParadox --limit 400 --device-map auto\n"
    "  vpanalysis calibrate ./AF3_PCLM_DPO voxparadox.json --convention gate_text --plot gate.png\n"
    "  vpanalysis calibrate mini-pclm-dpo mini --limit 200 --json"
)


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(epilog=_EXAMPLES)(calibrate)


def calibrate(
    source: Annotated[str, typer.Argument(help="A checkpoint folder, a Hub id or a bundled name.")],
    benchmark: Annotated[str, typer.Argument(help="'mini', a file, a folder or a Hub data set id.")],
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many items, spread over tasks.")] = 200,
    conventions: Annotated[
        list[str] | None, typer.Option("--convention", help="Vary this one only; may be repeated. Default: all.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="JSON file to write instead of the one that load_model finds.")
    ] = None,
    save: Annotated[bool, typer.Option("--save/--no-save", help="Keep the result for load_model.")] = True,
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw the comparisons (png, pdf, svg).")] = None,
    tasks: Annotated[list[str] | None, typer.Option("--task", "-t", help="Keep this task only; may be repeated.")] = (
        None
    ),
    split: Annotated[str, typer.Option("--split", help="Split of a source that has several.")] = "test",
    audio_root: Annotated[
        Path | None, typer.Option("--audio-root", help="Folder that paths of clips are relative to.")
    ] = None,
    allow_outside: AllowOutside = False,
    revision: Annotated[str | None, typer.Option("--revision", help="Revision of a model on the Hub.")] = None,
    data_revision: Annotated[str | None, typer.Option("--data-revision", help="Revision of the data set.")] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")] = "auto",
    device_map: Annotated[str | None, typer.Option("--device-map", help="As in transformers: auto, cpu, cuda.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Items a forward pass.")] = 16,
    seed: Annotated[int, typer.Option("--seed", help="Draws the items, and which of them choose.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Find out how a checkpoint with a layer mixer is to be read.

    Asks the same questions under every reading that its files leave open, and names what the answers decide, or says
    that they do not. load_model follows what is decided, and the items used are left out of later scores of this model.
    """
    import vpanalysis as vp

    bench = vp.load_benchmark(
        benchmark, split=split, tasks=tasks, audio_root=audio_root, revision=data_revision, allow_outside=allow_outside
    )
    loaded = vp.load_model(source, dtype=dtype, device_map=device_map, revision=revision, calibration=False)
    found = vp.calibrate(
        loaded, bench, limit=limit, conventions=conventions, random_state=seed, batch_size=batch_size,
        save=out if out is not None else save, progress=not quiet,
    )  # fmt: skip
    if as_json:
        record = found.record()
        more = {
            key: value for key, value in record.items() if key not in ("readings", "comparisons", "kind", "version")
        }
        more |= {"path": found.path, "comparisons": found.comparisons.to_dict("records")}
        _console.emit(found.to_dataframe(), as_json=True, title=f"Calibration of {found.model}", more=more)
    else:
        print(found)
    if plot is not None:
        import matplotlib

        matplotlib.use("Agg")
        figure = found.plot().get_figure(root=True)
        assert figure is not None
        figure.savefig(plot)
        _console.remark(f"wrote {plot}")
