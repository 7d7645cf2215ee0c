"""Noise schedules in numpy: betas, alpha_bar, the timesteps visited and their sigmas.

The arithmetic follows diffusers' in float32, operation by operation: near t = 0 a beta is
``1 - alpha_bar[t] / alpha_bar[t - 1]``, a difference of nearly equal numbers, and another order of
rounding would show in the images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import BadRequest

Table = NDArray[np.floating[Any]]
Config = Mapping[str, Any]

LEAST_SIGNAL = np.float32(2.0**-24)
"""alpha_bar at a timestep without signal, as in diffusers' Euler."""
SPACINGS = ("leading", "trailing", "linspace")
BETA_SCHEDULES = (
    "linear",
    "scaled_linear",
    "squaredcos_cap_v2",
    "sigmoid",
    "laplace",
    "exp",
    "trained_betas",
)


def train_steps(config: Config) -> int:
    """The number of timesteps that the model was trained on."""
    return int(config.get("num_train_timesteps", 1000))


def alpha_bar(config: Config, dtype: type[np.floating[Any]] = np.float32) -> Table:
    """Return (T,) the share of the signal's variance at each training timestep.

    Args:
        config: A scheduler's config.
        dtype: float32, as diffusers' samplers compute it, or float64, for training.
    """
    bar = _cumulative(dtype(1.0) - betas(config, dtype))
    if not config.get("rescale_betas_zero_snr"):
        return bar
    bar = _zero_terminal_snr(bar)
    if config.get("prediction_type", "epsilon") == "epsilon":
        # x_0 is divided by its root; a schedule that gives no number stays none
        bar[-1] = np.maximum(bar[-1], LEAST_SIGNAL)
    return bar


def betas(config: Config, dtype: type[np.floating[Any]] = np.float32) -> Table:
    """Return (T,) the variance of the noise that each training timestep adds, before any rescaling.

    Raises:
        BadRequest: The config names a schedule that does not exist.
    """
    trained = config.get("trained_betas")
    if trained is not None:
        return np.asarray(trained, dtype=dtype)
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    schedule, steps = config.get("beta_schedule", "linear"), train_steps(config)
    if schedule == "linear":
        return _linspace(start, end, steps, dtype)
    if schedule == "scaled_linear":
        return np.square(_linspace(start**0.5, end**0.5, steps, dtype))
    if schedule == "sigmoid":
        ramp = 1 / (1 + np.exp(-_linspace(-6.0, 6.0, steps, dtype).astype(np.float64)))
        rising: Table = ramp.astype(dtype) * dtype(end - start) + dtype(start)
        return rising
    if schedule in _SIGNAL_LEFT:
        bar = _SIGNAL_LEFT[schedule](np.arange(steps + 1) / steps)
        left: Table = np.minimum(1 - bar[1:] / bar[:-1], 0.999).astype(dtype)
        return left
    raise BadRequest(
        f"unknown beta_schedule '{schedule}' (known: {', '.join(BETA_SCHEDULES)})",
    )


def _laplace(t: Table) -> Table:
    """Return sqrt(alpha_bar) of Hang et al. 2024 (2407.03297), as diffusers has it."""
    away = np.abs(0.5 - t)
    half_log_snr = -0.5 * np.where(t <= 0.5, 1.0, -1.0) * np.log(1 - 2 * away + 1e-6)
    root: Table = np.sqrt(1 / (1 + np.exp(-half_log_snr)))
    return root


_SIGNAL_LEFT: Mapping[str, Callable[[Table], Table]] = {
    "squaredcos_cap_v2": lambda t: np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2,
    "laplace": _laplace,
    "exp": lambda t: np.exp(-12 * t),
}
"""Schedules that are given by the signal left at t in 0..1; a beta is what a timestep takes."""


def _linspace(start: float, end: float, n: int, dtype: type[np.floating[Any]]) -> Table:
    """Return (n,) as torch.linspace in ``dtype``: it counts from both ends, each for its half."""
    first, last = dtype(start), dtype(end)
    step = np.float64((last - first) / dtype(max(n - 1, 1)))
    rising = np.float64(first) + step * np.arange(n)
    falling = np.float64(last) - step * np.arange(n - 1, -1, -1)
    both: Table = np.where(np.arange(n) < n // 2, rising, falling).astype(dtype)
    return both


def _cumulative(alphas: Table) -> Table:
    """Return the running product, in float64 between the elements, as torch does on a CPU."""
    return np.cumprod(alphas.astype(np.float64)).astype(alphas.dtype)


def _zero_terminal_snr(bar: Table) -> Table:
    """Rescale alpha_bar (T,) so that no signal is left at the last timestep.

    Lin et al. 2023 (2305.08891), algorithm 1. It goes by way of the betas, as diffusers does. A
    schedule of a single timestep gives NaN.
    """
    root, one = np.sqrt(bar), bar.dtype.type(1.0)
    first, last = root[0], root[-1]
    with np.errstate(divide="ignore", invalid="ignore"):  # one timestep has no range to rescale
        bar = ((root - last) * (first / (first - last))) ** 2
        rescaled: Table = one - np.concatenate([bar[:1], bar[1:] / bar[:-1]])
    return _cumulative(one - rescaled)


def spaced(config: Config, steps: int, default: str) -> Table:
    """Return (steps,) timesteps, largest first, by the config's ``timestep_spacing``.

    ``linspace`` gives fractions; the caller rounds them if its sampler takes whole timesteps only.
    Table 2 of 2305.08891.

    Args:
        default: The spacing if the config has none.
    """
    total, spacing = train_steps(config), config.get("timestep_spacing", default)
    if spacing == "linspace":
        return np.linspace(0, total - 1, steps)[::-1]
    if spacing == "leading":
        return (np.arange(steps) * (total // steps))[::-1] + float(config.get("steps_offset", 0))
    if spacing == "trailing":
        return trailing(total, total, steps)
    raise unknown_spacing(spacing)


def trailing(last: int, total: int, steps: int) -> Table:
    """Return timesteps counted down from ``last`` in strides of ``total / steps``.

    ``np.arange`` over fractions sometimes gives one element too many, at timestep -1, which is
    removed.
    """
    down = np.round(np.arange(last, 0, -total / steps)) - 1
    return down[down >= 0]


def unknown_spacing(spacing: object) -> BadRequest:
    """Return the error for a spacing that does not exist."""
    return BadRequest(f"unknown timestep_spacing '{spacing}' (known: {', '.join(SPACINGS)})")


def sigmas_of(bar: Table) -> Table:
    """Return (T,) noise over signal at each training timestep: sigma of Karras et al. 2022."""
    sigmas: Table = np.sqrt((np.float32(1.0) - bar) / bar)
    return sigmas


def rates(config: Config, sigmas: Table) -> tuple[Table, Table]:
    """Return (signal, noise) of x = signal x_0 + noise eps at each sigma = noise / signal.

    Along a flow (``use_flow_sigmas``) sigma is the noise itself, and the signal 1 - sigma.
    """
    if config.get("use_flow_sigmas"):
        return 1 - sigmas, sigmas
    signal = 1 / np.sqrt(sigmas**2 + 1)
    return signal, sigmas * signal


def karras(low: float, high: float, steps: int, rho: float = 7.0) -> Table:
    """Return (steps,) sigmas from ``high`` to ``low``; Karras et al. 2022 (2206.00364), eq. 5."""
    ramp = np.linspace(0, 1, steps)
    ends = low ** (1 / rho), high ** (1 / rho)
    return np.asarray((ends[1] + ramp * (ends[0] - ends[1])) ** rho)


def exponential(low: float, high: float, steps: int) -> Table:
    """Return (steps,) sigmas from ``high`` to ``low``, of equal ratios."""
    return np.exp(np.linspace(math.log(high), math.log(low), steps))


def sigma_to_timestep(sigma: Table, sigmas: Table) -> Table:
    """Return the (fractional) training timesteps at which the noise is ``sigma``.

    The operations are diffusers', one by one: DPM-Solver++ cuts the result to whole timesteps, and
    the first one is at the edge, where another rounding gives another timestep.
    """
    wanted, every = np.log(np.maximum(sigma, 1e-10)), np.log(sigmas)
    below = np.clip(np.searchsorted(every, wanted, side="right") - 1, 0, len(every) - 2)
    low, high = every[below], every[below + 1]
    share = np.clip((low - wanted) / (low - high), 0, 1)
    times: Table = (1 - share) * below + share * (below + 1)
    return times


def sigma_bar(config: Config) -> Table:
    """Return alpha_bar (T,) with its last value above zero, so that the first sigma is finite."""
    bar = alpha_bar(config)
    if config.get("rescale_betas_zero_snr"):
        bar[-1] = LEAST_SIGNAL
    return bar


def sigma_path(
    config: Config, times: Table, steps: int, whole_range: bool = False
) -> tuple[Table, Table]:
    """Return timesteps (S,) and sigmas (S + 1,); the last sigma is the end of the trajectory.

    Args:
        times: (S,) timesteps before Karras' or exponential sigmas, if the config has those,
            replace them.
        whole_range: These sigmas span all training timesteps (DPM-Solver++), not just ``times``.
    """
    every = sigmas_of(sigma_bar(config))
    sigmas: Table = np.interp(times, np.arange(len(every)), every)
    spread = karras if config.get("use_karras_sigmas") else exponential
    if spread is karras or config.get("use_exponential_sigmas"):
        first, last = (every[-1], every[0]) if whole_range else (sigmas[0], sigmas[-1])
        low = config.get("sigma_min") or float(last)
        high = config.get("sigma_max") or float(first)
        sigmas = spread(low, high, steps)
        times = sigma_to_timestep(sigmas, every)
    end = every[0] if config.get("final_sigmas_type", "zero") == "sigma_min" else 0.0
    return times, np.append(sigmas, end).astype(np.float32)
