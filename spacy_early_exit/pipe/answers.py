"""What the owner of a shared encoder leaves on a Doc for the components that borrow it."""

from typing import TYPE_CHECKING, Any, Dict

from spacy.tokens import Doc

if TYPE_CHECKING:
    from ..model.predict import DocExits

KEY = "spacy_early_exit_pass"


def leave_answers(doc: Doc, owner: str, exits: "DocExits") -> None:
    """Leave the answers of the other tasks on a Doc. They are arrays and numbers, so that Docs may
    be saved or sent on in between.

    doc (Doc): The Doc, changed in place.
    owner (str): Name of the component whose pass it was.
    exits (DocExits): The output of the pass.
    """
    waiting: Dict[str, Dict[str, Any]] = doc.user_data.get(KEY, {})
    waiting.update(
        {
            name: {**vars(one), "others": {}, "of": owner, "length": len(doc)}
            for name, one in exits.others.items()
        }
    )
    if waiting:
        doc.user_data[KEY] = waiting


def read_answers(doc: Doc, name: str, owner: str) -> "DocExits":
    """Read a component's answers.

    doc (Doc): The Doc.
    name (str): Name of the component.
    owner (str): Name of the component that should have left them.
    RETURNS (DocExits): What the network says of the Doc.
    RAISES (ValueError): If there are no answers, or the words have changed since.
    """
    from ..model.predict import DocExits

    found = doc.user_data.get(KEY, {}).get(name)
    if found is None:
        raise ValueError(
            f"'{name}' has its answers from the pass of '{owner}', and that has left none on the "
            f"Doc. '{owner}' must run before it, in the same pipeline."
        )
    if found["length"] != len(doc):
        raise ValueError(
            f"The words of the Doc have changed since '{owner}' left the answers of '{name}' on "
            f"it. Put components that merge or split words before '{owner}', or after '{name}'."
        )
    values = {key: value for key, value in found.items() if key not in ("of", "length")}
    return DocExits(**values)


def take_answers(doc: Doc, name: str) -> str:
    """Remove a component's answers from a Doc, once they have been used.

    doc (Doc): The Doc, changed in place.
    name (str): Name of the component.
    RETURNS (str): Name of the component whose pass it was.
    """
    waiting = doc.user_data.get(KEY, {})
    owner: str = waiting.pop(name, {}).get("of", "")
    if not waiting:
        doc.user_data.pop(KEY, None)
    return owner
