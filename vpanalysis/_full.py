"""What the gallery of figures needs beyond scores and linear probes: one more stage of `reproduce`, with ``full=True``.

Why it exists. Most of the paper's claims rest on something that a Run does not hold by itself: answers to clips played
backwards, probes of more layers, encoders of other kinds, and, beyond the paper, what happens when states are changed.
Each of these is one call of a public verb; this module makes the calls and keeps what they return in the Run that they
explain, where the figures find it.

The idea. A *part* is a verb with its settings, done for one checkpoint. Parts are units that two processes share; one
whose result is there, for this Run and this code, is not done again. Interventions ask an even share of the items
(``_ITEMS``), because their intervals narrow with speakers and wordings and not with more clips of them.

The encoders of other kinds are *untrained*: a Whisper, a HuBERT and a CLAP tower of a few layers with random weights,
since no trained one comes with the package. They tell what layers that learned nothing hold, which is more than chance
and more than a trained layer that was taught to forget, and are called untrained wherever they are shown.

>>> [part.verb for part in parts_of("mini-base", ("mini-base",))][:2]
['reversed', 'listen']
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpanalysis.organism.untrained import UNTRAINED, untrained

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Benchmark
    from vpanalysis.models.facade import AudioLLM

__all__ = ["Part", "parts_of", "record"]

_ITEMS = 900
"""Clips, twins included, that interventions are done on: 300 conflict items of ten tasks."""

_PAIRS = 60


@dataclass(frozen=True)
class Part:
    """A verb with its settings for one checkpoint.

    Attributes
    ----------
    name : str
        Checkpoint or encoder.
    verb : str
    settings : tuple of (name, value)
        Of the verb.
    weight : int
        About how long it takes, for the progress bar and the order.
    """

    name: str
    verb: str
    settings: tuple[tuple[str, Any], ...] = ()
    weight: int = 1


def parts_of(name: str, names: Sequence[str]) -> list[Part]:
    """Return what is recorded for a checkpoint, given which others there are."""
    mixers = ("mini-static", "mini-pclm", "mini-pclm-dpo")
    out = [Part(name, "reversed", weight=2), Part(name, "listen", weight=6)]
    if name in mixers:
        out.append(Part(name, "paraphrase", weight=2))
    if name in ("mini-base", "mini-pclm-dpo"):
        out += [Part(name, "patch", (("swap", swap),), weight=8) for swap in ("voice", "words")]
    if name == "mini-base" or (name == names[0] and "mini-base" not in names):
        out.append(Part(name, "fuse", weight=4))
        out.append(Part(name, "gap", weight=3))
        out += [Part(name, "depth", (("estimator", f"mlp{depth}"),), weight=10 + 2 * depth) for depth in (1, 3, 5)]
    return out


def record(pool: Any, names: Sequence[str], limit: int | None, folder: Path) -> list[Path]:
    """Record everything for the checkpoints whose Runs are in `folder`; return where it is.

    Parameters
    ----------
    pool : Pool
    names : sequence of str
        Checkpoints.
    limit : int, optional
        Clips of the benchmark, as the Runs were made with.
    folder : Path
        Where the Runs are.
    """
    parts = [part for name in names for part in parts_of(name, names)]
    parts += [Part(name, "encoder", weight=8) for name in UNTRAINED]
    # The longest first: two processes then end together.
    parts.sort(key=lambda part: -part.weight)
    return list(
        pool.map(
            _do, [(part, limit, folder) for part in parts], desc="what the figures need", unit="part",
            sizes=[part.weight for part in parts],
        )
    )  # fmt: skip


def _do(part: Part, limit: int | None, folder: Path) -> Path:
    makers: Mapping[str, Callable[[Part, int | None, Path], Path]] = {
        "reversed": _reversed, "encoder": _encoder, "listen": _kept, "paraphrase": _kept, "patch": _kept,
        "fuse": _kept, "depth": _depth, "gap": _gap,
    }  # fmt: skip
    return makers[part.verb](part, limit, folder)


# --- interventions ------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _some(limit: int | None, most: int) -> Benchmark:
    from vpanalysis.benchmark.sources import load_benchmark

    return load_benchmark("mini", limit=most if limit is None else min(limit, most))


def _home(part: Part, folder: Path, **more: object) -> Path:
    from vpanalysis.reproduce import kept_at

    return kept_at(folder / part.name, part.verb, **dict(part.settings), **more)


def _has(target: Path) -> bool:
    return any((target / name).is_file() for name in ("result.json", "probe.json", "controls.json"))


def _kept(part: Part, limit: int | None, folder: Path) -> Path:
    """Do an intervention, or find its result."""
    from vpanalysis import attribution
    from vpanalysis.reproduce import bundled_model

    bench = _some(limit, _ITEMS)
    target = _home(part, folder, items=len(bench))
    if not _has(target):
        model = bundled_model(part.name)
        made: Any
        if part.verb == "listen":
            made = attribution.listen_vs_read(model, bench, progress=False)
        elif part.verb == "paraphrase":
            made = attribution.paraphrase(model, bench, progress=False)
        elif part.verb == "fuse":
            made = attribution.fuse_layers(model, bench, progress=False)
        else:
            made = attribution.patch(
                model, bench, sites=_patched(model), pairs=_PAIRS, progress=False, **dict(part.settings)
            )
        made.save(target)
    return target


def _patched(model: AudioLLM) -> list[str]:
    """Return the places on the way from the encoder to the answer."""
    return [s for s in model.sites if s.startswith(("streams", "text")) or s in ("tower", "mixed", "projector")]


# --- answers to clips played backwards ----------------------------------------------------------------------------


def _reversed(part: Part, limit: int | None, folder: Path) -> Path:
    """Ask a checkpoint the conflict items played backwards."""
    from vpanalysis.attribution.conditions import condition
    from vpanalysis.benchmark.sources import load_benchmark
    from vpanalysis.reproduce import bundled_model
    from vpanalysis.runs import run

    conflict = load_benchmark("mini", limit=limit).select(conditions="conflict")
    made = run(
        bundled_model(part.name), condition(conflict, "reversed"), folder / f"{part.name}-reversed", sites=["options"],
        progress=False, force=_is_other(folder / f"{part.name}-reversed", len(conflict)),
    )  # fmt: skip
    return made.path


def _is_other(path: Path, items: int) -> bool:
    """Whether a Run of another number of items is in the way, which is then made again."""
    from vpanalysis.errors import RunError
    from vpanalysis.runs import open_run

    try:
        return open_run(path).n_items != items
    except RunError:
        return False


# --- probes -------------------------------------------------------------------------------------------------------


def _every_second(sites: Sequence[str]) -> list[str]:
    """Return every second layer of encoder and language model, and what lies between: the paper's choice."""
    out = []
    for group in ("encoder[", "text["):
        layers = [site for site in sites if site.startswith(group)]
        out += layers[1::2] or layers
    between = [site for site in sites if site in ("tower", "projector", "mixed")]
    return [site for site in sites if site in {*out, *between}]


def _depth(part: Part, limit: int | None, folder: Path) -> Path:
    """Fit probes of one depth on every second layer."""
    from vpanalysis.probes import probe_layers
    from vpanalysis.runs import open_run

    target = _home(part, folder)
    if not _has(target):
        opened = open_run(folder / part.name)
        made = probe_layers(
            opened, "truth", sites=_every_second(opened.sites), group_by="speaker", shuffles=0, progress=False,
            **dict(part.settings),
        )  # fmt: skip
        made.save(target)
    return target


def _gap(part: Part, limit: int | None, folder: Path) -> Path:
    """Compare probes with the model's own answers."""
    from vpanalysis.probes import probe_controls
    from vpanalysis.runs import open_run

    target = _home(part, folder)
    if not _has(target):
        probe_controls(open_run(folder / part.name), which=["gap"]).save(target)
    return target


def _encoder(part: Part, limit: int | None, folder: Path) -> Path:
    """Record and probe an untrained encoder on the same items."""
    from vpanalysis.benchmark.sources import load_benchmark
    from vpanalysis.probes import probe_layers
    from vpanalysis.runs import run

    place = folder / part.name
    bench = load_benchmark("mini", limit=limit)
    made = run(untrained(part.name), bench, place, progress=False, force=_is_other(place, len(bench)))
    target = _home(part, folder)
    if not _has(target):
        probe_layers(made, "truth", group_by="speaker", shuffles=0, progress=False).save(target)
    return made.path
