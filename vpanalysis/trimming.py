"""What leaving out silence does to the answers of one model, measured on one's own items.

Why it exists. Encoding only the frames that exist gives the states of the padded path to the last bits of a float. In
float32 that decides nothing; in bfloat16, where every layer rounds to three digits, an item whose two best options are
nearly equal may be answered otherwise. How many items that concerns depends on the model, the type and the clips, so it
is counted and not promised.

The idea. Both paths over the same items, with the same weights: how far the scores of the options lie apart, and on
which share of items the best option differs, with an interval. The padded path is run against itself at another batch
size as well, because a stock model in bfloat16 changes answers from that alone; a share no larger than this one is what
the type does, not what trimming does.

Worked example::

    report = trim_report("mini", "mini", limit=100)
    report.changed, report.largest_difference        # 0.0, 2e-6
    print(report)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from vpanalysis._tables import read_record, write_record
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT, PromptTemplate
from vpanalysis.errors import RunError
from vpanalysis.stats import proportion

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Benchmark, Item
    from vpanalysis.models.facade import AudioLLM

__all__ = ["TrimReport", "trim_report"]


@dataclass(frozen=True)
class TrimReport:
    """Two paths of one model on the same items.

    Parameters
    ----------
    model, dtype, benchmark : str
        What was compared.
    items : int
        How many.
    changed, low, high : float
        Share of items whose best option differs between the trimmed and the padded path, and its 95 % interval.
    changed_by_batch : float
        The same share between the padded path and itself, one item at a time.
    largest_difference : float
        Of the log-probability of an option between trimmed and padded, in nats.
    largest_by_batch : float
        The same between the padded path and itself, one item at a time.
    check : str
        What the check at load measured.
    """

    model: str
    dtype: str
    benchmark: str
    items: int
    changed: float
    low: float
    high: float
    changed_by_batch: float
    largest_difference: float
    largest_by_batch: float
    check: str

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row."""
        return pd.DataFrame([asdict(self)])

    def __repr__(self) -> str:
        return (
            f"Silence left out, against the padded path: {self.model!r} in {self.dtype}, {self.items} items of "
            f"{self.benchmark!r}\n"
            f"  answers changed      {self.changed:.3f} [{self.low:.3f}, {self.high:.3f}]; "
            f"by batch size alone {self.changed_by_batch:.3f}\n"
            f"  largest difference   {self.largest_difference:.1e} nats; "
            f"by batch size alone {self.largest_by_batch:.1e}\n"
            f"  check at load        {self.check}"
        )

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"

    def save(self, path: str | Path) -> Path:
        """Write the report as JSON and return the file."""
        return write_record(path, {"kind": "trim_report", **asdict(self)}, "trim-report.json")

    @classmethod
    def load(cls, path: str | Path) -> TrimReport:
        """Read what `save` wrote.

        Raises
        ------
        RunError
            If the file holds something else.
        """
        record = read_record(path, "trim_report", "trim-report.json")
        return cls(**{name: record[name] for name in cls.__dataclass_fields__})


def trim_report(
    model: AudioLLM | str,
    benchmark: Benchmark | str,
    *,
    limit: int = 100,
    batch_size: int = 16,
    template: PromptTemplate = DEFAULT_PROMPT,
    progress: bool = True,
) -> TrimReport:
    """Compare the trimmed and the padded path of a model on items of a benchmark.

    Parameters
    ----------
    model : AudioLLM or str
        What `load_model` returns or takes, with `trim` on.
    benchmark : Benchmark or str
        What `load_benchmark` returns or takes.
    limit : int
        At most so many items, spread over tasks.
    batch_size : int
        Items a forward.
    template : PromptTemplate
        Wording of the question.
    progress : bool
        Show a bar.

    Returns
    -------
    TrimReport

    Raises
    ------
    RunError
        If the model's silence is encoded anyway, so that there is nothing to compare.
    """
    from vpanalysis.benchmark.sources import load_benchmark
    from vpanalysis.models.facade import AudioLLM as Facade
    from vpanalysis.models.loading import load_model

    llm = load_model(model) if isinstance(model, str) else model
    bench = load_benchmark(benchmark) if isinstance(benchmark, str) else benchmark
    items = list(bench.select(limit=limit))
    if not llm.frontend.trim:
        raise RunError(
            f"cannot compare the two paths of {llm.name!r}",
            found=f"silence is encoded (trim is {llm.trim_report})",
            allowed="a family whose tower can leave it out, loaded with trim=True",
        )
    padded = Facade(
        llm.model, llm.processor, name=llm.name, family=llm.family, gate_tokenizer=llm.gate_tokenizer, trim=False,
        check=False,
    )  # fmt: skip
    gaps: dict[str, list[float]] = {"trim": [], "batch": []}
    other: dict[str, list[bool]] = {"trim": [], "batch": []}
    with tqdm(total=len(items), desc="trim report", unit="item", disable=not progress) as bar:
        for start in range(0, len(items), batch_size):
            group = items[start : start + batch_size]
            whole = _scores(padded, group, template)
            ways = {
                "trim": _scores(llm, group, template),
                "batch": [row for item in group for row in _scores(padded, [item], template)],
            }
            for way, scores in ways.items():
                for a, b in zip(scores, whole, strict=True):
                    gaps[way].append(float(np.abs(a - b).max()))
                    other[way].append(bool(a.argmax() != b.argmax()))
            bar.update(len(group))
    clusters = {name: [getattr(item, name) or item.id for item in items] for name in ("speaker", "script")}
    share = proportion(np.array(other["trim"], dtype=np.float64), clusters)
    return TrimReport(
        model=llm.name,
        dtype=str(llm.dtype).removeprefix("torch."),
        benchmark=bench.name,
        items=len(items),
        changed=share.value,
        low=share.low,
        high=share.high,
        changed_by_batch=float(np.mean(other["batch"])),
        largest_difference=max(gaps["trim"]),
        largest_by_batch=max(gaps["batch"]),
        check=llm.trim_report,
    )


def _scores(llm: AudioLLM, items: list[Item], template: PromptTemplate) -> list[Any]:
    clips = llm.encode([item.audio.load() for item in items])
    batch = llm.prepare(items, None, template, encoded=clips)
    return [row.numpy() for row in llm.option_logprobs(batch, llm.forward(batch))]
