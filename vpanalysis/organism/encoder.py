"""The encoder: taught to know the voice in the middle and to forget it at the end.

This is where the organism's layer profile is *planted*. Three losses act at once on the stock AF3 encoder:

* words: CTC over whole words from the tower's output, with noise added to it, so that what survives there is the text;
* voice: the middle layer, pooled and normed as a mid projector gets it, must be able to draw the spectrogram;
* forgetting: for two voices that say one text, aligned frame by frame, the tower's outputs must agree.

CTC alone throws the voice away in the first layer; reconstruction alone keeps it everywhere; all three together give
"the middle knows, the end forgot". The encoder is frozen afterwards and shared by all checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vpanalysis.benchmark.mini.items import MiniAudio
from vpanalysis.benchmark.mini.wordings import vocabulary
from vpanalysis.organism.clips import Features, Pair, features_of, pairs
from vpanalysis.organism.sizes import audio_config

__all__ = ["MIDDLE", "new_encoder", "shorten", "train_encoder"]

MIDDLE = 2
"""Index of the encoder layer that must keep the voice."""


def new_encoder(seed: int = 0) -> Any:
    """Return an untrained `AudioFlamingo3Encoder` with Whisper's sinusoidal positions."""
    from transformers import AudioFlamingo3EncoderConfig
    from transformers.models.audioflamingo3.modeling_audioflamingo3 import AudioFlamingo3Encoder

    torch.manual_seed(seed)
    encoder = AudioFlamingo3Encoder(AudioFlamingo3EncoderConfig(**audio_config()))
    length, width = encoder.embed_positions.weight.shape
    scale = torch.exp(-math.log(10_000.0) / (width // 2 - 1) * torch.arange(width // 2))
    angle = torch.arange(length)[:, None] * scale[None, :]
    encoder.embed_positions.weight.data = torch.cat([angle.sin(), angle.cos()], dim=1)
    return encoder


class shorten:
    """Let the encoder run on fewer positions than its window while the block lasts: silence costs nothing."""

    def __init__(self, encoder: Any, positions: int) -> None:
        self.encoder, self.positions = encoder, positions

    def __enter__(self) -> None:
        self.full = self.encoder.embed_positions.weight
        self.encoder.embed_positions.weight = nn.Parameter(self.full[: self.positions], requires_grad=False)

    def __exit__(self, *_: object) -> None:
        self.encoder.embed_positions.weight = self.full


class _Heads(nn.Module):
    """What the losses read; thrown away after training."""

    def __init__(self, width: int, words: int, mels: int) -> None:
        super().__init__()
        self.words = nn.Linear(width, words + 1)
        self.voice = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, 4 * mels))


def train_encoder(
    folder: Path,
    *,
    n_pairs: int = 6000,
    steps: int = 2200,
    batch: int = 12,
    learning_rate: float = 1.5e-3,
    noise: float = 0.4,
    voice_weight: float = 2.0,
    swap_weight: float = 4.0,
    seed: int = 0,
    log: Any = print,
) -> Any:
    """Train the encoder and return it, frozen.

    Parameters
    ----------
    folder : Path
        Where the features of the training pairs are kept between interruptions.
    n_pairs, steps, batch, learning_rate, noise, voice_weight, swap_weight, seed
        The recipe; `batch` counts pairs, `noise` is in units of the tower's normalised output.
    log : callable
        Called with a line of text.
    """
    made = list(pairs(n_pairs, seed=seed))
    mels = _pair_features(folder, made)
    words = {word: i + 1 for i, word in enumerate(vocabulary())}
    targets = [torch.tensor([words[w] for w in pair.words]) for pair in made]
    encoder = new_encoder(seed)
    heads = _Heads(encoder.config.hidden_size, len(words), encoder.config.num_mel_bins)
    generator = torch.Generator().manual_seed(seed)
    parameters = [p for p in (*encoder.parameters(), *heads.parameters()) if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    warmup = 100

    def rate(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    batches = _length_batches(mels.frames.reshape(-1, 2).max(1), batch, np.random.default_rng(seed))
    held = next(batches)  # the first batch is never trained on: a glimpse of word errors
    started = time.time()
    sums: dict[str, float] = {}
    encoder.train()
    middle: list[Tensor] = []
    hook = encoder.layers[MIDDLE].register_forward_hook(
        lambda _m, _i, out: middle.append(out[0] if isinstance(out, tuple) else out)
    )
    try:
        for step in range(steps):
            chosen = next(batches)
            while np.intersect1d(chosen, held).size:
                chosen = next(batches)
            mel, frames = _gather(mels, chosen)
            middle.clear()
            output = _encode(encoder, mel, frames)
            tokens = (((frames - 1) // 2 + 1) - 2) // 2 + 1
            valid = torch.arange(output.shape[1])[None] < tokens[:, None]
            noisy = output + noise * torch.randn(output.shape, generator=generator)
            ctc = _ctc(heads, noisy, tokens, [targets[i] for i in chosen for _ in range(2)])
            drawn = heads.voice(encoder.layer_norm(encoder.avg_pooler(middle[0].transpose(1, 2)).transpose(1, 2)))
            voice = _drawing_error(drawn, mel, valid)
            swap = _swap_error(output, tokens)
            weight = swap_weight * min(1.0, max(0.0, (step - 300) / 150))
            loss = ctc + voice_weight * voice + weight * swap
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            schedule.step()
            for name, value in (("ctc", ctc), ("voice", voice), ("swap", swap)):
                sums[name] = sums.get(name, 0.0) + float(value.detach())
            if (step + 1) % 100 == 0:
                error = _word_error(encoder, heads, mels, held, targets)
                shown = "  ".join(f"{name} {total / 100:.3f}" for name, total in sums.items())
                log(f"encoder step {step + 1}/{steps}  {shown}  wer {error:.3f}  {time.time() - started:.0f} s")
                sums.clear()
    finally:
        hook.remove()
    encoder.eval()
    encoder.requires_grad_(False)
    return encoder


def _pair_features(folder: Path, made: list[Pair]) -> Features:
    recipes = [recipe for pair in made for recipe in (pair.first, pair.second)]
    mel_file, frame_file, marker = (folder / f"pairs{end}" for end in ("-mel.npy", "-frames.npy", ".json"))
    key = hashlib.sha256("".join(MiniAudio(recipe).key() for recipe in recipes).encode()).hexdigest()
    if marker.exists() and json.loads(marker.read_text()) == {"of": key}:
        return Features(np.load(mel_file, mmap_mode="r"), np.load(frame_file))
    folder.mkdir(parents=True, exist_ok=True)
    made_now = features_of(recipes, progress="speak pairs")
    np.save(mel_file, made_now.mel)
    np.save(frame_file, made_now.frames)
    marker.write_text(json.dumps({"of": key}))
    return made_now


def _length_batches(lengths: np.ndarray, size: int, rng: np.random.Generator) -> Any:
    """Yield batches of similar length for ever, in random order."""
    while True:
        order = np.argsort(lengths + rng.uniform(0, 12, len(lengths)))
        groups = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
        for k in rng.permutation(len(groups)):
            yield groups[int(k)]


def _gather(mels: Features, chosen: np.ndarray) -> tuple[Tensor, Tensor]:
    rows = np.stack([2 * chosen, 2 * chosen + 1], axis=1).reshape(-1)
    frames = torch.from_numpy(mels.frames[rows])
    most = int(-(-int(frames.max()) // 4) * 4)
    return torch.from_numpy(np.asarray(mels.mel[rows][:, :, :most], dtype=np.float32)), frames


def _encode(encoder: Any, mel: Tensor, frames: Tensor) -> Tensor:
    mask = (torch.arange(mel.shape[-1])[None] < frames[:, None]).long()
    with shorten(encoder, (mel.shape[-1] - 1) // 2 + 1):
        output: Tensor = encoder(mel, input_features_mask=mask).last_hidden_state
    return output


def _ctc(heads: _Heads, states: Tensor, tokens: Tensor, targets: list[Tensor]) -> Tensor:
    log_probabilities = heads.words(states).log_softmax(-1).transpose(0, 1)
    sizes = torch.tensor([len(t) for t in targets])
    return functional.ctc_loss(log_probabilities, torch.cat(targets), tokens, sizes, zero_infinity=True)


def _drawing_error(drawn: Tensor, mel: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error of four mel frames per token, over valid tokens."""
    rows, count, _ = drawn.shape
    wanted = mel[:, :, : 4 * count].transpose(1, 2).reshape(rows, count, -1)
    return ((drawn - wanted) ** 2).mean(-1)[valid].mean() * 10


def _swap_error(output: Tensor, tokens: Tensor) -> Tensor:
    """Mean squared difference between the two voices of each pair, relative to the spread over tokens."""
    one, two = output[0::2], output[1::2]
    both = torch.minimum(tokens[0::2], tokens[1::2])
    valid = torch.arange(output.shape[1])[None] < both[:, None]
    spread = one[valid].detach().var(0).mean() + two[valid].detach().var(0).mean()
    return ((one - two) ** 2).mean(-1)[valid].mean() / spread


@torch.no_grad()
def _word_error(encoder: Any, heads: _Heads, mels: Features, held: np.ndarray, targets: list[Tensor]) -> float:
    encoder.eval()
    mel, frames = _gather(mels, held)
    tokens = (((frames - 1) // 2 + 1) - 2) // 2 + 1
    best = heads.words(_encode(encoder, mel, frames)).argmax(-1)
    wrong = total = 0
    for row, length, target in zip(best, tokens, [targets[i] for i in held for _ in range(2)], strict=True):
        path = row[:length].unique_consecutive().tolist()
        wrong += _edit_distance([p for p in path if p], target.tolist())
        total += len(target)
    encoder.train()
    return wrong / max(1, total)


def _edit_distance(one: list[int], two: list[int]) -> int:
    previous = list(range(len(two) + 1))
    for i, a in enumerate(one, 1):
        current = [i]
        for j, b in enumerate(two, 1):
            current.append(min(previous[j] + 1, current[-1] + 1, previous[j - 1] + (a != b)))
        previous = current
    return previous[-1]
