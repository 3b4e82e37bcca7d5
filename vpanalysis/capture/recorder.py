"""Forward hooks that keep a few vectors of many places, and leave no trace.

Why it exists. Hugging Face's ``output_hidden_states`` returns the pooled, normed state under the last encoder layer's
index, an input as entry 0, nothing at all of the encoder when the whole model is called, and everything in full length
when a mean would do. A hook on the module itself returns what the module returns.

The idea. A `Recorder` is a context manager. Inside the block every planned module has a forward hook that reduces the
module's output on its own device and returns nothing, so outputs are bit for bit what they are without it. When the
block ends, also by an exception, the hooks are gone. Before each forward the recorder is told which frames are valid
(`expect`); afterwards `take` hands over the reduced states and forgets them.

Modules return a tensor, a tuple that begins with one, or a ModelOutput; all three are read.

Worked example::

    with Recorder(llm.module_of, make_plan(llm.sites, "encoder[*]")) as recorder:
        recorder.expect({"encoder": Spans.per_item(frames)})
        llm.encode(waves)
        states = recorder.take()        # {("encoder[0]", "mean"): array (item, feature), ...}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vpanalysis.capture.reducers import Plan, Spans, pooling_of, reduce
from vpanalysis.capture.sites import Clock, clock_of
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    import torch
    from torch.utils.hooks import RemovableHandle

    from vpanalysis.capture._pooling import Pooling

__all__ = ["WHOLE", "Recorder", "States", "tensor_of"]

WHOLE = "all positions"
"""In place of a reducer's key: 0, infinity or NaN, whichever a float16 state holds that is kept at its end only."""

States = dict[tuple[str, str], Any]
"""Reduced states by (site, reducer key): float32 arrays (item, [segment,] feature), lists of arrays for ``frames``."""


def tensor_of(output: Any, site: str = "a module") -> torch.Tensor:
    """Return the state in what a module returned: the tensor, or the first one of a tuple or ModelOutput.

    Raises
    ------
    RunError
        If there is none.
    """
    import torch

    if isinstance(output, torch.Tensor):
        return output
    values: Iterable[Any] = output.values() if isinstance(output, Mapping) else output
    found = next((v for v in values if isinstance(v, torch.Tensor)), None) if hasattr(output, "__iter__") else None
    if found is None:
        raise RunError(f"cannot record {site!r}", found=type(output).__name__, allowed="a tensor, or a tuple with one")
    return found


class Recorder:
    """Records reduced states while its block runs.

    Parameters
    ----------
    module_of : callable
        From a site's name to the module whose output it is.
    plan : dict of str to tuple of Reducer
        What to keep; ``options`` is left out, for it is no module's output.
    """

    def __init__(self, module_of: Callable[[str], torch.nn.Module], plan: Plan) -> None:
        self._module_of = module_of
        self.plan = {site: kept for site, kept in plan.items() if site != "options"}
        self._handles: list[RemovableHandle] = []
        self._spans: dict[Clock, Spans] = {}
        self._seen: dict[str, int] = {}
        self._parts: dict[tuple[str, str], list[Any]] = {}
        self._poolings: dict[tuple[Any, ...], Pooling] = {}

    def __enter__(self) -> Recorder:
        try:
            for site in self.plan:
                self._handles.append(self._module_of(site).register_forward_hook(self._hook(site)))
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        while self._handles:
            self._handles.pop().remove()
        self._forget()

    def _forget(self) -> None:
        self._spans, self._seen, self._parts, self._poolings = {}, {}, {}, {}

    def expect(self, spans: Mapping[Clock, Spans]) -> None:
        """Announce the valid frames of the coming forward; drops what was not taken.

        Parameters
        ----------
        spans : mapping from "encoder", "tower", "audio" or "text" to Spans
            For every clock of the planned sites. One forward may run a module several times on consecutive rows.
        """
        self._forget()
        self._spans = dict(spans)

    def _hook(self, site: str) -> Callable[[Any, Any, Any], None]:
        clock = clock_of(site)

        def keep(_module: Any, _args: Any, output: Any) -> None:
            # Not announced: someone else runs the model inside the block, such as generation after the forward.
            if not self._spans:
                return
            self._keep(site, clock, tensor_of(output, site).detach())

        return keep

    def _keep(self, site: str, clock: Clock | None, state: torch.Tensor) -> None:
        import torch

        if clock is not None and state.ndim == 2 and clock in self._spans:
            state = _rows(state, self._spans[clock].lengths)
        start = self._seen.get(site, 0)
        self._seen[site] = start + int(state.shape[0])
        if clock is None:
            self._parts.setdefault((site, "last"), []).append(state.float().clone())
            return
        if clock not in self._spans:
            raise RunError(f"cannot record {site!r}", found=f"no {clock} frames announced", fix="call expect() first")
        spans = self._spans[clock]
        if self._seen[site] > len(spans.lengths):
            raise RunError(
                f"cannot record {site!r}",
                found=f"{self._seen[site]} rows in one forward",
                allowed=f"{len(spans.lengths)} announced",
            )
        # What says which frames are valid is the same for all layers, and goes to the device once.
        place = (clock, start, *state.shape[:2], state.device)
        if place not in self._poolings:
            if (start, self._seen[site]) != (0, len(spans.lengths)):
                spans = spans.take(start, self._seen[site])
            self._poolings[place] = pooling_of(state, spans)
        pooling = self._poolings[place]
        if state.dtype == torch.float16 and all(reducer.kind == "last" for reducer in self.plan[site]):
            self._parts.setdefault((site, WHOLE), []).append(_overflow(state, pooling.spans))
        for reducer in self.plan[site]:
            self._parts.setdefault((site, reducer.key), []).append(reduce(state, pooling.spans, reducer, pooling))

    def take(self) -> States:
        """Return what was recorded since `expect`, on the host, and forget it.

        Returns
        -------
        dict
            From (site, reducer key) to a float32 array (item, [segment,] feature), or a list of (frame, feature) for
            ``frames``; for the gate (item, stream) under ``last``.

        Raises
        ------
        RunError
            If a planned module did not run, or ran on fewer rows than announced.
        """
        for site in self.plan:
            clock = clock_of(site)
            wanted = None if clock is None or clock not in self._spans else len(self._spans[clock].lengths)
            if site not in self._seen or (wanted is not None and self._seen[site] != wanted):
                raise RunError(
                    f"cannot record {site!r}",
                    found=f"{self._seen.get(site, 0)} rows",
                    allowed="one for each row of the batch" if wanted is None else str(wanted),
                    fix="check that the site's module runs in this forward",
                )
        states: States = {}
        vectors: list[torch.Tensor] = []
        for key, parts in self._parts.items():
            if isinstance(parts[0], list):
                states[key] = [state.cpu().numpy() for part in parts for state in part]
            else:
                states[key] = None
                vectors += parts
        # Vectors are many and small, and every copy waits for the device: they are fetched together.
        fetched = iter(_to_host(vectors))
        for key, parts in self._parts.items():
            if states[key] is None:
                states[key] = np.concatenate([next(fetched) for _ in parts])
        self._forget()
        return states


def _overflow(state: torch.Tensor, spans: Spans) -> torch.Tensor:
    """Return for each item 0, or infinity or NaN where that is anywhere in its valid frames: float32, (item, 1).

    Of a site where only the last position is kept, an overflow at an earlier one would otherwise first be seen as the
    NaN that the next layer makes of it. Only float16 overflows in practice, so only float16 pays for looking.
    """
    import torch

    valid = torch.from_numpy(spans.valid(int(state.shape[1]))).to(state.device)
    # The sum of absolute values is infinite or NaN exactly when one of them is: float32 holds any sum of float16.
    sums = torch.where(valid, state.abs().sum(dim=-1, dtype=torch.float32), 0.0).sum(dim=1)
    worst = torch.where(sums.isfinite(), 0.0, sums)
    owner = torch.tensor(spans.owner, device=state.device)
    return torch.zeros(spans.items, device=state.device).index_add_(0, owner, worst)[:, None]


def _rows(state: torch.Tensor, lengths: tuple[int, ...]) -> torch.Tensor:
    """Return a state without a batch dimension, (all frames, width), as padded rows.

    Such a state holds either the valid frames alone, row after row, or as many frames of every row.
    """
    from torch.nn.utils.rnn import pad_sequence

    frames = int(state.shape[0])
    if frames == sum(lengths):
        return pad_sequence(list(state.split(list(lengths))), batch_first=True)
    if frames % len(lengths):
        raise RunError(
            "cannot tell the clips of a state apart",
            found=f"{frames} frames",
            allowed=f"{sum(lengths)}, or as many for each of {len(lengths)} rows",
        )
    return state.reshape(len(lengths), -1, state.shape[-1])


def _to_host(tensors: Sequence[torch.Tensor]) -> list[NDArray[np.float32]]:
    """Return float32 tensors as arrays, those of one device in one copy."""
    import torch

    arrays: dict[int, NDArray[np.float32]] = {}
    places: dict[torch.device, list[int]] = {}
    for number, tensor in enumerate(tensors):
        places.setdefault(tensor.device, []).append(number)
    for numbers in places.values():
        pieces = torch.cat([tensors[n].flatten() for n in numbers]).cpu().split([tensors[n].numel() for n in numbers])
        arrays |= {n: piece.reshape(tensors[n].shape).numpy() for n, piece in zip(numbers, pieces, strict=True)}
    return [arrays[n] for n in range(len(tensors))]
