"""Noised clean samples: rows that fit, and rows held out.

Timesteps are spread evenly over the training timesteps, as distillation spreads them, and a share
of the rows has the null conditions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffc.data.clean import CleanSet
from diffc.data.precision import device_of
from diffc.data.randomness import keyed_generator, keyed_noise
from diffc.models.denoiser import Denoiser
from diffc_export.specs import Inputs

_ORDER, _TIME, _NOISE, _NULL = range(1, 5)
_HELD_OUT = 4
_NULL_SHARE = 0.1
NOISED_AT_ONCE = 16
"""The most rows of one call."""


@dataclass(frozen=True)
class NoisedBatch:
    """Rows of one call.

    Attributes:
        inputs: Of the call, on the model's device.
        target: (B, *sample), what a perfect model would give.
        scale: (B,), which turns a squared error of the output into one of the implied noise.
        is_held_out: Whether the rows judge, and fit nothing.
    """

    inputs: Inputs
    target: Tensor
    scale: Tensor
    is_held_out: bool

    def __len__(self) -> int:
        return len(self.scale)


def noised_batches(
    denoiser: Denoiser, clean: CleanSet, rows: int, seed: int, batch: int = NOISED_AT_ONCE
) -> list[NoisedBatch]:
    """Rows that fit, and then a quarter of ``rows`` (one at least) that is held out.

    No clean sample is in both, unless there is one alone.

    Args:
        denoiser: The dense model, on the device to compute on.
        clean: Clean samples, taken in turn.
        rows: How many; 2 at least.
        seed: Of everything random.
        batch: The most rows of one call.
    """
    order = torch.randperm(len(clean), generator=keyed_generator(seed, _ORDER))
    apart = max(1, len(clean) // _HELD_OUT)
    held_out = held_out_rows(rows)
    fit = order[apart:] if len(clean) > apart else order
    batches = []
    for samples, count, judges in ((fit, rows - held_out, False), (order[:apart], held_out, True)):
        chosen = samples.repeat(-(-count // len(samples)))[:count]
        t = _timesteps(len(denoiser.process), count, seed, int(judges))
        for first in range(0, count, batch):
            piece = torch.arange(first, min(first + batch, count))
            batches.append(_batch(denoiser, clean, chosen, t, piece, seed, judges))
    return batches


def held_out_rows(rows: int) -> int:
    """Return how many of ``rows`` judge, and fit nothing: a quarter, one at least."""
    return max(1, rows // _HELD_OUT)


def _timesteps(steps: int, count: int, seed: int, part: int) -> Tensor:
    generator = keyed_generator(seed, _TIME, part)
    strata = torch.randperm(count, generator=generator)
    u = (strata + torch.rand(count, generator=generator)) / count
    return (u * steps).long().clamp_max(steps - 1)


def _batch(
    denoiser: Denoiser,
    clean: CleanSet,
    chosen: Tensor,
    t: Tensor,
    piece: Tensor,
    seed: int,
    judges: bool,
) -> NoisedBatch:
    device = device_of(denoiser.model)
    sample, conditions = clean.rows(chosen[piece])
    keys = [(seed, _NOISE, int(judges), row) for row in piece.tolist()]
    noise = keyed_noise(keys, sample.shape[1:])
    first = int(piece[0])
    draws = torch.rand(len(piece), generator=keyed_generator(seed, _NULL, int(judges), first))
    for name, value in clean.null.items():
        mask = (draws < _NULL_SHARE).reshape(-1, *([1] * value.ndim))
        conditions[name] = torch.where(mask, value.to(conditions[name].dtype), conditions[name])
    inputs = denoiser.noised(sample, noise, t[piece], conditions)
    return NoisedBatch(
        {name: value.to(device) for name, value in inputs.items()},
        denoiser.process.target(sample, noise, t[piece]).to(device),
        denoiser.process.epsilon_scale(t[piece]).to(device),
        judges,
    )
