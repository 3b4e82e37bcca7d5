"""What can be decoded: probes over the recorded states of a Run.

A probe asks one question of one place in the model: *could* a linear reader of these states tell who speaks, or how,
or what the words claim? It reads a finished Run and never loads a model. Decodable is not used: a probe that
succeeds says that the information is there, not that the language model behind it listens to it. That distance, the
utilization gap, is why probe curves are drawn against the model's own accuracy.

Verbs:

===================================== ===================================================================
:func:`probe_layers`                   a probe per task and site, with label shuffles
:func:`compare_probes`                 sites against a site, Run against Run, paired by item
:func:`best_site`                      the best layer, pooling or penalty, chosen within training items
:func:`learning_curves`                what more training items would bring
:func:`attentive_probe`                pooling over time that is trained with the probe
:func:`decodability_over_time`         from which second on
:func:`probe_controls`                 selectivity, mel baseline, random weights, description length, gap ...
``views``                              CKA, geometry, erasure, directions of the same states
:class:`LogisticProbe` and others      the same probes one at a time, with the scikit-learn contract
===================================== ===================================================================

Modules below: ``inputs`` (Runs, arrays, models), ``targets`` (which items, which label, which reducer), ``splits``
(folds that leak nothing, weights that make the words uninformative), ``shuffles``, ``plans`` (what all sites of a task
share), ``estimator`` (one call for all of it), ``solvers`` (the numerical work), ``result``, ``own`` (the model's own
accuracy on the same items), ``selection`` (choosing a site on one Run and testing it on another).

>>> import vpanalysis as vp                                              # doctest: +SKIP
>>> run = vp.open_run("runs/mini-pclm")                                  # doctest: +SKIP
>>> truth = vp.probe_layers(run, target="truth")                         # doctest: +SKIP
>>> truth.plot()                                                         # doctest: +SKIP
"""

from vpanalysis.probes.attentive import AttentiveResult, attentive_probe
from vpanalysis.probes.controls import ControlResult
from vpanalysis.probes.controls import controls as probe_controls
from vpanalysis.probes.layers import probe_layers
from vpanalysis.probes.logistic import LogisticProbe
from vpanalysis.probes.mlp import MLPProbe
from vpanalysis.probes.nested import BestSites, best_site
from vpanalysis.probes.over_time import TimeResult, decodability_over_time
from vpanalysis.probes.own import own_accuracy
from vpanalysis.probes.paired import ProbeComparison, compare_probes
from vpanalysis.probes.result import ProbeResult
from vpanalysis.probes.ridge import RidgeProbe
from vpanalysis.probes.selection import SiteComparison, compare_sites, select_site
from vpanalysis.probes.sizes import LearningCurves, learning_curves

__all__ = [
    "AttentiveResult",
    "BestSites",
    "ControlResult",
    "LearningCurves",
    "LogisticProbe",
    "MLPProbe",
    "ProbeComparison",
    "ProbeResult",
    "RidgeProbe",
    "SiteComparison",
    "TimeResult",
    "attentive_probe",
    "best_site",
    "compare_probes",
    "compare_sites",
    "decodability_over_time",
    "learning_curves",
    "own_accuracy",
    "probe_controls",
    "probe_layers",
    "select_site",
]
