"""Cells are ratios of means over the kept pairs; brackets stand where the interval holds 0."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from behaviour import drawn, texts
from layered import base, measured, mixed, sources

import vpanalysis as vp
from vpanalysis.figures import LackingError, figure_data


def kept():
    return next(sources(mixed()).results("PatchResult"))[1]


def test_shares_are_ratios_of_means_over_pairs() -> None:
    data = figure_data("patching_map", mixed())
    measured(data)
    pairs = kept().pairs
    assert set(data["swap"]) == {"voice"} and len(data) == 2 + 4
    for row in data.itertuples():
        part = pairs[(pairs["site"] == row.site) & (pairs["span"] == row.span)]
        mine = (part["patched"] - part["base"]).mean() / (part["source"] - part["base"]).mean()
        if np.isfinite(row.value):
            assert row.value == pytest.approx(mine, abs=1e-6)
            assert row.holds_0 == (row.low <= 0 <= row.high)
        else:
            assert row.reason
    assert np.isfinite(data["value"]).any()


def test_both_swaps_stand_side_by_side_and_the_base_after_the_mixer(tmp_path: Path) -> None:
    for place in (mixed(), base()):
        shutil.copytree(place, tmp_path / place.name)
    made = kept()
    for name, swaps in (("mini-pclm-dpo", ["words"]), ("mini-base", ["voice"])):
        run = vp.open_run(tmp_path / name)
        for swap in swaps:
            # Nothing to recover here: the cells hold a dash.
            table = made.table.assign(recovered=np.nan, low=np.nan, high=np.nan, reason="nothing to recover")
            table = made.table if swap == "words" else table
            dataclasses.replace(made, table=table, settings={
                **made.settings, "swap": swap, "weights": run.manifest["model"]["weights"],
            }).save(run)  # fmt: skip
    data = figure_data("patching_map", tmp_path)
    assert list(dict.fromkeys(zip(data["run"], data["swap"], strict=True))) == [
        ("mini-pclm-dpo", "voice"), ("mini-pclm-dpo", "words"), ("mini-base", "voice"),
    ]  # fmt: skip
    figure = drawn("patching_map", tmp_path)
    assert len(figure.axes) == 3
    cells = [text for text in figure.axes[0].texts if text.get_text() not in ("", "mini-pclm-dpo (planted)")]
    shown = data[(data["run"] == "mini-pclm-dpo") & (data["swap"] == "voice")]
    assert sum(text.get_text().startswith("(") for text in cells) == int(shown["holds_0"].sum()) > 0
    assert texts(figure).count("–") == len(shown)


def test_refuses_without_a_patch_of_the_voice() -> None:
    with pytest.raises(LackingError, match=r"vpanalysis reproduce --full --out runs, or python -c"):
        figure_data("patching_map", base())
