"""What makes a file of the gallery stale, one thing at a time, and what does not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import gallery_demo
import pandas as pd
import pytest

from vpanalysis.errors import RunError
from vpanalysis.figures import _registry, _stale, build_gallery, check_gallery
from vpanalysis.figures._stale import differing


@pytest.fixture(autouse=True)
def _demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "entries", gallery_demo.entries)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    gallery_demo.write_run(tmp_path / "runs" / "mini-base")
    gallery_demo.write_run(tmp_path / "runs" / "other", "other-sft", model__weights={"llm": "zz"})
    return tmp_path / "runs"


@pytest.fixture
def out(runs: Path, tmp_path: Path) -> Path:
    build_gallery(runs, tmp_path / "figures", formats=["svg"], progress=False)
    return tmp_path / "figures"


def bad(frame: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Return state and reason of what is not current, by file."""
    found = frame[frame["state"] != "current"]
    return {row["file"]: (row["state"], row["reason"]) for row in found.to_dict("records")}


def change(path: Path, pattern: str, by: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.search(pattern, text)
    path.write_text(re.sub(pattern, by, text, count=1), encoding="utf-8")


def test_what_was_just_built_is_current(runs: Path, out: Path) -> None:
    frame = check_gallery(runs, out)
    assert list(frame.columns) == ["id", "file", "state", "reason"]
    assert set(frame["state"]) == {"current"} and set(frame["reason"]) == {""}
    assert set(frame["file"]) == {
        "demo_curve.csv", "demo_curve.svg", "demo_table.csv", "demo_table.svg", "demo_table.tex", "README.md",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("model__weights", {"llm": "yy"}, "weights of the Run 'other' changed"),
        ("benchmark__sha", "dd", "benchmark of the Run 'other' changed"),
        ("prompt__sha", "dd", "prompt of the Run 'other' changed"),
        ("plan", {"tower": ["mean", "segments(6)"]}, "sites and reducers of the Run 'other' changed"),
    ],
)
def test_another_run_of_the_same_name_is_noticed(runs: Path, out: Path, part: str, value: object, said: str) -> None:
    gallery_demo.write_run(runs / "other", "other-sft", **{"model__weights": {"llm": "zz"}, part: value})
    found = bad(check_gallery(runs, out))
    # Of the table, which reads no Run, nothing is stale.
    assert found == {file: ("stale", said) for file in ("demo_curve.csv", "demo_curve.svg")}


@pytest.mark.parametrize(("factor", "stale"), [(1 + 2e-4, True), (1 + 0.5e-4, False)])
def test_numbers_are_compared_to_one_in_ten_thousand(runs: Path, out: Path, factor: float, stale: bool) -> None:
    values = [0.25, 1 / 3 * factor, 0.5]
    gallery_demo.write_run(runs / "other", "other-sft", model__weights={"llm": "zz"}, values=values)
    found = bad(check_gallery(runs, out))
    assert set(found) == ({"demo_curve.csv", "demo_curve.svg"} if stale else set())
    if stale:
        assert "numbers changed: column value, row 5: 0.333" in found["demo_curve.svg"][1]


def test_a_new_run_changes_the_numbers_and_a_lost_one_is_named(runs: Path, out: Path) -> None:
    gallery_demo.write_run(runs / "third", "third", model__weights={"llm": "ww"})
    assert "6 rows against 9" in bad(check_gallery(runs, out))["demo_curve.csv"][1]
    found = bad(check_gallery([runs / "mini-base"], out))["demo_curve.csv"][1]
    assert "the Run 'other' is not among these" in found


def test_a_changed_module_or_table_of_published_numbers_is_noticed(
    runs: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        real = _stale.source_shas
        patch.setattr(_stale, "source_shas", lambda module: {**real(module), "vpanalysis.plots.style": "other"})
        assert set(bad(check_gallery(runs, out)).values()) == {("stale", "source changed: vpanalysis.plots.style")}
    change(out / "manifest.json", r'"published": \{\}', '"published": {"ladder": "old"}')
    found = bad(check_gallery(runs, out))
    assert found["demo_curve.svg"] == ("stale", "published numbers changed: ladder")
    assert "demo_table.svg" not in found


def test_a_module_is_hashed_as_it_is_on_the_disk(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    import vpanalysis.figures

    place = tmp_path / "modules"
    place.mkdir()
    text = (Path(gallery_demo.__file__)).read_text(encoding="utf-8")
    (place / "demo_of_the_disk.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(vpanalysis.figures, "__path__", [*vpanalysis.figures.__path__, str(place)])
    module = importlib.import_module("vpanalysis.figures.demo_of_the_disk")
    monkeypatch.setattr(_registry, "entries", module.entries)
    out = tmp_path / "figures"
    build_gallery(runs, out, formats=["svg"], progress=False)
    assert not bad(check_gallery(runs, out))
    (place / "demo_of_the_disk.py").write_text(text + "# another line\n", encoding="utf-8")
    assert {reason for _, reason in bad(check_gallery(runs, out)).values()} == {
        "source changed: vpanalysis.figures.demo_of_the_disk"
    }


def test_what_was_edited_lost_or_put_there_by_hand_is_noticed(runs: Path, out: Path) -> None:
    change(out / "demo_table.tex", "17.40", "18.40")
    (out / "demo_table.svg").unlink()
    (out / "demo_curve.pdf").write_bytes(b"an old one")
    change(out / "README.md", "Figure 3", "Figure 4")
    assert bad(check_gallery(runs, out)) == {
        "demo_table.tex": ("stale", "changed since it was written"),
        "demo_table.svg": ("missing", "no such file"),
        "demo_curve.pdf": ("stale", "not in manifest.json"),
        "README.md": ("stale", "not what manifest.json says"),
    }


def test_an_edited_number_makes_the_picture_beside_it_stale_too(runs: Path, out: Path) -> None:
    change(out / "demo_curve.csv", r"0\.25", "0.52")
    found = bad(check_gallery(runs, out))
    assert found["demo_curve.csv"][1].startswith("changed since it was written; numbers changed")
    assert found["demo_curve.svg"] == ("stale", "numbers changed: column value, row 1: 0.52 against 0.25")


def test_what_runs_lack_is_not_drawn_and_what_was_drawn_of_it_is_stale(runs: Path, out: Path, tmp_path: Path) -> None:
    found = bad(check_gallery([], out))
    said = "no Run with values; record it: vpanalysis run mini mini --out runs/mini"
    assert found == {"demo_curve.csv": ("stale", said), "demo_curve.svg": ("stale", said)}
    build_gallery([], out, formats=["svg"], progress=False)
    assert bad(check_gallery([], out))["demo_curve.svg"] == ("stale", said)
    assert bad(check_gallery(runs, out))["demo_curve.svg"][1].startswith("the build that made it was refused later")
    build_gallery([], tmp_path / "fresh", formats=["svg"], progress=False)
    frame = check_gallery([], tmp_path / "fresh")
    assert bad(frame) == {"": ("not drawn", said)}
    assert bad(check_gallery(runs, tmp_path / "fresh")) == {
        "demo_curve.csv": ("missing", "never drawn from these Runs")
    }


def test_an_empty_folder_has_everything_missing(runs: Path, tmp_path: Path) -> None:
    frame = check_gallery(runs, tmp_path / "nothing")
    assert set(frame["state"]) == {"missing"}
    assert set(frame["file"]) == {"demo_curve.csv", "demo_table.csv", "manifest.json"}
    assert not (tmp_path / "nothing").exists()


def test_a_manifest_of_something_else_is_refused(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"format": "x"}), encoding="utf-8")
    with pytest.raises(RunError, match="format 'x'"):
        check_gallery(runs, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("a,b\n1,x\n", "a,b\n1.00005,x\n", None),
        ("a,b\n1,x\n", "a,b\n1,y\n", "column b, row 1: x against y"),
        ("a\n1\n", "b\n1\n", "columns a against b"),
        ("a\n1\n", "a\n1\n2\n", "1 rows against 2"),
        ("a,b\n1\n", "a,b\n1,2\n", "row 1: 1 cells against 2"),
        ("a,b\n,1\n", "a,b\n0,1\n", "column a, row 1: nothing against 0"),
        ("a\n1e-17\n", "a\n0\n", None),
        ("a\n-1\n", "a\n1\n", "column a, row 1: -1 against 1"),
    ],
)
def test_where_two_tables_differ(old: str, new: str, said: str | None) -> None:
    assert differing(old, new) == said
