"""Settings that have been removed. Saved pipelines, configs and calibrations still name them.

If they have the value that is now the only behaviour, they are read as before; any other value is
refused. They stay in the signatures that spaCy reads, since it refuses keys that are not in them.
"""

import functools
import inspect
import re
from typing import Any, Callable, Dict, TypeVar, cast

Make = TypeVar("Make", bound=Callable[..., Any])

# The removed settings of each block, each with its only remaining value.
RETIRED: Dict[str, Dict[str, Any]] = {
    "EarlyExitTagger": {"kept_state": "post_norm"},
    "JointTraining": {"layer_weights": "linear"},
    "PatienceExit": {"level": "word", "outside_patience": None, "min_layer": 1},
    "SelfSampling": {"loss_after_exit": False, "flooding": False, "layer_weights": "linear"},
    "TokenExit": {"left_words": "ignore"},
    "hold_saving": {"score_start": False},
}


def reads_retired(block: str) -> Callable[[Make], Make]:
    """Let a registered function take the removed settings of its block.

    block (str): The name of the block, without version.
    RETURNS (Callable): The decorator. The function itself never sees them.
    """

    def decorate(make: Make) -> Make:
        @functools.wraps(make)
        def made(*args: Any, **settings: Any) -> Any:
            for name, left in RETIRED[block].items():
                check_retired(block, name, settings.pop(name, left))
            return make(*args, **settings)

        signature = inspect.signature(make)
        gone = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=left, annotation=Any)
            for name, left in RETIRED[block].items()
        ]
        shown = signature.replace(parameters=[*signature.parameters.values(), *gone])
        made.__signature__ = shown  # type: ignore[attr-defined]
        return cast(Make, made)

    return decorate


def check_retired(block: str, name: str, given: Any) -> None:
    """Refuse a removed setting, unless its value is what happens anyway.

    block (str): The name of the block.
    name (str): The setting.
    given (Any): Its value.
    RAISES (ValueError): If the value is not the remaining one.
    """
    left = RETIRED[block][name]
    if given != left:
        raise ValueError(
            f"{block}: {name} must be {left!r}, not {given!r}. The setting was removed, and only "
            f"{left!r} remains. Remove {name} from the block of {block} in the config. A pipeline "
            f"that was trained or calibrated with another value has to be trained or calibrated "
            f"again."
        )


def without_retired(description: str) -> str:
    """Remove retired settings from a saved calibration's description of a block.

    description (str): What ``fingerprint.describe`` returned for the block.
    RETURNS (str): What it returns now.
    """
    block, opening, settings = description.partition("(")
    for name, left in RETIRED.get(block, {}).items():
        value = r"[^,)]*" if left is None else re.escape(repr(left))
        settings = re.sub(rf"\b{name}={value}(, )?", "", settings)
    return block + opening + settings
