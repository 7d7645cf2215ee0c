"""The lesson of the loops that will be served: what step i trains on, and its loss.

A row of a batch is one step of one loop on one trajectory of the dense model: the state that the
loop is at, and the output that takes it to the next state. The loss is the mean square of the
error in that output. Trajectories are functions of their noise, so that a mean square blurs less
than on data; what blur is left the dense model's features tell (features.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from diffc.data.batches import halve_batch, out_of_memory_error
from diffc.data.precision import autocast
from diffc.data.sharding import is_sharded
from diffc.distill.lesson import row_in_epochs, split
from diffc.distill.loop.features import DenseFeatures
from diffc.distill.loop.readout import fit_readout
from diffc.distill.loop.steps import LoopSteps, clean_step
from diffc.distill.loop.trajectories import TrajectorySet
from diffc.distill.losses import per_sample
from diffc.errors import InputError
from diffc.models.denoiser import Denoiser
from diffc.models.diffusion import Process, time_dtype
from diffc.models.families.base import Family
from diffc.recipe import LoopTrainingSection
from diffc_runtime.machine.out_of_memory import is_out_of_memory

T = TypeVar("T")
ORDER = 11
"""The stream of keys that the order of the rows is drawn from."""
MOST_SEEN_BYTES = 400e6
"""The most memory that is taken for what the dense model sees in the targets."""
_PART = 16
"""Rows that the dense model, or the student before its training, is given at once."""
READOUT_ROWS = 256
"""Rows that the last layer is solved with before the training."""


@dataclass(frozen=True)
class LoopBatch:
    """What one process trains on in one step.

    Attributes:
        sample: (B, ...) what the model is given.
        time: (B,) its timesteps.
        target: (B, ...) what it should give.
        to_clean: (B, 2) keep and gain (``clean_step``): the clean sample is keep times ``sample``
            plus gain times the output.
        conditions: Name -> (B, ...).
        numbers: (B,) which step of which trajectory each row is, among all of the lesson.
    """

    sample: Tensor
    time: Tensor
    target: Tensor
    to_clean: Tensor
    conditions: dict[str, Tensor]
    numbers: Tensor

    def __len__(self) -> int:
        return len(self.time)

    def pieces(self, n: int) -> list[LoopBatch]:
        """``n`` parts, equal but for the last ones."""
        return [self._slice(a, b) for a, b in split(len(self), n)]

    def _slice(self, a: int, b: int) -> LoopBatch:
        conditions = {name: rows[a:b] for name, rows in self.conditions.items()}
        sample, time, target, to_clean, numbers = (
            value[a:b]
            for value in (self.sample, self.time, self.target, self.to_clean, self.numbers)
        )
        return LoopBatch(sample, time, target, to_clean, conditions, numbers)

    def clean(self, output: Tensor) -> Tensor:
        """The clean samples (B, ...) of an output: keep * sample + gain * output."""
        keep, gain = (_wide(column, output) for column in self.to_clean.unbind(1))
        return keep * self.sample + gain * output


@dataclass(frozen=True)
class _Place:
    """A step of a loop on a trajectory: from state ``begin`` to state ``end`` of those kept."""

    time: float
    keep: float
    gain: float
    begin: int
    end: int
    to_clean: tuple[float, float]


class LoopLesson:
    """The steps of one or several loops, on the dense model's trajectories."""

    def __init__(
        self,
        student: Denoiser,
        trajectories: TrajectorySet,
        loops: Sequence[LoopSteps],
        options: LoopTrainingSection,
        seed: int = 0,
        dense: Denoiser | None = None,
    ) -> None:
        """Find each loop's states among those of the trajectories.

        Args:
            student: The network that is trained, with the facts of its class.
            trajectories: Of the dense model, with the states at the loops' timesteps.
            loops: The loops. A step that several have is learned for each.
            options: How to train.
            seed: Of the order of the rows.
            dense: The dense model, whose features are compared where ``options`` asks for it.

        Raises:
            InputError: The trajectories lack a state.
            RequestError: The dense model has no features that could be compared.
        """
        self.student, self.trajectories, self.options, self.seed = (
            student, trajectories, options, seed,
        )  # fmt: skip
        process = student.process
        self.places = tuple(p for loop in loops for p in _places(loop, trajectories, process))
        self.features = DenseFeatures(dense) if options.features and dense else None
        self._seen: list[Tensor] | None = None
        self.device, self.dtype = torch.device("cpu"), torch.float32

    @property
    def network(self) -> None:
        """The dense model is not called where the student is: its trajectories are there."""
        return

    @property
    def family(self) -> Family:
        """Of the student's class."""
        return self.student.family

    def digests(self) -> Iterator[bytes]:
        """The trajectories, and the steps."""
        yield from self.trajectories.digests()
        yield repr(self.places).encode()

    def open(self, student: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        """Remember where and in what the student runs."""
        self.device, self.dtype = device, dtype
        if self.features is not None:
            self.features.open(device, dtype)

    def begin(self, student: nn.Module) -> list[str]:
        """Solve the last layer for the targets, so that training starts near them."""
        rows = range(min(READOUT_ROWS, len(self.trajectories)))
        batch = self._batch([(row, place) for row in rows for place in range(len(self.places))])

        def solve(at_once: int) -> tuple[float, float] | None:
            pieces = batch.pieces(-(-len(batch) // at_once))
            return fit_readout(student, pieces, lambda piece: self._output(student, piece))

        doing = "solving the last layer for the loop"
        before_after = _with_room(solve, doing, together=is_sharded(student))
        if before_after is None:
            return []
        before, after = before_after
        return [f"the last layer was solved for the loop: error {before:.3g}, then {after:.3g}"]

    def draw(self, step: int, rows: range) -> LoopBatch:
        """Rows ``rows`` of step ``step``'s global batch.

        Rows come in epochs of every trajectory, each a new permutation; a row's place among the
        steps of the loops goes round, so that every batch has its share of each.
        """
        first, count = step * self.options.batch, len(self.places)
        numbers = [first + row for row in rows]
        return self._batch([(self._row(i), i % count) for i in numbers])

    def _row(self, number: int) -> int:
        return row_in_epochs(number, len(self.trajectories), self.seed, ORDER)

    def _batch(self, numbered: Sequence[tuple[int, int]]) -> LoopBatch:
        """Rows of a trajectory's number and a step's."""
        rows = [(row, self.places[place]) for row, place in numbered]
        states = [self.trajectories.states(row) for row, _ in rows]
        begins = torch.stack([s[place.begin] for s, (_, place) in zip(states, rows, strict=True)])
        ends = torch.stack([s[place.end] for s, (_, place) in zip(states, rows, strict=True)])
        keep, gain = (
            torch.tensor([getattr(place, name) for _, place in rows], dtype=torch.float64)
            for name in ("keep", "gain")
        )
        target = (ends - _wide(keep, begins) * begins) / _wide(gain, begins)
        times = [place.time for _, place in rows]
        kind = time_dtype(times, flow=self.student.process.prediction == "flow")
        conditions = self.trajectories.conditions([row for row, _ in rows])
        return LoopBatch(
            begins.to(self.device),
            torch.tensor(times, dtype=kind).to(self.device),
            target.float().to(self.device),
            torch.tensor([place.to_clean for _, place in rows]).to(self.device),
            {name: value.to(self.device) for name, value in conditions.items()},
            torch.tensor([row * len(self.places) + place for row, place in numbered]),
        )

    def _output(self, model: nn.Module, batch: LoopBatch) -> Tensor:
        inputs = {"sample": batch.sample, "timestep": batch.time, **batch.conditions}
        with autocast(self.device, self.dtype):
            output = self.student.with_model(model).call(inputs)
        return output[:, : batch.target.shape[1]]  # a learned variance comes after it

    def loss(self, model: nn.Module, batch: LoopBatch) -> Tensor:
        """The mean square of the error in the output, and the difference in features."""
        output = self._output(model, batch).float()
        loss = per_sample(output - batch.target)
        if self.features is not None:
            ours, theirs = batch.clean(output), batch.clean(batch.target)
            seen = self._seen_in(batch, self.features)
            difference = self.features.difference(ours, theirs, batch.conditions, seen)
            loss = loss + self.options.features * difference
        return loss.mean()

    def _seen_in(self, batch: LoopBatch, features: DenseFeatures) -> list[Tensor] | None:
        """What the dense model sees in the targets; None where it is not kept.

        The same targets come again and again where there are few trajectories. What is kept was
        computed in parts that know nothing of the steps, so that a killed run goes on the same.
        """
        if self._seen is None:
            self._seen = self._seen_in_all(features)
        return [block[batch.numbers].to(self.device) for block in self._seen] or None

    def _seen_in_all(self, features: DenseFeatures) -> list[Tensor]:
        """Of each block what it gives of every target; nothing where that does not pay or fit."""
        count = len(self.places)
        every = [divmod(number, count) for number in range(len(self.trajectories) * count)]
        if 2 * len(every) > self.options.steps * self.options.batch:
            return []

        def seen_in_parts(at_once: int) -> list[Tensor]:
            parts: list[list[Tensor]] = []
            for first in range(0, len(every), at_once):
                batch = self._batch(every[first : first + at_once])
                seen = features.seen(batch.clean(batch.target), batch.conditions)
                parts.append([block.cpu() for block in seen])  # a GPU's memory is for the training
                size = sum(block.nbytes for block in parts[0]) / min(at_once, len(every))
                if size * len(every) > MOST_SEEN_BYTES:
                    return []
            return [torch.cat(blocks) for blocks in zip(*parts, strict=True)]

        doing = "looking at the targets with the dense model"
        return _with_room(seen_in_parts, doing, together=is_sharded(features.dense.model))

    def forget(self) -> None:
        """Nothing is caught on the way."""

    def close(self) -> None:
        """Nothing was put into the networks."""


def _with_room(work: Callable[[int], T], doing: str, *, together: bool) -> T:
    """What ``work`` gives with so many rows at once; halved from ``_PART`` while memory runs out.

    Args:
        work: It may be begun anew.
        doing: The activity, for messages.
        together: Whether several processes do it together, of which none can halve its own.

    Raises:
        OutOfMemory: There is no room for one row, or for rows that are not to be halved.
    """
    at_once = _PART
    while True:
        try:
            return work(at_once)
        except (RuntimeError, MemoryError) as caught:
            if not is_out_of_memory(caught):
                raise
            failure = caught.with_traceback(None)  # its frames hold the tensors of the rows
        if together:
            raise out_of_memory_error(doing, failure) from failure
        at_once = halve_batch(at_once, doing, failure)


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """(B,) as (B, 1, ...), of as many dimensions as ``like``."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _places(loop: LoopSteps, trajectories: TrajectorySet, process: Process) -> Iterator[_Place]:
    kept = {time: number for number, time in enumerate(trajectories.visited, 1)}
    lacking = [time for time in loop.times[1:] if time not in kept]
    if lacking:
        raise InputError(f"the trajectories have no states at the timesteps {lacking}")
    begins = [0, *(kept[time] for time in loop.times[1:])]
    ends = [*begins[1:], len(trajectories.visited) + 1]
    for values in zip(loop.times, loop.keep, loop.gain, begins, ends, strict=True):
        yield _Place(*values, clean_step(process, values[0]))
