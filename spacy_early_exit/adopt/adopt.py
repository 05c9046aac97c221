"""From an existing token classifier to a pipeline that exits early, without annotated texts.

Full depth is the checkpoint itself. Its answers replace an annotation. First the earlier heads
learn them (self-distillation). Then all layers learn them while words exit (self-sampling). The
score of each speedup is how far the answers agree with the checkpoint's.
"""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence, Tuple

import spacy
import torch
from spacy.language import Language
from spacy.parts_of_speech import IDS as UPOS
from spacy.tokens import DocBin
from spacy.training import Example
from spacy.training.initialize import init_nlp
from spacy.training.loop import train
from spacy.util import fix_random_seed
from thinc.api import Config

from ..budget.curve import Calibration
from ..configure import configure
from ..encoders.hugging_face import HFEncoder
from ..measure.calibrate import calibrate
from ..network.exit_network import ExitNetwork
from ..pipe.component import EarlyExitPipe
from ..recipe import BATCH_WORDS, score_weights
from ..tasks.tagger import Attribute
from .classifier import Task, TokenClassifier, read_token_classifier

MIN_TEXTS = 20
TUNE_SHARE, MAX_TUNE = 0.1, 2000
HELD_SPEEDUP = 2.5  # the speedup at which checkpoints of the second stage are compared
MAX_SPEEDUP = 3.0  # the largest that a pipeline is set to

FIRST_STAGE = {
    "@misc": "spacy-early-exit.JointTraining.v1",
    "distillation": 1.0,
    "detach_early_heads": True,
    "pseudo_labels": True,
}
SECOND_STAGE = {
    "@misc": "spacy-early-exit.SelfSampling.v1",
    "distillation": 4.0,
    "pseudo_labels": True,
}


@dataclass(frozen=True)
class Adoption:
    """What to adopt, and how.

    source (HFEncoder): The checkpoint.
    lang (str): The language, for spaCy's tokenizer.
    task (Optional[Task]): What its labels are; None: as ``read_token_classifier`` determines.
    epochs (int): Epochs of each of the two stages.
    keep_original (bool): Whether the checkpoint itself answers at full depth. That takes the
        checkpoint's size again, in memory and on disk. Otherwise full depth is trained, too.
    seed (int): It determines everything random.
    attribute (Attribute): The attribute that tags of words are set as: ``"tag"``, or ``"pos"`` if
        they are those of Universal Dependencies.
    min_agreement (float): How far the answers must agree with the checkpoint's own, from 0 to 1, at
        the speedup that the pipeline is set to.
    RAISES (ValueError): If there is nothing to train, or the agreement is out of bounds.
    """

    source: HFEncoder
    lang: str = "en"
    task: Optional[Task] = None
    epochs: int = 4
    keep_original: bool = True
    seed: int = 0
    attribute: Attribute = "tag"
    min_agreement: float = 0.95

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs must be 1 or more, not {self.epochs}.")
        if not 0 <= self.min_agreement <= 1:
            raise ValueError(f"min_agreement must be from 0 to 1, not {self.min_agreement}.")


def adopt(
    adoption: Adoption,
    texts: Sequence[str],
    speedups: Sequence[float],
    work: Path,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Tuple[Language, Calibration]:
    """Turn a token classifier into a calibrated pipeline.

    adoption (Adoption): What to adopt, and how.
    texts (Sequence[str]): Texts like those that it is to run on. A tenth is held out to choose
        checkpoints and to calibrate.
    speedups (Sequence[float]): Speedups to measure.
    work (Path): A folder for the stages of training.
    progress (Callable): Wraps the speedups while they are measured.
    RETURNS (Tuple[Language, Calibration]): The pipeline, at the speedup that ``fitting_speedup``
        finds, and its calibration. Its scores compare the answers with the checkpoint's own.
    RAISES (ValueError): If the checkpoint can't be adopted, or there are too few texts.
    """
    texts = list(dict.fromkeys(text for text in texts if text.strip()))
    if len(texts) < MIN_TEXTS:
        raise ValueError(
            f"{len(texts)} different texts are too few to learn from: at least {MIN_TEXTS} are "
            f"needed, and a few thousand for good results."
        )
    head = read_token_classifier(adoption.source, adoption.task)
    check_attribute(adoption, head)
    nlp, pipe, original = checkpoint_pipeline(adoption, head)
    nlp.to_disk(work / "untrained")
    words, tune = label(nlp, pipe, texts, work, adoption.seed)
    trained_in = train_stages(adoption, nlp, pipe, work, words)

    trained, its_pipe = blank_pipeline(adoption, head)
    its_pipe.from_disk(trained_in / pipe.name, exclude=["vocab"])
    if adoption.keep_original:
        its_pipe.model.shims[0].keep_original(original)
    found = calibrate(its_pipe, tune, speedups, progress=progress)
    speedup = fitting_speedup(found, speedups, adoption.min_agreement)
    configure(trained, speedup=speedup, name=pipe.name)
    return trained, found


def check_attribute(adoption: Adoption, head: TokenClassifier) -> None:
    """Check, before hours of training, that the labels suit the attribute.

    adoption (Adoption): What to adopt, and how.
    head (TokenClassifier): What the checkpoint adds to its encoder.
    RAISES (ValueError): If they do not. The message says what can be done.
    """
    if adoption.attribute == "tag":
        return
    if head.task != "tagger":
        raise ValueError(
            f"The labels of {adoption.source.name!r} are for entities, which can't be set as "
            f"{adoption.attribute}. Leave out --attribute, or use --task tagger to treat them as "
            f"tags of single words."
        )
    others = [name for name in head.labels if name not in UPOS]
    if others:
        raise ValueError(
            f"Some labels of {adoption.source.name!r} are not parts of speech of Universal "
            f"Dependencies, so they can't be set as pos: {', '.join(others)}. Use --attribute tag."
        )


def agreement(found: Calibration, speedup: float) -> float:
    """RETURNS (float): How far the answers at a speedup agree with the checkpoint's own; if that
    speedup was not measured, at the next larger one that was.

    found (Calibration): The calibration.
    speedup (float): The speedup, within reach.
    """
    threshold = found.threshold_for(speedup)
    score = next(point.score for point in found.points if point.threshold >= threshold)
    return 1.0 if score is None else score  # None: neither found any entity


def within_reach(found: Calibration, speedups: Sequence[float]) -> List[float]:
    """RETURNS (List[float]): The speedups that the pipeline can be set to.

    found (Calibration): The calibration.
    speedups (Sequence[float]): The speedups that were asked for.
    """
    return [speedup for speedup in speedups if speedup <= min(MAX_SPEEDUP, found.most)]


def fitting_speedup(found: Calibration, speedups: Sequence[float], least: float) -> float:
    """Find the largest speedup at which the answers still agree with the checkpoint's own.

    found (Calibration): The calibration.
    speedups (Sequence[float]): The speedups that were asked for.
    least (float): The smallest valid agreement.
    RETURNS (float): The largest such speedup up to 3; 1, which is full depth, if there is none.
    """
    reached = within_reach(found, speedups)
    return max((one for one in reached if agreement(found, one) >= least), default=1.0)


def checkpoint_pipeline(
    adoption: Adoption, head: TokenClassifier
) -> Tuple[Language, EarlyExitPipe, ExitNetwork]:
    """RETURNS (Tuple[Language, EarlyExitPipe, ExitNetwork]): A pipeline that is the checkpoint at
    full depth, with untrained earlier heads; its component; and its network.

    adoption (Adoption): What to adopt, and how.
    head (TokenClassifier): What the checkpoint adds to its encoder.
    """
    fix_random_seed(adoption.seed)  # the earlier heads are drawn before training begins
    nlp, pipe = blank_pipeline(adoption, head)
    nlp.initialize(lambda: [Example(nlp.make_doc(""), nlp.make_doc(""))])
    network = pipe.model.shims[0].trained.network
    deepest = network.head(network.spec.layers)
    with torch.no_grad():
        deepest.weight.copy_(head.weight)
        deepest.bias.copy_(head.bias)
    pipe.model.shims[0].weights_changed()
    return nlp, pipe, network


def blank_pipeline(adoption: Adoption, head: TokenClassifier) -> Tuple[Language, EarlyExitPipe]:
    """RETURNS (Tuple[Language, EarlyExitPipe]): A pipeline with the checkpoint's labels, without
    weights, and its component.

    adoption (Adoption): What to adopt, and how.
    head (TokenClassifier): What the checkpoint adds to its encoder.
    """
    nlp = spacy.blank(adoption.lang)
    encoder = {
        "@misc": "spacy-early-exit.HFEncoder.v1",
        "name": adoption.source.name,
        "revision": adoption.source.revision,
    }
    config = {
        # Full depth is the checkpoint, so wordpieces must be those that it was trained on. Whether
        # heads that see neighbours agree with it more often has not been measured.
        "model": {"encoder": encoder, "shared_wordpieces": "keep", "head_window": 0},
        "decoder": {"@misc": "spacy-early-exit.Greedy.v1"},
        "training": SECOND_STAGE,
        "halt_special": True,
    }
    if head.task == "tagger":
        config["attribute"] = adoption.attribute
    pipe = nlp.add_pipe(f"early_exit_{head.task}", config=config)
    for name in head.labels:
        pipe.add_label(name)
    nlp.config["training"]["score_weights"] = score_weights(nlp, pipe)
    return nlp, pipe


def label(
    nlp: Language, pipe: EarlyExitPipe, texts: Sequence[str], work: Path, seed: int
) -> Tuple[int, List[Example]]:
    """Have the checkpoint annotate the texts, and split them.

    nlp (Language): The pipeline, which is the checkpoint at full depth.
    pipe (EarlyExitPipe): Its component.
    texts (Sequence[str]): The texts.
    work (Path): Where ``train.spacy`` and ``tune.spacy`` are written.
    seed (int): It determines which texts are held out.
    RETURNS (Tuple[int, List[Example]]): The number of words to train on, and the texts that are
        held out.
    """
    full_depth = {pipe.name: {"threshold": 0.0}}
    docs = [doc for doc in nlp.pipe(texts, component_cfg=full_depth) if len(doc)]
    random.Random(seed).shuffle(docs)
    held_out = min(max(1, int(len(docs) * TUNE_SHARE)), MAX_TUNE)
    for name, part in (("tune", docs[:held_out]), ("train", docs[held_out:])):
        DocBin(docs=part).to_disk(work / f"{name}.spacy")
    words = sum(map(len, docs[held_out:]))
    return words, [Example(nlp.make_doc(doc.text), doc) for doc in docs[:held_out]]


def train_stages(
    adoption: Adoption, nlp: Language, pipe: EarlyExitPipe, work: Path, words: int
) -> Path:
    """Train the earlier heads, then the whole network.

    adoption (Adoption): What to adopt, and how.
    nlp (Language): The pipeline, as saved in ``untrained``.
    pipe (EarlyExitPipe): Its component.
    work (Path): The folder of texts and stages.
    words (int): The number of words to train on.
    RETURNS (Path): The folder of the trained pipeline.
    """
    steps = max(1, -(-words * adoption.epochs // BATCH_WORDS))
    stages = [
        ("first", {"training": FIRST_STAGE, "freeze_full_depth": True}, 2e-4, steps),
        ("second", {"training": SECOND_STAGE, "freeze_full_depth": False}, 1e-4, -(-steps // 4)),
    ]
    start = work / "untrained"
    for stage, changes, rate, every in stages:
        config = training_config(nlp, pipe, start, work, adoption.seed, rate, steps, every)
        settings = config["components"][pipe.name]
        settings["training"] = changes["training"]
        settings["model"]["freeze_full_depth"] = changes["freeze_full_depth"]
        if stage == "first":  # the pipeline of the last step counts
            del config["training"]["before_update"]
            config["training"]["dropout"] = 0.0
        (work / stage).mkdir()
        train(init_nlp(config), work / stage)
        start = work / stage / ("model-last" if stage == "first" else "model-best")
    return start


def training_config(
    nlp: Language,
    pipe: EarlyExitPipe,
    start: Path,
    work: Path,
    seed: int,
    rate: float,
    steps: int,
    every: int,
) -> Config:
    """RETURNS (Config): The config of ``spacy train`` for a stage of training.

    nlp (Language): The pipeline.
    pipe (EarlyExitPipe): Its component.
    start (Path): The pipeline to continue from.
    work (Path): The folder of the texts.
    seed (int): It determines everything random.
    rate (float): Learning rate of the encoder.
    steps (int): Number of steps.
    every (int): Steps between evaluations.
    """
    tune = str(work / "tune.spacy")
    parts = {"train": str(work / "train.spacy"), "dev": tune}
    config = Config(nlp.config).copy()
    config["corpora"] = {
        part: {"@readers": "spacy.Corpus.v1", "path": path, "max_length": 0}
        for part, path in parts.items()
    }
    config["system"] = {**config["system"], "seed": seed}
    config["initialize"]["components"] = {pipe.name: {"start_from": str(start)}}
    training: Dict[str, Any] = {
        "seed": seed,
        "dropout": 0.1,
        "patience": 0,
        "max_steps": steps,
        "eval_frequency": every,
        "batcher": {
            "@batchers": "spacy.batch_by_words.v1",
            "size": BATCH_WORDS,
            "tolerance": 0.2,
            "discard_oversize": False,
        },
        "optimizer": {
            "@optimizers": "spacy-early-exit.Adam.v1",
            "learn_rate": {
                "@schedules": "warmup_linear.v1",
                "initial_rate": rate,
                "warmup_steps": max(1, steps // 10),
                "total_steps": steps,
            },
        },
        "before_update": {
            "@callbacks": "spacy-early-exit.hold_saving.v1",
            "path": tune,
            "speedup": HELD_SPEEDUP,
            "every": every,
            "component": pipe.name,
        },
    }
    config["training"] = {**config["training"], **training}
    return config
