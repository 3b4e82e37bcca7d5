"""What is reached without the model: by guessing, from the spectrogram, from the words.

Why it exists. A site that tells gender at 0.95 impresses nobody if mean and spread of the mel bands do; then the
encoder has kept something, and not found it. And a truth that the transcript gives away is not heard at all. So the
probe's own items, weights and folds are used once more, with other features.

* *Majority and chance*: the commonest class under the weights, and one over the number of classes (Zhang and Bowman
  2018 and Hewitt and Liang 2019 on why a probe's accuracy means nothing without them).
* *Mel statistics* (the acoustic baseline of probing studies such as Pasad et al. 2021, "Layer-wise Analysis of a
  Self-supervised Speech Representation Model"): mean, standard deviation and segment means over time of the log-mel
  spectrogram that Whisper-like encoders get.
* *Text only* (the hypothesis-only baseline of Poliak et al. 2018, for transcripts): word and character n-grams,
  weighted by tf-idf and read by logistic regression, vocabulary and weights from the training items of each fold.

The same architecture with random weights is in ``twins.py``.

>>> mel_features(np.zeros(16000, dtype=np.float32), segments=2).shape
(320,)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vpanalysis import stats
from vpanalysis.errors import RunError
from vpanalysis.probes.controls._common import ProbeSetup, TaskPlan, adjusted, empty_row, fit, plans, row
from vpanalysis.probes.estimator import single_thread
from vpanalysis.probes.splits import FloatArray
from vpanalysis.probes.targets import RunLike

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Benchmark

__all__ = ["majority_and_chance", "mel_baseline", "mel_features", "mel_matrix", "text_baseline"]

MAJORITY_SOURCE = "Zhang and Bowman 2018; Hewitt and Liang 2019"
MEL_SOURCE = "log-mel statistics, after Pasad et al. 2021"
TEXT_SOURCE = "text-only baseline, after Poliak et al. 2018"

RATE, BINS = 16_000, 80


def majority_and_chance(
    run: RunLike, tasks: str | Sequence[str] | None = None, *, setup: ProbeSetup | None = None
) -> pd.DataFrame:
    """Return what guessing reaches (Zhang and Bowman 2018; Hewitt and Liang 2019).

    Parameters
    ----------
    run : Run
    tasks : str or sequence of str, optional
    setup : ProbeSetup, optional

    Returns
    -------
    DataFrame
        Rows with measure ``chance`` (one over the number of classes), ``majority`` (share of the commonest class under
        the weights; what always naming it would reach in hindsight) and ``accuracy`` (naming the commonest class of
        each fold's training items, out of fold, with a clustered interval; often below chance on balanced data).
    """
    made = setup or ProbeSetup()
    rows: list[dict[str, Any]] = []
    for task, plan in plans(run, tasks, made):
        items, more = plan.items, {"target": made.target, "variant": "guess"}
        if not plan.folds:
            rows.append(empty_row("majority", task, "accuracy", MAJORITY_SOURCE, plan.reason, **more))
            continue
        k, n = len(items.classes), len(items.rows)
        share = np.bincount(items.labels, weights=items.weights, minlength=k) / items.weights.sum()
        right = np.zeros(n)
        for fold in plan.folds:
            commonest = np.bincount(items.labels[fold.train], weights=fold.weights, minlength=k).argmax()
            right[fold.test] = items.labels[fold.test] == commonest
        found = stats.proportion(right, plan.clusters, weights=items.weights, level=made.level)
        rows += [
            row("majority", task, "chance", 1.0 / k, MAJORITY_SOURCE, n=n, **more),
            row("majority", task, "majority", float(share.max()), MAJORITY_SOURCE, n=n, **more),
            row("majority", task, "accuracy", found, MAJORITY_SOURCE, **more),
        ]
    return adjusted(rows)


@lru_cache(maxsize=1)
def _extractor() -> Any:
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=BINS)


def mel_features(wave: NDArray[np.float32], *, segments: int = 6) -> FloatArray:
    """Return mean, standard deviation and segment means of the log-mel spectrogram of one clip.

    Parameters
    ----------
    wave : array, shape (sample,), float32, 16 kHz
    segments : int
        Equal parts of the clip's duration.

    Returns
    -------
    array, shape (80 * (2 + segments),), float64
        In the units of Whisper's features: (log10 of mel power, at most 8 below the clip's maximum, + 4) / 4.

    Raises
    ------
    RunError
        For a clip without samples, or fewer than one segment.
    """
    if segments < 1 or not len(wave):
        raise RunError("cannot describe the spectrogram", found=f"{len(wave)} samples, segments={segments}",
                       allowed="one of each at least")  # fmt: skip
    # A frame needs half a window on either side, which is reflected: too short a clip is padded with silence.
    wave = np.pad(wave, (0, max(0, 400 - len(wave))))
    made = _extractor()(wave, sampling_rate=RATE, padding="do_not_pad", truncation=False, return_tensors="np")
    mel = np.asarray(made["input_features"][0], dtype=np.float64)
    edges = np.linspace(0, mel.shape[1], segments + 1)
    parts = []
    for start, stop in pairwise(edges):
        first = min(int(start), mel.shape[1] - 1)
        parts.append(mel[:, first : max(first + 1, int(np.ceil(stop)))].mean(axis=1))
    return np.concatenate([mel.mean(axis=1), mel.std(axis=1), *parts])


def mel_matrix(
    audio: Benchmark | Mapping[str, NDArray[np.float32]], ids: Sequence[str], *, segments: int = 6
) -> FloatArray:
    """Return the mel statistics of items by id, shape (item, 80 * (2 + segments)), float64.

    Parameters
    ----------
    audio : Benchmark or mapping from id to array, shape (sample,), float32, 16 kHz
        Where the clips are.
    ids : sequence of str
    segments : int

    Raises
    ------
    RunError
        When an id has no clip.
    """
    out = []
    for name in ids:
        if name not in (audio if isinstance(audio, Mapping) else audio.ids):
            raise RunError("cannot find the clip of an item", found=repr(name),
                           fix="give the benchmark that the Run was made of")  # fmt: skip
        # Clips come decoded and resampled (soundfile, soxr) by the benchmark's own reader.
        wave = audio[name] if isinstance(audio, Mapping) else audio[name].audio.load()
        out.append(mel_features(np.asarray(wave, dtype=np.float32), segments=segments))
    return np.stack(out)


def mel_baseline(
    run: RunLike,
    audio: Benchmark | Mapping[str, NDArray[np.float32]] | None,
    tasks: str | Sequence[str] | None = None,
    *,
    segments: int = 6,
    setup: ProbeSetup | None = None,
) -> pd.DataFrame:
    """Return the accuracy of the same probe on mel statistics (after Pasad et al. 2021).

    Parameters
    ----------
    run : Run
    audio : Benchmark, mapping from id to waveform, or None
        The clips. Without them every cell is empty and says so.
    tasks : str or sequence of str, optional
    segments : int
    setup : ProbeSetup, optional

    Returns
    -------
    DataFrame
        One row a task, measure ``accuracy``, on the items, weights and folds of the probe.
    """
    made = setup or ProbeSetup()
    rows: list[dict[str, Any]] = []
    for task, plan in plans(run, tasks, made):
        more = {"site": "mel statistics", "variant": f"mean, sd, {segments} segments", "target": made.target}
        reason = plan.reason if not plan.folds else "no audio was given: pass the benchmark" if audio is None else ""
        if reason or audio is None:
            rows.append(empty_row("mel", task, "accuracy", MEL_SOURCE, reason, **more))
            continue
        features = mel_matrix(audio, [str(i) for i in plan.items.frame["id"]], segments=segments)
        predicted = fit([features], plan.items.labels, plan.folds, plan.items, made, groups=plan.first).predicted[0, 0]
        rows.append(_scored("mel", task, plan, predicted, MEL_SOURCE, made, **more))
    return adjusted(rows)


def text_baseline(
    run: RunLike,
    tasks: str | Sequence[str] | None = None,
    *,
    column: str | None = None,
    C: float = 10.0,
    setup: ProbeSetup | None = None,
) -> pd.DataFrame:
    """Return the accuracy of a classifier of the words alone (after Poliak et al. 2018).

    Parameters
    ----------
    run : Run
    tasks : str or sequence of str, optional
    column : str, optional
        Text of an item; default ``transcript``, else ``script``.
    C : float
        Inverse penalty on tf-idf features.
    setup : ProbeSetup, optional
        Items, weights and folds; its `C` belongs to states and is not used.

    Returns
    -------
    DataFrame
        One row a task, measure ``accuracy``; an empty cell where no text is known.

    Raises
    ------
    RunError
        For an unknown column.
    """
    made = setup or ProbeSetup()
    table = run.predictions
    if column is not None and column not in table.columns:
        raise RunError(
            "cannot read the words", found=repr(column), allowed=[str(c) for c in table.columns], word=column
        )
    rows: list[dict[str, Any]] = []
    for task, plan in plans(run, tasks, made):
        frame = plan.items.frame
        options = [column] if column else ["transcript", "script"]
        used = next((name for name in options if name in frame.columns and bool(frame[name].notna().all())), None)
        more = {"site": "text only", "target": made.target, "variant": f"n-grams of {used or options[0]}"}
        reason = plan.reason if not plan.folds else "" if used else f"no {' or '.join(options)} is known of every item"
        if not reason and used and frame[used].astype(str).nunique() < 2:
            reason = f"one {used} only"
        if reason or used is None:
            rows.append(empty_row("text", task, "accuracy", TEXT_SOURCE, reason, **more))
            continue
        text = frame[used].astype(str).to_numpy(dtype=object)
        predicted = np.full(len(text), -1, dtype=np.int64)
        with single_thread():
            for fold in plan.folds:
                predicted[fold.test] = _read(
                    text[fold.train], plan.items.labels[fold.train], fold.weights, text[fold.test], C
                )
        rows.append(_scored("text", task, plan, predicted, TEXT_SOURCE, made, **more))
    return adjusted(rows)


def _read(
    train: NDArray[Any], labels: NDArray[np.int64], weights: FloatArray, test: NDArray[Any], C: float
) -> NDArray[np.int64]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    # Any run of non-blanks is a word: the usual pattern drops "I" and "a", and script names of one letter.
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\S+")
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4))
    model = make_pipeline(make_union(words, characters), LogisticRegression(C=C, max_iter=2000))
    model.fit(train, labels, logisticregression__sample_weight=weights)
    return cast("NDArray[np.int64]", np.asarray(model.predict(test), dtype=np.int64))


def _scored(
    control: str, task: str, plan: TaskPlan, predicted: NDArray[np.int64], source: str, setup: ProbeSetup, **more: Any
) -> dict[str, Any]:
    right = (predicted == plan.items.labels).astype(np.float64)
    found = stats.proportion(right, plan.clusters, weights=plan.items.weights, level=setup.level, chance=plan.chance)
    return row(control, task, "accuracy", found, source, **more)
