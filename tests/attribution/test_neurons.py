"""Units scaled: a factor of one changes nothing, scores are what they say, and random sets are matched."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import vpanalysis as vp
from vpanalysis.attribution._steered import HeldBatch, output_of_units
from vpanalysis.attribution.neurons import NeuronResult, matched_units, scale_neurons, unit_scores
from vpanalysis.benchmark.audio import ArrayAudio
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import RunError

TASK = "intonation_perception"


def _first(count: int, split: str = "test") -> Benchmark:
    whole = vp.load_benchmark("mini", split=split, tasks=[TASK])
    return whole.filter(lambda item: int(str(item.cell)[-4:]) < count)


@pytest.fixture(scope="module")
def bench() -> Benchmark:
    return _first(14)


@pytest.fixture(scope="module")
def train() -> Benchmark:
    return _first(40, "train")


@pytest.fixture(scope="module")
def listener() -> vp.AudioLLM:
    return vp.load_model("mini-pclm-dpo")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("neurons")


@pytest.fixture(scope="module")
def found(listener: vp.AudioLLM, bench: Benchmark, train: Benchmark, cache: Path) -> NeuronResult:
    return scale_neurons(listener, bench, layers=["encoder[0]", "encoder[5]"], top=0.2, factors=(0.0, 2.0), fit=train,
                         draws=2, others=0, cache=cache, progress=False)  # fmt: skip


def _batch(llm: vp.AudioLLM, bench: Benchmark) -> HeldBatch:
    items = [item for item in bench if item.condition == "conflict"][:4]
    return HeldBatch(llm, items, [item.audio.load() for item in items], DEFAULT_PROMPT, parts=2)


def _hooks(llm: vp.AudioLLM) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in llm.model.modules())


def test_the_score_is_the_share_of_variance_between_classes() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b", "c"], 30)
    x = rng.normal(size=(90, 4))
    x[:, 0] += np.repeat([0.0, 1.0, 2.0], 30)
    x[:, 3] = 7.0
    score = unit_scores(x, labels)
    groups = [x[labels == name, 0] for name in "abc"]
    between = sum(len(g) * (g.mean() - x[:, 0].mean()) ** 2 for g in groups)
    assert score[0] == pytest.approx(between / ((x[:, 0] - x[:, 0].mean()) ** 2).sum())
    assert score[0] > 5 * score[1]
    assert score[3] == 0
    # Weights count items as often as they say; a rise and a fall are told apart by parts and not by their mean.
    twice = np.concatenate([np.arange(90), np.arange(30)])
    np.testing.assert_allclose(
        unit_scores(x, labels, np.repeat([2.0, 1.0, 1.0], 30)), unit_scores(x[twice], labels[twice])
    )
    rise = np.repeat([1.0, -1.0, 0.0], 30)[:, None]
    assert unit_scores(np.concatenate([rise, -rise], axis=1), labels, parts=2).tolist() == [1.0]
    assert unit_scores(rise - rise, labels).tolist() == [0.0]


def test_for_two_classes_the_score_orders_units_as_d_prime_does() -> None:
    rng = np.random.default_rng(1)
    labels = np.arange(60) % 2
    x = rng.normal(size=(60, 30)) + labels[:, None] * np.linspace(0, 2, 30)
    spread = np.sqrt((x[labels == 0].var(axis=0) + x[labels == 1].var(axis=0)) / 2)
    d = np.abs(x[labels == 1].mean(axis=0) - x[labels == 0].mean(axis=0)) / spread
    np.testing.assert_array_equal(np.argsort(unit_scores(x, labels)), np.argsort(d))


def test_random_units_are_others_of_similar_activation() -> None:
    sizes = np.sort(np.random.default_rng(0).gamma(1.0, size=200))
    chosen = np.arange(180, 200)
    drawn = [matched_units(chosen, sizes, (0, draw)) for draw in range(20)]
    for units in drawn:
        assert len(np.unique(units)) == 20
        assert not np.isin(units, chosen).any()
    # The loudest others stand beside the loudest.
    assert np.mean([sizes[units].mean() for units in drawn]) > sizes[:180].mean() * 1.5
    assert len({tuple(units) for units in drawn}) == 20
    np.testing.assert_array_equal(drawn[3], matched_units(chosen, sizes, (0, 3)))
    half = matched_units(np.arange(100), sizes, (0, 0))
    np.testing.assert_array_equal(half, np.arange(100, 200))


def test_a_factor_of_one_changes_not_a_bit_and_zero_is_silence(listener: vp.AudioLLM, bench: Benchmark) -> None:
    batch = _batch(listener, bench)
    base = batch.logprobs()
    width = output_of_units(listener, "encoder[0]").in_features
    for layer in ("encoder[0]", "encoder[3]"):
        for one, two in zip(base, batch.with_units(layer, np.ones((4, width))), strict=True):
            np.testing.assert_array_equal(one, two)
    none = batch.with_units("encoder[0]", np.zeros((4, width)))
    assert max(np.abs(one - two).max() for one, two in zip(base, none, strict=True)) > 0.1
    # The same as a layer whose second linear layer has its bias alone.
    reads = output_of_units(listener, "encoder[0]")
    own = reads.weight.data.clone()
    try:
        reads.weight.data.zero_()
        alone = batch.logprobs(listener.encode(batch.waves))
    finally:
        reads.weight.data.copy_(own)
    for one, two in zip(none, alone, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    # One item's units are another's business.
    mixed = np.ones((4, width))
    mixed[2] = 0.0
    rows = batch.with_units("encoder[0]", mixed)
    for number in range(4):
        np.testing.assert_allclose(rows[number], (none if number == 2 else base)[number], atol=1e-5)


def test_activations_are_those_of_the_layer(listener: vp.AudioLLM, bench: Benchmark) -> None:
    batch = _batch(listener, bench)
    kept: list[torch.Tensor] = []
    handle = output_of_units(listener, "encoder[2]").register_forward_pre_hook(lambda _m, args: kept.append(args[0]))
    listener.encode(batch.waves[:1])
    handle.remove()
    state = kept[0][0, : batch.batch.positions[0][0]].double().numpy()
    means, sizes = batch.activations(["encoder[2]"])["encoder[2]"]
    half = -(-len(state) // 2)
    expected = np.concatenate([state[:half].mean(axis=0), state[half:].mean(axis=0)])
    np.testing.assert_allclose(means[0], expected, atol=1e-5)
    np.testing.assert_allclose(sizes[0], np.abs(state).mean(axis=0), atol=1e-5)


def test_hooks_are_gone_whatever_happens(listener: vp.AudioLLM, bench: Benchmark) -> None:
    before, batch = _hooks(listener), _batch(listener, bench)
    with pytest.raises(RuntimeError):
        batch.with_units("encoder[0]", np.ones((4, 3)))
    assert _hooks(listener) == before
    batch.activations(["encoder[1]"])
    assert _hooks(listener) == before


def test_units_are_chosen_by_score_on_training_items(found: NeuronResult, listener: vp.AudioLLM) -> None:
    width = output_of_units(listener, "encoder[0]").in_features
    assert found.settings["units"] == {"encoder[0]": round(0.2 * width), "encoder[5]": round(0.2 * width)}
    for _, part in found.neurons.groupby("site"):
        assert len(part) == width
        chosen = part[part["chosen"]]
        assert len(chosen) == round(0.2 * width)
        assert chosen["score"].min() >= part[~part["chosen"]]["score"].max()
    best = found.neurons.groupby("site")["score"].max()
    assert best["encoder[0]"] > best["encoder[5]"]


def test_the_table_says_what_factors_did_beside_random_sets(found: NeuronResult) -> None:
    assert set(found.table["factor"]) == {0.0, 1.0, 2.0}
    items = found.items[(found.items["site"] == "encoder[0]") & (found.items["set"] == "conflict")]
    wide = items[items["factor"] == 0].pivot(index="id", columns=["arm", "draw"], values="margin")
    base = items[items["factor"] == 1].set_index("id")["margin"]
    table = found.table[(found.table["set"] == "conflict") & (found.table["measure"] == "margin")]
    row = table.set_index(["site", "factor"]).loc[("encoder[0]", 0.0)]
    assert row["difference"] == pytest.approx((wide[("chosen", 0)] - base).mean())
    assert row["over_random"] == pytest.approx((wide[("chosen", 0)] - wide["random"].mean(axis=1)).mean())
    assert np.isnan(table.set_index(["site", "factor"]).loc[("encoder[0]", 1.0), "difference"])


def test_a_second_call_asks_nothing(
    found: NeuronResult, listener: vp.AudioLLM, bench: Benchmark, train: Benchmark, cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def refuse(*_args: object, **_more: object) -> None:
        raise AssertionError("the model was asked")

    monkeypatch.setattr(type(listener), "forward", refuse)
    monkeypatch.setattr(type(listener), "encode", refuse)
    again = scale_neurons(listener, bench, layers=["encoder[0]", "encoder[5]"], top=0.2, factors=(0.0, 2.0), fit=train,
                          draws=2, others=0, cache=cache, progress=False)  # fmt: skip
    for name in NeuronResult.TABLES:
        pd.testing.assert_frame_equal(getattr(found, name), getattr(again, name), check_exact=True)


def test_without_training_items_the_benchmarks_own_are_split(listener: vp.AudioLLM, bench: Benchmark) -> None:
    found = scale_neurons(listener, bench, layers="encoder[5]", top=8, factors=(0.0,), draws=1, splits=2,
                          conditions=("conflict",), cache=False, progress=False)  # fmt: skip
    assert set(found.items["id"]) == {item.id for item in bench if item.condition == "conflict"}
    assert found.neurons.groupby("fold")["chosen"].sum().tolist() == [8] * found.neurons["fold"].nunique()
    assert found.neurons["fold"].nunique() > 1


def test_what_cannot_be_scaled_is_refused(listener: vp.AudioLLM, bench: Benchmark, train: Benchmark) -> None:
    for more, what in (
        ({"about": "word"}, "did you mean 'words'"), ({"draws": 0}, "draws=0"), ({"factors": (1.0,)}, "factors"),
        ({"top": 0.7}, "at most half"), ({"top": 0}, "at least one"), ({"layers": "tower"}, "tower"),
        ({"conditions": ("neutrall",)}, "did you mean 'neutral'"), ({"level": 0}, "level=0"),
        ({"batch_size": 0}, "batch_size=0"), ({"splits": 1}, "splits=1"),
    ):  # fmt: skip
        with pytest.raises(RunError, match=what):
            scale_neurons(listener, bench, cache=False, progress=False, **{"fit": train, **more})
    layer = listener.module_of("encoder[1]")
    own = layer.fc2
    try:
        layer.fc2 = nn.Identity()
        with pytest.raises(RunError, match="fc2 behind their activation"):
            scale_neurons(listener, bench, fit=train, cache=False, progress=False)
    finally:
        layer.fc2 = own


def test_clips_that_cannot_be_used_are_skipped_and_settings_are_whole(
    listener: vp.AudioLLM, bench: Benchmark, train: Benchmark
) -> None:
    short = ArrayAudio(np.full(10, 0.1, dtype=np.float32))
    two = [item for item in bench if item.condition == "conflict"][:2]
    other = vp.load_benchmark("mini", tasks=["gender_prediction"]).filter(lambda item: item.condition == "conflict")[:3]
    asked = Benchmark(
        [replace(two[0], audio=short), two[1], *(replace(item, audio=short) for item in other)], name="b", source="b"
    )
    both = Benchmark(
        [*train, *vp.load_benchmark("mini", split="train", tasks=["gender_prediction"], limit=20)], name="f", source="f"
    )
    found = scale_neurons(listener, asked, layers="encoder[5]", fit=both, factors=(0.0,), draws=1, others=0,
                          top=np.int64(4), conditions="conflict", random_state=None, cache=False,
                          progress=False)  # fmt: skip
    made = found.settings
    assert set(found.items["id"]) == {two[1].id}
    assert (made["skipped"], made["left_out"], made["tasks_left_out"]) == (4, 0, ["gender_prediction"])
    assert set(inspect.signature(scale_neurons).parameters) - {"cache", "progress"} <= set(made)
    assert json.loads(json.dumps(made)) == made
    assert isinstance(made["random_state"], int)
    assert "nan" not in repr(found)
    assert made["kept_apart"] == ["speaker", "script"]
    ax = found.plot()
    said = " ".join(" ".join(text.get_text() for text in (*ax.texts, *ax.figure.texts)).split())
    assert "on other speakers and wordings." in said
    assert set(found.neurons["chosen"].groupby(found.neurons["fold"]).sum()) == {4}


def test_units_are_not_scored_where_all_words_are_alike(
    listener: vp.AudioLLM, bench: Benchmark, train: Benchmark
) -> None:
    # Every item says the same two options, so that there is one class and two options.
    same = [replace(item, said_level="same") if item.said else item for item in train]
    with pytest.raises(RunError, match="no usable training items"):
        scale_neurons(listener, bench, layers="encoder[5]", fit=Benchmark(same, name="s", source="s"), about="words",
                      conditions="conflict", others=0, cache=False, progress=False)  # fmt: skip


def test_results_print_plot_and_keep(found: NeuronResult, tmp_path: Path) -> None:
    assert "NeuronResult: mini-pclm-dpo" in repr(found)
    assert "<table" in found._repr_html_()
    ax = found.plot(site="encoder[5]")
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "1", "2"]
    with pytest.raises(RunError, match="towards"):
        found.plot(measure="towards")
    kept = NeuronResult.load(found.save(tmp_path))
    for name in NeuronResult.TABLES:
        pd.testing.assert_frame_equal(getattr(kept, name), getattr(found, name))
