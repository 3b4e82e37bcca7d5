"""The main job in one call: the bundled checkpoints on VoxParadox-mini, from synthesized speech to a closing table.

Why it exists. A newcomer should see the whole way once, on real speech and really trained models, before trusting it
with a checkpoint of seven billion parameters. And everything the tools claim about the bundled checkpoints should
follow from their weights and from seeds: nothing here is read from stored results, an empty folder gives the same
numbers.

The idea. Five stages, each cut into units that two processes share (see ``_pool``):

1. *listen*: synthesize each clip and run the frozen encoder that all checkpoints share over it, once, into the cache of
   encoded clips (keyed by encoder weights and audio);
2. *run*: one Run a checkpoint, from the cached clips;
3. *score*: outcomes, accuracies and the hearing index with intervals;
4. *probe*: linear probes for the voice (truth) and the words (claim) at every site. Sites up to the tower are the same
   numbers in every Run that shares the encoder, and are probed once;
5. *draw*: tables as CSV, pictures as PNG and PDF.

Runs resume by block, as always. Scores and probes are kept in ``<run>/results/<verb>-<hash>/``, where the hash covers
the Run's manifest, the settings and the code of this package, so that a second call finds them and takes seconds.

What the organism's layers hold was planted by the losses that trained it. That the curves come out as planted shows
that the tools work; it says nothing about Audio Flamingo 3 or any other model.

Worked example::

    result = reproduce("runs", models=["mini-base", "mini-pclm-dpo"], limit=300)
    print(result)                      # what the command prints
    result.truth["mini-pclm-dpo"].plot(task="gender_prediction")
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from vpanalysis import _full, _report
from vpanalysis._pool import Pool
from vpanalysis.errors import ModelError, RunError, SchemaError
from vpanalysis.organism import CHECKPOINTS, DEFAULT, PLANTED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vpanalysis.benchmark.items import Benchmark
    from vpanalysis.models.facade import AudioLLM
    from vpanalysis.probes import ProbeResult
    from vpanalysis.runs import Run
    from vpanalysis.scoring import Scores

__all__ = ["Reproduction", "bundled_model", "kept_at", "reproduce"]

TARGETS = ("truth", "claim")
# The block of a Run, and of `encode_clips`: encoding the same groups keeps every float as the Run would have made it.
_BLOCK = 64
# Sites a unit of probing: a few seconds, so that the bar moves.
_SITES = 3


@dataclass(frozen=True, repr=False)
class Reproduction:
    """What :func:`reproduce` left on disk, and the numbers behind it.

    Attributes
    ----------
    out : Path
        Folder with one Run a checkpoint, ``tables/`` and ``pictures/``.
    kept : mapping of checkpoint to mapping of verb to Path
        Where each checkpoint's ``run``, ``score``, ``truth`` and ``claim`` are.
    files : tuple of Path
        Tables and pictures.
    seconds : mapping of stage to float
        Wall-clock seconds of this call.
    """

    out: Path
    kept: Mapping[str, Mapping[str, Path]]
    files: tuple[Path, ...]
    seconds: Mapping[str, float]

    @cached_property
    def runs(self) -> dict[str, Run]:
        """The Run of each checkpoint."""
        return {name: _open_run(paths["run"]) for name, paths in self.kept.items()}

    @cached_property
    def scores(self) -> Scores:
        """The Score of each checkpoint, from its option logits."""
        return _report.load_scores(self.kept)

    @cached_property
    def truth(self) -> dict[str, ProbeResult]:
        """Probes for what the voice makes true, per checkpoint."""
        return _report.load_probes(self.kept, "truth")

    @cached_property
    def claim(self) -> dict[str, ProbeResult]:
        """Probes for what the words claim, per checkpoint."""
        return _report.load_probes(self.kept, "claim")

    def to_dataframe(self) -> pd.DataFrame:
        """Return the scores, tidy: one row a checkpoint, task (and ``"overall"``) and metric."""
        return self.scores.to_dataframe()

    @property
    def title(self) -> str:
        """What was done."""
        return f"{len(self.kept)} bundled checkpoints on VoxParadox-mini"

    @property
    def note(self) -> str:
        """What has to be known about the numbers."""
        return PLANTED

    def _where(self) -> str:
        return f"Runs, tables and pictures: {self.out} ({len(self.files)} files, {sum(self.seconds.values()):.0f} s)"

    def __repr__(self) -> str:
        return f"{self.title}\n{self.scores!r}\n{self.note}\n{self._where()}"

    def _repr_html_(self) -> str:
        notes = "".join(f"<div>{escape(line)}</div>" for line in (self.note, self._where()))
        return f"<div>{self.scores._repr_html_()}<small>{notes}</small></div>"


def reproduce(
    out: str | Path = "runs",
    *,
    models: Sequence[str] | None = None,
    limit: int | None = None,
    workers: int = 2,
    force: bool = False,
    full: bool = False,
    progress: bool = True,
) -> Reproduction:
    """Run, score and probe bundled checkpoints on VoxParadox-mini.

    Parameters
    ----------
    out : str or Path
        Folder to write to; created when missing. An interrupted or finished earlier call is continued.
    models : sequence of str, optional
        Bundled checkpoints, default all seven. ``"mini"`` stands for ``"mini-pclm-dpo"``.
    limit : int, optional
        At most so many clips, spread evenly over the tasks; default all 3,000.
    workers : int
        Processes that work side by side, of one thread each; 1 works in this process.
    force : bool
        Start over where Runs exist, for example those of another `limit`.
    full : bool
        Also record what the gallery of figures needs (:func:`vpanalysis.build_gallery`): answers to reversed clips,
        listen-versus-read, patching, rewordings, fusion, deeper probes and untrained encoders. Takes minutes more.
    progress : bool
        Show progress bars.

    Returns
    -------
    Reproduction

    Raises
    ------
    ModelError
        For a checkpoint that is not bundled.
    RunError
        When `out` cannot be used: it holds Runs of something else, or is no folder.
    """
    names, folder = _names(models), Path(out)
    if folder.exists() and not folder.is_dir():
        raise RunError("cannot reproduce", found=f"{str(folder)!r}, which is no folder", allowed="a folder")
    if limit is not None and limit < 1:
        raise SchemaError("cannot reproduce", found=f"limit {limit}", allowed="1 or more")
    _forget()
    seconds: dict[str, float] = {}
    with Pool(workers, progress=progress) as pool:
        with _timed(seconds, "listen"):
            items = len(_benchmark(limit))
            if force or not all(_is_finished(folder / name) for name in names):
                parts = [(names, limit, start, min(start + _BLOCK, items)) for start in range(0, items, _BLOCK)]
                sizes = [stop - start for *_, start, stop in parts]
                pool.map(_listen, parts, desc="synthesize and encode", unit="clip", sizes=sizes)
        with _timed(seconds, "run"):
            runs = dict(zip(names, _run_all(pool, names, limit, folder, items, force), strict=True))
    # Fresh processes for what only reads: those before keep torch and a model, which is half of their memory.
    with Pool(workers, progress=progress) as pool:
        with _timed(seconds, "score"):
            scores = pool.map(_score, [(path,) for path in runs.values()], desc="score", unit="run")
        with _timed(seconds, "probe"):
            probes = _probe_all(pool, runs)
        kept = {
            name: {"run": path, "score": score, **{t: probes[name, t] for t in TARGETS}}
            for (name, path), score in zip(runs.items(), scores, strict=True)
        }
        if full:
            with _timed(seconds, "full"):
                _full.record(pool, names, limit, folder)
        with _timed(seconds, "draw"):
            files = _report.write(folder, kept, pool, code=_code())
    return Reproduction(folder, kept, tuple(files), seconds)


def _names(models: Sequence[str] | None) -> tuple[str, ...]:
    """Return the asked checkpoints in the order in which they are bundled."""
    known = list(CHECKPOINTS)
    if models is None:
        return CHECKPOINTS
    asked = [DEFAULT if name == "mini" else name for name in models]
    for name in asked:
        if name not in known:
            raise ModelError("cannot reproduce", found=f"the checkpoint {name!r}", allowed=known, word=name)
    if not asked:
        raise ModelError("cannot reproduce", found="no checkpoint", allowed=known)
    return tuple(name for name in known if name in asked)


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - start


# --- what a worker process holds ---------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _benchmark(limit: int | None) -> Benchmark:
    from vpanalysis.benchmark.sources import load_benchmark

    return load_benchmark("mini", limit=limit)


@lru_cache(maxsize=1)
def bundled_model(name: str) -> AudioLLM:
    """Return a bundled checkpoint, the last one held."""
    import torch

    from vpanalysis.models.loading import load_model

    # One thread a process: see `_pool`. A lone worker that was started elsewhere keeps what it has.
    if torch.get_num_threads() > 2:
        torch.set_num_threads(2)
    # How the bundled checkpoints are read is known: what somebody calibrated on this machine must not change the table.
    return load_model(name, calibration=False)


@lru_cache(maxsize=2)
def _open_run(path: Path) -> Run:
    from vpanalysis.runs import open_run

    return open_run(path)


def _forget() -> None:
    """Forget what an earlier call in this process held: folders may have changed since."""
    for held in (_benchmark, bundled_model, _open_run):
        held.cache_clear()


# --- listen and run ----------------------------------------------------------------------------------------------


def _is_finished(path: Path) -> bool:
    """Whether a Run in `path` looks finished; `run` itself decides, this only saves encoding clips for nothing."""
    try:
        return bool(_open_run(path).is_complete)
    except RunError:
        return False


@lru_cache(maxsize=1)
def _streams(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return every layer of the encoder that any of the checkpoints continues from."""
    return tuple(dict.fromkeys(stream for name in names for stream in bundled_model(name).stream_inputs))


def _listen(names: tuple[str, ...], limit: int | None, start: int, stop: int) -> int:
    """Synthesize and encode a block of the benchmark into the cache; return how many clips can be used."""
    from vpanalysis.runs import encode_clips

    streams = _streams(names)
    return encode_clips(bundled_model(names[-1]), _benchmark(limit)[start:stop], streams=streams)


def _run_one(name: str, limit: int | None, out: Path, force: bool) -> Path:
    from vpanalysis.runs import run

    return run(bundled_model(name), _benchmark(limit), out, block_size=_BLOCK, force=force, progress=False).path


def _run_all(
    pool: Pool, names: tuple[str, ...], limit: int | None, folder: Path, items: int, force: bool
) -> list[Path]:
    """Make one Run a checkpoint; the bar follows the blocks that appear on disk."""

    def done() -> int:
        return sum(min(items, _BLOCK * len(list((folder / name / "blocks").glob("*.json")))) for name in names)

    units = [(name, limit, folder / name, force) for name in names]
    return pool.map(_run_one, units, desc="run", unit="item", sizes=[items] * len(names), watch=done)


# --- results that are kept inside a Run --------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _code() -> str:
    """Return a hash of this package's code."""
    from vpanalysis._manifest import code_version

    return str(code_version()["sha"])


def kept_at(path: Path, verb: str, **settings: object) -> Path:
    """Return ``<run>/results/<verb>-<hash>``: the same Run, settings and code give the same folder."""
    digest = hashlib.sha256((path / "manifest.json").read_bytes())
    digest.update(json.dumps({"verb": verb, "code": _code(), **settings}, sort_keys=True).encode())
    return path / "results" / f"{verb}-{digest.hexdigest()[:12]}"


def _score(path: Path) -> Path:
    """Score a Run by its option logits, or find its score; return where it is."""
    from vpanalysis.scoring import score

    target = kept_at(path, "score", prediction="pred_logits")
    if not _report.has_score(target):
        score(_open_run(path), prediction="pred_logits").save(target)
    return target


# --- probe -------------------------------------------------------------------------------------------------------


_PROBING: dict[str, Any] = {"group_by": "speaker", "shuffles": 0}
"""Folds by speaker for all; the shuffles are for whoever looks into one Run."""


def _probe(path: Path, sites: tuple[str, ...]) -> dict[str, ProbeResult]:
    """Probe a few sites of a Run for both targets."""
    from vpanalysis.probes import probe_layers
    from vpanalysis.probes.inputs import Held

    held = Held(_open_run(path))
    return {target: probe_layers(held, target, sites=list(sites), progress=False, **_PROBING) for target in TARGETS}


def _is_shared(site: str) -> bool:
    """Whether a site lies in the encoder, which checkpoints share."""
    return site.startswith("encoder") or site == "tower"


def _probe_all(pool: Pool, runs: Mapping[str, Path]) -> dict[tuple[str, str], Path]:
    """Probe every site of every Run, shared sites once; return where the result of each Run and target is."""
    from vpanalysis._saved import run_identity

    kept = {(name, target): kept_at(path, f"probe-{target}") for name, path in runs.items() for target in TARGETS}
    missing = [name for name in runs if not all(_report.has_probe(kept[name, target]) for target in TARGETS)]
    units: list[tuple[str, Path, tuple[str, ...]]] = []
    leaders: dict[str, str] = {}
    encoders: dict[str, str] = {}
    for name in missing:
        run = _open_run(runs[name])
        sites = [site for site in run.sites if site not in ("gate", "options")]
        # The first Run with this encoder is probed for all.
        leader = encoders.setdefault(_encoder_of(run), name)
        leaders[name] = leader
        for shared in (True, False) if name == leader else (False,):
            group = [site for site in sites if _is_shared(site) == shared]
            units += [(name, runs[name], tuple(group[at : at + _SITES])) for at in range(0, len(group), _SITES)]
    tasks = len(dict.fromkeys(_open_run(runs[missing[0]]).predictions["task_name"])) if missing else 0
    made = pool.map(
        _probe, [(path, sites) for _, path, sites in units], desc="probe", unit="fit",
        sizes=[len(sites) * tasks * len(TARGETS) for *_, sites in units],
    )  # fmt: skip
    for name in missing:
        for target in TARGETS:
            parts = [
                part[target]
                for (owner, _, sites), part in zip(units, made, strict=True)
                if owner == name or (owner == leaders[name] and _is_shared(sites[0]))
            ]
            _joined(parts, run_identity(_open_run(runs[name]))).save(kept[name, target])
    return kept


def _encoder_of(run: Run) -> str:
    """Return what two Runs must share for their encoder states to be equal: weights, clips, dtype."""
    model, clips = run.manifest["model"], run.manifest["benchmark"]["sha"]
    return json.dumps([model["encoder_sha"], model["dtype"], model.get("attn_implementation"), clips])


def _joined(parts: Sequence[ProbeResult], identity: Mapping[str, Any]) -> ProbeResult:
    """Return several results over the same tasks and different sites as one, in the order of tasks and sites."""
    from vpanalysis.probes import ProbeResult

    tasks = {task: number for number, task in enumerate(parts[0].tasks)}

    def stacked(frames: Sequence[pd.DataFrame], order: str | None) -> pd.DataFrame:
        filled = [frame for frame in frames if len(frame)] or list(frames[:1])
        whole = pd.concat(filled, ignore_index=True)
        keys = {"task": whole["task"].map(tasks)} | ({order: whole[order]} if order else {})
        rank = pd.DataFrame(keys, index=whole.index).sort_values(list(keys), kind="stable").index
        return whole.loc[rank].reset_index(drop=True)

    return ProbeResult(
        stacked([part.table for part in parts], "site_order"),
        stacked([part.by_condition for part in parts], "site_order"),
        stacked([part.predictions for part in parts], None),
        parts[0].target,
        {**parts[0].settings, **identity},
    )
