"""What a smaller number type does to the answers of one model, measured on one's own items.

Why it exists. Large models are run in bfloat16, which keeps three digits. Whether that changes answers cannot be known
from the type: it depends on how far the options lie apart, and so on the model and the items.

The idea. The same checkpoint is loaded twice, in float32 and in the other type, and asked the same items. Three numbers
say how far the two agree: the share of items whose best option is the same, Kendall's rank correlation over the
options of an item, averaged over items, and the largest difference of a log-probability. Intervals take speaker and
script as the unit of chance, as everywhere. Where the best option changed, the margin that float32 gave it is shown: a
change at a margin near 0 is a coin that fell on the other side.

What it cannot show: which of the two types is right about the world. And a type that is slow on one device is no slower
in what it answers: agreement may differ between devices, so measure on the one that will be used.

Worked example::

    check = dtype_check("mini", limit=100)
    check.agree, check.low, check.high       # 0.99, 0.95, 1.0
    print(check)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from vpanalysis._tables import read_record, write_record
from vpanalysis.benchmark.prompts import DEFAULT_PROMPT, PromptTemplate
from vpanalysis.errors import AudioError, ModelError, RunError
from vpanalysis.stats import mean, proportion

if TYPE_CHECKING:
    from vpanalysis.benchmark.items import Benchmark, Item
    from vpanalysis.models.facade import AudioLLM

__all__ = ["DtypeCheck", "dtype_check"]

_DTYPES = ("bfloat16", "float16")


@dataclass(frozen=True)
class DtypeCheck:
    """Two number types of one model on the same items.

    Parameters
    ----------
    model, dtype, device, benchmark : str
        What was compared with float32, and where.
    items : int
        How many.
    left_out : int
        Items whose clip cannot be used.
    agree, low, high : float
        Share of items with the same best option, and its 95 % interval.
    rank, rank_low, rank_high : float
        Mean over items of Kendall's rank correlation over the options, -1 to 1, and its 95 % interval.
    largest_difference : float or None
        Of the log-probability of an option, in nats; None when no score is finite.
    changed_margin : float or None
        Largest lead, in nats, that float32 gave an option which the other type did not choose; None when none changed.
    not_finite : int
        Items for which the other type gave NaN or infinite scores; they count as changed, with a rank correlation of 0.
    """

    model: str
    dtype: str
    device: str
    benchmark: str
    items: int
    left_out: int
    agree: float
    low: float
    high: float
    rank: float
    rank_low: float
    rank_high: float
    largest_difference: float | None
    changed_margin: float | None
    not_finite: int

    def to_dataframe(self) -> pd.DataFrame:
        """Return one row."""
        return pd.DataFrame([asdict(self)])

    def __repr__(self) -> str:
        margin = "" if self.changed_margin is None else f"; changed at margins up to {self.changed_margin:.1e} nats"
        broken = f"\n  not finite           {self.not_finite} items" if self.not_finite else ""
        gap = "none is finite" if self.largest_difference is None else f"{self.largest_difference:.1e} nats"
        left = f", {self.left_out} of unusable clips left out" if self.left_out else ""
        return (
            f"{self.dtype} against float32: {self.model!r} on {self.device}, {self.items} items of {self.benchmark!r}"
            f"{left}\n"
            f"  same best option     {self.agree:.3f} [{self.low:.3f}, {self.high:.3f}]{margin}\n"
            f"  rank correlation     {self.rank:.3f} [{self.rank_low:.3f}, {self.rank_high:.3f}]\n"
            f"  largest difference   {gap}{broken}"
        )

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"

    def save(self, path: str | Path) -> Path:
        """Write the numbers as JSON and return the file."""
        return write_record(path, {"kind": "dtype_check", **asdict(self)}, "dtype-check.json")

    @classmethod
    def load(cls, path: str | Path) -> DtypeCheck:
        """Read what `save` wrote.

        Raises
        ------
        RunError
            If the file holds something else.
        """
        record = read_record(path, "dtype_check", "dtype-check.json")
        return cls(**{name: record[name] for name in cls.__dataclass_fields__})


def dtype_check(
    model: str | Path,
    benchmark: Benchmark | str = "mini",
    *,
    dtype: str = "bfloat16",
    limit: int = 100,
    batch_size: int = 8,
    template: PromptTemplate = DEFAULT_PROMPT,
    progress: bool = True,
    **loading: Any,
) -> DtypeCheck:
    """Compare the answers of a model in float32 with those in a smaller type.

    Parameters
    ----------
    model : str or Path
        What `load_model` takes; it is loaded twice, one after the other.
    benchmark : Benchmark or str
        What `load_benchmark` returns or takes.
    dtype : {"bfloat16", "float16"}
        The type to compare.
    limit : int
        At most so many items, spread over tasks.
    batch_size : int
        Items a forward; both types are given the same batches.
    template : PromptTemplate
        Wording of the question.
    progress : bool
        Show a bar.
    **loading
        Further arguments of `load_model`, such as ``device_map`` and ``revision``.

    Returns
    -------
    DtypeCheck

    Raises
    ------
    ModelError
        If the model cannot be loaded, or answers nothing.
    RunError
        For another type, or when no clip can be used.
    """
    from vpanalysis.benchmark.sources import load_benchmark

    if dtype not in _DTYPES:
        raise RunError("cannot compare the type with float32", found=repr(dtype), allowed=_DTYPES, word=dtype)
    if limit < 1 or batch_size < 1:
        raise RunError("cannot compare types", found=f"limit={limit}, batch_size={batch_size}", allowed="1 or more")
    bench = load_benchmark(benchmark) if isinstance(benchmark, str) else benchmark
    items, waves = _usable(bench.select(limit=limit))
    if not items:
        raise RunError(f"cannot compare types on {bench.name!r}", found="no usable clip")
    scores: list[list[NDArray[np.float64]]] = []
    facts: dict[str, Any] = {}
    with tqdm(total=2 * len(items), desc="dtype check", unit="item", disable=not progress) as bar:
        for one in ("float32", dtype):
            found, facts = _answers(model, one, items, waves, batch_size, template, loading, bar)
            scores.append(found)
    left_out = min(limit, len(bench)) - len(items)
    return _compared(scores[0], scores[1], items, {**facts, "benchmark": bench.name, "left_out": left_out})


def _usable(bench: Benchmark) -> tuple[list[Item], list[NDArray[np.float32]]]:
    items, waves = [], []
    for item in bench:
        try:
            wave = item.audio.load()
        except AudioError:
            continue
        items.append(item)
        waves.append(wave)
    return items, waves


def _answers(
    source: str | Path,
    dtype: str,
    items: Sequence[Item],
    waves: Sequence[NDArray[np.float32]],
    batch_size: int,
    template: PromptTemplate,
    loading: dict[str, Any],
    bar: Any,
) -> tuple[list[NDArray[np.float64]], dict[str, str]]:
    """Return the log-probabilities of all items' options; the model is gone afterwards."""
    from vpanalysis.models.loading import load_model

    llm: AudioLLM = load_model(source, dtype=dtype, **loading)
    if not llm.answers:
        raise ModelError(
            f"cannot compare the answers of {llm.name!r}", found="an encoder that answers nothing",
            allowed="a model with a language model",
        )  # fmt: skip
    scores: list[NDArray[np.float64]] = []
    for start in range(0, len(items), batch_size):
        group = list(items[start : start + batch_size])
        clips = llm.encode(list(waves[start : start + batch_size]))
        batch = llm.prepare(group, None, template, encoded=clips)
        rows = llm.option_logprobs(batch, llm.forward(batch))
        scores += [np.asarray(row.float().cpu().numpy(), dtype=np.float64) for row in rows]
        bar.update(len(group))
    return scores, {"model": llm.name, "dtype": dtype, "device": str(llm.device)}


def _compared(
    full: Sequence[NDArray[np.float64]],
    other: Sequence[NDArray[np.float64]],
    items: Sequence[Item],
    facts: dict[str, Any],
) -> DtypeCheck:
    """Return how far two lists of scores agree."""
    same, ranks, gaps, leads, broken = [], [], [], [], 0
    for a, b in zip(full, other, strict=True):
        if not np.isfinite(b).all():
            broken += 1
            same.append(0.0)
            ranks.append(0.0)
            continue
        same.append(float(a.argmax() == b.argmax()))
        ranks.append(_kendall(a, b))
        gaps.append(float(np.abs(a - b).max()))
        if not same[-1]:
            leads.append(float(a.max() - a[int(b.argmax())]))
    clusters = {name: [getattr(item, name) or item.id for item in items] for name in ("speaker", "script")}
    share = proportion(np.array(same), clusters)
    rank = mean(np.array(ranks), clusters)
    return DtypeCheck(
        items=len(items), agree=share.value, low=share.low, high=share.high, rank=rank.value, rank_low=rank.low,
        rank_high=rank.high, largest_difference=max(gaps, default=None),
        changed_margin=max(leads, default=None), not_finite=broken, **facts,
    )  # fmt: skip


def _kendall(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the share of pairs of options in the same order less that in the other; a tie in one counts as neither.

    Kendall's tau-a, over few options; 1 for a single option. Ties in both count as agreement.
    """
    first, second = np.triu_indices(len(a), 1)
    if not len(first):
        return 1.0
    x, y = np.sign(a[first] - a[second]), np.sign(b[first] - b[second])
    return float(np.where((x == 0) & (y == 0), 1.0, x * y).mean())
