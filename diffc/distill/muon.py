"""Muon: momentum whose matrices are made orthogonal before they are taken as a step.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the step's
size is that of Liu et al. 2025 (arXiv 2502.16982), so that a learning rate means what it means to
AdamW. What it gains for a student that learns a loop in some hundreds of steps is the subject of
bench/loop_students.py, whose result is not committed yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from diffc.data.precision import fast_dtype
from diffc.data.sharding import local, part_of, whole

MOMENTUM = 0.95
SMALLEST = 16
"""Rows and columns that a matrix has at least; what is smaller is left to AdamW."""
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
_ADAMS_RMS = 0.2
"""The root mean square of AdamW's usual step, in learning rates (Liu et al., section 2.2)."""


class Muon(torch.optim.AdamW):
    """Muon on matrices, and AdamW on everything else: biases, norms, narrow ends of the network.

    A step is made of a whole matrix: where it is sharded, each process collects it, and takes its
    own rows of the step.

    A kernel (out, in, h, w) is the matrix (out, in h w). The state of a matrix is its momentum
    ``exp_avg``, that of another parameter AdamW's.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        parameters = list(parameters)
        self.matrices = [parameter for parameter in parameters if is_matrix(parameter)]
        super().__init__(parameters, lr=lr, betas=betas, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; a matrix' gradient is gone after it."""
        (group,) = self.param_groups
        for matrix in self.matrices:
            if matrix.grad is None:
                continue
            momentum = self.state[matrix]["exp_avg"]
            momentum.lerp_(matrix.grad, 1 - MOMENTUM)
            ahead = matrix.grad.lerp(momentum, MOMENTUM)  # Nesterov's
            matrix.mul_(1 - group["lr"] * group["weight_decay"])
            rows = whole(ahead).flatten(1)
            size = _ADAMS_RMS * math.sqrt(max(rows.shape))
            step = part_of(orthogonal(rows).reshape(matrix.shape), matrix)
            local(matrix).sub_(step, alpha=group["lr"] * size)
            matrix.grad = None  # AdamW passes over it
        return super().step(closure)


def is_matrix(parameter: Tensor) -> bool:
    """True for a parameter that Muon takes: it is a matrix, and not a narrow one."""
    rows = parameter.shape[0] if parameter.ndim else 1
    return parameter.ndim >= 2 and min(rows, parameter.numel() // rows) >= SMALLEST


def orthogonal(rows: Tensor) -> Tensor:
    """Return the nearest matrix whose singular values are all about 1, by Newton and Schulz.

    Their iteration ends with values between 0.7 and 1.2, which is near enough for a step. bfloat16
    has digits enough for it, and is taken where the device is fast at it: a processor that only
    imitates it multiplies many times slower than in float32.

    Args:
        rows: (m, n).
    """
    a, b, c = _COEFFICIENTS
    x = rows.to(fast_dtype(rows.device))
    x = x.T if len(rows) > rows.shape[1] else x
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(_ROUNDS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.T if len(rows) > rows.shape[1] else x
    return x.to(rows.dtype)
