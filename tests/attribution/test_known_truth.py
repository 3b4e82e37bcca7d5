"""What is known of the organism must come out: who listens, who reads, who inverts, and that noise does nothing.

Patching and the inversion test have their known answers in ``test_patching.py`` and ``test_textual.py``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import vpanalysis as vp
from vpanalysis.attribution import listen_vs_read
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.probes.controls import random_twin

HEARD = [
    "age_prediction", "gender_prediction", "emotion_recognition", "pitch_comparison", "volume_comparison",
    "speed_comparison", "vocal_range_comparison", "intonation_perception",
]  # fmt: skip
"""Tasks that mini-pclm-dpo hears (vpanalysis/organism/weights/README.md)."""


def _cells(tasks: list[str], first: int) -> Benchmark:
    whole = vp.load_benchmark("mini", tasks=tasks)
    return whole.filter(lambda item: item.condition == "conflict" and int(str(item.cell)[-4:]) < first)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_words_drive_the_base_and_the_voice_drives_the_repaired_model(cache: Path) -> None:
    bench = _cells(HEARD, 6)
    shares = {}
    for name in ("mini-base", "mini-pclm-dpo"):
        found = listen_vs_read(name, bench, families="twins", cache=cache, progress=False)
        shares[name] = found.table.set_index("task").loc["all"]
    base, repaired = shares["mini-base"], shares["mini-pclm-dpo"]
    assert base["share_high"] < 0.1 and base["verdict"] == "reads"
    assert repaired["share_low"] > 0.6 and repaired["verdict"] == "listens"
    # Five of the eight tasks have a plain voice.
    assert (base["n"], repaired["n"]) == (30, 30)


@pytest.mark.parametrize("family", ["twins", "reversed"])
def test_random_weights_have_no_effect(cache: Path, family: str) -> None:
    model = random_twin(vp.load_model("mini-pclm-dpo"), 0)
    found = listen_vs_read(model, _cells([*HEARD, "total_speaker_counting"], 7), families=family, cache=cache,
                           progress=False)  # fmt: skip
    whole = found.table[found.table["task"] == "all"].iloc[0]
    assert whole["verdict"] == "no effect"
    for name in ("listen", "read"):
        assert whole[f"{name}_low"] <= 0 <= whole[f"{name}_high"]
        assert abs(whole[name]) < 0.2
    by_task = found.table[found.table["task"] != "all"]
    assert by_task["q_listen"].notna().sum() >= 4
    assert not (by_task["q_listen"] < 0.05).any()
