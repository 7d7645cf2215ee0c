"""Clean samples drawn from the dense model itself, for models that come without data.

Image i depends on (seed, i) alone: not on the batch, nor on how many processes share the work.
Under torchrun or ``accelerate launch`` each process draws its share, and every process gets all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from diffc.data.batches import run_in_batches
from diffc.data.clean import CleanSet
from diffc.data.conditions import missing_condition_error
from diffc.data.inputs import LABELS
from diffc.data.labels import drawn_label
from diffc.data.precision import autocast, device_of, fast_dtype
from diffc.data.processes import gather_rows, process_share
from diffc.data.randomness import keyed_noise
from diffc.data.sampling import ModelCall, TorchLoop, accurate_loop, denoise
from diffc.data.sharding import SHARDED_BATCH, calls_dtype, is_sharded
from diffc.data.states import DrawnStates
from diffc.models.denoiser import Denoiser
from diffc.models.families.examples import dtype_of
from diffc_export.events import Progress, Work
from diffc_export.specs import TensorSpec
from diffc_runtime.schedulers import sampler_words

NOISE = 1  # a stream of keys; ``labels.LABEL`` is another


@dataclass(frozen=True)
class Conditioning:
    """The conditions that samples are drawn under.

    Attributes:
        rows: For each condition, rows (M, ...). Sample i takes row i modulo M, so that several
            conditions stay aligned.
        null: A null condition (...) by name, which guidance leads away from.
        guidance: The scale of classifier-free guidance; 1 means none.
    """

    rows: Mapping[str, Tensor] = field(default_factory=dict)
    null: Mapping[str, Tensor] = field(default_factory=dict)
    guidance: float = 1.0


UNCONDITIONAL = Conditioning()


def synthesize(
    denoiser: Denoiser,
    n: int,
    given: Conditioning = UNCONDITIONAL,
    *,
    steps: int = 20,
    seed: int = 0,
    batch: int = 64,
) -> Work[CleanSet]:
    """Draw samples of the dense model by an accurate deterministic solver.

    They stand for what the model means, in losses and as the reference of distances: DDIM's own
    error in 20 or 50 steps would be a part of both (bench/distance.py compares the two).

    Args:
        denoiser: The dense model.
        n: The number of samples.
        given: The conditions. Class labels that it lacks are drawn uniformly over the classes that
            the model knows.
        steps: The number of sampling steps.
        seed: The seed of noise and labels.
        batch: The number of samples at a time; it is halved if memory runs out.

    Raises:
        RequestError: The model needs a condition that was not given.
    """
    plan = _DrawPlan(n, given, steps, seed, batch, keep=False)
    clean, _ = yield from _draw(denoiser, plan)
    return clean


def synthesize_with_states(
    denoiser: Denoiser,
    n: int,
    given: Conditioning,
    *,
    steps: int,
    seed: int,
    batch: int,
) -> Work[tuple[CleanSet, DrawnStates]]:
    """Draw the samples of ``synthesize``, and keep the states that they went through.

    Args:
        denoiser: The dense model.
        n: The number of samples.
        given: The conditions, as in ``synthesize``.
        steps: The number of sampling steps.
        seed: The seed of noise and labels.
        batch: The number of samples at a time; it is halved if memory runs out.

    Raises:
        RequestError: The model needs a condition that was not given.
    """
    clean, states = yield from _draw(denoiser, _DrawPlan(n, given, steps, seed, batch, keep=True))
    assert states is not None
    return clean, states


@dataclass(frozen=True)
class _DrawPlan:
    """What is drawn: the arguments of ``synthesize``, and whether the states are kept."""

    n: int
    given: Conditioning
    steps: int
    seed: int
    batch: int
    keep: bool


def _draw(denoiser: Denoiser, plan: _DrawPlan) -> Work[tuple[CleanSet, DrawnStates | None]]:
    """The samples, and their states where the plan keeps them."""
    n, given, steps, seed = plan.n, plan.given, plan.steps, plan.seed
    model, shape = denoiser.model, denoiser.sample_shape
    loop = accurate_loop(denoiser.scheduler, steps, shape)
    rank, world = process_share()
    share = -(-n // world)  # the last process makes a few too many, which are dropped
    index = range(rank * share, (rank + 1) * share)
    rows = condition_rows(index, denoiser.specs, given.rows, denoiser.class_count, seed)
    was_training = model.training
    model.eval()

    def part(of: range) -> Work[tuple[Tensor, Tensor | None]]:
        part_rows = {name: value[of.start : of.stop] for name, value in rows.items()}
        noise = keyed_noise(((seed, NOISE, index[i]) for i in of), shape)
        call = guided_call(denoiser, replace(given, rows=part_rows))
        way = _Way(loop, of.start, share, plan.keep)
        return _sample_batch(call, device_of(model), way, noise)

    together = is_sharded(model)
    batch = min(plan.batch, SHARDED_BATCH) if together else plan.batch
    parts = yield from run_in_batches(
        share, batch, part, "sampling the dense model", together=together
    )
    model.train(was_training)
    sample = gather_rows(torch.cat([part for part, _ in parts]), n)
    words = sampler_words(loop.loop.sampler or "")
    clean = CleanSet(
        sample,
        {name: gather_rows(value, n) for name, value in rows.items()},
        f"{n} samples of the dense model, {loop.loop.steps} steps of {words}, seed {seed}",
        dict(given.null),
    )
    kept = [states for _, states in parts if states is not None]
    if not kept:
        return clean, None
    times = tuple(loop.trajectory(shape).timesteps.tolist())
    guidance = given.guidance if given.null else 1.0
    return clean, DrawnStates(times, gather_rows(torch.cat(kept), n), NOISE, guidance)


def guided_call(
    denoiser: Denoiser, given: Conditioning, dtype: torch.dtype | None = None
) -> ModelCall:
    """Return a function of (x, t): the model at given conditions, guided away from the null
    conditions.

    Ho & Salimans 2022: null + scale (conditioned - null); with scale 1, or without null conditions,
    it is the model itself.

    Args:
        denoiser: The model.
        given: Conditions with one row for each row of x.
        dtype: The dtype of the forward passes; None: a fast one of the device. A sharded model has
            its own.
    """
    device, scale = device_of(denoiser.model), given.guidance
    conditions = {name: value.to(device) for name, value in given.rows.items()}
    dtype = calls_dtype(denoiser.model, dtype or fast_dtype(device))

    @torch.no_grad()
    def at(x: Tensor, t: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
        with autocast(device, dtype):
            return denoiser.call({"sample": x, "timestep": t, **rows}).float()

    def call(x: Tensor, t: Tensor) -> Tensor:
        conditioned = at(x, t, conditions)
        if scale == 1.0 or not given.null:
            return conditioned
        null = {
            name: value.to(device, conditions[name].dtype).expand_as(conditions[name])
            for name, value in given.null.items()
        }
        free = at(x, t, {**conditions, **null})
        return free + scale * (conditioned - free)

    return call


@dataclass(frozen=True)
class _Way:
    """How a batch is sampled.

    Attributes:
        loop: What is done.
        done: How many samples are there already.
        total: How many there will be.
        keep: Whether the states on the way are kept.
    """

    loop: TorchLoop
    done: int
    total: int
    keep: bool


def _sample_batch(
    call: ModelCall, device: torch.device, way: _Way, noise: Tensor
) -> Work[tuple[Tensor, Tensor | None]]:
    """The samples (B, *sample), and their states float16 (B, S, *sample) where they are kept."""
    start = noise.to(device)
    if start.ndim == 4:
        start = start.to(memory_format=torch.channels_last)
    x, calls = start, way.loop.calls(start.shape[1:])
    states: list[Tensor] = []
    for i, x in enumerate(denoise(call, way.loop, start)):
        if way.keep:
            states.append(x.to("cpu", torch.float16, copy=True).contiguous())
        yield Progress(way.done + len(x) * (i + 1) / calls, way.total, "sampling the dense model")
    config = way.loop.config
    if config.get("clip_sample"):  # a model of pixels, whose own sampler clips at every step
        limit = float(config.get("clip_sample_range") or 1.0)
        x = x.clamp(-limit, limit)
    return x.float().cpu().contiguous(), torch.stack(states, 1) if states else None


def condition_rows(
    index: range,
    specs: Sequence[TensorSpec],
    conditions: Mapping[str, Tensor],
    classes: int | None,
    seed: int,
) -> dict[str, Tensor]:
    """Return the conditions of some samples, each in its input's dtype.

    Args:
        index: The samples' numbers. The label of a sample follows from its number and the seed.
        specs: The inputs of the model.
        conditions: Name -> rows that were given; sample i gets row i modulo their number.
        classes: How many classes labels are drawn from, where none were given; None: unknown.
        seed: Of the labels.

    Returns:
        Name -> (len(index), ...).

    Raises:
        RequestError: The model takes a condition that was not given and cannot be drawn.
    """
    rows: dict[str, Tensor] = {}
    for spec in (spec for spec in specs if spec.kind == "condition"):
        name, dtype = spec.name, dtype_of(spec)
        if name in conditions:
            pool = conditions[name]
            rows[name] = pool[torch.tensor(index) % len(pool)].to(dtype)
        elif name == LABELS and spec.shape == () and classes:
            labels = [drawn_label(seed, i, classes) for i in index]
            rows[name] = torch.tensor(labels).to(dtype)
        else:
            raise missing_condition_error(name)
    return rows
