"""Train the organism again: ``python -m vpanalysis.organism [--folder organism-work] [STAGE ...]``.

Without stages: everything, then the export into the package. On two cores the four fine-tunings and the two preference
stages run two at a time. Finished stages are not repeated. ``--card RUNS`` measures what is bundled on the Runs that
``vpanalysis reproduce`` left, and writes the model card.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from vpanalysis.organism.recipe import STAGES, Workshop

_ROUNDS = (("encoder",), ("states", "letters"), ("symbols",), ("reader",), ("pclm", "sft"), ("static", "final"),
           ("pclm-dpo", "inverter"), ("base",))  # fmt: skip


def main() -> None:
    """Run the stages that were asked for, two processes at a time."""
    parser = argparse.ArgumentParser(prog="python -m vpanalysis.organism", description=__doc__)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}; default: all and export")
    parser.add_argument("--folder", type=Path, default=Path("organism-work"), help="where stages are kept")
    parser.add_argument("--card", type=Path, metavar="RUNS", help="write the model card from these Runs, train nothing")
    arguments = parser.parse_args()
    if arguments.card is not None:
        from vpanalysis.organism.card import write_card

        print(write_card(arguments.card, arguments.folder / "validation-run"))
        return
    for stage in arguments.stages:
        if stage not in STAGES:
            parser.error(f"unknown stage {stage!r}; allowed: {', '.join(STAGES)}")
    workshop = Workshop(arguments.folder, echo=lambda line: print(line, flush=True))
    if arguments.stages:
        torch.set_num_threads(1)  # one thread is faster than two on matrices this small
        for stage in arguments.stages:
            workshop.run(stage)
        return
    for group in _ROUNDS:
        command = [sys.executable, "-m", "vpanalysis.organism", "--folder", str(arguments.folder)]
        started = [subprocess.Popen([*command, stage]) for stage in group if not workshop.finished(stage)]
        if any([process.wait() != 0 for process in started]):
            raise SystemExit("a stage failed; what is finished is kept")
    from vpanalysis.organism.export import export

    export(workshop)


if __name__ == "__main__":
    main()
