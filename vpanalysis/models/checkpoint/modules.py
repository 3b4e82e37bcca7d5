"""Modules whose inner names are known, wherever they were put and whatever stands before their names.

Why it exists. The language model, the encoder and BERT are Hugging Face's own classes, and inside them names are the
same in every checkpoint. What differs is what stands in front: nothing, ``model.``, ``sound_tower.sound_tower.``,
``llm.``, ``module.``, or a word of the author's.

The idea. Every tensor whose name ends with an inner name of the module votes for what is left in front of it, folder
included. The place with the most votes is the module's. Then all of its tensors must be there, in the right shapes, and
what is missing or differs is listed.

Worked example::

    expected = {"conv1.weight": (1280, 128, 3), "conv1.bias": (1280,), ...}
    claim_module(board, expected, "model.audio_tower.", "encoder", hints=("sound_tower",))
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from vpanalysis.models.checkpoint.board import Board
from vpanalysis.models.checkpoint.headers import TensorRecord, listed

__all__ = ["Place", "canonical", "claim_head", "claim_module", "find_places"]

Place = tuple[str, str]
"""A folder, and what stands before the names of one module in it."""

Shapes = Mapping[str, tuple[int, ...]]


def canonical(name: str) -> str:
    """Return a name with the last component that today's LayerNorm has: ``gamma`` and ``beta`` are its former ones."""
    head, dot, leaf = name.rpartition(".")
    return f"{head}{dot}{ {'gamma': 'weight', 'beta': 'bias'}.get(leaf, leaf) }"


def find_places(records: Sequence[TensorRecord], inner: Shapes) -> dict[Place, dict[str, TensorRecord]]:
    """Return, for every place, the tensors whose names end with a module's inner names.

    Parameters
    ----------
    records : sequence of TensorRecord
        Where to look.
    inner : mapping of str to tuple of int
        The module's inner names, with shapes.

    Returns
    -------
    dict of (str, str) to dict of str to TensorRecord
        From folder and prefix to tensors by inner name.
    """
    found: dict[Place, dict[str, TensorRecord]] = defaultdict(dict)
    for record in records:
        name = canonical(record.name)
        parts = name.split(".")
        for start in range(len(parts)):
            suffix = ".".join(parts[start:])
            if suffix in inner:
                found[record.folder, name.removesuffix(suffix)][suffix] = record
    return dict(found)


def shown(place: Place) -> str:
    """Return a place as people write it."""
    folder, prefix = place
    return repr(f"{folder}/{prefix}" if folder else prefix) if folder or prefix else "the checkpoint's own folder"


def claim_module(
    board: Board, inner: Shapes, target: str, role: str, *, hints: Sequence[str] = (), only: Place | None = None
) -> Place | None:
    """Find a module by its inner names and claim its tensors.

    Parameters
    ----------
    board : Board
        Where problems are noted.
    inner : mapping of str to tuple of int
        Inner names and shapes, without what the model's state dictionary has before them.
    target : str
        What the model's state dictionary has before them.
    role : str
        What to call it.
    hints : sequence of str, optional
        Folders that are preferred where several places would do.
    only : (str, str), optional
        The place, where it is known already.

    Returns
    -------
    (str, str) or None
        Where it is; None when nothing like it is there.
    """
    places = find_places(board.free, inner)
    if only is not None:
        places = {only: places.get(only, {})}

    def fit(place: Place) -> tuple[int, int, int]:
        there = places[place]
        right = sum(record.shape == inner[name] for name, record in there.items())
        return len(there), right, int(place[0] in hints)

    best = max(places, key=fit, default=None)
    # A few names, such as "norm.weight", are shared by all kinds of modules.
    if best is None or 2 * len(places[best]) < len(inner):
        board.problems.append(f"no {role} was found: no place holds the tensors {listed(inner, 3)}")
        return None
    rivals = [place for place in places if fit(place) == fit(best)]
    if len(rivals) > 1:
        where = listed(map(shown, sorted(rivals)))
        board.problems.append(f"the {role} was found more than once, in {where}")
        return None
    there = places[best]
    missing = sorted(name for name in inner if name not in there)
    wrong = sorted(name for name, record in there.items() if record.shape != inner[name])
    if missing:
        board.problems.append(f"missing tensors of the {role} in {shown(best)}: {listed(missing)}")
    if wrong:
        shapes = [f"{there[n].key} is {list(there[n].shape)} and should be {list(inner[n])}" for n in wrong]
        board.problems.append(f"wrong shapes in the {role}: {listed(shapes, 3)}")
    for name, record in there.items():
        board.claim(record, target + name, role, "the names inside the class")
    return best


def claim_head(board: Board, shape: tuple[int, ...], target: str, beside: Place, tied: TensorRecord | None) -> None:
    """Claim the language model's head, whose weight Qwen2 calls ``lm_head.weight``.

    Parameters
    ----------
    board : Board
        Where problems are noted.
    shape : tuple of int
        (vocabulary, width).
    target : str
        Its name in the model's state dictionary.
    beside : (str, str)
        Where the language model is; a head nearby is preferred.
    tied : TensorRecord, optional
        The token embedding, where the config ties the head to it.
    """
    heads = [r for r in board.free if r.name == "lm_head.weight" or r.name.endswith(".lm_head.weight")]
    heads = [r for r in heads if r.folder == beside[0]] or heads
    if len(heads) > 1:
        board.problems.append(f"the head was found more than once: {listed(r.key for r in heads)}")
    elif heads and heads[0].shape != shape:
        found = f"{heads[0].key} is {list(heads[0].shape)} and should be {list(shape)}"
        board.problems.append(f"wrong shapes in the head: {found}")
        board.claim(heads[0], target, "head", "its name")
    elif heads:
        board.claim(heads[0], target, "head", "its name")
    elif tied is not None:
        board.claim(tied, target, "head", "the token embedding, to which the config ties it")
    else:
        board.problems.append(f"missing tensors of the head: lm_head.weight, for the language model in {shown(beside)}")
