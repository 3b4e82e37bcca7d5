"""What goes wrong around a Run and is nobody's bug: full disks, folders that may not be written, too few open files.

Why it exists. Such an error comes from the depth of a library, names a temporary file and not the Run, and leaves the
user with the question that matters: is what I have still good? It is, and the message says so.

The idea. Errors of the operating system are turned into a `RunError` at the edge of a Run. Around single steps of
writing every one of them; around the whole loop only those that are about the machine, because an error inside a model
is the model's.

Worked example::

    with storing(folder, "block 3"):
        store.write(3, states)
    # cannot write block 3 of the Run 'runs/af3': found no space left on device; free some space and call again:
    # finished blocks are kept
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vpanalysis.errors import RunError

__all__ = ["of_the_machine", "storing"]

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_FILES = {errno.EMFILE, errno.ENFILE}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}


def of_the_machine(error: BaseException) -> bool:
    """Return whether an error says that the machine has no more disk or open files to give, whoever asked."""
    return isinstance(error, OSError) and error.errno in _FULL | _FILES | {errno.EROFS}


@contextmanager
def storing(folder: Path, what: str | None = None) -> Iterator[None]:
    """Turn errors of the operating system into one about the Run in `folder`.

    Parameters
    ----------
    folder : Path
        Of the Run.
    what : str, optional
        The part that is being written, such as ``"block 3"``. Without it only errors that are about the machine are
        turned, because others may be about a clip or a model.

    Raises
    ------
    RunError
    """
    try:
        yield
    except OSError as error:
        if what is None and not of_the_machine(error):
            raise
        raise _said(folder, what, error) from error


def _said(folder: Path, what: str | None, error: OSError) -> RunError:
    place = f"the Run {str(folder)!r}"
    reason = _reason(error)
    if error.errno in _FULL:
        fix: str | None = "free some space and call again: finished blocks are kept"
    elif error.errno in _FILES:
        fix = "allow more open files (ulimit -n) and call again: finished blocks are kept"
    elif error.errno in _FORBIDDEN:
        fix = "choose a folder that you may write to"
    else:
        fix = "call again when this is mended: finished blocks are kept"
    return RunError(f"cannot write {what + ' of ' if what else ''}{place}", found=reason, fix=fix)


def _reason(error: OSError) -> str:
    import os

    said = os.strerror(error.errno) if error.errno else str(error).splitlines()[0] if str(error) else "an error"
    name = Path(str(error.filename)).name if error.filename else ""
    return f"{said[:1].lower()}{said[1:]}" + (f" ({name!r})" if name else "")
