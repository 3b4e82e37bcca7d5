"""Option scores stand in the order of the options, whatever letters they carry."""

from dataclasses import replace

import pytest
import torch

from vpanalysis.benchmark.prompts import DEFAULT_PROMPT


@pytest.mark.parametrize("letters", [("A", "B"), ("B", "A"), ("D", "B")])
def test_scores_follow_the_options_and_not_the_alphabet(pclm, items, waves, letters):
    item = replace(items[0], letters=letters)
    batch = pclm.prepare([item], waves[:1], DEFAULT_PROMPT)
    logits = torch.zeros(1, len(pclm.tokenizer))
    for favoured, letter in enumerate(letters):
        logits.zero_()
        logits[0, pclm.tokenizer.convert_tokens_to_ids(letter)] = 5.0
        row = pclm.option_logprobs(batch, logits)[0]
        assert row.argmax() == favoured
        assert f"({letter}): {item.choices[favoured]}" in batch.prompts[0]
