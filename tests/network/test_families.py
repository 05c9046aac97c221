import pytest
import torch
import transformers

from spacy_early_exit.encoders.hugging_face import HFEncoder
from spacy_early_exit.network.families import FAMILIES, read_spec, read_weights
from tests.makers.encoders import in_transformers, skip_without


def test_an_unsupported_family_is_refused_with_a_list_of_what_works():
    with pytest.raises(ValueError, match="'t5'.*albert, bert, camembert, deberta-v2, distilbert"):
        read_spec(transformers.T5Config().to_dict())


@pytest.mark.parametrize(
    "option",
    [{"position_embedding_type": "relative_key"}, {"is_decoder": True}, {"hidden_act": "tanh"}],
)
def test_an_unsupported_option_is_refused_by_name(option):
    with pytest.raises(ValueError, match=f"{next(iter(option.values()))}.*supported"):
        read_spec(transformers.BertConfig(**option).to_dict())


PUBLISHED = {
    "albert": {},
    "modernbert": {},
    "mpnet": {},
    "deberta-v2": {
        "relative_attention": True,
        "share_att_key": True,
        "pos_att_type": "p2c|c2p",
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "position_buckets": 256,
        "max_relative_positions": -1,
    },
}


@pytest.mark.parametrize(
    "family, option, message",
    [
        ("albert", {"inner_group_num": 2}, "inner_group_num=2.*must be 1"),
        ("modernbert", {"rope_scaling": {"rope_type": "linear"}}, "rope_scaling=.*must be None"),
        ("mpnet", {"relative_attention_num_buckets": 16}, "buckets=16.*must be 32"),
        ("mpnet", {"pad_token_id": 0}, "pad_token_id=0.*must be 1"),
        ("deberta-v2", {"conv_kernel_size": 3}, "conv_act='tanh'.*Supported: gelu"),
        ("deberta-v2", {"conv_kernel_size": 4}, "conv_kernel_size=4.*must be None"),
        ("deberta-v2", {"share_att_key": False}, "share_att_key=False.*must be True"),
        ("deberta-v2", {"pos_att_type": ["c2p"]}, "pos_att_type=.'c2p'.*must be .'p2c', 'c2p'"),
        ("deberta-v2", {"norm_rel_ebd": "none"}, "norm_rel_ebd='none'.*must be 'layer_norm'"),
        ("deberta-v2", {"position_biased_input": True}, "biased_input=True.*must be False"),
        ("deberta-v2", {"relative_attention": False}, "relative_attention=False.*must be True"),
        ("deberta-v2", {"embedding_size": 128}, "embedding_size=128.*must be .* 1536"),
    ],
)
def test_an_unsupported_option_of_a_family_is_refused_by_name(family, option, message):
    skip_without(family)
    config = transformers.AutoConfig.for_model(family, **{**PUBLISHED[family], **option})
    with pytest.raises(ValueError, match=message):
        read_spec(config.to_dict())


@pytest.mark.parametrize("family", list(PUBLISHED))
def test_what_was_published_is_supported(family):
    skip_without(family)
    config = transformers.AutoConfig.for_model(family, **PUBLISHED[family])
    assert read_spec(config.to_dict()).family == family


def test_the_first_deberta_is_refused():
    with pytest.raises(ValueError, match="'deberta'.*deberta-v2"):
        read_spec(transformers.DebertaConfig().to_dict())


@pytest.mark.parametrize("field", ["hidden_size", "vocab_size", "num_hidden_layers"])
def test_a_config_without_a_size_is_refused_by_name(field):
    config = transformers.BertConfig().to_dict()
    del config[field]
    with pytest.raises(ValueError, match=field):
        read_spec(config)


def test_sizes_come_from_the_config():
    config = transformers.DistilBertConfig(dim=24, n_layers=2, n_heads=3, hidden_dim=30)
    spec = read_spec(config.to_dict())
    assert (spec.hidden_size, spec.layers, spec.attention_heads) == (24, 2, 3)
    assert (spec.intermediate_size, spec.token_types) == (30, 0)


def test_roberta_positions_start_behind_the_padding_index():
    spec = read_spec(transformers.RobertaConfig(max_position_embeddings=514).to_dict())
    assert (spec.first_position, spec.max_wordpieces) == (2, 512)


def test_a_missing_parameter_is_named(encoders):
    loaded = HFEncoder(encoders["bert"]).load()
    with pytest.raises(ValueError, match=r"embeddings\.word_embeddings\.weight"):
        read_weights(loaded.spec, {})


def test_every_family_has_a_row_that_the_oracle_tests(encoders):
    from tests.makers.encoders import FAMILIES as TESTED

    tested = [name for name in TESTED if in_transformers(name)]
    found = {HFEncoder(encoders[name]).load().spec.family for name in tested}
    assert found == {family for family in FAMILIES if in_transformers(family)}
    assert set(FAMILIES) <= set(TESTED)


class TestEncoderFolders:
    def problem(self, folder) -> str:
        with pytest.raises(ValueError, match="model.safetensors") as error:
            HFEncoder(str(folder)).load()
        return str(error.value)

    @pytest.fixture
    def copy(self, encoders, tmp_path):
        import shutil

        return shutil.copytree(encoders["bert"], tmp_path / "copy")

    def test_missing(self, tmp_path):
        problem = self.problem(tmp_path / "nothing")
        assert "no such folder" in problem and "[components.NAME.model.encoder]" in problem

    def test_empty(self, tmp_path):
        assert "no config.json" in self.problem(tmp_path)

    def test_without_weights(self, copy):
        (copy / "model.safetensors").unlink()
        assert "weights can't be loaded" in self.problem(copy)

    def test_without_tokenizer(self, copy):
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            (copy / name).unlink()
        assert "its tokenizer can't be loaded" in self.problem(copy)

    def test_with_the_tokenizer_of_another_model(self, copy, encoders):
        import shutil

        shutil.copy(f"{encoders['roberta']}/tokenizer.json", copy)
        assert "its tokenizer does not fit" in self.problem(copy)

    def test_in_the_home_folder(self, copy, monkeypatch):
        monkeypatch.setenv("HOME", str(copy.parent))
        assert HFEncoder("~/copy").load().spec.layers == 4

    def test_truncated_weights(self, copy):
        data = (copy / "model.safetensors").read_bytes()
        (copy / "model.safetensors").write_bytes(data[: len(data) // 2])
        assert "weights can't be loaded" in self.problem(copy)

    def test_foreign_weights(self, copy, encoders):
        import shutil

        shutil.copy(f"{encoders['distilbert']}/model.safetensors", copy)
        assert "lack" in self.problem(copy)

    def test_unsupported_family(self, tmp_path):
        transformers.T5Config().save_pretrained(tmp_path)
        assert "'t5'" in self.problem(tmp_path)

    def test_older_files_are_read_without_running_code_and_it_is_said(self, copy):
        from safetensors.torch import load_file

        weights = load_file(copy / "model.safetensors")
        (copy / "model.safetensors").unlink()
        torch.save(weights, copy / "pytorch_model.bin")
        with pytest.warns(UserWarning, match="weights_only=True"):
            loaded = HFEncoder(str(copy)).load()
        assert loaded.spec.layers == 4
