"""Where the answer position looks: masses sum to one, and the model is as it was afterwards."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from transformers import PreTrainedModel

import vpanalysis as vp
from vpanalysis.attribution._attended import eager
from vpanalysis.attribution._spans import token_spans
from vpanalysis.attribution.attention import ATTENDED, AttentionResult, attention_mass
from vpanalysis.benchmark.items import Benchmark, Item
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import RunError


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def bench() -> Benchmark:
    whole = vp.load_benchmark("mini", tasks=["age_prediction", "pitch_comparison"])
    return whole.filter(lambda item: item.condition == "conflict" and int(str(item.cell)[-4:]) < 8)


@pytest.fixture(scope="module")
def model() -> vp.AudioLLM:
    return vp.load_model("mini-base")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def found(model: vp.AudioLLM, bench: Benchmark, folder: Path) -> AttentionResult:
    return attention_mass(model, bench, cache=folder, progress=False)


def _used(llm: vp.AudioLLM) -> list[Any]:
    return [m.config._attn_implementation for m in llm.model.modules() if isinstance(m, PreTrainedModel)]


def test_masses_of_the_spans_sum_to_one(found: AttentionResult) -> None:
    np.testing.assert_allclose(found.items.groupby(["id", "layer"])["mass"].sum(), 1, atol=1e-5)
    masses = found.table[(found.table["quantity"] == "mass") & (found.table["task"] == "all")]
    np.testing.assert_allclose(masses.groupby(["layer", "head"])["value"].sum(), 1, atol=1e-5)
    assert (masses["value"] >= 0).all()


def test_weights_are_those_that_the_model_hands_out_itself(found: AttentionResult, bench: Benchmark) -> None:
    # Another copy: asked for its attentions, a model keeps hooks of its library's, and hooks make it another model.
    model, item = vp.load_model("mini-base"), bench[0]
    batch = model.prepare([item], [item.audio.load()], DEFAULT_PROMPT)
    spans = token_spans(model, batch, DEFAULT_PROMPT)
    with eager(model):
        whole = model.model(**batch.inputs, output_attentions=True, use_cache=False).attentions
    mine = found.items[found.items["id"] == item.id].set_index(["layer", "span"])
    for layer, weights in enumerate(whole):
        for span in ATTENDED:
            mass = weights[0, :, -1][:, spans[span][0]].sum(-1).mean()
            assert mine.loc[(layer, span), "mass"] == pytest.approx(mass.item(), abs=1e-4)
            assert mine.loc[(layer, span), "tokens"] == int(spans[span].sum())


def test_mass_is_put_beside_the_length_of_a_span(found: AttentionResult) -> None:
    wide = found.items[(found.items["layer"] == 1) & (found.items["span"] == "audio")]
    rows = found.table[(found.table["task"] == "all") & (found.table["layer"] == 1) & (found.table["head"] == "mean")]
    row = rows[rows["span"] == "audio"].set_index("quantity")
    assert row.loc["per_token", "value"] == pytest.approx((wide["mass"] / wide["tokens"]).mean())
    assert row.loc["relative", "value"] == pytest.approx((wide["mass"] / wide["tokens"] * wide["length"]).mean())


def test_the_model_is_as_it_was(found: AttentionResult, model: vp.AudioLLM, bench: Benchmark) -> None:
    assert found.settings["agreement"] < 1e-4
    before = _used(model)
    assert set(before) == {"sdpa"}
    with pytest.raises(ZeroDivisionError), eager(model):
        text: Any = model.family.find(model.model, str(model.family.language_model))
        assert text.config._attn_implementation == "eager"
        raise ZeroDivisionError
    assert _used(model) == before
    hooks = [len(m._forward_hooks) for m in model.model.modules()]
    attention_mass(model, bench[:2], cache=False, progress=False)
    assert _used(model) == before
    assert [len(m._forward_hooks) for m in model.model.modules()] == hooks


def test_answers_that_change_are_refused(model: vp.AudioLLM, bench: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpanalysis.attribution._attended._EXACT", -1.0)
    with pytest.raises(RunError, match="answers that change"):
        attention_mass(model, bench[:2], cache=False, progress=False)
    assert set(_used(model)) == {"sdpa"}


def test_one_item_has_no_interval_and_a_clip_too_short_is_left_out(model: vp.AudioLLM, bench: Benchmark) -> None:
    from dataclasses import replace

    from vpanalysis.benchmark.audio import ArrayAudio

    short = replace(bench[0], id="short", audio=ArrayAudio(np.zeros(3, "float32")))
    two = Benchmark([short, bench[1]], name="two", source="test")
    found = attention_mass(model, two, conditions="conflict", cache=False, progress=False)
    assert found.settings["skipped"] == 1
    assert found.settings["conditions"] == ["conflict"]
    assert "nan" not in repr(found)
    assert "nan" not in found._repr_html_()


def test_qwen2_audio_hands_out_weights_too(bench: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "models")
    built = importlib.import_module("builders").qwen2_audio()
    llm = vp.AudioLLM(built.model, built.processor, name="tiny")
    items = [_short(item) for item in list(bench)[:3]]
    found = attention_mass(llm, Benchmark(items, name="short", source="test"), cache=False, progress=False)
    np.testing.assert_allclose(found.items.groupby(["id", "layer"])["mass"].sum(), 1, atol=1e-5)
    assert set(_used(llm)) == {"sdpa"}


def _short(item: Item) -> Item:
    from dataclasses import replace

    from vpanalysis.benchmark.audio import ArrayAudio

    return replace(item, audio=ArrayAudio(item.audio.load()[:20_000]))


def test_attention_is_kept_and_drawn_with_its_caveat(
    found: AttentionResult, model: vp.AudioLLM, bench: Benchmark, folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert "not attribution" in repr(found)
    for ax in (found.plot(), found.plot(span="audio"), found.plot(quantity="relative")):
        assert any("not attribution" in text.get_text().replace("\n", " ") for text in ax.texts)
    assert len(found.plot(span="options").get_yticks()) == 5
    for asked in ({"span": "audoi"}, {"quantity": "mas"}):
        with pytest.raises(RunError, match="did you mean"):
            found.plot(**asked)  # type: ignore[arg-type]
    kept = AttentionResult.load(found.save(tmp_path))
    pd.testing.assert_frame_equal(kept.table, found.table)
    with pytest.raises(RunError, match="no item of"):
        attention_mass(model, bench, conditions=["neutral"], progress=False)
    for numbers in ({"level": 1.0}, {"batch_size": 0}):
        with pytest.raises(RunError, match=r"found (level|batch_size)="):
            attention_mass(model, bench, progress=False, **numbers)  # type: ignore[arg-type]

    def never(*_args: Any, **_kwargs: Any) -> Any:
        raise AssertionError("a forward was done")

    monkeypatch.setattr(vp.AudioLLM, "forward", never)
    again = attention_mass(model, bench, cache=folder, progress=False)
    assert again.settings == found.settings
    pd.testing.assert_frame_equal(again.table, found.table)
