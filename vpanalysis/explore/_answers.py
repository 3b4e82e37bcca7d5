"""What was asked and what every checkpoint answered, side by side, ready to be filtered.

Why it exists. Filtering thousands of items on every key stroke is quick only when outcomes were judged once. And Runs
that are put side by side may have asked different items, or the same ids with other questions, which must not pass for
a disagreement of checkpoints.

The idea. One :class:`Asked` an item of any Run, with one :class:`Answer` a Run that has it; outcomes are those of
``vpanalysis.score``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis._outcomes import RunLike, options, outcome_table, read_run
from vpanalysis._tables import is_missing
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Answer", "Asked", "answers_of", "opened"]


@dataclass(frozen=True)
class Answer:
    """What one checkpoint made of an item.

    Attributes
    ----------
    outcome : str
        Of :data:`vpanalysis._outcomes.OUTCOMES`.
    picked : str or None
        The option.
    shares : tuple of float
        Probability of every offered option's letter; empty where it was not recorded.
    reason : str
        Why the item failed.
    reply : str
        What the model wrote, where it wrote.
    """

    outcome: str
    picked: str | None
    shares: tuple[float, ...]
    reason: str = ""
    reply: str = ""


@dataclass(frozen=True)
class Asked:
    """An item as a Run keeps it, and the answers by the names of the Runs."""

    id: str
    task: str
    condition: str
    cell: str | None
    question: str
    choices: tuple[str, ...]
    letters: tuple[str, ...]
    truth: str
    said: tuple[str, ...]
    claims: tuple[str, ...]
    about: tuple[str, ...]
    answers: dict[str, Answer] = field(default_factory=dict)

    @property
    def disagree(self) -> bool:
        """Whether two checkpoints made different things of it."""
        return len({(a.outcome, a.picked) for a in self.answers.values()}) > 1

    def marks(self, choice: str) -> list[str]:
        """Return what an option is: truth, claim (said against the voice), said (and true)."""
        out = ["truth"] if choice == self.truth else []
        if choice in self.claims:
            out.append("claim")
        elif choice in self.said:
            out.append("said")
        return out


def opened(runs: Sequence[Any], what: str) -> list[RunLike]:
    """Return Runs, opened where paths were given.

    Raises
    ------
    RunError
        Without Runs, for what is none, and where two share a name.
    """
    if not runs:
        raise RunError(f"cannot show {what}", found="no run", allowed="one or more runs, or their folders")
    out: list[RunLike] = []
    for run in runs:
        if isinstance(run, (str, Path)):
            from vpanalysis.runs import open_run

            run = open_run(run)
        if not isinstance(run, RunLike):
            raise RunError(f"cannot show {what}", found=f"a {type(run).__name__}", allowed="runs, or their folders")
        out.append(run)
    names = [run.name for run in out]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RunError(f"cannot show {what}", found=f"the name {twice[0]!r} more than once", allowed="distinct names")
    return out


def answers_of(runs: Sequence[RunLike], prediction: str) -> dict[str, Asked]:
    """Return the items of all Runs by id, in the order of the first Run that has them.

    Parameters
    ----------
    runs : sequence of Run
    prediction : str
        Which prediction is judged.

    Raises
    ------
    RunError
        Where a Run lacks the prediction, or two Runs ask different things under one id.
    """
    out: dict[str, Asked] = {}
    for run in runs:
        name, table = read_run(run)
        judged = outcome_table(table, prediction, name)
        for row, outcome, picked in zip(table.to_dict("records"), judged["outcome"], judged["predicted"], strict=True):
            mine = _asked(row)
            item = out.setdefault(mine.id, mine)
            if (item.question, item.choices, item.truth) != (mine.question, mine.choices, mine.truth):
                raise RunError(
                    f"cannot show {name!r} beside {runs[0].name!r}", found=f"other questions, such as at {mine.id!r}",
                    allowed="runs of one benchmark",
                )  # fmt: skip
            item.answers[name] = _answer(row, str(outcome), None if is_missing(picked) else str(picked))
    return out


def _text(row: Mapping[Any, Any], key: str) -> str:
    return "" if is_missing(row.get(key)) else str(row[key])


def _asked(row: Mapping[Any, Any]) -> Asked:
    choices = options(row["choices"])
    about = [f"{key} {_text(row, key)}" for key in ("speaker", "voice", "script") if _text(row, key)]
    if _text(row, "transcript"):
        about.append(f"words: “{_text(row, 'transcript')}”")
    said = options(row["said"])
    condition = str(row["condition"])
    claims = options(row["claims"]) if "claims" in row else said if condition == "conflict" else ()
    return Asked(
        id=str(row["id"]), task=str(row["task_name"]), condition=condition, cell=_text(row, "cell") or None,
        question=_text(row, "question"), choices=choices, truth=str(row["truth"]), said=said, claims=claims,
        letters=options(row["letters"]) if "letters" in row else tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(choices)]),
        about=tuple(about),
    )  # fmt: skip


def _answer(row: Mapping[Any, Any], outcome: str, picked: str | None) -> Answer:
    logs = row.get("option_logprobs")
    shares: tuple[float, ...] = ()
    if logs is not None and not (isinstance(logs, float) and pd.isna(logs)):
        shares = tuple(float(v) for v in np.exp(np.asarray(logs, dtype=np.float64)))
    return Answer(outcome, picked, shares, _text(row, "reason"), _text(row, "pred_generated_raw"))
