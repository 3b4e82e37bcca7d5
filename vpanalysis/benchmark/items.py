"""What is asked: one multiple-choice question about one clip, and a benchmark of many.

Why it exists. "Does the model listen or read?" is answered by comparing what a clip's *voice* makes true with what its
*words* claim. So an item carries both, by option text, and everything downstream (scores, margins, probes) reads them
from here instead of parsing files again.

The idea. `truth` is the option that the voice makes true. `said` are the options that the words assert: none on a
neutral clip, the truth (and whatever else fits the words) on a congruent one, wrong ones on a conflict one. On
conflict items what is said is a false claim, so `claims` equals `said` there and is empty elsewhere. `foils` are the
claims of the item's conflict twin, on every twin, so that margins of all twins are measured on the same options. All
are tuples, because one spoken level ("my pitch is high") claims every offered order that starts with it.

Empty answer slots are dropped when data is read, while the letters stay as on disk: a two-choice item may be offered as
(B) and (D).

Worked example::

    item = Item(
        id="gender_0001", task_name="gender_prediction", question="What is the speaker's gender?",
        choices=("Female", "Male"), letters=("A", "B"), truth="Female", said=("Male",),
        condition="conflict", foils=("Male",), audio=FileAudio("gender_0001.wav"),
    )
    item.claims                          # ("Male",)
    bench = Benchmark([item], name="one", source="by hand")
    bench.select(tasks="gender_prediction").to_dataframe()
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, overload

from vpanalysis._html import html_table, text_table
from vpanalysis.benchmark._selection import limited, wanted
from vpanalysis.benchmark.audio import AudioSource, duration_of
from vpanalysis.errors import AudioError, SchemaError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

    from vpanalysis.benchmark.transforms.effects import Effects

__all__ = ["ITEM_COLUMNS", "TASKS", "Benchmark", "Item"]

TASKS: tuple[str, ...] = (
    "age_prediction",
    "gender_prediction",
    "emotion_recognition",
    "pitch_comparison",
    "volume_comparison",
    "speed_comparison",
    "vocal_range_comparison",
    "intonation_perception",
    "speaker_identity_recognition",
    "total_speaker_counting",
)
"""The ten official task names, in the order of the leaderboard."""

ITEM_COLUMNS: tuple[str, ...] = (
    "id",
    "task_name",
    "condition",
    "cell",
    "speaker",
    "voice",
    "script",
    "transcript",
    "question",
    "choices",
    "letters",
    "truth",
    "said",
    "said_level",
    "claims",
    "foils",
    "category",
)
"""Columns of `Benchmark.to_dataframe`, in order."""


@dataclass(frozen=True)
class Item:
    """One question about one clip.

    Two items are equal when everything but the audio source is equal, so that an exported item equals its origin.

    Parameters
    ----------
    id : str
        Unique within a benchmark.
    task_name : str
        One of `TASKS`, or any other name for other data.
    question : str
        The question as the model reads it.
    choices : tuple of str
        The offered options, in the order of their letters; empty slots are dropped.
    letters : tuple of str
        The letter of each offered option, as on disk.
    truth : str
        The option that the voice makes true; one of `choices`.
    said : tuple of str
        The options that the words assert; empty when the words claim nothing.
    condition : str
        ``"conflict"``, ``"congruent"``, ``"neutral"``, ``"voice-swap"``, ``"plain-voice"``, or another name.
    foils : tuple of str
        The claims of the conflict twin; equal to `claims` on conflict items.
    audio : AudioSource
        The clip, read on access.
    cell : str, optional
        The design cell that twins share.
    speaker, voice, script : str, optional
        Who speaks, with which rendition, and which wording; the groups of grouped splits and clustered intervals.
    transcript : str, optional
        The words of the clip.
    said_level : str, optional
        The claimed level as a word, such as ``"high"`` in pattern tasks, else the claimed option.
    category : str, optional
        Where the benchmark files the item, from the widest part to the narrowest, joined by "/", such as
        ``"Perception/Paralinguistics/Speaker traits"`` in MMSU.

    Raises
    ------
    SchemaError
        If the fields contradict each other.
    """

    id: str
    task_name: str
    question: str
    choices: tuple[str, ...]
    letters: tuple[str, ...]
    truth: str
    said: tuple[str, ...]
    condition: str
    foils: tuple[str, ...]
    audio: AudioSource = field(compare=False, repr=False)
    cell: str | None = None
    speaker: str | None = None
    voice: str | None = None
    script: str | None = None
    transcript: str | None = None
    said_level: str | None = None
    category: str | None = None

    def __post_init__(self) -> None:
        for name in ("choices", "letters", "said", "foils"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        problem = self._problem()
        if problem is not None:
            name, found, allowed = problem
            raise SchemaError(f"cannot use the item {self.id!r}", found=f"field {name!r}: {found}", allowed=allowed)

    def _problem(self) -> tuple[str, str, str | None] | None:
        """Return (field, what was found, what is allowed) of the first contradiction, or None."""
        offered = ", ".join(repr(c) for c in self.choices)
        if not self.id:
            return "id", "empty", "a unique name"
        if len(self.choices) < 2:
            return "choices", f"{len(self.choices)} options", "at least two"
        if len(set(self.choices)) != len(self.choices):
            return "choices", f"the same option twice in {offered}", "distinct options"
        if len(self.letters) != len(self.choices) or len(set(self.letters)) != len(self.letters):
            return "letters", repr(self.letters), "one distinct letter for each offered option"
        if self.truth not in self.choices:
            return "truth", repr(self.truth), offered
        for name, options in (("said", self.said), ("foils", self.foils)):
            for option in options:
                if option not in self.choices:
                    return name, repr(option), offered
        if self.condition == "conflict" and self.truth in self.said:
            return "said", f"the truth {self.truth!r} on a conflict item", "options other than the truth"
        if self.condition == "conflict" and set(self.foils) != set(self.said):
            return "foils", repr(self.foils), f"{self.said!r}: on conflict items the foils are the claims"
        if self.condition == "congruent" and self.truth not in self.said:
            return (
                "said",
                f"{self.said!r} without the truth {self.truth!r} on a congruent item",
                "options with the truth",
            )
        if self.condition == "neutral" and self.said:
            return "said", f"{self.said!r} on a neutral item", "nothing"
        return None

    @property
    def claims(self) -> tuple[str, ...]:
        """What the words claim against the voice: `said` on conflict items, else nothing."""
        return self.said if self.condition == "conflict" else ()

    @property
    def duration_s(self) -> float:
        """Duration of the clip in seconds, read on access.

        Raises
        ------
        AudioError
            If the clip cannot be read.
        """
        return duration_of(self.audio)

    def letter_of(self, choice: str) -> str:
        """Return the letter of an offered option.

        Raises
        ------
        SchemaError
            If `choice` is not offered.
        """
        if choice not in self.choices:
            raise SchemaError(
                f"cannot find an option of the item {self.id!r}", found=repr(choice), allowed=self.choices, word=choice
            )
        return self.letters[self.choices.index(choice)]

    def content(self) -> dict[str, object]:
        """Return what defines the question, for hashing: id, task, question, options, truth, said, condition."""
        return {
            "id": self.id,
            "task_name": self.task_name,
            "question": self.question,
            "choices": self.choices,
            "letters": self.letters,
            "truth": self.truth,
            "said": self.said,
            "condition": self.condition,
            "foils": self.foils,
        }


class Benchmark(Sequence[Item]):
    """An immutable sequence of items with a name and a content hash.

    Index it by position, by slice (gives a Benchmark), or by item id.

    Parameters
    ----------
    items : iterable of Item
        The questions; ids must be unique.
    name : str
        What to call it in tables.
    source : str
        Where it came from: a path, a Hub id, ``"mini"``.
    revision : str, optional
        Revision of the source, where it has one.

    Raises
    ------
    SchemaError
        If two items share an id.
    """

    def __init__(self, items: Iterable[Item], *, name: str, source: str, revision: str | None = None) -> None:
        self._items: tuple[Item, ...] = tuple(items)
        self._name, self._source, self._revision = name, source, revision
        self._index = {item.id: i for i, item in enumerate(self._items)}
        if len(self._index) != len(self._items):
            twice = [i for i, n in Counter(item.id for item in self._items).items() if n > 1]
            raise SchemaError(
                f"cannot make the benchmark {name!r}",
                found=f"{len(twice)} ids used more than once, such as {twice[0]!r}",
                allowed="unique ids",
            )

    @property
    def name(self) -> str:
        """What to call it in tables."""
        return self._name

    @property
    def source(self) -> str:
        """Where it came from."""
        return self._source

    @property
    def revision(self) -> str | None:
        """Revision of the source, where it has one."""
        return self._revision

    @cached_property
    def sha(self) -> str:
        """SHA-256 (hex) over the questions, options, answers and audio keys, in order.

        Reads every audio file once. An unreadable clip counts by its name, so that a benchmark with one broken file
        still has a hash, and another one after the file was repaired.
        """
        digest = hashlib.sha256()
        for item in self._items:
            try:
                audio = item.audio.key()
            except AudioError:
                audio = "unreadable"
            digest.update(json.dumps({**item.content(), "audio": audio}, sort_keys=True).encode())
            digest.update(b"\n")
        return digest.hexdigest()

    @property
    def ids(self) -> tuple[str, ...]:
        """Item ids, in order."""
        return tuple(self._index)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names that occur: official ones in leaderboard order, then others as met."""
        met = dict.fromkeys(item.task_name for item in self._items)
        return (*(t for t in TASKS if t in met), *(t for t in met if t not in TASKS))

    @property
    def conditions(self) -> tuple[str, ...]:
        """Conditions that occur, as met."""
        return tuple(dict.fromkeys(item.condition for item in self._items))

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def __contains__(self, value: object) -> bool:
        return value in self._index if isinstance(value, str) else value in self._items

    @overload
    def __getitem__(self, key: int) -> Item: ...
    @overload
    def __getitem__(self, key: slice) -> Benchmark: ...
    @overload
    def __getitem__(self, key: str) -> Item: ...
    def __getitem__(self, key: int | slice | str) -> Item | Benchmark:
        if isinstance(key, slice):
            return self._with(self._items[key])
        if isinstance(key, str):
            if key not in self._index:
                raise KeyError(f"no item {key!r} in the benchmark {self.name!r}{did_you_mean(key, self._index)}")
            return self._items[self._index[key]]
        return self._items[key]

    def __eq__(self, other: object) -> bool:
        return self._items == other._items if isinstance(other, Benchmark) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._items)

    def _with(self, items: Iterable[Item]) -> Benchmark:
        return Benchmark(items, name=self.name, source=self.source, revision=self.revision)

    def filter(self, predicate: Callable[[Item], bool]) -> Benchmark:
        """Return the items for which `predicate` holds, in order."""
        return self._with(item for item in self._items if predicate(item))

    def select(
        self,
        tasks: str | Iterable[str] | None = None,
        conditions: str | Iterable[str] | None = None,
        ids: str | Iterable[str] | None = None,
        limit: int | None = None,
    ) -> Benchmark:
        """Return a part of the benchmark, in the same order.

        Parameters
        ----------
        tasks, conditions, ids : str or iterable of str, optional
            Keep these only.
        limit : int, optional
            Keep at most so many items, spread evenly over the tasks; twins of one cell are taken together as far as
            the limit allows.

        Raises
        ------
        SchemaError
            If a task, condition or id does not occur, or `limit` is negative.
        """
        wanted_tasks = wanted("task", tasks, self.tasks, self.name)
        wanted_conditions = wanted("condition", conditions, self.conditions, self.name)
        wanted_ids = wanted("id", ids, self._index, self.name)
        kept = [
            item
            for item in self._items
            if (wanted_tasks is None or item.task_name in wanted_tasks)
            and (wanted_conditions is None or item.condition in wanted_conditions)
            and (wanted_ids is None or item.id in wanted_ids)
        ]
        return self._with(kept if limit is None else limited(kept, limit))

    def with_audio(
        self, name: str, *, voice: str | None = None, effects: Effects | None = None, **params: float
    ) -> Benchmark:
        """Return the benchmark with every clip transformed, such as played backwards: an ordinary benchmark.

        Parameters
        ----------
        name : str
            A transform of `vpanalysis.benchmark.transforms`, such as ``"reversed"`` (words absent), ``"flattened"``
            (voice absent) or ``"silence"``, or several joined by "+", applied from left to right.
        voice : {"present", "absent"}, optional
            As what the clips are to serve. "present": keep the items whose truth is known after the transform.
            "absent": keep those where it takes the voice fully. Default: "present" for transforms that remove words
            alone, all items for those that remove the voice.
        effects : mapping, optional
            By task and transform, what happens to the truth in tasks other than the ten: "keep", "destroy" or an
            `Effect`.
        **params : float
            Of the transform.

        Returns
        -------
        Benchmark
            Named ``<name>:<transform>``; the same ids, conditions ``<condition>/<transform>``, truth mapped where the
            transform flips it. Where words are removed, nothing is said; `foils` stay. Nothing is computed before a
            clip is loaded.

        Raises
        ------
        SchemaError
            For an unknown transform or parameter, or when no item can be used.
        """
        from vpanalysis.benchmark.transforms.effects import with_audio

        return with_audio(self, name, voice=voice, effects=effects, **params)

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row an item with the columns `ITEM_COLUMNS`; list fields are tuples, the audio is left out."""
        import pandas as pd

        rows = [[getattr(item, column) for column in ITEM_COLUMNS] for item in self._items]
        return pd.DataFrame(rows, columns=list(ITEM_COLUMNS), dtype=object)

    def summary(self) -> pd.DataFrame:
        """Return the number of items per task (rows, named index) and condition (columns), plus options a question."""
        import pandas as pd

        counts = Counter((item.task_name, item.condition) for item in self._items)
        options: dict[str, set[int]] = {}
        for item in self._items:
            options.setdefault(item.task_name, set()).add(len(item.choices))
        rows = [
            {
                "task": task,
                "options": "/".join(str(n) for n in sorted(options[task])),
                **{condition: counts[task, condition] for condition in self.conditions},
            }
            for task in self.tasks
        ]
        return pd.DataFrame(rows, columns=["task", "options", *self.conditions]).set_index("task")

    def _title(self) -> str:
        revision = f" at {self.revision}" if self.revision else ""
        return f"Benchmark {self.name!r} from {self.source}{revision}: {len(self)} items, {len(self.tasks)} tasks"

    def __repr__(self) -> str:
        return text_table(self.summary(), self._title())

    def _repr_html_(self) -> str:
        return html_table(self.summary(), self._title())
