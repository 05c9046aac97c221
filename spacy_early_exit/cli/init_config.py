"""``spacy early-exit init-config``: a config that trains well."""

from pathlib import Path
from typing import List, Optional

import typer
from spacy.tokens import Doc, DocBin
from spacy.vocab import Vocab
from wasabi import msg

from .app import check_output, early_exit

KINDS = ("early_exit_ner", "early_exit_tagger", "early_exit_segmenter")


@early_exit.command("init-config")
def init_config_cli(
    output: Path = typer.Argument(..., help="Where to write the config"),
    lang: str = typer.Option("en", "--lang", "-l", help="Language, for spaCy's tokenizer"),
    pipeline: str = typer.Option(KINDS[0], "--pipeline", "-p", help=f"One of {', '.join(KINDS)}"),
    encoder: Optional[str] = typer.Option(
        None, "--encoder", "-e", help="Hub id or folder of the encoder. Without: all-MiniLM-L6-v2"
    ),
    train: Optional[Path] = typer.Option(
        None, "--train", "-t", help="Training corpus, .spacy: steps are then fitted to its length"
    ),
    epochs: int = typer.Option(4, "--epochs", "-n", min=1, help="How often --train is to be seen"),
    learn_rate: Optional[float] = typer.Option(
        None, "--learn-rate", "-r", help="Of the encoder. Without: what suits its size"
    ),
    force: bool = typer.Option(False, "--force", "-F", help="Replace a file that is there"),
) -> None:
    """Write a training config whose learning rate, steps and batches suit a transformer.

    spaCy's own `init config` writes a learning rate at which transformers forget what they know.
    """
    from ..recipe import (
        DEFAULT_ENCODER,
        RATE,
        RATE_SMALL,
        count_words,
        learn_rate_for,
        set_steps,
        training_config,
    )

    check_output(output, folder=False)
    if output.exists() and not force:
        msg.fail(f"{output} is already there. Replace it with --force.", exits=1)
    if pipeline not in KINDS:
        msg.fail(f"--pipeline must be one of {', '.join(KINDS)}, not {pipeline!r}.", exits=1)
    name = encoder or DEFAULT_ENCODER
    try:
        rate = learn_rate or learn_rate_for(name)
        config = training_config(lang, pipeline, name, rate)
    except (ValueError, ImportError) as e:
        msg.fail("There can be no such config.", str(e), exits=1)
        return
    if train is not None:
        words = count_words(read_docs(train), pipeline)
        steps = set_steps(config, words, epochs)
        config["paths"]["train"] = str(train)
        msg.info(f"{words:,} words, {epochs} epochs of {steps} steps")
    output.parent.mkdir(parents=True, exist_ok=True)
    config.to_disk(output)
    suited = f"; {RATE_SMALL:g} suits small encoders" if rate == RATE else ""
    msg.good(f"Saved the config to {output}", f"Its learning rate is {rate:g}{suited}.")
    rest = "" if train else " --paths.train train.spacy"
    print(f"python -m spacy train {output} --output training{rest} --paths.dev dev.spacy")


def read_docs(path: Path) -> List[Doc]:
    """RETURNS (List[Doc]): The texts of a corpus, or say what is wrong and end.

    path (Path): A ``.spacy`` file.
    """
    try:
        return list(DocBin().from_disk(path).get_docs(Vocab()))
    except Exception as e:
        msg.fail(f"{path} can't be read as a .spacy file.", f"{type(e).__name__}: {e}", exits=1)
        raise SystemExit(1) from e
