"""How clips reach a tower: one class for each way in which processors cut, pad and count.

Why it exists. Audio Flamingo cuts a long clip into windows of 30 s and masks what is silence; Qwen2-Audio reads one
window and no more; Voxtral hands 375 tokens a window to the language model whatever was said; Qwen-Omni lays all clips
end to end; HuBERT reads the waveform. What is asked of them is the same: which frames of a state are real, how many
audio tokens a clip becomes, and what the tower makes of it.

The idea. A `Frontend` answers these for one loaded model, with the model's own processor and the tower's own forward.
The family table names it; a family of one's own may name its own class as ``"module:Class"``.

Worked example::

    frontend = frontend_of(family, model, processor, trim=True)
    frontend.layout([64_000])                    # windows and valid frames of a clip of 4 s
    inputs, layout = frontend.features([wave])   # what the model's forward takes
    state = frontend.run_tower(inputs, layout)   # (rows, frames, width)
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from vpanalysis.errors import ModelError
from vpanalysis.models.family import Family
from vpanalysis.models.frontends.base import Frontend, Wave

__all__ = ["FRONTENDS", "Frontend", "Wave", "frontend_of"]

FRONTENDS: dict[str, str] = {
    "af3": "vpanalysis.models.frontends.af3:WindowFrontend",
    "clap": "vpanalysis.models.frontends.clap:ClapFrontend",
    "music_flamingo": "vpanalysis.models.frontends.music_flamingo:MusicFlamingoFrontend",
    "omni": "vpanalysis.models.frontends.omni:OmniFrontend",
    "omni3": "vpanalysis.models.frontends.omni:Omni3Frontend",
    "qwen2_audio": "vpanalysis.models.frontends.qwen2_audio:Qwen2AudioFrontend",
    "voxtral": "vpanalysis.models.frontends.voxtral:VoxtralFrontend",
    "waveform": "vpanalysis.models.frontends.waveform:WaveformFrontend",
    "whisper": "vpanalysis.models.frontends.whisper:WhisperFrontend",
}
"""The known ways, as ``"module:Class"``."""


def frontend_of(family: Family, model: Any, processor: Any, *, trim: bool = True) -> Frontend:
    """Return the frontend of a loaded model.

    Parameters
    ----------
    family : Family
        Its row.
    model : PreTrainedModel
        The model.
    processor : ProcessorMixin or feature extractor
        Its processor.
    trim : bool
        Whether to leave out silence behind a clip where the tower allows it.

    Raises
    ------
    ModelError
        If the family names no known frontend.
    """
    place = FRONTENDS.get(family.frontend, family.frontend)
    module, _, name = place.partition(":")
    try:
        kind = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(
            f"cannot use the frontend of the family {family.name!r}",
            found=repr(family.frontend),
            allowed=[*sorted(FRONTENDS), "module:Class"],
            word=family.frontend,
        ) from error
    made: Frontend = kind(family, model, processor, trim and family.trims)
    return made
