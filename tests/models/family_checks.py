"""What every family must do, whatever its processor: the checks, to be called from one file a family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from vpanalysis import run
from vpanalysis.benchmark.audio import ArrayAudio
from vpanalysis.benchmark.items import Benchmark, Item
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.errors import ModelError
from vpanalysis.models.facade import AudioLLM
from vpanalysis.models.loading import load_model
from vpanalysis.probes import probe_layers

RATE = 16_000
QUESTIONS = {
    "What is the speaker's gender?": ("Female", "Male"),
    "Which pitch pattern best matches the audio?": ("high-medium-low", "low-medium-high", "medium-low-high"),
}


def waves_of(*seconds: float, seed: int = 0) -> list[Any]:
    """Noise, one clip per length in seconds."""
    generator = np.random.default_rng(seed)
    return [(0.1 * generator.standard_normal(round(RATE * s))).astype(np.float32) for s in seconds]


def items_of(waves: Sequence[Any]) -> list[Item]:
    """A question about each clip; the two kinds take turns, and so do truths."""
    made = []
    for i, wave in enumerate(waves):
        question, choices = list(QUESTIONS.items())[i % 2]
        truth, other = choices[(i // 2) % 2], choices[1 - (i // 2) % 2]
        made.append(
            Item(
                id=f"item-{i}",
                task_name=f"task-{i % 2}",
                question=question,
                choices=choices,
                letters=tuple("ABC"[: len(choices)]),
                truth=truth,
                said=(other,),
                condition="conflict",
                foils=(other,),
                audio=ArrayAudio(wave),
                speaker=f"speaker-{i % 4}",
                cell=f"cell-{i}",
            )
        )
    return made


def hooks_on(model: Any) -> int:
    """How many hooks there are on a model."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def stock_logits(llm: AudioLLM, inputs: dict[str, Any]) -> torch.Tensor:
    """The model's own forward on the processor's own inputs, one row per item, as `generate` counts positions."""
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with torch.inference_mode():
        if llm.family.keeps_logits:
            return llm.model(**inputs, position_ids=positions, use_cache=False, logits_to_keep=1).logits[:, -1].float()
        # Matrix products of other shapes differ in their last bits, so bits are compared at one position.
        seen: list[torch.Tensor] = []
        handle = llm.model.lm_head.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
        whole = llm.model(**inputs, position_ids=positions, use_cache=False).logits[:, -1].float()
        handle.remove()
        logits = llm.model.lm_head(seen[0][:, -1:])[:, -1].float()
        torch.testing.assert_close(logits, whole, atol=1e-5 if llm.dtype == torch.float32 else 0.05, rtol=0)
        return logits


def raw_states(model: Any, paths: dict[str, str], inputs: dict[str, Any]) -> tuple[dict[str, Any], torch.Tensor]:
    """Outputs of modules in one plain forward, by site; a path that begins with ``>`` means that module's input."""
    seen: dict[str, Any] = {}
    handles = []
    for site, path in paths.items():
        module = model.get_submodule(path.removeprefix(">"))

        def after(_module: Any, _args: Any, output: Any, site: str = site) -> None:
            first = output[0] if isinstance(output, tuple) else getattr(output, "last_hidden_state", output)
            seen[site] = first

        def before(_module: Any, args: Any, kwargs: Any, site: str = site) -> None:
            seen[site] = args[0] if args else kwargs["hidden_states"]

        handles.append(
            module.register_forward_pre_hook(before, with_kwargs=True)
            if path.startswith(">")
            else module.register_forward_hook(after)
        )
    try:
        with torch.inference_mode():
            logits = model(**inputs, use_cache=False).logits[0, -1].float()
    finally:
        for handle in handles:
            handle.remove()
    return seen, logits


def layer_paths(
    encoder: int, text: int, tower: str = "model.audio_tower", language: str = "model.language_model"
) -> dict[str, str]:
    """Where layers are in all of these models."""
    return {
        "encoder.stem": f">{tower}.layers.0",
        **{f"encoder[{i}]": f"{tower}.layers.{i}" for i in range(encoder)},
        "text.embed": f">{language}.layers.0",
        **{f"text[{i}]": f"{language}.layers.{i}" for i in range(text)},
    }


def check_forward_is_stock(built: Any, waves: Sequence[Any], stock_inputs: Any) -> None:
    """Direct and replayed forwards equal the stock one on the stock processor's inputs, and so does `generate`.

    `stock_inputs(prompts, waves)` is the family's processor, used as its documentation says.
    """
    items = items_of(waves)
    for dtype in (torch.float32, torch.bfloat16):  # the model is left in bfloat16
        model = built.model.to(dtype)
        for trim in (False, True):
            llm = AudioLLM(model, built.processor, name="tiny", trim=trim)
            batch = llm.prepare(items, waves, DEFAULT_PROMPT)
            inputs = stock_inputs([llm.prompt(item, DEFAULT_PROMPT) for item in items], waves)
            inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
            wanted = stock_logits(llm, inputs)
            assert set(inputs) == set(batch.inputs)
            assert torch.equal(inputs["input_ids"], batch.inputs["input_ids"])
            assert torch.equal(inputs["attention_mask"], batch.inputs["attention_mask"].to(torch.long))
            if not trim:
                for name, tensor in inputs.items():
                    assert torch.equal(tensor, batch.inputs[name].to(tensor.dtype)), name
            encoded = llm.encode(waves)
            replayed = llm.prepare(items, None, DEFAULT_PROMPT, encoded=encoded)
            assert replayed.layout == batch.layout == llm.layout(waves)
            for logits in (llm.forward(batch), llm.forward(replayed)):
                if not trim:
                    assert torch.equal(logits, wanted)
                elif dtype == torch.float32:
                    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=0)
            # Each clip by itself, as far as Hugging Face's own forward does not depend on the batch.
            if dtype == torch.float32:
                for i, wave in enumerate(waves):
                    alone = llm.forward(llm.prepare([items[i]], [wave], DEFAULT_PROMPT))
                    torch.testing.assert_close(alone[0], wanted[i], atol=2e-5, rtol=0)
                by_hand = built.model.generate(**inputs, max_new_tokens=4, do_sample=False)
                by_hand = [
                    "(" + llm.tokenizer.decode(row, skip_special_tokens=True)
                    for row in by_hand[:, inputs["input_ids"].shape[1] :]
                ]
                assert llm.generate(batch, 4) == by_hand == llm.generate(replayed, 4)
    assert hooks_on(built.model) == 0


def check_the_clip_matters(built: Any, waves: Sequence[Any]) -> None:
    """Other clips, other logits; the same clip at another place of the batch, the same logits."""
    llm = AudioLLM(built.model, built.processor, name="tiny")
    item = items_of(waves)[0]
    logits = llm.forward(llm.prepare([item] * 3, [waves[0], waves[1], waves[0]], DEFAULT_PROMPT))
    assert (logits[0] - logits[1]).abs().max() > 1e-3
    torch.testing.assert_close(logits[0], logits[2], atol=1e-5, rtol=0)
    replayed = llm.forward(
        llm.prepare([item] * 3, None, DEFAULT_PROMPT, encoded=llm.encode([waves[0], waves[1], waves[0]]))
    )
    torch.testing.assert_close(replayed, logits, atol=1e-5, rtol=0)


def check_options_and_answers(built: Any, waves: Sequence[Any]) -> None:
    """Option scores are those of the letters' tokens; answers score what a forward over their tokens gives."""
    llm = AudioLLM(built.model, built.processor, name="tiny")
    items = items_of(waves)
    batch = llm.prepare(items, waves, DEFAULT_PROMPT)
    logits = llm.forward(batch)
    for item, row, scores in zip(items, logits, llm.option_logprobs(batch, logits), strict=True):
        tokens = [llm.tokenizer.convert_tokens_to_ids(letter) for letter in item.letters]
        torch.testing.assert_close(scores, torch.log_softmax(row[tokens], 0))
    answers = [item.choices[1] for item in items]
    given = llm.prepare(items, waves, DEFAULT_PROMPT, answers=answers)
    scores = llm.answer_logprobs(given)
    for i, count in enumerate(given.answer_tokens):
        alone = llm.prepare([items[i]], [waves[i]], DEFAULT_PROMPT, answers=[answers[i]])
        with torch.inference_mode():
            whole = torch.log_softmax(llm.model(**alone.inputs, use_cache=False).logits[0].float(), -1)
        targets = alone.inputs["input_ids"][0, -count:]
        wanted = whole[-count - 1 : -1].gather(-1, targets[:, None]).sum()
        torch.testing.assert_close(scores[i], wanted, atol=1e-4, rtol=0)


def check_wrong_processors(built: Any, others: Sequence[Any]) -> None:
    """A processor of another model is refused in a sentence."""
    for other in others:
        with pytest.raises(ModelError, match=r"cannot use the (processor|feature extractor)"):
            AudioLLM(built.model, other, name="tiny")


def check_saved_and_loaded(built: Any, waves: Sequence[Any], folder: Any) -> AudioLLM:
    """What Hugging Face saves, `load_model` loads."""
    built.model.save_pretrained(folder)
    built.processor.save_pretrained(folder)
    items = items_of(waves)
    here, there = AudioLLM(built.model, built.processor, name="tiny"), load_model(folder)
    assert there.family == here.family and there.source == str(folder)
    a, b = (llm.forward(llm.prepare(items, waves, DEFAULT_PROMPT)) for llm in (here, there))
    torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
    assert there.encoder_sha == here.encoder_sha
    assert there.weights_sha == here.weights_sha
    return there


def check_run(built: Any, seconds: Sequence[float], by_hand: Any, folder: Any) -> None:
    """A Run holds means over what `by_hand(llm, item)` says the valid frames are, and can be probed.

    `by_hand` returns states by site: frames by width, valid ones alone, from raw hooks on modules of the model.
    """
    waves = waves_of(*seconds, seed=3)
    items = items_of(waves)
    llm = AudioLLM(built.model, built.processor, name="tiny")
    before = hooks_on(built.model)
    made = run(
        llm,
        Benchmark(items, name="noise", source="by hand"),
        folder / "run",
        block_size=5,
        batch_size=3,
        progress=False,
        cache=folder / "cache",
        reducers=["mean", "last", "segments(2)"],
        generate=True,
        text_scores=True,
    )
    assert set(made.sites) == set(llm.sites)
    frame = made.predictions
    assert isinstance(frame, pd.DataFrame) and list(frame["status"]) == ["ok"] * len(items)
    for row, item in enumerate(items):
        states, logits = by_hand(llm, item)
        assert set(states) == set(llm.sites) - {"options"}
        batch = llm.prepare([item], [item.audio.load()], DEFAULT_PROMPT)
        np.testing.assert_allclose(
            frame["option_logprobs"][row], llm.option_logprobs(batch, logits[None])[0], atol=2e-5
        )
        for site, frames in states.items():
            scale = float(frames.abs().max())
            np.testing.assert_allclose(made.states(site, "mean")[row], frames.mean(0), atol=2e-5 * scale, err_msg=site)
            np.testing.assert_allclose(made.states(site, "last")[row], frames[-1], atol=2e-5 * scale, err_msg=site)
            if len(frames) % 2 == 0:
                halves = frames.reshape(2, len(frames) // 2, -1).mean(1)
                np.testing.assert_allclose(made.states(site, "segments")[row], halves, atol=2e-5 * scale, err_msg=site)
    # The second time everything comes from the cache, by replay.
    again = run(
        llm,
        Benchmark(items, name="noise", source="by hand"),
        folder / "again",
        block_size=4,
        batch_size=2,
        progress=False,
        cache=folder / "cache",
    )
    for a, b in zip(frame["option_logprobs"], again.predictions["option_logprobs"], strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    probed = probe_layers(made, "truth", reducer="mean", group_by="speaker", n_splits=2, progress=False).table
    assert {"tower", "encoder[0]", "projector", "text[0]"} <= set(probed["site"])
    # So few items may leave one class to train on; such a cell is empty and says so.
    assert (probed["accuracy"].between(0, 1) | probed["note"].str.contains("one class only")).all()
    layers = np.stack([made.states(site, "mean") for site in ("encoder[0]", "encoder[1]")], axis=1)
    number = np.arange(len(items))
    alone = probe_layers(layers, number % 2, groups=number // 2, n_splits=2, shuffles=0, progress=False).table
    assert len(alone) == 2 and alone["accuracy"].between(0, 1).all()
    assert hooks_on(built.model) == before == 0
