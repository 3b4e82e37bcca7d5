"""Saved results know their Run."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from vpanalysis._saved import StaleResultWarning, home_of, load_tables, run_identity, save_tables
from vpanalysis.errors import RunError

TABLES = {"table": pd.DataFrame({"a": [1.5, None], "b": ["x", "<b>"]})}


def a_run(tmp_path: Path) -> SimpleNamespace:
    (tmp_path / "manifest.json").write_text("{}")
    return SimpleNamespace(name="r", path=tmp_path)


def test_what_is_saved_is_read_back_and_equal_settings_have_one_folder(tmp_path: Path) -> None:
    settings = {**run_identity(a_run(tmp_path)), "C": 0.1}
    folder = home_of(settings, "thing of mine", tasks=["t"])
    assert folder.parent == tmp_path / "results"
    assert folder.name.startswith("thing-of-mine-")
    assert folder == home_of(dict(settings), "thing of mine", tasks=["t"])
    assert folder != home_of(settings, "thing of mine", tasks=["u"])
    save_tables(folder, "Thing", TABLES, settings, note="more")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tables, found = load_tables(folder, "Thing", ("table",))
    pd.testing.assert_frame_equal(tables["table"], TABLES["table"])
    assert found == {**settings, "note": "more"}


def test_a_changed_run_is_refused_and_warned_about(tmp_path: Path) -> None:
    settings = run_identity(a_run(tmp_path))
    folder = save_tables(home_of(settings, "thing"), "Thing", TABLES, settings)
    (tmp_path / "manifest.json").write_text('{"other": 1}')
    with pytest.raises(RunError, match="changed since"):
        home_of(settings, "thing")
    with pytest.warns(StaleResultWarning, match="another state"):
        load_tables(folder, "Thing", ("table",))


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no Run on the disk"):
        home_of({"path": None}, "thing")
    with pytest.raises(RunError, match=r"no result.json, table.parquet"):
        load_tables(tmp_path, "Thing", ("table",))
    save_tables(tmp_path, "Other", TABLES, {})
    with pytest.raises(RunError, match="kind 'Other'"):
        load_tables(tmp_path, "Thing", ("table",))
    (tmp_path / "result.json").write_text(json.dumps([1]))
    with pytest.raises(RunError, match="kind 'list'"):
        load_tables(tmp_path, "Thing", ("table",))
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(RunError, match="no JSON"):
        load_tables(tmp_path, "Thing", ("table",))
