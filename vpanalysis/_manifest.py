"""What a Run is: everything that its numbers depend on, in one JSON file.

Why it exists. A folder of activations without the model's hash, the prompt and the parser version is a riddle. And
resuming a Run with a slightly different model would mix two results in one table.

The idea. The manifest has an *identity* (model weights, benchmark, prompt, what is recorded, block size ...) and
*circumstances* (device, library versions, batch size, when). Two calls with one identity belong to one Run and the
second goes on where the first stopped; any difference is refused by name.
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from vpanalysis._places import reported, write_whole
from vpanalysis._untrusted import strict_json
from vpanalysis.errors import RunError

__all__ = [
    "FORMAT",
    "MANIFEST_NAME",
    "code_version",
    "config_sha",
    "differences",
    "read_manifest",
    "text_sha",
    "versions",
    "write_json",
]

FORMAT = "vpanalysis-run/1"
MANIFEST_NAME = "manifest.json"
# Fields that must agree for a Run to be resumed, and what to call them.
_IDENTITY = {
    "model.weights": "model weights",
    "model.encoder_sha": "audio encoder",
    "model.config": "model config",
    "model.chat": "chat form of the prompt",
    "model.dtype": "dtype of the model",
    "model.attn_implementation": "attention implementation",
    "benchmark.sha": "benchmark items",
    "prompt.sha": "prompt template",
    "plan": "sites and reducers",
    "store_dtype": "dtype of the store",
    "block_size": "block size",
    "generate": "generation",
    "text_scores": "text scores",
    "parser_version": "answer parser",
    "calibration.sha": "items that the model was calibrated on",
}


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in ("vpanalysis", "torch", "transformers", "numpy", "xarray", "zarr", "pandas", "pyarrow", "soxr"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@functools.cache
def code_version() -> dict[str, str | None]:
    """Return the version, a hash of the package's Python files, and the git commit where there is one."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return {
        "version": versions()["vpanalysis"],
        "sha": digest.hexdigest()[:16],
        "commit": _commit(package.parent),
    }


def _commit(repository: Path) -> str | None:
    # Read, not asked of git, which may not be there.
    try:
        head = (repository / ".git" / "HEAD").read_text(encoding="utf-8").strip()
        if not head.startswith("ref: "):
            return head
        ref = repository / ".git" / head[5:]
        if ref.is_file():
            return ref.read_text(encoding="utf-8").strip()
        packed = (repository / ".git" / "packed-refs").read_text(encoding="utf-8").splitlines()
        return next((line.split()[0] for line in packed if line.endswith(" " + head[5:])), None)
    except (OSError, UnicodeDecodeError):
        return None


# Fields of a config that say where it came from and not what it computes.
_NOT_CONFIG = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "_commit_hash"}


def config_sha(config: Any) -> str | None:
    """Return a hash of what a model's config computes, or None where it has none."""
    if config is None or not hasattr(config, "to_dict"):
        return None
    return text_sha(json.dumps(_cleaned(config.to_dict()), sort_keys=True, default=str))


def _cleaned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _cleaned(v) for k, v in value.items() if k not in _NOT_CONFIG}
    return [_cleaned(v) for v in value] if isinstance(value, (list, tuple)) else value


def text_sha(text: str) -> str:
    """Return the SHA-256 (hex) of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write_whole(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of the Run in `folder`.

    Raises
    ------
    RunError
        If there is none, it is not JSON, or of another format.
    """
    path = folder / MANIFEST_NAME
    try:
        with reported(folder):
            manifest = strict_json(path.read_bytes().decode("utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        near = sorted(p.parent.name for p in folder.parent.glob(f"*/{MANIFEST_NAME}"))[:8]
        raise RunError(
            f"cannot open the Run {str(folder)!r}",
            found=f"no {MANIFEST_NAME}" if folder.is_dir() else "no such folder",
            allowed=near or None,
            word=folder.name,
            fix="make it with vpanalysis.run",
        ) from error
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {str(path)!r}", found=str(error)) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        raise RunError(f"cannot read {str(path)!r}", found=f"format {found!r}", allowed=FORMAT)
    return manifest


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Return what of the identity differs, as clauses that name both values.

    Parameters
    ----------
    stored, asked : mapping
        Manifests.
    """
    found = []
    for field, name in _IDENTITY.items():
        if field == "parser_version" and not asked["generate"]:
            continue  # nothing was parsed
        old, new = _field(stored, field), _field(asked, field)
        if old != new:
            found.append(f"{name} ({_difference(old, new)})")
    # Hashes say that they differ; names say what was meant.
    for part in ("model", "benchmark", "prompt"):
        old, new = _field(stored, f"{part}.name"), _field(asked, f"{part}.name")
        if old != new and any(f.startswith(part) or (part == "model" and "encoder" in f) for f in found):
            found.append(f"{part} {old!r} against {new!r}")
    return found


def _field(manifest: Mapping[str, Any], dotted: str) -> Any:
    value: Any = manifest
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _difference(old: Any, new: Any) -> str:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        shown = [f"{key}: {_short(old.get(key))} against {_short(new.get(key))}" for key in keys[:3]]
        return ", ".join([*shown, *(["..."] if len(keys) > 3 else [])])
    return f"{_short(old)} against {_short(new)}"


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, (list, tuple)):
        return "/".join(str(v) for v in value)
    text = str(value)
    return text[:10] if len(text) == 64 else text
