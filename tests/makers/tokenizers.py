"""Tokenizers that are small, each as a family of encoders has it."""

import re
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.makers.texts import CHINESE, TEXTS

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA_SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def wordpieces() -> dict:
    """Characters, pairs of them, and short words of our texts: longer ones have several.

    A trainer finds another vocabulary each time, since it breaks ties by chance.
    """
    words = sorted(set(re.findall(r"\w+|[^\w\s]", " ".join(TEXTS).lower())))
    found = {c for word in words for c in (word[0], *("##" + c for c in word[1:]))}
    found |= {"##" + word[i : i + 2] for word in words for i in range(1, len(word) - 1, 2)}
    found |= {word for word in words if len(word) < 5}
    return {piece: i for i, piece in enumerate([*SPECIALS, *sorted(found)])}


def wordpiece_tokenizer():
    """A WordPiece tokenizer as BERT has it, with a truncation that must be switched off."""
    tokenizer = tokenizers.Tokenizer(models.WordPiece(wordpieces(), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(8)
    return tokenizer


def byte_level_tokenizer(texts=TEXTS):
    """A byte-level BPE tokenizer as RoBERTa has it."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=ROBERTA_SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts * 3, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def roberta_tokenizer(texts=TEXTS):
    """The same, as transformers saves it."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=byte_level_tokenizer(texts),
        pad_token="<pad>",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


def train_sentencepiece(folder: Path, texts=CHINESE + TEXTS, vocab_size=230, **options) -> None:
    """Write spm.model, by the sentencepiece library."""
    import sentencepiece

    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(texts * 5), encoding="utf8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(folder / "spm"),
        vocab_size=vocab_size,
        minloglevel=2,
        character_coverage=1.0,
        hard_vocab_limit=False,
        **options,
    )


def sentencepiece_tokenizer(folder: Path, **options):
    """A sentencepiece tokenizer as XLM-RoBERTa has it."""
    from transformers import XLMRobertaTokenizerFast

    train_sentencepiece(folder, **options)
    return XLMRobertaTokenizerFast(vocab_file=str(folder / "spm.model"))


def albert_tokenizer(folder: Path):
    """A sentencepiece tokenizer as ALBERT has it."""
    from transformers import AlbertTokenizerFast

    train_sentencepiece(
        folder, pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, control_symbols="[CLS],[SEP],[MASK]"
    )
    return AlbertTokenizerFast(vocab_file=str(folder / "spm.model"))


def deberta_tokenizer(folder: Path):
    """A sentencepiece tokenizer as DeBERTa-v3 has it."""
    from transformers import DebertaV2TokenizerFast

    pieces = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]"}
    train_sentencepiece(folder, pad_id=0, bos_id=1, eos_id=2, unk_id=3, unk_piece="[UNK]", **pieces)
    return DebertaV2TokenizerFast(vocab_file=str(folder / "spm.model"))


def mpnet_tokenizer(folder: Path):
    """A WordPiece tokenizer as MPNet has it: with RoBERTa's special tokens."""
    from transformers import MPNetTokenizerFast

    words = wordpiece_tokenizer().get_vocab()
    others = [word for word in sorted(words, key=words.get) if word not in SPECIALS]
    vocab = folder / "vocab.txt"
    vocab.write_text("\n".join(["<s>", "<pad>", "</s>", "[UNK]", *others, "<mask>"]))
    return MPNetTokenizerFast(vocab_file=str(vocab))
