"""Widgets for notebooks: hear, see and question every item of real Runs.

They hold no science: every number comes from the same public functions that a script would call. Controls are
ipywidgets; what these cannot do (a player with a moving cursor, pictures with hover) is anywidget with hand-written ES
modules shipped in the package. Nothing is loaded from a network, and a saved notebook keeps a static picture and table.

>>> from vpanalysis import explore                                       # doctest: +SKIP
>>> explore.items(run_base, run_pclm)                                    # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vpanalysis.explore.compare_view import compare as compare
    from vpanalysis.explore.gates_view import gates as gates
    from vpanalysis.explore.items_view import items as items
    from vpanalysis.explore.layers_view import layers as layers
    from vpanalysis.explore.listen_view import listen as listen
    from vpanalysis.explore.page import report as report

# Imported when first asked for: a verb needs ipywidgets, and some need more.
_EXPORTS: dict[str, str] = {
    "gates": "vpanalysis.explore.gates_view",
    "layers": "vpanalysis.explore.layers_view",
    "compare": "vpanalysis.explore.compare_view",
    "items": "vpanalysis.explore.items_view",
    "listen": "vpanalysis.explore.listen_view",
    "report": "vpanalysis.explore.page",
}

__all__ = ["compare", "gates", "items", "layers", "listen", "report"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
