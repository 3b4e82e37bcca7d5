"""Two small entries, and stand-ins for Runs, for the tests of the gallery; importable, so that processes find them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vpanalysis.figures import Entry, LackingError, Sources

HERE = Path(__file__).parent


def write_run(folder: Path, name: str = "mini-base", **changes: Any) -> Path:
    """Write the manifest of a Run, which is all that these entries read of one."""
    manifest: dict[str, Any] = {
        "format": "vpanalysis-run/1",
        "model": {"name": name, "weights": {"llm": "aa"}, "answers": True, "streams": None},
        "benchmark": {"name": "mini", "sha": "bb", "items": 4},
        "prompt": {"sha": "cc"},
        "plan": {"tower": ["mean"]},
        "block_size": 2,
        "values": [0.25, 1 / 3, 0.5],
    }
    for key, value in changes.items():
        where = manifest
        *path, last = key.split("__")
        for part in path:
            where = where[part]
        where[last] = value
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def curve_data(sources: Sources) -> pd.DataFrame:
    rows = [
        {"name": name, "x": number, "value": value, "planted": sources.is_planted(name), "origin": "measured"}
        for name in list(sources.all)
        for number, value in enumerate(sources.all[name].manifest["values"])
    ]
    if not rows:
        raise LackingError("demo_curve", found="no Run with values", record="vpanalysis run mini mini --out runs/mini")
    return pd.DataFrame(rows)


def draw_curve(data: pd.DataFrame, figure: Any) -> None:
    axes = figure.subplots()
    for name, part in data.groupby("name"):
        axes.plot(part["x"], part["value"], marker="o", label=name)


def draw_rich(data: pd.DataFrame, figure: Any) -> None:
    left, right = figure.subplots(1, 2)
    for name, part in data.groupby("name"):
        left.errorbar(part["x"], part["value"], yerr=0.1, marker="o", label=name)
    left.set_xlabel("number of κ ± →")
    left.legend()
    image = right.imshow(np.outer(data["x"], data["value"]), aspect="auto")
    figure.colorbar(image, ax=right)


def table_data(sources: Sources) -> pd.DataFrame:
    return pd.DataFrame({"model": ["a_b", "50 % & more"], "value": [17.4, -0.5], "origin": "paper"})


def table_layout(data: pd.DataFrame) -> pd.DataFrame:
    layout = pd.DataFrame({"Model": data["model"], "Acc_GT": data["value"].map("{:.2f}".format)})
    layout.attrs["notes"] = ["printed in the paper; no interval"]
    return layout


def draw_table(data: pd.DataFrame, figure: Any) -> None:
    figure.text(0.1, 0.5, " ".join(data["model"]), parse_math=False)


def _alt(data: pd.DataFrame) -> str:
    return f"{len(data)} rows [of a *demo*]"


CURVE = Entry(
    "demo_curve", "A curve | of `values`", "Figure 3", "What the Runs hold_.", curve_data, draw_curve, _alt, height=2.0
)
RICH = Entry("demo_rich", "Clips, κ", "none", "Bars of error and an image.", curve_data, draw_rich, _alt, height=2.0)
TABLE = Entry(
    "demo_table", "A table", "none", "Two rows.", table_data, draw_table, _alt, kind="table", width="single",
    height=1.0, layout=table_layout,
)  # fmt: skip


def entries() -> dict[str, Entry]:
    return {one.id: one for one in (CURVE, TABLE)}


def lacking_data(sources: Sources) -> pd.DataFrame:
    raise LackingError("demo_lacking", found="nothing", record="vpanalysis demo")


def entries_with_one_that_lacks() -> dict[str, Entry]:
    one = Entry("demo_lacking", "Never", "none", "Never drawn.", lacking_data, draw_table, _alt)
    return {one.id: one, **entries()}
