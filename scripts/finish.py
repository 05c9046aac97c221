"""Put a trained pipeline in its final place."""

import argparse
import json
import shutil
from pathlib import Path


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="the trained pipeline")
    parser.add_argument("output", type=Path, help="where it shall be; replaced")
    args = parser.parse_args()
    if args.output.exists():
        shutil.rmtree(args.output)
    shutil.copytree(args.model, args.output)
    score = json.loads((args.output / "meta.json").read_text())["performance"].get("ents_f") or 0.0
    print(f"ENTS_F where its checkpoint was chosen: {score:.4f}")
    if score < 0.1:
        print("That is next to nothing: it needs more training data, or more --vars.epochs.")
    print(f"The pipeline is in {args.output}: spacy.load({str(args.output)!r})")


if __name__ == "__main__":
    main()
