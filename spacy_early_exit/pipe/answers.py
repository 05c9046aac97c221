"""What the owner of a shared encoder leaves for the components that borrow it, Doc by Doc.

They are not kept on the Doc: if a call disables a borrower, nobody takes its answers, and they
would be saved with the Doc.
"""

from typing import TYPE_CHECKING, Dict, Tuple
from weakref import WeakKeyDictionary

from spacy.tokens import Doc

if TYPE_CHECKING:
    from ..model.predict import DocExits

# By component, with the number of words that the Doc had.
_waiting: "WeakKeyDictionary[Doc, Dict[str, Tuple[int, DocExits]]]" = WeakKeyDictionary()


def leave_answers(doc: Doc, exits: "DocExits") -> None:
    """Leave the answers of the other tasks, until they are taken or the Doc is gone.

    doc (Doc): The Doc.
    exits (DocExits): The output of the pass.
    """
    if exits.others:
        found = {name: (len(doc), one) for name, one in exits.others.items()}
        _waiting[doc] = {**_waiting.get(doc, {}), **found}


def are_waiting(doc: Doc) -> bool:
    """RETURNS (bool): Whether answers wait for a component.

    doc (Doc): The Doc.
    """
    return doc in _waiting


def read_answers(doc: Doc, name: str, owner: str) -> "DocExits":
    """Read a component's answers.

    doc (Doc): The Doc.
    name (str): Name of the component.
    owner (str): Name of the component that should have left them.
    RETURNS (DocExits): What the network says of the Doc.
    RAISES (ValueError): If there are no answers, or the words have changed since.
    """
    words, exits = _waiting.get(doc, {}).get(name, (0, None))
    if exits is None:
        raise ValueError(
            f"'{name}' has its answers from the pass of '{owner}', and that has left none on the "
            f"Doc. '{owner}' must run before it, in the same pipeline."
        )
    if words != len(doc):
        raise ValueError(
            f"The words of the Doc have changed since '{owner}' left the answers of '{name}' on "
            f"it. Put components that merge or split words before '{owner}', or after '{name}'."
        )
    return exits


def take_answers(doc: Doc, name: str) -> None:
    """Remove a component's answers, once they have been used.

    doc (Doc): The Doc.
    name (str): Name of the component.
    """
    waiting = _waiting.get(doc, {})
    waiting.pop(name, None)
    if not waiting:
        _waiting.pop(doc, None)
