"""The notebooks as a person opens them: in JupyterLab, on fewer items, run from the first cell to the last."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import Lab, Watch, run_all

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
ITEMS = 60
"""Items of the bundled benchmark that the copies ask: every part has something to show, and none takes minutes."""


def smaller(lab: Lab, name: str) -> str:
    """Copy a notebook to the server's folder, without outputs, with fewer items and Runs beside it."""
    made = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    cells = [cell for cell in made.cells if cell.cell_type == "code"]
    parameters = next(cell for cell in cells if "parameters" in cell.metadata.get("tags", []))
    lines = ast.parse(parameters.source).body
    new = {"LIMIT": repr(ITEMS), "RUN": repr(str(lab.folder / "runs"))}
    found = {
        line.targets[0].id for line in lines if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name)
    }
    assert set(new) <= found
    parameters.source += "".join(f"\n{key} = {value}" for key, value in new.items())
    for cell in cells:
        cell.outputs, cell.execution_count = [], None
    nbformat.write(made, lab.folder / f"{name}.ipynb")
    return f"{name}.ipynb"


def test_all_seven_are_here() -> None:
    assert len(NAMES) == 7


@pytest.mark.parametrize("name", NAMES)
def test_opens_without_a_question_and_runs_to_its_end(lab: Lab, page: Any, watch: Watch, name: str) -> None:
    copy = smaller(lab, name)
    page.goto(lab.address(copy))
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=90_000)
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=90_000)
    # A kernel that is not known, an untrusted file, news: each would be a dialog.
    assert page.locator(".jp-Dialog").count() == 0, page.locator(".jp-Dialog").first.inner_text()
    run_all(page, lab, copy, seconds=300)
    page.keyboard.press("Control+s")
    page.wait_for_timeout(2500)
    assert page.locator(".jp-Dialog").count() == 0
    saved = nbformat.read(lab.folder / copy, as_version=4)
    cells = [cell for cell in saved.cells if cell.cell_type == "code" and cell.source.strip()]
    outputs = [output for cell in cells for output in cell.outputs]
    assert all(cell.execution_count for cell in cells)
    assert sorted(cell.execution_count for cell in cells) == [cell.execution_count for cell in cells]
    errors = [output.ename for output in outputs if output.output_type == "error"]
    assert not errors
    said = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stderr")
    assert "Traceback" not in said, said[-1000:]
    # The first and the last cell that should show something did: the run was of this copy.
    assert cells[-1].outputs, "the headline is empty"
    explorers = sum("explore." in cell.source and "import" not in cell.source for cell in cells)
    if explorers:
        live = page.locator(".vp-live")
        for _ in range(40):
            # Lab draws a cell when it is near the view.
            if live.count():
                break
            page.locator(".jp-WindowedPanel-outer").first.evaluate("e => e.scrollBy(0, 900)")
            page.wait_for_timeout(150)
        assert live.count() >= 1
        assert page.locator(".jp-OutputArea-output:has-text('Error displaying widget')").count() == 0
    assert watch.hosts <= {"127.0.0.1"}, watch.hosts
    assert not watch.errors, watch.errors
