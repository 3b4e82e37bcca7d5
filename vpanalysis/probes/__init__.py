"""What can be decoded: probes over the recorded states of a Run.

A probe asks one question of one place in the model: *could* a linear reader of these states tell who speaks, or how,
or what the words claim? It reads a finished Run and never loads a model. Decodable is not used: a probe that
succeeds says that the information is there, not that the language model behind it listens to it. That distance, the
utilization gap, is why probe curves are drawn against the model's own accuracy.

Modules: ``layers`` (:func:`probe_layers`), ``inputs`` (Runs, arrays, models), ``targets`` (which items, which label,
which reducer), ``splits`` (folds that leak nothing, weights that make the words uninformative), ``shuffles`` (the
control), ``plans`` (what all sites of a task share), ``estimator`` (one call for all of it), ``solvers`` (the
numerical work), ``result`` (:class:`ProbeResult`), ``own`` (the model's own accuracy on the same items), ``selection``
(choosing a site on one Run and testing it on another); ``logistic``, ``ridge`` and ``mlp`` are the same probes one at a
time.

>>> import vpanalysis as vp                                              # doctest: +SKIP
>>> run = vp.open_run("runs/mini-pclm")                                  # doctest: +SKIP
>>> truth = vp.probe_layers(run, target="truth")                         # doctest: +SKIP
>>> truth.plot()                                                         # doctest: +SKIP
"""

from vpanalysis.probes.layers import probe_layers
from vpanalysis.probes.own import own_accuracy
from vpanalysis.probes.result import ProbeResult
from vpanalysis.probes.selection import SiteComparison, compare_sites, select_site

__all__ = ["ProbeResult", "SiteComparison", "compare_sites", "own_accuracy", "probe_layers", "select_site"]
