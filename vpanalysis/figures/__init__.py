"""The paper's figures and tables, regenerated from Runs and from what analyses kept in them, beside published numbers.

Why it exists. A claim is checked by drawing its picture again from one's own Runs, with intervals, next to the number
that was printed. So every figure is a tidy table first (:func:`figure_data`), drawn from that table alone
(:func:`build_figure`), and published numbers are data with a source (:func:`published`), never series of ours.

>>> from vpanalysis import figures                                            # doctest: +SKIP
>>> figures.build_figure("leaderboard", "runs").savefig("leaderboard.pdf")    # doctest: +SKIP
"""

from vpanalysis.figures._entry import Entry, LackingError
from vpanalysis.figures._gallery import Gallery, build_gallery
from vpanalysis.figures._published import published, published_tables, published_value
from vpanalysis.figures._registry import build_figure, figure_data, list_figures
from vpanalysis.figures._sources import Sources
from vpanalysis.figures._stale import check_gallery

__all__ = [
    "Entry", "Gallery", "LackingError", "Sources", "build_figure", "build_gallery", "check_gallery", "figure_data",
    "list_figures", "published", "published_tables", "published_value",
]  # fmt: skip
