"""Every tensor of a checkpoint and its place in the model, inferred from structure.

Why it exists. Names inside ``sound_pclm/``, most config keys of the mixer and the layout of the Qwen2-Audio sibling are
not public. A loader with a list of names would refuse the real checkpoint, and one that guessed would fill what it did
not find with random numbers. The tensors themselves say almost everything: shapes, and the trees that names form.

The idea. `resolve` reads headers and configuration, then parts claim their tensors one after the other: the language
model and the encoder by the names inside their classes, the prompt encoder as a BERT, the projectors by their shapes
and the layer's number, and the gate's MLP as the chain that is left. With what was inferred the configuration is
complete, and the model that it describes, built without storage, is the judge: every one of its tensors must have been
found, in its shape, and no tensor of the checkpoint may be left. Checkpoints that this package wrote need no inference.

Worked example::

    found = resolve("AF3_PCLM_DPO")
    found.targets["model.pclm.gate.mlp.0.weight"]    # TensorRecord(folder='sound_pclm', shape=(256, 512), ...)
    found.assumptions                                # layer_index_convention, mid_pool, gate_order, ...
    found.require("cannot load the model")           # raises ModelError when something is wrong
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vpanalysis.errors import ModelError
from vpanalysis.models.checkpoint.bases import expected_of, places_of, within
from vpanalysis.models.checkpoint.bert import PromptEncoder, claim_bert
from vpanalysis.models.checkpoint.board import Assumption, Board, Claim, Finding
from vpanalysis.models.checkpoint.gate import claim_gate, claim_weights
from vpanalysis.models.checkpoint.headers import Inventory, TensorRecord, listed, read_inventory
from vpanalysis.models.checkpoint.lazy import LazyTensor
from vpanalysis.models.checkpoint.modules import claim_head, claim_module
from vpanalysis.models.checkpoint.open_questions import open_questions
from vpanalysis.models.checkpoint.projectors import claim_streams, find_projectors
from vpanalysis.models.checkpoint.settings import Settings, read_settings

__all__ = ["Resolution", "assign", "resolve"]

# Tables that are computed from the configuration, which older files store.
_DERIVED = {"position_ids": "positions, counted", "inv_freq": "rotary frequencies, computed"}
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Resolution:
    """What was found in a checkpoint.

    Parameters
    ----------
    settings : Settings
        What its configuration files state.
    inventory : Inventory
        What its files hold.
    config : PreTrainedConfig or None
        For the model class; None when it could not be completed.
    claims : tuple of Claim
        Tensors and their places.
    findings, assumptions : tuple
        What the tensors showed, and what nothing showed.
    problems : tuple of str
        What is wrong, a clause each; empty when it can be loaded.
    """

    settings: Settings
    inventory: Inventory
    config: Any = None
    claims: tuple[Claim, ...] = ()
    findings: tuple[Finding, ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    problems: tuple[str, ...] = ()
    targets: dict[str, TensorRecord] = field(init=False)

    def __post_init__(self) -> None:
        placed = {claim.target: claim.record for claim in self.claims if claim.target is not None}
        object.__setattr__(self, "targets", placed)

    def require(self, asked: str) -> None:
        """Raise if something is wrong.

        Raises
        ------
        ModelError
            With everything that is.
        """
        if self.problems:
            raise ModelError(asked, found="; ".join(self.problems))

    def state(self) -> dict[str, LazyTensor]:
        """Return the state dictionary, whose tensors are read when they are asked for."""
        return {name: LazyTensor(record) for name, record in self.targets.items()}


def resolve(
    folder: str | Path, *, rename: Mapping[str, str] | None = None, overrides: Mapping[str, Any] | None = None
) -> Resolution:
    """Find the place of every tensor of a checkpoint of one of the bases.

    Parameters
    ----------
    folder : str or Path
        In the split layout, or with everything in one folder.
    rename : mapping of str to str, optional
        From the beginning of a tensor's key, ``"folder/name"``, to what replaces it: a name in the part (such as
        ``"mlp.0."``), or one in the model's state dictionary.
    overrides : mapping, optional
        Fields of the mixer to set otherwise than in file.

    Raises
    ------
    ModelError
        If a configuration file is missing or unreadable.
    """
    settings = read_settings(Path(folder), overrides)
    # Without a mixer a Hugging Face folder is its top level: what lies below are other checkpoints.
    inventory = read_inventory(Path(folder), settings.parts, recursive=settings.split or settings.mixed)
    return assign(inventory, settings, rename=rename)


def assign(inventory: Inventory, settings: Settings, *, rename: Mapping[str, str] | None = None) -> Resolution:
    """Find the place of every tensor, given what the files hold and state.

    Parameters
    ----------
    inventory : Inventory
        The tensors; their values are not needed.
    settings : Settings
        The configuration.
    rename : mapping of str to str, optional
        See `resolve`.
    """
    if inventory.problems:
        # What follows from a damaged file is not worth a sentence.
        return Resolution(settings, inventory, problems=inventory.problems)
    board = Board(_renamed(inventory.tensors, rename or {}))
    for subject, value, evidence in settings.findings:
        board.find(subject, value, evidence)
    _leave_aside(board)
    config = _own_layout(board, settings)
    if config is None:
        config = _by_structure(board, settings)
    if config is not None:
        _judge(board, config)
        if settings.mixed:
            board.assumptions += open_questions(settings, config)
    return Resolution(
        settings, inventory, config, tuple(board.claims), tuple(board.findings), tuple(board.assumptions),
        _with_formats(board.problems, settings, inventory),
    )  # fmt: skip


def _renamed(records: Sequence[TensorRecord], rename: Mapping[str, str]) -> list[TensorRecord]:
    renamed = []
    for record in records:
        begin = next((begin for begin in rename if record.key.startswith(begin)), None)
        if begin is not None:
            record = replace(record, name=rename[begin] + record.key.removeprefix(begin))
        renamed.append(record)
    return renamed


def _leave_aside(board: Board) -> None:
    """Claim what older files store although it follows from the configuration."""
    for record in board.free:
        leaf = record.name.rpartition(".")[2]
        if leaf in _DERIVED:
            board.claim(record, None, "not used", _DERIVED[leaf])


def _own_layout(board: Board, settings: Settings) -> Any:
    """Claim every tensor by its exact name where all are named as this package names them; else None."""
    if settings.mixed and not _complete(settings):
        return None
    config = settings.config({})
    expected = expected_of(config)
    keys = {name: name for name in expected}
    if settings.split:
        keys = {
            f"{part}/{inside}{rest}": outside + rest
            for part, prefixes in places_of(config).items()
            for inside, outside in prefixes.items()
            for rest in within(expected, outside)
        }
    by_key = {record.key: record for record in board.free}
    if any(key not in by_key or by_key[key].shape != expected[name] for key, name in keys.items()):
        return None
    for key, name in keys.items():
        board.claim(by_key[key], name, _role(name, settings, config), "its name")
    return config


def _complete(settings: Settings) -> bool:
    """Return whether the files state everything that decides which tensors there are."""
    if settings.exposed is None:
        return False
    if settings.field("gate_mode") not in (None, "prompt"):
        return True
    encoder = settings.field("prompt_encoder_config")
    sizes = {"vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads"}
    return isinstance(encoder, dict) and sizes <= set(encoder) and settings.field("gate_mlp_dims") is not None


def _role(name: str, settings: Settings, config: Any) -> str:
    base = settings.base
    for prefix, role in (
        (base.language_model, "language model"), (base.head, "head"), (base.tower, "encoder"),
        (base.projector, "projector"), (f"{base.gate}prompt_encoder.", "prompt encoder"),
        (f"{base.gate}mlp.", "gate MLP"), (base.gate, "static gate"),
    ):  # fmt: skip
        if name.startswith(prefix):
            return role
    stream = int(name.removeprefix(f"{base.mixer}projectors.").partition(".")[0])
    return f"projector of layer {config.expose_layers[stream]}"


def _by_structure(board: Board, settings: Settings) -> Any:
    """Let the parts claim their tensors; return the completed configuration, or None with problems."""
    base, stock = settings.base, settings.stock_config()
    expected = expected_of(stock)
    text = {name: expected[base.language_model + name] for name in within(expected, base.language_model)}
    place = claim_module(board, text, base.language_model, "language model", hints=("llm",))
    if place is not None:
        tied = _tied(board, stock, f"{base.language_model}embed_tokens.weight")
        claim_head(board, expected[f"{base.head}weight"], f"{base.head}weight", place, tied)
    tower = {name: expected[base.tower + name] for name in within(expected, base.tower)}
    claim_module(board, tower, base.tower, "encoder", hints=("sound_tower",))
    inferred: dict[str, Any] = {}
    encoder = _claim_prompt_encoder(board, settings)
    weights = [expected[f"{base.projector}{name}.weight"] for name in base.linears]
    found = find_projectors(board, base, weights, bias=f"{base.projector}{base.linears[0]}.bias" in expected)
    layers = claim_streams(board, found, settings.exposed, base, weights)
    if settings.mixed and layers is not None:
        inferred["expose_layers"] = layers
        _claim_gate(board, settings, encoder, len(layers) + 1, inferred)
    return None if board.problems else settings.config(inferred)


def _tied(board: Board, stock: Any, target: str) -> TensorRecord | None:
    ties = getattr(stock.text_config, "tie_word_embeddings", False) or getattr(stock, "tie_word_embeddings", False)
    return next((claim.record for claim in board.claims if ties and claim.target == target), None)


def _claim_prompt_encoder(board: Board, settings: Settings) -> PromptEncoder | None:
    if not settings.mixed or settings.field("gate_mode") not in (None, "prompt"):
        return None
    given = settings.field("prompt_encoder_config") or {}
    given = {name: value for name, value in given.items() if name != "model_type"}
    return claim_bert(board, given, f"{settings.base.gate}prompt_encoder.")


_VECTORS = {"static": "static_logits", "clamped": "clamped_weights"}


def _claim_gate(
    board: Board, settings: Settings, encoder: PromptEncoder | None, streams: int, inferred: dict[str, Any]
) -> None:
    """Claim what is left of the gate, and note in `inferred` what its tensors show."""
    gate = settings.base.gate
    mode = settings.field("gate_mode")
    leaves = {record.name.rpartition(".")[2] for record in board.free}
    if mode is None and encoder is None:
        mode = next((mode for mode, name in _VECTORS.items() if name in leaves), None)
        if mode is not None:
            inferred["gate_mode"] = mode
            board.find("gate_mode", mode, f"a tensor {_VECTORS[mode]!r} and no prompt encoder")
    if mode in _VECTORS:
        claim_weights(board, _VECTORS[mode], streams, gate + _VECTORS[mode])
        return
    if encoder is None:
        if not any("prompt encoder" in problem for problem in board.problems):
            board.problems.append(
                "no prompt encoder (BERT) was found among what is left:"
                f" {listed((f'{r.key} {list(r.shape)}' for r in board.free), 8) or 'nothing'}"
            )
        return
    inferred["prompt_encoder_config"] = encoder.config
    inferred["prompt_encoder_pooler"] = encoder.pooler
    hidden = claim_gate(board, encoder.width, streams, f"{gate}mlp.")
    stated = settings.field("gate_mlp_dims")
    if hidden is not None and stated is not None and list(stated) != hidden:
        board.problems.append(f"the config states gate_mlp_dims {list(stated)}, the gate's MLP has {hidden}")
    inferred["gate_mlp_dims"] = hidden


def _judge(board: Board, config: Any) -> None:
    """Compare what was claimed with what the model has."""
    expected = expected_of(config)
    placed = {claim.target: claim.record for claim in board.claims if claim.target is not None}
    missing = sorted(name for name in expected if name not in placed)
    if missing:
        board.problems.append(f"missing tensors: {listed(missing)}")
    wrong = [
        f"{record.key} is {list(record.shape)} and should be {list(expected[name])}"
        for name, record in placed.items()
        if name in expected and record.shape != expected[name]
    ]
    if wrong:
        board.problems.append(f"wrong shapes: {listed(wrong, 3)}")
    surplus = [record.key for record in board.free]
    surplus += [record.key for name, record in placed.items() if name not in expected]
    if surplus:
        board.problems.append(f"surplus tensors, for which the model has no place: {listed(surplus)}")
    coded = [f"{record.key} ({record.dtype})" for record in placed.values() if record.dtype not in _FLOATS]
    if coded:
        board.problems.append(f"tensors in a type that is not read as it is: {listed(coded)}")


# What trainers leave beside the weights.
_OTHERS = ("training_args", "optimizer", "scheduler", "rng_state", "scaler", "trainer_state")


def _with_formats(problems: Sequence[str], settings: Settings, inventory: Inventory) -> tuple[str, ...]:
    """Add to problems what explains missing tensors: folders without safetensors, and files that are not opened."""
    if not problems:
        return ()
    full = {record.folder.partition("/")[0] for record in inventory.tensors}
    parts = ["llm", "sound_tower", "sound_mm_projector"] if settings.split else []
    if settings.split and settings.mixed:
        parts += [*(f"sound_mid_mm_projector_{layer}" for layer in settings.exposed or ()), "sound_pclm"]
    empty = [part for part in parts if part not in full and settings.parts.get(part, inventory.folder / part).is_dir()]
    clauses = list(problems)
    if not inventory.tensors:
        clauses.insert(0, f"no safetensors file in {str(inventory.folder)!r}")
    elif empty:
        clauses.insert(0, f"no safetensors file in {listed(map(repr, empty))}")
    pickles = [
        name for name in inventory.pickles
        if name.rpartition("/")[0] not in full and not name.rpartition("/")[2].startswith(_OTHERS)
    ]  # fmt: skip
    if pickles:
        clauses.append(
            f"{listed(map(repr, pickles))} {'was' if len(pickles) == 1 else 'were'} not opened, because loading files"
            " of this kind may run code: convert them to safetensors"
        )
    return (*clauses, *inventory.notes)
