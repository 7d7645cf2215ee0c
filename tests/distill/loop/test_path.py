"""The dense model's way: it visits what the loops visit, and ends where the equation ends."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from diffc.distill.loop.path import dense_path
from diffc.distill.loop.steps import sampler_settings
from diffc_runtime.denoising import denoise

DDPM = {**DDPMScheduler(clip_sample=False).config, "_class_name": "DDPMScheduler"}
FLOW = {**FlowMatchEulerDiscreteScheduler().config}
FLOW["_class_name"] = "FlowMatchEulerDiscreteScheduler"
BETAS, SIGMAS = (sampler_settings(config, (1, 4, 4)) for config in (DDPM, FLOW))


def epsilon(x, t):
    """Of data that are normal with a deviation of a half."""
    bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[int(t)]
    return x * (1 - bar) ** 0.5 / (1 - bar + bar / 4)


def velocity(x, t):
    """Of the same data along a flow: the mean of noise - x_0 at x."""
    s = float(t) / 1000
    variance = s * s + (1 - s) ** 2 / 4
    return x * (s - (1 - s) / 4) / variance


def ends(path, call) -> list[torch.Tensor]:
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)
    states = [x.clone() for x in denoise(call, path.solver(), x)]
    return [states[i - 1] for i in path.kept]


def test_it_is_trailing_dpm_where_the_loops_are_trailing() -> None:
    path = dense_path([(999,), (999, 499), (999, 749, 499, 249)], BETAS, 20)
    theirs = DPMSolverMultistepScheduler.from_config(DDPM, timestep_spacing="trailing")
    theirs.set_timesteps(20)
    assert list(path.times) == theirs.timesteps.tolist()
    assert path.visited == (749, 499, 249) and path.kept == [5, 10, 15, 20]
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)
    for t in theirs.timesteps:
        x = theirs.step(epsilon(x, t), t, x).prev_sample
    torch.testing.assert_close(ends(path, epsilon)[-1], x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "loops", [[(875.0, 750.0, 375.0, 0.0)], [(999.0, 666.0, 332.0), (999.0, 499.0)], []]
)
def test_it_visits_whatever_the_loops_visit(loops) -> None:
    path = dense_path(loops, BETAS, 20)
    assert {t for times in loops for t in times[1:]} == set(path.visited)
    assert path.times[0] == 999 and list(path.times) == sorted(set(path.times), reverse=True)
    assert 18 <= len(path.times) <= 23
    assert [path.times[i] for i in path.kept[:-1]] == list(path.visited)


def test_more_steps_than_timesteps_visit_each_once() -> None:
    path = dense_path([(999.0, 2.0, 1.0)], BETAS, 5000)
    assert list(path.times) == list(range(999, -1, -1))


@pytest.mark.parametrize(("steps", "error"), [(20, 0.02), (80, 0.002)])
def test_along_a_flow_it_ends_where_the_equation_ends(steps: int, error: float) -> None:
    """Normal data: the flow scales noise by the deviation at each level. The error is of second
    order: four times the steps leave a tenth of it at most."""
    path = dense_path([(1000.0, 750.0, 250.0)], SIGMAS, steps)
    at_three_quarters, at_one_quarter, end = ends(path, velocity)
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)
    for state, s in ((at_three_quarters, 0.75), (at_one_quarter, 0.25), (end, 0.0)):
        scale = (s * s + (1 - s) ** 2 / 4) ** 0.5
        torch.testing.assert_close(state, x * scale, rtol=error, atol=0.0)


@pytest.mark.parametrize(("steps", "error"), [(20, 0.05), (80, 0.005)])
def test_of_a_beta_schedule_it_ends_where_the_equation_ends(steps: int, error: float) -> None:
    path = dense_path([(999.0, 499.0)], BETAS, steps)
    x = torch.linspace(-2, 2, 5, dtype=torch.float64)
    torch.testing.assert_close(ends(path, epsilon)[-1], x / 2, rtol=error, atol=0.0)
