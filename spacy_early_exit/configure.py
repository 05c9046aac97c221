"""Set threshold or speedup permanently."""

from typing import Optional

from spacy.language import Language

from .pipe.component import EarlyExitPipe
from .pipe.sharing import warn_if_shared


def configure(
    nlp: Language,
    *,
    threshold: Optional[float] = None,
    speedup: Optional[float] = None,
    name: str = "early_exit_ner",
) -> None:
    """Set threshold or speedup permanently: ``nlp.to_disk`` saves it in config.cfg.

    nlp (Language): The pipeline, changed in place.
    threshold (Optional[float]): The criterion's threshold, in [0, 1]; 0: no word exits.
    speedup (Optional[float]): Speedup to aim at, full-depth cost / spent cost. With a threshold
        there is no speedup to hold, so ``adaptive`` becomes false.
    name (str): Name of the component.
    RAISES (ValueError): If not exactly one of the two is given, or it makes no sense.
    """
    pipe = nlp.get_pipe(name)
    if not isinstance(pipe, EarlyExitPipe):
        raise ValueError(f"'{name}' is not an early-exit component, but a {type(pipe).__name__}.")
    warn_if_shared(pipe, nlp)
    pipe.configure(threshold=threshold, speedup=speedup)
    config = nlp.get_pipe_config(name)  # the live object
    config["threshold"], config["speedup"] = pipe.cfg["threshold"], pipe.cfg["speedup"]
    config["adaptive"] = pipe.settings.adaptive
