"""Where is it lost? The difference between sites on either side of every boundary of the model.

Why it exists. "The encoder knows and the language model does not" is a claim about a place. A falling curve over twenty
sites suggests one; whether a given step (say from the tower to the projector) loses anything is a paired question, and
a model has few such steps, so few tests.

The idea. Five stations: the stem, the middle layer of the encoder, the tower, the audio tokens (``mixed`` or
``projector``), the last text layer. All are probed on the same items, weights and folds. At each boundary accuracy
after less accuracy before is taken item by item with its clustered interval, and tested by flipping the signs of whole
clusters (Pitman 1937). p values of all tasks and boundaries of a call are adjusted by Benjamini and Hochberg (1995). A
negative value is information lost to a linear reader. Up to the audio tokens nothing can be gained in the sense of
information theory, so a positive value means that it became easier to read.

Worked example::

    tower -> mixed     -0.31 [-0.42, -0.20]   p 0.0001   q 0.0004     lost at the projector
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd

from vpanalysis import stats
from vpanalysis.errors import RunError
from vpanalysis.probes.controls._common import ProbeSetup, adjusted, correctness, empty_row, paired, plans, row
from vpanalysis.probes.layers import choose_sites
from vpanalysis.probes.targets import RunLike

__all__ = ["STATIONS", "boundary_losses", "stations"]

SOURCE = "sign-flip test: Pitman 1937; Benjamini and Hochberg 1995"

STATIONS = ("stem", "middle", "tower", "projector", "text")
"""What :func:`stations` looks for, in the order of the signal."""


def stations(sites: Sequence[str]) -> dict[str, str]:
    """Return the site of each station that was recorded, in the order of the signal.

    Parameters
    ----------
    sites : sequence of str
        Recorded sites.

    Returns
    -------
    dict of str to str
        From :data:`STATIONS` to site names. ``middle`` is encoder layer L // 2 of the L that were recorded, ``text``
        the last text layer.

    >>> stations(["encoder.stem", "encoder[0]", "encoder[1]", "encoder[2]", "tower", "mixed", "text.embed", "text[0]"])
    {'stem': 'encoder.stem', 'middle': 'encoder[1]', 'tower': 'tower', 'projector': 'mixed', 'text': 'text[0]'}
    """

    def layers(part: str) -> list[str]:
        found = [(int(m.group(1)), s) for s in sites if (m := re.fullmatch(rf"{part}\[(\d+)\]", s))]
        return [name for _, name in sorted(found)]

    encoder, text = layers("encoder"), layers("text")
    found = {
        "stem": "encoder.stem" if "encoder.stem" in sites else None,
        "middle": encoder[len(encoder) // 2] if encoder else None,
        "tower": "tower" if "tower" in sites else None,
        "projector": next((s for s in ("mixed", "projector") if s in sites), None),
        "text": text[-1] if text else None,
    }
    return {name: site for name, site in found.items() if site is not None}


def boundary_losses(
    run: RunLike,
    tasks: str | Sequence[str] | None = None,
    *,
    at: Mapping[str, str] | None = None,
    setup: ProbeSetup | None = None,
) -> pd.DataFrame:
    """Return what is lost at each boundary, with sign-flip tests (Pitman 1937; Benjamini and Hochberg 1995).

    Parameters
    ----------
    run : Run
    tasks : str or sequence of str, optional
    at : mapping of str to str, optional
        Names of stations and their sites, in the order of the signal; default those of :func:`stations`.
    setup : ProbeSetup, optional

    Returns
    -------
    DataFrame
        Rows with measure ``accuracy`` for every station (name in ``variant``) and ``difference`` for every boundary
        (``variant`` as ``"tower -> projector"``, ``site`` as ``"tower -> mixed"``): after less before, paired, with
        interval, `p` and `q`.

    Raises
    ------
    RunError
        With fewer than two stations, or for unknown sites.
    """
    made = setup or ProbeSetup()
    where = dict(stations(run.sites) if at is None else at)
    if len(where) < 2:
        raise RunError("cannot compare both sides of a boundary", found=f"stations {where}", allowed="two at least",
                       fix="record sites on both sides, or name them with at=")  # fmt: skip
    for site in where.values():
        choose_sites(run.sites, [site])
    names = list(where)
    steps = list(pairwise(names))
    rows: list[dict[str, Any]] = []
    for task, plan in plans(run, tasks, made):
        if not plan.folds:
            for one, two in steps:
                more = {"site": f"{where[one]} -> {where[two]}", "variant": f"{one} -> {two}", "target": made.target}
                rows.append(empty_row("boundary", task, "difference", SOURCE, plan.reason, **more))
            continue
        right = dict(zip(names, correctness(run, list(where.values()), plan, made), strict=True))
        weights = plan.items.weights
        for name in names:
            found = stats.proportion(right[name], plan.clusters, weights=weights, level=made.level, chance=plan.chance)
            more = {"site": where[name], "variant": name, "target": made.target}
            rows.append(row("boundary", task, "accuracy", found, SOURCE, **more))
        for one, two in steps:
            found, p = paired(right[two], right[one], plan.clusters, weights, level=made.level, seed=made.random_state)
            more = {"site": f"{where[one]} -> {where[two]}", "variant": f"{one} -> {two}", "target": made.target}
            rows.append(row("boundary", task, "difference", found, SOURCE, p=p, **more))
    return adjusted(rows)
