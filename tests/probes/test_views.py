"""Further views: closed-form truths of CKA, ranks, erasure and directions, and the way of their results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import oas

from vpanalysis import plots
from vpanalysis.errors import RunError
from vpanalysis.probes import views
from vpanalysis.probes.views._jackknife import joined, limits

mpl.use("Agg")
import matplotlib.pyplot as plt


@pytest.fixture(autouse=True)
def close_figures() -> Any:
    yield
    plt.close("all")


def rotation(d: int, rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(d, d)))[0]


def hsic(k: np.ndarray, g: np.ndarray) -> float:
    """Song et al. 2012, equation 5, as it is printed."""
    n = len(k)
    k, g = k - np.diag(np.diag(k)), g - np.diag(np.diag(g))
    one = np.ones(n)
    value = (
        np.trace(k @ g) + (one @ k @ one) * (one @ g @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ g @ one)
    )
    return float(value / (n * (n - 3)))


# Similarity ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.floats(1e-3, 1e3), st.booleans())
@settings(max_examples=25, deadline=None)
def test_cka_of_a_rotated_shifted_scaled_copy_is_one(seed: int, scale: float, debiased: bool) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(9, 6))
    y = scale * (x @ rotation(6, rng)) + rng.normal(size=6) * 100
    assert views.linear_cka(x, y, debiased=debiased) == pytest.approx(1, abs=1e-9)


def test_cka_equals_its_definitions() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(11, 5)) + 3, rng.normal(size=(11, 8))
    y[:, :3] += x[:, :3]
    a, b = x - x.mean(0), y - y.mean(0)
    plain = np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert views.linear_cka(x, y) == pytest.approx(plain, rel=1e-10)
    k, g = x @ x.T, y @ y.T
    unbiased = hsic(k, g) / np.sqrt(hsic(k, k) * hsic(g, g))
    assert views.linear_cka(x, y, debiased=True) == pytest.approx(unbiased, rel=1e-10)


def test_debiased_cka_is_zero_on_independent_noise_where_the_plain_one_is_not() -> None:
    rng = np.random.default_rng(2)
    draws = rng.normal(size=(40, 2, 8, 300))
    fair = np.array([views.linear_cka(a, b, debiased=True) for a, b in draws])
    plain = np.array([views.linear_cka(a, b) for a, b in draws])
    assert abs(fair.mean()) < 4 * fair.std() / np.sqrt(len(fair))
    assert abs(fair.mean()) < 0.03
    assert plain.min() > 0.9


@pytest.mark.parametrize("debiased", [True, False])
def test_jackknife_in_one_pass_equals_leaving_out(debiased: bool) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(20, 2, 7)) + 5
    x[:, 1, :3] += x[:, 0, :3]
    group = np.repeat(np.arange(5), 4)
    table = views.similarity(x, groups=group, debiased=debiased).table.set_index(["site", "other"])
    got = table.loc[("layer[0]", "layer[1]")]
    without = np.array([views.linear_cka(x[group != g, 0], x[group != g, 1], debiased=debiased) for g in range(5)])
    value = views.linear_cka(x[:, 0], x[:, 1], debiased=debiased)
    low, high = limits(np.array(value), without, level=0.95, low=-1.0 if debiased else 0.0, high=1.0)
    assert (got["cka"], got["low"], got["high"]) == pytest.approx((value, low, high), rel=1e-9)
    assert got["n_groups"] == 5


def test_jackknife_of_a_mean_is_the_standard_error() -> None:
    y = np.random.default_rng(0).normal(size=30)
    without = (y.sum() - y) / 29
    low, high = limits(np.array(y.mean()), without, level=0.95, low=-9.0, high=9.0)
    from scipy import stats

    half = stats.t.ppf(0.975, 29) * y.std(ddof=1) / np.sqrt(30)
    assert (low, high) == pytest.approx((y.mean() - half, y.mean() + half))


def test_a_constant_site_and_one_group_are_empty_cells() -> None:
    x = np.random.default_rng(0).normal(size=(6, 2, 3))
    x[:, 1] = 7.1
    table = views.similarity(x, groups=np.zeros(6)).table
    assert table.loc[table["other"] == "layer[1]", "cka"].isna().all()
    assert table["low"].isna().all()
    assert table["cka"].iloc[0] == pytest.approx(1)


def test_runs_are_paired_by_id(make_run: Callable[..., Any]) -> None:
    run, other = make_run(tasks=["gender_prediction"]), make_run(tasks=["gender_prediction"])
    order = np.random.default_rng(0).permutation(len(other.predictions))[:-7]
    other.name, other.predictions = "shuffled", other.predictions.iloc[order].reset_index(drop=True)
    other.planted = {site: values[order] for site, values in other.planted.items()}
    found = views.similarity(run, other)
    assert found.settings["items"] == len(order)
    assert np.diag(found.pivot()) == pytest.approx(np.ones(5))
    assert "other" in found.settings
    apart = make_run(tasks=["gender_prediction"], prefix="else")
    with pytest.raises(RunError, match="no item in both"):
        views.similarity(run, apart)


# Geometry -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("wide", [5, 200])
def test_ranks_of_evenly_spread_states(rank: int, wide: int) -> None:
    rng = np.random.default_rng(rank)
    axes = np.concatenate([np.eye(rank), -np.eye(rank)])
    x = np.pad(axes, ((0, 0), (0, wide - rank))) @ rotation(wide, rng) + 3
    assert views.effective_rank(x) == pytest.approx(rank, rel=1e-6)
    assert views.isoscore(x) == pytest.approx((rank - 1) / (wide - 1), abs=1e-9)


def test_isoscore_follows_the_steps_of_its_paper() -> None:
    x = np.random.default_rng(0).normal(size=(50, 6)) * [1, 2, 3, 4, 5, 6]
    variances = np.linalg.eigvalsh(np.cov(x.T))
    d = 6
    scaled = np.sqrt(d) * variances / np.linalg.norm(variances)
    defect = np.linalg.norm(scaled - 1) / np.sqrt(2 * (d - np.sqrt(d)))
    share = (d - defect**2 * (d - np.sqrt(d))) ** 2 / d**2
    assert views.isoscore(x) == pytest.approx((d * share - 1) / (d - 1))


def test_mean_cosine_is_the_mean_over_pairs() -> None:
    x = np.random.default_rng(0).normal(size=(7, 4)) + 1
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert views.mean_cosine(x) == pytest.approx((unit @ unit.T)[np.triu_indices(7, 1)].mean())
    assert views.mean_cosine(np.ones((3, 2))) == pytest.approx(1)
    assert np.isnan(views.effective_rank(np.ones((3, 2))))


def test_geometry_has_intervals_around_its_values() -> None:
    x = np.random.default_rng(0).normal(size=(60, 2, 5))
    table = views.geometry(x, groups=np.arange(60) // 2).table
    assert len(table) == 2 * 3
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
    assert (table["n_groups"] == 20).all()
    with pytest.raises(RunError, match="3 or more"):
        views.geometry(x[:2])


def test_joined_clusters_stay_whole() -> None:
    codes = np.random.default_rng(0).integers(50, size=300)
    few = joined(codes, 20, 0)
    assert len(np.unique(few)) == 20
    assert pd.DataFrame({"c": codes, "f": few}).groupby("c")["f"].nunique().eq(1).all()


# Erasure ------------------------------------------------------------------------------------------------------------


def planted(n: int, d: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 4 * rng.normal(size=(classes, d))[y] + 10, y


@pytest.mark.parametrize("shrinkage", [0.0, 0.5, "oas", 1.0])
@pytest.mark.parametrize(("n", "d"), [(60, 8), (30, 100)])
@pytest.mark.parametrize("classes", [2, 4])
def test_an_erased_label_leaves_no_linear_signal(shrinkage: Any, n: int, d: int, classes: int) -> None:
    x, y = planted(n, d, classes)
    w = np.random.default_rng(1).uniform(0.2, 2, size=n)
    onehot = np.eye(classes)[y]
    eraser = views.Eraser(shrinkage).fit(x, y, w)
    z = eraser.transform(x)
    mean = w @ z / w.sum()
    covariance = ((z - mean) * w[:, None]).T @ (onehot - w @ onehot / w.sum()) / w.sum()
    assert np.abs(covariance).max() < 1e-11 * np.abs(x).max()
    assert eraser.rank_ == classes - 1
    # Weighted least squares has nothing to go by: its fitted values are the class shares of every item alike.
    root = np.sqrt(w)[:, None]
    slope = np.linalg.pinv(root * (z - mean), rcond=1e-8) @ (root * (onehot - w @ onehot / w.sum()))
    assert np.abs((z - mean) @ slope).max() < 1e-8
    assert w @ z / w.sum() == pytest.approx(w @ x / w.sum())


def test_leace_is_the_formula_of_the_paper_and_the_smallest_change() -> None:
    x, y = planted(80, 6, 3)
    centred, onehot = x - x.mean(0), np.eye(3)[y]
    covariance, cross = centred.T @ centred / 80, centred.T @ (onehot - onehot.mean(0)) / 80
    values, basis = np.linalg.eigh(covariance)
    white, back = basis * values**-0.5 @ basis.T, basis * values**0.5 @ basis.T
    whitened = white @ cross
    expected = x - centred @ (back @ whitened @ np.linalg.pinv(whitened, rcond=1e-10) @ white).T
    exact = views.Eraser().fit(x, y).transform(x)
    assert np.allclose(exact, expected, atol=1e-9)
    sizes = [np.sum((views.Eraser(s).fit(x, y).transform(x) - x) ** 2) for s in (0.0, 0.3, 1.0)]
    assert sizes[0] < sizes[1] < sizes[2]


def test_erasing_an_independent_label_changes_nothing() -> None:
    half = np.random.default_rng(0).normal(size=(20, 5))
    x, y = np.concatenate([half, half]), np.repeat([0, 1], 20)
    eraser = views.Eraser().fit(x, y)
    assert eraser.rank_ == 0
    assert np.array_equal(eraser.transform(x), x)
    assert views.Eraser().fit(x, np.zeros(40)).rank_ == 0


def test_shrinkage_is_the_oracle_approximation() -> None:
    x, y = planted(25, 12, 2)
    p = 12
    covariance = np.cov(x.T, bias=True)
    amount = views.Eraser("oas").fit(x, y).shrinkage_
    trace, square = np.trace(covariance), np.sum(covariance**2)
    chen = ((1 - 2 / p) * square + trace**2) / ((25 + 1 - 2 / p) * (square - trace**2 / p))
    assert amount == pytest.approx(min(1, chen))
    # scikit-learn leaves out the terms in 2 / p.
    assert amount == pytest.approx(oas(x)[1], rel=0.2)


def test_erasure_takes_one_label_and_leaves_the_other() -> None:
    rng = np.random.default_rng(0)
    n = 200
    a, b = np.divmod(rng.permutation(n) % 4, 2)  # crossed: neither tells of the other
    x = rng.normal(size=(n, 2, 10))
    x[:, 0, 0] += 4 * a
    x[:, 0, 1] += 4 * b
    x[:, 1, 0] += 4 * a  # here both are read off one direction
    x[:, 1, 0] += 4 * b
    found = views.erasure(x, a, b, groups=np.arange(n) // 4)
    table = found.table.set_index(["site", "role", "erased"])
    gone = table.loc[("layer[0]", "erased", "label")]
    assert table.loc[("layer[0]", "erased", "none"), "accuracy"] > 0.9
    assert gone["low"] < 0.55
    assert gone["change_high"] < -0.2
    assert gone["rank"] == 1
    assert gone["residual"] < 1e-12
    assert table.loc[("layer[0]", "other", "label"), "accuracy"] > 0.9
    assert table.loc[("layer[0]", "other", "label"), "change_low"] > -0.1
    assert table.loc[("layer[1]", "other", "label"), "change_high"] < -0.05
    assert table.loc[("layer[1]", "other", "shuffled"), "change_low"] > -0.1
    assert found.settings["shared_nats"] == pytest.approx(0, abs=1e-12)
    again = views.erasure(x, a, b, groups=np.arange(n) // 4)
    assert again.table.equals(found.table)


def test_erasure_is_fitted_in_the_training_fold_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    fit = views.Eraser.fit

    def watched(self: views.Eraser, X: Any, y: Any, sample_weight: Any = None) -> views.Eraser:
        seen.append(len(X))
        return fit(self, X, y, sample_weight)

    monkeypatch.setattr(views.Eraser, "fit", watched)
    x, y = planted(40, 5, 2)
    views.erasure(x[:, None], y, np.roll(y, 1), groups=np.arange(40) // 2, n_splits=4)
    assert seen == [30] * 8


def test_erasure_of_a_run(fake_run: Any) -> None:
    found = views.erasure(fake_run, "claim", "truth", task="emotion_recognition", sites=["encoder[1]", "text[0]"])
    table = found.table.set_index(["site", "label", "erased"])["accuracy"]
    assert table["text[0]", "claim", "none"] > 0.95
    assert table["text[0]", "claim", "label"] < 0.4
    assert table["encoder[1]", "truth", "label"] > 0.95
    with pytest.raises(RunError, match="never share one"):
        views.erasure(fake_run, "speaker", "truth", task="emotion_recognition")
    with pytest.raises(RunError, match="name one"):
        views.erasure(fake_run, "claim", "truth")
    with pytest.raises(RunError, match="names of targets"):
        views.erasure(fake_run, [0, 1], "truth")


# Directions ---------------------------------------------------------------------------------------------------------


def test_directions_are_unit_vectors_towards_the_class() -> None:
    rng = np.random.default_rng(0)
    y = np.array(["no", "yes"] * 200)
    x = rng.normal(size=(400, 2, 6))
    x[y == "yes", 1] += [3, 0, 0, 0, 0, 0]
    found = views.directions(x, y)
    means = found.vector("layer[1]")
    expected = x[y == "yes", 1].mean(0) - x[y == "no", 1].mean(0)
    assert means == pytest.approx(expected / np.linalg.norm(expected))
    row = found.row("layer[1]")
    assert row["label"] == "yes"
    assert row["gap"] == pytest.approx(np.linalg.norm(expected))
    centred = x[:, 1] - x[:, 1].mean(0)
    assert row["spread"] == pytest.approx(np.sqrt(np.mean(np.sum(centred**2, axis=1))))
    assert found.project(x[:, 1], "layer[1]") == pytest.approx(centred @ means / row["spread"])
    probe = found.vector("layer[1]", "yes", "probe")
    assert np.linalg.norm(probe) == pytest.approx(1)
    assert probe[0] > 0.9
    assert found.row("layer[1]")["cosine"] == pytest.approx(float(means @ probe))


def test_the_probe_direction_ignores_what_it_should() -> None:
    rng = np.random.default_rng(0)
    y, noise = np.arange(600) % 2, rng.normal(size=600) * 4
    x = np.stack([y + noise, noise + 0.1 * rng.normal(size=600)], axis=1)
    probe = views.directions({"here": x}, y, C=1e4).vector("here", method="probe")
    assert probe == pytest.approx(np.array([1, -1]) / np.sqrt(2), abs=0.05)


def test_directions_of_a_run_are_weighted_and_one_per_class(fake_run: Any) -> None:
    found = views.directions(fake_run, "truth", task="emotion_recognition", sites="encoder[1]")
    assert found.vectors["encoder[1]"].shape == (8, 12)
    assert np.linalg.norm(found.vectors["encoder[1]"], axis=1) == pytest.approx(np.ones(8))
    with pytest.raises(RunError, match="cannot find a direction"):
        found.vector("encoder[1]")


def test_equal_means_have_no_direction() -> None:
    half = np.random.default_rng(0).normal(size=(10, 1, 3))
    x, y = np.concatenate([half, half]), np.repeat(["a", "b"], 10)
    assert np.isnan(views.directions(x, y).vector("layer[0]")).all()


@pytest.mark.filterwarnings("error")
def test_constant_features_take_no_part_and_a_constant_site_has_no_direction(fake_run: Any) -> None:
    planted = {site: values.copy() for site, values in fake_run.planted.items()}
    planted["encoder[1]"][:, :, 3] = 0.1
    planted["tower"][:] = 0.3
    run = type(fake_run)("still", fake_run.predictions, planted)
    found = views.directions(run, "truth", task="emotion_recognition", sites=["encoder[1]", "tower"])
    assert np.array_equal(found.vectors["encoder[1]"][:, 3], np.zeros(8))
    assert np.isfinite(found.vectors["encoder[1]"]).all()
    assert np.isnan(found.vectors["tower"]).all()
    assert found.row("tower", "anger")["spread"] == 0


# Results and input --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(48, 3, 6)), np.arange(48) % 3
    x[:, 1, 0] += 3 * y
    group = np.arange(48) // 4
    return {
        "Similarity": views.similarity(x, groups=group),
        "Geometry": views.geometry(x, groups=group),
        "Erasure": views.erasure(x, y, np.roll(y, 5) % 2, groups=group),
        "Directions": views.directions(x, y),
    }


@pytest.mark.parametrize("kind", ["Similarity", "Geometry", "Erasure", "Directions"])
def test_results_print_plot_and_come_back(results: dict[str, Any], kind: str, tmp_path: Path) -> None:
    result = results[kind]
    assert repr(result).startswith(f"{kind} of arrays: 48 items, 3 sites")
    assert "<table" in result._repr_html_()
    assert result.to_dataframe().equals(result.table)
    assert result.to_dataframe() is not result.table
    _, ax = plt.subplots()
    before = dict(mpl.rcParams)
    assert result.plot(ax=ax) is ax
    assert result.plot(note="Made up.") is not ax
    assert dict(mpl.rcParams) == before
    loaded = type(result).load(result.save(tmp_path / kind))
    pd.testing.assert_frame_equal(loaded.table, result.table)
    assert dict(loaded.settings) == dict(result.settings)
    if kind == "Directions":
        for site in result.sites:
            assert np.array_equal(loaded.vectors[site], result.vectors[site])
            assert np.array_equal(loaded.centres[site], result.centres[site])
    other = views.Geometry if kind == "Similarity" else views.Similarity
    with pytest.raises(RunError, match="cannot load a"):
        other.load(tmp_path / kind)
    with pytest.raises(RunError, match=r"no view\.json"):
        other.load(tmp_path)


def test_the_pictures_show_the_numbers(results: dict[str, Any]) -> None:
    ax = plots.similarity_map(results["Similarity"])
    assert np.allclose(ax.images[0].get_array(), results["Similarity"].pivot().to_numpy())
    ax = plots.geometry_curve(results["Geometry"], measure="isoscore")
    assert np.allclose(ax.lines[0].get_ydata(), results["Geometry"].pivot()["isoscore"])
    ax = plots.erasure_curves(results["Erasure"], role="erased")
    table = results["Erasure"].table
    shown = table[(table["role"] == "erased") & (table["erased"] == "label")]["accuracy"]
    assert np.allclose(ax.lines[1].get_ydata(), shown)
    ax = plots.direction_map(results["Directions"], label="1", method="probe")
    assert np.allclose(np.diag(ax.images[0].get_array()), 1)


def test_dataarrays_mappings_and_arrays_are_one() -> None:
    x = np.random.default_rng(0).normal(size=(12, 2, 4))
    named = xr.DataArray(np.moveaxis(x, 1, 0), dims=("layer", "item", "feature"), coords={"layer": ["a", "b"]})
    first = views.similarity(named)
    assert first.sites == ["a", "b"]
    assert np.allclose(first.pivot(), views.similarity(x).pivot())
    assert np.allclose(first.pivot(), views.similarity({"a": x[:, 0], "b": x[:, 1]}).pivot())


def test_what_cannot_be_read_is_refused() -> None:
    x = np.random.default_rng(0).normal(size=(6, 2, 3))
    bad = x.copy()
    bad[4, 1, 0] = np.inf
    with pytest.raises(RunError, match="first item 4"):
        views.similarity(bad)
    with pytest.raises(RunError, match="array of shape"):
        views.similarity(x[:, 0])
    with pytest.raises(RunError, match="cannot group"):
        views.similarity(x, groups=[0, 1])
    with pytest.raises(RunError, match="4 or more"):
        views.similarity(x[:3])
    with pytest.raises(RunError, match="5 and 6 rows"):
        views.similarity(x[:5], x)
    with pytest.raises(RunError, match="one class only"):
        views.directions(x, np.zeros(6))
    with pytest.raises(RunError, match="2 or more"):
        views.erasure(x, [0, 1] * 3, [0, 0, 1] * 2, groups=np.zeros(6))
    with pytest.raises(RunError, match="0 to 1"):
        views.Eraser(2.0).fit(x[:, 0], [0, 1] * 3)
    with pytest.raises(RunError, match="dimensions"):
        views.similarity(xr.DataArray(x, dims=("a", "b", "c")))
