"""What spaCy's registries are told when the package is imported, which is what its entry points
name.

Entry points are metadata of an installed package. If there are none, as in applications frozen by
PyInstaller, importing the package must suffice. Functions are imported when they are first used,
since most of them need torch.
"""

import importlib
from typing import Any, Callable, Dict

import catalogue
from spacy import registry

PREFIX = "spacy-early-exit."
# The place of each function, by registry and name. setup.cfg names the same.
PLACES: Dict[str, Dict[str, str]] = {
    "architectures": {
        "EarlyExitTagger.v1": "model.model:build_tagger_model_v1",
        "EarlyExitTagger.v2": "model.model:build_tagger_model_v2",
        "EarlyExitTagger.v3": "model.model:build_tagger_model",
    },
    "batchers": {"until_drawn.v1": "training.early_bird:make_until_drawn"},
    "callbacks": {
        "average_weights.v1": "measure.average_weights:make_average_weights",
        "hold_saving.v1": "measure.hold_saving:make_hold_saving",
    },
    "misc": {
        "AINDecoder.v1": "relatives.mean_field:make_ain_decoder",
        "BIOViterbi.v1": "decoders:make_bio_viterbi",
        "BeliefExit.v1": "relatives.belief_exit:make_belief_exit",
        "CRFDecoder.v1": "decoders:make_crf_decoder",
        "EarlyBirdSearch.v1": "training.early_bird:make_early_bird_search",
        "Greedy.v1": "decoders:make_greedy",
        "HFEncoder.v1": "encoders.hugging_face:make_hf_encoder",
        "JointTraining.v1": "training.joint:make_joint_training",
        "MetaSelfTraining.v1": "training.self_training:make_meta_self_training",
        "PatienceExit.v1": "criteria:make_patience_exit",
        "PipelineEncoder.v1": "encoders.spacy_pipeline:make_pipeline_encoder",
        "ReductionTraining.v1": "relatives.reduction_training:make_reduction_training",
        "SelfSampling.v1": "training.self_sampling:make_self_sampling",
        "SentenceExit.v1": "criteria:make_sentence_exit",
        "SharedEncoder.v1": "encoders.shared:make_shared_encoder",
        "TokenExit.v1": "criteria:make_token_exit",
        "TokenReduction.v1": "relatives.reduction_exit:make_token_reduction",
        "Viterbi.v1": "decoders:make_viterbi",
        "line_spans.v1": "text.spans:make_line_spans",
        "paragraph_spans.v1": "text.spans:make_paragraph_spans",
        "sent_spans.v1": "text.spans:make_sent_spans",
    },
    "optimizers": {"Adam.v1": "training.adam:make_adam"},
    "readers": {"JoinedCorpus.v1": "corpora.joined:make_joined_corpus"},
    "scorers": {
        "ner_scorer.v1": "tasks.scorers:make_ner_scorer",
        "segmenter_scorer.v1": "tasks.scorers:make_segmenter_scorer",
        "tagger_scorer.v1": "tasks.scorers:make_tagger_scorer",
    },
}


class Deferred:
    """A function of this package that is imported when it is called or inspected.

    place (str): Its module in the package, and its name there.
    """

    def __init__(self, place: str):
        module, _, self.__name__ = place.partition(":")
        self.__module__ = f"{__package__}.{module}"

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """RETURNS (Callable): The function. Tools follow this attribute to read its signature."""
        module = importlib.import_module(self.__module__)
        function: Callable[..., Any] = getattr(module, self.__name__)
        return function

    @property
    def __annotations__(self) -> Dict[str, Any]:  # type: ignore[override]
        """RETURNS (Dict[str, Any]): Its types, for tools that do not follow ``__wrapped__``."""
        return self.__wrapped__.__annotations__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """RETURNS (Any): What the function returns."""
        return self.__wrapped__(*args, **kwargs)


def register() -> None:
    """Register everything except the factories, which register themselves. Entry points take
    precedence if they exist. spaCy reaches the commands only by their entry point, so they are
    imported if that is missing.
    """
    for kind, places in PLACES.items():
        for name, place in places.items():
            getattr(registry, kind).register(f"{PREFIX}{name}", func=Deferred(place))
    commands = catalogue.AVAILABLE_ENTRY_POINTS.select(group="spacy_cli")
    if "early-exit" not in {point.name for point in commands}:
        importlib.import_module(".cli", __package__)
