"""Put a trained pipeline in its final place."""

import argparse
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
    print(f"The pipeline is in {args.output}: spacy.load({str(args.output)!r})")


if __name__ == "__main__":
    main()
