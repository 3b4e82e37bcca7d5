"""Voice and words in nats, against the four conditions item by item."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from behaviour import assert_well_formed, drawn, refusal, some, sources, table, texts
from matplotlib.figure import Figure

from vpanalysis.figures.factorial import ENTRY, TOLD


def test_values_are_shapleys_of_the_items() -> None:
    data = table("factorial")
    assert_well_formed(data)
    kept = sources().one("ListenRead", "mini-pclm").items
    rows = data.set_index("effect")
    assert set(data["family"]) == {"reversed"} and set(data["name"]) == {"mini-pclm"}
    mean = kept[["both", "voice", "words", "neither"]].mean()
    voice = ((mean["voice"] - mean["neither"]) + (mean["both"] - mean["words"])) / 2
    words = ((mean["words"] - mean["neither"]) + (mean["both"] - mean["voice"])) / 2
    assert rows.loc["voice", "value"] == pytest.approx(voice, rel=1e-6)
    assert rows.loc["words", "value"] == pytest.approx(words, rel=1e-6, abs=1e-9)
    assert rows.loc["interaction", "value"] == pytest.approx(
        mean["both"] - mean["words"] - mean["voice"] + mean["neither"], rel=1e-6
    )
    assert rows.loc["voice", "n"] == len(kept) and rows.loc["voice", "tasks"] == kept["task"].nunique()
    if rows.loc["voice", "verdict"] in TOLD:
        share = max(voice, 0) / (max(voice, 0) + max(-words, 0))
        assert rows.loc["listening share", "value"] == pytest.approx(share, rel=1e-6)


def made(verdicts: dict[str, str]) -> Any:
    """Return a table of several checkpoints by hand."""
    one = table("factorial")
    parts = []
    for number, (name, verdict) in enumerate(verdicts.items()):
        part = one.assign(name=name, label=name, verdict=verdict)
        shift = np.where(part["effect"] == "listening share", 0.0, float(number))
        for key in ("value", "low", "high"):
            part[key] = part[key] + shift
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def test_shares_only_where_told() -> None:
    data = table("factorial")
    share = data[data["effect"] == "listening share"]
    assert (share["value"].notna() == share["verdict"].isin(TOLD)).all()


def test_a_verdict_without_a_share_leaves_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from vpanalysis.figures import factorial

    kept = sources().one("ListenRead", "mini-pclm")
    for verdict, told in (("removing the words hurts", False), ("listens", True)):
        other = replace(kept, table=kept.table.assign(verdict=verdict, share=0.8, share_low=0.7, share_high=0.9))
        rows = {row["effect"]: row for row in factorial._rows(other)}
        assert (rows["listening share"]["value"] == 0.8) is told
        assert rows["voice"]["value"] == pytest.approx(kept.table.loc[kept.table["task"] == "all", "listen"].iloc[0])


def test_marks_and_verdicts_are_where_the_table_says() -> None:
    data = made({"a": "listens", "b": "inverts the words"})
    figure = Figure(figsize=ENTRY.size(data), layout="constrained")
    ENTRY.draw(data, figure)
    left = figure.axes[0]
    for marker, effect in (("o", "voice"), ("s", "words")):
        line = next(one for one in left.lines if one.get_marker() == marker and len(one.get_xdata()) == 2)
        np.testing.assert_allclose(
            np.asarray(line.get_xdata(), dtype=float), data.loc[data["effect"] == effect, "value"].to_numpy()
        )
    assert {"listens", "inverts the words"} <= set(texts(figure))


def test_it_is_legible_and_says_on_how_many_items() -> None:
    items = len(sources().one("ListenRead", "mini-pclm").items)
    assert f"reversed: {items} items, 5 tasks" in texts(drawn("factorial", sources()))


def test_without_results_it_says_how_to_make_them() -> None:
    error = refusal("factorial", some("mini-base"))
    assert "no ListenRead kept in mini-base" in str(error) and "vp.listen_vs_read" in error.record


def test_words_for_who_cannot_see_it() -> None:
    data = table("factorial")
    value = data.set_index("effect")["value"]["voice"]
    assert f"voice {value:+.2f}" in ENTRY.alt(data)
