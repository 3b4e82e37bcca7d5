"""A loaded model, read otherwise for a while: the conventions of its mixer are fields, not weights.

How layers are numbered, pooled and ordered, what the gate reads and how BERT is pooled is decided at every forward from
the config and from two attributes of the gate. So one loaded model can answer under every reading, one after the other,
without a second copy of its weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vpanalysis.models.conventions import CONVENTIONS

if TYPE_CHECKING:
    from vpanalysis.models.facade import AudioLLM

__all__ = ["live_conventions", "reading_as", "set_conventions"]


def live_conventions(llm: AudioLLM) -> dict[str, str]:
    """Return the conventions that a loaded model with a mixer follows now."""
    return {name: str(getattr(llm.model.config, name)) for name in CONVENTIONS}


def set_conventions(llm: AudioLLM, fields: Mapping[str, str]) -> None:
    """Let a loaded model with a mixer follow other conventions; those not named stay.

    Parameters
    ----------
    llm : AudioLLM
    fields : mapping of str to str
        By name, as in the config. They must fit the model: whoever sets them has checked that.
    """
    config, gate = llm.model.config, llm.family.find(llm.model, llm.family.gate)
    for name, value in fields.items():
        setattr(config, name, value)
    for name in ("bert_pooling", "gate_order"):
        setattr(gate, name, getattr(config, name))
    streams = config.stream_names
    llm.streams = streams
    llm._stream_of = streams if config.stream_sources == "layers" else ("tower",) * config.num_streams
    llm.stream_inputs = tuple(dict.fromkeys(llm._stream_of))
    maker: Any = llm._maker
    maker.gate_reads = config.gate_text
    # It hashes what is done to a layer, and is kept once it was asked for.
    llm.__dict__.pop("encoder_sha", None)


@contextmanager
def reading_as(llm: AudioLLM, fields: Mapping[str, str]) -> Iterator[None]:
    """Let a loaded model follow other conventions during the block, and the old ones after it, whatever happened."""
    before = live_conventions(llm)
    try:
        set_conventions(llm, fields)
        yield
    finally:
        set_conventions(llm, before)
