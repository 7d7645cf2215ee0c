"""The steps of a student's loop, against diffusers' own schedulers and the published target."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from diffc.data.student_loops import student_loop
from diffc.distill.loop.steps import loop_steps, sampler_settings, student_scheduler
from diffc.errors import RequestError
from diffc_runtime.loop import Loop

DDPM = {**DDPMScheduler().config, "_class_name": "DDPMScheduler"}
FLOW = {**FlowMatchEulerDiscreteScheduler(shift=3.0).config}
FLOW["_class_name"] = "FlowMatchEulerDiscreteScheduler"
SOLVER_OF_A_FLOW = {
    "_class_name": "UniPCMultistepScheduler",
    "use_flow_sigmas": True,
    "prediction_type": "flow_prediction",
    "flow_shift": 3.0,
}


def steps_of(text: str, config):
    loop = student_loop(Loop.parse(text), config)
    scheduler = student_scheduler(config, loop.spacing)
    return loop_steps(loop, sampler_settings(scheduler, (1, 8, 8))), scheduler


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2", "sigmoid"])
def test_the_steps_are_those_of_diffusers_ddim(n: int, spacing: str, schedule: str) -> None:
    config = {**DDPM, "beta_schedule": schedule}
    steps, scheduler = steps_of(f"ddim:{n}@{spacing}", config)
    theirs = DDIMScheduler.from_config(scheduler)
    theirs.set_timesteps(n)
    assert list(steps.times) == theirs.timesteps.tolist()
    generator = torch.Generator().manual_seed(n)
    for i, t in enumerate(theirs.timesteps):
        x, v = torch.randn(2, 1, 3, 3, generator=generator).double()
        ours = steps.keep[i] * x + steps.gain[i] * v
        torch.testing.assert_close(ours, theirs.step(v, t, x).prev_sample, rtol=1e-5, atol=1e-5)


def test_one_call_begins_at_the_last_timestep() -> None:
    assert steps_of("ddim:1", DDPM)[0].times == (999,)
    assert steps_of("own:2", DDPM)[0].times == (999, 499)


def test_the_target_is_the_published_one() -> None:
    """Salimans & Ho 2022, algorithm 2, by the cumulative product alone."""
    steps, _ = steps_of("ddim:4", DDPM)
    bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    x, y = np.random.default_rng(0).standard_normal((2, 5))
    for i, (t, u) in enumerate(zip((999, 749, 499, 249), (749, 499, 249, None), strict=True)):
        a, s = bar[t] ** 0.5, (1 - bar[t]) ** 0.5
        a_, s_ = (1.0, 0.0) if u is None else (bar[u] ** 0.5, (1 - bar[u]) ** 0.5)
        clean = (y - s_ / s * x) / (a_ - s_ / s * a)
        ours = (y - steps.keep[i] * x) / steps.gain[i]
        assert ours == pytest.approx((a * x - clean) / s, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("config", [FLOW, SOLVER_OF_A_FLOW], ids=["flow", "solver"])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_steps_along_a_flow_are_diffusers_eulers(config, n: int) -> None:
    steps, scheduler = steps_of(f"flow-euler:{n}", config)
    theirs = FlowMatchEulerDiscreteScheduler.from_config(scheduler)
    theirs.set_timesteps(n)
    assert steps.times == pytest.approx(theirs.timesteps.tolist())
    assert steps.keep == pytest.approx([1.0] * n)
    assert steps.gain == pytest.approx(theirs.sigmas.diff().tolist(), abs=1e-6)


def test_a_student_predicts_v_or_what_a_better_one_predicts() -> None:
    kinds = {"epsilon": "v_prediction", "v_prediction": "v_prediction", "sample": "sample"}
    for dense, student in kinds.items():
        assert student_scheduler({**DDPM, "prediction_type": dense})["prediction_type"] == student
    assert "prediction_type" not in student_scheduler(FLOW)


@pytest.mark.parametrize(
    ("text", "config", "words"),
    [
        ("dpm++:8", DDPM, "one output of the model alone"),
        ("ddpm:8", DDPM, "one output of the model alone"),
        ("ddim:8", FLOW, "one output of the model alone"),
        ("ddim", DDPM, "without a number of steps"),
        ("ddim:1001", DDPM, "more steps than the model has timesteps"),
    ],
)
def test_a_loop_that_no_student_can_learn(text: str, config, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        student_loop(Loop.parse(text), config)


def test_a_students_loop_has_no_guidance_left() -> None:
    assert str(student_loop(Loop.parse("ddim:4:7.5"), DDPM)) == "ddim:4:1@trailing"
