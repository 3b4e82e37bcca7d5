"""A Run as it is read: predictions, states, gates and what they were made of.

Why it exists. What a GPU node made in hours should open on a laptop in milliseconds. So reading needs neither torch nor
a model, everything is read when it is asked for, and one site over all items is one call.

The idea. The rows of everything (predictions, states, gates) are the same items in the same order: those of the
finished blocks. Only blocks with a marker exist, so an unfinished Run is simply a shorter one.

Worked example::

    run = vp.open_run("runs/mini")
    run.sites                                # ["encoder.stem", "encoder[0]", ... "options"]
    run.states("encoder[2]", "segments")     # array (item, segment, feature)
    run.activations["encoder_mean"].sel(encoder_layer="tower")
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vpanalysis import _blocks, _manifest
from vpanalysis._calibrated import COLUMN
from vpanalysis._finite import finite_rows, sentence, tabled
from vpanalysis._html import html_table, text_table
from vpanalysis._places import is_local, place_of
from vpanalysis._predictions import agreement_table, bias_table, export_jsonl, read_predictions, recorded_kinds
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from vpanalysis._integrity import Integrity
    from vpanalysis.capture.store import ActivationStore

__all__ = ["STORE_NAME", "Run"]

STORE_NAME = "activations.zarr"


class Run:
    """What a model did on a benchmark, read from its folder; see `open_run`.

    An unfinished Run shows its finished blocks only.

    Attributes
    ----------
    path : Path
    name : str
        The folder's name.
    manifest : dict
        Everything that the numbers depend on.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = place_of(path)
        self.manifest: dict[str, Any] = _manifest.read_manifest(self.path)
        self.name = self.path.resolve().name if is_local(self.path) else self.path.name
        self._finished = _blocks.finished_blocks(self.path, self.n_blocks)

    @cached_property
    def _markers(self) -> dict[int, dict[str, Any]]:
        """What is known of each finished block."""
        found = _blocks.finished(self.path, self.n_blocks)
        return {block: found.get(block, {}) for block in self._finished}

    @property
    def n_items(self) -> int:
        """Items of the whole benchmark."""
        return int(self.manifest["benchmark"]["items"])

    @property
    def block_size(self) -> int:
        """Items of a block; the last may have fewer."""
        return int(self.manifest["block_size"])

    @property
    def n_blocks(self) -> int:
        """Blocks of the whole benchmark."""
        return -(-self.n_items // self.block_size)

    @property
    def finished_blocks(self) -> tuple[int, ...]:
        """Blocks that were finished when the Run was opened."""
        return tuple(self._finished)

    @property
    def is_complete(self) -> bool:
        """Whether every block is finished."""
        return len(self._finished) == self.n_blocks

    @property
    def answers(self) -> bool:
        """Whether the model was asked; an encoder alone was only recorded, and no prediction is made."""
        return bool(self.manifest["model"].get("answers", True))

    @cached_property
    def _rows(self) -> NDArray[np.int64]:
        """Places of the finished items in the benchmark, in order: the rows of everything below."""
        size = self.block_size
        spans = [np.arange(b * size, min(self.n_items, (b + 1) * size)) for b in self._finished]
        return np.concatenate(spans) if spans else np.zeros(0, dtype=np.int64)

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """One row an item: the item itself, status, and the three predictions, which are different measurements.

        ``pred_logits`` is the option whose letter has the largest probability after the answer prefix
        (``option_logprobs``, natural logarithms in the order of the choices, renormalised over the offered letters);
        ``pred_text_score`` the one whose answer text is most likely (``text_scores``, summed over tokens);
        ``pred_generated`` the one read from the reply ``pred_generated_raw`` by the parser. Only the last may stand
        beside published numbers. Those that were not asked for are None. ``calibration`` says whether the model's
        reading was chosen with this item (`vpanalysis.calibrate`), which scores therefore leave out.
        """
        table = read_predictions(self.path, self._finished)
        table[COLUMN] = table["id"].isin((self.manifest.get("calibration") or {}).get("excluded", ()))
        return table

    def to_dataframe(self) -> pd.DataFrame:
        """Return a copy of the predictions."""
        return self.predictions.copy()

    @property
    def sites(self) -> list[str]:
        """Recorded sites, from the waveform to the answer."""
        return list(self.manifest["plan"])

    def reducers(self, site: str) -> list[str]:
        """Return what was kept of a site, such as ``["mean", "segments(6)"]``.

        Raises
        ------
        RunError
            If the site was not recorded.
        """
        if site not in self.manifest["plan"]:
            raise RunError(
                f"cannot read a site of the Run {self.name!r}", found=repr(site), allowed=self.sites, word=site
            )
        return list(self.manifest["plan"][site])

    @cached_property
    def _store(self) -> ActivationStore | None:
        from vpanalysis.capture.store import ActivationStore

        return ActivationStore(self.path / STORE_NAME) if (self.path / STORE_NAME).is_dir() else None

    def states(
        self, site: str, reducer: str = "mean", rows: NDArray[np.integer[Any]] | None = None
    ) -> NDArray[np.float32]:
        """Return the states of one site over all items, in the order of `predictions`.

        Parameters
        ----------
        site : str
            One of `sites`.
        reducer : str
            ``"mean"``, ``"segments(6)"`` (or ``"segments"``, where only one number of parts was kept), ``"last"``,
            ``"frames"``. Not looked at for ``gate`` and ``options``.
        rows : array, shape (row,), integer, optional
            Only these rows of `predictions`, in this order, without reading the rest: a Run can be larger than memory.

        Returns
        -------
        array, float32
            (item, feature); (item, segment, feature) for segments; (item, frame, feature) for frames, NaN after the
            end of a clip; (item, stream) for ``gate``; (item, option) log-probabilities for ``options``, NaN where an
            item offers fewer. NaN for failed items.

        Raises
        ------
        RunError
            If this was not recorded, or the stored data are damaged.
        """
        from vpanalysis.capture.reducers import Reducer

        kept = [Reducer.parse(r) for r in self.reducers(site)]
        if site == "options":
            return self._options() if rows is None else self._options()[rows]
        key = kept[0].key if site == "gate" else ""
        if not key and reducer == "segments" and sum(r.kind == "segments" for r in kept) == 1:
            key = next(r.key for r in kept if r.kind == "segments")
        key = key or Reducer.parse(reducer).key
        if key not in {r.key for r in kept}:
            raise RunError(
                f"cannot read {site!r} of the Run {self.name!r} as {reducer!r}",
                found="this was not recorded",
                allowed=[str(r) for r in kept],
                fix="record the run again with this reducer, into another folder",
            )
        if self._store is None:
            raise RunError(f"cannot read {site!r} of the Run {self.name!r}", found=f"no {STORE_NAME}")
        # Rows of this Run are items of the store; a Run that is read whole needs no list of them.
        wanted = None if self.is_complete else self._rows
        if rows is not None:
            places = np.arange(self.n_items, dtype=np.int64) if wanted is None else wanted
            wanted = places[np.asarray(rows)]
        states = self._store.read(site, key, wanted)
        return states.astype(np.float32, copy=False)

    @cached_property
    def nonfinite(self) -> pd.DataFrame:
        """Sites at which states are not finite, counted while they were recorded; empty when none are.

        Columns ``site``; ``items``, how many items are concerned, and of these ``nan``, ``infinite``, and ``clipped``
        (finite, but beyond what a float16 store holds). Blocks of versions that did not count are not in it.
        """
        return tabled(self._markers.values(), self.sites)

    @property
    def nonfinite_note(self) -> str:
        """One sentence on `nonfinite`; empty when there is nothing to say."""
        return sentence(self.nonfinite, str(self.manifest["model"].get("dtype")))

    def finite(self, sites: str | Sequence[str] | None = None) -> NDArray[np.bool_]:
        """Return which items have nothing but finite states, to leave the others out by request.

        Parameters
        ----------
        sites : str or sequence of str, optional
            Names of the sites that matter; all recorded ones by default.

        Returns
        -------
        array of bool, shape (item,)
            In the order of `predictions`; False for failed items, which have no states. Only sites that `nonfinite`
            names are read. Padding behind the end of a clip's ``frames`` is not looked at.

        Raises
        ------
        RunError
            If a site was not recorded, or stored data are damaged.
        """
        wanted = self.sites if sites is None else [sites] if isinstance(sites, str) else list(sites)
        keep = (self.predictions["status"] != "failed").to_numpy(dtype=bool, copy=True)
        counted = all("nonfinite" in facts for facts in self._markers.values())
        named = set(self.nonfinite.loc[self.nonfinite["nan"] + self.nonfinite["infinite"] > 0, "site"])
        for site in wanted:
            kept = self.reducers(site)
            if counted and site not in named:
                continue
            for reducer in ["mean"] if site == "options" else [r for r in kept if r != "none"]:
                states = self.states(site, reducer)
                if site == "options":
                    offered = [len(choices) for choices in self.predictions["choices"]]
                    states = np.where(np.arange(states.shape[1])[None, :] < np.array(offered)[:, None], states, 0.0)
                keep &= finite_rows(states, frames=reducer == "frames")
        return keep

    def verify(self, *, redo: bool = False, progress: bool = False) -> Integrity:
        """Read everything that is stored against its checksums, and name the blocks that are damaged.

        Parameters
        ----------
        redo : bool
            Declare damaged blocks unfinished, so that the next call of `run` with the same settings makes exactly these
            again. The damaged files stay until then.
        progress : bool
            Show a bar.

        Returns
        -------
        Integrity
            With ``ok``, the damaged ``blocks``, and a table of files.

        Raises
        ------
        RunError
            With `redo`, if someone is writing the Run, or its folder may not be written.
        """
        from vpanalysis._integrity import check

        return check(self, redo=redo, progress=progress)

    def _options(self) -> NDArray[np.float32]:
        rows = [np.asarray([] if v is None else v, dtype=np.float32) for v in self.predictions["option_logprobs"]]
        out = np.full((len(rows), max((len(c) for c in self.predictions["choices"]), default=0)), np.nan, np.float32)
        for place, row in zip(out, rows, strict=True):
            place[: len(row)] = row
        return out

    @cached_property
    def gates(self) -> pd.DataFrame | None:
        """Weights of the gate: one row an item that did not fail (index ``id``), one column a stream; None without."""
        import pandas as pd

        if "gate" not in self.manifest["plan"]:
            return None
        ids = pd.Index(self.predictions["id"].to_numpy(), name="id")
        table = pd.DataFrame(self.states("gate"), index=ids, columns=list(self.manifest["model"]["streams"]))
        return table[(self.predictions["status"] != "failed").to_numpy()]

    @property
    def activations(self) -> xr.Dataset:
        """All recorded states as a lazily loaded xarray Dataset: dims ``item``, ``<group>_layer``, ``segment`` ...

        Raises
        ------
        RunError
            If no states were recorded.
        """
        if self._store is None:
            raise RunError(f"cannot read the activations of the Run {self.name!r}", found=f"no {STORE_NAME}")
        data = self._store.dataset()
        return data if self.is_complete else data.isel(item=self._rows)

    @property
    def results(self) -> Path:
        """Folder in which analyses keep what they computed; created on access."""
        folder = self.path / "results"
        if is_local(folder):
            folder.mkdir(exist_ok=True)
        return folder

    def kept(self) -> pd.DataFrame:
        """Return what analyses have kept in `results`: name, kind, path; :func:`vpanalysis.load_result` reads one."""
        from vpanalysis._results import results_of

        return results_of(self)

    def agreement(self) -> pd.DataFrame:
        """Return how often two kinds of prediction name the same option: columns a, b, n, agree."""
        return agreement_table(self.predictions)

    def letter_bias(self, prediction: str = "pred_logits") -> pd.DataFrame:
        """Return how often each letter is picked against how often it is right: letter, offered, picked, truth, excess.

        Parameters
        ----------
        prediction : {"pred_logits", "pred_text_score", "pred_generated"}

        Raises
        ------
        RunError
            If the Run does not hold this prediction.
        """
        return bias_table(self.predictions, prediction)

    def predictions_jsonl(self, path: str | Path, prediction: str | None = None) -> Path:
        """Write the predictions in the released dataset's field names, one JSON object a line, for its own scorer.

        Parameters
        ----------
        path : str or Path
        prediction : str, optional
            Which kind; by default ``pred_generated`` where replies were written, else ``pred_logits``. The file names
            it.

        Returns
        -------
        Path

        Raises
        ------
        RunError
            If the Run does not hold this prediction.
        """
        if prediction is None:
            made = recorded_kinds(self.predictions)
            prediction = "pred_generated" if "pred_generated" in made else "pred_logits"
        return export_jsonl(self.predictions, Path(path), prediction)

    def _summary(self) -> tuple[pd.DataFrame, str, str]:
        import pandas as pd

        table = self.predictions
        kinds = recorded_kinds(table)
        rows = []
        for (task, condition), part in table.groupby(["task_name", "condition"], sort=False):
            row = {"task": task, "condition": condition, "items": len(part)}
            row["failed"] = int((part["status"] == "failed").sum())
            # Which prediction a share is about stands in the header; it is a description, scores have intervals.
            row |= {f"{kind} = truth": float((part[kind] == part["truth"]).mean()) for kind in kinds}
            rows.append(row)
        made = self.manifest
        title = f"Run {self.name!r}: {made['model']['name']} on {made['benchmark']['name']}, "
        title += f"{len(self._rows)} of {self.n_items} items" + ("" if self.is_complete else " (unfinished)")
        used = int(table[COLUMN].sum())
        note = f"{used} of these items calibrated the model, and scores leave them out; " if used else ""
        bad = self.nonfinite_note
        note += f"{bad}; " if bad else ""
        note += f"{len(self.sites)} sites recorded" + ("" if self.answers else " of an encoder that answers nothing")
        note += f"; made by vpanalysis {made['code']['version']} in {str(self.path)!r}"
        return pd.DataFrame(rows), title, note

    def __repr__(self) -> str:
        return text_table(*self._summary())

    def _repr_html_(self) -> str:
        return html_table(*self._summary())
