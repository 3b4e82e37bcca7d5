"""The margin as a function of the logits, so that it has a gradient: that of :func:`vpanalysis.attribution.margin`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Item
    from vpanalysis.models.facade import AudioLLM

__all__ = ["margin_of_logits", "margins_of_logits"]


def margin_of_logits(llm: AudioLLM, item: Item, logits: Tensor) -> Tensor:
    """Return the margins of one item's truth over its foils.

    Parameters
    ----------
    llm : AudioLLM
    item : Item
        With foils.
    logits : Tensor, shape (row, vocabulary)
        At the answer position.

    Returns
    -------
    Tensor, shape (row,), float32, nats
    """
    tokens = llm.letter_tokens(item.letters)
    rows = logits.float()
    # Several tokens may stand for a letter. What all options share cancels, so logits do as well as probabilities.
    scores = torch.stack([torch.logsumexp(rows[:, list(tokens[letter])], dim=1) for letter in item.letters], dim=1)
    against = scores[:, [item.choices.index(foil) for foil in item.foils]]
    return scores[:, item.choices.index(item.truth)] - torch.logsumexp(against, dim=1)


def margins_of_logits(llm: AudioLLM, items: Sequence[Item], logits: Tensor) -> Tensor:
    """Return the margins of several items, one a row of the logits: shape (item,), float32, nats."""
    return torch.cat(
        [margin_of_logits(llm, item, row[None]) for item, row in zip(items, logits, strict=True)]
    )  # fmt: skip
