"""CoNLL files: a word per line, a blank line between sentences.

CoNLL-2003 and its relatives have white space between columns: the word comes first and its tag
last. Tags are IOB, IOB2 (BIO), BIOES or BILUO. CoNLL-U has ten columns with tabs between them; the
entities are in the last one, as ``NER=B-PER`` (or ``NE=``, or ``name=``).
"""

from pathlib import Path
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from spacy.parts_of_speech import IDS
from spacy.tokens import Doc, Span
from spacy.training import iob_to_biluo, tags_to_entities
from spacy.vocab import Vocab

from .entities import check_label
from .lines import CorpusError, in_line, read_file, shown

DOCUMENT = "-DOCSTART-"
BILUO = {"S": "U", "E": "L"}  # the names that spaCy has for these
PREFIXES = {"B", "I", "L", "U", "S", "E"}
COLUMNS = 10  # of CoNLL-U
NER = ("NER", "NE", "name")  # what entities are called in its last column


class Word(NamedTuple):
    """A line with a word.

    number (int): The line, from 1.
    text (str): The word.
    entity (Optional[str]): Its tag: BILUO, or as IOB; None: none is given.
    pos (str): Its universal part of speech; "" if none is given.
    tag (str): Its own part of speech; "" if none is given.
    space (bool): Whether a space follows.
    """

    number: int
    text: str
    entity: Optional[str]
    pos: str = ""
    tag: str = ""
    space: bool = True


def read_conll(path: Path, vocab: Vocab) -> List[Doc]:
    """Read sentences with entities from columns.

    path (Path): The file.
    vocab (Vocab): The vocabulary.
    RETURNS (List[Doc]): The sentences.
    RAISES (CorpusError): If they can't be read.
    """
    sentences = [[_word(path, *line) for line in lines] for lines in _sentences(path)]
    return [_with_entities(Doc(vocab, _texts(words)), words) for words in sentences]


def read_conllu(path: Path, vocab: Vocab) -> List[Doc]:
    """Read sentences from CoNLL-U, with parts of speech, and with entities if it has any.

    path (Path): The file.
    vocab (Vocab): The vocabulary.
    RETURNS (List[Doc]): The sentences, of syntactic words.
    RAISES (CorpusError): If they can't be read.
    """
    sentences = [list(_words_of_u(path, lines)) for lines in _sentences(path, comment="#")]
    annotated = any(word.entity for words in sentences for word in words)
    docs = []
    for words in sentences:
        doc = Doc(
            vocab,
            _texts(words),
            spaces=[word.space for word in words],
            tags=[word.tag for word in words],
            pos=[word.pos for word in words],
        )
        docs.append(_with_entities(doc, words) if annotated else doc)
    return docs


def _sentences(path: Path, comment: str = "") -> Iterator[List[Tuple[int, str]]]:
    """YIELDS (List[Tuple[int, str]]): The numbered lines of each sentence."""
    lines: List[Tuple[int, str]] = []
    found = False
    for number, line in enumerate([*read_file(path).split("\n"), ""], 1):
        if line.strip() and not line.startswith(DOCUMENT):
            if not comment or not line.startswith(comment):
                lines.append((number, line))
        elif lines:
            yield lines
            lines, found = [], True
    if not found:
        raise CorpusError(f"{path} has no sentences.")


def _word(path: Path, number: int, line: str) -> Word:
    columns = line.split()
    if len(columns) < 2:
        raise CorpusError(
            f"{in_line(path, number)}: expected a word and, in the last column, its tag, found "
            f"{shown(line)!r}"
        )
    return Word(number, columns[0], _tag(columns[-1], in_line(path, number)))


def _words_of_u(path: Path, lines: Iterable[Tuple[int, str]]) -> Iterator[Word]:
    within, after = 0, True  # the last word of a range, such as 1-2, and whether a space follows it
    for number, line in lines:
        place = in_line(path, number)
        columns = line.split("\t")
        if len(columns) != COLUMNS:
            raise CorpusError(
                f"{place}: CoNLL-U has {COLUMNS} columns with tabs between them, found "
                f"{shown(line)!r}"
            )
        name, text, _, pos, tag, *_, last = columns
        misc: Dict[str, str] = dict(part.split("=", 1) for part in last.split("|") if "=" in part)
        space = misc.get("SpaceAfter") != "No"
        if "." in name:  # no word, but one that was left out
            continue
        if "-" in name:
            end = name.split("-")[1]
            within, after = int(end) if end.isdecimal() else 0, space
            continue
        if not name.isdecimal() or not text.strip():
            raise CorpusError(f"{place}: expected a number and a word, found {shown(line)!r}")
        if int(name) <= within:
            space = after and int(name) == within
        if pos not in IDS and pos != "_":
            raise CorpusError(f"{place}: {pos!r} is no part of speech of Universal Dependencies.")
        given = next((misc[key] for key in NER if key in misc), None)
        entity = None if given is None else _tag(given, place)
        yield Word(number, text, entity, pos.strip("_"), "" if tag == "_" else tag, space)


def _tag(tag: str, place: str) -> str:
    """RETURNS (str): A tag, as spaCy has it."""
    prefix, _, label = tag.partition("-")
    if tag in ("O", "_", "-"):
        return "O"
    if prefix not in PREFIXES or not label:
        raise CorpusError(
            f"{place}: expected O or a tag such as B-PER (IOB, BIO, BIOES or BILUO), found "
            f"{shown(tag)!r}"
        )
    check_label(label, place)
    return f"{BILUO.get(prefix, prefix)}-{label}"


def _texts(words: Sequence[Word]) -> List[str]:
    return [word.text for word in words]


def _with_entities(doc: Doc, words: Sequence[Word]) -> Doc:
    """RETURNS (Doc): A sentence with its entities."""
    tags = iob_to_biluo([word.entity or "O" for word in words])
    doc.ents = [Span(doc, first, last + 1, label) for label, first, last in tags_to_entities(tags)]
    return doc
