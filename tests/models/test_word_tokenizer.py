from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from vpanalysis.errors import ModelError
from vpanalysis.models.word_tokenizer import SPECIAL_TOKENS, build_word_tokenizer

WORDS = ("high", "medium", "low", "Young", "adult", "speaker's", "What", "is", "the", "A", "a", "Rise", "fall")


@pytest.fixture(scope="module")
def tokenizer():
    return build_word_tokenizer(WORDS)


@pytest.mark.parametrize(
    "text",
    [
        "(B): high-medium-low.",
        "What is the speaker's low? (A): Rise-fall. (D): Young adult.",
        "(C)",
        "high, medium; low!",
    ],
)
def test_decoding_gives_the_text_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8))
def test_any_words_come_back(words):
    made = build_word_tokenizer(WORDS)
    text = " ".join(words)
    assert made.decode(made(text).input_ids) == text


def test_case_and_marks_are_kept(tokenizer):
    assert tokenizer.tokenize("(A): a-a.") == ["(", "A", ")", ":", "a", "-", "a", "."]
    assert tokenizer.convert_tokens_to_ids("A") != tokenizer.convert_tokens_to_ids("a")
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3, 4]
    assert tokenizer("elephant").input_ids == [tokenizer.unk_token_id]


def test_the_letter_is_one_token_after_the_prefix(tokenizer):
    for letter in "ABCD":
        prefix, whole = tokenizer("<|im_start|>(").input_ids, tokenizer(f"<|im_start|>({letter}").input_ids
        assert whole[:-1] == prefix
        assert whole[-1] == tokenizer.convert_tokens_to_ids(letter)


def test_special_tokens_stand_alone_and_are_skipped(tokenizer):
    ids = tokenizer("<|im_start|><sound><sound>What is low?<|im_end|><|im_start|>(").input_ids
    assert ids[:3] == [2, 4, 4] and ids[-3:-1] == [3, 2]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "What is low? ("
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer.padding_side == "left"


def test_it_survives_the_disk(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "(B): high-medium-low."
    assert again(text).input_ids == tokenizer(text).input_ids
    assert again.decode(again(text).input_ids) == text
    turn = [{"role": "user", "content": "<sound>What is low?"}]
    chat = again.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert chat == "<|im_start|><sound>What is low?<|im_end|><|im_start|>"


def test_vocabulary_is_in_the_order_of_first_sight():
    one, two = build_word_tokenizer(["b a b", "c"]), build_word_tokenizer(["b", "a", "c"])
    assert one.get_vocab() == two.get_vocab()
    with pytest.raises(ModelError, match="no words"):
        build_word_tokenizer([])
