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
# # Where could it have heard the voice?
#
# A probe is a small classifier on the states of one place in a model. Trained to tell what the voice makes true (the
# *truth*) or what the words assert (the *claim*), and tested on speakers or sentences that it never met, it says what
# a linear reader could find there. This notebook draws the curve through all layers, and then does what keeps such a
# curve from misleading: shuffled labels, a choice of the best layer that does not peek, tests between layers, and the
# comparison with what the model itself answers.

# %% tags=["parameters"]
MODEL = "mini-pclm-dpo"
BENCHMARK = "mini"
RUN = "runs"
LIMIT = 300
TASKS = ["gender_prediction", "emotion_recognition", "pitch_comparison"]

# %%
# %matplotlib inline
from pathlib import Path

import vpanalysis as vp
from vpanalysis import explore, plots
from vpanalysis.probes import own_accuracy

# %% [markdown]
# Three tasks, so that `LIMIT` leaves enough items for each; `TASKS = None` takes all. With a checkpoint of billions
# of parameters this cell is the expensive one. Everything below reads the Run and needs neither model nor GPU.

# %%
bench = vp.load_benchmark(BENCHMARK, limit=LIMIT, tasks=TASKS)
label = f"{Path(BENCHMARK).stem}-{LIMIT or 'all'}" + ("" if TASKS is None else f"-{len(bench.tasks)}-tasks")
run = vp.run(MODEL, bench, Path(RUN) / label / Path(MODEL).name)
print(f"{run.n_items} items, {len(run.sites)} sites: {', '.join(run.sites)}")

# %% [markdown]
# ## The curves
#
# One probe for each task, place and target, on the same folds. The folds keep together what would leak: all items of
# a speaker, or of a sentence, whichever the data allow. Conflict and congruent twins are weighted so that the words
# alone tell nothing about the truth, otherwise a probe that only reads would look like one that hears. The band under
# a curve is what 199 shuffles of the labels give.

# %%
both = vp.probe_layers(run, "both", estimator="ridge")
both

# %%
ax = both.plot()

# %% [markdown]
# Layer by layer, with what each probe confuses and the items on which it is most surely wrong:

# %%
explore.layers(both)

# %%
truth, claim = both.of("truth"), both.of("claim")
own = own_accuracy(run, truth).set_index("task")
answers = {task: tuple(own.loc[task, ["accuracy", "low", "high"]]) for task in own.index}
panels = plots.layer_grid(truth, claim, answers, columns=3)

# %% [markdown]
# The paper (section 4.2) probes Audio Flamingo 3 in the same spirit: states of every second layer of encoder and
# language model, averaged over time, a three-layer network, ten folds. It reports that probes score far above the
# model's own answers (17.40 % over all tasks, Table 1), that middle encoder layers beat the last one, and that
# accuracy drops where the encoder hands over to the language model. It prints no numbers for the curves, and does not
# say whether speakers or sentences were kept apart by the folds.
#
# What you see here is *planted*: the losses of the bundled encoder were chosen so that its middle layers keep the
# voice and its last one forgets it. A tool that did not find this would be broken; that it does is no evidence about
# Audio Flamingo 3.

# %% [markdown]
# ## The best layer, without having looked
#
# The highest point of a curve is optimistic: it was picked on the items it is scored on. `best_site` picks within the
# training items of every fold, and scores on the others. The column `optimistic` is what peeking would have reported.

# %%
chosen = vp.best_site(run, sites=[site for site in truth.sites if not site.startswith("text")])
columns = ["task", "site", "accuracy", "low", "high", "optimistic", "chance", "majority", "n", "n_groups"]
chosen.to_dataframe()[columns].style.format(precision=2).hide(axis="index")

# %% [markdown]
# ## Is one layer better than another?
#
# Overlapping intervals prove nothing: both probes saw the same items. So differences to the tower, the place from
# which a model without a mixer hears, are paired by item, and adjusted over the places compared.

# %%
places = [site for site in truth.sites if not site.startswith(("text", "streams"))]
against = vp.compare_probes(truth, reference="tower", sites=places)
columns = ["task", "site", "score", "reference", "difference", "low", "high", "p", "p_adjusted", "q"]
against.to_dataframe()[columns].style.format(precision=3).hide(axis="index")

# %%
ax = against.plot()

# %% [markdown]
# ## Decodable is not used
#
# The *utilization gap* is probe accuracy minus the model's own accuracy on the same items. Positive: the information
# is there and the answer does not follow it. Negative: the model, which sees whole sequences and was trained on more,
# does better than a linear probe on averages with a few dozen items; such a probe says little about what is *not*
# there. The `boundary` rows are steps along the way: what is lost or gained between encoder, tower, projector and
# language model.

# %%
controls = vp.probe_controls(run, which=["gap", "boundary"])
controls

# %% [markdown]
# ## Does a deeper probe find more?
#
# The paper repeats its probes as linear classifiers and with three and five layers. If only a deep probe finds the
# voice, "there" becomes a matter of how hard one looks. One task, every second layer of the encoder:

# %%
TASK = "emotion_recognition" if "emotion_recognition" in bench.tasks else bench.tasks[0]
sites = [site for site in truth.sites if site.startswith("encoder[") or site == "tower"][1::2]
deep = vp.probe_layers(run, "truth", tasks=TASK, sites=sites, estimator="mlp3")
table = truth.curve(TASK).set_index("site").loc[sites, ["accuracy"]].rename(columns={"accuracy": "linear"})
table["three layers"] = deep.curve(TASK).set_index("site")["accuracy"]
table.style.format("{:.2f}").background_gradient(cmap="Blues", vmin=0, vmax=1, axis=None)

# %% [markdown]
# ## What this cannot show
#
# * A probe that succeeds shows that information is *decodable*, not that the model uses it. `03_listen_or_read` and
#   `04_gates` change something and look at the answer.
# * A probe that fails shows little: too few items, the wrong pooling (an order of levels is lost in an average over
#   time, which is why pattern tasks are probed on six segments), or a code that is not linear.
# * The voices of a synthesizer differ in fewer ways than people do.

# %% tags=["headline"]
best = chosen.to_dataframe().set_index("task")
{f"{task} {name}": round(float(best.loc[task, name]), 3) for task in best.index for name in ("accuracy", "optimistic")}
