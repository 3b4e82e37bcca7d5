"""Notebooks are scripts: written and reviewed as Python, executed into the files that people open.

Why it exists. A notebook that is read on a web page must show results, and a notebook that is changed must be reviewed
as text. So each one is a percent script (``notebooks/00_quickstart.py``) for editors, diffs and linters, and beside it
the same cells with their outputs (``00_quickstart.ipynb``). Two files that say the same drift apart, and outputs grow
stale, unless something can tell.

The idea. :func:`build` reads the scripts, executes them in one temporary copy of the folder (so that a Run made by one
notebook is found by the next, and nothing in the checkout is written), cleans the outputs and writes the notebooks.
Cleaning removes what is dead without a kernel (views of widgets, progress bars) and what belongs to one machine (times
of execution); a path of the machine in an output is an error, since it would be published. The notebook then keeps in
its metadata the hash of its source cells, the package's version, and its *headline*: the numbers that its last code
cell, tagged ``headline``, returns as a dict. Tests compare all three.

Worked example::

    python -m vpanalysis._notebooks build                       # all of them
    python -m vpanalysis._notebooks build 00_quickstart 04_gates --set LIMIT=60 --out /tmp/small

What it cannot show: that a notebook is true. It shows that the numbers on the page came from these cells and this
version, on the machine that built it.

Needs the extra ``notebooks`` (jupytext, nbclient); nothing else in the package imports this module's heavy parts.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vpanalysis import __version__
from vpanalysis.errors import RunError

__all__ = [
    "MAX_BYTES",
    "absolute_paths",
    "build",
    "cells_of",
    "clean",
    "execute",
    "headline_of",
    "names",
    "read",
    "sha_of",
    "shipped",
]

MAX_BYTES = 2_000_000
"""What a notebook may weigh, so that pages on the web still show it."""

_CHECKOUT = Path(__file__).resolve().parents[1] / "notebooks"
_WIDGET = "application/vnd.jupyter.widget-view+json"
_WARNED = re.compile(r"^\S+:\d+: (\w*Warning: .+)$", re.MULTILINE)
_TIMED_OUT_S = 900
_KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


# --- where notebooks are -----------------------------------------------------------------------------------------


def shipped() -> dict[str, Path]:
    """Return the notebooks and scripts that came with the package, by file name.

    Returns
    -------
    dict of str to Path
        In a checkout those of its folder ``notebooks``, else what the wheel installed. Empty where there are none.
    """
    if (_CHECKOUT / "00_quickstart.ipynb").is_file():
        return {p.name: p for p in sorted(_CHECKOUT.iterdir()) if p.suffix in (".py", ".ipynb")}
    from importlib.metadata import PackageNotFoundError, files

    try:
        listed = files("vpanalysis") or []
    except PackageNotFoundError:
        return {}
    found = [Path(str(f.locate())) for f in listed if f.parent.parts[-2:] == ("vpanalysis", "notebooks")]
    return {p.name: p for p in sorted(found) if p.suffix in (".py", ".ipynb") and p.is_file()}


def names(folder: str | Path | None = None) -> list[str]:
    """Return the names of the notebooks in a folder (default: of the checkout), in order, without suffix."""
    where = _CHECKOUT if folder is None else Path(folder)
    return sorted(p.stem for p in where.glob("[0-9][0-9]_*.py"))


def _chosen(asked: Sequence[str] | None, folder: Path) -> list[str]:
    known = names(folder)
    for name in asked or ():
        if name not in known:
            raise RunError("cannot build a notebook", found=repr(name), allowed=known, word=name)
    return [name for name in known if not asked or name in asked]


# --- scripts -----------------------------------------------------------------------------------------------------


def read(script: str | Path) -> Any:
    """Return the notebook that a percent script describes, without outputs.

    Parameters
    ----------
    script : str or Path

    Returns
    -------
    nbformat.NotebookNode
        With the same ids every time, kernelspec and the pairing for jupytext.
    """
    import jupytext

    nb = jupytext.read(str(script), fmt="py:percent")
    nb.metadata.clear()
    nb.metadata.update(
        {
            "jupytext": {"formats": "ipynb,py:percent"},
            "kernelspec": dict(_KERNEL),
            "language_info": {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"},
        }
    )
    for number, cell in enumerate(nb.cells):
        cell["id"] = f"{Path(script).stem.split('_')[0]}-{number:02d}"
        cell["metadata"] = {"tags": list(cell.metadata["tags"])} if cell.metadata.get("tags") else {}
    nb.nbformat, nb.nbformat_minor = 4, 5
    return nb


def cells_of(nb: Any) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return what script and notebook must share: kind, source and tags of every cell."""
    return [(c.cell_type, c.source, tuple(c.metadata.get("tags", ()))) for c in nb.cells]


def sha_of(nb: Any) -> str:
    """Return the SHA-256 (hex) of the source cells of a notebook."""
    return hashlib.sha256(json.dumps(cells_of(nb)).encode()).hexdigest()


def _parameters(nb: Any, values: Mapping[str, Any]) -> None:
    """Put a cell with other values behind the one tagged ``parameters``, as papermill does."""
    import nbformat

    if not values:
        return
    at = next(i for i, c in enumerate(nb.cells) if "parameters" in c.metadata.get("tags", ()))
    source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    cell = nbformat.v4.new_code_cell(source, id="injected", metadata={"tags": ["injected-parameters"]})
    nb.cells.insert(at + 1, cell)


# --- execution ---------------------------------------------------------------------------------------------------


def execute(script: str | Path, folder: str | Path, values: Mapping[str, Any] | None = None) -> Any:
    """Execute a script in a folder and return the cleaned notebook.

    Parameters
    ----------
    script : str or Path
    folder : str or Path
        Working directory of the kernel: Runs are written below it.
    values : mapping, optional
        Parameters other than the script's; the returned notebook then has one more cell.

    Returns
    -------
    nbformat.NotebookNode

    Raises
    ------
    RunError
        For an output that names a path of this machine.
    nbclient.exceptions.CellExecutionError
        When a cell fails.
    """
    from nbclient import NotebookClient

    nb = read(script)
    _parameters(nb, values or {})
    sha = sha_of(nb)
    NotebookClient(
        nb, timeout=_TIMED_OUT_S, kernel_name="python3", resources={"metadata": {"path": str(folder)}},
        record_timing=False, shutdown_kernel="immediate",
    ).execute()  # fmt: skip
    clean(nb)
    found = absolute_paths(nb)
    if found:
        raise RunError(f"cannot publish {Path(script).stem!r}", found=f"{found[0]!r} in an output",
                       fix="print a relative path")  # fmt: skip
    nb.metadata["vpanalysis"] = {"source_sha": sha, "version": __version__, "headline": headline_of(nb)}
    return nb


def clean(nb: Any) -> None:
    """Remove from the outputs what is dead without a kernel: widget views, progress bars, what `say` prints.

    The static twins of explorers are HTML and stay; so do warnings.
    """
    nb.metadata.pop("widgets", None)
    # The kernel's patch version would change the file on every machine.
    nb.metadata["kernelspec"] = dict(_KERNEL)
    nb.metadata["language_info"] = {"file_extension": ".py", "mimetype": "text/x-python", "name": "python"}
    for cell in nb.cells:
        if cell.cell_type != "code":
            continue
        cell.metadata.pop("execution", None)
        cell["outputs"] = [output for output in cell.outputs if not _is_dead(output)]
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                # What was warned of, without the place in a temporary file that means nothing to a reader.
                output["text"] = "\n".join(_WARNED.findall(output.text)) + "\n"
            output.get("metadata", {}).pop("widgets", None)
            output.get("transient", {}).clear()


def _is_dead(output: Any) -> bool:
    if output.output_type == "stream":
        return bool(output.name == "stderr" and not _WARNED.search(output.text))
    return _WIDGET in output.get("data", {})


def _texts(nb: Any) -> Iterator[str]:
    """Yield every text in the outputs; pictures and sounds, which are base64, are left out."""
    for cell in nb.cells:
        for output in cell.get("outputs", ()):
            yield output.get("text", "")
            yield "\n".join(output.get("traceback", ()))
            for kind, content in output.get("data", {}).items():
                if kind.startswith("text/") or kind.endswith("json") or kind == "image/svg+xml":
                    yield content if isinstance(content, str) else json.dumps(content)


def absolute_paths(nb: Any) -> list[str]:
    """Return paths of this or another machine in the outputs of a notebook."""
    pattern = re.compile(r"(?<![\w/.:<=])(?:/(?:home|root|Users|tmp|var|usr|opt|mnt|work)/[\w./-]+|[A-Z]:\\[\w\\.-]+)")
    here = re.escape(str(Path.home().resolve()))
    mine = re.compile(rf"{here}/[\w./-]+") if len(here) > 1 else pattern
    # Sounds inside HTML are base64, whose alphabet has slashes.
    plain = [re.sub(r"base64,[A-Za-z0-9+/=]+", "", text) for text in _texts(nb)]
    return [m.group() for text in plain for m in (*pattern.finditer(text), *mine.finditer(text))]


def headline_of(nb: Any) -> dict[str, float]:
    """Return the numbers that the cell tagged ``headline`` showed: its last output, read as a dict of numbers."""
    cells = [c for c in nb.cells if "headline" in c.metadata.get("tags", ())]
    shown = [o.data["text/plain"] for c in cells for o in c.outputs if "text/plain" in o.get("data", {})]
    if len(cells) != 1 or not shown:
        raise RunError("cannot read the headline", found=f"{len(cells)} cells tagged 'headline'",
                       allowed="one, which ends in a dict of numbers")  # fmt: skip
    return {str(name): float(value) for name, value in ast.literal_eval(shown[-1]).items()}


def build(
    asked: Sequence[str] | None = None,
    *,
    folder: str | Path | None = None,
    out: str | Path | None = None,
    values: Mapping[str, Any] | None = None,
    say: bool = True,
) -> list[Path]:
    """Execute notebooks and write them.

    Parameters
    ----------
    asked : sequence of str, optional
        Names without suffix; default all.
    folder : str or Path, optional
        Where the scripts are; default the checkout's ``notebooks``.
    out : str or Path, optional
        Where the notebooks are written; default `folder`.
    values : mapping, optional
        Parameters other than the scripts'.
    say : bool
        Print a line a notebook.

    Returns
    -------
    list of Path
        The notebooks written.

    Raises
    ------
    RunError
        For an unknown name, a path of this machine in an output, or a notebook that became too large.
    """
    import nbformat

    where = _CHECKOUT if folder is None else Path(folder)
    target = where if out is None else Path(out)
    chosen = _chosen(asked, where)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    with tempfile.TemporaryDirectory(prefix="vpanalysis-notebooks-") as copy:
        for script in where.glob("*.py"):
            shutil.copy(script, copy)
        for name in chosen:
            start = time.monotonic()
            nb = execute(Path(copy) / f"{name}.py", copy, values)
            text = nbformat.writes(nb) + "\n"
            if len(text.encode()) > MAX_BYTES:
                raise RunError(f"cannot publish {name!r}", found=f"{len(text.encode()):,} bytes",
                               allowed=f"{MAX_BYTES:,}")  # fmt: skip
            path = target / f"{name}.ipynb"
            path.write_text(text, encoding="utf-8")
            written.append(path)
            if say:
                print(f"{path.name}: {time.monotonic() - start:.0f} s, {len(text) / 1000:.0f} kB", flush=True)
    return written


def _main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m vpanalysis._notebooks", description="Execute the notebooks.")
    parser.add_argument("verb", choices=["build"])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--folder", default=None)
    parser.add_argument("--out", default=None)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter, as Python")
    given = parser.parse_args(words)
    values = {name: ast.literal_eval(value) for name, _, value in (pair.partition("=") for pair in given.set)}
    build(given.names or None, folder=given.folder, out=given.out, values=values)


if __name__ == "__main__":
    _main(sys.argv[1:])
