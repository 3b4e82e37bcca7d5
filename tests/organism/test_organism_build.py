"""The models' forms, and that cached states are what the loaded model computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vpanalysis.benchmark.items import Item
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.models.facade import AudioLLM
from vpanalysis.organism import states as states_module
from vpanalysis.organism.build import FORMS, new_model, with_mixer
from vpanalysis.organism.clips import features_of
from vpanalysis.organism.encoder import new_encoder, shorten
from vpanalysis.organism.language import answer_accuracy, embed_clips
from vpanalysis.organism.questions import Asked, Wording
from vpanalysis.organism.sizes import EXPOSED
from vpanalysis.organism.states import clips_of


@pytest.fixture(scope="module")
def forms(base: Any) -> dict[str, Any]:
    return {form: with_mixer(base, form, 1) for form in FORMS}


def tensors(model: Any, part: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.state_dict().items() if part in name}


def test_new_model_has_the_encoder_and_no_mixer(base: Any, encoder: Any) -> None:
    assert not hasattr(base.model, "pclm")
    for name, value in encoder.state_dict().items():
        assert torch.equal(base.model.audio_tower.state_dict()[name], value), name


def test_new_model_repeats_by_seed(encoder: Any, base: Any) -> None:
    again, other = new_model(encoder, 1), new_model(encoder, 2)
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    assert torch.equal(again.state_dict()[name], base.state_dict()[name])
    assert not torch.equal(other.state_dict()[name], base.state_dict()[name])


def test_mixers_keep_the_base(base: Any, forms: dict[str, Any]) -> None:
    for form, model in forms.items():
        for name, value in base.state_dict().items():
            assert torch.equal(model.state_dict()[name], value), (form, name)


def test_middle_projectors_start_as_clones(forms: dict[str, Any]) -> None:
    for model in forms.values():
        final = model.model.multi_modal_projector.state_dict()
        assert len(model.model.pclm.projectors) == len(EXPOSED)
        for projector in model.model.pclm.projectors:
            assert projector is not model.model.multi_modal_projector
            assert all(torch.equal(projector.state_dict()[name], value) for name, value in final.items())


def test_static_gate_reads_no_prompt(forms: dict[str, Any]) -> None:
    gate = forms["static"].model.pclm.gate
    assert not hasattr(gate, "prompt_encoder") and not hasattr(gate, "mlp")
    assert [name for name, _ in gate.named_parameters()] == ["static_logits"]
    assert gate.static_logits.requires_grad
    # It starts even.
    assert torch.allclose(gate(None, None, 2), torch.full((2, len(EXPOSED) + 1), 1 / (len(EXPOSED) + 1)))


def test_sources_of_the_streams(forms: dict[str, Any], processor: Any) -> None:
    assert forms["final"].config.stream_sources == "final"
    assert forms["pclm"].config.stream_sources == forms["static"].config.stream_sources == "layers"
    wanted = {form: AudioLLM(model, processor, check=False).stream_inputs for form, model in forms.items()}
    exposed = (*(f"encoder[{k - 1}]" for k in EXPOSED), "tower")
    assert wanted == {"pclm": exposed, "static": exposed, "final": ("tower",)}


def test_control_has_as_many_parameters(forms: dict[str, Any]) -> None:
    count = {form: sum(p.numel() for p in model.parameters()) for form, model in forms.items()}
    assert count["final"] == count["pclm"]


# --- states ------------------------------------------------------------------------------------------------------


def test_shorten_costs_nothing_but_silence(encoder: Any, items: list[Item]) -> None:
    """The valid positions of a cropped window are those of the whole one."""
    made = features_of([item.audio.recipe for item in items[:2]])  # type: ignore[attr-defined]
    mel, frames = torch.from_numpy(made.mel.astype(np.float32)), torch.from_numpy(made.frames)
    most = -(-int(frames.max()) // 4) * 4 + 8  # a little silence stays, as it does for all but the longest of a batch
    mask = (torch.arange(mel.shape[-1])[None] < frames[:, None]).long()
    with torch.no_grad():
        whole = encoder(mel, input_features_mask=mask).last_hidden_state
        with shorten(encoder, most // 2):
            short = encoder(mel[:, :, :most], input_features_mask=mask[:, :most]).last_hidden_state
    for row, length in enumerate((((frames - 1) // 2 + 1) - 2) // 2 + 1):
        assert torch.allclose(whole[row, :length], short[row, :length], atol=1e-4)


def test_shorten_puts_positions_back(encoder: Any) -> None:
    before = encoder.embed_positions.weight
    with shorten(encoder, 20):
        assert encoder.embed_positions.weight.shape[0] == 20
    assert encoder.embed_positions.weight is before
    with pytest.raises(RuntimeError, match="on purpose"), shorten(encoder, 30):
        raise RuntimeError("on purpose")
    assert encoder.embed_positions.weight is before


def test_positions_are_whispers() -> None:
    weight = new_encoder().embed_positions.weight
    assert torch.allclose(weight[0, :64], torch.zeros(64)) and torch.allclose(weight[0, 64:], torch.ones(64))
    assert float(weight[7, 0]) == pytest.approx(np.sin(7), abs=1e-5)


def test_cached_states_are_what_the_loaded_model_encodes(
    pclm: Any, llm: AudioLLM, items: list[Item], tmp_path: Path
) -> None:
    clips = clips_of(pclm.model, items, tmp_path)
    encoded = llm.encode([item.audio.load() for item in items])
    for number, clip in enumerate(encoded):
        assert int(clips.frames[number]) == sum(clip.windows)
        for stream, name in enumerate(llm.stream_inputs):
            kept = clips.states[number, stream, : clips.frames[number]].astype(np.float32)
            wanted = clip.streams[name].numpy()
            # Half precision, and at the cut edge of the longest clip of a batch one frame without what follows it.
            assert np.abs(kept - wanted)[:-1].max() < 0.02, (number, name)
            assert np.abs(kept - wanted).mean() < 0.005
    assert [a.question for a in clips.asked] == [item.question for item in items]
    assert [a.answers for a in clips.asked] == [(item.truth,) for item in items]
    assert clips.claimed == [item.said for item in items]
    assert [" ".join(words) for words in clips.words] == [item.transcript for item in items]


def test_training_and_loaded_model_agree_on_logits(pclm: Any, llm: AudioLLM, items: list[Item], tmp_path: Path) -> None:
    """The whole way: cached states, training rows and `embed_clips` against prepare and forward."""
    some, wording = items[:6], Wording()
    clips = clips_of(pclm.model, some, tmp_path)

    class Unshuffled:
        def permutation(self, n: int) -> range:
            return range(n)

        def integers(self, _n: int) -> int:
            return 0

    streams, frames = clips.load(np.arange(len(some)))
    rows = wording.batch([Asked(i.question, i.choices, (i.truth,)) for i in some], frames.tolist(), Unshuffled())
    with torch.no_grad():
        embeds = embed_clips(pclm, rows, streams, frames, wording)
        logits = pclm(inputs_embeds=embeds, attention_mask=rows.attention_mask, use_cache=False).logits
    begins = (rows.labels != -100).float().argmax(1)
    ours = logits[torch.arange(len(some)), begins - 1]
    theirs = llm.forward(llm.prepare(some, [item.audio.load() for item in some], DEFAULT_PROMPT))
    assert torch.allclose(ours, theirs, atol=5e-3)


def test_states_go_on_where_they_stopped(
    pclm: Any, items: list[Item], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states_module, "_BLOCK", 4)
    whole = np.array(clips_of(pclm.model, items[:10], tmp_path / "whole").states)
    spoken: list[int] = []

    def stops(recipes: list[Any], **options: Any) -> Any:
        if len(spoken) == 2:
            raise KeyboardInterrupt
        spoken.append(len(recipes))
        return features_of(recipes, **options)

    monkeypatch.setattr(states_module, "features_of", stops)
    with pytest.raises(KeyboardInterrupt):
        clips_of(pclm.model, items[:10], tmp_path / "parts")
    assert spoken == [4, 4]
    spoken.clear()
    clips = clips_of(pclm.model, items[:10], tmp_path / "parts")
    assert spoken == [2]
    assert np.array_equal(clips.states, whole)
    spoken.clear()
    clips_of(pclm.model, items[:10], tmp_path / "parts")
    assert spoken == []


def test_accuracy_counts_by_condition(pclm: Any, items: list[Item], tmp_path: Path) -> None:
    clips = clips_of(pclm.model, items, tmp_path)
    table = answer_accuracy(pclm, clips, np.arange(len(items)))
    assert set(table) == {item.task_name for item in items} | {"all"}
    kinds = {"neu" if not item.said else "cong" if item.truth in item.said else "conf" for item in items}
    assert set(table["all"]) == kinds | ({"ala"} if "conf" in kinds else set())
    assert all(0 <= value <= 1 for row in table.values() for value in row.values())
