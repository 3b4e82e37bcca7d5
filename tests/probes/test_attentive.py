"""Attentive pooling: it finds what was planted, is the model that a plain loop trains, and padding is nothing to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from vpanalysis.errors import RunError
from vpanalysis.probes.attentive import AttentiveResult, attentive_probe
from vpanalysis.probes.solvers._threads import single_thread
from vpanalysis.probes.solvers.attention import AttentionRecipe, attend_many

SHORT = AttentionRecipe(max_steps=12, choose_steps=False)
CLASSES = 3


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Plain loops are of tiny operations, for which threads only wait."""
    with single_thread():
        yield


def clips_of(
    seed: int = 0, items: int = 72, features: int = 8, classes: int = 2, strength: float = 4.0
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Return ragged clips in which one frame, marked by feature 0, tells the label; labels; speakers."""
    rng = np.random.default_rng(seed)
    y, out = np.arange(items) % classes, []
    for label in y:
        clip = rng.normal(size=(int(rng.integers(10, 25)), features))
        clip[int(0.7 * len(clip))] += strength * np.eye(features)[0] + 1.5 * strength * np.eye(features)[1 + label]
        out.append(clip)
    return out, y, np.arange(items) // 3


def folds_of(items: int, count: int = 4) -> list[tuple[np.ndarray, np.ndarray]]:
    fold_of = np.random.default_rng(3).permutation(items) % count
    return [(np.flatnonzero(fold_of != f), np.flatnonzero(fold_of == f)) for f in range(count)]


def plain_loop(
    clips: list[np.ndarray],
    y: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    recipe: AttentionRecipe,
    weights: np.ndarray,
    seed: int = 0,
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Train one model clip by clip, with nothing but torch; return test probabilities and attention."""
    frames = np.concatenate([clips[i] for i in train])
    mean, scale = frames.mean(0), frames.std(0)
    rows = [torch.from_numpy((clip - mean) / scale) for clip in clips]
    d, h = frames.shape[1], recipe.heads
    classes = int(y.max()) + 1
    first = np.zeros((h, d, classes))
    if h > 1:
        drawn = np.random.default_rng(seed).normal(0, recipe.start, first.shape)
        first = drawn - drawn.mean(0)
    q = torch.zeros((h, d), dtype=torch.float64, requires_grad=True)
    W, b = torch.from_numpy(first).requires_grad_(), torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    trained = [W, b] if recipe.frozen else [W, b, q]
    moments = [(torch.zeros_like(v), 0.0) for v in trained]
    weight = torch.from_numpy(weights[train] / weights[train].sum())

    def look(i: int) -> torch.Tensor:
        return torch.softmax(rows[i] @ q.T / d**0.5, 0)

    def logits(some: np.ndarray) -> torch.Tensor:
        return torch.stack([torch.einsum("th,td,hdk->k", look(i), rows[i], W) / d**0.5 + b for i in some])

    for step in range(1, recipe.max_steps + 1):
        loss = torch.nn.functional.cross_entropy(logits(train), torch.from_numpy(y[train]), reduction="none")
        penalty = W.square().sum() + (0 if recipe.frozen else q.square().sum())
        gradients = torch.autograd.grad((weight * loss).sum() + recipe.l2 / 2 * penalty, trained)
        with torch.no_grad():
            for i, (value, gradient) in enumerate(zip(trained, gradients, strict=True)):
                mean_g, square = moments[i]
                mean_g = 0.9 * mean_g + 0.1 * gradient
                square = 0.99 * square + 0.01 * float(gradient.square().mean())
                moments[i] = (mean_g, square)
                size = (square / (1 - 0.99**step)) ** 0.5 + 1e-12
                value.sub_(recipe.learning_rate * mean_g / (1 - 0.9**step) / size)
    return torch.softmax(logits(test), -1).detach().numpy(), [look(i).detach().numpy() for i in test]


@pytest.mark.parametrize(("heads", "frozen"), [(1, False), (1, True), (3, False)])
def test_each_model_is_that_of_a_plain_loop(heads: int, frozen: bool) -> None:
    clips, y, _ = clips_of(classes=CLASSES, items=36)
    recipe = replace(SHORT, heads=heads, frozen=frozen)
    weights = np.random.default_rng(1).exponential(size=len(y))
    folds = folds_of(len(y), 3)
    fits = attend_many([clips], np.stack([y, np.roll(y, 1)]), folds, recipe, weights=weights, dtype="float64", seed=5)
    for fold in (0, 2):
        for number, labels in enumerate((y, np.roll(y, 1))):
            wanted, looked = plain_loop(clips, labels, *folds[fold], recipe, weights, seed=5)
            np.testing.assert_allclose(fits.probabilities[0, number, folds[fold][1]], wanted, atol=1e-6)
            if not number:
                for i, weight in zip(folds[fold][1], looked, strict=True):
                    np.testing.assert_allclose(fits.attention[0][i], weight, atol=1e-6)
    assert (fits.steps == 12).all()


def test_even_pooling_is_a_plain_linear_probe_of_means() -> None:
    clips, y, _ = clips_of(items=40)
    folds, recipe = folds_of(40), replace(SHORT, frozen=True)
    fits = attend_many([clips], y, folds, recipe, dtype="float64")
    for train, test in folds:
        frames = np.concatenate([clips[i] for i in train])
        X = torch.from_numpy(np.stack([(clip.mean(0) - frames.mean(0)) / frames.std(0) for clip in clips]) / 8**0.5)
        W, b = (torch.zeros(shape, dtype=torch.float64, requires_grad=True) for shape in ((8, 2), (2,)))
        first, second = [torch.zeros_like(W), torch.zeros_like(b)], [0.0, 0.0]
        for step in range(1, 13):
            loss = torch.nn.functional.cross_entropy(X[train] @ W + b, torch.from_numpy(y[train]))
            slopes = torch.autograd.grad(loss + recipe.l2 / 2 * W.square().sum(), [W, b])
            for i, (value, slope) in enumerate(zip((W, b), slopes, strict=True)):
                first[i] = 0.9 * first[i] + 0.1 * slope
                second[i] = 0.99 * second[i] + 0.01 * float(slope.square().mean())
                size = (second[i] / (1 - 0.99**step)) ** 0.5 + 1e-12
                value.data -= recipe.learning_rate * first[i] / (1 - 0.9**step) / size
        wanted = torch.softmax(X[test] @ W + b, 1).detach().numpy()
        np.testing.assert_allclose(fits.probabilities[0, 0, test], wanted, atol=1e-6)
    for item in fits.attention[0]:
        np.testing.assert_allclose(item, 1 / len(item), atol=1e-6)


def test_many_sites_folds_and_label_sets_are_one_at_a_time() -> None:
    first, y, _ = clips_of(0, items=48)
    second = [clip + np.random.default_rng(9).normal(size=clip.shape) for clip in first]
    wide = [np.concatenate([clip, clip[:, :2]], 1) for clip in second]
    sets = np.stack([y, np.random.default_rng(0).permutation(y)])
    folds, recipe = folds_of(48), AttentionRecipe(max_steps=60, patience=10)
    options = {"groups": np.arange(48) // 2, "dtype": "float64"}
    both = attend_many([first, second, wide], sets, folds, recipe, **options)
    assert len(np.unique(both.steps)) > 3
    train, test = folds[0]  # which groups are held out goes by the number of the fold
    for site, clips in enumerate((first, second, wide)):
        for number in range(2):
            alone = attend_many([clips], sets[number], [(train, test)], recipe, **options)
            assert alone.steps[0, 0, 0] == both.steps[site, 0, number]
            wanted = both.probabilities[site, number, test]
            np.testing.assert_allclose(alone.probabilities[0, 0, test], wanted, atol=1e-6)


def test_label_sets_in_portions_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from vpanalysis.probes.solvers import _clips

    clips, y, _ = clips_of(items=36)
    sets = np.stack([np.random.default_rng(s).permutation(y) for s in range(5)])
    whole = attend_many([clips], sets, folds_of(36), SHORT, dtype="float64")
    monkeypatch.setattr(_clips, "_BYTES", 2e5)
    parts = attend_many([clips], sets, folds_of(36), SHORT, dtype="float64")
    np.testing.assert_allclose(parts.probabilities, whole.probabilities, atol=1e-6)
    np.testing.assert_allclose(parts.attention[0][3], whole.attention[0][3], atol=1e-6)


def test_attention_finds_the_frame_and_beats_the_mean() -> None:
    clips, y, groups = clips_of(items=96, strength=3.0)
    found = attentive_probe((clips, None), y=y, groups=groups, frame_seconds=0.02, progress=False)
    row = found.table.iloc[0]
    assert row["accuracy"] > 0.9
    assert row["difference_low"] > 0
    assert row["difference"] == pytest.approx(row["accuracy"] - row["mean_accuracy"])
    wanted = np.array([(int(0.7 * len(clip)) + 0.5) * 0.02 for clip in clips])
    assert (np.abs(found.attention["peak"].to_numpy() - wanted) < 1e-9).mean() > 0.9
    assert found.attention["unit"].eq("s").all()
    peak = found.profile.loc[found.profile["density"].idxmax()]
    assert 0.6 < peak["start"] < 0.8
    assert peak["low"] > 1
    # Densities average to one: attention is a share.
    assert found.profile["density"].mean() == pytest.approx(1.0, abs=1e-6)
    one = found.of_item("7")
    assert one["weight"].sum() == pytest.approx(1.0, abs=1e-5)
    assert one.loc[one["weight"].idxmax(), "frame"] == int(0.7 * len(clips[7]))


def test_nothing_planted_nothing_found() -> None:
    rng = np.random.default_rng(4)
    clips = [rng.normal(size=(12, 6)) for _ in range(120)]
    found = attentive_probe((clips, None), y=np.arange(120) % 2, progress=False)
    row = found.table.iloc[0]
    assert row["low"] < 0.5 < row["high"]
    assert row["difference_low"] < 0 < row["difference_high"]


def test_padding_has_no_influence_whatever_it_holds() -> None:
    clips, y, groups = clips_of(items=36)
    lengths = [len(clip) for clip in clips]
    made = []
    for filler, width in ((0.0, 25), (1e6, 25), (np.nan, 40)):
        padded = np.full((36, width, 8), filler)
        for row, clip in zip(padded, clips, strict=True):
            row[: len(clip)] = clip
        made.append(attentive_probe((padded, lengths), y=y, groups=groups, recipe=SHORT, progress=False))
    made.append(attentive_probe(clips, y=y, groups=groups, recipe=SHORT, progress=False))
    for other in made[1:]:
        pd.testing.assert_frame_equal(other.table, made[0].table, check_exact=True)
        pd.testing.assert_frame_equal(other.attention, made[0].attention, check_exact=True)


def test_equal_seeds_are_equal_bit_for_bit() -> None:
    clips, y, groups = clips_of(items=36)
    options = {"y": y, "groups": groups, "heads": 2, "shuffles": 3, "recipe": SHORT, "progress": False}
    a, b = (attentive_probe(clips, random_state=7, **options) for _ in range(2))
    pd.testing.assert_frame_equal(a.table, b.table, check_exact=True)
    pd.testing.assert_frame_equal(a.attention, b.attention, check_exact=True)
    c = attentive_probe(clips, random_state=8, **options)
    assert not np.array_equal(np.stack(a.attention["centre"]), np.stack(c.attention["centre"]))


def test_heads_become_different() -> None:
    clips, y, _ = clips_of(items=60)
    fits = attend_many([clips], y, folds_of(60), AttentionRecipe(heads=2, max_steps=40, choose_steps=False))
    differ = [np.abs(item[:, 0] - item[:, 1]).max() for item in fits.attention[0]]
    assert np.median(differ) > 0.05
    assert (fits.predicted[0, 0] == y).mean() > 0.85


def test_clips_of_one_frame_are_read_like_their_mean() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    clips = [rng.normal(size=(1, 5)) + label for label in y]
    fits = attend_many([clips], y, folds_of(40), SHORT, dtype="float64")
    even = attend_many([clips], y, folds_of(40), replace(SHORT, frozen=True), dtype="float64")
    np.testing.assert_allclose(fits.probabilities, even.probabilities, atol=1e-9)
    assert all(item.shape == (1, 1) and item[0, 0] == 1 for item in fits.attention[0])


def test_a_large_constant_and_a_still_feature_change_nothing() -> None:
    clips, y, _ = clips_of(items=36)
    moved = [np.concatenate([clip * 3 + 1e4, np.full((len(clip), 1), 7.0)], 1) for clip in clips]
    plain = attend_many([clips], y, folds_of(36), SHORT, dtype="float64")
    float32 = attend_many([moved], y, folds_of(36), SHORT)
    # One more feature changes the unit of scores, so only what is told is compared.
    assert (float32.predicted == plain.predicted).mean() > 0.95
    same = attend_many([[clip * 3 + 1e4 for clip in clips]], y, folds_of(36), SHORT)
    np.testing.assert_allclose(same.probabilities, plain.probabilities, atol=1e-4)


def test_groups_are_never_on_both_sides_and_speaker_labels_do_not_leak() -> None:
    rng = np.random.default_rng(0)
    speaker = np.arange(60) // 5
    y = speaker % 2
    voice = rng.normal(size=(12, 20))
    clips = [rng.normal(size=(8, 20)) * 0.3 + voice[s] * 3 for s in speaker]
    how = AttentionRecipe(max_steps=60, choose_steps=False)
    grouped = attentive_probe(clips, y=y, groups=speaker, recipe=how, progress=False)
    alone = attentive_probe(clips, y=y, recipe=how, progress=False)
    assert alone.table["accuracy"][0] > 0.95
    assert grouped.table["accuracy"][0] < 0.8
    assert grouped.table["group"][0] == "group"
    sides = grouped.predictions.groupby("group")["fold"].nunique()
    assert (sides == 1).all()


def test_shuffles_are_what_the_labels_are_held_against() -> None:
    clips, y, groups = clips_of(items=60, strength=4.0)
    found = attentive_probe(
        clips, y=y, groups=groups, shuffles=19, recipe=AttentionRecipe(max_steps=40), progress=False
    )
    row = found.table.iloc[0]
    assert row["p"] == pytest.approx(1 / 20)
    assert 0.3 < row["shuffle_mean"] < 0.7
    assert row["shuffle_low"] <= row["shuffle_mean"] <= row["shuffle_high"]
    assert np.isnan(row["p_adjusted"])


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    clips, y, groups = clips_of(items=36)
    found = attentive_probe({"a": clips, "b": clips}, y=y, groups=groups, recipe=SHORT, progress=False)
    back = AttentiveResult.load(found.save(tmp_path / "kept"))
    pd.testing.assert_frame_equal(back.table, found.table)
    pd.testing.assert_frame_equal(back.attention, found.attention)
    pd.testing.assert_frame_equal(back.profile, found.profile)
    assert repr(back) == repr(found)
    assert back.sites == ["a", "b"]
    assert "attentive" in found._repr_html_()
    with pytest.raises(RunError, match="no Run on the disk"):
        found.save()
    with pytest.raises(RunError, match="cannot load a AttentiveResult"):
        AttentiveResult.load(tmp_path)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_missing_frames_are_refused(bad: float) -> None:
    clips, y, _ = clips_of(items=12)
    clips[5][2, 3] = bad
    with pytest.raises(RunError, match="infinite or missing states in item '5'"):
        attentive_probe(clips, y=y, progress=False)
    with pytest.raises(RunError, match="first in item 5"):
        attend_many([clips], y, folds_of(12, 2), SHORT)


def test_what_cannot_be_probed_says_why() -> None:
    clips, y, _ = clips_of(items=12)
    with pytest.raises(RunError, match="found numbers; allowed: classes"):
        attentive_probe(clips, y=y.astype(float), progress=False)
    with pytest.raises(RunError, match="lengths"):
        attentive_probe((clips, [99] * 12), y=y, progress=False)
    with pytest.raises(RunError, match="at least one frame"):
        attentive_probe([*clips[:-1], np.zeros((0, 8))], y=y, progress=False)
    with pytest.raises(RunError, match="heads=0"):
        attentive_probe(clips, y=y, heads=0, progress=False)
    one = attentive_probe(clips, y=np.zeros(12, dtype=int), progress=False)
    assert np.isnan(one.table["accuracy"][0])
    assert "one class only" in one.table["note"][0]
    assert "not probed" in repr(one)


def test_a_run_with_segments_only_is_read_by_its_parts_and_one_with_means_only_says_how_to_record(fake_run) -> None:
    class WithReducers:
        name, sites, predictions = "fake", ["encoder[1]", "gate"], fake_run.predictions

        def __init__(self, kept: str) -> None:
            self.kept = kept

        def reducers(self, site: str) -> list[str]:
            return [self.kept]

        def states(self, site: str, reducer: str) -> np.ndarray:
            return fake_run.planted[site]

    found = attentive_probe(
        WithReducers("segments(6)"), tasks="gender_prediction", recipe=AttentionRecipe(max_steps=60), progress=False
    )
    assert found.table["reducer"].tolist() == ["segments(6)"]
    assert "6 equal parts" in found.table["note"][0]
    assert found.table["accuracy"][0] > 0.9
    with pytest.raises(RunError, match=r'reducers="frames"'):
        attentive_probe(WithReducers("mean"), progress=False)


def test_a_run_tells_its_clock_and_a_hole_in_it_is_found(fake_run) -> None:
    frames = fake_run.planted["encoder[1]"].copy()
    frames[:, 5] = np.nan  # every clip ends after five frames
    other = frames.copy()
    other[3, 4] = np.nan
    planted = {"encoder[0]": frames, "encoder[1]": frames, "encoder[2]": other}

    class Framed:
        name, predictions = "framed", fake_run.predictions
        activations = SimpleNamespace(coords={"encoder_frame": np.array([0.02, 0.06])})

        def __init__(self, *sites: str) -> None:
            self.sites = list(sites)

        def states(self, site: str, reducer: str) -> np.ndarray:
            return planted[site]

    found = attentive_probe(
        Framed("encoder[0]", "encoder[1]"), tasks="gender_prediction", recipe=SHORT, progress=False, group_by="speaker"
    )
    assert found.attention["step"].round(9).eq(0.04).all()
    assert found.attention["frames"].eq(5).all()
    with pytest.raises(RunError, match="equally many at sites of one clock"):
        attentive_probe(Framed("encoder[0]", "encoder[2]"), tasks="gender_prediction", recipe=SHORT, progress=False)
