"""How far a network is from the dense one on rows that nothing was fitted to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from diffc.calibration.noised import NoisedBatch
from diffc.models.denoiser import Denoiser
from diffc.stage_outcomes import NetworkErrors


@torch.no_grad()
def network_errors(
    student: Denoiser, dense: Denoiser, batches: Sequence[NoisedBatch]
) -> NetworkErrors:
    """Call both networks on every row of ``batches`` and compare."""
    outputs = (student.call(batch.inputs) for batch in batches)
    if student is dense:
        return errors_of_outputs([(output, output) for output in outputs], batches)
    wanted = (dense.call(batch.inputs) for batch in batches)
    return errors_of_outputs(zip(outputs, wanted, strict=True), batches)


def errors_of_outputs(
    pairs: Iterable[tuple[Tensor, Tensor]], batches: Sequence[NoisedBatch]
) -> NetworkErrors:
    """The same of (output, the dense network's output) of each batch."""
    near, true, count = 0.0, 0.0, 0
    for (output, wanted), batch in zip(pairs, batches, strict=True):
        width = batch.target.shape[1]  # a learned variance comes after it
        own = output[:, :width]
        near += float((_mean_square(own - wanted[:, :width]) * batch.scale).sum())
        true += float((_mean_square(own - batch.target) * batch.scale).sum())
        count += len(batch)
    return NetworkErrors(to_dense=near / count, to_noise=true / count)


def _mean_square(error: Tensor) -> Tensor:
    return error.float().square().flatten(1).mean(1)
