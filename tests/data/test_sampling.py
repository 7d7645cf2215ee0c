"""The loop that samples torch models: against diffusers' own schedulers, step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.diffusers_loops import diffusers_scheduler, diffusers_states

from diffc.data.sampling import denoise, deterministic_loop
from diffc_runtime import denoising
from diffc_runtime.schedulers import NAMES, scheduler

FLUX = {
    "_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "use_dynamic_shifting": True,
    "base_shift": 0.5, "max_shift": 1.15,
}  # fmt: skip


def model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A smooth stand-in for a denoiser, with the channels of a learned variance after its own."""
    wave = torch.sin(t.float() / 200).reshape(-1, *[1] * (x.ndim - 1))
    output = 0.6 * torch.tanh(0.5 * x) + 0.3 * wave
    return torch.cat([output, 9 * output], dim=1)


def farthest(config: dict, steps: int, shape: tuple[int, ...]) -> float:
    """The largest distance to diffusers' states, over their size where that is above 1."""
    noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(3))
    times: list[torch.Tensor] = []

    def recorded(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        times.append(t.clone())
        return model(x, t)

    ours = [x.clone() for x in denoise(recorded, deterministic_loop(config, steps), noise)]
    theirs = list(diffusers_states(model, diffusers_scheduler(config, steps), noise))
    assert len(ours) == len(theirs)
    for mine, (t, _) in zip(times, theirs, strict=True):
        assert mine.dtype == t.dtype and mine.shape == (2,)
        torch.testing.assert_close(mine[0], t)
    errors = [
        float((a - b).abs().max()) / max(1.0, float(b.abs().max()))
        for a, (_, b) in zip(ours, theirs, strict=True)
    ]
    return max(errors)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(["DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "LCMScheduler"]),
    schedule=st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]),
    spacing=st.sampled_from(["leading", "trailing", "linspace"]),
    prediction=st.sampled_from(["epsilon", "v_prediction", "sample"]),
    total=st.integers(50, 1200),
    steps=st.integers(1, 60),
)
def test_data_and_figures_are_made_as_by_diffusers_ddim(
    name, schedule, spacing, prediction, total, steps
) -> None:
    config = {
        "_class_name": name, "beta_schedule": schedule, "timestep_spacing": spacing,
        "prediction_type": prediction, "num_train_timesteps": total,
    }  # fmt: skip
    assert farthest(config, steps, (1, 4, 4)) < 1e-5


@pytest.mark.parametrize("steps", [1, 4, 28])
@pytest.mark.parametrize(
    ("config", "shape"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, (4, 8, 8)),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, (4, 8, 8)),
        ({"_class_name": "FlowMatchHeunDiscreteScheduler", "shift": 3.0}, (4, 8, 8)),
        (FLUX, (64, 4)),
        (FLUX, (4, 16, 16)),
        (FLUX, (4, 3, 16, 16)),
        (FLUX | {"stochastic_sampling": True}, (64, 4)),
        (
            {
                "_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True,
                "prediction_type": "flow_prediction", "flow_shift": 3.0,
            },
            (4, 8, 8),
        ),
    ],
)  # fmt: skip
def test_flows_are_followed_as_by_diffusers_euler(config, shape, steps) -> None:
    assert farthest(config, steps, shape) < 1e-5


def test_a_threshold_is_the_same_in_torch() -> None:
    config = {
        "_class_name": "DDPMScheduler", "thresholding": True, "sample_max_value": 1.5,
        "prediction_type": "sample",
    }  # fmt: skip
    assert farthest(config, 5, (3, 8, 8)) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_goes_the_same_way_as_an_array(name) -> None:
    """Every sampler, bit by bit: one loop serves engines and torch models."""
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "stochastic_sampling": True}
    config = flow if name.startswith("flow") else {"clip_sample": True}
    start = np.random.default_rng(0).standard_normal((2, 3, 4, 4), dtype=np.float32)
    ends = []
    for make in (np.array, torch.tensor):
        sampler, draws = scheduler(name, config, 7), np.random.default_rng(1)

        def call(x, _t):
            return x * 0.3

        def draw(noise, draws=draws, make=make):
            noise[...] = make(draws.standard_normal(noise.shape, dtype=np.float32))

        for x in denoising.denoise(call, sampler, make(start), draw):
            end = np.asarray(x)
        ends.append(end)
    np.testing.assert_array_equal(*ends)


def test_the_noise_that_is_given_is_left_alone() -> None:
    noise = torch.randn(1, 1, 4, 4)
    before = noise.clone()
    list(denoise(model, deterministic_loop({"_class_name": "DDIMScheduler"}, 3), noise))
    assert torch.equal(noise, before)


def test_channels_last_stays() -> None:
    noise = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    seen = []

    def call(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(x.is_contiguous(memory_format=torch.channels_last))
        return model(x, t)

    list(denoise(call, deterministic_loop({"_class_name": "DDIMScheduler"}, 3), noise))
    assert all(seen)


def test_figures_name_the_loop() -> None:
    assert str(deterministic_loop({"_class_name": "DDPMScheduler"}, 3).info.loop) == "ddim:3:1"
    assert str(deterministic_loop(FLUX, 3).info.loop) == "flow-euler:3:1"
