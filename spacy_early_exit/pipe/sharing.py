"""spaCy does not copy a component that another pipeline sources: both pipelines share it."""

import gc
import warnings
from typing import List, Optional, Tuple, TypeVar
from weakref import ReferenceType, WeakKeyDictionary, WeakSet, ref

from spacy.language import Language
from spacy.pipeline import TrainablePipe

Component = TypeVar("Component", bound=TrainablePipe)

_made_in: "WeakKeyDictionary[TrainablePipe, ReferenceType[Language]]" = WeakKeyDictionary()

# The pipeline that a component was found in, if it was not made for it.
_home: "WeakKeyDictionary[TrainablePipe, ReferenceType[Language]]" = WeakKeyDictionary()

_said_of: "WeakSet[TrainablePipe]" = WeakSet()


def made_in(nlp: Language, pipe: Component) -> Component:
    """Remember which pipeline a component was made for.

    nlp (Language): The pipeline.
    pipe (Component): The component.
    RETURNS (Component): The component.
    """
    _made_in[pipe] = ref(nlp)
    return pipe


def home_of(pipe: TrainablePipe) -> Optional[Language]:
    """RETURNS (Optional[Language]): The pipeline that a component is in: the one that it was made
    for, if it is still there; otherwise one that it was sourced or unpickled into. None: there is
    none.

    pipe (TrainablePipe): The component.
    """
    for known in (_home, _made_in):
        made = known.get(pipe)
        nlp = None if made is None else made()
        if nlp is not None and _names(pipe, nlp):
            return nlp
    for nlp in _pipelines():
        if _names(pipe, nlp):
            _home[pipe] = ref(nlp)
            return nlp
    return None


def warn_if_shared(pipe: TrainablePipe, nlp: Optional[Language] = None) -> None:
    """Warn, once, if a component is in several places. The pipeline that it was made for shows this
    wherever the component is used: the component is in it twice, or no longer under the name last
    given to it. If the pipeline that uses it is known, all other pipelines are searched, too.

    pipe (TrainablePipe): The component.
    nlp (Optional[Language]): The pipeline that uses it, if that is known.
    """
    if _elsewhere(pipe, nlp) is None:
        return
    gc.collect()  # a pipeline that nobody uses any more stays until then
    found = _elsewhere(pipe, nlp)
    if found is None:
        return
    _said_of.add(pipe)
    where, name = found
    warnings.warn(
        f"The component '{pipe.name}' is shared: {where} it, as '{name}'. spaCy does not copy "
        f"sourced components. What is set or trained in one place also applies in the other, "
        f"whatever its config says, and both keep their records under '{pipe.name}'. For a "
        f"component of its own, source it from a pipeline that nothing else uses: "
        f"add_pipe('{name}', name='{pipe.name}', source=spacy.load(FOLDER)).",
        stacklevel=3,
    )


def _elsewhere(pipe: TrainablePipe, nlp: Optional[Language]) -> Optional[Tuple[str, str]]:
    """RETURNS (Optional[Tuple[str, str]]): Which other pipeline has a component, and its name
    there; None if there is no other, or the warning has been given.
    """
    if pipe in _said_of:
        return None
    made = _made_in.get(pipe)  # unknown after unpickling
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
    """RETURNS (List[Language]): All pipelines in this process."""
    return [known for known in gc.get_objects() if issubclass(type(known), Language)]
