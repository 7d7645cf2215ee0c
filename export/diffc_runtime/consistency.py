"""The sampler of latent consistency models: Luo et al. 2023 (2310.04378), algorithm 2."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import schedules
from .clean import predicted_clean
from .errors import BadRequest
from .schedules import Config
from .stepping import Array, Scheduler, Scratch, pairs

_SIGMA_DATA = 0.5
_TRAINED_STEPS = 50
"""The steps that the models were distilled over, where the config does not say so."""


def lcm(config: Config, steps: int) -> Scheduler:
    """Return LCM over ``steps`` steps: every call gives x_0, which is noised for the next.

    Raises:
        BadRequest: More steps than the model was distilled over.
    """
    config = {"clip_sample": False, **config}
    bar = schedules.alpha_bar(config)
    times = _times(config, steps, len(bar))
    now, then = bar[times], np.append(bar[times[1:]], np.float32(1.0))
    clean = predicted_clean(config, np.sqrt(now), np.sqrt(np.float32(1.0) - now), clips=True)
    scaled = times * float(config.get("timestep_scaling", 10.0))
    from_x = _SIGMA_DATA**2 / (scaled**2 + _SIGMA_DATA**2)
    from_clean = scaled / np.sqrt(scaled**2 + _SIGMA_DATA**2)
    kept, added = np.sqrt(then).tolist(), np.sqrt(np.float32(1.0) - then).tolist()
    scratch = Scratch(2)

    def advance(i: int, x: Array, output: Array) -> None:
        x_0, work = scratch(x)
        clean(i, x, output, x_0, work)
        x_0 *= float(from_clean[i])
        x *= float(from_x[i])
        x += x_0
        x *= kept[i]

    levels = pairs(np.sqrt(now), np.sqrt(np.float32(1.0) - now))
    return Scheduler("lcm", times.astype(np.float64), advance, noise_scale=added, levels=levels)


def _times(config: Config, steps: int, total: int) -> NDArray[np.int64]:
    """Return (steps,) timesteps: a part of those that the model was distilled over."""
    trained = int(config.get("original_inference_steps", min(_TRAINED_STEPS, total)))
    if steps > trained or trained > total:
        raise BadRequest(f"scheduler 'lcm' has {min(trained, total)} steps at most, not {steps}")
    every = (np.arange(1, trained + 1) * (total // trained) - 1)[::-1]
    chosen = np.floor(np.linspace(0, trained, num=steps, endpoint=False)).astype(np.int64)
    return every[chosen].astype(np.int64)
