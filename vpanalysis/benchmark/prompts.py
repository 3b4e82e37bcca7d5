"""How an item becomes the text that a model reads, and where its answer starts.

Why it exists. Prompt wording moves the scores of audio LLMs by ten points, so the wording is a value with a hash that
travels with every number, not a string inside a loop.

The idea. A template says how the question and the offered options are joined into one user turn, and which characters
the model's turn begins with (the *answer prefix*). With the prefix ``"("`` the next token is a bare letter, and the
options can be scored by the logits of that one position. The default is the one line that the authors' earlier
generation code writes, ``<question> (A): opt. (B): opt.``; the prompt of the release itself is not public.

Worked example::

    DEFAULT_PROMPT.render(item)   # "What is the speaker's gender? (A): Female. (B): Male."
    DEFAULT_PROMPT.answer(item, "Male")   # "(B): Male."
    DEFAULT_PROMPT.sha[:8]        # names this wording in a manifest
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from string import Formatter
from typing import TYPE_CHECKING

from vpanalysis.errors import SchemaError

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Item

__all__ = ["DEFAULT_PROMPT", "PromptTemplate"]


@dataclass(frozen=True)
class PromptTemplate:
    """A wording of the multiple-choice question.

    Parameters
    ----------
    name : str
        What to call it in tables. Not part of the hash.
    user : str
        The user turn, with the fields ``{question}`` and ``{options}``.
    option : str
        One option, with the fields ``{letter}`` and ``{text}``.
    joiner : str
        What stands between two options.
    answer_prefix : str
        The first characters of the model's turn, given rather than generated; the letter is the token after it.

    Raises
    ------
    SchemaError
        If a field is missing from, or unknown to, `user` or `option`.
    """

    name: str
    user: str = "{question} {options}"
    option: str = "({letter}): {text}."
    joiner: str = " "
    answer_prefix: str = "("

    def __post_init__(self) -> None:
        _check_fields(self.name, "user", self.user, {"question", "options"})
        _check_fields(self.name, "option", self.option, {"letter", "text"})

    def render(self, item: Item) -> str:
        """Return the user turn of `item`, without the audio placeholder and the chat template."""
        return self.user.format(question=item.question, options=self.options(item))

    def options(self, item: Item) -> str:
        """Return the offered options of `item`, joined."""
        pairs = zip(item.letters, item.choices, strict=True)
        return self.joiner.join(self.option.format(letter=letter, text=text) for letter, text in pairs)

    def answer(self, item: Item, choice: str) -> str:
        """Return the whole answer that picks `choice`, such as ``"(B): Male."``.

        Raises
        ------
        SchemaError
            If `choice` is not offered.
        """
        return self.option.format(letter=item.letter_of(choice), text=choice)

    @property
    def sha(self) -> str:
        """SHA-256 (hex) over everything but the name."""
        content = {k: v for k, v in asdict(self).items() if k != "name"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, str]:
        """Return the fields, for a manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, str]) -> PromptTemplate:
        """Rebuild a template from `to_dict`.

        Raises
        ------
        SchemaError
            If a key is unknown or `name` is missing.
        """
        known = [f.name for f in fields(cls)]
        for key in data:
            if key not in known:
                raise SchemaError("cannot read a prompt template", found=f"key {key!r}", allowed=known, word=key)
        if "name" not in data:
            raise SchemaError("cannot read a prompt template", found="no key 'name'", allowed=known)
        return cls(**data)


def _check_fields(name: str, part: str, template: str, wanted: set[str]) -> None:
    # Exact names only: a template from a file must not reach attributes through "{question.__class__}".
    try:
        found = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
    except ValueError as error:
        raise SchemaError(f"cannot use the prompt template {name!r}", found=f"{part}: {error}") from error
    if found != wanted:
        raise SchemaError(
            f"cannot use the prompt template {name!r}",
            found=f"{part} with the fields {sorted(found)}",
            allowed=f"exactly {sorted(wanted)}",
        )


DEFAULT_PROMPT = PromptTemplate("voxparadox")
"""One line, ``<question> (A): opt. (B): opt.``, answered after ``(``: the form of the authors' earlier code."""
