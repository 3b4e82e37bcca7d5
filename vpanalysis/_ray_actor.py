"""What runs in the processes of a Ray cluster: one model, and the blocks that it is given.

Why it exists. A driver (`vpanalysis._ray`) hands out blocks and must neither load the model nor hold what is recorded.
Everything that touches either happens here, in a process that may die and be started again at any moment.

The idea. An actor keeps nothing that it could not have again: the model comes with every call, and so does what the
Run asks for. What it does must not depend on the order in which it is asked.

* An actor takes two blocks at a time, in two threads. A lock lets one of them use the model; meanwhile the other
  decodes clips, or writes.
* Before it writes, and again before the marker, it looks whether the manifest is still the one it was started for, so
  that an actor which outlives its driver for a moment cannot finish a block of what another driver has begun.
* Ray calls a block again for as long as its actor dies, and where a node is gone it does so many times in a second. So
  tries are counted where they begin, in an actor of their own (:class:`Tally`): three beginnings are a block's own.
* What a model raises is the block's fault (:class:`BlockFailed`), what the machine or the disk says is not.

Worked example::

    made = ray.remote(Hand).options(max_restarts=-1).remote({"dtype": "float32"})
    ray.get(made.block.remote("mini", setup, sha, 3, items, tally))         # 3
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vpanalysis._cluster import sentence
from vpanalysis._run import STORE_NAME
from vpanalysis._saved import manifest_sha
from vpanalysis._trouble import of_the_machine
from vpanalysis._worker import BlockFailed, ModelFacts, Setup, Wording, Worker, facts_of_block, write_block
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    from vpanalysis._passes import Passes, Sizes
    from vpanalysis.benchmark.items import Item
    from vpanalysis.benchmark.prompts import PromptTemplate
    from vpanalysis.capture.store import ActivationStore
    from vpanalysis.models.facade import AudioLLM

__all__ = ["TRIES", "Hand", "Tally"]

TRIES = 3
"""How often a block is begun before its items count as failed."""

_PAUSE = 0.5  # seconds before the next try: what was away for a moment may be back


class Hand:
    """An actor: one model, and the blocks that it is given.

    The model comes with every call, as its name or as a reference to it, and is taken in by the first: an actor that is
    started again then has what it needs, wherever that is.

    Parameters
    ----------
    options : mapping
        Of `load_model`.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._one = threading.Lock()
        self._worker: Worker | None = None
        self._begun: tuple[str | None, Passes, ActivationStore] | None = None

    def _have(self, model: str | Sequence[Any]) -> Worker:
        from vpanalysis.runs import loaded_model

        if self._worker is None:
            if not isinstance(model, str):
                import ray

                model = ray.get(model[0])
            self._worker = Worker(loaded_model(cast("AudioLLM | str", model), self._options))
        return self._worker

    def facts(self, model: str | Sequence[Any]) -> ModelFacts:
        with self._one:
            return self._have(model).told

    def wording(
        self, model: str | Sequence[Any], item: Item, letters: Sequence[str], template: PromptTemplate
    ) -> Wording:
        return self._have(model).wording(item, letters, template)

    def sizes(self, model: str | Sequence[Any], setup: Setup, item: Item) -> Sizes:
        return self._have(model).passes(setup).sizes(item)

    def longest(self, model: str | Sequence[Any], setup: Setup, items: Sequence[Item]) -> dict[str, int]:
        return self._have(model).passes(setup).longest(items)

    def block(
        self, model: str | Sequence[Any], setup: Setup, sha: str, number: int, items: Sequence[Item], tally: Any
    ) -> int:
        """Do a block and return its number; :class:`BlockFailed` when the model could not, or died of it."""
        import ray

        while True:
            begun = ray.get(tally.begin.remote(number))
            if begun > TRIES:
                raise BlockFailed("its worker died")
            try:
                return self._try(model, setup, sha, number, items)
            except Exception:
                if begun == TRIES:
                    raise
                time.sleep(_PAUSE)

    def _try(self, model: str | Sequence[Any], setup: Setup, sha: str, number: int, items: Sequence[Item]) -> int:
        passes, store = self._ready(model, setup, sha)
        try:
            heard = passes.listen(items)
            with self._one:
                answers, states = passes.block(items, heard)
        except Exception as error:
            if of_the_machine(error):
                raise
            raise BlockFailed(sentence(error)) from None

        def check() -> None:
            if manifest_sha(setup.folder) != sha:
                raise _other_folder(setup.folder)

        check()
        write_block(setup.folder, store, number, items, answers, states, facts_of_block(passes), check)
        return number

    def _ready(self, model: str | Sequence[Any], setup: Setup, sha: str) -> tuple[Passes, ActivationStore]:
        from vpanalysis.capture.store import ActivationStore

        with self._one:
            if self._begun is None or self._begun[0] != sha:
                if manifest_sha(setup.folder) != sha:
                    raise _other_folder(setup.folder)
                self._begun = sha, self._have(model).passes(setup), ActivationStore(setup.folder / STORE_NAME)
            return self._begun[1:]


class Tally:
    """How often each block was begun, kept outside of the processes that may die of it."""

    def __init__(self) -> None:
        self._begun: Counter[int] = Counter()

    def begin(self, block: int) -> int:
        """Count a try, and return how many that makes."""
        self._begun[block] += 1
        return self._begun[block]


def _other_folder(folder: Path) -> RunError:
    return RunError(
        f"cannot write the Run {str(folder)!r} on a node of the cluster",
        found="no manifest there, or another Run's",
        allowed="a folder that all nodes share, or a URL",
    )
