"""Some items explained: their clips encoded together, a function and a baseline each, maps, and checks of the maps."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis.attribution.gradients._clips import Clips
from vpanalysis.attribution.gradients._explained import Explained
from vpanalysis.attribution.gradients._function import SiteFunction, frozen, in_encoder
from vpanalysis.attribution.gradients._grid import Grid, gathered
from vpanalysis.attribution.gradients.baselines import baseline_state, mean_of
from vpanalysis.attribution.gradients.faithfulness import (
    CURVES,
    MOST,
    ORDERS,
    SETS,
    SHUFFLES,
    beside,
    correlation,
    shuffled,
    weights_behind,
)
from vpanalysis.attribution.gradients.methods import EXACT_UP_TO, METHODS, Made
from vpanalysis.errors import AudioError
from vpanalysis.stats import FloatArray

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Item
    from vpanalysis.benchmark.prompts import PromptTemplate
    from vpanalysis.models.facade import AudioLLM
    from vpanalysis.models.frontends import Wave

__all__ = ["Explainer", "Plan"]


@dataclass(frozen=True)
class Plan:
    """What is asked of every item; the arguments of ``attribute``."""

    site: str
    method: str
    baseline: str
    n_steps: int
    internal_batch_size: int
    window_s: float
    mel_bands: int
    segments: int
    n_samples: int
    faithfulness: bool
    random_state: int

    def seed(self, item_id: str) -> int:
        """Return the seed of an item: its random orders are its own, and what one draw happens to be averages out."""
        digest = hashlib.sha256(f"{self.random_state}/{item_id}".encode()).digest()
        return int.from_bytes(digest[:6], "big")

    def made(self, e: Explained, item_id: str) -> Made:
        """Return the map of one item."""
        return METHODS[self.method](
            e, n_steps=self.n_steps, window_s=self.window_s, mel_bands=self.mel_bands, segments=self.segments,
            n_samples=self.n_samples, random_state=self.seed(item_id),
        )  # fmt: skip

    def forwards(self, grid: Grid) -> tuple[int, float]:
        """Return how many forwards of a batch an item takes, and how much time that is in forwards without gradient."""
        blocks = int(grid.blocks(self.window_s, self.mel_bands).max()) + 1
        players = int(grid.segments(self.segments).max()) + 1
        orders = 2**players if players <= EXACT_UP_TO else self.n_samples * players
        rows = {"integrated_gradients": self.n_steps, "gradient_x_activation": 1, "occlusion": blocks,
                "shapley": orders}[self.method]  # fmt: skip
        # A backward is about two forwards.
        weight = 3.0 if "grad" in self.method else 1.0
        checks = (ORDERS + 2) * min(blocks, MOST) + SETS + blocks if self.faithfulness else 0
        times = 2 if self.faithfulness else 1
        mine, other = times * -(-rows // self.internal_batch_size), -(-checks // self.internal_batch_size)
        # Beside them: the item, its baseline, and both at once; one more where the mean is made first.
        few = 4 if self.baseline == "mean" else 3
        return few + mine + other, few + weight * mine + other


class Explainer:
    """Explains items of one benchmark at one site of one model.

    Parameters
    ----------
    llm : AudioLLM
    template : PromptTemplate
    plan : Plan
    twins : mapping of str to Item
        By item id, the items whose clips stand for the baseline.
    """

    def __init__(self, llm: AudioLLM, template: PromptTemplate, plan: Plan, twins: Mapping[str, Item]) -> None:
        self.llm, self.template, self.plan, self.twins = llm, template, plan, twins
        self.clips = Clips(llm)

    def functions(self, items: Sequence[Item], *, against: bool) -> list[tuple[SiteFunction, Any]]:
        """Return the functions of items, and what their baselines are made of; without items of unusable clips.

        Clips that several of them share are encoded once.
        """
        loaded: list[tuple[Item, str, Wave, str | None, Wave | None]] = []
        for item in items:
            try:
                wave = item.audio.load()
                other, key = self._against(item, wave) if against else (None, None)
                self.llm.layout([wave] if other is None else [wave, other])
                loaded.append((item, item.audio.key(), wave, key, other))
            except AudioError:
                continue
        waves = {key: wave for _, key, wave, _, _ in loaded}
        waves |= {key: wave for *_, key, wave in loaded if key is not None and wave is not None}
        encoded = {} if in_encoder(self.plan.site) or not waves else self.clips.encoded(waves)
        out = []
        for item, key, wave, other_key, other in loaded:
            f = SiteFunction(self.llm, item, self.template, self.plan.site, wave, encoded.get(key))
            out.append((f, (other, encoded.get(other_key or ""))))
        return out

    def _against(self, item: Item, wave: Wave) -> tuple[Wave | None, str | None]:
        """Return the clip that stands for an item's baseline, and its name."""
        if self.plan.baseline in ("silence", "pad"):
            return np.zeros_like(wave), f"silence of {len(wave)}"
        if self.plan.baseline == "neutral-twin":
            twin = self.twins[item.id].audio
            return twin.load(), twin.key()
        return None, None

    def mean(self, items: Sequence[Item]) -> pd.DataFrame:
        """Return the mean states as a table of one row: audio, text."""
        size = self.clips.most // 2

        def states() -> Iterator[tuple[Grid, Any]]:
            for start in range(0, len(items), size):
                for f, _ in self.functions(items[start : start + size], against=False):
                    yield f.grid, f.x

        audio, text = mean_of(states())
        return pd.DataFrame({"audio": [audio], "text": [text]})

    def cost(self, items: Sequence[Item], count: int) -> tuple[int, float, int] | None:
        """Return forwards, seconds and bytes held for so many items like the first of these whose clip can be used.

        From one forward that is timed; None where no clip can be used.
        """
        import torch

        found = next((known for item in items if (known := self.functions([item], against=False))), None)
        if found is None:
            return None
        f = found[0][0]
        rows = self.plan.internal_batch_size
        started = time.perf_counter()
        with torch.no_grad():
            f(f.x[None].expand(rows, *f.x.shape))
        seconds = time.perf_counter() - started
        forwards, weight = self.plan.forwards(f.grid)
        return count * forwards, count * weight * seconds, (rows + 2) * f.x.numel() * f.x.element_size()

    def part(self, items: Sequence[Item], mean: tuple[FloatArray, FloatArray] | None) -> pd.DataFrame:
        """Return one row an item: its numbers, its map and its curves."""
        plan = self.plan
        rows: list[dict[str, Any]] = []
        things: list[tuple[Explained, FloatArray, Any]] = []
        with frozen(self.llm):
            for f, (wave, clip) in self.functions(items, against=True):
                b = baseline_state(self.llm, f, plan.baseline, wave, clip, mean)
                e = Explained(f, f.x, b, f.grid, plan.internal_batch_size)
                made, blocks = plan.made(e, f.item.id), e.moving(f.grid.blocks(plan.window_s, plan.mel_bands))
                rows.append({**_row(f, e, made), "randomised": math.nan})
                things.append((e, gathered(made.values, blocks), blocks))
                if plan.faithfulness:
                    numbers, drawn = beside(
                        e,
                        made.values,
                        blocks,
                        itself=plan.method == "occlusion",
                        random_state=plan.seed(f.item.id),
                    )
                    rows[-1] |= {**numbers, **{f"curve_{name}": curve for name, curve in drawn.items()}}
            if plan.faithfulness:
                self._randomised(rows, things)
        return pd.DataFrame(rows)

    def _randomised(self, rows: Sequence[dict[str, Any]], things: Sequence[tuple[Explained, FloatArray, Any]]) -> None:
        """Add to the rows how much their maps are like those of models with shuffled weights."""
        weights = weights_behind(self.llm, self.plan.site)
        for turn in range(min(SHUFFLES, len(rows))):
            with shuffled(weights, SHUFFLES * self.plan.random_state + turn):
                for row, (e, sums, blocks) in list(zip(rows, things, strict=True))[turn::SHUFFLES]:
                    other = Explained(e.function, e.x, e.baseline, e.grid, e.batch)
                    row["randomised"] = correlation(sums, gathered(self.plan.made(other, row["id"]).values, blocks))


def _row(f: SiteFunction, e: Explained, made: Made) -> dict[str, Any]:
    item, total = f.item, float(made.values.sum())
    return {
        "id": item.id, "task": item.task_name, "condition": item.condition, "speaker": item.speaker,
        "script": item.script, "margin": e.value, "baseline_margin": e.without, "sum": total,
        "delta": e.value - e.without - total, "error": made.error,
        **dict.fromkeys(("infidelity", "infidelity_of_zeros", "agreement", *CURVES), math.nan),
        **{f"curve_{name}": np.zeros(0) for name in CURVES},
        "kind": f.grid.kind, "shape": np.array(f.grid.shape, dtype=np.int64), "values": made.values.ravel(),
        "step_s": f.grid.step_s, "tokens": np.array(f.grid.tokens, dtype=object),
        "spans": np.array(f.grid.spans, dtype=object),
    }  # fmt: skip
