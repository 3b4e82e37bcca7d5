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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vpanalysis.errors import ModelError
from vpanalysis.models.bundled import CHECKPOINTS, DEFAULT, weights_folder
from vpanalysis.models.facade import AudioLLM
from vpanalysis.models.families import family_of
from vpanalysis.models.pclm_config import PCLM_FIELDS
from vpanalysis.models.split import is_split, read_split

__all__ = ["load_model", "organism_folder"]

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
    pclm: Mapping[str, Any] | None = None,
    gate_tokenizer: Any = None,
    rename: Mapping[str, str] | None = None,
    name: str | None = None,
    check: bool = True,
) -> AudioLLM:
    """Load an audio language model.

    Parameters
    ----------
    source : str, Path, or (model, processor)
        Name of a bundled checkpoint (``"mini"``, ``"mini-base"`` ...), a folder in the split or the Hugging Face
        layout, a Hub id (``HF_HUB_OFFLINE`` is honoured), or a loaded model with its processor.
    dtype : str or torch.dtype, optional
        Type to load to. ``"auto"``: float32 on the CPU, else bfloat16.
    device_map : optional
        As in Hugging Face; the CPU by default.
    revision : str, optional
        Of a Hub repository.
    attn_implementation : str, optional
        As in Hugging Face.
    pclm : mapping, optional
        Fields of `AudioFlamingo3PCLMConfig` to set otherwise than the checkpoint does.
    gate_tokenizer : str or PreTrainedTokenizerBase, optional
        The prompt encoder's tokenizer, for checkpoints that come without it.
    rename : mapping of str to str, optional
        Names of tensors in a split checkpoint; see `vpanalysis.models.split.read_split`.
    name : str, optional
        What to call it in tables; the source by default.
    check : bool, optional
        Whether to run one tiny forward.

    Returns
    -------
    AudioLLM

    Raises
    ------
    ModelError
        If the source is unknown, incomplete or damaged.
    """
    if isinstance(source, tuple):
        model, processor = source
        return AudioLLM(model, processor, name=name, gate_tokenizer=_tokenizer(gate_tokenizer), check=check)
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
            model = _load_split(folder, options, pclm, rename)
        else:
            model = _load_stock(folder or source_name, revision, options, pclm)
        place = folder or source_name
        processor = _load_processor(place, model, revision)
        tokenizer = _tokenizer(gate_tokenizer) or _stored_gate_tokenizer(folder, processor)
    label = name or (DEFAULT if source_name == "mini" else Path(source_name).name)
    return AudioLLM(
        model, processor, name=label, gate_tokenizer=tokenizer, source=source_name, revision=revision, check=check
    )


def _folder_of(source: str, revision: str | None) -> Path | None:
    """Return the local folder of a source, or None for a Hub id in Hugging Face layout."""
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
    """Fetch a repository in split layout; return None when it is in the Hugging Face layout."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    try:
        hf_hub_download(repo, "llm/config.json", revision=revision)
        patterns = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except EntryNotFoundError:
        # Not in the split layout; or offline, and not so as far as the cache knows: Hugging Face looks for the rest.
        return None
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise _hub_error(repo, error) from error


def _hub_error(repo: str, error: Exception) -> ModelError:
    return ModelError(
        f"cannot load the model {repo!r}",
        found=f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}",
        allowed="a repository that you may read",
        fix="check the name, the revision, your login (hf auth login) and HF_HUB_OFFLINE",
    )


def _load_split(
    folder: Path, options: dict[str, Any], pclm: Mapping[str, Any] | None, rename: Mapping[str, str] | None
) -> Any:
    config, state = read_split(folder, rename=rename, **(pclm or {}))
    return _from_state(str(folder), config, state, options)


def _from_state(label: str, config: Any, state: dict[str, Any], options: dict[str, Any]) -> Any:
    model_class = family_of(config.model_type).load_class()
    try:
        # Wrong shapes are let through here and refused below, by name.
        model, report = model_class.from_pretrained(
            None, config=config, state_dict=state, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except RuntimeError as error:
        raise ModelError(f"cannot load the model {label!r}", found=str(error).strip().splitlines()[-1]) from error
    _check_report(label, report)
    return model


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
    source: str | Path, revision: str | None, options: dict[str, Any], pclm: Mapping[str, Any] | None
) -> Any:
    from transformers import AutoConfig

    import vpanalysis.models.pclm  # noqa: F401  (registers the config)

    label = str(source)
    if isinstance(source, Path) and not list(source.glob("*.safetensors")):
        raise ModelError(
            f"cannot load the model {label!r}",
            found="no safetensors file and no folder 'llm'",
            allowed="the split layout or the Hugging Face layout",
        )
    try:
        config = AutoConfig.from_pretrained(label, revision=revision, trust_remote_code=False)
        model_class = family_of(config.model_type).load_class()
        if pclm:
            config = _with_fields(label, config, pclm)
        model, report = model_class.from_pretrained(
            label,
            config=config,
            revision=revision,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **options,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise _hub_error(label, error) from error
    _check_report(label, report)
    return model


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
    """Hide Hugging Face's bar over the tensors of a small model; a person waits for shards, not for kilobytes."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
