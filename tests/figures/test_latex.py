"""Tables in LaTeX: nothing of the data reaches the engine raw, rows have as many cells as columns, and it compiles."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpanalysis.figures._latex import escaped, is_number, to_latex

SPECIAL = "& % $ # _ { } ~ ^ \\ < > | \" ` [ ] * – — ± κ → ≤ × é ü ß Š ł … “x” ‘y’ − -- --- ''"

# Everything that may follow a backslash in what is written for text; the longest first.
COMMANDS = (
    "textasciitilde{}", "textasciicircum{}", "textbackslash{}", "textless{}", "textgreater{}", "textbar{}",
    "textasciigrave{}", "textquotedblright{}", "&", "%", "$", "#", "_", "{", "}",
)  # fmt: skip
MEANT = dict(zip(COMMANDS, ["~", "^", "\\", "<", ">", "|", "`", '"', "&", "%", "$", "#", "_", "{", "}"], strict=True))


def decoded(text: str) -> str:
    """Read back what was written for ASCII, by another way than it was written; fails at any raw special sign."""
    out, at = "", 0
    while at < len(text):
        sign = text[at]
        if sign == "\\":
            command = next(c for c in COMMANDS if text.startswith(c, at + 1))
            out, at = out + MEANT[command], at + 1 + len(command)
        elif text[at : at + 3] in ("{[}", "{]}", "{*}"):
            out, at = out + text[at + 1], at + 3
        elif text.startswith("{}", at):
            at += 2
        else:
            assert sign not in '&%$#_{}~^<>|"`[]*', (sign, text)
            out, at = out + sign, at + 1
    return out


def balanced(text: str) -> bool:
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text.replace("\\\\", "")):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0


def rows_of(latex: str) -> list[list[str]]:
    """Return the cells between the rules."""
    body = latex.split("\\midrule\n")[1].split("    \\bottomrule")[0]
    return [re.split(r"(?<!\\)&", line.strip().removesuffix("\\\\")) for line in body.splitlines()]


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126)))
def test_ascii_is_escaped_so_that_it_can_be_read_back(text: str) -> None:
    written = escaped(text)
    assert decoded(written) == text
    assert balanced(written)
    # Fonts join these into other signs.
    assert not any(pair in written for pair in ("--", "''", "``", "?`", "!`", ",,"))


@given(st.text())
def test_any_text_becomes_balanced_ascii_on_one_line(text: str) -> None:
    written = escaped(text)
    assert written.isascii() and written.isprintable()
    assert balanced(written)
    assert written.count("$") - written.count("\\$") == 2 * len(
        re.findall(r"(?<!\\)\$[^$]+\$", written.replace("\\$", ""))
    )
    assert "\\\\" not in written


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("0.5 – 0.7", "0.5 -- 0.7"), ("±", r"$\pm$"), ("κ", r"$\kappa$"), ("→", r"$\rightarrow$"), ("é", r"\'{e}"),
        ("ï", r"\"{\i}"), ("ç", r"\c{c}"), ("ž", r"\v{z}"), ("ß", r"\ss{}"), ("語", "{[}U+8A9E{]}"), ("a\nb\t", "a b "),
        ("e\u0301", r"\'{e}"), ("-–", "-{}--"), ("\x1b[0m", "{[}0m"), ("−1", "$-$1"),
    ],
)  # fmt: skip
def test_signs_beyond_ascii(text: str, latex: str) -> None:
    assert escaped(text) == latex


def frame() -> pd.DataFrame:
    data = pd.DataFrame(
        {
            "Model": ["a_b", SPECIAL, "[x] * y", "3-layer MLP"],
            "Acc_GT": ["17.40", "-2.5 [-3.0, 2]", "–", "80.0 %"],
            ("ALA", "page"): ["1", "", "", "n/a"],
        }
    )
    data.attrs["notes"] = ["of 100 %", "after β_1"]
    return data


def test_every_row_has_as_many_cells_as_there_are_columns_and_numbers_stand_right() -> None:
    latex = to_latex(frame(), caption="A 50 % caption_", label="tab:x y_z")
    assert balanced(latex) and latex.isascii()
    assert r"\begin{tabular}{lrl}" in latex
    found = rows_of(latex)
    assert [len(row) for row in found] == [3] * 4
    assert found[1][1].strip() == "$-$2.5 {[}$-$3.0, 2{]}" and found[2][1].strip() == "--"
    assert r"Model & Acc\_GT & ALA page \\" in latex
    assert r"\caption{A 50 \% caption\_}" in latex and r"\label{tab:x-y-z}" in latex
    assert latex.startswith("% needs \\usepackage{booktabs}\n")
    assert latex.index(r"\end{tabular}") < latex.index(r"of 100 \%") < latex.index(r"after $\beta$\_1")
    assert r"\begin{table*}" in to_latex(frame(), caption="", label="", wide=True)


@pytest.mark.parametrize(
    ("cells", "number"),
    [
        (["1", "2.5"], True), (["–", ""], False), (["17.4 ± 0.2", "–"], True), (["12†"], True), (["<0.001"], True),
        (["1", "one"], False), (["0.5 [0.4, 0.6]"], True), (["AF3", "2"], False), (["-0.3", "−0.3", "+1"], True),
    ],
)  # fmt: skip
def test_which_columns_are_numbers(cells: list[str], number: bool) -> None:
    assert is_number(cells) is number


@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=4), st.text(), st.text())
def test_any_table_keeps_its_form(cells: list[tuple[str, str]], caption: str, note: str) -> None:
    data = pd.DataFrame(cells, columns=["a", "b"])
    data.attrs["notes"] = [note]
    latex = to_latex(data, caption=caption, label=caption)
    assert latex.isascii() and balanced(latex)
    assert [len(row) for row in rows_of(latex)] == [2] * len(cells)
    assert latex.count(r"\begin{") == latex.count(r"\end{") == 2


def test_it_compiles(tmp_path: Path) -> None:
    engine = next((found for name in ("pdflatex", "tectonic") if (found := shutil.which(name))), None)
    if engine is None:
        pytest.skip("neither pdflatex nor tectonic is on the path")
    table = to_latex(frame(), caption=SPECIAL, label="tab:x")
    document = f"\\documentclass{{article}}\n\\usepackage{{booktabs}}\n\\begin{{document}}\n{table}\\end{{document}}\n"
    (tmp_path / "t.tex").write_text(document, encoding="ascii")
    words = [engine, *(["-interaction=nonstopmode", "-halt-on-error"] if engine.endswith("pdflatex") else []), "t.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "t.pdf").stat().st_size > 1000
