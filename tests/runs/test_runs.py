import json
import subprocess
import sys

import fakes
import numpy as np
import pandas as pd
import pytest
import torch
from fakes import CountingAudio, FakeLLM, make_benchmark

import vpanalysis._space
from vpanalysis import open_run, run
from vpanalysis._predictions import PREDICTION_COLUMNS
from vpanalysis.benchmark.audio import ArrayAudio, BytesAudio, FileAudio
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT, PromptTemplate
from vpanalysis.capture.reducers import Spans, reduce
from vpanalysis.errors import RunError, VPError
from vpanalysis.runs import encode_clips

QUIET = {"progress": False, "block_size": 8, "batch_size": 4}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VPANALYSIS_CACHE", str(tmp_path / "cache"))


def assert_same_run(a, b, atol=0.0):
    """Equal value for value, or up to `atol` in floats."""
    for column in PREDICTION_COLUMNS:
        left, right = (
            [None if pd.api.types.is_scalar(v) and pd.isna(v) else v for v in r.predictions[column]] for r in (a, b)
        )
        if atol and column in ("option_logprobs", "text_scores"):
            for x, y in zip(left, right, strict=True):
                np.testing.assert_allclose(x or [], y or [], atol=atol)
        else:
            assert left == right, column
    assert a.sites == b.sites
    for site in a.sites:
        for reducer in a.reducers(site):
            np.testing.assert_allclose(a.states(site, reducer), b.states(site, reducer), atol=atol, rtol=0)


def test_a_run_holds_items_predictions_states_and_gates(tmp_path):
    bench, llm = make_benchmark(19, long=(4,)), FakeLLM()
    made = run(llm, bench, tmp_path / "r", **QUIET, generate=True, text_scores=True)
    assert made.is_complete and made.name == "r" and made.path == tmp_path / "r"
    table = made.predictions
    assert tuple(table.columns) == PREDICTION_COLUMNS and table["id"].tolist() == list(bench.ids)
    assert table["choices"].iloc[0] == ["Female", "Male"] and table["said"].iloc[0] == list(bench[0].said)
    assert table["status"].eq("ok").all() and table["reason"].isna().all()
    assert table["windows"].tolist() == [3 if i == 4 else 1 for i in range(19)]
    assert table["seconds"].iloc[3] == pytest.approx(bench[3].duration_s)
    for logprobs, picked in zip(table["option_logprobs"], table["pred_logits"], strict=True):
        assert (
            np.exp(logprobs).sum() == pytest.approx(1, abs=1e-5) and picked == ["Female", "Male"][np.argmax(logprobs)]
        )
    assert table["pred_generated_raw"].str.contains(r"^\(").all() and table["parse_status"].eq("ok").all()
    assert made.sites == list(llm.sites)
    assert made.states("encoder[1]").shape == (19, 16) and made.states("encoder[1]", "segments").shape == (19, 6, 16)
    assert made.states("text[1]", "last").shape == (19, 12) and made.states("options").shape == (19, 2)
    assert list(made.gates.columns) == list(llm.streams) and made.gates.index.name == "id"
    np.testing.assert_allclose(made.gates.sum(axis=1), 1, atol=1e-6)
    data = made.activations
    assert data["encoder_segments6"].dims == ("item", "encoder_layer", "segment", "encoder_feature")
    assert data["task"].values.tolist() == table["task_name"].tolist()
    assert json.loads(str(data["said"].values[0])) == list(bench[0].said)
    np.testing.assert_array_equal(data["encoder_mean"].sel(encoder_layer="tower").values, made.states("tower", "mean"))


def test_states_are_what_a_raw_hook_sees(tmp_path):
    bench, llm = make_benchmark(3), FakeLLM()
    made = run(llm, bench, tmp_path / "r", progress=False, batch_size=1, reducers=["mean", "last", "segments(2)"])
    for row, item in enumerate(bench):
        wave = item.audio.load()
        layout = llm.layout([wave])
        seen = {}
        handles = [
            llm.module_of(site).register_forward_hook(
                lambda _m, _a, out, site=site, seen=seen: seen.setdefault(site, out)
            )
            for site in llm.sites
            if site != "options"
        ]
        clips = llm.encode([wave])
        batch = llm.prepare([item], None, DEFAULT_PROMPT, encoded=clips)
        logits = llm.forward(batch)
        for handle in handles:
            handle.remove()
        got = torch.log_softmax(logits[0, [65, 66]], 0)
        np.testing.assert_allclose(made.predictions["option_logprobs"][row], got, atol=1e-6)
        for site in ("encoder.stem", "encoder[2]", "tower", "streams[1]", "mixed", "text[0]"):
            state = seen[site][0] if isinstance(seen[site], tuple) else seen[site]
            if site.startswith("text"):
                spans = Spans.per_item([state.shape[1]], "left")
            else:
                spans = Spans.per_window(layout.positions if site.startswith("enc") else layout.frames)
            for reducer in ("mean", "last", "segments(2)"):
                np.testing.assert_array_equal(made.states(site, reducer)[row], reduce(state, spans, reducer)[0])


def test_results_do_not_depend_on_batch_size(tmp_path):
    bench, llm = make_benchmark(21, long=(2, 9)), FakeLLM()
    runs = [
        run(llm, bench, tmp_path / str(n), progress=False, block_size=7, batch_size=n, cache=None, text_scores=True)
        for n in (1, 3, 64)
    ]
    for other in runs[1:]:
        assert_same_run(runs[0], other, atol=1e-5)


def test_batches_stay_inside_a_block_and_sort_by_length(tmp_path):
    seen = []

    class Watching(FakeLLM):
        def forward(self, batch, encoded=None):
            seen.append([(item.id, sum(f)) for item, f in zip(batch.items, batch.frames, strict=True)])
            return super().forward(batch)

    bench = make_benchmark(20)
    run(Watching(), bench, tmp_path / "r", progress=False, block_size=10, batch_size=4)
    seen = seen[1:]  # the first is a trial for sizes
    assert [len(b) for b in seen] == [4, 4, 2, 4, 4, 2]
    assert {i for b in seen[:3] for i, _ in b} == set(bench.ids[:10])
    frames = [n for b in seen[:3] for _, n in b]
    assert frames == sorted(frames)


def test_one_forward_an_item(tmp_path):
    bench, llm = make_benchmark(16), FakeLLM()
    run(llm, bench, tmp_path / "r", **QUIET)
    assert llm.forwards == 1 + 4 and llm.encoded == 1 + 16


@pytest.mark.parametrize("cache", [True, False])
def test_hooks_are_gone_after_a_run_and_after_a_failure(tmp_path, cache):
    bench, llm = make_benchmark(12), FakeLLM(fail_on="item-009")
    with pytest.raises(RuntimeError, match="the model failed"):
        run(llm, bench, tmp_path / "r", **QUIET, cache=cache)
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in llm.model.modules()) == 0
    assert open_run(tmp_path / "r").finished_blocks == (0,)
    llm.fail_on = None
    made = run(llm, bench, tmp_path / "r", **QUIET, cache=cache)
    assert made.is_complete
    assert_same_run(made, run(llm, bench, tmp_path / "s", **QUIET, cache=False))


# --- clips that cannot be used ------------------------------------------------------------------------------------


def with_audio(bench, place, audio):
    items = list(bench)
    fields = {f: getattr(items[place], f) for f in items[place].__dataclass_fields__}
    items[place] = type(items[place])(**{**fields, "audio": audio})
    return Benchmark(items, name=bench.name, source=bench.source)


@pytest.mark.parametrize(
    ("audio", "reason"),
    [
        (ArrayAudio(np.array([0.1, np.nan] * 4000, dtype=np.float32)), "NaN or infinite"),
        (ArrayAudio(np.zeros(0, dtype=np.float32)), "no samples"),
        (ArrayAudio(np.zeros(30, dtype=np.float32)), "at least one frame"),
        (BytesAudio(b"RIFFnonsense", "broken.wav"), "cannot decode the audio 'broken.wav'"),
        (FileAudio("nowhere.wav"), "no such file|No such file"),
    ],
)
def test_an_unusable_clip_fails_alone_with_its_reason(tmp_path, audio, reason):
    bench = with_audio(make_benchmark(10), 3, audio)
    made = run(FakeLLM(), bench, tmp_path / "r", **QUIET, generate=True, text_scores=True)
    row = made.predictions.iloc[3]
    assert row["status"] == "failed" and pd.isna(row["windows"])
    assert made.predictions["reason"].str.contains(reason).fillna(False).tolist() == [i == 3 for i in range(10)]
    for column in (
        "pred_logits",
        "option_logprobs",
        "pred_text_score",
        "pred_generated",
        "pred_generated_raw",
        "parse_status",
    ):
        assert row[column] is None and made.predictions[column].drop(3).notna().all()
    for site in made.sites:
        for reducer in made.reducers(site):
            missing = np.isnan(made.states(site, reducer)).reshape(10, -1).any(axis=1)
            assert missing.tolist() == [i == 3 for i in range(10)]
    assert made.gates.index.tolist() == [i for n, i in enumerate(bench.ids) if n != 3]
    others = run(FakeLLM(), bench, tmp_path / "again", **QUIET, generate=True, text_scores=True, cache=None)
    assert_same_run(made, others)


def test_a_block_in_which_everything_fails(tmp_path):
    bench = make_benchmark(10, bad=range(8))
    made = run(FakeLLM(), bench, tmp_path / "r", **QUIET)
    assert made.is_complete and made.predictions["status"].tolist() == ["failed"] * 8 + ["ok"] * 2
    assert np.isnan(made.states("tower")[:8]).all() and np.isfinite(made.states("tower")[8:]).all()


# --- the cache of encoded clips -----------------------------------------------------------------------------------


def test_with_and_without_the_cache_runs_are_equal(tmp_path):
    bench = make_benchmark(20, bad=(5,), long=(7,))
    without = run(FakeLLM(), bench, tmp_path / "a", **QUIET, cache=None)
    fill = run(FakeLLM(), bench, tmp_path / "b", **QUIET, cache=tmp_path / "c")
    hit = run(FakeLLM(), bench, tmp_path / "d", **QUIET, cache=tmp_path / "c")
    assert_same_run(without, fill)
    assert_same_run(without, hit)


def test_seven_checkpoints_with_one_encoder_encode_and_decode_each_clip_once(tmp_path):
    bench = make_benchmark(20, bad=(5,))
    CountingAudio.loads = 0
    encoded = []
    for seed in range(7):
        llm = FakeLLM(head_seed=seed)
        made = run(llm, bench, tmp_path / str(seed), **QUIET)
        encoded.append(llm.encoded - 1)
        alone = (
            run(FakeLLM(head_seed=seed), bench, tmp_path / f"alone-{seed}", **QUIET, cache=None) if seed == 3 else None
        )
        if alone is not None:
            assert_same_run(made, alone)
            CountingAudio.loads -= 20
    assert encoded == [19, 0, 0, 0, 0, 0, 0]
    # The broken clip is tried by every run: what cannot be decoded cannot be cached.
    assert CountingAudio.loads == 19 + 7


def test_another_encoder_does_not_hit(tmp_path):
    bench = make_benchmark(8)
    run(FakeLLM(seed=0), bench, tmp_path / "a", **QUIET)
    other = FakeLLM(seed=1)
    made = run(other, bench, tmp_path / "b", **QUIET)
    assert other.encoded == 1 + 8
    assert_same_run(made, run(FakeLLM(seed=1), bench, tmp_path / "c", **QUIET, cache=None))


def test_other_streams_and_reducers_are_encoded_again_and_kept(tmp_path):
    bench = make_benchmark(8)
    for n, (llm, more) in enumerate(
        [
            (FakeLLM(), {}),
            (FakeLLM(exposed=("encoder[0]", "encoder[2]")), {}),
            (FakeLLM(), {"reducers": {"encoder": "segments(3)"}}),
        ]
    ):
        made = run(llm, bench, tmp_path / str(n), **QUIET, **more)
        assert llm.encoded == 1 + 8
        assert_same_run(made, run(llm, bench, tmp_path / f"alone-{n}", **QUIET, cache=None, **more))


def test_clips_can_be_encoded_ahead_for_models_with_other_streams(tmp_path):
    bench = make_benchmark(20, bad=(5,))
    assert encode_clips(FakeLLM(exposed=()), bench, streams=["encoder[0]", "encoder[1]"], batch_size=4) == 19
    llm = FakeLLM(exposed=("encoder[1]",))
    run(llm, bench, tmp_path / "r", **QUIET)
    assert llm.encoded == 1
    again = FakeLLM(exposed=())
    encode_clips(again, bench, streams=["encoder[1]"], batch_size=4)
    assert again.encoded == 0


def test_damaged_cache_files_are_made_again(tmp_path):
    bench = make_benchmark(8)
    first = run(FakeLLM(), bench, tmp_path / "a", **QUIET, cache=tmp_path / "c")
    for n, path in enumerate(sorted((tmp_path / "c").rglob("*.safetensors"))):
        data = bytearray(path.read_bytes())
        data[-1 - n] ^= 255
        path.write_bytes(bytes(data) if n % 2 else b"")
    llm = FakeLLM()
    assert_same_run(first, run(llm, bench, tmp_path / "b", **QUIET, cache=tmp_path / "c"))
    assert llm.encoded == 1 + 8


def test_a_clip_with_two_questions_is_encoded_once_in_a_batch(tmp_path):
    base = make_benchmark(4)
    items = [type(i)(**{**{f: getattr(i, f) for f in i.__dataclass_fields__}, "audio": base[0].audio}) for i in base]
    llm = FakeLLM()
    run(llm, Benchmark(items, name="b", source="s"), tmp_path / "r", **QUIET)
    assert llm.encoded == 1 + 1


# --- what is recorded ---------------------------------------------------------------------------------------------


def test_sites_and_reducers_can_be_chosen(tmp_path):
    bench = make_benchmark(9, long=(2,))
    made = run(
        FakeLLM(), bench, tmp_path / "r", **QUIET, sites=["encoder[*]", "tower", "text[-1]"],
        reducers={"tower": ["frames", "segments(3)"], "encoder[0]": "none", "text": ["mean", "last"]},
    )  # fmt: skip
    assert made.sites == ["encoder[1]", "encoder[2]", "tower", "text[1]"]
    frames = made.states("tower", "frames")
    lengths = (~np.isnan(frames[:, :, 0])).sum(axis=1)
    assert lengths.tolist() == [sum(c) for c in FakeLLM().layout([i.audio.load() for i in bench]).frames]
    np.testing.assert_allclose(np.nanmean(frames, axis=1), made.states("tower", "segments(3)").mean(1), atol=1e-5)
    assert made.gates is None
    with pytest.raises(RunError, match=r"cannot read a site.*allowed: 'encoder"):
        made.states("encoder[0]")
    with pytest.raises(RunError, match=r"this was not recorded; allowed: 'mean', 'segments\(6\)'"):
        made.states("encoder[1]", "last")


def test_frames_come_back_from_the_cache_and_of_text_sites(tmp_path):
    bench = make_benchmark(9, bad=(1,), long=(2,))
    more = {"reducers": {"encoder[0]": "frames", "text[-1]": ["frames", "last"]}}
    made = [run(FakeLLM(), bench, tmp_path / name, **QUIET, **more) for name in ("fill", "hit")]
    made.append(run(FakeLLM(), bench, tmp_path / "none", **QUIET, **more, cache=None))
    assert_same_run(made[0], made[1])
    assert_same_run(made[0], made[2])
    for row in (0, 2):
        positions = (~np.isnan(made[0].states("text[1]", "frames")[row, :, 0])).sum()
        last = made[0].states("text[1]", "frames")[row, positions - 1]
        np.testing.assert_array_equal(last, made[0].states("text[1]", "last")[row])
    assert made[0].activations["encoder_frames"].dims == (
        "item",
        "encoder_frames_layer",
        "encoder_frame",
        "encoder_feature",
    )


def test_nothing_but_predictions(tmp_path):
    made = run(FakeLLM(), make_benchmark(9), tmp_path / "r", **QUIET, sites="options")
    assert made.sites == ["options"] and made.is_complete and made.states("options").shape == (9, 2)
    assert run(FakeLLM(), make_benchmark(9), tmp_path / "r", **QUIET, sites="options").is_complete


def test_float16_on_disk(tmp_path):
    bench = make_benchmark(9)
    full = run(FakeLLM(), bench, tmp_path / "a", **QUIET)
    half = run(FakeLLM(), bench, tmp_path / "b", **QUIET, store_dtype="float16")
    assert half.states("tower").dtype == np.float32
    np.testing.assert_allclose(half.states("tower"), full.states("tower"), rtol=1e-3, atol=1e-4)


# --- calling again ------------------------------------------------------------------------------------------------


def test_a_finished_run_returns_at_once(tmp_path, capsys):
    bench, llm = make_benchmark(9), FakeLLM()
    run(llm, bench, tmp_path / "r", **QUIET)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "r").rglob("*") if p.is_file()}
    forwards = llm.forwards
    made = run(llm, bench, tmp_path / "r", block_size=8)
    assert llm.forwards == forwards and made.is_complete
    assert "found finished, 9 items" in capsys.readouterr().err
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "r").rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda a: a | {"model": FakeLLM(head_seed=5)}, "model weights"),
        (lambda a: a | {"model": FakeLLM("other", seed=5)}, "audio encoder.*model 'fake' against 'other'"),
        (lambda a: a | {"benchmark": make_benchmark(9, seed=1)}, "benchmark items"),
        (lambda a: a | {"benchmark": make_benchmark(8)}, "benchmark items"),
        (lambda a: a | {"template": PromptTemplate("mine", user="{options} {question}")}, "prompt template.*'mine'"),
        (lambda a: a | {"sites": "encoder[*]"}, r"sites and reducers \(encoder.stem: mean/segments\(6\) against"),
        (lambda a: a | {"reducers": {"tower": "last"}}, r"tower: mean/segments\(6\) against last"),
        (lambda a: a | {"generate": True}, "generation"),
        (lambda a: a | {"text_scores": True}, "text scores"),
        (lambda a: a | {"block_size": 4}, "block size"),
        (lambda a: a | {"store_dtype": "float16"}, "dtype of the store"),
    ],
)  # fmt: skip
def test_going_on_with_something_else_is_refused_by_name(tmp_path, change, named):
    asked = {"model": FakeLLM(), "benchmark": make_benchmark(9), "out": tmp_path / "r", **QUIET}
    run(**asked)
    other = change(asked)
    with pytest.raises(RunError, match=rf"cannot go on with the Run.*{named}.*force=True"):
        run(**other)
    assert_same_run(run(**other, force=True), run(**{**other, "out": tmp_path / "s"}))


def test_another_batch_size_may_finish_a_run(tmp_path):
    bench, llm = make_benchmark(20), FakeLLM(fail_on="item-011")
    with pytest.raises(RuntimeError):
        run(llm, bench, tmp_path / "r", **QUIET)
    llm.fail_on = None
    made = run(llm, bench, tmp_path / "r", **{**QUIET, "batch_size": 2})
    assert_same_run(made, run(llm, bench, tmp_path / "s", **QUIET), atol=1e-5)


def test_other_folders_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(RunError, match=r"other things there, such as 'notes\.txt'"):
            run(FakeLLM(), make_benchmark(3), tmp_path, progress=False, force=force)
    with pytest.raises(RunError, match="a file"):
        run(FakeLLM(), make_benchmark(3), tmp_path / "notes.txt", progress=False)
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == ["notes.txt"]


@pytest.mark.parametrize("bad", [{"block_size": 0}, {"batch_size": 0}, {"store_dtype": "int8"}, {"sites": "nope"}])
def test_bad_arguments_are_refused_before_anything_is_written(tmp_path, bad):
    with pytest.raises(VPError):
        run(FakeLLM(), make_benchmark(3), tmp_path / "r", progress=False, **bad)
    assert not (tmp_path / "r").exists()


# --- disk ---------------------------------------------------------------------------------------------------------


def test_bytes_are_estimated_and_printed_first(tmp_path, capsys):
    made = run(FakeLLM(), make_benchmark(40), tmp_path / "r", block_size=8)
    said = capsys.readouterr().err
    assert "40 of 40 items to do" in said and "to write to" in said and "encoded clips" in said
    store = made._store
    promised = 40 * store.bytes_per_item
    written = sum(
        p.stat().st_size for v in store.variables for p in (tmp_path / "r/activations.zarr" / v.name).glob("c.*")
    )
    assert promised <= written <= 1.3 * promised + 40 * 200
    capsys.readouterr()
    run(FakeLLM(), make_benchmark(4), tmp_path / "s", progress=False)
    assert capsys.readouterr() == ("", "")


def test_too_little_space_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(vpanalysis._space, "_free", lambda folder: (64 << 20) + 1000)
    with pytest.raises(RunError, match=r"free on the disk.*to write.*free some space"):
        run(FakeLLM(), make_benchmark(40), tmp_path / "r", progress=False)
    monkeypatch.undo()
    assert run(FakeLLM(), make_benchmark(40), tmp_path / "r", progress=False).is_complete


def test_a_cache_that_may_not_fit_is_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(vpanalysis._space, "_free", lambda folder: (64 << 20) + 300_000)
    run(FakeLLM(), make_benchmark(40), tmp_path / "r", cache=tmp_path / "c")
    assert "encoded clips are not kept" in capsys.readouterr().err and not (tmp_path / "c").exists()


# --- reading ------------------------------------------------------------------------------------------------------


def test_open_run_needs_neither_torch_nor_a_model(tmp_path):
    run(FakeLLM(), make_benchmark(9), tmp_path / "r", **QUIET)
    code = (
        "import sys, vpanalysis as vp; r = vp.open_run(sys.argv[1])\n"
        "r.predictions, r.gates, r.states('tower'), r.activations, r.agreement(), r.letter_bias()\n"
        "repr(r), r._repr_html_()\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "r")], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_errors_of_open_run(tmp_path):
    run(FakeLLM(), make_benchmark(3), tmp_path / "mini", progress=False)
    with pytest.raises(RunError, match=r"no such folder; allowed: 'mini' \(did you mean 'mini'\?\)"):
        open_run(tmp_path / "mni")
    (tmp_path / "mini" / "manifest.json").write_text('{"format": "something/9"}')
    with pytest.raises(RunError, match="format 'something/9'"):
        open_run(tmp_path / "mini")
    (tmp_path / "mini" / "manifest.json").write_text("{")
    with pytest.raises(RunError, match="cannot read"):
        open_run(tmp_path / "mini")


def test_damage_is_named_and_mended_by_block(tmp_path):
    bench, llm = make_benchmark(24), FakeLLM()
    good = run(llm, bench, tmp_path / "good", **QUIET)
    made = run(llm, bench, tmp_path / "r", **QUIET)
    file = next((tmp_path / "r/activations.zarr/encoder_mean").glob("c.1.*"))
    data = bytearray(file.read_bytes())
    data[10] ^= 4
    file.write_bytes(data)
    with pytest.raises(RunError, match="damaged data in block 1"):
        [open_run(tmp_path / "r").states(site) for site in ("encoder.stem", "encoder[0]", "tower")]
    parquet = tmp_path / "r/predictions/00002.parquet"
    parquet.write_bytes(parquet.read_bytes()[:200])
    with pytest.raises(RunError, match=r"00002\.parquet"):
        _ = open_run(tmp_path / "r").predictions
    for block in (1, 2):
        (tmp_path / f"r/blocks/{block:05d}.json").unlink()
    forwards = llm.forwards
    assert_same_run(run(llm, bench, tmp_path / "r", **QUIET), good)
    assert llm.forwards == forwards + 1 + 4
    # A marker whose data went missing does not count.
    next((tmp_path / "r/activations.zarr/text_last").glob("c.0.*")).unlink()
    assert_same_run(run(llm, bench, tmp_path / "r", **QUIET), good)
    assert made.is_complete


def test_an_unfinished_run_is_a_shorter_one(tmp_path):
    bench = make_benchmark(20)
    with pytest.raises(RuntimeError):
        run(FakeLLM(fail_on="item-017"), bench, tmp_path / "r", **QUIET)
    part = open_run(tmp_path / "r")
    assert not part.is_complete and part.finished_blocks == (0, 1)
    assert len(part.predictions) == 16 == len(part.states("tower")) == len(part.gates) == part.activations.sizes["item"]
    assert np.isfinite(part.states("tower")).all() and "unfinished" in repr(part)
    # A middle block may be the missing one.
    (tmp_path / "r/blocks/00000.json").unlink()
    part = open_run(tmp_path / "r")
    assert part.predictions["id"].tolist() == list(bench.ids[8:16])
    assert part.activations["id"].values.tolist() == list(bench.ids[8:16])
    whole = run(FakeLLM(), bench, tmp_path / "s", **QUIET)
    np.testing.assert_array_equal(part.states("tower"), whole.states("tower")[8:16])
    np.testing.assert_array_equal(part.activations["encoder_mean"][:, -1], whole.states("tower")[8:16])


def test_reprs_escape_what_comes_from_data(tmp_path):
    bench = make_benchmark(4)
    items = [
        type(i)(**{**{f: getattr(i, f) for f in i.__dataclass_fields__}, "task_name": "<script>x</script>"})
        for i in bench
    ]
    made = run(FakeLLM("<b>"), Benchmark(items, name="<i>", source="s"), tmp_path / "r", progress=False)
    assert (
        "<script>" not in made._repr_html_()
        and "<b>" not in made._repr_html_()
        and "&lt;script&gt;" in made._repr_html_()
    )
    assert "4 of 4 items" in repr(made)


def test_agreement_and_letter_bias(tmp_path):
    made = run(FakeLLM(), make_benchmark(30), tmp_path / "r", **QUIET, generate=True, text_scores=True)
    table = made.agreement().set_index(["a", "b"])
    assert table.loc[("pred_logits", "pred_generated"), "agree"] == 1.0 and len(table) == 3
    same = (made.predictions["pred_logits"] == made.predictions["pred_text_score"]).mean()
    assert table.loc[("pred_logits", "pred_text_score"), "agree"] == pytest.approx(same)
    bias = made.letter_bias()
    assert bias["picked"].sum() == pytest.approx(1) and bias["excess"].sum() == pytest.approx(0)
    a = bias.set_index("letter").loc["A"]
    assert a["picked"] == pytest.approx((made.predictions["pred_logits"] == "Female").mean())
    assert a["truth"] == pytest.approx((made.predictions["truth"] == "Female").mean())
    assert a["excess"] == pytest.approx(a["picked"] - a["truth"]) and a["offered"] == 30
    bare = run(FakeLLM(), make_benchmark(30), tmp_path / "s", **QUIET)
    assert len(bare.agreement()) == 0
    with pytest.raises(RunError, match="allowed: 'pred_logits'"):
        bare.letter_bias("pred_generated")


def test_predictions_jsonl(tmp_path):
    bench = make_benchmark(9, bad=(2,))
    made = run(FakeLLM(), bench, tmp_path / "r", **QUIET, generate=True)
    rows = [json.loads(line) for line in made.predictions_jsonl(tmp_path / "p.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == list(bench.ids)
    assert rows[0]["answer_gt"] == bench[0].truth and rows[0]["adversarial_labels"] == list(bench[0].claims)
    assert rows[0]["prediction"] == made.predictions["pred_generated_raw"][0] and rows[2]["prediction"] == ""
    assert rows[0]["prediction_kind"] == "pred_generated"
    logits = made.predictions_jsonl(tmp_path / "q.jsonl", "pred_logits").read_text().splitlines()
    assert json.loads(logits[0])["prediction"] in ("(A) Female", "(B) Male")


def test_the_manifest_names_what_numbers_depend_on(tmp_path):
    bench, llm = make_benchmark(5), FakeLLM()
    made = run(llm, bench, tmp_path / "r", progress=False).manifest
    assert made["model"]["weights"] == llm.weights_sha and made["benchmark"]["sha"] == bench.sha
    assert made["prompt"]["sha"] == DEFAULT_PROMPT.sha and made["parser_version"] == "1.0"
    assert made["plan"]["tower"] == ["mean", "segments(6)"] and made["model"]["dtype"] == "float32"
    assert {"torch", "transformers", "numpy", "zarr", "python"} <= set(made["versions"])
    assert made["code"]["version"] == "0.1.0" and made["letters"] == {"A": "one token", "B": "one token"}


def test_results_folder_and_dataframe(tmp_path):
    made = run(FakeLLM(), make_benchmark(3), tmp_path / "r", progress=False)
    assert made.results == tmp_path / "r" / "results" and made.results.is_dir()
    table = made.to_dataframe()
    table["id"] = "changed"
    assert made.predictions["id"].iloc[0] == "item-000"
    assert fakes.make_benchmark(3) == make_benchmark(3)
