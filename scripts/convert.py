"""Convert `token<TAB>tag` lines to spaCy's format.

For entities the tags are BIO; for a tagger anything, which becomes the words' `tag`, and their
`pos` where all of them are Universal Dependencies' parts of speech; for a segmenter the tokens are
characters, and B, M, E and S tell where words begin and end.
"""

import argparse
from pathlib import Path

import spacy
from cut_tune import TAGS, read_sentences
from spacy.parts_of_speech import IDS
from spacy.tokens import Doc, DocBin
from spacy.training.converters import conll_ner_to_docs
from spacy.vocab import Vocab


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, help="lines of `token<TAB>tag`")
    parser.add_argument("output", type=Path, help=".spacy")
    parser.add_argument("--task", choices=TAGS, default="ner", help="what the tags are for")
    parser.add_argument("--lang", default="en")
    args = parser.parse_args()
    vocab = spacy.blank(args.lang).vocab
    sentences = read_sentences(args.corpus, args.task)
    pairs = [[line.split("\t") for line in sentence.split("\n")] for sentence in sentences]
    texts = [([word for word, _ in text], [tag.strip() for _, tag in text]) for text in pairs]
    is_pos = all(tag in IDS for _, tags in texts for tag in tags)
    if args.task == "ner":
        docs = list(conll_ner_to_docs(args.corpus.read_text(encoding="utf8"), 1, no_print=True))
    elif args.task == "tagger":
        docs = [Doc(vocab, words, tags=tags, pos=tags if is_pos else None) for words, tags in texts]
    else:
        docs = [segmented(vocab, characters, tags) for characters, tags in texts]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    DocBin(docs=docs, store_user_data=True).to_disk(args.output)
    print(f"{len(docs)} sentences -> {args.output}")


def segmented(vocab: Vocab, characters: list[str], tags: list[str]) -> Doc:
    """RETURNS (Doc): A sentence with the words that the characters make, without spaces."""
    words: list[str] = []
    for character, tag in zip(characters, tags):
        if words and tag in "ME":
            words[-1] += character
        else:
            words.append(character)
    return Doc(vocab, words=words, spaces=[False] * len(words))


if __name__ == "__main__":
    main()
