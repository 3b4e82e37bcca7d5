"""``fuse_layers``: give the language model the tokens of earlier encoder layers too, without training anything.

Why it exists. If the voice is in the middle of the encoder and gone at its end, one may just hand the middle over. The
VoxParadox paper tries it on Audio Flamingo 3 (Table 7): tokens of layers 5 and 15 after the final ones raise accuracy
from 17.40 to 19.75 %, ten times the attention on those of layer 5 to 20.80 %. That so little comes of it says that the
language model was never taught to read them, which is what a trained mixer changes.

The idea. A layer's states are pooled to the tower's rate (and normed, as a mixer would), projected by the model's own
projector, and put into the prompt behind the last audio token; the model's own forward does the rest. An attention
weight `w` multiplies the attention that every query pays to them before it is normalised, as ``log(w)`` added to the
attention logits: 1 leaves them as they are, 10 is the paper's, 0 hides them. With a mixer, a layer that is one of its
streams goes through that stream's projector.

More tokens are an intervention by themselves. So beside every fusion stands its *control*: as many tokens of the same
layers, but of another clip: one of other content and of the nearest length, whose frames are cut, or begin again where
they end. Nothing is stretched, so that fusion and control differ in whose tokens they are. What a fusion adds beyond
its control (:attr:`FusionResult.specific`) is of this clip.

Positions follow: what comes after the appended tokens moves on by their number, so that even hidden ones (weight 0)
change the distance between clip and question. With ``positions="shared"`` each appended token has the position of the
final one of the same moment, nothing moves, and weight 0 is the unfused model.

Example: a prompt of 30 audio and 50 other tokens becomes one of 90 audio and 50 other tokens with two layers.

What it cannot show: a layer that does not help here may still hold the voice; a projector that was trained on the last
layer need not translate an earlier one. A gain over the unfused model that the control shows too is not of the layer.

>>> found = fuse_layers("mini-base", "mini", layers="each")              # doctest: +SKIP
>>> found.plot(measure="margin")                                         # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis._results import TableResult
from vpanalysis.attribution._settings import (
    MEASURES,
    asked_in_parts,
    check_numbers,
    chosen_items,
    compared,
    measured,
    named,
    p_text,
    seed_of,
)
from vpanalysis.attribution._work import Work, identity
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT, PromptTemplate
from vpanalysis.errors import RunError
from vpanalysis.stats import benjamini_hochberg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vpanalysis.attribution._fused import Chunk
    from vpanalysis.models.facade import AudioLLM

__all__ = ["POSITIONS", "UNFUSED", "FusionResult", "fuse_layers"]

UNFUSED, OWN, OTHER = "unfused", "own", "other clip"
POSITIONS = ("follow", "shared")
_PROJECTORS = ("own", "final")
_PAPER = (5 / 32, 15 / 32)
"""Depths of the layers that the paper appends, of 32."""


@dataclass(frozen=True)
class _Setting:
    layers: tuple[str, ...]
    weights: Mapping[str, float]
    source: str

    @property
    def weight(self) -> str:
        """The weights in words: one number where they are equal."""
        values = [self.weights[layer] for layer in self.layers]
        # In full: parts are kept by these names, and two weights must not share one.
        return f"{values[0]:.15g}" if len(set(values)) == 1 else ", ".join(f"{value:.15g}" for value in values)

    @property
    def name(self) -> str:
        return f"{' + '.join(self.layers)} x {self.weight}" + ("" if self.source == OWN else f", {self.source}")


@dataclass(frozen=True, repr=False)
class FusionResult(TableResult):
    """Answers with more audio tokens.

    Attributes
    ----------
    table : DataFrame
        One row a setting and measure: setting, layers, weight (as text; several where layers have unlike ones), source
        (``own``, or ``other clip`` for the control), measure (accuracy; margin in nats; ala), value, low, high,
        difference to ``unfused`` with its interval, p, p_adjusted (over settings), n, n_groups.
    specific : DataFrame
        One row a fusion and measure: what it has over its control: setting, layers, weight, measure, difference, low,
        high, p, q (Benjamini and Hochberg 1995, over fusions), n. Empty without controls.
    items : DataFrame
        One row an item and setting.
    settings : mapping
        ``without_control``: how many items were left out of the controls, because all clips are one.
    """

    VERB, TABLES = "fuse-layers", ("table", "specific", "items")

    table: pd.DataFrame
    specific: pd.DataFrame
    items: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)

    def plot(self, ax: Axes | None = None, *, measure: str = "accuracy") -> Axes:
        """Draw one measure for every fusion and its control, the unfused model as a band."""
        from vpanalysis.plots.fusion import fused_settings

        if measure not in MEASURES:
            raise RunError("cannot draw the fusion", found=repr(measure), allowed=MEASURES, word=measure)
        rows = self.table[self.table["measure"] == measure].reset_index(drop=True)
        return fused_settings(
            rows, ax=ax, name=str(self.settings.get("model", "")), level=float(self.settings["level"])
        )

    def _parts(self) -> tuple[pd.DataFrame, str, str]:
        shown = self.table.drop(columns=["layers", "weight", "source"])
        shown = shown.assign(p=p_text(shown["p"]), p_adjusted=p_text(shown["p_adjusted"]))
        title = f"FusionResult: {self.settings.get('model')} on {self.settings.get('benchmark')}"
        note = "difference: to the unfused model, paired by item. .specific: to the control"
        alone = int(self.settings.get("without_control") or 0)
        return shown, title, f"{note}. Left out of the controls, for want of another clip: {alone}" if alone else note


def fuse_layers(
    model: AudioLLM | str,
    benchmark: Benchmark | str,
    *,
    layers: str | Sequence[str | Sequence[str]] | None = None,
    weights: Sequence[float | Mapping[str, float]] | None = None,
    positions: str = "follow",
    projector: str = "own",
    control: bool = True,
    conditions: str | Sequence[str] = ("conflict",),
    template: PromptTemplate = DEFAULT_PROMPT,
    batch_size: int = 16,
    level: float = 0.95,
    random_state: int | None = 0,
    cache: bool | str | Path | None = True,
    progress: bool = True,
) -> FusionResult:
    """Append the projected tokens of encoder layers to the audio tokens, and score the model.

    Parameters
    ----------
    model : AudioLLM or str
        Of a family with a tower in the manner of Whisper.
    benchmark : Benchmark or str
    layers : sequence of str or of sequences of str, or "each", optional
        Sets of layers that are appended together, such as ``[("encoder[5]", "encoder[15]"), "encoder[5]"]``;
        ``"each"`` for every layer by itself. Default two, as deep as the paper's 5 and 15 of 32.
    weights : sequence of float or mapping, optional
        Attention weights that every set is asked with: of all its tokens, or by layer (1 for those not named). Default
        1, and 10 on the first layer of the set.
    positions : str
        ``"follow"`` or ``"shared"``.
    projector : str
        With a mixer: ``"own"`` (a stream's own projector where the layer has one) or ``"final"``.
    control : bool
        Whether every fusion is also made with tokens of other clips. Items are left out of it, and counted, where no
        clip of other content can be used.
    conditions : str or sequence of str
        Of the items.
    template : PromptTemplate
    batch_size : int
    level : float
    random_state : int or None
        Which of the clips of equal length gives its tokens, and the sign flips. None for a seed that is drawn;
        ``settings`` says which.
    cache : bool, str, Path or None
    progress : bool

    Returns
    -------
    FusionResult

    Raises
    ------
    RunError
        For families without such a tower, unknown layers, words or conditions, no layers or weights, weights below 0,
        and numbers out of range.

    Notes
    -----
    VoxParadox (Pang, Chaubey and Soleymani 2026), static fusion without training. Whether the paper's "layer 5" is the
    output of the fifth block or of the sixth is not said; ``encoder[5]`` is the output of block 5, counted from 0.
    """
    from vpanalysis.attribution._fused import Chunk, check_fusable
    from vpanalysis.runs import listed, loaded_model

    llm, bench = loaded_model(model), listed(benchmark)
    check_fusable(llm)
    for name, value, allowed in (("positions", positions, POSITIONS), ("projector", projector, _PROJECTORS)):
        if value not in allowed:
            raise RunError("cannot fuse layers", found=f"{name}={value!r}", allowed=allowed, word=value)
    check_numbers("cannot fuse layers", level=level, batch_size=batch_size)
    seed = seed_of(random_state)
    items = chosen_items(bench, conditions, "cannot fuse layers")
    if control and len(items) < 2:
        raise RunError("cannot fuse layers", found="one item, which has no other clip", fix="control=False")
    made = {s.name: s for s in _made(_sets(llm, layers), weights, control)}
    needed = list(dict.fromkeys([*(layer for s in made.values() for layer in s.layers), "tower"]))

    def ask(chunk: Chunk, name: str) -> pd.DataFrame:
        if name == UNFUSED:
            return measured(chunk.items, chunk.unfused(), name)
        s = made[name]
        found = chunk.fused(s.layers, s.weights, positions, s.source)
        # Of no item where there is no donor.
        return measured(chunk.items[: len(found)], found, name)

    asked = {"positions": positions, "projector": projector, "batch_size": batch_size, "random_state": seed}
    work = Work("fuse-layers", identity(llm, items, template) | asked, cache)
    # Where a chunk has one clip only, a donor is taken from among all items.
    table = asked_in_parts(
        work, items, [UNFUSED, *made],
        lambda part: Chunk(llm, part, items, template, needed, batch_size, projector, seed, control), ask,
        what=f"fusion in {llm.name}", batch_size=batch_size, progress=progress, trial=lambda chunk: chunk.trial(),
    )  # fmt: skip
    found = _described(compared(table, UNFUSED, level=level, random_state=seed), made)
    usable = table["id"].nunique()
    controlled = table.loc[table["setting"].isin([s.name for s in made.values() if s.source == OTHER]), "id"].nunique()
    settings = {
        "model": llm.name, "benchmark": bench.name, "benchmark_sha": bench.sha, "conditions": named(conditions),
        "fusions": list(made), "layers": [list(s.layers) for s in made.values()],
        "attention_weights": [dict(s.weights) for s in made.values()], "positions": positions, "projector": projector,
        "control": control, "without_control": usable - controlled if control else 0, "skipped": len(items) - usable,
        "level": level, "random_state": seed,
        "batch_size": batch_size, "weights": llm.weights_sha, "template": template.sha,
    }  # fmt: skip
    return FusionResult(found, _specific(table, made, level, seed), table, settings)


def _sets(llm: AudioLLM, layers: str | Sequence[str | Sequence[str]] | None) -> list[tuple[str, ...]]:
    """Return the sets of layers."""
    have = [site for site in llm.sites if site.startswith("encoder[")]
    if layers is None:
        return [tuple(dict.fromkeys(have[min(len(have) - 1, round(depth * len(have)))] for depth in _PAPER))]
    if isinstance(layers, str):
        layers = have if layers == "each" else [layers]
    out = [(one,) if isinstance(one, str) else tuple(one) for one in layers]
    for names in out:
        for name in names:
            if name not in (*have, "tower"):
                raise RunError("cannot fuse layers", found=repr(name), allowed=[*have, "tower", "each"], word=name)
        if not names or len(set(names)) < len(names):
            raise RunError("cannot fuse layers", found=f"{list(names)}", allowed="sets of layers, each named once")
    if not out:
        raise RunError("cannot fuse layers", found="no layers", allowed=[*have, "tower", "each"])
    return list(dict.fromkeys(out))


def _made(
    sets: Sequence[tuple[str, ...]], weights: Sequence[float | Mapping[str, float]] | None, control: bool
) -> list[_Setting]:
    """Return every fusion, each followed by its control."""
    if weights is not None and not len(weights):
        raise RunError("cannot fuse layers", found="no weights", allowed="finite numbers from 0 on",
                       fix="leave them out for 1 and 10")  # fmt: skip
    out = []
    for layers in sets:
        for weight in (1.0, {layers[0]: 10.0}) if weights is None else weights:
            given = weight if isinstance(weight, Mapping) else dict.fromkeys(layers, weight)
            if isinstance(weight, Mapping) and not set(weight) <= {name for one in sets for name in one}:
                raise RunError("cannot fuse layers", found=f"weights of {sorted(weight)}",
                               allowed=sorted({name for one in sets for name in one}))  # fmt: skip
            each = {layer: float(given.get(layer, 1.0)) for layer in layers}
            if any(not (value >= 0 and np.isfinite(value)) for value in each.values()):
                raise RunError("cannot fuse layers", found=f"weights {each}", allowed="finite numbers from 0 on")
            out += [_Setting(layers, each, source) for source in ((OWN, OTHER) if control else (OWN,))]
    return out


def _described(table: pd.DataFrame, made: Mapping[str, _Setting]) -> pd.DataFrame:
    """Put layers, weight and source behind the name of the setting."""
    for place, key in enumerate(("layers", "weight", "source")):
        words = {UNFUSED: ""}
        for name, s in made.items():
            words[name] = {"layers": " + ".join(s.layers), "weight": s.weight, "source": s.source}[key]
        table.insert(1 + place, key, table["setting"].map(words))
    return table


def _specific(items: pd.DataFrame, made: Mapping[str, _Setting], level: float, seed: int) -> pd.DataFrame:
    """Return what every fusion has over its control."""
    columns = ["setting", "layers", "weight", "measure", "difference", "low", "high", "p", "q", "n", "n_groups"]
    parts: list[pd.DataFrame] = []
    present = set(items["setting"])
    for name, s in made.items():
        control = _Setting(s.layers, s.weights, OTHER).name
        if s.source != OWN or control not in present:
            continue
        both = items[items["setting"].isin([name, control])]
        found = compared(both, control, level=level, random_state=seed)
        mine = found[found["setting"] == name].drop(columns=["low", "high"])
        mine = mine.rename(columns={"difference_low": "low", "difference_high": "high"})
        mine = mine.assign(layers=" + ".join(s.layers), weight=s.weight)
        parts.append(mine.reindex(columns=columns))
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    for _, part in table.groupby("measure", sort=False):
        table.loc[part.index, "q"] = benjamini_hochberg(part["p"].to_numpy(dtype=np.float64))
    return table.astype({"q": np.float64})
