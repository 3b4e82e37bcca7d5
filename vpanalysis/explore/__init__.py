"""Widgets for notebooks: hear, see and question every item of real Runs.

They hold no science: every number comes from the same public functions that a script would call. Controls are
ipywidgets; what these cannot do (a player with a moving cursor, pictures with hover) is anywidget with hand-written ES
modules shipped in the package. Nothing is loaded from a network, and a saved notebook keeps a static picture and table.

>>> from vpanalysis import explore                                       # doctest: +SKIP
>>> explore.items(run_base, run_pclm)                                    # doctest: +SKIP
"""
