"""The pipeline component, whatever its task: spaCy's side, no torch."""

import warnings
from abc import abstractmethod
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    ClassVar,
    Dict,
    Iterable,
    Iterator,
    List,
    Literal,
    Optional,
    Sequence,
    Set,
    Tuple,
    Union,
)

import numpy as np
from numpy.typing import NDArray
from spacy import util
from spacy.errors import Errors
from spacy.language import Language
from spacy.pipeline import TrainablePipe
from spacy.tokens import Doc, Token
from spacy.training import Example, validate_examples, validate_get_examples
from spacy.vocab import Vocab
from thinc.api import Model, Optimizer, set_dropout_rate

from ..budget.controller import Controller, in_spacy_worker
from ..budget.curve import Calibration
from ..budget.fingerprint import describe
from ..checks import check_block, check_call, check_choice, check_least, check_name
from ..files.component import NETWORK, State, network_in, parse_state, read_state
from ..files.whole import checksum, replacing, unpack
from ..runtime.attempts import attempt
from ..tags import MISSING, as_seen, fault_in, tag_count
from ..text.spans import SpanGetter
from .dial import DEFAULT_THRESHOLD, Knob, config_knob, make_knob, nearest
from .docs import Prediction, same_words
from .records import get_records, register_extensions, warn_if_names_are_taken
from .sharing import warn_if_shared

if TYPE_CHECKING:
    from ..decoders import Decoder, Floats
    from ..files.network import Trained
    from ..model.model import DocExits, RunSettings
    from ..network.criterion import Criterion
    from ..training.stages import Gradient, JointLogits, Stage

register_extensions()

MOST_WORDS = 50_000  # to collect from a stream; more would gain nothing in speed


class EarlyExitPipe(TrainablePipe):
    """What all tasks have in common: a transformer tags words and stops, word by word, when it is
    sure. What the tags are, and what becomes of them, is a subclass's: see ``tasks/``.

    vocab (Vocab): The shared vocabulary.
    model (Model): The model, of ``spacy-early-exit.EarlyExitTagger.v2``.
    name (str): Name of this instance.
    criterion (Criterion): Who may leave after a layer.
    decoder (Decoder): How exit logits become tags.
    training (Stage): How ``update`` trains.
    threshold (Optional[float]): The criterion's dial in [0, 1]; 0: never leave.
    speedup (Optional[float]): Saving to aim at, full-depth cost / spent cost; 1: full depth.
    adaptive (bool): Whether ``pipe`` follows what its texts really cost, and moves the threshold
        so that the saving over all of them stays at ``speedup``.
    store_exits (bool): Whether Docs keep the exit layer of every word.
    batch_wordpieces (int): Wordpieces to a batch, at most. On a CPU batches run beside one
        another.
    threads (Optional[int]): Threads to predict with on a CPU; None: as many as torch may use, but
        not more than there are processors for this process.
    window_length (Optional[int]): Wordpieces of a window, special tokens included; None: as
        many as the encoder has positions.
    window_overlap (int): Wordpieces that neighbouring windows of a long Doc share.
    get_spans (Optional[SpanGetter]): Gets the spans of Docs that the encoder sees by themselves,
        such as sentences, or overlapping ones. Longer ones are cut into windows like a long Doc;
        words in none are spans of their own. None: whole Docs.
    kv (str): Whether words that left stay part of the context that others attend to, with the state
        they kept (``"copy"``), or not (``"drop"``), which saves their keys and values as well.
    halt_special (bool): Whether the encoder's special tokens leave with the first word of their
        window, though the others still attend to them, or stay until its last one has left.
    quantize (Optional[str]): ``"int8"``: predict in int8, on CPUs; None: in fp32. What is trained
        and saved is fp32.
    scorer (Optional[Callable]): The scorer.
    RAISES (ValueError): If a setting makes no sense.
    """

    kind: ClassVar[str]  # the factory's name
    scheme: ClassVar[str]  # see tags.py
    main_score: str  # what a checkpoint is best in
    scores: Tuple[str, ...]  # what is shown of a score, main_score among them

    # ------------------------------------------------------------- what a task is

    @abstractmethod
    def labels_in(self, examples: Iterable[Example]) -> List[str]:
        """RETURNS (List[str]): The labels that examples are annotated with, in order."""

    def check_labels(self, labels: Sequence[str]) -> None:
        """RAISES (ValueError): If they can't be those of a saved component of this task."""
        for label in labels:
            self.check_label(label)
        if len(set(labels)) < len(labels):
            raise ValueError("a label is there twice")

    def check_label(self, label: str) -> None:
        """RAISES (ValueError): If it can be no label of this task."""
        if not isinstance(label, str):
            raise ValueError(Errors.E187)
        if not label or label != label.encode("utf8", "replace").decode("utf8"):
            raise ValueError(f"A label of '{self.name}' can't be {label!r}.")

    @abstractmethod
    def gold_tags(self, example: Example) -> Tuple[List[int], Set[str]]:
        """RETURNS (Tuple[List[int], Set[str]]): The right tag of each word of the predicted Doc,
        ``MISSING`` where it is not known; and annotated labels that the component does not have.
        """

    @abstractmethod
    def annotate(self, doc: Doc, prediction: Prediction) -> None:
        """Write the answer for a Doc into it, and its record.

        doc (Doc): The Doc, changed in place.
        prediction (Prediction): The answer.
        """

    @abstractmethod
    def answers(self, doc: Doc) -> List[Any]:
        """RETURNS (List[Any]): What was said of an annotated Doc, one by one, to be compared with
        what another setting says of the same text.
        """

    @abstractmethod
    def describe(self, token: Token) -> Tuple[str, str]:
        """RETURNS (Tuple[str, str]): What an annotated word is, for reports: the group that it is
        counted in, and what to write beside it.
        """

    def to_decode(self, doc: Doc, exits: "DocExits") -> "Floats":
        """Prepare what the network says for the decoder.

        doc (Doc): The Doc.
        exits (DocExits): What the network says of it.
        RETURNS (Floats): The logits to decode. *Shape:* ``(words, tags)``
        """
        return exits.logits

    def unannotated(self, doc: Doc) -> Doc:
        """RETURNS (Doc): A Doc's text as the component is to meet it: the same words, without
        annotation.
        """
        return same_words(doc)

    def confidences(self, doc: Doc, reference: Doc) -> List[Tuple[float, bool]]:
        """RETURNS (List[Tuple[float, bool]]): How sure it was of each thing that it said of a Doc,
        and whether that is right. Empty where confidences are not kept.
        """
        return []

    # -------------------------------------------------------------- the component

    def __init__(
        self,
        vocab: Vocab,
        model: Model,
        name: str,
        *,
        criterion: "Criterion",
        decoder: "Decoder",
        training: "Stage",
        threshold: Optional[float] = DEFAULT_THRESHOLD,
        speedup: Optional[float] = None,
        adaptive: bool = False,
        store_exits: bool = False,
        batch_wordpieces: int = 2048,
        threads: Optional[int] = None,
        window_length: Optional[int] = None,
        window_overlap: int = 64,
        get_spans: Optional[SpanGetter] = None,
        kv: Literal["copy", "drop"] = "copy",
        halt_special: bool = False,
        quantize: Optional[Literal["int8"]] = None,
        scorer: Optional[Callable[..., Any]] = None,
    ):
        check_name(name)
        for block, given in (
            ("criterion", criterion),
            ("decoder", decoder),
            ("training", training),
        ):
            check_block(name, block, given)
        check_choice(name, "kv", kv, ("copy", "drop"))
        check_choice(name, "quantize", quantize, (None, "int8"))
        check_least(name, "batch_wordpieces", batch_wordpieces, 1)
        check_least(name, "threads", 1 if threads is None else threads, 1)
        check_least(name, "window_length", 1 if window_length is None else window_length, 1)
        check_least(name, "window_overlap", window_overlap, 0)
        warn_if_names_are_taken()
        self.vocab = vocab
        self.model = model
        self.name = name
        self.criterion = criterion
        self.decoder = decoder.for_scheme(self.scheme)
        self.training = training
        self.scorer = scorer
        self.adaptive = adaptive
        self.store_exits = store_exits
        self.batch_wordpieces = batch_wordpieces
        self.threads = threads
        self.window_length = window_length
        self.window_overlap = window_overlap
        self.get_spans = get_spans
        self.kv = kv
        self.halt_special = halt_special
        self.quantize = quantize
        # The knobs are read from here on every call, and stored in config.cfg alone.
        self.cfg: Dict[str, Any] = {"threshold": threshold, "speedup": speedup}
        self._property = Knob()
        self._kept_controller: Optional[Controller] = None
        self._labels: List[str] = []
        self.calibration: Optional[Calibration] = None
        self._check_knob(config_knob(self.cfg))
        if adaptive and config_knob(self.cfg).speedup is None:
            raise ValueError(
                f"adaptive of '{self.name}' holds a speedup, and none is set. Set speedup, such as "
                f"3.0, in the same place."
            )

    # ------------------------------------------------------------------ labels

    @property
    def labels(self) -> Tuple[str, ...]:
        """RETURNS (Tuple[str, ...]): The labels."""
        return tuple(self._labels)

    @property
    def label_data(self) -> List[str]:
        """RETURNS (List[str]): The labels, as ``initialize(labels=...)`` takes them."""
        return list(self._labels)

    def add_label(self, label: str) -> int:
        """Add a label. After training, the heads grow by rows of random weights: train on
        before using it.

        label (str): The label.
        RETURNS (int): 0 if it is already there, otherwise 1.
        RAISES (ValueError): If it can't be one.
        """
        self._check_new([label])
        if label in self._labels:
            return 0
        self._labels.append(label)
        self.vocab.strings.add(label)
        if self._is_trained:
            self._shim.add_tags(tag_count(self.scheme, len(self._labels)))
            self.model.set_dim("nO", tag_count(self.scheme, len(self._labels)), force=True)
        return 1

    def _check_new(self, labels: Sequence[str]) -> None:
        """RAISES (ValueError): If one can be no label. What is there, saved when less was refused,
        may stay.
        """
        for label in labels:
            self.check_label(label)
            fault = "" if label in self._labels else fault_in(label)
            if fault:
                raise ValueError(f"A label of '{self.name}' can't be {label!r}: {fault}")

    # ---------------------------------------------------------------- the knob

    @property
    def threshold(self) -> Optional[float]:
        """The threshold in force, None if a speedup is. Settable, for this process only."""
        return self._knob().threshold

    @threshold.setter
    def threshold(self, value: Optional[float]) -> None:
        self._set_property(make_knob(value, None, f"the property threshold of '{self.name}'"))

    @property
    def speedup(self) -> Optional[float]:
        """The speedup in force, None if a threshold is. Settable, for this process only."""
        return self._knob().speedup

    @speedup.setter
    def speedup(self, value: Optional[float]) -> None:
        self._set_property(make_knob(None, value, f"the property speedup of '{self.name}'"))

    def configure(
        self, *, threshold: Optional[float] = None, speedup: Optional[float] = None
    ) -> None:
        """Set what ``cfg`` holds, and drop the properties. See ``spacy_early_exit.configure``.

        threshold (Optional[float]): The criterion's dial.
        speedup (Optional[float]): Saving to aim at.
        RAISES (ValueError): If not exactly one of the two is given, or it makes no sense.
        """
        knob = make_knob(threshold, speedup, "configure")
        if not knob.is_set:
            raise ValueError("configure needs a threshold or a speedup.")
        self._settings(knob)
        self.cfg.update(threshold=knob.threshold, speedup=knob.speedup)
        self.adaptive = self.adaptive and knob.speedup is not None
        self._property = Knob()

    def _set_property(self, knob: Knob) -> None:
        self._settings(knob if knob.is_set else config_knob(self.cfg))
        self._property = knob

    def _knob(self, call: Knob = Knob()) -> Knob:
        return nearest(call, self._property, config_knob(self.cfg))

    def _settings(self, knob: Knob) -> "RunSettings":
        """RETURNS (RunSettings): How to run the model at a knob."""
        from ..model.model import RunSettings

        self._check_knob(knob)
        threshold = knob.threshold or 0.0
        if knob.speedup is not None and knob.speedup > 1:
            threshold = self.calibrated().threshold_for(knob.speedup)
        criterion: Optional[Criterion] = self.criterion if threshold else None
        return RunSettings(
            criterion=criterion,
            threshold=threshold,
            window_length=self.window_length,
            window_overlap=self.window_overlap,
            get_spans=self.get_spans,
            shared_wordpieces=self._shim.shared_wordpieces,
            batch_wordpieces=self.batch_wordpieces,
            threads=self.threads,
            kv=self.kv,
            halt_special=self.halt_special,
            precision=self.quantize or "fp32",
        )

    def _check_knob(self, knob: Knob) -> None:
        if knob.threshold and not self.criterion.has_threshold:
            raise ValueError(
                f"The criterion {type(self.criterion).__name__} of '{self.name}' has no "
                f"threshold. Set threshold = 0 (full depth) or a speedup."
            )

    # -------------------------------------------------------------- calibration

    def calibrated(self) -> Calibration:
        """Get the calibration, if it is one of what is here now.

        RETURNS (Calibration): The calibration.
        RAISES (ValueError): If there is none, or something it depends on has changed since. The
            message says what, and how to calibrate again.
        """
        how = (
            "Calibrate it: python -m spacy early-exit calibrate MODEL TUNE.spacy --output DIR. "
            "Or set a threshold, or speedup = 1 for full depth."
        )
        if self.calibration is None:
            raise ValueError(
                f"'{self.name}' is not calibrated, so a speedup can't be turned into a threshold. "
                f"{how}"
            )
        changed = self.calibration.differences(self.fingerprint())
        if changed:
            raise ValueError(
                f"'{self.name}' was calibrated with other {' and '.join(changed)}, so a speedup "
                f"can't be turned into a threshold any more. {how}"
            )
        return self.calibration

    def fingerprint(self) -> Dict[str, str]:
        """RETURNS (Dict[str, str]): What a calibration depends on, by name."""
        spans = "" if self.get_spans is None else f", of {describe(self.get_spans)}"
        # Calibrations from before there was this setting do not tell of it.
        shared = self._shim.shared_wordpieces
        return {
            **({} if shared == "keep" else {"shared wordpieces": shared}),
            "weights": self._shim.fingerprint(),
            "kept_state": "post_norm" if self.kv == "copy" else "dropped",
            "criterion": describe(self.criterion),
            "decoder": describe(self.decoder),
            "windows": f"{self.window_length or 'whole'}, overlap {self.window_overlap}{spans}",
            "precision": self.quantize or "fp32",
            "special tokens": (
                "leave with the first word of their window"
                if self.halt_special
                else "stay until their window ends"
            ),
        }

    def simulate(self, docs: Iterable[Doc]) -> Callable[[float], float]:
        """Run Docs once at full depth, and say what thresholds would save.

        docs (Iterable[Doc]): The Docs.
        RETURNS (Callable[[float], float]): The saving at a threshold. Exact where texts leave as
            a whole, otherwise approximate.
        """
        from ..model.model import simulate

        settings = self._ready_to_predict(Knob(speedup=1.0))
        trained = self._shim.at(settings.precision)
        return simulate(trained, list(docs), settings, self.criterion)

    # --------------------------------------------------------------- prediction

    def __call__(
        self,
        doc: Doc,
        *,
        threshold: Optional[float] = None,
        speedup: Optional[float] = None,
        adaptive: Optional[bool] = None,
        **others: Any,
    ) -> Doc:
        """Annotate one Doc.

        doc (Doc): The Doc, changed in place.
        threshold (Optional[float]): The criterion's dial, for this call.
        speedup (Optional[float]): Saving to aim at, for this call.
        adaptive (Optional[bool]): As in ``pipe``: here it is refused.
        others (Any): Ignored if a component_cfg may have it for other calls, else refused.
        RETURNS (Doc): The Doc.
        RAISES (ValueError): If the speedup is to be held over a stream: this is but one text.
        """
        check_call(self.name, others)
        knob = make_knob(threshold, speedup, "this call")
        settings = self._ready_to_predict(knob)
        if self._follows(knob, adaptive):
            raise ValueError(
                f"'{self.name}' is adaptive: it holds a speedup over a stream of texts. Use "
                f"nlp.pipe(texts); or for single texts give adaptive = False, and the calibrated "
                f"threshold of the speedup is used."
            )
        return next(self._annotate([doc], settings), doc)

    def pipe(
        self,
        stream: Iterable[Doc],
        *,
        batch_size: int = 128,
        threshold: Optional[float] = None,
        speedup: Optional[float] = None,
        adaptive: Optional[bool] = None,
        **others: Any,
    ) -> Iterator[Doc]:
        """Annotate a stream.

        stream (Iterable[Doc]): The Docs, changed in place.
        batch_size (int): Docs to collect, fewer where they are long; they are sorted by length and
            computed in batches of ``batch_wordpieces``.
        threshold (Optional[float]): The criterion's dial, for this call.
        speedup (Optional[float]): Saving to aim at, for this call.
        adaptive (Optional[bool]): Whether to move the threshold so that the saving over the
            stream stays at ``speedup``; None: as in the config. With ``n_process > 1`` every
            process does so for its own share of the stream.
        others (Any): Ignored if a component_cfg may have it for other calls, else refused.
        YIELDS (Doc): The Docs, in order.
        """
        check_call(self.name, others)
        knob = make_knob(threshold, speedup, "this call")
        settings = self._ready_to_predict(knob)
        controller = self._controller(knob) if self._follows(knob, adaptive) else None
        try:
            for docs in _groups(stream, batch_size):
                if controller is None:
                    yield from self._annotate(docs, settings)
                else:
                    yield from self._annotate_following(docs, settings, controller)
        finally:
            failure = None if controller is None else controller.failure()
            if failure:
                warnings.warn(f"'{self.name}' {failure}", stacklevel=2)

    def _follows(self, knob: Knob, adaptive: Optional[bool]) -> bool:
        """RETURNS (bool): Whether there is a speedup in force that is to be held."""
        speedup = self._knob(knob).speedup
        if adaptive and speedup is None:
            raise ValueError(
                f"adaptive in this call holds a speedup, but a threshold is in force in "
                f"'{self.name}'. Give a speedup, too."
            )
        wanted = self.adaptive if adaptive is None else adaptive
        return bool(wanted) and speedup is not None and speedup > 1

    def _controller(self, knob: Knob) -> Controller:
        speedup = self._knob(knob).speedup or 1.0
        if not in_spacy_worker():
            return Controller(self.calibrated(), speedup)
        # spaCy's workers call pipe anew for every batch of theirs, and end with the stream.
        if self._kept_controller is None:
            self._kept_controller = Controller(self.calibrated(), speedup)
        return self._kept_controller

    def _annotate_following(
        self, docs: List[Doc], settings: "RunSettings", controller: Controller
    ) -> Iterator[Doc]:
        """YIELDS (Doc): The docs, annotated, at thresholds that follow what they cost."""
        for part in controller.chunks((len(doc), doc) for doc in docs):
            threshold = controller.threshold
            criterion = self.criterion if threshold else None
            at = replace(settings, threshold=threshold, criterion=criterion)
            lengths = {id(doc): len(doc) for doc in part}  # before any are merged
            for doc in self._annotate(part, at):
                record = get_records(doc)[self.name]
                controller.account(lengths[id(doc)], record.spent, record.full)
                yield doc

    def _annotate(self, docs: List[Doc], settings: "RunSettings") -> Iterator[Doc]:
        """If a batch fails, its docs are tried one by one: only bad ones meet the handler.

        YIELDS (Doc): The docs, annotated, in order, without those that failed.
        """
        lengths = [len(doc) for doc in docs]
        predicted = attempt(lambda: self._predict(docs, settings))
        if predicted.error is not None:
            if len(docs) == 1:
                self.get_error_handler()(self.name, self, docs, predicted.error)
                return
            for doc in docs:
                yield from self._annotate([doc], settings)
            return
        for doc, length, prediction in zip(docs, lengths, predicted.result):
            if len(doc) != length:  # the same Doc once more, whose characters are words by now
                yield from self._annotate([doc], settings)
                continue
            written = attempt(partial(self.set_annotations, [doc], [prediction]))
            if written.error is not None:
                self.get_error_handler()(self.name, self, [doc], written.error)
            else:
                yield doc

    def predict(self, docs: Iterable[Doc]) -> List[Prediction]:
        """Tag Docs, without changing them, at the knob of the property or the config.

        docs (Iterable[Doc]): The Docs.
        RETURNS (List[Prediction]): One for each.
        RAISES (ValueError): If there are no weights yet.
        """
        return self._predict(list(docs), self._ready_to_predict(Knob()))

    def _predict(self, docs: List[Doc], settings: "RunSettings") -> List[Prediction]:
        from ..model.model import decode

        exits: List[DocExits] = self.model.predict((docs, settings))
        logits = [self.to_decode(doc, seen) for doc, seen in zip(docs, exits)]
        tags = decode(self._shim.trained, self.decoder, logits)
        return [Prediction(*answer) for answer in zip(exits, logits, tags)]

    def set_annotations(self, docs: Iterable[Doc], scores: Sequence[Prediction]) -> None:
        """Write answers and records into Docs.

        docs (Iterable[Doc]): The Docs.
        scores (Sequence[Prediction]): What ``predict`` said of them.
        """
        for doc, prediction in zip(docs, scores):
            self.annotate(doc, prediction)

    # ----------------------------------------------------------------- training

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Optional[Language] = None,
        labels: Optional[Sequence[str]] = None,
        start_from: Optional[str] = None,
    ) -> None:
        """Fetch the encoder and make a head for every layer, or go on from a trained pipeline.

        get_examples (Callable): Gives examples, from which labels are read.
        nlp (Optional[Language]): The pipeline.
        labels (Optional[Sequence[str]]): The labels, in place of those of the examples.
        start_from (Optional[str]): Folder of a pipeline whose component of this name lends its
            weights and labels, for another stage of training.
        RAISES (ValueError): If there are no labels, or one can be none, or the encoder or pipeline
            can't be loaded.
        """
        validate_get_examples(get_examples, f"{type(self).__name__}.initialize")
        if isinstance(labels, str):
            raise ValueError(f"labels of '{self.name}' must be a list, not {labels!r} alone.")
        if start_from is not None:
            self._start_from(Path(start_from))
        labels = self.labels_in(get_examples()) if labels is None else [*labels]
        self._check_new(labels)  # all of them, before any is added
        for label in labels:
            self.add_label(label)
        if not self._labels:
            raise ValueError(
                f"'{self.name}' has no labels to learn: there are none in the training examples. "
                f"Are they annotated? Else give labels in [initialize.components.{self.name}], "
                f"or call add_label before initialize."
            )
        self.model.set_dim("nO", tag_count(self.scheme, len(self._labels)), force=True)
        if start_from is None:
            self.model.initialize()
            if self.training.trains_criterion:
                raise ValueError(
                    f"{type(self.training).__name__} teaches '{self.name}' who may leave, not "
                    f"which tags are right. Give it a pipeline that knows: start_from in "
                    f"[initialize.components.{self.name}], as in configs/reduction.cfg."
                )
        made = self._shim.set_learned(self.decoder, self.criterion)
        if made and not self.training.trains_criterion:
            raise ValueError(
                f"The criterion {type(self.criterion).__name__} of '{self.name}' learns who may "
                f"leave, and {type(self.training).__name__} does not teach it that. Train with "
                f"ReductionTraining.v1 (configs/reduction.cfg), or start_from a pipeline that was."
            )
        self._ready(Knob())

    def _start_from(self, pipeline: Path) -> None:
        folder = pipeline / self.name
        if not (folder / "cfg").is_file():
            raise ValueError(
                f"start_from of '{self.name}' must be the folder of a trained pipeline with a "
                f"component of that name: there is no {folder / 'cfg'}."
            )
        self.from_disk(folder, exclude=["vocab"])

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optional[Optimizer] = None,
        losses: Optional[Dict[str, float]] = None,
        **others: Any,
    ) -> Dict[str, float]:
        """Learn from a batch, as the stage of training does.

        examples (Iterable[Example]): The batch.
        drop (float): Dropout rate, everywhere in the network.
        sgd (Optional[Optimizer]): Takes a step, if given; else gradients add up.
        losses (Optional[Dict[str, float]]): Updated in place, under the component's name.
        others (Any): Ignored if a component_cfg may have it for other calls, else refused.
        RETURNS (Dict[str, float]): The losses.
        RAISES (ValueError): If the loss is NaN or infinite. The message names the layer.
        """
        check_call(self.name, others)
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        examples = list(examples)
        validate_examples(examples, f"{type(self).__name__}.update")
        self._check_learned()
        settings = replace(
            self._ready(Knob(speedup=1.0)), criterion=self.criterion, stage=self.training
        )
        set_dropout_rate(self.model, drop)
        docs = [eg.predicted for eg in examples]
        scores, backprop = self.model.begin_update((docs, settings))
        loss, d_scores = self.get_loss(examples, scores)
        if not np.isfinite(loss):
            raise ValueError(self._diverged(scores))
        backprop(d_scores)
        if sgd not in (None, False):
            self.finish_update(sgd)
        losses[self.name] += loss
        return losses

    def rehearse(
        self,
        examples: Iterable[Example],
        *,
        sgd: Optional[Optimizer] = None,
        losses: Optional[Dict[str, float]] = None,
        **config: Any,
    ) -> Dict[str, float]:
        """Learn nothing, and say so: there is no rehearsal of this component.

        examples (Iterable[Example]): Ignored, as all else is.
        losses (Optional[Dict[str, float]]): The losses of others.
        RETURNS (Dict[str, float]): These losses.
        """
        warnings.warn(
            f"'{self.name}' can't rehearse: nlp.rehearse leaves it as it is. To keep what it knows "
            f"while it learns, let the pipeline annotate texts before the training, and mix these "
            f"into the examples of nlp.update.",
            stacklevel=2,
        )
        return {} if losses is None else losses

    def _diverged(self, scores: "JointLogits") -> str:
        """RETURNS (str): Where NaN or infinity first comes up, as an error message."""
        heads = [bool((abs(of_layer) < np.inf).all()) for of_layer in scores.logits]
        where = "" if all(heads) else f", from layer {heads.index(False) + 1} on"
        return (
            f"The training of '{self.name}' has diverged: its loss is NaN or infinite{where}. "
            f"Train again from the last checkpoint, with a smaller learn_rate."
        )

    def get_loss(
        self, examples: Iterable[Example], scores: "JointLogits"
    ) -> Tuple[float, "Gradient"]:
        """Compare what all heads say with the annotation.

        examples (Iterable[Example]): The batch.
        scores (JointLogits): What the heads say.
        RETURNS (Tuple[float, Gradient]): The loss, summed over words, and its gradient.
        """
        from ..training.stages import loss_and_gradient

        targets = self._targets(examples, scores)
        return loss_and_gradient(self.training, self.decoder, scores, targets)

    def _targets(self, examples: Iterable[Example], scores: "JointLogits") -> "NDArray[np.int64]":
        """RETURNS (NDArray[np.int64]): The right tag of each word that was scored, ``MISSING``
        where it is not known, or where another window's answer counts. *Shape:* ``(words,)``
        """
        gold, unknown = [np.zeros(0, dtype=np.int64)], set()
        for eg in examples:
            tags, new = self.gold_tags(eg)
            gold.append(np.array(tags, dtype=np.int64))
            unknown |= new
        if unknown:
            warnings.warn(
                f"'{self.name}' was not initialized with the label(s) "
                f"{', '.join(sorted(unknown))}: words with them count as not annotated. "
                f"Use add_label, or initialize with all labels.",
                stacklevel=2,
            )
        starts = np.cumsum([len(tags) for tags in gold])  # gold has an empty one in front
        places = starts[scores.doc] + scores.word
        every = np.concatenate(gold)
        seen = np.zeros(len(every), dtype=np.bool_)
        seen[places] = True
        target = as_seen(self.scheme, every, seen)[places]
        target[~scores.owned] = MISSING
        return target

    def heads_on(self, examples: Iterable[Example]) -> Tuple[Any, "NDArray[np.int64]"]:
        """Ask every head about every word, at full depth.

        examples (Iterable[Example]): Annotated examples.
        RETURNS (Tuple[Any, NDArray]): Their logits, numpy or cupy, and the right tags, ``MISSING``
            where there is none. *Shapes:* ``(layers, words, tags)``, ``(words,)``
        """
        from ..model.model import measure_heads

        examples = list(examples)
        settings = self._ready(Knob(speedup=1.0))
        scores = measure_heads(self.model, [eg.predicted for eg in examples], settings)
        return scores.logits, self._targets(examples, scores)

    def scale_heads(self, temperatures: Sequence[float]) -> None:
        """Divide what each head says by a temperature. What is uncertain changes with it, so that
        a calibration no longer holds.

        temperatures (Sequence[float]): Of the head of each layer, all above 0.
        RAISES (ValueError): If the decoder learns: its transitions weigh what the heads say.
        """
        if self._needed_of_weights()["decoder"]:
            raise ValueError(
                f"The heads of '{self.name}' can't be divided by temperatures: its decoder "
                f"{type(self.decoder).__name__} has learnt transitions to go with what they say, "
                f"and other tags would come out. Temperatures are for BIOViterbi.v1."
            )
        self._shim.scale_heads(temperatures)

    def score(self, examples: Iterable[Example], **kwargs: Any) -> Dict[str, Any]:
        """Score annotated examples.

        examples (Iterable[Example]): The examples.
        RETURNS (Dict[str, Any]): Those of the scorer.
        """
        scores: Dict[str, Any] = super().score(examples, **{"name": self.name, **kwargs})
        return scores

    # ------------------------------------------------------------ serialisation

    def to_disk(self, path: Union[str, Path], *, exclude: Iterable[str] = ()) -> None:
        """Save the trained state. Settings are not in it: config.cfg is where they are kept.

        path (Union[str, Path]): The folder. If it can't be written to, or the disk is full, what is
            in it stays as it is. Files of a network saved there before, which this component does
            not have, are removed.
        exclude (Iterable[str]): ``cfg``, ``vocab`` or ``model``.
        RAISES (OSError): If the folder, or one in it, can't be written to, or is a link, or the
            disk is full.
        """
        from ..files.network import FILES

        exclude = [*exclude]
        ours = [] if "model" in exclude else [Path("model", name) for name in FILES]
        serialize = {
            "model": lambda p: self._shim.to_disk(p) if self._is_trained else None,
            "vocab": lambda p: self.vocab.to_disk(p, exclude=exclude),
            "cfg": lambda p: p.write_bytes(self._state(network=network_in(p.parent)).to_bytes()),
        }
        with replacing(Path(path), ours) as folder:
            util.to_disk(folder, serialize, exclude)

    def from_disk(self, path: Union[str, Path], *, exclude: Iterable[str] = ()) -> "EarlyExitPipe":
        """Load what ``to_disk`` saved. Needs no network, and runs no code from it. Not while other
        threads predict with this component: load another pipeline in its place.

        path (Union[str, Path]): The folder.
        exclude (Iterable[str]): ``cfg``, ``vocab`` or ``model``.
        RETURNS (EarlyExitPipe): Itself.
        RAISES (ValueError): If a file is missing or damaged; the message names it. The component
            stays as it was then.
        """
        from ..model.shim import trained_on_disk

        folder = Path(path)
        state = None if "cfg" in exclude else read_state(folder / "cfg", self.check_labels)
        trained = self._trained
        if "model" not in exclude:
            kept = state or State()
            trained = trained_on_disk(folder / "model") if kept.has_weights else None
            if kept.network not in (None, network_in(folder)):
                raise ValueError(
                    f"The files cfg and {NETWORK} in {path} are not of one pipeline: was the "
                    f"process ended while it saved the pipeline? Load another checkpoint."
                )
        self._check_that_they_fit(state, trained)
        vocab = {"vocab": lambda p: self.vocab.from_disk(p, exclude=exclude)}
        util.from_disk(folder, vocab, exclude)
        self._take(state, trained)
        return self

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """RETURNS (bytes): What ``to_disk`` saves, in one."""
        model = b"" if "model" in exclude else self._shim.to_bytes()
        state = self._state(model=checksum(model) if model else None)
        serialize = {
            "cfg": state.to_bytes,
            "vocab": lambda: self.vocab.to_bytes(exclude=exclude),
            "model": lambda: model,
        }
        data: bytes = util.to_bytes(serialize, exclude)
        return data

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> "EarlyExitPipe":
        """Load what ``to_bytes`` gave.

        bytes_data (bytes): The bytes.
        exclude (Iterable[str]): ``cfg``, ``vocab`` or ``model``.
        RETURNS (EarlyExitPipe): Itself.
        RAISES (ValueError): If a part is missing or damaged; the message names it. The component
            stays as it was then.
        """
        from ..model.shim import trained_in_bytes

        parts = unpack(bytes_data, {"cfg", "model"} - {*exclude})
        state, trained = None, self._trained
        if "cfg" not in exclude:
            state = parse_state(parts["cfg"], "cfg in the bytes", self.check_labels)
        if "model" not in exclude:
            kept = state or State()
            if kept.model not in (None, checksum(parts["model"])):
                raise ValueError(
                    "model in the bytes is damaged: it does not fit its checksum in cfg."
                )
            trained = trained_in_bytes(parts["model"]) if kept.has_weights else None
        self._check_that_they_fit(state, trained)
        vocab = {"vocab": lambda b: self.vocab.from_bytes(b, exclude=exclude)}
        util.from_dict(parts, vocab, exclude)
        self._take(state, trained)
        return self

    def _state(self, **checksums: Optional[str]) -> State:
        return State(tuple(self._labels), self._is_trained, self.calibration, **checksums)

    def _check_that_they_fit(self, state: Optional[State], trained: Optional["Trained"]) -> None:
        """RAISES (ValueError): If this state, or else the present one, is not of this network."""
        from ..model.model import check_settings

        if trained is None:
            return
        known = None if state is None else state.labels
        labels = len(self._labels if known is None else known)
        if trained.network.tags != tag_count(self.scheme, labels):
            raise ValueError(
                f"'{self.name}' was saved with {labels} labels in its cfg file, but its weights "
                f"have {trained.network.tags} tags: the files are not of one pipeline."
            )
        # Not the knob of the config: an outdated calibration must not keep it from loading.
        check_settings(trained, self._settings(Knob(speedup=1.0)))

    def _take(self, state: Optional[State], trained: Optional["Trained"]) -> None:
        """Become what was read. It is checked: nothing fails from here on."""
        if state is not None:
            self._labels = self._labels if state.labels is None else [*state.labels]
            self.calibration = state.calibration
        for label in self._labels:  # they may have come without the vocabulary
            self.vocab.strings.add(label)
        if trained is None:
            self._shim.drop()
        elif trained is not self._trained:
            self._shim.set(trained)
            self.model.set_dim("nO", trained.network.tags, force=True)

    # --------------------------------------------------------------- the inside

    @property
    def _shim(self) -> Any:
        return self.model.shims[0]

    @property
    def _trained(self) -> Optional["Trained"]:
        return self._shim.trained if self._is_trained else None

    @property
    def _is_trained(self) -> bool:
        return bool(self._shim.is_trained)

    def _ready_to_predict(self, call: Knob) -> "RunSettings":
        """RETURNS (RunSettings): How to run at the nearest knob, checked, and all that is derived
        from the weights is there: what is wrong with the pipeline as a whole must not look like a
        fault of single docs.
        """
        settings = self._ready(call)
        self._check_learned()
        self._shim.at(settings.precision)
        return settings

    def _ready(self, call: Knob) -> "RunSettings":
        """RETURNS (RunSettings): How to run at the nearest knob, checked."""
        from ..model.model import check_settings

        if not self._is_trained:
            raise ValueError(
                f"'{self.name}' has no weights yet. Train it: nlp.initialize(...) fetches the "
                f"pre-trained encoder; or load a trained pipeline with spacy.load(...)."
            )
        warn_if_shared(self)
        settings = self._settings(self._knob(call))
        check_settings(self._shim.trained, settings)
        return settings

    def _check_learned(self) -> None:
        known = self._shim.trained.network.learned
        for kind, names in self._needed_of_weights().items():
            missing = [name for name in names if name not in known]
            if missing:
                block = getattr(self, kind)
                raise ValueError(
                    f"The {kind} {type(block).__name__} of '{self.name}' needs "
                    f"{', '.join(missing)}, and the weights have no such thing: they were trained "
                    f"with another criterion or decoder. Train with what it needs, from this "
                    f"pipeline on if you like: [initialize.components.{self.name}] start_from."
                )

    def _needed_of_weights(self) -> Dict[str, List[str]]:
        """RETURNS (Dict[str, List[str]]): What decoder and criterion must have learnt, by name."""
        from ..model.shim import fresh

        decoder, criterion = fresh(self._shim.trained.network, self.decoder, self.criterion, "meta")
        return {
            "decoder": [*decoder],
            "criterion": [*criterion, *self.criterion.needs_learned],
        }


def _groups(stream: Iterable[Doc], size: int) -> Iterator[List[Doc]]:
    """YIELDS (List[Doc]): So many docs of a stream, or fewer that have ``MOST_WORDS``: what is made
    of them on the way lies in memory for all of them at once.
    """
    group: List[Doc] = []
    words = 0
    for doc in stream:
        group.append(doc)
        words += len(doc)
        if len(group) >= size or words >= MOST_WORDS:
            yield group
            group, words = [], 0
    if group:
        yield group


def configure(
    nlp: Language,
    *,
    threshold: Optional[float] = None,
    speedup: Optional[float] = None,
    name: str = "early_exit_ner",
) -> None:
    """Set threshold or speedup for good: ``nlp.to_disk`` keeps it, in config.cfg.

    nlp (Language): The pipeline, changed in place.
    threshold (Optional[float]): The criterion's dial in [0, 1]; 0: never leave.
    speedup (Optional[float]): Saving to aim at, full-depth cost / spent cost. With a threshold in
        its place there is nothing to hold, and ``adaptive`` becomes false.
    name (str): Name of the component.
    RAISES (ValueError): If not exactly one of the two is given, or it makes no sense.
    """
    pipe = nlp.get_pipe(name)
    if not isinstance(pipe, EarlyExitPipe):
        raise ValueError(f"'{name}' is no early-exit component, but a {type(pipe).__name__}.")
    warn_if_shared(pipe, nlp)
    pipe.configure(threshold=threshold, speedup=speedup)
    config = nlp.get_pipe_config(name)  # the live object
    config["threshold"], config["speedup"] = pipe.cfg["threshold"], pipe.cfg["speedup"]
    config["adaptive"] = pipe.adaptive
