"""Tables that vectors are looked up in."""

import torch
from torch import nn


def lookup_table(rows: int, width: int) -> nn.Embedding:
    """RETURNS (Embedding): A table of random vectors, as ``nn.Embedding`` makes it.

    rows (int): Number of vectors.
    width (int): Their width.
    """
    weight = torch.empty(rows, width)
    # On the meta device, where there are no numbers, torch would import its compiler to draw them.
    # That takes 70 MB and a second or two, in every process that loads a pipeline.
    if not weight.is_meta:
        nn.init.normal_(weight)
    return nn.Embedding(rows, width, _weight=weight)
