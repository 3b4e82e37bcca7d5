"""``report``: Runs as one page that opens anywhere: tables, pictures, a few clips to hear, and where it all came from.

Why it exists. A notebook needs a kernel and a folder of Runs needs the package. What is sent to a co-author, or kept
beside a paper, should open in a browser from the disk, in ten years too.

The idea. One HTML file, without script and without anything from a network: tables as text, pictures as inline SVG,
clips as WAV inside the page. It holds the scores with their intervals, the checkpoints compared item by item, the mean
mixture of models that have one, the items on which the checkpoints disagree most, and, folded away, each Run's manifest
and the commands that make the page again. Strings from data are escaped.

>>> report(["runs/mini-base", "runs/mini-pclm"], "report.html")          # doctest: +SKIP
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis._html import html_table
from vpanalysis._manifest import code_version
from vpanalysis.errors import RunError
from vpanalysis.explore._clips import static_html
from vpanalysis.explore._explorer import CSS, figure_html
from vpanalysis.explore._sounds import Sounds

if TYPE_CHECKING:
    from vpanalysis._run import Run
    from vpanalysis.benchmark.items import Benchmark

__all__ = ["report"]

_STYLE = """
body { font-family: system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1a1a1a; }
table { border-collapse: collapse; font-size: 0.9rem; } h2 { margin-top: 2.2rem; } pre { white-space: pre-wrap; }
section { break-inside: avoid; } figure { margin: 1rem 0; } .dim { color: #555; font-size: 0.9rem; }
.wide { overflow-x: auto; } audio { width: 100%; }
@media print { details { display: none; } body { margin: 0; max-width: none; } audio { display: none; } }
"""


def report(
    runs: Sequence[Run | str | Path] | Run | str | Path, out: str | Path, *, clips: int = 4,
    benchmark: Benchmark | str | None = None,
) -> Path:  # fmt: skip
    """Write Runs as one self-contained HTML page.

    Parameters
    ----------
    runs : Run or path, or several
        Of models that answer, on items that they share.
    out : str or Path
        The file; one that is there is replaced.
    clips : int
        How many items to show with their sound: those on which the Runs disagree, else those that were wrong.
    benchmark : Benchmark or str, optional
        Where the sound is; by default what the Runs name.

    Returns
    -------
    Path

    Raises
    ------
    RunError
        Without Runs, for encoders that answer nothing, or for a target that is a folder.
    """
    from vpanalysis.runs import open_run

    many: Sequence[Any] = list(runs) if isinstance(runs, (list, tuple)) else [runs]
    opened: list[Run] = [open_run(run) if isinstance(run, (str, Path)) else run for run in many]
    target = Path(out)
    if not opened:
        raise RunError("cannot write a report", found="no Run", fix="name one or more Run folders")
    for run in opened:
        if not run.answers:
            raise RunError(f"cannot write a report of the run {run.name!r}", found="an encoder that answers nothing")
    if target.is_dir():
        raise RunError("cannot write a report", found=f"{str(target)!r} is a folder", fix="name a file")
    parts = [*_scores(opened), *_comparisons(opened), *_gates(opened), *_items(opened, clips, benchmark)]
    parts += _origin(opened, target)
    title = "Do they listen or read? " + ", ".join(run.name for run in opened)
    page = (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>"
        f"<meta name='viewport' content='width=device-width'><style>{CSS}{_STYLE}</style></head>"
        f"<body><h1>{escape(title)}</h1>{''.join(parts)}</body></html>"
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    part.write_text(page, encoding="utf-8")
    part.replace(target)
    return target


def _section(title: str, *content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{''.join(content)}</section>"


def _scores(runs: Sequence[Run]) -> list[str]:
    from vpanalysis import plots
    from vpanalysis.scoring import score

    found = {run.name: score(run) for run in runs}
    picture = figure_html(plots.hearing_bars(found), "Accuracy on conflict items, share read, congruent and neutral "
                          "accuracy and the hearing index of every run, with 95 % intervals")  # fmt: skip
    tables = [f"<h3>{escape(name)}</h3><div class='wide'>{one._repr_html_()}</div>" for name, one in found.items()]
    return [_section("Scores", picture, *tables)]


def _comparisons(runs: Sequence[Run]) -> list[str]:
    from vpanalysis.scoring import compare

    if len(runs) < 2:
        return []
    parts = []
    for run in runs[1:]:
        try:
            parts.append(f"<div class='wide'>{compare(runs[0], run)._repr_html_()}</div>")
        except RunError as error:
            parts.append(f"<p class='dim'>{escape(str(error))}</p>")
    return [_section("Compared, item by item", *parts)]


def _gates(runs: Sequence[Run]) -> list[str]:
    from vpanalysis.plots.gates import gate_weights

    parts = [
        f"<h3>{escape(run.name)}</h3>" + figure_html(gate_weights(run), f"Mean gate weights of {run.name} per task")
        for run in runs
        if run.gates is not None and len(run.gates)
    ]
    return [_section("What the mixer weighs", *parts)] if parts else []


def _items(runs: Sequence[Run], count: int, benchmark: Benchmark | str | None) -> list[str]:
    """Return the items to look at, with their sound where it is to be had."""
    tables = [run.predictions.set_index("id") for run in runs]
    shared = [i for i in tables[0].index if all(i in table.index for table in tables[1:])]
    ranked = []
    for item_id in shared:
        rows = [table.loc[item_id] for table in tables]
        if any(row["option_logprobs"] is None for row in rows):
            continue
        sure = [float(np.exp(np.asarray(r["option_logprobs"])[list(r["choices"]).index(r["truth"])])) for r in rows]
        apart = max(sure) - min(sure) if len(sure) > 1 else 1 - sure[0]
        ranked.append((-apart, str(item_id)))
    sounds = Sounds(benchmark, runs[0].manifest["benchmark"])
    out = [_one_item(runs, tables, item_id, sounds) for _, item_id in sorted(ranked)[: max(0, count)]]
    title = "Items on which they are furthest apart" if len(runs) > 1 else "Items that were most wrong"
    return [_section(title, *out)] if out else []


def _one_item(runs: Sequence[Run], tables: Sequence[pd.DataFrame], item_id: str, sounds: Sounds) -> str:
    row: Any = tables[0].loc[item_id]
    clip, why = sounds.clip(item_id, question=str(row["question"]), choices=[str(choice) for choice in row["choices"]])
    heard = static_html(clip) if clip is not None else f"<p class='dim'>{escape(why)}</p>"
    shown = pd.DataFrame({"option": list(row["choices"])})
    shown["is"] = [
        "truth (voice)" if choice == row["truth"] else "claim (words)" if choice in set(row["claims"] or ()) else ""
        for choice in row["choices"]
    ]
    for run, table in zip(runs, tables, strict=True):
        mine: Any = table.loc[item_id]
        chances = dict(zip(mine["choices"], np.exp(np.asarray(mine["option_logprobs"], dtype=float)), strict=True))
        shown[run.name] = [chances.get(choice, np.nan) for choice in row["choices"]]
    return f"<h3>{escape(item_id)}</h3>{heard}{html_table(shown, str(row.get('question', '')))}"


def _origin(runs: Sequence[Run], target: Path) -> list[str]:
    words = ["vpanalysis", "report", *(str(run.path) for run in runs), "-o", str(target)]
    code = code_version()
    text = f"made by vpanalysis {code['version']} (code {code['sha']}), from Runs of "
    text += ", ".join(f"{run.manifest['model']['name']} on {run.manifest['benchmark']['name']}" for run in runs)
    manifests = "".join(
        f"<details><summary>manifest of {escape(run.name)}</summary>"
        f"<pre>{escape(json.dumps(run.manifest, indent=1, default=str))}</pre></details>"
        for run in runs
    )
    return [
        _section("Where this came from", f"<p>{escape(text)}</p><p>Made again by:</p><pre>{escape(shlex.join(words))}"
                 "</pre>", manifests)
    ]  # fmt: skip
