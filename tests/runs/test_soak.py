"""Ten runs of the soak, and that the soak itself would notice; see `soak` for the hundred."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import FakeLLM, make_benchmark
from soak import different, soak, states_of, table_of

from vpanalysis import open_run, run


@pytest.mark.soak
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("engine", ["default", "ray"])
def test_ten_killed_runs_end_as_if_they_had_not_been(tmp_path, engine):
    if engine == "ray":
        pytest.importorskip("ray", reason="ray is not installed (the extra 'ray')")
    made = soak(tmp_path, 10, engine=engine)
    assert [found["problems"] for found in made] == [[]] * 10
    kills = [kill for found in made for kill in found["kills"]]
    # How long a driver takes, which is when it is killed, varies with what else the machine does.
    assert sum("finished before" not in kill for kill in kills) >= (8 if engine == "default" else 5)
    # Not all of them before anything was there.
    assert sum("(0 blocks)" not in kill for kill in kills) >= 4


def test_the_comparison_sees_one_changed_value(tmp_path):
    settings = {"block_size": 4, "batch_size": 2, "progress": False, "cache": None}
    whole = run(FakeLLM(), make_benchmark(10), tmp_path / "a", **settings)
    other = run(FakeLLM(), make_benchmark(10), tmp_path / "b", **settings)
    known = (table_of(whole), states_of(whole), 4)
    assert different(other, known) == []
    (tmp_path / "b/blocks/00001.json").unlink()
    assert different(open_run(tmp_path / "b"), known) == []
    known[1]["tower", "mean"][9, 3] = np.nextafter(known[1]["tower", "mean"][9, 3], 9)
    known[0][0][0] = "another id"
    assert different(open_run(tmp_path / "b"), known) == ["id", "('tower', 'mean')"]
