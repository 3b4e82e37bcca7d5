"""The command line: thin verbs over the public API, named like it.

Why it exists. The whole way from speech to evidence should be one line in a shell or in a batch job, with the same
names as in a notebook. So a verb parses words, calls one public function and prints one table; it holds no science, and
what it can do, ``import vpanalysis`` can do.

The idea. Nothing heavy is imported before a verb runs, so that ``vpanalysis --help`` answers at once. What goes wrong
on purpose (:class:`~vpanalysis.errors.VPError`, a misspelt option) is one sentence on standard error and exit code 2;
what goes wrong by accident is one sentence and exit code 1; ``--debug``, anywhere on the line, shows the traceback.
Tables go to standard output, as text or with ``--json`` as JSON; progress bars and remarks go to standard error.

Worked example::

    vpanalysis run mini mini --out runs/mini --limit 60
    vpanalysis score runs/mini --json | jq '.rows[] | select(.metric == "hearing")'
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from vpanalysis import (
    __version__,
    _cli_attribution,
    _cli_calibrate,
    _cli_check,
    _cli_figures,
    _cli_mini,
    _cli_models,
    _cli_notebooks,
    _cli_probes,
    _console,
)
from vpanalysis._cli_options import AllowOutside, AsJson, Limit, Quiet, Split, Tasks, examples

__all__ = ["app", "main"]

# Help without rich panels: it starts faster, wraps less and can be searched.
app = typer.Typer(
    name="vpanalysis",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"max_content_width": 100},
)

Replies = Annotated[
    str, typer.Option("--prediction", help="Which replies: pred_logits, pred_text_score or pred_generated.")
]
IncludeCalibration = Annotated[
    bool,
    typer.Option("--include-calibration-items", help="Also score the items that chose how the model is read."),
]
OutFolder = Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")]
# A Run's place may be a URL, in which a Path would lose a slash.
OutPlace = Annotated[str, typer.Option("--out", "-o", help="Folder to write to, or a URL such as s3://bucket/run.")]
AudioRoot = Annotated[Path | None, typer.Option("--audio-root", help="Folder that paths of clips are relative to.")]


@app.callback(
    invoke_without_command=True,
    epilog=examples(
        "vpanalysis reproduce  # everything, on the bundled checkpoints",
        "vpanalysis run mini mini --out runs/mini  # one model over one benchmark",
        "vpanalysis score runs/mini  # does it listen or read?",
        "vpanalysis probe runs/mini  # what could be read from its layers?",
    ),
)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere on the line.")] = False,
) -> None:
    """Do audio LLMs listen or read? Capture, score and probe, from speech to evidence."""
    if version:
        print(__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command(
    epilog=examples(
        "vpanalysis reproduce",
        "vpanalysis reproduce --models mini-base --models mini-pclm-dpo --limit 300",
        "vpanalysis reproduce --out /tmp/runs --json > table.json",
    )
)
def reproduce(
    out: OutFolder = Path("runs"),
    models: Annotated[
        list[str] | None, typer.Option("--models", "-m", help="Bundled checkpoint; may be repeated. Default: all.")
    ] = None,
    limit: Limit = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that work side by side.")] = 2,
    force: Annotated[bool, typer.Option("--force", help="Start over where Runs exist.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Also record what 'vpanalysis figures' draws (minutes more).")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run, score and probe the bundled checkpoints.

    Synthesizes VoxParadox-mini, leaves a Run folder per checkpoint, tables (CSV) and pictures (PNG, PDF) under --out,
    and prints the closing table. A second call finds what is finished. What the checkpoints' layers hold was planted
    by their training: this shows that the tools work, and says nothing about any other model.
    """
    from vpanalysis.reproduce import reproduce as call

    names = [name for group in models for name in group.split(",") if name] if models else None
    result = call(out, models=names, limit=limit, workers=workers, force=force, full=full, progress=not quiet)
    more = {"out": str(result.out), "files": [str(path) for path in result.files], "seconds": dict(result.seconds)}
    if as_json:
        _console.emit(result.to_dataframe(), as_json=True, title=result.title, note=result.note, more=more)
    else:
        print(result)


@app.command(
    epilog=examples(
        "vpanalysis run mini mini --out runs/mini",
        "vpanalysis run ./AF3_PCLM_DPO IHP-Lab/VoxParadox --out runs/af3 --dtype bfloat16 --device-map auto --generate",
        'vpanalysis run mini clips.csv --out runs/clips --site "encoder[*]" --site tower',
        "vpanalysis run ./AF3 clips.csv --out s3://bucket/af3 --device-map cuda --engine ray --address auto",
    )
)
def run(
    model: Annotated[str, typer.Argument(help="A bundled name ('mini'), a checkpoint folder or a Hub id.")],
    benchmark: Annotated[str, typer.Argument(help="'mini', a file, a folder or a Hub data set id.")],
    out: OutPlace,
    sites: Annotated[
        list[str] | None, typer.Option("--site", "-s", help="Site or pattern, such as 'encoder[*]'; may be repeated.")
    ] = None,
    tasks: Tasks = None,
    limit: Limit = None,
    split: Split = "test",
    audio_root: AudioRoot = None,
    allow_outside: AllowOutside = False,
    revision: Annotated[str | None, typer.Option("--revision", help="Revision of a model on the Hub.")] = None,
    data_revision: Annotated[str | None, typer.Option("--data-revision", help="Revision of the data set.")] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")] = "auto",
    device_map: Annotated[str | None, typer.Option("--device-map", help="As in transformers: auto, cpu, cuda.")] = None,
    generate: Annotated[bool, typer.Option("--generate", help="Also write free replies (slower).")] = False,
    text_scores: Annotated[bool, typer.Option("--text-scores", help="Also score the option texts (slower).")] = False,
    block_size: Annotated[int, typer.Option("--block-size", min=1, help="Items a block, the unit of resume.")] = 64,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Items a forward pass.")] = 16,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Keep encoded clips for other runs.")] = True,
    calibration: Annotated[
        bool, typer.Option("--calibration/--no-calibration", help="Follow what 'calibrate' decided about the model.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Start over where a Run exists.")] = False,
    engine: Annotated[
        str, typer.Option("--engine", help="local: this process; ray: actors of a Ray cluster.")
    ] = "local",
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="With --engine ray: actors. Default: one a GPU, or a CPU.")
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="With --engine ray: of the cluster; default: start one here.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run a model over a benchmark, into a folder.

    Takes option logits and captures in one pass an item. Call it again after an interruption: finished blocks are kept.
    """
    import vpanalysis as vp

    bench = vp.load_benchmark(
        benchmark, split=split, tasks=tasks, limit=limit, audio_root=audio_root, revision=data_revision,
        allow_outside=allow_outside,
    )  # fmt: skip
    options: dict[str, Any] = {
        "dtype": dtype,
        "device_map": device_map,
        "revision": revision,
        "calibration": calibration,
    }
    # On a cluster the actors load the model, and this process never does.
    loaded = vp.load_model(model, **options) if engine == "local" else model
    # Ray's own words about actors that were started again go to standard output, which belongs to the answer.
    with redirect_stdout(sys.stderr) if engine == "ray" else nullcontext():
        made = vp.run(
            loaded, bench, out, sites=sites, generate=generate, text_scores=text_scores, block_size=block_size,
            batch_size=batch_size, cache=cache, force=force, progress=not quiet, engine=engine, workers=workers,
            address=address, model_options=options if engine != "local" else None,
        )  # fmt: skip
    counts = made.predictions.groupby(["task_name", "condition"], sort=False)["status"].value_counts().unstack()
    name = made.manifest["model"]["name"]
    _console.emit(
        counts.fillna(0).astype(int), as_json=as_json, title=f"Run {made.name} of {name} on {bench.name}",
        note=f"in {made.path}; next: vpanalysis score {made.path}", more={"run": str(made.path)},
    )  # fmt: skip


_cli_mini.register(app)
_cli_check.register(app)
_cli_calibrate.register(app)
_cli_models.register(app)
_cli_probes.register(app)
_cli_attribution.register(app)
_cli_figures.register(app)
_cli_notebooks.register(app)


@app.command(
    epilog=examples(
        "vpanalysis transcribe voxparadox.json openai/whisper-small",
        "vpanalysis transcribe IHP-Lab/VoxParadox ./whisper-large-v3 --out vox.transcripts.json --device cuda",
    )
)
def transcribe(
    benchmark: Annotated[str, typer.Argument(help="A file, a folder or a Hub data set id.")],
    model: Annotated[str, typer.Argument(help="A speech recognizer of the Hub, its folder, or a bundled name.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File to write. Default: <table>.transcripts.json beside the data."),
    ] = None,
    limit: Limit = None,
    split: Split = "test",
    audio_root: AudioRoot = None,
    allow_outside: AllowOutside = False,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Clips at once.")] = 8,
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1 ...")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write down what the clips say, where load_benchmark finds it.

    Call it again to go on: what stands in the file is kept. Clips that cannot be used are listed.
    """
    import vpanalysis as vp

    bench = vp.load_benchmark(benchmark, split=split, limit=limit, audio_root=audio_root, allow_outside=allow_outside)
    made = vp.transcribe(
        bench, model, out, split=split, batch_size=batch_size, device=device, progress=not quiet
    )  # fmt: skip
    table = made.to_dataframe()
    _console.emit(
        table if as_json else table[table["reason"].notna()][["id", "reason"]], as_json=as_json, title=made.title,
        more={"path": str(made.path), "model": made.model},
    )  # fmt: skip


@app.command(
    epilog=examples(
        "vpanalysis score runs/mini-pclm",
        "vpanalysis score runs/mini-base runs/mini-pclm --per-task",
        "vpanalysis score --predictions replies.jsonl --benchmark voxparadox.json --json",
    )
)
def score(
    runs: Annotated[list[str] | None, typer.Argument(help="Run folders, or their URLs.")] = None,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", help="Replies made elsewhere: JSON, JSONL or CSV with id and reply.")
    ] = None,
    benchmark: Annotated[str | None, typer.Option("--benchmark", "-b", help="The benchmark they answer.")] = None,
    prediction: Replies = "pred_logits",
    per_task: Annotated[bool, typer.Option("--per-task", help="Tables by task, where there are several Runs.")] = False,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", help="With --predictions: calibration file or Run of the model that replied."),
    ] = None,
    include_calibration_items: IncludeCalibration = False,
    split: Split = "test",
    audio_root: AudioRoot = None,
    allow_outside: AllowOutside = False,
    as_json: AsJson = False,
) -> None:
    """Score Runs, or replies of any model, with 95 % intervals."""
    import vpanalysis as vp
    from vpanalysis.errors import RunError
    from vpanalysis.scoring import Scores, score_predictions

    if (predictions is None) != (benchmark is None) or bool(runs) == (predictions is not None):
        named = {"Run folders": runs, "--predictions": predictions, "--benchmark": benchmark}
        given = [name for name, value in named.items() if value]
        raise RunError(
            "cannot score", found=" and ".join(given) or "nothing to score",
            allowed="Run folders, or --predictions with --benchmark",
        )  # fmt: skip
    if predictions is not None and benchmark is not None:
        bench = vp.load_benchmark(benchmark, split=split, audio_root=audio_root, allow_outside=allow_outside)
        one = score_predictions(
            predictions, bench, calibration=calibration, include_calibration_items=include_calibration_items
        )
        scores = Scores({one.name: one})
    elif calibration is not None:
        raise RunError(
            "cannot score with --calibration", found="Run folders, which know theirs",
            allowed="--calibration with --predictions",
        )  # fmt: skip
    else:
        opened = [vp.open_run(path) for path in runs or []]
        scores = vp.score(opened, prediction=prediction, include_calibration_items=include_calibration_items)
    if as_json:
        more: dict[str, Any] = {"replies": one.settings.get("replies")} if predictions is not None else {}
        used = {name: s.settings["calibration"] for name, s in scores.items() if "calibration" in s.settings}
        if used:
            more["calibration"] = used
        _console.emit(scores.to_dataframe(), as_json=True, title=f"Score of {', '.join(scores)}", more=more)
    elif len(scores) == 1 or per_task:
        print("\n\n".join(repr(part) for part in scores.values()))
    else:
        print(scores)


@app.command(
    epilog=examples(
        "vpanalysis compare runs/mini-sft runs/mini-pclm",
    )
)
def compare(
    run_a: Annotated[str, typer.Argument(help="A Run folder, or its URL.")],
    run_b: Annotated[str, typer.Argument(help="Another, on the same items.")],
    prediction: Replies = "pred_logits",
    include_calibration_items: IncludeCalibration = False,
    as_json: AsJson = False,
) -> None:
    """Compare two Runs item by item.

    Differences are paired, and speakers and scripts are the unit of chance.
    """
    import vpanalysis as vp

    a, b = vp.open_run(run_a), vp.open_run(run_b)
    result = vp.compare(
        a, b, prediction=prediction,
        include_calibration_items=include_calibration_items,
    )  # fmt: skip
    if as_json:
        used = {"calibration": result.settings["calibration"]} if "calibration" in result.settings else {}
        _console.emit(result.to_dataframe(), as_json=True, title=f"{a.name} against {b.name}", more=used)
    else:
        print(result)


@app.command(
    epilog=examples(
        "vpanalysis info",
        "vpanalysis info runs/mini",
        "vpanalysis info mini-pclm --json",
    )
)
def info(
    what: Annotated[str | None, typer.Argument(help="A Run folder or a model; by default the installation.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is installed, or what a Run or a model is made of."""
    from vpanalysis import _about

    title, table = _about.about(what)
    _console.emit(table, as_json=as_json, title=title)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Parameters
    ----------
    arguments : sequence of str, optional
        Words after the program's name; by default those of the process.

    Raises
    ------
    SystemExit
        Always: 0 when all went well, 2 for bad input, 1 for anything unexpected, 130 when interrupted, 143 when
        terminated; 3 and 4 are
        ``figures``' own.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    with _leaving_tidily():
        code = _run(cast("Callable[..., Any]", app), words, debug)
    sys.exit(code)


@contextmanager
def _leaving_tidily() -> Iterator[None]:
    """Let a signal that asks to end be an exit, so that temporary files are removed; only where nobody else cares."""
    names = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    mine = threading.current_thread() is threading.main_thread()
    changed = [name for name in names if mine and signal.getsignal(name) is signal.SIG_DFL]
    for name in changed:
        signal.signal(name, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        for name in changed:
            signal.signal(name, signal.SIG_DFL)


def _run(call: Callable[..., Any], words: list[str], debug: bool) -> int:
    """Return the exit code of one call; errors become one sentence on standard error."""
    # The parser's own errors: UsageError is not exported, BadParameter is one.
    usage_error = typer.BadParameter.__mro__[1]
    try:
        code = call(args=words, prog_name="vpanalysis", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        from vpanalysis.errors import VPError

        if debug:
            raise
        if isinstance(error, usage_error):
            said = " ".join(str(cast(Any, error).format_message()).split())
            _console.remark(f"vpanalysis: {said} (see vpanalysis --help)")
            return 2
        # A path that cannot be read or written is bad input as well.
        if isinstance(error, (VPError, OSError)):
            _console.remark(f"vpanalysis: {_console.as_sentence(error)}")
            return 2
        _console.remark(f"vpanalysis: unexpected {_console.as_sentence(error)}; --debug shows where")
        return 1
    if code == 130:  # newer parsers return it, older ones raise
        _console.remark("interrupted; call it again to go on")
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    main()
