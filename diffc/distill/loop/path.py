"""The dense model's way from noise to samples through the timesteps that loops visit.

The solver is DPM-Solver++ 2M (Lu et al. 2022, 2211.01095), on a beta schedule and along a flow
alike: of the second order, so that its error is smaller than DDIM's in as many steps, and a student
can be ahead of the loop that it is compared with. Between two visited timesteps the steps are
evenly spaced; without any visited ones they are those of ``trailing`` timesteps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffc.models.schedulers import is_flow, train_steps
from diffc_runtime import denoising, schedules
from diffc_runtime.dpm import solver_over
from diffc_runtime.stepping import Scheduler


@dataclass(frozen=True)
class DensePath:
    """Where the dense model is called, and which states of its way are kept.

    Attributes:
        times: (S,) the timestep of each call, the noisiest first.
        visited: (P,) the timesteps whose states are kept; the clean end is kept beside them.
        settings: What the runtime's samplers read of the dense model's scheduler
            (``diffc.distill.loop.steps.sampler_settings``).
    """

    times: tuple[float, ...]
    visited: tuple[float, ...]
    settings: Mapping[str, Any]

    @property
    def kept(self) -> list[int]:
        """(P + 1,) after how many calls each kept state is there, the end last."""
        return [*(self.times.index(time) for time in self.visited), len(self.times)]

    def solver(self) -> Scheduler:
        """Return the steps of one trajectory, which each trajectory needs anew."""
        times = np.array(self.times)
        if is_flow(self.settings):
            total = train_steps(self.settings)
            flow = {
                "num_train_timesteps": total,
                "use_flow_sigmas": True,
                "prediction_type": "flow_prediction",
            }
            sigmas = np.append(times / total, 0.0).astype(np.float32)
            return solver_over(flow, times, sigmas)
        every = schedules.sigmas_of(schedules.sigma_bar(self.settings))
        sigmas = np.append(every[times.astype(np.int64)], 0.0).astype(np.float32)
        betas = {name: self.settings[name] for name in _PROCESS if name in self.settings}
        return solver_over(betas, times, sigmas)


def goes_along(sampler: Scheduler, path: DensePath) -> bool:
    """Whether a loop's states are those of the path, from the same noise.

    Both are run on a few numbers with a function in the network's place.

    Args:
        sampler: The steps of one trajectory of the loop, which are used up.
        path: Where the dense model is called.
    """
    if tuple(sampler.timesteps.tolist()) != path.times or sampler.init_noise_sigma != 1:
        return False
    ours, theirs = (_states_of(one) for one in (sampler, path.solver()))
    return bool(np.allclose(ours, theirs, rtol=1e-5, atol=1e-6))


def _states_of(sampler: Scheduler) -> NDArray[np.float64]:
    """(S, 4): the states of four numbers."""
    start: Any = np.linspace(-1.5, 1.5, 4)[None]

    def call(x: Any, time: float) -> Any:
        return 0.6 * np.tanh(x) + 0.2 * np.cos(time)

    return np.concatenate([np.array(x) for x in denoising.denoise(call, sampler, start)])


_PROCESS = ("prediction_type", "num_train_timesteps", "thresholding", "dynamic_thresholding_ratio",
            "sample_max_value")  # fmt: skip
"""What the solver reads of a config: the solver's own settings are its defaults."""


def dense_path(
    loops: Iterable[Sequence[float]], settings: Mapping[str, Any], steps: int
) -> DensePath:
    """Return the path through every timestep that the loops visit after their first one.

    At its first timestep a loop is at the noise itself, which is the path's begin.

    Args:
        loops: The timesteps of each loop.
        settings: What the runtime's samplers read of the dense model's scheduler.
        steps: About how many calls of the dense model a trajectory has.
    """
    total = train_steps(settings)
    first, end, whole = (total, 0.0, False) if is_flow(settings) else (total - 1.0, -1.0, True)
    visited = sorted({time for times in loops for time in times[1:] if time < first}, reverse=True)
    times: list[float] = []
    for a, b in pairwise([first, *visited, end]):
        parts = max(1, round((a - b) / total * steps))
        if whole:
            parts = min(parts, round(a - b))
        times += _between(a, b, parts, whole)
    return DensePath(tuple(times), tuple(visited), settings)


def _between(a: float, b: float, parts: int, whole: bool) -> Iterator[float]:
    """Yield ``parts`` evenly spaced timesteps from ``a``, included, towards ``b``."""
    for i in range(parts):
        time = a + (b - a) * i / parts
        yield float(round(time)) if whole else time
