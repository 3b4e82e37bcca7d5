"""Pictures: one function per picture, Axes in and Axes out.

They read results and draw them; they compute no science and change no global style. Every function takes ``ax=None``
(a new figure) and ``note=``, a caption under the picture. Whatever shows the bundled organism should carry the note
that its layer profile was planted.

>>> from vpanalysis import plots                                         # doctest: +SKIP
>>> ax = plots.layer_curves(truth, "age_prediction", claim_result=claim) # doctest: +SKIP
>>> ax.figure.savefig("age.pdf")                                         # doctest: +SKIP
"""

from vpanalysis.plots.attention import attention_by_layer, attention_map
from vpanalysis.plots.attributions import attribution_map, attribution_profile, faithfulness_curves
from vpanalysis.plots.calibration import calibration_forest
from vpanalysis.plots.differences import best_sites, learning_curves, probe_differences
from vpanalysis.plots.fusion import fused_settings
from vpanalysis.plots.gates import gate_distances, gate_table, gate_variation, gate_weights
from vpanalysis.plots.layers import layer_curves, layer_grid
from vpanalysis.plots.lens import lens_margins
from vpanalysis.plots.listen import listen_read, listening_shares
from vpanalysis.plots.maps import layer_overview
from vpanalysis.plots.over_time import attention_profile, generalisation_map, time_curve
from vpanalysis.plots.patching import patch_map
from vpanalysis.plots.scores import acc_vs_ala, hearing_bars, overall_table
from vpanalysis.plots.settings import gate_grid, gate_settings, gate_shares, gate_trade, gate_wordings
from vpanalysis.plots.steering import dose_response
from vpanalysis.plots.style import short_task, theme
from vpanalysis.plots.textual import word_effects
from vpanalysis.plots.views import direction_map, erasure_curves, geometry_curve, similarity_map

__all__ = [
    "acc_vs_ala",
    "attention_by_layer",
    "attention_map",
    "attention_profile",
    "attribution_map",
    "attribution_profile",
    "best_sites",
    "calibration_forest",
    "direction_map",
    "dose_response",
    "erasure_curves",
    "faithfulness_curves",
    "fused_settings",
    "gate_distances",
    "gate_grid",
    "gate_settings",
    "gate_shares",
    "gate_table",
    "gate_trade",
    "gate_variation",
    "gate_weights",
    "gate_wordings",
    "generalisation_map",
    "geometry_curve",
    "hearing_bars",
    "layer_curves",
    "layer_grid",
    "layer_overview",
    "learning_curves",
    "lens_margins",
    "listen_read",
    "listening_shares",
    "overall_table",
    "patch_map",
    "probe_differences",
    "short_task",
    "similarity_map",
    "theme",
    "time_curve",
    "word_effects",
]
