"""Where the clip of an item comes from when a Run is looked at: the benchmark that the Run names, or one handed over.

Why it exists. A Run holds answers and states, not sound. Its manifest says which benchmark was asked; that is loaded
when the first clip is wanted and not before. Ids alone do not make a clip the right one: a benchmark of reversed clips
has the ids of the original. So a clip is given only where name and question agree, and where none is given it is said
why.

>>> Sounds(None, {"name": "mini:reversed", "source": "mini"}).clip("some-id")     # doctest: +SKIP
(None, "no clip: the run was made on 'mini:reversed' ...")
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vpanalysis.errors import AudioError, VPError
from vpanalysis.explore._clips import Clip

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Benchmark, Item

__all__ = ["Sounds"]

_KEPT = 48
"""Clips that stay in memory."""


class Sounds:
    """Clips by item id.

    Parameters
    ----------
    benchmark : Benchmark, str or None
        Where to take them from; None for what `named` says.
    named : mapping, optional
        ``manifest["benchmark"]`` of a Run: name, source, revision.
    """

    def __init__(self, benchmark: Benchmark | str | None, named: Mapping[str, Any] | None = None) -> None:
        self._benchmark = benchmark if benchmark is not None and not isinstance(benchmark, str) else None
        self._asked = benchmark if isinstance(benchmark, str) else None
        self._named = dict(named or {})
        self._problem = ""
        self._clips: OrderedDict[str, Clip] = OrderedDict()

    def item(self, item_id: str) -> Item | None:
        """Return the item, or None where the benchmark is not to be had or has no such item."""
        bench = self._loaded()
        return bench[item_id] if bench is not None and item_id in bench.ids else None

    def clip(
        self, item_id: str, *, question: str | None = None, choices: Sequence[str] = ()
    ) -> tuple[Clip | None, str]:
        """Return the clip of an item, and else why there is none.

        Parameters
        ----------
        item_id : str
        question : str, optional
            What the Run asked; a benchmark that asks something else is another one.
        choices : sequence of str
            What the Run offered.
        """
        if item_id in self._clips:
            self._clips.move_to_end(item_id)
            return self._clips[item_id], ""
        item = self.item(item_id)
        if item is None:
            name = self._benchmark.name if self._benchmark is not None else ""
            return None, f"No clip: {self._problem or f'{name!r} has no item {item_id!r}; give benchmark='}."
        if question is not None and (item.question, tuple(item.choices)) != (question, tuple(choices)):
            return None, f"No clip: {item_id!r} is asked otherwise in this benchmark than in the run; give benchmark=."
        try:
            clip = Clip(item_id, item.audio.load())
        except AudioError as error:
            return None, f"No clip: {error}"
        self._clips[item_id] = clip
        while len(self._clips) > _KEPT:
            self._clips.popitem(last=False)
        return clip, ""

    def _loaded(self) -> Benchmark | None:
        if self._benchmark is not None or self._problem:
            return self._benchmark
        from vpanalysis.benchmark.sources import load_benchmark

        name, source = self._named.get("name"), self._asked or self._named.get("source")
        if source is None:
            self._problem = "no benchmark is known; give benchmark="
            return None
        how: dict[str, Any] = {}
        revision = self._named.get("revision")
        if self._asked is None and revision:
            # The miniature's revision starts with its split, and is no revision that one could ask for.
            how = {"split": str(revision).partition("-")[0]} if source == "mini" else {"revision": revision}
        try:
            bench = load_benchmark(source, **how)
        except (VPError, OSError, ValueError, ImportError) as error:
            self._problem = f"{source!r} cannot be loaded ({str(error).splitlines()[0]}); give benchmark="
            return None
        if self._asked is None and name is not None and bench.name != name:
            self._problem = f"the run was made on {name!r}, and {source!r} is {bench.name!r}; give benchmark="
            return None
        self._benchmark = bench
        return bench
