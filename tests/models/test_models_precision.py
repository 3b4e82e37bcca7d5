"""A mixture of half-precision streams is rounded once, after the sum."""

import pytest
import torch

from vpanalysis.models.mixer import PromptConditionedLayerMixer


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_streams_are_summed_in_float32(tiny, dtype):
    generator = torch.Generator().manual_seed(0)
    mixer = PromptConditionedLayerMixer(tiny.config(expose_layers=[1, 2, 3, 4], gate_mode="static"))
    streams = [torch.randn(2, 7, 32, generator=generator).to(dtype) for _ in range(5)]
    weights = torch.softmax(torch.randn(2, 5, generator=generator), -1)
    mixed = mixer(streams, weights)
    exact = sum(s.double() * w[:, None, None].double() for s, w in zip(streams, weights.unbind(1), strict=True))
    assert mixed.dtype == dtype
    # Rounded once: nothing in the type lies closer, but where two lie equally close up to the last bit of float32.
    assert (mixed == exact.to(dtype)).float().mean() > 0.99
