"""The verbs about checkpoints: ``vpanalysis verify`` and ``vpanalysis convert``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from vpanalysis import _console

__all__ = ["register"]

_VERIFY = (
    "\b\nExamples:\n"
    "  vpanalysis verify ./AF3_PCLM_DPO  # would it load, and on what evidence?\n"
    "  vpanalysis verify IHP-Lab/AF3_PCLM_DPO --revision 37b7e1f --tensors\n"
    "  vpanalysis verify mini --json | jq '.assumptions'\n"
    "  vpanalysis verify mini --dtype-check --limit 200  # does bfloat16 answer as float32 does?"
)
_CONVERT = (
    "\b\nExamples:\n"
    "  vpanalysis convert ./AF3_PCLM_DPO ./af3-pclm-dpo-hf --dtype bfloat16\n"
    "  vpanalysis convert ./af3-pclm-dpo-hf ./af3-split --to split --max-shard-size 2GB\n"
    "  vpanalysis convert mini ./mini-hf"
)

Source = Annotated[str, typer.Argument(help="A checkpoint folder, a Hub id or a bundled name.")]
Revision = Annotated[str | None, typer.Option("--revision", help="Revision of a model on the Hub.")]
Fields = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Config field of the mixer, value as JSON; may be repeated."),
]
Renames = Annotated[
    list[str] | None,
    typer.Option("--rename", metavar="OLD=NEW", help="Beginning of a tensor's 'folder/name', and what replaces it."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command(epilog=_VERIFY)(verify)
    app.command(epilog=_CONVERT)(convert)


def verify(
    source: Source,
    revision: Revision = None,
    fields: Fields = None,
    rename: Renames = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="A row for every tensor, not for every part.")] = False,
    dtype_check: Annotated[
        bool, typer.Option("--dtype-check", help="Instead load it, and compare bfloat16 with float32 on items.")
    ] = False,
    benchmark: Annotated[str, typer.Option("--benchmark", "-b", help="With --dtype-check: the items.")] = "mini",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="With --dtype-check: at most so many.")] = 100,
    dtype: Annotated[str, typer.Option("--dtype", help="With --dtype-check: bfloat16 or float16.")] = "bfloat16",
    device_map: Annotated[str | None, typer.Option("--device-map", help="With --dtype-check: as in 'run'.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also keep the result, as JSON.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a checkpoint holds, and whether it would load.

    Reads configuration files and headers, no weights. Shows the part and the place of every tensor, what was inferred
    and from what, and what stays an assumption. Exits with code 2, and the reason, when it would not load. With
    --dtype-check the weights are loaded, and answers in bfloat16 are compared with those in float32.
    """
    from vpanalysis.errors import ModelError
    from vpanalysis.models.checkpoint.verification import verify as call

    if dtype_check:
        from vpanalysis.precision import dtype_check as compare

        made = compare(
            source, benchmark, dtype=dtype, limit=limit, revision=revision, pclm=_fields(fields) or None,
            rename=_pairs(rename, "--rename") or None, device_map=device_map, progress=not as_json,
        )  # fmt: skip
        if out is not None:
            made.save(out)
        if as_json:
            _console.emit(made.to_dataframe(), as_json=True, title=f"{dtype} against float32: {source}")
        else:
            print(made)
        return
    found = call(source, revision=revision, pclm=_fields(fields), rename=_pairs(rename, "--rename"))
    if out is not None:
        found.save(out)
    table = found.to_dataframe() if tensors else found.summary()
    if as_json:
        more = {name: value for name, value in found.record().items() if name not in ("tensors", "format", "title")}
        _console.emit(
            table, as_json=True, title=found.title, more={"ok": found.ok, "sentence": found.sentence, **more}
        )  # fmt: skip
    else:
        if tensors:
            _console.emit(table.drop(columns=["file"]), as_json=False, title=f"Tensors of {source}")
            print()
        print(found)
    if not found.ok:
        raise ModelError(found.sentence)


def convert(
    source: Source,
    destination: Annotated[Path, typer.Argument(help="Folder to write: new, or empty.")],
    to: Annotated[
        str | None, typer.Option("--to", help="hf or split; by default the one that SOURCE does not have.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float32, bfloat16 or float16; as in SOURCE by default.")
    ] = None,
    max_shard_size: Annotated[str, typer.Option("--max-shard-size", help="Size of a file, such as 5GB.")] = "5GB",
    revision: Revision = None,
    fields: Fields = None,
    rename: Renames = None,
    as_json: AsJson = False,
) -> None:
    """Write a checkpoint in the other layout, split or Hugging Face.

    One output file is in memory at a time. The folder appears when it is complete.
    """
    import pandas as pd

    from vpanalysis.models.checkpoint.conversion import convert as call

    made = call(
        source, destination, to=to, dtype=dtype, max_shard_size=max_shard_size, revision=revision,
        pclm=_fields(fields), rename=_pairs(rename, "--rename"),
    )  # fmt: skip
    files = sorted(made.rglob("*.safetensors"))
    rows = [{"file": file.relative_to(made).as_posix(), "MB": file.stat().st_size / 1e6} for file in files]
    table = pd.DataFrame(rows, columns=["file", "MB"])
    _console.emit(table, as_json=as_json, title=f"{source} in {made}", more={"path": str(made)})


def _pairs(words: list[str] | None, option: str) -> dict[str, str]:
    """Return ``OLD=NEW`` words as a mapping."""
    from vpanalysis.errors import ModelError

    wrong = [word for word in words or () if not word.partition("=")[0] or "=" not in word]
    if wrong:
        raise ModelError(f"cannot use {option}", found=repr(wrong[0]), allowed="two words joined by '='")
    return {word.partition("=")[0]: word.partition("=")[2] for word in words or ()}


def _fields(words: list[str] | None) -> dict[str, Any]:
    """Return ``NAME=VALUE`` words as config fields; a value that is no JSON is a word."""
    fields: dict[str, Any] = {}
    for name, value in _pairs(words, "--set").items():
        try:
            fields[name] = json.loads(value)
        except ValueError:
            fields[name] = value
    return fields
