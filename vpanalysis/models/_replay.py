"""Going on from what a tower handed on, with the model's own forward.

What lies between an audio tower and the language model differs between families: a projector, rotary times, four
frames folded into one, masks, a scatter into the prompt. None of it is repeated here. The tower is replaced by a
stand-in that hands back a stored output, the model's forward runs as it is, and the tower is back afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = ["Replayed", "last_positions", "replaying"]


class Replayed(nn.Module):
    """Hands back an output; everything else it is asked for is the tower's."""

    def __init__(self, tower: nn.Module, output: Any) -> None:
        super().__init__()
        # Not registered: parameters and hooks stay the tower's.
        self.__dict__["_tower"] = tower
        self.__dict__["_output"] = output

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_tower"], name)

    def forward(self, *_args: Any, **_kwargs: Any) -> Any:
        return self.__dict__["_output"]


@contextmanager
def replaying(model: nn.Module, path: str, state: Tensor) -> Iterator[None]:
    """Let the module at `path` hand back `state` instead of running; it is back after the block.

    Parameters
    ----------
    model : Module
        The whole model.
    path : str
        Where the tower is.
    state : Tensor
        What its ``last_hidden_state`` shall be.
    """
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    parent_path, _, name = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    tower = model.get_submodule(path)
    parent._modules[name] = Replayed(tower, BaseModelOutputWithPooling(last_hidden_state=state, pooler_output=state))
    try:
        yield
    finally:
        parent._modules[name] = tower


@contextmanager
def last_positions(head: nn.Module, count: int) -> Iterator[None]:
    """Let a language modeling head see only the last `count` positions.

    For models whose forward has no `logits_to_keep`: logits of a whole prompt over a large vocabulary are the largest
    tensor of a forward, and all but one position of it is thrown away.
    """

    def cut(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][:, -count:], *args[1:])

    handle = head.register_forward_pre_hook(cut)
    try:
        yield
    finally:
        handle.remove()
