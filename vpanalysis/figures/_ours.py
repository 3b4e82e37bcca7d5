"""Which measurements may stand beside a published number, and as what.

Why it exists. "Theirs 17.40, ours 2.2" is a comparison only if both are of one model on one benchmark. A Run of the
bundled organism is of neither, and what its layers hold was planted; a Run of the released checkpoint on other clips is
of one only. The difference between these must not depend on who reads the table.

The idea. A Run is *of a published model* if its family is that of Audio Flamingo 3 or Qwen2-Audio, it is not the
organism, and it is as wide as the released checkpoint where its states were recorded; without states the model must
have come from the Hub. What a Run measured is :func:`overall`: Acc_GT and ALA in percent with their intervals, which
kind of prediction was judged, and how often a guesser would be right on the very items. Replies that were parsed are
what the paper scores; option logits are another measurement, so the kind stands beside every number.

What it cannot show: that a checkpoint under a Hub name is the one that the paper measured. Its weights are in the Run's
manifest.

>>> released_as("qwen2_audio_pclm")
'Qwen2-Audio'
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np

from vpanalysis._run import STORE_NAME
from vpanalysis.figures._checkpoints import identity
from vpanalysis.figures._sources import VARIANTS

if TYPE_CHECKING:
    from vpanalysis._run import Run
    from vpanalysis.figures._sources import Sources

__all__ = ["METRICS", "PLANTED", "base_of", "is_mmsu", "is_voxparadox", "overall", "published_row", "reading",
           "released_as"]  # fmt: skip

METRICS = {"acc_gt": "Acc_GT", "ala": "ALA"}
"""Metrics of a Score and the columns that the paper prints."""

PLANTED = "not comparable: planted organism, not evidence about AF3"
"""What stands beside a number of the organism that has a published analogue."""

_BASES = {"audioflamingo3": "AF3", "audioflamingo3_pclm": "AF3", "qwen2_audio": "Qwen2-Audio",
          "qwen2_audio_pclm": "Qwen2-Audio"}  # fmt: skip
_WIDTHS = {"AF3": {"encoder": 1280, "text": 3584}, "Qwen2-Audio": {"encoder": 1280, "text": 4096}}
_READINGS = {"pred_logits": "option logits", "pred_generated": "parsed replies", "pred_text_score": "option texts"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def released_as(family: str) -> str:
    """Return what the paper calls the base model of a family, or an empty string."""
    return _BASES.get(family, "")


def base_of(sources: Sources, name: str) -> str:
    """Return which published base model a Run is of, ``"AF3"`` or ``"Qwen2-Audio"``, or an empty string."""
    run = sources.all[name]
    base = released_as(str(run.manifest["model"]["family"]))
    return base if base and not sources.is_planted(name) and _is_as_released(run, base) else ""


def _is_as_released(run: Run, base: str) -> bool:
    """Whether the states are as wide as those of the released checkpoint, so that it is no small model of its kind."""
    sizes = run.activations.sizes if (run.path / STORE_NAME).is_dir() else {}
    known = {part: sizes[f"{part}_feature"] for part in _WIDTHS[base] if f"{part}_feature" in sizes}
    if known:
        return all(_WIDTHS[base][part] == width for part, width in known.items())
    return _HUB_ID.fullmatch(str(run.manifest["model"].get("source") or "")) is not None


def published_row(base: str, variant: str) -> str:
    """Return the name of a checkpoint in the published tables, such as ``"AF3 + PCLM"``."""
    return base if variant == "base" else f"{base} {VARIANTS[variant]}"


def is_voxparadox(run: Run) -> bool:
    """Whether a Run is on the released VoxParadox, not on the miniature one."""
    return "voxparadox" in _benchmark(run).lower()


def is_mmsu(run: Run) -> bool:
    """Whether a Run is on MMSU."""
    return "mmsu" in _benchmark(run).lower()


def reading(prediction: str) -> str:
    """Return a kind of prediction in words."""
    return _READINGS.get(prediction, prediction)


def overall(sources: Sources) -> list[dict[str, Any]]:
    """Return Acc_GT and ALA of every Run that answered conflict items, those of the organism first.

    Returns
    -------
    list of dict
        One a Run and metric: the columns of :func:`vpanalysis.figures._checkpoints.identity`, base, benchmark,
        metric (``acc_gt``, ``ala``), value, low and high in percent, n (conflict items), chance (accuracy of guessing
        on these items, in percent), prediction (in words).
    """
    rows = []
    for name, who in identity(sources).items():
        score, run = sources.score(name), sources.all[name]
        conflict = score.outcomes[score.outcomes["condition"] == "conflict"]
        if conflict.empty:
            continue
        chance = 100 * float(np.mean([1 / len(choices) for choices in conflict["choices"]]))
        found = score.overall.set_index("metric")
        for metric in METRICS:
            value, low, high = (100 * float(found[key][metric]) for key in ("estimate", "low", "high"))
            rows.append({
                **who, "base": base_of(sources, name), "benchmark": _benchmark(run), "metric": metric,
                "value": value, "low": low, "high": high, "n": len(conflict), "chance": chance,
                "prediction": reading(score.prediction),
            })  # fmt: skip
    return rows


def _benchmark(run: Run) -> str:
    return str(run.manifest["benchmark"]["name"])
