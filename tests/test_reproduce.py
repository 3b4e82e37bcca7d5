"""The main job: shared sites once, results kept by content, tables and pictures that hold the same numbers."""

from __future__ import annotations

import json
import shutil
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from vpanalysis import reproduce as job
from vpanalysis.benchmark import mini
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.errors import ModelError, RunError, SchemaError, VPError
from vpanalysis.organism import CHECKPOINTS
from vpanalysis.probes import own_accuracy

TASKS = ("gender_prediction", "emotion_recognition")
SITES = ["encoder.stem", "encoder[0]", "tower", "mixed", "text[0]", "gate", "options"]
SEGMENTS, WIDTH = 6, 8


class FakeRun:
    """A Run whose states hold the truth in the encoder and the words in the language model."""

    def __init__(self, path: Path) -> None:
        self.path, self.name, self.sites = path, path.name, SITES
        self.manifest = json.loads((path / "manifest.json").read_text())
        self.predictions = pd.read_pickle(path / "predictions.pickle")
        self.is_complete = True
        ids = list(self.predictions["id"])
        gates = np.tile([0.2, 0.8], (len(ids), 1))
        self.gates = pd.DataFrame(gates, index=ids, columns=["encoder[0]", "tower"]) if "pclm" in self.name else None

    def states(self, site: str, reducer: str = "mean") -> np.ndarray:
        LOG.append(("states", self.name, site))
        # States of the encoder depend on the clip alone; the others on the checkpoint as well.
        owner = "encoder" if site.startswith("encoder") or site == "tower" else self.name
        rng = np.random.default_rng(zlib.crc32(f"{owner}{site}".encode()))
        code = {label: rng.normal(size=WIDTH) for label in ["", *sorted({*self.predictions["truth"]})]}
        rows = []
        for truth, said in zip(self.predictions["truth"], self.predictions["said"], strict=True):
            label = ("" if not len(said) else said[0]) if site.startswith("text") else truth
            rows.append(rng.normal(size=(SEGMENTS, WIDTH)) + 3 * code[label])
        frames = np.stack(rows).astype(np.float32)
        return frames if reducer == "segments" else frames.mean(axis=1)


LOG: list[tuple[str, ...]] = []


def streams_of(name: str) -> tuple[str, ...]:
    return ("encoder[0]", "tower") if "pclm" in name else ("tower",)


def bench(limit: int | None = None) -> Benchmark:
    items = mini.load(tasks=TASKS, n=16)
    return items if limit is None else items.select(limit=limit)


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A benchmark of two tasks, models that are names, and Runs that are written at once."""
    LOG.clear()
    install(monkeypatch)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(model: Any, benchmark: Benchmark, out: Path, block_size: int, force: bool, progress: bool) -> FakeRun:
        LOG.append(("run", model.name, *(["anew"] if force else [])))
        if force or not (out / "manifest.json").is_file():
            out.mkdir(parents=True, exist_ok=True)
            table = benchmark.to_dataframe()
            reads = model.name == "mini-base"
            table["pred_logits"] = [
                item.said[0] if reads and item.said else item.truth if not reads or n % 2 else item.choices[0]
                for n, item in enumerate(benchmark)
            ]
            table["status"], table["reason"] = "ok", None
            table.to_pickle(out / "predictions.pickle")
            manifest = {
                "model": {"name": model.name, "encoder_sha": "e", "dtype": "float32"}, "benchmark": {"sha": "b"},
            }  # fmt: skip
            (out / "manifest.json").write_text(json.dumps(manifest))
        return FakeRun(out)

    def open_run(path: Path) -> FakeRun:
        if not (path / "manifest.json").is_file():
            raise RunError("cannot open", found=str(path))
        return FakeRun(path)

    def encode_clips(model: Any, items: Benchmark, streams: tuple[str, ...]) -> int:
        LOG.append(("encode", *streams, str(len(items))))
        return len(items)

    runs, loading = ModuleType("vpanalysis.runs"), ModuleType("vpanalysis.models.loading")
    vars(runs).update(run=run, open_run=open_run, encode_clips=encode_clips)
    vars(loading).update(load_model=lambda name, **_options: SimpleNamespace(name=name, stream_inputs=streams_of(name)))
    monkeypatch.setitem(sys.modules, "vpanalysis.runs", runs)
    monkeypatch.setitem(sys.modules, "vpanalysis.models.loading", loading)
    monkeypatch.setattr("vpanalysis.benchmark.sources.load_benchmark", lambda source, limit=None: bench(limit))


def call(out: Path, **options: Any) -> job.Reproduction:
    options = {"models": ["mini-base", "mini-pclm"], "workers": 1, "progress": False, **options}
    return job.reproduce(out, **options)


@dataclass(frozen=True)
class Done:
    """A finished call, for tests that only look; copy it to change something."""

    result: job.Reproduction
    log: tuple[tuple[str, ...], ...]

    def copy(self, out: Path) -> Path:
        shutil.copytree(self.result.out, out, dirs_exist_ok=True)
        return out


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    with pytest.MonkeyPatch.context() as monkeypatch:
        install(monkeypatch)
        LOG.clear()
        return Done(call(tmp_path_factory.mktemp("runs")), tuple(LOG))


@pytest.fixture
def sketched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw nothing: one small file a unit instead of pictures."""

    def make(kind: str, out: Path, kept: Any, name: str) -> list[Path]:
        path = out / "tables" / f"{kind}{name}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(kind)
        return [path]

    monkeypatch.setattr("vpanalysis._report._make", make)


def test_it_leaves_runs_tables_and_pictures(done: Done) -> None:
    result = done.result
    assert list(result.kept) == ["mini-base", "mini-pclm"]
    names = {path.relative_to(result.out).as_posix() for path in result.files}
    tables = {"overall", "scores", "per_task", "probes_truth", "probes_claim", "own_accuracy", "gates"}
    assert {f"tables/{name}.csv" for name in tables} <= names
    for stem in ("acc_vs_ala", "hearing", "layers_mini-base", "layers_mini-pclm", "gates_mini-pclm"):
        assert {f"pictures/{stem}.png", f"pictures/{stem}.pdf"} <= names
    assert "pictures/gates_mini-base.png" not in names
    assert all(path.stat().st_size > 0 for path in result.files)
    assert list(result.seconds) == ["listen", "run", "score", "probe", "draw"]


def test_the_numbers_are_those_of_the_runs(done: Done) -> None:
    result, out = done.result, done.result.out
    scores = result.scores
    assert scores["mini-base"].value("ala") == 1
    assert scores["mini-pclm"].value("acc_gt") == 1
    overall = pd.read_csv(out / "tables" / "overall.csv").set_index("name")
    assert overall.loc["mini-base", "acc_gt"] == scores["mini-base"].value("acc_gt") == 0
    per_task = pd.read_csv(out / "tables" / "per_task.csv")
    assert list(per_task.columns[:2]) == ["checkpoint", "task"]
    assert len(per_task) == 4
    own = pd.read_csv(out / "tables" / "own_accuracy.csv").set_index("checkpoint")
    assert (own.loc["mini-pclm", "accuracy"] == 1).all()
    printed = repr(result)
    assert "mini-pclm" in printed
    assert "planted" in printed
    assert str(out) in printed
    assert "mini-base" in result._repr_html_()
    assert set(result.to_dataframe()["name"]) == {"mini-base", "mini-pclm"}


def test_shared_sites_are_probed_once_and_belong_to_every_result(done: Done) -> None:
    result = done.result
    read = [(name, site) for verb, name, *rest in done.log if verb == "states" for site in rest]
    assert [name for name, site in read if site == "tower"] == ["mini-base"]
    assert {name for name, site in read if site == "mixed"} == {"mini-base", "mini-pclm"}
    assert not any(site in ("gate", "options") for _, site in read)
    for target in (result.truth, result.claim):
        for probes in target.values():
            assert probes.sites == SITES[:5]
            assert probes.tasks == list(TASKS)
            assert len(probes.table) == 10
    one, two = (result.truth[name].table.query("site == 'tower'")["accuracy"] for name in result.kept)
    assert list(one) == list(two)
    assert result.truth["mini-pclm"].settings["run"] == "mini-pclm"
    truth, claim = (found["mini-pclm"].pivot()["gender_prediction"] for found in (result.truth, result.claim))
    assert truth["tower"] > 0.8 > claim["tower"]
    assert claim["text[0]"] > 0.8 > truth["text[0]"]


@pytest.mark.usefixtures("sketched")
def test_encoders_that_differ_are_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_encoder_of", lambda run: run.name)
    call(tmp_path)
    assert [entry[1] for entry in LOG if entry[0] == "states" and entry[2] == "tower"] == ["mini-base", "mini-pclm"]


def test_one_checkpoint_probed_alone_gives_the_same_result(done: Done) -> None:
    from vpanalysis.probes import probe_layers

    result = done.result
    run: Any = FakeRun(result.out / "mini-pclm")
    alone = probe_layers(run, "claim", group_by="speaker", shuffles=0, progress=False)
    pd.testing.assert_frame_equal(alone.table, result.claim["mini-pclm"].table, check_dtype=False)
    pd.testing.assert_frame_equal(alone.by_condition, result.claim["mini-pclm"].by_condition, check_dtype=False)
    pd.testing.assert_frame_equal(alone.predictions, result.claim["mini-pclm"].predictions, check_dtype=False)


def test_a_second_call_finds_everything(done: Done) -> None:
    out = done.result.out
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    second = call(out)
    assert {entry[0] for entry in LOG} == {"run"}
    assert second.files == done.result.files
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == stamps


@pytest.mark.usefixtures("sketched")
def test_force_starts_over(done: Done, tmp_path: Path) -> None:
    call(done.copy(tmp_path), force=True)
    assert ("run", "mini-base", "anew") in LOG
    assert any(entry[0] == "encode" for entry in LOG)


@pytest.mark.usefixtures("sketched")
def test_what_depends_on_a_changed_run_is_made_again(done: Done, tmp_path: Path) -> None:
    out = done.copy(tmp_path)
    manifest = out / "mini-pclm" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"sha": "b"', '"sha": "c"'))
    after = call(out).kept["mini-pclm"]
    assert {path.name for path in after.values()}.isdisjoint(
        {path.name for verb, path in done.result.kept["mini-pclm"].items() if verb != "run"} | {""}
    )
    assert {entry[1] for entry in LOG if entry[0] == "states"} == {"mini-pclm"}


@pytest.mark.usefixtures("sketched")
def test_a_lost_or_torn_result_is_made_again(done: Done, tmp_path: Path) -> None:
    out = done.copy(tmp_path)
    record = out / done.result.kept["mini-pclm"]["truth"].relative_to(done.result.out) / "probe.json"
    record.unlink()
    (out / "report.json").write_text("{torn")
    again = call(out)
    assert record.is_file()
    assert again.truth["mini-pclm"].sites == SITES[:5]
    assert all(path.is_file() for path in again.files)


@pytest.mark.usefixtures("sketched")
def test_clips_are_encoded_once_whatever_the_number_of_checkpoints(tmp_path: Path) -> None:
    call(tmp_path, limit=70)
    assert [entry[1:] for entry in LOG if entry[0] == "encode"] == [
        ("tower", "encoder[0]", "64"),
        ("tower", "encoder[0]", "6"),
    ]


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"models": ["mini-pclm-dp"]}, ModelError, "did you mean 'mini-pclm-dpo'"),
        ({"models": []}, ModelError, "no checkpoint"),
        ({"limit": 0}, SchemaError, "limit 0"),
    ],
)
def test_bad_input_is_a_sentence(tmp_path: Path, options: dict[str, Any], error: type[VPError], word: str) -> None:
    with pytest.raises(error, match=word):
        call(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunError, match="no folder"):
        call(tmp_path / "runs")


def test_names_keep_the_bundled_order_and_mini_means_the_default() -> None:
    assert job._names(["mini", "mini-base", "mini-base"]) == ("mini-base", "mini-pclm-dpo")
    assert job._names(None) == CHECKPOINTS


def test_own_accuracy_counts_a_missing_reply_as_wrong_and_refuses_other_runs(done: Done) -> None:
    probes = done.result.truth["mini-pclm"]
    run: Any = FakeRun(done.result.out / "mini-pclm")
    run.predictions["pred_logits"] = run.predictions["pred_logits"].where(run.predictions.index % 2 == 0, None)
    assert own_accuracy(run, probes)["accuracy"].max() < 1
    with pytest.raises(RunError, match="pred_logits"):
        own_accuracy(run, probes, prediction="pred_logit")
    run.predictions = run.predictions.iloc[:10]
    with pytest.raises(RunError, match="probed items that it lacks"):
        own_accuracy(run, probes)


# --- the real thing ----------------------------------------------------------------------------------------------


def test_two_real_checkpoints_on_a_few_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # no fakes
    monkeypatch.setenv("VPANALYSIS_CACHE", str(tmp_path / "cache"))
    made = job.reproduce(tmp_path / "runs", models=["mini-base", "mini-pclm"], limit=30, workers=2, progress=False)
    assert list(made.scores) == ["mini-base", "mini-pclm"]
    # The same by hand, in this process, without the cache and without sharing.
    from vpanalysis import load_benchmark, load_model, probe_layers, run, score

    alone = run(load_model("mini-pclm"), load_benchmark("mini", limit=30), tmp_path / "x", cache=False, progress=False)
    pd.testing.assert_frame_equal(made.scores["mini-pclm"].table, score(alone).table)
    by_hand = probe_layers(alone, "truth", group_by="speaker", shuffles=0, progress=False)
    pd.testing.assert_frame_equal(made.truth["mini-pclm"].table, by_hand.table, check_dtype=False)
