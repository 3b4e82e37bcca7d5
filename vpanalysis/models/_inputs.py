"""From questions and clips to the tensors of one forward, by the model's own processor and tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from vpanalysis.errors import AudioError, ModelError
from vpanalysis.models.batch import Batch, EncodedClip, Layout
from vpanalysis.models.families import Family
from vpanalysis.models.processing import count_windows, gate_inputs

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Item
    from vpanalysis.benchmark.prompts import PromptTemplate

__all__ = ["InputMaker", "Wave"]

Wave = np.ndarray[Any, np.dtype[np.float32]]


class InputMaker:
    """Makes inputs on the CPU; the facade moves them.

    Parameters
    ----------
    processor : AudioFlamingo3Processor
        Of the model.
    gate_tokenizer : PreTrainedTokenizerBase
        Of the gate's text.
    family : Family
        Counts frames.
    gate_reads : str, optional
        The config field `gate_text`; None without a mixer.
    """

    def __init__(self, processor: Any, gate_tokenizer: Any, family: Family, gate_reads: str | None) -> None:
        self.processor = processor
        self.tokenizer: Any = processor.tokenizer
        self.feature_extractor: Any = processor.feature_extractor
        self.gate_tokenizer = gate_tokenizer
        self.family = family
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
            frames = tuple(clip.windows for clip in encoded)
            layout = Layout(frames, tuple(tuple(2 * n for n in clip) for clip in frames))
        elif waves is not None:
            inputs, layout = self.features(waves)
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

    def prompt(self, item: Item, template: PromptTemplate) -> str:
        """Return the whole text of a row: chat form, one audio placeholder, question, answer prefix."""
        return self._chat(template.render(item)) + template.answer_prefix

    def _chat(self, text: str) -> str:
        turn = {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": text}]}
        if getattr(self.processor, "chat_template", None):
            return cast(str, self.processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True))
        if getattr(self.tokenizer, "chat_template", None):
            turn = {"role": "user", "content": self.processor.audio_token + text}
            return cast(str, self.tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True))
        raise ModelError(
            "cannot make prompts",
            found="no chat template in the processor or the tokenizer",
            fix="set processor.chat_template",
        )

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
        # The placeholder becomes one token per valid frame, as AF3's processor does it; doing it here spares the
        # log-mel features when the clips are already encoded. The answer is tokenized by itself, because a tokenizer
        # might merge its first letter with the prefix, and then the letter would no longer be the next token.
        audio: str = self.processor.audio_token
        for prompt in prompts:
            if prompt.count(audio) != 1:
                raise ModelError(
                    "cannot place the audio in a prompt",
                    found=f"{prompt.count(audio)} placeholders {audio!r} in {prompt[:200]!r}",
                    allowed="exactly one, from the chat template",
                )
        texts = [
            prompt.replace(audio, audio * tokens, 1)
            for prompt, tokens in zip(prompts, layout.audio_tokens, strict=True)
        ]
        heads: list[list[int]] = self.tokenizer(texts)["input_ids"]
        tails: list[list[int]] = [
            self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else [] for text in continuations
        ]
        rows = [head + tail for head, tail in zip(heads, tails, strict=True)]
        return rows, tuple(len(tail) for tail in tails)

    def _padded(self, rows: Sequence[list[int]]) -> dict[str, Tensor]:
        length = max(len(row) for row in rows)
        pad = self.tokenizer.pad_token_id
        pad = self.tokenizer.eos_token_id if pad is None else pad
        ids = torch.full((len(rows), length), pad, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, length - len(row) :] = torch.tensor(row)
            mask[i, length - len(row) :] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def features(self, waves: Sequence[Wave]) -> tuple[dict[str, Tensor], Layout]:
        """Return log-mel features by AF3's own processor, and their layout."""
        audio = [np.asarray(wave, dtype=np.float32) for wave in waves]
        made = self.processor(text=[self.processor.audio_token] * len(audio), audio=audio)
        most = int(self.processor.max_audio_len // self.feature_extractor.chunk_length)
        counts = [min(count_windows(len(wave), self.feature_extractor), most) for wave in audio]
        mask: Tensor = made["input_features_mask"]
        mels = [clip.tolist() for clip in mask.sum(-1).split(counts)]
        layout = self._layout(mels)
        return {"input_features": made["input_features"], "input_features_mask": mask}, layout

    def layout(self, waves: Sequence[Wave]) -> Layout:
        """Return the layout of clips without making features."""
        window = int(self.feature_extractor.sampling_rate * self.feature_extractor.chunk_length)
        most = int(self.processor.max_audio_len // self.feature_extractor.chunk_length)
        hop = self.feature_extractor.hop_length
        mels = [
            [-(-(min(window, len(wave) - i * window)) // hop) for i in range(min(count, most))]
            for wave in waves
            for count in [count_windows(len(wave), self.feature_extractor)]
        ]
        return self._layout(mels)

    def _layout(self, mels: Sequence[Sequence[int]]) -> Layout:
        """Return the layout of clips with these valid mel frames per window."""
        frames = tuple(tuple(self.family.tower_frames(n) for n in clip) for clip in mels)
        for i, clip in enumerate(frames):
            if sum(clip) == 0:
                raise AudioError(
                    f"cannot use clip {i} of the batch",
                    found="a clip too short for a single audio token",
                    allowed=f"more than {self.family.seconds_per_frame(self.feature_extractor)[1]:g} s",
                )
        return Layout(frames, tuple(tuple(self.family.encoder_frames(n) for n in clip) for clip in mels))
