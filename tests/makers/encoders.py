"""Small encoders with random weights, by family."""

import contextlib
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

from tests.makers.tokenizers import (
    albert_tokenizer,
    deberta_tokenizer,
    mpnet_tokenizer,
    roberta_tokenizer,
    sentencepiece_tokenizer,
    wordpiece_tokenizer,
)

# As published.
_DISENTANGLED = {
    "relative_attention": True,
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "max_relative_positions": -1,
}


def _configs():
    import transformers as t

    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    plain = {**sizes, "max_position_embeddings": 48, "pad_token_id": 0}
    shifted = {**sizes, "max_position_embeddings": 50, "pad_token_id": 1}
    configs = {
        "bert": t.BertConfig(**plain),
        "roberta": t.RobertaConfig(**shifted, type_vocab_size=1),
        "xlm-roberta": t.XLMRobertaConfig(**shifted, type_vocab_size=1),
        "camembert": t.CamembertConfig(**shifted, type_vocab_size=1, hidden_act="relu"),
        "electra": t.ElectraConfig(**plain, embedding_size=16),
        "electra-unprojected": t.ElectraConfig(**plain, embedding_size=32),
        "distilbert": t.DistilBertConfig(
            dim=32,
            n_layers=4,
            n_heads=4,
            hidden_dim=48,
            max_position_embeddings=48,
            pad_token_id=0,
            activation="gelu",
        ),
        "albert": t.AlbertConfig(**plain, embedding_size=16),
        "albert-in-groups": t.AlbertConfig(
            **plain, embedding_size=32, num_hidden_groups=2, hidden_act="gelu"
        ),
        "mpnet": t.MPNetConfig(**shifted),
        "deberta-v2": t.DebertaV2Config(**plain, **_DISENTANGLED, position_buckets=8),
        "deberta-v2-unbucketed": t.DebertaV2Config(**plain, **_DISENTANGLED),
        "deberta-v2-with-convolution": t.DebertaV2Config(
            **plain, **_DISENTANGLED, position_buckets=8, conv_kernel_size=3, conv_act="gelu"
        ),
    }
    if in_transformers("modernbert"):
        configs |= {
            "modernbert": t.ModernBertConfig(
                **plain, global_attn_every_n_layers=3, local_attention=10
            ),
            "modernbert-with-biases": t.ModernBertConfig(
                **plain,
                global_attn_every_n_layers=2,
                local_attention=128,
                local_rope_theta=None,
                attention_bias=True,
                mlp_bias=True,
                norm_bias=True,
            ),
        }
    return configs


def in_transformers(family: str) -> bool:
    """Whether the installed transformers has a family: all but ModernBERT, which 4.48 brought."""
    import transformers

    return not family.startswith("modernbert") or hasattr(transformers, "ModernBertConfig")


def skip_without(family: str) -> None:
    if not in_transformers(family):
        import transformers

        pytest.skip(f"transformers {transformers.__version__} knows no {family}")


FAMILIES = [
    "bert",
    "roberta",
    "xlm-roberta",
    "camembert",
    "electra",
    "electra-unprojected",
    "distilbert",
    "albert",
    "modernbert",
    "mpnet",
    "deberta-v2",
]
# Other options of these: for tests of the arithmetic.
VARIANTS = [
    "albert-in-groups",
    "modernbert-with-biases",
    "deberta-v2-unbucketed",
    "deberta-v2-with-convolution",
]


class Encoders:
    """Folders of small encoders, by family, each made when it is first asked for: whole at once,
    since another worker of pytest may look for it meanwhile.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def __getitem__(self, family: str) -> str:
        folder = self.folder / family
        if not folder.exists():
            skip_without(family)
            made = Path(tempfile.mkdtemp(prefix=family, dir=self.folder))
            self._make(family, made)
            with contextlib.suppress(OSError):  # the other one was quicker
                made.rename(folder)
            shutil.rmtree(made, ignore_errors=True)
        return str(folder)

    def _make(self, family: str, folder: Path) -> None:
        if family.endswith("-slim"):
            return slim_encoder(self[family.removesuffix("-slim")], folder)
        from transformers import PreTrainedTokenizerFast

        config = _configs()[family]
        if family in ("xlm-roberta", "camembert"):
            tokenizer = sentencepiece_tokenizer(folder)
        elif config.model_type == "albert":
            tokenizer = albert_tokenizer(folder)
        elif config.model_type == "deberta-v2":
            tokenizer = deberta_tokenizer(folder)
        elif family == "mpnet":
            tokenizer = mpnet_tokenizer(folder)
        elif family == "roberta":
            tokenizer = roberta_tokenizer()
        else:
            segments = ["token_type_ids"] if family.startswith(("bert", "electra")) else []
            tokenizer = PreTrainedTokenizerFast(
                tokenizer_object=wordpiece_tokenizer(),
                model_input_names=["input_ids", *segments, "attention_mask"],
                pad_token="[PAD]",
                cls_token="[CLS]",
                sep_token="[SEP]",
                unk_token="[UNK]",
                mask_token="[MASK]",
            )
        write_encoder(family, tokenizer, folder)


def slim_encoder(whole: str, folder: Path) -> None:
    """Half of the heads and neurons of an encoder, each layer with a number of its own."""
    from spacy_early_exit.encoders import hugging_face
    from spacy_early_exit.encoders.base import PretrainedEncoder
    from spacy_early_exit.network.exit_network import ExitNetwork
    from spacy_early_exit.network.slimming import (
        draw_ticket,
        random_scores,
        slim_spec,
        slim_weights,
    )

    spec, weights, tokenizer = vars(hugging_face.HFEncoder(whole).load()).values()
    scores = random_scores(ExitNetwork(spec, 1), seed=0)
    ticket = draw_ticket(scores, 0.5, 0.5, "global", "global")
    slim = PretrainedEncoder(
        slim_spec(spec, ticket), slim_weights(spec, weights, ticket), tokenizer
    )
    hugging_face.write_encoder(slim, folder)


def write_encoder(family: str, tokenizer, folder: Path) -> None:
    """A small encoder with random weights, for a tokenizer of transformers."""
    from transformers import AutoModel

    config = _configs()[family]
    config.vocab_size = len(tokenizer)
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.2)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.add_(1.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
