"""Results beside their sound: maps in step with the clip, bars that say the table's numbers, cells that tell theirs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import pytest

import vpanalysis as vp
from vpanalysis import explore
from vpanalysis.attribution import AttributionResult, ListenRead, PatchResult
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.errors import RunError
from vpanalysis.explore._factors import MEAN, FactorExplorer
from vpanalysis.explore._patches import PatchExplorer
from vpanalysis.explore.listen_view import AttributionExplorer

TASK = "intonation_perception"
MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def bench() -> Benchmark:
    whole = vp.load_benchmark("mini", tasks=[TASK, "emotion_recognition"])
    return whole.filter(lambda item: item.condition == "conflict" and int(str(item.cell)[-4:]) < 4)


@pytest.fixture(scope="module")
def model() -> vp.AudioLLM:
    return vp.load_model("mini-pclm-dpo")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def factors(model: vp.AudioLLM, bench: Benchmark, folder: Path) -> ListenRead:
    return vp.listen_vs_read(model, bench, families=["twins", "reversed"], cache=folder, progress=False)


@pytest.fixture(scope="module")
def patches(model: vp.AudioLLM, bench: Benchmark, folder: Path) -> PatchResult:
    sites = ["encoder[0]", "mixed", "text[1]"]
    return vp.patch(model, bench, swap="voice", sites=sites, pairs=4, cache=folder, progress=False)


def _attributed(model: vp.AudioLLM, bench: Benchmark, folder: Path, site: str) -> AttributionResult:
    how: dict[str, Any] = {"n_steps": 4, "faithfulness": False, "cache": folder, "progress": False, "tolerance": 99.0}
    return vp.attribute(model, bench.select(limit=3), site=site, **how)


@pytest.fixture(scope="module", params=["features", "tower", "text.embed"])
def attributed(request: pytest.FixtureRequest, model: vp.AudioLLM, bench: Benchmark, folder: Path) -> AttributionResult:
    return _attributed(model, bench, folder, request.param)


@pytest.fixture
def map_view(attributed: AttributionResult) -> Iterator[AttributionExplorer]:
    made = explore.listen(attributed)
    assert isinstance(made, AttributionExplorer)
    yield made
    made.close()


def test_the_attribution_runs_in_step_with_the_sound(
    map_view: AttributionExplorer, attributed: AttributionResult, bench: Benchmark
) -> None:
    item = attributed.items[0]
    seconds = bench[item].duration_s
    assert map_view.state["item"] == item and map_view.player.clip["seconds"] == pytest.approx(seconds)
    (track,) = map_view.player.tracks
    values = np.frombuffer(track["values"], "<f4")
    assert abs(len(values) * track["step_s"] - seconds) < 2 * track["step_s"] + 0.05
    found = attributed.map(item)
    if found.dims == ("token",):
        found = found[found["span"] == "audio"]
        assert "vp-token" in map_view.below.value
    total = float(found.sum())
    step = 1.0 if "image" in track else track["step_s"]
    assert float(values.sum()) * step == pytest.approx(total, rel=1e-3, abs=1e-3)
    assert ("image" in track) == (attributed.settings["site"] == "features")


def test_another_item_is_another_picture_and_another_clip(map_view: AttributionExplorer) -> None:
    before = (map_view.below.value, map_view.player.tracks[0]["values"], map_view.player.clip["wav"], map_view.static())
    map_view.chooser.next.click()
    after = (map_view.below.value, map_view.player.tracks[0]["values"], map_view.player.clip["wav"], map_view.static())
    assert all(a != b for a, b in zip(before, after, strict=True))
    assert map_view.state["item"] == map_view.result.items[1]


def test_the_numbers_beside_a_map_are_those_of_the_table(map_view: AttributionExplorer) -> None:
    row = map_view.result.table.iloc[0]
    for name in ("margin", "baseline_margin", "sum"):
        assert f"{row[name]:+.2f}" in map_view.below.value and f"{row[name]:+.2f}" in map_view._repr_html_()


def test_a_task_leaves_its_items_and_open_reaches_the_others(map_view: AttributionExplorer) -> None:
    table = map_view.result.table
    map_view.task.value = TASK
    assert [i for _, i in map_view.chooser.list.options] == list(table.loc[table["task"] == TASK, "id"])
    other = table.loc[table["task"] != TASK, "id"].iloc[0]
    map_view.open(other)
    assert map_view.state == {"task": "all", "item": other}
    with pytest.raises(RunError, match="nowhere"):
        map_view.open("nowhere")


def test_without_the_clip_the_map_is_still_drawn(attributed: AttributionResult) -> None:
    elsewhere = replace(attributed, settings={**attributed.settings, "benchmark": "elsewhere"})
    made = explore.listen(elsewhere)
    html = made._repr_html_()
    assert "No clip: no benchmark is known" in html and "<svg" in html and "<audio" not in html
    made.close()


@pytest.fixture
def bars(factors: ListenRead) -> Iterator[FactorExplorer]:
    made = explore.listen(factors)
    assert isinstance(made, FactorExplorer)
    yield made
    made.close()


def _numbers(html: str) -> list[str]:
    return re.findall(r"<td>([+-][^<]*)</td>", html)


def test_bars_of_a_task_are_the_tables_means_with_their_intervals(bars: FactorExplorer, factors: ListenRead) -> None:
    bars.task.value = TASK
    row = factors.table[(factors.table["family"] == "twins") & (factors.table["task"] == TASK)].iloc[0]
    shown = _numbers(bars.bars.value)
    assert shown[4] == f"{row['listen']:+.2f} [{row['listen_low']:+.2f}, {row['listen_high']:+.2f}]"
    items = factors.items[(factors.items["family"] == "twins") & (factors.items["task"] == TASK)]
    assert shown[0].startswith(f"{items['both'].mean():+.2f}")
    assert len(shown) == 7 and bars.bars.value in bars._repr_html_()


def test_bars_of_an_item_are_its_own_and_its_clip_plays(bars: FactorExplorer, factors: ListenRead) -> None:
    assert bars.state["item"] == MEAN and bars.player.clip == {}
    bars.chooser.next.click()
    row = factors.items[factors.items["id"] == bars.state["item"]].iloc[0]
    shown = _numbers(bars.bars.value)
    wanted = [row[name] for name in ("both", "voice", "words", "neither", "listen", "read", "interaction")]
    assert [float(text) for text in shown] == pytest.approx(wanted, abs=0.006)
    assert bars.player.clip["name"] == bars.state["item"] and "<audio" in bars._repr_html_()


def test_another_family_shows_other_items_and_one_that_was_not_measured_says_so(
    bars: FactorExplorer, factors: ListenRead
) -> None:
    before = bars.bars.value
    bars.family.value = "reversed"
    items = factors.items[factors.items["family"] == "reversed"]
    assert bars.bars.value != before and [i for _, i in bars.chooser.list.options][1:] == list(items["id"])
    empty = factors.table.iloc[[0]].assign(family="flattened", verdict="not measured", n=0, listen=np.nan, read=np.nan)
    more = replace(factors, table=pd.concat([factors.table, empty], ignore_index=True))
    made = explore.listen(more)
    assert isinstance(made, FactorExplorer)
    made.family.value = "flattened"
    assert "not measured" in made.bars.value and "not measured" in made._repr_html_()
    made.close()


@pytest.fixture
def cells(patches: PatchResult) -> Iterator[PatchExplorer]:
    made = explore.listen(patches)
    assert isinstance(made, PatchExplorer)
    yield made
    made.close()


def test_every_cell_of_the_map_tells_its_numbers_and_can_be_reached(cells: PatchExplorer, patches: PatchResult) -> None:
    rows = patches.table[patches.table["task"] == "all"]
    html = cells.map.value
    assert html.count("tabindex='0'") == len(rows) == html.count("role='tooltip'")
    for one in rows.to_dict("records"):
        assert f"{one['site']}, {one['span']}: share " in html
        assert f"moved {one['moved']:+.2f}".replace("-0.00", "+0.00") in html
    assert html in cells._repr_html_()


def test_task_and_number_change_the_map(cells: PatchExplorer) -> None:
    before = cells.map.value
    cells.value.value = "moved"
    moved = cells.map.value
    cells.task.value = TASK
    assert len({before, moved, cells.map.value}) == 3 and cells.state == {"task": TASK, "value": "moved"}


def test_markup_in_names_is_text(factors: ListenRead, patches: PatchResult, attributed: AttributionResult) -> None:
    def marked(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
        return table.assign(**{name: table[name].astype(str) + MARKUP for name in columns})

    told = {"benchmark": MARKUP, "model": MARKUP}
    odd: list[Any] = [
        replace(factors, table=marked(factors.table, "verdict"), items=marked(factors.items, "id"),
                settings={**factors.settings, **told}),
        replace(patches, table=marked(patches.table, "site", "reason"), settings={**patches.settings, **told}),
        replace(attributed, table=marked(attributed.table, "id"), maps=marked(attributed.maps, "id"),
                settings={**attributed.settings, **told}),
    ]  # fmt: skip
    for result in odd:
        made = explore.listen(result)
        if isinstance(made, FactorExplorer):
            made.chooser.next.click()
        texts = [w.value for w in _walk(made.root) if isinstance(w, widgets.HTML)] + [made._repr_html_()]
        assert any("&lt;script&gt;" in text for text in texts)
        assert not any("<script>" in text or "<img" in text for text in texts)
        made.close()


def _walk(widget: Any) -> list[Any]:
    return [widget, *(one for child in getattr(widget, "children", ()) for one in _walk(child))]


def test_other_things_are_refused(factors: ListenRead) -> None:
    with pytest.raises(RunError, match="a int"):
        explore.listen(3)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="without rows"):
        explore.listen(replace(factors, table=factors.table.iloc[:0]))


def test_closed_explorers_leave_no_widget(factors: ListenRead, patches: PatchResult, bench: Benchmark) -> None:
    before = len(widgets.widgets.widget._instances)
    for _ in range(25):
        for result in (factors, patches):
            explore.listen(result, bench).close()
    assert len(widgets.widgets.widget._instances) == before
