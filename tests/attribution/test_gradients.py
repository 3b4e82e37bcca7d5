"""Attributions: closed forms on planted functions, the whole model's own numbers on the organism, flat memory."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import IntegratedGradients

import vpanalysis as vp
from vpanalysis.attribution._margin import margin_of_logits, margins_of_logits
from vpanalysis.attribution.gradients import BASELINES, METHODS, AttributionResult, ConvergenceWarning, attribute
from vpanalysis.attribution.gradients._clips import Clips
from vpanalysis.attribution.gradients._explained import Explained
from vpanalysis.attribution.gradients._function import FEATURES, SiteFunction, frozen, known_site, sites_for
from vpanalysis.attribution.gradients._grid import Grid, gathered, mel_hz, scattered
from vpanalysis.attribution.gradients.baselines import baseline_clips, baseline_state, mean_of
from vpanalysis.attribution.gradients.methods import integrated_gradients, occlusion, shapley
from vpanalysis.attribution.margins import margin
from vpanalysis.benchmark.audio import ArrayAudio
from vpanalysis.benchmark.items import Benchmark, Item
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import RunError

TASKS = ["intonation_perception", "pitch_comparison"]
QUICK: dict[str, Any] = {"faithfulness": False, "progress": False, "cache": False}


@pytest.fixture(scope="module")
def bench() -> Benchmark:
    return vp.load_benchmark("mini", tasks=TASKS).filter(lambda item: int(str(item.cell)[-4:]) < 3)


@pytest.fixture(scope="module")
def listener() -> vp.AudioLLM:
    return vp.load_model("mini-pclm-dpo")


@pytest.fixture(scope="module")
def reader() -> vp.AudioLLM:
    return vp.load_model("mini-base")


@pytest.fixture(scope="module")
def item(bench: Benchmark) -> Item:
    return next(item for item in bench if item.condition == "conflict")


@pytest.fixture(scope="module")
def by_frequency(listener: vp.AudioLLM, bench: Benchmark) -> AttributionResult:
    return attribute(listener, bench, site=FEATURES, limit=2, **QUICK)


@pytest.fixture(scope="module")
def by_token(listener: vp.AudioLLM, bench: Benchmark) -> AttributionResult:
    return attribute(listener, bench, site="text[1]", limit=2, **QUICK)


def _line(frames: int) -> Grid:
    return Grid((frames,), 0.1, np.ones(frames, dtype=bool))


def _planted(
    function: Callable[[torch.Tensor], torch.Tensor], frames: int = 6, width: int = 3, seed: int = 0, **more: Any
) -> Explained:
    generator = torch.Generator().manual_seed(seed)
    x, b = (torch.randn(frames, width, generator=generator, dtype=torch.float64) for _ in range(2))
    return Explained(function, x, b, _line(frames), **more)


@contextmanager
def _rows_of(llm: vp.AudioLLM, site: str) -> Iterator[list[int]]:
    """The number of rows of every call of a module during the block."""
    rows: list[int] = []
    handle = llm.module_of(site).register_forward_hook(lambda _module, _args, out: rows.append(len(_first(out))))
    try:
        yield rows
    finally:
        handle.remove()


def _first(output: Any) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else next(iter(output.values())) if hasattr(
        output, "values"
    ) else output[0]  # fmt: skip


def _function(llm: vp.AudioLLM, item: Item, site: str) -> tuple[SiteFunction, torch.Tensor]:
    """The function of an item at a site, and the state of silence."""
    wave = item.audio.load()
    clips = Clips(llm).encoded({"clip": wave, "silence": np.zeros_like(wave)})
    f = SiteFunction(llm, item, DEFAULT_PROMPT, site, wave, clips["clip"])
    return f, f.state(np.zeros_like(wave), clips["silence"])


def test_all_methods_equal_the_closed_form_of_a_linear_function() -> None:
    weights = torch.randn(6, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    e = _planted(lambda s: (s * weights).sum((1, 2)))
    wanted = ((e.x - e.baseline) * weights).sum(1).numpy()
    for name, method in METHODS.items():
        made = method(e, n_steps=7, window_s=0.1, segments=6)
        # Captum adds the 720 orders up in single precision.
        np.testing.assert_allclose(made.values, wanted, atol=1e-4 if name == "shapley" else 1e-6, err_msg=name)
        assert made.error == 0


def test_integrated_gradients_of_a_curved_function_have_their_closed_form() -> None:
    e = _planted(lambda s: (s**3).sum((1, 2)))
    for steps in (2, 50):
        # Two points of Gauss and Legendre are exact for the square that is integrated.
        np.testing.assert_allclose(
            integrated_gradients(e, n_steps=steps).values, (e.x**3 - e.baseline**3).sum(1).numpy(), atol=1e-5
        )
    one = integrated_gradients(e, n_steps=1).values
    middle = (e.x + e.baseline) / 2
    np.testing.assert_allclose(one, (3 * middle**2 * (e.x - e.baseline)).sum(1).numpy(), atol=1e-5)


def test_shapley_values_of_planted_functions_are_exact() -> None:
    gains = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, 1.5], dtype=torch.float64)
    ones = {"x": torch.ones(6, 1, dtype=torch.float64), "baseline": torch.zeros(6, 1, dtype=torch.float64)}
    additive = Explained(lambda s: s[:, :, 0] @ gains, grid=_line(6), **ones)
    np.testing.assert_allclose(shapley(additive).values, gains.numpy(), atol=1e-9)
    assert additive.rows == 64
    pair = Explained(lambda s: s[:, :, 0] @ gains + 6 * s[:, 0, 0] * s[:, 5, 0], grid=_line(6), **ones)
    np.testing.assert_allclose(shapley(pair).values, (gains + 3 * torch.eye(6)[[0, 5]].sum(0)).numpy(), atol=1e-9)
    # Three segments of two frames: what a segment gets is divided over its frames.
    three = shapley(pair, segments=3).values
    np.testing.assert_allclose(three, np.repeat([(-1 + 3) / 2, 0.25, (4.5 + 3) / 2], 2), atol=1e-9)


def test_sampled_orders_add_up_say_their_error_and_leave_the_generator_alone() -> None:
    e = _planted(lambda s: s.sum(2).prod(1) + s.sum((1, 2)), frames=8, seed=3)
    state = torch.random.get_rng_state()
    found = shapley(e, segments=8, n_samples=200, random_state=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert found.values.sum() == pytest.approx(e.value - e.without, abs=1e-6)
    again = shapley(e, segments=8, n_samples=200, random_state=1)
    np.testing.assert_array_equal(found.values, again.values)
    # The truth, from all 2^8 coalitions and Shapley's own weights.
    worth = e.coalitions((np.arange(256)[:, None] >> np.arange(8)) & 1, np.arange(8))
    exact = np.zeros(8)
    size = np.array([bin(code).count("1") for code in range(256)])
    weight = np.array([1 / (8 * _choose(7, int(count))) if count < 8 else 0.0 for count in size])
    for player in range(8):
        without = np.flatnonzero((np.arange(256) >> player) & 1 == 0)
        exact[player] = (weight[without] * (worth[without | (1 << player)] - worth[without])).sum()
    assert found.error > 0
    assert np.abs(found.values - exact).max() < 5 * found.error
    few = shapley(e, segments=8, n_samples=20, random_state=1)
    assert few.error > found.error


def _choose(n: int, k: int) -> int:
    import math

    return math.comb(n, k)


def test_occlusion_takes_windows_bands_and_tokens_away() -> None:
    gains = torch.arange(40, dtype=torch.float64).reshape(8, 5)
    ones = torch.ones(8, 5, 1, dtype=torch.float64)
    mel = Explained(lambda s: (s[..., 0] * gains).sum((1, 2)), ones, 0 * ones, Grid((8, 5), 0.1, np.ones(5) > 0))
    found = occlusion(mel, window_s=0.2, mel_bands=2)
    blocks = mel.grid.blocks(0.2, 2)
    assert blocks[0].tolist() == [0, 0, 1, 1, 2] and blocks[4].tolist() == [3, 3, 4, 4, 5]
    np.testing.assert_allclose(gathered(found.values, blocks), gathered(gains.numpy(), blocks), atol=1e-6)
    assert found.values[0, 0] == found.values[3, 1] != found.values[4, 0]
    heard = np.array([False, True, True, True, False, False])
    grid = Grid((6,), 0.1, heard, tuple("abcdef"), ("question", "audio", "audio", "audio", "options", "options"))
    assert grid.kind == "token"
    assert grid.blocks(0.2).tolist() == [2, 0, 0, 1, 3, 4]
    assert grid.segments(2).tolist() == [2, 0, 0, 1, 3, 3]
    text = Explained(
        lambda s: s[..., 0] @ gains[0, [0, 1, 2, 3, 4, 4]], ones[0, :1].expand(6, 1), torch.zeros(6, 1), grid
    )
    np.testing.assert_allclose(occlusion(text, window_s=0.2).values, [0, 1.5, 1.5, 3, 4, 4], atol=1e-6)


def test_cells_gather_and_scatter() -> None:
    grid = _line(7)
    groups = grid.segments(3)
    assert groups.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert grid.segments(9).tolist() == list(range(7))
    sums = np.array([3.0, 1.0, -2.0])
    np.testing.assert_allclose(gathered(scattered(sums, groups), groups), sums)


def test_mel_bins_are_where_their_filters_are(listener: vp.AudioLLM) -> None:
    edges = mel_hz(listener.feature_extractor)
    filters = np.asarray(listener.feature_extractor.mel_filters)
    hertz = np.linspace(0, 8000, len(filters))
    for number in range(filters.shape[1]):
        inside = hertz[filters[:, number] > 0]
        assert len(inside) == 0 or (edges[number] <= inside.min() and inside.max() <= edges[number + 2])
    assert len(edges) == 130 and edges[0] == 0 and edges[-1] == pytest.approx(8000)
    with pytest.raises(RunError, match="log-mel"):
        mel_hz(object())


@pytest.mark.parametrize("name", ["listener", "reader"])
def test_the_function_of_a_site_is_the_model(name: str, item: Item, request: pytest.FixtureRequest) -> None:
    llm: vp.AudioLLM = request.getfixturevalue(name)
    before = [(path, id(module)) for path, module in llm.model.named_modules()]
    batch = llm.prepare([item], [item.audio.load()], DEFAULT_PROMPT)
    logits = llm.forward(batch)
    known = margin(llm.option_logprobs(batch, logits)[0].numpy(), item.choices, item.truth, item.foils)
    assert float(margin_of_logits(llm, item, logits)[0]) == pytest.approx(known, abs=1e-5)
    assert margins_of_logits(llm, [item, item], logits.expand(2, -1)).tolist() == pytest.approx([known] * 2, abs=1e-5)
    silent = llm.prepare([item], [np.zeros_like(item.audio.load())], DEFAULT_PROMPT)
    nothing = float(margin_of_logits(llm, item, llm.forward(silent))[0])
    for site in sites_for(llm):
        f, silence = _function(llm, item, site)
        assert f.margin == pytest.approx(known, abs=1e-4), site
        with torch.no_grad():
            two = f(torch.stack([f.x, silence, f.x]))
        assert two[0].item() == pytest.approx(known, abs=1e-4), site
        assert two[2].item() == two[0].item(), site
        # Where all that is heard passes, silence there is the model hearing silence.
        if site in (FEATURES, "encoder.stem", "encoder[0]", "mixed", "projector", "text.embed", "text[0]", "text[3]"):
            assert two[1].item() == pytest.approx(nothing, abs=1e-3), site
    assert [(path, id(module)) for path, module in llm.model.named_modules()] == before
    assert known_site(llm, "mixed") == ("mixed" if name == "listener" else "projector")


def test_everything_is_back_after_an_error(listener: vp.AudioLLM, item: Item) -> None:
    before = [(path, id(module)) for path, module in listener.model.named_modules()]
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in listener.model.modules())
    for site in ("streams[1]", "text[2]", "encoder[1]", FEATURES, "tower"):
        f, _ = _function(listener, item, site)
        with pytest.raises((RuntimeError, IndexError, vp.errors.ModelError)):
            f(torch.zeros(2, 3, 4, 5))
        assert [(path, id(module)) for path, module in listener.model.named_modules()] == before, site
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in listener.model.modules()) == hooks
    asking = [p.requires_grad for p in listener.model.parameters()]
    with pytest.raises(ZeroDivisionError), frozen(listener):
        assert not any(p.requires_grad for p in listener.model.parameters())
        raise ZeroDivisionError
    assert [p.requires_grad for p in listener.model.parameters()] == asking


@pytest.mark.parametrize("site", [FEATURES, "encoder[2]", "streams[1]", "mixed", "text[1]"])
def test_shared_encodings_give_what_captum_gives_on_the_whole_model(
    listener: vp.AudioLLM, item: Item, site: str
) -> None:
    wave = item.audio.load()
    inputs = dict(listener.prepare([item], [wave], DEFAULT_PROMPT).inputs)
    silent = listener.prepare([item], [np.zeros_like(wave)], DEFAULT_PROMPT).inputs["input_features"]
    features = inputs.pop("input_features")

    def whole(given: torch.Tensor) -> torch.Tensor:
        rest = {name: tensor.expand(len(given), *tensor.shape[1:]) for name, tensor in inputs.items()}
        logits = listener.model(input_features=given, use_cache=False, **rest).logits[:, -1]
        return margin_of_logits(listener, item, logits)

    if site == FEATURES:
        wanted = IntegratedGradients(whole).attribute(features, baselines=silent, n_steps=8)[..., None]
    else:
        module, states = listener.module_of(site), []
        for one in (features, silent):
            with listener.capturing([site]) as kept, torch.no_grad():
                whole(one)
            states.append(kept[site][0])

        def behind(state: torch.Tensor) -> torch.Tensor:
            def put(_module: Any, _args: Any, output: Any) -> Any:
                return state if isinstance(output, torch.Tensor) else (state, *output[1:])

            handle = module.register_forward_hook(put)
            try:
                return whole(features.expand(len(state), -1, -1))
            finally:
                handle.remove()

        wanted = IntegratedGradients(behind).attribute(states[0], baselines=states[1], n_steps=8)
    f, silence = _function(listener, item, site)
    e = Explained(f, f.x, silence, f.grid, 5)
    found = integrated_gradients(e, n_steps=8).values
    summed = wanted[0].double().sum(-1).detach().numpy()
    here = summed[..., : found.shape[-1]]
    np.testing.assert_allclose(found, here, atol=1e-4)
    # What is left out, silence behind the clip, has nothing to give.
    assert np.abs(summed).sum() == pytest.approx(np.abs(here).sum(), abs=1e-4)
    assert np.abs(found).max() > 0.01


def test_maps_add_up_and_delta_is_captums(
    listener: vp.AudioLLM, bench: Benchmark, by_frequency: AttributionResult, item: Item
) -> None:
    for found in (by_frequency, attribute(listener, bench, limit=2, **QUICK)):
        table = found.table
        assert table["delta"].abs().max() < 0.02
        assert (table["margin"] - table["baseline_margin"]).abs().min() > 1
        np.testing.assert_allclose(table["delta"], table["margin"] - table["baseline_margin"] - table["sum"])
        for name in found.items:
            assert float(found.map(name).sum()) == pytest.approx(float(table.set_index("id").loc[name, "sum"]))
    f, silence = _function(listener, item, "mixed")
    _, delta = IntegratedGradients(f).attribute(
        f.x[None], baselines=silence[None], n_steps=4, return_convergence_delta=True
    )
    with pytest.warns(ConvergenceWarning, match="miss what they explain"):
        rough = attribute(listener, bench.filter(lambda i: i.id == item.id), n_steps=4, tolerance=1e-6, **QUICK)
    assert float(rough.table["delta"].iloc[0]) == pytest.approx(-float(delta), abs=1e-4)


def test_the_encoder_runs_once_a_clip(listener: vp.AudioLLM, bench: Benchmark) -> None:
    with _rows_of(listener, "encoder[0]") as rows:
        found = attribute(
            listener, bench, baseline="neutral-twin", conditions=("conflict", "neutral"), limit=4, n_steps=6,
            internal_batch_size=3, **{**QUICK, "faithfulness": True},
        )  # fmt: skip
    # Two conflict clips and two neutral ones, which are also their baselines.
    assert len(found.table) == 4 and sorted(found.table["condition"].unique()) == ["conflict", "neutral"]
    assert sum(rows) == 4
    neutral = found.table[found.table["condition"] == "neutral"]
    np.testing.assert_allclose(neutral[["sum", "delta"]], 0, atol=1e-5)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's account of memory")
def test_memory_does_not_grow_with_steps(listener: vp.AudioLLM, bench: Benchmark) -> None:
    few = bench.filter(lambda i: i.condition == "conflict")
    held: list[int] = []

    def weigh(*_: Any) -> None:
        held.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())

    with _rows_of(listener, "text[0]") as rows:
        attribute(listener, few, limit=1, n_steps=10, internal_batch_size=8, **QUICK)
    assert max(rows) == 8
    handle = listener.module_of("text[3]").register_forward_hook(weigh)
    try:
        with _rows_of(listener, "text[0]") as rows:
            weigh()
            attribute(listener, few, limit=1, n_steps=200, internal_batch_size=8, **QUICK)
    finally:
        handle.remove()
    assert max(rows) == 8 and sum(rows) > 200
    # 200 graphs at once are hundreds of megabytes.
    assert max(held) - held[0] < 60e6
    for method in ("occlusion", "shapley", "gradient_x_activation"):
        with _rows_of(listener, "text[0]") as rows:
            attribute(listener, few, limit=1, method=method, internal_batch_size=8, **{**QUICK, "faithfulness": True})
        assert max(rows) <= 8, method


def test_baselines_are_what_they_are_called(listener: vp.AudioLLM, bench: Benchmark, item: Item) -> None:
    f, silence = _function(listener, item, "text.embed")
    said = ~f.grid.audio
    assert torch.equal(f.x[said], silence[said]) and not torch.equal(f.x[~said], silence[~said])
    zero = baseline_state(listener, f, "zero")
    assert zero.shape == f.x.shape and not zero.any()
    wave = item.audio.load()
    pad = baseline_state(listener, f, "pad", np.zeros_like(wave))
    embedding = listener.model.get_input_embeddings().weight[listener.tokenizer.pad_token_id]
    assert torch.equal(pad[said], embedding.expand(int(said.sum()), -1))
    torch.testing.assert_close(pad[~said], silence[~said], atol=1e-5, rtol=0)
    audio, text = mean_of([(f.grid, f.x), (f.grid, f.x * 3)])
    np.testing.assert_allclose(audio, 2 * f.x[~said].double().mean(0).numpy(), atol=1e-6)
    mean = baseline_state(listener, f, "mean", mean=(audio, text))
    np.testing.assert_allclose(mean[said][0].numpy(), 2 * f.x[said].mean(0).numpy(), atol=1e-5)
    sound, _ = _function(listener, item, FEATURES)
    audio, text = mean_of([(sound.grid, sound.x)])
    assert len(audio) == 128 and not len(text)
    spectrum = baseline_state(listener, sound, "mean", mean=(audio, text))
    np.testing.assert_allclose(spectrum[..., 0].numpy(), np.repeat(audio[:, None], sound.x.shape[1], 1), atol=1e-6)
    twins = baseline_clips(bench, [item], "neutral-twin", "")
    assert twins[item.id].condition == "conflict/neutral" and twins[item.id].transcript != item.transcript
    assert set(BASELINES) == {"silence", "mean", "neutral-twin", "zero", "pad"}


@pytest.mark.parametrize("baseline", ["mean", "neutral-twin", "zero"])
def test_every_baseline_is_counted_from(listener: vp.AudioLLM, bench: Benchmark, baseline: str) -> None:
    # A norm makes a state and its hundredth part the same: from zeros, few steps see what changes.
    doubt = pytest.warns(ConvergenceWarning) if baseline == "zero" else nullcontext()
    with doubt:
        found = attribute(listener, bench, baseline=baseline, limit=2, **QUICK)
    assert found.settings["baseline"] == baseline
    assert BASELINES[baseline] in repr(found)
    silent = attribute(listener, bench, limit=2, method="gradient_x_activation", **QUICK)
    assert not np.allclose(found.table["baseline_margin"], silent.table["baseline_margin"], atol=0.05)
    np.testing.assert_allclose(found.table["margin"], silent.table["margin"], atol=1e-5)
    assert not silent.settings["complete"] and found.settings["complete"]


def test_the_streams_with_the_voice_get_more_than_the_tower(listener: vp.AudioLLM, bench: Benchmark) -> None:
    sizes = {}
    for site in ("streams[0]", "streams[4]"):
        found = attribute(listener, bench, site=site, limit=4, n_steps=20, **QUICK)
        sizes[site] = np.array([float(np.abs(found.map(name)).sum()) for name in found.items])
    assert (sizes["streams[0]"] > 3 * sizes["streams[4]"]).all()


def test_question_and_options_get_nothing_from_silence(listener: vp.AudioLLM, bench: Benchmark) -> None:
    found = attribute(listener, bench, site="text.embed", limit=1, **QUICK)
    mapped = found.map()
    spans = mapped["span"].values
    assert list(dict.fromkeys(spans)) == ["question", "audio", "options", "answer"]
    assert not np.asarray(mapped)[spans != "audio"].any()
    assert float(np.abs(mapped[spans == "audio"]).sum()) > 1
    times = mapped["time_s"].values
    assert np.isnan(times[spans != "audio"]).all() and np.diff(times[spans == "audio"]) == pytest.approx(0.08)
    other = attribute(listener, bench, site="mixed", limit=1, **QUICK)
    np.testing.assert_allclose(np.asarray(mapped)[spans == "audio"], np.asarray(other.map()), atol=1e-4)
    tokens = "".join(str(text) for text, span in zip(mapped["text"].values, spans, strict=True) if span == "options")
    assert tokens.startswith("(A):")


def test_maps_have_seconds_and_hertz(listener: vp.AudioLLM, bench: Benchmark, by_frequency: AttributionResult) -> None:
    mapped = by_frequency.map()
    assert mapped.dims == ("mel_hz", "time_s") and mapped.shape[0] == 128
    known = bench[by_frequency.items[0]]
    assert float(mapped["time_s"][-1]) == pytest.approx(known.duration_s, abs=0.06)
    assert np.diff(mapped["mel_hz"]).min() > 0 and float(mapped["mel_hz"][-1]) < 8000
    assert mapped.attrs["units"] == "nats"
    over = by_frequency.over_time(4)
    whole = over[over["task"] == "all"]
    assert whole["value"].sum() == pytest.approx(by_frequency.table["sum"].mean(), abs=1e-6)
    assert len(over) == 4 * 3 and (over["start"] < over["stop"]).all()
    with pytest.raises(RunError, match="allowed"):
        by_frequency.map("intonation")


def test_a_second_call_runs_nothing_and_a_killed_one_goes_on(
    bench: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = vp.load_model("mini-pclm-dpo")
    asked: dict[str, Any] = {"limit": 3, "n_steps": 4, "batch_size": 1, "baseline": "mean", "site": "text[2]"}
    asked |= {"cache": tmp_path, "progress": False, "tolerance": 9.0}
    run, calls = llm.model.forward, 0

    def dies(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == stops:
            raise KeyboardInterrupt
        return run(*args, **kwargs)

    stops = 30
    monkeypatch.setattr(llm.model, "forward", dies)
    with pytest.raises(KeyboardInterrupt):
        attribute(llm, bench, **asked)
    assert len(list(tmp_path.rglob("*.parquet"))) >= 2
    stops, calls = 0, 0
    first = attribute(llm, bench, **asked)
    rest, calls = calls, 0
    whole = attribute(llm, bench, **{**asked, "cache": False})
    assert 0 < rest < calls
    stops, calls = 1, 0
    again = attribute(llm, bench, **asked)
    for name in ("table", "maps", "curves", "summary"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(again, name))
        pd.testing.assert_frame_equal(getattr(first, name), getattr(whole, name))
    with pytest.raises(KeyboardInterrupt):
        attribute(llm, bench, **{**asked, "n_steps": 5})


def test_clips_that_cannot_be_used_are_left_out(listener: vp.AudioLLM, bench: Benchmark, item: Item) -> None:
    short = replace(item, id="short", audio=ArrayAudio(np.zeros(40, dtype=np.float32)))
    few = Benchmark([short, item], name="two", source="test")
    found = attribute(listener, few, method="gradient_x_activation", batch_size=1, **QUICK)
    assert found.items == [item.id] and found.settings["skipped"] == 1
    with pytest.raises(RunError, match="no usable clip"):
        attribute(listener, Benchmark([short], name="one", source="test"), **QUICK)
    alone = replace(item, cell=None)
    with pytest.raises(RunError, match="neutral twin"):
        attribute(listener, Benchmark([alone], name="one", source="test"), baseline="neutral-twin", **QUICK)


def test_the_cost_is_said_first(listener: vp.AudioLLM, bench: Benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    attribute(listener, bench, limit=1, n_steps=4, tolerance=9.0, **{**QUICK, "progress": True})
    said = capsys.readouterr().err
    assert "forwards to do" in said and "of states held at once" in said and "mixed" in said


def test_results_print_keep_and_draw(
    by_frequency: AttributionResult, by_token: AttributionResult, listener: vp.AudioLLM, tmp_path: Path
) -> None:
    import matplotlib.pyplot as plt

    assert "AttributionResult: mini-pclm-dpo, features: integrated gradients" in repr(by_frequency)
    assert "<table" in by_frequency._repr_html_()
    kept = AttributionResult.load(by_frequency.save(tmp_path / "kept"))
    for name in AttributionResult.TABLES:
        pd.testing.assert_frame_equal(getattr(kept, name), getattr(by_frequency, name))
    np.testing.assert_array_equal(kept.map(), by_frequency.map())
    assert kept.settings["weights"] == listener.weights_sha
    assert kept.to_dataframe() is not kept.table
    ax = kept.plot()
    assert ax.get_xlabel() == "time in s" and "Hz" in ax.get_ylabel()
    hertz = [float(tick.get_text().replace(",", "")) for tick in ax.get_yticklabels()]
    places = [round(place) for place in ax.get_yticks()]
    centres = kept.map()["mel_hz"].values
    assert all(abs(centres[place] - hz) < 0.05 * hz + 30 for place, hz in zip(places, hertz, strict=True))
    assert "silent clip" in ax.get_title(loc="left")
    drawn = by_token.plot()
    texts = [text.get_text() for text in drawn.texts]
    assert "intonation" in texts and any(text.startswith(("+", "-")) for text in texts)
    assert by_frequency.plot_over_time().get_xlabel().startswith("part of the clip")
    with pytest.raises(RunError, match="without them"):
        by_frequency.plot_faithfulness()
    with pytest.raises(RunError, match="pitch_comparison"):
        by_frequency.plot_over_time(task="pitch_comparisno")
    plt.close("all")


def test_wrong_questions_get_one_answer(listener: vp.AudioLLM, bench: Benchmark) -> None:
    wrong: Sequence[tuple[dict[str, Any], str]] = (
        ({"site": "gate"}, "gate"), ({"site": "streams[9]"}, "streams"), ({"method": "gradcam"}, "shapley"),
        ({"baseline": "silense"}, "did you mean 'silence'"), ({"baseline": "pad"}, "text.embed"),
        ({"n_steps": 0}, "n_steps=0"), ({"internal_batch_size": 0}, "internal_batch"), ({"window_s": -1}, "window_s"),
        ({"n_samples": 1}, "2 or more"), ({"limit": 0}, "limit=0"), ({"conditions": ["congruent-ish"]}, "no item of"),
        ({"conditions": ["conflict", "netural"]}, "did you mean 'neutral'"), ({"level": 95}, "level=95"),
        ({"batch_size": 0}, "batch_size=0"), ({"random_state": -1}, "random_state=-1"), ({"n_steps": 2.5}, "whole"),
        ({"window_s": float("inf")}, "window_s=inf"),
    )  # fmt: skip
    for asked, match in wrong:
        with pytest.raises(RunError, match=match):
            attribute(listener, bench, **{**QUICK, **asked})


def test_settings_say_all_that_was_asked(
    listener: vp.AudioLLM, bench: Benchmark, item: Item, capsys: pytest.CaptureFixture[str]
) -> None:
    short = replace(item, id="short", audio=ArrayAudio(np.zeros(40, dtype=np.float32)))
    few = Benchmark([short, item], name="two", source="test")
    asked = {**QUICK, "method": "gradient_x_activation", "progress": True}
    found = attribute(listener, few, conditions="conflict", random_state=None, batch_size=2, **asked)
    assert found.settings["conditions"] == ["conflict"] and found.settings["batch_size"] == 2
    assert found.settings["random_state"] >= 0 and found.settings["skipped"] == 1
    # The cost is that of the first clip that can be used.
    said = capsys.readouterr().err
    assert "nan" not in said and " 0 forwards" not in said and "forwards to do" in said
    with pytest.raises(RunError, match="no usable clip"):
        attribute(listener, Benchmark([short], name="one", source="test"), baseline="mean", **asked)
    with pytest.raises(RunError, match="segments=0"):
        found.over_time(0)


def test_silence_that_a_family_hands_on_behind_a_clip_is_not_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "models"))
    import builders
    import family_checks

    built = builders.voxtral()
    llm = vp.AudioLLM(built.model, built.processor, name="tiny")
    known = family_checks.items_of(family_checks.waves_of(1.3))[0]
    wave = known.audio.load()
    half = wave[: len(wave) // 2]
    clips = Clips(llm).encoded({"clip": wave, "half": half})
    for site in ("tower", "projector", "text.embed", "text[0]"):
        f = SiteFunction(llm, known, DEFAULT_PROMPT, site, wave, clips["clip"])
        assert f.grid.audio.sum() * f.grid.step_s == pytest.approx(1.3, abs=f.grid.step_s), site
        other = f.state(half, clips["half"])
        assert other.shape == f.x.shape
        blocks, segments = f.grid.blocks(0.2), f.grid.segments(4)
        assert len(np.unique(segments[f.grid.audio])) == 4
        if site.startswith("text"):
            silent = np.array([span == "silence" for span in f.grid.spans])
            assert silent.sum() > 300 and len(np.unique(blocks[silent])) == len(np.unique(segments[silent])) == 1
            assert f.said.sum() + silent.sum() + f.grid.audio.sum() == len(f.x)
        if site == "text.embed":
            assert torch.equal(other[f.said], f.x[f.said])
        mean = baseline_state(llm, f, "mean", mean=mean_of([(f.grid, f.x)]))
        assert (mean[f.grid.audio] == mean[f.grid.audio][0]).all()


def test_other_families_and_windows_work_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "models"))
    import builders
    import family_checks

    for name, seconds in (("music_flamingo", 3.3), ("voxtral", 1.3), ("qwen2_5_omni", 1.3)):
        built = getattr(builders, name)()
        llm = vp.AudioLLM(built.model, built.processor, name="tiny")
        known = family_checks.items_of(family_checks.waves_of(seconds))[0]
        assert (FEATURES in sites_for(llm)) == (name != "qwen2_5_omni")
        for site in sites_for(llm):
            f, silence = _function(llm, known, site)
            with torch.no_grad():
                both = f(torch.stack([f.x, silence]))
            assert both[0].item() == pytest.approx(f.margin, abs=1e-5), (name, site)
            assert not torch.equal(f.x, silence)


def test_results_are_read_without_captum() -> None:
    code = "import vpanalysis.attribution.gradients, sys; assert 'captum' not in sys.modules; print('ok')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "ok"
