"""Parameters of the architecture figure are those of the loaded model; full-size models are counted without storage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from behaviour import drawn, texts
from layered import base, mixed
from safetensors import safe_open

from vpanalysis.figures import LackingError, figure_data
from vpanalysis.figures.architecture import _parts
from vpanalysis.models.bundled import weights_folder
from vpanalysis.models.pclm import AudioFlamingo3PCLMConfig


@pytest.fixture(scope="module")
def data():
    return figure_data("architecture", [base(), mixed()])


def stored(folder: str) -> int:
    """Numbers in the files of one part of the checkpoint."""
    total = 0
    place = weights_folder("mini-pclm-dpo") / folder
    # The tower is the same for all bundled checkpoints and lies beside them.
    place = place if place.is_dir() else weights_folder("shared") / folder
    for file in place.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                size = 1
                for length in tensors.get_slice(name).get_shape():
                    size *= length
                total += size
    return total


def test_parameters_are_those_of_the_files(data) -> None:
    count = data.set_index("part")["parameters"]
    assert count["encoder"] == stored("sound_tower")
    assert count["language model"] == stored("llm")
    assert count["tower"] == stored("sound_mm_projector")
    for number in range(4):
        assert count[f"encoder[{number}]"] == stored(f"sound_mid_mm_projector_{number + 1}")
    assert count["prompt encoder"] + count["gate MLP"] == stored("sound_pclm")
    parts = data[data["group"] != "sum"]
    assert parts["parameters"].sum() == count["whole model"]
    assert data.set_index("part")["share"]["added by the mixer"] == pytest.approx(
        (stored("sound_pclm") + sum(stored(f"sound_mid_mm_projector_{n}") for n in range(1, 5))) / count["whole model"]
    )


def test_shapes_and_taps(data) -> None:
    rows = data.set_index("part")
    assert rows["shape"]["encoder"] == "150 x 128" and rows["shape"]["mixture"] == "75 x 128"
    assert rows["detail"]["encoder"] == "encoder[0] encoder[1] encoder[2] encoder[3] tower"
    assert set(rows.index[rows["added"]]) >= {"encoder[0]", "prompt encoder", "gate MLP"} and not rows["added"]["tower"]
    assert (data["note"] == "").all()


def test_the_picture_holds_the_numbers() -> None:
    said = " ".join(texts(drawn("architecture", mixed())))
    assert "1.31 M" in said and "223,045 of 2,412,229 parameters (9.2 %)" in said


@pytest.mark.parametrize("style", ["slides", "web"])
def test_type_grows_with_the_page(style: str) -> None:
    drawn("architecture", mixed(), style)


def test_a_model_of_full_size_needs_no_storage() -> None:
    config = AudioFlamingo3PCLMConfig()
    run = SimpleNamespace(manifest={"model": {"streams": list(config.stream_names)}})
    rows = {row["part"]: row for row in _parts(run, config)}
    assert rows["encoder"]["layers"] == 32 and rows["encoder"]["shape"] == "1500 x 1280"
    assert rows["encoder[4]"]["shape"].startswith("750 x ") and rows["whole model"]["parameters"] > 5e8
    audio, text = config.audio_config.hidden_size, config.text_config.hidden_size
    assert rows["tower"]["parameters"] == audio * text + text + text * text + text
    assert 0 < rows["added by the mixer"]["share"] < 0.1


def test_a_run_that_was_read_otherwise_is_said_and_a_missing_checkpoint_refused(tmp_path: Path) -> None:
    folder = tmp_path / "mini-pclm-dpo"
    shutil.copytree(mixed(), folder)
    made = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    made["model"]["config"] = "0" * 64
    (folder / "manifest.json").write_text(json.dumps(made), encoding="utf-8")
    assert figure_data("architecture", folder)["note"].str.contains("another configuration").all()
    made["model"]["source"] = "nobody/nothing-of-this-name"
    (folder / "manifest.json").write_text(json.dumps(made), encoding="utf-8")
    with pytest.raises(LackingError, match="no checkpoint on this disk"):
        figure_data("architecture", folder)


def test_refuses_without_a_mixer() -> None:
    with pytest.raises(LackingError, match="none of a model with a layer mixer"):
        figure_data("architecture", base())
