"""``explore.compare``: checkpoints side by side, and the very items on which two of them part.

Why it exists. Two accuracies that differ by ten points may be ten items in a hundred that one got right and the other
did not, or forty that changed one way and thirty the other. Both are the same difference; only the items tell.

The idea. Three views of the same Runs. A table of scores with intervals, one row a Run. A picture of paired differences
per task, of one metric and of one pair, with its test. And the flips of that pair: which outcome became which, as a
table of counts and as a list of items. Clicking a task in the picture (or the arrow keys) filters the flips.

What it cannot show. Runs are compared on the items that both have. A flip is a change of outcome; a change from one
wrong third option to another is none. The tests are those of :func:`vpanalysis.compare`: whole clusters are flipped,
and q is over the tasks of one metric and one pair; whoever looks through many pairs must count them.

>>> from vpanalysis import explore                                       # doctest: +SKIP
>>> explore.compare([run_base, run_pclm, run_dpo])                       # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import numpy as np
import pandas as pd

from vpanalysis._html import html_table
from vpanalysis._outcomes import OUTCOMES, PREDICTIONS, read_run
from vpanalysis._scores import OVERALL, SHOWN, Scores, interval
from vpanalysis.errors import RunError
from vpanalysis.explore._explorer import Explorer, labelled, text_html
from vpanalysis.explore._points import DIM, INK, LINE, TRUTH, Canvas, Points, places_html, short
from vpanalysis.plots.style import short_task

if TYPE_CHECKING:
    from vpanalysis._comparison import Comparison
    from vpanalysis._run import Run
    from vpanalysis.scoring import Score

__all__ = ["CompareExplorer", "compare", "flips"]

_ALL = "all tasks"
_EAGER = 3
"""Pairs up to which all are compared beforehand."""


def compare(
    runs: Sequence[Run | pd.DataFrame | str | Path] | Mapping[str, Run | pd.DataFrame | str | Path],
    *,
    level: float = 0.95,
    random_state: int | None = 0,
    include_calibration_items: bool = False,
) -> CompareExplorer:
    """Explore several Runs over one benchmark side by side.

    Parameters
    ----------
    runs : sequence of Run, path or DataFrame, or mapping of names to them
        Two or more; a mapping gives the names.
    level : float
        Confidence level of the intervals.
    random_state : int or None
        Of the sign flips.
    include_calibration_items : bool
        As in :func:`vpanalysis.score`.

    Returns
    -------
    CompareExplorer

    Raises
    ------
    RunError
        For fewer than two Runs, two of one name, and Runs that share no kind of prediction.
    """
    named: dict[str, pd.DataFrame] = {}
    pairs = runs.items() if isinstance(runs, Mapping) else [(None, source) for source in _several(runs)]
    for given, source in pairs:
        found, table = read_run(source)
        name = found if given is None else given
        if name in named:
            raise RunError("cannot compare these runs", found=f"the name {name!r} more than once",
                           allowed="distinct names", fix="give a mapping of names to runs")  # fmt: skip
        named[name] = table
    if len(named) < 2:
        raise RunError("cannot compare runs", found=f"{len(named)} run", allowed="two or more")
    return CompareExplorer(
        named, level=level, random_state=random_state, include_calibration_items=include_calibration_items
    )


def _several(runs: Any) -> list[Any]:
    if isinstance(runs, (str, Path, pd.DataFrame)) or hasattr(runs, "predictions"):
        return [runs]
    return list(runs)


def flips(a: Score, b: Score) -> pd.DataFrame:
    """Return the items whose outcome is another one in the second of two scores.

    Parameters
    ----------
    a, b : Score

    Returns
    -------
    DataFrame
        One row an item: id, task, condition, flip (such as ``"read → listened"``), truth, claims, a, b (what was
        picked). In the order of the items of `a`.
    """
    columns = ["id", "task_name", "condition", "truth", "claims", "outcome", "predicted"]
    both = a.outcomes[columns].merge(b.outcomes[["id", "outcome", "predicted"]], on="id", suffixes=("", "_b"))
    both = both[both["outcome"] != both["outcome_b"]].reset_index(drop=True)
    return pd.DataFrame(
        {
            "id": both["id"], "task": both["task_name"], "condition": both["condition"],
            "flip": both["outcome"] + " → " + both["outcome_b"], "truth": both["truth"], "claims": both["claims"],
            "a": both["predicted"], "b": both["predicted_b"],
        }
    )  # fmt: skip


class CompareExplorer(Explorer):
    """Runs side by side.

    Parameters
    ----------
    runs : mapping of str to DataFrame
        Predictions by name.
    level : float
    random_state : int or None
    include_calibration_items : bool

    Attributes
    ----------
    state : dict
        prediction, a, b, metric, task (None for all), flip (None for all), flips (their number).
    """

    ROWS = 25
    """Flipped items that are shown at once."""

    def __init__(
        self, runs: Mapping[str, pd.DataFrame], *, level: float = 0.95, random_state: int | None = 0,
        include_calibration_items: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(f"{len(runs)} runs side by side")
        self._runs = dict(runs)
        self._level, self._seed, self._calibration = level, random_state, include_calibration_items
        self._rows: list[dict[str, Any]] = []
        self._listed = pd.DataFrame()
        self._note = self._svg = ""
        self._scores: dict[str, Scores] = {}
        self._pairs: dict[tuple[str, str, str], tuple[Comparison, pd.DataFrame]] = {}
        self._tables: dict[tuple[Any, ...], str] = {}
        self._quiet = False
        self._controls()
        names = list(self._runs)
        pairs = [(a, b) for k, a in enumerate(names) for b in names[k + 1 :]]
        # A comparison takes a moment, a change of the pair should not.
        for a, b in pairs if len(pairs) <= _EAGER else pairs[:1]:
            # Those that share no item are told of where they are chosen.
            with contextlib.suppress(RunError):
                self._pair(a, b)
        wrap = widgets.Layout(flex_flow="row wrap")
        self.show(
            widgets.HBox([self.prediction, self.shown], layout=wrap),
            self.scores,
            widgets.HBox([self.a, self.b, self.metric], layout=wrap),
            widgets.HBox([self.points, self.test], layout=wrap),
            widgets.HBox([self.task, self.flip, self.page], layout=wrap),
            widgets.HBox([self.counts, self.items], layout=wrap),
            self.note,
        )
        self._refresh()

    def _controls(self) -> None:
        names = list(self._runs)
        kinds = [k for k in PREDICTIONS if all(k in t.columns and t[k].notna().any() for t in self._runs.values())]
        if not kinds:
            raise RunError("cannot compare these runs", found="no kind of prediction that all of them hold",
                           allowed=PREDICTIONS)  # fmt: skip
        self.prediction = labelled(widgets.Dropdown(options=kinds), "Prediction", "Which predictions are judged")
        tasks = self.scored(kinds[0])[names[0]].tasks
        per_task = [(short_task(task), task) for task in tasks]
        self.shown = labelled(widgets.Dropdown(options=[(_ALL, OVERALL), *per_task]), "Scores of")
        self.a = labelled(widgets.Dropdown(options=names, value=names[0]), "Run a")
        self.b = labelled(widgets.Dropdown(options=names, value=names[1]), "Run b")
        self.metric = labelled(widgets.Dropdown(options=[(label, key) for key, label in SHOWN.items()]), "Metric")
        self.task = labelled(widgets.Dropdown(options=[(_ALL, ""), *per_task]), "Flips of")
        self.flip = labelled(widgets.Dropdown(options=[("all flips", "")]), "Flip")
        self.page = labelled(
            widgets.BoundedIntText(value=1, min=1, max=1, layout=widgets.Layout(width="130px")), "Page"
        )
        self.points = Points()
        self.scores, self.test, self.counts, self.items, self.note = (widgets.HTML() for _ in range(5))
        for control in (self.prediction, self.shown, self.a, self.b, self.metric, self.task, self.flip, self.page):
            control.observe(lambda change: self._refresh(change["owner"]), "value")
        self.points.observe(lambda change: self._pick(change["new"]), "selected")

    def scored(self, prediction: str) -> Scores:
        """Return the scores of all Runs, from memory after the first time."""
        from vpanalysis.scoring import score

        if prediction not in self._scores:
            self._scores[prediction] = score(
                self._runs, prediction=prediction, level=self._level, random_state=self._seed,
                include_calibration_items=self._calibration,
            )  # fmt: skip
        return self._scores[prediction]

    def _pair(self, a: str, b: str) -> tuple[Comparison, pd.DataFrame]:
        from vpanalysis.scoring import compare as paired

        key = (self.prediction.value, a, b)
        if key not in self._pairs:
            found = self.scored(key[0])
            compared = paired(
                found[a], found[b], level=self._level, random_state=self._seed,
                include_calibration_items=self._calibration,
            )  # fmt: skip
            self._pairs[key] = (compared, flips(found[a], found[b]))
        return self._pairs[key]

    def _pick(self, at: int) -> None:
        if self._quiet or not 0 <= at < len(self.points.names):
            return
        self.task.value = self.task.options[at][1]

    # What is shown ----------------------------------------------------------------------------------------------------

    def _refresh(self, changed: Any = None) -> None:
        if self._quiet or self._closed:
            return
        self._quiet = True
        try:
            told = self._draw(changed)
        finally:
            self._quiet = False
        self._note = told
        self.note.value = text_html([told]) if told else ""
        self.changed(
            prediction=self.prediction.value, a=self.a.value, b=self.b.value, metric=self.metric.value,
            task=self.task.value or None, flip=self.flip.value or None, flips=len(self._listed), page=self.page.value,
        )  # fmt: skip

    def _draw(self, changed: Any) -> str:
        a, b, task = self.a.value, self.b.value, self.task.value
        if changed in (None, self.prediction, self.shown):
            self.scores.value = self._score_table()
        if changed is self.shown:
            return self._note
        try:
            found, turned = self._pair(a, b)
        except RunError as error:
            self._rows, self._listed = [], pd.DataFrame()
            self.points.svg = self._svg = self.test.value = self.counts.value = self.items.value = ""
            return str(error)
        if changed in (None, self.prediction, self.a, self.b, self.metric):
            self._rows = _metric_rows(found, self.metric.value)
            self.points.names = [_ALL, *(short_task(t) for _, t in self.task.options[1:])]
            label = SHOWN[self.metric.value]
            self.points.label = f"Paired differences in {label}, {a} less {b}"
            self._svg = _forest(
                self._rows, [OVERALL, *(t for _, t in self.task.options[1:])], label, (a, b), self._level
            )
            self.points.svg = self._svg
            self.test.value = self._test_table()
        if changed not in (self.flip, self.page, self.metric):
            here = turned if not task else turned[turned["task"] == task]
            sizes = here["flip"].value_counts()
            before = self.flip.value
            self.flip.options = [(f"all flips ({len(here)})", ""), *((f"{k} ({n})", k) for k, n in sizes.items())]
            self.flip.value = before if before in sizes.index else ""
            self.counts.value = self._count_table(here)
            self.points.selected = [value for _, value in self.task.options].index(task)
        if changed is not self.metric:
            here = turned if not task else turned[turned["task"] == task]
            self._listed = here if not self.flip.value else here[here["flip"] == self.flip.value]
            self.page.max = max(1, -(-len(self._listed) // self.ROWS))
            if changed is not self.page:
                self.page.value = 1
            self.items.value = self._item_table()
        left = sum(len(ids) for ids in found.unpaired.values())
        return f"{left} items that only one of the two runs has are left out." if left else ""

    def _score_table(self) -> str:
        key = ("scores", self.prediction.value, self.shown.value)
        if key not in self._tables:
            rows = []
            for name, one in self.scored(self.prediction.value).items():
                table = one.table[one.table["task"] == self.shown.value].set_index("metric")
                row: dict[str, Any] = {"run": name}
                for metric, label in SHOWN.items():
                    if metric in table.index:
                        value, low, high = (float(table.loc[metric, c]) for c in ("estimate", "low", "high"))
                        row[label] = interval(value, low, high)
                some = one.per_task[[self.shown.value in (OVERALL, task) for task in one.per_task["task"]]]
                row["heard"] = f"{int((some['heard'] == 'yes').sum())} of {len(some)} tasks"
                row |= {name: int(some[name].sum()) for name in ("unparsed", "failed")}
                rows.append(row)
            where = _ALL if self.shown.value == OVERALL else short_task(self.shown.value)
            note = f"{100 * self._level:g} % intervals, clustered by speaker and wording"
            self._tables[key] = _whole(html_table(pd.DataFrame(rows), f"Scores of {where}", note))
        return self._tables[key]

    def _test_table(self) -> str:
        rows = [
            {
                "task": _ALL if row["task"] == OVERALL else short_task(row["task"]), "a": row["a"], "b": row["b"],
                "a - b": interval(row["difference"], row["low"], row["high"]), "p": _p(row["p"]), "q": _p(row["q"]),
                "McNemar p": _p(row["p_mcnemar"]), "n": row["n"], "groups": row["n_groups"],
            }
            for row in self._rows
        ]  # fmt: skip
        note = (
            f"p: whole clusters flipped; q: over the tasks; McNemar: as if items were independent. "
            f"{100 * self._level:g} % intervals, paired by item."
        )
        return html_table(pd.DataFrame(rows), f"a = {self.a.value}, b = {self.b.value}", note, digits=2)

    def _count_table(self, here: pd.DataFrame) -> str:
        """Return how many items went from which outcome (rows) to which (columns)."""
        pairs = here["flip"].str.split(" → ", expand=True) if len(here) else pd.DataFrame({0: [], 1: []})
        names = [name for name in OUTCOMES if name in set(pairs[0]) | set(pairs[1])]
        counts = pd.crosstab(pairs[0], pairs[1]).reindex(index=names, columns=names, fill_value=0)
        counts.insert(0, f"{self.a.value} ↓  {self.b.value} →", names)
        title = f"{len(here)} flips of {short_task(self.task.value) if self.task.value else _ALL}"
        return html_table(counts.reset_index(drop=True), title)

    def _item_table(self) -> str:
        first = (self.page.value - 1) * self.ROWS
        part = self._listed.iloc[first : first + self.ROWS].rename(columns={"a": self.a.value, "b": self.b.value})
        if part.empty:
            return text_html(["No item changes its outcome."])
        title = f"Items {first + 1} to {first + len(part)} of {len(self._listed)} that changed"
        return _whole(html_table(part, title))

    def static(self) -> str:
        """Return scores, picture, tests and flips of the current state."""
        chosen = [value for _, value in self.task.options].index(self.task.value)
        parts: list[str] = [
            self.scores.value, places_html(self._svg, chosen) if self._svg else "", self.test.value,
            self.counts.value, self.items.value, text_html([self._note] if self._note else []),
        ]  # fmt: skip
        return "".join(parts)


def _whole(table: str) -> str:
    """Keep what stands in a cell on one line; a wide table is scrolled."""
    return f"<div style='white-space:nowrap;overflow-x:auto;max-width:100%'>{table}</div>"


def _p(value: float) -> str:
    return "" if np.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def _metric_rows(found: Comparison, metric: str) -> list[dict[str, Any]]:
    table = found.table[found.table["metric"] == metric]
    table = pd.concat([table[table["task"] == OVERALL], table[table["task"] != OVERALL]])
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def _forest(
    rows: Sequence[dict[str, Any]], tasks: Sequence[str], label: str, names: tuple[str, str], level: float
) -> str:
    """Return paired differences, one row a task, as SVG: filled where told apart from zero, hollow where not."""
    ends = [abs(row[key]) for row in rows for key in ("difference", "low", "high") if np.isfinite(row[key])]
    reach = max(0.1, float(np.ceil(10 * max(ends, default=0.1)) / 10))
    step = 26
    foot = 52
    height = step * len(tasks) + foot + 8
    canvas = Canvas(560, height, x=(-reach, reach), y=(step * len(tasks), 0), left=112, right=86, top=8, bottom=foot)
    by_task = {row["task"]: row for row in rows}
    for mark in np.linspace(-reach, reach, 5):
        canvas.line([mark, mark], [0, step * len(tasks)], INK if mark == 0 else LINE, width=1.0 if mark == 0 else 0.5)
        canvas.text(
            canvas.px(mark), height - foot + 12, f"{mark:+.2f}" if mark else "0", anchor="middle", size=11, colour=DIM
        )
    for k, task in enumerate(tasks):
        name = _ALL if task == OVERALL else short_task(task)
        at = step * (k + 0.5)
        row = by_task.get(task)
        made = row is not None and np.isfinite(row["difference"])
        told = "not measured"
        if row is not None and made:
            told = f"{row['difference']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}], p {_p(row['p'])}, n {row['n']}"
        canvas.place(k, (0, canvas.py(at) - step / 2, 560, step), f"{name}: {told}")
        canvas.text(104, canvas.py(at), short(name, 16), anchor="end", bold=task == OVERALL)
        if row is None or not made:
            canvas.text(canvas.px(0) + 6, canvas.py(at), told, size=11, colour=DIM)
            continue
        canvas.line([row["low"], row["high"]], [at, at], TRUTH, width=1.4)
        sure = row["p"] if task == OVERALL else row["q"]
        canvas.mark(row["difference"], at, TRUTH, filled=bool(sure < 0.05))
        canvas.text(560 - 80, canvas.py(at), f"{row['difference']:+.2f}", size=11.5)
    a, b = (short(name, 28) for name in names)
    canvas.text(112, height - 24, f"{label}: {a} less {b}", size=11.5)
    canvas.text(112, height - 8, f"{100 * level:g} % intervals; filled: q < 0.05 (all tasks: p)", size=11, colour=DIM)
    told = "; ".join(f"{row['task']} {row['difference']:+.2f}" for row in rows)
    return canvas.svg(f"Paired differences in {label}, {names[0]} less {names[1]}: {told}")
