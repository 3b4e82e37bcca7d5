"""The manual: nothing public is left out of it, its examples run, and it builds without a warning."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vpanalysis

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "vpanalysis"
PAGES = sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts)
AREAS = (
    "vpanalysis.attribution",
    "vpanalysis.benchmark.transforms",
    "vpanalysis.errors",
    "vpanalysis.explore",
    "vpanalysis.plots",
    "vpanalysis.probes",
    "vpanalysis.probes.controls",
    "vpanalysis.probes.views",
    "vpanalysis.stats",
)
ANALYSES = ("vpanalysis.scoring", "vpanalysis.probes", "vpanalysis.attribution", "vpanalysis.calibration",
            "vpanalysis.trimming")  # fmt: skip
_DIRECTIVE = re.compile(r"^\.\. auto(?:class|function|data|exception):: (vpanalysis[\w.]*)\.(\w+)$", re.M)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _examples(page: Path) -> str:
    return "\n".join(re.findall(r"^```pycon\n(.*?)^```", _text(page), flags=re.M | re.S))


def _documented() -> list[tuple[str, str]]:
    return [pair for page in sorted((DOCS / "api").glob("*.md")) for pair in _DIRECTIVE.findall(_text(page))]


def _raised() -> set[str]:
    """Return the names of all errors and warnings that the package defines."""
    return {
        node.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(_text(path)))
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Error", "Warning"))
    }


def test_every_public_name_is_in_the_reference() -> None:
    listed = {name for module, name in _documented() if module == "vpanalysis"}
    assert listed == set(vpanalysis._EXPORTS)


@pytest.mark.parametrize("area", AREAS)
def test_every_name_of_an_area_is_in_the_reference(area: str) -> None:
    values = [getattr(importlib.import_module(module), name) for module, name in _documented()]
    module = importlib.import_module(area)
    missing = [name for name in module.__all__ if not any(getattr(module, name) is value for value in values)]
    assert not missing, f"{area}: {missing} have no place in docs/api"


def test_no_name_is_documented_twice() -> None:
    listed = _documented()
    assert len(listed) == len(set(listed))


def test_every_error_has_a_page_with_symptom_cause_and_fix() -> None:
    found = {page.stem for page in (DOCS / "errors").glob("*.md")} - {"index"}
    assert {name.lower() for name in _raised()} <= found
    for page in (DOCS / "errors").glob("*.md"):
        if page.stem == "index":
            assert set(re.findall(r"^([a-z-]+)$", _text(page), flags=re.M)) == found
        else:
            assert re.findall(r"^## (.+)$", _text(page), flags=re.M) == ["Symptom", "Cause", "Fix"], page.name


def test_every_analysis_answers_a_question() -> None:
    rows = [
        line for line in _text(DOCS / "questions.md").splitlines() if line.startswith("| ") and line.count("|") == 4
    ]
    named = {name for row in rows for name in re.findall(r"\[`(\w+)`\]", row.split("|")[2])}
    verbs = {n for n, module in vpanalysis._EXPORTS.items() if module in ANALYSES and n[0].islower()}
    assert named == verbs
    assert all(row.split("|")[3].strip() for row in rows)


@pytest.mark.parametrize("page", [p for p in PAGES if _examples(p)], ids=lambda p: str(p.relative_to(DOCS)))
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    parsed = doctest.DocTestParser().get_doctest(_examples(page), {}, page.stem, str(page), 0)
    assert parsed.examples
    told: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(parsed, out=told.append)
    assert result.failed == 0, "".join(told)


def test_the_manual_builds_without_a_warning(tmp_path: Path) -> None:
    for name in ("sphinx", "numpydoc", "furo", "myst_parser"):
        pytest.importorskip(name)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", str(tmp_path / "trees"),
               str(DOCS), str(tmp_path / "html")]  # fmt: skip
    built = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert built.returncode == 0, built.stderr
    page = _text(tmp_path / "html" / "api" / "attribution.html")
    assert 'id="vpanalysis.listen_vs_read"' in page and "delexicalised" in page
