"""A few pictures as pixels, at a tolerance that other fonts and versions pass and another layout does not."""

from __future__ import annotations

import io
import os
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from packaging.version import Version

from vpanalysis.figures import build_figure

BASELINES = Path(__file__).parent / "baselines"
WIDTH = 160
"""Pixels across: enough for where things are, too few for how letters are drawn."""


def thumbnail(name: str) -> np.ndarray:
    """Draw a figure of published numbers alone, in grey, small."""
    from PIL import Image

    figure = build_figure(name)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    picture = Image.open(buffer).convert("L")
    small = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.BOX)
    if os.environ.get("VPANALYSIS_BASELINES"):
        BASELINES.mkdir(exist_ok=True)
        small.save(BASELINES / f"{name}.png")
    return np.asarray(small, dtype=float)


@pytest.mark.skipif(
    Version(matplotlib.__version__) < Version("3.11"),
    reason="the pictures kept are of matplotlib 3.11, before which letters have other widths, which move the layout",
)
@pytest.mark.parametrize("name", ["leaderboard", "ladder", "humans"])
def test_looks_as_it_did(name: str) -> None:
    from PIL import Image

    found = thumbnail(name)
    kept = np.asarray(Image.open(BASELINES / f"{name}.png"), dtype=float)
    assert abs(found.shape[0] - kept.shape[0]) <= 2
    rows = min(len(found), len(kept))
    difference = np.sqrt(np.mean((found[:rows] - kept[:rows]) ** 2))
    # Moved by five rows of the thumbnail, each of these differs by more than twice this.
    assert difference < 12, difference


@pytest.mark.parametrize("name", ["leaderboard", "ladder", "humans"])
def test_another_layout_is_seen(name: str) -> None:
    from PIL import Image

    kept = np.asarray(Image.open(BASELINES / f"{name}.png"), dtype=float)
    moved = np.roll(kept, 5, axis=0)
    assert np.sqrt(np.mean((moved - kept) ** 2)) > 24
