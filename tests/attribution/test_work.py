"""Work in parts: a part is made once, a killed call goes on, and what is another question is other work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import vpanalysis as vp
from vpanalysis.attribution._patched import PairBatch
from vpanalysis.attribution._work import Work, identity, items_sha
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import RunError


@pytest.fixture(scope="module")
def bench() -> Benchmark:
    whole = vp.load_benchmark("mini", tasks="pitch_comparison")
    return whole.filter(lambda item: item.condition == "conflict" and int(str(item.cell)[-4:]) < 6)


@pytest.fixture(scope="module")
def model() -> vp.AudioLLM:
    return vp.load_model("mini-pclm-dpo")


def test_a_part_is_made_once_and_a_damaged_one_again(tmp_path: Path) -> None:
    made = []

    def make() -> pd.DataFrame:
        made.append(1)
        return pd.DataFrame({"x": [1.5, float("nan")], "name": ["a", "b"]})

    work = Work("demo", {"seed": 0}, tmp_path)
    first = work.part("a/../b", make)
    again = Work("demo", {"seed": 0}, tmp_path).part("a/../b", make)
    pd.testing.assert_frame_equal(first, again)
    assert len(made) == 1
    assert Work("demo", {"seed": 1}, tmp_path).done(["a/../b"]) == 0
    assert work.folder is not None
    (file,) = work.folder.glob("*")
    assert file.parent.parent == tmp_path / "attribution"
    file.write_bytes(file.read_bytes()[:40])
    work.part("a/../b", make)
    assert len(made) == 2
    nowhere = Work("demo", {"seed": 0}, None)
    nowhere.part("a", make)
    nowhere.part("a", make)
    assert len(made) == 4


def test_a_disk_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "attribution").write_text("a file where the folder should be")
    table = Work("demo", {}, tmp_path).part("a", lambda: pd.DataFrame({"x": [1]}))
    assert table["x"].tolist() == [1]


def test_changed_weights_items_and_wordings_are_other_work(model: vp.AudioLLM, bench: Benchmark) -> None:
    items = list(bench)
    before = identity(model, items, DEFAULT_PROMPT)
    assert identity(model, items, DEFAULT_PROMPT) == before
    assert items_sha(items[:-1]) != before["items"]
    weight = next(iter(model.model.parameters()))
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.add_(1e-3)
        assert identity(model, items, DEFAULT_PROMPT)["weights"] != before["weights"]
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert identity(model, items, DEFAULT_PROMPT) == before


def test_another_chat_form_config_or_hook_is_other_work(model: vp.AudioLLM, bench: Benchmark) -> None:
    items = list(bench)
    before = identity(model, items, DEFAULT_PROMPT)
    kept = model.model.config.gate_text
    try:
        model.model.config.gate_text = "question_options"
        other = vp.AudioLLM(model.model, model.processor, name="other")
        assert identity(other, items, DEFAULT_PROMPT) != before
    finally:
        model.model.config.gate_text = kept
    template = model.processor.chat_template
    try:
        model.processor.chat_template = template.replace("<|im_start|>", "<|im_start|>please ", 1)
        assert identity(model, items, DEFAULT_PROMPT) != before
    finally:
        model.processor.chat_template = template
    handle = model.module_of("mixed").register_forward_hook(lambda *_: None)
    try:
        assert identity(model, items, DEFAULT_PROMPT) != identity(model, items, DEFAULT_PROMPT)
    finally:
        handle.remove()
    assert identity(model, items, DEFAULT_PROMPT) == before


def test_patching_goes_on_where_it_was_killed(
    model: vp.AudioLLM, bench: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    asked: dict[str, Any] = {"sites": ["mixed"], "batch_size": 2, "cache": tmp_path}
    whole = vp.patch(model, bench, **{**asked, "cache": None}, progress=False)
    real, calls = PairBatch.patched, []

    def dies(self: PairBatch, cell: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, cell)

    monkeypatch.setattr(PairBatch, "patched", dies)
    with pytest.raises(KeyboardInterrupt):
        vp.patch(model, bench, **asked, progress=False)
    resumed = vp.patch(model, bench, **asked)
    said = capsys.readouterr().err
    assert "6 forwards to do" in said and "1 of 3 batches are there" in said and "held at once" in said
    pd.testing.assert_frame_equal(resumed.pairs, whole.pairs)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the second call must not run the model")

    monkeypatch.setattr(model, "forward", never)
    monkeypatch.setattr(model, "encode", never)
    pd.testing.assert_frame_equal(vp.patch(model, bench, **asked, progress=False).table, whole.table)


def test_results_are_kept_in_a_run_of_the_same_model_and_found_there(
    model: vp.AudioLLM, bench: Benchmark, tmp_path: Path
) -> None:
    run = vp.run(model, bench, tmp_path / "dpo", reducers="none", progress=False)
    assert not len(run.kept())
    found = vp.patch(model, bench, sites=["mixed"], cache=None, progress=False)
    place = found.save(run)
    assert place.parent == run.path / "results" and place.name.startswith("patch-")
    (row,) = run.kept().to_dict("records")
    assert row["kind"] == "PatchResult"
    pd.testing.assert_frame_equal(vp.load_result(row["path"]).table, found.table)
    other = vp.run("mini-base", bench, tmp_path / "base", reducers="none", progress=False)
    # Another question has another folder.
    assert vp.patch(model, bench, sites=["tower"], cache=None, progress=False).save(run) != place
    with pytest.raises(RunError, match="the result is of 'mini-pclm-dpo'"):
        found.save(other)
    with pytest.raises(RunError, match="name a folder"):
        found.save()
    with pytest.raises(RunError, match="no result"):
        vp.load_result(tmp_path)
