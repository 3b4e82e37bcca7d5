"""Explorers in a real notebook: they live, they answer to keys, and they leave a picture when the kernel is gone."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import SHOTS, Lab, Watch, notebook, run_all

SETUP = """
import vpanalysis as vp
from vpanalysis import explore
bench = vp.load_benchmark("mini", limit=30)
runs = [vp.run(name, bench, f"runs/{name}", progress=False) for name in ("mini-base", "mini-pclm")]
runs[1]
"""


def _quiet(page: Any, watch: Watch) -> None:
    assert watch.hosts <= {"127.0.0.1"}, watch.hosts
    assert not watch.errors, watch.errors
    assert (
        page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr'] >> text=Traceback").count() == 0
    )
    assert page.locator(".jp-OutputArea-output:has-text('Error displaying widget')").count() == 0


def test_items_play_and_answer_to_the_keyboard(lab: Lab, page: Any, watch: Watch) -> None:
    run_all(page, lab, notebook(lab, "items.ipynb", [SETUP, "explore.items(*runs)"]))
    live = page.locator(".vp-live").first
    live.wait_for(timeout=60_000)
    assert page.locator(".vp-static").first.is_hidden()
    live.scroll_into_view_if_needed()
    player = page.locator(".vp-player").first
    player.wait_for(timeout=30_000)
    before = player.inner_text()
    question = live.inner_text()
    button = live.get_by_role("button", name="Next").first
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_timeout(1500)
    assert live.inner_text() != question
    assert before is not None
    _quiet(page, watch)


def test_the_cursor_moves_with_the_sound(lab: Lab, page: Any, watch: Watch) -> None:
    run_all(page, lab, notebook(lab, "player.ipynb", [SETUP, "explore.items(*runs)"]))
    player = page.locator(".vp-player").first
    player.wait_for(timeout=60_000)
    player.scroll_into_view_if_needed()
    before = player.inner_text()
    player.locator("audio").first.evaluate("sound => sound.play()")
    page.wait_for_timeout(900)
    after = player.inner_text()
    # The position is written beside the pictures, in seconds.
    assert before != after, after
    _quiet(page, watch)


def test_markup_in_a_question_is_text(lab: Lab, page: Any, watch: Watch) -> None:
    bad = """
from dataclasses import replace
import vpanalysis as vp
from vpanalysis import explore
few = list(vp.load_benchmark("mini", limit=6))
evil = "<img src=x onerror='document.title=666'><script>document.title=666</script> who speaks?"
few = [replace(item, question=evil) for item in few]
bench = vp.Benchmark(few, name="evil", source="mini")
run = vp.run("mini-base", bench, "runs/evil", reducers="none", progress=False)
explore.items(run, benchmark=bench)
"""
    run_all(page, lab, notebook(lab, "markup.ipynb", [bad]))
    page.locator(".vp-live").first.wait_for(timeout=60_000)
    page.wait_for_timeout(1000)
    assert "who speaks?" in page.locator(".vp-live").first.inner_text()
    assert page.locator(".vp-live img, .vp-live script, .vp-static script").count() == 0
    assert "666" not in page.title()
    _quiet(page, watch)


def test_a_typed_prompt_and_a_slider_move_the_gate(lab: Lab, page: Any, watch: Watch) -> None:
    run_all(page, lab, notebook(lab, "gates.ipynb", [SETUP, "explore.gates('mini-pclm', bench)"]))
    live = page.locator(".vp-live").first
    live.wait_for(timeout=60_000)
    live.scroll_into_view_if_needed()
    before = live.inner_html()
    box = live.locator("textarea, input[type=text]").first
    box.fill("How old is the speaker?")
    page.wait_for_timeout(2500)
    typed = live.inner_html()
    assert typed != before
    slider = live.locator(".noUi-handle, [role=slider]").first
    slider.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    page.wait_for_timeout(2500)
    assert live.inner_html() != typed
    _quiet(page, watch)


def test_a_saved_notebook_keeps_a_picture(lab: Lab, page: Any, watch: Watch) -> None:
    run_all(page, lab, notebook(lab, "saved.ipynb", [SETUP, "explore.compare(runs)"]))
    page.locator(".vp-live").first.wait_for(timeout=60_000)
    page.keyboard.press("Control+s")
    page.wait_for_timeout(3000)
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.get_by_role("menuitem", name="Shut Down Kernel", exact=True).click()
    page.wait_for_timeout(2000)
    page.goto("about:blank")
    page.goto(lab.address("saved.ipynb"))
    static = page.locator(".vp-static").first
    static.wait_for(timeout=90_000)
    assert static.is_visible()
    assert static.locator("table, svg").count() >= 1
    assert page.locator(".vp-live").count() == 0


SHOWN = {
    "items": "explore.items(*runs)",
    "gates": "explore.gates('mini-pclm', bench)",
    "compare": "explore.compare(runs)",
    "listen": "explore.listen(vp.listen_vs_read('mini-pclm', bench, families='reversed', progress=False), bench)",
}


@pytest.mark.parametrize("theme", ["JupyterLab Dark", "JupyterLab Light"])
def test_text_is_readable_on_its_ground(lab: Lab, page: Any, watch: Watch, theme: str) -> None:
    name = f"theme-{theme.split()[-1]}.ipynb"
    run_all(page, lab, notebook(lab, name, [SETUP, *SHOWN.values()]))
    page.locator(".vp-live").first.wait_for(timeout=60_000)
    page.get_by_role("menuitem", name="Settings", exact=True).click()
    page.locator(".lm-Menu-item:has-text('Theme')").first.click()
    page.locator(f".lm-Menu-item:has-text('{theme}')").first.click()
    page.wait_for_timeout(1500)
    for number, shown in enumerate(SHOWN, start=1):
        # Lab draws cells when they are near the view.
        page.locator(".jp-CodeCell").nth(number).scroll_into_view_if_needed()
        page.locator(".jp-CodeCell").nth(number).locator(".vp-live .vp-title").first.wait_for(timeout=30_000)
        page.wait_for_timeout(400)
        worst = page.evaluate(CONTRAST)
        assert worst[0] >= 4.5, (shown, worst)
        SHOTS.mkdir(exist_ok=True)
        page.screenshot(path=str(SHOTS / f"{theme.split()[-1].lower()}-{shown}.png"))
    _quiet(page, watch)


CONTRAST = """() => {
  const parse = (c) => (c.match(/[\\d.]+/g) || []).map(Number);
  const lum = ([r, g, b]) => {
    const f = [r, g, b].map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2];
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length && (c.length < 4 || c[3] > 0.99)) return c;
    }
    return [255, 255, 255];
  };
  let worst = [21, ''];
  for (const root of document.querySelectorAll('.vp-live')) {
    for (const e of root.querySelectorAll('*')) {
      const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
      const s = getComputedStyle(e);
      if (!own || s.visibility === 'hidden' || !e.getClientRects().length) continue;
      if (e.disabled || e.closest('svg, style, [disabled], .vp-figure')) continue;
      const a = lum(parse(s.color)), b = lum(ground(e));
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      const said = `${e.className}: ${e.textContent.slice(0, 60)} ${s.color} on ${ground(e)}`;
      if (ratio < worst[0]) worst = [ratio, said];
    }
  }
  return worst;
}"""
