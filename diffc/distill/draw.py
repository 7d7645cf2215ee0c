"""What step i trains on: rows, timesteps and noise.

All of it is a function of (seed, step, row): a resumed run needs no generator's state, and P
processes that each take their rows see together exactly what one process sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffc.data.clean import CleanSet
from diffc.data.randomness import keyed_generator, keyed_noise
from diffc.distill.lesson import row_in_epochs, split
from diffc.recipe import DistillSection

ORDER, TIME, NOISE, NULL = range(1, 5)


@dataclass(frozen=True)
class Batch:
    """One process's rows of one step, on the CPU.

    clean, noise: (B, ...); t: int64 (B,); conditions: name -> (B, ...).
    """

    clean: Tensor
    noise: Tensor
    t: Tensor
    conditions: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.t)

    def pieces(self, n: int) -> list[Batch]:
        """``n`` parts, equal but for the last ones."""
        return [self._slice(a, b) for a, b in split(len(self), n)]

    def _slice(self, a: int, b: int) -> Batch:
        conditions = {name: rows[a:b] for name, rows in self.conditions.items()}
        return Batch(self.clean[a:b], self.noise[a:b], self.t[a:b], conditions)


def draw_batch(
    clean: CleanSet,
    options: DistillSection,
    density: Tensor,
    step: int,
    rows: range,
    null: dict[str, Tensor] | None = None,
    seed: int = 0,
) -> Batch:
    """Return rows of one step's global batch.

    Args:
        clean: The samples to noise.
        options: How to train: the size of the batch, how timesteps are drawn.
        density: (T,) float64, the probability of each timestep.
        step: The optimiser step, from 0.
        rows: The rows of the global batch that this process works.
        null: Name -> a null condition (...), which replaces a share of the rows' own.
        seed: Of everything that is drawn.
    """
    numbers = (step * options.batch + row for row in rows)  # a batch may span several epochs
    index = torch.tensor([row_in_epochs(number, len(clean), seed, ORDER) for number in numbers])
    sample, conditions = clean.rows(index)
    noise = keyed_noise(((seed, NOISE, step, row) for row in rows), sample.shape[1:])
    t = _timesteps(options, density, seed, step)[rows.start : rows.stop]
    if null:
        conditions = _with_null(conditions, null, options, seed, step, rows)
    return Batch(sample, noise, t, conditions)


def _timesteps(options: DistillSection, density: Tensor, seed: int, step: int) -> Tensor:
    """int64 (batch,): the whole batch's t, so that strata do not depend on the processes."""
    generator = keyed_generator(seed, TIME, step)
    u = torch.rand(options.batch, generator=generator, dtype=torch.float64)
    if options.timesteps == "stratified":
        strata = torch.randperm(options.batch, generator=generator)
        u = (strata + u) / options.batch
    edges = density.cumsum(0)
    return torch.searchsorted(edges, u, right=True).clamp_max(len(density) - 1)


def _with_null(
    conditions: dict[str, Tensor],
    null: dict[str, Tensor],
    options: DistillSection,
    seed: int,
    step: int,
    rows: Sequence[int],
) -> dict[str, Tensor]:
    u = torch.rand(options.batch, generator=keyed_generator(seed, NULL, step))
    dropped = u[rows[0] : rows[-1] + 1] < options.null_share
    replaced = dict(conditions)
    for name, value in null.items():
        mask = dropped.reshape(-1, *([1] * (conditions[name].ndim - 1)))
        replaced[name] = torch.where(mask, value.to(conditions[name].dtype), conditions[name])
    return replaced
