"""One loaded model, asked under every reading: each gives what a model built that way would give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from vpanalysis._calibration_scores import readings_of, score_readings
from vpanalysis.benchmark.items import Item
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.models._live import live_conventions, reading_as, set_conventions
from vpanalysis.models.conventions import CONVENTIONS
from vpanalysis.models.facade import AudioLLM

POOLER = {"prompt_encoder_pooler": True}


@pytest.fixture
def llm(tiny: Any) -> AudioLLM:
    made: AudioLLM = tiny.llm(tiny.pclm(3, **POOLER))
    return made


def scores_of(llm: AudioLLM, items: list[Item], waves: list[Any]) -> np.ndarray[Any, Any]:
    batch = llm.prepare(items, waves, DEFAULT_PROMPT)
    rows = llm.option_logprobs(batch, llm.forward(batch))
    return np.array([float(row[i.choices.index(i.truth)]) for row, i in zip(rows, items, strict=True)])


def test_every_reading_is_the_model_built_that_way(
    tiny: Any, llm: AudioLLM, items: list[Item], waves: list[Any]
) -> None:
    """Clips of one window and of two; every value of every convention occurs, alone and among others."""
    readings = readings_of(llm, live_conventions(llm), CONVENTIONS, items, DEFAULT_PROMPT)
    assert len(readings.every) == 2 * 2 * 2 * 3 * 3 and not readings.unfit
    table = score_readings(llm, items, readings.every, DEFAULT_PROMPT, batch_size=2, progress=False)
    assert table.items == tuple(items) and not table.failed
    for column in range(0, len(readings.every), 5):
        reading = readings.every[column]
        built = tiny.llm(tiny.pclm(3, **POOLER, **reading))
        np.testing.assert_allclose(
            table.loglik[:, column], scores_of(built, items, waves), atol=2e-4, err_msg=str(reading)
        )
    # They differ, so the comparison means something.
    assert len(np.unique(table.loglik.mean(axis=0).round(6))) > 0.9 * len(readings.every)


def test_qwen2_audio_is_asked_the_same_way(items: list[Item], waves: list[Any]) -> None:
    """The same mixer on another base, whose tower takes whole windows only; a clip that is longer than one fails."""
    from builders_qwen2_audio import build_qwen2_audio

    tiny = build_qwen2_audio()
    llm = AudioLLM(tiny.pclm(3, **POOLER), tiny.pclm_processor(), name="tiny")
    readings = readings_of(llm, live_conventions(llm), CONVENTIONS, items, DEFAULT_PROMPT).every
    table = score_readings(llm, items, readings, DEFAULT_PROMPT, batch_size=2, progress=False)
    assert list(table.failed) == [items[2].id] and "at most 2 s" in table.failed[items[2].id]
    kept = [0, 1, 3, 4]
    for column in range(0, len(readings), 17):
        built = AudioLLM(tiny.pclm(3, **POOLER, **readings[column]), tiny.pclm_processor(), name="tiny")
        wanted = scores_of(built, [items[i] for i in kept], [waves[i] for i in kept])
        np.testing.assert_allclose(table.loglik[:, column], wanted, atol=2e-4)
    assert len(np.unique(table.loglik.mean(axis=0).round(6))) > 0.9 * len(readings)


def test_the_gates_entropy_is_the_mean_over_items(llm: AudioLLM, items: list[Item]) -> None:
    reading = live_conventions(llm)
    table = score_readings(llm, items, [reading], DEFAULT_PROMPT, batch_size=4, progress=False)
    with llm.capturing(["gate"]) as seen:
        llm.forward(llm.prepare(items, [item.audio.load() for item in items], DEFAULT_PROMPT))
    weights = seen["gate"][0]
    assert table.entropy[0] == pytest.approx(float(-(weights * weights.log()).sum(-1).mean()), abs=1e-4)


def test_the_order_is_the_reference_first(llm: AudioLLM, items: list[Item]) -> None:
    reference = {**live_conventions(llm), "gate_text": "chat"}
    readings = readings_of(llm, reference, {"gate_text": CONVENTIONS["gate_text"]}, items, DEFAULT_PROMPT)
    assert readings.every[0] == reference and len(readings.every) == 3
    assert all(one["mid_pool"] == reference["mid_pool"] for one in readings.every)


def test_values_that_cannot_be_are_left_out(tiny: Any, items: list[Item]) -> None:
    llm = tiny.llm(tiny.pclm(3, expose_layers=[1, 4]))
    readings = readings_of(llm, live_conventions(llm), CONVENTIONS, items, DEFAULT_PROMPT)
    assert set(readings.unfit) == {"layer_index_convention=block_output_0based", "bert_pooling=pooler"}
    assert readings.values["layer_index_convention"] == ("block_output_1based",)


def test_the_model_is_as_before(llm: AudioLLM, items: list[Item], waves: list[Any]) -> None:
    before, sha = live_conventions(llm), llm.encoder_sha
    logits = llm.forward(llm.prepare(items, waves, DEFAULT_PROMPT))
    other = {name: values[1] for name, values in CONVENTIONS.items()}
    with pytest.raises(ZeroDivisionError), reading_as(llm, other):
        assert live_conventions(llm) == other and llm.encoder_sha != sha
        raise ZeroDivisionError
    assert live_conventions(llm) == before and llm.encoder_sha == sha
    assert torch.equal(llm.forward(llm.prepare(items, waves, DEFAULT_PROMPT)), logits)
    set_conventions(llm, {"layer_index_convention": "block_output_0based"})
    assert llm.streams == llm.stream_inputs == ("encoder[1]", "encoder[3]", "tower")
