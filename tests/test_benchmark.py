"""Contenders beside one another on the clock."""

import os
import time
from pathlib import Path

import pytest
import spacy
import srsly

from spacy_early_exit.measure.benchmark import Contender, benchmark, f_score, ratio
from spacy_early_exit.measure.contenders import SpacyRunner, contenders_of

from .factories import TEXTS

NAME = "early_exit_ner"
GOLD = [[(0, 3, "PER")], [(4, 8, "LOC")]]


class Fake:
    """Takes its time, notes its rounds, finds what it is told to."""

    def __init__(self, name, log, seconds=0.0, found=GOLD, fails_at=None, dies_at=None):
        self.name, self.log, self.seconds, self.found = name, Path(log), seconds, found
        self.fails_at, self.dies_at, self.calls = fails_at, dies_at, 0

    def __call__(self, texts):
        self.calls += 1
        with self.log.open("a") as file:
            file.write(f"{self.name} {len(texts)} {os.environ['OMP_NUM_THREADS']} {os.getpid()}\n")
        if self.calls == self.fails_at:
            raise RuntimeError("it is tired")
        if self.calls == self.dies_at:
            os._exit(3)
        time.sleep(self.seconds)
        return self.found

    def spans(self, found):
        return found


def make_fake(**arguments):
    return Fake(**arguments)


def fake(name, log, **arguments):
    return Contender(name, make_fake, {"name": name, "log": str(log), **arguments})


def run(contenders, rounds=2, **options):
    return benchmark(contenders, ["a b", "c d"], GOLD, 4, threads=1, rounds=rounds, **options)


def test_f_is_that_of_entities():
    found = [[(0, 3, "PER"), (5, 6, "PER")], [(4, 8, "ORG")]]
    assert f_score(found, GOLD) == pytest.approx(2 * 1 / (3 + 2))
    assert f_score([[], []], [[], []]) == 0.0
    assert f_score([[[0, 3, "PER"]], []], GOLD) == pytest.approx(2 / 3)


def test_rounds_alternate_and_each_has_a_process(tmp_path):
    log = tmp_path / "log.txt"
    results = run([fake("slow", log, seconds=0.4), fake("quick", log, found=[[], []])])
    lines = [line.split() for line in log.read_text().splitlines()]
    # Warm-up and entities, one after the other; then the rounds in turns.
    assert [line[0] for line in lines] == ["slow"] * 2 + ["quick"] * 2 + ["slow", "quick"] * 2
    assert {line[2] for line in lines} == {"1"}
    assert len({line[3] for line in lines}) == 2 and str(os.getpid()) not in lines[0]
    slow, quick = results["slow"], results["quick"]
    assert slow["ents_f"] == 1.0 and quick["ents_f"] == 0.0
    assert all(0.4 <= seconds < 2 for seconds in slow["seconds"])
    assert slow["words_per_second_min"] <= slow["words_per_second"] <= 4 / 0.4
    median, least, most = ratio(quick, slow)
    assert 1 < least <= median <= most
    assert slow["startup"] > 0.4 and slow["peak_mb"] > 10


def test_it_goes_on_where_it_was_cut_off(tmp_path):
    log, saved = tmp_path / "log.txt", []
    contenders = [fake("one", log), fake("two", log)]

    def save(results):
        saved.append(srsly.json_loads(srsly.json_dumps(results)))
        if len(saved) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(contenders, rounds=3, save=save)
    assert [len(result["seconds"]) for result in saved[0].values()] == [1, 1]
    log.unlink()
    results = run(contenders, rounds=3, known=saved[0])
    assert [len(result["seconds"]) for result in results.values()] == [3, 3]
    assert results["one"]["seconds"][0] == saved[0]["one"]["seconds"][0]
    log.unlink()
    assert run(contenders, rounds=3, known=results) == results
    assert not log.exists(), "nothing is left to measure"


@pytest.mark.parametrize(
    "how, said", [({"fails_at": 3}, "it is tired"), ({"dies_at": 3}, "ended with code 3")]
)
def test_one_that_fails_stops_no_other(tmp_path, how, said):
    log = tmp_path / "log.txt"
    results = run([fake("bad", log, **how), fake("good", log)])
    assert said in results["bad"]["error"] and len(results["good"]["seconds"]) == 2
    assert "error" not in results["good"]


def test_a_pipeline_at_its_speedups(nlp, tmp_path):
    from spacy_early_exit.measure.calibrate import calibrate

    from .factories import examples_of

    calibrate(nlp.get_pipe(NAME), examples_of(nlp), [1.2])
    nlp.to_disk(tmp_path / "mine")
    contenders = contenders_of(str(tmp_path / "mine"), [1.0, 1.2, 99.0], [8])
    assert [contender.name for contender in contenders] == ["mine, 1X", "mine, 1.2X"]
    full, early = (SpacyRunner(**contender.arguments) for contender in contenders)
    spent = [sum(doc._.early_exit[NAME].spent for doc in runner(TEXTS)) for runner in (full, early)]
    assert spent[0] > spent[1]
    one_by_one = SpacyRunner(**{**contenders[1].arguments, "batch_size": 0})
    assert one_by_one.spans(one_by_one(TEXTS)) == early.spans(early(TEXTS))
    blank = spacy.blank("en")
    blank.to_disk(tmp_path / "blank")
    names = [c.name for c in contenders_of(str(tmp_path / "blank"), [1.0], [8, 64], "other")]
    assert names == ["other, batches of 8", "other, batches of 64"]
