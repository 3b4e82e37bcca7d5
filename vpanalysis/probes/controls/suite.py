"""All controls of a Run in one call.

What is cheap and needs nothing but the Run is made by default; the mel baseline needs the clips and the random twin its
own Run, and both leave empty cells that say so where they are not given. Label shuffles belong to the probes themselves
and are not repeated here.

>>> controls(run, tasks="age_prediction", which=["gap", "boundary"])     # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vpanalysis._saved import run_identity
from vpanalysis._tables import typed
from vpanalysis.errors import RunError
from vpanalysis.probes.controls._common import KINDS, ProbeSetup
from vpanalysis.probes.controls.baselines import majority_and_chance, mel_baseline, text_baseline
from vpanalysis.probes.controls.boundaries import boundary_losses
from vpanalysis.probes.controls.code_length import description_length
from vpanalysis.probes.controls.gap import utilization_gap
from vpanalysis.probes.controls.noise import added_noise
from vpanalysis.probes.controls.result import ControlResult
from vpanalysis.probes.controls.selectivity import selectivity
from vpanalysis.probes.controls.twins import random_weights
from vpanalysis.probes.estimator import DEFAULT_C
from vpanalysis.probes.targets import RunLike

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Benchmark

__all__ = ["CONTROLS", "controls"]

CONTROLS = ("majority", "selectivity", "mel", "text", "random", "mdl", "noise", "gap", "boundary")
"""Accepted members of ``which``."""


def controls(
    run: RunLike,
    tasks: str | Sequence[str] | None = None,
    sites: str | Sequence[str] | Callable[[str], bool] | None = None,
    which: str | Sequence[str] | None = None,
    *,
    audio: Benchmark | Mapping[str, NDArray[np.float32]] | None = None,
    twin: RunLike | None = None,
    target: str = "truth",
    conditions: Sequence[str] | None = None,
    reducer: str = "auto",
    group_by: str = "speaker",
    n_splits: int = 5,
    C: float | Sequence[float] = DEFAULT_C,
    random_state: int = 0,
    level: float = 0.95,
) -> ControlResult:
    """Make the controls of a Run's probes.

    Parameters
    ----------
    run : Run
        A finished Run, or anything with its ``name``, ``predictions``, ``sites`` and ``states``.
    tasks, sites
        As in :func:`vpanalysis.probes.probe_layers`. Boundaries and audio tokens have sites of their own.
    which : str or sequence of str, optional
        Of :data:`CONTROLS`; default all that fit: the gap and the boundaries only where the Run recorded what they
        need and, for the gap, the target is the truth.
    audio : Benchmark or mapping from id to waveform (16 kHz), optional
        The clips, for the mel baseline.
    twin : Run, optional
        Of the same architecture with random weights; see :func:`~vpanalysis.probes.controls.random_twin`.
    target, conditions, reducer, group_by, n_splits, C, random_state
        As in :func:`vpanalysis.probes.probe_layers`; of several `C` one is chosen within each training fold.
    level : float
        Of the intervals.

    Returns
    -------
    ControlResult

    Raises
    ------
    RunError
        For unknown controls, tasks, sites or targets, or where a control that was asked for by name cannot be made.
    """
    setup = ProbeSetup(target, conditions, reducer, group_by, n_splits, C=C, random_state=random_state, level=level)
    names = [which] if isinstance(which, str) else list(CONTROLS if which is None else which)
    for name in names:
        if name not in CONTROLS:
            raise RunError("cannot make a control", found=repr(name), allowed=CONTROLS, word=name)
    if which is None:
        names = [name for name in names if _fits(run, name, target)]
    makers: dict[str, Callable[[], pd.DataFrame]] = {
        "majority": lambda: majority_and_chance(run, tasks, setup=setup),
        "selectivity": lambda: selectivity(run, tasks, sites, setup=setup),
        "mel": lambda: mel_baseline(run, audio, tasks, setup=setup),
        "text": lambda: text_baseline(run, tasks, setup=setup),
        "random": lambda: random_weights(run, twin, tasks, sites, setup=setup),
        "mdl": lambda: description_length(run, tasks, sites, setup=setup),
        "noise": lambda: added_noise(run, tasks, sites, setup=setup),
        "gap": lambda: utilization_gap(run, tasks, sites, setup=setup),
        "boundary": lambda: boundary_losses(run, tasks, setup=setup),
    }
    rows = [one for name in CONTROLS if name in names for one in makers[name]().to_dict("records")]
    settings = {
        **run_identity(run), "target": target, "group_by": group_by, "n_splits": n_splits,
        "C": C if isinstance(C, (int, float)) else [float(c) for c in C], "random_state": random_state,
        "reducer": reducer, "level": level, "conditions": None if conditions is None else list(conditions),
        "which": names,
    }  # fmt: skip
    # The keys of a row are columns, whatever pandas makes of their type.
    return ControlResult(typed([{str(k): v for k, v in one.items()} for one in rows], KINDS), settings)


def _fits(run: RunLike, name: str, target: str) -> bool:
    """Whether a control can be made by default."""
    sites = set(run.sites)
    if name == "gap":
        answered = any(
            c in run.predictions and run.predictions[c].notna().any() for c in ("pred_logits", "pred_generated")
        )
        return target == "truth" and bool(sites & {"mixed", "projector"}) and answered
    if name == "boundary":
        from vpanalysis.probes.controls.boundaries import stations

        return len(stations(run.sites)) > 1
    return True
