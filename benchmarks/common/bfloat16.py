"""spacy-transformers trained in bfloat16 on a CPU, for ``spacy train --code``.

thinc's mixed precision is for CUDA alone. Weights, their updates, everything behind the encoder and
all predictions stay in fp32.
"""

from typing import Any

import torch
from spacy_transformers.layers.hf_shim import HFShim

begin_update = HFShim.begin_update


def begin_update_in_bfloat16(shim: Any, inputs: Any) -> Any:
    """RETURNS (Any): What the shim's own method does, its products in bfloat16."""
    model = shim._model
    forward = model.forward

    def in_bfloat16(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            found = forward(*args, **kwargs)
        for name, value in found.items():
            if isinstance(value, torch.Tensor):
                found[name] = value.float()
        return found

    model.forward = in_bfloat16
    try:
        return begin_update(shim, inputs)
    finally:
        del model.forward


HFShim.begin_update = begin_update_in_bfloat16
