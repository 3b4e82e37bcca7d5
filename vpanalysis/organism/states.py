"""Encoder states of training clips, cached on disk: the frozen encoder runs once per clip, not once per step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from vpanalysis.benchmark.items import Item
from vpanalysis.benchmark.mini.items import MiniAudio
from vpanalysis.organism.clips import features_of
from vpanalysis.organism.encoder import shorten
from vpanalysis.organism.language import Clips
from vpanalysis.organism.questions import Asked

__all__ = ["clips_of"]

_BLOCK = 2048


def clips_of(model: Any, items: Sequence[Item], folder: Path, *, progress: str | None = None) -> Clips:
    """Return the cached states of `items`, computing what is missing.

    Parameters
    ----------
    model : AudioFlamingo3PCLMModel
        Whose tower and pooling make the streams.
    items : sequence of Item
        Synthesized clips.
    folder : Path
        Where the states are kept; one folder per encoder and list of items.
    progress : str, optional
        Label of the progress bar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = model.config
    shape = (len(items), config.num_streams, config.audio_config.max_source_positions // 2,
             config.audio_config.hidden_size)  # fmt: skip
    file, marker = folder / "states.npy", folder / "done.json"
    fresh: dict[str, Any] = {"of": _key(model, items), "shape": list(shape), "clips": 0, "frames": []}
    done = json.loads(marker.read_text()) if marker.exists() else fresh
    if (done.get("of"), done["shape"]) != (fresh["of"], fresh["shape"]):
        done = fresh
    mode = "r+" if done["clips"] else "w+"
    states = np.lib.format.open_memmap(file, mode=mode, dtype=np.float16, shape=shape)
    for start in range(done["clips"], len(items), _BLOCK):
        block = items[start : start + _BLOCK]
        recipes = [item.audio.recipe for item in block if isinstance(item.audio, MiniAudio)]
        features = features_of(recipes, progress=progress and f"{progress} from {start} of {len(items)}")
        done["frames"] += _encode(model, features.mel, features.frames, states[start : start + len(block)])
        done["clips"] = start + len(block)
        states.flush()
        marker.write_text(json.dumps(done))
    return Clips(
        states=np.load(file, mmap_mode="r"),
        frames=np.array(done["frames"], dtype=np.int64),
        asked=[Asked(item.question, item.choices, (item.truth,)) for item in items],
        words=[tuple((item.transcript or "").split()) for item in items],
        tasks=np.array([item.task_name for item in items]),
        claimed=[item.said for item in items],
    )


def _key(model: Any, items: Sequence[Item]) -> str:
    """Return a hash of the clips and of the encoder: what the cached states belong to."""
    digest = hashlib.sha256()
    for tensor in model.audio_tower.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for item in items:
        digest.update(item.audio.key().encode())
    return digest.hexdigest()


@torch.inference_mode()
def _encode(model: Any, mel: np.ndarray, frames: np.ndarray, out: np.ndarray) -> list[int]:
    """Write the streams of a block of clips into `out` and return their valid frames."""
    valid = np.zeros(len(mel), dtype=np.int64)
    order = np.argsort(frames)
    for start in tqdm(range(0, len(order), 32), desc="encode", leave=False, disable=None):
        rows = order[start : start + 32]
        most = int(-(-int(frames[rows].max()) // 4) * 4)
        block = torch.from_numpy(np.asarray(mel[rows][:, :, :most], dtype=np.float32))
        mask = (torch.arange(most)[None] < torch.from_numpy(frames[rows])[:, None]).long()
        with shorten(model.audio_tower, (most - 1) // 2 + 1):
            streams, counts, _ = model.encode_streams(block, mask)
        out[rows, :, : streams[0].shape[1]] = torch.stack(streams, dim=1).numpy().astype(np.float16)
        valid[rows] = counts.numpy()
    return [int(v) for v in valid]
