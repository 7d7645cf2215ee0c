"""Diff-Pruning's importance, squared per micro-batch. Two passes.

First, losses alone on a grid of timesteps, in epsilon space, give L_t / L_max and
S = {t : L_t / L_max > T}. Then, for P micro-batches of fresh images and noises at timesteps
stratified over S,

    I_c = 1/P  sum_p  sum_s ( sum_{k in s(c)} w_k dL_p/dw_k )^2

with s over the slices of the channel's group (rows that produce it, columns that read it, norms).
The inner sum is the first-order change of the loss when the slice is scaled to zero. Its square
does not cancel over images and timesteps as signed gradients do at the minimum of a trained model
(Molchanov et al. 2019, eq. 8, with Diff-Pruning's choice of timesteps, Fang et al. 2023, eq. 7).

Scores have the unit of a squared loss, so they can be compared between groups. The ``global``
allocation relies on that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from diffc.data.processes import process_share
from diffc.errors import InputError
from diffc.prune.importance.base import Importance, Score, Subject
from diffc.prune.importance.gradients import backward, draw_batch, mean_loss, slice_sums
from diffc.recipe import ImportanceSection
from diffc_export.events import Progress, Work


class DiffPruning(Score):
    """Squares of first-order changes of the loss, over the timesteps in S."""

    def measure(self, subject: Subject, options: ImportanceSection, seed: int) -> Work[Importance]:
        curve = yield from loss_curve(subject, options, seed)
        chosen = curve.above(options.threshold)
        times = stratified(chosen, options.passes, seed)
        total = {group.name: np.zeros(group.size) for group in subject.groups}
        rank, world = process_share()
        mine = list(enumerate(times))[rank::world]
        for done, (number, t) in enumerate(mine, start=1):
            loss = backward(subject, draw_batch(subject, t, options.batch, (seed, 1, number)))
            for group, score in slice_sums(subject):
                total[group.name] += np.square(score).sum(axis=0)
            yield Progress(done, len(mine), f"gradients at t = {t}", {"loss": loss})
        _add_over_processes(total, world)
        scores = {name: value / len(times) for name, value in total.items()}
        why = {
            "threshold": options.threshold,
            "curve": {"t": curve.t, "relative_loss": curve.relative},
            "timesteps": {
                "of": len(subject.denoiser.process),
                "share": curve.share(options.threshold),
            },
            "chosen_t": chosen,
            "passes": len(times),
            "batch": options.batch,
        }
        return Importance(scores, why)


@dataclass(frozen=True)
class LossCurve:
    """L_t / L_max on a grid of timesteps, in epsilon space. edges[i] <= cell i < edges[i + 1]."""

    t: list[int]
    relative: list[float]
    edges: list[int]

    def above(self, threshold: float) -> list[list[int]]:
        """S as a list of [first, last] cells of timesteps whose L_t / L_max is above T."""
        cells = []
        for i, value in enumerate(self.relative):
            if value > threshold:
                cells.append([self.edges[i], self.edges[i + 1] - 1])
        return cells

    def share(self, threshold: float) -> float:
        """The share of all timesteps that is in S."""
        inside = sum(last - first + 1 for first, last in self.above(threshold))
        return inside / self.edges[-1]


def loss_curve(subject: Subject, options: ImportanceSection, seed: int) -> Work[LossCurve]:
    """Mean epsilon-space losses at the middles of equal cells of timesteps, forward passes only.

    The same images and noises at every t, so that the curve is smooth in t.
    """
    steps = len(subject.denoiser.process)
    cells = min(options.grid, steps)
    edges = np.linspace(0, steps, cells + 1).astype(int).tolist()
    middles = [(edges[i] + edges[i + 1]) // 2 for i in range(cells)]
    losses: list[float] = []
    with torch.no_grad():
        for t in middles:
            batch = draw_batch(subject, t, options.curve_images, (seed, 0))
            losses.append(mean_loss(subject, batch))
            yield Progress(len(losses), cells, "losses over timesteps", {"loss": losses[-1]})
    if not np.isfinite(losses).all():
        raise InputError(
            "the dense model's loss is not finite; its weights or its inputs are broken"
        )
    top = max(losses)
    return LossCurve(middles, [loss / top for loss in losses], edges)


def stratified(cells: Sequence[Sequence[int]], n: int, seed: int) -> list[int]:
    """``n`` timesteps spread evenly over the union of ``cells``, one from each of n strata."""
    union = np.concatenate([np.arange(first, last + 1) for first, last in cells])
    generator = np.random.default_rng((seed, 2))
    position = (np.arange(n) + generator.random(n)) / n * len(union)
    chosen: list[int] = union[position.astype(int)].tolist()
    return chosen


def _add_over_processes(total: dict[str, NDArray[np.float64]], world: int) -> None:
    """Add the scores of all ``world`` processes; each scored its own micro-batches."""
    if world == 1:
        return
    from accelerate import PartialState

    for name, value in total.items():
        summed = torch.from_numpy(value).to(PartialState().device)
        torch.distributed.all_reduce(summed)
        total[name] = summed.cpu().numpy()


SCORE = DiffPruning()
