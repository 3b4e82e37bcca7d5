"""Long work in parts that are kept: what it will cost is said first, a second call is free, a killed one goes on.

Why it exists. A patching map over a real checkpoint takes hours. That must be known before; the work must survive being
interrupted, and not be done twice because a notebook was restarted.

The idea. Everything a number depends on (the model's weights, config and dtype, the items with their audio, chat form
and wording, the settings, the libraries, and the package's own code) is hashed into the name of a folder under
``$VPANALYSIS_CACHE`` (or ``~/.cache/vpanalysis``). The work is cut into *parts*, such as a batch of pairs; each is a
parquet file, written whole or not at all. A part that is there is read, so that the same question is answered without
the model. Deleting the folder is always safe, and damaged files count as missing. A model with somebody's hooks on it
is asked afresh every time.

>>> import pandas as pd, tempfile
>>> work = Work("demo", {"seed": 0}, tempfile.mkdtemp())
>>> work.part("a", lambda: pd.DataFrame({"x": [1.0]}))["x"].tolist(), work.done(["a", "b"])
([1.0], 1)
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from vpanalysis._manifest import code_version, config_sha, versions
from vpanalysis._space import human_bytes, say
from vpanalysis.errors import AudioError

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Item
    from vpanalysis.benchmark.prompts import PromptTemplate
    from vpanalysis.models.facade import AudioLLM

__all__ = ["Work", "identity", "items_sha", "say_cost"]


def items_sha(items: Iterable[Item]) -> str:
    """Return the SHA-256 (hex) of items with their audio, in order."""
    digest = hashlib.sha256()
    for item in items:
        try:
            audio = item.audio.key()
        except AudioError:
            audio = "unreadable"
        digest.update(json.dumps({**item.content(), "audio": audio}, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def identity(llm: AudioLLM, items: Sequence[Item], template: PromptTemplate) -> dict[str, Any]:
    """Return what every number depends on besides a verb's settings: model, items and wording.

    Parameters
    ----------
    llm : AudioLLM
    items : sequence of Item
    template : PromptTemplate

    Returns
    -------
    dict
        JSON can hold it.
    """
    from vpanalysis.models._weights import digest_of

    config = llm.model.config
    # What the model is asked is more than the items: chat form, what the gate reads, and how both are cut into tokens.
    asked = [llm.prompt(item, template) for item in items[:1]]
    if llm.streams is not None:
        asked += [llm.gate_text(item, template) for item in items[:1]]
    libraries = versions()
    return {
        "weights": dict(llm.weights_sha), "dtype": str(llm.dtype), "device": llm.device.type, "trim": llm.frontend.trim,
        "attention": getattr(config, "_attn_implementation", None), "config": config_sha(config),
        "features": digest_of(llm.feature_extractor.to_dict()), "asked": asked,
        "tokens": [llm.tokenizer(text)["input_ids"] for text in asked], "template": template.sha,
        "torch": libraries["torch"], "transformers": libraries["transformers"], "items": items_sha(items),
        # Under somebody's hooks it is another model, and nobody can say which: never found again.
        "hooks": uuid.uuid4().hex if _hooked(llm) else None,
    }  # fmt: skip


def _hooked(llm: AudioLLM) -> bool:
    """Return whether somebody's forward hooks are on the model; those that transformers leaves only look."""
    hooks = (
        hook
        for module in llm.model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    )
    return any(not str(getattr(hook, "__module__", "")).startswith("transformers.") for hook in hooks)


class Work:
    """The parts of one piece of work.

    Parameters
    ----------
    verb : str
        First part of the folder's name.
    key : mapping
        All that the numbers depend on; the package's own code is added.
    cache : bool, str, Path or None
        Where parts are kept: the default folder (True), another one, or nowhere (False, None).
    """

    def __init__(self, verb: str, key: Mapping[str, Any], cache: bool | str | Path | None = True) -> None:
        from vpanalysis.capture.audio_cache import default_cache_folder

        self.folder: Path | None = None
        if cache is not None and cache is not False:
            content = json.dumps({**key, "code": code_version()["sha"]}, sort_keys=True, default=str)
            root = default_cache_folder() if cache is True else Path(cache)
            self.folder = root / "attribution" / f"{verb}-{hashlib.sha256(content.encode()).hexdigest()[:24]}"

    def _file(self, name: str) -> Path | None:
        # Names may come from data, so they are hashed before they become a file's.
        digest = hashlib.sha256(name.encode()).hexdigest()[:24]
        return None if self.folder is None else self.folder / f"{digest}.parquet"

    def read(self, name: str) -> pd.DataFrame | None:
        """Return a part, or None where it is not there or damaged."""
        file = self._file(name)
        if file is None or not file.is_file():
            return None
        try:
            return pd.read_parquet(file)
        except (OSError, ValueError):  # pyarrow's errors are ValueErrors
            return None

    def write(self, name: str, table: pd.DataFrame) -> None:
        """Keep a part, whole or not at all; a full or read-only disk costs the next call's time, not this one."""
        file = self._file(name)
        if file is None:
            return
        part = file.with_name(f"{file.name}.{os.getpid()}-{threading.get_ident()}.part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            table.to_parquet(part, index=False)
            part.replace(file)
        except OSError:
            with suppress(OSError):
                part.unlink()

    def part(self, name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """Return a part, made where it is not there yet.

        Parameters
        ----------
        name : str
            Unique within the work.
        make : callable
            Returns a table without an index that matters.
        """
        known = self.read(name)
        if known is None:
            known = make()
            self.write(name, known)
        return known

    def done(self, names: Iterable[str]) -> int:
        """Return how many of these parts are there."""
        files = [self._file(name) for name in names]
        return sum(file is not None and file.is_file() for file in files)


def say_cost(
    progress: bool, what: str, *, forwards: int, seconds: float | None = None, held: int | None = None, done: str = ""
) -> None:
    """Print what a call will cost, before it.

    Parameters
    ----------
    progress : bool
        Whether to print at all, on standard error.
    what : str
        Which call, of what.
    forwards : int
        Forwards of a batch that are to be done.
    seconds : float, optional
        Estimate, from a first forward that was timed.
    held : int, optional
        Bytes of states that are held at once.
    done : str
        What is there already.
    """
    parts = [f"{forwards:,} forward{'' if forwards == 1 else 's'} to do"]
    if seconds is not None:
        parts.append(f"about {seconds:.0f} s" if seconds < 600 else f"about {seconds / 60:.0f} min")
    if held is not None:
        parts.append(f"{human_bytes(held)} of states held at once")
    say(progress, f"{what}: {', '.join(parts)}{f'; {done}' if done else ''}")
