"""The table of planted faults fits the source. Whether each is caught is what ``python tests/mutants.py`` runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from faults import FAULTS, Fault
from mutants import ROOT, misfits


def test_every_fault_fits_the_source_and_names_its_tests() -> None:
    assert misfits(FAULTS) == {}


def test_there_are_enough_faults_and_no_two_are_one() -> None:
    assert len(FAULTS) >= 25
    for kind in ("name", "what"):
        assert max(Counter(getattr(fault, kind) for fault in FAULTS).values()) == 1
    assert len({(fault.file, fault.old, fault.new) for fault in FAULTS}) == len(FAULTS)


def test_a_faulty_module_is_still_python() -> None:
    for fault in FAULTS:
        source = (ROOT / fault.file).read_text(encoding="utf-8").replace(fault.old, fault.new)
        compile(source, fault.file, "exec")


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_one.py").write_text("def test_it():\n    assert True\n")
    (tmp_path / "one.py").write_text("a = 1\nb = 1\nc = 2\n")
    good = Fault("good", "one.py", "c = 2", "c = 3", "c", ("tests/test_one.py::test_it",))
    bad = {
        "gone": (replace(good, old="d = 2"), "occurs 0 times"),
        "twice": (replace(good, old="= 1"), "occurs 2 times"),
        "no file": (replace(good, file="two.py"), "no file two.py"),
        "the same": (replace(good, new="c = 2"), "changes nothing"),
        "no test": (replace(good, tests=("tests/test_one.py::test_other",)), "no test tests/test_one.py::test_other"),
        "none": (replace(good, tests=()), "no test is named"),
    }
    found = misfits([good, *(replace(fault, name=name) for name, (fault, _) in bad.items())], tmp_path)
    assert set(found) == set(bad)
    for name, (_, words) in bad.items():
        assert words in found[name]
