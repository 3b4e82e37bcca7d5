"""The verbs about what an answer was made of: ``listen``, ``text-controls``, ``patch``, ``attribute``, ``lens`` ..."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from vpanalysis import _console
from vpanalysis._cli_options import AllowOutside, AsJson, Limit, Quiet, Sites, Split, Tasks, examples

__all__ = ["register"]

Model = Annotated[str, typer.Argument(help="A bundled name ('mini'), a checkpoint folder or a Hub id.")]
Data = Annotated[str, typer.Argument(help="'mini', a file, a folder or a Hub data set id.")]
Dtype = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")]
DeviceMap = Annotated[str | None, typer.Option("--device-map", help="As in transformers: auto, cpu, cuda.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Items a forward pass.")]
Plot = Annotated[Path | None, typer.Option("--plot", help="Also draw the result to this file (png, pdf, svg).")]
Save = Annotated[
    Path | None, typer.Option("--save", help="Keep the result: a Run of the same model, or a folder to write.")
]


_VERBS: list[tuple[Callable[..., None], str, str]] = []


def _verb(name: str, *lines: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that notes a function as a verb; `register` adds it."""

    def note(function: Callable[..., None]) -> Callable[..., None]:
        _VERBS.append((function, name, examples(*lines)))
        return function

    return note


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    for function, name, epilog in _VERBS:
        app.command(name, epilog=epilog)(function)


def _ready(
    model: str, benchmark: str, tasks: list[str] | None, limit: int | None, split: str, dtype: str,
    device_map: str | None, allow_outside: bool, conditions: tuple[str, ...] | None = ("conflict",),
) -> tuple[Any, Any]:  # fmt: skip
    """Return model and benchmark; `limit` counts items of `conditions`, where the benchmark has them."""
    import vpanalysis as vp

    bench = vp.load_benchmark(benchmark, split=split, tasks=tasks, allow_outside=allow_outside)
    if limit is not None:
        have = [c for c in conditions or () if c in bench.conditions]
        few = set(bench.select(conditions=have or None, limit=limit).ids)
        bench = bench.filter(lambda item: item.id in few or (bool(have) and item.condition not in have))
    return vp.load_model(model, dtype=dtype, device_map=device_map), bench


def _shown(result: Any, as_json: bool, plot: Path | None, save: str | Path | None, **how: Any) -> None:
    """Print a result, draw it and keep it."""
    if as_json:
        _console.emit(result.to_dataframe(), as_json=True, title=result._parts()[1], more={"settings": result.settings})
    else:
        print(result)
    if plot is not None:
        import matplotlib

        matplotlib.use("Agg")
        figure = result.plot(**how).get_figure(root=True)
        assert figure is not None
        figure.savefig(plot)
        _console.remark(f"wrote {plot}")
    if save is not None:
        import vpanalysis as vp
        from vpanalysis._places import place_of

        place = place_of(save)
        of_a_run = (place / "manifest.json").is_file()
        _console.remark(f"saved {result.save(vp.open_run(place) if of_a_run else place)}")


@_verb(
    "listen",
    "vpanalysis listen mini-pclm-dpo mini --task pitch_comparison",
    "vpanalysis listen mini-base mini --family twins --family delexicalised --orders 2 --plot listen.png",
)
def listen(
    model: Model,
    benchmark: Data,
    families: Annotated[
        list[str] | None,
        typer.Option("--family", "-f", help="twins, delexicalised, lowpass, reversed, shuffled or unheard."),
    ] = None,
    orders: Annotated[int, typer.Option("--orders", min=1, help="Cyclic orders of the options.")] = 1,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Keep the Runs of the conditions here.")] = None,
    tasks: Tasks = None,
    limit: Limit = None,
    split: Split = "test",
    allow_outside: AllowOutside = False,
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    batch_size: BatchSize = 16,
    plot: Plot = None,
    save: Save = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Divide the answer between voice and words: clip, voice alone, words alone, neither."""
    import vpanalysis as vp

    llm, bench = _ready(model, benchmark, tasks, limit, split, dtype, device_map, allow_outside)
    more: dict[str, Any] = {"families": families} if families else {}
    found = vp.listen_vs_read(llm, bench, out=out, orders=orders, batch_size=batch_size, progress=not quiet, **more)
    _shown(found, as_json, plot, save)


@_verb("text-controls", "vpanalysis text-controls mini-inverter mini --limit 100 --plot controls.png")
def text_controls(
    model: Model,
    benchmark: Data,
    controls: Annotated[
        list[str] | None, typer.Option("--control", "-c", help="Such as 'wrong clip'; may be repeated. Default: all.")
    ] = None,
    tasks: Tasks = None,
    limit: Limit = None,
    split: Split = "test",
    allow_outside: AllowOutside = False,
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    batch_size: BatchSize = 16,
    plot: Plot = None,
    save: Save = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Ask without the clip, with the transcript, with a wrong clip; test whether words are inverted."""
    import vpanalysis as vp

    llm, bench = _ready(model, benchmark, tasks, limit, split, dtype, device_map, allow_outside)
    found = vp.text_controls(llm, bench, controls=controls, batch_size=batch_size, progress=not quiet)
    _shown(found, as_json, plot, save)


@_verb(
    "patch",
    'vpanalysis patch mini-pclm-dpo mini --swap voice --site "streams[*]" --site mixed --plot patch.png',
    'vpanalysis patch mini-base mini --swap words --site "text[*]" --span last --pairs 40',
)
def patch(
    model: Model,
    benchmark: Data,
    swap: Annotated[str, typer.Option("--swap", help="What differs between the twins: voice or words.")] = "voice",
    sites: Sites = None,
    spans: Annotated[
        list[str] | None, typer.Option("--span", help="audio, question, options, answer, last or all.")
    ] = None,
    direction: Annotated[str, typer.Option("--direction", help="denoise or noise.")] = "denoise",
    pairs: Annotated[int, typer.Option("--pairs", "-n", min=1, help="At most so many pairs.")] = 100,
    heads: Annotated[bool, typer.Option("--heads", help="Also every attention head of the text layers.")] = False,
    tasks: Tasks = None,
    split: Split = "test",
    allow_outside: AllowOutside = False,
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    batch_size: BatchSize = 16,
    plot: Plot = None,
    save: Save = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write states of one clip's run into its twin's, and see how much of the answer comes along."""
    import vpanalysis as vp

    llm, bench = _ready(model, benchmark, tasks, None, split, dtype, device_map, allow_outside)
    more: dict[str, Any] = {"spans": spans} if spans else {}
    found = vp.patch(llm, bench, swap=swap, sites=sites, direction=direction, pairs=pairs, heads=heads,
                     batch_size=batch_size, progress=not quiet, **more)  # fmt: skip
    _shown(found, as_json, plot, save)


@_verb(
    "attribute",
    "vpanalysis attribute mini-pclm-dpo mini --site features --method occlusion --limit 8",
    'vpanalysis attribute mini mini --site "streams[0]" --baseline mean --plot map.png',
)
def attribute(
    model: Model,
    benchmark: Data,
    site: Annotated[str, typer.Option("--site", "-s", help="features (log-mel), a site, or text.embed.")] = "mixed",
    method: Annotated[
        str, typer.Option("--method", "-m", help="integrated_gradients, gradient_x_activation, occlusion or shapley.")
    ] = "integrated_gradients",
    baseline: Annotated[str, typer.Option("--baseline", "-b", help="silence, mean or neutral-twin.")] = "silence",
    n_steps: Annotated[int, typer.Option("--steps", min=1, help="Of the integral.")] = 50,
    faithfulness: Annotated[bool, typer.Option("--faithfulness/--no-faithfulness", help="Check every map.")] = True,
    tasks: Tasks = None,
    limit: Limit = 20,
    split: Split = "test",
    allow_outside: AllowOutside = False,
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    plot: Plot = None,
    save: Save = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Map the margin onto time and frequency, streams or tokens, with checks of faithfulness beside."""
    import vpanalysis as vp

    llm, bench = _ready(model, benchmark, tasks, None, split, dtype, device_map, allow_outside)
    found = vp.attribute(llm, bench, site=site, method=method, baseline=baseline, limit=limit, n_steps=n_steps,
                         faithfulness=faithfulness, progress=not quiet)  # fmt: skip
    _shown(found, as_json, plot, save)


@_verb("lens", "vpanalysis lens runs/mini-base mini-base --plot lens.png")
def lens(
    run: Annotated[str, typer.Argument(help="A Run folder, or its URL, with text states at the answer position.")],
    model: Model,
    vocabulary: Annotated[int, typer.Option("--vocabulary", min=0, help="Likeliest tokens per layer.")] = 0,
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    plot: Plot = None,
    save: Annotated[bool, typer.Option("--save", help="Keep the result in the Run's results folder.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read every layer of the language model through its own head, at the answer."""
    import vpanalysis as vp

    found = vp.logit_lens(run, vp.load_model(model, dtype=dtype, device_map=device_map), vocabulary=vocabulary)
    _shown(found, as_json, plot, run if save else None)


@_verb(
    "gates",
    "vpanalysis gates mini-pclm-dpo mini --limit 100 --plot gates.png",
    "vpanalysis gates mini-pclm mini --against mini-static",
)
def gates(
    model: Model,
    benchmark: Data,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="mean, other task, uniform or a stream; may be repeated.")
    ] = None,
    against: Annotated[str | None, typer.Option("--against", help="Another model, on the same items.")] = None,
    tasks: Tasks = None,
    limit: Limit = None,
    split: Split = "test",
    allow_outside: AllowOutside = False,
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    batch_size: BatchSize = 16,
    plot: Plot = None,
    save: Save = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Set the mixer's weights to others, and see what the answers do."""
    import vpanalysis as vp

    llm, bench = _ready(model, benchmark, tasks, limit, split, dtype, device_map, allow_outside)
    found = vp.gates(llm, bench, settings=settings, against=against, batch_size=batch_size, progress=not quiet)
    _shown(found, as_json, plot, save)


@_verb("attend", "vpanalysis attend mini-pclm-dpo mini --limit 50 --plot attention.png")
def attend(
    model: Model,
    benchmark: Data,
    tasks: Tasks = None,
    limit: Limit = None,
    split: Split = "test",
    allow_outside: AllowOutside = False,
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    batch_size: BatchSize = 16,
    plot: Plot = None,
    save: Save = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Sum the attention from the answer to audio, question and options, by layer and head."""
    import vpanalysis as vp

    llm, bench = _ready(model, benchmark, tasks, limit, split, dtype, device_map, allow_outside)
    _shown(vp.attention_mass(llm, bench, batch_size=batch_size, progress=not quiet), as_json, plot, save)


@_verb(
    "steer",
    "vpanalysis steer mini-pclm-dpo mini --task pitch_comparison --site mixed --plot steer.png",
    'vpanalysis steer mini-pclm-dpo mini --task gender_prediction --neurons --site "encoder[1]"',
)
def steer(
    model: Model,
    benchmark: Data,
    sites: Sites = None,
    direction: Annotated[
        str, typer.Option("--direction", help="'difference of means' or 'probe'.")
    ] = "difference of means",
    neurons: Annotated[
        bool, typer.Option("--neurons", help="Scale feed-forward neurons of the encoder instead.")
    ] = False,
    tasks: Tasks = None,
    limit: Limit = None,
    split: Split = "test",
    allow_outside: AllowOutside = False,
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    batch_size: BatchSize = 16,
    plot: Plot = None,
    save: Save = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Push held-out items along a direction, beside random ones: an analysis, not a cure."""
    import vpanalysis as vp

    llm, bench = _ready(model, benchmark, tasks, limit, split, dtype, device_map, allow_outside)
    common: dict[str, Any] = {"batch_size": batch_size, "progress": not quiet}
    if neurons:
        common |= {"layers": sites} if sites else {}
        found: Any = vp.scale_neurons(llm, bench, **common)
    else:
        found = vp.steer(llm, bench, sites=sites, direction=direction, **common)
    _shown(found, as_json, plot, save)


@_verb("fuse", 'vpanalysis fuse mini-base mini --layer "encoder[1]" --layer "encoder[2]" --weight 0.5 --weight 1')
def fuse(
    model: Model,
    benchmark: Data,
    layers: Annotated[
        list[str] | None, typer.Option("--layer", "-l", help="Encoder layer to append; may be repeated.")
    ] = None,
    weights: Annotated[
        list[float] | None, typer.Option("--weight", "-w", help="Attention weight on it; may be repeated.")
    ] = None,
    tasks: Tasks = None,
    limit: Limit = None,
    split: Split = "test",
    allow_outside: AllowOutside = False,
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    batch_size: BatchSize = 16,
    plot: Plot = None,
    save: Save = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Append projected tokens of earlier encoder layers behind the audio tokens, without training."""
    import vpanalysis as vp

    llm, bench = _ready(model, benchmark, tasks, limit, split, dtype, device_map, allow_outside)
    found = vp.fuse_layers(llm, bench, layers=layers, weights=weights, batch_size=batch_size, progress=not quiet)
    _shown(found, as_json, plot, save)
