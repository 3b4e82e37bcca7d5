"""``explore.gates``: type a question and watch the mixture move, set the weights by hand, and see what it does.

Why it exists. That a gate reads the prompt is a sentence; to see its weights move from word to word, and to see whether
anything follows from it, is another thing.

The idea. With a model: a prompt can be typed, and the gate, which reads nothing else, says its mixture. Weights can be
set by hand on sliders that keep the sum at one. Below, one item is answered: as it is asked, with the typed prompt, and
with the weights set by hand. Its clip is encoded once, so that a change costs one forward of the language model; the
gate is set during that forward only (:func:`vpanalysis.attribution.clamped`), and no hook stays. With a Run there is no
gate to ask, and what it recorded is shown: mixtures by task and how far tasks are apart.

What it cannot show. One item is an anecdote: :func:`vpanalysis.gates` measures all of them, with intervals. Weights
that the model was never trained with are no fair question about what a stream holds. And a typed prompt may hold words
that the gate does not know; they are counted.

>>> from vpanalysis import explore                                       # doctest: +SKIP
>>> explore.gates("mini-pclm-dpo")                                       # doctest: +SKIP
>>> explore.gates(run_pclm)                                              # doctest: +SKIP
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import ipywidgets as widgets
import numpy as np
import pandas as pd

from vpanalysis._html import html_table
from vpanalysis.attribution._mixtures import clamped, mixtures_of, streams_of, variation
from vpanalysis.attribution.margins import margin
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT, PromptTemplate
from vpanalysis.errors import RunError
from vpanalysis.explore._explorer import Explorer, labelled, text_html
from vpanalysis.explore._mixing import hundredths, rescaled
from vpanalysis.explore._points import CLAIM, DIM, TRUTH, Bar, bars, places_html, short
from vpanalysis.explore._recorded_gates import RunGateExplorer
from vpanalysis.plots.style import short_task
from vpanalysis.stats import FloatArray

if TYPE_CHECKING:
    from vpanalysis._run import Run
    from vpanalysis.benchmark.items import Benchmark, Item
    from vpanalysis.models.facade import AudioLLM

__all__ = ["GateExplorer", "RunGateExplorer", "gates"]

_DELAY = 0.05
"""Seconds without a change before the model is asked."""

_HELD = 16
"""Items whose encoded clips are held."""


@overload
def gates(
    model_or_run: AudioLLM, benchmark: Benchmark | str | None = None, *, template: PromptTemplate = DEFAULT_PROMPT
) -> GateExplorer: ...
@overload
def gates(model_or_run: Run) -> RunGateExplorer: ...
@overload
def gates(
    model_or_run: str | Path, benchmark: Benchmark | str | None = None, *, template: PromptTemplate = DEFAULT_PROMPT
) -> GateExplorer | RunGateExplorer: ...
def gates(
    model_or_run: AudioLLM | Run | str | Path,
    benchmark: Benchmark | str | None = None,
    *,
    template: PromptTemplate = DEFAULT_PROMPT,
) -> GateExplorer | RunGateExplorer:
    """Ask a gate by hand, or look at what a Run recorded of it.

    Parameters
    ----------
    model_or_run : AudioLLM, Run, str or Path
        A model with a mixer, or its name; or a Run that recorded the site ``gate``, or its folder.
    benchmark : Benchmark or str, optional
        Whose items can be asked; the bundled one by default. Not with a Run.
    template : PromptTemplate
        Wording around the question.

    Returns
    -------
    GateExplorer or RunGateExplorer

    Raises
    ------
    RunError
        For a model without a mixer, a Run without gate weights, and a Run beside a benchmark.
    """
    from vpanalysis.runs import listed, loaded_model, open_run

    if isinstance(model_or_run, (str, Path)) and (Path(model_or_run) / "manifest.json").is_file():
        model_or_run = open_run(model_or_run)
    if hasattr(model_or_run, "predictions"):
        if benchmark is not None:
            raise RunError("cannot explore the gate", found="a Run beside a benchmark",
                           fix="give the model instead of the Run, or leave the benchmark out")  # fmt: skip
        return RunGateExplorer(model_or_run)
    llm = loaded_model(str(model_or_run) if isinstance(model_or_run, Path) else model_or_run)
    streams_of(llm)
    return GateExplorer(llm, listed("mini" if benchmark is None else benchmark), template)


def _entropy(weights: FloatArray) -> float:
    return float(-(weights * np.log(np.maximum(weights, 1e-300))).sum())


def _role(item: Item, choice: str) -> str:
    """Say what an option is; colours say it too."""
    if choice == item.truth:
        return "truth" + (" (voice and words)" if choice in item.said else " (voice)")
    return "claim (words)" if choice in item.said else ""


class GateExplorer(Explorer):
    """A gate that is asked live.

    Sliders move in hundredths and show the nearest ones of the weights that are used; pictures and tables show these.

    Parameters
    ----------
    llm : AudioLLM
        With a mixer.
    benchmark : Benchmark
    template : PromptTemplate

    Attributes
    ----------
    state : dict
        item, prompt, own (weights for the prompt), clamped (weights set by hand, or None), probabilities and margins
        (in nats) by setting, note.
    """

    def __init__(self, llm: AudioLLM, benchmark: Benchmark, template: PromptTemplate = DEFAULT_PROMPT) -> None:
        super().__init__(f"The gate of {llm.name}")
        self.llm, self.template = llm, template
        self.streams = streams_of(llm)
        self._by_task: dict[str, list[Item]] = {}
        for item in benchmark:
            self._by_task.setdefault(item.task_name, []).append(item)
        self._askers: OrderedDict[str, Any] = OrderedDict()
        self._asked: OrderedDict[tuple[str, str], FloatArray] = OrderedDict()
        self._following = False
        self._timer: asyncio.TimerHandle | None = None
        self._note = ""
        self._controls()
        self.show(
            widgets.HBox([self.task, self.item], layout=widgets.Layout(flex_flow="row wrap")),
            self.prompt,
            widgets.HBox([self.reset, self.own]),
            widgets.HBox(
                [
                    widgets.VBox([widgets.HTML("<b>Weights</b>"), *self.sliders]),
                    widgets.VBox([self.mixture_picture, self.answer_picture]),
                ],
                layout=widgets.Layout(flex_flow="row wrap"),
            ),
            self.note,
        )
        self.on_close(self._cancel)
        self._take_item()

    # Controls ---------------------------------------------------------------------------------------------------------

    def _controls(self) -> None:
        wide = widgets.Layout(width="auto", min_width="240px", max_width="100%")
        tasks = list(self._by_task)
        self.task = labelled(
            widgets.Dropdown(options=[(short_task(task), task) for task in tasks], value=tasks[0]), "Task",
        )  # fmt: skip
        self.item = labelled(widgets.Dropdown(options=self._offered(tasks[0]), layout=wide), "Item")
        self.prompt = labelled(
            widgets.Textarea(rows=2, continuous_update=True, layout=widgets.Layout(width="100%", max_width="760px")),
            "Question", "What the gate and the language model are asked",
        )  # fmt: skip
        self.reset = widgets.Button(
            description="Item's own question",
            tooltip="Put the item's own question back",
            layout=widgets.Layout(width="auto"),
        )
        self.own = labelled(widgets.Checkbox(value=True, indent=False), "Use the gate's own weights")
        self.sliders = [
            labelled(
                widgets.FloatSlider(min=0.0, max=1.0, step=0.01, readout_format=".2f",
                                    layout=widgets.Layout(width="300px")),
                name, f"Weight of the stream {name}; the others share the rest",
            )
            for name in self.streams
        ]  # fmt: skip
        for slider in self.sliders:
            slider.style.description_width = "90px"
        self.mixture_picture, self.answer_picture, self.note = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.task.observe(self._on_task, "value")
        self.item.observe(lambda _: self._take_item(), "value")
        self.prompt.observe(self._on_prompt, "value")
        self.reset.on_click(lambda _: self._put(self.prompt, self.chosen.question))
        self.own.observe(self._on_own, "value")
        for number, slider in enumerate(self.sliders):
            slider.observe(lambda change, k=number: self._on_slider(k, change["new"]), "value")

    def _offered(self, task: str) -> list[tuple[str, int]]:
        return [(f"{short(item.id, 60)}: {item.truth}", k) for k, item in enumerate(self._by_task[task])]

    @property
    def chosen(self) -> Item:
        """The item that is asked."""
        found: Item = self._by_task[self.task.value][self.item.value]
        return found

    def _put(self, control: widgets.Widget, value: Any) -> None:
        control.value = value

    def _on_task(self, change: Any) -> None:
        self._following = True
        try:
            self.item.options = self._offered(change["new"])
            self.item.value = 0
        finally:
            self._following = False
        self._take_item()

    def _on_prompt(self, _change: Any) -> None:
        if not self._following:
            self._later(self._refresh)

    def _on_own(self, change: Any) -> None:
        if self._following:
            return
        if change["new"]:
            self._weights = self._own
        self._follow()
        self._draw_mixture()
        self._later(self._refresh)

    def _on_slider(self, moved: int, value: float) -> None:
        if self._following or value == float(hundredths(self._weights)[moved]):
            return
        self._weights = rescaled(self._weights, moved, value)
        self._following = True
        try:
            self.own.value = False
        finally:
            self._following = False
        self._follow()
        self._draw_mixture()
        self._later(self._refresh)

    def _follow(self) -> None:
        """Move the sliders to the weights that count."""
        self._following = True
        try:
            for slider, weight in zip(self.sliders, hundredths(self._weights), strict=True):
                slider.value = float(weight)
        finally:
            self._following = False

    def _later(self, call: Callable[[], None]) -> None:
        """Call when nothing has changed for a moment; at once where no event loop runs."""
        self._cancel()
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            call()
            return
        self._timer = loop.call_later(_DELAY, call)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # What is shown ----------------------------------------------------------------------------------------------------

    def _take_item(self) -> None:
        if self._following:
            return
        self._following = True
        try:
            self.prompt.value = self.chosen.question
        finally:
            self._following = False
        self._reference = mixtures_of(self.llm, [self.chosen], self.template)[0]
        self._own = self._reference
        if self.own.value:
            self._weights = self._own
        self._refresh()

    def _refresh(self) -> None:
        """Ask gate and model anew, and show it."""
        if self._closed:
            return
        item, text = self.chosen, self.prompt.value
        if not text.strip():
            self._say("Type a question: a gate without a word to read has no mixture.")
            return
        typed = replace(item, question=text)
        own = mixtures_of(self.llm, [typed], self.template)[0]
        self._own = own / own.sum()
        if self.own.value:
            self._weights = self._own
            self._follow()
        self._draw_mixture()
        settings: dict[str, FloatArray] = {}
        note = ""
        try:
            settings["own question"] = self._answer(item, item.question)
            if text != item.question:
                settings["typed question"] = self._answer(item, text)
            if not self.own.value:
                with clamped(self.llm, self._weights):
                    settings["weights by hand"] = self._logprobs(item, text)
        except RunError as error:
            note = f"This item cannot be asked: {error}"
        self.answer_picture.value = self._answers_svg(item, settings)
        margins = {name: margin(row, item.choices, item.truth, item.foils) for name, row in settings.items()}
        self._say(note or self._told(typed, margins))
        self.changed(
            item=item.id, prompt=text, own=self._own.tolist(),
            clamped=None if self.own.value else self._weights.tolist(),
            probabilities={name: np.exp(row).tolist() for name, row in settings.items()}, note=self._note,
            margins={name: value for name, value in margins.items() if np.isfinite(value)},
        )  # fmt: skip

    def _answer(self, item: Item, text: str) -> FloatArray:
        """Return the log-probabilities under the gate's own weights, from memory where they were asked before."""
        key = (item.id, text)
        if key not in self._asked:
            self._asked[key] = self._logprobs(item, text)
            while len(self._asked) > 512:
                self._asked.popitem(last=False)
        return self._asked[key]

    def _logprobs(self, item: Item, text: str) -> FloatArray:
        from vpanalysis.attribution._asking import Asker

        if item.id not in self._askers:
            self._askers[item.id] = Asker(self.llm, [item], self.template, 1)
            while len(self._askers) > _HELD:
                self._askers.popitem(last=False)
        asker = self._askers[item.id]
        self._askers.move_to_end(item.id)
        # The clip stays as it was encoded; the question is another one.
        asker.items = [replace(item, question=text)]
        found: FloatArray = asker.ask()[0]
        return found

    def _told(self, item: Item, margins: dict[str, float]) -> str:
        far = float(variation(self._own, self._reference))
        known = [f"{name} {value:+.2f}" for name, value in margins.items() if np.isfinite(value)]
        # Probabilities near 1 hide what a margin still tells.
        parts = [f"Margin of the truth over the claim, in nats: {', '.join(known)}."] if known else []
        parts += [f"Entropy of the gate's own mixture {_entropy(self._own):.2f} nats."]
        if item.question != self.chosen.question:
            parts.append(f"Total variation from the mixture of the item's own question {far:.3f}.")
        unknown = getattr(self.llm.gate_tokenizer, "unk_token_id", None)
        ids = self.llm.gate_tokenizer(self.llm.gate_text(item, self.template))["input_ids"]
        strange = 0 if unknown is None else sum(token == unknown for token in ids)
        if strange:
            parts.append(f"{strange} of {len(ids)} tokens are unknown to the gate.")
        return " ".join(parts)

    def _say(self, text: str) -> None:
        self._note = text
        self.note.value = text_html([text]) if text else ""

    def _draw_mixture(self) -> None:
        self.mixture_picture.value = self._mixture_svg()

    def _mixture_svg(self) -> str:
        rows = []
        for name, own, hand in zip(self.streams, self._own, self._weights, strict=True):
            rows.append(Bar(name if self.own.value else f"{name}: own", float(own), TRUTH))
            if not self.own.value:
                rows.append(Bar("by hand", float(hand), CLAIM, dash=True))
        return bars(rows, "Weights of the streams")

    def _answers_svg(self, item: Item, settings: dict[str, FloatArray]) -> str:
        rows = []
        for k, (letter, choice) in enumerate(zip(item.letters, item.choices, strict=True)):
            colour = TRUTH if choice == item.truth else CLAIM if choice in item.said else DIM
            role = _role(item, choice)
            heading = f"({letter}) {short(choice, 30)}" + (f" – {role}" if role else "")
            for n, (setting, values) in enumerate(settings.items()):
                rows.append(
                    Bar(setting, float(np.exp(values[k])), colour, dash=colour is CLAIM, heading="" if n else heading)
                )
        return bars(rows, f"Probabilities of the options of {item.id}", named=170) if rows else ""

    def static(self) -> str:
        """Return weights and probabilities of the current state."""
        state = self.state
        weights = pd.DataFrame({"stream": self.streams, "own": state["own"]})
        if state["clamped"] is not None:
            weights["by hand"] = state["clamped"]
        item = next(i for part in self._by_task.values() for i in part if i.id == state["item"])
        answers = pd.DataFrame({"option": item.choices, **state["probabilities"]})
        answers.insert(1, "is", [_role(item, choice) for choice in item.choices])
        return (
            text_html([f"Question: {state['prompt']}"])
            + places_html(self.mixture_picture.value) + html_table(weights, "Weights")
            + places_html(self.answer_picture.value) + html_table(answers, f"Probabilities of the options of {item.id}")
            + text_html([state["note"]])
        )  # fmt: skip
