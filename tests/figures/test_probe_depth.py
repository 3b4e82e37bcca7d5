"""Depths of probes are compared at the same sites and on the same tasks, linear before network."""

from __future__ import annotations

import pytest
from behaviour import drawn
from layered import DEPTH_SITES, base, measured, mixed, sources, weighted

from vpanalysis.figures import LackingError, figure_data


@pytest.fixture(scope="module")
def data():
    return figure_data("probe_depth", base())


def test_only_common_sites_and_the_paper_s_linear_probe(data) -> None:
    measured(data)
    assert list(dict.fromkeys(data["estimator"])) == ["mlp1", "mlp3"]
    assert set(data["site"]) == set(DEPTH_SITES) and set(data["depth"]) == {"linear", "3 layers"}


def test_numbers_are_those_of_the_predictions(data) -> None:
    for estimator in ("mlp1", "mlp3"):
        result = next(sources(base()).results("ProbeResult", "mini-base", estimator=estimator))[1]
        own = data[data["estimator"] == estimator]
        for site, part in own.groupby("site"):
            mine = weighted(result, site)
            cells = part.set_index("task")["value"]
            assert cells["average"] == pytest.approx(mine.mean(), abs=1e-9)
            for task, value in mine.items():
                assert cells[task] == pytest.approx(value, abs=1e-9)


def test_picture_names_every_depth() -> None:
    figure = drawn("probe_depth", base())
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == ["chance", "linear (Adam)", "3 layers"]


def test_refuses_with_the_commands() -> None:
    with pytest.raises(LackingError) as error:
        figure_data("probe_depth", mixed())
    for estimator in ("mlp1", "mlp3", "mlp5"):
        assert f"--estimator {estimator}" in error.value.record
