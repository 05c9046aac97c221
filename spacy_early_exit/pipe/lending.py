"""One encoder for several components: its owner runs it for all that borrow it.

The owner's pass answers for the borrowers, too, and leaves their answers on the Doc, where they
read them. A pipeline is asked on every call which of its components share: it may change.
"""

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Callable, ClassVar, Dict, List, Optional, Sequence, Tuple

from spacy.language import Language
from spacy.tokens import Doc

from ..settings import RunSettings, Settings
from .answers import read_answers
from .dial import Knob
from .sharing import home_of, warn_if_shared

if TYPE_CHECKING:
    from thinc.api import Model

    from ..decoders import Decoder
    from ..model.predict import DocExits
    from ..network.criterion import Criterion
    from ..network.shared import Reader
    from ..training.base import Stage

# What a borrower may set for itself. All else is about the pass.
OWN_SETTINGS = ("store_exits", "attribute", "overwrite", "across_lines")


class Lending:
    """A component's part in a shared pass: it lends its encoder, borrows another's, or neither."""

    kind: ClassVar[str]
    name: str
    model: "Model[Any, Any]"
    criterion: "Criterion"
    decoder: "Decoder"
    training: "Stage"
    settings: Settings
    cfg: Dict[str, Any]
    _shim: Any
    _knob: Callable[..., Knob]
    _run_settings: Callable[[Knob], RunSettings]
    warn_of_config: Callable[[], None]
    _lends = False  # whether a component was seen that borrows the encoder

    @property
    def lender_name(self) -> Optional[str]:
        """RETURNS (Optional[str]): Name of the component whose encoder it borrows; None: it has its
        own.
        """
        from ..encoders.shared import SharedEncoder

        encoder = self._shim.encoder
        return encoder.component if isinstance(encoder, SharedEncoder) else None

    def borrowers(self, disabled: bool = False) -> "List[Any]":
        """RETURNS (List[EarlyExitPipe]): The components that borrow its encoder, in order.

        disabled (bool): Whether to include those that are disabled.
        """
        nlp = home_of(self) if self._lends else None
        if nlp is None:
            return []
        pipes = nlp.components if disabled else nlp.pipeline
        return [
            pipe
            for _, pipe in pipes
            if isinstance(pipe, Lending) and pipe.lender_name and find_lender(pipe, nlp) is self
        ]

    def link(self, nlp: Optional[Language] = None) -> "Optional[Any]":
        """Let a component that borrows an encoder and the one that owns it know each other, which
        then holds if either is renamed.

        nlp (Optional[Language]): Its pipeline, if that is known.
        RETURNS (Optional[EarlyExitPipe]): The owner; None: it has an encoder of its own, or the
            owner is not in the pipeline.
        RAISES (ValueError): If the owner can't lend.
        """
        if self.lender_name is None:
            return None
        nlp = home_of(self) if nlp is None else nlp
        lender = None if nlp is None else find_lender(self, nlp)
        if lender is not None:
            check_lender(self, lender)
            lender._lends, self._shim.known_lender = True, lender._shim
        return lender

    def bind(self, nlp: Optional[Language] = None, anew: bool = False) -> "Optional[Any]":
        """Connect a component that borrows an encoder with the one that owns it.

        nlp (Optional[Language]): Its pipeline, if that is known.
        anew (bool): Whether its heads, if there are any, are about to be replaced.
        RETURNS (Optional[EarlyExitPipe]): The owner; None: it has an encoder of its own.
        RAISES (ValueError): If the owner is missing, can't lend, has no weights yet, or has another
            encoder than the one that the heads were trained over.
        """
        if self.lender_name is None:
            return None
        lender = self.link(nlp)
        if lender is None:
            nlp = home_of(self) if nlp is None else nlp
            names = [] if nlp is None else nlp.component_names
            wrong = (
                f"which is not in its pipeline (its components: {', '.join(names) or 'unknown'})"
            )
            if self.lender_name in names:
                wrong = "which is no early-exit component"
            raise ValueError(
                f"'{self.name}' uses the encoder of '{self.lender_name}', {wrong}. Load or source "
                f"both, name the right one in [components.{self.name}.model.encoder], or let "
                f"spacy_early_exit.separate give '{self.name}' an encoder of its own where both "
                f"are."
            )
        if not lender._shim.is_trained:
            raise ValueError(
                f"'{self.name}' uses the encoder of '{lender.name}', which has no weights yet. "
                f"'{lender.name}' must come first in the pipeline, and be initialized or loaded."
            )
        if not anew:
            try:
                self._shim.borrow(lender.name)
            except ValueError as e:
                raise ValueError(f"'{self.name}' can't be used. {e}") from e
        return lender

    def warn_after_loading(self) -> None:
        """Warn if the config asks for a speedup that can't be had. A pass that several components
        share is complete once the last of them has been loaded.
        """
        owner = self.link() if self.lender_name is not None else self
        if owner is not None and [owner, *owner.borrowers()][-1] is self:
            owner.warn_of_config()

    def check_order(self, lender: "Lending") -> None:
        """RAISES (ValueError): If the owner of its encoder does not run before it."""
        nlp = home_of(self)
        if nlp is None:
            return
        pipes = [pipe for _, pipe in nlp.components]
        if pipes.index(lender) > pipes.index(self):
            raise ValueError(
                f"'{self.name}' comes before '{lender.name}', whose encoder it uses. Put it after "
                f"'{lender.name}' in the pipeline."
            )
        if not any(pipe is lender for _, pipe in nlp.pipeline):
            raise ValueError(
                f"'{self.name}' has its answers from the pass of '{lender.name}', which is "
                f"disabled. Enable it, or disable both."
            )

    def ready_to_predict(self, call: Knob = Knob()) -> RunSettings:
        """RETURNS (RunSettings): As ``ready``. Also prepares what is derived from the weights, so
        that a fault of the whole pipeline isn't blamed on single Docs.
        """
        run = self.ready(call)
        lender = self.bind()
        if lender is not None:
            self.check_order(lender)
        networks = []
        for pipe in self._readers(run):
            pipe._shim.check_learned(pipe.name, pipe.decoder, pipe.criterion)
            networks.append(pipe._shim.prepare_for(run.predicts_in, run.device).network)
        readers = zip(run.readers, networks)
        return replace(run, readers=tuple(replace(one, network=of) for one, of in readers))

    def ready(self, call: Knob = Knob()) -> RunSettings:
        """Get ready to run at a threshold or speedup.

        call (Knob): The knob of a call. If it is not set, the one of the property or config is in
            force.
        RETURNS (RunSettings): How to run the model, checked.
        RAISES (ValueError): If there are no weights yet, or a setting does not suit them.
        """
        knob, run = self.ready_alone(call)
        pipes = [self, *(pipe for pipe in self.borrowers() if pipe._shim.is_trained)]
        if len(pipes) == 1:
            return run
        for pipe in pipes[1:]:
            pipe.bind()
        readers = [reader_of(pipe, self, knob, run, call.is_set) for pipe in pipes]
        return replace(run, readers=tuple(readers))

    def ready_alone(self, call: Knob = Knob()) -> Tuple[Knob, RunSettings]:
        """RETURNS (Tuple[Knob, RunSettings]): The knob in force, and how to run the model if no
        other component borrows its encoder. Otherwise as ``ready``.
        """
        if not self._shim.is_trained:
            raise ValueError(
                f"'{self.name}' has no weights yet. Train it (nlp.initialize(...) fetches the "
                f"pre-trained encoder), or load a trained pipeline with spacy.load(...)."
            )
        warn_if_shared(self)
        lender = self.bind()
        if lender is not None and call.threshold is not None:
            raise ValueError(
                f"'{self.name}' runs in the pass of '{lender.name}': give that one the threshold "
                f"or speedup of a call, for all tasks of the pass. Or set the property threshold "
                f"of '{self.name}'."
            )
        knob = self._knob(call)
        run = self._run_settings(knob)
        if lender is None:
            self._shim.outline.check_window_length(run.window_length)
        return knob, run

    def at_threshold(self, run: RunSettings, threshold: float) -> RunSettings:
        """RETURNS (RunSettings): The same run, with all tasks at another threshold.

        run (RunSettings): How to run the model.
        threshold (float): The threshold.
        """
        criterion = self.criterion if threshold else None
        readers = tuple(
            replace(reader, threshold=threshold, criterion=pipe.criterion if threshold else None)
            for reader, pipe in zip(run.readers, self._readers(run))
        )
        return replace(run, threshold=threshold, criterion=criterion, readers=readers)

    def ready_to_learn(self) -> RunSettings:
        """RETURNS (RunSettings): How to run the model when it learns. The stage decides which words
        exit, not the threshold or speedup in force.
        """
        lender = self.bind()
        owner = self if lender is None else lender
        run = owner.ready(Knob(speedup=1.0))
        run = replace(run, criterion=self.criterion, stage=self.training)
        pipes = owner._readers(run)
        if lender is None and len(pipes) == 1:
            return run
        if self not in pipes:  # it is disabled, or borrows from a component of another pipeline
            pipes = [*pipes, self]
        from ..network.shared import Reader
        from ..training.sharing import learner_of

        learners = [learner_of(p, learns=p is self) for p in pipes]
        return replace(
            run,
            reader=pipes.index(self),
            readers=tuple(Reader(p.name, p._shim.trained.network, p.criterion) for p in pipes),
            learners=tuple(learners),
        )

    def _readers(self, run: RunSettings) -> "List[Any]":
        """RETURNS (List[EarlyExitPipe]): The components of a pass, itself first."""
        names = [reader.name for reader in run.readers[1:]]
        return [self, *(pipe for pipe in self.borrowers() if pipe.name in names)]

    def exits_of(self, docs: Sequence[Doc], run: RunSettings) -> "List[DocExits]":
        """RETURNS (List[DocExits]): What the network says of Docs. If it borrows its encoder, that
        is what the owner has left on them.

        docs (Sequence[Doc]): The Docs.
        run (RunSettings): How to run the model.
        """
        lender = self.lender_name
        if lender is not None:
            return [read_answers(doc, self.name, lender) for doc in docs]
        exits: List[DocExits] = self.model.predict((docs, run))
        return exits

    def check_borrowing(self) -> None:
        """RAISES (ValueError): If a component that borrows its encoder sets what is the owner's."""
        lender = self.lender_name
        if lender is None:
            return
        if self.cfg["speedup"] is not None:
            self._run_settings(Knob(speedup=self.cfg["speedup"]))  # refuses it
        if self.kind == "early_exit_segmenter":
            raise ValueError(
                f"'{self.name}' makes the words, and '{lender}' reads them: they can't share an "
                f"encoder."
            )


def reader_of(pipe: "Any", owner: Lending, knob: Knob, run: RunSettings, is_call: bool) -> "Reader":
    """RETURNS (Reader): A task of a pass.

    pipe (EarlyExitPipe): Its component.
    owner (Lending): The owner of the encoder.
    knob (Knob): The owner's knob in force. A speedup, or what a call gives, is for all tasks.
        Otherwise each task is at its own threshold.
    run (RunSettings): How the owner runs.
    is_call (bool): Whether the knob is that of a call.
    """
    from ..network.shared import Reader

    is_for_all = pipe is owner or is_call or knob.speedup is not None
    threshold = run.threshold if is_for_all else pipe.threshold or 0.0
    criterion = pipe.criterion if threshold else None
    return Reader(pipe.name, pipe._shim.outline.network, criterion, threshold)


def find_lender(borrower: Lending, nlp: Language) -> "Optional[Any]":
    """Find the component whose encoder another one borrows: the one that it is known to be, or else
    the one that the config names. A pipeline may also have been saved after the owner was renamed,
    and before the config knew: then it is the one over whose encoder the heads were trained.

    borrower (Lending): The other one. Its config gets the owner's name, if that is a new one.
    nlp (Language): The pipeline.
    RETURNS (Optional[EarlyExitPipe]): The owner, if it is in the pipeline.
    """
    wanted, shim = borrower.lender_name, borrower._shim
    pipes = {name: pipe for name, pipe in nlp.components if isinstance(pipe, Lending)}
    found = [name for name, pipe in pipes.items() if pipe._shim is shim.known_lender]
    if not found and wanted in nlp.component_names:
        return pipes.get(wanted)
    if not found and shim.is_trained:
        owners = [name for name, pipe in pipes.items() if pipe.lender_name is None]
        found = [name for name in owners if shim.fits(pipes[name]._shim)]
    if not found:
        return None
    if found[0] != wanted:
        shim.encoder = replace(shim.encoder, component=found[0])
        for own, pipe in pipes.items():
            if pipe is borrower:
                nlp.get_pipe_config(own)["model"]["encoder"]["component"] = found[0]
    return pipes[found[0]]


def check_lender(borrower: Lending, lender: Lending) -> None:
    """RAISES (ValueError): If a component can't lend its encoder to another.

    borrower (Lending): The other one.
    lender (Lending): The component.
    """
    start = f"'{borrower.name}' can't use the encoder of '{lender.name}'"
    if lender is borrower or lender.lender_name is not None:
        raise ValueError(f"{start}: that one has none of its own. Name the one that has.")
    if lender.kind == "early_exit_segmenter":
        raise ValueError(f"{start}: it reads characters, which it makes into words.")
    for pipe in (borrower, lender):
        if pipe.criterion.own_loop is not None:
            raise ValueError(
                f"{start}: the criterion {type(pipe.criterion).__name__} of '{pipe.name}' runs the "
                f"encoder in a way of its own."
            )
    defaults, own = type(borrower.settings)(), borrower.settings
    for field in fields(Settings):
        value, theirs = getattr(own, field.name), getattr(lender.settings, field.name)
        if field.name in OWN_SETTINGS or value in (getattr(defaults, field.name), theirs):
            continue
        raise ValueError(
            f"{field.name} of '{borrower.name}' is {value!r}, but it runs in the pass of "
            f"'{lender.name}', where that is {theirs!r}. Set it there alone."
        )
