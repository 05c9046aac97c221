"""Transformer tagging for spaCy that stops computing, word by word, as soon as it is sure."""

from . import registering
from .configure import configure
from .pipe.component import EarlyExitPipe
from .separate import separate
from .tasks.ner import EarlyExitNER
from .tasks.segmenter import EarlyExitSegmenter
from .tasks.tagger import EarlyExitTagger

__all__ = [
    "EarlyExitNER",
    "EarlyExitPipe",
    "EarlyExitSegmenter",
    "EarlyExitTagger",
    "configure",
    "separate",
]
__version__ = "0.1.0.dev0"

registering.register()
