"""Decodability over time: planted onsets are found when they are, and nowhere else; folds and shuffles are shared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vpanalysis.benchmark.sources import load_benchmark
from vpanalysis.errors import RunError
from vpanalysis.probes._frames import Binned, FrameReader, Frames, from_frames
from vpanalysis.probes.attentive import attentive_probe
from vpanalysis.probes.estimator import fit_predict
from vpanalysis.probes.over_time import TimeResult, decodability_over_time
from vpanalysis.probes.solvers import fit_many
from vpanalysis.probes.solvers.attention import AttentionRecipe
from vpanalysis.probes.splits import independence_weights
from vpanalysis.runs import open_run

ITEMS, STEP = 90, 0.05


def clips_of(
    seed: int = 0, *, onset: float = 0.5, length: tuple[int, int] = (18, 19), features: int = 8, strength: float = 3.0
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Return clips that tell the label from `onset` (seconds) on; labels; groups of three items."""
    rng = np.random.default_rng(seed)
    y, out = np.arange(ITEMS) % 2, []
    for label in y:
        clip = rng.normal(size=(int(rng.integers(*length)), features))
        clip[round(onset / STEP) :, 0] += strength * (2 * label - 1)
        out.append(clip)
    return out, y, np.arange(ITEMS) // 3


def frames_of(items: list[np.ndarray], step: float = STEP) -> Frames:
    return Frames(items, np.full(len(items), step), "s")


def test_an_onset_is_found_and_nothing_before_it() -> None:
    clips, y, groups = clips_of()
    found = decodability_over_time(clips, y=y, groups=groups, frame_seconds=STEP, progress=False)
    curve = found.curve("y", "frames")
    assert np.allclose(curve["time"], np.arange(9) * 0.1 + 0.05)
    before, after = curve[curve["start"] < 0.49], curve[curve["start"] > 0.49]
    assert (after["accuracy"] > 0.9).all()
    assert (after["p_adjusted"] == 1 / 200).all()
    assert (before["p_adjusted"] > 0.05).all()
    assert ((before["low"] < 0.5) & (before["high"] > 0.5)).sum() >= 4
    assert found.onset()["first"].tolist() == pytest.approx([0.5])
    assert curve["threshold"].nunique() == 1
    assert (curve["threshold"] >= curve["shuffle_high"]).all()
    assert (curve["p_family"] >= curve["p_adjusted"] - 1e-12).all()
    assert (curve["n"] == ITEMS).all()


def test_a_bin_is_what_the_solver_says_of_its_mean() -> None:
    clips, y, groups = clips_of(onset=0.4, strength=0.7)
    found = decodability_over_time(
        clips, y=y, groups=groups, frame_seconds=STEP, shuffles=0, estimator="logistic", progress=False
    )
    rows = found.predictions[found.predictions["bin"] == 5]
    fold_of = rows["fold"].to_numpy()
    folds = [(np.flatnonzero(fold_of != f), np.flatnonzero(fold_of == f)) for f in range(5)]
    mean = np.stack([clip[10:12].mean(0) for clip in clips])
    wanted = fit_many(mean[None], y, folds).predicted[0, 0]
    assert rows["predicted"].tolist() == [str(w) for w in wanted]
    assert found.curve("y", "frames")["accuracy"][5] == pytest.approx((wanted == y).mean())
    assert found.table["p"].isna().all()


def test_bins_share_frames_by_overlap() -> None:
    one = np.array([[1.0], [2.0], [4.0], [8.0]])
    got = Binned(frames_of([one], 0.04), "s", "start", 0.1, None)
    np.testing.assert_allclose(got.values[0, :, 0], [(4 * 1 + 4 * 2 + 2 * 4) / 10, (2 * 4 + 4 * 8) / 6])
    end = Binned(frames_of([one, one[2:]], 0.04), "s", "end", 0.08, None)
    np.testing.assert_allclose(end.values[:, :, 0], [[1.5, 6.0], [np.nan, 6.0]])
    np.testing.assert_allclose(end.start, [-0.16, -0.08])
    half = Binned(frames_of([one, one[:1]], 0.04), "s", "relative", 0.1, 2)
    np.testing.assert_allclose(half.values[:, :, 0], [[1.5, 6.0], [1.0, 1.0]])
    assert half.unit == "clip"
    fine = Binned(frames_of([one], 0.04), "s", "start", 0.02, None)
    np.testing.assert_allclose(fine.values[0, :, 0], np.repeat(one[:, 0], 2))
    assert "longer than a bin" in fine.note


def test_exact_multiples_make_no_empty_bin() -> None:
    # 0.1 is no binary number: three frames of 0.1 s are three bins, not four.
    for frames in range(1, 40):
        got = Binned(frames_of([np.ones((frames, 1))], 0.1), "s", "start", 0.1, None)
        assert got.values.shape[1] == frames
        assert not np.isnan(got.values).any()
        back = Binned(frames_of([np.ones((frames, 1))], 0.1), "s", "end", 0.1, None)
        assert not np.isnan(back.values).any()


def test_clips_that_end_leave_and_the_others_keep_their_folds() -> None:
    clips, y, groups = clips_of(length=(8, 19), onset=0.0)
    found = decodability_over_time(
        clips, y=y, groups=groups, frame_seconds=STEP, shuffles=19, coverage=0.3, progress=False
    )
    curve = found.curve("y", "frames")
    there = [sum(len(clip) * STEP > start + 1e-9 for clip in clips) for start in curve["start"]]
    assert curve["n"].tolist() == there
    assert curve["n"].iloc[-1] < ITEMS
    poor = curve["n"] < 0.3 * ITEMS
    assert poor.any()
    assert curve["accuracy"].isna().equals(poor)
    assert curve["note"][poor].str.contains(f"of {ITEMS} items are that long").all()
    assert (curve["accuracy"][~poor] > 0.9).all()
    # An item has one fold at all times, and a group has one.
    assert (found.predictions.groupby("id")["fold"].nunique() == 1).all()
    assert (found.predictions.groupby("group")["fold"].nunique() == 1).all()


def test_aligned_at_the_end_a_last_syllable_is_one_place() -> None:
    rng = np.random.default_rng(3)
    y, clips = np.arange(ITEMS) % 2, []
    for label in y:
        clip = rng.normal(size=(int(rng.integers(12, 30)), 6))
        clip[-2:, 0] += 4 * label
        clips.append(clip)
    options = {"y": y, "frame_seconds": STEP, "shuffles": 19, "progress": False}
    end = decodability_over_time(clips, align="end", **options).curve("y", "frames")
    start = decodability_over_time(clips, align="start", **options).curve("y", "frames")
    assert end["accuracy"].iloc[-1] > 0.9
    assert end["stop"].iloc[-1] == pytest.approx(0.0)
    assert start["accuracy"].max() < end["accuracy"].iloc[-1] - 0.1
    relative = decodability_over_time(clips, align="relative", bins=5, **options).curve("y", "frames")
    assert relative["accuracy"].iloc[-1] > 0.9
    assert relative["unit"].eq("clip").all()


def test_clips_of_one_frame() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    clips = [rng.normal(size=(1, 4)) + 3 * label for label in y]
    found = decodability_over_time(clips, y=y, frame_seconds=0.02, shuffles=0, generalise=True, progress=False)
    assert found.table[["bin", "n"]].to_numpy().tolist() == [[0, 40]]
    assert found.table["accuracy"][0] > 0.9
    assert found.pivot("y", "frames").shape == (1, 1)


def codes(moving: bool) -> TimeResult:
    rng = np.random.default_rng(5)
    y = np.arange(ITEMS) % 2
    clips = []
    for label in y:
        clip = rng.normal(size=(8, 8))
        for t in range(2, 8):
            clip[t, t - 2 if moving else 0] += 2.5 * (2 * label - 1)
        clips.append(clip)
    return decodability_over_time(
        clips, y=y, groups=np.arange(ITEMS) // 3, frame_seconds=0.1, shuffles=0, generalise=True, progress=False
    )


def test_a_code_that_stays_is_a_square_and_one_that_moves_a_diagonal() -> None:
    for moving in (False, True):
        found = codes(moving)
        wide = found.pivot("y", "frames").to_numpy()
        assert wide.shape == (8, 8)
        np.testing.assert_allclose(np.diag(wide), found.curve("y", "frames")["accuracy"])
        late = wide[2:, 2:]
        off = late[~np.eye(6, dtype=bool)]
        assert np.diag(late).min() > 0.9
        # A probe's small weights off its feature meet a strong signal there, so single cells stray to either side.
        assert (0.35 < off.mean() < 0.65 and off.max() < np.diag(late).min()) if moving else off.min() > 0.9
        # Nothing is told before. (The other way round says little: what a probe of noise happens to weigh is the same
        # for all items that carry the code.)
        assert 0.3 < wide[2:, :2].mean() < 0.7


def test_a_generalised_cell_is_trained_there_and_tested_elsewhere() -> None:
    clips, y, groups = clips_of(length=(6, 14), onset=0.1, strength=0.8)
    found = decodability_over_time(
        clips, y=y, groups=groups, frame_seconds=STEP, shuffles=0, estimator="logistic", generalise=True, coverage=0.4,
        progress=False,
    )  # fmt: skip
    fold_of = np.full(ITEMS, -1)
    first = found.predictions[found.predictions["bin"] == 0]
    fold_of[first["id"].astype(int)] = first["fold"]
    binned = Binned(
        FrameReader(from_frames(clips, None, y), STEP).read("frames", np.arange(ITEMS)), "", "start", 0.1, None
    )
    late, early = np.flatnonzero(~np.isnan(binned.values[:, 4, 0])), np.arange(ITEMS)
    assert len(late) < ITEMS
    for a, b, train_items, test_items in ((4, 0, late, early), (0, 4, early, late)):
        right = np.zeros(len(test_items))
        names = y.astype(str)[train_items]
        for fold in range(5):
            inside = np.flatnonzero(fold_of[train_items] != fold)
            train, mine = train_items[inside], np.flatnonzero(fold_of[test_items] == fold)
            weights = independence_weights(names, np.full(len(names), ""), inside)
            told = fit_predict(binned.values[train, a], y[train], binned.values[test_items[mine], b], weights=weights)
            right[mine] = told == y[test_items[mine]]
        wide = found.pivot("y", "frames")
        assert wide.iloc[a, b] == pytest.approx(right.mean())


def test_shuffles_are_shared_by_bins_so_that_copies_have_one_verdict() -> None:
    clips, y, groups = clips_of(onset=0.0, strength=0.3, length=(2, 3))
    same = [np.repeat(clip[:1], 4, axis=0) for clip in clips]
    found = decodability_over_time(same, y=y, groups=groups, frame_seconds=0.1, progress=False)
    for column in ("accuracy", "p", "shuffle_low", "shuffle_high"):
        assert found.table[column].nunique() == 1
    # The best of copies is each of them: nothing to adjust for.
    np.testing.assert_allclose(found.table["p_adjusted"], found.table["p"])
    np.testing.assert_allclose(found.table["p_family"], found.table["p"])


def test_numbers_are_regressed_on() -> None:
    rng = np.random.default_rng(1)
    y = rng.normal(size=ITEMS)
    clips = [rng.normal(size=(6, 5)) + np.where(np.arange(6)[:, None] > 2, 2.0 * v, 0.0) for v in y]
    found = decodability_over_time(clips, y=y, frame_seconds=0.1, shuffles=9, generalise=True, progress=False)
    curve = found.curve("y", "frames")
    wide = found.pivot("y", "frames").to_numpy()
    np.testing.assert_allclose(np.diag(wide), curve["accuracy"], atol=1e-9)
    assert wide[3:, 3:].min() > 0.8
    assert curve["metric"].eq("R2").all()
    assert (curve["accuracy"][3:] > 0.8).all()
    assert (curve["accuracy"][:3] < 0.3).all()


def test_words_stay_uninformative_in_every_bin(make_run) -> None:
    run = make_run(tasks=("gender_prediction",))
    rng = np.random.default_rng(0)

    class Framed:
        name, predictions, sites = run.name, run.predictions, ["text[0]"]

        def __init__(self) -> None:
            # The words, in clips that end early where words and voice disagree.
            length = np.where(run.predictions["condition"] == "conflict", rng.integers(3, 7, len(run.predictions)), 6)
            words = run.planted["text[0]"]
            self.frames = [item[: min(n, 6)] for item, n in zip(words, length, strict=True)]

        def states(self, site: str, reducer: str) -> list[np.ndarray]:
            return self.frames

    found = decodability_over_time(
        Framed(), sites="text[0]", frame_seconds=0.1, shuffles=0, coverage=0.3, group_by="speaker", progress=False
    )
    made = found.table.dropna(subset=["accuracy"])
    assert len(made) >= 5
    # Unweighted, the words would tell the truth of whoever is left.
    assert ((made["low"] < 0.5) & (made["high"] > 0.5)).all()
    claim = decodability_over_time(
        Framed(), "claim", sites="text[0]", frame_seconds=0.1, shuffles=0, coverage=0.3, group_by="speaker",
        progress=False,
    )  # fmt: skip
    assert (claim.table["accuracy"].dropna() > 0.9).all()


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    found = codes(False)
    back = TimeResult.load(found.save(tmp_path / "kept"))
    for name in ("table", "predictions", "generalisation"):
        pd.testing.assert_frame_equal(getattr(back, name), getattr(found, name))
    assert repr(back) == repr(found)
    assert "TimeResult" in found._repr_html_()
    data = found.to_dataset()
    assert dict(data.sizes) == {"task": 1, "site": 1, "time": 8, "train_time": 8}
    np.testing.assert_allclose(data["time"], np.arange(8) * 0.1 + 0.05)
    assert data["time"].attrs["units"] == "s"
    np.testing.assert_allclose(data["accuracy"][0, 0], found.table["accuracy"])
    np.testing.assert_allclose(data["generalisation"][0, 0], found.pivot("y", "frames"))
    with pytest.raises(RunError, match="no Run on the disk"):
        found.save()
    with pytest.raises(RunError, match="generalise=True"):
        decodability_over_time(
            [np.eye(4)] * 8, y=np.arange(8) % 2, frame_seconds=0.1, shuffles=0, progress=False
        ).pivot("y", "frames")


def test_equal_seeds_are_equal_bit_for_bit() -> None:
    clips, y, groups = clips_of()
    a, b = (
        decodability_over_time(
            clips, y=y, groups=groups, frame_seconds=STEP, shuffles=9, random_state=3, progress=False
        )
        for _ in range(2)
    )
    pd.testing.assert_frame_equal(a.table, b.table, check_exact=True)
    pd.testing.assert_frame_equal(a.predictions, b.predictions, check_exact=True)


def test_padding_is_nothing() -> None:
    clips, y, groups = clips_of(length=(8, 19))
    padded = np.full((ITEMS, 30, 8), np.nan)
    for row, clip in zip(padded, clips, strict=True):
        row[: len(clip)] = clip
    options = {"y": y, "groups": groups, "frame_seconds": STEP, "shuffles": 0, "progress": False}
    a = decodability_over_time(clips, **options)
    b = decodability_over_time((padded, [len(clip) for clip in clips]), **options)
    pd.testing.assert_frame_equal(a.table, b.table, check_exact=True)


def test_a_run_with_segments_only_has_its_parts_as_bins(fake_run) -> None:
    class Parts:
        name, sites, predictions = "fake", ["encoder[1]", "text[0]"], fake_run.predictions

        def reducers(self, site: str) -> list[str]:
            return ["mean", "segments(6)"]

        def states(self, site: str, reducer: str) -> np.ndarray:
            assert reducer == "segments(6)"
            return fake_run.planted[site]

    found = decodability_over_time(Parts(), tasks="gender_prediction", shuffles=9, progress=False)
    assert found.sites == ["encoder[1]"]
    assert len(found.table) == 6
    assert found.table["unit"].eq("clip").all()
    assert found.table["note"].str.contains("6 equal parts").all()
    assert (found.table["accuracy"] > 0.85).all()


def test_what_cannot_be_done_says_why(fake_run) -> None:
    class Means:
        name, sites, predictions = "means", ["encoder[1]"], fake_run.predictions

        def reducers(self, site: str) -> list[str]:
            return ["mean"]

    clips, y, _ = clips_of()
    with pytest.raises(RunError, match=r'neither frames nor segments.*vpanalysis.run\(.*reducers="frames"'):
        decodability_over_time(Means(), progress=False)
    with pytest.raises(RunError, match="give frame_seconds"):
        decodability_over_time(clips, y=y, progress=False)
    with pytest.raises(RunError, match="did you mean 'start'"):
        decodability_over_time(clips, y=y, align="strat", progress=False)
    with pytest.raises(RunError, match="bin_seconds=0"):
        decodability_over_time(clips, y=y, bin_seconds=0, frame_seconds=STEP, progress=False)
    clips[4][3, 2] = np.nan
    with pytest.raises(RunError, match="infinite or missing states in item '4'"):
        decodability_over_time(clips, y=y, frame_seconds=STEP, progress=False)
    one = decodability_over_time([np.ones((3, 2))] * 6, y=["a"] * 6, frame_seconds=0.1, shuffles=0, progress=False)
    assert one.table["accuracy"].isna().all()
    assert "one class only" in one.table["note"][0]
    assert "one class only" in repr(one)


def test_a_model_and_a_benchmark_are_recorded_and_the_run_tells_its_clock(tmp_path: Path) -> None:
    bench = load_benchmark("mini").select(
        tasks="gender_prediction", conditions=["conflict", "congruent"], limit=16
    )  # fmt: skip
    options = {"sites": "encoder[2]", "shuffles": 0, "group_by": "speaker", "n_splits": 2, "progress": False}
    found = decodability_over_time(("mini", bench), out=tmp_path / "run", **options)
    again = decodability_over_time(tmp_path / "run", **options)
    pd.testing.assert_frame_equal(found.table, again.table)
    curve = found.curve("gender_prediction", "encoder[2]")
    seconds = open_run(tmp_path / "run").predictions["seconds"]
    # Frames of 0.04 s: the last bin is the one in which the longest clip ends, give or take a frame.
    assert abs(curve["stop"].iloc[-1] - seconds.max()) < 0.1 + 0.04
    assert curve["n"].iloc[0] == 16
    home = again.save()
    assert home.parent == tmp_path / "run" / "results"
    assert TimeResult.load(home).table.equals(again.table)
    looked = attentive_probe(
        tmp_path / "run", group_by="speaker", n_splits=2, recipe=AttentionRecipe(max_steps=5), progress=False
    )
    assert looked.attention["step"].round(6).eq(0.04).all()
    assert looked.attention["centre"].max() < seconds.max()
