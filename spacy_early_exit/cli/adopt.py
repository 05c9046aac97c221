"""``spacy early-exit adopt``: a pipeline out of someone's token classifier."""

import tempfile
from pathlib import Path
from typing import Any, Optional, cast

import spacy
import typer
from wasabi import msg

from .app import check_output, early_exit, progress, read_speedups
from .calibrate import read_texts, show_curve


@early_exit.command("adopt")
def adopt_cli(
    checkpoint: str = typer.Argument(
        ..., help="Hugging Face token classifier: folder or hub id, such as dslim/bert-base-NER"
    ),
    texts: Path = typer.Argument(
        ..., help="Such texts as it is to run on, some thousand: a text a line, or .spacy"
    ),
    output: Path = typer.Option(..., "--output", "-o", help="Where to save the pipeline"),
    lang: str = typer.Option("en", "--lang", "-l", help="Language, for spaCy's tokenizer"),
    task: Optional[str] = typer.Option(
        None, "--task", "-t", help="ner or tagger. Without: ner if one of its labels is O"
    ),
    speedups: str = typer.Option("1.5,2,3,4", "--speedups", "-s", help="Savings to measure"),
    epochs: int = typer.Option(4, "--epochs", "-n", min=1, help="Of each stage of training"),
    keep_original: bool = typer.Option(
        True,
        "--keep-original/--drop-original",
        help="The checkpoint itself answers at full depth, at twice the size. Else that is trained",
    ),
    revision: Optional[str] = typer.Option(None, "--revision", help="Branch or commit on the hub"),
    seed: int = typer.Option(0, "--seed", help="Everything random follows from it"),
) -> None:
    """Teach a token classifier to leave early, on texts without annotation, and calibrate it.

    Scores are agreement with what the checkpoint itself says: the F-score of one against the other.
    """
    from ..adoption import Adoption, adopt
    from ..encoders import HFEncoder

    asked = read_speedups(speedups)
    check_output(output, folder=True)
    if task not in (None, "ner", "tagger"):
        msg.fail(f"--task must be ner or tagger, not {task!r}.", exits=1)
    lines = [eg.reference.text for eg in read_texts(spacy.blank(lang), texts)]
    adoption = Adoption(
        HFEncoder(checkpoint, revision), lang, cast(Any, task), epochs, keep_original, seed
    )
    with tempfile.TemporaryDirectory() as work:
        try:
            nlp, found = adopt(adoption, lines, asked, Path(work), progress)
        except ValueError as e:
            msg.fail(str(e), exits=1)
            return
        _, pipe = nlp.pipeline[-1]
        show_curve(found, pipe.main_score)
        if asked[-1] > found.most:
            msg.warn(f"Speedups above {found.most:.2f} are out of reach.")
        nlp.to_disk(output)
    msg.good(f"Saved the pipeline to {output}, with speedup = {pipe.speedup:g}.")
