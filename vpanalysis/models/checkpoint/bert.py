"""The prompt encoder: a BERT, found by its names or by its shape as a tree, whose sizes its tensors tell.

Why it exists. The model card says "BERT-small" and nothing more. Vocabulary, width, depth and feed-forward size stand
in the shapes of the tensors; only the number of heads does not, because heads are a way of reading a matrix.

The idea. Where the names inside are Hugging Face's, `claim_bert` finds what stands before them, reads the sizes and
claims the module as any other. Where they are not, `vpanalysis.models.checkpoint.bert_tree` looks for the tree: a block
that is repeated under an index, whose square matrices are called something like query, key and value. Weights of BERT's
pooler are claimed when they are there, used or not.

Worked example::

    found = claim_bert(board, {}, "model.pclm.gate.prompt_encoder.")
    found.config    # {"vocab_size": 30522, "hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, ...}
    found.pooler    # True
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from vpanalysis.models.checkpoint.bert_tree import claim_tree
from vpanalysis.models.checkpoint.board import Board
from vpanalysis.models.checkpoint.headers import listed
from vpanalysis.models.checkpoint.modules import Place, canonical, claim_module, find_places, shown

__all__ = ["PromptEncoder", "claim_bert", "inner_shapes"]

ROLE = "prompt encoder"
_WORDS = "embeddings.word_embeddings.weight"
# Width of one head in every published BERT.
_HEAD_WIDTH = 64


@dataclass(frozen=True)
class PromptEncoder:
    """The BERT that was found.

    Parameters
    ----------
    config : dict
        For `BertConfig`.
    pooler : bool
        Whether its pooler's weights are there.
    """

    config: dict[str, Any]
    pooler: bool

    @property
    def width(self) -> int:
        """Width of its states."""
        return int(self.config["hidden_size"])


def inner_shapes(config: Mapping[str, Any], pooler: bool) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes inside a BERT of this configuration."""
    from transformers import BertConfig, BertModel

    with torch.device("meta"):
        model = BertModel(BertConfig(**config), add_pooling_layer=pooler)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def claim_bert(board: Board, given: Mapping[str, Any], target: str) -> PromptEncoder | None:
    """Find the prompt encoder among the free tensors and claim it.

    Parameters
    ----------
    board : Board
        Where findings, assumptions and problems are noted.
    given : mapping
        What the configuration says of it; sizes that it does not say are read from the shapes.
    target : str
        What the model's state dictionary has before its names.

    Returns
    -------
    PromptEncoder or None
        None when none was found, which is left to the caller to report.
    """
    places = [place for place, there in find_places(board.free, {_WORDS: ()}).items() if there]
    if len(places) > 1:
        board.problems.append(f"the {ROLE} was found more than once, in {listed(map(shown, sorted(places)))}")
        return None
    if places:
        return _by_names(board, given, target, places[0])
    found = claim_tree(board, target)
    if found is None:
        return None
    sizes, pooler = found
    return PromptEncoder(_settled(board, given, sizes, "the tree of its tensors"), pooler)


def _by_names(board: Board, given: Mapping[str, Any], target: str, place: Place) -> PromptEncoder:
    folder, prefix = place
    inside = {
        canonical(record.name).removeprefix(prefix): record
        for record in board.free
        if record.folder == folder and record.name.startswith(prefix)
    }
    blocks = {
        int(parts[2]) for name in inside if (parts := name.split("."))[:2] == ["encoder", "layer"] and len(parts) > 3
    }
    sizes: dict[str, Any] = {"num_hidden_layers": 1 + max(blocks, default=-1)}
    for field, name in (
        ("vocab_size", _WORDS),
        ("max_position_embeddings", "embeddings.position_embeddings.weight"),
        ("type_vocab_size", "embeddings.token_type_embeddings.weight"),
        ("intermediate_size", "encoder.layer.0.intermediate.dense.weight"),
    ):
        if name in inside and len(inside[name].shape) == 2:
            sizes[field], sizes["hidden_size"] = inside[name].shape
    config = _settled(board, given, sizes, f"the shapes in {shown(place)}")
    pooler = "pooler.dense.weight" in inside
    claim_module(board, inner_shapes(config, pooler), target, ROLE, only=place)
    return PromptEncoder(config, pooler)


def _settled(board: Board, given: Mapping[str, Any], sizes: dict[str, Any], evidence: str) -> dict[str, Any]:
    """Return the configuration: what is given, else what the shapes say, else an assumption."""
    config = {**sizes, **given}
    inferred = {name: value for name, value in sizes.items() if name not in given}
    if inferred:
        board.find("prompt_encoder_config", ", ".join(f"{k} {v}" for k, v in sorted(inferred.items())), evidence)
    if "num_attention_heads" not in config:
        width = int(config["hidden_size"])
        heads = width // _HEAD_WIDTH if width % _HEAD_WIDTH == 0 else 1
        config["num_attention_heads"] = heads
        board.assume(
            "prompt_encoder_config.num_attention_heads", heads,
            [n for n in (1, 2, 4, 8, 12, 16) if width % n == 0],
            f"no shape shows it; published BERTs have heads of {_HEAD_WIDTH}",
            "set it with pclm={'prompt_encoder_config': {'num_attention_heads': ...}}",
        )  # fmt: skip
    return config
