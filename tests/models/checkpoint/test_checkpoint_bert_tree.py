"""A BERT under names of its own: told by its tree where that leaves one reading, refused where it does not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from releases import Release, write_release
from safetensors.torch import load_file, save_file

from vpanalysis.errors import ModelError
from vpanalysis.models.checkpoint.assignment import resolve
from vpanalysis.models.loading import load_model

PCLM = {"bert_pooling": "mean", "prompt_encoder_config": {"num_attention_heads": 2}}
INNER = {
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    "attention.output.dense": "o",
    "attention.output.LayerNorm": "an",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "fn",
}
TREE = {
    "query": "blocks.{}.mixing.to_q", "key": "blocks.{}.mixing.to_k", "value": "blocks.{}.mixing.to_v",
}  # fmt: skip

# What each module of a block is called, and the three tables with their norm.
STYLES = {
    "branches": (
        {"q": "att.query_proj", "k": "att.key_proj", "v": "att.value_proj", "o": "att.merge", "an": "att.norm",
         "up": "ff.one", "down": "ff.two", "fn": "ff.norm"},
        {"word": "emb.tokens", "position": "emb.pos", "token_type": "emb.segment", "norm": "emb.norm"},
    ),
    "flat": (
        {"q": "wq", "k": "wk", "v": "wv", "o": "wo", "an": "attn_ln", "up": "w1", "down": "w2", "fn": "out_ln"},
        {"word": "tok_emb", "position": "pos_emb", "token_type": "type_emb", "norm": "emb_ln"},
    ),
    "letters": (
        {"q": "sa.Q", "k": "sa.K", "v": "sa.V", "o": "sa.out_lin", "an": "sa_layer_norm", "up": "ffn.lin1",
         "down": "ffn.lin2", "fn": "output_layer_norm"},
        {"word": "word_embeddings", "position": "position_embeddings", "token_type": "type", "norm": "LayerNorm"},
    ),
}  # fmt: skip


def restyled(folder, style, prefix="text_model.", pooler="text_model.pool.dense"):
    """Rename the prompt encoder of a release, whose own names begin with ``prompt_encoder.``."""
    blocks, tables = STYLES[style] if isinstance(style, str) else style
    file = folder / "sound_pclm" / "model.safetensors"

    def renamed(name):
        if not name.startswith("prompt_encoder."):
            return name
        name = name.removeprefix("prompt_encoder.")
        module, leaf = name.rsplit(".", 1)
        if module == "pooler.dense":
            return f"{pooler}.{leaf}"
        if module == "embeddings.LayerNorm":
            return f"{prefix}{tables['norm']}.{leaf}"
        if module.startswith("embeddings."):
            return f"{prefix}{tables[module.removeprefix('embeddings.').removesuffix('_embeddings')]}.{leaf}"
        _, _, number, inner = module.split(".", 3)
        return f"{prefix}blocks.{number}.{blocks[INNER[inner]]}.{leaf}"

    save_file({renamed(name): tensor for name, tensor in load_file(file).items()}, file)


def same(one, two):
    a, b = one.state_dict(), two.state_dict()
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("pooler", [False, True])
@pytest.mark.parametrize("style", list(STYLES))
def test_trees_that_leave_one_reading(tiny, tmp_path, style, pooler):
    model = tiny.pclm(prompt_encoder_pooler=pooler)
    folder = write_release(model, tiny.processor, tmp_path, Release())
    restyled(folder, style)
    found = resolve(folder, overrides=PCLM)
    assert not found.problems and found.config.prompt_encoder_pooler is pooler
    assert any("blocks at sound_pclm/text_model.blocks." in finding.value for finding in found.findings)
    assert same(load_model(folder, pclm=PCLM, check=False).model, model)


def test_a_pooler_beside_the_blocks_needs_no_name(tiny, tmp_path):
    model = tiny.pclm(prompt_encoder_pooler=True)
    folder = write_release(model, tiny.processor, tmp_path, Release())
    restyled(folder, "flat", pooler="text_model.final")
    assert resolve(folder, overrides=PCLM).config.prompt_encoder_pooler
    assert same(load_model(folder, pclm=PCLM, check=False).model, model)


WORD = st.text("abcdefghijlmnoprstuwxyz", min_size=4, max_size=8)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(WORD, min_size=12, max_size=12, unique=True), st.sampled_from(["q{}", "{}_q", "query{}", "{}.Q", "w{}.wq"])
)
def test_words_drawn_at_random_around_q_k_and_v(tiny, tmp_path_factory, words, pattern):
    model = tiny.pclm()
    folder = write_release(model, tiny.processor, tmp_path_factory.mktemp("tree"), Release())
    a, f, o, up, down, norm, tables, root, _, _, _, _ = words
    spelt = {}
    for letter, long in (("q", "query"), ("k", "key"), ("v", "value")):
        spelt[letter] = {"q{}": letter, "{}_q": f"{words[8]}_{letter}", "query{}": f"{long}_{words[8]}",
                         "{}.Q": f"{words[8]}.{letter.upper()}", "w{}.wq": f"w{letter}"}[pattern]  # fmt: skip
    blocks = {letter: f"{a}.{name}" for letter, name in spelt.items()}
    blocks |= {"o": f"{a}.{o}", "an": f"{a}.{norm}", "up": f"{f}.{up}", "down": f"{f}.{down}", "fn": f"{f}.{norm}"}
    table = {"word": f"{tables}.words", "position": f"{tables}.positions", "token_type": f"{tables}.types",
             "norm": f"{tables}.{norm}"}  # fmt: skip
    restyled(folder, (blocks, table), prefix=f"{root}.")
    # Tables without a word that says so: the largest has words in this model, but not the smallest types.
    found = resolve(folder, overrides=PCLM)
    assert not found.problems
    state = found.state()
    expected = model.state_dict()
    assert set(state) == set(expected)
    assert all(torch.equal(state[name][...], expected[name]) for name in expected)


def test_tables_without_a_name_go_by_size_which_is_an_assumption(tiny, tmp_path):
    bert = {**tiny.config().prompt_encoder_config.to_dict(), "max_position_embeddings": 20}
    model = tiny.pclm(prompt_encoder_config=bert)
    folder = write_release(model, tiny.processor, tmp_path, Release())
    blocks, _ = STYLES["flat"]
    restyled(folder, (blocks, {"word": "e.a", "position": "e.b", "token_type": "e.c", "norm": "e.n"}))
    found = resolve(folder, overrides=PCLM)
    assert {a.subject for a in found.assumptions} >= {"embeddings of the prompt encoder"}
    assert same(load_model(folder, pclm=PCLM, check=False).model, model)


REFUSED = {
    "no letters": ({"q": "one", "k": "two", "v": "three"}, {}, "which of .* is the query"),
    "two norms alike": ({"an": "norm1", "fn": "norm2"}, {}, "which of .* is the norm of the attention"),
    "twice q": ({"k": "q_two"}, {}, "which of .* is the query"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_trees_that_leave_several_readings_are_refused(tiny, tmp_path, case):
    block, table, said = REFUSED[case]
    folder = write_release(tiny.pclm(), tiny.processor, tmp_path, Release())
    blocks, tables = STYLES["flat"]
    restyled(folder, ({**blocks, **block}, {**tables, **table}))
    with pytest.raises(ModelError, match=f"leaves open .*{said}.*'rename'"):
        load_model(folder)


def test_a_refused_tree_can_be_renamed(tiny, tmp_path):
    model = tiny.pclm()
    folder = write_release(model, tiny.processor, tmp_path, Release())
    blocks, tables = STYLES["flat"]
    restyled(folder, ({**blocks, "an": "norm1", "fn": "norm2"}, tables))
    rename = {}
    for i in range(2):
        rename[f"sound_pclm/text_model.blocks.{i}.norm1."] = f"text_model.blocks.{i}.attention_norm."
    assert same(load_model(folder, pclm=PCLM, rename=rename, check=False).model, model)


@pytest.mark.parametrize(
    "drop", ["text_model.type_emb.weight", "text_model.blocks.1.wq.bias", "text_model.emb_ln.bias"]
)
def test_a_tree_that_is_not_whole(tiny, tmp_path, drop):
    folder = write_release(tiny.pclm(), tiny.processor, tmp_path, Release())
    restyled(folder, "flat")
    file = folder / "sound_pclm" / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if k != drop}, file)
    with pytest.raises(ModelError) as caught:
        load_model(folder)
    said = {
        "type": "three tables of width 16 and one norm are needed",
        "blocks": "are not alike: number 1 has 15 tensors",
        "emb_ln": "0 norms",
    }
    import re

    assert re.search(next(text for word, text in said.items() if word in drop), str(caught.value))
