"""Runs on labelled clips are found by their items; without one the commands are named."""

from __future__ import annotations

import pytest
from behaviour import drawn
from layered import QUIET, base, labelled, measured, weighted

import vpanalysis as vp
from vpanalysis.figures import LackingError, figure_data


def test_refuses_with_the_commands() -> None:
    with pytest.raises(LackingError) as error:
        figure_data("natural_speech", base())
    wanted = "vpanalysis run MODEL FOLDER --out runs/natural && vpanalysis probe runs/natural --save"
    assert error.value.record == wanted


def test_asks_for_probes_first_and_shows_them_then() -> None:
    with pytest.raises(LackingError, match=r"vpanalysis probe .*natural --save"):
        figure_data("natural_speech", [labelled(), base()])
    result = vp.probe_layers(vp.open_run(labelled()), shuffles=0, **QUIET)
    path = result.save()
    try:
        data = figure_data("natural_speech", [labelled(), base()])
        measured(data)
        assert set(data["run"]) == {"natural"} and set(data["benchmark"]) == {"clips"}
        assert set(data["task"]) == {"labelled"} and set(data["grouped_by"]) == {"speaker"}
        for site, part in data.groupby("site"):
            assert part["value"].item() == pytest.approx(weighted(result, site)["labelled"], abs=1e-9)
        drawn("natural_speech", [labelled(), base()])
    finally:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
