"""Steering: nothing added changes nothing, directions come from other voices and words, and they beat random ones."""

from __future__ import annotations

import importlib
import inspect
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import vpanalysis as vp
from vpanalysis.attribution._directions import (
    Compass,
    OptionMeans,
    membership,
    random_push,
    segments_of,
    train_weights,
)  # fmt: skip
from vpanalysis.attribution._doses import dose_table
from vpanalysis.attribution._plans import OTHER_TASKS, apart_text, kept_apart, plan, reachable
from vpanalysis.attribution._steered import HeldBatch, added, part_bounds
from vpanalysis.attribution.steering import SteerResult, steer
from vpanalysis.benchmark.audio import ArrayAudio
from vpanalysis.benchmark.items import Benchmark, Item
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import AudioError, RunError

TASK = "intonation_perception"
OTHER = "gender_prediction"


def _first(count: int, *tasks: str, split: str = "test") -> Benchmark:
    whole = vp.load_benchmark("mini", split=split, tasks=list(tasks))
    return whole.filter(lambda item: int(str(item.cell)[-4:]) < count)


@pytest.fixture(scope="module")
def bench() -> Benchmark:
    return _first(14, TASK)


@pytest.fixture(scope="module")
def train() -> Benchmark:
    return _first(40, TASK, OTHER, split="train")


@pytest.fixture(scope="module")
def listener() -> vp.AudioLLM:
    return vp.load_model("mini-pclm-dpo")


@pytest.fixture(scope="module")
def reader() -> vp.AudioLLM:
    return vp.load_model("mini-base")


@pytest.fixture(scope="module")
def found(
    listener: vp.AudioLLM, bench: Benchmark, train: Benchmark, tmp_path_factory: pytest.TempPathFactory
) -> SteerResult:
    return steer(
        listener, bench, sites=["encoder[0]", "tower", "text.embed"], fit=train, coefficients=(-1.0,), draws=3,
        others=0, cache=tmp_path_factory.mktemp("steer"), progress=False,
    )  # fmt: skip


def _rows(found: SteerResult, measure: str, which: str = "conflict", **more: object) -> pd.DataFrame:
    table = found.table[(found.table["measure"] == measure) & (found.table["set"] == which)]
    for name, value in more.items():
        table = table[table[name] == value]
    return table.set_index(["site", "coefficient"])


def _hooks(llm: vp.AudioLLM) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in llm.model.modules())


def _batch(llm: vp.AudioLLM, bench: Benchmark, count: int = 5, **more: object) -> HeldBatch:
    items = [item for item in bench if item.condition == "conflict"][:count]
    return HeldBatch(llm, items, [item.audio.load() for item in items], DEFAULT_PROMPT, **more)


def test_a_push_goes_from_the_others_mean_to_the_targets() -> None:
    states = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 5.0], [1.0, 7.0]])
    members = np.eye(3)[[0, 0, 1, 2]]
    means = OptionMeans.fit(states, members, ("a", "b", "c"))
    np.testing.assert_array_equal(means.push("b", ("a",)), [0.0, 5.0])
    np.testing.assert_array_equal(means.push("a", ("b", "c")), [0.0, -6.0])
    assert means.knows("a", ("b",))
    assert not means.knows("a", ("d",))
    assert not means.knows("a", ())
    weighed = OptionMeans.fit(states, members, ("a", "b", "c"), np.array([3.0, 1.0, 1.0, 1.0]))
    np.testing.assert_allclose(weighed.means[0], [0.5, 0.0])


def test_a_probe_points_where_classes_differ_and_goes_as_far_as_their_means() -> None:
    rng = np.random.default_rng(0)
    label = np.arange(200) % 2
    # The first feature tells the classes apart; the second differs between them only as it follows a noisy third.
    noise = rng.normal(size=200) * 5
    states = np.stack([label * 2.0 + 0.3 * rng.normal(size=200), noise, rng.normal(size=200)], axis=1)
    members = np.eye(2)[label]
    gap = OptionMeans.fit(states, members, ("a", "b")).push("b", ("a",))
    probe = OptionMeans.fit(states, members, ("a", "b"), None, "probe").push("b", ("a",))
    unit = probe / np.linalg.norm(probe)
    assert gap @ unit == pytest.approx(np.linalg.norm(probe))
    assert abs(unit[0]) > abs(gap[0]) / np.linalg.norm(gap)
    assert unit[0] > 0.99
    np.testing.assert_allclose(OptionMeans.fit(states, members, ("a", "b"), None, "probe").push("a", ("b",)), -probe)
    # An item of two options counts half for each, and three classes have an axis each.
    three = np.eye(3)[np.arange(200) % 3]
    assert np.isfinite(OptionMeans.fit(states, three, ("a", "b", "c"), None, "probe").push("c", ("a", "b"))).all()


def test_random_pushes_are_exactly_as_long() -> None:
    push = np.random.default_rng(1).normal(size=300)
    drawn = [random_push(push, (0, draw)) for draw in range(5)]
    np.testing.assert_allclose([np.linalg.norm(one) for one in drawn], np.linalg.norm(push), rtol=1e-14)
    assert abs(np.corrcoef(drawn)[0, 1]) < 0.3
    np.testing.assert_array_equal(drawn[2], random_push(push, (0, 2)))
    like = random_push(push, (0, 0), np.ones(300))
    assert np.linalg.norm(like) == pytest.approx(np.linalg.norm(push), rel=1e-14)
    assert np.ptp(like) == 0


def test_random_pushes_are_as_long_in_every_part_of_a_clip(train: Benchmark) -> None:
    push = np.concatenate([np.zeros(50), np.ones(50), np.full(50, 0.1)])
    for like in (None, np.random.default_rng(3).normal(size=150)):
        drawn = random_push(push, (0, 1), like, 3).reshape(3, 50)
        np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), np.linalg.norm(push.reshape(3, 50), axis=1))
    # So are those that a verb draws, of either kind.
    one = plan(train, None, TASK, conditions=("conflict",), splits=2)
    assert one is not None
    states = np.random.default_rng(0).normal(size=(len(one.pool), 6 * 8)) * np.repeat([9.0, 1.0, 1.0, 1.0, 1.0, 0.1], 8)
    for control in ("random", "shuffled"):
        compass = Compass(one, one.pool, states, "difference of means", "truth", control, (0, 0), 6)
        lengths = [np.linalg.norm(v.reshape(6, 8), axis=1) for v in (compass.push(0), compass.drawn(0, 0))]
        np.testing.assert_allclose(lengths[0], lengths[1], err_msg=control)
        assert not np.allclose(compass.push(0), compass.drawn(0, 0))


def test_training_words_tell_nothing_about_the_truth(train: Benchmark) -> None:
    items = [item for item in train if item.task_name == TASK]
    assert train_weights(items)[1] < 1e-12
    conflict = [item for item in items if item.condition == "conflict"]
    assert train_weights(conflict)[1] > 0.5
    members, options = membership(items, "truth")
    assert set(options) == {item.truth for item in items}
    np.testing.assert_array_equal(members.sum(axis=1), 1)
    said = membership(items, "words")[0].sum(axis=1)
    np.testing.assert_array_equal(said, [float(bool(item.said)) for item in items])


def test_no_speaker_and_no_wording_is_on_both_sides(bench: Benchmark, train: Benchmark) -> None:
    both = Benchmark([*_first(40, TASK, OTHER)], name="both", source="mini")
    for one in (
        plan(both, None, TASK, conditions=("conflict", "congruent"), others=6),
        plan(bench, train, TASK, conditions=("conflict",)),
        # Training items that share a speaker or a wording with an item that is asked are left out.
        plan(bench, _first(100, TASK), TASK, conditions=("conflict",)),
    ):
        assert one is not None
        for item, fold in zip(one.items, one.fold, strict=True):
            other = one.train[int(fold)]
            assert other
            assert item.speaker not in {i.speaker for i in other}
            assert item.script not in {i.script for i in other}
            assert {i.task_name for i in other} == {TASK}
    split = plan(both, None, TASK, conditions=("conflict", "congruent"), others=6)
    assert split is not None
    assert len(split.train) > 1
    assert sum(which == OTHER_TASKS for which in split.sets) == 6
    assert {i.id for i, which in zip(split.items, split.sets, strict=True) if which == "conflict"} == {
        i.id for i in both if i.task_name == TASK and i.condition == "conflict"
    }


def test_where_nobody_is_named_items_twins_and_clips_are_kept_apart(bench: Benchmark, train: Benchmark) -> None:
    def nameless(items: Benchmark | list[Item], **more: object) -> Benchmark:
        return Benchmark([replace(item, speaker=None, script=None, **more) for item in items], name="n", source="n")

    asked = nameless(bench)
    renamed = [replace(item, id=f"other {item.id}") for item in bench]
    for fit in (
        asked,  # who is asked
        nameless([replace(item, audio=ArrayAudio(np.full(9000, 0.1 * n))) for n, item in enumerate(renamed)]),  # twins
        nameless(renamed, cell=None),  # the same clips
    ):
        with pytest.raises(RunError, match=r"other items and clips \(speakers and wordings are not named"):
            plan(asked, fit, TASK, conditions=("conflict", "congruent", "neutral"))
    both = nameless([*bench, *train])
    one = plan(asked, both, TASK, conditions=("conflict",))
    assert one is not None
    assert {item.id for item in one.pool} == {item.id for item in train if item.task_name == TASK}
    # One clip in two items without a cell is on one side.
    twice = nameless([*bench, *renamed], cell=None)
    split = plan(twice, None, TASK, conditions=("conflict",))
    assert split is not None
    for item, fold in zip(split.items, split.fold, strict=True):
        assert split.train[int(fold)]
        assert item.audio.key() not in {other.audio.key() for other in split.train[int(fold)]}


def test_what_was_kept_apart_is_said(found: SteerResult, bench: Benchmark, train: Benchmark) -> None:
    def note(result: SteerResult) -> str:
        ax = result.plot()
        return " ".join(" ".join(text.get_text() for text in (*ax.texts, *ax.figure.texts)).split())

    assert found.settings["kept_apart"] == ["speaker", "script"]
    assert "on other speakers and wordings." in note(found)
    named = plan(bench, train, TASK, conditions=("conflict",))
    part = plan(bench, Benchmark([replace(i, script=None) for i in train], name="n", source="n"), TASK,
                conditions=("conflict",))  # fmt: skip
    assert named is not None and part is not None
    assert kept_apart([named]) == ["speaker", "script"]
    assert kept_apart([named, part]) == ["speaker"]
    assert apart_text(["speaker"]) == "other speakers (wordings are not named)"
    unnamed = replace(found, settings={**found.settings, "kept_apart": []})
    assert "on other items and clips (speakers and wordings are not named)." in note(unnamed)


def test_a_coefficient_of_zero_changes_not_a_bit(listener: vp.AudioLLM, bench: Benchmark) -> None:
    sites = [site for site in listener.sites if site not in ("gate", "options")]
    for span in ("audio", "last"):
        batch = _batch(listener, bench, span=span, parts=6)
        base = batch.logprobs()
        states = batch.states(sites)
        for site in sites if span == "audio" else ["text[1]"]:
            still = batch.steered(site, 0.0 * states[site])
            moved = batch.steered(site, 0.5 * states[site])
            for one, two in zip(base, still, strict=True):
                np.testing.assert_array_equal(one, two, err_msg=site)
            same = all(np.array_equal(one, two) for one, two in zip(base, moved, strict=True))
            # The answer is read at the last position, so that the audio of the last layer has nobody who looks at it.
            assert same == (site == "text[3]"), site


def test_what_is_added_is_in_the_state(listener: vp.AudioLLM, bench: Benchmark) -> None:
    batch = _batch(listener, bench)
    rng = np.random.default_rng(0)
    for site in ("encoder.stem", "encoder[2]", "streams[1]", "mixed", "text.embed", "text[1]"):
        before = batch.states([site])[site]
        push = rng.normal(size=before.shape)
        places = batch.places(site)
        values = torch.cat([torch.from_numpy(push[n]).expand(len(rows), -1) for n, (rows, _) in enumerate(places)])
        rows, columns = (torch.cat(each) for each in zip(*places, strict=True))
        with added(listener, site, rows, columns, values):
            after = batch.states([site])[site]
        np.testing.assert_allclose(after - before, push, atol=2e-5, err_msg=site)


def test_the_parts_of_a_clip_are_pushed_each_its_own_way(
    listener: vp.AudioLLM, bench: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = _batch(listener, bench, parts=3)
    before = batch.states(["mixed"])["mixed"]
    push = np.random.default_rng(0).normal(size=before.shape)
    seen: list[np.ndarray] = []
    # What is asked under the hook is read instead of answered.
    monkeypatch.setattr(batch, "logprobs", lambda: seen.append(batch.states(["mixed"])["mixed"]))
    batch.steered("mixed", push)
    np.testing.assert_allclose(seen[0] - before, push, atol=2e-5)
    assert part_bounds(7, 3) == [(0, 3), (3, 5), (5, 7)]
    assert part_bounds(2, 3) == [(0, 1), (1, 2), (1, 2)]
    np.testing.assert_array_equal(torch.arange(7) * 3 // 7, [0, 0, 0, 1, 1, 2, 2])


def test_hooks_are_gone_whatever_happens(listener: vp.AudioLLM, bench: Benchmark) -> None:
    before, batch = _hooks(listener), _batch(listener, bench, 3)
    base = batch.logprobs()
    for site in ("encoder[1]", "streams[0]", "mixed", "text.embed", "text[1]"):
        with pytest.raises(RuntimeError):
            batch.steered(site, np.zeros((3, 7)))
        assert _hooks(listener) == before, site
    for one, two in zip(base, batch.logprobs(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_listener_follows_the_direction_and_not_a_random_one(found: SteerResult) -> None:
    margin, right = _rows(found, "margin"), _rows(found, "accuracy")
    for site in ("encoder[0]", "text.embed"):
        away = margin.loc[(site, -1.0)]
        assert away["difference_high"] < -5
        assert away["over_random_high"] < -5
        assert away["p_random_adjusted"] < 0.05
        assert away["rank"] == 1 / 4
        assert away["beyond"]
        assert away["value"] < away["random_low"]
        assert right.loc[(site, -1.0), "value"] < 0.6 < 0.85 < right.loc[(site, 0.0), "value"]
    # The same states are in front of the tower's end, where the listener does not look for the voice.
    assert abs(margin.loc[("tower", -1.0), "difference"]) < 0.1
    claims = _rows(found, "ala")
    assert claims.loc[("text.embed", -1.0), "value"] > claims.loc[("text.embed", 0.0), "value"] + 0.3


def test_random_vectors_do_little_and_differences_are_paired(found: SteerResult) -> None:
    items = found.items[(found.items["set"] == "conflict") & (found.items["site"] == "text.embed")]
    wide = items[items["coefficient"] == -1].pivot(index="id", columns=["arm", "draw"], values="margin")
    base = items[items["coefficient"] == 0].set_index("id")["margin"]
    row = _rows(found, "margin").loc[("text.embed", -1.0)]
    chosen = wide[("chosen", 0)]
    assert row["difference"] == pytest.approx((chosen - base).mean())
    assert row["over_random"] == pytest.approx((chosen - wide["random"].mean(axis=1)).mean())
    assert row["random_low"] == pytest.approx(wide["random"].mean().min())
    assert row["random"] == pytest.approx(wide["random"].mean().mean())
    assert abs(row["random"] - base.mean()) < abs(chosen.mean() - base.mean()) / 3
    assert wide["random"].shape[1] == 3


def test_a_reader_does_not_follow_the_voice_where_it_is_planted(
    reader: vp.AudioLLM, bench: Benchmark, train: Benchmark
) -> None:
    found = steer(reader, bench, sites=["encoder[0]"], fit=train, coefficients=(1.0,), draws=2, others=0,
                  conditions=("conflict",), cache=False, progress=False)  # fmt: skip
    right = _rows(found, "accuracy").loc[("encoder[0]", 1.0)]
    assert right["value"] < 0.3
    assert not right["beyond"]


def test_everything_can_be_pushed_to_one_option(listener: vp.AudioLLM, bench: Benchmark, train: Benchmark) -> None:
    goal = sorted({item.truth for item in bench})[0]
    asked = {"sites": "text.embed", "fit": train, "coefficients": (1.0,), "draws": 2, "cache": False}
    found = steer(listener, bench, towards=goal, conditions=("conflict",), progress=False, **asked)
    share = _rows(found, "towards")
    assert share.loc[("text.embed", 1.0), "value"] > share.loc[("text.embed", 0.0), "value"] + 0.2
    assert repr(goal) in repr(found)
    with pytest.raises(RunError, match="did you mean"):
        steer(listener, bench, towards=goal + "g", progress=False, **asked)


def test_other_tasks_and_congruent_items_show_what_else_changes(listener: vp.AudioLLM, train: Benchmark) -> None:
    bench = Benchmark([*_first(8, TASK, OTHER)], name="two", source="mini")
    found = steer(listener, bench, sites="text.embed", fit=train, coefficients=(-1.0,), draws=1, others=5,
                  direction="probe", control="shuffled", cache=False, progress=False)  # fmt: skip
    assert set(found.table["task"]) == {"all", TASK, OTHER}
    assert set(found.table["set"]) == {"conflict", "congruent", OTHER_TASKS}
    side = found.items[found.items["set"] == OTHER_TASKS]
    assert side.groupby("task")["id"].nunique().to_dict() == {TASK: 5, OTHER: 5}
    assert side[side["task"] == TASK]["id"].str.startswith(OTHER).all()
    assert len(found.directions) == 2
    assert (found.directions["length"] > 0).all()
    by_task = found.directions.set_index("task")["parts"]
    assert by_task.to_dict() == {TASK: segments_of(TASK), OTHER: 1}


def test_directions_of_the_words_move_a_reader(reader: vp.AudioLLM, bench: Benchmark, train: Benchmark) -> None:
    found = steer(reader, bench, sites="projector", fit=train, about="words", coefficients=(1.0,), draws=2, others=0,
                  conditions=("conflict",), cache=False, progress=False)  # fmt: skip
    row = _rows(found, "margin").loc[("projector", 1.0)]
    assert row["difference_low"] > 0
    assert row["over_random_low"] > 0


class _Broken:
    """A clip that cannot be read."""

    def load(self) -> np.ndarray:
        raise AudioError("cannot read it")

    def key(self) -> str:
        return "broken"

    def describe(self) -> str:
        return "broken"


def test_clips_that_cannot_be_used_are_left_out_and_counted(listener: vp.AudioLLM) -> None:
    task = "emotion_recognition"
    bench = [item for item in _first(10, task, OTHER) if item.condition == "conflict"]
    train = _first(30, task, OTHER, split="train")
    goal = next(item for item in bench if item.task_name == task).truth
    short = ArrayAudio(np.full(10, 0.1, dtype=np.float32))
    with pytest.raises(AudioError):
        listener.layout([short.load()])
    first = next(item.id for item in bench if item.task_name == task and item.truth != goal)
    asked = [
        replace(item, audio=_Broken()) if item.task_name == OTHER else
        replace(item, audio=short) if item.id == first else item
        for item in bench
    ]  # fmt: skip
    # Of one option there are training items, but none that can be heard.
    still = ArrayAudio(np.full(9, 0.1, dtype=np.float32))
    heard = [replace(item, audio=still) if item.task_name == task and item.truth == goal else item for item in train]
    found = steer(
        listener, Benchmark(asked, name="b", source="b"), fit=Benchmark(heard, name="f", source="f"), sites="tower",
        coefficients=(1.0,), draws=1, others=0, cache=False, progress=False,
    )  # fmt: skip
    mine = [item for item in bench if item.task_name == task]
    others = {item.id for item in mine if item.truth != goal and set(item.foils) != {goal}} - {first}
    assert set(found.items["id"]) == others
    assert found.settings["skipped"] == 1 + sum(item.task_name == OTHER for item in bench)
    assert found.settings["left_out"] == len(mine) - 1 - len(others) > 0
    assert found.settings["tasks_left_out"] == [OTHER]
    assert f"Not asked: {found.settings['skipped']} items without a usable clip" in " ".join(repr(found).split())
    assert f"no item of {OTHER} is left" in " ".join(repr(found).split())
    silent = Benchmark([replace(item, audio=short) for item in bench], name="s", source="s")
    with pytest.raises(RunError, match=f"{len(bench)} clips cannot be used"):
        steer(listener, silent, fit=train, sites="tower", others=0, cache=False, progress=False)


def test_training_sets_without_enough_are_not_used(bench: Benchmark) -> None:
    one = plan(bench, None, TASK, conditions=("conflict",))
    assert one is not None
    assert reachable(one, "truth", lambda _items: False) is None
    bad = one.train[0]
    kept = reachable(one, "truth", lambda items: items is not bad)
    assert kept is not None
    assert bad not in kept.train
    for item, fold in zip(kept.items, kept.fold, strict=True):
        assert kept.train[int(fold)] is one.train[int(one.fold[one.items.index(item)])]


def test_one_task_without_training_items_does_not_end_the_others(listener: vp.AudioLLM, bench: Benchmark) -> None:
    alone = next(item for item in _first(1, OTHER) if item.condition == "conflict")
    both = Benchmark([*bench, alone], name="b", source="b")
    found = steer(listener, both, sites="tower", coefficients=(1.0,), draws=1, others=0, splits=2, cache=False,
                  conditions="conflict", progress=False)  # fmt: skip
    assert set(found.table["task"]) == {TASK}
    assert found.settings["left_out"] >= 1
    assert found.settings["tasks_left_out"] == [OTHER]


def test_settings_hold_every_parameter_and_one_item_has_no_interval(
    listener: vp.AudioLLM, bench: Benchmark, train: Benchmark, tmp_path: Path
) -> None:
    one = bench.filter(lambda item: item.cell == bench[0].cell)
    asked = {
        "fit": train, "sites": "tower", "coefficients": (np.float32(1.0),), "draws": np.int64(2), "others": 0,
        "conditions": "conflict", "batch_size": np.int64(4), "cache": False, "progress": False,
    }  # fmt: skip
    found = steer(listener, one, random_state=None, **asked)
    made = found.settings
    assert set(inspect.signature(steer).parameters) - {"cache", "progress"} <= set(made)
    assert json.loads(json.dumps(made)) == made
    assert (made["batch_size"], made["conditions"], made["draws"]) == (4, ["conflict"], 2)
    again = steer(listener, one, random_state=made["random_state"], **asked)
    pd.testing.assert_frame_equal(found.items, again.items)
    other = steer(listener, one, random_state=None, **asked).settings["random_state"]
    assert isinstance(other, int)
    assert other != made["random_state"]
    assert len(found.items["id"].unique()) == 1
    assert "nan" not in repr(found)
    assert " –" in repr(found)
    assert "nan" not in found._repr_html_()
    assert found.plot().get_ylabel().startswith("margin")
    assert SteerResult.load(found.save(tmp_path)).settings == made


def test_places_are_those_of_the_clip_in_every_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "models")
    builders, checks = importlib.import_module("builders"), importlib.import_module("family_checks")
    waves = checks.waves_of(1.3, 0.9, 1.1, 1.2)
    items = checks.items_of(waves)
    for name, flat in (("voxtral", {"projector"}), ("qwen2_audio", set()), ("music_flamingo", set())):
        built = getattr(builders, name)()
        llm = vp.AudioLLM(built.model, built.processor, name=name)
        batch = HeldBatch(llm, items, waves, DEFAULT_PROMPT, parts=2)
        heard = [sum(clip) for clip in batch.batch.layout.heard_tokens]
        base, refused = batch.logprobs(), set()
        for site in llm.sites:
            if site == "options":
                continue
            try:
                state = batch.states([site])[site]
            except RunError as error:
                assert "a state of shape" in str(error)
                refused.add(site)
                rows = torch.zeros(1, dtype=torch.long)
                with pytest.raises(RunError, match="choose another site"), added(llm, site, rows, rows, rows[:, None]):
                    llm.forward(batch.batch)
                continue
            for one, two in zip(base, batch.steered(site, np.zeros_like(state)), strict=True):
                np.testing.assert_array_equal(one, two, err_msg=f"{name} {site}")
            if site.startswith("text"):
                assert [len(rows) for rows, _ in batch.places(site)] == heard, (name, site)
        assert refused == flat, name
        if flat:
            # Silence behind a clip is heard by this family, and is not the clip.
            assert heard == [17, 12, 14, 15]
            assert batch.batch.layout.audio_tokens == (375,) * 4
            with pytest.raises(RunError, match="cannot change 'projector'"):
                more = Benchmark(
                    [
                        replace(item, speaker=f"speaker-{n // 4}")
                        for n, item in enumerate(checks.items_of(checks.waves_of(*[0.5] * 16)))
                    ],
                    name="t", source="t",
                )  # fmt: skip
                steer(llm, more, sites=["projector"], draws=1, others=0, splits=2, batch_size=4, cache=False,
                      progress=False)  # fmt: skip


def test_a_second_call_asks_nothing(
    listener: vp.AudioLLM, bench: Benchmark, train: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def ask(**more: object) -> SteerResult:
        known: dict[str, object] = {"coefficients": (1.0,), "sites": ["tower"]} | more
        return steer(listener, bench, fit=train, draws=1, others=0, cache=tmp_path, **known)

    first = ask()
    said = capsys.readouterr().err
    assert "steer: mini-pclm-dpo, 28 items" in said
    assert "forwards to do, about" in said

    def refuse(*_args: object, **_more: object) -> None:
        raise AssertionError("the model was asked")

    with monkeypatch.context() as patched:
        patched.setattr(type(listener), "forward", refuse)
        patched.setattr(type(listener), "encode", refuse)
        again = ask(progress=False)
        with pytest.raises(AssertionError, match="was asked"):
            ask(coefficients=(2.0,), progress=False)
    pd.testing.assert_frame_equal(first.table, again.table, check_exact=True)
    pd.testing.assert_frame_equal(first.directions, again.directions, check_exact=True)
    # What was done for one coefficient is not done again for two.
    ask(coefficients=(1.0, 2.0))
    assert "2 parts are there" in capsys.readouterr().err


def test_what_cannot_be_steered_is_refused(listener: vp.AudioLLM, bench: Benchmark, train: Benchmark) -> None:
    for more, what in (
        ({"direction": "prob"}, "did you mean 'probe'"), ({"about": "voice"}, "about='voice'"),
        ({"span": "audios"}, "did you mean 'audio'"), ({"control": "none"}, "control='none'"),
        ({"draws": 0}, "draws=0"), ({"level": 1.0}, "level=1.0"), ({"batch_size": 0}, "batch_size=0"),
        ({"random_state": -1}, "random_state=-1"), ({"splits": 1}, "splits=1"), ({"others": -1}, "others=-1"),
        ({"conditions": "conflictt"}, "did you mean 'conflict'"), ({"conditions": ()}, "no condition"),
        ({"conditions": ("conflict", "congruetn")}, "did you mean 'congruent'"),
        ({"coefficients": (0.0,)}, "coefficients"), ({"coefficients": (float("nan"),)}, "coefficients"),
        ({"sites": "gate"}, "gate"), ({"conditions": ("neutrall",)}, "neutrall"),
        ({"fit": bench}, "other speakers and wordings"),
    ):  # fmt: skip
        with pytest.raises(RunError, match=what):
            steer(listener, bench, cache=False, progress=False, **{"fit": train, **more})
    one = bench.filter(lambda item: item.cell == bench[0].cell)
    with pytest.raises(RunError, match="hold some out"):
        steer(listener, one, cache=False, progress=False)
    nameless = Benchmark([replace(i, speaker=None, script=None, cell=None) for i in bench], name="n", source="n")
    one_each = plan(nameless, None, TASK, conditions=("conflict",))
    assert one_each is not None
    assert len(one_each.items) == 14


def test_the_table_counts_draws_at_least_as_far() -> None:
    rows = []
    for number in range(12):
        known = {
            "id": f"i{number}",
            "task": "t",
            "set": "conflict",
            "speaker": f"s{number % 6}",
            "script": None,
            "site": "x",
        }
        base = {"margin": 0.1 * number, "accuracy": 0.0, "ala": np.nan, "towards": np.nan}
        rows.append({**known, "arm": "chosen", "draw": 0, "c": 0.0, **base})
        rows.append({**known, "arm": "chosen", "draw": 0, "c": 1.0, **base, "margin": 0.1 * number + 1})
        rows += [
            {**known, "arm": "random", "draw": draw, "c": 1.0, **base, "margin": 0.1 * number + moved}
            for draw, moved in enumerate((-2.0, 0.5, 0.0))
        ]
    table = dose_table(pd.DataFrame(rows), dose="c", still=0.0)
    assert set(table["measure"]) == {"margin", "accuracy"}
    row = table[(table["measure"] == "margin") & (table["c"] == 1)].iloc[0]
    assert row["difference"] == pytest.approx(1)
    assert row["over_random"] == pytest.approx(1.5)
    assert (row["random_low"], row["random_high"]) == (pytest.approx(0.55 - 2), pytest.approx(0.55 + 0.5))
    # One of three draws goes further, to the other side.
    assert row["rank"] == 2 / 4
    assert not row["beyond"]
    assert row["p"] == pytest.approx(2 / 64)
    still = table[(table["measure"] == "accuracy") & (table["c"] == 1)].iloc[0]
    assert still["p"] == 1
    assert still["difference_low"] < 0 < still["difference_high"]


def test_an_item_that_is_asked_with_several_tasks_counts_once() -> None:
    rows = []
    for number, task in enumerate(("a", "b", "c")):
        mine = [(f"{task}{n}", "conflict") for n in range(4)]
        mine += [(f"{other}{n}", OTHER_TASKS) for other in "abc" if other != task for n in range(4)]
        for name, which in mine:
            known = {"id": name, "task": task, "set": which, "speaker": None, "script": None, "site": "x"}
            known |= {"accuracy": 1.0, "ala": np.nan, "towards": np.nan}
            own = float(name[1])
            moved = own + number + 1
            rows.append({**known, "arm": "chosen", "draw": 0, "c": 0.0, "margin": own})
            rows.append({**known, "arm": "chosen", "draw": 0, "c": 1.0, "margin": moved})
            rows += [{**known, "arm": "random", "draw": d, "c": 1.0, "margin": own + 0.1 * d} for d in range(2)]
    table = dose_table(pd.DataFrame(rows), dose="c", still=0.0)
    side = table[(table["set"] == OTHER_TASKS) & (table["measure"] == "margin") & (table["c"] == 1)].set_index("task")
    assert side["n"].to_dict() == {"all": 12, "a": 8, "b": 8, "c": 8}
    assert side["n_groups"]["all"] == 12
    assert side["difference"].to_dict() == pytest.approx({"all": 2, "a": 1, "b": 2, "c": 3})
    # 2.5, 2 and 1.5, each four times; a t interval of twelve items.
    half = side["difference_high"]["all"] - 2
    assert half == pytest.approx(np.std(np.repeat([2.5, 2, 1.5], 4), ddof=1) / np.sqrt(12) * 1.96, rel=0.2)
    own = table[(table["set"] == "conflict") & (table["measure"] == "margin") & (table["c"] == 1)].set_index("task")
    assert own["n"].to_dict() == {"all": 12, "a": 4, "b": 4, "c": 4}
    assert own["difference"]["all"] == pytest.approx(2)


def test_results_print_plot_and_keep(found: SteerResult, tmp_path: Path) -> None:
    assert "SteerResult: mini-pclm-dpo" in repr(found)
    assert "not a cure" in repr(found)
    assert "<table" in found._repr_html_()
    ax = found.plot(site="text.embed", measure="accuracy")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["-1", "0"]
    assert ax.get_ylabel() == "share answered with the truth"
    for more, what in (({"site": "txt"}, "txt"), ({"measure": "towards"}, "towards"), ({"task": "age"}, "age")):
        with pytest.raises(RunError, match=what):
            found.plot(**more)
    kept = SteerResult.load(found.save(tmp_path))
    for name in SteerResult.TABLES:
        pd.testing.assert_frame_equal(getattr(kept, name), getattr(found, name))
    assert kept.settings["weights"] == found.settings["weights"]
