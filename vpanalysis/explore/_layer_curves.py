"""The pictures of ``explore.layers``: a layer curve that can be pointed at, and what is behind one of its points.

Truth is solid, blue and round, the claim dashed, orange and square, so that either tells them apart. The line breaks
before the language model, which is read at another place (the answer position); the streams of a mixer run beside each
other and are hollow marks without a line. Grey bands are where the same probes land on shuffled labels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from vpanalysis._html import html_table
from vpanalysis.explore._points import CLAIM, DIM, LINE, TRUTH, Canvas, Colour, short
from vpanalysis.plots.style import spread

__all__ = ["BANDS", "Curve", "about", "best_place", "confusion_html", "curve_svg"]

BANDS = ("interval", "shuffled labels", "chance", "majority")
"""What can be drawn beside a curve."""


class Curve(NamedTuple):
    """The probes of one task and target, as they are drawn: plain values, since pictures are wanted at once."""

    rows: list[dict[str, Any]]
    predictions: dict[str, pd.DataFrame]
    table: pd.DataFrame


def curve_svg(curves: Mapping[str, Curve], sites: Sequence[str], title: str, on: Collection[str]) -> str:
    """Return layer curves as SVG, with a place for every site.

    Parameters
    ----------
    curves : mapping of str to Curve
        By target.
    sites : sequence of str
        From left to right.
    title : str
        Of what, for who cannot see it.
    on : collection of str
        Which of :data:`BANDS` are drawn.
    """
    if not sites:
        return ""
    xs = _columns(sites)
    column = dict(zip(sites, xs, strict=True))
    values = [row["accuracy"] for curve in curves.values() for row in curve.rows if np.isfinite(row["accuracy"])]
    low = min(0.0, float(np.floor(2 * min(values, default=0.0)) / 2))
    ends = [-0.6, xs[-1] + 0.6]
    width = min(1080.0, max(620.0, 190 + 26 * xs[-1]))
    canvas = Canvas(width, 330, x=(ends[0], ends[1]), y=(low, 1.0), left=44, right=170, top=26, bottom=76)
    for level in np.linspace(low, 1.0, 5):
        canvas.line(ends, [level, level], LINE, width=0.5)
        canvas.text(38, canvas.py(level), f"{level:.2f}", anchor="end", size=11, colour=DIM)
    by_site = {target: {row["site"]: row for row in curve.rows} for target, curve in curves.items()}
    half = canvas.inner[0] / (ends[1] - ends[0]) / 2
    for k, (site, x) in enumerate(column.items()):
        title = site + "".join(_told_of(rows.get(site), target) for target, rows in by_site.items())
        canvas.place(k, (canvas.px(x) - half, canvas.top, 2 * half, canvas.inner[1] + 70), title)
    names: list[tuple[float, str, Colour]] = []
    for target, curve in curves.items():
        _draw_curve(canvas, curve.rows, column, target, on, names)
    _draw_levels(canvas, curves, ends, on, names)
    _draw_sites(canvas, sites, xs)
    _draw_names(canvas, names)
    what = "R²" if any(row["metric"] == "R2" for c in curves.values() for row in c.rows) else "probe accuracy"
    canvas.text(2, 9, what, size=11, colour=DIM)
    told = "; ".join(
        f"{target} " + ", ".join(f"{row['site']} {row['accuracy']:.2f}" for row in curve.rows)
        for target, curve in curves.items()
    )
    return canvas.svg(f"{what} of {title}: {told}")


def _columns(sites: Sequence[str]) -> list[float]:
    """Return where sites stand: one apart, and more where another part of the model begins."""
    out: list[float] = []
    for k, site in enumerate(sites):
        step = 0.0 if not k else 1.0 if _part(site) == _part(sites[k - 1]) else 1.6
        out.append((out[-1] if out else 0.0) + step)
    return out


def _part(site: str) -> str:
    return re.split(r"[\[.]", site)[0]


def _told_of(row: dict[str, Any] | None, target: str) -> str:
    if row is None or not np.isfinite(row["accuracy"]):
        return f"\n{target}: not probed"
    return f"\n{target}: {row['accuracy']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _draw_curve(
    canvas: Canvas, rows: Sequence[dict[str, Any]], column: dict[str, float], target: str, on: Collection[str],
    names: list[tuple[float, str, Colour]],
) -> None:  # fmt: skip
    """Draw one curve with its bands; lines join what follows one another, not the streams of a mixer."""
    colour, dash, shape = (CLAIM, "dashed", "square") if target == "claim" else (TRUTH, "solid", "circle")
    made = [row for row in rows if np.isfinite(row["accuracy"])]
    if not made:
        return
    parts = [_part(row["site"]) for row in made]
    text = [row for row, part in zip(made, parts, strict=True) if part == "text"]
    beside = [row for row, part in zip(made, parts, strict=True) if part == "streams"]
    audio = [row for row, part in zip(made, parts, strict=True) if part not in ("text", "streams")]
    for chain in (audio, text):
        xs = [column[row["site"]] for row in chain]
        if "shuffled labels" in on:
            canvas.band(xs, [r["shuffle_low"] for r in chain], [r["shuffle_high"] for r in chain], DIM, opacity=0.1,
                        dash="dotted")  # fmt: skip
        if "interval" in on:
            canvas.band(xs, [row["low"] for row in chain], [row["high"] for row in chain], colour)
        if chain:
            canvas.line(xs, [row["accuracy"] for row in chain], colour, dash=dash)
    for row in beside:
        if "interval" in on:
            canvas.line([column[row["site"]]] * 2, [row["low"], row["high"]], colour, width=1.0)
    for row in made:
        canvas.mark(column[row["site"]], row["accuracy"], colour, shape=shape, filled=row not in beside)
    names.append((made[-1]["accuracy"], f"{'■' if target == 'claim' else '●'} {target}", colour))


def _draw_levels(
    canvas: Canvas, curves: Mapping[str, Curve], ends: list[float], on: Collection[str],
    names: list[tuple[float, str, Colour]],
) -> None:  # fmt: skip
    """Draw chance and majority of each target; those that are the same get one name."""
    found: dict[float, tuple[list[str], set[str]]] = {}
    bands: list[float] = []
    for target, curve in curves.items():
        made = [row for row in curve.rows if np.isfinite(row["accuracy"])]
        if not made:
            continue
        bands += [row["shuffle_high"] for row in made[-1:] if np.isfinite(row["shuffle_high"])]
        levels = {"chance": made[0]["chance"], "majority": max(row["majority"] for row in made)}
        for name, level in levels.items():
            if name in on and np.isfinite(level):
                dash = "dotted" if name == "chance" else "dash-dotted"
                canvas.line(ends, [level, level], CLAIM if target == "claim" else TRUTH, dash=dash, width=1.0)
                near = next((other for other in found if abs(other - level) < 0.02), level)
                kinds, whose = found.setdefault(near, ([], set()))
                kinds += [name] if name not in kinds else []
                whose.add(target)
    for level, (kinds, whose) in found.items():
        of = f" ({whose.copy().pop()})" if len(whose) == 1 and len(curves) > 1 else ""
        names.append((level, " and ".join(kinds) + of, DIM))
    if bands and "shuffled labels" in on:
        names.append((max(bands), "shuffled labels", DIM))


def _draw_sites(canvas: Canvas, sites: Sequence[str], xs: Sequence[float]) -> None:
    """Write layer numbers below, and the names of the parts below these."""
    foot = canvas.top + canvas.inner[1]
    room = canvas.inner[0] / (xs[-1] + 1.2)
    every = max(1, int(np.ceil(18 / room)))
    for k, (site, x) in enumerate(zip(sites, xs, strict=True)):
        number = re.search(r"\[(\d+)\]$", site)
        if number and k % every == 0:
            canvas.text(canvas.px(x), foot + 14, number.group(1), anchor="middle", size=11, colour=DIM)
    row = 0
    for part in dict.fromkeys(_part(site) for site in sites):
        here = [x for site, x in zip(sites, xs, strict=True) if _part(site) == part]
        narrow = len(here) * room < 7 * len(part)
        row = (row + 1) % 2 if narrow else 0
        canvas.text(canvas.px((here[0] + here[-1]) / 2), foot + 34 + 16 * row, part, anchor="middle", size=11)


def _draw_names(canvas: Canvas, names: Sequence[tuple[float, str, Colour]]) -> None:
    """Write what lines are beside their right ends, moved apart where they would touch."""
    rows = [canvas.py(level) for level, _, _ in names]
    for row, (_, text, colour) in zip(spread(rows, 14.0, 8.0, canvas.top + canvas.inner[1]), names, strict=True):
        canvas.text(canvas.left + canvas.inner[0] + 6, row, text, size=11.5, colour=colour)


def best_place(curves: Mapping[str, Curve], sites: Sequence[str]) -> int:
    """Return where the first curve is highest, among `sites`."""
    for curve in curves.values():
        made = [row for row in curve.rows if np.isfinite(row["accuracy"])]
        if made:
            return list(sites).index(max(made, key=lambda row: float(row["accuracy"]))["site"])
    return 0


def about(curves: Mapping[str, Curve]) -> str:
    """Return what the curves were made of, in words."""
    parts = []
    for target, curve in curves.items():
        made = [row for row in curve.rows if np.isfinite(row["accuracy"])]
        if not made:
            parts.append(f"{target}: not probed, {curve.rows[0]['note']}.")
            continue
        row = made[0]
        by = f" in {int(row['n_groups'])} groups by {row['group']}" if row["group"] else ""
        states = " and ".join(dict.fromkeys(str(row["reducer"]) for row in curve.rows))
        parts.append(f"{target}: {int(row['n'])} items{by}, states: {states}.")
    return " ".join(parts)


def confusion_html(predictions: pd.DataFrame | None, site: str, target: str, *, most: int = 8) -> str:
    """Return confusions and the most confident errors at a site, as HTML.

    Parameters
    ----------
    predictions : DataFrame or None
        Of one task, target and site of :attr:`vpanalysis.probes.ProbeResult.predictions`.
    site : str
    target : str
    most : int
        Errors that are shown.
    """
    name = "vp-claim" if target == "claim" else "vp-truth"
    heading = f"<div><span class='{name}'>{escape(target)}</span> at {escape(site)}"
    if predictions is None or predictions.empty:
        return f"{heading}<p class='vp-note'>not probed</p></div>"
    if predictions["correct"].isna().all():
        return f"{heading}<p class='vp-note'>numbers are read by ridge regression: nothing is confused</p></div>"
    truth, said = ([str(label) for label in predictions[name]] for name in ("label", "predicted"))
    counts, totals = Counter(zip(truth, said, strict=True)), Counter(truth)
    labels = sorted({*truth, *said})
    hue = "198,83,0" if target == "claim" else "0,114,178"
    cell = "padding:3px 8px;text-align:right;border:1px solid var(--vp-line,#bbb)"
    head = "".join(f"<th scope='col' style='{cell}'>{escape(short(label, 18))}</th>" for label in labels)
    body = ""
    for label in labels:
        body += f"<tr><th scope='row' style='{cell}'>{escape(short(label, 24))}</th>"
        for other in labels:
            shade = 0.4 * counts[label, other] / totals[label] if totals[label] else 0.0
            bold = ";font-weight:600" if label == other else ""
            body += f"<td style='{cell};background:rgba({hue},{shade:.2f}){bold}'>{counts[label, other]}</td>"
        body += "</tr>"
    right = predictions["correct"].to_numpy(dtype=bool)
    # The surest first; without probabilities as they come.
    sure = np.nan_to_num(predictions["confidence"].to_numpy(dtype=np.float64), nan=-1.0)
    wrong = np.flatnonzero(~right)
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")][:most]
    errors = predictions.iloc[wrong][["id", "label", "predicted", "confidence", "words"]].set_axis(
        ["id", "is", "probe says", "confidence", "words say"], axis=1
    )
    caption = f"rows: what it is; columns: what the probe says; {int(right.sum())} of {len(right)} items right"
    told = html_table(errors, "Most confident errors", digits=2) if len(wrong) else "<p class='vp-note'>no error</p>"
    return (
        f"{heading}<p class='vp-note'>{caption}</p><table>"
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>{told}</div>"
    )
