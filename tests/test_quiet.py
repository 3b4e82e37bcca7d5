"""Nothing is said to the network, nothing secret is kept, files have the user's modes, and temporary files go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes import FakeLLM, make_benchmark

import vpanalysis

TOKEN = "hf_" + "NotToBeTold" * 3

# Asks of every connection and every name that is looked up; whatever is not this machine is refused, and told.
WATCH = """
import json, os, socket, sys
told = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        sock, address = arguments
        if getattr(socket, "AF_UNIX", None) == sock.family:
            return
        host = str(address[0])
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = str(arguments[0])
    else:
        return
    if host not in ("localhost", "127.0.0.1", "::1", "None"):
        told.append([event, host])
        raise ConnectionRefusedError(f"{event} {host}")
sys.addaudithook(watch)
"""

WORK = """
os.umask(int(sys.argv[2], 8))
import vpanalysis as vp
llm = vp.load_model("mini")
bench = vp.load_benchmark("mini", tasks=["gender_prediction"], limit=12)
sites = ["tower", "gate", "streams[0]", "options"]
made = vp.run(llm, bench, sys.argv[1] + "/run", sites=sites, generate=True, block_size=6)
print(made, vp.score(made), made.manifest)
probed = vp.probe_layers(made, sites="tower", shuffles=0, n_splits=2)
print(probed)
probed.save()
made.predictions_jsonl(sys.argv[1] + "/replies.jsonl")
try:
    vp.probe_layers((llm, bench), "nonsense", sites="tower")
except vp.VPError as error:
    print(error)
else:
    raise SystemExit("a probe of nothing")
try:
    vp.load_model("nobody/nothing")
except vp.VPError as error:
    print(error)
import huggingface_hub.constants
assert huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY
print("TOLD " + json.dumps(told))
"""


def environment(folder: Path, **more: str) -> dict[str, str]:
    for name in ("tmp", "cache", "home"):
        (folder / name).mkdir(exist_ok=True)
    own = {
        "TMPDIR": str(folder / "tmp"), "VPANALYSIS_CACHE": str(folder / "cache"), "HF_TOKEN": TOKEN,
        "HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    kept = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")}
    return {**kept, **own, **more}


@pytest.fixture(scope="module")
def worked(tmp_path_factory):
    """What a user's usual day leaves: output and files."""
    folder = tmp_path_factory.mktemp("quiet")
    (folder / "out").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", WATCH + WORK, str(folder / "out"), "077"], capture_output=True, text=True,
        env=environment(folder), check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(folder=folder, said=done.stdout + done.stderr)


def test_the_network_is_left_alone(worked):
    told = json.loads(worked.said.split("TOLD ", 1)[1].splitlines()[0])
    # One model of the Hub was asked for, by its name.
    assert {host for _, host in told} <= {"huggingface.co"}
    assert told, "the watch does not see what it has to see"
    assert "cannot load the model 'nobody/nothing'" in worked.said


def test_the_token_is_kept_nowhere(worked):
    assert TOKEN not in worked.said
    files = [p for p in worked.folder.rglob("*") if p.is_file()]
    assert any(p.name == "manifest.json" for p in files) and any(p.suffix == ".safetensors" for p in files)
    assert [p for p in files if TOKEN.encode() in p.read_bytes()] == []


def modes_follow(umask: int, *roots: Path) -> int:
    paths = [path for root in roots for path in root.rglob("*")]
    for path in paths:
        wanted = (0o777 if path.is_dir() else 0o666) & ~umask
        assert path.stat().st_mode & 0o777 == wanted, path
    return len(paths)


def test_files_have_the_modes_that_the_user_wants(worked):
    assert modes_follow(0o077, worked.folder / "out", worked.folder / "cache") > 30


@pytest.mark.parametrize("umask", [0o022, 0o002])
def test_files_have_other_modes_where_the_user_wants_others(tmp_path, umask):
    before = os.umask(umask)
    try:
        made = vpanalysis.run(FakeLLM(), make_benchmark(6), tmp_path / "run", cache=tmp_path / "cache", progress=False)
        made.predictions_jsonl(tmp_path / "replies.jsonl")
    finally:
        os.umask(before)
    assert modes_follow(umask, tmp_path) > 30


def left(folder: Path) -> list[str]:
    """Return what lies in the folder of temporary files, but for torch's own cache of compiled kernels."""
    return [path.name for path in folder.iterdir() if not path.name.startswith("torchinductor_")]


def test_temporary_files_are_gone(worked):
    assert left(worked.folder / "tmp") == []


ENDED = """
import os, signal, tempfile, time
from vpanalysis import cli
def work(*_):
    with tempfile.TemporaryDirectory(prefix="vpanalysis-"):
        os.kill(os.getpid(), getattr(signal, NAME))
        time.sleep(60)
cli._run = work
cli.main(["info"])
"""

SPEAKS = """
import time, vpanalysis
vpanalysis.load_benchmark("mini", limit=1)[0].audio.load()
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_temporary_files_are_gone_after_a_signal(tmp_path, name):
    done = subprocess.run(
        [sys.executable, "-c", f"NAME = {name!r}\n{ENDED}"], env=environment(tmp_path), capture_output=True,
        check=False, timeout=50,
        # Under nohup SIGHUP is ignored from the start, which the command respects.
        preexec_fn=lambda: signal.signal(getattr(signal, name), signal.SIG_DFL),
    )  # fmt: skip
    assert done.returncode == 128 + getattr(signal, name) and done.stderr == b""
    assert left(tmp_path / "tmp") == []


def test_the_speech_engine_leaves_with_whoever_asked_it(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SPEAKS], env=environment(tmp_path), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    assert len(left(tmp_path / "tmp")) == 1
    process.kill()
    process.wait()
    process.stdout.close()
    end = time.monotonic() + 30
    while left(tmp_path / "tmp"):
        assert time.monotonic() < end, left(tmp_path / "tmp")
        time.sleep(0.05)


# --- the Hub ------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub():
    """A server that refuses everything and remembers what it was told."""
    seen = []

    class Refusing(BaseHTTPRequestHandler):
        def _answer(self):
            seen.append((self.command, self.path, dict(self.headers)))
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = do_POST = _answer

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield SimpleNamespace(address=f"http://127.0.0.1:{server.server_port}", seen=seen)
    server.shutdown()
    server.server_close()


def test_the_hub_is_told_what_is_needed_and_the_user_no_secrets(hub, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "vpanalysis.cli", "--debug", "info", "someone/private"], capture_output=True, text=True,
        env=environment(tmp_path, HF_ENDPOINT=hub.address), check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode != 0 and "cannot load the model 'someone/private'" in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert hub.seen and all("someone/private" in path for _, path, _ in hub.seen)
    for method, _, headers in hub.seen:
        agent = {k.lower(): v for k, v in headers.items()}.get("user-agent", "")
        assert method in ("GET", "HEAD") and ("session_id" not in agent or "telemetry/off" in agent)


def test_no_conversion_of_somebody_elses_weights_is_ordered(monkeypatch):
    """Where the Hub has a conversion of the current weights it is used; where not, none is made."""
    from vpanalysis.models import loading

    assert os.environ["DISABLE_SAFETENSORS_CONVERSION"] == "1" and os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    offered = SimpleNamespace(title="Adding `safetensors` variant of this model", status="open",
                              git_reference="refs/pr/7")  # fmt: skip
    commits = {"refs/pr/7": ["new", "head"], None: ["head", "old"]}

    class Api:
        discussions = (offered,)

        def get_repo_discussions(self, repo, *, author, discussion_type):
            assert (author, discussion_type) == ("SFconvertbot", "pull_request")
            return iter(self.discussions)

        def list_repo_commits(self, repo, *, revision=None):
            return [SimpleNamespace(commit_id=name) for name in commits[revision]]

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert loading._kept_conversion("a/b") == "refs/pr/7"
    commits[None] = ["newer", "head"]
    assert loading._kept_conversion("a/b") == "main"
    Api.discussions = ()
    assert loading._kept_conversion("a/b") == "main"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert loading._kept_conversion("a/b") == "main"


def test_what_the_user_has_set_stays():
    code = "import os, vpanalysis; print(os.environ['HF_HUB_DISABLE_TELEMETRY'], os.environ['RAY_USAGE_STATS_ENABLED'])"
    own = {**os.environ, "HF_HUB_DISABLE_TELEMETRY": "0", "RAY_USAGE_STATS_ENABLED": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=own)
    assert done.stdout.split() == ["0", "1"] and vpanalysis.__version__
