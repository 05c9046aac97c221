"""Weights that only faster copies predict with are dropped, and read again when they are needed."""

import copy
import gc
import os
import pickle
import shutil
import threading
import weakref

import pytest
import spacy
import torch

from spacy_early_exit import separate
from spacy_early_exit.model import copies as module
from spacy_early_exit.model import originals
from tests.makers.pipelines import answers
from tests.makers.shared import TAGGER, blank_shared, both_of, step, train_shared
from tests.makers.texts import TEXTS, examples_of

on_posix = pytest.mark.skipif(not hasattr(os, "pread"), reason="no file is held open on Windows")
NAME = "early_exit_ner"
HOWS = ["fp32", "bf16", "int8"]


def shim_of(nlp):
    return nlp.get_pipe(NAME).model.shims[0]


def missing(nlp):
    """RETURNS (list[str]): The weights that are not in memory."""
    network = shim_of(nlp).outline.network
    return [name for name, weight in network.named_parameters() if weight.is_meta]


def weights_of(nlp):
    network = shim_of(nlp).trained.network
    return {name: weight.detach().clone() for name, weight in network.named_parameters()}


@pytest.fixture
def folder(nlp, tmp_path):
    nlp.to_disk(tmp_path / "pipeline")
    return tmp_path / "pipeline"


@pytest.fixture(params=HOWS)
def loaded(request, folder, monkeypatch):
    """A pipeline that has predicted, without its weights; and the weights."""
    monkeypatch.setattr(module, "is_worth_packing", lambda network: True)
    how = {"int8": {"quantize": "int8"}}.get(request.param, {"precision": request.param})
    nlp = spacy.load(folder, config={"components": {NAME: how}})
    weights = weights_of(spacy.load(folder))
    list(nlp.pipe(TEXTS))
    assert missing(nlp)
    return nlp, weights


def same(weights, others):
    return [*weights] == [*others] and all(torch.equal(weights[n], others[n]) for n in weights)


@on_posix
class TestOnceACopyPredicts:
    def test_the_products_of_layers_are_dropped(self, loaded):
        nlp, _ = loaded
        gone = {name.rpartition(".")[0].rpartition(".")[2] for name in missing(nlp)}
        assert {"qkv", "attention_output", "intermediate", "output"} <= gone
        assert not any(name.startswith("heads.") for name in missing(nlp))

    def test_nothing_refers_to_them(self, folder, monkeypatch):
        monkeypatch.setattr(module, "is_worth_packing", lambda network: True)
        nlp = spacy.load(folder)
        shapes = {
            weight.shape
            for name, weight in shim_of(nlp).outline.network.named_parameters()
            if ".layers." in name and weight.ndim == 2
        }
        before = count(shapes)
        list(nlp.pipe(TEXTS))
        assert count(shapes) < before

    @pytest.mark.parametrize("precision", ["fp32", "int8"])
    def test_each_is_gone_before_the_next_is_copied(self, folder, monkeypatch, precision):
        monkeypatch.setattr(module, "is_worth_packing", lambda network: True)
        dropped, still_there = [], []
        drop = originals.Originals.drop_linear

        def watched(self, linear, fingerprint):
            dropped.append(weakref.ref(linear.weight))
            drop(self, linear, fingerprint)
            still_there.append(sum(weight() is not None for weight in dropped))

        monkeypatch.setattr(originals.Originals, "drop_linear", watched)
        shim_of(spacy.load(folder)).prepare_for(precision)
        assert len(still_there) >= 8 and not any(still_there)

    def test_answers_stay_the_same(self, loaded):
        nlp, _ = loaded
        first = [answers(doc) for doc in nlp.pipe(TEXTS)]
        assert [answers(nlp(text)) for text in TEXTS] == first
        shim_of(nlp).trained  # noqa: B018 (puts them back)
        assert [answers(doc) for doc in nlp.pipe(TEXTS)] == first

    def test_who_asks_gets_them_for_good(self, loaded):
        nlp, weights = loaded
        assert same(weights_of(nlp), weights)
        list(nlp.pipe(TEXTS))
        assert not missing(nlp)

    def test_threads_that_start_together_get_the_same(self, folder, monkeypatch):
        """One waits to look for damage while the other has already dropped the weights."""
        how = {"components": {NAME: {"precision": "bf16"}}}
        expected = [answers(doc) for doc in spacy.load(folder, config=how).pipe(TEXTS)]
        nlp = spacy.load(folder, config=how)
        shim, waits = shim_of(nlp), threading.Event()

        class Watched(type(module.BUILDING)):
            def __enter__(self):
                waits.set()
                super().__enter__()

        monkeypatch.setattr(module, "BUILDING", Watched())
        found = []
        with module.BUILDING:
            waits.clear()
            other = threading.Thread(target=lambda: found.append(shim.prepare_for("bf16")))
            other.start()
            assert waits.wait(60)
            assert not shim.copies._checked
            mine = shim.prepare_for("bf16")
            assert missing(nlp)
        other.join()
        assert found == [mine]
        assert [answers(doc) for doc in nlp.pipe(TEXTS)] == expected

    def test_a_copy_that_fails_leaves_them_dropped(self, folder, monkeypatch):
        nlp = spacy.load(folder)
        shim_of(nlp).prepare_for("bf16")
        before = missing(nlp)

        def fails(network, done):
            raise ValueError("there are no such products")

        monkeypatch.setattr(module, "quantized", fails)
        with pytest.raises(ValueError, match="no such products"):
            shim_of(nlp).prepare_for("int8")
        assert missing(nlp) == before

    def test_an_interruption_loses_none(self, folder, monkeypatch):
        nlp = spacy.load(folder)
        weights = weights_of(spacy.load(folder))
        put, calls = originals._put, []

        def interrupted(*args):
            put(*args)
            calls.append(args)
            if len(calls) == 3:
                raise KeyboardInterrupt

        monkeypatch.setattr(originals, "_put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            shim_of(nlp).prepare_for("int8")
        monkeypatch.setattr(originals, "_put", put)
        assert len(missing(nlp)) == 3
        assert same(weights_of(nlp), weights)

    def test_who_asks_while_they_are_copied_gets_them_for_good(self, folder, monkeypatch):
        nlp, weights = spacy.load(folder), weights_of(spacy.load(folder))
        drop, calls = originals.Originals.drop_linear, []

        def asked(self, *args):
            drop(self, *args)
            calls.append(args)
            if len(calls) == 3:
                shim_of(nlp).trained  # noqa: B018 (puts them back)

        monkeypatch.setattr(originals.Originals, "drop_linear", asked)
        shim_of(nlp).prepare_for("int8")
        assert len(calls) == 3
        assert not missing(nlp) and same(weights_of(nlp), weights)

    def test_another_precision_reads_them_again(self, loaded):
        nlp, weights = loaded
        shim_of(nlp).prepare_for("bf16")
        shim_of(nlp).prepare_for("int8")
        assert missing(nlp)
        assert same(weights_of(nlp), weights)

    def test_the_plain_network_is_whole(self, loaded, monkeypatch):
        nlp, weights = loaded
        monkeypatch.setattr(module, "is_worth_packing", lambda network: False)
        plain = shim_of(nlp).prepare_for("fp32")
        assert same(dict(plain.network.named_parameters()), weights)

    def test_it_is_saved_whole(self, loaded, folder, tmp_path):
        nlp, weights = loaded
        nlp.to_disk(tmp_path / "other")
        assert same(weights_of(spacy.load(tmp_path / "other")), weights)
        list(nlp.pipe(TEXTS))
        nlp.to_disk(folder)  # where it came from
        assert same(weights_of(spacy.load(folder)), weights)

    def test_it_is_saved_whole_after_its_files_were_deleted(self, loaded, folder):
        nlp, weights = loaded
        shutil.rmtree(folder)
        nlp.to_disk(folder)
        assert same(weights_of(spacy.load(folder)), weights)

    def test_it_is_saved_whole_after_its_files_were_replaced(self, loaded, folder):
        nlp, weights = loaded
        other = spacy.load(folder)
        other.update(examples_of(other), sgd=other.resume_training())
        other.to_disk(folder)
        assert not same(weights_of(spacy.load(folder)), weights)
        assert same(weights_of(nlp), weights)

    def test_it_can_be_trained(self, loaded):
        nlp, weights = loaded
        nlp.update(examples_of(nlp), sgd=nlp.resume_training())
        assert not missing(nlp)
        changed = [n for n, w in weights_of(nlp).items() if not torch.equal(w, weights[n])]
        assert any("intermediate" in name for name in changed)
        assert any("embeddings" in name for name in changed)

    def test_it_can_be_pickled_and_copied(self, loaded):
        nlp, weights = loaded
        for other in (pickle.loads(pickle.dumps(nlp)), copy.deepcopy(nlp)):
            assert same(weights_of(other), weights)

    def test_its_fingerprint_stays(self, loaded, folder):
        nlp, _ = loaded
        assert shim_of(nlp).fingerprint() == shim_of(spacy.load(folder)).fingerprint()

    @pytest.mark.parametrize("damage", [b"", b"\0" * 100])
    def test_files_that_were_written_into_are_refused(self, loaded, folder, damage):
        nlp, _ = loaded
        weights = folder / NAME / "model" / "weights.safetensors"
        size = weights.stat().st_size
        with open(weights, "r+b") as file:
            file.seek(size - 100)
            file.write(damage)
            file.truncate()
        with pytest.raises(ValueError, match=r"weights\.safetensors.* Load the pipeline again"):
            nlp.to_bytes()
        list(nlp.pipe(TEXTS))  # still predicts

    def test_other_weights_in_all_files_are_refused(self, loaded, folder):
        nlp, _ = loaded
        other = spacy.load(folder)
        other.update(examples_of(other), sgd=other.resume_training())
        other.to_disk(folder.parent / "other")
        for name in ("network.json", "weights.safetensors"):
            new = (folder.parent / "other" / NAME / "model" / name).read_bytes()
            with open(folder / NAME / "model" / name, "r+b") as file:
                file.write(new)
                file.truncate()
        with pytest.raises(ValueError, match="hold other weights now"):
            nlp.to_bytes()


@on_posix
class TestAreNotDropped:
    def test_where_they_predict_themselves(self, folder, monkeypatch):
        monkeypatch.setattr(module, "is_worth_packing", lambda network: False)
        nlp = spacy.load(folder)
        list(nlp.pipe(TEXTS))
        assert not missing(nlp)

    def test_where_they_come_from_no_files(self, nlp):
        other = copy.deepcopy(nlp)
        shim_of(other).prepare_for("int8")
        assert not missing(other)

    def test_where_somebody_has_them(self, folder):
        nlp = spacy.load(folder)
        network = nlp.get_pipe(NAME).network
        shim_of(nlp).prepare_for("int8")
        assert not missing(nlp)
        assert shim_of(nlp).trained.network is network

    def test_once_they_were_changed(self, folder):
        nlp = spacy.load(folder)
        shim_of(nlp).scale_heads([2.0] * len(shim_of(nlp).outline.network.exit_layers))
        shim_of(nlp).prepare_for("int8")
        assert not missing(nlp)


@on_posix
class TestOfASharedEncoder:
    """Borrowers hold the lender's network, too."""

    @pytest.fixture
    def saved(self, encoders, tmp_path):
        nlp = train_shared(blank_shared(encoders["bert"]), steps=2)
        nlp.to_disk(tmp_path / "shared")
        return tmp_path / "shared", weights_of(nlp)

    def load(self, folder, **how):
        return spacy.load(folder, config={"components": {NAME: {"quantize": "int8"}}}, **how)

    def used(self, folder):
        nlp = self.load(folder)
        list(nlp.pipe(TEXTS))
        assert missing(nlp)
        return nlp

    def of_borrower(self, nlp):
        return nlp.get_pipe(TAGGER).model.shims[0]

    def test_it_is_dropped_as_well_and_answers_stay(self, saved):
        nlp = self.load(saved[0])
        expected = [doc.to_json() for doc in nlp.pipe(TEXTS)]
        assert missing(nlp)
        assert [nlp(text).to_json() for text in TEXTS] == expected

    def test_who_asks_a_borrower_gets_it_for_good(self, saved):
        folder, weights = saved
        nlp = self.used(folder)
        assert nlp.get_pipe(TAGGER).network.encoder is shim_of(nlp).outline.network.encoder
        assert not missing(nlp)
        list(nlp.pipe(TEXTS))
        assert not missing(nlp) and same(weights_of(nlp), weights)

    def test_a_borrower_is_saved_without_it(self, saved, tmp_path):
        nlp = self.used(saved[0])
        nlp.get_pipe(TAGGER).to_disk(tmp_path / "tagger", exclude=["vocab"])
        other = self.load(saved[0])
        other.get_pipe(TAGGER).from_disk(tmp_path / "tagger", exclude=["vocab"])
        expected = [doc.to_json() for doc in nlp.pipe(TEXTS)]
        assert [doc.to_json() for doc in other.pipe(TEXTS)] == expected

    @pytest.mark.parametrize("part", [NAME, TAGGER])
    def test_either_can_be_pickled_whole(self, saved, part):
        folder, weights = saved
        pipe = pickle.loads(pickle.dumps(self.used(folder).get_pipe(part)))
        network = pipe.model.shims[0].outline.network
        assert not any(parameter.is_meta for parameter in network.parameters())
        assert torch.equal(
            network.encoder.state_dict()["layers.0.qkv.weight"],
            weights["encoder.layers.0.qkv.weight"],
        )

    def test_it_can_be_trained_and_separated(self, saved):
        nlp, other = self.used(saved[0]), self.used(saved[0])
        step(nlp, both_of(nlp), nlp.resume_training())
        assert not missing(nlp)
        separate(other, TAGGER)
        assert not self.of_borrower(other).trained.network.encoder.layers[0].qkv.weight.is_meta

    def test_a_lender_read_again_leaves_the_earlier_one_whole(self, saved):
        folder, weights = saved
        nlp = self.used(folder)
        earlier = self.of_borrower(nlp).outline.network.encoder
        nlp.get_pipe(NAME).from_disk(folder / NAME, exclude=["vocab"])
        assert shim_of(nlp).outline.network.encoder is not earlier
        assert torch.equal(earlier.layers[0].qkv.weight, weights["encoder.layers.0.qkv.weight"])

    def test_a_lender_read_from_files_that_were_written_into(self, saved, tmp_path):
        folder, _ = saved
        nlp, other = self.used(folder), self.load(folder)
        step(other, both_of(other), other.resume_training())
        other.to_disk(tmp_path / "other")
        for file in (tmp_path / "other" / NAME).rglob("*"):
            if file.is_file():
                with open(folder / NAME / file.relative_to(tmp_path / "other" / NAME), "wb") as old:
                    old.write(file.read_bytes())
        nlp.get_pipe(NAME).from_disk(folder / NAME, exclude=["vocab"])
        for use in (lambda: nlp(TEXTS[0]), nlp.to_bytes):
            with pytest.raises(ValueError, match="Load the whole pipeline again"):
                use()

    def test_a_borrower_that_comes_later_gets_it_whole(self, saved):
        folder, weights = saved
        nlp = self.load(folder, disable=[TAGGER])
        list(nlp.pipe(TEXTS))
        assert missing(nlp)
        nlp.enable_pipe(TAGGER)
        expected = [doc.to_json() for doc in self.load(folder).pipe(TEXTS)]
        assert [doc.to_json() for doc in nlp.pipe(TEXTS)] == expected
        network = nlp.get_pipe(TAGGER).model.shims[0].trained.network
        found = {name: one for name, one in network.named_parameters() if "encoder" in name}
        assert same(found, {name: one for name, one in weights.items() if "encoder" in name})
        pickle.loads(pickle.dumps(nlp.get_pipe(TAGGER))).to_bytes()

    def test_a_lender_that_is_read_again(self, saved):
        folder, weights = saved
        nlp = self.load(folder)
        list(nlp.pipe(TEXTS))
        nlp.get_pipe(NAME).from_disk(folder / NAME, exclude=["vocab"])
        nlp.get_pipe(TAGGER).to_bytes()
        list(nlp.pipe(TEXTS))
        assert same(weights_of(nlp), weights)


@on_posix
def test_files_are_closed_with_the_pipeline(folder):
    fds = "/proc/self/fd"
    if not os.path.isdir(fds):
        pytest.skip("no /proc")

    def held():
        gc.collect()
        return [f for f in os.listdir(fds) if str(folder) in os.path.realpath(f"{fds}/{f}")]

    nlp = spacy.load(folder)
    assert held()
    del nlp
    assert not held()


def count(shapes):
    """RETURNS (int): How many fp32 tensors of some shapes are in memory."""
    gc.collect()
    tensors = [one for one in gc.get_objects() if type(one) in (torch.Tensor, torch.nn.Parameter)]
    plain = [one for one in tensors if one.layout == torch.strided and not one.is_meta]
    return sum(one.dtype == torch.float32 and one.shape in shapes for one in plain)
