"""Pictures that answer to pointer and keys, cells that are run again, a report's page, and the README's picture."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from conftest import SHOTS, Lab, Watch, notebook, run_all

import vpanalysis as vp
from vpanalysis import explore

SETUP = """
import vpanalysis as vp
from vpanalysis import explore
bench = vp.load_benchmark("mini", limit=LIMIT)
runs = [vp.run(name, bench, f"runs/LIMIT/{name}", progress=False) for name in ("mini-base", "mini-pclm")]
"""


def setup(limit: int = 30) -> str:
    return SETUP.replace("LIMIT", str(limit))


def quiet(watch: Watch) -> None:
    assert watch.hosts <= {"127.0.0.1"}, watch.hosts
    assert not watch.errors, watch.errors


def until(page: Any, test: str, *given: Any, seconds: float = 20.0) -> None:
    """Wait until a JavaScript test of the given values holds."""
    page.wait_for_function(test, arg=list(given) if len(given) != 1 else given[0], timeout=1000 * seconds)


def shown(page: Any) -> Any:
    live = page.locator(".vp-live").first
    live.wait_for(timeout=60_000)
    live.scroll_into_view_if_needed()
    return live


def test_attribution_under_the_player_follows_keys(lab: Lab, page: Any, watch: Watch) -> None:
    maps = "maps = vp.attribute('mini-pclm-dpo', bench, site='features', limit=3, faithfulness=False, progress=False)"
    run_all(page, lab, notebook(lab, "attribution.ipynb", [setup() + maps, "explore.listen(maps, bench)"]))
    live = shown(page)
    assert live.locator(".vp-player").first.is_visible()
    # Waveform, spectrogram and the attribution's two tracks are one canvas; the cursor over them is a slider.
    stage = live.locator(".vp-player [role=slider]").first
    now = "e => Number(document.querySelector('.vp-player [role=slider]').getAttribute('aria-valuenow'))"
    before = page.evaluate(now)
    stage.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    until(page, f"before => ({now})() > before + 0.3", before)
    tall = live.locator(".vp-player canvas").first.bounding_box()
    items = live.locator(".vp-question").first.inner_text(), live.locator(".vp-question + .vp-note").first.inner_text()
    live.get_by_role("button", name="next").first.focus()
    page.keyboard.press("Enter")
    until(page, "note => document.querySelector('.vp-live .vp-question + .vp-note').textContent !== note", items[1])
    # Two pictures more than a clip without attribution has.
    assert tall is not None and tall["height"] > 250
    quiet(watch)


def test_factorial_bars_change_from_the_mean_to_an_item(lab: Lab, page: Any, watch: Watch) -> None:
    asked = "found = vp.listen_vs_read('mini-pclm', bench, families=['reversed'], progress=False)"
    run_all(page, lab, notebook(lab, "factorial.ipynb", [setup() + asked, "explore.listen(found, bench)"]))
    live = shown(page)
    before = live.locator(".vp-bars").first.inner_html()
    live.get_by_role("button", name="next").first.focus()
    page.keyboard.press("Enter")
    until(page, "before => document.querySelector('.vp-live .vp-bars').innerHTML !== before", before)
    live.locator(".vp-player canvas").first.wait_for(timeout=20_000)
    quiet(watch)


def test_a_cell_of_the_patching_map_tells_its_numbers(lab: Lab, page: Any, watch: Watch) -> None:
    places = "swap='voice', sites=['tower', 'mixed', 'text[1]'], pairs=4"
    patch = f"found = vp.patch('mini-pclm', bench, {places}, progress=False)"
    run_all(page, lab, notebook(lab, "patching.ipynb", [setup() + patch, "explore.listen(found, bench)"]))
    live = shown(page)
    cell = live.locator(".vp-map td[tabindex]").nth(1)
    tip = cell.locator(".vp-tip")
    assert not tip.is_visible()
    cell.hover()
    tip.wait_for(state="visible", timeout=10_000)
    assert "nats" in tip.inner_text() and "pairs" in tip.inner_text()
    page.mouse.move(5, 5)
    tip.wait_for(state="hidden", timeout=10_000)
    cell.focus()
    tip.wait_for(state="visible", timeout=10_000)
    quiet(watch)


def test_a_layer_is_chosen_by_pointer_click_and_key(lab: Lab, page: Any, watch: Watch) -> None:
    how = "tasks='emotion_recognition', estimator='ridge', progress=False"
    fit = f"probed = vp.probe_layers(runs[-1], 'both', {how})"
    run_all(page, lab, notebook(lab, "layers.ipynb", [setup(90) + fit, "explore.layers(probed)"]))
    live = shown(page)
    picture = live.locator(".vp-points").first
    # The confusion matrix under the curves.
    matrix = "() => document.querySelector('.vp-live .vp-points').parentElement.parentElement.innerText"
    chosen = picture.get_attribute("aria-valuetext")
    places = picture.locator("[data-key]")
    count = places.count()
    assert count > 10
    said = page.evaluate(matrix)
    places.nth(2).hover(force=True)
    until(page, f"said => ({matrix})() !== said", said)
    places.nth(2).click(force=True)
    until(page, "old => document.querySelector('.vp-live .vp-points').getAttribute('aria-valuetext') !== old", chosen)
    clicked = picture.get_attribute("aria-valuetext")
    page.mouse.move(5, 5)
    picture.focus()
    page.keyboard.press("ArrowRight")
    until(page, "old => document.querySelector('.vp-live .vp-points').getAttribute('aria-valuetext') !== old", clicked)
    quiet(watch)


def test_another_pair_is_compared_by_key(lab: Lab, page: Any, watch: Watch) -> None:
    more = setup().replace('("mini-base", "mini-pclm")', '("mini-base", "mini-static", "mini-pclm")')
    run_all(page, lab, notebook(lab, "compare.ipynb", [more, "explore.compare(runs)"]))
    live = shown(page)
    before = live.inner_text()
    other = live.get_by_label("Run b").first
    other.focus()
    page.keyboard.press("ArrowDown")
    until(page, "before => document.querySelector('.vp-live').innerText !== before", before)
    assert other.input_value() or other.evaluate("e => e.selectedOptions[0].textContent") == "mini-pclm"
    quiet(watch)


def test_a_cell_that_is_run_again_shows_one_explorer(lab: Lab, page: Any, watch: Watch) -> None:
    count = "import ipywidgets, gc; gc.collect(); len(ipywidgets.widgets.widget._instances)"
    run_all(page, lab, notebook(lab, "again.ipynb", [setup(), "explore.items(*runs)", count]))
    shown(page)
    cell = page.locator(".jp-CodeCell").nth(1)
    first = page.locator(".jp-CodeCell").nth(2).locator(".jp-OutputArea-output").last.inner_text()
    for number in range(3):
        cell.locator(".jp-InputArea-editor").click()
        page.keyboard.press("Control+Enter")
        until(page, "n => document.querySelectorAll('.jp-CodeCell')[1].querySelector('.jp-InputPrompt').textContent"
              " === `[${n}]:`", 4 + number)  # fmt: skip
    page.locator(".jp-CodeCell").nth(2).locator(".jp-InputArea-editor").click()
    page.keyboard.press("Control+Enter")
    until(page, "() => document.querySelectorAll('.jp-CodeCell')[2].querySelector('.jp-InputPrompt').textContent"
          " === '[7]:'")  # fmt: skip
    page.wait_for_timeout(500)
    assert page.locator(".vp-live").count() == cell.locator(".vp-live").count() >= 1
    assert page.locator(".vp-live > .vp-title, .vp-live .vp-title").count() == 1
    last = page.locator(".jp-CodeCell").nth(2).locator(".jp-OutputArea-output").last.inner_text()
    assert int(last) == int(first), "widgets of earlier runs are still there"
    quiet(watch)


def test_a_report_opens_from_the_disk(tmp_path: Path, browser: Any) -> None:
    bench = vp.load_benchmark("mini", limit=30)
    runs = [vp.run(name, bench, tmp_path / name, progress=False) for name in ("mini-base", "mini-pclm")]
    made = explore.report(runs, tmp_path / "report.html")
    assert made.stat().st_size < 10_000_000
    page = browser.new_page(viewport={"width": 1000, "height": 1000})
    asked, wrong = [], []
    page.on("request", lambda one: asked.append(one.url))
    page.on("console", lambda one: wrong.append(one.text) if one.type in ("error", "warning") else None)
    page.on("pageerror", lambda one: wrong.append(str(one)))
    try:
        page.goto(made.as_uri())
        assert {url.split(":")[0] for url in asked} <= {"file", "data", "blob"}, asked
        sound = page.locator("audio").first
        lasts = sound.evaluate(
            "async e => { e.load(); await new Promise(done => e.onloadedmetadata = done); return e.duration; }"
        )
        assert lasts > 0.5
        assert page.locator("svg").count() >= 2 and page.locator("table").count() >= 4
        # Nothing is wider than the window, and on paper what cannot be printed is gone.
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 1
        page.emulate_media(media="print")
        assert not sound.is_visible() and not page.locator("details").first.is_visible()
        page.emulate_media(media="screen")
        SHOTS.mkdir(exist_ok=True)
        page.screenshot(path=str(SHOTS / "report.png"), full_page=True)
        if os.environ.get("VPANALYSIS_PDF"):
            page.pdf(path=str(SHOTS / "report.pdf"), format="A4")
        assert not wrong, wrong
    finally:
        page.close()


def test_the_picture_of_the_readme(lab: Lab, page: Any, watch: Watch) -> None:
    """Kept in the repository by ``VPANALYSIS_SCREENSHOT=notebooks/screenshot.png``."""
    cells = [setup(300), "explore.items(*runs)"]
    run_all(page, lab, notebook(lab, "listen_or_read.ipynb", cells))
    live = shown(page)
    page.keyboard.press("Control+b")
    live.get_by_label("Condition").first.select_option("conflict")
    live.get_by_label("Checkpoints").first.select_option(label="disagree")
    page.wait_for_timeout(1000)
    text = live.inner_text()
    assert "claim (words)" in text and "truth (voice)" in text
    outcome = live.locator("tr:has-text('outcome')").last.inner_text()
    assert "read" in outcome and "listened" in outcome
    stage = live.locator(".vp-player [role=slider]").first
    stage.focus()
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    page.wait_for_timeout(500)
    live.get_by_role("button", name="next").first.focus()
    page.set_viewport_size({"width": 1280, "height": 860})
    page.locator(".jp-CodeCell").nth(1).evaluate("e => e.scrollIntoView()")
    page.wait_for_timeout(800)
    SHOTS.mkdir(exist_ok=True)
    made = SHOTS / "readme.png"
    page.screenshot(path=str(made))
    assert made.stat().st_size > 50_000
    if os.environ.get("VPANALYSIS_SCREENSHOT"):
        shutil.copyfile(made, os.environ["VPANALYSIS_SCREENSHOT"])
    quiet(watch)
