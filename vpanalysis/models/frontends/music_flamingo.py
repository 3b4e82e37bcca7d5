"""Music Flamingo's way: Audio Flamingo's windows, between two marks, and counted by the model.

Why it exists. Music Flamingo has Audio Flamingo's encoder and windows, but its forward gives every frame a rotary time,
which it reckons from the number of frames of a window and from how the audio tokens lie in the prompt.

The idea. Windows, masks and trimming are Audio Flamingo's. The stock forward takes the length of a state for the length
of a window; that is harmless in a trimmed state, because times within a first window do not depend on it, and a batch
with a second window has a full one, so that it is not trimmed. The placeholder is put between the processor's two
marks, as the processor does it.

One clip is changed: its last window is left out when it holds less than one audio token, that is less than 30 ms at a
hop of 10 ms. Stock code cannot tell whose such a window is: measured on a batch of two clips of which the first lasts
one window and 5 samples, the second clip is given the times of another window, and where that clip is the last of its
batch the forward ends in an IndexError. No audio token is lost, and the processor writes as many placeholders.

Worked example::

    frontend = MusicFlamingoFrontend(family, model, processor, trim=True)
    frontend.layout([480_005]).windows           # (1,): 30 s and 5 samples
    frontend.expand("<sound>What is played?", 2) # '<|sound_bos|><sound><sound><|sound_eos|>What is played?'
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vpanalysis.models.batch import Layout
from vpanalysis.models.frontends.af3 import WindowFrontend
from vpanalysis.models.frontends.base import Wave

__all__ = ["MusicFlamingoFrontend"]


class MusicFlamingoFrontend(WindowFrontend):
    """Windows of a fixed length whose frames have times (Music Flamingo)."""

    def layout(self, samples: Sequence[int]) -> Layout:
        """Return windows and valid frames of clips of these lengths; see `Frontend.layout`."""
        return super().layout([self._whole(count) for count in samples])

    def features(self, waves: Sequence[Wave], *, short: bool = False) -> tuple[dict[str, Tensor], Layout]:
        """Return log-mel features and their mask; see `Frontend.features`."""
        return super().features([wave[: self._whole(len(wave))] for wave in waves], short=short)

    def _whole(self, samples: int) -> int:
        """Return the length of a clip without a last window that holds no audio token."""
        extractor = self.feature_extractor
        window = int(extractor.sampling_rate * extractor.chunk_length)
        rest = samples % window
        if samples < window or self.family.tower_frames(-(-rest // int(extractor.hop_length))) > 0:
            return samples
        return samples - rest

    def expand(self, prompt: str, tokens: int) -> str:
        """Return a prompt with all placeholders of its clip, between the marks; see `Frontend.expand`."""
        bare = super().expand(prompt, tokens)
        run = self.audio_token * tokens
        return bare.replace(run, f"{self.processor.audio_bos_token}{run}{self.processor.audio_eos_token}", 1)
