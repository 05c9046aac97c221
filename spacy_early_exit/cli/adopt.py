"""``spacy early-exit adopt``: a pipeline from a token classifier."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Sequence, cast

import spacy
import typer
from wasabi import msg

from .app import check_output, early_exit, progress, read_speedups, read_texts
from .calibrate import show_curve
from .refusals import Refused, refusing, writing

if TYPE_CHECKING:
    from ..budget.curve import Calibration


@early_exit.command("adopt")
def adopt_cli(
    checkpoint: str = typer.Argument(
        ..., help="Hugging Face token classifier: folder or hub id, such as dslim/bert-base-NER"
    ),
    texts: Path = typer.Argument(
        ...,
        help="Unlabelled texts like those you will run on, a few thousand: one per line, .jsonl or "
        ".spacy",
    ),
    output: Path = typer.Option(..., "--output", "-o", help="Where to save the pipeline"),
    lang: str = typer.Option("en", "--lang", "-l", help="Language of spaCy's tokenizer"),
    task: Optional[str] = typer.Option(
        None, "--task", "-t", help="ner or tagger. By default ner if one of its labels is O"
    ),
    attribute: str = typer.Option(
        "tag", "--attribute", "-a", help="What a tagger sets: tag, or pos (Universal Dependencies)"
    ),
    speedups: str = typer.Option("1.5,2,3,4", "--speedups", "-s", help="Speedups to calibrate"),
    epochs: int = typer.Option(4, "--epochs", "-n", min=1, help="Epochs of each training stage"),
    keep_original: bool = typer.Option(
        True,
        "--keep-original/--drop-original",
        help="Whether the checkpoint itself answers at full depth, which doubles the size; if not, "
        "the trained network does",
    ),
    revision: Optional[str] = typer.Option(None, "--revision", help="Branch or commit on the hub"),
    min_agreement: float = typer.Option(
        0.95,
        "--min-agreement",
        min=0.0,
        max=1.0,
        help="Agreement with the checkpoint that the saved speedup must reach",
    ),
    seed: int = typer.Option(0, "--seed", help="Seed of everything random"),
) -> None:
    """Teach a token classifier to exit early, on unlabelled texts, and calibrate it.

    Scores measure agreement with the checkpoint: the F-score of one against the other, or for tags
    the share of words with the same tag.
    """
    from ..adopt.adopt import Adoption, adopt
    from ..encoders.hugging_face import HFEncoder

    asked = read_speedups(speedups)
    check_output(output, folder=True)
    if task not in (None, "ner", "tagger"):
        raise Refused(f"--task must be ner or tagger, not {task!r}.")
    if attribute not in ("tag", "pos"):
        raise Refused(f"--attribute must be tag or pos, not {attribute!r}.")
    with refusing(ImportError, ValueError, title=f"--lang can't be {lang!r}."):
        blank = spacy.blank(lang)
    lines = [eg.reference.text for eg in read_texts(blank, texts)]
    adoption = Adoption(
        HFEncoder(checkpoint, revision),
        lang,
        cast(Any, task),
        epochs,
        keep_original,
        seed,
        attribute=cast(Any, attribute),
        min_agreement=min_agreement,
    )
    with tempfile.TemporaryDirectory() as work:
        with refusing(ValueError):
            nlp, found = adopt(adoption, lines, asked, Path(work), progress)
        _, pipe = nlp.pipeline[-1]
        show_curve(found, pipe.main_score)
        if asked[-1] > found.most:
            msg.warn(f"Speedups above {found.most:.2f} are out of reach.")
        warn_of_less(found, asked, pipe.speedup, min_agreement)
        with writing(output, ValueError):
            nlp.to_disk(output)
    msg.good(f"Saved the pipeline to {output}, with speedup = {pipe.speedup:g}.")


def warn_of_less(
    found: "Calibration", asked: Sequence[float], speedup: float, least: float
) -> None:
    """Warn if larger speedups within reach do not agree well enough with the checkpoint.

    found (Calibration): The calibration.
    asked (Sequence[float]): The speedups that were asked for, ascending.
    speedup (float): The speedup that was chosen.
    least (float): The smallest valid agreement.
    """
    from ..adopt.adopt import agreement, within_reach

    larger = [one for one in within_reach(found, asked) if one > speedup]
    if larger:
        rest = "It is set to full depth, which saves nothing. " if speedup == 1 else ""
        msg.warn(
            f"At speedup = {larger[0]:g}, agreement with the checkpoint is "
            f"{agreement(found, larger[0]):.3f}, below --min-agreement {least:g}.",
            f"{rest}More texts and more --epochs raise the agreement.",
        )
