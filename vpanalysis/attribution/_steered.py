"""One batch of held-out items under every intervention: a vector added at a site, or feed-forward units scaled.

Clips are encoded once. What happens behind the encoder costs one run of the language model; inside the encoder,
everything behind the intervention is encoded again under the hook, in the same batches, so that adding nothing gives
the same bits. The tower's output is not hooked but edited where it is handed on, so that the streams of earlier layers
stay what they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from vpanalysis.attribution._hooks import Positions, changed, watched
from vpanalysis.attribution._spans import heard_only, token_spans
from vpanalysis.errors import RunError
from vpanalysis.stats import FloatArray

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Item
    from vpanalysis.benchmark.prompts import PromptTemplate
    from vpanalysis.models.batch import EncodedClip
    from vpanalysis.models.facade import AudioLLM

__all__ = ["HeldBatch", "added", "output_of_units", "part_bounds", "scaled"]

_OUTPUTS = ("fc2",)
"""Names under which encoder layers keep the second linear layer of their feed-forward part."""


def part_bounds(frames: int, parts: int) -> list[tuple[int, int]]:
    """Return first frame and the one after the last of `parts` equal parts; where there are fewer, some share one."""
    edges = [-(-part * frames // parts) for part in range(parts + 1)]
    starts = [min(low, frames - 1) for low in edges[:-1]]
    return [(low, max(low + 1, high)) for low, high in zip(starts, edges[1:], strict=True)]


@contextmanager
def added(llm: AudioLLM, site: str, rows: Tensor, columns: Tensor, values: Tensor) -> Iterator[None]:
    """Add values to positions of a state during the block.

    Parameters
    ----------
    llm : AudioLLM
    site : str
    rows, columns : Tensor, shape (position,), int64
        No position twice. Rows count on over the calls of the block.
    values : Tensor, shape (position, width)

    Raises
    ------
    RunError
        In the block, where the state has no rows of its own for each clip.
    """
    passed = 0

    def add(state: Tensor) -> Tensor:
        nonlocal passed
        if state.ndim != 3:
            raise _no_rows(llm, site, [state])
        first, passed = passed, passed + state.shape[0]
        here = (rows >= first) & (rows < passed)
        new = state.clone()
        at = (rows[here] - first).to(state.device), columns[here].to(state.device)
        new[at] += values[here].to(state.device, state.dtype)
        return new

    with changed(llm, site, add):
        yield


def _no_rows(llm: AudioLLM, site: str, calls: Sequence[Tensor]) -> RunError:
    """Return the error for a state in which clips cannot be told apart."""
    shapes = ", ".join(dict.fromkeys(str(tuple(state.shape)) for state in calls)) or "none"
    return RunError(
        f"cannot change {site!r} of {llm.name!r}", found=f"a state of shape {shapes}",
        allowed="(row, frame, width) with the rows of each clip or item",
        fix="choose another site, such as 'tower' or 'text.embed'",
    )  # fmt: skip


def output_of_units(llm: AudioLLM, layer: str) -> nn.Linear:
    """Return the linear layer that reads the feed-forward units of an encoder layer, after their activation.

    Parameters
    ----------
    llm : AudioLLM
    layer : str
        ``encoder[i]``.

    Raises
    ------
    RunError
        Where the layer has none by a known name.
    """
    layers = cast(nn.ModuleList, llm.family.find(llm.model, llm.family.encoder_layers))
    module = layers[int(layer[len("encoder[") : -1])]
    for name in _OUTPUTS:
        found = getattr(module, name, None)
        if isinstance(found, nn.Linear):
            return found
    raise RunError(
        f"cannot reach the feed-forward units of {layer} of {llm.name!r}", found=f"a {type(module).__name__}",
        allowed=f"layers with the linear layer {' or '.join(_OUTPUTS)} behind their activation, as Whisper's",
    )  # fmt: skip


@contextmanager
def scaled(llm: AudioLLM, layer: str, factors: Tensor) -> Iterator[None]:
    """Multiply feed-forward units of an encoder layer during the block, at all frames.

    Parameters
    ----------
    llm : AudioLLM
    layer : str
    factors : Tensor, shape (row, unit)
        Rows count on over the calls of the block.
    """
    passed = 0

    def before(_module: nn.Module, args: tuple[Any, ...]) -> Any:
        nonlocal passed
        state = cast(Tensor, args[0])
        first, passed = passed, passed + state.shape[0]
        return (state * factors[first:passed, None].to(state.device, state.dtype), *args[1:])

    handle = output_of_units(llm, layer).register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


class HeldBatch:
    """Items with their clips encoded, ready to be asked under any intervention.

    Parameters
    ----------
    llm : AudioLLM
    items : sequence of Item
    waves : sequence of array, each of shape (samples,), float32, 16 kHz
    template : PromptTemplate
    span : str
        Which tokens of a text site are meant, of ``SPANS``; at other sites all frames of the clip. ``audio`` are those
        that stand for the clip and not for silence behind it.
    parts : int
        Equal parts of a clip that have a vector each; 1 for spans that are not audio.
    """

    def __init__(
        self, llm: AudioLLM, items: Sequence[Item], waves: Sequence[Any], template: PromptTemplate, span: str = "audio",
        parts: int = 1,
    ) -> None:  # fmt: skip
        self.llm, self.items, self.waves, self.template = llm, list(items), list(waves), template
        self.span, self.parts = span, parts
        self.clips = llm.encode(self.waves, ("tower", *llm.stream_inputs))
        self.batch = llm.prepare(self.items, None, template, encoded=self.clips)
        self._spans: dict[str, Tensor] | None = None

    def logprobs(self, clips: Sequence[EncodedClip] | None = None) -> list[FloatArray]:
        """Return the log-probabilities of each item's options, as the model is now."""
        rows = self.llm.option_logprobs(self.batch, self.llm.forward(self.batch, clips))
        return [row.numpy().astype(np.float64) for row in rows]

    def places(self, site: str) -> list[tuple[Tensor, Tensor]]:
        """Return the rows and columns of the positions of each item at a site."""
        if not site.startswith("text"):
            nothing = torch.zeros(0, 0, dtype=torch.bool)
            return Positions.of_site(site, self.batch.layout, nothing, nothing).audio
        if self._spans is None:
            self._spans = token_spans(self.llm, self.batch, self.template)
            self._spans["audio"] = heard_only(self.batch.layout, self._spans["audio"])
        chosen = self._spans[self.span]
        return Positions.of_tokens(chosen, chosen).audio

    def _rows(self, site: str, calls: Sequence[Tensor], places: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Return the rows of a state, (column, width) each; RunError where they are not those of its clips or items."""
        expected = len(self.items) if site.startswith("text") else len(self.batch.row_items)
        by_row = [row for call in calls for row in call] if all(call.ndim == 3 for call in calls) else []
        lengths = torch.tensor([len(row) for row in by_row])
        if len(by_row) != expected or any(bool((columns >= lengths[rows]).any()) for rows, columns in places):
            raise _no_rows(self.llm, site, calls)
        return by_row

    def parts_at(self, site: str) -> int:
        """Return how many parts a site is cut into: one where no time passes."""
        return 1 if site.startswith("text") and self.span != "audio" else self.parts

    # What training items are read with --------------------------------------------------------------------------------

    def states(self, sites: Sequence[str]) -> dict[str, FloatArray]:
        """Return the mean state of each item in each part of its positions, shape (item, part x width), float64.

        Raises
        ------
        RunError
            For sites whose state has no rows of its own for each clip, such as one flat state of all clips.
        """
        inside = [site for site in sites if site.startswith("encoder")]
        behind = [site for site in sites if site not in inside and site != "tower"]
        seen: dict[str, list[Tensor]] = {}
        if inside:
            with watched(self.llm, inside) as kept:
                self.llm.encode(self.waves)
            seen |= kept
        if behind:
            with watched(self.llm, behind) as kept:
                self.llm.forward(self.batch)
            seen |= kept
        out = {}
        for site in sites:
            if site == "tower":
                layout = self.batch.layout
                each = [clip.streams["tower"][layout.is_clip(number)] for number, clip in enumerate(self.clips)]
            else:
                places = self.places(site)
                by_row = self._rows(site, seen[site], places)
                each = [_taken(by_row, rows, columns) for rows, columns in places]
            out[site] = np.stack([self._means(state, self.parts_at(site)) for state in each])
        return out

    def activations(self, layers: Sequence[str]) -> dict[str, tuple[FloatArray, FloatArray]]:
        """Return mean activations of feed-forward units, in parts and in size.

        Returns
        -------
        dict of str to (array, array), float64
            Of shape (item, part x unit): the mean over the frames of each part; and of shape (item, unit): the mean
            absolute activation over all frames.
        """
        seen: dict[str, list[Tensor]] = {layer: [] for layer in layers}

        def keeper(layer: str) -> Any:
            def keep(_module: nn.Module, args: tuple[Any, ...]) -> None:
                seen[layer].append(cast(Tensor, args[0]))

            return keep

        with ExitStack() as stack:
            for layer in layers:
                handle = output_of_units(self.llm, layer).register_forward_pre_hook(keeper(layer))
                stack.callback(handle.remove)
            self.llm.encode(self.waves)
        out = {}
        for layer in layers:
            places = self.places(layer)
            by_row = self._rows(layer, seen[layer], places)
            each = [_taken(by_row, rows, columns) for rows, columns in places]
            sizes = [state.float().abs().mean(dim=0).double().cpu().numpy() for state in each]
            out[layer] = np.stack([self._means(state, self.parts) for state in each]), np.stack(sizes)
        return out

    def _means(self, state: Tensor, parts: int) -> FloatArray:
        bounds = part_bounds(len(state), parts)
        rows = torch.stack([state[low:high].float().mean(dim=0) for low, high in bounds])
        return rows.double().flatten().cpu().numpy()

    # Interventions ----------------------------------------------------------------------------------------------------

    def steered(self, site: str, vectors: FloatArray) -> list[FloatArray]:
        """Return the log-probabilities of options with a vector added at a site.

        Parameters
        ----------
        site : str
        vectors : array, shape (item, part x width), float64
            Added to every position of the item, each in its part.
        """
        parts = self.parts_at(site)
        cut = torch.from_numpy(vectors.reshape(len(vectors), parts, -1)).float()
        if site == "tower":
            clips = []
            for number, clip in enumerate(self.clips):
                valid = self.batch.layout.is_clip(number)
                state = clip.streams["tower"].clone()
                push = cut[number][_part_of(int(valid.sum()), parts)]
                state[valid.to(state.device)] += push.to(state.device, state.dtype)
                clips.append(replace(clip, streams={**clip.streams, "tower": state}))
            return self.logprobs(clips)
        places = self.places(site)
        rows, columns = torch.cat([r for r, _ in places]), torch.cat([c for _, c in places])
        values = torch.cat([cut[number][_part_of(len(r), parts)] for number, (r, _) in enumerate(places)])
        with added(self.llm, site, rows, columns, values):
            if not site.startswith("encoder"):
                return self.logprobs()
            clips = self.llm.encode(self.waves)
        return self.logprobs(clips)

    def with_units(self, layer: str, factors: FloatArray) -> list[FloatArray]:
        """Return the log-probabilities of options with feed-forward units scaled, by factors of shape (item, unit)."""
        rows = torch.from_numpy(factors).float()[torch.tensor(self.batch.row_items)]
        with scaled(self.llm, layer, rows):
            clips = self.llm.encode(self.waves)
        return self.logprobs(clips)


def _part_of(frames: int, parts: int) -> Tensor:
    return torch.arange(frames) * parts // max(frames, 1)


def _taken(by_row: Sequence[Tensor], rows: Tensor, columns: Tensor) -> Tensor:
    """Return the states of positions, shape (position, width), of rows that may differ in length."""
    out = []
    for row in torch.unique_consecutive(rows).tolist():
        state = by_row[row]
        out.append(state[columns[rows == row].to(state.device)])
    return torch.cat(out)
