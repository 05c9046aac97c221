"""Contenders beside one another on the clock."""

import os

import pytest
import spacy
import srsly

from spacy_early_exit.measure.benchmark import Contender, benchmark, f_score, leave_out, ratio
from spacy_early_exit.measure.contenders import SpacyRunner, contenders_of, unannotated_parts
from tests.makers.contenders import GOLD, make_fake
from tests.makers.texts import TEXTS, examples_of

NAME = "early_exit_ner"


def fake(name, log, **arguments):
    return Contender(name, make_fake, {"name": name, "log": str(log), **arguments})


def run(contenders, rounds=2, **options):
    return benchmark(contenders, ["a b", "c d"], GOLD, 4, threads=1, rounds=rounds, **options)


def test_f_is_that_of_entities():
    found = [[(0, 3, "PER"), (5, 6, "PER")], [(4, 8, "ORG")]]
    assert f_score(found, GOLD) == pytest.approx(2 * 1 / (3 + 2))
    assert f_score([[], []], [[], []]) == 0.0
    assert f_score([[[0, 3, "PER"]], []], GOLD) == pytest.approx(2 / 3)


@pytest.mark.takes(seconds=12)
def test_entities_where_nothing_is_annotated_are_not_scored(quick_starts, tmp_path):
    found = [[(0, 3, "PER"), (3, 5, "PER"), (4, 9, "PER"), (9, 10, "PER")], [[0, 8, "LOC"]]]
    assert leave_out(found, [[(5, 7), (8, 9)], []]) == [[*found[0][:2], found[0][3]], found[1]]
    unknown = [[], [(9, 12)]]
    alike = [fake("as told", tmp_path / "log", found=[GOLD[0], [*GOLD[1], [8, 10, "ORG"]]])]
    assert run(alike, unknown=unknown)["as told"]["ents_f"] == 1.0
    assert run(alike)["as told"]["ents_f"] < 1.0


def test_words_without_annotation_are_known(en):
    doc = en.make_doc("Ann lives in Oslo")
    assert unannotated_parts(doc) == [(0, 3), (4, 9), (10, 12), (13, 17)]
    doc.set_ents([doc.char_span(0, 3, "PER")], missing=[doc[3:]])
    assert unannotated_parts(doc) == [(13, 17)]


def test_a_ratio_is_that_of_rounds_side_by_side():
    assert ratio({"seconds": [1.0, 2.0, 3.0]}, {"seconds": [2.0, 8.0, 9.0]}) == (3.0, 2.0, 4.0)
    assert ratio({"seconds": []}, {"seconds": []}) is None


def lines_of(log):
    return [line.split() for line in log.read_text().splitlines()]


@pytest.mark.takes(seconds=12)
@pytest.mark.slow
def test_rounds_alternate_and_each_has_a_process(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    log = tmp_path / "log.txt"
    results = run([fake("slow", log, seconds=0.3), fake("quick", log, found=[[], []])])
    lines = lines_of(log)
    # Warm-up and entities, one after the other; then the rounds in turns.
    assert [line[0] for line in lines] == ["slow"] * 2 + ["quick"] * 2 + ["slow", "quick"] * 2
    assert {line[2] for line in lines} == {"1"} and "OMP_NUM_THREADS" not in os.environ
    assert len({line[3] for line in lines}) == 2 and str(os.getpid()) not in lines[0]
    slow, quick = results["slow"], results["quick"]
    assert slow["ents_f"] == 1.0 and quick["ents_f"] == 0.0
    assert all(seconds >= 0.3 for seconds in slow["seconds"]) and len(quick["seconds"]) == 2
    least, median, most = (slow[f"words_per_second{end}"] for end in ("_min", "", "_max"))
    assert least <= median <= most <= 4 / 0.3
    assert slow["startup"] > 0.3 and slow["peak_mb"] > 10


@pytest.mark.slow
def test_its_memory_is_not_that_of_whoever_started_it(tmp_path):
    """Linux lets a process inherit the most memory that its parent ever took."""
    own = run([fake("one", tmp_path / "log.txt")], rounds=1)["one"]["peak_mb"]
    large = bytearray(2**29)  # 512 MB
    large[:: 2**12] = b"x" * len(large[:: 2**12])
    beside_large = run([fake("one", tmp_path / "log.txt")], rounds=1)["one"]["peak_mb"]
    assert len(large) == 2**29 and beside_large < own + 100


def test_it_goes_on_where_it_was_cut_off(quick_starts, tmp_path):
    log, saved = tmp_path / "log.txt", []
    contenders = [fake("one", log), fake("two", log)]

    def save(results):
        saved.append(srsly.json_dumps(results))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(contenders, rounds=3, save=save)
    before = srsly.json_loads(saved[0])
    assert [len(result["seconds"]) for result in before.values()] == [1, 1]
    log.unlink()
    results = run(contenders, rounds=3, known=before)
    assert before == srsly.json_loads(saved[0]), "what was given stays"
    for name in before:
        assert results[name]["seconds"][0] == before[name]["seconds"][0]
        assert len(results[name]["seconds"]) == 3
    # Two are ready after two calls each; two rounds were missing.
    assert len(lines_of(log)) == 2 * 2 + 2 * 2
    log.unlink()
    assert run(contenders, rounds=3, known=results) == results
    assert not log.exists(), "nothing is left to measure"
    # One that was trained on runs anew, with all others beside it.
    newer = Contender("one", make_fake, contenders[0].arguments, version="2")
    again = run([newer, contenders[1]], rounds=1, known=results)
    assert len(lines_of(log)) == 2 * 2 + 2 and all(len(r["seconds"]) == 1 for r in again.values())


@pytest.mark.parametrize(
    "how, said",
    [
        ({"fails_at": 3}, "it is tired"),
        ({"dies_at": 3}, "ended with code 3"),
        ({"seconds": 600}, "no answer for 10 seconds"),
    ],
)
def test_one_that_fails_stops_no_other(quick_starts, tmp_path, how, said):
    log = tmp_path / "log.txt"
    contenders = [fake("bad", log, **how), fake("good", log)]
    results = run(contenders, rounds=1, patience=10.0 if "seconds" in how else 600.0)
    assert said in results["bad"]["error"] and len(results["good"]["seconds"]) == 1
    assert "error" not in results["good"]
    if "fails_at" in how:
        contenders = [fake("bad", log), fake("good", log)]
        assert "error" not in run(contenders, rounds=1, known=results)["bad"], "it is tried again"


def test_one_that_no_process_can_take_stops_no_other(tmp_path):
    bad = Contender("bad", lambda: None)
    results = run([bad, fake("good", tmp_path / "log.txt")], rounds=1)
    assert "pickle" in results["bad"]["error"] and len(results["good"]["seconds"]) == 1


def test_names_are_unique(tmp_path):
    with pytest.raises(ValueError, match="called 'one'"):
        run([fake("one", tmp_path / "log.txt")] * 2)


def test_a_pipeline_at_its_speedups(nlp, tmp_path):
    from spacy_early_exit.measure.calibrate import calibrate

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
    with pytest.raises(ValueError, match=r"speedups up to \d"):
        contenders_of(str(tmp_path / "mine"), [99.0], [8])
    nlp.to_disk(tmp_path / "mine")
    newer = contenders_of(str(tmp_path / "mine"), [1.0], [8])[0]
    assert newer.version != contenders[0].version and newer.arguments == contenders[0].arguments


def test_pipelines_that_find_no_entities_are_refused(tmp_path):
    nlp = spacy.blank("en")
    nlp.add_pipe("early_exit_tagger")
    nlp.to_disk(tmp_path / "tags")
    with pytest.raises(ValueError, match="not with 'early_exit_tagger', of early_exit_tagger"):
        contenders_of(str(tmp_path / "tags"), [1.0], [8])
    nlp.add_pipe(NAME)  # beside one that finds them it may be
    nlp.to_disk(tmp_path / "both")
    (contender,) = contenders_of(str(tmp_path / "both"), [1.0], [8])
    assert contender.name == "both, 1X"
