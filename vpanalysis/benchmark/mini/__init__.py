"""VoxParadox-mini: the ten tasks of VoxParadox on synthesized speech, from a seed, in seconds.

Nothing is downloaded and no audio is shipped. Items carry the official task names, questions, option texts and field
names; what makes the mini worth having beside the original is its twins (see ``cells.py``): every conflict item has a
congruent and a neutral one that differ in the words alone, and on demand others that differ in the voice alone.

>>> from vpanalysis.benchmark import mini
>>> cell = mini.cells("gender_prediction", "test")[0]
>>> item = mini.render(cell, words=cell.contradiction, voice=cell.truth)     # the paradox itself
>>> item.condition, item.truth == cell.truth, item.said == (cell.contradiction,)
('conflict', True, True)
"""

from vpanalysis.benchmark.mini.cells import CELLS_PER_TASK, QUESTIONS, Cell, cells
from vpanalysis.benchmark.mini.items import CONDITIONS, MiniAudio, load, prefetch, render, render_condition
from vpanalysis.benchmark.mini.rendering import PLAIN
from vpanalysis.benchmark.mini.voices import Speaker, speakers
from vpanalysis.benchmark.mini.wordings import vocabulary

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
    "vocabulary",
]
