"""The score of a branch: what happens to the model's output without it. Forward passes alone.

    I_b = k / R  sum_r  w_r | eps_r(without b) - eps_r |^2

over R noised rows at the timesteps that the channels' score chose (all, where it chose none); eps_r
is the dense model's own prediction, | |^2 the mean over its elements, w_r the weight that brings a
square into epsilon space. Where the dense model predicts the mean of the noise, the change of its
output is the rise of its loss, with far less noise.

Branches are left out one after the other, the one that costs least for the MACs that it saves
first; what is left is measured again on the network that is left, the next best alone (a lazy
greedy choice, Minoux 1978). A branch's score is what it costs at its turn. Stretches of
neighbouring blocks take part as branches made of them (``diffc.models.branches.Stretch``).

**One unit with channels.** The channels' default score estimates the same change, to first order
and channel by channel; other scores have units of their own. k is measured: some groups are cut to
half of their channels, and the importance that this loses by the channels' scores is set against
what it does to the output. k is the median of the ratios; plan.json has them all.
"""

from __future__ import annotations

import copy
import heapq
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffc.data.precision import device_of
from diffc.models.branches import Branch, is_inside, stretches, without
from diffc.models.denoiser import Denoiser
from diffc.models.groups import Group
from diffc.prune.cost import CostModel, cost_model
from diffc.prune.importance.base import Importance, Subject
from diffc.prune.importance.diff_pruning import stratified
from diffc.prune.importance.gradients import Batch, draw_batch
from diffc.prune.plan import best_channels
from diffc.prune.surgery import cut
from diffc_export.events import Progress, Work
from diffc_runtime.json_types import JsonDict

_TIMESTEPS = 8  # that the rows are at, at most
_TOGETHER = 4  # rows at a timestep, at least: a call of fewer takes nearly as long
_GROUPS = 8  # that are cut for the calibration
_DEEPEST = 0.85  # of the network's MACs: what goes beyond it is not measured again


@dataclass(frozen=True)
class _Judge:
    """Noised rows, and what the dense model makes of them."""

    subject: Subject
    batches: Sequence[Batch]
    outputs: Sequence[Tensor]
    weights: Sequence[Tensor]

    def change(self, model: nn.Module) -> float:
        """The weighted mean squared change of the output of ``model`` against the dense one's."""
        denoiser = self.subject.denoiser.with_model(model)
        changes = [
            float((weight * _squares(_output(denoiser, batch) - output)).mean())
            for batch, output, weight in zip(self.batches, self.outputs, self.weights, strict=True)
        ]
        mean = float(np.mean(changes))
        return mean if np.isfinite(mean) else float(np.finfo(np.float32).max)


def with_branches(
    subject: Subject, channels: Importance, seed: int, rows: int = 32
) -> Work[Importance]:
    """Add a score for every branch of ``subject`` to the scores of its channels.

    Args:
        subject: The model, its data, its groups and its branches.
        channels: The channels' importance; its ``chosen_t`` are the timesteps to look at.
        seed: Decides everything random.
        rows: How many noised rows each branch is judged by, at least.

    Returns:
        Both, and in ``why`` under ``depth`` how the branches were scored.
    """
    begin = time.perf_counter()
    cells = channels.why.get("chosen_t") or [[0, len(subject.denoiser.process) - 1]]
    times = stratified(cells, min(_TIMESTEPS, max(rows // _TOGETHER, 1)), seed)
    each = -(-rows // len(times))
    with torch.no_grad(), _evaluating(subject.denoiser.model):
        judge = _judge(subject, times, each, seed)
        costs = _costs(subject)
        ratios = yield from _calibrated(judge, channels.scores)
        scale = float(np.median(ratios)) if ratios else 1.0
        scores, passes = yield from _greedy(judge, costs)
    scaled = {name: np.array([scale * value]) for name, value in scores.items()}
    why: JsonDict = {
        "branches": len(subject.branches),
        "stretches": len(scores) - len(subject.branches),
        "timesteps": times,
        "rows": each * len(times),
        "evaluations": passes + len(ratios),
        "seconds": round(time.perf_counter() - begin, 3),
        "calibration": {"scale": scale, "groups": len(ratios), "ratios": ratios},
    }
    return Importance({**channels.scores, **scaled}, {**channels.why, "depth": why})


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _judge(subject: Subject, times: Sequence[int], rows: int, seed: int) -> _Judge:
    batches = [draw_batch(subject, t, rows, (seed, 3, i)) for i, t in enumerate(times)]
    outputs = [_output(subject.denoiser, batch) for batch in batches]
    weights = [subject.denoiser.process.epsilon_scale(t) for _, _, t, _ in batches]
    return _Judge(subject, batches, outputs, weights)


def _output(denoiser: Denoiser, batch: Batch) -> Tensor:
    clean, noise, t, conditions = batch
    return denoiser.call(denoiser.noised(clean, noise, t, conditions))[:, : clean.shape[1]]


def _squares(value: Tensor) -> Tensor:
    return value.square().flatten(1).mean(1)


def _costs(subject: Subject) -> CostModel:
    denoiser = subject.denoiser
    device = device_of(denoiser.model)
    inputs = {name: value.to(device) for name, value in denoiser.examples().items()}
    branches = [*subject.branches, *stretches(subject.branches)]
    return cost_model(denoiser.model, inputs, denoiser.family.call, branches)


def _calibrated(judge: _Judge, scores: Mapping[str, NDArray[np.float64]]) -> Work[list[float]]:
    """Importance lost by the channels' scores over the change measured, for some groups."""
    groups = [group for group in judge.subject.groups if group.size >= 2 * group.runs]
    places = np.unique(np.linspace(0, len(groups) - 1, min(_GROUPS, len(groups))).astype(int))
    ratios: list[float] = []
    for number, group in enumerate([groups[place] for place in places] if groups else []):
        model = _copy_to_cut(judge.subject.denoiser.model, group)
        keep = _better_half(group, scores[group.name])
        cut(model, [group], {group.name: keep})
        change = judge.change(model)
        lost = float(scores[group.name].sum() - scores[group.name][keep].sum())
        if change > 0 and lost > 0:
            ratios.append(lost / change)
        yield Progress(number + 1, len(places), "channels against branches")
    return ratios


def _copy_to_cut(model: nn.Module, group: Group) -> nn.Module:
    """A copy that shares the weights which cutting ``group`` leaves as they are."""
    changed = {*group.temperature, *(piece.tensor for piece in group.slices)}
    shared = {id(value): value for name, value in model.named_parameters() if name not in changed}
    copied: nn.Module = copy.deepcopy(model, dict[int, object](shared))
    return copied


def _better_half(group: Group, score: NDArray[np.float64]) -> NDArray[np.int64]:
    each = group.size // group.runs
    return best_channels(score, (each - each // 2) * group.runs, group.runs)


def _greedy(judge: _Judge, costs: CostModel) -> Work[tuple[dict[str, float], int]]:
    """Each branch's cost at its turn, in the unit of ``_Judge.change``; how often was measured."""
    branches, model = costs.branches, judge.subject.denoiser.model
    widths, dense = costs.dense.copy(), costs.macs(costs.dense)
    scores: dict[str, float] = {}
    gone: list[Branch] = []  # in their order; each may be inside a later one
    base, passes = 0.0, 0
    heap: list[tuple[float, int, int]] = []  # price, place, how many were gone when it was measured

    def price(place: int) -> tuple[float, int, int]:
        with without(model, [*gone, branches[place]]):
            more = max(judge.change(model) - base, 0.0)
        inside = sum(scores[one.name] for one in gone if is_inside(one, branches[place]))
        scores[branches[place].name] = inside + more  # whole: what is inside it is gone with it
        fewer = widths.copy()
        fewer[place] = 0
        saved = costs.macs(widths) - costs.macs(fewer)
        return more / max(saved, 1e-9 * dense), place, len(gone)

    for place in range(len(branches)):
        heapq.heappush(heap, price(place))
        passes += 1
        yield Progress(passes, len(branches), "the output without a branch")
    while heap and costs.macs(widths) > (1 - _DEEPEST) * dense:
        _, place, when = heapq.heappop(heap)
        branch = branches[place]
        if any(is_inside(branch, other) for other in gone):
            continue  # it went with a larger one; its score is the one of its last turn
        if when < len(gone):
            heapq.heappush(heap, price(place))
            passes += 1
            yield Progress(passes, None, "the output without a branch, again")
            continue
        base += scores[branch.name]
        base -= sum(scores[one.name] for one in gone if is_inside(one, branch))
        gone.append(branch)
        widths[place] = 0
    return scores, passes
