"""A process that imports once and then forks runs that a test can kill. One JSON line in, one process id out."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import fakes
import pyarrow.parquet  # noqa: F401
import safetensors.torch  # noqa: F401
import zarr.codecs  # noqa: F401

from vpanalysis.errors import RunError
from vpanalysis.runs import run


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                bench = fakes.make_benchmark(asked["items"], bad=(6,), long=(11,))
                run(
                    fakes.FakeLLM(delay_s=asked["delay_s"]), bench, asked["out"], block_size=4, batch_size=2,
                    cache=asked["cache"], progress=False,
                )  # fmt: skip
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
