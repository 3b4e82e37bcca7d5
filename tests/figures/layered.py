"""Small Runs with probes and patches kept in them, for the figures about layers; and averages written out by hand."""

from __future__ import annotations

import atexit
import csv
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

import vpanalysis as vp
from vpanalysis.figures import Sources

TASKS = ("gender_prediction", "emotion_recognition")
QUIET: dict[str, Any] = {"progress": False}
DEPTH_SITES = ("encoder[1]", "projector", "text[1]")


@lru_cache(maxsize=1)
def home() -> Path:
    out = Path(tempfile.mkdtemp(prefix="vpanalysis-layers-"))
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    return out


@lru_cache(maxsize=1)
def bench() -> vp.Benchmark:
    return vp.load_benchmark("mini", tasks=list(TASKS), limit=60)


@lru_cache(maxsize=1)
def base() -> Path:
    """mini-base with probes of truth and claim at all sites, and with networks at some."""
    run = vp.run("mini-base", bench(), home() / "mini-base", **QUIET)
    vp.probe_layers(run, "both", shuffles=0, **QUIET).save()
    for estimator in ("mlp1", "mlp3"):
        vp.probe_layers(run, "truth", sites=list(DEPTH_SITES), estimator=estimator, n_splits=2, **QUIET).save()
    return run.path


@lru_cache(maxsize=1)
def mixed() -> Path:
    """mini-pclm-dpo with a small patch of the voice at three places."""
    run = vp.run("mini-pclm-dpo", bench(), home() / "mini-pclm-dpo", **QUIET)
    found = vp.patch("mini-pclm-dpo", bench(), sites=["tower", "mixed", "text[1]"], pairs=8, first_order=False, **QUIET)
    found.save(run)
    return run.path


@lru_cache(maxsize=1)
def untrained() -> Path:
    """An encoder alone with random weights, probed."""
    torch.manual_seed(0)
    config = WhisperConfig(
        num_mel_bins=16, d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=32, decoder_layers=1,
        decoder_attention_heads=2, decoder_ffn_dim=32, max_source_positions=200, vocab_size=40, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    extractor = WhisperFeatureExtractor(feature_size=16, hop_length=320, n_fft=800, chunk_length=8)
    model = vp.load_model((WhisperModel(config).eval(), extractor), name="whisper-untrained")
    run = vp.run(model, bench(), home() / "whisper-untrained", cache=False, **QUIET)
    vp.probe_layers(run, shuffles=0, **QUIET).save()
    return run.path


@lru_cache(maxsize=1)
def labelled() -> Path:
    """A Run of mini-base on a folder of labelled clips, not probed yet."""
    folder = home() / "clips"
    folder.mkdir()
    rows = []
    for number, item in enumerate(bench()):
        if item.task_name == TASKS[0]:
            soundfile.write(folder / f"{number}.wav", item.audio.load(), 16_000)
            rows.append([f"{number}.wav", item.truth, item.speaker])
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "label", "speaker"], *rows])
    return vp.run("mini-base", str(folder), home() / "natural", **QUIET).path


def sources(*paths: Path) -> Sources:
    return Sources.of(list(paths))


def weighted(result: Any, site: str, target: str = "truth") -> pd.Series[float]:
    """Accuracy of every task at a site, from the out-of-fold predictions alone."""
    rows = result.predictions
    rows = rows[(rows["site"] == site) & (rows["target"] == target)]
    right = (rows["predicted"].astype(str) == rows["label"].astype(str)).to_numpy(dtype=float)
    return pd.Series(
        {task: np.average(right[(rows["task"] == task).to_numpy()], weights=part["weight"])
         for task, part in rows.groupby("task")}
    )  # fmt: skip


def measured(data: pd.DataFrame) -> None:
    """Cells are plain values, and every measured estimate lies in its interval."""
    for column in data.columns:
        assert data[column].map(lambda v: isinstance(v, (str, bool, int, float, np.generic))).all(), column
    known = data[data["low"].notna() & data["value"].notna()]
    assert len(known) and set(data["origin"]) == {"measured"}
    assert (known["low"] <= known["value"] + 1e-9).all() and (known["value"] <= known["high"] + 1e-9).all()
