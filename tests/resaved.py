"""Copies of a bundled checkpoint that mean the same and say less: what a release of unknown conventions looks like.

`resaved` writes `mini-pclm-dpo` as a split checkpoint whose ``config.json`` states nothing of the mixer but
``expose_layers`` and ``use_sound_pclm``, as the model card describes the release. Its weights may be stored under other
conventions than the natural ones; read rightly, it is the same model, bit for bit.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from vpanalysis.models.bundled import weights_folder
from vpanalysis.models.pclm_config import PCLM_FIELDS

ORIGINAL = "mini-pclm-dpo"
_STATED = ("expose_layers", "use_sound_pclm")


def resaved(
    place: Path, *, from_zero: bool = False, final_first: bool = False, first_layer: bool = False, **stated: str
) -> Path:
    """Write a copy and return its folder.

    Parameters
    ----------
    place : Path
        New folder.
    from_zero : bool
        The same numbers now count from 0: a layer that changes nothing is put before the others.
    final_first : bool
        The gate's outputs are stored with the final stream first.
    first_layer : bool
        The numbers themselves count from 0, so that only one way of counting fits.
    **stated
        Conventions that config.json states.
    """
    source = weights_folder(ORIGINAL)
    shutil.copytree(source, place)
    shutil.copytree(weights_folder("shared") / "sound_tower", place / "sound_tower")
    config = json.loads((place / "config.json").read_text())
    kept = {k: v for k, v in config.items() if k not in PCLM_FIELDS or k in _STATED}
    del kept["parts"]
    # The tag of the release; no class of Hugging Face's has it.
    kept["model_type"] = "llava_llama"
    if from_zero:
        kept["audio_config"]["num_hidden_layers"] += 1
        _add_idle_layer(place / "sound_tower")
    if final_first:
        file = place / "sound_pclm" / "model.safetensors"
        gate = load_file(file)
        gate |= {name: gate[name].roll(1, dims=0).contiguous() for name in ("mlp.2.weight", "mlp.2.bias")}
        save_file(gate, file)
    if first_layer:
        for number in kept["expose_layers"]:
            (place / f"sound_mid_mm_projector_{number}").rename(place / f"sound_mid_mm_projector_{number - 1}")
        kept["expose_layers"] = [number - 1 for number in kept["expose_layers"]]
    (place / "config.json").write_text(json.dumps({**kept, **stated}))
    # What BERT is made of is BERT's own configuration, and no convention of the mixer.
    inner = json.loads((place / "sound_pclm" / "config.json").read_text())
    (place / "sound_pclm" / "config.json").write_text(
        json.dumps({"prompt_encoder_config": inner["prompt_encoder_config"]})
    )
    return place


def _add_idle_layer(tower: Path) -> None:
    """Put a layer before the others whose two residual branches are zero, so that it hands on what it gets."""
    file = tower / "model.safetensors"
    old = load_file(file)
    new = {}
    for name, tensor in old.items():
        parts = name.split(".")
        if parts[0] == "layers":
            new[".".join(["layers", str(int(parts[1]) + 1), *parts[2:]])] = tensor
            if parts[1] == "0":
                idle = parts[2] == "fc2" or parts[2:4] == ["self_attn", "out_proj"]
                new[name] = torch.zeros_like(tensor) if idle else tensor.clone()
        else:
            new[name] = tensor
    save_file(new, file)
    config = json.loads((tower / "config.json").read_text())
    config["num_hidden_layers"] += 1
    (tower / "config.json").write_text(json.dumps(config))
