"""The lens: the last layer is the model, and readers and listeners part from the words where they should."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import vpanalysis as vp
from vpanalysis.attribution import LensResult, logit_lens
from vpanalysis.errors import RunError

TASK = "emotion_recognition"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, vp.Run]:
    whole = vp.load_benchmark("mini", tasks=[TASK])
    bench = whole.filter(lambda item: item.condition != "neutral" and int(str(item.cell)[-4:]) < 16)
    place = tmp_path_factory.mktemp("lens")
    return {n: vp.run(n, bench, place / n, sites="text*", progress=False) for n in ("mini-base", "mini-pclm-dpo")}


def test_the_last_layer_is_the_model(runs: dict[str, vp.Run]) -> None:
    found = logit_lens(runs["mini-pclm-dpo"], "mini-pclm-dpo")
    last = found.table[found.table["site"] == found.sites[-1]].set_index("condition")
    table = runs["mini-pclm-dpo"].predictions
    for condition, part in table.groupby("condition"):
        right = (part["pred_logits"] == part["truth"]).mean()
        assert last.loc[condition, "accuracy"] == pytest.approx(right)
        margins = [
            scores[list(choices).index(truth)] - np.log(sum(np.exp(scores[list(choices).index(f)]) for f in foils))
            for scores, choices, truth, foils in zip(
                part["option_logprobs"], part["choices"], part["truth"], part["foils"], strict=True
            )
        ]
        assert last.loc[condition, "margin"] == pytest.approx(np.mean(margins), abs=1e-3)


def test_reader_and_listener_part_from_the_words_in_the_layers(runs: dict[str, vp.Run]) -> None:
    reader = logit_lens(runs["mini-base"], "mini-base").parting.set_index("condition")
    listener = logit_lens(runs["mini-pclm-dpo"], "mini-pclm-dpo").parting.set_index("condition")
    assert reader.loc["conflict", "towards"] == "foils"
    assert reader.loc["congruent", "towards"] == "truth"
    assert listener.loc["conflict", "towards"] == "truth"
    assert listener.loc["conflict", "from"].startswith("text[")


def test_the_vocabulary_when_asked(runs: dict[str, vp.Run]) -> None:
    found = logit_lens(runs["mini-base"], "mini-base", conditions=["conflict"], vocabulary=3)
    assert set(found.table["condition"]) == {"conflict"}
    last = found.top[found.top["site"] == found.sites[-1]]
    assert 0 < last["share"].sum() <= 1 + 1e-9
    assert set(last["token"].str.strip()) <= set("ABCDEF")
    assert logit_lens(runs["mini-base"], "mini-base").top.empty


def test_other_models_and_runs_are_refused(runs: dict[str, vp.Run], tmp_path: Path) -> None:
    run = runs["mini-base"]
    turned = run.predictions.assign(option_logprobs=[row[::-1] for row in run.predictions["option_logprobs"]])
    other = SimpleNamespace(name="other", predictions=turned, sites=run.sites, states=run.states, path=run.path)
    with pytest.raises(RunError, match="differ from its answers"):
        logit_lens(other, "mini-base")
    with pytest.raises(RunError, match="weights of 'mini-base', the model is 'mini-sft'"):
        logit_lens(run, "mini-sft")
    with pytest.raises(RunError, match="conflcit"):
        logit_lens(runs["mini-base"], "mini-base", conditions=["conflcit"])
    bench = vp.load_benchmark("mini", tasks=[TASK], limit=2)
    bare = vp.run("mini-base", bench, tmp_path / "bare", reducers="none", progress=False)
    with pytest.raises(RunError, match="no text states"):
        logit_lens(bare, "mini-base")


def test_results_print_plot_and_keep(runs: dict[str, vp.Run]) -> None:
    found = logit_lens(runs["mini-base"], "mini-base", vocabulary=1)
    assert "LensResult: mini-base" in repr(found)
    assert "<table" in found._repr_html_()
    assert len(found.plot().get_lines()) == 3
    with pytest.raises(RunError, match="emotion"):
        found.plot(task="emotion")
    folder = found.save()
    assert folder.parent == Path(runs["mini-base"].path) / "results"
    kept = LensResult.load(folder)
    pd.testing.assert_frame_equal(kept.table, found.table)
    pd.testing.assert_frame_equal(kept.parting, found.parting)
