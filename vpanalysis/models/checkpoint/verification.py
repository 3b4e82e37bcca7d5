"""What a checkpoint holds, tensor by tensor, and whether it would load: `verify` and its result.

Why it exists. The released weights cannot be had where this package is built and tested. So the check that matters runs
on the user's machine, and it has to show its reasoning: every tensor with its role and its place in the model, what was
inferred and from what, what had to be assumed, what is wrong.

The idea. `verify` reads configuration files and headers, never values, and finds the place of every tensor as
`load_model` does. Checkpoints of the two bases are resolved by structure; for Hugging Face's other classes their own
loader is run on the meta device. A `Verification` holds the answer as plain values: it prints in a terminal and as
HTML, gives a table, and is saved as JSON.

Worked example::

    result = verify("checkpoints/AF3_PCLM_DPO")
    result                    # a table by role, then findings, assumptions and problems
    result.ok                 # True: load_model would take it
    result.to_dataframe()     # one row a tensor
    result.save("verified.json")
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpanalysis import __version__
from vpanalysis._html import html_table, text_table
from vpanalysis.errors import ModelError
from vpanalysis.models.checkpoint.assignment import Resolution, resolve
from vpanalysis.models.checkpoint.bases import meta_model
from vpanalysis.models.checkpoint.board import Assumption, Claim, Finding
from vpanalysis.models.checkpoint.headers import DTYPES, TensorRecord, listed, read_json
from vpanalysis.models.checkpoint.settings import is_built_from_parts
from vpanalysis.models.checkpoint.sources import fields_of_source, folder_of_source
from vpanalysis.models.checkpoint.stock import meta_report, stock_inventory, weight_files
from vpanalysis.models.checkpoint.writing import write_json
from vpanalysis.models.families import Family, family_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TensorRow", "Verification", "verify"]

_FORMAT = 1


@dataclass(frozen=True)
class TensorRow:
    """One tensor of a checkpoint.

    Parameters
    ----------
    file, folder, name : str
        Where it is; the file and the folder relative to the checkpoint.
    shape : tuple of int
    dtype : str
        As the file has it: ``"F16"``, ``"BF16"`` ...
    role : str
        The part it belongs to; ``"surplus"`` when none does.
    target : str or None
        Its name in the model's state dictionary.
    evidence : str
        What the place was inferred from.
    """

    file: str
    folder: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str
    target: str | None
    evidence: str


@dataclass(frozen=True)
class Verification:
    """Whether a checkpoint would load, and why.

    Parameters
    ----------
    source : str
        What was asked for.
    folder : str
        Where its files are.
    title, layout : str
        The kind of model, and how the checkpoint is laid out.
    tensors : tuple of TensorRow
        Every tensor.
    findings : tuple of Finding
        What the tensors show and no file states.
    assumptions : tuple of Assumption
        What neither shows.
    problems : tuple of str
        What is wrong; empty when it would load.
    unread : tuple of str
        Keys of configuration files that nothing reads.
    notes : tuple of str
        What was left aside.
    streams : tuple of str
        What each stream of the mixer is made of, in the order of the gate's weights; empty without a mixer.
    version : str
        Of this package.
    """

    source: str
    folder: str
    title: str
    layout: str
    tensors: tuple[TensorRow, ...] = ()
    findings: tuple[Finding, ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    problems: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    version: str = __version__

    @property
    def ok(self) -> bool:
        """Whether it would load."""
        return not self.problems

    @property
    def sentence(self) -> str:
        """The answer in a sentence."""
        if not self.ok:
            return f"{self.source} would not load: {'; '.join(self.problems)}"
        lacking = any(a.subject == "gate_tokenizer" and a.value == "none" for a in self.assumptions)
        needed = ", given its gate_tokenizer" if lacking else ""
        count = len(self.assumptions)
        more = f", on {count} open assumption{'s' if count > 1 else ''}" if count else ", nothing assumed"
        return f"{self.source} would load as {self.title}{needed}{more}"

    @property
    def _verdict(self) -> str:
        """The answer, where the problems are shown already."""
        return self.sentence if self.ok else f"{self.source} would not load: see the problems"

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row a tensor."""
        import pandas as pd

        names = list(TensorRow.__dataclass_fields__)
        rows = [[list(v) if isinstance(v, tuple) else v for v in vars(row).values()] for row in self.tensors]
        return pd.DataFrame(rows, columns=names)

    def summary(self) -> pd.DataFrame:
        """Return one row a role: tensors, parameters, size in MB, types, where they are and where they go."""
        import pandas as pd

        rows = []
        for role in dict.fromkeys(row.role for row in self.tensors):
            members = [row for row in self.tensors if row.role == role]
            numbers = [_numel(row.shape) for row in members]
            size = sum(number * DTYPES[row.dtype] for number, row in zip(numbers, members, strict=True))
            rows.append(
                {
                    "role": role,
                    "tensors": len(members),
                    "parameters": sum(numbers),
                    "MB": round(size / 1e6, 3),
                    "types": ", ".join(sorted({row.dtype for row in members})),
                    "from": _common([f"{row.folder}/{row.name}" if row.folder else row.name for row in members]),
                    "to": _common([row.target for row in members if row.target is not None]),
                    "evidence": Counter(row.evidence for row in members).most_common(1)[0][0],
                }
            )
        columns = ["role", "tensors", "parameters", "MB", "types", "from", "to", "evidence"]
        return pd.DataFrame(rows, columns=columns)

    def _tables(self) -> list[tuple[str, Any]]:
        import pandas as pd

        tables: list[tuple[str, Any]] = []
        if self.findings:
            tables.append(("Inferred", pd.DataFrame([asdict(finding) for finding in self.findings])))
        if self.assumptions:
            rows = [{**asdict(a), "candidates": ", ".join(a.candidates) or "–"} for a in self.assumptions]
            tables.append(("Open assumptions", pd.DataFrame(rows)))
        return tables

    def _lines(self) -> list[tuple[str, tuple[str, ...]]]:
        """Return findings and assumptions as lines, which a terminal may break where a table may not be broken."""
        found = tuple(f"{f.subject} = {f.value}: {f.evidence}" for f in self.findings)
        assumed = []
        for a in self.assumptions:
            others = [candidate for candidate in a.candidates if candidate != a.value]
            choice = f" (or {', '.join(others)})" if others else ""
            assumed.append(f"{a.subject} = {a.value}{choice}: {a.why}; {a.settle}")
        return [("Inferred", found), ("Open assumptions", tuple(assumed))]

    def _lists(self) -> list[tuple[str, tuple[str, ...]]]:
        lists = [("Problems", self.problems), ("Config keys that are not read", self.unread), ("Notes", self.notes)]
        return [(title, lines) for title, lines in lists if lines]

    def __repr__(self) -> str:
        head = f"Checkpoint {self.source}: {self.title}, {self.layout}"
        streams = f"streams: {', '.join(self.streams)}" if self.streams else None
        blocks = [text_table(self.summary(), head, streams)] if self.tensors else [head]
        for title, lines in [*self._lines(), *self._lists()]:
            if lines:
                blocks.append(printable("\n".join([title, *(f"  {line}" for line in lines)])))
        return "\n\n".join([*blocks, printable(self._verdict)])

    def _repr_html_(self) -> str:
        import pandas as pd

        head = f"Checkpoint {self.source}: {self.title}, {self.layout}"
        tables = [(head, self.summary()), *self._tables()]
        tables += [(title, pd.DataFrame({"": lines})) for title, lines in self._lists()]
        last = f"<div>{escape(self._verdict)}</div>"
        return "".join([*(html_table(table, title) for title, table in tables), last])

    def save(self, path: str | Path) -> Path:
        """Write it as JSON, and return the path."""
        write_json(Path(path), self.record())
        return Path(path)

    def record(self) -> dict[str, Any]:
        """Return it as what `save` writes."""
        return {"format": _FORMAT, **asdict(self)}

    @classmethod
    def load(cls, path: str | Path) -> Verification:
        """Read what `save` wrote.

        Raises
        ------
        ModelError
            If it is something else.
        """
        content = read_json(Path(path))
        try:
            if content.pop("format") != _FORMAT:
                raise ValueError("of another format")
            rows = tuple(TensorRow(**{**row, "shape": tuple(row["shape"])}) for row in content.pop("tensors"))
            findings = tuple(Finding(**row) for row in content.pop("findings"))
            assumptions = tuple(
                Assumption(**{**row, "candidates": tuple(row["candidates"])}) for row in content.pop("assumptions")
            )
            rest: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
            return cls(tensors=rows, findings=findings, assumptions=assumptions, **rest)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"cannot read {str(path)!r}", found=f"no verification ({error})") from error


def verify(
    source: str | Path,
    *,
    revision: str | None = None,
    pclm: Mapping[str, Any] | None = None,
    rename: Mapping[str, str] | None = None,
) -> Verification:
    """Say what a checkpoint holds and whether `load_model` would take it, from its headers alone.

    Parameters
    ----------
    source : str or Path
        A bundled name, a folder in the split or the Hugging Face layout, or a Hub id, which is fetched.
    revision : str, optional
        Of a Hub repository.
    pclm, rename : mapping, optional
        As in `load_model`.

    Returns
    -------
    Verification
        Whatever is wrong with the checkpoint is among its `problems`.

    Raises
    ------
    ModelError
        If there is no such checkpoint.
    """
    folder = folder_of_source(source, revision)
    try:
        if is_built_from_parts(read_json(folder / "config.json")):
            fields, decided = fields_of_source(folder, pclm)
            return _of_parts(str(source), resolve(folder, rename=rename, overrides=fields), decided)
        return _of_stock(str(source), folder, pclm)
    except ModelError as error:
        return Verification(str(source), str(folder), "unknown", "unknown layout", problems=(str(error),))


def _of_parts(source: str, found: Resolution, decided: Sequence[str]) -> Verification:
    settings, folder = found.settings, found.settings.folder
    kind = settings.base.mixed if settings.mixed else settings.base.stock
    rows = [_row(claim, folder) for claim in found.claims]
    claimed = {(claim.record.file, claim.record.start) for claim in found.claims}
    rows += [
        _row(Claim(record, None, "surplus", "no part has a place for it"), folder)
        for record in found.inventory.tensors
        if (record.file, record.start) not in claimed
    ]
    findings = list(found.findings)
    findings += [Finding(name, str(settings.stated[name]), "decided by its calibration") for name in decided]
    streams = found.config.stream_names if settings.mixed and found.config is not None else ()
    notes = list(found.inventory.notes)
    if not found.problems and found.inventory.pickles:
        notes.append(f"not opened, and not needed: {listed(found.inventory.pickles)}")
    return Verification(
        source, str(folder), family_of(kind).title, "split layout" if settings.split else "one folder",
        tuple(rows), tuple(findings), found.assumptions, found.problems, settings.unread, tuple(notes), tuple(streams),
    )  # fmt: skip


def _of_stock(source: str, folder: Path, pclm: Mapping[str, Any] | None) -> Verification:
    from vpanalysis.models import loading

    if not weight_files(folder):
        raise ModelError(f"cannot load the model {source!r}", found="no safetensors file")
    try:
        family, config, options = loading._stock_config(str(folder), None, pclm)
        inventory = stock_inventory(folder)
        report = loading._without_beside(family, meta_report(family.load_class(), config, inventory, options))
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"cannot load the model {source!r}", found=str(error).strip().splitlines()[0]) from error
    problems = []
    for kind in ("missing", "unexpected", "mismatched"):
        keys = [" ".join(map(str, key)) if isinstance(key, tuple) else key for key in report.get(f"{kind}_keys") or ()]
        problems += [f"{kind} tensors: {listed(sorted(keys))}"] if keys else []
    expected = {name: tuple(tensor.shape) for name, tensor in meta_model(config).state_dict().items()}
    rows = [_row(_stock_claim(record, family, expected), folder) for record in inventory.tensors]
    return Verification(
        source, str(folder), family.title, "Hugging Face layout", tuple(rows), problems=tuple(problems),
        notes=(*inventory.notes, *([f"not opened: {listed(inventory.pickles)}"] if inventory.pickles else [])),
    )  # fmt: skip


def _stock_claim(record: TensorRecord, family: Family, expected: Mapping[str, tuple[int, ...]]) -> Claim:
    """Return where Hugging Face's loader puts a tensor, as far as its name shows."""
    parts = record.name.split(".")
    for start in range(len(parts)):
        suffix = ".".join(parts[start:])
        fits = [
            name for name, shape in expected.items()
            if (name == suffix or name.endswith(f".{suffix}")) and shape == record.shape
        ]  # fmt: skip
        if len(fits) == 1:
            return Claim(record, fits[0], _stock_role(fits[0], family), "the names of the class")
    return Claim(record, None, "placed by Hugging Face", "its loader's report")


def _stock_role(target: str, family: Family) -> str:
    owners = {
        "encoder": family.tower, "projector": family.projector, "language model": family.language_model,
        "head": family.head,
    }  # fmt: skip
    fitting = [
        (len(path), role) for role, path in owners.items()
        if path is not None and target.startswith(f"{path}." if path else "")
    ]  # fmt: skip
    return max(fitting)[1] if fitting else "other parts"


def printable(text: str) -> str:
    """Return a text in which no character moves the cursor of a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _row(claim: Claim, folder: Path) -> TensorRow:
    record = claim.record
    try:
        file = record.file.relative_to(folder).as_posix()
    except ValueError:
        # A part that lies elsewhere.
        file = f"{record.folder}/{record.file.name}"
    return TensorRow(
        file, record.folder, record.name, record.shape, record.dtype, claim.role, claim.target, claim.evidence
    )


def _numel(shape: tuple[int, ...]) -> int:
    number = 1
    for size in shape:
        number *= size
    return number


def _common(names: list[str]) -> str:
    """Return what names begin with, up to a whole component, and what there is beyond it."""
    if not names:
        return "–"
    if len(set(names)) == 1:
        return names[0]
    columns = list(zip(*(name.replace("/", "/\n").replace(".", ".\n").split("\n") for name in names), strict=False))
    depth = next((i for i, column in enumerate(columns) if len(set(column)) > 1), len(columns))
    return "".join(column[0] for column in columns[:depth]) + "*"
