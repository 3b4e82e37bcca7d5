"""Writing a Run: what it will be, and one block after another until it is.

The manifest is written first, then the empty store, then blocks; each of these is renamed into place, so whenever the
process dies, what is there is a valid Run with fewer blocks. The clips of the next block are decoded in a thread while
the model works on this one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from vpanalysis import _blocks, _manifest
from vpanalysis._calibrated import calibration_facts
from vpanalysis._finite import count
from vpanalysis._predictions import Answer, block_path, write_predictions
from vpanalysis._run import STORE_NAME, Run
from vpanalysis._space import check_space
from vpanalysis._trouble import storing
from vpanalysis.benchmark.parsing import PARSER_VERSION
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    from vpanalysis._finite import Counts
    from vpanalysis._passes import Heard, Passes
    from vpanalysis.benchmark.items import Benchmark, Item
    from vpanalysis.benchmark.prompts import PromptTemplate
    from vpanalysis.capture.layouts import Variable
    from vpanalysis.capture.recorder import States
    from vpanalysis.capture.reducers import Plan
    from vpanalysis.capture.store import ActivationStore
    from vpanalysis.models.facade import AudioLLM

__all__ = [
    "adopt",
    "ahead",
    "bounds",
    "check_target",
    "clear",
    "describe",
    "finished_already",
    "release",
    "write_block",
    "write_blocks",
]


def dtype_name(llm: AudioLLM) -> str:
    return str(llm.dtype).removeprefix("torch.")


def describe(
    llm: AudioLLM,
    bench: Benchmark,
    plan: Plan,
    template: PromptTemplate,
    block_size: int,
    batch_size: int,
    *,
    generate: dict[str, Any] | None,
    text_scores: bool,
    store_dtype: str,
) -> dict[str, Any]:
    """Return the manifest of the Run that is asked for."""
    config = getattr(llm.model, "config", None)
    return {
        "format": _manifest.FORMAT,
        "model": {
            "name": llm.name,
            "family": llm.family.name,
            "source": getattr(llm, "source", None) or getattr(config, "name_or_path", None) or llm.name,
            "revision": getattr(llm, "revision", None) or getattr(config, "_commit_hash", None),
            "weights": dict(llm.weights_sha),
            "encoder_sha": llm.encoder_sha,
            "config": _manifest.config_sha(config),
            "answers": llm.answers,
            "chat": _manifest.text_sha(llm.prompt(bench[0], template)) if llm.answers else None,
            "streams": list(llm.streams) if llm.streams is not None else None,
            "dtype": dtype_name(llm),
            "device": str(llm.device),
            "attn_implementation": getattr(config, "_attn_implementation", None),
        },
        "benchmark": {
            "name": bench.name,
            "source": bench.source,
            "revision": bench.revision,
            "sha": bench.sha,
            "items": len(bench),
        },
        "calibration": calibration_facts(getattr(llm, "calibration", None), bench),
        # An encoder alone is asked nothing: its Run does not depend on the wording.
        "prompt": {**template.to_dict(), "sha": template.sha} if llm.answers else None,
        "parser_version": PARSER_VERSION,
        "plan": {site: [str(reducer) for reducer in kept] for site, kept in plan.items()},
        "store_dtype": store_dtype,
        "generate": generate,
        "text_scores": text_scores,
        "block_size": block_size,
        "batch_size": batch_size,
        "letters": _letters(llm, bench) if llm.answers else {},
        # Nothing here is random: dropout is off, decoding is greedy, batches follow from the items.
        "seed": None,
        "versions": dict(_manifest.versions()),
        "code": dict(_manifest.code_version()),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _letters(llm: AudioLLM, bench: Benchmark) -> dict[str, str]:
    """Return how each offered letter is scored: by one token, or by the sum over variants."""
    llm.letter_tokens(sorted({letter for item in bench for letter in item.letters}))
    return dict(llm.letter_report)


def finished_already(folder: Path, asked: Mapping[str, Any]) -> Run | None:
    """Return the Run in `folder` if it is this one and complete, without taking the lock."""
    if not (folder / _manifest.MANIFEST_NAME).is_file():
        return None
    _refuse_other(folder, _manifest.read_manifest(folder), asked)
    found = Run(folder)
    store = found._store
    whole = store is not None and all(_is_whole(folder, store, b) for b in range(found.n_blocks))
    return found if found.is_complete and (whole or not found.sites) else None


def _refuse_other(folder: Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    other = _manifest.differences(stored, asked)
    if other:
        raise RunError(
            f"cannot go on with the Run {str(folder)!r}",
            found="it was made with other settings: " + "; ".join(other),
            fix="choose another folder, or start over with force=True",
        )


def check_target(folder: Path) -> None:
    """Refuse to write among files that are not a Run's."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"cannot write the Run {str(folder)!r}", found="a file", allowed="a folder")
    if not folder.exists() or (folder / _manifest.MANIFEST_NAME).exists():
        return
    ours = {_blocks.LOCK_NAME, f"{_manifest.MANIFEST_NAME}.part"}
    others = sorted(p.name for p in folder.iterdir() if p.name not in ours)
    if others:
        raise RunError(
            f"cannot write the Run {str(folder)!r}",
            found=f"other things there, such as {others[0]!r}",
            allowed="a new or empty folder, or one that holds a Run",
        )


def clear(folder: Path) -> None:
    """Delete the Run in `folder`; the manifest last, so that an interrupted deletion is still known as a Run."""
    for path in sorted(folder.iterdir(), key=lambda p: p.name == _manifest.MANIFEST_NAME):
        if path.name == _blocks.LOCK_NAME:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def adopt(folder: Path, asked: Mapping[str, Any]) -> None:
    """Make the folder this Run: check the manifest that is there, or write it; sweep up after a killed writer."""
    if (folder / _manifest.MANIFEST_NAME).is_file():
        _refuse_other(folder, _manifest.read_manifest(folder), asked)
    else:
        _manifest.write_json(folder / _manifest.MANIFEST_NAME, asked)
    _blocks.sweep(folder)


def bounds(items: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, items, size):
        yield start, min(items, start + size)


def _is_whole(folder: Path, store: ActivationStore, block: int) -> bool:
    """Whether a block has its marker and, in case files were lost behind our back, everything the marker promises."""
    return (
        _blocks.read_marker(folder, block) is not None
        and block_path(folder, block).is_file()
        and store.has_block(block)
    )


def write_blocks(folder: Path, passes: Passes, bench: Benchmark, progress: bool) -> None:
    """Do every block that is not done."""
    manifest = _manifest.read_manifest(folder)
    size = int(manifest["block_size"])
    sizes = passes.sizes(bench[0])
    from vpanalysis.capture.layouts import layout

    variables = layout(passes.plan, sizes.widths, passes.longest(bench))
    passes.cache = check_space(folder, passes, bench, variables, manifest, sizes.cache_bytes_per_window, progress)
    with storing(folder, "the store"):
        store = _open_store(folder, variables, passes, bench, manifest)
    blocks = list(bounds(len(bench), size))
    todo = []
    for number in range(len(blocks)):
        if not _is_whole(folder, store, number):
            # A marker without its data is worse than none.
            _blocks.forget(folder, number)
            todo.append(number)
    done = sum(blocks[n][1] - blocks[n][0] for n in range(len(blocks)) if n not in set(todo))
    label = f"{passes.llm.name} on {bench.name}"
    code = _manifest.code_version()["sha"]
    with tqdm(total=len(bench), initial=done, desc=label, unit="item", disable=not progress) as bar:
        for number, (items, heard) in zip(todo, ahead(passes, bench, [blocks[n] for n in todo]), strict=True):
            answers, states = passes.block(items, heard)
            facts = {
                "items": len(items),
                "failed": sum(answer.reason is not None for answer in answers),
                "batch_size": passes.batch_size,
                "device": str(passes.llm.device),
                "code": code,
                "nonfinite": _nonfinite(answers, states, manifest),
            }
            write_block(folder, store, number, items, answers, states, facts)
            release(items)
            bar.update(len(items))


def write_block(
    folder: Path,
    store: ActivationStore,
    number: int,
    items: Sequence[Item],
    answers: Sequence[Answer],
    states: States,
    facts: dict[str, Any],
) -> None:
    """Put one block on disk: states, predictions, and last the marker that declares it finished."""
    with storing(folder, f"block {number}"):
        store.write(number, states)
        checksum = write_predictions(folder, number, items, answers)
        _blocks.write_marker(folder, number, {**facts, "predictions_crc32": checksum})


def _nonfinite(answers: Sequence[Answer], states: States, manifest: Mapping[str, Any]) -> Counts:
    """Count the items of a block whose states are not finite, by site."""
    return count(
        states,
        np.array([answer.reason is None for answer in answers]),
        clipping=manifest["store_dtype"] == "float16",
        options=[answer.option_logprobs for answer in answers] if manifest["model"].get("answers", True) else None,
    )


def ahead(
    passes: Passes, bench: Benchmark, bounds: Sequence[tuple[int, int]]
) -> Iterator[tuple[list[Item], list[Heard]]]:
    """Yield blocks with their clips heard, one block ahead of the model in another thread."""
    blocks = [[bench[i] for i in range(start, stop)] for start, stop in bounds]
    with ThreadPoolExecutor(1, thread_name_prefix="vpanalysis-listen") as thread:
        waiting = thread.submit(passes.listen, blocks[0]) if blocks else None
        for number, block in enumerate(blocks):
            assert waiting is not None
            heard = waiting.result()
            if number + 1 < len(blocks):
                waiting = thread.submit(passes.listen, blocks[number + 1])
            yield block, heard


def release(items: Sequence[Item]) -> None:
    """Let go of clips that were synthesized and are kept in memory; they are needed once."""
    for item in items:
        release = getattr(item.audio, "release", None)
        if release is not None:
            release()


def _open_store(
    folder: Path, variables: Sequence[Variable], passes: Passes, bench: Benchmark, manifest: Mapping[str, Any]
) -> ActivationStore:
    from vpanalysis.capture.store import ActivationStore

    path, part = folder / STORE_NAME, folder / f"{STORE_NAME}.part"
    if path.is_dir():
        store = ActivationStore(path)
        if store.variables != list(variables):
            raise RunError(
                f"cannot go on with the Run {str(folder)!r}",
                found="a store with other variables",
                fix="start over with force=True",
            )
        return store
    if part.exists():
        shutil.rmtree(part)
    encoder, tower = passes.llm.seconds_per_frame
    ActivationStore.create(
        part,
        variables,
        _coordinates(bench),
        items=len(bench),
        block_size=int(manifest["block_size"]),
        dtype=str(manifest["store_dtype"]),
        streams=passes.llm.streams,
        frame_seconds={"encoder": encoder, "tower": tower, "audio": passes.llm.seconds_per_token},
    )
    # Arrays and coordinates are there whole, or not at all.
    part.replace(path)
    return ActivationStore(path)


def _coordinates(bench: Benchmark) -> dict[str, list[str]]:
    """Return the items' labels as text; lists as JSON, missing ones empty."""
    names = {"id": "id", "task": "task_name", "condition": "condition", "truth": "truth", "cell": "cell"}
    names |= {name: name for name in ("speaker", "voice", "script")}
    table = {label: [getattr(item, name) or "" for item in bench] for label, name in names.items()}
    for name in ("choices", "said", "claims", "foils"):
        table[name] = [json.dumps(list(getattr(item, name)), ensure_ascii=False) for item in bench]
    return table
