"""Pooling and norm, gate text, BERT's pooling: short variants of the organism, trained here under a known convention.

`mini-pclm` is the start. A variant gets fresh parts where the convention is felt, trained under the value that is to
be found: middle projectors without the norm, on questions; a gate that reads a text, taught what the old gate gives; a
gate with another pooling of BERT, on questions, together with all the rest but the encoder. What calibration says of
each is written down as it was measured, and that is not always a decision: a gate that was taught the bare question, or
the mean over tokens, gives nearly the same weights when it is read otherwise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import vpanalysis as vp
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.models._live import set_conventions
from vpanalysis.models.processing import gate_inputs
from vpanalysis.organism.clips import mixed_items

pytestmark = [pytest.mark.train, pytest.mark.timeout(3600)]

START = "mini-pclm"


@pytest.fixture(scope="module")
def items() -> list[Any]:
    """Questions of the train split: words and voices of their own."""
    return list(mixed_items(3000, seed=7))


@pytest.fixture(scope="module")
def bench() -> Any:
    return vp.load_benchmark("mini")


def encoded(llm: Any, items: Sequence[Any]) -> list[Any]:
    """Encode clips as the model pools them now, in half precision."""
    clips: list[Any] = [None] * len(items)
    order = sorted(range(len(items)), key=lambda i: items[i].duration_s)
    for start in range(0, len(order), 32):
        rows = order[start : start + 32]
        for row, clip in zip(rows, llm.encode([items[i].audio.load() for i in rows]), strict=True):
            half = {name: state.half() for name, state in clip.streams.items()}
            clips[row] = dataclasses.replace(clip, streams=half)
        for row in rows:
            items[row].audio.release()
    return clips


def trained(
    groups: list[dict[str, Any]], losses: Callable[[np.random.Generator], torch.Tensor], steps: int, seed: int
) -> list[float]:
    """Take steps of AdamW, with a warm-up and a cosine, and return the losses."""
    rng = np.random.default_rng(seed)
    groups = [{**group, "base": group["lr"]} for group in groups]
    parameters = [p.requires_grad_(True) for group in groups for p in group["params"]]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.98))
    found = []
    for step in range(steps):
        share = min(1.0, (step + 1) / 30) * (0.05 + 0.95 * 0.5 * (1 + np.cos(np.pi * step / steps)))
        for group in optimiser.param_groups:
            group["lr"] = group["base"] * share
        loss = losses(rng)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        found.append(loss.item())
    for parameter in parameters:
        parameter.requires_grad_(False)
    return found


def fine_tune(llm: Any, items: Sequence[Any], *, language: float, projectors: float, gate: float, steps: int) -> None:
    """Train all but the encoder to name the letter of the truth."""
    clips = encoded(llm, items)
    lengths = np.array([sum(clip.windows) for clip in clips])
    kinds: dict[str, list[Any]] = {"gate": [], "projectors": [], "language": []}
    for name, parameter in llm.model.named_parameters():
        if "audio_tower" not in name:
            kind = "gate" if "pclm.gate" in name else "projectors" if "projector" in name else "language"
            kinds[kind].append(parameter)
    rates = {"gate": gate, "projectors": projectors, "language": language}

    def loss(rng: np.random.Generator) -> torch.Tensor:
        near = np.argsort(lengths + rng.uniform(0, 12, len(lengths)))
        start = 32 * int(rng.integers(len(near) // 32))
        rows = near[start : start + 32]
        asked = [items[i] for i in rows]
        batch = llm.prepare(asked, None, DEFAULT_PROMPT, encoded=[clips[i] for i in rows])
        letters = [item.letter_of(item.truth) for item in asked]
        tokens = torch.tensor([llm.letter_tokens([letter])[letter][0] for letter in letters])
        return functional.cross_entropy(llm._run(batch, None, 1)[:, -1].float(), tokens)

    llm.model.train()
    found = trained([{"params": kinds[k], "lr": rates[k]} for k in kinds], loss, steps, seed=0)
    llm.model.eval()
    assert np.mean(found[-30:]) < 0.7 * np.mean(found[:10])


def teach(llm: Any, items: Sequence[Any], steps: int = 600) -> None:
    """Teach a fresh gate, which reads its own text in its own way, the weights that the old one gives."""
    teacher = vp.load_model(START, calibration=False)
    with torch.no_grad():
        wanted = torch.cat([weights_of(teacher, items[i : i + 256]) for i in range(0, len(items), 256)])
    renew_gate(llm)

    def loss(rng: np.random.Generator) -> torch.Tensor:
        rows = rng.integers(len(items), size=64)
        given = weights_of(llm, [items[i] for i in rows]).clamp_min(1e-9)
        target = wanted[rows]
        return (target * (target.clamp_min(1e-9).log() - given.log())).sum(-1).mean()

    gate = llm.module_of("gate")
    gate.train()
    found = trained([{"params": list(gate.parameters()), "lr": 3e-3}], loss, steps, seed=0)
    gate.eval()
    assert np.mean(found[-30:]) < 0.3 * np.mean(found[:10])


def weights_of(llm: Any, items: Sequence[Any]) -> torch.Tensor:
    inputs = gate_inputs(llm.gate_tokenizer, [llm.gate_text(item, DEFAULT_PROMPT) for item in items])
    weights: torch.Tensor = llm.module_of("gate")(**inputs, batch=len(items))
    return weights


@torch.no_grad()
def renew_gate(llm: Any) -> None:
    torch.manual_seed(0)
    for module in llm.module_of("gate").modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.normal_(0.0, 0.05)
            module.bias.zero_()
        elif isinstance(module, torch.nn.Embedding):
            module.weight.normal_(0.0, 0.5)


@pytest.fixture
def variant() -> Iterator[Callable[..., Any]]:
    def made(**fields: str) -> Any:
        llm = vp.load_model(START, calibration=False)
        set_conventions(llm, fields)
        return llm

    yield made


def said(llm: Any, bench: Any, convention: str, limit: int) -> Any:
    """Calibrate one convention. The weights are in memory, so nothing may be saved for the files they came from."""
    found = vp.calibrate(llm, bench, limit=limit, conventions=[convention], save=False, progress=False)
    print(found)
    return found


def test_middle_layers_without_the_norm(variant: Any, items: list[Any], bench: Any) -> None:
    llm = variant(mid_pool="avg")
    torch.manual_seed(0)
    for module in llm.model.model.pclm.projectors.modules():
        if isinstance(module, torch.nn.Linear):
            module.reset_parameters()
    fine_tune(llm, items, language=3e-4, projectors=2e-3, gate=1e-3, steps=300)
    assert said(llm, bench, "mid_pool", 800).decided == {"mid_pool": "avg"}


def test_bert_read_at_its_first_token(variant: Any, items: list[Any], bench: Any) -> None:
    llm = variant(bert_pooling="cls")
    renew_gate(llm)
    fine_tune(llm, items, language=3e-4, projectors=1e-3, gate=2e-3, steps=300)
    assert said(llm, bench, "bert_pooling", 800).decided == {"bert_pooling": "cls"}


@pytest.mark.parametrize("text", ["question_options", "chat"])
def test_a_gate_that_reads_more_than_the_question(variant: Any, items: list[Any], bench: Any, text: str) -> None:
    llm = variant(gate_text=text)
    teach(llm, items)
    assert said(llm, bench, "gate_text", 400).decided == {"gate_text": text}


@pytest.mark.parametrize(("convention", "other"), [("gate_text", "question_options"), ("bert_pooling", "cls")])
def test_a_gate_that_does_not_care_is_not_decided(
    variant: Any, items: list[Any], bench: Any, convention: str, other: str
) -> None:
    """Taught the bare question and the mean over tokens, it gives nearly the same weights when it is read otherwise."""
    llm = variant()
    teach(llm, items)
    found = said(llm, bench, convention, 400)
    assert found.decided == {} and other in found.reasons[convention]


def test_the_bundled_checkpoint_needs_more_items_for_its_gate(bench: Any) -> None:
    """100 items do not decide which text mini-pclm-dpo's gate reads; 1000 do."""
    few, many = (
        vp.calibrate("mini", bench, limit=n, conventions=["gate_text"], save=False, progress=False) for n in (100, 1000)
    )
    assert few.decided == {} and many.decided == {"gate_text": "question"}
    assert np.ptp(many.comparisons[["low", "high"]].iloc[0]) < np.ptp(few.comparisons[["low", "high"]].iloc[0])
