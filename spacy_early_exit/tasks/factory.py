"""The factories of all tasks. They share one list of arguments, made from the settings and their
defaults.
"""

import inspect
from dataclasses import fields
from typing import Any, Callable, Dict, List, Optional, Tuple, Type

import srsly
from spacy.language import Language
from thinc.api import Config, Model

from ..pipe.component import EarlyExitPipe
from ..pipe.dial import DEFAULT_THRESHOLD
from ..pipe.sharing import made_in

# The arguments that are not fields of Settings: the blocks and the knob.
ARGUMENTS: Dict[str, Any] = {
    "criterion": Any,
    "decoder": Any,
    "training": Any,
    "threshold": Optional[float],
    "speedup": Optional[float],
    "scorer": Optional[Callable[..., Any]],
}


def default_config(task: Type[EarlyExitPipe], decoder: str, scorer: str) -> Config:
    """Make the default config of a component.

    task (Type[EarlyExitPipe]): Its class.
    decoder (str): Registered name of its decoder.
    scorer (str): Registered name of its scorer.
    RETURNS (Config): The config.
    """
    defaults = [(field.name, field.default) for field in fields(task.settings_class)]
    settings = "\n".join(f"{name} = {srsly.json_dumps(value)}" for name, value in defaults)
    return Config().from_str(
        f"""
[component]
threshold = {DEFAULT_THRESHOLD}
speedup = null
{settings}

[component.criterion]
@misc = "spacy-early-exit.TokenExit.v1"
window = 1

[component.decoder]
@misc = "{decoder}"

[component.training]
@misc = "spacy-early-exit.JointTraining.v1"
distillation = 0.0
detach_early_heads = true
pseudo_labels = false

[component.model]
@architectures = "spacy-early-exit.EarlyExitTagger.v3"
head_lr_factor = 5.0
freeze_encoder = false
freeze_full_depth = false
mixed_precision = false
shared_wordpieces = "split"
head_window = 1
exit_layers = null

[component.model.encoder]
@misc = "spacy-early-exit.HFEncoder.v1"
name = "sentence-transformers/all-MiniLM-L6-v2"
revision = null

[component.scorer]
@scorers = "{scorer}"
"""
    )["component"]


def make_factory(
    task: Type[EarlyExitPipe],
    config: Config,
    assigns: List[str],
    score_weights: Dict[str, Optional[float]],
    retokenizes: bool = False,
) -> Callable[..., EarlyExitPipe]:
    """Make the factory of a component, and register it.

    task (Type[EarlyExitPipe]): Its class.
    config (Config): Its default config.
    assigns (List[str]): What it sets, in spaCy's notation.
    score_weights (Dict[str, Optional[float]]): The weights of its scores.
    retokenizes (bool): Whether it changes the tokenization.
    RETURNS (Callable[..., EarlyExitPipe]): The factory.
    """

    def factory(nlp: Language, name: str, model: Model, **settings: Any) -> EarlyExitPipe:
        """Make the component. Its class describes the arguments."""
        pipe = made_in(nlp, task(nlp.vocab, model, name, **settings))
        pipe.link(nlp)
        return pipe

    # spaCy checks a config's values against the factory's signature.
    of_settings = {field.name: field.type for field in fields(task.settings_class)}
    given: List[Tuple[str, Any]] = [("nlp", Language), ("name", str), ("model", Model)]
    given += [*ARGUMENTS.items(), *of_settings.items()]
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
        for name, annotation in given
    ]
    factory.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    factory.__name__ = factory.__qualname__ = f"make_{task.kind}"
    factory.__module__ = task.__module__
    registered: Callable[..., EarlyExitPipe] = Language.factory(
        task.kind,
        assigns=assigns,
        retokenizes=retokenizes,
        default_config=config,
        default_score_weights=score_weights,
        func=factory,
    )
    return registered
