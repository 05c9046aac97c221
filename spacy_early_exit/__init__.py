"""Transformer NER for spaCy that stops computing, word by word, as soon as it is sure."""

from typing import Optional

from spacy.language import Language

from .component import EarlyExitNER

__all__ = ["EarlyExitNER", "configure"]
__version__ = "0.1.0.dev0"


def configure(
    nlp: Language,
    *,
    threshold: Optional[float] = None,
    speedup: Optional[float] = None,
    name: str = "early_exit_ner",
) -> None:
    """Set threshold or speedup for good: ``nlp.to_disk`` keeps it, in config.cfg.

    nlp (Language): The pipeline, changed in place.
    threshold (Optional[float]): The criterion's dial in [0, 1]; 0: never leave.
    speedup (Optional[float]): Saving to aim at, full-depth cost / spent cost.
    name (str): Name of the component.
    RAISES (ValueError): If not exactly one of the two is given, or it makes no sense.
    """
    pipe = nlp.get_pipe(name)
    if not isinstance(pipe, EarlyExitNER):
        raise ValueError(f"'{name}' is no early_exit_ner, but a {type(pipe).__name__}.")
    pipe.configure(threshold=threshold, speedup=speedup)
    config = nlp.get_pipe_config(name)  # the live object
    config["threshold"], config["speedup"] = pipe.cfg["threshold"], pipe.cfg["speedup"]
