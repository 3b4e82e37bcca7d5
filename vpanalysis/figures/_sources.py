"""Where the numbers of the gallery come from: Runs, and the results that analyses kept in them.

Why it exists. A figure should not know folders. It asks for "the score of every Run" or "what listen_vs_read found for
this checkpoint", and is told, or told what is missing.

The idea. Runs are read once and their stored results are found by kind. A Run on a changed benchmark
(``mini:reversed``) belongs to the plain Run of the same weights. What kind of checkpoint a Run is of (*variant*: base,
SFT, PCLM, PCLM + DPO ...) is read from its name and from whether it has a mixer.

>>> Sources.of(()).names
[]
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpanalysis.errors import RunError
from vpanalysis.figures._entry import LackingError
from vpanalysis.models.bundled import CHECKPOINTS

if TYPE_CHECKING:
    from vpanalysis._run import Run
    from vpanalysis.scoring import Score

__all__ = ["VARIANTS", "Sources", "variant_of"]

VARIANTS: Mapping[str, str] = {
    "base": "base",
    "sft": "+ SFT",
    "sft+dpo": "+ SFT + DPO",
    "final": "+ PCLM, last layer",
    "static": "+ static mixer",
    "pclm": "+ PCLM",
    "pclm+dpo": "+ PCLM + DPO",
    "inverter": "inverter (control)",
    "other": "other",
}
"""Kinds of checkpoints in the order of the ladder, and how they are written."""

_BUNDLED = {"mini-base": "base", "mini-sft": "sft", "mini-final": "final", "mini-static": "static",
            "mini-pclm": "pclm", "mini-pclm-dpo": "pclm+dpo", "mini-inverter": "inverter"}  # fmt: skip


def variant_of(run: Run) -> str:
    """Return which kind of checkpoint a Run is of: a key of `VARIANTS`."""
    model = run.manifest["model"]
    name = str(model["name"])
    if name in _BUNDLED:
        return _BUNDLED[name]
    low = name.lower()
    if model.get("streams"):
        return "pclm+dpo" if "dpo" in low else "pclm"
    if "sft" in low or "dpo" in low:
        return "sft+dpo" if "dpo" in low else "sft"
    return "base"


class Sources:
    """Runs and what is kept in them.

    Parameters
    ----------
    runs : iterable of Run or path
        Of distinct folder names.

    Attributes
    ----------
    all : dict of str to Run
        Every Run by name.
    """

    def __init__(self, runs: Iterable[Run | str | Path]) -> None:
        from vpanalysis.runs import open_run

        self.all: dict[str, Run] = {}
        for given in runs:
            run = open_run(given) if isinstance(given, (str, Path)) else given
            if run.name in self.all:
                raise RunError("cannot draw", found=f"two Runs called {run.name!r}", fix="rename one of the folders")
            self.all[run.name] = run
        self._scores: dict[str, Score] = {}
        self._results: dict[str, Any] = {}

    @classmethod
    def of(cls, runs: Sources | Iterable[Run | str | Path] | Run | str | Path) -> Sources:
        """Return sources of one Run, several, or a folder of Runs; sources stay what they are."""
        if isinstance(runs, Sources):
            return runs
        if isinstance(runs, (str, Path)) or not isinstance(runs, Iterable):
            runs = [runs]
        return cls(one for given in runs for one in _expanded(given))

    # Runs -------------------------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """Names of the Runs that answered conflict items of an unchanged benchmark, in the order of the ladder."""
        order = {variant: number for number, variant in enumerate(VARIANTS)}
        return sorted(self._answering(True), key=lambda name: order[variant_of(self.all[name])])

    @property
    def others(self) -> list[str]:
        """Names of the Runs that answered, without conflict items: labelled folders, MMSU."""
        return self._answering(False)

    def _answering(self, conflict: bool) -> list[str]:
        plain = {name: run for name, run in self.all.items() if run.answers and not _condition(run)}
        return [n for n, r in plain.items() if bool((r.predictions["condition"] == "conflict").any()) == conflict]

    @property
    def encoders(self) -> list[str]:
        """Names of the Runs of encoders that answer nothing."""
        return [name for name, run in self.all.items() if not run.answers and not _condition(run)]

    def changed(self, name: str, condition: str) -> Run | None:
        """Return the Run of the same model on the benchmark under a condition, such as ``"reversed"``; or None."""
        mine = self.all[name].manifest["model"]["weights"]
        found = (
            run for run in self.all.values()
            if _condition(run) == condition and run.manifest["model"]["weights"] == mine
        )  # fmt: skip
        return next(found, None)

    def variants(self, *wanted: str) -> dict[str, str]:
        """Return names of Runs that answered and their variant; only of the `wanted` variants where some are given."""
        found = {name: variant_of(self.all[name]) for name in [*self.names, *self.others]}
        return {name: variant for name, variant in found.items() if not wanted or variant in wanted}

    def is_planted(self, name: str) -> bool:
        """Whether a Run is of the bundled organism, whose layer profile was planted."""
        return str(self.all[name].manifest["model"]["name"]) in CHECKPOINTS

    @property
    def planted(self) -> list[str]:
        """Runs of the bundled organism."""
        return [name for name in self.all if self.is_planted(name)]

    # What is kept in them ---------------------------------------------------------------------------------------------

    def score(self, name: str) -> Score:
        """Return the Score of a Run by its option logits, or by its replies where it has them; made once."""
        from vpanalysis._predictions import recorded_kinds
        from vpanalysis.scoring import score

        if name not in self._scores:
            run = self.all[name]
            kind = "pred_generated" if "pred_generated" in recorded_kinds(run.predictions) else "pred_logits"
            self._scores[name] = score(run, prediction=kind)
        return self._scores[name]

    def results(self, kind: str, name: str | None = None, **settings: Any) -> Iterator[tuple[str, Any]]:
        """Yield the kept results of a kind: the name of the Run and the result, newest first.

        Parameters
        ----------
        kind : str
            Name of the result class, such as ``"ListenRead"``.
        name : str, optional
            Only of this Run.
        **settings
            What its settings must say, such as ``target="truth"``. A value of None means that the key is absent or
            None.
        """
        from vpanalysis._results import load_result

        for run_name, run in self.all.items():
            if name is not None and run_name != name:
                continue
            kept = run.kept() if (run.path / "results").is_dir() else None
            if kept is None:
                continue
            paths = [Path(p) for p in kept.loc[kept["kind"] == kind, "path"]]
            for path in sorted(paths, key=lambda p: (-max(f.stat().st_mtime_ns for f in p.iterdir()), p.name)):
                if str(path) not in self._results:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        self._results[str(path)] = load_result(path)
                found = self._results[str(path)]
                held = {**found.settings, "target": getattr(found, "target", found.settings.get("target"))}
                if all(held.get(key) == value for key, value in settings.items()):
                    yield run_name, found

    def one(self, kind: str, name: str | None = None, **settings: Any) -> Any | None:
        """Return the newest kept result of a kind, or None."""
        return next((found for _, found in self.results(kind, name, **settings)), None)

    # What identifies them ---------------------------------------------------------------------------------------------

    @cached_property
    def identity(self) -> dict[str, dict[str, Any]]:
        """What the numbers depend on: per Run weights, benchmark, prompt, reducers, and the results kept in it."""
        out = {}
        for name, run in self.all.items():
            made = run.manifest
            out[name] = {
                "weights": made["model"]["weights"], "benchmark": made["benchmark"]["sha"],
                "prompt": (made["prompt"] or {}).get("sha"), "plan": made["plan"],
            }  # fmt: skip
        return out


def lacking(entry_id: str, found: str, record: str) -> LackingError:
    """Return the error of a figure whose Runs lack something."""
    return LackingError(entry_id, found=found, record=record)


def _condition(run: Run) -> str:
    """Return how the benchmark of a Run was changed, or an empty string."""
    return str(run.manifest["benchmark"]["name"]).partition(":")[2]


def _expanded(given: Any) -> list[Any]:
    """Return a Run folder as it is, and a folder of Runs as its Runs in order."""
    if not isinstance(given, (str, Path)):
        return [given]
    folder = Path(given)
    if (folder / "manifest.json").is_file() or not folder.is_dir():
        return [folder]
    found = [p for p in sorted(folder.iterdir()) if (p / "manifest.json").is_file() and _is_run(p)]
    if not found:
        raise RunError(
            f"cannot read Runs in {str(folder)!r}", found="none", fix="name Run folders, or a folder of them"
        )
    return list(found)


def _is_run(folder: Path) -> bool:
    try:
        content = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and str(content.get("format", "")).startswith("vpanalysis-run/")
