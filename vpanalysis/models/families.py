"""A family of models is a row of data: where its parts live and how it counts frames.

Why it exists. Analyses speak of ``encoder[3]`` and ``text[-1]``; models speak of
``model.audio_tower.layers.3``. The translation is the only thing that differs between models of the same kind, so it
is a table, and adding a model is adding a row.

The idea. A `Family` holds module paths and the shape of the audio stem (kernel, stride, padding of each convolution
and of the pooling). Frame counts and seconds per frame follow from these and from the feature extractor's hop. `check`
compares a row with a loaded model, so a row that does not fit fails at load and not in a figure.

Worked example::

    family = family_of("audioflamingo3")
    family.encoder_frames(3000)                      # 1500 positions for 30 s
    family.tower_frames(3000)                        # 750 audio tokens
    family.seconds_per_frame(feature_extractor)      # (0.02, 0.04)
    family.find(model, family.encoder_layers)        # the ModuleList
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from torch import nn

from vpanalysis.errors import ModelError

__all__ = ["FAMILIES", "Family", "family_of", "register_family"]

Filter = tuple[int, int, int]
"""Kernel, stride and padding of a convolution or pooling, in frames."""


@dataclass(frozen=True)
class Family:
    """Where the parts of a kind of audio language model live.

    Parameters
    ----------
    name : str
        The key, equal to the `model_type` of its config.
    title : str
        What to call it in text.
    model_class : str
        ``"module:Class"`` with `from_pretrained`.
    tower : str
        Path of the audio encoder; its output is the site ``tower``.
    encoder_layers, text_layers : str
        Paths of the two lists of layers.
    projector : str
        Path of what turns the tower's output into audio tokens.
    language_model, text_embed, text_norm, head : str
        Paths of the language model, its token embedding, its final norm, and the head.
    mixer, gate, stream_projectors : str, optional
        Paths of a layer mixer, of its gate, and of its projectors of exposed layers (the last stream's is `projector`).
    audio_token_attr : str
        Name of the config field with the id of the audio placeholder.
    stem : tuple of (str, (int, int, int))
        Convolutions of the stem: path inside the tower; kernel, stride, padding.
    pool : (str, (int, int, int))
        The pooling behind the last layer, likewise.
    """

    name: str
    title: str
    model_class: str
    tower: str = "model.audio_tower"
    encoder_layers: str = "model.audio_tower.layers"
    projector: str = "model.multi_modal_projector"
    language_model: str = "model.language_model"
    text_embed: str = "model.language_model.embed_tokens"
    text_layers: str = "model.language_model.layers"
    text_norm: str = "model.language_model.norm"
    head: str = "lm_head"
    mixer: str | None = None
    gate: str | None = None
    stream_projectors: str | None = None
    audio_token_attr: str = "audio_token_id"
    stem: tuple[tuple[str, Filter], ...] = (("conv1", (3, 1, 1)), ("conv2", (3, 2, 1)))
    pool: tuple[str, Filter] = ("avg_pooler", (2, 2, 0))

    def encoder_frames(self, mel_frames: int) -> int:
        """Return how many encoder positions `mel_frames` valid mel frames give."""
        for _, filters in self.stem:
            mel_frames = _filtered(mel_frames, filters)
        return mel_frames

    def tower_frames(self, mel_frames: int) -> int:
        """Return how many frames the tower hands on, one per audio token."""
        return max(0, _filtered(self.encoder_frames(mel_frames), self.pool[1]))

    def seconds_per_frame(self, feature_extractor: Any) -> tuple[float, float]:
        """Return the step in seconds between encoder positions and between tower frames.

        Parameters
        ----------
        feature_extractor : WhisperFeatureExtractor
            Its hop and sampling rate.
        """
        step = feature_extractor.hop_length / feature_extractor.sampling_rate
        for _, (_, stride, _) in self.stem:
            step *= stride
        return step, step * self.pool[1][1]

    def find(self, model: nn.Module, path: str) -> nn.Module:
        """Return the module at `path`.

        Raises
        ------
        ModelError
            If the model has no such module.
        """
        try:
            return model.get_submodule(path)
        except AttributeError as error:
            raise ModelError(
                f"cannot use {type(model).__name__} as the family {self.name!r}",
                found=f"no module {path!r}",
                fix="add a row for this model with vpanalysis.models.families.register_family",
            ) from error

    def check(self, model: nn.Module) -> None:
        """Compare this row with a model: every path must exist, every filter must be as written.

        Raises
        ------
        ModelError
            If something differs.
        """
        paths = [self.encoder_layers, self.projector, self.text_embed, self.text_layers, self.text_norm, self.head]
        paths += [p for p in (self.mixer, self.gate, self.stream_projectors) if p is not None]
        for path in paths:
            self.find(model, path)
        for name, wanted in (*self.stem, self.pool):
            module = self.find(model, f"{self.tower}.{name}")
            found = tuple(_first(getattr(module, field)) for field in ("kernel_size", "stride", "padding"))
            if found != wanted:
                raise ModelError(
                    f"cannot use {type(model).__name__} as the family {self.name!r}",
                    found=f"{name} with kernel, stride, padding {found}",
                    allowed=str(wanted),
                )

    def load_class(self) -> Any:
        """Return the model class."""
        module, name = self.model_class.split(":")
        return getattr(import_module(module), name)


def _filtered(frames: int, filters: Filter) -> int:
    kernel, stride, padding = filters
    return (frames + 2 * padding - kernel) // stride + 1


def _first(value: Any) -> int:
    return cast(int, value[0] if isinstance(value, tuple) else value)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="audioflamingo3",
            title="Audio Flamingo 3",
            model_class="transformers:AudioFlamingo3ForConditionalGeneration",
        ),
        Family(
            name="audioflamingo3_pclm",
            title="Audio Flamingo 3 + PCLM",
            model_class="vpanalysis.models.pclm:AudioFlamingo3PCLMForConditionalGeneration",
            mixer="model.pclm",
            gate="model.pclm.gate",
            stream_projectors="model.pclm.projectors",
        ),
    )
}
"""The known families, by the `model_type` of their configs."""


def register_family(family: Family) -> None:
    """Add a row, or replace the one of the same name."""
    FAMILIES[family.name] = family


def family_of(model_type: str) -> Family:
    """Return the family of a config's `model_type`.

    Raises
    ------
    ModelError
        If there is none.
    """
    if model_type not in FAMILIES:
        raise ModelError(
            "cannot tell where the parts of this model are",
            found=f"model_type {model_type!r}",
            allowed=sorted(FAMILIES),
            word=model_type,
            fix="add a row with vpanalysis.models.families.register_family",
        )
    return FAMILIES[model_type]
