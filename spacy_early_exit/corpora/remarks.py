"""What could not be used of a corpus, in a sentence for each kind."""

from typing import List, NamedTuple, Sequence, Tuple

from spacy.tokens import Doc

from .lines import shown

# What is counted and its verb, in the singular and in the plural.
REMARKS = {
    "refused": (
        "text",
        'has the answer "reject" or "ignore" and is left out',
        'have the answer "reject" or "ignore" and are left out',
    ),
    "unlisted": (
        "text",
        "lists no entities and counts as not annotated",
        "list no entities and count as not annotated",
    ),
    "mismatched": (
        "text",
        "has offsets that don't fit the words of its entities and is left out",
        "have offsets that don't fit the words of their entities and are left out",
    ),
    "misaligned": (
        "entity",
        "does not align with word boundaries and is left out",
        "do not align with word boundaries and are left out",
    ),
    "overlapping": (
        "entity",
        "overlaps another and is left out",
        "overlap others and are left out",
    ),
}
PLURALS = {"text": "texts", "entity": "entities"}


class Corpus(NamedTuple):
    """Annotated texts.

    docs (List[Doc]): The texts. Words whose annotation is unknown have none.
    remarks (List[str]): What could not be used, one sentence for each kind: how many of how many,
        and an example.
    """

    docs: List[Doc]
    remarks: List[str]


def remark(
    kind: str, found: Sequence[Tuple[int, str]], total: int, counted: str = "line"
) -> List[str]:
    """RETURNS (List[str]): A sentence on what was found of a kind, if anything was.

    kind (str): The kind.
    found (Sequence[Tuple[int, str]]): For each, its line and the text concerned.
    total (int): How many there are in total, of this kind or not.
    counted (str): What is numbered, if not lines.
    """
    if not found:
        return []
    what, does, do = REMARKS[kind]
    number, text = found[0]
    one = f"{shown(text)!r} in {counted} {number}"
    if total == 1:
        return [f"The only {what} {does}: {one}."]
    of = f"{len(found)} of {total} {PLURALS[what]}"
    return [f"{of} {does}: {one}." if len(found) == 1 else f"{of} {do}, such as {one}."]
