"""How much each channel matters, over the timesteps that matter.

    diff-pruning   (default) two passes. First, losses alone on a grid of timesteps, in epsilon
                   space, give L_t / L_max and S = {t : L_t / L_max > T}. Then, for P micro-batches
                   of fresh images and noises at timesteps stratified over S,
                       I_c = 1/P  sum_p  sum_s ( sum_{k in s(c)} w_k dL_p/dw_k )^2
                   with s over the slices of the channel's group (rows that produce it, columns that
                   read it, norms). The inner sum is the first-order change of the loss when the
                   slice is scaled to zero; its square does not cancel over images and timesteps as
                   signed gradients do at the minimum of a trained model (Molchanov et al. 2019,
                   eq. 8, with Diff-Pruning's choice of timesteps, Fang et al. 2023, eq. 7).
    reference      the published ddpm_prune.py (Taylor importance, multivariable=False): t = 0, 1,
                   2, ... with one batch and one noise, up to and including the first t at which
                   L_t < T max_{s<=t} L_s; gradients added with their signs; then
                       I_c = mean_s  sum_{k in s(c)} | w_k sum_t dL_t/dw_k |
    taylor         the same (multivariable=True) with no threshold, at every 10th t:
                       I_c = mean_s  | sum_{k in s(c)} w_k sum_t dL_t/dw_k |
    magnitude      I_c = mean_s  sum_{k in s(c)} w_k^2
    random         uniform on [0, 1), from the seed

In these three s goes over weights of convolutions and linear layers alone, as torch-pruning's
importances do: no biases, no norms. Their scores alone are repeated here, not torch-pruning's
selection, which cuts the same offsets out of every run of a normalisation's channels.

Scores are comparable between groups for diff-pruning (units of loss squared), which is what the
``global`` allocation relies on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diffc.data.batches import no_room, smaller
from diffc.data.clean import CleanSet
from diffc.data.precision import device_of
from diffc.data.processes import process_share
from diffc.errors import InputError
from diffc.models.diffusion import Process
from diffc.models.families.base import Family
from diffc.models.groups import Group, Role, Slice
from diffc.models.sizes import tensor
from diffc.recipe import ImportanceSection
from diffc_export.events import Progress, Work
from diffc_runtime.machine.out_of_memory import is_out_of_memory

METHODS = ("diff-pruning", "reference", "taylor", "magnitude", "random")


@dataclass(frozen=True)
class Importance:
    """scores: group name -> float64 (C,). why: the method, the curve and S, for plan.json."""

    scores: Mapping[str, NDArray[np.float64]]
    why: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class RowLimit:
    """How many rows of a batch memory has room for at once; None: for all, as far as is known."""

    rows: int | None = None


@dataclass(frozen=True)
class Subject:
    """What importance is measured on. limit: shared by all passes, so that one finds it for all."""

    model: nn.Module
    family: Family
    process: Process
    clean: CleanSet
    groups: Sequence[Group]
    limit: RowLimit = field(default_factory=RowLimit)


def importance(subject: Subject, options: ImportanceSection, seed: int) -> Work[Importance]:
    """The importance of every channel of ``subject.groups`` by ``options.method``."""
    methods: dict[str, Callable[[], Work[Importance]]] = {
        "diff-pruning": lambda: _diff_pruning(subject, options, seed),
        "reference": lambda: _reference(subject, options, seed),
        "taylor": lambda: _taylor(subject, options, seed),
        "magnitude": lambda: _from_weights(subject, _squares),
        "random": lambda: _random(subject, seed),
    }
    result = yield from methods[options.method]()
    return Importance(result.scores, {"method": options.method, **result.why})


# --- diff-pruning -------------------------------------------------------------------------------


def _diff_pruning(subject: Subject, options: ImportanceSection, seed: int) -> Work[Importance]:
    curve = yield from loss_curve(subject, options, seed)
    chosen = curve.above(options.threshold)
    times = stratified(chosen, options.passes, seed)
    total = {group.name: np.zeros(group.size) for group in subject.groups}
    rank, world = process_share()
    mine = list(enumerate(times))[rank::world]
    for done, (number, t) in enumerate(mine, start=1):
        loss = _backward(subject, _batch(subject, t, options.batch, (seed, 1, number)))
        for group, score in _slice_sums(subject):
            total[group.name] += np.square(score).sum(axis=0)
        yield Progress(done, len(mine), f"gradients at t = {t}", {"loss": loss})
    _add_over_processes(total, world)
    scores = {name: value / len(times) for name, value in total.items()}
    why = {
        "threshold": options.threshold,
        "curve": {"t": curve.t, "relative_loss": curve.relative},
        "timesteps": {"of": len(subject.process), "share": curve.share(options.threshold)},
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
    steps = len(subject.process)
    cells = min(options.grid, steps)
    edges = np.linspace(0, steps, cells + 1).astype(int).tolist()
    middles = [(edges[i] + edges[i + 1]) // 2 for i in range(cells)]
    losses: list[float] = []
    with torch.no_grad():
        for t in middles:
            losses.append(_mean_loss(subject, _batch(subject, t, options.curve_images, (seed, 0))))
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


# --- the published rules ------------------------------------------------------------------------


def _reference(subject: Subject, options: ImportanceSection, seed: int) -> Work[Importance]:
    steps = len(subject.process)
    top, losses = 0.0, []
    for t in range(steps):
        loss = _backward(subject, _batch(subject, t, options.batch, (seed, 0)), accumulate=t > 0)
        losses.append(loss)
        top = max(top, loss)
        yield Progress(t + 1, steps, f"gradients at t = {t}", {"loss": loss})
        if loss < top * options.threshold:
            break
    sums = _slice_sums(_weights_only(subject), absolute=True)
    scores = {group.name: _mean(rows) for group, rows in sums}
    why = {
        "threshold": options.threshold,
        "curve": {"t": list(range(len(losses))), "relative_loss": [v / top for v in losses]},
        "chosen_t": [[0, len(losses) - 1]],
        "passes": len(losses),
        "batch": options.batch,
    }
    return Importance(scores, why)


def _taylor(subject: Subject, options: ImportanceSection, seed: int) -> Work[Importance]:
    times = list(range(0, len(subject.process), 10))
    for i, t in enumerate(times):
        loss = _backward(subject, _batch(subject, t, options.batch, (seed, 0)), accumulate=i > 0)
        yield Progress(i + 1, len(times), f"gradients at t = {t}", {"loss": loss})
    sums = _slice_sums(_weights_only(subject))
    scores = {group.name: _mean(np.abs(rows)) for group, rows in sums}
    return Importance(scores, {"passes": len(times), "batch": options.batch})


def _from_weights(subject: Subject, measure: Callable[[Tensor], Tensor]) -> Work[Importance]:
    scores = {}
    for group in _weights_only(subject).groups:
        values = [_by_channel(measure(tensor(subject.model, s.tensor)), s) for s in group.slices]
        scores[group.name] = _mean(np.stack(values))
    yield Progress(1, 1, "weights")
    return Importance(scores)


def _weights_only(subject: Subject) -> Subject:
    """Its groups with the slices that torch-pruning's importances see; all, where it sees none."""
    groups = []
    for group in subject.groups:
        seen = tuple(
            s for s in group.slices if s.role is not Role.NORM and s.tensor.endswith(".weight")
        )
        groups.append(replace(group, slices=seen or group.slices))
    return replace(subject, groups=groups)


def _random(subject: Subject, seed: int) -> Work[Importance]:
    generator = np.random.default_rng((seed, 3))
    yield Progress(1, 1, "random numbers")
    return Importance({group.name: generator.random(group.size) for group in subject.groups})


# --- shared -------------------------------------------------------------------------------------

Batch = tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]  # clean, noise, t, conditions


def _batch(subject: Subject, t: int, n: int, key: Iterable[int]) -> Batch:
    """n images and noises drawn by a generator that ``key`` alone decides."""
    seed = int(np.random.SeedSequence(list(key)).generate_state(1)[0])
    generator = torch.Generator().manual_seed(seed)
    clean, conditions = subject.clean.draw(n, generator)
    noise = torch.randn(clean.shape, generator=generator)
    device = device_of(subject.model)
    conditions = {name: value.to(device) for name, value in conditions.items()}
    return clean.to(device), noise.to(device), torch.full((n,), t, device=device), conditions


def _loss(subject: Subject, batch: Batch) -> Tensor:
    """The mean squared error in epsilon space, a scalar."""
    clean, noise, t, conditions = batch
    process = subject.process
    inputs = {
        "sample": process.noised(clean, noise, t),
        "timestep": process.time(t),
        **conditions,
    }
    output = subject.family.call(subject.model, inputs)[:, : clean.shape[1]]
    error = (output - process.target(clean, noise, t)).square().flatten(1).mean(1)
    return (error * process.epsilon_scale(t)).mean()


def _mean_loss(
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
            subject.model.zero_grad(set_to_none=True)
        try:
            return sum(_piece_losses(subject, batch, size, gradients))
        except (RuntimeError, MemoryError) as caught:
            if not is_out_of_memory(caught):
                raise
            failure = caught.with_traceback(None)  # its frames hold the tensors of the piece
        if accumulate:
            raise no_room("measuring importance", failure) from failure
        subject.limit.rows = smaller(size, "measuring importance", failure)


def _piece_losses(subject: Subject, batch: Batch, size: int, gradients: bool) -> Iterator[float]:
    """Each piece's share of the mean loss; its gradients are added where they are wanted."""
    clean, noise, t, conditions = batch
    for start in range(0, len(clean), size):
        part = slice(start, start + size)
        rows = {name: value[part] for name, value in conditions.items()}
        piece = (clean[part], noise[part], t[part], rows)
        loss = _loss(subject, piece) * (len(piece[0]) / len(clean))
        if gradients:
            loss.backward()  # type: ignore[no-untyped-call]
        yield float(loss.detach())


def _backward(subject: Subject, batch: Batch, *, accumulate: bool = False) -> float:
    """Gradients of the loss at ``batch`` into .grad; returns the loss, which must be finite."""
    value = _mean_loss(subject, batch, gradients=True, accumulate=accumulate)
    if not np.isfinite(value):
        raise InputError(
            f"the loss at t = {int(batch[2][0])} is {value}; importance needs finite gradients",
            hint="check the model's weights, the scheduler's config and the range of the data",
        )
    return value


def _slice_sums(
    subject: Subject, *, absolute: bool = False
) -> Iterable[tuple[Group, NDArray[np.float64]]]:
    """For each group (S, C): w dL/dw summed over each slice of each channel."""
    products: dict[str, Tensor] = {}
    for group in subject.groups:
        rows = []
        for piece in group.slices:
            if piece.tensor not in products:
                value = _product(subject.model, piece.tensor)
                products[piece.tensor] = value.abs() if absolute else value
            rows.append(_by_channel(products[piece.tensor], piece))
        yield group, np.stack(rows)


def _product(model: nn.Module, name: str) -> Tensor:
    value = tensor(model, name)
    if value.grad is None:
        return torch.zeros_like(value)
    product = value.detach() * value.grad
    if not torch.isfinite(product).all():
        raise InputError(f"the gradients of {name} are not finite; importance cannot be ranked")
    return product


def _squares(value: Tensor) -> Tensor:
    return value.detach().square()


def _by_channel(value: Tensor, piece: Slice) -> NDArray[np.float64]:
    """Sum a tensor over everything but the slice's channels: (C,)."""
    others = [d for d in range(value.ndim) if d != piece.dim]
    along = value.double().sum(dim=others) if others else value.double()
    summed: NDArray[np.float64] = along.cpu().numpy()[piece.index].sum(axis=1)
    return summed


def _mean(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = rows.mean(axis=0)
    return mean


def _add_over_processes(total: dict[str, NDArray[np.float64]], world: int) -> None:
    if world == 1:
        return
    from accelerate import PartialState

    for name, value in total.items():
        summed = torch.from_numpy(value).to(PartialState().device)
        torch.distributed.all_reduce(summed)
        total[name] = summed.cpu().numpy()
