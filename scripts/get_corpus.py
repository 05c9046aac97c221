"""Make sure that there is a corpus: your own, the synthetic demo, or WNUT-17."""

import argparse
from pathlib import Path

from cut_tune import missing_from


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="*/demo is made and */wnut17 fetched if missing")
    parser.add_argument("--seed", type=int, default=0, help="of the demo corpus")
    args = parser.parse_args()
    missing = missing_from(args.folder)
    if not missing:
        print(f"The corpus is in {args.folder}.")
    elif args.folder.name == "demo":
        import demo_corpus

        demo_corpus.write_corpus(args.folder, args.seed)
    elif args.folder.name == "wnut17":
        import download_wnut17

        download_wnut17.fetch(args.folder)
    else:
        raise SystemExit(
            f"{args.folder} has no {' and no '.join(missing)}. Set --vars.corpus to another folder."
        )


if __name__ == "__main__":
    main()
