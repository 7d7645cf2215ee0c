"""Clean samples drawn from the dense model itself, for models that come without data.

Image i depends on (seed, i) alone: not on the batch, nor on how many processes share the work.
Under torchrun or ``accelerate launch`` each process draws its share, and every process gets all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diffc.data.batches import in_batches
from diffc.data.clean import CleanSet
from diffc.data.conditions import missing_condition
from diffc.data.inputs import LABELS
from diffc.data.precision import autocast, device_of, fast_dtype
from diffc.data.processes import gather_rows, process_share
from diffc.data.randomness import keyed_generator, keyed_noise
from diffc.data.sampling import Denoiser, denoise, deterministic_scheduler
from diffc.models.families.base import Family
from diffc.models.families.examples import dtype_of
from diffc_export.events import Progress, Work
from diffc_export.specs import TensorSpec
from diffc_runtime.json_types import JsonObject

NOISE, LABEL = 1, 2  # streams of keys


def synthesize(
    model: nn.Module,
    family: Family,
    scheduler_config: JsonObject,
    specs: Sequence[TensorSpec],
    n: int,
    *,
    steps: int = 20,
    seed: int = 0,
    batch: int = 64,
    conditions: Mapping[str, Tensor] | None = None,
    classes: int | None = None,
    null: Mapping[str, Tensor] | None = None,
    guidance: float = 1.0,
) -> Work[CleanSet]:
    """``n`` samples of the dense model by a deterministic sampler of ``steps`` steps.

    specs: the denoiser's inputs, as its family says them.
    conditions: for each condition but class labels, rows (M, ...) to draw from; row i goes with
        sample i modulo M, so that several conditions stay aligned.
    null, guidance: null conditions (...), and the scale of classifier-free guidance by them.
    classes: labels are drawn uniformly from 0..classes-1; None: the model's config says.

    Raises RequestError when the model needs a condition that was not given.
    """
    scheduler = deterministic_scheduler(scheduler_config, steps)
    shape = next(spec.shape for spec in specs if spec.kind == "sample")
    rank, world = process_share()
    share = -(-n // world)  # the last process makes a few too many, which are dropped
    index = range(rank * share, (rank + 1) * share)
    rows = condition_rows(
        index, specs, conditions or {}, classes or model_classes(model, family), seed
    )
    was_training = model.training
    model.eval()

    def part(of: range) -> Work[Tensor]:
        given = {name: value[of.start : of.stop] for name, value in rows.items()}
        noise = keyed_noise(((seed, NOISE, index[i]) for i in of), shape)
        call = guided(model, family, given, null or {}, guidance)
        return _batch(call, device_of(model), scheduler, noise, of.start, share)

    parts = yield from in_batches(share, batch, part, "sampling the dense model")
    model.train(was_training)
    sample = gather_rows(torch.cat(parts), n)
    return CleanSet(
        sample,
        {name: gather_rows(value, n) for name, value in rows.items()},
        f"{n} samples of the dense model, {scheduler.num_inference_steps} deterministic steps, "
        f"seed {seed}",
        dict(null or {}),
    )


def guided(
    model: nn.Module,
    family: Family,
    conditions: Mapping[str, Tensor],
    null: Mapping[str, Tensor],
    scale: float,
    dtype: torch.dtype | None = None,
) -> Denoiser:
    """``model`` at ``conditions`` as a function of (x, t), guided away from ``null``.

    Ho & Salimans 2022: null + scale (conditioned - null); scale 1, or no null, is the model itself.
    dtype: of the forward passes; None: what the device is fast at.
    """
    device = device_of(model)
    given = {name: value.to(device) for name, value in conditions.items()}
    dtype = dtype or fast_dtype(device)

    @torch.no_grad()
    def at(x: Tensor, t: Tensor, rows: Mapping[str, Tensor]) -> Tensor:
        with autocast(device, dtype):
            return family.call(model, {"sample": x, "timestep": t, **rows}).float()

    def call(x: Tensor, t: Tensor) -> Tensor:
        conditioned = at(x, t, given)
        if scale == 1.0 or not null:
            return conditioned
        empty = {n: v.to(device, given[n].dtype).expand_as(given[n]) for n, v in null.items()}
        free = at(x, t, {**given, **empty})
        return free + scale * (conditioned - free)

    return call


def _batch(
    call: Denoiser, device: torch.device, scheduler: Any, noise: Tensor, done: int, total: int
) -> Work[Tensor]:
    start = noise.to(device)
    if start.ndim == 4:
        start = start.to(memory_format=torch.channels_last)
    x, steps = start, len(scheduler.timesteps)
    for i, x in enumerate(denoise(call, scheduler, start)):
        yield Progress(done + len(x) * (i + 1) / steps, total, "sampling the dense model")
    return x.float().cpu().contiguous()


def condition_rows(
    index: range,
    specs: Sequence[TensorSpec],
    conditions: Mapping[str, Tensor],
    classes: int | None,
    seed: int,
) -> dict[str, Tensor]:
    """Each condition's rows (len(index), ...) for the samples ``index``, in its input's dtype."""
    rows: dict[str, Tensor] = {}
    for spec in (spec for spec in specs if spec.kind == "condition"):
        name, dtype = spec.name, dtype_of(spec)
        if name in conditions:
            pool = conditions[name]
            rows[name] = pool[torch.tensor(index) % len(pool)].to(dtype)
        elif name == LABELS and spec.shape == () and classes:
            rows[name] = torch.stack([_label(seed, i, classes) for i in index]).to(dtype)
        else:
            raise missing_condition(name)
    return rows


def model_classes(model: nn.Module, family: Family) -> int | None:
    """How many classes a denoiser knows, or None."""
    return family.class_count(getattr(model, "config", {}))


def _label(seed: int, i: int, classes: int) -> Tensor:
    return torch.randint(classes, (), generator=keyed_generator(seed, LABEL, i))
