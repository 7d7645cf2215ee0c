"""The steps of one trajectory, and the scratch arrays for them: the base of every sampler.

A sampler computes with operators, assignments to ``x[...]`` and ``clip`` alone, which numpy's
arrays and torch's tensors both have. So the samplers that serve an engine also sample the torch
model, on its device, and nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import BadRequest
from .schedules import Config, Table

Array = NDArray[np.floating[Any]]
Advance = Callable[[int, Array, Array], None]
"""(i, x, model output): moves x one step in place, without the noise that ends the step."""


@dataclass(frozen=True)
class Scheduler:
    """One trajectory of a sampler. It holds scratch arrays, so each trajectory needs its own.

    timesteps: (S,) the model's timestep at each step, first step first.
    init_noise_sigma: the standard deviation of the initial noise.
    input_divisor: (S,) the model's input is x divided by this; empty for 1.
    noise_scale: (S,) the standard deviation of the noise added at a step's end; 0 for none.
    levels: (S, 2) signal and noise of x = signal x_0 + noise eps before each step; empty where a
        trajectory can begin at its first step only.
    restart: the trajectory from the step of that number on, for samplers that look back at earlier
        steps or call the model several times a step; None: the later ones of these steps.
    """

    name: str
    timesteps: Table
    advance: Advance
    init_noise_sigma: float = 1.0
    input_divisor: list[float] = field(default_factory=list)
    noise_scale: list[float] = field(default_factory=list)
    levels: list[tuple[float, float]] = field(default_factory=list)
    restart: Callable[[int], Scheduler] | None = None

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def stochastic(self) -> bool:
        """Whether any step adds noise."""
        return any(self.noise_scale)

    def from_step(self, step: int) -> Scheduler:
        """Return the trajectory from a step on: nothing is known of the steps before it.

        Args:
            step: 0 for all of it; below the number of steps.
        """
        if not step:
            return self
        return self.restart(step) if self.restart else self.from_call(step)

    def from_call(self, call: int) -> Scheduler:
        """Return the trajectory from a call of the model on, with the steps as they are."""

        def advance(i: int, x: Array, output: Array) -> None:
            self.advance(call + i, x, output)

        return replace(
            self,
            timesteps=self.timesteps[call:],
            advance=advance,
            input_divisor=self.input_divisor[call:],
            noise_scale=self.noise_scale[call:],
            levels=self.levels[call:],
            restart=None,
        )

    def add_noise(self, clean: Array, noise: Array, i: int) -> Array:
        """Return x (B, ...) before step ``i`` of a clean sample: ``clean`` itself after the last.

        Args:
            clean: (B, ...) x_0.
            noise: (B, ...) standard normal.
            i: The number of the step.
        """
        if i >= len(self):
            return clean
        signal, deviation = self.levels[i]
        noised: Array = clean * signal
        noised += noise * deviation
        return noised

    def scale_input(self, x: Array, i: int, out: Array | None = None) -> Array:
        """Return the model's input for x (B, ...) at step i; written to ``out`` if there is one."""
        scaled: Array = x / self.input_divisor[i] if self.input_divisor else x
        if out is None:
            return scaled
        out[...] = scaled
        return out

    def step(self, model_output: Array, i: int, x: Array, noise: Array | None = None) -> Array:
        """Move x (B, ...) one step, in place, and return it; ``noise`` is overwritten too.

        Args:
            noise: (B, ...) standard normal, for the steps at which ``noise_scale[i]`` is not zero.

        Raises:
            BadRequest: This step adds noise, and there is none.
        """
        self.advance(i, x, model_output)
        if self.noise_scale and self.noise_scale[i]:
            if noise is None:
                raise BadRequest(f"step {i} of '{self.name}' adds noise, and none was given")
            noise *= self.noise_scale[i]
            x += noise
        return x


class Scratch:
    """``count`` arrays like x, allocated at the first call with an x of that shape and kind."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.arrays: list[Array] = []
        self._like: object = None
        self._last: Array | None = None

    def __call__(self, x: Array) -> list[Array]:
        if x is self._last:  # as at every step of a loop
            return self.arrays
        self._last = x
        like = (type(x), x.shape, x.dtype, getattr(x, "device", None))
        if self._like != like:
            self.arrays = [x * 0 for _ in range(self.count)]
            self._like = like
        return self.arrays


def multiply(x: Array, factor: float, out: Array) -> None:
    """Write ``x`` times ``factor`` to ``out``."""
    out[...] = x
    out *= factor


def subtract(x: Array, y: Array, out: Array) -> None:
    """Write ``x`` minus ``y`` to ``out``."""
    out[...] = x
    out -= y


def pairs(signal: Table, noise: Table) -> list[tuple[float, float]]:
    """Return ``Scheduler.levels`` of tables (S,)."""
    return list(zip(signal.tolist(), noise.tolist(), strict=True))


def refuse(name: str, config: Config, **accepted: tuple[Any, ...]) -> None:
    """Raise BadRequest if the config gives a setting another value than the accepted ones."""
    for key, values in accepted.items():
        if key in config and config[key] not in values:
            known = ", ".join(repr(value) for value in values)
            raise BadRequest(f"scheduler '{name}' has no {key} {config[key]!r} (known: {known})")


def whole_timesteps(name: str, timesteps: Table, limit: int) -> NDArray[np.int64]:
    """Round timesteps (S,). Raises BadRequest if the first is not below ``limit``."""
    whole = np.round(timesteps).astype(np.int64)
    if whole[0] >= limit:
        raise BadRequest(
            f"scheduler '{name}' would start at timestep {whole[0]} of {limit} (steps_offset);"
            " take fewer steps"
        )
    return whole
