"""More audio tokens: hidden ones change nothing, weights are attention, and every fusion has its control."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import vpanalysis as vp
from vpanalysis.attribution._asking import Asker
from vpanalysis.attribution._fused import Chunk
from vpanalysis.attribution.fusion import FusionResult, fuse_layers
from vpanalysis.benchmark.audio import ArrayAudio
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import RunError

PAIR = ("encoder[1]", "encoder[3]")


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
    chunk = Chunk(model, list(bench), [], DEFAULT_PROMPT, ["tower"], 4, "own", 3)
    assert all(mine is not other for mine, other in zip(chunk.encoded, chunk.donors, strict=True))
    assert {id(clip) for clip in chunk.donors} == {id(clip) for clip in chunk.encoded}
    alone = Chunk(model, [bench[0]], list(bench), DEFAULT_PROMPT, ["tower"], 4, "own", 3)
    assert alone.donors[0].samples == len(bench[1].audio.load())


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
