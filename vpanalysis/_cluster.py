"""Ray, if it is there: imported quietly, and connected to a cluster.

Why it exists. Runs and probes can both be spread over a cluster, and both must do so in the same way: nothing is
reported to anybody, nothing is started that another machine could reach, and what is missing is said in one sentence.

The idea. :func:`imported` gives the module or says how to install it. :func:`join` connects, unless this process is
connected already: to the address, to what ``RAY_ADDRESS`` names, or to a cluster that it starts on the loopback
interface, without dashboard. Whoever called it and was told True shuts Ray down again.

Worked example::

    ray = imported("cannot use engine='ray'")
    started = join(ray, workers=4, address=None)
    ...
    if started:
        ray.shutdown()
"""

from __future__ import annotations

import importlib
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from vpanalysis.errors import RunError

__all__ = ["imported", "join", "loopback", "sentence"]


def imported(asked: str) -> Any:
    """Return the module of Ray.

    Parameters
    ----------
    asked : str
        What cannot be done without it, for the error.

    Raises
    ------
    RunError
        If it is not installed.
    """
    try:
        # Before Ray is imported: it reports nothing to anybody unless the user has said that it may.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        return importlib.import_module("ray")
    except ImportError as error:
        raise RunError(asked, found=f"no Ray ({error})", fix="pip install 'vpanalysis[ray]'") from error


def join(ray: Any, workers: int | None, address: str | None) -> bool:
    """Connect this process to a cluster, and return whether it was not connected before.

    Parameters
    ----------
    ray : module
    workers : int, optional
        How many the caller wants; a cluster that is started here has room for them.
    address : str, optional
        As `ray.init` takes it.

    Raises
    ------
    RunError
        If no cluster can be reached.
    """
    if ray.is_initialized():
        return False
    quiet = {"log_to_driver": False, "logging_level": "error"}
    before = signal.getsignal(signal.SIGTERM)
    try:
        if address is not None or os.environ.get("RAY_ADDRESS"):
            ray.init(address=address, **quiet)
        else:
            cpus = max(os.cpu_count() or 1, workers or 1)
            with loopback():
                ray.init(address="local", num_cpus=cpus, include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
    except Exception as error:  # Ray raises errors of many kinds here, some of them plain Exceptions
        raise RunError(
            "cannot reach a Ray cluster",
            found=sentence(error),
            allowed="an address such as 'auto', '10.0.0.1:6379' or 'ray://10.0.0.1:10001', or none to start one",
        ) from error
    finally:
        # Ray takes this signal for itself, and ends the process without letting anybody leave tidily.
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
    return True


@contextmanager
def loopback() -> Iterator[None]:
    """Let a cluster that is started meanwhile listen on the loopback interface alone.

    Ray takes the address 127.0.0.1 for an oversight and listens on every interface, except where it holds clusters of
    several machines for impossible. That it does on macOS and Windows, and where this variable says so.
    """
    try:
        constants: Any = importlib.import_module("ray._private.ray_constants")
    except ImportError:  # private, and may move
        constants = SimpleNamespace()
    name, known = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", getattr(constants, "ENABLE_RAY_CLUSTER", True)
    before = os.environ.get(name)
    os.environ[name], constants.ENABLE_RAY_CLUSTER = "0", False  # for Ray's processes, and for this one
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = known
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def sentence(error: BaseException) -> str:
    """Return the kind of an error and the first line of what it says."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
