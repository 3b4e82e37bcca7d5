"""A family of models is a row of data: where its parts live and how it counts frames (the rows: ``families.py``).

Why it exists. Analyses speak of ``encoder[3]`` and ``text[-1]``; models speak of
``model.audio_tower.layers.3``. The translation is the only thing that differs between models of the same kind, so it
is a table, and adding a model is adding a row.

The idea. A `Family` holds module paths and the shape of the audio stem (kernel, stride, padding of each convolution
and of the pooling). Frame counts and seconds per frame follow from these and from the feature extractor's hop. `check`
compares a row with a loaded model, so a row that does not fit fails at load and not in a figure.

Worked example::

    family = FAMILIES["audioflamingo3"]
    family.encoder_frames(3000)                      # 1500 positions for 30 s
    family.tower_frames(3000)                        # 750 audio tokens
    family.seconds_per_frame(feature_extractor)      # (0.02, 0.04)
    family.find(model, family.encoder_layers)        # the ModuleList
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, cast

from torch import nn

from vpanalysis.errors import ModelError

__all__ = ["Family", "Filter"]

Filter = tuple[int, int, int]
"""Kernel, stride and padding of a convolution or pooling, in frames."""


@dataclass(frozen=True)
class Family:
    """Where the parts of a kind of audio model live, and how it counts.

    Every path is relative to the loaded model and may be None where the family has no such part: an encoder alone has
    no language model.

    Parameters
    ----------
    name : str
        The key, equal to the `model_type` of its config.
    title : str
        What to call it in text.
    model_class : str
        ``"module:Class"`` with `from_pretrained`.
    tower : str
        Path of the audio encoder; what it hands on is the site ``tower``.
    encoder_layers : str
        Path of its list of layers.
    tower_output : str, optional
        Path of the module whose output is the site ``tower``, where the tower's own output has already gone through the
        projector.
    projector : str, optional
        Path of what turns the tower's output into audio tokens.
    language_model, text_embed, text_layers, text_norm, head : str, optional
        Paths of the language model, its token embedding, its list of layers, its final norm, and the head.
    mixer, gate, stream_projectors : str, optional
        Paths of a layer mixer, of its gate, and of its projectors of exposed layers (the last stream's is `projector`).
    audio_token_attr : str
        Name of the config field with the id of the audio placeholder.
    frontend : str
        How clips reach the tower: a key of `vpanalysis.models.frontends.FRONTENDS`, or ``"module:Class"`` of a
        `Frontend`.
    stem : tuple of (str, (int, int, int))
        Convolutions of the stem: path inside the tower; kernel, stride, padding.
    pool : (str, (int, int, int)), optional
        The pooling behind the last layer, likewise.
    positions : str, optional
        Path of the table of positions inside the tower. Where there is one and the tower's forward takes its length
        from it, the table can be sliced, and silence behind a clip need not be encoded (see `trims`).
    trims : bool
        Whether the tower's own forward runs on fewer frames than its window, given a sliced table of positions, and
        attends to valid frames only.
    keeps_logits : bool
        Whether the model's forward takes `logits_to_keep`. Where it does not, the head is given the last positions.
    counts_positions : bool
        Whether the model's forward wants no `position_ids`, because it counts positions by rules of its own.
    processor : str, optional
        ``"module:Class"`` of the processor; by default Hugging Face chooses it.
    config_part : str, optional
        Name of the part of a checkpoint's config that is the model's, where checkpoints hold more than the model.
    older : tuple of (str, str)
        How the paths began in older releases of the class: as it is here, as it was. The first that is missing tells.
    split : bool
        Whether checkpoints of the family exist in the split layout.
    inside : tuple of str
        Of an encoder alone: where bigger models of its kind hold it. It is taken out of them, loaded or in memory.
    beside : str, optional
        A pattern for the tensors that checkpoints hold beside what is loaded of them. They stay on disk.
    """

    name: str
    title: str
    model_class: str
    tower: str = "model.audio_tower"
    encoder_layers: str = "model.audio_tower.layers"
    tower_output: str | None = None
    projector: str | None = "model.multi_modal_projector"
    language_model: str | None = "model.language_model"
    text_embed: str | None = "model.language_model.embed_tokens"
    text_layers: str | None = "model.language_model.layers"
    text_norm: str | None = "model.language_model.norm"
    head: str | None = "lm_head"
    mixer: str | None = None
    gate: str | None = None
    stream_projectors: str | None = None
    audio_token_attr: str = "audio_token_id"
    frontend: str = "af3"
    stem: tuple[tuple[str, Filter], ...] = (("conv1", (3, 1, 1)), ("conv2", (3, 2, 1)))
    pool: tuple[str, Filter] | None = ("avg_pooler", (2, 2, 0))
    positions: str | None = "embed_positions"
    trims: bool = False
    keeps_logits: bool = True
    counts_positions: bool = False
    processor: str | None = None
    config_part: str | None = None
    older: tuple[tuple[str, str], ...] = ()
    split: bool = False
    inside: tuple[str, ...] = ()
    beside: str | None = None

    @property
    def answers(self) -> bool:
        """Whether there is a language model that can be asked."""
        return self.language_model is not None

    def encoder_frames(self, mel_frames: int) -> int:
        """Return how many encoder positions `mel_frames` valid mel frames give."""
        for _, filters in self.stem:
            mel_frames = _filtered(mel_frames, filters)
        return mel_frames

    def tower_frames(self, mel_frames: int) -> int:
        """Return how many frames the tower hands on."""
        positions = self.encoder_frames(mel_frames)
        return positions if self.pool is None else max(0, _filtered(positions, self.pool[1]))

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
        return step, step * (1 if self.pool is None else self.pool[1][1])

    def find(self, model: nn.Module, path: str | None) -> nn.Module:
        """Return the module at `path`.

        Raises
        ------
        ModelError
            If the model has no such module.
        """
        try:
            if path is None:
                raise AttributeError
            return model.get_submodule(path)
        except AttributeError as error:
            raise ModelError(
                f"cannot use {type(model).__name__} as the family {self.name!r}",
                found="no such part" if path is None else f"no module {path!r}",
                fix="add a row for this model with vpanalysis.register_family",
            ) from error

    def check(self, model: nn.Module) -> None:
        """Compare this row with a model: every path must exist, every filter must be as written.

        Raises
        ------
        ModelError
            If something differs.
        """
        paths = [self.tower, self.encoder_layers, self.tower_output, self.projector, self.text_embed, self.text_layers]
        for path in (*paths, self.text_norm, self.head, self.mixer, self.gate, self.stream_projectors):
            if path is not None:
                self.find(model, path)
        for name, wanted in (*self.stem, *([self.pool] if self.pool is not None else [])):
            module = self.find(model, f"{self.tower}.{name}" if self.tower else name)
            found = tuple(_first(getattr(module, field)) for field in ("kernel_size", "stride", "padding"))
            if found != wanted:
                raise ModelError(
                    f"cannot use {type(model).__name__} as the family {self.name!r}",
                    found=f"{name} with kernel, stride, padding {found}",
                    allowed=str(wanted),
                )

    def fitted(self, model: nn.Module) -> Family:
        """Return this row with the paths that a model has, where its class was laid out otherwise in older releases.

        Parameters
        ----------
        model : Module
            The model.
        """
        places = {name for name, _ in model.named_modules()} if self.older else set()
        if all(here in places for here, _ in self.older):
            return self
        moved = {}
        for name in _PATHS:
            path = getattr(self, name)
            for here, before in self.older:
                if path is not None and (path == here or path.startswith(f"{here}.")):
                    moved[name] = before + path.removeprefix(here)
        return replace(self, **moved)

    def load_class(self) -> Any:
        """Return the model class."""
        module, name = self.model_class.split(":")
        return getattr(import_module(module), name)

    def inner(self, model: nn.Module) -> nn.Module:
        """Return the encoder inside a bigger model of its kind, such as the one of a speech recognizer.

        Parameters
        ----------
        model : Module
            That model, or the encoder; any model where the row has no `inside`.

        Raises
        ------
        ModelError
            If there is none.
        """
        if not self.inside or isinstance(model, self.load_class()):
            return model
        places = {name for name, _ in model.named_modules()}
        for path in self.inside:
            if path in places and isinstance(model.get_submodule(path), self.load_class()):
                return model.get_submodule(path)
        raise ModelError(
            f"cannot use {type(model).__name__} as the family {self.name!r}",
            found=f"no {self.load_class().__name__} in it",
            allowed=[self.load_class().__name__, *self.inside],
        )


_PATHS = (
    *("tower", "encoder_layers", "tower_output", "projector", "language_model", "text_embed", "text_layers"),
    *("text_norm", "head", "mixer", "gate", "stream_projectors"),
)


def _filtered(frames: int, filters: Filter) -> int:
    kernel, stride, padding = filters
    return (frames + 2 * padding - kernel) // stride + 1


def _first(value: Any) -> int:
    return cast(int, value[0] if isinstance(value, tuple) else value)
