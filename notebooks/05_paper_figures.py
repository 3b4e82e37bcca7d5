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
# `vp.build_figure(id, runs)` draws a figure or table of the gallery from Runs, and from what analyses kept in them,
# beside the numbers that the paper prints. Every picture is drawn from a tidy table and from nothing else
# (`vp.figure_data(id, runs)`). What a Run lacks is not drawn: the error names the command that records it. All of them
# at once, as files for a paper: `vpanalysis figures RUN ... --out figures`.
#
# The Runs below are of the bundled checkpoints, a *planted* organism: trained by this package on a synthesizer's
# voices, to be of known kinds. The pictures show what such a picture looks like, not what it would look like for
# another model. Published numbers (hollow or hatched) stand beside, never in one series with ours.

# %% tags=["parameters"]
MODEL = ["mini-base", "mini-static", "mini-pclm", "mini-pclm-dpo"]
BENCHMARK = "mini"
RUN = "runs"
LIMIT = 300

# %%
# %matplotlib inline
from pathlib import Path

from IPython.display import Markdown, display

import vpanalysis as vp
from vpanalysis.figures import LackingError, Sources, published

names = [MODEL] if isinstance(MODEL, str) else list(MODEL)
bench = vp.load_benchmark(BENCHMARK, limit=LIMIT)
folder = Path(RUN) / f"{Path(BENCHMARK).stem}-{LIMIT or 'all'}"
runs = {name: vp.run(name, bench, folder / Path(name).name) for name in names}
first, last = names[0], names[-1]


def show(name, sources):
    """Draw a figure with its title and caption; or say what is missing, and which command records it."""
    about = vp.list_figures().set_index("id").loc[name]
    display(Markdown(f"**{about.title}** (beside: {about.paper}). {about.caption}"))
    try:
        display(vp.build_figure(name, sources, style="web"))
    except LackingError as error:
        print(error)


# %% [markdown]
# What can be drawn:

# %%
vp.list_figures()[["id", "kind", "title", "paper"]].style.hide(axis="index")

# %% [markdown]
# ## Tables 1 and 2: who listens?
#
# Paper: twelve base models average 15.33 % Acc_GT and 64.34 % ALA, Audio Flamingo 3 has 17.40 and 68.50 %; with PCLM
# 60.00 and 26.30 %, with PCLM + DPO 65.20 and 22.60 %. Printed numbers are data here, with their source and a mark
# where sources disagree:

# %%
published("ladder").head(8)

# %%
sources = Sources.of(list(runs.values()))
show("leaderboard", sources)

# %%
show("ladder", sources)

# %%
show("hearing", sources)

# %%
show("ours_and_theirs", sources)

# %% [markdown]
# ## What has to be recorded first
#
# The pictures below rest on more than scores: answers to clips played backwards, probes, a listen-versus-read
# experiment, fused layers. Each is one call, kept in the Run that it explains. `vpanalysis reproduce --full` does all
# of it for the bundled checkpoints.

# %%
backwards = bench.select(conditions="conflict").with_audio("reversed")
turned = [vp.run(name, backwards, f"{folder / Path(name).name}-reversed", sites=["options"]) for name in (first, last)]

for target in ("truth", "claim"):
    vp.probe_layers(runs[first], target, estimator="ridge", shuffles=0).save()

vp.probe_controls(runs[first], which=["gap"]).save()
vp.listen_vs_read(last, bench, families="reversed").save(runs[last])
vp.fuse_layers(first, bench).save(runs[first])
sources = Sources.of([*runs.values(), *turned])

# %% [markdown]
# ## Words against backwards audio
#
# Paper: with clips played backwards, so that the words are gone, Acc_GT rises and ALA falls (its numbers are not in
# the text that we could read). Playing backwards turns a rising intonation into a falling one; here the truth is
# mapped, and items whose truth is lost are left out. How the paper maps it is not known.

# %%
show("reversed_speech", sources)

# %% [markdown]
# ## Layer-wise probing (section 4.2)
#
# Paper: curves over encoder, boundary and language model, one panel a task, with the model's own accuracy as a line;
# their distance is the "utilization gap". Folds here keep speakers or sentences apart.

# %%
show("probing", sources)

# %%
show("depth_profile", sources)

# %% [markdown]
# ## Static fusion without training (Table 7)
#
# Paper: Audio Flamingo 3 17.40 %; with the tokens of layers 5 and 15 appended 19.75 %; with attention to layer 5's
# tokens raised tenfold 20.80 %. Beside it stands what the paper does not report: the same with the tokens of *another
# clip*. If that helps as much, it was not the voice that helped.

# %%
show("static_fusion", sources)

# %% [markdown]
# ## What the paper lacks
#
# The mixer's weights by task, whether they are worth anything over fixed ones, and what voice and words each add.

# %%
show("gate_heatmap", sources)

# %%
show("static_mixer", sources)

# %%
show("factorial", sources)

# %% [markdown]
# ## A refusal
#
# These Runs hold no patching, so nothing is drawn in its place:

# %%
show("patching_map", sources)

# %% tags=["headline"]
shown = vp.figure_data("ladder", sources).query("origin == 'measured'")
{f"{row.name} {row.metric}": round(row.value, 2) for row in shown.sort_values("name").itertuples(index=False)}
