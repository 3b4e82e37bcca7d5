"""Who is asked: audio language models behind one facade.

`load_model` gives an `AudioLLM`; `vpanalysis.models.pclm` holds the prompt-conditioned layer mixer on its two bases,
Audio Flamingo 3 and Qwen2-Audio; `vpanalysis.models.split` the split layout of released checkpoints;
`vpanalysis.models.families` the table of where parts live. `verify` and `convert` look into checkpoints and rewrite
them; how each tensor's place is found is in `vpanalysis.models.checkpoint`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_EXPORTS = {
    "AudioLLM": "vpanalysis.models.facade",
    "Batch": "vpanalysis.models.batch",
    "EncodedClip": "vpanalysis.models.batch",
    "Family": "vpanalysis.models.families",
    "FAMILIES": "vpanalysis.models.families",
    "register_family": "vpanalysis.models.families",
    "load_model": "vpanalysis.models.loading",
    "Verification": "vpanalysis.models.checkpoint.verification",
    "convert": "vpanalysis.models.checkpoint.conversion",
    "verify": "vpanalysis.models.checkpoint.verification",
    "AudioFlamingo3PCLMConfig": "vpanalysis.models.pclm",
    "AudioFlamingo3PCLMForConditionalGeneration": "vpanalysis.models.pclm",
    "AudioFlamingo3PCLMProcessor": "vpanalysis.models.processing",
    "Qwen2AudioPCLMConfig": "vpanalysis.models.pclm",
    "Qwen2AudioPCLMForConditionalGeneration": "vpanalysis.models.pclm",
    "Qwen2AudioPCLMProcessor": "vpanalysis.models.processing",
}

__all__ = [
    "AudioFlamingo3PCLMConfig",
    "AudioFlamingo3PCLMForConditionalGeneration",
    "AudioFlamingo3PCLMProcessor",
    "AudioLLM",
    "Batch",
    "EncodedClip",
    "FAMILIES",
    "Family",
    "Qwen2AudioPCLMConfig",
    "Qwen2AudioPCLMForConditionalGeneration",
    "Qwen2AudioPCLMProcessor",
    "Verification",
    "convert",
    "load_model",
    "register_family",
    "verify",
]

if TYPE_CHECKING:
    from vpanalysis.models.batch import Batch as Batch
    from vpanalysis.models.batch import EncodedClip as EncodedClip
    from vpanalysis.models.checkpoint.conversion import convert as convert
    from vpanalysis.models.checkpoint.verification import Verification as Verification
    from vpanalysis.models.checkpoint.verification import verify as verify
    from vpanalysis.models.facade import AudioLLM as AudioLLM
    from vpanalysis.models.families import FAMILIES as FAMILIES
    from vpanalysis.models.families import Family as Family
    from vpanalysis.models.families import register_family as register_family
    from vpanalysis.models.loading import load_model as load_model
    from vpanalysis.models.pclm import AudioFlamingo3PCLMConfig as AudioFlamingo3PCLMConfig
    from vpanalysis.models.pclm import (
        AudioFlamingo3PCLMForConditionalGeneration as AudioFlamingo3PCLMForConditionalGeneration,
    )
    from vpanalysis.models.pclm import Qwen2AudioPCLMConfig as Qwen2AudioPCLMConfig
    from vpanalysis.models.pclm import Qwen2AudioPCLMForConditionalGeneration as Qwen2AudioPCLMForConditionalGeneration
    from vpanalysis.models.processing import AudioFlamingo3PCLMProcessor as AudioFlamingo3PCLMProcessor
    from vpanalysis.models.processing import Qwen2AudioPCLMProcessor as Qwen2AudioPCLMProcessor


def __getattr__(name: str) -> Any:
    # Importing the table of families or the word tokenizer must not load the models.
    if name not in _EXPORTS:
        raise AttributeError(f"module 'vpanalysis.models' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
