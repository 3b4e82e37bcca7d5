"""The page of the gallery: what its manifest says, as Markdown for people who open the folder on a web page.

Why it exists. A folder of pictures tells nobody which of them is evidence about what. The page says it per picture:
beside which figure of the paper it stands, of which Runs its numbers are, whether they were planted, and how to make it
again; and it says what is not there, and why.

The idea. The page is a function of the manifest alone, so that it cannot claim what the manifest does not hold, and so
that an edited page is noticed.

>>> print(readme({"command": "vpanalysis figures runs --out figures", "entries": {}, "not_drawn": {}}).splitlines()[0])
# Figures and tables
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from vpanalysis.organism import PLANTED

__all__ = ["readme"]

_CALLED = {"pdf": "PDF", "svg": "SVG", "png": "PNG", "csv": "numbers (CSV)", "tex": "LaTeX"}


def readme(manifest: Mapping[str, Any]) -> str:
    """Return the page of a gallery as Markdown.

    Parameters
    ----------
    manifest : mapping
        As `manifest.json` holds it.
    """
    entries: Mapping[str, Mapping[str, Any]] = manifest["entries"]
    current = {name: one for name, one in entries.items() if one["state"] == "drawn"}
    stale = {name: one for name, one in entries.items() if one["state"] != "drawn"}
    lines = [
        "# Figures and tables",
        "",
        f"Made by `{manifest['command']}` from Runs and the results kept in them, beside published numbers. The CSV of "
        "a picture holds every number in it; `manifest.json` holds what each file was made of. "
        "`vpanalysis figures --check` tells whether they still agree.",
        "",
        *(f"* [{_text(one['title'])}](#{_anchor(name)})" for name, one in current.items()),
        *(["* [Stale](#stale)"] if stale else []),
        *(["* [Not drawn](#not-drawn)"] if manifest["not_drawn"] else []),
    ]
    for name, one in current.items():
        lines += ["", *_section(name, one)]
    if stale:
        lines += [
            "", '<a id="stale"></a>', "", "## Stale", "",
            "Files of an earlier build that this one could not make again. They are kept, and are not current.", "",
            *(f"* `{name}` ({_links(one['files'])}): {_text(one['reason'])}" for name, one in stale.items()),
        ]  # fmt: skip
    if manifest["not_drawn"]:
        lines += [
            "", '<a id="not-drawn"></a>', "", "## Not drawn", "",
            "Nothing is drawn in place of what Runs lack.", "", "| figure | why | what records it |", "|---|---|---|",
            *(
                f"| `{name}`: {_text(one['title'])} | {_text(one['reason'])} | {_code(one['record'])} |"
                for name, one in manifest["not_drawn"].items()
            ),
        ]  # fmt: skip
    return "\n".join([*lines, ""])


def _section(name: str, one: Mapping[str, Any]) -> list[str]:
    """Return the part of one figure or table."""
    shown = next((f for ending in ("png", "svg") for f in one["files"] if f.endswith(f".{ending}")), None)
    beside = "stands beside nothing in the paper" if one["paper"] == "none" else f"stands beside {_text(one['paper'])}"
    lines = [f'<a id="{_anchor(name)}"></a>', "", f"## {_text(one['title'])}", ""]
    if shown is not None:
        lines += [f"![{_text(one['alt'])}]({shown})", ""]
    lines += [_text(one["caption"]), ""]
    if one["planted"]:
        lines += [f"**{_text(PLANTED[:1].upper() + PLANTED[1:])}.**", ""]
    lines.append(f"* {beside}")
    lines.append("* Runs: " + (", ".join(map(_code, one["runs"])) or "none"))
    if one["published"]:
        lines.append("* published numbers: " + ", ".join(map(_code, one["published"])))
    lines += [f"* files: {_links(one['files'])}", f"* made by {_code(one['command'])}"]
    return lines


def _links(files: Iterable[str]) -> str:
    return ", ".join(f"[{_CALLED[file.rpartition('.')[2]]}]({file})" for file in files)


def _anchor(name: str) -> str:
    return re.sub(r"[^a-z0-9_-]", "-", name.lower())


def _text(text: str) -> str:
    """Return any text as Markdown that shows it, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&])", r"\\\1", " ".join(str(text).split()))


def _code(text: str) -> str:
    """Return a text as code on one line, also within a table."""
    plain = " ".join(str(text).split()).replace("|", "\\|")
    fence = "``" if "`" in plain else "`"
    return f"{fence}{plain}{fence}"
