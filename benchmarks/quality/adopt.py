"""Fine-tune a token classifier with the Trainer of transformers, adopt it, and see what is kept.

The classifier learns from the annotation of train.spacy. `spacy early-exit adopt` is then given
the texts of train.spacy without it. Both are scored on dev.spacy: what the adopted pipeline says
at speedups that were calibrated on its own held-out texts, and what the classifier says, read by
transformers.

A corpus is a folder with train.spacy and dev.spacy. A classifier, or an adopted pipeline, that is
there already is taken.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import spacy
import torch
from spacy.tokens import Doc, DocBin
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
)

from benchmarks.common import results
from benchmarks.common.train import run


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("encoder", type=Path, help="folder in Hugging Face's format")
    parser.add_argument("work", type=Path, help="folder for classifier and pipeline")
    parser.add_argument("output", type=Path, help="the results, as JSON")
    parser.add_argument("--epochs", type=int, default=4, help="of the classifier")
    parser.add_argument("--epochs-adopting", type=int, default=4, help="of each of its stages")
    parser.add_argument("--speedups", default="1,1.5,2,3,4")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    vocab = spacy.blank("en").vocab
    train, dev = (
        list(DocBin().from_disk(args.corpus / f"{part}.spacy").get_docs(vocab))
        for part in ("train", "dev")
    )
    classifier, pipeline = args.work / "classifier", args.work / "pipeline"
    if not classifier.exists():
        fine_tune(train, args.encoder, classifier, args.epochs)
    adopt = ["-m", "spacy", "early-exit", "adopt", classifier, args.corpus / "train.spacy"]
    if not pipeline.exists():
        how = ["--epochs", args.epochs_adopting]
        run(*adopt, "--output", pipeline, *how, log=args.work / "adopt")
    evaluate = ["-m", "spacy", "early-exit", "evaluate", pipeline, args.corpus / "dev.spacy"]
    figures = args.work / "evaluated.json"
    run(*evaluate, "--speedups", args.speedups, "--rounds", 0, "--output", figures)
    rows = json.loads(figures.read_text())["speedups"]
    nlp = spacy.load(pipeline)
    result = {
        "words": sum(map(len, dev)),
        "other_labels": sum(other_labels(nlp, classifier, doc) for doc in dev),
        "speedups": rows,
    }
    results.write(args.output, result, threads=args.threads)
    share = {row["speedup"]: row["ents_f"] / rows[0]["ents_f"] for row in rows}
    print(f"{result['other_labels']} of {result['words']} words differ at full depth; {share}")


def fine_tune(docs: list[Doc], encoder: Path, folder: Path, epochs: int) -> None:
    """Fine-tune a token classifier as its documentation does it: a word's first wordpiece has its
    label.

    docs (list[Doc]): Annotated texts.
    encoder (Path): The encoder.
    folder (Path): Where to save it.
    epochs (int): How many.
    """
    names = sorted({ent.label_ for doc in docs for ent in doc.ents})
    labels = ["O", *(f"{prefix}-{name}" for name in names for prefix in "BI")]
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    rows = []
    for doc in docs:
        row = tokenizer(doc.text, truncation=True, return_offsets_mapping=True)
        offsets = row.pop("offset_mapping")
        tags = [-100] * len(offsets)
        for token, piece in zip(doc, first_pieces(doc, offsets), strict=True):
            if piece is not None:
                tag = f"{token.ent_iob_}-{token.ent_type_}" if token.ent_type_ else "O"
                tags[piece] = labels.index(tag)
        rows.append({**row, "labels": tags})
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_pretrained(
        encoder,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    arguments = TrainingArguments(
        output_dir=str(folder) + "-trainer",
        num_train_epochs=epochs,
        per_device_train_batch_size=32,
        learning_rate=2e-4,
        warmup_ratio=0.1,
        weight_decay=0.01,
        group_by_length=True,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
    )
    collator = DataCollatorForTokenClassification(tokenizer)
    Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collator).train()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def first_pieces(doc: Doc, offsets: list[Any]) -> list[int | None]:
    """RETURNS (list): The wordpiece that covers the first character of each word, if any."""
    at = {}
    for number, (start, end) in enumerate(offsets):
        for place in range(start, end):
            at.setdefault(place, number)
    return [at.get(token.idx) for token in doc]


_LOADED: dict[Path, tuple[Any, Any]] = {}


def other_labels(nlp: spacy.Language, classifier: Path, doc: Doc) -> int:
    """RETURNS (int): Words that full depth and the classifier do not agree on, where each word is
    read by itself.
    """
    if classifier not in _LOADED:
        model = AutoModelForTokenClassification.from_pretrained(classifier).eval()
        _LOADED[classifier] = AutoTokenizer.from_pretrained(classifier), model
    tokenizer, model = _LOADED[classifier]
    row = tokenizer(doc.text, return_offsets_mapping=True, return_tensors="pt")
    offsets = row.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        best = model(**row).logits[0].argmax(-1).tolist()
    pieces = first_pieces(doc, offsets)
    said = ["O" if piece is None else model.config.id2label[best[piece]] for piece in pieces]
    words = Doc(nlp.vocab, [t.text for t in doc], [bool(t.whitespace_) for t in doc])
    found = nlp(words, component_cfg={"early_exit_ner": {"threshold": 0.0}})
    different = 0
    before = "O"
    for token, label in zip(found, said, strict=True):
        if label[:2] == "I-" and before[2:] != label[2:]:  # as the CoNLL script reads it
            label = f"B-{label[2:]}"
        before = label
        tag = f"{token.ent_iob_}-{token.ent_type_}" if token.ent_type_ else "O"
        different += tag != label
    return different


if __name__ == "__main__":
    main()
