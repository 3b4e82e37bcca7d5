"""``listen_vs_read``: what an answer was made of, words or voice, in nats.

Why it exists. Probes say what could be decoded, accuracy on paradoxes says which of two was obeyed. Neither says by how
much each counted, whether they add up, or what a model does when one of them is missing. A 2 x 2 experiment does: the
clip, its voice alone, its words alone, and neither.

The idea. Each condition of a family (``conditions.py``) is run as an ordinary Run; the *margin* of the truth over the
foils (``margins.py``) is read in all four; the two-player Shapley values of voice (``listen``) and words (``read``) and
their interaction follow (``shapley.py``). Where a condition maps the truth (a rise played backwards is a fall), its
margin is that of the mapped truth, and every margin is counted from the same option's margin in ``neither``, so that a
model's liking for an option is no evidence of hearing it. Items that lack a condition are left out, and counted.

On conflict items the words point away from the truth. There ``listen > 0`` means that the voice pushed the answer
towards the truth, ``read < 0`` that the words pushed it away, and ``read > 0`` that the model turns the words around
("inverts"; said of twins alone, since a manipulated clip may have lost more than its words). The listening share is
that of means, with a bootstrap interval over speakers and wordings.

What it cannot show: how a model would treat sounds that it was never trained on is part of every estimate in which
clips are manipulated. Where words come as text, a model that understands speech but not the transcript gains its words
with the sound, and its voice seems to pull away. Read several families, and never one number without its family.

>>> found = listen_vs_read("mini-pclm-dpo", "mini", families=["twins", "delexicalised"])   # doctest: +SKIP
>>> found.plot()                                                                      # doctest: +SKIP
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis import stats
from vpanalysis._results import TableResult
from vpanalysis.attribution._answers import answers_under, positions
from vpanalysis.attribution._asking import asks_without_clips
from vpanalysis.attribution._settings import check_numbers, chosen_items, named, seed_of
from vpanalysis.attribution._verdicts import ALL, verdict_of
from vpanalysis.attribution._work import Work, identity
from vpanalysis.attribution.conditions import FAMILIES, Family, condition
from vpanalysis.attribution.margins import clusters_by_name, margins_of
from vpanalysis.attribution.shapley import share_interval, two_player
from vpanalysis.benchmark.items import Benchmark, Item
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT, PromptTemplate
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vpanalysis.models.facade import AudioLLM

__all__ = ["ITEMS", "SUMMARY", "ListenRead", "listen_vs_read"]

ITEMS = (
    "id", "task", "family", "condition", "speaker", "script", "both", "voice", "words", "neither", "listen", "read",
    "interaction",
)  # fmt: skip
"""Columns of :attr:`ListenRead.items`; values in nats."""

_EFFECTS = ("listen", "read", "interaction")
SUMMARY = (
    "family", "task", *(f"{name}{end}" for name in _EFFECTS for end in ("", "_low", "_high")), "share", "share_low",
    "share_high", "p_listen", "q_listen", "p_read", "q_read", "verdict", "n", "n_asked", "n_groups", "group",
)  # fmt: skip
"""Columns of :attr:`ListenRead.table`."""


@dataclass(frozen=True, repr=False)
class ListenRead(TableResult):
    """Shapley values of voice and words.

    Attributes
    ----------
    table : DataFrame
        One row a family and task, and one over all tasks (``"all"``), columns :data:`SUMMARY`: means in nats with
        95 % intervals clustered by speaker and wording, the listening share, a p value of flipping the signs of
        ``listen`` by cluster, ``q`` over tasks (Benjamini and Hochberg 1995), how many of the items asked for were
        complete, and a verdict.
    items : DataFrame
        One row an item and family, columns :data:`ITEMS`: the four values, counted from ``neither``.
    positions : DataFrame
        What the place of an option does by itself: one row a condition and letter, with the shares of the asked items
        (over all orders) in which it was ``picked`` and was the ``truth``, their difference ``excess`` with an interval
        clustered by speaker and wording, and n. All orders of the options make the truth as frequent at every letter.
    settings : mapping
    """

    VERB, TABLES = "listen-vs-read", ("table", "items", "positions")

    table: pd.DataFrame
    items: pd.DataFrame
    positions: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """Tasks in the order of the benchmark."""
        return list(dict.fromkeys(self.items["task"]))

    def common(self) -> ListenRead:
        """Return the result on the items that are complete in every family, so that families compare."""
        count = self.items["family"].nunique()
        complete = self.items.groupby("id")["family"].transform("nunique") == count
        items = self.items[complete].reset_index(drop=True)
        settings = {**self.settings, "common": True}
        return replace(self, table=_summary(items, settings), items=items, settings=settings)

    def plot(self, ax: Axes | None = None, *, family: str | None = None) -> Axes:
        """Draw listening and reading per task with their intervals, of one family (default the first)."""
        from vpanalysis import plots

        have = list(dict.fromkeys(self.table["family"]))
        if family is not None and family not in have:
            raise RunError("cannot draw listening and reading", found=repr(family), allowed=have, word=family)
        rows = self.table[self.table["family"] == (family or have[0])].reset_index(drop=True)
        return plots.listen_read(rows, ax=ax, name=str(self.settings.get("model", "")))

    def _parts(self) -> tuple[pd.DataFrame, str, str]:
        shown = pd.DataFrame({"family": self.table["family"], "task": self.table["task"]})
        for name in (*_EFFECTS, "share"):
            digits = 2
            shown[name] = [
                "–" if pd.isna(v) else f"{v:+.{digits}f} [{lo:+.{digits}f}, {hi:+.{digits}f}]"
                for v, lo, hi in zip(
                    self.table[name], self.table[f"{name}_low"], self.table[f"{name}_high"], strict=True
                )
            ]
        shown["verdict"] = self.table["verdict"]
        shown["items"] = [f"{n} of {m}" for n, m in zip(self.table["n"], self.table["n_asked"], strict=True)]
        title = f"ListenRead: {self.settings.get('model')} on {self.settings.get('benchmark')}, nats of margin"
        note = (
            "listen: what the voice adds to the margin of the truth; read: what the words add (negative: they pull "
            "away). Never one number without its family."
        )
        return shown, title, note


def listen_vs_read(
    model: AudioLLM | str,
    benchmark: Benchmark | str,
    *,
    families: str | Sequence[str] = ("twins", "delexicalised", "reversed"),
    conditions: str | Sequence[str] = ("conflict",),
    out: str | Path | None = None,
    orders: int = 1,
    template: PromptTemplate = DEFAULT_PROMPT,
    batch_size: int = 16,
    level: float = 0.95,
    random_state: int | None = 0,
    cache: bool | str | Path | None = True,
    progress: bool = True,
) -> ListenRead:
    """Run the clip, its voice alone, its words alone and neither, and divide the margin between voice and words.

    Parameters
    ----------
    model : AudioLLM or str
        What :func:`vpanalysis.load_model` returns or takes.
    benchmark : Benchmark or str
        What :func:`vpanalysis.load_benchmark` returns or takes.
    families : str or sequence of str
        Of :data:`~vpanalysis.attribution.conditions.FAMILIES`. One that no item allows is "not measured" beside others.
    conditions : sequence of str
        Of the items that are asked about; only those with foils count.
    out : str or Path, optional
        Where the Runs of the conditions are kept (``<out>/<condition>``) and found by the next call; by default in the
        cache.
    orders : int
        Cyclic orders of the options over which margins are averaged; 1 asks in the given order only. What the order
        itself does is in :attr:`ListenRead.positions`.
    template : PromptTemplate
    batch_size : int
    level : float
        Of the intervals.
    random_state : int or None
        Of bootstrap and sign flips; one that is drawn is in the settings.
    cache : bool, str, Path or None
        Where encoded clips are kept and, without `out`, the Runs: the default folder (True), another one, or nowhere
        (False, None).
    progress : bool
        Print what it will cost, and show a bar.

    Returns
    -------
    ListenRead

    Raises
    ------
    RunError
        For unknown families, without items that have foils, or for a model that answers nothing.

    Notes
    -----
    Shapley 1953; margins and the division into four conditions are this package's. See ``shapley.py``.
    """
    from vpanalysis.runs import listed, loaded_model

    names = named(families)
    if not names:
        raise RunError("cannot attribute", found="no family", allowed=list(FAMILIES))
    for name in names:
        if name not in FAMILIES:
            raise RunError("cannot attribute", found=f"family {name!r}", allowed=list(FAMILIES), word=name)
    if orders < 1:
        raise RunError("cannot attribute", found=f"orders={orders}", allowed="1 or more")
    check_numbers("cannot attribute", level=level, batch_size=batch_size)
    random_state = seed_of(random_state)
    llm, bench = loaded_model(model), listed(benchmark)
    if not llm.answers:
        raise RunError(f"cannot attribute answers of {llm.name!r}", found="an encoder that answers nothing")
    whole = chosen_items(bench, conditions, "cannot attribute")
    asked = [item for item in whole if item.foils and item.truth not in item.foils]
    if not asked:
        raise RunError("cannot attribute", found=f"no item of {named(conditions)} with foils in {bench.name!r}",
                       allowed=bench.conditions)  # fmt: skip
    base = Benchmark(asked, name=bench.name, source=bench.source, revision=bench.revision)
    # Twins may stand in the benchmark beside the items that are asked about.
    made = {"both": base}
    possible: list[str] = []
    for name in names:
        family = FAMILIES[name]
        try:
            if family.neither == "no-audio" and not asks_without_clips(llm, asked[0], template):
                raise RunError(f"cannot ask {llm.name!r} without a clip", found="a family whose forward needs one",
                               fix=f"leave the family {name!r} out")  # fmt: skip
            parts = {part: _under(bench, base, part) for part in (family.voice, family.words, family.neither)}
            # Where the voice alone is asked about in other options, what it is counted from has to be as well.
            if any(_asked_otherwise(item, base[item.id]) for item in parts[family.voice]):
                parts[_zero_of(family)] = _again(condition(parts[family.voice], family.neither))
            made |= parts
        except RunError:
            # Without the other families there is nothing to show; beside them it is a family that was not measured.
            if name == names[-1] and not possible:
                raise
            continue
        possible.append(name)
    every = [item for part in made.values() for item in part]
    work = Work("listen-vs-read", {**identity(llm, every, template), "rows": batch_size}, cache)
    with ExitStack() as stack:
        root = Path(out) if out is not None else work.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tables = answers_under(llm, made, orders, root, template, batch_size, cache, progress)
    items = pd.concat([_of_family(base, name, tables) for name in possible], ignore_index=True)
    settings = {
        "model": llm.name, "benchmark": bench.name, "benchmark_sha": base.sha, "families": names, "orders": orders,
        "conditions": named(conditions), "level": level, "random_state": random_state, "weights": llm.weights_sha,
        "batch_size": batch_size,
        "template": template.sha, "asked": {t: sum(i.task_name == t for i in asked) for t in base.tasks},
    }  # fmt: skip
    return ListenRead(_summary(items, settings), items, positions(tables, base, level), settings)


def _zero_of(family: Family) -> str:
    """Return the name of the condition that a mapped voice alone is counted from."""
    return f"{family.neither} of {family.voice}"


def _asked_otherwise(item: Item, own: Item) -> bool:
    return (item.question, item.choices, set(item.foils)) != (own.question, own.choices, set(own.foils))


def _again(bench: Benchmark) -> Benchmark:
    return Benchmark(bench, name=f"{bench.name} again", source=bench.source, revision=bench.revision)


def _under(bench: Benchmark, base: Benchmark, name: str) -> Benchmark:
    """Return the condition of the items of `base`; twins are looked for in `bench`."""
    ids = set(base.ids)
    whole = condition(bench if name.endswith("-twin") else base, name)
    kept = [item for item in whole if item.id in ids]
    if not kept:
        raise RunError(
            f"cannot make the condition {name!r}", found="no item that allows it", fix="leave its family out"
        )
    return Benchmark(kept, name=whole.name, source=whole.source, revision=whole.revision)


def _margins(tables: Sequence[pd.DataFrame], truth: pd.Series[Any]) -> pd.Series[float]:
    """Return margins of `truth` (by id), averaged over orders of the options."""
    return pd.concat([margins_of(table, truth) for table in tables], axis=1).mean(axis=1, skipna=False)


def _of_family(base: Benchmark, name: str, tables: Mapping[str, Sequence[pd.DataFrame]]) -> pd.DataFrame:
    """Return the items of a family that are complete, with their four values and what follows from these."""
    family = FAMILIES[name]
    truth = pd.Series({item.id: item.truth for item in base})
    voice = tables[family.voice][0]
    heard = pd.Series(voice["truth"].to_numpy(), index=voice["id"].astype(str))
    at_rest = tables[family.neither]
    zero = _margins(at_rest, truth)
    values = pd.DataFrame(
        {
            "both": _margins(tables["both"], truth) - zero,
            "words": _margins(tables[family.words], truth) - zero,
            # Where the transform maps the truth, its own margin in `neither` is what it is counted from.
            "voice": _margins(tables[family.voice], heard) - _margins(tables.get(_zero_of(family), at_rest), heard),
            "neither": zero - zero,
        }
    )
    values = values.reindex([item.id for item in base]).dropna()
    parts = two_player(values["both"], values["words"], values["voice"], values["neither"])
    known = {item.id: item for item in base}
    rows = pd.DataFrame(
        {
            "id": list(values.index),
            "task": [known[i].task_name for i in values.index],
            "family": name,
            "condition": [known[i].condition for i in values.index],
            "speaker": [known[i].speaker for i in values.index],
            "script": [known[i].script for i in values.index],
            **{key: values[key].to_numpy() for key in ("both", "voice", "words", "neither")},
            **parts,
        }
    )
    return rows[list(ITEMS)]


def _summary(items: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
    level, seed = float(settings["level"]), settings["random_state"]
    out: list[dict[str, Any]] = []
    for family in settings["families"]:
        mine = items[items["family"] == family]
        for task, asked in {ALL: sum(settings["asked"].values()), **settings["asked"]}.items():
            part = mine if task == ALL else mine[mine["task"] == task]
            row: dict[str, Any] = {"family": family, "task": task, "n": len(part), "n_asked": asked, "verdict": ""}
            out.append(row)
            if not len(part):
                row["verdict"] = "not measured"
                continue
            clusters = clusters_by_name(part)
            for name in _EFFECTS:
                found = stats.mean(part[name].to_numpy(), clusters, level=level)
                row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
                row |= {"n_groups": found.n_groups, "group": found.group} if name == "listen" else {}
            conflict = part[part["condition"] == "conflict"]
            share = share_interval(
                conflict["listen"].to_numpy(), conflict["read"].to_numpy(), clusters_by_name(conflict), level=level,
                random_state=seed,
            )  # fmt: skip
            row |= dict(zip(("share", "share_low", "share_high"), share, strict=True))
            for name in ("listen", "read"):
                row[f"p_{name}"] = stats.sign_flip_test(part[name].to_numpy(), clusters, random_state=seed).p
            row["conditions"] = set(part["condition"])
    table = pd.DataFrame(out, columns=[*SUMMARY, "conditions"])
    for _, part in table[table["task"] != ALL].groupby("family", sort=False):
        for name in ("listen", "read"):
            q = stats.benjamini_hochberg(part[f"p_{name}"].to_numpy(dtype=np.float64))
            table.loc[part.index, f"q_{name}"] = q
    table["verdict"] = [
        one["verdict"] or verdict_of(one, FAMILIES[one["family"]].clean, one["conditions"], 1 - level)
        for one in table.to_dict("records")
    ]
    return table[list(SUMMARY)]
