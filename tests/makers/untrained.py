"""A calibrated pipeline over a real encoder with random heads, and texts for it: for a soak that
needs no training.

python -m tests.makers.untrained ENCODER FOLDER    # -> FOLDER/pipeline, FOLDER/texts.spacy
"""

import sys
from pathlib import Path

import spacy
from spacy.tokens import DocBin
from spacy.training import Example

from spacy_early_exit.measure.calibrate import calibrate
from tests.makers.any_input import NAME, untrained
from tests.makers.texts import TEXTS, texts_of_all_lengths


def main(encoder: str, folder: str) -> None:
    spacy.util.fix_random_seed(0)
    nlp = untrained(encoder)
    docs = [nlp.make_doc(text) for text in [*TEXTS, *texts_of_all_lengths(count=60)]]
    examples = [Example(nlp.make_doc(doc.text), doc) for doc in docs]
    calibrate(nlp.get_pipe(NAME), examples, [1.2, 1.5, 2, 3], with_score=False)
    Path(folder).mkdir(parents=True, exist_ok=True)
    nlp.to_disk(Path(folder) / "pipeline")
    DocBin(docs=docs).to_disk(Path(folder) / "texts.spacy")


if __name__ == "__main__":
    main(*sys.argv[1:])
