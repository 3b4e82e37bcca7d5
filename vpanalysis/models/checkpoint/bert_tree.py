"""A BERT under names of its own, recognised by its tree: a repeated block, and embeddings beside it.

Why it exists. The prompt encoder may be a class of the authors' with other names inside. Its computation can be told
from its tensors only where they leave one reading; a query that is loaded as a key gives plausible numbers.

The idea. A BERT block has sixteen tensors: four square matrices, one that widens and one that narrows, a bias for each,
and two LayerNorms. `claim_tree` looks for tensors that repeat under an index 0, 1, 2 ... with exactly these shapes.
Which square is which is read from the letters q, k and v in their names, in any spelling; which norm is the attention's
from the branch that it grows on. Embeddings are matrices without a bias, told apart by name or, as an assumption, by
size. What cannot be told is a problem, and `rename` says it by hand.

Worked example::

    claim_tree(board, "model.pclm.gate.prompt_encoder.")
    # ({"vocab_size": 30522, "hidden_size": 512, ...}, False)
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from vpanalysis.models.checkpoint.board import Board
from vpanalysis.models.checkpoint.headers import TensorRecord, listed
from vpanalysis.models.checkpoint.names import Tokens, module_of, shared, tokens_of

__all__ = ["claim_tree"]

ROLE = "prompt encoder"
_BLOCK = 16
_SPELLING = {
    "query": re.compile(r"^(to|w)?(q|query|queries)(proj|projection|lin|linear|dense|layer|w)?$"),
    "key": re.compile(r"^(to|w)?(k|key|keys)(proj|projection|lin|linear|dense|layer|w)?$"),
    "value": re.compile(r"^(to|w)?(v|val|value|values)(proj|projection|lin|linear|dense|layer|w)?$"),
}
_ATTENTION = {"attention", "attn", "att", "sa", "self", "mha", "selfattn", "selfattention"}
_SCALES = {"weight", "gamma", "scale", "g", "w"}
_SHIFTS = {"bias", "beta", "shift", "b"}
_KINDS = {
    "position": re.compile(r"^pos"),
    "token_type": re.compile(r"^(type|types|seg|segment|segments|tokentype|token_type)$"),
    "word": re.compile(r"^(word|words|tok|token|tokens|vocab|wte|wordembeddings)$"),
}

Module = dict[str, TensorRecord]
"""``weight`` and ``bias`` of one module."""


def claim_tree(board: Board, target: str) -> tuple[dict[str, Any], bool] | None:
    """Find a BERT by its tree and claim it.

    Parameters
    ----------
    board : Board
        Where evidence, assumptions and problems are noted.
    target : str
        What the model's state dictionary has before BERT's names.

    Returns
    -------
    sizes : dict
        For `BertConfig`.
    pooler : bool
        Whether weights of a pooler were found.
        None, instead of both, when there is no such tree, or it leaves more than one reading.
    """
    series = _blocks(board.free)
    if len(series) != 1:
        if series:
            where = listed(sorted({_start(blocks[0]) for _, blocks in series}))
            board.problems.append(f"more than one series of blocks could be the {ROLE}'s: at {where}")
        return None
    ((stem, blocks),) = series
    odd = _beside(board.free, stem, blocks)
    if odd:
        board.problems.append(f"the blocks of the {ROLE} at {_start(blocks[0])!r} are not alike: {odd}")
        return None
    width, wide = _widths(blocks[0]) or (0, 0)
    evidence = f"its place in {len(blocks)} blocks of the form of BERT's at {_start(blocks[0])!r}"
    named: dict[str, TensorRecord] = {}
    doubts: list[str] = []
    for i, block in enumerate(blocks):
        for inner, record in _block_names(block, width, wide, doubts).items():
            named[f"encoder.layer.{i}.{inner}"] = record
    used = {record.key for block in blocks for record in block}
    rest = [record for record in board.free if record.key not in used]
    embeddings, sizes = _embeddings(board, rest, width, doubts)
    named |= embeddings
    pooler = _pooler(rest, width, [*named.values()])
    if pooler:
        named |= {f"pooler.dense.{leaf}": record for leaf, record in pooler.items()}
    if doubts:
        board.problems.append(
            f"the {ROLE} at {_start(blocks[0])!r} leaves open {'; '.join(dict.fromkeys(doubts))};"
            " say which tensor is which with 'rename'"
        )
        return None
    for name, record in named.items():
        board.claim(record, target + name, ROLE, evidence)
    board.find(ROLE, f"{len(blocks)} blocks at {_start(blocks[0])}", "a repeated block with BERT's shapes, and q, k, v")
    sizes |= {"hidden_size": width, "intermediate_size": wide, "num_hidden_layers": len(blocks)}
    return sizes, bool(pooler)


def _blocks(records: Sequence[TensorRecord]) -> list[tuple[Tokens, list[list[TensorRecord]]]]:
    """Return the series of blocks that have a BERT block's shapes: what stands before the index, and the blocks."""
    stacks: dict[Tokens, dict[int, list[TensorRecord]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        tokens = tokens_of(record.key)
        for position, token in enumerate(tokens):
            if isinstance(token, int):
                stacks[tokens[:position]][token].append(record)
    found = []
    for stem, by_index in stacks.items():
        indices = sorted(i for i, block in by_index.items() if _widths(block))
        if not indices or indices != list(range(indices[0], indices[0] + len(indices))) or indices[0] > 1:
            continue
        blocks = [by_index[i] for i in indices]
        if len({tuple(sorted(record.shape for record in block)) for block in blocks}) == 1:
            found.append((stem, blocks))
    return found


def _beside(records: Sequence[TensorRecord], stem: Tokens, blocks: list[list[TensorRecord]]) -> str:
    """Return what to say of a block under the same name that has not the form of the others; empty without one."""
    used = {record.key for block in blocks for record in block}
    others: dict[int, int] = defaultdict(int)
    for record in records:
        place = tokens_of(record.key)
        index = place[len(stem)] if len(place) > len(stem) and place[: len(stem)] == stem else None
        if isinstance(index, int) and record.key not in used:
            others[index] += 1
    said = [f"number {i} has {n} tensors instead of {_BLOCK}" for i, n in sorted(others.items()) if 2 * n > _BLOCK]
    return ", ".join(said)


def _widths(block: Sequence[TensorRecord]) -> tuple[int, int] | None:
    """Return width and feed-forward width of a block with exactly a BERT block's shapes, else None."""
    if len(block) != _BLOCK:
        return None
    shapes = Counter(record.shape for record in block)
    for width, wide in ((shape[1], shape[0]) for shape in shapes if len(shape) == 2):
        wanted = Counter({(width, width): 4, (wide, width): 1, (width, wide): 1, (width,): 9, (wide,): 1})
        if width != wide and shapes == wanted:
            return width, wide
    return None


def _start(block: Sequence[TensorRecord]) -> str:
    """Return what the keys of a block begin with."""
    keys = [record.key for record in block]
    return keys[0][: shared(keys)]


def _modules(records: Sequence[TensorRecord], doubts: list[str]) -> dict[str, Module]:
    """Return tensors as modules, each with a weight and, where there is one, a bias."""
    members: dict[str, list[TensorRecord]] = defaultdict(list)
    for record in records:
        members[module_of(record)].append(record)
    modules: dict[str, Module] = {}
    for key, group in members.items():
        module: Module = {}
        for record in group:
            leaf = record.name.rpartition(".")[2].lower()
            if len(record.shape) == 2 or leaf in _SCALES:
                module["weight"] = record
            elif leaf in _SHIFTS:
                module["bias"] = record
        if len(module) != len(group):
            doubts.append(f"what {listed(record.key for record in group)} are")
        modules[key] = module
    return modules


def _block_names(block: Sequence[TensorRecord], width: int, wide: int, doubts: list[str]) -> dict[str, TensorRecord]:
    """Return the tensors of one block under BERT's names."""
    modules = _modules(block, doubts)
    depth = shared([tokens_of(key) for key in modules])
    squares = [key for key, m in modules.items() if m.get("weight") and m["weight"].shape == (width, width)]
    named: dict[str, str] = {}
    for part, spelling in _SPELLING.items():
        spelt = [k for k in squares if any(spelling.match(str(t).lower()) for t in tokens_of(k)[depth:])]
        if len(spelt) != 1:
            doubts.append(f"which of {listed(squares)} is the {part}")
            return {}
        named[f"attention.self.{part}"] = spelt[0]
    others = [key for key in squares if key not in named.values()]
    norms = [key for key, m in modules.items() if all(len(record.shape) == 1 for record in m.values())]
    if len(others) != 1 or len(norms) != 2:
        doubts.append(f"what {listed([*others, *norms])} are")
        return {}
    named["attention.output.dense"] = others[0]
    first = _attention_norm(norms, [named["attention.self.query"], others[0]], depth)
    if first is None:
        doubts.append(f"which of {listed(norms)} is the norm of the attention")
        return {}
    named["attention.output.LayerNorm"] = first
    named["output.LayerNorm"] = next(key for key in norms if key != first)
    for key, module in modules.items():
        shape = module["weight"].shape if "weight" in module else ()
        if shape in ((wide, width), (width, wide)):
            named["intermediate.dense" if shape == (wide, width) else "output.dense"] = key
    return {f"{part}.{leaf}": record for part, key in named.items() for leaf, record in modules[key].items()}


def _attention_norm(norms: list[str], attention: list[str], depth: int) -> str | None:
    """Return which of two norms follows the attention: the one on its branch, else the one that is named after it."""
    tokens = {key: tokens_of(key) for key in norms}
    for sibling in attention:
        near = {key: shared([tokens[key], tokens_of(sibling)]) for key in norms}
        if len(set(near.values())) == 2:
            return max(near, key=lambda key: near[key])
    named = [key for key in norms if {str(token).lower() for token in tokens[key][depth:]} & _ATTENTION]
    return named[0] if len(named) == 1 else None


def _embeddings(
    board: Board, rest: list[TensorRecord], width: int, doubts: list[str]
) -> tuple[dict[str, TensorRecord], dict[str, Any]]:
    """Return the embeddings under BERT's names, and the sizes that they show."""
    modules = _modules(rest, [])
    tables = [
        m["weight"] for m in modules.values()
        if set(m) == {"weight"} and len(m["weight"].shape) == 2 and m["weight"].shape[1] == width
    ]  # fmt: skip
    norms = [
        m for m in modules.values() if set(m) == {"weight", "bias"} and m["weight"].shape == m["bias"].shape == (width,)
    ]
    if len(tables) != 3 or len(norms) != 1:
        doubts.append(
            f"its embeddings (three tables of width {width} and one norm are needed; found"
            f" {listed(r.key for r in tables) or 'no table'} and {len(norms)} norms)"
        )
        return {}, {}
    depth = shared([tokens_of(record.key) for record in tables])
    kinds: dict[str, TensorRecord] = {}
    for kind, spelling in _KINDS.items():
        spelt = [
            r for r in tables
            if r not in kinds.values() and any(spelling.match(str(t).lower()) for t in tokens_of(r.key)[depth:])
        ]  # fmt: skip
        if len(spelt) == 1:
            kinds[kind] = spelt[0]
    left = sorted((r for r in tables if r not in kinds.values()), key=lambda r: r.shape[0])
    open_kinds = [kind for kind in ("token_type", "position", "word") if kind not in kinds]
    if len(left) > 1:
        if len({record.shape[0] for record in left}) < len(left):
            doubts.append(f"which of {listed(r.key for r in left)} is which table")
            return {}, {}
        told = ", ".join(f"{kind}: {record.name}" for kind, record in zip(open_kinds, left, strict=True))
        why = "the names do not say it; the largest table holds words, the smallest token types"
        board.assume("embeddings of the prompt encoder", told, (), why, "say it with 'rename'")
    kinds |= dict(zip(open_kinds, left, strict=True))
    named = {f"embeddings.{kind}_embeddings.weight": record for kind, record in kinds.items()}
    named |= {f"embeddings.LayerNorm.{leaf}": record for leaf, record in norms[0].items()}
    sizes = {
        "vocab_size": kinds["word"].shape[0],
        "max_position_embeddings": kinds["position"].shape[0],
        "type_vocab_size": kinds["token_type"].shape[0],
    }
    return named, sizes


def _pooler(rest: list[TensorRecord], width: int, inside: list[TensorRecord]) -> Module:
    """Return the pooler: a square layer that is called so, or the only one that hangs beside the embeddings."""
    known = {record.key for record in inside}
    modules = _modules([record for record in rest if record.key not in known], [])
    squares = {
        key: m for key, m in modules.items()
        if set(m) == {"weight", "bias"} and m["weight"].shape == (width, width)
    }  # fmt: skip
    called = [
        m for key, m in squares.items() if {str(t).lower() for t in tokens_of(key)} & {"pool", "pooler", "pooling"}
    ]
    start = [[*record.folder.split("/"), *record.name.split(".")] for record in inside]
    stem = start[0][: shared(start)] if start else []
    below = [
        m for m in squares.values()
        # In a name of its own, which the gate's MLP does not have in front.
        if len(stem) > len(m["weight"].folder.split("/"))
        and [*m["weight"].folder.split("/"), *m["weight"].name.split(".")][: len(stem)] == stem
    ]  # fmt: skip
    found = called or below
    return found[0] if len(found) == 1 else {}
