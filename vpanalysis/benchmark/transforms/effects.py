"""What a transform does to the label that the voice makes true: keeps it, flips it, or destroys it.

Why it exists. Played backwards, a high-low-medium pattern is a medium-low-high one, and a rising voice falls; cut into
pieces, it is neither. Asking the old question with the old answer would count a model that hears as one that does not.
So a table says, task by task, what happens to the truth, and why.

The rules::

    keep      the item is used as it is.
    flip      the item is used with the mapped truth, if that is offered and is no foil. For the identity task the clips
              are renumbered instead: target, options, foils and truth (first <-> last), so every item can be used.
    destroy   the item is not used for "words absent, voice present". The transform may serve as "voice absent",
              unless the table says that cues remain.
    unknown   other tasks than the ten: not used, unless the caller says what happens (`effects=`).

A transform that leaves the words and takes the voice (``flattened``), or takes both (``silence``), is asked about with
the truth as it was: what the voice would have made true is what the margin is measured against. Where its effect is not
"destroy", or cues remain, it does not take the voice fully; ``with_audio(..., voice="absent")`` leaves such tasks out.

In the mini, flipping leaves no item of the pattern and intonation tasks: the offered orders begin with the true or the
claimed level, so a reversed truth is either not offered or a foil. `coverage` counts.

>>> EFFECTS["speed_comparison"]["reversed"].kind, EFFECTS["speed_comparison"]["shuffled"].kind
('flip', 'destroy')
>>> effect_of("speed_comparison", "reversed+reversed").kind
'keep'
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vpanalysis.benchmark.items import TASKS, Benchmark, Item
from vpanalysis.benchmark.transforms._table import ROWS
from vpanalysis.benchmark.transforms.sounds import TRANSFORMS
from vpanalysis.benchmark.transforms.sources import label_of, parts_of, removed_by, transformed
from vpanalysis.errors import SchemaError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["EFFECTS", "Effect", "Effects", "coverage", "effect_of", "mapped_item", "mapped_truth", "with_audio"]

KINDS = ("keep", "flip", "destroy", "unknown")


@dataclass(frozen=True)
class Effect:
    """What a transform does to the truth of a task.

    Attributes
    ----------
    kind : {"keep", "flip", "destroy", "unknown"}
    reason : str
        One line.
    cues_remain : bool
        For "destroy": whether something of the voice that bears on the label stays, so that the transform is no clean
        "voice absent".
    mapping : mapping of str to str, optional
        For "flip" in tasks other than the ten: the option that each option becomes.

    Raises
    ------
    SchemaError
        For another kind.
    """

    kind: str
    reason: str = "as the caller says"
    cues_remain: bool = False
    mapping: Mapping[str, str] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SchemaError("cannot make an effect", found=f"kind {self.kind!r}", allowed=KINDS, word=self.kind)

    @property
    def voice_absent(self) -> bool:
        """Whether nothing of the voice that bears on the label is known to stay."""
        return self.kind == "destroy" and not self.cues_remain


Effects = Mapping[str, Mapping[str, "Effect | str"]]
"""Effects by task and transform, as `EFFECTS`; a string is the kind."""

EFFECTS: dict[str, dict[str, Effect]] = {
    task: {
        name: Effect("destroy" if kind == "partly" else kind, reason, cues_remain=kind == "partly")
        for name, (kind, reason) in ROWS[task].items()
    }
    for task in TASKS
}
"""The table: task, then transform."""

assert all(set(row) == set(TRANSFORMS) for row in EFFECTS.values())


def effect_of(task: str, name: str, *, effects: Effects | None = None) -> Effect:
    """Return what a transform does to the truth of a task.

    Parameters
    ----------
    task : str
        Any task name.
    name : str
        A transform, or several joined by "+": two flips are no flip, and what one part destroys stays destroyed.
    effects : mapping, optional
        Effects that go before the table's, by task and transform (the name as asked, or a part of it).

    Returns
    -------
    Effect
        Of kind "unknown" for a task that neither the table nor `effects` knows.

    Raises
    ------
    SchemaError
        For an unknown transform.
    """
    parts = parts_of(name)
    given = (effects or {}).get(task, {})
    if name in given:
        return _effect(given[name])
    found = [_effect(given[part]) if part in given else _listed(task, part) for part in parts]
    if len(found) == 1:
        return found[0]
    pairs = list(zip(parts, found, strict=True))
    # One part that leaves nothing is enough, whatever the others do.
    for part, effect in sorted(pairs, key=lambda pair: (not pair[1].voice_absent, pair[1].kind != "unknown")):
        if effect.kind in ("destroy", "unknown"):
            return replace(effect, reason=f"{part}: {effect.reason}")
    flips = [(part, effect) for part, effect in pairs if effect.kind == "flip"]
    if len(flips) > 1 and any(effect.mapping is not None for _, effect in flips):
        return Effect("unknown", f"several flips with mappings of their own; say in effects= what {name!r} does")
    if len(flips) % 2 == 0:
        return Effect("keep", "; ".join(f"{part}: {effect.reason}" for part, effect in pairs))
    part, effect = flips[0]
    return replace(effect, reason=f"{part}: {effect.reason}")


def _listed(task: str, part: str) -> Effect:
    """Return the effect of the table; where nothing is left to hear, of any task."""
    if task in EFFECTS:
        return EFFECTS[task][part]
    if TRANSFORMS[part].removes == "both":
        return EFFECTS[TASKS[0]][part]
    return Effect("unknown", f"nobody has said what it does to the truth of {task!r}; say so with effects=")


def _effect(given: Effect | str) -> Effect:
    return given if isinstance(given, Effect) else Effect(given)


def mapped_truth(item: Item, name: str, *, effects: Effects | None = None) -> str | None:
    """Return what the voice of the transformed clip makes true, or None where the item is of no use.

    Parameters
    ----------
    item : Item
    name : str
        A transform, or several joined by "+".
    effects : mapping, optional
        See `effect_of`.

    Returns
    -------
    str or None
        None when the transform destroys the truth, when its effect is unknown, or when the mapped truth is not offered
        or is a foil. In the identity task, an option of the renumbered question: see `mapped_item`.

    Raises
    ------
    SchemaError
        For an unknown transform.
    """
    made = _relabelled(item, name, effects)
    return made.truth if isinstance(made, Item) else None


def mapped_item(
    item: Item, name: str, *, voice: str | None = None, effects: Effects | None = None, **params: float
) -> Item | None:
    """Return the item as it is asked about the transformed clip, or None where it is of no use.

    Parameters
    ----------
    item : Item
    name : str
        A transform, or several joined by "+".
    voice : {"present", "absent"}, optional
        As what the clip is to serve. "present": the truth is mapped, and None where it cannot be. "absent": the truth
        stays, and None where the transform does not take the voice fully. Default: "present" for transforms that
        remove words alone; for those that remove the voice, every item with its truth as it was.
    effects : mapping, optional
        See `effect_of`.
    **params : float
        Of the transform.

    Returns
    -------
    Item or None
        The same id. Condition ``<condition>/<transform>``, so that no condition with rules of its own is claimed.
        Where words are removed, nothing is said: `said` is empty, `transcript` and `said_level` are None; `foils` stay,
        so that margins are measured on the same options. In the identity task, a flip renumbers the clips in question,
        options, truth and foils; letters stay with their options.

    Raises
    ------
    SchemaError
        For an unknown transform, parameter or `voice`.
    """
    made = _serving(item, name, voice, effects)
    if isinstance(made, str):
        return None
    silent = "words" in removed_by(name)
    return replace(
        made,
        audio=transformed(item.audio, name, **params),
        condition=f"{item.condition}/{'+'.join(parts_of(name))}",
        said=() if silent else made.said,
        transcript=None if silent else item.transcript,
        said_level=None if silent else item.said_level,
    )


def _serving(item: Item, name: str, voice: str | None, effects: Effects | None) -> Item | str:
    """Return the item with the truth that it has in this role, or why it has none."""
    if voice not in (None, "present", "absent"):
        raise SchemaError(
            f"cannot use {name!r}", found=f"voice={voice!r}", allowed=("present", "absent"), word=str(voice)
        )
    if voice == "absent":
        effect = effect_of(item.task_name, name, effects=effects)
        return item if effect.voice_absent else _present(effect)
    if voice is None and "voice" in removed_by(name):
        return item
    return _relabelled(item, name, effects)


def _present(effect: Effect) -> str:
    return f"the voice is not absent: {effect.reason}" if effect.kind != "unknown" else effect.reason


def _relabelled(item: Item, name: str, effects: Effects | None) -> Item | str:
    """Return the item with the truth of the transformed clip, or the reason why there is none."""
    effect = effect_of(item.task_name, name, effects=effects)
    if effect.kind == "keep":
        return item
    if effect.kind != "flip":
        return effect.reason
    if effect.mapping is None and item.task_name == "speaker_identity_recognition":
        return _renumbered(item)
    truth = _flipped(item.task_name, item.truth, effect)
    if truth is None:
        return f"no label is known for {item.truth!r} after the flip"
    if truth not in item.choices:
        return "the mapped truth is not offered"
    if truth in item.foils:
        return "the mapped truth is a foil"
    # Another condition: the rules of the old one are about the old truth.
    return replace(item, truth=truth, condition=f"{item.condition}/{name}")


_CONTOURS = {
    "Rising intonation": "Falling intonation",
    "Falling intonation": "Rising intonation",
    "Rise-fall intonation": "Rise-fall intonation",
    "Fall-rise intonation": "Fall-rise intonation",
}


def _flipped(task: str, truth: str, effect: Effect) -> str | None:
    if effect.mapping is not None:
        return effect.mapping.get(truth)
    if task.endswith("_comparison"):
        levels = truth.split("-")
        return "-".join(reversed(levels)) if len(levels) > 1 else None
    return _CONTOURS.get(truth)


_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_NUMBER = re.compile(r"\b(?:" + "|".join(_ORDINALS) + r"|\d+)\b", re.IGNORECASE)


def _renumbered(item: Item) -> Item | str:
    """Return an identity item about the turns in the opposite order: turn k of n becomes turn n + 1 - k."""
    numbers = [_numbers(text) for text in (item.question, *item.choices)]
    if any(len(found) != 1 for found in numbers):
        return "question and options do not name one clip each"
    met = {found[0] for found in numbers}
    last = len(item.choices) + 1
    if met != set(range(1, last + 1)):
        return "how many clips there are cannot be told from question and options"
    choices = tuple(_mirrored(choice, last) for choice in item.choices)
    new = dict(zip(item.choices, choices, strict=True))
    return replace(
        item,
        question=_mirrored(item.question, last),
        choices=choices,
        truth=new[item.truth],
        said=tuple(new[option] for option in item.said),
        foils=tuple(new[option] for option in item.foils),
    )


def _numbers(text: str) -> list[int]:
    return [_value(match.group()) for match in _NUMBER.finditer(text)]


def _value(word: str) -> int:
    return int(word) if word.isdigit() else _ORDINALS.index(word.lower()) + 1


def _mirrored(text: str, last: int) -> str:
    def other(match: re.Match[str]) -> str:
        word = match.group()
        number = last + 1 - _value(word)
        if word.isdigit():
            return str(number)
        return _ORDINALS[number - 1].capitalize() if word[0].isupper() else _ORDINALS[number - 1]

    return _NUMBER.sub(other, text)


def with_audio(
    benchmark: Benchmark, name: str, *, voice: str | None = None, effects: Effects | None = None, **params: float
) -> Benchmark:
    """Return the usable items of a benchmark with every clip transformed; see `Benchmark.with_audio`."""
    label = label_of(name, params)
    items = [mapped_item(item, name, voice=voice, effects=effects, **params) for item in benchmark]
    kept = [item for item in items if item is not None]
    if not kept and len(benchmark):
        reasons = dict.fromkeys(
            f"{item.task_name}: {why}"
            for item in benchmark
            if isinstance(why := _serving(item, name, voice, effects), str)
        )
        more = f", and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        raise SchemaError(
            f"cannot make {benchmark.name + ':' + label!r}",
            found=f"no item that can be used ({'; '.join(list(reasons)[:3])}{more})",
            fix="choose another transform, or look at coverage()",
        )
    return Benchmark(kept, name=f"{benchmark.name}:{label}", source=benchmark.source, revision=benchmark.revision)


def coverage(
    benchmark: Benchmark, name: str, *, voice: str | None = None, effects: Effects | None = None
) -> pd.DataFrame:
    """Return how many items a transform leaves, task by task, and why the others are left out.

    Parameters
    ----------
    benchmark : Benchmark
    name : str
        A transform, or several joined by "+".
    voice, effects
        See `mapped_item`.

    Returns
    -------
    DataFrame
        A row a task: task_name, transform, effect, items, used, left_out (reasons with their numbers), reason (of the
        table).

    Raises
    ------
    SchemaError
        For an unknown transform or `voice`.
    """
    import pandas as pd

    rows = []
    for task in benchmark.tasks:
        made = [_serving(item, name, voice, effects) for item in benchmark if item.task_name == task]
        why: dict[str, int] = {}
        for answer in made:
            if isinstance(answer, str):
                why[answer] = why.get(answer, 0) + 1
        effect = effect_of(task, name, effects=effects)
        rows.append(
            {
                "task_name": task,
                "transform": "+".join(parts_of(name)),
                "effect": effect.kind,
                "items": len(made),
                "used": len(made) - sum(why.values()),
                "left_out": "; ".join(f"{n}: {reason}" for reason, n in why.items()),
                "reason": effect.reason,
            }
        )
    return pd.DataFrame(rows, columns=["task_name", "transform", "effect", "items", "used", "left_out", "reason"])
