"""``spacy early-exit card``: a model card."""

import os
import shlex
from pathlib import Path
from typing import List, Optional

import typer
from wasabi import msg

from .app import (
    ANNOTATED,
    CODE,
    asked_or_reachable,
    check_output,
    early_exit,
    load,
    progress,
    read_corpus,
)
from .refusals import Refused, refusing, writing


@early_exit.command("card")
def card_cli(
    model: str = typer.Argument(..., help="Calibrated pipeline: its folder, or package name"),
    data: Path = typer.Argument(..., help=ANNOTATED),
    training_data: str = typer.Option(
        ..., "--training-data", "-t", help="What it was trained on, in Markdown"
    ),
    license_: Optional[str] = typer.Option(
        None, "--license", "-l", help="Its licence, such as mit. By default that in its meta.json"
    ),
    data_name: Optional[str] = typer.Option(
        None, "--data-name", "-n", help="What DATA is called. By default the name of the file"
    ),
    limits: Optional[List[str]] = typer.Option(
        None, "--limit", help="What it is not good for, in Markdown. May be repeated"
    ),
    speedups: Optional[str] = typer.Option(
        None,
        "--speedups",
        "-s",
        help="Speedups to show. By default the usual ones, as far as calibrated",
    ),
    rounds: int = typer.Option(3, "--rounds", "-r", min=0, help="Timed rounds; 0: no timing"),
    output: Optional[Path] = typer.Option(
        None, "--output", "-o", help="The card. By default README.md in the pipeline's folder"
    ),
    force: bool = typer.Option(False, "--force", "-F", help="Replace an existing file"),
    component: Optional[str] = typer.Option(
        None, "--component", "-c", help="Its early-exit component, if it has several"
    ),
    code: Optional[Path] = CODE,
) -> None:
    """Write a model card: scores, by speedup and by label, words per second, data and limits.

    It begins with the metadata that model hubs read. In the pipeline's folder, `spacy package`
    makes it the package's README.
    """
    from ..measure.card import About, collect, to_markdown
    from ..measure.docs import set_sentences

    if output is None:
        if not os.path.isdir(model):
            raise Refused(f"{model!r} is no folder.", "Say with --output where the card goes.")
        output = Path(model) / "README.md"
    check_output(output, folder=False)
    if output.exists() and not force:
        raise Refused(f"{output} already exists.", "Replace it with --force.")
    nlp, ner = load(model, component, code)
    license_ = license_ or nlp.meta.get("license")
    if not license_:
        raise Refused("The pipeline has no licence.", "Name one with --license, such as mit.")
    asked = asked_or_reachable(ner, speedups)
    examples = read_corpus(nlp, ner, data)
    shown = ",".join(f"{speedup:g}" for speedup in sorted({1.0, *asked}))
    command = ["python", "-m", "spacy", "early-exit", "evaluate", model, str(data), "-s", shown]
    about = About(
        training_data=training_data,
        license=license_.lower().replace(" ", "-"),
        data=data_name or data.name,
        command=shlex.join(command),
        limits=limits or [],
    )
    with refusing(ValueError):
        set_sentences(nlp, ner, examples)
        card = collect(nlp, ner, examples, asked, about, rounds=rounds, progress=progress)
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(to_markdown(card), encoding="utf8")
    msg.good(f"Saved the model card to {output}")
