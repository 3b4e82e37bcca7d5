"""Put the trained checkpoints into the package: split layout, fp16, one shared tower, a card each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from vpanalysis.organism import CHECKPOINTS, PLANTED, weights_folder
from vpanalysis.organism.questions import organism_tokenizer
from vpanalysis.organism.recipe import STAGES, Workshop
from vpanalysis.organism.sizes import extractor_config

__all__ = ["export"]

_TOWER = "../shared/sound_tower"


def export(workshop: Workshop, folder: Path | None = None) -> Path:
    """Write the seven checkpoints of a finished workshop.

    Parameters
    ----------
    workshop : Workshop
    folder : Path, optional
        Default: the package's own ``weights``.

    Returns
    -------
    Path
    """
    from transformers import WhisperFeatureExtractor

    from vpanalysis.models.split import write_split
    from vpanalysis.models.word_tokenizer import build_word_processor

    place = weights_folder() if folder is None else folder
    processor = build_word_processor(organism_tokenizer(), WhisperFeatureExtractor(**extractor_config()))
    finished = {stage: json.loads((workshop.folder / stage / "finished.json").read_text()) for stage in STAGES}
    record: dict[str, Any] = {"note": PLANTED, "stages": finished}
    # Only now, when it is known that the workshop is finished.
    if place.exists():
        shutil.rmtree(place)
    for name in CHECKPOINTS:
        stage = name.removeprefix("mini-")
        write_split(workshop.model(stage), processor, place / name, dtype=torch.float16, parts={"sound_tower": _TOWER})
    (place / "training.json").write_text(json.dumps(record, indent=1))
    return place
