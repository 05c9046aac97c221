"""``JoinedCorpus.v1``, a reader for training configs: neighbouring texts in one."""

import random
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, List, Optional, Sequence, cast

from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Corpus, Example

SEED = 0  # that the lengths are drawn from: every pass over a corpus joins the same texts


def make_joined_corpus(
    path: Optional[Path],
    share: float = 0.3,
    words: Sequence[int] = (50, 400),
    gold_preproc: bool = False,
    max_length: int = 0,
    limit: int = 0,
    augmenter: Optional[Callable[[Language, Example], Iterator[Example]]] = None,
) -> Callable[[Language], Iterable[Example]]:
    """Make the reader ``spacy-early-exit.JoinedCorpus.v1``, for ``corpora.train``.

    An encoder that is fine-tuned on single sentences tags documents worse: it never saw the
    positions after these, nor names of other sentences around. Here some of the texts are joined
    with those that follow them. Everything else is as in ``spacy.Corpus.v1``, except that joined
    texts have no categories.

    path (Optional[Path]): A ``.spacy`` file, or a folder with such files.
    share (float): Share of the words that are in joined texts, from 0 to 1.
    words (Sequence[int]): Fewest and most words that a joined text is to have: texts follow until
        it has as many as are drawn from these, so that its last text may exceed the most.
    gold_preproc (bool): Whether texts are cut into their annotated sentences after all.
    max_length (int): Longer texts are cut into sentences; 0: none.
    limit (int): Maximum number of texts before they are joined; 0: all.
    augmenter (Optional[Callable]): Changes texts after they are joined.
    RETURNS (Callable): The reader.
    RAISES (ValueError): If an argument makes no sense.
    """
    if path is None:
        raise ValueError("JoinedCorpus: path is null. Set paths.train, to a .spacy file.")
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"JoinedCorpus: share must be between 0 and 1, not {share}.")
    if len(words) != 2 or not 1 <= words[0] <= words[1]:
        raise ValueError(
            f"JoinedCorpus: words must be the fewest and the most words, not {[*words]}."
        )
    others: Any = {} if augmenter is None else {"augmenter": augmenter}
    corpus: Any = Corpus(
        path, gold_preproc=gold_preproc, max_length=max_length, limit=limit, **others
    )
    read = corpus.read_docbin
    # What its own call does with the texts, it does with these.
    corpus.read_docbin = lambda vocab, places: join_some(read(vocab, places), share, *words)
    return cast(Callable[[Language], Iterable[Example]], corpus)


def join_some(docs: Iterable[Doc], share: float, least: int, most: int) -> Iterator[Doc]:
    """Join some texts with those that follow them.

    docs (Iterable[Doc]): The texts.
    share (float): About the share of words in joined texts.
    least (int): Fewest words of a joined text, unless there are no more texts.
    most (int): The number of words after which no text follows.
    YIELDS (Doc): Texts, in the same order.
    """
    draw = random.Random(SEED)
    part: List[Doc] = []
    words = inside = enough = 0
    for doc in docs:
        words += len(doc)
        if not part:
            enough = draw.randint(least, most) if inside < share * words else 0
        part.append(doc)
        length = sum(map(len, part))
        if length >= enough:
            inside += length if len(part) > 1 else 0
            yield join(part)
            part = []
    if part:
        yield join(part)


def join(docs: Sequence[Doc]) -> Doc:
    """RETURNS (Doc): Texts in one, with their annotation.

    docs (Sequence[Doc]): The texts. They stay as they are.
    """
    if len(docs) == 1:
        return docs[0]
    joined = Doc.from_docs([*docs], exclude=["tensor", "user_data"])
    assert joined is not None  # None is for no docs
    if not any(doc.has_annotation("SENT_START") for doc in docs):
        for token in joined:  # spaCy takes the texts for sentences
            token.is_sent_start = None
    # If so, their words are given, rather than those of the tokenizer.
    joined.has_unknown_spaces = any(doc.has_unknown_spaces for doc in docs)
    return joined
