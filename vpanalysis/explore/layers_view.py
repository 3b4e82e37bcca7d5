"""``explore.layers``: walk along a model, and see at every layer what a probe confuses and where it is surely wrong.

Why it exists. An accuracy per layer says how much can be decoded and hides what: a probe may tell children from adults
and nothing else, or fail on the very items whose words say otherwise. The predictions behind every point are in the
result, so each point of the curve can be opened.

The idea. The curve of one task is drawn, for truth, claim or both. Pointing at a layer (or clicking, or the arrow keys)
shows its confusions and the most confident errors. Pooling, estimator and split are chosen among the results that are
there; with a Run, what is missing is probed when asked for, task by task, with a bar and a way to stop. It is probed a
few sites at a time so that it can be stopped, and then once as a whole, which is the same result as without stops,
since fits are remembered.

What it cannot show. Decodable is not used: that a probe finds the claim at a layer does not say that the model reads
it there. The best layer of a curve is chosen by looking at it; see ``best_site`` for an honest one. Counts in the
confusion matrix are of items, the accuracy of the curve is weighted so that words and truth are independent.

>>> from vpanalysis import explore                                       # doctest: +SKIP
>>> explore.layers(vp.probe_layers(run, "both"))                         # doctest: +SKIP
>>> explore.layers(run)                                                  # doctest: +SKIP
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import ipywidgets as widgets
import numpy as np
import pandas as pd

from vpanalysis._html import html_table
from vpanalysis.errors import RunError, VPError
from vpanalysis.explore._explorer import Explorer, labelled, text_html
from vpanalysis.explore._layer_curves import BANDS, Curve, about, best_place, confusion_html, curve_svg
from vpanalysis.explore._points import Points, places_html
from vpanalysis.plots.style import short_task

if TYPE_CHECKING:
    from vpanalysis._run import Run
    from vpanalysis.probes import ProbeResult

__all__ = ["LayerExplorer", "layers"]

_BOTH = "truth and claim"
_NUMBERS = ("accuracy", "low", "high", "chance", "majority", "shuffle_mean", "shuffle_low", "shuffle_high")
_STEPS = 8
"""Parts in which a Run is probed: each is a moment at which it can be stopped."""


def layers(
    result_or_run: ProbeResult | Sequence[ProbeResult] | Run | str | Path,
    *,
    task: str | None = None,
    start: bool = True,
) -> LayerExplorer:
    """Explore probes layer by layer.

    Parameters
    ----------
    result_or_run : ProbeResult, sequence of ProbeResult, Run, str or Path
        Results (of one Run, with different poolings, estimators or splits); or a Run or its folder, whose kept probe
        results are taken and which is probed for what is missing.
    task : str, optional
        Shown first.
    start : bool
        With a Run: probe the first task at once, beside the notebook, where nothing is kept of it.

    Returns
    -------
    LayerExplorer

    Raises
    ------
    RunError
        Without a result, and for a task that is not there.
    """
    from vpanalysis._results import load_result
    from vpanalysis.runs import open_run

    if isinstance(result_or_run, (str, Path)):
        folder = Path(result_or_run)
        result_or_run = open_run(folder) if (folder / "manifest.json").is_file() else load_result(folder)
    if hasattr(result_or_run, "states"):
        return LayerExplorer(_kept(result_or_run), run=result_or_run, task=task, start=start)
    several: Any = [result_or_run] if hasattr(result_or_run, "predictions") else result_or_run
    return LayerExplorer(list(several), task=task)


def _kept(run: Any) -> list[Any]:
    """Return the probe results that a Run holds, as far as they are still of this Run."""
    from vpanalysis._results import load_result

    if not hasattr(run, "kept"):
        return []
    found, kept = [], run.kept()
    for path in kept["path"][kept["kind"] == "ProbeResult"]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                found.append(load_result(path))
            except (VPError, Warning, OSError, ValueError):
                continue
    return found


class _Key(NamedTuple):
    """Of which probes: what selectors choose."""

    task: str
    pooling: str
    estimator: str
    split: str


class _Stopped(Exception):
    """Raised in the work when it is to stop."""


class LayerExplorer(Explorer):
    """A layer curve whose points can be opened.

    Parameters
    ----------
    results : sequence of ProbeResult
    run : Run, optional
        To probe for what is missing.
    task : str, optional
    start : bool
        Whether to probe at once where nothing is there.

    Attributes
    ----------
    state : dict
        task, show, pooling, estimator, split, bands, site.
    """

    def __init__(
        self, results: Sequence[ProbeResult], *, run: Any = None, task: str | None = None, start: bool = False
    ) -> None:
        self._parts: dict[tuple[_Key, str], Curve] = {}
        self._detail: dict[tuple[Any, ...], str] = {}
        self._tables: dict[tuple[Any, ...], str] = {}
        self._svg = ""
        self.run = run
        for result in results:
            self._add(result)
        tasks = list(dict.fromkeys(key.task for key, _ in self._parts))
        if run is not None:
            tasks = list(dict.fromkeys(run.predictions["task_name"].astype(str)))
        asked = "cannot explore the layers"
        if not tasks:
            raise RunError(asked, found="no probe result", fix="give a ProbeResult, or a Run with recorded sites")
        if task is not None and task not in tasks:
            raise RunError(asked, found=repr(task), allowed=tasks, word=task)
        named = run.name if run is not None else results[0].settings.get("run", "arrays")
        super().__init__(f"What probes find along {named}")
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._busy = False
        self._controls(tasks, tasks[0] if task is None else task)
        wrap = widgets.Layout(flex_flow="row wrap")
        self.show(
            widgets.HBox([self.task, self.target, self.pooling, self.estimator, self.split], layout=wrap),
            widgets.HBox([*self.bands.values()], layout=wrap),
            self.work,
            self.note,
            self.points,
            self.layer,
            self.detail,
        )
        self.on_close(self._stop.set)
        self._refresh()
        if run is not None and start and not self._curves():
            self.start()

    def _add(self, result: Any) -> None:
        made = result.settings
        for (task, target), rows in result.table.groupby(["task", "target"], sort=False):
            key = _Key(
                str(task), str(made.get("reducer", "given")), str(made.get("estimator", "logistic")),
                str(made.get("group_by", made.get("grouped_by", "given"))),
            )  # fmt: skip
            part = result.predictions
            part = part[(part["task"] == task) & (part["target"] == target)]
            kept = rows.sort_values("site_order", kind="stable").reset_index(drop=True)
            # Missing values are NaN, whatever they were.
            plain = kept.astype({name: float for name in _NUMBERS}).to_dict("records")
            self._parts[key, str(target)] = Curve(plain, dict(iter(part.groupby("site", sort=False))), kept)
        self._detail.clear()
        self._tables.clear()

    # Controls ---------------------------------------------------------------------------------------------------------

    def _controls(self, tasks: Sequence[str], first: str) -> None:
        from vpanalysis.probes.estimator import ESTIMATORS

        keys = [key for key, _ in self._parts]
        here = [key for key in keys if key.task == first] or keys

        def choose(name: str, more: Sequence[str], label: str, hint: str) -> Any:
            offered = list(dict.fromkeys([*(getattr(key, name) for key in here + keys), *more]))
            return labelled(widgets.Dropdown(options=offered, value=offered[0]), label, hint)

        live = self.run is not None
        kinds = sorted({r for site in self.run.sites for r in self.run.reducers(site)}) if live else []
        poolings = ["auto", *(kind for kind in kinds if kind != "none")] if live else []
        targets = list(dict.fromkeys([*(target for _, target in self._parts), *(("truth", "claim") if live else ())]))
        kinds_of = [_BOTH, *targets] if {"truth", "claim"} <= set(targets) else targets
        self.task = labelled(widgets.Dropdown(options=[(short_task(t), t) for t in tasks], value=first), "Task")
        self.target = labelled(
            widgets.Dropdown(options=kinds_of, value=kinds_of[0]), "Target", "What the probe is to find"
        )
        self.pooling = choose("pooling", poolings, "Pooling", "What was kept of the frames of a site")
        self.estimator = choose("estimator", ESTIMATORS if live else [], "Estimator", "Which probe")
        self.split = choose("split", ("auto", "speaker", "script", "both") if live else [], "Split",
                            "What no fold may have on both sides")  # fmt: skip
        self.bands = {name: labelled(widgets.Checkbox(value=True, indent=False), f"Show {name}") for name in BANDS}
        for box in self.bands.values():
            box.layout.width = "auto"
        self.points = Points()
        self.layer = labelled(
            widgets.SelectionSlider(options=["–"], continuous_update=True, layout=widgets.Layout(width="560px")),
            "Layer", "The layer whose confusions are shown",
        )  # fmt: skip
        self.note, self.detail = widgets.HTML(), widgets.HTML()
        self.probe = widgets.Button(description="Probe this task", tooltip="Fit the chosen probes at every site")
        self.cancel = widgets.Button(description="Cancel", tooltip="Stop probing", disabled=True)
        self.progress = labelled(widgets.IntProgress(value=0, min=0, max=_STEPS), "Progress")
        # Without a Run there is nothing to probe.
        shown = widgets.Layout(flex_flow="row wrap", display=None if live else "none")
        self.work = widgets.HBox([self.probe, self.cancel, self.progress], layout=shown)
        self.probe.on_click(lambda _: self.start())
        self.cancel.on_click(lambda _: self._stop.set())
        for control in (self.task, self.target, self.pooling, self.estimator, self.split, *self.bands.values()):
            control.observe(lambda _: self._refresh(), "value")
        self.points.observe(lambda change: self._pick(change["new"]), "selected")
        self.points.observe(lambda change: self._show_detail(change["new"]), "hovered")
        self.layer.observe(lambda _: self._pick(self.layer.index), "value")

    def _key(self) -> _Key:
        return _Key(self.task.value, self.pooling.value, self.estimator.value, self.split.value)

    def _targets(self) -> list[str]:
        return ["truth", "claim"] if self.target.value == _BOTH else [self.target.value]

    def _curves(self) -> dict[str, Curve]:
        """Return the curves that are chosen and there, by target."""
        key = self._key()
        return {target: self._parts[key, target] for target in self._targets() if (key, target) in self._parts}

    def _sites(self) -> list[str]:
        return list(dict.fromkeys(row["site"] for curve in self._curves().values() for row in curve.rows))

    # Work -------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Probe what is chosen, beside the notebook; :meth:`wait` waits for it."""
        if self.run is None or self._busy:
            return
        self._busy = True
        self._stop.clear()
        self.probe.disabled, self.cancel.disabled, self.progress.value = True, False, 0
        self._say(f"Probing {short_task(self.task.value)}: the curve appears when it is done.")
        self._thread = threading.Thread(target=self._work, args=(self._key(), self._asked_target()), daemon=True)
        self._thread.start()

    def _asked_target(self) -> str:
        return "both" if self.target.value == _BOTH else str(self.target.value)

    def wait(self, seconds: float | None = None) -> None:
        """Wait until nothing is being probed."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _work(self, key: _Key, target: str) -> None:
        from vpanalysis.probes import probe_layers
        from vpanalysis.probes.layers import choose_sites

        asked: dict[str, Any] = {
            "tasks": key.task, "reducer": key.pooling, "estimator": key.estimator, "group_by": key.split,
            "progress": False,
        }  # fmt: skip
        told = ""
        try:
            sites = choose_sites(self.run.sites, None)
            if key.pooling != "auto":
                sites = [site for site in sites if key.pooling in self.run.reducers(site)]
            parts = [list(part) for part in np.array_split(np.array(sites, dtype=object), min(_STEPS, len(sites)))]
            self.progress.max = len(parts)
            for done, part in enumerate(parts):
                if self._stop.is_set():
                    raise _Stopped
                # Fits are remembered by content, so that the whole below costs little.
                probe_layers(self.run, target, sites=part, **asked)
                self.progress.value = done + 1
            if self._stop.is_set():
                raise _Stopped
            self._add(probe_layers(self.run, target, sites=sites, **asked))
        except _Stopped:
            told = "Stopped. What was fitted is remembered, so that the next try goes on from there."
        except VPError as error:
            told = f"This cannot be probed: {error}"
        except Exception as error:  # in a thread nobody else would tell
            told = f"Probing failed: {type(error).__name__}: {error}"
        finally:
            self._busy = False
            if not self._closed:
                self.probe.disabled, self.cancel.disabled = False, True
                self._refresh(told)

    # What is shown ----------------------------------------------------------------------------------------------------

    def _say(self, text: str) -> None:
        self._note = text
        self.note.value = text_html([text]) if text else ""

    def _refresh(self, told: str = "") -> None:
        if self._closed:
            return
        curves, sites = self._curves(), self._sites()
        if self._busy:
            told = told or "Probing …"
        elif not curves and not told:
            told = "Not probed yet: press “Probe this task”." if self.run is not None else (
                "No result for this choice of task, target, pooling, estimator and split."
            )  # fmt: skip
        self._say(told or about(curves))
        before = self.state.get("site")
        at = sites.index(before) if before in sites else best_place(curves, sites)
        with self.points.hold_sync():
            self.points.names = sites
            self.points.label = f"Probe accuracy by site, {short_task(self.task.value)}"
            self.points.svg = self._svg = curve_svg(
                curves, sites, short_task(self.task.value), {n for n, box in self.bands.items() if box.value}
            )
            self.points.hovered = -1
            # Not by its own callback: everything is drawn below.
            self._picking = True
            self.points.selected = at
            self.layer.options = sites or ["–"]
            self.layer.index = at
            self._picking = False
        self._show_detail(-1)
        self._changed(sites, at)

    _picking = False

    def _pick(self, at: int | None) -> None:
        """Choose a layer, by whichever control."""
        sites = self._sites()
        if self._picking or at is None or not 0 <= at < len(sites):
            return
        self._picking = True
        try:
            self.points.selected = at
            self.layer.index = at
        finally:
            self._picking = False
        self._show_detail(-1)
        self._changed(sites, at)

    def _changed(self, sites: Sequence[str], at: int) -> None:
        self.changed(
            **self._key()._asdict(), show=self.target.value, site=sites[at] if sites else None,
            bands=[name for name, box in self.bands.items() if box.value],
        )  # fmt: skip

    def _show_detail(self, hovered: int) -> None:
        sites = self._sites()
        at = hovered if 0 <= hovered < len(sites) else self.points.selected
        self.detail.value = self._details(sites[at]) if 0 <= at < len(sites) else ""

    def _details(self, site: str) -> str:
        """Return confusions and confident errors at a site, from memory where they were made before."""
        key, targets = self._key(), tuple(self._curves())
        if (key, targets, site) not in self._detail:
            parts = [confusion_html(self._parts[key, target].predictions.get(site), site, target) for target in targets]
            self._detail[key, targets, site] = (
                f"<div style='display:flex;flex-wrap:wrap;gap:24px;align-items:flex-start'>{''.join(parts)}</div>"
            )
        return self._detail[key, targets, site]

    def static(self) -> str:
        """Return the curve, the confusions of the chosen layer, and all numbers as a table."""
        curves, sites = self._curves(), self._sites()
        if not sites:
            return text_html([self._note])
        at = sites.index(self.state["site"]) if self.state.get("site") in sites else 0
        return (
            text_html([self._note]) + places_html(self._svg, at) + self._details(sites[at])
            + f"<details><summary>All layers as a table</summary>{self._table(curves)}</details>"
        )  # fmt: skip

    def _table(self, curves: dict[str, Curve]) -> str:
        key = (self._key(), *curves)
        if key not in self._tables:
            table = pd.concat([curve.table for curve in curves.values()])[
                ["target", "site", "accuracy", "low", "high", "chance", "shuffle_low", "shuffle_high", "p", "n"]
            ]
            title = f"{short_task(self.task.value)}: {self.estimator.value}"
            self._tables[key] = html_table(table, title, digits=2)
        return self._tables[key]
