"""Small Runs of bundled checkpoints for the figures about behaviour, and what any drawn figure must keep to."""

from __future__ import annotations

import atexit
import itertools
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

import vpanalysis as vp
from vpanalysis.attribution import condition
from vpanalysis.attribution.paraphrases import WORDINGS
from vpanalysis.figures import LackingError, Sources, build_figure, figure_data

LIMIT = 60
CHECKPOINTS = ("mini-base", "mini-static", "mini-pclm", "mini-pclm-dpo")


@lru_cache(maxsize=1)
def folder() -> Path:
    """Return a folder of Runs: four checkpoints, two of them reversed too, and results in that of the mixer."""
    out = Path(tempfile.mkdtemp(prefix="vpanalysis-figures-"))
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    bench = vp.load_benchmark("mini", limit=LIMIT)
    quiet: dict[str, Any] = {"progress": False}
    for name in CHECKPOINTS:
        model = vp.load_model(name)
        run = vp.run(model, bench, out / name, **quiet)
        if name in ("mini-base", "mini-pclm"):
            vp.run(model, condition(bench, "reversed"), out / f"{name}-reversed", **quiet)
        if name == "mini-pclm":
            vp.listen_vs_read(model, bench, families=["reversed"], **quiet).save(run)
            wordings = {key: WORDINGS[key] for key in ("reworded", "options first")}
            vp.paraphrase(model, bench, wordings=wordings, **quiet).save(run)
    return out


@lru_cache(maxsize=1)
def sources() -> Sources:
    """Return them all."""
    return Sources.of(folder())


def some(*names: str) -> Sources:
    """Return some of them."""
    return Sources.of([folder() / name for name in names])


def renamed(name: str, to: Path, model: str, change: Callable[[dict[str, Any]], Any] = lambda _: None) -> Path:
    """Return a copy of a Run as if it was of somebody's own model."""
    shutil.copytree(folder() / name, to)
    path = to / "manifest.json"
    made = json.loads(path.read_text(encoding="utf-8"))
    made["model"]["name"] = model
    change(made)
    path.write_text(json.dumps(made), encoding="utf-8")
    return to


@cache
def table(name: str) -> pd.DataFrame:
    """Return the data of a figure of all Runs."""
    return figure_data(name, sources())


def conflict(name: str) -> pd.DataFrame:
    """Return predictions on conflict items with what was right and what was read, from the raw columns."""
    items = sources().all[name].predictions
    items = items[items["condition"] == "conflict"].copy()
    items["right"] = items["pred_logits"] == items["truth"]
    items["read"] = [p in list(c) for p, c in zip(items["pred_logits"], items["claims"], strict=True)]
    return items


def assert_well_formed(data: pd.DataFrame) -> None:
    """Every measured estimate lies in its interval; origins and groups are never mixed."""
    for column in data.columns:
        assert data[column].map(lambda v: isinstance(v, (str, bool, int, float, np.generic))).all(), column
    known = data[data["low"].notna()]
    assert len(known)
    assert (known["low"] <= known["value"] + 1e-9).all() and (known["value"] <= known["high"] + 1e-9).all()
    measured = data["origin"] == "measured"
    assert (data.loc[measured & data["planted"], "group"] == "organism (planted)").all()
    assert not data.loc[~measured, "planted"].any()


def drawn(name: str, runs: Any, style: str = "paper") -> Figure:
    """Return a drawn figure whose texts were checked: none cut, none over another, none too small."""
    figure = build_figure(name, runs, style=style)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes, outside = [], _outside(figure)
    for text in figure.findobj(Text):
        hidden = not text.get_visible() or not text.get_text().strip() or (text.axes and not text.axes.get_visible())
        if hidden or not isinstance(text, Text) or id(text) in outside:
            continue
        assert text.get_fontsize() >= 6, text.get_text()
        box = text.get_window_extent(renderer)
        assert box.x0 >= -1 and box.y0 >= -1, f"cut: {text.get_text()!r}"
        assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, f"cut: {text.get_text()!r}"
        boxes.append((text.get_text(), box))
    for (one, a), (two, b) in itertools.combinations(boxes, 2):
        wide, high = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert wide <= 1.5 or high <= 1.5, f"{one!r} over {two!r}"
    return figure


def _outside(figure: Figure) -> set[int]:
    """Return labels of ticks that lie outside the view and are not drawn."""
    found = set()
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        room = 1e-9 * (high - low)
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low - room <= tick.get_loc() <= high + room:
                found |= {id(tick.label1), id(tick.label2)}
    return found


def texts(figure: Figure) -> list[str]:
    """Return what is written in a figure."""
    return [text.get_text() for text in figure.findobj(Text) if text.get_text().strip()]


def refusal(name: str, runs: Any) -> LackingError:
    """Return the error with which a figure refuses."""
    try:
        figure_data(name, runs)
    except LackingError as error:
        assert error.record and "vpanalysis reproduce --full --out runs" in str(error)
        return error
    raise AssertionError(f"{name} was drawn")
