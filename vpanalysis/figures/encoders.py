"""Encoders side by side: how well the truth can be read over the depth of Whisper, HuBERT, CLAP or a model's tower.

Why it exists. That paralinguistic cues fade in the deep layers of an encoder could be a matter of what it was trained
for. The paper compares a recogniser (Whisper), a self-supervised model (HuBERT) and one trained with captions (CLAP).

The idea. Encoders have different numbers of layers, so layers stand at relative depth: 0 is what enters the first
layer, 1 what the last one puts out. Compared are Runs on the same benchmark items and the tasks that all of them could
be probed for. What the tower hands on (normed, sometimes pooled) stands apart at the right, for it is no deeper. Models
that answer take part with their encoder; several that share one encoder take part once.

What it cannot show. Widths differ between encoders, and CLAP's between its stages, so a level is partly a matter of how
many features a probe is given; the shape along the depth is the finding. Random weights are no trained model: such an
encoder is drawn thin and called untrained.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pandas as pd

from vpanalysis.figures._entry import Entry
from vpanalysis.figures._layers import about, averaged, encoder_depth, is_labelled, probe_of, pt
from vpanalysis.figures._sources import Sources, lacking
from vpanalysis.plots.style import GREY, SERIES, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vpanalysis.probes import ProbeResult

__all__ = ["ENTRY"]

_RECORD = (
    "vpanalysis run openai/whisper-large-v3 mini --out runs/whisper && vpanalysis probe runs/whisper --save, and the "
    "same for facebook/hubert-large-ll60k and laion/clap-htsat-unfused"
)
_OUT = 1.1
"""Where on the axis the tower's output stands."""


def data(sources: Sources) -> pd.DataFrame:
    """Return a row an encoder and site: the probes of the truth, averaged over the tasks that all encoders have."""
    found = _found(sources)
    if not any(not sources.all[name].answers for name in found):
        alone = len(sources.encoders)
        raise lacking("encoders", f"{alone} Runs of encoders alone, none with probes of the truth", _RECORD)
    # Accuracies on other items, or on other tasks, are not compared.
    shas = Counter(_sha(sources, name) for name in found)
    sha = max(
        shas, key=lambda one: (any(not sources.all[n].answers and _sha(sources, n) == one for n in found), shas[one])
    )
    found = {name: result for name, result in found.items() if _sha(sources, name) == sha}
    tasks = _common(list(found.values()))
    if not tasks:
        raise lacking("encoders", "no task that could be probed in every encoder", _RECORD)
    rows: list[dict[str, Any]] = []
    for name, result in found.items():
        run = sources.all[name]
        layers = sum(site.startswith("encoder[") for site in run.sites)
        model = str(run.manifest["model"]["name"])
        common = {**about(sources, name), "encoder": _written(model, run.answers), "alone": not run.answers,
                  "untrained": "untrained" in model.lower(), "layers": layers}  # fmt: skip
        for row in averaged(run, result, tasks).to_dict("records"):
            site = str(row["site"])
            if not (site.startswith("encoder") or site == "tower"):
                continue
            rows.append({
                **common, "site": site, "site_order": row["site_order"], "depth": encoder_depth(site, layers),
                **{k: row[k] for k in ("value", "low", "high", "chance", "n", "tasks")},
            })  # fmt: skip
    return pd.DataFrame(rows)


def _sha(sources: Sources, name: str) -> str:
    return str(sources.all[name].manifest["benchmark"]["sha"])


def _found(sources: Sources) -> dict[str, ProbeResult]:
    """Return the probes of every encoder alone, and of the first model that answers of each further encoder."""
    found: dict[str, ProbeResult] = {}
    seen: set[tuple[str, str]] = set()
    for name in [*sources.encoders, *sources.names]:
        run = sources.all[name]
        if is_labelled(run):
            continue
        result = probe_of(sources, name, whole=not run.answers)
        key = (str(run.manifest["model"].get("encoder_sha")), _sha(sources, name))
        if result is None or key in seen or not any(site.startswith("encoder") for site in result.sites):
            continue
        seen.add(key)
        found[name] = result
    return found


def _common(results: list[ProbeResult]) -> list[str]:
    """Return the tasks that could be probed at every site of every encoder, in the order of the first."""
    able = []
    for result in results:
        audio = result.table[~result.table["site"].str.startswith("text")]
        able.append(set(audio["task"]) - set(audio.loc[audio["accuracy"].isna(), "task"]))
    return [task for task in results[0].tasks if all(task in one for one in able)]


def _written(model: str, answers: bool) -> str:
    """Return how an encoder is called: random weights are said, and the encoder of a model that answers."""
    if "untrained" in model.lower():
        bare = re.sub(r"[-_ ]*untrained[-_ ]*", " ", model, flags=re.IGNORECASE).strip() or model
        return f"{bare}, untrained (random weights)"
    return f"encoder of {model}" if answers else model


def draw(table: pd.DataFrame, figure: Figure) -> None:
    """Draw a line an encoder over relative depth, named at its right end."""
    ax = figure.subplots()
    names = list(dict.fromkeys(table["run"]))
    ends = []
    for number, name in enumerate(names):
        series = SERIES[number % len(SERIES)]
        rows = table[table["run"] == name].sort_values("site_order", kind="stable")
        untrained = bool(rows["untrained"].iloc[0])
        line = rows.dropna(subset=["depth"])
        look: dict[str, Any] = {
            "color": series.colour, "marker": series.marker, "mfc": "white" if untrained else series.colour,
            "lw": pt(0.8 if untrained else 1.4), "ms": pt(3.5), "elinewidth": pt(0.7), "capsize": pt(1.5), "zorder": 3,
        }  # fmt: skip
        shift = (number - (len(names) - 1) / 2) * 0.006
        _whiskers(ax, line["depth"] + shift, line, ls=series.line, **look)
        out = rows[rows["site"] == "tower"]
        _whiskers(ax, [_OUT + shift * 2] * len(out), out, ls="", **look)
        last = (out if len(out) else line).iloc[-1]
        said = f"{rows['encoder'].iloc[0]}{', organism (planted)' if rows['planted'].iloc[0] else ''}"
        ends.append((float(last["value"]), said, series.colour))
    ax.axhline(float(table["chance"].mean()), color=GREY, ls=(0, (1, 2)), lw=pt(1.0), zorder=1)
    ends.append((float(table["chance"].mean()), "chance", GREY))
    placed = spread([y for y, _, _ in ends], 0.062, 0.02, 0.98)
    for (y, said, colour), at in zip(ends, placed, strict=True):
        ax.annotate(
            said, (1.14, y), xytext=(1.19, at), fontsize=pt(7), va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "lw": pt(0.5), "color": colour, "shrinkA": 1, "shrinkB": 0},
        )  # fmt: skip
    ax.axvline(1.05, color="#8A8A8A", lw=pt(0.7), zorder=0)
    ax.set_xlim(-0.03, 1.14)
    ax.set_ylim(0, 1)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1.0, _OUT], ["0", ".25", ".5", ".75", "1", "out"])
    ax.set_xlabel("relative depth in the encoder (0: into the first layer, 1: out of the last; out: tower)")
    ax.set_ylabel(f"probe accuracy, mean of {int(table['tasks'].max())} tasks")


def _whiskers(ax: Any, x: Any, rows: pd.DataFrame, **look: Any) -> None:
    arms = [(rows["value"] - rows["low"]).clip(lower=0), (rows["high"] - rows["value"]).clip(lower=0)]
    ax.errorbar(x, rows["value"], yerr=arms, **look)


def alt(table: pd.DataFrame) -> str:
    """Say for every encoder where the probe starts, peaks and ends."""
    said = []
    for _, rows in table.dropna(subset=["depth"]).groupby("run", sort=False):
        top, last = rows.sort_values("value").iloc[-1], rows.sort_values("depth").iloc[-1]
        said.append(
            f"{rows['encoder'].iloc[0]} peaks at {top['value']:.2f} (depth {top['depth']:.2f}) "
            f"and ends at {last['value']:.2f}"
        )
    return f"Average probe accuracy over relative encoder depth: {'; '.join(said)}."


ENTRY = Entry(
    id="encoders",
    title="Encoder comparison: where along the depth cues can be read",
    paper="encoder comparison (Whisper, HuBERT, CLAP; curves not published as numbers)",
    caption=(
        "Accuracy of a linear probe of the truth, averaged over tasks that all encoders could be probed for, over "
        "relative depth; whiskers: 95 %, for other speakers and clips of these tasks. Same benchmark items for all. "
        "The paper's claim, known from a secondary digest and not from its curves: cues fade in the deep layers of "
        "Whisper and HuBERT, and CLAP keeps them. Encoders called untrained have random weights and say nothing about "
        "that claim. Widths differ, so compare shapes rather than levels."
    ),
    data=data,
    draw=draw,
    alt=alt,
    height=2.8,
    record=_RECORD,
)  # fmt: skip
"""The entry of the gallery."""
