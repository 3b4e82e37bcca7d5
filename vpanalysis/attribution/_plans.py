"""Which items are asked about a task, and which others its directions come from: no voice or sentence is on both sides.

Why it exists. A direction that was made on a speaker knows the speaker. So training items are others' items: those of
another benchmark (a training split) without the speakers and wordings that are asked, or those of the benchmark itself,
cut by speaker and by wording, so that every item is asked under a direction that has met neither.

A side effect is seen only where one looks for it. So some items of *other* tasks are asked along, under the pushes of
the task's own items in turn, with training items that do not share their speakers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vpanalysis.attribution._directions import membership
from vpanalysis.benchmark.items import Benchmark, Item
from vpanalysis.errors import RunError
from vpanalysis.probes.splits import group_ids, make_folds

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["OTHER_TASKS", "Plan", "plan", "plans_of", "reachable"]

OTHER_TASKS = "other tasks"
"""Name of the set of items that are asked something else than what the direction is about."""


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
        Training sets: no speaker and no wording of an item that is asked with them.
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


def _shares(item: Item, speakers: set[str], scripts: set[str]) -> bool:
    return (item.speaker is not None and item.speaker in speakers) or (
        item.script is not None and item.script in scripts
    )


def _names(items: Sequence[Item]) -> tuple[set[str], set[str]]:
    return {i.speaker for i in items if i.speaker is not None}, {i.script for i in items if i.script is not None}


def plan(
    bench: Benchmark, fit: Benchmark | None, task: str, *, conditions: Sequence[str], towards: str | None = None,
    others: int = 0, splits: int = 3, random_state: int = 0,
) -> Plan | None:  # fmt: skip
    """Divide the items of a task into those that are asked and those that directions are made from.

    Parameters
    ----------
    bench : Benchmark
    fit : Benchmark, optional
        Training items; of them those are left out that share a speaker or wording with an item that is asked. By
        default all items are asked, and the direction of each comes from items of `bench` with neither its speaker nor
        its wording (``splits`` times ``splits`` training sets).
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
    if fit is not None:
        names = _names(asked)
        train = [[item for item in whole if not _shares(item, *names)]]
        if not train[0]:
            raise RunError(
                f"cannot make a direction for {task!r}",
                found=f"no item of {fit.name!r} with other speakers and wordings",
                fix="give other items as fit=, or none, so that the benchmark's own are split",
            )  # fmt: skip
    else:
        fold, train = _split(asked, whole, splits, random_state)
    items, sets = list(asked), [item.condition for item in asked]
    goals = [_goal(item, towards) for item in asked]
    for number, item in enumerate(_side(bench, task, others, random_state)):
        free = [f for f, part in enumerate(train) if not _shares(item, *_names(part))]
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
    asked: Sequence[Item], whole: Sequence[Item], splits: int, seed: int
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
    return (
        np.array([of[item.id] for item in asked], dtype=np.int64),
        [[whole[int(row)] for row in fold.train] for fold in folds],
    )


def reachable(one: Plan, about: str) -> Plan | None:
    """Return the plan with options only that training items have; None where no item is left.

    An item is left out where its training set lacks the option that it is pushed to, or all that it is pushed from.
    """
    known = []
    for items in one.train:
        members, options = membership(items, about)
        known.append({option for option, total in zip(options, members.sum(axis=0), strict=True) if total > 0})
    others = [
        tuple(option for option in away if option in known[int(fold)])
        for fold, away in zip(one.fold, one.others, strict=True)
    ]
    keep = [
        n for n, fold in enumerate(one.fold) if others[n] and one.targets[n] in known[int(fold)]
    ]  # fmt: skip
    if not any(one.sets[n] != OTHER_TASKS for n in keep):
        return None
    return replace(
        one, items=[one.items[n] for n in keep], sets=[one.sets[n] for n in keep], fold=one.fold[keep],
        targets=[one.targets[n] for n in keep], others=[others[n] for n in keep],
    )  # fmt: skip


def plans_of(
    bench: Benchmark, fit: Benchmark | None, about: str, *, conditions: Sequence[str], towards: str | None, others: int,
    splits: int, random_state: int, verb: str,
) -> tuple[list[Plan], int]:  # fmt: skip
    """Return the plans of all tasks that have one, and how many items have options that no training item has.

    :class:`RunError` where no task has a plan.
    """
    out, left_out = [], 0
    for task in bench.tasks:
        one = plan(bench, fit, task, conditions=conditions, towards=towards, others=others, splits=splits,
                   random_state=random_state)  # fmt: skip
        kept = None if one is None else reachable(one, about)
        left_out += (0 if one is None else len(one.items)) - (0 if kept is None else len(kept.items))
        if kept is not None:
            out.append(kept)
    if not out:
        options = dict.fromkeys(choice for item in bench for choice in item.choices)
        wanted = f"items of {list(conditions)} that offer {towards!r}" if towards else f"items of {list(conditions)}"
        allowed = [*options] if towards and towards not in options else bench.conditions
        raise RunError(
            f"cannot {verb} on {bench.name!r}", found=f"no {wanted} whose options training items have", allowed=allowed,
            word=towards,
        )  # fmt: skip
    return out, left_out
