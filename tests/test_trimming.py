from __future__ import annotations

import numpy as np
import pytest
import torch

import vpanalysis as vp
from vpanalysis.errors import RunError
from vpanalysis.trimming import TrimReport, trim_report


@pytest.fixture(scope="module")
def bench() -> vp.Benchmark:
    return vp.load_benchmark("mini", tasks=["gender_prediction", "age_prediction"], limit=24)


def test_in_float32_no_answer_changes(bench: vp.Benchmark, tmp_path) -> None:
    llm = vp.load_model("mini")
    lengths = []
    handle = llm.frontend.tower.register_forward_pre_hook(
        lambda _m, _a, kwargs: lengths.append(kwargs["input_features"].shape[-1]), with_kwargs=True
    )
    report = trim_report(llm, bench, batch_size=4, progress=False)
    handle.remove()
    # Both ways ran: the window of 6 s has 300 mel frames of 20 ms.
    assert max(lengths) == 300 and 0 < min(lengths) < 200
    assert report.items == 24 and report.changed == report.changed_by_batch == 0.0
    assert report.low == 0.0 < report.high < 0.5
    assert report.largest_difference < 1e-4
    assert TrimReport.load(report.save(tmp_path)) == report
    assert "answers changed      0.000 [0.000" in repr(report) and "&lt;" not in report._repr_html_()
    assert report.to_dataframe().loc[0, "dtype"] == "float32"


def test_in_bfloat16_the_share_is_counted_beside_what_the_type_does_anyway(bench: vp.Benchmark) -> None:
    llm = vp.load_model("mini", dtype=torch.bfloat16)
    assert llm.trim_report.startswith("on")
    report = trim_report(llm, bench, batch_size=4, progress=False)
    assert report.dtype == "bfloat16"
    # Larger than float32's by orders of magnitude: the paths really ran in this type. Or none at all: torch 2.4 sums a
    # row in this type in one order, whatever is beside it.
    for gap in (report.largest_by_batch, report.largest_difference):
        assert gap == 0.0 or 1e-3 < gap < 1.0
    assert next(iter(llm.encode([np.zeros(8000, np.float32)], ["tower"]))).streams["tower"].dtype == torch.bfloat16
    assert 0 <= report.changed <= 0.25


def test_without_trimming_there_is_nothing_to_compare(bench: vp.Benchmark) -> None:
    with pytest.raises(RunError, match=r"silence is encoded.*trim=True"):
        trim_report(vp.load_model("mini", trim=False), bench)
