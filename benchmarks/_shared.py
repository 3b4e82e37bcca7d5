"""What the model benchmarks share: random models, clips of drawn lengths, contenders in rounds, plain tables.

Nothing is downloaded. A random model does the arithmetic of a trained one of its size, and that is what is measured.

Wall clocks of a shared machine swing by more than what is to be told apart, so contenders take turns, in alternating
order, and are compared within a round: the ratio of two of them is the median over rounds, with its quartiles.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import os
import platform
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

# Libraries read these when they are loaded. Progress bars and advice would end up in the results.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from vpanalysis.benchmark import Benchmark, Item, mini
from vpanalysis.benchmark.audio import ArrayAudio
from vpanalysis.models.word_tokenizer import build_word_processor, build_word_tokenizer

RATE = 16_000
SHORTEST, LONGEST = 1.44, 28.3
"""Seconds of the shortest and the longest clip of VoxParadox."""


# Models ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """Sizes of a random Audio Flamingo 3; heads are 64 wide, feed-forward layers four times the width."""

    encoder_layers: int = 12
    encoder_width: int = 256
    text_layers: int = 8
    text_width: int = 256
    window: int = 30
    mels: int = 128
    words: int = 4000


TINY = Size(encoder_layers=2, encoder_width=64, text_layers=2, text_width=64, window=30, mels=16, words=300)


def questions() -> list[Item]:
    """Return the items of the bundled benchmark; only their texts are used."""
    return list(mini.load())


def random_model(size: Size, *, mixer: bool = False, seed: int = 0) -> tuple[Any, Any]:
    """Return a random Audio Flamingo 3, float32 on the CPU, and its own processor around a vocabulary of words."""
    from vpanalysis.models.pclm import AudioFlamingo3PCLMConfig, AudioFlamingo3PCLMForConditionalGeneration

    texts = sorted({text for item in questions() for text in (item.question, *item.choices)})
    tokenizer = build_word_tokenizer(texts, max_length=4096)
    more = [f"word{i}" for i in range(max(0, size.words - len(tokenizer)))]
    tokenizer = build_word_tokenizer([*texts, *more], max_length=4096)
    extractor = transformers.WhisperFeatureExtractor(feature_size=size.mels, chunk_length=size.window)
    audio = transformers.AudioFlamingo3EncoderConfig(
        num_mel_bins=size.mels,
        num_hidden_layers=size.encoder_layers,
        hidden_size=size.encoder_width,
        num_attention_heads=max(1, size.encoder_width // 64),
        intermediate_size=4 * size.encoder_width,
        max_source_positions=50 * size.window,
    )
    heads = max(1, size.text_width // 64)
    text = transformers.Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=size.text_width,
        num_hidden_layers=size.text_layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        intermediate_size=4 * size.text_width,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    parts = {"audio_config": audio, "text_config": text, "audio_token_id": tokenizer.convert_tokens_to_ids("<sound>")}
    torch.manual_seed(seed)
    if mixer:
        gate = {
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 128,
        }
        quarter = max(1, size.encoder_layers // 4)
        exposed = list(range(quarter, size.encoder_layers, quarter))
        config = AudioFlamingo3PCLMConfig(**parts, expose_layers=exposed, prompt_encoder_config=gate)
        model: Any = AudioFlamingo3PCLMForConditionalGeneration(config)
    else:
        model = transformers.AudioFlamingo3ForConditionalGeneration(transformers.AudioFlamingo3Config(**parts))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # In a fresh model nothing matters to anything; a little larger, answers depend on the clip.
            if parameter.ndim > 1 and "embed_positions" not in name:
                parameter.mul_(3.0)
    return model.eval(), build_word_processor(tokenizer, extractor)


def same_weights(model: Any) -> Any:
    """Return a copy of a model that shares its tensors, for tools that rewrite the modules they are given."""
    kept = {id(tensor): tensor for tensor in itertools.chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, kept)


# Clips ----------------------------------------------------------------------------------------------------------------


def lengths(count: int, mean_s: float, *, seed: int = 0, longest_s: float = LONGEST) -> NDArray[np.float64]:
    """Return clip lengths in seconds with a given mean, between VoxParadox's shortest and longest clip.

    The count evenly spaced quantiles of ``1.44 s + 26.86 s * Beta(2, b)``, in random order, where b gives the mean.
    """
    from scipy.stats import beta

    share = (mean_s - SHORTEST) / (longest_s - SHORTEST)
    spread = beta(2.0, 2.0 * (1 - share) / share)
    drawn = SHORTEST + (longest_s - SHORTEST) * spread.ppf((np.arange(count) + 0.5) / count)
    return np.asarray(np.random.default_rng(seed).permutation(drawn))


def speak(seconds: Sequence[float], *, seed: int = 0) -> list[NDArray[np.float32]]:
    """Return one clip for each length: a buzz of random pitch in noise, float32 at 16 kHz."""
    generator = np.random.default_rng(seed)
    waves = []
    for length in seconds:
        time_s = np.arange(round(length * RATE)) / RATE
        pitch, beat = generator.uniform(80, 260), generator.uniform(2, 6)
        buzz = sum(np.sin(2 * math.pi * pitch * k * time_s) / k for k in range(1, 9))
        wave = 0.08 * buzz * (1.2 + np.sin(2 * math.pi * beat * time_s))
        waves.append((wave + 0.01 * generator.standard_normal(len(time_s))).astype(np.float32))
    return waves


def benchmark_of(waves: Sequence[NDArray[np.float32]], *, name: str, each: int = 1) -> Benchmark:
    """Return a benchmark that asks `each` questions about every clip, texts as in the bundled one."""
    texts = questions()
    step = max(1, len(texts) // (len(waves) * each))
    asked = (texts[(i * step) % len(texts)] for i in range(len(waves) * each))
    items = [
        replace(item, id=f"{name}-{i:04d}", audio=ArrayAudio(waves[i // each]), cell=None)
        for i, item in enumerate(asked)
    ]
    return Benchmark(items, name=name, source="random clips")


# Contenders in rounds -------------------------------------------------------------------------------------------------


@dataclass
class Times:
    """Seconds of one contender, one entry a round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def ratio(self, other: Times) -> tuple[float, float, float]:
        """Return this over `other` within rounds: lower quartile, median, upper quartile."""
        return quartiles([a / b for a, b in zip(self.wall, other.wall, strict=True)])

    def cpu_ratio(self, other: Times) -> tuple[float, float, float]:
        """Return the same of processor times, which other work on the machine leaves nearly alone."""
        return quartiles([a / max(b, 1e-9) for a, b in zip(self.cpu, other.cpu, strict=True)])


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    low, middle, high = np.quantile(np.asarray(values), [0.25, 0.5, 0.75])
    return float(low), float(middle), float(high)


def in_rounds(
    contenders: Mapping[str, Callable[[], Any]], rounds: int, *, warm_up: int = 3, device: str = "cpu"
) -> dict[str, Times]:
    """Run all contenders in every round, in alternating order, and return their times."""
    for contend in contenders.values():
        for _ in range(warm_up):
            contend()
    times = {name: Times() for name in contenders}
    for number in range(rounds):
        order = list(contenders)
        for name in order if number % 2 == 0 else reversed(order):
            synchronize(device)
            cpu, wall = time.process_time(), time.perf_counter()
            contenders[name]()
            synchronize(device)
            times[name].wall.append(time.perf_counter() - wall)
            times[name].cpu.append(time.process_time() - cpu)
    return times


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


# Memory ---------------------------------------------------------------------------------------------------------------


def resident_bytes() -> int:
    """Return the resident memory of this process; 0 where the system does not say."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """Return the largest resident memory since `forget_peak`."""
    return _status("VmHWM")


def forget_peak() -> None:
    """Let the peak begin anew (Linux; elsewhere it stays what it was)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _status(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name)), 0)


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# Output ---------------------------------------------------------------------------------------------------------------


def headline(script: str, arguments: Sequence[str], device: str) -> str:
    """Return what a dated result begins with: the command, and what it ran on."""
    # Where the numbers are also written is no part of what was measured.
    shown = [a for a, before in zip(arguments, ["", *arguments], strict=False) if "--json" not in (a, before)]
    command = shlex.join(["python", f"benchmarks/{Path(script).name}", *shown])
    where = f"{os.cpu_count()} shared {platform.machine()} cores, {torch.get_num_threads()} thread(s)"
    if device.startswith("cuda"):
        where = f"{torch.cuda.get_device_name(0)}, {where}"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    return f"# {command}\n# {date.today().isoformat()}, {where}; {versions}"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a plain table: the first column to the left, the others to the right, notes (last, if text) free."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = []
    for row in cells:
        first = row[0].ljust(widths[0])
        lines.append("  ".join([first, *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]).rstrip())
    return "\n".join(lines)


def megabytes(count: float) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e4 else f"{count / 1e3:.2f} kB"


def report(lines: Sequence[str], facts: Mapping[str, Any], target: Path | None) -> None:
    """Print the lines, and write the facts as JSON where asked."""
    if lines:
        print("\n".join(lines), flush=True)
    if target is not None:
        target.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
