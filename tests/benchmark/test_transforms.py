"""Clips without words or without voice: what stays, what goes, and what becomes of the truth. Measured on sound."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.fft import dct
from scipy.signal import butter, lfilter, sosfiltfilt

import vpanalysis
from vpanalysis.benchmark import TASKS, ArrayAudio, Benchmark, Item, mini
from vpanalysis.benchmark.audio import AudioSource, duration_of
from vpanalysis.benchmark.mini.items import MiniAudio
from vpanalysis.benchmark.mini.rendering import Utterance
from vpanalysis.benchmark.transforms import (
    EFFECTS,
    TRANSFORMS,
    Effect,
    Transformed,
    coverage,
    effect_of,
    mapped_item,
    mapped_truth,
    parts_of,
    removed_by,
    transformed,
)
from vpanalysis.benchmark.transforms._lpc import all_pole, levinson, predictors, residual, resynthesis
from vpanalysis.errors import AudioError, SchemaError

RATE = 16_000
PATTERNS = tuple(task for task in TASKS if task.endswith("_comparison"))
ORDINALS = ("first", "second", "third", "fourth", "fifth")
Wave = NDArray[np.float32]


# --- measuring, apart from the code under test ---------------------------------------------------------------------


def frames(wave: Wave, size: int = 640, hop: int = 160) -> NDArray[np.float64]:
    padded = np.pad(wave.astype(np.float64), size // 2)
    return np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]


def level(wave: Wave) -> NDArray[np.float64]:
    """Root mean square of 40 ms frames."""
    return np.asarray(np.sqrt(np.mean(frames(wave) ** 2, axis=1)))


def pitch(wave: Wave) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """F0 (Hz, 40 to 640) and strength of periodicity of 60 ms frames, by autocorrelation of the lowest 1.5 kHz."""
    low = sosfiltfilt(butter(4, 1500, fs=RATE, output="sos"), wave.astype(np.float64))
    window = np.hanning(960)
    spectra = np.abs(np.fft.rfft(frames(low.astype(np.float32), 960) * window, 2048)) ** 2
    own = np.fft.irfft(np.abs(np.fft.rfft(window, 2048)) ** 2)[:420]
    shape = np.fft.irfft(spectra)[:, :420] / own
    shape = shape / np.maximum(shape[:, :1], 1e-12)
    peak = (shape[:, 1:-1] >= shape[:, :-2]) & (shape[:, 1:-1] >= shape[:, 2:])
    heights = np.where(peak, shape[:, 1:-1], 0.0)[:, 24:400]
    best = heights.max(axis=1)
    lag = 25 + np.argmax(heights >= 0.9 * best[:, None], axis=1)
    return RATE / lag, best


def cepstra(wave: Wave) -> NDArray[np.float64]:
    """Mel cepstra 1 to 12 of 32 ms frames: the shape of the spectrum without its level."""
    size = 512
    power = np.abs(np.fft.rfft(frames(wave, size) * np.hanning(size))) ** 2
    mel = 2595 * np.log10(1 + np.fft.rfftfreq(size, 1 / RATE) / 700)
    edges = np.linspace(mel[2], mel[-8], 28)
    rising = (mel[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel[:, None]) / (edges[2:] - edges[1:-1])
    bands = np.log(power @ np.maximum(0, np.minimum(rising, falling)) + 1e-10)
    return np.asarray(dct(bands, norm="ortho")[:, 1:13])


def vowel(f0: float | NDArray[np.float64], formants: tuple[float, ...], seconds: float = 0.5) -> NDArray[np.float64]:
    """Pulses through resonances of 90 Hz bandwidth."""
    phase = np.cumsum(np.broadcast_to(f0, round(seconds * RATE)) / RATE)
    wave = np.diff(np.floor(phase), prepend=0.0)
    for formant in formants:
        radius = np.exp(-np.pi * 90 / RATE)
        wave = lfilter([1.0], [1.0, -2 * radius * np.cos(2 * np.pi * formant / RATE), radius**2], wave)
    return wave / np.sqrt(np.mean(wave**2))


@functools.cache
def speech() -> Wave:
    """Four vowels of one rising voice, each at a level of its own, with pauses between."""
    tubes = [(300, 2300, 3000), (730, 1100, 2450), (300, 870, 2250), (550, 1750, 2500)]
    parts: list[NDArray[np.float64]] = []
    for k, tube in enumerate(tubes):
        glide = np.linspace(110 + 20 * k, 130 + 20 * k, RATE // 2)
        parts += [
            0.1 * (0.3, 1.0, 0.5, 0.8)[k] * vowel(glide, tube) * np.hanning(RATE // 2) ** 0.3,
            np.zeros(RATE // 10),
        ]
    return np.concatenate(parts).astype(np.float32)


@functools.cache
def clips() -> tuple[Wave, ...]:
    chosen = ("gender_prediction", "pitch_comparison", "intonation_perception", "volume_comparison")
    return tuple(mini.load(tasks=task, limit=6)[k].audio.load() for task in chosen for k in (0, 3))


def changed(wave: Wave, name: str, **params: float) -> Wave:
    return transformed(ArrayAudio(wave), name, **params).load()


def rms(wave: Wave) -> float:
    return float(np.sqrt(np.mean(wave.astype(np.float64) ** 2)))


# --- linear prediction ----------------------------------------------------------------------------------------------


def test_the_filter_of_a_known_process_is_found() -> None:
    truth = np.array([1.0, -1.2, 0.8, -0.2])
    wave = lfilter([1.0], truth, np.random.default_rng(0).normal(size=200_000))
    lags = np.array([[np.dot(wave[: len(wave) - k], wave[k:]) for k in range(4)]])
    np.testing.assert_allclose(levinson(lags, 0.0)[0], truth, atol=0.02)
    filters = predictors(wave, 3, 0.0)
    np.testing.assert_allclose(np.median(filters, axis=0), truth, atol=0.05)
    # What is left is the noise that went in: white, of variance 1.
    left = residual(wave, np.broadcast_to(truth, filters.shape))[2000:-2000]
    assert abs(left.var() - 1) < 0.03
    assert abs(np.corrcoef(left[1:], left[:-1])[0, 1]) < 0.02


def test_filters_are_stable_and_silence_has_none() -> None:
    wave = np.concatenate([speech().astype(np.float64), np.zeros(4000)])
    filters = predictors(wave, 18)
    assert max(np.abs(np.roots(a)).max() for a in filters[::10]) < 1
    assert np.array_equal(filters[-5], np.eye(1, 19)[0])


def test_apart_and_together_again_is_the_clip() -> None:
    wave = speech().astype(np.float64)
    filters = predictors(wave, 18)
    one = np.broadcast_to(filters[60], filters.shape)
    np.testing.assert_allclose(all_pole(residual(wave, one), one[0]), wave, atol=1e-6)
    np.testing.assert_allclose(resynthesis(residual(wave, one), one), wave, atol=1e-3)


# --- every transform ------------------------------------------------------------------------------------------------

ALL = (*TRANSFORMS, "reversed+flattened", "delexicalised+reversed")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("samples", [1, 2, 100, 511, 4000, 4001, 20_000])
def test_same_length_type_and_finite(name: str, samples: int) -> None:
    wave = (0.1 * np.random.default_rng(samples).normal(size=samples)).astype(np.float32)
    for clip in (wave, np.zeros_like(wave), np.full_like(wave, 0.5)):
        out = changed(clip, name)
        assert out.shape == clip.shape and out.dtype == np.float32
        assert np.isfinite(out).all()
    assert duration_of(transformed(ArrayAudio(wave), name)) == samples / RATE


@pytest.mark.parametrize("name", ALL)
def test_the_same_clip_gives_the_same_samples_and_key(name: str) -> None:
    one, two = (transformed(ArrayAudio(speech().copy()), name) for _ in range(2))
    assert isinstance(one, AudioSource)
    assert one.key() == two.key() and np.array_equal(one.load(), two.load())
    assert np.array_equal(one.load(), one.load())


def test_keys_tell_clips_transforms_parameters_and_order_apart() -> None:
    clip, other = ArrayAudio(speech()), ArrayAudio(speech()[:-1])
    sources: list[AudioSource] = [clip, *(transformed(c, name) for name in ALL for c in (clip, other))]
    sources += [transformed(clip, "lowpass", cutoff_hz=300), transformed(clip, "shuffled", random_state=1)]
    sources += [transformed(clip, "flattened+reversed"), transformed(clip, "reversed+flattened", f0_hz=200)]
    keys = [source.key() for source in sources]
    assert len(set(keys)) == len(keys)
    # A default that is spelled out is the default.
    assert transformed(clip, "lowpass", cutoff_hz=400).key() == transformed(clip, "lowpass").key()
    assert transformed(clip, "shuffled", random_state=0).key() == transformed(clip, "shuffled").key()


@pytest.mark.parametrize(("name", "params"), [("shuffled", {}), ("flattened", {})])
def test_what_is_random_is_seeded_by_clip_and_state(name: str, params: dict[str, float]) -> None:
    wave = speech()
    first = changed(wave, name)
    assert not np.array_equal(first, changed(wave, name, random_state=1))
    quieter = (wave * np.float32(0.5)).astype(np.float32)
    assert not np.allclose(2 * changed(quieter, name), first, atol=1e-4)


def test_a_transform_that_knows_its_key_without_reading() -> None:
    item = mini.load(tasks="age_prediction", limit=1)[0]
    assert isinstance(item.audio, MiniAudio)
    item.audio.release()
    made = transformed(item.audio, "reversed+flattened")
    assert len(made.key()) == 64 and not item.audio.spoken
    assert "reversed" in made.describe() and "flattened" in made.describe()


@pytest.mark.parametrize(
    ("name", "params", "part"),
    [
        ("reverse", {}, "did you mean 'reversed'"),
        ("reversed+flatened", {}, "did you mean 'flattened'"),
        ("reversed", {"cutoff_hz": 3}, "no parameters"),
        ("lowpass", {"cutof_hz": 3}, "did you mean 'cutoff_hz'"),
        ("lowpass", {"cutoff_hz": 9000}, "from 20 to 7900"),
        ("lowpass", {"cutoff_hz": float("nan")}, "from 20 to 7900"),
        ("delexicalised", {"order": 2.5}, "a whole number"),
        ("shuffled", {"segment_s": True}, "a number"),
        ("shuffled", {"random_state": -1}, "0 or more"),
    ],
)
def test_what_cannot_be_done_is_said(name: str, params: dict[str, float], part: str) -> None:
    with pytest.raises(SchemaError, match=part.replace("(", r"\(")):
        transformed(ArrayAudio(speech()), name, **params)


def test_one_step_takes_one_name_and_checks_its_parameters() -> None:
    with pytest.raises(SchemaError, match="one name"):
        Transformed(ArrayAudio(speech()), "reversed+silence")
    with pytest.raises(SchemaError, match="no parameters"):
        Transformed(ArrayAudio(speech()), "silence", (("order", 2),))


def test_a_broken_clip_stays_an_audio_error() -> None:
    broken = transformed(ArrayAudio(np.array([0.0, np.nan], dtype=np.float32)), "lowpass")
    with pytest.raises(AudioError):
        broken.load()


# --- words absent ---------------------------------------------------------------------------------------------------


def test_reversed_is_backwards_and_silence_is_silent() -> None:
    assert np.array_equal(changed(speech(), "reversed"), speech()[::-1])
    assert np.array_equal(changed(speech(), "reversed+reversed"), speech())
    assert not changed(speech(), "silence").any()


def test_locally_reversed_pieces_run_backwards_where_they_are() -> None:
    size = 4000
    wave = np.linspace(-0.5, 0.5, 3 * size + 1000).astype(np.float32)
    out = changed(wave, "locally_reversed")
    expected = np.concatenate([wave[k : k + size][::-1] for k in range(0, len(wave), size)])
    inside = np.ones(len(wave), dtype=bool)
    for joint in (0, size, 2 * size, 3 * size, len(wave)):
        inside[max(0, joint - 80) : joint + 80] = False
    np.testing.assert_allclose(out[inside], expected[inside], atol=1e-6)
    assert not np.allclose(out, expected, atol=1e-3)  # crossfades
    once = changed(wave, "locally_reversed", segment_s=60, fade_s=0)
    assert np.array_equal(once, changed(wave, "reversed"))


@pytest.mark.parametrize("pieces", range(2, 9))
def test_shuffled_pieces_are_all_there_and_none_follows_its_old_neighbour(pieces: int) -> None:
    size = 4000
    wave = np.repeat(np.arange(1, pieces + 1) / 10, size).astype(np.float32)[: pieces * size - 700]
    orders = set()
    for state in range(20):
        out = changed(wave, "shuffled", random_state=state)
        starts, order = 0, []
        for _ in range(pieces):  # the middle of each piece is untouched
            value = round(float(out[starts + 1000]) * 10)
            order.append(value)
            starts += size - 700 if value == pieces else size
        assert sorted(order) == list(range(1, pieces + 1))
        assert all(b != a + 1 for a, b in itertools.pairwise(order))
        orders.add(tuple(order))
    assert len(orders) > 1 or pieces == 2


@pytest.mark.parametrize("name", ["shuffled", "locally_reversed"])
def test_joints_do_not_click_and_levels_stay(name: str) -> None:
    for wave in clips():
        out = changed(wave, name)
        assert abs(20 * np.log10(rms(out) / rms(wave))) < 0.5
        # High-frequency steps would show at the joints: the largest jump is none that the clip did not have.
        assert np.abs(np.diff(out)).max() < 1.5 * np.abs(np.diff(wave)).max()
    assert np.array_equal(changed(speech(), "shuffled", segment_s=60), speech())


def steady(wave: Wave) -> NDArray[np.bool_]:
    """Frames that are clearly voiced, loud, and no faster than the estimator can follow."""
    f0, strength = pitch(wave)
    here = (strength > 0.8) & (level(wave) > 0.1 * np.quantile(level(wave), 0.95)) & (f0 < 330)
    return np.asarray(here)


@pytest.mark.parametrize("name", ["delexicalised", "lowpass", "shuffled"])
def test_f0_stays_without_the_words(name: str) -> None:
    same, folded, medians = [], [], []
    for wave in (speech(), *clips()):
        there, out = steady(wave), changed(wave, name)
        octaves = np.log2(pitch(out)[0][there] / pitch(wave)[0][there])
        same.append(np.mean(np.abs(octaves) < 0.04))
        # Alternate pulses of a rough voice differ: with all harmonics equally strong, some frames are found an octave
        # lower by the autocorrelation.
        folded.append(np.mean(np.abs(octaves - np.round(octaves)) < 0.04))
        medians.append(np.median(np.abs(octaves)))
    if name == "shuffled":  # the measure can fail: here F0 is elsewhere
        assert np.mean(same) < 0.5 and np.mean(folded) < 0.5
    else:
        assert np.mean(same) > 0.7 and np.mean(folded) > 0.9 and np.median(medians) < 0.015
        assert same[0] > 0.98


def test_delexicalised_keeps_the_energy_contour_and_the_long_term_spectrum() -> None:
    for wave in (speech(), *clips()):
        out = changed(wave, "delexicalised")
        assert np.corrcoef(level(wave), level(out))[0, 1] > 0.98
        assert abs(20 * np.log10(rms(out) / rms(wave))) < 0.5
        bands = [
            np.log(np.mean(np.abs(np.fft.rfft(frames(w, 512) * np.hanning(512))) ** 2, axis=0)) for w in (wave, out)
        ]
        smooth = [np.convolve(b[4:230], np.ones(17) / 17, "valid") for b in bands]
        assert np.corrcoef(*smooth)[0, 1] > 0.9


def test_delexicalised_formants_do_not_move() -> None:
    for wave in (speech(), *clips()):
        loud = level(wave) > 0.03 * np.quantile(level(wave), 0.95)
        before, after = (cepstra(w)[loud].var(axis=0).sum() for w in (wave, changed(wave, "delexicalised")))
        assert after < 0.2 * before
        # Backwards, they move as before: the measure can fail.
        assert cepstra(changed(wave, "reversed"))[loud[::-1]].var(axis=0).sum() > 0.8 * before


def test_the_vowels_of_a_delexicalised_clip_sound_alike() -> None:
    def distance(wave: Wave) -> float:
        middles = np.array([cepstra(wave)[60 * k + 15 : 60 * k + 35].mean(axis=0) for k in range(4)])
        return float(np.mean([np.linalg.norm(a - b) for a, b in itertools.combinations(middles, 2)]))

    assert distance(changed(speech(), "delexicalised")) < 0.25 * distance(speech())


def test_lowpass_removes_formants_and_keeps_the_level() -> None:
    for wave in clips():
        out = changed(wave, "lowpass")
        power = np.abs(np.fft.rfft(out.astype(np.float64))) ** 2
        frequency = np.fft.rfftfreq(len(out), 1 / RATE)
        assert power[frequency > 800].sum() < 2e-3 * power.sum()
        assert rms(out) == pytest.approx(rms(wave), rel=1e-3)
    tones = [np.sin(2 * np.pi * f * np.arange(RATE) / RATE).astype(np.float32) for f in (200, 400)]
    both = changed((tones[0] + tones[1]).astype(np.float32), "lowpass")
    spectrum = np.abs(np.fft.rfft(both))
    assert spectrum[400] / spectrum[200] == pytest.approx(0.5, abs=0.02)  # half of each of two passes
    # Nothing is delayed.
    np.testing.assert_allclose(both[4000:4080] / both.max(), (tones[0] + 0.5 * tones[1])[4000:4080] / 1.3, atol=0.15)


# --- voice absent ---------------------------------------------------------------------------------------------------


def test_flattened_has_one_pitch_and_one_level_for_every_clip() -> None:
    for wave in (speech(), *clips()):
        out = changed(wave, "flattened")
        there = steady(wave) & (pitch(out)[1] > 0.6)
        assert there.mean() > 0.2
        assert np.mean(np.abs(pitch(out)[0][there] / (RATE / 107) - 1) < 0.02) > 0.9
        loud = level(wave) > 0.02 * np.quantile(level(wave), 0.95)
        loud &= np.convolve(loud, np.ones(5), "same") == 5  # not the edges of pauses
        ranges = [np.ptp(20 * np.log10(np.quantile(level(w)[loud], [0.05, 0.95]))) for w in (wave, out)]
        assert ranges[1] < 3 and ranges[1] < 0.35 * ranges[0]
        assert np.median(level(out)[loud]) == pytest.approx(0.05, rel=0.1)


def test_flattened_keeps_the_envelopes() -> None:
    def envelopes(wave: Wave) -> NDArray[np.float64]:
        bright = np.asarray(lfilter([1, -0.97], [1], wave.astype(np.float64)))
        shape = -20 * np.log10(np.abs(np.fft.rfft(predictors(bright, 18), 512)))
        return shape - shape.mean(axis=1, keepdims=True)

    for wave in clips():
        out = envelopes(changed(wave, "flattened"))
        loud = np.interp(np.arange(len(out)) * 128 - 128, np.arange(len(level(wave))) * 160, level(wave))
        there = loud > 0.1 * np.quantile(loud, 0.95)
        own = np.sqrt(np.mean((envelopes(wave) - out)[there] ** 2, axis=1)).mean()
        shifted = np.sqrt(np.mean((envelopes(wave)[:-40] - out[40:])[there[40:]] ** 2, axis=1)).mean()
        assert own < 5 and own < 0.6 * shifted  # dB; a third of a second later it is another sound


def test_flattened_parameters_do_what_they_say() -> None:
    out = changed(speech(), "flattened", f0_hz=250, level=0.02)
    there = steady(speech())
    assert np.median(pitch(out)[0][there]) == pytest.approx(250, rel=0.01)
    assert np.median(level(out)[there]) == pytest.approx(0.02, rel=0.1)
    # Pauses stay pauses.
    assert level(out)[level(speech()) < 1e-5].max() < 0.01


# --- the table ------------------------------------------------------------------------------------------------------


def test_the_table_covers_all_tasks_and_transforms_with_a_reason_each() -> None:
    assert tuple(EFFECTS) == TASKS
    for task, row in EFFECTS.items():
        assert set(row) == set(TRANSFORMS), task
        for name, effect in row.items():
            assert effect.kind in ("keep", "flip", "destroy") and len(effect.reason) > 10
            assert not (effect.cues_remain and effect.kind != "destroy")
            if name == "silence":
                assert effect.voice_absent
    assert {task for task in TASKS if EFFECTS[task]["reversed"].kind == "flip"} == {
        *PATTERNS,
        "intonation_perception",
        "speaker_identity_recognition",
    }


def test_effects_of_compositions() -> None:
    assert effect_of("pitch_comparison", "reversed+reversed").kind == "keep"
    assert effect_of("pitch_comparison", "reversed+delexicalised").kind == "flip"
    assert effect_of("pitch_comparison", "reversed+flattened").voice_absent
    assert effect_of("speed_comparison", "reversed+flattened").kind == "flip"  # timing stays, backwards
    assert effect_of("age_prediction", "lowpass+silence").voice_absent
    assert not effect_of("age_prediction", "lowpass+flattened").voice_absent
    assert parts_of("reversed + flattened") == ("reversed", "flattened")
    assert removed_by("reversed+flattened") == removed_by("silence") == {"words", "voice"}
    assert removed_by("lowpass") == {"words"} and removed_by("flattened") == {"voice"}


def question(task: str, truth: str, choices: tuple[str, ...], foils: tuple[str, ...] = (), **more: str) -> Item:
    fields = {"question": "Which one?", "condition": "other", **more}
    letters = tuple("ABCDEFGH"[: len(choices)])
    clip = ArrayAudio(speech())
    return Item(
        id="one", task_name=task, choices=choices, letters=letters, truth=truth, said=foils, foils=foils, audio=clip,
        question=fields["question"], condition=fields["condition"],
    )  # fmt: skip


ORDERS = ("high-medium-low", "low-medium-high", "high-low-medium", "medium-low-high")
CONTOURS = ("Rising intonation", "Falling intonation", "Rise-fall intonation", "Fall-rise intonation")


@pytest.mark.parametrize(
    ("task", "truth", "choices", "foils", "expected"),
    [
        ("pitch_comparison", ORDERS[2], ORDERS, (), ORDERS[3]),
        ("pitch_comparison", ORDERS[2], ORDERS, (ORDERS[3],), None),
        ("speed_comparison", ORDERS[2], ORDERS[:3], (), None),
        ("volume_comparison", "loud", ("loud", "soft"), (), None),
        ("intonation_perception", CONTOURS[0], CONTOURS, (), CONTOURS[1]),
        ("intonation_perception", CONTOURS[0], CONTOURS, (CONTOURS[1],), None),
        ("intonation_perception", CONTOURS[2], CONTOURS, (CONTOURS[0],), CONTOURS[2]),
        ("intonation_perception", CONTOURS[3], CONTOURS, (), CONTOURS[3]),
        ("gender_prediction", "Female", ("Female", "Male"), ("Male",), "Female"),
    ],
)
def test_mapped_truth_of_reversed_clips(
    task: str, truth: str, choices: tuple[str, ...], foils: tuple[str, ...], expected: str | None
) -> None:
    item = question(task, truth, choices, foils)
    assert mapped_truth(item, "reversed") == expected
    made = mapped_item(item, "reversed")
    assert (made is None) == (expected is None)
    if made is not None:
        assert made.truth == expected and made.foils == foils and made.choices == choices


def test_identity_is_renumbered_in_question_options_truth_and_foils() -> None:
    for item in mini.load(tasks="speaker_identity_recognition", limit=90):
        made = mapped_item(item, "reversed")
        assert made is not None and made.id == item.id and made.letters == item.letters

        def turn(option: str) -> int:
            return ORDINALS.index(option.split()[1])

        assert [turn(c) for c in made.choices] == [4 - turn(c) for c in item.choices]
        assert turn(made.truth) == 4 - turn(item.truth) and [turn(f) for f in made.foils] == [
            4 - turn(f) for f in item.foils
        ]
        target = int(item.question.split()[-1].rstrip("?"))
        assert made.question == item.question.replace(f"clip {target}?", f"clip {6 - target}?")
        # Backwards twice is the old question.
        again = mapped_item(made, "reversed")
        assert again is not None and (again.question, again.choices, again.truth, again.foils) == (
            item.question,
            item.choices,
            item.truth,
            item.foils,
        )
        assert not mapped_truth(item, "shuffled")


def test_identity_of_an_unknown_number_of_clips_is_refused() -> None:
    turns = tuple(f"the {o} person" for o in ORDINALS)
    asked = "Which speaker clip belongs to the same person as speaker clip {}?"
    task = "speaker_identity_recognition"
    assert mapped_truth(question(task, turns[1], turns[1:], question=asked.format(1)), "reversed") == turns[3]
    for choices, clip in ((turns[2:], 1), (turns[1:], 2), (("Anna", "Ben"), 1)):
        item = question(task, choices[0], choices, question=asked.format(clip))
        assert mapped_truth(item, "reversed") is None
    assert mapped_truth(question(task, turns[1], turns[1:], question="Who else?"), "reversed") is None
    numbered = question(task, "Clip 3", ("Clip 1", "Clip 3"), question="Who speaks like the Second one?")
    made = mapped_item(numbered, "reversed")
    assert made is not None and made.choices == ("Clip 3", "Clip 1") and made.truth == "Clip 1"
    assert made.question == numbered.question


def test_other_tasks_need_to_be_told() -> None:
    item = question("accent", "Irish", ("Irish", "Welsh"))
    assert effect_of("accent", "reversed").kind == "unknown" and "accent" in effect_of("accent", "reversed").reason
    assert mapped_truth(item, "reversed") is None and mapped_item(item, "reversed") is None
    assert mapped_truth(item, "reversed", effects={"accent": {"reversed": "keep"}}) == "Irish"
    assert mapped_truth(item, "reversed", effects={"accent": {"reversed": "destroy"}}) is None
    swap = Effect("flip", mapping={"Irish": "Welsh", "Welsh": "Irish"})
    assert mapped_truth(item, "reversed", effects={"accent": {"reversed": swap}}) == "Welsh"
    assert mapped_truth(item, "reversed+lowpass", effects={"accent": {"reversed": swap, "lowpass": "keep"}}) == "Welsh"
    assert mapped_truth(item, "reversed+reversed", effects={"accent": {"reversed": swap}}) is None
    # A word of the caller's goes before the table.
    assert mapped_truth(question("age_prediction", "a", ("a", "b")), "lowpass") is None
    assert mapped_truth(question("age_prediction", "a", ("a", "b")), "lowpass", effects={"age_prediction": {"lowpass": "keep"}}) == "a"  # fmt: skip  # noqa: E501
    with pytest.raises(SchemaError, match="did you mean 'keep'"):
        Effect("kept")
    bench = Benchmark([item], name="other", source="by hand")
    with pytest.raises(SchemaError, match="nobody has said"):
        bench.with_audio("reversed")
    assert len(bench.with_audio("silence")) == 1 == len(bench.with_audio("lowpass+silence", voice="absent"))
    assert len(bench.with_audio("flattened")) == 1
    with pytest.raises(SchemaError, match="nobody has said"):
        bench.with_audio("flattened", voice="absent")


# --- labels against sound -------------------------------------------------------------------------------------------


def thirds(item: Item, wave: Wave) -> list[Wave]:
    """The three renditions, cut at the two longest pauses nearest to where the recipe puts them."""
    quiet = np.abs(wave) < 1e-6
    edges = np.flatnonzero(np.diff(np.concatenate([[0], quiet.astype(int), [0]])))
    runs = [(b - a, a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a > 0 and b < len(wave)]
    (_, a, b), (_, c, d) = sorted(sorted(runs)[-2:], key=lambda run: run[1])
    return [wave[:a], wave[b:c], wave[d:]]


def movement(wave: Wave) -> float:
    f0, strength = pitch(wave)
    good = f0[(strength > 0.8) & (level(wave) > 0.2 * level(wave).max())]
    return float(np.ptp(np.log(np.quantile(good, [0.2, 0.8]))))  # inside of octave errors


def height(wave: Wave) -> float:
    f0, strength = pitch(wave)
    return float(np.median(f0[(strength > 0.8) & (level(wave) > 0.2 * level(wave).max())]))


MEASURES: dict[str, Callable[[Wave], float]] = {
    "pitch_comparison": height,
    "volume_comparison": rms,
    "speed_comparison": lambda wave: -float(np.count_nonzero(np.abs(wave) > 1e-6)),  # the same words, in less time
    "vocal_range_comparison": movement,
}


def heard(item: Item, wave: Wave, task: str) -> str:
    values = [MEASURES[task](part) for part in thirds(item, wave)]
    names = dict(zip(np.argsort(values), ("low", "medium", "high"), strict=True))
    return "-".join(names[k] for k in range(3))


def test_a_reversed_pattern_sounds_like_the_mapped_label() -> None:
    hits = {"clip": 0, "reversed": 0}
    for task, cell in [(name, cell) for name in PATTERNS for cell in mini.cells(name)[:10]]:
        item = mini.render_condition(cell, "conflict")
        truth = "-".join(reversed(item.truth.split("-")))
        # As if all orders were offered and none claimed.
        offered = replace(item, choices=(item.truth, truth), letters=("A", "B"), said=(), foils=(), condition="other")
        made = mapped_item(offered, "reversed")
        assert made is not None and made.truth == truth
        hits["clip"] += heard(item, item.audio.load(), task) == item.truth
        hits["reversed"] += heard(item, made.audio.load(), task) == made.truth
    assert min(hits.values()) >= 38, hits  # of 40


def slope(wave: Wave) -> float:
    """Change of log F0 a second, over steady frames."""
    f0, strength = pitch(wave)
    good = np.flatnonzero((strength > 0.8) & (level(wave) > 0.1 * level(wave).max()))
    return float(100 * np.polyfit(good, np.log(f0[good]), 1)[0])


def test_intonation_turns_round_backwards_stays_without_words_and_goes_when_flattened() -> None:
    names = ("reversed", "delexicalised", "lowpass", "locally_reversed", "flattened")
    slopes: dict[str, list[float]] = {name: [] for name in ("clip", *names)}
    rising = []
    for cell in mini.cells("intonation_perception")[:12]:
        item = mini.render_condition(cell, "neutral")
        rising.append(1 if item.truth.startswith("Rising") else -1)
        slopes["clip"].append(slope(item.audio.load()))
        for name in names:
            slopes[name].append(slope(transformed(item.audio, name).load()))
        assert mapped_truth(replace(item, foils=()), "reversed") != item.truth
    right = {name: np.mean(np.sign(values) == rising) for name, values in slopes.items()}
    assert right["clip"] == 1 and right["reversed"] == 0
    assert min(right[name] for name in ("delexicalised", "lowpass", "locally_reversed")) >= 0.9
    assert np.median(np.abs(slopes["flattened"])) < 0.1 * np.median(np.abs(slopes["clip"]))


@pytest.mark.parametrize("name", ["delexicalised", "lowpass", "locally_reversed"])
def test_patterns_of_pitch_and_level_are_still_heard_without_words(name: str) -> None:
    hits = []
    for task in ("pitch_comparison", "volume_comparison"):
        for cell in mini.cells(task)[:6]:
            item = mini.render_condition(cell, "conflict")
            wave, out = item.audio.load(), transformed(item.audio, name).load()
            quiet = np.abs(wave) < 1e-6
            hits.append(heard(item, np.where(quiet, 0, np.where(np.abs(out) < 2e-6, 2e-6, out)), task) == item.truth)
    assert np.mean(hits) >= 0.9


# --- benchmarks -----------------------------------------------------------------------------------------------------


@functools.cache
def small() -> Benchmark:
    return mini.load(limit=90)


def test_with_audio_is_a_benchmark_of_usable_items() -> None:
    bench = small()
    made = bench.with_audio("reversed")
    assert made.name == "mini:reversed" and (made.source, made.revision) == (bench.source, bench.revision)
    assert made.tasks == (
        "age_prediction", "gender_prediction", "emotion_recognition", "speaker_identity_recognition",
        "total_speaker_counting",
    )  # fmt: skip
    assert set(made.conditions) == {"conflict/reversed", "congruent/reversed", "neutral/reversed"}
    assert made.sha != bench.select(ids=made.ids).sha
    for item in made:
        old = bench[item.id]
        assert item.said == () and item.claims == () and item.transcript is None and item.said_level is None
        assert (item.cell, item.speaker, item.script) == (old.cell, old.speaker, old.script)
        assert item.truth == mapped_truth(old, "reversed") and item.truth not in item.foils
        if item.task_name != "speaker_identity_recognition":
            assert (item.question, item.choices, item.foils) == (old.question, old.choices, old.foils)
    assert bench.with_audio("reversed").sha == made.sha
    assert bench.with_audio("lowpass", cutoff_hz=300).name == "mini:lowpass(cutoff_hz=300)"
    assert bench.with_audio("lowpass", cutoff_hz=300).sha != bench.with_audio("lowpass").sha


def test_flips_of_the_mini_are_foils_or_not_offered_and_coverage_says_so() -> None:
    bench = mini.load(tasks=(*PATTERNS, "intonation_perception"), n=40)
    for item in bench:
        assert mapped_truth(item, "reversed") is None
    table = coverage(bench, "reversed").set_index("task_name")
    assert (table["used"] == 0).all() and (table["items"] == 120).all() and (table["effect"] == "flip").all()
    assert "a foil" in table.loc["pitch_comparison", "left_out"] and "not offered" in table.loc["pitch_comparison", "left_out"]  # fmt: skip  # noqa: E501
    assert table.loc["intonation_perception", "left_out"] == "120: the mapped truth is a foil"
    with pytest.raises(SchemaError, match="the mapped truth"):
        bench.with_audio("reversed")


@pytest.mark.parametrize("name", ["flattened", "silence", "reversed+flattened"])
def test_transforms_without_voice_take_all_items_with_their_truth(name: str) -> None:
    bench = small()
    made = bench.with_audio(name)
    assert made.ids == bench.ids
    for item in made:
        old = bench[item.id]
        assert (item.truth, item.foils, item.question, item.choices) == (
            old.truth,
            old.foils,
            old.question,
            old.choices,
        )
        assert item.condition == f"{old.condition}/{name}"
        assert item.said == (old.said if name == "flattened" else ())
        assert item.transcript == (old.transcript if name == "flattened" else None)


def test_only_a_full_absence_is_offered_as_voice_absent() -> None:
    bench = small()
    assert bench.with_audio("flattened", voice="absent").tasks == (
        "pitch_comparison", "volume_comparison", "vocal_range_comparison", "intonation_perception",
    )  # fmt: skip
    assert bench.with_audio("silence", voice="absent").ids == bench.ids
    shuffled = bench.with_audio("shuffled", voice="absent")
    assert shuffled.tasks == (*PATTERNS, "speaker_identity_recognition")
    assert all(item.truth == bench[item.id].truth for item in shuffled)
    assert "pitch_comparison" not in bench.with_audio("shuffled").tasks
    with pytest.raises(SchemaError, match="the voice is not absent"):
        bench.select(tasks="speed_comparison").with_audio("flattened", voice="absent")
    with pytest.raises(SchemaError, match="did you mean 'absent'"):
        bench.with_audio("flattened", voice="absnt")


def test_a_transformed_clip_is_a_clip_like_any_other() -> None:
    item = small().with_audio("delexicalised")[0]
    assert isinstance(item.audio, Transformed)
    base = item.audio.base
    assert isinstance(base, MiniAudio) and isinstance(base.recipe, Utterance)
    assert item.duration_s == len(base.load()) / RATE


def test_a_run_on_reversed_clips_is_an_ordinary_run(tmp_path: Path) -> None:
    bench = mini.load(tasks=("gender_prediction", "speaker_identity_recognition"), limit=6).with_audio("reversed")
    run = vpanalysis.run("mini-pclm-dpo", bench, tmp_path / "run", cache=False, progress=False)
    opened = vpanalysis.open_run(run.path)
    assert opened.manifest["benchmark"]["name"] == "mini:reversed"
    assert opened.manifest["benchmark"]["sha"] == bench.sha
    assert list(opened.predictions["id"]) == list(bench.ids)
    assert (opened.predictions["status"] == "ok").all()
    assert list(opened.predictions["truth"]) == [item.truth for item in bench]


def test_a_reader_finds_no_claim_in_clips_without_words(tmp_path: Path) -> None:
    # mini-base answers what the words say (tests of the organism); a guess is a claim one time in two.
    bench = mini.load(tasks=("volume_comparison", "vocal_range_comparison"), conditions=("conflict",), limit=16)
    names = ("delexicalised", "flattened")
    twins = [replace(item, id=f"{item.id}/{name}") for name in names for item in bench.with_audio(name)]
    both = Benchmark(twins, name="twins", source="by hand")
    table = vpanalysis.run("mini-base", both, tmp_path / "run", cache=False, progress=False).predictions
    claimed = [answer in item.foils for answer, item in zip(table["pred_logits"], both, strict=True)]
    without_words, without_voice = np.mean(claimed[:16]), np.mean(claimed[16:])
    assert without_words <= 0.7 and without_voice >= 0.85
