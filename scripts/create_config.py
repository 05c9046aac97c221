"""Fill in a training config for a corpus and an encoder: its number of steps, its learning rate and
its batches, and what follows from them.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import spacy
from spacy.cli.init_config import fill_config
from spacy.tokens import DocBin
from spacy.util import load_config
from thinc.api import Config

from spacy_early_exit.recipe import (
    BATCH_WORDS,
    FIRST_SHARE,
    MAX_EPOCHS,
    MAX_SPEEDUP,
    SECOND_STAGE,
    count_words,
    fit_encoder,
    set_steps,
)
from spacy_early_exit.training.early_bird import MAX_IDLE_EPOCHS

NER = "early_exit_ner"
SEARCH = "spacy-early-exit.EarlyBirdSearch.v1"
JOINED = "spacy-early-exit.JoinedCorpus.v1"
AVERAGE = "spacy-early-exit.average_weights.v1"
TASKS = ("ner", "tagger", "segmenter")
# The factories' own weights would give the tagger most of its score for attributes that it does not
# set.
SCORES: dict[str, dict[str, float | None]] = {
    "tag": {"tag_acc": 1.0, "pos_acc": None, "morph_acc": None, "exit_cost": 0.0},
    "pos": {"tag_acc": None, "pos_acc": 1.0, "morph_acc": None, "exit_cost": 0.0},
    "morph": {"tag_acc": None, "pos_acc": None, "morph_acc": 1.0, "exit_cost": 0.0},
    "segmenter": {"token_f": 1.0, "token_p": 0.0, "token_r": 0.0, "exit_cost": 0.0},
}


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("template", type=Path, help="the config to fill in")
    parser.add_argument("train", type=Path, help="the training corpus, .spacy")
    parser.add_argument("output", type=Path, help="where to write the config")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument(
        "--min-steps",
        type=int,
        default=0,
        help=f"with fewer steps of {BATCH_WORDS} words than this, there are more epochs",
    )
    parser.add_argument("--max-epochs", type=int, default=MAX_EPOCHS, help="but no more than this")
    parser.add_argument("--evaluate-every", type=float, default=0.5, help="in epochs")
    parser.add_argument(
        "--joined", type=float, default=0.0, help="share of words in texts that are joined"
    )
    parser.add_argument("--heads", type=float, help="of a search: share of heads that stay")
    parser.add_argument("--neurons", type=float, help="of a search: share of neurons that stay")
    parser.add_argument(
        "--encoder", help="hub id or folder: rate and batches suit its size; else as they are"
    )
    parser.add_argument("--lang", default="en")
    parser.add_argument("--task", choices=TASKS, default="ner")
    attributes = ("tag", "pos", "morph")
    parser.add_argument("--attribute", choices=attributes, default="tag", help="of the tagger")
    args = parser.parse_args()
    config = load_config(args.template, interpolate=False)
    docs = DocBin().from_disk(args.train).get_docs(spacy.blank(args.lang).vocab)
    words = count_words(docs, f"early_exit_{args.task}")
    if args.task == "tagger":
        adapt(config, "early_exit_tagger", SCORES[args.attribute])
        config["components"]["early_exit_tagger"]["attribute"] = args.attribute
    elif args.task == "segmenter":
        adapt(config, "early_exit_segmenter", SCORES["segmenter"])
    if args.encoder:
        try:
            fit_encoder(config, args.encoder)
        except ValueError as e:
            raise SystemExit(f"--encoder can't be {args.encoder!r}: {e}") from e
    length = (args.epochs, args.evaluate_every, args.min_steps, args.max_epochs)
    epochs = set_steps(config, words, *length)
    stage = config["components"][f"early_exit_{args.task}"]["training"]
    stages = [of["training"] for of in config["components"].values() if "training" in of]
    if stage["@misc"] == SEARCH:
        prepare_search(config, stage, epochs, heads=args.heads, neurons=args.neurons)
    elif epochs > args.epochs:
        prepare_small(config, stages)
    if args.joined:
        config["corpora"]["train"].update({"@readers": JOINED, "share": args.joined})
    config["nlp"]["lang"] = args.lang
    args.output.parent.mkdir(parents=True, exist_ok=True)
    config.to_disk(args.output)
    fill_config(args.output, args.output, silent=True)
    steps = config["training"]["max_steps"] // epochs
    print(f"{words} words, {epochs} epochs of {steps} steps -> {args.output}")
    batcher = config["training"]["batcher"]
    least = math.ceil(args.min_steps * BATCH_WORDS / batcher.get("batcher", batcher)["size"])
    if epochs * steps < least:
        print(
            f"The corpus is small: even {epochs} epochs, the most that there are, have fewer than "
            f"{least} steps. Annotate more, or raise --max-epochs."
        )


def prepare_small(config: Config, stages: list[dict[str, Any]]) -> None:
    """Fit a config to a small corpus, which is passed over more often than others.

    config (Config): The config, changed in place.
    stages (list[dict[str, Any]]): Each component's stage of training, changed in place.
    """
    second = [stage for stage in stages if stage["@misc"] == SECOND_STAGE]
    for stage in second:
        stage["max_speedup"] = MAX_SPEEDUP  # by then it is known by heart
    if second:
        config["training"]["before_to_disk"] = {
            "@callbacks": AVERAGE,
            "path": "${paths.first_stage}",
            "share": FIRST_SHARE,
            "texts": "${paths.dev}",
            "speedup": "${training.before_update.speedup}",
            "component": config["training"]["before_update"].get("component", NER),
        }
    # The best of several scores on so few sentences is the luckiest.
    config["training"]["eval_frequency"] = config["training"]["max_steps"]
    print(
        "The corpus is small, and a tenth of it tells little about checkpoints: the last one is "
        "kept, and nothing is scored in between."
    )


def prepare_search(
    config: Config, stage: dict[str, Any], epochs: int, **shares: float | None
) -> None:
    """Fit a search to its number of steps, at most.

    config (Config): The config, changed in place.
    stage (dict[str, Any]): Its stage of training, changed in place.
    epochs (int): The number of passes over the corpus.
    shares (float | None): What is to stay. None: as in the template.
    """
    training = config["training"]
    # More epochs than the steps take, even if long texts fill batches of their own: before the last
    # step, the ticket is drawn. Scores are of no use.
    most = min(10 * epochs, MAX_IDLE_EPOCHS)
    training.update(max_epochs=most, eval_frequency=training["max_steps"])
    stage["max_updates"] = max(1, training["max_steps"] - 1)
    stage.update({name: share for name, share in shares.items() if share is not None})


def adapt(config: Config, component: str, scores: dict[str, float | None]) -> None:
    """Turn a config for entities into one for another task.

    config (Config): The config, changed in place.
    component (str): The factory, which is also the component's name.
    scores (dict[str, float | None]): The weights of scores that choose the best checkpoint. None:
        not given.
    """
    settings = config["components"].pop(NER)
    settings.pop("across_lines", None)  # only for entities
    settings["factory"] = component
    settings["decoder"] = {"@misc": "spacy-early-exit.Viterbi.v1"}
    config["components"][component] = settings
    config["nlp"]["pipeline"] = [component]
    config["training"]["score_weights"] = scores
    callback = config["training"].get("before_update")
    if callback:
        callback["component"] = component
    start = config["initialize"].get("components", {})
    if NER in start:
        start[component] = start.pop(NER)


if __name__ == "__main__":
    main()
