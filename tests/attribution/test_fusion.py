"""More audio tokens: hidden ones change nothing, weights are attention, and every fusion has its control."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

import vpanalysis as vp
from vpanalysis.attribution._asking import Asker
from vpanalysis.attribution._fused import Chunk, _laid, _nearest
from vpanalysis.attribution.fusion import FusionResult, fuse_layers
from vpanalysis.benchmark.audio import ArrayAudio, FileAudio
from vpanalysis.benchmark.items import Benchmark, Item
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import RunError

PAIR = ("encoder[1]", "encoder[3]")


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
def found(model: vp.AudioLLM, bench: Benchmark, folder: Path) -> FusionResult:
    return fuse_layers(model, bench, cache=folder, progress=False)


def _margins(result: FusionResult) -> pd.DataFrame:
    return result.items.pivot(index="id", columns="setting", values="margin")


def test_by_default_the_papers_two_depths_are_appended(found: FusionResult, bench: Benchmark) -> None:
    names = ["encoder[1] + encoder[3] x 1", "encoder[1] + encoder[3] x 10, 1"]
    assert found.settings["fusions"] == [names[0], f"{names[0]}, other clip", names[1], f"{names[1]}, other clip"]
    assert set(found.table["setting"]) == {"unfused", *found.settings["fusions"]}
    assert len(found.items) == 5 * len(bench)


def test_hidden_tokens_change_nothing_where_positions_are_shared(model: vp.AudioLLM, bench: Benchmark) -> None:
    for name in (model, "mini-pclm-dpo"):
        hidden = fuse_layers(name, bench, layers=[PAIR], weights=[0], positions="shared", cache=False, progress=False)
        wide = _margins(hidden)
        for setting in hidden.settings["fusions"]:
            np.testing.assert_allclose(wide[setting], wide["unfused"], atol=1e-4)
    # Where they follow, the distance from clip to question grows, which is a change by itself.
    moved = _margins(
        fuse_layers(model, bench, layers=[PAIR], weights=[0], control=False, cache=False, progress=False)
    )  # fmt: skip
    assert (moved.iloc[:, 0] - moved.iloc[:, 1]).abs().max() > 1e-2


def test_unfused_is_the_model(found: FusionResult, model: vp.AudioLLM, bench: Benchmark) -> None:
    asker = Asker(model, list(bench), DEFAULT_PROMPT)
    own = pd.Series(asker.margins(asker.ask()), index=[item.id for item in asker.items])
    wide = _margins(found)
    np.testing.assert_allclose(wide["unfused"], own.reindex(wide.index), atol=1e-4)


def test_tokens_of_vanishing_weight_give_the_model_back(model: vp.AudioLLM, bench: Benchmark) -> None:
    wide = _margins(
        fuse_layers(model, bench, layers=["tower"], weights=[1e-6, 1], positions="shared", control=False, cache=False,
                    progress=False)
    )  # fmt: skip
    np.testing.assert_allclose(wide["tower x 1e-06"], wide["unfused"], atol=1e-3)
    assert (wide["tower x 1"] - wide["unfused"]).abs().max() > 1e-3


def test_a_weight_multiplies_the_attention_before_it_is_normalised(model: vp.AudioLLM, bench: Benchmark) -> None:
    from vpanalysis.attribution._attended import _weights, eager

    chunk = Chunk(model, list(bench)[:2], [], DEFAULT_PROMPT, ["encoder[1]", "tower"], 1, "own", 0)
    chunk.unfused()
    seen = []
    for weight in (1.0, 7.0):
        with eager(model), _weights(model, ["text[0]"]) as kept:
            chunk._fused(0, ("encoder[1]",), {"encoder[1]": weight}, "follow", "own")
        seen.append(kept["text[0]"][0])
    ids = chunk._usual[0].batch.inputs["input_ids"][0]
    audio = (ids == model._audio_token_id).nonzero().flatten()
    added = torch.zeros(seen[0].shape[-1], dtype=torch.bool)
    added[int(audio[-1]) + 1 : int(audio[-1]) + 1 + len(audio)] = True
    # In the first layer the states are the same, so that the odds differ by the weight alone.
    odds = [(row[:, added].sum(-1) / row[:, ~added].sum(-1)) for row in seen]
    torch.testing.assert_close(odds[1] / odds[0], torch.full_like(odds[0], 7.0), rtol=1e-3, atol=1e-3)


def test_prompts_hold_the_layers_behind_the_last_audio_token(model: vp.AudioLLM, bench: Benchmark) -> None:
    chunk = Chunk(model, list(bench)[:3], [], DEFAULT_PROMPT, [*PAIR, "tower"], 3, "own", 0)
    chunk.unfused()
    with model.capturing(["text.embed"]) as seen:
        chunk._fused(0, PAIR, dict.fromkeys(PAIR, 1.0), "follow", "own")
    whole = seen["text.embed"][0]
    usual = chunk._usual[0]
    for row, clip in enumerate(chunk.encoded):
        ids, mask = usual.batch.inputs["input_ids"][row], usual.batch.inputs["attention_mask"][row].bool()
        before, audio = usual.embeds[row][mask], (ids[mask] == model._audio_token_id).nonzero().flatten()
        count, last = len(audio), int(audio[-1]) + 1
        mine = whole[row][-(len(before) + 2 * count) :]
        torch.testing.assert_close(mine[:last], before[:last])
        torch.testing.assert_close(mine[last + 2 * count :], before[last:])
        projected: Any = model.module_of("projector")(clip.streams["encoder[3]"][None])
        torch.testing.assert_close(mine[last + count : last + 2 * count], projected[0])


def test_nobody_is_his_own_donor(model: vp.AudioLLM, bench: Benchmark) -> None:
    # The same sound under another id, and in a file of other bytes, is the same clip.
    few = list(bench)[:3]
    again = [replace(item, id=f"again {item.id}", audio=ArrayAudio(item.audio.load())) for item in few]
    for seed in range(5):
        chunk = Chunk(model, [*few, *again], [], DEFAULT_PROMPT, ["tower"], 4, "own", seed)
        assert len(chunk.donors) == len(chunk.items) == 6
        for clip, donor in zip(chunk.encoded, chunk.donors, strict=True):
            mine, other = clip.streams["tower"], donor.streams["tower"]
            assert mine.shape != other.shape or not torch.allclose(mine, other, atol=1e-3)


def test_a_donor_is_of_the_nearest_length(model: vp.AudioLLM, bench: Benchmark) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        assert _nearest(["a", "b", "c"], [10, 30, 14], rng) == [2, 2, 0]
        # Its own content is no donor, though it is as long.
        assert _nearest(["a", "a", "b"], [10, 10, 50], rng)[:2] == [2, 2]
    assert {_nearest(["a", "b", "c"], [10, 12, 8], rng)[0] for _ in range(20)} == {1, 2}
    chunk = Chunk(model, list(bench), [], DEFAULT_PROMPT, ["tower"], 4, "own", 3)
    lengths = [len(clip.streams["tower"]) for clip in chunk.encoded]
    for k, donor in enumerate(chunk.donors):
        least = min(abs(other - lengths[k]) for j, other in enumerate(lengths) if j != k)
        assert abs(len(donor.streams["tower"]) - lengths[k]) == least


def test_donors_frames_go_in_as_they_are(model: vp.AudioLLM, bench: Benchmark) -> None:
    frames = torch.tensor([[0.0], [1.0], [2.0]])
    assert _laid(frames, 2).flatten().tolist() == [0, 1]
    assert _laid(frames, 7).flatten().tolist() == [0, 1, 2, 0, 1, 2, 0]
    item = bench[0]
    short = replace(bench[1], audio=ArrayAudio(bench[1].audio.load()[:20_000]))
    chunk = Chunk(model, [item, short], [], DEFAULT_PROMPT, ["encoder[1]", "tower"], 2, "own", 0)
    chunk.unfused()
    with model.capturing(["text.embed"]) as seen:
        chunk._fused(0, ("encoder[1]",), {"encoder[1]": 1.0}, "follow", "other clip")
    for row in range(2):
        ids, mask = chunk._usual[0].batch.inputs["input_ids"][row], chunk._usual[0].batch.inputs["attention_mask"][row]
        audio = (ids[mask.bool()] == model._audio_token_id).nonzero().flatten()
        count, behind = len(audio), int(mask.sum()) - int(audio[-1]) - 1
        added = seen["text.embed"][0][row][-(behind + count) :][:count]
        donor: Any = model.module_of("projector")(chunk.encoded[1 - row].streams["encoder[1]"][None])[0]
        which = torch.arange(count) % len(donor)
        torch.testing.assert_close(added, donor[which])


def _broken(item: Item) -> Item:
    return replace(item, id=f"broken {item.id}", audio=FileAudio(Path("/nowhere.wav")))


def test_a_lone_item_finds_the_first_donor_that_can_be_used(model: vp.AudioLLM, bench: Benchmark) -> None:
    item, other = bench[0], bench[1]
    short = replace(other, id="short", audio=ArrayAudio(np.zeros(3, "float32")))
    spare = [_broken(item), item, replace(item, id="same clip"), short, other]
    alone = Chunk(model, [item], spare, DEFAULT_PROMPT, ["tower"], 4, "own", 3)
    assert alone.donors[0].samples == len(other.audio.load())
    # Of two that can be used the nearer one in length.
    long = replace(other, id="long", audio=ArrayAudio(np.tile(other.audio.load(), 3)))
    assert Chunk(model, [item], [long, *spare], DEFAULT_PROMPT, ["tower"], 4, "own", 3).donors[0].samples == len(
        other.audio.load()
    )


def test_items_without_another_clip_are_left_out_of_the_control_and_counted(
    model: vp.AudioLLM, bench: Benchmark, tmp_path: Path
) -> None:
    item = bench[0]
    for items, usable in (([_broken(item), item], 1), ([item, replace(item, id="asked again")], 2)):
        found = fuse_layers(model, Benchmark(items, name="one clip", source="test"), layers=["tower"], weights=[1],
                            cache=tmp_path, progress=False)  # fmt: skip
        assert found.settings["without_control"] == usable
        assert set(found.table["setting"]) == {"unfused", "tower x 1"}
        assert (found.table["n"] == usable).all()
        assert found.specific.empty
        assert f"want of another clip: {usable}" in repr(found)
        assert len(found.plot().get_yticks()) == 1
    known = fuse_layers(model, bench[:3], layers=["tower"], weights=[1], cache=False, progress=False)
    assert known.settings["without_control"] == 0
    assert set(known.items.groupby("setting")["id"].nunique()) == {3}


def test_clips_that_do_not_fit_the_model_are_left_out_and_counted(model: vp.AudioLLM, bench: Benchmark) -> None:
    short = replace(bench[0], id="short", audio=ArrayAudio(np.zeros(3, "float32")))
    mixed = Benchmark([short, *list(bench)[:2]], name="mixed", source="test")
    found = fuse_layers(model, mixed, layers=["tower"], weights=[1], cache=False, progress=False)
    assert found.settings["skipped"] == 1
    assert "short" not in set(found.items["id"])


def test_settings_tell_fusions_apart(found: FusionResult, model: vp.AudioLLM, bench: Benchmark) -> None:
    assert found.settings["layers"][0] == list(PAIR)
    assert found.settings["attention_weights"][2] == {PAIR[0]: 10.0, PAIR[1]: 1.0}
    close = fuse_layers(model, bench[:2], layers=["tower", "tower"], weights=[1, 1.00000001], control=False,
                        conditions="conflict", random_state=None, cache=False, progress=False)  # fmt: skip
    assert close.settings["fusions"] == ["tower x 1", "tower x 1.00000001"]
    assert close.settings["conditions"] == ["conflict"]
    assert isinstance(close.settings["random_state"], int)


def test_what_a_fusion_has_over_its_control_is_paired(found: FusionResult) -> None:
    wide = _margins(found)
    rows = found.specific.set_index(["setting", "measure"])
    name = found.settings["fusions"][0]
    mean = (wide[name] - wide[f"{name}, other clip"]).mean()
    row = rows.loc[(name, "margin")]
    assert row["difference"] == pytest.approx(mean)
    assert row["low"] < mean < row["high"]
    assert (found.specific["q"] >= found.specific["p"] - 1e-12).all()


def test_qwen2_audio_can_be_fused_and_others_say_why_not(bench: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "models")
    builders = importlib.import_module("builders")
    short = Benchmark(
        [replace(item, audio=ArrayAudio(item.audio.load()[:20_000])) for item in list(bench)[:3]], name="short",
        source="test",
    )  # fmt: skip
    for name, match in (
        ("qwen2_audio", None), ("music_flamingo", "behind the projector alone"), ("voxtral", "not pooled"),
    ):  # fmt: skip
        built = getattr(builders, name)()
        llm = vp.AudioLLM(built.model, built.processor, name=name)
        if match is None:
            wide = _margins(fuse_layers(llm, short, weights=[0, 5], positions="shared", cache=False, progress=False))
            np.testing.assert_allclose(wide["encoder[1] + encoder[2] x 0"], wide["unfused"], atol=1e-4)
            assert (wide["encoder[1] + encoder[2] x 5"] - wide["unfused"]).abs().max() > 1e-3
        else:
            with pytest.raises(RunError, match=match):
                fuse_layers(llm, short, cache=False, progress=False)


def test_fusions_of_something_else_are_refused(model: vp.AudioLLM, bench: Benchmark) -> None:
    for asked, match in (
        ({"layers": ["encoder[9]"]}, "encoder"), ({"layers": [()]}, "named once"), ({"weights": [-1]}, "from 0 on"),
        ({"weights": [math.inf]}, "from 0 on"), ({"weights": [{"tower": 1}]}, "weights of"),
        ({"positions": "folow"}, "follow"), ({"projector": "owm"}, "own"), ({"conditions": ["x"]}, "no item of"),
        ({"layers": []}, "no layers"), ({"weights": []}, "no weights"), ({"level": 95}, "level=95"),
        ({"batch_size": 0}, "batch_size=0"),
    ):  # fmt: skip
        with pytest.raises(RunError, match=match):
            fuse_layers(model, bench, progress=False, **asked)  # type: ignore[arg-type]


def test_fusions_are_kept_and_drawn(
    found: FusionResult, model: vp.AudioLLM, bench: Benchmark, folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert "FusionResult: mini-base" in repr(found)
    assert len(found.plot(measure="margin").get_yticks()) == 2
    with pytest.raises(RunError, match="margn"):
        found.plot(measure="margn")
    pd.testing.assert_frame_equal(FusionResult.load(found.save(tmp_path)).specific, found.specific)
    each = fuse_layers(model, bench[:3], layers="each", weights=[1], control=False, cache=False, progress=False)
    assert len(each.settings["fusions"]) == 6
    assert each.specific.empty
    pd.testing.assert_frame_equal(FusionResult.load(each.save(tmp_path / "each")).table, each.table)

    def never(*_args: Any, **_kwargs: Any) -> Any:
        raise AssertionError("a forward was done")

    monkeypatch.setattr(vp.AudioLLM, "forward", never)
    monkeypatch.setattr(vp.AudioLLM, "encode", never)
    again = fuse_layers(model, bench, cache=folder, progress=False)
    pd.testing.assert_frame_equal(again.table, found.table)
