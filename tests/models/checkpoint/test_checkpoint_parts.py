"""The rules by which parts are told apart: numbers in places, chains of layers, sets of shapes."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vpanalysis.models.checkpoint.bases import BASES
from vpanalysis.models.checkpoint.board import Board
from vpanalysis.models.checkpoint.gate import chain_of, claim_gate
from vpanalysis.models.checkpoint.headers import TensorRecord
from vpanalysis.models.checkpoint.names import numberings, place_of, subtrees_of, tokens_of
from vpanalysis.models.checkpoint.projectors import claim_streams, find_projectors

AF3, QWEN = BASES
WIDE = [(7, 5), (7, 7)]


def record(key, *shape):
    folder, _, name = key.rpartition("/")
    return TensorRecord(Path(f"{folder}/model.safetensors"), folder, name, shape, "F32", 0)


def projector(place, children=("a", "b"), weights=WIDE):
    made = []
    for child, shape in zip(children, weights, strict=True):
        dot = "" if place.endswith(("/", "_")) else "."
        made += [record(f"{place}{dot}{child}.weight", *shape), record(f"{place}{dot}{child}.bias", shape[0])]
    return made


def told(places, exposed, base=AF3, weights=WIDE, **options):
    """Return which place each stream was given, and the board."""
    board = Board([r for place in places for r in projector(place, weights=weights, **options)])
    found = find_projectors(board, base, weights, bias=True)
    layers = claim_streams(board, found, exposed, base, weights)
    given = {}
    for claim in board.claims:
        if claim.target is not None:
            owner = max((place for place in places if claim.record.key.startswith(place)), key=len)
            given.setdefault(claim.target.removesuffix(claim.target.rpartition("linear")[2])[: -len("linear")], owner)
    return layers, given, board


def streams(given, exposed):
    mids = [given.get(f"model.pclm.projectors.{i}.") for i in range(len(exposed))]
    return [*mids, given.get("model.multi_modal_projector.")]


NUMBERED = {
    "folders": ["sound_mid_mm_projector_{}/", "sound_mm_projector/"],
    "a list": ["mids.{}", "final"],
    "glued": ["p/mid{}_x", "p/last"],
    "a number that means nothing": ["af3.v2.mids.{}", "af3.v2.final"],
    "the last one numbered too": ["layer_{}.proj", "layer_32.proj"],
}  # fmt: skip


@pytest.mark.parametrize("form", list(NUMBERED))
@pytest.mark.parametrize("exposed", [[5, 15, 25, 30], [1, 3], [3], [2, 3]])
def test_numbers_of_layers(form, exposed):
    mid, final = NUMBERED[form]
    places = [mid.format(k) for k in exposed]
    for order in ([*places, final], [final, *reversed(places)]):
        layers, given, board = told(order, exposed)
        assert layers == exposed and streams(given, exposed) == [*places, final], board.problems
        assert not board.problems and not board.assumptions and not board.free


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("final_too", [False, True])
def test_numbers_that_count_are_ascending_by_assumption(start, final_too):
    exposed = [5, 15, 25, 30]
    places = [f"mids.{i + start}" for i in range(4)]
    final = f"mids.{4 + start}" if final_too else "last"
    _, given, board = told([final, *reversed(places)], exposed)
    assert streams(given, exposed) == [*places, final]
    assert [a.subject for a in board.assumptions] == ["layers of the projectors"]


def test_numbers_that_could_be_layers_or_counts():
    # By number the final stream's is mids.0, by order mids.3.
    _, given, board = told([f"mids.{i}" for i in range(4)], [1, 2, 3])
    assert not given and "which is which cannot be told" in board.problems[0]
    for start, exposed in ((1, [1, 2, 3]), (0, [0, 1, 2])):
        places = [f"mids.{i + start}" for i in range(4)]
        _, given, board = told(places, exposed)
        assert streams(given, exposed) == places and not board.assumptions


def test_numbers_beyond_nine_are_in_the_order_of_numbers():
    exposed = list(range(1, 13))
    places = [f"mids.{i}" for i in range(12)]
    _, given, _ = told([*places, "last"], exposed)
    assert streams(given, exposed) == [*places, "last"]


def test_numbers_within_words_of_their_own():
    # No two places are alike, and still only one way is possible.
    _, given, board = told(["x5q", "w15", "zz25", "a30b", "last"], [5, 15, 25, 30])
    assert streams(given, [5, 15, 25, 30]) == ["x5q", "w15", "zz25", "a30b", "last"] and not board.problems


@pytest.mark.parametrize(
    ("places", "said"),
    [
        (["one", "two", "three"], "which is which cannot be told"),
        (["m1x3", "m3x1", "last"], "which is which cannot be told"),
        (["mids.5", "mids.7", "last"], "which is which cannot be told"),
        (["mids.1", "mids.3", "mids.4", "last"], "2 projectors could be the final stream's"),
        (["mids.1", "mids.3"], "no projector of the final stream"),
        (["mids.1", "last"], "no projector of layer 3"),
        ([], "no projector of layer 1 .*, layer 3 .*, the final stream"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_a_problem(places, said):
    layers, _, board = told(places, [1, 3])
    assert len(board.problems) == 1 and re.search(said, board.problems[0]), board.problems
    assert layers is None or layers == [1, 3]


def test_layers_of_equal_shape_need_a_number():
    square = [(6, 6), (6, 6)]
    _, _, board = told(["mids.1", "last"], [1], weights=square)
    assert len(board.problems) == 2 and "cannot be told by shape, nor by a number" in board.problems[0]
    _, given, board = told(["mids.1", "last"], [1], weights=square, children=("fc1", "fc2"))
    assert streams(given, [1]) == ["mids.1", "last"] and not board.problems
    by_target = {claim.target: claim.record.name for claim in board.claims}
    assert by_target["model.pclm.projectors.0.linear_1.weight"] == "mids.1.fc1.weight"
    assert [a.subject for a in board.assumptions] == ["order of the layers in a projector"]
    # The names of the base's own code and of the released one need none.
    for children in (("linear_1", "linear_2"), ("layers.0", "layers.2")):
        _, _, board = told(["mids.1", "last"], [1], weights=square, children=children)
        assert not board.problems and not board.assumptions


def test_the_first_layer_of_the_longer_form_is_no_projector_of_the_shorter():
    records = [*projector("a"), *projector("b.c", weights=[(7, 5)], children=("x",))]
    assert len(subtrees_of(records, [(7, 5), (7, 7), (7,), (7,)])) == 1
    board = Board(projector("only", weights=[(7, 5)], children=("x",)))
    found = find_projectors(board, QWEN, [(7, 5)], bias=True)
    claim_streams(board, found, [], QWEN, [(7, 5)])
    assert {c.target for c in board.claims} == {f"model.multi_modal_projector.linear.{x}" for x in ("weight", "bias")}


def test_places_are_whole_components_where_these_suffice():
    group = [record("p/mids.5.fc_one.weight", 7, 5), record("p/mids.5.fc_two.weight", 7, 7)]
    assert place_of(tuple(group), group) == ("p", "mids", 5)
    flat = [record("p/mid5_fc1.weight", 7, 5), record("p/mid5_fc2.weight", 7, 7), record("p/mid7_fc1.weight", 7, 5)]
    assert place_of(tuple(flat[:2]), flat) == ("p", "mid", 5, "fc")


def test_numberings_tell_places_apart():
    places = [tokens_of(place) for place in ("a3.m.5", "a3.m.15", "a3.x", "b.7.7")]
    assert numberings(places) == [{0: 5, 1: 15}, {2: 3}, {3: 7}]


@given(st.lists(st.integers(2, 4), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_chains_are_all_orders_that_fit(widths, random):
    shapes = list(itertools.pairwise(widths))
    shapes = [(b, a) for a, b in shapes]
    shuffled = random.sample(range(len(shapes)), len(shapes))
    mixed = [shapes[i] for i in shuffled]
    found = chain_of(mixed, widths[0], widths[-1])

    def fits(order):
        path = [widths[0], *(mixed[i][0] for i in order)]
        return all(mixed[i][1] == path[n] for n, i in enumerate(order)) and path[-1] == widths[-1]

    assert sorted(found) == sorted(o for o in itertools.permutations(range(len(mixed))) if fits(o))
    assert tuple(shuffled.index(i) for i in range(len(shapes))) in found


def gate(names, widths):
    made = []
    for name, (before, after) in zip(names, itertools.pairwise(widths), strict=True):
        made += [record(f"g/{name}.weight", after, before), record(f"g/{name}.bias", after)]
    return made


def claimed(records, width, outputs):
    board = Board(records)
    hidden = claim_gate(board, width, outputs, "mlp.")
    return hidden, {claim.target: claim.record.name for claim in board.claims}, board


def test_gates_by_shape_and_by_number():
    hidden, placed, board = claimed(gate(["z", "y", "x"], [8, 6, 4, 3]), 8, 3)
    assert hidden == [6, 4] and placed["mlp.0.weight"] == "z.weight" and placed["mlp.4.bias"] == "x.bias"
    assert not board.assumptions
    hidden, placed, board = claimed(gate(["n.9", "n.10", "n.11"], [8, 8, 8, 3])[::-1], 8, 3)
    assert hidden == [8, 8] and placed["mlp.2.weight"] == "n.10.weight"
    assert [a.subject for a in board.assumptions] == ["order of the layers of the gate MLP"]
    # Numbers that contradict the shapes are not followed.
    _, _, board = claimed(gate(["n.3", "n.2", "n.1"], [8, 8, 8, 3]), 8, 3)
    assert "cannot be told by shape, nor by a number" in board.problems[0]


def test_a_gate_beside_other_layers():
    others = [record("g/other.weight", 5, 9), record("g/other.bias", 5), record("g/loose.weight", 8, 8)]
    hidden, placed, board = claimed([*others, *gate(["mlp.a", "mlp.b"], [8, 6, 3])], 8, 3)
    assert hidden == [6] and placed["mlp.0.weight"] == "mlp.a.weight"
    assert [r.name for r in board.free] == ["other.weight", "other.bias", "loose.weight"]


def test_a_gate_in_several_places_is_an_assumption():
    layers = [*gate(["before"], [8, 8]), *gate(["head.a", "head.b"], [8, 8, 3])]
    _, _, board = claimed(layers, 8, 3)
    assert "cannot be told" in board.problems[0]
    layers = [*gate(["before.x"], [8, 8]), *gate(["head.a", "head.b"], [8, 6, 3])]
    hidden, placed, board = claimed(layers, 8, 3)
    assert hidden == [8, 6] and placed["mlp.0.weight"] == "before.x.weight"
    assert [a.subject for a in board.assumptions] == ["layers of the gate MLP"]
    # One place is one module, however its layers are called.
    _, _, board = claimed(gate(["head.a", "head.b"], [8, 8, 3]), 8, 3)
    assert not board.assumptions


def test_two_gates_are_one_too_many():
    twice = [*gate(["one.a", "one.b"], [8, 6, 3]), *gate(["two.a", "two.b"], [8, 6, 3])]
    hidden, _, board = claimed(twice, 8, 3)
    assert hidden is None and "found more than once" in board.problems[0]


def test_the_open_questions_are_those_of_the_configuration():
    from vpanalysis.models.checkpoint.open_questions import CANDIDATES
    from vpanalysis.models.pclm_config import PCLMConfig

    fields = {field.name for field in dataclasses.fields(PCLMConfig)}
    assert set(CANDIDATES) <= fields
