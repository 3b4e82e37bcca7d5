"""Encoders of other kinds with random weights: the control in a comparison of encoders.

Why it exists. "The middle layers of this encoder tell the voice" means little until one knows what layers that
learned nothing tell: convolutions and attention over a spectrogram with random weights keep much of it. What a
trained layer holds is to be read beside that. And pictures of several encoders need several, which cannot be
downloaded everywhere.

The idea. Hugging Face's own classes for Whisper, HuBERT and CLAP's audio branch, a few layers each, from a seed. Names
begin with ``untrained``, so that no table shows them as anything else.

>>> untrained("untrained-hubert").name
'untrained-hubert'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vpanalysis.errors import ModelError

if TYPE_CHECKING:
    from vpanalysis.models.facade import AudioLLM

__all__ = ["UNTRAINED", "untrained"]

UNTRAINED: tuple[str, ...] = ("untrained-whisper", "untrained-hubert", "untrained-clap")
"""Names that `untrained` knows."""

_WINDOW_S = 6
_WIDTH, _LAYERS, _HEADS = 64, 8, 4


def untrained(name: str, *, seed: int = 0) -> AudioLLM:
    """Return a small encoder with random weights.

    Parameters
    ----------
    name : str
        One of `UNTRAINED`.
    seed : int
        Equal seeds give equal weights.

    Returns
    -------
    AudioLLM
        An encoder that answers nothing.

    Raises
    ------
    ModelError
        For an unknown name.
    """
    import torch

    from vpanalysis.models.loading import load_model

    makers = dict(zip(UNTRAINED, (_whisper, _hubert, _clap), strict=True))
    if name not in makers:
        raise ModelError("cannot make an untrained encoder", found=repr(name), allowed=UNTRAINED, word=name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = makers[name]()
    return load_model(made, name=name)


def _whisper() -> tuple[Any, Any]:
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    config = WhisperConfig(
        num_mel_bins=80, d_model=_WIDTH, encoder_layers=_LAYERS, encoder_attention_heads=_HEADS,
        encoder_ffn_dim=4 * _WIDTH, decoder_layers=1, decoder_attention_heads=_HEADS, decoder_ffn_dim=_WIDTH,
        max_source_positions=50 * _WINDOW_S, max_target_positions=16, vocab_size=40, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    return WhisperModel(config).eval(), WhisperFeatureExtractor(feature_size=80, chunk_length=_WINDOW_S)


def _hubert() -> tuple[Any, Any]:
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    config = HubertConfig(
        hidden_size=_WIDTH, num_hidden_layers=_LAYERS, num_attention_heads=_HEADS, intermediate_size=4 * _WIDTH,
        conv_dim=(32,) * 7, feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True,
        num_conv_pos_embeddings=32, num_conv_pos_embedding_groups=4, vocab_size=40,
    )  # fmt: skip
    return HubertModel(config).eval(), Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)


def _clap() -> tuple[Any, Any]:
    from transformers import ClapAudioConfig, ClapAudioModel, ClapFeatureExtractor

    config = ClapAudioConfig(
        num_mel_bins=64, spec_size=256, patch_embeds_hidden_size=16, hidden_size=128, depths=(2, 2, 2, 2),
        num_attention_heads=(2, 2, 4, 4), projection_dim=32,
    )  # fmt: skip
    extractor = ClapFeatureExtractor(feature_size=64, max_length_s=10, truncation="rand_trunc", padding="repeatpad")
    return ClapAudioModel(config).eval(), extractor
