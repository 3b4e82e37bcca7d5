"""The verbs ``vpanalysis lab`` and ``vpanalysis app``: open a notebook to work in, or as a page to look at.

Why it exists. Between an installed package and a first picture stand where the notebooks are, how a server is started
safely, and what a first JupyterLab asks of a newcomer. These verbs answer them: the notebooks are found or copied, the
server listens on this machine only and wants its token, and nothing is fetched or announced.

The idea. What a person edited is theirs: in a checkout the folder ``notebooks`` is used as it is, elsewhere fresh
copies go to ``./vpanalysis-notebooks``, and files that are there stay. The server's configuration is a temporary
folder, so that no setting of the user's own is touched.

Worked example::

    vpanalysis lab 02_probe_layers
    vpanalysis lab --no-browser        # prints the address; for a remote machine with a tunnel
    vpanalysis app 04_gates            # widgets and pictures, without code
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from vpanalysis import _console
from vpanalysis.errors import RunError

__all__ = ["app_command", "lab_command", "register", "working_folder"]

_LAB = (
    "\b\nExamples:\n"
    "  vpanalysis lab  # JupyterLab in the folder of the notebooks\n"
    "  vpanalysis lab 02_probe_layers\n"
    "  vpanalysis lab 00_quickstart --no-browser --port 8899"
)
_APP = (
    "\b\nExamples:\n"
    "  vpanalysis app 04_gates  # the notebook as a page, without its code\n"
    "  vpanalysis app 01_voxparadox_eval --no-browser"
)
_REPORT = "\b\nExamples:\n  vpanalysis report runs/mini-base runs/mini-pclm -o report.html"
_FOLDER = "vpanalysis-notebooks"
_TEMPLATE = "vpanalysis"
_WIDGETS = ["@voila-dashboards/widgets-manager8", "@jupyter-widgets/jupyterlab-manager", "anywidget"]
"""The extensions that a page needs; others may be made for JupyterLab alone."""
_ANNOUNCEMENTS = "@jupyterlab/apputils-extension:announcements"

NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Only print the address.")]
Port = Annotated[int | None, typer.Option("--port", min=1, max=65535, help="Default: a free one.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command(epilog=_LAB)(lab)
    app.command("app", epilog=_APP)(app_)
    app.command(epilog=_REPORT)(report)


def report(
    runs: Annotated[list[str], typer.Argument(help="Run folders, or their URLs.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("report.html"),
    clips: Annotated[int, typer.Option("--clips", min=0, help="Items to show with their sound.")] = 4,
) -> None:
    """Write Runs as one HTML page: tables, pictures, a few clips, and where it came from."""
    from vpanalysis.explore import report as call

    made = call(runs, out, clips=clips)
    print(f"{made}: {made.stat().st_size / 1e6:.1f} MB")


def lab(
    name: Annotated[str | None, typer.Argument(help="A notebook, such as 00_quickstart.")] = None,
    no_browser: NoBrowser = False,
    port: Port = None,
) -> None:
    """Open the notebooks in JupyterLab, on this machine only.

    Works in ./notebooks of a checkout; elsewhere copies fresh notebooks to ./vpanalysis-notebooks, where files that
    exist are kept.
    """
    _need("jupyterlab", "jupyterlab", "")
    folder = working_folder()
    notebook = None if name is None else _notebook(folder, name)
    _serve(folder, *lab_command(folder, notebook, port or _free_port(), secrets.token_hex(24), browser=not no_browser))


def app_(
    name: Annotated[str, typer.Argument(help="A notebook, such as 04_gates.")],
    no_browser: NoBrowser = False,
    port: Port = None,
) -> None:
    """Serve a notebook as a page without code, through Voila, on this machine only.

    The notebook is executed when the page is opened, which takes as long as running it.
    """
    _need("voila", "Voila", "app")
    folder = working_folder()
    _serve(folder, *app_command(folder, _notebook(folder, name), port or _free_port(), secrets.token_hex(24),
                                browser=not no_browser))  # fmt: skip


# --- what is opened ----------------------------------------------------------------------------------------------


def working_folder(here: str | Path = ".", *, say: bool = True) -> Path:
    """Return the folder to open, with notebooks in it; nothing that exists is written over.

    Parameters
    ----------
    here : str or Path
        Where the command was called.
    say : bool
        Tell which files were copied.

    Returns
    -------
    Path
        `here` or its ``notebooks``, where they hold the notebooks of a checkout; else its ``vpanalysis-notebooks``.

    Raises
    ------
    RunError
        Where the installation has no notebooks to copy.
    """
    from vpanalysis._notebooks import shipped

    start = Path(here).resolve()
    for folder in (start / "notebooks", start):
        # A script beside its notebook: a checkout, or a copy that was made by an earlier call.
        if (folder / "00_quickstart.py").is_file() and (folder / "00_quickstart.ipynb").is_file():
            return folder
    found = shipped()
    if not found:
        raise RunError("cannot open the notebooks", found="an installation without them",
                       fix="call it in a checkout, or install the package again")  # fmt: skip
    target = start / _FOLDER
    target.mkdir(exist_ok=True)
    fresh = [path for name, path in found.items() if not (target / name).exists()]
    for path in fresh:
        shutil.copyfile(path, target / path.name)
    if say and fresh:
        kept = len(found) - len(fresh)
        _console.remark(f"copied {len(fresh)} files to {target}" + (f", kept {kept} that were there" if kept else ""))
    return target


def _notebook(folder: Path, name: str) -> str:
    """Return the file name of a notebook in a folder; ``"quickstart"`` or ``"00"`` will do for ``00_quickstart``."""
    have = sorted(path.stem for path in folder.glob("*.ipynb"))
    wanted = Path(name).name.removesuffix(".ipynb")
    close = [one for one in have if wanted == one or wanted in one.split("_", 1)]
    if len(close) != 1:
        raise RunError(f"cannot open {name!r}", found="no such notebook", allowed=have, word=wanted)
    return f"{close[0]}.ipynb"


def _need(module: str, title: str, extra: str) -> None:
    """Raise one sentence with the command that installs what is missing."""
    if find_spec(module) is None:
        command = f'pip install "vpanalysis[{extra}]"' if extra else f"pip install {module}"
        raise RunError(f"cannot open the notebook: {title} is not installed", fix=command)


# --- servers -----------------------------------------------------------------------------------------------------

# Containers run as root, which Jupyter refuses unless told; the server listens on this machine alone either way.
_AS_ROOT = ["--allow-root"] if getattr(os, "geteuid", lambda: 1)() == 0 else []

Command = tuple[Sequence[str], Mapping[str, str], str]
"""Words of the command, variables to add to its environment, and the address to print."""


def lab_command(folder: Path, notebook: str | None, port: int, token: str, *, browser: bool) -> Command:
    """Return how JupyterLab is started: on the loopback address, with a token, without extensions from a network."""
    path = f"/lab/tree/{notebook}" if notebook else "/lab"
    words = [
        sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}", f"--ServerApp.open_browser={browser}",
        f"--LabApp.default_url={path}", "--LabApp.extension_manager=readonly", "--ServerApp.answer_yes=True",
        "--Application.log_level=WARN", *_AS_ROOT,
    ]  # fmt: skip
    # In the environment, because other users of the machine can read the words of a command.
    return words, {"JUPYTER_TOKEN": token}, f"http://127.0.0.1:{port}{path}?token={token}"


def app_command(folder: Path, notebook: str, port: int, token: str, *, browser: bool) -> Command:
    """Return how Voila is started: on the loopback address, with a token."""
    # With auto_token the server asks for one, and takes the one that is in the environment.
    words = [
        sys.executable, "-m", "voila", str(folder / notebook), "--Voila.ip=127.0.0.1", f"--port={port}",
        "--Voila.port_retries=0", "--Voila.auto_token=True", f"--Voila.open_browser={browser}",
        f"--template={_TEMPLATE}", f"--VoilaConfiguration.extension_allowlist={_WIDGETS}",
    ]  # fmt: skip
    return words, {"JUPYTER_TOKEN": token}, f"http://127.0.0.1:{port}/?token={token}"


def _local_template(place: Path) -> None:
    """Write Voila's own page template without the style sheets that it asks a server on the internet for."""
    from jupyter_core.paths import jupyter_path

    found = (Path(path) / "lab" / "index.html.j2" for path in jupyter_path("voila", "templates"))
    own = next((path for path in found if path.is_file()), None)
    if own is not None:
        target = place / "voila" / "templates" / _TEMPLATE
        target.mkdir(parents=True)
        kept = [line for line in own.read_text(encoding="utf-8").splitlines() if "https://" not in line]
        (target / "index.html.j2").write_text("\n".join(kept) + "\n", encoding="utf-8")
        (target / "conf.json").write_text(json.dumps({"base_template": "lab"}), encoding="utf-8")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _serve(folder: Path, words: Sequence[str], variables: Mapping[str, str], address: str) -> None:
    """Run a server until it is stopped, with settings of its own."""
    with tempfile.TemporaryDirectory(prefix="vpanalysis-jupyter-") as place:
        page = Path(place) / "labconfig" / "page_config.json"
        page.parent.mkdir()
        page.write_text(json.dumps({"disabledExtensions": {_ANNOUNCEMENTS: True}}), encoding="utf-8")
        _local_template(Path(place))
        _console.remark(f"notebooks in {folder}; Ctrl-C stops the server")
        print(address, flush=True)
        environment = {**os.environ, **variables}
        for path in ("JUPYTER_CONFIG_PATH", "JUPYTER_PATH"):
            environment[path] = os.pathsep.join([place, *filter(None, [os.environ.get(path)])])
        # In a session of its own: Ctrl-C comes here, and the server is then stopped once, with its kernels.
        server = subprocess.Popen(words, cwd=folder, env=environment, start_new_session=True)
        before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        try:
            code = server.wait()
        except KeyboardInterrupt:
            code = 0
        finally:
            _stop(server)
            signal.signal(signal.SIGTERM, before)
    if code:
        raise RunError("the server stopped", found=f"exit code {code}", fix="its messages are above")


def _stop(server: subprocess.Popen[bytes], patience_s: float = 15.0) -> None:
    """End a server, by asking first."""
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(timeout=patience_s)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
