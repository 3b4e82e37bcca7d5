"""From what a model wrote to the option that it picked, without ever guessing.

Why it exists. The same replies score 49 or 55 % under different regular expressions. So there is one parser, it has a
version that is stored with every score, and it prefers to say "I cannot tell" over a plausible guess: an unparsed or
ambiguous reply is shown in its own column, while a wrong guess hides in the accuracy.

The idea. A reply gives two kinds of evidence: *letters* and *option texts*. A letter counts only where it is written as
one: ``(B)``, ``b)``, ``B.``, ``B:``, ``Option B``, ``the answer is B``, or alone. So the article in "A young adult
speaks" is no letter. An option text counts where its words stand in the reply one after the other, compared without
case and punctuation; inside a longer option text ("male" in "female", "adult" in "young adult") it does not count. The
verdict then needs no weighing:

========================  ====================  ===============
letters                   texts                 status
========================  ====================  ===============
one                       none, or the same     ``ok``
none                      one                   ``ok``
one                       another               ``contradiction``
two or more               any                   ``ambiguous``
any                       two or more           ``ambiguous``
none, or not offered      none                  ``unparsed``
========================  ====================  ===============

A denied option ("not male") is no answer; together with another one it makes the reply ambiguous. Where a reply
announces its answer ("... so the answer is (C)"), only what follows the announcement is read, unless that says nothing;
reasoning between ``<think>`` tags is dropped.

Worked example::

    parse_answer("(b) young adult.", ("Child", "Young adult"), ("A", "B")).choice   # "Young adult"
    parse_answer("(A) Young adult", ("Child", "Young adult"), ("A", "B")).status    # "contradiction"
    parse_answer("A young adult speaks", ("Child", "Young adult"), ("A", "B")).choice   # "Young adult"
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["PARSER_VERSION", "ParseStatus", "ParsedAnswer", "parse_answer", "text_key"]

PARSER_VERSION = "1.0"
"""Changes whenever any reply could be read differently."""

ParseStatus = Literal["ok", "unparsed", "ambiguous", "contradiction"]


@dataclass(frozen=True)
class ParsedAnswer:
    """What a reply says.

    Parameters
    ----------
    choice : str or None
        The option picked; None unless `status` is ``"ok"``.
    status : {"ok", "unparsed", "ambiguous", "contradiction"}
        See the table in the module's docstring.
    letter : str or None
        The one letter found, even where it contradicts the text or is not offered.
    text_choice : str or None
        The one option whose text was found.
    """

    choice: str | None
    status: ParseStatus
    letter: str | None = None
    text_choice: str | None = None


# --- what counts as a letter -------------------------------------------------------------------------------------
# "A" and "I" are words; where a rule has no delimiter, they are left out.
_END = r"(?=\s*(?:[.,;:!?)\]]|$))"
_LETTER_RULES = tuple(
    re.compile(pattern, flags)
    for pattern, flags in (
        # (B), [b], \boxed{B}; but not the plural in "person(s)".
        (r"(?<!\w)[(\[{]\s*([A-Za-z])\s*[)\]}]", 0),
        (r"\\boxed\{\s*([A-Za-z])\s*\}", 0),
        # b)
        (r"(?<![\w'’(\[{])([A-Za-z])\s?\)", 0),
        # A line that starts with "B." or "B:" or "B -" or is nothing but "B"; not "e.g." or "a.m.".
        (r"^[ \t\"'*_>#`-]*([A-Za-z])[\"'*_`]*\s*(?:\.(?![A-Za-z]\.)|:|[,;](?=\s|$)|[-–—](?=\s)|$)", re.MULTILINE),
        # "B Male": an undelimited capital at the very start.
        (r"^[\s\"'*_`]*([B-HJ-Z])(?=\s)", 0),
        # 'B', **B**
        (r"(?<!\w)[\"'*_`“‘]{1,3}([A-Za-z])[\"'*_`”’]{1,3}(?!\w)", 0),
        # Option B; "choice b."
        (r"\b(?:[Oo]ption|[Cc]hoice|[Ll]etter|[Aa]nswer|[Aa]lternative)\s*[:#]?\s*([A-Z])(?!['’\w])", 0),
        (r"\b(?:option|choice|letter|answer|alternative)\s+([a-z])" + _END, re.IGNORECASE),
        # it is B; I choose b. A lower-case "a" at the end is a sentence that was cut off.
        (r"\b(?:is|be|it['’]s|choose|chose|pick|select|say|with)\s+([A-Zb-hj-z])" + _END, 0),
    )
)
# Capitals that stand alone, and letters joined by "or": no answer by themselves, but doubt about another letter.
_DOUBT_RULES = (
    re.compile(r"(?<![\w'’.\-])([B-HJ-Z])(?![\w'’\-])"),
    re.compile(r"(?:\b(?:or|and)\s+|[/&,]\s*)[(\"'*]?([A-Za-z])[)\"'*]?" + _END),
    re.compile(r"(?<![\w'’])([A-Za-z])[)\"'*]?(?=\s*[/&]|,?\s+(?:or|and)\s+[(\"'*]?[A-Za-z](?!\w))"),
)
_SLOTS = frozenset("ABCDEFGH")  # Letters that mean an answer slot even where it was not offered.

# --- words around a mention --------------------------------------------------------------------------------------
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|never|neither|nor|cannot|non|unlike|except|rather\s+than|instead\s+of)|n['’]t)"
    r"(?:\W+[\w'’]+){0,5}[\s\-(\[{\"'*]*$",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(
    r"^[\s)\]}\"'*:]*(?:(?:is|was|are|were|seems?|sounds?|would\s+be)\s+(?:\w+ly\s+)?"
    r"(?:not|wrong|incorrect|false|unlikely)|(?:is|was|are|were|does|can|could|would)n['’]t|cannot)\b",
    re.IGNORECASE,
)
_ANNOUNCED = re.compile(r"\banswer\s*(?:is\s*:?|:|=)", re.IGNORECASE)
# Thoughts that were cut off hold no answer; a closing tag alone means that the prompt opened the thought.
_NOISE = re.compile(r"<think>.*?(?:</think>|\Z)|\A.*</think>|<\|[^|<>]*\|>|</?s>|</?answer>", re.IGNORECASE | re.DOTALL)
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(i) for i, word in enumerate(_DIGITS)}
_FILLERS = {"the", "a", "an", "is", "it", "it's", "this", "that", "most", "likely", "answer", "option", "choice", "my"}


def parse_answer(text: str | None, choices: Sequence[str], letters: Sequence[str]) -> ParsedAnswer:
    """Read a reply to a multiple-choice question.

    Parameters
    ----------
    text : str or None
        The raw reply. With an answer prefix such as ``"("`` it may begin in the middle, as in ``"B): Male."``.
    choices : sequence of str
        The offered options.
    letters : sequence of str
        The letter of each option.

    Returns
    -------
    ParsedAnswer
        Never a guess; see the table in the module's docstring.

    Raises
    ------
    ValueError
        If `choices` and `letters` differ in length.
    """
    if len(choices) != len(letters):
        raise ValueError(f"{len(choices)} choices but {len(letters)} letters")
    reply = unicodedata.normalize("NFKC", _NOISE.sub(" ", text or "")).strip()
    if not reply:
        return ParsedAnswer(None, "unparsed")
    marks = list(_ANNOUNCED.finditer(reply))
    stops = [mark.start() for mark in marks[1:]] + [len(reply)]
    parts = [reply[mark.end() : stop].strip() for mark, stop in zip(marks, stops, strict=False)]
    announced = [_read(part, choices, letters, whole=False) for part in parts]
    told = [answer for answer in announced if answer.status != "unparsed"]
    if not told:
        return _read(reply, choices, letters, whole=not marks)
    # Two announcements that agree are one; two that differ are a doubt.
    return told[0] if all(answer.choice == told[0].choice for answer in told) else ParsedAnswer(None, "ambiguous")


def _read(text: str, choices: Sequence[str], letters: Sequence[str], *, whole: bool) -> ParsedAnswer:
    """Weigh the letters and option texts of one passage; `whole` says that it is the whole reply."""
    option_of = {letter.upper(): choice for letter, choice in zip(letters, choices, strict=True)}
    spans = _letter_spans(text, option_of, whole=whole)
    found = {text[a].upper() for a, _ in spans if not _denied(text, a, a + 1)}
    denied = {text[a].upper() for a, _ in spans} - found
    # Letters are blanked before texts are searched, so that the "A" of "(A)" is not read as an article or an option.
    blanked = list(text)
    for start, stop in spans:
        blanked[start:stop] = " " * (stop - start)
    groups, denied_groups = _text_groups("".join(blanked), text, choices)
    doubts = {m[1].upper() for rule in _DOUBT_RULES for m in rule.finditer(text)} & set(option_of)

    letter = next(iter(found)) if len(found) == 1 else None
    group = next(iter(groups)) if len(groups) == 1 else None
    text_choice = group[0] if group is not None and len(group) == 1 else None
    picked = option_of.get(letter) if letter is not None else None
    on_disk = next((x for x in letters if x.upper() == letter), letter)
    if not found and not groups:
        status: ParseStatus = "ambiguous" if len(doubts) > 1 else "unparsed"
        return ParsedAnswer(None, status)
    if len(found) > 1 or len(groups) > 1 or denied or denied_groups:
        return ParsedAnswer(None, "ambiguous", on_disk, text_choice)
    if letter is not None:
        if doubts - found:
            return ParsedAnswer(None, "ambiguous", on_disk, text_choice)
        if group is None:
            return ParsedAnswer(picked, "unparsed" if picked is None else "ok", on_disk)
        agrees = picked in group
        return ParsedAnswer(picked if agrees else None, "ok" if agrees else "contradiction", on_disk, text_choice)
    if text_choice is None or any(option_of[d] != text_choice for d in doubts):
        return ParsedAnswer(None, "ambiguous", None, text_choice)
    return ParsedAnswer(text_choice, "ok", None, text_choice)


def _letter_spans(text: str, option_of: dict[str, str], *, whole: bool) -> set[tuple[int, int]]:
    """Return (start, stop) of each character that is written as a letter of an answer slot."""
    spans = set()
    for rule in _LETTER_RULES:
        for match in rule.finditer(text):
            start, stop = match.span(1)
            known = match[1].upper() in option_of or match[1].upper() in _SLOTS
            # "The answer is a" is an article before a word that never came, unless "a" is the whole reply.
            cut = match[1] in "ai" and not whole and not text[stop:].strip(" \t\"'*_`")
            if known and not cut:
                spans.add((start, stop))
    return spans


def _denied(text: str, start: int, stop: int) -> bool:
    """Whether the mention at text[start:stop] is denied by the words around it, within its clause."""
    before = re.split(r"[.,;:!?\n]", text[:start])[-1]
    return bool(_DENIED_BEFORE.search(before)) or bool(_DENIED_AFTER.match(text[stop : stop + 60]))


def _words(text: str) -> list[tuple[str, int, int]]:
    """Return the words of `text`, folded, number words as digits, each with its span."""
    return [(_NUMBERS.get(m[0].casefold(), m[0].casefold()), *m.span()) for m in _WORD.finditer(text)]


def text_key(choice: str) -> tuple[str, ...]:
    """Return what of an option's text is compared; options with equal keys are told apart by their letter alone."""
    normal = unicodedata.normalize("NFKC", choice)
    return tuple(w for w, _, _ in _words(normal)) or (normal.strip().casefold(),)


def _text_groups(blanked: str, text: str, choices: Sequence[str]) -> tuple[set[tuple[str, ...]], set[tuple[str, ...]]]:
    """Return the options whose words occur, and those whose every occurrence is denied.

    Options that differ in case or punctuation only cannot be told apart by text, so an entry is the group of them.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for choice in choices:
        groups.setdefault(text_key(choice), []).append(choice)
    words = _words(blanked)
    sequence = [w for w, _, _ in words]
    hits = [
        (i, i + len(key), key)
        for key in groups
        for i in range(len(sequence) - len(key) + 1)
        if tuple(sequence[i : i + len(key)]) == key
    ]
    # Inside a longer option, a shorter one was not said.
    hits = [(a, b, key) for a, b, key in hits if not any(c <= a and b <= d and (d - c) > (b - a) for c, d, _ in hits)]
    positive = {key for a, b, key in hits if not _denied(text, words[a][1], words[b - 1][2])}
    negative = {key for _, _, key in hits} - positive
    if not hits:
        positive = _short_form(sequence, list(groups))
        # An option without any word, such as a sign, can only be the whole reply.
        positive |= {key for key in groups if key == (text.strip().casefold(),)}
    return {tuple(groups[key]) for key in positive}, {tuple(groups[key]) for key in negative}


def _short_form(sequence: list[str], keys: list[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """Recognize "rising" for "rising intonation" where every option ends (or begins) with the same words.

    Only where nothing else is left in the reply, since a lone "first" or "same" may mean anything.
    """
    if len(keys) < 2:
        return set()
    shortest = min(len(key) for key in keys)
    head = next((n for n in range(shortest) if len({key[n] for key in keys}) > 1), shortest)
    tail = next((n for n in range(shortest) if len({key[-1 - n] for key in keys}) > 1), shortest)
    if head + tail == 0 or head + tail >= shortest:
        return set()
    shared = {*keys[0][:head], *keys[0][len(keys[0]) - tail :]}
    rest = tuple(w for w in sequence if w not in shared and w not in _FILLERS)
    return {key for key in keys if key[head : len(key) - tail] == rest}
