"""Errors that say what was asked, what was found, what is allowed, and what to do.

One small family. A user should never need the traceback to understand what went wrong: the message is built from
four parts, in that order, and any part may be left out::

    raise SchemaError(
        "cannot read the benchmark 'vox.json'",
        found="row 3, field 'answer_gt': 'Femal'",
        allowed=["Female", "Male"],
        fix="correct the field or remove the row",
    )

prints as ``cannot read the benchmark 'vox.json': found row 3, field 'answer_gt': 'Femal'; allowed: 'Female', 'Male'
(did you mean 'Female'?); correct the field or remove the row``. The command line shows the same sentence and exits
with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["AudioError", "ModelError", "NonFiniteWarning", "RunError", "SchemaError", "VPError", "did_you_mean"]

_LONGEST = 200
"""Most letters of a word that may have been mistyped."""


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest of `options`, or an empty string when none is close."""
    # Comparing takes the product of the lengths; a word of a thousand letters is no typing mistake.
    close = difflib.get_close_matches(word[:_LONGEST], [o for o in options if len(o) <= _LONGEST], n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


class VPError(Exception):
    """Base of every error that vpanalysis raises on purpose.

    Parameters
    ----------
    asked : str
        What the caller wanted, as a clause without a final stop.
    found : str, optional
        What was found instead.
    allowed : str or iterable of str, optional
        What would have been accepted. An iterable is quoted and joined.
    fix : str, optional
        What to do now.
    word : str, optional
        The offending word; with an iterable `allowed` a did-you-mean is added.
    """

    def __init__(
        self,
        asked: str,
        *,
        found: str | None = None,
        allowed: str | Iterable[str] | None = None,
        fix: str | None = None,
        word: str | None = None,
    ) -> None:
        self.asked, self.found, self.fix = asked, found, fix
        parts = [asked if found is None else f"{asked}: found {found}"]
        if allowed is not None:
            if isinstance(allowed, str):
                parts.append(f"allowed: {allowed}")
            else:
                options = list(allowed)
                hint = did_you_mean(word, options) if word is not None else ""
                parts.append("allowed: " + ", ".join(repr(o) for o in options) + hint)
        if fix is not None:
            parts.append(fix)
        super().__init__("; ".join(parts))


class SchemaError(VPError):
    """Benchmark data, predictions or a stored file do not have the promised form."""


class AudioError(VPError):
    """One audio file cannot be used: undecodable, empty, or not finite."""


class ModelError(VPError):
    """A model or checkpoint cannot be loaded, or lacks what was asked of it."""


class RunError(VPError):
    """A Run folder cannot be written, resumed or read."""


class NonFiniteWarning(UserWarning):
    """States that were recorded are NaN or infinite, or were clipped to fit into a float16 store."""
