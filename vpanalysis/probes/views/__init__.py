"""More views of the same activations, beside what can be decoded from them.

A probe asks one question of one site. These ask how sites relate to each other, and labels within a site: ``cka``
(similarity, debiased, between sites and between Runs), ``spectrum`` (effective rank and isotropy), ``leace`` and
``erased`` (one label taken out in closed form, and what is left of another), ``vectors`` (where a label points, kept
for steering). Each takes a Run, an array of shape (item, layer, feature), an xarray DataArray or a mapping of site
names to matrices, and returns a result that prints, plots, saves and loads.

>>> from vpanalysis.probes import views                                  # doctest: +SKIP
>>> views.similarity(run).plot()                                         # doctest: +SKIP
>>> views.erasure(run, "claim", "truth", task="emotion_recognition")     # doctest: +SKIP
"""

from vpanalysis.probes.views.cka import Similarity, linear_cka, similarity
from vpanalysis.probes.views.erased import Erasure, erasure
from vpanalysis.probes.views.leace import Eraser
from vpanalysis.probes.views.spectrum import Geometry, effective_rank, geometry, isoscore, mean_cosine
from vpanalysis.probes.views.vectors import Directions, directions

__all__ = [
    "Directions",
    "Eraser",
    "Erasure",
    "Geometry",
    "Similarity",
    "directions",
    "effective_rank",
    "erasure",
    "geometry",
    "isoscore",
    "linear_cka",
    "mean_cosine",
    "similarity",
]
