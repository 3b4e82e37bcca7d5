"""``paraphrase``: the same question in other words, and whether gate and answer stay.

Why it exists. A gate that reads the prompt may have learnt the questions by heart. If it knew what is asked, other
words for the same question would leave its mixture nearly where it was, and the answer with it. How far is "nearly"
has a scale: the distance between tasks.

The idea. Every item is asked in its own words and in others. For the mixtures, the total variation from the original
wording's is set against the mean total variation between tasks; a ratio of 1 means that a paraphrase moves the gate as
far as another question would. For the answers, accuracy, margin and ALA are paired with the original wording's, and p
values are adjusted over the wordings.

Wordings (:data:`WORDINGS`) are of three kinds: a template (options first, another form of the letters), a frame around
the question (``listen to the audio. ...``), and other words for it (``reworded``: the ten questions of VoxParadox, by
hand, such as "How many speakers are in the audio?"). Own ones are handed over by name: a
:class:`~vpanalysis.benchmark.prompts.PromptTemplate`, a pattern with ``{question}``, or a function of the item that
returns its question. A gate that reads the question alone (``gate_text: question``) does not see a template.

Example: mixtures (0.9, 0.1) in the original and (0.8, 0.2) in other words are 0.1 apart; with tasks 0.5 apart on the
mean, the ratio is 0.2.

What it cannot show: few wordings are not all. A tokenizer with a small vocabulary reads unknown words as one token
(column ``unknown``), so that a change there may be of the word's absence and not of the wording.

>>> found = paraphrase("mini-pclm-dpo", "mini")                          # doctest: +SKIP
>>> found.mixtures                                                       # how far the gate moved
>>> found.table                                                          # what the answers did
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis import stats
from vpanalysis._results import TableResult
from vpanalysis.attribution._asking import Asker
from vpanalysis.attribution._mixtures import mixtures_of, variation
from vpanalysis.attribution._settings import (
    asked_in_parts,
    check_numbers,
    chosen_items,
    compared,
    compared_by_task,
    measured,
    named,
    p_text,
    seed_of,
)
from vpanalysis.attribution._work import Work, identity
from vpanalysis.attribution.margins import clusters_by_name
from vpanalysis.benchmark.items import Benchmark, Item
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT, PromptTemplate
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vpanalysis.models.facade import AudioLLM

__all__ = ["ORIGINAL", "REWORDED", "WORDINGS", "ParaphraseResult", "Wording", "paraphrase", "reworded"]

ORIGINAL, ALL = "original", "all"

Wording = PromptTemplate | str | Callable[[Item], str]
"""A template; a pattern with ``{question}``; or what makes an item's question."""

REWORDED: tuple[tuple[str, str], ...] = (
    (r"What is the most likely age group of the speaker in the audio\?", "What age group is the speaker in the audio?"),
    (r"What is the speaker's gender\?", "What is the gender of the speaker?"),
    (r"How does the speaker feel in the recording\?", "How does the speaker feel in the audio?"),
    (r"Which (.+) pattern best matches the audio\?", r"What is the \1 pattern of the audio?"),
    (
        r"What is the intonation of the entire sentence in the audio\?",
        "What is the intonation of the speaker in the audio?",
    ),
    (
        r"Which speaker clip belongs to the same person as speaker clip (.+)\?",
        r"Which speaker clip is by the same person as speaker clip \1?",
    ),
    (r"How many different speakers are in the audio\?", "How many speakers are in the audio?"),
)
"""The questions of VoxParadox (regular expressions) and other words for them."""


def reworded(item: Item) -> str:
    """Return other words for an item's question (:data:`REWORDED`), its own where none are known."""
    for pattern, other in REWORDED:
        if re.fullmatch(pattern, item.question):
            return re.sub(pattern, other, item.question)
    return item.question


WORDINGS: Mapping[str, Wording] = MappingProxyType(
    {
        "reworded": reworded,
        "listen first": "listen to the audio. {question}",
        "please": "{question} please listen to the voice.",
        "options first": PromptTemplate("options first", user="{options} {question}"),
        "letters with dots": PromptTemplate("letters with dots", option="{letter}. {text};"),
    }
)
"""Wordings that are tried by default. All their words are known to the bundled models."""


@dataclass(frozen=True, repr=False)
class ParaphraseResult(TableResult):
    """Gate and answers in other words.

    Attributes
    ----------
    table : DataFrame
        One row a wording and measure: setting (the wording), measure (accuracy; margin in nats; ala), value, low, high,
        difference to ``original`` with its interval, p, p_adjusted (over wordings), n, n_groups.
    mixtures : DataFrame
        One row a wording and task (and ``"all"``): changed (share of the items whose gate text is another), unknown
        (unknown tokens an item, more than in the original), variation (mean total variation from the original's
        mixture) with its interval (clustered by prompt too; NaN bounds where the gate reads one prompt only), between
        (mean total variation between tasks' mean mixtures in the original wording), ratio of the two, n. Empty without
        a mixer.
    items : DataFrame
        One row an item and wording.
    settings : mapping
    """

    VERB, TABLES = "paraphrase", ("table", "mixtures", "items")

    table: pd.DataFrame
    mixtures: pd.DataFrame
    items: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)

    def by_task(self) -> pd.DataFrame:
        """Return :attr:`table` task by task, with ``q`` over tasks."""
        level, seed = float(self.settings["level"]), self.settings["random_state"]
        return compared_by_task(self.items, ORIGINAL, level=level, random_state=seed)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw how far each wording moves the mixture; without a mixer, the accuracy under each."""
        from vpanalysis.plots.settings import gate_settings, gate_wordings

        name, level = str(self.settings.get("model", "")), float(self.settings["level"])
        if len(self.mixtures):
            return gate_wordings(self.mixtures, ax=ax, name=name, level=level)
        rows = self.table[self.table["measure"] == "accuracy"].reset_index(drop=True)
        return gate_settings(rows, ax=ax, name=name, reference=ORIGINAL, title="in other words", level=level)

    def _parts(self) -> tuple[pd.DataFrame, str, str]:
        shown = self.table.assign(p=p_text(self.table["p"]), p_adjusted=p_text(self.table["p_adjusted"]))
        title = f"ParaphraseResult: {self.settings.get('model')} on {self.settings.get('benchmark')}"
        note = "difference: to the original wording, paired by item; p_adjusted: over wordings"
        whole = self.mixtures[self.mixtures["task"] == ALL] if len(self.mixtures) else self.mixtures
        moved = [f"{row.wording} {row.variation:.2f}" for row in whole.itertuples()]
        if moved:
            note += f". Mixtures moved by {', '.join(moved)}"
            # With one task there is nothing to set it against.
            apart = float(whole["between"].iloc[0])
            note += f"; tasks are {apart:.2f} apart" if np.isfinite(apart) else ""
        return shown, title, note


def paraphrase(
    model: AudioLLM | str,
    benchmark: Benchmark | str,
    *,
    wordings: Mapping[str, Wording] | None = None,
    conditions: str | Sequence[str] = ("conflict",),
    template: PromptTemplate = DEFAULT_PROMPT,
    batch_size: int = 16,
    level: float = 0.95,
    random_state: int | None = 0,
    cache: bool | str | Path | None = True,
    progress: bool = True,
) -> ParaphraseResult:
    """Ask every item in other words; see what gate and answers do.

    Parameters
    ----------
    model : AudioLLM or str
        One that answers; with a mixer, its mixtures are compared too.
    benchmark : Benchmark or str
    wordings : mapping of str to PromptTemplate, str or callable, optional
        Default :data:`WORDINGS`, those that change something.
    conditions : str or sequence of str
        Of the items.
    template : PromptTemplate
        The original wording.
    batch_size : int
    level : float
    random_state : int or None
        Of the sign flips; None for one that is drawn (``settings`` says which).
    cache : bool, str, Path or None
    progress : bool

    Returns
    -------
    ParaphraseResult

    Raises
    ------
    RunError
        Without wordings, for patterns without ``{question}``, wordings that change no item, names that are taken,
        unknown conditions, and numbers out of range.
    """
    from vpanalysis.runs import listed, loaded_model

    llm, bench = loaded_model(model), listed(benchmark)
    if not llm.answers:
        raise RunError(f"cannot ask {llm.name!r} in other words", found="an encoder that answers nothing")
    check_numbers("cannot reword", level=level, batch_size=batch_size)
    seed = seed_of(random_state)
    items = chosen_items(bench, conditions, "cannot reword")
    made: dict[str, tuple[list[Item], PromptTemplate]] = {ORIGINAL: (items, template)}
    for name, wording in (WORDINGS if wordings is None else wordings).items():
        if name == ORIGINAL:
            raise RunError("cannot reword", found=f"a wording named {ORIGINAL!r}", fix="give it another name")
        other = _worded(items, template, name, wording)
        texts = zip(items, other[0], strict=True)
        if all(template.render(one) == other[1].render(two) for one, two in texts):
            if wordings is None:
                continue
            raise RunError("cannot reword", found=f"the wording {name!r}, which changes no item")
        made[name] = other
    if len(made) == 1:
        raise RunError("cannot reword", found="no wordings", fix="give one by name, or leave them out for the default")
    # Parts are named by what is asked, so that another wording under an old name is another part.
    labels = {f"{name} {_digest(*asked)}": name for name, asked in made.items()}
    at = {item.id: number for number, item in enumerate(items)}

    def ask(asker: Asker, label: str) -> pd.DataFrame:
        worded, other = made[labels[label]]
        turned = copy(asker)
        turned.items, turned.template = [worded[at[item.id]] for item in asker.items], other
        return measured(turned.items, turned.ask(), label)

    work = Work("paraphrase", identity(llm, items, template) | {"batch_size": batch_size}, cache)
    table = asked_in_parts(
        work, items, list(labels), lambda part: Asker(llm, part, template, batch_size), ask,
        what=f"paraphrases for {llm.name}", batch_size=batch_size, progress=progress,
        trial=lambda asker: asker.ask(range(min(batch_size, len(asker.items)))),
    )  # fmt: skip
    table["setting"] = table["setting"].map(labels)
    settings = {
        "model": llm.name, "benchmark": bench.name, "benchmark_sha": bench.sha, "conditions": named(conditions),
        "wordings": {name: _digest(*asked) for name, asked in made.items()},
        "examples": {name: other.render(worded[0]) for name, (worded, other) in made.items()},
        "skipped": len(items) - table["id"].nunique(), "level": level, "random_state": seed,
        "batch_size": batch_size, "weights": llm.weights_sha, "template": template.sha,
    }  # fmt: skip
    mixtures = _moved(llm, made, batch_size, level)
    return ParaphraseResult(compared(table, ORIGINAL, level=level, random_state=seed), mixtures, table, settings)


def _worded(
    items: Sequence[Item], template: PromptTemplate, name: str, wording: Wording
) -> tuple[list[Item], PromptTemplate]:
    """Return the items and the template of a wording."""
    if isinstance(wording, PromptTemplate):
        return list(items), wording
    if isinstance(wording, str):
        if "{question}" not in wording:
            raise RunError("cannot reword", found=f"the pattern {wording!r} of {name!r}", allowed="one with {question}")
        # Not `format`: other braces are the user's own.
        return [replace(i, question=wording.replace("{question}", i.question)) for i in items], template
    return [replace(item, question=wording(item)) for item in items], template


def _digest(items: Sequence[Item], template: PromptTemplate) -> str:
    content = json.dumps([template.sha, *(item.question for item in items)])
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _moved(
    llm: AudioLLM, made: Mapping[str, tuple[list[Item], PromptTemplate]], batch_size: int, level: float
) -> pd.DataFrame:
    """Return how far each wording moves the mixture, per task and over all."""
    columns = ["wording", "task", "changed", "unknown", "variation", "low", "high", "between", "ratio", "n", "n_groups"]
    if llm.streams is None:
        return pd.DataFrame(columns=columns)
    items, template = made[ORIGINAL]
    own = mixtures_of(llm, items, template, batch_size)
    texts, unknown = _read(llm, items, template)
    tasks = np.array([item.task_name for item in items])
    names = list(dict.fromkeys(tasks.tolist()))
    means = [own[tasks == task].mean(axis=0) for task in names]
    pairs = [float(variation(a, b)) for a, b in itertools.combinations(means, 2)]
    between = float(np.mean(pairs)) if pairs else float("nan")
    frame = pd.DataFrame({"speaker": [i.speaker for i in items], "script": [i.script for i in items]})
    prompts = np.unique(np.array(texts), return_inverse=True)[1].astype(np.int64)
    rows = []
    for name, (worded, other) in made.items():
        if name == ORIGINAL:
            continue
        far = variation(mixtures_of(llm, worded, other, batch_size), own)
        its_texts, its_unknown = _read(llm, worded, other)
        changed = np.array([a != b for a, b in zip(texts, its_texts, strict=True)], dtype=np.float64)
        for task in (ALL, *names):
            here = np.ones(len(tasks), dtype=bool) if task == ALL else tasks == task
            # Items that put one question to the gate are one observation of it.
            clusters = clusters_by_name(frame[here]) | {"prompt": prompts[here]}
            found = stats.mean(far[here], clusters, level=level)
            # One prompt says nothing of how others would move, however many items ask it. Clipping keeps NaN.
            told = len(np.unique(prompts[here])) > 1
            low, high = np.clip([found.low, found.high], 0.0, 1.0) if told else (np.nan, np.nan)
            rows.append(
                {
                    "wording": name, "task": task, "changed": float(changed[here].mean()),
                    "unknown": float((its_unknown - unknown)[here].mean()), "variation": found.value,
                    "low": float(low), "high": float(high), "between": between,
                    "ratio": found.value / between if between else float("nan"), "n": found.n,
                    "n_groups": found.n_groups,
                }
            )  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _read(llm: AudioLLM, items: Sequence[Item], template: PromptTemplate) -> tuple[list[str], Any]:
    """Return what the gate reads for each item, and how many of its tokens are unknown."""
    texts = [llm.gate_text(item, template) for item in items]
    unk = getattr(llm.gate_tokenizer, "unk_token_id", None)
    ids = llm.gate_tokenizer(texts)["input_ids"]
    return texts, np.array([0 if unk is None else list(row).count(unk) for row in ids], dtype=np.float64)
