r"""A table as LaTeX that compiles: every sign of the data is escaped, and none is left to the mercy of an engine.

Why it exists. Names of models hold underscores, numbers hold per cent signs, captions hold arrows and Greek letters. A
table that is pasted into a paper should compile at the first try, in pdfLaTeX as in newer engines, and show what the
picture beside it shows.

The idea. The file is plain ASCII. Signs that LaTeX reads as commands are written as commands; what lies beyond ASCII is
written by a table of its own, letters with accents by their parts; a sign that nobody foresaw appears as its code
point, so that it is seen and not dropped. Square brackets and stars are wrapped as well, because at the start of a row
they would be read as arguments of the line before.

>>> print(to_latex(pd.DataFrame({"model": ["a_b"], "Acc": ["17.4 %"]}), caption="An example", label="tab:x"))
% needs \usepackage{booktabs}
\begin{table}[t]
  \centering\small
  \caption{An example}
  \label{tab:x}
  \begin{tabular}{lr}
    \toprule
    model & Acc \\
    \midrule
    a\_b & 17.4 \% \\
    \bottomrule
  \end{tabular}
\end{table}
<BLANKLINE>
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

__all__ = ["escaped", "is_number", "to_latex"]

_ASCII = {
    "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "`": r"\textasciigrave{}", '"': r"\textquotedblright{}",
    "[": "{[}", "]": "{]}", "*": "{*}",
}  # fmt: skip

_GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "zeta": "ζ", "eta": "η", "theta": "θ",
    "iota": "ι", "kappa": "κ", "lambda": "λ", "mu": "μ", "nu": "ν", "xi": "ξ", "pi": "π", "rho": "ρ", "sigma": "σ",
    "tau": "τ", "upsilon": "υ", "phi": "φ", "chi": "χ", "psi": "ψ", "omega": "ω", "Gamma": "Γ", "Delta": "Δ",
    "Theta": "Θ", "Lambda": "Λ", "Xi": "Ξ", "Pi": "Π", "Sigma": "Σ", "Phi": "Φ", "Psi": "Ψ", "Omega": "Ω",
}  # fmt: skip

_MATH = {
    "±": "pm", "→": "rightarrow", "←": "leftarrow", "↔": "leftrightarrow", "↑": "uparrow", "↓": "downarrow",
    "⇒": "Rightarrow", "×": "times", "÷": "div", "·": "cdot", "≤": "le", "≥": "ge", "≠": "ne", "≈": "approx",
    "∞": "infty", "√": "surd", "∈": "in", "∑": "sum", "µ": "mu", "Δ": "Delta", "∼": "sim", "†": "dagger",
    "‡": "ddagger", "∅": "emptyset", "●": "bullet", "○": "circ", "▲": "triangle",
}  # fmt: skip

_TEXT = {
    "–": "--", "—": "---", "‐": "-", "‑": "-", "−": "$-$", "…": r"\ldots{}", "‘": "`", "’": "'", "“": "``",
    "”": r"\textquotedblright{}", "\u00a0": "~", "\u202f": r"\,", "\u2009": r"\,", "°": r"$^{\circ}$", "²": "$^{2}$",
    "³": "$^{3}$", "¹": "$^{1}$", "½": "1/2", "•": r"$\bullet$", "§": r"\S{}", "ß": r"\ss{}", "æ": r"\ae{}",
    "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}", "Ø": r"\O{}", "å": r"\aa{}", "Å": r"\AA{}",
    "ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}", "✓": r"$\surd$", "\u200b": "", "\ufeff": "",
}  # fmt: skip

_KNOWN: Mapping[str, str] = {
    **_ASCII,
    **{sign: f"$\\{name}$" for name, sign in _GREEK.items()},
    **{sign: f"$\\{name}$" for sign, name in _MATH.items()},
    **_TEXT,
}

# How a combining sign is set over the letter before it.
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u030a": "r", "\u030b": "H",
    "\u030c": "v", "\u0304": "=", "\u0306": "u", "\u0307": ".", "\u0327": "c",
}  # fmt: skip

# Pairs that fonts join into another sign: two hyphens into a dash, two apostrophes into a quotation mark ...
_JOINED = ("--", "''", "``", "?`", "!`", ",,")

_NUMBER = re.compile(r"[<>≤≥≈~]? ?[+\-−–]?\d[\d.,]*(e[+-]?\d+)? ?%?( ?[\[(±†‡*].*)?")
_BLANK = ("", "–", "—", "-")


def to_latex(layout: pd.DataFrame, *, caption: str, label: str, wide: bool = False) -> str:
    r"""Return a table in LaTeX.

    Parameters
    ----------
    layout : DataFrame
        What is printed, one cell a string. ``layout.attrs["notes"]`` are written under the table.
    caption : str
        Any text.
    label : str
        For ``\ref``; letters, digits, colons and dashes, others are left out.
    wide : bool
        Across both columns of a page.

    Returns
    -------
    str
        ASCII, for pdfLaTeX and newer engines, in the style of ``booktabs``; its first line names the package.
    """
    columns: list[Any] = list(layout.columns)
    headers = [" ".join(str(p) for p in c if p != "") if isinstance(c, tuple) else str(c) for c in columns]
    rows = [["" if cell is None else str(cell) for cell in row] for row in layout.itertuples(index=False, name=None)]
    numbers = [is_number(row[i] for row in rows) for i in range(len(headers))]
    environment = "table*" if wide else "table"
    body = [" & ".join(_cell(cell, number) for cell, number in zip(row, numbers, strict=True)) + r" \\" for row in rows]
    lines = [
        r"% needs \usepackage{booktabs}",
        rf"\begin{{{environment}}}[t]",
        r"  \centering\small",
        rf"  \caption{{{escaped(caption)}}}",
        rf"  \label{{{re.sub('[^A-Za-z0-9:-]', '-', label)}}}",
        rf"  \begin{{tabular}}{{{''.join('r' if number else 'l' for number in numbers)}}}",
        r"    \toprule",
        "    " + " & ".join(map(escaped, headers)) + r" \\",
        r"    \midrule",
        *(f"    {line}" for line in body),
        r"    \bottomrule",
        r"  \end{tabular}",
    ]
    for number, note in enumerate(layout.attrs.get("notes", [])):
        lines.append((r"  \par\smallskip" if number == 0 else r"  \par") + rf"{{\footnotesize {escaped(str(note))}}}")
    return "\n".join([*lines, rf"\end{{{environment}}}", ""])


def is_number(cells: Iterable[str]) -> bool:
    """Whether a column holds numbers: each cell one, with an interval or a sign behind it, or a dash, and one at least.

    >>> is_number(["17.4", "–", "52.0 [48.1, 56.0]"]), is_number(["3-layer MLP", "2"])
    (True, False)
    """
    filled = [cell.strip() for cell in cells if cell.strip() not in _BLANK]
    return bool(filled) and all(_NUMBER.fullmatch(cell) for cell in filled)


def escaped(text: str) -> str:
    r"""Return a text as LaTeX prints it.

    >>> print(escaped("50 % of κ ± 1_a"))
    50 \% of $\kappa$ $\pm$ 1\_a
    """
    out = ""
    for sign in unicodedata.normalize("NFC", text):
        written = _KNOWN.get(sign) or ("" if sign in _KNOWN else _other(sign))
        if written and out[-1:] + written[0] in _JOINED:
            out += "{}"
        out += written
    return out


def _other(sign: str) -> str:
    """Return a sign that no table names."""
    if " " <= sign <= "~":
        return sign
    return " " if sign.isspace() else _letter(sign)


def _letter(sign: str) -> str:
    """Return a letter with accents by its parts; what has none as its code point, what cannot be seen not at all."""
    parts = unicodedata.normalize("NFD", sign)
    base, marks = parts[0], list(parts[1:])
    if "A" <= base <= "z" and base.isalpha() and marks and all(mark in _ACCENTS for mark in marks):
        done = {"i": r"\i", "j": r"\j"}.get(base, base) if marks != ["\u0327"] else base
        for mark in marks:
            done = f"\\{_ACCENTS[mark]}{{{done}}}"
        return done
    return "" if unicodedata.category(sign) in ("Cc", "Cf") else f"{{[}}U+{ord(sign):04X}{{]}}"


def _cell(text: str, number: bool) -> str:
    """Return a cell; in a column of numbers a hyphen before a digit is a minus."""
    return escaped(re.sub(r"(?<![\w.])-(?=\d)", "−", text) if number else text)
