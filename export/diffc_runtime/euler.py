"""Euler's method over sigmas: of a beta schedule, and of flow matching.

euler       Karras et al. 2022 (2206.00364), algorithm 2 without churn
euler-ancestral  the same over a smaller step, then as much noise as makes up for it
flow-euler  rectified flow, as in Esser et al. 2024 (2403.03206)
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from . import schedules
from .clean import Clean, clipped
from .errors import BadRequest
from .flow_settings import ENDS_AT_ONE_STEP
from .schedules import Config, Table
from .stepping import Array, Scheduler, Scratch, multiply, pairs, refuse, subtract


def euler(config: Config, steps: int) -> Scheduler:
    """Return Euler over ``steps`` steps. Raises BadRequest for settings that it does not have."""
    refuse(
        "euler",
        config,
        interpolation_type=("linear",),
        timestep_type=("discrete",),
        use_beta_sigmas=(False, None),
        final_sigmas_type=("zero", "sigma_min"),
        prediction_type=("epsilon", "v_prediction", "sample"),
    )
    times = schedules.spaced(config, steps, "linspace").astype(np.float32)
    times, sigmas = schedules.sigma_path(config, times.astype(np.float64), steps)
    now = sigmas[:-1]
    clean = clean_from_sigma({**config, "clip_sample": False}, now, np.sqrt(now**2 + 1))
    return _euler_steps("euler", config, times, sigmas, np.diff(sigmas), clean)


def euler_ancestral(config: Config, steps: int) -> Scheduler:
    """Return ancestral Euler. Raises BadRequest for settings that it does not have."""
    refuse("euler-ancestral", config, prediction_type=("epsilon", "v_prediction"))
    times = schedules.spaced(config, steps, "linspace").astype(np.float32).astype(np.float64)
    bar = schedules.sigma_bar(config)
    path: Table = np.interp(times, np.arange(len(bar)), schedules.sigmas_of(bar))
    sigmas = np.append(path, 0.0).astype(np.float32)
    now, then = sigmas[:-1], sigmas[1:]
    up = np.sqrt(then**2 * (now**2 - then**2) / now**2)
    stride = np.sqrt(then**2 - up**2) - now
    clean = clean_from_sigma({**config, "clip_sample": False}, now, np.sqrt(now**2 + 1))
    steps_of = _euler_steps("euler-ancestral", config, times, sigmas, stride, clean)
    return replace(steps_of, noise_scale=up.tolist())


def _euler_steps(
    name: str, config: Config, times: Table, sigmas: Table, strides: Table, clean: Clean
) -> Scheduler:
    """Return the sampler that goes ``strides`` (S,) along the slope at each of its sigmas."""
    now = sigmas[:-1]
    divisor, stride, scratch = now.tolist(), strides.tolist(), Scratch(2)

    def advance(i: int, x: Array, output: Array) -> None:
        x_0, work = scratch(x)
        clean(i, x, output, x_0, work)
        subtract(x, x_0, out=work)
        work /= divisor[i]
        work *= stride[i]
        x += work

    return Scheduler(
        name,
        times.astype(np.float32).astype(np.float64),
        advance,
        init_noise_sigma=first_deviation(config, sigmas),
        input_divisor=np.sqrt(now**2 + 1).tolist(),
        levels=pairs(np.ones_like(now), now),
    )


def first_deviation(config: Config, sigmas: Table) -> float:
    """Return the standard deviation of the initial noise of a sampler over sigmas (S + 1,)."""
    top = float(sigmas.max())
    wide = config.get("timestep_spacing", "linspace") in ("linspace", "trailing")
    return top if wide else (top**2 + 1) ** 0.5


def clean_from_sigma(config: Config, sigma: Table, total: Table) -> Clean:
    """Return the formula for x_0 where x = x_0 + sigma eps.

    Args:
        config: The scheduler's config, which may ask for clipping.
        sigma: (S,).
        total: (S,) the standard deviation of x where x_0's is 1.
    """
    one, zero = np.ones_like(sigma), np.zeros_like(sigma)
    from_x, from_output = {
        "epsilon": (one, -sigma),
        "v_prediction": (1 / (sigma**2 + 1), -sigma / total),
        "sample": (zero, one),
    }[config.get("prediction_type", "epsilon")]
    limit = clipped({**config, "thresholding": False}, clips=True)
    return Clean(from_x.tolist(), from_output.tolist(), one.tolist(), limit)


def flow_euler(config: Config, steps: int) -> Scheduler:
    """Return Euler for a flow. Raises BadRequest for settings that it does not have."""
    if config.get("use_flow_sigmas"):  # of a solver of beta schedules that follows a flow
        config = {
            "num_train_timesteps": schedules.train_steps(config),
            "shift": config.get("flow_shift", 1.0),
        }
    refuse(
        "flow-euler",
        config,
        invert_sigmas=(False, None),
        use_beta_sigmas=(False, None),
        time_shift_type=("exponential", "linear"),
    )
    now = _flow_sigmas(config, steps)
    sigmas = np.append(now, 0.0).astype(np.float32)
    times = sigmas[:-1] * np.float32(schedules.train_steps(config))
    stochastic = bool(config.get("stochastic_sampling"))
    sigma, then = sigmas[:-1].tolist(), sigmas[1:].tolist()
    stride = np.diff(sigmas).tolist()
    scratch = Scratch(1)

    def advance(i: int, x: Array, output: Array) -> None:
        (work,) = scratch(x)
        multiply(output, sigma[i] if stochastic else stride[i], out=work)
        if stochastic:
            x -= work
            x *= 1.0 - then[i]
        else:
            x += work

    return Scheduler(
        "flow-euler",
        times.astype(np.float64),
        advance,
        noise_scale=then if stochastic else [],
        levels=pairs(1 - sigmas[:-1], sigmas[:-1]),
    )


def _flow_sigmas(config: Config, steps: int) -> Table:
    """Return (steps,) sigmas, the noisiest first, shifted as the config says."""
    shift, dynamic = float(config.get("shift") or 1.0), bool(config.get("use_dynamic_shifting"))
    sigmas = _unshifted_sigmas(config, steps, 1.0 if dynamic else shift)
    if dynamic:
        sigmas = _dynamic_shift(config, sigmas)
    else:
        sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
    if config.get("shift_terminal"):
        rest = 1 - sigmas
        sigmas = 1 - rest / (rest[-1] / (1 - float(config["shift_terminal"])))
    ends = float(sigmas[-1]), float(sigmas[0])
    if config.get("use_karras_sigmas"):
        return schedules.karras(*ends, steps)
    if config.get("use_exponential_sigmas"):
        return schedules.exponential(*ends, steps)
    return sigmas


def _unshifted_sigmas(config: Config, steps: int, shift: float) -> Table:
    """Return (steps,) linear sigmas.

    They end at 1 / steps if the pipeline says so (Flux), else at the level of the first training
    timestep, to which diffusers has applied ``shift`` once already.
    """
    if ENDS_AT_ONE_STEP.items() <= config.items():
        return np.linspace(1.0, 1 / steps, steps).astype(np.float32)
    total = schedules.train_steps(config)
    ends = np.array([total, 1], dtype=np.float32) / np.float32(total)
    ends = shift * ends / (1 + (shift - 1) * ends)
    return np.linspace(float(ends[0]) * total, float(ends[1]) * total, steps) / total


def _dynamic_shift(config: Config, sigmas: Table) -> Table:
    """Apply the shift that depends on the image's size: ``mu`` in the config, else its base shift.

    Raises:
        BadRequest: The config has neither.
    """
    mu = config.get("mu", config.get("base_shift"))
    if mu is None:
        raise BadRequest("the scheduler shifts by the image's size: put mu in its config")
    exponential = config.get("time_shift_type", "exponential") == "exponential"
    scale = math.exp(mu) if exponential else float(mu)  # no numpy number: sigmas keep their dtype
    return np.asarray(scale / (scale + (1 / sigmas - 1)))
