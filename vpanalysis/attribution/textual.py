"""``text_controls``: what the text alone would answer, what a wrong clip changes, and whether the words are inverted.

Why it exists. A model that never heard a clip can look as if it had. One that reads the transcript and picks what it
does *not* say is right on every two-way paradox; one that likes the letter B is right on half. Such answers need no
voice, and a benchmark of contradictions alone cannot tell them from listening.

The idea. The same questions are asked under controls, each of which takes one thing away:

* ``shuffled options``     the options in another order: what the letters do;
* ``wrong clip``           another item's clip of the same task, of another speaker and wording where there is one;
* ``question only``        no clip and no words;
* ``transcript only``      no clip, the words as text: what reading answers;
* ``transcript negation``  as before, with the instruction to pick what the words do not claim: what inverting answers;
* ``negated question``     the clip, with that instruction.

The *inversion test* needs congruent twins, whose words say the truth. The *word effect* of a cell is half of what the
margin of the truth gains when the words say the truth instead of the contradiction,
``(margin(congruent) - margin(conflict)) / 2``, in nats. Voice, options and foils are the same in both, so that nothing
but the words can bring it about. Above 0 the words are followed, below 0 they are inverted, which no listener and no
reader does. Under a negated question a model that obeys it turns the sign, and is said to "turn with the negation".
Of a single task something is said only where it holds after adjusting over the tasks (Benjamini and Hochberg 1995).

What it cannot show: a model that was never trained on instructions of this form may ignore them, so that a word effect
which does not turn is no proof that it could not be turned. Text and speech of the same words are not the same input.

The transcript-only and negated baselines follow the VoxParadox paper's text-only analysis in spirit; the inversion test
by twins is this package's.

>>> found = text_controls("mini-inverter", "mini")                       # doctest: +SKIP
>>> found.inversion                                                      # doctest: +SKIP
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from vpanalysis import stats
from vpanalysis._results import TableResult
from vpanalysis.attribution._asking import Asker, asks_without_clips
from vpanalysis.attribution._settings import MEASURES, check_numbers, compared, held_bytes, seed_of
from vpanalysis.attribution._verdicts import ALL, word_verdict
from vpanalysis.attribution._work import Work, identity, say_cost
from vpanalysis.attribution.conditions import quoted, twin_of
from vpanalysis.attribution.margins import clusters_by_name
from vpanalysis.benchmark.audio import NoAudio
from vpanalysis.benchmark.items import Benchmark, Item
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT, PromptTemplate
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vpanalysis.models.batch import EncodedClip
    from vpanalysis.models.facade import AudioLLM

__all__ = ["CONTROLS", "NEGATION", "TextControls", "text_controls"]

AS_ASKED = "as asked"

CONTROLS = (
    AS_ASKED, "shuffled options", "wrong clip", "question only", "transcript only", "transcript negation",
    "negated question",
)  # fmt: skip
"""Names of the controls, and the question as it is."""

NEGATION = "Pick what the words do not claim."
"""The instruction that negates a question."""

_BY_WORDS = (AS_ASKED, "negated question", "transcript only", "transcript negation")
"""Controls under which the words are there, so that they can be followed or inverted."""


@dataclass(frozen=True, repr=False)
class TextControls(TableResult):
    """Answers under text controls, and the inversion test.

    Attributes
    ----------
    table : DataFrame
        One row a task (and ``"all"``), control and measure (accuracy; margin in nats; ala, the share answered with what
        the words of the conflict item claim): value with its interval, difference to ``"as asked"`` paired by item with
        its interval, p, p_adjusted (over the controls), n, n_groups.
    inversion : DataFrame
        One row a task (and ``"all"``) and control that has words: effect (mean word effect, nats) with its interval, p,
        q (Benjamini and Hochberg over tasks), verdict, n (cells with a congruent twin), n_groups.
    items : DataFrame
        One row an item, control and twin: id, task, speaker, script, control, twin (conflict or congruent), accuracy,
        margin, ala.
    settings : mapping
    """

    VERB, TABLES = "text-controls", ("table", "inversion", "items")

    table: pd.DataFrame
    inversion: pd.DataFrame
    items: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def inverts(self) -> bool:
        """Whether the model, asked as it is, inverts the words over all tasks."""
        rows = self.inversion[(self.inversion["task"] == ALL) & (self.inversion["control"] == AS_ASKED)]
        return bool((rows["verdict"] == "inverts the words").any())

    def plot(self, ax: Axes | None = None, *, measure: str = "accuracy", task: str = ALL) -> Axes:
        """Draw one measure under every control with its interval, of one task or of all."""
        from vpanalysis import plots

        have = list(dict.fromkeys(self.table["task"]))
        for value, allowed in ((measure, MEASURES), (task, have)):
            if value not in allowed:
                raise RunError("cannot draw the controls", found=repr(value), allowed=allowed, word=value)
        rows = self.table[(self.table["measure"] == measure) & (self.table["task"] == task)]
        return plots.gate_settings(
            rows.reset_index(drop=True), ax=ax, name=str(self.settings.get("model", "")), reference=AS_ASKED,
            title="all tasks" if task == ALL else plots.short_task(task), level=float(self.settings["level"]),
        )  # fmt: skip

    def plot_inversion(self, ax: Axes | None = None) -> Axes:
        """Draw the word effect per task, as asked and under the negated question."""
        from vpanalysis import plots

        return plots.word_effects(self.inversion, ax=ax, title=str(self.settings.get("model", "")))

    def _parts(self) -> tuple[pd.DataFrame, str, str]:
        rows = self.table[self.table["task"] == ALL]
        cells = [f"{v:.2f} [{lo:.2f}, {hi:.2f}]" for v, lo, hi in zip(rows["value"], rows["low"], rows["high"],
                                                                      strict=True)]  # fmt: skip
        shown = rows.assign(cell=cells).pivot(index="setting", columns="measure", values="cell")
        shown = shown.reindex(index=list(dict.fromkeys(rows["setting"])), columns=list(dict.fromkeys(rows["measure"])))
        whole = self.inversion[self.inversion["task"] == ALL]
        said = [f"{row.control}: {row.verdict} ({row.effect:+.2f} [{row.low:+.2f}, {row.high:+.2f}] nats)"
                for row in whole.itertuples()]  # fmt: skip
        title = f"TextControls: {self.settings.get('model')} on {self.settings.get('benchmark')}, all tasks"
        note = "word effect " + "; ".join(said) if said else "no congruent twin"
        missing = self.settings.get("not_asked")
        note += f". Could not be asked: {', '.join(missing)}" if missing else ""
        return shown.rename_axis(columns=None), title, note


def text_controls(
    model: AudioLLM | str,
    benchmark: Benchmark | str,
    *,
    controls: Sequence[str] | None = None,
    template: PromptTemplate = DEFAULT_PROMPT,
    batch_size: int = 16,
    level: float = 0.95,
    random_state: int | None = 0,
    cache: bool | str | Path | None = True,
    progress: bool = True,
) -> TextControls:
    """Ask the conflict items under text controls, and their congruent twins where words can be inverted.

    Parameters
    ----------
    model : AudioLLM or str
        What :func:`vpanalysis.load_model` returns or takes; one that answers.
    benchmark : Benchmark or str
        With conflict items that have foils. Congruent twins are looked for in it; those of VoxParadox-mini are made.
    controls : sequence of str, optional
        Of :data:`CONTROLS`; default all. Where some items have no transcript, controls are compared on the others.
    template : PromptTemplate
    batch_size : int
    level : float
        Of the intervals.
    random_state : int or None
        Of orders, wrong clips and sign flips; one that is drawn is in the settings.
    cache : bool, str, Path or None
        Where answers are kept, so that a second call is free: the default folder (True), another one, or nowhere.
    progress : bool
        Print what it will cost, and show a bar.

    Returns
    -------
    TextControls

    Raises
    ------
    RunError
        For unknown controls, models that answer nothing, or without conflict items that have foils.
    """
    from vpanalysis.runs import listed, loaded_model

    chosen = list(CONTROLS) if controls is None else list(dict.fromkeys([AS_ASKED, *controls]))
    check_numbers("cannot control for text", level=level, batch_size=batch_size)
    random_state = seed_of(random_state)
    for name in chosen:
        if name not in CONTROLS:
            raise RunError("cannot control for text", found=repr(name), allowed=CONTROLS, word=name)
    llm, bench = loaded_model(model), listed(benchmark)
    asked = [i for i in bench if i.condition == "conflict" and i.foils and i.truth not in i.foils]
    if not asked:
        raise RunError("cannot control for text", found=f"no conflict item with foils in {bench.name!r}",
                       allowed=bench.conditions)  # fmt: skip
    have = {item.cell: item for item in bench if item.condition == "congruent" and item.cell is not None}
    twins = [twin for item in asked if (twin := twin_of(item, "congruent", have)) is not None]
    key = {**identity(llm, [*asked, *twins], template), "seed": random_state, "rows": batch_size}
    work = Work("text-controls", key, cache)
    steps = [(name, "conflict", asked) for name in chosen]
    steps += [(name, "congruent", twins) for name in chosen if name in _BY_WORDS and twins]
    parts = _asked_all(llm, steps, template, batch_size, random_state, work, progress)
    # Without controls that could ask nothing: an empty table has no types, and would take them from the others.
    items = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    settings = {
        "model": llm.name, "benchmark": bench.name, "benchmark_sha": bench.sha, "controls": chosen, "level": level,
        "random_state": random_state, "weights": llm.weights_sha, "template": template.sha, "negation": NEGATION,
        "batch_size": batch_size, "not_asked": [name for name in chosen if name not in set(items["control"])],
    }  # fmt: skip
    table = _table(items, level, random_state)
    return TextControls(table, _inversion(items, chosen, level, random_state), items, settings)


# The controls ---------------------------------------------------------------------------------------------------------


def _controlled(name: str, items: Sequence[Item], seed: int) -> list[Item]:
    """Return the items as a control asks them; those that it cannot ask are left out."""
    if name == "shuffled options":
        rng = np.random.default_rng(seed)
        return [replace(i, choices=tuple(i.choices[at] for at in _moved(rng, len(i.choices)))) for i in items]
    if name == "wrong clip":
        pairs = zip(items, _others(items, seed), strict=True)
        return [replace(item, audio=items[other].audio) for item, other in pairs if other is not None]
    change: Mapping[str, Callable[[Item], Item]] = {
        "question only": lambda i: replace(i, audio=NoAudio()),
        "transcript only": lambda i: replace(i, audio=NoAudio(), question=quoted(i)),
        "transcript negation": lambda i: replace(i, audio=NoAudio(), question=quoted(i, NEGATION)),
        "negated question": lambda i: replace(i, question=f"{NEGATION} {i.question}"),
    }
    kept = [i for i in items if i.transcript or not name.startswith("transcript")]
    return [change[name](i) for i in kept] if name in change else kept


def _moved(rng: np.random.Generator, count: int) -> list[int]:
    """Return another order of so many things; never the one they are in, where there is another."""
    order = rng.permutation(count)
    while count > 1 and (order == np.arange(count)).all():
        order = rng.permutation(count)
    return [int(at) for at in order]


def _others(items: Sequence[Item], seed: int) -> list[int | None]:
    """Return for every item another one of its task, of another speaker and wording where there is one.

    None where all clips of the task are the item's own.
    """
    rng = np.random.default_rng(seed)
    keys = [item.audio.key() for item in items]
    out: list[int | None] = []
    for number, item in enumerate(items):
        same = [at for at, one in enumerate(items) if one.task_name == item.task_name and keys[at] != keys[number]]
        far = [at for at in same if items[at].speaker != item.speaker and items[at].script != item.script]
        out.append(int(rng.choice(far or same)) if same else None)
    return out


def _asked_all(
    llm: AudioLLM, steps: Sequence[tuple[str, str, Sequence[Item]]], template: PromptTemplate, batch_size: int,
    seed: int, work: Work, progress: bool,
) -> list[pd.DataFrame]:  # fmt: skip
    names = [f"{name} {twin}" for name, twin, _ in steps]
    left = len(steps) - work.done(names)
    parts, said = [], False
    clips: dict[str, EncodedClip] = {}
    with tqdm(total=left, desc="controls", unit="control", disable=not progress or not left) as bar:
        for part, (name, twin, items) in zip(names, steps, strict=True):
            known = work.read(part)
            if known is None:
                wanted = _controlled(name, items, seed)
                started = time.perf_counter()
                asker = _opened(llm, wanted, template, batch_size, clips) if wanted else None
                known = pd.DataFrame(columns=_COLUMNS)
                if asker is not None:
                    if not said:
                        asker.ask(range(min(batch_size, len(asker.items))))
                        batches = -(-len(items) // batch_size)
                        # The first control has encoded its clips by now, which most of the others share.
                        one = (time.perf_counter() - started) / batches
                        held = held_bytes(list(clips.values()))
                        say_cost(progress, f"text_controls of {llm.name}, {len(items)} items", forwards=left * batches,
                                 seconds=left * batches * one, held=held,
                                 done=f"{len(steps) - left} of {len(steps)} are there")  # fmt: skip
                        said = True
                    known = _answers(asker, name, twin)
                work.write(part, known)
                bar.update()
            parts.append(known)
    return parts


def _opened(
    llm: AudioLLM, items: Sequence[Item], template: PromptTemplate, batch_size: int, clips: dict[str, EncodedClip]
) -> Asker | None:
    """Return the items ready to be asked; None where the model cannot be asked without a clip."""
    if isinstance(items[0].audio, NoAudio) and not asks_without_clips(llm, items[0], template):
        return None
    return Asker(llm, items, template, batch_size, clips=clips)


_COLUMNS = ["id", "task", "speaker", "script", "control", "twin", *MEASURES]


def _answers(asker: Asker, name: str, twin: str) -> pd.DataFrame:
    logprobs = asker.ask()
    best = [item.choices[int(row.argmax())] for item, row in zip(asker.items, logprobs, strict=True)]
    table = pd.DataFrame(
        {
            "id": [i.id for i in asker.items], "task": [i.task_name for i in asker.items],
            "speaker": [i.speaker for i in asker.items], "script": [i.script for i in asker.items],
            "control": name, "twin": twin, "accuracy": asker.correct(logprobs), "margin": asker.margins(logprobs),
            # The claims of the conflict twin, on every twin.
            "ala": [float(one in item.foils) for one, item in zip(best, asker.items, strict=True)],
        }
    )  # fmt: skip
    return table[_COLUMNS]


# What follows ---------------------------------------------------------------------------------------------------------


def _tasks(items: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(ALL, items), *((str(task), part) for task, part in items.groupby("task", sort=False))]


def _table(items: pd.DataFrame, level: float, seed: int) -> pd.DataFrame:
    out = []
    asked = items[items["twin"] == "conflict"].rename(columns={"control": "setting"})
    for task, part in _tasks(asked):
        found = compared(part, AS_ASKED, level=level, random_state=seed)
        found.insert(0, "task", task)
        out.append(found)
    return pd.concat(out, ignore_index=True)


def _inversion(items: pd.DataFrame, chosen: Sequence[str], level: float, seed: int) -> pd.DataFrame:
    out: list[dict[str, Any]] = []
    for task, part in _tasks(items):
        for name in chosen:
            mine = part[part["control"] == name]
            both = mine.pivot(index="id", columns="twin", values="margin").dropna()
            if name not in _BY_WORDS or not {"congruent", "conflict"} <= set(both.columns) or not len(both):
                continue
            effect = ((both["congruent"] - both["conflict"]) / 2).to_numpy(dtype=np.float64)
            who = mine.drop_duplicates("id").set_index("id").loc[both.index]
            clusters = clusters_by_name(who)
            found = stats.mean(effect, clusters, level=level)
            p = stats.sign_flip_test(effect, clusters, random_state=seed).p
            out.append(
                {
                    "task": task, "control": name, "effect": found.value, "low": found.low, "high": found.high, "p": p,
                    "n": found.n, "n_groups": found.n_groups,
                }
            )  # fmt: skip
    columns = ["task", "control", "effect", "low", "high", "p", "q", "verdict", "n", "n_groups"]
    table = pd.DataFrame(out, columns=columns)
    for _, part in table[table["task"] != ALL].groupby("control", sort=False):
        table.loc[part.index, "q"] = stats.benjamini_hochberg(part["p"].to_numpy(dtype=np.float64))
    table["verdict"] = [word_verdict(row, 1 - level) for row in table.to_dict("records")]
    return table
