"""One block of items through a model: encode, forward, record, answer.

Why it exists. A forward of a batch is the only expensive thing in a Run, so every item gets exactly one, from which
option logits and all captures are taken; and the encoder's half of it is not done at all where another checkpoint with
the same encoder did it before.

The idea. Inside a block, items are sorted by duration and cut into *groups*, so that a group has little padding. Groups
depend on the block alone, not on what happens to be cached or done, because the last bits of a float depend on what
shares its batch: a resumed Run must repeat the same batches to get the same numbers. For the same reason a group whose
clips are only partly cached is encoded whole.

The tower runs once per clip; the rest of the model always continues from its output, with or without a cache, so that
both ways give the same Run. An encoder alone has no rest, and answers nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from vpanalysis._predictions import Answer
from vpanalysis.benchmark.audio import SAMPLE_RATE, duration_of
from vpanalysis.capture.audio_cache import AudioCache, CachedClip
from vpanalysis.capture.recorder import WHOLE, Recorder, States
from vpanalysis.capture.reducers import Plan, Spans
from vpanalysis.capture.sites import Clock, clock_of, group_of
from vpanalysis.errors import AudioError

if TYPE_CHECKING:
    import torch

    from vpanalysis.benchmark.items import Item
    from vpanalysis.benchmark.prompts import PromptTemplate
    from vpanalysis.models.batch import Batch, EncodedClip, Layout
    from vpanalysis.models.facade import AudioLLM

__all__ = ["Heard", "Passes", "Sizes"]


@dataclass
class Heard:
    """What is known of a clip before the model runs.

    Parameters
    ----------
    key : str
        Content key of the audio.
    samples : int
        Length at 16 kHz; 0 for a failed clip.
    wave : array, optional
        Samples, float32; left out where the cache has the encoded clip.
    reason : str, optional
        Why the clip cannot be used.
    """

    key: str = ""
    samples: int = 0
    wave: NDArray[np.float32] | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Sizes:
    """What recording costs, found by one tiny forward.

    Parameters
    ----------
    widths : mapping
        Features of each planned site.
    cache_bytes_per_window : int
        Bytes of a full window in the cache of encoded clips.
    """

    widths: Mapping[str, int]
    cache_bytes_per_window: int


@dataclass
class Passes:
    """How the items of one Run go through its model.

    Parameters
    ----------
    llm : AudioLLM
    template : PromptTemplate
    plan : dict of str to tuple of Reducer
        What is recorded.
    cache : AudioCache, optional
    batch_size : int
        Items of a forward.
    generate, text_scores : bool
        Whether to write replies, and to score option texts.
    max_new_tokens : int
        Of a reply.
    extra_streams : tuple of str
        Streams to keep in the cache for other models with the same encoder.
    """

    llm: AudioLLM
    template: PromptTemplate
    plan: Plan
    cache: AudioCache | None = None
    batch_size: int = 16
    generate: bool = False
    text_scores: bool = False
    max_new_tokens: int = 16
    extra_streams: tuple[str, ...] = ()
    _encoder_plan: Plan = field(init=False)
    _rest_plan: Plan = field(init=False)

    def __post_init__(self) -> None:
        # The encoder's sites are recorded while it runs, all others while the rest does.
        self._encoder_plan = {s: kept for s, kept in self.plan.items() if group_of(s) == "encoder"}
        self._rest_plan = {s: kept for s, kept in self.plan.items() if group_of(s) not in ("encoder", "options")}
        self._streams = tuple(dict.fromkeys([*self.llm.stream_inputs, *self.extra_streams]))
        keys = [(site, reducer.key) for site, kept in self._encoder_plan.items() for reducer in kept]
        self._needed = AudioCache.names(self._streams, keys)

    # Before the model -------------------------------------------------------------------------------------------------

    def listen(self, items: Sequence[Item]) -> list[Heard]:
        """Decode the clips that are not in the cache; a clip that cannot be used keeps its reason.

        Needs no model, so that it can be done ahead in another thread.
        """
        return [self._listen(item) for item in items]

    def _listen(self, item: Item) -> Heard:
        try:
            key = item.audio.key()
            samples = self.cache.peek(key, self._needed) if self.cache is not None else None
            if samples is not None:
                return Heard(key, samples)
            wave = item.audio.load()
        except AudioError as error:
            return Heard(reason=str(error))
        heard = Heard(key, len(wave), wave)
        asked = f"cannot use the audio {item.audio.describe()!r}"
        if not np.isfinite(wave).all():
            return Heard(reason=f"{asked}: found NaN or infinite samples")
        try:
            tokens = self._layout([heard]).audio_tokens[0]
        except AudioError as error:
            # Too short or too long for this encoder, which does not know what the clip is called.
            return Heard(reason=str(error).replace(error.asked, asked, 1))
        if tokens < 1:
            return Heard(
                reason=f"{asked}: found {len(wave)} samples; allowed: at least one frame of the encoder's output"
            )
        return heard

    def _layout(self, heard: Sequence[Heard]) -> Layout:
        # Only lengths are looked at, and a range has one without holding samples.
        return self.llm.layout(cast("Any", [range(h.samples) for h in heard]))

    # A block ----------------------------------------------------------------------------------------------------------

    def block(self, items: Sequence[Item], heard: Sequence[Heard]) -> tuple[list[Answer], States]:
        """Run the model over the items of a block.

        Parameters
        ----------
        items : sequence of Item
        heard : sequence of Heard
            From `listen`, one an item.

        Returns
        -------
        answers : list of Answer
            One an item.
        states : dict from (site, reducer key)
            float32 arrays (item, [segment,] feature), NaN for failed items; lists of (frame, feature) for ``frames``.
        """
        answers = [Answer(reason=h.reason) for h in heard]
        states: States = {}
        for rows in self.groups(heard):
            group, sounds = [items[i] for i in rows], [heard[i] for i in rows]
            clips, found = self.encode(group, sounds)
            if not self.llm.answers:
                _spread(states, found, rows, len(items))
                for row, clip, sound in zip(rows, clips, sounds, strict=True):
                    answers[row] = Answer(windows=len(clip.windows), seconds=sound.samples / SAMPLE_RATE)
                continue
            batch = self.llm.prepare(group, None, self.template, encoded=clips)
            logits, rest = self._forward(batch)
            _spread(states, {**found, **rest}, rows, len(items))
            options = self.llm.option_logprobs(batch, logits)
            texts = self._text_scores(group, clips) if self.text_scores else [None] * len(rows)
            raw: Sequence[str | None] = (
                self.llm.generate(batch, self.max_new_tokens) if self.generate else [None] * len(rows)
            )
            windows = batch.windows
            for place, row in enumerate(rows):
                answers[row] = Answer(
                    windows=windows[place],
                    seconds=sounds[place].samples / SAMPLE_RATE,
                    option_logprobs=options[place].tolist(),
                    text_scores=texts[place],
                    raw=raw[place],
                )
        return answers, states

    def groups(self, heard: Sequence[Heard]) -> list[list[int]]:
        """Return the rows of each batch: usable clips by duration, then by place."""
        rows = sorted((i for i, h in enumerate(heard) if h.reason is None), key=lambda i: (heard[i].samples, i))
        return [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]

    def encode(self, items: Sequence[Item], heard: Sequence[Heard]) -> tuple[list[EncodedClip], States]:
        """Return the encoded clips of a group and the states of the encoder's sites, from the cache or afresh."""
        from vpanalysis.models.batch import EncodedClip

        if self.cache is not None:
            cached = [self.cache.get(h.key, self._needed) for h in heard]
            if all(clip is not None for clip in cached):
                whole = cast("list[CachedClip]", cached)
                clips = [EncodedClip(dict(clip.streams), clip.windows, clip.samples) for clip in whole]
                return clips, self._states_of(whole)
        # Equal clips of a group (one clip, several questions) are encoded once.
        first = {h.key: i for i, h in reversed(list(enumerate(heard)))}
        order = sorted(first.values())
        waves = [w if (w := heard[i].wave) is not None else items[i].audio.load() for i in order]
        encoded, found = self._run_encoder(waves, [heard[i] for i in order])
        place = {heard[i].key: n for n, i in enumerate(order)}
        rows = [place[h.key] for h in heard]
        if self.cache is not None:
            self._store([heard[i] for i in order], encoded, found)
        states: States = {
            key: [value[n] for n in rows] if isinstance(value, list) else value[rows] for key, value in found.items()
        }
        return [encoded[n] for n in rows], states

    def _run_encoder(
        self, waves: Sequence[NDArray[np.float32]], heard: Sequence[Heard]
    ) -> tuple[list[EncodedClip], States]:
        layout = self._layout(heard)
        with Recorder(self.llm.module_of, self._encoder_plan) as recorder:
            recorder.expect({"encoder": Spans.per_window(layout.positions), "tower": Spans.per_window(layout.frames)})
            clips = self.llm.encode(waves, self._streams)
            states = recorder.take()
        return clips, states

    def _store(self, heard: Sequence[Heard], clips: Sequence[EncodedClip], states: States) -> None:
        import torch

        assert self.cache is not None
        # Clips that the cache had go first: when this is interrupted, one is still missing and the whole group is
        # encoded again, as it would have been without the interruption.
        known = [self.cache.peek(h.key, self._needed) is not None for h in heard]
        for n in sorted(range(len(heard)), key=lambda n: not known[n]):
            kept = {key: torch.from_numpy(np.ascontiguousarray(value[n])) for key, value in states.items()}
            self.cache.put(heard[n].key, CachedClip(heard[n].samples, clips[n].windows, clips[n].streams, kept))

    def _states_of(self, clips: Sequence[CachedClip]) -> States:
        states: States = {}
        for site, kept in self._encoder_plan.items():
            for reducer in kept:
                rows = [clip.states[site, reducer.key].numpy() for clip in clips]
                states[site, reducer.key] = rows if reducer.kind == "frames" else np.stack(rows)
        return states

    def _forward(self, batch: Batch) -> tuple[torch.Tensor, States]:
        lengths = batch.inputs["attention_mask"].sum(dim=1).tolist()
        spans: dict[Clock, Spans] = {
            "audio": Spans.per_window(batch.layout.heard_tokens),
            "text": Spans.per_item(lengths, padding="left"),
        }
        with Recorder(self.llm.module_of, self._rest_plan) as recorder:
            recorder.expect(spans)
            logits = self.llm.forward(batch)
            return logits, recorder.take()

    def _text_scores(self, items: Sequence[Item], clips: Sequence[EncodedClip]) -> list[list[float]]:
        """Return the log-probability of the text of every offered option."""
        asked = [(n, choice) for n, item in enumerate(items) for choice in item.choices]
        scores: list[list[float]] = [[] for _ in items]
        for start in range(0, len(asked), self.batch_size):
            part = asked[start : start + self.batch_size]
            batch = self.llm.prepare(
                [items[n] for n, _ in part],
                None,
                self.template,
                answers=[choice for _, choice in part],
                encoded=[clips[n] for n, _ in part],
            )
            for (n, _), score in zip(part, self.llm.answer_logprobs(batch).tolist(), strict=True):
                scores[n].append(score)
        return scores

    # Sizes ------------------------------------------------------------------------------------------------------------

    def sizes(self, item: Item) -> Sizes:
        """Find the widths of all planned sites by one forward over half a second of silence."""
        samples = SAMPLE_RATE // 2
        wave = np.zeros(samples, dtype=np.float32)
        clips, states = self._run_encoder([wave], [Heard("silence", samples)])
        if self.llm.answers:
            states |= self._forward(self.llm.prepare([item], None, self.template, encoded=clips))[1]
        widths = {site: int(np.shape(value[0])[-1]) for (site, key), value in states.items() if key != WHOLE}
        full = sum(self._layout([Heard("window", int(self.llm.max_seconds * SAMPLE_RATE))]).kept_frames[0])
        frame = sum(t.shape[-1] * t.element_size() for t in clips[0].streams.values())
        fixed = sum(4 * r.vectors * widths[site] for site, kept in self._encoder_plan.items() for r in kept)
        return Sizes(widths, frame * full + fixed + 2048)

    def longest(self, items: Iterable[Item]) -> dict[str, int]:
        """Return the frames of the longest clip by clock, where the plan keeps all frames; reads every clip's length.

        Clips that cannot be read are left out. Text positions are counted by preparing the prompts.
        """
        clocks = {clock_of(site) for site, kept in self.plan.items() if any(r.kind == "frames" for r in kept)}
        found = {str(clock): 1 for clock in clocks}
        if not clocks:
            return found
        for item in items:
            try:
                seconds = duration_of(item.audio)
            except AudioError:
                continue
            # A little more, if it may be: a header may round, and resampling may add a sample.
            samples = int(np.ceil(seconds * SAMPLE_RATE))
            try:
                layout = self._layout([Heard("", samples)])
                with suppress(AudioError):
                    layout = self._layout([Heard("", samples + 16)])
            except AudioError:
                continue  # too short, or too long
            counts = {
                "encoder": sum(layout.positions[0]),
                "tower": sum(layout.frames[0]),
                "audio": sum(layout.heard_tokens[0]),
            }
            if "text" in found:
                text = self.llm.prompt(item, self.template)
                counts["text"] = layout.audio_tokens[0] + len(self.llm.tokenizer(text)["input_ids"])
            for clock in found:
                found[clock] = max(found[clock], counts[clock])
        return found


def _spread(states: States, found: States, rows: Sequence[int], count: int) -> None:
    """Put the states of a group where its items stand in the block."""
    for key, value in found.items():
        if isinstance(value, list):
            place = states.setdefault(key, [np.zeros((0, value[0].shape[-1]), np.float32)] * count)
            for row, state in zip(rows, value, strict=True):
                place[row] = state
        else:
            if key not in states:
                states[key] = np.full((count, *value.shape[1:]), np.nan, dtype=np.float32)
            states[key][rows] = value
