"""How many items a second are answered, from decoded waveform to stored result?

``python benchmarks/evaluation.py`` asks a random Audio Flamingo 3 about clips of 1.44 to 28.3 s, in four ways that take
turns in one process:

* ``run``, which encodes the frames that exist (``trim``) and reads the options' logits from one forward;
* ``run`` with ``trim=False``, which encodes windows of 30 s;
* the stock padded path at the same batch size: Hugging Face's processor, which pads to 30 s, one stock forward for the
  logits at the answer position, a line of JSON for each item;
* the practice of reference scripts: stock ``generate`` with one item at a time, greedy, 16 tokens at most.

Lengths are ``1.44 s + 26.86 s * Beta(2, b)``, evenly spaced quantiles in random order, b chosen for a mean of 4 s (as
in the bundled benchmark) and of 14 s. A third set asks several questions about each clip, which is then encoded once.

Speed means nothing where answers differ, so the stock path's logits and answers are compared with ours in float32 and
bfloat16. Promised: 4 times the items a second of the stock padded path at 4 s and 1.5 times at 14 s, 8 times those of
``generate`` at 4 s. The exit code is 1 where a promise is not kept.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _shared import (
    TINY,
    Size,
    Times,
    benchmark_of,
    headline,
    in_rounds,
    lengths,
    quartiles,
    random_model,
    report,
    speak,
    table,
)
from transformers import GenerationConfig

import vpanalysis as vp
from vpanalysis.benchmark import Benchmark, Item
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.models.facade import AudioLLM

PROMISES: dict[tuple[str, str], float] = {
    ("4 s", "stock, padded"): 4.0,
    ("14 s", "stock, padded"): 1.5,
    ("4 s", "generate, one at a time"): 8.0,
}
"""How many times as fast ``run`` is, by set and contender."""

OURS = "run"


@dataclass
class Field:
    """One set of clips, one model, and the ways to get answers."""

    name: str
    bench: Benchmark
    llm: AudioLLM
    padded: AudioLLM
    options: argparse.Namespace
    folder: Path

    def __post_init__(self) -> None:
        self.numbers = itertools.count()
        self.texts = [self.llm.prompt(item, DEFAULT_PROMPT) for item in self.bench]
        self.letters = [
            [self.llm.letter_tokens(item.letters)[letter][0] for letter in item.letters] for item in self.bench
        ]

    def contenders(self) -> dict[str, Callable[[], Any]]:
        found: dict[str, Callable[[], Any]] = {
            OURS: lambda: self.run(self.llm, sites="options"),
            "run, all sites recorded": lambda: self.run(self.llm),
            "run, trim=False": lambda: self.run(self.padded, sites="options"),
            "stock, padded": self.stock,
        }
        if not self.options.no_generate:
            found["generate, one at a time"] = self.generate
        return found

    # The contenders ---------------------------------------------------------------------------------------------------

    def run(self, llm: AudioLLM, **more: Any) -> vp.Run:
        out = self.folder / f"{self.name}-{next(self.numbers)}"
        return vp.run(
            llm, self.bench, out, batch_size=self.options.batch, cache=None, progress=False, **more
        )  # fmt: skip

    def stock(self) -> list[str]:
        """Answer by Hugging Face's processor and forward, batch by batch in the order of the items."""
        chosen = []
        with (self.folder / f"{self.name}-{next(self.numbers)}.jsonl").open("w", encoding="utf-8") as out:
            for rows in self.batches():
                logits = self.stock_logits(rows)
                for row, scores in zip(rows, logits, strict=True):
                    item: Item = self.bench[row]
                    options = torch.log_softmax(scores[self.letters[row]], dim=0).tolist()
                    chosen.append(item.choices[int(np.argmax(options))])
                    out.write(json.dumps({"id": item.id, "option_logprobs": options, "answer": chosen[-1]}) + "\n")
        return chosen

    def batches(self) -> list[list[int]]:
        size = self.options.batch
        return [list(range(i, min(len(self.bench), i + size))) for i in range(0, len(self.bench), size)]

    @torch.inference_mode()
    def stock_logits(self, rows: Sequence[int]) -> torch.Tensor:
        inputs = self.stock_inputs(rows)
        return self.llm.model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1].float().cpu()  # type: ignore[no-any-return]

    def stock_inputs(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        audio = [self.bench[row].audio.load() for row in rows]
        made = self.llm.processor(text=[self.texts[row] for row in rows], audio=audio)
        return {
            name: tensor.to(self.llm.device, self.llm.dtype if tensor.is_floating_point() else None)
            for name, tensor in made.items()
        }

    @torch.inference_mode()
    def generate(self) -> list[int]:
        """Answer by stock generation, one item at a time; return the first token of each reply."""
        config = GenerationConfig(
            max_new_tokens=16,
            do_sample=False,
            eos_token_id=self.llm.tokenizer.eos_token_id,
            pad_token_id=self.llm.tokenizer.pad_token_id,
        )
        first = []
        with (self.folder / f"{self.name}-{next(self.numbers)}.jsonl").open("w", encoding="utf-8") as out:
            for row, item in enumerate(self.bench):
                inputs = self.stock_inputs([row])
                tokens = self.llm.model.generate(**inputs, generation_config=config)
                tokens = tokens[0, inputs["input_ids"].shape[1] :].tolist()
                first.append(tokens[0])
                reply = self.llm.tokenizer.decode(tokens, skip_special_tokens=True)
                out.write(json.dumps({"id": item.id, "prediction": reply}) + "\n")
        return first

    # Agreement --------------------------------------------------------------------------------------------------------

    def our_logits(self, llm: AudioLLM, rows: Sequence[int]) -> torch.Tensor:
        items = [self.bench[row] for row in rows]
        clips = llm.encode([item.audio.load() for item in items])
        return llm.forward(llm.prepare(items, None, DEFAULT_PROMPT, encoded=clips)).cpu()

    def answers(self, count: int) -> dict[str, torch.Tensor]:
        """Return the logits at the answer position of the first items, by every way that has them."""
        batches = self.batches()[: -(-count // self.options.batch)]
        return {
            "trimmed": torch.cat([self.our_logits(self.llm, rows) for rows in batches]),
            "trim=False": torch.cat([self.our_logits(self.padded, rows) for rows in batches]),
            "stock": torch.cat([self.stock_logits(rows) for rows in batches]),
        }

    def compare(self, one: torch.Tensor, other: torch.Tensor) -> dict[str, float]:
        """Return how far logits lie apart, and on which share of the items the best option differs."""
        pairs = list(zip(self.best(one), self.best(other), strict=True))
        return {
            "largest_difference": float((one - other).abs().max()),
            "changed": float(np.mean([a != b for a, b in pairs])),
            "items": len(pairs),
        }

    def best(self, logits: torch.Tensor) -> list[int]:
        return [int(scores[tokens].argmax()) for scores, tokens in zip(logits, self.letters, strict=False)]


# Measuring ------------------------------------------------------------------------------------------------------------


def timed(field: Field, options: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    # Kernels, caches and hashes of weights are warm after a few items.
    small = replace(field, name=f"{field.name} warm", bench=field.bench[: options.batch // 4 + 1])
    for contend in small.contenders().values():
        contend()
    times = in_rounds(field.contenders(), options.rounds, warm_up=0, device=options.device)
    count = len(field.bench)
    facts: dict[str, Any] = {}
    rows = []
    for name, found in times.items():
        ratio = gain(found, times[OURS], options.device)
        seconds = quartiles(found.wall)[1]
        facts[name] = {"items_per_s": count / seconds, "cpu_s": quartiles(found.cpu)[1], "gain": ratio}
        rows.append([
            name, f"{count / seconds:.2f}", f"{count / facts[name]['cpu_s']:.2f}",
            "" if name == OURS else f"{ratio[1]:.2f}", "" if name == OURS else f"{ratio[0]:.2f} .. {ratio[2]:.2f}",
            promise(field.name, name, ratio[1]),
        ])  # fmt: skip
    head = ["way", "items/s", "items/cpu s", "run is faster", "quartiles", "promised"]
    return [table(head, rows)], facts


def gain(other: Times, ours: Times, device: str) -> tuple[float, float, float]:
    """Return how many times as long the other took, within rounds: of the processor on a CPU, of the clock on a GPU."""
    return other.ratio(ours) if device.startswith("cuda") else other.cpu_ratio(ours)


def promise(field: str, name: str, ratio: float) -> str:
    wanted = PROMISES.get((field, name))
    if wanted is None:
        return ""
    return f"{wanted:g}: {'kept' if ratio >= wanted else 'NOT KEPT'}"


def agreement(field: Field, options: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    """Compare the answers of all ways, in float32 and bfloat16."""
    logits = {}
    for dtype in ("float32", "bfloat16"):
        # A copy: weights that were rounded to bfloat16 do not come back.
        loaded = (deepcopy(field.llm.model).to(getattr(torch, dtype)), field.llm.processor)
        same = replace(field, llm=vp.load_model(loaded), padded=vp.load_model(loaded, trim=False))
        logits[dtype] = same.answers(options.agreement_items)
    pairs = [(dtype, one, dtype, other) for dtype in logits for one, other in (
        ("trimmed", "trim=False"), ("trimmed", "stock"), ("trim=False", "stock"))]  # fmt: skip
    facts = {
        f"{a} {one} / {b} {other}": field.compare(logits[a][one], logits[b][other])
        for a, one, b, other in (*pairs, ("bfloat16", "stock", "float32", "stock"))
    }
    rows = [
        [name, f"{found['largest_difference']:.1e}", f"{100 * found['changed']:.1f} %"] for name, found in facts.items()
    ]
    spread = float(logits["float32"]["stock"].std())
    count = len(logits["float32"]["stock"])
    head = [f"answers of {count} items", "largest logit difference", "best option differs"]
    note = f"the logits' standard deviation: {spread:.2f}; stock counts positions from the padding, run from the text"
    return [table(head, rows), note], {"pairs": facts, "spread": spread}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Items a second, from decoded waveform to stored result.")
    parser.add_argument("--encoder-layers", type=int, default=12)
    parser.add_argument("--encoder-width", type=int, default=256)
    parser.add_argument("--text-layers", type=int, default=8)
    parser.add_argument("--text-width", type=int, default=256)
    parser.add_argument("--items", type=int, default=64)
    parser.add_argument("--each", type=int, default=4, help="questions about each clip, in the third set")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--sets", nargs="+", default=["4 s", "14 s", "several"], choices=["4 s", "14 s", "several"])
    parser.add_argument("--no-generate", action="store_true")
    parser.add_argument("--no-agreement", action="store_true")
    parser.add_argument("--agreement-items", type=int, default=32, help="items whose answers are compared")
    parser.add_argument("--quick", action="store_true", help="a tiny model and one round: does it all work?")
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    options = parser.parse_args(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    if options.quick:
        options.items, options.rounds, options.batch, options.each = 4, 1, 2, 2
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    size = TINY if options.quick else Size(
        options.encoder_layers, options.encoder_width, options.text_layers, options.text_width
    )  # fmt: skip
    model, processor = random_model(size)
    model = model.to(options.device, getattr(torch, options.dtype))
    llm = vp.load_model((model, processor), name="random AF3")
    padded = vp.load_model((model, processor), name="random AF3, padded", trim=False)
    lines = [
        headline(__file__, options.arguments, options.device),
        f"random AF3: encoder {size.encoder_layers} x {size.encoder_width},"
        f" text {size.text_layers} x {size.text_width}, {len(llm.tokenizer)} words, {options.dtype};"
        f" {options.items} items, batches of {options.batch}, {options.rounds} rounds",
        f"gains: median over rounds of the ratio of {'wall' if options.device.startswith('cuda') else 'processor'}"
        " times within a round",
    ]
    if options.quick:
        lines.append("a tiny model: it shows that everything works, its numbers mean nothing")
    print("\n".join(lines), flush=True)
    facts: dict[str, Any] = {}
    kept = True
    with tempfile.TemporaryDirectory() as folder:
        for name in options.sets:
            each = options.each if name == "several" else 1
            mean = 14.0 if name == "14 s" else 4.0
            seconds = lengths(max(1, options.items // each), mean)
            bench = benchmark_of(speak(list(seconds)), name=name.replace(" ", ""), each=each)
            field = Field(name, bench, llm, padded, options, Path(folder))
            asked = f", each asked {each} questions" if each > 1 else ""
            shortest, longest = np.min(seconds), np.max(seconds)
            about = f"{len(seconds)} clips{asked}, mean {np.mean(seconds):.2f} s, {shortest:.2f} .. {longest:.2f} s"
            found, facts[name] = timed(field, options)
            print("\n".join(["", about, "", *found]), flush=True)
            kept &= all(
                facts[name][other]["gain"][1] >= wanted
                for (place, other), wanted in PROMISES.items()
                if place == name and other in facts[name]
            )
            if not options.no_agreement:
                found, facts[name]["agreement"] = agreement(field, options)
                print("\n".join(["", *found]), flush=True)
    report([], facts, options.json)
    return 0 if kept or options.quick else 1


if __name__ == "__main__":
    sys.exit(main())
