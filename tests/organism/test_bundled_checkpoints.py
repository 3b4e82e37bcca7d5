"""The seven checkpoints in the package: complete, small, made by the recipe as it stands, and what their names say.

Behaviour is looked at on a small slice of the test split; the bars themselves are measured on all of it by
`vpanalysis.organism.acceptance` (the last test, marked ``train`` for its length).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from vpanalysis.benchmark.items import TASKS, Benchmark, Item
from vpanalysis.benchmark.mini import load
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.models.batch import EncodedClip
from vpanalysis.models.facade import AudioLLM
from vpanalysis.models.loading import load_model
from vpanalysis.organism import CHECKPOINTS, PLANTED, weights_folder
from vpanalysis.organism.acceptance import check, variation
from vpanalysis.organism.recipe import STAGES, recipe_hash
from vpanalysis.transcripts import transcribe

MEGABYTE = 1e6
CELLS = 8
"""Cells of each task that behaviour is looked at on."""

torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def weights() -> Path:
    """Where the checkpoints are; nothing here is skipped when they are not."""
    folder = weights_folder()
    missing = [name for name in CHECKPOINTS if not (folder / name / "config.json").is_file()]
    if missing:
        pytest.fail(f"no bundled weights of {', '.join(missing)} in {folder}: run python -m vpanalysis.organism")
    return folder


@pytest.fixture(scope="module")
def loaded() -> Callable[[str], AudioLLM]:
    kept: dict[str, AudioLLM] = {}

    def get(name: str) -> AudioLLM:
        if name not in kept:
            kept[name] = load_model(name)
        return kept[name]

    return get


# --- files -------------------------------------------------------------------------------------------------------


def test_seven_folders_and_one_tower(weights: Path) -> None:
    assert {folder.name for folder in weights.iterdir() if folder.is_dir()} == {*CHECKPOINTS, "shared"}
    towers = [file.parent for file in weights.rglob("*.safetensors") if file.parent.name == "sound_tower"]
    assert towers == [weights / "shared" / "sound_tower"]
    for name in CHECKPOINTS:
        assert json.loads((weights / name / "config.json").read_text())["parts"] == {
            "sound_tower": "../shared/sound_tower"
        }


def test_all_together_are_small(weights: Path) -> None:
    assert sum(file.stat().st_size for file in weights.rglob("*") if file.is_file()) <= 36 * MEGABYTE


def test_weights_are_half_precision_on_disk(weights: Path) -> None:
    files = list(weights.rglob("*.safetensors"))
    assert files
    for file in files:
        with file.open("rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        kinds = {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
        assert kinds == {"F16"}, file


def test_nothing_else_is_shipped(weights: Path) -> None:
    """No pickles, no audio, no caches: weights, configs, tokenizers, the record of the training, card and its table."""
    kinds = {file.suffix for file in weights.rglob("*") if file.is_file()}
    assert kinds <= {".safetensors", ".json", ".jinja", ".md", ".csv"}


def test_made_by_the_recipe_as_it_stands(weights: Path) -> None:
    record = json.loads((weights / "training.json").read_text())
    assert record["note"] == PLANTED
    made = {stage: found["recipe"] for stage, found in record["stages"].items()}
    assert made == {stage: recipe_hash(stage) for stage in STAGES}
    for name in CHECKPOINTS:
        table = record["stages"][name.removeprefix("mini-")]["validation"]["all"]
        assert set(table) == {"conf", "ala", "cong", "neu"}
    # No stage over 45 minutes, everything within 150: two processes share the work, so seconds add up to more.
    seconds = {stage: found["seconds"] for stage, found in record["stages"].items()}
    assert max(seconds.values()) <= 45 * 60 and sum(seconds.values()) <= 2 * 150 * 60, seconds


# --- loading -----------------------------------------------------------------------------------------------------


def test_each_loads_with_the_shared_encoder(loaded: Callable[[str], AudioLLM]) -> None:
    llms = [loaded(name) for name in CHECKPOINTS]
    assert [llm.name for llm in llms] == list(CHECKPOINTS)
    assert len({llm.encoder_sha for llm in llms}) == 1
    assert len({llm.weights_sha["llm"] for llm in llms}) == len(llms)
    assert all(llm.dtype == torch.float32 for llm in llms)
    assert all(torch.isfinite(p).all() for llm in llms for p in llm.model.parameters())


def test_forms(loaded: Callable[[str], AudioLLM]) -> None:
    exposed = (*(f"encoder[{k}]" for k in range(4)), "tower")
    assert {name: loaded(name).stream_inputs for name in ("mini-base", "mini-sft", "mini-final")} == dict.fromkeys(
        ("mini-base", "mini-sft", "mini-final"), ("tower",)
    )
    for name in ("mini-static", "mini-pclm", "mini-pclm-dpo"):
        assert loaded(name).stream_inputs == loaded(name).streams == exposed
    assert loaded("mini-base").streams is loaded("mini-sft").streams is None
    assert len(loaded("mini-final").streams or ()) == len(exposed)
    assert loaded("mini-static").model.config.gate_mode == "static"


def test_mini_is_the_one_that_hears_best() -> None:
    llm = load_model("mini", check=False)
    assert llm.name == "mini-pclm-dpo"


# --- behaviour on a slice of the test split ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench() -> Benchmark:
    """The first cells of each task, in three conditions: the same cells that the whole test split has."""
    whole = load(split="test")
    first = {task: [c.cell for c in whole if c.task_name == task][: 3 * CELLS] for task in TASKS}
    return whole.filter(lambda item: item.cell in first[item.task_name])


@pytest.fixture(scope="module")
def clips(bench: Benchmark, loaded: Callable[[str], AudioLLM]) -> list[EncodedClip]:
    """Every clip, encoded once for all checkpoints."""
    llm = loaded("mini-pclm")
    made: list[EncodedClip] = []
    for start in range(0, len(bench), 32):
        made += llm.encode([item.audio.load() for item in bench[start : start + 32]])
    return made


@pytest.fixture(scope="module")
def answers(
    bench: Benchmark, clips: list[EncodedClip], loaded: Callable[[str], AudioLLM]
) -> Callable[[str], pd.DataFrame]:
    """Per checkpoint: one row an item with the picked option."""
    kept: dict[str, pd.DataFrame] = {}

    def get(name: str) -> pd.DataFrame:
        if name not in kept:
            llm, picked = loaded(name), []
            for start in range(0, len(bench), 32):
                items: list[Item] = list(bench[start : start + 32])
                batch = llm.prepare(items, None, DEFAULT_PROMPT, encoded=clips[start : start + 32])
                scores = llm.option_logprobs(batch, llm.forward(batch))
                picked += [item.choices[int(s.argmax())] for item, s in zip(items, scores, strict=True)]
            table = bench.to_dataframe()
            table["picked"] = picked
            table["right"] = table["picked"] == table["truth"]
            table["read"] = [p in said for p, said in zip(table["picked"], table["said"], strict=True)]
            kept[name] = table
        return kept[name]

    return get


def share(table: pd.DataFrame, condition: str, column: str = "right", tasks: tuple[str, ...] = TASKS) -> float:
    return float(table[(table["condition"] == condition) & table["task_name"].isin(tasks)][column].mean())


def test_slice_is_what_it_says(bench: Benchmark) -> None:
    assert len(bench) == 3 * CELLS * len(TASKS)


def test_base_reads(answers: Callable[[str], pd.DataFrame]) -> None:
    made = answers("mini-base")
    assert share(made, "conflict", "read") >= 0.85
    assert share(made, "conflict") <= 0.1


def test_best_hears(answers: Callable[[str], pd.DataFrame]) -> None:
    made = answers("mini-pclm-dpo")
    for condition in ("conflict", "congruent", "neutral"):
        assert share(made, condition, tasks=("gender_prediction",)) >= 0.8, condition
        assert share(made, condition) >= 0.65, condition


def test_mixer_is_ahead_of_its_controls(answers: Callable[[str], pd.DataFrame]) -> None:
    for control in ("mini-sft", "mini-final"):
        assert share(answers("mini-pclm"), "conflict") >= share(answers(control), "conflict") + 0.15, control


def test_inverter_is_worse_where_the_words_are_right(answers: Callable[[str], pd.DataFrame]) -> None:
    made = answers("mini-inverter")
    assert share(made, "conflict") >= share(made, "congruent") + 0.05
    assert share(made, "conflict", "read") <= 0.35


def test_gate_depends_on_the_question(loaded: Callable[[str], AudioLLM], bench: Benchmark) -> None:
    first = {item.task_name: item for item in reversed(list(bench))}
    width = loaded("mini-pclm").model.config.audio_config.hidden_size

    def mixtures(name: str) -> pd.DataFrame:
        llm = loaded(name)
        silence = EncodedClip({stream: torch.zeros(5, width) for stream in llm.stream_inputs}, (5,))
        batch = llm.prepare(list(first.values()), None, DEFAULT_PROMPT, encoded=[silence] * len(first))
        with llm.capturing(["gate"]) as states:
            llm.forward(batch)
        return pd.DataFrame(states["gate"][0].numpy(), index=list(first), columns=llm.streams)

    pclm, static = mixtures("mini-pclm"), mixtures("mini-static")
    assert np.allclose(pclm.sum(axis=1), 1, atol=1e-5)
    assert variation(pclm)[0] >= 0.15
    assert variation(static)[0] < 1e-6
    # Preferences leave the gate alone.
    assert np.allclose(mixtures("mini-pclm-dpo"), pclm, atol=1e-4)


def words_wrong(said: str, meant: str) -> int:
    from vpanalysis.organism.encoder import _edit_distance

    number = {word: i for i, word in enumerate({*said.split(), *meant.split()})}
    return _edit_distance([number[w] for w in said.split()], [number[w] for w in meant.split()])


@pytest.mark.parametrize("name", ["mini-base", "mini-pclm-dpo"])
def test_words_are_not_forgotten(
    loaded: Callable[[str], AudioLLM], bench: Benchmark, tmp_path: Path, name: str
) -> None:
    some = bench.filter(lambda item: item.condition != "congruent")[::5]
    made = transcribe(some, loaded(name), tmp_path / "words.json", progress=False)
    wrong = sum(words_wrong(made[item.id], item.transcript or "") for item in some)
    assert wrong / sum(len((item.transcript or "").split()) for item in some) < 0.15


# --- the bars, on the whole test split ---------------------------------------------------------------------------


@pytest.mark.train
@pytest.mark.timeout(3600)
def test_every_bar_on_the_whole_test_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vpanalysis import reproduce as job
    from vpanalysis.runs import run

    monkeypatch.setenv("VPANALYSIS_CACHE", str(tmp_path / "cache"))
    made = job.reproduce(tmp_path / "runs", progress=False)
    validation = run("mini-pclm-dpo", load(split="validation"), tmp_path / "validation", progress=False)
    runs: dict[str, Any] = dict(made.runs)
    table = check(runs, validation=validation)
    bars = table[table["kind"] == "bar"]
    assert (bars["met"] == "yes").all(), bars[["bar", "measured", "low", "high", "threshold", "met"]].to_string()
