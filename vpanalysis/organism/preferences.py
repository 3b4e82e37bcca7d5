"""Preferences: the right option against another one, by direct preference optimisation.

Two checkpoints end here. With pairs from clips whose words are independent of the voice, what is preferred can only be
heard. With pairs from conflict clips alone, "not what the words say" is preferred just as well, and that is what the
inverter learns: accuracy on conflict clips cannot tell the two apart.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vpanalysis.organism.language import (
    Clips,
    Log,
    answer_accuracy,
    bucketed,
    embed_clips,
    groups_of,
    logits_of,
    loss_of,
    show,
    train_steps,
)
from vpanalysis.organism.questions import IGNORED, TRANSCRIBE, Asked, Wording

__all__ = ["prefer"]


def _letter_log_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the log-probability of each row's letter, the token that decides.

    Over the whole answer a small model lowers the rejected answer's words *given* its letter instead of the letter.
    """
    begin = (labels != IGNORED).int().argmax(1)
    rows = torch.arange(len(labels))
    picked: Tensor = logits[rows, begin - 1].log_softmax(-1)[rows, labels[rows, begin]]
    return picked


def prefer(
    model: Any, clips: Clips, train: NDArray[np.int64], held: NDArray[np.int64], *, name: str, steps: int, batch: int,
    rate: float, beta: float, likelihood: float, conflicts_only: bool, seed: int, log: Log,
) -> None:  # fmt: skip
    """Direct preference optimisation of the language model against a frozen copy of itself.

    The loss is ``-log sigmoid(beta * s)`` with ``s`` the difference of log-probability ratios (Rafailov et al. 2023,
    eq. 7). `conflicts_only` rejects what the words claim, on conflict clips alone; otherwise a random wrong option is
    rejected on clips whose words are independent of the voice, as in the paper. `likelihood` weighs the usual loss of
    the chosen answer beside it, which keeps its probability from falling together with the rejected one's.
    """
    wording, rng = Wording(), np.random.default_rng(seed)
    reference = copy.deepcopy(model).eval().requires_grad_(False)
    if conflicts_only:
        conflict = np.array([bool(c) and clips.asked[i].answers[0] not in c for i, c in enumerate(clips.claimed)])
        train = train[conflict[train]]
    order = bucketed(clips.frames[train], batch, rng)

    def losses(_step: int) -> dict[str, Tensor]:
        part = train[next(order)]
        asked = [clips.asked[i] for i in part]
        wrong = []
        for i, one in zip(part, asked, strict=True):
            pool = clips.claimed[i] if conflicts_only else tuple(c for c in one.choices if c not in one.answers)
            wrong.append(pool[int(rng.integers(len(pool)))])
        streams, frames = clips.load(part)
        seeds = rng.integers(2**31)
        scores, chosen = [], torch.zeros(())
        for answers in (None, wrong):
            # The same order of options for the chosen and the rejected answer.
            rows = wording.batch(asked, frames.tolist(), np.random.default_rng(seeds), answers)
            embeds = embed_clips(model, rows, streams, frames, wording)
            logits = logits_of(model, rows, embeds)
            ours = _letter_log_probability(logits, rows.labels)
            if answers is None:
                chosen = loss_of(logits, rows)
            with torch.no_grad():
                same = embed_clips(reference, rows, streams, frames, wording)
                theirs = _letter_log_probability(logits_of(reference, rows, same), rows.labels)
            scores.append(ours - theirs)
        preference = -functional.logsigmoid(beta * (scores[0] - scores[1])).mean()
        words = [Asked(TRANSCRIBE, (), clips.words[i]) for i in part[: max(2, batch // 8)]]
        short, few = [s[: len(words)] for s in streams], frames[: len(words)]
        rows = wording.batch(words, few.tolist(), rng)
        spoken = loss_of(logits_of(model, rows, embed_clips(model, rows, short, few, wording)), rows)
        return {"preference": preference, "chosen": likelihood * chosen, "words": 0.2 * spoken}

    train_steps(model, groups_of(model, language=rate, projectors=0, gate=0), steps, losses, log, name,
           lambda: show(answer_accuracy(model, clips, held)), every=50)  # fmt: skip
