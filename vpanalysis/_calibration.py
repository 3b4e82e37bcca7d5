"""What a calibration found: the result of `vpanalysis.calibrate`, and the file that it is kept in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from vpanalysis._html import html_table, text_table
from vpanalysis._scores import below, interval, percent
from vpanalysis._tables import Kind, from_json, read_record, to_json, write_record
from vpanalysis.errors import ModelError
from vpanalysis.models.conventions import CALIBRATION_NAME, CALIBRATION_VERSION, CONVENTIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vpanalysis.models.facade import AudioLLM

__all__ = ["COMPARISON_KINDS", "READING_KINDS", "Calibration"]

READING_KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(CONVENTIONS, "text"),
    "loglik": "float", "loglik_choosing": "float", "loglik_judging": "float", "accuracy": "float",
    "accuracy_choosing": "float", "accuracy_judging": "float", "gate_entropy": "float", "chosen": "bool",
    "in_use": "bool",
}  # fmt: skip
"""Columns of :attr:`Calibration.readings`."""

COMPARISON_KINDS: Mapping[str, Kind] = {
    "convention": "text", "chosen": "text", "other": "text", "kind": "text", "reading": "int", "difference": "float",
    "low": "float", "high": "float", "accuracy": "float", "accuracy_low": "float", "accuracy_high": "float", "n": "int",
    "n_groups": "int", "group": "text", "verdict": "text",
}  # fmt: skip
"""Columns of :attr:`Calibration.comparisons`."""


@dataclass(frozen=True, repr=False)
class Calibration:
    """How a checkpoint is to be read, as far as its answers decide it.

    Attributes
    ----------
    model : str
        Name of the model.
    source, revision : str or None
        Where it came from.
    fingerprint : str
        Of the checkpoint's files (see :mod:`vpanalysis.models.conventions`), or of the weights of a model in memory,
        which begins with ``"memory-"``.
    benchmark : mapping
        name, source, revision, sha (over all its items) and items (their number).
    created : str
        Date and time, UTC.
    decided : dict of str to str
        Conventions that the answers decide, or for which only one value fits, with their values.
    undecided : dict of str to str
        The others, with the value that they keep: what ``config.json`` states, or the natural one.
    reasons : dict of str to str
        Why, convention by convention.
    stated : dict of str to str
        What ``config.json`` states. It is never overridden; see :attr:`contradictions`.
    chosen : dict of str to str
        The reading that did best on the choosing items.
    readings : DataFrame
        One row a reading, the best first: its conventions; mean log-probability of the truth over the offered options
        (loglik, natural logarithm) and accuracy, over all items and over those that choose and judge; mean entropy of
        the gate's weights (nats; shown, not used); whether it was chosen, and whether it is in use now.
    comparisons : DataFrame
        One row a comparison of the chosen reading with another, on the judging items: convention; the chosen and the
        other value; kind (``"one step"``: nothing else differs; ``"best with it"``: the best of all that have this
        value); reading (row of `readings`); difference of log-probability, chosen minus other, in nats an item, with
        its interval; difference of accuracy likewise; n items, n_groups and group (that gave the interval); verdict.
    items : tuple of dict
        The items used: id, key (content), and part (``"chooses"`` or ``"judges"``).
    settings : mapping
        Everything else that the result depends on.
    versions : mapping
        Of libraries and code.
    path : Path or None
        Where it was saved.
    """

    model: str
    source: str | None
    revision: str | None
    fingerprint: str
    benchmark: Mapping[str, Any]
    created: str
    decided: dict[str, str]
    undecided: dict[str, str]
    reasons: dict[str, str]
    stated: dict[str, str]
    chosen: dict[str, str]
    readings: pd.DataFrame
    comparisons: pd.DataFrame
    items: tuple[dict[str, str], ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def contradictions(self) -> dict[str, tuple[str, str]]:
        """Conventions whose stated value is not the decided one: (stated, decided)."""
        return {n: (self.stated[n], v) for n, v in self.decided.items() if n in self.stated and self.stated[n] != v}

    @property
    def conventions(self) -> dict[str, str]:
        """The reading that `load_model` uses with this calibration: stated, else decided, else natural."""
        return {**self.undecided, **self.decided, **{n: stated for n, (stated, _) in self.contradictions.items()}}

    def to_dataframe(self) -> pd.DataFrame:
        """Return a copy of :attr:`readings`: one row a reading."""
        return self.readings.copy()

    def plot(self, ax: Axes | None = None, **kwargs: Any) -> Axes:
        """Draw what the comparisons found (:func:`vpanalysis.plots.calibration_forest`)."""
        from vpanalysis import plots

        return plots.calibration_forest(self, ax=ax, **kwargs)

    def apply(self, llm: AudioLLM) -> None:
        """Let a loaded model follow :attr:`conventions`, and note the calibration for its Runs.

        For a model that was in memory already: `load_model` does the same by itself.

        Parameters
        ----------
        llm : AudioLLM
            The model that was calibrated.

        Raises
        ------
        ModelError
            If it is another one.
        """
        from vpanalysis.calibration import fingerprint_of
        from vpanalysis.models._live import set_conventions

        found = fingerprint_of(llm)
        if found != self.fingerprint:
            raise ModelError(
                f"cannot apply this calibration to {llm.name!r}",
                found=f"other weights (fingerprint {found[:19]})",
                allowed=f"those of {self.model!r}, {self.fingerprint[:19]}",
            )
        set_conventions(llm, self.conventions)
        llm.calibration = self.record()

    def save(self, path: str | Path) -> Path:
        """Write one JSON file (``vpanalysis-calibration.json`` where `path` is a folder), all or nothing."""
        return write_record(path, self.record(), CALIBRATION_NAME)

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what :meth:`save` wrote; :class:`RunError` when the file is something else."""
        record = read_record(path, "Calibration", CALIBRATION_NAME)
        if record.get("version") != CALIBRATION_VERSION:
            raise ModelError(
                f"cannot load a Calibration from {str(path)!r}",
                found=f"version {record.get('version')!r}",
                allowed=str(CALIBRATION_VERSION),
            )
        plain = {k: v for k, v in record.items() if k not in ("kind", "version", "readings", "comparisons", "items")}
        file = Path(path)
        return cls(
            **plain,
            readings=from_json(record["readings"]),
            comparisons=from_json(record["comparisons"]),
            items=tuple(record["items"]),
            path=file / CALIBRATION_NAME if file.is_dir() else file,
        )

    def at(self, path: Path | None) -> Calibration:
        """Return the same with another place."""
        return replace(self, path=path)

    def record(self) -> dict[str, Any]:
        """Return the content of the file."""
        tables = {key: to_json(getattr(self, key)) for key in ("readings", "comparisons")}
        names = (
            "model", "source", "revision", "fingerprint", "benchmark", "created", "decided", "undecided", "reasons",
            "stated", "chosen", "settings", "versions",
        )  # fmt: skip
        plain = {name: _plain(getattr(self, name)) for name in names}
        items = [dict(item) for item in self.items]
        return {"kind": "Calibration", "version": CALIBRATION_VERSION, **plain, **tables, "items": items}

    # Printing ---------------------------------------------------------------------------------------------------------

    def _summary(self) -> pd.DataFrame:
        rows = []
        for name in (n for n in CONVENTIONS if n in self.reasons):
            best, used, stated = self.chosen[name], self.conventions[name], self.stated.get(name, "-")
            first = {
                "convention": name,
                "best": best,
                "decided": ("yes" if name in self.decided else "no") + ("" if used == best else f": {used} stays"),
                "stated": "so" if stated == best else stated,
            }
            near = self.comparisons[(self.comparisons["convention"] == name) & (self.comparisons["kind"] == "one step")]
            shown = [_compared(row) for row in near.to_dict("records")] or [{"against": "nothing else fits"}]
            rows += [{**(dict.fromkeys(first, "") if number else first), **row} for number, row in enumerate(shown)]
        return pd.DataFrame(rows).fillna("")

    def _title(self) -> str:
        parts = [item["part"] for item in self.items]
        return (
            f"Calibration of {self.model} on {self.benchmark['name']}: {len(self.readings)} readings, {len(parts)} "
            f"items ({parts.count('chooses')} choose, {parts.count('judges')} judge)"
        )

    def _notes(self) -> list[str]:
        s = self.settings
        notes = [
            f"Best minus other value, on the judging items; {percent(s['level'])} intervals for all conventions "
            f"together, grouped by {' and '.join(s['groups'])}. Decided: every reading with another value is worse by "
            f"more than {s['margin']:g} nat an item. Stated: by config.json.",
            *(f"{name}: not decided, {why}." for name, why in self.reasons.items() if name not in self.decided),
            *(
                f"CONTRADICTION: config.json states {name}={stated}, the answers say {found}; load_model keeps the "
                f"config's."
                for name, (stated, found) in self.contradictions.items()
            ),
        ]
        notes += self._answers()
        joint = s.get("joint")
        if joint is not None and joint["low"] is not None and joint["low"] > s["margin"]:
            notes.append(
                f"The reading in use is worse than the best one by {joint['value']:.3f} [{joint['low']:.3f}, "
                f"{joint['high']:.3f}] nat an item"
                + ("." if self.contradictions else ": what is open matters together, but not which of it.")
            )
        if s.get("held"):
            notes.append("Not varied: " + ", ".join(f"{name}={value}" for name, value in s["held"].items()) + ".")
        notes += [f"Not tried: {what} ({why})." for what, why in s.get("unfit", {}).items()]
        if s.get("failed"):
            notes.append(f"{len(s['failed'])} items could not be used, such as {next(iter(s['failed']))}.")
        notes.append(
            f"Saved in {self.path}; these items are left out of later scores of this model."
            if self.path is not None
            else "Not saved."
        )
        return notes

    def _answers(self) -> list[str]:
        """Return how well the best reading answers, and what its gate does."""
        right = self.settings.get("accuracy")
        if right is None or not len(self.readings):
            return []
        entropy = self.readings["gate_entropy"]
        ends = "" if right["low"] is None else f" [{right['low']:.2f}, {right['high']:.2f}]"
        return [
            f"The best reading is right on {right['value']:.2f}{ends} of the judging items, guessing on "
            f"{self.settings['chance']:.2f}. Mean entropy of its gate: {entropy[self.readings['chosen']].iloc[0]:.2f} "
            f"nat, of all readings {entropy.min():.2f} to {entropy.max():.2f} (shown, not used)."
        ]

    def __repr__(self) -> str:
        return text_table(self._summary(), self._title()) + below(self._notes())

    def _repr_html_(self) -> str:
        return html_table(self._summary(), self._title(), " ".join(self._notes()))


def _compared(row: Mapping[Any, Any]) -> dict[str, str]:
    return {
        "against": str(row["other"]),
        "nat an item": interval(row["difference"], row["low"], row["high"]),
        "accuracy": interval(row["accuracy"], row["accuracy_low"], row["accuracy_high"]),
        "verdict": str(row["verdict"]),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v) for v in value]
    return value
