"""bfloat16 against float32, item by item."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fakes import FakeLLM, make_benchmark

import vpanalysis.models.loading
from vpanalysis import cli, dtype_check
from vpanalysis.errors import RunError
from vpanalysis.precision import DtypeCheck, _compared, _kendall

FACTS = {"model": "m", "dtype": "bfloat16", "device": "cpu", "benchmark": "b", "left_out": 0}


def rows(*values):
    return [np.array(v, dtype=np.float64) for v in values]


def test_agreement_by_hand():
    full = rows([-1, -2, -3], [-1, -1.1, -4], [-2, -1], [-1, -2, -3])
    other = rows([-1, -2, -3], [-1.2, -1, -4], [-2, -1], [-3, -2, -1])
    found = _compared(full, other, list(make_benchmark(4)), FACTS)
    assert found.agree == 0.5 and found.items == 4 and found.not_finite == 0
    # tau: 1, 1/3 (one of three pairs swapped), 1, -1
    assert found.rank == pytest.approx((1 + 1 / 3 + 1 - 1) / 4)
    assert found.largest_difference == 2 and found.changed_margin == 2
    assert found.low < 0.5 < found.high and found.rank_low <= found.rank <= found.rank_high


def test_scores_that_are_no_numbers_count_as_changed():
    found = _compared(rows([-1, -2], [-1, -2]), rows([-1, -2], [np.nan, -2]), list(make_benchmark(2)), FACTS)
    assert found.agree == 0.5 and found.not_finite == 1 and found.rank == 0.5
    assert found.changed_margin is None and "not finite           1 items" in repr(found)


@pytest.mark.parametrize(
    ("a", "b", "tau"), [([1.0], [2.0], 1.0), ([1, 1], [2, 2], 1.0), ([1, 2], [2, 2], 0.0), ([1, 2], [2, 1], -1.0)]
)
def test_rank_correlation_of_ties(a, b, tau):
    assert _kendall(*rows(a, b)) == tau


def test_a_model_against_itself_agrees_and_a_noisy_one_less(monkeypatch, tmp_path):
    asked = []

    class Rounded(FakeLLM):
        def option_logprobs(self, batch, logits):
            return [(row * 4).round() / 4 * 0 - row for row in super().option_logprobs(batch, logits)]

    def load(source, *, dtype, **more):
        asked.append((source, dtype, more))
        return Rounded(source) if source == "inverted" and dtype != "float32" else FakeLLM(source)

    monkeypatch.setattr(vpanalysis.models.loading, "load_model", load)
    bench = make_benchmark(30, bad=(6,))
    same = dtype_check("fake", bench, progress=False, device_map="cpu")
    assert same.agree == same.rank == 1 and same.largest_difference == 0 and same.high == 1
    assert same.items == 29 and same.left_out == 1
    assert asked == [("fake", "float32", {"device_map": "cpu"}), ("fake", "bfloat16", {"device_map": "cpu"})]
    other = dtype_check("inverted", bench, progress=False, dtype="float16")
    assert other.agree == 0 and other.rank == -1 and other.changed_margin > 0 and other.dtype == "float16"
    assert DtypeCheck.load(other.save(tmp_path / "d.json")) == other
    assert "float16 against float32: 'inverted' on cpu, 29 items" in repr(other)
    for wrong in ({"dtype": "int8"}, {"limit": 0}):
        with pytest.raises(RunError):
            dtype_check("fake", bench, progress=False, **wrong)


def test_the_bundled_model_by_the_command(capsys, tmp_path):
    with pytest.raises(SystemExit) as ended:
        cli.main(["verify", "mini", "--dtype-check", "--limit", "12", "--json", "--out", str(tmp_path / "d.json")])
    assert ended.value.code == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert row["items"] == 12 and row["dtype"] == "bfloat16" and row["device"] == "cpu"
    assert row["low"] <= row["agree"] <= row["high"] <= 1 and row["agree"] > 0.5
    assert 0 < row["largest_difference"] < 2 and row["not_finite"] == 0
    assert DtypeCheck.load(tmp_path / "d.json").agree == row["agree"]
