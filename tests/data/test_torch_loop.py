"""Any loop over a torch model: against diffusers' own schedulers, and against the engines' loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.diffusers_loops import ORACLES, sampled_by_diffusers

from diffc.data.randomness import ImageNoise
from diffc.data.sampling import TorchLoop, sample, torch_loop
from diffc.models.diffusion import served_settings
from diffc.models.noise_levels import flow_levels
from diffc_runtime import Pipeline
from diffc_runtime.errors import BadRequest
from diffc_runtime.loop import Loop
from diffc_runtime.schedulers import FLOW_NAMES, NAMES

SHAPE, SEED = (3, 8, 8), 5
DDPM = {"_class_name": "DDPMScheduler", "beta_schedule": "scaled_linear", "clip_sample": False}
V = DDPM | {"prediction_type": "v_prediction", "beta_start": 0.00085, "beta_end": 0.012}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
SHIFTED = FLOW | {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
SOLVER = {
    "_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True,
    "prediction_type": "flow_prediction", "flow_shift": 3.0,
}  # fmt: skip


def model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A smooth stand-in for a denoiser, with the channels of a learned variance after its own."""
    wave = torch.sin(t.float() / 200).reshape(-1, 1, 1, 1)
    output = 0.6 * torch.tanh(0.5 * x) + 0.3 * wave
    return torch.cat([output, 9 * output], dim=1)


def in_torch(loop: TorchLoop, index: range = range(2)) -> torch.Tensor:
    noise = ImageNoise(SEED, index, SHAPE)
    return sample(model, loop, noise.first, noise.draw)


def draws(count: int) -> list[torch.Tensor]:
    noise = ImageNoise(SEED, range(2), SHAPE)
    drawn = [noise.first]
    for _ in range(count):
        drawn.append(torch.empty(2, *SHAPE))
        noise.draw(drawn[-1])
    return drawn


@pytest.mark.parametrize("config", [DDPM, V], ids=["epsilon", "v"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("name", ORACLES)
def test_every_sampler_makes_the_image_that_diffusers_makes(name, spacing, config) -> None:
    own = served_settings(config | {"timestep_spacing": spacing})
    theirs = sampled_by_diffusers(name, own, 6, model, draws(12))
    ours = in_torch(torch_loop(config, Loop(name, 6, spacing=spacing)))
    assert float((ours - theirs).abs().max()) < 1e-5 * max(1.0, float(theirs.abs().max()))


def by_engine(config: dict, loop: Loop, n: int = 2) -> np.ndarray:
    """The same images by the runtime's pipeline, whose denoiser is the torch model."""
    settings = served_settings(config)

    def denoise(inputs: dict) -> np.ndarray:
        x, t = (torch.from_numpy(inputs[name]) for name in ("sample", "timestep"))
        return model(x, t)[:, : x.shape[1]].numpy()

    settings = {**settings, **flow_levels(settings, SHAPE)}
    inputs = Pipeline(denoise, settings, SHAPE).inputs
    time = inputs[1].__class__("timestep", (), "float32", "timestep")
    pipeline = Pipeline(denoise, settings, SHAPE, inputs=(inputs[0], time))
    pipeline.scheduler_config = dict(loop.config(settings))
    return pipeline.generate(n, int(loop.steps or 0), SEED, loop.sampler)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        *((name, config) for name in NAMES if name not in FLOW_NAMES for config in (DDPM, V)),
        *((name, config) for name in FLOW_NAMES for config in (FLOW, SHIFTED, SOLVER)),
        ("flow-euler", FLOW | {"stochastic_sampling": True}),
        ("dpm++", SOLVER),
        ("unipc", SOLVER),
    ],
)
def test_torch_and_an_engine_make_one_image(name, config) -> None:
    loop = Loop(name, 5)
    ours, theirs = in_torch(torch_loop(config, loop)).numpy(), by_engine(config, loop)
    assert np.abs(ours - theirs).max() < 1e-5 * max(1.0, float(np.abs(theirs).max()))


@pytest.mark.parametrize("name", ["ddpm", "dpm++-sde"])
def test_an_image_is_the_same_alone_and_among_others(name) -> None:
    loop = torch_loop(DDPM, Loop(name, 4))
    torch.testing.assert_close(in_torch(loop, range(3, 4)), in_torch(loop, range(4))[3:])


def test_a_loop_without_the_noise_that_it_adds_is_refused() -> None:
    loop = torch_loop(DDPM, Loop("ddpm", 3))
    with pytest.raises(BadRequest, match="adds noise"):
        sample(model, loop, torch.zeros(1, *SHAPE))


@pytest.mark.parametrize(
    ("config", "text", "said"),
    [
        (FLOW, "ddpm:3", "flow-matching"),
        (DDPM, "flow-euler:3", "flow-matching"),
        (DDPM | {"num_train_timesteps": 10}, "ddim:11", "from 1 to 10"),
        (DDPM, "deterministic:3", "leaves open"),
    ],
)
def test_what_the_model_forbids_is_refused(config, text, said) -> None:
    with pytest.raises(BadRequest, match=said):
        in_torch(torch_loop(config, Loop.parse(text)))


@pytest.mark.parametrize(
    ("text", "calls"), [("ddim:4", 4), ("heun:4", 7), ("pndm:4", 5), ("dpm++:4", 4)]
)
def test_calls_are_counted(text, calls) -> None:
    loop, seen = torch_loop(DDPM, Loop.parse(text)), []

    def counted(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(t)
        return model(x, t)

    sample(counted, loop, torch.zeros(1, *SHAPE))
    assert len(seen) == loop.calls(SHAPE) == calls


def test_fractions_of_timesteps_are_given_as_they_are() -> None:
    times = []

    def watched(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        times.append(t)
        return model(x, t)

    config = DDPM | {"timestep_spacing": "linspace"}
    sample(watched, torch_loop(config, Loop("euler", 7)), torch.zeros(1, *SHAPE))
    assert times[1].dtype == torch.float32 and float(times[1][0]) % 1 != 0


def test_the_spacing_is_the_loops_or_the_configs() -> None:
    ours = torch_loop(DDPM, Loop("ddim", 4, spacing="trailing")).info
    assert ours.as_dict() == {
        "loop": "ddim:4@trailing", "sampler": "ddim", "steps": 4, "spacing": "trailing",
    }  # fmt: skip
    assert torch_loop(DDPM, Loop("ddim", 4)).info.spacing == "leading"
