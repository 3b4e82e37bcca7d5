"""From the name of a site to the module that a hook goes on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vpanalysis.errors import ModelError
from vpanalysis.models.family import Family

__all__ = ["InputOf", "module_of_site", "sites_of", "state_of"]

_INDEXED = re.compile(r"^(encoder|streams|text)\[(\d+)\]$")


def state_of(output: Any) -> Tensor:
    """Return the state in what a module returned: a tensor, the first of a tuple, or a ModelOutput's first."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        return cast(Tensor, next(iter(output.values())))
    return cast(Tensor, output[0])


class InputOf(nn.Module):
    """Stands for the input of a layer as if a module put it out.

    What the audio stem and the merged embeddings hand on is not the output of any module: Hugging Face adds positions
    and scatters audio tokens in between. It is the first layer's input. A forward hook put on this stand-in becomes a
    pre-hook on the layer; what the hook returns, if anything, replaces the input.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        # Not a submodule: the layer belongs to the model alone.
        self._layer = (layer,)

    def register_forward_hook(self, hook: Callable[..., Any], **_kwargs: Any) -> RemovableHandle:
        """Call `hook(layer, args, input)` before each forward of the layer."""

        def before(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            state = args[0] if args else kwargs["hidden_states"]
            changed = hook(layer, args, state)
            if changed is None:
                return None
            return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})

        return self._layer[0].register_forward_pre_hook(before, with_kwargs=True)

    def forward(self, *_args: Any, **_kwargs: Any) -> Any:
        """Refuse: there is nothing to run."""
        raise ModelError("cannot run a site", found="a stand-in for a layer's input", fix="hook it instead")


def sites_of(family: Family, model: nn.Module) -> tuple[str, ...]:
    """Return the names of a model's sites, from waveform to answer."""
    encoder = cast(nn.ModuleList, family.find(model, family.encoder_layers))
    audio = ("encoder.stem", *(f"encoder[{i}]" for i in range(len(encoder))), "tower")
    if not family.answers:
        return audio
    text = cast(nn.ModuleList, family.find(model, family.text_layers))
    bridge = ["projector"]
    if family.stream_projectors is not None:
        projectors = cast(nn.ModuleList, family.find(model, family.stream_projectors))
        bridge = [*(f"streams[{k}]" for k in range(len(projectors) + 1)), "gate", "mixed"]
    return (
        *audio,
        *bridge,
        "text.embed",
        *(f"text[{i}]" for i in range(len(text))),
        "options",
    )


def module_of_site(family: Family, model: nn.Module, sites: tuple[str, ...], site: str) -> nn.Module:
    """Return the module of a site; see `AudioLLM.module_of`."""
    if site not in sites:
        raise ModelError("cannot find a site", found=repr(site), allowed=sites, word=site)
    if site == "options":
        raise ModelError("cannot hook the site 'options'", found="scores, which no module puts out")
    if site in ("encoder.stem", "text.embed"):
        layers = family.encoder_layers if site == "encoder.stem" else family.text_layers
        return InputOf(cast(nn.ModuleList, family.find(model, layers))[0])
    match = _INDEXED.match(site)
    if match is None:
        tower = family.tower_output or family.tower
        paths = {"tower": tower, "projector": family.projector, "gate": family.gate, "mixed": family.mixer}
        return family.find(model, cast(str, paths[site]))
    kind, index = match.group(1), int(match.group(2))
    if kind == "streams":
        projectors = cast(nn.ModuleList, family.find(model, cast(str, family.stream_projectors)))
        return projectors[index] if index < len(projectors) else family.find(model, family.projector)
    path = family.encoder_layers if kind == "encoder" else family.text_layers
    return cast(nn.ModuleList, family.find(model, path))[index]
