"""How a trained network is kept: a few plain files, no code in any of them.

network.json           format version, sizes of the encoder, number of tags
tokenizer.json         the tokenizer, in the format of the tokenizers library
weights.safetensors    the parameters
original.safetensors   if another network answers at full depth: those of its that are not the same
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import torch
from torch import Tensor

from .network.families import EncoderSpec
from .network.tagger import Tagger
from .wordpieces import WordpieceTokenizer

FORMAT_VERSION = 1
NETWORK, TOKENIZER, WEIGHTS = "network.json", "tokenizer.json", "weights.safetensors"
ORIGINAL = "original.safetensors"


class Trained(NamedTuple):
    """A network and the tokenizer of its encoder.

    network (Tagger): The network.
    tokenizer (WordpieceTokenizer): The tokenizer.
    original (Optional[Tagger]): What answers at full depth, where that is another network.
    """

    network: Tagger
    tokenizer: WordpieceTokenizer
    original: Optional[Tagger] = None

    @property
    def networks(self) -> List[Tagger]:
        """RETURNS (List[Tagger]): The network, and that of full depth if it is another."""
        return [self.network] if self.original is None else [self.network, self.original]

    @property
    def full_depth(self) -> Tagger:
        """RETURNS (Tagger): What answers at full depth."""
        return self.networks[-1]


def to_files(trained: Trained) -> Dict[str, bytes]:
    """RETURNS (Dict[str, bytes]): The content of each file."""
    from safetensors.torch import save

    network, tokenizer, original = trained
    about = {
        "format_version": FORMAT_VERSION,
        "encoder": dataclasses.asdict(network.spec),
        "tags": network.tags,
        "original": original is not None,
    }
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    files = {
        NETWORK: json.dumps(about, indent=2).encode("utf8"),
        TOKENIZER: tokenizer.to_str().encode("utf8"),
        WEIGHTS: save(weights),
    }
    if original is not None:
        others = original.state_dict().items()
        own = {name: tensor for name, tensor in others if not torch.equal(tensor, weights[name])}
        files[ORIGINAL] = save({name: tensor.contiguous() for name, tensor in own.items()})
    return files


def from_files(read: Callable[[str], bytes], place: str, device: torch.device) -> Trained:
    """Rebuild what was kept.

    read (Callable[[str], bytes]): Gives the content of a file, or raises OSError or KeyError.
    place (str): Where the files are, for error messages.
    device (torch.device): Where the network shall lie.
    RETURNS (Trained): Network and tokenizer.
    RAISES (ValueError): If a file is missing, damaged, or of a later format. The message
        names it.
    """
    about = _part(read, place, NETWORK, _read_about)
    tokenizer = _part(read, place, TOKENIZER, lambda data: WordpieceTokenizer(data.decode("utf8")))
    weights = _part(read, place, WEIGHTS, _read_weights)
    network, original = _rebuild(about, weights, place, WEIGHTS), None
    tokenizer.check_fits(network.spec.vocab_size)
    if about["original"]:
        own = _part(read, place, ORIGINAL, _read_weights)
        original = _rebuild(about, {**weights, **own}, place, ORIGINAL).to(device)
    return Trained(network.to(device), tokenizer, original)


def _rebuild(about: Dict[str, Any], weights: Dict[str, Tensor], place: str, file: str) -> Tagger:
    with torch.device("meta"):  # no memory, no random numbers: the weights follow
        network = Tagger(about["encoder"], about["tags"])
        network.set_learned(
            decoder={
                name: torch.empty([about["tags"]] * weight.dim())
                for name, weight in _below("decoder.", weights).items()
            },
            criterion={
                name: torch.empty(weight.shape)
                for name, weight in _below("criterion.", weights).items()
            },
        )
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if wanted != found:
        wrong = sorted(set(wanted.items()) ^ set(found.items()))[0][0]
        raise ValueError(
            f"The file {file} in {place} does not fit {NETWORK} beside it: '{wrong}' has "
            f"shape {found.get(wrong)}, and should have {wanted.get(wrong)}."
        )
    network.load_state_dict(weights, assign=True)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    return network


def _below(prefix: str, weights: Dict[str, Tensor]) -> Dict[str, Tensor]:
    return {
        name.removeprefix(prefix): weight
        for name, weight in weights.items()
        if name.startswith(prefix)
    }


def write(trained: Trained, folder: Path) -> None:
    """Write the files.

    trained (Trained): What to keep.
    folder (Path): The folder, made if need be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in to_files(trained).items():
        (folder / name).write_bytes(data)


def _part(
    read: Callable[[str], bytes], place: str, name: str, parse: Callable[[bytes], Any]
) -> Any:
    try:
        data = read(name)
    except (OSError, KeyError) as e:
        raise ValueError(f"The file {name} is missing in {place}: {e}") from e
    try:
        return parse(data)
    except Exception as e:
        raise ValueError(
            f"The file {name} in {place} can't be read. It is damaged, or was not written by "
            f"spacy-early-exit ({type(e).__name__}: {e})."
        ) from e


def _read_about(data: bytes) -> Dict[str, Any]:
    about = json.loads(data)
    version = about["format_version"]
    if version != FORMAT_VERSION:
        raise ValueError(
            f"its format version is {version}, this spacy-early-exit reads {FORMAT_VERSION}: "
            f"was it saved by a later one?"
        )
    return {
        "encoder": EncoderSpec(**about["encoder"]),
        "tags": int(about["tags"]),
        "original": bool(about.get("original", False)),
    }


def _read_weights(data: bytes) -> Dict[str, Tensor]:
    from safetensors.torch import load

    return load(data)
