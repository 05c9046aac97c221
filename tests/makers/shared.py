"""Pipelines whose components share an encoder."""

import spacy
from spacy.tokens import Doc
from spacy.training import Example

from tests.makers.pipelines import SEED
from tests.makers.texts import SENTENCES, TEXTS

NER, TAGGER = "early_exit_ner", "early_exit_tagger"
CLOSED = {"the": "DET", "at": "ADP", "in": "ADP", "for": "ADP", "is": "AUX", "and": "CCONJ"}
MODEL = "spacy-early-exit.EarlyExitTagger.v3"


def shared_encoder(component=NER):
    return {"@misc": "spacy-early-exit.SharedEncoder.v1", "component": component}


def pos_of(token) -> str:
    if token.is_space:
        return "SPACE"
    if token.is_punct:
        return "PUNCT"
    return CLOSED.get(token.lower_, "PROPN" if token.is_title else "NOUN")


def both_of(nlp, names=True, tags=True):
    """The sentences, annotated with names, with parts of speech, or with both."""
    found = []
    for text, entities in SENTENCES:
        doc = nlp.make_doc(text)
        if tags:
            for token in doc:
                token.pos_ = pos_of(token)
        if names:
            doc.set_ents([doc.char_span(*entity[:2], entity[2]) for entity in entities])
        else:
            doc.set_ents([], missing=[doc[:]])
        found.append(Example(nlp.make_doc(text), doc))
    return found


def blank_shared(encoder, ner=None, tagger=None, others=0):
    """An untrained pipeline: names, and parts of speech from the same encoder.

    others: How many more taggers share it.
    """
    nlp = spacy.blank("en")
    config = {"store_exits": True, "threshold": 0.15, "halt_special": False}
    model = {"encoder": {"name": encoder}}
    # A random encoder: all heads teach it.
    training = {"@misc": "spacy-early-exit.JointTraining.v1", "detach_early_heads": False}
    nlp.add_pipe(NER, config={**config, "model": model, "training": training, **(ner or {})})
    for number in range(1 + others):
        add_tagger(nlp, f"{TAGGER}{number or ''}", **{"training": training, **(tagger or {})})
    return nlp


def add_tagger(nlp, name=TAGGER, component=NER, **config):
    given = {
        "attribute": "pos",
        "store_exits": True,
        "threshold": 0.15,
        "model": {"encoder": shared_encoder(component)},
        **config,
    }
    # Without it, the default encoder's arguments would be added to those of the shared one.
    given["model"] = {"@architectures": MODEL, **given["model"]}
    return nlp.add_pipe(TAGGER, name=name, config=given)


def train_shared(nlp, steps=60, rate=5e-3, examples=None, **how):
    spacy.util.fix_random_seed(SEED)
    examples = examples or both_of(nlp)
    optimizer = nlp.initialize(lambda: examples)
    optimizer.learn_rate = rate
    for _ in range(steps):
        step(nlp, examples, optimizer, **how)
    return nlp


def step(nlp, examples, optimizer, **how):
    """One step as spaCy's training loop takes it: all components, then the optimizer."""
    losses = {}
    nlp.update(examples, sgd=False, losses=losses, **how)
    for name, pipe in nlp.pipeline:
        if name not in how.get("exclude", ()):
            pipe.finish_update(optimizer)
    return losses


def answers(doc: Doc) -> dict:
    """What must not depend on the batch, of each component."""
    records = {name: (r.layers, r.spent, r.full) for name, r in doc._.early_exit.items()}
    ents = [(ent.start, ent.end, ent.label_) for ent in doc.ents]
    return {"ents": ents, "pos": [token.pos_ for token in doc], **records}


def all_answers(nlp, texts=TEXTS, **how):
    return [answers(doc) for doc in nlp.pipe(texts, **how)]
