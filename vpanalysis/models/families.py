"""The table of known families, and how a row is added.

Why it exists. What the package can do with a kind of model should be a matter of data: a look at this table says which
models are known, where their parts are, and in what they differ.

The idea. Rows are `Family` values under the `model_type` of their configs. Most parts have the same place in most
Hugging Face models, so a row says only what is different. A row of one's own is added with `register_family`, from a
script or a notebook, and is used from then on like the others.

Worked example::

    family_of("voxtral").title                              # "Voxtral"
    register_family(Family("my_model", "My model", "my_package:MyModel", frontend="my_package:MyFrontend"))
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vpanalysis.errors import ModelError
from vpanalysis.models.family import Family

__all__ = ["FAMILIES", "Family", "family_of", "register_family"]


def _encoder(name: str, title: str, model_class: str, **fields: Any) -> Family:
    """Return the row of an encoder alone, which is its own tower and answers nothing."""
    parts = ("projector", "language_model", "text_embed", "text_layers", "text_norm", "head", "pool", "positions")
    return Family(name, title, model_class, tower="", **{**dict.fromkeys(parts), "stem": (), **fields})


_CLAP: dict[str, Any] = {
    "model_class": "transformers:ClapAudioModel",
    "encoder_layers": "audio_encoder.layers",
    "frontend": "clap",
    "inside": ("audio_model",),
    "beside": r"(text_model|text_projection|audio_projection)\.|logit_scale_[at]$",
}
# Their own tensors; the heads of fine-tuned models are many, and one of them is a `feature_extractor` itself.
_NOT_WAVEFORM = r"(?!(hubert|wavlm|encoder|feature_projection|adapter)\.|feature_extractor\.conv|masked_spec_embed)"

_ENCODERS: tuple[Family, ...] = (
    _encoder(
        "whisper",
        "Whisper, encoder alone",
        "transformers.models.whisper.modeling_whisper:WhisperEncoder",
        encoder_layers="layers",
        frontend="whisper",
        stem=(("conv1", (3, 1, 1)), ("conv2", (3, 2, 1))),
        inside=("model.encoder", "encoder"),
        beside=r"(model\.)?decoder\.|(proj_out|projector|classifier)\.|layer_weights$",
    ),
    _encoder(
        "hubert",
        "HuBERT",
        "transformers:HubertModel",
        encoder_layers="encoder.layers",
        frontend="waveform",
        inside=("hubert",),
        beside=_NOT_WAVEFORM,
    ),
    _encoder(
        "wavlm",
        "WavLM",
        "transformers:WavLMModel",
        encoder_layers="encoder.layers",
        frontend="waveform",
        inside=("wavlm",),
        beside=_NOT_WAVEFORM,
    ),
    _encoder("clap", "CLAP, audio branch", **_CLAP),
    _encoder("clap_audio_model", "CLAP, audio branch", **_CLAP),
)

_OMNI: dict[str, Any] = {
    # Projected inside the tower: the last norm hands on what is the tower's output elsewhere.
    "tower_output": "model.audio_tower.ln_post",
    "positions": None,
    "trims": True,
    "keeps_logits": False,
    # The parts that speak.
    "beside": r"(talker|token2wav|code2wav)\.",
    # In transformers 5.20 a thinker had no base model around its towers yet.
    "older": (("model.audio_tower", "audio_tower"), ("model.language_model", "model")),
}
_OMNI_2_5 = Family(
    name="qwen2_5_omni_thinker",
    title="Qwen2.5-Omni, thinker",
    model_class="transformers:Qwen2_5OmniThinkerForConditionalGeneration",
    projector="model.audio_tower.proj",
    frontend="omni",
    processor="vpanalysis.models.processing_omni:Qwen2_5OmniListeningProcessor",
    **_OMNI,
)
_OMNI_3 = Family(
    name="qwen3_omni_moe_thinker",
    title="Qwen3-Omni, thinker",
    model_class="transformers:Qwen3OmniMoeThinkerForConditionalGeneration",
    projector="model.audio_tower.proj2",
    frontend="omni3",
    processor="vpanalysis.models.processing_omni:Qwen3OmniMoeListeningProcessor",
    stem=(("conv2d1", (3, 2, 1)), ("conv2d2", (3, 2, 1)), ("conv2d3", (3, 2, 1))),
    pool=None,
    **_OMNI,
)

_OTHERS: tuple[Family, ...] = (
    Family(
        name="musicflamingo",
        title="Music Flamingo",
        model_class="transformers:MusicFlamingoForConditionalGeneration",
        frontend="music_flamingo",
        trims=True,
    ),
    Family(
        name="qwen2_audio",
        title="Qwen2-Audio",
        model_class="transformers:Qwen2AudioForConditionalGeneration",
        frontend="qwen2_audio",
        keeps_logits=False,
    ),
    Family(
        name="voxtral",
        title="Voxtral",
        model_class="transformers:VoxtralForConditionalGeneration",
        frontend="voxtral",
        pool=None,
    ),
    _OMNI_2_5,
    _OMNI_3,
    # Whole checkpoints, which speak as well; the thinker's class takes its part of their tensors.
    replace(_OMNI_2_5, name="qwen2_5_omni", config_part="thinker_config"),
    replace(_OMNI_3, name="qwen3_omni_moe", config_part="thinker_config"),
)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            name="audioflamingo3",
            title="Audio Flamingo 3",
            model_class="transformers:AudioFlamingo3ForConditionalGeneration",
            trims=True,
            split=True,
        ),
        Family(
            name="audioflamingo3_pclm",
            title="Audio Flamingo 3 + PCLM",
            model_class="vpanalysis.models.pclm:AudioFlamingo3PCLMForConditionalGeneration",
            mixer="model.pclm",
            gate="model.pclm.gate",
            stream_projectors="model.pclm.projectors",
            trims=True,
            split=True,
        ),
        Family(
            name="qwen2_audio_pclm",
            title="Qwen2-Audio + PCLM",
            model_class="vpanalysis.models.pclm:Qwen2AudioPCLMForConditionalGeneration",
            mixer="model.pclm",
            gate="model.pclm.gate",
            stream_projectors="model.pclm.projectors",
            frontend="qwen2_audio",
            processor="vpanalysis.models.processing:Qwen2AudioPCLMProcessor",
            split=True,
        ),
        *_OTHERS,
        *_ENCODERS,
    )
}
"""The known families, by the `model_type` of their configs."""


def register_family(family: Family) -> None:
    """Add a row, or replace the one of the same name.

    Parameters
    ----------
    family : Family
        Where the parts of the new kind of model live.

    Raises
    ------
    ModelError
        If it is no `Family`.

    Examples
    --------
    >>> import dataclasses
    >>> mine = dataclasses.replace(FAMILIES["audioflamingo3"], name="my_flamingo", title="My Flamingo")
    >>> register_family(mine)
    >>> family_of("my_flamingo").title
    'My Flamingo'
    >>> del FAMILIES["my_flamingo"]
    """
    if not isinstance(family, Family):
        raise ModelError("cannot add a family", found=type(family).__name__, allowed="a vpanalysis.Family")
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
            fix="add a row, such as vpanalysis.register_family(vpanalysis.Family("
            f"name={model_type!r}, title='...', model_class='transformers:...ForConditionalGeneration', "
            "tower='model.audio_tower', encoder_layers='model.audio_tower.layers'))",
        )
    return FAMILIES[model_type]
