"""Clips with the words taken away, with the voice taken away, and with neither: the conditions of listen-versus-read.

Why it exists. "Absent" is not a fact but an estimate: playing a clip backwards removes the words and turns a rising
pitch into a falling one; handing over the transcript removes the voice and the sound with it. So every way has a name,
the conditions that belong together form a *family*, and nothing is compared across families.

The idea. A condition is an ordinary benchmark with the ids of the items it was made from, so that a Run of it is an
ordinary Run: resumable, cached, to be probed and scored like any other. A family names three of them, beside the clip
itself, which has both::

    family          voice alone       words alone        neither
    twins           neutral words     plain voice        neutral words in a plain voice
    delexicalised   words smoothed    flattened          smoothed, then flattened
    lowpass         below 400 Hz      flattened          below 400 Hz, then flattened
    reversed        backwards         transcript, text   silence
    shuffled        pieces shuffled   transcript, text   silence
    unheard         backwards         transcript alone   no audio at all

The sounds are those of :mod:`vpanalysis.benchmark.transforms`, which says for which tasks each keeps, flips or destroys
the truth. Flattening leaves formants and timing, so it is an absent voice only for pitch, volume, range and intonation;
playing backwards or in pieces suits the other tasks, and there the words come as text, before the question, over a
silent clip of the same length; in ``unheard`` there is no clip either, only the question. Twins exist where the
benchmark has them or can render them (VoxParadox-mini).

>>> FAMILIES["twins"].voice, FAMILIES["twins"].neither
('neutral-twin', 'neutral-plain-twin')
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from vpanalysis.benchmark.audio import NoAudio
from vpanalysis.benchmark.items import Benchmark, Item
from vpanalysis.benchmark.transforms import mapped_item, transformed
from vpanalysis.errors import RunError, SchemaError

__all__ = ["FAMILIES", "Family", "condition", "quoted", "twin_of"]

_TWINS: Mapping[str, str] = MappingProxyType(
    {"neutral-twin": "neutral", "plain-voice-twin": "plain-voice", "neutral-plain-twin": "neutral-plain"}
)


@dataclass(frozen=True)
class Family:
    """Conditions that belong together.

    Attributes
    ----------
    voice, words, neither : str
        Names of the conditions with the voice alone, the words alone, and neither.
    source : str
        Where the way of removing things comes from.
    clean : bool
        Whether nothing but words and voice differs between the conditions.
    """

    voice: str
    words: str
    neither: str
    source: str
    clean: bool = False


def _flat(name: str, source: str) -> Family:
    return Family(name, "flattened", f"{name}+flattened", source)


def _written(name: str, source: str) -> Family:
    return Family(name, "transcript", "silence", f"{source}; VoxParadox (transcript as text)")


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "twins": Family(
            "neutral-twin", "plain-voice-twin", "neutral-plain-twin", "rendered again: no signal is manipulated", True
        ),
        "delexicalised": _flat("delexicalised", "Sonntag and Portele 1998; Ramus and Mehler 1999"),
        "lowpass": _flat("lowpass", "Rogers, Scherer and Rosenthal 1971 (content filtering)"),
        "reversed": _written("reversed", "Van Lancker, Kreiman and Emmorey 1985 (voices played backwards)"),
        "shuffled": _written("shuffled", "Scherer, Koivumaki and Rosenthal 1972 (random splicing)"),
        "unheard": Family("reversed", "transcript-only", "no-audio", "as reversed; the text alone, without any clip"),
    }
)
"""Families of estimators by name."""


def condition(benchmark: Benchmark, name: str) -> Benchmark:
    """Return the benchmark under a condition, with the items' own ids.

    Parameters
    ----------
    benchmark : Benchmark
    name : str
        Of a :class:`Family`.

    Returns
    -------
    Benchmark
        Items that the condition cannot be made for are left out.

    Raises
    ------
    RunError
        For an unknown name, or where no item is left.
    """
    known = {part for family in FAMILIES.values() for part in (family.voice, family.words, family.neither)}
    if name not in known:
        raise RunError("cannot make a condition", found=repr(name), allowed=sorted(known), word=name)
    makers: dict[str, Callable[[Item], Item | None]] = {
        "transcript": _transcript, "silence": _silent, "transcript-only": _transcript_only, "no-audio": _question_only,
    }  # fmt: skip
    if name in _TWINS:
        wanted = _TWINS[name]
        have = {item.cell: item for item in benchmark if item.condition == wanted and item.cell is not None}
        made = [twin_of(item, wanted, have) for item in benchmark]
    elif name in makers:
        made = [makers[name](item) for item in benchmark]
    else:
        # Flattening leaves formants and timing: it stands for an absent voice only where those do not tell the truth.
        serves = "present" if any(name == family.voice for family in FAMILIES.values()) else "absent"
        made = [mapped_item(item, name, voice=serves) for item in benchmark]
    kept = [item for item in made if item is not None]
    if not kept:
        raise RunError(f"cannot make the condition {name!r}", found=f"no item of {benchmark.name!r} that allows it",
                       fix="leave its family out")  # fmt: skip
    return Benchmark(kept, name=f"{benchmark.name}:{name}", source=benchmark.source, revision=benchmark.revision)


def _silent(item: Item) -> Item:
    """Return the item with a silent clip; its words and voice assert nothing."""
    audio = transformed(item.audio, "silence")
    return replace(item, audio=audio, said=(), said_level=None, condition=f"{item.condition}/silence")


def _transcript(item: Item) -> Item | None:
    """Return the item with its words in the question and a silent clip; None without a transcript."""
    if not item.transcript:
        return None
    audio = transformed(item.audio, "silence")
    return replace(item, question=quoted(item), audio=audio, condition=f"{item.condition}/transcript")


def quoted(item: Item, instruction: str = "") -> str:
    """Return the question with the transcript before it, and an instruction between them."""
    return " ".join(part for part in (f'The speaker says: "{item.transcript}"', instruction, item.question) if part)


def _transcript_only(item: Item) -> Item | None:
    """Return the item with its words in the question and no clip; None without a transcript."""
    if not item.transcript:
        return None
    return replace(item, question=quoted(item), audio=NoAudio(), condition=f"{item.condition}/transcript-only")


def _question_only(item: Item) -> Item:
    """Return the item without a clip; its words and voice assert nothing."""
    return replace(item, audio=NoAudio(), said=(), said_level=None, condition=f"{item.condition}/no-audio")


def twin_of(item: Item, wanted: str, have: Mapping[str, Item]) -> Item | None:
    """Return the twin of an item under its id: the benchmark's own, else one that is rendered.

    A plain-voice twin has the item's own words, whatever they claim.
    """
    if item.cell is None:
        return None
    own = have.get(item.cell)
    if own is not None and wanted == "plain-voice" and (own.said, own.transcript) != (item.said, item.transcript):
        own = None
    found = own or _rendered(item, wanted)
    if found is None or set(found.choices) != set(item.choices):
        return None
    return replace(found, id=item.id, truth=item.truth, condition=f"{item.condition}/{wanted}", foils=item.foils)


def _rendered(item: Item, wanted: str) -> Item | None:
    """Return the rendition of a cell of VoxParadox-mini; None for other cells, and where a task has no plain voice."""
    from vpanalysis.benchmark import mini

    name = str(item.cell)
    task, _, rest = name.partition("/")
    split = rest.rpartition("-")[0]
    try:
        design = next((one for one in mini.cells(task, split) if one.name == name), None)
        if design is None:
            return None
        said = {"conflict": design.contradiction, "congruent": design.true_label, "neutral": None}
        if wanted == "plain-voice":
            return mini.render(design, words=said[item.condition], voice="plain")
        if wanted == "neutral-plain":
            return mini.render(design, words=None, voice="plain")
        return mini.render_condition(design, wanted)
    except (SchemaError, KeyError, ValueError):
        return None
