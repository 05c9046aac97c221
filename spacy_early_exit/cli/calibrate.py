"""``spacy early-exit calibrate``: make speedups known to a pipeline."""

from pathlib import Path
from typing import Any, Iterable, List

import typer
from spacy.language import Language
from spacy.training import Example
from wasabi import msg
from wasabi.tables import table

from .app import early_exit, load, read_corpus, read_speedups

NEXT_TO_NOTHING = 0.1


@early_exit.command("calibrate")
def calibrate_cli(
    model: str = typer.Argument(..., help="Trained pipeline: folder or package name"),
    data: Path = typer.Argument(
        ..., help="Texts that were not trained on: .spacy, or with --unlabelled lines of text"
    ),
    output: Path = typer.Option(..., "--output", "-o", help="Where to save the pipeline"),
    speedups: str = typer.Option("1.5,2,3,4", "--speedups", "-s", help="Savings to measure"),
    unlabelled: bool = typer.Option(
        False, "--unlabelled", "-u", help="The texts are not annotated: measure the saving alone"
    ),
    component: str = typer.Option("early_exit_ner", "--component", "-c", help="Its name"),
) -> None:
    """Measure which threshold saves how much, and save the pipeline with that.

    Afterwards speedup can be set, in the config, as a property or for a call.
    """
    from tqdm import tqdm

    from ..measure.calibrate import calibrate

    asked = read_speedups(speedups)
    nlp, ner = load(model, component)
    examples = read_texts(nlp, data) if unlabelled else read_corpus(nlp, data)

    def progress(savings: Iterable[Any]) -> Iterable[Any]:
        bar: Iterable[Any] = tqdm(savings, desc="savings", leave=False)
        return bar

    try:
        found = calibrate(ner, examples, asked, annotated=not unlabelled, progress=progress)
    except ValueError as e:
        msg.fail(str(e), exits=1)
        return
    rows = [
        [
            f"{point.saving:.2f}",
            f"{point.threshold:.4f}",
            "-" if point.ents_f is None else f"{100 * point.ents_f:.2f}",
        ]
        for point in found.points
    ]
    print(table(rows, header=["speedup", "threshold", "ENTS_F"], aligns=["r", "r", "r"]))
    if found.points[0].ents_f is not None and found.points[0].ents_f < NEXT_TO_NOTHING:
        msg.warn("Its F-score is next to nothing: it needs more training data, or more epochs.")
    if asked[-1] > found.most:
        msg.warn(f"Speedups above {found.most:.2f} are out of reach.")
    nlp.to_disk(output)
    msg.good(f"Saved the calibrated pipeline to {output}, measured on {found.words} words.")


def read_texts(nlp: Language, path: Path) -> List[Example]:
    """Read texts without annotation, or say what is wrong and end.

    nlp (Language): The pipeline, for its tokenizer.
    path (Path): A ``.spacy`` file, or a text a line.
    RETURNS (List[Example]): The texts.
    """
    if path.suffix == ".spacy":
        return read_corpus(nlp, path)
    if not path.is_file():
        msg.fail(f"There is no file {path}.", exits=1)
    lines = [line for line in path.read_text(encoding="utf8").splitlines() if line.strip()]
    return [Example(nlp.make_doc(line), nlp.make_doc(line)) for line in lines]
