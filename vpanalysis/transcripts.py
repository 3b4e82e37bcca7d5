"""What do the clips say? Transcripts by a named speech recognizer, kept beside the benchmark.

Why it exists. Whether a model read can only be judged where the words are known. A benchmark with a ``script`` column
knows them; for any other, a recognizer writes them down once, and they are data from then on: a file beside the table
that can be read, corrected by hand and committed.

The idea. :func:`transcribe` fills ``<table>.transcripts.json``, an object ``{id: text}`` that
:func:`~vpanalysis.load_benchmark` picks up the next time. The file is rewritten after every batch, all or nothing, so
that an interrupted call goes on where it stopped; what stands in it is kept, so lines corrected by hand stay corrected.
A clip that cannot be used is listed and left out, and is tried again by the next call. The name of the recognizer
stands in the file as ``"#model"``; a second recognizer does not write into the same file.

Recognizers are whatever transformers' *automatic-speech-recognition* pipeline loads (Whisper, wav2vec2 ...), or an
audio language model that follows Audio Flamingo 3's transcription prompt, such as the bundled ``mini-base``. Whisper
sees 30 s at once, so a longer clip is cut into pieces, at the quietest moment of the last five seconds of each.

Worked example::

    words = transcribe("voxparadox.json", "openai/whisper-small")    # writes voxparadox.transcripts.json
    words["age_0001"], words.failed                                   # ("i am a child", {})
    bench = vp.load_benchmark("voxparadox.json")                      # its items have transcripts now
    bench = with_transcripts(hub_bench, "my.transcripts.json")        # where there is no folder to write to
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vpanalysis._html import html_table, text_table
from vpanalysis._untrusted import strict_json
from vpanalysis.benchmark.audio import SAMPLE_RATE
from vpanalysis.benchmark.items import Benchmark, Item
from vpanalysis.benchmark.sources import load_benchmark, transcripts_file
from vpanalysis.errors import AudioError, ModelError, SchemaError

if TYPE_CHECKING:
    import pandas as pd

    from vpanalysis.models.facade import AudioLLM

__all__ = ["MODEL_KEY", "Recognizer", "Transcripts", "cut_at_quiet", "transcribe", "with_transcripts"]

Waveform: TypeAlias = NDArray[np.float32]
Recognizer: TypeAlias = Callable[[Sequence[Waveform]], Sequence[str]]
"""Clips in (float32, 16 kHz, mono), one text each out."""

MODEL_KEY = "#model"
"""Where the file names the recognizer; no item has this id."""

PROMPT = "Transcribe the input speech."
"""What Audio Flamingo 3 is asked, by its processor's own wording."""

_WINDOW, _LAST = 30.0, 5.0  # seconds: what is recognized at once, and where in it a cut is looked for
_NEW_TOKENS = 256


class Transcripts(dict[str, str]):
    """Texts by item id; prints as a table.

    Attributes
    ----------
    model : str
        The recognizer.
    failed : dict of str to str
        Items that could not be transcribed, with the reason.
    path : Path or None
        The file that holds the texts.
    """

    def __init__(self, texts: Mapping[str, str], *, model: str, failed: Mapping[str, str], path: Path | None) -> None:
        super().__init__(texts)
        self.model, self.failed, self.path = model, dict(failed), path

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row an item: id, text (None where it failed), reason."""
        import pandas as pd

        rows: list[tuple[str, str | None, str | None]] = [(name, text, None) for name, text in self.items()]
        rows += [(name, None, reason) for name, reason in self.failed.items()]
        return pd.DataFrame(rows, columns=["id", "text", "reason"], dtype=object)

    @property
    def title(self) -> str:
        """How many, by whom, where."""
        where = "" if self.path is None else f" in {self.path}"
        return f"{len(self)} transcripts by {self.model}{where}, {len(self.failed)} failed"

    def __repr__(self) -> str:
        return text_table(self.to_dataframe(), self.title, max_rows=10)

    def _repr_html_(self) -> str:
        return html_table(self.to_dataframe(), self.title, max_rows=10)


def transcribe(
    benchmark: Benchmark | str | Path,
    model: str | Path | AudioLLM | Recognizer,
    out: str | Path | None = None,
    *,
    split: str = "test",
    batch_size: int = 8,
    device: str | None = None,
    progress: bool = True,
) -> Transcripts:
    """Write down what the clips of a benchmark say.

    Parameters
    ----------
    benchmark : Benchmark, str or Path
        The clips, or where :func:`~vpanalysis.load_benchmark` finds them.
    model : str, Path, AudioLLM or callable
        A Hub id or folder for transformers' speech recognition pipeline (``HF_HUB_OFFLINE`` is honoured), a bundled
        name such as ``"mini-base"``, a loaded `AudioLLM`, or any function from clips to texts.
    out : str or Path, optional
        File to write, or a folder for its ``transcripts.json``. By default the file that `load_benchmark` reads for
        this source; a source that is no file or folder has none.
    split : str
        Which split of a source that has several.
    batch_size : int
        Clips at once; also after how many the file is written.
    device : str, optional
        As in torch; by default ``"cuda"`` where there is one, else ``"cpu"``. A loaded model stays where it is.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Transcripts
        Texts by id, of the items of this benchmark; ``failed`` has those that could not be used.

    Raises
    ------
    SchemaError
        If there is nowhere to write, or the file holds another recognizer's transcripts.
    ModelError
        If the recognizer cannot be loaded, or fails on everything.
    """
    if batch_size < 1:
        raise SchemaError("cannot transcribe", found=f"batch_size={batch_size}", allowed="1 or more")
    bench = benchmark if isinstance(benchmark, Benchmark) else load_benchmark(benchmark, split=split)
    file = _file(bench, out, split)
    name = _name(model)
    kept = _kept(file, name)
    texts, failed = dict(kept), dict[str, str]()
    todo = [item for item in bench if item.id not in kept]
    if todo:
        from tqdm.auto import tqdm

        recognize = _recognizer(model, device)
        bar = tqdm(
            total=len(bench), initial=len(bench) - len(todo), desc="transcribe", unit="clip", disable=not progress
        )
        with bar:
            for start in range(0, len(todo), batch_size):
                batch = todo[start : start + batch_size]
                said, missed = _batch(batch, recognize, untried=len(texts) == len(kept))
                texts |= said
                failed |= missed
                if said:
                    _write(file, name, texts)
                bar.update(len(batch))
    return Transcripts({i: texts[i] for i in bench.ids if i in texts}, model=name, failed=failed, path=file)


def with_transcripts(benchmark: Benchmark, transcripts: Mapping[str, str] | str | Path) -> Benchmark:
    """Return the benchmark with transcripts put in, where its items have none.

    Parameters
    ----------
    benchmark : Benchmark
    transcripts : mapping of str to str, or path
        Texts by id, or a file of them. Ids that are no item are passed over.

    Raises
    ------
    SchemaError
        If the file is no object of texts.
    """
    known = _read(Path(transcripts)) if isinstance(transcripts, (str, Path)) else transcripts
    items = [
        replace(item, transcript=known[item.id]) if item.transcript is None and item.id in known else item
        for item in benchmark
    ]
    return Benchmark(items, name=benchmark.name, source=benchmark.source, revision=benchmark.revision)


# --- the file ----------------------------------------------------------------------------------------------------


def _file(bench: Benchmark, out: str | Path | None, split: str) -> Path:
    if out is not None:
        path = Path(out).expanduser()
        return path / "transcripts.json" if path.is_dir() or not path.suffix else path
    source = Path(bench.source).expanduser()
    if bench.source == "mini" or not source.exists():
        raise SchemaError(
            f"cannot transcribe the benchmark {bench.name!r}",
            found=f"the source {bench.source!r}, which is no file or folder to write beside",
            fix="name the file with out=..., and put it in with vpanalysis.transcripts.with_transcripts",
        )
    return transcripts_file(source, split)


def _read(file: Path) -> dict[str, str]:
    asked = f"cannot read the transcripts {str(file)!r}"
    try:
        content = strict_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SchemaError(asked, found=error.strerror or str(error)) from error
    except ValueError as error:
        raise SchemaError(asked, found=f"text that is not JSON ({error})") from error
    if not isinstance(content, dict) or not all(isinstance(text, str) for text in content.values()):
        raise SchemaError(asked, found="something else", allowed="an object {id: text}")
    return content


def _kept(file: Path, model: str) -> dict[str, str]:
    if not file.exists():
        return {}
    kept = _read(file)
    made_by = kept.pop(MODEL_KEY, model)
    if made_by != model:
        raise SchemaError(
            f"cannot add transcripts by {model!r} to {str(file)!r}",
            found=f"transcripts by {made_by!r}",
            fix="name another file with out=..., or remove this one",
        )
    return kept


def _write(file: Path, model: str, texts: Mapping[str, str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    content = json.dumps({MODEL_KEY: model, **texts}, ensure_ascii=False, indent=1)
    part.write_text(content + "\n", encoding="utf-8")
    part.replace(file)


# --- clips to texts ----------------------------------------------------------------------------------------------


def _batch(items: Sequence[Item], recognize: Recognizer, *, untried: bool) -> tuple[dict[str, str], dict[str, str]]:
    """Return the texts of some items and why others have none; `untried` says that nothing was recognized so far."""
    waves: dict[str, Waveform] = {}
    failed: dict[str, str] = {}
    for item in items:
        try:
            waves[item.id] = item.audio.load()
        except AudioError as error:
            failed[item.id] = str(error)
    if not waves:
        return {}, failed
    try:
        return _recognized(waves, recognize), failed
    except Exception as error:
        # One clip may have spoilt the batch: each gets a try of its own.
        first = error
    said: dict[str, str] = {}
    for name, wave in waves.items():
        try:
            said |= _recognized({name: wave}, recognize)
        except Exception as error:
            failed[name] = f"{type(error).__name__}: {error}"
    if untried and not said:
        raise ModelError(
            "cannot transcribe with this model",
            found=f"{type(first).__name__} on every clip of the first batch: {first}",
        ) from first
    return said, failed


def _recognized(waves: Mapping[str, Waveform], recognize: Recognizer) -> dict[str, str]:
    texts = recognize(list(waves.values()))
    if len(texts) != len(waves):
        raise ModelError("cannot transcribe", found=f"{len(texts)} texts for {len(waves)} clips", allowed="one each")
    return {name: " ".join(text.split()) for name, text in zip(waves, texts, strict=True)}


def _name(model: Any) -> str:
    if isinstance(model, (str, Path)):
        return str(model)
    return str(getattr(model, "name", None) or getattr(model, "__name__", None) or type(model).__name__)


def _recognizer(model: Any, device: str | None) -> Recognizer:
    """Return a function from clips to texts."""
    if hasattr(model, "generate") and hasattr(model, "processor"):
        return _AudioLLMRecognizer(model)
    if not isinstance(model, (str, Path)):
        if not callable(model):
            raise ModelError(
                "cannot transcribe", found=f"a {type(model).__name__}",
                allowed="a Hub id, a folder, a bundled name, an AudioLLM, or a function from clips to texts",
            )  # fmt: skip
        recognize: Recognizer = model
        return recognize
    import torch

    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if _is_audio_llm(str(model)):
        from vpanalysis.models.loading import load_model

        return _AudioLLMRecognizer(load_model(model, device_map=None if place == "cpu" else place))
    return _PipelineRecognizer(str(model), place)


def _is_audio_llm(source: str) -> bool:
    """Whether `load_model` should load this: a bundled name, a split checkpoint, or a config of a known family."""
    from vpanalysis.models.bundled import CHECKPOINTS
    from vpanalysis.models.families import FAMILIES
    from vpanalysis.models.split import is_split

    if source in ("mini", *CHECKPOINTS) or (Path(source).is_dir() and is_split(source)):
        return True
    from transformers import AutoConfig

    try:
        known = FAMILIES.get(AutoConfig.from_pretrained(source, trust_remote_code=False).model_type)
        return known is not None and known.answers
    except (OSError, ValueError, KeyError):
        return False  # the pipeline says what is wrong with it


class _AudioLLMRecognizer:
    """Audio Flamingo 3 and its kin, asked with their own transcription prompt."""

    def __init__(self, llm: AudioLLM) -> None:
        self.llm = llm

    def __call__(self, waves: Sequence[Waveform]) -> list[str]:
        from transformers import GenerationConfig

        from vpanalysis.models.processing import gate_inputs

        llm = self.llm
        turn = {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": PROMPT}]}
        chat = llm.processor.apply_chat_template([turn], tokenize=False, add_generation_prompt=True)
        inputs = dict(llm.processor(text=[chat] * len(waves), audio=list(waves)))
        if llm.streams is not None:
            inputs |= gate_inputs(llm.gate_tokenizer, [PROMPT] * len(waves))
            import torch

            inputs["audio_windows"] = torch.tensor(llm.layout(waves).windows)
        moved = {
            name: value.to(llm.device, llm.dtype) if value.is_floating_point() else value.to(llm.device)
            for name, value in inputs.items()
        }
        own, tokenizer = llm.model.generation_config, llm.tokenizer
        eos = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else own.pad_token_id
        greedy = GenerationConfig(max_new_tokens=_NEW_TOKENS, do_sample=False, eos_token_id=eos, pad_token_id=pad)
        tokens = llm.model.generate(**moved, generation_config=greedy)[:, moved["input_ids"].shape[1] :]
        return [str(text) for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]


class _PipelineRecognizer:
    """Whatever transformers' speech recognition pipeline loads."""

    def __init__(self, source: str, device: str) -> None:
        import torch
        from transformers import pipeline

        from vpanalysis.models.loading import _quiet

        dtype = torch.float32 if device == "cpu" else torch.float16
        try:
            with _quiet():
                self.pipe: Any = pipeline(
                    "automatic-speech-recognition", model=source, device=device, dtype=dtype, trust_remote_code=False
                )
        # Each kind of model raises in its own way when it cannot be found or is none for this task.
        except Exception as error:
            reason = str(error).strip().splitlines()
            raise ModelError(
                f"cannot load the speech recognizer {source!r}",
                found=f"{type(error).__name__}: {reason[0] if reason else ''}",
                allowed="a Hub id or folder for transformers' automatic-speech-recognition pipeline, or a bundled name",
                fix="check the name, your login (hf auth login) and HF_HUB_OFFLINE",
            ) from error
        self.rate = int(self.pipe.feature_extractor.sampling_rate)

    def __call__(self, waves: Sequence[Waveform]) -> list[str]:
        pieces = [cut_at_quiet(wave) for wave in waves]
        flat = [{"raw": self._resampled(piece), "sampling_rate": self.rate} for clip in pieces for piece in clip]
        found = self.pipe(flat, batch_size=len(flat))
        texts = iter([str(one["text"]).strip() for one in found])
        return [" ".join(next(texts) for _ in clip) for clip in pieces]

    def _resampled(self, wave: Waveform) -> Waveform:
        if self.rate == SAMPLE_RATE:
            return wave
        import soxr

        resampled: Waveform = soxr.resample(wave, SAMPLE_RATE, self.rate, quality="HQ").astype(np.float32)
        return resampled


def cut_at_quiet(wave: Waveform, *, window: float = _WINDOW, last: float = _LAST) -> list[Waveform]:
    """Cut a clip into pieces of at most `window` seconds, at quiet moments.

    Parameters
    ----------
    wave : array, shape (samples,), float32, 16 kHz
    window : float
        Longest piece, in seconds.
    last : float
        A cut is made at the quietest tenth of a second within so many seconds before the end of a window.

    Returns
    -------
    list of array
        The whole clip, in order; one piece where it is short enough.
    """
    most, back, frame = int(window * SAMPLE_RATE), int(last * SAMPLE_RATE), SAMPLE_RATE // 10
    pieces = []
    while len(wave) > most:
        tail = wave[most - back : most]
        count = max(1, len(tail) // frame)
        energy = [float(np.square(part, dtype=np.float64).mean()) for part in np.array_split(tail, count)]
        cut = most - back + int((np.argmin(energy) + 0.5) * len(tail) / count)
        pieces.append(wave[:cut])
        wave = wave[cut:]
    return [*pieces, wave]
