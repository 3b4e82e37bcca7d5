"""How long does a reader wait for an explorer, and does running its cell again fill the kernel's memory?

``python benchmarks/widgets.py`` measures two things on Runs of 300 items of the bundled benchmark.

*Waiting.* A notebook with one explorer is opened in a real JupyterLab in a real Chromium. A key is pressed or a button
clicked; the clock starts with the browser's own time of that event and stops with the frame that shows the changed
picture: kernel, comm and drawing included. Where several parts of a page change (question, options and player), the
last one counts. The gate waits 50 ms for more typing before it asks the model; that is included. An action that
changes nothing (the gate does not know a typed word) is left out and counted.

*Memory.* A kernel runs the cell of an explorer again and again, as JupyterLab would ask it to, under one cell id; its
resident memory is read after a warm-up and after 100 more runs, and its widgets are counted. No browser is attached,
so what a browser keeps is not in it.

It needs playwright and a Chromium, as tests/browser does. What it cannot show: a kernel on another machine, where every
action also travels. The exit code is 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _shared import headline, quartiles, report, table

import vpanalysis as vp

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "browser"))
from conftest import CHROMIUM, Lab, notebook, run_all, serving

BAR_MS = 150.0
BAR_MB = 20.0
MODELS = ("mini-base", "mini-static", "mini-pclm")
LONGEST_S = 5.0

SETUP = f"""
import vpanalysis as vp
from vpanalysis import explore
bench = vp.load_benchmark("mini", limit=LIMIT)
runs = [vp.open_run(f"runs/{{name}}") for name in {MODELS!r}]
"""
LAYERS = """
probed = vp.probe_layers(runs[-1], "both", tasks="emotion_recognition", estimator="ridge", progress=False)
"""
LISTEN = """
maps = vp.attribute("mini-pclm", bench, site="features", limit=12, faithfulness=False, progress=False)
"""
MORE = {"layers": LAYERS, "listen": LISTEN}
CELLS = {
    "items": "explore.items(*runs, benchmark=bench)",
    "gates": "explore.gates('mini-pclm', bench)",
    "layers": "explore.layers(probed)",
    "listen": "explore.listen(maps, bench)",
    "compare": "explore.compare(runs)",
}

CLOCK = """(targets) => {
  const root = document.querySelector('.vp-live');
  const found = ({ css, at }) => [...root.querySelectorAll(css)].slice(at ?? 0, at === undefined ? undefined : at + 1);
  const look = (target) => found(target).map((e) => e.outerHTML).join('');
  const before = targets.map((target) => target.drawn ? null : look(target));
  const seen = targets.map(() => false);
  let start = null;
  const begin = (event) => { if (start === null) start = event.timeStamp; };
  const kinds = ['keydown', 'click', 'input', 'change'];
  for (const kind of kinds) window.addEventListener(kind, begin, true);
  window.vpWaited = new Promise((done) => {
    const finish = (value) => {
      watcher.disconnect();
      for (const kind of kinds) window.removeEventListener(kind, begin, true);
      done(value);
    };
    const watcher = new MutationObserver((records) => {
      if (start === null) return;
      targets.forEach((target, k) => {
        if (seen[k]) return;
        seen[k] = target.drawn
          ? found(target).some((e) => records.some((r) => r.target === e))
          : look(target) !== before[k];
      });
      if (seen.every(Boolean)) {
        // After the frame that follows, it is on the screen.
        requestAnimationFrame(() => { const c = new MessageChannel();
          c.port1.onmessage = () => finish(performance.now() - start); c.port2.postMessage(0); });
        seen.fill(false);
        watcher.disconnect();
      }
    });
    watcher.observe(root, { subtree: true, childList: true, characterData: true, attributes: true });
    setTimeout(() => finish(null), LONGEST);
  });
}""".replace("LONGEST", str(1000 * LONGEST_S))
"""Arms a clock: it runs from the next key, click or input to the frame in which all targets have changed."""


@dataclass(frozen=True)
class Action:
    """What is done to an explorer, and what must have changed before the clock stops.

    A target is a selector below the explorer, and ``at``, which of those found (default all). It has changed when its
    markup has; one with ``drawn`` (a canvas), when it was drawn on.
    """

    name: str
    cell: str
    focus: str
    keys: Sequence[str]
    targets: Sequence[dict[str, Any]]


def actions() -> list[Action]:
    shown = [{"css": ".vp-question + .vp-note"}, {"css": ".vp-options"}, {"css": ".vp-player canvas", "drawn": True}]
    mixture, answers = [{"css": ".widget-html-content svg", "at": 0}], [{"css": ".widget-html-content svg", "at": 1}]
    words = ["male", "angry", "loud", "fast", "slow", "young", "happy", "old", "speaker", "voice", "pitch", "sad"]
    pair = '.widget-dropdown:has(label:text-is("Run b")) select'
    return [
        Action("items: next item (Enter)", "items", 'button:has-text("next")', ["Enter"], shown),
        Action("gates: slider (arrow key), weights", "gates", ".noUi-handle", ["ArrowLeft", "ArrowRight"], mixture),
        Action("gates: slider (Home, End), answers", "gates", ".noUi-handle", ["Home", "End"], answers),
        Action("gates: typed word, weights", "gates", "textarea", [f"type {word}" for word in words], mixture),
        Action("gates: typed word, answers", "gates", "textarea", [f"type {word}" for word in words], answers),
        Action("layers: arrow key on the picture", "layers", ".vp-points", ["ArrowLeft", "ArrowRight"],
               [{"css": ".widget-html-content"}]),
        Action("listen: next item (Enter)", "listen", 'button:has-text("next")', ["Enter"],
               [{"css": ".vp-question + .vp-note"}, {"css": ".vp-bars"}, {"css": ".vp-player canvas", "drawn": True}]),
        Action("compare: pair (arrow key)", "compare", pair, ["ArrowDown", "ArrowUp"],
               [{"css": ".vp-points"}]),
    ]  # fmt: skip


# Waiting --------------------------------------------------------------------------------------------------------------


def waits(page: Any, action: Action, times: int, warm_up: int = 2) -> tuple[list[float], int]:
    """Return milliseconds of every action that changed something, and how many did not."""
    live = page.locator(".vp-live").first
    control = live.locator(action.focus).first
    control.scroll_into_view_if_needed()
    out: list[float] = []
    nothing = 0
    for number, key in zip(range(times + warm_up), itertools.cycle(action.keys)):
        control.focus()
        if key.startswith("type "):
            # A new question up to its last word, and time to answer it.
            control.fill(f"What about {number}, is it")
            page.wait_for_timeout(700)
            page.evaluate(CLOCK, list(action.targets))
            page.keyboard.insert_text(f" {key[5:]}")
        else:
            page.evaluate(CLOCK, list(action.targets))
            page.keyboard.press(key)
        waited = page.evaluate("window.vpWaited")
        page.wait_for_timeout(350)
        if number < warm_up:
            continue
        if waited is None:
            nothing += 1
        else:
            out.append(float(waited))
    return out, nothing


def waiting(lab: Lab, options: argparse.Namespace) -> dict[str, tuple[list[float], int]]:
    from playwright.sync_api import sync_playwright

    found: dict[str, tuple[list[float], int]] = {}
    setup = SETUP.replace("LIMIT", str(options.limit))
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            for cell, source in CELLS.items():
                page = browser.new_page(viewport={"width": 1280, "height": 1000})
                run_all(page, lab, notebook(lab, f"{cell}.ipynb", [setup + MORE.get(cell, ""), source]))
                page.locator(".vp-live").first.wait_for(timeout=60_000)
                page.wait_for_timeout(1500)
                for action in actions():
                    if action.cell == cell:
                        found[action.name] = waits(page, action, options.times)
                        values, nothing = found[action.name]
                        said = f"{np.median(values):.0f} ms" if values else "no change at all"
                        print(f"  {action.name}: {said}, {nothing} without a change", file=sys.stderr, flush=True)
                # Nothing is left to save when the page goes.
                page.keyboard.press("Control+s")
                page.wait_for_timeout(500)
                page.close()
        finally:
            browser.close()
    return found


# Memory ---------------------------------------------------------------------------------------------------------------


def growth(folder: Path, cell: str, options: argparse.Namespace) -> tuple[float, float, int, float]:
    """Return MB before and after re-running a cell, by how many widgets there are more, and seconds a run."""
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(cwd=str(folder))
    try:
        setup = SETUP.replace("LIMIT", str(options.limit)) + MORE.get(cell, "")
        count = "import gc, os, ipywidgets; gc.collect(); (os.getpid(), len(ipywidgets.widgets.widget._instances))"
        ask(client, setup, "setup")
        for _ in range(options.warm_up):
            ask(client, CELLS[cell], "explorer")
        pid, before = numbers(ask(client, count, "count"))
        first = resident_mb(pid)
        begin = time.perf_counter()
        for _ in range(options.reruns):
            ask(client, CELLS[cell], "explorer")
        seconds = (time.perf_counter() - begin) / options.reruns
        _, after = numbers(ask(client, count, "count"))
        return first, resident_mb(pid), after - before, seconds
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def ask(client: Any, code: str, cell: str) -> str:
    """Run a cell under an id, as JupyterLab does, and return what it shows as plain text."""
    content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False,
               "stop_on_error": True}  # fmt: skip
    message = client.session.msg("execute_request", content)
    message["metadata"] = {"cellId": cell}
    client.shell_channel.send(message)
    shown = ""
    while True:
        came = client.get_iopub_msg(timeout=300)
        if came["parent_header"].get("msg_id") != message["header"]["msg_id"]:
            continue
        if came["msg_type"] == "error":
            raise RuntimeError("\n".join(came["content"]["traceback"]))
        if came["msg_type"] == "execute_result":
            shown = came["content"]["data"].get("text/plain", "")
        if came["msg_type"] == "status" and came["content"]["execution_state"] == "idle":
            client.get_shell_msg(timeout=60)
            return shown


def numbers(shown: str) -> tuple[int, int]:
    one, other = shown.strip("() ").split(",")
    return int(one), int(other)


def resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


# Both -----------------------------------------------------------------------------------------------------------------


def show_waits(found: dict[str, tuple[list[float], int]], limit: int) -> tuple[list[str], bool]:
    rows, fine = [], True
    for name, (values, nothing) in found.items():
        if not values:
            rows.append([name, "-", "-", "-", 0, nothing, "MISSED"])
            fine = False
            continue
        low, middle, high = quartiles(values)
        kept = middle <= BAR_MS
        fine &= kept
        cells = [f"{middle:.0f}", f"[{low:.0f}, {high:.0f}]", f"{max(values):.0f}"]
        rows.append([name, *cells, len(values), nothing, "kept" if kept else "MISSED"])
    head = ["action", "median ms", "quartiles", "slowest", "n", "no change", f"{BAR_MS:.0f} ms"]
    return [f"\nWaiting: Runs of {limit} items, JupyterLab in Chromium", table(head, rows)], fine


def show_growth(found: dict[str, tuple[float, float, int, float]], reruns: int) -> tuple[list[str], bool]:
    rows = [
        [name, f"{first:.0f}", f"{last:.0f}", f"{last - first:+.1f}", f"{more:+d}", f"{seconds:.2f}",
         "kept" if last - first <= BAR_MB else "MISSED"]
        for name, (first, last, more, seconds) in found.items()
    ]  # fmt: skip
    head = ["explorer", "MB before", "MB after", "growth MB", "widgets", "s a run", f"{BAR_MB:.0f} MB"]
    lines = [f"\nMemory of the kernel: {reruns} re-runs of the cell", table(head, rows)]
    return lines, all(last - first <= BAR_MB for first, last, *_ in found.values())


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--part", choices=["waiting", "memory", "both"], default="both")
    parser.add_argument("--limit", type=int, default=300, help="items of the bundled benchmark")
    parser.add_argument("--times", type=int, default=20, help="actions of each kind")
    parser.add_argument("--reruns", type=int, default=100)
    parser.add_argument("--warm-up", type=int, default=10, help="runs of the cell before memory is read")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    print(headline(__file__, arguments, "cpu"), flush=True)
    facts: dict[str, Any] = {}
    fine = True
    with tempfile.TemporaryDirectory(prefix="vpanalysis-widgets-") as place:
        folder = Path(place)
        bench = vp.load_benchmark("mini", limit=options.limit)
        for name in MODELS:
            vp.run(name, bench, folder / "runs" / name, progress=False)
        parts: list[tuple[str, Callable[[], tuple[Any, tuple[list[str], bool]]]]] = []
        if options.part != "memory":

            def wait() -> tuple[Any, tuple[list[str], bool]]:
                with serving(folder) as lab:
                    found = waiting(lab, options)
                return found, show_waits(found, options.limit)

            parts.append(("waiting", wait))
        if options.part != "waiting":

            def grow() -> tuple[Any, tuple[list[str], bool]]:
                found = {name: growth(folder, name, options) for name in CELLS}
                return found, show_growth(found, options.reruns)

            parts.append(("memory", grow))
        for name, measure in parts:
            facts[name], (lines, kept) = measure()
            print("\n".join(lines), flush=True)
            fine &= kept
    report([], facts, options.json)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
