"""Untrained models of the organism's own size, and the processor that goes with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import WhisperFeatureExtractor

from vpanalysis.benchmark.items import Item
from vpanalysis.models.facade import AudioLLM
from vpanalysis.models.word_tokenizer import build_word_processor
from vpanalysis.organism.build import new_model, with_mixer
from vpanalysis.organism.clips import mixed_items
from vpanalysis.organism.encoder import new_encoder
from vpanalysis.organism.questions import organism_tokenizer
from vpanalysis.organism.sizes import extractor_config

# Tiny matrices lose by threads.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def processor() -> Any:
    return build_word_processor(organism_tokenizer(), WhisperFeatureExtractor(**extractor_config()))


@pytest.fixture(scope="session")
def encoder() -> Any:
    return new_encoder(0).eval()


@pytest.fixture(scope="session")
def base(encoder: Any) -> Any:
    """Stock AF3; do not train it."""
    return new_model(encoder, 1)


@pytest.fixture(scope="session")
def pclm(base: Any) -> Any:
    """With the paper's mixer; do not train it."""
    return with_mixer(base, "pclm", 1)


@pytest.fixture(scope="session")
def llm(pclm: Any, processor: Any) -> AudioLLM:
    return AudioLLM(pclm, processor, name="untrained")


@pytest.fixture(scope="session")
def items() -> list[Item]:
    """Two training items of each task."""
    return list(mixed_items(20, seed=11))
