"""vpanalysis: do audio LLMs listen or read?

The public API, imported lazily (PEP 562) so that ``import vpanalysis`` costs milliseconds and loads no torch::

    import vpanalysis as vp

    bench = vp.load_benchmark("mini")
    run = vp.run(vp.load_model("mini"), bench, "runs/mini")
    vp.score(run)
    vp.probe_layers(run, target="truth").plot()
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# Nothing is told to anybody. Libraries read these when they are imported, later than this; what the user has set stays.
# The second: Transformers would ask a service on the Hub to convert weights, and hand it the user's token.
for _name, _value in (
    ("HF_HUB_DISABLE_TELEMETRY", "1"),
    ("DISABLE_SAFETENSORS_CONVERSION", "1"),
    ("RAY_USAGE_STATS_ENABLED", "0"),
):
    os.environ.setdefault(_name, _value)
del _name, _value

__version__ = "0.1.0"

_EXPORTS = {
    "load_benchmark": "vpanalysis.benchmark.sources",
    "Item": "vpanalysis.benchmark.items",
    "Benchmark": "vpanalysis.benchmark.items",
    "load_model": "vpanalysis.models.loading",
    "AudioLLM": "vpanalysis.models.facade",
    "Family": "vpanalysis.models.families",
    "register_family": "vpanalysis.models.families",
    "verify": "vpanalysis.models.checkpoint.verification",
    "convert": "vpanalysis.models.checkpoint.conversion",
    "run": "vpanalysis.runs",
    "open_run": "vpanalysis.runs",
    "Run": "vpanalysis.runs",
    "load_result": "vpanalysis._results",
    "score": "vpanalysis.scoring",
    "score_predictions": "vpanalysis.scoring",
    "compare": "vpanalysis.scoring",
    "probe_controls": "vpanalysis.probes",
    "probe_layers": "vpanalysis.probes",
    "best_site": "vpanalysis.probes",
    "compare_probes": "vpanalysis.probes",
    "listen_vs_read": "vpanalysis.attribution",
    "attribute": "vpanalysis.attribution",
    "gates": "vpanalysis.attribution",
    "paraphrase": "vpanalysis.attribution",
    "gate_contributions": "vpanalysis.attribution",
    "gate_sweep": "vpanalysis.attribution",
    "gate_mixtures": "vpanalysis.attribution",
    "fuse_layers": "vpanalysis.attribution",
    "attention_mass": "vpanalysis.attribution",
    "logit_lens": "vpanalysis.attribution",
    "patch": "vpanalysis.attribution",
    "scale_neurons": "vpanalysis.attribution",
    "steer": "vpanalysis.attribution",
    "text_controls": "vpanalysis.attribution",
    "transcribe": "vpanalysis.transcripts",
    "calibrate": "vpanalysis.calibration",
    "Calibration": "vpanalysis.calibration",
    "trim_report": "vpanalysis.trimming",
    "dtype_check": "vpanalysis.precision",
    "build_figure": "vpanalysis.figures",
    "build_gallery": "vpanalysis.figures",
    "figure_data": "vpanalysis.figures",
    "list_figures": "vpanalysis.figures",
    "VPError": "vpanalysis.errors",
}

__all__ = [*sorted(_EXPORTS), "__version__"]

if TYPE_CHECKING:
    from vpanalysis._results import load_result as load_result
    from vpanalysis.attribution import attention_mass as attention_mass
    from vpanalysis.attribution import attribute as attribute
    from vpanalysis.attribution import fuse_layers as fuse_layers
    from vpanalysis.attribution import gate_contributions as gate_contributions
    from vpanalysis.attribution import gate_mixtures as gate_mixtures
    from vpanalysis.attribution import gate_sweep as gate_sweep
    from vpanalysis.attribution import gates as gates
    from vpanalysis.attribution import listen_vs_read as listen_vs_read
    from vpanalysis.attribution import logit_lens as logit_lens
    from vpanalysis.attribution import paraphrase as paraphrase
    from vpanalysis.attribution import patch as patch
    from vpanalysis.attribution import scale_neurons as scale_neurons
    from vpanalysis.attribution import steer as steer
    from vpanalysis.attribution import text_controls as text_controls
    from vpanalysis.benchmark.items import Benchmark as Benchmark
    from vpanalysis.benchmark.items import Item as Item
    from vpanalysis.benchmark.sources import load_benchmark as load_benchmark
    from vpanalysis.calibration import Calibration as Calibration
    from vpanalysis.calibration import calibrate as calibrate
    from vpanalysis.errors import VPError as VPError
    from vpanalysis.figures import build_figure as build_figure
    from vpanalysis.figures import build_gallery as build_gallery
    from vpanalysis.figures import figure_data as figure_data
    from vpanalysis.figures import list_figures as list_figures
    from vpanalysis.models.checkpoint.conversion import convert as convert
    from vpanalysis.models.checkpoint.verification import verify as verify
    from vpanalysis.models.facade import AudioLLM as AudioLLM
    from vpanalysis.models.families import Family as Family
    from vpanalysis.models.families import register_family as register_family
    from vpanalysis.models.loading import load_model as load_model
    from vpanalysis.precision import dtype_check as dtype_check
    from vpanalysis.probes import best_site as best_site
    from vpanalysis.probes import compare_probes as compare_probes
    from vpanalysis.probes import probe_controls as probe_controls
    from vpanalysis.probes import probe_layers as probe_layers
    from vpanalysis.runs import Run as Run
    from vpanalysis.runs import open_run as open_run
    from vpanalysis.runs import run as run
    from vpanalysis.scoring import compare as compare
    from vpanalysis.scoring import score as score
    from vpanalysis.scoring import score_predictions as score_predictions
    from vpanalysis.transcripts import transcribe as transcribe
    from vpanalysis.trimming import trim_report as trim_report


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'vpanalysis' has no attribute {name!r}")
    module = importlib.import_module(_EXPORTS[name])
    # `vpanalysis.run` must stay the verb, never the module of a similar name.
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_EXPORTS))
