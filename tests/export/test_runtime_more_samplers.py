"""The samplers beside DDPM, DDIM and Euler against diffusers' own, over whole trajectories."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from diffc_runtime.errors import BadRequest
from diffc_runtime.schedulers import NAMES, scheduler

ORACLES = {
    "euler-ancestral": (EulerAncestralDiscreteScheduler, {}),
    "heun": (HeunDiscreteScheduler, {}),
    "dpm++-karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "dpm++-exponential": (DPMSolverMultistepScheduler, {"use_exponential_sigmas": True}),
    "dpm++-sde": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": (UniPCMultistepScheduler, {}),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True}),
    "lcm": (LCMScheduler, {}),
    "flow-dpm++": (DPMSolverMultistepScheduler, {}),
}
STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def model(x: np.ndarray, t: float) -> np.ndarray:
    """A smooth stand-in for a denoiser: bounded, and different for every pixel and timestep."""
    ramp = np.linspace(-1, 1, x[0].size, dtype=np.float32).reshape(x[0].shape)
    wave = 0.3 * np.sin(ramp * 3 + np.float32(t / 200))
    return (0.6 * np.tanh(x * 0.5) + wave).astype(np.float32)


def test_exact_roots() -> None:
    """Why the oracle's noise levels come from numpy.

    A square root of numpy's is the float32 nearest to the true one. Of torch's, one in six is off
    by a unit in the last place on some processors: near pure noise, where the levels are in the
    thousands, another image comes of it, and DPM-Solver++ begins a timestep earlier where it cuts
    the timestep of its first exponential level to a whole number.
    """
    values = np.random.default_rng(0).uniform(1e-4, 1e7, 4096).astype(np.float32)
    exact = np.sqrt(values.astype(np.float64)).astype(np.float32)
    assert np.array_equal(np.sqrt(values), exact) and np.array_equal(values**0.5, exact)
    assert np.abs(torch.from_numpy(values).sqrt().numpy() - exact).max() <= np.spacing(exact).max()


def oracle_of(name: str, config: dict, steps: int):
    """diffusers' scheduler of a name, and what it takes its noise from."""
    cls, extra = ORACLES[name]
    oracle = cls.from_config({**config, **extra})
    tensor = oracle.alphas_cumprod
    oracle.alphas_cumprod = tensor.numpy()  # see test_exact_roots
    oracle.set_timesteps(steps)
    oracle.alphas_cumprod = tensor
    if hasattr(oracle, "set_begin_index"):
        oracle.set_begin_index(0)
    if name == "unipc":  # its small differences of exponentials, with more digits than float32's
        oracle.sigmas = oracle.sigmas.double()
    if name == "pndm":  # its step takes two large terms from each other
        oracle.alphas_cumprod = oracle.alphas_cumprod.double()
    return oracle


def distance(name: str, config: dict, steps: int, given: dict | None = None) -> float:
    """The largest difference over a trajectory, over the size of the state where it exceeds 1.

    Two units in the last place of the largest state are left out: float32 holds no more of a
    difference from it. given: the config of ours, where it is written otherwise.
    """
    oracle, ours = oracle_of(name, config, steps), scheduler(name, given or config, steps)
    np.testing.assert_allclose(ours.timesteps, oracle.timesteps.numpy(), rtol=2e-6)
    rng = np.random.default_rng(7)
    sigma = float(getattr(oracle, "init_noise_sigma", 1.0))
    assert ours.init_noise_sigma == pytest.approx(sigma, rel=1e-6)
    x = rng.standard_normal((2, 3, 4, 4), dtype=np.float32) * np.float32(sigma)
    theirs, worst, largest = torch.from_numpy(x.copy()), 0.0, float(np.abs(x).max())
    digits = torch.float64 if name == "pndm" else torch.float32
    for i, t in enumerate(oracle.timesteps):
        noise = rng.standard_normal(x.shape, dtype=np.float32)
        scaled = oracle.scale_model_input(theirs, t).numpy()
        output = torch.from_numpy(model(scaled, float(t))).to(digits)
        with pytest.MonkeyPatch.context() as patch:
            module = __import__(type(oracle).__module__, fromlist=["randn_tensor"])
            drawn = torch.from_numpy(noise.copy())
            patch.setattr(module, "randn_tensor", lambda *a, drawn=drawn, **k: drawn, raising=False)
            theirs = oracle.step(output, t, theirs.to(digits), return_dict=False)[0].float()
        x = ours.step(model(ours.scale_input(x, i), ours.timesteps[i]), i, x, noise=noise)
        state = theirs.numpy()
        largest = max(largest, float(np.abs(state).max()))
        error = np.abs(x - state).max() - 2 * np.spacing(np.float32(largest))
        worst = max(worst, float(error) / max(1.0, float(np.abs(state).max())))
    return worst


def test_every_sampler_has_an_oracle() -> None:
    """Here, or in test_runtime_schedulers.py."""
    assert {*NAMES} - {*ORACLES} == {"ddpm", "ddim", "euler", "dpm++", "flow-euler"}


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from([name for name in ORACLES if not name.startswith("flow")]),
    schedule=st.sampled_from(["linear", "scaled_linear"]),
    start=st.floats(5e-5, 1e-3),
    end=st.floats(5e-3, 0.03),
    total=st.integers(100, 1200),
    spacing=st.sampled_from(["leading", "trailing", "linspace"]),
    prediction=st.sampled_from(["epsilon", "v_prediction", "sample"]),
    steps=st.integers(1, 40),
)
def test_follows_diffusers_anywhere(
    name, schedule, start, end, total, spacing, prediction, steps
) -> None:
    if prediction == "sample" and name in ("euler-ancestral", "pndm"):
        prediction = "epsilon"  # these two have no such prediction
    if len(np.arange(total, 0, -total / steps)) != steps:
        return  # diffusers visits timestep -1 here
    config = {
        "num_train_timesteps": total, "beta_schedule": schedule, "beta_start": start,
        "beta_end": end, "timestep_spacing": spacing, "prediction_type": prediction,
    }  # fmt: skip
    assert distance(name, config, steps) < 1e-5


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("euler-ancestral", {"steps_offset": 1, "timestep_spacing": "leading"}),
        ("heun", {"use_karras_sigmas": True}),
        ("heun", {"use_exponential_sigmas": True}),
        ("heun", {"clip_sample": True, "clip_sample_range": 0.5}),
        ("dpm++-karras", {"final_sigmas_type": "sigma_min"}),
        ("dpm++-exponential", {"final_sigmas_type": "sigma_min"}),
        ("dpm++-sde", {"solver_type": "heun"}),
        ("dpm++-sde", {"solver_order": 1}),
        ("dpm++-sde", {"use_karras_sigmas": True, "thresholding": True, "sample_max_value": 1.5}),
        ("unipc", {"solver_order": 1}),
        ("unipc", {"solver_order": 3}),
        ("unipc", {"solver_order": 3, "final_sigmas_type": "sigma_min"}),
        ("unipc", {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}),
        ("unipc", {"use_karras_sigmas": True}),
        ("unipc", {"use_exponential_sigmas": True, "final_sigmas_type": "sigma_min"}),
        ("unipc", {"thresholding": True, "sample_max_value": 1.5}),
        (
            "unipc",
            {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0},
        ),
        ("pndm", {"set_alpha_to_one": True}),
        ("pndm", {"steps_offset": 1, "timestep_spacing": "leading"}),
        ("lcm", {"original_inference_steps": 100}),
        ("lcm", {"clip_sample": True, "clip_sample_range": 0.4, "timestep_scaling": 5.0}),
        ("lcm", {"thresholding": True, "sample_max_value": 1.5}),
    ],
)
def test_follows_diffusers_in_other_settings(name, extra) -> None:
    for steps in (3, 13, 25):
        assert distance(name, {**STABLE, **extra}, steps) < 1e-5, (steps, extra)


@pytest.mark.parametrize("steps", [4, 5, 20, 50])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_pndm_begins_with_runge_kutta_where_the_config_says_so(
    monkeypatch, steps, prediction
) -> None:
    monkeypatch.setitem(ORACLES, "pndm", (PNDMScheduler, {"skip_prk_steps": False}))
    config = {**STABLE, "prediction_type": prediction, "skip_prk_steps": False}
    assert distance("pndm", config, steps) < 1e-5


@pytest.mark.parametrize("steps", [1, 2, 9, 28])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_dpm_follows_diffusers(steps, shift) -> None:
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}
    ours = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": shift}
    assert distance("flow-dpm++", flow, steps, given=ours) < 1e-5
    assert distance("flow-dpm++", flow, steps) < 1e-5


def test_flow_dpm_takes_the_shift_of_the_images_size() -> None:
    flow = {
        "use_flow_sigmas": True, "prediction_type": "flow_prediction",
        "flow_shift": float(np.exp(0.8)),
    }  # fmt: skip
    ours = {
        "_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True, "mu": 0.8,
    }  # fmt: skip
    assert distance("flow-dpm++", flow, 8, given=ours) < 1e-5
    with pytest.raises(BadRequest, match="put mu in its config"):
        scheduler("flow-dpm++", {**ours, "mu": None, "base_shift": None}, 8)


def test_heun_calls_the_model_twice_a_step_but_for_the_last() -> None:
    assert [len(scheduler("heun", STABLE, steps)) for steps in (1, 2, 10)] == [1, 3, 19]


@pytest.mark.parametrize(
    ("name", "config", "says"),
    [
        ("euler-ancestral", {"prediction_type": "sample"}, "has no prediction_type 'sample'"),
        ("pndm", {"prediction_type": "sample"}, "has no prediction_type 'sample'"),
        ("pndm", {"skip_prk_steps": False}, "at least 4 steps"),
        ("lcm", {"original_inference_steps": 2}, "2 steps at most"),
        ("unipc", {"predict_x0": False}, "has no predict_x0 False"),
        ("unipc", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "use flow-euler or flow-dpm"),
        ("flow-dpm++", {}, "needs a flow-matching model; use ddpm, ddim, euler"),
    ],
)
def test_refuses_what_it_does_not_have(name, config, says) -> None:
    with pytest.raises(BadRequest, match=says):
        scheduler(name, config, 3)
