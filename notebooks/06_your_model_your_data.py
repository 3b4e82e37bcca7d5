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
# # Your model, your data
#
# Everything in the other notebooks works on any audio language model of Hugging Face that has a known family, and on
# any multiple-choice questions about clips. This notebook shows the forms that data and models may take, on an
# example that it writes itself. Put your own into the parameters cell to skip the example.

# %% tags=["parameters"]
MODEL = "mini"
BENCHMARK = None
RUN = "runs"
LIMIT = 60

# %%
# %matplotlib inline
import json
from pathlib import Path

import pandas as pd

import vpanalysis as vp
from vpanalysis import explore
from vpanalysis.benchmark.export import export_benchmark

# %% [markdown]
# ## Questions as JSON
#
# The form of the released data set: a list of records, in JSON, JSON lines, CSV or parquet. `choice_a` to `choice_d`,
# the right one in `answer_gt` as text, and for conflict items what the words claim in `adversarial_labels`, one or
# several. Everything else is optional. `speaker` and `script` are worth having: intervals and folds keep together
# what they name.

# %%
example = Path(RUN) / "example"
export_benchmark(vp.load_benchmark("mini", limit=60), example, progress=False)
record = json.loads((example / "voxparadox.json").read_text(encoding="utf-8"))[0]
print(json.dumps(record, indent=1))

# %%
bench = vp.load_benchmark(BENCHMARK or example, limit=LIMIT)
bench

# %% [markdown]
# A mistake in a table is one message that names the row, the field, what was found and what is allowed:

# %%
broken = example / "broken.json"
broken.write_text(json.dumps([{**record, "answer_gt": "Midle-aged adult"}]), encoding="utf-8")
try:
    vp.load_benchmark(broken)
except vp.VPError as error:
    print(error)
broken.unlink()

# %% [markdown]
# ## Clips with labels
#
# No questions yet? A table `path,label` (`my_clips.csv`), or a folder with one subfolder of clips a label, becomes a
# question with the sorted labels as options. Nothing is known about the words of such clips, so the items count as
# *neutral*: they have an accuracy, and no Acc_GT or ALA.

# %%
voices = [item for item in vp.load_benchmark(example) if item.task_name == "gender_prediction"]
paths = {r["id"]: r["audio_path"] for r in json.loads((example / "voxparadox.json").read_text(encoding="utf-8"))}
table = pd.DataFrame({"path": [paths[v.id] for v in voices], "label": [v.truth for v in voices]})
table["question"], table["speaker"] = "What is the speaker's gender?", [v.speaker for v in voices]
table.to_csv(example / "my_clips.csv", index=False)
labelled = vp.load_benchmark(example / "my_clips.csv")
labelled

# %% [markdown]
# ## A model
#
# `load_model` takes the name of a bundled checkpoint, a folder, a Hub id such as `"Qwen/Qwen2-Audio-7B-Instruct"`, or
# a pair `(model, processor)` that is loaded already. The last is how a model of your own comes in, fine-tuned or
# quantised as you like: nothing is re-implemented, plain hooks watch the native modules.

# %%
source = vp.load_model(MODEL)
llm = vp.load_model((source.model, source.processor), name="mine")
print(f"{llm.name}: {llm.family.title}, {len(llm.sites)} sites, {llm.dtype} on {llm.device}")
print(", ".join(llm.sites))

# %% [markdown]
# A model of a kind that is not listed needs a row of data that says where its parts live; see `vp.register_family`. A
# name that nobody knows is one sentence as well:

# %%
try:
    vp.load_model("no-such-checkpoint")
except vp.VPError as error:
    print(error)

# %% [markdown]
# ## Ask, and score
#
# The same three lines as ever. Without congruent twins there is no hearing index: on your own data a model that
# denies the words cannot be told from one that listens, unless you record such twins as well (`condition` and `cell`
# say which items belong together).

# %%
folder = Path(RUN) / f"{Path(BENCHMARK).stem if BENCHMARK else 'example'}-{LIMIT or 'all'}"
run = vp.run(llm, bench, folder / Path(MODEL).name)
score = vp.score(run)
score

# %%
explore.items(run, benchmark=bench)

# %%
own = vp.run(llm, labelled, folder / f"{Path(MODEL).name}-labelled")
vp.score(own)

# %% [markdown]
# ## Replies of any other program
#
# What a model behind an API or another repository answered can be scored without loading anything: a file with `id`
# and `reply`. Replies are parsed like the paper's: a letter, or the text of an option. The ones below were made up by
# always picking what the words say.

# %%
replies = [
    {"id": item.id, "reply": f"({item.letter_of((item.said or item.choices)[0])}): {(item.said or item.choices)[0]}."}
    for item in bench
    if not item.said or item.said[0] in item.choices
]
(example / "replies.json").write_text(json.dumps(replies), encoding="utf-8")
parrot = vp.score_predictions(example / "replies.json", bench)
parrot

# %% [markdown]
# ## Beside the paper
#
# Over 2,000 items, generated replies: Audio Flamingo 3 picks the truth in 17.40 % and the claim in 68.50 %,
# Qwen2-Audio in 14.85 and 70.25 %, GPT-4o Audio in 8.60 and 81.55 % (Table 1). A rule that always repeats the words
# would reach 0 and 100 %, guessing 27.5 %. On `LIMIT` items an interval is wide; report it.
#
# The example above is *planted*: `mini` was trained by this package on the same synthesizer, so its score says that
# the pipeline works, not how hard the questions are. What a score on your data means depends on your clips: whether
# the label is audible at all (ask people), whether the words really contradict it (listen), and whether speakers
# repeat.

# %% tags=["headline"]
parts = {"": score, "labelled ": vp.score(own), "parrot ": parrot}
{
    f"{name}{row.metric}": round(float(row.estimate), 4)
    for name, one in parts.items()
    for row in one.overall.itertuples()
    if row.metric in ("acc_gt", "ala", "acc_neutral")
}
