"""The prompt-conditioned layer mixer (PCLM) on its two bases, Audio Flamingo 3 and Qwen2-Audio.

Why it exists. Both bases hear only what the last layer of their encoder kept. The mixer of the VoxParadox paper
(section 5) also projects a few middle layers and lets the question decide how much of each the language model gets:
``alpha = softmax(MLP(BERT(p)))`` and ``Z~ = sum_l alpha_l P_l(H_l)``, one scalar per layer and prompt, shared over
time. The released checkpoints need the authors' code; here the same thing is a subclass of the Hugging Face model.

The idea. Everything that Hugging Face has is left to it. `pclm_mixin` replaces what happens between the audio tower and
the language model, `mixer` weighs and sums, `pclm_af3` and `pclm_qwen2_audio` say what each base does its own way, and
`pclm_config` has a field for all that the releases leave open. Importing this module makes the models known to the
Auto classes of transformers, so ``AutoModelForMultimodalLM.from_pretrained`` finds them by their `model_type`.

Worked example::

    config = AudioFlamingo3PCLMConfig(expose_layers=[5, 15, 25, 30])   # AF3-7B sizes by default
    model = AudioFlamingo3PCLMForConditionalGeneration(config)
    model(input_ids=..., attention_mask=..., input_features=..., input_features_mask=...,
          prompt_input_ids=..., prompt_attention_mask=...)             # the question, in the gate's own tokens

    states, frames, _ = model.encode_streams(input_features, input_features_mask)      # can be cached
    mixed = model.mix_streams(states, prompt_input_ids, prompt_attention_mask)         # (batch, frames, d_text)
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM, AutoProcessor

from vpanalysis.models.mixer import PromptConditionedLayerMixer, PromptGate
from vpanalysis.models.pclm_af3 import AudioFlamingo3PCLMForConditionalGeneration, AudioFlamingo3PCLMModel
from vpanalysis.models.pclm_config import AudioFlamingo3PCLMConfig, PCLMConfig, Qwen2AudioPCLMConfig
from vpanalysis.models.pclm_qwen2_audio import Qwen2AudioPCLMForConditionalGeneration, Qwen2AudioPCLMModel
from vpanalysis.models.processing import AudioFlamingo3PCLMProcessor, Qwen2AudioPCLMProcessor

__all__ = [
    "AudioFlamingo3PCLMConfig",
    "AudioFlamingo3PCLMForConditionalGeneration",
    "AudioFlamingo3PCLMModel",
    "PCLMConfig",
    "PromptConditionedLayerMixer",
    "PromptGate",
    "Qwen2AudioPCLMConfig",
    "Qwen2AudioPCLMForConditionalGeneration",
    "Qwen2AudioPCLMModel",
]

for _config, _model, _with_head, _processor in (
    (
        AudioFlamingo3PCLMConfig,
        AudioFlamingo3PCLMModel,
        AudioFlamingo3PCLMForConditionalGeneration,
        AudioFlamingo3PCLMProcessor,
    ),
    (
        Qwen2AudioPCLMConfig,
        Qwen2AudioPCLMModel,
        Qwen2AudioPCLMForConditionalGeneration,
        Qwen2AudioPCLMProcessor,
    ),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
    AutoModelForMultimodalLM.register(_config, _with_head, exist_ok=True)
    AutoProcessor.register(_config, _processor, exist_ok=True)
