"""From a design cell to sound: what each label means for a voice.

The strengths below are choices, hence planted: contrasts are clear enough for a small model to hear. Loudness is set
on the waveform, because the synthesizer's own volume changes with the voice; everything else is done by the voice.

    pitch      F0 x 1.6 / 1 / 0.62              volume     +8.5 / 0 / -8.5 dB
    speed      290 / 190 / 130 words a minute   range      pitch movement 110 / 35 / 0 % of F0
    emotion    sadness quiet, low, flat, breathy; anger loud and rough; happiness high with a wide movement
    intonation F0 glides over the words, up or down

Durations depend on words and rate, so two renders of one text are aligned frame by frame wherever the label is not the
speed; the same silence is kept between turns, and clips are cut at the same places. Alignment is close, not exact: the
synthesizer speaks in whole pitch periods, so another voice ends a sentence up to 55 ms earlier or later (mostly less
than 20 ms; a frame of the encoder is 40 ms, an audio token 80 ms). Volume alone is exact to the sample.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vpanalysis.benchmark.mini.cells import Cell, partner
from vpanalysis.benchmark.mini.synthesis import SAMPLE_RATE, Segment, Synthesizer
from vpanalysis.benchmark.mini.voices import Speaker
from vpanalysis.errors import SchemaError

__all__ = ["PLAIN", "Utterance", "dialogue_voices", "utterance", "waveform"]

PLAIN = "plain"
"""The voice that favours no option."""

LEVEL_PITCH = {"high": 1.6, "medium": 1.0, "low": 0.62}
LEVEL_GAIN = {"high": 10 ** (8.5 / 20), "medium": 1.0, "low": 10 ** (-8.5 / 20)}
LEVEL_RATE = {"high": 290, "medium": 190, "low": 130}
LEVEL_SPAN = {"high": 1.1, "medium": 0.35, "low": 0.0}
_RMS = 0.05
_LEAD, _GAP = 0.04, 0.08  # seconds of silence at both ends, and between renditions or turns


@dataclass(frozen=True)
class _Manner:
    f0: float = 1.0
    span: float | None = None
    gain: float = 1.0
    rougher: float = 0.0
    breathier: float = 0.0


_EMOTIONS = {
    "neutral": _Manner(),
    "sadness": _Manner(f0=0.82, span=0.02, gain=0.45, breathier=22),
    "anger": _Manner(f0=1.12, span=0.5, gain=2.3, rougher=7),
    "happiness": _Manner(f0=1.55, span=1.0, gain=1.15),
}
# Percent of F0 at the first and the last word; words between lie on a line.
_CONTOURS = {"Rising intonation": (-30, 65), "Falling intonation": (50, -40), PLAIN: (2, 2)}


@dataclass(frozen=True)
class Utterance:
    """What one clip is made of.

    Attributes
    ----------
    segments : tuple of Segment
        Spoken one after the other with a short silence between.
    gains : tuple of float
        Root mean square of each segment, relative to the nominal one.
    """

    segments: tuple[Segment, ...]
    gains: tuple[float, ...]
    seed: int = 1
    texts: tuple[str, ...] = field(default=())

    @property
    def transcript(self) -> str:
        """The words, as spoken."""
        return " ".join(self.texts)


def utterance(cell: Cell, words: str | None, voice: str) -> Utterance:
    """Compose the render of a cell.

    Parameters
    ----------
    cell : Cell
    words : str or None
        The label that the words claim (an option, or a level in pattern tasks), or None for words without a claim.
    voice : str
        The option that the voice makes true, or ``"plain"``.

    Returns
    -------
    Utterance

    Raises
    ------
    SchemaError
        When the task has no plain voice, or the label cannot be voiced.
    """
    if cell.task == "speaker_identity_recognition":
        texts = _identity_words(cell, words)
        return _dialogue(cell, texts, dialogue_voices(cell, voice))
    text = cell.frame.neutral if words is None else cell.frame.claiming(words, cell.synonym)
    if cell.task == "total_speaker_counting":
        return _dialogue(cell, [text] * 4, dialogue_voices(cell, voice))
    if cell.task.endswith("_comparison"):
        return _renditions(cell, text, ["medium"] * 3 if voice == PLAIN else voice.split("-"))
    person, gain = cell.speakers[0], float(10 ** (cell.rng.uniform(-1.5, 1.5) / 20))
    if cell.task in ("gender_prediction", "age_prediction"):
        if voice == PLAIN:
            raise _no_plain(cell)
        person = person if voice == cell.truth else partner(cell, voice)
        segment = Segment(text, person.variant(), rate=cell.rate)
    elif cell.task == "emotion_recognition":
        if voice == PLAIN:
            raise _no_plain(cell)
        manner = _EMOTIONS[voice]
        body = person.variant(f0=manner.f0, span=manner.span, rougher=manner.rougher, breathier=manner.breathier)
        segment, gain = Segment(text, body, rate=cell.rate), gain * manner.gain
    else:
        if voice not in _CONTOURS:
            raise SchemaError(
                f"cannot render the cell {cell.name!r}", found=f"voice {voice!r}", allowed=list(_CONTOURS), word=voice
            )
        first, last = _CONTOURS[voice]
        spoken = _gliding(text, first, last)
        segment = Segment(spoken, person.variant(span=0.05), rate=cell.rate, range=0, ssml=True)
    return Utterance((segment,), (gain,), _seed(cell), (text,))


def _no_plain(cell: Cell) -> SchemaError:
    return SchemaError(
        f"cannot render the cell {cell.name!r}",
        found="voice 'plain'",
        allowed="a label: every voice has an age, a gender and a mood",
    )


def _seed(cell: Cell) -> int:
    return int(cell.rng.integers(1, 2**31 - 1))


def _gliding(text: str, first: float, last: float) -> str:
    words = text.split()
    marked = []
    for k, word in enumerate(words):
        # Most of the glide lies on the last words, where a listener expects it.
        share = (k / max(1, len(words) - 1)) ** 1.3
        marked.append(f"<prosody pitch='{first + share * (last - first):+.0f}%'>{word}</prosody>")
    return "<speak>" + " ".join(marked) + "</speak>"


def _renditions(cell: Cell, text: str, levels: list[str]) -> Utterance:
    person, segments, gains = cell.speakers[0], [], []
    for level in levels:
        body, rate, gain = person.variant(), cell.rate, 1.0
        if cell.task == "pitch_comparison":
            body = person.variant(f0=LEVEL_PITCH[level])
        elif cell.task == "volume_comparison":
            gain = LEVEL_GAIN[level]
        elif cell.task == "speed_comparison":
            rate = LEVEL_RATE[level]
        else:
            body = person.variant(span=LEVEL_SPAN[level])
        segments.append(Segment(text, body, rate=rate, range=90 if cell.task == "vocal_range_comparison" else 40))
        gains.append(gain)
    return Utterance(tuple(segments), tuple(gains), _seed(cell), (text,) * len(levels))


def _dialogue(cell: Cell, texts: list[str], voices: list[Speaker]) -> Utterance:
    segments = tuple(Segment(t, v.variant(), rate=cell.rate) for t, v in zip(texts, voices, strict=True))
    return Utterance(segments, (1.0,) * len(segments), _seed(cell), tuple(texts))


def dialogue_voices(cell: Cell, voice: str) -> list[Speaker]:
    """Return who speaks in each turn of a dialogue (the identity and counting tasks) when `voice` is true."""
    return (_identity_voices if cell.task == "speaker_identity_recognition" else _counted_voices)(cell, voice)


def _slot(option: str) -> int:
    """Return the turn, from 0, that an option such as "the second person" names."""
    return ("first", "second", "third", "fourth", "fifth").index(option.split()[1])


def _identity_words(cell: Cell, words: str | None) -> list[str]:
    """Every turn claims its own ordinal, but the claimed turn claims the target's."""
    if words is None:
        return [cell.frame.neutral] * 5
    people = [f"the {o} person" for o in ("first", "second", "third", "fourth", "fifth")]
    said = [people[k] for k in range(5)]
    said[_slot(words)] = people[cell.target]
    return [cell.frame.claiming(label) for label in said]


def _identity_voices(cell: Cell, voice: str) -> list[Speaker]:
    """The target's voice returns in the true turn; the other turns have voices of their own."""
    if voice == PLAIN:
        raise _no_plain(cell)
    target, *others = cell.speakers
    same = _slot(voice)
    rest = iter(others)
    return [target if k in (cell.target, same) else next(rest) for k in range(5)]


def _counted_voices(cell: Cell, voice: str) -> list[Speaker]:
    """Four turns by k voices; each of them speaks, in a drawn order that begins with the first."""
    if voice == PLAIN:
        raise _no_plain(cell)
    count = int(voice.split()[0])
    rng = cell.rng
    order = [*range(count), *(int(x) for x in rng.integers(count, size=4 - count))]
    tail = [order[1:][int(k)] for k in rng.permutation(3)]
    return [cell.speakers[k] for k in (0, *tail)]


def waveform(clip: Utterance, synthesizer: Synthesizer) -> NDArray[np.float32]:
    """Speak an utterance.

    Returns
    -------
    array, shape (samples,), float32 in [-1, 1], 16 kHz
        On the grid of 16-bit samples, so that it survives a WAV file and its hash can be compared between machines.
    """
    sounds = synthesizer.segments(list(clip.segments), seed=clip.seed)
    edge = np.zeros(int(_LEAD * SAMPLE_RATE), dtype=np.float32)
    gap = np.zeros(int(_GAP * SAMPLE_RATE), dtype=np.float32)
    parts: list[NDArray[np.float32]] = [edge]
    for number, (sound, gain) in enumerate(zip(sounds, clip.gains, strict=True)):
        level = float(np.sqrt(np.mean(np.square(sound, dtype=np.float64)))) if sound.size else 0.0
        parts += [gap] * (number > 0)
        parts.append(sound * np.float32(gain * _RMS / max(level, 1e-4)))
    wave = np.concatenate([*parts, edge])
    on_grid: NDArray[np.float32] = (np.round(np.clip(wave, -1, 1) * 32767) / 32767).astype(np.float32)
    return on_grid
