"""Diff-Pruning's importance as a change of the output. Two passes.

First, losses alone on a grid of timesteps, in epsilon space, give L_t / L_max and
S = {t : L_t / L_max > T}. Then, for P batches of fresh images and noises at timesteps
stratified over S, each with a random direction v_p of the output (standard normal, N elements),

    I_c = 1/P  sum_p  ( sum_{k in r(c)} w_k d(v_p . eps_p)/dw_k )^2 / N

with r(c) the weights that read channel c, in all layers that do. The inner sum is the first-order
change of v_p . eps_p when the channel is no longer read; over directions, its square has the mean
squared change of an element of the predicted noise as its expectation (the diagonal of the
Gauss-Newton matrix of the scales of channels; Hutchinson's estimator).

The published rule (Fang et al. 2023, eq. 7) takes the gradient of the loss in the place of v_p. At
the minimum of a trained model that is the noise which the model cannot predict: it is large at
little noise alone, so that its squares rank channels by what they do there. bench/pruning.py has
both (``squared-loss``).

Scores have the unit of a squared change of the predicted noise, so they can be compared between
groups and with those of branches (``diffc.prune.depth.scores``). The ``global`` allocation relies
on that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffc.data.processes import process_share
from diffc.data.randomness import keyed_noise
from diffc.data.sharding import is_sharded
from diffc.errors import InputError
from diffc.models.groups import Group, Role
from diffc.prune.importance.base import Importance, Score, Subject
from diffc.prune.importance.by_block import PassRecord
from diffc.prune.importance.gradients import draw_batch, mean_loss, probe_output, slice_sums
from diffc.recipe import ImportanceSection
from diffc_export.events import Progress, Work


class DiffPruning(Score):
    """Mean squared first-order changes of the output, over the timesteps in S."""

    def measure(self, subject: Subject, options: ImportanceSection, seed: int) -> Work[Importance]:
        curve = yield from loss_curve(subject, options, seed)
        chosen = curve.above(options.threshold)
        times = stratified(chosen, options.passes, seed)
        total = {group.name: np.zeros(group.size) for group in subject.groups}
        is_shared = is_sharded(subject.denoiser.model)  # then all work every batch together
        rank, world = (0, 1) if is_shared else process_share()
        mine = list(enumerate(times))[rank::world]
        record = PassRecord(subject.records, f"passes-{rank}", f"{rank} of {world}")
        before, values = record.latest()
        total |= values
        for done, (number, t) in enumerate(mine, start=1):
            if done <= before:
                continue
            batch = draw_batch(subject, t, options.batch, (seed, 1, number))
            probe_output(subject, batch, _direction(batch[0], seed, number))
            for group, sums in slice_sums(subject):
                total[group.name] += np.square(sums[_reading(group)].sum(axis=0))
            record.write(done, total)
            yield Progress(done, len(mine), f"gradients at t = {t}")
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


def _direction(clean: Tensor, seed: int, number: int) -> Tensor:
    """A standard normal direction of the output, shaped like ``clean``."""
    return keyed_noise([(seed, 4, number)], tuple(clean.shape))[0].to(clean.device)


def _reading(group: Group) -> list[int]:
    """The places of the slices that read the group's channels; of all, where none does."""
    places = [i for i, piece in enumerate(group.slices) if piece.role is Role.IN]
    return places or list(range(len(group.slices)))


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
    record = PassRecord(subject.records, f"curve-{process_share()[0]}")
    losses: list[float] = record.latest()[1].get("losses", np.zeros(0)).tolist()
    with torch.no_grad():
        for t in middles[len(losses) :]:
            batch = draw_batch(subject, t, options.curve_images, (seed, 0))
            losses.append(mean_loss(subject, batch))
            record.write(len(losses), {"losses": np.array(losses)})
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
    """Add the scores of all ``world`` processes; each scored its own batches."""
    if world == 1:
        return
    from accelerate import PartialState

    for name, value in total.items():
        summed = torch.from_numpy(value).to(PartialState().device)
        torch.distributed.all_reduce(summed)
        total[name] = summed.cpu().numpy()


SCORE = DiffPruning()
