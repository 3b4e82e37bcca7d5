"""The recipe: every stage in order, each kept when it is finished, so that an interruption costs one stage.

    encoder    one joint training of the shared encoder (``encoder.py``)
    states     training and validation clips, encoded once
    letters    the language model on what a letter stands for
    symbols    the language model on symbolic clips
    reader     reads speech: what every checkpoint starts from
    base       mini-base: the reader, taught numbers too, which come last
    sft, final, static, pclm   one fine-tuning recipe each: projectors and gate, then the language model too
    pclm-dpo   balanced preferences from pclm
    inverter   preferences on conflict clips alone, from base, which cannot hear: it learns to contradict the words
    export     the seven checkpoints in the split layout, fp16, with one shared tower

A stage leaves ``<folder>/<stage>/`` with its weights and ``log.txt``; ``finished.json`` says that it is done and with
which numbers it was made. Change a number and the stages from there on are made again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from vpanalysis.benchmark.mini import load
from vpanalysis.organism.build import new_model, with_mixer
from vpanalysis.organism.clips import mixed_items
from vpanalysis.organism.encoder import new_encoder, train_encoder
from vpanalysis.organism.language import (
    Clips,
    answer_accuracy,
    fine_tune,
    read_letters,
    read_speech,
    read_symbols,
    show,
)
from vpanalysis.organism.preferences import prefer
from vpanalysis.organism.states import clips_of
from vpanalysis.organism.symbols import Symbolic, symbolic_clips

__all__ = ["NUMBERS", "STAGES", "Workshop"]

NUMBERS: dict[str, dict[str, Any]] = {
    "encoder": {"n_pairs": 7000, "steps": 3200, "batch": 12, "learning_rate": 1.5e-3, "noise": 0.4,
                "voice_weight": 2.0, "swap_weight": 4.0, "seed": 0},
    "states": {"train": 24_000, "seed": 1},
    "letters": {"steps": 3000, "batch": 32, "rate": 1e-3, "seed": 0},
    "symbols": {"clips": 40_000, "steps": 2000, "batch": 32, "rate": 1e-3, "seed": 0},
    "reader": {"steps": 500, "rate": 5e-4, "claim_steps": 900, "claim_rate": 8e-4, "late_steps": 400,
             "late_rate": 6e-4, "batch": 32, "seed": 2},
    "base": {"steps": 500, "rate": 6e-4, "batch": 32, "seed": 6},
    "tune": {"stage1": 400, "stage2": 1300, "batch": 32, "projectors": 2e-3, "gate": 1e-3, "language": 6e-4,
             "language_projectors": 1e-3, "seed": 3},
    "pclm-dpo": {"steps": 300, "batch": 32, "rate": 2e-4, "beta": 0.1, "likelihood": 0.5, "seed": 4},
    "inverter": {"steps": 600, "batch": 32, "rate": 4e-4, "beta": 0.2, "likelihood": 0.0, "seed": 5},
}  # fmt: skip
"""The numbers that a stage is made with; constants of the method stand where they are used."""

STAGES: dict[str, tuple[str, ...]] = {
    "encoder": (),
    "states": ("encoder",),
    "letters": ("encoder",),
    "symbols": ("letters",),
    "reader": ("symbols", "states"),
    "base": ("reader",),
    "sft": ("reader",),
    "final": ("reader",),
    "static": ("reader",),
    "pclm": ("reader",),
    "pclm-dpo": ("pclm",),
    "inverter": ("base",),
}
"""Each stage with the stages that it starts from."""

_LATE = ("speaker_identity_recognition", "total_speaker_counting")
_TUNED = ("sft", "final", "static", "pclm")


def _own_numbers(stage: str) -> dict[str, Any]:
    return NUMBERS["tune" if stage in _TUNED else stage]


def recipe_hash(stage: str) -> str:
    """Return a hash of the numbers of a stage and of all that it starts from."""
    content = [stage, _own_numbers(stage), *(recipe_hash(s) for s in STAGES[stage])]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass
class Workshop:
    """A folder in which the recipe is carried out.

    Parameters
    ----------
    folder : Path
    echo : callable
        Gets every line of the log.
    """

    folder: Path
    echo: Callable[[str], None] = print

    def finished(self, stage: str) -> bool:
        """Whether a stage is done with the numbers as they are now."""
        file = self.folder / stage / "finished.json"
        return file.exists() and json.loads(file.read_text())["recipe"] == recipe_hash(stage)

    def run(self, stage: str) -> None:
        """Carry out a stage, and first what it starts from, unless it is done."""
        if self.finished(stage):
            return
        for before in STAGES[stage]:
            self.run(before)
        place = self.folder / stage
        place.mkdir(parents=True, exist_ok=True)
        started = time.time()
        with (place / "log.txt").open("a") as file:

            def log(line: str) -> None:
                stamped = f"{time.strftime('%H:%M:%S')} {line}"
                file.write(stamped + "\n")
                file.flush()
                self.echo(stamped)

            log(f"stage {stage}: {json.dumps(_own_numbers(stage))}")
            facts = self._do(stage, log)
            seconds = round(time.time() - started)
            log(f"stage {stage} finished after {seconds} s")
        done = {"recipe": recipe_hash(stage), "numbers": _own_numbers(stage), "seconds": seconds, **(facts or {})}
        part = place / "finished.json.part"
        part.write_text(json.dumps(done, indent=1))
        part.replace(place / "finished.json")

    def _do(self, stage: str, log: Callable[[str], None]) -> dict[str, Any] | None:
        numbers = _own_numbers(stage)
        if stage == "encoder":
            encoder = train_encoder(self.folder / "pairs", log=log, **numbers)
            # Everything that follows is trained on the encoder as it will be bundled.
            _save(encoder.half().float(), self.folder / stage)
            return None
        if stage == "states":
            self.clips(progress=True)
            return None
        if stage == "letters":
            model = new_model(self.encoder(), numbers["seed"])
            read_letters(model, log=log, **numbers)
            _save(model, self.folder / stage)
            return None
        if stage == "symbols":
            model = self.model("letters")
            read_symbols(model, self.symbols(), steps=numbers["steps"], batch=numbers["batch"], rate=numbers["rate"],
                         seed=numbers["seed"], log=log)  # fmt: skip
            _save(model, self.folder / stage)
            return None
        clips, train, held = self.clips()
        model = self.model(STAGES[stage][0])
        if stage == "base":
            counting = np.array([bool(c) for c in clips.claimed])[train] & (clips.tasks[train] == _LATE[1])
            mixed = np.concatenate([train[counting], train[~counting][: int(counting.sum())]])
            read_speech(model, clips, mixed, held, self.symbols(), log=log, **numbers)
        elif stage == "reader":
            symbols = self.symbols()
            common = {"batch": numbers["batch"], "log": log}
            read_speech(model, clips, train, held, symbols, steps=numbers["steps"], rate=numbers["rate"],
                        seed=numbers["seed"], **common)  # fmt: skip
            # Then only clips that claim something: without a claim there is nothing to read but the transcript.
            claiming = train[[bool(clips.claimed[i]) for i in train]]
            read_speech(model, clips, claiming, held, symbols, steps=numbers["claim_steps"],
                        rate=numbers["claim_rate"], seed=numbers["seed"] + 10, **common)  # fmt: skip
            # Numbers and ordinals are learnt last; they get half of the clips now.
            late = np.isin(clips.tasks[claiming], _LATE)
            mixed = np.concatenate([claiming[late], claiming[~late][: int(late.sum())]])
            read_speech(model, clips, mixed, held, symbols, steps=numbers["late_steps"], rate=numbers["late_rate"],
                        seed=numbers["seed"] + 20, **common)  # fmt: skip
        elif stage in _TUNED:
            if stage != "sft":
                model = with_mixer(model, stage, numbers["seed"])
            common = {"batch": numbers["batch"], "gate": numbers["gate"], "log": log}
            fine_tune(model, clips, train, held, self.symbols(), name=f"{stage} 1", steps=numbers["stage1"],
                      language=0, projectors=numbers["projectors"], seed=numbers["seed"], **common)  # fmt: skip
            fine_tune(model, clips, train, held, self.symbols(), name=f"{stage} 2", steps=numbers["stage2"],
                      language=numbers["language"], projectors=numbers["language_projectors"],
                      seed=numbers["seed"] + 1, **common)  # fmt: skip
        else:
            prefer(model, clips, train, held, name=stage, conflicts_only=stage == "inverter", log=log, **numbers)
        _save(model, self.folder / stage)
        table = answer_accuracy(model, clips, held)
        log("validation " + show(table))
        return {"validation": table}

    def encoder(self) -> Any:
        """Return the trained encoder."""
        encoder = new_encoder()
        encoder.load_state_dict(load_file(self.folder / "encoder" / "model.safetensors"))
        return encoder.eval().requires_grad_(False)

    def symbols(self) -> list[Symbolic]:
        """Return the symbolic clips."""
        numbers = NUMBERS["symbols"]
        return list(symbolic_clips(numbers["clips"], seed=numbers["seed"] + 1))

    def model(self, stage: str) -> Any:
        """Return the model as a finished stage left it."""
        model = new_model(self.encoder())
        weights = load_file(self.folder / stage / "model.safetensors")
        form = "pclm" if stage == "pclm-dpo" else stage
        if form in ("final", "static", "pclm"):
            model = with_mixer(model, form)
        model.load_state_dict(weights)
        return model.eval()

    def clips(self, *, progress: bool = False) -> tuple[Clips, np.ndarray, np.ndarray]:
        """Return training and validation clips as one set, and the rows of each."""
        numbers = NUMBERS["states"]
        mixer = with_mixer(new_model(self.encoder()), "pclm").model
        train_items = list(mixed_items(numbers["train"], seed=numbers["seed"]))
        held_items = list(load(split="validation", n=60))
        parts = [
            clips_of(mixer, items, self.folder / "states" / name, progress=name if progress else None)
            for name, items in (("train", train_items), ("validation", held_items))
        ]
        joined = _Joined(*parts)
        n = len(train_items)
        return joined, np.arange(n), np.arange(n, n + len(held_items))


class _Joined(Clips):
    """Two sets of clips as one, without copying their states."""

    def __init__(self, one: Clips, two: Clips) -> None:
        super().__init__(
            states=one.states,
            frames=np.concatenate([one.frames, two.frames]),
            asked=one.asked + two.asked,
            words=one.words + two.words,
            tasks=np.concatenate([one.tasks, two.tasks]),
            claimed=one.claimed + two.claimed,
        )
        self._parts, self._n = (one, two), len(one.frames)

    def load(self, rows: np.ndarray) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return the streams of some clips, all from one of the two sets."""
        if int(rows.min()) >= self._n:
            return self._parts[1].load(rows - self._n)
        return self._parts[0].load(rows)


def _save(model: Any, folder: Path) -> None:
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
