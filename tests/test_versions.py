"""Both ends of what is supported: the lower bounds are what is tested, and what runs is what was to be tested."""

from __future__ import annotations

import importlib.metadata
import os
import re
import tomllib

import lowest
import pytest
from packaging.version import Version


def test_the_constraints_are_the_lower_bounds_of_the_project():
    assert lowest.TARGET.read_text(encoding="utf-8") == lowest.content(), "run: python tests/lowest.py"
    assert len(lowest.lowest()) > 25 and "transformers==5.13" in lowest.lowest()


def test_warnings_that_the_package_causes_are_errors():
    project = tomllib.loads((lowest.HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    assert "error:::vpanalysis" in project["tool"]["pytest"]["ini_options"]["filterwarnings"]


def test_what_is_left_out_at_the_lowest_versions_is_there_to_be_left_out():
    """A name that has moved would be tested again, and make the run of both ends too long, without a word."""
    script = (lowest.HERE.parent / ".ci" / "versions").read_text(encoding="utf-8")
    named = re.findall(r"--(?:ignore|deselect)=([^\s:]+)(?:::(\w+))?", script)
    assert len(named) >= 5
    for path, test in named:
        assert f"def {test}" in (lowest.HERE.parent / path).read_text(encoding="utf-8"), (path, test)


@pytest.mark.versions
@pytest.mark.skipif("VPANALYSIS_END" not in os.environ, reason="run by .ci/versions, which says which end this is")
def test_this_environment_is_the_end_that_it_claims_to_be():
    """Without it, a constraint that pip left out would turn the test of the lowest versions into one of some others."""
    end = os.environ["VPANALYSIS_END"]
    wrong = {}
    for one in lowest.lowest():
        name, bound = one.split("==")
        have = Version(importlib.metadata.version(name))
        if (
            end == "lowest"
            and have.base_version != Version(bound).base_version
            and have.release[: bound.count(".") + 1] != Version(bound).release
        ):
            wrong[name] = f"{have}, not {bound}"
        if have < Version(bound):
            wrong[name] = f"{have}, below {bound}"
    assert not wrong
