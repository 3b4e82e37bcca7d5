"""What is asked: items, where they come from, how they are worded, and how replies are read.

`items` holds the two nouns (Item, Benchmark), `audio` the clips, `sources` reads every supported form of data,
`export` writes the released form, `prompts` words a question and `parsing` reads a reply. `mini` synthesizes
VoxParadox-mini. Importing this package loads no torch.
"""

from vpanalysis.benchmark.audio import ArrayAudio, AudioSource, BytesAudio, FileAudio, decode_audio
from vpanalysis.benchmark.items import TASKS, Benchmark, Item
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT, PromptTemplate

__all__ = [
    "DEFAULT_PROMPT",
    "TASKS",
    "ArrayAudio",
    "AudioSource",
    "Benchmark",
    "BytesAudio",
    "FileAudio",
    "Item",
    "PromptTemplate",
    "decode_audio",
]
