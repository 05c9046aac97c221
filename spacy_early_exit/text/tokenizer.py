"""The encoder's own tokenizer, of the ``tokenizers`` library."""

import contextlib
import json
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Literal, Sequence, Tuple

import numpy as np

from ..network.arrays import Ints

if TYPE_CHECKING:
    import tokenizers

Settings = Dict[str, Dict[str, Any]]  # of pre-tokenizers, by type

# What precedes a text.
Before = Literal["nothing", "white space", "word"]

# Settings with which pre-tokenizers mark white space before a text, or do not.
MARKED: Settings = {
    "Metaspace": {"prepend_scheme": "always"},
    "ByteLevel": {"add_prefix_space": True},
}
UNMARKED: Settings = {
    "Metaspace": {"prepend_scheme": "never"},
    "ByteLevel": {"add_prefix_space": False},
}


class WordpieceTokenizer:
    """A fast tokenizer of the ``tokenizers`` library, with truncation and padding off.

    Threads may share it: it is never changed after construction.

    serialized (str): The tokenizer as JSON, as in ``tokenizer.json``.
    RAISES (ValueError): If this is not such a tokenizer.
    """

    def __init__(self, serialized: str):
        from tokenizers import Tokenizer

        try:
            with panics_as_errors():
                tokenizer = Tokenizer.from_str(serialized)
                # Some checkpoints have either: all-MiniLM-L6-v2 truncates to 128.
                tokenizer.no_truncation()
                tokenizer.no_padding()
                probe = tokenizer.encode("a")
                marked, unmarked = (_changed(tokenizer, how) for how in (MARKED, UNMARKED))
        except Exception as e:  # the library raises bare Exceptions
            raise ValueError(f"tokenizer.json can't be read by the tokenizers library: {e}") from e
        self._tokenizer: tokenizers.Tokenizer = tokenizer
        self._after = {"white space": marked, "word": unmarked}
        inner = [i for i, special in enumerate(probe.special_tokens_mask) if not special]
        start, end = (inner[0], inner[-1] + 1) if inner else (len(probe.ids),) * 2
        self.prefix = np.array(probe.ids[:start], dtype=np.int64)
        self.suffix = np.array(probe.ids[end:], dtype=np.int64)

    def __reduce__(self) -> Tuple[Any, ...]:
        """Pickle the vocabulary once: all of its tokenizers share it."""
        return WordpieceTokenizer, (self.to_str(),)

    def __call__(self, texts: Sequence[str], before: Before = "nothing") -> List[Tuple[Ints, Ints]]:
        """Tokenize texts.

        texts (Sequence[str]): The texts.
        before (Before): What precedes them. Many encoders mark white space in their wordpieces:
            there is a mark after white space and none after a word. For ``"nothing"``, the
            tokenizer decides.
        RETURNS (List[Tuple[Ints, Ints]]): For each text, the wordpiece ids without special tokens,
            and the characters they cover. *Shapes:* ``(wordpieces,)``, ``(wordpieces, 2)``
        """
        tokenizer = self._after.get(before, self._tokenizer)
        with panics_as_errors():
            encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [
            (
                np.array(encoding.ids, dtype=np.int64),
                np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2),
            )
            for encoding in encodings
        ]

    def check_fits(self, vocab_size: int) -> None:
        """Refuse a tokenizer that is not the encoder's.

        vocab_size (int): Number of wordpieces that the encoder knows.
        RAISES (ValueError): If the tokenizer has more.
        """
        ids = [*self._tokenizer.get_vocab(with_added_tokens=True).values()]
        last = max([*ids, *self.prefix.tolist(), *self.suffix.tolist()], default=0)
        if last >= vocab_size:
            raise ValueError(
                f"The tokenizer (tokenizer.json) has wordpieces up to number {last}, but the "
                f"encoder knows only 0 to {vocab_size - 1}: they do not belong to the same model."
            )

    def to_str(self) -> str:
        """RETURNS (str): The tokenizer as JSON, as in ``tokenizer.json``."""
        serialized: str = self._tokenizer.to_str()
        return serialized


def _changed(tokenizer: "tokenizers.Tokenizer", settings: Settings) -> "tokenizers.Tokenizer":
    """RETURNS (Tokenizer): A tokenizer whose pre-tokenizers have the given settings: the same one
    if they already do; otherwise another one that shares its vocabulary in memory.

    tokenizer (Tokenizer): The tokenizer.
    settings (Settings): The settings.
    """
    from tokenizers import Tokenizer

    if tokenizer.pre_tokenizer is None:
        return tokenizer
    steps = json.loads(tokenizer.pre_tokenizer.__getstate__())
    changed = _with(steps, settings)
    if changed == steps:
        return tokenizer
    shell = {"pre_tokenizer": changed, "model": {"type": "BPE", "vocab": {}, "merges": []}}
    absent = ("truncation", "padding", "normalizer", "post_processor", "decoder")
    about = {"version": "1.0", "added_tokens": [], **dict.fromkeys(absent), **shell}
    made = Tokenizer.from_str(json.dumps(about))
    made.model = tokenizer.model
    if tokenizer.normalizer is not None:  # older versions refuse to set None
        made.normalizer = tokenizer.normalizer
    return made


def _with(step: Any, settings: Settings) -> Any:
    """RETURNS (Any): A pre-tokenizer, as JSON, with other settings. They also apply to those inside
    it.
    """
    if isinstance(step, list):
        return [_with(part, settings) for part in step]
    if isinstance(step, dict):
        inside = {name: _with(part, settings) for name, part in step.items()}
        return {**inside, **settings.get(str(step.get("type")), {})}
    return step


@contextlib.contextmanager
def panics_as_errors() -> Iterator[None]:
    """Turn panics into errors. A panic of the tokenizers library, which is written in Rust, is not
    an ``Exception``: it would pass the handlers that protect a batch from one bad text.

    RAISES (ValueError): Instead of a panic.
    """
    try:
        yield
    except BaseException as e:
        if type(e).__name__ != "PanicException":
            raise
        raise ValueError(f"the tokenizers library panicked: {e}") from e
