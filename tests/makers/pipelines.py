"""Pipelines, trained or not, and what they answer."""

import hashlib
import json
import os
import pickle
from pathlib import Path

import spacy

from tests.makers.texts import examples_of

# Any other must do as well.
SEED = int(os.environ.get("SPACY_EARLY_EXIT_TEST_SEED", "0"))
STEPS = 200  # at most, for an encoder to learn ten sentences
EVERY = 10  # steps between two looks at whether it has


JOINT = "spacy-early-exit.JointTraining.v1"


def blank(encoder: str, **config):
    """An untrained pipeline. All heads teach its encoder, which is random and knows nothing that
    earlier heads could read, and special tokens stay to the end, unless ``config`` says otherwise.
    """
    nlp = spacy.blank("en")
    model = {"encoder": {"name": encoder}, **config.pop("model", {})}
    training = {"@misc": JOINT, **config.pop("training", {})}
    if training["@misc"] == JOINT:
        training = {"detach_early_heads": False, **training}
    given = {"model": model, "training": training, "halt_special": False, **config}
    nlp.add_pipe("early_exit_ner", config=given)
    return nlp


def train_small(encoder: str, steps: int | None = None, **config):
    """A pipeline that has learnt for some steps; or until it knows SENTENCES, and no more, so that
    some words still go deep.
    """
    spacy.util.fix_random_seed(SEED)
    nlp = blank(encoder, **{"store_exits": True, "threshold": 0.15, **config})
    examples = examples_of(nlp)
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = 5e-3
    full_depth = {"early_exit_ner": {"threshold": 0}}
    for step in range(1, (steps or STEPS) + 1):
        nlp.update(examples, sgd=optimizer, drop=0.0)
        # How many steps it takes depends on the processor's arithmetic.
        if steps is None and step % EVERY == 0:
            if nlp.evaluate(examples_of(nlp), component_cfg=full_depth)["ents_f"] == 1.0:
                return nlp
    assert steps, f"{STEPS} steps did not teach a small encoder ten sentences"
    return nlp


def trained_pipeline(encoder: str, **config):
    """A pipeline that knows SENTENCES, as ``train_small`` makes it: each is trained once, and kept
    beside its encoder, for all workers of pytest. Whoever asks gets one of its own.
    """
    key = json.dumps([encoder, config], sort_keys=True).encode()
    path = Path(encoder).parent / f"trained-{hashlib.sha256(key).hexdigest()[:16]}.pickle"
    if not path.exists():
        made = path.with_suffix(f".{os.getpid()}")
        made.write_bytes(pickle.dumps(train_small(encoder, **config)))
        made.replace(path)
    spacy.util.fix_random_seed(SEED)  # as after training it
    return pickle.loads(path.read_bytes())


def answers(doc) -> tuple:
    """What must not depend on the batch: entities and exit layers."""
    record = doc._.early_exit["early_exit_ner"]
    ents = [(ent.start, ent.end, ent.label_) for ent in doc.ents]
    return ents, record.layers, record.spent, record.full
