"""Batches, losses and gradients for scores, and their sums over the channels of groups.

draw_batch     images and noises at one timestep
mean_loss      the loss over a batch, in as many pieces as memory needs
backward       its gradients
slice_sums     w dL/dw summed over each slice of each channel
weights_only   a subject whose groups hold what torch-pruning's importances see
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffc.data.batches import halve_batch, out_of_memory_error
from diffc.data.precision import device_of
from diffc.errors import InputError
from diffc.models.groups import Group, Role, Slice
from diffc.models.sizes import get_tensor
from diffc.prune.importance.base import Subject
from diffc_runtime.machine.out_of_memory import is_out_of_memory

Batch = tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]  # clean, noise, t, conditions


def draw_batch(subject: Subject, t: int, n: int, key: Iterable[int]) -> Batch:
    """n images and noises drawn by a generator that ``key`` alone decides."""
    seed = int(np.random.SeedSequence(list(key)).generate_state(1)[0])
    generator = torch.Generator().manual_seed(seed)
    clean, conditions = subject.clean.draw(n, generator)
    noise = torch.randn(clean.shape, generator=generator)
    device = device_of(subject.denoiser.model)
    conditions = {name: value.to(device) for name, value in conditions.items()}
    return clean.to(device), noise.to(device), torch.full((n,), t, device=device), conditions


def batch_loss(subject: Subject, batch: Batch) -> Tensor:
    """The mean squared error in epsilon space, a scalar."""
    clean, noise, t, conditions = batch
    denoiser, process = subject.denoiser, subject.denoiser.process
    output = denoiser.call(denoiser.noised(clean, noise, t, conditions))[:, : clean.shape[1]]
    error = (output - process.target(clean, noise, t)).square().flatten(1).mean(1)
    return (error * process.epsilon_scale(t)).mean()


def mean_loss(
    subject: Subject, batch: Batch, *, gradients: bool = False, accumulate: bool = False
) -> float:
    """The loss over the batch, in as many pieces as memory needs.

    Raises OutOfMemory when there is no room for one row, or (accumulate) when earlier passes'
    gradients would be lost by beginning again.
    """
    while True:
        failure: Exception | None = None
        size = min(len(batch[0]), subject.limit.rows or len(batch[0]))
        if gradients and not accumulate:
            subject.denoiser.model.zero_grad(set_to_none=True)
        try:
            return sum(_piece_losses(subject, batch, size, gradients))
        except (RuntimeError, MemoryError) as caught:
            if not is_out_of_memory(caught):
                raise
            failure = caught.with_traceback(None)  # its frames hold the tensors of the piece
        if accumulate:
            raise out_of_memory_error("measuring importance", failure) from failure
        subject.limit.rows = halve_batch(size, "measuring importance", failure)


def _piece_losses(subject: Subject, batch: Batch, size: int, gradients: bool) -> Iterator[float]:
    """Each piece's share of the mean loss; its gradients are added where they are wanted."""
    clean, noise, t, conditions = batch
    for start in range(0, len(clean), size):
        part = slice(start, start + size)
        rows = {name: value[part] for name, value in conditions.items()}
        piece = (clean[part], noise[part], t[part], rows)
        loss = batch_loss(subject, piece) * (len(piece[0]) / len(clean))
        if gradients:
            loss.backward()  # type: ignore[no-untyped-call]
        yield float(loss.detach())


def backward(subject: Subject, batch: Batch, *, accumulate: bool = False) -> float:
    """Gradients of the loss at ``batch`` into .grad; returns the loss, which must be finite."""
    value = mean_loss(subject, batch, gradients=True, accumulate=accumulate)
    if not np.isfinite(value):
        raise InputError(
            f"the loss at t = {int(batch[2][0])} is {value}; importance needs finite gradients",
            hint="check the model's weights, the scheduler's config and the range of the data",
        )
    return value


def slice_sums(
    subject: Subject, *, absolute: bool = False
) -> Iterable[tuple[Group, NDArray[np.float64]]]:
    """For each group (S, C): w dL/dw summed over each slice of each channel."""
    products: dict[str, Tensor] = {}
    for group in subject.groups:
        rows = []
        for piece in group.slices:
            if piece.tensor not in products:
                value = _product(subject.denoiser.model, piece.tensor)
                products[piece.tensor] = value.abs() if absolute else value
            rows.append(by_channel(products[piece.tensor], piece))
        yield group, np.stack(rows)


def _product(model: nn.Module, name: str) -> Tensor:
    value = get_tensor(model, name)
    if value.grad is None:
        return torch.zeros_like(value)
    product = value.detach() * value.grad
    if not torch.isfinite(product).all():
        raise InputError(f"the gradients of {name} are not finite; importance cannot be ranked")
    return product


def by_channel(value: Tensor, piece: Slice) -> NDArray[np.float64]:
    """Sum a tensor over everything but the slice's channels: (C,)."""
    others = [d for d in range(value.ndim) if d != piece.dim]
    along = value.double().sum(dim=others) if others else value.double()
    summed: NDArray[np.float64] = along.cpu().numpy()[piece.index].sum(axis=1)
    return summed


def mean_over_slices(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over the slices of a group: (S, C) -> (C,)."""
    mean: NDArray[np.float64] = rows.mean(axis=0)
    return mean


def weights_only(subject: Subject) -> Subject:
    """Its groups with the slices that torch-pruning's importances see; all, where it sees none."""
    groups = []
    for group in subject.groups:
        seen = tuple(
            s for s in group.slices if s.role is not Role.NORM and s.tensor.endswith(".weight")
        )
        groups.append(replace(group, slices=seen or group.slices))
    return replace(subject, groups=groups)
