"""The whole denoising loop: seed, steps, guidance and conditions in, samples out.

    pipeline = Pipeline(denoise, scheduler_config, (3, 32, 32))
    samples = pipeline.generate(16, steps=50, seed=0)          # (16, 3, 32, 32)

Every image has its own stream of random numbers, named by (seed, index): image 7 of seed 0 is the
same whether it is made alone or among sixteen. Buffers are made once per batch; a step of the loop
makes no array of its own beside what ``denoise`` returns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import schedules
from .errors import BadRequest, UnfitEngine
from .schedulers import check_whole, own_name, scheduler
from .stepping import Scheduler

Array = NDArray[Any]
Denoise = Callable[[dict[str, Array]], Array]

MOST_IMAGES = 1024
"""The most images that one call makes."""
MOST_BATCH = 64
"""The batch used where the engine sets no limit."""
MOST_GUIDANCE = 100.0
LAST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Input:
    """One input of the denoiser: shape without the batch, numpy dtype name, and kind.

    kind: ``sample``, ``timestep`` or ``condition``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    kind: str = "condition"


@dataclass(frozen=True)
class Request:
    """A checked request. conditions, unconditional: name -> (N, ...) in the input's dtype."""

    n: int
    seed: int
    first: int
    guidance: float
    conditions: Mapping[str, Array]
    unconditional: Mapping[str, Array]

    @property
    def rows(self) -> int:
        """Denoiser rows per image: guidance doubles them."""
        return 1 if self.guidance == 1.0 else 2


class Pipeline:
    """A denoiser and a scheduler config, ready to make images.

    denoise: the denoiser's inputs by name, each (B, ...), -> its output (B, ...).
    scheduler_config: a diffusers scheduler's config.
    sample_shape: (C, H, W) of what is denoised.
    inputs: the denoiser's inputs; default ``sample`` and an int64 ``timestep``.
    batches: (smallest, largest) for each range of batch sizes that the engine serves; empty: any.
    decode: latents (B, C, H, W), scaled for the decoder, -> samples (B, 3, H', W').
    latent_scale, latent_shift: the decoder is given ``x / latent_scale + latent_shift``; a number,
        or one for each channel.
    unconditional: the conditions' values that stand for "none", for guidance.
    scheduler: the sampler used when a request names none; default the config's own.
    """

    def __init__(
        self,
        denoise: Denoise,
        scheduler_config: Mapping[str, Any],
        sample_shape: Sequence[int],
        *,
        inputs: Sequence[Input] = (),
        batches: Sequence[tuple[int, int]] = (),
        decode: Callable[[Array], Array] | None = None,
        latent_scale: float | Sequence[float] = 1.0,
        latent_shift: float | Sequence[float] = 0.0,
        unconditional: Mapping[str, Any] | None = None,
        scheduler: str | None = None,
    ) -> None:
        self.denoise = denoise
        self.scheduler_config = dict(scheduler_config)
        self.sample_shape = tuple(int(size) for size in sample_shape)
        self.inputs = tuple(inputs) or (
            Input("sample", self.sample_shape, kind="sample"),
            Input("timestep", (), "int64", "timestep"),
        )
        self.batches = sorted(batches) or [(1, MOST_BATCH)]
        self.decode = decode
        self.latent_scale = _per_channel(latent_scale)
        self.latent_shift = _per_channel(latent_shift)
        self.unconditional = dict(unconditional or {})
        self.scheduler_name = scheduler or own_name(scheduler_config)
        self._sample = _one(self.inputs, "sample")
        self._timestep = _one(self.inputs, "timestep")
        self.conditions = tuple(spec for spec in self.inputs if spec.kind == "condition")

    @property
    def largest_batch(self) -> int:
        """The most rows that one call of the denoiser takes."""
        return max(high for _, high in self.batches)

    @property
    def most_steps(self) -> int:
        """The most steps that a request may ask for."""
        return schedules.train_steps(self.scheduler_config)

    def generate(
        self,
        n: int,
        steps: int,
        seed: int,
        scheduler: str | None = None,
        guidance: float = 1.0,
        conditions: Mapping[str, Any] | None = None,
        unconditional: Mapping[str, Any] | None = None,
        first: int = 0,
    ) -> NDArray[np.float32]:
        """``n`` samples (N, C, H, W) in [-1, 1], in batches no larger than the engine's largest.

        seed, first: image i of the result is image ``first + i`` of ``seed``.
        guidance: w of classifier-free guidance, u + w (c - u); 1 for none.
        conditions, unconditional: name -> (N, ...) or (...) for all images alike.
        Raises BadRequest for anything out of range, UnfitEngine when the engine gives no numbers.
        """
        request = self._checked(n, seed, first, guidance, conditions, unconditional)
        sampler = self.sampler(steps, scheduler)
        per_batch = max(1, self.largest_batch // request.rows)
        made = [
            self._batch(request, start, min(start + per_batch, n), sampler)
            for start in range(0, n, per_batch)
        ]
        samples = np.concatenate(made) if len(made) > 1 else made[0]
        if not np.isfinite(samples).all():
            raise UnfitEngine("the engine gave values that are not numbers (NaN or infinity)")
        return samples.astype(np.float32, copy=False)

    def sampler(self, steps: int, name: str | None = None) -> Scheduler:
        """The sampler of a request. Raises BadRequest."""
        sampler = scheduler(name or self.scheduler_name, self.scheduler_config, steps)
        check_whole(sampler, np.issubdtype(self._timestep.dtype, np.integer))
        return sampler

    # One batch ------------------------------------------------------------------------------------

    def _batch(self, request: Request, start: int, stop: int, sampler: Scheduler) -> Array:
        """Images start..stop of a request, through the whole loop."""
        streams = _streams(request.seed, request.first + start, stop - start)
        x = np.empty((stop - start, *self.sample_shape), np.float32)
        _draw(streams, x)
        x *= np.float32(sampler.init_noise_sigma)
        noise = np.empty_like(x) if sampler.stochastic else None
        call = _Call(self, request, start, stop)
        for i, timestep in enumerate(sampler.timesteps.tolist()):
            sampler.scale_input(x, i, out=call.sample)
            output = call(timestep)
            if noise is not None and sampler.noise_scale[i]:
                _draw(streams, noise)
            sampler.step(output, i, x, noise)
        return self._decoded(x)

    def _decoded(self, x: Array) -> Array:
        if self.decode is None:
            return x
        return self.decode(x / self.latent_scale + self.latent_shift)

    def fit(self, rows: int) -> int:
        """The batch size to call the denoiser with for ``rows`` rows: the smallest that serves."""
        return smallest_batch(self.batches, rows)

    # Checks ---------------------------------------------------------------------------------------

    def _checked(
        self,
        n: int,
        seed: int,
        first: int,
        guidance: float,
        conditions: Mapping[str, Any] | None,
        unconditional: Mapping[str, Any] | None,
    ) -> Request:
        _check_whole("n, the number of images,", n, 1, MOST_IMAGES)
        _check_whole("seed", seed, 0, LAST_SEED)
        _check_whole("first", first, 0, LAST_SEED)
        weight = self._checked_guidance(guidance)
        given = self._checked_conditions(conditions or {}, n, "condition")
        none = {}
        if weight != 1.0:
            values = {**self.unconditional, **(unconditional or {})}
            none = self._checked_conditions(values, n, "unconditional value of condition")
        return Request(int(n), int(seed), int(first), weight, given, none)

    def _checked_guidance(self, guidance: Any) -> float:
        number = isinstance(guidance, (int, float, np.integer, np.floating))
        if not number or not math.isfinite(guidance) or not 0 <= guidance <= MOST_GUIDANCE:
            raise BadRequest(f"guidance must be 0 to {MOST_GUIDANCE:g}, not {guidance!r}")
        if guidance != 1 and not self.conditions:
            raise BadRequest(
                f"guidance {guidance:g} needs a model with conditions; this has none (use 1)"
            )
        return float(guidance)

    def _checked_conditions(self, given: Mapping[str, Any], n: int, what: str) -> dict[str, Array]:
        known = [spec.name for spec in self.conditions]
        for name in given:
            if name not in known:
                listed = ", ".join(known) or "none"
                raise BadRequest(f"unknown condition '{name}' (the model takes: {listed})")
        for spec in self.conditions:
            if spec.name not in given:
                need = ("n", *spec.shape)
                raise BadRequest(f"the {what} '{spec.name}' is missing: {spec.dtype} {need}")
        return {spec.name: _rows(spec, given[spec.name], n) for spec in self.conditions}


class _Call:
    """The denoiser's inputs for one batch, made once and filled again at every step.

    sample: (B, C, H, W) where the loop writes what the model sees of x. Rows beyond the images
    (the second half for guidance, padding up to a batch size that the engine serves) follow it in
    the same array.
    """

    def __init__(self, pipeline: Pipeline, request: Request, start: int, stop: int) -> None:
        images = stop - start
        rows = images * request.rows
        together = rows <= pipeline.largest_batch
        self._denoise = pipeline.denoise
        self._images, self._guidance = images, request.guidance
        self._channels = pipeline.sample_shape[0]
        # where the largest batch is 1, the two halves of guidance are two calls
        size = pipeline.fit(rows if together else images)
        self._calls = [slice(0, size)] if together else [slice(0, size), slice(size, 2 * size)]
        total = self._calls[-1].stop
        self._inputs = {s.name: np.zeros((total, *s.shape), s.dtype) for s in pipeline.inputs}
        self._all = self._inputs[pipeline._sample.name]
        self._time = self._inputs[pipeline._timestep.name]
        self.sample = self._all[:images]
        self._second = slice(images, 2 * images) if together else slice(size, size + images)
        for name, values in request.conditions.items():
            self._inputs[name][:images] = values[start:stop]
        for name, values in request.unconditional.items():
            self._inputs[name][self._second] = values[start:stop]
        self._views = [{k: v[rows] for k, v in self._inputs.items()} for rows in self._calls]

    def __call__(self, timestep: float) -> Array:
        """The model's output (B, C, H, W) in float32 at the sample in place."""
        self._time[...] = timestep
        if self._guidance == 1.0:
            return self._output(self._denoise(self._views[0]))[: self._images]
        self._all[self._second] = self.sample
        outputs = [self._output(self._denoise(view)) for view in self._views]
        if len(outputs) == 2:
            given, none = outputs[0][: self._images], outputs[1][: self._images]
        else:
            given, none = outputs[0][: self._images], outputs[0][self._second]
        guided: Array = given - none
        guided *= self._guidance
        guided += none
        return guided

    def _output(self, output: Array) -> Array:
        """float32, without the channels of a learned variance."""
        return output[:, : self._channels].astype(np.float32, copy=False)


def smallest_batch(batches: Sequence[tuple[int, int]], rows: int) -> int:
    """The smallest size in ``batches`` (ranges, both ends in them) of at least ``rows`` rows."""
    sizes = [max(low, rows) for low, high in batches if high >= rows]
    if not sizes:
        most = max(high for _, high in batches)
        raise BadRequest(f"the engine's largest batch is {most}, not {rows}")
    return min(sizes)


def _per_channel(factor: float | Sequence[float]) -> Array:
    """A number, or (C, 1, 1), float32."""
    array = np.asarray(factor, np.float32)
    return array.reshape(-1, 1, 1) if array.ndim else array


def _one(inputs: Sequence[Input], kind: str) -> Input:
    found = [spec for spec in inputs if spec.kind == kind]
    if len(found) != 1:
        names = ", ".join(spec.name for spec in inputs)
        raise UnfitEngine(f"the engine needs one {kind} input, it has {len(found)} among: {names}")
    return found[0]


def _streams(seed: int, first: int, n: int) -> list[np.random.Generator]:
    """One generator per image. Philox counts 2^192 numbers before two indices would meet."""
    return [
        np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, first + i]))
        for i in range(n)
    ]


def _draw(streams: Sequence[np.random.Generator], out: Array) -> None:
    """Standard normal noise, each row from its own stream."""
    for stream, row in zip(streams, out, strict=True):
        stream.standard_normal(dtype=np.float32, out=row)


def _check_whole(what: str, value: Any, low: int, high: int) -> None:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or not low <= value <= high:
        raise BadRequest(f"{what} must be a whole number from {low} to {high}, not {value!r}")


def _rows(spec: Input, value: Any, n: int) -> Array:
    """A condition as (n, ...) in the input's dtype."""
    try:
        array = np.asarray(value)
        number = np.issubdtype(array.dtype, np.number) and not np.iscomplexobj(array)
    except ValueError:  # rows of different lengths
        number = False
    if not number:
        raise BadRequest(f"condition '{spec.name}' is not an array of real numbers")
    if array.shape == spec.shape:
        array = np.broadcast_to(array, (n, *spec.shape))
    if array.shape != (n, *spec.shape):
        raise BadRequest(
            f"condition '{spec.name}' must have shape {(n, *spec.shape)} or {spec.shape},"
            f" not {array.shape}"
        )
    whole = np.issubdtype(spec.dtype, np.integer)
    if whole and not np.issubdtype(array.dtype, np.integer):
        raise BadRequest(f"condition '{spec.name}' must be whole numbers, not {array.dtype}")
    return array.astype(spec.dtype, copy=False)
