"""Deterministic sampling: from noise to images by the runtime's samplers and its loop.

deterministic_loop  DDIM (eta 0), or Euler for flow matching, over a number of steps
denoise             the loop; yields after each step, the last is x_0
SamplerInfo         what every figure made from samples must carry
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from diffc.models.diffusion import served_settings
from diffc.models.noise_levels import flow_levels
from diffc.models.schedulers import fitting_steps, is_flow, scheduler_settings, train_steps
from diffc_runtime import denoising
from diffc_runtime.schedulers import scheduler
from diffc_runtime.stepping import Scheduler

ModelCall = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, ...), timestep (B,)) -> the model's output, shaped like x_t."""


@dataclass(frozen=True)
class SamplerInfo:
    """The sampler behind a figure: class, steps, and how timesteps are spaced."""

    sampler: str
    steps: int
    spacing: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for reports."""
        return asdict(self)


@dataclass(frozen=True)
class TorchLoop:
    """A sampling loop over the noise levels of one model, for its torch network.

    Attributes:
        sampler: The runtime's name of the sampler.
        steps: The number of steps.
        config: The scheduler's config as the sampler reads it.
    """

    sampler: str
    steps: int
    config: Mapping[str, Any]

    def trajectory(self, shape: Sequence[int]) -> Scheduler:
        """Return the steps of one trajectory.

        Args:
            shape: Of a sample without the batch: a flow's noise levels may depend on it, as they do
                in the model's own pipeline.
        """
        levels = flow_levels(self.config, shape)
        return scheduler(self.sampler, {**self.config, **levels}, self.steps)

    @property
    def info(self) -> SamplerInfo:
        """What to write beside a figure made with this loop."""
        name = _NAMES[self.sampler]
        return SamplerInfo(name, self.steps, self.config.get("timestep_spacing") or "linspace")


_NAMES = {"ddim": "DDIM", "flow-euler": "FlowMatchEulerDiscrete"}
"""The samplers as diffusers' classes name them."""


def deterministic_loop(config: Mapping[str, Any], steps: int) -> TorchLoop:
    """Return a loop that adds no noise on the way: DDIM, or Euler along a flow.

    Betas, prediction, clipping and spacing are those of the config's own class; DDIM brings no
    defaults of its own.

    Args:
        config: The model's own scheduler_config.json, with its ``_class_name``.
        steps: At most so many; fewer where the model has fewer timesteps
            (``diffc.models.schedulers.fitting_steps``).
    """
    own = scheduler_settings(config)
    steps = fitting_steps(own, steps)
    if is_flow(own):
        return TorchLoop("flow-euler", steps, _flow_config(own))
    return TorchLoop("ddim", steps, served_settings(config))


def _flow_config(own: Mapping[str, Any]) -> dict[str, Any]:
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    if "FlowMatch" not in own["_class_name"]:  # a solver that is told to take its sigmas
        return {
            **flow,
            "num_train_timesteps": train_steps(own),
            "shift": own.get("flow_shift", 1.0),
        }
    # mu counts where the shape of a sample gives none, as that of a video
    return {**own, **flow, "stochastic_sampling": False, "mu": own.get("base_shift") or 0.5}


def denoise(model: ModelCall, loop: TorchLoop, noise: Tensor) -> Iterator[Tensor]:
    """Yield x after each step of ``loop``; the last one is x_0. Every step overwrites x.

    Args:
        model: The network; where it learns a variance, that comes after the noise and is left out.
        loop: A loop that adds no noise.
        noise: (B, ...) standard normal.
    """
    sampler = loop.trajectory(noise.shape[1:])
    kind = torch.float32 if is_flow(loop.config) else torch.int64

    def call(x: Any, t: float) -> Any:
        output = model(x, torch.full((len(x),), t, dtype=kind, device=x.device))
        return output[:, : x.shape[1]]

    start: Any = noise * sampler.init_noise_sigma
    yield from denoising.denoise(call, sampler, start)  # type: ignore[misc]


@torch.no_grad()
def sample(model: ModelCall, loop: TorchLoop, noise: Tensor) -> Tensor:
    """x_0 (B, ...) from ``noise`` (B, ...), without progress."""
    x = noise
    for x in denoise(model, loop, noise):  # noqa: B007
        pass
    return x
