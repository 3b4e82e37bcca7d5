"""The recipe with every number brought down to a handful: what is kept, what is made again, what is exported."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from vpanalysis.benchmark.items import Item
from vpanalysis.benchmark.mini import load
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.models.facade import AudioLLM
from vpanalysis.models.loading import load_model
from vpanalysis.organism import CHECKPOINTS, PLANTED, recipe, sizes
from vpanalysis.organism.export import export
from vpanalysis.organism.recipe import STAGES, Workshop, recipe_hash

TINY: dict[str, dict[str, Any]] = {
    "encoder": {"n_pairs": 4, "steps": 2, "batch": 1},
    "states": {"train": 40},
    "letters": {"steps": 1, "batch": 4},
    "symbols": {"clips": 20, "steps": 1, "batch": 4},
    "reader": {"steps": 1, "claim_steps": 1, "late_steps": 1, "batch": 2},
    "base": {"steps": 1, "batch": 2},
    "tune": {"stage1": 1, "stage2": 1, "batch": 4},
    "pclm-dpo": {"steps": 1, "batch": 4},
    "inverter": {"steps": 1, "batch": 4},
}


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Bring down every number and the width, and the validation split to one clip a task."""
    assert TINY.keys() == recipe.NUMBERS.keys()
    assert all(TINY[stage].keys() <= numbers.keys() for stage, numbers in recipe.NUMBERS.items())
    small = {stage: {**numbers, **TINY[stage]} for stage, numbers in recipe.NUMBERS.items()}
    patch.setattr(recipe, "NUMBERS", small)
    patch.setattr(recipe, "load", lambda split, n: load(split=split, n=1, conditions=("conflict",)))
    patch.setattr(sizes, "WIDTH", 32)


def numbers_of(stage: str) -> str:
    return "tune" if stage in ("sft", "final", "static", "pclm") else stage


def follows(stage: str, numbers: str) -> bool:
    """Whether a stage is made with `numbers`, or from a stage that is."""
    return numbers_of(stage) == numbers or any(follows(before, numbers) for before in STAGES[stage])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    shrink(monkeypatch)
    return recipe.NUMBERS


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workshop in which everything was carried out, at the tiny size."""
    folder = tmp_path_factory.mktemp("organism")
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        workshop = Workshop(folder, echo=lambda _line: None)
        for stage in STAGES:
            workshop.run(stage)
    return folder


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stages that were carried out, in order; nothing is computed."""
    stages: list[str] = []
    monkeypatch.setattr(Workshop, "_do", lambda _self, stage, _log: stages.append(stage))
    return stages


def everything(folder: Path) -> None:
    for stage in STAGES:
        Workshop(folder, echo=lambda _line: None).run(stage)


def test_every_stage_leaves_weights_a_log_and_its_numbers(finished: Path, small: dict[str, Any]) -> None:
    for stage in STAGES:
        place = finished / stage
        record = json.loads((place / "finished.json").read_text())
        assert record["recipe"] == recipe_hash(stage)
        assert record["numbers"] == small[numbers_of(stage)]
        assert record["seconds"] >= 0
        assert f"stage {stage} finished" in (place / "log.txt").read_text()
        assert (place / "model.safetensors").is_file() == (stage != "states")
    for stage in (name.removeprefix("mini-") for name in CHECKPOINTS):
        table = json.loads((finished / stage / "finished.json").read_text())["validation"]
        assert set(table["all"]) == {"conf", "ala"}


def test_all_checkpoints_have_the_one_encoder(finished: Path, small: dict[str, Any]) -> None:
    workshop = Workshop(finished)
    encoder = workshop.encoder().state_dict()
    for stage in ("base", "pclm-dpo", "final"):
        tower = workshop.model(stage).model.audio_tower.state_dict()
        assert all(torch.equal(tower[name], value) for name, value in encoder.items())


def test_stages_start_from_their_parents(finished: Path, small: dict[str, Any]) -> None:
    """What a stage leaves alone is what the stage before it left."""
    workshop = Workshop(finished)
    pclm, dpo = (workshop.model(stage).state_dict() for stage in ("pclm", "pclm-dpo"))
    gate = [name for name in pclm if "pclm.gate" in name]
    assert gate and all(torch.equal(pclm[name], dpo[name]) for name in gate)
    assert any(not torch.equal(pclm[name], dpo[name]) for name in pclm)


def test_a_second_call_does_nothing(finished: Path, small: dict[str, Any], done: list[str]) -> None:
    before = {file: file.stat().st_mtime_ns for file in finished.rglob("*") if file.is_file()}
    everything(finished)
    assert done == []
    assert {file: file.stat().st_mtime_ns for file in finished.rglob("*") if file.is_file()} == before


def test_asking_for_a_late_stage_does_what_it_needs(tmp_path: Path, done: list[str]) -> None:
    Workshop(tmp_path, echo=lambda _line: None).run("pclm-dpo")
    assert set(done) == set(STAGES) - {"base", "sft", "final", "static", "inverter"}
    for stage in done:
        assert all(done.index(before) < done.index(stage) for before in STAGES[stage])


@pytest.mark.parametrize("numbers", ["inverter", "pclm-dpo", "tune", "base", "reader", "symbols", "states", "encoder"])
def test_a_changed_number_is_made_again_from_there_on(
    tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch, numbers: str
) -> None:
    everything(tmp_path)
    assert done == list(STAGES)
    done.clear()
    other = copy.deepcopy(recipe.NUMBERS)
    other[numbers]["seed"] += 100
    monkeypatch.setattr(recipe, "NUMBERS", other)
    everything(tmp_path)
    assert done == [stage for stage in STAGES if follows(stage, numbers)]
    assert done and (len(done) < len(STAGES) or numbers == "encoder")


def test_an_interruption_costs_one_stage(tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    carry_out: Callable[..., None] = Workshop._do

    def stopped(self: Workshop, stage: str, log: Any) -> None:
        if stage == "pclm":
            raise KeyboardInterrupt
        carry_out(self, stage, log)

    with monkeypatch.context() as patch:
        patch.setattr(Workshop, "_do", stopped)
        with pytest.raises(KeyboardInterrupt):
            everything(tmp_path)
    assert not (tmp_path / "pclm" / "finished.json").exists()
    before = list(done)
    assert "static" in before and "pclm" not in before
    done.clear()
    everything(tmp_path)
    assert done == [stage for stage in STAGES if stage not in before]


def test_every_number_of_a_stage_is_in_its_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, numbers in recipe.NUMBERS.items():
        stage = "pclm" if name == "tune" else name
        for key in numbers:
            other = copy.deepcopy(recipe.NUMBERS)
            other[name][key] = numbers[key] + 1
            before = recipe_hash(stage)
            with monkeypatch.context() as patch:
                patch.setattr(recipe, "NUMBERS", other)
                assert recipe_hash(stage) != before, (name, key)


def test_training_and_validation_clips_are_one_set(finished: Path, small: dict[str, Any]) -> None:
    clips, train, held = Workshop(finished).clips()
    assert len(train) == 40 and len(held) == 10
    assert len(clips.asked) == len(clips.frames) == len(clips.tasks) == 50
    for rows in (train[[3, 5]], held[[0, 9]]):
        streams, frames = clips.load(rows)
        assert len(streams) == 5 and streams[0].shape[:2] == (2, int(frames.max()))
        assert torch.equal(frames, torch.from_numpy(clips.frames[rows]))
    assert not np.allclose(clips.load(train[:1])[0][0][0, 0], clips.load(held[:1])[0][0][0, 0])


# --- export ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        return export(Workshop(finished), tmp_path_factory.mktemp("package") / "weights")


def test_export_writes_the_split_layout(exported: Path, small: dict[str, Any]) -> None:
    assert {folder.name for folder in exported.iterdir() if folder.is_dir()} == {*CHECKPOINTS, "shared"}
    record = json.loads((exported / "training.json").read_text())
    assert record["note"] == PLANTED
    assert {stage: made["recipe"] for stage, made in record["stages"].items()} == {s: recipe_hash(s) for s in STAGES}
    for name in CHECKPOINTS:
        parts = {folder.name for folder in (exported / name).iterdir() if folder.is_dir()}
        middle = {f"sound_mid_mm_projector_{k}" for k in (1, 2, 3, 4)}
        mixer = set() if name in ("mini-base", "mini-sft", "mini-inverter") else {*middle, "sound_pclm"}
        assert parts == {"llm", "sound_mm_projector", *mixer}
    for file in exported.rglob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            assert {tensors.get_tensor(key).dtype for key in tensors.keys()} == {torch.float16}  # noqa: SIM118


@pytest.mark.parametrize("name", ["mini-base", "mini-final", "mini-static", "mini-pclm-dpo"])
def test_exported_checkpoint_is_the_workshops_model(
    finished: Path, exported: Path, small: dict[str, Any], processor: Any, items: list[Item], name: str
) -> None:
    few = items[:4]
    waves = [item.audio.load() for item in few]
    trained = AudioLLM(Workshop(finished).model(name.removeprefix("mini-")), processor, check=False)
    loaded = load_model(exported / name)
    assert loaded.sites == trained.sites and loaded.stream_inputs == trained.stream_inputs
    ours, theirs = (llm.forward(llm.prepare(few, waves, DEFAULT_PROMPT)) for llm in (trained, loaded))
    # Half precision on disk.
    assert torch.allclose(ours, theirs, atol=5e-3 * float(ours.abs().max()))
    assert not torch.equal(ours, theirs)


def test_exported_checkpoints_share_an_encoder(exported: Path) -> None:
    llms = [load_model(exported / name, check=False) for name in ("mini-base", "mini-static", "mini-inverter")]
    assert len({llm.encoder_sha for llm in llms}) == 1
