"""Train with few labels and many texts without annotation: rounds of self-training, then exits.

A teacher learns the labelled texts. In every round it gives tags to the other texts, a new network
learns these tags (configs/meta_self_training.cfg) and is then fine-tuned on the labelled texts. If
that is the best so far on tune, it is the next teacher. At the end all texts, with the last
teacher's tags, train the second stage (configs/self_sampling.cfg), in which words exit.

Each training is a run of `spacy train` in a folder of its own. If the script is started again,
finished runs are not repeated, unless their config or the texts have changed. Of each run the last
pipeline is kept: the best of several scores on so few labelled texts is the luckiest.
"""

import argparse
import hashlib
import json
import math
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import spacy
from spacy.cli.train import train as spacy_train
from spacy.tokens import DocBin
from spacy.training import Corpus
from spacy.util import load_config
from thinc.api import Config

from spacy_early_exit.measure.calibrate import PARTS, Run, run_in_parts
from spacy_early_exit.measure.docs import annotated
from spacy_early_exit.recipe import BATCH_WORDS, fit_encoder, fix_steps

NER = "early_exit_ner"
CONFIGS = Path(__file__).parent.parent / "configs"
FINISHED = "finished.txt"  # in the folder of a run: what it was a run of
# Student's t for 1, 2, … degrees of freedom: of 100 differences that are chance, 5 are more
# standard errors above 0.
DOUBT = (6.31, 2.92, 2.35, 2.13, 2.02, 1.94, 1.89, 1.86, 1.83, 1.81, 1.80, 1.78, 1.77, 1.76, 1.75)


@dataclass
class Candidate:
    """A pipeline that may be the next teacher.

    name (str): Its run.
    ents_f (float): F on tune, at full depth.
    ents_f_doubt (float | None): How much more or less it may be on other texts; None if that can't
        be known.
    gain (float | None): F above the best before it.
    gain_doubt (float | None): The same for this difference.
    chosen (bool): Whether it is the best so far.
    """

    name: str
    ents_f: float
    ents_f_doubt: float | None
    gain: float | None = None
    gain_doubt: float | None = None
    chosen: bool = True


class Runs:
    """Runs of training, one after the other. What follows a run depends on it.

    args (argparse.Namespace): The script's arguments.
    """

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.history = hashlib.sha256(args.encoder.encode())
        for part in ("train", "tune", "unlabelled", "texts"):
            self.history.update((args.corpus / f"{part}.spacy").read_bytes())
        for file in sorted(args.teacher.rglob("*.safetensors")) if args.teacher else ():
            self.history.update(file.read_bytes())

    def config(self, template: str, steps: int, rate: float = 1.0) -> Config:
        """RETURNS (Config): A config of the project, for these texts.

        template (str): Its file name.
        steps (int): Number of steps, if these have as many words as those of a small encoder.
        rate (float): Factor of the learning rate.
        """
        config = load_config(CONFIGS / template, interpolate=False)
        corpus = self.args.corpus
        config["paths"].update(
            train=str(corpus / "train.spacy"),
            dev=str(corpus / "tune.spacy"),
            encoder=self.args.encoder,
        )
        config["nlp"]["lang"] = self.args.lang
        config["system"]["seed"] = self.args.seed
        config["components"][NER]["threshold"] = 0.0  # teachers are compared at full depth
        config["components"][NER]["model"]["mixed_precision"] = self.args.mixed_precision
        fit_encoder(config, self.args.encoder)
        steps = max(1, round(steps * BATCH_WORDS / config["training"]["batcher"]["size"]))
        fix_steps(config, steps, evaluate_every=steps)
        config["training"]["optimizer"]["learn_rate"]["initial_rate"] *= rate
        return config

    def run(self, name: str, config: Config, prepare: Callable[[], None] | None = None) -> Path:
        """RETURNS (Path): The last pipeline of a training, unless it is there already.

        name (str): The run, which is also its folder.
        config (Config): What to train.
        prepare (Callable[[], None] | None): Makes what it needs.
        """
        folder: Path = self.args.output / name
        self.history.update(config.to_str(interpolate=False).encode())
        finished, key = folder / FINISHED, self.history.hexdigest()
        if finished.is_file() and finished.read_text() == key:
            print(f"{name}: finished before")
            return folder / "model-last"
        print(f"{name}:", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        config.to_disk(folder / "config.cfg")
        if prepare is not None:
            prepare()
        spacy_train(folder / "config.cfg", folder, use_gpu=self.args.gpu)
        shutil.rmtree(folder / "model-best")
        finished.write_text(key)
        return folder / "model-last"


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path, help="folder that prepare_few.py wrote")
    parser.add_argument("encoder", help="folder in Hugging Face's format, or a hub id")
    parser.add_argument("output", type=Path, help="folder for all runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600, help="of each round's student")
    parser.add_argument("--few-steps", type=int, default=400, help="of the first teacher")
    parser.add_argument("--fine-tune-steps", type=int, default=100, help="on the labelled texts")
    parser.add_argument("--exit-steps", type=int, default=600, help="with exits; 0: no exits")
    parser.add_argument("--speedup", type=float, default=2.5, help="whose threshold is saved")
    parser.add_argument("--teacher", type=Path, help="a pipeline, in place of a first teacher")
    parser.add_argument("--stage", default="{}", help="settings of MetaSelfTraining.v1, as JSON")
    parser.add_argument("--mixed-precision", action="store_true", help="train in bfloat16")
    parser.add_argument("--lang", default="en")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gpu", type=int, default=-1)
    args = parser.parse_args()
    runs = Runs(args)
    teacher = args.teacher or runs.run("teacher", runs.config("joint.cfg", args.few_steps))
    best, known = teacher, measure(teacher, args.corpus / "tune.spacy")
    found = [Candidate("teacher", known.point.score or 0.0, doubt_of(known))]
    tell(found[0])
    for number in range(1, args.rounds + 1):
        tuned = one_round(runs, f"round-{number}", best)
        measured = measure(tuned, args.corpus / "tune.spacy")
        found.append(compared(f"round-{number}", measured, known))
        tell(found[-1])
        if found[-1].chosen:
            best, known = tuned, measured
    args.output.mkdir(parents=True, exist_ok=True)  # there may have been no run
    text = json.dumps([asdict(candidate) for candidate in found], indent=1)
    (args.output / "rounds.json").write_text(text + "\n", encoding="utf8")
    replace(best, args.output / "full-depth")
    if args.exit_steps:
        replace(with_exits(runs, best), args.output / "exits")


def one_round(runs: Runs, name: str, teacher: Path) -> Path:
    """RETURNS (Path): A student of a teacher, fine-tuned on the labelled texts.

    runs (Runs): The runs.
    name (str): The round.
    teacher (Path): The pipeline that gives tags.
    """
    args = runs.args
    config = runs.config("meta_self_training.cfg", args.steps)
    config["paths"]["teacher"] = str(teacher)
    config["paths"]["unlabelled"] = str(args.corpus / "unlabelled.spacy")
    config["components"][NER]["training"].update(json.loads(args.stage))
    student = runs.run(f"{name}/student", config)
    config = runs.config("joint.cfg", args.fine_tune_steps, rate=0.1)
    config["initialize"]["components"] = {NER: {"start_from": str(student)}}
    return runs.run(f"{name}/fine-tuned", config)


def with_exits(runs: Runs, teacher: Path) -> Path:
    """RETURNS (Path): The second stage, trained on the labelled texts and on all others with the
    tags of a teacher.

    runs (Runs): The runs.
    teacher (Path): The pipeline that gives tags, and that the second stage starts from.
    """
    args = runs.args
    tagged = args.output / "pseudo_labelled.spacy"

    def tag() -> None:
        nlp = spacy.load(teacher)
        files = [args.corpus / f"{part}.spacy" for part in ("train", "unlabelled")]
        few, raw = (list(DocBin().from_disk(file).get_docs(nlp.vocab)) for file in files)
        docs = [*few, *annotated(nlp.get_pipe(NER), raw, threshold=0.0)]
        DocBin(docs=docs).to_disk(tagged)

    config = runs.config("self_sampling.cfg", args.exit_steps)
    config["paths"].update(train=str(tagged), first_stage=str(teacher))
    config["training"]["before_update"].update(
        path=str(args.corpus / "texts.spacy"), speedup=args.speedup
    )
    return runs.run("second-stage", config, prepare=tag)


def measure(pipeline: Path, tune: Path) -> Run:
    """RETURNS (Run): The score of a pipeline on tune at full depth; and without a part of it each.

    pipeline (Path): The pipeline.
    tune (Path): Labelled texts, .spacy.
    """
    nlp = spacy.load(pipeline)
    return run_in_parts(nlp.get_pipe(NER), list(Corpus(tune)(nlp)), 0.0, PARTS)


def doubt_of(run: Run, other: Run | None = None) -> float | None:
    """Estimate how much a score, or a difference of two, may differ on other texts.

    Source: the delete-a-group jackknife.

    run (Run): The run.
    other (Run | None): The run to compare it with.
    RETURNS (float | None): The doubt; None if it can't be known: of one text, or where all texts
        tell the same, as if there were no chance.
    """
    values: Sequence[float] = run.without.get(NER, ())
    if other is not None:
        values = [one - two for one, two in zip(values, other.without.get(NER, ()), strict=True)]
    spread = statistics.pvariance(values) if values else 0.0
    if spread < 1e-12:
        return None
    degrees = len(values) - 1
    return DOUBT[min(degrees, len(DOUBT)) - 1] * math.sqrt(degrees * spread)


def compared(name: str, run: Run, best: Run) -> Candidate:
    """RETURNS (Candidate): A pipeline beside the best before it. Equally good ones are chosen: they
    have learnt from more.

    name (str): The run.
    run (Run): What it scores.
    best (Run): What the best before it scores.
    """
    score, other = run.point.score or 0.0, best.point.score or 0.0
    gain, doubt = score - other, doubt_of(run, best)
    return Candidate(name, score, doubt_of(run), gain, doubt, chosen=gain >= 0)


def tell(candidate: Candidate) -> None:
    """Print how good a pipeline is, and how sure that is."""
    text = f"{candidate.name}: F {shown(candidate.ents_f, candidate.ents_f_doubt)} on tune"
    if candidate.gain is not None:
        sign = "+" * (candidate.gain >= 0)
        text += f", {sign}{shown(candidate.gain, candidate.gain_doubt)} beside the best before it"
        if candidate.gain_doubt is None or abs(candidate.gain) <= candidate.gain_doubt:
            text += ", which may be chance"
        text += ". It is the next teacher" if candidate.chosen else ". The teacher stays"
    doubts = [candidate.ents_f_doubt] + [candidate.gain_doubt] * (candidate.gain is not None)
    print(f"{text}." + " These texts can't tell how sure that is." * (None in doubts), flush=True)


def shown(value: float, doubt: float | None) -> str:
    """RETURNS (str): A number in percent, with its doubt."""
    return f"{100 * value:.1f}" + (f" ± {100 * doubt:.1f}" if doubt is not None else "")


def replace(pipeline: Path, folder: Path) -> None:
    """Copy a pipeline to a folder, in place of what is there."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(pipeline, folder)


if __name__ == "__main__":
    main()
