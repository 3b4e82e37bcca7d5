"""A Run without a model: states in which it is known what was planted, and where."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest

ORDERS = ["-".join(order) for order in itertools.permutations(("high", "medium", "low"))]
LABELS = {
    "gender_prediction": ["Female", "Male"],
    "emotion_recognition": ["neutral", "sadness", "anger", "happiness"],
    "pitch_comparison": ORDERS,
}
SEGMENTS, WIDTH = 6, 12


@dataclass
class FakeRun:
    """The four attributes of a Run that a probe reads, and a log of what was asked of it."""

    name: str
    predictions: pd.DataFrame
    planted: dict[str, np.ndarray]
    asked: list[tuple[str, str]] = field(default_factory=list)

    @property
    def sites(self) -> list[str]:
        return list(self.planted)

    def states(self, site: str, reducer: str = "mean") -> np.ndarray:
        self.asked.append((site, reducer))
        frames = self.planted[site]
        return frames if reducer == "segments" else frames.mean(axis=1)


def _said(task: str, truth: str, condition: str, rng: np.random.Generator) -> tuple[list[str], str | None]:
    if condition == "neutral":
        return [], None
    level = truth.split("-")[0]
    names = ["high", "medium", "low"] if task == "pitch_comparison" else LABELS[task]
    right = level if task == "pitch_comparison" else truth
    claim = right if condition == "congruent" else str(rng.choice([n for n in names if n != right]))
    if task == "pitch_comparison":
        return [order for order in ORDERS if order.startswith(claim)][:2], claim
    return [claim], claim


def build(
    seed: int = 0,
    *,
    tasks: Sequence[str] = tuple(LABELS),
    cells: int = 60,
    speakers: int = 20,
    scripts: int = 12,
    conditions: Sequence[str] = ("conflict", "congruent", "neutral"),
    prefix: str = "test",
    strength: float = 2.0,
) -> FakeRun:
    """Plant the truth at ``encoder[1]``, the words at ``text[0]``, both weakly at ``tower``, nothing at the stem."""
    rng = np.random.default_rng(seed)
    # What a label looks like is a fact about the model: the same in every Run, whatever the Run's seed.
    code_rng = np.random.default_rng(99)
    code = {
        name: code_rng.normal(size=WIDTH)
        for name in sorted({*itertools.chain(*LABELS.values()), "high", "medium", "low"})
    }
    voice_of = {f"{prefix}-{s:02d}": rng.normal(size=WIDTH) for s in range(speakers)}
    rows, stem, voice, tower, words = [], [], [], [], []
    for task in tasks:
        for cell in range(cells):
            speaker, script = f"{prefix}-{rng.integers(speakers):02d}", f"script-{rng.integers(scripts)}"
            truth = LABELS[task][cell % len(LABELS[task])]
            for condition in conditions:
                said, level = _said(task, truth, condition, rng)
                rows.append(
                    {
                        "id": f"{prefix}/{task}/{cell}/{condition}",
                        "task_name": task,
                        "condition": condition,
                        "cell": f"{prefix}/{task}/{cell}",
                        "speaker": speaker,
                        "script": script,
                        "truth": truth,
                        "said": said,
                        "said_level": level,
                        "status": "ok",
                    }
                )
                noise = rng.normal(size=(4, SEGMENTS, WIDTH))
                # An order is spread over time: a third of the segments per level, the same three levels in all orders.
                parts = truth.split("-") if task == "pitch_comparison" else [truth]
                heard = np.stack([code[parts[s * len(parts) // SEGMENTS]] for s in range(SEGMENTS)])
                spoken = np.zeros(WIDTH) if level is None else code[level]
                stem.append(noise[0] + 3 * voice_of[speaker])
                voice.append(noise[1] + strength * heard)
                tower.append(noise[2] + 0.15 * strength * heard)
                words.append(noise[3] + strength * spoken)
    planted = {"encoder.stem": stem, "encoder[0]": tower, "encoder[1]": voice, "tower": tower, "text[0]": words}
    states = {site: np.stack(values).astype(np.float32) for site, values in planted.items()}
    states["gate"] = np.zeros((len(rows), SEGMENTS, 2), dtype=np.float32)
    return FakeRun(f"fake-{seed}", pd.DataFrame(rows), states)


@pytest.fixture(scope="session")
def make_run() -> Callable[..., FakeRun]:
    return build


@pytest.fixture(scope="session")
def fake_run() -> FakeRun:
    return build()
