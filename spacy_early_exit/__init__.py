"""Transformer NER for spaCy that stops computing, word by word, as soon as it is sure."""

from .component import EarlyExitNER, configure

__all__ = ["EarlyExitNER", "configure"]
__version__ = "0.1.0.dev0"
