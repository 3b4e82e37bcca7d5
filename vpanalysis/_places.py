"""Where a Run lies: a folder of this machine or of a shared file system, or a prefix in an object store.

Why it exists. Many nodes can write one Run when they share a file system; where they do not, they share an object store
such as S3. A Run is a few kinds of files (JSON, parquet, chunks), so the same code serves both, if the four things that
differ are said in one place.

The idea. A local place is a :class:`pathlib.Path`, and everything is as it always was: files are written beside and
renamed. A URL is a ``UPath`` of the package universal-pathlib, which has the methods of a path over fsspec. What
differs: an object store has no rename, but an object appears whole or not at all, so it is simply written; it has no
folders to make; zarr reads it through its own fsspec store; and other writers' objects must be seen at once, so
listings are never cached. Credentials and endpoints come from where the store's own client takes them (for S3
``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, ``~/.aws`` or fsspec's configuration); none is an argument here, and none
is written to a Run.

Worked example::

    place = place_of("s3://bucket/runs/af3")
    write_whole(place / "note.json", b"{}")
    is_local(place), names_in(place)         # False, {"note.json"}

What it cannot do: append, lock, or rename. A Run needs none of them; who may write is decided by a lease
(`vpanalysis._lease`).
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from vpanalysis.errors import RunError

__all__ = ["is_local", "names_in", "part_of", "place_of", "remove_tree", "reported", "write_whole", "zarr_store"]

_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")


def place_of(path: str | Path) -> Path:
    """Return a path for a local folder, and something path-like for a URL.

    Parameters
    ----------
    path : str or Path
        Such as ``"runs/mini"``, ``"s3://bucket/runs/mini"``, or a ``UPath`` with options of its own.

    Returns
    -------
    Path
        A :class:`pathlib.Path`; for URLs a ``UPath``, which has the methods used here.

    Raises
    ------
    RunError
        If a package for this kind of URL is missing, or the URL has a password.
    """
    if not isinstance(path, str):
        return _unlisted(path)
    found = _URL.match(path)
    if found is None:
        return Path(path)
    if re.match(r"[^/?#]*:[^/?#]*@", path[found.end() :]):
        # It would be kept wherever a result says of which Run it is. Not repeated here either.
        raise RunError(
            f"cannot use a place of the kind {found[1]!r}",
            found="a password in its URL",
            allowed="a URL without one",
            fix="leave it to fsspec's configuration or the environment of the store's client",
        )
    try:
        from upath import UPath
    except ImportError as error:
        raise _lacking(path, "universal-pathlib") from error
    if found[1] == "file":
        return Path(UPath(path).path)
    try:
        place = UPath(path, use_listings_cache=False)
        _ = place.fs  # whose package is imported now, not in the middle of the work
    except (ImportError, ValueError) as error:
        raise _lacking(path, str(error)) from error
    return cast("Path", place)


def _unlisted(path: Path) -> Path:
    """Return the place without a cache of listings: others write there."""
    if is_local(path):
        return path
    given = cast("Any", path)  # a UPath, with options of its own
    if given.storage_options.get("use_listings_cache") is False:
        return path
    return cast("Path", type(given)(str(given), **{**given.storage_options, "use_listings_cache": False}))


def _lacking(path: str, what: str) -> RunError:
    return RunError(
        f"cannot use the place {path!r}", found=f"no package for it ({what})", fix="pip install 'vpanalysis[s3]'"
    )


def is_local(place: Path) -> bool:
    """Return whether a place has the guarantees of a file system: atomic renames and locks."""
    return isinstance(place, Path)


def part_of(path: Path) -> Path:
    """Return a name beside a local file to write it under; each call another, so that two writers never share one."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all, and make it last.

    Parameters
    ----------
    path : Path
        In a folder that exists, where it is local.
    data : bytes
    """
    if not is_local(path):
        path.write_bytes(data)  # one object, which others see whole or not at all
        return
    part = part_of(path)
    try:
        with part.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def names_in(folder: Path) -> set[str]:
    """Return the names in a folder; none where there is no folder."""
    try:
        return {path.name for path in folder.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def remove_tree(folder: Path) -> None:
    """Delete a folder and what is in it."""
    if is_local(folder):
        shutil.rmtree(folder)
        return
    place = cast("Any", folder)
    place.fs.rm(place.path, recursive=True)


def zarr_store(path: Path) -> Any:
    """Return what zarr opens: the name of a local folder, or a store over fsspec."""
    if is_local(path):
        return str(path)
    from zarr.storage import FsspecStore

    return FsspecStore.from_url(str(path), storage_options=dict(cast("Any", path).storage_options))


@contextmanager
def reported(place: Path) -> Iterator[None]:
    """Turn what a client of an object store raises for a missing bucket or a refused key into one clear sentence."""
    try:
        yield
    except (RunError, FileNotFoundError):
        raise
    except Exception as error:
        # Clients raise OSError, and errors of their own kinds for credentials and endpoints.
        if is_local(place) or not (isinstance(error, OSError) or "botocore" in type(error).__module__):
            raise
        raise RunError(
            f"cannot use the place {str(place)!r}",
            found=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}",
            fix="check the bucket, the endpoint and your access to it",
        ) from error
