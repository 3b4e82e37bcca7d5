"""Which items are asked about a task, and which others its directions come from: no voice or sentence is on both sides.

Why it exists. A direction that was made on a speaker knows the speaker. So training items are others' items: those of
another benchmark (a training split) without the speakers and wordings that are asked, or those of the benchmark itself,
cut by speaker and by wording, so that every item is asked under a direction that has met neither.

Where nobody is named, that cannot be known. What can be known of any item is whether it is the same one (its number),
a twin (its cell), or about the same clip (its audio); training sets are always free of those, and what is printed says
how much more was kept apart (:func:`apart_text`).

A side effect is seen only where one looks for it. So some items of *other* tasks are asked along, under the pushes of
the task's own items in turn, with training items that do not share their speakers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vpanalysis.attribution._directions import membership
from vpanalysis.attribution._settings import chosen_conditions
from vpanalysis.benchmark.items import Benchmark, Item
from vpanalysis.errors import AudioError, RunError
from vpanalysis.probes.splits import group_ids, make_folds

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "OTHER_TASKS", "Plan", "apart_text", "conditions_of", "kept_apart", "plan", "plans_of", "reachable", "taken",
]  # fmt: skip

OTHER_TASKS = "other tasks"
"""Name of the set of items that are asked something else than what the direction is about."""

_USUAL = ("conflict", "congruent", "neutral", "voice-swap", "plain-voice")
"""Conditions that may be asked for whether or not a benchmark has them."""

_GROUPS = {"speaker": "speakers", "script": "wordings"}
"""What is kept apart where all items name it."""

Mark = tuple[str, str]


@dataclass(frozen=True, eq=False)
class Plan:
    """Which items are asked about a task, what each is pushed to, and which others the direction comes from.

    Attributes
    ----------
    task : str
    items : list of Item
        Those that are asked.
    sets : list of str
        The condition of each, or :data:`OTHER_TASKS`.
    targets, others : list
        Per item the option that is pushed to, and those that are pushed away from.
    fold : array, shape (item,), int64
        Which training set its direction comes from.
    train : list of list of Item
        Training sets: no speaker and no wording of an item that is asked with them, as far as these are named, and no
        item, twin or clip that is asked.
    """

    task: str
    items: list[Item]
    sets: list[str]
    targets: list[str]
    others: list[tuple[str, ...]]
    fold: NDArray[np.int64]
    train: list[list[Item]]

    @property
    def pool(self) -> list[Item]:
        """All training items, each once."""
        return list({item.id: item for items in self.train for item in items}.values())


def _shares_names(item: Item, speakers: set[str], scripts: set[str]) -> bool:
    return (item.speaker is not None and item.speaker in speakers) or (
        item.script is not None and item.script in scripts
    )


def _names(items: Sequence[Item]) -> tuple[set[str], set[str]]:
    return {i.speaker for i in items if i.speaker is not None}, {i.script for i in items if i.script is not None}


class _Met:
    """Some items, and whether others have to do with them."""

    def __init__(self, items: Sequence[Item], known: dict[int, frozenset[Mark]]) -> None:
        self._known, self._names = known, _names(items)
        self._marks = {mark for item in items for mark in self._of(item)}

    def _of(self, item: Item) -> frozenset[Mark]:
        """Return what says that an item is another one, its twin, or about its clip."""
        # Clips are hashed once, however many sets are compared.
        if id(item) not in self._known:
            marks: set[Mark] = {("id", item.id)}
            if item.cell is not None:
                marks.add(("cell", item.cell))
            with suppress(AudioError):  # what cannot be read is not used either
                marks.add(("audio", item.audio.key()))
            self._known[id(item)] = frozenset(marks)
        return self._known[id(item)]

    def shares(self, item: Item) -> bool:
        return _shares_names(item, *self._names) or not self._marks.isdisjoint(self._of(item))


def kept_apart(plans: Sequence[Plan]) -> list[str]:
    """Return what no item shares with its training items because all of both name it: ``speaker``, ``script``."""
    items = [item for one in plans for item in (*one.items, *one.pool)]
    return [name for name in _GROUPS if all(getattr(item, name) is not None for item in items)]


def apart_text(names: Iterable[str]) -> str:
    """Return in words what training items are, given what :func:`kept_apart` returned.

    >>> apart_text(["speaker", "script"]), apart_text(["speaker"])
    ('other speakers and wordings', 'other speakers (wordings are not named)')
    >>> apart_text([])
    'other items and clips (speakers and wordings are not named)'
    """
    named = [word for name, word in _GROUPS.items() if name in set(names)]
    missing = [word for word in _GROUPS.values() if word not in named]
    known = f"other {' and '.join(named or ['items', 'clips'])}"
    return known + (f" ({' and '.join(missing)} are not named)" if missing else "")


def conditions_of(bench: Benchmark, conditions: Sequence[str] | str, verb: str) -> list[str]:
    """Return the conditions that are asked for; one may be given alone.

    Raises
    ------
    RunError
        For one that neither the benchmark has nor others do, and for none.
    """
    return chosen_conditions((*bench.conditions, *_USUAL), conditions, f"cannot {verb}")


def plan(
    bench: Benchmark, fit: Benchmark | None, task: str, *, conditions: Sequence[str], towards: str | None = None,
    others: int = 0, splits: int = 3, random_state: int = 0,
) -> Plan | None:  # fmt: skip
    """Divide the items of a task into those that are asked and those that directions are made from.

    Parameters
    ----------
    bench : Benchmark
    fit : Benchmark, optional
        Training items; of them those are left out that share a speaker, wording, number, cell or clip with an item that
        is asked. By default all items are asked, and the direction of each comes from items of `bench` with neither its
        speaker nor its wording, nor its clip (``splits`` times ``splits`` training sets).
    task : str
    conditions : sequence of str
        Of the items that are asked.
    towards : str, optional
        One option for all. By default the truth of each, away from its foils.
    others : int
        At most so many conflict items of other tasks are asked as well, under the same pushes.
    splits : int
    random_state : int

    Returns
    -------
    Plan or None
        None where the task has nothing to push to.

    Raises
    ------
    RunError
        Where no training items are left.
    """
    asked = [
        item for item in bench
        if item.task_name == task and item.condition in conditions
        and (towards in item.choices if towards is not None else item.foils and item.truth not in item.foils)
    ]  # fmt: skip
    if not asked:
        return None
    whole = [item for item in (bench if fit is None else fit) if item.task_name == task]
    fold = np.zeros(len(asked), dtype=np.int64)
    known: dict[int, frozenset[Mark]] = {}
    if fit is not None:
        met = _Met(asked, known)
        train = [[item for item in whole if not met.shares(item)]]
        if not train[0]:
            named = [name for name in _GROUPS if all(getattr(item, name) is not None for item in (*asked, *whole))]
            raise RunError(
                f"cannot make a direction for {task!r}",
                found=f"no item of {fit.name!r} with {apart_text(named)}",
                fix="give other items as fit=, or none, so that the benchmark's own are split",
            )  # fmt: skip
    else:
        fold, train = _split(asked, whole, splits, random_state, known)
    items, sets = list(asked), [item.condition for item in asked]
    goals = [_goal(item, towards) for item in asked]
    parts = [_Met(part, known) for part in train]
    for number, item in enumerate(_side(bench, task, others, random_state)):
        free = [f for f, part in enumerate(parts) if not part.shares(item)]
        if free:
            items.append(item)
            sets.append(OTHER_TASKS)
            goals.append(goals[number % len(asked)])
            fold = np.append(fold, free[number % len(free)])
    return Plan(task, items, sets, [g[0] for g in goals], [g[1] for g in goals], fold, train)


def _goal(item: Item, towards: str | None) -> tuple[str, tuple[str, ...]]:
    if towards is None:
        return item.truth, item.foils
    return towards, tuple(choice for choice in item.choices if choice != towards)


def _side(bench: Benchmark, task: str, count: int, seed: int) -> list[Item]:
    """Return some conflict items of other tasks."""
    known = [i for i in bench if i.task_name != task and i.condition == "conflict" and i.foils]
    order = np.random.default_rng(seed).permutation(len(known))[:count]
    return [known[int(number)] for number in np.sort(order)]


def _split(
    asked: Sequence[Item], whole: Sequence[Item], splits: int, seed: int, known: dict[int, frozenset[Mark]]
) -> tuple[NDArray[np.int64], list[list[Item]]]:
    frame = pd.DataFrame([{"speaker": i.speaker, "script": i.script, "cell": i.cell} for i in whole])
    labels = np.unique([item.truth for item in whole], return_inverse=True)[1].astype(np.int64)
    groups = [group_ids(frame, column)[0] for column in ("speaker", "script")]
    folds = make_folds(labels, groups, n_splits=splits, random_state=seed)
    if not folds:
        raise RunError(
            f"cannot make a direction for {asked[0].task_name!r}",
            found="too few speakers or wordings to hold some out",
            fix="give more items, or training items as fit=",
        )  # fmt: skip
    of = {whole[int(row)].id: number for number, fold in enumerate(folds) for row in fold.test}
    train = []
    for fold in folds:
        # Folds keep speakers, wordings and cells apart; one clip may stand in several items.
        met = _Met([whole[int(row)] for row in fold.test], known)
        train.append([whole[int(row)] for row in fold.train if not met.shares(whole[int(row)])])
    return np.array([of[item.id] for item in asked], dtype=np.int64), train


def taken(one: Plan, keep: Sequence[int]) -> Plan | None:
    """Return the plan with some of its items, and the training sets of these; None where none is about the task."""
    if not any(one.sets[n] != OTHER_TASKS for n in keep):
        return None
    used, fold = np.unique(one.fold[list(keep)], return_inverse=True)
    return replace(
        one, items=[one.items[n] for n in keep], sets=[one.sets[n] for n in keep], fold=fold.astype(np.int64),
        targets=[one.targets[n] for n in keep], others=[one.others[n] for n in keep],
        train=[one.train[int(number)] for number in used],
    )  # fmt: skip


def reachable(one: Plan, about: str, enough: Callable[[Sequence[Item]], bool] | None = None) -> Plan | None:
    """Return the plan with options only that training items have; None where no item is left.

    An item is left out where its training set lacks the option that it is pushed to, or all that it is pushed from, or
    is not `enough`.
    """
    known = []
    for items in one.train:
        members, options = membership(items, about)
        here = {option for option, total in zip(options, members.sum(axis=0), strict=True) if total > 0}
        known.append(here if enough is None or enough(items) else set())
    others = [
        tuple(option for option in away if option in known[int(fold)])
        for fold, away in zip(one.fold, one.others, strict=True)
    ]
    keep = [
        n for n, fold in enumerate(one.fold) if others[n] and one.targets[n] in known[int(fold)]
    ]  # fmt: skip
    return taken(replace(one, others=others), keep)


def plans_of(
    bench: Benchmark, fit: Benchmark | None, about: str, *, conditions: Sequence[str], towards: str | None, others: int,
    splits: int, random_state: int, verb: str,
) -> tuple[list[Plan], int]:  # fmt: skip
    """Return the plans of all tasks that have one, and how many items have no training items for their options.

    :class:`RunError` where no task has a plan.
    """
    out: list[Plan] = []
    left_out, first = 0, None
    for task in bench.tasks:
        try:
            one = plan(bench, fit, task, conditions=conditions, towards=towards, others=others, splits=splits,
                       random_state=random_state)  # fmt: skip
        except RunError as error:
            # One task without training items does not end the others.
            first = first or error
            left_out += sum(item.task_name == task and item.condition in conditions for item in bench)
            continue
        kept = None if one is None else reachable(one, about)
        left_out += (0 if one is None else len(one.items)) - (0 if kept is None else len(kept.items))
        if kept is not None:
            out.append(kept)
    if not out and first is not None:
        raise first
    if not out:
        options = dict.fromkeys(choice for item in bench for choice in item.choices)
        wanted = f"items of {list(conditions)} that offer {towards!r}" if towards else f"items of {list(conditions)}"
        allowed = [*options] if towards and towards not in options else bench.conditions
        raise RunError(
            f"cannot {verb} on {bench.name!r}", found=f"no {wanted} whose options training items have", allowed=allowed,
            word=towards,
        )  # fmt: skip
    return out, left_out
