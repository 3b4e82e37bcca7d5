import json
import re
import shutil

import numpy as np
import pandas as pd
import pretend
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

import vpanalysis as vp
from vpanalysis.benchmark.export import export_benchmark
from vpanalysis.figures import (
    Sources,
    humans,
    ladder,
    ladder_table,
    leaderboard,
    leaderboard_table,
    mmsu,
    static_fusion,
)
from vpanalysis.figures import ours_and_theirs as both
from vpanalysis.figures._checkpoints import ORGANISM, OWN
from vpanalysis.figures._drawing import drawn, styled
from vpanalysis.figures._entry import LackingError, as_read
from vpanalysis.figures._latex import to_latex
from vpanalysis.figures._ours import PLANTED, base_of

ENTRIES = [m.ENTRY for m in (leaderboard, leaderboard_table, ladder, ladder_table, static_fusion, humans, mmsu, both)]
TABLES = [e for e in ENTRIES if e.kind == "table"]
LIMIT = 30


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A checkpoint of the organism, a pretended AF3 with its PCLM + DPO, and AF3 on MMSU."""
    folder = tmp_path_factory.mktemp("leaderboard")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VPANALYSIS_CACHE", str(folder / "cache"))
        bench = vp.load_benchmark("mini", limit=LIMIT)
        made = vp.run("mini-base", bench, folder / "runs" / "mini-base", sites=[], progress=False)
        fused = vp.fuse_layers("mini-base", vp.load_benchmark("mini", tasks="age_prediction", limit=9), progress=False)
        fused.save(vp.open_run(folder / "runs" / "mini-base"))
        pretend.pretend(folder / "runs" / "af3")
        tuned = pretend.pretend(folder / "runs" / "tuned", seed=1, name="AF3_PCLM_DPO", family="audioflamingo3_pclm")
        _say(tuned.path, streams=["encoder[5]", "tower"], source="IHP-Lab/AF3_PCLM_DPO")
        pretend.mmsu_folder(folder / "MMSU")
        pretend.pretend(folder / "runs" / "af3-mmsu", bench=vp.load_benchmark(folder / "MMSU", split="train"))
        assert made.is_complete
    return folder / "runs"


@pytest.fixture(scope="session")
def sources(runs):
    return Sources.of(runs)


def _say(path, **model):
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    manifest["model"] |= model
    (path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def counted(run, kind, which="acc_gt"):
    """Shares of conflict items in percent, counted here from the predictions."""
    table = run.predictions
    table = table[table["condition"] == "conflict"]
    hits = [
        row[kind] == row["truth"] if which == "acc_gt" else
        row[kind] in list(row["claims"])[: 1 if which == "ala_single" else None]
        for row in table.to_dict("records")
    ]  # fmt: skip
    return 100 * float(np.mean(hits)), len(hits)


def picture(entry, sources):
    data = as_read(entry.data(sources))[0]
    with styled("paper"):
        figure = drawn(entry, data)
        FigureCanvasAgg(figure).draw()
    return data, figure


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.id)
def test_tables_are_tidy_and_survive_csv(entry, sources):
    data = entry.data(sources)
    assert not any(isinstance(v, (list, tuple, dict, set)) for column in data for v in data[column])
    assert {"origin", "planted"} <= set(data.columns) and data["planted"].dtype == bool
    read = as_read(data)[0]
    pd.testing.assert_frame_equal(read, as_read(read)[0])
    pd.testing.assert_frame_equal(read, data.reset_index(drop=True), check_dtype=False, rtol=1e-9)
    words = entry.alt(read)
    assert 40 < len(words) < 700 and "nan" not in words.split()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.id)
def test_pictures_are_whole(entry, sources):
    _, figure = picture(entry, sources)
    renderer = FigureCanvasAgg(figure).get_renderer()
    unseen = []  # labels of ticks beyond the limits of an axis
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            unseen += [t.label1 for t in axis.get_major_ticks() if not low <= t.get_loc() <= high]
    texts = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and t not in unseen]
    assert len(texts) > 10
    for text in texts:
        box = text.get_window_extent(renderer)
        assert text.get_fontsize() >= 6, text.get_text()
        assert box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1, text.get_text()
        assert box.y0 >= -1 and box.y1 <= figure.bbox.y1 + 1, text.get_text()


@pytest.mark.parametrize("entry", TABLES, ids=lambda e: e.id)
def test_layouts_are_strings_and_become_latex(entry, sources):
    layout = entry.layout(as_read(entry.data(sources))[0])
    assert all(isinstance(v, str) and v != "nan" for column in layout for v in layout[column])
    words = " ".join(text for column in layout for text in [column, *layout[column]])
    marks = set(re.findall(r"[†‡*]+", words))
    noted = {note.split(" ", 1)[0] for note in layout.attrs["notes"]}
    assert marks <= noted
    assert to_latex(layout, caption=entry.caption, label=f"tab:{entry.id}").isascii()


def test_leaderboard_says_what_the_predictions_say(runs, sources):
    data = leaderboard.data(sources)
    ours = data[data["origin"] == "measured"]
    assert set(ours["name"]) == {"mini-base", "af3", "tuned"}  # not the one on MMSU
    for row in ours.to_dict("records"):
        run = vp.open_run(runs / row["name"])
        kind = "pred_logits" if row["planted"] else "pred_generated"
        value, n = counted(run, kind, row["metric"])
        assert row["value"] == pytest.approx(value) and row["n"] == n and row["low"] <= value <= row["high"]
        conflict = run.predictions[run.predictions["condition"] == "conflict"]
        assert row["chance"] == pytest.approx(100 * np.mean([1 / len(c) for c in conflict["choices"]]))
        assert row["planted"] == row["name"].startswith("mini") and row["group"] == (
            ORGANISM if row["planted"] else OWN
        )
    theirs = data[data["origin"] != "measured"]
    assert len(theirs) == 12 * 2 + 2 and theirs["low"].isna().all() and not theirs["planted"].any()
    second = theirs[~theirs["use"]]
    assert dict(zip(second["label"], second["value"], strict=True)) == {
        "Audio Flamingo 2": 40.75,
        "Audio Flamingo 3": 70.5,
    }


def test_leaderboard_keeps_groups_apart(sources):
    data, figure = picture(leaderboard.ENTRY, sources)
    acc, ala = figure.axes[:2]
    for ax, metric in ((acc, "acc_gt"), (ala, "ala")):
        bars = ax.patches
        used = data[(data["metric"] == metric) & data["use"]]
        assert [round(b.get_width(), 6) for b in bars] == pytest.approx([round(v, 6) for v in used["value"]])
        for bar, origin in zip(bars, used["origin"], strict=True):
            assert bool(bar.get_hatch()) == (origin != "measured")
        assert len(ax.containers) == 2 * (used["origin"] == "measured").sum() + (used["origin"] != "measured").sum()
    diamonds = [line for line in ala.lines if line.get_marker() == "D"]
    assert [line.get_xdata()[0] for line in diamonds] == [40.75, 70.5]
    chance = {line.get_xdata()[0] for line in acc.lines if line.get_gid() == "chance"}
    assert 27.5 in chance and len(chance) > 1  # the pretended benchmark is guessed differently
    assert not [line for line in ala.lines if line.get_gid() == "chance"]


def test_leaderboard_without_runs_is_the_published_one():
    data, figure = picture(leaderboard.ENTRY, Sources.of(()))
    assert len(data) == 26 and figure.axes and "Runs" not in leaderboard.alt(data)


def test_ladder_draws_published_hollow_and_own_filled(sources):
    data, figure = picture(ladder.ENTRY, sources)
    (ax,) = figure.axes[:1]
    marks = [line for line in ax.lines if line.get_marker() in "os"]
    hollow = [line for line in marks if line.get_markerfacecolor() == "white"]
    assert len(hollow) == (data["origin"] != "measured").sum() == 16
    assert len(marks) - len(hollow) == (data["origin"] == "measured").sum() == 6
    printed = data[data["origin"] != "measured"]
    assert sorted(line.get_xdata()[0] for line in hollow) == sorted(printed["value"])
    assert printed.loc[printed["metric"] == "ala", "variant"].isin(["base", "pclm", "pclm+dpo"]).all()


def test_ladder_table_leaves_out_what_is_not_known(sources):
    layout = ladder_table.layout(as_read(ladder_table.data(sources))[0]).set_index("Checkpoint")
    assert layout["ALA"]["AF3 + SFT"] == "–" and layout["ALA"]["AF3 + PCLM"] == "26.30"
    assert layout["MMSU all"]["Qwen2-Audio + PCLM + DPO"] == "55.43"
    # The Run on MMSU stands in the row of the Run with its weights.
    assert layout["MMSU all"]["af3"] != "" and "af3-mmsu" not in layout.index and layout["MMSU all"]["tuned"] == ""


def test_mmsu_counts_all_items_and_the_paralinguistic_ones(runs, sources):
    data = mmsu.data(sources)
    ours = data[data["origin"] == "measured"].set_index("metric")
    table = vp.open_run(runs / "af3-mmsu").predictions
    right = table["pred_generated"] == table["truth"]
    para = np.array(["/Paralinguistics/" in category for category in table["category"]])
    assert 0 < para.sum() < len(table) == ours["n"]["mmsu_all"] and para.sum() == ours["n"]["mmsu_para"] == 20
    assert ours["value"]["mmsu_all"] == pytest.approx(100 * right.mean())
    assert ours["value"]["mmsu_para"] == pytest.approx(100 * right[para].mean())
    assert (ours["low"] < ours["value"]).all() and (ours["value"] < ours["high"]).all()
    assert set(ours["name"]) == {"af3"} and set(ours["base"]) == {"AF3"}


def test_mmsu_is_read_as_it_is_published(runs):
    bench = vp.load_benchmark(runs.parent / "MMSU", split="train")
    two, four = bench[0], bench[1]
    assert two.choices == ("male", "female") and two.letters == ("A", "D")
    assert four.choices == ("one", "two", "None", "four 1")  # there the word is an answer
    assert two.category == "Perception/Paralinguistics/Speaker Traits" and two.condition == "neutral"
    assert {len(item.choices) for item in bench} == {2, 4}


def test_categories_survive_export(runs, tmp_path):
    bench = vp.load_benchmark(runs.parent / "MMSU", split="train")[1:4]
    again = vp.load_benchmark(export_benchmark(bench, tmp_path / "out", progress=False))
    assert [item.category for item in again] == [item.category for item in bench] and all(i.category for i in again)
    # Columns of that name that hold no text are about something else.
    rows = json.loads((tmp_path / "out" / "voxparadox.json").read_text(encoding="utf-8"))
    for row, other in zip(rows, (3, None, ["a"]), strict=True):
        row["category"] = other
    (tmp_path / "out" / "voxparadox.json").write_text(json.dumps(rows), encoding="utf-8")
    assert [item.category for item in vp.load_benchmark(tmp_path / "out")] == [None] * 3


def test_mmsu_without_a_run_says_how_to_record_one():
    data = as_read(mmsu.data(Sources.of(())))[0]
    assert not (data["origin"] == "measured").any() and len(data) == 30
    assert any(mmsu.RECORD in note for note in mmsu.layout(data).attrs["notes"])


def test_an_older_run_without_categories_gives_the_whole_only(runs, sources, monkeypatch):
    run = vp.open_run(runs / "af3-mmsu")
    run.__dict__["predictions"] = run.predictions.drop(columns="category")
    rows = mmsu.measured_rows(Sources([run]))
    assert [row["metric"] for row in rows] == ["mmsu_all"]


def test_humans_flags_what_cannot_be(sources):
    data = as_read(humans.data(sources))[0]
    layout = humans.layout(data).set_index("Framing")
    assert layout["Individual, %"]["How it sounds (truth)"].startswith("80.9†")
    assert layout["Individual, %"]["How it sounds, mean of the column"].startswith("77.22")
    flagged = [cell for cell in layout["Majority, %"] if cell[-1:] == "*"]
    assert flagged == ["66.7*", "77.8*", "88.9*"] and layout["Fleiss κ"]["How it sounds: Age"] == "0.421"
    notes = " ".join(layout.attrs["notes"]) if layout.attrs else " ".join(humans.layout(data).attrs["notes"])
    assert "6 of 9" in notes and "60 annotators" in notes


def test_static_fusion_has_the_control(runs, sources):
    data = static_fusion.data(sources)
    printed = data[data["origin"] != "measured"]
    assert printed["value"].tolist() == [17.4, 19.75, 20.8] and printed["low"].isna().all()
    assert printed["difference"].tolist()[1:] == pytest.approx([2.35, 3.4])
    ours = data[data["origin"] == "measured"].set_index("setting")
    assert ours["planted"].all() and set(ours["tokens"]) == {"", "this clip", "another clip (control)"}
    items = next(f for _, f in sources.results("FusionResult", "mini-base")).items
    right = items.groupby("setting")["correct"].mean() if "correct" in items else None
    column = "correct" if right is not None else "accuracy"
    for setting, row in ours.iterrows():
        mine = items[items["setting"] == setting].set_index("id")[column].astype(float)
        alone = items[items["setting"] == "unfused"].set_index("id")[column].astype(float)
        assert row["value"] == pytest.approx(100 * mine.mean()) and row["n"] == len(mine)
        if setting != "unfused":
            assert row["difference"] == pytest.approx(100 * (mine - alone[mine.index]).mean())
        if row["tokens"] == "this clip":
            other = items[items["setting"] == f"{setting}, other clip"].set_index("id")[column].astype(float)
            assert row["over_control"] == pytest.approx(100 * (mine[other.index] - other).mean())
            assert row["over_control_low"] <= row["over_control"] <= row["over_control_high"]
        else:
            assert pd.isna(row["over_control"])


def test_static_fusion_without_a_result_says_how_to_record_one():
    data = as_read(static_fusion.data(Sources.of(())))[0]
    assert len(data) == 3 and any("vpanalysis reproduce" in note for note in static_fusion.layout(data).attrs["notes"])


def test_ours_and_theirs_judges_only_what_can_be_compared(runs, sources):
    data = both.data(sources)
    planted = data[data["planted"]]
    assert len(planted) and (planted["verdict"] == PLANTED).all() and not planted["comparable"].any()
    assert not planted["verdict"].str.contains("inside|above|below").any()
    judged = data[data["comparable"]]
    assert set(judged["name"]) == {"af3", "tuned"}
    for row in judged.to_dict("records"):
        where = both.ABOVE if row["theirs"] > row["high"] else both.BELOW if row["theirs"] < row["low"] else both.INSIDE
        assert row["verdict"] == where and row["difference"] == pytest.approx(row["value"] - row["theirs"])
    cells = {(r["name"], r["quantity"], r["theirs"]): r for r in judged.to_dict("records")}
    run = vp.open_run(runs / "af3")
    assert cells["af3", "Acc_GT", 17.4]["value"] == pytest.approx(counted(run, "pred_generated")[0])
    # Both printed values of ALA against both ways of counting.
    for theirs in (68.5, 70.5):
        for quantity, which in (("ALA", "ala"), ("ALA, first label only", "ala_single")):
            assert cells["af3", quantity, theirs]["value"] == pytest.approx(counted(run, "pred_generated", which)[0])
    assert cells["af3", "ALA", 68.5]["value"] > cells["af3", "ALA, first label only", 68.5]["value"]
    assert cells["af3", "MMSU all", 51.43]["n"] == 60 and ("tuned", "Acc_GT", 65.2) in cells
    assert data["comparable"].tolist() == sorted(data["comparable"], reverse=True)


def test_verdicts_are_about_where_the_printed_number_lies():
    base = {"planted": False, "comparable": True, "benchmark": "VoxParadox", "prediction": "parsed replies"}
    for theirs, wanted in ((17.4, both.INSIDE), (20.0, both.INSIDE), (20.01, both.ABOVE), (9.9, both.BELOW)):
        row = both._judged({**base, "theirs": theirs, "value": 15.0, "low": 10.0, "high": 20.0})
        assert row["verdict"] == wanted
    row = both._judged({**base, "theirs": 1.0, "value": 1.0, "low": 0.0, "high": 2.0, "prediction": "option logits"})
    assert row["verdict"] == f"{both.INSIDE} (option logits, not replies)"
    row = both._judged(
        {**base, "comparable": False, "benchmark": "mini", "theirs": 1, "value": 1.0, "low": 0.0, "high": 2.0}
    )
    assert row["verdict"] == "not comparable: measured on mini"


def test_other_clips_are_not_compared(tmp_path):
    pretend.pretend(tmp_path / "af3-mini", bench=pretend.benchmark("mini"))
    data = both.data(Sources.of(tmp_path / "af3-mini"))
    assert not data["comparable"].any() and (data["verdict"] == "not comparable: measured on mini").all()


def test_a_small_model_of_the_family_is_no_af3(tmp_path):
    run = pretend.pretend(tmp_path / "small", states=["encoder[0]"])
    assert base_of(Sources([run]), "small") == ""
    with pytest.raises(LackingError, match="vpanalysis run MODEL"):
        both.data(Sources([run]))
    local = pretend.pretend(tmp_path / "local")
    _say(local.path, source="./checkpoints/af3")
    assert base_of(Sources.of(tmp_path / "local"), "local") == ""


def test_the_organism_is_never_af3(runs, tmp_path, sources):
    assert all(base_of(sources, name) == "" for name in sources.planted) and base_of(sources, "af3") == "AF3"
    shutil.copytree(runs / "mini-base", tmp_path / "mini-base")
    data = both.data(Sources.of(tmp_path / "mini-base"))
    assert (data["verdict"] == PLANTED).all() and set(data["published_row"].str.split(" ").str[0]) == {"AF3"}


def test_nothing_measured_nothing_compared():
    with pytest.raises(LackingError, match="record it: vpanalysis run"):
        both.data(Sources.of(()))
