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
# # What does the mixer do?
#
# The Prompt-Conditioned Layer Mixer (PCLM) reads the question and hands the language model a sum of encoder layers,
# weighted for that question. The paper reports what it is worth (Audio Flamingo 3 picks the truth in 34.80 % of the
# items after fine-tuning without it, and in 60.00 % with it; Table 2), but not which layers it chooses for which
# question, nor whether *choosing* matters: a learned mixture that never looks at the question is not among its
# baselines. Both can be measured by setting the weights to something else.
#
# `MODEL` needs a mixer; `AGAINST` is the same model with learned weights that do not depend on the question.

# %% tags=["parameters"]
MODEL = "mini-pclm"
BENCHMARK = "mini"
RUN = "runs"
LIMIT = 300
AGAINST = "mini-static"

# %%
# %matplotlib inline
from pathlib import Path

import vpanalysis as vp
from vpanalysis import explore, plots

bench = vp.load_benchmark(BENCHMARK, limit=LIMIT)
llm = vp.load_model(MODEL)
run = vp.run(llm, bench, Path(RUN) / f"{Path(BENCHMARK).stem}-{LIMIT or 'all'}" / Path(MODEL).name)
print("streams:", ", ".join(llm.streams))

# %% [markdown]
# ## Which layers does it choose?
#
# The weights were recorded with the Run. The gate reads text alone, so every item with the same question has the same
# weights: within a task they vary only where the question does (speaker identity names the clip).

# %%
ax = plots.gate_weights(run)

# %% [markdown]
# Ask it yourself: edit the question and watch the mixture, or clamp a weight and watch the answer to one item.

# %%
explore.gates(llm, bench)

# %%
mixtures = vp.gate_mixtures(run)
mixtures

# %%
ax = mixtures.plot()

# %% [markdown]
# The mixer of the released checkpoint draws on layers 5, 15, 25, 30 and the last one of a 32-layer encoder; a table
# of its weights by task is not in the paper. Here the streams are those of a six-layer encoder that was *planted*:
# trained by this package so that its last layer forgets the voice. That the weights keep away from the tower is what
# had to come out, and no evidence about Audio Flamingo 3.
#
# A weight is also not a share: a stream with large states contributes more than its weight says.

# %%
shares = vp.gate_contributions(llm, bench)
ax = shares.plot()

# %% [markdown]
# ## Does choosing matter?
#
# The same items, with other weights: those of another task, of another item's prompt, the mean over all tasks, equal
# ones, and each stream alone. Then the other checkpoint. Differences are paired by item, and `p_adjusted` accounts
# for how many settings were tried.

# %%
changed = vp.gates(llm, bench, against=AGAINST)
ax = changed.plot()

# %%
ax = changed.plot(measure="margin")

# %% [markdown]
# What reading the question is worth: the model's own weights minus the mean ones, and minus the checkpoint that was
# *trained* without reading. The second is the fair comparison. The first also punishes the model for weights it was
# not trained with.

# %%
worth = changed.conditioning()
worth.style.format(precision=3)

# %%
changed.by_task().query("measure == 'accuracy' and setting == 'mean'").style.format(precision=3)

# %% [markdown]
# ## Between two streams
#
# The weight of the two streams that carry most is moved from one to the other, the rest keeps its mean weights.

# %%
sweep = vp.gate_sweep(llm, bench)
ax = sweep.plot()

# %% [markdown]
# ## The same question in other words
#
# A gate that reads text may read it too closely. If a polite "please" moves the weights by as much as another task
# does, the mixture is a matter of wording. Compare the movement of the mixture with that of the answers.

# %%
reworded = vp.paraphrase(llm, bench)
reworded

# %%
ax = reworded.plot()

# %% [markdown]
# Wordings that this model was never trained on change its answers even where the mixture stays: look at the last two,
# which move no weight at all. The gate is then not to blame.

# %% [markdown]
# ## What this cannot show
#
# Setting the gate shows what a mixture does to *this* language model, which was trained with its own. It does not
# show what a model trained with other weights would do; only a second checkpoint can. And which layer carries the
# voice is a question for probes: a gate may avoid a layer for its scale, its noise, or by the accident of training.

# %% tags=["headline"]
gain = worth.query("measure == 'accuracy'").set_index("alternative")
{
    "acc own": round(float(changed.table.query("measure == 'accuracy' and setting == 'own'")["value"].iloc[0]), 3),
    **{f"gain over {name}": round(float(gain.loc[name, "gain"]), 3) for name in gain.index},
    "largest distance between tasks": round(float(mixtures.between["variation"].max()), 3),
}
