"""One door for every benchmark: `load_benchmark`.

Why it exists. The same question is asked of VoxParadox-mini, of the released dataset as a folder, a JSON file or a Hub
id, of its precursor, and of any folder of labelled clips. A user should write one call and get items that look alike,
or one error that lists everything wrong with the file.

The idea. A source is first located (synthesized, a file, a folder, the Hub's cache), then read into records
(`_files`), then turned into items (`_schema`). Clips are not opened: a missing or broken one fails its own item when
it is loaded, and scoring replies made elsewhere needs no clips at all.

Recognized sources, in this order:

* ``"mini"``: synthesized on access.
* A file: ``.json``, ``.jsonl``, ``.csv``, ``.tsv``, ``.parquet``.
* A folder with ``voxparadox.json``, ``metadata.jsonl``, ``metadata.csv``, another single table, parquet files, or, when
  it has none, with one subfolder of clips per label. A subfolder named like the split is looked into first.
* A Hub dataset id, ``owner/name``. With ``HF_HUB_OFFLINE=1`` only what is cached is used.

Records with the column ``label`` and no ``answer_gt`` are labelled clips: the options are the sorted labels. Item words
come from a ``transcript`` or ``script`` column, else from ``transcripts.json`` (``{id: text}``) beside the data.

Worked example::

    load_benchmark("mini", tasks="gender_prediction", limit=30)
    load_benchmark("IHP-Lab/VoxParadox", limit=20)        # fetches the table and twenty clips
    load_benchmark("voxparadox.json", audio_root="/data/vox")
    load_benchmark("my_clips.csv")                        # path,label[,speaker,script]
"""

from __future__ import annotations

import errno
import importlib
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vpanalysis._untrusted import kind_of_file
from vpanalysis.benchmark._files import AUDIO_KEYS, SPLITS, SUFFIXES, Row, read_json, read_rows
from vpanalysis.benchmark._labelled import TABLES, NoTableError, labelled_folder, labelled_rows
from vpanalysis.benchmark._lookalikes import warn_of_letters
from vpanalysis.benchmark._roots import AudioRoot
from vpanalysis.benchmark._schema import is_missing, items_from_rows
from vpanalysis.benchmark.audio import FileAudio
from vpanalysis.benchmark.items import Benchmark
from vpanalysis.errors import SchemaError

__all__ = ["load_benchmark", "transcripts_file"]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# Files that describe a repository or a clip's words, never a table of questions.
_NOTTABLES = frozenset({"dataset_info.json", "dataset_infos.json", "state.json", "config.json", "manifest.json"})


def load_benchmark(
    source: str | Path,
    *,
    split: str = "test",
    tasks: str | Sequence[str] | None = None,
    limit: int | None = None,
    audio_root: str | Path | None = None,
    revision: str | None = None,
    allow_outside: bool = False,
) -> Benchmark:
    """Load a benchmark from wherever it is.

    Parameters
    ----------
    source : str or Path
        ``"mini"``, a file, a folder, or a Hub dataset id; see the module's docstring.
    split : str
        Which split of a source that has several. A source without splits counts as ``"test"``.
    tasks : str or sequence of str, optional
        Keep these tasks only.
    limit : int, optional
        Keep at most so many items, spread evenly over the tasks, twins of one cell together.
    audio_root : str or Path, optional
        Folder that paths of clips are relative to; by default the folder of the table.
    revision : str, optional
        Branch, tag or commit of a Hub dataset.
    allow_outside : bool
        Whether clips may lie outside `audio_root` and the folder of the benchmark, by an absolute path, by ``..`` or by
        links. For tables that you wrote yourself.

    Returns
    -------
    Benchmark
        Items in the order of the source. Clips are opened on access: 16 kHz, mono, float32.

    Raises
    ------
    SchemaError
        If the source is not found or not understood. All problems of a table are in one message, up to 20 written
        out, each with its row, field, what was found and what is allowed. Also if a clip lies outside the folders, if
        options look the same, or if a file is larger than what is held in memory (`_files`).

    Warns
    -----
    UserWarning
        If options of a question differ in case or punctuation alone: replies tell them apart by their letter only.
    """
    text = str(source)
    if text == "mini":
        for name, value in (("audio_root", audio_root), ("revision", revision)):
            if value is not None:
                raise SchemaError("cannot load the benchmark 'mini'", found=f"{name}={str(value)!r}", allowed="nothing")
        mini = importlib.import_module("vpanalysis.benchmark.mini")
        wanted = (tasks,) if isinstance(tasks, str) else tasks
        bench: Benchmark = mini.load(
            split=split, tasks=wanted, limit=limit, conditions=("conflict", "congruent", "neutral")
        )
        return bench
    root = Path(audio_root) if audio_root is not None else None
    if root is not None and not root.is_dir():
        raise SchemaError(f"cannot load the benchmark {text!r}", found=f"audio_root {str(root)!r}", allowed="a folder")
    path = Path(source).expanduser()
    if _kind(path, text) is not None:
        if revision is not None:
            raise SchemaError(
                f"cannot load the benchmark {text!r}",
                found=f"revision {revision!r} of a local path",
                allowed="a revision of a Hub dataset",
            )
        local = _from_path(path, split, root, allow_outside, source=text).select(tasks=tasks, limit=limit)
        warn_of_letters(local)
        return local
    looks_local = path.suffix.lower() in SUFFIXES or path.is_absolute() or text.startswith((".", "~"))
    if isinstance(source, Path) or looks_local or not _HUB_ID.fullmatch(text):
        raise SchemaError(
            f"cannot load the benchmark {text!r}",
            found="no such file or folder",
            allowed="'mini', a file, a folder, or a Hub dataset id such as 'IHP-Lab/VoxParadox'",
        )
    fetched = _from_hub(text, split, tasks, limit, root, revision, allow_outside)
    warn_of_letters(fetched)
    return fetched


# --- files and folders -------------------------------------------------------------------------------------------


def _kind(path: Path, text: str) -> str | None:
    """Return "file" or "folder", None where nothing is; refuse pipes and devices, which may never end."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return None
        raise SchemaError(f"cannot load the benchmark {text!r}", found=error.strerror or str(error)) from error
    kind = kind_of_file(mode)
    if kind is not None and not stat.S_ISDIR(mode):
        raise SchemaError(f"cannot load the benchmark {text!r}", found=kind, allowed="a file or a folder")
    return "file" if kind is None else "folder"


def _from_path(
    path: Path, split: str, audio_root: Path | None, allow_outside: bool, *, source: str, revision: str | None = None
) -> Benchmark:
    """Read a file or folder; the name of the benchmark is that of the folder, or of a file with a telling name."""
    name = path.resolve().name if path.is_dir() else path.stem
    if name in ("voxparadox", "metadata", "labels"):
        name = path.resolve().parent.name or name
    if path.is_file():
        files, folder, split_known = [path], path.parent, False
    else:
        files, folder, split_known = _tables(path, split)
    rows: list[Row] = []
    within = [path] if path.is_dir() else []
    if not files:
        rows = labelled_folder(folder, split_known)
        _check_split(path, split, split_known)
        root = AudioRoot([folder], within=within, allow_outside=allow_outside)
        return _build(rows, str(folder), root, name, source, revision, _sidecar(folder, None))
    for file in files:
        offset = len(rows)
        part, known = read_rows(file, split)
        _check_split(file, split, split_known or known)
        rows.extend((number + offset, row) for number, row in part)
    if path.is_dir():
        rows = _with_audio_of_metadata(rows, files[0])
    folders = [folder for folder in (audio_root, files[0].parent) if folder is not None]
    root = AudioRoot(folders, within=within, allow_outside=allow_outside)
    shown = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    return _build(rows, shown, root, name, source, revision, _sidecar(files[0].parent, files[0].stem))


def _check_split(file: Path, split: str, known: bool) -> None:
    # Handing out test data under the name of another split would be worse than an error.
    if not known and split != "test":
        raise SchemaError(
            f"cannot load the split {split!r} of {str(file)!r}", found="a source without splits", allowed="'test'"
        )


def _tables(folder: Path, split: str) -> tuple[list[Path], Path, bool]:
    """Return the tables of `folder`, the folder they lie in, and whether `split` chose them."""
    for place, known in ((folder / split, True), (folder, False)):
        for name in TABLES:
            if (place / name).is_file():
                return [place / name], place, known
    shards = sorted(p for place in (folder, folder / "data") for p in place.glob("*.parquet"))
    if shards:
        # The Hub writes test-00000-of-00003.parquet.
        named = [p for p in shards if re.split(r"[-.]", p.name)[0] == split]
        met = {re.split(r"[-.]", p.name)[0] for p in shards} & set(SPLITS)
        if not named and met:
            raise SchemaError(
                f"cannot load {str(folder)!r}", found=f"split {split!r} asked", allowed=sorted(met), word=split
            )
        return named or shards, folder, bool(named)
    single = [
        p
        for p in sorted(folder.iterdir())
        if p.suffix.lower() in SUFFIXES and p.name not in _NOTTABLES and not p.stem.endswith("transcripts")
    ]
    if len(single) > 1:
        of_split = [p for p in single if p.stem == split]
        if not of_split:
            raise SchemaError(
                f"cannot load the benchmark {str(folder)!r}",
                found=f"{len(single)} tables: {', '.join(p.name for p in single[:5])}",
                allowed=f"one table, or one of {', '.join(TABLES)}",
                fix="name the file instead of the folder",
            )
        return of_split, folder, True
    if single:
        return single, folder, False
    inner = folder / split
    if inner.is_dir():
        return [], inner, True
    others = [name for name in SPLITS if any((folder / name / table).is_file() for table in TABLES)]
    if others:
        raise SchemaError(f"cannot load {str(folder)!r}", found=f"split {split!r} asked", allowed=others, word=split)
    return [], folder, False


def _with_audio_of_metadata(rows: list[Row], table: Path) -> list[Row]:
    """Complete records without a clip from the soundfolder table beside them, matched by id.

    The release has both `voxparadox.json` and `metadata.jsonl`; only the second is sure to name the files.
    """
    metadata = table.parent / "metadata.jsonl"
    lacking = [row for _, row in rows if isinstance(row, Mapping) and all(is_missing(row.get(k)) for k in AUDIO_KEYS)]
    if not lacking or table == metadata or not metadata.is_file():
        return rows
    names: dict[str, Any] = {}
    for _, row in read_rows(metadata, "test")[0]:
        if isinstance(row, Mapping) and not is_missing(row.get("id")):
            names[str(row["id"])] = row.get("file_name")
    completed: list[Row] = []
    for number, row in rows:
        if isinstance(row, Mapping) and str(row.get("id")) in names and all(is_missing(row.get(k)) for k in AUDIO_KEYS):
            row = {**row, "file_name": names[str(row["id"])]}
        completed.append((number, row))
    return completed


def _sidecar(folder: Path, stem: str | None) -> dict[str, str]:
    """Return ``{id: words}`` from ``<table>.transcripts.json`` or ``transcripts.json``, or nothing."""
    names = [f"{stem}.transcripts.json", "transcripts.json"] if stem else ["transcripts.json"]
    file = next((folder / name for name in names if (folder / name).is_file()), None)
    if file is None:
        return {}
    content = read_json(file)
    if not isinstance(content, dict):
        raise SchemaError(
            f"cannot read the transcripts {str(file)!r}",
            found=f"a JSON {type(content).__name__}",
            allowed="an object {id: text}",
        )
    problems = [f"id {key!r}: {type(value).__name__}" for key, value in content.items() if not isinstance(value, str)]
    if problems:
        raise SchemaError(
            f"cannot read the transcripts {str(file)!r}",
            found=f"{len(problems)} entries that are not text, such as {problems[0]}",
            allowed="an object {id: text}",
        )
    return content


def transcripts_file(source: str | Path, split: str = "test") -> Path:
    """Return where `load_benchmark` looks first for the transcripts of a local file or folder.

    Raises
    ------
    SchemaError
        If a folder does not show which table is meant.
    """
    path = Path(source).expanduser()
    files, folder, _ = ([path], path.parent, False) if path.is_file() else _tables(path, split)
    if not files:
        return folder / "transcripts.json"
    return files[0].with_name(f"{files[0].stem}.transcripts.json")


def _build(
    rows: list[Row],
    file: str,
    root: AudioRoot,
    name: str,
    source: str,
    revision: str | None,
    transcripts: Mapping[str, str],
) -> Benchmark:
    if not rows:
        raise SchemaError(f"cannot load the benchmark {file!r}", found="no rows", allowed="at least one question")
    mappings = [row for _, row in rows if isinstance(row, Mapping)]
    if mappings and all("label" in row and "answer_gt" not in row for row in mappings):
        rows = labelled_rows(rows, file)
    items = items_from_rows(rows, file=file, audio=root, transcripts=transcripts)
    return Benchmark(items, name=name, source=source, revision=revision)


# --- the Hub -----------------------------------------------------------------------------------------------------


def _from_hub(
    repo: str,
    split: str,
    tasks: str | Sequence[str] | None,
    limit: int | None,
    audio_root: Path | None,
    revision: str | None,
    allow_outside: bool,
) -> Benchmark:
    """Fetch a dataset into the Hub's cache and read it as a folder.

    The table comes first. Where only a part is asked for, only its clips follow, so that twenty items of a dataset of
    gigabytes cost twenty clips.
    """

    def read(folder: Path) -> Benchmark:
        commit = folder.name if re.fullmatch(r"[0-9a-f]{40}", folder.name) else revision
        bench = _from_path(folder, split, audio_root, allow_outside, source=repo, revision=commit)
        return Benchmark(bench, name=repo.rsplit("/", 1)[1], source=repo, revision=commit).select(
            tasks=tasks, limit=limit
        )

    if audio_root is not None or tasks is not None or limit is not None:
        folder = _snapshot(repo, revision, ["*.json", "*.jsonl", "*.csv"])
        try:
            bench = read(folder)
        except NoTableError:
            pass  # The dataset may be in parquet files, which the whole snapshot below brings.
        else:
            if audio_root is not None:
                return bench
            clips = [item.audio.path for item in bench if isinstance(item.audio, FileAudio)]
            _snapshot(repo, revision, [_escaped(p.relative_to(folder)) for p in clips if p.is_relative_to(folder)])
            bench = read(folder)
            if all(item.audio.path.is_file() for item in bench if isinstance(item.audio, FileAudio)):
                return bench
    folder = _snapshot(repo, revision, None)
    try:
        return read(folder)
    except NoTableError:
        return _through_datasets(repo, split, revision, allow_outside).select(tasks=tasks, limit=limit)


def _escaped(path: Path) -> str:
    """Return a glob pattern that matches this path only."""
    return re.sub(r"([*?\[])", r"[\1]", path.as_posix())


def _snapshot(repo: str, revision: str | None, patterns: list[str] | None) -> Path:
    import huggingface_hub

    try:
        found = huggingface_hub.snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=patterns)
    # The client raises its own errors, those of its HTTP library, OSError and ValueError: all mean "not available".
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise SchemaError(
            f"cannot fetch the dataset {repo!r} from the Hub",
            found=f"{type(error).__name__}: {reason}",
            fix="check the id, the network and HF_HUB_OFFLINE; for a gated dataset accept its terms and run "
            "'hf auth login'; or download it once where there is a network and pass its folder",
        ) from error
    return Path(str(found))


def _through_datasets(repo: str, split: str, revision: str | None, allow_outside: bool) -> Benchmark:
    """Read a dataset in a form of its own (arrow, webdataset) with the optional `datasets` package."""
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise SchemaError(
            f"cannot read the dataset {repo!r}",
            found="neither voxparadox.json nor metadata.jsonl nor parquet files",
            fix="install the optional reader with: pip install 'vpanalysis[hub]'",
        ) from error
    try:
        table = datasets.load_dataset(repo, split=split, revision=revision)
        # Undecoded, so that clips stay bytes until they are needed, and no second audio library is.
        table = table.cast_column("audio", datasets.Audio(decode=False)) if "audio" in table.column_names else table
    except Exception as error:
        raise SchemaError(
            f"cannot read the dataset {repo!r}", found=f"{type(error).__name__}: {str(error).splitlines()[:1]}"
        ) from error
    rows: Iterable[Any] = table
    numbered = list(enumerate(rows, start=1))
    root = AudioRoot([Path.cwd()], allow_outside=allow_outside)
    return _build(numbered, repo, root, repo.rsplit("/", 1)[1], repo, revision, {})
