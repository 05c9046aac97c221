"""Both stages of training, a calibration and the scores on dev, for any of the three tasks.

A corpus is a folder with train.spacy, tune.spacy and dev.spacy (`benchmarks.common.corpora` makes
one). The calibration is of tune, so are the checkpoints. What is finished is not repeated.

``--characters`` makes the encoder: a small BERT with random weights, whose wordpieces are the
characters that occur twice or more in train.spacy. It knows nothing of any language: what it
learns, it learns from the corpus.
"""

import argparse
import json
import shlex
from collections import Counter
from pathlib import Path

import spacy
import torch
from spacy.tokens import DocBin
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
from wasabi import table

from benchmarks.common import results
from benchmarks.common.train import FINISHED, run

SCORES = {"ner": "ents_f", "tagger": "{}_acc", "segmenter": "token_f"}
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("encoder", type=Path, help="folder in Hugging Face's format")
    parser.add_argument("work", type=Path, help="folder for the pipelines")
    parser.add_argument("output", type=Path, help="the results, as JSON")
    parser.add_argument("--task", choices=SCORES, default="ner")
    parser.add_argument("--attribute", choices=("tag", "pos"), default="tag", help="of the tagger")
    parser.add_argument("--lang", default="en")
    parser.add_argument("--characters", action="store_true", help="make the encoder")
    parser.add_argument("--epochs", type=int, default=4, help="of either stage")
    parser.add_argument("--min-steps", type=int, default=0, help="with fewer, more epochs")
    parser.add_argument("--rate", help="learning rate, if not the config's")
    parser.add_argument("--first-stage", type=Path, help="its pipeline, if it is trained already")
    for stage in ("joint", "self-sampling"):
        parser.add_argument(f"--{stage}", default="", help="more options of spacy train, quoted")
    parser.add_argument("--speedups", default="1.5,2,2.5,3,4")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--mixed-precision", action="store_true", help="train in bfloat16")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.characters and not (args.encoder / "config.json").exists():
        make_encoder(args.corpus / "train.spacy", args.encoder, args.lang)
    first = args.first_stage or train(args, "joint", 0.5, [])
    pipeline = train(args, "self_sampling", 1, ["--paths.first_stage", first])
    final = args.work / "final"
    command = ["-m", "spacy", "early-exit"]
    calibrate = [*command, "calibrate", pipeline, args.corpus / "tune.spacy", "--output", final]
    run(*calibrate, "--speedups", args.speedups)
    found = args.work / "evaluated.json"
    evaluate = [*command, "evaluate", final, args.corpus / "dev.spacy", "--output", found]
    run(*evaluate, "--speedups", f"1,{args.speedups}", "--rounds", 0)
    score = SCORES[args.task].format(args.attribute)
    rows = json.loads(found.read_text())["speedups"]
    results.write(args.output, rows)
    show(rows, score)


def train(args: argparse.Namespace, stage: str, every: float, start: list[object]) -> Path:
    """RETURNS (Path): The best checkpoint of a stage."""
    config, output = args.work / f"{stage}.cfg", args.work / stage
    how = ["--task", args.task, "--attribute", args.attribute, "--lang", args.lang]
    how += ["--encoder", args.encoder]
    length = ["--epochs", args.epochs, "--evaluate-every", every, "--min-steps", args.min_steps]
    template = f"configs/{stage}.cfg"
    run("scripts/create_config.py", template, args.corpus / "train.spacy", config, *length, *how)
    options = ["--paths.train", args.corpus / "train.spacy", "--system.seed", args.seed]
    options += ["--paths.dev", args.corpus / "tune.spacy", "--paths.encoder", args.encoder]
    mixed = str(args.mixed_precision).lower()
    options += [f"--components.early_exit_{args.task}.model.mixed_precision", mixed]
    options += shlex.split(getattr(args, stage))
    if args.rate:
        options += ["--training.optimizer.learn_rate.initial_rate", args.rate]
    if not (output / FINISHED).exists():
        run("-m", "spacy", "train", config, "--output", output, *options, *start, log=output)
        (output / FINISHED).touch()
    return output / "model-best"


def make_encoder(corpus: Path, folder: Path, lang: str) -> None:
    """Make a BERT of 4 layers with random weights that reads characters.

    corpus (Path): Whose characters it shall know.
    folder (Path): Where to save it.
    lang (str): Their language.
    """
    docs = DocBin().from_disk(corpus).get_docs(spacy.blank(lang).vocab)
    counts = Counter(character for doc in docs for character in doc.text.lower())
    known = sorted(c for c, count in counts.items() if count > 1 and not c.isspace())
    vocab = {piece: number for number, piece in enumerate([*SPECIALS, *known])}
    # Within words of Latin letters and digits, every character is a wordpiece as well.
    vocab.update({f"##{c}": len(vocab) + number for number, c in enumerate(known)})
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{piece[1:-1].lower()}_token": piece for piece in SPECIALS}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=6,
        intermediate_size=768,
        max_position_embeddings=512,
    )
    BertModel(config).save_pretrained(folder)


def show(rows: list[dict[str, float]], score: str) -> None:
    """Print the score at every speedup."""
    full = rows[0][score]
    forms = ("{:g}X", "{:.4f}", "{:.4f}", "{:.2f}")
    values = [(row["speedup"], row[score], row[score] / full, row["mac_speedup"]) for row in rows]
    lines = [[form.format(value) for form, value in zip(forms, row, strict=True)] for row in values]
    header = ["speedup", score, "share of full depth", "MAC saving"]
    print(table(lines, header=header, aligns=["r"] * len(header)))


if __name__ == "__main__":
    main()
