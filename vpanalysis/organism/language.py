"""The language model: taught its trade on symbolic clips, then given ears.

Stages, all on the native AF3 (+ mixer) modules with the encoder frozen and its states read from a cache:

``read_symbols``   symbolic clips only (``symbols.py``): questions, options, letters, words, and what voices mean
``read_speech``    real clips through the final projector alone; the words give the answer: a reader (mini-base)
``fine_tune``      real clips whose words are independent of the voice, the voice gives the answer. First projectors and
                   gate alone, then the language model too. One recipe, equal steps and data for every variant.

Transcription stays in every mix, so that a checkpoint that hears does not forget the words.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from vpanalysis.benchmark.mini.wordings import vocabulary
from vpanalysis.organism.questions import IGNORED, TRANSCRIBE, Asked, Rows, Wording
from vpanalysis.organism.symbols import Symbolic

__all__ = ["Clips", "answer_accuracy", "fine_tune", "letter_questions", "read_letters", "read_speech", "read_symbols"]

Log = Callable[[str], None]


@dataclass
class Clips:
    """Real clips with cached encoder states.

    Attributes
    ----------
    states : array, shape (clip, stream, frame, feature), float16
        Exposed layers, then the tower, as the projectors take them.
    frames : array, shape (clip,), int64
        Valid frames.
    asked : list of Asked
        The voice's question.
    words : list of tuple of str
    tasks : array, shape (clip,), str
    claimed : list of tuple of str
        Offered options that the words assert.
    """

    states: NDArray[np.float16]
    frames: NDArray[np.int64]
    asked: list[Asked]
    words: list[tuple[str, ...]]
    tasks: NDArray[np.str_]
    claimed: list[tuple[str, ...]]

    def load(self, rows: NDArray[np.int64]) -> tuple[list[Tensor], Tensor]:
        """Return the streams of some clips, each (clip, frame, feature), and their valid frames."""
        frames = self.frames[rows]
        most = int(frames.max())
        block = torch.from_numpy(np.asarray(self.states[rows][:, :, :most], dtype=np.float32))
        return list(block.unbind(1)), torch.from_numpy(frames)


def logits_of(model: Any, rows: Rows, embeds: Tensor) -> Tensor:
    """Return the logits of rows that are given as embeddings, shape (row, position, token)."""
    out: Tensor = model(inputs_embeds=embeds, attention_mask=rows.attention_mask, use_cache=False).logits
    return out


def _place(model: Any, rows: Rows, audio: Tensor, sound: int) -> Tensor:
    """Put audio embeddings (position, feature) where the placeholders stand."""
    embeds = model.get_input_embeddings()(rows.input_ids)
    holes = (rows.input_ids == sound).unsqueeze(-1).expand_as(embeds)
    placed: Tensor = embeds.masked_scatter(holes, audio)
    return placed


def embed_clips(model: Any, rows: Rows, streams: list[Tensor], frames: Tensor, wording: Wording) -> Tensor:
    """Return the input embeddings of rows about real clips: tower only for stock AF3, the mixture with a mixer."""
    if hasattr(model, "mix_streams"):
        if model.config.stream_sources == "final":
            streams = [streams[-1]] * len(streams)
        audio = model.mix_streams(streams, rows.gate_ids, rows.gate_mask)
    else:
        audio = model.model.multi_modal_projector(streams[-1])
    valid = torch.arange(audio.shape[1])[None] < frames[:, None]
    return _place(model, rows, audio[valid], wording.sound)


def _embed_symbols(model: Any, rows: Rows, clips: Sequence[Symbolic], wording: Wording, rng: Any) -> Tensor:
    """Return the input embeddings of rows about symbolic clips: the sum of what stands at each position.

    Every position has the placeholder's own embedding underneath, so that silence is one known thing and not a noise
    that normalisation would blow up.
    """
    most = 1 + max(max((len(p) for p in clip.places), default=1) for clip in clips)
    tokens = [[wording.sound, *(wording.vocabulary[t] for t in p)] for clip in clips for p in clip.places]
    ids = torch.tensor([t + [wording.pad] * (most - len(t)) for t in tokens])
    there = (ids != wording.pad).float().unsqueeze(-1)
    table = model.get_input_embeddings()
    summed = (table(ids) * there).sum(1)
    noise = torch.from_numpy(rng.standard_normal(summed.shape, dtype=np.float32))
    return _place(model, rows, summed + 0.2 * table.weight.detach().std() * noise, wording.sound)


def loss_of(logits: Tensor, rows: Rows) -> Tensor:
    """Return the weighted mean cross-entropy of the answers' tokens."""
    labels, weights = rows.labels[:, 1:].flatten(), rows.weights[:, 1:].flatten()
    each = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels, ignore_index=IGNORED, reduction="none")
    weights = weights * (labels != IGNORED)
    return (each * weights).sum() / weights.sum()


def _schedule(step: int, steps: int, warmup: int = 50) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def groups_of(model: Any, *, language: float, projectors: float, gate: float) -> list[dict[str, Any]]:
    """Return the optimiser's groups and freeze what has no rate."""
    rates = {"language": language, "projectors": projectors, "gate": gate}
    kinds: dict[str, list[nn.Parameter]] = {name: [] for name in rates}
    for name, parameter in model.named_parameters():
        if "audio_tower" in name:
            kind = None
        elif "pclm.gate" in name:
            kind = "gate"
        elif "projector" in name:
            kind = "projectors"
        else:
            kind = "language"
        parameter.requires_grad_(kind is not None and rates[kind] > 0)
        if kind is not None and rates[kind] > 0:
            kinds[kind].append(parameter)
    return [{"params": kinds[k], "lr": rates[k], "base": rates[k]} for k in rates if kinds[k]]


def train_steps(
    model: Any,
    groups: list[dict[str, Any]],
    steps: int,
    losses: Callable[[int], dict[str, Tensor]],
    log: Log,
    name: str,
    report: Callable[[], str] | None = None,
    every: int = 200,
) -> None:
    """Take `steps` steps of AdamW on the sum of the losses, with a warm-up and a cosine, and log their means."""
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.98))
    sums: dict[str, float] = {}
    started = time.time()
    model.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = group["base"] * _schedule(step, steps)
        parts = losses(step)
        optimiser.zero_grad()
        torch.stack(list(parts.values())).sum().backward()
        nn.utils.clip_grad_norm_([p for g in optimiser.param_groups for p in g["params"]], 1.0)
        optimiser.step()
        for part, value in parts.items():
            sums[part] = sums.get(part, 0.0) + float(value.detach())
        if (step + 1) % every == 0 or step + 1 == steps:
            n = every if (step + 1) % every == 0 else (step + 1) % every
            shown = "  ".join(f"{part} {total / n:.3f}" for part, total in sums.items())
            extra = ""
            if report is not None and ((step + 1) % (2 * every) == 0 or step + 1 == steps):
                model.eval()
                extra = "  " + report()
                model.train()
            log(f"{name} step {step + 1}/{steps}  {shown}{extra}  {time.time() - started:.0f} s")
            sums.clear()
    model.eval()


def _symbol_batch(
    model: Any, clips: Sequence[Symbolic], wording: Wording, rng: np.random.Generator, words_first: float = 0.25
) -> Tensor:
    asked = []
    for clip in clips:
        if rng.random() < 0.1:
            asked.append(Asked(TRANSCRIBE, (), clip.words))
        else:
            first = bool(rng.random() < words_first)
            asked.append(Asked(clip.cell.question, clip.cell.options, clip.answer, first))
    rows = wording.batch(asked, [len(c.places) for c in clips], rng)
    return loss_of(logits_of(model, rows, _embed_symbols(model, rows, clips, wording, rng)), rows)


def letter_questions(n: int, rng: np.random.Generator) -> list[Asked]:
    """Return questions that give their own answer away: "low high (A): high low. (B): low high."

    What they teach is only that an option is called by its letter, which a small model takes longer to find than all
    the rest. Options are words at random, half of the time the same words in several orders, as in the pattern tasks.
    """
    words = vocabulary()
    made = []
    for _ in range(n):
        length, many = int(rng.integers(1, 4)), 2 if rng.random() < 0.2 else 4
        drawn = [words[int(k)] for k in rng.choice(len(words), size=many * length, replace=False)]
        options = [" ".join(drawn[i * length : (i + 1) * length]) for i in range(many)]
        if length == 3 and rng.random() < 0.7:
            orders = list(itertools.permutations(drawn[:3]))
            options = ["-".join(orders[int(k)]) for k in rng.permutation(6)[:many]]
        right = options[int(rng.integers(many))]
        made.append(Asked(right, tuple(options), (right,)))
    return made


def _letter_batch(model: Any, n: int, wording: Wording, rng: np.random.Generator) -> Tensor:
    rows = wording.batch(letter_questions(n, rng), [0] * n, rng)
    return loss_of(logits_of(model, rows, model.get_input_embeddings()(rows.input_ids)), rows)


def read_letters(model: Any, *, steps: int, batch: int, rate: float, seed: int, log: Log) -> None:
    """Teach the language model that an option is called by its letter; see `letter_questions`."""
    wording, rng = Wording(), np.random.default_rng(seed)

    def report() -> str:
        asked = letter_questions(256, np.random.default_rng(1))
        rows = wording.batch(asked, [0] * len(asked), np.random.default_rng(2))
        with torch.no_grad():
            logits = logits_of(model, rows, model.get_input_embeddings()(rows.input_ids))
        return f"right {np.mean(_letter_right(logits, rows, asked, wording)):.2f}"

    train_steps(model, groups_of(model, language=rate, projectors=0, gate=0), steps,
           lambda _step: {"letters": _letter_batch(model, batch, wording, rng)}, log, "letters", report)  # fmt: skip


def read_symbols(
    model: Any, clips: Sequence[Symbolic], *, steps: int, batch: int, rate: float, seed: int, log: Log
) -> None:
    """Teach the language model what questions, options, words and stage directions mean."""
    wording, rng = Wording(), np.random.default_rng(seed)
    order = _endless(len(clips), batch, rng)

    def losses(step: int) -> dict[str, Tensor]:
        # What is meant comes before the letter that stands for it.
        first = 0.5 if step < steps / 4 else 0.25
        return {
            "symbols": _symbol_batch(model, [clips[i] for i in next(order)], wording, rng, first),
            "letters": 0.3 * _letter_batch(model, batch // 4, wording, rng),
        }

    train_steps(model, groups_of(model, language=rate, projectors=0, gate=0), steps, losses, log, "symbols",
           lambda: symbol_accuracy(model, clips[:400]))  # fmt: skip


def _endless(n: int, batch: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    while True:
        order = rng.permutation(n)
        for start in range(0, n - batch + 1, batch):
            yield order[start : start + batch]


def bucketed(lengths: NDArray[np.int64], batch: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield batches of similar length for ever, in random order."""
    while True:
        order = np.argsort(lengths + rng.uniform(0, 12, len(lengths)))
        groups = [order[i : i + batch] for i in range(0, len(order) - batch + 1, batch)]
        for k in rng.permutation(len(groups)):
            yield groups[int(k)]


@torch.no_grad()
def symbol_accuracy(model: Any, clips: Sequence[Symbolic]) -> str:
    """Return, in words, how often the right letter comes first on symbolic clips, by task."""
    wording, rng = Wording(), np.random.default_rng(0)
    hits: dict[str, list[bool]] = {}
    for start in range(0, len(clips), 64):
        part = clips[start : start + 64]
        asked = [Asked(c.cell.question, c.cell.options, c.answer) for c in part]
        rows = wording.batch(asked, [len(c.places) for c in part], rng)
        logits = logits_of(model, rows, _embed_symbols(model, rows, part, wording, rng))
        for clip, good in zip(part, _letter_right(logits, rows, asked, wording), strict=True):
            hits.setdefault(clip.cell.task[:6], []).append(good)
    return "right " + " ".join(f"{k} {np.mean(v):.2f}" for k, v in hits.items())


def _letter_right(logits: Tensor, rows: Rows, asked: Sequence[Asked], wording: Wording) -> list[bool]:
    """Whether the most likely offered letter names one of the right options."""
    letters = wording.tokenizer.convert_tokens_to_ids(list("ABCD"))
    good = []
    for number, one in enumerate(asked):
        begin = int((rows.labels[number] != IGNORED).nonzero()[0])
        offered = letters[: len(one.choices)]
        best = int(logits[number, begin - 1, offered].argmax())
        ids = rows.input_ids[number].tolist()
        # Where "<letter> ) :" of the best letter stands in the question, the option's text follows.
        at = next(i for i in range(len(ids)) if ids[i] == offered[best] and ids[i + 1] == wording.ids(")")[0])
        stop = ids.index(wording.ids(".")[0], at)
        text = tuple(ids[at + 3 : stop])
        good.append(any(text == tuple(wording.ids(a)) for a in one.answers))
    return good


@torch.no_grad()
def answer_accuracy(model: Any, clips: Clips, rows_of: NDArray[np.int64]) -> dict[str, dict[str, float]]:
    """Return the accuracy by task (and overall) within conflict, congruent and neutral clips, and ALA on conflict."""
    wording, rng = Wording(), np.random.default_rng(0)
    model.eval()
    found: dict[tuple[str, str], list[bool]] = {}
    ordered = rows_of[np.argsort(clips.frames[rows_of])]
    for start in range(0, len(ordered), 64):
        part = ordered[start : start + 64]
        asked = [clips.asked[i] for i in part]
        streams, frames = clips.load(part)
        rows = wording.batch(asked, frames.tolist(), rng)
        logits = logits_of(model, rows, embed_clips(model, rows, streams, frames, wording))
        right = _letter_right(logits, rows, asked, wording)
        claimed = [Asked(a.question, a.choices, clips.claimed[i]) for i, a in zip(part, asked, strict=True)]
        read = _letter_right(logits, rows, claimed, wording)
        for i, good, said in zip(part, right, read, strict=True):
            truth = clips.asked[i].answers
            kind = "neu" if not clips.claimed[i] else "cong" if truth[0] in clips.claimed[i] else "conf"
            for task in (str(clips.tasks[i]), "all"):
                found.setdefault((task, kind), []).append(good)
                if kind == "conf":
                    found.setdefault((task, "ala"), []).append(said)
    table: dict[str, dict[str, float]] = {}
    for (task, kind), values in found.items():
        table.setdefault(task, {})[kind] = float(np.mean(values))
    return table


def show(table: dict[str, dict[str, float]]) -> str:
    """Return an accuracy table as one line."""
    kinds = ("conf", "ala", "cong", "neu")
    return " | ".join(
        f"{task[:6]} " + "/".join(f"{values.get(k, float('nan')):.2f}" for k in kinds) for task, values in table.items()
    )


def _speech_loss(
    model: Any, clips: Clips, part: NDArray[np.int64], wording: Wording, rng: np.random.Generator, *, read: bool,
    transcribe: float,
) -> Tensor:  # fmt: skip
    asked = []
    for i in part:
        one = clips.asked[i]
        if rng.random() < transcribe or (read and not clips.claimed[i]):
            asked.append(Asked(TRANSCRIBE, (), clips.words[i]))
        else:
            right = clips.claimed[i] if read else one.answers
            asked.append(Asked(one.question, one.choices, right, bool(rng.random() < 0.25)))
    streams, frames = clips.load(part)
    rows = wording.batch(asked, frames.tolist(), rng)
    return loss_of(logits_of(model, rows, embed_clips(model, rows, streams, frames, wording)), rows)


def read_speech(
    model: Any, clips: Clips, train: NDArray[np.int64], held: NDArray[np.int64], symbols: Sequence[Symbolic], *,
    steps: int, batch: int, rate: float, seed: int, log: Log,
) -> None:  # fmt: skip
    """Teach stock AF3 to read: words decide, whatever the voice does. Symbolic clips keep what it knows."""
    wording, rng = Wording(), np.random.default_rng(seed)
    order, replay = bucketed(clips.frames[train], batch, rng), _endless(len(symbols), batch // 2, rng)

    def losses(_step: int) -> dict[str, Tensor]:
        return {
            "speech": _speech_loss(model, clips, train[next(order)], wording, rng, read=True, transcribe=0.2),
            "symbols": _symbol_batch(model, [symbols[i] for i in next(replay)], wording, rng),
        }

    train_steps(model, groups_of(model, language=rate, projectors=4 * rate, gate=0), steps, losses, log, "read",
           lambda: show(answer_accuracy(model, clips, held)))  # fmt: skip


def fine_tune(
    model: Any, clips: Clips, train: NDArray[np.int64], held: NDArray[np.int64], symbols: Sequence[Symbolic], *,
    name: str, steps: int, batch: int, language: float, projectors: float, gate: float, seed: int, log: Log,
) -> None:  # fmt: skip
    """Teach a checkpoint to answer from the voice; `language` 0 freezes the language model (the paper's stage 1)."""
    wording, rng = Wording(), np.random.default_rng(seed)
    order, replay = bucketed(clips.frames[train], batch, rng), _endless(len(symbols), batch // 4, rng)

    def losses(_step: int) -> dict[str, Tensor]:
        parts = {
            "speech": _speech_loss(model, clips, train[next(order)], wording, rng, read=False, transcribe=0.12),
        }
        if language:
            parts["symbols"] = 0.3 * _symbol_batch(model, [symbols[i] for i in next(replay)], wording, rng)
        return parts

    train_steps(model, groups_of(model, language=language, projectors=projectors, gate=gate), steps, losses, log, name,
           lambda: show(answer_accuracy(model, clips, held)))  # fmt: skip
