"""From questions and clips to the tensors of one forward, by the model's own processor and tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vpanalysis.errors import ModelError
from vpanalysis.models.batch import Batch, EncodedClip, Layout
from vpanalysis.models.frontends import Frontend, Wave
from vpanalysis.models.processing import gate_inputs

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Item
    from vpanalysis.benchmark.prompts import PromptTemplate

__all__ = ["InputMaker"]


class InputMaker:
    """Makes inputs on the CPU; the facade moves them.

    Parameters
    ----------
    processor : ProcessorMixin
        Of the model.
    frontend : Frontend
        Makes features and chat prompts, and counts frames.
    gate_tokenizer : PreTrainedTokenizerBase
        Of the gate's text.
    gate_reads : str, optional
        The config field `gate_text`; None without a mixer.
    """

    def __init__(self, processor: Any, frontend: Frontend, gate_tokenizer: Any, gate_reads: str | None) -> None:
        self.tokenizer: Any = processor.tokenizer
        self.frontend = frontend
        self.gate_tokenizer = gate_tokenizer
        self.gate_reads = gate_reads

    def batch(
        self,
        items: Sequence[Item],
        waves: Sequence[Wave] | None,
        template: PromptTemplate,
        answers: Sequence[str] | None,
        encoded: Sequence[EncodedClip] | None,
    ) -> Batch:
        """Return the inputs of one forward; see `AudioLLM.prepare`."""
        for what, sequence in (("clips", waves if encoded is None else encoded), ("answers", answers)):
            if sequence is not None and len(sequence) != len(items):
                raise ModelError("cannot prepare a batch", found=f"{len(items)} items and {len(sequence)} {what}")
        if not items:
            raise ModelError("cannot prepare a batch", found="no items")
        inputs: dict[str, Tensor] = {}
        if encoded is not None:
            layout = self._layout_of(encoded)
        elif waves is not None:
            inputs, layout = self.frontend.features(waves)
        else:
            raise ModelError("cannot prepare a batch", found="no clips", allowed="waves, or encoded clips")
        prompts = tuple(self.prompt(item, template) for item in items)
        rows, counts = self._rows(prompts, layout, self._continuations(items, template, answers))
        inputs |= self._padded(rows)
        if self.gate_reads is not None:
            inputs |= gate_inputs(self.gate_tokenizer, [self.gate_text(item, template) for item in items])
            inputs["audio_windows"] = torch.tensor(layout.windows)
        return Batch(
            items=tuple(items),
            inputs=inputs,
            prompts=prompts,
            prefix=template.answer_prefix,
            layout=layout,
            encoded=None if encoded is None else tuple(encoded),
            answer_tokens=counts,
        )

    def _layout_of(self, encoded: Sequence[EncodedClip]) -> Layout:
        samples = [clip.samples for clip in encoded if clip.samples is not None]
        if len(samples) == len(encoded):
            return self.frontend.layout(samples)
        frames = tuple(clip.windows for clip in encoded)
        return Layout(frames, tuple(tuple(2 * n for n in clip) for clip in frames))

    def prompt(self, item: Item, template: PromptTemplate) -> str:
        """Return the whole text of a row: chat form, one audio placeholder, question, answer prefix."""
        return self.frontend.chat(template.render(item)) + template.answer_prefix

    def gate_text(self, item: Item, template: PromptTemplate) -> str:
        """Return the text that the gate reads for `item` (config field `gate_text`)."""
        if self.gate_reads == "question":
            return item.question
        if self.gate_reads == "question_options":
            return template.render(item)
        return self.prompt(item, template)

    def _continuations(
        self, items: Sequence[Item], template: PromptTemplate, answers: Sequence[str] | None
    ) -> list[str]:
        if answers is None:
            return [""] * len(items)
        whole = [template.answer(item, answer) for item, answer in zip(items, answers, strict=True)]
        return [text.removeprefix(template.answer_prefix) for text in whole]

    def _rows(
        self, prompts: Sequence[str], layout: Layout, continuations: Sequence[str]
    ) -> tuple[list[list[int]], tuple[int, ...]]:
        # The placeholder becomes one token per audio token, as the processor does it; doing it here spares the log-mel
        # features when the clips are already encoded. The answer is tokenized by itself, because a tokenizer might
        # merge its first letter with the prefix, and then the letter would no longer be the next token.
        texts = [
            self.frontend.expand(prompt, tokens) for prompt, tokens in zip(prompts, layout.audio_tokens, strict=True)
        ]
        heads = self.frontend.ids(texts)
        tails: list[list[int]] = [
            self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else [] for text in continuations
        ]
        rows = [head + tail for head, tail in zip(heads, tails, strict=True)]
        return rows, tuple(len(tail) for tail in tails)

    def _padded(self, rows: Sequence[list[int]]) -> dict[str, Tensor]:
        length = max(len(row) for row in rows)
        # Masked, so that any token would do; a tokenizer may name neither.
        named = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        pad = next((token for token in named if token is not None), 0)
        ids = torch.full((len(rows), length), pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, length - len(row) :] = torch.tensor(row)
            mask[i, length - len(row) :] = 1
        return {"input_ids": ids, "attention_mask": mask}
