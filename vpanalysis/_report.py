"""What `reproduce` leaves to look at: tables as CSV, pictures as PNG and PDF.

Every number behind a picture is in a table beside it. Files are written to ``<out>/tables`` and ``<out>/pictures`` and
carry a fingerprint of the scores and probes they were made from (``report.json``), so that they are made again exactly
when those changed.

Pictures of the bundled checkpoints carry the note that their layer profile is planted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from vpanalysis._csv import csv_text
from vpanalysis.organism import PLANTED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vpanalysis._pool import Pool
    from vpanalysis.probes import ProbeResult
    from vpanalysis.scoring import Scores

__all__ = ["has_probe", "has_score", "load_probes", "load_scores", "write"]

Kept = Mapping[str, Mapping[str, Path]]


# --- results on disk ---------------------------------------------------------------------------------------------


def has_score(folder: Path) -> bool:
    """Whether a Score lies in `folder`."""
    return (folder / "score.json").is_file()


def has_probe(folder: Path) -> bool:
    """Whether a complete probe result lies in `folder`: its record is written last."""
    return (folder / "probe.json").is_file()


def load_scores(kept: Kept) -> Scores:
    """Read the Score of every checkpoint."""
    from vpanalysis.scoring import Score, Scores

    return Scores({name: Score.load(paths["score"]) for name, paths in kept.items()})


def load_probes(kept: Kept, target: str) -> dict[str, ProbeResult]:
    """Read the probe result of every checkpoint for one target."""
    from vpanalysis.probes import ProbeResult

    return {name: ProbeResult.load(paths[target]) for name, paths in kept.items()}


def _stacked(frames: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return frames below each other with a first column that says which checkpoint each row is of."""
    return pd.concat([frame.assign(checkpoint=name) for name, frame in frames.items()], ignore_index=True)[
        ["checkpoint", *next(iter(frames.values())).columns]
    ]


# --- everything --------------------------------------------------------------------------------------------------


def write(out: Path, kept: Kept, pool: Pool, *, code: str) -> list[Path]:
    """Write tables and pictures unless they are there already; return all of them."""
    stamp = _fingerprint(kept, code)
    record = out / "report.json"
    if record.is_file():
        try:
            known = json.loads(record.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            known = {}
        files = [out / name for name in known.get("files", [])]
        if known.get("fingerprint") == stamp and all(path.is_file() for path in files):
            return files
    plain = {name: dict(paths) for name, paths in kept.items()}
    # The seven grids of ten panels take longest and go first; the tables are one unit among the others.
    units: list[tuple[Any, ...]] = [("layers", out, plain, name) for name in kept]
    units += [("overview", out, plain, name) for name in kept]
    units += [("gates", out, plain, name) for name in kept]
    units += [("scores", out, plain, ""), ("tables", out, plain, "")]
    files = [path for made in pool.map(_make, units, desc="tables and pictures", unit="file") for path in made]
    names = sorted(str(path.relative_to(out)) for path in files)
    record.write_text(json.dumps({"fingerprint": stamp, "files": names}, indent=1) + "\n", encoding="utf-8")
    return [out / name for name in names]


def _fingerprint(kept: Kept, code: str) -> str:
    """Return a hash of everything the report is made from; the folder names carry the content's hash already."""
    content = {name: [paths[verb].name for verb in ("score", "truth", "claim")] for name, paths in kept.items()}
    return hashlib.sha256(json.dumps([content, code]).encode()).hexdigest()


def _make(kind: str, out: Path, kept: Kept, name: str) -> list[Path]:
    """Make one unit of the report."""
    import matplotlib

    matplotlib.use("Agg")
    if kind == "tables":
        return _tables(out / "tables", kept)
    if kind == "scores":
        return _scores(out / "pictures", kept)
    makers = {"layers": _layers, "overview": _overview, "gates": _gates}
    return makers[kind](out / "pictures", {name: kept[name]}, name)


def _tables(folder: Path, kept: Kept) -> list[Path]:
    from vpanalysis.plots import gate_table
    from vpanalysis.probes import own_accuracy
    from vpanalysis.runs import open_run

    scores, runs = load_scores(kept), {name: open_run(paths["run"]) for name, paths in kept.items()}
    truth, claim = load_probes(kept, "truth"), load_probes(kept, "claim")
    tables = {
        "overall": scores.overall(),
        "scores": scores.to_dataframe(),
        "per_task": _stacked({name: score.per_task for name, score in scores.items()}),
        "probes_truth": _stacked({name: result.to_dataframe() for name, result in truth.items()}),
        "probes_claim": _stacked({name: result.to_dataframe() for name, result in claim.items()}),
        "own_accuracy": _stacked({name: own_accuracy(runs[name], truth[name]) for name in kept}),
    }
    gated = {name: gate_table(run) for name, run in runs.items() if run.gates is not None}
    if gated:
        tables["gates"] = _stacked(gated)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for stem, table in tables.items():
        path = folder / f"{stem}.csv"
        path.write_text(csv_text(table), encoding="utf-8", newline="")
        written.append(path)
    return written


def _saved(figure: Figure, folder: Path, stem: str) -> list[Path]:
    """Save a figure as PNG and PDF, without the date of drawing, and close it."""
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{stem}.png", folder / f"{stem}.pdf"]
    figure.savefig(paths[0], dpi=150, metadata={"Software": None})
    figure.savefig(paths[1], metadata={"CreationDate": None})
    plt.close(figure)
    return paths


def _figure_of(axes: Any) -> Figure:
    figure: Figure = axes.get_figure(root=True)
    return figure


def _scores(folder: Path, kept: Kept) -> list[Path]:
    from vpanalysis import plots

    scores = load_scores(kept)
    written = _saved(_figure_of(plots.acc_vs_ala(scores, note=PLANTED)), folder, "acc_vs_ala")
    return written + _saved(_figure_of(plots.hearing_bars(scores, note=PLANTED)), folder, "hearing")


def _layers(folder: Path, kept: Kept, name: str) -> list[Path]:
    from vpanalysis import plots
    from vpanalysis.probes import own_accuracy
    from vpanalysis.runs import open_run

    truth, claim = load_probes(kept, "truth")[name], load_probes(kept, "claim")[name]
    own = own_accuracy(open_run(kept[name]["run"]), truth)
    numbers = own[["accuracy", "low", "high"]].to_numpy(dtype=float)
    lines = {str(task): (float(a), float(b), float(c)) for task, (a, b, c) in zip(own["task"], numbers, strict=True)}
    axes = plots.layer_grid(truth, claim, lines, title=f"Layer curves: {name}", note=PLANTED)
    return _saved(_figure_of(axes[0]), folder, f"layers_{name}")


def _overview(folder: Path, kept: Kept, name: str) -> list[Path]:
    from vpanalysis import plots

    axes = plots.layer_overview(load_probes(kept, "truth")[name], note=f"{name}. {PLANTED}")
    return _saved(_figure_of(axes), folder, f"overview_{name}")


def _gates(folder: Path, kept: Kept, name: str) -> list[Path]:
    from vpanalysis import plots
    from vpanalysis.runs import open_run

    run = open_run(kept[name]["run"])
    if run.gates is None:
        return []
    return _saved(_figure_of(plots.gate_weights(run, note=PLANTED)), folder, f"gates_{name}")
