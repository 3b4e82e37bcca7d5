"""Names of places in a model, and how to select them.

Why it exists. "Layer 5" means four things in the literature: the input of a block, its output, an entry of Hugging
Face's ``hidden_states`` (whose entry 0 is an input and whose last one is pooled and normed), or the fifth one. So
places have names that say which output they are, and a layer number is only ever the index of a module.

The idea. A site is a string; from the waveform to the answer they are

==================  ==============================================================================================
``encoder.stem``    what the first encoder layer receives
``encoder[i]``      output of encoder layer i, counted from 0, before pooling and norm
``tower``           what the encoder hands on: pooled and normed
``streams[k]``      PCLM: a projected stream before mixing
``mixed``           PCLM: the audio tokens that the language model receives; ``projector`` in models without a mixer
``text.embed``      what the first text layer receives, word and audio tokens alike
``text[j]``         output of text layer j, counted from 0
``gate``            PCLM: the weights of the streams
``options``         log-probabilities of the offered options
==================  ==============================================================================================

A site has a *clock*: encoder frames, tower frames, audio tokens (of most models as many as tower frames), or text
positions. The clock decides which frames of a padded batch are valid, and how many seconds one lasts.

Worked example::

    select_sites(llm.sites, "encoder[*]")              # every layer, not the stem
    select_sites(llm.sites, ["tower", "text[-1]"])     # the last text layer
    select_sites(llm.sites, "encoder[2:4]")            # layers 2 and 3
    select_sites(llm.sites, "audio")                   # by role: encoder and audio tokens
    select_sites(llm.sites, lambda name: name != "gate")
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from typing import Literal

from vpanalysis.errors import RunError

__all__ = ["ROLES", "Clock", "SiteSelector", "clock_of", "group_of", "select_sites"]

Clock = Literal["encoder", "tower", "audio", "text"]
SiteSelector = str | Sequence[str] | Callable[[str], bool] | None
"""A site name, glob or role, a list of these, a predicate on the name, or None for all."""

_NUMBERED = re.compile(r"(?P<family>[\w.]+)\[(?P<index>-?\d+)\]")
_SLICED = re.compile(r"(?P<family>[\w.]+)\[(?P<start>-?\d+)?:(?P<stop>-?\d+)?\]")


def group_of(site: str) -> str:
    """Return the storage group of a site: ``encoder``, ``audio``, ``text``, ``gate`` or ``options``.

    Raises
    ------
    RunError
        For a name that no site has.
    """
    family = re.split(r"[.\[]", site, maxsplit=1)[0]
    if family in ("encoder", "tower"):
        return "encoder"
    if family in ("streams", "mixed", "projector"):
        return "audio"
    if family in ("text", "gate", "options"):
        return family
    raise RunError("cannot place the site", found=repr(site), allowed=list(_FAMILIES), word=family)


def clock_of(site: str) -> Clock | None:
    """Return what a frame of the site is.

    An encoder frame, a tower frame, an audio token, a text position; None without frames.
    """
    group = group_of(site)
    if group == "text":
        return "text"
    if group == "audio":
        return "audio"
    if group in ("gate", "options"):
        return None
    return "encoder" if site.startswith("encoder") else "tower"


_FAMILIES = ("encoder", "tower", "streams", "mixed", "projector", "text", "gate", "options")
ROLES: dict[str, Callable[[str], bool]] = {
    "encoder": lambda site: group_of(site) == "encoder",
    "audio": lambda site: group_of(site) in ("encoder", "audio"),
    "streams": lambda site: site.startswith("streams"),
    "text": lambda site: group_of(site) == "text",
    "all": lambda site: True,
}
"""Selectors by role; a site of the same name comes first."""


def select_sites(available: Sequence[str], selector: SiteSelector = None) -> list[str]:
    """Return the sites that `selector` names, in the order of `available`.

    Parameters
    ----------
    available : sequence of str
        Sites of a model or a Run, from the waveform to the answer.
    selector : str, sequence of str, callable or None
        A name; a pattern in which ``*`` stands for anything and brackets for themselves (``"encoder[*]"``); an index
        from the end (``"text[-1]"``) or a slice (``"encoder[2:4]"``); a role of `ROLES`; a list of these; a predicate
        on the name; or None for all.

    Returns
    -------
    list of str

    Raises
    ------
    RunError
        When a name, pattern or predicate matches nothing.
    """
    names = list(available)
    if selector is None:
        return names
    if callable(selector):
        chosen = {name for name in names if selector(name)}
        if not chosen:
            raise RunError("cannot select sites", found="a predicate that is true of none", allowed=names)
        return [name for name in names if name in chosen]
    chosen = set()
    for pattern in [selector] if isinstance(selector, str) else selector:
        matched = _matches(names, pattern)
        if not matched:
            raise RunError("cannot select sites", found=repr(pattern), allowed=[*names, *ROLES], word=str(pattern))
        chosen |= matched
    return [name for name in names if name in chosen]


def _matches(names: list[str], pattern: str) -> set[str]:
    if pattern in names:
        return {pattern}
    sliced = _SLICED.fullmatch(pattern)
    numbered = _NUMBERED.fullmatch(pattern)
    if sliced or numbered:
        family = (sliced or numbered)["family"]  # type: ignore[index]
        members = [n for n in names if (m := _NUMBERED.fullmatch(n)) and m["family"] == family]
        members.sort(key=lambda n: int(n[len(family) + 1 : -1]))
        if sliced:
            start, stop = (int(v) if v is not None else None for v in (sliced["start"], sliced["stop"]))
            return set(members[start:stop])
        index = int(numbered["index"]) if numbered else 0
        return {members[index]} if -len(members) <= index < 0 else set()
    if pattern in ROLES:
        return {name for name in names if ROLES[pattern](name)}
    # Brackets are part of a site's name, not a character class; only * and ? are wild.
    rule = re.compile(fnmatch.translate(pattern.replace("[", "[[]")))
    return {name for name in names if rule.match(name)}
