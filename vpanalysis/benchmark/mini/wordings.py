"""What is said: sentence frames whose slot takes a claim, and sentences that claim nothing.

Reading must be reading, not the recognition of a template. So a wording is composed of an opening, a core with a slot,
and a closing, and the compositions are dealt out to the splits: no wording of the test split occurs in the training
split of its own or any other task, while every word does. Each frame also carries one sentence without a claim, spoken
by the neutral twin.

The claim itself is a word for the label ("lady", "high", "two"); a label may have several words, used by turns.

>>> frame = frames("pitch_comparison", "test")[0]
>>> frame.claiming("high")                                               # doctest: +SKIP
'well my pitch is high today'
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

from vpanalysis.benchmark.items import TASKS
from vpanalysis.benchmark.mini.voices import rng_for

__all__ = ["CLAIM_WORDS", "FRAMES_PER_SPLIT", "Frame", "frames", "vocabulary"]

FRAMES_PER_SPLIT = {"train": 60, "validation": 16, "test": 24}
"""Wordings of each task, by split; disjoint."""

LEVELS = ("high", "medium", "low")
_LEVEL_WORDS: dict[str, tuple[str, ...]] = {level: (level,) for level in LEVELS}

CLAIM_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "age_prediction": {
        "Child": ("child", "kid"),
        "Young adult": ("student", "youngster"),
        "Middle-aged adult": ("parent", "manager"),
        "Elderly adult": ("grandparent", "pensioner"),
    },
    "gender_prediction": {"Female": ("woman", "lady"), "Male": ("man", "guy")},
    "emotion_recognition": {
        "neutral": ("calm", "neutral"),
        "sadness": ("sad", "unhappy"),
        "anger": ("angry", "furious"),
        "happiness": ("happy", "cheerful"),
    },
    "pitch_comparison": _LEVEL_WORDS,
    "volume_comparison": _LEVEL_WORDS,
    "speed_comparison": _LEVEL_WORDS,
    "vocal_range_comparison": _LEVEL_WORDS,
    "intonation_perception": {
        "Rising intonation": ("rising", "climbing"),
        "Falling intonation": ("falling", "dropping"),
    },
    "speaker_identity_recognition": {
        f"the {ordinal} person": (ordinal,) for ordinal in ("first", "second", "third", "fourth", "fifth")
    },
    "total_speaker_counting": {
        "1 person": ("one",),
        "2 people": ("two",),
        "3 people": ("three",),
        "4 people": ("four",),
    },
}
"""Spoken words for each label that words can claim (for pattern tasks: the level)."""

# Long frames for tasks of one rendition, short ones where a sentence is said three to five times in one window.
_LONG = ("", "well", "so", "look", "listen", "hello", "okay", "yes", "truly", "friends")
_SHORT = ("", "well", "so", "look", "now")
_AFTER_LONG = ("", "today", "you know", "my friend", "for sure", "as always", "this morning")
_AFTER_SHORT = ("", "today", "here", "again")
_CORES: dict[str, tuple[str, ...]] = {
    "age_prediction": (
        "i am a {}", "you are hearing a {}", "i speak to you as a {}", "people call me a {}", "this is a {} speaking",
    ),
    "gender_prediction": (
        "i am a {}", "you are hearing a {}", "i speak to you as a {}", "people call me a {}", "this is a {} speaking",
    ),
    "emotion_recognition": (
        "i am {}", "i feel very {}", "you hear that i am {}", "people find me {}", "my heart is {}",
    ),
    "pitch_comparison": ("my pitch is {}", "i use a {} pitch", "this pitch is {}", "hear my {} pitch"),
    "volume_comparison": ("my volume is {}", "i use a {} volume", "this volume is {}", "hear my {} volume"),
    "speed_comparison": ("my speed is {}", "i use a {} speed", "this speed is {}", "hear my {} speed"),
    "vocal_range_comparison": ("my range is {}", "i use a {} range", "this range is {}", "hear my {} range"),
    "intonation_perception": (
        "my voice is {}", "i speak with a {} tone", "you hear a {} voice", "the tone keeps {}", "this melody is {}",
    ),
    "speaker_identity_recognition": ("i am the {}", "call me {}", "person {}", "this is {}"),
    "total_speaker_counting": ("we are {}", "{} of us speak", "our number is {}", "count {} voices"),
}  # fmt: skip
_NEUTRAL_LONG = (
    ("the train", "the bus", "my letter", "the doctor", "our teacher", "the river", "the market", "her brother"),
    ("leaves", "arrives", "is waiting", "will stop", "was late", "looks fine"),
    ("in the city", "near the bridge", "after lunch", "on monday", "by the window", "at the station", "before dinner"),
)
_NEUTRAL_SHORT = (
    ("the door", "the lamp", "my coat", "the road", "a cup", "the garden", "that boat", "the clock"),
    ("is", "looks", "was", "seems"),
    ("open", "green", "clean", "wet", "old", "warm"),
)


@dataclass(frozen=True)
class Frame:
    """One wording of a task.

    Attributes
    ----------
    name : str
        The script id, such as ``"pitch_comparison/test-03"``.
    task : str
    template : str
        With one ``{}``.
    neutral : str
        The sentence of the neutral twin.
    """

    name: str
    task: str
    template: str
    neutral: str

    def claiming(self, label: str, synonym: int = 0) -> str:
        """Return the sentence that claims `label`, worded with its `synonym`-th word."""
        words = CLAIM_WORDS[self.task][label]
        return self.template.format(words[synonym % len(words)])


def _short(task: str) -> bool:
    return task.endswith("_comparison") or task in ("speaker_identity_recognition", "total_speaker_counting")


@functools.cache
def _pools(task: str) -> tuple[list[str], list[str]]:
    """Return all templates of a task and all sentences without a claim, each shuffled once."""
    before, after = (_SHORT, _AFTER_SHORT) if _short(task) else (_LONG, _AFTER_LONG)
    if task in ("speaker_identity_recognition", "total_speaker_counting"):
        # Five turns share one window: an opening or a closing, not both.
        parts = [(b, c, "") for b in before for c in _CORES[task]]
        parts += [("", c, a) for c in _CORES[task] for a in (*after[1:], "now", "friends", "please")]
        parts += [(b, c, "") for b in ("yes", "okay", "hello", "listen", "friends") for c in _CORES[task]]
        parts += [("", c, a) for c in _CORES[task] for a in ("truly", "my friend", "for sure", "please listen")]
        parts += [(b, c, a) for b in ("yes", "well", "so") for c in _CORES[task] for a in ("now", "here", "please")]
    else:
        parts = list(itertools.product(before, _CORES[task], after))
    rng = rng_for("frames", task)
    # Seeded apart from the order above, so that what is dealt where is stable.
    templates = [" ".join(" ".join(parts[i]).split()) for i in rng.permutation(len(parts))]
    subject, verb, rest = _NEUTRAL_SHORT if _short(task) else _NEUTRAL_LONG
    plain = [f"{s} {v} {r}" for s in subject for v in verb for r in rest]
    return templates, [plain[i] for i in rng.permutation(len(plain))]


@functools.cache
def _training(task: str) -> tuple[tuple[str, str], ...]:
    """Return the training wordings of a task: (template, sentence without a claim)."""
    templates, plain = _pools(task)
    kept = FRAMES_PER_SPLIT["test"] + FRAMES_PER_SPLIT["validation"]
    # Short tasks have fewer compositions: fewer for training, the other splits keep theirs.
    last = min(len(templates), kept + FRAMES_PER_SPLIT["train"])
    return tuple((templates[i], plain[i]) for i in range(kept, last))


@functools.cache
def _dealt(task: str) -> dict[str, tuple[Frame, ...]]:
    """Deal the wordings of a task to the splits. What any task says in training, no task says in another split."""
    trained = {text for other in TASKS for pair in _training(other) for text in pair}
    fresh = [[text for text in pool if text not in trained] for pool in _pools(task)]
    pairs = {"train": _training(task)}
    start = 0
    for split in ("test", "validation"):
        stop = start + FRAMES_PER_SPLIT[split]
        pairs[split] = tuple(zip(*(pool[start:stop] for pool in fresh), strict=True))
        start = stop
    return {
        split: tuple(Frame(f"{task}/{split}-{i:02d}", task, *pair) for i, pair in enumerate(pairs[split]))
        for split in FRAMES_PER_SPLIT
    }


def frames(task: str, split: str) -> tuple[Frame, ...]:
    """Return the wordings of `task` in `split` ("train", "validation" or "test")."""
    return _dealt(task)[split]


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """Return every word that any split can say, sorted."""
    words: set[str] = set()
    for task in TASKS:
        for split in FRAMES_PER_SPLIT:
            for frame in frames(task, split):
                words |= set(frame.template.replace("{}", "").split()) | set(frame.neutral.split())
        for spoken in CLAIM_WORDS[task].values():
            words |= set(spoken)
    return tuple(sorted(words))
