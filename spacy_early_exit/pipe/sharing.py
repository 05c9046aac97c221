"""A component that another pipeline sources is not copied: spaCy has both pipelines share it."""

import gc
import warnings
from typing import List, Optional, TypeVar
from weakref import ReferenceType, WeakKeyDictionary, ref

from spacy.language import Language
from spacy.pipeline import TrainablePipe

Component = TypeVar("Component", bound=TrainablePipe)

_made_in: "WeakKeyDictionary[TrainablePipe, ReferenceType[Language]]" = WeakKeyDictionary()


def made_in(nlp: Language, pipe: Component) -> Component:
    """Remember which pipeline a component was made for.

    nlp (Language): The pipeline.
    pipe (Component): The component.
    RETURNS (Component): The component.
    """
    _made_in[pipe] = ref(nlp)
    return pipe


def warn_if_shared(pipe: TrainablePipe, nlp: Optional[Language] = None) -> None:
    """Say so, once, where a component is also in the pipeline that it was made for. It can only be
    noticed by its name, which is that of the pipeline it was added to last; or where the other
    pipeline is known.

    pipe (TrainablePipe): The component.
    nlp (Optional[Language]): The pipeline that uses it, if that is known.
    """
    if _first_name(pipe, nlp) is None:
        return
    gc.collect()  # a pipeline that nobody has any more is not gone before
    first_name = _first_name(pipe, nlp)
    if first_name is None:
        return
    del _made_in[pipe]
    warnings.warn(
        f"The component '{pipe.name}' is shared: it was sourced from a pipeline that still has it, "
        f"as '{first_name}'. spaCy does not copy what it sources. So what is set or trained in one "
        f"of the two pipelines is so in the other, whatever its config says, and the records of "
        f"both are those of '{pipe.name}'. For a component of its own, source it from a pipeline "
        f"that nothing else uses: add_pipe('{first_name}', name='{pipe.name}', "
        f"source=spacy.load(FOLDER)).",
        stacklevel=3,
    )


def _first_name(pipe: TrainablePipe, nlp: Optional[Language]) -> Optional[str]:
    """RETURNS (Optional[str]): What a component is called in the pipeline that it was made for, if
    another one has it, too.
    """
    made = _made_in.get(pipe)
    first = None if made is None else made()
    if first is None:
        return None
    names: List[str] = [name for name, component in first.components if component is pipe]
    if names and (pipe.name not in names or nlp not in (None, first)):
        return names[0]
    return None
