"""Audio Flamingo 3 + PCLM at full size on a GPU: how fast, how large, and what does it cost to look inside?

``python benchmarks/full_model.py`` builds the model of the paper with random weights (8.4 billion parameters, nothing
is downloaded) on the CUDA device that is there, and measures with clips of a mean of 14 s

* items a second: of the model alone, and of ``run`` from waveform to stored result;
* what recording the means of all 32 + 28 layers adds in time and device memory (promised: 3 % and 1 %);
* which share of the matrix throughput that this device reaches with large bfloat16 products goes into the forward;
* with ``--load FOLDER``: how long the model takes to load from a split checkpoint, which is written there first, and
  how much host memory above that after imports and CUDA start (promised: 1.2 times the largest file).

Without a CUDA device it says so and ends. ``--tiny --device cpu`` runs every line on a model of a few megabytes; its
numbers mean nothing. The exit code is 1 where a promise is not kept at full size.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from _shared import (
    benchmark_of,
    forget_peak,
    headline,
    in_rounds,
    lengths,
    megabytes,
    peak_bytes,
    quartiles,
    questions,
    report,
    resident_bytes,
    speak,
    synchronize,
    table,
)
from torch.utils.flop_counter import FlopCounterMode

import vpanalysis as vp
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.capture.recorder import Recorder
from vpanalysis.capture.reducers import Spans, make_plan
from vpanalysis.models.batch import Batch
from vpanalysis.models.checkpoint.conversion import convert
from vpanalysis.models.facade import AudioLLM
from vpanalysis.models.pclm import AudioFlamingo3PCLMConfig, AudioFlamingo3PCLMForConditionalGeneration
from vpanalysis.models.word_tokenizer import build_word_processor, build_word_tokenizer

GIB = 1 << 30
LAYERS = ["encoder[*]", "text[*]"]
PROMISED_TIME, PROMISED_MEMORY, PROMISED_HOST = 0.03, 0.01, 1.2

NO_DEVICE = """No CUDA device is present, so nothing is measured. This benchmark builds Audio Flamingo 3 + PCLM at full
size with random weights in bfloat16 (17 GB of device memory, 30 GB with batches of 16 and their states; nothing is
downloaded) and measures items a second, peak memory, the cost of recording all 32 + 28 layers, and the share of the
device's matrix throughput. Run it where a GPU of 40 GB or more is: python benchmarks/full_model.py; the logic alone
runs anywhere with --tiny --device cpu."""


# The model ------------------------------------------------------------------------------------------------------------


def config_of(tiny: bool, tokenizer: Any) -> Any:
    """Return the configuration: AF-Whisper and Qwen2.5-7B with the paper's mixer, or the same in miniature."""
    audio: dict[str, Any] = {"model_type": "audioflamingo3_encoder"}
    text: dict[str, Any] = {
        "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 151_936, "max_position_embeddings": 32_768,
        "rope_parameters": {"rope_theta": 1_000_000.0, "rope_type": "default"}, "tie_word_embeddings": False,
    }  # fmt: skip
    fields: dict[str, Any] = {"expose_layers": [5, 15, 25, 30]}
    if tiny:
        audio |= {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2}
        text |= {
            "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": len(tokenizer) + 8,
        }  # fmt: skip
        gate = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        fields = {"expose_layers": [1, 3], "prompt_encoder_config": {**gate, "vocab_size": len(tokenizer)}}
    text |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    place = tokenizer.convert_tokens_to_ids("<sound>")
    sizes: dict[str, Any] = {"audio_config": audio, "text_config": text, "audio_token_id": place, **fields}
    return AudioFlamingo3PCLMConfig(**sizes)


def build(options: argparse.Namespace) -> tuple[Any, Any, dict[str, float]]:
    """Build the model where it will run, with random weights; return it, its processor, and seconds and host bytes."""
    texts = sorted({text for item in questions() for text in (item.question, *item.choices)})
    tokenizer = build_word_tokenizer(texts, max_length=32_768)
    processor = build_word_processor(tokenizer, transformers.WhisperFeatureExtractor(feature_size=128, chunk_length=30))
    config = config_of(options.tiny, tokenizer)
    torch.zeros((), device=options.device)
    synchronize(options.device)
    forget_peak()
    before, started = resident_bytes(), time.perf_counter()
    torch.manual_seed(0)
    # Parameters come into being on the device; the host never holds them.
    with torch.device(options.device):
        model = AudioFlamingo3PCLMForConditionalGeneration._from_config(
            config, dtype=dtype_of(options), attn_implementation="sdpa"
        )
    synchronize(options.device)
    facts = {"seconds": time.perf_counter() - started, "host_bytes": max(0, peak_bytes() - before)}
    return model.eval(), processor, facts


def dtype_of(options: argparse.Namespace) -> torch.dtype:
    return torch.bfloat16 if options.device.startswith("cuda") else torch.float32


# Measuring ------------------------------------------------------------------------------------------------------------


def matrix_throughput(options: argparse.Namespace) -> float:
    """Return the floating-point operations a second of the best of a few large square products."""
    best = 0.0
    for size in (256, 384) if options.tiny else (4096, 8192, 12_288):
        a = torch.randn(size, size, device=options.device, dtype=dtype_of(options))
        b = torch.randn(size, size, device=options.device, dtype=dtype_of(options))
        repeats = 10
        for _ in range(3):
            a @ b
        synchronize(options.device)
        started = time.perf_counter()
        for _ in range(repeats):
            a @ b
        synchronize(options.device)
        best = max(best, 2 * size**3 * repeats / (time.perf_counter() - started))
    return best


def spans_of(batch: Batch) -> dict[Any, Spans]:
    return {
        "encoder": Spans.per_window(batch.positions),
        "tower": Spans.per_window(batch.frames),
        "audio": Spans.per_window(batch.frames),
        "text": Spans.per_item(batch.inputs["attention_mask"].sum(1).tolist(), padding="left"),
    }


def peak_of(work: Callable[[], Any], device: str) -> int:
    """Return the peak device memory of a call: on CUDA all that is allocated, else resident memory of the process."""
    synchronize(device)
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        work()
        synchronize(device)
        return torch.cuda.max_memory_allocated()
    forget_peak()
    work()
    return peak_bytes()


def model_alone(llm: AudioLLM, batches: Sequence[Batch], options: argparse.Namespace) -> dict[str, Any]:
    """Measure forwards over features that are there already, with and without recording."""
    plan = make_plan(llm.sites, LAYERS, "mean")
    spans = [spans_of(batch) for batch in batches]

    def bare() -> None:
        for batch in batches:
            llm.forward(batch)

    def recording() -> None:
        for batch, valid in zip(batches, spans, strict=True):
            with Recorder(llm.module_of, plan) as recorder:
                recorder.expect(valid)
                llm.forward(batch)
                recorder.take()

    times = in_rounds({"bare": bare, "recording": recording}, options.rounds, warm_up=2, device=options.device)
    with FlopCounterMode(display=False) as counter:
        bare()
    if not counter.get_total_flops():
        raise SystemExit(f"torch {torch.__version__} counts no operations under inference mode; take a newer one")
    peaks = {name: peak_of(work, options.device) for name, work in (("bare", bare), ("recording", recording))}
    valid = sum(sum(map(sum, batch.positions)) for batch in batches)
    encoded = sum(
        llm.frontend.shortened(batch.inputs)["input_features"].shape[0]
        * llm.family.encoder_frames(llm.frontend.shortened(batch.inputs)["input_features"].shape[-1])
        for batch in batches
    )
    return {
        "bare_s": quartiles(times["bare"].wall),
        "recording_s": quartiles(times["recording"].wall),
        "ratio": times["recording"].ratio(times["bare"]),
        "peak_bytes": peaks,
        "flops": counter.get_total_flops(),
        "valid_share": valid / encoded,
        "sites": len(plan),
    }


def to_disk(llm: AudioLLM, bench: vp.Benchmark, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure whole runs, from waveform to stored result."""
    count = 0

    def runner(**more: Any) -> Callable[[], Any]:
        def go() -> Any:
            nonlocal count
            count += 1
            return vp.run(
                llm, bench, folder / str(count), batch_size=options.batch, cache=None, progress=False, **more
            )  # fmt: skip

        return go

    ways = {
        "run, answers only": runner(sites="options"),
        "run, mean of all layers": runner(sites=LAYERS, reducers="mean"),
        "run, all sites by default": runner(),
    }
    times = in_rounds(ways, max(1, options.rounds // 2), warm_up=1, device=options.device)
    base = times["run, answers only"]
    return {
        name: {"items_per_s": len(bench) / quartiles(found.wall)[1], "ratio": found.ratio(base)}
        for name, found in times.items()
    }


# Loading --------------------------------------------------------------------------------------------------------------


def write_checkpoint(model: Any, processor: Any, target: Path, shard: str) -> int:
    """Write the model as a split checkpoint; return the bytes of its largest file."""
    whole = target.parent / f"{target.name}-hf"
    model.save_pretrained(whole, max_shard_size=shard)
    processor.save_pretrained(whole)
    convert(whole, target, to="split", max_shard_size=shard)
    shutil.rmtree(whole)
    return max(path.stat().st_size for path in target.rglob("*.safetensors"))


def loading(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Load a checkpoint in a fresh process and return seconds and host memory."""
    command = [sys.executable, str(Path(__file__).resolve()), "--device", options.device, "--load-alone", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"loading failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def load_alone(options: argparse.Namespace) -> None:
    torch.zeros((), device=options.device)
    synchronize(options.device)
    forget_peak()
    before, started = resident_bytes(), time.perf_counter()
    llm = vp.load_model(options.load_alone, device_map=options.device, check=False)
    synchronize(options.device)
    seconds = time.perf_counter() - started
    parameters = sum(p.numel() for p in llm.model.parameters())
    print(json.dumps({"seconds": seconds, "host_bytes": max(0, peak_bytes() - before), "parameters": parameters}))


# All together ---------------------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace) -> tuple[list[str], dict[str, Any], bool]:
    model, processor, built = build(options)
    parameters = sum(p.numel() for p in model.parameters())
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    llm = vp.load_model((model, processor), name="random AF3 + PCLM")
    seconds = sorted(lengths(options.items, options.seconds))
    bench = benchmark_of(speak(seconds), name="clips")
    batches = []
    for start in range(0, len(bench), options.batch):
        items = list(bench)[start : start + options.batch]
        batches.append(llm.prepare(items, [item.audio.load() for item in items], DEFAULT_PROMPT))
    alone = model_alone(llm, batches, options)
    reached = matrix_throughput(options)
    with tempfile.TemporaryDirectory() as folder:
        runs = to_disk(llm, bench, options, Path(folder))
    rate = len(bench) / alone["bare_s"][1]
    share = alone["flops"] / alone["bare_s"][1] / reached
    more_time = alone["ratio"][1] - 1
    more_memory = alone["peak_bytes"]["recording"] / max(1, alone["peak_bytes"]["bare"]) - 1
    kept = {"time": more_time <= PROMISED_TIME, "memory": more_memory <= PROMISED_MEMORY}
    facts: dict[str, Any] = {
        "parameters": parameters, "weight_bytes": weights, "built": built, "alone": alone, "runs": runs,
        "matrix_flops": reached, "items_per_s": rate, "share": share,
    }  # fmt: skip
    lines = [
        headline(__file__, options.arguments, options.device),
        f"random AF3 + PCLM, {parameters / 1e6:.1f} million parameters, {megabytes(weights)} in"
        f" {str(llm.dtype).removeprefix('torch.')}; built in {built['seconds']:.1f} s, host memory"
        f" {megabytes(built['host_bytes'])}",
        f"{len(bench)} items, clips of {seconds[0]:.1f} .. {seconds[-1]:.1f} s, mean {np.mean(seconds):.1f} s, batches"
        f" of {options.batch}, {options.rounds} rounds;"
        f" {100 * alone['valid_share']:.0f} % of the encoded positions are valid",
        "",
        f"model alone: {rate:.2f} items/s; {alone['flops'] / len(bench) / 1e12:.2f} TFLOP an item;"
        f" {100 * share:.0f} % of {reached / 1e12:.1f} TFLOP/s that large products reach",
        f"means of {alone['sites']} layers: {100 * more_time:+.2f} % time"
        f" (quartiles {100 * (alone['ratio'][0] - 1):+.2f} .. {100 * (alone['ratio'][2] - 1):+.2f}),"
        f" {verdict(kept['time'], '3 %')};"
        f" {100 * more_memory:+.2f} % peak memory, {verdict(kept['memory'], '1 %')}",
        f"peak memory {alone['peak_bytes']['bare'] / GIB:.2f} GiB bare,"
        f" {alone['peak_bytes']['recording'] / GIB:.2f} GiB recording",
        "",
        table(
            ["from waveform to stored result", "items/s", "over answers"],
            [[n, f"{f['items_per_s']:.2f}", f"{100 * (f['ratio'][1] - 1):+.1f} %"] for n, f in runs.items()],
        ),
    ]
    if options.tiny:
        lines.insert(1, "a tiny model: it shows that everything works, its numbers mean nothing")
    if options.load is not None:
        more, facts["loading"], kept["host"] = loaded(model, processor, options, weights)
        lines += ["", *more]
    return lines, facts, all(kept.values())


def loaded(
    model: Any, processor: Any, options: argparse.Namespace, weights: int
) -> tuple[list[str], dict[str, Any], bool]:
    place = Path(options.load)
    place.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(place).free
    if free < 2.2 * weights:
        need, have = megabytes(2.2 * weights), megabytes(free)
        return [f"loading: not measured, {place} has {have} free and the checkpoint needs {need}"], {}, True
    target = place / "random-split"
    try:
        largest = write_checkpoint(model, processor, target, "200KB" if options.tiny else "2GB")
        found = loading(options, target)
    finally:
        shutil.rmtree(target, ignore_errors=True)
        shutil.rmtree(place / "random-split-hf", ignore_errors=True)
    share = found["host_bytes"] / largest
    good = share <= PROMISED_HOST or not options.device.startswith("cuda")
    line = (
        f"loading {megabytes(weights)}: {found['seconds']:.1f} s; host memory at most {megabytes(found['host_bytes'])}"
        f" above that after imports, {share:.2f} x the largest file of {megabytes(largest)}"
    )
    # Where the weights stay in host memory, there is nothing to promise.
    return (
        [line + (f", {verdict(good, '1.2 x')}" if options.device.startswith("cuda") else "")],
        {**found, "largest_file": largest},
        good,
    )


def verdict(kept: bool, promised: str) -> str:
    return f"promised {promised}: {'kept' if kept else 'NOT KEPT'}"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Audio Flamingo 3 + PCLM at full size, with random weights, on a GPU.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of a few megabytes: does it all work?")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--items", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=14.0, help="mean length of a clip")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, help="of the host; 1 on the CPU, up to 8 beside a GPU by default")
    parser.add_argument("--load", type=Path, help="also write a split checkpoint in this folder (40 GB) and load it")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    parser.add_argument("--load-alone", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    if options.tiny:
        options.items, options.rounds, options.batch = min(options.items, 4), min(options.rounds, 2), 2
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print(NO_DEVICE)
        return 0
    beside = min(8, os.cpu_count() or 1) if options.device.startswith("cuda") else 1
    torch.set_num_threads(options.threads or beside)
    if options.load_alone:
        load_alone(options)
        return 0
    lines, facts, kept = measure(options)
    report(lines, facts, options.json)
    return 0 if kept or options.tiny else 1


if __name__ == "__main__":
    sys.exit(main())
