"""Transcripts: a file beside the benchmark, whoever recognizes; what is done is kept, what fails is listed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from vpanalysis.benchmark.audio import ArrayAudio
from vpanalysis.benchmark.items import Benchmark, Item
from vpanalysis.benchmark.sources import load_benchmark, transcripts_file
from vpanalysis.errors import ModelError, SchemaError
from vpanalysis.transcripts import MODEL_KEY, Waveform, cut_at_quiet, transcribe, with_transcripts

RATE = 16_000


class Fake:
    """Writes down how long a clip is, and remembers what it was given."""

    name = "fake"

    def __init__(self, fail_on: Sequence[int] = (), stop_after: int | None = None) -> None:
        self.fail_on, self.stop_after = set(fail_on), stop_after
        self.heard: list[int] = []

    def __call__(self, waves: Sequence[Waveform]) -> list[str]:
        assert all(wave.dtype == np.float32 and wave.ndim == 1 for wave in waves)
        if self.stop_after is not None and len(self.heard) >= self.stop_after:
            raise KeyboardInterrupt
        if any(len(wave) in self.fail_on for wave in waves):
            raise RuntimeError("this one is too odd")
        self.heard += [len(wave) for wave in waves]
        return [f"  a clip of\n{len(wave)} samples " for wave in waves]


def length(number: int) -> int:
    return 1600 + 100 * number


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A released-style table with six clips."""
    rows = []
    for number in range(6):
        soundfile.write(tmp_path / f"{number}.wav", np.full(length(number), 0.1, dtype=np.float32), RATE)
        rows.append(
            {
                "id": f"clip-{number}", "task_name": "gender_prediction", "question": "What is the speaker's gender?",
                "choice_a": "Female", "choice_b": "Male", "answer_gt": "Female", "adversarial_labels": ["Male"],
                "audio": f"{number}.wav",
            }
        )  # fmt: skip
    file = tmp_path / "clips.json"
    file.write_text(json.dumps(rows))
    return file


def told(number: int) -> str:
    return f"a clip of {length(number)} samples"


def test_written_beside_the_table_and_read_back(table: Path) -> None:
    assert all(item.transcript is None for item in load_benchmark(table))
    made = transcribe(table, Fake(), batch_size=4, progress=False)
    assert made == {f"clip-{n}": told(n) for n in range(6)}
    assert made.path == table.with_name("clips.transcripts.json") == transcripts_file(table)
    assert made.failed == {} and made.model == "fake"
    assert [item.transcript for item in load_benchmark(table)] == [told(n) for n in range(6)]
    assert [file.name for file in table.parent.glob("*transcripts*")] == ["clips.transcripts.json"]
    assert json.loads(made.path.read_text())[MODEL_KEY] == "fake"


def test_a_folder_gets_the_file_that_is_read(table: Path) -> None:
    made = transcribe(table.parent, Fake(), progress=False)
    assert made.path == table.with_name("clips.transcripts.json")
    # The file is no second table.
    assert [item.transcript for item in load_benchmark(table.parent)] == [told(n) for n in range(6)]


def test_labelled_folder(tmp_path: Path) -> None:
    for label in ("Female", "Male"):
        (tmp_path / label).mkdir()
        soundfile.write(tmp_path / label / "one.wav", np.zeros(1600, dtype=np.float32), RATE)
    made = transcribe(tmp_path, Fake(), progress=False)
    assert made.path == tmp_path / "transcripts.json"
    assert {item.transcript for item in load_benchmark(tmp_path)} == {"a clip of 1600 samples"}


def test_split_folder(table: Path) -> None:
    inner = table.parent / "validation"
    inner.mkdir()
    table.rename(inner / "voxparadox.json")
    for clip in table.parent.glob("*.wav"):
        clip.rename(inner / clip.name)
    made = transcribe(table.parent, Fake(), split="validation", progress=False)
    assert made.path == inner / "voxparadox.transcripts.json"
    assert load_benchmark(table.parent, split="validation")[2].transcript == told(2)


def test_what_is_done_is_kept(table: Path) -> None:
    file = transcripts_file(table)
    file.write_text(json.dumps({"clip-1": "corrected by hand", "clip-of-old": "no item any more"}))
    fake = Fake()
    made = transcribe(table, fake, progress=False)
    assert made["clip-1"] == "corrected by hand" and length(1) not in fake.heard and len(fake.heard) == 5
    assert "clip-of-old" not in made and json.loads(file.read_text())["clip-of-old"] == "no item any more"
    before = file.stat().st_mtime_ns
    assert transcribe(table, fake, progress=False) == made
    assert len(fake.heard) == 5 and file.stat().st_mtime_ns == before


def test_an_interruption_costs_one_batch(table: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        transcribe(table, Fake(stop_after=4), batch_size=2, progress=False)
    fake = Fake()
    made = transcribe(table, fake, batch_size=2, progress=False)
    assert fake.heard == [length(4), length(5)] and len(made) == 6


def test_clips_that_cannot_be_read_are_listed(table: Path) -> None:
    (table.parent / "2.wav").write_bytes(b"no sound")
    (table.parent / "3.wav").unlink()
    made = transcribe(table, Fake(), batch_size=3, progress=False)
    assert set(made) == {"clip-0", "clip-1", "clip-4", "clip-5"}
    assert "2.wav" in made.failed["clip-2"] and "no such file" in made.failed["clip-3"]
    assert "clip-2" not in json.loads(transcripts_file(table).read_text())
    frame = made.to_dataframe()
    assert list(frame.columns) == ["id", "text", "reason"] and len(frame) == 6
    assert "2 failed" in repr(made) and "2 failed" in made._repr_html_()
    # Tried again the next time.
    soundfile.write(table.parent / "2.wav", np.zeros(length(2), dtype=np.float32), RATE)
    assert set(transcribe(table, Fake(), progress=False).failed) == {"clip-3"}


def test_one_clip_that_breaks_the_recognizer_fails_alone(table: Path) -> None:
    made = transcribe(table, Fake(fail_on=[length(4)]), batch_size=6, progress=False)
    assert set(made.failed) == {"clip-4"} and "this one is too odd" in made.failed["clip-4"]
    assert len(made) == 5


def test_a_recognizer_that_never_works_is_an_error(table: Path) -> None:
    with pytest.raises(ModelError, match="too odd"):
        transcribe(table, Fake(fail_on=[length(n) for n in range(6)]), batch_size=2, progress=False)
    assert not transcripts_file(table).exists()


def test_a_recognizer_must_answer_once_a_clip(table: Path) -> None:
    with pytest.raises(ModelError, match="1 texts for 6 clips"):
        transcribe(table, lambda waves: ["one"] if len(waves) > 1 else [], progress=False)


def test_recognizers_do_not_mix(table: Path) -> None:
    transcribe(table, Fake(), progress=False)
    other = Fake()
    other.name = "another"
    with pytest.raises(SchemaError, match="transcripts by 'fake'"):
        transcribe(table, other, progress=False)
    assert transcribe(table, other, table.parent / "second.transcripts.json", progress=False).model == "another"


def test_out_may_be_a_folder(table: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("words")
    assert transcribe(table, Fake(), place, progress=False).path == place / "transcripts.json"


@pytest.mark.parametrize("source", ["mini", "IHP-Lab/VoxParadox"])
def test_sources_without_a_folder_need_a_file(source: str, table: Path) -> None:
    items = list(load_benchmark(table))
    bench = Benchmark(items, name="far", source=source)
    with pytest.raises(SchemaError, match="out="):
        transcribe(bench, Fake(), progress=False)
    made = transcribe(bench, Fake(), table.parent / "far.transcripts.json", progress=False)
    assert made.path is not None
    for known in (made, made.path):
        assert [item.transcript for item in with_transcripts(bench, known)] == [told(n) for n in range(6)]


def test_transcripts_never_replace_words_that_are_known() -> None:
    item = Item(
        id="a", task_name="t", question="q", choices=("x", "y"), letters=("A", "B"), truth="x", said=(),
        condition="neutral", foils=("y",), audio=ArrayAudio(np.zeros(10, dtype=np.float32)), transcript="my own words",
    )  # fmt: skip
    bench = Benchmark([item], name="one", source="by hand")
    assert with_transcripts(bench, {"a": "misheard"})[0].transcript == "my own words"


@pytest.mark.parametrize("content", ["[1]", '{"a": 3}', "{"])
def test_a_broken_file_is_refused(table: Path, content: str) -> None:
    transcripts_file(table).write_text(content)
    bench = Benchmark([], name="x", source=str(table))
    with pytest.raises(SchemaError, match="cannot read the transcripts"):
        transcribe(bench, Fake(), progress=False)


def test_bad_input(table: Path) -> None:
    with pytest.raises(SchemaError, match="batch_size=0"):
        transcribe(table, Fake(), batch_size=0)
    bad: Any = 3
    with pytest.raises(ModelError, match="a int"):
        transcribe(table, bad, progress=False)


# --- long clips --------------------------------------------------------------------------------------------------


def test_long_clips_are_cut_where_it_is_quiet() -> None:
    wave = np.random.default_rng(0).normal(scale=0.1, size=70 * RATE).astype(np.float32)
    quiet = [(26.5, 26.9), (52.0, 52.4)]
    for start, stop in quiet:
        wave[int(start * RATE) : int(stop * RATE)] *= 0.01
    pieces = cut_at_quiet(wave)
    assert np.array_equal(np.concatenate(pieces), wave)
    ends = np.cumsum([len(piece) for piece in pieces])[:-1] / RATE
    assert len(ends) == 2 and all(start < end < stop for end, (start, stop) in zip(ends, quiet, strict=True))


@pytest.mark.parametrize("seconds", [0.0, 0.5, 30.0, 30.01, 61.0])
def test_pieces_are_never_too_long(seconds: float) -> None:
    wave = np.random.default_rng(1).normal(size=int(seconds * RATE)).astype(np.float32)
    pieces = cut_at_quiet(wave)
    assert np.array_equal(np.concatenate(pieces), wave)
    assert max(len(piece) for piece in pieces) <= 30 * RATE
    assert (len(pieces) == 1) == (seconds <= 30)


# --- recognizers that are loaded ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Whisper with random weights, as a folder."""
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
    )

    folder = tmp_path_factory.mktemp("whisper")
    words = ["hello", "there", "my", "coat", "is", "wet"]
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    vocabulary = {word: number for number, word in enumerate([*words, *special])}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[], language="en", task="transcribe",
                                 additional_special_tokens=special)  # fmt: skip
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=8, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        max_target_positions=32, pad_token_id=6, bos_token_id=6, eos_token_id=6, decoder_start_token_id=7,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        max_length=8, num_beams=1, decoder_start_token_id=7, eos_token_id=6, pad_token_id=6, suppress_tokens=[],
        begin_suppress_tokens=[], no_timestamps_token_id=10, is_multilingual=False,
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=8).save_pretrained(folder)
    return folder


def test_whisper_through_the_pipeline(whisper: Path, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    made = transcribe(table, whisper, batch_size=3, device="cpu", progress=False)
    assert len(made) == 6 and not made.failed
    assert made.model == str(whisper)
    assert all("<|" not in text for text in made.values())


def test_long_clips_are_recognized_in_pieces(whisper: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vpanalysis.transcripts import _PipelineRecognizer

    recognizer = _PipelineRecognizer(str(whisper), "cpu")
    given: list[int] = []

    def pipe(flat: list[dict[str, Any]], batch_size: int) -> list[dict[str, str]]:
        given.extend(len(piece["raw"]) for piece in flat)
        assert batch_size == len(flat)
        return [{"text": f" piece {number}"} for number in range(len(flat))]

    monkeypatch.setattr(recognizer, "pipe", pipe)
    short, long = np.zeros(RATE, dtype=np.float32), np.zeros(65 * RATE, dtype=np.float32)
    assert recognizer([short, long, short]) == ["piece 0", "piece 1 piece 2 piece 3", "piece 4"]
    assert sum(given) == 67 * RATE and max(given) <= 30 * RATE


def test_unknown_recognizers_are_an_error(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="cannot load the speech recognizer"):
        transcribe(table, tmp_path / "nothing", device="cpu", progress=False)


@pytest.mark.parametrize("form", ["base", "pclm"])
def test_audio_language_models_transcribe(table: Path, form: str) -> None:
    """Untrained organisms write words; a mixer is given the prompt, and clips of several windows pass."""
    from transformers import WhisperFeatureExtractor

    from vpanalysis.models.facade import AudioLLM
    from vpanalysis.models.word_tokenizer import build_word_processor
    from vpanalysis.organism.build import new_model, with_mixer
    from vpanalysis.organism.encoder import new_encoder
    from vpanalysis.organism.questions import organism_tokenizer
    from vpanalysis.organism.sizes import extractor_config

    model = new_model(new_encoder())
    if form == "pclm":
        model = with_mixer(model, "pclm")
    llm = AudioLLM(
        model, build_word_processor(organism_tokenizer(), WhisperFeatureExtractor(**extractor_config())), name=form
    )
    soundfile.write(table.parent / "0.wav", np.random.default_rng(0).normal(scale=0.1, size=7 * RATE), RATE)
    made = transcribe(table, llm, batch_size=4, progress=False)
    assert len(made) == 6 and made.model == form
    again = transcribe(table, llm, table.parent / "single.transcripts.json", batch_size=1, progress=False)
    assert again == made


def test_prompt_of_transcription_is_that_of_training() -> None:
    from vpanalysis.organism.questions import TRANSCRIBE
    from vpanalysis.transcripts import PROMPT

    assert PROMPT == TRANSCRIBE


# --- the command line --------------------------------------------------------------------------------------------


def call(*words: str) -> int:
    from vpanalysis.cli import main

    with pytest.raises(SystemExit) as stop:
        main(list(words))
    return int(stop.value.code or 0)


def test_verb(whisper: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (table.parent / "3.wav").unlink()
    assert call("transcribe", str(table), str(whisper), "--device", "cpu", "--quiet", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["path"] == str(transcripts_file(table)) and shown["model"] == str(whisper)
    assert [row["id"] for row in shown["rows"] if row["reason"] is not None] == ["clip-3"]
    assert call("transcribe", str(table), str(whisper), "--device", "cpu", "--quiet") == 0
    shown = capsys.readouterr().out
    assert "5 transcripts" in shown and "clip-3" in shown and "clip-1" not in shown


def test_verb_refuses_in_one_sentence(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transcribe(table, Fake(), progress=False)
    assert call("transcribe", str(table), "mini-base", "--quiet") == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1 and "transcripts by 'fake'" in shown.err and not shown.out


def test_public_name_is_the_verb() -> None:
    import vpanalysis
    import vpanalysis.transcripts

    assert vpanalysis.transcribe is transcribe
    assert vpanalysis.transcripts.transcribe is transcribe
