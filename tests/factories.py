"""Makes what the tests run on: texts, tokenizers, encoders, pipelines."""

import json
import os
import random
import re
from importlib import metadata
from pathlib import Path

import pytest
import spacy
import tokenizers
import torch
from spacy.training import Example
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

# Our own writing. Names are also words, some texts have no entity, some are mistyped.
SENTENCES = [
    ("Ann Lee lives in New York.", [(0, 7, "PER"), (17, 25, "LOC")]),
    ("I don't like Bob, and I cannot say why.", [(13, 16, "PER")]),
    ("Paris Hilton was never seen in Paris", [(0, 12, "PER"), (31, 36, "LOC")]),
    ("gonna meet may at the bank in may?", [(11, 14, "PER")]),
    ("See https://example.com/a/b?c=d for the rest!", []),
    ("Nothing to report today.", []),
    (
        "the Acme-Ltd. people called Jordan from Jordan twice",
        [(4, 13, "ORG"), (28, 34, "PER"), (40, 46, "LOC")],
    ),
    ("ok", []),
    (
        "Rain, rain; more rain -- and then Lima sent 3 boxes to Oslo's office.",
        [(34, 38, "ORG"), (55, 59, "LOC")],
    ),
    ("Dr. Grace Hopper's cat is called Euler :-)", [(4, 16, "PER"), (33, 38, "PER")]),
]
TEXTS = [text for text, _ in SENTENCES]
CHINESE = [
    "李小明住在北京市。",
    "他昨天在上海见到了王芳",
    "天气很好,我们去公园吧!",
    "北京大学和清华大学都在北京",
]
EMOJI = ["Great job 👍🏽 Ann!", "👩‍👩‍👧‍👦 family", "flags 🇩🇪🇫🇷 and ❤️", "naïve café ｆｕｌｌ"]

ROOT = Path(__file__).parent.parent
# spaCy before 3.8.13 has a confection that merges what is given to spacy.load into a block that is
# there, and takes "0.2" for a number.
OLD_CONFECTION = metadata.version("confection").startswith("0.")
# Any other must do as well.
SEED = int(os.environ.get("SPACY_EARLY_EXIT_TEST_SEED", "0"))

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


def rest_slow(rows, quick):
    """Parameters of a test: all rows, of which only some are run without --slow.

    rows (Iterable[Tuple]): All combinations.
    quick (Callable): Says whether a combination is one of the quick ones.
    """
    slow = pytest.mark.slow
    return [pytest.param(*row, marks=[] if quick(*row) else [slow]) for row in rows]


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
    """Folders of small encoders, by family, each made when it is first asked for."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __getitem__(self, family: str) -> str:
        folder = self.folder / family
        if not folder.exists():
            skip_without(family)
            folder.mkdir()
            self._make(family, folder)
        return str(folder)

    def _make(self, family: str, folder: Path) -> None:
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


def network_of(folder: str, tags: int = 7, spread: float = 0.6):
    """The network of an encoder's folder with random heads whose certainty varies by word."""
    from spacy_early_exit.encoders.hugging_face import HFEncoder
    from spacy_early_exit.files.network import Trained
    from spacy_early_exit.network.exit_network import Tagger
    from spacy_early_exit.text.wordpieces import WordpieceTokenizer

    loaded = HFEncoder(folder).load()
    network = Tagger(loaded.spec, tags)
    network.encoder.load_state_dict(loaded.weights)
    torch.manual_seed(1)
    for head in network.heads:
        torch.nn.init.normal_(head.weight, std=spread)
        torch.nn.init.normal_(head.bias, std=0.1)
    return Trained(network, WordpieceTokenizer(loaded.tokenizer))


def step_of(layer, words, logits, batch, threshold, learned=None, states=None):
    """What a criterion sees."""
    from spacy_early_exit.network.criterion import Step

    logits = torch.as_tensor(logits)
    states = logits[:, :0] if states is None else states
    return Step(layer, torch.as_tensor(words), logits, batch, threshold, learned or {}, states)


def texts_of_all_lengths(seed: int = 0, count: int = 64) -> list:
    """Texts from one word to hundreds, of words that the small tokenizers know."""
    draw = random.Random(seed)
    words = " ".join(TEXTS).split()
    lengths = [1, 1, 2, 3, 45, 46, 47, 120, 400] + [draw.randint(1, 60) for _ in range(count)]
    return [" ".join(draw.choices(words, k=length)) for length in lengths[:count]]


def examples_of(nlp, sentences=tuple(SENTENCES)):
    return [
        Example.from_dict(nlp.make_doc(text), {"entities": entities})
        for text, entities in sentences
    ]


def blank(encoder: str, **config):
    """An untrained pipeline."""
    nlp = spacy.blank("en")
    model = {"encoder": {"name": encoder}, **config.pop("model", {})}
    nlp.add_pipe("early_exit_ner", config={"model": model, **config})
    return nlp


def train_small(encoder: str, steps: int | None = None, **config):
    """A pipeline that has learnt SENTENCES, and no more, so that some words still go deep."""
    spacy.util.fix_random_seed(SEED)
    nlp = blank(encoder, **{"store_exits": True, "threshold": 0.15, **config})
    examples = examples_of(nlp)
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 5e-3
    full_depth = {"early_exit_ner": {"threshold": 0}}
    for step in range(1, (steps or 200) + 1):
        nlp.update(examples, sgd=optimizer, drop=0.0)
        # How many steps it takes depends on the processor's arithmetic.
        scores = nlp.evaluate(examples_of(nlp), component_cfg=full_depth)
        if step == steps or (steps is None and scores["ents_f"] == 1.0):
            return nlp
    raise AssertionError("200 steps did not teach a small encoder ten sentences")


def answers(doc) -> tuple:
    """What must not depend on the batch: entities and exit layers."""
    record = doc._.early_exit["early_exit_ner"]
    ents = [(ent.start, ent.end, ent.label_) for ent in doc.ents]
    return ents, record.layers, record.spent, record.full


# What imports transformers wherever it is installed.
OTHERS = ("spacy_transformers", "spacy_curated_transformers")


def hiding(*packages: str) -> str:
    """Lines of Python that make spaCy see no entry points of some packages."""
    return (
        "import catalogue\n"
        "from importlib.metadata import EntryPoints, entry_points\n"
        "class Hidden:\n"
        "    def select(self, group):\n"
        "        return EntryPoints(p for p in entry_points(group=group)\n"
        f"            if not p.value.startswith({packages!r}))\n"
        "catalogue.AVAILABLE_ENTRY_POINTS = Hidden()\n"
    )


def write_corpus(folder: Path, train: int = 40, dev: int = 10) -> Path:
    """A corpus of our own sentences, each made different by a number."""
    nlp = spacy.blank("en")
    folder.mkdir()
    for name, count in (("train", train), ("dev", dev)):
        sentences = []
        for i in range(count):
            text, entities = SENTENCES[i % len(SENTENCES)]
            doc = nlp.make_doc(text)
            doc.ents = [doc.char_span(start, end, label) for start, end, label in entities]
            lines = [
                f"{t.text}\t{t.ent_iob_}-{t.ent_type_}" if t.ent_type_ else f"{t.text}\tO"
                for t in doc
            ]
            sentences.append("\n".join([*lines, f"{name}{i}\tO"]))
        (folder / f"{name}.tsv").write_text("\n\n".join(sentences) + "\n", encoding="utf8")
    return folder


def unsealed(path: Path) -> None:
    """Make a JSON file one of the time before there were checksums."""
    about = json.loads(path.read_text())
    for name in ("sha256", "files", "network"):
        about.pop(name, None)
    path.write_text(json.dumps(about))
