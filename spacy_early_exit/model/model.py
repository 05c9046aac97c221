"""The thinc model: Docs in, exit logits out."""

import inspect
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, TypeAlias

from spacy.tokens import Doc
from thinc.api import Model, PyTorchGradScaler
from thinc.util import get_torch_default_device

from ..encoders.base import EncoderSource
from ..encoders.shared import SharedEncoder
from ..files.network import Trained
from ..network.exit_network import MAX_HEAD_WINDOW, ExitNetwork
from ..retired import reads_retired
from ..runtime.forks import ready_for_torch
from ..runtime.memory import release_freed_memory_now_and_then
from ..runtime.torch_state import usual_dtype, usual_torch
from ..settings import RunSettings
from ..text.tokenizer import WordpieceTokenizer
from ..text.windows import SharedWordpieces
from .borrowed import BorrowedShim
from .learn import begin_update
from .learn_shared import begin_shared_update
from .predict import predict
from .predict_shared import predict_shared
from .shim import TaggerShim, shim_of

Input = Tuple[Sequence[Doc], RunSettings]

TaggerModel: TypeAlias = "Model[Any, Any]"


@reads_retired("EarlyExitTagger")
def build_tagger_model(
    encoder: EncoderSource,
    head_lr_factor: float = 5.0,
    freeze_encoder: bool = False,
    freeze_full_depth: bool = False,
    mixed_precision: bool = False,
    shared_wordpieces: SharedWordpieces = "split",
    grad_scaler_config: Optional[Dict[str, Any]] = None,
    head_window: int = 1,
    exit_layers: Optional[List[int]] = None,
) -> TaggerModel:
    """Build ``spacy-early-exit.EarlyExitTagger.v3``. Cheap: the encoder comes at initialize.

    Its input is a list of Docs (full depth), or a pair of Docs and RunSettings. Its output is a
    DocExits for each Doc when predicting, and JointLogits when training.

    encoder (EncoderSource): Where the pre-trained encoder comes from.
    head_lr_factor (float): How many times faster the exit heads learn than the encoder, whose
        rate is the optimizer's own.
    freeze_encoder (bool): Whether to train the heads alone.
    freeze_full_depth (bool): Whether to train the earlier heads alone: the encoder and the deepest
        head stay as they are.
    mixed_precision (bool): Whether products are computed in bfloat16 while training. Weights and
        prediction stay in fp32.
    shared_wordpieces (SharedWordpieces): What becomes of words that would share a wordpiece: they
        are tokenized one by one (``"split"``), or they share it and get the same logits
        (``"keep"``).
    grad_scaler_config (Optional[Dict[str, Any]]): If given, mixed precision is fp16, for GPUs
        without bfloat16, and gradients are scaled. ``init_scale``, ``backoff_factor``,
        ``growth_factor`` and ``growth_interval`` are those of thinc's PyTorchGradScaler; ``{}``:
        its defaults. None: no gradient is scaled.
    head_window (int): How many words on each side the exit heads see, with the states that these
        have by then. The deepest head, and so full depth, sees the word alone.
    exit_layers (Optional[List[int]]): The layers, counted from 1, after which words may exit: only
        these, and the last one, have a head. None: all.
    RETURNS (TaggerModel): The model, without weights yet.
    RAISES (ValueError): If an argument makes no sense.
    """
    if not head_lr_factor > 0:
        raise ValueError(f"EarlyExitTagger: head_lr_factor must be above 0, not {head_lr_factor}.")
    if shared_wordpieces not in ("split", "keep"):
        raise ValueError(
            f"EarlyExitTagger: shared_wordpieces must be 'split' or 'keep', not "
            f"{shared_wordpieces!r}."
        )
    if type(head_window) is not int or not 0 <= head_window <= MAX_HEAD_WINDOW:
        raise ValueError(
            f"EarlyExitTagger: head_window must be a whole number from 0 to {MAX_HEAD_WINDOW}, not "
            f"{head_window!r}."
        )
    if exit_layers is not None and (
        wrong := [n for n in exit_layers if type(n) is not int or n < 1]
    ):
        raise ValueError(
            f"EarlyExitTagger: exit_layers must be numbers of layers, counted from 1, not "
            f"{wrong[0]!r}. For heads after all layers, set exit_layers = null."
        )
    if isinstance(encoder, SharedEncoder) and grad_scaler_config is not None:
        raise ValueError(
            f"EarlyExitTagger: gradients are scaled where they reach the encoder, which is that of "
            f"'{encoder.component}'. Set grad_scaler_config there alone."
        )
    kind = BorrowedShim if isinstance(encoder, SharedEncoder) else TaggerShim
    shim = kind(
        encoder,
        float(head_lr_factor),
        bool(freeze_encoder),
        bool(freeze_full_depth),
        bool(mixed_precision),
        shared_wordpieces,
        _scaler(mixed_precision, grad_scaler_config),
        head_window,
        exit_layers,
    )
    return Model(
        "early_exit_tagger",
        forward,
        init=init,
        dims={"nO": None},
        attrs={"dropout_rate": 0.0},
        shims=[shim],
    )


@reads_retired("EarlyExitTagger")
def build_tagger_model_v2(
    encoder: EncoderSource,
    head_lr_factor: float = 5.0,
    freeze_encoder: bool = False,
    freeze_full_depth: bool = False,
    mixed_precision: bool = False,
    shared_wordpieces: SharedWordpieces = "split",
    grad_scaler_config: Optional[Dict[str, Any]] = None,
) -> TaggerModel:
    """Build ``spacy-early-exit.EarlyExitTagger.v2``, for pipelines saved before ``head_window``
    existed. It is the same as ``build_tagger_model``, but its heads see their own word alone.
    """
    return build_tagger_model(
        encoder,
        head_lr_factor,
        freeze_encoder,
        freeze_full_depth,
        mixed_precision,
        shared_wordpieces,
        grad_scaler_config,
        head_window=0,
    )


@reads_retired("EarlyExitTagger")
def build_tagger_model_v1(
    encoder: EncoderSource,
    head_lr_factor: float = 5.0,
    freeze_encoder: bool = False,
    freeze_full_depth: bool = False,
    mixed_precision: bool = False,
    shared_wordpieces: SharedWordpieces = "keep",
    grad_scaler_config: Optional[Dict[str, Any]] = None,
) -> TaggerModel:
    """Build ``spacy-early-exit.EarlyExitTagger.v1``, for pipelines saved before
    ``shared_wordpieces`` existed. It is the same as ``build_tagger_model_v2``, except that words
    share wordpieces by default.
    """
    return build_tagger_model_v2(
        encoder,
        head_lr_factor,
        freeze_encoder,
        freeze_full_depth,
        mixed_precision,
        shared_wordpieces,
        grad_scaler_config,
    )


def _scaler(mixed: bool, config: Optional[Dict[str, Any]]) -> Optional[PyTorchGradScaler]:
    """RETURNS (Optional[PyTorchGradScaler]): What scales gradients; None: nothing.

    mixed (bool): Whether training is in mixed precision.
    config (Optional[Dict[str, Any]]): Its settings.
    RAISES (ValueError): If it has no such settings. The message names those that it has.
    """
    if config is None or not config.get("enabled", mixed):
        return None
    if not mixed:
        raise ValueError(
            "EarlyExitTagger: grad_scaler_config is for mixed precision: set mixed_precision = "
            "true, or grad_scaler_config = null."
        )
    try:
        return PyTorchGradScaler(**{"enabled": True, **config})
    except TypeError as e:
        known = list(inspect.signature(PyTorchGradScaler).parameters)
        wrong = [name for name in config if name not in known]
        raise ValueError(
            f"EarlyExitTagger: grad_scaler_config may have {', '.join(known)}, not "
            f"{', '.join(wrong)}."
            if wrong
            else f"EarlyExitTagger: grad_scaler_config can't be {config}: {e}"
        ) from e


def forward(model: TaggerModel, X: Any, is_train: bool) -> Tuple[Any, Callable[[Any], Any]]:
    """Run the model.

    model (TaggerModel): The model.
    X (Any): Docs, or a pair of Docs and RunSettings.
    is_train (bool): Whether the logits of all heads and a gradient are wanted.
    RETURNS (Tuple[Any, Callable]): A DocExits for each Doc, or JointLogits when training; and the
        callback that takes the gradient with respect to the latter's logits and to the decoder's
        learnt parameters.
    """
    shim = shim_of(model)
    here = RunSettings(shared_wordpieces=shim.shared_wordpieces)
    docs, settings = X if isinstance(X, tuple) else (X, here)
    docs = list(docs)
    if is_train:
        ready_for_torch()
        with usual_torch():
            begin = begin_shared_update if settings.readers else begin_update
            return begin(shim, docs, settings, model.attrs["dropout_rate"])
    trained = shim.prepare_for(settings.predicts_in, settings.device)
    run = predict_shared if settings.readers else predict
    predicted = run(trained, docs, settings)
    release_freed_memory_now_and_then()
    return predicted, lambda gradient: docs


@usual_torch()
def init(model: TaggerModel, X: Any = None, Y: Any = None) -> None:
    """Fetch the encoder, unless it is shared, and draw the heads. The number of tags is the model's
    ``nO``.
    """
    shim = shim_of(model)
    if isinstance(shim, BorrowedShim):
        shim.make_heads(model.get_dim("nO"))
        return
    with usual_dtype():
        loaded = shim.encoder.load()
    network = ExitNetwork(loaded.spec, model.get_dim("nO"), shim.head_window, shim.exit_layers)
    network.encoder.load_state_dict(loaded.weights)
    network.init_heads()
    shim.set(Trained(network.to(get_torch_default_device()), WordpieceTokenizer(loaded.tokenizer)))
