"""Options that several verbs have, so that they are called and explained alike everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["AllowOutside", "AsJson", "Limit", "Quiet", "Sites", "Split", "Tasks", "examples"]

AllowOutside = Annotated[
    bool, typer.Option("--allow-outside", help="Clips may lie outside the audio root and the data's folder.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the table as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Tasks = Annotated[list[str] | None, typer.Option("--task", "-t", help="Keep this task only; may be repeated.")]
Limit = Annotated[int | None, typer.Option("--limit", "-n", min=1, help="At most so many items, spread over tasks.")]
Split = Annotated[str, typer.Option("--split", help="Split of a source that has several.")]
Sites = Annotated[
    list[str] | None, typer.Option("--site", "-s", help="Site or pattern, such as 'encoder[*]'; may be repeated.")
]


def examples(*lines: str) -> str:
    """Return the end of a help text; the backspace keeps the parser from wrapping the lines."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
