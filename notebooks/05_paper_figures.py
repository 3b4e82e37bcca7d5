# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The paper's pictures, from your Runs
#
# One cell a picture: which question of the paper it answers, the paper's numbers where it prints them, and the
# picture from the Runs below. Every picture is a function of `vpanalysis.plots`, Axes in and Axes out, and saves as
# PDF with `ax.figure.savefig("name.pdf")`.
#
# The Runs are of the bundled checkpoints, a *planted* organism: trained by this package on a synthesizer's voices, to
# be of known kinds. The pictures show what such a picture looks like, not what it would look like for another model.

# %% tags=["parameters"]
MODEL = ["mini-base", "mini-sft", "mini-static", "mini-pclm", "mini-pclm-dpo"]
BENCHMARK = "mini"
RUN = "runs"
LIMIT = 300

# %%
# %matplotlib inline
from pathlib import Path

import pandas as pd

import vpanalysis as vp
from vpanalysis import plots
from vpanalysis.attribution.margins import clusters_by_name
from vpanalysis.organism import PLANTED
from vpanalysis.probes import own_accuracy
from vpanalysis.stats import proportion

names = [MODEL] if isinstance(MODEL, str) else list(MODEL)
note = PLANTED if any(name.startswith("mini") for name in names) else None
bench = vp.load_benchmark(BENCHMARK, limit=LIMIT)
folder = Path(RUN) / f"{Path(BENCHMARK).stem}-{LIMIT or 'all'}"
runs = {name: vp.run(name, bench, folder / Path(name).name) for name in names}
scores = vp.score(list(runs.values()))
first, last = names[0], names[-1]

# %% [markdown]
# ## Tables 1 and 2: who listens?
#
# Paper: Audio Flamingo 3 17.40 % Acc_GT and 68.50 % ALA; + SFT 34.80 %; + PCLM 60.00 and 26.30 %; + PCLM + DPO 65.20
# and 22.60 %.

# %%
ax = plots.acc_vs_ala(scores, note=note)

# %%
ax = plots.hearing_bars(scores, note=note)

# %%
published = pd.DataFrame(
    [
        ("AF3", 17.40, 68.50),
        ("AF3 + SFT", 34.80, None),
        ("AF3 + PCLM", 60.00, 26.30),
        ("AF3 + PCLM + DPO", 65.20, 22.60),
    ],
    columns=["paper, Tables 1 and 2", "Acc_GT %", "ALA %"],
)
ours = scores.overall()[["name", "acc_gt", "ala"]].set_axis(["here", "Acc_GT %", "ALA %"], axis=1)
ours[["Acc_GT %", "ALA %"]] *= 100
pd.concat([published, ours], axis=1).style.format(precision=2, na_rep="").hide(axis="index")

# %% [markdown]
# ## Words against backwards audio
#
# Paper: with clips played backwards, so that the words are gone, Acc_GT rises and ALA falls (the numbers are not in
# the text that we could read). Playing backwards turns a rising intonation into a falling one, and the order of three
# levels around; here the truth is mapped, and items whose truth is lost are left out. How the paper maps it is not
# known. What the words claimed forwards nobody claims any more, so the second column counts picks of the *former*
# claim; both columns are over the same items.

# %%
backwards = bench.select(conditions="conflict").with_audio("reversed")
rows = []
for name in (first, last):
    turned = vp.run(name, backwards, Path(f"{folder}-reversed") / Path(name).name).predictions
    straight = runs[name].predictions.set_index("id").loc[turned["id"]].reset_index()
    for how, table in (("forwards", straight), ("backwards", turned)):
        groups = clusters_by_name(table)
        truth = proportion(table["pred_logits"] == table["truth"], groups)
        claim = proportion([p in foils for p, foils in zip(table["pred_logits"], table["foils"], strict=True)], groups)
        cells = [f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]" for one in (truth, claim)]
        rows.append((name, how, *cells, truth.n))
pd.DataFrame(rows, columns=["name", "played", "truth", "former claim", "items"]).style.hide(axis="index")

# %% [markdown]
# ## Layer-wise probing (section 4.2)
#
# Paper: curves over encoder, boundary and language model, one panel a task, with the model's own accuracy as a line.
# The distance is the "utilization gap". Folds here keep speakers or sentences apart.

# %%
both = vp.probe_layers(runs[last], "both", estimator="ridge", shuffles=0)
own = own_accuracy(runs[last], both).set_index("task")
answers = {task: tuple(own.loc[task, ["accuracy", "low", "high"]]) for task in own.index}
panels = plots.layer_grid(both.of("truth"), both.of("claim"), answers, columns=4, note=note)

# %%
ax = plots.layer_overview(both.of("truth"), note=note)

# %% [markdown]
# ## Static fusion without training (Table 7)
#
# Paper: Audio Flamingo 3 17.40 %; with the tokens of layers 5 and 15 appended 19.75 %; with attention to layer 5's
# tokens raised tenfold 20.80 %. Beside it stands what the paper does not report: the same with the tokens of *another
# clip*. If that helps as much, it was not the voice that helped.

# %%
fused = vp.fuse_layers(first, bench)
ax = fused.plot()

# %% [markdown]
# ## The mixer's weights by task
#
# The paper has no such picture.

# %%
gated = [name for name in names if runs[name].gates is not None]
if gated:
    ax = plots.gate_weights(runs[gated[-1]], note=note)

# %% [markdown]
# ## Where the answer is made
#
# Truth against claim through the language model, by its own head. Not in the paper; "Represented but Ignored" (arXiv
# 2608.19211) uses the same reading on Audio Flamingo 3.

# %%
lenses = {name: vp.logit_lens(runs[name], name) for name in (first, last)}
TASK = "emotion_recognition" if "emotion_recognition" in bench.tasks else bench.tasks[0]
for name, lens in lenses.items():
    ax = plots.lens_margins(lens.table.query("task == @TASK"))
    ax.set_title(f"{name}: {ax.get_title(loc='left') or plots.short_task(TASK)}", loc="left")

# %% tags=["headline"]
{f"{name} {metric}": round(one.value(metric), 4) for name, one in scores.items() for metric in ("acc_gt", "ala")}
