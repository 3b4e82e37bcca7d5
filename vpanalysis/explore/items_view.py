"""``explore.items``: every item of one or more Runs, to be heard, seen and questioned.

Why it exists. A score says that a model reads; it does not say what was said, how, and what one would have answered
oneself. The quickest way to find a wrong label, a clip that nobody could judge or a model that is right for a wrong
reason is to listen to the items that it lost.

The idea. Filters (task, condition, outcome, agreement of checkpoints, a search in ids and questions) leave a list of
items; one is shown: the clip in a player, the question, every option with each checkpoint's probability of its letter,
truth and claim marked in words and colour, and buttons to the twins of its cell. Outcomes are those of
:func:`vpanalysis.score`.

What it cannot show: what is typical. Items that one looks at were chosen, by a filter or by chance; how often something
happens is in the score.

>>> explore.items(run_base, run_pclm)                                    # doctest: +SKIP
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from vpanalysis._outcomes import OUTCOMES, RunLike, task_order
from vpanalysis.errors import RunError
from vpanalysis.explore._answers import Answer, Asked, answers_of, opened
from vpanalysis.explore._choosing import Chooser, row
from vpanalysis.explore._clips import Clip, static_html
from vpanalysis.explore._explorer import Explorer, labelled
from vpanalysis.explore._player import Player
from vpanalysis.explore._sounds import Sounds

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Benchmark

__all__ = ["ItemsExplorer", "items"]

_ALL = "all"
_SHORT = {"pred_logits": "letter with the largest logit", "pred_generated": "generated reply",
          "pred_text_score": "most likely option text"}  # fmt: skip


def items(
    *runs: RunLike | str | Path,
    benchmark: Benchmark | str | None = None,
    prediction: str = "pred_logits",
    item: str | None = None,
) -> ItemsExplorer:
    """Show the items of Runs: hear the clip, see every checkpoint's options, go to the twins.

    Parameters
    ----------
    *runs : Run, str or Path
        One a checkpoint, of one benchmark.
    benchmark : Benchmark or str, optional
        Where the clips come from; by default the benchmark that the first Run names.
    prediction : {"pred_logits", "pred_generated", "pred_text_score"}
        What outcomes are judged by, as in :func:`vpanalysis.score`.
    item : str, optional
        Id of the item to start with; default the first.

    Returns
    -------
    ItemsExplorer

    Raises
    ------
    RunError
        Without Runs, where they lack the prediction, share a name or ask different things, or for an unknown item.
    """
    return ItemsExplorer(opened(runs, "items"), benchmark, prediction, item)


class ItemsExplorer(Explorer):
    """What :func:`items` returns.

    Attributes
    ----------
    state : dict
        task, condition, outcome, checkpoint, agreement, search, item, found (ids that the filters leave: how many).
    """

    def __init__(
        self, runs: list[RunLike], benchmark: Benchmark | str | None, prediction: str, item: str | None
    ) -> None:
        super().__init__("Items")
        self.runs = [run.name for run in runs]
        self.prediction = prediction
        self.asked = answers_of(runs, prediction)
        if item is not None and item not in self.asked:
            raise RunError("cannot show an item", found=repr(item), allowed=f"one of {len(self.asked)} ids", word=item)
        manifest = getattr(runs[0], "manifest", None) or {}
        self._sounds = Sounds(benchmark, manifest.get("benchmark"))
        self._found = list(self.asked)
        self._clip: Clip | None = None
        self._note = ""
        self._twins: dict[tuple[str, str, str], list[str]] = {}
        for one in self.asked.values():
            if one.cell is not None:
                self._twins.setdefault((one.task, one.cell, one.condition), []).append(one.id)
        self._build()
        self._filter(item or self._found[0])

    # Controls ---------------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        def choice(label: str, values: list[Any], hint: str, width: str) -> Any:
            made = labelled(widgets.Dropdown(options=values, layout=widgets.Layout(width=width)), label, hint)
            made.observe(self._on_filter, "value")
            return made

        every = list(self.asked.values())
        conditions = list(dict.fromkeys(one.condition for one in every))
        self.task = choice("Task", [_ALL, *task_order(one.task for one in every)], "Only items of this task", "260px")
        self.condition = choice("Condition", [_ALL, *conditions], "Only items of this condition", "200px")
        self.outcome = choice("Outcome", [_ALL, *OUTCOMES], "Only items with this outcome", "190px")
        self.checkpoint = choice(
            "Outcome of", [("any checkpoint", _ALL), *((name, name) for name in self.runs)], "Whose outcome", "270px"
        )
        agree = [("agree or not", _ALL), ("disagree", "disagree"), ("agree", "agree")]
        self.agreement = choice("Checkpoints", agree, "Only items on which the checkpoints disagree, or agree", "240px")
        for control in (self.checkpoint, self.agreement):
            control.disabled = len(self.runs) < 2
        hint = "Part of an id, of the question or of the words"
        self.search = labelled(
            widgets.Text(placeholder="id or words", layout=widgets.Layout(width="240px")), "Search", hint
        )
        self.search.observe(self._on_filter, "value")
        self.chooser = Chooser(self._show)
        self.item, self.previous, self.next = self.chooser.list, self.chooser.previous, self.chooser.next
        self.count, self.head, self.table = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.player = Player(title="Clip of the item")
        self.twins: dict[str, Any] = {}
        for name in conditions:
            made = widgets.Button(description=f"{name} twin", tooltip=f"The {name} item of the same cell")
            made.on_click(lambda _, name=name: self._to_twin(name))
            self.twins[name] = made

        self.show(
            row(self.task, self.condition, self.outcome, self.checkpoint, self.agreement, self.search),
            self.chooser.row(), self.count,
            self.head, self.player, self.table, row(widgets.HTML("Same cell:"), *self.twins.values()),
        )  # fmt: skip

    def _on_filter(self, _: Any) -> None:
        self._filter(self.state["item"])

    def _twin(self, condition: str) -> str | None:
        one = self.asked[self.state["item"]]
        if one.cell is None or one.condition == condition:
            return None
        found = self._twins.get((one.task, one.cell, condition))
        return found[0] if found else None

    def _to_twin(self, condition: str) -> None:
        found = self._twin(condition)
        if found is not None:
            self.open(found)

    def open(self, item: str) -> None:
        """Show an item, whether or not the filters leave it.

        Parameters
        ----------
        item : str
            Its id.

        Raises
        ------
        RunError
            For an unknown item.
        """
        if item not in self.asked:
            raise RunError("cannot show an item", found=repr(item), allowed=f"one of {len(self.asked)} ids", word=item)
        self._list(item)

    # What is shown ----------------------------------------------------------------------------------------------------

    def _keeps(self, one: Asked) -> bool:
        if self.task.value not in (_ALL, one.task) or self.condition.value not in (_ALL, one.condition):
            return False
        if self.agreement.value != _ALL and one.disagree != (self.agreement.value == "disagree"):
            return False
        who = self.checkpoint.value
        mine = [a.outcome for name, a in one.answers.items() if who in (_ALL, name)]
        if self.outcome.value != _ALL and self.outcome.value not in mine:
            return False
        if who != _ALL and not mine:
            return False
        word = self.search.value.strip().casefold()
        return not word or any(word in text.casefold() for text in (one.id, one.question, *one.about))

    def _filter(self, wanted: str) -> None:
        self._found = [one.id for one in self.asked.values() if self._keeps(one)]
        shown = wanted if wanted in self._found or not self._found else self._found[0]
        self._list(shown)

    def _list(self, shown: str) -> None:
        """Offer the items that the filters leave, and the one that is shown in any case; show it."""
        choices = [(self._label(i), i) for i in self._found]
        if shown not in self._found:
            choices.insert(0, (f"{self._label(shown)} (outside the filters)", shown))
        self.chooser.offer(choices, keep=shown)

    def _label(self, item: str) -> str:
        one = self.asked[item]
        return f"{one.id} · {' / '.join(dict.fromkeys(a.outcome for a in one.answers.values()))}"

    def _show(self, item: str) -> None:
        one = self.asked[item]
        if item != self.state.get("item"):
            self._clip, self._note = self._sounds.clip(item, question=one.question, choices=one.choices)
            self.player.load(self._clip, note=self._note)
            self.head.value, self.table.value = self._head_html(one), self._table_html(one)
        self.state["item"] = item
        for name, button in self.twins.items():
            button.disabled = self._twin(name) is None
        self.count.value = self._count_html()
        self.changed(
            task=self.task.value, condition=self.condition.value, outcome=self.outcome.value,
            checkpoint=self.checkpoint.value, agreement=self.agreement.value, search=self.search.value, item=item,
            found=len(self._found),
        )  # fmt: skip

    def _count_html(self) -> str:
        here = self.state["item"]
        number = f"item {self._found.index(here) + 1} of " if here in self._found else ""
        none = "" if self._found else "no item passes the filters; "
        return (
            f"<span class='vp-note' aria-live='polite'>{none}{number}{len(self._found)} (of {len(self.asked)})</span>"
        )

    def _head_html(self, one: Asked) -> str:
        about = " · ".join((one.id, one.task.replace("_", " "), one.condition, *one.about))
        return f"<p class='vp-question'>{escape(one.question)}</p><p class='vp-note'>{escape(about)}</p>"

    def _table_html(self, one: Asked) -> str:
        heads = "".join(f"<th scope='col'>{escape(name)}</th>" for name in self.runs)
        rows = []
        for number, (letter, choice) in enumerate(zip(one.letters, one.choices, strict=True)):
            marks = one.marks(choice)
            cells = "".join(_share_html(one.answers.get(name), number, choice, marks) for name in self.runs)
            words = {"truth": "● truth (voice)", "claim": "■ claim (words)", "said": "also said by the words"}
            said = " ".join(f"<span class='vp-{m}'>{words[m]}</span>" for m in marks)
            rows.append(f"<tr><th scope='row'>({escape(letter)}) {escape(choice)} {said}</th>{cells}</tr>")
        last = "".join(f"<td>{_outcome_html(one.answers.get(name))}</td>" for name in self.runs)
        rows.append(f"<tr><th scope='row'>outcome</th>{last}</tr>")
        note = (
            f"Bars: probability of the option's letter, among those offered. Picked: {_SHORT.get(self.prediction, '')}."
        )
        return (
            f"<table class='vp-options'><thead><tr><th scope='col'>option</th>{heads}</tr></thead>"
            f"<tbody>{''.join(rows)}</tbody></table><p class='vp-note'>{escape(note)}</p>"
        )

    def static(self) -> str:
        """Return the item that is shown: question, options with probabilities, clip and pictures."""
        one = self.asked[self.state["item"]]
        clip = static_html(self._clip) if self._clip is not None else f"<p class='vp-note'>{escape(self._note)}</p>"
        return f"{self._count_html()}{self._head_html(one)}{clip}{self._table_html(one)}"


def _share_html(answer: Answer | None, number: int, choice: str, marks: list[str]) -> str:
    if answer is None:
        return "<td>not asked</td>"
    picked = " <b>◀ picked</b>" if answer.picked == choice else ""
    if number >= len(answer.shares):
        return f"<td>–{picked}</td>"
    share = answer.shares[number]
    kind = "truth" if "truth" in marks else "claim" if "claim" in marks else "other"
    text = f"{100 * share:.1f} %"
    bar = f"<span class='vp-bar vp-bar-{kind}' style='width:{120 * share:.1f}px'></span>"
    return (
        f"<td><span class='vp-track' aria-hidden='true'>{bar}</span> <span class='vp-number'>{text}</span>{picked}</td>"
    )


def _outcome_html(answer: Answer | None) -> str:
    if answer is None:
        return "–"
    kind = {"listened": "truth", "read": "claim"}.get(answer.outcome, "plain")
    more = answer.reason or (f"reply: {answer.reply}" if answer.reply else "")
    tail = f"<div class='vp-note'>{escape(more[:300])}</div>" if more else ""
    return f"<span class='vp-{kind}'>{escape(answer.outcome)}</span>{tail}"
