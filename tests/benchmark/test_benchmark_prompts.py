"""The prompt is a value: one line by default, checked fields, a hash of everything but the name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vpanalysis.benchmark import DEFAULT_PROMPT, ArrayAudio, Item, PromptTemplate
from vpanalysis.errors import SchemaError

ITEM = Item(
    id="g",
    task_name="gender_prediction",
    question="What {is} the speaker's gender?",
    choices=("Female", "Male {text}"),
    letters=("A", "C"),
    truth="Female",
    said=(),
    condition="neutral",
    foils=(),
    audio=ArrayAudio(np.zeros(10, np.float32)),
)


def test_default_is_one_line_with_the_letters_on_disk() -> None:
    # Braces in data are text, not fields.
    expected = "What {is} the speaker's gender? (A): Female. (C): Male {text}."
    assert DEFAULT_PROMPT.render(ITEM) == expected
    assert DEFAULT_PROMPT.answer(ITEM, "Male {text}") == "(C): Male {text}."
    assert DEFAULT_PROMPT.answer_prefix == "("
    with pytest.raises(SchemaError, match="cannot find an option"):
        DEFAULT_PROMPT.answer(ITEM, "Child")


def test_sha_covers_everything_but_the_name() -> None:
    assert replace(DEFAULT_PROMPT, name="x").sha == DEFAULT_PROMPT.sha
    changed = [
        {"user": "{options} {question}"},
        {"option": "{letter}) {text}"},
        {"joiner": "\n"},
        {"answer_prefix": ""},
    ]
    assert len({DEFAULT_PROMPT.sha, *(replace(DEFAULT_PROMPT, **c).sha for c in changed)}) == 5


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "{question}"},
        {"user": "{question} {options} {audio}"},
        {"user": "{question.__class__} {options}"},
        {"user": "{question} {options"},
        {"option": "{letter}"},
        {"option": "{} {text}"},
    ],
)
def test_bad_templates_are_refused(fields: dict[str, str]) -> None:
    with pytest.raises(SchemaError, match="prompt template 'x'"):
        PromptTemplate("x", **fields)


def test_dict_round_trip() -> None:
    template = PromptTemplate("lines", joiner="\n", answer_prefix="")
    assert PromptTemplate.from_dict(template.to_dict()) == template
    with pytest.raises(SchemaError, match="did you mean 'joiner'"):
        PromptTemplate.from_dict({"name": "x", "joinr": " "})
    with pytest.raises(SchemaError, match="no key 'name'"):
        PromptTemplate.from_dict({"joiner": " "})
