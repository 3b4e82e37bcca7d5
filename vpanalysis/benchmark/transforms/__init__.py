"""What "without the words" and "without the voice" mean in sound, and what that does to the truth of an item.

``sounds`` changes samples (each way named and cited), ``_lpc`` takes speech apart into envelope, excitation and energy,
``sources`` makes a changed clip an audio source of its own, and ``effects`` says for which tasks a change keeps, flips
or destroys the label that the voice makes true::

    bench = benchmark.with_audio("reversed")             # an ordinary benchmark, for an ordinary Run
    coverage(benchmark, "reversed")                      # how many items that leaves, task by task, and why
    EFFECTS["gender_prediction"]["lowpass"].reason
    mapped_truth(item, "reversed")                       # None where the item cannot be used

Numpy and scipy alone; importing this package loads no torch.
"""

from vpanalysis.benchmark.transforms.effects import (
    EFFECTS,
    Effect,
    coverage,
    effect_of,
    mapped_item,
    mapped_truth,
    with_audio,
)
from vpanalysis.benchmark.transforms.sounds import TRANSFORMS, Transform
from vpanalysis.benchmark.transforms.sources import Transformed, parts_of, removed_by, transformed

__all__ = [
    "EFFECTS",
    "TRANSFORMS",
    "Effect",
    "Transform",
    "Transformed",
    "coverage",
    "effect_of",
    "mapped_item",
    "mapped_truth",
    "parts_of",
    "removed_by",
    "transformed",
    "with_audio",
]
