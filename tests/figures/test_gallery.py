"""The gallery as a whole: files, manifest and page agree, refusals are listed, and a killed build changes nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gallery_demo
import pandas as pd
import pytest

from vpanalysis.errors import RunError
from vpanalysis.figures import LackingError, Sources, _registry, build_gallery
from vpanalysis.figures._used import Watched, source_shas
from vpanalysis.organism import PLANTED

HERE = Path(__file__).parent
SVG = ["demo_curve.csv", "demo_curve.svg"]
CURVE = ["demo_curve.csv", "demo_curve.png", "demo_curve.pdf", "demo_curve.svg"]
TABLE = ["demo_table.csv", "demo_table.png", "demo_table.pdf", "demo_table.svg", "demo_table.tex"]


@pytest.fixture(autouse=True)
def _demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "entries", gallery_demo.entries)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder of two Runs, of which one is of the organism."""
    gallery_demo.write_run(tmp_path / "runs" / "mini-base")
    gallery_demo.write_run(tmp_path / "runs" / "other", "other-sft", model__weights={"llm": "zz"})
    return tmp_path / "runs"


def shas(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir()) if p.is_file()}


def manifest_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return found


def test_it_builds_all_and_ties_each_file_to_what_it_was_made_of(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures"
    made = build_gallery(runs, out, progress=False)
    assert {path.name for path in made.written} == {*CURVE, *TABLE, "manifest.json", "README.md"}
    assert (made.lacking, made.unchanged, made.stale) == ([], (), ())
    assert set(made.seconds) == {"demo_curve", "demo_table"}
    manifest = manifest_of(out)
    on_disk = shas(out)
    listed = {name: sha for one in manifest["entries"].values() for name, sha in one["files"].items()}
    assert listed == {name: on_disk[name] for name in (*CURVE, *TABLE)}
    curve, table = manifest["entries"]["demo_curve"], manifest["entries"]["demo_table"]
    assert list(curve["runs"]) == ["mini-base", "other"] and table["runs"] == {}
    assert set(curve["runs"]["other"]) == {"weights", "benchmark", "prompt", "plan"}
    assert curve["runs"]["other"]["weights"] != curve["runs"]["mini-base"]["weights"]
    assert curve["runs"]["other"]["prompt"] == curve["runs"]["mini-base"]["prompt"]
    assert (curve["planted"], table["planted"]) == (True, False)
    assert {"matplotlib", "numpy", "python"} <= set(curve["libraries"])
    assert len(curve["code"]["sha"]) == 16
    text = (out / "manifest.json").read_text(encoding="utf-8") + (out / "README.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in text and not re.search(r"20\d\d-\d\d", text)
    assert manifest["command"] == "vpanalysis figures runs --out figures"


def test_a_second_call_changes_nothing_and_another_folder_is_equal(runs: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "figures", tmp_path / "else" / "figures"
    build_gallery(runs, first, formats=["svg"], progress=False)
    before = shas(first)
    times = {path: path.stat().st_mtime_ns for path in first.iterdir()}
    made = build_gallery(runs, first, formats=["svg"], progress=False)
    assert made.written == () and made.unchanged == ("demo_curve", "demo_table")
    assert {path: path.stat().st_mtime_ns for path in first.iterdir()} == times
    gallery_demo.write_run(tmp_path / "else" / "runs" / "mini-base")
    gallery_demo.write_run(tmp_path / "else" / "runs" / "other", "other-sft", model__weights={"llm": "zz"})
    build_gallery(tmp_path / "else" / "runs", again, formats=["svg"], progress=False)
    assert shas(again) == before


def test_two_processes_build_what_one_builds_and_refuse_what_it_refuses(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_registry, "entries", gallery_demo.entries_with_one_that_lacks)
    given = [runs / "mini-base", runs / "other"]
    one = build_gallery(given, tmp_path / "one" / "figures", formats=["svg"], progress=False)
    two = build_gallery(given, tmp_path / "two" / "figures", formats=["svg"], jobs=2, progress=False)
    assert [str(error) for error in one.lacking] == [str(error) for error in two.lacking]
    assert [error.what for error in two.lacking] == ["demo_lacking"]
    # Pages name Runs as they are called from their own folder: here by name alone, from both.
    assert shas(tmp_path / "one" / "figures") == shas(tmp_path / "two" / "figures")


def test_what_runs_lack_is_listed_with_its_command_and_the_rest_is_built(tmp_path: Path) -> None:
    out = tmp_path / "figures"
    made = build_gallery([], out, progress=False)
    (error,) = made.lacking
    assert isinstance(error, LackingError)
    assert (error.what, error.record) == ("demo_curve", "vpanalysis run mini mini --out runs/mini")
    assert set(shas(out)) == {*TABLE, "manifest.json", "README.md"}
    manifest = manifest_of(out)
    assert list(manifest["entries"]) == ["demo_table"]
    assert manifest["not_drawn"]["demo_curve"] == {
        "title": "A curve | of `values`", "reason": "no Run with values", "record": error.record,
    }  # fmt: skip
    page = (out / "README.md").read_text(encoding="utf-8")
    last = page.split("## Not drawn")[1]
    assert "no Run with values" in last and "`vpanalysis run mini mini --out runs/mini`" in last
    assert "demo_curve" not in page.split("## Not drawn")[0]
    assert "demo_curve" in repr(made) and error.record in repr(made) and error.record in made._repr_html_()
    rows = made.to_dataframe().set_index("id")
    assert rows["state"].to_dict() == {"demo_curve": "not drawn", "demo_table": "written"}


def test_a_refusal_in_words_of_its_own_counts_and_a_mistake_in_the_code_does_not_hide(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(sources: Sources) -> pd.DataFrame:
        raise RunError("cannot score", found="no twins")

    def fail(sources: Sources) -> pd.DataFrame:
        raise ZeroDivisionError("mine")

    for data, raised in ((refuse, None), (fail, ZeroDivisionError)):
        broken = dataclasses.replace(gallery_demo.CURVE, data=data, record="vpanalysis help")
        monkeypatch.setattr(_registry, "entries", lambda b=broken: {**gallery_demo.entries(), "demo_curve": b})
        if raised is None:
            made = build_gallery(runs, tmp_path / "figures", formats=["svg"], progress=False)
            assert [(e.what, e.found, e.record) for e in made.lacking] == [
                ("demo_curve", "cannot score: found no twins", "vpanalysis help")
            ]
        else:
            with pytest.raises(raised):
                build_gallery(runs, tmp_path / "figures", formats=["svg"], progress=False)
            assert not list((tmp_path / "figures").glob(".building-*"))


def test_files_that_cannot_be_made_again_are_kept_and_called_stale(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures"
    build_gallery(runs, out, formats=["svg"], progress=False)
    before = shas(out)
    made = build_gallery([], out, formats=["svg"], progress=False)
    assert made.stale == ("demo_curve",) and [e.what for e in made.lacking] == ["demo_curve"]
    assert {n: s for n, s in shas(out).items() if n in CURVE} == {n: s for n, s in before.items() if n in CURVE}
    record = manifest_of(out)["entries"]["demo_curve"]
    assert (record["state"], record["reason"]) == ("stale", "no Run with values")
    page = (out / "README.md").read_text(encoding="utf-8")
    assert "![" not in page.split("## Stale")[1]
    assert "demo_curve.svg" in page.split("## Stale")[1] and "demo_curve" not in page.split("## Stale")[0]
    assert build_gallery(runs, out, formats=["svg"], progress=False).stale == ()
    assert manifest_of(out)["entries"]["demo_curve"]["state"] == "drawn"
    assert manifest_of(out)["not_drawn"] == {}


def test_a_run_of_the_organism_is_planted_also_where_the_numbers_do_not_say_so(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = dataclasses.replace(gallery_demo.CURVE, data=lambda s: gallery_demo.curve_data(s).drop(columns="planted"))
    monkeypatch.setattr(_registry, "entries", lambda: {"demo_curve": silent})
    for given, planted in ((runs, True), (runs / "other", False)):
        build_gallery(given, tmp_path / "figures", formats=["svg"], progress=False)
        assert manifest_of(tmp_path / "figures")["entries"]["demo_curve"]["planted"] is planted


def test_only_some_are_built_and_what_is_known_of_others_stays(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "figures"
    build_gallery(runs, out, formats=["svg"], progress=False)
    before = manifest_of(out)["entries"]
    gallery_demo.write_run(runs / "other", "other-sft", model__weights={"llm": "zz"}, values=[0.1, 0.2, 0.3])
    made = build_gallery(runs, out, only="demo_table", formats=["svg"], progress=False)
    assert set(made.seconds) == {"demo_table"} and manifest_of(out)["entries"] == before
    made = build_gallery(runs, out, only=["demo_curve"], formats=["svg"], progress=False)
    assert {path.name for path in made.written} == {*SVG, "manifest.json"}
    assert manifest_of(out)["entries"]["demo_table"] == before["demo_table"]
    assert "0.3" in (out / "demo_curve.csv").read_text(encoding="utf-8")
    with pytest.raises(RunError, match=r"the figure 'demo_curv'.*did you mean 'demo_curve'"):
        build_gallery(runs, out, only=["demo_curv"], formats=["svg"], progress=False)
    # An entry that the package no longer has: a whole build says so, and keeps its files.
    monkeypatch.setattr(_registry, "entries", lambda: {"demo_table": gallery_demo.TABLE})
    made = build_gallery(runs, out, formats=["svg"], progress=False)
    assert made.stale == ("demo_curve",) and set(SVG) <= set(shas(out))


def test_formats_that_are_no_longer_asked_for_do_not_stay_behind(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures"
    build_gallery(runs, out, progress=False)
    (out / "mine.pdf").write_bytes(b"a file of the user's own")
    build_gallery(runs, out, formats=["png"], style="web", progress=False)
    assert set(shas(out)) == {
        "demo_curve.csv", "demo_curve.png", "demo_table.csv", "demo_table.png", "demo_table.tex", "manifest.json",
        "README.md", "mine.pdf",
    }  # fmt: skip
    assert manifest_of(out)["command"] == "vpanalysis figures runs --out figures --style web --format png"


def test_a_file_that_was_changed_or_lost_is_made_again(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures"
    build_gallery(runs, out, formats=["svg"], progress=False)
    before = shas(out)
    (out / "demo_curve.svg").write_text("changed", encoding="utf-8")
    (out / "demo_table.tex").unlink()
    made = build_gallery(runs, out, formats=["svg"], progress=False)
    assert {path.name for path in made.written} == {"demo_curve.svg", "demo_table.tex"}
    assert shas(out) == before


def test_the_page_shows_each_with_alternative_text_caption_and_origin(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures"
    build_gallery(runs, out, formats=["svg"], progress=False)
    page = (out / "README.md").read_text(encoding="utf-8")
    curve, table = page.split("\n## ")[1:]
    assert r"![6 rows \[of a \*demo\*\]](demo_curve.svg)" in curve
    assert curve.startswith(r"A curve \| of \`values\`")
    assert r"What the Runs hold\_." in curve and "stands beside Figure 3" in curve
    assert "`mini-base`, `other`" in curve
    assert PLANTED[1:] in curve and PLANTED[1:] not in table
    assert "`vpanalysis figures runs --out figures --format svg --only demo_curve`" in curve
    assert "[LaTeX](demo_table.tex)" in table and "LaTeX" not in curve
    for link in re.findall(r"\]\(([^)#]+)\)", page):
        assert (out / link).is_file(), link
    for anchor in re.findall(r"\]\(#([^)]+)\)", page):
        assert f'<a id="{anchor}"></a>' in page


def test_what_is_no_manifest_is_not_written_over(runs: Path, tmp_path: Path) -> None:
    for text, said in (("{", "delete it"), ('{"format": "vpanalysis-run/1"}', "vpanalysis-gallery/1"), ("[]", "list")):
        (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
        with pytest.raises(RunError, match=said):
            build_gallery(runs, tmp_path, progress=False)
        assert (tmp_path / "manifest.json").read_text(encoding="utf-8") == text
    with pytest.raises(RunError, match="the style 'papr'"):
        build_gallery(runs, tmp_path / "new", style="papr", progress=False)
    assert not (tmp_path / "new").exists()


def test_a_build_that_is_killed_leaves_the_gallery_as_it_was(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures"
    build_gallery(runs, out, formats=["svg"], progress=False)
    before = shas(out)
    gallery_demo.write_run(runs / "other", "other-sft", model__weights={"llm": "zz"}, values=[0.1, 0.2, 0.3])
    # The first entry is built, the second never ends.
    code = (
        "import dataclasses, pathlib, sys, time\n"
        f"sys.path.insert(0, {str(HERE)!r})\n"
        "import gallery_demo\n"
        "from vpanalysis.figures import _registry, build_gallery\n"
        "def hang(sources):\n"
        "    pathlib.Path(sys.argv[3]).touch()\n"
        "    time.sleep(600)\n"
        "slow = dataclasses.replace(gallery_demo.TABLE, data=hang)\n"
        "_registry.entries = lambda: {'demo_curve': gallery_demo.CURVE, 'demo_table': slow}\n"
        "build_gallery(sys.argv[1], sys.argv[2], formats=['svg'], progress=False)\n"
    )
    sign = tmp_path / "hangs"
    child = subprocess.Popen([sys.executable, "-c", code, str(runs), str(out), str(sign)])
    try:
        end = time.monotonic() + 60
        while not sign.exists() and time.monotonic() < end and child.poll() is None:
            time.sleep(0.05)
        assert sign.exists()
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    (left,) = out.glob(".building-*")
    assert (left / "demo_curve.csv").is_file()
    assert shas(out) == before
    made = build_gallery(runs, out, formats=["svg"], progress=False)
    assert {path.name for path in made.written} == {*SVG, "manifest.json"}
    assert not list(out.glob(".*"))


def test_a_build_beside_another_leaves_its_stage_alone(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "figures"
    theirs = out / f".building-{os.getppid()}"  # a process that lives
    theirs.mkdir(parents=True)
    build_gallery(runs, out, formats=["svg"], progress=False)
    assert theirs.is_dir()


# --- what an entry used ------------------------------------------------------------------------------------------


def test_only_runs_that_were_read_are_named(runs: Path) -> None:
    def used(take: Any) -> set[str]:
        watched = Watched(Sources.of(runs))
        take(watched)
        return set(watched.identities())

    assert used(lambda s: (s.names, s.encoders, s.variants(), s.planted, s.is_planted("other"), len(s.all))) == set()
    assert used(lambda s: s.all["other"]) == {"other"}
    assert used(lambda s: (s.all.get("mini-base"), s.all.get("nobody"))) == {"mini-base"}
    assert used(lambda s: list(s.all.values())) == used(lambda s: dict(s.all.items())) == {"mini-base", "other"}
    assert used(lambda s: list(s.results("ListenRead"))) == set()
    assert used(lambda s: s.changed("other", "reversed")) == set()


def test_a_run_under_a_condition_counts_as_used(runs: Path) -> None:
    gallery_demo.write_run(runs / "turned", "other-sft", model__weights={"llm": "zz"}, benchmark__name="mini:reversed")
    watched = Watched(Sources.of(runs))
    assert watched.changed("other", "reversed") is not None
    assert set(watched.identities()) == {"turned"}


def test_source_is_followed_through_imports() -> None:
    found = source_shas("vpanalysis.figures._drawing")
    assert next(iter(found)) == "vpanalysis.figures._drawing"
    assert {"vpanalysis.plots.style", "vpanalysis.figures._entry", "vpanalysis.figures._files"} <= set(found)
    assert not any(name.endswith("__init__") or name in ("vpanalysis.figures", "vpanalysis.plots") for name in found)
