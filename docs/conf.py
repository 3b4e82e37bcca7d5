"""Settings of the manual: ``sphinx-build -W --keep-going -b html docs <folder>``.

The reference is made from the docstrings. Its pages list names by area; ``tests/test_docs.py`` holds these lists
against what the package exports, so that a new verb without a place there fails a test. Nothing is fetched from a
network: no intersphinx, and a theme that brings its own fonts.
"""

from __future__ import annotations

import re
from typing import Any

import vpanalysis

project = "vpanalysis"
author = "the authors of vpanalysis"
version = release = vpanalysis.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc"]
# Pages are Markdown; the second suffix keeps numpydoc's own extensions from complaining that there is no reST.
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
# Class members are listed by autodoc alone; numpydoc would list them twice.
numpydoc_show_class_members = False
# Docstrings name private helpers and neighbours without full paths; a reference that leads nowhere is plain text.
nitpicky = False

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["manual.css"]
html_title = f"vpanalysis {version}"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False

# Methods that scikit-learn writes into estimators; their docstrings point into scikit-learn's own manual.
_FOREIGN = ("set_fit_request", "set_score_request", "set_predict_request", "set_partial_fit_request")


def _skip(_app: Any, _what: str, name: str, _object: Any, _skipped: bool, _options: Any) -> bool | None:
    """Leave out what another package wrote; None leaves the decision as it is."""
    return True if name in _FOREIGN else None


def _escape(_app: Any, _what: str, _name: str, _object: Any, _options: Any, lines: list[str]) -> None:
    """Keep the stars of ``**keywords`` in a signature from being read as bold."""
    lines[:] = [re.sub(r", \*\*(\w+)\)", r", \\*\\*\1)", line) for line in lines]


def setup(app: Any) -> dict[str, bool]:
    """Register the hooks."""
    app.connect("autodoc-skip-member", _skip)
    app.connect("autodoc-process-docstring", _escape)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
