"""One call that finds a model: bundled, in a folder, on the Hub, or already in memory.

Why it exists. Five checkpoints of the same study come in three layouts. Where a model comes from must not show in what
is done with it.

The idea. A source is a name of a bundled miniature, a folder (split or Hugging Face layout), a Hub id, or a pair
(model, processor). The class is chosen by the family table from the config's `model_type`; code from a checkpoint is
never run. Weights are taken as they are on disk and loaded in the type that was asked for.

Worked example::

    load_model("mini")                                        # the bundled mini-pclm-dpo
    load_model("nvidia/audio-flamingo-3-hf", device_map="auto")
    load_model("checkpoints/AF3_PCLM_DPO", pclm={"bert_pooling": "mean"})
    load_model((model, processor))
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from vpanalysis.errors import ModelError
from vpanalysis.models.bundled import CHECKPOINTS, DEFAULT, weights_folder
from vpanalysis.models.checkpoint.assignment import resolve
from vpanalysis.models.checkpoint.headers import read_json
from vpanalysis.models.checkpoint.lazy import LazyTensor
from vpanalysis.models.checkpoint.settings import is_built_from_parts, is_split
from vpanalysis.models.checkpoint.stock import hub_folder, stock_inventory, weight_files
from vpanalysis.models.conventions import calibration_for, conventions_for
from vpanalysis.models.facade import AudioLLM
from vpanalysis.models.families import Family, family_of
from vpanalysis.models.pclm_config import PCLM_FIELDS

__all__ = ["checkpoint_folder", "load_model", "organism_folder"]

BERT_TOKENIZER = "google/bert_uncased_L-4_H-512_A-8"
"""Where the vocabulary of the small uncased BERTs is published; all sizes share it."""

BERT_VOCABULARY = 30_522
"""Its size."""

_CONVERTER, _CONVERTED = "SFconvertbot", "Adding `safetensors` variant of this model"
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def organism_folder(name: str) -> Path:
    """Return the folder of a bundled checkpoint.

    Raises
    ------
    ModelError
        If there is no bundled checkpoint of this name.
    """
    known = DEFAULT if name == "mini" else name
    folder = weights_folder(known)
    if known not in CHECKPOINTS:
        raise ModelError(
            f"cannot load the model {name!r}", found="no such name", allowed=["mini", *CHECKPOINTS], word=name
        )
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"cannot load the model {name!r}",
            found=f"no checkpoint in {str(folder)!r}",
            fix="reinstall the package, or train it with 'python -m vpanalysis.organism'",
        )
    return folder


def load_model(
    source: str | Path | tuple[Any, Any],
    *,
    dtype: str | torch.dtype = "auto",
    device_map: Any = None,
    revision: str | None = None,
    attn_implementation: str | None = None,
    trim: bool = True,
    pclm: Mapping[str, Any] | None = None,
    gate_tokenizer: Any = None,
    rename: Mapping[str, str] | None = None,
    name: str | None = None,
    calibration: bool | str | Path = True,
    check: bool = True,
) -> AudioLLM:
    """Load an audio language model.

    Parameters
    ----------
    source : str, Path, or (model, processor)
        Name of a bundled checkpoint (``"mini"``, ``"mini-base"`` ...), a folder in the split or the Hugging Face
        layout, a Hub id (``HF_HUB_OFFLINE`` is honoured), or a loaded model with its processor. Of Whisper, HuBERT,
        WavLM and CLAP the audio encoder alone is taken, whatever else the checkpoint holds, and a feature extractor
        does in place of a processor.
    dtype : str or torch.dtype, optional
        Type to load to. ``"auto"``: float32 on the CPU, else bfloat16.
    device_map : optional
        As in Hugging Face; the CPU by default.
    revision : str, optional
        Of a Hub repository.
    attn_implementation : str, optional
        As in Hugging Face, whose default is ``"sdpa"``; ``"eager"`` where attention maps are wanted.
    trim : bool, optional
        Whether to encode only the frames that exist, where the family's tower allows it; see `AudioLLM`. ``False`` is
        the stock padded path, bit for bit.
    pclm : mapping, optional
        Fields of `AudioFlamingo3PCLMConfig` to set otherwise than the checkpoint does.
    gate_tokenizer : str or PreTrainedTokenizerBase, optional
        The prompt encoder's tokenizer, for checkpoints that come without it. A prompt encoder with the vocabulary of
        the uncased BERTs is given theirs, from the Hub and with a warning.
    rename : mapping of str to str, optional
        Names of tensors in a split checkpoint; see `vpanalysis.models.split.read_split`.
    name : str, optional
        What to call it in tables; the source by default.
    calibration : bool, str or Path, optional
        Whether to follow what `vpanalysis.calibrate` decided about this checkpoint and its ``config.json`` leaves open;
        or the file to follow. What `pclm` names is not touched.
    check : bool, optional
        Whether to run one tiny forward.

    Returns
    -------
    AudioLLM

    Raises
    ------
    ModelError
        If the source is unknown, incomplete or damaged, or a calibration belongs to another checkpoint.
    """
    if isinstance(source, tuple):
        model, processor = source
        return AudioLLM(model, processor, name=name, gate_tokenizer=_tokenizer(gate_tokenizer), trim=trim, check=check)
    source_name = str(source)
    folder = _folder_of(source_name, revision)
    options = {
        "dtype": _dtype(dtype, device_map),
        "device_map": device_map,
        "attn_implementation": attn_implementation,
    }
    options = {key: value for key, value in options.items() if value is not None}
    with _quiet():
        if folder is not None and is_split(folder):
            model = _load_split(folder, options, pclm, rename, calibration)
        else:
            model = _load_stock(folder or source_name, revision, options, pclm, rename, calibration)
        _in_one_type(model)
        place = folder or source_name
        processor = _load_processor(place, model, revision)
        tokenizer = _tokenizer(gate_tokenizer) or _stored_gate_tokenizer(folder, processor)
        tokenizer = tokenizer or _usual_gate_tokenizer(source_name, model, processor)
    label = name or (DEFAULT if source_name == "mini" else Path(source_name).name)
    llm = AudioLLM(
        model, processor, name=label, gate_tokenizer=tokenizer, source=source_name, revision=revision, trim=trim,
        check=check,
    )  # fmt: skip
    llm.calibration = calibration_for(folder or _cached_snapshot(source_name, revision), calibration)
    return llm


def _in_one_type(model: Any) -> None:
    """Give Audio Flamingo's table of positions the type of the convolutions that it is added to, where they differ.

    Early releases of transformers 5 (5.13 is one) keep that table in float32 whatever type is asked for, and add it
    without a cast, so that in half precision the first norm meets a type that is not its own and raises. Later
    releases load the table in the type asked for, and so it is here.
    """
    from transformers import AudioFlamingo3Encoder

    for part in model.modules():
        if isinstance(part, AudioFlamingo3Encoder):
            part.embed_positions.to(part.conv1.weight.dtype)


def checkpoint_folder(source: str | Path, revision: str | None = None) -> Path | None:
    """Return where the files of a source lie on this disk; None for a Hub repository that is not there.

    Parameters
    ----------
    source : str or Path
        As in `load_model`.
    revision : str, optional
        Of a Hub repository.

    Raises
    ------
    ModelError
        If there is no such source.
    """
    return _folder_of(str(source), revision) or _cached_snapshot(str(source), revision)


def _cached_snapshot(repo: str, revision: str | None) -> Path | None:
    """Return the folder of a Hub repository as far as it was downloaded already."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _folder_of(source: str, revision: str | None) -> Path | None:
    """Return the local folder of a source, or None for a Hub id whose weights are in other formats."""
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"cannot load the model {source!r}", found="a folder without config.json")
        return folder
    if _HUB_ID.match(source) and not folder.exists():
        return _hub_split_folder(source, revision)
    if folder.exists() or "/" in source or "\\" in source:
        raise ModelError(
            f"cannot load the model {source!r}",
            found="no such folder" if not folder.exists() else "a file",
            allowed="a folder with config.json, a Hub id 'owner/name', or a bundled name",
        )
    return organism_folder(source)


def _hub_split_folder(repo: str, revision: str | None) -> Path | None:
    """Fetch a repository, in whichever layout; return None when it holds no safetensors that its layout names."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    try:
        hf_hub_download(repo, "llm/config.json", revision=revision)
        patterns = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except EntryNotFoundError:
        # Not in the split layout; or offline, and not so as far as the cache knows.
        pass
    except (HfHubHTTPError, HFValidationError, OSError, RuntimeError, ValueError) as error:
        # RuntimeError: without a network, releases of huggingface_hub before 1.27 try again with a client they closed.
        raise _hub_error(repo, error) from error
    try:
        return hub_folder(repo, revision)
    except (HfHubHTTPError, HFValidationError, OSError, RuntimeError, ValueError) as error:
        raise _hub_error(repo, error) from error


def _hub_error(repo: str, error: Exception) -> ModelError:
    return ModelError(
        f"cannot load the model {repo!r}",
        found=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}",
        allowed="a repository that you may read",
        fix="check the name, the revision, your login (hf auth login) and HF_HUB_OFFLINE",
    )


def _load_split(
    folder: Path,
    options: dict[str, Any],
    pclm: Mapping[str, Any] | None,
    rename: Mapping[str, str] | None,
    calibration: bool | str | Path,
) -> Any:
    fields = {**conventions_for(folder, calibration_for(folder, calibration)), **(pclm or {})}
    found = resolve(folder, rename=rename, overrides=fields)
    found.require(f"cannot load the model {str(folder)!r}")
    model_class = family_of(found.config.model_type).load_class()
    model, report = _from_state(folder, model_class, found.config, found.state(), options)
    _check_report(str(folder), report)
    return model


def _from_state(
    folder: Path, model_class: Any, config: Any, state: Mapping[str, LazyTensor], options: dict[str, Any]
) -> tuple[Any, Mapping[str, Any]]:
    """Let Hugging Face fill a model from tensors on disk, one after the other; return it with the loader's report."""
    from transformers import GenerationConfig

    try:
        # Wrong shapes are let through here and refused by their names in the report.
        model, report = model_class.from_pretrained(
            None, config=config, state_dict=dict(state), output_loading_info=True, ignore_mismatched_sizes=True,
            **options,
        )  # fmt: skip
    except (ImportError, RuntimeError, ValueError) as error:
        raise ModelError(f"cannot load the model {str(folder)!r}", found=str(error).strip().splitlines()[-1]) from error
    if model.can_generate() and (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(str(folder))
    return model, report


def _check_report(label: str, report: Mapping[str, Any]) -> None:
    # Stock Hugging Face warns and goes on with random numbers in place of what is missing.
    for kind, fix in (
        ("missing_keys", "the checkpoint is incomplete, or names its tensors otherwise: see 'rename'"),
        ("unexpected_keys", "these tensors have no place in the model: see 'rename', or the PCLM config fields"),
        ("mismatched_keys", "the config does not fit the weights"),
    ):
        names = sorted(" ".join(map(str, key)) if isinstance(key, tuple) else key for key in report.get(kind) or ())
        if names:
            shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            raise ModelError(f"cannot load the model {label!r}", found=f"{kind.replace('_', ' ')}: {shown}", fix=fix)


def _load_stock(
    source: str | Path,
    revision: str | None,
    options: dict[str, Any],
    pclm: Mapping[str, Any] | None,
    rename: Mapping[str, str] | None = None,
    calibration: bool | str | Path = True,
) -> Any:
    label = str(source)
    try:
        folder = source if isinstance(source, Path) else None
        if folder is not None and is_built_from_parts(read_json(folder / "config.json")):
            return _load_split(folder, options, pclm, rename, calibration)
        if folder is not None and not weight_files(folder):
            raise ModelError(
                f"cannot load the model {label!r}",
                found="no safetensors file and no folder 'llm'",
                allowed="the split layout or the Hugging Face layout",
            )
        family, config, more = _stock_config(str(folder or source), revision, pclm)
        options = {**options, **more}
        if folder is not None:
            state = {record.name: LazyTensor(record) for record in stock_inventory(folder).tensors}
            model, report = _from_state(folder, family.load_class(), config, state, options)
        else:
            # Weights in other formats only, of which the Hub may keep a conversion. Hugging Face's loader would look
            # for it too, but where there is none order one, from a service that is told the user's token.
            model, report = family.load_class().from_pretrained(
                label, config=config, revision=revision or _kept_conversion(label), use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True, **options,
            )  # fmt: skip
    except (OSError, ValueError, RuntimeError) as error:
        raise _hub_error(label, error) from error
    _check_report(label, _without_beside(family, report))
    return model


def _kept_conversion(repo: str) -> str:
    """Return the revision of a Hub repository at which its current weights are safetensors, else ``"main"``."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return "main"
    api = HfApi()
    for found in api.get_repo_discussions(repo, author=_CONVERTER, discussion_type="pull_request"):
        if found.title == _CONVERTED and found.status == "open" and found.git_reference:
            history = api.list_repo_commits(repo, revision=found.git_reference)
            # One commit after what is there now, or it is a conversion of older weights.
            if len(history) > 1 and history[1].commit_id == api.list_repo_commits(repo)[0].commit_id:
                return str(found.git_reference)
    return "main"


def _stock_config(
    label: str, revision: str | None, pclm: Mapping[str, Any] | None
) -> tuple[Family, Any, dict[str, Any]]:
    """Return the family, the configuration and further options of `from_pretrained` of a class of Hugging Face."""
    from transformers import AutoConfig

    import vpanalysis.models.pclm  # noqa: F401  (registers the config)

    options: dict[str, Any] = {}
    config = AutoConfig.from_pretrained(label, revision=revision, trust_remote_code=False)
    family = family_of(config.model_type)
    if pclm:
        config = _with_fields(label, config, pclm)
    if family.config_part is not None:
        config = getattr(config, family.config_part)
    if family.inside:
        config = getattr(config, family.load_class().config_class.base_config_key or "self", config)
        options["key_mapping"] = {f"^{re.escape(path)}\\.": "" for path in family.inside}
    return family, config, options


def _without_beside(family: Family, report: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a report without the tensors that a family's checkpoints hold for other purposes."""
    if not family.beside:
        return report
    rest = re.compile(family.beside)
    return {**report, "unexpected_keys": [key for key in report["unexpected_keys"] if not rest.match(key)]}


def _with_fields(label: str, config: Any, pclm: Mapping[str, Any]) -> Any:
    if not hasattr(config, "expose_layers"):
        raise ModelError(f"cannot set {sorted(pclm)} of {label!r}", found="a checkpoint without a layer mixer")
    for field in pclm:
        if field not in PCLM_FIELDS:
            raise ModelError("cannot set a PCLM config field", found=repr(field), allowed=PCLM_FIELDS, word=field)
    # Rebuilt, not assigned, so that the values are checked.
    return type(config).from_dict({**config.to_dict(), **pclm})


def _load_processor(place: str | Path, model: Any, revision: str | None) -> Any:
    from transformers import AudioFlamingo3Processor, AutoProcessor, AutoTokenizer, WhisperFeatureExtractor

    from vpanalysis.models.processing import AudioFlamingo3PCLMProcessor

    try:
        if not family_of(model.config.model_type).split:
            return _stock_processor(str(place), model, revision)
        if not isinstance(place, Path):
            return AutoProcessor.from_pretrained(place, revision=revision, trust_remote_code=False)
        if any((place / file).is_file() for file in ("processor_config.json", "preprocessor_config.json")):
            both = (place / "gate_tokenizer").is_dir()
            kind = AudioFlamingo3PCLMProcessor if both else AudioFlamingo3Processor
            return kind.from_pretrained(str(place), trust_remote_code=False)
        # A released split checkpoint has a tokenizer only; the rest is AF3's.
        here = next((p for p in (place, place / "llm") if list(p.glob("tokenizer*.json"))), place)
        tokenizer = AutoTokenizer.from_pretrained(str(here), trust_remote_code=False)
        extractor = WhisperFeatureExtractor(
            feature_size=model.config.audio_config.num_mel_bins, return_attention_mask=True
        )
        return AudioFlamingo3Processor(extractor, tokenizer, chat_template=_CHATML)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"cannot load the processor of {str(place)!r}",
            found=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}",
        ) from error


def _stock_processor(place: str, model: Any, revision: str | None) -> Any:
    from transformers import AutoFeatureExtractor, AutoProcessor

    family = family_of(model.config.model_type)
    # An encoder alone is given no text; its checkpoint may have no tokenizer.
    kind = AutoProcessor if family.answers else AutoFeatureExtractor
    if family.processor is not None:
        module, name = family.processor.split(":")
        kind = getattr(import_module(module), name)
    return kind.from_pretrained(place, revision=revision, trust_remote_code=False)


# Qwen2's chat form with its default system turn, and the clip before the text: what AF3 was trained on.
_CHATML = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{%- for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{%- if message['content'] is string %}{{ message['content'] }}"
    "{%- else %}"
    "{%- for part in message['content'] if part['type'] == 'audio' %}{{ '<sound>' }}{%- endfor %}"
    "{%- for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{%- endfor %}"
    "{%- endif %}{{ '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)


def _stored_gate_tokenizer(folder: Path | None, processor: Any) -> Any:
    if folder is None or getattr(processor, "gate_tokenizer", None) is not None:
        return None
    for place in (folder / "gate_tokenizer", folder / "sound_pclm"):
        if any((place / file).is_file() for file in ("tokenizer.json", "vocab.txt")):
            return _tokenizer(str(place))
    return None


def _usual_gate_tokenizer(label: str, model: Any, processor: Any) -> Any:
    """Return the tokenizer that BERTs of this vocabulary share, where a checkpoint comes without one."""
    encoder = getattr(model.config, "prompt_encoder_config", None)
    known = getattr(processor, "gate_tokenizer", None) or getattr(processor, "tokenizer", None)
    if encoder is None or encoder.vocab_size != BERT_VOCABULARY or known is None or len(known) <= BERT_VOCABULARY:
        return None
    try:
        found = _tokenizer(BERT_TOKENIZER)
    except (OSError, ValueError):
        return None  # offline: the check of the parts says what is needed
    warnings.warn(
        f"{label}: the prompt encoder's tokenizer is not in the checkpoint; took that of {BERT_TOKENIZER}, whose "
        f"vocabulary has the same {BERT_VOCABULARY} tokens (pass gate_tokenizer to choose another)",
        stacklevel=3,
    )
    return found


def _tokenizer(source: Any) -> Any:
    if not isinstance(source, (str, Path)):
        return source
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)


def _dtype(dtype: str | torch.dtype, device_map: Any) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    name = dtype.removeprefix("torch.")
    if name == "auto":
        on_cpu = device_map is None or str(device_map) == "cpu" or not torch.cuda.is_available()
        return torch.float32 if on_cpu else torch.bfloat16
    if name not in _DTYPES:
        raise ModelError("cannot load in this dtype", found=repr(dtype), allowed=["auto", *_DTYPES], word=dtype)
    return _DTYPES[name]


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide Hugging Face's bar over the tensors of a small model; a person waits for shards, not for kilobytes.

    And its table of tensors without a place: what matters in it is an error here.
    """
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
