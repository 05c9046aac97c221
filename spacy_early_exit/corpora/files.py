"""Which reader is for which file."""

from pathlib import Path
from typing import List

from spacy.language import Language
from spacy.tokens import Doc

from .columns import read_conll, read_conllu
from .json_lines import read_entities, read_objects
from .label_studio import read_label_studio
from .lines import in_line, make_doc, read_docs, read_lines
from .remarks import Corpus

COLUMNS = (".conll", ".iob", ".bio", ".tsv")
ENTITIES_ONLY = (".jsonl", ".json", *COLUMNS)  # other annotation is in .spacy and .conllu


def read_annotated(path: Path, nlp: Language) -> Corpus:
    """Read annotated texts.

    path (Path): A ``.spacy`` file; ``.jsonl`` of Prodigy or doccano; ``.json`` of Label Studio;
        ``.conll`` (or ``.iob``, ``.bio``, ``.tsv``), with the word in the first column and its tag
        in the last; or ``.conllu``.
    nlp (Language): The pipeline that they are for.
    RETURNS (Corpus): The texts.
    RAISES (CorpusError): If they can't be read.
    """
    if path.suffix == ".jsonl":
        return read_entities(path, nlp)
    if path.suffix == ".json":
        return read_label_studio(path, nlp)
    if path.suffix in COLUMNS:
        return Corpus(read_conll(path, nlp.vocab), [])
    if path.suffix == ".conllu":
        return Corpus(read_conllu(path, nlp.vocab), [])
    return Corpus(read_docs(path, nlp.vocab), [])


def read_texts(path: Path, nlp: Language) -> List[Doc]:
    """Read texts, regardless of annotation.

    path (Path): A ``.spacy`` file; a ``.jsonl`` file with one ``{"text": ...}`` per line; or a file
        with one text per line.
    nlp (Language): The pipeline, for its tokenizer.
    RETURNS (List[Doc]): The texts. Only those of ``.spacy`` have their annotation.
    RAISES (CorpusError): If they can't be read.
    """
    if path.suffix == ".spacy":
        return read_docs(path, nlp.vocab)
    if path.suffix == ".jsonl":
        texts = [(number, about["text"]) for number, _, about in read_objects(path)]
    else:
        texts = read_lines(path)
    return [make_doc(nlp, text, in_line(path, number)) for number, text in texts]
