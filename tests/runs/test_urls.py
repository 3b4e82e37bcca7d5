"""A Run in an object store: the same Run, read and resumed from there, with one driver at a time."""

from __future__ import annotations

import json
import os
import threading
import time

import pandas as pd
import pytest
from fakes import FakeLLM, make_benchmark
from test_runs import assert_same_run

from vpanalysis import _lease, _writing, open_run, probe_layers, run, score
from vpanalysis._places import is_local, names_in, place_of
from vpanalysis.capture.store import ActivationStore
from vpanalysis.errors import RunError

pytest.importorskip("upath", reason="universal-pathlib is not installed (the extra 's3')")
pytest.importorskip("s3fs", reason="s3fs is not installed (the extra 's3')")
server = pytest.importorskip("moto.server", reason="moto[server] is not installed (the extra 'cluster')")

ITEMS = 14
SETTINGS = {"block_size": 4, "batch_size": 2, "progress": False, "cache": None}


@pytest.fixture(scope="module")
def bucket():
    """A server of S3's protocol on the loopback interface, and an empty bucket."""
    import boto3

    made = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    made.start()
    host, port = made.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield "s3://bucket"
    made.stop()


@pytest.fixture(scope="module")
def bench():
    return make_benchmark(ITEMS, bad=(6,), long=(11,))


@pytest.fixture(scope="module")
def local(tmp_path_factory, bench):
    return run(FakeLLM(), bench, tmp_path_factory.mktemp("here") / "r", **SETTINGS)


@pytest.fixture(scope="module")
def stored(bucket, bench):
    return run(FakeLLM(), bench, f"{bucket}/runs/whole", **SETTINGS)


def test_places():
    assert is_local(place_of("runs/mini")) and str(place_of("file:///a/b")) == "/a/b"
    assert is_local(place_of("C:/runs"))
    assert str(place_of("s3://bucket/runs/mini")) == "s3://bucket/runs/mini"
    with pytest.raises(RunError, match=r"cannot use the place 'nonsense://a/b': found no package"):
        place_of("nonsense://a/b")
    with pytest.raises(RunError, match="found a password in its URL") as caught:
        place_of("sftp://me:hidden@host/runs")
    assert "hidden" not in str(caught.value)


def test_the_run_under_a_url_is_the_same(stored, local):
    assert_same_run(stored, local)
    assert stored.name == "whole"
    mine, other = ({k: v for k, v in r.manifest.items() if k != "created"} for r in (stored, local))
    assert mine == other and "secret" not in json.dumps(stored.manifest)
    names = {p.name for p in stored.path.iterdir()}
    assert "run.lease" not in names and not any(n.endswith(".part") for n in names)


def test_analyses_read_it_there(stored, local):
    opened = open_run(str(stored.path))
    mine, other = (score(r).to_dataframe().drop(columns="name") for r in (opened, local))
    pd.testing.assert_frame_equal(mine, other)
    settings = {"sites": ["tower"], "target": "truth", "progress": False}
    mine, other = (probe_layers(r, **settings).to_dataframe() for r in (opened, local))
    assert mine["accuracy"].tolist() == other["accuracy"].tolist() and len(mine)


def test_a_result_is_kept_in_it(stored):
    result = probe_layers(stored, sites=["tower"], target="truth", progress=False)
    folder = result.save()
    assert str(folder).startswith(f"{stored.path}/results/")
    assert len(stored.kept()) == 1 and type(result).load(folder).to_dataframe().equals(result.to_dataframe())


def test_interrupted_it_is_resumed_and_finished_blocks_stay(bucket, bench, local):
    out = f"{bucket}/runs/part"
    with pytest.raises(RuntimeError):
        run(FakeLLM(fail_on="item-013"), bench, out, **SETTINGS)
    assert open_run(out).finished_blocks == (0, 1, 2)
    before = open_run(out).path.joinpath("predictions", "00001.parquet").stat().st_mtime
    llm = FakeLLM()
    assert_same_run(run(llm, bench, out, **SETTINGS), local)
    assert before == open_run(out).path.joinpath("predictions", "00001.parquet").stat().st_mtime
    # And a finished one returns at once; another model is refused; force starts over.
    llm.forwards = 0
    assert run(llm, bench, out, **SETTINGS).is_complete and llm.forwards == 0
    with pytest.raises(RunError, match="made with other settings: model weights"):
        run(FakeLLM(head_seed=3), bench, out, **SETTINGS)
    assert run(FakeLLM(head_seed=3), bench, out, **SETTINGS, force=True).is_complete
    assert not [p for p in place_of(out).iterdir() if p.name.startswith("run.")]


def test_a_missing_bucket_is_one_sentence(bucket, bench):
    with pytest.raises(RunError, match=r"cannot (use the place|open the Run) 's3://nobody-has-this"):
        open_run("s3://nobody-has-this/run")


# --- one driver ---------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(_lease, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(_lease, "LEASE_SECONDS", 1.0)


def wait_until_seen():
    """Wait until the driver of this process has seen that its lease is another's."""
    for thread in threading.enumerate():
        if thread.name == "vpanalysis-lease":
            thread.join(30)


def test_a_second_driver_is_refused_while_the_first_lives(bucket, bench, quick):
    place = place_of(f"{bucket}/runs/held")
    with _lease.leased(place), pytest.raises(RunError, match=rf"process {os.getpid()} on .* writing it; allowed: one"):
        run(FakeLLM(), bench, str(place), **SETTINGS)
    assert run(FakeLLM(), bench, str(place), **SETTINGS).is_complete


def test_a_dead_drivers_lease_is_taken_over_and_it_stops(bucket, bench, quick, monkeypatch):
    place = place_of(f"{bucket}/runs/dead")
    first = _lease.Lease(place)
    monkeypatch.setattr(first, "_renew", lambda: None)
    first._thread = type(first._thread)(target=lambda: None)
    first.take()
    begun = time.monotonic()
    with _lease.leased(place) as second:
        assert time.monotonic() - begun >= 1.0
        second.check()
        # The first one was stopped for so long that it has to look before it goes on, whoever renews.
        with pytest.raises(RunError, match="one writer at a time"):
            first.check()
        first.lost = None
        # The first one comes back to life: it finds that the lease is another's, and stops.
        _lease.Lease._renew(first)
        with pytest.raises(RunError, match="one writer at a time"):
            first.check()
        first.give_back()
        assert json.loads((place / "run.lease").read_bytes())["token"] == second.token


def test_a_run_whose_lease_was_taken_over_writes_no_further_block(bucket, bench, quick):
    out = f"{bucket}/runs/taken"

    class Slow(FakeLLM):
        def prepare(self, items, *args, **kwargs):
            if any(item.id == "item-009" for item in items):
                place = place_of(out) / "run.lease"
                place.write_bytes(json.dumps({"token": "x", "count": 1, "process": 7, "host": "far"}).encode())
                wait_until_seen()
            return super().prepare(items, *args, **kwargs)

    with pytest.raises(RunError, match="process 7 on far writing it"):
        run(Slow(), bench, out, **SETTINGS)
    assert open_run(out).finished_blocks == (0, 1)


def test_nobody_took_over_from_a_driver_that_was_stopped_and_it_goes_on(bucket, quick, monkeypatch):
    lease = _lease.Lease(place_of(f"{bucket}/runs/stopped"))
    lease._thread = type(lease._thread)(target=lambda: None)
    lease.take()
    time.sleep(1.1)
    lease.check()
    assert json.loads(lease.path.read_bytes())["count"] == 2
    lease.give_back()


def test_a_look_that_fails_does_not_say_that_a_lease_was_given_back(bucket, bench, quick, monkeypatch):
    place = place_of(f"{bucket}/runs/looked")
    read, looks = type(place).read_bytes, []
    monkeypatch.setattr(_lease, "BEAT_SECONDS", 0.6)

    def shaky(self):
        if self.name == "run.lease" and threading.current_thread() is threading.main_thread():
            looks.append(self)
            if len(looks) == 2:
                raise ConnectionError("the line is dead")
        return read(self)

    with _lease.leased(place):
        monkeypatch.setattr(type(place), "read_bytes", shaky)
        with pytest.raises(RunError, match="one writer at a time"), _lease.leased(place):
            pass
        assert len(looks) > 2


def test_a_block_is_not_declared_finished_once_the_lease_is_lost(bucket, bench, quick, monkeypatch):
    out, write = f"{bucket}/runs/late", ActivationStore.write

    def slow(self, block, states):
        write(self, block, states)
        if block == 1:
            (place_of(out) / "run.lease").write_bytes(json.dumps({"token": "x", "process": 7, "host": "far"}).encode())
            wait_until_seen()

    monkeypatch.setattr(ActivationStore, "write", slow)
    with pytest.raises(RunError, match="process 7 on far writing it"):
        run(FakeLLM(), bench, out, **SETTINGS)
    assert open_run(out).finished_blocks == (0,)


def test_an_interrupted_deletion_is_not_gone_on_with(bucket, bench, local, monkeypatch):
    out, remove = f"{bucket}/runs/torn", _writing.remove_tree
    run(FakeLLM(), bench, out, **SETTINGS)

    def torn(folder):
        if folder.name == "blocks":
            return remove(folder)
        folder.fs.rm(f"{folder.path}/id", recursive=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_writing, "remove_tree", torn)
        run(FakeLLM(), bench, out, **SETTINGS, force=True)
    made = run(FakeLLM(), bench, out, **SETTINGS)
    assert made.activations["id"].values.tolist() == local.activations["id"].values.tolist()


def test_a_run_that_was_copied_there_is_gone_on_with(bucket, bench, local):
    out = place_of(f"{bucket}/runs/copied")
    out.fs.put(str(local.path), out.path, recursive=True)
    (out / "blocks" / "00001.json").unlink()
    before = (out / "activations.zarr" / "gate" / "c.0.0").stat().st_mtime
    assert_same_run(run(FakeLLM(), bench, str(out), **SETTINGS), local)
    assert before == (out / "activations.zarr" / "gate" / "c.0.0").stat().st_mtime


def test_what_others_write_is_seen_under_a_place_with_options_too(bucket):
    import boto3
    from upath import UPath

    place = place_of(UPath(f"{bucket}/seen", endpoint_url=os.environ["AWS_ENDPOINT_URL"]))
    assert place.storage_options["endpoint_url"]
    for number in range(2):
        boto3.client("s3").put_object(Bucket="bucket", Key=f"seen/{number}", Body=b"x")
        assert names_in(place) == {str(n) for n in range(number + 1)}


def test_actors_write_into_the_bucket(bucket, bench, local):
    ray = pytest.importorskip("ray", reason="ray is not installed (the extra 'ray')")
    from test_engine_ray import environment, start

    if ray.is_initialized():
        ray.shutdown()  # its processes do not know the server
    with environment():
        start()
    try:
        made = run(FakeLLM(), bench, f"{bucket}/runs/ray", engine="ray", workers=2, **SETTINGS)
        assert_same_run(made, local)
    finally:
        ray.shutdown()
