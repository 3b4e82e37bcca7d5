"""Item and Benchmark: what they promise, and that contradictions are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vpanalysis.benchmark import TASKS, ArrayAudio, Benchmark, FileAudio, Item
from vpanalysis.benchmark.items import ITEM_COLUMNS
from vpanalysis.errors import SchemaError


def make(**changes: object) -> Item:
    fields: dict[str, object] = {
        "id": "g1",
        "task_name": "gender_prediction",
        "question": "What is the speaker's gender?",
        "choices": ("Female", "Male"),
        "letters": ("A", "B"),
        "truth": "Female",
        "said": ("Male",),
        "condition": "conflict",
        "foils": ("Male",),
        "audio": ArrayAudio(np.zeros(1600, np.float32)),
    }
    return Item(**(fields | changes))


def twins(task: str, cells: int) -> list[Item]:
    """Conflict items of every cell first, then congruent, then neutral ones."""
    said = {"conflict": ("Male",), "congruent": ("Female",), "neutral": ()}
    return [
        make(id=f"{task}-{c}-{condition}", task_name=task, cell=str(c), condition=condition, said=words)
        for condition, words in said.items()
        for c in range(cells)
    ]


def test_claims_exist_on_conflict_items_only() -> None:
    assert make().claims == ("Male",)
    assert make(condition="congruent", said=("Female",)).claims == ()
    assert make(condition="neutral", said=()).claims == ()
    assert make(condition="voice-swap", said=("Male",), truth="Male").claims == ()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"id": ""}, "id"),
        ({"choices": ("Female",), "letters": ("A",)}, "choices"),
        ({"choices": ("Female", "Female")}, "choices"),
        ({"letters": ("A", "A")}, "letters"),
        ({"letters": ("A",)}, "letters"),
        ({"truth": "female"}, "truth"),
        ({"said": ("Child",)}, "said"),
        ({"foils": ("Child",)}, "foils"),
        ({"foils": ()}, "foils"),
        ({"said": ("Female",)}, "said"),
        ({"condition": "congruent"}, "said"),
        ({"condition": "neutral"}, "said"),
    ],
)
def test_contradictions_are_refused_and_named(changes: dict[str, object], field: str) -> None:
    with pytest.raises(SchemaError, match=f"field '{field}'"):
        make(**changes)


def test_items_compare_without_their_audio_source() -> None:
    assert make() == make(audio=FileAudio("elsewhere.wav"))
    assert make() != make(truth="Male", said=("Female",), foils=("Female",))


def test_duration_is_read_on_access() -> None:
    assert make().duration_s == pytest.approx(0.1)

    class Bare:
        def load(self) -> np.ndarray:
            return np.zeros(8000, np.float32)

        def key(self) -> str:
            return "00"

        def describe(self) -> str:
            return "bare"

    assert make(audio=Bare()).duration_s == pytest.approx(0.5)


def test_benchmark_is_a_sequence_with_ids() -> None:
    bench = Benchmark(twins("gender_prediction", 2), name="b", source="test")
    assert len(bench) == 6 and bench[0] is next(iter(bench))
    assert isinstance(bench[1:3], Benchmark) and bench[1:3].ids == bench.ids[1:3]
    assert bench["gender_prediction-1-neutral"].condition == "neutral"
    assert "gender_prediction-1-neutral" in bench and bench[0] in bench and "nothing" not in bench
    with pytest.raises(KeyError, match="did you mean"):
        bench["gender_prediction-1-neutrl"]


def test_ids_are_unique() -> None:
    with pytest.raises(SchemaError, match="more than once, such as 'g1'"):
        Benchmark([make(), make()], name="b", source="test")


def test_tasks_come_in_leaderboard_order() -> None:
    items = [make(id=t, task_name=t) for t in ("my_task", *reversed(TASKS))]
    assert Benchmark(items, name="b", source="test").tasks == (*TASKS, "my_task")
    assert len(TASKS) == 10 and TASKS[0] == "age_prediction" and TASKS[-1] == "total_speaker_counting"


def test_select_keeps_order_and_names_what_is_unknown() -> None:
    bench = Benchmark(
        twins("gender_prediction", 2) + twins("age_prediction", 2), name="b", source="test", revision="r1"
    )
    part = bench.select(tasks="age_prediction", conditions=["neutral", "conflict"])
    assert [i.condition for i in part] == ["conflict", "conflict", "neutral", "neutral"]
    assert part.revision == "r1"
    assert bench.filter(lambda i: i.cell == "0").conditions == ("conflict", "congruent", "neutral")
    with pytest.raises(SchemaError, match="did you mean 'age_prediction'"):
        bench.select(tasks=["age_predicton"])
    with pytest.raises(SchemaError, match="condition 'conflct'"):
        bench.select(conditions="conflct")
    with pytest.raises(SchemaError, match="limit -1"):
        bench.select(limit=-1)


def test_limit_is_spread_over_tasks_and_keeps_twins_together() -> None:
    bench = Benchmark(twins("gender_prediction", 4) + twins("age_prediction", 4), name="b", source="test")
    part = bench.select(limit=6)
    assert len(part) == 6
    assert {(i.task_name, i.cell) for i in part} == {("gender_prediction", "0"), ("age_prediction", "0")}
    assert len(bench.select(limit=0)) == 0 and bench.select(limit=1000) == bench


def test_dataframe_has_one_row_an_item_and_no_audio() -> None:
    bench = Benchmark(twins("gender_prediction", 1), name="b", source="test")
    frame = bench.to_dataframe()
    assert tuple(frame.columns) == ITEM_COLUMNS and "audio" not in frame
    assert frame["claims"].tolist() == [("Male",), (), ()]
    assert frame["choices"].tolist()[0] == ("Female", "Male")
    assert Benchmark([], name="b", source="test").to_dataframe().empty


def test_sha_changes_with_content_and_audio_only(tmp_path) -> None:
    def sha(*items: Item, name: str = "b") -> str:
        return Benchmark(items, name=name, source="test").sha

    base = sha(make())
    assert base == sha(make(), name="other") == sha(make(speaker="s"))
    assert base != sha(make(question="?"))
    assert base != sha(make(choices=("Male", "Female")))
    assert base != sha(make(audio=ArrayAudio(np.ones(1600, np.float32))))
    a, b = make(), make(id="g2")
    assert sha(a, b) != sha(b, a)
    # A clip that cannot be read still leaves a hash.
    assert sha(make(audio=FileAudio(tmp_path / "missing.wav"))) != base


def test_reprs_escape_strings_from_data() -> None:
    bench = Benchmark([make(task_name="<script>alert(1)</script>")], name="<b>", source="\x1b[31mx")
    html = bench._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html and "&lt;b&gt;" in html
    assert "\x1b" not in repr(bench) and "1 items" in repr(bench)


def test_letter_of_names_the_options() -> None:
    item = make(letters=("B", "D"))
    assert item.letter_of("Male") == "D"
    with pytest.raises(SchemaError, match="did you mean 'Male'"):
        item.letter_of("Mal")


def test_items_are_immutable() -> None:
    with pytest.raises(AttributeError):
        make().truth = "Male"
    assert replace(make(), question="?").question == "?"
    assert make(choices=["Female", "Male"]).choices == ("Female", "Male")
