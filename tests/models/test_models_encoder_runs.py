"""The Run of an encoder alone: states and no answers; it is complete, reopens, is probed, and is not scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders_encoders import (
    RATE,
    clap,
    clap_extractor,
    waveform,
    waveform_extractor,
    whisper,
    whisper_extractor,
)

import vpanalysis as vp
from vpanalysis import cli
from vpanalysis.benchmark.audio import ArrayAudio
from vpanalysis.benchmark.items import Benchmark, Item
from vpanalysis.errors import RunError
from vpanalysis.models.facade import AudioLLM

MODELS: dict[str, tuple[Any, Any]] = {
    "whisper": (whisper, whisper_extractor),
    "hubert": (lambda: waveform("hubert"), waveform_extractor),
    "wavlm": (lambda: waveform("wavlm", "layer"), waveform_extractor),
    "clap": (clap, clap_extractor),
}


def benchmark(count: int = 48, bad: tuple[int, ...] = (5,)) -> Benchmark:
    """Tones: a high or a low voice is the truth, and what the words say is the other on every second item."""
    generator = np.random.default_rng(0)
    items = []
    for i in range(count):
        high = (i // 2) % 2 == 0
        conflict = i % 2 == 0
        truth, other = ("Female", "Male") if high else ("Male", "Female")
        samples = int(RATE * generator.uniform(0.4, 1.6)) if i != 7 else int(2.7 * RATE)
        time = np.arange(samples) / RATE
        wave = np.sin(2 * np.pi * (1800 if high else 300) * time) * generator.uniform(0.1, 0.3)
        wave += 0.01 * generator.standard_normal(samples)
        if i in bad:
            wave = wave[:100] * np.nan
        items.append(
            Item(
                id=f"item-{i:03d}", task_name="gender_prediction", question="What is the speaker's gender?",
                choices=("Female", "Male"), letters=("A", "B"), truth=truth, said=(other if conflict else truth,),
                condition="conflict" if conflict else "congruent", foils=(other,),
                audio=ArrayAudio(wave.astype(np.float32)), cell=f"cell-{i // 2}", speaker=f"speaker-{i // 4}",
            )
        )  # fmt: skip
    return Benchmark(items, name="tones", source="by hand")


@pytest.fixture(params=MODELS)
def llm(request: pytest.FixtureRequest) -> AudioLLM:
    make, extractor = MODELS[request.param]
    return vp.load_model((make(), extractor()), name=f"tiny {request.param}")


def test_a_run_holds_states_and_no_answers(llm: AudioLLM, tmp_path: Path) -> None:
    bench = benchmark()
    run = vp.run(llm, bench, tmp_path / "run", block_size=20, batch_size=6, cache=tmp_path / "cache", progress=False)
    assert run.is_complete
    assert not run.answers
    assert run.sites == list(llm.sites)
    table = run.predictions
    assert list(table["status"][:7]) == ["ok"] * 5 + ["failed", "ok"]
    for column in ("pred_logits", "pred_text_score", "pred_generated", "option_logprobs"):
        assert table[column].isna().all()
    windowed = llm.max_seconds == 2
    assert list(table["windows"][6:9]) == [1, 2 if windowed else 1, 1]
    assert table["seconds"][7] == pytest.approx(2.7)
    assert run.gates is None
    assert run.agreement().empty

    # The states are those of the facade, clip by clip.
    waves = [bench[i].audio.load() for i in (0, 7)]
    for wave, row in zip(waves, (0, 7), strict=True):
        with llm.capturing(llm.sites) as states:
            llm.encode([wave])
        layout = llm.layout([wave])
        for site in llm.sites:
            state = np.concatenate([part.numpy() for part in states[site]])
            lengths = layout.row_frames if site == "tower" else layout.row_positions
            frames = np.concatenate([rows[:n] for rows, n in zip(state, lengths, strict=True)])
            np.testing.assert_allclose(run.states(site)[row], frames.mean(0), atol=1e-4, rtol=1e-4)
            assert run.states(site, "segments").shape == (48, 6, frames.shape[1])
    assert np.isnan(run.states("tower")[5]).all()

    again = vp.open_run(tmp_path / "run")
    np.testing.assert_array_equal(again.states("tower"), run.states("tower"))
    assert not again.answers
    # Asking for it again finds it finished, and the wording of a question makes no other Run of it.
    from vpanalysis.benchmark.prompts import PromptTemplate

    finished = vp.run(
        llm, bench, tmp_path / "run", block_size=20, batch_size=6, cache=tmp_path / "cache", progress=False,
        template=PromptTemplate("quick", user="Quickly: {question} {options}"),
    )  # fmt: skip
    assert finished.manifest["created"] == run.manifest["created"]
    assert finished.manifest["prompt"] is None
    # From the cache alone, the same numbers.
    cached = vp.run(llm, bench, tmp_path / "2", block_size=20, batch_size=6, cache=tmp_path / "cache", progress=False)
    for site in llm.sites:
        np.testing.assert_array_equal(cached.states(site), run.states(site))


def test_widths_that_differ_are_different_variables(tmp_path: Path) -> None:
    llm = vp.load_model((clap(), clap_extractor()), name="tiny clap")
    reducers = {"audio": ["mean", "segments(3)"], "encoder[3]": ["mean", "frames"], "tower": ["mean", "frames"]}
    run = vp.run(llm, benchmark(12), tmp_path / "run", block_size=5, cache=False, progress=False, reducers=reducers)
    data = run.activations
    assert dict(data["encoder_8_mean"].sizes) == {"item": 12, "encoder_8_layer": 2, "encoder_8_feature": 8}
    assert list(data["encoder_8_layer"].values) == ["encoder.stem", "encoder[0]"]
    assert dict(data["encoder_16_segments3"].sizes) == {
        "item": 12, "encoder_16_layer": 1, "segment": 3, "encoder_16_feature": 16
    }  # fmt: skip
    # Means of two sites beside all frames of one on one clock and one on another: layers are named by variable.
    assert dict(data["encoder_64_mean"].sizes) == {"item": 12, "encoder_64_mean_layer": 2, "encoder_64_feature": 64}
    assert {"encoder_64_frames_encoder", "encoder_64_frames_tower"} <= set(data.data_vars)
    for site, width in zip(llm.sites, (8, 8, 16, 32, 64, 64), strict=True):
        assert run.states(site).shape == (12, width)
    frames = run.states("encoder[3]", "frames")
    steps = llm.layout([benchmark(12)[7].audio.load()]).row_positions
    assert frames.shape[0] == 12
    assert frames.shape[1] >= sum(steps)
    assert np.isfinite(frames[7, : sum(steps)]).all()
    assert np.isnan(frames[7, sum(steps) :]).all()
    np.testing.assert_allclose(np.nanmean(frames[7], axis=0), run.states("encoder[3]")[7], atol=1e-4)
    seconds = data["encoder_frame"].values
    assert seconds[0] == pytest.approx(llm.seconds_per_frame[0] / 2)


def info(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What `vpanalysis info` says, by name."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(["info", str(path), "--json"])
    assert ended.value.code == 0
    return {row["what"]: row["value"] for row in json.loads(capsys.readouterr().out)["rows"]}


def test_it_prints_and_is_told_about(llm: AudioLLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vp.run(llm, benchmark(12), tmp_path / "run", cache=False, progress=False)
    run = vp.open_run(tmp_path / "run")
    assert f"{llm.name} on tones, 12 of 12 items" in repr(run)
    assert f"{len(llm.sites)} sites recorded of an encoder that answers nothing" in repr(run)
    assert "nan" not in repr(run)
    assert "<table" in run._repr_html_()
    rows = info(tmp_path / "run", capsys)
    assert rows["sites"] == ", ".join(llm.sites)
    assert rows["model.answers"] == "False"
    assert rows["outcome failed"] == "1"


def test_the_command_line_tells_about_an_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whisper("generation").save_pretrained(tmp_path)
    whisper_extractor().save_pretrained(tmp_path)
    rows = info(tmp_path, capsys)
    assert rows["family"] == "whisper"
    assert rows["answers"] == "no: an encoder alone, to be recorded and probed"
    assert rows["streams of the gate"] == "no gate"


def test_it_is_probed(llm: AudioLLM, tmp_path: Path) -> None:
    run = vp.run(llm, benchmark(), tmp_path / "run", cache=False, progress=False)
    found = vp.probe_layers(run, target="truth", progress=False).to_dataframe()
    assert list(found["site"]) == list(llm.sites)
    # The failed item's twin is left out with it.
    assert set(found["n"]) == {46}
    # High against low tones: even random convolutions and filters keep them apart.
    assert found["accuracy"].max() > 0.9
    claim = vp.probe_layers(run, target="claim", sites="tower", progress=False).to_dataframe()
    assert claim["accuracy"].iloc[0] < 0.75


def test_it_is_probed_on_a_benchmark_without_a_run(llm: AudioLLM, tmp_path: Path) -> None:
    bench = benchmark()
    held = vp.run(llm, bench, tmp_path / "run", cache=False, progress=False)
    plain = vp.probe_layers(held, sites=["tower", "encoder[0]"], progress=False).table
    made = vp.probe_layers((llm, bench), sites=["tower", "encoder[0]"], progress=False)
    pd.testing.assert_series_equal(made.table["accuracy"], plain["accuracy"])
    assert list(made.table["site"]) == list(plain["site"])
    kept = vp.probe_layers(llm, benchmark=bench, out=tmp_path / "kept", sites="tower", progress=False)
    assert vp.open_run(tmp_path / "kept").sites == ["tower"]
    again = vp.probe_layers(tmp_path / "kept", progress=False)
    pd.testing.assert_frame_equal(again.table, kept.table)
    assert kept.save().parent == tmp_path / "kept" / "results"


def test_it_is_not_scored_nor_asked_for_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    llm = vp.load_model((waveform("hubert"), waveform_extractor()), name="ear")
    bench = benchmark(8)
    with pytest.raises(
        RunError, match=r"cannot make a Run of 'ear' with replies: found an encoder that answers nothing"
    ):
        vp.run(llm, bench, tmp_path / "run", generate=True, progress=False)
    with pytest.raises(RunError, match=r"cannot make a Run of 'ear' with text scores"):
        vp.run(llm, bench, tmp_path / "run", text_scores=True, progress=False)
    assert not (tmp_path / "run").exists()
    run = vp.run(llm, bench, tmp_path / "run", cache=False, progress=False)
    said = "cannot score the Run 'run': found an encoder that answers nothing; probe it with vpanalysis.probe_layers"
    for asked in (lambda: vp.score(run), lambda: vp.score(str(run.path)), lambda: vp.compare(run, run)):
        with pytest.raises(RunError, match=said):
            asked()
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(["score", str(run.path)])
    assert ended.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())
    for asked in (run.letter_bias, lambda: run.predictions_jsonl(tmp_path / "out.jsonl")):
        with pytest.raises(RunError, match="found a Run without predictions"):
            asked()
    assert not (tmp_path / "out.jsonl").exists()


def test_a_clip_that_an_encoder_cannot_take_fails_alone(tmp_path: Path) -> None:
    llm = vp.load_model((waveform("hubert"), waveform_extractor()), name="ear")
    lengths = {0: 399, 1: 400, 2: 60 * RATE, 3: 60 * RATE + 1}
    items = [item for item in benchmark(8, bad=())]
    import dataclasses

    for i, samples in lengths.items():
        wave = 0.1 * np.random.default_rng(i).standard_normal(samples).astype(np.float32)
        items[i] = dataclasses.replace(items[i], audio=ArrayAudio(wave))
    run = vp.run(
        llm, Benchmark(items, name="lengths", source="by hand"), tmp_path / "run", cache=False, progress=False,
        sites="tower", reducers=["mean", "frames"],
    )  # fmt: skip
    assert list(run.predictions["status"]) == ["failed", "ok", "ok", "failed"] + ["ok"] * 4
    short, long = run.predictions["reason"][0], run.predictions["reason"][3]
    assert short.startswith(f"cannot use the audio {items[0].audio.describe()!r}: found a clip too short")
    assert "found 60.0 s; allowed: at most 60 s" in long
    frames = run.states("tower", "frames")
    assert np.isfinite(frames[2, :2999]).all()
    assert np.isfinite(frames[1, 0]).all() and np.isnan(frames[1, 1:]).all()
