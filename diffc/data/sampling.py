"""Sampling a torch model: from noise to images by the runtime's samplers and its loop.

torch_loop          any of the runtime's loops over a model's noise levels
deterministic_loop  DDIM (eta 0), or Euler for flow matching, over a number of steps
accurate_loop       DPM-Solver++: closer to what the model means in as many steps
denoise             the loop; yields after each call of the model, the last is x_0
SamplerInfo         what every figure made from samples must carry
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffc.models.diffusion import served_settings, time_dtype
from diffc.models.noise_levels import flow_levels
from diffc.models.schedulers import fitting_steps, is_flow
from diffc_runtime import denoising
from diffc_runtime.errors import BadRequest
from diffc_runtime.json_types import JsonDict
from diffc_runtime.loop import Loop
from diffc_runtime.stepping import Scheduler

ModelCall = Callable[[Tensor, Tensor], Tensor]
"""(x_t (B, ...), timestep (B,)) -> the model's output, shaped like x_t."""
Draw = Callable[[Tensor], None]
"""Fills a tensor (B, ...) with the noise of a step."""


@dataclass(frozen=True)
class SamplerInfo:
    """The loop behind a figure.

    Attributes:
        loop: With nothing left open but the spacing.
        spacing: How the timesteps are spaced: the loop's, or the config's where it says nothing.
    """

    loop: Loop
    spacing: str

    def as_dict(self) -> JsonDict:
        """Plain values, for reports: the loop as a text, and its parts."""
        parts = {"sampler": self.loop.sampler, "steps": self.loop.steps, "spacing": self.spacing}
        return {"loop": str(self.loop), **parts}


@dataclass(frozen=True)
class TorchLoop:
    """A sampling loop over the noise levels of one model, for its torch network.

    Attributes:
        loop: Sampler, steps and guidance, settled. Guidance is the model call's matter
            (``diffc.data.synthetic.guided_call``): ``denoise`` calls the model once a timestep.
        config: The scheduler's config as the samplers read it.
    """

    loop: Loop
    config: Mapping[str, Any]

    def trajectory(self, shape: Sequence[int]) -> Scheduler:
        """Return the steps of one trajectory.

        Args:
            shape: Of a sample without the batch: a flow's noise levels may depend on it, as they do
                in the model's own pipeline.

        Raises:
            BadRequest: The process forbids the sampler, or has fewer timesteps.
        """
        return self.loop.trajectory({**self.config, **flow_levels(self.config, shape)})

    def calls(self, shape: Sequence[int]) -> int:
        """Return how often the model is called: once a step by most samplers, twice by Heun's."""
        return len(self.trajectory(shape))

    @property
    def info(self) -> SamplerInfo:
        """What to write beside a figure made with this loop."""
        spacing = self.loop.spacing or self.config.get("timestep_spacing") or "linspace"
        return SamplerInfo(self.loop, spacing)


def torch_loop(config: Mapping[str, Any], loop: Loop) -> TorchLoop:
    """Return a loop over the noise levels of a model.

    Betas, prediction, clipping and spacing are those of the config's own class: a sampler brings no
    defaults of its own. An engine's model.json has the same settings, so that both make one image.

    Args:
        config: The model's own scheduler_config.json, with its ``_class_name``.
        loop: With sampler and steps.
    """
    own = served_settings(config)
    if own.get("use_dynamic_shifting"):
        # mu counts where the shape of a sample gives none, as that of a video
        own = {**own, "mu": own.get("base_shift") or 0.5}
    return TorchLoop(loop, own)


def deterministic_loop(config: Mapping[str, Any], steps: int) -> TorchLoop:
    """Return a loop that adds no noise on the way: DDIM, or Euler along a flow, without guidance.

    Args:
        config: The model's own scheduler_config.json, with its ``_class_name``.
        steps: At most so many; fewer where the model has fewer timesteps
            (``diffc.models.schedulers.fitting_steps``).
    """
    own = served_settings(config)
    loop = Loop("flow-euler" if is_flow(own) else "ddim", fitting_steps(own, steps), 1.0)
    if own.get("stochastic_sampling"):
        return torch_loop({**config, "stochastic_sampling": False}, loop)
    return torch_loop(config, loop)


def accurate_loop(config: Mapping[str, Any], steps: int, shape: Sequence[int]) -> TorchLoop:
    """Return the loop whose samples are nearest to the model's own distribution in few steps.

    DPM-Solver++ 2M (Lu et al. 2022) at trailing timesteps, which begin at pure noise (Lin et al.
    2023). The deterministic loop along a flow, whose paths are nearly straight, and for a config
    with settings that the solver has not.

    Args:
        config: The model's own scheduler_config.json, with its ``_class_name``.
        steps: At most so many, as in ``deterministic_loop``.
        shape: Of a sample without the batch.
    """
    own = served_settings(config)
    if is_flow(own):
        return deterministic_loop(config, steps)
    loop = torch_loop(config, Loop("dpm++", fitting_steps(own, steps), 1.0, "trailing"))
    try:
        loop.trajectory(shape)
    except BadRequest:
        return deterministic_loop(config, steps)
    return loop


def denoise(
    model: ModelCall, loop: TorchLoop, noise: Tensor, draw: Draw | None = None
) -> Iterator[Tensor]:
    """Yield x after each call of the model; the last one is x_0. Every call overwrites x.

    Args:
        model: The network; where it learns a variance, that comes after the noise and is left out.
        loop: What is done.
        noise: (B, ...) standard normal.
        draw: Gives the noise of a step (``diffc.data.randomness.ImageNoise.draw``); a loop that
            adds noise needs it.

    Raises:
        BadRequest: The loop does not fit the model, or adds noise without ``draw``.
    """
    sampler = loop.trajectory(noise.shape[1:])
    kind = time_dtype(sampler.timesteps.tolist(), flow=is_flow(loop.config))

    def call(x: Any, t: float) -> Any:
        output = model(x, torch.full((len(x),), t, dtype=kind, device=x.device))
        return output[:, : x.shape[1]]

    start: Any = noise * sampler.init_noise_sigma
    drawn: Any = draw
    yield from denoising.denoise(call, sampler, start, drawn)  # type: ignore[misc]


@torch.no_grad()
def sample(model: ModelCall, loop: TorchLoop, noise: Tensor, draw: Draw | None = None) -> Tensor:
    """x_0 (B, ...) from ``noise`` (B, ...), without progress."""
    x = noise
    for x in denoise(model, loop, noise, draw):  # noqa: B007
        pass
    return x
