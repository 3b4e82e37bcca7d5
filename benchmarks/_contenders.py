"""Ways to get at the states of one forward, for `capture.py`: one model and batch, and a class for each tool."""

from __future__ import annotations

import argparse
import importlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from _shared import TINY, Size, benchmark_of, random_model, same_weights, speak

import vpanalysis as vp
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.capture.recorder import Recorder, tensor_of
from vpanalysis.capture.reducers import Plan, Spans, make_plan
from vpanalysis.capture.sites import clock_of

States = dict[str, list[np.ndarray[Any, Any]]]
"""By site: for each row, its valid frames (frame, feature), or for the gate its weights."""


class Unavailable(Exception):
    """Why a contender cannot run."""


def optional(name: str) -> Any:
    """Return a module of a contender that may not be installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unavailable(f"not installed ({error})") from error


class Scene:
    """One model, one batch, and where everything is."""

    def __init__(self, options: argparse.Namespace) -> None:
        size = size_of(options)
        model, processor = random_model(size, mixer=options.mixer)
        model = model.to(options.device, getattr(torch, options.dtype))
        # Clips fill between half and all of a window, so that there is padding and not much of it.
        seconds = np.linspace(0.55, 1.0, options.batch) * size.window
        self.waves = speak(list(seconds))
        self.llm = vp.load_model((model, processor), trim=False, name="random AF3")
        self.bridge: Any = None
        self.items = list(benchmark_of(self.waves, name="clips"))
        self.batch = self.llm.prepare(self.items, self.waves, DEFAULT_PROMPT)
        mask = self.batch.inputs["attention_mask"]
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        self.inputs = {**self.batch.inputs, "position_ids": positions, "use_cache": False, "logits_to_keep": 1}
        self.spans: dict[Any, Spans] = {
            "encoder": Spans.per_window(self.batch.positions),
            "tower": Spans.per_window(self.batch.frames),
            "audio": Spans.per_window(self.batch.frames),
            "text": Spans.per_item(mask.sum(1).tolist(), padding="left"),
        }
        self.sites = [site for site in self.llm.sites if site != "options"]
        names = {id(module): name for name, module in model.named_modules()}
        self.places: dict[str, tuple[str, str]] = {}
        """By site: the path of its module, and which side of it is the state."""
        for site in self.sites:
            first = {"encoder.stem": "encoder[0]", "text.embed": "text[0]"}.get(site)
            path = names[id(self.llm.module_of(first or site))]
            self.places[site] = (path, "input" if first else "output")

    @property
    def model(self) -> Any:
        return self.llm.model

    def valid(self, site: str, state: torch.Tensor) -> list[np.ndarray[Any, Any]]:
        """Return the valid frames of each row of a whole state."""
        clock = clock_of(site)
        rows = state.detach().float().cpu().numpy()
        if clock is None:
            return list(rows)
        spans = self.spans[clock]
        kept = spans.valid(rows.shape[1])
        return [row[keep] for row, keep in zip(rows, kept, strict=True)]


class Contender:
    """A way to get at states. `run` is timed; `states` turns what it returned into valid frames, untimed."""

    name = ""
    note = ""
    whole = True

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def run(self) -> Any:
        raise NotImplementedError

    def states(self, kept: Any) -> States:
        found = self.tensors(kept)
        return {site: self.scene.valid(site, state) for site, state in found.items()}

    def tensors(self, kept: Any) -> Mapping[str, torch.Tensor]:
        """Return the whole states by site."""
        return kept[1]  # type: ignore[no-any-return]

    def logits(self, kept: Any) -> torch.Tensor:
        return kept[0][:, -1]  # type: ignore[no-any-return]

    def held(self, kept: Any) -> int:
        """Return the bytes of the states that are kept."""
        return sum(state.numel() * state.element_size() for state in self.tensors(kept).values())


class Bare(Contender):
    name = "bare forward"
    note = "nothing is kept"

    def run(self) -> Any:
        return self.scene.model(**self.scene.inputs).logits, {}


class Hooks(Contender):
    name = "raw hooks + clone"
    note = "whole states; the reference"

    def run(self) -> Any:
        kept: dict[str, torch.Tensor] = {}
        handles = []

        def keeper(site: str) -> Callable[..., None]:
            def keep(_module: Any, _args: Any, output: Any) -> None:
                kept[site] = tensor_of(output).clone()

            return keep

        try:
            for site in self.scene.sites:
                handles.append(self.scene.llm.module_of(site).register_forward_hook(keeper(site)))  # noqa: PERF401
            logits = self.scene.model(**self.scene.inputs).logits
        finally:
            for handle in handles:
                handle.remove()
        return logits, kept


class Ours(Contender):
    """Our recorder, with one reducer at all sites."""

    reducer = "mean"

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.plan: Plan = make_plan(scene.llm.sites, reducers=self.reducer)

    def run(self) -> Any:
        with Recorder(self.scene.llm.module_of, self.plan) as recorder:
            recorder.expect(self.scene.spans)
            logits = self.scene.model(**self.scene.inputs).logits
            return logits, recorder.take()

    def states(self, kept: Any) -> States:
        return {site: list(value) for (site, _), value in kept[1].items()}

    def held(self, kept: Any) -> int:
        return sum(np.asarray(row).nbytes for value in kept[1].values() for row in value)


class OursMean(Ours):
    name = "our recorder, mean"
    note = "valid frames pooled in the hook"
    whole = False


class OursFrames(Ours):
    name = "our recorder, frames"
    note = "every valid frame, on the host, float32"
    reducer = "frames"


class Flag(Contender):
    name = "output_hidden_states"
    note = "of the whole model: text only, the last one normed"

    def run(self) -> Any:
        output = self.scene.model(**self.scene.inputs, output_hidden_states=True)
        return output.logits, output.hidden_states

    def tensors(self, kept: Any) -> Mapping[str, torch.Tensor]:
        # The last entry is what the final norm made of the last layer's output: no site has it.
        named = ["text.embed", *(f"text[{i}]" for i in range(len(kept[1]) - 2))]
        return dict(zip(named, kept[1], strict=False))

    def held(self, kept: Any) -> int:
        return sum(state.numel() * state.element_size() for state in kept[1])


class Insight(Contender):
    """What the two ways of nnsight share: the wrapped model and the paths of the sites."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        nnsight = optional("nnsight")
        self.nnsight = nnsight
        # nnsight replaces the forward of every module for good.
        self.wrapped = nnsight.NNsight(same_weights(scene.model))
        self.envoys = []
        for path, side in scene.places.values():
            envoy: Any = self.wrapped
            for part in path.split("."):
                envoy = envoy[int(part)] if part.isdigit() else getattr(envoy, part)
            self.envoys.append((envoy, side))


class InsightSave(Insight):
    name = "nnsight save"
    note = "whole states"

    def run(self) -> Any:
        with self.wrapped.trace(**self.scene.inputs):
            kept = self.nnsight.save([])
            for envoy, side in self.envoys:
                kept.append(envoy.input if side == "input" else envoy.output)
            logits = self.wrapped.output.logits.save()
        return logits, dict(zip(self.scene.sites, map(tensor_of, kept), strict=True))


class InsightCache(Insight):
    name = "nnsight cache"
    note = "whole states; inputs of all modules, because two sites are inputs"

    def run(self) -> Any:
        with self.wrapped.trace(**self.scene.inputs) as tracer:
            cache = tracer.cache(modules=[envoy for envoy, _ in self.envoys], device=None, include_inputs=True)
            logits = self.wrapped.output.logits.save()
        found = {}
        for site, (envoy, side) in zip(self.scene.sites, self.envoys, strict=True):
            entry = cache[envoy.path]
            found[site] = tensor_of(entry.input if side == "input" else entry.output)
        return logits, found


class Lens(Contender):
    """What both ways of TransformerLens share: the bridge around eager attention."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        if scene.bridge is None:
            scene.bridge = bridged(scene)
        self.bridge = scene.bridge
        points = {"tower": "audio_encoder.hook_out", "projector": "audio_projector.hook_out"}
        points |= {"text.embed": "blocks.0.hook_in"}
        points |= {site: f"blocks.{site[5:-1]}.hook_out" for site in scene.sites if site.startswith("text[")}
        self.points = {site: point for site, point in points.items() if point in self.bridge.hook_dict}

    def run(self) -> Any:
        inputs = {k: v for k, v in self.scene.inputs.items() if k not in ("input_ids", "use_cache")}
        return self.bridge.run_with_cache(self.scene.inputs["input_ids"], names_filter=self.filtered(), **inputs)

    def filtered(self) -> Any:
        return None

    def tensors(self, kept: Any) -> Mapping[str, torch.Tensor]:
        return {site: tensor_of(kept[1][point]) for site, point in self.points.items()}

    def held(self, kept: Any) -> int:
        # Several names stand for one tensor, and several tensors for one piece of memory.
        pieces = [value.untyped_storage() for value in kept[1].values() if isinstance(value, torch.Tensor)]
        return sum({piece.data_ptr(): piece.nbytes() for piece in pieces}.values())


def bridged(scene: Scene) -> Any:
    """Return TransformerLens's bridge around modules of its own and the scene's tensors."""
    bridge = optional("transformer_lens.model_bridge").TransformerBridge
    helpers = optional("transformer_lens.model_bridge.sources.transformers").helpers
    # Where it cannot load a processor, booting installs torchvision, and with it another torch. Not in a benchmark.
    helpers._ensure_torchvision = lambda: False
    model = same_weights(scene.model)
    with tempfile.TemporaryDirectory() as folder:
        scene.llm.processor.save_pretrained(folder)
        model.config.save_pretrained(folder)
        try:
            return bridge.boot_transformers(
                folder,
                hf_model=model,
                tokenizer=scene.llm.tokenizer,
                device=str(scene.llm.device),
                dtype=scene.llm.dtype,
            )
        except Exception as error:
            # Whatever stops it is what the table says.
            reason = (str(error).splitlines() or [""])[0].split(". ")[0]
            raise Unavailable(
                f"cannot bridge {type(model).__name__}: {type(error).__name__}: {reason[:100]}"
            ) from error


class LensFiltered(Lens):
    name = "TransformerLens, filtered"
    note = "eager attention; the encoder's layers have no hook point"

    def filtered(self) -> Any:
        return list(self.points.values())


class LensWhole(Lens):
    name = "TransformerLens, all"
    note = "run_with_cache without a filter"


CONTENDERS: tuple[type[Contender], ...] = (
    Bare, OursMean, OursFrames, Hooks, Flag, InsightSave, InsightCache, LensFiltered, LensWhole,
)  # fmt: skip


def size_of(options: argparse.Namespace) -> Size:
    if options.quick:
        return TINY
    return Size(options.encoder_layers, options.encoder_width, options.text_layers, options.text_width, options.window)
