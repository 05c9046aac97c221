"""``spacy early-exit convert``: what annotation tools export, as ``spacy train`` reads it."""

from pathlib import Path

import spacy
import typer
from spacy.tokens import DocBin
from wasabi import msg

from .app import ANNOTATED, check_output, early_exit, read_annotated
from .refusals import Refused, refusing, writing


@early_exit.command("convert")
def convert_cli(
    data: Path = typer.Argument(..., help=ANNOTATED),
    output: Path = typer.Argument(..., help="Where to save them, a .spacy file"),
    lang: str = typer.Option("en", "--lang", "-l", help="Language of spaCy's tokenizer"),
) -> None:
    """Convert annotated texts to .spacy, which `spacy train` reads.

    Columns (.conll, .iob, .bio, .tsv) have the word first and its tag last, in IOB, BIO, BIOES or
    BILUO. What can't be used is counted, and an example is shown.
    """
    check_output(output, folder=False)
    if output.suffix != ".spacy":
        raise Refused(f"{output} must end in .spacy: spaCy reads no other file as such.")
    with refusing(ImportError, ValueError, title=f"--lang can't be {lang!r}."):
        nlp = spacy.blank(lang)
    docs = read_annotated(nlp, data)
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        DocBin(docs=docs, store_user_data=True).to_disk(output)
    msg.good(f"Saved {len(docs)} texts to {output}")
