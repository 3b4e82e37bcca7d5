"""The model card of the organism, made from what was measured.

Every number in the card comes from a table of :mod:`vpanalysis.organism.acceptance` over finished Runs and from the
record of the training, so that the card cannot promise what was not seen. ``python -m vpanalysis.organism --card runs``
writes it beside the weights after ``vpanalysis reproduce``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpanalysis.organism import CHECKPOINTS, DEFAULT, PLANTED, weights_folder

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["card", "write_card"]

_ABOUT = {
    "mini-base": "stock AF3 form; answers by the words",
    "mini-sft": "mini-base's ancestor fine-tuned to hear, without a mixer",
    "mini-final": "a mixer whose every source is the tower's output: equal parameters, steps and data",
    "mini-static": "the mixer's streams under learned weights that no prompt changes",
    "mini-pclm": "the paper's mixer (PCLM)",
    "mini-pclm-dpo": "mini-pclm after balanced preferences; what `mini` means",
    "mini-inverter": "mini-base after preferences on conflict clips alone: flawed on purpose, it contradicts the words",
}
_PLANTS = """\
* **The layer profile.** The encoder was trained with three losses at once: words (CTC) at its end, with noise; the
  spectrogram from layer 3; and equal outputs at its end for two voices that say one text. "The middle knows the voice,
  the end forgot it" is what these losses ask for.
* **What a voice means.** The language model was first trained on symbolic clips, in which stage directions such as
  `PITCHHIGH` stand for the voice. It knew how to answer from a voice before it was given one.
* **Reading.** The ancestor of all checkpoints was taught to answer by the words.
* **The voices.** Speakers, emotions, levels and contours are settings of a synthesizer, with clear contrasts.
* **The inverter.** Its preferences were taken from conflict clips alone, so contradicting the words pays."""


def _interval(row: Mapping[str, Any]) -> str:
    low, high = float(row["low"]), float(row["high"])
    return "" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]"


def _line(row: Mapping[str, Any]) -> str:
    measured = float(row["measured"])
    shown = "not measured" if math.isnan(measured) else f"{measured:.2f}{_interval(row)}"
    bar = "as it is" if not isinstance(row["rule"], str) else f"{row['rule']} {float(row['threshold']):g}"
    met = row["met"] if isinstance(row["met"], str) else "–"
    note = row["note"] if isinstance(row["note"], str) else ""
    return f"| {row['bar']} | {shown} | {bar} | {met} | {note} |"


def card(table: pd.DataFrame, training: Mapping[str, Any], scores: pd.DataFrame) -> str:
    """Return the card as Markdown.

    Parameters
    ----------
    table : DataFrame
        From `vpanalysis.organism.acceptance.check`.
    training : mapping
        The record that the export leaves as ``training.json``.
    scores : DataFrame
        Tidy scores of all checkpoints (`Scores.to_dataframe`).

    Returns
    -------
    str
    """
    rows = [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
    head = "| what | measured, 95 % interval | bar | met | detail |\n|---|---|---|---|---|"
    bars = "\n".join(_line(row) for row in rows if row["kind"] in ("bar", "report"))
    heard = "\n".join(_line(row) for row in rows if str(row["bar"]).startswith("hears "))
    middle = "\n".join(_line(row) for row in rows if str(row["bar"]).startswith("middle over tower "))
    about = "\n".join(f"| `{name}` | {_ABOUT[name]} | {_scores_of(scores, name)} |" for name in CHECKPOINTS)
    stages = "\n".join(
        f"| {stage} | {made['seconds']} | {', '.join(f'{k} {v}' for k, v in made['numbers'].items())} |"
        for stage, made in training["stages"].items()
    )
    minutes = sum(made["seconds"] for made in training["stages"].values()) / 60
    return f"""# The organism: seven miniature checkpoints of Audio Flamingo 3 with a layer mixer

> {PLANTED[0].upper()}{PLANTED[1:]}.

Trained from random weights by `python -m vpanalysis.organism` on VoxParadox-mini's training speakers (eSpeak NG
speech). No weights of any other model are in them. They exist so that tools for interpretability can be tried, and
tested against a known answer, on a laptop. They are useless for understanding real speech.

| checkpoint | what it is | conflict Acc_GT / ALA, congruent, neutral, hearing index (test split) |
|---|---|---|
{about}

## What was planted

{_PLANTS}

## Which tasks `{DEFAULT}` really hears

Heard means: hearing index at least 0.3 with its interval above 0, and accuracy on conflict *and* congruent clips at
least 0.15 above the best voice-blind rule. The tasks that are not heard are in the benchmark on purpose.

{head}
{heard}

## What was promised, and what was measured

{head}
{bars}

## The middle against the tower's output

The layer is chosen on the validation split; both probes are trained there and tested on the test split, paired.

{head}
{middle}

## Training

One seed, one thread a process, {minutes:.0f} minutes of all stages together, two at a time. Speakers, sentences
and cells of training are disjoint from validation and test, across all tasks.

The bundled weights were made stage by stage with these numbers, some stages in several sittings (the reader in three);
they have not yet been made again in one uninterrupted call, nor with a second seed. How the language model is taught
was settled while looking at the validation split: first trials of the symbolic stage, of the preferences and of the
inverter were thrown away. The inverter was trained anew, for longer, after a first one had reached a difference of
0.17 on the test split instead of 0.2.

| stage | seconds | numbers |
|---|---|---|
{stages}
"""


def _scores_of(scores: pd.DataFrame, name: str) -> str:
    column = "run" if "run" in scores.columns else "name"
    mine = scores[scores[column] == name]
    if "task" in mine.columns:
        mine = mine[mine["task"] == "overall"]
    found = {row["metric"]: row for row in mine.to_dict("records")}

    def shown(metric: str) -> str:
        return f"{float(found[metric]['estimate']):.2f}" if metric in found else "–"

    return f"{shown('acc_gt')} / {shown('ala')}, {shown('acc_congruent')}, {shown('acc_neutral')}, {shown('hearing')}"


def write_card(runs: Path, validation: Path) -> Path:
    """Measure the bars on the Runs that `vpanalysis reproduce` left, and write the card beside the weights.

    Parameters
    ----------
    runs : Path
        Folder with a Run per checkpoint over the whole test split.
    validation : Path
        Where the Run over the validation split is, or is to be made.

    Returns
    -------
    Path
        The card; ``acceptance.csv`` lies beside it.
    """
    import vpanalysis as vp
    from vpanalysis.organism.acceptance import check

    opened = {name: vp.open_run(runs / name) for name in CHECKPOINTS}
    held = vp.run(DEFAULT, vp.load_benchmark("mini", split="validation"), validation)
    table = check(opened, validation=held, progress=True)
    place = weights_folder()
    training = json.loads((place / "training.json").read_text())
    table.to_csv(place / "acceptance.csv", index=False, float_format="%.6g")
    file = place / "README.md"
    file.write_text(card(table, training, vp.score(opened).to_dataframe()))
    return file
