"""The answer parser: what it accepts, what it refuses, and that it never guesses."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpanalysis.benchmark.parsing import PARSER_VERSION, ParsedAnswer, parse_answer

AGE = ("Young adult", "Middle-aged adult", "Elderly adult", "Child")
GENDER = ("Female", "Male")
EMOTION = ("neutral", "sadness", "anger", "happiness")
TONE = ("Rising intonation", "Falling intonation", "Rise-fall intonation", "Fall-rise intonation")
COUNT = ("1 person", "2 people", "3 people", "4 people")
ORDER = ("high-medium-low", "high-low-medium", "low-high-medium", "medium-high-low")
TURN = ("the first person", "the second person", "the third person", "the fifth person")
OFFICIAL = (AGE, GENDER, EMOTION, TONE, COUNT, ORDER, TURN)


def parse(text: str, choices: tuple[str, ...]) -> ParsedAnswer:
    return parse_answer(text, choices, tuple("ABCDEFGH"[: len(choices)]))


@pytest.mark.parametrize(
    ("text", "choices", "choice"),
    [
        ("(B)", GENDER, "Male"),
        ("b)", GENDER, "Male"),
        ("B.", GENDER, "Male"),
        ("B:", GENDER, "Male"),
        ("B", GENDER, "Male"),
        (" b ", GENDER, "Male"),
        ("a", GENDER, "Female"),
        ("(b): male.", GENDER, "Male"),
        ("(a) young adult.", AGE, "Young adult"),
        ("B): Male.", GENDER, "Male"),  # the reply goes on after the answer prefix "("
        ("Male", GENDER, "Male"),
        ("female.", GENDER, "Female"),
        ("The answer is (C)", AGE, "Elderly adult"),
        ("The answer is C because it shakes", AGE, "Elderly adult"),
        ("The answer is: B", GENDER, "Male"),
        ("Answer: B. Male", GENDER, "Male"),
        ("I think it is B.", GENDER, "Male"),
        ("Option A is right", GENDER, "Female"),
        ("**B**", GENDER, "Male"),
        ("\\boxed{B}", GENDER, "Male"),
        ("[B]", GENDER, "Male"),
        ("B\nMale", GENDER, "Male"),
        ("B - Male", GENDER, "Male"),
        ("Male (B)", GENDER, "Male"),
        ("A.Young adult", AGE, "Young adult"),
        ("(B):Male.<|im_end|>", GENDER, "Male"),
        ("<think>(A), no wait</think>(B)", GENDER, "Male"),
        ("perhaps (A)</think>(B)", GENDER, "Male"),
        # the English article is no letter
        ("A young adult speaks", AGE, "Young adult"),
        ("A child speaks", AGE, "Child"),
        ("The answer is a child.", AGE, "Child"),
        ("e.g. a child", AGE, "Child"),
        # option texts inside each other, and other spellings
        ("rise-fall intonation", TONE, "Rise-fall intonation"),
        ("Rising", TONE, "Rising intonation"),
        ("The intonation is rising.", TONE, "Rising intonation"),
        ("(C) Rise-fall", TONE, "Rise-fall intonation"),
        ("two people", COUNT, "2 people"),
        ("high, medium, low", ORDER, "high-medium-low"),
        ("The first person", TURN, "the first person"),
        # an announced answer is what counts, after the options were repeated
        ("(A): Female. (B): Male. Answer: (B)", GENDER, "Male"),
    ],
)
def test_accepted(text: str, choices: tuple[str, ...], choice: str) -> None:
    answer = parse(text, choices)
    assert (answer.status, answer.choice) == ("ok", choice)


@pytest.mark.parametrize(
    ("text", "choices", "status"),
    [
        ("", GENDER, "unparsed"),
        ("   \n", GENDER, "unparsed"),
        ("I cannot tell.", GENDER, "unparsed"),
        ("Both", GENDER, "unparsed"),
        ("high", ORDER, "unparsed"),  # a level is not an order
        ("The answer is a", AGE, "unparsed"),  # cut off
        ("the speaker is a", AGE, "unparsed"),
        ("<think>it may be (B)", GENDER, "unparsed"),
        ("Not male.", GENDER, "unparsed"),
        ("It does not sound like a male", GENDER, "unparsed"),
        ("(B) is wrong", GENDER, "unparsed"),
        ("(C)", GENDER, "unparsed"),
        ("2 person(s)", COUNT, "unparsed"),
        ("(A) Male", GENDER, "contradiction"),
        ("B Female", GENDER, "contradiction"),
        ("(b) young adult.", AGE, "contradiction"),
        ("(A) Rise-fall", TONE, "contradiction"),
        ("(C) Male", GENDER, "contradiction"),
        ("B or C", AGE, "ambiguous"),
        ("A or B", AGE, "ambiguous"),
        ("(B) or A.", GENDER, "ambiguous"),
        ("A, B", GENDER, "ambiguous"),
        ("a) b)", GENDER, "ambiguous"),
        ("Male or female", GENDER, "ambiguous"),
        ("(B) Male, or maybe female", GENDER, "ambiguous"),
        ("It is not male, it is female", GENDER, "ambiguous"),
        ("(A): Female. (B): Male.", GENDER, "ambiguous"),
        ("The answer is (A). The answer is (B).", GENDER, "ambiguous"),
        ("low-high-medium-low", ORDER, "ambiguous"),
    ],
)
def test_refused(text: str, choices: tuple[str, ...], status: str) -> None:
    answer = parse(text, choices)
    assert (answer.status, answer.choice) == (status, None)


def test_both_sides_of_a_contradiction_are_reported() -> None:
    assert parse("(A) Male", GENDER) == ParsedAnswer(None, "contradiction", "A", "Male")


def test_letters_are_those_on_disk() -> None:
    assert parse_answer("(D)", GENDER, ("B", "D")).choice == "Male"
    assert parse_answer("(A)", GENDER, ("B", "D")) == ParsedAnswer(None, "unparsed", "A")
    with pytest.raises(ValueError, match="2 choices but 1 letters"):
        parse_answer("A", GENDER, ("A",))
    assert parse_answer(None, GENDER, ("A", "B")).status == "unparsed"


def test_options_that_differ_in_case_only_need_the_letter() -> None:
    choices = ("us", "US")
    assert parse("(B) US", choices).choice == "US"
    assert parse("us", choices).status == "ambiguous"


def test_version_is_a_string() -> None:
    assert PARSER_VERSION


SHAPES = ("({L}): {t}.", "({l}) {t}.", "{L}. {t}", "{L}: {t}", "{L}) {t}", "{t}", "({L})", "{L}", "{l})", "{L}.")
SHAPES += ("The answer is ({L}).", "The answer is {t}.", "Answer: {L}", "{t} ({L})", "**{L}**", "{L}): {t}.")


@settings(deadline=None)
@given(st.sampled_from(OFFICIAL), st.data())
def test_every_shape_of_every_official_option_is_read(choices: tuple[str, ...], data: st.DataObject) -> None:
    order = tuple(data.draw(st.permutations(choices)))
    index = data.draw(st.integers(0, len(order) - 1))
    letter = "ABCD"[index]
    text = data.draw(st.sampled_from(SHAPES)).format(L=letter, l=letter.lower(), t=order[index])
    change = data.draw(st.sampled_from((str, str.upper, str.lower)))
    answer = parse(change(text) if "{t}" in text or order[index] in text else text, order)
    assert (answer.status, answer.choice) == ("ok", order[index])


@settings(deadline=None)
@given(st.sampled_from(OFFICIAL), st.data())
def test_a_letter_with_another_text_is_a_contradiction(choices: tuple[str, ...], data: st.DataObject) -> None:
    i, j = data.draw(st.permutations(range(len(choices))))[:2]
    for shape in ("({L}): {t}.", "{L}. {t}", "{L}) {t}", "The answer is ({L}), {t}."):
        answer = parse(shape.format(L="ABCD"[i], t=choices[j]), choices)
        assert answer == ParsedAnswer(None, "contradiction", "ABCD"[i], choices[j])


@settings(deadline=None)
@given(st.sampled_from(OFFICIAL), st.data())
def test_two_options_are_never_one(choices: tuple[str, ...], data: st.DataObject) -> None:
    i, j = data.draw(st.permutations(range(len(choices))))[:2]
    joiner = data.draw(st.sampled_from((" or ", " and ", ", ", " / ", ". ", "\n")))
    left = data.draw(st.sampled_from(("({L})", "{t}", "({L}) {t}")))
    right = data.draw(st.sampled_from(("({L})", "{t}", "({L}) {t}")))
    text = left.format(L="ABCD"[i], t=choices[i]) + joiner + right.format(L="ABCD"[j], t=choices[j])
    answer = parse(text, choices)
    assert answer.choice is None and answer.status in ("ambiguous", "contradiction")


_NAMES = st.lists(st.text("abcdefg -", min_size=2, max_size=12), min_size=2, max_size=6, unique_by=str.casefold)


@given(_NAMES, st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_gives_a_consistent_answer(choices: list[str], text: str) -> None:
    letters = "ABCDEFGH"[: len(choices)]
    answer = parse_answer(text, choices, letters)
    assert (answer.choice is not None) == (answer.status == "ok")
    assert answer.choice is None or answer.choice in choices
    if answer.status == "ok":
        assert answer.letter is not None or answer.text_choice == answer.choice
        assert answer.letter is None or dict(zip(letters, choices, strict=True))[answer.letter] == answer.choice
    assert parse_answer(text, choices, letters) == answer


@given(st.text("ABCD()abcd .,:;-'\n or and not is answer young adult child", max_size=40))
@settings(max_examples=300, deadline=None)
def test_an_answer_always_has_evidence(text: str) -> None:
    answer = parse(text, AGE)
    if answer.status == "ok":
        assert answer.choice is not None
        named = answer.choice.casefold().replace("-", " ") in " ".join(text.casefold().replace("-", " ").split())
        assert (
            named or (answer.letter is not None and answer.letter.casefold() in text.casefold()) or answer.text_choice
        )


@pytest.mark.parametrize("piece", ["\n", " ", "not ", "(", "* ", "A or ", "<think>", "young ", '"'])
def test_long_replies_take_no_time(piece: str) -> None:
    start = time.perf_counter()
    parse(piece * 20000, AGE)
    assert time.perf_counter() - start < 3
