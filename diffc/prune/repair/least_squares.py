"""The change of a layer's weights that brings its outputs nearest to given ones.

With rows x of inputs and rows e of what the layer's outputs lack, the change D minimises

    sum of |e - D x|^2  +  r * mean(diag A) * |D|^2,       A = sum of x x^T

so that a large ridge r means no change. Only sums over rows are kept, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class Sums:
    """Sums over rows: all that a least-squares problem needs of them."""

    def __init__(self, columns: int, outputs: int, device: torch.device) -> None:
        """Begin at zero.

        Args:
            columns: How many inputs a row has.
            outputs: How many outputs it has.
            device: Where the sums lie.
        """

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.inputs, self.products = zeros(columns, columns), zeros(outputs, columns)
        self.lack, self.power = zeros(), zeros()
        self.rows = 0

    def add(self, inputs: Tensor, lack: Tensor, wanted: Tensor) -> None:
        """Add rows.

        Args:
            inputs: (N, columns).
            lack: (N, outputs) what the outputs lack.
            wanted: (N, outputs) what they should be.
        """
        self.inputs += inputs.T @ inputs
        self.products += lack.T @ inputs
        self.lack += lack.double().square().sum()
        self.power += wanted.double().square().sum()
        self.rows += len(inputs)

    @property
    def is_finite(self) -> bool:
        """Whether every sum is a number."""
        sums = (self.inputs, self.products, self.lack, self.power)
        return all(bool(torch.isfinite(one).all()) for one in sums)

    def error(self, change: Tensor | None = None) -> float:
        """The squared error of the outputs after ``change``, relative to what they should be."""
        error = self.lack
        if change is not None:
            error = error - 2 * (change * self.products).sum()
            error = error + ((change @ self.inputs) * change).sum()
        return float(error.clamp_min(0) / self.power.clamp_min(1e-30))


@dataclass(frozen=True)
class Change:
    """A change of weights.

    Attributes:
        weights: float64 (outputs, columns), to be added; None where none is better.
        ridge: The ridge that was chosen.
        before: The relative squared error on held-out rows without the change.
        after: With it; at most ``before``.
    """

    weights: Tensor | None
    ridge: float | None
    before: float
    after: float


def best_change(fitted: Sums, held_out: Sums) -> Change:
    """The change by the ridge that is best on held-out rows, or none.

    Args:
        fitted: The rows that decide the change at each ridge.
        held_out: The rows that decide the ridge, and whether there is a change at all.
    """
    best = Change(None, None, before=held_out.error(), after=held_out.error())
    scale = fitted.inputs.diagonal().mean()
    with_ridge = torch.empty_like(fitted.inputs)
    lower = torch.empty_like(fitted.inputs).T  # column by column, as the factorisation writes it
    failed = torch.empty((), dtype=torch.int32, device=lower.device)
    for ridge in RIDGES:
        with_ridge.copy_(fitted.inputs).diagonal().add_(ridge * scale)
        torch.linalg.cholesky_ex(with_ridge, out=(lower, failed))
        if failed:  # singular at so small a ridge
            continue
        weights = _solution(lower, fitted.products)
        after = held_out.error(weights)
        if after < best.after:
            best = Change(weights, ridge, best.before, after)
    return best


def _solution(lower: Tensor, products: Tensor) -> Tensor:
    """Solve by two triangles, since ``cholesky_solve`` copies its matrix."""
    half: Tensor = torch.linalg.solve_triangular(lower, products.T, upper=False)
    solved: Tensor = torch.linalg.solve_triangular(lower.T, half, upper=True)
    return solved.T
