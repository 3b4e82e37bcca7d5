"""The same Run from a Ray cluster: values, faults, and what is refused."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from fakes import FakeLLM, make_benchmark
from test_runs import assert_same_run

from vpanalysis import _blocks, open_run, run
from vpanalysis._cluster import loopback
from vpanalysis.errors import ModelError, RunError

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
ray = pytest.importorskip("ray", reason="ray is not installed (the extra 'ray')")

ITEMS = 22
SETTINGS = {"block_size": 4, "batch_size": 2, "progress": False, "cache": None}


@contextmanager
def environment():
    """Let processes of a cluster find the fakes, as they would find the modules of an installed package."""
    here = Path(__file__).resolve().parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(here.parent), *sys.path]))
        yield


def start():
    """Start a small cluster on the loopback interface."""
    for tries_left in (2, 1, 0):
        try:
            with loopback():
                ray.init(
                    address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 << 20,
                    log_to_driver=False, logging_level="error", _node_ip_address="127.0.0.1",
                )  # fmt: skip
            return
        except Exception:  # a busy machine: Ray waits half a minute for its own processes, and no longer
            ray.shutdown()
            if not tries_left:
                raise


@pytest.fixture(scope="module")
def cluster():
    with environment():
        start()
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    bench = make_benchmark(ITEMS, bad=(6,), long=(11,))
    return run(FakeLLM(), bench, tmp_path_factory.mktemp("alone") / "r", **SETTINGS)


def assert_same(made, reference):
    """Predictions, arrays, and the manifest but for the time."""
    assert made.is_complete
    assert_same_run(made, reference)
    mine, other = ({k: v for k, v in r.manifest.items() if k != "created"} for r in (made, reference))
    assert mine == other


class Faulty(FakeLLM):
    """Does something once, or always, when it meets an item; which one, and how often, is told by a folder."""

    def __init__(self, place, *, on="item-009", times=1, how="kill", **settings) -> None:
        super().__init__(**settings)
        self.place, self.on, self.times, self.how = Path(place), on, times, how

    def prepare(self, items, *args, **kwargs):
        if any(item.id == self.on for item in items):
            met = len(list(self.place.glob("met-*")))
            (self.place / f"met-{met}-{os.getpid()}").touch()
            if met < self.times:
                if self.how == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise RuntimeError("the model is unwell")
        return super().prepare(items, *args, **kwargs)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_run_is_the_same_with_any_number_of_workers(cluster, alone, tmp_path, workers):
    bench = make_benchmark(ITEMS, bad=(6,), long=(11,))
    made = run(FakeLLM(), bench, tmp_path / "r", engine="ray", workers=workers, **SETTINGS)
    assert_same(made, alone)
    assert not [p for p in made.path.rglob("*") if p.name.endswith((".part", ".partial"))]
    markers = [[_blocks.read_marker(r.path, b) for b in range(r.n_blocks)] for r in (made, alone)]
    assert markers[0] == markers[1]  # counts of what is not finite, and checksums
    # Finished is finished, whoever asks.
    before = {p: p.stat().st_mtime_ns for p in made.path.rglob("*") if p.is_file()}
    assert run(FakeLLM(), bench, tmp_path / "r", **SETTINGS).is_complete
    assert before == {p: p.stat().st_mtime_ns for p in made.path.rglob("*") if p.is_file()}


def test_a_model_by_its_name_is_loaded_by_the_actors(cluster, tmp_path):
    from vpanalysis import load_benchmark

    pytest.importorskip("espeakng_loader")
    bench = load_benchmark("mini", tasks=["gender_prediction"], limit=8)
    settings = {"block_size": 4, "progress": False, "cache": tmp_path / "c"}
    options = {"dtype": "float32"}
    here = run("mini", bench, tmp_path / "a", **settings, model_options=options)
    assert_same_run(run("mini", bench, tmp_path / "b", **settings, engine="ray", model_options=options), here)


def test_an_actor_killed_in_a_block_is_replaced(cluster, alone, tmp_path):
    bench = make_benchmark(ITEMS, bad=(6,), long=(11,))
    made = run(Faulty(tmp_path), bench, tmp_path / "r", engine="ray", workers=2, **SETTINGS)
    assert len({p.name.split("-")[2] for p in tmp_path.glob("met-*")}) == 2  # two processes met it
    assert_same(made, alone)


@pytest.mark.parametrize("how", ["raise", pytest.param("kill", marks=pytest.mark.soak)])
def test_a_block_that_fails_three_times_is_marked_and_the_rest_goes_on(cluster, alone, tmp_path, how):
    bench = make_benchmark(ITEMS, bad=(6,), long=(11,))
    out = tmp_path / "r"
    made = run(Faulty(tmp_path, times=99, how=how), bench, out, engine="ray", workers=1, **SETTINGS)
    assert made.is_complete
    # Two blocks may share a process; one that is killed by the other's fault three times is marked as well.
    table = made.predictions.set_index("id")
    marked = table[table["reason"].fillna("").str.contains("failed 3 times")]
    assert set(f"item-{n:03d}" for n in range(8, 12)) <= set(marked.index) and set(marked["status"]) == {"failed"}
    assert len(marked) == 4 or how == "kill"
    said = "RuntimeError: the model is unwell" if how == "raise" else "its worker died"
    assert marked["reason"].str.contains(said).all()
    assert len(list(tmp_path.glob("met-*"))) == 3
    # Without its marker a block is done again, by either engine.
    for block in range(made.n_blocks):
        if "gave_up" in (_blocks.read_marker(out, block) or {}):
            _blocks.marker(out, block).unlink()
    assert_same(run(FakeLLM(), bench, out, **SETTINGS), alone)


def test_trouble_with_writing_ends_the_call_and_spoils_nothing(cluster, alone, tmp_path):
    bench = make_benchmark(ITEMS, bad=(6,), long=(11,))
    out = tmp_path / "r"
    # A file where the folder of predictions belongs, as after a mistake of someone else.
    run(FakeLLM(), bench, out, **SETTINGS)
    for path in (*out.glob("predictions/*"), *out.glob("blocks/*")):
        path.unlink()
    (out / "predictions").rmdir()
    (out / "predictions").write_text("")
    with pytest.raises(RunError, match=r"cannot write block \d of the Run .*predictions.*finished blocks are kept"):
        run(FakeLLM(), bench, out, engine="ray", workers=1, **SETTINGS)
    assert open_run(out).finished_blocks == ()
    (out / "predictions").unlink()
    assert_same(run(FakeLLM(), bench, out, **SETTINGS), alone)


def test_the_lock_of_a_local_folder_holds_for_this_engine_too(cluster, tmp_path):
    bench, out = make_benchmark(ITEMS), tmp_path / "r"
    out.mkdir()
    with _blocks.writing(out), pytest.raises(RunError, match="one writer at a time"):
        run(FakeLLM(), bench, out, engine="ray", workers=1, **SETTINGS)


def test_a_block_is_not_declared_finished_in_what_another_driver_has_begun(tmp_path, monkeypatch):
    from vpanalysis._ray_actor import Hand
    from vpanalysis._saved import manifest_sha
    from vpanalysis._worker import Setup, Worker
    from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
    from vpanalysis.capture.reducers import make_plan
    from vpanalysis.capture.store import ActivationStore

    bench, out, write = make_benchmark(4), tmp_path / "r", ActivationStore.write
    llm = FakeLLM()
    run(llm, bench, out, **SETTINGS)
    _blocks.forget(out, 0)
    hand = Hand({})
    hand._worker = Worker(llm)

    def slow(self, block, states):
        write(self, block, states)
        (out / "manifest.json").write_text((out / "manifest.json").read_text() + " ")

    monkeypatch.setattr(ActivationStore, "write", slow)
    setup = Setup(out, DEFAULT_PROMPT, make_plan(llm.sites, None, None), None, 2, False, False, 16)
    with pytest.raises(RunError, match="no manifest there, or another Run's"):
        hand._try([None], setup, manifest_sha(out), 0, list(bench))
    assert open_run(out).finished_blocks == ()


def test_blocks_that_nobody_is_left_for_are_no_finished_run(cluster, tmp_path, monkeypatch):
    from ray.util import ActorPool

    monkeypatch.setattr(ActorPool, "has_next", lambda self: False)
    with pytest.raises(RunError, match="no worker left for 6 blocks; call it again"):
        run(FakeLLM(), make_benchmark(ITEMS), tmp_path / "r", engine="ray", workers=1, **SETTINGS)


# --- nodes and drivers that die -----------------------------------------------------------------------------------

DRIVER = """
import sys, ray
sys.path[:0] = {path!r}
from fakes import FakeLLM, make_benchmark
from test_engine_ray import ITEMS, SETTINGS, start
from vpanalysis import run
start()
run(FakeLLM(delay_s=0.2), make_benchmark(ITEMS, bad=(6,), long=(11,)), {out!r}, engine="ray", workers=2, **SETTINGS)
"""


@pytest.mark.soak
@pytest.mark.parametrize("engine", ["ray", "local"])
def test_a_killed_driver_leaves_what_the_next_call_resumes(alone, tmp_path, engine):
    bench, out = make_benchmark(ITEMS, bad=(6,), long=(11,)), tmp_path / "r"
    with environment():
        program = DRIVER.format(path=os.environ["PYTHONPATH"].split(os.pathsep), out=str(out))
        driver = subprocess.Popen([sys.executable, "-c", program])
    wait_for(lambda: len(list(out.glob("blocks/*.json"))) >= 2)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    done = open_run(out).finished_blocks
    assert 2 <= len(done) < 6
    before = {b: _blocks.marker(out, b).stat().st_mtime_ns for b in done}
    if engine == "ray":
        with environment():
            start()
    try:
        made = run(FakeLLM(), bench, out, engine=engine, **SETTINGS)
    finally:
        if engine == "ray":
            ray.shutdown()
    assert_same(made, alone)
    assert before == {b: _blocks.marker(out, b).stat().st_mtime_ns for b in done}


@pytest.mark.soak
def test_a_node_that_dies_loses_nothing(alone, tmp_path):
    from ray.cluster_utils import Cluster

    bench, out = make_benchmark(ITEMS, bad=(6,), long=(11,)), tmp_path / "r"
    ray.shutdown()  # the cluster of the other tests has one node
    with environment():
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        second = nodes.add_node(num_cpus=1)
        ray.init(address=nodes.address, log_to_driver=False, logging_level="error")
    made = []
    try:
        assert ray.cluster_resources()["CPU"] == 2
        slow = FakeLLM(delay_s=0.5)
        call = threading.Thread(
            target=lambda: made.append(run(slow, bench, out, engine="ray", workers=2, **SETTINGS))
        )  # fmt: skip
        call.start()
        # Both nodes are at work before one of them dies.
        wait_for(lambda: len(list(out.glob("blocks/*.json"))) >= 1 and ray.available_resources().get("CPU", 0) == 0)
        nodes.remove_node(second, allow_graceful=False)
        call.join(200)
        assert made, "the Run did not end"
    finally:
        ray.shutdown()
        nodes.shutdown()
    assert_same(made[0], alone)


OWN = """
import os, sys, signal
sys.path[:0] = {path!r}
from fakes import FakeLLM, make_benchmark
from vpanalysis import cli, run

def slow(args, prog_name, standalone_mode):
    run(FakeLLM(delay_s=0.3), make_benchmark(200), {out!r}, engine="ray", workers=1, block_size=4, batch_size=2,
        progress=False, cache=None)

cli.app = slow
cli.main(["run"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_cluster_of_its_own_is_on_the_loopback_interface_and_goes_with_the_driver(tmp_path):
    out = tmp_path / "r"
    with environment(), pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        program = OWN.format(path=os.environ["PYTHONPATH"].split(os.pathsep), out=str(out))
        driver = subprocess.Popen([sys.executable, "-c", program], start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: list(out.glob("blocks/*.json")) or driver.poll() is not None)
        family = processes_of(driver.pid)
        places = listening(family)
        assert len(family) > 3 and places and all(place.is_loopback for place in places), places
        driver.terminate()
        assert driver.wait(60) == 143  # as vpanalysis ends, and not in the middle of something
        wait_for(lambda: not processes_of(driver.pid), 30)
    finally:
        for pid in processes_of(driver.pid):
            os.kill(pid, signal.SIGKILL)
        driver.wait()
    assert open_run(out).finished_blocks and not open_run(out).is_complete


def processes_of(session):
    """Return the processes of a session that are alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            facts = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if facts[0] != "Z" and int(facts[3]) == session:
            found.append(int(stat.parent.name))
    return found


def listening(pids):
    """Return the addresses on which processes listen for TCP."""
    held = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):
                held.add(os.readlink(link))
    found = []
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            facts = line.split()
            if facts[3] == "0A" and f"socket:[{facts[9]}]" in held:
                words = bytes.fromhex(facts[1].split(":")[0])
                raw = b"".join(words[n : n + 4][::-1] for n in range(0, len(words), 4))
                place = ipaddress.ip_address(raw)
                found.append(getattr(place, "ipv4_mapped", None) or place)
    return found


def wait_for(condition, limit_s=120.0):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


class Unsendable(FakeLLM):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def test_what_cannot_be_is_one_sentence(cluster, tmp_path):
    bench = make_benchmark(4)
    with pytest.raises(RunError, match=r"cannot send the model 'fake' to .*: found TypeError.*model_options"):
        run(Unsendable(), bench, tmp_path / "r", engine="ray", **SETTINGS)
    with pytest.raises(RunError, match=r"found engine='rya'; allowed: 'local', 'ray' .did you mean 'ray'"):
        run(FakeLLM(), bench, tmp_path / "r", engine="rya", **SETTINGS)
    with pytest.raises(RunError, match="found workers=2 with engine='local'; add engine='ray'"):
        run(FakeLLM(), bench, tmp_path / "r", workers=2, **SETTINGS)
    with pytest.raises(RunError, match="workers=0; allowed: 1 or more"):
        run(FakeLLM(), bench, tmp_path / "r", engine="ray", workers=0, **SETTINGS)
    with pytest.raises(RunError, match="model_options: found a loaded model"):
        run(FakeLLM(), bench, tmp_path / "r", model_options={"dtype": "float32"}, **SETTINGS)
    with pytest.raises(ModelError, match="cannot load the model 'no-such-model': found no such name"):
        run("no-such-model", bench, tmp_path / "r", engine="ray", **SETTINGS)
    assert not (tmp_path / "r").exists()


@pytest.mark.soak
def test_the_measurement_of_scale_runs_and_says_what_is_so(tmp_path):
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "scale.py"
    target = tmp_path / "facts.json"
    sizes = ["--items", "256", "--workers", "1", "--delay", "0.05", "--blocks", "3"]
    made = subprocess.run(
        [sys.executable, str(script), *sizes, "--json", str(target)], capture_output=True, text=True, timeout=400
    )
    assert made.returncode == 0, made.stderr
    facts = json.loads(target.read_text())
    assert [row["workers"] for row in facts["table"]] == [row["workers"] for row in facts["overheads"]] == [0, 1]
    for row in facts["table"]:
        assert row["items"] == 256 and row["block_s"] > 0 and 4 * row["block_s"] < 10 * row["wall_s"]
        assert 50 < row["before_mb"] <= row["peak_mb"] < 2_000
    # A block of 4 forwards takes at least as long as they sleep: no actor is counted twice.
    assert all(row["items"] == 192 and row["block_s"] > 0.19 and row["overhead"] > -0.05 for row in facts["overheads"])
    assert "peak memory of the driver" in made.stdout and "overhead of a block" in made.stdout
