"""Full disks, folders that may not be written, too few open files, clocks that go back, damaged files.

Each case happens to a process of its own (a fork), so that no limit outlives it: finished blocks are intact, the error
is one sentence, and a later call ends with the Run that knew no trouble.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import resource
import subprocess
import traceback
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import soundfile
from fakes import RATE, FakeLLM, make_benchmark
from test_runs import assert_same_run

import vpanalysis._space
import vpanalysis._writing
from vpanalysis import cli, open_run, run
from vpanalysis.benchmark.audio import FileAudio
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.errors import RunError

SETTINGS = {"block_size": 4, "batch_size": 2, "progress": False, "cache": None}
ITEMS = 14


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(FakeLLM(), make_benchmark(ITEMS), tmp_path_factory.mktemp("whole") / "r", **SETTINGS)


def half(out: Path) -> Path:
    """Make a Run of which two of four blocks are finished."""
    with pytest.raises(RuntimeError, match="the model failed"):
        run(FakeLLM(fail_on="item-009"), make_benchmark(ITEMS), out, **SETTINGS)
    assert open_run(out).finished_blocks == (0, 1)
    return out


def in_child(work) -> str:
    """Run `work` in a fork; return what it returned, or the message of its RunError; fail on anything else."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code, said = 1, ""
        try:
            said, code = str(work()), 0
        except RunError as error:
            said, code = f"RunError: {error}", 0
        except BaseException:
            said = traceback.format_exc()
        os.write(write, said.encode()[-60_000:])
        os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    assert status == 0, said
    return said


def go_on(out: Path, bench: Benchmark | None = None):
    return run(FakeLLM(), make_benchmark(ITEMS) if bench is None else bench, out, **SETTINGS)


def mount(*words: object) -> None:
    """Mount in a namespace of this process's own, or leave by a message that says why not."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(mount, "apart"):
        if libc.unshare(0x00020000) != 0:  # CLONE_NEWNS
            raise RunError("SKIP", found=f"no namespace of mounts ({os.strerror(ctypes.get_errno())})")
        subprocess.run(["mount", "--make-rprivate", "/"], check=False, capture_output=True)
        mount.apart = True
    done = subprocess.run(["mount", *map(str, words)], check=False, capture_output=True, text=True)
    if done.returncode:
        raise RunError("SKIP", found=f"mounting is not allowed here ({done.stderr.strip()})")


def unless_skipped(said: str) -> str:
    if said.startswith("RunError: SKIP"):
        pytest.skip(said.removeprefix("RunError: SKIP: found "))
    return said


def intact(out: Path, blocks: tuple[int, ...]) -> None:
    found = open_run(out)
    assert found.finished_blocks == blocks and found.verify().ok
    assert [p.name for p in out.rglob("*") if p.name.endswith((".part", ".partial"))] == []


@pytest.mark.parametrize("largest", [200, 1_000, 3_000])
def test_no_room_in_the_middle_of_a_block(tmp_path, whole, largest):
    out = half(tmp_path / "r")

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
        return go_on(out)

    said = in_child(work)
    assert said.startswith("RunError: cannot write block 2 of the Run"), said
    assert "found file too large" in said and "finished blocks are kept" in said and len(said.splitlines()) == 1
    intact(out, (0, 1))
    assert_same_run(go_on(out), whole)


def test_no_room_for_the_first_file(tmp_path):
    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        return go_on(tmp_path / "r")

    said = in_child(work)
    assert said.startswith("RunError: cannot write the Run") and "file too large" in said
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == ["run.lock"]


def test_a_disk_that_fills_up(tmp_path, whole):
    place = tmp_path / "small"
    place.mkdir()

    def work():
        mount("-t", "tmpfs", "-o", "size=200k", "tmpfs", place)
        # What is free is asked beforehand; here somebody else takes it meanwhile.
        vpanalysis._space._free = lambda folder: 1 << 40
        said = ""
        try:
            go_on(place / "r")
        except RunError as error:
            said = str(error)
        blocks = open_run(place / "r").finished_blocks
        intact(place / "r", blocks)
        subprocess.run(["mount", "-o", "remount,size=20m", place], check=True)
        assert_same_run(go_on(place / "r"), whole)
        return json.dumps([said, len(blocks)])

    said, blocks = json.loads(unless_skipped(in_child(work)))
    assert "found no space left on device" in said and "free some space and call again" in said
    assert 1 <= blocks < 4, "the size of the disk does not test the middle of a Run"


def test_a_folder_that_may_only_be_read(tmp_path, whole):
    out = half(tmp_path / "r")

    def work():
        for folder in (out, whole.path):
            mount("--bind", folder, folder)
            mount("-o", "remount,bind,ro", folder)
        # All that reads works, and a finished Run is found.
        found = open_run(whole.path)
        assert found.verify().ok and found.states("tower").shape and found.activations.sizes and repr(found)
        assert len(found.kept()) == 0 and go_on(whole.path).is_complete
        said = []
        for call in (lambda: go_on(out), lambda: go_on(out / "new" / "r")):
            try:
                call()
            except RunError as error:
                said.append(str(error))
        return json.dumps(said)

    said = json.loads(unless_skipped(in_child(work)))
    assert len(said) == 2
    for text in said:
        assert text.startswith("cannot write ") and "read-only file system" in text
        assert "choose a folder that you may write to" in text
    intact(out, (0, 1))
    assert_same_run(go_on(out), whole)


def test_a_folder_of_somebody_else(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    out = half(tmp_path / "r")
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid != 0 or folder == Path("/tmp"):
            break
        os.chmod(folder, folder.stat().st_mode | 0o011)
    for path in (out, *out.rglob("*")):
        os.chmod(path, 0o755 if path.is_dir() else 0o644)

    def work():
        os.setgid(65534)
        os.setuid(65534)
        return go_on(out)

    said = in_child(work)
    assert "cannot write the lock of the Run" in said and "permission denied ('run.lock')" in said, said
    intact(out, (0, 1))


@pytest.mark.parametrize("spare", [0, 1, 2, 3, 4, 6])
def test_too_few_open_files(tmp_path, whole, spare):
    """Nothing is lost, and no clip is called broken because the process could not open it."""
    bench = make_benchmark(ITEMS)
    items = []
    for number, item in enumerate(bench):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, item.audio.array, RATE, subtype="FLOAT")
        fields = {f: getattr(item, f) for f in item.__dataclass_fields__}
        items.append(type(item)(**{**fields, "audio": FileAudio(path)}))
    files = Benchmark(items, name=bench.name, source=bench.source)
    out = tmp_path / "r"

    def work():
        used = max(int(name) for name in os.listdir("/proc/self/fd")) + 2
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, used))
        taken = []
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        for number in taken[len(taken) - spare :] if spare else ():
            os.close(number)
        return "complete" if go_on(out, files).is_complete else "not complete"

    said = in_child(work)
    # With so few one of the lock, a clip and a file of the block cannot be open.
    if spare < 2:
        assert said.startswith("RunError: ") and "too many open files" in said, said
        assert "ulimit -n" in said
    else:
        assert said == "complete" or "too many open files" in said, said
    if (out / "manifest.json").exists():
        assert open_run(out).verify().ok
    assert_same_run(go_on(out, files), whole)


def test_a_clock_that_goes_back(tmp_path, whole, monkeypatch):
    out = half(tmp_path / "r")
    for path in out.rglob("*"):
        os.utime(path, (4_000_000_000, 4_000_000_000))  # as written long after now
    times = iter(range(10**9, 0, -3600))

    class Backwards(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.fromtimestamp(next(times), tz) - timedelta(days=9)

    monkeypatch.setattr("time.time", lambda: float(next(times)))
    monkeypatch.setattr("time.time_ns", lambda: next(times) * 10**9)
    monkeypatch.setattr(vpanalysis._writing, "datetime", Backwards)
    assert_same_run(go_on(out), whole)
    fresh = go_on(tmp_path / "fresh")
    assert_same_run(fresh, whole)
    assert fresh.verify().ok and fresh.manifest["created"] < "2002"


# --- damage -------------------------------------------------------------------------------------------------------


def stored(folder: Path, block: int) -> list[Path]:
    return [
        *folder.glob(f"activations.zarr/*/c.{block}.*"), folder / f"predictions/{block:05d}.parquet"
    ]  # fmt: skip


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return run(FakeLLM(), make_benchmark(ITEMS, bad=(6,)), tmp_path_factory.mktemp("copy") / "r", **SETTINGS,
               reducers={"tower": ["frames", "mean"]})  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_any_damage_is_found_and_named(copy, seed):
    rng = random.Random(seed)
    block = rng.randrange(4)
    path = stored(copy.path, block)[seed] if seed < 8 else rng.choice(stored(copy.path, block))
    good = path.read_bytes()
    bad = bytearray(good)
    at = rng.randrange(len(bad))
    if seed % 4 == 3:
        bad = bad[: rng.choice([0, at])]
    else:
        bad[at] ^= 1 << rng.randrange(8)
    path.write_bytes(bad)
    try:
        found = open_run(copy.path).verify()
        assert found.blocks == (block,) and not found.ok
        assert found.to_dataframe()["file"].tolist() == [path.relative_to(copy.path).as_posix()]
        assert f"damaged data in block {block}" in repr(found)
        with pytest.raises(RunError, match=f"damaged data in block {block} .*only that block is redone"):
            read_all(open_run(copy.path))
    finally:
        path.write_bytes(good)
    assert open_run(copy.path).verify().ok


def read_all(made) -> None:
    _ = made.predictions
    for site in made.sites:
        for reducer in made.reducers(site):
            made.states(site, reducer)


def test_only_the_damaged_block_is_redone(tmp_path, whole, capsys):
    out = tmp_path / "r"
    go_on(out)
    for path in (stored(out, 2)[0], stored(out, 2)[-1]):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 16
        path.write_bytes(data)
    with pytest.raises(SystemExit) as ended:
        cli.main(["check", str(out), "-q"])
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert "damaged data in block 2" in said.err and "predictions/00002.parquet" in said.out
    assert open_run(out).is_complete  # looking changes nothing
    with pytest.raises(SystemExit) as ended:
        cli.main(["check", str(out), "-q", "--redo", "--json"])
    assert ended.value.code == 0
    record = json.loads(capsys.readouterr().out)
    assert record["blocks"] == [2] and record["ok"] is False and len(record["rows"]) == 2
    others = {p: p.stat().st_mtime_ns for b in (0, 1, 3) for p in stored(out, b)}
    llm = FakeLLM()
    assert_same_run(run(llm, make_benchmark(ITEMS), out, **SETTINGS), whole)
    assert llm.forwards == 1 + 2 and others == {p: p.stat().st_mtime_ns for p in others}
    assert open_run(out).verify().ok


def test_damaged_labels_are_named_and_cost_no_block(tmp_path):
    out = tmp_path / "r"
    go_on(out)
    path = next(p for p in (out / "activations.zarr/condition").rglob("*") if p.is_file() and p.name != "zarr.json")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    found = open_run(out).verify(redo=True)
    assert not found.ok and found.blocks == () and "damaged labels" in found.sentence
    assert open_run(out).is_complete


def test_empty_files_are_not_taken_for_blocks(tmp_path, whole):
    """What a loss of power leaves: names without content."""
    out = tmp_path / "r"
    go_on(out)
    for variable in ("gate", "encoder_mean"):
        next((out / "activations.zarr" / variable).glob("c.1.*")).write_bytes(b"")
    with pytest.raises(RunError, match=r"damaged data in block 1 \(an empty file\)"):
        open_run(out).states("gate")
    llm = FakeLLM()
    assert_same_run(run(llm, make_benchmark(ITEMS), out, **SETTINGS), whole)
    assert llm.forwards == 1 + 2


def test_damaged_blocks_of_a_run_that_is_being_written_are_left_to_its_writer(tmp_path):
    from vpanalysis import _blocks

    out = tmp_path / "r"
    go_on(out)
    stored(out, 1)[0].write_bytes(b"")
    with _blocks.writing(out), pytest.raises(RunError, match="one writer at a time"):
        open_run(out).verify(redo=True)
    assert open_run(out).is_complete
