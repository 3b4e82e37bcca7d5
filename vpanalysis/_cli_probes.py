"""The verbs ``vpanalysis probe`` and ``vpanalysis controls``: what could be read from a Run, and is it evidence?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vpanalysis import _console
from vpanalysis._cli_options import AllowOutside, AsJson, Sites, Tasks

__all__ = ["register"]

_PROBE = (
    "\b\nExamples:\n"
    '  vpanalysis probe runs/mini-pclm --site "encoder[*]" --site tower\n'
    "  vpanalysis probe runs/mini-pclm --target both --task pitch_comparison --plot pitch.png\n"
    "  vpanalysis probe runs/mini-pclm --estimator ridge --adjusted --save\n"
    "  vpanalysis probe runs/mini-pclm --estimator mlp3 --folds 10 --group-by speaker"
)
_CONTROLS = (
    "\b\nExamples:\n"
    "  vpanalysis controls runs/mini-pclm --task age_prediction\n"
    "  vpanalysis controls runs/mini-pclm --which gap --which boundary --plot gap.png"
)

Save = Annotated[bool, typer.Option("--save", help="Keep the result in the Run's results folder.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command(epilog=_PROBE)(probe)
    app.command(epilog=_CONTROLS)(controls)


def probe(
    run: Annotated[str, typer.Argument(help="A Run folder, or its URL.")],
    target: Annotated[
        str, typer.Option("--target", help="truth (the voice), claim (the words), both or a column.")
    ] = "truth",
    tasks: Tasks = None,
    sites: Sites = None,
    group_by: Annotated[
        str, typer.Option("--group-by", help="auto, speaker, script or both: never split by folds.")
    ] = "auto",
    folds: Annotated[int, typer.Option("--folds", min=2, help="Folds per grouping.")] = 5,
    estimator: Annotated[
        str, typer.Option("--estimator", help="logistic, ridge, mlp1, mlp3 or mlp5 (the paper's networks).")
    ] = "logistic",
    shuffles: Annotated[
        int | None, typer.Option("--shuffles", help="Label shuffles. Default: 20, 199 with ridge, none with networks.")
    ] = None,
    adjusted: Annotated[
        bool, typer.Option("--adjusted", help="Also p values adjusted over sites, from 199 shuffles or more.")
    ] = False,
    drop: Annotated[
        bool, typer.Option("--drop-nonfinite", help="Leave out items whose states are NaN or infinite.")
    ] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw the curves to this file (png, pdf, svg).")] = (
        None
    ),
    save: Save = False,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Cross-validate a probe per task and site of a Run.

    A probe that succeeds says that the information is there, not that the model uses it.
    """
    import vpanalysis as vp

    opened = vp.open_run(run)
    result = vp.probe_layers(
        opened, target, tasks=tasks, sites=sites, group_by=group_by, n_splits=folds, estimator=estimator,
        shuffles=shuffles, adjusted=adjusted, nonfinite="drop" if drop else "raise", progress=not quiet,
    )  # fmt: skip
    columns = ["task", "site", "reducer", "accuracy", "low", "high", "chance", "majority", "p", "n", "n_groups", "note"]
    columns[2:2] = ["target"] if target == "both" else []
    columns[-3:-3] = ["p_adjusted", "q"] if adjusted or estimator == "ridge" else []
    _console.emit(
        result.to_dataframe() if as_json else result.to_dataframe()[columns], as_json=as_json,
        title=f"Probes for {target} in {opened.name}", note="decodable is not used; low and high: 95 % interval",
    )  # fmt: skip
    _keep(result, plot, save)


def controls(
    run: Annotated[str, typer.Argument(help="A Run folder, or its URL.")],
    tasks: Tasks = None,
    sites: Sites = None,
    which: Annotated[
        list[str] | None,
        typer.Option("--which", "-w", help="majority, selectivity, mel, text, random, mdl, noise, gap or boundary."),
    ] = None,
    audio: Annotated[
        str | None, typer.Option("--audio", help="The benchmark ('mini', a file ...), for the mel baseline.")
    ] = None,
    allow_outside: AllowOutside = False,
    twin: Annotated[str | None, typer.Option("--twin", help="Run of the same model with random weights.")] = None,
    group_by: Annotated[
        str, typer.Option("--group-by", help="speaker, script, both or auto: never split by folds.")
    ] = "speaker",
    plot: Annotated[Path | None, typer.Option("--plot", help="Also draw the first control (png, pdf, svg).")] = None,
    save: Save = False,
    as_json: AsJson = False,
) -> None:
    """Make the controls that a probe curve must be held against."""
    import vpanalysis as vp

    opened = vp.open_run(run)
    heard = None if audio is None else vp.load_benchmark(audio, allow_outside=allow_outside)
    found = vp.probe_controls(
        opened, tasks, sites, which, audio=heard,
        twin=None if twin is None else vp.open_run(twin), group_by=group_by,
    )  # fmt: skip
    if as_json:
        _console.emit(found.to_dataframe(), as_json=True, title=f"Controls of {opened.name}")
    else:
        print(found)
    _keep(found, plot, save)


def _keep(result: Any, plot: Path | None, save: bool) -> None:
    """Draw and save what was asked for."""
    if plot is not None:
        import matplotlib

        matplotlib.use("Agg")
        figure = result.plot().get_figure(root=True)
        assert figure is not None
        figure.savefig(plot)
        _console.remark(f"wrote {plot}")
    if save:
        _console.remark(f"saved {result.save()}")
