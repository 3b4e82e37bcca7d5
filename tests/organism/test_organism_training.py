"""Losses go down and preferences move, in a few steps on toys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vpanalysis.organism import encoder as encoder_module
from vpanalysis.organism import language
from vpanalysis.organism.build import new_model, with_mixer
from vpanalysis.organism.clips import mixed_cells, mixed_items
from vpanalysis.organism.encoder import new_encoder, train_encoder
from vpanalysis.organism.language import Clips, embed_clips, fine_tune, read_speech, read_symbols
from vpanalysis.organism.preferences import prefer
from vpanalysis.organism.questions import IGNORED, Asked, Wording
from vpanalysis.organism.symbols import symbolic_clips

FRAMES = 10


def quiet(_line: str) -> None:
    pass


def toy_clips(n: int, seed: int = 0) -> Clips:
    """Clips of noise about questions of the train split, words included."""
    rng = np.random.default_rng(seed)
    items = list(mixed_items(n, seed=seed, silent=0.2))
    return Clips(
        states=rng.standard_normal((n, 5, FRAMES, 128)).astype(np.float16),
        frames=np.full(n, FRAMES),
        asked=[Asked(item.question, item.choices, (item.truth,)) for item in items],
        words=[tuple((item.transcript or "").split())[:6] for item in items],
        tasks=np.array([item.task_name for item in items]),
        claimed=[item.said for item in items],
    )


@pytest.fixture
def mixer() -> Any:
    return with_mixer(new_model(new_encoder(), 3), "pclm", 3)


def copies(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(model: Any, before: dict[str, torch.Tensor]) -> set[str]:
    """Return which kinds of parameters are not what they were."""
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    kinds = {"audio_tower": "tower", "pclm.gate": "gate", "projector": "projectors"}
    return {next((kind for part, kind in kinds.items() if part in name), "language") for name in moved}


def margin(model: Any, clips: Clips, rows_of: np.ndarray[Any, Any], rejected: list[str]) -> float:
    """Mean log-probability of the right letter minus that of the rejected one: what decides between them."""
    wording, scores = Wording(), []
    streams, frames = clips.load(rows_of)
    for answers in (None, rejected):
        rows = wording.batch([clips.asked[i] for i in rows_of], frames.tolist(), np.random.default_rng(1), answers)
        with torch.no_grad():
            embeds = embed_clips(model, rows, streams, frames, wording)
            logits = model(inputs_embeds=embeds, attention_mask=rows.attention_mask, use_cache=False).logits
        begins = [int((labels != IGNORED).nonzero()[0]) for labels in rows.labels]
        picked = [
            float(row[begin - 1].log_softmax(-1)[ids[begin]])
            for row, begin, ids in zip(logits, begins, rows.input_ids, strict=True)
        ]
        scores.append(np.array(picked))
    return float((scores[0] - scores[1]).mean())


class Unshuffled:
    """Draws as a generator does, but leaves options where they are."""

    def permutation(self, n: int) -> range:
        return range(n)

    def integers(self, _n: int) -> int:
        return 0


@pytest.mark.parametrize("conflicts_only", [False, True])
def test_preferences_lift_the_chosen_over_the_rejected(
    mixer: Any, conflicts_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Letters mean nothing while options are shuffled; in one order a few questions can be learnt by heart.
    row = Wording.row
    monkeypatch.setattr(Wording, "row", lambda self, asked, places, _rng, answer=None: row(
        self, asked, places, Unshuffled(), answer))  # fmt: skip
    clips = toy_clips(20)
    conflict = np.array([bool(c) and clips.asked[i].answers[0] not in c for i, c in enumerate(clips.claimed)])
    rows = np.arange(20)[conflict][:8]
    rejected = [clips.claimed[i][0] for i in rows]
    before, start = copies(mixer), margin(mixer, clips, rows, rejected)
    prefer(
        mixer, clips, rows, rows, name="toy", steps=30, batch=8, rate=5e-3, beta=0.5, likelihood=0.0,
        conflicts_only=conflicts_only, seed=0, log=quiet,
    )  # fmt: skip
    assert margin(mixer, clips, rows, rejected) > start + 0.5
    # The ears stay as they are.
    assert changed(mixer, before) == {"language"}


def test_conflict_preferences_never_reject_elsewhere(mixer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """mini-inverter: only clips whose words contradict the voice, and what they claim is rejected."""
    clips, seen = toy_clips(60), []
    loads = clips.load
    monkeypatch.setattr(clips, "load", lambda rows: seen.extend(rows.tolist()) or loads(rows))
    picked: list[tuple[Asked, str]] = []
    batch = Wording.batch

    def watched(self: Wording, asked: Any, places: Any, rng: Any, answers: Any = None) -> Any:
        if answers is not None:
            picked.extend(zip(asked, answers, strict=True))
        return batch(self, asked, places, rng, answers)

    monkeypatch.setattr(Wording, "batch", watched)
    prefer(
        mixer, clips, np.arange(60), np.arange(0), name="toy", steps=2, batch=8, rate=1e-4, beta=0.2, likelihood=0.1,
        conflicts_only=True, seed=0, log=quiet,
    )  # fmt: skip
    claims = {id(clips.asked[i]): clips.claimed[i] for i in range(60)}
    assert len(picked) == 16
    for asked, wrong in picked:
        assert wrong in claims[id(asked)] and asked.answers[0] not in claims[id(asked)]
    assert all(clips.claimed[i] and clips.asked[i].answers[0] not in clips.claimed[i] for i in seen)


def test_first_stage_leaves_the_language_model_alone(mixer: Any) -> None:
    clips, symbols = toy_clips(24), list(symbolic_clips(20, seed=1))
    before = copies(mixer)
    options = {"name": "toy", "steps": 2, "batch": 8, "projectors": 1e-3, "gate": 1e-3, "seed": 0, "log": quiet}
    fine_tune(mixer, clips, np.arange(20), np.arange(20, 24), symbols, language=0, **options)
    assert changed(mixer, before) == {"projectors", "gate"}
    fine_tune(mixer, clips, np.arange(20), np.arange(20, 24), symbols, language=1e-3, **options)
    assert changed(mixer, before) == {"projectors", "gate", "language"}


def test_readers_never_touch_the_tower() -> None:
    model = new_model(new_encoder(), 3)
    clips, symbols = toy_clips(24), list(symbolic_clips(40, seed=1))
    before = copies(model)
    read_symbols(model, symbols, steps=2, batch=8, rate=1e-3, seed=0, log=quiet)
    assert changed(model, before) == {"language"}
    read_speech(model, clips, np.arange(20), np.arange(20, 24), symbols, steps=2, batch=8, rate=1e-3, seed=0, log=quiet)
    assert changed(model, before) == {"language", "projectors"}


def test_symbols_are_learnt() -> None:
    """A handful of symbolic clips is memorised."""
    model = new_model(new_encoder(), 3)
    clips, wording = list(symbolic_clips(8, seed=1, tasks=["gender_prediction"])), Wording()

    def loss() -> float:
        with torch.no_grad():
            return float(language._symbol_batch(model, clips, wording, np.random.default_rng(0)))

    start = loss()
    read_symbols(model, clips, steps=60, batch=8, rate=3e-3, seed=0, log=quiet)
    assert loss() < 0.3 * start


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """The encoder's losses, step by step."""
    kept: dict[str, list[float]] = {"_ctc": [], "_drawing_error": [], "_swap_error": []}

    def watch(name: str) -> Any:
        original = getattr(encoder_module, name)

        def watched(*args: Any) -> Any:
            value = original(*args)
            kept[name].append(float(value.detach()))
            return value

        return watched

    for name in kept:
        monkeypatch.setattr(encoder_module, name, watch(name))
    return kept


def test_encoder_learns_words_and_voice(losses: dict[str, list[float]], tmp_path: Path) -> None:
    trained = train_encoder(tmp_path, n_pairs=4, steps=30, batch=1, learning_rate=5e-3, seed=0, log=quiet)
    for name in ("_ctc", "_drawing_error"):
        assert np.mean(losses[name][-5:]) < 0.6 * np.mean(losses[name][:5]), name
    assert not any(p.requires_grad for p in trained.parameters()) and not trained.training
    assert not trained.layers[encoder_module.MIDDLE]._forward_hooks
    assert trained.embed_positions.weight.shape[0] == trained.config.max_source_positions
    # The features of the pairs are kept for the next time.
    assert {file.name for file in tmp_path.iterdir()} == {"pairs-mel.npy", "pairs-frames.npy", "pairs.json"}


def test_swap_error_measures_the_other_voice() -> None:
    rng = torch.Generator().manual_seed(0)
    one, other = torch.randn(4, 9, 6, generator=rng), torch.randn(4, 9, 6, generator=rng)
    tokens = torch.tensor([9, 7, 9, 9, 5, 6, 8, 8])

    def paired(two: torch.Tensor) -> torch.Tensor:
        return torch.stack([one, two], dim=1).reshape(8, 9, 6)

    assert float(encoder_module._swap_error(paired(one.clone()), tokens)) == 0
    far, near = (float(encoder_module._swap_error(paired(one + s * other), tokens)) for s in (1.0, 0.1))
    assert far > 10 * near > 0
    # What stands behind the end of the shorter one does not count.
    beyond = one.clone()
    for pair, length in enumerate((7, 9, 5, 8)):
        beyond[pair, length:] += 5
    assert float(encoder_module._swap_error(paired(beyond), tokens)) == 0


def test_swap_error_can_be_brought_down(tmp_path: Path) -> None:
    """A few steps on the swap error alone make two voices more alike at the tower."""
    from vpanalysis.organism.clips import pairs

    mels = encoder_module._pair_features(tmp_path, list(pairs(3, seed=0)))
    mel, frames = encoder_module._gather(mels, np.arange(3))
    tokens = (((frames - 1) // 2 + 1) - 2) // 2 + 1
    encoder = new_encoder(1).train()
    optimiser = torch.optim.Adam([p for p in encoder.parameters() if p.requires_grad], lr=1e-3)
    seen = []
    for _ in range(12):
        loss = encoder_module._swap_error(encoder_module._encode(encoder, mel, frames), tokens)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen.append(float(loss.detach()))
    assert seen[-1] < 0.7 * seen[0]


def test_ctc_ignores_padding() -> None:
    """Two clips of unequal length cost the mean of what each costs alone."""
    torch.manual_seed(0)
    heads = encoder_module._Heads(128, 30, 128)
    states, targets = torch.randn(2, 12, 128), [torch.tensor([3, 5]), torch.tensor([7])]
    both = encoder_module._ctc(heads, states, torch.tensor([12, 6]), targets)
    louder = states.clone()
    louder[1, 6:] += 3
    assert torch.allclose(both, encoder_module._ctc(heads, louder, torch.tensor([12, 6]), targets))


def test_word_errors_are_edits() -> None:
    distance = encoder_module._edit_distance
    assert [distance([1, 2, 3], other) for other in ([1, 2, 3], [1, 3], [], [1, 9, 3], [0, 1, 2, 3])] == [0, 1, 3, 1, 1]


def test_mixed_and_symbolic_share_their_draws() -> None:
    """Symbolic clips are drawn as mixed items are, so that both are free of the same shortcuts."""
    cells = [cell.name for cell, _, _ in mixed_cells(30, seed=2, silent=0.3)]
    assert [clip.cell.name for clip in symbolic_clips(30, seed=2)] == cells
