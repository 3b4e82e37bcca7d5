"""One face for every audio language model: items in, logits and text out, every place inside it named.

Why it exists. Benchmarks, recorders and interventions should not know how a processor splits windows, on which side a
prompt is padded, or what a projector is called. They ask an `AudioLLM`.

The idea. The facade owns no numerics. It prepares inputs with the model's own processor, calls the model's own forward
and `generate`, and translates *sites* to the modules that are already there, so that a plain forward hook on
``llm.module_of("encoder[3]")`` sees what the model computes. The encoder is the expensive half and often frozen:
`encode` keeps what follows it needs, and `forward` and `generate` take that instead of running it again.

Worked example::

    llm = load_model("mini")
    batch = llm.prepare(items, [item.audio.load() for item in items], DEFAULT_PROMPT)
    llm.option_logprobs(batch, llm.forward(batch))      # per item, one log-probability per offered option
    llm.generate(batch)                                 # ["(B): high-medium-low.", ...]

    clips = llm.encode(waves)                           # once per clip, for every question about it
    llm.forward(llm.prepare(items, None, DEFAULT_PROMPT, encoded=clips))

    with llm.capturing(["encoder[1]", "gate"]) as states:
        llm.forward(batch)
    states["gate"][0].shape                             # (batch, streams)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from vpanalysis.errors import ModelError
from vpanalysis.models._checks import check_forward, check_parts, check_trim
from vpanalysis.models._inputs import InputMaker
from vpanalysis.models._letters import LetterTable, letter_table
from vpanalysis.models._replay import last_positions, replaying
from vpanalysis.models.audio_model import AudioModel
from vpanalysis.models.batch import Batch, EncodedClip, stack_clips
from vpanalysis.models.family import Family
from vpanalysis.models.frontends import Wave

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Item
    from vpanalysis.benchmark.prompts import PromptTemplate

__all__ = ["AudioLLM"]


class AudioLLM(AudioModel):
    """A loaded model, its processor, and names for the places inside it.

    Parameters
    ----------
    model : PreTrainedModel
        A model of a known family; put into evaluation mode. Its numerics are left untouched.
    processor : ProcessorMixin or feature extractor
        Its processor; for an encoder alone its feature extractor will do.
    name : str, optional
        What to call it in tables.
    family : Family, optional
        Where its parts live; by its config's `model_type` by default.
    gate_tokenizer : PreTrainedTokenizerBase, optional
        What tokenizes the gate's text; the processor's `gate_tokenizer`, else its tokenizer, by default.
    source, revision : str, optional
        Where it came from, for the manifest of a Run.
    trim : bool, optional
        Whether to encode only the frames that exist, where the family's tower allows it, instead of silence up to the
        end of a window. A check compares both ways; where they differ, silence is encoded as before.
    check : bool, optional
        Whether to run one tiny forward that compares the family's frame rule with the model, and to check `trim`.

    Attributes
    ----------
    answers : bool
        Whether there is a language model that can be asked. Without one, only the encoder can be run and recorded.
    frontend : Frontend
        How clips reach the tower.
    trim_report : str
        Whether silence is left out, and what the check measured.
    sites : tuple of str
        Names of places, from waveform to answer.
    streams : tuple of str or None
        What each of the gate's streams is made of, in the order of its weights; None without a mixer.
    stream_inputs : tuple of str
        The streams that an `EncodedClip` must hold.
    calibration : mapping or None
        What `vpanalysis.calibrate` found about this checkpoint, where loading followed it: the content of its file.
        Runs note which of their items it used.
    max_seconds : float
        Length of one encoder window, in seconds.
    seconds_per_frame : tuple of float
        Step between encoder positions and between tower frames, in seconds.
    seconds_per_token : float
        Step between audio tokens, in seconds.

    Raises
    ------
    ModelError
        If the model does not fit its family, or the processor does not fit the model.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str | None = None,
        family: Family | None = None,
        gate_tokenizer: Any = None,
        source: str | None = None,
        revision: str | None = None,
        trim: bool = True,
        check: bool = True,
    ) -> None:
        super().__init__(model, processor, name=name, family=family, source=source, revision=revision, trim=trim)
        self.gate_tokenizer: Any = gate_tokenizer or getattr(processor, "gate_tokenizer", None) or self.tokenizer
        self._letters: LetterTable = {}
        self._maker: InputMaker | None = None
        if self.answers:
            reads = None if self.streams is None else self.model.config.gate_text
            self._maker = InputMaker(processor, self.frontend, self.gate_tokenizer, reads)
        check_parts(self)
        self.trim_report = "off" if not self.frontend.trim else "not checked"
        if check:
            check_forward(self)
            check_trim(self)

    # Inputs -----------------------------------------------------------------------------------------------------------

    def prompt(self, item: Item, template: PromptTemplate) -> str:
        """Return the whole text of a row: chat form, one audio placeholder, question, answer prefix."""
        return self._asked().prompt(item, template)

    def _asked(self) -> InputMaker:
        if self._maker is None:
            raise ModelError(
                f"cannot ask {self.name!r}",
                found=f"an encoder without a language model ({self.family.title})",
                allowed="encode() and the sites of the encoder",
                fix="load a model that answers, or record and probe this one",
            )
        return self._maker

    def gate_text(self, item: Item, template: PromptTemplate) -> str:
        """Return the text that the gate reads for `item` (config field `gate_text`)."""
        return self._asked().gate_text(item, template)

    def prepare(
        self,
        items: Sequence[Item],
        waves: Sequence[Wave] | None,
        template: PromptTemplate,
        *,
        answers: Sequence[str] | None = None,
        encoded: Sequence[EncodedClip] | None = None,
    ) -> Batch:
        """Make the inputs of one forward.

        Parameters
        ----------
        items : sequence of Item
            The questions.
        waves : sequence of array, each of shape (samples,), float32, 16 kHz, or None
            Their clips. May be None when `encoded` is given.
        template : PromptTemplate
            Wording of the question.
        answers : sequence of str, optional
            One offered option per item, whose answer is appended, for `answer_logprobs`.
        encoded : sequence of EncodedClip, optional
            Use these instead of the clips; no features are computed.

        Returns
        -------
        Batch

        Raises
        ------
        ModelError
            If the numbers of items, clips and answers differ.
        """
        batch = self._asked().batch(items, waves, template, answers, encoded)
        batch.inputs = {name: self._moved(tensor) for name, tensor in batch.inputs.items()}
        return batch

    # Forward ----------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def forward(self, batch: Batch, encoded: Sequence[EncodedClip] | None = None) -> Tensor:
        """Return the logits of the token after the answer prefix.

        Parameters
        ----------
        batch : Batch
            From `prepare`, without answers.
        encoded : sequence of EncodedClip, optional
            Use these instead of running the encoder; the batch's own, if it has some, by default.

        Returns
        -------
        Tensor, shape (batch, vocabulary), float32

        Raises
        ------
        ModelError
            If the batch carries answers, or encoded clips do not fit it.
        """
        if any(batch.answer_tokens):
            raise ModelError(
                "cannot return the logits after the answer prefix",
                found="a batch with answers",
                fix="use answer_logprobs, or prepare the batch without answers",
            )
        return self._run(batch, encoded, 1)[:, -1].float()

    __call__ = forward

    def _run(self, batch: Batch, encoded: Sequence[EncodedClip] | None, keep: int) -> Tensor:
        """Return the logits of the last `keep` positions."""
        options: dict[str, Any] = {"use_cache": False}
        if not self.family.counts_positions:
            # Positions count from the first real token, so that a row does not depend on how far its batch was padded.
            options["position_ids"] = (batch.inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        with self._inputs(batch, encoded) as inputs:
            if self.family.keeps_logits:
                return cast(Tensor, self.model(**inputs, **options, logits_to_keep=keep).logits)
            with last_positions(self.family.find(self.model, self.family.head), keep):
                return cast(Tensor, self.model(**inputs, **options).logits)

    @contextmanager
    def _inputs(self, batch: Batch, encoded: Sequence[EncodedClip] | None) -> Iterator[dict[str, Tensor]]:
        """Yield what the model's forward takes, in the context in which it takes it."""
        clips = batch.encoded if encoded is None else tuple(encoded)
        if clips is None:
            inputs = self.frontend.shortened(batch.inputs)
            with self.frontend.forward_context(inputs):
                yield inputs
            return
        found = tuple(clip.windows for clip in clips)
        if found != batch.layout.kept_frames:
            raise ModelError(
                "cannot use encoded clips",
                found=f"frames {found}",
                allowed=f"those of the batch, {batch.layout.kept_frames}",
            )
        if self.streams is None:
            rest = {name: batch.inputs[name] for name in ("input_ids", "attention_mask")}
            empty = {name: self._moved(tensor) for name, tensor in self.frontend.stand_in(batch.layout).items()}
            handed_on = self.frontend.handed_on(self._stacked(clips, "tower"))
            with replaying(self.model, self.family.tower, handed_on):
                yield {**rest, **empty}
        else:
            yield self._mixed_inputs(batch, clips)

    def _stacked(self, clips: Sequence[EncodedClip], name: str) -> Tensor:
        if self.frontend.flat:
            state = torch.cat([clip.streams[name] for clip in clips])
        else:
            # Untrimmed, a state is as long as in the stock forward, so that the same kernels give the same bits.
            state = stack_clips(clips, name, None if self.frontend.trim else self.frontend.window_frames)
        return state.to(self.device, self.dtype)

    def _mixed_inputs(self, batch: Batch, clips: Sequence[EncodedClip]) -> dict[str, Tensor]:
        ids = batch.inputs["input_ids"]
        by_name = {name: self._stacked(clips, name) for name in self.stream_inputs}
        gate = {k: v for k, v in batch.inputs.items() if k.startswith("prompt_") or k == "audio_windows"}
        audio = self.model.mix_streams([by_name[name] for name in self._stream_of], **gate)
        frames = torch.tensor(batch.row_frames, device=audio.device)
        valid = torch.arange(audio.shape[1], device=audio.device)[None, :] < frames[:, None]
        embeds = self.model.get_input_embeddings()(ids)
        places = (ids == self._audio_token_id)[..., None].expand_as(embeds)
        embeds = embeds.masked_scatter(places, audio[valid].to(embeds.device, embeds.dtype))
        return {"inputs_embeds": embeds, "attention_mask": batch.inputs["attention_mask"]}

    @torch.inference_mode()
    def answer_logprobs(self, batch: Batch, encoded: Sequence[EncodedClip] | None = None) -> Tensor:
        """Return the log-probability of each row's given answer, from after the prefix to its last token.

        Parameters
        ----------
        batch : Batch
            From `prepare` with `answers`.
        encoded : sequence of EncodedClip, optional
            As in `forward`.

        Returns
        -------
        Tensor, shape (batch,), float32
            Sums over tokens; `Batch.answer_tokens` says how many.
        """
        longest = max(batch.answer_tokens, default=0)
        if longest == 0:
            raise ModelError("cannot score answers", found="a batch without answers", fix="prepare(..., answers=...)")
        logits = self._run(batch, encoded, longest + 1)[:, :-1].float()
        targets = batch.inputs["input_ids"][:, -longest:]
        scores = torch.log_softmax(logits, dim=-1).gather(-1, targets[..., None]).squeeze(-1)
        counts = torch.tensor(batch.answer_tokens, device=scores.device)
        given = torch.arange(longest, device=scores.device)[None, :] >= longest - counts[:, None]
        return (scores * given).sum(-1)

    @torch.inference_mode()
    def generate(
        self, batch: Batch, max_new_tokens: int = 16, encoded: Sequence[EncodedClip] | None = None
    ) -> list[str]:
        """Return greedily decoded answers.

        Parameters
        ----------
        batch : Batch
            From `prepare`, without answers.
        max_new_tokens : int, optional
            At most so many tokens after the prefix.
        encoded : sequence of EncodedClip, optional
            As in `forward`.

        Returns
        -------
        list of str
            One per row: the answer prefix, which was given, and what the model wrote after it.
        """
        from transformers import GenerationConfig

        own = self.model.generation_config
        eos = own.eos_token_id if own.eos_token_id is not None else self.tokenizer.eos_token_id
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else own.pad_token_id
        # A fresh one: a checkpoint's own may sample, and answers must not depend on a seed.
        greedy = GenerationConfig(max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=eos, pad_token_id=pad)
        with self._inputs(batch, encoded) as inputs:
            tokens = self.model.generate(**inputs, generation_config=greedy)
        if "input_ids" in inputs:
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        texts = [self.tokenizer.decode(row, skip_special_tokens=True) for row in tokens]
        return [batch.prefix + text for text in texts]

    # Options ----------------------------------------------------------------------------------------------------------

    def letter_tokens(self, letters: Sequence[str]) -> dict[str, tuple[int, ...]]:
        """Return, for each letter, the token or tokens that stand for it after the answer prefix.

        Raises
        ------
        ModelError
            If a letter has no token, or two letters share one.
        """
        missing = [letter for letter in letters if letter not in self._letters]
        if missing:
            self._letters |= letter_table(self.tokenizer, sorted({*self._letters, *missing}))
        return {letter: self._letters[letter].tokens for letter in letters}

    @property
    def letter_report(self) -> dict[str, str]:
        """How each letter asked for so far is scored, in words."""
        return {letter: entry.report for letter, entry in sorted(self._letters.items())}

    def option_logprobs(self, batch: Batch, logits: Tensor) -> list[Tensor]:
        """Return log-probabilities over the offered letters.

        Parameters
        ----------
        batch : Batch
            Whose items offer the letters.
        logits : Tensor, shape (batch, vocabulary)
            From `forward`.

        Returns
        -------
        list of Tensor, each of shape (options,), float32, on the CPU
            In the order of `Item.choices`; each sums to 1 when exponentiated. Where several tokens stand for a letter,
            their probabilities are added.
        """
        rows: list[Tensor] = []
        for item, row in zip(batch.items, logits.float().cpu(), strict=True):
            tokens = self.letter_tokens(item.letters)
            scores = torch.stack([torch.logsumexp(row[list(tokens[letter])], dim=0) for letter in item.letters])
            rows.append(torch.log_softmax(scores, dim=0))
        return rows

    @property
    def _audio_token_id(self) -> int:
        return int(getattr(self.model.config, self.family.audio_token_attr))
