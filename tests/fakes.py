"""A tiny audio language model with the facade's attributes, for tests that need a model and not its quality.

It has everything that makes recording hard: windows, padding that is not zero, states that depend on a whole clip, a
gate that reads the prompt, text padded on the left. It costs a millisecond a batch.
"""

from __future__ import annotations

import hashlib
import math
import time
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from vpanalysis.benchmark.audio import ArrayAudio
from vpanalysis.benchmark.items import Benchmark, Item
from vpanalysis.models.batch import Batch, EncodedClip, Layout, stack_clips

# Tiny tensors lose by threads, and last bits depend on how many there are.
torch.set_num_threads(1)

RATE, HOP, WINDOW = 16_000, 320, 32_000
D_AUDIO, D_TEXT, VOCABULARY = 16, 12, 128


class _Encoder(nn.Module):
    """Frames of 20 ms; every layer mixes over the valid frames of its row."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.stem = nn.Linear(HOP, D_AUDIO)
        self.layers = nn.ModuleList(_Mix() for _ in range(layers))
        self.tower = _Pool()

    def forward(self, features, lengths):
        x = self.stem(features)
        valid = torch.arange(x.shape[1])[None, :, None] < lengths[:, None, None]
        kept = []
        for layer in self.layers:
            x = layer(x, valid)
            kept.append(x)
        return self.tower(x)[0], kept


class _Mix(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own, self.others = nn.Linear(D_AUDIO, D_AUDIO), nn.Linear(D_AUDIO, D_AUDIO)

    def forward(self, x, valid):
        mean = (x * valid).sum(1, keepdim=True) / valid.sum(1, keepdim=True).clamp(min=1)
        return x + torch.tanh(self.own(x) + self.others(mean))


class _Pool(nn.Module):
    def forward(self, x):
        return (nn.functional.avg_pool1d(x.transpose(1, 2), 2).transpose(1, 2),)


class _Gate(nn.Module):
    def __init__(self, streams: int) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, streams)

    def forward(self, prompts):
        rows = [self.table(torch.tensor([ord(c) % VOCABULARY for c in p])).mean(0) for p in prompts]
        return torch.softmax(torch.stack(rows) * 3, dim=-1)


class _Sum(nn.Module):
    def forward(self, streams, weights):
        return sum(s * w[:, None, None] for s, w in zip(streams, weights.unbind(1), strict=True))


class _Text(nn.Module):
    """A causal running mean over real positions."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D_TEXT, D_TEXT)

    def forward(self, x, mask):
        x = x * mask[:, :, None]
        mean = x.cumsum(1) / mask.cumsum(1).clamp(min=1)[:, :, None]
        return (torch.tanh(self.linear(mean)) + x,)


class _Net(nn.Module):
    def __init__(self, layers: int, streams: int, seed: int, head_seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = _Encoder(layers)
        torch.manual_seed(head_seed)
        self.projectors = nn.ModuleList(nn.Linear(D_AUDIO, D_TEXT) for _ in range(streams))
        self.gate, self.mix = _Gate(streams), _Sum()
        self.embed, self.merge = nn.Embedding(VOCABULARY, D_TEXT), nn.Identity()
        self.text = nn.ModuleList(_Text() for _ in range(2))
        self.head = nn.Linear(D_TEXT, VOCABULARY)


class FakeLLM:
    """Stands in for `vpanalysis.models.facade.AudioLLM`.

    Parameters
    ----------
    seed : int
        Of the encoder's weights.
    head_seed : int
        Of everything behind it: two models that share an encoder differ here.
    delay_s : float
        Sleep in every forward, so that a kill finds work in progress.
    """

    def __init__(
        self, name="fake", *, seed=0, head_seed=0, layers=3, exposed=("encoder[0]",), delay_s=0.0, fail_on=None
    ) -> None:
        self.name, self.delay_s, self.fail_on = name, delay_s, fail_on
        self.stream_inputs = (*exposed, "tower")
        self.streams = self.stream_inputs
        self.model = _Net(layers, len(self.streams), seed, head_seed).eval()
        self.family = SimpleNamespace(name="fake")
        self.tokenizer = lambda text: {"input_ids": [ord(c) % VOCABULARY for c in text]}
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.max_seconds, self.seconds_per_frame = WINDOW / RATE, (0.02, 0.04)
        self.seconds_per_token = 0.04
        self.answers = True
        self.sites = (
            "encoder.stem", *(f"encoder[{i}]" for i in range(layers)), "tower",
            *(f"streams[{k}]" for k in range(len(self.streams))), "gate", "mixed",
            "text.embed", "text[0]", "text[1]", "options",
        )  # fmt: skip
        self.weights_sha = {"encoder": self._sha(self.model.encoder), "rest": self._sha(self.model)}
        self.encoder_sha = self.weights_sha["encoder"]
        self.letter_report: dict[str, str] = {}
        self.encoded = 0
        self.forwards = 0

    @staticmethod
    def _sha(module) -> str:
        digest = hashlib.sha256()
        for name, value in sorted(module.state_dict().items()):
            digest.update(name.encode() + value.numpy().tobytes())
        return digest.hexdigest()

    def module_of(self, site):
        net = self.model
        named = {
            "encoder.stem": net.encoder.stem, "tower": net.encoder.tower, "gate": net.gate, "mixed": net.mix,
            "text.embed": net.merge,
        }  # fmt: skip
        if site in named:
            return named[site]
        family, index = site.rstrip("]").split("[")
        return {"encoder": net.encoder.layers, "streams": net.projectors, "text": net.text}[family][int(index)]

    def layout(self, waves):
        windows = [[min(WINDOW, len(w) - s) for s in range(0, max(len(w), 1), WINDOW)] for w in waves]
        positions = tuple(tuple(math.ceil(n / HOP) for n in clip) for clip in windows)
        return Layout(tuple(tuple(n // 2 for n in clip) for clip in positions), positions)

    @torch.inference_mode()
    def encode(self, waves, streams=None):
        names = tuple(streams or self.stream_inputs)
        layout = self.layout(waves)
        rows = torch.zeros(len(layout.row_positions), WINDOW // HOP, HOP)
        pieces = [w[s : s + WINDOW] for w in waves for s in range(0, max(len(w), 1), WINDOW)]
        for row, piece in enumerate(pieces):
            flat = rows[row].reshape(-1)
            flat[: len(piece)] = torch.from_numpy(np.array(piece))
        self.encoded += len(waves)
        tower, kept = self.model.encoder(rows, torch.tensor(layout.row_positions))
        states = {"tower": tower}
        for name in names:
            if name != "tower":
                states[name] = self.model.encoder.tower.forward(kept[int(name[8:-1])])[0]
        clips, row = [], 0
        for frames in layout.frames:
            parts = {n: [states[n][row + i, :f] for i, f in enumerate(frames)] for n in names}
            clips.append(EncodedClip({n: torch.cat(p) for n, p in parts.items()}, frames))
            row += len(frames)
        return clips

    def prompt(self, item, template):
        return template.render(item) + template.answer_prefix

    def prepare(self, items, waves, template, *, answers=None, encoded=None):
        if encoded is None:
            encoded = self.encode(waves)
        layout = Layout(tuple(c.windows for c in encoded), tuple(tuple(2 * n for n in c.windows) for c in encoded))
        prompts = tuple(self.prompt(item, template) for item in items)
        tails = [""] * len(items)
        if answers is not None:
            tails = [template.answer(i, a).removeprefix("(") for i, a in zip(items, answers, strict=True)]
        rows = [
            [0] * n + [ord(c) % VOCABULARY for c in p + t]
            for n, p, t in zip(layout.audio_tokens, prompts, tails, strict=True)
        ]
        width = max(map(len, rows))
        ids = torch.tensor([[1] * (width - len(r)) + r for r in rows])
        mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
        return Batch(
            tuple(items), {"input_ids": ids, "attention_mask": mask}, prompts, "(", layout, tuple(encoded),
            tuple(len(t) for t in tails),
        )  # fmt: skip

    @torch.inference_mode()
    def _logits(self, batch):
        time.sleep(self.delay_s)
        self.forwards += 1
        if self.fail_on is not None and any(item.id == self.fail_on for item in batch.items):
            raise RuntimeError("the model failed")
        net = self.model
        streams = [p(stack_clips(batch.encoded, n)) for p, n in zip(net.projectors, self.stream_inputs, strict=True)]
        weights = net.gate([item.question for item in batch.items])
        weights = weights[torch.tensor(batch.row_items)]
        audio = net.mix(streams, weights)
        valid = torch.arange(audio.shape[1])[None, :] < torch.tensor(batch.row_frames)[:, None]
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        x = net.embed(ids)
        x = net.merge(x.masked_scatter(((ids == 0) & (mask == 1))[:, :, None].expand_as(x), audio[valid]))
        for layer in net.text:
            x = layer(x, mask)[0]
        return net.head(x)

    def forward(self, batch, encoded=None):
        return self._logits(batch)[:, -1].float()

    def answer_logprobs(self, batch, encoded=None):
        logits = torch.log_softmax(self._logits(batch), -1)
        ids = batch.inputs["input_ids"]
        rows = []
        for row, n in enumerate(batch.answer_tokens):
            rows.append(logits[row, -n - 1 : -1].gather(-1, ids[row, -n:, None]).sum())
        return torch.stack(rows)

    def letter_tokens(self, letters):
        self.letter_report |= dict.fromkeys(letters, "one token")
        return {letter: (ord(letter),) for letter in letters}

    def option_logprobs(self, batch, logits):
        return [
            torch.log_softmax(row[[ord(letter) for letter in item.letters]], 0)
            for item, row in zip(batch.items, logits, strict=True)
        ]

    def generate(self, batch, max_new_tokens=16, encoded=None):
        best = [int(row.argmax()) for row in self.option_logprobs(batch, self.forward(batch))]
        return [f"({item.letters[b]}): {item.choices[b]}." for item, b in zip(batch.items, best, strict=True)]


class CountingAudio(ArrayAudio):
    """A clip that counts how often it was decoded."""

    loads = 0

    def load(self):
        CountingAudio.loads += 1
        return super().load()


def make_benchmark(count=20, *, seed=0, longest_s=1.4, bad=(), long=()) -> Benchmark:
    """Items with noise for clips; `bad` and `long` are places of unusable clips and of clips of several windows."""
    rng = np.random.default_rng(seed)
    items = []
    for i in range(count):
        samples = int(rng.uniform(0.2, longest_s) * RATE)
        if i in long:
            samples = int(2.3 * WINDOW)
        wave = rng.normal(scale=0.1, size=samples).astype(np.float32)
        if i in bad:
            wave[len(wave) // 2] = np.nan
        conflict = i % 2 == 0
        truth, other = ("Female", "Male") if rng.integers(2) else ("Male", "Female")
        items.append(
            Item(
                id=f"item-{i:03d}", task_name=("gender_prediction", "age_prediction")[i % 2],
                question=f"What is the speaker's {('gender', 'sex')[i % 2]}?", choices=("Female", "Male"),
                letters=("A", "B"), truth=truth, said=(other,) if conflict else (truth,),
                condition="conflict" if conflict else "congruent", foils=(other,), audio=CountingAudio(wave),
                cell=f"cell-{i // 2}", speaker=f"speaker-{i % 5}", script=None, transcript="<b>words</b>",
            )
        )  # fmt: skip
    return Benchmark(items, name="fake-bench", source="by hand")
