"""A training config that suits transformers, as ``init-config`` writes it.

It is the same as configs/joint.cfg, in which each setting has a comment.
"""

import json
import math
from pathlib import Path
from typing import Any, Dict, Iterable, NamedTuple, Optional

from spacy.language import Language
from spacy.tokens import Doc
from spacy.util import load_model_from_config
from thinc.api import Config

from .encoders.hugging_face import HFEncoder
from .network.families import read_spec
from .pipe.component import EarlyExitPipe
from .tasks.ner import DEFAULT_CONFIG

DEFAULT_ENCODER: str = DEFAULT_CONFIG["model"]["encoder"]["name"]
SECOND_STAGE = "spacy-early-exit.SelfSampling.v1"
LATER_STAGES = (SECOND_STAGE, "spacy-early-exit.ReductionTraining.v1")


class Recipe(NamedTuple):
    """How encoders of a size are trained.

    rate (float): Largest learning rate of the first stage.
    second_rate (float): Largest learning rate of stages that go on from another.
    batch_words (int): Number of words of a step.
    """

    rate: float
    second_rate: float
    batch_words: int


NARROW = 512  # encoders narrower than this are small
SMALL = Recipe(rate=2e-4, second_rate=1e-4, batch_words=600)  # chosen with MiniLM, of width 384
BASE = Recipe(rate=1e-4, second_rate=1e-4, batch_words=300)  # chosen with MPNet, of width 768
BATCH_WORDS = SMALL.batch_words  # of the steps that others are reckoned in
STEPS = 1000  # if there is no corpus to count
EPOCHS, MIN_STEPS, MAX_EPOCHS = 4, 400, 40  # of each stage
EVALUATIONS = 10  # at most
# Of SelfSampling.v1 and average_weights.v1, for corpora that get more than EPOCHS.
MAX_SPEEDUP, FIRST_SHARE = 4.5, 0.3

RECIPE = f"""
[paths]
train = null
dev = null

[system]
seed = 0
gpu_allocator = "pytorch"

[nlp]
batch_size = 1000

[training]
seed = ${{system.seed}}
gpu_allocator = ${{system.gpu_allocator}}
dropout = 0.1
accumulate_gradient = 1
patience = 0
max_epochs = 0
max_steps = {STEPS}
eval_frequency = {STEPS // 10}

[training.batcher]
@batchers = "spacy.batch_by_words.v1"
size = {BATCH_WORDS}
tolerance = 0.2
discard_oversize = false

[training.logger]
@loggers = "spacy.ConsoleLogger.v3"
progress_bar = "train"
console_output = true
output_file = null

[training.optimizer]
@optimizers = "spacy-early-exit.Adam.v1"
beta1 = 0.9
beta2 = 0.999
L2_is_weight_decay = true
L2 = 0.01
grad_clip = 1.0
eps = 1e-8
use_averages = false

[training.optimizer.learn_rate]
@schedules = "warmup_linear.v1"
warmup_steps = {STEPS // 10}
total_steps = ${{training.max_steps}}

[initialize]
vectors = null
"""


def training_config(
    lang: str, kind: str, encoder: str, learn_rate: float, batch_words: int = BATCH_WORDS
) -> Config:
    """Make a config for ``spacy train``, with all settings.

    lang (str): The language, for spaCy's tokenizer.
    kind (str): The component, by its factory.
    encoder (str): Hub id or folder of the pre-trained encoder.
    learn_rate (float): The largest learning rate of the encoder.
    batch_words (int): Number of words of a step.
    RETURNS (Config): The config.
    """
    config = Config().from_str(RECIPE, interpolate=False)
    config["paths"]["encoder"] = encoder
    config["nlp"].update(lang=lang, pipeline=[kind])
    from_paths = {"@misc": "spacy-early-exit.HFEncoder.v1", "name": "${paths.encoder}"}
    config["components"] = {kind: {"factory": kind, "model": {"encoder": from_paths}}}
    config["training"]["optimizer"]["learn_rate"]["initial_rate"] = learn_rate
    config["training"]["batcher"]["size"] = batch_words
    nlp = load_model_from_config(config, auto_fill=True)
    filled: Config = nlp.config
    filled["training"]["score_weights"] = score_weights(nlp, nlp.get_pipe(kind))
    return filled


def score_weights(nlp: Language, pipe: EarlyExitPipe) -> Dict[str, Optional[float]]:
    """RETURNS (Dict[str, Optional[float]]): The weights that choose checkpoints: only the
    component's main score has one. Other weighted scores are of attributes that it does not set,
    and would count as 0. The threshold is only shown.

    nlp (Language): The pipeline.
    pipe (EarlyExitPipe): The component.
    """
    weights = nlp.get_pipe_meta(pipe.name).default_score_weights
    others = {name: None if weight else weight for name, weight in weights.items()}
    return {**others, "threshold": 0.0, pipe.main_score: 1.0}


def count_words(docs: Iterable[Doc], kind: str) -> int:
    """RETURNS (int): The number of words in a corpus; of characters, if these are tagged.

    docs (Iterable[Doc]): The corpus.
    kind (str): The component, by its factory.
    """
    if kind == "early_exit_segmenter":
        return sum(len("".join(doc.text.split())) for doc in docs)
    return sum(len(doc) for doc in docs)


def set_steps(
    config: Config,
    words: int,
    epochs: int,
    evaluate_every: float = 0.5,
    min_steps: int = 0,
    max_epochs: int = MAX_EPOCHS,
) -> int:
    """Fit the steps of a config to a corpus: the total, the warm-up (a tenth) and those between
    evaluations. Small corpora are passed over more often, since an encoder takes some hundred steps
    to learn a task, whatever the corpus.

    config (Config): The config, changed in place.
    words (int): Number of words in the corpus.
    epochs (int): Number of passes over the corpus.
    evaluate_every (float): Epochs between evaluations. There are at most ``EVALUATIONS``, and as
        many as the epochs have if these are few.
    min_steps (int): With fewer steps of ``BATCH_WORDS`` words, or as many more as they are smaller,
        there are more epochs.
    max_epochs (int): But no more than this.
    RETURNS (int): Number of passes over the corpus.
    """
    batcher: Dict[str, Any] = config["training"]["batcher"]
    batcher = batcher.get("batcher", batcher)  # that of a search is inside another
    to_an_epoch: int = math.ceil(words / batcher["size"])
    least = min_steps * BATCH_WORDS / batcher["size"]
    epochs = max(epochs, min(math.ceil(least / to_an_epoch), max_epochs))
    fix_steps(config, epochs * to_an_epoch, evaluate_every * to_an_epoch)
    return epochs


def fix_steps(config: Config, steps: int, evaluate_every: float = 0.0) -> None:
    """Set the steps of a config: the total, the warm-up (a tenth) and those between evaluations.

    config (Config): The config, changed in place.
    steps (int): The total.
    evaluate_every (float): Steps between evaluations. There are at most ``EVALUATIONS``.
    """
    training: Dict[str, Any] = config["training"]
    training["max_steps"] = steps
    training["eval_frequency"] = max(1, int(max(evaluate_every, steps / EVALUATIONS)))
    training["optimizer"]["learn_rate"].update(warmup_steps=max(1, steps // 10), total_steps=steps)


def fit_encoder(config: Config, encoder: str) -> None:
    """Fit the learning rate and the batches of a config, which is for a small encoder, to the size
    of another.

    config (Config): The config, changed in place.
    encoder (str): Hub id or folder.
    RAISES (ValueError): As ``recipe_for``.
    """
    recipe, training = recipe_for(encoder), config["training"]
    stages = [block.get("training", {}) for block in config["components"].values()]
    ratio = recipe.rate / SMALL.rate
    if any(stage.get("@misc") in LATER_STAGES for stage in stages):
        ratio = recipe.second_rate / SMALL.second_rate
    training["optimizer"]["learn_rate"]["initial_rate"] *= ratio
    batcher: Dict[str, Any] = training["batcher"]
    batcher.get("batcher", batcher)["size"] = recipe.batch_words  # that of a search is inside


def recipe_for(encoder: str) -> Recipe:
    """RETURNS (Recipe): How an encoder is trained. If its size can't be found out, it is that for
    base size.

    encoder (str): Hub id or folder.
    RAISES (ValueError): If there is no such folder, or its config.json can't be read, or its family
        is not supported.
    """
    if encoder == DEFAULT_ENCODER:
        return SMALL
    source = HFEncoder(encoder)
    source.check_folder()
    described = Path(source.place) / "config.json"
    if not described.is_file():
        return BASE
    try:
        config = json.loads(described.read_text(encoding="utf8"))
    except ValueError as e:
        raise ValueError(f"{described} is not valid JSON: {e}") from e
    if not isinstance(config, dict):
        raise ValueError(f"{described} is not a JSON object.")
    return SMALL if read_spec(config).hidden_size < NARROW else BASE
