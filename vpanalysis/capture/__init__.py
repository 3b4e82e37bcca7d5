"""What is recorded: named places in a model, what is kept of them, and where it is kept.

* ``sites``: names of places, and selecting them by name, list, glob or predicate;
* ``reducers``: what is kept of a place (``mean``, ``segments(6)``, ``last``, ``frames``), over valid frames only;
* ``recorder``: forward hooks that reduce on the device and leave the outputs untouched;
* ``store``: one zarr store a Run, one file a block of items and variable, every chunk with a checksum;
* ``audio_cache``: what an encoder made of a clip, kept for the next checkpoint with the same encoder.

Worked example::

    plan = make_plan(llm.sites, sites="encoder[*]", reducers=["mean", "segments(6)"])
    with Recorder(llm.module_of, plan) as recorder:
        recorder.expect({"encoder": Spans.per_item([144, 101])})
        llm.encode(waves)
        states = recorder.take()     # {("encoder[0]", "mean"): array (2, 128), ...}
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vpanalysis.capture.audio_cache import AudioCache as AudioCache
    from vpanalysis.capture.audio_cache import default_cache_folder as default_cache_folder
    from vpanalysis.capture.recorder import Recorder as Recorder
    from vpanalysis.capture.reducers import Reducer as Reducer
    from vpanalysis.capture.reducers import Spans as Spans
    from vpanalysis.capture.reducers import make_plan as make_plan
    from vpanalysis.capture.sites import select_sites as select_sites
    from vpanalysis.capture.store import ActivationStore as ActivationStore

# Lazily, because a Run is read without torch.
_HOME = {
    "ActivationStore": "store",
    "AudioCache": "audio_cache",
    "Recorder": "recorder",
    "Reducer": "reducers",
    "Spans": "reducers",
    "default_cache_folder": "audio_cache",
    "make_plan": "reducers",
    "select_sites": "sites",
}

__all__ = [
    "ActivationStore",
    "AudioCache",
    "Recorder",
    "Reducer",
    "Spans",
    "default_cache_folder",
    "make_plan",
    "select_sites",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
