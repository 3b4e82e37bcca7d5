"""Encoded clips that are held: an item, its twin and the silence of its length may each serve several questions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vpanalysis.models.batch import EncodedClip
    from vpanalysis.models.facade import AudioLLM
    from vpanalysis.models.frontends import Wave

__all__ = ["Clips"]


class Clips:
    """Encoded clips by what they are, so that clips which several items or baselines share are encoded once.

    Parameters
    ----------
    llm : AudioLLM
    most : int
        How many are held; the one unused for longest goes first.
    """

    def __init__(self, llm: AudioLLM, most: int = 64) -> None:
        self.llm, self.most = llm, most
        self._held: OrderedDict[str, EncodedClip] = OrderedDict()

    def encoded(self, waves: Mapping[str, Wave]) -> dict[str, EncodedClip]:
        """Return clips by key, those that are not held encoded together."""
        missing = {key: wave for key, wave in waves.items() if key not in self._held}
        if missing:
            # By length, so that a batch has little padding.
            keys = sorted(missing, key=lambda key: len(missing[key]))
            made = self.llm.encode([missing[key] for key in keys], ("tower", *self.llm.stream_inputs))
            self._held |= zip(keys, made, strict=True)
        out = {}
        for key in waves:
            self._held.move_to_end(key)
            out[key] = self._held[key]
        while len(self._held) > max(self.most, len(waves)):
            self._held.popitem(last=False)
        return out
