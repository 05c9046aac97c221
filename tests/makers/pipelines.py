"""Pipelines, trained or not, and what they answer."""

import os

import spacy

from tests.makers.texts import examples_of

# Any other must do as well.
SEED = int(os.environ.get("SPACY_EARLY_EXIT_TEST_SEED", "0"))


def blank(encoder: str, **config):
    """An untrained pipeline."""
    nlp = spacy.blank("en")
    model = {"encoder": {"name": encoder}, **config.pop("model", {})}
    nlp.add_pipe("early_exit_ner", config={"model": model, **config})
    return nlp


def train_small(encoder: str, steps: int | None = None, **config):
    """A pipeline that has learnt SENTENCES, and no more, so that some words still go deep."""
    spacy.util.fix_random_seed(SEED)
    nlp = blank(encoder, **{"store_exits": True, "threshold": 0.15, **config})
    examples = examples_of(nlp)
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 5e-3
    full_depth = {"early_exit_ner": {"threshold": 0}}
    for step in range(1, (steps or 200) + 1):
        nlp.update(examples, sgd=optimizer, drop=0.0)
        # How many steps it takes depends on the processor's arithmetic.
        scores = nlp.evaluate(examples_of(nlp), component_cfg=full_depth)
        if step == steps or (steps is None and scores["ents_f"] == 1.0):
            return nlp
    raise AssertionError("200 steps did not teach a small encoder ten sentences")


def answers(doc) -> tuple:
    """What must not depend on the batch: entities and exit layers."""
    record = doc._.early_exit["early_exit_ner"]
    ents = [(ent.start, ent.end, ent.label_) for ent in doc.ents]
    return ents, record.layers, record.spent, record.full
