"""``spacy early-exit init-config``: a config that trains well."""

import math
from pathlib import Path
from typing import List, Optional, cast

import typer
from spacy.tokens import Doc
from spacy.util import load_model_from_config
from thinc.api import Config
from wasabi import msg

from ..pipe.component import EarlyExitPipe
from .app import ANNOTATED, check_output, early_exit, read_corpus
from .refusals import Refused, refusing, writing

KINDS = ("early_exit_ner", "early_exit_tagger", "early_exit_segmenter")


@early_exit.command("init-config")
def init_config_cli(
    output: Path = typer.Argument(..., help="Where to write the config"),
    lang: str = typer.Option("en", "--lang", "-l", help="Language of spaCy's tokenizer"),
    pipeline: str = typer.Option(KINDS[0], "--pipeline", "-p", help=f"One of {', '.join(KINDS)}"),
    encoder: Optional[str] = typer.Option(
        None, "--encoder", "-e", help="Hub id or folder of the encoder. By default all-MiniLM-L6-v2"
    ),
    train: Optional[Path] = typer.Option(
        None, "--train", "-t", help=f"{ANNOTATED}. The number of steps then suits their length"
    ),
    epochs: Optional[int] = typer.Option(
        None, "--epochs", "-n", min=1, help="Epochs over --train. By default more if it is small"
    ),
    learn_rate: Optional[float] = typer.Option(
        None,
        "--learn-rate",
        "-r",
        help="Learning rate of the encoder. By default one that suits its size",
    ),
    force: bool = typer.Option(False, "--force", "-F", help="Replace an existing file"),
) -> None:
    """Write a training config whose learning rate, steps and batches suit a transformer.

    spaCy's own `init config` writes a learning rate at which transformers forget what they know.
    """
    from ..recipe import (
        DEFAULT_ENCODER,
        EPOCHS,
        MIN_STEPS,
        count_words,
        recipe_for,
        set_steps,
        training_config,
    )

    check_output(output, folder=False)
    if output.exists() and not force:
        raise Refused(f"{output} already exists.", "Replace it with --force.")
    if pipeline not in KINDS:
        raise Refused(f"--pipeline must be one of {', '.join(KINDS)}, not {pipeline!r}.")
    name = DEFAULT_ENCODER if encoder is None else encoder
    rate = rate_of(name, learn_rate)
    with refusing(ValueError, ImportError, title="Can't make such a config."):
        recipe = recipe_for(name)
        config = training_config(lang, pipeline, name, rate, recipe.batch_words)
    if train is not None:
        words = count_words(texts_of(train, config, pipeline), pipeline)
        epochs = set_steps(config, words, epochs or EPOCHS, min_steps=0 if epochs else MIN_STEPS)
        steps = config["training"]["max_steps"] // epochs
        msg.info(f"{words:,} words, {epochs} epochs of {steps} steps")
    ready = train is not None and train.suffix == ".spacy"
    if ready:
        config["paths"]["train"] = str(train)
    elif train is not None:
        msg.warn(
            f"spaCy trains on .spacy files: python -m spacy early-exit convert {train} train.spacy"
        )
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        config.to_disk(output)
    told = f"Its learning rate is {rate:g}, with {recipe.batch_words} words a step."
    msg.good(f"Saved the config to {output}", told)
    rest = "" if ready else " --paths.train train.spacy"
    print(f"python -m spacy train {output} --output training{rest} --paths.dev dev.spacy")


def rate_of(encoder: str, asked: Optional[float]) -> float:
    """RETURNS (float): The learning rate that was asked for, or the one that suits the encoder.

    encoder (str): Hub id or folder.
    asked (Optional[float]): The learning rate that was asked for; None: none was.
    RAISES (Refused): If the learning rate or the encoder is invalid.
    """
    from ..model.shim import MAX_LEARN_RATE
    from ..recipe import recipe_for

    with refusing(ValueError, OSError, title=f"--encoder can't be {encoder!r}."):
        suited = recipe_for(encoder).rate
    if asked is None:
        return suited
    if not 0 < asked < math.inf:
        raise Refused(f"--learn-rate must be above 0, such as {suited:g}, not {asked:g}.")
    if asked > MAX_LEARN_RATE:
        msg.warn(
            f"A learning rate of {asked:g} makes transformers forget what they know. "
            f"{suited:g} suits this one."
        )
    return asked


def texts_of(path: Path, config: Config, kind: str) -> List[Doc]:
    """Read a corpus.

    path (Path): A ``.spacy`` file, or for entities a ``.jsonl`` file.
    config (Config): The config that is to train on it.
    kind (str): The component, by its factory.
    RETURNS (List[Doc]): The texts.
    RAISES (CorpusError): If they can't be read.
    RAISES (Refused): If there is nothing to learn from.
    """
    nlp = load_model_from_config(config)
    pipe = cast(EarlyExitPipe, nlp.get_pipe(kind))
    docs = [eg.reference for eg in read_corpus(nlp, pipe, path)]
    if not any(doc.text.strip() for doc in docs):
        raise Refused(f"{path} has no words to train on.")
    return docs
