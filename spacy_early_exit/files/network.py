"""How a trained network is saved: a few plain files without code.

network.json           format version, sizes of the encoder, number of tags, checksums of all files
tokenizer.json         the tokenizer, in the format of the tokenizers library
weights.safetensors    the parameters
original.safetensors   if another network answers at full depth: those of its that are not the same
"""

import contextlib
import copy
import os
from pathlib import Path
from typing import (
    Any,
    BinaryIO,
    Callable,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    cast,
)

import torch
from torch import Tensor, nn

from ..network.exit_network import MAX_HEAD_WINDOW, ExitNetwork
from ..network.families import EncoderSpec, check_sizes
from ..network.gates import add_gates
from ..runtime.torch_state import usual_torch
from ..text.tokenizer import WordpieceTokenizer
from .integrity import MAX_NETWORK_BYTES, check_size, checksum, seal, unseal
from .tensors import Stream, read_tensors

NETWORK, TOKENIZER, WEIGHTS = "network.json", "tokenizer.json", "weights.safetensors"
ORIGINAL = "original.safetensors"
FILES = (NETWORK, TOKENIZER, WEIGHTS, ORIGINAL)

# Maximum numbers of bytes. The largest tokenizer of a supported family has 250,000 wordpieces in 20
# million.
MAX_TOKENIZER_BYTES = 2**28
MAX_SETTINGS_BYTES, MAX_WORDPIECE_BYTES = 2**22, 2**8
# The parameters of decoders and criteria come on top of the sizes in network.json.
MAX_LEARNED_BYTES = 2**26

# A container's memory limit, on Linux.
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

# Opens a file, if it has no more than a number of bytes, and tells how many it has. It raises
# OSError or KeyError if the file is missing, and ValueError if it is larger.
Open = Callable[[str, int], Tuple[BinaryIO, int]]


class Trained(NamedTuple):
    """A network and the tokenizer of its encoder.

    network (ExitNetwork): The network.
    tokenizer (WordpieceTokenizer): The tokenizer.
    original (Optional[ExitNetwork]): The network that answers at full depth, if it is another one.
    borrowed (Optional[str]): If the encoder is another component's, the checksum of the encoder
        that the heads belong to; empty once they are over it. None: the encoder is its own. As read
        from files, a borrowed encoder has no weights, and there is no tokenizer.
    again (Optional[Callable]): Reads the same from its files once more. None: it may have no files.
    """

    network: ExitNetwork
    tokenizer: WordpieceTokenizer
    original: Optional[ExitNetwork] = None
    borrowed: Optional[str] = None
    again: "Optional[Callable[[], Trained]]" = None

    @property
    def networks(self) -> List[ExitNetwork]:
        """RETURNS (List[ExitNetwork]): The network, and the one for full depth if it is another."""
        return [self.network] if self.original is None else [self.network, self.original]

    @property
    def full_depth(self) -> ExitNetwork:
        """RETURNS (ExitNetwork): The network that answers at full depth."""
        return self.networks[-1]

    def check_heads(
        self, name: str, head_window: int, exit_layers: Optional[Sequence[int]]
    ) -> None:
        """Check that the heads are what the model's are to be.

        name (str): The component's name.
        head_window (int): How many words on each side they are to see.
        exit_layers (Optional[Sequence[int]]): The layers that are to have one, besides the last;
            None: all.
        RAISES (ValueError): If they see more or fewer words, or are elsewhere. The message says
            what to set.
        """
        there, last = self.network.exit_layers, self.network.spec.layers
        wanted_there = range(1, last + 1) if exit_layers is None else {*exit_layers, last}
        if {*wanted_there} != {*there}:
            wanted = "all layers" if exit_layers is None else f"layers {sorted(wanted_there)}"
            suitable = [*there] if _lacks_heads(self.network) else "null"
            raise ValueError(
                f"'{name}' is to have exit heads after {wanted}, but these weights have them after "
                f"layers {[*there]}. Use EarlyExitTagger.v3 with exit_layers = {suitable} in "
                f"[components.{name}.model], or train from a pre-trained encoder."
            )
        found = self.network.head_window
        if found != head_window:
            raise ValueError(
                f"The exit heads of '{name}' are to see {head_window} neighbouring words on each "
                f"side, but these weights were trained to see {found}. Use "
                f"EarlyExitTagger.v3 with head_window = {found} in [components.{name}.model], or "
                f"train from a pre-trained encoder."
            )

    def check_window_length(self, window_length: Optional[int]) -> None:
        """Check that windows fit the encoder.

        window_length (Optional[int]): Maximum number of wordpieces in a window; None: as many as
            possible.
        RAISES (ValueError): If they don't fit. The message says what would.
        """
        if self.borrowed:  # its windows are the lender's
            return
        most = self.network.spec.max_wordpieces
        specials = len(self.tokenizer.prefix) + len(self.tokenizer.suffix)
        if not specials < (window_length or most) <= most:
            raise ValueError(
                f"window_length must be {specials + 1} to {most} wordpieces for this encoder, "
                f"not {window_length or most}."
            )


@usual_torch()
def to_files(trained: Trained) -> Dict[str, bytes]:
    """Serialize a network.

    trained (Trained): The network.
    RETURNS (Dict[str, bytes]): The content of each file.
    RAISES (ValueError): If a file would be too large to be read again. The message names it.
    """
    from safetensors.torch import save

    network, tokenizer, original, borrowed, _ = trained
    own = network if borrowed is None else without_encoder(network)
    weights = {name: tensor.contiguous() for name, tensor in own.state_dict().items()}
    files = {WEIGHTS: save(weights)}
    if borrowed is None:
        files[TOKENIZER] = tokenizer.to_str().encode("utf8")
    for name, most in _most_of(network).items():
        try:
            check_size(len(files.get(name, b"")), most)
        except ValueError as e:
            raise ValueError(f"The file {name} can't be saved: {e}.") from e
    if original is not None:
        others = original.state_dict().items()
        differ = {name: tensor for name, tensor in others if not torch.equal(tensor, weights[name])}
        files[ORIGINAL] = save({name: tensor.contiguous() for name, tensor in differ.items()})
    about = {
        "encoder": network.spec.to_dict(),
        "tags": network.tags,
        **({"head_window": network.head_window} if network.head_window else {}),
        **({"exit_layers": network.exit_layers} if _lacks_heads(network) else {}),
        "original": original is not None,
        **({} if borrowed is None else {"borrowed": borrowed}),
        "files": {name: checksum(data) for name, data in files.items()},
    }
    return {NETWORK: seal(about), **files}


@usual_torch()
def from_files(files: Open, place: str, device: torch.device) -> Trained:
    """Rebuild what was saved.

    files (Open): Opens a file.
    place (str): Where the files are, for error messages.
    device (torch.device): The device of the network.
    RETURNS (Trained): Network and tokenizer.
    RAISES (ValueError): If a file is missing, damaged, larger than it can be, or has a later
        format. The message names it.
    """
    about = _part(files, place, NETWORK, MAX_NETWORK_BYTES, _read_about)
    saved = about.files
    most = _most_of(about.network)
    weights = _part(files, place, WEIGHTS, most[WEIGHTS], read_tensors, saved)
    if about.borrowed is not None:
        network = _filled(about.network, weights, place, WEIGHTS, encoder=False)
        move_heads(network, device)
        return Trained(network, cast(WordpieceTokenizer, None), borrowed=about.borrowed)
    tokenizer = _part(files, place, TOKENIZER, most[TOKENIZER], _read_tokenizer, saved)
    original = None
    if about.has_original:
        own = _part(files, place, ORIGINAL, most[WEIGHTS], read_tensors, saved)
        original = copy.deepcopy(about.network)
        original = _filled(original, {**weights, **own}, place, ORIGINAL).to(device)
    network = _filled(about.network, weights, place, WEIGHTS)
    tokenizer.check_fits(network.spec.vocab_size)
    return Trained(network.to(device), tokenizer, original)


def _lacks_heads(network: ExitNetwork) -> bool:
    return len(network.exit_layers) < network.spec.layers


def without_encoder(network: ExitNetwork) -> nn.ModuleDict:
    """RETURNS (ModuleDict): What a network has besides its encoder, by the same names."""
    parts = {name: part for name, part in network.named_children() if name != "encoder"}
    return nn.ModuleDict(parts)


def move_heads(network: ExitNetwork, device: torch.device) -> None:
    """Move what a network has besides its encoder.

    network (ExitNetwork): The network, changed in place.
    device (torch.device): Where to.
    """
    without_encoder(network).to(device)


def _filled(
    network: ExitNetwork,
    weights: Mapping[str, Tensor],
    place: str,
    file: str,
    encoder: bool = True,
) -> ExitNetwork:
    try:
        with torch.device("meta"):
            if any(name.endswith(".gate") for name in weights):  # it was saved while searching
                add_gates(network)
            network.make_room_for(_like(weights, "decoder."), _like(weights, "criterion."))
    except KeyError as e:  # not every name is valid for a parameter
        raise ValueError(f"The file {file} in {place} is damaged: a name is invalid ({e}).") from e
    own = network if encoder else without_encoder(network)
    wanted = {name: tuple(tensor.shape) for name, tensor in own.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in wanted:
        if name.startswith("decoder."):  # all its axes are tags
            wanted[name] = (network.tags,) * len(found[name])
    if wanted != found:
        wrong = sorted(set(wanted.items()) ^ set(found.items()))[0][0]
        raise ValueError(
            f"The file {file} in {place} does not match {NETWORK}: '{wrong}' has shape "
            f"{found.get(wrong)} instead of {wanted.get(wrong)}."
        )
    own.load_state_dict(weights, assign=True)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    return network


def _like(weights: Mapping[str, Tensor], prefix: str) -> Dict[str, Tensor]:
    """RETURNS (Dict[str, Tensor]): Empty tensors with the shapes of those below a prefix."""
    return {
        name.removeprefix(prefix): torch.empty(weight.shape)
        for name, weight in weights.items()
        if name.startswith(prefix)
    }


def write(trained: Trained, folder: Path) -> None:
    """Write the files.

    trained (Trained): What to save.
    folder (Path): The folder, made if need be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in to_files(trained).items():
        (folder / name).write_bytes(data)


class _About(NamedTuple):
    """The content of ``network.json``.

    network (ExitNetwork): The network, still without weights: it takes no memory.
    files (Mapping[str, str]): Checksums of the other files; empty if it was saved before checksums
        existed.
    has_original (bool): Whether another network answers at full depth.
    borrowed (Optional[str]): The checksum of the encoder, if it is another component's.
    """

    network: ExitNetwork
    files: Mapping[str, str]
    has_original: bool
    borrowed: Optional[str]


def _part(
    files: Open,
    place: str,
    name: str,
    most: int,
    parse: Callable[[Stream, int], Any],
    saved: Optional[Mapping[str, str]] = None,
) -> Any:
    try:
        file, size = files(name, most)
    except (OSError, KeyError) as e:
        raise ValueError(f"The file {name} is missing in {place}: {e}") from e
    except ValueError as e:
        raise _unreadable(name, place, e) from e
    with file:
        try:
            return _parsed(Stream(file), size, parse, (saved or {}).get(name))
        except Exception as e:
            raise _unreadable(name, place, e) from e


def _parsed(
    stream: Stream, size: int, parse: Callable[[Stream, int], Any], saved: Optional[str]
) -> Any:
    content, problem = None, None
    try:
        content = parse(stream, size)
    except Exception as e:
        problem = e
    if saved and saved != stream.checksum():
        raise ValueError(
            f"it is not what was saved: its checksum differs from that in {NETWORK}"
        ) from problem
    if problem is not None:
        raise problem
    return content


def _unreadable(name: str, place: str, error: Exception) -> ValueError:
    return ValueError(
        f"The file {name} in {place} can't be read. It is damaged, or was not written by "
        f"spacy-early-exit ({type(error).__name__}: {error})."
    )


def _read_about(stream: Stream, size: int) -> _About:
    about = unseal(stream.read())
    spec, tags = EncoderSpec.from_dict(about["encoder"]), about["tags"]
    check_sizes(spec, tags)
    head_window = about.get("head_window", 0)
    if type(head_window) is not int or not 0 <= head_window <= MAX_HEAD_WINDOW:
        raise ValueError(
            f"head_window must be a whole number from 0 to {MAX_HEAD_WINDOW}, not {head_window!r}"
        )
    exit_layers = about.get("exit_layers")
    is_list = isinstance(exit_layers, list) and all(type(layer) is int for layer in exit_layers)
    if exit_layers is not None and not is_list:
        raise ValueError(f"exit_layers must be a list of numbers, not {exit_layers!r}")
    with torch.device("meta"):  # no memory, no random numbers: the weights follow
        network = ExitNetwork(spec, tags, head_window, exit_layers)
    has_original = about.get("original", False)
    if type(has_original) is not bool:
        raise ValueError(f"original must be true or false, not {has_original!r}")
    borrowed = about.get("borrowed")
    if not (borrowed is None or (isinstance(borrowed, str) and borrowed)):
        raise ValueError(f"borrowed must be a checksum, not {borrowed!r}")
    _check_memory(_size_of(network) * (2 if has_original else 1))
    return _About(network, about.get("files", {}), has_original, borrowed)


def _read_tokenizer(stream: Stream, size: int) -> WordpieceTokenizer:
    return WordpieceTokenizer(stream.read().decode("utf8"))


def _most_of(network: ExitNetwork) -> Dict[str, int]:
    """RETURNS (Dict[str, int]): Maximum number of bytes of each file of a network."""
    tokenizer = MAX_SETTINGS_BYTES + MAX_WORDPIECE_BYTES * network.spec.vocab_size
    return {
        TOKENIZER: min(MAX_TOKENIZER_BYTES, tokenizer),
        WEIGHTS: _size_of(network) + MAX_LEARNED_BYTES,
    }


def _size_of(network: ExitNetwork) -> int:
    """RETURNS (int): Bytes that its weights take, except the parameters of decoder and criterion:
    the result is the same before those are known.
    """
    return sum(
        tensor.numel() * 4
        for name, tensor in network.state_dict().items()
        if not name.startswith(("decoder.", "criterion."))
    )


def _check_memory(needed: int) -> None:
    if not hasattr(os, "sysconf"):  # Windows
        return
    there_is = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
            there_is = min(there_is, int(Path(file).read_text()))
    if needed > there_is:
        raise ValueError(
            f"reading the network that it describes takes {needed:,} bytes of memory, but this "
            f"machine or its container has {there_is:,}"
        )
