"""``vpanalysis app``: a notebook as a page without code, with widgets that live, from this machine alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Watch

pytest.importorskip("voila")

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NAME = "06_your_model_your_data"


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[str, int]]:
    """Run the verb in a folder of notebooks, and return the address that it prints."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vpanalysis.cli", "app", NAME, "--no-browser", "--port", str(port)]
    log = folder / "voila.log"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "IPYTHONDIR": str(folder / "ipython")}
    with log.open("w") as said:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=said, stderr=subprocess.STDOUT)
        try:
            for _ in range(240):
                lines = [line for line in log.read_text().splitlines() if line.startswith("http://127.0.0.1")]
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    if lines:
                        yield lines[0].strip(), port
                        break
                assert process.poll() is None, log.read_text()[-2000:]
                time.sleep(0.5)
            else:
                raise AssertionError(log.read_text()[-2000:])
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=30)


def test_a_notebook_is_a_page_with_a_live_widget(tmp_path: Path, page: Any, watch: Watch) -> None:
    for end in ("ipynb", "py"):
        for name in ("00_quickstart", NAME):
            shutil.copyfile(FOLDER / f"{name}.{end}", tmp_path / f"{name}.{end}")
    with serving(tmp_path) as (address, port):
        # Without its token nobody gets the page, only the question for it.
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
                assert "/login" in answer.url, answer.url
        except urllib.error.HTTPError as refused:
            assert refused.code in (401, 403), refused
        page.goto(address, timeout=240_000)
        live = page.locator(".vp-live").first
        live.wait_for(timeout=240_000)
        head = live.locator(".vp-question + .vp-note").first
        head.wait_for(timeout=60_000)
        before = head.inner_text()
        live.get_by_role("button", name="next").first.focus()
        page.keyboard.press("Enter")
        page.wait_for_function(
            "before => document.querySelector('.vp-live .vp-question + .vp-note').textContent !== before", arg=before,
            timeout=20_000,
        )  # fmt: skip
        page.locator(".vp-player canvas").first.wait_for(timeout=20_000)
        assert page.locator(".jp-InputArea-editor, .CodeMirror, .cm-editor").count() == 0
        assert "Traceback" not in page.locator("body").inner_text()
    assert watch.hosts <= {"127.0.0.1"}, watch.hosts
    assert not watch.errors, watch.errors
