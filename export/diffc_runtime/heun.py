"""Heun's second-order method over sigmas: Karras et al. 2022 (2206.00364), algorithm 1."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from . import schedules
from .euler import clean_from_sigma, first_deviation
from .schedules import Config
from .stepping import Array, Scheduler, Scratch, pairs, refuse, subtract


def heun(config: Config, steps: int) -> Scheduler:
    """Return Heun over ``steps`` steps: two calls each, of which the last step needs one.

    Raises:
        BadRequest: The config has settings that it does not have.
    """
    refuse(
        "heun",
        config,
        use_beta_sigmas=(False, None),
        prediction_type=("epsilon", "v_prediction", "sample"),
    )
    times = schedules.spaced(config, steps, "linspace").astype(np.float32)
    config = {"clip_sample": False, **config, "final_sigmas_type": "zero"}
    times, sigmas = schedules.sigma_path(config, times.astype(np.float64), steps)
    stride = np.diff(sigmas).tolist()
    # a step's second call is at the next step's sigma
    now = np.append(sigmas[:1], np.repeat(sigmas[1:-1], 2))
    total = np.sqrt(now**2 + 1)
    clean = clean_from_sigma(config, now, total)
    one, divisor, scratch = np.ones_like(now), now.tolist(), Scratch(4)

    def advance(i: int, x: Array, output: Array) -> None:
        x_0, work, start, slope = scratch(x)
        clean(i, x, output, x_0, work)
        subtract(x, x_0, out=work)
        work /= divisor[i]
        if i % 2:
            work += slope
            work /= 2
            x[...] = start
        else:
            slope[...] = work
            start[...] = x
        work *= stride[i // 2]
        x += work

    visited = np.append(times[:1], np.repeat(times[1:], 2))
    sampler = Scheduler(
        "heun",
        visited.astype(np.float32).astype(np.float64),
        advance,
        init_noise_sigma=first_deviation(config, sigmas),
        input_divisor=total.tolist(),
        levels=pairs(one, now),
    )
    return replace(sampler, restart=lambda step: sampler.from_call(2 * step))
