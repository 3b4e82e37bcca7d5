"""What does it cost to ask what an answer was made of? Integrated gradients and patches, by every tool at hand.

``python benchmarks/attribution.py`` measures two things, parity first.

*Gradients.* Integrated gradients of the margin with respect to one place, silence as the baseline. Plain Captum gets
the whole model as a function of the log-mel input and the place as a layer (``LayerIntegratedGradients``), once as the
processor makes the input (silence up to the end of the window) and once without that silence. Ours encodes every clip
once and goes on from the place. The maps must agree to 1e-4 nats. How much is saved depends on how much of a forward
lies before the place, so the organism and a random Audio Flamingo 3 of given proportions are both measured.

*Patches.* One state of a twin written over another's, at one place, for a batch of pairs. Raw hooks on the whole model
are the reference; ours goes on from encoded clips; nnsight and TransformerLens patch the whole model where they reach
the place. What a patched run answers must agree to 1e-4.

nnsight and TransformerLens are optional (``pip install nnsight transformer-lens``). A contender that cannot run is
listed with its reason. Contenders take turns; ratios are medians over rounds. The exit code is 1 if ours differs from
the reference.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _contenders import Scene, Unavailable, bridged, optional
from _shared import benchmark_of, headline, in_rounds, random_model, report, same_weights, speak, table
from captum.attr import LayerIntegratedGradients

import vpanalysis as vp
from vpanalysis.attribution._hooks import Positions, changed, watched
from vpanalysis.attribution._margin import margin_of_logits
from vpanalysis.attribution._patched import Cell, PairBatch
from vpanalysis.attribution.gradients import ConvergenceWarning, attribute
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT

TOLERANCE = 1e-4

# Gradients ------------------------------------------------------------------------------------------------------------


def plain_captum(llm: Any, item: Any, site: str, steps: int, rows: int) -> np.ndarray[Any, Any]:
    """Return a map over the frames or tokens of one item, by Captum on the whole model."""
    wave = item.audio.load()
    batch = llm.prepare([item], [wave], DEFAULT_PROMPT)
    silence = llm.prepare([item], [np.zeros_like(wave)], DEFAULT_PROMPT)
    inputs = llm.frontend.shortened(dict(batch.inputs))
    silent = llm.frontend.shortened(dict(silence.inputs))["input_features"]
    rest = {name: value for name, value in inputs.items() if name != "input_features"}
    rest["position_ids"] = (rest["attention_mask"].cumsum(-1) - 1).clamp(min=0)

    def whole(features: torch.Tensor) -> torch.Tensor:
        many = {name: value.expand(len(features), *value.shape[1:]) for name, value in rest.items()}
        given = {**many, "input_features": features}
        with llm.frontend.forward_context(given):
            logits = llm.model(**given, use_cache=False, logits_to_keep=1).logits[:, -1]
        return margin_of_logits(llm, item, logits.float())

    # No module of the mixture takes one tensor, so Captum cannot be given it; the text's input is that of a layer.
    first = llm.module_of("text[0]") if site == "text.embed" else None
    method = LayerIntegratedGradients(whole, llm.module_of(site) if first is None else first)
    made = method.attribute(inputs["input_features"], baselines=silent, n_steps=steps, internal_batch_size=rows,
                            attribute_to_layer_input=first is not None)  # fmt: skip
    state = made[0] if isinstance(made, tuple) else made
    per_position = state[0].sum(dim=-1)
    kept = batch.frames[0][0] if not site.startswith("text") else len(per_position)
    return np.asarray(per_position[:kept].detach().double().cpu().numpy())


def ours(llm: Any, bench: vp.Benchmark, site: str, steps: int, rows: int) -> Any:
    return attribute(llm, bench, site=site, method="integrated_gradients", baseline="silence", limit=None,
                     conditions=bench.conditions, n_steps=steps, internal_batch_size=rows, faithfulness=False,
                     cache=None, progress=False)  # fmt: skip


def gradients(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    facts: dict[str, Any] = {}
    for title, (bench, load) in models(options).items():
        as_made, trimmed = load(False), load(True)
        for site in options.site:
            said, found = one_site(options, title, bench, as_made, trimmed, site)
            print("\n".join(said), flush=True)
            facts[f"{title} {site}"] = found
    return facts, all(fact["worst"] <= TOLERANCE for fact in facts.values())


def one_site(
    options: argparse.Namespace, title: str, bench: vp.Benchmark, as_made: Any, trimmed: Any, site: str
) -> tuple[list[str], dict[str, Any]]:
    def plain(llm: Any) -> list[np.ndarray[Any, Any]]:
        return [plain_captum(llm, item, site, options.steps, options.rows) for item in bench]

    contenders: dict[str, Callable[[], Any]] = {
        "plain Captum, whole model": lambda: plain(as_made),
        "plain Captum, no silence": lambda: plain(trimmed),
        "ours": lambda: ours(trimmed, bench, site, options.steps, options.rows),
    }
    found = contenders["ours"]()
    worst = 0.0
    for item, theirs in zip(bench, plain(as_made), strict=True):
        mine = np.asarray(found.map(item.id).values, dtype=np.float64)
        worst = max(worst, float(np.abs(mine - theirs[: len(mine)]).max()))
    times = in_rounds(contenders, options.rounds, warm_up=0)
    rows = []
    for name, t in times.items():
        ratio = "-" if name == "ours" else "{1:.1f}x [{0:.1f}, {2:.1f}]".format(*t.ratio(times["ours"]))
        rows.append([name, f"{np.median(t.wall) / len(bench):.2f}", ratio])
    head = f"\n{title}, {site}: {len(bench)} items, {options.steps} steps; maps agree to {worst:.1e} nats"
    lines = [head, table(["contender", "s an item", "ours is faster by"], rows)]
    return lines, {"worst": worst, "seconds": {name: t.wall for name, t in times.items()}}


def models(options: argparse.Namespace) -> dict[str, tuple[vp.Benchmark, Callable[[bool], Any]]]:
    """Return, by title, items and how to load a model with or without the silence behind clips."""
    whole = vp.load_benchmark("mini").select(conditions="conflict", limit=options.items)
    out: dict[str, tuple[vp.Benchmark, Callable[[bool], Any]]] = {
        "mini-pclm-dpo": (whole, lambda trim: vp.load_model("mini-pclm-dpo", trim=trim))
    }
    if not options.quick:
        from _shared import Size

        size = Size(options.encoder_layers, options.encoder_width, options.text_layers, options.text_width)
        pair = random_model(size, mixer=True)
        waves = speak([4.0] * options.items)
        asked = benchmark_of(waves, name="clips").filter(lambda i: bool(i.foils) and i.truth not in i.foils)
        title = f"random AF3 ({size.encoder_layers} x {size.encoder_width} encoder, {size.text_layers} x "
        title += f"{size.text_width} text)"
        out[title] = (asked, lambda trim: vp.load_model(pair, trim=trim, name="random"))
    return out


# Patches --------------------------------------------------------------------------------------------------------------


class Patches:
    """One batch of pairs, and ways to write the source's state of one site over the base's."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.scene = Scene(options)
        llm, self.items = self.scene.llm, self.scene.items
        seconds = [len(wave) / 16_000 for wave in self.scene.waves]
        self.source = speak(seconds, seed=1)
        sites = [site for site in llm.sites if site not in ("gate", "options", "tower")]
        self.sites = [site for site in sites if site in options.patch_site] if options.patch_site else sites
        self.cells = {site: Cell(site, "audio") for site in self.sites}
        foils = all(item.foils for item in self.items)
        if not foils:
            raise SystemExit("the clips' items need foils")
        self.pairs = PairBatch(llm, self.items, self.scene.waves, self.source, DEFAULT_PROMPT,
                               list(self.cells.values()), "frames")  # fmt: skip
        other = llm.prepare(self.items, self.source, DEFAULT_PROMPT)
        self.states: dict[str, torch.Tensor] = {}
        with watched(llm, self.sites) as seen:
            llm.forward(other)
        self.states = {site: states[0] for site, states in seen.items()}
        self.ids = self.scene.batch.inputs["input_ids"]

    def mixed(self, site: str, state: torch.Tensor) -> torch.Tensor:
        """Return a state with the audio positions of the source."""
        mask = self.scene.batch.inputs["attention_mask"].bool()
        audio = (self.ids == self.scene.llm._audio_token_id) & mask
        where = Positions.of_site(site, self.scene.batch.layout, audio, audio).audio
        rows, columns = torch.cat([r for r, _ in where]), torch.cat([c for _, c in where])
        new = state.clone()
        new[rows, columns] = self.states[site][rows, columns].to(state.dtype)
        return new

    def ours(self, site: str) -> torch.Tensor:
        return self.pairs.patched(self.cells[site])

    def hooks(self, site: str) -> torch.Tensor:
        with changed(self.scene.llm, site, lambda state: self.mixed(site, state)):
            return self.scene.llm.forward(self.scene.batch)

    def insight(self) -> Callable[[str], torch.Tensor]:
        nnsight = optional("nnsight")
        wrapped = nnsight.NNsight(same_weights(self.scene.model))
        envoys = {}
        for site in self.sites:
            path, side = self.scene.places[site]
            envoy: Any = wrapped
            for part in path.split("."):
                envoy = envoy[int(part)] if part.isdigit() else getattr(envoy, part)
            envoys[site] = (envoy, side)

        def patched(site: str) -> torch.Tensor:
            envoy, side = envoys[site]
            with wrapped.trace(**self.scene.inputs):
                if side == "input":
                    envoy.input = self.mixed(site, envoy.input)
                else:
                    found = envoy.output
                    new = self.mixed(site, found[0] if isinstance(found, tuple) else found)
                    envoy.output = (new, *found[1:]) if isinstance(found, tuple) else new
                logits = wrapped.output.logits.save()
            return logits[:, -1].float()

        return patched

    def lens(self) -> Callable[[str], torch.Tensor]:
        bridge = bridged(self.scene)
        points = {"projector": "audio_projector.hook_out", "text.embed": "blocks.0.hook_in"}
        points |= {site: f"blocks.{site[5:-1]}.hook_out" for site in self.sites if site.startswith("text[")}
        inputs = {k: v for k, v in self.scene.inputs.items() if k not in ("input_ids", "use_cache")}

        def patched(site: str) -> torch.Tensor:
            if points.get(site) not in bridge.hook_dict:
                raise Unavailable("no hook point")
            hook = (points[site], lambda state, hook: self.mixed(site, state))
            return bridge.run_with_hooks(self.ids, fwd_hooks=[hook], **inputs)[:, -1].float()

        return patched


def patches(options: argparse.Namespace) -> tuple[list[str], dict[str, Any], bool]:
    scene = Patches(options)
    ways: dict[str, Callable[[str], torch.Tensor]] = {"raw hooks, whole model": scene.hooks, "ours": scene.ours}
    reasons: dict[str, str] = {}
    for name, make in (("nnsight", scene.insight), ("TransformerLens", scene.lens)):
        try:
            ways[name] = make()
        except Unavailable as error:
            reasons[name] = str(error)
    rows: list[list[str]] = []
    facts: dict[str, Any] = {}
    with torch.inference_mode():
        truth = {site: scene.hooks(site) for site in scene.sites}
        reach: dict[str, list[str]] = {}
        worst: dict[str, float] = {}
        for name, way in ways.items():
            for site in scene.sites:
                try:
                    gap = float((way(site).cpu() - truth[site].cpu()).abs().max())
                except Exception as error:
                    reasons.setdefault(name, f"{site}: {type(error).__name__}: {str(error).splitlines()[0][:80]}")
                    continue
                reach.setdefault(name, []).append(site)
                worst[name] = max(worst.get(name, 0.0), gap)
        right = worst["ours"] <= TOLERANCE and reach["ours"] == scene.sites
        times = {
            (name, place): in_rounds(
                {name: partial(patch_all, ways[name], mine), "ours": partial(patch_all, scene.ours, mine)},
                options.rounds, warm_up=1,
            )
            for name, sites in reach.items()
            for place in ("encoder", "behind")
            if name != "ours" and (mine := [x for x in sites if x.startswith("encoder") == (place == "encoder")])
        }  # fmt: skip
    facts["times"] = {f"{name}, {place}": {k: t.wall for k, t in pair.items()} for (name, place), pair in times.items()}
    for name in [*ways, *(n for n in reasons if n not in ways)]:
        sites = reach.get(name, [])
        row = [name, f"{len(sites)}/{len(scene.sites)}"]
        for place in ("encoder", "behind"):
            mine = [x for x in sites if x.startswith("encoder") == (place == "encoder")]
            pair = times.get((name if name != "ours" else "raw hooks, whole model", place))
            if not mine or pair is None:
                row += ["-", "-"]
                continue
            row.append(f"{np.median(pair[name].wall) * 1000 / len(mine):.0f}")
            row.append("-" if name == "ours" else "{1:.1f}x [{0:.1f}, {2:.1f}]".format(*pair[name].ratio(pair["ours"])))
        note = f"within {worst[name]:.0e}" if sites else reasons[name]
        rows.append([*row, note + (f"; {reasons[name]}" if sites and name in reasons else "")])
    lines = [f"\npatches: {len(scene.items)} pairs, {len(scene.sites)} sites, random AF3"]
    head = ["contender", "sites", "ms, encoder", "ours is faster by", "ms, behind it", "ours is faster by", "logits"]
    lines.append(table(head, rows))
    return lines, {**facts, "reach": reach, "worst": worst, "reasons": reasons}, bool(right)


def patch_all(way: Callable[[str], torch.Tensor], sites: Sequence[str]) -> None:
    for site in sites:
        way(site)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny models, one round")
    parser.add_argument("--part", action="append", choices=["gradients", "patches"], default=None)
    parser.add_argument("--items", type=int, default=4)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rows", type=int, default=32, help="states at once (internal_batch_size)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--site", action="append", default=None)
    parser.add_argument("--patch-site", action="append", default=None)
    parser.add_argument("--batch", type=int, default=4, help="pairs that are patched together")
    parser.add_argument("--encoder-layers", type=int, default=12)
    parser.add_argument("--encoder-width", type=int, default=256)
    parser.add_argument("--text-layers", type=int, default=8)
    parser.add_argument("--text-width", type=int, default=256)
    parser.add_argument("--window", type=int, default=30)
    parser.add_argument("--mixer", action="store_true", help="patch a model with a mixer (TransformerLens cannot)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", type=Path, default=None)
    options = parser.parse_args(arguments)
    options.part = options.part or ["gradients", "patches"]
    options.site = options.site or ["streams[0]", "text.embed"]
    if options.quick:
        options.items, options.rounds, options.steps, options.batch = 2, 1, min(options.steps, 8), 2
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    torch.set_num_threads(1)
    # Maps that miss their sum at so many steps are as costly as others.
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(headline(__file__, list(sys.argv[1:] if arguments is None else arguments), options.device), flush=True)
    one, right = gradients(options) if "gradients" in options.part else ({}, True)
    lines, two, same = patches(options) if "patches" in options.part else ([], {}, True)
    report(lines, {"gradients": one, "patches": two, "right": right and same}, options.json)
    return 0 if right and same else 1


if __name__ == "__main__":
    sys.exit(main())
