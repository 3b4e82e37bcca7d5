"""The same questions again and again, the encoder run once.

Every intervention behind the encoder (another gate, a patched state, a steered layer) asks the same items about the
same clips. So clips are encoded once, and each question of the loop costs the language model only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from vpanalysis.attribution.margins import margin
from vpanalysis.benchmark.audio import SAMPLE_RATE, NoAudio
from vpanalysis.errors import AudioError, ModelError, RunError
from vpanalysis.stats import FloatArray

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Item
    from vpanalysis.benchmark.prompts import PromptTemplate
    from vpanalysis.models.batch import EncodedClip
    from vpanalysis.models.facade import AudioLLM
    from vpanalysis.models.frontends import Wave

__all__ = ["Asker", "NoClip", "asks_without_clips", "no_clip"]


class NoClip(RunError):
    """None of the clips can be used; those of other items may be."""


def no_clip(llm: AudioLLM) -> EncodedClip:
    """Return an encoded clip of no frames, with which a question is asked without any audio token."""
    from vpanalysis.models.batch import EncodedClip

    silence = np.zeros(SAMPLE_RATE // 2, dtype=np.float32)
    (clip,) = llm.encode([silence])
    return EncodedClip({name: state[:0] for name, state in clip.streams.items()}, (0,))


def asks_without_clips(llm: AudioLLM, item: Item, template: PromptTemplate) -> bool:
    """Return whether the model can be asked without a clip; some families' own forward insists on one.

    Parameters
    ----------
    llm : AudioLLM
    item : Item
        Any question.
    template : PromptTemplate
    """
    if llm not in _ASKED:
        try:
            # Two rows: what is made for one clip too many may pass for one by broadcasting.
            llm.forward(llm.prepare([item, item], None, template, encoded=[no_clip(llm)] * 2))
            _ASKED[llm] = True
        except (IndexError, RuntimeError, TypeError, ValueError, ModelError):
            _ASKED[llm] = False
    return _ASKED[llm]


_ASKED: WeakKeyDictionary[AudioLLM, bool] = WeakKeyDictionary()
"""Models that were tried, so that a second call costs nothing."""


def _on_cpu(clip: EncodedClip) -> EncodedClip:
    return replace(clip, streams={name: state.cpu() for name, state in clip.streams.items()})


class Asker:
    """Items with their encoded clips, ready to be asked under any intervention.

    Parameters
    ----------
    llm : AudioLLM
        A model that answers.
    items : sequence of Item
        Those whose clips cannot be used are left out; see `skipped`. Those with `NoAudio` are asked without a clip.
    template : PromptTemplate
    batch_size : int
    clips : dict of str to EncodedClip, optional
        Clips that are encoded already, by content key; those that are missing are added, for others to use.

    Attributes
    ----------
    items : list of Item
    skipped : int

    Raises
    ------
    RunError
        For a model that answers nothing, or where no clip can be used.
    """

    def __init__(
        self, llm: AudioLLM, items: Sequence[Item], template: PromptTemplate, batch_size: int = 16, *,
        clips: dict[str, EncodedClip] | None = None,
    ) -> None:  # fmt: skip
        if not llm.answers:
            raise RunError(f"cannot ask {llm.name!r}", found="an encoder that answers nothing")
        self.llm, self.template, self.batch_size = llm, template, batch_size
        loaded: list[tuple[Item, Wave | None]] = []
        for item in items:
            try:
                wave = None if isinstance(item.audio, NoAudio) else item.audio.load()
                if wave is not None:
                    llm.layout([wave])  # refuses what is too short or too long for this encoder
                loaded.append((item, wave))
            except AudioError:
                continue
        self.skipped = len(items) - len(loaded)
        if not loaded:
            raise NoClip(f"cannot ask {llm.name!r}", found=f"no usable clip among {len(items)} items")
        # By length, so that a batch has little padding.
        loaded.sort(key=lambda pair: 0 if pair[1] is None else len(pair[1]))
        self.items = [item for item, _ in loaded]
        known = {} if clips is None else clips
        keys = [item.audio.key() for item in self.items]
        new = {key: wave for key, (_, wave) in zip(keys, loaded, strict=True) if key not in known}
        silent = [key for key, wave in new.items() if wave is None]
        known |= {key: no_clip(llm) for key in silent}
        heard = [(key, wave) for key, wave in new.items() if wave is not None]
        for start in range(0, len(heard), batch_size):
            part = heard[start : start + batch_size]
            # In main memory: an accelerator has better use for its own than clips that wait for their turn.
            found = (_on_cpu(clip) for clip in llm.encode([wave for _, wave in part]))
            known |= dict(zip((key for key, _ in part), found, strict=True))
        self.encoded: list[EncodedClip] = [known[key] for key in keys]

    def ask(self, which: Sequence[int] | None = None) -> list[FloatArray]:
        """Return the log-probabilities of each item's options, in the order of its choices, as the model is now.

        Parameters
        ----------
        which : sequence of int, optional
            Only these of the items, by position.
        """
        out: list[FloatArray] = []
        chosen = list(range(len(self.items))) if which is None else [int(number) for number in which]
        for start in range(0, len(chosen), self.batch_size):
            part = chosen[start : start + self.batch_size]
            encoded = [self.encoded[number] for number in part]
            batch = self.llm.prepare([self.items[number] for number in part], None, self.template, encoded=encoded)
            rows = self.llm.option_logprobs(batch, self.llm.forward(batch))
            out += [row.numpy().astype(np.float64) for row in rows]
        return out

    def margins(self, logprobs: Sequence[FloatArray]) -> FloatArray:
        """Return the margin of every item, in nats; NaN without foils."""
        pairs = zip(logprobs, self.items, strict=True)
        return np.array([margin(row, item.choices, item.truth, item.foils) for row, item in pairs])

    def correct(self, logprobs: Sequence[FloatArray]) -> FloatArray:
        """Return 1 where the most probable option is the truth, else 0."""
        pairs = zip(logprobs, self.items, strict=True)
        return np.array([float(item.choices[int(row.argmax())] == item.truth) for row, item in pairs])

    def claimed(self, logprobs: Sequence[FloatArray]) -> FloatArray:
        """Return 1 where the most probable option is a claim of the words, else 0; NaN where nothing is claimed."""
        pairs = zip(logprobs, self.items, strict=True)
        return np.array(
            [float(item.choices[int(row.argmax())] in item.claims) if item.claims else np.nan for row, item in pairs]
        )
