"""From a speedup to a threshold."""

import dataclasses
import json
import random
import statistics
import warnings
from contextlib import nullcontext

import pytest
import spacy
import torch
from spacy.util import load_config_from_str, load_model_from_config

import spacy_early_exit
from spacy_early_exit.budget.curve import Calibration, Point, make_curve
from spacy_early_exit.budget.search import search_threshold, speedup_of
from spacy_early_exit.criteria import SentenceExit, TokenExit
from spacy_early_exit.criteria.base import CriterionBase
from spacy_early_exit.decoders import Greedy
from spacy_early_exit.measure.calibrate import Run, calibrate, run, run_in_parts, simulate
from spacy_early_exit.network.all_heads import run_all_heads
from spacy_early_exit.network.batch import Batch
from spacy_early_exit.network.criterion import OwnLoop
from spacy_early_exit.network.exit_network import uncertainty
from spacy_early_exit.network.loop import run_with_exits
from spacy_early_exit.network.simulate import simulate_exits, simulated_speedup
from spacy_early_exit.relatives.reduction_loop import LATE_HEADS
from spacy_early_exit.text.windows import windows_of
from tests.makers.networks import network_of, words_of_windows
from tests.makers.pipelines import answers, blank
from tests.makers.texts import TEXTS, examples_of, texts_of_all_lengths

NAME = "early_exit_ner"
CURVE = (Point(0.0, 1.0, 0.9), Point(0.1, 2.0, 0.9), Point(0.3, 3.0, 0.8))


class TestTheCurve:
    def test_between_points_it_is_a_straight_line(self):
        calibration = Calibration(CURVE, {}, 10)
        assert calibration.threshold_for(1.0) == 0.0
        assert calibration.threshold_for(1.5) == pytest.approx(0.05)
        assert calibration.threshold_for(2.0) == pytest.approx(0.1)
        assert calibration.threshold_for(2.25) == pytest.approx(0.15)
        assert calibration.threshold_for(3.0) == pytest.approx(0.3)

    def test_a_point_that_saves_hardly_more_is_taken_as_it_is(self):
        calibration = Calibration(CURVE, {}, 10)
        assert calibration.threshold_for(2.0 / 1.015) == 0.1
        assert 0.09 < calibration.threshold_for(2.0 / 1.03) < 0.1
        close = Calibration((Point(0.0, 1.0), Point(0.1, 1.005)), {}, 10)
        assert close.threshold_for(1.0) == 0.0, "full depth is never left for that"
        better = Calibration((Point(0.0, 1.0, 0.8), Point(0.1, 1.005, 0.9)), {}, 10)
        assert better.threshold_for(1.0) == 0.0

    def test_it_names_what_is_no_longer_as_it_was(self):
        calibration = Calibration(CURVE, {"weights": "a", "kv": "copy", "gone": "x"}, 10)
        assert calibration.differences(calibration.fingerprint) == []
        found = calibration.differences({"weights": "b", "kv": "copy", "new": "y"})
        assert found == ["gone", "new", "weights"]

    def test_what_was_saved_under_an_earlier_name_is_read(self):
        data = Calibration(CURVE, {}, 10).to_dict()
        for point in data["points"]:
            point["ents_f"] = point.pop("score")
        assert Calibration.from_dict(data) == Calibration(CURVE, {}, 10)

    @pytest.mark.parametrize("first, last, fine", [(0, 1, 1), (-0.5, 1, 0), (0, 1.5, 0)])
    def test_thresholds_are_from_0_to_1(self, first, last, fine):
        points = (Point(first, 1.0), Point(0.5, 2.0), Point(last, 3.0))
        data = Calibration(points, {}, 10).to_dict()
        with nullcontext() if fine else pytest.raises(ValueError, match="from 0 to 1"):
            assert Calibration.from_dict(data).points == points

    @pytest.mark.parametrize("wrong", ["1", None, float("nan"), float("inf")], ids=str)
    def test_what_is_no_number_is_refused(self, wrong):
        data = Calibration((Point(0.0, 1.0), Point(0.1, wrong)), {}, 10).to_dict()
        with pytest.raises(ValueError, match="must be numbers"):
            Calibration.from_dict(data)

    @pytest.mark.parametrize("speedup", [0.0, -0.5])
    def test_speedups_are_above_0(self, speedup):
        data = Calibration((Point(0.0, speedup), Point(0.1, 2.0)), {}, 10).to_dict()
        with pytest.raises(ValueError, match="speedups above 0"):
            Calibration.from_dict(data)

    @pytest.mark.parametrize(
        "points, words, message",
        [
            (
                [(0.0, 1.0, 0.8), (0.1, 2.0, None)],
                10,
                "all points of a calibration must have a score",
            ),
            ([(0.0, 1.0, 0.8), (0.1, 2.0, float("nan"))], 10, "must be numbers"),
            ([(0.0, 1.0, None), (0.3, 2.0, None), (0.2, 3.0, None)], 10, "must ascend"),
            ([(0.0, 1.0, None), (0.1, 2.0, None), (0.2, 2.0, None)], 10, "must ascend"),
            ([(0.0, 1.0, None), (0.1, 2.0, None)], -1, "must be a whole number, not -1"),
            ([(0.0, 1.0, None), (0.1, 2.0, None)], 2.5, "must be a whole number, not 2.5"),
        ],
    )
    def test_what_can_be_no_curve_is_refused(self, points, words, message):
        data = Calibration(tuple(Point(*point) for point in points), {}, words).to_dict()
        with pytest.raises(ValueError, match=message):
            Calibration.from_dict(data)

    def test_a_curve_of_no_words_can_be_read(self):
        assert Calibration.from_dict(Calibration(CURVE, {}, 0).to_dict()).words == 0

    def test_beyond_it_there_is_an_error_that_says_what_can_be_reached(self):
        with pytest.raises(
            ValueError, match=r"speedup = 3\.5 is out of reach.*3\.00.*calibrate MOD"
        ):
            Calibration(CURVE, {}, 10).threshold_for(3.5)

    def test_of_points_that_save_as_much_the_one_with_the_best_score_is_taken(self):
        near = (Point(0.0, 1.0, 0.9), Point(0.1, 2.0, 0.7), Point(0.12, 2.03, 0.8), CURVE[2])
        calibration = Calibration(near, {}, 10)
        assert calibration.threshold_for(2.0) == calibration.threshold_for(1.995) == 0.12
        assert calibration.threshold_for(1.97) == 0.1  # 2.03 would be 3 % too much
        unlabelled = [dataclasses.replace(point, score=None) for point in near]
        assert Calibration(tuple(unlabelled), {}, 10).threshold_for(2.0) == 0.1

    def test_a_larger_speedup_never_gets_a_smaller_threshold(self):
        draw = random.Random(0)
        for _ in range(50):
            speedups = sorted(draw.uniform(1.0, 3.0) for _ in range(12))
            points = [Point(0.03 * i, s, draw.random()) for i, s in enumerate([1.0, *speedups])]
            calibration = Calibration(tuple(points), {}, 10)
            asked = [1 + 0.004 * i for i in range(int((speedups[-1] - 1) / 0.004))]
            found = [calibration.threshold_for(speedup) for speedup in asked]
            assert found == sorted(found)

    def test_speedups_rise_with_thresholds(self):
        points = [Point(0.3, 2.0), Point(0.0, 1.0), Point(0.2, 2.1), Point(0.4, 3.0)]
        assert [p.threshold for p in make_curve(points)] == [0.0, 0.2, 0.4]
        points += [Point(0.1, 1.0), Point(0.5, 3.0)]  # no gain, and less certain
        assert [p.threshold for p in make_curve(points)] == [0.0, 0.2, 0.4]

    def test_it_survives_json(self):
        calibration = Calibration(CURVE, {"weights": "abc"}, 10)
        assert Calibration.from_dict(calibration.to_dict()) == calibration


def test_the_search_finds_the_smallest_threshold_that_saves_enough():
    assert search_threshold(2.0, lambda t: 1 + 4 * t, steps=12) == pytest.approx(0.25, abs=1e-3)
    assert search_threshold(9.0, lambda t: 1 + 4 * t) == 1.0
    assert search_threshold(5.0, lambda t: 1 + 4 * t) == 1.0
    asked = []
    found = search_threshold(1.5, lambda t: asked.append(t) or 1 + 1.7 * t)
    assert 1 <= found / (0.5 / 1.7) < 1.014 and len(asked) == 10
    assert speedup_of([(1, 2), (3, 10)]) == 3.0 and speedup_of([]) == 1.0


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.6, 0.9])
def test_the_simulation_is_exact_where_texts_leave_as_a_whole(threshold, encoders, en):
    trained = network_of(encoders["bert"], spread=1.5)
    docs = [en.make_doc(text) for text in texts_of_all_lengths(count=24)]
    batch = Batch.of(windows_of(docs, trained.tokenizer, 48, 8), torch.device("cpu"))
    with torch.inference_mode():
        logits = run_all_heads(trained.network, batch)
        states = logits[:, :, :0]
        for criterion in (SentenceExit(), TokenExit(1)):
            exit_layer, cost = simulate_exits(
                trained.network, batch, logits, states, criterion, threshold
            )
            real = run_with_exits(trained.network, batch, criterion, threshold)
            assert torch.equal(cost.full, real.full)
            if isinstance(criterion, SentenceExit):
                assert torch.equal(exit_layer, real.exit_layer)
                assert torch.equal(cost.spent, real.spent)
            else:  # who left first saw no kept state
                first = exit_layer == 1
                assert torch.equal(first, real.exit_layer == 1)


def test_the_simulation_lets_words_leave_by_what_heads_say_at_full_depth(encoders, en):
    trained = network_of(encoders["bert"], spread=1.5)
    docs = [en.make_doc(text) for text in texts_of_all_lengths(count=12)]
    some = windows_of(docs, trained.tokenizer, 48, 8)
    batches = [Batch.of(windows, torch.device("cpu")) for windows in (some[:5], some[5:])]
    for neighbours in (0, 1):
        criterion = TokenExit(neighbours)
        answers, found_costs = [], []
        for batch in batches:
            with torch.inference_mode():
                logits = run_all_heads(trained.network, batch)
            answers.append((batch, logits, logits[:, :, :0]))
            found, cost = simulate_exits(trained.network, *answers[-1], criterion, 0.6)
            assert found.tolist() == by_hand(batch, logits, neighbours, 0.6)
            for loop in (None, LATE_HEADS):  # where only who leaves has an answer
                replayed = Replayed(found, loop)
                again, replayed_cost = simulate_exits(trained.network, *answers[-1], replayed, 0.6)
                real = run_with_exits(trained.network, batch, replayed, 0.6)
                assert torch.equal(again, found) and torch.equal(real.exit_layer, found)
                assert torch.equal(replayed_cost.spent, real.spent)
                assert loop or torch.equal(replayed_cost.spent, cost.spent)
            found_costs.append(cost)
        spent, full = (
            sum(int(getattr(m, what).sum()) for m in found_costs) for what in ("spent", "full")
        )
        assert full > spent > 0
        assert simulated_speedup(trained.network, answers, criterion, 0.6) == full / spent
    assert simulated_speedup(trained.network, [], criterion, 0.6) == 1.0


def test_texts_are_simulated_group_by_group(nlp, monkeypatch):
    ner = nlp.get_pipe(NAME)
    texts = [*TEXTS, *texts_of_all_lengths(count=30)]
    docs = [nlp.make_doc(text) for text in texts]
    at_once = simulate(ner, docs)
    counts = words_of_windows(monkeypatch, 50)
    in_groups = simulate(ner, iter(docs))
    assert sum(counts) == sum(map(len, docs)) and len(counts) > 5
    assert max(counts) < 50 + max(map(len, docs))
    for threshold in (0.01, 0.1, 0.3, 0.9):
        assert in_groups(threshold) == pytest.approx(at_once(threshold), rel=1e-3)


@dataclasses.dataclass
class Replayed(CriterionBase):
    """Words leave where they left before."""

    exit_layer: torch.Tensor
    own_loop: OwnLoop | None

    def leave(self, step, state):
        return self.exit_layer[step.words] <= step.layer


def by_hand(batch, logits, neighbours, threshold):
    """Word by word. Those that share a wordpiece leave together."""
    window, unit = batch.window_of_word.tolist(), batch.unit_of_word.tolist()
    found = [len(logits)] * len(window)
    left = set()
    for layer, row in enumerate(logits[:-1], start=1):
        sure = (uncertainty(row) < threshold).tolist()
        leaving = []
        for word in set(range(len(window))) - left:
            near = range(max(0, word - neighbours), min(len(window), word + neighbours + 1))
            near = [o for o in near if window[o] == window[word] and o not in left]
            if all(sure[other] for other in near):
                leaving.append(word)
        held = {unit[word] for word in set(range(len(unit))) - left - set(leaving)}
        leaving = [word for word in leaving if unit[word] not in held]
        for word in leaving:
            found[word] = layer
        left.update(leaving)
    return found


MANY = [*TEXTS, *texts_of_all_lengths(count=60)]  # on few texts speedups rise in jumps


def many(nlp):
    return examples_of(nlp, [(text, []) for text in MANY])


def speedup_at(nlp, **knob):
    docs = nlp.pipe(MANY, component_cfg={NAME: knob})
    return speedup_of((r.spent, r.full) for r in (doc._.early_exit[NAME] for doc in docs))


@pytest.fixture(scope="module")
def calibration(trained_bytes):
    config, data = trained_bytes
    nlp = load_model_from_config(load_config_from_str(config), auto_fill=True).from_bytes(data)
    return calibrate(nlp.get_pipe(NAME), many(nlp), [1.2, 1.5, 2.0])


@pytest.fixture
def calibrated(nlp, calibration):
    nlp.get_pipe(NAME).calibration = calibration
    return nlp


class TestCalibrating:
    def test_every_point_is_what_a_real_run_gives(self, calibrated):
        calibrate(calibrated.get_pipe(NAME), examples_of(calibrated), [1.2, 1.5, 2.0])
        points = calibrated.get_pipe(NAME).calibration.points
        assert len(points) >= 3 and points[0] == Point(0.0, 1.0, 1.0)
        for point in points:
            cfg = {NAME: {"threshold": point.threshold}}
            scores = calibrated.evaluate(examples_of(calibrated), component_cfg=cfg)
            assert 1 / scores["exit_cost"] == pytest.approx(point.speedup)
            assert scores["ents_f"] == pytest.approx(point.score)

    @pytest.mark.parametrize("speedup", [1.2, 1.5, 2.0])
    def test_a_speedup_saves_what_it_says(self, calibrated, speedup):
        assert speedup_at(calibrated, speedup=speedup) == pytest.approx(speedup, rel=0.03)

    def test_call_property_and_config(self, calibrated, tmp_path):
        ner = calibrated.get_pipe(NAME)
        by_call = speedup_at(calibrated, speedup=2.0)
        ner.speedup = 2.0
        assert speedup_at(calibrated) == by_call and ner.threshold is None
        assert speedup_at(calibrated, speedup=1.0) == 1.0
        spacy_early_exit.configure(calibrated, speedup=2.0)
        calibrated.to_disk(tmp_path)
        loaded = spacy.load(tmp_path)
        assert loaded.get_pipe(NAME).speedup == 2.0 and speedup_at(loaded) == by_call
        slower = spacy.load(tmp_path, config={"components": {NAME: {"speedup": 1.2}}})
        assert 1.0 < speedup_at(slower) < by_call

    def test_full_depth_needs_none(self, nlp):
        assert speedup_at(nlp, speedup=1.0) == 1.0

    @pytest.mark.slow
    def test_texts_need_no_annotation(self, nlp):
        found = calibrate(nlp.get_pipe(NAME), many(nlp), [1.5], with_score=False)
        assert all(point.score is None for point in found.points)
        assert speedup_at(nlp, speedup=1.5) == pytest.approx(1.5, rel=0.03)

    @pytest.mark.takes(seconds=10)
    @pytest.mark.slow
    def test_speedups_may_be_measured_on_more_texts_than_are_scored(self, nlp):
        ner, annotated = nlp.get_pipe(NAME), examples_of(nlp)
        more = [nlp.make_doc(text) for text in MANY]
        found = calibrate(ner, annotated, [1.5], texts=more)
        everything = [*TEXTS, *MANY]
        assert found.words == sum(len(nlp.make_doc(text)) for text in everything)
        for point in found.points:
            cfg = {NAME: {"threshold": point.threshold}}
            docs = nlp.pipe(everything, component_cfg=cfg)
            records = [doc._.early_exit[NAME] for doc in docs]
            assert speedup_of((r.spent, r.full) for r in records) == pytest.approx(point.speedup)
            scores = nlp.evaluate(examples_of(nlp), component_cfg=cfg)
            assert scores["ents_f"] == pytest.approx(point.score)

    def test_what_is_out_of_reach_is_said(self, calibrated):
        found = calibrate(calibrated.get_pipe(NAME), examples_of(calibrated), [1.5, 50])
        assert found.most < 50
        with pytest.raises(ValueError, match="out of reach"):
            speedup_at(calibrated, speedup=50)
        end = run(calibrated.get_pipe(NAME), examples_of(calibrated), 1.0, with_score=False)
        assert found.most == end.speedup

    @pytest.mark.parametrize(
        "asked",
        [[1.5, 2.0], *(pytest.param(asked, marks=pytest.mark.slow) for asked in ([3.0], []))],
        ids=str,
    )
    @pytest.mark.takes(seconds=12)
    @pytest.mark.slow
    def test_speedups_that_were_not_asked_for_then_can_be_later(self, nlp, asked):
        found = calibrate(nlp.get_pipe(NAME), many(nlp), asked)
        assert found.most > 3.0
        for low, high in zip(found.points, found.points[1:]):
            assert high.speedup < 1.5 * low.speedup
        for speedup in (1.3, 1.7, 2.2, 2.7):
            assert speedup_at(nlp, speedup=speedup) == pytest.approx(speedup, rel=0.05)

    @pytest.mark.parametrize("text", ["", " \n "])
    def test_texts_without_words_are_refused(self, nlp, text):
        with pytest.raises(ValueError, match="no words"):
            calibrate(nlp.get_pipe(NAME), examples_of(nlp, [(text, [])]), [2])


class TestWhenItNoLongerHolds:
    def refused(self, nlp, what):
        with pytest.raises(
            ValueError, match=f"calibrated with different.*{what}.*early-exit calibrate"
        ):
            speedup_at(nlp, speedup=1.5)
        assert speedup_at(nlp, threshold=0.2) > 0.5  # a threshold needs no calibration

    def test_without_any(self, nlp):
        with pytest.raises(ValueError, match="not calibrated.*early-exit calibrate"):
            speedup_at(nlp, speedup=1.5)

    @pytest.mark.parametrize("speedup, wrong", [(50.0, "out of reach"), (1.5, "")])
    def test_loading_warns_of_what_every_text_would_be_refused_for(
        self, calibrated, tmp_path, speedup, wrong
    ):
        calibrated.to_disk(tmp_path)
        config = {"components": {NAME: {"speedup": speedup, "threshold": None}}}
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            spacy.load(tmp_path, config=config)
        said = [str(one.message) for one in found if "every text is refused" in str(one.message)]
        assert len(said) == bool(wrong) and all(wrong in one for one in said)

    def test_before_training(self, encoders):
        nlp = blank(encoders["bert"], speedup=3.0)  # loads, since it may be calibrated later
        with pytest.raises(ValueError, match="not calibrated.*early-exit calibrate"):
            nlp.initialize(lambda: examples_of(nlp))

    def test_after_further_training(self, calibrated):
        optimizer = calibrated.resume_training()
        calibrated.update(examples_of(calibrated), sgd=optimizer)
        self.refused(calibrated, "weights")

    def test_with_a_new_label(self, calibrated):
        calibrated.get_pipe(NAME).add_label("NEW")
        self.refused(calibrated, "weights")

    def test_with_another_criterion(self, calibrated):
        ner = calibrated.get_pipe(NAME)
        ner.criterion = dataclasses.replace(ner.criterion, window=3)
        self.refused(calibrated, "criterion")

    def test_with_other_windows(self, calibrated):
        calibrated.get_pipe(NAME).window_length = 20
        self.refused(calibrated, "windows")

    @pytest.mark.parametrize(
        "setting, value, what",
        [
            ("decoder", Greedy(), "decoder"),
            ("kv", "drop", "kept_state"),
            ("halt_special", True, "special tokens"),
            ("quantize", "int8", "precision"),
        ],
    )
    def test_with_another_setting(self, calibrated, setting, value, what):
        setattr(calibrated.get_pipe(NAME), setting, value)
        self.refused(calibrated, what)

    def test_with_averaged_weights_only_while_they_are_in_place(self, calibrated):
        shim = calibrated.get_pipe(NAME).model.shims[0]
        before = shim.fingerprint()
        parameters = shim.trained.network.named_parameters()
        halved = {shim._key(name, p): (p.data / 2).numpy() for name, p in parameters}
        with calibrated.get_pipe(NAME).model.use_params(halved):
            self.refused(calibrated, "weights")
        assert shim.fingerprint() == before
        assert speedup_at(calibrated, speedup=1.5) == pytest.approx(1.5, rel=0.03)

    @pytest.mark.takes(seconds=10)
    @pytest.mark.slow
    def test_an_outdated_one_does_not_keep_a_pipeline_from_loading(self, calibrated, tmp_path):
        spacy_early_exit.configure(calibrated, speedup=1.5)
        calibrated.get_pipe(NAME).add_label("NEW")
        calibrated.to_disk(tmp_path)
        nlp = spacy.load(tmp_path)
        with pytest.raises(ValueError, match="weights"):
            nlp("Ann")
        calibrate(nlp.get_pipe(NAME), many(nlp), [1.5])
        assert speedup_at(nlp) == pytest.approx(1.5, rel=0.03)


LOSING = (
    Point(0.0, 1.0, 0.8),
    Point(0.1, 2.0, 0.792, 0.001),  # keeps 99 %
    Point(0.2, 3.0, 0.78, 0.01),  # keeps 97.5 %, or 99.1 % if these texts are unlucky
    Point(0.3, 4.0, 0.72, 0.01),  # keeps 90 %
)


class TestWhatASpeedupLoses:
    @pytest.mark.parametrize("min_kept, most", [(None, 4), (0.9, 4), (0.985, 3), (0.995, 1)])
    def test_it_is_lost_when_no_doubt_is_left(self, min_kept, most):
        found = Calibration(LOSING, {}, 10, min_kept)
        assert found.keeps_up_to == most
        assert [found.loses(point) for point in LOSING] == [p.speedup > most for p in LOSING]
        assert Calibration.from_dict(found.to_dict()) == found

    def test_without_annotation_nothing_is_lost(self):
        points = tuple(dataclasses.replace(p, score=None, error=None) for p in LOSING)
        found = Calibration(points, {}, 10, 0.985)
        assert found.keeps_up_to == 4 and found.check_kept(4, NAME) == ""
        nothing = Calibration((Point(0.0, 1.0, 0.0), Point(0.1, 2.0, 0.0)), {}, 10, 0.985)
        assert nothing.keeps_up_to == 2  # of nothing, nothing can be lost

    @pytest.mark.parametrize("wrong", [-0.1, 1.5, "1", True])
    def test_a_share_is_from_0_to_1(self, wrong):
        data = {**Calibration(LOSING, {}, 10).to_dict(), "min_kept": wrong}
        with pytest.raises(ValueError, match="min_kept of a calibration must be from 0 to 1"):
            Calibration.from_dict(data)
        data = Calibration((CURVE[0], Point(0.1, 2.0, 0.9, -0.1)), {}, 10).to_dict()
        with pytest.raises(ValueError, match="errors of a calibration must be 0 or more"):
            Calibration.from_dict(data)

    @pytest.mark.parametrize("min_kept", [None, 0, 0.985, 1])
    def test_what_is_saved_is_read(self, min_kept):
        points = (dataclasses.replace(LOSING[0], error=0.0), *LOSING[1:])
        saved = Calibration(points, {}, 10, min_kept)
        assert Calibration.from_dict(json.loads(json.dumps(saved.to_dict()))) == saved

    def test_the_error_is_that_of_a_mean(self):
        """Of texts of one word each, the share is a mean, whose error is known."""
        draw = random.Random(0)
        right = [draw.random() < 0.8 for _ in range(20)]
        without = [(sum(right) - one) / 19 for one in right]
        full = Run(Point(0.0, 1.0, 1.0), {NAME: [1.0] * 20})
        expected = statistics.stdev(right) / 20**0.5
        found = Run(Point(0.1, 2.0, 0.8), {NAME: without})
        assert found.error(full, NAME) == pytest.approx(expected)
        assert Run(Point(0.1, 2.0), {}).error(full, NAME) is None
        assert found.error(Run(LOSING[0], {NAME: [0.0] * 20}), NAME) is None

    def test_parts_are_what_is_scored_without_them(self, nlp):
        ner = nlp.get_pipe(NAME)
        examples = examples_of(nlp)
        assert len(examples) >= 3
        found = run_in_parts(ner, examples, 0.9, parts=3)
        assert list(found.without) == [NAME]
        for part, score in enumerate(found.without[NAME]):
            rest = [eg for i, eg in enumerate(examples) if i % 3 != part]
            assert run(ner, rest, 0.9, with_score=True).score == pytest.approx(score)
        assert run(ner, examples, 0.9, with_score=True) == found.point
        assert not run_in_parts(ner, examples[:1], 0.9, parts=20).without.get(NAME)

    @pytest.fixture
    def losing(self, calibrated):
        """Its speedups keep the score up to 1.5, and lose it from 2 on."""
        ner = calibrated.get_pipe(NAME)
        points = [
            dataclasses.replace(p, score=0.8 if p.speedup < 1.9 else 0.6, error=0.01)
            for p in ner.calibration.points
        ]
        ner.calibration = dataclasses.replace(ner.calibration, points=tuple(points), min_kept=0.985)
        return calibrated

    def test_it_is_warned_of_once(self, losing):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for speedup in (1.0, 1.2, 1.5):
                speedup_at(losing, speedup=speedup)
            speedup_at(losing, threshold=0.9)
        with pytest.warns(UserWarning) as found:
            for _ in range(3):
                assert speedup_at(losing, speedup=2.0) == pytest.approx(2.0, rel=0.03)
        (one,) = found
        for said in ("speedup = 2 loses more than 1.5%", "keeps 75.0%", "may keep 98.5% is 1."):
            assert said in str(one.message)

    def test_where_it_is_strict_it_is_refused(self, losing, tmp_path):
        losing.to_disk(tmp_path)
        strict = {"components": {NAME: {"strict": True}}}
        loaded = spacy.load(tmp_path, config=strict)
        with pytest.raises(ValueError, match="speedup = 2 loses.*strict"):
            speedup_at(loaded, speedup=2.0)
        assert speedup_at(loaded, speedup=1.5) == pytest.approx(1.5, rel=0.03)
        loaded.to_disk(tmp_path / "again")
        again = spacy.load(tmp_path / "again")
        with pytest.raises(ValueError, match="speedup = 2 loses"):
            again.get_pipe(NAME).speedup = 2.0


def test_a_sourced_component_brings_its_calibration(calibrated, tmp_path):
    expected = speedup_at(calibrated, speedup=1.5)
    calibrated.to_disk(tmp_path)
    other = spacy.blank("en")
    other.add_pipe(NAME, source=spacy.load(tmp_path))
    other.to_disk(tmp_path / "other")
    loaded = spacy.load(tmp_path / "other")
    assert speedup_at(loaded, speedup=1.5) == expected == speedup_at(other, speedup=1.5)
    other.update(examples_of(other), sgd=other.resume_training())
    with pytest.raises(ValueError, match="calibrated with different weights"):
        speedup_at(other, speedup=1.5)
    assert speedup_at(loaded, speedup=1.5) == expected


def test_bytes_and_other_processes_keep_it(calibrated):
    copy = spacy.blank("en")
    copy.add_pipe(NAME, config={"store_exits": True, "halt_special": False})
    copy.from_bytes(calibrated.to_bytes())
    cfg = {NAME: {"speedup": 1.5}}
    expected = [answers(doc) for doc in calibrated.pipe(TEXTS, component_cfg=cfg)]
    assert [answers(doc) for doc in copy.pipe(TEXTS, component_cfg=cfg)] == expected
    found = [answers(d) for d in calibrated.pipe(TEXTS, n_process=2, component_cfg=cfg)]
    assert found == expected
