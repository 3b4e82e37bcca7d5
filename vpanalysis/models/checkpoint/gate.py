"""The gate's MLP: a chain of linear layers from the prompt encoder's width to one output per stream.

Why it exists. Its depth, its widths and its names are the authors' and nowhere written down. But a chain of matrices
fits together in few ways, and most often in one: 512 to 256, 256 to 5.

The idea. Linear layers are the weights among the tensors that are left, each with the bias of its module. `chain_of`
looks for the orders in which each one's input is the last one's output, from the first width to the number of streams,
every layer once. Is there one, the shapes have decided. Are there several, numbers in the names decide, and that is
noted as an assumption. Is there none, the error lists what is there.

Worked example::

    chain_of([(5, 256), (256, 512)], 512, 5)            # [(1, 0)]
    chain_of([(512, 512), (512, 512), (5, 512)], 512, 5)   # [(0, 1, 2), (1, 0, 2)]
    claim_gate(board, 512, 5, "model.pclm.gate.mlp.")   # [256], the hidden widths
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from vpanalysis.models.checkpoint.board import Board
from vpanalysis.models.checkpoint.headers import TensorRecord, listed
from vpanalysis.models.checkpoint.names import Tokens, components_of, module_of, numberings, tokens_of

__all__ = ["chain_of", "claim_gate", "claim_weights"]

ROLE = "gate MLP"
# Beyond this many orders nobody asks how many there are.
_MOST_ORDERS = 500

Layer = dict[str, TensorRecord]


def chain_of(shapes: Sequence[tuple[int, ...]], first: int, last: int) -> list[tuple[int, ...]]:
    """Return the orders in which matrices form a chain.

    Parameters
    ----------
    shapes : sequence of (int, int)
        (output, input) of each matrix.
    first, last : int
        Input of the first, output of the last.

    Returns
    -------
    list of tuple of int
        Positions in `shapes`, every one once. Not all, where there are very many.
    """
    found: list[tuple[int, ...]] = []
    paths: list[tuple[tuple[int, ...], int]] = [((), first)]
    while paths and len(found) < _MOST_ORDERS:
        path, width = paths.pop()
        if len(path) == len(shapes):
            if width == last:
                found.append(path)
            continue
        paths += [
            ((*path, i), shapes[i][0]) for i in reversed(range(len(shapes))) if i not in path and shapes[i][1] == width
        ]
    return found


def claim_gate(board: Board, width: int, streams: int, target: str) -> list[int] | None:
    """Find the gate's MLP among the free tensors and claim it.

    Parameters
    ----------
    board : Board
        Where evidence, assumptions and problems are noted.
    width : int
        Of the prompt encoder's states.
    streams : int
        How many weights the gate gives.
    target : str
        What the model's state dictionary has before the MLP's names.

    Returns
    -------
    list of int or None
        Widths of its hidden layers; None when it was not found, with a problem.
    """
    layers = _linears(board.free)
    fitting = _chains(layers, width, streams)
    candidates = [keys for keys in fitting if not any(set(keys) < set(other) for other in fitting)]
    if not candidates:
        shown = listed((f"{record.key} {list(record.shape)}" for record in board.free), 8) or "nothing"
        board.problems.append(
            f"no {ROLE} was found, a chain of linear layers with biases from {width} to {streams} (one output per"
            f" stream), among what is left: {shown}"
        )
        return None
    if len(candidates) > 1:
        where = listed(next(iter(keys)) for keys in candidates)
        board.problems.append(f"the {ROLE} was found more than once, at {where}; say which with 'rename'")
        return None
    keys = candidates[0]
    orders = chain_of([layers[key]["weight"].shape for key in keys], width, streams)
    distinct = {tuple(keys[i] for i in order) for order in orders}
    evidence = f"a chain of layers from {width} to {streams}"
    if len(distinct) > 1:
        named = _by_number(keys)
        if named is None or named not in distinct:
            board.problems.append(
                f"the order of the layers of the {ROLE} cannot be told by shape, nor by a number in their names:"
                f" {listed(keys)}; name them with 'rename', as mlp.0, mlp.2, mlp.4 ..."
            )
            for key in keys:
                for record in layers[key].values():
                    board.claim(record, None, ROLE, "its shape")
            return None
        keys = named
        evidence += ", in the order of numbers"
        why = "their shapes fit together in several orders"
        board.assume("order of the layers of the gate MLP", " then ".join(keys), (), why, "say it with 'rename'")
    else:
        keys = next(iter(distinct))
    if len(fitting) > 1 and len({components_of(key)[:-1] for key in keys}) > 1:
        # Layers from several places; some would do without the others, which then would do something else.
        why = "they stand in several places, and some alone would fit as well"
        board.assume("layers of the gate MLP", " then ".join(keys), (), why, "look into the code of the release")
    for i, key in enumerate(keys):
        # A Sequential with an activation between any two linear layers counts both.
        for leaf, record in layers[key].items():
            board.claim(record, f"{target}{2 * i}.{leaf}", ROLE, evidence)
    hidden = [layers[key]["weight"].shape[0] for key in keys[:-1]]
    board.find("gate_mlp_dims", hidden, evidence)
    return hidden


def claim_weights(board: Board, name: str, streams: int, target: str) -> bool:
    """Claim the one vector of a gate that does not read the prompt, which the split layout calls `name`."""
    named = [record for record in board.free if record.name.rpartition(".")[2] == name]
    if len(named) == 1 and named[0].shape == (streams,):
        board.claim(named[0], target, "static gate", "its name")
        return True
    found = listed(f"{r.key} {list(r.shape)}" for r in named) or "none"
    board.problems.append(f"the gate needs one tensor {name!r} of the shape [{streams}]; there is {found}")
    return False


def _linears(records: Sequence[TensorRecord]) -> dict[str, Layer]:
    """Return the modules that have a matrix and a fitting bias, by key."""
    modules: dict[str, list[TensorRecord]] = defaultdict(list)
    for record in records:
        modules[module_of(record)].append(record)
    layers: dict[str, Layer] = {}
    for key, members in modules.items():
        matrices = [record for record in members if len(record.shape) == 2]
        vectors = [record for record in members if len(record.shape) == 1]
        if len(matrices) == len(vectors) == 1 == len(members) - 1 and vectors[0].shape[0] == matrices[0].shape[0]:
            layers[key] = {"weight": matrices[0], "bias": vectors[0]}
    return layers


def _chains(layers: dict[str, Layer], first: int, last: int) -> list[tuple[str, ...]]:
    """Return the sets of layers under one beginning that form a chain."""
    below: dict[Tokens, list[str]] = defaultdict(list)
    for key in layers:
        tokens = tokens_of(key)
        for length in range(len(tokens) + 1):
            below[tokens[:length]].append(key)
    sets = {tuple(keys) for keys in below.values()}
    return [keys for keys in sets if chain_of([layers[key]["weight"].shape for key in keys], first, last)]


def _by_number(keys: Sequence[str]) -> tuple[str, ...] | None:
    """Return keys in the order of the only number in which all of them differ, else None."""
    ways = [way for way in numberings([tokens_of(key) for key in keys]) if len(way) == len(keys)]
    if len(ways) != 1:
        return None
    return tuple(keys[i] for i in sorted(ways[0], key=lambda i: ways[0][i]))
