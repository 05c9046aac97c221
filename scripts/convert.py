"""Convert `token<TAB>tag` lines to spaCy's format.

For entities the tags are BIO; for a tagger anything, which becomes the words' `tag`, and their
`pos` where all of the file are Universal Dependencies' parts of speech (with `--attribute pos` they
must be); `_` stands for none. For a segmenter the tokens are characters, and B, M, E and S tell
where words begin and end.
"""

import argparse
from pathlib import Path

import spacy
from cut_tune import TAGS, read_sentences
from spacy.parts_of_speech import IDS
from spacy.tokens import Doc, DocBin
from spacy.training.converters import conll_ner_to_docs
from spacy.vocab import Vocab

NO_TAG = "_"  # as in CoNLL-U


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="lines of `token<TAB>tag`")
    parser.add_argument("output", type=Path, help=".spacy")
    parser.add_argument("--task", choices=TAGS, default="ner", help="what the tags are for")
    parser.add_argument("--attribute", choices=("tag", "pos"), default="tag", help="of the tagger")
    parser.add_argument("--lang", default="en")
    args = parser.parse_args()
    vocab = spacy.blank(args.lang).vocab
    sentences = read_sentences(args.corpus, args.task)
    pairs = [[line.split("\t") for line in sentence.split("\n")] for sentence in sentences]
    texts = [([word for word, _ in text], [tag.strip() for _, tag in text]) for text in pairs]
    if args.task == "ner":
        docs = list(conll_ner_to_docs(args.corpus.read_text(encoding="utf8"), 1, no_print=True))
    elif args.task == "tagger":
        docs = tagged(vocab, texts, args.corpus, args.attribute)
    else:
        docs = [segmented(vocab, *text, args.corpus, n) for n, text in enumerate(texts, 1)]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    DocBin(docs=docs, store_user_data=True).to_disk(args.output)
    print(f"{len(docs)} sentences -> {args.output}")


def tagged(
    vocab: Vocab, texts: list[tuple[list[str], list[str]]], corpus: Path, attribute: str
) -> list[Doc]:
    """Make sentences with tags, and with parts of speech where all tags are some.

    vocab (Vocab): The vocabulary.
    texts (list[tuple[list[str], list[str]]]): Words and tags of the sentences.
    corpus (Path): Where they are from, for the message.
    attribute (str): What is to be learnt: if it is `pos`, every tag must be a part of speech. One
        file without would be a corpus that nothing is learnt from, or scored on.
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
            f"{corpus}, sentence {number}: {tag!r}, the tag of {word!r}, is no part of speech of "
            f"Universal Dependencies, nor {NO_TAG!r} for none. Other tags go with --attribute tag."
        )
    return [Doc(vocab, words, tags=tags, pos=None if odd else tags) for words, tags in texts]


def segmented(
    vocab: Vocab, characters: list[str], tags: list[str], corpus: Path, number: int
) -> Doc:
    """Make a sentence with the words that its characters make, without spaces.

    vocab (Vocab): The vocabulary.
    characters (list[str]): The characters.
    tags (list[str]): B, M, E or S of each.
    corpus (Path): Where they are from, for the message.
    number (int): Which sentence of it this is, for the message.
    RETURNS (Doc): The sentence.
    """
    words: list[str] = []
    whole = True  # the last word, so far
    for place, (character, tag) in enumerate(zip(characters, tags, strict=True)):
        if whole != (tag in "BS"):
            behind = "at the beginning" if place == 0 else f"behind {tags[place - 1]}"
            raise SystemExit(
                f"{corpus}, sentence {number}: {tag} of {character!r} can't be {behind}, in "
                f"{''.join(characters)!r}, {''.join(tags)}. Words are S, or B, any M, and E."
            )
        if whole:
            words.append(character)
        else:
            words[-1] += character
        whole = tag in "ES"
    if not whole:
        raise SystemExit(
            f"{corpus}, sentence {number}: the last word has no E, in {''.join(characters)!r}, "
            f"{''.join(tags)}. Words are S, or B, any M, and E."
        )
    return Doc(vocab, words=words, spaces=[False] * len(words))


if __name__ == "__main__":
    main()
