"""The gate described and set: its own weights change nothing, the planted streams carry what was planted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import vpanalysis as vp
from vpanalysis.attribution._asking import Asker
from vpanalysis.attribution._mixtures import MEAN, OTHER, PROMPT, between_tasks, mixtures_of, set_to, variation
from vpanalysis.attribution.mixtures import GateMixtures, GateResult, clamped, gate_mixtures, gates
from vpanalysis.attribution.paraphrases import ParaphraseResult, paraphrase, reworded
from vpanalysis.attribution.sweeps import SweepResult, _points, gate_sweep
from vpanalysis.benchmark.audio import ArrayAudio, FileAudio
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT, PromptTemplate
from vpanalysis.errors import AudioError, RunError
from vpanalysis.stats import FloatArray

TASK = "intonation_perception"


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def bench() -> Benchmark:
    whole = vp.load_benchmark("mini", tasks=[TASK, "age_prediction", "total_speaker_counting"])
    return whole.filter(lambda item: item.condition == "conflict" and int(str(item.cell)[-4:]) < 10)


@pytest.fixture(scope="module")
def model() -> vp.AudioLLM:
    return vp.load_model("mini-pclm-dpo")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def found(model: vp.AudioLLM, bench: Benchmark, folder: Path) -> GateResult:
    return gates(model, bench, against="mini-static", cache=folder, progress=False)


@pytest.fixture(scope="module")
def run(model: vp.AudioLLM, bench: Benchmark, tmp_path_factory: pytest.TempPathFactory) -> vp.Run:
    return vp.run(model, bench, tmp_path_factory.mktemp("runs") / "run", sites="gate", progress=False)


def _never(*_args: Any, **_kwargs: Any) -> Any:
    raise AssertionError("a forward was done")


def test_the_tower_carries_the_words_and_not_the_voice(found: GateResult) -> None:
    table = found.table.set_index(["setting", "measure"])
    assert table.loc[("own", "accuracy"), "value"] > 0.6
    assert table.loc[("tower", "margin"), "difference_high"] < 0
    assert table.loc[("tower", "margin"), "p_adjusted"] < 0.01
    assert table.loc[("tower", "ala"), "value"] > table.loc[("own", "ala"), "value"] + 0.3
    others = {"mean", "other task", "other prompt", "uniform", "mini-static"}
    assert set(found.table["setting"]) == {"own", *others, *found.settings["streams"]}


def test_numbers_of_a_setting_are_those_of_its_items(found: GateResult) -> None:
    wide = found.items.pivot(index="id", columns="setting", values="margin")
    row = found.table.set_index(["setting", "measure"]).loc[("uniform", "margin")]
    assert row["value"] == pytest.approx(wide["uniform"].mean())
    assert row["difference"] == pytest.approx((wide["uniform"] - wide["own"]).mean())
    tasks = found.by_task().set_index(["task", "setting", "measure"])
    here = found.items[(found.items["task"] == TASK) & (found.items["setting"] == "tower")]
    assert tasks.loc[(TASK, "tower", "accuracy"), "value"] == pytest.approx(here["accuracy"].mean())
    assert (tasks["q"].dropna() >= tasks["p_adjusted"].dropna() - 1e-12).all()


def test_another_mixture_is_another_ones(bench: Benchmark) -> None:
    items = list(bench)
    tasks = np.array([item.task_name for item in items])
    names = list(dict.fromkeys(tasks.tolist()))
    # A mixture that says whose it is: every task its own stream, and a little that every prompt has of its own.
    mixtures = np.full((len(items), 4), 0.05)
    mixtures[np.arange(len(items)), [names.index(task) for task in tasks]] = 0.8
    mixtures[:, 3] += np.linspace(0.05, 0.1, len(items))
    mixtures /= mixtures.sum(axis=1, keepdims=True)
    for seed in range(5):
        made = set_to([OTHER, PROMPT, MEAN], mixtures, items, ["a", "b", "c", "d"], seed)
        for task in names:
            here = tasks == task
            others = {int(row.argmax()) for row in made[OTHER][here]}
            assert len(others) == 1 and others != {names.index(task)}
            assert names.index(task) not in {int(row.argmax()) for row in made[PROMPT][here]}
        np.testing.assert_allclose(made[MEAN], np.tile(mixtures.mean(axis=0), (len(items), 1)))
        assert all(any(np.allclose(row, own) for own in mixtures) for row in made[PROMPT])


def test_one_task_has_no_other(model: vp.AudioLLM, bench: Benchmark) -> None:
    one = bench.select(tasks=TASK)[:4]
    found = gates(model, one, cache=None, progress=False)
    assert "other task" not in set(found.table["setting"]) and "mean" in set(found.table["setting"])
    with pytest.raises(RunError, match="items of one task"):
        gates(model, one, settings=["other task"], cache=None, progress=False)


def test_conditioning_is_own_minus_the_alternatives(found: GateResult) -> None:
    worth = found.conditioning().set_index(["alternative", "measure"])
    assert set(worth.index.get_level_values(0)) == {"mean", "mini-static"}
    for name in ("mean", "mini-static"):
        row = found.table.set_index(["setting", "measure"]).loc[(name, "margin")]
        assert worth.loc[(name, "margin"), "gain"] == pytest.approx(-row["difference"])
        assert worth.loc[(name, "margin"), "low"] == pytest.approx(-row["difference_high"])
    # What the other model answers is what it answers by itself.
    static = vp.load_model("mini-static")
    asker = Asker(static, [i for i in vp.load_benchmark("mini") if i.id in set(found.items["id"])], DEFAULT_PROMPT)
    alone = pd.Series(asker.margins(asker.ask()), index=[item.id for item in asker.items])
    kept = found.items[found.items["setting"] == "mini-static"].set_index("id")["margin"]
    np.testing.assert_allclose(kept.to_numpy(), alone.reindex(kept.index).to_numpy(), atol=1e-4)


def test_a_second_call_does_no_forward(
    found: GateResult, model: vp.AudioLLM, bench: Benchmark, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("forward", "encode"):
        monkeypatch.setattr(vp.AudioLLM, name, _never)
    again = gates(model, bench, against="mini-static", cache=folder, progress=False)
    pd.testing.assert_frame_equal(again.table, found.table)
    fewer = gates(model, bench, settings=["uniform"], cache=folder, progress=False)
    assert set(fewer.table["setting"]) == {"own", "uniform"}
    with pytest.raises(AssertionError, match="a forward"):
        gates(model, bench, settings=["uniform"], cache=False, progress=False)


def test_what_was_interrupted_goes_on_where_it_was(
    model: vp.AudioLLM, bench: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    ask = Asker.ask

    def counted(self: Asker, which: Any = None) -> list[FloatArray]:
        calls.append(0 if which is None else 1)
        # The first is a trial that is timed, the second the gate's own weights.
        if len(calls) == 4 and not (tmp_path / "again").exists():
            raise KeyboardInterrupt
        return ask(self, which)

    monkeypatch.setattr(Asker, "ask", counted)
    asked: dict[str, Any] = {"settings": ["mean", "uniform"], "cache": tmp_path / "kept", "progress": False}
    with pytest.raises(KeyboardInterrupt):
        gates(model, bench[:4], **asked)
    (tmp_path / "again").mkdir()
    calls.clear()
    went_on = gates(model, bench[:4], **asked)
    assert calls == [1, 0]
    whole = gates(model, bench[:4], **{**asked, "cache": False})
    pd.testing.assert_frame_equal(went_on.table, whole.table)


def test_clips_that_cannot_be_used_are_left_out_and_counted(model: vp.AudioLLM, bench: Benchmark) -> None:
    broken = [replace(item, id=f"broken {item.id}", audio=FileAudio(Path("/nowhere.wav"))) for item in list(bench)[:9]]
    mixed = Benchmark([*broken, *list(bench)[:4]], name="mixed", source="test")
    # The first chunk, of eight batches, has no clip at all.
    one_by_one = gates(model, mixed, settings=["mean"], batch_size=1, cache=False, progress=False)
    assert one_by_one.settings["skipped"] == 9
    assert one_by_one.items["id"].nunique() == 4
    with pytest.raises(RunError, match="no usable clip"):
        gates(model, Benchmark(broken, name="broken", source="test"), cache=False, progress=False)


def test_clips_too_short_for_the_model_are_left_out_too(model: vp.AudioLLM, bench: Benchmark) -> None:
    short = replace(bench[0], id="short", audio=ArrayAudio(np.zeros(3, "float32")))
    mixed = Benchmark([short, *list(bench)[:2]], name="mixed", source="test")
    one = gates(model, mixed, settings=["mean"], cache=False, progress=False)
    two = paraphrase(model, mixed, wordings={"reworded": reworded}, cache=False, progress=False)
    for found in (one, two):
        assert found.settings["skipped"] == 1
        assert "short" not in set(found.items["id"])


def test_another_model_that_answers_nothing_is_said_to(
    model: vp.AudioLLM, bench: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = vp.load_model("mini-static")
    other.answers = False
    with pytest.raises(RunError, match="answers nothing"):
        gates(model, bench[:2], settings=["mean"], against=other, cache=False, progress=False)

    def refuse(*_args: Any, **_kwargs: Any) -> Any:
        raise RunError("cannot ask", found="something else")

    # Only a chunk without a usable clip is passed over; what else goes wrong is not about clips.
    monkeypatch.setattr(Asker, "__init__", refuse)
    with pytest.raises(RunError, match="something else"):
        gates(model, bench[:2], settings=["mean"], cache=False, progress=False)


def test_what_another_model_hears_is_not_what_this_one_heard(
    model: vp.AudioLLM, bench: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = vp.AudioLLM.layout

    def picky(self: vp.AudioLLM, waves: Any) -> Any:
        if self is model and any(len(wave) == 20_000 for wave in waves):
            raise AudioError("cannot use clip 0 of the batch")
        return layout(self, waves)

    monkeypatch.setattr(vp.AudioLLM, "layout", picky)
    cut = replace(bench[0], id="cut", audio=ArrayAudio(bench[0].audio.load()[:20_000]))
    mixed = Benchmark([cut, *list(bench)[1:3]], name="mixed", source="test")
    found = gates(model, mixed, settings=["mean"], against="mini-static", cache=False, progress=False)
    assert found.settings["skipped"] == 1
    assert set(found.table["n"]) == {2}


def test_names_count_once_and_one_name_may_stand_alone(found: GateResult, model: vp.AudioLLM, bench: Benchmark) -> None:
    few = bench[:2]
    asked: dict[str, Any] = {"cache": False, "progress": False}
    twice = gates(model, few, settings=["mean", "own", "mean"], conditions=["conflict", "conflict"], **asked)
    once = gates(model, few, settings="mean", conditions="conflict", **asked)
    pd.testing.assert_frame_equal(once.table, twice.table)
    assert once.settings["settings"] == twice.settings["settings"] == ["mean"]
    assert once.settings["conditions"] == twice.settings["conditions"] == ["conflict"]
    own = gates(model, few, settings=[], **asked)
    assert set(own.table["setting"]) == {"own"}
    assert len(own.plot().get_yticks()) == 1
    assert "nan" not in repr(gates(model, bench[:1], settings="mean", **asked))


def test_conditions_that_do_not_occur_are_refused_also_beside_others(
    run: vp.Run, model: vp.AudioLLM, bench: Benchmark
) -> None:
    both = ["conflict", "conflct"]
    calls: list[Callable[..., Any]] = [gates, gate_sweep, paraphrase]
    for call in calls:
        with pytest.raises(RunError, match=r"'conflct'.*did you mean 'conflict'"):
            call(model, bench, conditions=both, progress=False)
        with pytest.raises(RunError, match="no conditions"):
            call(model, bench, conditions=[], progress=False)
    with pytest.raises(RunError, match="did you mean 'conflict'"):
        gate_mixtures(run, conditions=both)
    assert gate_mixtures(run, conditions="conflict").settings["conditions"] == ["conflict"]


def test_numbers_out_of_range_are_refused(run: vp.Run, model: vp.AudioLLM, bench: Benchmark) -> None:
    calls: list[Callable[..., Any]] = [gates, gate_sweep, paraphrase]
    for call in calls:
        for numbers in ({"level": 0.0}, {"level": 1.0}, {"level": 95}, {"level": float("nan")}, {"batch_size": 0}):
            with pytest.raises(RunError, match=r"found (level|batch_size)="):
                call(model, bench, progress=False, **numbers)
    for asked in ({"level": 95}, {"draws": 0}):
        with pytest.raises(RunError, match=r"found (level|draws)="):
            gate_mixtures(run, **asked)  # type: ignore[arg-type]


def test_a_seed_that_is_drawn_is_told_and_not_taken_from_what_is_kept(
    run: vp.Run, model: vp.AudioLLM, bench: Benchmark, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {"settings": ["other prompt"], "cache": tmp_path, "progress": False}
    one, two = (gates(model, bench, random_state=None, **asked) for _ in range(2))
    assert one.settings["random_state"] != two.settings["random_state"]
    assert not one.items["margin"].equals(two.items["margin"])
    again = gates(model, bench, random_state=one.settings["random_state"], **asked)
    pd.testing.assert_frame_equal(again.table, one.table)
    assert isinstance(gate_mixtures(run, random_state=None).settings["random_state"], int)


def test_results_of_unlike_settings_have_unlike_places_in_a_run(
    run: vp.Run, model: vp.AudioLLM, bench: Benchmark
) -> None:
    asked: dict[str, Any] = {"cache": False, "progress": False}
    few = bench[:2]
    places = {
        gates(model, few, settings=["mean"], **asked).save(run),
        gates(model, few, settings=["uniform"], **asked).save(run),
        gates(model, few, settings=["mean"], batch_size=1, **asked).save(run),
        gate_sweep(model, few, steps=2, **asked).save(run),
        gate_sweep(model, few, steps=2, rest="own", **asked).save(run),
        gate_sweep(model, few, steps=2, total=1.0, **asked).save(run),
        gate_sweep(model, few, steps=3, **asked).save(run),
        gate_sweep(model, few, steps=2, kind="grid", **asked).save(run),
        gate_sweep(model, few, steps=2, streams=["encoder[1]", "tower"], **asked).save(run),
        paraphrase(model, few, wordings={"a": "listen . {question}"}, **asked).save(run),
        paraphrase(model, few, wordings={"a": "{question} listen ."}, **asked).save(run),
    }
    assert len(places) == 11


def test_mixtures_are_the_runs_and_need_no_model(
    found: GateResult, run: vp.Run, bench: Benchmark, tmp_path: Path
) -> None:
    own = run.gates
    assert own is not None
    task = run.predictions.set_index("id")["task_name"]
    streams = found.settings["streams"]
    told = gate_mixtures(run)
    for row, other in zip(found.weights.to_dict("records"), told.table.to_dict("records"), strict=True):
        mine = np.array([row[name] for name in streams])
        assert mine.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(mine, own.groupby(task).mean().loc[row["task"]].to_numpy(), atol=1e-5)
        assert row["entropy"] == pytest.approx(-(mine * np.log(mine)).sum(), abs=1e-4)
        assert row["distance"] == pytest.approx(np.abs(mine - own.mean().to_numpy()).sum() / 2, abs=1e-4)
        assert row["task"] == other["task"]
        assert row["distance"] == pytest.approx(other["distance"], abs=1e-4)
    assert len(told.between) == 3
    matrix = told.matrix()
    assert np.array_equal(matrix.to_numpy(), matrix.to_numpy().T)
    one, two = (own[(task == name).to_numpy()].mean().to_numpy() for name in (TASK, "total_speaker_counting"))
    assert matrix.loc[TASK, "total_speaker_counting"] == pytest.approx(np.abs(one - two).sum() / 2, abs=1e-6)
    assert (told.between["low"] <= told.between["variation"]).all()
    assert len(told.plot().get_xticks()) == 3
    assert "GateMixtures: run" in repr(told)
    kept = GateMixtures.load(told.save(run))
    pd.testing.assert_frame_equal(kept.prompts, told.prompts)
    assert told.save(run).parent == run.results
    assert told.save() == told.save(run)
    assert gate_mixtures(run, level=0.9).save() != told.save()
    with pytest.raises(RunError, match="no item of"):
        gate_mixtures(run, conditions=["neutral"])
    base = vp.run("mini-base", bench[:2], tmp_path / "base", sites="tower", progress=False)
    with pytest.raises(RunError, match="no gate weights"):
        gate_mixtures(base)


def test_intervals_between_tasks_hold_what_resampling_moves() -> None:
    rng = np.random.default_rng(0)
    tasks = np.repeat(["a", "b"], 60)
    first = np.clip(np.where(tasks == "a", 0.7, 0.3) + rng.normal(0, 0.15, 120), 0, 1)
    mixtures = np.stack([first, 1 - first], axis=1)
    frame = pd.DataFrame({"speaker": np.arange(120) % 20, "script": np.arange(120)})
    row = between_tasks(mixtures, tasks, frame, level=0.95, draws=500, random_state=0).iloc[0]
    assert row["variation"] == pytest.approx(abs(first[:60].mean() - first[60:].mean()))
    assert row["low"] < 0.4 < row["high"]
    assert 0.01 < row["high"] - row["low"] < 0.3
    assert 0 < row["noise"] < 0.1


def test_own_weights_change_nothing_and_the_hook_goes(bench: Benchmark) -> None:
    static = vp.load_model("mini-static")
    asker = Asker(static, list(bench)[:4], DEFAULT_PROMPT)
    with static.capturing(["gate"]) as kept:
        own = asker.ask()
    weights = kept["gate"][0][0].double().numpy()
    with clamped(static, weights / weights.sum()):
        again = asker.ask()
    for one, two in zip(own, again, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    gate = static.module_of("gate")
    before = len(gate._forward_hooks)
    with pytest.raises(ZeroDivisionError), clamped(static, np.eye(len(weights))[0]):
        raise ZeroDivisionError
    assert len(gate._forward_hooks) == before
    for one, two in zip(own, asker.ask(), strict=True):
        np.testing.assert_array_equal(one, two)
    some = asker.ask([2, 0])
    np.testing.assert_allclose(some[1], own[0], atol=1e-5)


def test_a_mixture_for_every_row_is_that_row_by_row(model: vp.AudioLLM, bench: Benchmark) -> None:
    asker = Asker(model, list(bench)[:5], DEFAULT_PROMPT, batch_size=2)
    rows = np.random.default_rng(0).dirichlet(np.ones(5), size=5)
    with clamped(model, rows):
        together = asker.ask()
    for k in range(5):
        with clamped(model, rows[k]):
            np.testing.assert_allclose(asker.ask([k])[0], together[k], atol=1e-4)
    with pytest.raises(RunError, match="rows"), clamped(model, rows[:3]):
        asker.ask()


def test_the_gate_is_read_without_a_clip(model: vp.AudioLLM, bench: Benchmark) -> None:
    asker = Asker(model, list(bench), DEFAULT_PROMPT)
    with model.capturing(["gate"]) as kept:
        asker.ask()
    heard = np.concatenate([part.numpy() for part in kept["gate"]])
    np.testing.assert_allclose(mixtures_of(model, asker.items, DEFAULT_PROMPT), heard, atol=1e-5)


def test_what_is_no_mixture_is_refused(model: vp.AudioLLM, bench: Benchmark) -> None:
    for weights in ([0.5, 0.5], [1.5, -0.5, 0, 0, 0], [0.1] * 5):
        with pytest.raises(RunError, match="sum 1"), clamped(model, np.array(weights)):
            pass
    calls: list[Callable[..., Any]] = [gates, gate_sweep]
    for call in calls:
        with pytest.raises(RunError, match="without a mixer"):
            call("mini-base", bench, progress=False)
        with pytest.raises(RunError, match="no item of"):
            call(model, bench, conditions=["neutral"], progress=False)
    with pytest.raises(RunError, match="towr"):
        gates(model, bench, settings=["towr"], progress=False)


def test_results_print_plot_and_keep(found: GateResult, run: vp.Run, tmp_path: Path) -> None:
    assert "GateResult: mini-pclm-dpo" in repr(found)
    assert "<table" in found._repr_html_()
    assert len(found.plot(measure="margin").get_yticks()) == 11
    with pytest.raises(RunError, match="accurracy"):
        found.plot(measure="accurracy")
    kept = GateResult.load(found.save(tmp_path))
    pd.testing.assert_frame_equal(kept.table, found.table)
    pd.testing.assert_frame_equal(kept.weights, found.weights)
    assert found.save(run).parent == run.results


# Two weights ----------------------------------------------------------------------------------------------------------


def test_points_of_a_sweep_are_mixtures_with_the_weights_that_were_asked_for() -> None:
    base: FloatArray = np.array([[0.5, 0.2, 0.3], [0.1, 0.6, 0.3]])
    trade = _points(base, (0, 2), "trade", 3, None)
    np.testing.assert_allclose(trade["0.500"], [[0.4, 0.2, 0.4], [0.2, 0.6, 0.2]])
    np.testing.assert_allclose(trade["0.000"][0], [0, 0.2, 0.8])
    whole = _points(base, (0, 2), "trade", 2, 0.5)
    np.testing.assert_allclose(whole["1.000"], [[0.5, 0.5, 0], [0.5, 0.5, 0]])
    grid = _points(base, (0, 2), "grid", 3, None)
    assert list(grid) == ["0.000, 0.000", "0.000, 0.500", "0.000, 1.000", "0.500, 0.000", "0.500, 0.500",
                          "1.000, 0.000"]  # fmt: skip
    for rows in (*trade.values(), *whole.values(), *grid.values()):
        np.testing.assert_allclose(rows.sum(axis=1), 1)
        assert (rows >= 0).all()


@pytest.fixture(scope="module")
def sweep(model: vp.AudioLLM, bench: Benchmark, folder: Path) -> SweepResult:
    return gate_sweep(model, bench, streams=("encoder[0]", "tower"), steps=3, total=1.0, cache=folder, progress=False)


def test_the_voice_rises_and_the_words_fall_along_the_trade(sweep: SweepResult, found: GateResult) -> None:
    line = sweep.table[sweep.table["setting"] != "own"].set_index(["first", "measure"])["value"]
    assert line[(1.0, "margin")] > line[(0.5, "margin")] > line[(0.0, "margin")]
    assert line[(0.0, "ala")] > line[(1.0, "ala")] + 0.2
    # The ends are the corners that clamping knows.
    corners = found.table.set_index(["setting", "measure"])["value"]
    assert line[(1.0, "margin")] == pytest.approx(corners[("encoder[0]", "margin")], abs=1e-3)
    assert line[(0.0, "margin")] == pytest.approx(corners[("tower", "margin")], abs=1e-3)


def test_sweeps_are_kept_and_drawn(
    sweep: SweepResult, model: vp.AudioLLM, bench: Benchmark, folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert "encoder[0] against tower" in sweep.plot().get_title(loc="left")
    pd.testing.assert_frame_equal(SweepResult.load(sweep.save(tmp_path)).table, sweep.table)
    grid = gate_sweep(model, bench[:6], kind="grid", steps=2, rest="own", cache=False, progress=False)
    assert grid.settings["swept"][1] == "tower"
    assert len(grid.plot(measure="margin").get_yticks()) == 2
    assert "SweepResult" in repr(grid)
    monkeypatch.setattr(vp.AudioLLM, "forward", _never)
    again = gate_sweep(model, bench, streams=("encoder[0]", "tower"), steps=3, total=1.0, cache=folder, progress=False)
    pd.testing.assert_frame_equal(again.table, sweep.table)


def test_sweeps_of_something_else_are_refused(model: vp.AudioLLM, bench: Benchmark) -> None:
    for asked, match in (
        ({"streams": ["tower"]}, "two streams"), ({"streams": ["tower", "towr"]}, "towr"), ({"steps": 1}, "steps=1"),
        ({"kind": "trad"}, "trade"), ({"rest": "men"}, "mean"), ({"total": 1.5}, "total"),
        ({"kind": "grid", "total": 0.5}, "total=0.5 for a grid"),
    ):  # fmt: skip
        with pytest.raises(RunError, match=match):
            gate_sweep(model, bench, progress=False, **asked)  # type: ignore[arg-type]
    # Where the two are all there is, they cannot have half of it.
    pair: FloatArray = np.array([[0.4, 0.6]])
    with pytest.raises(RunError, match=r"total=0\.5"):
        _points(pair, (0, 1), "trade", 3, 0.5)
    np.testing.assert_allclose(_points(pair, (0, 1), "trade", 3, None)["0.500"], [[0.5, 0.5]])
    np.testing.assert_allclose(_points(pair, (0, 1), "trade", 3, 1.0)["0.500"], [[0.5, 0.5]])


# Other words ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worded(model: vp.AudioLLM, bench: Benchmark, folder: Path) -> ParaphraseResult:
    mine = {
        "reworded": reworded, "listen first": "listen to the audio. {question}",
        "options first": PromptTemplate("options first", user="{options} {question}"),
        "other question": lambda item: "What is the speaker's gender?",
    }  # fmt: skip
    return paraphrase(model, bench, wordings=mine, cache=folder, progress=False)


def test_every_question_of_the_bundled_benchmark_is_reworded_with_known_words(model: vp.AudioLLM) -> None:
    known = set(model.tokenizer.get_vocab())
    assert "listen" in known
    for task in vp.load_benchmark("mini").tasks:
        item = next(i for i in vp.load_benchmark("mini", tasks=[task]))
        other = reworded(item)
        assert other != item.question
        ids = model.tokenizer(other)["input_ids"]
        assert model.tokenizer.unk_token_id not in ids


def test_a_gate_moves_with_its_question_and_not_with_the_template(
    worded: ParaphraseResult, model: vp.AudioLLM, bench: Benchmark
) -> None:
    rows = worded.mixtures.set_index(["wording", "task"])
    # This gate reads the question alone.
    assert rows.loc[("options first", "all"), "variation"] == 0
    assert rows.loc[("options first", "all"), "changed"] == 0
    assert rows.loc[("reworded", "all"), "variation"] > 0
    assert rows.loc[("other question", "all"), "ratio"] > rows.loc[("reworded", "all"), "ratio"]
    own = mixtures_of(model, list(bench), DEFAULT_PROMPT)
    tasks = np.array([item.task_name for item in bench])
    means = [own[tasks == task].mean(axis=0) for task in dict.fromkeys(tasks)]
    far = np.mean([variation(means[i], means[j]) for i, j in ((0, 1), (0, 2), (1, 2))])
    assert rows.loc[("reworded", "all"), "between"] == pytest.approx(far)


def test_one_prompt_gives_no_interval(worded: ParaphraseResult, model: vp.AudioLLM, bench: Benchmark) -> None:
    rows = worded.mixtures.set_index(["wording", "task"])
    for task in bench.tasks:
        texts = {model.gate_text(item, DEFAULT_PROMPT) for item in bench if item.task_name == task}
        assert rows.loc[("reworded", task), ["low", "high"]].isna().all() == (len(texts) == 1)
    assert rows.loc[("reworded", TASK), ["low", "high"]].isna().all()
    whole = rows.loc[("reworded", "all")]
    assert 0 <= whole["low"] <= whole["variation"] <= whole["high"] <= 1
    one = paraphrase(model, bench[:1], wordings={"reworded": reworded}, cache=False, progress=False)
    assert one.mixtures[["low", "high"]].isna().all(axis=None)
    assert "nan" not in repr(one)


def test_answers_in_other_words_are_those_of_reworded_items(
    worded: ParaphraseResult, model: vp.AudioLLM, bench: Benchmark
) -> None:
    table = worded.table.set_index(["setting", "measure"])
    assert table.loc[("original", "accuracy"), "value"] > 0.6
    asker = Asker(model, list(bench), PromptTemplate("options first", user="{options} {question}"))
    margins = pd.Series(asker.margins(asker.ask()), index=[item.id for item in asker.items])
    kept = worded.items[worded.items["setting"] == "options first"].set_index("id")["margin"]
    np.testing.assert_allclose(kept.to_numpy(), margins.reindex(kept.index).to_numpy(), atol=1e-4)


def test_paraphrases_are_kept_drawn_and_checked(
    worded: ParaphraseResult, model: vp.AudioLLM, bench: Benchmark, folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert len(worded.plot().get_yticks()) == 4
    assert "tasks are" in repr(worded)
    assert set(worded.by_task()["task"]) == set(bench.tasks)
    pd.testing.assert_frame_equal(ParaphraseResult.load(worded.save(tmp_path)).mixtures, worded.mixtures)
    base = paraphrase("mini-base", bench[:4], wordings={"a": "listen . {question}"}, cache=False, progress=False)
    assert base.mixtures.empty
    assert len(base.plot().get_yticks()) == 2
    for wordings, match in (
        ({"a": "listen"}, "question"), ({"a": "{question}"}, "changes no item"), ({"original": reworded}, "original"),
        ({}, "no wordings"),
    ):  # fmt: skip
        with pytest.raises(RunError, match=match):
            paraphrase(model, bench, wordings=wordings, progress=False)  # type: ignore[arg-type]
    monkeypatch.setattr(vp.AudioLLM, "forward", _never)
    again = paraphrase(model, bench, wordings={"reworded": reworded}, cache=folder, progress=False)
    assert set(again.table["setting"]) == {"original", "reworded"}
