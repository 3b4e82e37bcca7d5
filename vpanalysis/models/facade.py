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
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from vpanalysis.errors import ModelError
from vpanalysis.models._checks import check_forward, check_parts
from vpanalysis.models._inputs import InputMaker, Wave
from vpanalysis.models._letters import LetterTable, letter_table
from vpanalysis.models._sites import module_of_site, sites_of, state_of
from vpanalysis.models._weights import digest, digest_of
from vpanalysis.models.batch import Batch, EncodedClip, Layout, stack_clips
from vpanalysis.models.families import Family, family_of
from vpanalysis.models.mixer import outputs_of, pool_state
from vpanalysis.models.split import parts_of

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Item
    from vpanalysis.benchmark.prompts import PromptTemplate

__all__ = ["AudioLLM"]


class AudioLLM:
    """A loaded model, its processor, and names for the places inside it.

    Parameters
    ----------
    model : PreTrainedModel
        Audio Flamingo 3, with or without PCLM; put into evaluation mode. Its numerics are left untouched.
    processor : AudioFlamingo3Processor
        Its processor.
    name : str, optional
        What to call it in tables.
    family : Family, optional
        Where its parts live; by its config's `model_type` by default.
    gate_tokenizer : PreTrainedTokenizerBase, optional
        What tokenizes the gate's text; the processor's `gate_tokenizer`, else its tokenizer, by default.
    source, revision : str, optional
        Where it came from, for the manifest of a Run.
    check : bool, optional
        Whether to run one tiny forward that compares the family's frame rule with the model.

    Attributes
    ----------
    sites : tuple of str
        Names of places, from waveform to answer.
    streams : tuple of str or None
        What each of the gate's streams is made of, in the order of its weights; None without a mixer.
    stream_inputs : tuple of str
        The streams that an `EncodedClip` must hold.
    max_seconds : float
        Length of one encoder window; longer clips take several.
    seconds_per_frame : tuple of float
        Step between encoder positions and between tower frames, in seconds.

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
        check: bool = True,
    ) -> None:
        self.model: Any = model.eval()
        self.source, self.revision = source, revision
        self.processor = processor
        self.name = name or getattr(model.config, "name_or_path", "") or type(model).__name__
        self.family = family or family_of(model.config.model_type)
        self.family.check(model)
        self.tokenizer: Any = processor.tokenizer
        self.gate_tokenizer: Any = gate_tokenizer or getattr(processor, "gate_tokenizer", None) or self.tokenizer
        self.feature_extractor: Any = processor.feature_extractor
        self.streams: tuple[str, ...] | None = None
        self._stream_of: tuple[str, ...] = ("tower",)
        if self.family.mixer is not None:
            config = model.config
            self.streams = config.stream_names
            self._stream_of = self.streams if config.stream_sources == "layers" else ("tower",) * config.num_streams
        self.stream_inputs: tuple[str, ...] = tuple(dict.fromkeys(self._stream_of))
        self.sites: tuple[str, ...] = sites_of(self.family, model)
        self.max_seconds = float(self.feature_extractor.chunk_length)
        self.seconds_per_frame = self.family.seconds_per_frame(self.feature_extractor)
        self._letters: LetterTable = {}
        reads = None if self.streams is None else model.config.gate_text
        self._maker = InputMaker(processor, self.gate_tokenizer, self.family, reads)
        check_parts(self)
        if check:
            check_forward(self)

    @property
    def device(self) -> torch.device:
        """Where the model's inputs go."""
        return cast(torch.device, self.model.device)

    @property
    def dtype(self) -> torch.dtype:
        """The model's floating-point type."""
        return cast(torch.dtype, self.model.dtype)

    def __repr__(self) -> str:
        layers = sum(site.startswith("encoder[") for site in self.sites)
        text = sum(site.startswith("text[") for site in self.sites)
        mixer = f"\n  mixer    {len(self.streams)} streams: {', '.join(self.streams)}" if self.streams else ""
        encoder, tower = self.seconds_per_frame
        return (
            f"AudioLLM {self.name!r} ({self.family.title})\n"
            f"  encoder  {layers} layers, {1000 * encoder:g} ms a position, window {self.max_seconds:g} s\n"
            f"  tower    {1000 * tower:g} ms an audio token{mixer}\n"
            f"  text     {text} layers\n"
            f"  on       {self.device}, {str(self.dtype).removeprefix('torch.')}"
        )

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"

    # Places -----------------------------------------------------------------------------------------------------------

    def module_of(self, site: str) -> nn.Module:
        """Return the module whose forward output is the state of `site`.

        The output is a tensor, a tuple that begins with it, or a ModelOutput. ``encoder.stem`` and ``text.embed`` are
        the *inputs* of a first layer; for them a stand-in is returned, on which only `register_forward_hook` may be
        called: the hook is then called with the input as if it were an output.

        Parameters
        ----------
        site : str
            One of `sites` other than ``"options"``.

        Raises
        ------
        ModelError
            If there is no such site, or it is no module's output.
        """
        return module_of_site(self.family, self.model, self.sites, site)

    @contextmanager
    def capturing(self, sites: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
        """Keep the states of some sites during a block, whole and unreduced.

        Parameters
        ----------
        sites : sequence of str
            Which ones.

        Yields
        ------
        dict of str to list of Tensor
            One tensor per call of the module, as it came, on the model's device.
        """
        states: dict[str, list[Tensor]] = {site: [] for site in sites}
        handles = []

        def keeper(site: str) -> Any:
            def keep(_module: Any, _args: Any, output: Any) -> None:
                states[site].append(state_of(output))

            return keep

        try:
            for site in states:
                handles.append(self.module_of(site).register_forward_hook(keeper(site)))  # noqa: PERF401
            yield states
        finally:
            for handle in handles:
                handle.remove()

    # Inputs -----------------------------------------------------------------------------------------------------------

    def prompt(self, item: Item, template: PromptTemplate) -> str:
        """Return the whole text of a row: chat form, one audio placeholder, question, answer prefix."""
        return self._maker.prompt(item, template)

    def gate_text(self, item: Item, template: PromptTemplate) -> str:
        """Return the text that the gate reads for `item` (config field `gate_text`)."""
        return self._maker.gate_text(item, template)

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
        batch = self._maker.batch(items, waves, template, answers, encoded)
        batch.inputs = {name: self._moved(tensor) for name, tensor in batch.inputs.items()}
        return batch

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, self.dtype) if tensor.is_floating_point() else tensor.to(self.device)

    def features(self, waves: Sequence[Wave]) -> tuple[dict[str, Tensor], Layout]:
        """Return log-mel features, made by the model's own processor, and how the clips lie in their rows.

        Parameters
        ----------
        waves : sequence of array, each of shape (samples,), float32, 16 kHz
            The clips.

        Returns
        -------
        inputs : dict of str to Tensor
            ``input_features``, shape (windows, mel bins, mel frames), and ``input_features_mask``, shape (windows, mel
            frames), on the model's device.
        layout : Layout
            Windows and valid frames.

        Raises
        ------
        AudioError
            If a clip is too short for a single audio token.
        """
        inputs, layout = self._maker.features(waves)
        return {name: self._moved(tensor) for name, tensor in inputs.items()}, layout

    def layout(self, waves: Sequence[Wave]) -> Layout:
        """Return the windows and valid frames that these clips will have, without making features.

        Parameters
        ----------
        waves : sequence of array, each of shape (samples,)
            The clips.

        Raises
        ------
        AudioError
            If a clip is too short for a single audio token.
        """
        return self._maker.layout(waves)

    # Forward ----------------------------------------------------------------------------------------------------------

    # Not inference mode: what the encoder kept may be trained on.
    @torch.no_grad()
    def encode(self, waves: Sequence[Wave], streams: Sequence[str] | None = None) -> list[EncodedClip]:
        """Run the encoder once and keep what the rest of the model needs.

        Parameters
        ----------
        waves : sequence of array, each of shape (samples,), float32, 16 kHz
            The clips.
        streams : sequence of str, optional
            What to keep, ``"tower"`` and any ``"encoder[i]"``; `stream_inputs` by default. Asking for more than this
            model needs lets one encoding serve several models with the same encoder.

        Returns
        -------
        list of EncodedClip
            Valid frames only, in the model's dtype, on its device.

        Raises
        ------
        ModelError
            If a stream is not one of the encoder's.
        """
        names = tuple(dict.fromkeys(streams if streams is not None else self.stream_inputs))
        layers = {site: int(site[8:-1]) for site in self.sites if site.startswith("encoder[")}
        for name in names:
            if name != "tower" and name not in layers:
                raise ModelError(
                    "cannot keep a stream of the encoder", found=repr(name), allowed=["tower", *layers], word=name
                )
        inputs, layout = self.features(waves)
        tower: Any = self.family.find(self.model, self.family.tower)
        exposed = sorted((name for name in names if name != "tower"), key=layers.__getitem__)
        with outputs_of([tower.layers[layers[name]] for name in exposed]) as raw:
            states = {"tower": tower(**inputs).last_hidden_state}
        states |= {name: pool_state(tower, state, self._mid_pool) for name, state in zip(exposed, raw, strict=True)}
        clips: list[EncodedClip] = []
        row = 0
        for frames in layout.frames:
            rows = range(row, row + len(frames))
            row += len(frames)
            kept = {name: torch.cat([states[name][r, :n] for r, n in zip(rows, frames, strict=True)]) for name in names}
            clips.append(EncodedClip(kept, frames))
        return clips

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
        return cast(Tensor, self._run(batch, encoded, logits_to_keep=1).logits[:, -1].float())

    __call__ = forward

    def _run(self, batch: Batch, encoded: Sequence[EncodedClip] | None, **kwargs: Any) -> Any:
        mask = batch.inputs["attention_mask"]
        # Positions count from the first real token, so that a row does not depend on how far its batch was padded.
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        return self.model(**self._inputs(batch, encoded), position_ids=positions, use_cache=False, **kwargs)

    def _inputs(self, batch: Batch, encoded: Sequence[EncodedClip] | None) -> dict[str, Tensor]:
        clips = batch.encoded if encoded is None else tuple(encoded)
        if clips is None:
            return batch.inputs
        found = tuple(clip.windows for clip in clips)
        if found != batch.frames:
            raise ModelError(
                "cannot use encoded clips", found=f"frames {found}", allowed=f"those of the batch, {batch.frames}"
            )
        ids = batch.inputs["input_ids"]
        by_name = {name: stack_clips(clips, name).to(self.device, self.dtype) for name in self.stream_inputs}
        if self.streams is None:
            audio = self.family.find(self.model, self.family.projector)(by_name["tower"])
        else:
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
        logits = self._run(batch, encoded, logits_to_keep=longest + 1).logits[:, :-1].float()
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
        inputs = self._inputs(batch, encoded)
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

    # Identity ---------------------------------------------------------------------------------------------------------

    @cached_property
    def weights_sha(self) -> dict[str, str]:
        """SHA-256 (hex) of each part's tensors, by the names of the split layout; computed when first asked for."""
        return {part: digest(tensors) for part, tensors in parts_of(self.model).items()}

    @cached_property
    def encoder_sha(self) -> str:
        """SHA-256 (hex) of all that decides what `encode` returns, except which streams are kept.

        That is the encoder's weights and dtype, the feature extractor, and what is done to a layer before it is kept.
        """
        tower = digest(parts_of(self.model)["sound_tower"])
        return digest_of([tower, self.feature_extractor.to_dict(), self._mid_pool])

    @property
    def _mid_pool(self) -> str:
        return str(getattr(self.model.config, "mid_pool", "avg_norm"))

    @property
    def _audio_token_id(self) -> int:
        return int(getattr(self.model.config, self.family.audio_token_attr))
