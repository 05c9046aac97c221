"""Every setting of a component, defined once: its default, its valid values, and what a calibration
records of it. Threshold and speedup may be set in three places and are in ``pipe/dial.py``.
"""

import json
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterable, Literal, Mapping, Optional, Sequence, Tuple

from .budget.fingerprint import describe
from .text.spans import SpanGetter

if TYPE_CHECKING:
    from .network.criterion import Criterion
    from .network.shared import Reader
    from .text.windows import SharedWordpieces
    from .training.base import Stage
    from .training.sharing import Learner

# What a component_cfg may contain. spaCy may pass the same one to prediction and to training, so
# each ignores the settings meant for the other.
OF_CALLS = ("threshold", "speedup", "adaptive", "batch_size", "drop")


@dataclass(frozen=True)
class Settings:
    """The settings that all tasks have. A field added here reaches every factory, config and
    component.

    adaptive (bool): Whether ``pipe`` tracks what its texts really cost and moves the threshold so
        that the speedup over the whole stream stays at ``speedup``.
    store_exits (bool): Whether Docs keep the exit layer of every word.
    batch_wordpieces (int): Maximum number of wordpieces in a batch. On a CPU, batches run in
        parallel. On a GPU, those to predict are eight times as large.
    threads (Optional[int]): Threads to predict with on a CPU; None: as many as torch may use, but
        no more than the processors available to this process.
    window_length (Optional[int]): Maximum number of wordpieces in a window, including special
        tokens; None: as many as the encoder has positions.
    window_overlap (int): Wordpieces that neighbouring windows of a long Doc share.
    get_spans (Optional[SpanGetter]): Gets the spans of Docs that the encoder sees separately, such
        as sentences. Spans may overlap. Long ones are cut into windows like a long Doc, and words
        outside all spans form spans of their own. None: whole Docs.
    kv (str): Whether words that have exited stay in the context that others attend to, with the
        state they kept (``"copy"``), or are removed from it (``"drop"``), which saves their keys
        and values as well.
    halt_special (bool): Whether the encoder's special tokens exit with the first word of their
        window or stay until its last word has exited. Other words attend to them either way.
    quantize (Optional[str]): ``"int8"``: predict in int8, on CPUs; None: predict in the
        ``precision``. Training and saved weights are always fp32.
    precision (str): What the encoder predicts in: ``"fp32"``, ``"bf16"`` (GPUs, and CPUs with
        AMX), or ``"fp16"`` (older GPUs). Exit heads stay in fp32.
    device (Optional[str]): What to predict on, such as ``"cuda"`` or ``"cuda:1"``, which does not
        need cupy; None: where spaCy puts models.
    strict (bool): Whether a speedup that loses more of the score than the calibration's
        ``--min-f-kept`` allows is refused. Otherwise it is warned of.
    """

    adaptive: bool = False
    store_exits: bool = False
    batch_wordpieces: int = 2048
    threads: Optional[int] = None
    window_length: Optional[int] = None
    window_overlap: int = 64
    get_spans: Optional[SpanGetter] = None
    kv: Literal["copy", "drop"] = "copy"
    halt_special: bool = True
    quantize: Optional[Literal["int8"]] = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    device: Optional[str] = None
    strict: bool = False

    def check(self, name: str) -> None:
        """RAISES (ValueError): If a setting makes no sense. The message says what would be valid.

        name (str): The component's name.
        """
        for field in fields(self):
            if field.type is bool:
                check_choice(name, field.name, getattr(self, field.name), (True, False))
        check_choice(name, "kv", self.kv, ("copy", "drop"))
        check_choice(name, "quantize", self.quantize, (None, "int8"))
        check_choice(name, "precision", self.precision, ("fp32", "bf16", "fp16"))
        if self.quantize is not None and self.precision != "fp32":
            raise ValueError(
                f"'{name}' can predict in int8 or in {self.precision}, not both: set quantize = "
                f"null, or precision = 'fp32'."
            )
        if self.device is not None and not (isinstance(self.device, str) and self.device):
            raise ValueError(
                f"device of '{name}' must be a name such as 'cuda', or null, not {self.device!r}."
            )
        check_least(name, "batch_wordpieces", self.batch_wordpieces, 1)
        check_least(name, "window_overlap", self.window_overlap, 0)
        if self.threads is not None:
            check_least(name, "threads", self.threads, 1)
        if self.window_length is not None:
            check_least(name, "window_length", self.window_length, 1)

    def fingerprint(self) -> Dict[str, str]:
        """RETURNS (Dict[str, str]): What a calibration depends on, by name."""
        # A new setting is described only if it has not its default, as in NERSettings: what was
        # calibrated before there was one has to stay valid.
        spans = "" if self.get_spans is None else f", of {describe(self.get_spans)}"
        special = "leave with the first word of their window"
        return {
            "kept_state": "post_norm" if self.kv == "copy" else "dropped",
            "windows": f"{self.window_length or 'whole'}, overlap {self.window_overlap}{spans}",
            "precision": self.predicts_in,
            "special tokens": special if self.halt_special else "stay until their window ends",
        }

    @property
    def predicts_in(self) -> Literal["fp32", "bf16", "fp16", "int8"]:
        """RETURNS (str): What matrix products are computed in when predicting."""
        return self.quantize or self.precision

    def to_run(
        self,
        criterion: Optional["Criterion"],
        threshold: float,
        shared_wordpieces: "SharedWordpieces",
    ) -> "RunSettings":
        """RETURNS (RunSettings): What the model needs to know about a call.

        criterion (Optional[Criterion]): Decides which words exit early; None: no word exits.
        threshold (float): The criterion's threshold.
        shared_wordpieces (SharedWordpieces): The model's.
        """
        of_all = {field.name: getattr(self, field.name) for field in fields(Settings)}
        return RunSettings(
            **of_all,
            criterion=criterion,
            threshold=threshold,
            shared_wordpieces=shared_wordpieces,
        )


@dataclass(frozen=True)
class RunSettings(Settings):
    """How to run the model on a call: the component's settings, and which words exit.

    criterion (Optional[Criterion]): Decides which words exit early; None: no word exits.
    threshold (float): The criterion's threshold.
    shared_wordpieces (SharedWordpieces): Whether words that would share a wordpiece are tokenized
        one by one or do share it.
    stage (Optional[Stage]): How to train, when it is called for training; None: jointly.
    readers (Tuple[Reader, ...]): If the pass is shared, all tasks that read it, that of the
        encoder's owner first. Empty: it is not shared.
    learners (Tuple[Learner, ...]): How each of them learns, when it is called for training.
    reader (int): Number of the one that is meant, when it is called for training.
    """

    criterion: Optional["Criterion"] = None
    threshold: float = 0.0
    shared_wordpieces: "SharedWordpieces" = "split"
    stage: Optional["Stage"] = None
    readers: Tuple["Reader", ...] = ()
    learners: Tuple["Learner", ...] = ()
    reader: int = 0


class SettingProperty:
    """A setting of a component, as its attribute: ``ner.threads = 2`` holds for this process only.
    New values are checked. Settings are saved in config.cfg.

    setting (str): Name of the setting.
    """

    def __init__(self, setting: str):
        self.setting = setting

    def __get__(self, pipe: Any, owner: Any) -> Any:
        """RETURNS (Any): The setting's value."""
        return self if pipe is None else getattr(pipe.settings, self.setting)

    def __set__(self, pipe: Any, value: Any) -> None:
        """RAISES (ValueError): If the value makes no sense."""
        settings = replace(pipe.settings, **{self.setting: value})
        settings.check(pipe.name)
        pipe.settings = settings


def check_name(name: str) -> None:
    """Check a component's name: it is also the name of its folder in a saved pipeline.

    name (str): The name.
    RAISES (ValueError): If it is a path.
    """
    if Path(name).name != name or name in ("", "..") or "\\" in name:
        raise ValueError(
            f"A component's name is also the name of its folder in a saved pipeline, so it can't "
            f"be a path, as {name!r} is. Use letters, digits and '_'."
        )


def check_blocks(name: str, **blocks: Any) -> None:
    """Check that blocks of the config are there and follow their protocols.

    name (str): The component's name.
    **blocks (Any): The blocks, by name.
    RAISES (ValueError): If one is None, or lacks what its protocol asks for. The message names it.
    """
    for block, given in blocks.items():
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
                f"The {block} of '{name}' must follow {protocol.__name__} in "
                f"{protocol.__module__}: {type(given).__name__} lacks "
                f"{', '.join(missing) or '__call__'}."
            )


def _protocol_of(block: str) -> type:
    """RETURNS (type): The protocol that a block has to follow. Whoever has made a block has already
    imported torch.
    """
    if block == "criterion":
        from .network.criterion import Criterion

        return Criterion
    if block == "decoder":
        from .decoders import Decoder

        return Decoder
    from .training.base import Stage

    return Stage


def check_choice(name: str, setting: str, given: Any, choices: Sequence[Any]) -> None:
    """Check that a setting is one of its choices.

    name (str): The component's name.
    setting (str): The setting's name.
    given (Any): The setting's value.
    choices (Sequence[Any]): The valid values.
    RAISES (ValueError): If the value is none of them.
    """
    if (type(given), given) not in [(type(choice), choice) for choice in choices]:
        may_be = " or ".join(json.dumps(choice).replace('"', "'") for choice in choices)
        raise ValueError(f"{setting} of '{name}' must be {may_be}, not {given!r}.")


def check_least(name: str, setting: str, given: Any, least: int) -> None:
    """Check that a setting is a whole number and large enough.

    name (str): The component's name.
    setting (str): The setting's name.
    given (Any): The setting's value.
    least (int): The smallest valid value.
    RAISES (ValueError): If the value is smaller, or not a whole number.
    """
    if type(given) is not int or given < least:
        raise ValueError(
            f"{setting} of '{name}' must be a whole number, {least} or more, not {given}."
        )


def check_known(name: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Check that settings exist.

    name (str): The component's name.
    given (Iterable[str]): The settings that were given.
    known (Sequence[str]): The settings that exist.
    RAISES (ValueError): If one does not exist. The message suggests what was meant.
    """
    for key in given:
        if key not in known:
            raise ValueError(f"'{name}' has no setting {key!r}.{_meant(key, known)}")


def _meant(key: str, known: Sequence[str]) -> str:
    """RETURNS (str): A suggestion of what an unknown key was meant to be."""
    nearest = get_close_matches(key.lower(), known, n=1)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""


def check_call(name: str, given: Mapping[str, Any]) -> None:
    """Check that a component knows the arguments of a call.

    name (str): The component's name.
    given (Mapping[str, Any]): What a component_cfg contains that the method itself does not take.
    RAISES (ValueError): If an argument is unknown. The message suggests what was meant.
    """
    for key in given:
        if key not in OF_CALLS:
            raise ValueError(
                f"'{name}' can't be called with {key!r}.{_meant(key, OF_CALLS)} A component_cfg "
                f"may have {', '.join(OF_CALLS[:-1])} and {OF_CALLS[-1]}."
            )
