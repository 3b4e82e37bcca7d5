"""What "not there" means: the state that an attribution is counted from.

Why it exists. Every attribution says what something adds *compared with* something else, and the answer depends on
with what. There is no neutral choice, so the choice is a named argument, kept in the settings and written over every
picture::

    silence        the state of a silent clip of equal length, through the same model
    mean           the mean over time and over all clips that are explained: a voice like none of them
    neutral-twin   the state of the same voice saying words that claim nothing, in the item's own benchmark or rendered
    zero           zeros, which no clip gives (Captum's default)
    pad            at text.embed: the embedding of the padding token for text, silence for audio

From silence everything is explained that the clip does; from the neutral twin only what its words do, since the voice
is the same; from the mean what sets this clip apart from the others. Silence and the neutral twin leave the tokens of
the question as they are, so that at ``text.embed`` question and options get exactly 0; in later layers text positions
hold what they took from the clip, and their share is what they took. To ask what the question's own words do, take
``pad`` or ``mean`` at ``text.embed``.

A baseline of another length is stretched or squeezed linearly in time to the item's own. Where a family hands the
silence behind a clip on to the language model, it belongs to no clip: at audio sites it stays what the item's own
forward made of it; at text sites it is a span of its own, and the baseline's silence takes its place.

What it cannot show: with a baseline far from everything the model was trained on, such as zeros, the path that is
integrated along runs through states that no clip has. With zeros there is a second trouble: layers begin with a norm,
which makes a state and its hundredth part nearly the same, so that most of what changes along the path changes at its
very beginning, where the steps are few. Delta says so, and a warning is given: on the miniature listener 50 steps miss
more nats than there are to explain, and 800 up to a third. Methods without a path have no such trouble.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from vpanalysis.attribution.conditions import twin_of
from vpanalysis.attribution.gradients._grid import Grid
from vpanalysis.benchmark.items import Benchmark, Item
from vpanalysis.errors import RunError
from vpanalysis.stats import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

    from vpanalysis.attribution.gradients._function import SiteFunction
    from vpanalysis.models.batch import EncodedClip
    from vpanalysis.models.facade import AudioLLM
    from vpanalysis.models.frontends import Wave

__all__ = ["BASELINES", "baseline_clips", "baseline_state", "check_baseline", "mean_of"]

BASELINES: Mapping[str, str] = MappingProxyType(
    {
        "silence": "a silent clip of equal length",
        "mean": "the mean over time and clips",
        "neutral-twin": "the same voice saying neutral words",
        "zero": "zeros",
        "pad": "padding tokens and silence",
    }
)
"""Baselines by name, and what each is, in words."""


def check_baseline(name: str, site: str) -> None:
    """Refuse unknown baselines, and ``pad`` where states are not those of tokens."""
    if name not in BASELINES:
        raise RunError("cannot attribute", found=f"baseline={name!r}", allowed=list(BASELINES), word=name)
    if name == "pad" and site != "text.embed":
        raise RunError("cannot attribute", found=f"baseline='pad' at {site!r}", allowed="it at 'text.embed'")


def baseline_clips(bench: Benchmark, items: Sequence[Item], baseline: str, asked: str) -> dict[str, Item]:
    """Return the items whose clips stand for the baseline, by the id of what they stand for; of twins alone.

    Parameters
    ----------
    bench : Benchmark
        Where twins are looked for before they are rendered.
    items : sequence of Item
        Those that are explained.
    baseline : str
        Of :data:`BASELINES`.
    asked : str
        For the error.

    Raises
    ------
    RunError
        Where no item has a twin.
    """
    if baseline != "neutral-twin":
        return {}
    have = {item.cell: item for item in bench if item.condition == "neutral" and item.cell is not None}
    found = {item.id: twin_of(item, "neutral", have) for item in items}
    out = {name: twin for name, twin in found.items() if twin is not None}
    if not out:
        raise RunError(asked, found=f"no item of {bench.name!r} with a neutral twin", allowed=list(BASELINES),
                       fix="take another baseline")  # fmt: skip
    return out


def mean_of(states: Iterable[tuple[Grid, Tensor]]) -> tuple[FloatArray, FloatArray]:
    """Return the mean state of audio and of text positions, over all positions of all items.

    Parameters
    ----------
    states : iterable of (Grid, Tensor)
        Of which one is held at a time.

    Returns
    -------
    audio, text : array, shape (width,), or (mel bin,) at the log-mel input; empty where there is none
    """
    sums: list[FloatArray | None] = [None, None]
    counts = [0, 0]
    for grid, state in states:
        rows = state[..., 0].T if grid.kind == "mel_time" else state
        values = np.asarray(rows.cpu().double().numpy(), dtype=np.float64)
        # Silence that a family hands on behind the clip is no voice and no text.
        said = ~grid.audio & np.array([span != "silence" for span in grid.spans] or [True] * len(grid.audio))
        for number, here in enumerate((grid.audio, said)):
            if here.any():
                known = sums[number]
                added = values[here].sum(axis=0)
                sums[number] = added if known is None else known + added
                counts[number] += int(here.sum())
    audio, text = (np.zeros(0) if s is None else s / n for s, n in zip(sums, counts, strict=True))
    return audio, text


def baseline_state(
    llm: AudioLLM, f: SiteFunction, baseline: str, wave: Wave | None = None, clip: EncodedClip | None = None,
    mean: tuple[FloatArray, FloatArray] | None = None,
) -> Any:  # fmt: skip
    """Return the baseline of an item at its site.

    Parameters
    ----------
    llm : AudioLLM
    f : SiteFunction
        Of the item.
    baseline : str
        Of :data:`BASELINES`.
    wave, clip : array and EncodedClip, optional
        The clip that stands for the baseline, for those that are one.
    mean : pair of arrays, optional
        From :func:`mean_of`.

    Returns
    -------
    Tensor, shape of ``f.x``
    """
    import torch

    if baseline == "zero":
        return torch.zeros_like(f.x)
    if baseline == "mean":
        assert mean is not None
        audio, text = (torch.as_tensor(part, dtype=f.x.dtype).to(f.x.device) for part in mean)
        if f.grid.kind == "mel_time":
            return audio[:, None, None].expand_as(f.x).clone()
        # Silence behind the clip, where it has tokens, is in the clip's own state no voice: it stays.
        out = f.x.clone()
        out[torch.as_tensor(f.grid.audio)] = audio
        said = torch.as_tensor(f.said)
        if said.any():
            out[said] = text
        return out
    assert wave is not None
    state = f.state(wave, clip)
    if baseline == "pad":
        tokenizer = llm.tokenizer
        named = (tokenizer.pad_token_id, tokenizer.eos_token_id)
        token = next((number for number in named if number is not None), 0)
        with torch.no_grad():
            row = llm.model.get_input_embeddings()(torch.tensor([token], device=llm.device))[0]
        state[torch.as_tensor(f.said)] = row.to(state)
    return state
