"""A component that another pipeline sources is not copied: spaCy has both pipelines share it."""

import gc
import warnings
from typing import List, Optional, Tuple, TypeVar
from weakref import ReferenceType, WeakKeyDictionary, WeakSet, ref

from spacy.language import Language
from spacy.pipeline import TrainablePipe

Component = TypeVar("Component", bound=TrainablePipe)

_made_in: "WeakKeyDictionary[TrainablePipe, ReferenceType[Language]]" = WeakKeyDictionary()

_said_of: "WeakSet[TrainablePipe]" = WeakSet()


def made_in(nlp: Language, pipe: Component) -> Component:
    """Remember which pipeline a component was made for.

    nlp (Language): The pipeline.
    pipe (Component): The component.
    RETURNS (Component): The component.
    """
    _made_in[pipe] = ref(nlp)
    return pipe


def warn_if_shared(pipe: TrainablePipe, nlp: Optional[Language] = None) -> None:
    """Say so, once, where a component is in several places. Wherever it is used, that is noticed in
    the pipeline that it was made for: it is there twice, or no longer by the name that it was
    added by last. Where the pipeline that uses it is known, all others are looked through, too.

    pipe (TrainablePipe): The component.
    nlp (Optional[Language]): The pipeline that uses it, if that is known.
    """
    if _elsewhere(pipe, nlp) is None:
        return
    gc.collect()  # a pipeline that nobody has any more is not gone before
    found = _elsewhere(pipe, nlp)
    if found is None:
        return
    _said_of.add(pipe)
    where, name = found
    warnings.warn(
        f"The component '{pipe.name}' is shared: {where} it, as '{name}'. spaCy does not copy what "
        f"it sources. So what is set or trained in one of the two places is so in the other, "
        f"whatever its config says, and the records of both are those of '{pipe.name}'. For a "
        f"component of its own, source it from a pipeline that nothing else uses: "
        f"add_pipe('{name}', name='{pipe.name}', source=spacy.load(FOLDER)).",
        stacklevel=3,
    )


def _elsewhere(pipe: TrainablePipe, nlp: Optional[Language]) -> Optional[Tuple[str, str]]:
    """RETURNS (Optional[Tuple[str, str]]): Who else has a component, and what it is called there;
    None if nobody has, or it has been said.
    """
    if pipe in _said_of:
        return None
    made = _made_in.get(pipe)  # not known of what was pickled
    used = nlp if made is None or nlp is not None else made()
    names = [] if used is None else _names(pipe, used)
    if len(names) > 1:
        return "its pipeline also has", next(name for name in names if name != pipe.name)
    if nlp is not None:
        others = [name for one in _pipelines() if one is not nlp for name in _names(pipe, one)]
    else:
        others = [name for name in names if name != pipe.name]
    return ("another pipeline still has", others[0]) if others else None


def _names(pipe: TrainablePipe, nlp: Language) -> List[str]:
    return [name for name, component in nlp.components if component is pipe]


def _pipelines() -> List[Language]:
    """RETURNS (List[Language]): All that there are in this process."""
    return [known for known in gc.get_objects() if issubclass(type(known), Language)]
