"""Numbers with their intervals as bars in a table: readable without colour, without a picture, and without a kernel.

Why it exists. A plot library takes longer to draw ten bars than a person waits for a control, and its picture holds no
numbers for a screen reader. A table whose middle column is a small SVG is both at once.

>>> "+1.50 [+1.00, +2.00]" in bars_html([Bar("voice", 1.5, 1.0, 2.0, "truth")])
True
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Bar", "bars_html", "shade", "signed"]

_WIDE, _TALL = 340, 18
_COLOURS = {"truth": "var(--vp-truth, #0072b2)", "claim": "var(--vp-claim, #c65300)", "other": "var(--vp-dim, #555)"}


@dataclass(frozen=True)
class Bar:
    """One row: a value with its interval (NaN for none), what it is, and a remark."""

    label: str
    value: float
    low: float = math.nan
    high: float = math.nan
    kind: str = "other"
    remark: str = ""


def signed(value: float, digits: int = 2) -> str:
    """Return a number with its sign, and a dash for none."""
    # Adding 0 after rounding leaves no minus before nothing.
    return "–" if not math.isfinite(value) else f"{round(value, digits) + 0.0:+.{digits}f}"


def _words(bar: Bar) -> str:
    if not math.isfinite(bar.value):
        return "not measured"
    ends = f" [{signed(bar.low)}, {signed(bar.high)}]" if math.isfinite(bar.low) and math.isfinite(bar.high) else ""
    return signed(bar.value) + ends


def bars_html(bars: Sequence[Bar], *, unit: str = "nats", heading: str = "") -> str:
    """Return bars on one scale with a common zero; a line across a bar is its interval.

    Parameters
    ----------
    bars : sequence of Bar
    unit : str
    heading : str
        Over the first column.
    """
    ends = [v for bar in bars for v in (bar.value, bar.low, bar.high) if math.isfinite(v)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    span = max(high - low, 1e-9)

    def x(value: float) -> float:
        return 4 + (value - low) / span * (_WIDE - 8)

    rows = []
    for bar in bars:
        drawn = ""
        if math.isfinite(bar.value):
            left, right = sorted((x(0.0), x(bar.value)))
            drawn = (
                f"<rect x='{left:.1f}' y='4' width='{max(right - left, 0.6):.1f}' height='10' "
                f"style='fill:{_COLOURS[bar.kind]}'/>"
            )
            if math.isfinite(bar.low) and math.isfinite(bar.high):
                drawn += (
                    f"<path d='M{x(bar.low):.1f} 9H{x(bar.high):.1f}M{x(bar.low):.1f} 5v8M{x(bar.high):.1f} 5v8' "
                    "style='stroke:var(--vp-ink, #1a1a1a);fill:none' stroke-width='1.2'/>"
                )
        zero = f"<path d='M{x(0.0):.1f} 0v{_TALL}' style='stroke:var(--vp-dim, #777)' stroke-width='1'/>"
        rows.append(
            f"<tr><th scope='row'>{escape(bar.label)}</th><td class='vp-bars'><svg width='{_WIDE}' height='{_TALL}' "
            f"viewBox='0 0 {_WIDE} {_TALL}' aria-hidden='true'>{zero}{drawn}</svg></td><td>{_words(bar)}</td>"
            f"<td>{escape(bar.remark)}</td></tr>"
        )
    return (
        f"<table class='vp-options'><thead><tr><th scope='col'>{escape(heading)}</th><td></td>"
        f"<th scope='col'>{escape(unit)}</th><td></td></tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def shade(value: float, most: float) -> str:
    """Return the style of a ground as strong as a number: blue above 0, orange below; text on it stays readable."""
    if not math.isfinite(value) or most <= 0:
        return ""
    share = min(abs(value) / most, 1.0) * 45
    return f"background:color-mix(in srgb, {_COLOURS['truth' if value > 0 else 'claim']} {share:.0f}%, transparent)"
