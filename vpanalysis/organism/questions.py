"""Questions as token rows: one layout for symbolic clips, real clips and every stage of training.

A row is ``<|im_start|> <sound> x T question and options <|im_end|> <|im_start|> (`` followed by the answer
``B): Male.<|im_end|>``: exactly what the loaded model is asked later. Some rows answer in words first,
``Male (B).``: what is meant is learnt before the letter that stands for it. Options are shuffled at every presentation,
so that a letter means nothing by itself. Rows are padded on the right here, since training reads no last position.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vpanalysis.benchmark.items import TASKS
from vpanalysis.benchmark.mini.cells import QUESTIONS, cells
from vpanalysis.benchmark.mini.wordings import vocabulary
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.models.word_tokenizer import build_word_tokenizer
from vpanalysis.organism.symbols import DIRECTIONS

__all__ = ["TRANSCRIBE", "Asked", "Rows", "Wording", "gate_rows", "organism_tokenizer"]

TRANSCRIBE = "Transcribe the input speech."
"""The prompt of transcription, as AF3's processor words it."""

_LETTERS = "ABCD"
IGNORED = -100
LETTER_WEIGHT = 4.0


@functools.cache
def organism_tokenizer() -> Any:
    """Return the word tokenizer of the organism: spoken words, questions, options, stage directions."""
    options = sorted({o for task in TASKS for cell in cells(task, "train", 60) for o in cell.options})
    questions = [QUESTIONS[t].format(n) for t in TASKS for n in range(1, 6)]
    return build_word_tokenizer([*questions, TRANSCRIBE, *options, *vocabulary(), *DIRECTIONS])


@dataclass(frozen=True)
class Asked:
    """One question to be put in a row.

    Attributes
    ----------
    question : str
    choices : tuple of str
        Empty for transcription.
    answers : tuple of str
        Right options, one of which is drawn; or the words, for transcription.
    words_first : bool
        Answer ``Male (B).`` instead of ``(B): Male.``
    """

    question: str
    choices: tuple[str, ...]
    answers: tuple[str, ...]
    words_first: bool = False


@dataclass
class Rows:
    """A batch of token rows.

    Attributes
    ----------
    input_ids, attention_mask, labels : Tensor, shape (row, position), int64
        Labels are -100 outside the answer.
    weights : Tensor, shape (row, position), float32
        Of each label in the loss: an option's letter counts as much as its words together.
    gate_ids, gate_mask : Tensor, shape (row, token), int64
        The question alone, for the gate.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    weights: Tensor
    gate_ids: Tensor
    gate_mask: Tensor


class Wording:
    """Turns questions into token rows, remembering the ids of texts that it has seen.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        By default the organism's.
    """

    def __init__(self, tokenizer: Any | None = None) -> None:
        self.tokenizer = tokenizer or organism_tokenizer()
        self.vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        self._known: dict[str, list[int]] = {}
        start, end, sound = self.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>", "<sound>"])
        self.start, self.end, self.sound, self.pad = start, end, sound, self.tokenizer.pad_token_id

    def ids(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        if text not in self._known:
            self._known[text] = list(self.tokenizer(text, add_special_tokens=False).input_ids)
        return self._known[text]

    def row(
        self, asked: Asked, places: int, rng: np.random.Generator, answer: str | None = None
    ) -> tuple[list[int], int]:
        """Return the ids of one row and where its answer begins.

        Parameters
        ----------
        asked : Asked
        places : int
            Audio positions.
        rng : Generator
            Draws the order of options and, where several are right, the answer.
        answer : str, optional
            The option to answer with.
        """
        head = [self.start, *[self.sound] * places, *self.ids(asked.question)]
        if not asked.choices:
            told = self.ids(" ".join(asked.answers))
            return [*head, self.end, self.start, *told, self.end], len(head) + 2
        order = [asked.choices[k] for k in rng.permutation(len(asked.choices))]
        picked = answer or asked.answers[int(rng.integers(len(asked.answers)))]
        for letter, option in zip(_LETTERS, order, strict=False):
            head += self.ids(DEFAULT_PROMPT.option.format(letter=letter, text=option))
        letter = _LETTERS[order.index(picked)]
        if asked.words_first:
            return [*head, self.end, self.start, *self.ids(f"{picked} ({letter})."), self.end], len(head) + 2
        told = self.ids(DEFAULT_PROMPT.option.format(letter=letter, text=picked))
        # The first token of the answer is the given prefix "(".
        return [*head, self.end, self.start, *told, self.end], len(head) + 3

    def batch(
        self,
        asked: Sequence[Asked],
        places: Sequence[int],
        rng: np.random.Generator,
        answers: Sequence[str | None] | None = None,
    ) -> Rows:
        """Return the padded rows of a batch."""
        made = [
            self.row(one, n, rng, a) for one, n, a in zip(asked, places, answers or [None] * len(asked), strict=True)
        ]
        width = max(len(ids) for ids, _ in made)
        ids = torch.full((len(made), width), self.pad)
        labels = torch.full((len(made), width), IGNORED)
        mask = torch.zeros((len(made), width), dtype=torch.long)
        weights = torch.ones((len(made), width))
        for number, (row, begin) in enumerate(made):
            if asked[number].choices and not asked[number].words_first:
                weights[number, begin] = LETTER_WEIGHT
            tokens = torch.tensor(row)
            ids[number, : len(row)] = tokens
            labels[number, begin : len(row)] = tokens[begin:]
            mask[number, : len(row)] = 1
        gate_ids, gate_mask = gate_rows(self, [one.question for one in asked])
        return Rows(ids, mask, labels, weights, gate_ids, gate_mask)


def gate_rows(wording: Wording, questions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return the questions as right-padded ids and their mask."""
    rows = [wording.ids(q) for q in questions]
    width = max(len(r) for r in rows)
    ids = torch.full((len(rows), width), wording.pad)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
    return ids, mask
