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
# # Does it listen, or does it read?
#
# A calm voice says "I am furious". Asked how the speaker feels, an audio language model can answer from the **voice**
# or from the **words**. VoxParadox (Pang, Chaubey and Soleymani, ICML 2026) asks this 2,000 times, in ten tasks, with
# words that always contradict the voice. This notebook goes the whole way once: hear the items, ask a model, score
# it, look for the voice in its layers, and test what its answers were made of.
#
# It runs as it is, on a small model that comes with the package. To ask another one, change the cell below: any audio
# language model of Hugging Face, the released checkpoint `"IHP-Lab/AF3_PCLM_DPO"` with `BENCHMARK =
# "IHP-Lab/VoxParadox"`, or your own folder of clips.

# %% tags=["parameters"]
MODEL = "mini-pclm-dpo"
BENCHMARK = "mini"
RUN = "runs"
LIMIT = 300

# %%
# %matplotlib inline
from pathlib import Path

from IPython.display import Audio, Markdown, display

import vpanalysis as vp
from vpanalysis import explore, plots

# %% [markdown]
# ## What is asked
#
# Every question has a **truth**, the option that the voice makes true, and on *conflict* items **claims**, the
# options that the words assert. VoxParadox-mini, which is synthesized from seeds when it is needed, also has two
# twins of each conflict item: *congruent*, where the words are right, and *neutral*, where they say nothing about the
# question. Without them, a model that answers the opposite of the words could not be told from one that listens.

# %%
bench = vp.load_benchmark(BENCHMARK, limit=LIMIT)
bench

# %% [markdown]
# The same voice and the same question, with other words:

# %%
first = next(item for item in bench if item.condition == "conflict")
for item in [one for one in bench if one.cell == first.cell and (one.cell is not None or one is first)]:
    words = item.transcript or "(no transcript)"
    display(Markdown(f"**{item.condition}**, the voice: *{item.truth}*, the words: “{words}”"))
    display(Audio(item.audio.load(), rate=16_000, normalize=False))
print(first.question, "|", ", ".join(first.choices))

# %% [markdown]
# ## Ask it
#
# `vp.run` takes one pass an item and leaves a folder: the log-probability of every option, the states of every layer,
# the weights of the layer mixer, and a manifest that says what they were made of. Everything below reads that folder.
# A second call finds it finished.

# %%
folder = Path(RUN) / f"{Path(BENCHMARK).stem}-{LIMIT or 'all'}"
run = vp.run(MODEL, bench, folder / Path(MODEL).name)
print(f"{run.n_items} items, {len(run.sites)} places: {', '.join(run.sites)}")

# %% [markdown]
# Every item of the Run, to hear and to question (the controls are alive while a kernel runs; what you see in a saved
# page is the last state):

# %%
explore.items(run, benchmark=bench)

# %% [markdown]
# ## Score it
#
# **Acc_GT** is the share of conflict items on which the model picked the truth, **ALA** the share on which it picked
# what the words claim; the rest are a third option, unparsed replies and failures, which stay in the denominator. The
# **hearing index** is 1 for a perfect listener and 0 or less for whoever reads, guesses or inverts.

# %%
score = vp.score(run)
score

# %%
ax = score.plot()

# %% [markdown]
# For comparison, the paper's numbers over 2,000 items (Tables 1 and 2): **Audio Flamingo 3** picks the truth in 17.40
# % and the claim in 68.50 % of the items; with the mixer and preference training (AF3 + PCLM + DPO) in **65.20 %**
# and **22.60 %**. Always guessing would give 27.5 %.
#
# The bundled model stands on another ground: it is a *planted* organism. It was trained from scratch by this package,
# on a synthesizer's voices, so that the middle layers of its encoder keep the voice and the last one forgets it. That
# makes it good for testing tools whose answer is known, and no evidence about Audio Flamingo 3 or any other model.
# Its scores come from option probabilities; only generated replies (`vp.run(..., generate=True)`) may stand beside
# published ones.

# %% [markdown]
# ## What could it have heard?
#
# A **probe** is a linear classifier on the states of one place in the model, tested on speakers or sentences that it
# has never met. Trained for the voice and for the words, it says where either *could be read*. It does not say that
# the model uses it. With so few items a task the intervals are wide; `02_probe_layers` does this with more of them.

# %%
TASK = "emotion_recognition" if "emotion_recognition" in bench.tasks else bench.tasks[0]
sites = [site for site in run.sites if site.startswith("encoder") or site in ("tower", "mixed", "projector")]
both = vp.probe_layers(run, "both", tasks=TASK, sites=sites, estimator="ridge")
ax = plots.layer_curves(both.of("truth"), TASK, claim_result=both.of("claim"))

# %% [markdown]
# ## What was it made of?
#
# To know what is *used*, something has to be changed. `vp.listen_vs_read` asks every conflict item four times: as it
# is, the voice alone, the words alone, and neither. The quantity is the *margin* in nats, by how much the model
# prefers the truth to the claim. "Alone" is an estimate, so two ways of getting it stand side by side, each for the
# tasks that it suits: *twins*, spoken again with other words or a plain voice, and *delexicalised* clips, in which
# speech became noise with its melody.

# %%
listened = vp.listen_vs_read(MODEL, bench, families=("twins", "delexicalised"))
listened

# %%
ax = listened.plot()

# %% [markdown]
# ## Which layers did the question choose?
#
# The Prompt-Conditioned Layer Mixer reads the question and decides how much of each encoder layer the language model
# hears. Its weights are in the Run:

# %%
if run.gates is not None:
    ax = plots.gate_weights(run)

# %% [markdown]
# ## In short

# %% tags=["headline"]
found = dict(zip(score.overall["metric"], score.overall["estimate"], strict=True))
{
    **{name: round(found[name], 4) for name in ("acc_gt", "ala", "hearing") if name in found},
    "listen_nats": round(float(listened.table.query("task == 'all'")["listen"].dropna().iloc[0]), 3),
}

# %% [markdown]
# Next: `01_voxparadox_eval` compares checkpoints, `02_probe_layers` follows the voice through the layers,
# `03_listen_or_read` intervenes, `04_gates` sets the mixer, `05_paper_figures` draws the paper's pictures, and
# `06_your_model_your_data` asks your model about your clips.
