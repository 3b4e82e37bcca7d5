"""States that are no numbers are counted while they are recorded, named, and left out only by request."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from fakes import FakeLLM, make_benchmark

import vpanalysis as vp
from vpanalysis import open_run, run
from vpanalysis._finite import count, finite_rows
from vpanalysis.benchmark.audio import ArrayAudio
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.errors import NonFiniteWarning, RunError

SETTINGS = {"block_size": 8, "batch_size": 4, "progress": False, "cache": None}
LOUD = (3, 9, 20)


def bench_with_loud_clips(count: int = 24, bad=(6,)) -> Benchmark:
    items = list(make_benchmark(count, bad=bad))
    for place in LOUD:
        fields = {f: getattr(items[place], f) for f in items[place].__dataclass_fields__}
        items[place] = type(items[place])(**{**fields, "audio": ArrayAudio(items[place].audio.array * 1000)})
    return Benchmark(items, name="loud", source="by hand")


class Overflowing(FakeLLM):
    """Whose second encoder layer answers loud clips with a value that is no number, or hardly one."""

    def __init__(self, value: float, layer: int = 1, last: bool = True) -> None:
        super().__init__()

        def overflow(_module, arguments, output):
            loud = arguments[0].abs().amax((1, 2)) > 20
            changed = output.clone()
            changed[loud, 0, 0] = value
            return changed

        self.model.encoder.layers[layer].register_forward_hook(overflow)


def test_counts_name_every_site_and_stay_in_the_run(tmp_path):
    with pytest.warns(NonFiniteWarning, match=r"not finite at .*first encoder\[1\] \(3 items, infinite"):
        made = run(Overflowing(float("inf")), bench_with_loud_clips(), tmp_path / "r", **SETTINGS)
    table = made.nonfinite.set_index("site")
    # Segments next to an infinite one are NaN, for a sum of weights times infinity takes 0 times infinity along.
    assert table.loc["encoder[1]"].to_dict() == {"items": 3, "nan": 3, "infinite": 3, "clipped": 0}
    # The next layer mixes by tanh, whose argument is infinite or NaN.
    assert table.loc["encoder[2]", "items"] == 3 and "encoder[0]" not in table.index
    # By hand, over everything that was stored; the failed item does not count.
    for site in made.sites:
        bad = np.zeros(24, dtype=bool)
        for reducer in made.reducers(site):
            states = made.states(site, reducer).reshape(24, -1)
            bad |= ~np.isfinite(states).all(axis=1)
        bad[6] = False
        assert int(bad.sum()) == (table.loc[site, "items"] if site in table.index else 0), site
    reopened = open_run(tmp_path / "r")
    assert "first encoder[1] (3 items, infinite" in repr(reopened) and "infinite" in reopened._repr_html_()
    expected = [i not in (6, *LOUD) for i in range(24)]
    assert reopened.finite().tolist() == expected
    assert reopened.finite("encoder[0]").tolist() == [i != 6 for i in range(24)]
    # Kept unless somebody asks: what was recorded is returned.
    assert np.isinf(reopened.states("encoder[1]")[list(LOUD)]).any(axis=1).all()


def test_a_repr_reads_no_states(tmp_path, monkeypatch):
    with pytest.warns(NonFiniteWarning):
        run(Overflowing(float("nan")), bench_with_loud_clips(), tmp_path / "r", **SETTINGS)
    made = open_run(tmp_path / "r")
    monkeypatch.setattr(type(made), "_store", property(lambda self: pytest.fail("states were read")))
    assert "encoder[1] (3 items, NaN)" in repr(made)


def test_nothing_is_said_where_all_is_finite(tmp_path, recwarn):
    made = run(FakeLLM(), make_benchmark(12, bad=(6,)), tmp_path / "r", **SETTINGS)
    assert made.nonfinite.empty and "finite" not in repr(made) and made.nonfinite_note == ""
    assert not [w for w in recwarn if issubclass(w.category, NonFiniteWarning)]
    assert made.finite().tolist() == [i != 6 for i in range(12)]
    marker = json.loads((tmp_path / "r/blocks/00000.json").read_text())
    assert marker["nonfinite"] == {}


def test_a_float16_store_says_what_it_clipped_and_keeps_infinities(tmp_path):
    with pytest.warns(NonFiniteWarning, match=r"float16 store clipped states beyond 65504 at encoder\[1\] \(3 items\)"):
        made = run(Overflowing(3e7), bench_with_loud_clips(), tmp_path / "a", **SETTINGS, store_dtype="float16",
                   sites=["encoder[*]"])  # fmt: skip
    row = made.nonfinite.set_index("site").loc["encoder[1]"]
    assert row["clipped"] == 3 and row["infinite"] == row["nan"] == 0
    assert np.isfinite(made.states("encoder[1]")[[i for i in range(24) if i != 6]]).all()
    with pytest.warns(NonFiniteWarning, match=r"encoder\[1\] \(3 items, infinite"):
        made = run(Overflowing(float("-inf")), bench_with_loud_clips(), tmp_path / "b", **SETTINGS,
                   store_dtype="float16")  # fmt: skip
    assert np.isneginf(made.states("encoder[1]")[list(LOUD), 0]).all()


def test_float16_overflow_in_a_real_model_is_named(tmp_path):
    llm = vp.load_model("mini", dtype="float16")
    # Of the language model: Hugging Face's Whisper layers clamp float16, which hides where they overflow.
    layer = llm.module_of("text[0]")
    last = [module for module in layer.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        last.weight.mul_(30_000)
    bench = vp.load_benchmark("mini", tasks=["gender_prediction"], limit=4)
    with pytest.warns(NonFiniteWarning, match=r"first text\[0\] \(4 items, .*float16 overflows above 65504"):
        made = run(llm, bench, tmp_path / "r", **SETTINGS)
    assert made.nonfinite["site"].iloc[0] == "text[0]"


def test_frames_and_options_count(tmp_path):
    class Speechless(Overflowing):
        def option_logprobs(self, batch, logits):
            return [row * float("nan") for row in super().option_logprobs(batch, logits)]

    with pytest.warns(NonFiniteWarning):
        made = run(Speechless(float("inf")), bench_with_loud_clips(), tmp_path / "r", **SETTINGS,
                   reducers={"encoder[1]": "frames"})  # fmt: skip
    table = made.nonfinite.set_index("site")
    assert table.loc["encoder[1]", "infinite"] == 3 and table.loc["options", "nan"] == 23
    assert made.finite("encoder[1]").tolist() == [i not in (6, *LOUD) for i in range(24)]
    assert not made.finite().any()


def test_counting_by_hand():
    ok = np.array([True, True, True, False])
    states = {
        ("a", "mean"): np.array([[1, np.nan], [np.inf, np.nan], [7e4, 0], [np.nan, 0]], dtype=np.float32),
        ("a", "last"): np.array([[np.inf, 1], [1, 1], [1, 1], [1, 1]], dtype=np.float32),
        ("b", "frames"): [np.ones((2, 2)), np.zeros((0, 2)), np.full((1, 2), -np.inf), np.ones((1, 2))],
    }
    assert count(states, ok) == {
        "a": {"items": 2, "nan": 2, "infinite": 2}, "b": {"items": 1, "infinite": 1}
    }  # fmt: skip
    assert count(states, ok, clipping=True)["a"] == {"items": 3, "nan": 2, "infinite": 2, "clipped": 1}
    assert count({}, ok, options=[[0.0], [np.nan], None, [np.nan]]) == {"options": {"items": 1, "nan": 1}}
    nan = np.nan
    frames = np.array(
        [[[1, 1], [1, 1]], [[1, 1], [nan, nan]], [[1, nan], [1, 1]], [[nan, nan], [1, 1]], [[nan, nan], [nan, nan]]]
    )
    assert finite_rows(frames, frames=True).tolist() == [True, True, False, False, False]


def test_probes_refuse_such_states_and_leave_items_out_by_request(tmp_path):
    bench = bench_with_loud_clips(60, bad=())
    with pytest.warns(NonFiniteWarning):
        made = run(Overflowing(float("inf")), bench, tmp_path / "r", **SETTINGS, sites=["encoder[*]", "tower"])
    asked = {"tasks": "gender_prediction", "shuffles": 0, "progress": False, "n_splits": 2,
             "conditions": ["conflict"]}  # fmt: skip
    with pytest.raises(RunError, match=r"cannot probe site 'encoder\[1\]'.*infinite or missing.*nonfinite='drop'"):
        vp.probe_layers(made, **asked)
    dropped = vp.probe_layers(made, **asked, nonfinite="drop")
    loud = [bench[i].id for i in LOUD if bench[i].task_name == "gender_prediction"]
    assert loud and set(loud) <= set(dropped.settings["left_out"])
    assert not set(loud) & set(dropped.predictions["id"])
    assert dropped.table["note"].str.contains(f"{len(loud)} items of infinite or missing states left out").all()
    assert dropped.table["n"].eq(30 - len(loud)).all()
    # The sites that are finite are probed with everything when only they are asked for.
    whole = vp.probe_layers(made, **asked, sites="encoder[0]", nonfinite="drop")
    assert whole.table["n"].eq(30).all() and whole.settings["left_out"] == []
    with pytest.raises(RunError, match="nonfinite='skip'; allowed: 'raise', 'drop'"):
        vp.probe_layers(made, **asked, nonfinite="skip")
