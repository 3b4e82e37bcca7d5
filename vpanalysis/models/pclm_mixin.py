"""What a prompt-conditioned layer mixer (PCLM) adds to an audio language model, whatever its base.

Why it exists. The VoxParadox paper puts the same mixer on two models. Their Hugging Face classes differ in names, in
the form of the projector and in how the tower is called; what the mixer does between tower and language model does not.

The idea. Two mixins, to stand before the stock class in the list of bases. `PCLMModelMixin` goes on the model without a
head: it encodes once, reading the exposed layers by hooks that live as long as one call of the tower, mixes, and puts
the mixture where the audio placeholders stand; the stock forward then gets embeddings and nothing about audio.
`PCLMHeadMixin` goes on the model with a head. A base says which name it gives to the mask of valid mel frames
(`mask_name`), and how its tower is run (`run_tower`) where that takes more than features and mask.

Worked example::

    class Qwen2AudioPCLMModel(PCLMModelMixin, Qwen2AudioModel):
        mask_name = "feature_attention_mask"

        def run_tower(self, input_features, input_features_mask, **kwargs): ...

        def forward(self, input_ids=None, input_features=None, feature_attention_mask=None, ..., **kwargs):
            embeds, audio = self.embed_mixture(input_ids, input_features, feature_attention_mask, ...)
            return super().forward(inputs_embeds=embeds, **kwargs)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel, initialization

from vpanalysis.errors import ModelError
from vpanalysis.models.mixer import PromptConditionedLayerMixer, PromptGate, outputs_of, pool_state

__all__ = ["PCLMHeadMixin", "PCLMModelMixin", "StreamStates"]

StreamStates: TypeAlias = "list[Float[Tensor, 'windows frames width']]"


class _StartsGate:
    """Gives the gate's own tensors their start; everything else gets the base's."""

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[misc]
        # Loading builds the model without storage, so whatever a checkpoint lacks must be given its start here; these
        # functions leave alone what it holds.
        if isinstance(module, PromptGate):
            if module.mode == "static":
                initialization.zeros_(module.static_logits)
            elif module.mode == "clamped":
                initialization.copy_(module.clamped_weights, torch.tensor(cast(Any, self).config.gate_weights))


class PCLMModelMixin(_StartsGate):
    """Makes the audio tokens of a model without a head a prompt-conditioned mixture of encoder layers.

    Before the stock class in the bases. Three modules exist so that others can look at them: `pclm.gate` returns the
    weights, each stream's projector returns that stream, and `pclm` itself returns the mixture. The last stream is the
    base's own `multi_modal_projector`.

    Parameters
    ----------
    config : PCLMConfig
        Also the base's.
    """

    config: Any
    audio_tower: Any
    multi_modal_projector: nn.Module
    get_input_embeddings: Any
    mask_name: ClassVar[str] = "input_features_mask"

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        self.pclm = PromptConditionedLayerMixer(config, type(self.multi_modal_projector))
        cast(Any, self).post_init()

    @property
    def stream_projectors(self) -> tuple[nn.Module, ...]:
        """The projector of every stream, in the order of the gate's weights; the last is the base's own."""
        return (*self.pclm.projectors, self.multi_modal_projector)

    @torch.no_grad()
    def clone_final_projector(self) -> None:
        """Start the exposed layers' projectors as copies of the final one, as the paper does before training."""
        for projector in self.pclm.projectors:
            projector.load_state_dict(self.multi_modal_projector.state_dict())

    def run_tower(
        self,
        input_features: Float[Tensor, "windows mels time"],
        input_features_mask: Int[Tensor, "windows time"],
        **kwargs: Any,
    ) -> Any:
        """Return the output of the tower's own forward, for a tower that makes its attention mask itself."""
        return self.audio_tower(input_features, input_features_mask=input_features_mask, return_dict=True, **kwargs)

    def encode_streams(
        self,
        input_features: Float[Tensor, "windows mels time"],
        input_features_mask: Int[Tensor, "windows time"] | None = None,
        **kwargs: Any,
    ) -> tuple[StreamStates, Int[Tensor, " windows"], Any]:
        """Run the tower once and return what the streams' projectors take.

        Parameters
        ----------
        input_features : Tensor, shape (windows, mel bins, mel frames)
            Log-mel features of the processor.
        input_features_mask : Tensor, shape (windows, mel frames)
            1 on valid frames. It may also be given under the base's own name for it.
        **kwargs
            For the tower.

        Returns
        -------
        states : list of Tensor, each of shape (windows, frames, d_encoder)
            One per stream: exposed layers after pooling (`mid_pool`), then the tower's output.
        frames : Tensor, shape (windows,)
            Valid frames of each window.
        tower_output : ModelOutput
            What the tower returned.

        Raises
        ------
        ModelError
            If the mask is missing.
        """
        mask: Tensor | None = kwargs.pop(self.mask_name, input_features_mask)
        if mask is None:
            # Going on without the clip would be a silent wrong answer.
            raise ModelError(
                "cannot run the audio tower",
                found=f"input_features without {self.mask_name}",
                allowed="both, as the processor makes them",
            )
        tower = self.audio_tower
        exposed = self.config.encoder_indices if self.config.stream_sources == "layers" else ()
        with outputs_of([tower.layers[i] for i in exposed]) as raw:
            output = self.run_tower(input_features, mask, **kwargs)
        final = output.last_hidden_state
        if self.config.stream_sources == "final":
            states = [final] * self.config.num_streams
        else:
            states = [*(pool_state(tower, state, self.config.mid_pool) for state in raw), final]
        # The stem's second convolution halves the mel frames, the pooling halves them again.
        positions = (mask.sum(-1).to(torch.long) - 1) // 2 + 1
        return states, (positions - 2) // 2 + 1, output

    def mix_streams(
        self,
        states: Sequence[Float[Tensor, "windows frames d_encoder"]],
        prompt_input_ids: Int[Tensor, "batch tokens"] | None = None,
        prompt_attention_mask: Int[Tensor, "batch tokens"] | None = None,
        audio_windows: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "windows frames d_text"]:
        """Project every stream, weigh them by the prompt and return the mixture.

        Parameters
        ----------
        states : sequence of Tensor, each of shape (windows, frames, d_encoder)
            As `encode_streams` returns them, fresh or from a cache.
        prompt_input_ids, prompt_attention_mask : Tensor, shape (batch, tokens), optional
            The gate's text. Not needed when the gate does not read the prompt.
        audio_windows : Tensor, shape (batch,), optional
            How many consecutive windows belong to each row; one each by default.

        Returns
        -------
        Tensor, shape (windows, frames, d_text)
            The audio tokens for the language model, padding frames included.

        Raises
        ------
        ModelError
            If the numbers of streams, prompts and windows do not fit together.
        """
        projectors = self.stream_projectors
        windows = states[0].shape[0]
        if len(states) != len(projectors):
            raise ModelError("cannot mix streams", found=f"{len(states)} states", allowed=f"{len(projectors)}")
        batch = windows if audio_windows is None else int(audio_windows.shape[0])
        streams = [projector(state) for projector, state in zip(projectors, states, strict=True)]
        weights = self.pclm.gate(prompt_input_ids, prompt_attention_mask, batch)
        if audio_windows is not None:
            weights = weights.repeat_interleave(audio_windows.to(weights.device), dim=0)
        if weights.shape[0] != windows:
            raise ModelError(
                "cannot mix streams",
                found=f"{weights.shape[0]} prompt rows for {windows} audio windows",
                allowed="one prompt row per clip",
                fix="say with audio_windows how many windows each clip has",
            )
        return cast(Tensor, self.pclm(streams, weights))

    def mixed_tokens(
        self,
        input_features: Float[Tensor, "windows mels time"],
        input_features_mask: Int[Tensor, "windows time"] | None,
        prompt_input_ids: Int[Tensor, "batch tokens"] | None = None,
        prompt_attention_mask: Int[Tensor, "batch tokens"] | None = None,
        audio_windows: Int[Tensor, " batch"] | None = None,
        **kwargs: Any,
    ) -> tuple[Float[Tensor, "tokens d_text"], Any]:
        """Return the valid audio tokens of all windows, one window after the other, and the tower's output.

        Parameters
        ----------
        input_features, input_features_mask, **kwargs
            As in `encode_streams`.
        prompt_input_ids, prompt_attention_mask, audio_windows
            As in `mix_streams`.
        """
        states, frames, output = self.encode_streams(input_features, input_features_mask, **kwargs)
        mixed = self.mix_streams(states, prompt_input_ids, prompt_attention_mask, audio_windows)
        valid = torch.arange(mixed.shape[1], device=frames.device)[None, :] < frames[:, None]
        return mixed[valid.to(mixed.device)], output

    def embed_mixture(
        self,
        input_ids: Int[Tensor, "batch length"],
        input_features: Float[Tensor, "windows mels time"],
        input_features_mask: Int[Tensor, "windows time"] | None,
        inputs_embeds: Float[Tensor, "batch length d_text"] | None = None,
        **gate: Tensor | None,
    ) -> tuple[Float[Tensor, "batch length d_text"], Float[Tensor, "tokens d_text"]]:
        """Return the embeddings of a prompt with the mixture where its audio placeholders stand, and the mixture.

        Parameters
        ----------
        input_ids : Tensor, shape (batch, length)
            The prompts, with one placeholder per audio token.
        input_features, input_features_mask : Tensor
            As in `encode_streams`.
        inputs_embeds : Tensor, shape (batch, length, d_text), optional
            The prompts' embeddings, where they are made already.
        **gate
            `prompt_input_ids`, `prompt_attention_mask` and `audio_windows`, as in `mix_streams`.

        Raises
        ------
        ModelError
            If the mask is missing, or there are not as many placeholders as audio tokens.
        """
        embeds = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        audio, _ = self.mixed_tokens(input_features, input_features_mask, **gate)
        places = input_ids == self.config.audio_token_id
        if int(places.sum()) != audio.shape[0]:
            raise ModelError(
                "cannot place the audio in the prompts",
                found=f"{int(places.sum())} placeholders for {audio.shape[0]} audio tokens",
                allowed="one placeholder per audio token",
                fix="make the inputs with the model's processor, which repeats the placeholder",
            )
        places = places.to(embeds.device)[..., None]
        return embeds.masked_scatter(places, audio.to(embeds.device, embeds.dtype)), audio


class PCLMHeadMixin(_StartsGate):
    """A language modeling head on a model with a mixer. Before the stock class in the bases.

    Parameters
    ----------
    config : PCLMConfig
        Also the base's.
    """

    config: Any
    model: Any
    body: ClassVar[Any]
    """The class of the model without a head."""

    def __init__(self, config: Any) -> None:
        # Past the stock class's own constructor, which would build a second, stock model of billions of parameters.
        PreTrainedModel.__init__(self, config)
        self.model = self.body(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        cast(Any, self).post_init()

    def clone_final_projector(self) -> None:
        """Start the exposed layers' projectors as copies of the final one; see `PCLMModelMixin`."""
        self.model.clone_final_projector()

    def encode_streams(
        self,
        input_features: Float[Tensor, "windows mels time"],
        input_features_mask: Int[Tensor, "windows time"] | None = None,
        **kwargs: Any,
    ) -> tuple[StreamStates, Int[Tensor, " windows"], Any]:
        """Run the tower once and return what the streams' projectors take; see `PCLMModelMixin.encode_streams`."""
        return cast(
            "tuple[StreamStates, Tensor, Any]",
            self.model.encode_streams(input_features, input_features_mask, **kwargs),
        )

    def mix_streams(
        self,
        states: Sequence[Float[Tensor, "windows frames d_encoder"]],
        prompt_input_ids: Int[Tensor, "batch tokens"] | None = None,
        prompt_attention_mask: Int[Tensor, "batch tokens"] | None = None,
        audio_windows: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "windows frames d_text"]:
        """Project, weigh and sum cached stream states; see `PCLMModelMixin.mix_streams`."""
        return cast(Tensor, self.model.mix_streams(states, prompt_input_ids, prompt_attention_mask, audio_windows))

    def prepare_inputs_for_generation(
        self,
        input_ids: Int[Tensor, "batch length"],
        inputs_embeds: Float[Tensor, "batch length d_text"] | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return the inputs of one step of generation: those of clip and gate in the first alone.

        As Hugging Face's own, past what some versions of it put before it for these bases, where embeddings of a prompt
        with its clip are not let through.
        """
        inputs: dict[str, Any] = GenerationMixin.prepare_inputs_for_generation(
            self, input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
        )
        if not is_first_iteration and kwargs.get("use_cache", True):
            heard = ("input_features", self.body.mask_name, "prompt_input_ids", "prompt_attention_mask")
            for name in (*heard, "audio_windows"):
                inputs.pop(name, None)
        return inputs
