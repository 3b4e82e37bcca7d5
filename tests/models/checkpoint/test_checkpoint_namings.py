"""The same tiny model under many names: it loads to equal logits, whatever its authors called things."""

from __future__ import annotations

import dataclasses
import string

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from releases import NAMINGS, Release, rounded, write_release
from transformers import Qwen2Config

from vpanalysis.benchmark.prompts import DEFAULT_PROMPT
from vpanalysis.models.checkpoint.assignment import resolve
from vpanalysis.models.loading import load_model

# What the shapes cannot show and this model was not built with by default.
PCLM = {"bert_pooling": "mean", "prompt_encoder_config": {"num_attention_heads": 2}}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@pytest.fixture(scope="module")
def wide(tiny):
    """The tiny model with a text width that differs from the encoder's, as in the real ones."""
    return dataclasses.replace(tiny, text=Qwen2Config(**{**tiny.text.to_dict(), "hidden_size": 48}))


def logits_of(llm, items, waves):
    return llm.forward(llm.prepare(items, waves, DEFAULT_PROMPT))


def same(one, two):
    a, b = one.state_dict(), two.state_dict()
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("naming", "dtype"), [(name, list(DTYPES)[i % 3]) for i, name in enumerate(NAMINGS)])
def test_plausible_namings_load_to_equal_logits(tiny, items, waves, tmp_path, naming, dtype):
    model = tiny.pclm()
    write_release(model, tiny.processor, tmp_path, NAMINGS[naming], dtype=DTYPES[dtype])
    llm = load_model(tmp_path, pclm=PCLM)
    assert llm.dtype == torch.float32
    expected = logits_of(tiny.llm(rounded(model, DTYPES[dtype])), items, waves)
    assert torch.equal(logits_of(llm, items, waves), expected)


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("naming", ["prefixes of the original code", "everything in one folder"])
def test_shards_load_to_equal_logits(tiny, items, waves, tmp_path, naming, index):
    model = tiny.pclm()
    write_release(model, tiny.processor, tmp_path, NAMINGS[naming], shards=3, index=index)
    assert len(list(tmp_path.rglob("*-of-00003.safetensors"))) in (3, 18)
    expected = logits_of(tiny.llm(model), items, waves)
    assert torch.equal(logits_of(load_model(tmp_path, pclm=PCLM), items, waves), expected)


def test_files_of_any_name_are_read(tiny, tmp_path):
    model = tiny.pclm()
    write_release(model, tiny.processor, tmp_path, NAMINGS["as the card names the parts"], shards=2, index=False)
    for i, file in enumerate(sorted(tmp_path.rglob("*.safetensors"))):
        file.rename(file.with_name(f"{'qkwzx'[i % 5] * 4}.safetensors"))
    assert same(load_model(tmp_path, pclm=PCLM, check=False).model, model)


@pytest.mark.parametrize("prefix", ["", "model.", "sound_tower.sound_tower.", "module.model."])
@pytest.mark.parametrize("naming", ["as the card names the parts", "everything in one folder"])
def test_the_encoder_and_the_language_model_behind_prefixes(tiny, tmp_path, naming, prefix):
    model = tiny.pclm()
    release = dataclasses.replace(NAMINGS[naming], tower=prefix or "tower.", llm=prefix and f"llm.{prefix}")
    write_release(model, tiny.processor, tmp_path, release)
    assert same(load_model(tmp_path, pclm=PCLM, check=False).model, model)


@pytest.mark.parametrize("dims", [[], [8], [16], [16, 8], [12, 24, 6]])
def test_the_gate_has_any_depth_that_its_shapes_tell(wide, tmp_path, dims):
    model = wide.pclm(gate_mlp_dims=dims)
    names = ("zeta", "alpha", "mu", "beta")[: len(dims) + 1]
    write_release(model, wide.processor, tmp_path, Release(layers=names))
    found = resolve(tmp_path, overrides=PCLM)
    assert not found.problems and found.config.gate_mlp_dims == dims
    assert same(load_model(tmp_path, pclm=PCLM, check=False).model, model)


def test_a_pooler_is_kept_and_offered(tiny, tmp_path):
    model = tiny.pclm(prompt_encoder_pooler=True)
    write_release(model, tiny.processor, tmp_path, Release(bert="text.bert."))
    found = resolve(tmp_path, overrides={"prompt_encoder_config": {"num_attention_heads": 2}})
    assert found.config.prompt_encoder_pooler
    asked = {a.subject: a for a in found.assumptions}
    assert asked["bert_pooling"].candidates == ("cls", "mean", "pooler") and asked["bert_pooling"].value == "cls"
    assert same(load_model(tmp_path, pclm=PCLM, check=False).model, model)


def test_without_a_pooler_it_is_not_offered(tiny, tmp_path):
    write_release(tiny.pclm(), tiny.processor, tmp_path, Release())
    asked = {a.subject: a for a in resolve(tmp_path).assumptions}
    assert asked["bert_pooling"].candidates == ("cls", "mean")


def test_the_stock_model_under_other_names(tiny, items, waves, tmp_path):
    model = tiny.stock()
    release = dataclasses.replace(NAMINGS["prefixes of the original code"], linears=("up", "down"))
    write_release(model, tiny.processor, tmp_path / "unordered", release)
    assert "cannot be told by shape" in resolve(tmp_path / "unordered").problems[0]
    write_release(model, tiny.processor, tmp_path / "ordered", NAMINGS["prefixes of the original code"])
    llm = load_model(tmp_path / "ordered")
    assert llm.streams is None
    assert torch.equal(logits_of(llm, items, waves), logits_of(tiny.llm(model), items, waves))


def test_a_tied_head_is_the_token_embedding(tiny, tmp_path):
    tied = dataclasses.replace(tiny, text=Qwen2Config(**{**tiny.text.to_dict(), "tie_word_embeddings": True}))
    model = tied.pclm()
    model.lm_head.weight = model.model.language_model.embed_tokens.weight
    write_release(model, tied.processor, tmp_path, Release())
    from safetensors.torch import load_file, save_file

    file = tmp_path / "llm" / "model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if k != "lm_head.weight"}, file)
    assert same(load_model(tmp_path, pclm=PCLM, check=False).model, model)


WORD = st.text(string.ascii_lowercase, min_size=3, max_size=9).filter(lambda w: "pool" not in w)


@st.composite
def drawn(draw):
    """A release whose author's names are drawn: what HF's own classes and the model card name is all that is fixed."""
    words = iter(draw(st.lists(WORD, min_size=20, max_size=20, unique=True)))
    prefixes = st.sampled_from(["", "module.", "model."])

    def path():
        return draw(prefixes) + "".join(f"{next(words)}." for _ in range(draw(st.integers(1, 2))))

    one_folder = draw(st.booleans())
    together = one_folder or draw(st.booleans())
    mids, separator = path(), draw(st.sampled_from([".", "_", ""]))
    start = draw(st.sampled_from([None, 0, 1])) if together else None
    # By the layer's number, or only counted.
    numbered = (lambda k, i: k) if start is None else (lambda k, i: start + i)
    inside = draw(st.sampled_from(["", f"{next(words)}."]))

    def folders(part):
        if one_folder:
            return ""
        return "sound_pclm" if together and part.startswith("sound_mid") else part

    return Release(
        folders=folders,
        llm=path(),
        tower=path(),
        final=path(),
        projector=(lambda k, i: f"{mids}p{separator}{numbered(k, i)}.{inside}") if together else (lambda k, i: inside),
        linears=(next(words), next(words)),
        bert=path(),
        mlp=path(),
        layers=(next(words), next(words), next(words)),
        old_norms=draw(st.booleans()),
        buffers=draw(st.booleans()),
        file=next(words),
    )


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn(), st.sampled_from([1, 2]), st.sampled_from(["float16", "bfloat16"]), st.booleans(), st.integers(0, 10**6))
def test_names_drawn_at_random_load_to_equal_logits(
    wide, items, waves, tmp_path_factory, release, shards, dtype, pooler, seed
):
    model = wide.pclm(seed=seed, gate_mlp_dims=[12, 8], prompt_encoder_pooler=pooler)
    folder = tmp_path_factory.mktemp("release")
    write_release(model, wide.processor, folder, release, shards=shards, dtype=DTYPES[dtype], index=seed % 2 == 0)
    llm = load_model(folder, pclm=PCLM, check=False)
    assert same(llm.model, rounded(model, DTYPES[dtype]))
    assert torch.equal(
        logits_of(llm, items[:2], waves[:2]), logits_of(wide.llm(model, check=False), items[:2], waves[:2])
    )
