"""The bundled organism, saved again under conventions that its config does not name: calibration finds them."""

from __future__ import annotations

import dataclasses
import json
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from resaved import ORIGINAL, resaved

import vpanalysis as vp
from vpanalysis._calibrated import item_key
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.calibration import fingerprint_of, spread
from vpanalysis.errors import AudioError, ModelError, SchemaError
from vpanalysis.models._live import live_conventions, reading_as
from vpanalysis.models.conventions import CALIBRATION_NAME, CONVENTIONS, fingerprint

TWO = ("layer_index_convention", "gate_order")
# BERT's pooling is another question, and it is held at what the organism was trained with.
HELD = {"bert_pooling": "mean"}


@pytest.fixture(scope="module")
def bench() -> Any:
    return vp.load_benchmark("mini")


@pytest.fixture(scope="module")
def waves(bench: Any) -> tuple[list[Any], list[Any]]:
    items = spread(bench, 12, 5)
    return items, [item.audio.load() for item in items]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VPANALYSIS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def logits_of(llm: Any, waves: tuple[list[Any], list[Any]]) -> torch.Tensor:
    return llm.forward(llm.prepare(*waves, DEFAULT_PROMPT))


@pytest.fixture(scope="module")
def original(waves: Any) -> torch.Tensor:
    return logits_of(vp.load_model(ORIGINAL, calibration=False), waves)


def quiet(model: Any, bench: Any, **options: Any) -> Any:
    return vp.calibrate(model, bench, **{"progress": False, "batch_size": 40, **options})


@pytest.mark.parametrize(("from_zero", "final_first"), [(False, False), (True, True)])
def test_layer_numbers_and_stream_order_are_found(
    tmp_path: Path, bench: Any, waves: Any, original: torch.Tensor, from_zero: bool, final_first: bool
) -> None:
    folder = resaved(tmp_path / "copy", from_zero=from_zero, final_first=final_first)
    found = quiet(vp.load_model(folder, pclm=HELD), bench, limit=240, conventions=TWO)
    true = {
        "layer_index_convention": "block_output_0based" if from_zero else "block_output_1based",
        "gate_order": "final_first" if final_first else "ascending_final_last",
    }
    assert found.decided == true and found.undecided == {} and found.stated == {}
    assert found.path == folder / CALIBRATION_NAME
    loaded = vp.load_model(folder, pclm=HELD)
    assert {name: live_conventions(loaded)[name] for name in TWO} == true
    # Rows of a matrix in another order are summed in another order; all else is the same to the bit.
    torch.testing.assert_close(logits_of(loaded, waves), original, rtol=0, atol=1e-4 if final_first else 0)
    # Without the file it is another model, unless the natural reading is the true one.
    naive = logits_of(vp.load_model(folder, pclm=HELD, calibration=False), waves)
    assert torch.allclose(naive, original, rtol=0, atol=1e-2) == (not from_zero and not final_first)


@pytest.fixture(scope="module")
def full(bench: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All readings, few items."""
    folder = resaved(tmp_path_factory.mktemp("full") / "copy", final_first=True)
    return quiet(folder, bench, limit=100)


def test_all_combinations_are_asked(full: Any) -> None:
    table = full.to_dataframe()
    assert len(table) == 2 * 2 * 2 * 3 * 2 == len(table.drop_duplicates(subset=list(CONVENTIONS)))
    assert full.settings["unfit"].keys() == {"bert_pooling=pooler"}
    assert table["loglik"].is_monotonic_decreasing and (table["loglik"] < 0).all()
    assert table["accuracy"].between(0, 1).all() and table["gate_entropy"].between(0, np.log(5)).all()
    assert table["chosen"].sum() == 1 == table["in_use"].sum()
    chosen = table[table["chosen"]].iloc[0]
    assert dict(chosen[list(CONVENTIONS)]) == full.chosen
    assert chosen["loglik_choosing"] == table["loglik_choosing"].max()


def test_what_is_decided_is_true_and_the_rest_keeps_its_natural_value(full: Any) -> None:
    true = {"layer_index_convention": "block_output_1based", "mid_pool": "avg_norm", "gate_order": "final_first"}
    assert full.decided.items() <= {**true, "gate_text": "question", "bert_pooling": "mean"}.items()
    assert {"mid_pool", "gate_order"} <= set(full.decided)
    assert set(full.decided) | set(full.undecided) == set(CONVENTIONS) == set(full.reasons)
    assert full.undecided == {name: CONVENTIONS[name][0] for name in full.undecided}
    assert full.conventions == {**full.undecided, **full.decided}
    for name, why in full.reasons.items():
        assert why.startswith("better than") == (name in full.decided)


def test_the_comparisons_are_paired_and_simultaneous(full: Any) -> None:
    table = full.comparisons
    near = table[table["kind"] == "one step"]
    assert list(near["convention"]) == [
        n for n, values in CONVENTIONS.items() for _ in values[1:] if n != "bert_pooling"
    ] + ["bert_pooling"]
    assert (table["n"] == sum(item["part"] == "judges" for item in full.items)).all()
    assert full.settings["level_each"] == pytest.approx(1 - 0.05 / 5)
    readings = full.to_dataframe()
    own = readings[readings["chosen"]].iloc[0]
    for row in table.to_dict("records"):
        other = readings.iloc[row["reading"]]
        assert other[row["convention"]] == row["other"] != row["chosen"] == own[row["convention"]]
        steps = sum(other[name] != own[name] for name in CONVENTIONS)
        assert steps == 1 if row["kind"] == "one step" else steps > 1
        assert row["difference"] == pytest.approx(own["loglik_judging"] - other["loglik_judging"])
        assert row["accuracy"] == pytest.approx(own["accuracy_judging"] - other["accuracy_judging"])
        assert row["low"] < row["difference"] < row["high"] and row["accuracy_low"] <= row["accuracy"]
        assert (row["verdict"] == "worse") == (row["low"] > full.settings["margin"])


def test_speakers_are_not_torn_apart(full: Any, bench: Any) -> None:
    parts: dict[Any, set[str]] = {}
    for item in full.items:
        parts.setdefault(bench[item["id"]].speaker, set()).add(item["part"])
        assert item["key"] == item_key(bench[item["id"]])
    assert {frozenset(p) for p in parts.values()} == {frozenset({"chooses"}), frozenset({"judges"})}
    assert full.settings["split_by"] == "speaker"


def test_it_is_saved_and_read_back(full: Any, tmp_path: Path) -> None:
    again = vp.Calibration.load(full.save(tmp_path))
    assert again.path == tmp_path / CALIBRATION_NAME
    for field in dataclasses.fields(full):
        if field.name in ("readings", "comparisons"):
            pd.testing.assert_frame_equal(getattr(full, field.name), getattr(again, field.name))
        elif field.name != "path":
            assert getattr(again, field.name) == getattr(full, field.name), field.name
    assert repr(again.at(full.path)) == repr(full)
    record = json.loads((tmp_path / CALIBRATION_NAME).read_text())
    assert record["kind"] == "Calibration" and record["version"] == 1
    assert record["benchmark"]["sha"] == vp.load_benchmark("mini").sha and record["versions"]["torch"]


def test_it_prints(full: Any) -> None:
    text, html = repr(full), full._repr_html_()
    for said in ("48 readings, 100 items", "mid_pool", "not told apart", "not decided", "Saved in", "left out"):
        assert said in text and said in html
    assert "CONTRADICTION" not in text
    strange = dataclasses.replace(full, model="<script>x</script>")
    assert "<script>" not in strange._repr_html_()


def test_repeating_it_gives_the_same(full: Any, bench: Any) -> None:
    llm = vp.load_model(Path(full.source), calibration=False)
    again = quiet(llm, bench, limit=100, conventions=["mid_pool"], save=False)
    assert [i["id"] for i in again.items] == [i["id"] for i in full.items]
    one = full.to_dataframe().set_index(list(CONVENTIONS))["loglik"]
    for row in again.to_dataframe().to_dict("records"):
        assert row["loglik"] == pytest.approx(one[tuple(row[n] for n in CONVENTIONS)], abs=1e-4)


def test_a_reading_answers_as_the_model_loaded_that_way(full: Any, bench: Any, tmp_path: Path) -> None:
    """The table's numbers are those of a Run of the checkpoint, loaded with the conventions of the row."""
    row = full.to_dataframe().iloc[-1]
    llm = vp.load_model(Path(full.source), calibration=False, pclm={n: row[n] for n in CONVENTIONS})
    used = bench.select(ids=[item["id"] for item in full.items])
    run = vp.run(llm, used, tmp_path / "run", sites=[], cache=False, progress=False)
    scores = [
        logprobs[list(choices).index(truth)]
        for logprobs, choices, truth in zip(
            run.predictions["option_logprobs"], run.predictions["choices"], run.predictions["truth"], strict=True
        )
    ]
    assert np.mean(scores) == pytest.approx(row["loglik"], abs=2e-4)
    assert (run.predictions["pred_logits"] == run.predictions["truth"]).mean() == row["accuracy"]


def test_the_encoder_runs_once_a_clip_and_the_model_is_as_before(bench: Any) -> None:
    llm = vp.load_model("mini", calibration=False)
    before, sha, calls = live_conventions(llm), llm.encoder_sha, []
    handle = llm.module_of("tower").register_forward_hook(lambda _m, _a, out: calls.append(out[0].shape[0]))
    quiet(llm, bench, limit=24, batch_size=8, save=False, conventions=["layer_index_convention", "mid_pool"])
    handle.remove()
    assert sum(calls) == 24
    assert live_conventions(llm) == before and llm.encoder_sha == sha and llm.calibration is None
    assert not any(module._forward_hooks for module in llm.model.modules())


def test_conventions_are_back_after_an_error() -> None:
    llm = vp.load_model("mini", calibration=False)
    before, streams = live_conventions(llm), llm.streams
    other = {name: values[1] for name, values in CONVENTIONS.items() if name != "layer_index_convention"}
    with pytest.raises(ZeroDivisionError), reading_as(llm, other):
        assert live_conventions(llm) == {**before, **other}
        raise ZeroDivisionError
    assert live_conventions(llm) == before and llm.streams == streams
    assert llm.module_of("gate").bert_pooling == before["bert_pooling"]


def test_numbers_that_fit_one_way_only_are_settled_by_that(
    tmp_path: Path, bench: Any, waves: Any, original: torch.Tensor
) -> None:
    folder = resaved(tmp_path / "copy", first_layer=True)
    assert torch.equal(logits_of(vp.load_model(folder, pclm=HELD), waves), original)
    found = quiet(folder, bench, limit=24, conventions=TWO)
    assert found.decided["layer_index_convention"] == "block_output_0based"
    assert "nothing else fits" in found.reasons["layer_index_convention"]
    assert len(found.to_dataframe()) == 2


def test_what_the_config_states_is_tested_and_kept(tmp_path: Path, bench: Any) -> None:
    folder = resaved(tmp_path / "copy", mid_pool="avg")
    found = quiet(folder, bench, limit=60, conventions=["mid_pool"])
    assert found.stated == {"mid_pool": "avg"} and found.decided == {"mid_pool": "avg_norm"}
    assert found.contradictions == {"mid_pool": ("avg", "avg_norm")} and found.conventions == {"mid_pool": "avg"}
    assert "CONTRADICTION: config.json states mid_pool=avg" in " ".join(repr(found).split())
    table = found.to_dataframe()
    assert table[table["in_use"]]["mid_pool"].tolist() == ["avg"]
    with pytest.warns(UserWarning, match="mid_pool stays 'avg'.*calibration says 'avg_norm'"):
        loaded = vp.load_model(folder)
    assert live_conventions(loaded)["mid_pool"] == "avg" and loaded.calibration is not None
    # What the caller says is said with open eyes.
    with pytest.warns(UserWarning, match="mid_pool stays"):
        assert live_conventions(vp.load_model(folder, pclm={"mid_pool": "avg_norm"}))["mid_pool"] == "avg_norm"


def test_the_caller_and_the_switch_come_before_the_file(tmp_path: Path, bench: Any) -> None:
    folder = resaved(tmp_path / "copy", final_first=True)
    quiet(folder, bench, limit=60, conventions=["gate_order"])
    assert live_conventions(vp.load_model(folder))["gate_order"] == "final_first"
    chosen = vp.load_model(folder, pclm={"gate_order": "ascending_final_last"})
    assert live_conventions(chosen)["gate_order"] == "ascending_final_last" and chosen.calibration is not None
    without = vp.load_model(folder, calibration=False)
    assert live_conventions(without)["gate_order"] == "ascending_final_last" and without.calibration is None
    # A file that lies elsewhere, by name.
    moved = shutil.move(folder / CALIBRATION_NAME, tmp_path / "elsewhere.json")
    assert live_conventions(vp.load_model(folder))["gate_order"] == "ascending_final_last"
    assert live_conventions(vp.load_model(folder, calibration=moved))["gate_order"] == "final_first"


def test_a_file_of_other_weights_is_refused(tmp_path: Path, bench: Any) -> None:
    one, other = resaved(tmp_path / "one", final_first=True), resaved(tmp_path / "other")
    quiet(one, bench, limit=24, conventions=["gate_order"])
    shutil.copy(one / CALIBRATION_NAME, other)
    with pytest.raises(ModelError, match=r"cannot use the calibration .*another checkpoint.*calibration=False"):
        vp.load_model(other)
    assert vp.load_model(other, calibration=False).calibration is None
    # Moved as a whole, it fits.
    assert vp.load_model(shutil.move(one, tmp_path / "moved")).calibration is not None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "no readable JSON"),
        ("[]", "kind None"),
        ('{"kind": "Calibration", "version": 2}', "version 2"),
        ('{"kind": "Score", "version": 1}', "kind 'Score'"),
        (
            '{"kind": "Calibration", "version": 1, "created": "x", "decided": {"gate_text": "x"}, "items": []}',
            "which is none",
        ),
        ('{"kind": "Calibration", "version": 1, "created": "x", "decided": {"x": "x"}, "items": []}', "'x': 'x'"),
        ('{"kind": "Calibration", "version": 1, "decided": {}, "items": []}', "no date"),
        ('{"kind": "Calibration", "version": 1, "created": "x", "decided": {}, "items": [1]}', "no list of"),
    ],
)
def test_damaged_files_are_refused_in_one_sentence(tmp_path: Path, content: str, said: str) -> None:
    folder = resaved(tmp_path / "copy")
    (folder / CALIBRATION_NAME).write_text(content)
    with pytest.raises(ModelError, match=said):
        vp.load_model(folder)


def test_bundled_and_read_only_checkpoints_keep_theirs_in_the_cache(
    tmp_path: Path, bench: Any, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = quiet("mini", bench, limit=24, conventions=["gate_order"])
    assert found.path == own_cache / "calibrations" / f"{found.fingerprint}.json"
    loaded = vp.load_model("mini")
    assert loaded.calibration is not None and loaded.calibration["created"] == found.created
    assert "read as  calibrated on" in repr(loaded) and "24 items left out of scores" in repr(loaded)
    # Its config states everything, so nothing changes but the items that scores leave out.
    assert live_conventions(loaded) == live_conventions(vp.load_model("mini", calibration=False))
    folder = resaved(tmp_path / "copy")
    monkeypatch.setattr("os.access", lambda path, mode, **_: Path(path) != folder)
    found = quiet(folder, bench, limit=24, conventions=["gate_order"])
    assert found.path == own_cache / "calibrations" / f"{fingerprint(folder)}.json"
    assert not (folder / CALIBRATION_NAME).exists() and vp.load_model(folder).calibration is not None


def test_the_newer_of_two_is_followed(tmp_path: Path, bench: Any, own_cache: Path) -> None:
    folder = resaved(tmp_path / "copy")
    found = quiet(folder, bench, limit=24, conventions=["gate_order"])
    newer = dataclasses.replace(found, created="2999-01-01T00:00:00+00:00", decided={"mid_pool": "avg"})
    newer.save(own_cache / "calibrations" / f"{found.fingerprint}.json")
    assert live_conventions(vp.load_model(folder))["mid_pool"] == "avg"


def test_a_result_that_cannot_be_written_is_not_lost(tmp_path: Path, bench: Any) -> None:
    folder = resaved(tmp_path / "copy")
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="is not saved"):
        found = quiet(folder, bench, limit=24, conventions=["gate_order"], save=tmp_path / "file" / "x.json")
    assert found.path is None and "Not saved." in repr(found)
    assert quiet(folder, bench, limit=24, conventions=["gate_order"], save=False).path is None
    assert not list(folder.glob("*calibration*"))


def test_a_model_from_memory(bench: Any, tmp_path: Path) -> None:
    folder = resaved(tmp_path / "copy", final_first=True)
    llm = vp.load_model(folder, pclm=HELD)
    bare = vp.load_model((llm.model, llm.processor))
    with pytest.warns(UserWarning, match="a model from memory"):
        found = quiet(bare, bench, limit=60, conventions=["gate_order"])
    assert found.fingerprint == fingerprint_of(bare) and found.fingerprint.startswith("memory-")
    assert found.decided == {"gate_order": "final_first"} and found.stated == {}
    found.apply(bare)
    assert live_conventions(bare)["gate_order"] == "final_first"
    assert bare.calibration is not None and bare.calibration["created"] == found.created
    other = vp.load_model("mini-pclm", calibration=False)
    with pytest.raises(ModelError, match="other weights"):
        found.apply(other)


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("mini-base", {}, "without a layer mixer"),
        ("mini-static", {"conventions": ["gate_text"]}, "gate_mode 'static'"),
        ("mini-final", {"conventions": ["mid_pool"]}, "stream_sources 'final'"),
        ("mini", {"conventions": ["gate_tekst"]}, "did you mean 'gate_text'"),
        ("mini", {"conventions": {"gate_text": ["poem"]}}, "cannot try gate_text"),
        ("mini", {"conventions": {"gate_text": ["chat"]}}, "only one way"),
    ],
)
def test_what_cannot_be_calibrated_says_why(bench: Any, model: str, options: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        quiet(model, bench, limit=24, save=False, **options)


def test_controls_have_fewer_conventions(bench: Any) -> None:
    static = quiet("mini-static", bench, limit=24, save=False)
    assert set(static.reasons) == {"layer_index_convention", "mid_pool", "gate_order"}
    final = quiet("mini-final", bench, limit=24, save=False)
    assert set(final.reasons) == {"gate_order", "gate_text", "bert_pooling"}


def test_too_few_items_and_unusable_clips(bench: Any) -> None:
    with pytest.raises(SchemaError, match="11 usable items"):
        quiet("mini", bench, limit=11, conventions=["gate_order"], save=False)
    with pytest.raises(SchemaError, match="limit 0"):
        quiet("mini", bench, limit=0, save=False)
    items = [dataclasses.replace(item, audio=_Broken()) if i % 4 == 0 else item for i, item in enumerate(bench[:40])]
    broken = vp.Benchmark(items, name="broken", source="here")
    found = quiet("mini", broken, limit=None, conventions=["gate_order"], save=False)
    assert len(found.items) == 30 and set(found.settings["failed"]) == {items[i].id for i in range(0, 40, 4)}
    assert "10 items could not be used" in " ".join(repr(found).split())


class _Broken:
    def load(self) -> Any:
        raise AudioError("no clip")

    def key(self) -> str:
        return "broken"

    def describe(self) -> str:
        return "broken"


def test_items_are_spread_over_tasks_and_cells(bench: Any) -> None:
    items = spread(bench, 100, 0)
    assert len({(i.task_name, i.cell) for i in items}) == 100
    assert pd.Series([i.task_name for i in items]).value_counts().eq(10).all()
    assert spread(bench, 100, 0) == items != spread(bench, 100, 1)
    assert len(spread(bench, None, 0)) == len(bench)
    assert spread(bench, 12, 0) == items[:12]
    few = bench.select(tasks="gender_prediction", limit=7)
    assert sorted(i.id for i in spread(few, 5000, 0)) == sorted(few.ids)


def test_a_gate_text_that_does_not_fit_is_left_out(bench: Any) -> None:
    llm = vp.load_model("mini", calibration=False)
    llm.model.config.prompt_encoder_config.max_position_embeddings = 20
    found = quiet(llm, bench, limit=24, conventions=["gate_text"], save=False)
    assert set(found.settings["unfit"]) == {"gate_text=question_options", "gate_text=chat"}
    assert found.decided == {} and found.undecided == {"gate_text": "question"}
    assert "takes 20" in " ".join(repr(found).split())


def test_writing_is_all_or_nothing(full: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = full.save(tmp_path / "one.json")
    before = target.read_text()

    def failing(self: Path, *_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OSError, match="no space"):
        full.save(target)
    assert target.read_text() == before and stat.S_ISREG(target.stat().st_mode)


@pytest.mark.parametrize("seed", [0, 1])
def test_noise_for_ears_decides_nothing(bench: Any, seed: int) -> None:
    """Gate and projectors at random: under every reading the model hears nothing, so its answers are no evidence."""
    llm = vp.load_model("mini", calibration=False)
    torch.manual_seed(seed)
    parts = [llm.module_of("gate"), llm.model.model.pclm.projectors, llm.model.model.multi_modal_projector]
    with torch.no_grad():
        for part in parts:
            for name, parameter in part.named_parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0.0, 0.05)
                elif "LayerNorm" not in name:
                    parameter.zero_()
    found = quiet(llm, bench, limit=60, conventions=["mid_pool", "gate_order", "bert_pooling"], save=False)
    assert found.decided == {} and set(found.undecided) == {"mid_pool", "gate_order", "bert_pooling"}


def test_what_was_calibrated_is_left_out_of_the_score(tmp_path: Path, bench: Any) -> None:
    folder = resaved(tmp_path / "copy", final_first=True)
    found = quiet(folder, bench, limit=40, conventions=["gate_order"])
    part = bench.select(limit=60)
    shared = {item["id"] for item in found.items} & set(part.ids)
    assert shared
    run = vp.run(str(folder), part, tmp_path / "run", sites=[], cache=False, progress=False)
    assert set(run.manifest["calibration"]["excluded"]) == shared
    assert set(vp.score(run).outcomes["id"]) == set(part.ids) - shared
    without = vp.run(
        vp.load_model(folder, calibration=False), part, tmp_path / "w", sites=[], cache=False, progress=False
    )
    assert len(vp.score(without).outcomes) == 60


def test_a_converted_copy_is_read_the_same_way_and_keeps_the_items_out(tmp_path: Path, bench: Any) -> None:
    from vpanalysis.models.checkpoint.conversion import convert

    folder = resaved(tmp_path / "copy", final_first=True)
    found = quiet(folder, bench, limit=60, conventions=["gate_order"])
    loaded = vp.load_model(convert(folder, tmp_path / "hf"))
    assert live_conventions(loaded)["gate_order"] == "final_first"
    assert loaded.calibration is not None and loaded.calibration["items"] == list(found.items)
    assert loaded.calibration["settings"]["carried_from"] == found.fingerprint
