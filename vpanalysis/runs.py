"""From a model and a benchmark to a Run: a folder with everything that an analysis needs.

Why it exists. Scoring, probing and plotting should work on a laptop, from numbers that a GPU node made once; and a job
of hours must survive being killed. So the model's part ends in a folder, and the folder grows block by block.

The idea. Items are handled in blocks of fixed size. A block is at once the unit of work, of storage and of resume: its
activations and predictions are written, then its marker; a block with a marker is never done again, one without is
redone whole, and the same batches give the same numbers. So ``run`` after a kill continues, ``run`` on a finished
folder returns at once, and the result is the same, value for value, as of a run that was never interrupted. A manifest
names everything that the numbers depend on, and going on with anything else is refused.

::

    runs/mini/
      manifest.json       model and weight hashes, benchmark hash, prompt, sites, versions ...
      predictions/        one parquet file a block
      activations.zarr    one variable per group of sites and reducer; an xarray Dataset
      blocks/             a marker for each finished block
      results/            what analyses keep

Worked example::

    run = vp.run(vp.load_model("mini"), vp.load_benchmark("mini"), "runs/mini")
    run.predictions.groupby("task_name")["pred_logits"].count()
    run.states("encoder[2]", "segments")     # array (item, segment, feature)
    vp.open_run("runs/mini").gates           # without torch, without the model
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from vpanalysis import _blocks
from vpanalysis._places import is_local, place_of, reported
from vpanalysis._run import Run
from vpanalysis._space import say
from vpanalysis._trouble import storing
from vpanalysis._worker import Alone, Setup, ahead, cache_of, facts_of, release
from vpanalysis._writing import (
    adopt,
    bounds,
    check_target,
    clear,
    describe,
    finished_already,
    letters_of,
    write_blocks,
)
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import NonFiniteWarning, RunError

if TYPE_CHECKING:
    from vpanalysis._worker import Crew
    from vpanalysis.benchmark.items import Benchmark
    from vpanalysis.benchmark.prompts import PromptTemplate
    from vpanalysis.capture.reducers import ReducerLike
    from vpanalysis.capture.sites import SiteSelector
    from vpanalysis.models.facade import AudioLLM

__all__ = ["Run", "encode_clips", "listed", "loaded_model", "open_run", "run"]

_ENGINES = ("local", "ray")


def open_run(path: str | Path) -> Run:
    """Open a Run for reading; neither torch nor a model is loaded.

    Parameters
    ----------
    path : str or Path
        The folder, or a URL such as ``"s3://bucket/runs/mini"`` (with the extra ``s3``).

    Returns
    -------
    Run
        Finished or not; an unfinished one shows its finished blocks.

    Raises
    ------
    RunError
        If there is no Run in the folder.
    """
    return Run(path)


def run(
    model: AudioLLM | str,
    benchmark: Benchmark | str,
    out: str | Path,
    *,
    sites: SiteSelector = None,
    reducers: ReducerLike | Mapping[str, ReducerLike] | None = None,
    generate: bool = False,
    text_scores: bool = False,
    template: PromptTemplate = DEFAULT_PROMPT,
    block_size: int = 64,
    batch_size: int = 16,
    cache: bool | str | Path | None = True,
    force: bool = False,
    progress: bool = True,
    max_new_tokens: int = 16,
    store_dtype: str = "float32",
    engine: str = "local",
    workers: int | None = None,
    address: str | None = None,
    model_options: Mapping[str, Any] | None = None,
) -> Run:
    """Run a model over a benchmark into a folder, or go on with what is there.

    Parameters
    ----------
    model : AudioLLM or str
        What `load_model` returns or takes. An encoder alone (Whisper, HuBERT, WavLM, CLAP) answers nothing: its Run
        holds states, for `probe_layers`, and no predictions.
    benchmark : Benchmark or str
        What `load_benchmark` returns or takes.
    out : str or Path
        Folder of the Run: new, empty, or an earlier call's. Or a URL such as ``"s3://bucket/runs/mini"``.
    sites : selector, optional
        Which places to record: a name, a pattern such as ``"encoder[*]"``, a list, or a predicate. Default: all.
    reducers : str, sequence, or mapping from site selector, optional
        What to keep of them: ``"mean"``, ``"segments(6)"``, ``"last"``, ``"frames"``, ``"none"``. Default: ``mean`` and
        ``segments(6)`` at audio sites, ``last`` at text sites.
    generate : bool
        Also write a reply to every item, greedily, and parse it.
    text_scores : bool
        Also score the text of every offered option.
    template : PromptTemplate
        Wording of the question.
    block_size : int
        Items a block. What is lost when the process dies.
    batch_size : int
        Items a forward. Changes no result beyond the last bits of a float (logits within 1e-5 in float32).
    cache : bool, str, Path or None
        Where encoded clips are kept for other models with the same encoder: the default folder (True), another one, or
        nowhere (False, None).
    force : bool
        Delete a Run that is there and start over.
    progress : bool
        Print estimate and bar on standard error.
    max_new_tokens : int
        Of a reply.
    store_dtype : {"float32", "float16"}
        Of the activations on disk. float16 halves the bytes, rounds, and clips to +-65504; what was clipped is counted.
    engine : {"local", "ray"}
        Who does the blocks: this process, or actors of a Ray cluster (with the extra ``ray``). The Run is the same.
    workers : int, optional
        With ``engine="ray"``: how many actors, each with a model of its own. Default: one a GPU where the model goes
        to GPUs, else one a CPU of the cluster.
    address : str, optional
        Of a Ray cluster, as `ray.init` takes it. Default: the one that this process is connected to or that
        ``RAY_ADDRESS`` names, else one is started on this machine and stopped afterwards.
    model_options : mapping, optional
        Options of `load_model` for a model given by its name, such as ``{"dtype": "bfloat16", "device_map": "cuda"}``.

    Returns
    -------
    Run
        Complete.

    Raises
    ------
    RunError
        If `out` holds something else or another Run, someone is writing it, the disk is too small or may not be
        written, or an encoder that answers nothing is asked for replies.

    Warns
    -----
    NonFiniteWarning
        If recorded states are NaN or infinite, or were clipped; see `Run.nonfinite`.

    Notes
    -----
    A clip that cannot be used (undecodable, empty, NaN) makes its item ``failed``, with the reason; the rest goes on.

    With ``engine="ray"`` so does a block on which three tries failed, by an error of the model or by the death of the
    actor; in one process an error of the model ends the call. A model by its name is loaded by each actor, a loaded one
    is sent to them. The last bits of floats depend on the number of threads: an actor has one for each CPU that Ray
    gives it. See the page on scale in the documentation.
    """
    from vpanalysis.capture.reducers import make_plan

    for name, value in (("block_size", block_size), ("batch_size", batch_size), ("max_new_tokens", max_new_tokens)):
        if value < 1:
            raise RunError("cannot make a Run", found=f"{name}={value}", allowed="1 or more")
    if store_dtype not in ("float32", "float16"):
        raise RunError("cannot make a Run", found=f"store_dtype={store_dtype!r}", allowed=["float32", "float16"])
    if engine not in _ENGINES:
        raise RunError("cannot make a Run", found=f"engine={engine!r}", allowed=_ENGINES, word=engine)
    if engine == "local" and (workers is not None or address is not None):
        given = f"workers={workers}" if workers is not None else f"address={address!r}"
        raise RunError("cannot make a Run", found=f"{given} with engine='local'", fix="add engine='ray'")
    if workers is not None and workers < 1:
        raise RunError("cannot make a Run", found=f"workers={workers}", allowed="1 or more")
    bench, folder = listed(benchmark), place_of(out)
    if is_local(folder) and engine == "ray":
        folder = folder.expanduser().absolute()  # the same on every node
    held = _cache_folder(cache)
    with _crew(engine, model, model_options, workers, address) as crew, reported(folder):
        told = crew.facts()
        if not told.answers and (generate or text_scores):
            raise RunError(
                f"cannot make a Run of {told.name!r} with {'replies' if generate else 'text scores'}",
                found=f"an encoder that answers nothing ({told.title})",
                fix="leave generate and text_scores out; its states are recorded",
            )
        plan = make_plan(told.sites, sites, reducers)
        with storing(folder):
            wording = crew.wording(bench[0], letters_of(bench), template)
            asked = describe(
                told, wording, bench, plan, template, block_size, batch_size,
                generate={"max_new_tokens": max_new_tokens, "decoding": "greedy"} if generate else None,
                text_scores=text_scores, store_dtype=store_dtype,
            )  # fmt: skip
        found = finished_already(folder, asked) if not force else None
        if found is not None:
            say(progress, f"{folder}: found finished, {found.n_items} items")
            return found
        with storing(folder, "anything"):
            check_target(folder)
            if is_local(folder):
                folder.mkdir(parents=True, exist_ok=True)
        with storing(folder), _blocks.writing(folder) as check:
            # Again under the lock: another process may have finished it meanwhile, or started something else.
            check_target(folder)
            with storing(folder, "the manifest"):
                if force:
                    clear(folder)
                adopt(folder, asked)
            setup = Setup(folder, template, plan, held, batch_size, generate, text_scores, max_new_tokens)
            write_blocks(crew, setup, told, bench, check, progress)
            _blocks.sweep(folder)  # what workers left that died meanwhile
    made = Run(folder)
    if len(made.nonfinite):
        warnings.warn(f"Run {made.name!r}: {made.nonfinite_note}", NonFiniteWarning, stacklevel=2)
    return made


@contextmanager
def _crew(
    engine: str,
    model: AudioLLM | str,
    options: Mapping[str, Any] | None,
    workers: int | None,
    address: str | None,
) -> Iterator[Crew]:
    """Give who has the model, and let go of it afterwards."""
    if engine == "local":
        yield Alone(loaded_model(model, options))
        return
    from vpanalysis._ray import Rays

    with Rays(model, options, workers, address) as crew:
        yield crew


def encode_clips(
    model: AudioLLM | str,
    benchmark: Benchmark | str,
    *,
    sites: SiteSelector = None,
    reducers: ReducerLike | Mapping[str, ReducerLike] | None = None,
    streams: Sequence[str] | None = None,
    batch_size: int = 16,
    cache: bool | str | Path = True,
    progress: bool = False,
) -> int:
    """Encode the clips of a benchmark into the cache, for runs that follow; what is there is kept.

    Parameters
    ----------
    model : AudioLLM or str
        Any model with the encoder in question.
    benchmark : Benchmark or str
    sites, reducers
        As in `run`: which of the encoder's sites the runs will record.
    streams : sequence of str, optional
        What to keep beside what `model` itself needs, such as ``["encoder[3]"]``, so that models which use other layers
        of the same encoder need not run it again.
    batch_size : int
        Clips a forward.
    cache : bool, str or Path
        As in `run`.
    progress : bool
        Show a bar.

    Returns
    -------
    int
        How many clips are now in the cache; the others cannot be used.
    """
    from vpanalysis._passes import Passes
    from vpanalysis.capture.reducers import make_plan

    llm, bench = loaded_model(model), listed(benchmark)
    held = cache_of(_cache_folder(cache), facts_of(llm))
    if held is None:
        raise RunError("cannot encode clips", found="no cache", allowed="a folder, or True for the default one")
    plan = make_plan(llm.sites, sites, reducers)
    passes = Passes(llm, DEFAULT_PROMPT, plan, held, batch_size=batch_size, extra_streams=tuple(streams or ()))
    usable = 0
    with tqdm(total=len(bench), desc="encode", unit="clip", disable=not progress) as bar:
        for block, heard in ahead(passes, bench, list(bounds(len(bench), 64))):
            for rows in passes.groups(heard):
                usable += len(rows)
                if all(heard[i].wave is None for i in rows):
                    continue  # all of them are there
                passes.encode([block[i] for i in rows], [heard[i] for i in rows])
            release(block)
            bar.update(len(block))
    return usable


def loaded_model(model: AudioLLM | str, options: Mapping[str, Any] | None = None) -> AudioLLM:
    """Return a model; a name is loaded, with these options of `load_model`."""
    if not isinstance(model, str):
        if options:
            raise RunError(
                "cannot make a Run with model_options", found="a loaded model", allowed="the name of a model"
            )
        return model
    from vpanalysis.models.loading import load_model

    return load_model(model, **(options or {}))


def listed(benchmark: Benchmark | str) -> Benchmark:
    """Return a benchmark, a name loaded; :class:`RunError` for one without items."""
    from vpanalysis.benchmark.items import Benchmark

    if not isinstance(benchmark, Benchmark):
        from vpanalysis.benchmark.sources import load_benchmark

        benchmark = load_benchmark(benchmark)
    if not len(benchmark):
        raise RunError(f"cannot run the benchmark {benchmark.name!r}", found="no items")
    return benchmark


def _cache_folder(cache: bool | str | Path | None) -> Path | None:
    from vpanalysis.capture.audio_cache import default_cache_folder

    if cache is None or cache is False:
        return None
    return default_cache_folder() if cache is True else Path(cache)
