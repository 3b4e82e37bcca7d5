"""The models whose checkpoints are put together from parts: where each part goes, as rows of data.

Why it exists. The mixer stands on two bases, and each base is released with and without it, split into folders or as
one Hugging Face checkpoint. What differs between them is a handful of names; what is done with them is the same.

The idea. A `Base` says under which prefix of the model's state dictionary each part lies, which linear layers a
projector has, and under which names the stock model is published. From it follow the places of the split layout
(`places_of`), and the names and shapes that a checkpoint must provide: those of the model itself, built on the meta
device, where it has shapes and no storage (`expected_of`).

Worked example::

    base = base_of("audioflamingo3_pclm")
    base.linears                       # ("linear_1", "linear_2")
    expected_of(config)                # {"model.audio_tower.conv1.weight": (1280, 128, 3), ...}
    places_of(config)["sound_tower"]   # {"": "model.audio_tower."}
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from vpanalysis.errors import ModelError
from vpanalysis.models.families import family_of

__all__ = ["BASES", "Base", "base_of", "expected_of", "meta_model", "places_of"]


@dataclass(frozen=True)
class Base:
    """A base model of the mixer.

    Parameters
    ----------
    stock, mixed : str
        `model_type` of its configuration, without and with the mixer.
    audio_token : str
        The placeholder of a clip in its prompts.
    linears : tuple of str
        The linear layers of a projector, in the order in which they are applied.
    split : tuple of str
        Their names inside a projector's folder in the split layout.
    stored : tuple of (str, str)
        Prefixes of the stock model's state dictionary, and what they are called in its published files.
    """

    stock: str
    mixed: str
    audio_token: str
    linears: tuple[str, ...]
    split: tuple[str, ...]
    tower: str = "model.audio_tower."
    language_model: str = "model.language_model."
    head: str = "lm_head."
    projector: str = "model.multi_modal_projector."
    mixer: str = "model.pclm."
    stored: tuple[tuple[str, str], ...] = (
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.audio_tower.", "audio_tower."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
    )

    @property
    def gate(self) -> str:
        """Prefix of the gate."""
        return f"{self.mixer}gate."

    def mid_projector(self, stream: int) -> str:
        """Return the prefix of the projector of the `stream`-th exposed layer."""
        return f"{self.mixer}projectors.{stream}."

    def is_mixed(self, config: Any) -> bool:
        """Return whether a configuration is one with the mixer."""
        return bool(config.model_type == self.mixed)


BASES: tuple[Base, ...] = (
    Base("audioflamingo3", "audioflamingo3_pclm", "<sound>", ("linear_1", "linear_2"), ("layers.0", "layers.2")),
    Base("qwen2_audio", "qwen2_audio_pclm", "<|AUDIO|>", ("linear",), ("linear",)),
)
"""The bases, Audio Flamingo 3 first."""


def base_of(model_type: Any) -> Base | None:
    """Return the base of a `model_type`, or None when it is of another kind."""
    return next((base for base in BASES if model_type in (base.stock, base.mixed)), None)


def meta_model(config: Any) -> Any:
    """Return a model of this configuration on the meta device: names and shapes without storage.

    Raises
    ------
    ModelError
        If the configuration is of no family, or its sizes do not fit together.
    """
    model_class = family_of(config.model_type).load_class()
    try:
        with torch.device("meta"):
            return model_class(config)
    except (ArithmeticError, AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"cannot build a {model_class.__name__} of this config", found=said[0]) from error


def expected_of(config: Any) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the state dictionary that a configuration asks for."""
    return {name: tuple(tensor.shape) for name, tensor in meta_model(config).state_dict().items()}


def places_of(config: Any) -> dict[str, dict[str, str]]:
    """Return, per part of the split layout, from name prefixes inside the part to name prefixes in the model.

    Parameters
    ----------
    config : PreTrainedConfig
        Of one of the bases, with or without the mixer.
    """
    base = base_of(config.model_type)
    if base is None:
        family_of(config.model_type)
        raise ValueError(f"{config.model_type} has no split layout")
    places = {
        "llm": {"model.": base.language_model, "lm_head.": base.head},
        "sound_tower": {"": base.tower},
        "sound_mm_projector": _linears(base, base.projector),
    }
    if base.is_mixed(config):
        for stream, layer in enumerate(config.expose_layers):
            places[f"sound_mid_mm_projector_{layer}"] = _linears(base, base.mid_projector(stream))
        places["sound_pclm"] = {"": base.gate}
    return places


def _linears(base: Base, prefix: str) -> dict[str, str]:
    return {f"{inside}.": f"{prefix}{name}." for name, inside in zip(base.linears, base.split, strict=True)}


def within(names: Iterable[str], prefix: str) -> list[str]:
    """Return the names that begin with `prefix`, without it."""
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
