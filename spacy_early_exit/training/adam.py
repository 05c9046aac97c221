"""thinc's Adam, computed by torch. On a CPU, thinc goes through gradients, momenta and weights
several times in each step, torch once.
"""

from typing import Tuple, cast

import numpy as np
import torch
from thinc.api import NumpyOps, Optimizer
from thinc.optimizers import ADAM_DEFAULTS, FloatOrSeq
from thinc.types import FloatsXd
from torch.optim.adamw import adamw

RATE, L2 = ADAM_DEFAULTS["learn_rate"], ADAM_DEFAULTS["L2"]
BETA1, BETA2, EPS = (ADAM_DEFAULTS[name] for name in ("beta1", "beta2", "eps"))
CLIP = ADAM_DEFAULTS["grad_clip"]


def make_adam(
    learn_rate: FloatOrSeq = RATE,
    *,
    L2: FloatOrSeq = L2,
    beta1: FloatOrSeq = BETA1,
    beta2: FloatOrSeq = BETA2,
    eps: FloatOrSeq = EPS,
    grad_clip: FloatOrSeq = CLIP,
    L2_is_weight_decay: bool = True,
    use_averages: bool = True,
) -> Optimizer:
    """Make an optimizer: see ``FusedAdam``. Registered as ``spacy-early-exit.Adam.v1`` in
    ``@optimizers``. Arguments and defaults are those of thinc's ``Adam.v1``.

    learn_rate (FloatOrSeq): The learning rate, or a schedule of it.
    L2 (FloatOrSeq): Weight decay.
    beta1 (FloatOrSeq): Decay of the mean of gradients; above 0.
    beta2 (FloatOrSeq): Decay of the mean of their squares; above 0.
    eps (FloatOrSeq): Added to the root of that.
    grad_clip (FloatOrSeq): Largest norm of a parameter's gradient; 0: any.
    L2_is_weight_decay (bool): Whether weight decay is decoupled, as in AdamW. Otherwise it is part
        of the gradient.
    use_averages (bool): Whether to keep running averages of the weights.
    RETURNS (Optimizer): The optimizer.
    """
    return FusedAdam(
        learn_rate,
        L2=L2,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        grad_clip=grad_clip,
        L2_is_weight_decay=L2_is_weight_decay,
        use_averages=use_averages,
    )


class FusedAdam(Optimizer):  # type: ignore[misc]
    """thinc's Adam. Steps of fp32 weights on a CPU are computed by torch, and differ from thinc's
    by rounding, and by the weight decay of the step itself. All others are thinc's own.
    """

    __slots__ = ()  # as in thinc, so that a misspelt attribute is an error

    def __call__(
        self,
        key: Tuple[int, str],
        weights: FloatsXd,
        gradient: FloatsXd,
        *,
        lr_scale: float = 1.0,
    ) -> Tuple[FloatsXd, FloatsXd]:
        """Take a step of a parameter.

        key (Tuple[int, str]): What identifies the parameter.
        weights (FloatsXd): Its weights, changed in place.
        gradient (FloatsXd): Its gradient. It is 0 afterwards.
        lr_scale (float): Factor of the learning rate.
        RETURNS (Tuple[FloatsXd, FloatsXd]): Both.
        """
        if not self._is_for_torch(key, weights, gradient):
            return cast(
                Tuple[FloatsXd, FloatsXd],
                super().__call__(key, weights, gradient, lr_scale=lr_scale),
            )
        self.nr_update[key] += 1
        number = self.nr_update[key]
        known = self.averages
        if known is not None and key not in known:
            known[key] = np.zeros(weights.shape, dtype=np.float32)
        for moments in (self.mom1, self.mom2):
            if key not in moments:
                moments[key] = np.zeros(weights.size, dtype=np.float32)
        of = (weights, gradient, self.mom1[key], self.mom2[key])
        value, slope, first, second = (torch.from_numpy(array).view(-1) for array in of)
        with torch.no_grad():
            if not self.L2_is_weight_decay:
                slope.add_(value, alpha=self.L2)
            if self.grad_clip and (norm := float(slope.norm())) >= self.grad_clip:
                slope.mul_(self.grad_clip / norm)
            adamw(
                [value],
                [slope],
                [first],
                [second],
                [],
                [torch.tensor(number - 1, dtype=torch.float32, device="cpu")],
                fused=True,
                amsgrad=False,
                beta1=self.b1,
                beta2=self.b2,
                lr=lr_scale * self.learn_rate,
                weight_decay=self.L2 if self.L2_is_weight_decay else 0.0,
                # torch adds it after it has corrected the mean of squares for their start at 0.
                eps=self.eps / (1.0 - self.b2**number) ** 0.5,
                maximize=False,
            )
            slope.zero_()
        if known is not None:
            NumpyOps().update_averages(known[key], weights, number)
        return weights, gradient

    def _is_for_torch(self, key: Tuple[int, str], weights: FloatsXd, gradient: FloatsXd) -> bool:
        """RETURNS (bool): Whether torch can take the step, which does not check sizes."""
        momenta = [known[key] for known in (self.mom1, self.mom2) if key in known]
        return (
            0 < self.b1 < 1
            and 0 < self.b2 < 1
            and not self.use_radam
            and all(_is_plain(array) for array in (weights, gradient, *momenta))
            and weights.shape == gradient.shape
            and all(momentum.size == weights.size for momentum in momenta)
        )


def _is_plain(array: FloatsXd) -> bool:
    """RETURNS (bool): Whether torch can work on it where it is."""
    is_fp32 = isinstance(array, np.ndarray) and array.dtype == np.float32
    return bool(is_fp32 and array.flags.c_contiguous and array.flags.writeable and array.size)
