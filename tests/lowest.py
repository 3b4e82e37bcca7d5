"""The lowest supported versions, as pip constraints: written from pyproject.toml, and checked against it.

``python tests/lowest.py`` writes ``tests/lowest.txt``; ``tests/test_versions.py`` fails where the two have drifted.
What is constrained is what the package needs and what its tests import; linters and type stubs have no say in it.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = HERE / "lowest.txt"
NOT_RUN = {"mypy", "ruff", "pandas-stubs", "scipy-stubs", "types-tqdm"}


def requirements() -> list[str]:
    """Return what the package and its tests need, as pyproject.toml says it."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    both = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    return [one for one in both if re.split(r"[^A-Za-z0-9_-]", one)[0] not in NOT_RUN]


def lowest() -> list[str]:
    """Return a constraint for every requirement: its lower bound, and nothing else."""
    out = []
    for one in requirements():
        found = re.fullmatch(r"([A-Za-z0-9_-]+)(?:>=|==)([0-9.]+)", one)
        if found is None:
            raise ValueError(f"no lower bound in {one!r}")
        out.append(f"{found[1]}=={found[2]}")
    return sorted(out, key=str.lower)


def content() -> str:
    """Return the text of the constraints file."""
    return "# Written by tests/lowest.py from pyproject.toml.\n" + "".join(f"{one}\n" for one in lowest())


if __name__ == "__main__":
    TARGET.write_text(content(), encoding="utf-8")
    sys.stdout.write("".join(f"{one} " for one in (f"{line.split('==')[0]}" for line in lowest())) + "\n")
