"""From one raw record to one Item, or to every reason why not.

The released dataset, its precursor and our own export differ in how they write the same facts: a list as a JSON string
or joined by semicolons, an unused answer slot as null or as the word "None", an answer as text or as a letter. All of
that is settled here, record by record, and nothing raises before the whole file was read: `items_from_rows` gathers a
`Problem` for each field that cannot be understood and then raises one error that names them all.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vpanalysis._untrusted import is_text
from vpanalysis.benchmark._files import AUDIO_KEYS, Row
from vpanalysis.benchmark._lists import as_list, cut, fold
from vpanalysis.benchmark._lookalikes import look_alikes
from vpanalysis.benchmark._roots import OUTSIDE, AudioRoot
from vpanalysis.benchmark.items import Item
from vpanalysis.errors import SchemaError, did_you_mean

__all__ = ["LABEL_KEYS", "Problem", "is_missing", "items_from_rows", "raise_problems"]

LABEL_KEYS = ("adversarial_labels", "pretend_label")
_CATEGORY_KEYS = ("category", "sub-category", "sub-sub-category")
"""MMSU's taxonomy, from the widest part to the narrowest."""
MAX_REPORTED = 20
_SLOT_KEYS = tuple(f"choice_{letter}" for letter in string.ascii_lowercase)
_ORDER = re.compile(r"(?:high|medium|low)(?:-(?:high|medium|low))+", re.IGNORECASE)
_LETTER = re.compile(r"\(?([A-Za-z])\)?[.:]?")
_LETTER_AND_TEXT = re.compile(r"\(?([A-Za-z])(?:\)\s*[.:]?|[.:])\s*(\S.*)", re.DOTALL)


@dataclass(frozen=True)
class Problem:
    """One field that cannot be understood."""

    row: int
    field: str
    found: str
    allowed: str

    def __str__(self) -> str:
        return f"row {self.row}, field {self.field!r}: found {self.found}; allowed: {self.allowed}"


def raise_problems(file: str, problems: Sequence[Problem], n_rows: int) -> None:
    """Raise one SchemaError that lists `problems` (up to `MAX_REPORTED`); return if there are none."""
    if not problems:
        return
    shown = [f"\n  {file}, {problem}" for problem in problems[:MAX_REPORTED]]
    if len(problems) > MAX_REPORTED:
        shown.append(f"\n  ... and {len(problems) - MAX_REPORTED} more")
    bad_rows = len({problem.row for problem in problems})
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in {bad_rows} of {n_rows} rows"
    raise SchemaError(
        f"cannot read the benchmark {file!r}", found=count + "".join(shown), fix="\ncorrect or remove these rows"
    )


def is_missing(value: object) -> bool:
    """Whether a cell is empty: None, NaN, or blank."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return isinstance(value, str) and not value.strip()


def _is_unused(value: object) -> bool:
    """Whether an answer slot or label is unused: empty, or the word null or none, as releases write it."""
    return is_missing(value) or (isinstance(value, str) and value.strip().casefold() in ("null", "none"))


def _show(value: object) -> str:
    """Return a short repr: an error must not print a clip's bytes."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def items_from_rows(
    rows: Sequence[Row], *, file: str, audio: AudioRoot, transcripts: Mapping[str, str] | None = None
) -> list[Item]:
    """Read every record, then return all items or raise one error about all problems.

    Parameters
    ----------
    rows : sequence of (int, object)
        Place in the file, from 1, and the record.
    file : str
        Named in messages.
    audio : AudioRoot
        Where clips are looked for.
    transcripts : mapping of str to str, optional
        Words by item id, used where a record has none.

    Raises
    ------
    SchemaError
        If any record cannot be understood.
    """
    problems: list[Problem] = []
    items: list[Item] = []
    open_foils: list[int] = []
    seen: dict[str, int] = {}
    # A file without any label asks about plain speech (MMSU does); in a file with labels an empty one is a defect.
    labelled = any(
        isinstance(row, Mapping) and any(not _is_unused(row.get(key)) for key in LABEL_KEYS) for _, row in rows
    )
    for number, row in rows:
        if not isinstance(row, Mapping):
            problems.append(Problem(number, "(row)", _show(row), "an object with named fields"))
            continue
        reader = _RowReader(number, row, problems)
        item = reader.item(audio, transcripts or {}, labelled=labelled)
        if item is None:
            continue
        if item.id in seen:
            reader.complain("id", repr(item.id), f"unique ids; row {seen[item.id]} has it already")
            continue
        seen[item.id] = number
        if "foils" not in row and item.condition != "conflict" and not item.foils:
            open_foils.append(len(items))
        items.append(item)
    raise_problems(file, problems, len(rows))
    return _foils_from_twins(items, open_foils)


def _foils_from_twins(items: list[Item], without: Iterable[int]) -> list[Item]:
    """Give items that name no foils those of their conflict twin, the conflict item of the same task and cell."""
    claims: dict[tuple[str, str | None], tuple[str, ...]] = {
        (i.task_name, i.cell): i.claims for i in items if i.condition == "conflict" and i.cell is not None
    }
    for index in without:
        item = items[index]
        foils = claims.get((item.task_name, item.cell), ())
        if foils and set(foils) <= set(item.choices):
            items[index] = replace(item, foils=foils)
    return items


class _RowReader:
    """Reads the fields of one record; what it cannot understand goes into `problems`."""

    def __init__(self, number: int, row: Mapping[str, Any], problems: list[Problem]) -> None:
        self.number, self.row, self.problems = number, row, problems
        self.choices: tuple[str, ...] = ()
        self.letters: tuple[str, ...] = ()

    def complain(self, field: str, found: str, allowed: str) -> None:
        self.problems.append(Problem(self.number, field, found, allowed))

    def item(self, audio: AudioRoot, transcripts: Mapping[str, str], *, labelled: bool) -> Item | None:
        before = len(self.problems)
        task = self.text("task_name", required=True)
        question = self.text("question", required=True)
        self.read_choices()
        truth = self.read_truth()
        key = next((k for k in AUDIO_KEYS if not is_missing(self.row.get(k))), None)
        name = self.text("id") or self.derived_id(task, key)
        source, outside = None, False
        try:
            source = audio.source(self.row[key], name or "clip") if key is not None else None
        except PermissionError as error:
            outside = True
            self.complain(key or "audio", str(error), OUTSIDE)
        if source is None and not outside:
            found = "nothing" if key is None else _show(self.row[key])
            self.complain(key or "audio", found, f"a path or an audio cell in one of {', '.join(AUDIO_KEYS)}")
        if name is None:
            self.complain("id", "nothing", "a unique name")
        condition, said, foils, level = self.read_words(truth, labelled=labelled)
        extra = {k: self.text(k) for k in ("cell", "speaker", "voice", "script")}
        # A `transcript` field, even an empty one, is about the words; else a `script` field holds them.
        words = self.text("transcript") if "transcript" in self.row else extra["script"]
        if len(self.problems) > before or None in (name, task, question, truth, source):
            return None
        assert name is not None and task is not None and question is not None
        assert truth is not None and source is not None
        try:
            return Item(
                id=name,
                task_name=task,
                question=question,
                choices=self.choices,
                letters=self.letters,
                truth=truth,
                said=said,
                condition=condition,
                foils=foils,
                audio=source,
                transcript=words if words is not None else transcripts.get(name),
                said_level=level,
                category=self.category(),
                **extra,
            )
        except SchemaError as error:
            self.complain("(row)", error.found or str(error), "fields that agree with each other")
            return None

    def text(self, field: str, *, required: bool = False) -> str | None:
        """Return a field as stripped text; numbers become their digits; empty is None."""
        value = self.row.get(field)
        if is_missing(value):
            if required:
                self.complain(field, "nothing", "text")
            return None
        if isinstance(value, bool) or not isinstance(value, (str, int, float, np.integer)):
            self.complain(field, _show(value), "text")
            return None
        text = str(value).strip()
        if not is_text(text):
            self.complain(field, _show(ascii(text)), "whole characters")
            return None
        return text

    def category(self) -> str | None:
        """Return where the benchmark files the item, joined by "/"; columns that hold no text are not about this."""
        values = [self.row.get(key, self.row.get(key.replace("-", "_"))) for key in _CATEGORY_KEYS]
        parts = [value.strip() for value in values if isinstance(value, str) and value.strip()]
        return "/".join(parts) or None

    def derived_id(self, task: str | None, audio_key: str | None) -> str | None:
        """Name a record without an id as the precursor does, by task and file."""
        value = self.row.get(audio_key) if audio_key is not None else None
        path = value.get("path") if isinstance(value, Mapping) else value
        if task is None or not isinstance(path, (str, Path)) or not str(path).strip():
            return None
        return f"{task}__{PurePosixPath(str(path).replace(chr(92), '/')).stem}"

    def read_choices(self) -> None:
        found: list[tuple[str, str]] = []
        # MMSU, and what we export, leave unused slots empty, and may offer the word "None" as an answer.
        taken = any(keys <= self.row.keys() for keys in ({"sub-category"}, {"sub_category"}, {"said", "foils"}))
        for key in _SLOT_KEYS:
            if (is_missing if taken else _is_unused)(self.row.get(key)):
                continue
            text = self.text(key)
            if text is not None:
                found.append((key[-1].upper(), text))
        if len(found) < 2:
            offered = ", ".join(_show(text) for _, text in found) or "no options"
            self.complain("choice_a..choice_d", offered, "at least two options; unused slots may be null")
        elif len({text for _, text in found}) < len(found):
            self.complain("choice_a..choice_d", ", ".join(_show(text) for _, text in found), "distinct options")
        elif (alike := look_alikes([text for _, text in found])) is not None:
            # As codes, because they look the same.
            self.complain("choice_a..choice_d", " and ".join(map(ascii, alike)), "options that do not look the same")
        self.letters = tuple(letter for letter, _ in found)
        self.choices = tuple(text for _, text in found)

    def allowed(self, word: str = "") -> str:
        offered = ", ".join(f"{_show(c)} ({x})" for c, x in zip(self.choices, self.letters, strict=True))
        return f"{offered}{did_you_mean(word, self.choices)}" if offered else "one of the options"

    def option(self, value: object) -> str | None:
        """Return the option that `value` names: its text, its letter, or both where they agree."""
        if isinstance(value, bool) or not isinstance(value, (str, int, np.integer)):
            return None
        text = str(value).strip()
        if text in self.choices:
            return text
        folded = [c for c in self.choices if fold(c) in (fold(text), fold(text.removesuffix(".")))]
        if folded:
            return folded[0] if len(folded) == 1 else None
        of_letter = dict(zip(self.letters, self.choices, strict=True))
        if match := _LETTER.fullmatch(text):
            return of_letter.get(match[1].upper())
        if match := _LETTER_AND_TEXT.fullmatch(text):
            choice = of_letter.get(match[1].upper())
            same = choice is not None and fold(match[2]).removesuffix(".") == fold(choice).removesuffix(".")
            return choice if same else None
        return None

    def read_truth(self) -> str | None:
        value = self.row.get("answer_gt")
        if _is_unused(value) and value not in self.choices:
            self.complain("answer_gt", "nothing", self.allowed())
            return None
        truth = self.option(value)
        if truth is None and self.choices:
            self.complain("answer_gt", _show(value), self.allowed(str(value)))
        return truth

    def read_words(
        self, truth: str | None, *, labelled: bool
    ) -> tuple[str, tuple[str, ...], tuple[str, ...], str | None]:
        """Return condition, said, foils and said_level."""
        key = next((k for k in LABEL_KEYS if not _is_unused(self.row.get(k))), None)
        given = self.labels(key) if key is not None else ()
        condition = self.text("condition")
        if condition is None:
            condition = "conflict" if labelled else "neutral"
        if condition == "conflict" and not given and "said" not in self.row:
            if key is None:
                self.complain(LABEL_KEYS[0], "nothing", f"{self.allowed()}; or a field 'condition' such as 'neutral'")
            return condition, (), (), None
        if "said" in self.row:
            said = self.labels("said")
        elif condition == "congruent":
            said = (truth,) if truth is not None else ()
        else:
            said = given if condition != "neutral" else ()
        if condition == "conflict" and truth is not None and truth in said:
            # The released file has no `said`: blame the field that is there.
            blamed = "said" if "said" in self.row else (key or LABEL_KEYS[0])
            self.complain(blamed, f"the truth {truth!r} among the labels", "options other than answer_gt")
        if condition == "conflict":
            foils = said
        elif "foils" in self.row:
            foils = self.labels("foils")
        else:
            foils = tuple(option for option in given if option != truth)
        level = self.text("said_level") if "said_level" in self.row else self.derived_level(said)
        return condition, said, foils, level

    def derived_level(self, said: tuple[str, ...]) -> str | None:
        """Return what the words claim as one word: the first level of an order, else the one claimed option."""
        if said and self.is_pattern():
            first = {option.split("-")[0] for option in said}
            return first.pop() if len(first) == 1 else None
        return said[0] if len(said) == 1 else None

    def is_pattern(self) -> bool:
        return bool(self.choices) and all(_ORDER.fullmatch(choice) for choice in self.choices)

    def labels(self, field: str) -> tuple[str, ...]:
        """Return the options that a list, a JSON string or a delimited string names, in order, once each."""
        if not self.choices:
            return ()
        value = self.row.get(field)
        if isinstance(value, np.ndarray):
            value = value.tolist()
        values: Sequence[object] = list(value) if isinstance(value, (list, tuple)) else self.split(value)
        found: list[str] = []
        wrong = 0
        for part in values:
            if _is_unused(part) and part not in self.choices:
                continue
            options = self.named(part)
            if not options:
                self.complain(field, _show(part), self.allowed(str(part)))
                wrong += 1
                if wrong == MAX_REPORTED:
                    break
            found.extend(options)
        return tuple(dict.fromkeys(found))

    def named(self, part: object) -> tuple[str, ...]:
        """Return the option of one label, or, for the precursor's claimed level, every order that starts with it."""
        option = self.option(part)
        if option is not None:
            return (option,)
        if isinstance(part, str) and self.is_pattern():
            return tuple(c for c in self.choices if fold(c).split("-")[0] == fold(part))
        return ()

    def split(self, value: object) -> list[object]:
        """Split a label that is not a list yet: an option, a JSON or Python list in text, or a delimited string."""
        if not isinstance(value, str) or self.named(value):
            return [value]
        if value.strip()[:1] in ("[", "(", '"', "'"):
            parsed = as_list(value)
            if parsed is not None:
                return parsed
        # Options may hold commas themselves, so whole options are looked for before the string is cut.
        options = {fold(choice): choice for choice in self.choices}
        pieces = cut(fold(value), options)
        if pieces is not None:
            return list(pieces)
        for delimiters in (r"[;\n]", r"\|", ","):
            parts = [part.strip() for part in re.split(delimiters, value) if part.strip()]
            if len(parts) > 1:
                return list(parts)
        return [value]
