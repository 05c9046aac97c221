"""Give a component that shares an encoder one of its own."""

import copy
from dataclasses import fields, replace

from spacy.language import Language

from .pipe.component import EarlyExitPipe
from .pipe.lending import OWN_SETTINGS
from .settings import Settings


def separate(nlp: Language, name: str) -> None:
    """Give a component that borrows its encoder a copy of it, so that it can be used in other
    pipelines, and trained alone. Its config gets the encoder, and the settings of the pass, of the
    component that lent it.

    nlp (Language): The pipeline, changed in place. It has both components.
    name (str): Name of the component.
    RAISES (ValueError): If it borrows no encoder, or the owner is not in the pipeline.
    """
    pipe = nlp.get_pipe(name)
    lender = pipe.bind(nlp) if isinstance(pipe, EarlyExitPipe) else None
    if lender is None:
        raise ValueError(f"'{name}' does not use the encoder of another component.")
    shared = [field.name for field in fields(Settings) if field.name not in OWN_SETTINGS]
    theirs = next(one for one, found in nlp.components if found is lender)
    config, lent = nlp.get_pipe_config(name), nlp.get_pipe_config(theirs)
    for setting in shared:
        config[setting] = copy.deepcopy(lent[setting])
    for part in ("encoder", "shared_wordpieces"):
        config["model"][part] = copy.deepcopy(lent["model"][part])
    config["adaptive"] = False  # there is no speedup that it could hold
    values = {setting: getattr(lender.settings, setting) for setting in shared}
    pipe.settings = replace(pipe.settings, **{**values, "adaptive": False})
    pipe.model.shims[0] = pipe.model.shims[0].separated()
