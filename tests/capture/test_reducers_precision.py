"""Means of half-precision states are those of the values, not of a half-precision sum."""

import numpy as np
import pytest
import torch

from vpanalysis.capture.reducers import Spans, reduce

HALF = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])


def states(dtype: torch.dtype, frames: int = 1500, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (scale * (3 + torch.randn(2, frames, 5, generator=generator))).to(dtype)


@HALF
@pytest.mark.parametrize("lengths", [(1500, 1500), (1500, 900)])
def test_half_precision_states_have_the_mean_of_their_values(dtype, lengths):
    state = states(dtype)
    exact = [row[:n].double().mean(0) for row, n in zip(state, lengths, strict=True)]
    thirds = [row[:n].double().reshape(3, n // 3, 5).mean(1) for row, n in zip(state, lengths, strict=True)]
    spans = Spans.per_item(lengths)
    for how, wanted in (("mean", exact), ("segments(3)", thirds)):
        found = reduce(state, spans, how)
        assert found.dtype == torch.float32
        # A sum that is rounded to half precision is off by more than 1e-4 of the value.
        np.testing.assert_allclose(found, torch.stack(wanted), rtol=2e-6)


def test_sums_beyond_the_range_of_float16_do_not_overflow():
    state = states(torch.float16, scale=1000.0)
    assert float(state.sum(1).abs().max()) == np.inf
    assert torch.isfinite(reduce(state, Spans.per_item([1500, 1500]), "mean")).all()
