"""VoxParadox-mini: the ten tasks of VoxParadox on synthesized speech, from a seed, in seconds.

Nothing is downloaded and no audio is shipped. Items carry the official task names, questions, option texts and field
names; what makes the mini worth having beside the original is its twins (see ``cells.py``): every conflict item has a
congruent and a neutral one that differ in the words alone, and on demand others that differ in the voice alone.

* The test split has 100 cells a task, 3,000 clips of 1.0 to 5.5 s, 64 speakers, 24 wordings a task; no speaker and no
  wording of one split occurs in another, while every word does.
* Neither question, options nor words tell the condition or the truth: a classifier trained on the text of the train
  split has a hearing index of 0 on the test split (``tests/benchmark/test_mini_blind.py``).
* Every machine speaks the same samples: `verify` compares them with committed fingerprints (``fingerprints.py``).
* One core speaks about a hundred clips a second (``benchmarks/mini.py``).

From design to sound: ``wordings`` (what is said), ``voices`` (who speaks), ``cells`` (what twins share), ``rendering``
(what a label means for a voice), ``synthesis`` (speech from seeds), ``items`` (items and the benchmark).

>>> from vpanalysis.benchmark import mini
>>> cell = mini.cells("gender_prediction", "test")[0]
>>> item = mini.render(cell, words=cell.contradiction, voice=cell.truth)     # the paradox itself
>>> item.condition, item.truth == cell.truth, item.said == (cell.contradiction,)
('conflict', True, True)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vpanalysis.benchmark.mini.cells import CELLS_PER_TASK, QUESTIONS, Cell, cells
from vpanalysis.benchmark.mini.items import CONDITIONS, MiniAudio, load, prefetch, render, render_condition
from vpanalysis.benchmark.mini.rendering import PLAIN
from vpanalysis.benchmark.mini.voices import Speaker, speakers
from vpanalysis.benchmark.mini.wordings import vocabulary

if TYPE_CHECKING:
    from vpanalysis.benchmark.mini.fingerprints import verify

__all__ = [
    "CELLS_PER_TASK",
    "CONDITIONS",
    "PLAIN",
    "QUESTIONS",
    "Cell",
    "MiniAudio",
    "Speaker",
    "cells",
    "load",
    "prefetch",
    "render",
    "render_condition",
    "speakers",
    "verify",
    "vocabulary",
]


def __getattr__(name: str) -> Any:
    # Not imported above, so that `python -m vpanalysis.benchmark.mini.fingerprints` runs the module once.
    if name == "verify":
        from vpanalysis.benchmark.mini.fingerprints import verify

        return verify
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
