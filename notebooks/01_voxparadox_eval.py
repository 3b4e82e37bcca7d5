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
# # A complete evaluation
#
# Several checkpoints, the same items: what each answered, task by task, with the controls without which the headline
# numbers mislead, and the worst items to listen to. `MODEL` is a list here; one name will do.

# %% tags=["parameters"]
MODEL = ["mini-base", "mini-sft", "mini-static", "mini-pclm", "mini-pclm-dpo", "mini-inverter"]
BENCHMARK = "mini"
RUN = "runs"
LIMIT = 300

# %%
# %matplotlib inline
from itertools import combinations
from pathlib import Path

import pandas as pd
from IPython.display import Audio, Markdown, display

import vpanalysis as vp
from vpanalysis import explore, plots
from vpanalysis.stats import benjamini_hochberg

# %% [markdown]
# ## Ask everyone
#
# With `generate=True` every model also writes a reply, greedily, which is parsed into an option. Published numbers
# are of replies. Option log-probabilities are another measurement of the same forward pass; they never fail to parse
# and have finer grain, which is why the rest of these notebooks uses them. The clips are encoded once for all
# checkpoints that share an encoder.

# %%
names = [MODEL] if isinstance(MODEL, str) else list(MODEL)
bench = vp.load_benchmark(BENCHMARK, limit=LIMIT)
folder = Path(RUN) / f"{Path(BENCHMARK).stem}-{LIMIT or 'all'}-replies"
runs = {name: vp.run(name, bench, folder / Path(name).name, generate=True) for name in names}
bench

# %% [markdown]
# ## Who listens?
#
# **Acc_GT**: picked what the voice makes true. **ALA**: picked what the words claim. Both over conflict items only,
# all of them in the denominator. The **hearing index** adds the congruent twins: it is 1 for a perfect listener, and
# 0 or less for any rule that never hears the voice.

# %%
scores = vp.score(list(runs.values()), prediction="pred_generated")
scores

# %%
ax = scores.plot()

# %%
ax = plots.acc_vs_ala(scores)

# %% [markdown]
# Beside the paper (over 2,000 items, generated replies; Table 1 for the base models, Table 2 for the trained ones):
#
# | | Acc_GT % | ALA % |
# |---|---|---|
# | Audio Flamingo 3 | 17.40 | 68.50 |
# | AF3 + SFT, no mixer | 34.80 | not reported |
# | AF3 + PCLM | 60.00 | 26.30 |
# | AF3 + PCLM + DPO | 65.20 | 22.60 |
# | Qwen2-Audio | 14.85 | 70.25 |
# | Qwen2-Audio + PCLM + DPO | 72.30 | 15.95 |
# | mean of 12 base models | 15.33 | 64.34 |
# | chance | 27.5 | |
#
# The paper prints no intervals; at 2,000 independent items a 95 % interval around 65 % is about 2 points wide to
# either side, and wider where speakers and sentences repeat. The project's page revised ALA of Audio Flamingo 3 to
# 70.50.
#
# The bundled checkpoints are a *planted* organism, trained by this package on a synthesizer's voices so that the
# order of the checkpoints is known beforehand. They show that the scores find it, and say nothing about Audio
# Flamingo 3.

# %% [markdown]
# ## The rest: third options, unparsed replies, failures
#
# Acc_GT and ALA need not add up to 1. What is left tells models apart that look alike: one that refuses to answer,
# one that answers a third option, one whose replies no parser understands. In the paper's Table 1, SALMONN has 6.10 %
# Acc_GT and 22.45 % ALA, so that 71 % of its replies are neither.

# %%
shares = []
for name, one in scores.items():
    conflict = one.outcomes[one.outcomes["condition"] == "conflict"]
    shares.append(conflict["outcome"].value_counts(normalize=True).rename(name))
shares = pd.concat(shares, axis=1).T.reindex(columns=["listened", "read", "other", "unparsed", "failed"]).fillna(0.0)
shares.style.format("{:.1%}")

# %% [markdown]
# Did replies and option probabilities agree? Where they do not, a number from one may not stand for the other.

# %%
agreement = pd.concat({name: run.agreement() for name, run in runs.items()}, names=["checkpoint"])
agreement.reset_index("checkpoint").reset_index(drop=True)

# %% [markdown]
# ## Congruent and neutral controls
#
# A model that denies the words gets *conflict* items right without hearing anything. It gives itself away on
# *congruent* items, where the words are true. `both_right` counts pairs of twins of which both are right; `inverts`
# those of which only the conflict item is. VoxParadox itself has no such twins; on it these columns stay empty.

# %%
wanted = ["acc_congruent", "acc_neutral", "both_right", "reads", "inverts", "neither", "hearing"]
long = scores.to_dataframe().query("task == 'overall' and metric in @wanted")
controls = long.pivot(index="name", columns="metric", values="estimate").reindex(index=list(scores))
controls.reindex(columns=[metric for metric in wanted if metric in controls]).style.format("{:.2f}", na_rep="–")

# %% [markdown]
# ## Task by task
#
# Outcomes of conflict items. Chance is 25 %, and 50 % for gender, which has two options.

# %%
by_task = scores.to_dataframe().query("metric == 'acc_gt' and task != 'overall'")
by_task = by_task.pivot(index="task", columns="name", values="estimate").reindex(
    index=bench.tasks, columns=list(scores)
)
by_task.style.format("{:.2f}").background_gradient(cmap="Blues", vmin=0, vmax=1, axis=None)

# %%
best = max(scores, key=lambda name: scores[name].value("acc_gt"))
scores[best]

# %% [markdown]
# The paper gives few numbers by task: Qwen2-Audio gets 12.50 % of speaker counting, and 11.50 % with the mixer; Audio
# Flamingo 3 gets 49.50 % of intonation with the mixer and 47 % after DPO. A full table by task is not known to us.
# Here, too, speaker identity and counting are not really heard: `heard` is "no" where the interval does not exclude a
# rule that is blind to the voice.

# %% [markdown]
# ## Pairs of checkpoints
#
# All answered the same clips, so differences are paired by item, and speakers and sentences are the unit of chance
# (`p`: sign flips of whole clusters). `q` is adjusted over the pairs (Benjamini and Hochberg). McNemar's test, which
# many papers report, assumes independent items and is often far too sure.

# %%
rows = []
for one, other in combinations(runs, 2):
    compared = vp.compare(runs[one], runs[other], prediction="pred_generated").overall
    rows.append(compared[compared["metric"] == "acc_gt"].assign(a_name=one, b_name=other))
pairs = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()
if len(pairs):
    pairs["q"] = benjamini_hochberg(pairs["p"].to_numpy())
    columns = ["a_name", "b_name", "a", "b", "difference", "low", "high", "p", "q", "p_mcnemar", "n", "n_groups"]
    small = {name: lambda p: "<0.001" if p < 0.001 else f"{p:.3f}" for name in ("p", "q", "p_mcnemar")}
    display(pairs[columns].style.format(small, precision=2).hide(axis="index"))

# %% [markdown]
# Any two of them, task by task, with the items on which they part:

# %%
if len(runs) > 1:
    display(explore.compare(runs))

# %% [markdown]
# ## The worst items
#
# Conflict items on which the best checkpoint prefers a claim to the truth by most, in nats of log-probability.
# Listen: does the clip say what the label says? Some items are simply hard. In the paper's human study (appendix A.3,
# 200 items) a majority of listeners found the voice's answer in 82.1 % of the items, and of the speaker-identity
# items in 50 %.

# %%
rows = runs[best].predictions.query("condition == 'conflict' and status == 'ok'")
margins = {}
for row in rows.itertuples():
    chances = dict(zip(row.choices, row.option_logprobs, strict=True))
    margins[row.id] = chances[row.truth] - max(chances[claim] for claim in row.claims)
for name in sorted(margins, key=margins.__getitem__)[:3]:
    item = bench[name]
    text = f"**{item.task_name}**, margin {margins[name]:+.1f} nats. The voice: *{item.truth}*. The words: "
    display(Markdown(text + f"“{item.transcript or 'no transcript'}”, that is *{', '.join(item.claims)}*."))
    display(Audio(item.audio.load(), rate=16_000, normalize=False))

# %% [markdown]
# All items, beside each other (filter by task, outcome or checkpoint):

# %%
explore.items(*runs.values(), benchmark=bench, prediction="pred_generated")

# %% [markdown]
# ## What this cannot show
#
# Scores say *that* a model follows the voice, not *how*. A high Acc_GT may come from hearing or from denying the
# words, which only the controls tell apart; and an interval covers chance in the choice of speakers and sentences,
# not whether a synthesizer's voices stand for people's.

# %% tags=["headline"]
{f"{name} {metric}": round(one.value(metric), 4) for name, one in scores.items() for metric in ("acc_gt", "ala")}
