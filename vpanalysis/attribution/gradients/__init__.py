"""``attribute``: which seconds, frequencies and words a margin came from, by gradients and by taking parts away.

The encoder is run once a clip where the place lies behind it, every map stands beside its baseline, what is missing
from its sum, and checks of whether it is true of the model.

>>> import vpanalysis as vp                                              # doctest: +SKIP
>>> found = vp.attribute("mini-pclm-dpo", "mini", site="mixed")          # doctest: +SKIP
>>> found.summary, found.map(), found.plot()                             # doctest: +SKIP
"""

from vpanalysis.attribution.gradients.baselines import BASELINES
from vpanalysis.attribution.gradients.explaining import ConvergenceWarning, attribute
from vpanalysis.attribution.gradients.methods import METHODS
from vpanalysis.attribution.gradients.result import AttributionResult

__all__ = ["BASELINES", "METHODS", "AttributionResult", "ConvergenceWarning", "attribute"]
