"""The synthetic demo corpus is hard, and its parts have nothing in common."""

import itertools
import random
import sys
from collections import defaultdict

import pytest

from tests.makers.commands import run
from tests.makers.project import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

import cut_tune
import demo_corpus


@pytest.fixture(scope="module")
def corpus():
    return demo_corpus.make_corpus(seed=0)


def words(sentence):
    """Words and tags of a sentence."""
    return [tuple(line.split("\t")) for line in sentence.split("\n")]


def entities(sentence):
    """Text and label of each entity."""
    found = []
    for word, tag in words(sentence):
        if tag.startswith("B-"):
            found.append(([word], tag[2:]))
        elif tag.startswith("I-"):
            found[-1][0].append(word)
    return [(" ".join(parts), label) for parts, label in found]


def test_it_is_the_same_in_every_process(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "7")  # what sets are ordered by
    run("scripts/demo_corpus.py", tmp_path)
    for part, sentences in corpus.items():
        assert cut_tune.read_texts(tmp_path / f"{part}.tsv") == sentences


def test_there_are_many_patterns_and_no_two_alike():
    patterns = demo_corpus.read_patterns()
    assert len(patterns) >= 150
    for a, b in itertools.combinations(patterns, 2):
        assert len(a.masked & b.masked) / len(a.masked | b.masked) < 0.6, (a.text, b.text)
    assert {pattern.kind for pattern in patterns} == {"email", "ticket", "chat", "news"}
    slots = {name for pattern in patterns for name, _ in demo_corpus.SLOT.findall(pattern.text)}
    assert slots == {*demo_corpus.LABELS, "n", "code"}


def test_patterns_of_the_parts_differ():
    shares = demo_corpus.shares(demo_corpus.read_patterns(), random.Random(0))
    assert sum(map(len, shares.values())) == len({p for part in shares.values() for p in part})
    assert all(len(part) >= 20 for part in shares.values())


def test_fillers_of_the_parts_differ():
    parts = demo_corpus.make_fillers(seed=0)
    of_part = [
        {str(text).lower() for pool in pools.values() for text in pool} for pools in parts.values()
    ]
    assert all(not a & b for a, b in itertools.combinations(of_part, 2))
    assert all(len(texts) > 100 for texts in of_part)


def test_sentences_of_the_parts_differ(corpus):
    assert len(corpus["train"]) > 2000 and len(corpus["tune"]) > 100 and len(corpus["dev"]) > 300
    sentences = [sentence for part in corpus.values() for sentence in part]
    assert len(set(sentences)) == len(sentences)


def test_it_is_hard_enough(corpus):
    for part in ("train", "dev"):
        sentences = corpus[part]
        texts = [" ".join(word for word, _ in words(sentence)) for sentence in sentences]
        assert sum(text == text.lower() for text in texts) / len(texts) > 0.15
        assert 0.05 < sum(not entities(sentence) for sentence in sentences) / len(sentences) < 0.5
        labels, as_word, as_name = defaultdict(set), set(), set()
        for sentence in sentences:
            for text, label in entities(sentence):
                labels[text.lower()].add(label)
            for word, tag in words(sentence):
                (as_word if tag == "O" else as_name).add(word.lower())
        assert any({"PERSON", "PLACE", "ORG"} <= found for found in labels.values())
        assert len(as_word & as_name & {name.lower() for name in demo_corpus.WORDS}) >= 1
    found = {label for sentence in corpus["dev"] for _, label in entities(sentence)}
    assert found == set(demo_corpus.LABELS.values())


def test_the_same_seed_makes_the_same_corpus(corpus):
    assert demo_corpus.make_corpus(seed=0) == corpus
    assert demo_corpus.make_corpus(seed=1) != corpus


def test_it_says_that_it_is_synthetic_and_is_not_made_twice(tmp_path):
    folder = tmp_path / "demo"
    assert "synthetic" in run(ROOT / "scripts" / "get_corpus.py", folder)
    assert "synthetic" in (folder / "SYNTHETIC.txt").read_text()
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    run(ROOT / "scripts" / "get_corpus.py", folder)
    assert times == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    output = run(ROOT / "scripts" / "cut_tune.py", folder, tmp_path / "corpus")
    tune = cut_tune.read_sentences(tmp_path / "corpus" / "tune.tsv")
    assert tune == cut_tune.read_sentences(folder / "tune.tsv")
    assert "tune:" in output


def test_a_folder_without_a_corpus_is_refused(tmp_path):
    output = run(ROOT / "scripts" / "get_corpus.py", tmp_path / "mine", ok=False)
    assert "no train.tsv and no dev.tsv" in output and "--vars.corpus" in output
