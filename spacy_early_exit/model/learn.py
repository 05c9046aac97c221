"""Learning: the logits of all heads for Docs, and backpropagation."""

import warnings
from typing import Any, Callable, List, Optional, Sequence, Tuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from spacy.tokens import Doc
from thinc.api import Model, PyTorchGradScaler, torch2xp, xp2torch
from thinc.compat import has_cupy
from torch import Tensor

from ..criteria.entropy import TokenExit
from ..network.batch import Batch
from ..network.exit_network import ExitNetwork
from ..network.layers.linear import multiplies_bfloat16
from ..network.window import Window
from ..runtime.forks import ready_for_torch
from ..runtime.memory import release_freed_memory
from ..runtime.torch_state import usual_torch
from ..settings import RunSettings
from ..text.windows import batches
from ..training.base import Answers, Gradient, JointLogits, Places, SelfTraining
from ..training.joint import JointTraining
from .predict import windows_for
from .shim import TaggerShim, shim_of


def measure_heads(model: "Model[Any, Any]", docs: List[Doc], settings: RunSettings) -> JointLogits:
    """Get the logits of every head for every word, at full depth.

    model (Model): The model.
    docs (List[Doc]): The docs.
    settings (RunSettings): How to run the model.
    RETURNS (JointLogits): The logits of all heads.
    """
    ready_for_torch()
    with usual_torch(), torch.no_grad():
        return begin_update(shim_of(model), docs, settings, dropout=0.0)[0]


def begin_update(
    shim: TaggerShim, docs: List[Doc], settings: RunSettings, dropout: float
) -> Tuple[JointLogits, Callable[[Any], List[Doc]]]:
    """Get the logits of all heads for all words, as the stage of training does.

    shim (TaggerShim): Holds the network.
    docs (List[Doc]): The docs.
    settings (RunSettings): How to run the model.
    dropout (float): Dropout rate.
    RETURNS (Tuple[JointLogits, Callable]): The logits of all heads, and the callback that takes
        their gradient.
    """
    network, stage = shim.trained.network, settings.stage or JointTraining()
    criterion = settings.criterion or TokenExit(window=0)
    mixed = shim.mixed_precision and settings.stage is not None  # not when heads are only measured
    check_cupy(network)
    if settings.stage is not None:
        shim.learning_pass = None  # it learns alone
    torch.clear_autocast_cache()  # within the caller's autocast, old weights would stay cached
    if isinstance(stage, SelfTraining) and not shim.has_teacher:
        raise ValueError(
            f"{type(stage).__name__} has no teacher. Initialize the component with one: set "
            f"start_from in [initialize.components], as in configs/meta_self_training.cfg. A "
            f"student that was saved can't go on: its teacher is not saved with it."
        )
    teacher = shim.teacher() if stage.needs_teacher else None
    windows: List[Window] = []
    texts: List[int] = []  # of each window
    answers: List[Answers] = []
    for batch in batches(windows_for(shim.trained, docs, settings), settings.batch_wordpieces):
        for copy in range(stage.copies):
            windows.extend(batch)
            texts.extend(copy * len(docs) + window.doc for window in batch)
        ragged = Batch.of(batch, network.device, settings.kv, settings.halt_special)
        with mixed_precision(shim, mixed):
            answers.append(stage.run(network, ragged, dropout, criterion, teacher))
    outputs = [answer.logits.float() for answer in answers]
    own = [part for answer in answers for part in answer.own]
    taught = [answer.teacher.float() for answer in answers if answer.teacher is not None]
    nothing = torch.zeros(len(network.exit_layers), 0, network.tags, device=network.device)

    @usual_torch()
    def backprop(gradient: Gradient) -> List[Doc]:
        backpropagate(network, outputs, own, gradient, shim.scaler)
        release_freed_memory()
        return docs

    scores = JointLogits(
        **vars(Places.of(windows)),
        logits=torch2xp(torch.cat([nothing, *outputs], dim=1).detach()),
        exit_head=join([answer.exit_head.cpu().numpy() for answer in answers], np.int64),
        text=join([np.full(len(w.words), text) for w, text in zip(windows, texts)], np.int64),
        learned={name: torch2xp(known.detach()) for name, known in network.decoder.items()},
        teacher=torch2xp(torch.cat(taught, dim=1)) if taught else None,
        own=own,
    )
    return scores, backprop


def mixed_precision(shim: TaggerShim, enabled: bool) -> torch.autocast:
    """Compute products in bfloat16, or in fp16 where gradients are scaled. Where torch only
    emulates bfloat16, a warning says so, once.

    shim (TaggerShim): Whose network is trained.
    enabled (bool): Whether to do so at all.
    RETURNS (autocast): The context.
    """
    # bfloat16 has the range of fp32, so nothing needs scaling.
    dtype = torch.bfloat16 if shim.scaler is None else torch.float16
    device = shim.outline.network.device.type
    if enabled and device == "cpu" and not shim.warned_of_emulation and not multiplies_bfloat16():
        shim.warned_of_emulation = True
        warnings.warn(
            "mixed_precision = true, but torch does not multiply 16-bit numbers on this processor, "
            "so a step takes several times as long as in fp32. Set mixed_precision = false in the "
            "component's model.",
            stacklevel=2,
        )
    return torch.autocast(device, dtype, enabled=enabled)


def check_cupy(network: ExitNetwork) -> None:
    """Check that thinc can share memory with torch: its optimizers work with numpy and cupy.

    network (ExitNetwork): The network.
    RAISES (ValueError): If the network is on a GPU, and there is no cupy.
    """
    if network.device.type == "cuda" and not has_cupy:
        raise ValueError(
            "spaCy trains on a GPU by means of cupy, which is not installed: pip install "
            "cupy-cuda12x, or the one for your version of CUDA (docs.cupy.dev says which)."
        )


def backpropagate(
    network: ExitNetwork,
    outputs: Sequence[Tensor],
    own: Sequence[Sequence[Tensor]],
    gradient: Gradient,
    scaler: Optional[PyTorchGradScaler] = None,
) -> None:
    """Backpropagate the gradient of all heads' logits to the weights, batch by batch.

    network (ExitNetwork): The network.
    outputs (Sequence[Tensor]): The logits of each batch.
    own (Sequence[Sequence[Tensor]]): What else the stage needed.
    gradient (Gradient): The gradient.
    scaler (Optional[PyTorchGradScaler]): Scales it on its way; None: nothing does.
    """
    of_logits = xp2torch(gradient.logits, device=network.device)
    parts = of_logits.split([output.shape[1] for output in outputs], dim=1)
    pairs = list(zip(outputs, parts))
    for name, of_learned in gradient.learned.items():
        pairs.append((network.extra_parameters[name], xp2torch(of_learned, device=network.device)))
    pairs.extend(zip((t for part in own for t in part if t.requires_grad), gradient.own))
    pairs = [pair for pair in pairs if pair[0].requires_grad]
    if pairs:
        slopes = [slope for _, slope in pairs]
        torch.autograd.backward([of for of, _ in pairs], scaled(slopes, scaler))


def scaled(slopes: List[Tensor], scaler: Optional[PyTorchGradScaler]) -> List[Tensor]:
    """RETURNS (List[Tensor]): Gradients on one device, scaled.

    slopes (List[Tensor]): The gradients.
    scaler (Optional[PyTorchGradScaler]): Scales them; None: they stay as they are.
    """
    if scaler is None or not slopes:
        return slopes
    scaler.to_(slopes[0].device)
    return cast(List[Tensor], scaler.scale(slopes))


def join(arrays: Sequence["NDArray[Any]"], dtype: Any) -> "NDArray[Any]":
    """RETURNS (NDArray): Arrays one after the other, of which there may be none."""
    return np.concatenate([np.zeros(0, dtype=dtype), *arrays]).astype(dtype)
