"""Which tokens of a prompt are audio, question, options and answer, and how clips of two lengths are laid over another.

Why it exists. "The state of the options in layer 3" is a set of positions, and every row of a batch has its own: clips
differ in length, options in their words, and prompts are padded on the left.

The idea. A prompt is one text, so the tokenizer itself can say which characters each token stands for; where question
and options begin and end in that text is known. Every token belongs to exactly one of four spans:

* ``audio``      the audio tokens;
* ``question``   what stands before the options, the chat form around the clip included;
* ``options``    from the first option's letter to the last option's text;
* ``answer``     all after question and options up to where the answer is read.

``last`` is the answer position alone, and ``all`` is everything. Twins that are asked the same question have text
spans of one length. Their clips need not be: a source of other length is cut to the frames that both have
(``frames``), stretched or squeezed linearly (``resample``), or replaced by its mean over time (``mean``).

>>> import torch
>>> aligned(torch.tensor([[0.0], [2.0], [4.0]]), 2, "frames").flatten().tolist()
[0.0, 2.0]
>>> aligned(torch.tensor([[0.0], [2.0], [4.0]]), 6, "resample").flatten().tolist()
[0.0, 0.5, 1.5, 2.5, 3.5, 4.0]
>>> aligned(torch.tensor([[0.0], [2.0], [4.0]]), 2, "mean").flatten().tolist()
[2.0, 2.0]
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vpanalysis.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

    from vpanalysis.benchmark.prompts import PromptTemplate
    from vpanalysis.models.batch import Batch, Layout
    from vpanalysis.models.facade import AudioLLM

__all__ = ["ALIGNMENTS", "SPANS", "aligned", "heard_only", "token_spans"]

SPANS = ("audio", "question", "options", "answer", "last", "all")
"""Names of sets of tokens; the first four divide a prompt."""

ALIGNMENTS = ("frames", "resample", "mean")
"""Ways to lay a clip over one of another length."""


def token_spans(llm: AudioLLM, batch: Batch, template: PromptTemplate) -> dict[str, Tensor]:
    """Return which tokens belong to each of :data:`SPANS`.

    Parameters
    ----------
    llm : AudioLLM
        Its tokenizer must know the characters of its tokens (a fast tokenizer does).
    batch : Batch
        From ``prepare``, without answers.
    template : PromptTemplate
        That the batch was prepared with.

    Returns
    -------
    dict of str to Tensor, each of shape (item, token), bool, on the CPU
        False on padding.

    Raises
    ------
    RunError
        For tokenizers that do not tell, and prompts in which question or options do not stand as they are.
    """
    import torch

    ids, mask = batch.inputs["input_ids"].cpu(), batch.inputs["attention_mask"].cpu().bool()
    audio = (ids == llm._audio_token_id) & mask
    texts = [llm.frontend.expand(p, n) for p, n in zip(batch.prompts, batch.layout.audio_tokens, strict=True)]
    asked = f"cannot tell the spans of the prompts of {llm.name!r}"
    try:
        told = llm.tokenizer(texts, return_offsets_mapping=True)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise RunError(asked, found="a tokenizer that does not say which characters a token stands for",
                       fix="load the model with its fast tokenizer") from error  # fmt: skip
    options, answer = torch.zeros_like(mask), torch.zeros_like(mask)
    for row, (item, text) in enumerate(zip(batch.items, texts, strict=True)):
        places = torch.tensor(told["offset_mapping"][row])
        if told["input_ids"][row] != ids[row][mask[row]].tolist():
            raise RunError(asked, found="other tokens than the model is given")
        user = template.render(item)
        start = text.rfind(user)
        question_at, options_at = user.find(item.question), user.rfind(template.options(item))
        if min(start, question_at, options_at) < 0:
            raise RunError(asked, found=f"a prompt without its question or options: {text[-200:]!r}")
        begins = start + options_at
        ends = begins + len(template.options(item))
        over = max(ends, start + question_at + len(item.question))
        # A token may begin with the space before a word, so that where it ends says where it belongs.
        inside = (places[:, 1] > begins) & (places[:, 0] < ends)
        options[row, mask[row]] = inside
        answer[row, mask[row]] = (places[:, 0] >= over) & ~inside
    options, answer = options & ~audio, answer & ~audio
    last = torch.zeros_like(mask)
    last[:, -1] = True
    question = mask & ~audio & ~options & ~answer
    return {"audio": audio, "question": question, "options": options, "answer": answer, "last": last, "all": mask}


def heard_only(layout: Layout, audio: Tensor) -> Tensor:
    """Return which audio tokens stand for the clip, and not for the silence that some families hand on behind it.

    Parameters
    ----------
    layout : Layout
    audio : Tensor, shape (item, token), bool
        All audio tokens.

    Returns
    -------
    Tensor, shape (item, token), bool
    """
    import torch

    if layout.heard is None or layout.tokens is None:
        return audio
    out = audio.clone()
    for row, (tokens, heard) in enumerate(zip(layout.tokens, layout.heard, strict=True)):
        real = torch.cat([torch.arange(count) < kept for count, kept in zip(tokens, heard, strict=True)])
        out[row, torch.nonzero(audio[row]).flatten()[~real]] = False
    return out


def aligned(source: Tensor, frames: int, how: str) -> Tensor:
    """Return the states of a clip as they are written over one of `frames` frames.

    Parameters
    ----------
    source : Tensor, shape (source frame, width)
    frames : int
        Of the clip that is written over.
    how : str
        Of :data:`ALIGNMENTS`.

    Returns
    -------
    Tensor, shape (frame, width)
        ``min(frames, source frames)`` of them for ``frames``, else as many as asked for. Where the lengths agree,
        ``frames`` and ``resample`` are the source, bit for bit.
    """
    from torch.nn.functional import interpolate

    if how == "mean":
        return source.float().mean(dim=0, keepdim=True).to(source.dtype).expand(frames, -1)
    if how == "frames" or len(source) == frames:
        return source[:frames]
    stretched = interpolate(source.float().T[None], size=frames, mode="linear")
    return stretched[0].T.to(source.dtype)
