"""Gate weights: which depth of the encoder each kind of question is answered from.

A PCLM mixes its streams with weights that depend on the prompt alone. The map shows the mean mixture per task with
its spread over items, and says underneath how far apart the two most different tasks are: a gate that collapsed to
one mixture can still help, and looks just as busy bar by bar.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd

from vpanalysis.errors import RunError
from vpanalysis.plots.maps import draw_map
from vpanalysis.plots.style import add_note, new_axes, short_task, theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["gate_distances", "gate_table", "gate_variation", "gate_weights"]


class GatedRun(Protocol):
    """What is needed of a Run here."""

    @property
    def name(self) -> str:
        """Short name of the Run."""

    @property
    def predictions(self) -> pd.DataFrame:
        """One row an item."""

    @property
    def gates(self) -> pd.DataFrame | None:
        """Weights, one row an item (index ``id``), one column a stream."""


def gate_table(run: GatedRun) -> pd.DataFrame:
    """Return mean and spread of the gate weights per task and stream.

    Parameters
    ----------
    run : Run
        Of a model with a gate.

    Returns
    -------
    DataFrame
        Columns task, stream, mean, sd (standard deviation over items), n.

    Raises
    ------
    RunError
        When the Run has no gate weights.
    """
    gates = run.gates
    if gates is None or gates.empty:
        raise RunError(
            f"cannot show the gate of run {run.name!r}", found="no gate weights", fix="use a run of a PCLM checkpoint"
        )
    task = run.predictions.set_index("id")["task_name"].reindex(gates.index)
    rows = [
        {"task": str(name), "stream": str(s), "mean": part[s].mean(), "sd": part[s].std(ddof=0), "n": len(part)}
        for name, part in gates.dropna().groupby(task, sort=False)
        for s in gates.columns
    ]
    return pd.DataFrame(rows)


def gate_variation(table: pd.DataFrame) -> tuple[float, str, str]:
    """Return the largest total variation between the mean mixtures of two tasks, and the two tasks.

    Parameters
    ----------
    table : DataFrame
        From :func:`gate_table`.

    Returns
    -------
    distance : float
        Half the summed absolute difference: 0 for equal mixtures, 1 for mixtures without a common stream.
    first, second : str
    """
    wide = table.pivot(index="task", columns="stream", values="mean")
    best = (0.0, str(wide.index[0]), str(wide.index[0]))
    for one, two in itertools.combinations(wide.index, 2):
        distance = 0.5 * float(np.abs(wide.loc[one].to_numpy() - wide.loc[two].to_numpy()).sum())
        if distance > best[0]:
            best = (distance, str(one), str(two))
    return best


def gate_weights(run: GatedRun, ax: Axes | None = None, *, note: str | None = None) -> Axes:
    """Draw the mean gate weight per task and stream as a map with numbers and spreads.

    Parameters
    ----------
    run : Run
        Of a model with a gate.
    ax : Axes, optional
    note : str, optional
        Caption under the picture.

    Returns
    -------
    Axes
    """
    table = gate_table(run)
    tasks, streams = list(dict.fromkeys(table["task"])), list(dict.fromkeys(table["stream"]))

    def wide(values: str) -> pd.DataFrame:
        return table.pivot(index="task", columns="stream", values=values).reindex(index=tasks, columns=streams)

    mean, sd = wide("mean"), wide("sd")
    text = pd.DataFrame(
        [[f"{mean.loc[t, s]:.2f} ±{sd.loc[t, s]:.2f}" for s in streams] for t in tasks], index=tasks, columns=streams
    )
    distance, one, two = gate_variation(table)
    with theme():
        if ax is None:
            ax = new_axes(2.2 + 0.95 * len(streams), 1.5 + 0.32 * len(tasks))[1]
        # At least to one half, or a gate that mixes all streams alike would look as if it chose all of them.
        draw_map(
            ax, mean.to_numpy(dtype=float), text, high=max(0.5, float(np.nanmax(mean.to_numpy(dtype=float)))), size=8
        )
        ax.set_xticks(range(len(streams)), streams)
        ax.set_yticks(range(len(tasks)), [short_task(t) for t in tasks])
        between = f"{distance:.2f} ({short_task(one)} and {short_task(two)})" if len(tasks) > 1 else "one task only"
        ax.set_xlabel(f"stream (mean ± SD over items)\nlargest total variation between tasks: {between}")
        ax.set_title(f"Gate weights: {run.name}")
        add_note(ax, note)
    return ax


def gate_distances(matrix: pd.DataFrame, ax: Axes | None = None, *, name: str = "", note: str | None = None) -> Axes:
    """Draw the total variation between the mean mixtures of every two tasks.

    Parameters
    ----------
    matrix : DataFrame
        Tasks by tasks, as of :meth:`vpanalysis.attribution.GateMixtures.matrix`.
    ax : Axes, optional
    name : str
        Of the Run, for the title.
    note : str, optional
        Caption under the picture.

    Returns
    -------
    Axes
    """
    values = matrix.to_numpy(dtype=np.float64)
    tasks = [short_task(str(task)) for task in matrix.index]
    text = pd.DataFrame(values).map(lambda v: f"{v:.2f}")
    for k in range(len(tasks)):
        text.iat[k, k] = ""
    with theme():
        if ax is None:
            ax = new_axes(2.0 + 0.5 * len(tasks), 1.6 + 0.34 * len(tasks))[1]
        # At least to one half, or small differences would look like large ones.
        draw_map(ax, values, text, high=max(0.5, float(np.nanmax(values))))
        ax.set_xticks(range(len(tasks)), tasks, rotation=90)
        ax.set_yticks(range(len(tasks)), tasks)
        ax.set_title(f"{name}: total variation between tasks" if name else "Total variation between tasks")
        add_note(ax, note)
    return ax
