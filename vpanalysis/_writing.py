"""Writing a Run: what it will be, and one block after another until it is.

The manifest is written first, then the empty store, then blocks; each of these is renamed into place, so whenever the
process dies, what is there is a valid Run with fewer blocks. Who does the blocks, one process or many, is the affair of
a crew (`vpanalysis._worker`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from vpanalysis import _blocks, _manifest
from vpanalysis._calibrated import calibration_facts
from vpanalysis._lease import LEASE_NAME
from vpanalysis._places import is_local, names_in, remove_tree, write_whole
from vpanalysis._predictions import block_path
from vpanalysis._run import STORE_NAME, Run
from vpanalysis._space import check_space
from vpanalysis._trouble import storing
from vpanalysis.benchmark.parsing import PARSER_VERSION
from vpanalysis.errors import RunError

if TYPE_CHECKING:
    from vpanalysis._worker import Crew, ModelFacts, Setup, Wording
    from vpanalysis.benchmark.items import Benchmark
    from vpanalysis.benchmark.prompts import PromptTemplate
    from vpanalysis.capture.layouts import Variable
    from vpanalysis.capture.reducers import Plan
    from vpanalysis.capture.store import ActivationStore

__all__ = [
    "adopt",
    "bounds",
    "check_target",
    "clear",
    "describe",
    "finished_already",
    "letters_of",
    "write_blocks",
]


def describe(
    told: ModelFacts,
    wording: Wording,
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
    return {
        "format": _manifest.FORMAT,
        "model": {**told.manifest, "chat": wording.chat},
        "benchmark": {
            "name": bench.name,
            "source": bench.source,
            "revision": bench.revision,
            "sha": bench.sha,
            "items": len(bench),
        },
        "calibration": calibration_facts(told.calibration, bench),
        # An encoder alone is asked nothing: its Run does not depend on the wording.
        "prompt": {**template.to_dict(), "sha": template.sha} if told.answers else None,
        "parser_version": PARSER_VERSION,
        "plan": {site: [str(reducer) for reducer in kept] for site, kept in plan.items()},
        "store_dtype": store_dtype,
        "generate": generate,
        "text_scores": text_scores,
        "block_size": block_size,
        "batch_size": batch_size,
        "letters": wording.letters,
        # Nothing here is random: dropout is off, decoding is greedy, batches follow from the items.
        "seed": None,
        "versions": dict(_manifest.versions()),
        "code": dict(_manifest.code_version()),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def letters_of(bench: Benchmark) -> list[str]:
    """Return the letters that occur."""
    return sorted({letter for item in bench for letter in item.letters})


def finished_already(folder: Path, asked: Mapping[str, Any]) -> Run | None:
    """Return the Run in `folder` if it is this one and complete, without taking the lock."""
    if not (folder / _manifest.MANIFEST_NAME).is_file():
        return None
    _refuse_other(folder, _manifest.read_manifest(folder), asked)
    found = Run(folder)
    store = found._store
    whole = store is not None and len(_whole_blocks(folder, store, found.n_blocks)) == found.n_blocks
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
    ours = {_blocks.LOCK_NAME, LEASE_NAME}
    others = sorted(n for n in names_in(folder) - ours if not (n.startswith("manifest.json.") and n.endswith(".part")))
    if others:
        raise RunError(
            f"cannot write the Run {str(folder)!r}",
            found=f"other things there, such as {others[0]!r}",
            allowed="a new or empty folder, or one that holds a Run",
        )


def clear(folder: Path) -> None:
    """Delete the Run in `folder`; the manifest last, so that an interrupted deletion is still known as a Run."""
    # First what says that the store is whole, then that blocks are: a store half deleted would be gone on with, its
    # labels missing.
    part = folder / f"{STORE_NAME}.part"
    ranks = {f"{STORE_NAME}.made": 0, part.name: 0, _blocks.FOLDER: 1, _manifest.MANIFEST_NAME: 3}
    for path in sorted(folder.iterdir(), key=lambda p: ranks.get(p.name, 2)):
        if path.name in (_blocks.LOCK_NAME, LEASE_NAME):
            continue
        if path.is_dir() and not path.is_symlink():
            remove_tree(path.replace(part) if is_local(path) and path.name == STORE_NAME else path)
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


def _whole_blocks(folder: Path, store: ActivationStore, count: int) -> set[int]:
    """Return the blocks that have their marker and, in case files were lost behind our back, all that it promises."""
    tables = names_in(block_path(folder, 0).parent)
    stored = store.blocks()
    return {b for b in _blocks.finished_blocks(folder, count) if b in stored and block_path(folder, b).name in tables}


def write_blocks(
    crew: Crew, setup: Setup, told: ModelFacts, bench: Benchmark, check: Callable[[], None], progress: bool
) -> None:
    """Do every block that is not done."""
    from vpanalysis.capture.layouts import layout

    folder = setup.folder
    manifest = _manifest.read_manifest(folder)
    size = int(manifest["block_size"])
    crew.begin(setup)
    sizes = crew.sizes(bench[0])
    variables = layout(setup.plan, sizes.widths, crew.longest(bench))
    cost = sizes.cache_bytes_per_window
    if not check_space(setup, told, bench, variables, manifest, cost, progress) and setup.cache is not None:
        crew.begin(replace(setup, cache=None))
    with storing(folder, "the store"):
        store = _open_store(folder, variables, told, bench, manifest)
    blocks = list(bounds(len(bench), size))
    whole = _whole_blocks(folder, store, len(blocks))
    todo = {}
    for number in range(len(blocks)):
        if number not in whole:
            # A marker without its data is worse than none.
            _blocks.forget(folder, number)
            todo[number] = blocks[number]
    done = len(bench) - sum(stop - start for start, stop in todo.values())
    label = f"{told.name} on {bench.name}"
    with tqdm(total=len(bench), initial=done, desc=label, unit="item", disable=not progress) as bar:
        for number in crew.do(bench, todo, check, progress):
            bar.update(blocks[number][1] - blocks[number][0])


def _open_store(
    folder: Path, variables: Sequence[Variable], told: ModelFacts, bench: Benchmark, manifest: Mapping[str, Any]
) -> ActivationStore:
    from vpanalysis.capture.store import ActivationStore

    path, part = folder / STORE_NAME, folder / f"{STORE_NAME}.part"
    # Where nothing can be renamed, a file beside the store says that its arrays were all made; so does any block, as of
    # a Run that was copied there.
    made = folder / f"{STORE_NAME}.made"
    if path.is_dir() if is_local(path) else made.is_file() or names_in(folder / _blocks.FOLDER):
        store = ActivationStore(path)
        if store.variables != list(variables):
            raise RunError(
                f"cannot go on with the Run {str(folder)!r}",
                found="a store with other variables",
                fix="start over with force=True",
            )
        return store
    if not is_local(path):
        part = path
    if part.exists():
        remove_tree(part)
    ActivationStore.create(
        part,
        variables,
        _coordinates(bench),
        items=len(bench),
        block_size=int(manifest["block_size"]),
        dtype=str(manifest["store_dtype"]),
        streams=told.streams,
        frame_seconds=told.frame_seconds,
    )
    # Arrays and coordinates are there whole, or not at all.
    if is_local(path):
        part.replace(path)
    else:
        write_whole(made, b"")
    return ActivationStore(path)


def _coordinates(bench: Benchmark) -> dict[str, list[str]]:
    """Return the items' labels as text; lists as JSON, missing ones empty."""
    names = {"id": "id", "task": "task_name", "condition": "condition", "truth": "truth", "cell": "cell"}
    names |= {name: name for name in ("speaker", "voice", "script")}
    table = {label: [getattr(item, name) or "" for item in bench] for label, name in names.items()}
    for name in ("choices", "said", "claims", "foils"):
        table[name] = [json.dumps(list(getattr(item, name)), ensure_ascii=False) for item in bench]
    return table
