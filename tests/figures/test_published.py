import math
import zipfile

import pandas as pd
import pytest

from vpanalysis.errors import RunError
from vpanalysis.figures import _published as module
from vpanalysis.figures import published, published_tables, published_value

MODELS = 12


def column(table, name, *, use=True, place=""):
    found = published(table, use=use)
    found = found[(found["column"] == name) & found["place"].str.contains(place)]
    return found[~found["row"].str.startswith("mean")].set_index("row")["value"]


def test_every_number_has_unit_source_and_use():
    every = published(use=False)
    assert tuple(every.columns) == module.COLUMNS
    assert every["value"].notna().all() and every["use"].dtype == bool
    assert set(every["source"]) == {"paper", "authors' page", "digest", "earlier code", "dataset", "recomputed"}
    assert set(every["unit"]) <= {"percent", "kappa", "items", "annotators", "framings", "hours", "pairs", "tasks",
                                  "layer", "streams", "million", ""}  # fmt: skip
    assert (every["unit"] != "").sum() == len(every) - 2  # beta and learning rate have none
    assert list(dict.fromkeys(every["table"])) == published_tables()
    percent = every[every["unit"] == "percent"]["value"]
    assert percent.between(0, 100).all()
    # A value from somebody's account or from our arithmetic says so, and one that is not used says why.
    assert every.loc[~every["use"], "note"].ne("").all()


def test_one_value_to_use_a_cell():
    used = published()
    assert not used.duplicated(["table", "row", "column"]).any()
    every = published(use=False)
    recomputed = every[~every["use"]].merge(used, on=["table", "row", "column"], how="left", suffixes=("", "_used"))
    alone = recomputed[recomputed["value_used"].isna()]
    # These have no number to use: ranges, cells of tasks not known, our arithmetic about sizes.
    assert set(alone["table"]) == {"per_task", "humans", "pclm"}


def test_means_of_the_leaderboard_are_those_that_are_printed():
    acc, ala = column("leaderboard", "Acc_GT"), column("leaderboard", "ALA")
    assert len(acc) == len(ala) == MODELS
    assert round(acc.mean(), 2) == 15.33 == published_value("leaderboard", "mean of 12", "Acc_GT")
    assert round(ala.mean(), 2) == 64.34 == published_value("leaderboard", "mean of 12", "ALA")
    second = column("leaderboard", "ALA", use=False, place="second version")
    assert len(second) == MODELS and round(second.mean(), 2) == 65.42
    means = published("leaderboard", use=False).query("row == 'mean of 12' and column == 'ALA'")
    assert dict(zip(means["source"], means["value"], strict=True)) == {"paper": 64.34, "recomputed": 65.42}
    differ = second[second != ala[second.index]]
    assert differ.to_dict() == {"Audio Flamingo 2": 40.75, "Audio Flamingo 3": 70.5}
    assert len(column("leaderboard", "ALA", use=False, place="first version")) == 11  # without Qwen3-Omni
    assert (acc < published_value("chance", "VoxParadox", "Acc_GT")).sum() == 11


def test_bases_are_the_same_in_every_table():
    for model, base in (("Audio Flamingo 3", "AF3"), ("Qwen2-Audio-7B-Instruct", "Qwen2-Audio")):
        for name in ("Acc_GT", "ALA"):
            assert published_value("leaderboard", model, name) == published_value("ladder", base, name)
        assert published_value("leaderboard", model, "MMSU para") == published_value("mmsu", base, "MMSU para")
    assert published_value("static_fusion", "AF3", "Acc_GT") == published_value("ladder", "AF3", "Acc_GT")


def test_no_share_is_left_below_zero():
    for table in ("leaderboard", "ladder"):
        used = published(table).pivot(index="row", columns="column", values="value")
        neither = 100 - used["Acc_GT"] - used["ALA"]
        assert neither.dropna().ge(0).all()
    leader = published("leaderboard").pivot(index="row", columns="column", values="value")
    neither = 100 - leader["Acc_GT"] - leader["ALA"]
    assert round(neither["SALMONN-7B"]) == 71 and round(neither["Audio Flamingo 2"]) == 39


def test_ladder_has_what_is_known_and_no_more():
    found = published("ladder").pivot(index="row", columns="column", values="value")
    assert len(found) == 10
    unknown = found.index[found["ALA"].isna()]
    assert list(unknown) == ["AF3 + SFT", "AF3 + SFT + DPO", "Qwen2-Audio + SFT", "Qwen2-Audio + SFT + DPO"]
    assert found["Acc_GT"]["AF3 + PCLM + DPO"] == 65.2 and found["Acc_GT"]["Qwen2-Audio + PCLM + DPO"] == 72.3
    mmsu = published("mmsu").pivot(index="row", columns="column", values="value")
    assert mmsu.shape == (10, 2) and mmsu.notna().all().all()
    # DPO lowers Qwen2-Audio's SFT, and AF3 ends below its base on all of MMSU.
    assert found["Acc_GT"]["Qwen2-Audio + SFT + DPO"] < found["Acc_GT"]["Qwen2-Audio + SFT"]
    assert mmsu["MMSU all"]["AF3 + PCLM + DPO"] < mmsu["MMSU all"]["AF3"]
    items = published("mmsu_items").set_index("row")["value"]
    assert (
        items["Paralinguistics"] + items["Linguistics"] == items["four options"] + items["two options"] == items["all"]
    )


def test_chance_is_that_of_the_options():
    found = {row["column"]: row["value"] for row in published("chance").to_dict("records")}
    assert found["tasks"] == found["tasks of two options"] + found["tasks of four options"]
    assert found["items"] == found["tasks"] * found["items per task"] == 2000
    guessed = (found["tasks of two options"] * 50 + found["tasks of four options"] * 25) / found["tasks"]
    assert guessed == found["Acc_GT"] == 27.5


def test_known_misprints_are_flagged_and_kept():
    hours = published("dpo_hours", use=False)
    rows = hours[hours["row"].str.startswith("task")]["value"]
    assert len(rows) == 10 and round(rows.sum(), 1) == 115.3
    assert published_value("dpo_hours", "sum", "hours") == 96.0
    printed = hours.query("row == 'sum' and use").iloc[0]
    assert printed["source"] == "paper" and printed["note"].startswith("flagged") and "115.3" in printed["note"]
    humans = published("humans", use=False)
    assert published_value("humans", "how it sounds", "individual accuracy") == 80.9
    total = humans.query("row == 'how it sounds' and column == 'individual accuracy'")
    assert dict(zip(total["source"], total["value"], strict=True)) == {"paper": 80.9, "recomputed": 77.22}
    assert "77.22" in total["note"].iloc[0]
    # Shares of 20 items are multiples of 5.
    majorities = humans[(humans["column"] == "majority accuracy") & humans["row"].str.contains(r":|a cell")]
    broken = majorities[majorities["value"] % 5 != 0]
    assert broken["value"].tolist() == [66.7, 77.8, 88.9] and not broken["use"].any()
    assert [round(100 * k / 9, 1) for k in (6, 7, 8)] == broken["value"].tolist()
    flagged = published(use=False)
    flagged = flagged[flagged["note"].str.startswith("flagged")]
    assert sorted(flagged["table"]) == ["dpo_hours"] + ["humans"] * 4
    design = humans[humans["row"] == "design"].set_index("column")["value"]
    assert design["items"] == 10 * design["items per task"] and design["annotators"] == 60


def test_facts_of_the_mixer():
    layers = published("pclm").query("column == 'encoder layer'")["value"].tolist()
    assert layers == [5, 15, 25, 30]
    assert published_value("pclm", "mixer", "streams") == len(layers) + 1
    # Four clones of Linear(1280 -> 3584), GELU, Linear(3584 -> 3584), with biases.
    clones = 4 * (1280 * 3584 + 3584 + 3584 * 3584 + 3584) / 1e6
    every = published("pclm", use=False).set_index(["row", "column"])["value"]
    assert round(clones, 1) == every["AF3", "parameters of four cloned projectors"] == 69.8
    assert round(100 * clones / 8250, 2) == every["AF3", "share of four cloned projectors"] == 0.85
    assert round(4 * (1280 * 4096 + 4096) / 1e6) == every["Qwen2-Audio", "parameters of four cloned projectors"]


def test_errors_say_what_there_is():
    with pytest.raises(RunError, match="did you mean 'leaderboard'"):
        published("leaderbord")
    with pytest.raises(RunError, match="did you mean 'Audio Flamingo 3'"):
        published_value("leaderboard", "Audio Flamingo3", "Acc_GT")
    with pytest.raises(RunError, match=r"did you mean 'Acc_GT'"):
        published_value("ladder", "AF3", "Acc_GTT")
    with pytest.raises(RunError, match="not known to us"):
        published_value("ladder", "AF3 + SFT", "ALA")


def test_a_table_cannot_be_changed_by_who_reads_it():
    found = published("ladder", use=False)
    found["value"] = math.nan
    assert published_value("ladder", "AF3", "Acc_GT") == 17.4


def test_files_hold_what_the_loader_gives():
    for table in published_tables():
        text = (module._FOLDER / f"{table}.csv").read_bytes()
        assert b"\r" not in text and text.decode("utf-8")
        assert pd.read_csv(module._FOLDER / f"{table}.csv")["table"].eq(table).all()


def test_wheels_carry_the_tables(tmp_path):
    """The pattern of the package data finds them; a wheel is built of a copy with nothing else in it."""
    import shutil
    import subprocess
    import sys
    from pathlib import Path

    root = Path(module.__file__).resolve().parents[2]
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(root / name, tmp_path / name)
    figures = tmp_path / "vpanalysis" / "figures"
    (figures / "published").mkdir(parents=True)
    (tmp_path / "vpanalysis" / "__init__.py").write_text("")
    (figures / "__init__.py").write_text("")
    for path in module._FOLDER.glob("*.csv"):
        shutil.copy(path, figures / "published")
    build = "import setuptools.build_meta as b; b.build_wheel('dist')"
    done = subprocess.run([sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    inside = zipfile.ZipFile(wheel).namelist()
    assert {f"vpanalysis/figures/published/{table}.csv" for table in published_tables()} <= set(inside)
