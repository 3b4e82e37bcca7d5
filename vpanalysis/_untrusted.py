"""Files that nobody checked: how they are opened, and how JSON in them is read.

Why it exists. Tables, clips and checkpoints come from strangers. A path may name a pipe, on which reading waits for
ever, or a device that never ends; JSON may be nested until the parser gives up with an error that no caller expects,
and may say one thing twice, of which a plain parser keeps the last without a word. All readers meet these cases, so
they are settled here once.

The idea. `open_regular` opens without waiting and looks at what it *opened*, not at the name, so nothing can be swapped
in between. `strict_json` turns everything that is wrong with a text into a ``ValueError`` with a sentence.

Worked example::

    with open_regular(path) as handle:            # OSError "a named pipe" instead of waiting for a writer
        content = strict_json(handle.read())      # ValueError "the name 'id' twice in one object"

What it cannot do: bound the memory of a text that was already read. Who reads a file decides how long it may be.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any

__all__ = ["is_text", "kind_of_file", "open_regular", "strict_json"]

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def kind_of_file(mode: int) -> str | None:
    """Return what something is that is no regular file, by its `st_mode`; None for a regular file."""
    if stat.S_ISREG(mode):
        return None
    return next((name for test, name in _KINDS if test(mode)), "no regular file")


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading bytes; links are followed.

    Raises
    ------
    OSError
        As of ``open``; and with a `strerror` such as ``"a named pipe instead of a file"`` for anything else.
    """
    # Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    kind = kind_of_file(os.fstat(descriptor).st_mode)
    if kind is not None:
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"{kind} instead of a file", str(path))
    return os.fdopen(descriptor, "rb")


def strict_json(text: str | bytes) -> Any:
    """Return what a JSON text holds; bytes are UTF-8.

    Raises
    ------
    ValueError
        If it is no JSON, is nested too deeply, holds a number of thousands of digits, or has an object in which a name
        stands twice.
    """
    try:
        return json.loads(text.decode("utf-8") if isinstance(text, bytes) else text, object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("lists or objects nested too deeply") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the name {twice[:80]!r} twice in one object")
    return content


def is_text(value: str) -> bool:
    """Whether a string can be written as UTF-8; JSON can smuggle in halves of characters that cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
