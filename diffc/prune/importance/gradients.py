"""Batches, losses and gradients for scores, and their sums over the channels of groups.

draw_batch     images and noises at one timestep
mean_loss      the loss over a batch, in as many pieces as memory needs
backward       its gradients
probe_output   gradients of the output along a random direction, in place of the loss's
slice_sums     w dL/dw summed over each slice of each channel
by_channel     the sum of a tensor over each channel of a slice
of_slice       the part of a tensor's sums that a slice has
weights_only   a subject whose groups hold what torch-pruning's importances see
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffc.data.batches import halve_batch, out_of_memory_error
from diffc.data.precision import device_of
from diffc.data.processes import process_share
from diffc.data.sharding import is_sharded, local, whole
from diffc.errors import InputError
from diffc.models.groups import Group, Role, Slice
from diffc.models.sizes import get_tensor
from diffc.prune.importance.base import Subject
from diffc.prune.importance.sums import channel_sums, finite_sums
from diffc_runtime.machine.out_of_memory import is_out_of_memory

Batch = tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]  # clean, noise, t, conditions


def draw_batch(subject: Subject, t: int, n: int, key: Iterable[int]) -> Batch:
    """n images and noises drawn by a generator that ``key`` alone decides."""
    seed = int(np.random.SeedSequence(list(key)).generate_state(1)[0])
    generator = torch.Generator().manual_seed(seed)
    clean, conditions = subject.clean.draw(n, generator)
    noise = torch.randn(clean.shape, generator=generator)
    by_block = subject.by_block
    device = device_of(subject.denoiser.model) if by_block is None else by_block.device
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
    gradients would be lost by beginning again, or when the network is sharded.
    """

    def share(part: slice) -> Tensor:
        piece = _rows(batch, part)
        return batch_loss(subject, piece) * (len(piece[0]) / len(batch[0]))

    return _in_pieces(subject, len(batch[0]), share, gradients=gradients, accumulate=accumulate)


def probe_output(subject: Subject, batch: Batch, probe: Tensor) -> None:
    """Leave in .grad the gradients of the output along a direction, in epsilon space.

    For standard normal directions the squared change of this product, when weights change, has the
    mean squared change of an element of the predicted noise as its expectation: with J the
    derivative of all N elements and v the direction, E (v . J dw)^2 / N = |J dw|^2 / N.

    Args:
        subject: The model.
        batch: What it is called with.
        probe: (B, C, H, W), the direction.
    """

    def share(part: slice) -> Tensor:
        clean, noise, t, conditions = _rows(batch, part)
        denoiser = subject.denoiser
        output = denoiser.call(denoiser.noised(clean, noise, t, conditions))[:, : clean.shape[1]]
        scale = denoiser.process.epsilon_scale(t).sqrt()
        along = (probe[part] * output).flatten(1).sum(1)
        return torch.div((along * scale).sum(), probe.numel() ** 0.5)

    _in_pieces(subject, len(batch[0]), share, gradients=True)


def _rows(batch: Batch, part: slice) -> Batch:
    clean, noise, t, conditions = batch
    rows = {name: value[part] for name, value in conditions.items()}
    return clean[part], noise[part], t[part], rows


def _in_pieces(
    subject: Subject,
    rows: int,
    share: Callable[[slice], Tensor],
    *,
    gradients: bool = False,
    accumulate: bool = False,
) -> float:
    """The sum of what each piece of ``rows`` rows adds, in as many pieces as memory needs."""
    if is_sharded(subject.denoiser.model):
        if gradients and not accumulate:
            subject.denoiser.model.zero_grad(set_to_none=True)
        return _over_processes(rows, share, gradients=gradients)
    while True:
        failure: Exception | None = None
        size = min(rows, subject.limit.rows or rows)
        if gradients:
            _begin_pass(subject, accumulate=accumulate)
        try:
            total = 0.0
            for start in range(0, rows, size):
                value = share(slice(start, start + size))
                if gradients:
                    value.backward()  # type: ignore[no-untyped-call]
                    if subject.by_block is not None:
                        subject.by_block.take_outside()
                total += float(value.detach())
            return total
        except (RuntimeError, MemoryError) as caught:
            if not is_out_of_memory(caught):
                raise
            failure = caught.with_traceback(None)  # its frames hold the tensors of the piece
        if accumulate:
            raise out_of_memory_error("measuring importance", failure) from failure
        subject.limit.rows = halve_batch(size, "measuring importance", failure)


def _begin_pass(subject: Subject, *, accumulate: bool) -> None:
    if subject.by_block is not None:
        subject.by_block.begin(accumulate=accumulate)
    elif not accumulate:
        subject.denoiser.model.zero_grad(set_to_none=True)


def _over_processes(rows: int, share: Callable[[slice], Tensor], *, gradients: bool) -> float:
    """The same where each process of a sharded model works an equal part of the rows.

    Gradients are averaged over the processes, so what a process adds counts as often as there are
    processes. One that has no rows left makes the call all the same.
    """
    rank, world = process_share()
    each = -(-rows // world)
    first = rank * each
    part = slice(first, min(rows, first + each)) if first < rows else slice(0, 1)
    try:
        value = share(part) * float(first < rows)
        if gradients:
            (world * value).backward()  # type: ignore[no-untyped-call]
    except (RuntimeError, MemoryError) as caught:
        if not is_out_of_memory(caught):
            raise
        raise out_of_memory_error("measuring importance", caught) from caught
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return float(total)


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
    along: dict[tuple[str, int], NDArray[np.float64]] = {}
    for group in subject.groups:
        for piece in group.slices:
            place = piece.tensor, piece.dim
            if place not in along:
                along[place] = _product_sums(subject, *place, absolute=absolute)
        rows = [of_slice(along[piece.tensor, piece.dim], piece) for piece in group.slices]
        yield group, np.stack(rows)


def _product_sums(subject: Subject, name: str, dim: int, *, absolute: bool) -> NDArray[np.float64]:
    """w dL/dw of a tensor, summed over everything but one dimension.

    The products are worked a part at a time: those of a whole network would take as much memory as
    its weights.
    """
    if subject.by_block is not None:
        return subject.by_block.along(name, dim, absolute=absolute)
    value = get_tensor(subject.denoiser.model, name)
    if value.grad is None:
        return np.zeros(value.shape[dim])
    weight, gradient = value.detach(), value.grad

    def products(part: slice) -> Tensor:
        product = weight[part] * gradient[part]
        return product.abs() if absolute else product

    if local(weight) is weight:
        return finite_sums(channel_sums(products, weight.shape, dim), name)
    product = weight * gradient
    return finite_sums(_sharded_sums(product.abs() if absolute else product, dim), name)


def _sums(value: Tensor, dim: int) -> NDArray[np.float64]:
    """Sum a tensor over everything but one dimension."""
    if local(value) is value:
        sums = channel_sums(lambda part: value[part], value.shape, dim)
    else:
        sums = _sharded_sums(value, dim)
    along: NDArray[np.float64] = sums.cpu().numpy()
    return along


def _sharded_sums(value: Tensor, dim: int) -> Tensor:
    """The same of a tensor that is sharded by its rows."""
    others = [d for d in range(value.ndim) if d != dim]
    return whole(value.double().sum(dim=others) if others else value.double())


def by_channel(value: Tensor, piece: Slice) -> NDArray[np.float64]:
    """Sum a tensor over everything but the slice's channels: (C,)."""
    return of_slice(_sums(value, piece.dim), piece)


def of_slice(along: NDArray[np.float64], piece: Slice) -> NDArray[np.float64]:
    """The sum of each channel of a slice (C,), of the sums along its dimension."""
    summed: NDArray[np.float64] = along[piece.index].sum(axis=1)
    return summed


def mean_over_slices(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over the slices of a group: (S, C) -> (C,)."""
    mean: NDArray[np.float64] = rows.mean(axis=0)
    return mean


def weights_only(subject: Subject) -> Subject:
    """Return the subject with fewer slices in its groups: those that torch-pruning ranks by.

    These are the weights of convolutions and linear layers, without biases and norms. A group that
    has none of them keeps all of its slices.
    """
    groups = []
    for group in subject.groups:
        seen = tuple(
            s for s in group.slices if s.role is not Role.NORM and s.tensor.endswith(".weight")
        )
        groups.append(replace(group, slices=seen or group.slices))
    return replace(subject, groups=groups)
