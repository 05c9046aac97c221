"""Makes what the tests of the segmenter run on."""

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from tests.makers.tokenizers import SPECIALS

# Our own writing, in words.
SENTENCES = [
    ["李小明", "住", "在", "北京市", "。"],
    ["他", "昨天", "在", "上海", "见到", "了", "王芳"],
    ["天气", "很", "好", ",", "我们", "去", "公园", "吧", "!"],
    ["北京", "大学", "和", "清华", "大学", "都", "在", "北京"],
    ["好"],
]


@pytest.fixture(scope="session")
def characters(tmp_path_factory):
    """A small BERT whose wordpieces are characters."""
    import torch
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("characters")
    letters = sorted({c for words in SENTENCES for word in words for c in word})
    vocab = {piece: i for i, piece in enumerate([*SPECIALS, *letters])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        unk_token="[UNK]", mask_token="[MASK]",
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = BertConfig(
        vocab_size=len(vocab), intermediate_size=48, max_position_embeddings=64, **sizes
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)
