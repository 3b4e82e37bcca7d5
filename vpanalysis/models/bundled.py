"""Which checkpoints come with the package, and where they lie.

Kept apart from their training (``vpanalysis.organism``) so that loading one by name needs nothing of it.

>>> DEFAULT in CHECKPOINTS
True
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["CHECKPOINTS", "DEFAULT", "weights_folder"]

CHECKPOINTS: tuple[str, ...] = (
    "mini-base",
    "mini-sft",
    "mini-final",
    "mini-static",
    "mini-pclm",
    "mini-pclm-dpo",
    "mini-inverter",
)
"""Names of the bundled checkpoints, in the order of the story."""

DEFAULT = "mini-pclm-dpo"
"""What ``"mini"`` means."""


def weights_folder(name: str = "") -> Path:
    """Return the folder of a checkpoint, or of all of them."""
    return Path(__file__).resolve().parents[1] / "organism" / "weights" / name
