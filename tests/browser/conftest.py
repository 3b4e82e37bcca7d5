"""A real JupyterLab in a real Chromium: one server a session, one page a test, everything that goes wrong written down.

These tests run under the mark ``browser``. They need playwright and a Chromium: the one at ``$VPANALYSIS_CHROMIUM``, or
``chromium`` on the path. Nothing may leave the machine: a request to another host fails the test that made it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = os.environ.get("VPANALYSIS_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
SHOTS = Path(os.environ.get("VPANALYSIS_SHOTS", "browser-shots"))
"""Where screenshots of failed tests are kept."""

_LOUD = ("favicon", "ResizeObserver", "preloaded using link preload", "Third-party cookie")
"""Console messages that are not about us."""


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in Path(str(item.fspath)).parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.timeout(600))


_COUNT = itertools.count()


@dataclass
class Lab:
    """A running JupyterLab."""

    folder: Path
    port: int
    token: str = "test"
    process: Any = None

    def address(self, name: str) -> str:
        # A workspace of its own: Lab opens again what was open in the last one.
        return (
            f"http://127.0.0.1:{self.port}/lab/workspaces/w{os.getpid()}-{next(_COUNT)}/tree/{name}?token={self.token}"
        )


@dataclass
class Watch:
    """What a page asked for and complained about."""

    hosts: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Lab]:
    """Run a JupyterLab in a folder, with settings of its own, on a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = Lab(folder, port)
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "OMP_NUM_THREADS": "1",
           "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
           "JUPYTER_CONFIG_DIR": str(folder / "config"), "IPYTHONDIR": str(folder / "ipython")}  # fmt: skip
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ip=127.0.0.1", "--allow-root",
        f"--IdentityProvider.token={made.token}", f"--ServerApp.root_dir={folder}", "--LabApp.news_url=None",
        "--LabApp.extension_manager=readonly", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    subprocess.run(
        [sys.executable, "-m", "jupyter", "labextension", "disable", "--level=user",
         "@jupyterlab/apputils-extension:announcements"],
        env=env, capture_output=True, check=False,
    )  # fmt: skip
    log = (folder / "lab.log").open("w")
    made.process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={made.token}", timeout=2)
                break
            except OSError:
                time.sleep(0.5)
        else:
            raise RuntimeError((folder / "lab.log").read_text()[-2000:])
        yield made
    finally:
        made.process.terminate()
        made.process.wait(timeout=20)
        log.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with serving(tmp_path_factory.mktemp("lab")) as made:
        yield made


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
    if CHROMIUM is None:
        pytest.skip("no Chromium (apt install chromium)")
    with sync_playwright() as play:
        made = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        )
        yield made
        made.close()


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def page(browser: Any, watch: Watch, request: pytest.FixtureRequest) -> Iterator[Any]:
    made = browser.new_page(viewport={"width": 1280, "height": 1000})
    made.on(
        "request", lambda asked: watch.hosts.add(asked.url.split("/")[2].split(":")[0]) if "://" in asked.url else None
    )
    made.on(
        "console",
        lambda said: (
            watch.errors.append(said.text) if said.type == "error" and not any(w in said.text for w in _LOUD) else None
        ),
    )
    made.on("pageerror", lambda error: watch.errors.append(str(error)))
    yield made
    SHOTS.mkdir(exist_ok=True)
    made.screenshot(path=str(SHOTS / f"{request.node.name}.png"))
    made.close()


def notebook(lab: Lab, name: str, cells: Sequence[str]) -> str:
    """Write a notebook of code cells into the server's folder, with the kernelspec that keeps Lab from asking."""
    import nbformat

    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, lab.folder / name)
    return name


def run_all(page: Any, lab: Lab, name: str, *, seconds: int = 240) -> None:
    """Open a notebook, run all its cells and wait until the kernel is idle."""
    page.goto(lab.address(name))
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=90_000)
    # Cells that are run before the kernel has answered may be lost.
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=90_000)
    _ask_to_run(page)
    deadline, asked = time.time() + seconds, time.time()
    while time.time() < deadline:
        if page.locator("dialog.jp-Dialog", has_text="Select Kernel").count():
            _ask_to_run(page)
        prompts = page.eval_on_selector_all(
            ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell .jp-InputPrompt", "e => e.map(x => x.textContent)"
        )
        # JupyterLab draws an error as it draws the error stream, where warnings go too.
        failed = page.locator(".jp-OutputArea-output[data-mime-type$='stderr']", has_text="Traceback (most recent call")
        if failed.count():
            raise AssertionError(failed.first.inner_text()[-1500:])
        if prompts and all(p.strip(" []:").isdigit() for p in prompts):
            return
        if not any("*" in p for p in prompts) and time.time() - asked > 6:
            # The kernel said that it was idle before Lab was connected to it, and lost what it was asked.
            _ask_to_run(page)
            asked = time.time()
        page.wait_for_timeout(300)
    raise AssertionError(f"cells are still running after {seconds} s: {prompts}")


def _ask_to_run(page: Any) -> None:
    # On a busy machine Lab, asked to run before its session has the kernel, may ask for one although the notebook names
    # it. That no notebook of ours is opened with a question is a test of its own, which looks before anything is run.
    for _ in range(20):
        asked = page.locator("dialog.jp-Dialog", has_text="Select Kernel")
        if not asked.count():
            break
        asked.get_by_role("button", name="Select", exact=False).last.click()
        page.wait_for_timeout(2000)
        page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=90_000)
    page.keyboard.press("Escape")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
