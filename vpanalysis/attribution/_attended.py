"""Attention weights of the answer position: the language model switched to the implementation that hands them out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vpanalysis.attribution._asking import Asker
from vpanalysis.attribution._spans import token_spans
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    from vpanalysis.models.facade import AudioLLM

__all__ = ["eager", "masses"]

_ATTENTION = ("self_attn", "attn", "attention")
"""What families call the attention of a text layer."""

_EXACT, _HALF = 1e-4, 0.05
"""How far options' probabilities of both implementations may be apart: rounding, in full and in half precision."""


@contextmanager
def eager(llm: AudioLLM) -> Iterator[None]:
    """Let the language model compute attention plainly during a block.

    Parameters
    ----------
    llm : AudioLLM
        One that answers.

    Raises
    ------
    RunError
        Where the model does not let itself be switched.

    Notes
    -----
    Public Hugging Face methods only. The encoder stays as it is where it is a model of its own. Every part gets back
    what it had, also after an error.
    """
    text: Any = llm.family.find(llm.model, str(llm.family.language_model))
    model = text if isinstance(text, PreTrainedModel) else llm.model
    parts: list[Any] = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    before = [part.config._attn_implementation for part in parts]
    asked = f"cannot look at the attention of {llm.name!r}"
    try:
        model.set_attn_implementation("eager")
        if text.config._attn_implementation != "eager":
            raise RunError(asked, found="a model that does not let its attention be switched to 'eager'")
        yield
    finally:
        # From the outside in: setting a part sets what is inside it, which then gets back its own.
        for part, name in zip(parts, before, strict=True):
            part.set_attn_implementation(name)


def _attention_of(llm: AudioLLM, layer: str) -> nn.Module:
    module = llm.module_of(layer)
    for name in _ATTENTION:
        found = getattr(module, name, None)
        if isinstance(found, nn.Module):
            return found
    raise RunError(f"cannot look at the attention of {layer} of {llm.name!r}", found="no attention by a known name",
                   allowed=_ATTENTION)  # fmt: skip


def masses(asker: Asker, spans: Sequence[str]) -> pd.DataFrame:
    """Return the attention mass of every layer, head and span.

    Parameters
    ----------
    asker : Asker
    spans : sequence of str

    Returns
    -------
    DataFrame
        One row an item: id, task, condition, speaker, script, length, ``apart`` (by how much an option's probability
        differs at most between the implementations, over a first batch), ``tokens <span>``, ``<layer>/<head>/<span>``.

    Raises
    ------
    RunError
        Where answers change, or no weights are handed out.
    """
    llm = asker.llm
    first = list(range(min(asker.batch_size, len(asker.items))))
    usual = asker.ask(first)
    layers = [site for site in llm.sites if site.startswith("text[")]
    parts = []
    with eager(llm):
        plain = asker.ask(first)
        apart = max(float(abs(_shares(a) - _shares(b)).max()) for a, b in zip(usual, plain, strict=True))
        if not apart <= (_EXACT if llm.dtype == torch.float32 else _HALF):
            raise RunError(f"cannot look at the attention of {llm.name!r}",
                           found=f"answers that change by {apart:.2g} under the plain implementation")  # fmt: skip
        for start in range(0, len(asker.items), asker.batch_size):
            items = asker.items[start : start + asker.batch_size]
            encoded = asker.encoded[start : start + asker.batch_size]
            batch = llm.prepare(items, None, asker.template, encoded=encoded)
            where = token_spans(llm, batch, asker.template)
            with _weights(llm, layers) as seen:
                llm.forward(batch)
            table: dict[str, Any] = {
                "id": [item.id for item in items], "task": [item.task_name for item in items],
                "condition": [item.condition for item in items], "speaker": [item.speaker for item in items],
                "script": [item.script for item in items], "length": where["all"].sum(1).numpy(),
            }  # fmt: skip
            for span in spans:
                table[f"tokens {span}"] = where[span].sum(1).numpy()
            for number, layer in enumerate(layers):
                weights = seen[layer]
                for span in spans:
                    mass = (weights * where[span][:, None, :]).sum(-1)
                    for head in range(mass.shape[1]):
                        table[f"{number}/{head}/{span}"] = mass[:, head].numpy()
            parts.append(pd.DataFrame(table))
    return pd.concat(parts, ignore_index=True).assign(apart=apart)


def _shares(logprobs: Any) -> Any:
    return torch.as_tensor(logprobs).exp()


@contextmanager
def _weights(llm: AudioLLM, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Keep the last row of every layer's attention weights, shape (item, head, token), float32, on the CPU."""
    seen: dict[str, Tensor] = {}

    def keeper(layer: str) -> Any:
        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
            if not isinstance(weights, Tensor) or weights.ndim != 4:
                raise RunError(f"cannot look at the attention of {layer} of {llm.name!r}",
                               found="attention that hands out no weights")  # fmt: skip
            seen[layer] = weights[:, :, -1].float().cpu()

        return keep

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(_attention_of(llm, layer).register_forward_hook(keeper(layer)).remove)
        yield seen
