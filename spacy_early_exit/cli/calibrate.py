"""``spacy early-exit calibrate``: which threshold reaches which speedup."""

from pathlib import Path
from typing import TYPE_CHECKING, Dict, List, Literal, Mapping, Optional, Sequence, Tuple

import typer
from spacy.tokens import Doc
from spacy.training import Example
from wasabi import msg
from wasabi.tables import table

from ..budget.curve import DOUBT
from ..budget.guarantee import documents_needed
from ..configure import configure
from .app import (
    CODE,
    check_output,
    early_exit,
    load,
    progress,
    read_corpus,
    read_speedups,
    read_texts,
)
from .refusals import Refused, refusing, writing

if TYPE_CHECKING:
    from ..budget.curve import Calibration, Point
    from ..measure.guarantee import Guarantee

CLOSE_TO_ZERO = 0.1


@early_exit.command("calibrate")
def calibrate_cli(
    model: str = typer.Argument(..., help="Trained pipeline: folder or package name"),
    data: Path = typer.Argument(
        ...,
        help="Annotated texts that were not trained on: .spacy, or .jsonl with entities. With "
        '--unlabelled: one text per line, .jsonl with a "text" each, or .spacy',
    ),
    output: Path = typer.Option(..., "--output", "-o", help="Where to save the pipeline"),
    speedups: str = typer.Option("1.5,2,3,4", "--speedups", "-s", help="Speedups to measure"),
    unlabelled: bool = typer.Option(
        False, "--unlabelled", "-u", help="The texts are not annotated: measure speedups only"
    ),
    min_f_kept: float = typer.Option(
        0.985,
        "--min-f-kept",
        help="Warn of speedups that keep less than this share of full depth's score. See above",
    ),
    min_kept: Optional[List[str]] = typer.Option(
        None,
        "--min-kept",
        help="NAME=SHARE: the same for one component of several that share an encoder",
    ),
    texts: Optional[Path] = typer.Option(
        None,
        "--texts",
        help="More texts to measure speedups on: .spacy, .jsonl, or one text per line",
    ),
    temperature: bool = typer.Option(
        False,
        "--temperature",
        "-t",
        help="First fit a temperature to every head, so that confidences are calibrated",
    ),
    max_disagreement: Optional[float] = typer.Option(
        None,
        "--max-disagreement",
        help="Guarantee that at most this share of words gets another tag. See above",
    ),
    confidence: float = typer.Option(0.95, "--confidence", help="Confidence of the guarantee"),
    held_out: Optional[Path] = typer.Option(
        None, "--held-out", help="Texts for the guarantee, which nothing was trained or chosen on"
    ),
    component: Optional[str] = typer.Option(
        None, "--component", "-c", help="Its early-exit component, if it has several"
    ),
    code: Optional[Path] = CODE,
) -> None:
    """Measure which threshold reaches which speedup, and save both with the pipeline.

    Afterwards you can set speedup in the config, as a property or for a call. The pipeline warns
    (or, with strict = true, refuses) if it is asked for a speedup that keeps less of full depth's
    score than --min-f-kept. Differences that may be due to the choice of texts do not count. If
    several components share an encoder, all are measured, and none may lose more.

    With --max-disagreement 0.02, the saved threshold is the largest one at which at most 2 % of a
    document's words are expected to get another tag than at full depth, with the given confidence.
    That takes documents of its own, --held-out, without annotation: .spacy, or one text per line.
    """
    from ..measure.calibrate import calibrate, saved_now
    from ..measure.docs import set_sentences, tasks_of
    from ..measure.guarantee import check_documents, guarantee
    from ..measure.temperature import fit_temperatures, scale_heads

    asked = read_speedups(speedups)
    check_output(output, folder=True)
    if not 0 <= min_f_kept <= 1:
        raise Refused(f"--min-f-kept must be a share, from 0 to 1, not {min_f_kept:g}.")
    bounds = read_bounds(min_kept or [])
    if (max_disagreement is None) != (held_out is None):
        raise Refused("--max-disagreement and --held-out go together.")
    nlp, ner = load(model, component, code)
    tasks = tasks_of(ner)
    for name in bounds:
        if name not in [task.name for task in tasks[1:]]:
            raise Refused(f"--min-kept: no component '{name}' shares the encoder of '{ner.name}'.")
    held = [] if held_out is None else read_texts(nlp, held_out)
    examples = read_texts(nlp, data) if unlabelled else read_corpus(nlp, ner, data)
    more = [] if texts is None else read_texts(nlp, texts)
    fresh = [eg.reference for eg in held]

    with refusing(ValueError):
        set_sentences(nlp, ner, [*held, *examples, *more])
        if max_disagreement is not None:
            check_documents(sum(len(doc) > 0 for doc in fresh), max_disagreement, confidence)
            examples, more = disjoint(examples, fresh), disjoint(more, fresh)
        if temperature:
            if unlabelled:
                raise ValueError("--temperature needs annotated texts.")
            saved = saved_now(ner, examples)
            asked = sorted({*asked, saved})
            for task in tasks:
                temperatures = fit_temperatures(task, examples)
                scale_heads(task, temperatures)
                of = f" of '{task.name}'" if len(tasks) > 1 else ""
                shown = ", ".join(f"{t:.2f}" for t in temperatures)
                msg.info(f"Temperatures{of}, by layer: {shown}")
        found = calibrate(
            ner,
            examples,
            asked,
            texts=[eg.reference for eg in more],
            with_score=not unlabelled,
            min_kept=None if unlabelled else min_f_kept or None,
            bounds=bounds,
            progress=progress,
        )
        if temperature and ner.speedup is None and any(task.threshold for task in tasks):
            threshold = found.threshold_for(min(saved, found.most))
            for task in tasks:
                configure(nlp, threshold=threshold, name=task.name)
            of = " of all tasks" if len(tasks) > 1 else ""
            msg.info(f"The threshold{of} is now {threshold:.4f}, to save {saved:.2f}X as before.")
        verdict = None
        if max_disagreement is not None:
            verdict = guarantee(ner, fresh, max_disagreement, confidence, progress=progress)
    show_curve(found, ner.main_score, {task.name: task.main_score for task in tasks[1:]})
    if asked[-1] > found.most:
        msg.warn(f"Speedups above {found.most:.2f} are out of reach.")
    if verdict is not None and max_disagreement is not None:
        show_guarantee(verdict, max_disagreement, confidence)
        for task in tasks:
            configure(nlp, threshold=verdict.threshold, name=task.name)
    with writing(output, ValueError):
        nlp.to_disk(output)
    msg.good(f"Saved the calibrated pipeline to {output}, measured on {found.words} words.")


def read_bounds(given: Sequence[str]) -> Dict[str, float]:
    """RETURNS (Dict[str, float]): The share for each component.

    given (Sequence[str]): NAME=SHARE, each.
    RAISES (Refused): If one is something else.
    """
    bounds = {}
    for one in given:
        name, _, share = one.rpartition("=")
        try:
            bounds[name] = float(share)
        except ValueError:
            bounds[name] = -1.0
        if not name or not 0 <= bounds[name] <= 1:
            raise Refused(f"--min-kept must be NAME=SHARE, such as tagger=0.99, not {one!r}.")
    return bounds


def show_curve(found: "Calibration", score: str, others: Mapping[str, str] = {}) -> None:
    """Print a calibration.

    found (Calibration): The calibration.
    score (str): Name of its points' score.
    others (Mapping[str, str]): Those of the other tasks of a shared pass, by component.
    """
    names = [name for name in others if name in found.points[0].others]
    rows = [
        (
            f"{point.speedup:.2f}",
            f"{point.threshold:.4f}",
            *show_score(found, point),
            *(cell for name in names for cell in show_other(found, point, name)),
        )
        for point in found.points
    ]
    header = ["speedup", "threshold", score.upper(), "kept", ""]
    header += [cell for name in names for cell in (others[name].upper(), "kept", "")]
    aligns: List[Literal["r", "c", "l"]] = ["r", "r", "r", "r", "l"]
    for _ in names:
        aligns += ["r", "r", "l"]
    print(table(rows, header=header, aligns=aligns))
    full = found.points[0].score
    if full is not None and full < CLOSE_TO_ZERO:
        msg.warn("The score at full depth is close to 0: train on more texts, or for more epochs.")
    elif found.min_kept is not None:
        show_kept(found)


def show_score(found: "Calibration", point: "Point") -> Tuple[str, str, str]:
    """RETURNS (Tuple[str, str, str]): The score of a point, the share of full depth's that it is,
    and what is wrong with that.

    found (Calibration): The calibration.
    point (Point): The point.
    """
    kept = found.kept(point)
    if point.score is None or kept is None:
        return "-" if point.score is None else f"{100 * point.score:.2f}", "-", ""
    return _shown(found, point, "", point.score)


def show_other(found: "Calibration", point: "Point", name: str) -> Tuple[str, str, str]:
    """RETURNS (Tuple[str, str, str]): The same for another task of a shared pass.

    found (Calibration): The calibration.
    point (Point): The point.
    name (str): Name of its component.
    """
    score = point.others[name].score
    if name not in found.shares(point):
        return f"{100 * score:.2f}", "-", ""
    return _shown(found, point, name, score)


def _shown(found: "Calibration", point: "Point", name: str, score: float) -> Tuple[str, str, str]:
    kept, error = found.shares(point)[name]
    doubt = f" ± {100 * DOUBT * error:.1f}" if error else ""
    loses = "loses" if name in found.losers(point) else ""
    return f"{100 * score:.2f}", f"{kept:.1%}{doubt}", loses


def show_kept(found: "Calibration") -> None:
    """Say up to which speedup the score is kept, and how well that is known.

    found (Calibration): A calibration with ``min_kept``.
    """
    shown, most = f"{found.min_kept:.1%} of the score at full depth", found.keeps_up_to
    errors = [of.error for point in found.points for of in found.shares(point).values()]
    worst = DOUBT * max((error or 0.0 for error in errors), default=0.0)
    how_sure = f"With so many texts, shares are known to within {100 * worst:.1f} points."
    if most < found.most:
        msg.warn(f"Speedups above {most:.2f} keep less than {shown}, beyond doubt.", how_sure)
    else:
        msg.info(f"No speedup is known to keep less than {shown}. {how_sure}")


def show_guarantee(found: "Guarantee", bound: float, confidence: float) -> None:
    """Print what was tested, in order, and the verdict.

    found (Guarantee): What was found.
    bound (float): The bound that was asked for.
    confidence (float): The confidence.
    """
    rows = [
        [
            f"{speedup:.2f}",
            f"{threshold:.4f}",
            f"{100 * verdict.mean:.3f} %",
            f"{verdict.p_value:.2g}",
            "passed" if verdict.passed else "failed",
        ]
        for (speedup, threshold), verdict in zip(found.candidates, found.verdicts)
    ]
    header = ["speedup", "threshold", "other tag", "p", ""]
    print(table(rows, header=header, aligns=["r", "r", "r", "r", "l"]))
    claim = f"at most {100 * bound:g} % of a document's words are expected to get another tag"
    if found.threshold:
        msg.good(
            f"At threshold {found.threshold:.4f} ({found.speedup:.2f}X), {claim} than at full "
            f"depth.",
            f"This holds with confidence {confidence:g} for documents from the same source as "
            f"these {found.documents}.",
        )
        return
    needed = documents_needed(found.verdicts[0].mean, bound, confidence)
    more = "More would not help" if needed is None else f"At this rate, {needed} would be enough"
    msg.warn(
        f"These {found.documents} documents do not show, with confidence {confidence:g}, that "
        f"{claim} at any setting below full depth.",
        f"{more} for {found.candidates[0][0]:.2f}X. The pipeline is saved with threshold = 0.",
    )


def disjoint(tuned: Sequence[Example], fresh: Sequence[Doc]) -> List[Example]:
    """Remove from the calibration the texts that the guarantee is tested on.

    tuned (Sequence[Example]): The texts of the calibration.
    fresh (Sequence[Doc]): The texts of the guarantee, which must not be used for any choice.
    RETURNS (List[Example]): The former without the latter, ignoring white space.
    """
    seen = {"".join(doc.text.split()) for doc in fresh}
    kept = [eg for eg in tuned if "".join(eg.reference.text.split()) not in seen]
    if len(kept) < len(tuned):
        msg.warn(
            f"{len(tuned) - len(kept)} texts are also in --held-out, and are not calibrated on. If "
            f"the pipeline was trained or its checkpoint chosen on them, the guarantee is void."
        )
    return kept
