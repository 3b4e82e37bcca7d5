"""Checkpoints under other people's names: a tiny model, written as some release might have written it.

A `Release` says how the parts are called; `write_release` writes a model's tensors under these names, with a
configuration that states as little as the real one does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from vpanalysis.models.checkpoint.bases import base_of

__all__ = ["NAMINGS", "Release", "placed", "rounded", "tensors_of", "write_release"]


@dataclass
class Release:
    """How a release calls things.

    `folders` is from part to folder ("" for the checkpoint itself); the prefixes stand before the names inside the
    classes; `projector` and `final` before the names in `linears`; `mlp` before those in `layers`.
    """

    folders: Callable[[str], str] = lambda part: part
    llm: str = ""
    tower: str = ""
    final: str = "layers."
    projector: Callable[[int, int], str] = lambda layer, i: "layers."
    linears: tuple[str, ...] = ("0", "2")
    bert: str = "prompt_encoder."
    mlp: str = "mlp."
    layers: tuple[str, ...] = ("0", "2")
    old_norms: bool = False
    buffers: bool = False
    file: str = "model"
    config: dict[str, Any] = field(default_factory=dict)


def tensors_of(model: Any, release: Release) -> dict[tuple[str, str], torch.Tensor]:
    """Return a model's tensors by folder and name."""
    base = base_of(model.config.model_type)
    layers = getattr(model.config, "expose_layers", [])
    found: dict[tuple[str, str], torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(base.tower):
            place = ("sound_tower", release.tower + name.removeprefix(base.tower))
        elif name.startswith(base.language_model):
            place = ("llm", f"{release.llm}model.{name.removeprefix(base.language_model)}")
        elif name.startswith(base.head):
            place = ("llm", release.llm + name)
        elif name.startswith(base.projector):
            place = ("sound_mm_projector", release.final + _linear(base, release, name.removeprefix(base.projector)))
        elif name.startswith(f"{base.gate}prompt_encoder."):
            inner = name.removeprefix(f"{base.gate}prompt_encoder.")
            if release.old_norms and "LayerNorm" in inner:
                inner = inner.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            place = ("sound_pclm", release.bert + inner)
        elif name.startswith(f"{base.gate}mlp."):
            number, leaf = name.removeprefix(f"{base.gate}mlp.").split(".")
            place = ("sound_pclm", f"{release.mlp}{release.layers[int(number) // 2]}.{leaf}")
        elif name.startswith(base.gate):
            place = ("sound_pclm", name.removeprefix(base.gate))
        else:
            number, _, rest = name.removeprefix(f"{base.mixer}projectors.").partition(".")
            layer = layers[int(number)]
            part = f"sound_mid_mm_projector_{layer}"
            place = (part, release.projector(layer, int(number)) + _linear(base, release, rest))
        found[release.folders(place[0]), place[1]] = tensor
    if release.buffers:
        folder = release.folders("sound_pclm")
        found[folder, f"{release.bert}embeddings.position_ids"] = torch.arange(64)[None]
        for i in range(model.config.text_config.num_hidden_layers):
            name = f"{release.llm}model.layers.{i}.self_attn.rotary_emb.inv_freq"
            found[release.folders("llm"), name] = torch.ones(4)
    return found


def _linear(base: Any, release: Release, name: str) -> str:
    layer, leaf = name.split(".")
    return f"{release.linears[base.linears.index(layer)]}.{leaf}"


def placed(
    tensors: Mapping[tuple[str, str], torch.Tensor], folder: Path, *, dtype: torch.dtype | None = None,
    shards: int = 1, index: bool = True, file: str = "model",
) -> None:  # fmt: skip
    """Write tensors to safetensors files, one or several a folder."""
    by_folder: dict[str, dict[str, torch.Tensor]] = {}
    for (place, name), tensor in tensors.items():
        cast = tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
        by_folder.setdefault(place, {})[name] = cast.clone().contiguous()
    for place, members in by_folder.items():
        target = folder / place
        target.mkdir(parents=True, exist_ok=True)
        names = sorted(members)
        parts = [names[i::shards] for i in range(shards)]
        files = [f"{file}-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
        files = files if shards > 1 else [f"{file}.safetensors"]
        for name, part in zip(files, parts, strict=True):
            save_file({key: members[key] for key in part}, target / name, metadata={"format": "pt"})
        if index and shards > 1:
            where = {key: name for name, part in zip(files, parts, strict=True) for key in part}
            (target / f"{file}.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


def write_release(
    model: Any, processor: Any, folder: Path, release: Release, *, dtype: torch.dtype | None = None, shards: int = 1,
    index: bool = True,
) -> Path:  # fmt: skip
    """Write a model as a release, with the config keys that the model card names and no others of the mixer."""
    folder.mkdir(parents=True, exist_ok=True)
    processor.save_pretrained(str(folder))
    placed(tensors_of(model, release), folder, dtype=dtype, shards=shards, index=index, file=release.file)
    config = model.config
    content: dict[str, Any] = {"model_type": "llava_llama", "architectures": ["LlavaLlamaModel"], "resume_path": "/x"}
    split = release.folders("llm") == "llm"
    if split:
        (folder / "llm" / "config.json").write_text(json.dumps(config.text_config.to_dict(), default=str))
        (folder / "sound_tower" / "config.json").write_text(json.dumps(config.audio_config.to_dict(), default=str))
        content |= {"llm_cfg": "./llm", "sound_tower_cfg": "./sound_tower"}
    else:
        base = base_of(config.model_type)
        content |= {
            "model_type": base.stock,
            "text_config": config.text_config.to_dict(),
            "audio_config": config.audio_config.to_dict(),
            "audio_token_id": config.audio_token_id,
        }
    if hasattr(config, "expose_layers"):
        content |= {"expose_layers": config.expose_layers, "use_sound_pclm": True}
    (folder / "config.json").write_text(json.dumps({**content, **release.config}, default=str))
    return folder


def rounded(model: Any, dtype: torch.dtype) -> Any:
    """Return the model with the values that it has after a stay in another type."""
    # Not model.to(dtype): the rotary frequencies are computed, and never on disk.
    model.load_state_dict({name: tensor.to(dtype).to(tensor.dtype) for name, tensor in model.state_dict().items()})
    return model


def _one_folder(_part: str) -> str:
    return ""


NAMINGS: dict[str, Release] = {
    "as the card names the parts": Release(),
    "prefixes of the original code": Release(
        tower="sound_tower.sound_tower.", final="sound_mm_projector.layers.", llm="llm.",
        projector=lambda k, i: f"sound_mid_mm_projector_{k}.layers.", bert="sound_pclm.bert.", mlp="sound_pclm.gate.",
    ),
    "Hugging Face's words": Release(
        tower="model.", bert="text_encoder.model.", mlp="router.net.", linears=("linear_1", "linear_2"), final="",
        projector=lambda k, i: "", layers=("dense", "out_proj"), buffers=True,
    ),
    "old norms behind module.": Release(
        llm="module.", tower="module.encoder.", bert="module.", mlp="module.alpha_head.", layers=("fc1", "fc2"),
        final="module.proj.", projector=lambda k, i: "module.proj.", old_norms=True, linears=("fc1", "fc2"),
    ),
    "the mixer in one folder, counted": Release(
        folders=lambda part: "sound_pclm" if part.startswith("sound_mid") else part,
        projector=lambda k, i: f"mid_projectors.{i}.layers.", mlp="gate_mlp.layers.", bert="bert_model.bert.",
    ),
    "the mixer in one folder, counted from one": Release(
        folders=lambda part: "sound_pclm" if part.startswith("sound_mid") else part,
        projector=lambda k, i: f"mids.p{i + 1}.", mlp="w.", bert="q.", layers=("first", "second"),
    ),
    "flat names": Release(
        folders=lambda part: "sound_pclm" if part.startswith("sound_mid") else part, final="sound_mm_projector_fc",
        projector=lambda k, i: f"mid{k}_fc", linears=("1", "2"), mlp="gate_fc", layers=("1", "2"), bert="",
    ),
    "everything in one folder": Release(
        folders=_one_folder, llm="language_model.", tower="audio_tower.", final="multi_modal_projector.",
        projector=lambda k, i: f"pclm.projectors.layer_{k}.", linears=("linear_1", "linear_2"), bert="pclm.bert.",
        mlp="pclm.gate.",
    ),
    "one folder, original prefixes": Release(
        folders=_one_folder, llm="llm.", tower="sound_tower.sound_tower.", final="sound_mm_projector.layers.",
        projector=lambda k, i: f"sound_mid_mm_projector_{k}.layers.", bert="sound_pclm.encoder.", mlp="sound_pclm.mlp.",
    ),
}  # fmt: skip
"""Plausible ways to name things, by what they are like."""
