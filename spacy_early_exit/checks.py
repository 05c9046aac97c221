"""What a component is made and called with: checked, and refused with what would be right."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any, Mapping, Sequence

# What a component_cfg may have. The same one may go to prediction and to training, and spaCy leaves
# the last two in it: what is not for one of them is ignored there.
OF_CALLS = ("threshold", "speedup", "adaptive", "batch_size", "drop")


def check_name(name: str) -> None:
    """The name of a component is that of its folder in a saved pipeline.

    name (str): The name.
    RAISES (ValueError): If it is a path.
    """
    if Path(name).name != name or name in ("", "..") or "\\" in name:
        raise ValueError(
            f"The name of a component is that of its folder in a saved pipeline, so it can't "
            f"be a path, as {name!r} is. Take letters, digits and '_'."
        )


def check_block(name: str, block: str, given: Any) -> None:
    """A block of the config must be there, and be what such a block has to be.

    name (str): The component's name.
    block (str): The block's.
    given (Any): What it is.
    RAISES (ValueError): If it is None, or lacks what its protocol asks for. The message names it.
    """
    if given is None:
        raise ValueError(
            f"'{name}' needs a {block}: [components.{name}.{block}] must not be null. "
            f"Leave it out for the default."
        )
    protocol = _protocol_of(block)
    if not isinstance(given, protocol):
        asked = [member for member in dir(protocol) if not member.startswith("_")]
        missing = [member for member in asked if not hasattr(given, member)]
        raise ValueError(
            f"The {block} of '{name}' must be a {protocol.__name__} of {protocol.__module__}: a "
            f"{type(given).__name__} lacks {', '.join(missing) or '__call__'}."
        )


def _protocol_of(block: str) -> type:
    """RETURNS (type): What a block has to be. Whoever has made one has imported torch."""
    if block == "criterion":
        from .network.criterion import Criterion

        return Criterion
    if block == "decoder":
        from .decoders import Decoder

        return Decoder
    from .training.stages import Stage

    return Stage


def check_choice(name: str, setting: str, given: Any, choices: Sequence[Any]) -> None:
    """A setting must be one of a few.

    name (str): The component's name.
    setting (str): The setting's.
    given (Any): What it is.
    choices (Sequence[Any]): What it may be.
    RAISES (ValueError): If it is none of them.
    """
    if given not in choices:
        may_be = " or ".join("null" if choice is None else repr(choice) for choice in choices)
        raise ValueError(f"{setting} of '{name}' must be {may_be}, not {given!r}.")


def check_least(name: str, setting: str, given: int, least: int) -> None:
    """A number must be large enough.

    name (str): The component's name.
    setting (str): The setting's.
    given (int): What it is.
    least (int): What it is at least.
    RAISES (ValueError): If it is less.
    """
    if given < least:
        raise ValueError(f"{setting} of '{name}' must be {least} or more, not {given}.")


def check_call(name: str, given: Mapping[str, Any]) -> None:
    """What a component is called with must be known.

    name (str): The component's name.
    given (Mapping[str, Any]): What a component_cfg has that the method itself does not take.
    RAISES (ValueError): If something in it is unknown. The message says what may have been meant.
    """
    for key in given:
        if key not in OF_CALLS:
            nearest = get_close_matches(key.lower(), OF_CALLS, n=1)
            meant = f" Did you mean {nearest[0]!r}?" if nearest else ""
            raise ValueError(
                f"'{name}' can't be called with {key!r}.{meant} A component_cfg may have "
                f"{', '.join(OF_CALLS[:-1])} and {OF_CALLS[-1]}."
            )
