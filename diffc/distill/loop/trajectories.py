"""The dense model's trajectories: made once, in shards, and read row by row.

    make_trajectories  run the dense model from noise; a killed run goes on at its last shard
    TrajectorySet      what was made, with the conditions that it was made under

Trajectory i begins at the noise keyed by (seed, i) and has the conditions of clean sample i, modulo
their number. It depends on nothing else: not on the batch, nor on how many processes share the
work. Where the clean samples were drawn along the same way, theirs are the first trajectories
(data/states.py). A shard is a safetensors file of ``x`` (n, P + 1, *sample): the states at the
visited timesteps and the clean end, in half precision, whose rounding is far below the dense
model's own in bfloat16. The noise is not stored: it is drawn again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffc.data.batches import run_in_batches
from diffc.data.clean import CleanSet
from diffc.data.precision import best_device, channels_last, device_of
from diffc.data.processes import gather_rows, process_share, wait_for_all
from diffc.data.randomness import keyed_noise
from diffc.data.sharding import SHARDED_BATCH, is_sharded
from diffc.data.states import DrawnStates
from diffc.data.synthetic import Conditioning, guided_call
from diffc.distill.loop.path import DensePath
from diffc.distill.setup import tensor_bytes
from diffc.errors import InputError
from diffc.models.denoiser import Denoiser
from diffc.models.diffusion import time_dtype
from diffc.models.schedulers import is_flow
from diffc_export.events import Progress, Work
from diffc_runtime import denoising
from diffc_runtime.files import file_digest, new_file

NOISE = 9
"""The stream of keys that the noise of trajectories is drawn from."""
SHARD = 128
"""Trajectories in a shard: what a killed run makes again at most."""
MADE_AT_ONCE = 64
"""Trajectories that one call works on, where memory has room."""
_FACTS = "trajectories.json"
DOING = "trajectories of the dense model"


@dataclass(frozen=True)
class TrajectoryPlan:
    """What trajectories to make.

    Attributes:
        path: Where the dense model is called, and what is kept.
        count: How many trajectories.
        guidance: The scale of classifier-free guidance; 1 for none.
        seed: Of the noise.
        batch: How many at a time; halved where memory has no room.
        drawn: The states of the clean samples, whose ways are the first trajectories; None where
            they went another one.
    """

    path: DensePath
    count: int
    guidance: float = 1.0
    seed: int = 0
    batch: int = MADE_AT_ONCE
    drawn: DrawnStates | None = None

    @property
    def drawn_count(self) -> int:
        """How many trajectories the clean samples went already."""
        return 0 if self.drawn is None else min(len(self.drawn), self.count)

    def shards(self) -> list[range]:
        """The trajectories of each shard."""
        starts = range(0, self.count, SHARD)
        return [range(start, min(self.count, start + SHARD)) for start in starts]


def make_trajectories(
    denoiser: Denoiser, clean: CleanSet, plan: TrajectoryPlan, folder: Path
) -> Work[int]:
    """Write the shards into ``folder``; returns how many calls of the network were made now.

    Args:
        denoiser: The dense model.
        clean: The conditions, and the null conditions of guidance.
        plan: What to make.
        folder: Shards that lie there whole are not made again.

    Raises:
        OutOfMemory: There is no room for one trajectory.
        InputError: The dense model gave values that are not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rank, world = process_share()
    together = is_sharded(denoiser.model)
    if not together:
        denoiser.model.to(best_device())
        channels_last(denoiser.model)
    denoiser.model.eval()
    missing = [
        (number, rows)
        for number, rows in enumerate(plan.shards())
        if not _is_whole(_shard(folder, number), rows, plan, denoiser)
    ]
    wait_for_all()  # until all have looked; from here on shards are written
    calls = 0
    for number, rows in missing:
        if not together and number % world != rank:
            continue
        x = yield from _shard_states(denoiser, clean, plan, rows)
        if not bool(x.isfinite().all()):
            raise InputError("the dense model's trajectories hold values that are not finite")
        if number % world == rank:
            with new_file(_shard(folder, number), flush=True) as part:
                save_file({"x": x.contiguous()}, part)
        fresh = len(_fresh(rows, plan))
        calls += fresh * len(plan.path.times) * _calls_a_step(clean, plan)
    if rank == 0:
        facts = {
            "count": plan.count, "seed": plan.seed, "visited": plan.path.visited,
            "drawn": plan.drawn_count, "stream": plan.drawn.stream if plan.drawn else NOISE,
        }  # fmt: skip
        with new_file(folder / _FACTS) as part:
            part.write_text(json.dumps(facts), "utf-8")
    wait_for_all()
    return calls


def _calls_a_step(clean: CleanSet, plan: TrajectoryPlan) -> int:
    return 2 if clean.null and plan.guidance != 1.0 else 1


def _shard(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.safetensors"


def _is_whole(path: Path, rows: range, plan: TrajectoryPlan, denoiser: Denoiser) -> bool:
    """Whether a shard is there with as many states; one that cannot be read is made again."""
    try:
        with safe_open(path, framework="pt") as file:
            shape = tuple(file.get_slice("x").get_shape())
    except (SafetensorError, OSError):
        return False
    return shape == (len(rows), len(plan.path.kept), *denoiser.sample_shape)


def _fresh(rows: range, plan: TrajectoryPlan) -> range:
    """Those of ``rows`` that no clean sample went."""
    return range(max(rows.start, plan.drawn_count), max(rows.stop, plan.drawn_count))


def _shard_states(
    denoiser: Denoiser, clean: CleanSet, plan: TrajectoryPlan, rows: range
) -> Work[Tensor]:
    """(len(rows), P + 1, *sample) float16."""
    parts: list[Tensor] = []
    if plan.drawn is not None and rows.start < plan.drawn_count:
        known = range(rows.start, min(rows.stop, plan.drawn_count))
        parts.append(plan.drawn.after(known, plan.path.kept))
    if fresh := _fresh(rows, plan):
        states = _shared_states if is_sharded(denoiser.model) else _new_states
        parts.append((yield from states(denoiser, clean, plan, fresh)))
    return torch.cat(parts)


def _new_states(
    denoiser: Denoiser, clean: CleanSet, plan: TrajectoryPlan, rows: range
) -> Work[Tensor]:
    """The same by calls of the dense model."""

    def part(of: range) -> Work[Tensor]:
        numbers = [rows[i] for i in of]
        _, conditions = clean.rows(torch.tensor(numbers) % len(clean))
        call = guided_call(denoiser, Conditioning(conditions, clean.null, plan.guidance))
        noise = keyed_noise(((plan.seed, NOISE, i) for i in numbers), denoiser.sample_shape)
        return _states(call, device_of(denoiser.model), plan, noise, numbers[0])

    together = is_sharded(denoiser.model)
    batch = min(plan.batch, SHARDED_BATCH) if together else plan.batch
    parts = yield from run_in_batches(len(rows), batch, part, DOING, together=together)
    return torch.cat(parts)


def _shared_states(
    denoiser: Denoiser, clean: CleanSet, plan: TrajectoryPlan, rows: range
) -> Work[Tensor]:
    """The same, of which each process makes an equal share with a sharded model; all get all."""
    rank, world = process_share()
    share = -(-len(rows) // world)  # the last ones make a few too many, which are dropped
    first = rows.start + rank * share
    own = yield from _new_states(denoiser, clean, plan, range(first, first + share))
    return gather_rows(own, len(rows))


def _states(
    call: Any, device: torch.device, plan: TrajectoryPlan, noise: Tensor, done: int
) -> Work[Tensor]:
    solver, kept = plan.path.solver(), set(plan.path.kept)
    kind = time_dtype(plan.path.times, flow=is_flow(plan.path.settings))

    def model(x: Any, time: float) -> Any:
        return call(x, torch.full((len(x),), time, dtype=kind, device=device))[:, : x.shape[1]]

    start: Any = noise.to(device)
    if start.ndim == 4:
        start = start.to(memory_format=torch.channels_last)
    states = []
    for i, x in enumerate(denoising.denoise(model, solver, start), 1):
        if i in kept:
            states.append(torch.as_tensor(x).to("cpu", torch.float16).contiguous())
        so_far = done + len(noise) * i / len(plan.path.times)
        yield Progress(so_far, plan.count, DOING)
    return torch.stack(states, 1)


@dataclass(frozen=True)
class TrajectorySet:
    """Trajectories on disk, and their conditions.

    Attributes:
        folder: The shards.
        count: How many trajectories.
        seed: Of their noise.
        visited: (P,) the timesteps whose states are kept.
        clean: The conditions of trajectory i are those of clean sample i modulo their number.
        drawn: How many are clean samples' own ways, the first ones.
        stream: Of the keys that the noise of these was drawn by.
    """

    folder: Path
    count: int
    seed: int
    visited: tuple[float, ...]
    clean: CleanSet
    drawn: int = 0
    stream: int = NOISE

    @classmethod
    def load(cls, folder: Path, clean: CleanSet) -> TrajectorySet:
        """Open what ``make_trajectories`` wrote."""
        facts = json.loads((folder / _FACTS).read_text("utf-8"))
        count, seed, visited = facts["count"], facts["seed"], tuple(facts["visited"])
        return cls(folder, count, seed, visited, clean, facts["drawn"], facts["stream"])

    def __len__(self) -> int:
        return self.count

    @cached_property
    def _slices(self) -> list[Any]:
        numbers = range(-(-self.count // SHARD))
        files: list[Any] = [
            safe_open(_shard(self.folder, number), framework="pt") for number in numbers
        ]
        return [file.get_slice("x") for file in files]

    def states(self, row: int) -> Tensor:
        """(P + 2, *sample) float32: the noise, the states at ``visited``, the clean end."""
        kept = self._slices[row // SHARD][row % SHARD].float()
        stream = self.stream if row < self.drawn else NOISE
        return torch.cat([keyed_noise([(self.seed, stream, row)], kept.shape[1:]), kept])

    def conditions(self, rows: list[int]) -> dict[str, Tensor]:
        """Name -> (len(rows), ...)."""
        return self.clean.rows(torch.tensor(rows) % len(self.clean))[1]

    def digests(self) -> Iterator[bytes]:
        """What identifies the trajectories: of each shard, and of the conditions' values."""
        for number in range(-(-self.count // SHARD)):
            yield file_digest(_shard(self.folder, number)).encode()
        yield f"{self.seed} {self.visited} {self.drawn} {self.stream}".encode()
        for value in self.clean.conditions.values():
            yield tensor_bytes(value)
