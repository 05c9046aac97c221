"""Holding a saving over a stream of texts."""

import copy
import itertools
import random
import warnings

import numpy as np
import pytest
import spacy
from spacy.util import Config, load_model_from_config, raise_error

import spacy_early_exit
from spacy_early_exit.budget.controller import MIN_WORDS, Controller, SharedController
from spacy_early_exit.budget.curve import Calibration, Point
from spacy_early_exit.measure.calibrate import calibrate
from spacy_early_exit.measure.evaluate import evaluate
from tests.makers.pipelines import answers, blank
from tests.makers.texts import TEXTS, examples_of, texts_of_all_lengths

NAME = "early_exit_ner"
CURVE = (Point(0.0, 1.0), Point(0.02, 1.5), Point(0.1, 2.0), Point(0.3, 3.0), Point(0.6, 4.0))


def run(speedup, cost_at, words=40_000, seed=0):
    """Let a controller hold a saving over docs whose cost at a threshold is made up.

    RETURNS (Tuple): The controller, and the saving so far after every doc.
    """
    controller, rng, so_far = (
        Controller(Calibration(CURVE, {}, 10), speedup),
        random.Random(seed),
        [],
    )
    while controller.words < words:
        docs = [(rng.randint(5, 40), i) for i in range(20)]
        lengths = dict((i, length) for length, i in docs)
        for part in controller.chunks(docs):
            for i in part:
                full = lengths[i] * 1000
                share = min(1.0, cost_at(controller.threshold) * rng.uniform(0.6, 1.4))
                controller.account(lengths[i], round(full * share), full)
                so_far.append((controller.words, controller.achieved))
    return controller, so_far


def curve_cost(threshold):
    for low, high in zip(CURVE, CURVE[1:]):
        if threshold <= high.threshold:
            share = (threshold - low.threshold) / (high.threshold - low.threshold)
            return 1 / (low.speedup + share * (high.speedup - low.speedup))
    return 0.25


@pytest.mark.parametrize("speedup", [1.5, 2.0, 3.0])
@pytest.mark.parametrize("dearer", [0.75, 1.0, 1.3])
def test_a_saving_is_held_whether_texts_are_dearer_or_cheaper(speedup, dearer):
    controller, so_far = run(speedup, lambda threshold: min(1.0, dearer * curve_cost(threshold)))
    assert controller.achieved == pytest.approx(speedup, rel=0.02)
    later = [saving for words, saving in so_far if words > 4000]
    assert all(abs(saving / speedup - 1) < 0.08 for saving in later)
    assert controller.failure() is None


def test_it_follows_when_texts_change_on_the_way():
    words = 0

    def cost_at(threshold):
        nonlocal words
        words += 20
        return min(1.0, (0.8 if words < 20_000 else 1.3) * curve_cost(threshold))

    controller, _ = run(2.0, cost_at)
    assert controller.achieved == pytest.approx(2.0, rel=0.03)


# As of a trained pipeline: at the end of the dial all leave the first of six layers.
TO_THE_END = ((0, 1), (0.004, 1.5), (0.02, 2), (0.07, 3), (0.29, 4), (0.5, 5), (1, 6))


def made_up_docs(words, dearness, seed):
    """RETURNS (List[Tuple]): Length and dearness of docs, which differ as much as real ones do."""
    rng, docs = random.Random(seed), []
    while sum(length for length, _ in docs) < words:
        docs.append((rng.randint(5, 40), dearness * rng.lognormvariate(0, 0.35)))
    return docs


def missed_after_the_start(docs, speedup):
    """RETURNS (float): By how much the saving over the words after the first 2,000 misses."""
    curve = tuple(Point(float(threshold), float(saving)) for threshold, saving in TO_THE_END)
    controller = Controller(Calibration(curve, {}, 10), speedup)
    before = None
    for part in controller.chunks((doc[0], doc) for doc in docs):
        threshold = controller.threshold
        cost = 1 / np.interp(threshold, *zip(*TO_THE_END))
        for length, dearness in part:
            full = length * 1000
            share = min(1.0, cost * dearness ** (1 - threshold))
            controller.account(length, round(full * share), full)
        if before is None and controller.words >= 2000:
            before = controller.spent, controller.full
    spent, full = controller.spent - before[0], controller.full - before[1]
    return full / spent / speedup - 1


ORDERS = {
    "shuffled": lambda doc: 0,
    "shortest first": lambda doc: doc[0],
    "longest first": lambda doc: -doc[0],
    "cheapest first": lambda doc: doc[1],
    "dearest first": lambda doc: -doc[1],
}


@pytest.mark.parametrize("speedup", [2.0, 3.0])
@pytest.mark.parametrize("order", ORDERS)
def test_a_saving_is_held_in_any_order_over_streams_of_any_length(order, speedup):
    for words in (7_000, 15_000, 60_000):
        for seed in range(3):
            docs = sorted(made_up_docs(words, 1.2, seed), key=ORDERS[order])
            assert abs(missed_after_the_start(docs, speedup)) < 0.03


@pytest.mark.parametrize("speedup", [2.0, 3.0])
@pytest.mark.parametrize("dearness", [(0.8, 1.3), (1.3, 0.8)])
def test_a_saving_is_held_where_other_texts_follow(dearness, speedup):
    for words in (7_000, 15_000, 60_000):
        one, other = (made_up_docs(words, dear, seed) for seed, dear in enumerate(dearness))
        assert abs(missed_after_the_start(one + other, speedup)) < 0.03


def test_a_threshold_hardly_moves_where_texts_are_all_alike():
    controller, seen = Controller(Calibration(CURVE, {}, 10), 2.0), []
    for part in controller.chunks((doc[0], doc) for doc in made_up_docs(20_000, 1.2, 0)):
        seen.append(controller.achieved if controller.words > 4000 else 2.0)
        cost = 1.2 * curve_cost(controller.threshold)
        for length, _ in part:
            controller.account(length, round(length * 1000 * cost), length * 1000)
    assert seen[-1] == pytest.approx(2.0, rel=0.002)
    assert max(abs(saving / 2 - 1) for saving in seen) < 0.01


def test_it_never_leaves_the_curve_and_says_when_that_is_not_enough():
    seen = []
    controller, _ = run(3.0, lambda t: seen.append(t) or min(1.0, 2 * curve_cost(t)))
    assert "the largest threshold of its calibration (4.00X)" in controller.failure()
    assert controller.failure() is None, "said once"
    assert controller.achieved < 2.2
    assert max(seen) == 0.6 and min(seen) >= 0.0
    assert controller.threshold == 0.6, "it gives all there is"
    easy, _ = run(1.5, lambda t: 0.3)
    assert easy.failure() is None and easy.threshold == 0.0


@pytest.fixture(scope="module")
def nlp(trained_bytes):
    config, data = trained_bytes
    nlp = load_model_from_config(Config().from_str(config), auto_fill=True).from_bytes(data)
    texts = [*TEXTS, *texts_of_all_lengths(count=60)]
    examples = examples_of(nlp, [(text, []) for text in texts])
    calibrate(nlp.get_pipe(NAME), examples, [1.2, 1.5, 2], with_score=False)
    return nlp


def stream():
    return random.Random(1).choices([*TEXTS, *texts_of_all_lengths(count=60)], k=300)


def adaptive(speedup, on=True):
    return {NAME: {"speedup": speedup, "adaptive": on}}


def saving(docs):
    records = [doc._.early_exit[NAME] for doc in docs]
    return sum(r.full for r in records) / sum(r.spent for r in records)


@pytest.mark.takes(seconds=12)
def test_the_size_of_batches_changes_nothing(nlp):
    found = []
    for size in (1, 7, 1000):
        docs = list(nlp.pipe(stream(), batch_size=size, component_cfg=adaptive(1.5)))
        found.append([answers(doc) for doc in docs])
        assert sum(map(len, docs)) > 6 * MIN_WORDS
        assert saving(docs) == pytest.approx(1.5, rel=0.05)
    assert found[0] == found[1] == found[2]


def test_what_was_answered_before_a_failure_is_given(nlp, monkeypatch):
    """Where the handler raises, as spaCy's own does."""
    ner = nlp.get_pipe(NAME)
    texts = [text for text in stream() if text.strip()][:40]
    original = type(ner).annotate

    def fails(self, doc, prediction):
        if doc.text == "bad":
            raise RuntimeError("a bad doc")
        return original(self, doc, prediction)

    monkeypatch.setattr(type(ner), "annotate", fails)
    given = []
    with pytest.raises(RuntimeError, match="a bad doc"):
        docs = nlp.pipe([*texts[:30], "bad", *texts[30:]], component_cfg=adaptive(1.5))
        given.extend(doc.text for doc in docs)
    assert given == texts[:30]


@pytest.mark.takes(seconds=12)
@pytest.mark.slow
def test_every_call_starts_anew_and_adaptive_may_be_set_for_one(nlp):
    ner = nlp.get_pipe(NAME)
    ner.speedup, ner.adaptive = 1.5, True
    try:
        first, second = ([answers(doc) for doc in nlp.pipe(stream())] for _ in range(2))
        assert first == second
        cfg = {NAME: {"adaptive": False}}
        fixed = [answers(doc) for doc in nlp.pipe(stream(), component_cfg=cfg)]
        alone = [answers(nlp(text, component_cfg=cfg)) for text in stream()]
        assert fixed == alone and fixed != first
        with pytest.raises(ValueError, match="holds a speedup over a stream"):
            nlp("Ann Lee lives in Oslo.")
        nlp("Ann Lee lives in Oslo.", component_cfg={NAME: {"threshold": 0.1}})  # nothing to hold
        nlp("Ann Lee lives in Oslo.", component_cfg={NAME: {"speedup": 1}})
    finally:
        ner.speedup, ner.adaptive = None, False


BAD = (0, 31, 32, 33, 90, 141, 200, 299)


def run_with_bad_docs(nlp, monkeypatch, batch_size):
    """Some docs fail before they are tagged, or while they are annotated; two have no words.

    RETURNS (List[Tuple]): Threshold, number and answers of every doc that was answered.
    """
    ner, given, thresholds = nlp.get_pipe(NAME), [], {}
    predict, annotate = type(ner)._predict, type(ner).annotate

    def fails_before(self, docs, settings):
        thresholds.update({doc.user_data["number"]: settings.threshold for doc in docs})
        if any(doc.user_data["number"] in BAD[::2] for doc in docs):
            raise RuntimeError("bad")
        return predict(self, docs, settings)

    def fails_after(self, doc, prediction):
        if doc.user_data["number"] in BAD[1::2]:
            raise RuntimeError("bad")
        annotate(self, doc, prediction)

    monkeypatch.setattr(type(ner), "_predict", fails_before)
    monkeypatch.setattr(type(ner), "annotate", fails_after)
    texts = stream()
    texts[40], texts[250] = "", " \n"
    docs = [nlp.make_doc(text) for text in texts]
    for number, doc in enumerate(docs):
        doc.user_data["number"] = number
    for doc in nlp.pipe(docs, batch_size=batch_size, component_cfg=adaptive(1.5)):
        number = doc.user_data["number"]
        given.append((number, thresholds[number], answers(doc)))
    return given


@pytest.mark.takes(seconds=12)
@pytest.mark.slow
def test_docs_that_fail_change_nothing_for_others_whatever_the_size_of_batches(nlp, monkeypatch):
    ner, failed, runs = nlp.get_pipe(NAME), [], []
    ner.store_exits = True
    ner.set_error_handler(lambda name, proc, docs, e: failed.append(docs[0].user_data["number"]))
    try:
        for size in (1, 7, 20, 300):
            with monkeypatch.context() as patch:
                runs.append(run_with_bad_docs(nlp, patch, size))
            assert failed == list(BAD)
            failed.clear()
    finally:
        ner.set_error_handler(raise_error)
        ner.store_exits = False
    assert [number for number, *_ in runs[0]] == [n for n in range(300) if n not in BAD]
    assert len({threshold for _, threshold, _ in runs[0]}) > 6
    for other in runs[1:]:
        assert other == runs[0]


def test_what_fails_is_a_step_to_the_next_update_and_no_saving():
    controller = Controller(Calibration(CURVE, {}, 10), 2.0)
    start = controller.threshold
    parts = []
    for part in controller.chunks([(MIN_WORDS // 2, number) for number in range(4)]):
        parts.append((part, controller.threshold))
        if 1 in part:  # 0 fails
            controller.account(MIN_WORDS // 2, 800, 1000)
    assert [part for part, _ in parts] == [[0, 1], [2, 3]]
    assert parts[0][1] == start < parts[1][1]
    after_one = controller.threshold
    assert parts[1][1] == after_one, "where all fail, there is nothing to learn"
    assert (controller.words, controller.achieved) == (MIN_WORDS // 2, 1.25)


def test_what_a_stream_that_is_closed_early_has_given_is_counted(nlp, monkeypatch):
    made = []
    ner = nlp.get_pipe(NAME)
    real = type(ner)._controller
    monkeypatch.setattr(
        type(ner), "_controller", lambda self, knob: made.append(real(self, knob)) or made[-1]
    )
    docs = nlp.pipe(stream(), batch_size=300, component_cfg=adaptive(1.5))
    given = [next(docs) for _ in range(5)]
    docs.close()
    (controller,) = made
    assert controller.words == sum(map(len, given))
    assert controller.achieved == saving(given)


@pytest.mark.slow
def test_processes_keep_their_own_between_batches(nlp):
    docs = list(nlp.pipe(stream(), n_process=2, batch_size=10, component_cfg=adaptive(1.5)))
    assert len(docs) == 300
    assert saving(docs) == pytest.approx(1.5, rel=0.08)
    # Ten docs are fewer words than there are between updates: without memory nothing would move.
    fixed = list(nlp.pipe(stream(), component_cfg=adaptive(1.5, on=False)))
    assert [answers(doc) for doc in docs] != [answers(doc) for doc in fixed]
    assert nlp.get_pipe(NAME)._kept_controller is None, "this process holds nothing"


def test_a_budget_that_cannot_be_met_is_reported_once(nlp):
    ner = nlp.get_pipe(NAME)
    kept = ner.calibration
    points = tuple(Point(p.threshold / 100, p.speedup) for p in kept.points)  # as if measured so
    ner.calibration = Calibration(points, kept.fingerprint, kept.words)
    try:
        with pytest.warns(UserWarning, match=r"could not hold speedup = 2.*Calibrate") as found:
            list(nlp.pipe(stream(), component_cfg=adaptive(2)))
        assert len([w for w in found if "could not hold" in str(w.message)]) == 1
    finally:
        ner.calibration = kept
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(nlp.pipe(stream(), component_cfg=adaptive(1.5)))


def test_one_long_text_is_no_reason_to_blame_the_calibration(nlp):
    text = " ".join(stream())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(nlp.pipe([text, " \n"], component_cfg=adaptive(2)))


def test_evaluating_measures_the_calibrated_curve_whatever_is_set(nlp):
    ner = nlp.get_pipe(NAME)
    examples = examples_of(nlp, [(text, []) for text in stream()])
    fixed = evaluate(nlp, ner, examples, [1.5], rounds=0)
    ner.adaptive = True
    try:
        assert evaluate(nlp, ner, examples, [1.5], rounds=0) == fixed
    finally:
        ner.adaptive = False


def test_a_doc_that_fails_is_no_measurement(nlp, monkeypatch):
    ner = nlp.get_pipe(NAME)

    def fail(self, docs, settings):
        raise RuntimeError("bad")

    monkeypatch.setattr(type(ner), "_predict", fail)
    ner.set_error_handler(lambda *args: None)
    with pytest.raises(RuntimeError, match="bad"):
        evaluate(nlp, ner, examples_of(nlp), [1.5], rounds=0)
    ner.set_error_handler(raise_error)


def test_a_threshold_for_good_ends_it_and_the_pipeline_loads_again(nlp, tmp_path):
    nlp = copy.deepcopy(nlp)
    ner = nlp.get_pipe(NAME)
    spacy_early_exit.configure(nlp, speedup=1.5)
    nlp.get_pipe_config(NAME)["adaptive"] = ner.adaptive = True
    nlp.to_disk(tmp_path / "adaptive")
    assert spacy.load(tmp_path / "adaptive").get_pipe(NAME).adaptive
    spacy_early_exit.configure(nlp, threshold=0.1)
    nlp.to_disk(tmp_path / "fixed")
    loaded = spacy.load(tmp_path / "fixed").get_pipe(NAME)
    assert loaded.threshold == 0.1 and not loaded.adaptive


def test_without_a_speedup_there_is_nothing_to_hold(nlp):
    with pytest.raises(ValueError, match="adaptive in this call needs a speedup to hold"):
        list(nlp.pipe(TEXTS, component_cfg={NAME: {"adaptive": True}}))
    with pytest.raises(ValueError, match="adaptive of 'early_exit_ner' needs a speedup to hold"):
        blank("nowhere", adaptive=True)
    blank("nowhere", adaptive=True, speedup=2.0)
    copied = copy.deepcopy(nlp.config)
    assert copied["components"][NAME]["adaptive"] is False


def share(workers, dearer, parts, resumed=(0, 0, 0)):
    """Let workers share a controller over texts whose cost is made up: each tells of a batch while
    the others compute theirs at older thresholds.

    RETURNS (SharedController): The controller.
    """
    controller = SharedController(Calibration(CURVE, {}, 10), 3.0, resumed, workers)
    rng = random.Random(0)
    at_work = []
    batches = iter(parts)
    for kind in itertools.islice(batches, workers):
        at_work.append((kind, controller.exchange()))
    while at_work:
        kind, (position, threshold) = at_work.pop(rng.randrange(len(at_work)))
        full = 5_000_000
        cost = min(1.0, dearer[kind] * curve_cost(threshold) * rng.uniform(0.9, 1.1))
        now = controller.exchange(position, 5000, round(full * cost), full)
        at_work += [(kind, now) for kind in itertools.islice(batches, 1)]
    return controller


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_workers_hold_one_budget_over_two_kinds_of_text(workers):
    """A fifth of the texts are of another kind, which comes at the end, or is mixed in."""
    kinds = ["chat"] * 320 + ["news"] * 80
    mixed = random.Random(1).sample(kinds, len(kinds))
    for parts in (kinds, mixed):
        found = share(workers, {"chat": 0.85, "news": 1.25}, parts)
        assert found.achieved == pytest.approx(3.0, rel=0.03)
        assert found.words == 400 * 5000


def test_a_resumed_job_holds_the_budget_over_both_runs():
    before = (500_000, 250_000_000, 500_000_000)  # which saved 2X
    found = share(2, {"chat": 1.0}, ["chat"] * 400, before)
    assert found.words == 500_000 + 400 * 5000
    assert found.achieved == pytest.approx(3.0, rel=0.03)


def test_costs_count_at_the_position_that_they_were_computed_at():
    """A worker that tells of an old threshold is no reason to move further."""
    controller = SharedController(Calibration(CURVE, {}, 10), 2.0)
    old, _ = controller.exchange()
    assert controller.exchange(old, 1000, 800_000, 1_000_000)[0] > old  # dearer than 2X allows
    controller = SharedController(Calibration(CURVE, {}, 10), 2.0, position=3.0)
    assert controller.exchange()[1] == 0.3
    same = controller.exchange(2.0, 1000, 500_000, 1_000_000)[0]
    assert same == pytest.approx(2.0)
