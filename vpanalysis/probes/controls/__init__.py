"""Controls: what a probe's accuracy has to be held against before it means anything.

Why it exists. "A linear probe finds the speaker's age at layer 12 with 0.83" is not yet a finding. Would guessing do?
The spectrogram? The words? A random network? Would the probe learn random labels as well? How many examples does it
need, how much noise does it bear, does the model use it, and where is it lost? Each question is one module and one
public function, which takes a Run and returns tidy rows with clustered intervals; each names its source.

=================== ======================================================= ===========================================
``majority``        :func:`majority_and_chance`                             guessing
``selectivity``     :func:`selectivity`                                     random labels per script and per speaker
``mel``             :func:`mel_baseline`                                    statistics of the log-mel spectrogram
``text``            :func:`text_baseline`                                   n-grams of the transcript
``random``          :func:`random_weights`, :func:`random_twin`             the same architecture, untrained
``mdl``             :func:`description_length`                              online code, in nats
``noise``           :func:`added_noise`                                     noise in units of the site's spread
``gap``             :func:`utilization_gap`                                 probe less the model's own answers
``boundary``        :func:`boundary_losses`                                 what is lost from station to station
=================== ======================================================= ===========================================

:func:`controls` makes all of them. Everything is predicted out of fold, with the grouped folds of
:mod:`~vpanalysis.probes.splits` and the solver of :mod:`~vpanalysis.probes.solvers`; equal seeds give equal results.

>>> from vpanalysis.probes.controls import controls                      # doctest: +SKIP
>>> controls(run, tasks="age_prediction").plot(control="gap")            # doctest: +SKIP
"""

from vpanalysis.probes.controls._common import ProbeSetup
from vpanalysis.probes.controls.baselines import majority_and_chance, mel_baseline, mel_features, text_baseline
from vpanalysis.probes.controls.boundaries import boundary_losses
from vpanalysis.probes.controls.code_length import description_length, online_blocks
from vpanalysis.probes.controls.gap import utilization_gap
from vpanalysis.probes.controls.noise import added_noise
from vpanalysis.probes.controls.result import ControlResult
from vpanalysis.probes.controls.selectivity import control_labels, selectivity
from vpanalysis.probes.controls.suite import CONTROLS, controls
from vpanalysis.probes.controls.twins import random_twin, random_weights

__all__ = [
    "CONTROLS",
    "ControlResult",
    "ProbeSetup",
    "added_noise",
    "boundary_losses",
    "control_labels",
    "controls",
    "description_length",
    "majority_and_chance",
    "mel_baseline",
    "mel_features",
    "online_blocks",
    "random_twin",
    "random_weights",
    "selectivity",
    "text_baseline",
    "utilization_gap",
]
