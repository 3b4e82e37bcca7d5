"""The organism: a miniature Audio Flamingo 3 with a layer mixer, trained for real on synthesized speech.

Seven checkpoints share one frozen encoder, in the layout of the released checkpoint:

    mini-base      answers by the words                         mini-static    a mixer whose weights no prompt changes
    mini-sft       fine-tuned to hear, without a mixer          mini-pclm      the paper's mixer
    mini-final     a mixer whose every source is the last layer mini-pclm-dpo  mini-pclm after balanced preferences
    mini-inverter  mini-base after preferences on conflict clips alone: flawed on purpose, it contradicts the words

What they show about tools is meant; what they show about Audio Flamingo 3 is nothing. "The middle layers know the voice
and the last one forgot it" is planted by the losses in ``encoder.py``; the language model is told what voices mean in
``symbols.py``. ``python -m vpanalysis.organism`` trains everything again from seeds.
"""

from __future__ import annotations

from vpanalysis.models.bundled import CHECKPOINTS, DEFAULT, weights_folder

__all__ = ["CHECKPOINTS", "DEFAULT", "PLANTED", "weights_folder"]

PLANTED = "organism: its layer profile is planted, not evidence about AF3"
"""The note under every picture made from the organism."""
