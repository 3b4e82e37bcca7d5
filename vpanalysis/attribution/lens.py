"""``logit_lens``: what each layer of the language model would answer, if it were the last.

Why it exists. The answer comes out at the end, but it is made somewhere. Where along the depth does the model begin to
prefer the truth, or the claim, and do both rise before one of them wins?

The idea (nostalgebraist 2020, "interpreting GPT: the logit lens"). The state of a layer at the answer position goes
through the model's own final norm and head, as if no layer came after. Only the offered options' letters are read, so
the result is a margin in nats and a preferred option per layer; the vocabulary is there where it is asked for. A Run
recorded the states (``text[i]``, reducer ``last``); of the model only the norm and the head are used. At the last layer
the lens is the model itself, which is checked against the Run's answers.

What it cannot show: early layers need not speak the language of the head (Belrose et al. 2023, "Eliciting latent
predictions", train a translator for each). A margin of zero there may mean "undecided" or "written otherwise".

>>> lens = logit_lens(run, "mini-pclm-dpo")                              # doctest: +SKIP
>>> lens.parting                            # from which layer on the margin keeps its sign, per task and condition
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from vpanalysis import stats
from vpanalysis._results import TableResult
from vpanalysis._saved import run_identity
from vpanalysis.attribution.margins import LOGPROBS, clusters_by_name, margin
from vpanalysis.errors import RunError
from vpanalysis.stats import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vpanalysis.models.facade import AudioLLM

__all__ = ["LensResult", "logit_lens"]

_AGREES = 0.02
"""Nats by which the lens of the last layer may differ from the Run's own answers: Runs may hold float16 states."""


@dataclass(frozen=True, repr=False)
class LensResult(TableResult):
    """Answers by depth.

    Attributes
    ----------
    table : DataFrame
        One row a task, condition and site: margin (mean, nats) with its interval, truth and claim (mean probability of
        the truth and of the foils among the options), accuracy, n, n_groups.
    parting : DataFrame
        One row a task and condition: the site from which on the margin's interval stays off zero on one side up to the
        last layer, ``towards`` which (truth or foils), both empty where it does not.
    top : DataFrame
        Where the vocabulary was asked for: per task, condition and site the tokens that were most often the likeliest,
        with their share of the items. Else empty.
    settings : mapping
    """

    VERB, TABLES = "logit-lens", ("table", "parting", "top")

    table: pd.DataFrame
    parting: pd.DataFrame
    top: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sites(self) -> list[str]:
        """Sites from the embedding to the last layer."""
        return list(dict.fromkeys(self.table["site"]))

    def plot(self, ax: Axes | None = None, *, task: str | None = None) -> Axes:
        """Draw the margin by depth, a line a condition; of one task, default the first."""
        from vpanalysis import plots

        have = list(dict.fromkeys(self.table["task"]))
        if task is not None and task not in have:
            raise RunError("cannot draw the lens", found=repr(task), allowed=have, word=task)
        rows = self.table[self.table["task"] == (task or have[0])].reset_index(drop=True)
        return plots.lens_margins(rows, ax=ax)

    def _parts(self) -> tuple[pd.DataFrame, str, str]:
        last = self.table[self.table["site"] == self.sites[-1]]
        keys = ["task", "condition"]
        shown = self.parting.merge(last[[*keys, "margin", "low", "high", "accuracy", "n"]], on=keys)
        title = f"LensResult: {self.settings.get('run')}, {len(self.sites)} sites at the answer position"
        return shown, title, "margin and accuracy: at the last layer. from: the margin keeps its sign from there on."


def logit_lens(
    run: Any,
    model: AudioLLM | str,
    *,
    conditions: Sequence[str] | None = None,
    vocabulary: int = 0,
    level: float = 0.95,
) -> LensResult:
    """Read the layers of the language model through its final norm and head.

    Parameters
    ----------
    run : Run, str or Path
        With states of ``text[i]`` at the answer position (reducer ``last``), as Runs have by default.
    model : AudioLLM or str
        The model of the Run; only its norm and head are used.
    conditions : sequence of str, optional
        Of the items; default all.
    vocabulary : int
        So many of the likeliest tokens of the whole vocabulary per site; 0 for none.
    level : float
        Of the intervals.

    Returns
    -------
    LensResult

    Raises
    ------
    RunError
        For a Run without such states or answers, of another model, or whose last layer does not lead to its answers.
    """
    from vpanalysis.runs import loaded_model, open_run

    opened = open_run(run) if isinstance(run, (str, Path)) else run
    llm = loaded_model(model)
    made_by = getattr(opened, "manifest", {}).get("model", {})
    # In another precision the same weights have another hash; then the answers alone must agree.
    alike = made_by.get("dtype") == str(llm.dtype).removeprefix("torch.")
    if alike and dict(made_by["weights"]) != dict(llm.weights_sha):
        raise RunError(f"cannot look through the layers of run {opened.name!r}",
                       found=f"weights of {made_by.get('name')!r}, the model is {llm.name!r}",
                       fix="give the model of the Run")  # fmt: skip
    sites = [site for site in opened.sites if site.startswith("text[")]
    sites = (["text.embed"] if "text.embed" in opened.sites else []) + sites
    table = cast("pd.DataFrame", opened.predictions)
    if len(sites) < 2 or LOGPROBS not in table.columns:
        raise RunError(f"cannot look through the layers of run {opened.name!r}", found="no text states, or no answers",
                       fix="record text[*] with the reducer 'last', of a model that answers")  # fmt: skip
    keep = (table["status"] != "failed").to_numpy() & table[LOGPROBS].notna().to_numpy()
    if conditions is not None:
        present = sorted(set(table["condition"]))
        for name in conditions:
            if name not in present:
                raise RunError("cannot select the condition", found=repr(name), allowed=present, word=name)
        keep &= table["condition"].isin(list(conditions)).to_numpy()
    rows = np.flatnonzero(keep)
    frame = table.iloc[rows].reset_index(drop=True)
    found, top = [], []
    for site in sites:
        logits = _through_head(llm, np.asarray(opened.states(site, "last"))[rows])
        options = _options(llm, logits, frame)
        if site == sites[-1]:
            _check_last(opened.name, options, frame)
        found += _rows(site, options, frame, level)
        if vocabulary:
            top += _likeliest(llm, site, logits, frame, vocabulary)
    made = {
        **run_identity(opened), "model": llm.name, "level": level, "vocabulary": vocabulary,
        "conditions": None if conditions is None else list(conditions), "weights": dict(llm.weights_sha),
    }  # fmt: skip
    whole = pd.DataFrame(found)
    kept = pd.DataFrame(top, columns=["task", "condition", "site", "token", "share"])
    return LensResult(whole, _parting(whole, sites), kept, made)


def _through_head(llm: AudioLLM, states: Any) -> Any:
    """Return logits over the vocabulary, shape (item, token), float32."""
    import torch

    norm = llm.family.find(llm.model, llm.family.text_norm)
    head = llm.family.find(llm.model, llm.family.head)
    out = []
    with torch.inference_mode():
        for start in range(0, len(states), 256):
            part = torch.from_numpy(np.asarray(states[start : start + 256])).to(llm.device, llm.dtype)
            out.append(head(norm(part)).float().cpu())
    return torch.cat(out)


def _options(llm: AudioLLM, logits: Any, frame: pd.DataFrame) -> list[FloatArray]:
    """Return log-probabilities over each item's options."""
    import torch

    out = []
    for row, letters in zip(logits, frame["letters"], strict=True):
        tokens = llm.letter_tokens([str(letter) for letter in letters])
        scores = torch.stack([torch.logsumexp(row[list(tokens[str(letter)])], dim=0) for letter in letters])
        out.append(torch.log_softmax(scores, dim=0).numpy().astype(np.float64))
    return out


def _check_last(name: str, options: Sequence[FloatArray], frame: pd.DataFrame) -> None:
    worst = max(
        float(np.abs(np.exp(mine) - np.exp(np.asarray(own, dtype=np.float64))).max())
        for mine, own in zip(options, frame[LOGPROBS], strict=True)
    )
    if worst > _AGREES:
        raise RunError(
            f"cannot look through the layers of run {name!r}",
            found=f"option probabilities behind its last layer that differ from its answers by up to {worst:.2f}",
            fix="give the model of the Run",
        )


def _rows(site: str, options: Sequence[FloatArray], frame: pd.DataFrame, level: float) -> list[dict[str, Any]]:
    values = pd.DataFrame(
        {
            "task": frame["task_name"].astype(str), "condition": frame["condition"].astype(str),
            "margin": [
                margin(row, list(choices), str(truth), list(foils))
                for row, choices, truth, foils in zip(
                    options, frame["choices"], frame["truth"], frame["foils"], strict=True
                )
            ],
            "truth": [
                float(np.exp(row[list(choices).index(truth)]))
                for row, choices, truth in zip(options, frame["choices"], frame["truth"], strict=True)
            ],
            "claim": [
                float(sum(np.exp(row[list(choices).index(foil)]) for foil in foils))
                for row, choices, foils in zip(options, frame["choices"], frame["foils"], strict=True)
            ],
            "accuracy": [
                float(list(choices)[int(row.argmax())] == truth)
                for row, choices, truth in zip(options, frame["choices"], frame["truth"], strict=True)
            ],
        }
    )  # fmt: skip
    out: list[dict[str, Any]] = []
    for (task, condition), part in values.groupby(["task", "condition"], sort=False):
        here = part[part["margin"].notna()]
        clusters = clusters_by_name(frame.loc[here.index])
        found = stats.mean(here["margin"].to_numpy(), clusters, level=level)
        out.append(
            {
                "task": task, "condition": condition, "site": site, "margin": found.value, "low": found.low,
                "high": found.high, "n": len(part), "n_groups": found.n_groups,
                **{name: float(part[name].mean()) for name in ("truth", "claim", "accuracy")},
            }
        )  # fmt: skip
    return out


def _parting(table: pd.DataFrame, sites: Sequence[str]) -> pd.DataFrame:
    """Return from which site on the margin keeps its sign, with its interval off zero."""
    rows = []
    for (task, condition), part in table.groupby(["task", "condition"], sort=False):
        one = part.set_index("site").loc[list(sites)]
        sign = np.where(one["low"] > 0, 1, np.where(one["high"] < 0, -1, 0))
        at = len(sites)
        while at and sign[at - 1] == sign[-1] != 0:
            at -= 1
        towards = {1: "truth", -1: "foils", 0: ""}[int(sign[-1])]
        rows.append({"task": task, "condition": condition, "from": sites[at] if towards else "", "towards": towards})
    return pd.DataFrame(rows)


def _likeliest(llm: AudioLLM, site: str, logits: Any, frame: pd.DataFrame, most: int) -> list[dict[str, Any]]:
    best = pd.DataFrame(
        {
            "task": frame["task_name"].astype(str), "condition": frame["condition"].astype(str),
            "token": logits.argmax(dim=-1).numpy(),
        }
    )  # fmt: skip
    out: list[dict[str, Any]] = []
    for (task, condition), part in best.groupby(["task", "condition"], sort=False):
        shares = part["token"].value_counts(normalize=True).head(most)
        out += [
            {"task": task, "condition": condition, "site": site, "token": llm.tokenizer.decode([token]), "share": share}
            for token, share in zip(shares.index.tolist(), shares.tolist(), strict=True)
        ]
    return out
