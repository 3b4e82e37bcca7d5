"""What an answer was made of: interventions on words and voice, and what they do to the margin of the truth.

Probes say what could be decoded; here it is measured what was used. Every verb takes a model and a benchmark, works in
nats of *margin* (the truth against what the words claim), and says how sure it is, with speakers and wordings as the
unit.

:func:`listen_vs_read` divides the margin between voice and words by a 2 x 2 experiment; :func:`text_controls` asks what
the text alone would answer, and whether the words are inverted; :func:`attribute` maps the margin onto time, frequency
and tokens; :func:`patch` puts one clip's states into another's forward; :func:`gates` and its companions set the
mixer's weights to others; :func:`logit_lens` reads a Run's layers through the head and :func:`attention_mass` what the
answer attends to; :func:`steer` and :func:`scale_neurons` push held-out items; :func:`fuse_layers` appends earlier
layers.

>>> import vpanalysis as vp                                              # doctest: +SKIP
>>> vp.listen_vs_read("mini-pclm-dpo", "mini")                           # doctest: +SKIP
"""

from vpanalysis.attribution.attention import AttentionResult, attention_mass
from vpanalysis.attribution.conditions import FAMILIES, Family, condition
from vpanalysis.attribution.contributions import ContributionResult, gate_contributions
from vpanalysis.attribution.factorial import ListenRead, listen_vs_read
from vpanalysis.attribution.fusion import FusionResult, fuse_layers
from vpanalysis.attribution.gradients import BASELINES, METHODS, AttributionResult, ConvergenceWarning, attribute
from vpanalysis.attribution.lens import LensResult, logit_lens
from vpanalysis.attribution.margins import margin, margins_of
from vpanalysis.attribution.mixtures import GateMixtures, GateResult, clamped, gate_mixtures, gates
from vpanalysis.attribution.neurons import NeuronResult, scale_neurons
from vpanalysis.attribution.paraphrases import WORDINGS, ParaphraseResult, paraphrase
from vpanalysis.attribution.patching import PatchResult, patch, twins
from vpanalysis.attribution.shapley import listening_share, share_interval, two_player
from vpanalysis.attribution.steering import SteerResult, steer
from vpanalysis.attribution.sweeps import SweepResult, gate_sweep
from vpanalysis.attribution.textual import CONTROLS, TextControls, text_controls

__all__ = [
    "BASELINES",
    "CONTROLS",
    "FAMILIES",
    "METHODS",
    "WORDINGS",
    "AttentionResult",
    "AttributionResult",
    "ContributionResult",
    "ConvergenceWarning",
    "Family",
    "FusionResult",
    "GateMixtures",
    "GateResult",
    "LensResult",
    "ListenRead",
    "NeuronResult",
    "ParaphraseResult",
    "PatchResult",
    "SteerResult",
    "SweepResult",
    "TextControls",
    "attention_mass",
    "attribute",
    "clamped",
    "condition",
    "fuse_layers",
    "gate_contributions",
    "gate_mixtures",
    "gate_sweep",
    "gates",
    "listen_vs_read",
    "listening_share",
    "logit_lens",
    "margin",
    "margins_of",
    "paraphrase",
    "patch",
    "scale_neurons",
    "share_interval",
    "steer",
    "text_controls",
    "twins",
    "two_player",
]
