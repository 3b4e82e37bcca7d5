"""A report is one file that needs nothing else, says where it came from, and escapes what data say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import vpanalysis as vp
from vpanalysis import explore
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.errors import RunError

EVIL = "<script>alert(1)</script> who <b>speaks</b>?"


@pytest.fixture(scope="module")
def bench() -> Benchmark:
    few = vp.load_benchmark("mini", tasks=["gender_prediction", "pitch_comparison"], limit=24)
    return few


@pytest.fixture(scope="module")
def runs(bench: Benchmark, tmp_path_factory: pytest.TempPathFactory) -> list[vp.Run]:
    folder = tmp_path_factory.mktemp("runs")
    return [vp.run(name, bench, folder / name, sites="gate" if name != "mini-base" else "tower", progress=False)
            for name in ("mini-base", "mini-pclm")]  # fmt: skip


def test_a_report_is_one_small_file_without_script_or_network(runs: list[vp.Run], tmp_path: Path) -> None:
    place = explore.report(runs, tmp_path / "deep" / "report.html", clips=2)
    page = place.read_text(encoding="utf-8")
    assert place.stat().st_size < 10_000_000
    assert "<script" not in page
    for outside in ("src='http", 'src="http', "href='http", "@import", "url(http"):
        assert outside not in page
    assert page.count("<audio") == 2 and page.count("data:audio/wav") == 2
    for said in ("mini-base", "mini-pclm", "Compared, item by item", "What the mixer weighs", "truth (voice)",
                 "vpanalysis report", "weights"):  # fmt: skip
        assert said in page
    assert page.count("<svg") >= 2
    alone = explore.report(runs[0], tmp_path / "one.html", clips=0).read_text(encoding="utf-8")
    assert "Compared" not in alone and "<audio" not in alone


def test_what_data_say_is_text(bench: Benchmark, tmp_path: Path) -> None:
    items = [replace(item, question=EVIL) for item in bench]
    evil = Benchmark(items, name="<img src=x>", source="test")
    run = vp.run("mini-base", evil, tmp_path / "run", reducers="none", progress=False)
    page = explore.report(run, tmp_path / "evil.html", clips=1, benchmark=evil).read_text(encoding="utf-8")
    assert "<script" not in page and "<img src=x>" not in page and "&lt;script&gt;" in page


def test_what_cannot_be_reported_is_refused(runs: list[vp.Run], tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no Run"):
        explore.report([], tmp_path / "x.html")
    with pytest.raises(RunError, match="is a folder"):
        explore.report(runs, tmp_path)
