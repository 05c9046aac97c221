"""What spaCy asks of a trainable pipe: labels, prediction, training and files. No torch.

``task.py`` says what a task is. ``dial.py`` has threshold and speedup. ``lending.py`` shares
encoders. ``stream.py`` annotates a stream. ``targets.py`` finds what is learnt from examples.
``saved.py`` saves and loads.
"""

import warnings
from dataclasses import fields
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
    Optional,
    Sequence,
    Tuple,
    Type,
)

from spacy.language import Language
from spacy.pipeline import TrainablePipe
from spacy.tokens import Doc
from spacy.training import Example, validate_examples, validate_get_examples
from spacy.vocab import Vocab
from thinc.api import Model, Optimizer, set_dropout_rate

from ..settings import (
    RunSettings,
    SettingProperty,
    Settings,
    check_blocks,
    check_call,
    check_known,
    check_name,
)
from ..tags import tag_count
from . import targets
from .answers import leave_answers, take_answers
from .dial import DEFAULT_THRESHOLD, Dial, check_knob, config_knob, make_knob
from .lending import Lending
from .records import name_pass, register_extensions, warn_if_names_are_taken
from .saved import Saved
from .stream import annotate, annotate_stream
from .task import Prediction, Task

if TYPE_CHECKING:
    from ..decoders import Decoder
    from ..network.criterion import Criterion
    from ..training.base import Gradient, JointLogits, Stage

register_extensions()


class EarlyExitPipe(Task, Saved, Lending, Dial, TrainablePipe):
    """What all tasks have in common: a transformer tags words and stops, word by word, when it is
    sure. Subclasses define what the tags are and what becomes of them: see ``tasks/``.

    vocab (Vocab): The shared vocabulary.
    model (Model): The model, made by ``spacy-early-exit.EarlyExitTagger.v3``.
    name (Optional[str]): Name of this instance; None: the factory's.
    criterion (Criterion): Decides which words exit after a layer.
    decoder (Decoder): How exit logits become tags.
    training (Stage): How ``update`` trains.
    threshold (Optional[float]): The criterion's threshold, in [0, 1]; 0: no word exits.
    speedup (Optional[float]): Speedup to aim at, full-depth cost / spent cost; 1: full depth.
    scorer (Optional[Callable]): The scorer; None: there is nothing to score.
    settings (Any): The fields of ``settings_class``.
    RAISES (ValueError): If a setting makes no sense.
    """

    settings: Settings
    settings_class: ClassVar[Type[Settings]] = Settings
    default_scorer: Callable[..., Any]

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        for field in fields(cls.settings_class):
            setattr(cls, field.name, SettingProperty(field.name))

    def __init__(
        self,
        vocab: Vocab,
        model: Model,
        name: Optional[str] = None,
        *,
        criterion: "Criterion",
        decoder: "Decoder",
        training: "Stage",
        threshold: Optional[float] = DEFAULT_THRESHOLD,
        speedup: Optional[float] = None,
        scorer: Any = "default",
        **settings: Any,
    ):
        self.name = self.kind if name is None else name
        check_name(self.name)
        check_blocks(self.name, criterion=criterion, decoder=decoder, training=training)
        check_known(self.name, settings, [field.name for field in fields(self.settings_class)])
        self.settings = self.settings_class(**settings)
        self.settings.check(self.name)
        warn_if_names_are_taken()
        self.vocab = vocab
        self.model = model
        self.criterion = criterion
        self.decoder = decoder.for_scheme(self.scheme)
        self.training = training
        self.scorer = self.default_scorer if scorer == "default" else scorer
        # The knobs are read from here on every call. They are saved in config.cfg alone.
        self.cfg: Dict[str, Any] = {"threshold": threshold, "speedup": speedup}
        self._labels: List[str] = []
        knob = config_knob(self.cfg)
        check_knob(self.name, knob, self.criterion, self.settings.adaptive)
        self.check_borrowing()

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
        """Add a label. In a trained component the heads grow by rows of random weights: train
        further before using it.

        label (str): The label.
        RETURNS (int): 0 if it is already there, otherwise 1.
        RAISES (ValueError): If it can't be a label.
        """
        self.check_new_labels([label])
        if label in self._labels:
            return 0
        self._labels.append(label)
        self.vocab.strings.add(label)
        if self._shim.is_trained:
            self._shim.add_tags(tag_count(self.scheme, len(self._labels)))
            self.model.set_dim("nO", tag_count(self.scheme, len(self._labels)), force=True)
        return 1

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
        threshold (Optional[float]): The criterion's threshold, for this call.
        speedup (Optional[float]): Speedup to aim at, for this call.
        adaptive (Optional[bool]): As in ``pipe``. Here, true is refused if a speedup is in force.
        others (Any): Ignored if a component_cfg may contain it for other calls; otherwise refused.
        RETURNS (Doc): The Doc.
        RAISES (ValueError): If the speedup is to be held over a stream: this is only one text.
        """
        check_call(self.name, others)
        knob = make_knob(threshold, speedup, "this call")
        run = self.ready_to_predict(knob)
        if self._follows(knob, adaptive):
            raise ValueError(
                f"'{self.name}' is adaptive: it holds a speedup over a stream of texts. Use "
                f"nlp.pipe(texts). For single texts, give adaptive = False: then the speedup's "
                f"calibrated threshold is used."
            )
        return next(annotate(self, [doc], run), doc)

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
        batch_size (int): Number of Docs to collect; fewer if they are long. They are sorted by
            length and computed in batches of ``batch_wordpieces``.
        threshold (Optional[float]): The criterion's threshold, for this call.
        speedup (Optional[float]): Speedup to aim at, for this call.
        adaptive (Optional[bool]): Whether to move the threshold so that the speedup over the stream
            stays at ``speedup``; None: as in the config. With ``n_process > 1``, every process does
            so for its own share of the stream.
        others (Any): Ignored if a component_cfg may contain it for other calls; otherwise refused.
        YIELDS (Doc): The Docs, in order.
        """
        check_call(self.name, others)
        knob = make_knob(threshold, speedup, "this call")
        run = self.ready_to_predict(knob)
        controller = self._controller(knob) if self._follows(knob, adaptive) else None
        yield from annotate_stream(self, stream, batch_size, run, controller)

    def predict(self, docs: Iterable[Doc]) -> List[Prediction]:
        """Tag Docs, without changing them, at the threshold or speedup in force.

        docs (Iterable[Doc]): The Docs.
        RETURNS (List[Prediction]): One for each.
        RAISES (ValueError): If there are no weights yet.
        """
        return self._predict(list(docs), self.ready_to_predict())

    def _predict(self, docs: List[Doc], run: RunSettings) -> List[Prediction]:
        from ..model.predict import decode

        exits = self.exits_of(docs, run)
        logits = [self.to_decode(doc, seen) for doc, seen in zip(docs, exits)]
        tags = decode(self._shim.outline, self.decoder, logits)
        return [Prediction(*answer) for answer in zip(exits, logits, tags)]

    def set_annotations(self, docs: Iterable[Doc], scores: Sequence[Prediction]) -> None:
        """Write answers and records into Docs.

        docs (Iterable[Doc]): The Docs.
        scores (Sequence[Prediction]): What ``predict`` returned for them.
        """
        for doc, prediction in zip(docs, scores):
            leave_answers(doc, prediction.exits)
            self.annotate(doc, prediction)
            if self.lender_name is not None:
                name_pass(doc, self.name, self.lender_name)
                take_answers(doc, self.name)

    # ----------------------------------------------------------------- training

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Optional[Language] = None,
        labels: Optional[Sequence[str]] = None,
        start_from: Optional[str] = None,
        labelled: Optional[str] = None,
    ) -> None:
        """Fetch the encoder and make its exit heads, or continue from a trained pipeline.

        get_examples (Callable): Returns examples, from which the labels are read.
        nlp (Optional[Language]): The pipeline.
        labels (Optional[Sequence[str]]): The labels, instead of those in the examples.
        start_from (Optional[str]): Folder of a pipeline. Weights and labels come from its component
            of this name, for another stage of training. For self-training it is the teacher, and
            the encoder is fetched all the same.
        labelled (Optional[str]): The labelled texts of self-training, a ``.spacy`` file. Its
            examples have no annotation, so the labels are read from these.
        RAISES (ValueError): If there are no labels, or one is not valid, or the encoder or pipeline
            can't be loaded, or the stage of training can't start from what is given.
        """
        validate_get_examples(get_examples, f"{type(self).__name__}.initialize")
        if isinstance(labels, str):
            raise ValueError(f"labels of '{self.name}' must be a list, not {labels!r} alone.")
        self.bind(nlp, anew=True)
        student = targets.as_student(self.name, self.training, start_from, labelled)
        few = [] if labelled is None else targets.read_labelled(Path(labelled), self.vocab)
        if start_from is not None:
            folder = targets.folder_to_start_from(self.name, Path(start_from))
            self.from_disk(folder, exclude=["vocab"])
        annotated = get_examples() if student is None else few
        labels = self.labels_in(annotated) if labels is None else [*labels]
        self.check_new_labels(labels)  # all of them, before any is added
        for label in labels:
            self.add_label(label)
        targets.check_labels_to_learn(self.name, self._labels)
        self.model.set_dim("nO", tag_count(self.scheme, len(self._labels)), force=True)
        taught = None if student is None else (self._shim.teacher(), self._shim.trained.tokenizer)
        if start_from is None or student is not None:
            self.model.initialize()
        targets.check_stage(self.name, self.training, from_scratch=start_from is None)
        learns = bool(self._shim.make_room_for(self.decoder, self.criterion))
        targets.check_criterion_is_taught(self.name, self.criterion, self.training, learns)
        _, run = self.ready_alone()
        if student is not None and taught is not None:
            targets.check_wordpieces(self.name, taught[1], self._shim.trained.tokenizer)
            self._shim.learn_from(taught[0])
            targets.show_labelled(student, self, self._shim.trained, few, run)

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
        sgd (Optional[Optimizer]): Takes a step, if given; otherwise gradients accumulate.
        losses (Optional[Dict[str, float]]): Updated in place, under the component's name.
        others (Any): Ignored if a component_cfg may contain it for other calls; otherwise refused.
        RETURNS (Dict[str, float]): The losses.
        RAISES (ValueError): If the loss is NaN or infinite. The message names the layer.
        """
        check_call(self.name, others)
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        examples = list(examples)
        validate_examples(examples, f"{type(self).__name__}.update")
        self._shim.check_learned(self.name, self.decoder, self.criterion)
        run = self.ready_to_learn()
        set_dropout_rate(self.model, drop)
        scores, backprop = self.model.begin_update(([eg.predicted for eg in examples], run))
        loss, d_scores = self.get_loss(examples, scores)
        targets.check_loss(self.name, loss, scores, self.network.exit_layers)
        backprop(d_scores)
        if sgd not in (None, False):
            self.finish_update(sgd)
        losses[self.name] += loss
        return losses

    def get_loss(
        self, examples: Iterable[Example], scores: "JointLogits"
    ) -> Tuple[float, "Gradient"]:
        """Compare the logits of all heads with the annotation.

        examples (Iterable[Example]): The batch.
        scores (JointLogits): The logits of all heads.
        RETURNS (Tuple[float, Gradient]): The loss, summed over words, and its gradient.
        """
        from ..training.base import loss_and_gradient

        gold = targets.targets(self, examples, scores)
        return loss_and_gradient(self.training, self.decoder, scores, gold)

    def rehearse(
        self,
        examples: Iterable[Example],
        *,
        sgd: Optional[Optimizer] = None,
        losses: Optional[Dict[str, float]] = None,
        **config: Any,
    ) -> Dict[str, float]:
        """Learn nothing, and warn: this component does not support rehearsal.

        examples (Iterable[Example]): Ignored.
        losses (Optional[Dict[str, float]]): The losses of other components, returned unchanged.
        RETURNS (Dict[str, float]): The same losses.
        """
        warnings.warn(
            f"'{self.name}' can't rehearse: nlp.rehearse does not change it. To keep what it knows "
            f"while it learns, let the pipeline annotate texts before the training and mix them "
            f"into the examples of nlp.update.",
            stacklevel=2,
        )
        return {} if losses is None else losses

    def score(self, examples: Iterable[Example], **kwargs: Any) -> Dict[str, Any]:
        """RETURNS (Dict[str, Any]): The scores on annotated examples, and what training logs."""
        scores: Dict[str, Any] = super().score(examples, **{"name": self.name, **kwargs})
        return {**scores, **self.position(), **getattr(self.training, "figures", dict)()}

    # --------------------------------------------------------------- the inside

    @property
    def _shim(self) -> Any:
        return self.model.shims[0]

    @property
    def network(self) -> Any:
        """RETURNS (ExitNetwork): The torch network, once there is one."""
        return self._shim.trained.network
