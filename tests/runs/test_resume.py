"""Kill -9 at any moment, call again, get the Run that was never interrupted; and one writer at a time."""

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import threading
import time

import pytest
from fakes import FakeLLM, make_benchmark
from soak import Forker
from test_runs import assert_same_run

from vpanalysis import _blocks, _predictions, _writing, open_run, run
from vpanalysis.capture.audio_cache import AudioCache
from vpanalysis.capture.store import ActivationStore
from vpanalysis.errors import RunError
from vpanalysis.runs import encode_clips

ITEMS = 40


@pytest.fixture(scope="module")
def forker():
    made = Forker(delay_s=0.01, items=ITEMS)
    yield made
    made.close()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    bench = make_benchmark(ITEMS, bad=(6,), long=(11,))
    return run(FakeLLM(), bench, folder / "r", block_size=4, batch_size=2, cache=folder / "c", progress=False)


def wait_for(condition, limit_s=60.0):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.002)


def kill_and_resume(forker, uninterrupted, tmp_path, *, kills, seed):
    """Kill a run `kills` times at random moments, each time after some more work, then let it finish."""
    rng = random.Random(seed)
    out, cache = tmp_path / "r", tmp_path / "c"
    killed, blocks_seen = 0, set()
    for _ in range(kills):
        pid = forker.start(out, cache=str(cache))
        # Any moment: while the folder is made, while a block is computed, between two files of a block.
        before = len(list(out.glob("blocks/*.json")))
        target = min(before + rng.choice([0, 0, 1, 2]), ITEMS // 4 - 1)
        wait_for(lambda target=target: out.exists() and len(list(out.glob("blocks/*.json"))) >= target)
        time.sleep(rng.uniform(0, 0.12))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        status = forker.status()
        killed += os.WIFSIGNALED(status)
        if (out / "manifest.json").exists():
            part = open_run(out)
            blocks_seen.add(len(part.finished_blocks))
            if len(part.predictions):
                assert len(part.states("tower")) == len(part.predictions)
    forker.start(out, cache=str(cache))
    assert forker.status() == 0
    made = open_run(out)
    assert made.is_complete
    assert_same_run(made, uninterrupted)
    assert [p for p in out.rglob("*") if p.name.endswith((".part", ".partial"))] == []
    return killed, blocks_seen


def test_killed_at_random_moments_a_run_ends_as_if_it_had_not_been(forker, uninterrupted, tmp_path):
    killed, blocks_seen = kill_and_resume(forker, uninterrupted, tmp_path, kills=7, seed=1)
    assert killed >= 3 and len(blocks_seen) >= 2


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_killed_again_and_again(forker, uninterrupted, tmp_path, seed):
    kill_and_resume(forker, uninterrupted, tmp_path, kills=20, seed=seed)


@pytest.mark.parametrize("step", ["store", "predictions", "marker", "one variable", "cache"])
@pytest.mark.parametrize("at", [0, 2])
def test_stopped_between_any_two_steps_of_a_block(tmp_path, monkeypatch, step, at):
    """The same without luck: stop before the given step of the given block."""
    bench = make_benchmark(14, bad=(6,))
    settings = {"block_size": 4, "batch_size": 2, "progress": False}
    whole = run(FakeLLM(), bench, tmp_path / "whole", **settings, cache=tmp_path / "c1")
    calls = []

    class Stop(BaseException):
        pass

    def stop_at(original, wanted):
        def wrapped(*args, **kwargs):
            calls.append(1)
            if len(calls) > wanted:
                raise Stop
            return original(*args, **kwargs)

        return wrapped

    if step == "store":
        monkeypatch.setattr(ActivationStore, "write", stop_at(ActivationStore.write, at))
    elif step == "one variable":
        # Arrays that are asked for while a block is written; opening the store looks at each of them, too.
        stopping, plain, write = (
            stop_at(ActivationStore._array, 6 * at + 2),
            ActivationStore._array,
            ActivationStore.write,
        )

        def writing(store, *args, **kwargs):
            monkeypatch.setattr(ActivationStore, "_array", stopping)
            write(store, *args, **kwargs)
            monkeypatch.setattr(ActivationStore, "_array", plain)

        monkeypatch.setattr(ActivationStore, "write", writing)
    elif step == "predictions":
        monkeypatch.setattr("vpanalysis._worker.write_predictions", stop_at(_predictions.write_predictions, at))
    elif step == "marker":
        monkeypatch.setattr(_blocks, "write_marker", stop_at(_blocks.write_marker, at))
    else:
        monkeypatch.setattr(AudioCache, "put", stop_at(AudioCache.put, 4 * at + 1))
    with pytest.raises(Stop):
        run(FakeLLM(), bench, tmp_path / "r", **settings, cache=tmp_path / "c2")
    monkeypatch.undo()
    assert open_run(tmp_path / "r").finished_blocks == tuple(range(at))
    assert_same_run(run(FakeLLM(), bench, tmp_path / "r", **settings, cache=tmp_path / "c2"), whole)


class Touchy(FakeLLM):
    """The last bits of whose encodings depend on what shares the batch, as on a GPU."""

    def encode(self, waves, streams=None):
        clips = super().encode(waves, streams)
        for clip in clips:
            for name, stream in clip.streams.items():
                clip.streams[name] = stream * (1 + 1e-6 * len(waves))
        return clips


@pytest.mark.parametrize("puts", [1, 2, 3, 5, 6])
def test_stopped_while_a_half_cached_group_is_stored(tmp_path, monkeypatch, puts):
    """Some clips were encoded for another benchmark, in other batches; a stop must not mix old and new."""
    bench = make_benchmark(8)
    settings = {"block_size": 8, "batch_size": 4, "progress": False}
    caches = [tmp_path / "c1", tmp_path / "c2"]
    # The longest of each batch of four is there already: the last to be stored, were it stored in order.
    longest = sorted(bench, key=lambda item: item.duration_s)[3::4]
    for cache in caches:
        assert encode_clips(Touchy(), bench.select(ids=[i.id for i in longest]), cache=cache, batch_size=2) == 2
    whole = run(Touchy(), bench, tmp_path / "whole", **settings, cache=caches[0])
    original, calls = AudioCache.put, []

    def put(self, key, clip):
        calls.append(key)
        if len(calls) > puts:
            raise KeyboardInterrupt
        original(self, key, clip)

    monkeypatch.setattr(AudioCache, "put", put)
    with pytest.raises(KeyboardInterrupt):
        run(Touchy(), bench, tmp_path / "r", **settings, cache=caches[1])
    monkeypatch.undo()
    assert_same_run(run(Touchy(), bench, tmp_path / "r", **settings, cache=caches[1]), whole)


def test_finished_blocks_are_never_done_again(tmp_path):
    bench, llm = make_benchmark(16), FakeLLM(fail_on="item-009")
    with pytest.raises(RuntimeError):
        run(llm, bench, tmp_path / "r", block_size=4, batch_size=4, progress=False, cache=None)
    before = {p: p.read_bytes() for b in (0, 1) for p in (tmp_path / "r").rglob(f"*{b:05d}.*")}
    llm.fail_on, llm.forwards = None, 0
    run(llm, bench, tmp_path / "r", block_size=4, batch_size=4, progress=False, cache=None)
    assert llm.forwards == 1 + 2 and before == {p: p.read_bytes() for p in before}


# --- one writer ---------------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_and_a_dead_one_is_forgotten(forker, tmp_path):
    out = tmp_path / "r"
    pid = forker.start(out, cache=None, delay_s=0.2)
    wait_for(lambda: (out / "run.lock").exists() and "process" in (out / "run.lock").read_text())
    bench = make_benchmark(ITEMS, bad=(6,), long=(11,))
    settings = {"block_size": 4, "batch_size": 2, "progress": False, "cache": None}
    for force in (False, True):
        with pytest.raises(RunError, match=rf"process {pid} on .* writing it; allowed: one writer at a time"):
            run(FakeLLM(), bench, out, **settings, force=force)
    os.kill(pid, signal.SIGKILL)
    assert os.WIFSIGNALED(forker.status())
    assert run(FakeLLM(), bench, out, **settings).is_complete


def test_two_threads_of_one_process_cannot_write_one_run(tmp_path):
    llm, bench = FakeLLM(delay_s=0.05), make_benchmark(24)
    settings = {"block_size": 4, "batch_size": 2, "progress": False, "cache": None}
    thread = threading.Thread(target=run, args=(llm, bench, tmp_path / "r"), kwargs=settings)
    thread.start()
    wait_for(lambda: (tmp_path / "r" / "manifest.json").exists())
    with pytest.raises(RunError, match="this process"):
        run(FakeLLM(), bench, tmp_path / "r", **settings)
    thread.join()
    assert run(llm, bench, tmp_path / "r", **settings).is_complete


def _hold(folder, entered, leave):
    with _blocks.writing(folder):
        entered.set()
        leave.wait(20)


def test_the_lock_opens_when_the_writer_leaves(tmp_path):
    context = multiprocessing.get_context("spawn")
    entered, leave = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, entered, leave))
    process.start()
    assert entered.wait(60)
    with pytest.raises(RunError, match=f"process {process.pid} on"), _blocks.writing(tmp_path):
        pass
    leave.set()
    process.join()
    with _blocks.writing(tmp_path), pytest.raises(RunError, match="this process"), _blocks.writing(tmp_path):
        pass
    with _blocks.writing(tmp_path):
        pass


def test_an_interrupted_deletion_is_not_gone_on_with(tmp_path, monkeypatch):
    bench, settings = make_benchmark(8), {"block_size": 4, "progress": False, "cache": None}
    whole = run(FakeLLM(), bench, tmp_path / "r", **settings).activations["id"].values.tolist()

    def torn(folder):
        if folder.name == "blocks":
            return shutil.rmtree(folder)
        shutil.rmtree(folder / "id", ignore_errors=True)
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(_writing, "remove_tree", torn)
            run(FakeLLM(), bench, tmp_path / "r", **settings, force=True)
    assert run(FakeLLM(), bench, tmp_path / "r", **settings).activations["id"].values.tolist() == whole
    # And what an interrupted one has left does not stand in the way of the next.
    (tmp_path / "r" / "activations.zarr.part").mkdir()
    assert run(FakeLLM(), bench, tmp_path / "r", **settings, force=True).is_complete
    assert not (tmp_path / "r" / "activations.zarr.part").exists()


def test_what_a_worker_left_half_written_that_died_is_swept_up(tmp_path):
    out = tmp_path / "r"

    class Leaving(FakeLLM):
        def prepare(self, items, *args, **kwargs):
            if (out / "activations.zarr").is_dir():  # as an actor leaves it whose block is done again by another
                for name in ("predictions/0.part", "activations.zarr/gate/c.0.0.partial"):
                    (out / name).parent.mkdir(exist_ok=True)
                    (out / name).touch()
            return super().prepare(items, *args, **kwargs)

    run(Leaving(), make_benchmark(4), out, block_size=4, batch_size=1, progress=False, cache=None)
    assert not [p for p in out.rglob("*") if p.name.endswith((".part", ".partial"))]
