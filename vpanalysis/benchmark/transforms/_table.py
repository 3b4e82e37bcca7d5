"""The judgements behind the table of effects: task by transform, what happens to the truth, and why, in one line each.

"partly" is "destroy" with cues left: too little to ask with the old truth, too much to call the voice absent. What is
judged is the label as the benchmark defines it (a pattern is an order of levels, an intonation a direction of pitch, an
identity a pair of turns), for speech as people make it; where the synthesized voices of the mini are poorer than that,
the stricter reading stands.

Sources of single judgements: emotion survives reversal, splicing and filtering above chance (Knower 1941, J. Social
Psychology 14, 369-372; Scherer, Koivumaki and Rosenthal 1972, J. Psycholinguistic Research 1, 269-285); filtering takes
articulation and leaves prosody and part of the voice quality, splicing leaves voice quality and some articulation
(Van Bezooijen and Boves 1986, J. Psycholinguistic Research 15, 403-417); gender is heard from 255 Hz downwards in 91 %
of vowels (Lass et al. 1976, J. Acoust. Soc. Am. 59, 675-678); F0 and formants both carry it, and neither alone changes
it (Hillenbrand and Clark 2009, Attention, Perception and Psychophysics 71, 1150-1166).
"""

from __future__ import annotations

__all__ = ["ROWS"]

_KEEP, _FLIP, _DESTROY, _PARTLY = "keep", "flip", "destroy", "partly"
_Row = dict[str, tuple[str, str]]

_SILENT = (_DESTROY, "there is nothing to hear")


def _pattern(what: str, backwards: str, delexicalised: str, low: str, flat: tuple[str, str]) -> _Row:
    return {
        "reversed": (_FLIP, backwards),
        "locally_reversed": (_KEEP, "every piece stays in its rendition; pieces at the edges mix two"),
        "shuffled": (_DESTROY, f"pieces of all renditions are mixed: the order of {what} is gone, and all orders fit"),
        "delexicalised": (_KEEP, delexicalised),
        "lowpass": (_KEEP, low),
        "flattened": flat,
        "silence": _SILENT,
    }


_BACKWARDS = "the last rendition is heard first: the order is read from the end"

ROWS: dict[str, _Row] = {
    "age_prediction": {
        "reversed": (_KEEP, "pitch, tremor, creak, breath and the size of the vocal tract have no direction in time"),
        "locally_reversed": (
            _KEEP,
            "pitch, tremor, creak, breath and the size of the vocal tract have no direction in time",
        ),
        "shuffled": (_KEEP, "every piece is the same voice"),
        "delexicalised": (
            _KEEP,
            "the larynx stays in the excitation, the size of the vocal tract in the mean envelope",
        ),
        "lowpass": (
            _PARTLY,
            "pitch and tremor stay, formants and breath, which tell other ages apart, lie above 400 Hz",
        ),
        "flattened": (_PARTLY, "pitch, tremor, creak and breath go, but a child's vocal tract stays in the formants"),
        "silence": _SILENT,
    },
    "gender_prediction": {
        "reversed": (_KEEP, "pitch and formants have no direction in time"),
        "locally_reversed": (_KEEP, "pitch and formants have no direction in time"),
        "shuffled": (_KEEP, "every piece is the same voice"),
        "delexicalised": (_KEEP, "pitch stays in the excitation, the size of the vocal tract in the mean envelope"),
        "lowpass": (_KEEP, "pitch stays, by which gender is heard nearly as well (Lass et al. 1976)"),
        "flattened": (_PARTLY, "pitch goes, the formants stay, and tell women from men (Hillenbrand and Clark 2009)"),
        "silence": _SILENT,
    },
    "emotion_recognition": {
        "reversed": (
            _KEEP,
            "level and width of pitch, loudness and voice quality have no direction in time (Knower 1941)",
        ),
        "locally_reversed": (_KEEP, "level and width of pitch, loudness and voice quality have no direction in time"),
        "shuffled": (_KEEP, "the same, but for the course of the sentence (Scherer et al. 1972)"),
        "delexicalised": (_KEEP, "pitch, loudness, timing, creak and breath stay"),
        "lowpass": (
            _KEEP,
            "level and width of pitch, loudness and timing stay (Starkweather 1956; Scherer et al. 1972)",
        ),
        "flattened": (_PARTLY, "pitch, loudness and creak go; tempo and the spectral tilt of vocal effort stay"),
        "silence": _SILENT,
    },
    "pitch_comparison": _pattern(
        "pitches", _BACKWARDS, "pitch stays in the excitation", "pitch stays", (_DESTROY, "all pitches become one")
    ),
    "volume_comparison": _pattern(
        "levels",
        _BACKWARDS,
        "the energy contour is restored",
        "what is left of each rendition keeps its level relative to the others",
        (_DESTROY, "all levels become one"),
    ),
    "speed_comparison": _pattern(
        "speeds",
        _BACKWARDS,
        "the timing of energy and voicing stays",
        "the timing of energy and voicing stays",
        (_KEEP, "timing is untouched: for this task the voice is not absent"),
    ),
    "vocal_range_comparison": _pattern(
        "ranges",
        _BACKWARDS + "; a range has no direction in time",
        "the movement of pitch stays in the excitation",
        "the movement of pitch stays",
        (_DESTROY, "pitch no longer moves"),
    ),
    "intonation_perception": {
        "reversed": (_FLIP, "what rose falls; rise-fall and fall-rise read the same from the end"),
        "locally_reversed": (
            _KEEP,
            "every piece runs backwards, but the pieces still rise or fall one after the other",
        ),
        "shuffled": (_PARTLY, "the contour of the sentence is cut up, but every piece keeps its own rise or fall"),
        "delexicalised": (_KEEP, "pitch stays in the excitation"),
        "lowpass": (_KEEP, "pitch stays"),
        "flattened": (_DESTROY, "pitch no longer moves"),
        "silence": _SILENT,
    },
    "speaker_identity_recognition": {
        "reversed": (_FLIP, "the same voices in the opposite order: the clips are renumbered, in question and options"),
        "locally_reversed": (_KEEP, "turns stay where they are; pieces at their edges mix two"),
        "shuffled": (_DESTROY, "turns are cut up and mixed: there is no first or second clip any more"),
        "delexicalised": (_PARTLY, "all turns get one vocal tract; pitch and voice quality stay"),
        "lowpass": (_PARTLY, "pitch stays, the vocal tract lies above 400 Hz"),
        "flattened": (_PARTLY, "pitch and voice quality become one, the vocal tract of every turn stays"),
        "silence": _SILENT,
    },
    "total_speaker_counting": {
        "reversed": (_KEEP, "as many voices backwards"),
        "locally_reversed": (_KEEP, "as many voices backwards"),
        "shuffled": (_KEEP, "as many voices in any order"),
        "delexicalised": (_PARTLY, "all turns get one vocal tract; pitch and voice quality stay"),
        "lowpass": (_PARTLY, "pitch stays, the vocal tract lies above 400 Hz"),
        "flattened": (_PARTLY, "pitch and voice quality become one, the vocal tract of every turn stays"),
        "silence": _SILENT,
    },
}
"""(kind, reason) by task and transform; kind is "keep", "flip", "destroy" or "partly"."""
