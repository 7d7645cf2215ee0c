"""Samplers over the timesteps of a beta schedule.

ddpm        Ho et al. 2020 (2006.11239), eq. 7
ddim        Song et al. 2020 (2010.02502), eq. 12, eta = 0
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import schedules
from .clean import predicted_clean
from .errors import BadRequest
from .schedules import Config, Table
from .stepping import Array, Scheduler, Scratch, multiply, pairs, refuse, whole_timesteps


def ddpm(config: Config, steps: int) -> Scheduler:
    """Return DDPM over ``steps`` steps. Raises BadRequest for settings that it does not have."""
    refuse("ddpm", config, variance_type=("fixed_small", "fixed_small_log", "fixed_large"))
    bar = schedules.alpha_bar(config)
    times = whole_timesteps("ddpm", schedules.spaced(config, steps, "leading"), len(bar))
    now = bar[times]
    then = np.append(bar[times[1:]], np.float32(1.0))
    kept = now / then
    beta = np.float32(1.0) - kept
    rest = np.float32(1.0) - now
    rest_then = np.float32(1.0) - then
    small = np.maximum(rest_then / rest * beta, np.float32(1e-20))
    variance = beta if config.get("variance_type") == "fixed_large" else small
    deviation = np.where(times > 0, np.sqrt(variance), np.float32(0.0))
    clean = predicted_clean(config, np.sqrt(now), np.sqrt(rest), clips=True)
    from_clean = (np.sqrt(then) * beta / rest).tolist()
    from_x = (np.sqrt(kept) * rest_then / rest).tolist()
    scratch = Scratch(2)

    def advance(i: int, x: Array, output: Array) -> None:
        x_0, work = scratch(x)
        clean(i, x, output, x_0, work)
        x *= from_x[i]
        x_0 *= from_clean[i]
        x += x_0

    return Scheduler(
        "ddpm",
        times.astype(np.float64),
        advance,
        noise_scale=deviation.tolist(),
        levels=pairs(np.sqrt(now), np.sqrt(rest)),
    )


def ddim(config: Config, steps: int) -> Scheduler:
    """Return DDIM over ``steps`` steps. Raises BadRequest for settings that it does not have."""
    bar = schedules.alpha_bar(config)
    times = whole_timesteps("ddim", schedules.spaced(config, steps, "leading"), len(bar))
    now = bar[times]
    # DDIM steps back by a fixed stride, whatever the spacing of the timesteps
    before = times - len(bar) // steps
    final = np.float32(1.0) if config.get("set_alpha_to_one", True) else bar[0]
    then = np.where(before >= 0, bar[np.maximum(before, 0)], final)
    signal, noise = np.sqrt(now), np.sqrt(np.float32(1.0) - now)
    clean = predicted_clean(config, signal, noise, clips=True)
    epsilon = _epsilon(config, signal, noise)
    from_clean = np.sqrt(then).tolist()
    from_epsilon = np.sqrt(np.float32(1.0) - then).tolist()
    scratch = Scratch(2)

    def advance(i: int, x: Array, output: Array) -> None:
        x_0, work = scratch(x)
        clean(i, x, output, x_0, work)
        epsilon(i, x, output, work)
        x *= from_epsilon[i]
        x_0 *= from_clean[i]
        x += x_0

    return Scheduler("ddim", times.astype(np.float64), advance, levels=pairs(signal, noise))


def _epsilon(
    config: Config, signal: Table, noise: Table
) -> Callable[[int, Array, Array, Array], None]:
    """Return a function that overwrites x by the predicted noise (before any clipping of x_0)."""
    a, b = signal.tolist(), noise.tolist()

    def from_epsilon(i: int, x: Array, output: Array, work: Array) -> None:
        x[...] = output

    def from_sample(i: int, x: Array, output: Array, work: Array) -> None:
        multiply(output, a[i], out=work)
        x -= work
        x /= b[i]

    def from_v(i: int, x: Array, output: Array, work: Array) -> None:
        x *= b[i]
        multiply(output, a[i], out=work)
        x += work

    known = {"epsilon": from_epsilon, "sample": from_sample, "v_prediction": from_v}
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in known:
        raise BadRequest(f"scheduler 'ddim' has no prediction_type '{prediction}'")
    return known[prediction]
