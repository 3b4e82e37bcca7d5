"""The layer mixer as it is in a Run's own model: every part with its parameters, and what the mixer adds.

Why it exists. The paper draws its mixer as a scheme and says that it adds less than one per cent of parameters. A
scheme cannot be checked; the parts of a checkpoint can be counted.

The idea. The checkpoint that a Run names is described by its configuration and the headers of its files, and built on
the meta device: every tensor has a shape and none has storage, so that eight billion parameters cost as little as two
million. Which layers are tapped is what the Run's manifest says. Parameters are counted once where tensors are tied.

What it cannot show. Counts say nothing about what a part does. Frames are those of one full window of the encoder, and
clips are shorter; the miniature organism has a tiny language model, so the mixer's share there is no estimate of the
paper's.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vpanalysis.errors import VPError
from vpanalysis.figures._entry import Entry
from vpanalysis.figures._layers import about, pt
from vpanalysis.figures._sources import VARIANTS, Sources, lacking, variant_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from vpanalysis._run import Run

__all__ = ["ENTRY"]

_RECORD = "vpanalysis run mini-pclm-dpo mini --out runs/mini-pclm-dpo"
_FIRST = ("pclm+dpo", "pclm", "static")


def data(sources: Sources) -> pd.DataFrame:
    """Return a row a part: module, parameters, shape (frames, width, layers), whether the mixer added it, and share."""
    mixed = [name for name in sources.names if sources.all[name].manifest["model"].get("streams")]
    rank = {variant: number for number, variant in enumerate(_FIRST)}
    mixed.sort(key=lambda name: rank.get(variant_of(sources.all[name]), len(rank)))
    reasons = []
    for name in mixed:
        try:
            config, note = _config_of(sources.all[name])
        except VPError as error:
            reasons.append(f"{name}: {error}")
            continue
        rows = _parts(sources.all[name], config)
        common = {**about(sources, name), "variant": VARIANTS[variant_of(sources.all[name])], "note": note}
        return pd.DataFrame([{**common, **row} for row in rows])
    found = "; ".join(reasons[:2]) or f"{len(sources.names)} Runs, none of a model with a layer mixer"
    raise lacking("architecture", found, _RECORD)


def _config_of(run: Run) -> tuple[Any, str]:
    """Return the configuration of a Run's checkpoint on this disk, and a remark where it is not the Run's."""
    from vpanalysis._manifest import config_sha
    from vpanalysis.errors import ModelError
    from vpanalysis.models.bundled import CHECKPOINTS, DEFAULT, weights_folder
    from vpanalysis.models.checkpoint.assignment import resolve
    from vpanalysis.models.checkpoint.sources import fields_of_source
    from vpanalysis.models.loading import _cached_snapshot

    made = run.manifest["model"]
    source = str(made.get("source") or "")
    if source in (*CHECKPOINTS, "mini"):
        folder: Path | None = weights_folder(DEFAULT if source == "mini" else source)
    elif source and Path(source).is_dir():
        folder = Path(source)
    else:
        # Nothing is fetched for a picture.
        folder = _cached_snapshot(source, made.get("revision")) if source.count("/") == 1 else None
    if folder is None:
        raise ModelError(f"cannot count the parameters of {made['name']!r}", found="no checkpoint on this disk")
    found = resolve(folder, overrides=fields_of_source(folder, None)[0])
    if found.config is None:
        raise ModelError(f"cannot count the parameters of {made['name']!r}", found="; ".join(found.problems))
    same = config_sha(found.config) == made["config"]
    return found.config, "" if same else "the checkpoint on this disk has another configuration than the Run's model"


def _parts(run: Run, config: Any) -> list[dict[str, Any]]:
    from vpanalysis.models.checkpoint.bases import meta_model
    from vpanalysis.models.families import family_of

    model = meta_model(config)
    family = family_of(config.model_type)
    audio, text = config.audio_config, config.text_config
    streams = list(run.manifest["model"]["streams"])
    positions = int(audio.max_source_positions)
    mel = positions
    for _, (_, stride, _) in family.stem:
        mel *= stride
    frames, wide = family.tower_frames(mel), int(text.hidden_size)
    gate = family.find(model, family.gate)
    mids: Any = family.find(model, family.stream_projectors)
    layers: Any = family.find(model, family.encoder_layers)
    blocks: Any = family.find(model, family.text_layers)
    counted: set[int] = set()

    def size(*modules: Any) -> int:
        """Count the parameters that no earlier part has counted."""
        new = {id(p): p.numel() for module in modules for p in module.parameters() if id(p) not in counted}
        counted.update(new)
        return sum(new.values())

    width = int(next(p for n, p in layers[0].named_parameters() if n.endswith("norm.weight")).shape[0])
    llm, head = family.find(model, family.language_model), family.find(model, family.head)
    rows = [
        _row("log-mel", "input", 0, f"{mel} x {audio.num_mel_bins}"),
        _row("encoder", "encoder", size(family.find(model, family.tower)), f"{positions} x {width}", layers=len(layers),
             detail=" ".join(streams)),
    ]  # fmt: skip
    for number, stream in enumerate(streams):
        own = number < len(mids)
        module = mids[number] if own else family.find(model, family.projector)
        rows.append(_row(stream, "projector", size(module), f"{frames} x {wide}", added=own))
    if hasattr(gate, "prompt_encoder"):
        bert = config.prompt_encoder_config
        count = size(gate.prompt_encoder)
        rows.append(_row("prompt encoder", "gate", count, f"1 x {bert.hidden_size}", layers=bert.num_hidden_layers,
                         added=True))  # fmt: skip
        rows.append(_row("gate MLP", "gate", size(gate.mlp), f"{len(streams)} weights", added=True))
    else:
        rows.append(_row(f"{config.gate_mode} gate", "gate", size(gate), f"{len(streams)} weights", added=True))
    rows.append(_row("mixture", "mixture", 0, f"{frames} x {wide}", added=True))
    rows.append(_row("language model", "LLM", size(llm, head), f"tokens x {wide}", layers=len(blocks),
                     detail="embedding and head included"))  # fmt: skip
    rest = size(model)
    if rest:
        rows.append(_row("other", "other", rest, ""))
    total = sum(row["parameters"] for row in rows)
    rows.append(_row("added by the mixer", "sum", sum(row["parameters"] for row in rows if row["added"]), ""))
    rows.append(_row("whole model", "sum", total, ""))
    return [{**row, "share": row["parameters"] / total} for row in rows]


def _row(
    part: str, group: str, parameters: int, shape: str, *, layers: int = 0, added: bool = False, detail: str = ""
) -> dict[str, Any]:
    return {
        "part": part, "group": group, "parameters": parameters, "shape": shape, "layers": layers, "added": added,
        "detail": detail,
    }  # fmt: skip


def draw(table: pd.DataFrame, figure: Figure) -> None:
    """Draw the parts from left to right, the gate below; what the mixer added has a thick outline."""
    ax = figure.subplots()
    ax.set_axis_off()
    # Inches of the paper's style.
    ax.set_xlim(0, 6.75)
    ax.set_ylim(0, 3.3)
    first = table.iloc[0]
    by = {str(row["part"]): row for row in table.to_dict("records")}
    projectors = table[table["group"] == "projector"].to_dict("records")
    encoder, llm, mixture = by["encoder"], by["language model"], by["mixture"]

    low, high = 0.98, 2.62
    _box(ax, 0.02, 1.5, 0.62, 0.6, [("log-mel", True), (by["log-mel"]["shape"].replace("x", "×"), False)])
    tapped = _stack(ax, 0.95, low, 0.95, high - low, int(encoder["layers"]), str(encoder["detail"]).split(" "))
    _above(ax, 0.95 + 0.475, high, [f"encoder, {int(encoder['layers'])} layers", _count(encoder), _shape(encoder)])
    _arrow(ax, (0.66, 1.8), (0.93, 1.8))

    step = (high - low) / len(projectors)
    for number, row in enumerate(projectors):
        y = low + number * step
        lines = [(f"projector of {row['part']}", True), (f"{_count(row)}, {_shape(row)}", False)]
        _box(ax, 2.25, y + 0.03, 1.4, step - 0.06, lines, added=bool(row["added"]), size=min(6.3, 15 * step + 1.5))
        middle = y + step / 2
        _arrow(ax, tapped.get(str(row["part"]), (1.92, high)), (2.23, middle))
        way = np.array([3.67 - 4.32, middle - 1.8])
        at = np.array([4.32, 1.8]) + 0.2 * way / np.hypot(*way)
        ax.plot([3.67, at[0]], [middle, at[1]], color="black", lw=pt(0.8), zorder=1)
    _circle(ax, 4.32, 1.8, "Σ α z")
    ax.text(4.32, 2.06, f"mixture\n{_shape(mixture)}", ha="center", va="bottom", fontsize=pt(6.3))
    _arrow(ax, (4.51, 1.8), (4.93, 1.8))
    _stack(ax, 4.95, low, 0.95, high - low, int(llm["layers"]), [])
    _above(ax, 4.95 + 0.475, high, [f"language model, {int(llm['layers'])} layers", _count(llm), _shape(llm)])
    _arrow(ax, (5.92, 1.8), (6.18, 1.8))
    ax.text(6.2, 1.8, "answer", fontsize=pt(7), va="center")

    gates = table[table["group"] == "gate"].to_dict("records")
    left = 4.05 - 1.5 - 1.66 * (len(gates) - 1)
    ax.text(left - 0.33, 0.62, "prompt", fontsize=pt(7), va="center", ha="right")
    _arrow(ax, (left - 0.3, 0.62), (left - 0.02, 0.62))
    for number, row in enumerate(gates):
        x = left + 1.66 * number
        depth = f", {int(row['layers'])} layers" if row["layers"] else ""
        name = f"{row['part']}{depth}"
        _box(ax, x, 0.42, 1.5, 0.4, [(name, True), (f"{_count(row)}, {_shape(row)}", False)], added=True, size=6.3)
        if number:
            _arrow(ax, (x - 0.14, 0.62), (x - 0.02, 0.62))
    end = 4.07
    ax.plot([end, 4.32], [0.62, 0.62], color="black", lw=pt(0.8))
    _arrow(ax, (4.32, 0.62), (4.32, 1.61))
    ax.text(4.37, 0.9, "α", fontsize=pt(8), style="italic")

    added, whole = by["added by the mixer"], by["whole model"]
    name = f"{first['model']}{', organism (planted)' if first['planted'] else ''}"
    said = (
        f"thick outline: added by the mixer, {int(added['parameters']):,} of {int(whole['parameters']):,} parameters "
    )
    said += f"({100 * added['share']:.2g} %); shapes: frames × width of one window; dark: tapped"
    ax.text(0.02, 3.28, name, fontsize=pt(8.5), fontweight="bold", va="top")
    ax.text(3.375, 0.12, said, fontsize=pt(6.5), va="center", ha="center")
    for artist in ax.get_children():
        # All of it is inside the axes, which take the whole page.
        artist.set_in_layout(False)


def _count(row: Any) -> str:
    """Return a number of parameters with three digits and a unit."""
    number = float(row["parameters"])
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def _shape(row: Any) -> str:
    return str(row["shape"]).replace(" x ", " × ")


def _box(
    ax: Axes, x: float, y: float, wide: float, high: float, lines: list[tuple[str, bool]], *, added: bool = False,
    size: float = 6.5,
) -> None:  # fmt: skip
    from matplotlib.patches import FancyBboxPatch

    shape = FancyBboxPatch(
        (x, y), wide, high, boxstyle="round,pad=0,rounding_size=0.04", facecolor="#FCE9DA" if added else "#EDEDED",
        edgecolor="black" if added else "#8A8A8A", lw=pt(1.6 if added else 0.7), zorder=2,
    )  # fmt: skip
    ax.add_patch(shape)
    gap = min(0.13, high / (len(lines) + 0.4))
    for number, (said, strong) in enumerate(lines):
        at = y + high / 2 + ((len(lines) - 1) / 2 - number) * gap
        ax.text(x + wide / 2, at, said, ha="center", va="center", fontsize=pt(max(6, size)),
                fontweight="bold" if strong else "normal", zorder=3)  # fmt: skip


def _stack(
    ax: Axes, x: float, y: float, wide: float, high: float, layers: int, tapped: list[str]
) -> dict[str, tuple[float, float]]:
    """Draw a stack of layers, the first at the bottom, and return where each tapped state leaves it."""
    from matplotlib.patches import Rectangle

    taken = {int(found.group(1)) for name in tapped if (found := re.fullmatch(r"encoder\[(\d+)\]", name))}
    step = high / layers
    places = {name: (x + wide + 0.02, y + high - 0.2 * step) for name in tapped if name.startswith("tower")}
    for number in range(layers):
        dark = number in taken
        ax.add_patch(
            Rectangle(
                (x, y + number * step + 0.12 * step), wide, 0.76 * step, facecolor="#4D4D4D" if dark else "#EDEDED",
                edgecolor="#8A8A8A", lw=pt(0.5), zorder=2,
            )
        )  # fmt: skip
        if dark:
            places[f"encoder[{number}]"] = (x + wide + 0.02, y + (number + 0.5) * step)
        if step > 0.12:
            ax.text(x + wide / 2, y + (number + 0.5) * step, str(number), ha="center", va="center", zorder=3,
                    fontsize=pt(6.3), color="white" if dark else "black")  # fmt: skip
        elif dark:
            # Bars are thinner than type there.
            ax.text(x - 0.03, y + (number + 0.5) * step, str(number), ha="right", va="center", fontsize=pt(6))
    return places


def _above(ax: Axes, x: float, y: float, lines: list[str]) -> None:
    for number, said in enumerate(reversed(lines)):
        top = number == len(lines) - 1
        ax.text(x, y + 0.05 + 0.125 * number, said, ha="center", va="bottom", fontsize=pt(7 if top else 6.3),
                fontweight="bold" if top else "normal")  # fmt: skip


def _circle(ax: Axes, x: float, y: float, said: str) -> None:
    from matplotlib.patches import Circle

    ax.add_patch(Circle((x, y), 0.19, facecolor="#FCE9DA", edgecolor="black", lw=pt(1.6), zorder=2))
    ax.text(x, y, said, ha="center", va="center", fontsize=pt(6.3), zorder=3)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    look = {
        "arrowstyle": "-|>,head_width=0.15,head_length=0.3",
        "lw": pt(0.8),
        "color": "black",
        "shrinkA": 0,
        "shrinkB": 0,
    }
    ax.annotate("", end, start, arrowprops=look, zorder=1)


def alt(table: pd.DataFrame) -> str:
    """Name the parts in their order, with their parameters, and the mixer's share."""
    parts = table[(table["group"] != "sum") & (table["parameters"] > 0)]
    said = ", ".join(f"{row['part']} {_count(row)}" for row in parts.to_dict("records"))
    added = table[table["part"] == "added by the mixer"].iloc[0]
    return (
        f"Parts of {table.iloc[0]['model']} from log-mel input to answer, with their parameters: {said}. The mixer "
        f"adds {_count(added)} parameters, {100 * added['share']:.2g} per cent of the whole."
    )


ENTRY = Entry(
    id="architecture",
    title="The prompt-conditioned layer mixer, counted",
    paper="PCLM architecture (scheme); the paper says that the mixer adds less than 1 % of parameters",
    caption=(
        "The parts of the Run's own model from its configuration and the headers of its checkpoint: layers (dark: "
        "tapped by the mixer), parameters, and shapes of states as frames by width for one full encoder window. "
        "Streams are projected, weighted by the gate's weights, which depend on the prompt alone, and summed; the sum "
        "replaces the audio tokens. The organism's language model is tiny, so the share of added parameters there is "
        "no estimate of the paper's."
    ),
    data=data,
    draw=draw,
    alt=alt,
    height=3.3,
    record=_RECORD,
)  # fmt: skip
"""The entry of the gallery."""
