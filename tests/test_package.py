"""The package as a whole: fast to import, documented, typed, layered, and as the README says."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import vpanalysis

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "vpanalysis"
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("torch", "transformers", "pandas", "numpy", "matplotlib", "sklearn", "xarray", "zarr", "scipy")


def loaded_after(*arguments: str) -> tuple[set[str], float]:
    """Run Python on `arguments` in a fresh process; return the modules it loaded and its least CPU seconds.

    CPU time, because the wall clock of a busy machine measures the others.
    """
    code = (
        "import sys, time; start = time.process_time(); argv = sys.argv[1:]\n"
        "sys.argv = argv\n"
        "try:\n"
        "    exec('import vpanalysis') if argv == ['import'] else __import__('vpanalysis.cli').cli.main(argv)\n"
        "except SystemExit as done:\n"
        "    assert not done.code, done.code\n"
        "print('\\n@', time.process_time() - start, *sys.modules)\n"
    )
    best, names = float("inf"), set()
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, timeout=60
        )
        words = done.stdout.rsplit("\n@ ", 1)[1].split()
        best, names = min(best, float(words[0])), set(words[1:])
    return names, best


@pytest.mark.parametrize("arguments", [("import",), ("--help",), ("run", "--help"), ("--version",)])
def test_importing_and_help_are_fast_and_load_nothing_heavy(arguments: tuple[str, ...]) -> None:
    names, seconds = loaded_after(*arguments)
    assert "vpanalysis" in names
    assert not names & set(HEAVY)
    assert seconds < 0.5


def test_the_public_names_exist_and_are_documented() -> None:
    assert set(vpanalysis.__all__) <= set(dir(vpanalysis))
    for name in vpanalysis.__all__:
        value = getattr(vpanalysis, name)
        if name != "__version__":
            assert value.__doc__, name
            assert len(value.__doc__.split()) > 5, name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        vpanalysis.nonsense  # noqa: B018


def test_the_verb_run_is_the_function_after_its_module_was_imported() -> None:
    import vpanalysis.runs

    assert callable(vpanalysis.run)
    assert vpanalysis.run is vpanalysis.runs.run


def test_every_module_has_an_essay() -> None:
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        private = any(part.startswith("_") and part != "__init__.py" for part in path.relative_to(PACKAGE).parts)
        docstring = ast.get_docstring(ast.parse(text))
        assert docstring, path
        assert private or len(docstring.split()) >= 12, f"{path}: a word or two more"


def test_public_functions_and_classes_are_documented() -> None:
    bare = []
    for path in MODULES:
        if path.name.startswith("_") and path.name != "__init__.py":
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
                continue
            if any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list):
                continue
            if not ast.get_docstring(node):
                bare.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert not bare


def _imports(path: Path) -> set[str]:
    """Return the modules that a file imports when it is imported; imports inside functions and for types are free."""

    def walk(body: list[ast.stmt]) -> set[str]:
        found: set[str] = set()
        for node in body:
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.If) and ast.unparse(node.test) != "TYPE_CHECKING":
                found |= walk(node.body) | walk(node.orelse)
            elif isinstance(node, ast.Try):
                found |= walk(node.body)
        return found

    return walk(ast.parse(path.read_text(encoding="utf-8")).body)


UPWARD = {
    "benchmark": ("models", "capture", "organism", "runs", "scoring", "stats", "probes", "plots", "cli", "reproduce"),
    "models": ("capture", "organism", "runs", "scoring", "probes", "plots", "cli", "reproduce"),
    "capture": ("organism", "runs", "scoring", "probes", "plots", "cli", "reproduce"),
    "stats.py": ("benchmark", "models", "capture", "organism", "runs", "scoring", "probes", "plots"),
    "runs.py": ("organism", "scoring", "probes", "plots", "cli", "reproduce"),
    "calibration.py": ("runs", "scoring", "probes", "plots", "cli", "reproduce"),
    "scoring.py": ("models", "organism", "runs", "probes", "plots", "cli", "reproduce"),
    "probes": ("models", "organism", "runs", "scoring", "attribution", "plots", "cli", "reproduce"),
    "attribution": ("organism", "plots", "cli", "reproduce"),
    "plots": ("models", "organism", "runs", "cli", "reproduce"),
}


@pytest.mark.parametrize("room", UPWARD)
def test_nothing_imports_upward(room: str) -> None:
    place = PACKAGE / room
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    assert files
    for path in files:
        for above in UPWARD[room]:
            wrong = {name for name in _imports(path) if re.match(rf"vpanalysis\.{above}(\.|$)", name)}
            assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_it_is_typed_and_licensed() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert all(word in notice for word in ("USC Research License", "NVIDIA", "GPL-3.0-or-later", "espeakng-loader"))


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == vpanalysis.__version__
    assert f"version: {vpanalysis.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {vpanalysis.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert project["license-files"] == ["LICENSE", "NOTICE"]


def test_the_readme_has_exactly_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = [
        line[match.start() :].split("`")[0]
        for line in text.splitlines()
        if (match := re.search(r'pip install -e "?\.\[[a-z,]+\]"? && .+', line))
    ]
    assert found == ['pip install -e ".[mini]" && vpanalysis reproduce', 'pip install -e ".[test]" && pytest']


def test_the_readme_speaks_of_what_exists() -> None:
    from vpanalysis.organism import CHECKPOINTS

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in (
        "load_benchmark", "load_model", "verify", "calibrate", "convert", "trim_report", "register_family", "run",
        "open_run", "score", "compare", "probe_layers",
    ):  # fmt: skip
        assert f"| `{name}(" in text
        assert name in vpanalysis.__all__
    for name in CHECKPOINTS:
        assert f"| `{name}`" in text
    tree = text.split("\n```\nvpanalysis/\n", 1)[1].split("```", 1)[0]
    folder = PACKAGE
    for indent, name in re.findall(r"^( {2,4})([a-z]+(?:\.py|/))", tree, flags=re.MULTILINE):
        # A line that is indented further lies in the folder above it.
        assert ((PACKAGE if len(indent) == 2 else folder) / name).exists(), name
        folder = PACKAGE / name if len(indent) == 2 else folder


def test_the_ci_script_is_a_script() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text
    for step in ("torch==2.13.0", "ruff check", "ruff format --check", "mypy --strict vpanalysis"):
        assert step in text
