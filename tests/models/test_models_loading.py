from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from vpanalysis.errors import ModelError
from vpanalysis.models import loading
from vpanalysis.models.loading import load_model
from vpanalysis.models.split import write_split


def test_a_loaded_pair_is_taken_as_it_is(tiny):
    model = tiny.pclm()
    llm = load_model((model, tiny.processor), name="mine")
    assert llm.model is model and llm.processor is tiny.processor and llm.name == "mine"


def test_bundled_names(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "weights_folder", lambda name: tmp_path / name)
    for name in ("mini-pclm-dpo", "mini-base"):
        write_split(tiny.stock() if name == "mini-base" else tiny.pclm(), tiny.processor, tmp_path / name)
    assert load_model("mini").name == "mini-pclm-dpo"
    assert load_model("mini").streams is not None
    assert load_model("mini-base").streams is None
    with pytest.raises(ModelError, match="did you mean 'mini-inverter'"):
        load_model("mini-inverted")
    with pytest.raises(ModelError, match=r"python -m vpanalysis\.organism"):
        load_model("mini-sft")


@pytest.mark.parametrize("source", ["no/such/folder/at/all", "./nothing", "/nowhere/else"])
def test_folders_that_do_not_exist(source):
    with pytest.raises(ModelError, match="no such folder"):
        load_model(source)


def test_folders_without_a_model(tmp_path):
    with pytest.raises(ModelError, match=r"without config\.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match="no safetensors file and no folder 'llm'"):
        load_model(tmp_path)


def test_families_that_are_not_in_the_table(tmp_path):
    from transformers import BertConfig, BertModel

    BertModel(
        BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"model_type 'bert'.*register_family"):
        load_model(tmp_path)


def test_hub_errors_are_one_sentence(monkeypatch):
    import huggingface_hub

    def offline(*_args, **_kwargs):
        raise OSError("We couldn't connect to the Hub\nand a second line")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(ModelError) as caught:
        load_model("nobody/nothing")
    assert "couldn't connect" in str(caught.value) and "\n" not in str(caught.value)


def test_hub_split_repositories_are_fetched_whole(tiny, tmp_path, monkeypatch):
    import huggingface_hub

    write_split(tiny.pclm(), tiny.processor, tmp_path)
    asked = {}

    def snapshot(repo, revision=None, allow_patterns=None):
        asked.update(repo=repo, revision=revision, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_a, **_k: "there")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    llm = load_model("IHP-Lab/AF3_PCLM_DPO", revision="37b7e1f")
    assert asked["repo"] == "IHP-Lab/AF3_PCLM_DPO" and asked["revision"] == "37b7e1f"
    assert not any(pattern.endswith((".py", ".bin", ".pt")) for pattern in asked["patterns"])
    assert llm.name == "AF3_PCLM_DPO"


def test_dtypes(tiny, tmp_path):
    write_split(tiny.stock(), tiny.processor, tmp_path)
    assert load_model(tmp_path).dtype == torch.float32
    assert load_model(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert load_model(tmp_path, dtype="torch.float16", check=False).dtype == torch.float16
    with pytest.raises(ModelError, match="did you mean 'bfloat16'"):
        load_model(tmp_path, dtype="bflot16")


def test_a_table_of_positions_that_was_kept_in_float32_gets_the_type_of_the_rest(tiny):
    model = tiny.stock().to(torch.bfloat16)
    table = model.model.audio_tower.embed_positions.float()
    with pytest.raises(RuntimeError, match="type"):
        load_model((model, tiny.processor))
    loading._in_one_type(model)
    assert table.weight.dtype == torch.bfloat16 and not table.weight.requires_grad
    assert load_model((model, tiny.processor)).dtype == torch.bfloat16


def test_attention_implementation_reaches_every_part(tiny, tmp_path):
    write_split(tiny.pclm(), tiny.processor, tmp_path)
    llm = load_model(tmp_path, attn_implementation="eager")
    assert llm.model.model.language_model.config._attn_implementation == "eager"
    assert llm.model.model.audio_tower.config._attn_implementation == "eager"


def test_mixer_fields_of_a_model_without_mixer(tiny, tmp_path):
    write_split(tiny.stock(), tiny.processor, tmp_path / "split")
    tiny.stock().save_pretrained(tmp_path / "hf")
    tiny.processor.save_pretrained(tmp_path / "hf")
    for folder in ("split", "hf"):
        with pytest.raises(ModelError, match="without a layer mixer"):
            load_model(tmp_path / folder, pclm={"mid_pool": "avg"})


def test_hugging_face_folders_take_mixer_fields(tiny, tmp_path):
    tiny.pclm().save_pretrained(tmp_path)
    tiny.processor.save_pretrained(tmp_path)
    assert load_model(tmp_path, pclm={"mid_pool": "avg"}).model.config.mid_pool == "avg"
    with pytest.raises(ModelError, match="'avg_norm'"):
        load_model(tmp_path, pclm={"mid_pool": "max"})


def test_incomplete_hugging_face_folder_is_refused(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    tiny.pclm().save_pretrained(tmp_path)
    tiny.processor.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("lm_head.weight")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"missing tensors of the head: lm_head\.weight"):
        load_model(tmp_path)


def test_importing_the_package_loads_no_torch():
    code = "import sys, vpanalysis.models; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_released_prompt_encoder_without_tokenizer_is_given_that_of_its_vocabulary(tiny, tmp_path, monkeypatch):
    from vpanalysis.models import loading

    bert = {**tiny.config().prompt_encoder_config.to_dict(), "vocab_size": 40}
    model = tiny.pclm(prompt_encoder_config=bert)
    write_split(model, tiny.processor, tmp_path / "released")
    words = len(tiny.processor.tokenizer)
    assert words > 40
    monkeypatch.setattr(loading, "BERT_VOCABULARY", 40)
    own = loading._tokenizer
    asked = []

    class Small:
        """Stands for the published tokenizer."""

        def __len__(self):
            return 40

    def fetch(source):
        if source == loading.BERT_TOKENIZER:
            asked.append(source)
            return Small()
        return own(source)

    monkeypatch.setattr(loading, "_tokenizer", fetch)
    with pytest.warns(UserWarning, match=r"not in the checkpoint; took that of google/bert_uncased_L-4_H-512_A-8"):
        llm = loading.load_model(tmp_path / "released", check=False)
    assert asked and isinstance(llm.gate_tokenizer, Small)

    def offline(source):
        if source == loading.BERT_TOKENIZER:
            raise OSError("offline")
        return own(source)

    monkeypatch.setattr(loading, "_tokenizer", offline)
    with pytest.raises(ModelError, match=r"gate_tokenizer, such as 'google/bert_uncased"):
        loading.load_model(tmp_path / "released", check=False)
