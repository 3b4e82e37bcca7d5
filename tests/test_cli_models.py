"""The verbs `verify` and `convert` on the command line."""

from __future__ import annotations

import json
import shutil

import pytest

from vpanalysis import cli
from vpanalysis.models.bundled import weights_folder


def called(capsys, *words):
    with pytest.raises(SystemExit) as done:
        cli.main([str(word) for word in words])
    printed = capsys.readouterr()
    return done.value.code, printed.out, printed.err


@pytest.fixture
def broken(tmp_path):
    shutil.copytree(weights_folder("shared"), tmp_path / "shared")
    folder = tmp_path / "mini-static"
    shutil.copytree(weights_folder("mini-static"), folder)
    file = folder / "llm" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    return folder


@pytest.mark.parametrize("verb", ["verify", "convert"])
def test_help_has_examples(capsys, verb):
    code, out, _ = called(capsys, verb, "--help")
    assert code == 0 and "Examples:" in out and f"vpanalysis {verb} ./AF3_PCLM_DPO" in out


def test_verify_prints_parts_and_exits_with_zero(capsys):
    code, out, err = called(capsys, "verify", "mini")
    assert code == 0 and not err
    assert "projector of layer 4" in out and out.rstrip().endswith("nothing assumed")
    assert "llm/lm_head.weight" in out and "model.layers.2.mlp" not in out


def test_verify_shows_every_tensor_when_asked(capsys):
    code, out, _ = called(capsys, "verify", "mini-static", "--tensors")
    assert code == 0 and "model.language_model.layers.2.mlp.up_proj.weight" in out


def test_verify_as_json_and_to_a_file(capsys, tmp_path):
    from vpanalysis.models import Verification

    code, out, _ = called(capsys, "verify", "mini", "--json", "--out", tmp_path / "kept.json")
    record = json.loads(out)
    assert code == 0 and record["ok"] is True and record["problems"] == [] and record["layout"] == "split layout"
    assert {row["role"] for row in record["rows"]} >= {"encoder", "gate MLP"} and "tensors" in record["rows"][0]
    assert Verification.load(tmp_path / "kept.json").ok
    code, out, _ = called(capsys, "verify", "mini", "--json", "--tensors")
    assert len(json.loads(out)["rows"]) == 209


def test_verify_says_why_not_in_one_sentence(capsys, broken):
    code, out, err = called(capsys, "verify", broken)
    assert code == 2 and "would not load" in out
    assert err.startswith(f"vpanalysis: {broken} would not load: 'llm/model.safetensors' is truncated")
    assert err.count("\n") == 1
    code, out, err = called(capsys, "verify", broken, "--json")
    assert code == 2 and json.loads(out)["ok"] is False and err.count("\n") == 1


def test_verify_takes_fields_and_names(capsys, tmp_path):
    code, _, _ = called(capsys, "verify", "mini", "--set", "mid_pool=avg", "--set", "gate_mlp_dims=[64]")
    assert code == 0
    code, _, err = called(capsys, "verify", "mini", "--set", "mid_pol=avg")
    assert code == 2 and "did you mean 'mid_pool'" in err
    code, _, err = called(capsys, "verify", "mini", "--set", "mid_pool")
    assert code == 2 and "two words joined by '='" in err
    code, _, err = called(capsys, "verify", "mini", "--rename", "sound_pclm/mlp.=other.")
    assert code == 0 and not err


def test_verify_of_nothing(capsys):
    code, out, err = called(capsys, "verify", "./nowhere")
    assert code == 2 and not out and "no such folder" in err


def test_convert_both_ways(capsys, tmp_path):
    code, out, err = called(capsys, "convert", "mini-static", tmp_path / "hf", "--max-shard-size", "2MB")
    assert code == 0 and not err and "model-00001-of-00003.safetensors" in out
    code, out, _ = called(capsys, "convert", tmp_path / "hf", tmp_path / "split", "--dtype", "float32", "--json")
    record = json.loads(out)
    assert code == 0 and record["path"] == str(tmp_path / "split")
    assert {"llm/model.safetensors", "sound_pclm/model.safetensors"} <= {row["file"] for row in record["rows"]}
    code, out, err = called(capsys, "verify", tmp_path / "split")
    assert code == 0 and "F32" in out


def test_convert_refuses_in_one_sentence(capsys, broken, tmp_path):
    code, out, err = called(capsys, "convert", broken, tmp_path / "hf")
    assert code == 2 and not out and "is truncated" in err and err.count("\n") == 1
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    code, _, err = called(capsys, "convert", "mini", tmp_path / "full")
    assert code == 2 and "a folder that is not empty" in err
