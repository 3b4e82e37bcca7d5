"""What a figure was made of: its code, its published numbers, and the Runs that it read.

Why it exists. "This picture is current" is a claim about everything it depends on. A list of all Runs at hand would be
too long (a new Run would make every picture old) and a list kept by hand would be wrong.

The idea. Sources are handed to an entry through a wrapper that notes which Runs it took a score, a result or the Run
itself of; asking what there is (names, variants, whether a Run is of the organism) is not noted. Code is the module of
the entry and everything in this package's ``figures`` and ``plots`` that it imports, followed through their source.

What it cannot show: that a Run was needed. An entry that walks over all Runs has read them all.

>>> watched = Watched(Sources(()))
>>> watched.names, watched.identities()
([], {})
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpanalysis.figures._sources import Sources

if TYPE_CHECKING:
    from vpanalysis._run import Run
    from vpanalysis.scoring import Score

__all__ = ["Watched", "file_sha", "published_shas", "source_shas", "text_sha"]

_ROOMS = ("vpanalysis.figures", "vpanalysis.plots")
# How every picture is drawn and saved, whatever its module imports.
_ALWAYS = ("vpanalysis.figures._drawing", "vpanalysis.figures._files", "vpanalysis.plots.style")


def text_sha(text: str | bytes) -> str:
    """Return the SHA-256 (hex) of a text or of bytes."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def file_sha(path: Path) -> str | None:
    """Return the SHA-256 (hex) of a file, or None where there is none."""
    return text_sha(path.read_bytes()) if path.is_file() else None


class _Noted(dict[str, "Run"]):
    """Runs by name; taking one is noted, asking for names is not."""

    def __init__(self, runs: Mapping[str, Run], used: set[str]) -> None:
        super().__init__(runs)
        self._used = used

    def __getitem__(self, name: str) -> Run:
        found = super().__getitem__(name)
        self._used.add(name)
        return found

    def get(self, name: str, default: Any = None) -> Any:
        if name in self:
            self._used.add(name)
        return super().get(name, default)

    def values(self) -> Any:
        self._used.update(self)
        return super().values()

    def items(self) -> Any:
        self._used.update(self)
        return super().items()


class Watched(Sources):
    """Sources that remember what was taken from them; what was read before is shared with the sources behind them."""

    def __init__(self, behind: Sources) -> None:
        self._behind = behind
        self.used: set[str] = set()
        self.all = _Noted(behind.all, self.used)
        self._scores, self._results = behind._scores, behind._results

    @property
    def names(self) -> list[str]:
        """Names of the Runs that answered conflict items of an unchanged benchmark."""
        return self._behind.names

    @property
    def others(self) -> list[str]:
        """Names of the Runs that answered, without conflict items."""
        return self._behind.others

    @property
    def encoders(self) -> list[str]:
        """Names of the Runs of encoders that answer nothing."""
        return self._behind.encoders

    def variants(self, *wanted: str) -> dict[str, str]:
        """Return names of Runs and their variant."""
        return self._behind.variants(*wanted)

    def is_planted(self, name: str) -> bool:
        """Whether a Run is of the bundled organism."""
        return self._behind.is_planted(name)

    @property
    def planted(self) -> list[str]:
        """Runs of the bundled organism."""
        return self._behind.planted

    def changed(self, name: str, condition: str) -> Run | None:
        """Return the Run of the same model on the benchmark under a condition, or None."""
        found = self._behind.changed(name, condition)
        if found is not None:
            self.used.add(found.name)
        return found

    def score(self, name: str) -> Score:
        """Return the Score of a Run."""
        self.used.add(name)
        return self._behind.score(name)

    def results(self, kind: str, name: str | None = None, **settings: Any) -> Iterator[tuple[str, Any]]:
        """Yield the kept results of a kind."""
        for found, result in self._behind.results(kind, name, **settings):
            self.used.add(found)
            yield found, result

    def identities(self, names: Iterable[str] | None = None) -> dict[str, dict[str, str]]:
        """Return what the numbers depend on, as hashes, of each Run that was used, or of `names`; in order of names."""
        whole, wanted = self._behind.identity, self.used if names is None else set(names)
        return {
            name: {part: text_sha(json.dumps(value, sort_keys=True))[:16] for part, value in whole[name].items()}
            for name in sorted(wanted & set(whole))
        }


def source_shas(module: str) -> dict[str, str]:
    """Return the hash of a module and of what it imports of ``figures`` and ``plots``, by name, its own first."""
    found: dict[str, str] = {}
    open_ = [module, *_ALWAYS]
    while open_:
        name = open_.pop(0)
        path = _path_of(name)
        if path is None or name in found or path.name == "__init__.py":
            continue  # a package only gathers what its modules define
        content = path.read_bytes()
        found[name] = text_sha(content)[:16]
        open_ += _imported(content)
    return {module: found[module], **dict(sorted(found.items()))} if module in found else dict(sorted(found.items()))


@lru_cache(maxsize=256)
def _imported(content: bytes) -> tuple[str, ...]:
    """Return names of the modules of `_ROOMS` that a source imports, anywhere in it."""
    names: list[str] = []
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(dict.fromkeys(name for name in names if name.startswith(_ROOMS)))


def _path_of(module: str) -> Path | None:
    try:
        spec = find_spec(module)
    except (ImportError, AttributeError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def published_shas(names: tuple[str, ...]) -> dict[str, str | None]:
    """Return the hash of each table of published numbers; None for one that is not there."""
    folder = Path(__file__).parent / "published"
    out: dict[str, str | None] = {}
    for name in names:
        files = sorted(folder.glob(f"{name}.*"))
        out[name] = text_sha(b"\0".join(file.read_bytes() for file in files))[:16] if files else None
    return out
