"""Notebooks and scripts are the same, outputs are fresh and clean, and what they show can be computed again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest

import vpanalysis as vp
from vpanalysis import _cli_notebooks as opening
from vpanalysis import _notebooks as notebooks
from vpanalysis.errors import RunError

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NAMES = [
    "00_quickstart", "01_voxparadox_eval", "02_probe_layers", "03_listen_or_read", "04_gates", "05_paper_figures",
    "06_your_model_your_data",
]  # fmt: skip
each = pytest.mark.parametrize("name", NAMES)


def opened(name: str) -> Any:
    nb = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(nb)
    return nb


def test_every_script_has_its_notebook() -> None:
    assert notebooks.names() == NAMES
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == NAMES


# --- script and notebook ---------------------------------------------------------------------------------------------


@each
def test_notebook_and_script_have_the_same_cells(name: str) -> None:
    script, nb = notebooks.read(FOLDER / f"{name}.py"), opened(name)
    assert notebooks.cells_of(nb) == notebooks.cells_of(script), (
        f"rebuild: python -m vpanalysis._notebooks build {name}"
    )
    assert nb.metadata["vpanalysis"]["source_sha"] == notebooks.sha_of(script)


@each
def test_outputs_are_of_this_version(name: str) -> None:
    assert opened(name).metadata["vpanalysis"]["version"] == vp.__version__


@each
def test_parameters_come_first_and_have_the_four_names(name: str) -> None:
    cells = [cell for cell in opened(name).cells if cell.cell_type == "code"]
    assert cells[0].metadata["tags"] == ["parameters"]
    given: dict[str, Any] = {}
    exec(cells[0].source, given)  # plain assignments, or this fails
    assert {"MODEL", "BENCHMARK", "RUN", "LIMIT"} <= set(given)
    assert not Path(given["RUN"]).is_absolute()


@each
def test_papermill_finds_the_parameters(name: str) -> None:
    papermill = pytest.importorskip("papermill")
    assert {"MODEL", "BENCHMARK", "RUN", "LIMIT"} <= set(papermill.inspect_notebook(str(FOLDER / f"{name}.ipynb")))


@each
def test_says_once_that_the_organism_is_planted_and_cites_the_paper(name: str) -> None:
    prose = " ".join(cell.source for cell in opened(name).cells if cell.cell_type == "markdown")
    assert prose.count("*planted*") == 1
    assert "Table" in prose
    assert ("34.80" if name == "04_gates" else "17.40") in prose


# --- outputs ---------------------------------------------------------------------------------------------------------


@each
def test_outputs_are_small_clean_and_without_errors(name: str) -> None:
    path, nb = FOLDER / f"{name}.ipynb", opened(name)
    assert path.stat().st_size <= notebooks.MAX_BYTES
    assert notebooks.absolute_paths(nb) == []
    assert nb.metadata["kernelspec"]["name"] == "python3"
    assert "widgets" not in nb.metadata
    counts = []
    for cell in nb.cells:
        if cell.cell_type == "code":
            counts.append(cell.execution_count)
            for output in cell.outputs:
                assert output.output_type != "error"
                assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
    assert counts == list(range(1, len(counts) + 1)), "not run from top to bottom"


@each
def test_shows_pictures_that_say_something_without_a_kernel(name: str) -> None:
    kinds = [kind for cell in opened(name).cells for o in cell.get("outputs", ()) for kind in o.get("data", {})]
    html = [
        o.data["text/html"]
        for c in opened(name).cells
        for o in c.get("outputs", ())
        if "text/html" in o.get("data", {})
    ]
    assert html
    assert "image/png" in kinds or any("vp-static" in "".join(text) for text in html)


def test_a_path_of_the_machine_in_an_output_is_found(tmp_path: Path) -> None:
    def shown(text: str) -> Any:
        output = nbformat.v4.new_output("stream", text=text)
        return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("", outputs=[output])])

    assert notebooks.absolute_paths(shown(f"saved {tmp_path}/a.json"))
    assert notebooks.absolute_paths(shown("saved /home/somebody/a.json"))
    assert notebooks.absolute_paths(shown(r"saved C:\Users\somebody\a.json"))
    assert not notebooks.absolute_paths(shown("saved runs/a.json, 3/4 of https://example.org/home/x"))


def test_cleaning_takes_widgets_and_bars_away_and_keeps_static_html_and_warnings() -> None:
    data = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "Box()"}
    outputs = [
        nbformat.v4.new_output("display_data", data=data),
        nbformat.v4.new_output("display_data", data={"text/html": "<div class='vp-static'>kept</div>"}),
        nbformat.v4.new_output("stream", name="stderr", text="run: 100%|####| 3/3\n"),
        nbformat.v4.new_output("stream", name="stderr", text="/tmp/x.py:3: UserWarning: few items\n  call()\n"),
    ]
    cell = nbformat.v4.new_code_cell("", outputs=outputs, metadata={"execution": {"iopub.status": "1"}})
    nb = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {"state": {}}})
    notebooks.clean(nb)
    assert "widgets" not in nb.metadata and "execution" not in nb.cells[0].metadata
    assert [output.output_type for output in nb.cells[0].outputs] == ["display_data", "stream"]
    assert nb.cells[0].outputs[1].text == "UserWarning: few items\n"


# --- executed again --------------------------------------------------------------------------------------------------


def near(found: dict[str, float], kept: dict[str, float]) -> None:
    assert set(found) == set(kept)
    for name, value in kept.items():
        # Nats and probe accuracies move with the last bits of a float on other machines; shares by an item or two.
        assert found[name] == pytest.approx(value, abs=0.03, rel=0.03), name


def test_headline_of_the_quickstart_comes_from_the_package(tmp_path: Path) -> None:
    kept = opened("00_quickstart").metadata["vpanalysis"]["headline"]
    bench = vp.load_benchmark("mini", limit=300)
    run = vp.run("mini-pclm-dpo", bench, tmp_path / "run", sites=["gate"], reducers="none", progress=False)
    score = vp.score(run)
    for metric in ("acc_gt", "ala", "hearing"):
        assert kept[metric] == pytest.approx(score.value(metric), abs=0.011), metric


def test_a_notebook_runs_with_other_parameters_from_a_clean_kernel(tmp_path: Path) -> None:
    nb = notebooks.execute(FOLDER / "06_your_model_your_data.py", tmp_path, {"LIMIT": 20, "RUN": "elsewhere"})
    assert (tmp_path / "elsewhere" / "example-20" / "mini" / "manifest.json").is_file()
    assert not (tmp_path / "runs").exists()
    assert nb.metadata["vpanalysis"]["headline"]["parrot ala"] == 1.0


@pytest.mark.browser
@pytest.mark.timeout(900)
def test_all_notebooks_run_and_give_their_headlines(tmp_path: Path) -> None:
    for name in NAMES:
        nb = notebooks.execute(FOLDER / f"{name}.py", tmp_path)
        near(nb.metadata["vpanalysis"]["headline"], opened(name).metadata["vpanalysis"]["headline"])


def test_an_unknown_notebook_is_refused_before_anything_runs() -> None:
    with pytest.raises(RunError, match="did you mean '04_gates'"):
        notebooks.build(["04_gate"])


# --- opening ---------------------------------------------------------------------------------------------------------


def test_a_checkout_is_used_as_it_is(tmp_path: Path) -> None:
    assert opening.working_folder(FOLDER.parent) == FOLDER
    assert opening.working_folder(FOLDER) == FOLDER


def test_elsewhere_fresh_copies_are_made_and_edited_ones_kept(tmp_path: Path) -> None:
    folder = opening.working_folder(tmp_path, say=False)
    assert folder == tmp_path / "vpanalysis-notebooks"
    assert sorted(path.stem for path in folder.glob("*.ipynb")) == NAMES
    (folder / "04_gates.ipynb").write_text("mine", encoding="utf-8")
    (folder / "05_paper_figures.ipynb").unlink()
    assert opening.working_folder(tmp_path, say=False) == folder
    assert (folder / "04_gates.ipynb").read_text(encoding="utf-8") == "mine"
    assert (folder / "05_paper_figures.ipynb").is_file()


def test_a_notebook_is_found_by_its_number_or_its_name_and_a_typo_is_named() -> None:
    assert opening._notebook(FOLDER, "02") == "02_probe_layers.ipynb"
    assert opening._notebook(FOLDER, "quickstart") == "00_quickstart.ipynb"
    assert opening._notebook(FOLDER, "notebooks/04_gates.ipynb") == "04_gates.ipynb"
    with pytest.raises(RunError, match="did you mean '04_gates'"):
        opening._notebook(FOLDER, "04_gate")


def test_servers_listen_on_this_machine_and_hide_their_token_from_the_list_of_processes() -> None:
    for make in (opening.lab_command, opening.app_command):
        words, variables, address = make(FOLDER, "04_gates.ipynb", 8899, "secret", browser=False)
        line = " ".join(words)
        assert "ip=127.0.0.1" in line and "open_browser=False" in line and "secret" not in line
        assert variables == {"JUPYTER_TOKEN": "secret"}
        assert address.startswith("http://127.0.0.1:8899/") and address.endswith("?token=secret")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_server_is_gone_with_the_command(tmp_path: Path, how: signal.Signals) -> None:
    mark = tmp_path / "pid"
    sleeper = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    call = f"o._serve(Path({str(tmp_path)!r}), [sys.executable, '-c', {sleeper!r}], {{}}, 'address')"
    code = f"import sys; from pathlib import Path; from vpanalysis import _cli_notebooks as o; {call}"
    caller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for _ in range(300):
        if mark.is_file() and mark.read_text():
            break
        time.sleep(0.1)
    caller.send_signal(how)
    caller.communicate(timeout=30)
    assert caller.returncode == (0 if how == signal.SIGINT else 143)
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


def test_a_missing_extra_is_one_sentence_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "find_spec", lambda name: None)
    with pytest.raises(RunError) as caught:
        opening.app_("04_gates")
    assert str(caught.value) == 'cannot open the notebook: Voila is not installed; pip install "vpanalysis[app]"'


def test_a_page_asks_nothing_of_the_internet(tmp_path: Path) -> None:
    pytest.importorskip("voila")
    opening._local_template(tmp_path)
    page = tmp_path / "voila" / "templates" / "vpanalysis"
    assert "https://" not in (page / "index.html.j2").read_text(encoding="utf-8")
    assert json.loads((page / "conf.json").read_text(encoding="utf-8")) == {"base_template": "lab"}
