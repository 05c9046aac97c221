"""One speedup for a pass of several tasks: calibration, guarantee, report, streams."""

import json
import warnings
from dataclasses import replace

import pytest
import spacy
from spacy.tokens import DocBin
from spacy.util import load_model_from_config

import spacy_early_exit
from spacy_early_exit.budget.curve import Calibration, Point, TaskScore
from spacy_early_exit.measure import card
from spacy_early_exit.measure.calibrate import calibrate, saved_now
from spacy_early_exit.measure.docs import annotated
from spacy_early_exit.measure.evaluate import evaluate
from spacy_early_exit.measure.guarantee import guarantee
from spacy_early_exit.measure.hold_saving import make_hold_saving
from spacy_early_exit.measure.report import collect, to_html
from spacy_early_exit.measure.temperature import fit_temperatures
from tests.makers.commands import run
from tests.makers.shared import (
    NER,
    TAGGER,
    add_tagger,
    all_answers,
    blank_shared,
    both_of,
    train_shared,
)
from tests.makers.texts import TEXTS

pytestmark = pytest.mark.takes(seconds=15)  # whichever comes first calibrates


@pytest.fixture(scope="module")
def kept(encoders):
    nlp = train_shared(blank_shared(encoders["bert"]), steps=25)
    calibrate(nlp.get_pipe(NER), both_of(nlp), [1.5], min_kept=0.9)
    return nlp.config.to_str(), nlp.to_bytes()


@pytest.fixture
def nlp(kept):
    config = spacy.util.Config().from_str(kept[0])
    nlp = load_model_from_config(config).from_bytes(kept[1])
    warnings.filterwarnings("ignore", "speedup = .* loses more than")
    return nlp


@pytest.fixture
def corpus(nlp, tmp_path):
    path = tmp_path / "texts.spacy"
    DocBin(docs=[eg.reference for eg in both_of(nlp)]).to_disk(path)
    return path


def saved(found) -> float:
    return sum(one[NER][2] for one in found) / sum(one[NER][1] for one in found)


def test_the_calibration_knows_all_tasks(nlp):
    found = nlp.get_pipe(NER).calibrated()
    assert all(set(point.others) == {TAGGER} for point in found.points)
    full = found.points[0]
    assert full.score and full.others[TAGGER].score
    assert f"task {TAGGER}" in found.fingerprint
    assert Calibration.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_a_speedup_is_that_of_the_pass(nlp):
    nlp.get_pipe(NER).speedup = 1.5
    assert saved(all_answers(nlp)) >= 1.5
    threshold = nlp.get_pipe(NER).calibrated().threshold_for(1.5)
    nlp.get_pipe(NER).speedup = None
    by_threshold = all_answers(nlp, component_cfg={NER: {"threshold": threshold}})
    assert all_answers(nlp, component_cfg={NER: {"speedup": 1.5}}) == by_threshold


def test_other_heads_of_a_borrower_end_the_calibration(nlp):
    tagger = nlp.get_pipe(TAGGER)
    tagger.network.head(1).bias.data += 1
    tagger.model.shims[0].weights_changed()
    with pytest.raises(ValueError, match=f"different task {TAGGER}"):
        all_answers(nlp, component_cfg={NER: {"speedup": 1.5}})


def test_with_fewer_tasks_a_pass_saves_no_less(nlp, tmp_path):
    speedup = {NER: {"speedup": 1.5}}
    together = saved(all_answers(nlp, component_cfg=speedup))
    with nlp.select_pipes(disable=TAGGER):
        assert saved(all_answers(nlp, component_cfg=speedup)) >= 0.99 * together
    nlp.to_disk(tmp_path / "saved")
    alone = spacy.load(tmp_path / "saved", exclude=[TAGGER])
    assert saved(all_answers(alone, component_cfg=speedup)) >= 0.99 * together


def test_a_calibration_without_a_task_is_not_for_a_pass_with_it(nlp):
    ner, speedup = nlp.get_pipe(NER), {NER: {"speedup": 1.5}}
    with nlp.select_pipes(disable=TAGGER):
        calibrate(ner, both_of(nlp), [1.5])
        assert saved(all_answers(nlp, component_cfg=speedup)) >= 1.5
    with pytest.raises(ValueError, match=f"different task {TAGGER}"):
        all_answers(nlp, component_cfg=speedup)


def test_a_disabled_task_does_not_end_the_calibration(nlp):
    third = add_tagger(nlp, "third")
    third.initialize(lambda: both_of(nlp), nlp=nlp)
    speedup = {NER: {"speedup": 1.5}}
    with pytest.raises(ValueError, match="different task third"):
        all_answers(nlp, component_cfg=speedup)
    nlp.disable_pipe("third")
    assert saved(all_answers(nlp, component_cfg=speedup)) >= 1.49


def test_a_renamed_task_keeps_the_calibration(nlp):
    speedup = {NER: {"speedup": 1.5}}
    expected = saved(all_answers(nlp, component_cfg=speedup))
    nlp.rename_pipe(TAGGER, "tags")
    assert saved(all_answers(nlp, component_cfg=speedup)) == expected
    nlp.get_pipe("tags").network.head(1).bias.data += 1
    nlp.get_pipe("tags").model.shims[0].weights_changed()
    with pytest.raises(ValueError, match="different task tags"):
        all_answers(nlp, component_cfg=speedup)


def test_scores_show_the_threshold_of_each_task(nlp):
    ner, tagger = nlp.get_pipe(NER), nlp.get_pipe(TAGGER)
    ner.threshold, tagger.threshold = 0.03, 0.05
    scores = nlp.evaluate(both_of(nlp))
    found = [scores[name] for name in ("threshold", f"threshold_{NER}", f"threshold_{TAGGER}")]
    assert found == [0.03, 0.03, 0.05]
    ner.speedup = 1.5
    scores = nlp.evaluate(both_of(nlp))
    at = ner.calibrated().threshold_for(1.5)
    assert scores["threshold"] == scores[f"threshold_{TAGGER}"] == at


def test_a_stale_calibration_is_warned_of_once_the_whole_pass_is_loaded(nlp, tmp_path):
    """Not before: while a pipeline is loaded anew, some of its weights are old."""
    ner, tagger = nlp.get_pipe(NER), nlp.get_pipe(TAGGER)
    spacy_early_exit.configure(nlp, speedup=1.5, name=NER)
    nlp.to_disk(tmp_path / "right")
    tagger.network.head(1).bias.data += 1
    tagger.model.shims[0].weights_changed()
    nlp.to_disk(tmp_path / "stale")
    with pytest.warns(UserWarning, match=f"different task {TAGGER}.* every text is refused"):
        spacy.load(tmp_path / "stale")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        nlp.from_disk(tmp_path / "right")
    assert not [one for one in said if "every text is refused" in str(one.message)]
    assert saved(all_answers(nlp)) >= 1.49 and ner.speedup == 1.5


def test_what_is_saved_now_is_at_the_thresholds_in_force(nlp):
    ner = nlp.get_pipe(NER)
    ner.threshold, nlp.get_pipe(TAGGER).threshold = 0.1, 0.0
    assert saved_now(ner, both_of(nlp)) == pytest.approx(saved(all_answers(nlp)), rel=0.05)
    nlp.get_pipe(TAGGER).threshold = 0.1
    assert saved_now(ner, both_of(nlp)) > 1.1


def test_a_task_without_annotation_can_have_no_bound(nlp):
    with pytest.raises(ValueError, match=f"'{TAGGER}' is to keep a share .* lack its annotation"):
        calibrate(
            nlp.get_pipe(NER), both_of(nlp, tags=False), [1.5], min_kept=0.9, bounds={TAGGER: 0.9}
        )


def test_temperatures_need_no_stage_of_training(nlp):
    search = {"x": {"@misc": "spacy-early-exit.EarlyBirdSearch.v1"}}
    tagger = nlp.get_pipe(TAGGER)
    tagger.training = spacy.util.registry.resolve(search)["x"]
    for name in (NER, TAGGER):
        assert fit_temperatures(nlp.get_pipe(name), both_of(nlp))
        assert nlp.get_pipe(name).model.shims[0]._teacher is None


def test_the_card_has_the_scores_of_all_tasks(nlp):
    about = card.About("texts", "mit", "dev", "a command")
    page = card.to_markdown(
        card.collect(nlp, nlp.get_pipe(NER), both_of(nlp), [1.5], about, rounds=0)
    )
    assert "| ENTS_P | ENTS_R | ENTS_F | POS_ACC |" in page
    assert "pos_acc, speedup = 1.5" in page and "type: accuracy" in page


def test_three_tasks_are_calibrated(nlp):
    third = add_tagger(nlp, "third")
    third.initialize(lambda: both_of(nlp), nlp=nlp)
    ner = nlp.get_pipe(NER)
    found = calibrate(ner, both_of(nlp), [1.2])
    assert all(set(point.others) == {TAGGER, "third"} for point in found.points)
    assert len(found.points) > 2
    for point in found.points[1:]:  # the heads of the third are random, and so is the curve
        ner.speedup = point.speedup
        assert saved_now(ner, both_of(nlp)) >= 0.999 * point.speedup


class TestBounds:
    POINTS = (
        Point(0.0, 1.0, 0.8, others={"tagger": TaskScore(0.9)}),
        Point(0.1, 2.0, 0.8, 0.0, {"tagger": TaskScore(0.86, 0.0)}),
        Point(0.2, 3.0, 0.7, 0.0, {"tagger": TaskScore(0.85, 0.0)}),
    )

    def test_no_task_may_fall_by_more_than_its_bound(self):
        found = Calibration(self.POINTS, {}, 10, min_kept=0.98)
        assert [found.loses(point) for point in found.points] == [False, True, True]
        assert set(found.losers(self.POINTS[2])) == {"", "tagger"}
        assert "of 'tagger'" in found.check_kept(2.0, "ner") and found.keeps_up_to == 1.0

    def test_a_task_may_have_its_own(self):
        found = Calibration(self.POINTS, {}, 10, min_kept=0.98, bounds={"tagger": 0.9})
        assert [found.loses(point) for point in found.points] == [False, False, True]
        assert Calibration.from_dict(found.to_dict()) == found

    def test_damaged_ones_are_refused(self):
        data = Calibration(self.POINTS, {}, 10, 0.98, {"tagger": 0.9}).to_dict()
        with pytest.raises(ValueError):
            Calibration.from_dict({**data, "bounds": {"tagger": 2}})
        points = [{**point, "others": {"tagger": ["0.9", None]}} for point in data["points"]]
        with pytest.raises(ValueError):
            Calibration.from_dict({**data, "points": points})


def test_evaluate_scores_all_tasks(nlp):
    rows = evaluate(nlp, nlp.get_pipe(NER), both_of(nlp), [1.0, 1.5], rounds=1)
    assert rows[0]["agreement"] == rows[0][f"agreement_{TAGGER}"] == 1.0
    for row in rows:
        assert {"ents_f", "pos_acc", f"mean_exit_layer_{TAGGER}"} <= row.keys()
    assert rows[1]["mac_speedup"] >= 1.5 and rows[1]["words_per_second"] > 0


def test_the_report_has_all_tasks(nlp):
    report = collect(nlp, nlp.get_pipe(NER), both_of(nlp), [1.5], rounds=0)
    page = to_html(report)
    assert f"{TAGGER}, in the same pass" in page and "POS_ACC" in page


def test_a_guarantee_is_of_all_tasks(nlp):
    """A word counts where either of its tags is another."""
    ner = nlp.get_pipe(NER)
    texts = [eg.reference for eg in both_of(nlp)]
    both = guarantee(ner, texts, 0.5, 0.9)
    full, early = (annotated(ner, texts, threshold=t) for t in (0.0, both.candidates[0][1]))

    def of_words(*differs):
        shares = [
            sum(any(differ(a, b) for differ in differs) for a, b in zip(one, other)) / len(one)
            for one, other in zip(full, early)
        ]
        return sum(shares) / len(shares)

    by_name = of_words(lambda a, b: (a.ent_iob, a.ent_type) != (b.ent_iob, b.ent_type))
    by_tag = of_words(lambda a, b: a.pos != b.pos)
    by_any = of_words(
        lambda a, b: (a.ent_iob, a.ent_type) != (b.ent_iob, b.ent_type), lambda a, b: a.pos != b.pos
    )
    assert both.verdicts[0].mean == pytest.approx(by_any)
    assert 0 < by_name < by_any > by_tag > 0


def test_adaptive_holds_the_speedup_of_the_pass(nlp):
    cfg = {NER: {"speedup": 1.5, "adaptive": True}}
    found = all_answers(nlp, TEXTS * 30, component_cfg=cfg)
    assert saved(found[len(found) // 2 :]) == pytest.approx(1.5, rel=0.15)


def test_hold_saving_sets_the_threshold_of_all_tasks(nlp, corpus):
    hold = make_hold_saving(corpus, speedup=1.5, every=10)
    scorers = [nlp.get_pipe(name).scorer for name in (NER, TAGGER)]
    hold(nlp, {"step": 0})
    assert nlp.evaluate(both_of(nlp))["pos_acc"] == 0.0
    hold(nlp, {"step": 1})
    assert [nlp.get_pipe(name).scorer for name in (NER, TAGGER)] == scorers
    config = nlp.config["components"]
    assert config[NER]["threshold"] == config[TAGGER]["threshold"] > 0
    assert saved(all_answers(nlp)) >= 1.5


@pytest.mark.takes(seconds=30)
@pytest.mark.slow
def test_the_commands_measure_the_pass(nlp, corpus, tmp_path):
    nlp.to_disk(tmp_path / "saved")
    model, out = str(tmp_path / "saved"), str(tmp_path / "out")
    command = ["early-exit", "calibrate", model, str(corpus), "--output", out, "--speedups", "1.5"]
    found = run("-m", "spacy", *command, "--min-kept", f"{TAGGER}=0.5", "--temperature")
    assert "POS_ACC" in found and f"Temperatures of '{TAGGER}'" in found
    again = spacy.load(out)
    assert again.get_pipe(NER).calibration.bounds == {TAGGER: 0.5}
    assert saved(all_answers(again, component_cfg={NER: {"speedup": 1.5}})) >= 1.49
    metrics = tmp_path / "metrics.json"
    how = ["--rounds", "0", "--speedups", "1,1.5", "--output", metrics]
    run("-m", "spacy", "early-exit", "evaluate", out, corpus, *how)
    assert json.loads(metrics.read_text())["speedups"][0]["pos_acc"] > 0.5
    for wrong, said in [
        (["--component", TAGGER], f"runs in the pass of '{NER}'"),
        (["--min-kept", "nobody=0.9"], "no component 'nobody'"),
        (["--min-kept", TAGGER], "must be NAME=SHARE"),
    ]:
        found = run("-m", "spacy", *command, *wrong, ok=False)
        assert said in " ".join(found.split())


def test_the_benchmark_runs_the_pass(nlp, tmp_path):
    from spacy_early_exit.measure.contenders import contenders_of  # it imports spaCy's commands

    nlp.to_disk(tmp_path / "saved")
    contenders = contenders_of(str(tmp_path / "saved"), [1.0, 1.5], [8])
    assert len(contenders) == 2, "the owner is calibrated, for all"
    for contender in contenders:
        docs = contender.make(**contender.arguments)(TEXTS)
        assert len(docs) == len(TEXTS)


def test_a_job_runs_the_owner(nlp, tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: extra [parquet]")
    from spacy_early_exit.scale.tagger import Setting, Tagger, find_component

    nlp.to_disk(tmp_path / "saved")
    setting = Setting(model=str(tmp_path / "saved"))
    assert find_component(nlp, setting) is nlp.get_pipe(NER)
    found = Tagger(replace(setting, speedup=1.5)).tag(TEXTS)
    assert sum(one.full for one in found) >= 1.45 * sum(one.spent for one in found)
    with pytest.raises(ValueError, match="finds no entities"):
        find_component(nlp, replace(setting, component=TAGGER))


@pytest.mark.takes(seconds=30)
@pytest.mark.slow
def test_a_slim_encoder_is_not_put_under_heads_of_other_tasks(nlp, tmp_path):
    nlp.to_disk(tmp_path / "saved")
    command = [
        "slim",
        tmp_path / "saved",
        "-o",
        tmp_path / "slim",
        "--with-heads",
        tmp_path / "out",
    ]
    how = ["--heads", 0.5, "--neurons", 0.5, "--importance", "magnitude"]
    found = run("-m", "spacy", "early-exit", *command, *how, ok=False)
    assert f"'{TAGGER}' would keep heads over the encoder as it was" in " ".join(found.split())
    assert not (tmp_path / "slim").exists()
