"""The gallery that comes with the project is whole: every file is what its manifest says."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from vpanalysis.figures import list_figures

FOLDER = Path(__file__).resolve().parents[2] / "figures"
MANIFEST = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))


def test_every_entry_is_drawn_or_says_why_not() -> None:
    drawn = [name for name, one in MANIFEST["entries"].items() if one["state"] == "drawn"]
    assert {*drawn, *MANIFEST["not_drawn"]} == set(list_figures()["id"])
    # Recordings of people do not come with the package.
    assert set(MANIFEST["not_drawn"]) == {"natural_speech"} and MANIFEST["not_drawn"]["natural_speech"]


@pytest.mark.parametrize("name", [name for name, one in MANIFEST["entries"].items() if one["state"] == "drawn"])
def test_files_are_those_of_the_manifest(name: str) -> None:
    files = MANIFEST["entries"][name]["files"]
    assert {Path(file).suffix for file in files} >= {".csv", ".png", ".pdf"}
    for file, about in files.items():
        sha = about["sha256"] if isinstance(about, dict) else about
        assert hashlib.sha256((FOLDER / file).read_bytes()).hexdigest().startswith(sha), file


def test_it_is_small_and_names_no_folder_of_a_machine() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 15_000_000
    for name in ("manifest.json", "README.md"):
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert not any(part in text for part in ("/tmp/", "/home/", "/root/", "/work/"))
    listed = {file for one in MANIFEST["entries"].values() for file in one.get("files", {})}
    assert {path.name for path in FOLDER.iterdir()} == listed | {"manifest.json", "README.md"}
