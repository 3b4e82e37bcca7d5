"""From a table of answers to the result of a calibration: who chooses, who judges, what is decided and what stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from vpanalysis import _manifest, stats
from vpanalysis._calibrated import item_key
from vpanalysis._calibration import COMPARISON_KINDS, READING_KINDS, Calibration
from vpanalysis._calibration_evidence import MARGIN, SHARE, Verdict, choosing, judge
from vpanalysis._outcomes import clusterings
from vpanalysis._tables import typed
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.stats import BoolArray, Estimate, Labels

if TYPE_CHECKING:
    from vpanalysis._calibration_scores import Readings, ScoreTable
    from vpanalysis.benchmark.items import Item

__all__ = ["built"]

# Fewer groups than this can neither be divided nor say how groups differ.
_FEWEST_GROUPS = 4


def built(
    table: ScoreTable,
    readings: Readings,
    reference: Mapping[str, str],
    stated: Mapping[str, str],
    facts: Mapping[str, Any],
    *,
    level: float,
    random_state: int | None,
) -> Calibration:
    """Return the calibration that a table of answers amounts to.

    Parameters
    ----------
    table : ScoreTable
    readings : Readings
        Its columns.
    reference, stated : mapping of str to str
        The value that each convention has where nothing is decided, and what ``config.json`` states.
    facts : mapping
        Fields of `Calibration` that say what was calibrated on what; ``settings`` is added to.
    level : float
        Of all conventions together.
    random_state : int or None
        Draws the items that choose.
    """
    by, groups = _groups(table.items)
    chooses = choosing(groups[by].tolist(), [item.task_name for item in table.items], random_state=random_state)
    # A grouping of which the judging items have one group only says nothing about how groups differ.
    clusters = {name: g for name, g in groups.items() if len(set(g[~chooses])) > 1} or {by: groups[by]}
    chance = np.array([1 / len(item.choices) for item in table.items])
    verdict = judge(table.loglik, table.right, readings.every, readings.values, chooses, clusters, chance, level=level)
    decided, reasons = _settled(readings, verdict)
    kept = {name: reference[name] for name in readings.values if name not in decided}
    used = {**reference, **{name: value for name, value in decided.items() if name not in stated}}
    order = [int(i) for i in np.argsort(-table.loglik.mean(axis=0), kind="stable")]
    settings = {
        **facts["settings"], "held": {name: value for name, value in reference.items() if name not in readings.values},
        "level": level, "level_each": verdict.level, "margin": MARGIN, "share": SHARE,
        "split_by": by, "groups": list(clusters), "accuracy": _estimate(verdict.accuracy), "chance": verdict.chance,
        "joint": _joint(table, readings, verdict, used, chooses, clusters, level), "unfit": dict(readings.unfit),
        "failed": dict(table.failed),
    }  # fmt: skip
    return Calibration(
        **{**facts, "settings": settings},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        decided=decided,
        undecided=kept,
        reasons=reasons,
        stated=dict(stated),
        chosen=dict(readings.every[verdict.chosen]),
        readings=typed(_reading_rows(table, readings, verdict, chooses, used, order), READING_KINDS),
        comparisons=typed(_comparison_rows(readings, verdict, order), COMPARISON_KINDS),
        items=tuple(
            {"id": item.id, "key": item_key(item), "part": "chooses" if first else "judges"}
            for item, first in zip(table.items, chooses, strict=True)
        ),
        versions={**_manifest.versions(), "code": _manifest.code_version()["sha"]},
    )


def _groups(items: Sequence[Item]) -> tuple[str, dict[str, Labels]]:
    """Return by what the items are divided, and the groups that intervals respect."""
    found = clusterings(Benchmark(items, name="calibration", source="").to_dataframe())
    usable = {name: labels for name, labels in found.items() if len(set(labels)) >= _FEWEST_GROUPS}
    if not usable:
        # One voice, or nothing known: an item is all there is to go by.
        usable = {"item": np.array([item.id for item in items], dtype=object)}
    return next(iter(usable)), usable


def _settled(readings: Readings, verdict: Verdict) -> tuple[dict[str, str], dict[str, str]]:
    """Return what is decided, by answers or because only one value fits, and why or why not."""
    decided, reasons = dict(verdict.decided), dict(verdict.reasons)
    for name, values in readings.values.items():
        if len(values) > 1:
            continue
        out = [why for what, why in readings.unfit.items() if what.startswith(f"{name}=")]
        # Numbers that fit no other way of counting settle it; a text that is too long says nothing about the others.
        if name == "layer_index_convention" and out:
            decided[name], reasons[name] = values[0], f"nothing else fits: {out[0]}"
        else:
            reasons[name] = "no other value was tried"
    return decided, {name: reasons[name] for name in readings.values}


def _joint(
    table: ScoreTable,
    readings: Readings,
    verdict: Verdict,
    used: Mapping[str, str],
    chooses: BoolArray,
    clusters: Mapping[str, Labels],
    level: float,
) -> dict[str, Any] | None:
    """Return how much worse the reading in use is than the chosen one; None where that was not tried or is the same."""
    if used not in readings.every or readings.every[verdict.chosen] == used:
        return None
    difference = table.loglik[:, verdict.chosen] - table.loglik[:, readings.every.index(dict(used))]
    groups = {name: labels[~chooses] for name, labels in clusters.items()}
    return _estimate(stats.mean(difference[~chooses], groups, level=level))


def _reading_rows(
    table: ScoreTable,
    readings: Readings,
    verdict: Verdict,
    chooses: BoolArray,
    used: Mapping[str, str],
    order: Sequence[int],
) -> list[dict[str, Any]]:
    rows = []
    for number in order:
        row: dict[str, Any] = dict(readings.every[number])
        for name, scores in (("loglik", table.loglik[:, number]), ("accuracy", table.right[:, number])):
            row[name] = scores.mean()
            row[f"{name}_choosing"], row[f"{name}_judging"] = scores[chooses].mean(), scores[~chooses].mean()
        row["gate_entropy"] = table.entropy[number]
        row |= {"chosen": number == verdict.chosen, "in_use": readings.every[number] == used}
        rows.append(row)
    return rows


def _comparison_rows(readings: Readings, verdict: Verdict, order: Sequence[int]) -> list[dict[str, Any]]:
    place = {number: row for row, number in enumerate(order)}
    own = readings.every[verdict.chosen]
    return [
        {**row, "chosen": own[row["convention"]], "other": row["value"], "reading": place[row["other"]]}
        for row in verdict.comparisons
    ]


def _estimate(found: Estimate) -> dict[str, Any]:
    """Return an estimate as plain values; a bound that does not exist is None."""
    values = {"value": found.value, "low": found.low, "high": found.high}
    return {**{k: None if v != v else float(v) for k, v in values.items()}, "n": found.n, "n_groups": found.n_groups}
