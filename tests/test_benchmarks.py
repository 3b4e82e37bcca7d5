"""The benchmarks run, on tiny models; and what they compare by sees a difference."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from vpanalysis import open_run

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def scripts() -> Any:
    """The scripts as modules, imported as they import each other."""
    names = ("_shared", "_contenders", "attribution", "capture", "evaluation", "full_model")
    threads = torch.get_num_threads()
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: __import__(name) for name in names}
    finally:
        sys.path.remove(str(FOLDER))
        torch.set_num_threads(threads)
        for name in names:
            sys.modules.pop(name, None)


def run(script: ModuleType, tmp_path: Path, *arguments: str) -> tuple[int, Any]:
    target = tmp_path / "facts.json"
    code = script.main([*arguments, "--json", str(target)])
    return code, json.loads(target.read_text(encoding="utf-8"))


# What they share ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [4.0, 14.0])
def test_lengths_have_the_mean_and_stay_within_the_range(scripts, mean):
    drawn = scripts["_shared"].lengths(200, mean)
    assert abs(drawn.mean() - mean) < 0.05
    assert drawn.min() >= 1.44 and drawn.max() <= 28.3
    assert not np.array_equal(drawn, np.sort(drawn))
    assert np.array_equal(drawn, scripts["_shared"].lengths(200, mean))


def test_ratios_are_taken_within_rounds(scripts):
    times = scripts["_shared"].Times
    # The second and third round were twice and ten times as slow for both.
    slow, fast = times(wall=[3.0, 6.0, 30.0]), times(wall=[1.0, 2.0, 10.0])
    assert slow.ratio(fast) == (3.0, 3.0, 3.0)


def test_contenders_take_turns_in_alternating_order(scripts):
    seen: list[str] = []
    contenders = {name: lambda name=name: seen.append(name) for name in "abc"}
    times = scripts["_shared"].in_rounds(contenders, 2, warm_up=1)
    assert "".join(seen) == "abc" + "abc" + "cba"
    assert {len(found.wall) for found in times.values()} == {2}


def test_copies_share_their_tensors_but_not_their_modules(scripts):
    model, _ = scripts["_shared"].random_model(scripts["_shared"].TINY)
    copy = scripts["_shared"].same_weights(model)
    assert copy is not model and copy.lm_head is not model.lm_head
    assert copy.lm_head.weight is model.lm_head.weight
    handle = copy.lm_head.register_forward_hook(lambda *_: None)
    assert not model.lm_head._forward_hooks
    handle.remove()


def test_several_questions_ask_about_one_clip(scripts):
    waves = scripts["_shared"].speak([1.5, 2.0])
    bench = scripts["_shared"].benchmark_of(waves, name="x", each=3)
    keys = [item.audio.key() for item in bench]
    assert keys[:3] == [keys[0]] * 3 and keys[3:] == [keys[3]] * 3 and keys[0] != keys[3]
    assert len({item.question for item in bench}) > 1


# Capture --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [(), ("--mixer",)])
def test_capture_finds_our_states_in_raw_hooks(scripts, tmp_path, capsys, more):
    code, facts = run(scripts["capture"], tmp_path, "--quick", "--no-memory", "--no-disk", *more)
    printed = capsys.readouterr().out
    assert code == 0 and "our states equal those of raw hooks" in printed
    sites = facts["sites"]
    forward = facts["forward"]
    for name in ("raw hooks + clone", "our recorder, frames"):
        assert forward[name]["bit_equal"] == forward[name]["reached"] == sites
    mean = forward["our recorder, mean"]
    assert mean["reached"] == sites and mean["worst_relative"] < 1e-5
    assert all(forward[name]["logits_equal"] for name in ("our recorder, mean", "output_hidden_states"))
    # Of the whole model the flag gives the text layers alone, and of the last one the normed state.
    assert forward["output_hidden_states"]["reached"] == 2
    assert mean["held_bytes"] < forward["our recorder, frames"]["held_bytes"] / 20
    # A contender either ran or is listed with its reason.
    for kind in scripts["capture"].CONTENDERS:
        assert kind.name in forward or facts["absent"][kind.name]
        assert kind.name in printed


def test_capture_to_disk_counts_what_is_written(scripts):
    options = scripts["capture"].parse(["--quick"])
    lines, facts = scripts["capture"].to_disk(options)
    written = {name: fact["bytes"] for name, fact in facts.items()}
    assert written["run, answers only"] < written["run, mean at all sites"] < written["run, as by default"]
    assert written["run, as by default"] < written["run, all frames"] < written["hooks + clone + numpy.save"]
    assert all(name in "\n".join(lines) for name in written)


def test_capture_measures_memory_in_a_fresh_process(scripts):
    options = scripts["capture"].parse(["--quick", "--no-disk"])
    whole = scripts["capture"].memory_of("raw hooks + clone", options)
    assert whole is not None and whole > 0


def test_a_wrong_state_does_not_pass_the_gate(scripts):
    capture = scripts["capture"]
    scene = capture.Scene(capture.parse(["--quick"]))
    hooks, ours = capture.Hooks(scene), scripts["_contenders"].OursFrames(scene)
    with torch.inference_mode():
        wanted, found = hooks.states(hooks.run()), ours.states(ours.run())
    sites = len(scene.sites)
    good = capture.compare(ours, found, wanted)
    assert capture.kept_faithfully(ours, good, sites) and "bit-equal" in capture.verdict(ours, good, sites)
    found["encoder[1]"][0] = np.nextafter(found["encoder[1]"][0], np.float32(np.inf))
    bad = capture.compare(ours, found, wanted)
    assert bad["bit_equal"] == sites - 1
    assert not capture.kept_faithfully(ours, bad, sites) and "within" in capture.verdict(ours, bad, sites)
    del found["encoder[1]"]
    assert not capture.kept_faithfully(ours, capture.compare(ours, found, wanted), sites)


# Evaluation -----------------------------------------------------------------------------------------------------------


def test_evaluation_compares_speeds_and_answers(scripts, tmp_path, capsys):
    code, facts = run(scripts["evaluation"], tmp_path, "--quick", "--sets", "4 s", "several")
    printed = capsys.readouterr().out
    assert code == 0 and set(facts) == {"4 s", "several"}
    for found in facts.values():
        ways = {name for name in found if name != "agreement"}
        assert ways == {
            "run", "run, all sites recorded", "run, trim=False", "stock, padded", "generate, one at a time",
        }  # fmt: skip
        assert all(found[way]["items_per_s"] > 0 for way in ways)
        pairs, spread = found["agreement"]["pairs"], found["agreement"]["spread"]
        exact = [pair for name, pair in pairs.items() if "bfloat16" not in name]
        assert len(exact) == 3 and len(pairs) == 7
        assert all(pair["changed"] == 0.0 and pair["largest_difference"] < 1e-4 < spread for pair in exact)
        assert pairs["bfloat16 stock / float32 stock"]["largest_difference"] > 1e-3
    assert "promised" in printed


def test_all_ways_give_the_same_answers(scripts, tmp_path):
    shared, evaluation = scripts["_shared"], scripts["evaluation"]
    import vpanalysis as vp

    model, processor = shared.random_model(shared.TINY)
    options = evaluation.parse(["--quick"])
    llm = vp.load_model((model, processor))
    padded = vp.load_model((model, processor), trim=False)
    bench = shared.benchmark_of(shared.speak([1.5, 3.0, 2.2]), name="x", each=2)
    field = evaluation.Field("4 s", bench, llm, padded, options, tmp_path)
    stock = field.stock()
    for made in (field.run(llm, sites="options"), field.run(padded, sites="options")):
        assert open_run(made.path).predictions["pred_logits"].tolist() == stock
    first = field.generate()
    best = torch.cat([field.stock_logits([row]) for row in range(len(bench))]).argmax(-1).tolist()
    assert first == best
    written = [json.loads(line) for line in (tmp_path / "4 s-0.jsonl").read_text().splitlines()]
    assert [row["answer"] for row in written] == stock


# Full model -----------------------------------------------------------------------------------------------------------


def test_without_a_gpu_it_says_so(scripts, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert scripts["full_model"].main([]) == 0
    assert "No CUDA device is present" in capsys.readouterr().out


def test_the_full_model_has_the_sizes_of_the_paper(scripts):
    full = scripts["full_model"]
    tokenizer = scripts["_shared"].build_word_tokenizer(["one two"])
    with torch.device("meta"):
        model = full.AudioFlamingo3PCLMForConditionalGeneration._from_config(
            full.config_of(False, tokenizer), dtype=torch.bfloat16
        )
    assert {p.device.type for p in model.parameters()} == {"meta"} and model.dtype == torch.bfloat16
    assert len(model.model.audio_tower.layers) == 32 and len(model.model.language_model.layers) == 28
    assert len(model.model.pclm.projectors) == 4
    assert 8.3e9 < sum(p.numel() for p in model.parameters()) < 8.45e9


def counts_what_forwards_take() -> bool:
    """Whether this torch counts operations under inference mode, in which models are run; 2.4 does not."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2))
    return counter.get_total_flops() > 0


@pytest.mark.skipif(not counts_what_forwards_take(), reason="this torch counts no operations under inference mode")
def test_every_line_of_it_runs_in_miniature(scripts, tmp_path, capsys):
    code, facts = run(
        scripts["full_model"], tmp_path, "--tiny", "--device", "cpu", "--rounds", "1", "--load", str(tmp_path / "load")
    )
    printed = capsys.readouterr().out
    assert code == 0 and "its numbers mean nothing" in printed
    assert facts["loading"]["parameters"] == facts["parameters"]
    # The tokens of the encoder alone, through its linear layers alone, are more than this.
    alone = facts["alone"]
    assert alone["flops"] > 2 * 4 * 4 * 64 * (4 * 64 + 2 * 128)
    assert alone["sites"] == 7 and 0 < alone["valid_share"] <= 1
    assert set(facts["runs"]) == {"run, answers only", "run, mean of all layers", "run, all sites by default"}
    assert not list((tmp_path / "load").iterdir())


# Attribution ----------------------------------------------------------------------------------------------------------


def test_attribution_equals_plain_captum_and_raw_hooks(scripts, tmp_path, capsys):
    code, facts = run(scripts["attribution"], tmp_path, "--quick", "--steps", "3")
    printed = capsys.readouterr().out
    assert code == 0 and facts["right"]
    assert len(facts["gradients"]) == 2
    assert all(0 <= found["worst"] < 1e-4 for found in facts["gradients"].values())
    patches = facts["patches"]
    assert patches["worst"]["ours"] < 1e-4 and patches["reach"]["ours"] == patches["reach"]["raw hooks, whole model"]
    for name in ("nnsight", "TransformerLens"):
        assert name in patches["reach"] or patches["reasons"][name]
        assert name in printed
