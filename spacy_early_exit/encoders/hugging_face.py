"""Pre-trained encoders in Hugging Face's format, read and written."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Tuple

from ..network.families import (
    EncoderSpec,
    read_spec,
    read_weights,
    write_config,
    write_weights,
)
from ..text.tokenizer import WordpieceTokenizer
from .base import EncoderSource, PretrainedEncoder

if TYPE_CHECKING:
    from torch import Tensor


WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class HFEncoder:
    """An encoder of the Hugging Face hub, or of a local folder in its format.

    name (str): Hub id or folder.
    revision (Optional[str]): Branch, tag or commit on the hub.
    """

    name: str
    revision: Optional[str] = None

    @property
    def place(self) -> str:
        """RETURNS (str): The name, with ``~`` expanded to the home folder."""
        return str(Path(self.name).expanduser()) if self.name.startswith("~") else self.name

    def load(self) -> PretrainedEncoder:
        """Load it through transformers, which is imported only here.

        RETURNS (PretrainedEncoder): The encoder.
        RAISES (ValueError): If it is missing, incomplete, damaged, of an unsupported family, or
            without a fast tokenizer. The message says which.
        """
        from transformers import AutoConfig, PretrainedConfig

        self.check_folder()
        try:
            written, _ = PretrainedConfig.get_config_dict(self.place, revision=self.revision)
            if "auto_map" in written:
                raise ValueError(
                    "its auto_map means that code which comes with the encoder computes it. Such "
                    "code is never run: there is no trust_remote_code"
                )
            config = AutoConfig.from_pretrained(
                self.place, revision=self.revision, trust_remote_code=False
            )
        except Exception as e:
            raise ValueError(self._problem("its config.json can't be loaded", e)) from e
        try:
            spec = read_spec(config.to_dict())
        except ValueError as e:
            raise ValueError(self._problem("it is not supported", e)) from e
        self._check_weights_are_there(spec)
        tokenizer = self._load_tokenizer(spec)
        if spec.is_slim:
            return PretrainedEncoder(spec, self._load_slim_weights(spec), tokenizer)
        state, missing = self._load_weights(config)
        # The pooler is not used here, and token classifiers are saved without one.
        missing = [name for name in missing if "pooler" not in name.split(".")]  # "bert.pooler.…"
        if missing:
            raise ValueError(
                self._problem(
                    f"its weights lack {len(missing)} parameters, such as '{missing[0]}': they are "
                    f"incomplete, or of another model"
                )
            )
        return PretrainedEncoder(spec, read_weights(spec, state), tokenizer)

    def _load_tokenizer(self, spec: EncoderSpec) -> str:
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(
                self.place, revision=self.revision, use_fast=True, trust_remote_code=False
            )
        except Exception as e:
            raise ValueError(self._problem("its tokenizer can't be loaded", e)) from e
        if not tokenizer.is_fast:
            raise ValueError(self._problem("it has no fast tokenizer (tokenizer.json)"))
        serialized: str = tokenizer.backend_tokenizer.to_str()
        try:
            WordpieceTokenizer(serialized).check_fits(spec.vocab_size)
        except ValueError as e:
            raise ValueError(self._problem("its tokenizer does not fit", e)) from e
        return serialized

    def _load_weights(self, config: Any) -> Tuple[Dict[str, "Tensor"], Any]:
        from transformers import AutoModel

        def load(safetensors: bool) -> Any:
            return AutoModel.from_pretrained(
                self.place,
                config=config,
                revision=self.revision,
                trust_remote_code=False,
                use_safetensors=safetensors,
                output_loading_info=True,
            )

        try:
            # the oldest transformers would silently load the other file in a folder.
            folder = Path(self.place)
            if folder.is_dir() and not any(folder.glob("*.safetensors")):
                model, info = self._older(load)
            else:
                try:
                    model, info = load(safetensors=True)
                except OSError:  # no such file
                    model, info = self._older(load)
        except Exception as e:
            raise ValueError(self._problem("its weights can't be loaded", e)) from e
        return model.float().state_dict(), info["missing_keys"]

    def _load_slim_weights(self, spec: EncoderSpec) -> Dict[str, "Tensor"]:
        """RETURNS (Dict[str, Tensor]): The parameters of a slim encoder, by our names. The classes
        of transformers have the same size in all layers.
        """
        from safetensors.torch import load_file
        from transformers.utils import cached_file

        from ..network.slimming import check_shapes

        try:
            file = cached_file(self.place, WEIGHTS, revision=self.revision)
            weights = read_weights(spec, _without_prefix(load_file(file)))
            check_shapes(spec, weights)
        except Exception as e:
            raise ValueError(self._problem("its weights can't be loaded", e)) from e
        return {name: weight.float() for name, weight in weights.items()}

    def _older(self, load: Callable[[bool], Any]) -> Any:
        import torch
        from torch.torch_version import TorchVersion

        # CVE-2025-32434: weights_only=True was not safe before.
        if TorchVersion(torch.__version__) < TorchVersion("2.6"):
            raise ValueError(
                f"it has no safetensors file, and torch {torch.__version__} could run code hidden "
                f"in its older PyTorch file. Install torch 2.6 or later"
            )
        found = load(False)
        warnings.warn(
            f"The encoder {self.name!r} has no safetensors file: its older PyTorch file "
            f"was read with weights_only=True, so that no code in it could run.",
            stacklevel=3,
        )
        return found

    def check_folder(self) -> None:
        """RAISES (ValueError): If the name is a folder's and the folder has no encoder."""
        path = Path(self.place)
        if path.is_dir():
            if not (path / "config.json").is_file():
                raise ValueError(self._problem("the folder has no config.json"))
        elif looks_like_folder(self.name):
            raise ValueError(self._problem("there is no such folder"))

    def _check_weights_are_there(self, spec: EncoderSpec) -> None:
        """RAISES (ValueError): If a folder's weights have too few bytes for an encoder of these
        sizes. This is checked before any memory is allocated.
        """
        import torch

        from ..network.encoder import Encoder

        files = [p for p in Path(self.place).glob("*") if p.suffix in (".safetensors", ".bin")]
        if not files:  # not a folder, or another error says so
            return
        with torch.device("meta"):
            wanted = sum(parameter.numel() for parameter in Encoder(spec).parameters())
        found = sum(path.stat().st_size for path in files)
        if wanted > found:
            raise ValueError(
                self._problem(
                    f"its config.json describes {wanted:,} parameters, but its weights have only "
                    f"{found:,} bytes"
                )
            )

    def _problem(self, what: str, cause: Optional[Exception] = None) -> str:
        because = f" ({type(cause).__name__}: {cause})" if cause is not None else ""
        return (
            f"Can't load the encoder {self.name!r}: {what}{because}. "
            f"In [components.NAME.model.encoder], name must be a hub id, or a folder with "
            f"config.json, tokenizer.json and model.safetensors."
        )


def _without_prefix(checkpoint: Dict[str, "Tensor"]) -> Dict[str, "Tensor"]:
    """RETURNS (Dict[str, Tensor]): The parameters of a checkpoint. If it is a classifier, they are
    those of its encoder, named without its prefix, such as ``bert.``.
    """
    embedding = next((name for name in checkpoint if ".embeddings." in name), "")
    prefix = embedding[: embedding.find("embeddings.")] if embedding else ""
    names = [name for name in checkpoint if name.startswith(prefix)]
    return {name.removeprefix(prefix): checkpoint[name] for name in names}


def looks_like_folder(name: str) -> bool:
    """RETURNS (bool): Whether a name can't be a hub id: it is a path, or begins with an existing
    folder. If it is missing, it must not be looked up on the hub.
    """
    is_path = name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1
    return is_path or ("/" in name and Path(name.split("/")[0]).is_dir())


def write_encoder(encoder: PretrainedEncoder, folder: Path) -> None:
    """Write an encoder to a folder, from which ``HFEncoder`` loads it.

    encoder (PretrainedEncoder): The encoder.
    folder (Path): The folder. It is created if needed.
    """
    from safetensors.torch import save_file

    config = write_config(encoder.spec)
    # transformers' own classes would replace what the tokenizer does with capitals, for example.
    about_tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast"}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("config.json", json.dumps(config, indent=2)),
        ("tokenizer_config.json", json.dumps(about_tokenizer, indent=2)),
        ("tokenizer.json", encoder.tokenizer),
    ):
        (folder / name).write_text(text + "\n", encoding="utf8")
    save_file(write_weights(encoder.spec, encoder.weights), folder / WEIGHTS, {"format": "pt"})


def make_hf_encoder(name: str, revision: Optional[str] = None) -> EncoderSource:
    """Make the source ``spacy-early-exit.HFEncoder.v1``. Nothing is loaded yet.

    name (str): Hub id or folder.
    revision (Optional[str]): Branch, tag or commit on the hub.
    RETURNS (EncoderSource): The source.
    """
    return HFEncoder(name, revision)
