"""Texts from files, annotated or not. What is in a file, its suffix says: see ``files.py``.

``json_lines.py`` reads what Prodigy and doccano export, ``label_studio.py`` what Label Studio does,
``columns.py`` CoNLL files, ``lines.py`` the rest. ``entities.py`` marks entities in texts.
"""

from .entities import Entity, check_label, set_entities
from .files import ENTITIES_ONLY, read_annotated, read_texts
from .json_lines import LISTS, Record, read_entities, read_records
from .lines import CorpusError, read_docs, read_lines
from .remarks import Corpus

__all__ = [
    "ENTITIES_ONLY",
    "LISTS",
    "Corpus",
    "CorpusError",
    "Entity",
    "Record",
    "check_label",
    "read_annotated",
    "read_docs",
    "read_entities",
    "read_lines",
    "read_records",
    "read_texts",
    "set_entities",
]
