"""Reading and writing states inside a forward, by plain hooks that are gone after the block.

A *place* is a site of the model, or one attention head of a text layer (``text[2].head[1]``): the head's part of what
goes into the layer's output projection, which is the head's own contribution before it is mixed with the others.

Which positions of a state belong to which item is said by :class:`Positions`: for every item the rows and columns of
its tokens or frames, with what is audio apart from what is text. A clip of several windows has several rows.

>>> with watched(llm, ["mixed", "text[0]"]) as seen:                     # doctest: +SKIP
...     llm.forward(batch)
>>> with overwritten(llm, "text[0]", rows, columns, values):            # doctest: +SKIP
...     llm.forward(batch)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from vpanalysis.attribution._spans import aligned
from vpanalysis.errors import RunError
from vpanalysis.models._sites import state_of

if TYPE_CHECKING:
    from vpanalysis.models.batch import Layout
    from vpanalysis.models.facade import AudioLLM

__all__ = ["Positions", "changed", "heads_of", "overwritten", "watched", "with_state"]

_HEAD = re.compile(r"^(text\[\d+\])\.head\[(\d+)\]$")
_PROJECTIONS = ("self_attn.o_proj", "self_attn.out_proj", "attn.o_proj")
"""Where a text layer projects what its heads found, by the names that families use."""

Change = Callable[[Tensor], "Tensor | None"]


def heads_of(llm: AudioLLM, layer: str) -> list[str]:
    """Return the names of the attention heads of a text layer.

    Raises
    ------
    RunError
        Where the layer's output projection or the number of heads is not found.
    """
    _projection(llm, layer)
    config = llm.model.config.get_text_config()
    count = getattr(config, "num_attention_heads", None)
    if count is None:
        raise RunError(f"cannot tell the heads of {layer} of {llm.name!r}", found="no num_attention_heads")
    return [f"{layer}.head[{head}]" for head in range(int(count))]


def _projection(llm: AudioLLM, layer: str) -> nn.Module:
    module = llm.module_of(layer)
    for path in _PROJECTIONS:
        try:
            return module.get_submodule(path)
        except AttributeError:
            continue
    raise RunError(f"cannot reach the heads of {layer} of {llm.name!r}", found="no output projection by a known name",
                   allowed=_PROJECTIONS)  # fmt: skip


@contextmanager
def changed(llm: AudioLLM, place: str, change: Change) -> Iterator[None]:
    """Call `change` with the state of a place whenever it is made; what it returns, if anything, takes its place.

    Parameters
    ----------
    llm : AudioLLM
    place : str
        A site of :meth:`AudioLLM.module_of`, or ``text[i].head[j]``.
    change : callable
        State in, tensor of equal shape or None out.
    """
    match = _HEAD.match(place)
    if match is not None:
        layer, head = match.group(1), int(match.group(2))
        count = len(heads_of(llm, layer))
        if head >= count:
            raise RunError(f"cannot find the place {place!r}", found=f"{count} heads in {layer}")

        def before(_module: nn.Module, args: tuple[Any, ...]) -> Any:
            whole = cast(Tensor, args[0])
            width = whole.shape[-1] // count
            part = slice(head * width, (head + 1) * width)
            state = change(whole[..., part])
            if state is None:
                return None
            whole = whole.clone()
            whole[..., part] = state
            return (whole, *args[1:])

        handle = _projection(llm, layer).register_forward_pre_hook(before)
    else:

        def after(_module: nn.Module, _args: Any, output: Any) -> Any:
            state = change(state_of(output))
            return None if state is None else with_state(output, state)

        handle = llm.module_of(place).register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def with_state(output: Any, state: Tensor) -> Any:
    """Return what a module put out with another state in it: the reverse of `state_of`."""
    if isinstance(output, Tensor):
        return state
    if isinstance(output, Mapping):
        other: Any = copy(output)
        other[next(iter(output))] = state
        return other
    return (state, *output[1:])


@contextmanager
def watched(llm: AudioLLM, places: Sequence[str], *, grad: bool = False) -> Iterator[dict[str, list[Tensor]]]:
    """Keep the states of places during the block, one tensor a call of the module.

    Parameters
    ----------
    llm : AudioLLM
    places : sequence of str
    grad : bool
        Make states part of a graph where nothing before them is, so that gradients with respect to them exist.
    """
    seen: dict[str, list[Tensor]] = {place: [] for place in places}

    def keeper(place: str) -> Change:
        def keep(state: Tensor) -> Tensor | None:
            leaf = grad and not state.requires_grad
            if leaf:
                state = state.detach().requires_grad_()
            seen[place].append(state)
            # A head is cut out of a state; only what is put back is part of what follows.
            return state if leaf or (grad and _HEAD.match(place)) else None

        return keep

    with ExitStack() as stack:
        for place in places:
            stack.enter_context(changed(llm, place, keeper(place)))
        yield seen


@contextmanager
def overwritten(llm: AudioLLM, place: str, rows: Tensor, columns: Tensor, values: Tensor) -> Iterator[None]:
    """Write values over positions of a state during the block.

    Parameters
    ----------
    llm : AudioLLM
    place : str
    rows, columns : Tensor, shape (position,), int64
        Rows count on over the calls of the block: an encoder may take its clips in several batches.
    values : Tensor, shape (position, width)
    """
    passed = 0

    def write(state: Tensor) -> Tensor:
        nonlocal passed
        first, passed = passed, passed + state.shape[0]
        here = (rows >= first) & (rows < passed)
        new = state.clone()
        at = (rows[here] - first).to(state.device), columns[here].to(state.device)
        new[at] = values[here.to(values.device)].to(state.device, state.dtype)
        return new

    with changed(llm, place, write):
        yield


@dataclass(frozen=True)
class Positions:
    """Where each item's states are in a batch.

    Attributes
    ----------
    audio, text : list of (Tensor, Tensor)
        Per item the rows and the columns of what is aligned in time, and of what is taken token by token.
    """

    audio: list[tuple[Tensor, Tensor]]
    text: list[tuple[Tensor, Tensor]]

    @classmethod
    def of_windows(cls, windows: Sequence[Sequence[int]]) -> Positions:
        """Return those of an audio site whose rows are windows with so many valid frames each."""
        out, row = [], 0
        for clip in windows:
            rows = torch.cat([torch.full((count,), row + k) for k, count in enumerate(clip)])
            out.append((rows, torch.cat([torch.arange(count) for count in clip])))
            row += len(clip)
        nothing = torch.zeros(0, dtype=torch.long)
        return cls(out, [(nothing, nothing)] * len(out))

    @classmethod
    def of_tokens(cls, chosen: Tensor, audio: Tensor) -> Positions:
        """Return those of the tokens of a text site that are `chosen`, of which some are `audio`: (item, token)."""

        def places(mask: Tensor) -> list[tuple[Tensor, Tensor]]:
            return [
                (torch.full((int(row.sum()),), number), torch.nonzero(row).flatten()) for number, row in enumerate(mask)
            ]

        return cls(places(chosen & audio), places(chosen & ~audio))

    @classmethod
    def of_site(cls, site: str, layout: Layout, chosen: Tensor, audio: Tensor) -> Positions:
        """Return those of a site: windows for audio, tokens for text."""
        if site.startswith("text"):
            return cls.of_tokens(chosen, audio)
        if site.startswith("encoder"):
            return cls.of_windows(layout.positions)
        return cls.of_windows(layout.frames if site == "tower" or site.startswith("streams") else layout.heard_tokens)

    def written_from(
        self, other: Positions, states: Sequence[Tensor], how: str
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return which positions are written, with what, and whose they are.

        Parameters
        ----------
        other : Positions
            In the forward of the source.
        states : sequence of Tensor, each of shape (row, column, width)
            Of the source, one a call of the module.
        how : str
            Of ``ALIGNMENTS``; for audio.

        Returns
        -------
        rows, columns : Tensor, shape (position,)
        values : Tensor, shape (position, width)
        items : Tensor, shape (position,)
        """
        if any(call.ndim != 3 for call in states):
            raise RunError("cannot patch here", found=f"states of shape {tuple(states[0].shape)}",
                           allowed="(row, position, width), so that it is known whose they are",
                           fix="leave this site out")  # fmt: skip
        by_row = [row for call in states for row in call]
        rows, columns, values, items = [], [], [], []
        for number, (mine, theirs, my_text, their_text) in enumerate(
            zip(self.audio, other.audio, self.text, other.text, strict=True)
        ):
            if len(mine[0]) and len(theirs[0]):
                heard = aligned(_taken(by_row, *theirs), len(mine[0]), how)
                rows.append(mine[0][: len(heard)])
                columns.append(mine[1][: len(heard)])
                values.append(heard)
                items.append(torch.full((len(heard),), number))
            if len(my_text[0]) != len(their_text[0]):
                raise RunError("cannot patch", found=f"{len(my_text[0])} and {len(their_text[0])} tokens of a span",
                               allowed="one question for both clips")  # fmt: skip
            if len(my_text[0]):
                rows.append(my_text[0])
                columns.append(my_text[1])
                values.append(_taken(by_row, *their_text))
                items.append(torch.full((len(my_text[0]),), number))
        return torch.cat(rows), torch.cat(columns), torch.cat(values), torch.cat(items)


def _taken(by_row: Sequence[Tensor], rows: Tensor, columns: Tensor) -> Tensor:
    """Return states of shape (position, width), of rows that may differ in length."""
    out = []
    for row in torch.unique_consecutive(rows).tolist():
        state = by_row[row]
        out.append(state[columns[rows == row].to(state.device)])
    return torch.cat(out)
