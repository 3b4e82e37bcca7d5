"""Token rows: training and the loaded model see one layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from vpanalysis.benchmark.items import TASKS, Item
from vpanalysis.benchmark.mini import load
from vpanalysis.benchmark.mini.wordings import vocabulary
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.models.batch import Batch, EncodedClip
from vpanalysis.models.facade import AudioLLM
from vpanalysis.organism.language import letter_questions
from vpanalysis.organism.questions import IGNORED, LETTER_WEIGHT, TRANSCRIBE, Asked, Wording, organism_tokenizer

PLACES = 7


class Unshuffled:
    """Draws as a generator does, but leaves options where they are."""

    def permutation(self, n: int) -> range:
        return range(n)

    def integers(self, _n: int) -> int:
        return 0


@pytest.fixture(scope="module")
def wording() -> Wording:
    return Wording()


@pytest.fixture(scope="module")
def held_items() -> list[Item]:
    return [item for task in TASKS for item in load(split="test", tasks=task, n=2)]


def silent_clips(llm: AudioLLM, n: int) -> list[EncodedClip]:
    """Encodings of `PLACES` frames: what stands there does not matter to the rows."""
    width = llm.model.config.audio_config.hidden_size
    return [EncodedClip({name: torch.zeros(PLACES, width) for name in llm.stream_inputs}, (PLACES,))] * n


def prepared(llm: AudioLLM, items: list[Item], **options: Any) -> Batch:
    return llm.prepare(items, None, DEFAULT_PROMPT, encoded=silent_clips(llm, len(items)), **options)


def rows_of(batch: Batch) -> list[list[int]]:
    pairs = zip(batch.inputs["input_ids"], batch.inputs["attention_mask"], strict=True)
    return [ids[mask == 1].tolist() for ids, mask in pairs]


def asked(item: Item) -> Asked:
    return Asked(item.question, item.choices, (item.truth,))


def test_vocabulary_knows_everything(held_items: list[Item], wording: Wording) -> None:
    """Questions, options and words of every split, so that no test item meets an unknown token."""
    for item in held_items:
        for text in (item.question, DEFAULT_PROMPT.render(item), item.transcript or ""):
            assert wording.tokenizer.unk_token_id not in wording.ids(text), text
    for word in vocabulary():
        assert wording.ids(word) == [wording.vocabulary[word]]


def test_prompt_is_what_the_loaded_model_is_asked(llm: AudioLLM, held_items: list[Item], wording: Wording) -> None:
    facade = rows_of(prepared(llm, held_items))
    for item, expected in zip(held_items, facade, strict=True):
        row, begin = wording.row(asked(item), PLACES, Unshuffled())
        assert row[:begin] == expected, item.id
        # What follows is the letter of the truth.
        assert [row[begin]] == wording.ids(item.letter_of(item.truth))


def test_answer_is_what_the_loaded_model_scores(llm: AudioLLM, held_items: list[Item], wording: Wording) -> None:
    facade = rows_of(prepared(llm, held_items, answers=[item.truth for item in held_items]))
    for item, expected in zip(held_items, facade, strict=True):
        row, _ = wording.row(asked(item), PLACES, Unshuffled())
        assert row == [*expected, wording.end]


def test_gate_reads_the_same_ids(llm: AudioLLM, held_items: list[Item], wording: Wording) -> None:
    batch = prepared(llm, held_items)
    rows = wording.batch([asked(i) for i in held_items], [PLACES] * len(held_items), np.random.default_rng(0))
    assert torch.equal(rows.gate_ids, batch.inputs["prompt_input_ids"])
    assert torch.equal(rows.gate_mask, batch.inputs["prompt_attention_mask"])


def test_letters_are_the_tokens_that_are_scored(llm: AudioLLM, wording: Wording) -> None:
    assert llm.letter_tokens("ABCD") == {letter: (wording.vocabulary[letter],) for letter in "ABCD"}


def test_audio_takes_as_many_tokens_as_frames(llm: AudioLLM, items: list[Item], wording: Wording) -> None:
    """Real clips: the number of placeholders is that of the tower's valid frames."""
    few = items[:10]
    batch = llm.prepare(few, [item.audio.load() for item in few], DEFAULT_PROMPT)
    for row, tokens in zip(rows_of(batch), batch.layout.audio_tokens, strict=True):
        assert row.count(wording.sound) == tokens
        assert row[: tokens + 1] == [wording.start] + [wording.sound] * tokens


def test_options_are_shuffled_and_the_letter_follows(held_items: list[Item], wording: Wording) -> None:
    rng = np.random.default_rng(0)
    letters = []
    for item in held_items[:1] * 200:
        row, begin = wording.row(asked(item), PLACES, rng)
        text = wording.tokenizer.decode(row[begin - 1 :], skip_special_tokens=True)
        letters.append(text[1])
        assert text == f"({text[1]}): {item.truth}."
        assert f"({text[1]}): {item.truth}." in wording.tokenizer.decode(row[:begin])
    shares = [letters.count(letter) / len(letters) for letter in "ABCD"[: len(held_items[0].choices)]]
    assert max(shares) < 2 / len(shares) and min(shares) > 0.5 / len(shares)


def test_only_the_answer_is_learnt(held_items: list[Item], wording: Wording) -> None:
    questions = [
        asked(held_items[0]),
        Asked(held_items[1].question, held_items[1].choices, (held_items[1].truth,), words_first=True),
        Asked(TRANSCRIBE, (), ("my", "coat", "is", "wet")),
    ]
    rows = wording.batch(questions, [PLACES, 3, 5], np.random.default_rng(1))
    told = []
    for ids, labels, mask in zip(rows.input_ids, rows.labels, rows.attention_mask, strict=True):
        learnt = labels != IGNORED
        assert torch.equal(labels[learnt], ids[learnt])
        begin = int(learnt.nonzero()[0])
        assert learnt[begin : int(mask.sum())].all() and not learnt[int(mask.sum()) :].any()
        assert int(ids[int(mask.sum()) - 1]) == wording.end
        assert wording.sound not in labels
        told.append(wording.tokenizer.decode(ids[learnt], skip_special_tokens=True))
    letter = told[0][0]
    assert told[0] == f"{letter}): {held_items[0].truth}."
    assert told[1].startswith(f"{held_items[1].truth} (") and told[1].endswith(").")
    assert told[2] == "my coat is wet"
    # An option's letter weighs more, where it comes first.
    assert [float(w.max()) for w in rows.weights] == [LETTER_WEIGHT, 1.0, 1.0]
    assert int((rows.weights[0] == LETTER_WEIGHT).nonzero()[0]) == int((rows.labels[0] != IGNORED).nonzero()[0])


def test_chosen_and_rejected_answers_share_their_prompt(held_items: list[Item], wording: Wording) -> None:
    """Preferences compare two answers to one question: options stand in one order, whether an answer is given or not.

    The order of the second row must not depend on what was drawn for the first.
    """
    questions = [asked(item) for item in held_items]
    wrong: list[str | None] = [next(c for c in item.choices if c != item.truth) for item in held_items]
    places = [PLACES] * len(questions)
    chosen = wording.batch(questions, places, np.random.default_rng(7))
    rejected = wording.batch(questions, places, np.random.default_rng(7), wrong)
    for number in range(len(questions)):
        begins = [int((rows.labels[number] != IGNORED).nonzero()[0]) for rows in (chosen, rejected)]
        assert begins[0] == begins[1]
        assert torch.equal(chosen.input_ids[number, : begins[0]], rejected.input_ids[number, : begins[0]])
        assert not torch.equal(chosen.input_ids[number], rejected.input_ids[number])


def test_letter_questions_give_their_answer_away() -> None:
    made = letter_questions(300, np.random.default_rng(0))
    known = set(vocabulary())
    for one in made:
        assert len(one.choices) in (2, 4) and len(set(one.choices)) == len(one.choices)
        assert one.answers == (one.question,) and one.question in one.choices
        assert {word for option in one.choices for word in option.replace("-", " ").split()} <= known
    sizes = [len(one.choices) for one in made]
    assert 0.1 < sizes.count(2) / len(sizes) < 0.3
    places = [one.choices.index(one.question) for one in made if len(one.choices) == 4]
    assert min(places.count(k) for k in range(4)) > 0.15 * len(places)
    # Orders of the same words, as the pattern tasks have them.
    assert any(len({frozenset(option.split("-")) for option in one.choices}) == 1 for one in made)


def test_letter_questions_mention_no_official_question() -> None:
    texts = {one.question for one in letter_questions(300, np.random.default_rng(0))}
    assert not texts & {item.question for task in TASKS for item in load(split="test", tasks=task, n=5)}


def test_tokenizer_is_made_once() -> None:
    assert organism_tokenizer() is organism_tokenizer()
