"""Token classifiers of Hugging Face become pipelines that leave early."""

import json
import pickle
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import spacy
import srsly
import torch

from spacy_early_exit.adopt.adopt import (
    Adoption,
    adopt,
    agreement,
    check_attribute,
    checkpoint_pipeline,
    fitting_speedup,
)
from spacy_early_exit.adopt.classifier import (
    TokenClassifier,
    bio_rows,
    label_names,
    read_token_classifier,
)
from spacy_early_exit.budget.curve import Calibration, Point
from spacy_early_exit.cli.adopt import warn_of_less
from spacy_early_exit.encoders.hugging_face import HFEncoder
from spacy_early_exit.measure.temperature import scale_heads
from tests.makers.commands import run
from tests.makers.encoders import FAMILIES
from tests.makers.pipelines import answers
from tests.makers.texts import SENTENCES, TEXTS, examples_of

NAME = "early_exit_ner"
LABELS = ["B-LOC", "B-ORG", "B-PER", "I-LOC", "I-ORG", "I-PER", "O"]  # in an order not ours
FULL = {NAME: {"threshold": 0.0}}
PARTS = ["ADJ", "NOUN", "PROPN", "PUNCT", "VERB"]


def some_texts(count: int) -> list:
    """Texts of the words that the checkpoint was trained on, in the order of two sentences."""
    draw = random.Random(0)
    return [" ".join(draw.sample(TEXTS, 2)) + "." * (number % 3) for number in range(count)]


def label_of(start: int, end: int, entities) -> str:
    for first, behind, label in entities:
        if first <= start and end <= behind:
            return f"{'B' if start == first else 'I'}-{label}"
    return "O"


@pytest.fixture(scope="session")
def checkpoint(encoders, tmp_path_factory) -> Path:
    """A small token classifier, fine-tuned until it knows SENTENCES."""
    from transformers import (
        AutoModelForTokenClassification,
        AutoTokenizer,
        DataCollatorForTokenClassification,
    )

    folder = tmp_path_factory.mktemp("checkpoint")
    tokenizer = AutoTokenizer.from_pretrained(encoders["bert"])
    rows = []
    for text, entities in SENTENCES:
        row = tokenizer(text, return_offsets_mapping=True)
        labels = [
            LABELS.index(label_of(start, end, entities)) if start < end else -100
            for start, end in row.pop("offset_mapping")
        ]
        rows.append({**row, "labels": labels})
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_pretrained(
        encoders["bert"],
        id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    collate = DataCollatorForTokenClassification(tokenizer)
    batches = [collate(rows[start : start + 5]) for start in range(0, len(rows), 5)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(100):
        for batch in batches:
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="session")
def adopted(checkpoint, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("adopted")
    (folder / "texts.txt").write_text("\n".join(some_texts(300)), encoding="utf8")
    printed = run(
        *("-m", "spacy", "early-exit", "adopt", checkpoint, folder / "texts.txt"),
        *("--output", folder / "pipeline", "--epochs", "4", "--speedups", "1.3,2"),
        *("--min-agreement", "0"),
    )
    assert "Saved the pipeline" in printed and "--min-agreement" not in printed
    return folder / "pipeline"


@pytest.fixture
def nlp(adopted):
    nlp = spacy.load(adopted)
    nlp.get_pipe(NAME).store_exits = True
    return nlp


def original_labels(checkpoint: Path, doc) -> list:
    """What transformers itself says of the first wordpiece of each word."""
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForTokenClassification.from_pretrained(checkpoint).eval()
    row = tokenizer(doc.text, return_offsets_mapping=True, return_tensors="pt")
    offsets = row.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        best = model(**row).logits[0].argmax(-1).tolist()
    labels = []
    for token in doc:
        covers = [n for n, (start, end) in enumerate(offsets) if start <= token.idx < end]
        labels.append(model.config.id2label[best[covers[0]]] if covers else "O")
    return labels


def labels_said(nlp, checkpoint: Path, texts) -> set:
    """What the checkpoint says of texts, once it is sure that full depth says the same."""
    said = set()
    for text in texts:
        doc = nlp(text, component_cfg=FULL)
        expected = original_labels(checkpoint, doc)
        said |= set(expected)
        for number, label in enumerate(expected):  # as conlleval reads a stray I-X
            before = expected[number - 1] if number else "O"
            if label[0] == "I" and before[2:] != label[2:]:
                expected[number] = f"B-{label[2:]}"
        found = [f"{t.ent_iob_}-{t.ent_type_}" if t.ent_type_ else "O" for t in doc]
        assert found == expected
    return said


def write_checkpoint(encoder: str, labels, folder: Path, **options) -> Path:
    """A token classifier whose head has random weights, but says each label about as often."""
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    names = dict(enumerate(labels))
    model = AutoModelForTokenClassification.from_pretrained(encoder, id2label=names)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.classifier.weight)
    torch.nn.init.zeros_(model.classifier.bias)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    with torch.no_grad():
        rows = [tokenizer(text, return_tensors="pt") for text in TEXTS]
        said = torch.cat([model.eval()(**row).logits[0] for row in rows])
        model.classifier.weight /= said.std(0)[:, None]
        model.classifier.bias -= said.mean(0) / said.std(0)
    model.save_pretrained(folder, **options)
    tokenizer.save_pretrained(folder)
    return folder


def at_full_depth(folder: Path):
    adoption = Adoption(HFEncoder(str(folder)))
    return checkpoint_pipeline(adoption, read_token_classifier(adoption.source))[0]


class TestOtherCheckpoints:
    @pytest.mark.parametrize("family", [name for name in FAMILIES if name != "modernbert"])
    def test_of_any_family_every_word_has_the_label_of_transformers(
        self, family, encoders, tmp_path
    ):
        folder = write_checkpoint(encoders[family], LABELS, tmp_path)
        assert len(labels_said(at_full_depth(folder), folder, TEXTS)) > 3

    def test_one_that_has_no_safetensors(self, encoders, tmp_path):
        folder = write_checkpoint(encoders["bert"], LABELS, tmp_path, safe_serialization=False)
        assert (folder / "pytorch_model.bin").exists()
        with pytest.warns(UserWarning, match="weights_only=True"):
            nlp = at_full_depth(folder)
        assert len(labels_said(nlp, folder, TEXTS)) > 3

    def test_entities_without_a_type(self, encoders, tmp_path):
        folder = write_checkpoint(encoders["bert"], ["B", "I", "O"], tmp_path)
        nlp = at_full_depth(folder)
        assert nlp.get_pipe(NAME).labels == ("ENTITY",)
        for text in TEXTS:
            doc, before = nlp(text, component_cfg=FULL), "O"
            for token, label in zip(doc, original_labels(folder, doc)):
                found = token.ent_iob_
                assert found == ("B" if label == "I" and before == "O" else label)
                before = label


@pytest.fixture(scope="module")
def tagging(encoders, tmp_path_factory):
    """A token classifier of parts of speech, the pipeline made of it, and what was printed."""
    folder = tmp_path_factory.mktemp("tagging")
    write_checkpoint(encoders["roberta"], PARTS, folder / "checkpoint")
    srsly.write_jsonl(folder / "texts.jsonl", [{"text": text} for text in some_texts(60)])
    printed = run(
        *("-m", "spacy", "early-exit", "adopt", folder / "checkpoint", folder / "texts.jsonl"),
        *("--output", folder / "pipeline", "--epochs", "1", "--speedups", "1.3"),
        *("--attribute", "pos", "--min-agreement", "1"),
    )
    return folder / "checkpoint", folder / "pipeline", " ".join(printed.split())


class TestTagger:
    def test_full_depth_is_what_transformers_says(self, tagging):
        checkpoint, pipeline, _ = tagging
        nlp = spacy.load(pipeline)
        said = set()
        for doc in nlp.pipe(TEXTS):
            expected = original_labels(checkpoint, doc)
            assert [token.pos_ for token in doc] == expected
            assert not any(token.tag_ for token in doc)
            said |= set(expected)
        assert len(said) > 3

    def test_it_leaves_early_where_it_is_told_to(self, tagging):
        nlp = spacy.load(tagging[1])
        docs = list(nlp.pipe(TEXTS, component_cfg={"early_exit_tagger": {"speedup": 1.3}}))
        records = [doc._.early_exit["early_exit_tagger"] for doc in docs]
        assert sum(r.full for r in records) / sum(r.spent for r in records) > 1.1

    def test_without_enough_agreement_it_stays_at_full_depth_and_says_so(self, tagging):
        _, pipeline, printed = tagging
        assert spacy.load(pipeline).get_pipe("early_exit_tagger").speedup == 1.0
        assert "At speedup = 1.3, agreement with the checkpoint is 0." in printed
        assert "below --min-agreement 1." in printed and "saves nothing" in printed

    def test_it_is_scored_by_what_it_sets(self, tagging):
        nlp = spacy.load(tagging[1])
        assert nlp.get_pipe("early_exit_tagger").main_score == "pos_acc"
        weights = {"pos_acc": 1.0, "tag_acc": None, "morph_acc": None}
        weights.update(exit_cost=0.0, threshold=0.0)
        assert nlp.config["training"]["score_weights"] == weights
        assert "POS_ACC" in tagging[2] and "TAG_ACC" not in tagging[2]


class TestAttribute:
    def check(self, task, labels, attribute="pos"):
        none = torch.zeros(0)
        adoption = Adoption(HFEncoder("some/model"), attribute=attribute)
        check_attribute(adoption, TokenClassifier(task, labels, none, none))

    def test_pos_takes_parts_of_speech_alone(self):
        self.check("tagger", PARTS)
        with pytest.raises(ValueError, match="'some/model' are not .* pos: NN, VBD. Use --attrib"):
            self.check("tagger", ["NOUN", "NN", "VBD"])

    def test_entities_are_no_parts_of_speech(self):
        with pytest.raises(ValueError, match="'some/model' are for entities"):
            self.check("ner", ["NOUN"])

    def test_tags_may_be_anything(self):
        self.check("tagger", ["NN", "VBD"], "tag")
        self.check("ner", ["PER"], "tag")


def curve(*points) -> Calibration:
    """Of thresholds, savings and scores."""
    return Calibration(tuple(Point(*point) for point in points), {}, 100)


class TestAgreement:
    FOUND = curve(
        (0.0, 1.0, 1.0), (0.1, 1.5, 0.99), (0.2, 2.0, 0.96), (0.3, 2.5, 0.9), (0.4, 5.0, 0.5)
    )

    def test_the_largest_speedup_that_keeps_it_is_chosen(self):
        asked = [1.5, 2.0, 2.5, 4.0]
        for least, expected in ((0.97, 1.5), (0.95, 2.0), (0.9, 2.5), (0.0, 2.5)):
            assert fitting_speedup(self.FOUND, asked, least) == expected
        assert fitting_speedup(self.FOUND, asked, 0.995) == 1.0
        assert fitting_speedup(self.FOUND, [9.0], 0.0) == 1.0

    def test_between_two_savings_it_is_that_of_the_larger(self):
        assert agreement(self.FOUND, 2.2) == 0.9

    def test_where_neither_finds_anything_they_agree(self):
        found = curve((0.0, 1.0, None), (0.1, 2.0, None), (0.2, 3.0, 0.0))
        assert fitting_speedup(found, [2.0, 3.0], 0.95) == 2.0

    @pytest.mark.parametrize(
        "asked, chosen, message",
        [
            ([1.5, 2.0, 2.5], 2.0, "At speedup = 2.5, agreement .* 0.900, below .* 0.95"),
            ([2.5], 1.0, "At speedup = 2.5, .* full depth, which saves nothing"),
            ([1.5, 2.0, 9.0], 2.0, None),
        ],
    )
    def test_less_than_could_be_saved_is_said(self, asked, chosen, message, capsys):
        warn_of_less(self.FOUND, asked, chosen, 0.95)
        said = " ".join(capsys.readouterr().out.split())
        assert re.search(message, said) if message else not said


class TestFullDepth:
    @pytest.mark.slow
    def test_every_word_has_the_label_that_transformers_gives_it(self, nlp, checkpoint):
        from transformers import AutoTokenizer

        window = nlp.get_pipe(NAME).model.shims[0].trained.network.spec.max_wordpieces
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        texts = [*TEXTS, *some_texts(320)[300:]]
        texts = [text for text in texts if len(tokenizer(text)["input_ids"]) <= window]
        assert len(texts) > 20
        assert len(labels_said(nlp, checkpoint, texts)) > 3

    def test_it_outlives_saving_and_copying(self, nlp, tmp_path):
        expected = [answers(nlp(text, component_cfg=FULL)) for text in TEXTS]
        trained = [answers(doc) for doc in nlp.pipe(TEXTS, component_cfg={NAME: {"speedup": 1.3}})]
        nlp.to_disk(tmp_path)
        ner = nlp.get_pipe(NAME)
        copied = spacy.blank("en")
        copied.add_pipe(NAME, source=nlp)
        assert ner.model.copy().shims[0].trained.original is not None
        for other in (spacy.load(tmp_path), pickle.loads(pickle.dumps(nlp)), copied):
            other.get_pipe(NAME).store_exits = True
            assert [answers(other(text, component_cfg=FULL)) for text in TEXTS] == expected
            docs = other.pipe(TEXTS, component_cfg={NAME: {"speedup": 1.3}})
            assert [answers(doc) for doc in docs] == trained

    def test_a_missing_file_of_it_is_named(self, nlp, tmp_path):
        nlp.to_disk(tmp_path)
        (tmp_path / NAME / "model" / "original.safetensors").unlink()
        with pytest.raises(ValueError, match="original.safetensors is missing"):
            spacy.load(tmp_path)

    @pytest.mark.parametrize("whole", [True, False])
    def test_damage_to_its_file_is_named(self, whole, nlp, tmp_path):
        nlp.to_disk(tmp_path)
        path, draw = tmp_path / NAME / "model" / "original.safetensors", random.Random(0)
        data = path.read_bytes()
        for _ in range(5):
            place = draw.randrange(len(data))
            flipped = bytes([data[place] ^ 1 << draw.randrange(8)])
            path.write_bytes(data[:place] + (flipped + data[place + 1 :] if whole else b""))
            with pytest.raises(ValueError, match=r"original\.safetensors"):
                spacy.load(tmp_path)

    def test_training_on_replaces_it(self, nlp):
        shim = nlp.get_pipe(NAME).model.shims[0]
        assert shim.trained.original is not None
        nlp.update(examples_of(nlp), sgd=nlp.resume_training())
        assert shim.trained.original is None

    def test_what_is_the_same_is_kept_once(self, nlp):
        ner = nlp.get_pipe(NAME)
        ner.model.shims[0].keep_original(ner.model.shims[0].teacher())
        expected = [answers(nlp(text, component_cfg=FULL)) for text in TEXTS]
        assert len(ner.model.to_bytes()) < 1.1 * len(without_original(nlp))
        again = pickle.loads(pickle.dumps(nlp))
        assert [answers(again(text, component_cfg=FULL)) for text in TEXTS] == expected
        # What is shared is not scaled twice.
        heads = [network.head(1).weight for network in trained_of(again).networks]
        before = [head.clone() for head in heads]
        scale_heads(again.get_pipe(NAME), [2.0] * 4)
        for head, network in zip(before, trained_of(again).networks):
            assert torch.equal(network.head(1).weight, head / 2)


def trained_of(nlp):
    return nlp.get_pipe(NAME).model.shims[0].trained


def without_original(nlp) -> bytes:
    other = pickle.loads(pickle.dumps(nlp.get_pipe(NAME).model))
    other.shims[0].keep_original(None)
    return other.to_bytes()


class TestLeavingEarly:
    def test_a_speedup_is_set_and_reached(self, nlp):
        ner = nlp.get_pipe(NAME)
        assert ner.speedup == 2.0
        docs = list(nlp.pipe(some_texts(400)[300:]))
        records = [doc._.early_exit[NAME] for doc in docs]
        assert sum(r.full for r in records) / sum(r.spent for r in records) > 1.6
        assert len({layer for record in records for layer in record.layers}) > 1

    def test_most_words_are_labelled_as_by_the_checkpoint(self, nlp):
        texts = some_texts(400)[300:]
        fast = nlp.pipe(texts, component_cfg={NAME: {"speedup": 1.3}})
        full = list(nlp.pipe(texts, component_cfg=FULL))
        same = [
            a.ent_type_ == b.ent_type_ for one, other in zip(fast, full) for a, b in zip(one, other)
        ]
        outside = [not token.ent_type_ for doc in full for token in doc]
        assert np.mean(same) > 0.95 > np.mean(outside)  # which is what saying O of all would get

    def test_the_saved_config_names_no_file_of_the_training(self, adopted):
        config = (adopted / "config.cfg").read_text(encoding="utf8")
        assert "train.spacy" not in config and "start_from" not in config


@pytest.mark.slow
def test_without_the_original_full_depth_is_trained_too(checkpoint, adopted, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(some_texts(60)), encoding="utf8")
    printed = run(
        *("-m", "spacy", "early-exit", "adopt", checkpoint, tmp_path / "texts.txt"),
        *("--output", tmp_path / "pipeline", "--epochs", "1", "--speedups", "1.3"),
        "--drop-original",
    )
    assert "Saved the pipeline" in printed
    nlp = spacy.load(tmp_path / "pipeline")
    assert nlp.get_pipe(NAME).model.shims[0].trained.original is None
    assert not (tmp_path / "pipeline" / NAME / "model" / "original.safetensors").exists()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_pipeline(checkpoint, tmp_path):
    weights = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        torch.rand(len(weights))  # whatever was drawn before
        adoption = Adoption(HFEncoder(str(checkpoint)), epochs=1, seed=3)
        nlp, _ = adopt(adoption, some_texts(60), [1.3], tmp_path / name)
        weights.append(nlp.get_pipe(NAME).model.shims[0].trained.network.state_dict())
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


class TestRefused:
    @pytest.fixture
    def changed(self, checkpoint, tmp_path):
        """Copies the checkpoint with other labels."""

        def change(labels) -> HFEncoder:
            folder = shutil.copytree(checkpoint, tmp_path / "changed")
            config = json.loads((folder / "config.json").read_text())
            names = labels if isinstance(labels, dict) else dict(enumerate(labels))
            config["id2label"] = names
            config["label2id"] = {label: number for number, label in names.items()}
            (folder / "config.json").write_text(json.dumps(config))
            return HFEncoder(str(folder))

        return change

    def test_labels_without_names(self, changed):
        source = changed([f"LABEL_{n}" for n in range(7)])
        with pytest.raises(ValueError, match="no names: set id2label"):
            read_token_classifier(source)

    def test_labels_of_another_scheme(self, changed):
        source = changed(["O", "B-PER", "I-PER", "E-PER", "S-PER", "B-LOC", "I-LOC"])
        with pytest.raises(ValueError, match="'E-PER' does not fit B-PER, I-PER"):
            read_token_classifier(source)

    @pytest.mark.parametrize("task", ["ner", "tagger"])
    def test_labels_that_can_not_be_told_apart(self, changed, task, tmp_path):
        source = changed(["O", "A", "B", "A", "B", "C", "D"])
        with pytest.raises(ValueError, match="share a name: A, B. Correct id2label"):
            read_token_classifier(source, task)

    def test_the_command_says_so(self, changed, tmp_path):
        source = changed(["A", "A", "C", "D", "E", "F", "G"])
        (tmp_path / "texts.txt").write_text("\n".join(some_texts(30)), encoding="utf8")
        printed = run(
            *("-m", "spacy", "early-exit", "adopt", source.name, tmp_path / "texts.txt"),
            *("--output", tmp_path / "pipeline", "--task", "tagger"),
            ok=False,
        )
        assert "share a name: A." in " ".join(printed.split())
        assert "Traceback" not in printed

    def test_labels_that_are_not_those_of_the_rows(self, changed):
        source = changed({number: name for number, name in enumerate(LABELS, 1)})
        with pytest.raises(ValueError, match="from 0 to 6, .* but has 1, 2, 3, 4, 5, 6, 7"):
            read_token_classifier(source)

    @pytest.mark.parametrize(
        "labels, odd",
        [
            (["B-A", "I-A", "B-B", "I-B", "B-C", "I-C", "X"], "B-A"),
            (["o", "b-a", "i-a", "b-b", "i-b", "b-c", "i-c"], "o"),
            (["PAD", "A-B", "A-I", "B-B", "B-I", "C-B", "C-I"], "A-B"),
            (["X", "Y", "Z", "S_PER", "B_PER", "M_PER", "E_PER"], "S_PER"),
            (["B", "I", "E", "S", "M", "L", "U"], "B"),
        ],
    )
    def test_entities_without_an_outside_do_not_become_tags_unasked(self, changed, labels, odd):
        source = changed(labels)
        with pytest.raises(ValueError, match=f"no 'O' .* '{odd}' looks .* or use --task tagger"):
            read_token_classifier(source)
        assert read_token_classifier(source, "tagger").labels == labels

    def test_no_outside(self, changed):
        source = changed(["A", "B", "C", "D", "E", "F", "G"])
        with pytest.raises(ValueError, match="no 'O'"):
            read_token_classifier(source, "ner")
        assert read_token_classifier(source).task == "tagger"

    def test_an_encoder_without_a_head(self, encoders):
        with pytest.raises(ValueError, match="no token classification head"):
            read_token_classifier(HFEncoder(encoders["bert"]))

    def test_a_head_of_several_maps(self, encoders, tmp_path):
        from transformers import AutoConfig, AutoModelForTokenClassification

        config = AutoConfig.from_pretrained(encoders["modernbert"], id2label={0: "O", 1: "I-X"})
        AutoModelForTokenClassification.from_config(config).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="not a single linear layer .head, classifier"):
            read_token_classifier(HFEncoder(str(tmp_path)))

    def test_too_few_texts(self, checkpoint, tmp_path):
        with pytest.raises(ValueError, match="1 different texts are too few"):
            adopt(Adoption(HFEncoder(str(checkpoint))), ["Ann ran."] * 50, [2.0], tmp_path)

    @pytest.mark.parametrize("setting", [{"min_agreement": 95}, {"epochs": 0}])
    def test_settings_that_can_not_be(self, setting):
        with pytest.raises(ValueError, match=f"{next(iter(setting))} must be"):
            Adoption(HFEncoder("any"), **setting)


class TestLabels:
    def test_bio_in_any_order(self):
        labels, rows = bio_rows(["I-B", "B-A", "O", "I-A", "B-B"])
        assert labels == ["A", "B"] and rows == [2, 1, 3, 4, 0]

    def test_a_tag_that_is_not_there_has_no_row(self):
        assert bio_rows(["O", "B-A"]) == (["A"], [0, 1, None])

    def test_bare_names_are_inside(self):
        assert bio_rows(["O", "A"]) == (["A"], [0, None, 1])

    def test_one_type_may_have_no_name(self):
        assert bio_rows(["B", "O", "I"]) == (["ENTITY"], [1, 0, 2])
        assert bio_rows(["O", "I"]) == (["ENTITY"], [0, None, 1])
        assert bio_rows(["O", "B", "C"]) == (["B", "C"], [0, None, 1, None, 2])

    @pytest.mark.parametrize(
        "names, message",
        [
            (["O", "B_PER", "I_PER"], "'B_PER' is neither. .*--task tagger"),
            (["O", "PER-B", "PER-I"], "'PER-B' is neither. .*--task tagger"),
            (["O", "b-per", "i-per"], "'b-per' is neither. .*--task tagger"),
            (["O", "B-PER", "i-per"], "'i-per' does not fit B-PER"),
            (["O", "B-PER", "I-PER", "PAD"], "'PAD' does not fit B-PER, I-PER"),
            (["O", "B", "I", "E", "S"], "'B' is neither"),
            (["O", "o", "PER"], "'o' is neither"),
            (["O", "B-", "I-"], "its label 'B-' names no kind of entity"),
            (["O", "B-PER", "I-"], "its label 'I-' names no kind of entity"),
            (["o", "B-PER", "I-PER"], "no 'O' .*: o, B-PER, I-PER. .*--task tagger"),
        ],
    )
    def test_what_can_not_be_read_as_entities_is_refused(self, names, message):
        with pytest.raises(ValueError, match=message):
            bio_rows(names)

    @pytest.mark.parametrize(
        "names, rows, message",
        [
            ({0: "O", 1: ""}, 2, "without white space around them, not ''"),
            ({0: "O", 1: "PER "}, 2, "without white space around them, not 'PER '"),
            ({0: "O", 1: 7}, 2, "must be names .* not 7"),
            ({0: "O"}, 1, "'O' is its only label"),
            ({0: "O", 2: "PER"}, 2, "from 0 to 1, .* but has 0, 2"),
        ],
    )
    def test_rows_without_a_name_of_their_own_are_refused(self, names, rows, message):
        with pytest.raises(ValueError, match=message):
            label_names(names, rows)

    def test_a_forbidden_tag_is_never_said(self, encoders, tmp_path):
        from transformers import AutoConfig, AutoModelForTokenClassification

        config = AutoConfig.from_pretrained(encoders["bert"], id2label={0: "O", 1: "A"})
        AutoModelForTokenClassification.from_config(config).save_pretrained(tmp_path)
        found = read_token_classifier(HFEncoder(str(tmp_path)))
        assert found.labels == ["A"] and found.bias[1] < -1000 and not found.weight[1].any()


def test_a_classifier_whose_heads_hugging_face_pruned_is_adopted(encoders, tmp_path, en):
    """Full depth is what transformers says after its own pruning."""
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    model = AutoModelForTokenClassification.from_pretrained(
        encoders["bert"], id2label=dict(enumerate(LABELS)), attn_implementation="eager"
    ).eval()
    model.base_model.prune_heads({0: [1], 3: [0, 2]})
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(encoders["bert"]).save_pretrained(tmp_path)
    adoption = Adoption(HFEncoder(str(tmp_path)))
    head = read_token_classifier(adoption.source)
    _, pipe, network = checkpoint_pipeline(adoption, head)
    assert network.spec.kept_heads == ((0, 2, 3), (0, 1, 2, 3), (0, 1, 2, 3), (1, 3))
    doc = en.make_doc(TEXTS[0])
    (exits,) = pipe.model.predict([doc])
    encoded = AutoTokenizer.from_pretrained(tmp_path)(doc.text, return_tensors="pt")
    firsts = [encoded.char_to_token(token.idx) for token in doc]
    with torch.inference_mode():
        theirs = model(**encoded).logits[0, firsts].numpy()
    rows = [LABELS.index(f"{tag}-{label}") for label in head.labels for tag in "BI"]
    np.testing.assert_allclose(exits.logits[:, 1:], theirs[:, rows], atol=1e-4)
