"""A process that imports once and then forks runs that a test can kill. One JSON line in, one process id out.

A run can also be told to kill itself (SIGKILL) at its n-th change to the file system, which hits moments that a clock
hardly ever does: between the two renames of a block, or before its marker.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import fakes
import pyarrow.parquet  # noqa: F401
import safetensors.torch  # noqa: F401
import zarr.codecs  # noqa: F401

from vpanalysis.errors import RunError
from vpanalysis.runs import run

CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir")


def count_changes(die_at: int | None) -> list[int]:
    """Count what this process changes in the file system, and kill it at the given number."""
    changes = [0]

    def watch(event: str, arguments: tuple) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in CHANGES or writes:
            changes[0] += 1
            if changes[0] == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    return changes


def asked_of(asked: dict) -> tuple:
    """Return model and benchmark."""
    if asked.get("model", "fake") == "fake":
        bench = fakes.make_benchmark(asked["items"], bad=(6,), long=(11,))
        return fakes.FakeLLM(delay_s=asked["delay_s"]), bench
    from vpanalysis import load_benchmark

    # By its name, so that an engine with processes of its own can load it in each.
    return asked["model"], load_benchmark(asked["bench"], limit=asked["items"])


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 1
            os.dup2(2, 1)  # the answers are this program's; Ray also says things there
            try:
                llm, bench = asked_of(asked)
                settings = {"block_size": 4, "batch_size": 2, "progress": False, **asked.get("settings", {})}
                changes = count_changes(asked.get("die_at"))
                run(llm, bench, asked["out"], cache=asked["cache"], **settings)
                if "changes" in asked:
                    Path(asked["changes"]).write_text(str(changes[0]))
                code = 0
            except RunError as error:
                print(error, file=sys.stderr, flush=True)
                code = 2
            finally:
                os._exit(code)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(status, flush=True)


if __name__ == "__main__":
    main()
