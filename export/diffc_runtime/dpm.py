"""DPM-Solver++ 2M: Lu et al. 2022 (2211.01095).

dpm++        of the ordinary differential equation
dpm++-sde    of the stochastic one
flow-dpm++   along a flow

Karras' and exponential sigmas are the config's matter, and names of schedulers.py set them.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from . import schedules
from .clean import predicted_clean
from .errors import BadRequest
from .schedules import Config, Table
from .stepping import (
    Array,
    Scheduler,
    Scratch,
    multiply,
    pairs,
    refuse,
    subtract,
    whole_timesteps,
)


def dpm_solver(config: Config, steps: int, name: str = "dpm++") -> Scheduler:
    """Return DPM-Solver++ over ``steps`` steps.

    Args:
        config: The scheduler's config.
        steps: How many.
        name: What the sampler is called in a refusal.

    Raises:
        BadRequest: The config has settings that it does not have.
    """
    return _solver(config, steps, name, stochastic=False)


def dpm_solver_sde(config: Config, steps: int) -> Scheduler:
    """Return stochastic DPM-Solver++. Raises BadRequest for settings that it does not have."""
    given = {**config, "algorithm_type": "sde-dpmsolver++"}
    return _solver(given, steps, "dpm++-sde", stochastic=True)


def flow_dpm_solver(config: Config, steps: int) -> Scheduler:
    """Return DPM-Solver++ along a flow. Raises BadRequest for settings that it does not have."""
    shift = float(config.get("shift") or config.get("flow_shift") or 1.0)
    if config.get("use_dynamic_shifting"):
        mu = config.get("mu", config.get("base_shift"))
        if mu is None:
            raise BadRequest("the scheduler shifts by the image's size: put mu in its config")
        shift = math.exp(mu)
    flow = {
        "num_train_timesteps": schedules.train_steps(config),
        "use_flow_sigmas": True,
        "prediction_type": "flow_prediction",
        "flow_shift": shift,
    }
    return dpm_solver(flow, steps, "flow-dpm++")


def _solver(config: Config, steps: int, name: str, stochastic: bool) -> Scheduler:
    refuse(
        name,
        config,
        algorithm_type=("sde-dpmsolver++",) if stochastic else ("dpmsolver++",),
        solver_type=("midpoint", "heun"),
        solver_order=(1, 2),
        variance_type=(None, "fixed_small", "fixed_small_log", "fixed_large"),
        use_beta_sigmas=(False, None),
        use_lu_lambdas=(False, None),
        final_sigmas_type=("zero", "sigma_min"),
    )
    times, sigmas = _dpm_path(config, steps)
    return solver_over(config, times.astype(np.float64), sigmas, name, stochastic)


def solver_over(
    config: Config,
    times: Table,
    sigmas: Table,
    name: str = "dpm++",
    stochastic: bool = False,
    first: int = 0,
) -> Scheduler:
    """Return DPM-Solver++ over noise levels of the caller's choice.

    Args:
        config: Of the scheduler, with the settings of the solver.
        times: (S,) the model's timestep at each level, the noisiest first.
        sigmas: (S + 1,) noise over signal at each level and at the end; along a flow
            (``use_flow_sigmas``) the noise itself.
        name: The sampler's name.
        stochastic: Of the stochastic equation.
        first: The level at which the trajectory begins.
    """
    signal, noise = schedules.rates(config, sigmas)
    tables = [table[first:] for table in _dpm_tables(config, signal, noise, stochastic)]
    from_x, from_clean, from_slope, ratio = (table.tolist() for table in tables[:4])
    from_slope[0] = 0.0  # there is no step before the first one
    signal, noise = signal[first:-1], noise[first:-1]
    clean = predicted_clean(config, signal, noise, clips=False)
    scratch = Scratch(3)

    def advance(i: int, x: Array, output: Array) -> None:
        *history, work = scratch(x)
        x_0, before = history[i % 2], history[1 - i % 2]
        clean(i, x, output, x_0, work)
        x *= from_x[i]
        multiply(x_0, from_clean[i], out=work)
        x -= work
        if from_slope[i]:
            subtract(x_0, before, out=work)
            work *= ratio[i]
            work *= from_slope[i]
            x += work

    return Scheduler(
        name,
        times[first:],
        advance,
        noise_scale=tables[4].tolist() if stochastic else [],
        levels=pairs(signal, noise),
        restart=lambda step: solver_over(config, times, sigmas, name, stochastic, first + step),
    )


def _dpm_path(config: Config, steps: int) -> tuple[NDArray[np.int64], Table]:
    """Return timesteps (S,) and sigmas (S + 1,), as DPM-Solver++ places them."""
    if config.get("use_flow_sigmas"):
        return _dpm_flow_path(config, steps)
    times = _dpm_times(config, steps)
    fractions, sigmas = schedules.sigma_path(config, times.astype(np.float64), steps, True)
    if config.get("use_karras_sigmas") and config.get("beta_schedule") != "squaredcos_cap_v2":
        fractions = np.round(fractions)
    return fractions.astype(np.int64), sigmas


def _dpm_times(config: Config, steps: int) -> NDArray[np.int64]:
    bar = schedules.sigma_bar(config)
    # (T,) half the log signal-to-noise ratio; cosine schedules cut its unstable lower end
    lambdas = np.log(np.sqrt(bar)) - np.log(np.sqrt(np.float32(1.0) - bar))
    floor = float(config.get("lambda_min_clipped", -np.inf))
    last = len(bar) - int(np.searchsorted(lambdas[::-1], floor))
    return solver_times("dpm++", config, steps, last)


def solver_times(name: str, config: Config, steps: int, last: int) -> NDArray[np.int64]:
    """Return (S,) timesteps below ``last`` as multistep solvers space them: the end is left out.

    Raises:
        BadRequest: A timestep would be visited twice.
    """
    total = schedules.train_steps(config)
    spacing = config.get("timestep_spacing", "linspace")
    if spacing == "linspace":
        times: Table = np.linspace(0, last - 1, steps + 1)[::-1][:-1]
    elif spacing == "leading":
        stride = last // (steps + 1)
        times = (np.arange(steps + 1) * stride)[::-1][:-1] + float(config.get("steps_offset", 0))
    elif spacing == "trailing":
        times = schedules.trailing(last, total, steps)
    else:
        raise schedules.unknown_spacing(spacing)
    whole = whole_timesteps(name, times, total)
    placed = config.get("use_karras_sigmas") or config.get("use_exponential_sigmas")
    if not placed and len(set(whole.tolist())) < len(whole):
        raise BadRequest(
            f"scheduler '{name}' would visit a timestep twice in {steps} steps of {total};"
            " take fewer steps"
        )
    return whole


def _dpm_flow_path(config: Config, steps: int) -> tuple[NDArray[np.int64], Table]:
    total, shift = schedules.train_steps(config), float(config.get("flow_shift", 1.0))
    sigmas: Table = 1.0 - np.linspace(1, 1 / total, steps + 1)
    sigmas = (shift * sigmas / (1 + (shift - 1) * sigmas))[::-1][:-1]
    if config.get("final_sigmas_type", "zero") == "sigma_min":
        end = float(schedules.sigmas_of(schedules.sigma_bar(config))[0])
    else:
        end = 0.0
    return (sigmas * total).astype(np.int64), np.append(sigmas, end).astype(np.float32)


def _dpm_tables(
    config: Config, signal: Table, noise: Table, stochastic: bool
) -> tuple[Table, Table, Table, Table, Table]:
    """Return the factors of x, x_0, x_0's slope, that slope's own, and the noise, each (S,).

    The last step is of first order if the noise ends at zero.

    Args:
        signal, noise: (S + 1,) the factors of x_0 and of the noise in x.
        stochastic: Of the stochastic equation, which forgets twice as fast and adds noise.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        lambdas = np.log(signal) - np.log(noise)
        h = np.diff(lambdas)
        ratio = np.append(np.float32(0.0), h[1:] / h[:-1])
        forgotten = np.float32(2.0) * h if stochastic else h
        ends = signal[1:] * (np.exp(-forgotten) - np.float32(1.0))
        heun = config.get("solver_type") == "heun"
        bent = signal[1:] * ((np.exp(-forgotten) - 1) / forgotten + 1)
        slope = bent if heun else np.float32(-0.5) * ends
    second = _second_order(config, len(h))
    slope = np.where(second, slope, np.float32(0.0))
    ratio = np.where(second, ratio, np.float32(0.0))
    kept = noise[1:] / noise[:-1]
    added = noise[1:] * np.sqrt(np.float32(1.0) - np.exp(np.float32(-2.0) * h))
    return kept * np.exp(-h) if stochastic else kept, ends, slope, ratio, added


def _second_order(config: Config, steps: int) -> NDArray[np.bool_]:
    """Return (S,) True for steps that use the step before: not the first, mostly not the last."""
    second = np.full(steps, config.get("solver_order", 2) == 2)
    second[0] = False
    if (
        config.get("final_sigmas_type", "zero") == "zero"
        or config.get("euler_at_final", False)
        or (config.get("lower_order_final", True) and steps < 15)
    ):
        second[-1] = False
    return second
