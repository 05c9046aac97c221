"""Show at which layer each word of some sentences leaves."""

import argparse
import os
import sys

import spacy

from spacy_early_exit.pipe.records import get_records

SENTENCES = (
    "The invoice is attached, thanks again for your patience.",
    "Please ask Teresa Okafor at Brightwater Logistics to call me before 14 May 2024.",
    "will may be in paris in may, or is paris in paris?",
    "Send the keys to hello@example.org once you are back in Rotterdam.",
)


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="the trained pipeline")
    args = parser.parse_args()
    settings = {"components": {"early_exit_ner": {"store_exits": True}}}
    nlp = spacy.load(args.model, config=settings)
    layers = nlp.get_pipe("early_exit_ner").model.shims[0].trained.network.spec.layers
    print(f"\nThe layer, of {layers}, at which each word left:\n")
    for doc in nlp.pipe(SENTENCES):
        widths = [max(len(token), 2) for token in doc]
        print("  " + " ".join(f"{t.text:<{width}}" for t, width in zip(doc, widths)))
        record = get_records(doc)["early_exit_ner"]
        print("  " + " ".join(f"{n:<{width}}" for n, width in zip(record.layers or (), widths)))
        found = ", ".join(f"{ent.text} = {ent.label_}" for ent in doc.ents) or "no entities"
        print(f"  {record.full / record.spent:.1f} times fewer operations; {found}\n")
    python = os.path.relpath(sys.executable)
    print(
        f"""Where to go next:
  nlp = spacy.load({args.model!r})   the pipeline, as any other
  docs/reference/settings.md         every setting
  {python} -m spacy project run train . --vars.corpus FOLDER
                                     the same on your own train.tsv and dev.tsv"""
    )


if __name__ == "__main__":
    main()
