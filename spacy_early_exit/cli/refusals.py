"""Errors that users can fix are reported in one line. Those that we have to fix stay tracebacks."""

from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Iterator, Optional, Type

from thinc.config import ConfigValidationError
from typer.core import TyperGroup
from wasabi import msg

from ..corpora import CorpusError

PACKAGE = __name__.partition(".")[0]


class Refused(Exception):
    """A command refuses its arguments.

    title (str): What is wrong.
    text (str): Why, or what would be right.
    """

    def __init__(self, title: str, text: str = ""):
        super().__init__(title, text)
        self.title, self.text = title, text


class Commands(TyperGroup):
    """A group of commands that end with a message if they refuse something."""

    def invoke(self, ctx: Any) -> Any:
        """RETURNS (Any): What the command returns, unless it refuses."""
        try:
            return super().invoke(ctx)
        except Refused as e:
            msg.fail(in_a_line(e.title), in_a_line(e.text), exits=1)
        except CorpusError as e:
            msg.fail(in_a_line(str(e)), exits=1)


@contextmanager
def refusing(
    *kinds: Type[Exception], title: str = "", others_errors: bool = False
) -> Iterator[None]:
    """Treat errors as faults in a command's arguments.

    *kinds (Type[Exception]): The kinds of errors whose messages are meant for the user.
    title (str): What can't be done because of them. If it is not given, their message says so.
    others_errors (bool): Whether any error counts that arises in other packages, which raise all
        kinds on damaged files. An error is still ours if that code was calling ours.
    """
    try:
        yield
    except Exception as e:
        if not isinstance(e, kinds) and not (others_errors and of_others(e.__traceback__)):
            raise
        plain = isinstance(e, (OSError, *kinds)) and str(e)
        why = _message(e) if plain else f"{type(e).__name__}: {_message(e)}"
        raise Refused(title or why, why if title else "") from e


@contextmanager
def writing(path: Path, *kinds: Type[Exception]) -> Iterator[None]:
    """Report what is wrong if results can't be written.

    path (Path): Where they go.
    *kinds (Type[Exception]): Errors that may say why, in addition to OSError.
    """
    with refusing(OSError, *kinds, title=f"{path} can't be written."):
        yield


def _message(error: Exception) -> str:
    """RETURNS (str): What an error says, without the config block that it repeats."""
    if isinstance(error, ConfigValidationError):
        return str(ConfigValidationError.from_error(error, show_config=False))
    return str(error)


def of_others(traceback: Optional[TracebackType]) -> bool:
    """RETURNS (bool): Whether an error comes from other packages' code that did not call ours."""
    ours = []
    while traceback is not None:
        module = traceback.tb_frame.f_globals.get("__name__", "")
        ours.append(module.partition(".")[0] == PACKAGE)
        traceback = traceback.tb_next
    return False in ours and True not in ours[ours.index(False) :]


def in_a_line(text: str) -> str:
    """RETURNS (str): A message of several lines, such as some of spaCy's, on one line."""
    return " ".join(text.split())
