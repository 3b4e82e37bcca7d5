"""Patches: writing a state over itself changes nothing, writing everything makes the other run, and places carry."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import vpanalysis as vp
from vpanalysis import stats
from vpanalysis.attribution._hooks import Positions, heads_of, overwritten, watched
from vpanalysis.attribution._patched import Cell, PairBatch
from vpanalysis.attribution._recovery import NOTHING, ONE_GROUP, recovered
from vpanalysis.attribution._spans import aligned, token_spans
from vpanalysis.attribution.patching import PatchResult, patch, twins
from vpanalysis.benchmark.audio import ArrayAudio
from vpanalysis.benchmark.items import Benchmark, Item
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import RunError

TASKS = ["intonation_perception", "pitch_comparison"]


@pytest.fixture(scope="module")
def bench() -> Benchmark:
    whole = vp.load_benchmark("mini", tasks=TASKS)
    return whole.filter(lambda item: item.condition == "conflict" and int(str(item.cell)[-4:]) < 8)


@pytest.fixture(scope="module")
def listener() -> vp.AudioLLM:
    return vp.load_model("mini-pclm-dpo")


@pytest.fixture(scope="module")
def reader() -> vp.AudioLLM:
    return vp.load_model("mini-base")


@pytest.fixture(scope="module")
def voices(listener: vp.AudioLLM, bench: Benchmark) -> PatchResult:
    sites = ["encoder[0]", "encoder[4]", "tower", "streams[*]", "mixed", "text*"]
    return patch(listener, bench, swap="voice", sites=sites, progress=False)


def _same_length(llm: vp.AudioLLM, bench: Benchmark) -> list[tuple[Item, Item]]:
    """Pairs of a conflict item and its voice-swap twin whose clips have as many frames."""
    return [(a, b) for a, b in twins(bench, "voice") if llm.layout([a.audio.load()]) == llm.layout([b.audio.load()])]


def _batch(llm: vp.AudioLLM, pairs: list[tuple[Item, Item]], cells: list[Cell], *, same: bool = False) -> PairBatch:
    base = [b.audio.load() for _, b in pairs]
    source = base if same else [a.audio.load() for a, _ in pairs]
    return PairBatch(llm, [a for a, _ in pairs], base, source, DEFAULT_PROMPT, cells, "frames")


def _places(llm: vp.AudioLLM) -> list[Cell]:
    sites = [site for site in llm.sites if site not in ("gate", "options")]
    return [
        Cell(site, span)
        for site in [*sites, *heads_of(llm, "text[1]")]
        for span in (("audio", "question", "options", "answer", "all") if site.startswith("text") else ("audio",))
    ]


def _hooks(llm: vp.AudioLLM) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in llm.model.modules())


def test_spans_divide_the_prompt(listener: vp.AudioLLM, bench: Benchmark) -> None:
    items = list(bench)[::7]
    batch = listener.prepare(items, [item.audio.load() for item in items], DEFAULT_PROMPT)
    spans = token_spans(listener, batch, DEFAULT_PROMPT)
    parts = torch.stack([spans[name] for name in ("audio", "question", "options", "answer")])
    assert torch.equal(parts.sum(dim=0), batch.inputs["attention_mask"])
    assert torch.equal(spans["all"], batch.inputs["attention_mask"].bool())
    for row, item in enumerate(items):
        assert int(spans["audio"][row].sum()) == sum(batch.frames[row])
        said = {name: listener.tokenizer.decode(batch.inputs["input_ids"][row][spans[name][row]]) for name in spans}
        assert said["options"].replace(" ", "") == DEFAULT_PROMPT.options(item).replace(" ", "")
        assert item.question in said["question"]
        assert said["answer"].replace(" ", "") == "<|im_end|><|im_start|>("
        assert said["last"] == "("
    bare = replace(DEFAULT_PROMPT, option="{letter} {text}")
    with pytest.raises(RunError, match="without its question or options"):
        token_spans(listener, batch, bare)


def test_a_state_written_over_itself_changes_nothing(listener: vp.AudioLLM, bench: Benchmark) -> None:
    pairs = twins(bench, "voice")[:3]
    cells = _places(listener)
    batch = _batch(listener, pairs, cells, same=True)
    for cell in cells:
        assert torch.equal(batch.patched(cell), batch.base_logits), cell
    # Behind the encoder an equal state is not even written; written, it changes nothing either.
    for cell in cells:
        if cell.site.startswith(("streams", "mixed", "text")):
            rows, columns, values, _ = batch._written(cell, batch.base_batch)
            with overwritten(listener, cell.site, rows, columns, values):
                assert torch.equal(listener.forward(batch.base_batch), batch.base_logits), cell


def test_everything_written_is_the_other_run(listener: vp.AudioLLM, bench: Benchmark) -> None:
    pairs = _same_length(listener, bench)[:4]
    assert len(pairs) == 4
    text = [site for site in listener.sites if site.startswith("text")]
    cells = [Cell("encoder.stem", "audio"), Cell("mixed", "audio"), *(Cell(site, "all") for site in text)]
    cells += [Cell("text[3]", "answer"), Cell("text[3]", "last"), Cell("text[3]", "audio")]
    batch = _batch(listener, pairs, cells)
    assert not torch.allclose(batch.base_logits, batch.source_logits, atol=0.1)
    for cell in cells[:-1]:
        torch.testing.assert_close(batch.patched(cell), batch.source_logits, atol=1e-4, rtol=1e-4)
    # The answer is read at the last position: nothing else of the last layer matters.
    assert torch.equal(batch.patched(cells[-1]), batch.base_logits)


def test_all_heads_together_are_the_attention(listener: vp.AudioLLM, bench: Benchmark) -> None:
    batch = _batch(listener, twins(bench, "voice")[:2], [Cell("text[0]", "all")])
    layer, seen_whole = listener.module_of("text[0]"), []
    projection = layer.get_submodule("self_attn.o_proj")
    handle = projection.register_forward_pre_hook(lambda _module, args: seen_whole.append(args[0]))
    with watched(listener, heads_of(listener, "text[0]")) as seen:
        listener.forward(batch.base_batch)
    handle.remove()
    assert len(seen) == 4
    assert torch.equal(torch.cat([states[0] for states in seen.values()], dim=-1), seen_whole[0])
    with pytest.raises(RunError, match="4 heads"), watched(listener, ["text[0].head[4]"]):
        pass


def test_hooks_are_gone_whatever_happens(listener: vp.AudioLLM, bench: Benchmark) -> None:
    before = _hooks(listener)
    batch = _batch(listener, twins(bench, "voice")[:2], [Cell("text[1]", "all"), Cell("encoder[1]", "audio")])
    wrong = torch.zeros(1, dtype=torch.long)
    for site in ("text[1]", "text.embed", "text[1].head[0]", "encoder[1]", "mixed"):
        with pytest.raises(RuntimeError), overwritten(listener, site, wrong, wrong, torch.zeros(1, 3)):
            listener.encode(batch.waves)
            listener.forward(batch.base_batch)
        assert _hooks(listener) == before, site
    assert torch.equal(listener.forward(batch.base_batch), batch.base_logits)


def test_the_planted_streams_carry_the_voice_and_the_tower_does_not(voices: PatchResult) -> None:
    table = voices.table[voices.table["task"] == "all"].set_index(["site", "span"])
    share = table["recovered"]
    assert table["total_low"].min() > 3
    assert share["encoder[0]", "audio"] == pytest.approx(1, abs=0.02)
    assert table.loc[("streams[0]", "audio"), "low"] > 0.3
    for late in ("encoder[4]", "tower", "streams[4]"):
        assert abs(share[late, "audio"]) < 0.02
    assert share["mixed", "audio"] == pytest.approx(share["text.embed", "audio"], abs=1e-4)
    assert share["mixed", "audio"] == pytest.approx(1, abs=0.05)
    assert share["text[3]", "answer"] == pytest.approx(1, abs=1e-4)
    assert share["text.embed", "options"] == 0
    # The answer is gathered at the options before it reaches its place.
    assert share["text[1]", "options"] > 0.5 > share["text[1]", "audio"]
    assert list(voices.table["task"].unique()) == ["all", *dict.fromkeys(voices.pairs["task"])]


def test_a_reader_hands_on_words_and_has_no_voice_to_recover(reader: vp.AudioLLM, bench: Benchmark) -> None:
    places = {"sites": ["projector", "text[-1]"], "spans": ["audio", "answer"], "progress": False}
    words = patch(reader, bench, swap="words", **places)
    row = words.table.set_index(["task", "site", "span"]).loc[("all", "projector", "audio")]
    assert row["recovered"] == pytest.approx(1, abs=0.05)
    assert row["low"] > 0.9
    assert row["total_low"] > 3
    voice = patch(reader, bench, swap="voice", **places)
    mine = voice.table[voice.table["task"] == "all"]
    assert mine["recovered"].isna().all()
    assert set(mine["reason"]) == {NOTHING}
    assert mine["total"].abs().max() < 0.3
    assert NOTHING in repr(voice)


def test_an_inverter_follows_the_words_away_from_the_truth(bench: Benchmark) -> None:
    places = {"sites": "tower", "progress": False, "first_order": False}
    words = patch("mini-inverter", bench, swap="words", **places).table.iloc[0]
    assert words["total_high"] < -3
    assert words["recovered"] == pytest.approx(1, abs=0.05)
    assert patch("mini-inverter", bench, swap="voice", **places).table.iloc[0]["reason"] == NOTHING


def test_noise_is_denoise_with_the_runs_exchanged(listener: vp.AudioLLM, bench: Benchmark) -> None:
    places = {"sites": "mixed", "pairs": 6, "progress": False}
    one = patch(listener, bench, direction="denoise", **places).pairs.set_index("id")
    other = patch(listener, bench, direction="noise", **places).pairs.set_index("id").loc[one.index]
    np.testing.assert_allclose(one["base"], other["source"], atol=1e-3)
    np.testing.assert_allclose(one["source"], other["base"], atol=1e-3)
    # Clean is where the truth is heard.
    assert one["source"].mean() > one["base"].mean() + 3


def test_the_gradient_is_the_limit_of_the_patch(listener: vp.AudioLLM, bench: Benchmark) -> None:
    cells = [cell for cell in _places(listener) if cell.span in ("audio", "all")]
    batch = _batch(listener, twins(bench, "voice")[:3], cells, same=True)
    # States a small step from the base: what a patch moves is then linear in the step.
    noise = torch.Generator().manual_seed(0)
    for site, states in batch.source_states.items():
        batch.source_states[site] = [s + 3e-3 * s.std() * torch.randn(s.shape, generator=noise) for s in states]
    batch.source_clips = [
        replace(clip, streams={**clip.streams, "tower": clip.streams["tower"] * 1.003}) for clip in batch.source_clips
    ]
    both = []
    for cell, linear in batch.first_order(cells):
        exact = batch.margins(batch.base_batch, batch.patched(cell)) - batch.base_margins
        np.testing.assert_allclose(linear, exact, atol=2e-4 + 0.2 * np.abs(exact).max(), err_msg=str(cell))
        both.append((linear, exact))
    linear, exact = np.concatenate(both, axis=1)
    assert np.abs(exact).max() > 0.005
    assert np.corrcoef(linear, exact)[0, 1] > 0.98


def test_first_order_stands_beside_the_map(voices: PatchResult) -> None:
    errors = voices.first_order()
    pairs = voices.pairs[(voices.pairs["site"] == "mixed")]
    row = errors.set_index(["task", "site", "span"]).loc[("all", "mixed", "audio")]
    exact = (pairs["patched"] - pairs["base"]).to_numpy()
    assert row["exact"] == pytest.approx(exact.mean())
    assert row["mean_absolute_error"] == pytest.approx(np.abs(exact - pairs["linear"]).mean())
    assert row["correlation"] == pytest.approx(np.corrcoef(exact, pairs["linear"])[0, 1])
    assert len(errors) == len(voices.table)


def test_any_two_clips_of_any_length(listener: vp.AudioLLM, bench: Benchmark) -> None:
    items = list(bench)
    pairs = [(items[k], items[-1 - k]) for k in range(4)]
    whole = {"sites": ["mixed", "text.embed", "encoder[0]"], "spans": "all", "progress": False, "first_order": False}
    frames = patch(listener, pairs=pairs, align="frames", **whole)
    stretched = patch(listener, pairs=pairs, align="resample", **whole)
    mean = patch(listener, pairs=pairs, align="mean", **whole)
    assert frames.pairs[["base", "source"]].equals(mean.pairs[["base", "source"]])
    tables = [found.pairs["patched"].to_numpy() for found in (frames, stretched, mean)]
    assert min(np.abs(tables[0] - tables[1]).max(), np.abs(tables[1] - tables[2]).max()) > 0.1
    assert set(frames.pairs["id"]) == {clean.id for clean, _ in pairs}
    no_foils = replace(items[0], condition="neutral", said=(), foils=())
    with pytest.raises(RunError, match="without foils"):
        patch(listener, pairs=[(no_foils, items[1])], **whole)


def test_windows_of_a_long_clip_follow_each_other() -> None:
    mine, theirs = Positions.of_windows([(3,), (2, 2)]), Positions.of_windows([(2,), (3, 1)])
    states = torch.arange(2 * 3 * 3, dtype=torch.float32).reshape(3, 3, 2)
    rows, columns, values, items = mine.written_from(theirs, [states[:1], states[1:]], "frames")
    assert rows.tolist() == [0, 0, 1, 1, 2, 2]
    assert columns.tolist() == [0, 1, 0, 1, 0, 1]
    assert items.tolist() == [0, 0, 1, 1, 1, 1]
    expected = torch.cat([states[0, :2], states[1, :3], states[2, :1]])
    assert torch.equal(values, expected)
    wave = torch.sin(torch.linspace(0, 3, 50))[:, None]
    assert torch.equal(aligned(wave, 50, "resample"), wave)
    np.testing.assert_allclose(aligned(wave, 75, "resample")[:, 0], np.sin(np.linspace(0, 3, 75)), atol=0.02)
    assert aligned(wave, 80, "frames").shape == (50, 1)
    assert torch.allclose(aligned(wave, 7, "mean"), wave.mean().expand(7, 1))


def test_the_interval_holds_the_ratios_that_cannot_be_told_from_it() -> None:
    rng = np.random.default_rng(0)
    speaker = np.repeat(np.arange(12), 5)
    total = 3 + rng.normal(size=60) + rng.normal(size=12)[speaker]
    moved = 0.4 * total + rng.normal(size=60)
    found = recovered(moved, total, {"speaker": speaker})
    assert found.value == pytest.approx(moved.mean() / total.mean())
    assert found.low < found.value < found.high
    # At either end the difference is just on the edge of what can be told from zero.
    low = stats.mean(moved - found.low * total, {"speaker": speaker})
    high = stats.mean(moved - found.high * total, {"speaker": speaker})
    assert low.low == pytest.approx(0, abs=1e-9)
    assert high.high == pytest.approx(0, abs=1e-9)
    wider = recovered(moved, total, {"item": np.arange(60), "speaker": speaker})
    item = recovered(moved, total, {"item": np.arange(60)})
    assert wider.high - wider.low == max(found.high - found.low, item.high - item.low)
    assert recovered(moved, total - total.mean(), {"speaker": speaker}).reason == NOTHING
    assert recovered(np.zeros(60), np.zeros(60), {"speaker": speaker}).reason == NOTHING
    assert recovered(moved, total, {"speaker": np.zeros(60)}).reason == ONE_GROUP
    assert np.isnan(recovered(moved, total, {"speaker": np.zeros(60)}).value)


def test_equal_calls_are_equal_and_results_keep(listener: vp.AudioLLM, bench: Benchmark, tmp_path: Path) -> None:
    def ask() -> PatchResult:
        return patch(listener, bench, sites=["tower", "text[1]"], pairs=6, heads=True, progress=False)

    found = ask()
    pd.testing.assert_frame_equal(found.pairs, ask().pairs, check_exact=True)
    assert found.pairs.groupby(["site", "span"]).size().eq(6).all()
    assert found.pairs["task"].value_counts().nunique() == 1
    assert found.sites == ["tower", "text[1]", *(f"text[1].head[{k}]" for k in range(4))]
    kept = PatchResult.load(found.save(tmp_path / "patched"))
    pd.testing.assert_frame_equal(kept.table, found.table)
    pd.testing.assert_frame_equal(kept.pairs, found.pairs)
    assert "PatchResult: mini-pclm-dpo: voice patched, denoise" in repr(kept)
    assert "<table" in kept._repr_html_()
    assert found.to_dataframe() is not found.table


def test_the_map_says_what_the_table_says(voices: PatchResult) -> None:
    ax = voices.plot()
    spans = [label.get_text() for label in ax.get_yticklabels()]
    sites = [label.get_text() for label in ax.get_xticklabels()]
    assert spans == ["audio", "question", "options", "answer"]
    written = {text.get_position(): text.get_text() for text in ax.texts}
    table = voices.table[voices.table["task"] == "all"].set_index(["site", "span"])["recovered"]
    at = sites.index("text[3]"), spans.index("answer")
    assert float(written[at]) == pytest.approx(table["text[3]", "answer"], abs=0.006)
    assert written[sites.index("mixed"), spans.index("options")] == ""
    with pytest.raises(RunError, match="pitch_comparison"):
        voices.plot(task="pitch_comparisno")


def test_unknown_names_are_refused(listener: vp.AudioLLM, bench: Benchmark) -> None:
    for wrong, match in (
        ({"swap": "voices"}, "voice"), ({"direction": "denoising"}, "denoise"), ({"align": "frame"}, "frames"),
        ({"spans": ["anser"]}, "answer"), ({"sites": "gate"}, "gate"), ({"pairs": 0}, "no pairs"),
        ({"sites": "tower", "spans": "options"}, "no site"),
    ):  # fmt: skip
        with pytest.raises(RunError, match=match):
            patch(listener, bench, progress=False, **wrong)
    with pytest.raises(RunError, match="twin"):
        neutral = vp.load_benchmark("mini", tasks=TASKS, limit=6).filter(lambda item: item.condition == "neutral")
        twins(neutral, "voice")


def test_padding_of_a_family_that_hears_silence_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, bench: Benchmark
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "models")
    built = importlib.import_module("builders").voxtral()
    llm = vp.AudioLLM(built.model, built.processor, name="tiny")

    def cut(item: Item, samples: int) -> Item:
        return replace(item, audio=ArrayAudio(item.audio.load()[:samples]))

    pairs = [(cut(one, 21_000), cut(two, 20_000)) for one, two in twins(bench, "voice")[:2]]
    cells = [Cell("tower", "audio"), Cell("text.embed", "audio")]
    batch = _batch(llm, pairs, cells)
    layout = batch.base_batch.layout
    assert layout.kept_frames[0] > layout.frames[0]
    for clip, own, other, frames in zip(batch._with_tower(), batch.base_clips, batch.source_clips, layout.frames,
                                        strict=True):  # fmt: skip
        new, old = clip.streams["tower"], own.streams["tower"]
        assert torch.equal(new[sum(frames) :], old[sum(frames) :])
        assert torch.equal(new[: sum(frames)][:50], other.streams["tower"][:50])
    rows = batch._written(cells[1], batch.base_batch)[0]
    assert [int((rows == row).sum()) for row in range(2)] == [sum(heard) for heard in layout.heard_tokens]
    with pytest.raises(RunError, match="leave this site out"):
        patch(llm, None, pairs=pairs, sites="projector", cache=None, first_order=False, progress=False)
