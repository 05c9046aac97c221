"""Convert a corpus file to spaCy's format.

In lines of `token<TAB>tag` the tags are BIO for entities. For a tagger they are anything, which
becomes the words' `tag`, and their `pos` where all of the file are Universal Dependencies' parts of
speech (with `--attribute pos` they must be); `_` stands for none. For a segmenter the tokens are
characters, and B, M, E and S tell where words begin and end.

JSON lines have entities by characters, as spacy_early_exit/corpora/json_lines.py reads them.
"""

import argparse
from pathlib import Path

import spacy
from cut_tune import TAGS, check_task, read_sentences
from spacy.parts_of_speech import IDS
from spacy.tokens import Doc, DocBin, Span
from spacy.training import iob_to_biluo, tags_to_entities
from spacy.vocab import Vocab

from spacy_early_exit.corpora import CorpusError, read_entities

NO_TAG = "_"  # as in CoNLL-U


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help=".tsv or .jsonl; the suffix is optional")
    parser.add_argument("output", type=Path, help=".spacy")
    parser.add_argument("--task", choices=TAGS, default="ner", help="what the tags are for")
    parser.add_argument("--attribute", choices=("tag", "pos"), default="tag", help="of the tagger")
    parser.add_argument("--lang", default="en")
    args = parser.parse_args()
    corpus = args.corpus
    if not corpus.suffix:
        found = [path for path in map(corpus.with_suffix, (".tsv", ".jsonl")) if path.is_file()]
        corpus = next(iter(found), corpus)
    if not corpus.is_file():
        raise SystemExit(f"There is no file {corpus}{'' if corpus.suffix else '.tsv or .jsonl'}.")
    if corpus.suffix == ".jsonl":
        check_task(corpus, args.task)
        docs = by_characters(corpus, args.lang)
    else:
        docs = by_words(corpus, spacy.blank(args.lang).vocab, args.task, args.attribute)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    DocBin(docs=docs, store_user_data=True).to_disk(args.output)
    print(f"{len(docs)} {'texts' if corpus.suffix == '.jsonl' else 'sentences'} -> {args.output}")


def by_characters(corpus: Path, lang: str) -> list[Doc]:
    """RETURNS (list[Doc]): The texts of JSON lines.

    corpus (Path): The file.
    lang (str): Their language, for spaCy's tokenizer.
    """
    try:
        docs, remarks = read_entities(corpus, spacy.blank(lang))
    except CorpusError as e:
        raise SystemExit(str(e)) from e
    for remark in remarks:
        print(f"{corpus}: {remark}")
    return docs


def by_words(corpus: Path, vocab: Vocab, task: str, attribute: str) -> list[Doc]:
    """RETURNS (list[Doc]): The sentences of lines of `token<TAB>tag`.

    corpus (Path): The file.
    vocab (Vocab): The vocabulary.
    task (str): What the tags are for.
    attribute (str): What a tagger sets.
    """
    sentences = read_sentences(corpus, task)
    pairs = [[line.split("\t") for line in sentence.split("\n")] for sentence in sentences]
    texts = [([word for word, _ in text], [tag for _, tag in text]) for text in pairs]
    if task == "ner":
        return [with_entities(vocab, *text) for text in texts]
    if task == "tagger":
        return tagged(vocab, texts, corpus, attribute)
    return [segmented(vocab, *text, corpus, number) for number, text in enumerate(texts, 1)]


def with_entities(vocab: Vocab, words: list[str], tags: list[str]) -> Doc:
    """RETURNS (Doc): A sentence with the entities of BIO tags."""
    words = [word.strip() or word for word in words]
    doc = Doc(vocab, words, sent_starts=[place == 0 for place in range(len(words))])
    found = tags_to_entities(iob_to_biluo(tags))
    doc.ents = [Span(doc, first, last + 1, label) for label, first, last in found]
    return doc


def tagged(
    vocab: Vocab, texts: list[tuple[list[str], list[str]]], corpus: Path, attribute: str
) -> list[Doc]:
    """Make sentences with tags, and with parts of speech if all tags are parts of speech.

    vocab (Vocab): The vocabulary.
    texts (list[tuple[list[str], list[str]]]): Words and tags of the sentences.
    corpus (Path): Where they are from, for error messages.
    attribute (str): What is to be learnt. If it is `pos`, every tag must be a part of speech:
        otherwise nothing could be learnt from the file or scored on it.
    RETURNS (list[Doc]): The sentences.
    """
    texts = [(words, ["" if tag == NO_TAG else tag for tag in tags]) for words, tags in texts]
    odd = next(
        (
            (number, word, tag)
            for number, (words, tags) in enumerate(texts, 1)
            for word, tag in zip(words, tags, strict=True)
            if tag not in IDS
        ),
        None,
    )
    if attribute == "pos" and odd is not None:
        number, word, tag = odd
        raise SystemExit(
            f"{corpus}, sentence {number}: the tag {tag!r} of {word!r} is neither a part of speech "
            f"of Universal Dependencies nor {NO_TAG!r} (no tag). Use --attribute tag for other "
            f"tags."
        )
    return [Doc(vocab, words, tags=tags, pos=None if odd else tags) for words, tags in texts]


def segmented(
    vocab: Vocab, characters: list[str], tags: list[str], corpus: Path, number: int
) -> Doc:
    """Make a sentence from characters, with the words that they form, without spaces.

    vocab (Vocab): The vocabulary.
    characters (list[str]): The characters.
    tags (list[str]): B, M, E or S for each character.
    corpus (Path): Where they are from, for error messages.
    number (int): The number of the sentence, for error messages.
    RETURNS (Doc): The sentence.
    """
    words: list[str] = []
    whole = True  # whether the last word so far is complete
    for place, (character, tag) in enumerate(zip(characters, tags, strict=True)):
        if whole != (tag in "BS"):
            where = "come first" if place == 0 else f"follow {tags[place - 1]}"
            raise SystemExit(
                f"{corpus}, sentence {number}: {tag} of {character!r} can't {where} in "
                f"{''.join(characters)!r}, tagged {''.join(tags)}. A word is S, or B, any number "
                f"of M, and E."
            )
        if whole:
            words.append(character)
        else:
            words[-1] += character
        whole = tag in "ES"
    if not whole:
        raise SystemExit(
            f"{corpus}, sentence {number}: the last word has no E in {''.join(characters)!r}, "
            f"tagged {''.join(tags)}. A word is S, or B, any number of M, and E."
        )
    return Doc(vocab, words=words, spaces=[False] * len(words))


if __name__ == "__main__":
    main()
